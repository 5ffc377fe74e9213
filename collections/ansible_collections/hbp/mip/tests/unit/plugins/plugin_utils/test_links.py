# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verdicts over answers as the module gives them; the same faults on real links are in tests/integration/links."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.hbp.mip.plugins.filter.link_kept_out import link_kept_out
from ansible_collections.hbp.mip.plugins.filter.link_plan import link_plan
from ansible_collections.hbp.mip.plugins.filter.link_rounds import link_rounds
from ansible_collections.hbp.mip.plugins.filter.link_targets import link_targets
from ansible_collections.hbp.mip.plugins.plugin_utils import _links, _reports

DOCS = Path(__file__).resolve().parents[8] / "docs" / "findings.md"
NODES = (("ms", "master"), ("ui", "ui"), ("wa", "worker"), ("wb", "worker"))
Hop = Callable[[_links.Check, int, str], bool]


def federation(encrypted: bool = True, nodes: Sequence[tuple[str, str]] = NODES, managers: tuple[str, ...] = ("ms",)) -> dict[str, Any]:
    return {
        "overlay": {"encrypted": encrypted},
        "swarm": {"data_path_port": 4789},
        "nodes": [
            {"name": name, "kind": kind, "address": f"192.0.2.{number}", "manager": name in managers}
            for number, (name, kind) in enumerate(nodes, 1)
        ],
    }


class World:
    """What all hosts answer when a packet passes as far as `passes` says: places `out`, `path`, `in`, and for TCP `back`."""

    def __init__(self, passes: Hop = lambda check, size, place: True, encrypted: bool = True) -> None:
        self.links = _links.plan(federation(encrypted))
        names = list(self.links["nodes"])
        self.listened: dict[str, Any] = {}
        for name in names:
            ports = [{**port, "own": True, "by": "", "error": ""} for port in self.links["listen"][name]["ports"]]
            self.listened[name] = {"ok": True, "error": "", "listening": ports, "guards": []}
        self.sent: dict[str, Any] = {name: {"ok": True, "error": "", "sent": []} for name in names}
        self.collected: dict[str, Any] = {
            name: {"ok": True, "error": "", "seen": [], "flows": [], "lost": 0, "overfull": False, "reverse_path_drops": 0}
            for name in names
        }
        self.ports = itertools.count(40000)
        for name in names:
            for target in self.links["send"][name]["targets"]:
                done = {"node": target["node"], "address": target["address"], "probes": [], "tcp": [], "next_hop": {"state": "answers"}}
                self.sent[name]["sent"].append(done)
                for check in (_links.Check(**item) for item in self.links["checks"]):
                    if (check.sender, check.receiver) == (name, target["node"]):
                        (self._tcp if check.proto == "tcp" else self._packets)(check, done, passes)

    def _packets(self, check: _links.Check, done: dict[str, Any], passes: Hop) -> None:
        proto = "udp" if check.proto == "vxlan" else check.proto
        for size in check.sizes or (80,):
            reached = [place for place in ("out", "path", "in") if passes(check, size, place)]
            left, arrived = "out" in reached, reached[:2] == ["out", "path"]
            let_in = len(reached) == 3
            key = {"proto": proto, "port": check.port, "size": size}
            done["probes"].append(
                {**key, "sent": 4, "answered": let_in, "ms": 1.0 if let_in else None, "error": "" if left else "EPERM", "icmp": []}
            )
            self._seen(check.sender, check.receiver, key)["left"] += 4 * left
            there = self._seen(check.receiver, check.sender, key)
            there["arrived"] += 4 * arrived
            there["delivered"] += 4 * let_in
            there["addresses"] = [self.links["nodes"][check.sender]["address"]] if arrived else []

    def _seen(self, name: str, peer: str, key: dict[str, Any]) -> dict[str, Any]:
        for item in self.collected[name]["seen"]:
            if item["peer"] == peer and {k: item[k] for k in key} == key:
                found: dict[str, Any] = item
                return found
        self.collected[name]["seen"].append({**key, "peer": peer, "left": 0, "arrived": 0, "delivered": 0, "addresses": []})
        new: dict[str, Any] = self.collected[name]["seen"][-1]
        return new

    def _tcp(self, check: _links.Check, done: dict[str, Any], passes: Hop) -> None:
        port = next(self.ports)
        here, there = {}, {}
        addresses = self.links["nodes"]
        flow = {
            "client": addresses[check.sender]["address"], "server": addresses[check.receiver]["address"],
            "client_port": port, "port": check.port, "sequence": port * 7,
        }  # fmt: skip
        connected = False
        if passes(check, 0, "out"):
            here["syn-left"] = 3
            if passes(check, 0, "path"):
                there["syn-arrived"] = 3
                if passes(check, 0, "in"):
                    there["syn-delivered"] = 3
                    there["synack-left"] = 3
                    if passes(check, 0, "back"):
                        here["synack-arrived"] = 3
                        connected = True
        for name, events in ((check.sender, here), (check.receiver, there)):
            if events:
                self.collected[name]["flows"].append({**flow, "events": events})
        done["tcp"].append(
            {
                "port": check.port, "result": "connected" if connected else "timeout", "error": "",
                "answer": "right" if connected else "not-asked", "local_port": port, "ms": 1.0 if connected else None, "icmp": [],
            }
        )  # fmt: skip

    def judge(self, **more: Any) -> dict[str, Any]:
        # everything travels through JSON between the hosts and the controller
        answers = json.loads(json.dumps([self.links, self.listened, self.sent, self.collected]))
        return _links.judge(*answers, **more)


def bad(report: dict[str, Any]) -> dict[tuple[str, str, str, int], str]:
    return {
        (pair["from"], pair["to"], cell["proto"], cell["port"]): cell["verdict"]
        for pair in report["pairs"]
        for cell in pair["checks"]
        if cell["level"] != "ok"
    }


def cells(report: dict[str, Any], a: str, b: str) -> list[dict[str, Any]]:
    return [cell for pair in report["pairs"] if (pair["from"], pair["to"]) == (a, b) for cell in pair["checks"]]


# --- the plan


def test_what_is_asked_of_whom() -> None:
    links = _links.plan(federation(managers=("ms", "wa")))
    found = {(c["sender"], c["receiver"], c["proto"], c["port"]) for c in links["checks"]}
    members = ("ms", "wa", "wb")
    expected = {("ui", "ms", "tcp", 9090)}
    for a, b in itertools.permutations(members, 2):
        expected |= {(a, b, "tcp", 7946), (a, b, "udp", 7946), (a, b, "vxlan", 4789), (a, b, "esp", 0)}
        expected |= {(a, b, "tcp", 2377)} if b in ("ms", "wa") else set()
    assert found == expected
    assert links["listen"]["ui"]["ports"] == [] and links["listen"]["ui"]["watch"] == [9090]
    assert [(item["proto"], item["port"]) for item in links["listen"]["ms"]["ports"]] == [
        ("tcp", 2377), ("tcp", 7946), ("tcp", 9090), ("udp", 4789), ("udp", 7946),
    ]  # fmt: skip
    assert all(item["why"] for item in links["listen"]["ms"]["ports"])
    assert links["send"]["ui"]["targets"] == [
        {"node": "ms", "address": "192.0.2.1", "tcp": [9090], "own_tcp": [], "udp": [], "vxlan_sizes": [], "esp_sizes": []}
    ]
    target = next(target for target in links["send"]["wb"]["targets"] if target["node"] == "ms")
    assert target["tcp"] == [2377, 7946] and target["udp"] == [7946, 4789]
    assert target["esp_sizes"] == [576, 1280, 1400, 1420, 1450, 1480, 1492, 1500] and target["vxlan_sizes"] == []


def test_without_encryption_vxlan_measures_the_path() -> None:
    links = _links.plan(federation(encrypted=False))
    target = links["send"]["wb"]["targets"][0]
    assert target["udp"] == [7946] and target["esp_sizes"] == [] and target["vxlan_sizes"] == list(_links.SIZES)
    assert not links["listen"]["wb"]["esp"] and {c["proto"] for c in links["checks"]} == {"tcp", "udp", "vxlan"}


def test_the_overlays_own_mtu_is_tried() -> None:
    given = federation()
    given["overlay"]["mtu"] = 1460
    assert 1460 in _links.plan(given)["send"]["wa"]["targets"][0]["esp_sizes"]
    given["overlay"]["mtu"] = 0
    assert _links.plan(given)["send"]["wa"]["targets"][0]["esp_sizes"] == list(_links.SIZES)


def test_nodes_that_cannot_be_asked_are_left_out() -> None:
    links = link_plan(federation(), ["ms", "wb"])
    assert set(links["listen"]) == {"ms", "wb"} and re.fullmatch(r"[0-9a-f]{32}", links["run"])
    assert [peer["node"] for peer in links["listen"]["ms"]["peers"]] == ["wb"]
    assert link_plan(federation(), ["ms"])["run"] != links["run"]


def test_between_members_of_one_swarm_nothing_is_tried() -> None:
    given = federation(nodes=(*NODES, ("wn", "worker")))
    swarms = {"ms": "s1", "wa": "s1", "wb": "s2", "wn": ""}
    links = link_plan(given, [node["name"] for node in given["nodes"]], swarms)
    tried = {frozenset((check["sender"], check["receiver"])) for check in links["checks"]}
    assert tried == {frozenset(pair) for pair in (("ms", "wb"), ("wa", "wb"), ("ms", "wn"), ("wa", "wn"), ("wb", "wn"), ("ui", "ms"))}
    assert {target["node"] for target in links["send"]["wa"]["targets"]} == {"wb", "wn"}
    # Nodes without a swarm are no swarm.
    assert link_plan(given, ["wa", "wn"], {"wa": "", "wn": ""})["checks"] == link_plan(given, ["wa", "wn"])["checks"] != []


def test_targets_know_where_the_probe_itself_listens() -> None:
    links = _links.plan(federation())
    listening = [
        {"proto": "tcp", "port": 2377, "own": False},
        {"proto": "tcp", "port": 7946, "own": True},
        {"proto": "udp", "port": 7946, "own": True},
    ]
    hostvars = {"ms": {"links_listened": {"listening": listening}}, "wb": {"links_listened": {"unreachable": True}}, "ui": {}}
    targets = {target["node"]: target for target in link_targets(links, "wa", hostvars)}
    assert targets["ms"]["own_tcp"] == [7946] and targets["ms"]["tcp"] == [2377, 7946]
    assert targets["wb"]["own_tcp"] == []


def test_what_a_network_team_has_to_allow() -> None:
    rows = _links.requirements(_links.plan(federation()), "wb")
    assert [(row["direction"], row["what"], [peer["node"] for peer in row["peers"]]) for row in rows] == [
        ("in", "IP protocol 50 (ESP)", ["ms", "wa"]),
        ("in", "TCP port 7946", ["ms", "wa"]),
        ("in", "UDP port 7946", ["ms", "wa"]),
        ("out", "IP protocol 50 (ESP)", ["ms", "wa"]),
        ("out", "TCP port 2377", ["ms"]),
        ("out", "TCP port 7946", ["ms", "wa"]),
        ("out", "UDP port 7946", ["ms", "wa"]),
    ]
    assert rows[0]["peers"][0] == {"node": "ms", "address": "192.0.2.1"} and rows[0]["why"]
    assert "UDP port 4789" in {row["what"] for row in _links.requirements(_links.plan(federation(encrypted=False)), "wb")}
    assert [row["what"] for row in _links.requirements(_links.plan(federation()), "ui")] == ["TCP port 9090"]


@given(count=st.integers(0, 9))
def test_tournament(count: int) -> None:
    names = [f"n{number}" for number in range(count)]
    rounds = _links.tournament(names)
    assert sorted(pair for pairs in rounds for pair in pairs) == sorted(itertools.permutations(names, 2))
    for pairs in rounds:
        busy = [name for pair in pairs for name in pair]
        assert len(busy) == len(set(busy))
    assert len(rounds) <= 2 * max(0, count + count % 2 - 1)
    assert link_rounds(names) == [dict(pairs) for pairs in rounds]


# --- verdicts


@pytest.mark.parametrize("encrypted", [True, False])
def test_nothing_is_wrong(encrypted: bool) -> None:
    report = World(encrypted=encrypted).judge(overlay_mtu=1500)
    assert report["ok"] and bad(report) == {} and report["path_mtu"] == 1500
    assert not report["problems"] and not report["notes"] and not report["requests"]
    assert len(report["pairs"]) == 7 and all(pair["ok"] and pair["level"] == "ok" for pair in report["pairs"])


PLACES = {"out": "sender-filter", "path": "path", "in": "receiver-filter", "back": "return-path"}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("encrypted", [True, False])
def test_every_protocol_at_every_place_in_every_direction(place: str, encrypted: bool) -> None:
    for fields in World(encrypted=encrypted).links["checks"]:
        check = _links.Check(**fields)
        if place == "back" and check.proto != "tcp":
            continue
        report = World(lambda c, _size, p, check=check: not (c == check and p == place), encrypted).judge()
        key = check.sender, check.receiver, check.proto, check.port
        assert bad(report) == {key: PLACES[place]}
        cell = next(cell for cell in cells(report, check.sender, check.receiver) if cell["level"] != "ok")
        assert cell["name"] in _links.FINDINGS and cell["request"] and cell["evidence"]
        assert cell["host"] == {"out": check.sender, "in": check.receiver}.get(place, "")
        assert cell["who"] == {"out": "sender", "in": "receiver"}.get(place, "network")
        if check.proto == "vxlan" and encrypted and place != "in":
            assert report["ok"] and len(report["notes"]) == 1
            continue
        assert not report["ok"] and len(report["problems"]) == len(report["requests"]) == 1
        if place in ("out", "in"):
            peer = report["pairs"] and World().links["nodes"][check.receiver if place == "out" else check.sender]["address"]
            assert {"ufw", "firewalld", "nftables"} == set(cell["commands"])
            for lines in cell["commands"].values():
                assert any(peer in line for line in lines) and all(line.startswith("sudo ") for line in lines)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_set_of_faults(data: st.DataObject) -> None:
    """Every check gets the verdict of its own first fault, whatever else is broken."""
    checks = [_links.Check(**fields) for fields in _links.plan(federation())["checks"]]
    faults = {check: data.draw(st.sampled_from([None, None, "out", "path", "in"])) for check in checks}
    report = World(lambda check, _size, place: faults[check] != place).judge()
    assert bad(report) == {
        (check.sender, check.receiver, check.proto, check.port): PLACES[place] for check, place in faults.items() if place
    }
    assert report["ok"] == all(not place or (check.proto == "vxlan" and place != "in") for check, place in faults.items())


@pytest.mark.parametrize(("limit", "mtu"), [(1500, 1500), (1499, 1492), (1400, 1400), (1399, 1280), (576, 576)])
def test_mtu(limit: int, mtu: int) -> None:
    def passes(check: _links.Check, size: int, place: str) -> bool:
        return not (check.proto == "esp" and (check.sender, check.receiver) == ("wa", "wb") and size > limit and place == "path")

    report = World(passes).judge()
    assert report["path_mtu"] == mtu and report["ok"] and not report["problems"]
    assert bad(report) == ({} if mtu == 1500 else {("wa", "wb", "esp", 0): f"mtu-{mtu}"})
    report = World(passes).judge(overlay_mtu=1450)
    assert report["ok"] == (mtu >= 1450) and [p["code"] for p in report["problems"]] == ["link-mtu"] * (mtu < 1450)


def test_one_request_for_all_protocols_of_a_pair() -> None:
    report = World(lambda check, _size, place: not (check.sender == "wa" and check.receiver == "ms" and place == "path")).judge()
    assert len(report["requests"]) == 1 and len(report["problems"]) == 4
    assert report["requests"][0]["text"] == (
        "Allow TCP port 2377, TCP port 7946, UDP port 7946 and IP protocol 50 (ESP) from wa (192.0.2.3) to ms (192.0.2.1) "
        "in every firewall between"
    )
    assert report["requests"][0]["names"] == ["link-tcp-path", "link-udp-path", "link-esp-path"]
    assert {problem["node"] for problem in report["problems"]} == {"wa → ms"}


@pytest.mark.parametrize(
    ("answers", "value", "words"),
    [
        ("listened", None, "does not answer"),
        ("listened", {"unreachable": True}, "does not answer"),
        ("listened", {"failed": True, "msg": "no Python"}, "no Python"),
        ("listened", {"ok": False, "error": "packets cannot be captured"}, "cannot be captured"),
        ("listened", {"ok": True, "skipped": True}, "check mode"),
        ("collected", {"ok": False, "error": "no listener of this run is left"}, "no listener"),
    ],
)
def test_a_deaf_receiver_is_unknown_only_where_nothing_came_back(answers: str, value: Any, words: str) -> None:
    world = World(lambda check, _size, place: not (check.receiver == "wb" and check.proto in ("esp", "tcp") and place == "path"))
    getattr(world, answers)["wb"] = value
    if answers == "listened":
        world.collected.pop("wb")
    report = world.judge()
    assert {key: verdict for key, verdict in bad(report).items() if key[1] == "wb"} == {
        (a, "wb", proto, port): "not-measured" for a in ("ms", "wa") for proto, port in (("tcp", 7946), ("esp", 0))
    }
    assert all(words in p["message"] for p in report["problems"] if p["code"] == "link-not-measured")
    assert {pair["level"] for pair in report["pairs"] if pair["to"] == "wb"} == {"unknown"}


def test_a_silent_sender_is_unknown() -> None:
    world = World()
    world.sent["wa"] = {"unreachable": True}
    report = world.judge()
    assert {key[0] for key in bad(report)} == {"wa"} and set(bad(report).values()) == {"not-measured"}


def test_a_capture_that_lost_packets_blames_nobody() -> None:
    world = World(lambda check, _size, place: not (check.receiver == "ms" and check.proto in ("udp", "tcp") and place == "path"))
    world.collected["ms"]["lost"] = 3
    assert set(bad(world.judge()).values()) == {"not-measured"}
    world.collected["ms"].update(lost=0, overfull=True)
    assert set(bad(world.judge()).values()) == {"not-measured"}


def test_the_engine_is_tried_where_the_inventory_publishes_it() -> None:
    plan = _links.plan({**federation(), "engine": {"port": 9443}})
    assert [check["port"] for check in plan["checks"] if check["sender"] == "ui"] == [9443]


def test_names_for_other_causes() -> None:
    world = World(lambda check, _size, place: not (check.sender == "wa" and place == "out"))
    for target in world.sent["wa"]["sent"]:
        state = "no-route" if target["node"] == "ms" else "silent"
        target["next_hop"] = {"state": state, "address": target["address"], "interface": "eth0", "refused": ""}
        for probe in target["probes"]:
            probe["error"] = ""
    refusing = copy.deepcopy(world)
    refusing.sent["wa"]["sent"][0]["next_hop"]["refused"] = "prohibit"
    report = refusing.judge()
    assert {(cell["name"], cell["who"], cell["host"]) for cell in cells(report, "wa", "ms")} == {("link-route-refused", "sender", "wa")}
    assert "a route of the type prohibit" in report["problems"][0]["message"]
    assert [request["text"] for request in report["requests"] if request["host"] == "wa"] == [
        "Take the route of the type prohibit to ms (192.0.2.1) away on wa (192.0.2.3), or give ms (192.0.2.1) a route of its own there"
    ]
    report = world.judge()
    assert {cell["name"] for cell in cells(report, "wa", "ms")} == {"link-no-route"}
    assert {cell["name"] for cell in cells(report, "wa", "wb")} == {"link-no-answer"}
    assert {cell["who"] for cell in cells(report, "wa", "wb")} == {"network"}

    world = World(lambda check, _size, place: not (check.sender == "wa" and check.receiver == "ms" and place == "in"))
    world.collected["ms"]["reverse_path_drops"] = 40
    assert {cell["name"] for cell in cells(world.judge(), "wa", "ms")} == {"link-reverse-path"}
    world.collected["ms"]["reverse_path_drops"] = 1
    assert "link-reverse-path" not in {cell["name"] for cell in cells(world.judge(), "wa", "ms")}

    world = World()
    for item in world.collected["ms"]["seen"]:
        if item["peer"] == "wa":
            item["addresses"] = ["198.51.100.7"]
    report = world.judge()
    assert {cell["name"] for cell in cells(report, "wa", "ms") if cell["level"] == "fault"} == {"link-translated"}

    world = World()
    world.collected["ms"]["flows"] = []
    for target in world.sent["wa"]["sent"]:
        for tried in target["tcp"]:
            tried["answer"] = "wrong"
    assert {cell["name"] for cell in cells(world.judge(), "wa", "ms") if cell["proto"] == "tcp"} == {"link-tcp-intercepted"}


def test_what_is_let_in_as_an_answer_only() -> None:
    world = World()
    for item in world.collected["ms"]["seen"]:
        if item["peer"] == "wa" and item["proto"] == "esp":
            item["delivered"] = 4 if item["size"] in (576, 1500) else 0
    report = world.judge()
    assert bad(report) == {("wa", "ms", "esp", 0): "receiver-filter"}
    assert "of 32 that arrive at ms 8 are let in" in report["problems"][0]["message"]
    world = World()
    world.collected["ms"]["tracked"] = ["192.0.2.3"]
    report = world.judge()
    assert bad(report) == {}
    assert next(cell for cell in cells(report, "wa", "ms") if cell["proto"] == "esp")["evidence"].startswith("the firewall of ms knew")


def test_what_passes_after_the_other_side_has_sent() -> None:
    world = World()
    for item in world.collected["ms"]["seen"]:
        if item["peer"] == "wa" and item["proto"] == "esp":
            item.update(arrived=3, delivered=3)
    report = world.judge()
    assert bad(report) == {("wa", "ms", "esp", 0): "late"} and report["ok"] and report["path_mtu"] == 1500
    assert [(entry["node"], entry["code"]) for entry in report["notes"]] == [("wa → ms", "link-esp-late")]
    # one size that lost nothing shows that it was chance
    next(item for item in world.collected["ms"]["seen"] if item["peer"] == "wa" and item["size"] == 1400).update(arrived=4, delivered=4)
    assert bad(world.judge()) == {}


def test_members_must_listen_themselves() -> None:
    world = World()
    report = world.judge(members=["wb"])
    assert set(bad(report)) == {(a, "wb", proto, 7946) for a in ("ms", "wa") for proto in ("tcp", "udp")}
    assert {p["code"] for p in report["problems"]} == {"link-tcp-nobody-listening", "link-udp-nobody-listening"}
    for item in world.listened["wb"]["listening"]:
        item.update(own=item["proto"] == "udp", by="dockerd (pid 812)")
    assert bad(world.judge(members=["wb"])) == {}


def test_refusals() -> None:
    world = World(lambda check, _size, place: not (check.proto == "tcp" and check.receiver == "ms" and place in ("in", "back")))
    for name, answer in world.sent.items():
        for target in answer["sent"]:
            for tried in target["tcp"]:
                if target["node"] == "ms":
                    tried.update(result="refused", error="ECONNREFUSED", icmp=[{"type": 3, "code": 3, "from": "192.0.2.1"}])
        assert name
    report = world.judge()
    assert set(bad(report).values()) == {"receiver-filter"}
    assert "ms (192.0.2.1) answered with ICMP 3/3 (port unreachable)" in report["problems"][0]["message"]
    for flow in world.collected["ms"]["flows"]:
        flow["events"].update({"syn-delivered": 1, "rst-left": 1})
        flow["events"].pop("synack-left", None)
    assert {verdict for key, verdict in bad(world.judge()).items() if key[1] == "ms"} == {"nobody-listening"}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_broken_answers_never_break_the_report(data: st.DataObject) -> None:
    world = World(lambda check, _size, place: data.draw(st.sampled_from([True, True, True, False])))
    for answers in (world.listened, world.sent, world.collected):
        for name in list(answers):
            change = data.draw(st.sampled_from(["keep", "keep", "keep", "drop", "none", "failed", "bare", "unreachable", "skipped"]))
            if change == "drop":
                answers.pop(name)
            elif change != "keep":
                values = {"none": None, "failed": {"failed": True, "msg": "x"}, "bare": {"changed": False}}
                answers[name] = copy.deepcopy(values.get(change, {change: True}))
    report = world.judge(members=["wa"], overlay_mtu=1400)
    assert len(report["pairs"]) == 7
    for pair in report["pairs"]:
        for cell in pair["checks"]:
            assert (cell["name"] in _links.FINDINGS) == (cell["verdict"] != "ok")
    json.dumps(report)


# --- the documents


def test_every_finding_is_documented() -> None:
    if not (DOCS.parents[1] / "pyproject.toml").exists():
        pytest.skip("the collection is not in its repository")
    text = DOCS.read_text(encoding="utf-8")
    for name in _links.FINDINGS:
        assert f"`{name}`" in text, name
    utils = Path(__file__).resolve().parents[4] / "plugins/module_utils"
    gates = "".join(path.read_text(encoding="utf-8") for path in sorted(utils.glob("_gates*.py")))
    codes = set(re.findall(r'(?:found\.(?:problem|warning|note)|report)\(\s*"([a-z0-9-]+)"', gates))
    codes |= set(re.findall(r'code = "([a-z0-9-]+)"', gates))
    assert len(codes) > 30
    missing = sorted(code for code in codes if f"`{code}`" not in text)
    assert not missing


@pytest.mark.parametrize("place", ["out", "path", "in"])
def test_what_a_deploy_opens_does_not_stop_it(place: str) -> None:
    """A guard keeps a new peer out until the deploy that adds the peer has changed it; the network between is nobody's to open."""
    world = World(lambda check, _size, p: not (check.sender == "wb" and check.receiver == "ms" and p == place), encrypted=False)
    fault = world.judge()
    acts = {"out": "wb", "in": "ms"}.get(place)
    report = _links.opened_by_deploy(fault, [acts] if acts else ["ms", "wa", "wb"])
    assert not fault["ok"] and fault["problems"]
    assert report["ok"] is bool(acts)
    assert bool(report["problems"]) is not bool(acts)
    assert len(report["notes"]) + len(report["problems"]) == len(fault["notes"]) + len(fault["problems"])
    assert _links.opened_by_deploy(fault, ["wa"]) == fault


@pytest.mark.parametrize(("drift", "ok"), [([], False), (["wa is missing among the peers"], True)])
def test_a_deploy_does_not_open_what_others_keep_out(drift: list[str], ok: bool) -> None:
    """The guard is as the inventory asks: the packets that the host does not let in are dropped by somebody else's rules."""
    world = World(lambda check, _size, p: not (check.receiver == "wb" and check.proto == "tcp" and p == "in"), encrypted=False)
    answers = {
        name: {"listened": world.listened[name], "sent": world.sent[name], "collected": world.collected[name]} for name in world.sent
    }
    assert link_kept_out(world.links, answers) == ["wb"]
    nodes = {name: {"problems": [], "facts": {"firewalls": ["guard"], "swarm": {}}} for name in world.sent}
    data = {"nodes": nodes, "links": world.links, "link_answers": answers, "firewalls": {"wb": {"shown": {"set": True, "drift": drift}}}}
    asked = {**federation(False), "overlay": {"encrypted": False, "mtu": 0}, "firewall": {"manage": True}}
    told = _reports._tried_links(asked, data, nodes)
    assert told is not None and told["ok"] is ok
    found = told["notes" if ok else "problems"]
    assert {(entry["node"], entry["code"]) for entry in found} == {("wb", "link-tcp-receiver-filter")}
    words = "a deploy opens it" if ok else "the federation's own rules on wb are in place, others there keep it out"
    assert all(entry["message"].endswith(words) for entry in found)
    assert {request["host"] for request in told["requests"]} == (set() if ok else {"wb"})


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        (["192.0.2.1", "192.0.2.4"], []),  # ms and itself, from before there was wa
        (["192.0.2.1", "192.0.2.3"], ["wb"]),
        ([], []),
        (None, ["wb"]),
    ],
)
@pytest.mark.parametrize("place", ["out", "in"])
def test_a_host_that_does_not_know_the_peer_yet_is_not_asked(known: list[str] | None, asked: list[str], place: str) -> None:
    """A node is added: the guards of the others keep it out, as a matter of course."""
    sender, receiver = ("wb", "wa") if place == "out" else ("wa", "wb")
    world = World(lambda check, _size, p: (check.sender, check.receiver, p) != (sender, receiver, place), encrypted=False)
    answers = {
        name: {"listened": world.listened[name], "sent": world.sent[name], "collected": world.collected[name]} for name in world.sent
    }
    nodes: dict[str, Any] = {name: {"problems": [], "facts": {"firewalls": ["guard"], "swarm": {}}} for name in world.sent}
    if known is not None:
        nodes["wb"]["facts"]["firewall"] = {"peers": known}
    assert link_kept_out(world.links, answers) == ["wb"]
    assert link_kept_out(world.links, answers, nodes) == asked
    # One that was not asked is told as one whose answer differs from what is wanted.
    found = {"wb": {"shown": {"set": True, "drift": ["settings.json differs"]}}} if asked else {}
    data = {"nodes": nodes, "links": world.links, "link_answers": answers, "firewalls": found}
    told = _reports._tried_links(
        {**federation(False), "overlay": {"encrypted": False, "mtu": 0}, "firewall": {"manage": True}}, data, nodes
    )
    assert told is not None and told["ok"] and not told["requests"] and told["notes"]
    assert all(entry["node"] == "wb" and entry["message"].endswith("a deploy opens it") for entry in told["notes"])


def test_the_ui_node_is_no_peer_of_the_rules() -> None:
    """That the master's rules do not name it says nothing: the engine's port may be open to it, and kept out by others."""
    world = World(lambda check, _size, p: not (check.sender == "ui" and p == "in"), encrypted=False)
    answers = {
        name: {"listened": world.listened[name], "sent": world.sent[name], "collected": world.collected[name]} for name in world.sent
    }
    assert link_kept_out(world.links, answers, {"ms": {"facts": {"firewall": {"peers": ["192.0.2.3", "192.0.2.4"]}}}}) == ["ms"]
