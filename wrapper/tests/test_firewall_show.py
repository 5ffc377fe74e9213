# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`mipfed firewall show`: the collection's own playbook, role, rules and report; what a host's firewall says is given by the test."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import yaml

from mipfed.exitcodes import ExitCode

from .conftest import COLLECTION, MAIN_YML, Project, make_key

#: Answers as the module does, with its own rules for what is wanted; the host's state is in STATES, by the host's address.
MODULE = """\
#!/usr/bin/python
from __future__ import annotations
import json
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hbp.mip.plugins.module_utils import _firewall
module = AnsibleModule(json.loads(%r), supports_check_mode=True)
state = json.loads(%r).get(module.params["address"], {})
if "msg" in state:
    module.fail_json(msg=state["msg"], mip_error="firewall-no-systemd", fix="use a host with systemd", problems=[])
wanted = _firewall.settings(module.params)
answer = dict(
    changed=False, backend="ufw", backend_reason="ufw is enabled", rules=_firewall.report(wanted, "ufw"), drift=[], dropped=[], set=True,
    change="", problems=[], kernel={},
)
answer.update(state)
module.exit_json(**answer)
"""
DOCUMENTATION = (COLLECTION / "plugins/modules/firewall.py").read_text(encoding="utf-8").split('DOCUMENTATION = r"""')[1].split('"""')[0]
OPTIONS = json.dumps(
    {
        name: {key: option[key] for key in ("type", "elements", "default") if key in option}
        for name, option in yaml.safe_load(DOCUMENTATION)["options"].items()
    }
)
MASTER, UI, FIRST, SECOND = "127.0.9.2", "127.0.9.3", "127.0.9.4", "127.0.9.5"


def stand_in(states: dict[str, Any]) -> str:
    """Return the module, with the real one's options, for hosts in these states."""
    return MODULE % (OPTIONS, json.dumps(states))


def federation(project: Project, states: dict[str, Any] | None = None, *, main: str = MAIN_YML, **variables: dict[str, Any]) -> None:
    """Make a federation whose hosts' firewalls are in these states."""
    project.federation(main=main, variables={name.replace("_", "-"): given for name, given in variables.items()})
    for name in ("firewall.yml", "_inventory.yml"):
        shutil.copy(COLLECTION / "playbooks" / name, project.collections / "ansible_collections/hbp/mip/playbooks" / name)
    project.module("firewall", stand_in(states or {}))


def away(project: Project, port: int) -> dict[str, Any]:
    """Return the variables of a host that refuses SSH."""
    key = project.root / "id"
    make_key(key)
    public = " ".join(key.with_suffix(".pub").read_text(encoding="utf-8").split()[:2])
    (project.root / "known").write_text(f"[127.0.0.1]:{port} {public}\n", encoding="utf-8")
    return {
        "ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": port, "mip_address": SECOND,
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={project.root / 'known'}", "ansible_ssh_private_key_file": str(key),
    }  # fmt: skip


def test_in_order(project: Project) -> None:
    federation(project, {MASTER: {"dropped": [{"what": "4789: overlay data, from anyone", "packets": 3, "bytes": 300}]}})
    done = project.run("-f", "fed", "firewall", "show", "-o", "json")
    assert done.code == ExitCode.OK, done.err + done.out
    result = done.document["result"]
    assert list(result) == ["managed", "nodes", "unreachable", "problems"]
    assert result["managed"] and not result["unreachable"] and not result["problems"]
    assert list(result["nodes"]) == ["fed-ms", "fed-ui", "fed-wk-1", "fed-wk-2"]
    for node in result["nodes"].values():
        assert list(node) == [
            "kind", "address", "state", "backend", "backend_reason", "allowed", "closed", "dropped", "drift", "waiting", "notes", "error",
        ]  # fmt: skip
        assert node["state"] == "in-order"
    master = result["nodes"]["fed-ms"]
    allowed = {(rule["proto"], rule["port"]): rule for rule in master["allowed"]}
    assert list(allowed["tcp", 2377]) == ["proto", "port", "why", "from", "enforced_by"]
    assert allowed["tcp", 2377]["from"] == [{"node": "fed-wk-1", "address": FIRST}, {"node": "fed-wk-2", "address": SECOND}]
    assert allowed["esp", 0]["why"] == "encrypted overlay" and allowed["esp", 0]["enforced_by"] == ["ufw", "guard"]
    # the portal's address is known by its node's name as well
    assert allowed["tcp", 9090]["from"] == [{"node": "fed-ui", "address": UI}]
    assert {"proto": "tcp", "port": 7946, "why": "gossip of the swarm", "whom": "anyone but the peers"} in master["closed"]
    assert result["nodes"]["fed-ui"]["allowed"] == result["nodes"]["fed-ui"]["closed"] == []
    assert ("tcp", 2377) not in {(rule["proto"], rule["port"]) for rule in result["nodes"]["fed-wk-1"]["allowed"]}

    shown = project.run("-f", "fed", "firewall", "show").out
    assert f"fed-ms (master, {MASTER}), ufw: in order" in shown
    assert "2377/tcp" in shown and "ESP (IP protocol 50)" in shown and f"fed-wk-2 ({SECOND})" in shown
    assert "nothing is opened on it, and nothing guarded" in shown
    assert "dropped since the guard was loaded: 3 packets (4789: overlay data, from anyone)" in shown
    assert "closed for anyone over IPv6: " in shown


def test_drift_is_4(project: Project) -> None:
    note = {"code": "firewall-masquerade", "message": "zone public masquerades", "fix": "remove it"}
    state = {"drift": ["/etc/ufw/user.rules differs", "the guard is not loaded"], "change": "abc", "problems": [note]}
    federation(project, {FIRST: state, SECOND: {"set": False, "drift": ["nothing is there"]}})
    done = project.run("-f", "fed", "firewall", "show", "-o", "json")
    assert done.code == ExitCode.CHECK
    errors = {(error["host"], error["code"]): error for error in done.document["errors"]}
    assert set(errors) == {("fed-wk-1", "firewall-drift"), ("fed-wk-2", "firewall-not-set")}
    assert "/etc/ufw/user.rules differs; the guard is not loaded" in errors["fed-wk-1", "firewall-drift"]["message"]
    assert "mipfed -f fed deploy" in errors["fed-wk-2", "firewall-not-set"]["next"]
    node = done.document["result"]["nodes"]["fed-wk-1"]
    assert (node["state"], node["drift"], node["waiting"], node["notes"]) == ("drift", state["drift"], True, [note])
    shown = project.run("-f", "fed", "firewall", "show")
    assert shown.code == ExitCode.CHECK
    for words in (
        "differs: the guard is not loaded",
        "a change waits",
        "note: zone public masquerades [firewall-masquerade]",
        "nothing set yet",
    ):
        assert words in shown.out
    assert "to be opened" in shown.out and "differs: nothing is there" not in shown.out


def test_a_node_that_is_away(project: Project, closed_port: int) -> None:
    federation(project, {MASTER: {}}, fed_wk_2=away(project, closed_port))
    done = project.run("-f", "fed", "firewall", "show", "-o", "json")
    assert done.code == ExitCode.UNREACHABLE, done.out
    result = done.document["result"]
    assert result["unreachable"] == ["fed-wk-2"] and result["nodes"]["fed-wk-2"]["state"] == "unreachable"
    assert result["nodes"]["fed-ms"]["state"] == "in-order" and not result["problems"]
    shown = project.run("-f", "fed", "firewall", "show")
    assert "fed-wk-2 (worker, 127.0.9.5): unreachable" in shown.out, shown.err
    # alone it has a report as well, made by the pusher; and what differs elsewhere counts more
    alone = project.run("-f", "fed", "firewall", "show", "fed-wk-2", "-o", "json")
    assert (alone.code, list(alone.document["result"]["nodes"])) == (ExitCode.UNREACHABLE, ["fed-wk-2"])
    project.module("firewall", stand_in({MASTER: {"drift": ["x"]}}))
    assert project.run("-f", "fed", "firewall", "show").code == ExitCode.CHECK


def test_a_host_that_cannot_be_looked_at(project: Project) -> None:
    federation(project, {FIRST: {"msg": "this host does not run systemd"}})
    done = project.run("-f", "fed", "firewall", "show", "-o", "json")
    assert done.code == ExitCode.FAILED
    node = done.document["result"]["nodes"]["fed-wk-1"]
    assert (node["state"], node["error"]) == ("failed", "this host does not run systemd")
    assert done.document["result"]["nodes"]["fed-wk-2"]["state"] == "in-order"


def test_firewalls_that_are_left_alone(project: Project) -> None:
    federation(project, {FIRST: {"set": False, "drift": ["x"]}}, main=MAIN_YML + "mip_firewall: {manage: false}\n")
    done = project.run("-f", "fed", "firewall", "show", "-o", "json")
    assert done.code == ExitCode.OK, done.err
    assert not done.document["result"]["managed"]
    assert done.document["result"]["nodes"]["fed-wk-1"]["state"] == "unmanaged"


def test_only_some_nodes(project: Project) -> None:
    federation(project, {MASTER: {"drift": ["x"]}})
    done = project.run("-f", "fed", "firewall", "show", "fed-wk-1", "fed-ui", "-o", "json")
    assert done.code == ExitCode.OK, done.out
    assert list(done.document["result"]["nodes"]) == ["fed-ui", "fed-wk-1"]
    for names in (["nobody"], ["fed-wk-1", "nobody"], ["workers"]):
        unknown = project.run("-f", "fed", "firewall", "show", *names)
        assert unknown.code == ExitCode.NO_HOSTS, names
        assert f"fed has no node {names[-1]}." in unknown.err and "mipfed -f fed node ls" in unknown.err


@pytest.mark.parametrize("option", ["--limit", "--check"])
def test_options_without_a_meaning(project: Project, option: str) -> None:
    project.federation()
    arguments = [option, "fed-ms"] if option == "--limit" else [option]
    assert project.run(*arguments, "-f", "fed", "firewall", "show").code == ExitCode.USAGE
