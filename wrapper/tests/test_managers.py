# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`mipfed unlock`, `master move`, and the vault password of autolock. What happens on hosts is tested on engines and labs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mipfed.exitcodes import ExitCode

from .conftest import MAIN_YML, Project
from .test_runs import ANSWER
from .test_secrets import encrypt

KEY = "SWMKEY-1-canary"
UNLOCK = """\
- name: Report
  hosts: pusher
  gather_facts: false
  become: false
  tasks:
    - name: Compare what was given
      ansible.builtin.assert:
        that: (recovery_unlock_key | default('')) == '%s'
        quiet: true
    - name: "Report: unlock"
      hbp.mip.answer:
        answer:
          mip_report:
            verb: unlock
            schema: 1
            data:
              nodes: [{name: fed-ms, state: %s, detail: manager}]
              unlocked: %s
              problems: []
"""


@pytest.fixture(autouse=True)
def _answer(project: Project) -> None:
    project.module("answer", ANSWER)


def records(project: Project) -> str:
    """Everything that was written about the runs."""
    return "".join(path.read_text(errors="replace") for path in project.state.rglob("*") if path.is_file())


def test_unlock(project: Project) -> None:
    project.federation()
    project.playbook("unlock", UNLOCK % ("", "open", "[]"))
    done = project.run("-f", "fed", "unlock")
    assert done.code == ExitCode.OK and "No manager is locked." in done.out
    # A key that the vault does not have comes from the environment, and stays out of every record.
    project.environment["MIPFED_UNLOCK_KEY"] = KEY
    project.playbook("unlock", UNLOCK % (KEY, "unlocked", "[fed-ms]"))
    done = project.run("-f", "fed", "unlock", "-o", "json")
    assert done.code == ExitCode.OK and done.document["result"]["unlocked"] == ["fed-ms"]
    written = records(project).replace(f"== '{KEY}'", "")
    assert "Compare what was given" in written and KEY not in written and KEY not in done.out


def test_autolock_needs_a_vault_password(project: Project, tmp_path: Path) -> None:
    folder = project.federation(main=MAIN_YML + "mip_swarm_autolock: true\n")
    project.playbook("deploy", "- hosts: pusher\n  gather_facts: false\n  become: false\n  tasks: [{hbp.mip.answer: {}}]\n")
    refused = project.run("-f", "fed", "deploy", "-y")
    assert refused.code == ExitCode.CONFIGURATION and "mip_swarm_autolock" in refused.err and "--vault-password-file" in refused.err
    password = tmp_path / "password"
    password.write_text("secret\n")
    assert project.run("-f", "fed", "deploy", "-y", "--vault-password-file", str(password)).code == ExitCode.OK
    # Once the key is kept, it is an encrypted file like others, and no inventory.
    (folder / "state").mkdir()
    (folder / "state/unlock_key.vault").write_text(encrypt("schema: 1", "secret"))
    assert project.run("-f", "fed", "status").code == ExitCode.CONFIGURATION
    assert project.run("-i", str(folder), "config", "show").code == ExitCode.OK


MOVE = """\
- name: Report
  hosts: pusher
  gather_facts: false
  become: false
  tasks:
    - name: "Report: move"
      hbp.mip.answer:
        answer:
          msg: as it was
          mip_error: check
          mip_report:
            verb: move
            schema: 1
            data:
              from: fed-ms
              to: "{{ move_to }}"
              state: %s
              keys: 3
              problems: %s
        fail: %s
"""
DEPLOY = "- hosts: pusher\n  gather_facts: false\n  become: false\n  tasks: [{hbp.mip.answer: {}}]\n"


def test_the_master_moves_in_the_inventory_once_it_has_moved(project: Project) -> None:
    folder = project.federation()
    hosts = folder / "hosts.yml"
    before = hosts.read_text()
    project.playbook("deploy", DEPLOY)
    project.playbook("master_move", MOVE % ("moved", "[]", "false"))
    assert project.run("-f", "fed", "master", "move", "fed-wk-1").code == ExitCode.DECLINED
    assert project.run("-f", "fed", "master", "move", "fed-ms", "-y").code == ExitCode.USAGE
    for name in ("fed-ui", "fed-wk-9"):
        refused = project.run("-f", "fed", "master", "move", name, "-y")
        assert refused.code == ExitCode.NO_HOSTS and "fed-wk-1, fed-wk-2" in refused.err
    assert hosts.read_text() == before and project.runs() == []
    done = project.run("-f", "fed", "master", "move", "fed-wk-1", "-y")
    assert done.code == ExitCode.OK, done.err
    assert "fed-wk-1 is the master now" in done.out and len(project.runs()) == 2
    children = json.loads(hosts.read_text())["all"]["children"]
    assert list(children["master"]["hosts"]) == ["fed-wk-1"] and set(children["workers"]["hosts"]) == {"fed-ms", "fed-wk-2"}
    assert project.run("-f", "fed", "master", "move", "fed-ms", "-y").code == ExitCode.OK
    assert hosts.read_text() == before


def test_a_move_that_was_put_back_leaves_the_inventory(project: Project) -> None:
    folder = project.federation()
    before = (folder / "hosts.yml").read_text()
    project.playbook("deploy", DEPLOY)
    problem = "[{node: fed-wk-1, code: move-back, message: no image, fix: mipfed -f fed verify}]"
    project.playbook("master_move", MOVE % ("back", problem, "true"))
    done = project.run("-f", "fed", "master", "move", "fed-wk-1", "-y")
    assert done.code == ExitCode.CHECK and "no image" in done.err
    assert (folder / "hosts.yml").read_text() == before and len(project.runs()) == 1


def test_managers_are_as_many_as_before(project: Project) -> None:
    managers = {"fed-wk-1": {"mip_swarm_manager": True}, "fed-wk-2": {"mip_swarm_manager": True}}
    folder = project.federation(variables=managers)
    project.playbook("deploy", DEPLOY)
    project.playbook("master_move", MOVE % ("moved", "[]", "false"))
    assert project.run("-f", "fed", "master", "move", "fed-wk-2", "-y").code == ExitCode.OK
    children = yaml.safe_load((folder / "hosts.yml").read_text())["all"]["children"]
    assert "mip_swarm_manager" not in children["master"]["hosts"]["fed-wk-2"]
    assert all(host["mip_swarm_manager"] is True for host in children["workers"]["hosts"].values())
