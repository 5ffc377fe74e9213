# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands `mipfed firewall …`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from mipfed import completion
from mipfed.errors import MipfedError
from mipfed.exitcodes import ExitCode
from mipfed.options import REMOTE, command, new_application
from mipfed.outcome import Outcome
from mipfed.session import Session

firewall_app = new_application("The firewalls of the nodes.")


@command(firewall_app, "show", REMOTE, group="firewall")
def firewall_show(
    session: Session,
    nodes: Annotated[
        list[str] | None, typer.Argument(metavar="[NODE]...", help="Only these nodes.", autocompletion=completion.nodes)
    ] = None,
) -> Outcome:
    """Show what is open on the nodes, for whom and why.

    Tells what differs from what the inventory asks for, and ends with 4 then. Works also when nodes are away. Changes nothing.
    """
    from mipfed import firewall_reports

    wanted = list(nodes or ())
    session.arguments = wanted
    if wanted:
        session.options = replace(session.options, limit=",".join(wanted))
    try:
        prepared = session.prepare()
    except MipfedError as error:
        if wanted and error.exit_code is ExitCode.NO_HOSTS:
            raise _unknown(session, wanted) from None
        raise
    known = [node["name"] for node in prepared.resolved["nodes"]]
    if unknown := [name for name in wanted if name not in known]:
        raise _unknown(session, unknown)
    if wanted and prepared.inventory.groups.get("pusher"):
        # It makes the report, also when no node answers.
        session.options = replace(session.options, limit=f"{session.options.limit},pusher")
    outcome = session.play("hbp.mip.firewall", prepared)
    return session.report(outcome, "firewall", firewall_reports.firewall)


def _unknown(session: Session, names: list[str]) -> MipfedError:
    message = f"{session.source.name} has no node {', '.join(names)}."
    return MipfedError(ExitCode.NO_HOSTS, message, next=session.call("node ls"))
