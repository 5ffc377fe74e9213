# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.filter.engine_services import engine_services
from ansible_collections.hbp.mip.plugins.module_utils import _encryption, _store, _xfrm
from ansible_collections.hbp.mip.plugins.plugin_utils import _federation, _ldsm, _reports, _verify_reports

GROUPS = {"master": ["ms"], "ui": ["web"], "workers": ["wk1", "wk2"]}


def federation(encrypted: bool = True, mtu: int = 0, **wk1: Any) -> dict[str, Any]:
    shared = {
        "mip_engine": {"image": "registry:5000/exareme:1.0", "keystore_image": "registry:5000/consul:1.8"},
        "mip_lab": not encrypted,
        "mip_overlay": {"encrypted": encrypted, "mtu": mtu},
    }
    hosts = {name: {"ansible_host": f"192.0.2.{n}", **shared} for n, name in enumerate(("ms", "web", "wk1", "wk2"), 1)}
    hosts["wk1"].update(wk1)
    return _federation.resolve("brain", GROUPS, hosts)


def pair(sender: str, receiver: str, verdict: str = "encrypted", **more: Any) -> dict[str, Any]:
    side = {"esp": {"packets": 9000, "bytes": 11_000_000}, "clear": {"packets": 0, "bytes": 0}, "other": {"packets": 0, "bytes": 0}}
    return {
        "from": sender,
        "to": receiver,
        "ok": True,
        "small_ms": 1.0,
        "bytes": 10_485_760,
        "mb_per_s": 50.0,
        "error": "",
        "mtu": 1424,
        "packet": 1424,
        "encryption": {"verdict": verdict, "reason": "" if verdict == "encrypted" else "as it is", "sender": side, "receiver": side},
        **more,
    }


def listener(**more: Any) -> dict[str, Any]:
    overlay = {"interface": "eth0", "mtu": 1424, "vni": 4097, "encrypted": True, "mtu_option": 0, "path_mtu": 1500, **more}
    return {"ok": True, "error": "", "overlay": overlay}


NAMES = ["ms", "wk1", "wk2"]


def collected(verdicts: dict[tuple[str, str], Any] | None = None) -> dict[str, dict[str, Any]]:
    """What overlay_probe returned on all nodes; `verdicts` replaces the pairs named."""
    given = verdicts or {}
    return {
        a: {
            "listener": listener(),
            "sent": {"ok": True, "error": "", "pairs": [given.get((a, b), pair(a, b)) for b in NAMES if a != b], "counted": {"errors": {}}},
        }
        for a in NAMES
    }


def verify(nodes: dict[str, dict[str, Any]], wanted: dict[str, Any] | None = None) -> dict[str, Any]:
    report = _reports.verify(wanted or federation(), {"nodes": nodes})
    report["codes"] = [entry["code"] for entry in report["problems"] if entry["code"] != "engine-not-asked"]
    return report


def test_all_encrypted() -> None:
    report = verify(collected())
    assert report["codes"] == [] and report["warnings"] == []
    assert report["encryption"]["wanted"] is True and report["encryption"]["state"] == "encrypted"
    assert len(report["encryption"]["pairs"]) == 6
    assert report["overlay"] == {"wanted": 0, "made_for": 0, "recorded": 1500, "nodes": dict.fromkeys(NAMES, 1424)}


def test_one_pair_in_clear() -> None:
    report = verify(collected({("wk1", "ms"): pair("wk1", "ms", "clear")}))
    assert report["encryption"]["state"] == "clear" and report["codes"] == ["encryption-clear"]
    (entry,) = (entry for entry in report["problems"] if entry["code"] == "encryption-clear")
    assert entry["node"] == "wk1" and "NOT ENCRYPTED" in entry["message"] and "ms" in entry["message"]
    assert "iptables -t mangle" in entry["fix"] and "wk1_exareme=0" in entry["fix"]


def test_a_network_that_was_made_without_encryption() -> None:
    nodes = collected({("wk1", "ms"): pair("wk1", "ms", "clear")})
    nodes["wk1"]["listener"] = listener(encrypted=False, mtu=1450)
    report = verify(nodes)
    (entry,) = (entry for entry in report["problems"] if entry["code"] == "encryption-clear")
    assert "docker network rm mip-federation" in entry["fix"] and "label=eu.humanbrainproject.mip.federation=brain" in entry["fix"]


def test_what_is_not_proven_is_a_problem_only_where_data_pass() -> None:
    unproven = pair("wk1", "ms", "no-proof")
    report = verify(collected({("wk1", "ms"): unproven}))
    assert report["codes"] == ["encryption-no-proof"] and report["encryption"]["state"] == "no-proof"
    report = verify(collected({("wk1", "ms"): {**unproven, "ok": False, "error": "no answer"}}))
    assert report["codes"] == ["overlay"]


def test_a_lab_in_clear_is_told_and_is_no_problem() -> None:
    nodes = collected({(a, b): pair(a, b, "clear", mtu=1450, packet=1450) for a in NAMES for b in NAMES if a != b})
    for node in nodes.values():
        node["listener"] = listener(encrypted=False, mtu=1450)
    report = verify(nodes, federation(encrypted=False))
    assert report["codes"] == []
    assert report["encryption"]["wanted"] is False and report["encryption"]["state"] == "clear"


def test_a_node_that_measured_nothing() -> None:
    nodes = collected()
    nodes["wk2"] = {}
    report = verify(nodes)
    assert report["encryption"]["state"] == "no-proof" and report["codes"] == ["overlay"] * 2
    unknown = [entry for entry in report["encryption"]["pairs"] if entry["from"] == "wk2"]
    assert [entry["verdict"] for entry in unknown] == ["no-proof"] * 2


def test_ipsec_errors_are_problems_where_something_fails() -> None:
    nodes = collected()
    nodes["wk1"]["sent"]["counted"]["errors"] = {"XfrmInNoStates": 4}
    report = verify(nodes)
    assert report["codes"] == [] and [entry["code"] for entry in report["warnings"]] == ["ipsec-in-no-states"]
    assert report["encryption"]["errors"] == {"wk1": {"XfrmInNoStates": 4}}
    nodes = collected({("ms", "wk1"): pair("ms", "wk1", "no-proof", ok=False, error="no answer")})
    nodes["wk1"]["counted"] = {"counted": {"errors": {"XfrmInStateProtoError": 9}}}
    report = verify(nodes)
    assert report["codes"] == ["overlay", "ipsec-in-proto-error"] and report["warnings"] == []


def test_other_networks_in_clear_are_a_warning() -> None:
    found = pair("wk1", "ms")
    found["encryption"]["sender"] = {**found["encryption"]["sender"], "other": {"packets": 7, "bytes": 700}}
    report = verify(collected({("wk1", "ms"): found}))
    assert report["codes"] == [] and [(entry["node"], entry["code"]) for entry in report["warnings"]] == [("wk1", "vxlan-other-clear")]


@pytest.mark.parametrize(
    ("inventory", "option", "recorded", "inside", "codes"),
    [
        (0, 0, 1500, 1424, []),
        (0, 0, 0, 1424, []),
        (0, 1400, 1400, 1324, []),
        (1400, 1400, 1400, 1324, []),
        (1300, 1300, 1400, 1224, []),
        (0, 0, 9000, 1424, []),
        (9000, 9000, 9000, 8924, ["overlay-mtu-too-large"]),
        (0, 0, 1400, 1424, ["overlay-mtu-too-large"]),
        (1400, 0, 1500, 1424, ["overlay-mtu-too-large"]),
        (1400, 1400, 1300, 1324, ["overlay-mtu-too-large"]),
        (0, 1400, 1400, 1424, ["overlay-mtu-differs"] * 3),
    ],
)
def test_mtu(inventory: int, option: int, recorded: int, inside: int, codes: list[str]) -> None:
    nodes = collected({(a, b): pair(a, b, mtu=inside, packet=inside) for a in NAMES for b in NAMES if a != b})
    for node in nodes.values():
        node["listener"] = listener(mtu=inside, mtu_option=option, path_mtu=recorded)
    report = verify(nodes, federation(mtu=inventory))
    assert report["codes"] == codes
    if codes == ["overlay-mtu-too-large"]:
        fix = report["problems"][0]["fix"]
        assert f"mip_overlay.mtu: {min(value for value in (inventory, recorded, 1500) if value)}" in fix and "mipfed -f brain deploy" in fix


def test_packets_that_do_not_pass_are_named_once() -> None:
    failing = pair("wk1", "wk2", "no-proof", ok=False, packet=1324, error="packets of 1324 bytes pass, ...")
    report = verify(collected({("wk1", "wk2"): failing}))
    assert report["codes"] == ["overlay-mtu-too-large"]
    (entry,) = (entry for entry in report["problems"] if entry["code"] == "overlay-mtu-too-large")
    assert entry["node"] == "wk1" and "mip_overlay.mtu: 1400" in entry["fix"]
    not_measured = pair("wk1", "wk2", packet=None)
    assert verify(collected({("wk1", "wk2"): not_measured}))["codes"] == []


# --- the local data store


def test_the_data_store_of_a_worker() -> None:
    found = federation(mip_ldsm={"host": "lds.hospital.example", "port": 5432})
    nodes = {node["name"]: node for node in found["nodes"]}
    assert nodes["wk1"]["ldsm"] == {"host": "lds.hospital.example", "port": 5432}
    assert nodes["wk2"]["ldsm"] == {} == nodes["ms"]["ldsm"]
    services = {service["name"]: service for service in engine_services(found, [])}
    assert services["wk1_exareme"]["env"]["LDSM_HOST"] == "lds.hospital.example"
    assert services["wk1_exareme"]["env"]["LDSM_PORT"] == "5432"
    assert "LDSM_HOST" not in services["wk2_exareme"]["env"] and "LDSM_HOST" not in services["ms_exareme-master"]["env"]


def test_a_data_store_without_a_host_is_on_the_worker_itself() -> None:
    found = federation(mip_ldsm={"port": 5432})
    assert next(node for node in found["nodes"] if node["name"] == "wk1")["ldsm"] == {"host": "192.0.2.3", "port": 5432}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"host": "127.0.0.1", "port": 5432}, "the engine's own container"),
        ({"host": "localhost", "port": 5432}, "the engine's own container"),
        ({"host": "::1", "port": 5432}, "the engine's own container"),
        ({"host": "2001:db8::1", "port": 5432}, "IPv6"),
        ({"host": "lds", "port": 0}, "not a TCP port"),
        ({"host": "lds", "port": 70000}, "not a TCP port"),
        ({"host": "a b", "port": 1}, "neither a name nor"),
        ({"host": "-x", "port": 1}, "neither a name nor"),
        ({"hostname": "lds", "port": 1}, "hostname"),
        ("lds:5432", "mip_ldsm"),
    ],
)
def test_data_stores_that_cannot_be(value: Any, words: str) -> None:
    with pytest.raises(_federation.FederationError, match="wk1") as caught:
        federation(mip_ldsm=value)
    assert any(words in error for error in caught.value.errors), caught.value.errors


def test_only_workers_have_a_data_store() -> None:
    errors: list[str] = []
    assert _ldsm.data_store("ms", "master", {"host": "lds", "port": 1}, "192.0.2.1", errors)
    assert len(errors) == 1 and "only a worker's engine" in errors[0]


def test_a_data_store_that_is_not_reached() -> None:
    found = federation(mip_ldsm={"port": 5432})
    nodes = collected()
    store = {"host": "192.0.2.3", "port": 5432, "verdict": "ok", "message": "", "fix": ""}
    nodes["wk1"]["listener"]["store"] = store
    report = verify(nodes, found)
    assert report["codes"] == [] and report["stores"] == {"wk1": store}
    nodes["wk1"]["listener"]["store"] = {**store, "verdict": "refused", "message": "it refuses", "fix": "start it"}
    report = verify(nodes, found)
    assert [(entry["node"], entry["code"], entry["fix"]) for entry in report["problems"][:1]] == [("wk1", "ldsm-unreachable", "start it")]


def test_the_migration_says_every_step() -> None:
    text = _verify_reports.migration("brain", 1400, "mip-federation")
    steps = ["mip_overlay.mtu: 1400", "docker service rm", "docker network rm mip-federation", "mipfed -f brain deploy", "verify"]
    assert [text.index(step) for step in steps] == sorted(text.index(step) for step in steps)


def test_every_finding_has_its_row_in_the_documentation() -> None:
    page = Path(__file__).parents[8] / "docs/findings.md"
    if not page.exists():
        pytest.skip("the collection is alone here")
    rows = page.read_text(encoding="utf-8")
    source = Path(_verify_reports.__file__).read_text(encoding="utf-8")
    codes = {code for code in re.findall(r'"([a-z]+(?:-[a-z]+)+)"', source) if code != _encryption.NO_PROOF}
    codes |= {finding.code for finding in (*_xfrm.FINDINGS.values(), _xfrm.OTHER)} | {_store.CODE}
    assert {"encryption-clear", "encryption-no-proof", "overlay-mtu-too-large", "overlay-mtu-differs", "vxlan-other-clear"} <= codes
    assert [code for code in sorted(codes) if f"| `{code}` |" not in rows] == []
