# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal of who ran what: here, on a node behind a real sshd, and what each knows of the other."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mipfed import audit
from mipfed.exitcodes import ExitCode

from .conftest import REPOSITORY, Project, Sshd, make_key
from .test_runs import ANSWER, CHANGES, OK


@pytest.fixture(autouse=True)
def _answer(project: Project) -> None:
    project.module("answer", ANSWER)


def entries(project: Project) -> list[dict[str, Any]]:
    """The journal on this machine."""
    path = project.state / "mipfed" / "fed" / "audit" / "journal.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_each_run_is_written_down(project: Project) -> None:
    """Its begin, so that one that was killed is seen too, and its end with plan and result; dry runs and checks with their end only."""
    project.federation()
    project.playbook("deploy", CHANGES)
    assert project.run("-f", "fed", "audit").code == ExitCode.OK
    assert project.run("-f", "fed", "deploy", "-y").code == ExitCode.OK
    began, ended = entries(project)
    assert (began["n"], began["what"], began["data"]["phase"]) == (1, "deploy", "began")
    data = ended["data"]
    assert (data["phase"], data["result"], data["exit_code"], data["check"]) == ("ended", "ok", 0, False)
    assert data["began"] == {"n": 1, "hash": began["hash"]}
    assert ended["prev"] == began["hash"]
    assert data["change_count"] == len(data["changes"]) > 0
    assert any(change.startswith("fed-wk-1: ") for change in data["changes"])
    assert data["run"] == project.runs()[0].name
    assert data["nodes"] == {}
    project.playbook("deploy", OK)
    project.run("-f", "fed", "plan")
    last = entries(project)[-1]
    assert (last["what"], last["data"]["check"], last["n"]) == ("plan", True, 3)
    assert stat.S_IMODE((project.state / "mipfed" / "fed" / "audit").stat().st_mode) == 0o700
    shown = project.run("-f", "fed", "-o", "json", "audit", "--last", "2").document["result"]
    assert [entry["n"] for entry in shown["entries"]] == [2, 3]


def test_a_changed_journal_is_seen(project: Project) -> None:
    """By the list as well; the exit code tells."""
    project.federation()
    project.playbook("deploy", OK)
    project.run("-f", "fed", "deploy", "-y")
    path = project.state / "mipfed" / "fed" / "audit" / "journal.jsonl"
    path.write_text(path.read_text().replace("ok, 0 changes", "ok, 1 changes"))
    listed = project.run("-f", "fed", "audit")
    assert listed.code == ExitCode.CHECK
    assert "entry 2" in listed.err and "was changed" in listed.err
    path.write_text(path.read_text().splitlines()[0] + "\n")
    listed = project.run("-f", "fed", "audit")
    assert "missing at the end: entry 2" in listed.err


NODE_ENTRIES = [{"n": 1, "hash": "a"}, {"n": 2, "hash": "b"}, {"n": 3, "hash": "c"}]


def ran(number: int, value: str, what: str = "deploy", **more: Any) -> dict[str, Any]:
    """The end of a run that wrote an entry on the node `wk`."""
    return {
        "what": what,
        "time": f"time {number}",
        "text": "",
        "data": {"phase": "ended", "nodes": {"wk": {"n": number, "hash": value}}},
        **more,
    }


def test_what_is_known_of_a_node_is_compared() -> None:
    """An entry that is missing or another one than was written, also when the node's own chain is whole."""
    known = audit.anchors([ran(1, "a"), ran(2, "x"), ran(4, "d"), {"what": "check", "data": {}}], "wk")
    assert known == [(1, "a", "time 1"), (2, "x", "time 2"), (4, "d", "time 4")]
    problems = audit.compare(known, NODE_ENTRIES)
    assert len(problems) == 2
    assert "entry 2 is another one" in problems[0] and "time 2" in problems[0]
    assert "entry 4" in problems[1] and "missing" in problems[1]
    assert audit.compare(audit.anchors([ran(1, "a"), ran(3, "c")], "wk"), NODE_ENTRIES) == []
    replaced = {"what": "node replace", "text": "began: mipfed node replace wk", "data": {"phase": "began"}}
    assert audit.anchors([ran(1, "old"), replaced, ran(1, "a")], "wk") == [(1, "a", "time 1")]
    assert audit.anchors([ran(1, "old"), replaced], "other") == []


@pytest.fixture
def node(project: Project, sshd: Sshd) -> Iterator[Path]:
    """A federation whose first worker is this machine behind a real sshd; its journal's folder."""
    if os.geteuid():
        pytest.skip("the journal of a node is root's")
    with Path("/run/lock/mipfed-test-journal").open("w") as alone:
        # This machine's journal is the node's: one test at a time.
        fcntl.flock(alone, fcntl.LOCK_EX)
        yield from _journalling(project, sshd)


def _journalling(project: Project, sshd: Sshd) -> Iterator[Path]:
    if Path("/var/log/mip/journal.jsonl").exists():
        pytest.skip("this machine is a node of a federation, whose journal is not for tests")
    key = project.root / "id"
    make_key(key)
    (sshd.folder / "authorized_keys").write_text(key.with_suffix(".pub").read_text(encoding="utf-8"), encoding="utf-8")
    ssh = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": sshd.port, "mip_address": "127.0.8.1"}
    folder = project.federation(variables={"fed-wk-1": {**ssh, "ansible_ssh_private_key_file": str(key)}})
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{sshd.port} {sshd.public}\n")
    yield Path("/var/log/mip")
    for path in (Path("/var/log/mip/journal.jsonl"), Path("/var/lib/mip/journal.head"), Path("/var/lib/mip/journal.head.lock")):
        subprocess.run(["chattr", "-a", str(path)], capture_output=True, check=False)
        path.unlink(missing_ok=True)


def test_a_node_that_was_changed_has_an_entry(project: Project, node: Path) -> None:
    """Written over SSH after the run, and compared later; a run that changes nothing does not come back to the node."""
    project.playbook("deploy", CHANGES)
    assert project.run("-f", "fed", "deploy", "-y").code == ExitCode.OK
    here = entries(project)[-1]
    told = here["data"]["nodes"]["fed-wk-1"]
    path = node / "journal.jsonl"
    there = json.loads(path.read_text().splitlines()[-1])
    assert told == {"n": there["n"], "hash": there["hash"]}
    assert there["what"] == "deploy"
    assert there["data"]["centre"] == {"n": 1, "hash": entries(project)[0]["hash"]}
    assert there["data"]["changes"]
    assert "fed" in there["who"]
    listed = project.run("-f", "fed", "audit", "fed-wk-1")
    assert (listed.code, "deploy" in listed.out) == (ExitCode.OK, True)
    verified = project.run("-f", "fed", "-o", "json", "audit", "--verify")
    assert verified.code == ExitCode.OK, verified.err
    assert verified.document["result"]["nodes"]["fed-wk-1"]["entries"] == there["n"]
    project.playbook("deploy", OK)
    project.run("-f", "fed", "deploy", "-y")
    assert json.loads(path.read_text().splitlines()[-1]) == there
    # Somebody writes the whole journal anew, with a chain that is whole: the centre's journal knows better.
    subprocess.run(["chattr", "-a", str(path)], capture_output=True, check=False)
    path.unlink()
    Path("/var/lib/mip/journal.head").unlink()
    site = audit.journal("unused")
    site.JOURNAL, site.HEAD = str(path), "/var/lib/mip/journal.head"
    site.record("deploy", "nothing of importance", "nobody")
    assert site.examine()[1] == []
    verified = project.run("-f", "fed", "audit", "--verify")
    assert verified.code == ExitCode.CHECK
    assert "fed-wk-1" in verified.err and "another one than was written" in verified.err


#: What every playbook of the collection begins with; a change in a role's words, one in a loop, and one that fails.
PLAIN = """\
- name: Read the inventory
  hosts: pusher:master:ui:workers
  gather_facts: false
  tasks:
    - name: Resolve and validate the inventory
      hbp.mip.federation:
      run_once: true
      check_mode: false
- name: Prepare the nodes
  hosts: master:workers
  gather_facts: false
  tasks:
    - name: Write a file
      ansible.builtin.copy:
        content: "hello {{ secret | default('') }}"
        dest: "{{ inventory_dir }}/{{ inventory_hostname }}.{{ item }}"
        mode: "0600"
      loop: [one, two]
    - name: Stop where it was asked for
      ansible.builtin.command: "false"
      changed_when: false
      when: fails | default(false) | bool
- name: Look at another node
  hosts: ui
  gather_facts: false
  tasks:
    - name: Nothing changes
      ansible.builtin.command: "true"
      changed_when: false
"""


def plain(project: Project, *arguments: str, code: int = 0) -> str:
    """Run the playbook with ansible-playbook and this project's ansible.cfg, and return what it said."""
    project.playbook("deploy", PLAIN)
    playbook = project.collections / "ansible_collections/hbp/mip/playbooks/deploy.yml"
    _argv, environment = project.command()
    environment |= {
        "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(project.collections),
        "ANSIBLE_SSH_ARGS": f"-o UserKnownHostsFile={project.root}/inventories/fed/known_hosts",
    }
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", playbook, "-i", "inventories/fed", *arguments],
        cwd=project.root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def there(node: Path) -> list[dict[str, Any]]:
    """The journal on the node."""
    path = node / "journal.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_run_without_mipfed_is_written_down_too(project: Project, node: Path) -> None:
    """Here and on the node that it changed, in the same form, so that both are compared as after a run of mipfed."""
    said = plain(project, "-e", "secret=canary-73")
    assert "journal" not in said
    began, ended = entries(project)
    assert (began["what"], began["data"]["phase"]) == ("deploy", "began")
    data = ended["data"]
    assert (data["phase"], data["result"], data["check"], data["exit_code"]) == ("ended", "ok", False, 0)
    assert data["began"] == {"n": 1, "hash": began["hash"]}
    assert ended["text"] == "ok, 6 changes: ansible-playbook deploy.yml -i inventories/fed"
    assert "fed-wk-1: Write a file [one]" in data["changes"]
    (entry,) = there(node)
    assert data["nodes"] == {"fed-wk-1": {"n": entry["n"], "hash": entry["hash"]}}
    assert entry["data"]["changes"] == ["Write a file [one]", "Write a file [two]"]
    assert entry["data"]["centre"] == data["began"]
    assert entry["who"].endswith("federation fed")
    assert "canary-73" not in json.dumps([began, ended, entry])
    assert project.run("-f", "fed", "-o", "json", "audit", "--verify").code == ExitCode.OK
    # The second run changes nothing and does not come back to the node.
    plain(project, "-e", "secret=canary-73")
    assert (len(entries(project)), there(node)) == (4, [entry])
    # A dry run is written down here only.
    plain(project, "--check")
    last = entries(project)[-1]
    assert (last["n"], last["data"]["check"], last["data"]["nodes"]) == (5, True, {})
    assert last["text"].endswith("to make: ansible-playbook deploy.yml -i inventories/fed --check")
    assert there(node) == [entry]


def test_a_job_of_awx(project: Project, node: Path) -> None:
    """The node hears who started it there, also of one that fails; a journal in its container would be gone with it."""
    plain(project, "-e", json.dumps({"awx_job_id": 31, "awx_user_name": "anna", "fails": True}), code=2)
    assert entries(project) == []
    (entry,) = there(node)
    assert entry["who"] == "anna in AWX, federation fed"
    assert entry["text"] == "failed, 2 changes: ansible-playbook deploy.yml -i inventories/fed"
    assert (entry["data"]["run"], entry["data"]["centre"]) == ("awx-31", {"awx_job": "31"})


def test_a_node_whose_journal_cannot_be_written(project: Project, node: Path) -> None:
    """The run ends as it would have ended, with a warning, and the entry here says why the node has none."""
    node.mkdir(parents=True, exist_ok=True)
    (node / "journal.jsonl").mkdir()
    try:
        said = plain(project, "-e", "fails=true", code=2)
    finally:
        (node / "journal.jsonl").rmdir()
    assert "fed-wk-1: its journal has no entry of this run: " in " ".join(said.split())
    ended = entries(project)[-1]["data"]
    assert (ended["result"], ended["exit_code"], ended["hosts"]["fed-wk-1"]) == ("failed", 2, "failed")
    assert "error" in ended["nodes"]["fed-wk-1"]
