#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_legacy
short_description: What of a swarm of the legacy playbooks a federation can take over
version_added: 0.4.0
description:
  - Looks at the services, the network and the nodes of a running swarm, and tells which services were made by the legacy playbooks for
    this federation, which are its own already, and which belong to somebody else.
  - Tells what changes with those that are taken over, and what cannot be kept without an interruption.
  - Changes nothing. M(hbp.mip.swarm_services) takes over, with its option O(hbp.mip.swarm_services#module:adopt).
author:
  - The hbp.mip authors (@HBPMedical)
options:
  federation:
    description: The resolved federation, as M(hbp.mip.federation) returns it.
    type: dict
    required: true
  services:
    description: The services that it is to have, see P(hbp.mip.engine_services#filter).
    type: list
    elements: dict
    required: true
  docker_socket:
    description: Socket of the engine.
    type: path
    default: /var/run/docker.sock
attributes:
  check_mode:
    description: It never changes anything.
    support: full
  diff_mode:
    description: There is no difference to show.
    support: none
  idempotent:
    description: Looking changes nothing.
    support: full
seealso:
  - module: hbp.mip.swarm_services
"""

EXAMPLES = r"""
- name: Look what there is to take over
  hbp.mip.swarm_legacy:
    federation: "{{ mip }}"
    services: "{{ mip | hbp.mip.engine_services([]) }}"
  register: legacy
"""

RETURN = r"""
swarm:
  description: Is this host a manager of a swarm?
  returned: success
  type: bool
services:
  description: Each service with C(name), C(node) and C(state), which is C(adopt), C(ours), C(missing) or C(foreign).
  returned: success
  type: list
  elements: dict
adopt:
  description: Names of the services that can be taken over.
  returned: success
  type: list
  elements: str
notices:
  description: What is to be known beforehand, each with C(node), C(code), C(message) and C(fix).
  returned: success
  type: list
  elements: dict
problems:
  description: What stands in the way, in the same form.
  returned: success
  type: list
  elements: dict
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _docker_http, _legacy

_SECONDS = 30.0


def look(params: Dict[str, Any]) -> Dict[str, Any]:
    """What the module returns."""
    socket_path = params["docker_socket"]
    info = _docker_http.get("/info", socket_path, _SECONDS)
    if not (info.get("Swarm") or {}).get("ControlAvailable"):
        return {"swarm": False, "services": [], "adopt": [], "notices": [], "problems": []}
    swarm = _legacy.Swarm(*(_docker_http.get(path, socket_path, _SECONDS) or [] for path in ("/services", "/networks", "/nodes")))
    return {"swarm": True, **_legacy.judge(swarm, params["federation"], params["services"])}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "federation": {"type": "dict", "required": True},
            "services": {"type": "list", "elements": "dict", "required": True},
            "docker_socket": {"type": "path", "default": "/var/run/docker.sock"},
        },
        supports_check_mode=True,
    )
    result: Dict[str, Any] = {}
    try:
        result = look(module.params)
    except _docker_http.DockerError as error:
        module.fail_json(msg="the engine cannot be asked: %s. Next: systemctl status docker; journalctl -u docker -n 50" % error)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
