# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of a federation on this machine, beside what its nodes say now: what ran last, the last backup, the last reports."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mipfed import audit

#: Commands whose last run is told, each with what people call it.
TOLD = {"check": "check", "verify": "verification", "deploy": "deploy", "backup create": "backup"}


def runs(federation: str) -> list[dict[str, Any]]:
    """Return the runs that ended, the oldest first: command, time, who, result, seconds, changes."""
    entries, _problems = audit.journal(federation).examine()
    found = []
    for entry in entries:
        data = entry.get("data") or {}
        if data.get("phase") == "ended":
            found.append(
                {
                    "n": entry["n"],
                    "at": entry["time"],
                    "command": str(entry.get("what")),
                    "who": str(entry.get("who")),
                    "result": str(data.get("result")),
                    "exit_code": int(data.get("exit_code") or 0),
                    "check": bool(data.get("check")),
                    "seconds": float(data.get("seconds") or 0),
                    "changes": int(data.get("change_count") or 0),
                    "slowest": [[str(task), float(took)] for task, took in data.get("slowest") or ()],
                }
            )
    return found


def backup(folder: Path, federation: str) -> dict[str, Any]:
    """Return the last backup: when it was made and whether it was verified; empty when there is none."""
    from mipfed import paths

    sets, _problems = paths.collection_module("plugin_utils._backup_set").listed(folder, federation) if folder.is_dir() else ([], [])
    if not sets:
        return {}
    last = max(sets, key=lambda entry: str(entry["created"]))
    return {"at": last["created"], "file": last["file"], "size": last["size"], "verified": last["verified"], "count": len(sets)}


def backups(source: Path, resolved: Mapping[str, Any]) -> Path:
    """Return where the federation's backups are.

    :arg source: the folder of the inventory.
    """
    given = resolved["backup"]["dir"]
    return Path(given).expanduser() if given else source / "backups"


def last(source: Path, resolved: Mapping[str, Any], ended: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Return by command how its last run ended, and as `backups` the last backup that is there.

    :arg source: the folder of the inventory.
    :arg ended: what `runs` found, where that was read already.
    """
    name = str(resolved["name"])
    found: dict[str, Any] = dict.fromkeys(TOLD)
    for run in runs(name) if ended is None else ended:
        if run["command"] in TOLD and not run["check"]:
            found[run["command"]] = {key: run[key] for key in ("at", "result", "exit_code", "seconds", "changes", "who")}
    return {**found, "backups": backup(backups(source, resolved), name)}


def timestamp(text: Any) -> float | None:
    """Return a time in UTC as seconds since 1970; nothing when it is none."""
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None


def ago(text: str, now: float | None = None) -> str:
    """Return how long ago a time was, as people say it."""
    then = timestamp(text)
    if then is None:
        return ""
    passed = (time.time() if now is None else now) - then
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if passed >= size:
            number = int(passed // size)
            return f"{number} {name}{'s' * (number != 1)} ago"
    return "just now"


def sentences(found: Mapping[str, Any], now: float | None = None) -> list[str]:
    """Return what ran last, for people."""
    lines = []
    for command, name in TOLD.items():
        run = found.get(command)
        if run:
            lines.append(f"last {name}: {run['at']} ({ago(run['at'], now)}), {run['result'].replace('_', ' ')}")
        elif command != "backup create":
            lines.append(f"last {name}: none that this machine knows of")
    kept = found.get("backups") or {}
    if kept:
        verified = kept.get("verified") or {}
        state = "not verified yet" if not verified else f"{'verified' if verified.get('ok') else 'DAMAGED'} {verified.get('at')}"
        lines.append(f"last backup that is kept: {kept['at']} ({ago(kept['at'], now)}), {state}; {kept['count']} in all")
    else:
        lines.append("last backup that is kept: none")
    return lines


def certificates(nodes: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return when the first of the nodes' certificates ends, and whose; empty when none is known."""
    known = [(str(node["certificate_expires"]), str(node["name"])) for node in nodes if node.get("certificate_expires")]
    return min(known, default=("", ""))
