# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: are the machines that answered those that the inventory means, and may the first contact be made?"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from ansible_collections.hbp.mip.plugins.plugin_utils._problems import Problem, Report, problem

_DENIED = re.compile(r"permission denied|invalid/incorrect (?:username/)?password|authentication fail", re.IGNORECASE)


def _last_line(text: Any) -> str:
    lines = [line.strip() for line in str(text or "").splitlines() if line.strip()]
    return lines[-1] if lines else "it does not answer"


def _met(results: Mapping[str, Any], by_key: str, by_password: str) -> dict[str, str]:
    """Return what a node answered: its state before it is compared with the others, its names, and why it has none."""
    for way, state in (("key", "open"), ("password", "ready")):
        facts = (results.get(way) or {}).get("ansible_facts") or {}
        if facts.get("ansible_hostname"):
            machine = str(facts.get("ansible_machine_id") or "")
            return {"state": state, "hostname": str(facts["ansible_hostname"]), "machine_id": machine, "message": ""}
    tried = "password" in results or by_password not in ("", "it was not asked")
    failed = results.get("password" if tried else "key") or {}
    said = str(failed.get("msg") or failed.get("module_stderr") or "") or (by_password if tried else by_key)
    state = "unreachable" if not failed else "failed"
    if _DENIED.search(said) and not failed:
        state = "denied"
        said = "it refuses this account and password" if tried else "it does not let the federation's key in, and no password is known"
    return {"state": state, "hostname": "", "machine_id": "", "message": _last_line(said)}


def contact(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Judge who answered.

    :arg data: ``nodes``, by node name the results ``key`` and ``password`` of the two ways in; ``unanswered`` and ``refused``, by node why
        there is none of the first and of the second; ``hostnames``, by node the host name that is expected, otherwise the node's.
    :returns: ``nodes``, by name ``{state, address, hostname, machine_id, message}``. state is open (the key lets in), ready (the password
        does), other (another host name), twin (the machine of another node), denied, failed or unreachable.
    """
    addresses = {str(node["name"]): str(node["address"]) for node in federation["nodes"]}
    expected: Mapping[str, str] = data.get("hostnames") or {}
    nodes: dict[str, dict[str, str]] = {}
    machines: dict[str, list[str]] = defaultdict(list)
    problems: list[Problem] = []
    for name, results in data["nodes"].items():
        nodes[name] = {"address": addresses.get(name, ""), **_met(results, data["unanswered"].get(name, ""), data["refused"].get(name, ""))}
        if nodes[name]["machine_id"]:
            machines[nodes[name]["machine_id"]].append(name)
    for name, node in nodes.items():
        wanted = str(expected.get(name) or name).partition(".")[0].lower()
        found = node["hostname"].partition(".")[0].lower()
        same = [other for other in machines.get(node["machine_id"], ()) if other != name]
        if same:
            message = f"the machine at {node['address']} is also that of {', '.join(same)}: it calls itself {node['hostname']}"
            node.update(state="twin", message=message)
            fix = f"Correct the address of one of them: mipfed -f {federation['name']} node ls"
            problems.append(problem(name, "twin-machine", message, fix))
        elif found and found != wanted:
            other = f"; that is the name of another node ({addresses[found]})" if found in addresses else ""
            message = f"the machine at {node['address']} calls itself {node['hostname']}{other}"
            node.update(state="other", message=message)
            fix = f"When it is the right one: mipfed init {federation['name']} --hostname {name}={node['hostname']}"
            problems.append(problem(name, "wrong-machine", message, fix))
        elif node["state"] in ("denied", "failed", "unreachable"):
            problems.append(problem(name, node["state"], node["message"], f"mipfed init {federation['name']}"))
    return {"nodes": nodes, "problems": problems, "ok": not problems}


REPORTS = {"contact": contact}
TITLES = {"contact": "Not every machine of federation {name} is the one that is meant, or lets us in:"}
