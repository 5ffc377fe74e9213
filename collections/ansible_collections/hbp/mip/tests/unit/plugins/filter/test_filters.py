# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine contract as services, and the members of the swarm."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.filter.engine_services import engine_services
from ansible_collections.hbp.mip.plugins.filter.image_registry import image_registry
from ansible_collections.hbp.mip.plugins.filter.statistics_variables import statistics_variables
from ansible_collections.hbp.mip.plugins.filter.swarm_members import swarm_members
from ansible_collections.hbp.mip.plugins.plugin_utils._federation import resolve


@pytest.fixture
def federation() -> dict[str, Any]:
    engine = {"image": "e:1", "keystore_image": "k:1", "memory_mb": 512, "environment": {"EXTRA": 1, "NODE_NAME": "mine"}}
    groups = {"master": ["ms"], "ui": ["ui"], "workers": ["a", "b"]}
    hostvars = {name: {"ansible_host": f"192.0.2.{n}", "mip_engine": engine} for n, name in enumerate(("ms", "ui", "a", "b"), 1)}
    return resolve("hosp", groups, hostvars)


def test_the_engine_contract(federation: dict[str, Any]) -> None:
    keystore, master, *workers = engine_services(federation, ["ms", "a"])
    assert [service["name"] for service in (keystore, master, *workers)] == [
        "ms_exareme-keystore",
        "ms_exareme-master",
        "a_exareme",
        "b_exareme",
    ]
    assert [service["wave"] for service in (keystore, master, *workers)] == [0, 1, 2, 2]
    assert keystore["networks"] == [{"name": "mip-federation", "aliases": ["exareme-keystore"]}]
    assert keystore["mounts"][0]["type"] == "volume"
    assert set(master["env"]) == {
        "CONSULURL",
        "NODE_NAME",
        "FEDERATION_ROLE",
        "ENVIRONMENT_TYPE",
        "CONVERT_CSVS",
        "LOG_LEVEL",
        "TEMP_FILES_CLEANUP_TIME",
        "NODE_COMMUNICATION_TIMEOUT",
        "EXTRA",
    }
    assert master["env"]["CONSULURL"] == "exareme-keystore:8500"
    assert workers[0]["env"]["FEDERATION_ROLE"] == "worker"
    assert workers[0]["mounts"] == [{"type": "bind", "source": "/data/hosp", "target": "/root/exareme/data"}]
    assert workers[0]["limits"] == {"memory_mb": 512}
    assert all(isinstance(value, str) for value in master["env"].values())


def test_only_the_master_publishes_and_only_one_port(federation: dict[str, Any]) -> None:
    services = engine_services(federation, [])
    assert [(service["name"], service["ports"]) for service in services if service.get("ports")] == [
        ("ms_exareme-master", [{"target": 9090, "published": 9090, "protocol": "tcp", "mode": "host"}])
    ]


def test_views_for_administrators_are_published_only_when_somebody_is_named(federation: dict[str, Any]) -> None:
    federation["expose"] = {
        "keystore": ["192.0.2.50/32"],
        "portainer": {"allow": ["192.0.2.50/32"], "image": "p:1", "port": 9000, "certificate": "/etc/ssl/c.pem", "key": "/etc/ssl/k.pem"},
    }
    services = {service["name"]: service for service in engine_services(federation, [])}
    assert services["ms_exareme-keystore"]["ports"][0]["published"] == 8500
    portainer = services["ms_portainer"]
    assert portainer["ports"] == [{"target": 9443, "published": 9000, "protocol": "tcp", "mode": "host"}]
    assert "--http-disabled" in portainer["args"]
    assert [mount["source"] for mount in portainer["mounts"] if mount.get("read_only")] == ["/etc/ssl/c.pem", "/etc/ssl/k.pem"]


def test_the_contract_wins_over_further_environment(federation: dict[str, Any]) -> None:
    assert engine_services(federation, [])[2]["env"]["NODE_NAME"] == "a"


def test_services_of_absent_nodes_are_not_waited_for(federation: dict[str, Any]) -> None:
    assert [service["wait"] for service in engine_services(federation, ["ms", "a"])] == [True, True, True, False]


def test_members_are_those_that_answered_and_have_an_id(federation: dict[str, Any]) -> None:
    hostvars: dict[str, Any] = {
        "ms": {"master_swarm": {"node_id": "m1"}},
        "ui": {},
        "a": {"worker_probe": {"node_id": ""}, "worker_join": {"node_id": "a1"}},
        "b": {"worker_probe": {"node_id": "b1"}, "worker_join": {"skipped": True}},
    }
    known = [
        {"name": "ms", "node_id": "m1", "role": "manager"},
        {"name": "a", "node_id": "a1", "role": "worker"},
        {"name": "b", "node_id": "b1", "role": "worker"},
    ]
    assert swarm_members(federation, hostvars, ["ms", "a", "b"]) == known
    hostvars["b"] = {"common_check": {"facts": {"swarm": {"node_id": "b1"}}}}
    assert swarm_members(federation, hostvars, ["ms", "a", "b"]) == known
    assert swarm_members(federation, hostvars, ["ms", "b"]) == [known[0], known[2]]


@pytest.mark.parametrize(
    ("variables", "chosen"),
    [
        ({}, []),
        ({"sex": "text"}, ["sex"]),
        ({"sex": "text", "age": "int"}, ["age"]),
        ({"age": "int", "volume": "real"}, ["volume"]),
        ({f"v{n}": "REAL" for n in range(20)}, ["v0", "v4", "v8", "v12", "v16"]),
    ],
)
def test_statistics_are_asked_of_variables_from_all_over_the_list(variables: dict[str, str], chosen: list[str]) -> None:
    assert statistics_variables(variables) == chosen


@pytest.mark.parametrize(
    ("image", "mirrors", "registry"),
    [
        ("hbpmip/exareme:24.5.1", [], "docker.io"),
        ("hbpmip/exareme:24.5.1", ["https://mirror.example.org"], ""),
        ("exareme:24.5.1", [], "docker.io"),
        ("registry.example.org/hbpmip/exareme:1", ["https://mirror.example.org"], "registry.example.org"),
        ("10.77.1.1:5000/exareme-standin:1.0", [], "10.77.1.1:5000"),
        ("localhost/exareme:1", [], "localhost"),
    ],
)
def test_the_registry_of_an_image(image: str, mirrors: list[str], registry: str) -> None:
    assert image_registry({"engine": {"image": image}, "docker": {"registry_mirrors": mirrors}}) == registry
