# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory contract: what resolves, and what each mistake says."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.plugin_utils._federation import FederationError, resolve, schema

GROUPS = {"master": ["hosp-ms"], "ui": ["hosp-ui"], "workers": ["hosp-wk-a", "hosp-wk-b"]}
ENGINE = {"image": "hbpmip/exareme:24.5.1", "keystore_image": "bitnamilegacy/consul:1.8.3"}


@pytest.fixture
def hostvars() -> dict[str, dict[str, Any]]:
    names = [name for hosts in GROUPS.values() for name in hosts]
    return {name: {"ansible_host": f"192.0.2.{n}", "mip_engine": copy.deepcopy(ENGINE)} for n, name in enumerate(names, 11)}


def errors(hostvars: dict[str, dict[str, Any]], groups: dict[str, list[str]] | None = None) -> list[str]:
    with pytest.raises(FederationError) as caught:
        resolve("hosp", groups or GROUPS, hostvars)
    return caught.value.errors


def test_a_minimal_inventory_resolves_with_all_defaults(hostvars: dict[str, dict[str, Any]]) -> None:
    federation = resolve("hosp", GROUPS, hostvars)
    assert federation["name"] == "hosp"
    assert federation["data_dir"] == "/data/hosp"
    assert federation["overlay"] == {"name": "mip-federation", "encrypted": True, "subnet": "10.20.30.0/24", "mtu": 0}
    assert [(node["name"], node["kind"], node["manager"]) for node in federation["nodes"]] == [
        ("hosp-ms", "master", True),
        ("hosp-ui", "ui", False),
        ("hosp-wk-a", "worker", False),
        ("hosp-wk-b", "worker", False),
    ]
    assert federation["account"]["name"] == "mipadmin"
    assert federation["warnings"] == []


def test_every_default_of_the_schema_is_of_its_own_type() -> None:
    for options in schema().values():
        for name, option in options.items():
            assert "description" in option, name
            assert option["type"] in {"str", "bool", "int", "float", "dict", "list", "path"}, name


def test_a_partial_dictionary_keeps_the_other_defaults(hostvars: dict[str, dict[str, Any]]) -> None:
    for variables in hostvars.values():
        variables["mip_overlay"] = {"subnet": "10.99.0.0/24"}
        variables["mip_docker"] = {"log_max_files": "7"}
    federation = resolve("hosp", GROUPS, hostvars)
    assert federation["overlay"]["encrypted"] is True
    assert federation["docker"]["log_max_files"] == 7
    assert federation["docker"]["source"] == "distro"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"master": []}, "group master: it has no host"),
        ({"master": ["hosp-ms", "hosp-ms2"]}, "group master: it has 2 hosts (hosp-ms, hosp-ms2)"),
        ({"workers": []}, "group workers: it has no host"),
        ({"workers": ["hosp-wk-a", "hosp-ms"]}, "host hosp-ms: it is master and also worker"),
        ({"workers": ["wk.hospital.org"]}, "host wk.hospital.org: not a node name"),
        ({"workers": ["Hospital"]}, "host Hospital: not a node name"),
    ],
)
def test_groups_that_are_wrong(hostvars: dict[str, dict[str, Any]], change: dict[str, list[str]], expected: str) -> None:
    for number, name in enumerate(change.get("workers", []) + change.get("master", [])):
        hostvars.setdefault(name, {"ansible_host": f"192.0.2.{100 + number}", "mip_engine": ENGINE})
    assert any(error.startswith(expected) for error in errors(hostvars, {**GROUPS, **change}))


@pytest.mark.parametrize(
    ("host", "variables", "expected"),
    [
        ("hosp-wk-a", {"mip_enigne": {}}, "variable mip_enigne (host hosp-wk-a): unknown; did you mean mip_engine?"),
        ("hosp-wk-a", {"mip_adress": "192.0.2.1"}, "variable mip_adress (host hosp-wk-a): unknown; did you mean mip_address?"),
        ("hosp-wk-a", {"ansible_host": "192.0.2.11"}, "host hosp-wk-a: address 192.0.2.11 is also that of host hosp-ms"),
        ("hosp-wk-a", {"ansible_host": "wk.example.org"}, "host hosp-wk-a: 'wk.example.org' is not an IPv4 address; set mip_address"),
        ("hosp-wk-a", {"mip_host_key": "aa:bb"}, "host hosp-wk-a: mip_host_key is no SHA256 fingerprint"),
        ("hosp-ui", {"mip_swarm_manager": True}, "host hosp-ui: mip_swarm_manager is set, but the ui node is no member"),
        ("hosp-wk-b", {"mip_data_root": "/srv"}, "variable mip_data_root"),
    ],
)
def test_host_variables_that_are_wrong(hostvars: dict[str, dict[str, Any]], host: str, variables: dict[str, Any], expected: str) -> None:
    if "mip_data_root" in variables:
        hostvars["hosp-ms"]["mip_data_root"] = "/data"
    hostvars[host].update(variables)
    assert any(error.startswith(expected) for error in errors(hostvars)), errors(hostvars)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"mip_overlay": {"subnett": "10.1.0.0/24"}}, "mip_overlay: unknown key 'subnett'; did you mean subnet?"),
        ({"mip_expose": {"portainer": {"alow": []}}}, "mip_expose.portainer: unknown key 'alow'; did you mean allow?"),
        ({"mip_overlay": {"subnet": "10.1.0.1/24"}}, "mip_overlay.subnet: '10.1.0.1/24' is not an IPv4 network"),
        ({"mip_overlay": {"subnet": "192.0.2.0/24"}}, "mip_overlay.subnet: 192.0.2.0/24 contains 192.0.2.11, the address of host hosp-ms"),
        ({"mip_overlay": {"subnet": "10.1.0.0/29"}}, "mip_overlay.subnet: 10.1.0.0/29 is too small for 4 nodes"),
        ({"mip_overlay": {"encrypted": False}}, "mip_overlay.encrypted: false is for labs"),
        ({"mip_overlay": {"mtu": 100}}, "mip_overlay.mtu: 100 is not between"),
        ({"mip_engine": {**ENGINE, "image": "hbpmip/exareme"}}, "mip_engine.image: 'hbpmip/exareme' names no version"),
        ({"mip_engine": {**ENGINE, "environment_type": "TEST"}}, "mip_engine.environment_type: TEST switches the privacy minimum off"),
        ({"mip_engine": {"image": "a:1"}}, "missing required arguments: keystore_image found in mip_engine"),
        ({"mip_limits": {"memory_mb": "much"}}, "Elements value for option"),
        ({"mip_docker": {"source": "snap"}}, "value of source must be one of"),
        ({"mip_expose": {"keystore": ["0.0.0.0/0"]}}, "mip_expose.keystore: 0.0.0.0/0 is everyone"),
        ({"mip_expose": {"portainer": {"allow": ["10.0.0.1/32"]}}}, "mip_expose.portainer: it is served with TLS only"),
        ({"mip_swarm": {"data_path_port": 80}}, "mip_swarm.data_path_port: 80 is not between"),
        ({"mip_federation": "My Federation"}, "mip_federation: 'My Federation' is not a name"),
    ],
)
def test_federation_values_that_are_wrong(hostvars: dict[str, dict[str, Any]], variables: dict[str, Any], expected: str) -> None:
    for values in hostvars.values():
        values.update(copy.deepcopy(variables))
    found = errors(hostvars)
    if expected == "Elements value for option":
        assert any("memory_mb" in error and "int" in error for error in found), found
    else:
        assert any(error.startswith(expected) for error in found), found


def test_all_errors_are_listed_at_once(hostvars: dict[str, dict[str, Any]]) -> None:
    hostvars["hosp-wk-a"]["mip_typo"] = 1
    hostvars["hosp-wk-b"]["ansible_host"] = "nowhere"
    assert len(errors(hostvars, {**GROUPS, "master": []})) >= 3


def test_an_even_number_of_managers_is_a_warning(hostvars: dict[str, dict[str, Any]]) -> None:
    hostvars["hosp-wk-a"]["mip_swarm_manager"] = True
    assert "2 swarm managers" in resolve("hosp", GROUPS, hostvars)["warnings"][0]


def test_a_password_does_not_reach_the_result(hostvars: dict[str, dict[str, Any]]) -> None:
    hostvars["hosp-wk-a"]["mip_first_password"] = "canary-5f1e"
    federation = resolve("hosp", GROUPS, hostvars)
    assert "canary-5f1e" not in repr(federation)
    assert [node["first_password"] for node in federation["nodes"]] == [False, False, True, False]


def test_a_pusher_that_is_also_a_node_needs_no_host_key(hostvars: dict[str, dict[str, Any]]) -> None:
    hostvars["hosp-ms"].update(ansible_connection="local", mip_address="192.0.2.99")
    master = resolve("hosp", GROUPS, hostvars)["nodes"][0]
    assert (master["address"], master["ssh_host"]) == ("192.0.2.99", "")
