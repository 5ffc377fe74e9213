# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`mipfed ui …`: what it writes, asks for, hands over and shows."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from mipfed.exitcodes import ExitCode

from .conftest import Project
from .test_runs import ANSWER

REPORT = """\
- name: Report
  hosts: pusher
  gather_facts: false
  tasks:
    - name: "Report: %s"
      hbp.mip.answer:
        answer:
          mip_report: {verb: %s, schema: 1, data: %s}
        fail: false
"""
FOUND = [{"uuid": "1", "name": "e1", "who": "ann", "created": "2026-11-22T10:00:00", "pathology": "tbi", "algorithm": "PCA"}]


@pytest.fixture(autouse=True)
def _answer(project: Project) -> None:
    project.module("answer", ANSWER)


def report(verb: str, data: dict[str, Any], **templates: str) -> str:
    """A playbook that reports `data`, and what it was given."""
    text = json.dumps({**data, **{key: f"{{{{ {value} }}}}" for key, value in templates.items()}})
    return REPORT % (verb, verb, text)


def test_configure_writes_what_the_resolver_accepts(project: Project) -> None:
    """Only what was given, and only if the whole inventory is right with it."""
    folder = project.federation()
    path = folder / "group_vars/all/ui.yml"
    refused = project.run("-f", "fed", "ui", "configure", "--public-host", "127.0.0.1", "--without-authentication")
    assert refused.code == ExitCode.CONFIGURATION
    assert "public_host" in refused.err
    assert not path.exists()
    ended = project.run("-f", "fed", "ui", "configure", "--public-host", "mip.example.org", "--without-authentication", "--link", "proxied")
    assert ended.code == ExitCode.OK, ended.err
    expected = {"enabled": True, "link": "proxied", "public_host": "mip.example.org", "authentication": False}
    assert yaml.safe_load(path.read_text()) == {"mip_ui": expected}
    again = project.run("-f", "fed", "-o", "json", "ui", "configure", "--link", "proxied")
    assert again.document["result"]["changed"] is False
    assert project.run("-f", "fed", "ui", "configure", "--catalogue-host", "").code == ExitCode.OK
    assert yaml.safe_load(path.read_text())["mip_ui"] == {**expected, "data_catalogue": {"host": ""}}
    assert project.run("-f", "fed", "ui", "configure").code == ExitCode.USAGE


def test_configure_leaves_other_files_alone(project: Project) -> None:
    """A file with something else in it, and settings at another place, are for people."""
    folder = project.federation()
    path = folder / "group_vars/all/ui.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mip_data_root: /data\n")
    assert project.run("-f", "fed", "ui", "configure", "--link", "direct").code == ExitCode.CONFIGURATION
    path.write_text("mip_ui: {link: proxied}\n")
    (path.parent / "more.yml").write_text("mip_ui: {link: direct}\n")
    ended = project.run("-f", "fed", "ui", "configure", "--link", "direct")
    assert ended.code == ExitCode.CONFIGURATION
    assert "more.yml" in ended.err
    assert path.read_text() == "mip_ui: {link: proxied}\n"


def test_stop_asks_and_status_shows(project: Project) -> None:
    """What was asked for reaches the playbook."""
    project.federation()
    entry = {
        "component": "backend",
        "state": "stopped",
        "stopped": {"since": "2026-11-22T10:00:00Z", "reason": "maintenance"},
    }
    asked = {"asked_state": "ui_state", "asked_only": "ui_only", "asked_reason": "ui_reason"}
    project.playbook("ui", report("ui", {"address": "http://x/", "components": [entry], "problems": []}, **asked))
    assert project.run("-f", "fed", "ui", "stop", "backend").code == ExitCode.DECLINED
    ended = project.run("-f", "fed", "-o", "json", "ui", "stop", "backend", "--reason", "maintenance", "-y")
    result = ended.document["result"]
    assert (result["asked_state"], result["asked_only"], result["asked_reason"]) == ("stopped", ["backend"], "maintenance")
    shown = project.run("-f", "fed", "ui", "status")
    assert "maintenance" in shown.out


def test_purge_shows_first_and_asks(project: Project) -> None:
    """A dry run comes before everything else."""
    project.federation()
    project.playbook("ui_experiments", report("experiments", {"experiments": FOUND, "problems": []}, checked="ansible_check_mode"))
    assert project.run("-f", "fed", "ui", "experiments", "purge").code == ExitCode.USAGE
    declined = project.run("-f", "fed", "ui", "experiments", "purge", "--pathology", "tbi")
    assert declined.code == ExitCode.DECLINED
    assert len(project.runs()) == 1
    ended = project.run("-f", "fed", "-o", "json", "ui", "experiments", "purge", "--pathology", "tbi", "-y")
    assert ended.document["result"]["checked"] is False
    assert len(project.runs()) == 3
    assert "ann" in project.run("-f", "fed", "ui", "audit").out
