# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""swarm_power on real engines: stopped on purpose, remembered, left stopped by a deploy, started again, and what does not start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.tests.helpers.engines import Engine

from .conftest import Swarm, call, quad, refuse, succeed

pytestmark = pytest.mark.engine

SERVICES = [{"name": "keystore", "wave": 0}, {"name": "ms_master", "wave": 1}, {"name": "wk-1_exareme", "wave": 2}]


def pinned(image: str, name: str, node: str, **more: Any) -> dict[str, Any]:
    """A wanted service bound to a node."""
    return {
        "name": name, "node": node, "image": image, "constraints": [f"node.labels.name=={node}"], "stop_grace_period": "1s",
        "update": {"monitor": 1}, **more,
    }  # fmt: skip


def wanted(image: str) -> list[dict[str, Any]]:
    """The services of a small federation."""
    return [pinned(image, "keystore", "ms"), pinned(image, "ms_master", "ms"), pinned(image, "wk-1_exareme", "wk-1")]


def running(manager: Engine) -> set[str]:
    """The names of the services that have a running task."""
    client = manager.client()
    names = {service["ID"]: service["Spec"]["Name"] for service in client.services()}
    found = {names[task["ServiceID"]] for task in client.tasks() if task["ServiceID"] in names and task["Status"]["State"] == "running"}
    client.close()
    return found


def drain(manager: Engine, name: str, availability: str) -> None:
    """Let a node take tasks or none."""
    client = manager.client()
    (node,) = [node for node in client.nodes() if node["Spec"].get("Labels", {}).get("name") == name]
    client.update_node(node["ID"], node["Version"]["Index"], {**node["Spec"], "Availability": availability})
    client.close()


def test_stopped_remembered_and_started(swarm: Swarm, clean: Callable[[], None]) -> None:
    """The whole story: nothing runs, a deploy leaves it so although it changes something, and a start brings all back."""
    manager = swarm.manager
    succeed("swarm_services", manager, project="lab", services=wanted(swarm.image))
    done = quad("swarm_power", manager, project="lab", state="stopped", services=SERVICES, reason="power cut")
    assert [item["action"] for item in done["services"]] == ["stopped"] * 3
    assert running(manager) == set()
    info = succeed("swarm_info", manager, project="lab")
    assert info["problems"] == []
    since = {item["stopped_since"] for item in info["services"]}
    assert all(since)
    assert {item["stopped_reason"] for item in info["services"]} == {"power cut"}

    again = succeed("swarm_services", manager, project="lab", services=wanted(swarm.image))
    assert not again.changed
    assert any("stays stopped: it is stopped on purpose since" in text for text in again.warnings)
    other = [{**item, "env": {"NEW": "1"}} for item in wanted(swarm.image)]
    updated = succeed("swarm_services", manager, project="lab", services=other)
    assert [item["action"] for item in updated["services"]] == ["updated"] * 3
    assert running(manager) == set()
    assert {item["stopped_since"] for item in updated["services"]} == since

    restarted = succeed("swarm_restart", manager, project="lab", services=["keystore"])
    assert [item["action"] for item in restarted["services"]] == ["stopped"]

    one = succeed("swarm_power", manager, project="lab", state="started", services=SERVICES[:1])
    assert [item["action"] for item in one["services"]] == ["started"]
    assert running(manager) == {"keystore"}
    rest = quad("swarm_power", manager, project="lab", state="started", services=SERVICES)
    assert [item["action"] for item in rest["services"]] == ["unchanged", "started", "started"]
    assert running(manager) == {"keystore", "ms_master", "wk-1_exareme"}
    assert not succeed("swarm_services", manager, project="lab", services=other).changed


def test_what_does_not_start_is_explained_and_the_next_wave_waits(swarm: Swarm, clean: Callable[[], None]) -> None:
    """The engine's own words about the crash are in the answer; services that depend on it are not started."""
    manager = swarm.manager
    succeed("swarm_services", manager, project="lab", services=wanted(swarm.image))
    succeed("swarm_power", manager, project="lab", state="stopped", services=SERVICES)
    broken = wanted(swarm.image)
    broken[1] |= {"command": ["/bin/sh", "-c", "echo no disk; exit 3"], "restart": {"delay": "100ms"}}
    succeed("swarm_services", manager, project="lab", services=broken)
    failed = call("swarm_power", manager, project="lab", state="started", services=SERVICES, timeout=60)
    assert failed.failed
    assert "Traceback" not in failed.output
    assert [item["action"] for item in failed["services"]] == ["started", "failed", "waiting"]
    assert failed["services"][1]["kind"] == "crash"
    assert "no disk" in failed["services"][1]["log"]
    assert "Not started: wk-1_exareme" in failed.msg
    assert failed["manager_lost"] is False
    succeed("swarm_services", manager, project="lab", services=wanted(swarm.image))
    succeed("swarm_power", manager, project="lab", state="started", services=SERVICES)


def test_what_is_mended_starts_though_nothing_is_to_be_written(swarm: Swarm, clean: Callable[[], None], tmp_path: Path) -> None:
    """The swarm still tries a service again that failed a moment ago: that failure is none of the command that comes after the repair."""
    manager = swarm.manager
    data = tmp_path / "data"
    data.mkdir()
    services = wanted(swarm.image)
    services[2] |= {"mounts": [{"source": str(data), "target": "/data"}], "restart": {"delay": "15s"}}
    succeed("swarm_services", manager, project="lab", services=services)
    succeed("swarm_power", manager, project="lab", state="stopped", services=SERVICES)
    data.rmdir()
    failed = call("swarm_power", manager, project="lab", state="started", services=SERVICES, timeout=60)
    assert [item["action"] for item in failed["services"]] == ["started", "started", "failed"]
    assert failed["services"][2]["kind"] == "mount"
    data.mkdir()
    mended = succeed("swarm_power", manager, project="lab", state="started", services=SERVICES, timeout=60)
    assert mended["services"][2]["error"] == ""
    assert running(manager) == {"keystore", "ms_master", "wk-1_exareme"}


def test_a_drained_node_does_not_keep_the_others_from_starting(swarm: Swarm, clean: Callable[[], None]) -> None:
    """What may rest is written as started and not waited for; it runs when its node is active again. Nothing else may be missing."""
    manager = swarm.manager
    services = [*SERVICES[:2], {**SERVICES[2], "may_rest": True}]
    succeed("swarm_services", manager, project="lab", services=wanted(swarm.image))
    succeed("swarm_power", manager, project="lab", state="stopped", services=services)
    try:
        drain(manager, "wk-1", "drain")
        done = quad("swarm_power", manager, project="lab", state="started", services=services)
        assert [item["action"] for item in done["services"]] == ["started", "started", "drained"]
        assert running(manager) == {"keystore", "ms_master"}
        names = [service["name"] for service in SERVICES]
        again = succeed("swarm_restart", manager, project="lab", services=names, may_rest=names[2:])
        assert [item["action"] for item in again["services"]] == ["restarted", "restarted", "drained"]
        failed = call("swarm_power", manager, project="lab", state="started", services=SERVICES, timeout=60)
        assert [item["action"] for item in failed["services"]] == ["unchanged", "unchanged", "failed"]
        assert "takes no tasks" in failed.msg
        drain(manager, "wk-1", "active")
        succeed("swarm_power", manager, project="lab", state="started", services=services)
        assert running(manager) == {"keystore", "ms_master", "wk-1_exareme"}
    finally:
        drain(manager, "wk-1", "active")


def test_only_ours(swarm: Swarm, clean: Callable[[], None]) -> None:
    """A service of somebody else, or one that does not exist, stops all of it before anything is done."""
    manager = swarm.manager
    succeed("swarm_services", manager, project="other", services=[pinned(swarm.image, "theirs", "ms")])
    succeed("swarm_services", manager, project="lab", services=[pinned(swarm.image, "ours", "ms")])
    message = refuse(
        "swarm_power", manager, project="lab", state="stopped", services=[{"name": "ours"}, {"name": "theirs"}, {"name": "none"}]
    )
    assert "belongs to the federation other" in message
    assert "service none: the swarm does not have it" in message
    assert running(manager) == {"theirs", "ours"}
    assert call("swarm_power", swarm.worker, project="lab", state="stopped", services=[{"name": "ours"}])["manager_lost"] is True
