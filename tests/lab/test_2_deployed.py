# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A deployed federation: that it works, that a second run does nothing, and what faults do to it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

from .conftest import INVENTORY, LAB, ROOT, Lab


@contextlib.contextmanager
def watched(lab: Lab):
    """Ask the master's API ten times a second; yields the list of failures."""
    failures: list[str] = []
    answers = [0]
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.1):
            try:
                with urllib.request.urlopen(f"http://{lab.hosts[lab.master]}:9090/mining/algorithms.json", timeout=5) as answer:
                    json.load(answer)
                answers[0] += 1
            except OSError as error:
                failures.append(repr(error))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield failures
    finally:
        stop.set()
        thread.join()
    assert answers[0] > 10


def test_the_federation_answers(federation: Lab) -> None:
    assert federation.all_active()
    datasets = federation.api("LIST_DATASET")
    for worker in federation.workers:
        assert any(datasets[worker].values()), datasets


def test_a_second_deploy_changes_nothing_and_the_api_answers_throughout(federation: Lab) -> None:
    with watched(federation) as failures:
        document = federation.json("deploy", "-y")
    assert failures == []
    assert sum(host["changed"] for host in document["hosts"].values()) == 0


def test_plan_after_deploy_says_nothing_to_do(federation: Lab) -> None:
    assert "Nothing to do" in federation.run("plan", "--detailed-exitcode").stdout


def plain(federation: Lab) -> str:
    """Deploy without mipfed, and return what Ansible said."""
    command = ["ansible-playbook", "site.yml", "-i", f"inventories/{LAB}"]
    done = subprocess.run(command, cwd=ROOT, env=federation.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_plain_ansible_does_the_same_deploy(federation: Lab) -> None:
    said = plain(federation)
    assert "changed=0" in said
    assert not [line for line in said.splitlines() if "changed=" in line and "changed=0" not in line]


def test_status_and_verify(federation: Lab) -> None:
    assert federation.json("status")["ok"] is True
    report = federation.json("verify")["result"]
    nodes = {federation.master, *federation.workers}
    pairs = {(pair["from"], pair["to"]) for pair in report["pairs"]}
    assert pairs == {(a, b) for a in nodes for b in nodes if a != b}
    assert all(pair["ok"] and pair["bytes"] >= 10 * 2**20 for pair in report["pairs"])
    assert report["engine"]["health"]["ok"] is True


def test_nothing_listens_that_the_contract_does_not_need(federation: Lab) -> None:
    def listening(name: str) -> set[str]:
        # What listens on loopback only (containerd does) is nobody's from outside.
        sockets = federation.ssh(name, "ss -Hltn | awk '{print $4}'").split()
        return {socket.rsplit(":", 1)[1] for socket in sockets if not socket.startswith(("127.", "[::1]"))}

    for name in federation.workers:
        assert listening(name) <= {"22", "7946"}
    assert listening(federation.master) <= {"22", "2377", "7946", "9090"}


def test_two_deploys_at_once(federation: Lab) -> None:
    federation.ssh(
        federation.master, "docker service update --detach --label-add test=1 $(docker service ls -q | head -1) >/dev/null", check=False
    )
    first = federation.start("deploy", "-y")
    second = federation.start("deploy", "-y")
    codes = []
    texts = []
    for process in (first, second):
        out, err = process.communicate(timeout=600)
        codes.append(process.returncode)
        texts.append(out + err)
    assert sorted(codes) == [0, 7], texts
    assert "lock" in texts[codes.index(7)].lower()
    federation.run("deploy", "-y")


def test_a_killed_deploy_is_repaired_by_the_next(federation: Lab) -> None:
    services = federation.ssh(federation.master, "docker service ls -q").split()
    federation.ssh(federation.master, f"docker service rm {' '.join(services)}")
    process = federation.start("deploy", "-y", start_new_session=True)
    lock = f"ls /var/lib/mip/{LAB}/lock"
    deadline = time.monotonic() + 120
    while not federation.ssh(federation.master, lock, check=False):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(3)
    process.kill()
    process.communicate()
    federation.run("deploy", "-y")
    assert federation.all_active()


def test_an_engine_that_crashes_is_rolled_back(federation: Lab) -> None:
    good = federation.ssh(
        federation.master, "docker service inspect -f '{{.Spec.TaskTemplate.ContainerSpec.Image}}' " + f"{federation.workers[0]}_exareme"
    )
    repository = good.split("@")[0].rsplit(":", 1)[0]
    federation.variables(mip_engine={"image": f"{repository}:crash"})
    done = federation.run("deploy", "-y", code=5)
    text = done.stdout + done.stderr
    assert federation.master in text or federation.workers[0] in text
    for worker in federation.workers:
        image = federation.ssh(
            federation.master, "docker service inspect -f '{{.Spec.TaskTemplate.ContainerSpec.Image}}' " + f"{worker}_exareme"
        )
        assert image == good
    federation.variables(mip_engine={"image": good.split("@")[0]})
    federation.run("deploy", "-y")
    assert federation.all_active()


def test_an_update_goes_through_all_nodes(federation: Lab) -> None:
    good = federation.ssh(
        federation.master, "docker service inspect -f '{{.Spec.TaskTemplate.ContainerSpec.Image}}' " + f"{federation.workers[0]}_exareme"
    )
    repository, tag = good.split("@")[0].rsplit(":", 1)
    assert tag == "1.0"
    federation.variables(mip_engine={"image": f"{repository}:1.1"})
    federation.run("deploy", "-y")
    for worker in federation.workers:
        assert ":1.1@" in federation.ssh(
            federation.master, "docker service inspect -f '{{.Spec.TaskTemplate.ContainerSpec.Image}}' " + f"{worker}_exareme"
        )
    assert federation.all_active()


def test_a_stopped_engine_is_started(federation: Lab) -> None:
    worker = federation.workers[1]
    federation.ssh(worker, "systemctl disable --now docker.socket docker.service")
    federation.run("deploy", "-y")
    assert federation.ssh(worker, "systemctl is-active docker.service") == "active"
    assert federation.ssh(worker, "systemctl is-enabled docker.service") == "enabled"


def test_a_missing_data_folder_is_made_again_and_the_journals_have_it(federation: Lab) -> None:
    """Also without mipfed, whose journals know of the run as of one of its own."""
    worker = federation.workers[1]
    federation.ssh(worker, f"mv /data/{LAB} /data/away")
    try:
        plain(federation)
        assert federation.ssh(worker, f"stat -c '%U %a' /data/{LAB}") == "mipadmin 750"
        (entry,) = federation.json("audit", worker, "--last", "1")["result"]["entries"]
        assert (entry["what"], entry["text"]) == ("deploy", f"ok, 1 change: ansible-playbook site.yml -i inventories/{LAB}")
        federation.run("audit", "--verify")
    finally:
        federation.ssh(worker, f"rm -rf /data/{LAB} && mv /data/away /data/{LAB}")


def test_the_keystore_is_reached_by_named_addresses_only(federation: Lab) -> None:
    def reaches(name: str) -> bool:
        return (
            federation.ssh(name, f"timeout 5 bash -c '</dev/tcp/{federation.hosts[federation.master]}/8500' && echo yes", check=False)
            == "yes"
        )

    ui = next(name for name in federation.hosts if name.endswith("-ui"))
    assert not reaches(ui)
    federation.variables(mip_expose={"keystore": [f"{federation.hosts[ui]}/32"]})
    federation.run("deploy", "-y")
    assert reaches(ui)
    assert not reaches(federation.workers[0])
    federation.variables(mip_expose={"keystore": []})
    federation.run("deploy", "-y")
    assert not reaches(ui)


def test_no_secret_is_left_anywhere(federation: Lab) -> None:
    """Join tokens and the first password, in what runs write and in what processes show while they run."""
    worker = federation.workers[1]
    canary = "canary-8d1f-password"
    node = federation.ssh(worker, "docker info -f '{{.Swarm.NodeID}}'")
    federation.ssh(worker, "docker swarm leave")
    federation.ssh(federation.master, f"docker node rm --force {node}")
    vault = INVENTORY / "group_vars/all/vault.yml"
    vault.write_text(f"mip_first_password: {canary}\n")
    secrets = [canary] + [federation.ssh(federation.master, f"docker swarm join-token -q {role}") for role in ("worker", "manager")]
    seen: list[str] = []
    process = federation.start("deploy", "-y", "-v", "-v", "-v")
    lines: list[str] = []

    def collect() -> None:
        out, err = process.communicate()
        lines.extend((out, err))

    thread = threading.Thread(target=collect)
    thread.start()
    while thread.is_alive():
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                text = path.read_bytes().decode(errors="replace")
                seen += [f"{path}: {text[:80]}" for secret in secrets if secret in text]
        time.sleep(0.05)
    thread.join()
    vault.unlink()
    assert process.returncode == 0, lines
    assert federation.ssh(worker, "docker info -f '{{.Swarm.LocalNodeState}}'") == "active"
    assert seen == []
    for secret in secrets:
        assert not any(secret in text for text in lines)
        found = subprocess.run(["grep", "-rlF", secret, str(federation.state_home)], capture_output=True, text=True, check=False)
        assert found.stdout == "", found.stdout
        for name in (federation.master, worker):
            where = "/var/log /tmp /root /home /run/mip /var/lib/mip /etc/docker"
            assert federation.ssh(name, f"grep -rlF -- '{secret}' {where} 2>/dev/null", check=False) == ""
            assert federation.ssh(name, f"journalctl -q | grep -cF -- '{secret}'", check=False) in {"", "0"}


def test_a_worker_that_is_off_does_not_stop_the_others(federation: Lab, power) -> None:
    off, other = federation.workers
    power(off, "kill")
    document = federation.json("deploy", "-y", code=6)
    assert [error["host"] for error in document["errors"]] == [off]
    assert document["hosts"][other]["unreachable"] == 0
    power(off, "on")
    federation.run("deploy", "-y")
    assert federation.all_active(120)


def test_a_worker_that_goes_off_in_the_middle(federation: Lab, power) -> None:
    services = federation.ssh(federation.master, "docker service ls -q").split()
    federation.ssh(federation.master, f"docker service rm {' '.join(services)}")
    off, other = federation.workers
    process = federation.start("-o", "json", "deploy", "-y")
    deadline = time.monotonic() + 120
    while not federation.ssh(federation.master, f"ls /var/lib/mip/{LAB}/lock", check=False):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    power(off, "kill")
    out, err = process.communicate(timeout=600)
    assert process.returncode in {5, 6}, out + err
    assert off in out
    assert federation.ssh(federation.master, f"docker service ps -q -f desired-state=running {other}_exareme") != ""
    power(off, "on")
    federation.run("deploy", "-y")
