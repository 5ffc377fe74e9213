# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes that come, go, die and are set aside, in a federation that keeps answering."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from .conftest import INVENTORY, LAB, Lab, lab_command
from .test_2_deployed import watched

pytestmark = pytest.mark.in_order

NOTE = "# The hospitals; this line is the operator's own."


def steps(document: dict[str, Any]) -> dict[str, str]:
    """Return the state of each step that a command told, by its name."""
    return {step["step"]: step["state"] for step in document["result"]["steps"]}


def changed(document: dict[str, Any]) -> int:
    return sum(host["changed"] for host in document["hosts"].values())


def eventually(condition: Callable[[], bool], seconds: float = 300) -> bool:
    """Does the condition come true within so many seconds?"""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(1)
    return True


@pytest.fixture(scope="module")
def nodes(machines: Lab) -> Lab:
    """The lab with three hospitals, deployed, with a remark in its hosts.yml. The third is the one that comes and goes."""
    if len(machines.workers) < 3:
        lab_command("up", "--workers", "3")
        machines.read_hosts()
    hosts = INVENTORY / "hosts.yml"
    hosts.write_text(hosts.read_text().replace("    workers:\n", f"    {NOTE}\n    workers:\n"))
    if not machines.whole():
        machines.run("deploy", "-y")
    assert machines.all_active()
    return machines


@pytest.fixture(scope="module")
def new(nodes: Lab) -> str:
    """Name of the node that comes and goes."""
    return f"{LAB}-wk-3"


@pytest.fixture(scope="module")
def address(nodes: Lab, new: str) -> str:
    """Its address, also while it is in no inventory."""
    return nodes.hosts[new]


def keys(lab: Lab, name: str) -> list[str]:
    """Return what the keystore holds about a node, asked in its own container."""
    command = "docker exec $(docker ps -q -f label=eu.humanbrainproject.mip.service=exareme-keystore) consul kv get -keys -recurse"
    found = lab.ssh(lab.master, f"{command} data/; {command} active_workers/", check=False).splitlines()
    return [line for line in found if name in line]


def members(lab: Lab) -> str:
    return lab.ssh(lab.master, "docker node ls --format '{{.Hostname}} {{.Status}} {{.Availability}}'")


def tokens(lab: Lab) -> list[str]:
    return [lab.ssh(lab.master, f"docker swarm join-token -q {role}") for role in ("worker", "manager")]


def guards(lab: Lab, host: str, address: str) -> bool:
    """Is the guard of a host open for an address?"""
    return address in lab.ssh(host, "nft list ruleset")


def test_a_node_that_answers_is_removed(nodes: Lab, new: str, address: str) -> None:
    data = nodes.ssh(new, "find /data -type f | xargs sha256sum | sort")
    with watched(nodes) as failures:
        document = nodes.json("node", "remove", new, "-y")
    nodes.read_hosts()
    assert failures == []
    assert {name: steps(document).get(name) for name in ("leave", "swarm", "services", "keystore", "firewalls", "guard", "inventory")} == {
        "leave": "done", "swarm": "done", "services": "done", "keystore": "done", "firewalls": "done", "guard": "done", "inventory": "done",
    }  # fmt: skip
    assert new not in members(nodes)
    assert keys(nodes, new) == []
    assert NOTE in (INVENTORY / "hosts.yml").read_text()
    assert new not in (INVENTORY / "hosts.yml").read_text()
    assert nodes.ssh(new, "docker info -f '{{.Swarm.LocalNodeState}}'") == "inactive"
    assert nodes.ssh(new, "find /data -type f | xargs sha256sum | sort") == data
    assert not any(guards(nodes, host, address) for host in (nodes.master, nodes.workers[0]))
    assert nodes.all_active()
    nodes.run("data", "consolidate", "-y")
    # The databases are not made anew by that, and `data ls` says so.
    assert new not in str(nodes.json("data", "ls", code=4)["result"]["structure"])
    assert changed(nodes.json("deploy", "-y")) == 0


def test_a_node_is_added_while_the_federation_answers(nodes: Lab, new: str, address: str) -> None:
    before = tokens(nodes)
    with watched(nodes) as failures:
        document = nodes.json("node", "add", new, "--address", address, "-y")
    assert failures == []
    assert document["result"]["added"] is True
    nodes.read_hosts()
    assert nodes.hosts[new] == address
    assert NOTE in (INVENTORY / "hosts.yml").read_text()
    assert nodes.all_active()
    assert any(nodes.api("LIST_DATASET")[new].values())
    assert not set(before) & set(tokens(nodes))
    assert all(guards(nodes, host, address) for host in (nodes.master, nodes.workers[0]))


def test_a_second_time_there_is_nothing_to_do(nodes: Lab, new: str, address: str) -> None:
    document = nodes.json("node", "add", new, "--address", address, "-y")
    assert changed(document) == 0
    assert document["result"]["added"] is False
    assert changed(nodes.json("deploy", "-y")) == 0


def test_drained_and_active_again(nodes: Lab, new: str) -> None:
    assert steps(nodes.json("node", "drain", new, "-y"))["availability"] == "done"
    assert f"{new} Ready Drain" in members(nodes)
    assert nodes.ssh(new, "docker ps -q") == ""
    # The others are stopped and started meanwhile.
    nodes.run("stop", "engine", "-y")
    started = nodes.json("start", "engine")["result"]["services"]
    assert {service["node"]: service["action"] for service in started} == {
        **dict.fromkeys((nodes.master, *nodes.workers), "started"), new: "drained",
    }  # fmt: skip
    assert steps(nodes.json("node", "activate", new, "-y"))["availability"] == "done"
    assert nodes.all_active()
    assert steps(nodes.json("node", "activate", new, "-y"))["availability"] == "nothing"


def test_disabled_every_command_skips_it(nodes: Lab, new: str, power) -> None:
    document = nodes.json("node", "disable", new, "--reason", "New roof: until 'May'", "-y")
    assert document["result"]["disabled"]["reason"] == "New roof: until 'May'"
    assert keys(nodes, new) == []
    power(new, "kill")
    status = nodes.json("status")["result"]
    assert [(node["name"], node["reason"]) for node in status["disabled"]] == [(new, "New roof: until 'May'")]
    assert status["problems"] == []
    assert "New roof: until 'May'" in nodes.run("node", "ls").stdout
    document = nodes.json("deploy", "-y")
    assert changed(document) == 0
    assert new not in {name for name, host in document["hosts"].items() if host["ok"]}
    assert guards(nodes, nodes.master, nodes.hosts[new])
    power(new, "on")
    assert eventually(lambda: nodes.ssh(new, "systemctl is-active docker", check=False) == "active")
    nodes.run("node", "enable", new, "-y")
    assert "mip_disabled" not in (INVENTORY / "hosts.yml").read_text()
    assert nodes.all_active()


def test_a_node_that_is_dead_is_removed(nodes: Lab, new: str, address: str, power) -> None:
    power(new, "kill")
    document = nodes.json("node", "remove", new, "-y")
    assert steps(document)["host"] == "impossible"
    assert steps(document)["swarm"] == steps(document)["inventory"] == "done"
    assert new not in members(nodes)
    assert keys(nodes, new) == []
    nodes.read_hosts()
    assert nodes.all_active()
    assert changed(nodes.json("deploy", "-y")) == 0


def test_tokens_are_rotated_and_the_old_ones_refused(nodes: Lab, new: str, address: str, power) -> None:
    old = tokens(nodes)
    assert nodes.json("token", "rotate", "worker", "-y")["result"]["rotated"] == ["worker"]
    assert [token in old for token in tokens(nodes)] == [False, True]
    assert nodes.json("token", "rotate", "-y")["result"]["rotated"] == ["worker", "manager"]
    assert not set(old) & set(tokens(nodes))
    # The machine that was dead comes back, still believes to be a member, and leaves as the report told.
    power(new, "on")
    assert eventually(lambda: nodes.ssh(new, "systemctl is-active docker", check=False) == "active")
    nodes.ssh(new, "docker swarm leave --force", check=False)
    join = f"docker swarm join --token $(cat) {nodes.hosts[nodes.master]}:2377 2>&1; docker swarm leave --force"
    # The master's guard lets it no more near the swarm than anybody else; whoever it lets near needs a token of today.
    assert "Timeout was reached" in nodes.ssh(new, join, check=False, content=old[0])
    peers = f"element inet mip_{LAB.replace('-', '_')} peers {{ {address} }}"
    nodes.ssh(nodes.master, f"nft add {peers}")
    try:
        assert "join token" in nodes.ssh(new, join, check=False, content=old[0])
    finally:
        nodes.ssh(nodes.master, f"nft delete {peers}")
    assert new not in members(nodes)
    assert changed(nodes.json("deploy", "-y")) == 0


def test_the_master_and_the_last_worker_stay(nodes: Lab) -> None:
    assert "without it there is no federation" in nodes.run("node", "remove", nodes.master, "-y", code=2).stderr
    assert "has no node nobody" in nodes.run("node", "remove", "nobody", "-y", code=10).stderr
    hosts = INVENTORY / "hosts.yml"
    kept = hosts.read_text()
    document = yaml.safe_load(kept)
    workers = document["all"]["children"]["workers"]["hosts"]
    for name in nodes.workers[1:]:
        del workers[name]
    alone = yaml.safe_dump(document)
    hosts.write_text(alone)
    try:
        assert "is the only worker" in nodes.run("node", "remove", nodes.workers[0], "-y", code=3).stderr
        assert hosts.read_text() == alone
    finally:
        hosts.write_text(kept)
