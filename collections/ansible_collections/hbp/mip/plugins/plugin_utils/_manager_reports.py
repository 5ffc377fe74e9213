# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: who holds the federation's lock on its managers, which managers were unlocked, and where
the master went."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.hbp.mip.plugins.plugin_utils._problems import Problem, Report, problem

TITLES = {
    "lock": "The lock of federation {name} cannot be told:",
    "move": "The master of federation {name} was not moved:",
    "unlock": "Not all managers of federation {name} are unlocked:",
}

_LOCK = ("held", "holder", "since", "expires", "expired", "rebooted", "notice")
_NOBODY = {"held": False, "holder": {}, "since": "", "expires": "", "expired": False, "rebooted": False, "notice": ""}


def lock(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Tell who holds the lock. It is taken on most of the managers, and one of them is enough to keep others out.

    :arg data: ``released``, and ``nodes``, by manager the results of federation_lock as ``seen``.
    :returns: ``held``, ``holder``, ``since``, ``expires``, ``expired``, ``rebooted``, ``notice`` of the lock that counts; ``managers``,
        the same for each with ``name`` and ``answered``; ``silent``, ``released``, ``problems``.
    """
    names = [str(node["name"]) for node in federation["nodes"] if node.get("manager")]
    managers = []
    for name in names:
        seen = (data["nodes"].get(name) or {}).get("seen") or {}
        # A manager that is away, or whose module failed, tells nothing of the lock.
        answered = "held" in seen
        found = {key: seen.get(key, default) for key, default in _NOBODY.items()} if answered else dict(_NOBODY)
        managers.append({"name": name, "answered": answered, **found})
    # After a release the modules tell whose lock it was.
    holding = [entry for entry in managers if entry["held"]] or [entry for entry in managers if entry["holder"]]
    first = holding[0] if holding else next((entry for entry in managers if entry["notice"]), managers[0])
    silent = [entry["name"] for entry in managers if not entry["answered"]]
    problems: list[Problem] = []
    if len(silent) * 2 >= len(names):
        text = f"{', '.join(silent)} did not answer, and that is not less than half of the managers: who holds the lock cannot be told"
        problems.append(problem(silent[0], "unreachable", text, f"mipfed -f {federation['name']} check -l {silent[0]}"))
    report = {key: first[key] for key in _LOCK}
    return {**report, "managers": managers, "silent": silent, "released": bool(data["released"]), "ok": not problems, "problems": problems}


def unlock(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Tell which managers were unlocked.

    :arg data: ``nodes``, by member ``unlocked``, a result of swarm_autolock, and ``now``, one of swarm_info.
    :returns: ``nodes`` with ``name``, ``state`` (unlocked, open, locked, silent) and ``detail``; ``unlocked``, ``problems``.
    """
    name = federation["name"]
    problems: list[Problem] = []
    nodes = []
    for node in federation["nodes"]:
        results = data["nodes"].get(node["name"])
        if node["kind"] == "ui" or results is None:
            continue
        result, now = results.get("unlocked"), results.get("now") or {}
        state, detail = "open", "was not locked"
        if not result:
            state, detail = "silent", "did not answer"
        elif result.get("local_state") == "locked" or result.get("mip_error") == "configuration":
            state, detail = "locked", str(result.get("msg") or "would be unlocked")
            if result.get("failed") or result.get("msg"):
                problems.append(problem(node["name"], "swarm-locked", detail, f"MIPFED_UNLOCK_KEY=… mipfed -f {name} unlock"))
        elif result.get("msg") and not result.get("changed"):
            state, detail = "silent", str(result["msg"])
        elif result.get("changed"):
            state, detail = "unlocked", str(now.get("local_state") or "unlocked")
            if now and now.get("local_state") != "manager":
                text = f"is unlocked, but no working manager yet ({detail})"
                problems.append(problem(node["name"], f"swarm-{detail}", text, f"mipfed -f {name} status"))
        nodes.append({"name": node["name"], "state": state, "detail": detail})
    unlocked = [entry["name"] for entry in nodes if entry["state"] == "unlocked"]
    return {"nodes": nodes, "unlocked": unlocked, "ok": not problems, "problems": problems}


def move(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Tell whether the master was moved.

    :arg data: ``to``, the node; ``planned``, that it was a dry run; ``done``; ``why`` it failed; ``back``, that everything is as it was;
        ``restored``, what keystore_snapshot returned at the new place.
    :returns: ``from``, ``to``, ``state`` (planned, moved, back, broken), ``keys`` of the keystore that were moved, ``problems``.
    """
    name = federation["name"]
    master = next(str(node["name"]) for node in federation["nodes"] if node["kind"] == "master")
    state = "moved" if data["done"] else "planned" if data["planned"] else "back" if data["back"] else "broken"
    problems: list[Problem] = []
    why = str(data["why"] or "the host was lost in the middle")
    if state == "back":
        text = f"did not become the master, and everything runs on {master} again: {why}"
        problems.append(problem(data["to"], "move-back", text, f"mipfed -f {name} verify"))
    elif state == "broken":
        text = f"did not become the master, and it could not be put back: {why}"
        problems.append(problem(data["to"], "move-broken", text, f"mipfed -f {name} deploy   (brings everything back to {master})"))
    keys = len((data.get("restored") or {}).get("written") or ())
    return {"from": master, "to": data["to"], "state": state, "keys": keys, "ok": not problems, "problems": problems}


REPORTS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Report]] = {"lock": lock, "unlock": unlock, "move": move}
