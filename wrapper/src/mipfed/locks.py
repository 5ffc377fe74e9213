# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands `mipfed lock …`: who is changing the federation, as its managers say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mipfed.options import REMOTE, command, new_application
from mipfed.outcome import Outcome
from mipfed.session import Session

if TYPE_CHECKING:
    from rich.console import Console

lock_app = new_application("The lock that one deploy at a time holds.")


def _sentence(lock: Mapping[str, Any]) -> str:
    """Return what one manager, or all of them, say of the lock."""
    from mipfed.render import cell_text

    if lock.get("notice"):
        return str(lock["notice"])
    if lock.get("held") or lock.get("expired"):
        over = "; its lease is over" if lock.get("expired") else ""
        return f"Held since {lock.get('since')}, until {lock.get('expires')} at the latest{over}: {cell_text(lock.get('holder'))}"
    return "Nobody holds the lock."


def _show(out: Console, data: Mapping[str, Any]) -> None:
    """Write who holds the lock, and where managers differ, what each says."""
    out.print(_sentence(data), markup=False)
    managers = data.get("managers") or ()
    said = {manager["name"]: _sentence(manager) if manager["answered"] else "did not answer" for manager in managers}
    # One holder takes it on one manager after the other, so that the times always differ.
    if len({(m["answered"], bool(m["held"]), bool(m["expired"]), str(m["holder"]), m["notice"]) for m in managers}) > 1:
        for name, text in said.items():
            out.print(f"  {name}: {text}", markup=False)
    if data.get("silent") and data.get("released"):
        silent = ", ".join(data["silent"])
        out.print(f"A lock that {silent} may still have ends by itself, or with the same command once it answers.", markup=False)


def _lock(session: Session, *, release: bool) -> Outcome:
    prepared = session.prepare()
    if release:
        session.confirm(
            f"This takes the lock of {session.source.name} away from whoever holds it. Only do so when no deploy is running.",
            "Release the lock?",
        )
    playbook = str(Path(__file__).parent / "playbooks" / "lock.yml")
    played = session.play(playbook, prepared, variables={"mipfed_lock_state": "released" if release else "shown"})
    return session.report(played, "lock", _show)


@command(lock_app, "status", REMOTE, group="lock")
def lock_status(session: Session) -> Outcome:
    """Show who is changing the federation, since when and with which command."""
    return _lock(session, release=False)


@command(lock_app, "release", REMOTE, group="lock")
def lock_release(session: Session) -> Outcome:
    """Take the lock away, on all managers, from a deploy that died. Asks first."""
    return _lock(session, release=True)
