# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: what became of the site kits, and which nodes of the swarm nobody knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.hbp.mip.plugins.plugin_utils._problems import Problem, Report, problem


def members(federation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the nodes that are operated through the swarm only and were accepted."""
    return [node for node in federation.get("kits", ()) if node["site_kit"] == "member"]


def unknown(federation: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """Judge the swarm's nodes that are no members of the federation.

    :arg nodes: as swarm_info and site_kit tell them, with ``id``, ``hostname``, ``name`` and ``address``.
    """
    call = f"mipfed -f {federation['name']}"
    invited = {node["address"]: node["name"] for node in federation.get("kits", ()) if node["site_kit"] == "invited"}
    everything = [*federation["nodes"], *federation.get("disabled", ()), *federation.get("kits", ())]
    names = {node["name"] for node in everything}
    addresses = {node.get("address"): node["name"] for node in everything}
    found = []
    for node in nodes:
        if node["name"] in names:
            continue
        said = f"{node['id']} ({node['hostname']}, {node['address']})"
        if not node["name"] and node["address"] in invited:
            name = invited[node["address"]]
            found.append(
                problem(
                    name,
                    "kit-waiting",
                    f"has joined with its kit as {said} and waits to be accepted",
                    f"Let the hospital read its code, then `{call} kit accept {name} CODE`. If it did not run the kit: "
                    f"`{call} kit revoke {name}`",
                )
            )
        elif not node["name"] and node["address"] in addresses:
            # A member that lost its label, or a new id of one that was installed anew.
            continue
        else:
            found.append(
                problem(
                    node["name"] or node["hostname"] or node["id"],
                    "unknown-node",
                    f"the node {said} is in the swarm, and not in the inventory. Who is in the swarm has the keys of its networks",
                    f"If nobody can tell whose it is: `{call} kit revoke {node['id']}` removes it and rotates the join token",
                )
            )
    return found


def paused(federation: Mapping[str, Any], node: Mapping[str, Any], own: Mapping[str, Any], seen: Mapping[str, Any] | None) -> list[Problem]:
    """Tell that a hospital has paused its part, or may have.

    :arg own: what swarm_info told on the node itself; empty for one that is operated through the swarm only.
    :arg seen: the node as a manager sees it.
    """
    site = own.get("site") or {}
    if site.get("paused"):
        why = f": {site['paused_reason']}" if site.get("paused_reason") else ""
        text = f"paused by the hospital since {site.get('paused_since') or 'an unknown time'}{why}"
        return [problem(node["name"], "paused", text, "Ask the hospital; there, `sudo mip-site resume` takes it back")]
    if node.get("site_kit") and seen and seen.get("status") == "down":
        text = "is away; it joined with a site kit, so that it cannot be told from here whether its hospital has paused it"
        return [problem(node["name"], "kit-away", text, "Ask the hospital; there, `sudo mip-site status` tells")]
    return []


def kit(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Judge what a command did with the kits.

    :arg data: ``action``, ``node`` and ``answer``, the result of site_kit.
    :returns: ``kits``, ``unknown``, and what the action told; ``problems``.
    """
    answer: Mapping[str, Any] = data.get("answer") or {}
    action = str(data["action"])
    report: Report = {
        "action": action,
        "node": data.get("node", ""),
        "kits": answer.get("kits", []),
        "unknown": answer.get("unknown", []),
        "rotated": bool(answer.get("rotated")),
        "ended": answer.get("ended", []),
        "problems": [],
    }
    report.update({key: answer[key] for key in ("path", "signer", "node_id", "removed") if key in answer})
    if answer.get("failed") or (action == "create" and not answer.get("path") and not answer.get("skipped")):
        report["error"] = answer.get("mip_error") or "kit"
        report["problems"].append(problem(str(data.get("node", "")), "kit", str(answer.get("msg") or "no kit was made"), ""))
    elif action == "ls":
        report["problems"] += unknown(federation, report["unknown"])
        call = f"mipfed -f {federation['name']} kit create"
        report["problems"] += [
            problem(
                entry["node"],
                "kit-peers",
                "others joined or left since its kit was made, so that its firewall does not know all of them",
                f"`{call} {entry['node']}` makes a kit that brings it up to date",
            )
            for entry in report["kits"]
            if entry["peers_differ"]
        ]
    return report
