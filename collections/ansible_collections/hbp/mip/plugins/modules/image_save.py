#!/usr/bin/python

# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_save
short_description: Save a federation's images to a signed bundle
version_added: 0.3.0
description:
  - Fetches images from their registries by digest and writes each as an archive that C(docker load) takes, with checksums and a signature
    that can be checked with C(sha256sum) and C(ssh-keygen). No container engine is needed.
  - A bundle that is there and complete for these digests is left as it is. It is written beside its place and then renamed.
author:
  - The hbp.mip authors (@HBPMedical)
attributes:
  check_mode:
    support: full
    description: Looks the images up and tells the sizes, fetches nothing.
  diff_mode:
    support: none
    description: There is nothing to compare.
  idempotent:
    support: full
    description: The same digests and files are not saved again.
options:
  federation:
    description: Name of the federation, under which the signature is checked.
    type: str
    required: true
  images:
    description: Entries of C(images.lock).
    type: list
    elements: dict
    required: true
  dest:
    description: Where to write it. A name that ends with C(.tar) becomes one file, any other a folder.
    type: path
    required: true
  key:
    description: Private SSH key without a passphrase to sign with; the public key is beside it.
    type: path
    required: true
  files:
    description: Further files for the bundle, such as locks, wheels and packages.
    type: list
    elements: path
    default: []
  insecure_registries:
    description: Registries that are reached without TLS, as C(host:port).
    type: list
    elements: str
    default: []
  registry_mirrors:
    description: Addresses of mirrors of Docker Hub, asked before it.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds that the registry may be silent.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: Save the images
  hbp.mip.image_save:
    federation: "{{ mip.name }}"
    images: "{{ mip.images.entries }}"
    dest: /srv/hospitals.tar
    key: "{{ inventory_dir }}/ssh/id_ed25519"
"""

RETURN = r"""
path:
  description: What was written.
  returned: success
  type: str
artefacts:
  description: Every file of the bundle.
  returned: success
  type: list
  elements: dict
  contains:
    file:
      description: Its path in the bundle.
      type: str
    size:
      description: Its size in bytes.
      type: int
    sha256:
      description: Its checksum.
      type: str
    reference:
      description: The image, for an image.
      type: str
    digest:
      description: The image's digest, for an image.
      type: str
mip_report:
  description: The same for C(mipfed).
  returned: success
  type: dict
fingerprint:
  description: Fingerprint of the key that signed it.
  returned: success
  type: str
"""

import json
import os
import shutil
import tempfile
import time
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _bundle, _registry


def artefacts(folder: str, images: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """All files of a bundle with size, checksum and, for images, reference and digest."""
    of_image = {image["file"]: {"reference": image["reference"], "digest": image["digest"]} for image in images}
    return [
        {"file": name, "size": os.path.getsize(os.path.join(folder, name)), "sha256": value, **of_image.get(name, {})}
        for name, value in sorted(_bundle.read_sums(folder).items())
    ]


class Save:
    """One bundle."""

    def __init__(self, module: AnsibleModule) -> None:
        """Read the options."""
        self.module = module
        self.options = module.params
        self.dest = os.path.abspath(self.options["dest"])
        self.federation = self.options["federation"]
        self.registries: Dict[str, _registry.Registry] = {}

    def registry(self, reference: str) -> _registry.Registry:
        """The registry of an image."""
        name = _registry.parse(reference).registry
        if name not in self.registries:
            self.registries[name] = _registry.Registry(
                name, self.options["insecure_registries"], self.options["registry_mirrors"], self.options["timeout"]
            )
        return self.registries[name]

    def wanted(self) -> List[Dict[str, Any]]:
        """What the bundle's list says of its images."""
        listed = []
        for entry in self.options["images"]:
            kept = {key: entry[key] for key in ("name", "reference", "digest") if key in entry}
            listed.append(
                {**kept, "file": "images/%s.tar" % entry["name"], "tag": _registry.loaded_name(entry["reference"], entry["digest"])}
            )
        return listed

    def there(self, public_key: str) -> List[Dict[str, Any]]:
        """The artefacts of the bundle that is there, if it is complete and has the same in it; otherwise none."""
        extra = {"files/" + os.path.basename(path): _bundle.sha256_of(path) for path in self.options["files"]}
        scratch = tempfile.mkdtemp(prefix=".mip-bundle-", dir=os.path.dirname(self.dest))
        try:
            folder = _bundle.unpack(self.dest, scratch) if self.dest.endswith(".tar") else self.dest
            known = _bundle.read_list(folder)["images"]
            if [{key: image.get(key) for key in wanted} for image, wanted in zip(known, self.wanted())] != self.wanted():
                return []
            _bundle.verify(folder, {self.federation: public_key})
            sums = _bundle.read_sums(folder)
            if len(known) != len(self.wanted()) or {name: sums[name] for name in sums if name.startswith("files/")} != extra:
                return []
            return artefacts(folder, known)
        except _bundle.BundleError:
            return []
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def write(self, public_key: str, fingerprint: str) -> List[Dict[str, Any]]:
        """Write the bundle and put it into its place; returns its artefacts."""
        parent = os.path.dirname(self.dest)
        scratch = tempfile.mkdtemp(prefix=".mip-bundle-", dir=parent)
        try:
            folder = os.path.join(scratch, "bundle")
            os.makedirs(os.path.join(folder, "images"), mode=0o755)
            listed = []
            for entry, planned in zip(self.options["images"], self.wanted()):
                name, _at, _digest = entry["reference"].partition("@")
                pinned = "%s@%s" % (name, entry["digest"])
                found = _registry.describe(self.registry(pinned), pinned, entry.get("platform") or "linux/amd64")
                path = os.path.join(folder, planned["file"])
                _bundle.write_image(self.registry(pinned), found, planned["tag"], path, scratch)
                listed.append({**found.entry(), **planned})
            if self.options["files"]:
                os.makedirs(os.path.join(folder, "files"))
            for path in self.options["files"]:
                shutil.copyfile(path, os.path.join(folder, "files", os.path.basename(path)))
            when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            document = {"schema": _bundle.SCHEMA, "federation": self.federation, "made_at": when, "images": listed}
            for name, text in (
                (_bundle.LIST, json.dumps(document, indent=1) + "\n"),
                (_bundle.SIGNERS, _bundle.signer_line(self.federation, public_key)),
                (_bundle.README, _bundle.readme(self.federation, when, fingerprint, [image["file"] for image in listed])),
            ):
                with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                    file.write(text)
            _bundle.write_sums(folder)
            _bundle.sign(folder, self.options["key"])
            _bundle.verify(folder, {self.federation: public_key})
            result = artefacts(folder, listed)
            if self.dest.endswith(".tar"):
                _bundle.pack(folder, os.path.basename(self.dest)[: -len(".tar")], self.dest)
            else:
                if os.path.isdir(self.dest):
                    os.rename(self.dest, os.path.join(scratch, "previous"))
                os.rename(folder, self.dest)
            return result
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def refused(self) -> str:
        """Why nothing can be written to the place; empty when it can."""
        parent = os.path.dirname(self.dest)
        if not os.path.isdir(parent):
            return "dest: there is no folder %s. Next: mkdir -p %s" % (parent, parent)
        if self.dest.endswith(".tar") and os.path.isdir(self.dest):
            return "dest: %s is a folder" % self.dest
        if os.path.isdir(self.dest) and os.listdir(self.dest) and not os.path.exists(os.path.join(self.dest, _bundle.LIST)):
            return "dest: %s is a folder with something else in it. Next: choose another" % self.dest
        if os.path.isfile(self.dest) and not self.dest.endswith(".tar"):
            return "dest: %s is a file. Next: choose a name that ends with .tar, or a folder" % self.dest
        lacking = [path for path in self.options["files"] if not os.path.isfile(path)]
        if lacking:
            return "files: %s cannot be read" % ", ".join(lacking)
        doubles = [os.path.basename(path) for path in self.options["files"]]
        if len(doubles) != len(set(doubles)):
            return "files: two of them have the same name"
        need = sum(int(entry.get("size") or 0) for entry in self.options["images"]) * 2 + (16 << 20)
        free = shutil.disk_usage(parent).free
        if free < need:
            return "dest: %s has %d MB free, and the bundle needs up to %d" % (parent, free >> 20, need >> 20)
        return ""


def finish(module: AnsibleModule, save: Save, changed: bool, files: List[Dict[str, Any]], fingerprint: str) -> None:
    """End the module with what is in the bundle."""
    found = {"path": save.dest, "artefacts": files, "fingerprint": fingerprint}
    report = {"verb": "image save", "schema": 1, "data": {"changed": changed, "problems": [], **found}}
    module.exit_json(changed=changed, mip_report=report, **found)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "federation": {"type": "str", "required": True},
            "images": {"type": "list", "elements": "dict", "required": True},
            "dest": {"type": "path", "required": True},
            "key": {"type": "path", "required": True, "no_log": False},
            "files": {"type": "list", "elements": "path", "default": []},
            "insecure_registries": {"type": "list", "elements": "str", "default": []},
            "registry_mirrors": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    save = Save(module)
    problem = save.refused()
    if problem:
        module.fail_json(msg=problem)
    public = module.params["key"] + ".pub"
    try:
        with open(public, encoding="utf-8") as file:
            public_key = file.read()
        fingerprint = _bundle.run(["ssh-keygen", "-lf", public], "the public key %s" % public)
        if os.path.exists(save.dest):
            known = save.there(public_key)
            if known:
                finish(module, save, False, known, fingerprint)
        if module.check_mode:
            listed = [
                {"file": image["file"], "reference": image["reference"], "digest": image["digest"], "size": int(entry.get("size") or 0)}
                for image, entry in zip(save.wanted(), module.params["images"])
            ]
            finish(module, save, True, listed, fingerprint)
        written = save.write(public_key, fingerprint)
    except (_bundle.BundleError, _registry.RegistryError) as error:
        module.fail_json(msg="%s. Nothing was saved" % error)
    except OSError as error:
        module.fail_json(msg="%s: %s. Nothing was saved" % (error.filename or save.dest, error.strerror))
    finish(module, save, True, written, fingerprint)


if __name__ == "__main__":
    main()
