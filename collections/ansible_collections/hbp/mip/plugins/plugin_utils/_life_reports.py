# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: what was done when a node came, went or was set aside, and what could not be done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.hbp.mip.plugins.plugin_utils._problems import Problem, Report, problem

_DONE = {
    "drained": "takes no tasks any more",
    "activated": "takes tasks again",
    "demoted": "is no manager any more, and takes no tasks",
    "removed": "removed from the swarm",
    "forced": "removed from the swarm although it did not leave",
}


def _step(step: str, state: str, detail: str) -> dict[str, str]:
    """Return a step: ``done``, ``nothing`` (to do) or ``impossible``."""
    return {"step": step, "state": state, "detail": detail}


def _nodes(result: Mapping[str, Any], step: str, nothing: str) -> list[dict[str, str]]:
    """Return the steps of swarm_retire."""
    if not result:
        return []
    steps = []
    for node in result.get("found") or ():
        if node["action"]:
            said = f"{_DONE[node['action']]} ({node['id']})"
            steps.append(_step(step, "done", said))
    if result.get("services"):
        steps.append(_step("services", "done", f"removed {', '.join(result['services'])}"))
    return steps or [_step(step, "nothing", nothing)]


def _by_kit(federation: Mapping[str, Any], name: str) -> bool:
    """Tell whether a node is operated through the swarm only."""
    return any(node["name"] == name and node.get("site_kit") for node in [*federation.get("kits", ()), *federation.get("disabled", ())])


def _left(federation: Mapping[str, Any], data: Mapping[str, Any], name: str, problems: list[Problem]) -> list[dict[str, str]]:
    """Return what happened on the node itself when it was removed."""
    if _by_kit(federation, name):
        detail = "it joined with a site kit and gives no access over SSH, so that nothing was done there"
        return [{**_step("host", "impossible", detail), "next": "For the hospital, on it: sudo mip-site leave"}]
    if "ping" not in data["contact"]:
        by_hand = "If it comes back, on it: docker swarm leave --force"
        if federation["firewall"]["manage"]:
            unit, table = f"mip-firewall-{federation['name']}.service", f"mip_{federation['name'].replace('-', '_')}"
            by_hand += f"; systemctl disable --now {unit}; nft delete table inet {table}"
        detail = "it does not answer over SSH, so that it did not leave the swarm itself, and its firewall is as it was"
        return [{**_step("host", "impossible", detail), "next": by_hand}]
    steps = []
    left = data["left"]
    if left and not left.get("skipped"):
        if left.get("local_state") == "none":
            state = "done" if left.get("changed") else "nothing"
            steps.append(_step("leave", state, "left the swarm" if left.get("changed") else "was in no swarm"))
        else:
            problems.append(problem(name, "not-left", str(left.get("msg") or "it did not leave the swarm"), "On it: docker swarm leave"))
    closed = data["closed"]
    if closed and not closed.get("skipped"):
        steps.append(_step("guard", "done" if closed.get("changed") else "nothing", "the federation's guard and rules on it are gone"))
    return steps


def node(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Tell what was done to one node.

    :arg data: ``action``, ``node``, and the results of the role node: ``contact``, ``left``, ``closed`` of the node, ``master`` of the
        master by name (``drained``, ``retired``, ``forgotten``, ``stopped``), ``peers`` with ``made`` of the firewall by peer.
    :returns: ``action``, ``node``, ``steps`` (``step, state, detail`` and perhaps ``next``; state is done, nothing or impossible),
        ``problems``.
    """
    name, action, master = str(data["node"]), str(data["action"]), data["master"]
    problems: list[Problem] = []
    steps = _nodes(master.get("drained", {}), "availability", "was so already, or is not in the swarm")
    if action == "remove":
        steps += _left(federation, data, name, problems)
    steps += _nodes(master.get("retired", {}), "swarm", "is not in the swarm")
    stopped = master.get("stopped")
    if stopped:
        steps.append(_step("engine", "done" if stopped.get("changed") else "nothing", "its engine is stopped"))
    forgotten = master.get("forgotten")
    if forgotten:
        keys = forgotten.get("keys") or []
        steps.append(_step("keystore", "done" if keys else "nothing", f"deleted {', '.join(keys)}" if keys else "knows nothing of it"))
        problems += [problem(name, entry["code"], entry["message"], entry["fix"]) for entry in forgotten.get("problems") or ()]
    kit = master.get("kit")
    if kit:
        rotated = "; the join token was replaced" if kit.get("rotated") else ""
        steps.append(_step("kit", "done" if kit.get("changed") else "nothing", f"its kit is of no use any more{rotated}"))
    if action == "remove":
        closed = [peer for peer, results in data["peers"].items() if (results.get("made") or {}).get("changed")]
        if federation["firewall"]["manage"]:
            detail = f"closed to it on {', '.join(closed)}" if closed else "were not open to it"
            steps.append(_step("firewalls", "done" if closed else "nothing", detail))
    return {"action": action, "node": name, "steps": steps, "ok": not problems, "problems": problems}


def token(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Tell which tokens were replaced.

    :arg data: ``rotated``, the result of swarm_rotate, and ``autolock``, one of swarm_autolock if the unlock key was to be replaced.
    :returns: ``rotated``, ``ca``, ``unlock_key`` (``rotated``, ``behind``), ``problems``.
    """
    result = data["rotated"]
    master = next(entry["name"] for entry in federation["nodes"] if entry["kind"] == "master")
    status = f"mipfed -f {federation['name']} status"
    problems: list[Problem] = []
    if "cluster_id" not in result or (result.get("msg") and not result.get("rotated")):
        problems.append(problem(master, "not-rotated", str(result.get("msg")), status))
    key = data.get("autolock") or {}
    unlock_key = {"rotated": bool(key.get("changed")) and not key.get("failed"), "behind": list(key.get("behind") or ())}
    if key and not key.get("skipped") and not unlock_key["rotated"]:
        unused = "the swarm does not use autolock (mip_swarm_autolock), so that there is no unlock key"
        problems.append(problem(master, "unlock-key-not-rotated", str(key.get("msg") or unused), status))
    done = {"rotated": result.get("rotated", []), "ca": result.get("ca", {}), "unlock_key": unlock_key}
    return {**done, "ok": not problems, "problems": problems}
