# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""swarm_restart on real engines: containers are new, one service after the other, and what does not come back is explained."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.tests.helpers.engines import Engine, Engines, wait_for
from ansible_collections.hbp.mip.tests.helpers.modules import Result

from .conftest import Swarm, call, form_swarm, refuse, succeed

pytestmark = pytest.mark.engine
PROJECT_LABEL = "eu.humanbrainproject.mip.federation"


def pinned(image: str, name: str, node: str, **more: Any) -> dict[str, Any]:
    """A wanted service bound to a node."""
    return {
        "name": name, "node": node, "image": image, "constraints": [f"node.labels.name=={node}"], "stop_grace_period": "1s",
        "update": {"monitor": 1}, **more,
    }  # fmt: skip


def restart(manager: Engine, *services: str, **more: Any) -> Result:
    """Run the module."""
    return call("swarm_restart", manager, **{"project": "lab", "services": list(services), "timeout": 60, **more})


def containers(manager: Engine) -> dict[str, str]:
    """The container that runs each service."""
    client = manager.client()
    names = {service["ID"]: service["Spec"]["Name"] for service in client.services()}
    found = {}
    for task in client.tasks(filters={"desired-state": "running"}):
        if task["ServiceID"] in names and task["Status"]["State"] == "running":
            found[names[task["ServiceID"]]] = str(task["Status"]["ContainerStatus"]["ContainerID"])
    client.close()
    return found


def running_task(manager: Engine, name: str) -> dict[str, Any]:
    """The task of a service that runs."""
    client = manager.client()
    tasks = client.tasks(filters={"service": name, "desired-state": "running"})
    client.close()
    assert [task["Status"]["State"] for task in tasks] == ["running"]
    return dict(tasks[0])


def volume(engine: Engine, name: str) -> Path:
    """The folder of a volume."""
    return engine.root / "volumes" / name / "_data"


def whole_story(manager: Engine, worker: Engine, image: str) -> None:
    """Check mode, restart, again, and times; two of three services."""
    healthy = {"test": ["/bin/test", "-e", "/tmp/ready"], "interval": 1, "timeout": "1s", "retries": 30}
    wanted = [
        pinned(image, "keystore", "ms"),
        pinned(image, "ms_master", "ms", command=["/bin/sh", "-c", "sleep 3; touch /tmp/ready; exec sleep 100000"], healthcheck=healthy),
        pinned(image, "wk-1_exareme", "wk-1"),
    ]
    succeed("swarm_services", manager, project="lab", services=wanted, timeout=60)
    before = containers(manager)
    assert sorted(before) == ["keystore", "ms_master", "wk-1_exareme"]

    order = ["ms_master", "wk-1_exareme"]
    planned = succeed("swarm_restart", manager, check=True, project="lab", services=order)
    assert (planned.changed, planned["restarted"]) == (True, order)
    assert containers(manager) == before

    done = restart(manager, *order)
    assert not done.failed, done.msg
    assert (done.changed, done["restarted"]) == (True, order)
    assert [(item["name"], item["node"], item["action"]) for item in done["services"]] == [
        ("ms_master", "ms", "restarted"),
        ("wk-1_exareme", "wk-1", "restarted"),
    ]
    assert done["services"][0]["seconds"] >= 3
    after = containers(manager)
    assert after["keystore"] == before["keystore"]
    assert all(after[name] != before[name] for name in order)
    # The container is there, on its own engine, and the one before it does not run any more.
    alive = {found["Id"] for found in worker.client().containers()}
    assert after["wk-1_exareme"] in alive
    assert before["wk-1_exareme"] not in alive
    # The second was ordered only when the first was healthy.
    assert running_task(manager, "wk-1_exareme")["CreatedAt"] > running_task(manager, "ms_master")["Status"]["Timestamp"]
    # A deploy sees no difference.
    assert not succeed("swarm_services", manager, project="lab", services=wanted).changed

    again = restart(manager, "wk-1_exareme")
    assert (again.failed, again.changed) == (False, True)
    assert containers(manager)["wk-1_exareme"] != after["wk-1_exareme"]

    after, now = containers(manager), time.time()
    times = {"ms_master": now - 3600, "wk-1_exareme": now}
    planned = succeed("swarm_restart", manager, check=True, project="lab", services=order, older_than=times)
    assert planned["restarted"] == ["wk-1_exareme"]
    newer = restart(manager, *order, older_than=times)
    assert (newer.failed, newer["restarted"]) == (False, ["wk-1_exareme"])
    assert newer["services"][0]["action"] == "fresh"
    assert containers(manager)["ms_master"] == after["ms_master"]
    for check in (False, True):
        same = succeed("swarm_restart", manager, check=check, project="lab", services=order, older_than=times)
        assert (same.changed, same["restarted"]) == (False, [])


def test_restart(swarm: Swarm, clean: Callable[[], None]) -> None:
    """On engines of one version."""
    whole_story(swarm.manager, swarm.worker, swarm.image)


def test_restart_on_mixed_engines(mixed: Engines) -> None:
    """The same on a newer manager."""
    manager, worker = mixed.engines
    image = mixed.build_image("tiny:1.0")
    form_swarm(manager, worker)
    whole_story(manager, worker, image)


def test_others_are_not_touched(swarm: Swarm, clean: Callable[[], None]) -> None:
    """A service of somebody else, or one that is not there: nothing at all is restarted."""
    client = swarm.manager.client()
    template = {"ContainerSpec": {"Image": swarm.image}, "Placement": {"Constraints": ["node.labels.name==ms"]}}
    client.create_service(template, name="theirs")
    client.create_service(template, name="other-federation", labels={PROJECT_LABEL: "other"})
    succeed("swarm_services", swarm.manager, project="lab", services=[pinned(swarm.image, "ours", "wk-1")])
    wait_for(lambda: len(containers(swarm.manager)) == 3, 30, "three containers")
    before = containers(swarm.manager)
    for check in (True, False):
        for name, words in (
            ("theirs", "does not belong to this federation"),
            ("other-federation", "belongs to the federation other"),
            ("gone", "the swarm does not have it (the federation lab has: ours)"),
        ):
            message = refuse("swarm_restart", swarm.manager, check=check, project="lab", services=["ours", name])
            assert words in message
            assert "Nothing was restarted" in message
    assert containers(swarm.manager) == before


def test_service_that_does_not_come_back(swarm: Swarm, clean: Callable[[], None]) -> None:
    """The reason, what was restarted and what not; and the next run puts it right."""
    command = "test -e /var/broken || exec sleep 100000; echo cannot open datasets.db; exit 3"
    wanted = [
        pinned(swarm.image, "one", "ms"),
        pinned(
            swarm.image, "two", "wk-1", command=["/bin/sh", "-c", command], restart={"delay": "1s"},
            mounts=[{"type": "volume", "source": "two", "target": "/var"}],
        ),
        pinned(swarm.image, "three", "ms"),
    ]  # fmt: skip
    succeed("swarm_services", swarm.manager, project="lab", services=wanted)
    before = containers(swarm.manager)
    broken = volume(swarm.worker, "two") / "broken"
    broken.touch()
    failed = restart(swarm.manager, "one", "two", "three")
    assert failed.failed
    assert "Traceback" not in failed.output
    assert (failed.changed, failed["restarted"], failed["not_restarted"]) == (True, ["one"], ["two", "three"])
    item = failed["services"][1]
    assert (item["action"], item["kind"]) == ("failed", "crash")
    assert "non-zero exit (3)" in item["error"]
    assert set(item["log"]) == {"cannot open datasets.db"}
    for words in (
        "two on wk-1: ",
        "cannot open datasets.db",
        "see the last lines of its log",
        "Restarted before that: one.",
        "Not restarted: three.",
    ):
        assert words in failed.msg
    after = containers(swarm.manager)
    assert after["one"] != before["one"]
    assert after["three"] == before["three"]
    broken.unlink()
    done = restart(swarm.manager, "two", "three")
    assert not done.failed, done.msg
    assert done["restarted"] == ["two", "three"]
    # Whatever the swarm noted about the attempts, a deploy leaves the services as they are.
    assert not succeed("swarm_services", swarm.manager, project="lab", services=wanted).changed


def test_unhealthy_after_the_restart(swarm: Swarm, clean: Callable[[], None]) -> None:
    """A container that runs but is not healthy has not come back."""
    wanted = pinned(
        swarm.image, "sick", "wk-1", mounts=[{"type": "volume", "source": "sick", "target": "/var"}],
        healthcheck={"test": ["/bin/sh", "-c", "! test -e /var/sick"], "interval": 1, "timeout": "1s", "retries": 1, "start_period": 300},
    )  # fmt: skip
    succeed("swarm_services", swarm.manager, project="lab", services=[wanted])
    (volume(swarm.worker, "sick") / "sick").touch()
    began = time.monotonic()
    failed = restart(swarm.manager, "sick", timeout=8)
    assert time.monotonic() - began < 30
    item = failed["services"][0]
    assert (item["action"], item["kind"]) == ("failed", "health")
    assert "health check did not succeed within 8 s" in item["error"]


def test_first_new_container_fails(swarm: Swarm, clean: Callable[[], None]) -> None:
    """The swarm goes back to the specification before, which is the same: the service is restarted all the same."""
    command = "test -e /var/second && exec sleep 100000; touch /var/second; exit 1"
    wanted = pinned(
        swarm.image, "twice", "wk-1", command=["/bin/sh", "-c", command], restart={"delay": "1s"},
        mounts=[{"type": "volume", "source": "twice", "target": "/var"}],
    )  # fmt: skip
    succeed("swarm_services", swarm.manager, project="lab", services=[wanted])
    before = containers(swarm.manager)
    (volume(swarm.worker, "twice") / "second").unlink()
    done = restart(swarm.manager, "twice")
    assert not done.failed, done.msg
    assert done["restarted"] == ["twice"]
    assert any("its first new container failed (task: non-zero exit (1))" in text for text in done.warnings), done.data
    assert containers(swarm.manager)["twice"] not in ("", before["twice"])


def test_node_that_is_down(swarm: Swarm, clean: Callable[[], None]) -> None:
    """The task of a node that the manager does not see is not ended."""
    wanted = [pinned(swarm.image, "here", "ms"), pinned(swarm.image, "there", "wk-1")]
    succeed("swarm_services", swarm.manager, project="lab", services=wanted)
    before = containers(swarm.manager)
    client = swarm.manager.client()
    swarm.worker.freeze()
    try:
        wait_for(lambda: client.inspect_node(swarm.node_ids["wk-1"])["Status"]["State"] == "down", 60, "the worker is down")
        spec = client.inspect_service("there")["Spec"]
        failed = restart(swarm.manager, "there", "here")
        assert failed.failed
        assert not failed.changed
        assert (failed["restarted"], failed["not_restarted"]) == ([], ["there", "here"])
        assert "there on wk-1: the node wk-1 cannot run a new task now, so it was left as it is" in failed.msg
        assert "the node wk-1 is down: start its Docker engine" in failed.msg
        assert client.inspect_service("there")["Spec"] == spec
    finally:
        swarm.worker.thaw()
        wait_for(lambda: client.inspect_node(swarm.node_ids["wk-1"])["Status"]["State"] == "ready", 60, "the worker is back")
    assert containers(swarm.manager)["here"] == before["here"]
