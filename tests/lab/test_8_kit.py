# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A hospital that gives no access joins by itself with a site kit, pauses, comes back, and leaves.

Each test goes on from what the one before it has left; after a failure the others are skipped.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import INVENTORY, LAB, Lab, lab_command

pytestmark = pytest.mark.in_order

#: The other files' tests use three hospitals at most, so that nobody was on this machine.
HOSPITAL = f"{LAB}-wk-4"
KIT = "/root/mip-site.py"
#: What a dry run and a wrong passphrase must leave as it is.
LOOK = "find /etc /usr/local /var/lib/mip /data -xdev ! -path '*/resolv.conf' -printf '%p %T@ %s\\n' 2>/dev/null | sort | sha256sum"


def until(true: Callable[[], Any], seconds: float = 300) -> bool:
    """Does something become true in time?"""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


class Hospital:
    """The machine of a hospital; its administrator is there, and the centre's key is not."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.address = lab.hosts[HOSPITAL]
        self.key = folder / "administrator"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        public = self.key.with_suffix(".pub").read_text()
        # From here on nothing that the centre has opens this machine.
        lab.ssh(HOSPITAL, "cat > /root/.ssh/authorized_keys", content=public)
        self.passphrase = self.code = self.token = ""

    def run(self, command: str, content: str | None = None, code: int | None = 0) -> str:
        """What the administrator does on the machine; returns all that is printed."""
        options = [
            "-i",
            str(self.key),
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            f"UserKnownHostsFile={INVENTORY / 'known_hosts'}",
            "-o",
            "BatchMode=yes",
        ]
        done = subprocess.run(
            ["ssh", *options, f"root@{self.address}", command], capture_output=True, text=True, check=False, timeout=300, input=content
        )
        said = done.stdout + done.stderr
        assert code is None or done.returncode == code, f"{command}: {done.returncode}\n{said}"
        return said

    def kit(self, *arguments: str, code: int = 0) -> str:
        """Run the kit as its head says."""
        return self.run(f"python3 {KIT} --passphrase-file /root/passphrase {' '.join(arguments)}", code=code)

    def status(self) -> dict[str, Any]:
        """What the hospital's own command says."""
        found: dict[str, Any] = json.loads(self.run("mip-site status --json", code=None))
        return found

    def seen(self) -> str:
        """How the master sees this machine: nothing, or its availability and state."""
        listed = self.lab.ssh(self.lab.master, "docker node ls --format '{{.Hostname}} {{.Status}}'").splitlines()
        return next((line.partition(" ")[2] for line in listed if line.startswith(HOSPITAL + " ")), "")


@pytest.fixture(scope="module")
def hospital(machines: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """A deployed federation of two hospitals, and a machine that is in no inventory and was never touched by a deploy."""
    lab_command("up", "--workers", "4")
    machines.read_hosts()
    machines.variables(mip_firewall={"engine_allow": [machines.hosts[machines.master].rpartition(".")[0] + ".1"]})
    known = dict(machines.hosts)
    path = INVENTORY / "hosts.yml"
    hosts = yaml.safe_load(path.read_text())
    workers = hosts["all"]["children"]["workers"]["hosts"]
    for name in (f"{LAB}-wk-3", HOSPITAL):
        del workers[name]
    path.write_text(yaml.safe_dump(hosts, sort_keys=False))
    machines.read_hosts()
    machines.run("deploy", "-y")
    assert machines.all_active()
    machines.hosts = known
    found = Hospital(machines, tmp_path_factory.mktemp("hospital"))
    assert "Permission denied" in subprocess.run(
        ["ssh", "-i", str(INVENTORY / "ssh/id_ed25519"), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
         "-o", f"UserKnownHostsFile={INVENTORY / 'known_hosts'}", f"root@{found.address}", "true"],
        capture_output=True, text=True, check=False,
    ).stderr  # fmt: skip
    yield found


def invited() -> Any:
    """What the inventory says of the hospital."""
    return yaml.safe_load((INVENTORY / "hosts.yml").read_text())["all"]["children"]["workers"]["hosts"].get(HOSPITAL)


def test_a_kit_is_made_and_the_members_let_the_address_in(hospital: Hospital, tmp_path: Path) -> None:
    path = tmp_path / "kit.py"
    made = hospital.lab.json("kit", "create", HOSPITAL, "--address", hospital.address, "--to", str(path), "-y")["result"]
    assert invited() == {"mip_address": hospital.address, "mip_site_kit": "invited"}
    assert path.stat().st_mode & 0o777 == 0o600
    for node in (hospital.lab.master, *hospital.lab.workers):
        assert hospital.address in hospital.lab.ssh(node, f"nft list set inet mip_{LAB.replace('-', '_')} peers")
    assert hospital.lab.ssh(hospital.lab.master, f"docker service ls -q --filter name={HOSPITAL}_") == ""
    hospital.token = hospital.lab.ssh(hospital.lab.master, "docker swarm join-token -q worker")
    secrets = {hospital.token.rpartition("-")[2], made["passphrase"]}
    files = [
        path,
        *(file for file in hospital.lab.state_home.rglob("*") if file.is_file()),
        *(f for f in INVENTORY.rglob("*") if f.is_file()),
    ]
    for file in files:
        assert not [secret for secret in secrets if secret.encode() in file.read_bytes()], file
    hospital.passphrase = made["passphrase"]
    hospital.run(f"cat > {KIT}", content=path.read_text())
    hospital.run("umask 077; cat > /root/passphrase", content=made["passphrase"])
    signature = hospital.run(
        f"cd /root; grep -v '^#G ' {KIT} > a; grep '^#G ' {KIT} | cut -c4- > b; ssh-keygen -Y check-novalidate -n mip-site-kit -s b < a"
    )
    assert made["signer"] in signature
    listed = hospital.lab.json("kit", "ls")["result"]["kits"]
    assert [(kit["node"], kit["state"]) for kit in listed] == [(HOSPITAL, "open")]


def test_looking_changes_nothing(hospital: Hospital) -> None:
    before = hospital.run(LOOK)
    said = hospital.kit("--dry-run")
    assert "join the swarm" in said
    assert "Nothing was changed" in said
    hospital.run("echo aaaa-bbbb-cccc-dddd-eeee > /root/wrong")
    assert "passphrase is wrong" in hospital.run(f"python3 {KIT} --passphrase-file /root/wrong --yes", code=1)
    hospital.run(f"sed 's/^#L U/#L V/' {KIT} > /root/changed.py")
    assert "Do not use it" in hospital.run("python3 /root/changed.py --passphrase-file /root/passphrase --yes", code=1)
    assert "no terminal" in hospital.kit(code=1)
    assert hospital.run(LOOK) == before
    assert hospital.seen() == ""


def test_the_hospital_joins_by_itself(hospital: Hospital) -> None:
    said = hospital.kit("--yes")
    found = re.search(r"telephone:\s+([0-9A-Z]{5}-[0-9A-Z]{5})", said)
    assert found, said
    hospital.code = found[1]
    assert hospital.token not in said
    again = hospital.kit("--yes")
    assert "nothing to do" in again
    assert hospital.code in again
    assert hospital.seen() == "Ready"
    assert hospital.status()["swarm"] == "active"


def test_a_node_that_nobody_accepted_is_an_alarm_and_a_wrong_code_accepts_nobody(hospital: Hospital) -> None:
    problems = hospital.lab.json("status", code=4)["errors"]
    assert [(problem["host"], problem["code"]) for problem in problems] == [(HOSPITAL, "kit-waiting")]
    kits = hospital.lab.json("kit", "ls", code=4)["result"]
    assert [kit["state"] for kit in kits["kits"]] == ["waiting"]
    assert [node["hostname"] for node in kits["unknown"]] == [HOSPITAL]
    refused = hospital.lab.json("kit", "accept", HOSPITAL, "AAAAA-AAAAA", code=5)["errors"]
    assert [problem["code"] for problem in refused] == ["kit-code"]
    assert "stands for no node" in refused[0]["message"]
    assert invited()["mip_site_kit"] == "invited"
    assert hospital.lab.ssh(hospital.lab.master, "docker swarm join-token -q worker") == hospital.token


def test_accepted_it_is_a_member_and_its_engine_answers(hospital: Hospital) -> None:
    lab = hospital.lab
    assert lab.json("kit", "accept", HOSPITAL, hospital.code.lower())["result"]["rotated"]
    assert invited()["mip_site_kit"] == "member"
    assert lab.ssh(lab.master, "docker swarm join-token -q worker") != hospital.token
    assert lab.all_active(also=(HOSPITAL,))
    lab.run("status")
    assert lab.json("deploy", "-y")["result"]["changed"] == 0
    lab.run("plan", "--detailed-exitcode")


def test_a_pause_lets_nothing_out_and_is_taken_back(hospital: Hospital) -> None:
    lab = hospital.lab
    worker = lab.workers[0]
    # The master counts what comes from the two, whatever is open already.
    lab.ssh(
        lab.master,
        "nft -f -",
        content="table inet watch { chain c { type filter hook prerouting priority -310;\n"
        + "".join(f"ip saddr {lab.hosts[name]} tcp sport != 22 tcp dport != 22 counter\n" for name in (HOSPITAL, worker))
        + "".join(f"ip saddr {lab.hosts[name]} meta l4proto {{ udp, esp }} counter\n" for name in (HOSPITAL, worker))
        + "}\n}\n",
    )

    def arrived() -> list[str]:
        return re.findall(r"counter packets (\d+)", lab.ssh(lab.master, "nft list table inet watch"))

    assert until(lambda: all(int(count) for count in arrived()[2:])), "both talk to the master before"
    assert "No packet" in hospital.run("mip-site pause --reason 'maintenance of the ward'")
    lab.ssh(worker, "mip-site pause")
    quiet = arrived()
    assert until(lambda: hospital.status()["packets_stopped"] > 5)
    assert arrived() == quiet
    found = hospital.status()
    assert (found["paused"], found["pause_in_force"], found["packets_left"]) == (True, True, 0)
    assert found["pause"]["reason"] == "maintenance of the ward"
    assert hospital.run("systemctl is-enabled mip-pause").strip() == "enabled"
    # What flushes all tables, as a restart of the host's firewall does, ends no pause.
    hospital.run("systemctl restart nftables")
    assert hospital.status()["pause_in_force"]
    # It took Docker's own rules away as well.
    hospital.run("systemctl restart docker")
    assert until(lambda: hospital.seen() == "Down")
    codes = {(problem["host"], problem["code"]): problem["message"] for problem in lab.json("status", code=None)["errors"]}
    assert "paused by the hospital" in codes[worker, "paused"]
    assert (HOSPITAL, "kit-away") in codes
    lab.ssh(worker, "mip-site resume")
    assert "Resumed" in hospital.run("mip-site resume")
    assert hospital.run("mip-site resume").strip() == "It was not paused."
    lab.ssh(lab.master, "nft delete table inet watch")
    assert until(lambda: hospital.seen() == "Ready")
    assert lab.all_active(also=(HOSPITAL,))


def test_the_journal_tells_what_was_done_and_when_it_was_changed(hospital: Hospital) -> None:
    entries = [json.loads(line) for line in hospital.run("mip-site journal --json").splitlines()]
    assert [entry["what"] for entry in entries] == ["join", "pause", "resume"]
    assert "complete and unchanged" in hospital.run("mip-site verify")
    assert "setup" in hospital.lab.ssh(hospital.lab.workers[0], "mip-site journal")
    hospital.run("chattr -a /var/log/mip/journal.jsonl; cp /var/log/mip/journal.jsonl /root/kept")
    hospital.run("sed -i 's/maintenance/holidays/' /var/log/mip/journal.jsonl")
    assert "entry 2 of" in hospital.run("mip-site verify", code=1)
    hospital.run("cp /root/kept /var/log/mip/journal.jsonl")
    hospital.run(f"mip-site verify --head {entries[0]['hash'][:16]}")


def test_it_leaves_by_itself_and_the_used_kit_lets_nobody_in_again(hospital: Hospital) -> None:
    hospital.run(f"touch /data/{LAB}/data-of-patients.csv")
    said = hospital.run("mip-site leave", code=1)
    assert "Nothing was changed" in said
    hospital.run("mip-site leave --yes")
    assert hospital.run("docker info --format '{{.Swarm.LocalNodeState}}'").strip() == "inactive"
    assert hospital.run("docker ps -q").strip() == ""
    assert "mip_" not in hospital.run("nft list tables")
    hospital.run(f"test -e /data/{LAB}/data-of-patients.csv && test ! -e /etc/mip/site.json")
    assert until(lambda: hospital.seen() == "Down")
    assert "did not take this machine" in hospital.kit("--yes", code=1)
    assert hospital.run("docker info --format '{{.Swarm.LocalNodeState}}'").strip() == "inactive"


def test_a_stranger_in_the_swarm_is_an_alarm_and_is_put_out(hospital: Hospital) -> None:
    lab = hospital.lab
    lab.ssh(
        lab.master, f"docker service rm {HOSPITAL}_exareme; docker node rm --force $(docker node ls -q --filter node.label=name={HOSPITAL})"
    )
    token = lab.ssh(lab.master, "docker swarm join-token -q worker")
    hospital.run(f"docker swarm join --token {token} --advertise-addr {hospital.address} {lab.hosts[lab.master]}:2377")
    hosts = yaml.safe_load((INVENTORY / "hosts.yml").read_text())
    del hosts["all"]["children"]["workers"]["hosts"][HOSPITAL]
    (INVENTORY / "hosts.yml").write_text(yaml.safe_dump(hosts, sort_keys=False))
    problems = lab.json("status", code=4)["errors"]
    assert [problem["code"] for problem in problems] == ["unknown-node"]
    node = lab.json("kit", "ls", code=4)["result"]["unknown"][0]
    assert (node["hostname"], node["address"]) == (HOSPITAL, hospital.address)
    assert lab.json("kit", "revoke", node["id"], "-y")["result"]["removed"] == [node["id"]]
    assert hospital.seen() == ""
    assert lab.ssh(lab.master, "docker swarm join-token -q worker") != token
    lab.run("status")


def test_a_kit_that_nobody_used_is_ended(hospital: Hospital, tmp_path: Path) -> None:
    lab = hospital.lab
    name, address = f"{LAB}-wk-3", lab.hosts[f"{LAB}-wk-3"]
    lab.json("kit", "create", name, "--address", address, "--to", str(tmp_path / "kit.py"), "-y")
    token = lab.ssh(lab.master, "docker swarm join-token -q worker")
    revoked = lab.json("kit", "revoke", name, "-y")["result"]
    assert (revoked["rotated"], revoked["removed"]) == (True, [])
    assert lab.ssh(lab.master, "docker swarm join-token -q worker") != token
    assert name not in (INVENTORY / "hosts.yml").read_text()
    for node in (lab.master, *lab.workers):
        assert address not in lab.ssh(node, f"nft list set inet mip_{LAB.replace('-', '_')} peers")
    assert {kit["node"]: kit["state"] for kit in lab.json("kit", "ls")["result"]["kits"]}[name] == "revoked"
    assert lab.json("deploy", "-y")["result"]["changed"] == 0
