# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands `mipfed import-legacy` and `mipfed adopt`: from the `mip` script and its running swarm to this product."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mipfed.exitcodes import ExitCode
from mipfed.options import OUTPUT, REMOTE, command
from mipfed.outcome import Outcome
from mipfed.session import Session

if TYPE_CHECKING:
    from rich.console import Console


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""

    @command(app, "import-legacy", ("check", *OUTPUT, "vault_password_file"))
    def import_legacy(
        session: Session,
        name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the federation.")],
        from_: Annotated[
            list[Path] | None,
            typer.Option(
                "--from",
                metavar="PATH",
                help="Folder of the old pusher, or one of its files; may be repeated. By default /opt/NAME/exareme.",
                show_default=False,
            ),
        ] = None,
        names: Annotated[
            list[str] | None,
            typer.Option("--name", metavar="ADDRESS=NAME", help="Hostname of a node, where the files do not tell it; may be repeated."),
        ] = None,
        engine_image: Annotated[str, typer.Option(metavar="IMAGE", help="Image of the engine, where the files do not tell it.")] = "",
        without_secrets: Annotated[bool, typer.Option("--without-secrets", help="Leave the vault alone; take no password over.")] = False,
    ) -> Outcome:
        """Write the inventory of a federation that the `mip` script deployed.

        Reads hosts.ini, vault.yaml, the ssh configuration, .mipenv, exareme.yaml and the master's stack file of the old pusher, and
        tells by file and line what was taken over and what not. Passwords go into encrypted files only. To a federation that is
        there it adds the nodes that are missing, and changes nothing else. Contacts no host; `adopt` takes the running swarm over.
        """
        from mipfed import legacy

        check = session.options.check
        return legacy.command(session, name, from_ or (), names or (), engine_image, secrets=not without_secrets, dry=check)

    @command(app, "adopt", (*REMOTE, "check", "diff"))
    def adopt(
        session: Session,
        ignore_check: Annotated[
            list[str] | None,
            typer.Option("--ignore-check", metavar="CODE", help="Go on in spite of this problem of a node; may be repeated."),
        ] = None,
        without_api: Annotated[
            bool, typer.Option("--without-api", help="Take over also while the engine's API does not answer; nothing guards it then.")
        ] = False,
    ) -> Outcome:
        """Take over a swarm that the `mip` script deployed, while it runs.

        Tells first what is there and what cannot be kept. Then takes over one service after the other: each has to run, and the API
        to answer as before, or it goes back to what it was, and all stops. The rest is what deploy does. A second run changes nothing.
        """
        return _adopt(session, ignore_check or [], without_api=without_api)


def _adopt(session: Session, ignore_check: list[str], *, without_api: bool) -> Outcome:
    check = session.options.check
    prepared = session.prepare()
    variables = {"check_ignore": ignore_check, "adopt_without_api": without_api}
    if not check:
        text = (
            f"The services of {session.source.name} are taken over one after the other; each is restarted once, and the API has to answer "
            f"as before after each. `{session.call('adopt --check')}` shows what changes, and what cannot be kept.\n"
            "The old pusher must not be used any more: its `service deploy` removes every stack and makes every worker leave."
        )
        session.confirm(text, f"Take over {session.source.name}?")
    outcome = session.play("hbp.mip.adopt", prepared, check=check, diff=check or session.options.diff, variables=variables)
    collector = outcome.done.collector if outcome.done else None
    report = collector.reports.get("adopt") if collector else None
    with_diff = session.options.diff or session.options.verbose > 0
    changes = [change.as_dict(with_diff=with_diff) for change in collector.changes] if collector else []
    outcome.result = {"changes": changes, "legacy": report}

    def show(out: Console) -> None:
        from mipfed import reports

        if isinstance(report, Mapping):
            legacy(out, report)
        if check and collector and not outcome.errors:
            reports.changes(out, collector, with_diff=with_diff)
        elif outcome.exit_code is ExitCode.OK:
            out.print(f"Took over {session.source.name}: {len(changes)} changes." if changes else "Nothing to do.", markup=False)

    if report is not None or outcome.exit_code is ExitCode.OK:
        outcome.text = show
    if outcome.exit_code is ExitCode.OK:
        outcome.next = session.call("adopt") if check and changes else session.call("verify")
    return outcome


def legacy(out: Console, data: Mapping[str, Any]) -> None:
    """Write what was found in the swarm, and what is to be known before it is taken over."""
    from mipfed.render import rows

    words = {"adopt": "is taken over", "ours": "is ours already", "missing": "is missing, and is made", "foreign": "is left alone"}
    services = [entry for entry in data.get("services") or () if isinstance(entry, Mapping)]
    table = [(entry.get("name"), entry.get("node"), words.get(str(entry.get("state")), entry.get("state"))) for entry in services]
    rows(out, ("service", "node", "what becomes of it"), table, title="Services")
    for note in data.get("notices") or ():
        out.print(f"- {note.get('message')}", markup=False)
        if note.get("fix"):
            out.print(f"  Later: {note['fix']}", markup=False)
