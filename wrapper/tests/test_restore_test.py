# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`backup verify --restore-test` before it starts a lab: what it refuses, and the federation that it makes of a backup."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.hbp.mip.plugins.plugin_utils import _backup_set
from mipfed import inventory, restore_test
from mipfed.errors import MipfedError
from mipfed.exitcodes import ExitCode

from .conftest import Project
from .test_backup import Backups, backups

__all__ = ["backups"]

MASTER = {"name": "h-ms", "kind": "master", "address": "203.0.113.11"}
WORKER = {"name": "h-wk", "kind": "worker", "address": "203.0.113.21"}
ROUTES = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\nmiplab1\t00014D0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
LAB_HOSTS = {
    "all": {
        "children": {
            "pusher": {"hosts": {"restore-test-pusher": {"ansible_connection": "local"}}},
            "master": {"hosts": {"restore-test-ms": {"ansible_host": "10.77.3.11"}}},
            "ui": {"hosts": {}},
            "workers": {"hosts": {"restore-test-wk-1": {"ansible_host": "10.77.3.21"}}},
        }
    }
}
LAB_VARIABLES = {
    "ansible_user": "root",
    "mip_lab": True,
    "mip_federation": "restore-test",
    "mip_engine": {"image": "10.77.3.1:5000/exareme:1.0", "keystore_image": "10.77.3.1:5000/keystore:1.8.7"},
    "mip_overlay": {"encrypted": False},
}


def test_without_the_programs_of_a_lab_it_is_refused_and_nothing_is_written_down(backups: Backups) -> None:
    path = backups.make()
    backups.project.environment["PATH"] = "/nowhere"
    done = backups.project.run("-f", "fed", "backup", "verify", str(path), "--identity", str(backups.key), "--restore-test")
    assert done.code == ExitCode.CHECK, done.out + done.err
    assert "programs are missing: apt-get install" in done.err
    assert "systemd-container" in done.err and "docker-registry" in done.err
    del backups.project.environment["PATH"]
    (listed,) = backups.project.run("-f", "fed", "-o", "json", "backup", "ls").document["result"]["sets"]
    assert (listed["verified"], listed["restored"]) == (None, None)


def test_only_what_the_master_gave_can_be_tried() -> None:
    assert restore_test.stand_ins({"nodes": [MASTER, WORKER], "swarm": {"node": "h-ms"}}) == (MASTER, WORKER)
    with pytest.raises(MipfedError, match="manager h-wk, which is not the master"):
        restore_test.stand_ins({"nodes": [MASTER, WORKER], "swarm": {"node": "h-wk"}})


def test_the_lab_has_a_network_that_neither_this_machine_nor_the_backup_uses() -> None:
    assert restore_test.lab_number(["203.0.113.11"], ROUTES) == 2
    assert restore_test.lab_number(["10.77.2.11", "10.77.3.21", "10.78.4.1"], ROUTES) == 4


def test_the_scratch_federation_is_that_of_the_backup_on_machines_of_the_lab(project: Project, tmp_path: Path) -> None:
    then: dict[str, Any] = inventory.resolve(inventory.load(inventory.Source("fed", project.federation() / "hosts.yml")))
    then["overlay"] = {**then["overlay"], "subnet": "10.99.0.0/16", "name": "mip-federation"}
    hosts = restore_test.scratch_hosts(LAB_HOSTS, [(MASTER, "restore-test-ms"), (WORKER, "restore-test-wk-1")])
    folder = tmp_path / "scratch"
    (folder / "group_vars/all").mkdir(parents=True)
    (folder / "hosts.yml").write_text(yaml.safe_dump(hosts))
    (folder / "group_vars/all/main.yml").write_text(yaml.safe_dump(restore_test.scratch_variables(LAB_VARIABLES, then, 20)))
    made = inventory.resolve(inventory.load(inventory.Source("fed", folder / "hosts.yml")))
    assert [(node["name"], node["address"], node["ssh_host"]) for node in made["nodes"]] == [
        ("h-ms", "203.0.113.11", "10.77.3.11"),
        ("h-wk", "203.0.113.21", "10.77.3.21"),
    ]
    assert (made["name"], made["lab"], made["firewall"]["manage"], made["engine"]["start_seconds"]) == ("fed", True, False, 20)
    assert made["overlay"]["subnet"] == "10.99.0.0/16"
    assert made["swarm"] == then["swarm"]
    assert made["engine"]["image"] == "10.77.3.1:5000/exareme:1.0"


def test_what_came_of_it_is_in_the_catalogue(backups: Backups) -> None:
    path = backups.make()
    _backup_set.note(path, restored={"at": "2026-11-22T11:00:00Z", "ok": False, "detail": "the keystore is away"})
    (listed,) = backups.project.run("-f", "fed", "-o", "json", "backup", "ls").document["result"]["sets"]
    assert listed["restored"] == {"at": "2026-11-22T11:00:00Z", "ok": False, "detail": "the keystore is away"}
    assert "failed, 2026-11-22T11:00:00Z" in " ".join(backups.project.run("-f", "fed", "backup", "ls").out.split())


#: Stand in for the lab's own playbooks: what they leave is an inventory, and a line for each run.
UP = """\
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.file: {{path: "{{{{ lab_inventory_dir }}}}/group_vars/all", state: directory, mode: "0700"}}
    - ansible.builtin.copy: {{content: {hosts!r}, dest: "{{{{ lab_inventory_dir }}}}/hosts.yml", mode: "0600"}}
    - ansible.builtin.copy: {{content: {variables!r}, dest: "{{{{ lab_inventory_dir }}}}/group_vars/all/main.yml", mode: "0600"}}
    - ansible.builtin.lineinfile: {{path: {log}, line: "up {{{{ lab_machines | length }}}}", create: true, mode: "0600"}}
"""
DOWN = """\
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.shell: echo down >> {log}
"""
FULL = """\
- hosts: master
  gather_facts: false
  become: false
  tasks:
    - ansible.builtin.shell: echo "addresses {{{{ inventory_hostname }}}}" >> {log}
    - ansible.builtin.fail: {{msg: the disk is full}}
"""


def trial(backups: Backups) -> tuple[Path, Path]:
    """Make a backup with the federation's inventory in it and playbooks that stand in; returns the backup, and where they tell they ran."""
    folder, log = backups.folder, backups.project.root / "log"
    targets = _backup_set.recipients([backups.recipient])
    begun = _backup_set.begin(folder, "fed")
    files = [(str(path.relative_to(backups.inventory)), path) for path in backups.inventory.rglob("*.yml")]
    state = backups.project.root / "state.json"
    state.write_text("{}")
    for kind, content in (("swarm", [("certificates/key", state)]), ("inventory", files)):
        with _backup_set.Part(begun, f"{kind}.tar.gz", targets, {"kind": kind, "node": "fed-ms"}) as part:
            part.about["files"] = _backup_set.pack(content, part.write)
        part.describe()
    nodes = [{"name": "fed-ms", "kind": "master", "address": "127.0.9.2"}, {"name": "fed-wk-1", "kind": "worker", "address": "127.0.9.4"}]
    header = {"federation": "fed", "created": "2026-11-22T10:00:00Z", "cluster_id": "c1", "missing": []}
    swarm = {"node": "fed-ms", "node_addr": "127.0.9.2", "engine_version": "20.10.24", "managers": 1}
    path = _backup_set.seal(begun, header, {"swarm": swarm, "nodes": nodes}, targets)
    hosts = copy.deepcopy(LAB_HOSTS)
    for group in hosts["all"]["children"].values():
        for values in group["hosts"].values():
            values["ansible_connection"] = "local"
    variables = {**LAB_VARIABLES, "mip_overlay": {"encrypted": True}, "ansible_python_interpreter": sys.executable}
    playbook = backups.project.playbook
    playbook("lab_up", UP.format(hosts=json.dumps(hosts), variables=json.dumps(variables), log=log))
    playbook("lab_down", DOWN.format(log=log))
    playbook("restore_test", FULL.format(log=log))
    return path, log


def could_run() -> bool:
    """Can a lab run on this machine? Then the trial gets as far as its playbooks."""
    try:
        restore_test.refuse_without_lab()
    except MipfedError:
        return False
    return True


@pytest.mark.timeout(900)
def test_after_a_failure_the_lab_is_removed_and_the_result_is_written_down(backups: Backups) -> None:
    if not could_run():
        pytest.skip("no lab can run on this machine")
    path, log = trial(backups)
    arguments = ["-f", "fed", "-o", "json", "backup", "verify", str(path), "--identity", str(backups.key), "--restore-test"]
    done = backups.project.run(*arguments)
    assert done.code == ExitCode.CHECK, done.out + done.err
    assert log.read_text().splitlines() == ["down", "up 2", "addresses fed-ms", "down"]
    assert [(problem["message"], problem["next"]) for problem in done.document["errors"]] == [("the disk is full", "")]
    steps = done.document["result"]["restore_test"]["steps"]
    assert [(step["step"], step["ok"]) for step in steps] == [
        ("start a lab of a master and a hospital", False),
        ("remove the lab", True),
    ]
    (listed,) = backups.project.run("-f", "fed", "-o", "json", "backup", "ls").document["result"]["sets"]
    assert (listed["verified"]["ok"], listed["restored"]["ok"], listed["restored"]["detail"]) == (True, False, "the disk is full")
    # The living federation was not touched, and nothing of the backup is left.
    assert not (backups.inventory / "touched").exists()
    assert not list((backups.project.state / "mipfed").glob("restore-test-*"))
