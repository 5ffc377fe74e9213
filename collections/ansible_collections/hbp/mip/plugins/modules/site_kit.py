#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: site_kit
short_description: Site kits, with which a hospital joins by itself
version_added: 0.3.0
description:
  - Makes, lists, accepts and revokes site kits. It runs on a manager of the swarm, and its action plugin on the controller puts the kit
    together, encrypts and signs it.
  - A kit holds the swarm's token for workers. The token is rotated when the kit is accepted or revoked, and when it is over its time
    with O(state=swept). A token is the swarm's, so that other kits with it end then, too.
  - The token never leaves the two plugins but encrypted. B(Always set) C(no_log=true) B(on a task with) O(state=created).
extends_documentation_fragment:
  - hbp.mip.engine
author:
  - The hbp.mip authors (@HBPMedical)
options:
  state:
    description:
      - V(created) makes a kit. V(accepted) accepts a node by the code that the hospital reads out. V(revoked) ends a kit, or removes
        a node from the swarm that nobody accepted. V(swept) rotates the token when a kit with it is over its time.
      - V(listed) tells what became of the kits, and which nodes of the swarm are unknown. Changes nothing.
    type: str
    choices: [created, accepted, revoked, swept, listed]
    default: listed
  federation:
    description:
      - The resolved federation, as M(hbp.mip.federation) returns it.
    type: dict
    required: true
  node:
    description:
      - Name of the hospital's node; with O(state=revoked) it may also be the id of a node of the swarm that nobody accepted.
    type: str
  code:
    description:
      - What the kit printed on the hospital's machine, for O(state=accepted).
    type: str
  expires_seconds:
    description:
      - How long a kit can be used. When it is over its time the next call of this module that changes something rotates the token.
    type: int
    default: 172800
  path:
    description:
      - File on the controller that the kit is written to.
    type: path
  passphrase_file:
    description:
      - File on the controller with the passphrase. When it does not exist a passphrase is made and written to it, for its owner only.
    type: path
  signing_key:
    description:
      - SSH private key on the controller that signs the kit. By default the federation's own, C(ssh/id_ed25519) of the inventory.
    type: path
attributes:
  check_mode:
    description: Tells what would be done. Makes no kit.
    support: full
  diff_mode:
    description: There is nothing to compare that is no secret.
    support: none
  idempotent:
    description: A kit is new each time. The other states change nothing the second time.
    support: partial
seealso:
  - module: hbp.mip.swarm_token
"""

EXAMPLES = r"""
- name: Make a kit
  hbp.mip.site_kit:
    state: created
    federation: "{{ mip }}"
    node: hospitals-wk-west
    path: /root/mip-site-hospitals-wk-west.py
    passphrase_file: /root/passphrase
  no_log: true

- name: Accept the node
  hbp.mip.site_kit:
    state: accepted
    federation: "{{ mip }}"
    node: hospitals-wk-west
    code: 7QZ4M-K0R3D
"""

RETURN = r"""
kits:
  description: The kits that were ever made and not made anew, without their secrets.
  returned: always
  type: list
  elements: dict
  sample: [{"node": "hospitals-wk-west", "address": "203.0.113.24", "state": "open", "created": "2026-11-22T10:00:00Z",
            "expires": "2026-11-24T10:00:00Z", "node_id": "", "accepted": "", "waiting": "", "peers_differ": false}]
unknown:
  description: Nodes of the swarm that are no nodes of the federation; those that wait to be accepted are among them.
  returned: always
  type: list
  elements: dict
node_id:
  description: The node that was accepted.
  returned: O(state=accepted)
  type: str
rotated:
  description: Whether the token was rotated.
  returned: always
  type: bool
ended:
  description: Names of other kits that cannot be used any more because the token was rotated.
  returned: always
  type: list
  elements: str
removed:
  description: Ids of nodes that were removed from the swarm.
  returned: O(state=revoked)
  type: list
  elements: str
members:
  description: The accepted node as M(hbp.mip.swarm_nodes) takes it.
  returned: O(state=accepted)
  type: list
  elements: dict
path:
  description: The kit.
  returned: O(state=created)
  type: str
signer:
  description: Fingerprint of the key that signed the kit.
  returned: O(state=created)
  type: str
mip_error:
  description: V(kit), or a word that begins with it.
  returned: failure
  type: str
"""

import secrets
import time
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _site_kits, _swarm
from ansible_collections.hbp.mip.plugins.module_utils._engine import EngineError, engine_call, open_engine


def members_of(federation: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Every node that the federation has in its swarm, however it is operated, without those that were only invited."""
    nodes = [*federation["nodes"], *federation.get("disabled", ()), *federation.get("kits", ())]
    return [node for node in nodes if node["kind"] != "ui" and node.get("site_kit") != "invited"]


class Kits:
    """One call of the module."""

    def __init__(self, module: AnsibleModule, client: Any, cluster_id: str) -> None:
        self.module, self.client, self.cluster_id = module, client, cluster_id
        self.params: Dict[str, Any] = module.params
        self.federation: Dict[str, Any] = module.params["federation"]
        self.name = str(self.federation["name"])
        self.path = _site_kits.path_of(self.name)
        self.kits = _site_kits.load(self.path)
        with engine_call("list the nodes of the swarm"):
            self.nodes = [_swarm.node_summary(node) for node in client.nodes()]
        self.token = self.read_token()
        self.result: Dict[str, Any] = {"changed": False, "rotated": False, "ended": []}

    def read_token(self) -> str:
        """The swarm's token for workers."""
        with engine_call("read the join token"):
            return str(self.client.inspect_swarm()["JoinTokens"]["Worker"])

    def rotate(self) -> None:
        """Make the swarm's token for workers worthless."""
        old = self.token
        self.result["ended"] = [
            name
            for name, kit in self.kits.items()
            if name != self.params["node"] and _site_kits.state(kit, _site_kits.token_id(old), time.time()) == _site_kits.OPEN
        ]
        self.result.update(rotated=True, changed=True)
        if self.module.check_mode:
            return
        with engine_call("rotate the join token"):
            swarm = self.client.inspect_swarm()
            self.client.update_swarm(version=swarm["Version"]["Index"], swarm_spec=swarm["Spec"], rotate_worker_token=True)
        self.token = self.read_token()
        if self.token == old:
            raise EngineError("rotate the join token: the engine still gives the old one. Next: docker swarm join-token --rotate worker")

    def save(self) -> None:
        """Write the kits down."""
        self.result["changed"] = True
        if not self.module.check_mode:
            _site_kits.save(self.path, self.kits)

    def kit(self) -> Dict[str, Any]:
        """The kit of the node that was asked for. Raises KitError."""
        found = self.kits.get(self.params["node"])
        if found is None:
            known = ", ".join(sorted(self.kits)) or "none"
            raise _site_kits.KitError("no kit was made for %s; kits: %s" % (self.params["node"], known), "kit-unknown")
        return found

    def created(self) -> None:
        """Take note of a new kit, and return its secrets to the action plugin."""
        name = self.params["node"]
        invited = {node["name"]: node for node in self.federation.get("kits", ())}
        if name not in invited:
            raise _site_kits.KitError("%s is not in the inventory as a node with a site kit (mip_site_kit)" % name, "kit-unknown")
        node, now = invited[name], time.time()
        joins = node["site_kit"] == "invited"
        before = self.kits.get(name)
        if joins and before and before["token_id"] == _site_kits.token_id(self.token) and not self.module.check_mode:
            # What the former kit holds must not outlive it.
            self.rotate()
        self.kits[name] = {
            "address": node["address"],
            "created": now,
            "expires": now + self.params["expires_seconds"],
            # A kit for a member brings it up to date and holds no token.
            "token_id": _site_kits.token_id(self.token) if joins else "",
            "code_key": before["code_key"] if before and not joins else secrets.token_hex(32),
            "state": _site_kits.OPEN if joins else _site_kits.ACCEPTED,
            "node_id": before.get("node_id", "") if before and not joins else "",
            "accepted": before.get("accepted", 0) if before and not joins else 0,
            "peers": self.peers(name),
        }
        self.save()
        if not self.module.check_mode:
            managers = [
                _swarm.join_address(item["address"], _swarm.DEFAULT_PORT) for item in members_of(self.federation) if item["manager"]
            ]
            self.result["secret"] = {
                "token": self.token if joins else "",
                "code_key": self.kits[name]["code_key"],
                "cluster_id": self.cluster_id,
                "expires": self.kits[name]["expires"],
                "managers": managers,
            }

    def peers(self, name: str) -> List[str]:
        """Addresses of all others, for which the hospital's firewall has to be open."""
        others = [*self.federation["nodes"], *self.federation.get("disabled", ()), *self.federation.get("kits", ())]
        return sorted(node["address"] for node in others if node["kind"] != "ui" and node["name"] != name)

    def accepted(self) -> None:
        """Find the node that the code stands for, and rotate the token."""
        name, kit = self.params["node"], self.kit()
        if kit["state"] == _site_kits.REVOKED:
            raise _site_kits.KitError(
                "the kit of %s was revoked. Nothing was changed. Make a new one: mipfed kit create %s" % (name, name), "kit-revoked"
            )
        node = _site_kits.match(kit, self.params["code"] or "", self.name, name, self.cluster_id, self.nodes)
        taken = [other for other in self.nodes if other["name"] == name and other["id"] != node["id"]]
        if taken:
            raise _site_kits.KitError(
                "%s is also the node %s, which is %s. Nothing was changed. Remove it first if it is gone: docker node rm %s"
                % (name, taken[0]["id"], taken[0]["status"], taken[0]["id"]),
                "kit-twin",
            )
        if kit["token_id"] == _site_kits.token_id(self.token):
            self.rotate()
        if (kit["state"], kit["node_id"]) != (_site_kits.ACCEPTED, node["id"]):
            kit.update(state=_site_kits.ACCEPTED, node_id=node["id"], accepted=time.time())
            self.save()
        self.result.update(node_id=node["id"], members=[{"name": name, "node_id": node["id"]}])

    def revoked(self) -> None:
        """End a kit, and remove the nodes that came with it, or one that is unknown."""
        asked = self.params["node"]
        names = [node["name"] for node in members_of(self.federation)]
        unknown = _site_kits.strangers(self.nodes, names)
        kit = self.kits.get(asked)
        gone = [
            node
            for node in unknown
            if asked in (node["id"], node["name"]) or (kit and not node["name"] and node["address"] == kit["address"])
        ]
        if kit is None and not gone:
            raise _site_kits.KitError(
                "%s is neither a kit nor the id of an unknown node of the swarm. Both are listed by: mipfed -f %s kit ls"
                % (asked, self.name),
                "kit-unknown",
            )
        if kit and asked in names:
            raise _site_kits.KitError(
                "%s is a member, and still in the inventory. Take it out of hosts.yml first; mipfed kit revoke %s does both"
                % (asked, asked),
                "kit-accepted",
            )
        managers = [node["id"] for node in gone if node["role"] == _swarm.MANAGER]
        if managers:
            raise _site_kits.KitError(
                "the unknown node %s is a manager of the swarm. Nothing was changed. Find out who made it one, then: docker node demote %s"
                % (managers[0], managers[0]),
                "kit-manager",
            )
        # First nobody can come in any more, then those that did are put out.
        if (kit and kit["token_id"] == _site_kits.token_id(self.token)) or gone:
            self.rotate()
        if kit and kit["state"] != _site_kits.REVOKED:
            kit["state"] = _site_kits.REVOKED
            self.save()
        for node in gone:
            self.result["changed"] = True
            if not self.module.check_mode:
                with engine_call("remove the node %s" % node["id"]):
                    self.client.remove_node(node["id"], force=True)
        self.result["removed"] = [node["id"] for node in gone]
        if not self.module.check_mode:
            self.nodes = [node for node in self.nodes if node["id"] not in self.result["removed"]]

    def swept(self) -> None:
        """Rotate the token when a kit that holds it is over its time."""
        now = time.time()
        if _site_kits.due(self.kits, _site_kits.token_id(self.token), now):
            self.rotate()
        fresh = [kit for kit in self.kits.values() if kit["state"] == _site_kits.OPEN and kit["expires"] <= now and not kit.get("swept")]
        for kit in fresh:
            kit["swept"] = True
        if fresh:
            self.save()

    def listed(self) -> None:
        """Nothing but what every state returns."""

    def shown(self) -> Dict[str, Any]:
        """The kits without their secrets, and the unknown nodes."""
        now, current = time.time(), _site_kits.token_id(self.token)
        kits = []
        for name, kit in sorted(self.kits.items()):
            waiting = [node["id"] for node in self.nodes if not node["name"] and node["address"] == kit["address"]]
            state = _site_kits.state(kit, current, now)
            kits.append(
                {
                    "node": name,
                    "address": kit["address"],
                    "state": "waiting" if waiting and state not in (_site_kits.ACCEPTED, _site_kits.REVOKED) else state,
                    "created": _swarm.iso_time(kit["created"]),
                    "expires": _swarm.iso_time(kit["expires"]),
                    "node_id": kit["node_id"],
                    "accepted": _swarm.iso_time(kit["accepted"]) if kit["accepted"] else "",
                    "waiting": waiting[0] if waiting else "",
                    "peers_differ": state in (_site_kits.OPEN, _site_kits.ACCEPTED) and sorted(kit["peers"]) != self.peers(name),
                }
            )
        names = [node["name"] for node in members_of(self.federation)]
        return {"kits": kits, "unknown": _site_kits.strangers(self.nodes, names)}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["created", "accepted", "revoked", "swept", "listed"], "default": "listed"},
            "federation": {"type": "dict", "required": True},
            "node": {"type": "str"},
            "code": {"type": "str"},
            "expires_seconds": {"type": "int", "default": 172800},
            "path": {"type": "path"},
            "passphrase_file": {"type": "path", "no_log": False},
            "signing_key": {"type": "path", "no_log": False},
            "docker_host": {"type": "str", "default": "unix:///var/run/docker.sock"},
            "engine_timeout": {"type": "int", "default": 60},
        },
        required_if=[("state", "created", ["node"]), ("state", "accepted", ["node", "code"]), ("state", "revoked", ["node"])],
        supports_check_mode=True,
    )
    state = module.params["state"]
    client = open_engine(module, "would look at the kits", {"kits": [], "unknown": [], "rotated": False, "ended": []})
    try:
        with engine_call("read the state of the engine"):
            local = _swarm.local_state(client)
        _swarm.require_manager(local)
        run = Kits(module, client, local.cluster_id)
        if state != "listed":
            run.swept()
        if state != "swept":
            getattr(run, state)()
        result = dict(run.result, **run.shown())
    except _site_kits.KitError as error:
        module.fail_json(msg=str(error), mip_error=error.code)
    except (_swarm.SwarmError, EngineError) as error:
        module.fail_json(msg=str(error), mip_error="kit")
    except OSError as error:
        module.fail_json(msg="%s: %s" % (error.filename or "the kits", error.strerror), mip_error="kit")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
