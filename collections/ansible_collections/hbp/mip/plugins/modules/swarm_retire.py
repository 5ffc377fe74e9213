#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_retire
short_description: Take a node of a federation out of service, or out of its swarm
version_added: 0.3.0
description:
  - Runs on a manager, and finds the node by its label C(name), whatever its ID is now.
  - A node that was installed anew leaves its dead twin in the swarm. With O(keep) the twin goes and the new one stays.
  - Never touches the node that it runs on.
extends_documentation_fragment:
  - hbp.mip.engine
author:
  - The hbp.mip authors (@HBPMedical)
options:
  name:
    description:
      - Name of the node in the federation, its label C(name).
    type: str
    required: true
  project:
    description:
      - Name of the federation. Services of others are neither waited for nor touched.
    type: str
    required: true
  state:
    description:
      - V(drained) moves services away, or stops them where they can run nowhere else, and waits for the last of their tasks.
      - V(demoted) is V(drained), and a manager becomes a worker first, so that it can leave.
      - V(active) lets it take tasks again.
      - V(absent) removes the federation's services that are pinned to the node, and then the node itself, once it has left or is down.
      - V(removed) does the second only.
    type: str
    choices: [drained, demoted, active, absent, removed]
    required: true
  keep:
    description:
      - IDs of nodes that stay, although they have the name.
    type: list
    elements: str
    default: []
  force:
    description:
      - Remove also a node that the swarm still takes for a working one after O(timeout). For a host that cannot be told to leave.
    type: bool
    default: false
  timeout:
    description:
      - Seconds within which tasks must have stopped, or the node be down.
    type: int
    default: 90
attributes:
  check_mode:
    description: Reports what would be done, without doing it.
    support: full
  diff_mode:
    description: Shows the nodes and services before and after.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
seealso:
  - module: hbp.mip.swarm_nodes
  - module: hbp.mip.swarm_member
"""

EXAMPLES = r"""
- name: Take a hospital out of service
  hbp.mip.swarm_retire:
    name: hospital-north
    project: hospitals
    state: drained

- name: Forget it, after it has left
  hbp.mip.swarm_retire:
    name: hospital-north
    project: hospitals
    state: absent
"""

RETURN = r"""
found:
  description: The nodes with this name, and what was done to each.
  returned: always
  type: list
  elements: dict
  contains:
    id:
      description: ID of the node.
      type: str
    hostname:
      description: Its host name.
      type: str
    status:
      description: Its state in the swarm before.
      type: str
    role:
      description: Its role before.
      type: str
    availability:
      description: Its availability before.
      type: str
    address:
      description: Its address.
      type: str
    action:
      description: What was done, or would be in check mode.
      type: str
      choices: ["", drained, activated, demoted, removed, forced]
services:
  description: Names of the services that were removed.
  returned: always
  type: list
  elements: str
swarm:
  description: Whether this host is a manager of a swarm. Otherwise there was nothing to do.
  returned: always
  type: bool
cluster_id:
  description: ID of the swarm.
  returned: always
  type: str
"""

from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _services, _swarm
from ansible_collections.hbp.mip.plugins.module_utils._engine import EngineError, engine_call, open_engine, wait_until

#: States of a task that holds nothing on its node any more.
_ENDED = ("complete", "shutdown", "failed", "rejected", "remove", "orphaned")
_AVAILABILITY = {"drained": "drain", "demoted": "drain", "active": "active"}


def pinned(services: List[Dict[str, Any]], project: str, name: str) -> List[Dict[str, Any]]:
    """The services of `project` that can run on the node `name` only."""
    return [
        service
        for service in services
        if (service["Spec"].get("Labels") or {}).get(_services.PROJECT_LABEL) == project and _services.pinned_to(service["Spec"]) == name
    ]


def busy(tasks: List[Dict[str, Any]], node_ids: List[str], service_ids: List[str]) -> List[Dict[str, Any]]:
    """The tasks of these services that still hold something on these nodes."""
    return [
        task
        for task in tasks
        if task.get("NodeID") in node_ids and task.get("ServiceID") in service_ids and (task.get("Status") or {}).get("State") not in _ENDED
    ]


class Retirement:
    """One run of the module."""

    def __init__(self, module: AnsibleModule, client: Any, own_id: str) -> None:
        self.module = module
        self.params: Dict[str, Any] = module.params
        self.client = client
        self.found = [node for node in self.nodes() if node["name"] == self.params["name"] and node["id"] not in self.params["keep"]]
        if any(node["id"] == own_id for node in self.found):
            raise _swarm.SwarmError("%s is the node that this runs on. Nothing was changed" % self.params["name"])
        self.actions = {node["id"]: "" for node in self.found}
        self.removed: List[str] = []

    def nodes(self) -> List[Dict[str, Any]]:
        """All nodes of the swarm."""
        with engine_call("list the nodes of the swarm"):
            return [_swarm.node_summary(node) for node in self.client.nodes()]

    def services(self) -> List[Dict[str, Any]]:
        """The services of the federation."""
        with engine_call("list the services of the swarm"):
            found: List[Dict[str, Any]] = self.client.services(
                filters={"label": "%s=%s" % (_services.PROJECT_LABEL, self.params["project"])}
            )
        return found

    def run(self) -> None:
        """Do what the options ask."""
        state = self.params["state"]
        if state in _AVAILABILITY:
            for node in self.found:
                if state == "demoted" and node["role"] == _swarm.MANAGER:
                    self.demote(node)
            self.set_availability(_AVAILABILITY[state])
            if state != "active" and not self.module.check_mode:
                self.wait_for_tasks()
            return
        if state == "absent":
            self.remove_services()
        for node in self.found:
            self.remove(node)

    def set_availability(self, wanted: str) -> None:
        """Drain or activate."""
        for node in self.found:
            if node["availability"] == wanted:
                continue
            self.actions[node["id"]] = self.actions[node["id"]] or ("drained" if wanted == "drain" else "activated")
            if not self.module.check_mode:
                self.update(node, Availability=wanted)

    def update(self, node: Dict[str, Any], **changes: Any) -> None:
        """Change parts of a node's specification."""
        for attempt in (1, 2, 3):
            try:
                with engine_call("update the node %s (%s)" % (node["id"], node["name"] or node["hostname"])):
                    now = self.client.inspect_node(node["id"])
                    self.client.update_node(node["id"], now["Version"]["Index"], dict(now["Spec"], **changes))
                return
            except EngineError as error:
                # The swarm itself writes nodes, so that the version read a moment ago may be old.
                if "out of sequence" not in str(error) or attempt == 3:
                    raise

    def wait_for_tasks(self) -> None:
        """Wait until the node has stopped the federation's tasks, or is down and stops nothing any more."""
        ids = [node["id"] for node in self.found]
        left: List[Dict[str, Any]] = []

        def stopped() -> bool:
            alive = [node["id"] for node in self.nodes() if node["id"] in ids and node["status"] == "ready"]
            services = [str(service["ID"]) for service in self.services()]
            left[:] = []
            if alive and services:
                with engine_call("list the tasks of the swarm"):
                    left[:] = busy(self.client.tasks(filters={"service": services}), alive, services)
            return not left

        if ids and not wait_until(stopped, self.params["timeout"]):
            raise EngineError(
                "%s is drained, but after %d s it has not stopped: %s. Next: docker ps on it; journalctl -u docker -n 50"
                % (self.params["name"], self.params["timeout"], ", ".join(str(task.get("ID")) for task in left))
            )

    def remove_services(self) -> None:
        """Remove the federation's services that can run on this node only."""
        for service in pinned(self.services(), self.params["project"], self.params["name"]):
            self.removed.append(str(service["Spec"]["Name"]))
            if not self.module.check_mode:
                with engine_call("remove the service %s" % service["Spec"]["Name"]):
                    self.client.remove_service(service["ID"])

    def remove(self, node: Dict[str, Any]) -> None:
        """Remove a node that is down, or becomes so; a manager is demoted first."""
        if self.module.check_mode:
            self.actions[node["id"]] = "removed"
            return
        if node["role"] == _swarm.MANAGER:
            self.demote(node)

        def down() -> bool:
            return not any(other["id"] == node["id"] and other["status"] == "ready" for other in self.nodes())

        force = False
        if not wait_until(down, self.params["timeout"]):
            if not self.params["force"]:
                raise EngineError(
                    "the node %s (%s) still is a working member of the swarm after %d s. It was drained and not removed. "
                    "Next, on it: docker swarm leave" % (self.params["name"], node["id"], self.params["timeout"])
                )
            force = True
        with engine_call("remove the node %s (%s)" % (self.params["name"], node["id"])):
            self.client.remove_node(node["id"], force=force)
        self.actions[node["id"]] = "forced" if force else "removed"

    def demote(self, node: Dict[str, Any]) -> None:
        """Make a manager a worker, and wait until the other managers no longer count it."""
        managers = [other for other in self.nodes() if other["role"] == _swarm.MANAGER]
        working = [other for other in managers if other["reachability"] == "reachable" and other["id"] != node["id"]]
        if 2 * len(working) <= len(managers) - 1:
            raise _swarm.SwarmError(
                "%s is one of %d managers, and without it only %d of them work, which is no majority. Nothing was removed. "
                "Start the others first" % (self.params["name"], len(managers), len(working))
            )
        self.actions[node["id"]] = "demoted"
        if self.module.check_mode:
            return
        self.update(node, Role="worker")

        def worker() -> bool:
            return not any(other["id"] == node["id"] and other["reachability"] for other in self.nodes())

        if not wait_until(worker, self.params["timeout"]):
            raise EngineError(
                "the managers still count %s (%s) after %d s. Next: docker node ls"
                % (self.params["name"], node["id"], self.params["timeout"])
            )

    def result(self) -> List[Dict[str, Any]]:
        """What the module returns about the nodes."""
        keys = ("id", "hostname", "status", "role", "availability", "address")
        return [dict({key: node[key] for key in keys}, action=self.actions[node["id"]]) for node in self.found]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "project": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["drained", "demoted", "active", "absent", "removed"], "required": True},
            "keep": {"type": "list", "elements": "str", "default": []},
            "force": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 90},
            "docker_host": {"type": "str", "default": "unix:///var/run/docker.sock"},
            "engine_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    nothing: Dict[str, Any] = {"changed": False, "found": [], "services": [], "swarm": False, "cluster_id": ""}
    client = open_engine(module, "would look for the node", nothing)
    try:
        with engine_call("read the state of the engine"):
            local = _swarm.local_state(client)
        if local.state == _swarm.NONE:
            module.exit_json(msg="this host is in no swarm, so that there is nothing to take out of it", **nothing)
        _swarm.require_manager(local)
        retirement = Retirement(module, client, local.node_id)
    except (_swarm.SwarmError, EngineError) as error:
        module.fail_json(msg=str(error))
    try:
        retirement.run()
    except (_swarm.SwarmError, EngineError) as error:
        done = bool(retirement.removed) or any(retirement.actions.values())
        module.fail_json(msg=str(error), changed=done, found=retirement.result(), services=retirement.removed)
    found = retirement.result()
    before = [{key: node[key] for key in ("id", "hostname", "availability", "role")} for node in found]
    gone = ("removed", "forced")
    new = {
        "drained": {"availability": "drain"},
        "demoted": {"availability": "drain", "role": "worker"},
        "activated": {"availability": "active"},
    }
    after = [dict(entry, **new.get(node["action"], {})) for entry, node in zip(before, found) if node["action"] not in gone]
    module.exit_json(
        changed=bool(retirement.removed) or any(node["action"] for node in found),
        found=found,
        services=retirement.removed,
        swarm=True,
        cluster_id=local.cluster_id,
        diff={"before": {"nodes": before, "services": retirement.removed}, "after": {"nodes": after, "services": []}},
    )


if __name__ == "__main__":
    main()
