# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults that must be found before anything is changed, on freshly booted machines. They run first."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import yaml

from .conftest import INVENTORY, ROOT, Lab


def hosts(change) -> None:
    """Change hosts.yml through a function of its groups."""
    path = INVENTORY / "hosts.yml"
    document = yaml.safe_load(path.read_text())
    change({name: group["hosts"] for name, group in document["all"]["children"].items()})
    path.write_text(yaml.safe_dump(document))


def untouched(lab: Lab) -> None:
    """No machine has become part of anything."""
    for name in (lab.master, *lab.workers):
        assert lab.ssh(name, "docker info -f '{{.Swarm.LocalNodeState}}'") == "inactive"
        assert lab.ssh(name, "id mipadmin", check=False) == ""
        assert lab.ssh(name, "ls /var/lib/mip /etc/docker/daemon.json 2>/dev/null", check=False) == ""


def test_check_finds_nothing_wrong_and_plan_changes_nothing(lab: Lab) -> None:
    lab.run("check")
    plan = lab.run("plan", "--detailed-exitcode", code=9)
    for expected in ("Create the swarm", "Join", "Run the keystore and the engine", "Make the account"):
        assert expected in plan.stdout, plan.stdout
    lab.run("plan")
    untouched(lab)


def test_two_masters(lab: Lab) -> None:
    hosts(lambda groups: groups["master"].update({f"{lab.master}2": {"ansible_host": "10.99.99.99"}}))
    assert "exactly one master" in lab.run("deploy", "-y", code=3).stderr


def test_no_master(lab: Lab) -> None:
    hosts(lambda groups: groups["master"].clear())
    assert "group master: it has no host" in lab.run("deploy", "-y", code=3).stderr


def test_duplicate_address(lab: Lab) -> None:
    hosts(lambda groups: groups["workers"].update({"twin": {"ansible_host": lab.hosts[lab.workers[0]]}}))
    assert "host twin: address" in lab.run("deploy", "-y", code=3).stderr


def test_dotted_name(lab: Lab) -> None:
    hosts(lambda groups: groups["workers"].update({"wk.hospital.org": {"ansible_host": "10.99.99.99"}}))
    assert "host wk.hospital.org: not a node name" in lab.run("deploy", "-y", code=3).stderr


def test_duplicate_name(lab: Lab) -> None:
    path = INVENTORY / "hosts.yml"
    text = path.read_text()
    line = next(line for line in text.splitlines() if lab.workers[0] in line)
    path.write_text(text.replace(line, f"{line}\n{line}", 1))
    done = lab.run("deploy", "-y", code=3)
    assert lab.workers[0] in done.stderr and "uplicate" in done.stderr, done.stderr


def test_a_worker_that_is_also_master(lab: Lab) -> None:
    hosts(lambda groups: groups["workers"].update({lab.master: {}}))
    assert f"host {lab.master}: it is master and also worker" in lab.run("deploy", "-y", code=3).stderr


def test_a_misspelt_variable(lab: Lab) -> None:
    lab.variables(mip_overlya={"encrypted": False})
    assert "did you mean mip_overlay?" in lab.run("deploy", "-y", code=3).stderr


def test_the_same_mistakes_stop_plain_ansible(lab: Lab) -> None:
    lab.variables(mip_overlya={})
    command = ["ansible-playbook", "site.yml", "-i", str(INVENTORY)]
    done = subprocess.run(command, cwd=ROOT, env=lab.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "did you mean mip_overlay?" in done.stdout
    untouched(lab)


def test_a_changed_host_key_stops_everything_for_that_node(lab: Lab, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    address = lab.hosts[lab.workers[0]]
    known = INVENTORY / "known_hosts"
    lines = [line for line in known.read_text().splitlines() if not line.startswith(f"{address} ")]
    known.write_text("\n".join([*lines, f"{address} {' '.join(other.with_suffix('.pub').read_text().split()[:2])}", ""]))
    subprocess.run(["ssh", "-O", "exit", "-o", "ControlPath=~/.ansible/cp/%C", f"root@{address}"], capture_output=True, check=False)
    done = lab.run("check", code=6)
    assert lab.workers[0] in done.stdout + done.stderr
    assert "host key" in (done.stdout + done.stderr).lower(), done.stdout + done.stderr


def test_the_wrong_ssh_key(lab: Lab) -> None:
    for key in (INVENTORY / "ssh/id_ed25519", INVENTORY / "ssh/id_ed25519.pub"):
        key.unlink()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(INVENTORY / "ssh/id_ed25519")], check=True)
    for address in lab.hosts.values():
        subprocess.run(["ssh", "-O", "exit", "-o", "ControlPath=~/.ansible/cp/%C", f"root@{address}"], capture_output=True, check=False)
    done = lab.run("deploy", "-y", code=6)
    assert "Permission denied" in done.stdout + done.stderr


def test_sudo_that_wants_a_password(lab: Lab) -> None:
    for name in lab.hosts:
        lab.ssh(
            name, "id joe || useradd -m joe; install -d -m 700 -o joe ~joe/.ssh; install -m 600 -o joe ~/.ssh/authorized_keys ~joe/.ssh/"
        )
    lab.variables(ansible_user="joe", ansible_become=True)
    done = lab.run("check", code=5)
    assert "password" in done.stdout + done.stderr
    for name in lab.hosts:
        lab.ssh(name, "userdel -r joe", check=False)


def test_the_first_contact_by_password_makes_the_account_and_is_the_last(lab: Lab) -> None:
    """As a hospital hands a server over: an administrator with a password, who may sudo with it, and no key of ours."""
    password = "first: #'\"{{ x }} canary-77"
    worker = lab.workers[0]
    lab.ssh(worker, "useradd -m -s /bin/bash -G sudo anna && mkdir -p /etc/ssh/sshd_config.d")
    subprocess.run(
        ["ssh", "-i", str(INVENTORY / "ssh/id_ed25519"), "-o", f"UserKnownHostsFile={INVENTORY / 'known_hosts'}", "-o", "BatchMode=yes",
         f"root@{lab.hosts[worker]}", "chpasswd"], input=f"anna:{password}\n", text=True, check=True,
    )  # fmt: skip
    config = "/etc/ssh/sshd_config.d/00-test.conf"
    lab.ssh(worker, f"printf 'PasswordAuthentication yes\nKbdInteractiveAuthentication no\n' >{config}; systemctl reload ssh")

    hosts(lambda groups: groups["workers"][worker].update(ansible_user="mipadmin", ansible_become=True, mip_first_user="anna"))
    host_vars = INVENTORY / "host_vars" / f"{worker}.yml"
    host_vars.parent.mkdir(exist_ok=True)
    # A password may hold any character, also what YAML and templates would understand.
    host_vars.write_text(f"mip_first_password: !unsafe {json.dumps(password)}\n")
    try:
        first = lab.run("check")
        assert lab.ssh(worker, "sudo -u mipadmin sudo -n id -u") == "0"
        lab.ssh(worker, f"rm {config}; systemctl reload ssh; userdel --force --remove anna")
        assert "canary-77" not in first.stdout + first.stderr
        lab.run("check")
    finally:
        host_vars.unlink()
        lab.ssh(worker, "userdel --force --remove mipadmin; rm -f /etc/sudoers.d/mipadmin", check=False)


def test_a_full_disk(lab: Lab) -> None:
    worker = lab.workers[0]
    lab.ssh(worker, "mkdir -p /data && mount -t tmpfs -o size=16m none /data")
    try:
        done = lab.run("deploy", "-y", code=4)
        assert "disk-low" in done.stdout + done.stderr and worker in done.stdout + done.stderr
    finally:
        lab.ssh(worker, "umount /data")
    untouched(lab)


def test_a_node_of_another_swarm_is_refused_and_left_alone(lab: Lab) -> None:
    worker = lab.workers[0]
    lab.ssh(worker, f"docker swarm init --advertise-addr {lab.hosts[worker]}")
    before = lab.ssh(worker, "docker info -f '{{.Swarm.Cluster.ID}}'")
    try:
        done = lab.run("deploy", "-y", code=4)
        assert "swarm-foreign" in done.stdout + done.stderr
        assert lab.ssh(worker, "docker info -f '{{.Swarm.Cluster.ID}}'") == before
        assert lab.ssh(lab.master, "docker info -f '{{.Swarm.LocalNodeState}}'") == "inactive"
    finally:
        lab.ssh(worker, "docker swarm leave --force")


def test_an_image_that_does_not_exist_changes_no_service(lab: Lab) -> None:
    lab.variables(
        mip_engine={"image": yaml.safe_load((INVENTORY / "group_vars/all/main.yml").read_text())["mip_engine"]["image"] + "-nope"}
    )
    done = lab.run("deploy", "-y", code=5)
    assert "-nope" in done.stdout + done.stderr
    assert lab.ssh(lab.master, "docker service ls -q") == ""
