# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Planning, images and judging tasks in swarm_services. Applying is tested on real engines."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _rollout, _services
from ansible_collections.hbp.mip.plugins.module_utils._rollout import Item, Rejected
from ansible_collections.hbp.mip.plugins.modules import swarm_services
from ansible_collections.hbp.mip.plugins.modules.swarm_services import Deployment, Images, View

DIGEST = "sha256:" + "1" * 64
OTHER = "sha256:" + "2" * 64
VIEW = View([], {"net": "n1"}, {}, {}, [])


def options(name: str = "svc", **changes: Any) -> dict[str, Any]:
    start: dict[str, Any] = {key: spec.get("default") for key, spec in swarm_services._SERVICE_OPTIONS.items()}
    return {**start, "name": name, "image": "r:5000/x:1", "node": "wk-1", **changes}


def existing(item: dict[str, Any], image: str = f"r:5000/x:1@{DIGEST}", **changes: Any) -> dict[str, Any]:
    spec = _services.with_image(_services.build_spec(item, "lab", {"net": "n1"}, {}, {}), image)
    return {"ID": "s1", "Spec": spec, **changes}


def task(task_id: str, item: Item, state: str, **changes: Any) -> dict[str, Any]:
    status = {"State": state, **changes.pop("status", {})}
    desired = "shutdown" if state in ("failed", "rejected", "shutdown") else "running"
    return {
        "ID": task_id,
        "CreatedAt": task_id,
        "DesiredState": desired,
        "NodeID": "n1",
        "Spec": item.spec["TaskTemplate"],
        "Status": status,
    }


class Registry:
    """Stands for the SDK's client where only registries are asked."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def inspect_distribution(self, image: str) -> dict[str, Any]:
        """A digest, or the engine's error."""
        self.asked.append(image)
        answer = self.answers[image]
        if not answer.startswith("sha256:"):
            raise docker.errors.APIError("x", explanation=answer)
        return {"Descriptor": {"digest": answer}}


def plan_one(wanted: dict[str, Any], before: dict[str, Any] | None, tasks: list[dict[str, Any]] | None = None) -> Item:
    item = swarm_services.build_items([wanted], "lab", VIEW._replace(services=[before] if before else []))[0]
    swarm_services.pin_images([item], Images(Registry({"r:5000/x:1": DIGEST})))
    alive = [{"DesiredState": "running"}]
    swarm_services.plan([item], {"s1": alive if tasks is None else tasks})
    return item


def test_plan() -> None:
    assert plan_one(options(), None).action == "created"
    assert plan_one(options(), existing(options())).action == "unchanged"
    changed = plan_one(options(env={"A": "1"}), existing(options()))
    assert (changed.action, changed.replaces_tasks) == ("updated", True)
    relabelled = plan_one(options(labels={"a": "b"}), existing(options()))
    assert (relabelled.action, relabelled.replaces_tasks) == ("updated", False)
    moved = plan_one(options(), existing(options(), image=f"r:5000/x:1@{OTHER}"))
    assert (moved.action, moved.replaces_tasks) == ("updated", True)


def test_plan_repairs() -> None:
    paused = plan_one(options(), existing(options(), UpdateStatus={"State": "paused"}))
    assert (paused.action, paused.interrupted, paused.dead) == ("updated", True, False)
    given_up = plan_one(options(), existing(options()), [{"DesiredState": "shutdown"}])
    assert (given_up.action, given_up.dead) == ("updated", True)
    assert given_up.spec["TaskTemplate"]["ForceUpdate"] == 1
    assert plan_one(options(replicas=0), existing(options(replicas=0)), []).action == "unchanged"


def test_plan_keeps_a_forced_restart() -> None:
    before = existing(options())
    before["Spec"]["TaskTemplate"]["ForceUpdate"] = 3
    item = plan_one(options(), before)
    assert item.action == "unchanged"
    assert item.spec["TaskTemplate"]["ForceUpdate"] == 3


def test_waves_are_in_order() -> None:
    items = swarm_services.build_items([options("b", wave=2), options("a", wave=1), options("c", wave=1)], "lab", VIEW)
    assert [item.name for item in items] == ["a", "c", "b"]


def test_everything_wrong_is_told() -> None:
    foreign = {"ID": "x", "Spec": {"Name": "foreign", "Labels": {}}}
    other = {"ID": "y", "Spec": {"Name": "other", "Labels": {_services.PROJECT_LABEL: "another"}}}
    wanted = [
        options("foreign"),
        options("other"),
        options("twice"),
        options("twice"),
        options("bad", networks=[{"name": "none", "aliases": []}]),
    ]
    with pytest.raises(Rejected) as caught:
        swarm_services.build_items(wanted, "lab", VIEW._replace(services=[foreign, other]))
    text = " | ".join(caught.value.reasons)
    for words in ("twice: given more than once", "does not belong to this federation", "belongs to the federation another", "called none"):
        assert words in text
    later = swarm_services.build_items([wanted[-1]], "lab", VIEW, networks_may_be_missing=True)
    assert later[0].spec["TaskTemplate"]["Networks"] == [{"Target": "none"}]


def test_each_image_is_asked_for_once() -> None:
    registry = Registry({"r:5000/x:1": DIGEST})
    items = swarm_services.build_items([options("a"), options("b"), options("c", image=f"r:5000/y:2@{OTHER}")], "lab", VIEW)
    assert swarm_services.pin_images(items, Images(registry)) == []
    assert registry.asked == ["r:5000/x:1"]
    assert [_services.image_of(item.spec) for item in items] == [f"r:5000/x:1@{DIGEST}"] * 2 + [f"r:5000/y:2@{OTHER}"]


def test_registry_that_is_gone_is_asked_once() -> None:
    registry = Registry({"r:5000/x:1": "connection refused", "r:5000/y:1": "connection refused", "q/z:1": "manifest unknown"})
    items = swarm_services.build_items(
        [options("a"), options("b", image="r:5000/y:1"), options("c", image="q/z:1")], "lab", VIEW._replace(services=[])
    )  # fmt: skip
    with pytest.raises(Rejected) as caught:
        swarm_services.pin_images(items, Images(registry))
    assert registry.asked == ["r:5000/x:1", "q/z:1"]
    assert "image r:5000/x:1: the registry r:5000 cannot be asked: connection refused" in caught.value.reasons[0]
    assert "image r:5000/y:1: the registry r:5000 cannot be asked" in caught.value.reasons[1]
    assert "image q/z:1: the registry docker.io does not give it: manifest unknown" in caught.value.reasons[2]


def test_digest_is_kept_without_a_registry() -> None:
    wanted, before = options(), existing(options(), image=f"r:5000/x:1@{OTHER}")
    item = swarm_services.build_items([wanted], "lab", VIEW._replace(services=[before]))[0]
    warnings = swarm_services.pin_images([item], Images(Registry({"r:5000/x:1": "no such host"})))
    assert "could not be looked up" in warnings[0]
    assert _services.image_of(item.spec) == f"r:5000/x:1@{OTHER}"
    # An image that is gone from a registry that answers is an error even then.
    item = swarm_services.build_items([wanted], "lab", VIEW._replace(services=[before]))[0]
    with pytest.raises(Rejected, match="manifest unknown"):
        swarm_services.pin_images([item], Images(Registry({"r:5000/x:1": "manifest unknown"})))
    # Another tag cannot keep it.
    item = swarm_services.build_items([options(image="r:5000/x:2")], "lab", VIEW._replace(services=[before]))[0]
    with pytest.raises(Rejected, match="no such host"):
        swarm_services.pin_images([item], Images(Registry({"r:5000/x:2": "no such host"})))
    # Without looking up, the running digest stays, and a new service has none.
    items = swarm_services.build_items([wanted, options("new")], "lab", VIEW._replace(services=[before]))
    swarm_services.pin_images(items, None)
    assert [_services.image_of(item.spec) for item in items] == [f"r:5000/x:1@{OTHER}", "r:5000/x:1"]


def test_only_what_may_rest_rests_and_only_where_every_node_of_the_name_is_drained() -> None:
    nodes = [
        {"id": "n1", "name": "wk-1", "availability": "drain"},
        {"id": "n2", "name": "wk-2", "availability": "active"},
        {"id": "n3", "name": "wk-3", "availability": "drain"},
        {"id": "n4", "name": "wk-3", "availability": "active"},
        {"id": "n5", "name": "ms", "availability": "drain"},
    ]
    wanted = [options(f"{name}_x", node=name) for name in ("wk-1", "wk-2", "wk-3", "ms")]
    items = swarm_services.build_items(wanted, "lab", VIEW)
    module: Any = SimpleNamespace(params={"timeout": 60, "settle": 2, "project": "lab"})
    deployment = Deployment(module, None, items, nodes)
    assert deployment.drained() == {"wk-1", "ms"}
    assert deployment.let_rest({"wk-1_x", "wk-2_x", "wk-3_x"}) == ["wk-1"]
    assert {item.node: item.wait for item in items} == {"wk-1": False, "wk-2": True, "wk-3": True, "ms": True}


class TestJudging:
    """When a service is up, and when waiting on makes no sense."""

    def deployment(self, nodes: list[dict[str, Any]] | None = None) -> Deployment:
        module: Any = SimpleNamespace(params={"timeout": 60, "settle": 2, "project": "lab"})
        node = {"id": "n1", "name": "wk-1", "hostname": "h", "status": "ready", "availability": "active"}
        return Deployment(module, None, [], [node] if nodes is None else nodes)

    def item(self, action: str = "created", **changes: Any) -> Item:
        item = plan_one(options(**changes), None)
        item.action, item.applied, item.service_id = action, True, "s1"
        return item

    def up(self, item: Item, tasks: list[dict[str, Any]], now: float, **service: Any) -> bool:
        item.tasks = tasks
        return self.deployment().is_up(item, {"ID": "s1", "Spec": item.spec, **service}, now)

    def test_created_service_must_stay_up(self) -> None:
        item = self.item()
        tasks = [task("1", item, "running")]
        assert not self.up(item, tasks, 100.0)
        assert not self.up(item, tasks, 101.0)
        assert self.up(item, tasks, 102.0)
        assert not self.up(item, [task("2", item, "running")], 103.0)

    def test_healthy_is_enough(self) -> None:
        item = self.item(healthcheck={"test": "true"})
        assert self.up(item, [task("1", item, "running")], 100.0)
        assert not self.up(item, [task("1", item, "starting")], 100.0)

    def test_update_waits_for_the_swarm(self) -> None:
        item = self.item("updated")
        item.replaces_tasks = True
        tasks = [task("1", item, "running")]
        assert not self.up(item, tasks, 100.0, UpdateStatus={"State": "updating"})
        assert self.up(item, tasks, 101.0, UpdateStatus={"State": "completed"})
        item.replaces_tasks = False
        assert self.up(item, tasks, 102.0)

    def test_old_tasks_do_not_count(self) -> None:
        item = self.item("updated")
        old = task("1", item, "running")
        old["Spec"] = {"ContainerSpec": {"Image": "other"}}
        assert not self.up(item, [old], 100.0, UpdateStatus={"State": "completed"})

    def test_three_crashes(self) -> None:
        item = self.item()
        failed = [task(str(i), item, "failed", status={"Err": "task: non-zero exit (1)"}) for i in range(3)]
        assert not self.up(item, failed[:2], 100.0)
        assert item.failure is None
        assert not self.up(item, failed, 101.0)
        assert item.failure is not None
        assert item.failure.kind == "crash"

    def test_failures_before_the_update_do_not_count(self) -> None:
        item = self.item("updated")
        failed = [task(str(i), item, "failed", status={"Err": "task: non-zero exit (1)"}) for i in range(3)]
        item.known_tasks = {"0", "1", "2"}
        assert not self.up(item, failed, 100.0)
        assert item.failure is None

    def test_missing_folder_is_definite(self) -> None:
        item = self.item()
        self.up(item, [task("1", item, "rejected", status={"Err": "bind source path does not exist: /x"})], 100.0)
        assert item.failure is not None
        assert item.failure.kind == "mount"

    def test_pending_gets_some_time(self) -> None:
        item = self.item()
        pending = [task("1", item, "pending", status={"Err": "no suitable node (scheduling constraints not satisfied on 1 node)"})]
        self.up(item, pending, 100.0)
        self.up(item, pending, 114.0)
        assert item.failure is None
        self.up(item, pending, 115.0)
        assert item.failure is not None
        assert item.failure.kind == "placement"
        item.failure = None
        self.up(item, [task("1", item, "running")], 116.0)
        assert item.pending_since == 0.0

    def test_swarm_went_back_by_itself(self) -> None:
        item = self.item("updated")
        item.replaces_tasks = True
        item.tasks = [task("1", item, "failed", status={"Err": "task: non-zero exit (1)"})]
        back = {
            "ID": "s1",
            "Spec": existing(options())["Spec"] | {"Labels": {}},
            "UpdateStatus": {"State": "rollback_started", "Message": "m"},
        }
        assert not self.deployment().is_up(item, back, 100.0)
        assert item.failure is not None
        assert item.failure.error == "task: non-zero exit (1) (the swarm rolled the update back: m)"

    def test_somebody_else(self) -> None:
        item = self.item()
        assert not self.deployment().is_up(item, None, 100.0)
        assert item.failure is not None
        assert item.failure.kind == "gone"
        item.failure = None
        assert not self.deployment().is_up(item, {"ID": "s1", "Spec": existing(options(env={"A": "1"}))["Spec"]}, 100.0)
        assert item.failure is not None
        assert item.failure.kind == "changed"

    @pytest.mark.parametrize(
        ("nodes", "words"),
        [
            ([], "no node of the swarm has the label name=wk-1"),
            ([{"id": "n1", "name": "wk-1", "status": "down", "availability": "active"}], "start its Docker engine"),
            ([{"id": "n1", "name": "wk-1", "status": "ready", "availability": "drain"}], "mipfed node activate wk-1"),
            ([{"id": "n1", "name": "wk-1", "status": "ready", "availability": "active"}], "docker node ls"),
        ],
    )
    def test_why_no_node_is_suitable(self, nodes: list[dict[str, Any]], words: str) -> None:
        item = self.item()
        pending = task("1", item, "pending", status={"Err": "no suitable node (scheduling constraints not satisfied)"})
        assert words in self.deployment(nodes).diagnose(item, pending).fix

    @pytest.mark.parametrize(
        ("state", "words", "kind"),
        [
            ("starting", "health check did not succeed within 60 s", "health"),
            ("preparing", "still fetching the image", "image"),
            ("assigned", "its task is assigned after 60 s", "timeout"),
        ],
    )
    def test_time_is_over(self, state: str, words: str, kind: str) -> None:
        item = self.item(healthcheck={"test": "true"})
        item.tasks = [task("1", item, state)]
        self.deployment().give_up(item)
        assert item.failure is not None
        assert words in item.failure.error
        assert item.failure.kind == kind

    def test_no_task_at_all(self) -> None:
        item = self.item()
        self.deployment().give_up(item)
        assert item.failure is not None
        assert "it has no task" in item.failure.error


@pytest.mark.parametrize(
    ("actions", "waves"),
    [
        (["created", "created", "created"], [["a", "b", "c"]]),
        (["unchanged", "created", "created"], [["a", "b", "c"]]),
        (["unchanged", "updated", "created"], [["a"], ["b"], ["c"]]),
    ],
)
def test_waves_protect_what_runs(monkeypatch: pytest.MonkeyPatch, actions: list[str], waves: list[list[str]]) -> None:
    items = swarm_services.build_items([options(name, wave=number) for number, name in enumerate("abc")], "lab", VIEW)
    for item, action in zip(items, actions, strict=True):
        item.action = action
    module: Any = SimpleNamespace(params={"timeout": 60, "settle": 2, "project": "lab"})
    deployment = Deployment(module, None, items, [])
    seen: list[list[str]] = []

    def note(members: list[Item]) -> bool:
        seen.append([item.name for item in members])
        return True

    monkeypatch.setattr(deployment, "run_wave", note)
    assert deployment.run()
    assert seen == waves


def test_log_lines_are_bounded_and_of_one_task() -> None:
    mine, other = "com.docker.swarm.node.id=n,com.docker.swarm.task.id=t1", "com.docker.swarm.task.id=t2"
    data = "".join(f"{mine} line {i}\n{other} not mine\n" for i in range(30)) + f"{mine} \x1b[31mred\x1b[0m {'x' * 999}\n"
    lines = _rollout.log_lines(data.encode() + b"\xff", "t1")
    assert len(lines) == 10
    assert not any("not mine" in line for line in lines)
    assert all(len(line) <= 300 for line in lines)
    assert "\x1b" not in "".join(lines)
    assert "not mine" in _rollout.log_lines(data.encode(), "")
