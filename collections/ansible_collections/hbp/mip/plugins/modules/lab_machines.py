#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_machines
short_description: Make, start and remove the machines of a lab
version_added: 0.1.0
description:
  - A lab is a set of machines on one host, each a C(systemd-nspawn) container with its own root file system (an overlay on
    a base made by M(hbp.mip.lab_base)), network namespace, systemd, SSH server and, if its base has it, Docker engine.
  - All machines of a call start at once, and the call returns when each answers on SSH (and its engine answers).
  - A lab has the network C(10.77.N.0/24) on a bridge of its own, with a name server that knows its machines and answers
    "no such name" to everything else at once. There is no way from a lab to any other network.
  - Whatever a killed run left is repaired by the next call, or removed with O(state=absent).
author: The hbp.mip authors (@HBPMedical)
options:
  lab:
    description: Name of the lab.
    type: str
    required: true
  state:
    description:
      - V(present) makes and starts the machines.
      - V(absent) removes the whole lab, with everything in its machines. Bases stay.
    type: str
    choices: [present, absent]
    default: present
  machines:
    description: The machines of the lab.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name and host name.
        type: str
        required: true
      kind:
        description: A word for the operator, as V(master); recorded only.
        type: str
        default: ''
      last_byte:
        description: Last byte of its address; the lowest free one from 101 when it is not given.
        type: int
      base:
        description: Path of its base. The default is O(base).
        type: path
      memory_mb:
        description: Limit of its memory in MB; 0 is none.
        type: int
        default: 0
      binds:
        description: Further paths to mount, as C(HOST:MACHINE) or C(HOST:MACHINE:ro).
        type: list
        elements: str
        default: []
  base:
    description: Path of the base of every machine that names none.
    type: path
  number:
    description: The C(N) of the lab's network; the lowest free one when it is not given.
    type: int
  host_ports:
    description: TCP ports on the bridge's address of this host that machines reach, also if this host filters.
    type: list
    elements: int
    default: [5000]
  authorized_keys:
    description: Further public keys that may log in as root, beside the lab's own.
    type: list
    elements: str
    default: []
  bare:
    description:
      - Whether machines that are made let no key in. They have an account C(admin) that may become root with its password, which lies in
        the file C(password) of the lab's folder.
    type: bool
    default: false
    version_added: 0.3.0
  mtu:
    description: MTU of the machines' network cards.
    type: int
    default: 1500
  prune:
    description: Whether machines of this lab that are not in O(machines) are removed.
    type: bool
    default: true
  state_dir:
    description: Where labs keep their machines, on this host.
    type: path
    default: /var/lib/mip-lab
  timeout:
    description: Longest wait for the machines, in seconds.
    type: int
    default: 120
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
seealso:
  - module: hbp.mip.lab_base
  - module: hbp.mip.lab_info
  - module: hbp.mip.lab_machine_power
"""

EXAMPLES = r"""
- name: Two machines
  hbp.mip.lab_machines:
    lab: try
    base: "{{ base.base.path }}"
    machines:
      - {name: try-ms, kind: master, last_byte: 11}
      - {name: try-wk-1, kind: worker, last_byte: 21, memory_mb: 2048}

- name: Nothing is left of it
  hbp.mip.lab_machines:
    lab: try
    state: absent
"""

RETURN = r"""
actions:
  description: What was done (or would be, in check mode), a line each.
  returned: always
  type: list
  elements: str
lab:
  description: The lab.
  returned: O(state=present)
  type: dict
  contains:
    name: {description: Its name., type: str}
    number: {description: Number of its network., type: int}
    subnet: {description: Its network., type: str}
    gateway: {description: This host's address in it., type: str}
    bridge: {description: Its bridge on this host., type: str}
    state_dir: {description: Its folder., type: str}
    ssh_private_key_file: {description: The key that logs in as root., type: str}
    ssh_public_key: {description: Its public half., type: str}
machines:
  description: The machines, in the order of O(machines).
  returned: O(state=present)
  type: list
  elements: dict
  contains:
    name: {description: Name., type: str}
    kind: {description: What was given as kind., type: str}
    address: {description: Address in the lab's network., type: str}
    base: {description: Path of its base., type: str}
    docker: {description: Whether the base has Docker., type: bool}
    root: {description: "Its root, as a path on this host.", type: str}
    netns: {description: Its network namespace for C(ip netns)., type: str}
    veth: {description: The host's side of its cable., type: str}
    host_key: {description: Public key of its SSH server., type: str}
    fingerprint: {description: SHA256 fingerprint of that key., type: str}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _lab, _lab_machine

TOOLS = ["systemd-nspawn", "ip", "mount", "umount", "ssh-keygen"]


def present(module: AnsibleModule) -> None:
    """Makes and starts the machines."""
    params = module.params
    # a machine with an idle engine takes about 100 MB
    _lab.require(TOOLS, 1.0, 100 * len(params["machines"]), params["state_dir"])
    raised = _lab.allow_watches(_lab.watches_wanted(params["state_dir"], params["lab"], len(params["machines"])), module.check_mode)
    result = _lab_machine.bring_up(
        lab=params["lab"],
        state_dir=params["state_dir"],
        wanted=params["machines"],
        default_base=params["base"] or "",
        number=params["number"],
        ports=params["host_ports"],
        authorized_keys=params["authorized_keys"],
        mtu=params["mtu"],
        prune=params["prune"],
        timeout=params["timeout"],
        check=module.check_mode,
        bare=params["bare"],
    )
    if raised:
        result.update(changed=True, actions=[raised, *result["actions"]])
    module.exit_json(**result)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "lab": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "machines": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "kind": {"type": "str", "default": ""},
                    "last_byte": {"type": "int"},
                    "base": {"type": "path"},
                    "memory_mb": {"type": "int", "default": 0},
                    "binds": {"type": "list", "elements": "str", "default": []},
                },
            },
            "base": {"type": "path"},
            "number": {"type": "int"},
            "host_ports": {"type": "list", "elements": "int", "default": [5000]},
            "authorized_keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "bare": {"type": "bool", "default": False},
            "mtu": {"type": "int", "default": 1500},
            "prune": {"type": "bool", "default": True},
            "state_dir": {"type": "path", "default": _lab.STATE_DIR},
            "timeout": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        if params["state"] == "present":
            present(module)
        _lab.require(["ip", "umount"], 0.0, 0, params["state_dir"])
        module.exit_json(
            **_lab_machine.take_down(params["lab"], params["state_dir"], params["host_ports"], params["timeout"], module.check_mode)
        )
    except _lab.LabError as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
