# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Choosing and judging in swarm_restart. Restarting is tested on real engines."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _services
from ansible_collections.hbp.mip.plugins.module_utils._rollout import UPDATED, Item, Rejected, present_items
from ansible_collections.hbp.mip.plugins.modules import swarm_restart
from ansible_collections.hbp.mip.plugins.modules.swarm_restart import Restart

NODE = {"id": "n1", "name": "wk-1", "hostname": "h", "status": "ready", "availability": "active"}


def service(name: str = "wk-1_exareme", **changes: Any) -> dict[str, Any]:
    start: dict[str, Any] = {"name": name, "image": "r:5000/x:1", "constraints": ["node.labels.name == wk-1"]}
    return {"ID": "id-" + name, "Spec": _services.build_spec({**start, **changes}, "lab", {}, {}, {})}


def item(**changes: Any) -> Item:
    return present_items([("wk-1_exareme", 0)], "lab", [service(**changes)])[0]


def task(task_id: str, spec: dict[str, Any], state: str = "running", **status: Any) -> dict[str, Any]:
    desired = "shutdown" if state in ("failed", "rejected", "shutdown") else "running"
    return {
        "ID": task_id, "ServiceID": "id-wk-1_exareme", "CreatedAt": f"2026-01-01T00:00:{task_id}.5Z", "DesiredState": desired,
        "NodeID": "n1", "Spec": spec["TaskTemplate"], "Status": {"State": state, **status},
    }  # fmt: skip


def restart(**parts: Any) -> Restart:
    module: Any = SimpleNamespace(params={"timeout": 60, "project": "lab"}, warnings=[])
    module.warn = module.warnings.append
    ready = {"ID": "n1", "Spec": {"Labels": {"name": "wk-1"}, "Availability": "active"}, "Status": {"State": "ready"}}
    return Restart(module, SimpleNamespace(**{"nodes": lambda: [ready], **parts}), [NODE])


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (1.5, 1.5),
        ("1767225600", 1767225600.0),
        ("2026-01-01T00:00:00Z", 1767225600.0),
        ("2026-01-01T00:00:01.25Z", 1767225601.25),
    ],
)
def test_times(value: Any, seconds: float) -> None:
    assert swarm_restart.seconds_of(value, "x") == seconds


@pytest.mark.parametrize("value", ["", "yesterday", "nan", "inf", True, None, "2026-13-01T00:00:00Z", "2026-01-01 00:00:00", [1]])
def test_no_times(value: Any) -> None:
    with pytest.raises(Rejected, match=r"older_than\.a: .*neither a number of seconds"):
        swarm_restart.seconds_of(value, "older_than.a")


def test_order_and_node() -> None:
    items = present_items([("b", 0), ("c", 0), ("a", 0)], "lab", [service("a"), service("b"), service("c", constraints=[])])
    assert [(found.name, found.node) for found in items] == [("b", "wk-1"), ("c", ""), ("a", "wk-1")]


def test_everything_wrong_is_told() -> None:
    theirs, other, everywhere = service("theirs"), service("other"), service("everywhere")
    theirs["Spec"]["Labels"] = {}
    other["Spec"]["Labels"] = {_services.PROJECT_LABEL: "another"}
    everywhere["Spec"]["Mode"] = {"Global": {}}
    names = ["theirs", "other", "everywhere", "gone", "a", "a"]
    with pytest.raises(Rejected) as caught:
        present_items([(name, 0) for name in names], "lab", [theirs, other, everywhere, service("a")])
    assert [reason.split(":")[0] for reason in caught.value.reasons] == [
        f"service {name}" for name in ("a", "theirs", "other", "everywhere", "gone")
    ]
    text = str(caught.value)
    for words in ("a: given more than once", "does not belong to this", "belongs to the federation another", "is not a replicated service"):
        assert words in text
    assert "gone: the swarm does not have it (the federation lab has: a, everywhere). Next: mipfed deploy" in text


def test_forced_changes_only_the_counter() -> None:
    spec = service()["Spec"]
    del spec["TaskTemplate"]["ForceUpdate"]
    once = _services.forced(spec)
    twice = _services.forced(once)
    assert (once["TaskTemplate"]["ForceUpdate"], twice["TaskTemplate"]["ForceUpdate"]) == (1, 2)
    assert _services.canonical(twice) == _services.canonical(spec)
    assert _services.tasks_are_replaced(spec, once) and _services.tasks_are_replaced(once, twice)
    assert "ForceUpdate" not in spec["TaskTemplate"]


def test_what_is_left_alone() -> None:
    """Newer containers, and services scaled to none."""
    second = 1767225600.0 + 10

    nodes = [{"ID": "n1", "Spec": {"Labels": {"name": "wk-1"}, "Availability": "active"}, "Status": {"State": "ready"}}]

    def planned(tasks: list[dict[str, Any]], older_than: dict[str, float], may_rest: tuple[str, ...] = (), **changes: Any) -> str:
        found = item(**changes)
        restart(tasks=lambda filters: tasks, nodes=lambda: nodes).plan([found], older_than, may_rest)
        return found.action

    spec = item().spec
    assert planned([task("11", spec)], {}) == "waiting"
    assert planned([task("11", spec)], {"wk-1_exareme": second}) == "fresh"
    assert planned([task("09", spec)], {"wk-1_exareme": second}) == "waiting"
    assert planned([task("11", spec), task("09", spec, "shutdown")], {"wk-1_exareme": second}) == "fresh"
    assert planned([task("11", spec, "failed")], {"wk-1_exareme": second}) == "waiting"
    assert planned([task("11", spec, "starting")], {"wk-1_exareme": second}) == "waiting"
    assert planned([], {"wk-1_exareme": second}) == "waiting"
    assert planned([], {}, replicas=0) == "stopped"
    assert planned([], {}, ("wk-1_exareme",)) == "waiting"
    nodes[0]["Spec"] = {"Labels": {"name": "wk-1"}, "Availability": "drain"}
    assert planned([], {}, ("wk-1_exareme",)) == "drained"
    # What may not rest fails, and says why.
    assert planned([], {}, ("another",)) == "waiting"


def test_node_that_is_lost_in_the_middle() -> None:
    """Some engines never give an error to the task that waits for a node that is gone. A cut of some seconds is no loss."""
    wanted = item()
    wanted.action, wanted.applied, wanted.replaces_tasks = UPDATED, True, True
    found = {"ID": "n1", "Spec": {"Labels": {"name": "wk-1"}, "Availability": "active"}, "Status": {"State": "down"}}
    at_work = restart(nodes=lambda: [found])
    updating = {"ID": wanted.service_id, "Spec": wanted.spec, "UpdateStatus": {"State": "updating"}}
    wanted.tasks = [{**task("11", wanted.spec, "ready"), "DesiredState": "ready"}]
    for now, state in ((100, "down"), (125, "down"), (128, "ready"), (132, "down"), (155, "down")):
        found["Status"] = {"State": state}
        assert not at_work.is_up(wanted, updating, float(now))
        assert wanted.failure is None, now
    at_work.is_up(wanted, updating, 157.0)
    assert wanted.failure is None, "looked at a moment ago"
    assert not at_work.is_up(wanted, updating, 163.0)
    assert wanted.failure is not None
    assert (wanted.failure.kind, wanted.failure.error.partition(";")[0]) == (
        "placement", "its node wk-1 was lost while it was restarted",
    )  # fmt: skip
    assert "the node wk-1 is down: start its Docker engine" in wanted.failure.fix


@pytest.mark.parametrize(
    ("node", "fix"),
    [
        ({}, "no node of the swarm has the label name=wk-1"),
        ({"State": "down"}, "the node wk-1 is down: start its Docker engine"),
        ({"State": "ready", "Availability": "drain"}, "the node wk-1 takes no tasks: mipfed node activate wk-1"),
    ],
)
def test_node_that_cannot_take_it(node: dict[str, str], fix: str) -> None:
    """The running container is not ended when nothing could follow it."""
    found = {
        "ID": "n1", "Spec": {"Labels": {"name": "wk-1" if node else "other"}, "Availability": node.get("Availability", "active")},
        "Status": {"State": node.get("State", "ready")},
    }  # fmt: skip
    wanted = item()
    wanted.action = "waiting"
    rollout = restart(nodes=lambda: [found])
    later = item()
    later.action = "waiting"
    assert not rollout.run([wanted, later], {})
    assert wanted.failure is not None
    assert (wanted.action, wanted.applied, later.action) == ("failed", False, "waiting")
    assert wanted.failure.error == "the node wk-1 cannot run a new task now, so it was left as it is"
    assert fix in wanted.failure.fix


@pytest.mark.parametrize(
    ("tasks", "state", "left"),
    [
        (["running"], "ready", False),
        (["running"], "down", True),
        (["failed"], "ready", True),
        ([], "ready", True),
    ],
    ids=["runs", "on-a-dead-node", "crashed", "stopped"],
)
def test_what_could_not_start_again_is_left_as_it_is(tasks: list[str], state: str, left: bool) -> None:
    keystore = service("keystore", constraints=["node.labels.name == ms"])
    nodes = [
        {"ID": "n1", "Spec": {"Labels": {"name": "ms"}, "Availability": "active"}, "Status": {"State": state}},
        {"ID": "n2", "Spec": {"Labels": {"name": "wk-1"}, "Availability": "active"}, "Status": {"State": "ready"}},
    ]
    found = [{**task("01", keystore["Spec"], one), "ServiceID": "id-keystore"} for one in tasks]
    rollout = restart(nodes=lambda: nodes, services=lambda filters: [keystore], tasks=lambda filters: found)
    rollout.module.params["needs"] = ["keystore"]
    failure = rollout.obstacle(item())
    assert (failure.kind if failure else "") == ("needs" if left else "")
    # The one that is needed may always be restarted.
    (itself,) = present_items([("keystore", 0)], "lab", [keystore])
    obstacle = rollout.obstacle(itself)
    assert (obstacle.kind if obstacle else "") == ("placement" if state == "down" else "")


class TestJudging:
    """The swarm goes back to the specification before a restart, which is the same one."""

    def judge(self, state: str, tasks: list[dict[str, Any]]) -> tuple[bool, Item, Restart]:
        wanted, rollout = item(), restart()
        before = wanted.spec
        wanted.start_waiting(_services.forced(before), [task("01", before)])
        wanted.action, wanted.applied, wanted.replaces_tasks, wanted.tasks = UPDATED, True, True, tasks
        present = wanted.spec if state in ("updating", "completed") else before
        up = rollout.is_up(wanted, {"ID": wanted.service_id, "Spec": present, "UpdateStatus": {"State": state, "Message": "m"}}, 100.0)
        return up, wanted, rollout

    def test_normal(self) -> None:
        old, new = item().spec, _services.forced(item().spec)
        assert not self.judge("updating", [task("02", new)])[0]
        assert not self.judge("completed", [task("01", old)])[0]
        assert self.judge("completed", [task("02", new), task("01", old, "shutdown")])[0]

    def test_second_container_runs(self) -> None:
        old, new = item().spec, _services.forced(item().spec)
        crashed = task("02", new, "failed", Err="task: non-zero exit (1)")
        assert not self.judge("rollback_started", [crashed, task("03", old, "starting")])[0]
        up, wanted, rollout = self.judge("rollback_completed", [crashed, task("03", old)])
        assert up and wanted.failure is None
        warnings: Any = rollout.module
        assert warnings.warnings == ["wk-1_exareme: its first new container failed (task: non-zero exit (1)); the one after it runs"]
        # A container from before the restart has not read anything again.
        assert not self.judge("rollback_completed", [crashed, task("01", old)])[0]

    def test_none_runs(self) -> None:
        old, new = item().spec, _services.forced(item().spec)
        up, wanted, _unused = self.judge(
            "rollback_paused",
            [task("02", new, "failed", Err="task: non-zero exit (1)"), task("03", old, "failed", Err="task: non-zero exit (2)")],
        )
        assert not up and wanted.failure is not None
        assert (wanted.failure.kind, wanted.failure.error) == ("crash", "task: non-zero exit (2) (the restart stopped: m)")


def test_services_that_are_not_there_may_be_left_out() -> None:
    items = present_items([("a", 0), ("gone", 0)], "lab", [service("a")], skip_absent=True)
    assert [item.name for item in items] == ["a"]
    with pytest.raises(Rejected, match="the swarm does not have it"):
        present_items([("a", 0), ("gone", 0)], "lab", [service("a")])
