# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of real playbooks through ansible-runner: exit codes, what is shown, the document."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from mipfed.exitcodes import ExitCode

from .conftest import Project, make_key

OK = """\
- name: Look
  hosts: master:workers
  gather_facts: false
  tasks:
    - name: Nothing changes
      ansible.builtin.command: "true"
      changed_when: false
"""

CHANGES = """\
- name: Prepare the nodes
  hosts: master:workers
  gather_facts: false
  tasks:
    - name: Write a file
      ansible.builtin.copy:
        content: "hello {{ inventory_hostname }}\\n"
        dest: "{{ inventory_dir }}/{{ inventory_hostname }}.{{ item }}"
        mode: "0600"
      loop: [one, two]
      when: inventory_hostname != 'fed-wk-2'
    - name: Keep
      ansible.builtin.command: "true"
      changed_when: false
      check_mode: false
"""

FAILS = """\
- name: Prepare the nodes
  hosts: master:workers
  gather_facts: false
  tasks:
    - name: Ignored
      ansible.builtin.fail: {msg: never mind}
      ignore_errors: true
      when: inventory_hostname == 'fed-ms'
    - name: Break
      ansible.builtin.command: sh -c 'echo the disk is on fire >&2; exit 3'
      when: inventory_hostname == 'fed-wk-1'
"""

STATUS = """\
- name: Report
  hosts: master
  gather_facts: false
  tasks:
    - name: "Report: status"
      hbp.mip.answer:
        answer: {mip_report: {verb: status, schema: 1, data: %s}}
"""

ANSWER = """\
#!/usr/bin/python
from __future__ import annotations
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule(
    {"answer": {"type": "dict", "default": {}}, "fail": {"type": "bool"}, "secret": {"type": "str", "no_log": True}},
    supports_check_mode=True,
)
answer = dict({"changed": False}, **module.params["answer"])
(module.fail_json if module.params["fail"] else module.exit_json)(**answer)
"""


@pytest.fixture(autouse=True)
def _answer(project: Project) -> None:
    project.module("answer", ANSWER)


def unreachable(port: int, project: Project) -> dict[str, object]:
    """Return the variables of a host that refuses ssh."""
    key = project.root / "id"
    make_key(key)
    public = key.with_suffix(".pub").read_text(encoding="utf-8").split()[:2]
    (project.root / "known").write_text(f"[127.0.0.1]:{port} {' '.join(public)}\n", encoding="utf-8")
    return {
        "ansible_connection": "ssh",
        "ansible_host": "127.0.0.1",
        "ansible_port": port,
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={project.root / 'known'}",
        "ansible_ssh_private_key_file": str(key),
    }


def test_ok(project: Project) -> None:
    project.federation()
    project.playbook("deploy", OK)
    done = project.run("-f", "fed", "deploy", "-y")
    assert done.code == ExitCode.OK, done.err
    assert "Nothing to do." in done.out
    assert "next: mipfed -f fed verify" in done.err


def test_deploy_changes_then_nothing(project: Project) -> None:
    folder = project.federation()
    project.playbook("deploy", CHANGES)
    first = project.run("-y", "-f", "fed", "-o", "json", "deploy")
    assert first.code == ExitCode.OK, first.err
    document = first.document
    assert list(document) == ["schema", "command", "federation", "exit_code", "ok", "result", "hosts", "errors", "run"]
    assert (document["schema"], document["command"], document["federation"], document["ok"]) == (1, "deploy", "fed", True)
    assert document["hosts"]["fed-wk-1"] == {
        "state": "changed",
        **{"ok": 2, "changed": 1, "failed": 0, "unreachable": 0, "skipped": 0, "ignored": 0, "rescued": 0},
    }
    assert document["hosts"]["fed-ui"]["state"] == "waiting"
    assert [change["item"] for change in document["result"]["changes"] if change["host"] == "fed-wk-1"] == ["one", "two"]
    assert list(document["run"]) == ["id", "log", "seconds"]
    assert "Prepare the nodes" in Path(document["run"]["log"]).read_text(encoding="utf-8")
    assert (folder / "fed-ms.two").is_file()
    second = project.run("deploy", "-yf", "fed", "--output", "json")
    assert second.document["result"] == {"changed": 0, "changes": [], "drained": []}


def test_plan_is_the_dry_run_of_deploy(project: Project) -> None:
    folder = project.federation()
    project.playbook("deploy", CHANGES)
    plan = project.run("plan", "-f", "fed")
    assert plan.code == ExitCode.OK, plan.err
    assert not list(folder.glob("fed-*"))
    assert plan.out.count("~ Write a file [one]") == 2
    assert "4 changes on 2 hosts." in plan.out
    assert "+hello" not in plan.out
    detailed = project.run("plan", "-f", "fed", "--diff", "--detailed-exitcode")
    assert detailed.code == ExitCode.CHANGES
    assert "+hello fed-ms" in detailed.out
    checked = project.run("deploy", "--check", "-f", "fed", "-o", "json").document
    assert len(checked["result"]["changes"]) == 4
    assert not list(folder.glob("fed-*"))
    assert project.run("deploy", "-y", "-f", "fed").code == ExitCode.OK
    again = project.run("plan", "-f", "fed", "--detailed-exitcode")
    assert (again.code, again.out.strip()) == (ExitCode.OK, "Nothing to do.")


def test_changes_hidden_by_no_log_are_in_the_plan(project: Project) -> None:
    project.federation()
    project.playbook(
        "deploy",
        """\
- name: Secrets
  hosts: master
  gather_facts: false
  tasks:
    - name: Write the secret
      ansible.builtin.copy: {content: canary-in-content, dest: "{{ inventory_dir }}/secret", mode: "0600"}
      no_log: true
""",
    )
    plan = project.run("plan", "-f", "fed", "--detailed-exitcode", "--diff")
    assert plan.code == ExitCode.CHANGES
    assert "~ Write the secret" in plan.out
    assert "canary-in-content" not in plan.out + plan.err


def test_failed_host(project: Project) -> None:
    project.federation()
    project.playbook("deploy", FAILS)
    done = project.run("deploy", "-y", "-f", "fed")
    assert done.code == ExitCode.FAILED
    assert "failed: fed-wk-1, Break:" in done.err
    assert "the disk is on fire" in done.err
    assert "next: mipfed -f fed check -l fed-wk-1" in done.err
    assert f"log:  {project.runs()[-1]}" in done.err
    assert "never mind" not in done.err
    document = project.run("deploy", "-y", "-f", "fed", "-o", "json").document
    assert [(error["code"], error["host"], error["task"]) for error in document["errors"]] == [("failed", "fed-wk-1", "Break")]
    assert document["hosts"]["fed-ms"]["ignored"] == 1
    assert not document["ok"]


def test_failed_loop_names_the_items(project: Project) -> None:
    project.federation()
    project.playbook(
        "deploy",
        """\
- hosts: master
  gather_facts: false
  tasks:
    - name: Each
      ansible.builtin.command: sh -c 'echo no {{ item }} here >&2; test {{ item }} = a'
      changed_when: false
      loop: [a, b]
""",
    )
    (error,) = project.run("deploy", "-y", "-f", "fed", "-o", "json").document["errors"]
    assert error["message"].startswith("b: non-zero return code\nno b here")


def test_rescued_is_not_failed(project: Project) -> None:
    project.federation()
    project.playbook(
        "deploy",
        """\
- hosts: master
  gather_facts: false
  tasks:
    - block:
        - name: Try
          ansible.builtin.fail: {msg: first way}
      rescue:
        - name: Other way
          ansible.builtin.command: "true"
          changed_when: false
""",
    )
    done = project.run("deploy", "-y", "-f", "fed", "-o", "json")
    assert done.code == ExitCode.OK
    assert done.document["errors"] == []
    assert done.document["hosts"]["fed-ms"]["rescued"] == 1


def test_unreachable_host_and_the_others_finish(project: Project, closed_port: int) -> None:
    project.federation(variables={"fed-wk-2": {**unreachable(closed_port, project), "mip_address": "127.0.8.1"}})
    project.playbook("deploy", OK)
    done = project.run("deploy", "-y", "-f", "fed", "-o", "json")
    assert done.code == ExitCode.UNREACHABLE, done.err
    document = done.document
    (error,) = document["errors"]
    assert (error["code"], error["host"]) == ("unreachable", "fed-wk-2")
    assert "Connection refused" in error["message"]
    assert not error["message"].startswith("Task failed")
    assert error["next"].startswith(f"ssh -p {closed_port} -i ")
    assert document["hosts"]["fed-wk-1"]["state"] == "ok"
    assert document["hosts"]["fed-wk-2"]["state"] == "unreachable"


MAY_BE_AWAY = """\
- name: Look
  hosts: master:workers
  gather_facts: false
  tasks:
    - {name: Try, ansible.builtin.ping: {}, ignore_unreachable: true, failed_when: false}
    - {name: Say, ansible.builtin.debug: {msg: on the controller}}
    - {name: Need, ansible.builtin.ping: {}}
    - {name: Go on, ansible.builtin.ping: {}}
    - {name: End, ansible.builtin.ping: {}}
"""


def test_a_node_that_may_be_away_is_no_alarm(project: Project, closed_port: int) -> None:
    """It is one when it has no part in what comes, and at the first task that shows so."""
    project.federation(variables={"fed-wk-2": {**unreachable(closed_port, project), "mip_address": "127.0.8.1"}})
    project.playbook("deploy", MAY_BE_AWAY)
    done = project.run("deploy", "-y", "-f", "fed", "-o", "jsonl")
    assert done.code == ExitCode.UNREACHABLE, done.err
    told = [(line["event"], line["task"], line.get("status")) for line in done.lines if line["event"] in ("task", "host")
            and line.get("host", "fed-wk-2") == "fed-wk-2"]  # fmt: skip
    assert told == [
        ("task", "Try", None), ("task", "Say", None), ("host", "Try", "ignored"), ("host", "Say", "ok"), ("task", "Need", None),
        ("task", "Go on", None), ("host", "Need", "unreachable"), ("task", "End", None),
    ]  # fmt: skip
    (error,) = done.lines[-1]["errors"]
    assert (error["code"], error["host"], error["task"]) == ("unreachable", "fed-wk-2", "Need")
    counts = done.lines[-1]["hosts"]["fed-wk-2"]
    assert (counts["state"], counts["ignored"], counts["unreachable"]) == ("unreachable", 1, 1)


def test_failed_wins_over_unreachable(project: Project, closed_port: int) -> None:
    project.federation(variables={"fed-wk-2": {**unreachable(closed_port, project), "mip_address": "127.0.8.1"}})
    project.playbook("deploy", FAILS.replace("fed-wk-1", "fed-wk-1' or inventory_hostname == 'fed-wk-2"))
    done = project.run("deploy", "-y", "-f", "fed", "-o", "json")
    assert done.code == ExitCode.FAILED
    assert {error["code"] for error in done.document["errors"]} == {"failed", "unreachable"}


@pytest.mark.parametrize(
    ("mip_error", "code"), [("locked", ExitCode.LOCKED), ("configuration", ExitCode.CONFIGURATION), ("check", ExitCode.CHECK)]
)
def test_mip_error_decides(project: Project, mip_error: str, code: ExitCode) -> None:
    project.federation()
    answer = {"mip_error": mip_error, "msg": "as the module says it", "errors": ["one", "two"]}
    project.playbook(
        "deploy",
        f"""\
- hosts: master
  gather_facts: false
  tasks:
    - name: Take the lock
      hbp.mip.answer: {{answer: {json.dumps(answer)}, fail: true}}
""",
    )
    done = project.run("deploy", "-y", "-f", "fed", "-o", "json")
    assert done.code == code
    expected = ["one", "two"] if mip_error == "configuration" else ["as the module says it"]
    assert [error["message"] for error in done.document["errors"]] == expected


def test_no_host_matched(project: Project) -> None:
    project.federation()
    project.playbook("deploy", OK)
    limited = project.run("deploy", "-y", "-f", "fed", "-l", "nobody")
    assert limited.code == ExitCode.NO_HOSTS
    assert "nobody" in limited.err
    assert not project.runs()
    project.playbook("deploy", OK.replace("master:workers", "elsewhere"))
    nowhere = project.run("deploy", "-y", "-f", "fed")
    assert nowhere.code == ExitCode.NO_HOSTS, nowhere.err


def test_a_limit_of_deploy_keeps_the_master(project: Project) -> None:
    project.federation()
    project.playbook("deploy", OK)
    hosts = project.run("deploy", "-y", "-f", "fed", "-l", "fed-wk-1", "-o", "json").document["hosts"]
    assert {name for name, host in hosts.items() if host["state"] == "ok"} == {"fed-ms", "fed-wk-1"}
    project.playbook("check", OK)
    hosts = project.run("check", "-f", "fed", "-l", "fed-wk-1", "-o", "json").document["hosts"]
    assert list(hosts) == ["fed-wk-1"]


def test_declined(project: Project) -> None:
    project.federation()
    project.playbook("deploy", OK)
    done = project.run("deploy", "-f", "fed")
    assert done.code == ExitCode.DECLINED
    assert "next: Give -y" in done.err
    assert not project.runs()


def test_yes_from_the_environment(project: Project) -> None:
    project.federation()
    project.playbook("deploy", OK)
    project.environment["MIPFED_YES"] = "1"
    project.environment["MIPFED_FEDERATION"] = "fed"
    assert project.run("deploy").code == ExitCode.OK


def test_broken_playbook_is_internal(project: Project) -> None:
    project.federation()
    project.playbook("deploy", "- hosts: all\n  tasks: [{no_such_module_here: {}}]\n")
    done = project.run("deploy", "-y", "-f", "fed")
    assert done.code == ExitCode.INTERNAL
    assert "no_such_module_here" in done.err


def test_missing_playbook_is_internal(project: Project) -> None:
    project.federation()
    done = project.run("verify", "-f", "fed")
    assert done.code == ExitCode.INTERNAL
    assert "next: mipfed doctor" in done.err


def test_report_with_problems(project: Project) -> None:
    project.federation()
    problem = {"node": "fed-wk-1", "code": "service-down", "message": "its engine is not running", "fix": "mipfed -f fed deploy"}
    data = {
        "problems": [problem],
        "nodes": [{"name": "fed-wk-1", "role": "worker", "status": "ready"}],
        "services": [{"name": "engine", "node": "fed-wk-1", "state": "failed", "running": 0, "desired": 1, "error": "exit 7"}],
    }
    project.playbook("status", STATUS % json.dumps(data))
    done = project.run("status", "-f", "fed")
    assert done.code == ExitCode.CHECK
    assert "exit 7" in done.out
    assert "service-down: fed-wk-1: its engine is not running" in done.err
    assert "next: mipfed -f fed deploy" in done.err
    document = project.run("status", "-f", "fed", "-o", "json").document
    assert {key: value for key, value in document["result"].items() if key != "last"} == data
    assert document["errors"][0]["code"] == "service-down"
    project.playbook("status", STATUS % json.dumps({**data, "problems": []}))
    assert project.run("status", "-f", "fed").code == ExitCode.OK


def test_report_of_a_failed_check_is_not_repeated(project: Project) -> None:
    project.federation()
    problems = [{"node": "fed-wk-1", "code": "os", "message": "is too old", "fix": "upgrade"}]
    answer = {
        "mip_error": "check",
        "msg": "not fit",
        "mip_report": {"verb": "check", "schema": 1, "data": {"problems": problems, "nodes": {}}},
    }
    arguments = json.dumps({"answer": answer, "fail": True})
    tasks = f"[{{name: 'Report: check', hbp.mip.answer: {arguments}}}]"
    project.playbook("check", f"- hosts: master\n  gather_facts: false\n  tasks: {tasks}\n")
    done = project.run("check", "-f", "fed", "-o", "json")
    assert done.code == ExitCode.CHECK
    assert done.document["errors"] == [{"code": "os", "message": "is too old", "host": "fed-wk-1", "task": "", "next": "upgrade"}]
    assert done.document["result"]["problems"] == problems


def test_status_with_a_node_away(project: Project, closed_port: int) -> None:
    project.federation(variables={"fed-wk-2": {**unreachable(closed_port, project), "mip_address": "127.0.8.1"}})
    ping = "- hosts: workers\n  gather_facts: false\n  tasks: [{ansible.builtin.ping: {}}]\n"
    project.playbook("status", ping + STATUS % '{"problems": [], "nodes": [], "services": []}')
    done = project.run("status", "-f", "fed", "-o", "json")
    assert done.code == ExitCode.UNREACHABLE
    assert done.document["result"]["problems"] == []
    problem = {"node": "fed-wk-2", "code": "node-down", "message": "is down", "fix": ""}
    answer = {"msg": "not healthy", "mip_error": "check", "mip_report": {"verb": "status", "schema": 1, "data": {"problems": [problem]}}}
    task = json.dumps({"name": "Report: status", "hbp.mip.answer": {"answer": answer, "fail": True}})
    project.playbook("status", f"{ping}- hosts: master\n  gather_facts: false\n  tasks: [{task}]\n")
    away = project.run("status", "-f", "fed")
    assert away.code == ExitCode.UNREACHABLE, away.err


def test_missing_report_is_internal(project: Project) -> None:
    project.federation()
    project.playbook("status", OK)
    assert project.run("status", "-f", "fed").code == ExitCode.INTERNAL


def test_jsonl(project: Project) -> None:
    project.federation()
    project.playbook("deploy", CHANGES)
    done = project.run("deploy", "-y", "-f", "fed", "-o", "jsonl")
    lines = done.lines
    assert lines[0]["event"] == "start"
    assert {line["event"] for line in lines} == {"start", "play", "task", "host", "end"}
    assert all(line["schema"] == 1 and line["time"].endswith("Z") for line in lines)
    changed = [line for line in lines if line.get("status") == "changed" and line.get("host") == "fed-ms"]
    assert [line.get("item") for line in changed] == ["one", "two", None]
    assert (lines[-1]["event"], lines[-1]["exit_code"], lines[-1]["command"]) == ("end", 0, "deploy")


@pytest.mark.parametrize("output", ["text", "json", "jsonl"])
def test_errors_before_a_run_have_the_same_shape(project: Project, output: str) -> None:
    done = project.run("-o", output, "-f", "absent", "status")
    assert done.code == ExitCode.CONFIGURATION
    if output == "text":
        assert done.out == ""
        assert "There is no federation absent" in done.err
    else:
        document = done.document if output == "json" else done.lines[-1]
        assert document["errors"][0]["code"] == "configuration"
        assert document["run"] is None


def test_records_are_private_and_few(project: Project) -> None:
    project.federation()
    project.playbook("deploy", OK)
    runs = project.state / "mipfed" / "fed" / "runs"
    for number in range(30):
        (runs / f"20200101T0000{number:02d}-deploy").mkdir(parents=True)
    alive = runs / "20190101T000000-deploy"
    alive.mkdir()
    (alive / "pid").write_text(str(os.getpid()), encoding="utf-8")
    # What a run was given, and left because it was killed.
    given = [folder / "variables.json" for folder in (runs / "20200101T000029-deploy", alive)]
    for path in given:
        path.write_text("canary-7c", encoding="utf-8")
    assert project.run("deploy", "-y", "-f", "fed").code == ExitCode.OK
    kept = project.runs()
    assert given[0].parent in kept
    assert [path.exists() for path in given] == [False, True]
    assert alive in kept
    assert len(kept) == 21
    assert kept[-1].stat().st_mode & 0o777 == 0o700
    for path in kept[-1].rglob("*"):
        assert not path.stat().st_mode & 0o077, path
    assert not list(kept[-1].glob("variables.json"))


def test_ansible_keeps_the_users_umask(project: Project) -> None:
    project.federation()
    project.playbook(
        "deploy",
        """\
- hosts: master
  gather_facts: false
  tasks:
    - name: Touch
      ansible.builtin.shell: "umask > {{ inventory_dir }}/mask"
""",
    )
    previous = os.umask(0o022)
    try:
        project.run("deploy", "-y", "-f", "fed")
    finally:
        os.umask(previous)
    assert (project.root / "inventories" / "fed" / "mask").read_text().strip() == "0022"


def test_settings_apply_without_the_projects_ansible_cfg(project: Project) -> None:
    project.federation()
    project.environment |= {"ANSIBLE_HOST_KEY_CHECKING": "False", "ANSIBLE_STDOUT_CALLBACK": "minimal", "ANSIBLE_FORKS": "7"}
    project.playbook(
        "deploy",
        """\
- hosts: master
  gather_facts: false
  tasks:
    - name: Dump
      ansible.builtin.shell: "env > {{ inventory_dir }}/env"
""",
    )
    assert project.run("deploy", "-y", "-f", "fed").code == ExitCode.OK
    lines = (project.root / "inventories" / "fed" / "env").read_text().splitlines()
    seen = dict(line.split("=", 1) for line in lines if "=" in line)
    assert seen["ANSIBLE_HOST_KEY_CHECKING"] == "True"
    assert seen["ANSIBLE_PIPELINING"] == "True"
    assert seen["ANSIBLE_FORKS"] == "7"
    assert "StrictHostKeyChecking=yes" in seen["ANSIBLE_SSH_ARGS"]
    assert str(project.root / "inventories" / "fed" / "known_hosts") in seen["ANSIBLE_SSH_ARGS"]
    assert seen["MIPFED_COMMAND"] == "mipfed -f fed deploy"


SLOW = """\
- hosts: master
  gather_facts: false
  tasks:
    - name: Take long
      ansible.builtin.command: sleep {seconds}
    - name: Never
      ansible.builtin.file: {{path: "{{{{ inventory_dir }}}}/never", state: touch, mode: "0600"}}
"""


def start(project: Project, *arguments: str) -> subprocess.Popen[str]:
    argv, environment = project.command(*arguments)
    return subprocess.Popen(
        argv,
        cwd=project.root,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: object, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def processes(word: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if word.encode() in arguments or any(word.encode() in argument for argument in arguments if word.startswith("/")):
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt(project: Project, number: signal.Signals) -> None:
    project.federation()
    seconds = f"61.{int(number)}{os.getpid()}"
    project.playbook("deploy", SLOW.format(seconds=seconds))
    process = start(project, "deploy", "-y", "-f", "fed", "-o", "json")
    wait_for(lambda: processes(seconds))
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == ExitCode.INTERRUPTED
    assert "may still finish on the nodes" in err
    document = json.loads(out)
    assert (document["exit_code"], document["ok"]) == (130, False)
    assert document["errors"][-1]["next"] == "mipfed -f fed deploy"
    assert not (project.root / "inventories" / "fed" / "never").exists()
    wait_for(lambda: not processes(str(project.root)), 5)


def test_second_interrupt_kills(project: Project) -> None:
    project.federation()
    project.playbook("deploy", SLOW.format(seconds=f"62.{os.getpid()}"))
    # A plugin that ignores the interrupt, as one that is deep in a library would.
    project.environment["ANSIBLE_CALLBACKS_ENABLED"] = "deaf"
    plugins = project.root / "callback"
    plugins.mkdir()
    project.environment["ANSIBLE_CALLBACK_PLUGINS"] = str(plugins)
    (plugins / "deaf.py").write_text(
        """\
import signal
from ansible.plugins.callback import CallbackBase

class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "deaf"
    CALLBACK_NEEDS_ENABLED = False

    def v2_playbook_on_play_start(self, play):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
""",
        encoding="utf-8",
    )
    process = start(project, "deploy", "-y", "-f", "fed")
    wait_for(lambda: processes(f"62.{os.getpid()}"))
    process.send_signal(signal.SIGINT)
    time.sleep(1.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=120)
    assert process.returncode == ExitCode.INTERRUPTED
    assert "Stopping at once" in err
    for pid in processes(f"62.{os.getpid()}"):  # the module itself runs in a session of its own
        os.kill(pid, signal.SIGKILL)


def test_killed_wrapper_leaves_no_ansible(project: Project) -> None:
    project.federation()
    project.playbook("deploy", SLOW.format(seconds=f"3.{os.getpid()}"))
    process = start(project, "deploy", "-y", "-f", "fed")
    wait_for(lambda: processes(f"3.{os.getpid()}"))
    process.kill()
    process.communicate(timeout=120)
    wait_for(lambda: not processes(str(project.root)), 20)
    assert not (project.root / "inventories" / "fed" / "never").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="the lock lies in /var/lib/mip")
def test_lock(project: Project) -> None:
    name = f"mipfed-test-{os.getpid()}"
    project.federation(name)
    project.playbook(
        "deploy",
        """\
- hosts: master
  gather_facts: false
  tasks:
    - name: Take the lock
      hbp.mip.federation_lock:
        federation: "{{ inventory_dir | basename }}"
        holder: "{{ other if (other | length) else omit }}"
      vars:
        other: "{{ {'user': 'anna', 'host': 'elsewhere', 'pid': 7, 'command': 'mipfed deploy'} if lookup('env', 'FIRST') else {} }}"
""",
    )
    try:
        free = project.run("-f", name, "lock", "status")
        assert (free.code, free.out.strip()) == (ExitCode.OK, "Nobody holds the lock."), free.err
        project.environment["FIRST"] = "yes"
        assert project.run("-f", name, "deploy", "-y").code == ExitCode.OK
        del project.environment["FIRST"]
        held = project.run("-f", name, "lock", "status", "-o", "json").document["result"]
        assert (held["held"], held["holder"]["user"], held["holder"]["host"]) == (True, "anna", "elsewhere")
        refused = project.run("-f", name, "deploy", "-y", "-o", "json")
        assert refused.code == ExitCode.LOCKED
        (error,) = refused.document["errors"]
        assert error["code"] == "locked"
        assert "anna" in error["message"]
        assert error["next"] == f"mipfed -f {name} lock status"
        assert project.run("-f", name, "lock", "release").code == ExitCode.DECLINED
        assert project.run("-f", name, "lock", "release", "-y").code == ExitCode.OK
        assert project.run("-f", name, "deploy", "-y").code == ExitCode.OK
        holder = project.run("-f", name, "lock", "status", "-o", "json").document["result"]["holder"]
        assert holder["command"] == f"mipfed -f {name} deploy"
    finally:
        shutil.rmtree(Path("/var/lib/mip") / name, ignore_errors=True)


def test_lab_gets_its_variables(project: Project) -> None:
    for verb in ("up", "down"):
        project.playbook(
            f"lab_{verb}",
            """\
- hosts: localhost
  gather_facts: false
  tasks:
    - name: "Report: lab"
      hbp.mip.answer:
        answer: {mip_report: {verb: lab, schema: 1, data: {seen: "{{ seen }}", machines: [{name: a-ms, power: 'on'}]}}}
      vars:
        seen:
          name: "{{ lab_name }}"
          inventory: "{{ lab_inventory_dir }}"
          workers: "{{ lab_workers | default('default') }}"
          base: "{{ lab_base | default('default') }}"
          purge: "{{ lab_purge | default('default') }}"
""",
        )
    up = project.run("lab", "up", "--name", "a", "--workers", "5", "--base", "trixie", "-o", "json")
    assert up.code == ExitCode.OK, up.out + up.err
    expected = {"name": "a", "inventory": str(project.root / "inventories" / "a"), "workers": 5, "base": "trixie", "purge": "default"}
    assert up.document["result"]["seen"] == expected
    down = project.run("lab", "down", "--name", "a", "--purge", "-o", "json").document["result"]["seen"]
    assert (down["purge"], down["workers"]) == (True, "default")
    text = project.run("lab", "up", "--name", "a")
    assert "a-ms" in text.out
    assert "next: mipfed -f a deploy" in text.err


def test_a_reader_that_leaves(project: Project) -> None:
    project.federation()
    argv, environment = project.command("config", "show", "-f", "fed")
    line = " ".join(argv) + " | head -n 1"
    done = subprocess.run(["sh", "-c", line], cwd=project.root, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1
