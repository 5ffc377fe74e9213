# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plans and refusals of swarm_nodes, swarm_network and swarm_info."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _swarm
from ansible_collections.hbp.mip.plugins.modules import swarm_info, swarm_network, swarm_nodes


def node(node_id: str, name: str = "", **changes: Any) -> dict[str, Any]:
    return {
        "id": node_id,
        "hostname": f"host-{node_id}",
        "name": name,
        "role": "worker",
        "availability": "active",
        "status": "ready",
        "status_message": "",
        "reachability": "",
        "address": f"10.0.0.{len(node_id)}{node_id[-1]}",
        "labels": {"name": name} if name else {},
        **changes,
    }


def item(node_id: str, **changes: Any) -> dict[str, Any]:
    return {"node_id": node_id, "name": None, "labels": {}, "availability": None, "role": None, "state": "present", **changes}


def test_plan_keeps_what_is_not_given() -> None:
    wanted = swarm_nodes.plan([node("1", "a", labels={"name": "a", "x": "1"})], [item("1", labels={"y": 2})])
    assert wanted[0]["labels"] == {"name": "a", "x": "1", "y": "2"}
    assert (wanted[0]["role"], wanted[0]["availability"]) == ("worker", "active")
    wanted = swarm_nodes.plan([node("1", "a")], [item("1", name="b", role="manager", availability="drain")])
    assert (wanted[0]["name"], wanted[0]["role"], wanted[0]["availability"]) == ("b", "manager", "drain")


@pytest.mark.parametrize(
    ("nodes", "items", "words"),
    [
        ([node("1")], [item("9", name="x")], r"not in this swarm: 9 \(x\)"),
        ([node("1"), node("2", "x")], [item("1", name="x")], r"already on the node 2 \(host-2.*Both are working nodes"),
        ([node("1"), node("2", "x", status="down")], [item("1", name="x")], r"remove the old one on a manager: docker node rm 2"),
        (
            [node("1"), node("2", "x", status="down", role="manager")],
            [item("1", name="x")],
            r"docker node demote 2; docker node rm 2",
        ),
    ],
)
def test_plan_refuses(nodes: list[dict[str, Any]], items: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(_swarm.SwarmError, match=words) as caught:
        swarm_nodes.plan(nodes, items)
    assert "Nothing was changed" in str(caught.value)


def test_a_removed_twin_frees_its_name() -> None:
    nodes = [node("1"), node("2", "x", status="down")]
    items = [item("1", name="x"), item("2", state="absent")]
    assert swarm_nodes.plan(nodes, items)[0]["name"] == "x"
    assert swarm_nodes.check_removals(nodes, items) == [nodes[1]]
    assert swarm_nodes.check_removals(nodes[:1], items) == []


def test_working_nodes_are_not_removed() -> None:
    with pytest.raises(_swarm.SwarmError, match="is ready"):
        swarm_nodes.check_removals([node("1")], [item("1", state="absent")])
    with pytest.raises(_swarm.SwarmError, match="docker node demote 1"):
        swarm_nodes.check_removals([node("1", role="manager", status="down")], [item("1", state="absent")])


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([item("1"), item("1")], "the node 1 is given more than once"),
        ([item("1", name="a"), item("2", name="a")], "the name a is given more than once"),
        ([item("1", labels={"name": "x"})], "not in labels"),
        ([item("", name="wk")], "node_id is empty for wk"),
    ],
)
def test_lists_that_contradict_themselves(items: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(_swarm.SwarmError, match=words):
        swarm_nodes.check_items(items, check_mode=False)


def test_nodes_that_have_not_joined_are_for_check_mode() -> None:
    swarm_nodes.check_items([item("", name="a"), item("", name="b")], check_mode=True)


@pytest.mark.parametrize(("value", "encrypted"), [("", True), ("true", True), ("1", True), ("false", False), (None, False)])
def test_encrypted_networks(value: Any, encrypted: bool) -> None:
    options = {} if value is None else {"encrypted": value}
    assert swarm_network.describe({"Name": "x", "Options": options})["encrypted"] is encrypted


def test_routes() -> None:
    table = (
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t0107FE0A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth0\t0007FE0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    )
    assert swarm_network.parse_routes(table) == [("10.254.7.0/24", "eth0")]
    assert swarm_network.parse_routes("") == []
    assert swarm_network.collision("10.254.0.0/16", [("10.254.7.0/24", "a")]) == ("10.254.7.0/24", "a")
    assert swarm_network.collision("10.253.0.0/16", [("10.254.7.0/24", "a"), ("fd00::/8", "b")]) is None


def test_two_networks_of_one_name() -> None:
    twice = [{"Name": "x", "Id": "1", "Scope": "swarm"}, {"Name": "x", "Id": "2", "Scope": "local"}]
    with pytest.raises(_swarm.SwarmError, match=r"there are 2 networks called x: 1 \(swarm\), 2 \(local\)"):
        swarm_network.find(twice, "x")
    assert swarm_network.find(twice, "y") is None


def test_managers_are_counted() -> None:
    def managers(*reachable: bool) -> dict[str, Any]:
        nodes = [node(str(i), role="manager", reachability="reachable" if up else "unreachable") for i, up in enumerate(reachable)]
        return swarm_info.count_managers([*nodes, node("w")])

    assert managers(True) == {"total": 1, "reachable": 1, "needed": 1, "may_fail": 0, "quorum": True}
    assert managers(True, True, False) == {"total": 3, "reachable": 2, "needed": 2, "may_fail": 0, "quorum": True}
    assert managers(True, False, False)["quorum"] is False
    assert swarm_info.manager_problems(managers(True, True))[0]["code"] == "even-managers"
    assert swarm_info.manager_problems(managers(True, True, True)) == []
    assert swarm_info.count_managers([])["quorum"] is False


def test_problems_of_nodes() -> None:
    found = swarm_info.node_problems(
        [
            node("1", "a", status="down", status_message="heartbeat failure"),
            node("2", "b", availability="drain"),
            node("3", "c", role="manager", reachability="unreachable"),
            node("4", "a"),
        ]
    )
    assert [entry["code"] for entry in found] == ["node-down", "node-drain", "manager-unreachable", "twins"]
    assert "the node a (1) is down: heartbeat failure" in found[0]["message"]
    assert "docker node rm 1" in found[3]["fix"]


def test_certificates_that_end_soon() -> None:
    assert swarm_info.certificate_problems("x", 0, 100, 14) == []
    assert swarm_info.certificate_problems("x", 15 * 86400, 0, 14) == []
    assert "expires at" in swarm_info.certificate_problems("x", 13 * 86400, 0, 14)[0]["message"]
    assert "expired at" in swarm_info.certificate_problems("x", 10, 20, 14)[0]["message"]


def test_service_table() -> None:
    service = {
        "ID": "s",
        "Spec": {
            "Name": "svc",
            "TaskTemplate": {"ContainerSpec": {"Image": "i"}, "Placement": {"Constraints": ["node.labels.name == wk"]}},
        },
    }
    tasks = [
        {"ID": "1", "CreatedAt": "1", "DesiredState": "shutdown", "NodeID": "n", "Status": {"State": "failed", "Err": "boom"}},
        {"ID": "2", "CreatedAt": "2", "DesiredState": "ready", "NodeID": "n", "Status": {"State": "ready", "Timestamp": "t"}},
    ]
    shown = swarm_info.describe_service(service, tasks, {"n": node("n", "wk-1")})
    assert (shown["node"], shown["state"], shown["running"], shown["error"]) == ("wk-1", "ready", 0, "boom")
    assert "runs 0 of 1 tasks: boom" in swarm_info.service_problems([shown])[0]["message"]
    assert swarm_info.describe_service(service, [], {})["node"] == "wk"
    running = {"ID": "3", "CreatedAt": "3", "DesiredState": "running", "NodeID": "n", "Status": {"State": "running"}}
    shown = swarm_info.describe_service(service, [*tasks, running], {})
    assert (shown["running"], shown["error"]) == (1, "")
    assert swarm_info.service_problems([shown]) == []
