# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`mipfed node …` and `token …`: what is guarded, when hosts.yml changes, and what a run is given. The hosts' part is tested on labs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mipfed.exitcodes import ExitCode

from .conftest import Project, Sshd
from .test_trust import on_terminal

#: Reports like the collection's own playbooks, with what the test puts in; fails when told to.
REPORT = """\
- hosts: master
  gather_facts: false
  become: false
  tasks:
    - hbp.mip.federation:
      register: mip
    - ansible.builtin.fail: {{msg: told to}}
      when: inventory_hostname == {fails!r}
    - hbp.mip.report:
        verb: {verb}
        federation: "{{{{ mip }}}}"
        stop: false
        data: {data}
"""
NOTHING = "- hosts: master\n  gather_facts: false\n  become: false\n  tasks:\n    - ansible.builtin.debug: {msg: done}\n"


def reporting(project: Project, playbook: str, verb: str = "node", fails: str = "", **data: Any) -> None:
    given = {"action": "remove", "node": "fed-wk-1", "contact": {"ping": "pong"}, "left": {}, "closed": {}, "master": {}, "peers": {}}
    project.playbook(playbook, REPORT.format(verb=verb, fails=fails, data=json.dumps({**(given if verb == "node" else {}), **data})))


def hosts(folder: Path, group: str = "workers") -> dict[str, Any]:
    import yaml

    found: dict[str, Any] = yaml.safe_load((folder / "hosts.yml").read_text())["all"]["children"][group]["hosts"]
    return found


def new_host(sshd: Sshd, name: str = "fed-wk-9") -> list[str]:
    return ["-f", "fed", "node", "add", name, "--address", "127.0.8.9", "--ssh-address", "127.0.0.1", "--port", str(sshd.port)]


def test_a_new_node_is_written_trusted_and_played(project: Project, sshd: Sshd) -> None:
    folder = project.federation()
    project.playbook("node_add", NOTHING)
    done = project.run(*new_host(sshd), "--host-key", sshd.fingerprint, "-y", "-o", "json")
    assert done.code == ExitCode.OK, done.out + done.err
    assert done.document["result"]["added"] is True
    assert hosts(folder)["fed-wk-9"] == {
        "ansible_host": "127.0.0.1", "mip_address": "127.0.8.9", "ansible_port": sshd.port, "mip_host_key": sshd.fingerprint,
    }  # fmt: skip
    assert sshd.public in (folder / "known_hosts").read_text()
    again = project.run(*new_host(sshd), "-y", "-o", "json")
    assert (again.code, again.document["result"]["added"], again.document["result"]["changed"]) == (ExitCode.OK, False, 0)
    other = project.run("-f", "fed", "node", "add", "fed-wk-9", "--address", "127.0.8.10", "-y")
    assert other.code == ExitCode.USAGE
    assert "node readdress fed-wk-9 --address 127.0.8.10" in other.err


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ([], ExitCode.DECLINED),
        (["-y", "--host-key", "SHA256:" + "A" * 43], ExitCode.CHECK),
        (["-y", "--host-key", "MD5:aa"], ExitCode.USAGE),
        (["-y", "--first-password-file", "nowhere"], ExitCode.USAGE),
    ],
)
def test_a_node_that_is_not_accepted_is_not_written(project: Project, sshd: Sshd, more: list[str], code: ExitCode) -> None:
    folder = project.federation()
    project.playbook("node_add", NOTHING)
    before = (folder / "hosts.yml").read_bytes()
    done = project.run(*new_host(sshd), *more)
    assert done.code == code, done.out + done.err
    assert (folder / "hosts.yml").read_bytes() == before
    assert not (folder / "known_hosts").exists() or not (folder / "known_hosts").read_text()
    assert project.runs() == []


def test_a_host_that_does_not_answer_or_a_name_that_is_none_changes_nothing(project: Project, sshd: Sshd, closed_port: int) -> None:
    folder = project.federation()
    before = (folder / "hosts.yml").read_bytes()
    done = project.run(*new_host(sshd)[:-1], str(closed_port), "-y")
    assert done.code == ExitCode.UNREACHABLE
    done = project.run(*new_host(sshd, "Not.A.Name"), "-y")
    assert done.code == ExitCode.CONFIGURATION
    assert "not a node name" in done.err
    done = project.run("-f", "fed", "node", "add", "fed-wk-9", "--address", "127.0.9.2", "-y")
    assert done.code == ExitCode.CONFIGURATION
    assert "is also that of host" in done.err
    assert (folder / "hosts.yml").read_bytes() == before


def test_the_first_password_reaches_the_run_and_no_file(project: Project, sshd: Sshd) -> None:
    project.federation()
    project.playbook(
        "deploy",
        "- hosts: fed-ms\n  gather_facts: false\n  become: false\n  tasks:\n"
        "    - ansible.builtin.assert:\n"
        "        that: [node_first_password is match('canary-5a .. no .. template$'), node_name == 'fed-wk-9']\n"
        "        quiet: true\n",
    )
    secret = project.root / "secret"
    secret.write_text("canary-5a {{ no }} template\n")
    done = project.run(*new_host(sshd), "--no-data", "--first-password-file", str(secret), "-y")
    assert done.code == ExitCode.OK, done.out + done.err
    secret.unlink()
    found = [
        path for top in (project.root, project.state) for path in top.rglob("*") if path.is_file() and b"canary-5a" in path.read_bytes()
    ]
    assert found == []


def test_a_node_leaves_the_inventory_when_all_is_done_and_not_before(project: Project) -> None:
    folder = project.federation()
    before = (folder / "hosts.yml").read_bytes()
    silent = {"forgotten": {"changed": False, "keys": [], "problems": [{"code": "no-keystore", "message": "silent", "fix": "deploy"}]}}
    reporting(project, "node_remove", master=silent)
    done = project.run("-f", "fed", "node", "remove", "fed-wk-1", "-y")
    assert done.code == ExitCode.CHECK
    assert "node remove fed-wk-1" in done.err
    reporting(project, "node_remove", fails="fed-ms")
    assert project.run("-f", "fed", "node", "remove", "fed-wk-1", "-y").code == ExitCode.FAILED
    assert project.run("-f", "fed", "node", "remove", "fed-wk-1").code == ExitCode.DECLINED
    assert (folder / "hosts.yml").read_bytes() == before
    reporting(project, "node_remove", contact={})
    done = project.run("-f", "fed", "node", "remove", "fed-wk-1", "-y", "-o", "json")
    assert done.code == ExitCode.OK, done.out + done.err
    states = {step["step"]: step["state"] for step in done.document["result"]["steps"]}
    assert (states["host"], states["inventory"]) == ("impossible", "done")
    assert list(hosts(folder)) == ["fed-wk-2"]


def test_who_cannot_be_removed(project: Project) -> None:
    folder = project.federation(workers=1)
    before = (folder / "hosts.yml").read_bytes()
    for name, code, words in (
        ("fed-ms", ExitCode.USAGE, "without it there is no federation"),
        ("fed-wk-1", ExitCode.CONFIGURATION, "the only worker"),
        ("fed-wk-7", ExitCode.NO_HOSTS, "has no node fed-wk-7"),
    ):
        done = project.run("-f", "fed", "node", "remove", name, "-y")
        assert (done.code, words in done.err) == (code, True), done.err
    assert (folder / "hosts.yml").read_bytes() == before
    assert project.runs() == []


def test_a_node_is_set_aside_and_used_again(project: Project) -> None:
    folder = project.federation()
    before = (folder / "hosts.yml").read_bytes()
    reporting(project, "node_disable", action="disable")
    done = project.run("-f", "fed", "node", "disable", "fed-wk-1", "--reason", "New  roof: 'soon'", "-y", "-o", "json")
    assert done.code == ExitCode.OK, done.out + done.err
    disabled = hosts(folder)["fed-wk-1"]["mip_disabled"]
    assert disabled["reason"] == "New roof: 'soon'"
    assert done.document["result"]["disabled"] == disabled
    listed = project.run("-f", "fed", "node", "ls").out
    assert f"disabled since {disabled['since']}: New roof: 'soon'" in listed
    # It is in no progress and in no plan of a run.
    project.playbook("deploy", NOTHING)
    again = project.run("-f", "fed", "node", "disable", "fed-wk-1", "--reason", "New roof: 'soon'", "-y", "-o", "json")
    assert again.document["result"]["steps"][0] == {**again.document["result"]["steps"][0], "step": "inventory", "state": "nothing"}
    assert hosts(folder)["fed-wk-1"]["mip_disabled"] == disabled
    assert "fed-wk-1 is disabled" in project.run("-f", "fed", "node", "replace", "fed-wk-1", "-y").err
    done = project.run("-f", "fed", "node", "enable", "fed-wk-1", "-y", "-o", "json")
    assert (done.code, done.document["result"]["enabled"]) == (ExitCode.OK, True)
    assert (folder / "hosts.yml").read_bytes() == before


def test_a_locked_federation_is_not_set_aside(project: Project) -> None:
    folder = project.federation()
    before = (folder / "hosts.yml").read_bytes()
    project.module(
        "locked", "from ansible.module_utils.basic import AnsibleModule\nAnsibleModule({}).fail_json(msg='held', mip_error='locked')\n"
    )
    project.playbook("node_disable", "- hosts: fed-ms\n  gather_facts: false\n  become: false\n  tasks:\n    - hbp.mip.locked:\n")
    done = project.run("-f", "fed", "node", "disable", "fed-wk-1", "--reason", "x", "-y")
    assert done.code == ExitCode.LOCKED
    assert (folder / "hosts.yml").read_bytes() == before


def test_a_changed_host_key_is_replaced_only_by_somebody_who_knows_it(project: Project, sshd: Sshd) -> None:
    folder = project.federation()
    for playbook in ("node_add", "node_replace"):
        project.playbook(playbook, NOTHING)
    assert project.run(*new_host(sshd), "-y").code == ExitCode.OK
    pinned = (folder / "known_hosts").read_text()
    sshd.new_key()
    replace = ("-f", "fed", "node", "replace", "fed-wk-9")
    done = project.run(*replace, "-y")
    assert done.code == ExitCode.DECLINED
    assert f"node replace fed-wk-9 --host-key {sshd.fingerprint}" in done.err
    assert project.run(*replace, "-y", "--host-key", "SHA256:" + "A" * 43).code == ExitCode.CHECK
    assert on_terminal(project, "no\n", *replace)[0] == ExitCode.DECLINED
    assert (folder / "known_hosts").read_text() == pinned
    code, text = on_terminal(project, "yes\n", *replace)
    assert code == ExitCode.OK, text
    assert sshd.fingerprint in text
    assert sshd.public in (folder / "known_hosts").read_text()
    assert (folder / "known_hosts").read_text() != pinned
    sshd.new_key()
    done = project.run(*replace, "-y", "--host-key", sshd.fingerprint)
    assert done.code == ExitCode.OK, done.out + done.err
    assert sshd.public in (folder / "known_hosts").read_text()


def test_another_address(project: Project, sshd: Sshd) -> None:
    folder = project.federation(variables={"fed-wk-2": {"mip_swarm_manager": True, "ansible_connection": "local"}})
    for playbook in ("node_add", "node_replace"):
        project.playbook(playbook, NOTHING)
    assert project.run(*new_host(sshd), "-y").code == ExitCode.OK
    before = hosts(folder)["fed-wk-9"]
    done = project.run("-f", "fed", "node", "readdress", "fed-wk-9", "--address", "127.0.8.77", "-y")
    assert done.code == ExitCode.OK, done.out + done.err
    assert hosts(folder)["fed-wk-9"] == {**before, "mip_address": "127.0.8.77"}
    for name in ("fed-ms", "fed-wk-2"):
        done = project.run("-f", "fed", "node", "readdress", name, "--address", "127.0.8.78", "-y")
        assert done.code == ExitCode.CHECK
        assert "is a manager of the swarm" in done.err


def test_drain_and_tokens(project: Project) -> None:
    project.federation()
    retired = {"drained": {"changed": True, "found": [{"id": "x1", "action": "drained"}], "services": []}}
    reporting(project, "node_availability", action="drain", master=retired)
    done = project.run("-f", "fed", "node", "drain", "fed-wk-1", "-y", "-o", "json")
    assert done.document["result"]["steps"] == [{"step": "availability", "state": "done", "detail": "takes no tasks any more (x1)"}]
    assert project.run("-f", "fed", "node", "drain", "fed-ui", "-y").code == ExitCode.USAGE
    reporting(project, "token_rotate", verb="token", rotated={"rotated": ["worker", "manager"], "ca": {}, "cluster_id": "c"})
    done = project.run("-f", "fed", "token", "rotate", "-y")
    assert done.code == ExitCode.OK
    assert "Replaced the join tokens for workers and managers." in done.out
    reporting(project, "token_rotate", verb="token", rotated={"msg": "no majority"})
    assert project.run("-f", "fed", "token", "rotate", "worker", "-y").code == ExitCode.CHECK
    assert project.run("-f", "fed", "token", "rotate").code == ExitCode.DECLINED
    # A federation whose managers are not locked has no unlock key.
    assert project.run("-f", "fed", "token", "rotate", "--unlock-key", "-y").code == ExitCode.CONFIGURATION


KIT = {"fed-wk-2": {"mip_site_kit": "member"}}


def test_a_hospital_with_a_kit_is_listed_with_how_it_is_operated(project: Project) -> None:
    project.federation(variables=KIT)
    listed = project.run("-f", "fed", "node", "ls", "-o", "json").document["result"]["nodes"]
    assert {node["name"]: node["operated"] for node in listed} == {
        "fed-ms": "local", "fed-ui": "local", "fed-wk-1": "local", "fed-wk-2": "swarm",
    }  # fmt: skip
    assert "through the swarm only" in project.run("-f", "fed", "node", "ls").out


def test_a_hospital_with_a_kit_is_removed_through_the_swarm_only(project: Project) -> None:
    folder = project.federation(variables=KIT)
    reporting(project, "node_remove_kit", node="fed-wk-2", contact={}, master={"kit": {"changed": True, "rotated": True}})
    done = project.run("-f", "fed", "node", "remove", "fed-wk-2", "-y", "-o", "json")
    assert done.code == ExitCode.OK, done.out + done.err
    told = {step["step"]: step["state"] for step in done.document["result"]["steps"]}
    assert (told["host"], told["kit"], told["inventory"]) == ("impossible", "done", "done")
    assert "fed-wk-2" not in hosts(folder)


def test_a_hospital_with_a_kit_is_drained_and_disabled_like_any_other(project: Project) -> None:
    folder = project.federation(variables=KIT)
    retired = {"drained": {"found": [{"id": "x1", "action": "drained"}], "changed": True}}
    reporting(project, "node_availability", action="drain", node="fed-wk-2", master=retired)
    assert project.run("-f", "fed", "node", "drain", "fed-wk-2", "-y").code == ExitCode.OK
    reporting(project, "node_disable", action="disable", node="fed-wk-2", master={"stopped": {"changed": True}})
    done = project.run("-f", "fed", "node", "disable", "fed-wk-2", "--reason", "new roof", "-y")
    assert done.code == ExitCode.OK, done.out + done.err
    assert hosts(folder)["fed-wk-2"]["mip_disabled"]["reason"] == "new roof"
    assert "disabled since" in project.run("-f", "fed", "node", "ls").out


@pytest.mark.parametrize(
    ("arguments", "instead"),
    [
        (["replace", "fed-wk-2"], "node remove fed-wk-2"),
        (["readdress", "fed-wk-2", "--address", "192.0.2.9"], "node remove fed-wk-2"),
        (["add", "fed-wk-2", "--address", "127.0.9.5"], "kit create fed-wk-2"),
    ],
)
def test_what_needs_ssh_says_so_of_a_hospital_with_a_kit(project: Project, arguments: list[str], instead: str) -> None:
    folder = project.federation(variables=KIT)
    before = (folder / "hosts.yml").read_bytes()
    done = project.run("-f", "fed", "node", *arguments, "-y")
    assert done.code == ExitCode.USAGE
    assert "no access over SSH" in done.err
    assert instead in done.err
    assert (folder / "hosts.yml").read_bytes() == before


def test_a_hospital_that_was_only_invited_cannot_be_drained(project: Project) -> None:
    project.federation(variables={"fed-wk-2": {"mip_site_kit": "invited"}})
    done = project.run("-f", "fed", "node", "drain", "fed-wk-2", "-y")
    assert done.code == ExitCode.USAGE
    assert "is no member yet" in done.err


def test_commands_that_need_ssh_say_which_hospitals_they_leave_out(project: Project) -> None:
    project.federation(variables=KIT)
    said = "Not on fed-wk-2: joined with a site kit"
    for command, told in (("check", True), ("status", False)):
        reporting(project, command)
        assert (said in project.run("-f", "fed", command).err) is told, command
