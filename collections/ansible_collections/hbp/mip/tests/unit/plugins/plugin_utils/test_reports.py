# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judgements over what the nodes reported."""

from __future__ import annotations

from typing import Any

import yaml

from ansible_collections.hbp.mip.plugins.modules.report import DOCUMENTATION
from ansible_collections.hbp.mip.plugins.plugin_utils._reports import REPORTS, check

FEDERATION = {
    "name": "hosp",
    "nodes": [
        {"name": "ms", "kind": "master"},
        {"name": "ui", "kind": "ui"},
        {"name": "a", "kind": "worker"},
        {"name": "b", "kind": "worker"},
    ],
}


def node(name: str, **facts: Any) -> dict[str, Any]:
    return {"problems": [], "warnings": [], "facts": {"hostname": name, "machine_id": f"id-{name}", "swarm": {}, **facts}}


def codes(report: dict[str, Any]) -> list[tuple[str, str]]:
    return [(entry["node"], entry["code"]) for entry in report["problems"]]


def test_every_report_is_documented() -> None:
    assert yaml.safe_load(DOCUMENTATION)["options"]["verb"]["choices"] == sorted(REPORTS)


def test_healthy_nodes_have_no_problem() -> None:
    report = check(FEDERATION, {"nodes": {name: node(name) for name in ("ms", "ui", "a", "b")}, "needs_master": True})
    assert report["problems"] == []
    assert report["unreachable"] == []


def test_clones_are_named_together() -> None:
    nodes = {"ms": node("ms"), "a": node("a", machine_id="same"), "b": node("b", machine_id="same", hostname="a")}
    assert codes(check(FEDERATION, {"nodes": nodes})) == [("a, b", "twin-machine-id"), ("a, b", "twin-hostname")]


def test_a_node_in_another_swarm_is_found_before_anything_changes() -> None:
    nodes = {"ms": node("ms", swarm={"cluster_id": "ours"}), "a": node("a", swarm={"cluster_id": "theirs"}), "b": node("b")}
    report = check(FEDERATION, {"nodes": nodes})
    assert codes(report) == [("a", "swarm-foreign")]
    assert "the federation's is ours" in report["problems"][0]["message"]


def test_a_worker_in_a_swarm_that_the_master_is_not_in() -> None:
    nodes = {"ms": node("ms"), "a": node("a", swarm={"cluster_id": "theirs"})}
    assert "the master ms is in none" in check(FEDERATION, {"nodes": nodes})["problems"][0]["message"]


def test_a_master_that_lost_its_state_is_not_told_to_scatter_its_workers() -> None:
    nodes = {"ms": node("ms"), "a": node("a", swarm={"cluster_id": "ours"}), "b": node("b", swarm={"cluster_id": "theirs"})}
    report = check({**FEDERATION, "remembered": "ours"}, {"nodes": nodes})
    assert codes(report) == [("ms", "swarm-lost"), ("b", "swarm-foreign")]
    assert report["problems"][0]["fix"] == "mipfed -f hosp recover"
    nodes["ms"]["facts"]["swarm"] = {"cluster_id": "ours"}
    assert codes(check({**FEDERATION, "remembered": "ours"}, {"nodes": nodes})) == [("b", "swarm-foreign")]


def test_without_its_master_nothing_starts() -> None:
    report = check(FEDERATION, {"nodes": {"a": node("a")}, "needs_master": True})
    assert report["error"] == "unreachable"
    assert report["unreachable"] == ["ms", "ui", "b"]
    assert codes(report) == [("ms", "unreachable")]


def test_an_absent_worker_does_not_stop_the_others() -> None:
    report = check(FEDERATION, {"nodes": {"ms": node("ms"), "a": node("a")}, "needs_master": True})
    assert report["problems"] == []
    assert report["unreachable"] == ["ui", "b"]
