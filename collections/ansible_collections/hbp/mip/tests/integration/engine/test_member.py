# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""swarm_member, swarm_token and swarm_info on real engines."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.tests.helpers.engines import SUBNET, Engine, Engines, wait_for

from .conftest import call, quad, refuse, succeed

pytestmark = pytest.mark.engine


def state(engine: Engine) -> str:
    """What the engine itself says about its membership."""
    return str(engine.client().info()["Swarm"]["LocalNodeState"])


def start(engine: Engine) -> dict[str, Any]:
    """Create a swarm."""
    return succeed("swarm_member", engine, init=True, role="manager", advertise_addr=engine.address).data


def join(manager: Engine, engine: Engine, role: str = "worker") -> dict[str, Any]:
    """Join a swarm."""
    token = succeed("swarm_token", manager, role=role)
    return succeed(
        "swarm_member", engine, role=role, advertise_addr=engine.address,
        join_token=token["token"], remote_addrs=[f"{manager.address}:2377"],
    ).data  # fmt: skip


@contextlib.contextmanager
def slow_proxy(cluster: Engines, manager: Engine, port: int, seconds: float) -> Iterator[str]:
    """A detour to a manager that delays all connections but the first."""
    script = Path(__file__).with_name("slow_proxy.py")
    process = subprocess.Popen(
        [*cluster.hub.enter_network(), sys.executable, str(script), str(port), manager.address, "2377", str(seconds)],
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield f"{SUBNET}.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_init_join_and_leave(alone: Engines) -> None:
    """The whole life of a member, each step four times."""
    manager, worker, _unused = alone.engines
    created = quad("swarm_member", manager, init=True, role="manager", advertise_addr=manager.address)
    assert created["local_state"] == "manager"
    assert created["node_addr"] == manager.address
    assert created["would"] == "init"
    token = succeed("swarm_token", manager, role="worker", cluster_id=created["cluster_id"])
    assert token["remote_addrs"] == [f"{manager.address}:2377"]
    assert not token.changed

    probed = succeed("swarm_member", worker, probe=True, cluster_id=created["cluster_id"])
    assert (probed.changed, probed["needs_join"], probed["local_state"]) == (False, True, "none")
    options: dict[str, Any] = {
        "cluster_id": created["cluster_id"], "advertise_addr": worker.address,
        "join_token": token["token"], "remote_addrs": token["remote_addrs"],
    }  # fmt: skip
    joined = quad("swarm_member", worker, **options)
    assert joined["local_state"] == "worker"
    assert joined["cluster_id"] == created["cluster_id"]
    assert joined["certificate_expires"] > "2026"
    assert not joined["needs_join"]
    assert token["token"] not in joined.output
    assert "SWMTKN" not in joined.output
    probed = succeed("swarm_member", worker, probe=True, cluster_id=created["cluster_id"])
    assert (probed.changed, probed["needs_join"], probed["role_differs"]) == (False, False, False)

    left = quad("swarm_member", worker, state="absent", cluster_id=created["cluster_id"])
    assert left["local_state"] == "none"
    message = refuse("swarm_member", manager, state="absent")
    assert "demote" in message
    assert state(manager) == "active"
    quad("swarm_member", manager, state="absent", force=True)


def test_init_options_are_compared(alone: Engines) -> None:
    """What can be chosen only at the start is refused afterwards."""
    manager = alone[0]
    options: dict[str, Any] = {
        "init": True, "role": "manager", "advertise_addr": manager.address,
        "address_pools": ["10.40.0.0/16", "10.41.0.0/16"], "subnet_size": 26, "data_path_port": 5789,
    }  # fmt: skip
    quad("swarm_member", manager, **options)
    cluster = succeed("swarm_info", manager)["cluster"]
    assert cluster["address_pools"] == ["10.40.0.0/16", "10.41.0.0/16"]
    assert (cluster["subnet_size"], cluster["data_path_port"]) == (26, 5789)
    message = refuse("swarm_member", manager, **{**options, "subnet_size": 24, "data_path_port": 4789})
    assert "subnet_size is 26, wanted 24" in message
    assert "data_path_port is 5789, wanted 4789" in message
    message = refuse("swarm_member", manager, **{**options, "address_pools": ["10.50.0.0/16"]})
    assert "address_pools is 10.40.0.0/16, 10.41.0.0/16, wanted 10.50.0.0/16" in message
    message = refuse("swarm_member", manager, **{**options, "advertise_addr": f"{SUBNET}.99"})
    assert f"known in the swarm as {manager.address}, the wanted address is {SUBNET}.99" in message


def test_foreign_swarm(alone: Engines) -> None:
    """A member of another swarm is not touched, whatever is asked for."""
    first, second, third = alone.engines
    ours = start(first)
    theirs = start(second)
    join(second, third)
    token = succeed("swarm_token", first)
    for engine in (second, third):
        attempts: tuple[dict[str, Any], ...] = (
            {"join_token": token["token"], "remote_addrs": token["remote_addrs"]},
            {"init": True},
            {"probe": True},
            {"state": "absent"},
            {"state": "absent", "force": True},
        )
        for arguments in attempts:
            for check in (True, False):
                message = refuse("swarm_member", engine, check=check, cluster_id=ours["cluster_id"], **arguments)
                assert theirs["cluster_id"] in message
                assert ours["cluster_id"] in message
        assert state(engine) == "active"
    # Joining through a manager of the wrong swarm is noticed before anything happens.
    third.leave_swarm()
    message = refuse(
        "swarm_member", third, cluster_id=ours["cluster_id"], join_token=token["token"], remote_addrs=[f"{second.address}:2377"]
    )  # fmt: skip
    assert f"belongs to the swarm {theirs['cluster_id']}" in message
    assert state(third) == "inactive"
    message = refuse("swarm_token", second, cluster_id=ours["cluster_id"])
    assert theirs["cluster_id"] in message


def test_lost_first_manager_is_not_replaced_by_a_new_swarm(alone: Engines) -> None:
    """A first manager that was in a swarm before and is in none now must not quietly make another one."""
    message = refuse("swarm_member", alone[0], init=True, cluster_id="abcdefghijklmnopqrstuvwxy", advertise_addr=alone[0].address)
    assert "creating a new swarm would lose the old one" in message
    assert state(alone[0]) == "inactive"


def test_wrong_tokens(alone: Engines) -> None:
    """A join with a bad token fails with the reason and leaves the node in no swarm."""
    manager, worker, other = alone.engines
    start(manager)
    start(other)
    old = succeed("swarm_token", manager)["token"]
    rotated = succeed("swarm_token", manager, rotate=True)
    assert rotated.changed
    assert rotated["token"] != old
    planned = succeed("swarm_token", manager, rotate=True, check=True)
    assert planned.changed
    assert planned["token"] == ""
    assert succeed("swarm_token", manager)["token"] == rotated["token"]
    foreign = succeed("swarm_token", other)["token"]
    for token, words in (
        (old, "was rotated"),
        (foreign, "belongs to another swarm"),
        ("SWMTKN-1-nonsense", "does not accept the join token"),
    ):
        result = call(
            "swarm_member", worker, advertise_addr=worker.address, join_token=token, remote_addrs=[f"{manager.address}:2377"], timeout=40
        )  # fmt: skip
        assert result.failed
        assert words in result.msg
        assert token not in result.output
        assert "The node is in no swarm again" in result.msg
        assert state(worker) == "inactive"


def test_manager_that_cannot_be_reached(alone: Engines) -> None:
    """Refused and silent managers are told apart, quickly, and nothing is changed."""
    manager, worker, _unused = alone.engines
    start(manager)
    token = succeed("swarm_token", manager)["token"]
    began = time.monotonic()
    message = refuse("swarm_member", worker, join_token=token, remote_addrs=[f"{SUBNET}.1:2377"])
    assert f"{SUBNET}.1:2377 refuses connections" in message
    manager.space.run("iptables", "-I", "INPUT", "-p", "tcp", "--dport", "2377", "-j", "DROP")
    try:
        for check in (True, False):
            message = refuse("swarm_member", worker, check=check, join_token=token, remote_addrs=[f"{manager.address}:2377"])
            assert "did not answer within 5 s" in message
            assert "firewall" in message
    finally:
        manager.space.run("iptables", "-D", "INPUT", "-p", "tcp", "--dport", "2377", "-j", "DROP")
    assert time.monotonic() - began < 30
    assert state(worker) == "inactive"
    # One of several managers is enough.
    joined = succeed(
        "swarm_member", worker, advertise_addr=worker.address, join_token=token,
        remote_addrs=[f"{SUBNET}.1:2377", f"{manager.address}:2377"],
    )  # fmt: skip
    assert joined["local_state"] == "worker"


def test_join_that_hangs_is_given_up(alone: Engines) -> None:
    """A manager that answers once and then no more: the join ends in time and the node is not left pending."""
    manager, worker, _unused = alone.engines
    start(manager)
    token = succeed("swarm_token", manager)["token"]
    with slow_proxy(alone, manager, 3377, 600) as address:
        began = time.monotonic()
        message = refuse(
            "swarm_member", worker, advertise_addr=worker.address, join_token=token, remote_addrs=[address], timeout=25
        )  # fmt: skip
        assert time.monotonic() - began < 60
    assert "could not join" in message
    assert "The node is in no swarm again" in message
    assert state(worker) == "inactive"


def test_slow_join_goes_on_in_the_background(alone: Engines) -> None:
    """A join that the engine did not finish in its 20 seconds is waited for, not repeated."""
    manager, worker, _unused = alone.engines
    start(manager)
    token = succeed("swarm_token", manager)["token"]
    with slow_proxy(alone, manager, 3378, 23) as address:
        joined = succeed(
            "swarm_member", worker, advertise_addr=worker.address, join_token=token, remote_addrs=[address], timeout=90
        )  # fmt: skip
    assert joined.changed
    assert joined["local_state"] == "worker"
    assert len(manager.client().nodes()) == 2


def test_pending_node_of_somebody_else_is_left_alone(alone: Engines) -> None:
    """A join that somebody else began is reported, not ended."""
    manager, worker, _unused = alone.engines
    start(manager)
    token = succeed("swarm_token", manager)["token"]
    with slow_proxy(alone, manager, 3379, 600) as address:
        with contextlib.closing(socket_to(alone, worker, address)):
            pass  # uses up the connection that is let through
        with contextlib.suppress(Exception):
            worker.client(timeout=25).join_swarm([address], token, advertise_addr=worker.address)
        assert state(worker) == "pending"
        for arguments in ({"init": True}, {"probe": True}, {"join_token": token, "remote_addrs": [f"{manager.address}:2377"]}):
            message = refuse("swarm_member", worker, **arguments)
            assert "has begun to join a swarm and has not finished" in message
        assert state(worker) == "pending"
        info = succeed("swarm_info", worker)
        assert info["local_state"] == "pending"
        assert [item["code"] for item in info["problems"]] == ["pending"]
        left = succeed("swarm_member", worker, state="absent")
        assert left.changed
    assert state(worker) == "inactive"


def socket_to(cluster: Engines, engine: Engine, address: str) -> Any:
    """A connection made from the network of `engine`."""
    host, port = address.split(":")
    process = subprocess.Popen(
        [*engine.space.enter_network(), sys.executable, "-c", f"import socket; socket.create_connection(('{host}', {port})).close()"]
    )
    assert process.wait() == 0

    class Closed:
        def close(self) -> None:
            """Nothing is left open."""

    return Closed()


def test_locked_manager(alone: Engines) -> None:
    """A locked manager is neither taken for a host without swarm nor initialised again."""
    manager = alone[0]
    created = start(manager)
    client = manager.client()
    swarm = client.inspect_swarm()
    spec = dict(swarm["Spec"], EncryptionConfig={"AutoLockManagers": True})
    client.update_swarm(swarm["Version"]["Index"], swarm_spec=spec)
    key = client.get_unlock_key()["UnlockKey"]
    assert succeed("swarm_info", manager)["cluster"]["autolock"]
    manager.restart()
    wait_for(lambda: state(manager) == "locked", 20, "the manager locks itself")
    for arguments in ({"init": True}, {"init": True, "cluster_id": created["cluster_id"]}, {"probe": True}, {"state": "absent"}):
        message = refuse("swarm_member", manager, role="manager", **arguments)
        assert "locked" in message or "is a manager" in message
    assert "mipfed unlock" in refuse("swarm_member", manager, init=True, role="manager")
    others: tuple[tuple[str, dict[str, Any]], ...] = (
        ("swarm_token", {}),
        ("swarm_nodes", {"nodes": []}),
        ("swarm_network", {"name": "x"}),
        ("swarm_services", {"project": "x", "services": []}),
        ("swarm_restart", {"project": "x", "services": []}),
    )
    for module, options in others:
        assert "mipfed unlock" in refuse(module, manager, **options)
    info = succeed("swarm_info", manager)
    assert info["local_state"] == "locked"
    assert [item["code"] for item in info["problems"]] == ["locked"]
    assert state(manager) == "locked"
    manager.client().unlock_swarm(key)
    wait_for(lambda: state(manager) == "active", 20, "the manager is unlocked")
    again = succeed("swarm_member", manager, role="manager", init=True, cluster_id=created["cluster_id"], advertise_addr=manager.address)
    assert not again.changed


def test_manager_without_quorum(alone: Engines) -> None:
    """A manager without majority is told apart from a host without swarm, running and after a restart."""
    first, second, third = alone.engines
    created = start(first)
    joined = join(first, second, role="manager")
    assert joined["local_state"] == "manager"
    join(first, third)
    info = succeed("swarm_info", first)
    assert info["managers"] == {"total": 2, "reachable": 2, "needed": 2, "may_fail": 0, "quorum": True}
    assert "even-managers" in [item["code"] for item in info["problems"]]
    second.freeze()
    try:
        wait_for(lambda: succeed("swarm_info", first)["local_state"] == "no-quorum", 60, "the quorum is lost")
        message = refuse("swarm_member", first, init=True, role="manager", cluster_id=created["cluster_id"])
        assert "no majority" in message
        assert "no majority" in refuse("swarm_token", first)
        assert "no majority" in refuse("swarm_services", first, project="x", services=[])
        assert "no majority" in refuse("swarm_restart", first, project="x", services=[])
        # Workers go on.
        assert succeed("swarm_member", third, cluster_id=created["cluster_id"], probe=True)["local_state"] == "worker"
        first.restart()
        info = succeed("swarm_info", first)
        assert info["local_state"] == "no-quorum"
        assert info["cluster_id"] == created["cluster_id"]
        assert "no majority" in refuse("swarm_member", first, init=True, role="manager")
    finally:
        second.thaw()
    wait_for(lambda: succeed("swarm_info", first)["local_state"] == "manager", 60, "the quorum is back")


def test_without_an_engine(tmp_path: Path, alone: Engines) -> None:
    """On a host without Docker, check mode answers, and anything else says what to install."""
    wanted: dict[str, dict[str, Any]] = {
        "swarm_member": {"init": True},
        "swarm_nodes": {"nodes": [{"node_id": "", "name": "wk-1"}]},
        "swarm_network": {"name": "mip-federation", "subnet": "10.20.30.0/24"},
        "swarm_services": {"project": "lab", "services": [{"name": "a", "image": "b"}]},
        "swarm_restart": {"project": "lab", "services": ["a"]},
        "swarm_token": {"rotate": True},
    }
    for module, arguments in wanted.items():
        missing = {**arguments, "docker_host": f"unix://{tmp_path}/docker.sock"}
        planned = call(module, alone[0], check=True, **missing)
        assert planned.changed, planned.data
        assert "once Docker is installed" in planned.msg
        if module != "swarm_nodes":
            assert "Docker is not installed, or not running" in refuse(module, alone[0], **missing)
        # An engine in no swarm: check mode goes on, too.
        planned = succeed(module, alone[0], check=True, **arguments)
        assert planned.changed
        if module not in ("swarm_member", "swarm_nodes"):
            assert "this node is in no swarm" in refuse(module, alone[0], **arguments)
    for check in (True, False):
        nothing = succeed("swarm_restart", alone[0], check=check, **wanted["swarm_restart"], skip_absent=True)
        assert (nothing.changed, nothing["restarted"]) == (False, [])
    info = call("swarm_info", alone[0], docker_host=f"unix://{tmp_path}/docker.sock")
    assert not info.failed
    assert info["local_state"] == "none"
    assert info["problems"][0]["code"] == "engine"


def test_worker_is_not_a_manager(alone: Engines) -> None:
    """Modules for managers say where they have to run."""
    manager, worker, _unused = alone.engines
    start(manager)
    join(manager, worker)
    assert f"Run it on {manager.address}:2377" in refuse("swarm_token", worker)
    assert succeed("swarm_info", worker)["local_state"] == "worker"
    drifted = succeed("swarm_member", worker, advertise_addr=f"{SUBNET}.77")
    assert not drifted.changed
    assert any("address of this worker changed" in text for text in drifted.warnings)
    wrong = succeed("swarm_member", worker, role="manager")
    assert wrong["role_differs"]
