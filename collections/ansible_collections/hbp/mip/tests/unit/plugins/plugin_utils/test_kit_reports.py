# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes that joined with a site kit: where they count, and who is a stranger."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.filter.engine_services import engine_services
from ansible_collections.hbp.mip.plugins.filter.revived_nodes import revived_nodes
from ansible_collections.hbp.mip.plugins.plugin_utils import _kit_reports, _site_kit
from ansible_collections.hbp.mip.plugins.plugin_utils._federation import FederationError, resolve

GROUPS = {"master": ["ms"], "ui": ["ui"], "workers": ["wk1", "wk2", "wk3"]}
ENGINE = {"image": "hbpmip/exareme:24.5.1", "keystore_image": "bitnamilegacy/consul:1.8.3"}


def federation(state: str = "invited", **more: Any) -> dict[str, Any]:
    hostvars = {
        name: {"ansible_host": f"192.0.2.{n}", "mip_engine": copy.deepcopy(ENGINE)}
        for n, name in enumerate(["ms", "ui", "wk1", "wk2", "wk3"], 11)
    }
    hostvars["wk3"] |= {"mip_site_kit": state, **more}
    return resolve("hosp", GROUPS, hostvars)


def node(node_id: str, name: str = "", address: str = "192.0.2.99") -> dict[str, Any]:
    return {"id": node_id, "hostname": "host", "name": name, "address": address, "role": "worker", "status": "ready"}


def test_a_node_with_a_kit_is_nobody_to_work_on_over_ssh() -> None:
    found = federation()
    assert [entry["name"] for entry in found["nodes"]] == ["ms", "ui", "wk1", "wk2"]
    assert [(entry["name"], entry["site_kit"], entry["ssh_host"]) for entry in found["kits"]] == [("wk3", "invited", "")]
    assert federation(state="member")["kits"][0]["site_kit"] == "member"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"mip_swarm_manager": True}, "no swarm managers"),
        ({"mip_disabled": {"reason": "x"}}, "has not joined yet"),
        ({"mip_site_kit": "yes"}, "must be one of"),
        ({"ansible_host": "192.0.2.13"}, "also that of host"),
    ],
)
def test_what_does_not_go_with_a_kit_is_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(FederationError, match=said):
        federation(**more)


def test_a_member_can_be_disabled_and_its_engine_is_stopped_through_the_swarm() -> None:
    found = federation(state="member", mip_disabled={"reason": "new roof"})
    assert found["kits"] == []
    assert [(entry["name"], entry["site_kit"]) for entry in found["disabled"]] == [("wk3", "member")]
    services = {service["name"]: service for service in engine_services(found, [])}
    assert services["wk3_exareme"]["replicas"] == 0


def test_a_restore_takes_a_member_with_a_kit_for_one_of_the_federation() -> None:
    down = {**node("id3", "wk3", "192.0.2.15"), "status": "down"}
    assert revived_nodes(federation(state="member"), [down])["removed"] == []
    assert revived_nodes(federation(state="invited"), [down])["removed"] == ["wk3 (id3, 192.0.2.15)"]


def test_only_a_member_gets_an_engine() -> None:
    names = {state: [service["name"] for service in engine_services(federation(state), [])] for state in ("invited", "member")}
    assert set(names["member"]) - set(names["invited"]) == {"wk3_exareme"}


def test_a_kit_knows_all_others_and_never_itself() -> None:
    found = federation()
    assert [peer["name"] for peer in _site_kit.others(found, "wk3")] == ["ms", "wk1", "wk2"]
    secret = {"token": "T", "code_key": "00", "cluster_id": "c", "expires": 1.0, "managers": ["192.0.2.11:2377"]}
    content = _site_kit.content(found, found["kits"][0], "registry.example", secret, "anna@pusher")
    assert content["peers"] == _site_kit.others(found, "wk3")
    assert (content["address"], content["data_dir"], content["store"]) == ("192.0.2.15", "/data/hosp", {})
    assert content["daemon"] == {"log-driver": "json-file", "log-opts": {"max-size": "10m", "max-file": "3"}}
    assert content["command"].startswith("#!/usr/bin/python3\n")


def test_the_program_gives_the_checks_and_the_firewall_all_that_they_want() -> None:
    found = federation()
    secret = {"token": "T", "code_key": "00", "cluster_id": "c", "expires": 1.0, "managers": []}
    content = {**_site_kit.content(found, found["kits"][0], "", secret, "anna@pusher"), "peers": []}
    site = _site_kit.program().Site(content, lambda name: importlib.import_module(f"{_site_kit.PACKAGE}.{name}"))
    problems, warnings = site.problems()
    # This machine does not have the address.
    assert "address-not-local" in [entry["code"] for entry in problems]
    assert all({"code", "message", "fix"} <= set(entry) for entry in problems)
    assert all(isinstance(text, str) for text in warnings)
    wanted = site.firewall.settings({**content["firewall"], "name": "hosp", "address": "192.0.2.15", "peers": content["peers"]})
    assert (wanted.kind, wanted.managing, wanted.encrypted) == ("worker", False, True)


def test_strangers_and_those_who_wait() -> None:
    nodes = [node("a", "ms", "192.0.2.11"), node("b", "wk1", "192.0.2.13"), node("c", "", "192.0.2.15"), node("d"), node("e", "other")]
    found = {(entry["node"], entry["code"]) for entry in _kit_reports.unknown(federation(), nodes)}
    assert found == {("wk3", "kit-waiting"), ("host", "unknown-node"), ("other", "unknown-node")}
    # one that lost its label is told as that, not as a stranger
    assert _kit_reports.unknown(federation("member"), [node("c", "", "192.0.2.15")]) == []
    assert "kit revoke d" in next(entry["fix"] for entry in _kit_reports.unknown(federation(), nodes) if entry["node"] == "host")


def test_a_pause_is_told_where_it_can_be_seen() -> None:
    found = federation("member")
    site = {"paused": True, "paused_since": "2026-11-22T10:00:00Z", "paused_reason": "storm"}
    entry = _kit_reports.paused(found, found["nodes"][2], {"site": site}, node("b", "wk1"))[0]
    assert (entry["node"], entry["code"]) == ("wk1", "paused")
    assert "2026-11-22T10:00:00Z: storm" in entry["message"]
    assert _kit_reports.paused(found, found["nodes"][2], {"site": {"paused": False}}, node("b")) == []
    down = {**node("c", "wk3"), "status": "down"}
    assert [entry["code"] for entry in _kit_reports.paused(found, found["kits"][0], {}, down)] == ["kit-away"]
    assert _kit_reports.paused(found, found["kits"][0], {}, node("c", "wk3")) == []


def test_a_kit_that_was_not_made_is_a_problem() -> None:
    report = _kit_reports.kit(
        federation(), {"action": "create", "node": "wk3", "answer": {"msg": "no key", "mip_error": "kit", "changed": False}}
    )
    assert [(entry["node"], entry["message"]) for entry in report["problems"]] == [("wk3", "no key")]
    assert report["error"] == "kit"
    made = _kit_reports.kit(federation(), {"action": "create", "node": "wk3", "answer": {"path": "/a", "signer": "SHA256:x", "kits": []}})
    assert (made["problems"], made["path"], made["signer"]) == ([], "/a", "SHA256:x")
    assert _kit_reports.kit(federation(), {"action": "create", "node": "wk3", "answer": {"skipped": True}})["problems"] == []


def test_an_outdated_kit_is_told() -> None:
    kits = [{"node": "wk3", "peers_differ": True}, {"node": "wk4", "peers_differ": False}]
    report = _kit_reports.kit(federation("member"), {"action": "ls", "answer": {"kits": kits, "unknown": []}})
    assert [(entry["node"], entry["code"]) for entry in report["problems"]] == [("wk3", "kit-peers")]
