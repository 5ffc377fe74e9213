# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reports of the web portal as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mipfed.render import rows
from mipfed.reports import coloured_as

if TYPE_CHECKING:
    from rich.console import Console

_COLOURS = {"up": "ok", "done": "ok", "stopped": "waiting", "starting": "waiting"}


def portal(out: Console, data: Mapping[str, Any]) -> None:
    """Write how each component is."""
    if data.get("address"):
        out.print(f"Portal: {data['address']}", markup=False)
    table = []
    for entry in data.get("components") or ():
        state, stopped = str(entry.get("state")), entry.get("stopped") or {}
        why = f"since {stopped.get('since', '')[:19]} {stopped.get('reason', '')}".strip() if state == "stopped" and stopped else ""
        table.append(
            (
                entry.get("component"),
                coloured_as(_COLOURS.get(state, "failed"), state),
                "" if entry.get("action") == "unchanged" else entry.get("action"),
                str(entry.get("since") or "")[:19] if state == "up" else "",
                entry.get("restarts") or "",
                ", ".join(entry.get("ports") or ()),
                str(entry.get("image") or "").partition("@")[0],
                why or entry.get("error"),
            )
        )
    rows(out, ("component", "state", "action", "up since", "restarts", "ports", "image", "remark"), table)


def experiments(out: Console, data: Mapping[str, Any]) -> None:
    """Write the experiments, and what became of them."""
    fields = ("created", "finished", "who", "algorithm", "pathology", "datasets", "status", "name")
    table = [tuple(str(entry.get(field) or "")[:60] for field in fields) for entry in data.get("experiments") or ()]
    rows(out, fields, table)
    if data.get("removed"):
        where = ", ".join(f"{entry['node']}:{entry['path']}" for entry in data.get("backups") or ())
        out.print(f"Removed {data['removed']}. The database of before: {where}", markup=False)
    elif not table:
        out.print("No experiments.", markup=False)


def restored(out: Console, data: Mapping[str, Any]) -> None:
    """Write what became of the database."""
    for entry in data.get("databases") or ():
        if entry.get("kept"):
            text = f"{entry['node']}: the portal's database is that of {data.get('created')}; the one of before is called {entry['kept']}."
        elif entry.get("changed"):
            text = f"{entry['node']}: the portal's database would become that of {data.get('created')}."
        else:
            text = f"{entry['node']}: the portal's database came out of this backup already. --force restores it again."
        out.print(text, markup=False)
