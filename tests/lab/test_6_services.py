# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starting, stopping and restarting services with the API asked throughout, and several managers of which one is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import INVENTORY, LAB, Lab
from .test_2_deployed import watched


def actions(document: dict[str, Any]) -> dict[str, str]:
    """What a command did to each service."""
    return {service["name"]: service["action"] for service in document["result"]["services"]}


def codes(document: dict[str, Any]) -> set[tuple[str, str]]:
    """The notices of a status."""
    return {(notice["node"], notice["code"]) for notice in document["result"]["notices"]}


def containers(lab: Lab, host: str) -> set[str]:
    """The containers that run on a machine."""
    return set(lab.ssh(host, "docker ps -q --no-trunc").split())


def test_what_a_stop_would_do(federation: Lab) -> None:
    before = containers(federation, federation.master)
    document = federation.json("stop", "--check")
    names = list(actions(document))
    assert set(actions(document).values()) == {"stopped"}
    assert names[:2] == [f"{federation.master}_exareme-keystore", f"{federation.master}_exareme-master"]
    assert set(names[2:]) == {f"{worker}_exareme" for worker in federation.workers}
    assert containers(federation, federation.master) == before
    assert federation.run("stop", code=8).stdout == ""
    assert federation.run("stop", "--node", "nobody", "-y", code=10).returncode == 10


def test_one_hospital_is_stopped_and_the_others_go_on(federation: Lab) -> None:
    worker, other = federation.workers
    with watched(federation) as failures:
        assert actions(federation.json("stop", "--node", worker, "--reason", "new cables", "-y")) == {f"{worker}_exareme": "stopped"}
        assert containers(federation, worker) == set()
        status = federation.json("status")
        assert codes(status) == {(worker, "stopped")}
        assert "new cables" in status["result"]["notices"][0]["message"]
        assert status["ok"] is True
        again = federation.json("deploy", "-y")
        assert sum(host["changed"] for host in again["hosts"].values()) == 0
        assert containers(federation, worker) == set()
        assert actions(federation.json("restart", "--node", worker, "-y")) == {f"{worker}_exareme": "stopped"}
        assert actions(federation.json("start", "--node", worker)) == {f"{worker}_exareme": "started"}
        assert federation.all_active()
    assert failures == []
    assert containers(federation, other)


def test_a_restart_keeps_the_api_answering(federation: Lab) -> None:
    before = {name: containers(federation, name) for name in (federation.master, *federation.workers)}
    workers = [argument for worker in federation.workers for argument in ("--node", worker)]
    with watched(federation) as failures:
        assert set(actions(federation.json("restart", "engine", *workers, "-y")).values()) == {"restarted"}
        assert set(actions(federation.json("restart", "keystore", "-y")).values()) == {"restarted"}
    assert failures == []
    after = {name: containers(federation, name) for name in before}
    for worker in federation.workers:
        assert after[worker]
        assert not after[worker] & before[worker]
    assert len(after[federation.master] & before[federation.master]) == 1  # the engine's own
    assert federation.all_active()
    assert federation.json("status")["ok"] is True


def test_everything_is_stopped_and_started(federation: Lab) -> None:
    foreign = federation.ssh(
        federation.master,
        "docker service create -q --detach --name theirs --constraint node.role==manager --network mip-federation "
        "--entrypoint sleep $(docker service inspect -f '{{.Spec.TaskTemplate.ContainerSpec.Image}}' "
        f"{federation.master}_exareme-keystore) 100000",
    )
    try:
        assert set(actions(federation.json("stop", "-y")).values()) == {"stopped"}
        for worker in federation.workers:
            assert containers(federation, worker) == set()
        status = federation.json("status")
        assert status["result"]["engine"]["asked"] is False
        assert {service["desired"] for service in status["result"]["services"]} == {0}
        assert set(actions(federation.json("start")).values()) == {"started"}
        assert federation.ssh(federation.master, "docker service ls --format '{{.Replicas}}' --filter name=theirs") == "1/1"
    finally:
        federation.ssh(federation.master, f"docker service rm {foreign}", check=False)
    assert federation.all_active()
    report = federation.json("status")["result"]
    assert (report["ok"], report["engine"]["ok"]) == (True, True)
    assert report["engine"]["dataset_count"] > 0


def test_what_does_not_start_is_told(federation: Lab) -> None:
    worker = federation.workers[0]
    federation.run("stop", "--node", worker, "-y")
    federation.ssh(worker, f"mv /data/{LAB} /data/away")
    try:
        document = federation.json("start", "--node", worker, code=5)
        assert actions(document) == {f"{worker}_exareme": "failed"}
        assert any("bind source path does not exist" in error["message"] for error in document["errors"])
    finally:
        federation.ssh(worker, f"mv /data/away /data/{LAB}")
    federation.run("start", "--node", worker)
    assert federation.all_active()


def test_a_node_that_is_lost_while_its_engine_is_restarted_is_told(federation: Lab) -> None:
    worker, other = federation.workers
    # The worker's Docker engine hangs from the moment at which it has made the new container.
    hang = "docker events -f event=create | { read -r line; systemctl kill -s STOP docker; }"
    federation.ssh(worker, f"nohup sh -c '{hang}' > /dev/null 2>&1 < /dev/null &")
    before = containers(federation, other)
    try:
        document = federation.json("restart", "engine", "--node", worker, "--node", other, "-y", code=5)
    finally:
        federation.ssh(worker, "systemctl kill -s CONT docker")
    assert actions(document) == {f"{worker}_exareme": "failed", f"{other}_exareme": "waiting"}
    assert any(f"the node {worker} is down" in error["next"] + error["message"] for error in document["errors"])
    assert containers(federation, other) == before
    assert federation.all_active()


def managers(lab: Lab, host: str) -> dict[str, str]:
    """The managers and how they are, as one of them sees it."""
    lines = lab.ssh(host, "timeout 60 docker node ls --format '{{.Hostname}} {{.ManagerStatus}}'", check=False).splitlines()
    return dict(line.split(" ", 1) for line in lines if " " in line and line.split(" ", 1)[1])


def eventually(done: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(1)


def all_work(lab: Lab, host: str) -> bool:
    """Does a manager answer, and see all of them working?"""
    seen = managers(lab, host)
    return set(seen) == {lab.master, *lab.workers} and set(seen.values()) <= {"Leader", "Reachable"}


@pytest.fixture
def three_managers(federation: Lab) -> Any:
    """The federation with the hospitals' nodes as further managers; with one manager again afterwards."""
    for worker in federation.workers:
        path = INVENTORY / "host_vars" / f"{worker}.yml"
        path.parent.mkdir(exist_ok=True)
        path.write_text("mip_swarm_manager: true\n")
    federation.run("deploy", "-y")
    yield federation
    # A machine that was switched on again a moment ago needs the others before its engine answers.
    eventually(lambda: all_work(federation, federation.master), 300, "the master is back")
    for worker in federation.workers:
        (INVENTORY / "host_vars" / f"{worker}.yml").unlink()
    federation.run("deploy", "-y")
    assert set(managers(federation, federation.master)) == {federation.master}


def test_three_managers_and_the_master_is_lost(three_managers: Lab, power: Callable[[str, str], None]) -> None:
    lab = three_managers
    first, second = lab.workers
    assert set(managers(lab, lab.master)) == {lab.master, first, second}
    assert "Nothing to do" in lab.run("plan", "--detailed-exitcode").stdout
    power(lab.master, "kill")
    eventually(lambda: managers(lab, first).get(lab.master) == "Unreachable", 300, "the others see it")
    status = lab.json("status", code=6)
    assert status["result"]["manager"] == first
    assert (lab.master, "unreachable") in {(entry["node"], entry["code"]) for entry in status["result"]["problems"]}
    # No engine could start without the keystore, which is away with the master.
    before = containers(lab, second)
    document = lab.json("restart", "engine", "--node", second, "-y", code=5)
    assert actions(document) == {f"{second}_exareme": "failed"}
    assert any("cannot start without" in error["message"] for error in document["errors"])
    assert containers(lab, second) == before
    deployed = lab.json("deploy", "-y", code=6)
    assert sum(host["changed"] for host in deployed["hosts"].values()) == 0
    assert actions(lab.json("stop", "engine", "--node", second, "-y", code=6)) == {f"{second}_exareme": "stopped"}
    assert containers(lab, second) == set()
    power(lab.master, "on")
    eventually(lambda: all_work(lab, first), 300, "the master is back")
    assert actions(lab.json("start", "engine", "--node", second)) == {f"{second}_exareme": "started"}
    assert lab.all_active()
