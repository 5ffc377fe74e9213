# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What would be done about a broken swarm, which manager a backup copies, and which nodes a restored swarm loses again."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.filter.backup_summary import backup_summary
from ansible_collections.hbp.mip.plugins.filter.revived_nodes import revived_nodes
from ansible_collections.hbp.mip.plugins.plugin_utils import _recovery_reports

SET = {"file": "/b/1.mipbackup", "cluster_id": "c1", "created": "2026-11-22T10:00:00Z"}


def federation(managers: int = 1) -> dict[str, Any]:
    """A federation with a master and two workers, of which some are managers."""
    names = ["ms", "wk-1", "wk-2"]
    nodes = [
        {
            "name": name,
            "kind": "worker" if place else "master",
            "manager": place < managers,
            "address": f"10.0.0.{place}",
            "backup_data": False,
        }
        for place, name in enumerate(names)
    ]
    return {"name": "lab", "nodes": nodes, "backup": {"include_data": False}, "engine": {"image": "e:1", "keystore_image": "k:1"}}


def judged(managers: int, findings: dict[str, str], **more: Any) -> dict[str, Any]:
    """The report about members with these findings; one with none did not answer."""
    states = {"ok": "manager", "manager-down": "manager", "state-lost": "none", "engine-stopped": "stopped"}
    nodes: dict[str, Any] = {name: {} for name in ("ms", "wk-1", "wk-2")}
    for place, (name, finding) in enumerate(findings.items()):
        state = "worker" if finding == "ok" and place >= managers else states.get(finding, finding)
        nodes[name]["found"] = {"finding": finding, "message": finding, "local_state": state, "node": {"cluster_id": "other"}}
    return _recovery_reports.recover(federation(managers), {"nodes": nodes, "recorded": {"cluster_id": "c1"}, "sets": [], **more})


def steps(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Its steps without reasons."""
    return [(step["node"], step["treatment"]) for step in report["steps"]]


@pytest.mark.parametrize(
    ("managers", "findings", "case", "expected"),
    [
        (1, {"ms": "ok", "wk-1": "ok", "wk-2": "ok"}, "well", []),
        (1, {"ms": "locked", "wk-1": "ok", "wk-2": "ok"}, "locked", [("ms", "unlock")]),
        (1, {"ms": "state-lost", "wk-1": "ok"}, "sole-manager-lost", [("wk-1", "leave"), ("", "forget")]),
        (1, {"ms": "raft-damaged", "wk-1": "ok"}, "sole-manager-lost", [("ms", "set_aside"), ("wk-1", "leave"), ("", "forget")]),
        (1, {"ms": "certificate-expired", "wk-1": "ok"}, "certificate-expired", [("ms", "force_new_cluster")]),
        (1, {"wk-1": "ok", "wk-2": "ok"}, "unreachable", []),
        (1, {"ms": "ok", "wk-1": "certificate-expired"}, "workers", [("wk-1", "leave"), ("wk-1", "remove")]),
        (1, {"ms": "foreign-swarm", "wk-1": "ok"}, "foreign-swarm", [("", "accept")]),
        (1, {"ms": "ok", "wk-1": "foreign-swarm"}, "foreign-swarm", []),
        (3, {"ms": "no-quorum"}, "majority-lost", [("ms", "force_new_cluster"), ("wk-1", "discard"), ("wk-2", "discard")]),
        (3, {"ms": "no-quorum", "wk-1": "engine-stopped"}, "engines-stopped", []),
        (3, {"ms": "manager-down", "wk-1": "ok", "wk-2": "raft-damaged"}, "managers-damaged", [("wk-2", "set_aside"), ("wk-2", "remove")]),
        (3, {"ms": "state-lost", "wk-1": "ok", "wk-2": "ok"}, "managers-damaged", [("ms", "remove")]),
        # With managers that did not answer nobody knows whether a majority is left.
        (3, {"ms": "state-lost"}, "unreachable", []),
    ],
)
def test_cases(managers: int, findings: dict[str, str], case: str, expected: list[tuple[str, str]]) -> None:
    report = judged(managers, findings)
    assert (report["case"], steps(report)) == (case, expected)
    assert bool(report["problems"]) == (case != "well")
    assert all(step["why"] for step in report["steps"])


def test_a_backup_is_better_than_a_new_swarm() -> None:
    report = judged(1, {"ms": "state-lost", "wk-1": "ok"}, sets=[SET, {**SET, "cluster_id": "c2", "file": "/b/other"}])
    assert not report["steps"] and report["next"] == "mipfed -f lab restore /b/1.mipbackup --identity FILE"
    known = {**federation(), "backup": {"include_data": False, "identity": "/k"}}
    data = {"nodes": {"ms": {}, "wk-1": {}, "wk-2": {}}, "recorded": {"cluster_id": "c1"}, "sets": [SET]}
    data["nodes"]["ms"]["found"] = {"finding": "state-lost", "message": "lost", "local_state": "none", "node": {}}
    assert _recovery_reports.recover(known, data)["next"] == "mipfed -f lab restore /b/1.mipbackup"


def test_another_plan_than_the_shown_one_is_told() -> None:
    first = judged(1, {"ms": "locked"})
    changed = judged(1, {"ms": "locked"}, before=first, asked="000000000000", confirmed=True)
    assert changed["problems"][0]["code"] == "recover-refused" and not changed["done"]
    unnamed = judged(1, {"ms": "locked"}, before=first, asked=first["plan"], confirmed=False)
    assert "name was not given" in unnamed["problems"][0]["message"]
    done = judged(1, {"ms": "ok"}, before=first, asked=first["plan"], confirmed=True)
    assert done["done"] and not done["problems"] and steps({"steps": done["treated"]}) == [("ms", "unlock")]


def managers_seen(leader: str, *names: str) -> dict[str, Any]:
    """Variables of hosts whose managers work."""
    nodes = [{"id": f"id-{name}", "name": name, "leader": name == leader, "engine_version": "20.10.24"} for name in names]
    hosts: dict[str, Any] = {name: {} for name in ("ms", "wk-1", "wk-2")}
    for name in names:
        hosts[name]["backup_swarm"] = {"local_state": "manager", "node_id": f"id-{name}", "nodes": nodes}
    return hosts


def test_the_manager_that_is_copied() -> None:
    assert backup_summary(federation(1), managers_seen("ms", "ms"))["manager"] == "ms"
    assert backup_summary(federation(3), managers_seen("ms", "ms", "wk-1", "wk-2"))["manager"] == "wk-1"
    # The master has the engine that everybody asks.
    assert backup_summary(federation(3), managers_seen("wk-1", "ms", "wk-1", "wk-2"))["manager"] == "wk-2"
    nobody = backup_summary(federation(1), {name: {} for name in ("ms", "wk-1", "wk-2")})
    assert nobody["manager"] == "" and {entry["what"] for entry in nobody["missing"]} == {"keystore", "swarm"}


def test_a_part_that_failed_is_missing() -> None:
    hosts = managers_seen("ms", "ms")
    hosts["ms"]["backup_keystore"] = {"changed": False, "msg": "no keystore runs"}
    hosts["ms"]["backup_state"] = {"changed": False, "msg": "no space"}
    missing = backup_summary(federation(1), hosts)["missing"]
    assert [(entry["what"], entry["why"]) for entry in missing] == [("keystore", "no keystore runs"), ("swarm", "no space")]
    report = _recovery_reports.backup(
        federation(1),
        {"pusher": "p", "begun": {"set": "/b/.x"}, "sealed": {"msg": "no swarm"}, "summary": backup_summary(federation(1), hosts)},
    )
    assert report["set"] is None
    assert [entry["code"] for entry in report["problems"]] == ["backup-not-made", "backup-without-keystore", "backup-without-swarm"]


def test_nodes_that_came_back_with_a_backup() -> None:
    def node(node_id: str, name: str, status: str, role: str = "worker") -> dict[str, Any]:
        return {"id": node_id, "name": name, "hostname": name, "status": status, "role": role, "address": "10.0.0.9"}

    nodes = [
        node("1", "ms", "ready", "manager"), node("2", "wk-1", "ready"), node("3", "wk-1", "down"), node("4", "gone", "down", "manager"),
        node("5", "stranger", "ready"), node("6", "wk-2", "down"),
    ]  # fmt: skip
    found = revived_nodes(federation(), nodes)
    assert [entry["node_id"] for entry in found["remove"]] == ["3", "4"]
    assert found["demote"] == [{"node_id": "4", "role": "worker"}]
    assert found["unknown"] == ["stranger (5, 10.0.0.9)"]
    # A worker that is only away is never removed.
    assert found["away"] == ["wk-2"]
    assert [entry["node_id"] for entry in revived_nodes(federation(), nodes, ["wk-2"])["remove"]] == ["3", "4", "6"]
