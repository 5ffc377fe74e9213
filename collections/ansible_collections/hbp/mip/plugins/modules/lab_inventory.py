#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_inventory
short_description: Write the inventory of a lab
version_added: 0.1.0
description:
  - Writes the inventory directory of a lab made by M(hbp.mip.lab_machines), with hosts, their SSH host keys, the key that
    logs in, and the variables of the federation.
  - Variables that the operator changed are kept, as long as they belong to this lab's network.
  - The overlay is set to be unencrypted only when this host's kernel cannot do IPsec ESP, which is measured.
author: The hbp.mip authors (@HBPMedical)
options:
  path:
    description: The inventory directory.
    type: path
    required: true
  lab:
    description: Name of the lab.
    type: str
    required: true
  state:
    description:
      - V(present) writes it.
      - V(absent) removes the whole directory, if its variables say that it is a lab's.
    type: str
    choices: [present, absent]
    default: present
  bare:
    description: Write nothing but C(lab.yml), with what the inventory of bare machines needs besides what C(mipfed init) asks for.
    type: bool
    default: false
    version_added: 0.3.0
  registry_port:
    description: Port of the lab's registry.
    type: int
    default: 5000
  engine_image:
    description: Image of the engine in that registry, as C(NAME:TAG).
    type: str
    default: exareme-standin:1.0
  keystore_image:
    description: Image of the keystore in that registry, as C(NAME:TAG).
    type: str
    default: keystore:1.8.7
  state_dir:
    description: Where labs keep their machines, on this host.
    type: path
    default: /var/lib/mip-lab
attributes:
  check_mode:
    description: Can run without changing anything.
    support: full
  diff_mode:
    description: Shows what differs, without private keys.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Write the inventory
  hbp.mip.lab_inventory:
    lab: try
    path: /home/me/federations/inventories/try
"""

RETURN = r"""
files:
  description: Files that were written.
  returned: O(state=present)
  type: list
  elements: str
esp:
  description: Whether the kernel can do ESP, and why not.
  returned: O(state=present)
  type: dict
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _lab, _lab_inventory, _lab_machine


def present(module: AnsibleModule) -> None:
    """Writes what differs."""
    params = module.params
    path = params["path"]
    looked = _lab_machine.recorded(params["lab"], params["state_dir"])
    esp = _lab_machine.esp_support()
    registry = "%s:%d" % (looked["lab"]["gateway"], params["registry_port"])
    images = (params["engine_image"], params["keystore_image"])
    kept = _lab_inventory.belongs(path, registry)
    if params["bare"]:
        text = _lab_inventory.bare_text(str(looked["lab"]["name"]), registry, images, esp)
        kept, files = False, [_lab_inventory.File("lab.yml", text, 0o644, False)]
    else:
        files = _lab_inventory.files(looked["lab"], looked["machines"], registry, images, esp)
    wanted = [file for file in files if not (file.keep and kept)]
    diff = _lab_inventory.before_after(path, wanted)
    written = []
    for file in wanted:
        target = os.path.join(path, file.path)
        if module.check_mode:
            if _lab.read_text(target) != file.text:
                written.append(file.path)
            continue
        os.makedirs(os.path.dirname(target), mode=0o700 if file.path.startswith("ssh/") else 0o755, exist_ok=True)
        if _lab.write_file(target, file.text, file.mode):
            written.append(file.path)
    module.exit_json(changed=bool(written), files=written, esp=esp, diff=diff)


def absent(module: AnsibleModule) -> None:
    """Removes the directory of a lab."""
    path = module.params["path"]
    there = _lab_inventory.is_lab(path)
    if there and not module.check_mode:
        _lab.remove_tree(path)
    module.exit_json(changed=there)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "lab": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "bare": {"type": "bool", "default": False},
            "registry_port": {"type": "int", "default": 5000},
            "engine_image": {"type": "str", "default": "exareme-standin:1.0"},
            "keystore_image": {"type": "str", "default": "keystore:1.8.7", "no_log": False},
            "state_dir": {"type": "path", "default": _lab.STATE_DIR},
        },
        supports_check_mode=True,
    )
    try:
        if module.params["state"] == "present":
            present(module)
        else:
            absent(module)
    except _lab.LabError as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg="the inventory %s: %s" % (module.params["path"], exc))


if __name__ == "__main__":
    main()
