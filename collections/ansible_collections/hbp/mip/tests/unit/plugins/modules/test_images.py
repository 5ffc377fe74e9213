# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images looked up in a real registry, saved to bundles and checked with the standard tools that a hospital has."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _bundle, _registry
from ansible_collections.hbp.mip.tests.helpers.small_registry import SmallRegistry

from .module_process import result_of, start_module

pytestmark = pytest.mark.skipif(
    shutil.which("docker-registry") is None, reason="docker-registry is not installed (apt-get install docker-registry)"
)


def run(name: str, arguments: dict[str, Any], *, check: bool = False) -> dict[str, Any]:
    return result_of(start_module(name, arguments, check=check), timeout=200)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallRegistry]:
    # A name that is not taken for an insecure registry by itself.
    made = SmallRegistry(tmp_path_factory.mktemp("registry"), f"127.{os.getpid() % 250 + 1}.{os.getpid() // 250 % 250}.7")
    yield made
    made.stop()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "mipfed", "-f", str(path)], check=True)
    return path


# --- references


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("debian", ("docker.io", "library/debian", "latest", "")),
        ("hbpmip/exareme:24.5.1", ("docker.io", "hbpmip/exareme", "24.5.1", "")),
        ("10.77.1.1:5000/exareme:1.0", ("10.77.1.1:5000", "exareme", "1.0", "")),
        ("ghcr.io/a/b@sha256:" + "0" * 64, ("ghcr.io", "a/b", "", "sha256:" + "0" * 64)),
        ("ghcr.io/a/b:2@sha256:" + "0" * 64, ("ghcr.io", "a/b", "2", "sha256:" + "0" * 64)),
    ],
)
def test_references(text: str, parts: tuple[str, ...]) -> None:
    assert tuple(_registry.parse(text)) == parts


@pytest.mark.parametrize("text", ["a b:1", "registry.example/UPPER:1", "x@sha256:12", "x:bad tag", "registry.example/a:"])
def test_no_references(text: str) -> None:
    if text.endswith(":"):
        assert _registry.parse(text).tag == "latest"
        return
    with pytest.raises(_registry.RegistryError) as caught:
        _registry.parse(text)
    assert caught.value.code == "reference"


def test_the_name_of_a_loaded_image_has_its_digest() -> None:
    digest = "sha256:" + "0123456789ab" + "f" * 52
    assert _registry.loaded_name("10.77.1.1:5000/exareme:1.0", digest) == "localhost/mip/exareme:1.0-0123456789ab"
    assert _registry.loaded_name("hbpmip/exareme:24.5.1", digest) == "localhost/mip/hbpmip/exareme:24.5.1-0123456789ab"
    assert _registry.loaded_name("consul:1.8", digest) == "localhost/mip/consul:1.8-0123456789ab"


# --- image_info


def test_digest_size_and_platform(registry: SmallRegistry) -> None:
    one = registry.push("info/one", "1.0", b"one")
    answer = run("image_info", {"images": [f"{registry.name}/info/one:1.0"], "insecure_registries": [registry.name]})["images"][0]
    assert {key: answer[key] for key in ("digest", "manifest", "id", "size", "error")} == {
        "digest": one["digest"],
        "manifest": one["digest"],
        "id": one["id"],
        "size": one["size"],
        "error": "",
    }
    assert answer["platforms"] == ["linux/amd64"]
    by_digest = f"{registry.name}/info/one@{one['digest']}"
    assert run("image_info", {"images": [by_digest], "insecure_registries": [registry.name]})["images"][0]["digest"] == one["digest"]


def test_an_index_gives_its_own_digest_and_the_manifest_of_the_platform(registry: SmallRegistry) -> None:
    parts = {name: registry.push("info/many", f"part-{name}", name.encode(), name) for name in ("amd64", "arm64")}
    index = registry.push_index("info/many", "1.0", parts)
    asked = {"images": [f"{registry.name}/info/many:1.0"], "insecure_registries": [registry.name]}
    answer = run("image_info", asked)["images"][0]
    assert (answer["digest"], answer["manifest"]) == (index, parts["amd64"]["digest"])
    assert answer["platforms"] == ["linux/amd64", "linux/arm64"]
    other = run("image_info", {**asked, "platform": "linux/arm64"})["images"][0]
    assert (other["digest"], other["manifest"]) == (index, parts["arm64"]["digest"])
    none = run("image_info", {**asked, "platform": "linux/s390x"})["images"][0]
    assert none["code"] == "unsupported" and "only for linux/amd64, linux/arm64" in none["error"]


def test_what_cannot_be_had_is_told_apart(registry: SmallRegistry) -> None:
    images = [f"{registry.name}/no/such:1", "127.0.0.1:1/x:1", "registry.invalid/x:1", "A B"]
    codes = [entry["code"] for entry in run("image_info", {"images": images, "insecure_registries": [registry.name]})["images"]]
    assert codes == ["missing", "unreachable", "unreachable", "reference"]


def test_a_registry_without_tls_is_asked_only_when_the_inventory_says_so(registry: SmallRegistry) -> None:
    registry.push("info/plain", "1.0", b"plain")
    answer = run("image_info", {"images": [f"{registry.name}/info/plain:1.0"]})["images"][0]
    assert answer["code"] == "unreachable" and not answer["digest"]


def test_a_registry_that_gives_something_else_is_found_out(registry: SmallRegistry) -> None:
    made = registry.push("info/false", "1.0", b"true")
    hexadecimal = made["id"].removeprefix("sha256:")
    blob = registry.storage / "docker/registry/v2/blobs/sha256" / hexadecimal[:2] / hexadecimal / "data"
    blob.write_bytes(blob.read_bytes().replace(b"amd64", b"amd65"))
    answer = run("image_info", {"images": [f"{registry.name}/info/false:1.0"], "insecure_registries": [registry.name]})["images"][0]
    assert answer["code"] == "corrupt", answer


# --- bundles


def entries(registry: SmallRegistry, *names: str) -> list[dict[str, Any]]:
    images = [f"{registry.name}/{name}:1.0" for name in names]
    found = run("image_info", {"images": images, "insecure_registries": [registry.name]})["images"]
    return [{**entry, "name": entry["reference"].rpartition("/")[2].partition(":")[0]} for entry in found]


def save(
    registry: SmallRegistry, images: list[dict[str, Any]], dest: Path, key: Path, *, check: bool = False, **more: Any
) -> dict[str, Any]:
    wanted = {"federation": "fed", "images": images, "dest": str(dest), "key": str(key), "insecure_registries": [registry.name], **more}
    return run("image_save", wanted, check=check)


def test_save_check_apply_apply_check(registry: SmallRegistry, tmp_path: Path, key: Path) -> None:
    registry.push("save/engine", "1.0", b"engine")
    registry.push("save/keystore", "1.0", b"keystore")
    images = entries(registry, "save/engine", "save/keystore")
    dest = tmp_path / "bundle.tar"
    planned = save(registry, images, dest, key, check=True)
    assert planned["changed"] and not dest.exists()
    saved = save(registry, images, dest, key)
    assert saved["changed"], saved
    assert [save(registry, images, dest, key, check=flag)["changed"] for flag in (False, True)] == [False, False]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle.tar", "id_ed25519", "id_ed25519.pub"]
    images[0]["digest"], before = registry.push("save/engine", "2.0", b"another")["digest"], dest.read_bytes()
    assert save(registry, images, dest, key)["changed"] and dest.read_bytes() != before


def test_a_hospital_checks_a_bundle_with_its_own_tools(registry: SmallRegistry, tmp_path: Path, key: Path) -> None:
    registry.push("save/engine", "1.0", b"engine")
    extra = tmp_path / "mipfed.whl"
    extra.write_bytes(b"wheel")
    saved = save(registry, entries(registry, "save/engine"), tmp_path / "out.tar", key, files=[str(extra)])
    assert saved["changed"], saved
    subprocess.run(["tar", "xf", "out.tar"], cwd=tmp_path, check=True)
    bundle = tmp_path / "out"
    text = (bundle / "README.txt").read_text()
    command = next(line.strip() for line in text.splitlines() if "ssh-keygen -Y verify" in line)
    assert subprocess.run(command, shell=True, cwd=bundle, check=False, capture_output=True).returncode == 0
    for artefact in saved["artefacts"]:
        data = (bundle / artefact["file"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (artefact["size"], artefact["sha256"])
    assert {"images/engine.tar", "files/mipfed.whl"} <= {artefact["file"] for artefact in saved["artefacts"]}
    (bundle / "files/mipfed.whl").write_bytes(b"other")
    assert subprocess.run(command, shell=True, cwd=bundle, check=False, capture_output=True).returncode != 0


def test_an_image_of_a_bundle_is_what_both_stores_of_docker_take(registry: SmallRegistry, tmp_path: Path, key: Path) -> None:
    made = registry.push("save/engine", "1.0", b"engine")
    save(registry, entries(registry, "save/engine"), tmp_path / "out", key)
    with tarfile.open(tmp_path / "out/images/engine.tar") as archive:
        names = set(archive.getnames())

        def content(name: str) -> bytes:
            member = archive.extractfile(name)
            assert member is not None
            return member.read()

        listed = json.loads(content("manifest.json"))[0]
        index = json.loads(content("index.json"))["manifests"][0]
        assert index["digest"] == made["digest"] and f"blobs/sha256/{made['digest'][7:]}" in names
        assert listed["Config"] == f"blobs/sha256/{made['id'][7:]}"
        assert listed["RepoTags"] == [_registry.loaded_name(f"{registry.name}/save/engine:1.0", made["digest"])]
        for name in names:
            if name.startswith("blobs/"):
                assert hashlib.sha256(content(name)).hexdigest() == name.rpartition("/")[2]


@pytest.mark.parametrize("damage", ["image", "sums", "signature", "unsigned", "other key"])
def test_a_bundle_that_was_changed_is_refused(registry: SmallRegistry, tmp_path: Path, key: Path, damage: str) -> None:
    registry.push("save/engine", "1.0", b"engine")
    save(registry, entries(registry, "save/engine"), tmp_path / "out", key)
    folder, public = tmp_path / "out", key.with_suffix(".pub").read_text()
    assert _bundle.verify(str(folder), {"fed": public}) == "fed"
    if damage == "image":
        with (folder / "images/engine.tar").open("r+b") as file:
            file.seek(600)
            file.write(b"\0X")
    elif damage == "sums":
        (folder / _bundle.SUMS).write_text((folder / _bundle.SUMS).read_text().replace("0", "1", 1))
    elif damage == "signature":
        (folder / _bundle.SIGNATURE).write_text("-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n")
    elif damage == "unsigned":
        (folder / _bundle.SIGNATURE).unlink()
    else:
        other = tmp_path / "other"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
        public = other.with_suffix(".pub").read_text()
    with pytest.raises(_bundle.BundleError):
        _bundle.verify(str(folder), {"fed": public})


@pytest.mark.parametrize("name", ["../out", "top/../../out", "/etc/out", "top/link"])
def test_a_bundle_writes_nothing_outside_of_its_folder(tmp_path: Path, name: str) -> None:
    path, inside = tmp_path / "bad.tar", tmp_path / "inside"
    inside.mkdir()
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo(name)
        if name.endswith("link"):
            info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(info)
    with pytest.raises(_bundle.BundleError, match="no place in a bundle"):
        _bundle.unpack(str(path), str(inside))
    assert list(inside.iterdir()) == []


def test_nothing_is_left_of_a_save_that_failed(registry: SmallRegistry, tmp_path: Path, key: Path) -> None:
    made = registry.push("save/gone", "1.0", b"gone")
    images = entries(registry, "save/gone")
    registry.forget("save/gone", made["digest"])
    done = save(registry, images, tmp_path / "out.tar", key)
    assert done["failed"] and "does not have it" in done["msg"] and "Nothing was saved" in done["msg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["id_ed25519", "id_ed25519.pub"]
    full = tmp_path / "full"
    full.mkdir()
    (full / "somebody's").write_text("x")
    assert "something else in it" in save(registry, images, full, key)["msg"]
    assert "no folder" in save(registry, images, tmp_path / "no/where.tar", key)["msg"]
