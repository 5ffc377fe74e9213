# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A federation as the legacy script and playbooks leave it, imported and taken over while it runs."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import INVENTORY, LAB, ROOT, Lab

pytestmark = [
    pytest.mark.in_order,
    # The machines must never have been deployed to: no other test's lab will do.
    pytest.mark.skipif(LAB != "lab-legacy", reason="needs machines of its own: MIP_TEST_LAB=lab-legacy"),
]

#: The federation that the imported inventory describes; the machines are the lab's.
NAME = f"{LAB}-taken"
TAKEN = ROOT / "inventories" / NAME
PASSWORD = "legacy: #'\"{{ x }} canary-4711"
VAULT_PASSWORD = "canary-vault"

# As the playbooks' own files, but for endpoint_mode: not every kernel that labs run on can balance (IPVS), and the keystore is the one
# service that is asked for by its name.
MASTER = """\
version: '3.2'
networks:
  mip-federation:
    external: true
services:
  exareme-keystore:
    image: KEYSTORE
    environment:
      - CONSUL_BIND_INTERFACE=lo
    networks:
      - mip-federation
    deploy:
      endpoint_mode: dnsrr
      placement:
        constraints:
          - node.role == manager
          - node.labels.name == ${FEDERATION_NODE}
  exareme-master:
    image: ${EXAREME_IMAGE}
    environment:
      - CONSULURL=${EXAREME_KEYSTORE}
      - FEDERATION_ROLE=master
      - NODE_NAME=${FEDERATION_NODE}
      - TEMP_FILES_CLEANUP_TIME=30
      - NODE_COMMUNICATION_TIMEOUT=30000
      - ENVIRONMENT_TYPE=PROD
      - LOG_LEVEL=INFO
      - CONVERT_CSVS=FALSE
    depends_on:
      - exareme-keystore
    networks:
      - mip-federation
    ports:
      - {target: 9090, published: 9090, protocol: tcp, mode: host}
    volumes:
      - ${LOCAL_DATA_FOLDER}:${DOCKER_DATA_FOLDER}
    deploy:
      placement:
        constraints:
          - node.role == manager
          - node.labels.name == ${FEDERATION_NODE}
"""
WORKER = """\
version: '3'
networks:
  mip-federation:
    external: true
services:
  exareme:
    image: ${EXAREME_IMAGE}
    environment:
      - CONSULURL=${EXAREME_KEYSTORE}
      - FEDERATION_ROLE=worker
      - NODE_NAME=${FEDERATION_NODE}
      - TEMP_FILES_CLEANUP_TIME=30
      - NODE_COMMUNICATION_TIMEOUT=30000
      - ENVIRONMENT_TYPE=PROD
      - LOG_LEVEL=INFO
      - CONVERT_CSVS=FALSE
    networks:
      - mip-federation
    volumes:
      - ${LOCAL_DATA_FOLDER}:${DOCKER_DATA_FOLDER}
    deploy:
      placement:
        constraints:
          - node.role == worker
          - node.labels.name == ${FEDERATION_NODE}
"""


class Asker(threading.Thread):
    """Asks the API all the time, as a portal does, and remembers what came of it."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(daemon=True)
        self.lab = lab
        self.ended = threading.Event()
        #: When, which nodes were active, and which datasets were offered; nothing of both when it did not answer.
        self.answers: list[tuple[float, frozenset[str], int]] = []

    def run(self) -> None:
        """Ask until it is ended."""
        while not self.ended.wait(0.3):
            nodes: frozenset[str] = frozenset()
            datasets = 0
            with contextlib.suppress(Exception):
                nodes = frozenset(self.lab.active_nodes())
                datasets = sum(len(codes) for held in self.lab.api("LIST_DATASET").values() for codes in held.values())
            self.answers.append((time.time(), nodes, datasets))

    def silent(self) -> list[float]:
        """Return how long it did not answer, each time, in seconds."""
        gaps, since = [], 0.0
        for when, nodes, _datasets in self.answers:
            if not nodes and not since:
                since = when
            elif nodes and since:
                gaps.append(when - since)
                since = 0.0
        return gaps + ([self.answers[-1][0] - since] if since else [])


@contextlib.contextmanager
def asked(lab: Lab) -> Iterator[Asker]:
    """Ask the API as long as the block runs."""
    asker = Asker(lab)
    asker.start()
    try:
        yield asker
    finally:
        asker.ended.set()
        asker.join()


class Legacy(Lab):
    """The lab's machines with the swarm of the legacy playbooks, and mipfed on the imported inventory."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.__dict__.update(lab.__dict__)
        self.folder = folder
        self.settings: dict[str, Any] = yaml.safe_load((INVENTORY / "group_vars/all/main.yml").read_text())
        (folder / "vault-password").write_text(VAULT_PASSWORD)
        self.environment = {**lab.environment, "MIPFED_VAULT_PASSWORD_FILE": str(folder / "vault-password")}

    def start(self, *arguments: str, **options: Any) -> Any:
        """Start mipfed; it works on the imported federation unless the arguments say otherwise."""
        chosen = arguments if arguments[0] == "import-legacy" else ("-f", NAME, *arguments)
        return super().start(*chosen, **options)

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        """The services of the swarm by name, as the engine's API has them."""
        ids = self.ssh(self.master, "docker service ls -q").split()
        return {
            service["Spec"]["Name"]: service for service in json.loads(self.ssh(self.master, f"docker service inspect {' '.join(ids)}"))
        }

    def specs(self) -> dict[str, Any]:
        """The specifications alone."""
        return {name: service["Spec"] for name, service in self.services.items()}

    def set_up(self) -> None:
        """Do what the legacy script and its playbooks do, with the commands that they use."""
        registry = self.settings["mip_docker"]["insecure_registries"]
        daemon = json.dumps({"mtu": 1450, "insecure-registries": registry})
        config = "/etc/ssh/sshd_config.d/00-legacy.conf"
        for name in self.hosts:
            self.ssh(name, "command -v dockerd >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -q docker.io", check=True)
            self.ssh(name, f"mkdir -p /etc/docker && printf %s {shlex.quote(daemon)} >/etc/docker/daemon.json && systemctl restart docker")
            self.ssh(name, "useradd -m -s /bin/bash -G sudo,docker mipadmin")
            self.ssh(name, "chpasswd", content=f"mipadmin:{PASSWORD}\n")
            self.ssh(name, f"printf 'PasswordAuthentication yes\\nKbdInteractiveAuthentication no\\n' >{config}; systemctl reload ssh")
        master, workers = self.master, self.workers
        self.ssh(master, f"docker swarm init --advertise-addr={self.hosts[master]}")
        encrypted = "--opt encrypted" if self.settings["mip_overlay"]["encrypted"] else ""
        subnet = "--subnet=10.20.30.0/24 --ip-range=10.20.30.0/24 --gateway=10.20.30.254"
        self.ssh(master, f"docker network create --driver=overlay {encrypted} {subnet} mip-federation")
        self.ssh(master, f"docker node update --label-add name={master} {master}")
        token = self.ssh(master, "docker swarm join-token -q worker")
        for worker in workers:
            self.ssh(worker, f"docker swarm leave --force; docker swarm join --token {token} {self.hosts[master]}:2377")
            self.ssh(master, f"docker node update --label-add name={worker} {worker}")
        self.ssh(master, "mkdir -p /opt/mip/Compose-Files")
        keystore = self.settings["mip_engine"]["keystore_image"]
        for name, text in (("master", MASTER.replace("image: KEYSTORE", "image: " + keystore)), ("worker", WORKER)):
            self.ssh(master, f"cat >/opt/mip/Compose-Files/docker-compose-{name}.yml", content=text)
        for node in (master, *workers):
            role = "master" if node == master else "worker"
            environment = {
                "FEDERATION_NODE": node, "FEDERATION_ROLE": role, "EXAREME_IMAGE": self.settings["mip_engine"]["image"],
                "EXAREME_KEYSTORE": "exareme-keystore:8500",
                "DOCKER_DATA_FOLDER": "/root/exareme/data/", "LOCAL_DATA_FOLDER": f"/data/{LAB}/",
            }  # fmt: skip
            words = " ".join(f"{key}={shlex.quote(value)}" for key, value in environment.items())
            self.ssh(master, f"{words} docker stack deploy -c /opt/mip/Compose-Files/docker-compose-{role}.yml {node}")
        # What is not the federation's: a service of the same swarm, and a container of a hospital.
        self.ssh(master, f"docker service create -d --name somebody --constraint node.hostname=={workers[0]} {keystore}")
        self.ssh(workers[1], f"docker run -d --name hospital --restart unless-stopped {keystore}")

    def pusher(self) -> Path:
        """Write the files that the script has on its pusher, the vault encrypted."""
        ansible = self.folder / "exareme/Federated-Deployment/docker-swarm/Docker-Ansible"
        (ansible / "group_vars").mkdir(parents=True)
        names = {self.master: "master"} | {name: "worker" + self.hosts[name].replace(".", "_") for name in self.workers}
        lines, secrets, order = ["[master]"], "", [self.master, f"{LAB}-ui", *self.workers]
        for name, host in names.items():
            if host != "master":
                lines += [f"[{host}]"]
            lines += [f"{host} ansible_host={self.hosts[name]}"]
            lines += [
                f"{host} home_path=/opt/mip/" if host == "master" else f"{host} hostname={name}",
                f"{host} data_path=/data/{LAB}/",
                "",
            ]
            for key in ("remote_user", "become_user", "ansible_become_pass", "ansible_ssh_pass"):
                variable = f"{host}_{key.removeprefix('ansible_')}"
                lines.append(f'{host} {key}="{{{{{variable}}}}}"')
                value = {"remote_user": "mipadmin", "become_user": "root"}.get(key, PASSWORD)
                secrets += f"{variable}: {json.dumps(value)}\n"
            if host == "master":
                lines += ["", "[workers]", *(other for other in names.values() if other != "master"), ""]
        (ansible / "hosts.ini").write_text("\n".join(lines) + "\n")
        from mipfed import vault_files

        (ansible / "vault.yaml").write_text(vault_files.encrypted(secrets, VAULT_PASSWORD))
        image, _colon, tag = str(self.settings["mip_engine"]["image"]).rpartition(":")
        (ansible / "group_vars/exareme.yaml").write_text(f'EXAREME_IMAGE: "{image}"\nEXAREME_TAG: "{tag}"\n')
        (ansible.parent / "Compose-Files").mkdir()
        stack = MASTER.replace("image: KEYSTORE", "image: " + self.settings["mip_engine"]["keystore_image"])
        (ansible.parent / "Compose-Files/docker-compose-master.yml").write_text(stack)
        (self.folder / "exareme/.ssh").mkdir()
        stanzas = [f"Host {name}\n  Hostname {self.hosts[name]}\n  User mipadmin\n  IdentityFile /none/id_rsa\n\n" for name in order]
        (self.folder / "exareme/.ssh/config").write_text("".join(stanzas))
        (self.folder / "exareme/.mipenv").write_text(f"MIP_TYPE=fed\nNODE_TYPE=ui\nMIP_LINK=direct\nEXAREME_IP={self.hosts[self.master]}\n")
        return self.folder / "exareme"

    def change(self, **changes: Any) -> None:
        """Change variables of the imported inventory; dictionaries are merged."""
        path = TAKEN / "group_vars/all/main.yml"
        values = yaml.safe_load(path.read_text())
        for key, change in changes.items():
            values[key] = {**(values.get(key) or {}), **change} if isinstance(change, dict) else change
        path.write_text(yaml.safe_dump(values))

    def kept_keys(self) -> set[str]:
        """The keys in the keystore."""
        python = (
            "import os,sys,json,subprocess as s;"
            f"i=s.run(['docker','ps','-q','--filter','label=com.docker.swarm.service.name={self.master}_exareme-keystore'],"
            "capture_output=True,text=True).stdout.split()[0];"
            "p=s.run(['docker','inspect','-f','{{.State.Pid}}',i],capture_output=True,text=True).stdout.strip();"
            "print(s.run(['nsenter','-t',p,'-n','python3','-c',"
            "'import urllib.request as u;print(u.urlopen(\"http://127.0.0.1:8500/v1/kv/?keys\").read().decode())'],"
            "capture_output=True,text=True).stdout)"
        )
        return set(json.loads(self.ssh(self.master, f"python3 -c {shlex.quote(python)}")))


@pytest.fixture(scope="module")
def legacy(machines: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Legacy]:
    """The machines as the legacy script leaves them."""
    shutil.rmtree(TAKEN, ignore_errors=True)
    made = Legacy(machines, tmp_path_factory.mktemp("pusher"))
    if made.ssh(made.master, "docker info -f '{{.Swarm.LocalNodeState}}'", check=False) != "active":
        made.set_up()
    yield made
    shutil.rmtree(TAKEN, ignore_errors=True)


def test_the_inventory_is_made_of_the_pushers_files(legacy: Legacy) -> None:
    assert legacy.all_active()
    done = legacy.run("import-legacy", NAME, "--from", str(legacy.pusher()))
    assert "canary" not in done.stdout + done.stderr and "worker " + legacy.workers[0] in done.stdout
    assert not [path for path in TAKEN.rglob("*") if path.is_file() and b"canary" in path.read_bytes()]
    # What makes it a lab no file of the pusher can tell.
    settings = {key: legacy.settings[key] for key in ("mip_lab", "mip_overlay", "mip_docker", "mip_firewall")}
    legacy.change(**settings, mip_engine={"keystore_image": legacy.settings["mip_engine"]["keystore_image"]})
    # Of the ui node the playbooks know no password. import-legacy says so, and shows the key.
    public = (TAKEN / "ssh/id_ed25519.pub").read_text()
    assert f"No password is known for {LAB}-ui." in done.stdout and public.strip() in done.stdout
    home = "/home/mipadmin/.ssh"
    legacy.ssh(f"{LAB}-ui", f"install -d -m 700 -o mipadmin {home} && cat >>{home}/authorized_keys", content=public)
    legacy.ssh(f"{LAB}-ui", f"chown mipadmin {home}/authorized_keys; echo 'mipadmin ALL=(ALL:ALL) NOPASSWD: ALL' >/etc/sudoers.d/legacy")
    legacy.run("trust", "-y")
    with asked(legacy) as asker:
        # The first contact is made with the passwords of the vault, and puts the new key in place.
        first = legacy.run("check")
    assert "canary" not in first.stdout + first.stderr
    assert not asker.silent()
    for name in legacy.hosts:
        legacy.ssh(name, "rm /etc/ssh/sshd_config.d/00-legacy.conf; systemctl reload ssh")
    legacy.run("check")


def test_what_cannot_be_kept_is_told_before_anything_is_touched(legacy: Legacy) -> None:
    before = legacy.specs()
    kept = (TAKEN / "group_vars/all/main.yml").read_text()
    legacy.change(mip_overlay={"subnet": "10.20.31.0/24"})
    try:
        done = legacy.run("adopt", "-y", code=4)
    finally:
        (TAKEN / "group_vars/all/main.yml").write_text(kept)
    assert "legacy-network" in done.stdout + done.stderr and "subnet is 10.20.30.0/24" in done.stdout + done.stderr
    assert legacy.specs() == before
    # Without adopt nothing is taken over, whatever its name.
    legacy.run("deploy", "-y", "--check", code=None)
    assert legacy.specs() == before


def test_the_plan_changes_nothing(legacy: Legacy) -> None:
    before, disk = legacy.specs(), legacy.ssh(legacy.master, "cat /etc/docker/daemon.json")
    with asked(legacy) as asker:
        document = legacy.json("adopt", "--check")
    report = document["result"]["legacy"]
    assert {entry["name"] for entry in report["services"] if entry["state"] == "adopt"} == {
        f"{legacy.master}_exareme-keystore", f"{legacy.master}_exareme-master", *(f"{name}_exareme" for name in legacy.workers),
    }  # fmt: skip
    assert [entry["name"] for entry in report["services"] if entry["state"] == "foreign"] == ["somebody"]
    assert {"legacy-keystore", "legacy-pusher"} <= {notice["code"] for notice in report["notices"]}
    assert document["result"]["changes"] and not asker.silent()
    assert legacy.specs() == before and legacy.ssh(legacy.master, "cat /etc/docker/daemon.json") == disk


def test_a_step_that_fails_goes_back_and_the_federation_goes_on(legacy: Legacy) -> None:
    before = legacy.specs()
    kept = (TAKEN / "group_vars/all/main.yml").read_text()
    legacy.change(mip_engine={"environment": {"STANDIN_CRASH": "made to fail"}})
    try:
        with asked(legacy) as asker:
            done = legacy.run("adopt", "-y", code=5)
    finally:
        (TAKEN / "group_vars/all/main.yml").write_text(kept)
    assert "Went back to the previous specification" in done.stdout + done.stderr and "made to fail" in done.stdout + done.stderr
    assert legacy.specs() == before
    # The master was not touched, and nor was the second hospital. (While a container ends, the engine calls the whole federation silent.)
    answered = [nodes for _when, nodes, _datasets in asker.answers if nodes]
    assert answered and all({legacy.master, legacy.workers[1]} <= nodes for nodes in answered)
    assert legacy.all_active()


def test_it_is_taken_over_while_it_answers(legacy: Legacy) -> None:
    before, keys = legacy.services, legacy.kept_keys()
    datasets = legacy.api("LIST_DATASET")
    container = "docker inspect -f '{{.Id}} {{.State.Running}}' hospital"
    hospital = legacy.ssh(legacy.workers[1], container)
    with asked(legacy) as asker:
        done = legacy.run("adopt", "-y")
    print(f"asked {len(asker.answers)} times; silent for {[round(gap, 1) for gap in asker.silent()]} s")
    assert "canary" not in done.stdout + done.stderr
    assert legacy.all_active() and legacy.api("LIST_DATASET") == datasets
    assert keys <= legacy.kept_keys()
    after = legacy.services
    mine = {name for name in before if name != "somebody"}
    label = "eu.humanbrainproject.mip.federation"
    assert {name for name in after if after[name]["Spec"]["Labels"].get(label) == LAB} == mine
    # The same services, not others of their names.
    assert {name: after[name]["ID"] for name in after} == {name: before[name]["ID"] for name in before}
    assert after["somebody"]["Spec"] == before["somebody"]["Spec"] and legacy.ssh(legacy.workers[1], container) == hospital
    # It answers but while the master's own engine, the keystore or the master's Docker are replaced.
    answered = [nodes for _when, nodes, _datasets in asker.answers if nodes]
    assert len(answered) > len(asker.answers) / 2
    assert all(legacy.master in nodes for nodes in answered)


def test_a_second_run_changes_nothing_and_the_federation_works(legacy: Legacy) -> None:
    before = legacy.services
    again = legacy.json("adopt", "-y")
    assert not again["result"]["changes"], again["result"]["changes"]
    planned = legacy.json("plan", "--detailed-exitcode")
    assert not planned["result"]["changes"]
    assert legacy.services == before
    legacy.run("verify")
    legacy.run("status")
