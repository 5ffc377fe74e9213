# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`mipfed unlock` and the vault password of autolock; the playbooks tell what they were given. The hosts' part is tested on engines."""

from __future__ import annotations

from pathlib import Path

import pytest

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
