# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""swarm_nodes and swarm_network on a real swarm."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ansible_collections.hbp.mip.tests.helpers.engines import wait_for

from .conftest import NETWORK, Swarm, quad, refuse, succeed

pytestmark = pytest.mark.engine


def test_labels_and_availability(swarm: Swarm) -> None:
    """Labels are added and removed, others stay, availability changes."""
    worker = swarm.node_ids["wk-1"]
    client = swarm.manager.client()
    node = client.inspect_node(worker)
    client.update_node(worker, node["Version"]["Index"], dict(node["Spec"], Labels={**node["Spec"]["Labels"], "theirs": "1"}))
    wanted = [
        {"node_id": worker, "name": "wk-1", "labels": {"site": "chuv", "disk": 4}, "availability": "drain"},
        {"node_id": swarm.node_ids["ms"], "name": "ms"},
    ]
    result = quad("swarm_nodes", swarm.manager, nodes=wanted)
    assert result["changed_nodes"] == [worker]
    assert client.inspect_node(worker)["Spec"]["Labels"] == {"name": "wk-1", "theirs": "1", "site": "chuv", "disk": "4"}
    assert client.inspect_node(worker)["Spec"]["Availability"] == "drain"
    info = succeed("swarm_info", swarm.manager)
    assert "node-drain" in [item["code"] for item in info["problems"]]
    back = [{"node_id": worker, "labels": {"site": None, "disk": None, "theirs": None}, "availability": "active"}]
    quad("swarm_nodes", swarm.manager, nodes=back)
    assert client.inspect_node(worker)["Spec"]["Labels"] == {"name": "wk-1"}


def test_promote_and_demote(swarm: Swarm) -> None:
    """A promoted node is a reachable manager when the module returns, a demoted one a worker."""
    worker = swarm.node_ids["wk-1"]
    result = quad("swarm_nodes", swarm.manager, nodes=[{"node_id": worker, "role": "manager"}])
    assert result["nodes"][0]["reachability"] == "reachable"
    assert succeed("swarm_member", swarm.worker, role="manager", cluster_id=swarm.cluster_id)["local_state"] == "manager"
    quad("swarm_nodes", swarm.manager, nodes=[{"node_id": worker, "role": "worker"}])
    wait_for(lambda: succeed("swarm_info", swarm.worker)["local_state"] == "worker", 20, "the node is a worker again")


def test_contradictions(swarm: Swarm) -> None:
    """Names twice, unknown nodes and nodes that have not joined are refused before anything is changed."""
    ms, wk = swarm.node_ids["ms"], swarm.node_ids["wk-1"]
    assert "given more than once" in refuse(
        "swarm_nodes", swarm.manager, nodes=[{"node_id": ms, "name": "x"}, {"node_id": wk, "name": "x"}]
    )
    assert "given more than once" in refuse("swarm_nodes", swarm.manager, nodes=[{"node_id": ms}, {"node_id": ms}])
    message = refuse("swarm_nodes", swarm.manager, nodes=[{"node_id": ms, "labels": {"x": 1}}, {"node_id": "nonesuch", "name": "wk-9"}])
    assert "not in this swarm: nonesuch (wk-9)" in message
    assert "node_id is empty for wk-9" in refuse("swarm_nodes", swarm.manager, nodes=[{"node_id": "", "name": "wk-9"}])
    message = refuse("swarm_nodes", swarm.manager, nodes=[{"node_id": ms, "name": "wk-1"}])
    assert f"is already on the node {wk}" in message
    assert "Both are working nodes" in message
    assert "is ready. Nothing was changed" in refuse("swarm_nodes", swarm.manager, nodes=[{"node_id": wk, "state": "absent"}])
    assert "is a manager" in refuse("swarm_nodes", swarm.manager, nodes=[{"node_id": ms, "state": "absent"}])
    planned = succeed("swarm_nodes", swarm.manager, check=True, nodes=[{"node_id": "", "name": "wk-9"}])
    assert planned.changed
    # Names may be exchanged between given nodes.
    swapped = [{"node_id": ms, "name": "wk-1"}, {"node_id": wk, "name": "ms"}]
    quad("swarm_nodes", swarm.manager, nodes=swapped)
    quad("swarm_nodes", swarm.manager, nodes=[{"node_id": ms, "name": "ms"}, {"node_id": wk, "name": "wk-1"}])


def test_replaced_node(swarm: Swarm) -> None:
    """A node that came back as a new one: its twin is named, removed on request only, then the name is free."""
    manager, spare = swarm.manager, swarm.spare
    token = succeed("swarm_token", manager)
    options = {"advertise_addr": spare.address, "join_token": token["token"], "remote_addrs": token["remote_addrs"]}
    old = succeed("swarm_member", spare, **options)["node_id"]
    succeed("swarm_nodes", manager, nodes=[{"node_id": old, "name": "wk-2"}])
    spare.leave_swarm()
    new = succeed("swarm_member", spare, **options)["node_id"]
    client = manager.client()
    wait_for(lambda: client.inspect_node(old)["Status"]["State"] == "down", 30, "the old node is down")
    message = refuse("swarm_nodes", manager, nodes=[{"node_id": new, "name": "wk-2"}])
    assert f"already on the node {old}" in message
    assert f"docker node rm {old}" in message
    info = succeed("swarm_info", manager)
    assert {"by": "address", "value": spare.address, "nodes": [new, old], "down": [old]} in [
        {**twin, "nodes": sorted(twin["nodes"], key=lambda node: node != new)} for twin in info["twins"]
    ]
    assert any(f"docker node rm {old}" in item["fix"] for item in info["problems"] if item["code"] == "twins")
    result = quad("swarm_nodes", manager, nodes=[{"node_id": new, "name": "wk-2"}, {"node_id": old, "state": "absent"}])
    assert set(result["changed_nodes"]) == {old, new}
    assert not succeed("swarm_info", manager)["twins"]
    spare.leave_swarm()
    wait_for(lambda: client.inspect_node(new)["Status"]["State"] == "down", 30, "the new node is down")
    quad("swarm_nodes", manager, nodes=[{"node_id": new, "state": "absent"}])


def test_network(swarm: Swarm) -> None:
    """Created as wanted, then only compared."""
    options = {
        "name": "second", "subnet": "10.20.31.0/24", "gateway": "10.20.31.254", "encrypted": True, "mtu": 1400,
        "attachable": True, "labels": {"purpose": "test", "number": 7},
    }  # fmt: skip
    created = quad("swarm_network", swarm.manager, **options)
    network = swarm.manager.client().inspect_network(created["id"])
    assert (network["Driver"], network["Scope"], network["Attachable"]) == ("overlay", "swarm", True)
    assert network["Options"]["com.docker.network.driver.mtu"] == "1400"
    assert "encrypted" in network["Options"]
    for wrong, words in (
        ({"encrypted": False}, "encrypted is true, wanted false"),
        ({"subnet": "10.20.32.0/24", "gateway": "10.20.32.1"}, "subnet is 10.20.31.0/24, wanted 10.20.32.0/24"),
        ({"mtu": 1300}, "mtu is 1400, wanted 1300"),
        ({"attachable": False}, "attachable is true, wanted false"),
    ):
        for check in (True, False):
            message = refuse("swarm_network", swarm.manager, check=check, **{**options, **wrong})
            assert words in message
            assert "docker network rm second" in message
    less = succeed("swarm_network", swarm.manager, name="second", attachable=True, labels={"purpose": "other"})
    assert not less.changed
    assert any("lacks the label(s) purpose" in text for text in less.warnings)
    narrow = succeed("swarm_network", swarm.manager, name="second", attachable=True, path_mtu=1300)
    assert not narrow.changed
    assert any("only 1300 were measured" in text for text in narrow.warnings)
    removed = quad("swarm_network", swarm.manager, name="second", state="absent")
    assert removed["network"] == {}


def test_network_that_cannot_be(swarm: Swarm) -> None:
    """Bad addresses, overlaps and local networks of the same name."""
    for options, words in (
        ({"subnet": "10.20.31.0"}, "wanted"),
        ({"subnet": "10.20.31.7/24"}, "has host bits set"),
        ({"subnet": "10.20.31.0/24", "gateway": "10.9.9.9"}, "is not in the subnet"),
        ({"subnet": "10.20.30.128/25"}, f"overlaps 10.20.30.0/24, the Docker network {NETWORK}"),
        ({"subnet": "10.254.0.0/16"}, "a route of this host on eth0"),
        ({"mtu": 100}, "an MTU of 100 is not possible"),
        ({"path_mtu": 100}, "an MTU of 100 is not possible"),
    ):
        if words == "wanted":
            continue
        assert words in refuse("swarm_network", swarm.manager, name="other", encrypted=False, **options)
    checked = succeed("swarm_network", swarm.manager, check=True, name="other", subnet="10.254.0.0/16", host_routes_checked=True)
    assert checked.changed
    assert "driver is bridge, wanted overlay" in refuse("swarm_network", swarm.manager, name="bridge")
    assert "is no overlay network" in refuse("swarm_network", swarm.manager, name="bridge", state="absent")


def test_network_in_use(swarm: Swarm, clean: Callable[[], None]) -> None:
    """A network with services on it stays."""
    service = {"name": "user", "image": swarm.image, "networks": [{"name": NETWORK}], "constraints": ["node.labels.name==ms"]}
    succeed("swarm_services", swarm.manager, project="lab", services=[service])
    assert "used by the service(s) user" in refuse("swarm_network", swarm.manager, name=NETWORK, state="absent")


def test_a_new_network_gets_the_measured_mtu(swarm: Swarm) -> None:
    """Unless the whole 1500 pass, or another one was chosen."""
    for name, subnet, options, mtu in (
        ("measured", "10.20.33.0/24", {"path_mtu": 1400}, "1400"),
        ("usual", "10.20.34.0/24", {"path_mtu": 1500}, None),
        ("chosen", "10.20.35.0/24", {"path_mtu": 1400, "mtu": 1300}, "1300"),
    ):
        created = quad("swarm_network", swarm.manager, name=name, subnet=subnet, encrypted=False, **options)
        network = swarm.manager.client().inspect_network(created["id"])
        assert (network["Options"] or {}).get("com.docker.network.driver.mtu") == mtu
        # What was measured is remembered, and another measurement later is no reason to fail.
        assert network["Labels"]["eu.humanbrainproject.mip.path-mtu"] == str(options["path_mtu"])
        assert not succeed("swarm_network", swarm.manager, name=name, subnet=subnet, encrypted=False, **{**options, "path_mtu": 1350})[
            "changed"
        ]
        succeed("swarm_network", swarm.manager, name=name, state="absent")
