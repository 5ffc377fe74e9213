#!/usr/bin/python

# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_images
short_description: Build a lab's container images and push them to its registry
version_added: 0.1.0
description:
  - Builds container images from Debian packages and files, without a container engine and without any public image.
  - All images share one base layer. What was built is kept in a cache by its content, for all labs of the host.
  - Only images that the registry does not have are pushed. The registry must speak plain HTTP, as that of M(hbp.mip.lab_registry) does.
  - Needs C(mmdebstrap), C(skopeo), C(apt-get) and C(debian-archive-keyring).
author:
  - The hbp.mip authors (@HBPMedical)
attributes:
  check_mode:
    support: full
    description: Asks the registry, builds and pushes nothing.
  diff_mode:
    support: full
    description: Shows the digests in the registry before and after.
  idempotent:
    support: full
    description: Nothing is built that is in the cache, nothing is pushed that is in the registry.
options:
  cache:
    description: Folder of the cache. It is an OCI image layout.
    type: path
    default: /var/cache/mip-lab/images
  registry:
    description: Where images are pushed, C(address:port). Without it they are only built.
    type: str
    default: ""
  base:
    description: The layer that is below all images.
    type: dict
    default: {}
    suboptions:
      suite:
        description: Debian's release.
        type: str
        default: bookworm
      packages:
        description: Packages, which are extracted together with all that they depend on. No package's scripts run.
        type: list
        elements: str
        default: [base-files, coreutils, dash, hostname, python3]
  mirrors:
    description: Debian mirrors, tried in this order. The archive has suites that have left the others.
    type: list
    elements: str
    default: ["http://deb.debian.org/debian", "http://archive.debian.org/debian"]
  refresh:
    description: Build the base anew, with Debian's current packages, even if the cache has it.
    type: bool
    default: false
  images:
    description: The images.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name in the registry.
        type: str
        required: true
      tag:
        description: Tag.
        type: str
        required: true
      packages:
        description: Single files out of Debian packages, each of which becomes a layer.
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description: Name of the package.
            type: str
            required: true
          version:
            description: Upstream version that is expected.
            type: str
            required: true
          suite:
            description: Debian's release that has it.
            type: str
            required: true
          paths:
            description: Files to take, without a leading slash.
            type: list
            elements: str
            required: true
      files:
        description: Files and folders of this host.
        type: list
        elements: dict
        default: []
        suboptions:
          source:
            description: File, or folder that is taken with everything in it.
            type: path
            required: true
          destination:
            description: Path in the image.
            type: str
            required: true
          mode:
            description: Mode of a single file. In a folder it follows from what is executable.
            type: str
            default: "0644"
      directories:
        description: Directories to make.
        type: list
        elements: dict
        default: []
        suboptions:
          path:
            description: Path in the image.
            type: str
            required: true
          mode:
            description: Mode.
            type: str
            default: "0755"
          uid:
            description: Owner.
            type: int
            default: 0
          gid:
            description: Group.
            type: int
            default: 0
      users:
        description: Users to make, besides root and nobody.
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description: Name of the user and of the group.
            type: str
            required: true
          uid:
            description: Number of the user.
            type: int
            required: true
          gid:
            description: Number of the group.
            type: int
            required: true
          home:
            description: Home directory, which is not made.
            type: str
            default: /nonexistent
      env:
        description: Environment.
        type: dict
        default: {}
      entrypoint:
        description: Program and arguments.
        type: list
        elements: str
        default: []
      user:
        description: User that the program runs as, C(name) or C(uid:gid). Root if empty.
        type: str
        default: ""
      workdir:
        description: Directory that the program runs in.
        type: str
        default: /
      volumes:
        description: Directories that are meant for volumes.
        type: list
        elements: str
        default: []
      ports:
        description: TCP ports that the program listens on.
        type: list
        elements: int
        default: []
      labels:
        description: Labels.
        type: dict
        default: {}
"""

EXAMPLES = r"""
- name: Build an image and push it
  hbp.mip.lab_images:
    registry: 10.77.1.1:5000
    images:
      - name: hello
        tag: "1.0"
        files:
          - {source: /srv/hello.py, destination: /opt/hello.py}
        entrypoint: [python3, /opt/hello.py]
  become: true
"""

RETURN = r"""
images:
  description: The images, in the order given.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name in the registry.
      type: str
    tag:
      description: Tag.
      type: str
    reference:
      description: What an engine pulls, C(registry/name:tag).
      type: str
    digest:
      description: Digest of the manifest; empty in check mode if the image is not built yet.
      type: str
    size:
      description: Compressed size of its layers in bytes.
      type: int
    built:
      description: Whether it was built now, or would be.
      type: bool
    pushed:
      description: Whether it was pushed now, or would be.
      type: bool
seconds:
  description: How long building and pushing took.
  returned: always
  type: dict
  contains:
    build:
      description: Seconds for building.
      type: float
    push:
      description: Seconds for pushing.
      type: float
"""

import os
import re
import shutil
import tempfile
import time
from typing import Any, Dict, List, Optional, Sequence

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils._lab_oci import (
    ImageError,
    Layer,
    Member,
    Store,
    base_members,
    content_key,
    file_members,
    native_architecture,
    package_members,
    push,
    remote_digest,
)

BASE_PACKAGES = ["base-files", "coreutils", "dash", "hostname", "python3"]
MIRRORS = ["http://deb.debian.org/debian", "http://archive.debian.org/debian"]


class Builder:
    """Builds images layer by layer, each layer once."""

    def __init__(self, store: Store, params: Dict[str, Any], check_mode: bool) -> None:
        """Remember what to build and where."""
        self.store = store
        self.check_mode = check_mode
        self.mirrors: List[str] = params["mirrors"]
        self.base: Dict[str, Any] = params["base"]
        self.refresh: bool = params["refresh"]
        self.architecture = native_architecture()

    def _layer(self, description: Any, make: Any, refresh: bool = False) -> Optional[Layer]:
        """Return a layer that packages are made into, or None in check mode if it would have to be made."""
        key = content_key({**description, "architecture": self.architecture})
        layer = None if refresh else self.store.known_layer(key)
        if layer is not None or self.check_mode:
            return layer
        if refresh:
            self.store.forget_layer(key)
        folder = tempfile.mkdtemp(prefix="new-", dir=self.store.root)
        try:
            return self.store.layer(key, lambda: make(folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def base_layer(self) -> Optional[Layer]:
        """Return the base layer. Raises ImageError."""
        suite, packages = self.base["suite"], sorted(self.base["packages"])
        layer = self._layer(
            {"base": suite, "packages": packages},
            lambda folder: base_members(suite, packages, self.mirrors, self.architecture, folder),
            self.refresh,
        )
        self.refresh = False
        return layer

    def package_layer(self, item: Dict[str, Any]) -> Optional[Layer]:
        """Return the layer with files of one package. Raises ImageError."""
        return self._layer(
            {"package": item},
            lambda folder: package_members(
                item["name"], item["version"], item["suite"], item["paths"], self.mirrors, self.architecture, folder
            ),
        )

    def file_layer(self, members: Sequence[Member]) -> Optional[Layer]:
        """Return the layer with an image's own files. Raises ImageError."""
        key = content_key("files", members)
        if self.check_mode:
            return self.store.known_layer(key)
        return self.store.layer(key, lambda: members)

    def layers(self, image: Dict[str, Any]) -> List[Optional[Layer]]:
        """Return an image's layers, the base first. Raises ImageError."""
        found = [self.base_layer()] + [self.package_layer(item) for item in image["packages"]]
        members = file_members(image["files"], image["directories"], image["users"])
        return found + ([self.file_layer(members)] if members else [])


def image_config(image: Dict[str, Any]) -> Dict[str, Any]:
    """Return the part of an image's configuration that engines read."""
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
    environment.update({key: str(value) for key, value in image["env"].items()})
    config: Dict[str, Any] = {
        "Env": [f"{key}={value}" for key, value in environment.items()],
        "Entrypoint": image["entrypoint"],
        "WorkingDir": image["workdir"],
        "Labels": {key: str(value) for key, value in image["labels"].items()},
        "StopSignal": "SIGTERM",
    }
    if image["user"]:
        config["User"] = image["user"]
    if image["volumes"]:
        config["Volumes"] = {path: {} for path in image["volumes"]}
    if image["ports"]:
        config["ExposedPorts"] = {f"{port}/tcp": {} for port in image["ports"]}
    return config


def validate(images: Sequence[Dict[str, Any]]) -> None:
    """Raise ImageError when names, tags or modes cannot work."""
    seen = set()
    for image in images:
        name, tag = image["name"], image["tag"]
        if not re.fullmatch(r"[a-z0-9]+([._-][a-z0-9]+)*(/[a-z0-9]+([._-][a-z0-9]+)*)*", name) or not re.fullmatch(r"\w[\w.-]{0,127}", tag):
            raise ImageError(f"'{name}:{tag}' is not a valid name of an image: lower-case letters, digits, '.', '_' and '-'")
        if (name, tag) in seen:
            raise ImageError(f"image {name}:{tag} is listed twice")
        seen.add((name, tag))
        for item in list(image["files"]) + list(image["directories"]):
            if not re.fullmatch(r"[0-7]{3,4}", item["mode"]):
                raise ImageError(f"image {name}:{tag}: mode '{item['mode']}' is not octal, such as \"0755\"")


def work(store: Store, params: Dict[str, Any], check_mode: bool) -> Dict[str, Any]:
    """Build and push. Raises ImageError."""
    registry, images = params["registry"], params["images"]
    validate(images)
    begin = time.monotonic()
    builder = Builder(store, params, check_mode)
    results, before = [], {}
    for image in images:
        name, tag = image["name"], image["tag"]
        known = store.known_image(name, tag)
        layers = builder.layers(image)
        complete = [layer for layer in layers if layer is not None]
        digest = ""
        if len(complete) == len(layers):
            digest = store.image(name, tag, builder.architecture, image_config(image), complete, dry=check_mode)
        results.append(
            {
                "name": name,
                "tag": tag,
                "reference": f"{registry}/{name}:{tag}" if registry else f"{name}:{tag}",
                "digest": digest,
                "size": sum(layer.size for layer in complete),
                "built": known is None or known != digest,
                "pushed": False,
            }
        )
    if not check_mode:
        store.publish()
    built = time.monotonic()
    for result in results:
        if not registry:
            continue
        # In check mode the registry itself may still have to be started.
        try:
            found = remote_digest(registry, result["name"], result["tag"])
        except ImageError:
            if not check_mode:
                raise
            found = None
        before[result["reference"]] = found
        result["pushed"] = not found or found != result["digest"]
        if result["pushed"] and not check_mode:
            push(store, registry, result["name"], result["tag"], result["digest"])
    after = {result["reference"]: result["digest"] or "(to be built)" for result in results}
    return {
        "changed": any(result["built"] or result["pushed"] for result in results),
        "images": results,
        "seconds": {"build": round(built - begin, 2), "push": round(time.monotonic() - built, 2)},
        "diff": {"before": _listed(before), "after": _listed(after)} if registry else {"before": "", "after": ""},
    }


def _listed(digests: Dict[str, Optional[str]]) -> str:
    return "".join(f"{name}: {digest or 'absent'}\n" for name, digest in sorted(digests.items()))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "cache": {"type": "path", "default": "/var/cache/mip-lab/images"},
            "registry": {"type": "str", "default": ""},
            "base": {
                "type": "dict",
                "default": {},
                "options": {
                    "suite": {"type": "str", "default": "bookworm"},
                    "packages": {"type": "list", "elements": "str", "default": BASE_PACKAGES},
                },
            },
            "mirrors": {"type": "list", "elements": "str", "default": MIRRORS},
            "refresh": {"type": "bool", "default": False},
            "images": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "tag": {"type": "str", "required": True},
                    "packages": {
                        "type": "list",
                        "elements": "dict",
                        "default": [],
                        "options": {
                            "name": {"type": "str", "required": True},
                            "version": {"type": "str", "required": True},
                            "suite": {"type": "str", "required": True},
                            "paths": {"type": "list", "elements": "str", "required": True},
                        },
                    },
                    "files": {
                        "type": "list",
                        "elements": "dict",
                        "default": [],
                        "options": {
                            "source": {"type": "path", "required": True},
                            "destination": {"type": "str", "required": True},
                            "mode": {"type": "str", "default": "0644"},
                        },
                    },
                    "directories": {
                        "type": "list",
                        "elements": "dict",
                        "default": [],
                        "options": {
                            "path": {"type": "str", "required": True},
                            "mode": {"type": "str", "default": "0755"},
                            "uid": {"type": "int", "default": 0},
                            "gid": {"type": "int", "default": 0},
                        },
                    },
                    "users": {
                        "type": "list",
                        "elements": "dict",
                        "default": [],
                        "options": {
                            "name": {"type": "str", "required": True},
                            "uid": {"type": "int", "required": True},
                            "gid": {"type": "int", "required": True},
                            "home": {"type": "str", "default": "/nonexistent"},
                        },
                    },
                    "env": {"type": "dict", "default": {}},
                    "entrypoint": {"type": "list", "elements": "str", "default": []},
                    "user": {"type": "str", "default": ""},
                    "workdir": {"type": "str", "default": "/"},
                    "volumes": {"type": "list", "elements": "str", "default": []},
                    "ports": {"type": "list", "elements": "int", "default": []},
                    "labels": {"type": "dict", "default": {}},
                },
            },
        },
        supports_check_mode=True,
    )
    params = dict(module.params)
    # A default of {} does not bring the suboptions' own defaults.
    params["base"] = {"suite": "bookworm", "packages": BASE_PACKAGES, **(params["base"] or {})}
    store = Store(params["cache"])
    try:
        if module.check_mode and not os.path.isdir(store.root):
            result = work(store, params, True)
        else:
            with store.locked():
                result = work(store, params, module.check_mode)
    except ImageError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"images in {store.root}: {error}")
    diff = result.pop("diff")
    module.exit_json(**result, **({"diff": diff} if module._diff else {}))


if __name__ == "__main__":
    main()
