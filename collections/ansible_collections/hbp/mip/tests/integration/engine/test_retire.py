# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nodes that leave a real swarm, alive or dead, and tokens that are worthless afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ansible_collections.hbp.mip.tests.helpers.engines import wait_for

from .conftest import Swarm, quad, refuse, succeed
from .test_services import action, deploy, service

pytestmark = pytest.mark.engine


def join(swarm: Swarm, name: str = "wk-2", role: str = "worker") -> str:
    """Let the spare engine join, with a name; returns the id of its node."""
    token = succeed("swarm_token", swarm.manager, role=role)
    options = {"advertise_addr": swarm.spare.address, "join_token": token["token"], "remote_addrs": token["remote_addrs"], "role": role}
    node = str(succeed("swarm_member", swarm.spare, **options)["node_id"])
    succeed("swarm_nodes", swarm.manager, nodes=[{"node_id": node, "name": name}])
    return node


@pytest.fixture
def third(swarm: Swarm, clean: Callable[[], None]) -> Iterator[str]:
    """The spare engine as the node wk-2, with a service of its own; gone after the test."""
    node = join(swarm)
    assert (
        action(deploy(swarm, service(swarm, "wk-2_exareme", "wk-2"), service(swarm, "wk-1_exareme", "wk-1")), "wk-2_exareme") == "created"
    )
    yield node
    swarm.spare.leave_swarm()
    succeed("swarm_retire", swarm.manager, name="wk-2", project="lab", state="removed", force=True, timeout=30)


def named(swarm: Swarm, name: str) -> list[dict[str, Any]]:
    return [node for node in succeed("swarm_info", swarm.manager)["nodes"] if node["name"] == name]


def test_a_node_is_drained_and_leaves(swarm: Swarm, third: str) -> None:
    options = {"name": "wk-2", "project": "lab", "timeout": 60}
    drained = quad("swarm_retire", swarm.manager, state="drained", **options)
    assert [(node["id"], node["action"]) for node in drained["found"]] == [(third, "drained")]
    containers = swarm.spare.client().containers()
    assert containers == []
    # What still works is not removed behind its back.
    message = refuse("swarm_retire", swarm.manager, state="removed", name="wk-2", project="lab", timeout=2)
    assert "still is a working member" in message
    assert "docker swarm leave" in message
    quad("swarm_retire", swarm.manager, state="active", **options)
    succeed("swarm_member", swarm.spare, state="absent", cluster_id=swarm.cluster_id)
    removed = quad("swarm_retire", swarm.manager, state="absent", **options)
    assert removed["services"] == ["wk-2_exareme"]
    assert [node["action"] for node in removed["found"]] == ["removed"]
    assert named(swarm, "wk-2") == []
    assert [item["Spec"]["Name"] for item in swarm.manager.client().services()] == ["wk-1_exareme"]


def test_a_dead_node_is_removed_and_its_twin_stays(swarm: Swarm, third: str) -> None:
    swarm.spare.leave_swarm()
    client = swarm.manager.client()
    wait_for(lambda: client.inspect_node(third)["Status"]["State"] == "down", 60, "the old node is down")
    node = succeed("swarm_member", swarm.spare, advertise_addr=swarm.spare.address, **_token(swarm))["node_id"]
    assert not succeed("swarm_retire", swarm.manager, name="wk-2", project="lab", state="removed", keep=[third]).changed
    removed = quad("swarm_retire", swarm.manager, name="wk-2", project="lab", state="removed", keep=[node], timeout=60)
    assert [(found["id"], found["action"]) for found in removed["found"]] == [(third, "removed")]
    succeed("swarm_nodes", swarm.manager, nodes=[{"node_id": node, "name": "wk-2"}])
    assert [found["id"] for found in named(swarm, "wk-2")] == [node]


def _token(swarm: Swarm) -> dict[str, Any]:
    token = succeed("swarm_token", swarm.manager)
    return {"join_token": token["token"], "remote_addrs": token["remote_addrs"]}


def test_a_node_that_cannot_be_told_to_leave_is_forced_out_when_asked(swarm: Swarm, third: str) -> None:
    removed = succeed("swarm_retire", swarm.manager, name="wk-2", project="lab", state="absent", force=True, timeout=2)
    assert [node["action"] for node in removed["found"]] == ["forced"]
    assert named(swarm, "wk-2") == []


def test_the_own_node_is_never_touched_and_no_swarm_is_nothing_to_do(swarm: Swarm) -> None:
    assert "is the node that this runs on" in refuse("swarm_retire", swarm.manager, name="ms", project="lab", state="absent")
    result = succeed("swarm_retire", swarm.spare, name="wk-2", project="lab", state="absent")
    assert (result.changed, result["swarm"], result["found"]) == (False, False, [])


def test_tokens_that_were_given_are_worthless_after_the_rotation(swarm: Swarm) -> None:
    manager, spare = swarm.manager, swarm.spare
    assert not succeed("swarm_rotate", manager, when_given=True).changed
    old = succeed("swarm_token", manager, give=True)
    assert succeed("swarm_member", manager, role="manager", cluster_id=swarm.cluster_id)["token_given"] is True
    assert succeed("swarm_rotate", manager, when_given=True, check=True).changed
    rotated = succeed("swarm_rotate", manager, when_given=True)
    assert rotated["rotated"] == ["worker", "manager"]
    assert "SWMTKN" not in rotated.output
    assert not succeed("swarm_rotate", manager, when_given=True).changed
    assert succeed("swarm_token", manager)["token"] != old["token"]
    message = refuse("swarm_member", spare, advertise_addr=spare.address, join_token=old["token"], remote_addrs=old["remote_addrs"])
    assert "does not accept the join token" in message
    labels = manager.client().inspect_swarm()["Spec"].get("Labels") or {}
    assert labels == {}


def test_the_authority_is_replaced_on_all_nodes(swarm: Swarm) -> None:
    before = swarm.manager.client().inspect_swarm()["TLSInfo"]["TrustRoot"]
    planned = succeed("swarm_rotate", swarm.manager, check=True, tokens=[], ca=True)
    assert planned.changed
    assert swarm.manager.client().inspect_swarm()["TLSInfo"]["TrustRoot"] == before
    rotated = succeed("swarm_rotate", swarm.manager, tokens=[], ca=True, timeout=240)
    assert (rotated["ca"]["rotated"], rotated["ca"]["nodes"]) == (True, 2)
    after = swarm.manager.client().inspect_swarm()
    assert after["TLSInfo"]["TrustRoot"] != before
    assert not after.get("RootRotationInProgress")
    roots = {node["Description"]["TLSInfo"]["TrustRoot"] for node in swarm.manager.client().nodes()}
    assert roots == {after["TLSInfo"]["TrustRoot"]}
