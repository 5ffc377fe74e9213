# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is open, for whom, and what differs: from the module's own words for its rules."""

from __future__ import annotations

from typing import Any

from ansible_collections.hbp.mip.plugins.module_utils import _firewall
from ansible_collections.hbp.mip.plugins.plugin_utils._reports import REPORTS

NODES = [
    {"name": "ms", "kind": "master", "address": "192.0.2.1", "manager": True},
    {"name": "ui", "kind": "ui", "address": "192.0.2.2", "manager": False},
    {"name": "wk", "kind": "worker", "address": "192.0.2.3", "manager": False},
]


def federation(manage: bool = True) -> dict[str, Any]:
    return {"name": "fed", "firewall": {"manage": manage}, "nodes": NODES}


def shown(name: str, **more: Any) -> dict[str, Any]:
    """What the module says on a node, by its own rules."""
    node = next(entry for entry in NODES if entry["name"] == name)
    published = [{"port": 9090, "allow": ["192.0.2.2", "198.51.100.0/24"], "why": "the engine"}] if name == "ms" else []
    peers = [{"name": entry["name"], "address": entry["address"]} for entry in NODES if entry["kind"] != "ui"]
    wanted = _firewall.settings({"name": "fed", "kind": node["kind"], "address": node["address"], "peers": peers, "published": published})
    return {
        "changed": False, "backend": "ufw", "backend_reason": "", "rules": _firewall.report(wanted, "ufw"), "drift": [], "dropped": [],
        "set": True, "change": "", "problems": [], **more,
    }  # fmt: skip


def report(nodes: dict[str, dict[str, Any]], asked: tuple[str, ...] = ("pusher", "ms", "ui", "wk"), manage: bool = True) -> dict[str, Any]:
    answers = {name: {"shown": answer} for name, answer in nodes.items()}
    return REPORTS["firewall"](federation(manage), {"asked": list(asked), "nodes": answers})


def test_names_of_whom_it_is_open_for() -> None:
    found = report({name: shown(name) for name in ("ms", "ui", "wk")})
    assert not found["problems"] and {node["state"] for node in found["nodes"].values()} == {"in-order"}
    allowed = {(rule["proto"], rule["port"]): rule["from"] for rule in found["nodes"]["ms"]["allowed"]}
    assert allowed["tcp", 9090] == [{"node": "ui", "address": "192.0.2.2"}, {"node": "", "address": "198.51.100.0/24"}]
    assert allowed["esp", 0] == allowed["tcp", 2377] == [{"node": "wk", "address": "192.0.2.3"}]
    assert found["nodes"]["ui"]["allowed"] == found["nodes"]["ui"]["closed"] == []
    closed = {(rule["proto"], rule["port"], rule["whom"]) for rule in found["nodes"]["wk"]["closed"]}
    assert ("tcp", 2377, "anyone") in closed and ("tcp", 7946, "anyone over IPv6") in closed


def test_states() -> None:
    found = report({"ms": shown("ms", drift=["a", "b"]), "ui": shown("ui", set=False), "wk": shown("wk", set=False, drift=["c"])})
    assert {name: node["state"] for name, node in found["nodes"].items()} == {"ms": "drift", "ui": "in-order", "wk": "not-set"}
    assert [(entry["node"], entry["code"]) for entry in found["problems"]] == [("ms", "firewall-drift"), ("wk", "firewall-not-set")]
    assert "a; b" in found["problems"][0]["message"]
    alone = report({"ms": shown("ms", drift=["a"])}, asked=("ms", "wk"), manage=False)
    assert {name: node["state"] for name, node in alone["nodes"].items()} == {"ms": "unmanaged", "wk": "unreachable"}
    assert alone["unreachable"] == ["wk"] and not alone["problems"]


def test_a_host_that_failed_says_why() -> None:
    failed = {"changed": False, "failed": True, "msg": "no systemd", "problems": [{"code": "x", "message": "y", "fix": ""}]}
    node = report({"ms": failed}, asked=("ms",))["nodes"]["ms"]
    assert (node["state"], node["error"], node["notes"]) == ("failed", "no systemd", [{"code": "x", "message": "y", "fix": ""}])
