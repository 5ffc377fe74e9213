# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Carrying out changes of a federation's services: taking turns, waiting until tasks run, and telling why they do not."""

from __future__ import annotations

import fcntl
import threading
import time
from typing import IO, TYPE_CHECKING, Any, Callable, Dict, Iterable, List, Mapping, Optional, Set, Tuple

from ansible_collections.hbp.mip.plugins.module_utils import _services, _swarm
from ansible_collections.hbp.mip.plugins.module_utils._engine import EngineError, connect, engine_call, hide_secrets

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

_LOG_LINES = 10
_LOG_LINE_LENGTH = 300
_LOG_SECONDS = 5.0
# Failed tasks in a row after which waiting on makes no sense.
_CRASHES = 3
# A scheduler that has just heard of a label or of a returning node may need a moment.
_PENDING_SECONDS = 15.0
# After a service has failed, how long the others of its wave get to finish or to fail as well.
_OTHERS_SECONDS = 20.0
_LONGEST_PAUSE = 1.0

CREATED = "created"
UPDATED = "updated"
UNCHANGED = "unchanged"
FAILED = "failed"
DRAINED = "drained"


class Rejected(Exception):
    """Nothing was done, for one or several reasons."""

    def __init__(self, reasons: List[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class Item:
    """A wanted service and what happens to it."""

    def __init__(self, options: Dict[str, Any], spec: Dict[str, Any], before: Optional[Dict[str, Any]]) -> None:
        self.name = str(options["name"])
        self.node = str(options["node"])
        self.wave = int(options["wave"])
        self.wait = bool(options["wait"])
        self.spec = spec
        self.before = before
        self.service_id = str(before["ID"]) if before else ""
        self.action = UNCHANGED
        self.applied = False
        self.replaces_tasks = False
        self.interrupted = False
        self.dead = False
        #: Its tasks have failed until now, so that one that runs must be seen to keep running.
        self.stumbles = False
        self.known_tasks: Set[str] = set()
        self.failed_tasks: Dict[str, Dict[str, Any]] = {}
        self.pending_since = 0.0
        self.running_since: Tuple[float, Tuple[str, ...]] = (0.0, ())
        self.tasks: List[Dict[str, Any]] = []
        self.failure: Optional[_services.Failure] = None
        self.failed_task: Optional[Dict[str, Any]] = None
        self.log: List[str] = []

    @property
    def has_healthcheck(self) -> bool:
        """Whether a running task is also a healthy one."""
        test = (self.spec["TaskTemplate"]["ContainerSpec"].get("Healthcheck") or {}).get("Test")
        return bool(test) and test != ["NONE"]

    def start_waiting(self, spec: Dict[str, Any], tasks: Iterable[Mapping[str, Any]]) -> None:
        """Forget what was seen of earlier tasks: from now on those of `spec` count."""
        self.spec = spec
        self.known_tasks = {str(task["ID"]) for task in tasks}
        self.failed_tasks = {}
        self.pending_since = 0.0
        self.running_since = (0.0, ())
        self.failure = None


def read_tasks(client: Any, ids: List[str]) -> Dict[str, List[Dict[str, Any]]]:
    """The tasks of the services with these IDs, by service ID."""
    result: Dict[str, List[Dict[str, Any]]] = {service_id: [] for service_id in ids}
    if ids:
        with engine_call("list the tasks of the swarm"):
            for task in client.tasks(filters={"service": ids}):
                result.setdefault(str(task["ServiceID"]), []).append(task)
    return result


def present_items(wanted: Iterable[Tuple[str, int]], project: str, services: List[Dict[str, Any]], skip_absent: bool = False) -> List[Item]:
    """The services that `wanted` names with their waves, in that order. Raises `Rejected` with everything that is wrong with them."""
    wanted = list(wanted)
    names = [name for name, _unused in wanted]
    reasons = ["service %s: given more than once" % name for name in sorted({name for name in names if names.count(name) > 1})]
    by_name = {service["Spec"]["Name"]: service for service in services}
    items = []
    for name, wave in wanted:
        service = by_name.get(name)
        if service is None and skip_absent:
            continue
        if service is None:
            ours = sorted(known for known, found in by_name.items() if not _services.not_ours(found, project))
            reasons.append(
                "service %s: the swarm does not have it (the federation %s has: %s). Next: mipfed deploy"
                % (name, project, ", ".join(ours) or "none")
            )
            continue
        problem = _services.not_ours(service, project)
        if not problem and "Replicated" not in (service["Spec"].get("Mode") or {"Replicated": {}}):
            problem = "service %s: it is not a replicated service. Next: mipfed deploy" % name
        if problem:
            reasons.append(problem)
            continue
        options = {"name": name, "node": _services.pinned_to(service["Spec"]), "wave": wave, "wait": True}
        items.append(Item(options, service["Spec"], service))
    if reasons:
        raise Rejected(reasons)
    return items


class Rollout:
    """Services that are being changed, on one manager."""

    def __init__(self, module: AnsibleModule, client: Any, nodes: List[Dict[str, Any]]) -> None:
        """`nodes` as `_swarm.node_summary` gives them."""
        self.module = module
        self.client = client
        self.timeout = float(module.params["timeout"])
        self.settle = float(module.params.get("settle") or 0)
        self.project = module.params["project"]
        self.nodes = {node["id"]: node for node in nodes}
        self.notes: List[str] = []

    # --- reading

    def read_services(self) -> Dict[str, Dict[str, Any]]:
        """The services of this project by ID."""
        with engine_call("list the services of the swarm"):
            found = self.client.services(filters={"label": "%s=%s" % (_services.PROJECT_LABEL, self.project)})
        return {str(service["ID"]): service for service in found}

    def read_nodes(self) -> None:
        """Look at the nodes of the swarm anew."""
        with engine_call("list the nodes of the swarm"):
            self.nodes = {node["id"]: node for node in map(_swarm.node_summary, self.client.nodes())}

    def drained(self) -> Set[str]:
        """The names of nodes that take no tasks because somebody drained them."""
        working = {node["name"] for node in self.nodes.values() if node["availability"] != "drain"}
        return {node["name"] for node in self.nodes.values()} - working

    def read_tasks(self, items: List[Item]) -> Dict[str, List[Dict[str, Any]]]:
        """Tasks of `items` by service ID."""
        return read_tasks(self.client, [item.service_id for item in items if item.service_id])

    # --- writing

    def update(self, item: Item, spec: Dict[str, Any]) -> None:
        """Give the service of `item` the specification `spec`."""
        self.rewrite(item, lambda _unused: spec)

    def rewrite(self, item: Item, change: Callable[[Dict[str, Any]], Dict[str, Any]]) -> None:
        """Give the service of `item` what `change` makes of its present specification."""
        for attempt in (1, 2, 3):
            with engine_call("inspect the service %s" % item.name):
                service = self.client.inspect_service(item.service_id)
            spec = change(service["Spec"])
            try:
                with engine_call("update the service %s" % item.name):
                    self.client.update_service(
                        item.service_id,
                        service["Version"]["Index"],
                        task_template=spec.get("TaskTemplate"),
                        **service_arguments(spec),
                    )
                return
            except EngineError as error:
                # The swarm writes the state of an update into the service itself.
                if "out of sequence" not in str(error) or attempt == 3:
                    raise

    # --- waiting

    def wait_for(self, items: List[Item]) -> None:
        """Wait until each of `items` runs or has a failure, at most the timeout of a wave."""
        waiting = list(items)
        deadline = time.monotonic() + self.timeout
        pause = 0.2
        while waiting:
            services, tasks = self.read_services(), self.read_tasks(waiting)
            now = time.monotonic()
            for item in list(waiting):
                item.tasks = tasks.get(item.service_id, [])
                if self.is_up(item, services.get(item.service_id), now) or item.failure:
                    waiting.remove(item)
            if not waiting:
                return
            if any(item.failure for item in items):
                deadline = min(deadline, now + _OTHERS_SECONDS)
            if now >= deadline:
                break
            time.sleep(min(pause, max(0.0, deadline - now)))
            pause = min(_LONGEST_PAUSE, pause * 1.3)
        others_failed = any(item.failure for item in items)
        for item in waiting:
            if not others_failed:
                self.give_up(item)

    def is_up(self, item: Item, service: Optional[Dict[str, Any]], now: float) -> bool:
        """Whether the service of `item` runs as wanted; notes a failure in it."""
        if service is None:
            item.failure = _services.Failure("gone", "the service was removed by somebody else", "deploy again")
            return False
        if _services.canonical(service["Spec"]) != _services.canonical(item.spec):
            state = (service.get("UpdateStatus") or {}).get("State") or ""
            self.note_failures(item, now)
            if state.startswith("rollback"):
                self.fail(item, "the swarm rolled the update back: %s" % (service["UpdateStatus"].get("Message") or state))
            else:
                item.failure = _services.Failure("changed", "the service was changed by somebody else meanwhile", "deploy again")
            return False
        status = service.get("UpdateStatus") or {}
        wanted = _services.replicas_of(item.spec)
        up = _services.running(_services.of_template(item.tasks, item.spec["TaskTemplate"]))
        if wanted == 0:
            return not _services.running(item.tasks)
        if len(up) >= wanted and not (
            item.action == UPDATED and item.applied and item.replaces_tasks and status.get("State") != "completed"
        ):
            ids = tuple(sorted(str(task["ID"]) for task in up))
            if item.running_since[1] != ids:
                item.running_since = (now, ids)
            settle = self.settle if (item.action == CREATED or item.stumbles) and not item.has_healthcheck else 0.0
            if now - item.running_since[0] >= settle:
                return True
        self.note_failures(item, now)
        if status.get("State") in ("paused", "rollback_paused"):
            self.fail(item, "the update stopped: %s" % (status.get("Message") or status["State"]))
        return False

    def note_failures(self, item: Item, now: float) -> None:
        """Collect what went wrong with the tasks of `item` so far; give up when trying again cannot help."""
        pending = None
        for task in _services.newest_first(item.tasks):
            if str(task["ID"]) in item.known_tasks:
                continue
            state = (task.get("Status") or {}).get("State")
            if state in _services.FAILED:
                item.failed_tasks[str(task["ID"])] = dict(task)
            elif state == "pending" and _services.task_error(task) and pending is None:
                pending = dict(task)
        if pending is None:
            item.pending_since = 0.0
        elif not item.pending_since:
            item.pending_since = now
        failed = _services.newest_first(item.failed_tasks.values())
        if failed:
            failure = self.diagnose(item, dict(failed[0]))
            limit = 1 if _services.is_definite(failure) else _CRASHES
            if len(failed) >= limit:
                item.failure, item.failed_task = failure, dict(failed[0])
        patience = _PENDING_SECONDS
        if item.replaces_tasks:
            # The old task may still hold the port, or the memory, that the new one waits for.
            patience += (item.spec["TaskTemplate"]["ContainerSpec"].get("StopGracePeriod") or 10 * 10**9) / 1e9
        if pending and item.pending_since and now - item.pending_since >= patience and not item.failure:
            item.failure, item.failed_task = self.diagnose(item, pending), pending

    def diagnose(self, item: Item, task: Dict[str, Any]) -> _services.Failure:
        """The failure that `task` shows, with what is known about its node."""
        failure = _services.diagnose(_services.task_error(task), _services.image_of(item.spec), _services.exit_code(task))
        return self.placed(item, failure) if failure.kind == "placement" else failure

    def placed(self, item: Item, failure: _services.Failure) -> _services.Failure:
        """`failure`, that no node can run `item`, with what is known about the node it is meant for."""
        if not item.node:
            return failure
        named = [node for node in self.nodes.values() if node["name"] == item.node]
        if not named:
            fix = "no node of the swarm has the label name=%s: docker node ls; deploy again sets it" % item.node
        elif named[0]["status"] != "ready":
            fix = "the node %s is %s: start its Docker engine, and check TCP 2377 and 7946 from there" % (
                item.node,
                named[0]["status"],
            )
        elif named[0]["availability"] != "active":
            fix = "the node %s takes no tasks: mipfed node activate %s" % (item.node, item.node)
        else:
            fix = failure.fix
        return failure._replace(fix=fix)

    def fail(self, item: Item, text: str) -> None:
        """Note that `item` failed as `text` says, with the newest task error behind it."""
        if item.failure:
            item.failure = item.failure._replace(error="%s (%s)" % (item.failure.error, text))
            return
        failed = _services.newest_first(item.failed_tasks.values())
        if failed:
            item.failed_task = dict(failed[0])
            failure = self.diagnose(item, item.failed_task)
            item.failure = failure._replace(error="%s (%s)" % (failure.error, text))
            return
        item.failure = _services.Failure("update", text, "docker service ps --no-trunc %s" % item.name)

    def give_up(self, item: Item) -> None:
        """Note that `item` does not run although its time is over."""
        if item.failed_tasks:
            self.fail(item, "not running after %g s" % self.timeout)
            return
        newest = _services.newest_first(item.tasks)
        if not newest:
            item.failure = _services.Failure(
                "timeout", "it has no task after %g s" % self.timeout, "docker service ps --no-trunc %s" % item.name
            )
            return
        task = dict(newest[0])
        status = task.get("Status") or {}
        state = status.get("State") or "new"
        words = _services.task_error(task)
        item.failed_task = task
        if words:
            failure = self.diagnose(item, task)
            item.failure = failure._replace(error="%s (%s for %g s)" % (failure.error, state, self.timeout))
        elif state == "starting" and item.has_healthcheck:
            item.failure = _services.Failure(
                "health",
                "its health check did not succeed within %g s" % self.timeout,
                "see the last lines of its log; raise the timeout if the program needs longer to start",
            )
        elif state == "preparing":
            item.failure = _services.Failure(
                "image",
                "the node was still fetching the image after %g s" % self.timeout,
                "on the node: docker pull %s" % _services.image_of(item.spec),
            )
        else:
            node = self.nodes.get(str(task.get("NodeID") or "")) or {}
            item.failure = _services.Failure(
                "timeout",
                "its task is %s after %g s%s"
                % (
                    state,
                    self.timeout,
                    ", the node is %s" % node["status"] if node.get("status") not in (None, "ready") else "",
                ),
                "journalctl -u docker -n 50 on the node; docker service ps --no-trunc %s" % item.name,
            )

    # --- explaining

    def last_log_lines(self, item: Item) -> List[str]:
        """The last lines that the failed task of `item` wrote. Never takes longer than some seconds."""
        if not item.service_id or item.failure is None or item.failure.kind in ("placement", "resources", "mount", "refused"):
            return []
        task_id = str(item.failed_task["ID"]) if item.failed_task else ""
        chunks: List[bytes] = []

        # The engine asks the nodes for logs and waits for all of them, so that one dead node blocks the answer.
        def read() -> None:
            try:
                client = connect(self.module.params["docker_host"], _LOG_SECONDS)
                for chunk in client.service_logs(item.service_id, stdout=True, stderr=True, details=True, tail=_LOG_LINES, is_tty=False):
                    chunks.append(chunk)
            except Exception as error:
                self.notes.append("log of %s: %s" % (item.name, error))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(_LOG_SECONDS)
        return log_lines(b"".join(list(chunks)), task_id)

    def where(self, item: Item) -> str:
        """The name of the node on which `item` failed."""
        node = self.nodes.get(str((item.failed_task or {}).get("NodeID") or ""))
        if node:
            return str(node["name"] or node["hostname"])
        return item.node

    def explain(self, item: Item) -> str:
        """One paragraph about the failure of `item`."""
        failure = item.failure
        if failure is None:
            return ""
        node = self.where(item)
        text = "%s%s: %s" % (item.name, " on %s" % node if node else "", failure.error)
        if item.log:
            text += "\n  last lines of its log:\n    " + "\n    ".join(item.log)
        return "%s\n  Next: %s" % (text, failure.fix)

    def describe(self, item: Item) -> Dict[str, Any]:
        """What modules return about `item`, whatever they did with it."""
        failure = item.failure
        return {
            "name": item.name,
            "node": item.node,
            "id": item.service_id,
            "image": _services.image_of(item.spec),
            "tasks": [self._task(task) for task in _services.newest_first(item.tasks)[:3]],
            "error": hide_secrets(failure.error) if failure else "",
            "kind": failure.kind if failure else "",
            "fix": failure.fix if failure else "",
            "log": item.log,
        }

    def _task(self, task: Any) -> Dict[str, Any]:
        node = self.nodes.get(str(task.get("NodeID") or "")) or {}
        status = task.get("Status") or {}
        return {
            "id": task.get("ID", ""),
            "node": node.get("name") or node.get("hostname") or "",
            "state": status.get("State", ""),
            "desired": task.get("DesiredState", ""),
            "error": _services.task_error(task),
            "since": status.get("Timestamp", ""),
        }


def log_lines(data: bytes, task_id: str) -> List[str]:
    """The last lines of `data`, a log with details, that the task `task_id` wrote (all tasks when it is empty)."""
    lines = []
    for line in data.decode("utf-8", "replace").splitlines():
        details, _unused, text = line.partition(" ")
        if "com.docker.swarm.task.id=" not in details:
            text = line
        elif task_id and "com.docker.swarm.task.id=%s" % task_id not in details:
            continue
        text = "".join(char for char in text if char.isprintable() or char == "\t")
        lines.append(hide_secrets(text[:_LOG_LINE_LENGTH]))
    return lines[-_LOG_LINES:]


def service_arguments(spec: Dict[str, Any]) -> Dict[str, Any]:
    """The arguments of the SDK's create_service and update_service for everything but the task template."""
    return {
        "name": spec.get("Name"),
        "labels": spec.get("Labels"),
        "mode": spec.get("Mode"),
        "update_config": spec.get("UpdateConfig"),
        "rollback_config": spec.get("RollbackConfig"),
        "endpoint_spec": spec.get("EndpointSpec"),
    }


def wait_for_turn(project: str, seconds: float) -> IO[str]:
    """Wait until no other call for the same federation is at work on this manager, at most so many seconds.

    A call goes on when the run that made it is killed or loses its connection. The next run lets it end, instead of both
    creating the same services. The lock goes with the process that holds the returned file.
    """
    lock = open("/run/hbp-mip-services-%s.lock" % project, "w", encoding="utf-8")  # noqa: SIM115 - held by the caller
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() >= deadline:
                lock.close()
                raise EngineError(
                    "another call for the federation %s is still at work on this manager after %d s; look for it with: "
                    "ps -ef | grep swarm_" % (project, seconds)
                ) from None
            time.sleep(0.3)
