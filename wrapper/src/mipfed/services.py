# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands `mipfed start`, `stop`, `restart` and `status`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mipfed import completion
from mipfed.errors import MipfedError
from mipfed.exitcodes import ExitCode
from mipfed.options import REMOTE, command
from mipfed.outcome import Outcome
from mipfed.session import Prepared, Session

if TYPE_CHECKING:
    from collections.abc import Sequence


class Component(StrEnum):
    """What can be started and stopped: the services of the swarm, by what they are for."""

    ENGINE = "engine"
    KEYSTORE = "keystore"


Components = Annotated[
    list[Component] | None, typer.Argument(metavar="[COMPONENT]...", help="engine, keystore; by default all.", show_default=False)
]
Nodes = Annotated[
    list[str] | None,
    typer.Option(
        "--node",
        metavar="NODE",
        help="Only on this node; give it once for each.",
        show_default=False,
        autocompletion=completion.members,
    ),
]

_DONE = {"start": "started", "stop": "stopped", "restart": "restarted"}


def _check_nodes(session: Session, prepared: Prepared, nodes: Sequence[str]) -> None:
    there = [*prepared.resolved["nodes"], *prepared.resolved.get("kits", ())]
    known = [str(node["name"]) for node in there if node["kind"] != "ui"]
    disabled = {str(node["name"]) for node in prepared.resolved.get("disabled") or ()}
    if unknown := [name for name in nodes if name not in known]:
        off = [name for name in unknown if name in disabled]
        raise MipfedError(
            ExitCode.NO_HOSTS,
            f"{session.source.name} has no node {', '.join(unknown)} that is in the swarm"
            + (f"; the inventory disables {', '.join(off)}." if off else "."),
            next=session.call(f"node enable {off[0]}") if off else f"Nodes: {', '.join(known)}",
        )


def _work(session: Session, verb: str, components: Sequence[Component] | None, nodes: Sequence[str] | None, reason: str = "") -> Outcome:
    from mipfed import service_reports

    prepared = session.prepare()
    chosen, where = [component.value for component in components or ()], list(dict.fromkeys(nodes or ()))
    _check_nodes(session, prepared, where)
    check = session.options.check
    if not check and verb != "start":
        what = " and ".join(chosen) if chosen else "engine and keystore"
        place = ", ".join(where) if where else "all nodes"
        effect = "No analysis can run until they are started again." if verb == "stop" else "Each is waited for before the next."
        session.confirm(f"{verb.capitalize()} {what} on {place} of {session.source.name}. {effect}", f"{verb.capitalize()} them?")
    variables = {"services_components": chosen, "services_nodes": where, "services_reason": reason}
    outcome = session.play(f"hbp.mip.service_{verb}", prepared, check=check, variables=variables)
    outcome = session.report(outcome, "services", lambda out, data: service_reports.services(out, data, check=check))
    if outcome.exit_code is ExitCode.OK and verb == "stop" and not check:
        outcome.next = session.call(" ".join(["start", *chosen, *(f"--node {name}" for name in where)]))
    if outcome.exit_code is ExitCode.OK and isinstance(outcome.result, dict):
        # They are no failure: somebody drained these nodes.
        drained = [str(service["node"]) for service in outcome.result.get("services") or () if service.get("action") == "drained"]
        outcome.next = session.call(f"node activate {drained[0]}") if drained else outcome.next
    return outcome


def start(session: Session, components: Components = None, nodes: Nodes = None) -> Outcome:
    """Start services that were stopped.

    First the keystore, then the master's engine, then the hospitals' engines; each is waited for until it is healthy. What runs
    already is left alone.
    """
    return _work(session, "start", components, nodes)


def stop(
    session: Session,
    components: Components = None,
    nodes: Nodes = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for those who look at the status later.")] = "",
) -> Outcome:
    """Stop services on purpose, until they are started again.

    First the hospitals' engines, then the master's, then the keystore. Nothing is removed. status tells since when and why, and a
    deploy leaves them stopped. Asks first.
    """
    return _work(session, "stop", components, nodes, reason)


def restart(session: Session, components: Components = None, nodes: Nodes = None) -> Outcome:
    """Restart services one after the other.

    Each is waited for until it is healthy before the next one is touched, so that the API answers but for the moments in which the
    master's own engine is replaced. What is stopped on purpose stays so. Asks first.
    """
    return _work(session, "restart", components, nodes)


def status(
    session: Session,
    nodes: Nodes = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option("--interval", metavar="SECONDS", min=1, help="With --watch: how long between looks.")] = 10,
) -> Outcome:
    """Show how the federation is: swarm, nodes, services, the engine's API; and what ran last, and the last backup.

    Works also when nodes are away, with any manager that answers. Ends with 0 when nothing is wrong. Changes nothing.
    """
    if watch:
        from mipfed.watch import repeat

        prepared = session.prepare()
        return repeat(session, interval, lambda: look(session, prepared, nodes or ()))
    return look(session, session.prepare(), nodes or ())


def look(session: Session, prepared: Prepared, nodes: Sequence[str] = ()) -> Outcome:
    """Return how the federation, or some of its nodes, are."""
    from mipfed import overview, service_reports

    where = list(dict.fromkeys(nodes))
    _check_nodes(session, prepared, where)
    outcome = session.play("hbp.mip.status", prepared, variables={"status_only": where})
    outcome = session.report(outcome, "status", service_reports.status)
    if isinstance(outcome.result, dict):
        outcome.result["last"] = overview.last(session.source.folder, prepared.resolved)
    away: set[Any] = set()
    if outcome.done:
        away = {name for name, host in outcome.done.collector.hosts.items() if host.counts["unreachable"]}
    if where:
        # A manager that was asked for its view only is none of those that the report is about.
        outcome.errors = [error for error in outcome.errors if error.host in where or not error.host]
        away &= set(where)
        if not outcome.errors and outcome.exit_code is ExitCode.UNREACHABLE:
            outcome.exit_code = ExitCode.OK
    if away and outcome.exit_code is ExitCode.CHECK:
        # A node that is away is the reason for most of what the report finds wrong.
        outcome.exit_code = ExitCode.UNREACHABLE
    return outcome


def register(application: typer.Typer) -> None:
    """Give an application these commands."""
    for name, function, options in (
        ("status", status, REMOTE),
        ("start", start, (*REMOTE, "check")),
        ("stop", stop, (*REMOTE, "check")),
        ("restart", restart, (*REMOTE, "check")),
    ):
        command(application, name, options)(function)
