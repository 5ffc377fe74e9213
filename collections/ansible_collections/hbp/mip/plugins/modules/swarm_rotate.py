#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_rotate
short_description: Replace the join tokens, or the certificate authority, of a swarm
version_added: 0.3.0
description:
  - Makes the tokens worthless that nodes joined with. A token never expires by itself, and whoever holds it and reaches a manager can
    join. Members are not disturbed.
  - With O(ca) the swarm gets a new certificate authority, and every node a new certificate; the module waits until all have it.
  - Returns no secret.
extends_documentation_fragment:
  - hbp.mip.engine
author:
  - The hbp.mip authors (@HBPMedical)
options:
  tokens:
    description:
      - The tokens to replace, by the role of who joins with them.
    type: list
    elements: str
    choices: [manager, worker]
    default: [worker, manager]
  when_given:
    description:
      - Only if M(hbp.mip.swarm_token) noted with O(hbp.mip.swarm_token#module:give) that a token was given to a node since the last
        rotation. So a run that was cut off between the two leaves the work to the next one.
    type: bool
    default: false
  ca:
    description:
      - Replace the certificate authority as well, which needs every node; one that is down is refused.
    type: bool
    default: false
  cluster_id:
    description:
      - The ID of the swarm that this manager must be in. Any other is refused.
    type: str
  timeout:
    description:
      - Seconds within which all nodes must have a certificate of the new authority.
    type: int
    default: 300
attributes:
  check_mode:
    description: Reports what would be replaced, without doing it.
    support: full
  diff_mode:
    description: Tokens and keys are secrets and are never shown.
    support: none
  idempotent:
    description: Each run makes new tokens, but with O(when_given) only after one was given to a node.
    support: partial
seealso:
  - module: hbp.mip.swarm_token
"""

EXAMPLES = r"""
- name: Make the tokens worthless that were used
  hbp.mip.swarm_rotate:
    when_given: true

- name: Replace the swarm's certificate authority
  hbp.mip.swarm_rotate:
    tokens: []
    ca: true
"""

RETURN = r"""
rotated:
  description: The tokens that were replaced.
  returned: always
  type: list
  elements: str
  sample: [worker, manager]
ca:
  description: The certificate authority, where it was replaced.
  returned: always
  type: dict
  contains:
    rotated:
      description: Whether it was replaced.
      type: bool
    seconds:
      description: How long it took until all nodes had a new certificate.
      type: float
    nodes:
      description: How many nodes there are.
      type: int
cluster_id:
  description: ID of the swarm.
  returned: always
  type: str
"""

import time
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _swarm, _tokens
from ansible_collections.hbp.mip.plugins.module_utils._engine import EngineError, engine_call, open_engine, wait_until


def rotate_tokens(client: Any, roles: List[str]) -> None:
    """Replace tokens and take the note away that one was given to a node. Raises `EngineError`."""
    before: Dict[str, str] = {}

    def change(swarm: Dict[str, Any]) -> Dict[str, Any]:
        before.update(swarm["JoinTokens"])
        return _tokens.marked(swarm["Spec"], given=False) if set(roles) == {"manager", "worker"} else dict(swarm["Spec"])

    _tokens.update(client, change, "rotate the join tokens", worker="worker" in roles, manager="manager" in roles)
    with engine_call("read the join tokens"):
        after = client.inspect_swarm()["JoinTokens"]
    same = [role for role in roles if after[role.capitalize()] == before[role.capitalize()]]
    if same:
        raise EngineError(
            "rotate the join tokens: the engine still gives the old one for %s. Next: docker swarm join-token --rotate %s"
            % (", ".join(same), same[0])
        )


class Authority:
    """Replaces the certificate authority of the swarm."""

    def __init__(self, client: Any, timeout: float) -> None:
        self.client = client
        self.timeout = timeout

    def nodes(self) -> List[Dict[str, Any]]:
        """The nodes as the engine describes them."""
        with engine_call("list the nodes of the swarm"):
            found: List[Dict[str, Any]] = self.client.nodes()
        return found

    def check(self) -> int:
        """The number of nodes. Raises `SwarmError` when one of them could not get its new certificate."""
        found = [_swarm.node_summary(node) for node in self.nodes()]
        away = ["%s (%s)" % (node["name"] or node["hostname"], node["id"]) for node in found if node["status"] != "ready"]
        if away:
            raise _swarm.SwarmError(
                "the authority is replaced only when every node has a new certificate, and these are not ready: %s. Nothing was "
                "changed. Start them, or remove them first (mipfed node remove)" % ", ".join(away)
            )
        return len(found)

    def rotate(self) -> float:
        """Replace it; returns the seconds until all nodes had a new certificate. Raises `EngineError`."""
        started = time.monotonic()

        def change(swarm: Dict[str, Any]) -> Dict[str, Any]:
            config = dict(swarm["Spec"].get("CAConfig") or {})
            config["ForceRotate"] = int(config.get("ForceRotate") or 0) + 1
            return dict(swarm["Spec"], CAConfig=config)

        with engine_call("read the state of the swarm"):
            going_on = bool(self.client.inspect_swarm().get("RootRotationInProgress"))
        # A run that was cut off left the swarm at work; beginning anew would only make it longer.
        if not going_on:
            _tokens.update(self.client, change, "rotate the certificate authority")

        def finished() -> bool:
            with engine_call("read the state of the swarm"):
                going_on = self.client.inspect_swarm().get("RootRotationInProgress")
            # The swarm is content with new certificates; the nodes get the new root, which alone makes the old one worthless, after that.
            return not going_on and not self.behind()

        if not wait_until(finished, self.timeout):
            raise EngineError(
                "the certificate authority is being replaced, but after %d s not every node has a new certificate: %s. The swarm goes on "
                "by itself. Next: start the nodes that are away, then run this again" % (self.timeout, ", ".join(self.behind()) or "?")
            )
        return round(time.monotonic() - started, 1)

    def behind(self) -> List[str]:
        """The names of the nodes whose certificate or root is not of the newest authority, as far as the manager knows."""
        with engine_call("read the state of the swarm"):
            wanted = self.client.inspect_swarm().get("TLSInfo") or {}
        found = []
        for node in self.nodes():
            shown = (node.get("Description") or {}).get("TLSInfo") or {}
            if any(shown.get(key) != wanted.get(key) for key in ("CertIssuerPublicKey", "TrustRoot")):
                summary = _swarm.node_summary(node)
                found.append(str(summary["name"] or summary["hostname"]))
        return sorted(found)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "tokens": {
                "type": "list",
                "elements": "str",
                "choices": ["manager", "worker"],
                "default": ["worker", "manager"],
                "no_log": False,
            },
            "when_given": {"type": "bool", "default": False},
            "ca": {"type": "bool", "default": False},
            "cluster_id": {"type": "str"},
            "timeout": {"type": "int", "default": 300},
            "docker_host": {"type": "str", "default": "unix:///var/run/docker.sock"},
            "engine_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    params: Dict[str, Any] = module.params
    roles = sorted(set(params["tokens"]), reverse=True)
    result: Dict[str, Any] = {"rotated": [], "ca": {"rotated": False, "seconds": 0.0, "nodes": 0}, "cluster_id": ""}
    client = open_engine(module, "would rotate", dict(result, changed=not params["when_given"]))
    changed = False
    try:
        with engine_call("read the state of the engine"):
            local = _swarm.local_state(client)
        if module.check_mode and local.state == _swarm.NONE:
            module.exit_json(changed=not params["when_given"], msg="would rotate once the swarm exists", **result)
        _swarm.require_manager(local, params["cluster_id"])
        result["cluster_id"] = local.cluster_id
        if params["when_given"] and not _tokens.given(local.cluster):
            module.exit_json(changed=False, **result)
        if params["ca"]:
            authority = Authority(client, params["timeout"])
            result["ca"] = {"rotated": True, "seconds": 0.0, "nodes": authority.check()}
            if not module.check_mode:
                result["ca"]["seconds"] = authority.rotate()
            changed = True
        if roles:
            if not module.check_mode:
                rotate_tokens(client, roles)
            result["rotated"] = roles
            changed = True
    except (_swarm.SwarmError, EngineError) as error:
        module.fail_json(msg=str(error), changed=changed, **result)
    module.exit_json(changed=changed, **result)


if __name__ == "__main__":
    main()
