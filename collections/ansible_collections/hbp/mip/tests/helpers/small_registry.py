# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real registry (Debian's docker-registry) with small images, pushed over its HTTP API."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import socket
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

from ansible_collections.hbp.mip.plugins.module_utils._lab_registry import Registry

OCI = "application/vnd.oci.image."


def digest_of(data: bytes) -> str:
    """Return the digest of some bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


class SmallRegistry:
    """A registry on an address of this host."""

    def __init__(self, folder: Path, address: str = "127.0.0.1") -> None:
        with socket.socket() as probe:
            probe.bind((address, 0))
            port = probe.getsockname()[1]
        self.process = Registry(str(folder), address, port)
        self.process.ensure(30, False)
        self.name = f"{address}:{port}"
        self.storage = folder / "storage"

    def stop(self) -> None:
        """Stop it; its files stay."""
        self.process.stop(10, False)

    def start(self) -> None:
        """Start it again."""
        self.process.ensure(30, False)

    def _send(self, method: str, url: str, data: bytes = b"", kind: str = "application/octet-stream") -> Any:
        request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": kind})
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.headers

    def push_blob(self, repository: str, data: bytes) -> dict[str, Any]:
        """Push a blob; return its digest and size."""
        place = self._send("POST", f"http://{self.name}/v2/{repository}/blobs/uploads/")["Location"]
        place = place if place.startswith("http") else f"http://{self.name}{place}"
        self._send("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest_of(data)}", data)
        return {"digest": digest_of(data), "size": len(data)}

    def push_manifest(self, repository: str, tag: str, document: dict[str, Any]) -> str:
        """Push a manifest or an index; return its digest."""
        data = json.dumps(document).encode()
        self._send("PUT", f"http://{self.name}/v2/{repository}/manifests/{tag}", data, document["mediaType"])
        return digest_of(data)

    def push(self, repository: str, tag: str, content: bytes, architecture: str = "amd64") -> dict[str, Any]:
        """Push an image of one file; return digests of manifest and configuration, and the size of all."""
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w") as archive:
            info = tarfile.TarInfo("content")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Labels": {"test": tag}},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(plain.getvalue())]},
        }
        layer = {"mediaType": OCI + "layer.v1.tar+gzip", **self.push_blob(repository, gzip.compress(plain.getvalue(), mtime=0))}
        described = {"mediaType": OCI + "config.v1+json", **self.push_blob(repository, json.dumps(config).encode())}
        manifest = {"schemaVersion": 2, "mediaType": OCI + "manifest.v1+json", "config": described, "layers": [layer]}
        digest = self.push_manifest(repository, tag, manifest)
        size = layer["size"] + described["size"] + len(json.dumps(manifest).encode())
        return {"digest": digest, "id": described["digest"], "size": size, "manifest_size": len(json.dumps(manifest).encode())}

    def push_index(self, repository: str, tag: str, parts: dict[str, dict[str, Any]]) -> str:
        """Push an index of images by architecture; return its digest."""
        listed = [
            {
                "mediaType": OCI + "manifest.v1+json",
                "digest": part["digest"],
                "size": part["manifest_size"],
                "platform": {"os": "linux", "architecture": architecture},
            }
            for architecture, part in parts.items()
        ]
        return self.push_manifest(repository, tag, {"schemaVersion": 2, "mediaType": OCI + "index.v1+json", "manifests": listed})

    def forget(self, repository: str, digest: str) -> None:
        """Delete an image, as a registry's clean-up does."""
        self._send("DELETE", f"http://{self.name}/v2/{repository}/manifests/{digest}")
