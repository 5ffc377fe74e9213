# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A deployed federation's network: what its firewalls open, the matrix of a check, and throughput while the swarm has the ports."""

from __future__ import annotations

from .conftest import LAB, Lab

TABLE = "mip_" + LAB.replace("-", "_")


def test_firewall_show(federation: Lab) -> None:
    """What is open is told by node, and a guard that somebody took away is found on the one host where it is missing."""
    nodes = federation.json("firewall", "show")["result"]["nodes"]
    assert set(nodes) == set(federation.hosts)
    assert {node["state"] for node in nodes.values()} == {"in-order"}
    first, second = federation.workers[:2]
    allowed = {(rule["proto"], rule["port"]): rule["from"] for rule in nodes[first]["allowed"]}
    others = [{"node": name, "address": federation.hosts[name]} for name in (federation.master, second)]
    assert sorted(allowed["tcp", 7946], key=str) == sorted(others, key=str)
    assert ("tcp", 9090) not in allowed and not nodes[f"{LAB}-ui"]["allowed"]
    portal = [rule["from"] for rule in nodes[federation.master]["allowed"] if rule["port"] == 9090]
    assert {"node": f"{LAB}-ui", "address": federation.hosts[f"{LAB}-ui"]} in portal[0]

    federation.ssh(second, f"nft delete table inet {TABLE}")
    try:
        document = federation.json("firewall", "show", second, first, code=4)
        assert [(error["host"], error["code"]) for error in document["errors"]] == [(second, "firewall-drift")]
        found = document["result"]["nodes"]
        assert list(found) == [first, second] and found[first]["state"] == "in-order"
        assert found[second]["drift"] == [f"nftables table inet {TABLE} is not loaded"]
    finally:
        federation.ssh(second, f"systemctl restart mip-firewall-{LAB}.service")
    assert "in order" in federation.run("firewall", "show", second).stdout


def test_matrix_and_throughput(federation: Lab) -> None:
    """Pusher, nodes and registry in one matrix. Docker has every open TCP port, so the overlay is measured."""
    links = federation.json("check", "--throughput", "--seconds", "1")["result"]["links"]
    pairs = {(pair["from"], pair["to"]): pair for pair in links["pairs"]}
    members = [federation.master, *federation.workers]
    assert links["ok"] and all(pair["ok"] for pair in pairs.values())
    assert {receiver for sender, receiver in pairs if sender == "pusher"} == set(federation.hosts)
    gateway = federation.hosts[federation.master].rpartition(".")[0] + ".1"
    assert {sender for sender, receiver in pairs if receiver == f"{gateway}:5000"} == set(members)
    for sender in members:
        for receiver in members:
            if sender != receiver:
                rate = pairs[sender, receiver]["throughput"]
                assert rate["via"] == "overlay" and rate["mb_per_s"] > 0 and rate["bytes"] > 0, (sender, receiver, rate)
    portal = pairs[f"{LAB}-ui", federation.master]["throughput"]
    assert portal["mb_per_s"] is None and "the ui node takes no part in the overlay" in portal["error"]
    for name in members:
        assert federation.ssh(name, "ls /run/mip/link-* 2>/dev/null || true") == "", "nothing listens afterwards"
