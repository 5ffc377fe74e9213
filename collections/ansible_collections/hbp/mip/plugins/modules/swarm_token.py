#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_token
short_description: Read or rotate a join token of the swarm
version_added: 0.1.0
description:
  - Returns the token with which a node joins the swarm, or replaces it by a new one.
  - A token never expires, and whoever holds it and reaches a manager can join. Rotate it after each session in which nodes joined.
    Members are not disturbed by that.
  - B(Always set) C(no_log=true) B(on the task). This is the only module of the collection that returns a secret.
extends_documentation_fragment:
  - hbp.mip.engine
author:
  - The hbp.mip authors (@HBPMedical)
options:
  role:
    description:
      - The role that a node joining with the token gets.
    type: str
    choices: [manager, worker]
    default: worker
  rotate:
    description:
      - Replace the token by a new one. The old one is worthless from then on.
    type: bool
    default: false
  give:
    description:
      - The token is going to be given to a node. Notes that on the swarm, so that M(hbp.mip.swarm_rotate) replaces it even if this run is
        cut off before it does.
    type: bool
    default: false
    version_added: 0.3.0
  cluster_id:
    description:
      - The ID of the swarm that this manager must be in. Any other is refused.
    type: str
attributes:
  check_mode:
    description: Does not rotate. Returns an empty token when the swarm does not exist yet or the token would be rotated.
    support: full
  diff_mode:
    description: A token is a secret and is never shown.
    support: none
  idempotent:
    description: Reading is. Rotating makes a new token each time.
    support: partial
seealso:
  - module: hbp.mip.swarm_member
"""

EXAMPLES = r"""
- name: Read the token for workers
  hbp.mip.swarm_token:
    role: worker
  register: worker_token
  no_log: true

- name: Make the token that was used worthless
  hbp.mip.swarm_token:
    role: worker
    rotate: true
  no_log: true
"""

RETURN = r"""
token:
  description: The join token. A secret, so that the task must run with C(no_log=true).
  returned: always
  type: str
cluster_id:
  description: ID of the swarm.
  returned: always
  type: str
remote_addrs:
  description: The managers to join through.
  returned: always
  type: list
  elements: str
  sample: ["10.77.1.11:2377"]
"""


from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _swarm, _tokens
from ansible_collections.hbp.mip.plugins.module_utils._engine import EngineError, engine_call, open_engine


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "role": {"type": "str", "choices": ["manager", "worker"], "default": "worker"},
            "rotate": {"type": "bool", "default": False},
            "give": {"type": "bool", "default": False},
            "cluster_id": {"type": "str"},
            "docker_host": {"type": "str", "default": "unix:///var/run/docker.sock"},
            "engine_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    role, rotate, wanted = module.params["role"], module.params["rotate"], module.params["cluster_id"]
    nothing = {"changed": bool(rotate), "token": "", "cluster_id": "", "remote_addrs": []}
    client = open_engine(module, "would read the join token", nothing)
    try:
        with engine_call("read the state of the engine"):
            local = _swarm.local_state(client)
        if module.check_mode and local.state == _swarm.NONE:
            module.exit_json(msg="would read the join token once the swarm exists", **nothing)
        _swarm.require_manager(local, wanted)
        if module.params["give"] and not module.check_mode:
            _tokens.note_given(client)
        with engine_call("read the join token"):
            swarm = client.inspect_swarm()
        token = swarm["JoinTokens"][role.capitalize()]
        if rotate and module.check_mode:
            token = ""
        elif rotate:
            old = token
            with engine_call("rotate the join token"):
                client.update_swarm(
                    version=swarm["Version"]["Index"],
                    swarm_spec=swarm["Spec"],
                    rotate_worker_token=role == "worker",
                    rotate_manager_token=role == "manager",
                )
                token = client.inspect_swarm()["JoinTokens"][role.capitalize()]
            if token == old:
                raise EngineError(
                    "rotate the join token: the engine still gives the old one. Next: docker swarm join-token --rotate " + role
                )
    except (_swarm.SwarmError, EngineError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(rotate), token=token, cluster_id=local.cluster_id, remote_addrs=local.managers)


if __name__ == "__main__":
    main()
