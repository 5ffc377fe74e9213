#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_nodes
short_description: Names, labels, availability and roles of the nodes of a swarm
version_added: 0.1.0
description:
  - Brings all given nodes into the wanted state in one call, on a manager.
  - The label C(name) is the identity of a node in the federation, to which services are pinned. When another node has it already, for
    example the one that this node replaces, the module fails and names both. It never takes the label away.
  - Nodes and labels that are not given are left as they are.
extends_documentation_fragment:
  - hbp.mip.engine
author:
  - The hbp.mip authors (@HBPMedical)
options:
  nodes:
    description:
      - The nodes and what they shall be.
    type: list
    elements: dict
    required: true
    suboptions:
      node_id:
        description:
          - ID of the node in the swarm, as M(hbp.mip.swarm_member) returns it.
          - Empty for a node that has not joined yet, which is possible in check mode only.
        type: str
        required: true
      name:
        description:
          - Name of the node in the federation, its label C(name).
        type: str
      labels:
        description:
          - Further labels. An empty value (null) removes a label.
        type: dict
        default: {}
      availability:
        description:
          - V(drain) moves services away, V(pause) only keeps new ones away. By default it is left as it is.
        type: str
        choices: [active, pause, drain]
      role:
        description:
          - Promotes or demotes the node. By default the role is left as it is.
          - Roles change one after the other, promotions first, and never so that the managers that work are no majority.
        type: str
        choices: [manager, worker]
      state:
        description:
          - V(absent) removes a node that has left, or is down, from the list of the swarm. A node that works is never removed.
        type: str
        choices: [present, absent]
        default: present
  timeout:
    description:
      - Seconds within which a promoted manager must be reachable, and a demoted one be a worker.
    type: int
    default: 60
attributes:
  check_mode:
    description: Reports what would be done, without doing it.
    support: full
  diff_mode:
    description: Shows the nodes before and after.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
seealso:
  - module: hbp.mip.swarm_member
  - module: hbp.mip.swarm_info
"""

EXAMPLES = r"""
- name: Give the nodes their names
  hbp.mip.swarm_nodes:
    nodes:
      - {node_id: "{{ hostvars['lab-wk-1'].membership.node_id }}", name: lab-wk-1, availability: active}
      - {node_id: "{{ hostvars['lab-wk-2'].membership.node_id }}", name: lab-wk-2, availability: active}

- name: Promote one by one
  hbp.mip.swarm_nodes:
    nodes:
      - {node_id: "{{ membership.node_id }}", role: manager}
"""

RETURN = r"""
nodes:
  description: The nodes as they are, or would be in check mode.
  returned: always
  type: list
  elements: dict
  sample: [{"id": "x7", "name": "lab-wk-1", "availability": "active", "role": "worker", "status": "ready", "labels": {"name": "lab-wk-1"}}]
changed_nodes:
  description: IDs of the nodes that were changed.
  returned: always
  type: list
  elements: str
manager_lost:
  description: This host is no working manager of the swarm; another one can be asked.
  returned: when that is why it failed
  type: bool
"""

from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _managers, _swarm
from ansible_collections.hbp.mip.plugins.module_utils._engine import EngineError, engine_call, open_engine, wait_until


def wanted_labels(labels: Dict[str, str], item: Dict[str, Any]) -> Dict[str, str]:
    """`labels` of a node with those of `item` applied."""
    result = dict(labels)
    for key, value in item["labels"].items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = str(value)
    if item["name"]:
        result["name"] = item["name"]
    return result


def check_items(items: List[Dict[str, Any]], check_mode: bool) -> None:
    """Raise `SwarmError` for a wanted list that contradicts itself."""
    for key, what in (("node_id", "node"), ("name", "name")):
        values = [item[key] for item in items if item[key] and (key == "node_id" or item["state"] == "present")]
        double = sorted({value for value in values if values.count(value) > 1})
        if double:
            raise _swarm.SwarmError(
                "the %s %s is given more than once in nodes. Nothing was changed. Two hosts with one identity are usually "
                "copies of one virtual machine: compare /etc/machine-id" % (what, ", ".join(double))
            )
    nameless = [item for item in items if "name" in item["labels"]]
    if nameless:
        raise _swarm.SwarmError("the label name is set with the option name, not in labels. Nothing was changed")
    if not check_mode and any(not item["node_id"] for item in items):
        names = [item["name"] or "?" for item in items if not item["node_id"]]
        raise _swarm.SwarmError("node_id is empty for %s: the node is in no swarm. Nothing was changed. Join it first" % ", ".join(names))


def plan(nodes: List[Dict[str, Any]], items: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """The summaries (see `_swarm.node_summary`) of the given nodes as they shall be, in the order of `items`.

    Raises `SwarmError` for a node that is not in the swarm and for a name that another node has.
    """
    by_id = {node["id"]: node for node in nodes}
    unknown = [
        "%s (%s)" % (item["node_id"], item["name"] or "no name")
        for item in items
        if item["node_id"] and item["node_id"] not in by_id and item["state"] == "present"
    ]
    if unknown:
        raise _swarm.SwarmError(
            "not in this swarm: %s. Nothing was changed. Next: docker node ls, and hbp.mip.swarm_member on that host" % ", ".join(unknown)
        )
    wanted = []
    for item in items:
        node = by_id.get(item["node_id"])
        if node is None or item["state"] == "absent":
            continue
        labels = wanted_labels(node["labels"], item)
        wanted.append(
            dict(
                node,
                labels=labels,
                name=labels.get("name", ""),
                availability=item["availability"] or node["availability"],
                role=item["role"] or node["role"],
            )
        )
    _check_names(nodes, items, wanted)
    return wanted


def _check_names(nodes: List[Dict[str, Any]], items: List[Dict[str, Any]], wanted: List[Dict[str, Any]]) -> None:
    handled = {node["id"] for node in wanted} | {item["node_id"] for item in items if item["state"] == "absent"}
    problems = []
    for node in wanted:
        for other in nodes:
            if other["id"] in handled or not node["name"] or other["name"] != node["name"]:
                continue
            text = "the name %s, wanted for the node %s (%s), is already on the node %s (%s, address %s, %s)" % (
                node["name"],
                node["id"],
                node["hostname"],
                other["id"],
                other["hostname"],
                other["address"],
                other["status"],
            )
            if other["status"] == "down":
                demote = "docker node demote %s; " % other["id"] if other["role"] == _swarm.MANAGER else ""
                text += ". If the new node replaces it, remove the old one on a manager: %sdocker node rm %s" % (demote, other["id"])
            else:
                text += (
                    ". Both are working nodes: find out which one is the right host, and take the label from the other: "
                    "docker node update --label-rm name %s" % other["id"]
                )
            problems.append(text)
    if problems:
        raise _swarm.SwarmError("%s. Nothing was changed" % "; ".join(problems))


def check_removals(nodes: List[Dict[str, Any]], items: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """The nodes to remove. Raises `SwarmError` for one that works or is a manager."""
    by_id = {node["id"]: node for node in nodes}
    removed = [by_id[item["node_id"]] for item in items if item["state"] == "absent" and item["node_id"] in by_id]
    for node in removed:
        if node["role"] == _swarm.MANAGER:
            raise _swarm.SwarmError(
                "the node %s (%s) is a manager. Nothing was changed. Next: docker node demote %s"
                % (node["id"], node["name"] or node["hostname"], node["id"])
            )
        if node["status"] != "down":
            raise _swarm.SwarmError(
                "the node %s (%s) is %s. Nothing was changed. A node is removed after it has left: run docker swarm leave on "
                "it first (hbp.mip.swarm_member, state: absent)"
                % (node["id"], node["name"] or node["hostname"], node["status"] or "not down")
            )
    return removed


def shown(node: Dict[str, Any]) -> Dict[str, Any]:
    """What a diff shows of a node."""
    return {key: node[key] for key in ("hostname", "name", "role", "availability", "labels")}


class Nodes:
    """Applies a plan."""

    def __init__(self, client: Any, timeout: float) -> None:
        self.client = client
        self.timeout = timeout

    def read(self) -> List[Dict[str, Any]]:
        """All nodes of the swarm."""
        with engine_call("list the nodes of the swarm"):
            return [_swarm.node_summary(node) for node in self.client.nodes()]

    def update(self, wanted: Dict[str, Any]) -> None:
        """Write one node's labels, availability and role, and wait for a changed role."""
        what = "update the node %s (%s)" % (wanted["id"], wanted["name"] or wanted["hostname"])
        for attempt in (1, 2, 3):
            try:
                with engine_call(what):
                    node = self.client.inspect_node(wanted["id"])
                    spec = dict(node["Spec"], Labels=wanted["labels"], Availability=wanted["availability"], Role=wanted["role"])
                    self.client.update_node(wanted["id"], node["Version"]["Index"], spec)
                break
            except EngineError as error:
                # The swarm itself writes nodes (status, role), so that the version read a moment ago may be old.
                if "out of sequence" not in str(error) or attempt == 3:
                    raise
        if node["Spec"]["Role"] != wanted["role"]:
            self._wait_for_role(wanted)

    def _wait_for_role(self, wanted: Dict[str, Any]) -> None:
        def changed() -> bool:
            with engine_call("inspect the node %s" % wanted["id"]):
                status = self.client.inspect_node(wanted["id"]).get("ManagerStatus") or {}
            return status.get("Reachability") == "reachable" if wanted["role"] == _swarm.MANAGER else not status

        if not wait_until(changed, self.timeout):
            raise EngineError(
                "the node %s (%s) is not a working %s %d s after its role was changed. Next: docker node inspect %s on a "
                "manager; journalctl -u docker -n 50 on the node; TCP 2377 must be open between managers"
                % (wanted["id"], wanted["name"] or wanted["hostname"], wanted["role"], self.timeout, wanted["id"])
            )

    def remove(self, node: Dict[str, Any]) -> None:
        """Remove a node that is down from the list of the swarm."""
        with engine_call("remove the node %s (%s)" % (node["id"], node["name"] or node["hostname"])):
            self.client.remove_node(node["id"])


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "nodes": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "node_id": {"type": "str", "required": True},
                    "name": {"type": "str"},
                    "labels": {"type": "dict", "default": {}},
                    "availability": {"type": "str", "choices": ["active", "pause", "drain"]},
                    "role": {"type": "str", "choices": ["manager", "worker"]},
                    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
                },
            },
            "timeout": {"type": "int", "default": 60},
            "docker_host": {"type": "str", "default": "unix:///var/run/docker.sock"},
            "engine_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    items: List[Dict[str, Any]] = module.params["nodes"]
    would = "would set names, labels, availability and roles of %d nodes" % len(items)
    done: List[str] = []
    try:
        check_items(items, module.check_mode)
        client = open_engine(module, would, {"nodes": [], "changed_nodes": []})
        with engine_call("read the state of the engine"):
            local = _swarm.local_state(client)
        if module.check_mode and local.state == _swarm.NONE:
            module.exit_json(changed=True, msg="%s once the swarm exists" % would, nodes=[], changed_nodes=[])
        local = _managers.require(client)
        nodes = Nodes(client, module.params["timeout"])
        found = nodes.read()
        wanted = plan(found, items)
        removals = check_removals(found, items)
        by_id = {node["id"]: node for node in found}
        roles = [node["id"] for node in _managers.steps(found, wanted, local.node_id)]
        changes = [node for node in wanted if shown(node) != shown(by_id[node["id"]])]
        changes.sort(key=lambda node: roles.index(node["id"]) if node["id"] in roles else -1)
        missing = [item["name"] or "a node" for item in items if not item["node_id"]]
        if not module.check_mode:
            for node in changes:
                if node["id"] in roles and node["role"] != _swarm.MANAGER:
                    _managers.wait_for_majority(nodes.read, node, module.params["timeout"])
                nodes.update(node)
                done.append(node["id"])
            for node in removals:
                nodes.remove(node)
                done.append(node["id"])
            if done:
                after_ids = [node["id"] for node in wanted]
                fresh = {node["id"]: node for node in nodes.read()}
                wanted = [fresh[node_id] for node_id in after_ids if node_id in fresh]
        else:
            done = [node["id"] for node in changes + removals]
    except (_swarm.SwarmError, EngineError) as error:
        module.fail_json(msg=str(error), changed=bool(done), changed_nodes=done, manager_lost=_managers.lost(error))
    if missing:
        module.warn("would set the name of %s once it has joined the swarm" % ", ".join(missing))
    touched = [item["node_id"] for item in items if item["node_id"] in by_id]
    after = {node["id"]: shown(node) for node in wanted}
    after.update({"(not joined) %s" % name: {"name": name} for name in missing})
    module.exit_json(
        changed=bool(done or missing),
        nodes=wanted,
        changed_nodes=done,
        diff={"before": {node_id: shown(by_id[node_id]) for node_id in touched}, "after": after},
    )


if __name__ == "__main__":
    main()
