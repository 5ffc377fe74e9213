# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the commands `mipfed data …` do: options become variables of the playbooks, their reports become results."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mipfed import data_reports, labels, paths, render
from mipfed.data_reports import mapping
from mipfed.errors import MipfedError, Problem, usage
from mipfed.exitcodes import ExitCode
from mipfed.formats import Output
from mipfed.outcome import Outcome
from mipfed.session import Prepared, Session

_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::(?P<port>[0-9]{1,5}))?")


def names(given: Sequence[str] | None) -> list[str]:
    """Return the names of `--pathology a,b`, each once, in order.

    :raises MipfedError: USAGE when one cannot be the name of a pathology.
    """
    wanted = list(dict.fromkeys(part.strip() for text in given or () for part in text.split(",")))
    if wrong := [name for name in wanted if not paths.PATHOLOGY.fullmatch(name)]:
        shown = ", ".join(repr(name) for name in wrong)
        raise usage(
            f"--pathology: {shown}: a pathology is the name of a folder: letters, digits, hyphen, underscore and dot, at most 64, "
            "a letter or digit first; several are separated by commas."
        )
    return wanted


def _away_first(outcome: Outcome) -> Outcome:
    """Let a node that is away explain what the report says of it: 6, but 4 when there is also something else."""
    if not outcome.done or outcome.exit_code not in (ExitCode.CHECK, ExitCode.UNREACHABLE):
        return outcome
    away = {name for name, host in outcome.done.collector.hosts.items() if host.counts["unreachable"]}
    if away:
        away |= set(mapping(outcome.result).get("away") or ())
        others = any(problem.host not in away for problem in outcome.errors)
        outcome.exit_code = ExitCode.CHECK if others else ExitCode.UNREACHABLE
    return outcome


def _told_once(outcome: Outcome) -> Outcome:
    """Leave out the failure of a task when the report tells the same with more about it."""
    told = list(outcome.errors)
    outcome.errors = [
        error
        for error in told
        if not (error.task and any(other is not error and other.host == error.host and error.message in other.message for other in told))
    ]
    return outcome


def _unknown(session: Session, wanted: Sequence[str], known: Sequence[str]) -> MipfedError:
    name = session.source.name
    return MipfedError(
        ExitCode.NO_HOSTS,
        f"{name} has no pathology {', '.join(wanted)}.",
        next=f"Pathologies: {', '.join(known)}" if known else session.call("data ls"),
    )


def _look(session: Session) -> Outcome:
    """Run the playbook that looks at every node's data."""
    outcome = session.report(session.play("hbp.mip.data", session.prepare()), "data", data_reports.overview)
    return _away_first(_told_once(outcome))


def show(session: Session, pathologies: Sequence[str]) -> Outcome:
    """Carry out `data ls`."""
    outcome = _look(session)
    report = outcome.result
    if not isinstance(report, dict) or not pathologies:
        return outcome
    there = mapping(report.get("pathologies"))
    if unknown := [name for name in pathologies if name not in there]:
        # With a node away nobody knows whether it has the pathology.
        if not report.get("away"):
            raise _unknown(session, unknown, list(there))
        outcome.errors += [Problem("unknown-pathology", f"no node that answered has a pathology {name}") for name in unknown]
        if outcome.exit_code is ExitCode.OK:
            outcome.exit_code = ExitCode.NO_HOSTS
    report["pathologies"] = {name: entry for name, entry in there.items() if name in pathologies}
    report["structure"] = [entry for entry in report.get("structure") or () if entry.get("name") in pathologies]
    others = [name for name in there if name not in pathologies]

    def elsewhere(message: str) -> bool:
        return any(re.match(rf"{re.escape(name)}[/:]", message) for name in others)

    report["problems"] = [entry for entry in report.get("problems") or () if not elsewhere(str(entry.get("message", "")))]
    outcome.errors = [problem for problem in outcome.errors if problem.task or not elsewhere(problem.message)]
    if outcome.exit_code is ExitCode.CHECK and not outcome.errors:
        outcome.exit_code = ExitCode.OK
    return outcome


def structure(session: Session, file: Path | None) -> Outcome:
    """Carry out `data structure`."""
    if file is not None:
        file = file.expanduser().absolute()
        if not file.parent.is_dir() or file.is_dir():
            why = "is a folder" if file.is_dir() else f"cannot be written: there is no folder {paths.shown(file.parent)}"
            raise usage(f"--file: {paths.shown(file)} {why}.")
    outcome = _look(session)
    report = mapping(outcome.result)
    outcome.text = None
    # Databases and versions of the metadata are no matter of which node holds what.
    outcome.errors = [problem for problem in outcome.errors if problem.task or not problem.code.startswith(("database-", "cdes-"))]
    if outcome.exit_code is ExitCode.CHECK and not outcome.errors:
        outcome.exit_code = ExitCode.OK
    _away_first(outcome)
    away = [str(name) for name in report.get("away") or ()]
    entries = report.get("structure")
    outcome.result = {"structure": entries, "complete": entries is not None and not away, "file": None}
    if entries is None:
        return outcome
    if away:
        where = f"{paths.shown(file)} was not written" if file else "Nothing is printed"
        outcome.errors.append(
            Problem("incomplete", f"{where}: {', '.join(away)} did not answer, and its datasets would look as if they were gone.")
        )
        if outcome.exit_code is ExitCode.OK:
            outcome.exit_code = ExitCode.UNREACHABLE
        return outcome
    text = json.dumps(entries, indent=2, ensure_ascii=False)
    if file is None:
        outcome.text = lambda _out: print(text)
        return outcome
    paths.write_atomically(file, text + "\n")
    outcome.result["file"] = str(file)
    outcome.next = ""
    return outcome


def compiled(session: Session, *, pathologies: Sequence[str], nodes: Sequence[str], force: bool) -> Outcome:
    """Carry out `data compile`."""
    check = session.options.check
    session.arguments = [
        *(["--pathology", ",".join(pathologies)] if pathologies else []),
        *(part for name in nodes for part in ("--node", name)),
        *(["--force"] if force else []),
    ]
    prepared = session.prepare()
    holders = [node for node in prepared.nodes if node["kind"] in ("master", "worker")]
    if unknown := [name for name in nodes if name not in {node["name"] for node in holders}]:
        raise MipfedError(
            ExitCode.NO_HOSTS,
            f"{session.source.name} has no master and no worker {', '.join(unknown)}.",
            next=f"Nodes: {', '.join(node['name'] for node in holders)}",
        )
    chosen = [node for node in holders if not nodes or node["name"] in nodes]
    if not check:
        lines = [f"Federation {session.source.name} ({paths.shown(session.source.folder)}):"]
        lines += [f"  {node['kind']:<7} {node['name']:<24} {node['address']}" for node in chosen]
        lines += [
            f"{'All' if force else 'Stale and missing'} databases of {', '.join(pathologies) or 'all pathologies'} are compiled. "
            "Engines whose databases changed are restarted, one after the other.",
            f"`{session.again()} --check` shows what is not up to date.",
        ]
        session.confirm("\n".join(lines), f"Compile on {len(chosen)} node{'s' * (len(chosen) != 1)}?")
    variables = {"data_pathologies": list(pathologies), "data_nodes": list(nodes), "data_force": force}
    played = session.play(
        "hbp.mip.compile",
        prepared,
        check=check,
        with_controllers=True,
        variables={key: value for key, value in variables.items() if value},
        following=session.again(),
    )
    show = partial(data_reports.compiled, data_dir=str(prepared.resolved["data_dir"]), verbose=session.options.verbose, check=check)
    outcome = _away_first(_told_once(session.report(played, "compile", show)))
    report = mapping(outcome.result)
    if not report:
        return outcome
    entries = [entry for node in mapping(report.get("nodes")).values() for entry in mapping(mapping(node).get("pathologies")).values()]
    found = {name for node in mapping(report.get("nodes")).values() for name in mapping(mapping(node).get("pathologies"))}
    if pathologies and not found and mapping(report.get("nodes")) and outcome.exit_code in (ExitCode.OK, ExitCode.CHECK):
        known, _datasets = labels.known(labels.path(session.source))
        error = _unknown(session, pathologies, known)
        return replace(outcome, exit_code=error.exit_code, errors=error.problems, text=None)
    if outcome.exit_code is ExitCode.OK and any(mapping(entry).get("state") == "failed" for entry in entries):
        outcome.exit_code = ExitCode.CHECK
    if outcome.exit_code is ExitCode.OK:
        if not check:
            outcome.next = session.call("verify")
        elif any(mapping(entry).get("state") == "would_compile" for entry in entries):
            outcome.next = session.again()
    return outcome


@dataclass
class _Consolidation:
    """One `data consolidate`: its session and the variables that every run of the playbook gets."""

    session: Session
    prepared: Prepared
    variables: dict[str, Any]

    def play(self, *, check: bool, expected: str = "") -> Outcome:
        """Run the playbook; the result of the outcome is its report."""
        variables = {**self.variables, "data_expected_plan": expected} if expected else self.variables
        played = self.session.play(
            "hbp.mip.consolidate",
            self.prepared,
            check=check,
            diff=True,
            with_controllers=True,
            variables=variables,
            following=self.session.again(),
        )
        collector = played.done.collector if played.done else None
        outcome = _away_first(_told_once(self.session.report(played, "consolidate", lambda _out, _data: None)))
        outcome.text = None
        if isinstance(outcome.result, dict) and collector:
            asked = self.session.options.diff or self.session.options.verbose > 0
            outcome.result["applied"] = not check and data_reports.pending(outcome.result)
            outcome.result["diffs"] = data_reports.chosen_diffs(outcome.result, collector.metadata, everything=asked)
        if outcome.exit_code in (ExitCode.FAILED, ExitCode.UNREACHABLE) and not check:
            outcome.next = self.session.again()
        return outcome

    def shown(self, outcome: Outcome, *, check: bool) -> Callable[[Any], None]:
        """Return what writes the plan for people."""
        report = outcome.result
        return lambda out: data_reports.plan(out, report, check=check, verbose=self.session.options.verbose)


def _usable(outcome: Outcome) -> bool:
    """Tell whether a run in check mode ended with a plan that may be asked about."""
    plan = mapping(mapping(outcome.result).get("plan"))
    ends = (ExitCode.OK, ExitCode.CHECK, ExitCode.FAILED, ExitCode.UNREACHABLE)
    return bool(plan.get("id")) and outcome.exit_code in ends


def consolidate(session: Session, *, online: bool, protocol: str, host: str, drop_absent: bool, review: bool) -> Outcome:
    """Carry out `data consolidate`."""
    check, yes = session.options.check, session.options.yes
    if check and review:
        raise usage("--review-dataset-labels writes labels, and --check changes nothing; give one of them.")
    if (protocol or host) and not online:
        raise usage("--datacatalogue-protocol and --datacatalogue-host say where --online-cdes asks; give it too.")
    if host:
        _check_host(host)
    session.arguments = [
        *(["--online-cdes"] if online else []),
        *(["--datacatalogue-protocol", protocol] if protocol else []),
        *(["--datacatalogue-host", host] if host else []),
        *(["--drop-absent"] if drop_absent else []),
    ]
    file = labels.path(session.source)
    labels.known(file)  # what is wrong in it is told before any node is asked
    prepared = session.prepare()
    if online and not host and not mapping(mapping(prepared.resolved.get("data")).get("catalogue")).get("host"):
        raise usage(
            "--online-cdes: which data catalogue? The inventory has no mip_data.catalogue.host.",
            next="Give --datacatalogue-host HOST[:PORT]",
        )
    given = {
        "data_online_cdes": online,
        "data_catalogue_protocol": protocol,
        "data_catalogue_host": host,
        "data_drop_absent": drop_absent,
    }
    work = _Consolidation(session, prepared, {key: value for key, value in given.items() if value})
    if yes and not check and not review:
        return _applied(work, work.play(check=False), with_plan=True)

    outcome = work.play(check=True)
    if check or not _usable(outcome):
        if mapping(outcome.result).get("plan"):
            outcome.text = work.shown(outcome, check=True)
        if check and outcome.exit_code is ExitCode.OK and data_reports.pending(outcome.result):
            outcome.next = session.again()
        return outcome
    if review:
        keys = labels.keys(outcome.result["plan"])
        if not session.interactive():
            raise labels.unanswered(file, keys, session.again())
        _tell(work, outcome)
        if labels.write(file, labels.ask(keys, session.ask)):
            render.line(f"Wrote {paths.shown(file)}.")
            outcome = work.play(check=True)
            if not _usable(outcome):
                return outcome
            if data_reports.pending(outcome.result):
                _tell(work, outcome)
    if not data_reports.pending(outcome.result):
        outcome.text = work.shown(outcome, check=True)
        return outcome
    if not yes:
        asked = session.interactive()
        if not asked:
            outcome.text = work.shown(outcome, check=True)
        elif not review:
            _tell(work, outcome)
        try:
            session.confirm(data_reports.summary(outcome.result), "Apply this plan?")
        except MipfedError as error:
            told = asked and session.options.output is Output.TEXT
            return replace(outcome, exit_code=error.exit_code, errors=[*(() if told else outcome.errors), *error.problems], next="")
    return _applied(work, work.play(check=False, expected=str(outcome.result["plan"]["id"])), with_plan=False)


def _tell(work: _Consolidation, outcome: Outcome) -> None:
    """Show a plan, and what is wrong, to the one who is going to be asked about it."""
    work.shown(outcome, check=True)(render.console(stderr=True))
    render.show_errors(replace(outcome, done=None, next=""))


def _applied(work: _Consolidation, outcome: Outcome, *, with_plan: bool) -> Outcome:
    """Give the end of a run that applied a plan its text and its next command."""
    report = outcome.result
    if not isinstance(report, dict):
        return outcome
    undelivered = [name for name, entry in mapping(report.get("distributed")).items() if entry.get("ok") is False]
    if undelivered and outcome.exit_code is ExitCode.OK:
        outcome.exit_code = ExitCode.FAILED
        outcome.errors.append(Problem("distribution", f"{', '.join(undelivered)} did not get the new files.", next=work.session.again()))
    plan = work.shown(outcome, check=False) if with_plan else None

    def text(out: Any) -> None:
        if not mapping(report.get("plan")):
            return
        if plan:
            plan(out)
        data_reports.distribution(out, report)

    outcome.text = text
    if outcome.exit_code is ExitCode.OK and data_reports.pending(report):
        outcome.next = work.session.call("data compile")
    return outcome


def _check_host(host: str) -> None:
    found = _HOST.fullmatch(host)
    if not found or not 0 < int(found["port"] or 1) < 65536:
        raise usage(
            f"--datacatalogue-host {host!r}: expected HOST or HOST:PORT, for example --datacatalogue-host datacatalogue.example.org:8086; "
            "the protocol is given with --datacatalogue-protocol."
        )
