#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_restart
short_description: Restart services of a federation one after the other
version_added: 0.2.0
description:
  - Gives each service new containers of the same specification, as C(docker service update --force) does, and waits until they run, and
    are healthy if they have a health check, before it goes on with the next service.
  - The engine reads its data when it starts, so this is how it learns of new databases.
  - Only services with the label C(eu.humanbrainproject.mip.federation) of this O(project) are ever touched. If one of the names is not
    such a service, nothing is restarted at all.
  - It stops at the first service that does not come back, and tells which were restarted and which were not.
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
  services:
    description:
      - Names of the services, in the order in which they are restarted.
    type: list
    elements: str
    required: true
  older_than:
    description:
      - Times by the name of a service, in seconds since 1970 or as C(2026-01-31T12:00:00Z). A service named here is restarted only if one
        of its containers was ordered before that time, or none runs. So a run that repeats one that was interrupted restarts what is left.
      - Compared with the clock of this manager.
      - A service of O(services) that is not named here is always restarted.
    type: dict
    default: {}
  skip_absent:
    description:
      - Leave out services that the swarm does not have, instead of refusing the whole list. Without a swarm there is then nothing to do.
    type: bool
    default: false
  needs:
    description:
      - Names of services that the others need in order to start. While one of them does not run on a node that answers, none of the others
        is restarted, because it would be ended and could not come back.
    type: list
    elements: str
    default: []
  may_rest:
    description:
      - Those of O(services) whose node may be drained. They are left alone there; the swarm gives them a new container once their node
        takes tasks again.
    type: list
    elements: str
    default: []
  timeout:
    description:
      - Seconds within which each service must run again.
    type: int
    default: 300
attributes:
  check_mode:
    description: Reports which services would be restarted.
    support: full
  diff_mode:
    description: A restart changes no specification.
    support: none
  idempotent:
    description: A restart is an action. Only services in O(older_than) are left alone when they have been restarted since.
    support: partial
seealso:
  - module: hbp.mip.swarm_services
"""

EXAMPLES = r"""
- name: Let the engine of two workers, then the master's, read its data again
  hbp.mip.swarm_restart:
    project: lab
    services:
      - lab-wk-1_exareme
      - lab-wk-2_exareme
      - lab-ms_exareme-master

- name: Restart a worker's engine unless that has happened since its data was compiled
  hbp.mip.swarm_restart:
    project: lab
    services: [lab-wk-1_exareme]
    older_than: {lab-wk-1_exareme: 1769860800.25}
"""

RETURN = r"""
manager_lost:
  description: This host is no working manager of the swarm; another one can be asked.
  returned: when that is why it failed
  type: bool
restarted:
  description: Names of the services that were restarted, or would be in check mode.
  returned: always
  type: list
  elements: str
not_restarted:
  description: Names of the service that failed and of those whose turn did not come.
  returned: when a service fails
  type: list
  elements: str
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
        - V(fresh) is a service whose containers are newer than O(older_than), V(stopped) one that is scaled to no containers, V(drained)
          one that may rest and whose node is drained, V(waiting) one whose turn did not come because another failed.
      type: str
      choices: [restarted, fresh, stopped, failed, waiting, drained]
    seconds:
      description: How long it took until the service ran again.
      type: float
    image:
      description: Its image, with the digest.
      type: str
    tasks:
      description: Its newest tasks (id, node, state, desired, error, since).
      type: list
      elements: dict
    error:
      description: Why it does not run. Empty when it does.
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
"""

import calendar
import math
import re
import time
from typing import Any, Collection, Dict, List, Mapping, Optional

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _managers, _services, _swarm
from ansible_collections.hbp.mip.plugins.module_utils._engine import EngineError, engine_call, hide_secrets, open_engine
from ansible_collections.hbp.mip.plugins.module_utils._rollout import (
    DRAINED,
    FAILED,
    UPDATED,
    Item,
    Rejected,
    Rollout,
    present_items,
    read_tasks,
    wait_for_turn,
)

RESTARTED = "restarted"
FRESH = "fresh"
STOPPED = "stopped"
WAITING = "waiting"

# A node that is away for longer was lost; a cut of some seconds is not waited for in vain.
_LOST_SECONDS = 30.0
_LOOK_SECONDS = 3.0

_TIME = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?Z$")


def seconds_of(value: Any, where: str) -> float:
    """Seconds since 1970 in `value`, a number or an ISO 8601 time in UTC. Raises `Rejected` naming `where`."""
    text = str(value).strip()
    found = _TIME.match(text)
    try:
        if found:
            return calendar.timegm(time.strptime(found.group(1), "%Y-%m-%dT%H:%M:%S")) + float(found.group(2) or 0)
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if isinstance(value, bool) or not math.isfinite(seconds):
        raise Rejected(["%s: %r is neither a number of seconds since 1970 nor a time such as 2026-01-31T12:00:00Z" % (where, value)])
    return seconds


def is_fresh(item: Item, older_than: Optional[float]) -> bool:
    """Whether all containers that `item` shall have run, and were ordered after `older_than` (seconds since 1970)."""
    running = _services.running(item.tasks)
    if older_than is None or len(running) < _services.replicas_of(item.spec):
        return False
    return all(created(task) > older_than for task in running)


def created(task: Mapping[str, Any]) -> float:
    """When the manager ordered `task`, in seconds since 1970. It starts, and reads its data, later than that."""
    return seconds_of(task.get("CreatedAt") or 0, "task %s" % task.get("ID"))


class Restart(Rollout):
    """Restarts services one at a time."""

    #: When the nodes were last looked at while waiting, and since when the one of the service that is restarted is away.
    looked = 0.0
    away_since = 0.0

    def plan(self, items: List[Item], older_than: Mapping[str, float], may_rest: Collection[str] = ()) -> None:
        """Decide which of `items` have to be restarted; those that `may_rest` names are left alone on a drained node."""
        tasks = self.read_tasks(items)
        self.read_nodes()
        drained = self.drained()
        for item in items:
            item.tasks = tasks.get(item.service_id, [])
            if not _services.replicas_of(item.spec):
                item.action = STOPPED
            elif item.name in may_rest and item.node in drained:
                item.action = DRAINED
            elif is_fresh(item, older_than.get(item.name)):
                item.action = FRESH
            else:
                item.action = WAITING

    def run(self, items: List[Item], seconds: Dict[str, float]) -> bool:
        """Restart those of `items` that wait for it; their durations go to `seconds`. Returns whether all came back."""
        for item in items:
            if item.action != WAITING:
                continue
            began = time.monotonic()
            self.restart(item)
            seconds[item.name] = round(time.monotonic() - began, 1)
            if item.failure:
                item.action = FAILED
                item.log = self.last_log_lines(item)
                return False
            item.action = RESTARTED
        return True

    def restart(self, item: Item) -> None:
        """Give the service of `item` new tasks and wait for them; notes a failure in it."""
        item.failure = self.obstacle(item)
        self.looked = self.away_since = 0.0
        if item.failure:
            return

        def change(spec: Dict[str, Any]) -> Dict[str, Any]:
            item.start_waiting(_services.forced(spec), read_tasks(self.client, [item.service_id])[item.service_id])
            return item.spec

        try:
            item.action, item.replaces_tasks = UPDATED, True
            self.rewrite(item, change)
            item.applied = True
            self.wait_for([item])
        except EngineError as error:
            item.failure = _services.Failure("refused", str(error), "docker service ps --no-trunc %s, then run again" % item.name)

    def obstacle(self, item: Item) -> Optional[_services.Failure]:
        """Why the only node for the tasks of `item` cannot take a new one: the running ones would be ended for nothing."""
        self.read_nodes()
        needs = self.module.params.get("needs") or []
        absent = [] if item.name in needs else self.not_running(needs)
        if absent:
            text = "it cannot start without %s, which does not run on a node that answers; so it was left as it is" % ", ".join(absent)
            return _services.Failure("needs", text, "bring back its node, or start it: docker service ps --no-trunc %s" % absent[0])
        if not item.node:
            return None
        named = [node for node in self.nodes.values() if node["name"] == item.node]
        if any(node["status"] == "ready" and node["availability"] == "active" for node in named):
            return None
        text = "the node %s cannot run a new task now, so it was left as it is" % item.node
        return self.placed(item, _services.Failure("placement", text, "docker node ls"))

    def not_running(self, names: Collection[str]) -> List[str]:
        """Those of these services of which no task runs on a node that answers. A dead node's tasks are still called running."""
        ids = {service["Spec"]["Name"]: service_id for service_id, service in self.read_services().items()} if names else {}
        tasks = read_tasks(self.client, [ids[name] for name in names if name in ids])

        def runs(name: str) -> bool:
            found = _services.running(tasks.get(ids.get(name, ""), []))
            return any((self.nodes.get(str(task.get("NodeID"))) or {}).get("status") == "ready" for task in found)

        return [name for name in names if not runs(name)]

    def is_up(self, item: Item, service: Optional[Dict[str, Any]], now: float) -> bool:
        """Whether it runs again. A node that is lost meanwhile is not waited for to the end: its new task may never have an error."""
        up = self.runs_again(item, service, now)
        if not up and not item.failure and item.node and now - self.looked >= _LOOK_SECONDS:
            self.looked = now
            self.read_nodes()
            away = not any(node["name"] == item.node and node["status"] == "ready" for node in self.nodes.values())
            self.away_since = (self.away_since or now) if away else 0.0
            if away and now - self.away_since >= _LOST_SECONDS:
                text = "its node %s was lost while it was restarted; it starts there once the node is back" % item.node
                item.failure = self.placed(item, _services.Failure("placement", text, "docker node ls"))
        return up

    def runs_again(self, item: Item, service: Optional[Dict[str, Any]], now: float) -> bool:
        """As for any update; but going back to the specification before a restart is a restart as well."""
        status = (service or {}).get("UpdateStatus") or {}
        state = str(status.get("State") or "")
        if service is None or not state.startswith("rollback") or _services.canonical(service["Spec"]) != _services.canonical(item.spec):
            return super().is_up(item, service, now)
        self.note_failures(item, now)
        new = [task for task in _services.running(item.tasks) if str(task["ID"]) not in item.known_tasks]
        if state == "rollback_completed" and len(new) >= _services.replicas_of(item.spec):
            item.failure = None
            self.module.warn("%s: its first new container failed (%s); the one after it runs" % (item.name, self.first_words(item, status)))
            return True
        if state == "rollback_paused" or item.failure:
            self.fail(item, "the restart stopped: %s" % (status.get("Message") or state))
        return False

    @staticmethod
    def first_words(item: Item, status: Mapping[str, Any]) -> str:
        """The engine's words about the first failed task of `item`."""
        failed = _services.newest_first(item.failed_tasks.values())
        return hide_secrets(_services.task_error(failed[-1]) if failed else str(status.get("Message") or "unknown"))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str", "required": True},
            "services": {"type": "list", "elements": "str", "required": True},
            "older_than": {"type": "dict", "default": {}},
            "skip_absent": {"type": "bool", "default": False},
            "needs": {"type": "list", "elements": "str", "default": []},
            "may_rest": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 300},
            "docker_host": {"type": "str", "default": "unix:///var/run/docker.sock"},
            "engine_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    names: List[str] = module.params["services"]
    project = module.params["project"]
    # What there is to do where there is no swarm yet.
    first = [] if module.params["skip_absent"] else names
    virgin: Dict[str, Any] = {"changed": bool(first), "restarted": first, "services": []}
    would = "would restart %d services" % len(first)
    client = open_engine(module, would, virgin)
    try:
        with engine_call("read the state of the engine"):
            local = _swarm.local_state(client)
        if local.state == _swarm.NONE and (module.check_mode or not first):
            module.exit_json(msg="%s once the swarm exists" % would, **virgin)
        _managers.require(client)
        turn = None if module.check_mode else wait_for_turn(project, 2 * module.params["timeout"])
        older_than = {name: seconds_of(value, "older_than.%s" % name) for name, value in module.params["older_than"].items()}
        unknown = sorted(set(older_than) - set(names))
        if unknown:
            raise Rejected(["older_than.%s: services does not name it" % name for name in unknown])
        with engine_call("list the services of the swarm"):
            items = present_items([(name, 0) for name in names], project, client.services(), module.params["skip_absent"])
        restart = Restart(module, client, [])
        restart.plan(items, older_than, module.params["may_rest"])
    except Rejected as error:
        module.fail_json(msg="%s. Nothing was restarted" % error, errors=error.reasons, restarted=[])
    except (_swarm.SwarmError, EngineError) as error:
        module.fail_json(msg=str(error), restarted=[], manager_lost=_managers.lost(error))
    seconds: Dict[str, float] = {}
    problem = ""
    if module.check_mode:
        for item in items:
            item.action = RESTARTED if item.action == WAITING else item.action
    else:
        try:
            restart.run(items, seconds)
        except EngineError as error:
            problem = str(error)
    if turn:
        turn.close()
    restarted = [item.name for item in items if item.action == RESTARTED]
    result = {
        "changed": any(item.applied for item in items) or (module.check_mode and bool(restarted)),
        "restarted": restarted,
        "services": [{**restart.describe(item), "action": item.action, "seconds": seconds.get(item.name, 0.0)} for item in items],
    }
    left = [item.name for item in items if item.action not in (RESTARTED, FRESH, STOPPED, DRAINED)]
    if not left:
        module.exit_json(**result)
    text = [restart.explain(item) for item in items if item.failure] + ([problem] if problem else [])
    text.append("Restarted before that: %s." % (", ".join(restarted) or "none"))
    untouched = [item.name for item in items if item.action == WAITING or (item.failure and not item.applied)]
    if untouched:
        text.append("Not restarted: %s. Once the reason is gone, run the same again." % ", ".join(untouched))
    manager_lost = bool(problem) and _managers.lost(EngineError(problem))
    module.fail_json(msg=hide_secrets("\n".join(text)), not_restarted=left, manager_lost=manager_lost, **result)


if __name__ == "__main__":
    main()
