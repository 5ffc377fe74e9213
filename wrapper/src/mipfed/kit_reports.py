# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reports of `mipfed kit …` for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mipfed.data_reports import entries
from mipfed.render import rows

if TYPE_CHECKING:
    from rich.console import Console

#: A kit's state in words.
_STATES = {
    "open": "not used yet",
    "waiting": "joined; WAITS TO BE ACCEPTED",
    "accepted": "accepted",
    "expired": "over its time",
    "replaced": "ended; the join token was rotated since",
    "revoked": "revoked",
}


def kit(out: Console, data: Mapping[str, Any]) -> None:
    """Write what a command did, the kits, and the nodes that nobody knows."""

    def say(text: str) -> None:
        out.print(text, markup=False)

    node = data.get("node")
    if data.get("action") == "accept" and data.get("node_id"):
        say(f"{node} is a member: node {data['node_id']}. Its engine runs.")
    if data.get("action") == "revoke":
        removed = data.get("removed") or []
        say(f"Revoked. Removed from the swarm: {', '.join(removed) or 'nothing, nobody had used the kit'}.")
    if data.get("rotated"):
        say("The join token was rotated: whoever still has the kit cannot join with it.")
    for name in data.get("ended") or ():
        say(f"The kit of {name} had the same token and ended, too; make it a new one.")
    if data.get("action") != "ls":
        return
    rows(
        out,
        ("kit", "address", "state", "made", "until", "node"),
        (
            (
                e.get("node"),
                e.get("address"),
                _STATES.get(str(e.get("state")), e.get("state")),
                e.get("created"),
                e.get("expires"),
                e.get("node_id") or e.get("waiting"),
            )
            for e in entries(data.get("kits"))
        ),
    )
    unknown = entries(data.get("unknown"))
    if unknown:
        say("Nodes of the swarm that are in no inventory, or wait to be accepted")
        columns = ("id", "hostname", "name", "address", "role", "status")
        rows(out, columns, (tuple(entry.get(column) for column in columns) for entry in unknown))


def created(out: Console, data: Mapping[str, Any], following: str) -> None:
    """Write what to do with a kit. The passphrase is shown this once."""
    path = str(data.get("path"))
    kit(out, data)
    lines = [
        f"Wrote {path}. It can be used for {data.get('expires')}.",
        "1. Send this file to the hospital; any way will do.",
        "2. Tell the hospital on another way, best by telephone:",
        f"     passphrase  {data.get('passphrase')}",
        f"     signed by   {data.get('signer')}",
        f"3. There, on the machine itself:  sudo python3 {Path(path).name}",
    ]
    if data.get("joins"):
        lines.append(f"4. The hospital reads a code to you:  {following}")
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)
    out.print("The passphrase is kept nowhere.", markup=False)
