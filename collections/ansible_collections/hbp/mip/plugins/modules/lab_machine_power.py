#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_machine_power
short_description: Switch machines of a lab on and off
version_added: 0.1.0
description:
  - Switches machines of a lab on or off, restarts them, or pulls their plug, as tests of failures need it.
author: The hbp.mip authors (@HBPMedical)
options:
  lab:
    description: Name of the lab.
    type: str
    required: true
  machines:
    description: Names of the machines.
    type: list
    elements: str
    required: true
  state:
    description:
      - V(on) starts machines that are off and waits until they answer.
      - V(off) shuts them down in order.
      - V(reboot) restarts them in order and waits until they answer again; it always changes something.
      - V(kill) takes their network away and kills everything in them, so that no other machine is told.
    type: str
    choices: ['on', 'off', reboot, kill]
    required: true
  mtu:
    description: MTU of the machines' network cards when they start.
    type: int
    default: 1500
  state_dir:
    description: Where labs keep their machines, on this host.
    type: path
    default: /var/lib/mip-lab
  timeout:
    description: Longest wait for each step, in seconds. A machine that does not shut down in this time is killed.
    type: int
    default: 90
attributes:
  check_mode:
    description: Can run without changing anything.
    support: full
  diff_mode:
    description: Shows what differs.
    support: none
  idempotent:
    description: A second run changes nothing, except for a reboot.
    support: partial
"""

EXAMPLES = r"""
- name: A hospital's machine dies
  hbp.mip.lab_machine_power:
    lab: try
    machines: [try-wk-1]
    state: kill
"""

RETURN = r"""
actions:
  description: What was done, a line for each machine that was touched.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _lab, _lab_machine


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "lab": {"type": "str", "required": True},
            "machines": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "choices": ["on", "off", "reboot", "kill"], "required": True},
            "mtu": {"type": "int", "default": 1500},
            "state_dir": {"type": "path", "default": _lab.STATE_DIR},
            "timeout": {"type": "int", "default": 90},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        result = _lab_machine.power(
            params["lab"],
            params["state_dir"],
            params["machines"],
            params["state"],
            params["mtu"],
            params["timeout"],
            module.check_mode,
        )
    except _lab.LabError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
