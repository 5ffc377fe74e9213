# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the legacy playbooks leave in a swarm, and what is only like it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _legacy
from ansible_collections.hbp.mip.plugins.plugin_utils._adopt_reports import adopt

OURS = "eu.humanbrainproject.mip.federation"
FEDERATION: dict[str, Any] = {
    "name": "fed",
    "overlay": {"name": "mip-federation", "encrypted": True, "subnet": "10.20.30.0/24", "mtu": 0},
    "nodes": [
        {"name": "ms", "kind": "master", "address": "192.0.2.1"},
        {"name": "ui", "kind": "ui", "address": "192.0.2.2"},
        {"name": "wk", "kind": "worker", "address": "192.0.2.11"},
    ],
}
DATA = [{"type": "bind", "source": "/data/fed", "target": "/root/exareme/data"}]
WANTED: list[dict[str, Any]] = [
    {
        "name": "ms_exareme-keystore",
        "node": "ms",
        "image": "keystore:1",
        "env": {"CONSUL_BIND_INTERFACE": "lo"},
        "mounts": [{"type": "volume", "source": "fed_keystore", "target": "/consul/data"}],
    },
    {"name": "ms_exareme-master", "node": "ms", "image": "engine:1", "env": {"NODE_NAME": "ms"}, "mounts": DATA},
    {"name": "wk_exareme", "node": "wk", "image": "engine:1", "env": {"NODE_NAME": "wk"}, "mounts": DATA},
]


def service(name: str, image: str, env: str, **more: Any) -> dict[str, Any]:
    """Return a service as `docker stack deploy` makes it of the legacy files."""
    stack = name.split("_")[0]
    mounts = [] if "keystore" in name else [{"Type": "bind", "Source": "/data/fed/", "Target": "/root/exareme/data/"}]
    spec = {
        "Name": name,
        "Labels": {"com.docker.stack.namespace": stack, "com.docker.stack.image": image},
        "TaskTemplate": {
            "ContainerSpec": {"Image": image + "@sha256:" + "a" * 64, "Env": [env], "Mounts": mounts},
            "Placement": {"Constraints": ["node.role == manager", f"node.labels.name == {stack}"]},
            "Networks": [{"Target": "n1", "Aliases": [name.split("_")[-1]]}],
        },
        "Mode": {"Replicated": {"Replicas": 1}},
        "EndpointSpec": {"Mode": "vip"},
    }
    spec.update(more)
    return {"ID": name, "Spec": spec}


def legacy() -> _legacy.Swarm:
    """Return the swarm that the legacy playbooks leave."""
    services = [
        service("ms_exareme-keystore", "keystore:1", "CONSUL_BIND_INTERFACE=lo"),
        service("ms_exareme-master", "engine:1", "NODE_NAME=ms"),
        service("wk_exareme", "engine:1", "NODE_NAME=wk"),
    ]
    network = {
        "Id": "n1",
        "Name": "mip-federation",
        "Driver": "overlay",
        "Attachable": False,
        "Options": {"encrypted": "", "com.docker.network.driver.overlay.vxlanid_list": "4097"},
        "IPAM": {"Config": [{"Subnet": "10.20.30.0/24", "IPRange": "10.20.30.0/24", "Gateway": "10.20.30.254"}]},
    }
    nodes = [
        {"ID": "1", "Spec": {"Labels": {"name": "ms"}}, "Status": {"Addr": "0.0.0.0"}, "ManagerStatus": {"Addr": "192.0.2.1:2377"}},
        {"ID": "2", "Spec": {"Labels": {"name": "wk"}}, "Status": {"Addr": "192.0.2.11"}},
    ]
    return _legacy.Swarm(services, [network], nodes)


def codes(entries: list[dict[str, str]]) -> list[str]:
    """Return the codes of what is told."""
    return sorted(entry["code"] for entry in entries)


def test_what_the_playbooks_leave_is_taken_over() -> None:
    found = _legacy.judge(legacy(), FEDERATION, WANTED)
    assert found["adopt"] == ["ms_exareme-keystore", "ms_exareme-master", "wk_exareme"] and not found["problems"]
    assert codes(found["notices"]) == ["legacy-keystore", "legacy-pusher"]


def test_what_was_taken_over_and_what_is_somebody_elses_is_left_alone() -> None:
    swarm = legacy()
    for entry in swarm.services:
        entry["Spec"]["Labels"] = {OURS: "fed"}
    swarm.services.append(service("other_web", "nginx", "A=1"))
    swarm.services.append(service("mip-portainer", "portainer/portainer", "A=1"))
    found = _legacy.judge(swarm, FEDERATION, WANTED)
    assert not found["adopt"] and not found["problems"] and codes(found["notices"]) == ["legacy-portainer"]
    states = {entry["name"]: entry["state"] for entry in found["services"]}
    assert states.pop("other_web") == states.pop("mip-portainer") == "foreign" and set(states.values()) == {"ours"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda spec: spec["Labels"].update({OURS: "other"}), "it belongs to the federation other"),
        (lambda spec: spec["Labels"].pop("com.docker.stack.namespace"), "it is not of the stack wk"),
        (lambda spec: spec["TaskTemplate"].update(Placement={}), "it is not pinned to the node wk"),
        (lambda spec: spec["TaskTemplate"].update(Networks=[{"Target": "n2"}]), "it is not on the federation's network"),
        (lambda spec: spec.update(Mode={"Global": {}}), "it is not a replicated service"),
    ],
)
def test_a_service_that_only_has_the_name_stops_it(change: Any, words: str) -> None:
    swarm = legacy()
    change(swarm.services[2]["Spec"])
    found = _legacy.judge(swarm, FEDERATION, WANTED)
    assert codes(found["problems"]) == ["legacy-service"] and words in found["problems"][0]["message"]


def test_data_elsewhere_stop_it() -> None:
    swarm = legacy()
    swarm.services[2]["Spec"]["TaskTemplate"]["ContainerSpec"]["Mounts"][0]["Source"] = "/srv/fed"
    found = _legacy.judge(swarm, FEDERATION, WANTED)
    assert codes(found["problems"]) == ["legacy-data"] and "/srv/fed" in found["problems"][0]["message"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda network: network["Options"].clear(), "encrypted is false"),
        (lambda network: network["IPAM"]["Config"][0].update(Subnet="10.9.0.0/24"), "subnet is 10.9.0.0/24"),
        (lambda network: network.update(Attachable=True), "attachable is true"),
        (lambda network: network.update(Name="other"), "and their network mip-federation is not"),
    ],
)
def test_a_network_that_cannot_be_kept_stops_it(change: Any, words: str) -> None:
    swarm = legacy()
    change(swarm.networks[0])
    found = _legacy.judge(swarm, FEDERATION, WANTED)
    assert "legacy-network" in codes(found["problems"])
    entry = next(entry for entry in found["problems"] if entry["code"] == "legacy-network")
    assert words in entry["message"] and entry["fix"]


def test_an_mtu_that_the_inventory_does_not_name_is_kept() -> None:
    swarm, federation = legacy(), copy.deepcopy(FEDERATION)
    swarm.networks[0]["Options"]["com.docker.network.driver.mtu"] = "1400"
    assert not _legacy.judge(swarm, federation, WANTED)["problems"]
    federation["overlay"]["mtu"] = 1450
    assert "mtu is 1400, and 1450 is wanted" in _legacy.judge(swarm, federation, WANTED)["problems"][0]["message"]


def test_another_name_in_the_swarm_stops_it_and_an_unknown_hospital_is_told() -> None:
    swarm = legacy()
    swarm.nodes[1]["Spec"]["Labels"]["name"] = "hospital"
    swarm.services[2] = service("hospital_exareme", "engine:1", "NODE_NAME=hospital")
    found = _legacy.judge(swarm, FEDERATION, WANTED)
    assert codes(found["problems"]) == ["legacy-name"] and "--name 192.0.2.11=hospital" in found["problems"][0]["fix"]
    swarm.nodes[1]["Status"]["Addr"] = "192.0.2.77"
    found = _legacy.judge(swarm, FEDERATION, WANTED)
    assert not found["problems"] and "legacy-unknown" in codes(found["notices"])


def test_other_images_settings_and_ports_are_told_before() -> None:
    swarm = legacy()
    swarm.services[0]["Spec"]["EndpointSpec"]["Ports"] = [{"TargetPort": 8500}]
    swarm.services[0]["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] = "bitnami/consul:1.8.3"
    swarm.services[1]["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"].append("EXTRA=1")
    found = _legacy.judge(swarm, FEDERATION, WANTED)
    assert not found["problems"]
    assert {"legacy-image", "legacy-keystore-port", "legacy-environment"} < set(codes(found["notices"]))


@pytest.mark.parametrize(
    ("health", "without", "problems", "notices"),
    [
        ({"ok": True, "nodes": ["ms", "wk"]}, False, [], []),
        ({"ok": False, "nodes": ["ms"]}, False, [], ["legacy-inactive"]),
        ({"ok": False, "msg": "refused"}, False, ["legacy-api"], []),
        ({"ok": False, "msg": "refused"}, True, [], ["legacy-api"]),
    ],
)
def test_report(health: dict[str, Any], without: bool, problems: list[str], notices: list[str]) -> None:
    found = {"swarm": True, **_legacy.judge(legacy(), FEDERATION, WANTED), "notices": []}
    report = adopt(FEDERATION, {"found": found, "health": health, "without_api": without, "sdk": True})
    assert codes(report["problems"]) == problems and codes(report["notices"]) == notices
    assert report["ok"] is (not problems)


def test_report_without_anything_to_take_over() -> None:
    found = {"swarm": False, "services": [], "adopt": [], "notices": [], "problems": []}
    report = adopt(FEDERATION, {"found": found, "health": {"skipped": True}, "without_api": False, "sdk": False})
    assert report["ok"] and codes(report["notices"]) == ["legacy-none"]
