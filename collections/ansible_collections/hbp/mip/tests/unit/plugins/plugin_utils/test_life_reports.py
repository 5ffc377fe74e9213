# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told about a node that came, went or was set aside."""

from __future__ import annotations

from typing import Any

from ansible_collections.hbp.mip.plugins.filter.engine_services import engine_services
from ansible_collections.hbp.mip.plugins.plugin_utils import _life_reports
from ansible_collections.hbp.mip.plugins.plugin_utils._federation import FederationError, resolve
from ansible_collections.hbp.mip.plugins.plugin_utils._node_reports import about

ENGINE = {"image": "hbpmip/exareme:24.5.1", "keystore_image": "bitnamilegacy/consul:1.8.3"}
GROUPS = {"master": ["h-ms"], "ui": ["h-ui"], "workers": ["h-wk-a", "h-wk-b"]}
RETIRED = {
    "changed": True,
    "found": [{"id": "x1", "action": "removed"}],
    "services": ["h-wk-a_exareme"],
}
FORGOTTEN = {"changed": True, "keys": ["active_workers/h-wk-a"], "problems": []}


def federation(**disabled: Any) -> dict[str, Any]:
    hostvars = {
        name: {"ansible_host": f"192.0.2.{n}", "mip_engine": ENGINE} for n, name in enumerate(("h-ms", "h-ui", "h-wk-a", "h-wk-b"), 11)
    }
    for name, value in disabled.items():
        hostvars[name.replace("_", "-")]["mip_disabled"] = value
    return resolve("hosp", GROUPS, hostvars)


def removed(**data: Any) -> dict[str, Any]:
    master = {"drained": {"found": [{"id": "x1", "action": "drained"}]}, "retired": RETIRED, "forgotten": FORGOTTEN}
    given = {"action": "remove", "node": "h-wk-a", "contact": {"ping": "pong"}, "left": {"changed": True, "local_state": "none"},
             "closed": {"changed": True}, "master": master, "peers": {"h-ms": {"made": {"changed": True}}}}  # fmt: skip
    return _life_reports.node(federation(), {**given, **data})


def test_a_removal_tells_every_step() -> None:
    report = removed()
    assert report["ok"] is True
    assert {step["step"]: step["state"] for step in report["steps"]} == dict.fromkeys(
        ("availability", "leave", "guard", "swarm", "services", "keystore", "firewalls"), "done"
    )


def test_a_dead_host_is_no_problem_but_what_is_left_to_do_is_told() -> None:
    report = removed(contact={}, left={}, closed={})
    assert report["ok"] is True
    host = next(step for step in report["steps"] if step["step"] == "host")
    assert host["state"] == "impossible"
    assert "docker swarm leave --force" in host["next"]
    assert "nft delete table inet mip_hosp" in host["next"]


def test_of_a_hospital_with_a_kit_it_is_told_what_was_not_done() -> None:
    found = {**federation(), "kits": [{"name": "h-wk-a", "kind": "worker", "site_kit": "member"}]}
    master = {"drained": {"found": []}, "retired": RETIRED, "forgotten": FORGOTTEN, "kit": {"changed": True, "rotated": True}}
    given = {"action": "remove", "node": "h-wk-a", "contact": {}, "left": {}, "closed": {}, "master": master, "peers": {}}
    report = _life_reports.node(found, given)
    steps = {step["step"]: step for step in report["steps"]}
    assert report["ok"] is True
    assert (steps["host"]["state"], steps["host"]["next"]) == ("impossible", "For the hospital, on it: sudo mip-site leave")
    assert steps["kit"]["detail"] == "its kit is of no use any more; the join token was replaced"


def test_a_node_that_would_not_leave_and_a_silent_keystore_are_problems() -> None:
    report = removed(left={"changed": False, "local_state": "manager", "msg": "this node is a manager"})
    assert [(entry["node"], entry["code"]) for entry in report["problems"]] == [("h-wk-a", "not-left")]
    silent = {"changed": False, "keys": [], "problems": [{"code": "no-keystore", "message": "m", "fix": "f"}]}
    report = removed(master={"retired": {"found": [], "services": []}, "forgotten": silent})
    assert (report["ok"], report["problems"][0]["code"]) == (False, "no-keystore")


def test_tokens() -> None:
    assert (
        _life_reports.token(federation(), {"rotated": {"rotated": ["worker"], "ca": {}, "cluster_id": "c", "changed": True}})["ok"] is True
    )
    report = _life_reports.token(federation(), {"rotated": {"msg": "no manager", "changed": False}})
    assert report["problems"] == [{"node": "h-ms", "code": "not-rotated", "message": "no manager", "fix": "mipfed -f hosp status"}]


def test_unlock_key() -> None:
    rotated = {"rotated": ["worker"], "ca": {}, "cluster_id": "c", "changed": True}
    skipped = _life_reports.token(federation(), {"rotated": rotated, "autolock": {"skipped": True, "changed": False}})
    assert skipped["ok"] and not skipped["unlock_key"]["rotated"]
    done = _life_reports.token(federation(), {"rotated": rotated, "autolock": {"changed": True, "behind": ["h-1"]}})
    assert done["ok"] and done["unlock_key"] == {"rotated": True, "behind": ["h-1"]}
    # The key is a new one, and the vault has the old one: that is no success.
    lost = _life_reports.token(
        federation(), {"rotated": rotated, "autolock": {"changed": True, "failed": True, "msg": "could not be kept"}}
    )
    assert [(entry["code"], entry["message"]) for entry in lost["problems"]] == [("unlock-key-not-rotated", "could not be kept")]
    unused = _life_reports.token(federation(), {"rotated": rotated, "autolock": {"changed": False}})
    assert "does not use autolock" in unused["problems"][0]["message"]


def test_a_disabled_node_is_set_aside_and_its_engine_stopped_or_left() -> None:
    found = federation(h_wk_a={"reason": "new roof", "since": "2026-11-22T10:00:00Z"})
    assert [node["name"] for node in found["nodes"]] == ["h-ms", "h-ui", "h-wk-b"]
    assert [(node["name"], node["address"], node["disabled"]) for node in found["disabled"]] == [
        ("h-wk-a", "192.0.2.13", {"reason": "new roof", "since": "2026-11-22T10:00:00Z", "keep_running": False})
    ]
    services = {service["name"]: service for service in engine_services(found, ["h-ms", "h-wk-a", "h-wk-b"])}
    assert (services["h-wk-a_exareme"]["replicas"], services["h-wk-a_exareme"]["wait"]) == (0, False)
    assert "replicas" not in services["h-wk-b_exareme"]
    found = federation(h_wk_a={"reason": "new roof", "keep_running": True})
    assert "h-wk-a_exareme" not in {service["name"] for service in engine_services(found, [])}


def test_what_cannot_be_disabled() -> None:
    for disabled, words in (
        ({"h_ms": {"reason": "x"}}, "host h-ms: mip_disabled is set, but nothing works without the master"),
        ({"h_wk_a": {"since": "today"}}, "host h-wk-a: mip_disabled needs a reason"),
        ({"h_wk_a": {"reason": "x", "untill": "May"}}, "untill"),
    ):
        try:
            federation(**disabled)
        except FederationError as error:
            assert any(words in text for text in error.errors), error.errors
        else:
            raise AssertionError(f"{disabled} was accepted")


def test_which_messages_of_the_swarm_are_about_a_node() -> None:
    assert about("the node wk-1 (x7) is down: no heartbeat", {"wk-1"})
    assert about("the service wk-1_exareme on wk-1 runs 0 of 1 tasks: gone", {"wk-1"})
    assert not about("the node wk-10 (x7) is down", {"wk-1"})
    assert not about("2 managers tolerate no more failures than 1 do", {"wk-1"})
