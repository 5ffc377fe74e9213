# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of `mipfed`. Each chooses, shows and guards; the work is done by the playbooks of hbp.mip."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mipfed import audit, backup, completion, desk, exitcodes, logs, managers, migration, paths, releases, report, services, wizard
from mipfed.data import data_app
from mipfed.errors import MipfedError, Problem
from mipfed.exitcodes import ExitCode
from mipfed.firewall import firewall_app
from mipfed.images import image_app
from mipfed.keycloak import keycloak_app
from mipfed.kits import kit_app
from mipfed.locks import lock_app
from mipfed.nodes import node_app, token_app
from mipfed.options import OFFLINE, OUTPUT, REMOTE, command, new_application, root_options
from mipfed.outcome import Outcome
from mipfed.releases import release_app
from mipfed.session import Session
from mipfed.ui import ui_app
from mipfed.vaults import vault_app

EPILOG = "Exit codes:\n\n\b\n" + exitcodes.table()


app = new_application("Deploys and operates a federation of the Medical Informatics Platform.", epilog=EPILOG)
root_options(app)
lab_app = new_application("A federation of machines on this host.")
config_app = new_application("The configuration of a federation.")


wizard.register(app)


@command(app, "doctor", ("federation", *OUTPUT))
def doctor(
    session: Session,
    run: Annotated[str, typer.Argument(metavar="[RUN]", help="A recorded run: `last`, its name, or how that begins.")] = "",
) -> Outcome:
    """Look at this machine and installation, or explain what went wrong in a run.

    Says for everything that is missing or wrong how to put it right. Contacts no host.
    """
    from mipfed import doctor, render

    if run:
        from mipfed import symptoms

        return symptoms.outcome(run, session.options.federation)
    findings = doctor.examine(session.root)
    problems = doctor.problems(findings)
    colours = {"ok": "ok", "warning": "changed", "problem": "failed"}

    def text(out: Any) -> None:
        from mipfed.reports import coloured_as

        table = [(found.name, coloured_as(colours[found.state], found.state), found.detail) for found in findings]
        render.rows(out, ("what", "verdict", "detail"), table)

    return Outcome(
        result={"findings": [found.as_dict() for found in findings]},
        exit_code=ExitCode.CHECK if problems else ExitCode.OK,
        errors=problems,
        text=text,
    )


IgnoreCheck = Annotated[
    list[str] | None,
    typer.Option("--ignore-check", metavar="CODE", help="Go on in spite of this problem, named by the code in brackets; may be repeated."),
]


@command(app, "check", (*REMOTE, "limit"))
def check(
    session: Session,
    ignore_check: IgnoreCheck = None,
    throughput: Annotated[bool, typer.Option("--throughput", help="Also measure MB/s between every two nodes; fills the lines.")] = False,
    seconds: Annotated[int, typer.Option("--seconds", metavar="N", min=1, max=30, help="How long each pair sends, with --throughput.")] = 3,
    request_sheet: Annotated[
        str,
        typer.Option(
            "--request-sheet",
            metavar="NODE",
            help="Print what this node's network team has to allow; contacts no host.",
            autocompletion=completion.nodes,
        ),
    ] = "",
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Write the request sheet into a file.")] = None,
) -> Outcome:
    """Look at every node and every link between them; changes nothing.

    Tells whether each can be part of the federation, and if not, why and what to do.
    """
    from mipfed import reports

    if request_sheet or to:
        from mipfed import request_sheet as sheets

        return sheets.command(session, request_sheet, to, alone=not (throughput or ignore_check or session.options.limit))
    variables = {"check_ignore": ignore_check or [], "check_throughput": throughput, "check_seconds": seconds}
    outcome = session.report(session.play("hbp.mip.check", session.prepare(), variables=variables), "check", reports.check)
    if outcome.exit_code is ExitCode.OK:
        outcome.next = session.call("plan")
    return outcome


def _plan(session: Session, *, detailed_exitcode: bool, ignore_check: list[str] | None) -> Outcome:
    from mipfed import reports

    with_diff = session.options.diff or session.options.verbose > 0
    outcome = session.play(
        "hbp.mip.deploy",
        session.prepare(),
        check=True,
        diff=True,
        with_controllers=True,
        variables={"check_ignore": ignore_check or []},
    )
    assert outcome.done
    collector = outcome.done.collector
    changes = [change.as_dict(with_diff=with_diff) for change in collector.changes]
    outcome.result = {"changes": changes}
    if changes or outcome.exit_code is ExitCode.OK:
        outcome.text = lambda out: reports.changes(out, collector, with_diff=with_diff)
    if changes and outcome.exit_code is ExitCode.OK:
        outcome.next = session.call("deploy")
        if detailed_exitcode:
            outcome.exit_code = ExitCode.CHANGES
    return outcome


@command(app, "plan", (*REMOTE, "limit", "diff"))
def plan(
    session: Session,
    detailed_exitcode: Annotated[bool, typer.Option("--detailed-exitcode", help="End with 9 when there are changes to make.")] = False,
    ignore_check: IgnoreCheck = None,
) -> Outcome:
    """Show what deploy would change; changes nothing.

    Runs the playbook of deploy in check mode and lists the changes host by host.
    """
    return _plan(session, detailed_exitcode=detailed_exitcode, ignore_check=ignore_check)


@command(app, "deploy", (*REMOTE, "limit", "check", "diff"))
def deploy(session: Session, ignore_check: IgnoreCheck = None) -> Outcome:
    """Make the nodes a working federation.

    Installs Docker where it is missing, then brings up swarm, overlay network, keystore and engine. Asks before it starts.
    Running it again changes only what differs.
    """
    if session.options.check:
        return _plan(session, detailed_exitcode=False, ignore_check=ignore_check)
    prepared = session.prepare()
    nodes = prepared.nodes
    lines = [f"Federation {session.source.name} ({paths.shown(session.source.folder)}):"]
    lines += [f"  {node['kind']:<7} {node['name']:<24} {node['address']}" for node in nodes]
    lines += ["What is missing on these hosts is installed; swarm, overlay network and services are created or updated."]
    lines += [f"`{session.call('plan')}` shows every change beforehand."]
    session.confirm("\n".join(lines), f"Deploy to {len(nodes)} nodes?")
    outcome = session.play(
        "hbp.mip.deploy",
        prepared,
        diff=session.options.diff,
        with_controllers=True,
        variables={"check_ignore": ignore_check or []},
    )
    assert outcome.done
    collector = outcome.done.collector
    outcome.recap = True
    changed = sum(host.counts["changed"] for host in collector.hosts.values())
    outcome.result = {
        "changed": changed,
        "changes": [change.as_dict(with_diff=session.options.diff) for change in collector.changes],
        "drained": collector.resting,
    }
    if outcome.exit_code is ExitCode.OK:
        lines = [f"Deployed {session.source.name}: {changed} change{'s' * (changed != 1)}." if changed else "Nothing to do."]
        lines += [
            f"{node} is drained: its engine stays stopped until `{session.call(f'node activate {node}')}`." for node in collector.resting
        ]
        outcome.text = lambda out: out.print("\n".join(lines), markup=False)
        outcome.next = session.call("verify")
    return outcome


services.register(app)
logs.register(app)
audit.register(app)
report.register(app)
releases.register(app)


@command(app, "verify", REMOTE)
def verify(session: Session) -> Outcome:
    """Prove that the federation works.

    Tries every link over the overlay, every dataset and one federated statistic.
    """
    from mipfed import reports

    return session.report(session.play("hbp.mip.verify", session.prepare()), "verify", reports.verify)


@command(app, "trust", (*OFFLINE, "yes", "limit"))
def trust(
    session: Session,
    nodes: Annotated[
        list[str] | None, typer.Argument(metavar="[NODE]...", help="Only these nodes.", autocompletion=completion.nodes)
    ] = None,
    replace: Annotated[
        list[str] | None, typer.Option(metavar="NODE", help="Accept the changed key of this node.", autocompletion=completion.nodes)
    ] = None,
) -> Outcome:
    """Pin the SSH host keys of the nodes.

    Shows the fingerprints and asks. A fingerprint given in the inventory (mip_host_key) is compared instead. With -y keys that
    nothing vouches for are accepted as shown; a key that changed never is, but with --replace.
    """
    from mipfed import inventory as inventories
    from mipfed import render
    from mipfed import trust as keys

    inventory = inventories.load(session.source, limit=session.options.limit)
    wanted = [*(nodes or []), *(replace or [])]
    everything = inventories.resolve(inventory)["nodes"]
    if unknown := sorted(set(wanted) - {node["name"] for node in everything}):
        raise MipfedError(
            ExitCode.NO_HOSTS,
            f"{session.source.name} has no node {', '.join(unknown)}.",
            next=f"Nodes: {', '.join(node['name'] for node in everything)}",
        )
    chosen = [node for node in everything if (not wanted or node["name"] in wanted) and node["name"] in inventory.matched]
    if not chosen:
        raise MipfedError(ExitCode.NO_HOSTS, f"--limit {session.options.limit} matches no node of {session.source.name}.")
    entries = keys.examine(chosen, session.source.known_hosts)

    declined: list[Problem] = []

    def accept(asked: Sequence[keys.Trust]) -> bool:
        if session.options.yes:
            render.line(keys.shown(asked))
        try:
            session.confirm(keys.shown(asked), "Pin these keys?")
        except MipfedError as error:
            declined.extend(Problem(p.code, p.message, next=p.next or session.call("trust")) for p in error.problems)
            return False
        return True

    # What needs no question is pinned even when the question is declined.
    added, changed, problems = keys.decide(entries, session.call(""), replace=replace or [], accept=accept)
    keys.pin(session.source.known_hosts, added)
    keys.pin(session.source.known_hosts, changed, replace=True)
    for entry in (*added, *changed):
        entry.state = "pinned"
    codes = {problem.code for problem in problems}
    code = ExitCode.CHECK if codes & {"host-key-changed", "host-key-mismatch"} else ExitCode.UNREACHABLE if codes else ExitCode.OK
    if declined and code in (ExitCode.OK, ExitCode.UNREACHABLE):
        code = ExitCode.DECLINED

    def text(out: Any) -> None:
        render.rows(
            out,
            ("node", "address", "state", "type", "fingerprint"),
            (
                (e.node, e.address[0] if e.address[1] == 22 else f"{e.address[0]}:{e.address[1]}", e.state, e.kind, e.fingerprint)
                for e in entries
            ),
        )

    result = {"nodes": [entry.as_dict() for entry in entries]}
    return Outcome(result=result, exit_code=code, errors=[*problems, *declined], text=text)


@command(config_app, "show", OFFLINE, group="config")
def config_show(session: Session) -> Outcome:
    """Show the federation's configuration, validated and with every default. Secrets are not in it. Contacts no host."""
    from mipfed import inventory

    shown = inventory.shown_config(inventory.resolve(inventory.load(session.source)))

    def text(out: Any) -> None:
        import yaml

        out.print(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=120).rstrip(), markup=False)

    return Outcome(result=shown, text=text)


class Base(StrEnum):
    """Debian releases that lab machines can be made of."""

    BULLSEYE = "bullseye"
    BOOKWORM = "bookworm"
    TRIXIE = "trixie"


class Further(StrEnum):
    """What a lab can have besides a federation's nodes."""

    KEYCLOAK = "keycloak"
    PORTAL = "portal"


LabName = Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the lab, and of its federation.")]


def _lab(session: Session, playbook: str, name: str, **more: Any) -> Outcome:
    import shutil

    from mipfed import lab, reports, runner

    session.name = name
    inventory = runner.local_inventory()
    try:
        job = runner.Job(
            verb=session.command,
            federation=name,
            playbook=f"hbp.mip.{playbook}",
            inventory=inventory,
            root=session.root,
            hosts=["localhost"],
            verbosity=max(0, session.options.verbose - 1),
            variables=lab.variables(session.root, name, **more),
        )
        outcome = session.execute(job, {}, f"mipfed lab status --name {name}")
    finally:
        shutil.rmtree(inventory.parent, ignore_errors=True)
    collected = outcome.done.collector.reports if outcome.done else {}
    data = next(iter(collected.values()), None)
    outcome.result = data
    if isinstance(data, dict):
        outcome.text = lambda out: reports.lab(out, data)
    return outcome


@command(lab_app, "up", OUTPUT, group="lab")
def lab_up(
    session: Session,
    name: LabName = "lab",
    workers: Annotated[int, typer.Option(metavar="N", min=1, max=50, help="How many hospitals.")] = 3,
    base: Annotated[Base, typer.Option(help="Debian release of the machines.")] = Base.BOOKWORM,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Deal the CSV files of these pathologies to the hospitals, in place of synthetic data."),
    ] = None,
    with_: Annotated[
        list[Further] | None,
        typer.Option(
            "--with",
            metavar="PART",
            help="keycloak: a machine with the real one; portal: its stand-in on the ui machine.",
            show_default=False,
        ),
    ] = None,
    bare: Annotated[
        bool, typer.Option("--bare", help="Machines that know an account with a password, not us, and no inventory: for `mipfed init`.")
    ] = False,
) -> Outcome:
    """Start the machines of a lab and write the inventory of its federation. Needs root."""
    from mipfed import lab

    source = lab.data_source(data) if data else None
    further = [part.value for part in with_ or ()]
    if bare and further:
        raise MipfedError(ExitCode.USAGE, "--with needs the inventory that --bare leaves to you.")
    outcome = _lab(session, "lab_up", name, workers=workers, base=base.value, data=source, further=further, bare=bare)
    if outcome.exit_code is ExitCode.OK and bare:
        shown, lines = outcome.text, lab.bare_lines(outcome.result["state_dir"], outcome.result["gateway"])

        def text(out: Any) -> None:
            if shown:
                shown(out)
            out.print("\n".join(lines), markup=False)

        outcome.text = text
        outcome.next = f"mipfed init {name} --variables {outcome.result['state_dir']}/lab.yml"
    elif outcome.exit_code is ExitCode.OK:
        outcome.next = f"mipfed -f {name} deploy"
    return outcome


@command(lab_app, "down", OUTPUT, group="lab")
def lab_down(
    session: Session,
    name: LabName = "lab",
    purge: Annotated[bool, typer.Option("--purge", help="Also remove what a next lab would use again.")] = False,
) -> Outcome:
    """Remove the machines of a lab; nothing of them is left. Needs root."""
    return _lab(session, "lab_down", name, purge=purge)


@command(lab_app, "status", OUTPUT, group="lab")
def lab_status(session: Session, name: LabName = "lab") -> Outcome:
    """Show the machines of a lab."""
    return _lab(session, "lab_status", name)


class Shell(StrEnum):
    """Shells that completion exists for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@command(app, "completion", OUTPUT)
def completion_script(session: Session, shell: Annotated[Shell, typer.Argument(help="The shell.")]) -> Outcome:
    """Print the completion script of a shell.

    For example: source <(mipfed completion bash)
    """
    from typer._completion_shared import get_completion_script

    script = get_completion_script(prog_name="mipfed", complete_var="_MIPFED_COMPLETE", shell=shell.value)
    return Outcome(result={"shell": shell.value, "script": script}, text=lambda _out: print(script))


@command(app, "version", OUTPUT)
def version(session: Session) -> Outcome:
    """Show the versions in use."""
    from mipfed import doctor

    found = doctor.versions()
    return Outcome(result=found, text=lambda _out: print("\n".join(f"{name} {value or 'not installed'}" for name, value in found.items())))


app.add_typer(node_app, name="node")
app.add_typer(token_app, name="token")
app.add_typer(data_app, name="data")
app.add_typer(kit_app, name="kit")
app.add_typer(keycloak_app, name="keycloak")
app.add_typer(firewall_app, name="firewall")
app.add_typer(image_app, name="image")
app.add_typer(release_app, name="release")
app.add_typer(config_app, name="config")
app.add_typer(lock_app, name="lock")
app.add_typer(ui_app, name="ui")
app.add_typer(vault_app, name="vault")
app.add_typer(lab_app, name="lab")
backup.register(app)
managers.register(app)
migration.register(app)
desk.register(app)
