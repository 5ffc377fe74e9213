# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: pure functions that judge what was collected from the nodes.

Each takes the resolved federation and the collected data and returns a report: a dictionary with at least ``problems``,
a list of ``{node, code, message, fix}``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

Report = dict[str, Any]
Problem = dict[str, str]

#: First line of the message when a report stops a run.
TITLES = {
    "check": "Nothing was changed: these nodes of federation {name} are not fit.",
    "status": "Federation {name} is not healthy:",
    "verify": "Federation {name} does not work as it should:",
}


def problem(node: str, code: str, message: str, fix: str) -> Problem:
    """Return a problem: its node, a stable code, what is wrong, and the next thing to do."""
    return {"node": node, "code": code, "message": message, "fix": fix}


def sentence(entry: Mapping[str, str]) -> str:
    """Return a problem as one line of text."""
    return f"  - {entry['node']}: {entry['message']} [{entry['code']}]" + (f"\n    {entry['fix']}" if entry.get("fix") else "")


def _twins(nodes: Mapping[str, Mapping[str, Any]], key: str) -> list[tuple[str, list[str]]]:
    """Return the values of a fact that more than one node shows."""
    seen: dict[str, list[str]] = defaultdict(list)
    for name, node in nodes.items():
        value = str(node.get("facts", {}).get(key) or "")
        if value:
            seen[value].append(name)
    return [(value, names) for value, names in seen.items() if len(names) > 1]


def _swarm_of(node: Mapping[str, Any]) -> Mapping[str, Any]:
    swarm = node.get("facts", {}).get("swarm") or {}
    return swarm if isinstance(swarm, Mapping) else {}


def check(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Judge the nodes before anything is changed.

    :arg data: ``nodes``, the result of node_check by node name; a node that did not answer is not in it.
    :returns: ``nodes`` with their facts, problems and warnings; ``problems`` of all of them and between them; ``unreachable``.
    """
    nodes: Mapping[str, Mapping[str, Any]] = data["nodes"]
    problems = [
        problem(name, entry["code"], entry["message"], entry.get("fix", "")) for name, node in nodes.items() for entry in node["problems"]
    ]
    for key, what in (("machine_id", "machine id"), ("hostname", "host name")):
        for value, names in _twins(nodes, key):
            fix = (
                "Give the clone its own: rm /etc/machine-id /var/lib/dbus/machine-id && systemd-machine-id-setup && reboot"
                if key == "machine_id"
                else "hostnamectl set-hostname NAME"
            )
            problems.append(problem(", ".join(names), f"twin-{key.replace('_', '-')}", f"share the {what} {value}", fix))
    master = next(node["name"] for node in federation["nodes"] if node["kind"] == "master")
    expected = _swarm_of(nodes[master]).get("cluster_id") if master in nodes else None
    for node in federation["nodes"]:
        swarm = _swarm_of(nodes.get(node["name"], {}))
        cluster = swarm.get("cluster_id")
        if node["kind"] != "ui" and cluster and master in nodes and cluster != expected:
            of_master = f"the federation's is {expected}" if expected else f"the master {master} is in none"
            problems.append(
                problem(
                    node["name"],
                    "swarm-foreign",
                    f"is in another swarm ({cluster}; {of_master}); it was not touched",
                    "If that swarm is no longer needed, run `docker swarm leave` on the node yourself, then deploy again",
                )
            )
    unreachable = [node["name"] for node in federation["nodes"] if node["name"] not in nodes]
    report: Report = {"nodes": nodes, "unreachable": unreachable, "problems": problems}
    if master in unreachable and data.get("needs_master", False):
        report["problems"] = [
            problem(
                master, "unreachable", "the master does not answer, and nothing can be done without it", f"mipfed check --limit {master}"
            ),
            *problems,
        ]
        report["error"] = "unreachable"
    return report


REPORTS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Report]] = {"check": check}
