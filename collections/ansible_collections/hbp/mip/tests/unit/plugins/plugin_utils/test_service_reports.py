# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a federation is, from what its managers and its engine said."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.plugin_utils._federation import resolve
from ansible_collections.hbp.mip.plugins.plugin_utils._reports import check
from ansible_collections.hbp.mip.plugins.plugin_utils._service_reports import is_drift, services, status

DIGEST, OTHER = "@sha256:" + "a" * 64, "@sha256:" + "b" * 64
NAMES = ("ms_exareme-keystore", "ms_exareme-master", "a_exareme", "b_exareme")


def federation(**more: Any) -> dict[str, Any]:
    engine = {"image": "r:5000/exareme:1.0", "keystore_image": "r:5000/consul:1.8"}
    hostvars: dict[str, dict[str, Any]] = {
        name: {"ansible_host": f"192.0.2.{number}", "mip_engine": engine} for number, name in enumerate(("ms", "ui", "a", "b"), 1)
    }
    for name, values in more.items():
        hostvars[name] |= values
    return resolve("hosp", {"master": ["ms"], "ui": ["ui"], "workers": ["a", "b"]}, hostvars)


def service(name: str, **more: Any) -> dict[str, Any]:
    image = "r:5000/consul:1.8" if name.endswith("keystore") else "r:5000/exareme:1.0"
    values = {
        "name": name,
        "node": name.partition("_")[0],
        "image": image + DIGEST,
        "state": "running",
        "desired": 1,
        "running": 1,
        "error": "",
    }
    return {**values, "since": "", "update_state": "", "stopped_since": "", "stopped_reason": "", **more}


def member(name: str, **more: Any) -> dict[str, Any]:
    values = {
        "name": name,
        "id": f"id-{name}",
        "hostname": name,
        "role": "manager" if name == "ms" else "worker",
        "status": "ready",
        "availability": "active",
    }
    return {**values, "address": "", "engine_version": "20.10.24", "leader": name == "ms", "reachability": "", **more}


def data(**more: Any) -> dict[str, Any]:
    view = {
        "local_state": "manager",
        "problems": [],
        "nodes": [member("ms"), member("a"), member("b")],
        "services": [service(name) for name in NAMES],
        "certificate_expires": "2027-01-01T00:00:00Z",
    }
    worker = {"local_state": "worker", "problems": [], "certificate_expires": "2027-02-01T00:00:00Z"}
    health = {"ok": True, "code": "ok", "seconds": 0.1, "nodes": ["ms", "a", "b"], "problems": []}
    held = {"ok": True, "problems": [], "datasets": {"a": {"dementia": ["edsd"]}, "b": {"dementia": ["ppmi", "edsd"]}}}
    nodes = {"ms": {"swarm": view}, "a": {"swarm": dict(worker)}, "b": {"swarm": dict(worker)}}
    return {"nodes": nodes, "engine": {"health": health, "datasets": held}, **more}


def codes(entries: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(entry["node"], entry["code"]) for entry in entries]


def test_a_healthy_federation() -> None:
    report = status(federation(), data())
    assert (report["ok"], report["problems"], report["notices"], report["manager"]) == (True, [], [], "ms")
    assert report["engine"]["dataset_count"] == 2
    assert report["engine"]["datasets"] == {"a": ["edsd"], "b": ["edsd", "ppmi"]}
    assert [(node["name"], node["kind"], node["certificate_expires"][:10]) for node in report["nodes"]] == [
        ("ms", "master", "2027-01-01"),
        ("a", "worker", "2027-02-01"),
        ("b", "worker", "2027-02-01"),
    ]
    assert {entry["component"] for entry in report["services"]} == {"keystore", "engine"}


def test_status_misses_exactly_the_services_that_a_deploy_would_run() -> None:
    seen = data()
    seen["nodes"]["ms"]["swarm"]["services"] = [service(NAMES[0]), service(NAMES[3])]
    report = status(federation(), seen)
    missing = [(entry["node"], entry["message"]) for entry in report["problems"]]
    assert missing == [("ms", "the service ms_exareme-master does not exist"), ("a", "the service a_exareme does not exist")]


def test_what_is_stopped_on_purpose_is_told_and_is_no_problem() -> None:
    seen = data()
    seen["nodes"]["ms"]["swarm"]["services"][1] |= {
        "running": 0, "desired": 0, "state": "", "stopped_since": "2026-11-22T10:00:00Z", "stopped_reason": "moves house",
    }  # fmt: skip
    seen["engine"] = {}
    report = status(federation(), seen)
    assert (report["ok"], report["engine"]["asked"]) == (True, False)
    assert codes(report["notices"]) == [("ms", "stopped")]
    assert "since 2026-11-22T10:00:00Z: moves house" in report["notices"][0]["message"]
    assert report["notices"][0]["fix"] == "mipfed -f hosp start"


def test_a_drained_hospital_is_told_and_is_no_problem_but_a_drained_master_is() -> None:
    said = [
        {"code": "node-drain", "message": "the node {} (id) takes no tasks: its availability is drain", "fix": "f"},
        {"code": "service-down", "message": "the service {}_exareme on {} runs 0 of 1 tasks: no suitable node", "fix": "f"},
    ]
    seen = data()
    view = seen["nodes"]["ms"]["swarm"]
    view["nodes"][2]["availability"] = "drain"
    view["problems"] = [{**entry, "message": entry["message"].replace("{}", "b")} for entry in said]
    report = status(federation(), seen)
    assert (report["ok"], report["problems"]) == (True, [])
    assert [(entry["node"], entry["code"], entry["fix"]) for entry in report["notices"]] == [
        ("b", "drained", "mipfed -f hosp node activate b")
    ]
    view["nodes"][0]["availability"] = "drain"
    view["problems"].append({**said[0], "message": said[0]["message"].replace("{}", "ms")})
    report = status(federation(), seen)
    assert codes(report["problems"]) == [("ms", "node-drain")]


def test_the_api_is_a_part_of_it() -> None:
    seen = data()
    problem = {"code": "node-missing", "message": "b is not active", "fix": "look"}
    seen["engine"]["health"] |= {"ok": False, "problems": [problem]}
    report = status(federation(), seen)
    assert codes(report["problems"]) == [("ms", "node-missing")]
    assert report["engine"]["ok"] is False


def test_another_manager_tells_when_the_master_is_away() -> None:
    seen = data()
    seen["nodes"]["a"]["swarm"] = {
        **seen["nodes"]["ms"]["swarm"],
        "problems": [
            {"code": "node-down", "message": "the node ms (x7) is down", "fix": "start it"},
            {"code": "service-down", "message": "the service ms_exareme-master on ms runs 0 of 1 tasks: no suitable node", "fix": "wait"},
        ],
    }
    seen["nodes"]["ms"] = {}
    seen["engine"] = {}
    report = status(federation(a={"mip_swarm_manager": True}), seen)
    assert (report["manager"], report["unreachable"]) == ("a", ["ms"])
    assert codes(report["problems"]) == [("ms", "unreachable"), ("ms", "node-down"), ("ms", "service-down")]
    assert len(report["services"]) == 4


def test_a_node_that_nobody_else_sees_the_trouble_of() -> None:
    seen = data()
    entry = {"code": "certificate", "message": "the certificate of this node expires at ...", "fix": "timedatectl"}
    seen["nodes"]["b"]["swarm"]["problems"] = [entry]
    assert codes(status(federation(), seen)["problems"]) == [("b", "certificate")]


def test_drift_of_images_engines_and_roles() -> None:
    seen = data()
    view = seen["nodes"]["ms"]["swarm"]
    view["services"][2]["image"] = "r:5000/exareme:0.9" + OTHER
    view["services"][3]["image"] = "r:5000/exareme:1.0" + OTHER
    view["nodes"][2]["engine_version"] = "26.1.5"
    report = status(federation(a={"mip_swarm_manager": True}), seen)
    assert report["ok"] is True
    assert codes(report["notices"]) == [("a", "role-drift"), ("a", "image-drift"), ("", "image-drift"), ("", "engine-drift")]
    assert [entry["name"] for entry in report["services"] if entry["drift"]] == ["a_exareme"]
    assert "20.10.24: ms, a; 26.1.5: b" in report["notices"][-1]["message"]


@pytest.mark.parametrize(
    ("wanted", "present", "drift"),
    [
        ("r/e:1", "r/e:1" + DIGEST, False),
        ("r/e:1", "r/e:1", False),
        ("r/e", "r/e:latest" + DIGEST, False),
        ("r/e:2", "r/e:1" + DIGEST, True),
        ("r/e:1" + DIGEST, "r/e:1" + DIGEST, False),
        ("r/e:1" + DIGEST, "r/e:1" + OTHER, True),
    ],
)
def test_drift(wanted: str, present: str, drift: bool) -> None:
    assert is_drift(wanted, present) is drift


def test_one_node_only() -> None:
    seen = data(only=["b"])
    seen["nodes"]["ms"]["swarm"]["problems"] = [
        {"code": "service-down", "message": "the service a_exareme on a runs 0 of 1 tasks: x", "fix": ""},
        {"code": "service-down", "message": "the service b_exareme on b runs 0 of 1 tasks: x", "fix": ""},
    ]
    del seen["nodes"]["a"]
    report = status(federation(), seen)
    assert codes(report["problems"]) == [("b", "service-down")]
    assert [node["name"] for node in report["nodes"]] == ["b"]
    assert [entry["name"] for entry in report["services"]] == ["b_exareme"]
    assert report["unreachable"] == []


def test_disabled_nodes_are_listed_and_no_problem() -> None:
    seen = data()
    del seen["nodes"]["b"]
    seen["nodes"]["ms"]["swarm"]["problems"] = [{"code": "node-down", "message": "the node b (x) is down", "fix": ""}]
    report = status(federation(b={"mip_disabled": {"reason": "moves house"}}), seen)
    assert report["ok"] is True
    assert [(entry["name"], entry["reason"]) for entry in report["disabled"]] == [("b", "moves house")]


def test_no_manager_at_all() -> None:
    report = status(federation(), {"nodes": {"a": {"swarm": {"local_state": "worker", "problems": []}}}, "engine": {}})
    assert codes(report["problems"]) == [("ms", "unreachable"), ("b", "unreachable")]
    assert (report["ok"], report["services"], report["nodes"]) == (False, [], [])


def test_a_locked_manager_is_unlocked_next() -> None:
    locked = {"local_state": "locked", "problems": [], "nodes": [], "services": []}
    report = status(federation(), {"nodes": {"ms": {"swarm": locked}}, "engine": {}})
    (entry,) = [entry for entry in report["problems"] if entry["code"] == "swarm-locked"]
    assert entry["node"] == "ms" and entry["fix"] == f"mipfed -f {federation()['name']} unlock"


def done(*actions: str, **more: Any) -> dict[str, Any]:
    found = [
        {"name": name, "node": name.partition("_")[0], "action": action, "error": "crash" if action == "failed" else "", "log": []}
        for name, action in zip(NAMES, actions, strict=False)
    ]
    return {"state": "started", "done": {"services": found, "changed": True, **more}}


def test_each_failed_service_is_a_problem_and_the_others_are_named() -> None:
    report = services(federation(), done("started", "failed", "waiting", "waiting"))
    assert codes(report["problems"]) == [("ms", "failed"), ("", "waiting")]
    assert "ms_exareme-master is not started: crash" in report["problems"][0]["message"]
    assert "a_exareme, b_exareme" in report["problems"][1]["message"]
    assert services(federation(), done("started", "unchanged"))["problems"] == []


def test_a_refusal_is_a_problem() -> None:
    refused = {"state": "stopped", "done": {"msg": "service x: the swarm does not have it. Nothing was done", "errors": ["x"]}}
    assert codes(services(federation(), refused)["problems"]) == [("", "refused")]
    lost = services(federation(), done("waiting", "waiting", msg="list the tasks: no leader"))
    assert lost["problems"][0]["message"] == "list the tasks: no leader"
    assert services(federation(), {"state": "started", "done": {}})["problems"] == []


def test_a_deploy_goes_on_with_another_manager_when_the_master_is_away() -> None:
    def node(**swarm: str) -> dict[str, Any]:
        return {"problems": [], "warnings": [], "facts": {"swarm": swarm}}

    with_manager = {"nodes": {"a": node(state="manager", cluster_id="x"), "b": node()}, "needs_master": True}
    report = check(federation(a={"mip_swarm_manager": True}), with_manager)
    assert (report["problems"], report["unreachable"]) == ([], ["ms", "ui"])
    without = {"nodes": {"a": node(state="no-quorum", cluster_id="x"), "b": node()}, "needs_master": True}
    assert codes(check(federation(), without)["problems"]) == [("ms", "unreachable")]
