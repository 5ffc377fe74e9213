#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_power
short_description: Start or stop services of a federation on purpose
version_added: 0.3.0
description:
  - Stops services by scaling them to no tasks, and starts them again, in an order that keeps those that depend on others from running
    without them. Nothing is removed; data and specification stay.
  - That a service was stopped on purpose is remembered in its labels, with the time. M(hbp.mip.swarm_services) leaves such a service
    stopped, whatever else it changes in it, and M(hbp.mip.swarm_info) tells it.
  - Started services are waited for until they run, and are healthy if they have a health check. Of stopped ones it waits until their
    containers have ended.
  - Only services with the label C(eu.humanbrainproject.mip.federation) of this O(project) are ever touched. If one of the names is not
    such a service, nothing is done at all.
  - It goes on with the next wave only when the one before is done.
extends_documentation_fragment:
  - hbp.mip.engine
author:
  - The hbp.mip authors (@HBPMedical)
options:
  project:
    description:
      - Name of the federation that owns the services.
    type: str
    required: true
  state:
    description:
      - V(started) starts waves in ascending order, V(stopped) stops them in descending order.
      - A service that runs already, but has no working task, is waited for; one that the swarm has given up gets new tasks.
    type: str
    choices: [started, stopped]
    required: true
  services:
    description:
      - The services.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the service.
        type: str
        required: true
      wave:
        description: Services of one wave are started or stopped together.
        type: int
        default: 0
      may_rest:
        description:
          - Is it all right that its node is drained? Then it is started without being waited for; the swarm runs it once its node takes
            tasks again.
        type: bool
        default: false
  reason:
    description:
      - Why they are stopped, for those who look at the status later.
    type: str
    default: ""
  timeout:
    description:
      - Seconds within which the services of one wave must run, or have ended.
    type: int
    default: 300
attributes:
  check_mode:
    description: Reports which services would be started or stopped.
    support: full
  diff_mode:
    description: Shows how many tasks each service has, and since when it is stopped.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
seealso:
  - module: hbp.mip.swarm_restart
  - module: hbp.mip.swarm_services
"""

EXAMPLES = r"""
- name: Stop the engine everywhere, the workers' first
  hbp.mip.swarm_power:
    project: lab
    state: stopped
    reason: the power of the machine room is switched off on Saturday
    services:
      - {name: lab-ms_exareme-master, wave: 1}
      - {name: lab-wk-1_exareme, wave: 2}
      - {name: lab-wk-2_exareme, wave: 2}

- name: Start one hospital's engine
  hbp.mip.swarm_power:
    project: lab
    state: started
    services: [{name: lab-wk-1_exareme}]
"""

RETURN = r"""
services:
  description: Each service in the order of O(services).
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the service.
      type: str
    node:
      description: The node that it is bound to.
      type: str
    id:
      description: ID of the service.
      type: str
    action:
      description:
        - What was done, or would be done in check mode.
        - V(waiting) is a service whose turn did not come because another failed.
        - V(drained) is a service that may rest and shall run, whose node is drained.
      type: str
      choices: [started, stopped, unchanged, failed, waiting, drained]
    since:
      description: Since when it is stopped on purpose. Empty when it is not.
      type: str
    reason:
      description: Why, in the operator's words.
      type: str
    unconfirmed:
      description: Nodes that cannot be asked whether the service's container has ended there. It ends when they come back.
      type: list
      elements: str
    seconds:
      description: How long it took.
      type: float
    image:
      description: Its image, with the digest.
      type: str
    tasks:
      description: Its newest tasks (id, node, state, desired, error, since).
      type: list
      elements: dict
    error:
      description: Why it does not run, or does not end. Empty otherwise.
      type: str
    kind:
      description: Kind of the error.
      type: str
      sample: crash
    fix:
      description: What to do about it.
      type: str
    log:
      description: Last lines of the log of the failed task.
      type: list
      elements: str
manager_lost:
  description: This host is no working manager of the swarm; another one can be asked.
  returned: when that is why it failed
  type: bool
"""

import time
from typing import Any, Collection, Dict, List

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _managers, _services, _stopped, _swarm
from ansible_collections.hbp.mip.plugins.module_utils._engine import EngineError, engine_call, hide_secrets, open_engine
from ansible_collections.hbp.mip.plugins.module_utils._rollout import (
    CREATED,
    DRAINED,
    FAILED,
    UNCHANGED,
    Item,
    Rejected,
    Rollout,
    present_items,
    read_tasks,
    wait_for_turn,
)

STARTED = "started"
STOPPED = "stopped"
WAITING = "waiting"

_PAUSE_SECONDS = 0.5


def is_running(item: Item) -> bool:
    """Whether the service has all the tasks that it shall have, and at least one."""
    wanted = _services.replicas_of(item.spec)
    return wanted > 0 and not _stopped.since(item.spec) and len(_services.running(item.tasks)) >= wanted


def is_stopped(item: Item) -> bool:
    """Whether the service is stopped on purpose and nothing of it runs."""
    return bool(_stopped.since(item.spec)) and not _services.replicas_of(item.spec) and not alive(item.tasks)


def alive(tasks: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """The tasks that have a container, or may get one."""
    return [task for task in tasks if (task.get("Status") or {}).get("State") not in _services.ENDED]


class Power(Rollout):
    """Starts or stops services, wave by wave."""

    def __init__(self, module: AnsibleModule, client: Any, nodes: List[Dict[str, Any]]) -> None:
        super().__init__(module, client, nodes)
        self.state = str(module.params["state"])
        self.settle = 2.0
        self.unconfirmed: Dict[str, List[str]] = {}
        self.seconds: Dict[str, float] = {}

    def plan(self, items: List[Item], may_rest: Collection[str] = ()) -> None:
        """Decide which of `items` have something to be done to them; those that `may_rest` names are not waited for on a drained node."""
        tasks = self.read_tasks(items)
        self.read_nodes()
        drained = self.drained()
        for item in items:
            item.tasks = tasks.get(item.service_id, [])
            done = is_running(item) if self.state == STARTED else is_stopped(item)
            item.action = UNCHANGED if done else WAITING
            item.wait = not (self.state == STARTED and item.name in may_rest and item.node in drained)

    def waves(self, items: List[Item]) -> List[List[Item]]:
        """`items` by waves, in the order in which they are worked on."""
        numbers = sorted({item.wave for item in items}, reverse=self.state == STOPPED)
        return [[item for item in items if item.wave == number] for number in numbers]

    def run(self, items: List[Item]) -> bool:
        """Work through the waves. Returns whether all of them are done."""
        for wave in self.waves(items):
            members = [item for item in wave if item.action == WAITING]
            began = time.monotonic()
            for item in members:
                try:
                    self.apply(item)
                except EngineError as error:
                    item.failure = _services.Failure("refused", str(error), "docker service inspect %s, then run again" % item.name)
            pending = [item for item in members if item.failure is None and item.wait]
            if self.state == STARTED:
                self.wait_for(pending)
            else:
                self.wait_for_end(pending)
            for item in members:
                self.seconds[item.name] = round(time.monotonic() - began, 1)
                item.action = FAILED if item.failure else self.state if item.wait else DRAINED
                if item.failure:
                    item.log = self.last_log_lines(item)
            if any(item.failure for item in members):
                return False
        return True

    def apply(self, item: Item) -> None:
        """Write the service of `item` as it shall be."""
        now = _swarm.iso_time(time.time())
        tasks = read_tasks(self.client, [item.service_id])[item.service_id]
        given_up = _services.is_dead(item.spec, tasks) or _services.needs_repair(item.before or {})

        def change(spec: Dict[str, Any]) -> Dict[str, Any]:
            if self.state == STOPPED:
                wanted = _stopped.stopped(spec, now, self.module.params["reason"])
            else:
                wanted = _stopped.started(spec)
                if given_up:
                    # Nobody starts it again, unless its tasks are wanted anew.
                    wanted = _services.forced(wanted)
            # Where nothing changes, the swarm tries again by itself: what failed before may be mended since.
            item.start_waiting(wanted, tasks if wanted != spec else _services.ended(tasks))
            return wanted

        present = item.spec
        if change(present) != present:
            self.rewrite(item, change)
            item.applied = True
        # New tasks without a health check have to keep running for a moment.
        item.action = CREATED

    def wait_for_end(self, items: List[Item]) -> None:
        """Wait until no container of `items` runs, except on nodes that cannot be asked."""
        deadline = time.monotonic() + self.timeout
        waiting = list(items)
        while waiting:
            self.read_nodes()
            tasks = self.read_tasks(waiting)
            for item in list(waiting):
                item.tasks = tasks.get(item.service_id, [])
                left = alive(item.tasks)
                # A new leader calls every node unknown until it hears from it; only one that is down cannot be waited for.
                silent = [task for task in left if (self.nodes.get(str(task.get("NodeID"))) or {}).get("status") == "down"]
                if len(silent) == len(left):
                    waiting.remove(item)
                    named = [self.nodes[str(task["NodeID"])] for task in silent]
                    self.unconfirmed[item.name] = sorted({str(node["name"] or node["hostname"]) for node in named})
            if not waiting:
                return
            if time.monotonic() >= deadline:
                break
            time.sleep(_PAUSE_SECONDS)
        for item in waiting:
            item.failed_task = alive(item.tasks)[0]
            item.failure = _services.Failure(
                "timeout",
                "its container has not ended after %g s" % self.timeout,
                "on the node: docker ps; journalctl -u docker -n 50",
            )

    def result(self, item: Item) -> Dict[str, Any]:
        """What the module returns about `item`."""
        return {
            **self.describe(item),
            "action": item.action,
            "since": _stopped.since(item.spec),
            "reason": _stopped.reason(item.spec),
            "unconfirmed": self.unconfirmed.get(item.name, []),
            "seconds": self.seconds.get(item.name, 0.0),
        }


def shown(items: List[Item], specs: Dict[str, Dict[str, Any]]) -> Dict[str, Any]:
    """What a diff shows of the services with these specifications."""
    return {
        item.name: {"tasks": _services.replicas_of(specs[item.name]), "stopped_since": _stopped.since(specs[item.name])} for item in items
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str", "required": True},
            "state": {"type": "str", "choices": [STARTED, STOPPED], "required": True},
            "services": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "wave": {"type": "int", "default": 0},
                    "may_rest": {"type": "bool", "default": False},
                },
            },
            "reason": {"type": "str", "default": ""},
            "timeout": {"type": "int", "default": 300},
            "docker_host": {"type": "str", "default": "unix:///var/run/docker.sock"},
            "engine_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    params: Dict[str, Any] = module.params
    client = open_engine(module, "would do nothing: there are no services before a deploy", {"changed": False, "services": []})
    try:
        _managers.require(client)
        turn = None if module.check_mode else wait_for_turn(params["project"], 2 * params["timeout"])
        with engine_call("list the services of the swarm"):
            wanted = [(str(entry["name"]), int(entry["wave"])) for entry in params["services"]]
            items = present_items(wanted, params["project"], client.services())
        power = Power(module, client, [])
        power.plan(items, {str(entry["name"]) for entry in params["services"] if entry["may_rest"]})
    except Rejected as error:
        module.fail_json(msg="%s. Nothing was done" % error, errors=error.reasons)
    except (_swarm.SwarmError, EngineError) as error:
        module.fail_json(msg=str(error), manager_lost=_managers.lost(error))
    before = {item.name: item.spec for item in items}
    problem, manager_lost = "", False
    if module.check_mode:
        now = _swarm.iso_time(time.time())
        for item in items:
            if item.action == WAITING:
                item.action = power.state if item.wait else DRAINED
                item.spec = _stopped.started(item.spec) if power.state == STARTED else _stopped.stopped(item.spec, now, params["reason"])
                item.applied = item.spec != before[item.name]
    else:
        try:
            power.run(items)
        except EngineError as error:
            problem, manager_lost = str(error), _managers.lost(error)
    if turn:
        turn.close()
    result = {
        "changed": any(item.applied for item in items),
        "services": [power.result(item) for item in items],
        "diff": {"before": shown(items, before), "after": shown(items, {item.name: item.spec for item in items})},
    }
    left = [item for item in items if item.action not in (STARTED, STOPPED, UNCHANGED, DRAINED)]
    if not left:
        module.exit_json(**result)
    text = [power.explain(item) for item in items if item.failure] + ([problem] if problem else [])
    turnless = [item.name for item in items if item.action == WAITING]
    if turnless:
        text.append("Not %s: %s. Once the reason is gone, run the same again." % (power.state, ", ".join(turnless)))
    module.fail_json(msg=hide_secrets("\n".join(text)), manager_lost=manager_lost, **result)


if __name__ == "__main__":
    main()
