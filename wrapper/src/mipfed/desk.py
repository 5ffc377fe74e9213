# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands `mipfed tmux` and `mipfed ssh`. What they do is in `mipfed.cockpit` and `mipfed.console`."""

from __future__ import annotations

from typing import Annotated

import typer

from mipfed import completion
from mipfed.options import OFFLINE, command
from mipfed.outcome import Outcome
from mipfed.session import Session


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""

    @command(app, "tmux", OFFLINE)
    def tmux(
        session: Session,
        force: Annotated[bool, typer.Option("--force", help="Make it anew, also where it is there; ends what runs in it.")] = False,
        detach: Annotated[bool, typer.Option("--detach", "-d", help="Make it, but stay outside.")] = False,
    ) -> Outcome:
        """Open the cockpit: a tmux session with a shell, everybody's logs, help, and a console on every node.

        It goes on when the terminal is closed, and the same command comes back to it. Your own tmux and its configuration are not
        touched.
        """
        from mipfed import cockpit

        return cockpit.show(session, force=force, detach=detach)

    @command(app, "ssh", OFFLINE)
    def ssh(
        session: Session,
        node: Annotated[str, typer.Argument(metavar="NODE", help="Name of the node.", autocompletion=completion.nodes)],
        remote: Annotated[list[str] | None, typer.Argument(metavar="[COMMAND]...", help="What to run there; a shell otherwise.")] = None,
    ) -> Outcome:
        """Open a shell on a node, or run a command there.

        Uses the account, the key and the pinned host key of the inventory. Ends with the code of what ran; with 255 when the node
        was not reached. A command that has options of its own stands after `--`.
        """
        from mipfed import console

        return console.open_on(session, node, remote or ())
