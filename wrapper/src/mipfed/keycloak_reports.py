# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reports of `mipfed keycloak …` for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mipfed.data_reports import entries, mapping
from mipfed.render import rows, visible
from mipfed.reports import coloured_as

if TYPE_CHECKING:
    from rich.console import Console

_DONE = {"create": "created", "update": "changed", "add": "added", "remove": "removed"}
_COLOURS = {"create": "ok", "update": "changed", "add": "ok", "remove": "failed"}


def _say(out: Console, text: str, style: str = "") -> None:
    out.print(visible(text), style=style, markup=False)


def _steps(out: Console, data: Mapping[str, Any], *, check: bool) -> int:
    steps = entries(mapping(data.get("plan")).get("steps"))

    def word(step: Mapping[str, Any]) -> Any:
        do = str(step.get("do"))
        return coloured_as(_COLOURS.get(do, "changed"), do if check else _DONE.get(do, do))

    rows(out, ("", "what", "name", "detail"), ((word(step), step.get("kind"), step.get("name"), step.get("detail")) for step in steps))
    return len(steps)


def plan(out: Console, data: Mapping[str, Any], *, check: bool, with_diff: bool) -> None:
    """Write what is to be done, or was, and what is left of earlier data."""
    count = _steps(out, data, check=check)
    if with_diff and data.get("diff"):
        for line in str(data["diff"]).splitlines():
            _say(out, line, "green" if line.startswith("+") else "red" if line.startswith("-") else "dim")
    left = [entry for entry in entries(data.get("orphans")) if not entry.get("removed")]
    if left and not any(step.get("do") == "remove" for step in entries(mapping(data.get("plan")).get("steps"))):
        orphans(out, left)
    where = f"client {data.get('client')} in the realm {data.get('realm')} of {data.get('url')}"
    needs = f"{data.get('roles')} roles, {data.get('groups')} groups"
    if not count:
        _say(out, f"Nothing to do: {where}, {needs}.")
    else:
        _say(out, f"{count} change{'s' * (count != 1)}{'' if check else ' made'}: {where}, {needs}.")


def summary(data: Mapping[str, Any]) -> str:
    """Return in a sentence what applying a plan does, for the question."""
    steps = entries(mapping(data.get("plan")).get("steps"))
    removed = sum(step.get("do") == "remove" for step in steps)
    lines = [f"This makes {len(steps)} change{'s' * (len(steps) != 1)} in the realm {data.get('realm')} of {data.get('url')}."]
    if removed:
        lines.append(f"{removed} of them remove something; whoever had a role by it loses it.")
    return "\n".join(lines)


def orphans(out: Console, found: Sequence[Mapping[str, Any]]) -> None:
    """Write what there are no data for any more."""
    if not found:
        _say(out, "No role and no group is left of earlier data.")
        return
    content = (
        (entry.get("kind"), entry.get("name"), entry.get("value"), entry.get("why"), f"no: {entry['kept']}" if entry.get("kept") else "yes")
        for entry in found
    )
    rows(out, ("what", "name", "roles", "why", "removed by --prune"), content, title="Left of earlier data")


def prepared(out: Console, data: Mapping[str, Any], *, check: bool) -> None:
    """Write what became of the service client."""
    count = _steps(out, data, check=check)
    if data.get("vault_file"):
        _say(out, f"Wrote {data['vault_file']}, encrypted.")
    if not count:
        _say(out, f"Nothing to do: the client {data.get('service_client')} of the realm {data.get('realm')} is as it should be.")
