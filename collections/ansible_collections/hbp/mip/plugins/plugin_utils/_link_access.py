# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: the links that a check has tried without a probe, in the shape of those between nodes; see `_links.judge`.

The pusher's SSH to every node is proven by the connection that asked it, a node's way to the registry by `node_check`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Sender of the SSH links: the host that runs the check, whatever the inventory calls it.
PUSHER = "pusher"
_SSH, _REGISTRY = "the pusher operates the node", "the node gets its images"


def _pair(sender: str, receiver: str, port: int, why: str) -> dict[str, Any]:
    cell: dict[str, Any] = {
        "proto": "tcp", "port": port, "why": why, "verdict": "ok", "name": "", "level": "ok", "evidence": "", "request": "", "who": "",
        "host": "", "commands": {}, "ms": None,
    }  # fmt: skip
    return {"from": sender, "to": receiver, "ok": True, "level": "ok", "mtu": None, "checks": [cell]}


def _bad(pair: dict[str, Any], level: str, **fields: Any) -> dict[str, Any]:
    pair["checks"][0].update(level=level, **fields)
    return {**pair, "level": level, "ok": level in ("ok", "note")}


def ssh(federation: Mapping[str, Any], asked: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the pusher's links to the nodes.

    :arg asked: by node, why it did not answer; empty when it did. Nodes that were not to be asked are not in it.
    """
    pairs = []
    for node in federation["nodes"]:
        if node["name"] not in asked or not node.get("ssh_host"):
            continue
        pair = _pair(PUSHER, node["name"], int(node.get("ssh_port") or 22), _SSH)
        reason = asked[node["name"]]
        if reason:
            where = f"{node['ssh_host']} port {node.get('ssh_port') or 22}"
            pair = _bad(
                pair, "fault", verdict="unreachable", name="unreachable", evidence=reason, who="network",
                request=f"See that {node['name']} is up and that TCP from the pusher to {where} passes",
                commands={"look": [f"nc -zvw3 {node['ssh_host']} {node.get('ssh_port') or 22}"]},
            )  # fmt: skip
        pairs.append(pair)
    return pairs


def registry(federation: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the nodes' links to the registry of the images.

    :arg nodes: results of M(hbp.mip.node_check), by node; a node that looked for no registry has no link.
    """
    pairs = []
    for node in federation["nodes"]:
        result = nodes.get(node["name"], {})
        facts = result.get("facts", {}).get("registry") or {}
        if not facts:
            continue
        pair = _pair(node["name"], f"{facts['host']}:{facts['port']}", int(facts["port"]), _REGISTRY)
        for level, entries in (("fault", result.get("problems", ())), ("note", result.get("warnings_found", ()))):
            found = next((entry for entry in entries if entry["code"].startswith("registry-")), None)
            if found:
                pair = _bad(
                    pair, level, verdict=found["code"].removeprefix("registry-"), name=found["code"], evidence=found["message"],
                    request=found.get("fix", ""), who="sender" if found.get("who") == "host" else "network",
                    host=node["name"] if found.get("who") == "host" else "",
                )  # fmt: skip
                break
        pairs.append(pair)
    return pairs


def joined(
    verdict: Mapping[str, Any], federation: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]], asked: Mapping[str, str] | None
) -> dict[str, Any]:
    """Return a verdict over links with the pusher's and the registry's among its pairs.

    What is wrong with these is among the problems of the nodes already.
    """
    known = dict.fromkeys(nodes, "") if asked is None else asked
    pairs = [*ssh(federation, known), *verdict["pairs"], *registry(federation, nodes)]
    return {**verdict, "pairs": pairs, "ok": all(pair["ok"] for pair in pairs)}
