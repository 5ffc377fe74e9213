# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Managers that are locked, alone, or without their log: found on real engines, and treated."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.hbp.mip.tests.helpers.engines import Engine, Engines, wait_for

from .conftest import call, refuse, succeed

pytestmark = pytest.mark.engine


def look(engine: Engine, **more: Any) -> dict[str, Any]:
    """What is found on a manager."""
    return call("swarm_recovery", engine, **{"manager": True, "engine_timeout": 10, **more}).data


def found(engine: Engine, finding: str, seconds: float = 120, **more: Any) -> dict[str, Any]:
    """Wait for a finding."""
    return dict(wait_for(lambda: (seen := look(engine, **more))["finding"] == finding and seen, seconds, f"{finding} on {engine.name}"))


def join(manager: Engine, engine: Engine) -> None:
    """Join as a manager."""
    token = succeed("swarm_token", manager, role="manager")
    succeed(
        "swarm_member", engine, role="manager", advertise_addr=engine.address, join_token=token["token"],
        remote_addrs=[f"{manager.address}:2377"],
    )  # fmt: skip


@pytest.fixture
def three(alone: Engines) -> Iterator[tuple[Engines, str]]:
    """Three managers of one swarm, with its id. All run again afterwards."""
    first = alone[0]
    created = succeed("swarm_member", first, init=True, role="manager", advertise_addr=first.address)
    for other in alone.engines[1:]:
        join(first, other)
    yield alone, created["cluster_id"]
    for engine in alone.engines:
        with contextlib.suppress(Exception):
            engine.stop()
        engine.start()


def test_majority_lost(three: tuple[Engines, str]) -> None:
    """Two of three are lost for good: the third goes on with the same swarm, and only when it is told to."""
    engines, cluster_id = three
    survivor, *lost = engines.engines
    service = survivor.client().create_service({"ContainerSpec": {"Image": "none:1"}}, name="kept", mode={"Replicated": {"Replicas": 0}})
    assert not succeed("swarm_recovery", survivor, treatment="force_new_cluster", cluster_id=cluster_id, manager=True).changed
    for engine in lost:
        engine.stop()
    seen = found(survivor, "no-quorum", cluster_id=cluster_id)
    assert "force_new_cluster" in seen["treatments"]
    planned = succeed("swarm_recovery", survivor, check=True, treatment="force_new_cluster", cluster_id=cluster_id, manager=True)
    assert planned.changed and look(survivor, cluster_id=cluster_id)["finding"] == "no-quorum"

    forced = succeed("swarm_recovery", survivor, treatment="force_new_cluster", cluster_id=cluster_id, manager=True)
    assert forced.changed and forced["local_state"] == "manager"
    assert forced["node"]["cluster_id"] == cluster_id
    assert (survivor.root / "swarm" / "certificates").is_dir()
    assert forced["aside"] and len(list(survivor.root.glob("swarm.before-*"))) == 1
    assert [entry["ID"] for entry in survivor.client().services()] == [service["ID"]]

    # The old members are removed, and one of them comes back as a new one.
    assert [node["id"] for node in succeed("swarm_info", survivor)["nodes"]] == [forced["node"]["node_id"]]
    again = succeed("swarm_recovery", survivor, treatment="force_new_cluster", cluster_id=cluster_id, manager=True)
    assert not again.changed
    shutil.rmtree(lost[0].root / "swarm")
    lost[0].start()
    assert look(lost[0], cluster_id=cluster_id)["finding"] == "state-lost"
    join(survivor, lost[0])
    assert succeed("swarm_info", survivor)["cluster"]["id"] == cluster_id
    shutil.rmtree(next(survivor.root.glob("swarm.before-*")))


def test_locked(alone: Engines) -> None:
    """A manager with autolock is found locked after a restart, a wrong key is refused, the right one opens it and is told nowhere."""
    manager = alone[0]
    created = succeed("swarm_member", manager, init=True, role="manager", advertise_addr=manager.address)
    client = manager.client()
    swarm = client.inspect_swarm()
    spec = {**swarm["Spec"], "EncryptionConfig": {"AutoLockManagers": True}}
    client.update_swarm(version=swarm["Version"]["Index"], swarm_spec=spec)
    key = client.get_unlock_key()["UnlockKey"]
    manager.restart()
    options = {"cluster_id": created["cluster_id"], "manager": True}
    assert look(manager, **options)["treatments"] == ["unlock"]
    assert "no key was given" in refuse("swarm_recovery", manager, treatment="unlock", **options)
    wrong = call("swarm_recovery", manager, treatment="unlock", unlock_key="SWMKEY-1-" + "A" * 43, **options)
    assert wrong.failed and look(manager, **options)["finding"] == "locked"
    opened = succeed("swarm_recovery", manager, treatment="unlock", unlock_key=key, **options)
    assert opened.changed and opened["finding"] == "ok"
    assert key not in opened.output + wrong.output
    assert not succeed("swarm_recovery", manager, treatment="unlock", unlock_key=key, **options).changed


def test_log_lost(alone: Engines) -> None:
    """A manager whose log was removed is told apart from a healthy one, before and after its engine was restarted."""
    manager = alone[0]
    created = succeed("swarm_member", manager, init=True, role="manager", advertise_addr=manager.address)
    options = {"cluster_id": created["cluster_id"], "recorded_at": "2026-01-01T00:00:00Z", "manager": True}
    healthy = {**options, "recorded_at": "2099-01-01T00:00:00Z"}
    assert look(manager, **healthy)["finding"] == "ok"
    # The same id, begun after it was recorded: all that the swarm knew is gone.
    assert look(manager, **options)["finding"] == "state-new"
    shutil.rmtree(manager.root / "swarm" / "raft")
    seen = look(manager, **healthy)
    assert (seen["finding"], seen["treatments"]) == ("raft-damaged", ["set_aside"])
    assert "no treatment" in refuse("swarm_recovery", manager, treatment="force_new_cluster", **healthy)
    foreign = look(manager, **{**healthy, "cluster_id": "another"})
    assert (foreign["finding"], foreign["treatments"]) == ("foreign-swarm", [])
