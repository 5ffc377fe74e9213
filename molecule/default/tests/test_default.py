# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a deploy has made of bare machines, seen on the machines themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml

LAB = "lab-molecule"
INVENTORY = Path(__file__).resolve().parents[3] / "inventories" / LAB
GROUPS = yaml.safe_load((INVENTORY / "hosts.yml").read_text())["all"]["children"]
ADDRESSES = {
    name: values["ansible_host"] for group in GROUPS.values() for name, values in group["hosts"].items() if "ansible_host" in values
}
MASTER, UI = f"{LAB}-ms", f"{LAB}-ui"
WORKERS = sorted(GROUPS["workers"]["hosts"])


def machine(name: str, user: str = "root") -> Any:
    """Return a testinfra host over SSH with the lab's key and pinned host key."""
    arguments = f"-o UserKnownHostsFile={INVENTORY / 'known_hosts'} -o StrictHostKeyChecking=yes -o BatchMode=yes"
    return testinfra.get_host(
        f"ssh://{user}@{ADDRESSES[name]}", ssh_identity_file=str(INVENTORY / "ssh/id_ed25519"), ssh_extra_args=arguments
    )


@pytest.mark.parametrize("name", sorted(ADDRESSES))
def test_every_node_has_an_engine_that_starts_at_boot(name: str) -> None:
    host = machine(name)
    assert host.package("docker.io").is_installed
    assert host.package("python3-docker").is_installed
    assert host.service("docker").is_running
    assert host.service("docker").is_enabled
    daemon = json.loads(host.file("/etc/docker/daemon.json").content_string)
    assert daemon["log-driver"] == "json-file"
    assert daemon["log-opts"] == {"max-size": "10m", "max-file": "3"}
    assert daemon["insecure-registries"]


@pytest.mark.parametrize("name", sorted(ADDRESSES))
def test_the_service_account_has_keys_and_no_password(name: str) -> None:
    host = machine(name)
    assert host.run("getent shadow mipadmin | cut -d: -f2").stdout.strip() == "*"
    assert host.file("/home/mipadmin/.ssh/authorized_keys").mode == 0o600
    rule = host.file("/etc/sudoers.d/mipadmin")
    assert (rule.user, rule.group, rule.mode) == ("root", "root", 0o440)
    account = machine(name, user="mipadmin")
    assert account.run("sudo -n id -u").stdout.strip() == "0"


@pytest.mark.parametrize("name", [MASTER, *WORKERS])
def test_the_data_folder_is_closed_to_others(name: str) -> None:
    folder = machine(name).file(f"/data/{LAB}")
    assert folder.is_directory
    assert (folder.user, folder.group, folder.mode) == ("mipadmin", "mipadmin", 0o750)


def test_one_swarm_with_exactly_these_nodes() -> None:
    nodes = machine(MASTER).check_output("docker node ls -q").split()
    labels = {
        machine(MASTER).check_output(f"docker node inspect -f '{{{{.Spec.Labels.name}}}} {{{{.Spec.Role}}}} {{{{.Status.State}}}}' {node}")
        for node in nodes
    }
    assert labels == {f"{MASTER} manager ready", *(f"{name} worker ready" for name in WORKERS)}
    assert machine(UI).check_output("docker info -f '{{.Swarm.LocalNodeState}}'") == "inactive"


def test_the_overlay_is_as_the_inventory_says() -> None:
    variables = yaml.safe_load((INVENTORY / "group_vars/all/main.yml").read_text())
    network = json.loads(machine(MASTER).check_output("docker network inspect mip-federation"))[0]
    assert network["Driver"] == "overlay"
    assert network["IPAM"]["Config"][0]["Subnet"] == "10.20.30.0/24"
    assert ("encrypted" in network["Options"]) == variables["mip_overlay"]["encrypted"]


def test_the_services_keep_the_contract_of_the_engine() -> None:
    host = machine(MASTER)
    names = sorted(host.check_output("docker service ls --format '{{.Name}}'").split())
    assert names == sorted([f"{MASTER}_exareme-keystore", f"{MASTER}_exareme-master", *(f"{name}_exareme" for name in WORKERS)])
    for name in names:
        spec = json.loads(host.check_output(f"docker service inspect {name}"))[0]["Spec"]
        container = spec["TaskTemplate"]["ContainerSpec"]
        assert "@sha256:" in container["Image"]
        assert spec["EndpointSpec"]["Mode"] == "dnsrr"
        assert spec["TaskTemplate"]["RestartPolicy"].get("MaxAttempts", 0) == 0
        published = [(port["PublishedPort"], port["PublishMode"]) for port in spec["EndpointSpec"].get("Ports", [])]
        assert published == ([(9090, "host")] if name.endswith("exareme-master") else [])


@pytest.mark.parametrize("name", WORKERS)
def test_a_hospital_publishes_nothing(name: str) -> None:
    host = machine(name)
    assert host.run("docker ps --format '{{.Ports}}' | grep -- '->'").stdout == ""
    assert not host.socket("tcp://0.0.0.0:9090").is_listening


def test_the_engine_knows_every_node_and_every_dataset() -> None:
    host = machine(UI)
    url = f"http://{ADDRESSES[MASTER]}:9090/mining/query"
    ask = "import sys, urllib.request as u; print(u.urlopen(u.Request(sys.argv[1], method='POST'), timeout=20).read().decode())"
    health = json.loads(host.check_output(f'python3 -c "{ask}" {url}/HEALTH_CHECK'))
    assert set(health["active_nodes"].split(", ")) == {MASTER, *WORKERS}
    datasets = json.loads(host.check_output(f'python3 -c "{ask}" {url}/LIST_DATASET'))
    for name in WORKERS:
        assert any(datasets[name].values())
