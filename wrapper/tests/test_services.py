# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`mipfed start`, `stop`, `restart` and `status --node`: what they ask for, show and end with."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mipfed.exitcodes import ExitCode

from .conftest import Project
from .test_runs import ANSWER, unreachable

#: Reports what it was given, as the playbooks of the collection do.
SERVICES = """\
- name: Report
  hosts: pusher
  gather_facts: false
  tasks:
    - name: "Report: services"
      hbp.mip.answer:
        answer:
          msg: not all
          mip_error: failed
          mip_report:
            verb: services
            schema: 1
            data:
              state: stopped
              asked: ["{{ services_components }}", "{{ services_nodes }}", "{{ services_reason }}", "{{ ansible_check_mode }}"]
              services: %s
              problems: %s
        fail: %s
"""
DONE = [
    {"name": "fed-ms_exareme-master", "node": "fed-ms", "action": "stopped", "since": "2026-11-22T10:00:00Z", "seconds": 1.5},
    {"name": "fed-wk-1_exareme", "node": "fed-wk-1", "action": "stopped", "since": "2026-11-22T10:00:00Z", "unconfirmed": ["fed-wk-1"]},
]
FAILED = [{"node": "fed-ms", "code": "crash", "message": "the service fed-ms_exareme-master is not started: exit code 3", "fix": "look"}]


@pytest.fixture(autouse=True)
def _answer(project: Project) -> None:
    project.module("answer", ANSWER)


def playbook(services: list[Any], problems: list[Any] | None = None) -> str:
    return SERVICES % (json.dumps(services), json.dumps(problems or []), "true" if problems else "false")


def test_stop_asks_and_hands_over_what_was_asked_for(project: Project) -> None:
    project.federation()
    project.playbook("service_stop", playbook(DONE))
    asked = project.run("-f", "fed", "stop", "engine", "--node", "fed-wk-1")
    assert asked.code == ExitCode.DECLINED
    assert project.runs() == []
    done = project.run("-f", "fed", "stop", "engine", "--node", "fed-wk-1", "--reason", "new cables", "-y", "-o", "json")
    assert done.code == ExitCode.OK, done.err
    assert done.document["result"]["asked"] == [["engine"], ["fed-wk-1"], "new cables", False]
    shown = project.run("-f", "fed", "stop", "-y")
    assert "stopped since 2026-11-22T10:00:00Z" in shown.out
    assert "fed-wk-1 does not answer; it ends there when it is back" in shown.out
    assert "next: mipfed -f fed start" in shown.err


def test_a_dry_run_asks_nothing_and_says_would(project: Project) -> None:
    project.federation()
    project.playbook("service_stop", playbook(DONE))
    done = project.run("-f", "fed", "stop", "--check")
    assert done.code == ExitCode.OK, done.err
    assert "would be stopped" in done.out
    assert project.run("-f", "fed", "stop", "--check", "-o", "json").document["result"]["asked"][3] is True


def test_a_service_that_does_not_start(project: Project) -> None:
    project.federation()
    project.playbook("service_start", playbook([{**DONE[0], "action": "failed", "error": "exit code 3"}], FAILED))
    done = project.run("-f", "fed", "start", "-o", "json")
    assert done.code == ExitCode.FAILED
    assert [(error["code"], error["host"], error["next"]) for error in done.document["errors"]] == [("crash", "fed-ms", "look")]
    assert project.run("-f", "fed", "start").out.count("exit code 3") == 1


def test_a_drained_node_is_told_and_no_failure(project: Project) -> None:
    project.federation()
    project.playbook("service_start", playbook([{**DONE[0], "action": "started"}, {"name": "x", "node": "fed-wk-1", "action": "drained"}]))
    done = project.run("-f", "fed", "start")
    assert done.code == ExitCode.OK, done.err
    assert "its node is drained; it runs once the node is active again" in done.out
    assert "next: mipfed -f fed node activate fed-wk-1" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["start", "engin"], ExitCode.USAGE, "engin"),
        (["restart", "--node", "fed-wk-9", "-y"], ExitCode.NO_HOSTS, "has no node fed-wk-9"),
        (["stop", "--node", "fed-ui", "-y"], ExitCode.NO_HOSTS, "has no node fed-ui"),
        (["status", "--node", "fed-wk-9"], ExitCode.NO_HOSTS, "has no node fed-wk-9"),
    ],
)
def test_wrong_names(project: Project, arguments: list[str], code: ExitCode, words: str) -> None:
    project.federation()
    done = project.run("-f", "fed", *arguments)
    assert done.code == code
    assert words in done.err
    assert project.runs() == []


def test_status_of_one_node_does_not_mind_a_manager_that_is_away(project: Project, closed_port: int) -> None:
    project.federation(variables={"fed-ms": unreachable(closed_port, project)})
    look = "- hosts: master:workers\n  gather_facts: false\n  tasks:\n    - ansible.builtin.ping:\n"
    data = {"problems": [], "notices": [{"node": "fed-wk-1", "code": "stopped", "message": "is stopped"}], "nodes": [], "services": []}
    report = {"mip_report": {"verb": "status", "schema": 1, "data": data}}
    task = json.dumps({"name": "Report: status", "hbp.mip.answer": {"answer": report}})
    project.playbook("status", f"{look}- hosts: pusher\n  gather_facts: false\n  tasks: [{task}]\n")
    one = project.run("-f", "fed", "status", "--node", "fed-wk-1")
    assert one.code == ExitCode.OK, one.err
    assert "note: fed-wk-1: is stopped [stopped]" in one.out
    assert project.run("-f", "fed", "status").code == ExitCode.UNREACHABLE
