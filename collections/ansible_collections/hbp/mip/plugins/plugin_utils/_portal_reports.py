# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: how the web portal is, and what became of the experiments in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.hbp.mip.plugins.plugin_utils import _portal
from ansible_collections.hbp.mip.plugins.plugin_utils._problems import Problem, Report, problem

TITLES = {
    "ui": "The web portal of federation {name} is not as it should be:",
    "experiments": "The experiments of federation {name}:",
    "portal_restore": "The portal's database of federation {name}:",
}
_FIELDS = ("component", "state", "action", "image", "since", "restarts", "ports", "stopped", "error", "log")


def portal(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Return how the portal is.

    :arg data: ``state`` (what was asked for) and, by node, ``nodes`` with ``portal``, the result of M(hbp.mip.ui_containers).
    """
    call = f"mipfed -f {federation['name']}"
    ui = federation["ui"]
    problems: list[Problem] = []
    found = []
    if not ui["enabled"]:
        problems.append(problem("ui", "portal-off", "the inventory runs no portal", f"{call} ui configure --public-host NAME"))
    for node, results in data["nodes"].items():
        answer = results.get("portal")
        if answer is None:
            if ui["enabled"]:
                problems.append(problem(node, "silent", "did not answer", f"{call} check -l {node}"))
            continue
        entries = answer.get("containers") or []
        found += [{"node": node, **{key: entry[key] for key in _FIELDS if key in entry}} for entry in entries]
        failing = [entry for entry in entries if entry.get("error") or entry["state"] in ("failed", "missing")]
        for entry in failing:
            reason = entry.get("error") or f"is {entry['state']}"
            fix = f"{call} ui logs {entry['component']}" if entry["state"] != "missing" else f"{call} deploy"
            problems.append(problem(node, "portal-failed", f"{entry['component']}: {reason}", fix))
        if answer.get("failed") and not failing:
            problems.append(problem(node, "portal-failed", str(answer.get("msg") or "it failed"), f"{call} check -l {node}"))
        if ui["enabled"] and not entries and not answer.get("failed"):
            problems.append(problem(node, "portal-missing", "the portal was not deployed yet", f"{call} deploy"))
    return {
        "ok": not problems,
        "state": data["state"],
        "address": _portal.address(ui) if ui["enabled"] else "",
        "changed": any((results.get("portal") or {}).get("changed") for results in data["nodes"].values()),
        "components": found,
        "problems": problems,
    }


def experiments(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Return the experiments that were listed or removed.

    :arg data: ``state`` and, by node, ``nodes`` with ``experiments``, the result of M(hbp.mip.portal_experiments).
    """
    call = f"mipfed -f {federation['name']}"
    problems: list[Problem] = []
    found: list[Any] = []
    backups = []
    removed = 0
    for node, results in data["nodes"].items():
        answer = results.get("experiments")
        if answer is None:
            problems.append(problem(node, "silent", "did not answer", f"{call} check -l {node}"))
            continue
        if answer.get("failed"):
            problems.append(problem(node, "experiments", str(answer.get("msg")), f"{call} ui status"))
        found += [{"node": node, **entry} for entry in answer.get("experiments") or ()]
        removed += int(answer.get("removed") or 0)
        if answer.get("backup"):
            backups.append({"node": node, "path": answer["backup"]})
    return {
        "ok": not problems,
        "state": data["state"],
        "experiments": found,
        "removed": removed,
        "backups": backups,
        "problems": problems,
    }


def restored(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Return what became of the portal's database.

    :arg data: ``set`` and ``created`` of the backup, ``members``, the nodes whose database is in it, and, by node, ``nodes`` with
        ``database``, the result of M(hbp.mip.portal_snapshot), and ``portal``, that of M(hbp.mip.ui_containers).
    """
    call = f"mipfed -f {federation['name']}"
    problems: list[Problem] = []
    found = []
    for node, results in data["nodes"].items():
        answer, backend = results.get("database") or {}, results.get("portal") or {}
        if node not in data["members"]:
            text = f"{data['set']} has no database of it: no portal ran there, or it did not answer when the backup was made"
            problems.append(problem(node, "backup-incomplete", text, f"{call} backup ls"))
        elif not answer:
            problems.append(problem(node, "silent", "did not answer", f"{call} check -l {node}"))
        elif answer.get("msg") and "kept" not in answer:
            problems.append(problem(node, "portal-restore", str(answer["msg"]), f"{call} ui status"))
        else:
            found.append({"node": node, "changed": bool(answer.get("changed")), "kept": str(answer.get("kept") or "")})
            if backend.get("msg"):
                problems.append(problem(node, "portal-failed", str(backend["msg"]), f"{call} ui logs backend"))
    return {
        "ok": not problems,
        "set": data["set"],
        "created": data["created"],
        "changed": any(entry["changed"] for entry in found),
        "databases": found,
        "problems": problems,
    }


REPORTS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Report]] = {
    "ui": portal,
    "experiments": experiments,
    "portal_restore": restored,
}
