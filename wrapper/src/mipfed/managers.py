# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands about the swarm's managers: `mipfed unlock`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from mipfed.options import REMOTE, command
from mipfed.outcome import Outcome
from mipfed.session import Session

if TYPE_CHECKING:
    from rich.console import Console

#: Gives a key that the vault does not have; it comes before those in the vault.
KEY_VARIABLE = "MIPFED_UNLOCK_KEY"


def _show_unlocked(out: Console, data: Mapping[str, Any]) -> None:
    """Write what became of each member."""
    from mipfed.render import rows

    rows(out, ("node", "state", "detail"), ((node["name"], node["state"], node["detail"]) for node in data.get("nodes") or ()))
    if not data.get("unlocked") and not data.get("problems"):
        out.print("No manager is locked.", markup=False)


def unlock(session: Session) -> Outcome:
    """Unlock managers that were restarted, where the swarm uses autolock (mip_swarm_autolock).

    The key comes from the federation's vault, or from MIPFED_UNLOCK_KEY. Managers that are not locked are left alone.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    prepared = session.prepare()
    played = session.play(
        "hbp.mip.unlock", prepared, check=session.options.check, variables={"recovery_unlock_key": key} if key else {},
        following=session.call("status"),
    )  # fmt: skip
    outcome = session.report(played, "unlock", _show_unlocked)
    if isinstance(outcome.result, Mapping) and outcome.result.get("unlocked") and not outcome.errors:
        outcome.next = session.call("status")
    return outcome


def register(application: typer.Typer) -> None:
    """Add the commands to the application."""
    command(application, "unlock", (*REMOTE, "check"))(unlock)
