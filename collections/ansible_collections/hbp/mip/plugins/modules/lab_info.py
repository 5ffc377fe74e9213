#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_info
short_description: Look at a lab and its machines
version_added: 0.1.0
description:
  - Tells of each machine of a lab whether it is on, whether SSH and the Docker engine answer, and what memory it takes.
  - Measures whether the kernel can encrypt an overlay network (IPsec ESP), by adding a security association in a network
    namespace of its own.
author: The hbp.mip authors (@HBPMedical)
options:
  lab:
    description: Name of the lab.
    type: str
    required: true
  state_dir:
    description: Where labs keep their machines, on this host.
    type: path
    default: /var/lib/mip-lab
  verb:
    description: The verb under which the result is handed to C(mipfed).
    type: str
    default: lab
attributes:
  check_mode:
    description: Can run without changing anything.
    support: full
  diff_mode:
    description: Shows what differs.
    support: none
  idempotent:
    description: A second run changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Look at the lab
  hbp.mip.lab_info:
    lab: try
"""

RETURN = r"""
exists:
  description: Whether there is a lab of this name.
  returned: always
  type: bool
lab:
  description: The lab, as M(hbp.mip.lab_machines) returns it.
  returned: when it exists
  type: dict
machines:
  description: The machines, as M(hbp.mip.lab_machines) returns them, and how they are.
  returned: always
  type: list
  elements: dict
  contains:
    power: {description: C(on) or C(off)., type: str}
    ssh: {description: Whether its SSH server answers., type: bool}
    engine: {description: Whether a Docker engine in it answers., type: bool}
    memory_mb: {description: Memory it takes in MB; 0 when it is off or this cannot be known., type: int}
    pid: {description: Its pid 1 as this host sees it; 0 when it is off., type: int}
esp:
  description: Whether this kernel can do ESP with AES-GCM, and its words if it cannot.
  returned: always
  type: dict
  contains:
    supported: {description: Whether it can., type: bool}
    reason: {description: Why not., type: str}
mip_report:
  description: The same for C(mipfed).
  returned: always
  type: dict
"""

from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _lab, _lab_machine


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "lab": {"type": "str", "required": True},
            "state_dir": {"type": "path", "default": _lab.STATE_DIR},
            "verb": {"type": "str", "default": "lab"},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        looked: Dict[str, Any] = _lab_machine.look(params["lab"], params["state_dir"])
        esp = _lab_machine.esp_support()
    except _lab.LabError as exc:
        module.fail_json(msg=str(exc))
    rows: List[Dict[str, Any]] = [
        {key: machine[key] for key in ("name", "kind", "address", "power", "ssh", "engine", "memory_mb")} for machine in looked["machines"]
    ]
    data = {"name": params["lab"], "exists": looked["exists"], "machines": rows, "esp": esp, "problems": []}
    if looked["exists"]:
        data.update({key: looked["lab"][key] for key in ("subnet", "gateway", "bridge", "state_dir")})
    module.exit_json(changed=False, esp=esp, mip_report={"verb": params["verb"], "schema": 1, "data": data}, **looked)


if __name__ == "__main__":
    main()
