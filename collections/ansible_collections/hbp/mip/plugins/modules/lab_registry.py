#!/usr/bin/python

# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_registry
short_description: Run a lab's image registry
version_added: 0.1.0
description:
  - Runs C(docker-registry) as a background process that listens on one address only, and speaks plain HTTP.
  - The process outlives the run of Ansible. One that died, or that does not answer, is started again.
author:
  - The hbp.mip authors (@HBPMedical)
attributes:
  check_mode:
    support: full
    description: Looks at the process only.
  diff_mode:
    support: none
    description: The state is told by the message.
  idempotent:
    support: full
    description: A registry that runs with the wanted configuration is left alone.
options:
  state:
    description:
      - V(present) makes the registry run.
      - V(absent) stops it. Its files stay.
    type: str
    choices: [present, absent]
    default: present
  path:
    description: Folder of the registry's configuration, storage, log and pid file.
    type: path
    required: true
  address:
    description: Address to listen on. The host must have it already. Required with O(state=present).
    type: str
    default: ""
  port:
    description: Port to listen on.
    type: int
    default: 5000
  timeout:
    description: How long the registry may take to start or to stop, in seconds.
    type: int
    default: 20
"""

EXAMPLES = r"""
- name: Run the registry of the lab
  hbp.mip.lab_registry:
    path: /var/lib/mip-lab/lab/registry
    address: 10.77.1.1

- name: Stop it
  hbp.mip.lab_registry:
    path: /var/lib/mip-lab/lab/registry
    state: absent
"""

RETURN = r"""
endpoint:
  description: Where images are pushed and pulled, C(address:port). Empty if no address was given.
  returned: always
  type: str
pid:
  description: The process, 0 if there is none.
  returned: always
  type: int
log:
  description: The registry's log.
  returned: always
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils._lab_registry import Registry, RegistryError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "path": {"type": "path", "required": True},
            "address": {"type": "str", "default": ""},
            "port": {"type": "int", "default": 5000},
            "timeout": {"type": "int", "default": 20},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["state"] == "present" and not params["address"]:
        module.fail_json(msg="registry: no address to listen on. Set 'address' to this host's address on the lab's bridge", log="")
    registry = Registry(params["path"], params["address"], params["port"])
    try:
        if params["state"] == "present":
            changed, what = registry.ensure(params["timeout"], module.check_mode)
        else:
            changed = registry.stop(params["timeout"], module.check_mode)
            what = "stopped" if changed else "not running"
    except RegistryError as error:
        module.fail_json(msg=str(error), log=registry.log_path)
    except OSError as error:
        module.fail_json(msg=f"registry in {registry.folder}: {error}", log=registry.log_path)
    module.exit_json(
        changed=changed,
        msg=f"registry {what}",
        endpoint=registry.endpoint if params["address"] else "",
        pid=registry.pid() or 0,
        log=registry.log_path,
    )


if __name__ == "__main__":
    main()
