# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups, restores and recoveries as tables and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mipfed.render import rows
from mipfed.reports import coloured_as

if TYPE_CHECKING:
    from rich.console import Console


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _said(verified: Any, bad: str = "damaged") -> Any:
    found = _mapping(verified)
    if not found:
        return "never"
    return coloured_as("ok", f"ok, {found.get('at')}") if found.get("ok") else coloured_as("failed", f"{bad}, {found.get('at')}")


def sets(out: Console, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write the backups that there are."""
    if not entries:
        out.print("There is no backup.", markup=False)
        return
    table = [
        (
            entry["id"],
            entry["created"],
            f"{int(entry['size']) / 2**20:.1f}",
            entry["cluster_id"],
            ", ".join(dict.fromkeys(name.partition(".")[0] for name in entry["members"])),
            ", ".join(str(_mapping(lack).get("what")) for lack in entry.get("missing") or ()) or "",
            _said(entry.get("verified")),
            _said(entry.get("restored"), "failed"),
        )
        for entry in entries
    ]
    rows(out, ("backup", "made", "MB", "swarm", "contains", "lacks", "verified", "restored in a lab"), table)


def backup(out: Console, data: Mapping[str, Any]) -> None:
    """Write what came of making a backup."""
    if not data.get("set"):
        return
    entry = _mapping(data.get("backup"))
    out.print(f"{data['set']}: {int(entry.get('size') or 0) / 2**20:.1f} MB, swarm {entry.get('cluster_id')}", markup=False)
    out.print(f"The engine of {data.get('manager')} was stopped for {data.get('stopped_seconds')} s.", markup=False)
    for name in data.get("removed") or ():
        out.print(f"Removed, since more are kept than wanted: {name}", markup=False)


def verified(out: Console, data: Mapping[str, Any]) -> None:
    """Write what a verified backup contains."""
    rows(
        out,
        ("member", "of", "bytes", "sha256"),
        [(member["name"], member["node"], member["size"], str(member["sha256"])[:16]) for member in data["members"]],
    )
    swarm = _mapping(data.get("swarm"))
    out.print(
        f"Whole and readable: {data['created']}, swarm {data['cluster_id']}, manager {swarm.get('node')} ({swarm.get('node_addr')}), "
        f"Docker {swarm.get('engine_version')}",
        markup=False,
    )
    tried = _mapping(data.get("restore_test"))
    steps = [step for step in tried.get("steps") or () if isinstance(step, Mapping)]
    words = {True: coloured_as("ok", "ok"), False: coloured_as("failed", "failed")}
    rows(out, ("restored in a lab", "verdict", "seconds"), [(s.get("step"), words[bool(s.get("ok"))], s.get("seconds")) for s in steps])
    if tried.get("ok"):
        out.print("The swarm of the backup works again in a lab, which was removed. Data of hospitals are in no backup.", markup=False)


def restored(out: Console, data: Mapping[str, Any]) -> None:
    """Write what a restore did."""
    node = data.get("node")
    if data.get("restored"):
        out.print(f"{node} is a manager of {data.get('cluster_id')} again, as of {data.get('created')}.", markup=False)
    else:
        out.print(f"{node} worked in the swarm {data.get('cluster_id')} already; its state was left as it is.", markup=False)
    for key, text in (
        ("aside", "What was there before: {} on {node}"),
        ("keys", "Keys written: {}"),
        ("files", "Files written: {}"),
        ("removed", "Nodes removed: {}"),
        ("unknown", "Nodes that are not in the inventory: {}"),
        ("away", "Nodes that have not returned: {}"),
    ):
        value = data.get(key)
        if value:
            out.print(text.format(value if isinstance(value, str) else ", ".join(map(str, value)), node=node), markup=False)
    if data.get("rotated"):
        out.print("The join tokens of the backup are worthless now.", markup=False)


def recover(out: Console, data: Mapping[str, Any]) -> None:
    """Write what is wrong and what would be done about it."""
    table = [
        (
            node["name"],
            "manager" if node["manager"] else "worker",
            coloured_as("ok" if node["finding"] in ("ok", "manager-down") else "failed", node["finding"]),
            node["treatment"],
            node["message"],
        )
        for node in data.get("nodes") or ()
    ]
    rows(out, ("node", "role", "finding", "would be done", "because"), table)
    for step in data.get("steps") or ():
        if not step["node"]:
            out.print(f"and: {step['treatment']}: {step['why']}", markup=False)
    out.print(str(data.get("explanation")), markup=False)
