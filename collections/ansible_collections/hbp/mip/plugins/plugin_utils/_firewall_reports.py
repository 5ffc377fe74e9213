# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: what is open on the nodes, for whom, and whether it is what the inventory asks for; see `_reports`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.hbp.mip.plugins.plugin_utils._problems import Problem, Report, problem

#: A sender as M(hbp.mip.firewall) tells it: `NAME (ADDRESS)`, or an address or network alone.
_SENDER = re.compile(r"(?:(?P<node>[a-z0-9-]+) \((?P<named>[0-9.]+)\)|(?P<address>[0-9.]+(?:/[0-9]+)?))")


def firewall(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Say what each node opens for whom, and where that differs from the inventory.

    :arg data: ``asked``, names of the hosts that the playbook was for; ``nodes``, by name, with ``shown``, the result of
        M(hbp.mip.firewall) with O(state=shown); a node that did not answer has none.
    :returns: ``managed`` (whether a deploy cares for the firewalls), ``nodes``, by name, each with

        * ``kind``, ``address``, ``state``: ``in-order``, ``drift``, ``not-set`` (nothing of the federation was ever set there),
          ``unmanaged`` (it differs, and the inventory says that firewalls are left alone), ``failed`` or ``unreachable``
        * ``backend`` and ``backend_reason``, the host's own firewall and how that is known
        * ``allowed``, what the inventory opens: ``{proto, port, from, why, enforced_by}``; ``port`` is 0 for ESP, ``from`` a list of
          ``{node, address}``, where ``node`` is empty for an address that is none of a node's
        * ``closed``: ``{proto, port, whom, why}``, what the guard drops and from whom
        * ``dropped``: ``{what, packets, bytes}`` since the guard was loaded
        * ``drift``, what differs, a line each; ``waiting``, whether a change waits for its confirmation; ``notes``, ``{code, message,
          fix}``, what an administrator should know; ``error``, why it could not be looked at

        ``unreachable``, ``problems``.
    """
    managed = bool(federation["firewall"]["manage"])
    names = {node["address"]: node["name"] for node in federation["nodes"]}
    problems: list[Problem] = []
    nodes: dict[str, dict[str, Any]] = {}
    for node in federation["nodes"]:
        name = node["name"]
        if name not in data["asked"]:
            continue
        shown = data["nodes"].get(name, {}).get("shown")
        found = nodes[name] = _node(node, shown, names)
        if found["state"] in ("drift", "not-set") and not managed:
            found["state"] = "unmanaged"
        elif found["state"] == "not-set":
            fix = f"Run `mipfed -f {federation['name']} deploy`"
            problems.append(problem(name, "firewall-not-set", "nothing of this federation was set in its firewall yet", fix))
        elif found["state"] == "drift":
            fix = f"See who changed it; `mipfed -f {federation['name']} deploy` puts it right"
            problems.append(problem(name, "firewall-drift", f"is not as the inventory says: {'; '.join(found['drift'])}", fix))
    unreachable = [name for name, found in nodes.items() if found["state"] == "unreachable"]
    return {"managed": managed, "nodes": nodes, "unreachable": unreachable, "problems": problems}


def _node(node: Mapping[str, Any], shown: Mapping[str, Any] | None, names: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kind": node["kind"], "address": node["address"], "state": "unreachable", "backend": "", "backend_reason": "", "allowed": [],
        "closed": [], "dropped": [], "drift": [], "waiting": False, "notes": [], "error": "",
    }  # fmt: skip
    if shown is None:
        return found
    found["backend"], found["backend_reason"] = str(shown.get("backend", "")), str(shown.get("backend_reason", ""))
    found["notes"] = [{key: str(entry.get(key, "")) for key in ("code", "message", "fix")} for entry in shown.get("problems", ())]
    if shown.get("failed"):
        found.update(state="failed", error=str(shown.get("msg", "")))
        return found
    for rule in shown.get("rules", ()):
        what = {"proto": rule["proto"], "port": rule["port"], "why": rule["why"]}
        if rule["action"] == "allow":
            senders = [_sender(text, names) for text in rule["from"]]
            found["allowed"].append({**what, "from": senders, "enforced_by": list(rule["enforced_by"])})
        else:
            found["closed"].append({**what, "whom": ", ".join(rule["from"])})
    found["dropped"] = [dict(entry) for entry in shown.get("dropped", ())]
    found["drift"] = list(shown.get("drift", ()))
    found["waiting"] = bool(shown.get("change"))
    found["state"] = "in-order" if not found["drift"] else "drift" if shown.get("set") else "not-set"
    return found


def _sender(text: str, names: Mapping[str, str]) -> dict[str, str]:
    match = _SENDER.fullmatch(text)
    if not match:
        return {"node": "", "address": text}
    address = match["named"] or match["address"]
    return {"node": match["node"] or names.get(address, ""), "address": address}
