# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pusher's SSH, the registry and the throughput among the links of a check."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.filter.link_rate import link_rate
from ansible_collections.hbp.mip.plugins.filter.unanswered import unanswered
from ansible_collections.hbp.mip.plugins.plugin_utils import _link_access, _link_rates, _links
from ansible_collections.hbp.mip.tests.unit.plugins.plugin_utils.test_links import World, federation


def reached() -> dict[str, Any]:
    """The federation with what a connection needs."""
    given = federation()
    for node in given["nodes"]:
        node.update(ssh_host=node["address"], ssh_port=2222 if node["name"] == "wb" else 22)
    return given


def checked(**registry: Any) -> dict[str, Any]:
    """A result of node_check."""
    facts = {"host": "registry.example", "port": 443, "resolved": True, "connected": True, "error": "", "tls": {}, **registry}
    return {"facts": {"registry": facts}, "problems": [], "warnings_found": []}


def pair(report: dict[str, Any], sender: str, receiver: str) -> dict[str, Any]:
    return next(entry for entry in report["pairs"] if (entry["from"], entry["to"]) == (sender, receiver))


def test_all_is_well() -> None:
    nodes = {"ms": checked(), "ui": {"facts": {}, "problems": []}, "wa": checked(), "wb": checked()}
    report = _link_access.joined(World().judge(), reached(), nodes, dict.fromkeys(nodes, ""))
    assert report["ok"] and len(report["pairs"]) == 7 + 4 + 3
    assert pair(report, "pusher", "wb")["checks"][0]["port"] == 2222
    links = {frozenset(entry) for entry in report["pairs"]}
    assert links == {frozenset(("from", "to", "ok", "level", "mtu", "checks"))}
    assert {frozenset(cell) for entry in report["pairs"] for cell in entry["checks"]} == {frozenset(report["pairs"][-1]["checks"][0])}
    assert [entry["to"] for entry in report["pairs"][-3:]] == ["registry.example:443"] * 3


def test_a_node_that_does_not_answer() -> None:
    asked = {"ms": "", "wa": "ssh: connect to host 192.0.2.3 port 22: Connection timed out"}
    report = _link_access.joined(World().judge(), reached(), {"ms": checked()}, asked)
    cell = pair(report, "pusher", "wa")["checks"][0]
    assert not report["ok"] and (cell["verdict"], cell["level"], cell["name"]) == ("unreachable", "fault", "unreachable")
    assert "timed out" in cell["evidence"] and cell["commands"]["look"] == ["nc -zvw3 192.0.2.3 22"]
    assert not [entry for entry in report["pairs"] if entry["from"] == "pusher" and entry["to"] in ("ui", "wb")], "they were not asked"


@pytest.mark.parametrize(
    ("kind", "code", "who", "level", "host"),
    [
        ("problems", "registry-unreachable", "network", "fault", ""),
        ("problems", "registry-tls-untrusted", "host", "fault", "wa"),
        ("warnings_found", "registry-tls-intercepted", "network", "note", ""),
    ],
)
def test_the_registry(kind: str, code: str, who: str, level: str, host: str) -> None:
    result = checked()
    result[kind] = [{"code": "disk-low", "message": "", "fix": ""}, {"code": code, "message": "words", "fix": "do", "who": who}]
    report = _link_access.joined(World().judge(), reached(), {"wa": result}, None)
    cell = pair(report, "wa", "registry.example:443")["checks"][0]
    assert (cell["verdict"], cell["name"], cell["level"], cell["host"]) == (code.removeprefix("registry-"), code, level, host)
    assert (cell["evidence"], cell["request"]) == ("words", "do") and report["ok"] == (level == "note")


def test_who_did_not_answer() -> None:
    assert unanswered({"x": {"changed": False, "unreachable": True, "msg": "timed out"}}, "x") == "timed out"
    assert unanswered({"x": {"changed": False, "failed": True, "msg": "broken"}}, "x") == ""
    assert unanswered({"x": {"changed": False, "skipped": True}}, "x") == unanswered({}, "x") == "it was not asked"


# --- throughput


def listened(world: World, **taken: str) -> dict[str, Any]:
    """Answers of the listeners, with the ports of some hosts in other programs' hands, and these on the overlay."""
    answers = world.listened
    for name, program in taken.items():
        for item in answers[name]["listening"]:
            item.update(own=False, by=program)
        answers[name]["overlay"] = {"address": "10.20.30.5", "port": 40001, "error": ""}
    return answers


def test_whom_to_send_to() -> None:
    world = World()
    answers = listened(world, wb="dockerd (pid 8)")
    hostvars = {name: {"links_listened": answer} for name, answer in answers.items()}
    direct = link_rate(world.links, "wa", {"wa": "ms"}, hostvars)
    assert len(direct) == 1 and direct[0]["own_tcp"] == [7946, 2377], "gossip's port first"
    inside = link_rate(world.links, "wa", {"wa": "wb"}, hostvars)
    assert inside[0]["own_tcp"] == [] and inside[0]["overlay"] == {"address": "10.20.30.5", "port": 40001}
    assert link_rate(world.links, "wa", {"wb": "wa"}, hostvars) == link_rate(world.links, "wa", {"wa": "gone"}, hostvars) == []
    assert link_rate(world.links, "ui", {"ui": "ms"}, hostvars)[0]["own_tcp"] == [9090]
    answers = listened(world, ms="docker-proxy (pid 9)")
    assert link_rate(world.links, "ui", {"ui": "ms"}, {"ms": {"links_listened": answers["ms"]}}) == [], "the ui has no overlay"


def test_what_came_of_it() -> None:
    world = World()
    verdict = world.judge()
    answers = listened(world, ms="docker-proxy (pid 9)", wb="dockerd (pid 8)")
    answers["wb"]["overlay"] = {"address": "", "port": 0, "error": "no container of the federation runs on wb"}
    answers["wa"] = {"ok": False, "error": "no raw sockets"}
    rate = {"mb_per_s": 93.5, "bytes": 1, "seconds": 1.0, "via": "overlay", "error": ""}
    report = _link_rates.joined(verdict, world.links, answers, {"wa": [{"node": "ms", "throughput": rate}], "wb": ()})
    assert pair(report, "wa", "ms")["throughput"] == rate
    reasons = {key: pair(report, *key)["throughput"]["error"] for key in (("ms", "wb"), ("ui", "ms"), ("ms", "wa"))}
    assert reasons["ms", "wb"] == "of wb TCP 7946 belongs to dockerd (pid 8); no container of the federation runs on wb"
    assert reasons["ui", "ms"] == "of ms TCP 9090 belongs to docker-proxy (pid 9); the ui node takes no part in the overlay"
    assert reasons["ms", "wa"] == "wa does not listen: no raw sockets"
    assert {frozenset(entry["throughput"]) for entry in report["pairs"]} == {frozenset(rate)}
    assert _links.tournament(["ms", "wa", "wb"])
