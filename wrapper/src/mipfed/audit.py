# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who ran what, when, with which plan and result: one journal on this machine, and one on every node that was changed.

All of them have one form, that of the hospitals' own command, `mip-site`, whose functions are used here: one JSON object a line, each with
the hash of the one before. An entry on a node holds the hash of an entry here, and the end of a run here holds the hashes of the entries
on the nodes, so that neither side can write its journal anew unseen.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mipfed import completion, paths
from mipfed.errors import MipfedError, Problem
from mipfed.exitcodes import ExitCode
from mipfed.options import REMOTE, command
from mipfed.outcome import Outcome
from mipfed.session import Prepared, Session

if TYPE_CHECKING:
    from rich.console import Console

    from mipfed.runner import Done, Job

#: Commands that only look, and do so too often to be worth an entry.
_LOOKING = frozenset({"audit", "data ls", "data structure", "firewall show", "keycloak orphans", "kit ls", "report", "status", "ui status"})
#: Commands that only look, and whose result somebody may want to know later.
_EXAMINING = frozenset({"check", "plan", "verify", "keycloak plan", "ui audit"})
#: Reports that `status` and `report` show again.
KEPT = ("check", "verify", "data", "status")
#: After these a node has another machine, or another journal.
_NEW_MACHINE = frozenset({"node add", "node replace"})


def folder(federation: str) -> Path:
    """Return the private folder of a federation's journal and of what was found last."""
    found: Path = _journals().folder(federation)
    return found


def _journals() -> Any:
    return paths.collection_module("plugin_utils._journal")


def journal(federation: str) -> Any:
    """Return the functions of `mip-site` for a federation's journal on this machine; there is one at a time."""
    return _journals().journal(federation)


def keep(federation: str, verb: str, content: Mapping[str, Any]) -> None:
    """Keep the last report of a verb for `status` and `report`. Raises OSError."""
    place = folder(federation)
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    paths.collection_module("plugin_utils._files").write(place / f"{verb}.json", json.dumps(content, default=str) + "\n")


def kept(federation: str, verb: str) -> dict[str, Any]:
    """Return the last report of a verb, with when it was made and how that ended; empty when there is none."""
    try:
        found = json.loads((folder(federation) / f"{verb}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def recorded(session: Session, prepared: Prepared, job: Job, run: Callable[[], Outcome]) -> Outcome:
    """Run a job, and write down here and on the nodes that it changed who ran it, and what came of it."""
    verb = session.command
    if verb in _LOOKING:
        return _ended(session, prepared, job, run(), None, quiet=True)
    began = None
    if not job.check and verb not in _EXAMINING:
        data = {"phase": "began", "playbook": job.playbook}
        began = _try(session, lambda: _journals().append(job.federation, verb, f"began: {job.command}", data))
    return _ended(session, prepared, job, run(), began, quiet=False)


def _try(session: Session, write: Callable[[], Any]) -> Any:
    from mipfed import render

    try:
        return write()
    except OSError as error:
        render.line(f"warning: the journal in {paths.shown(folder(session.source.name))} cannot be written: {error.strerror or error}")
        return None


def _ended(session: Session, prepared: Prepared, job: Job, outcome: Outcome, began: Mapping[str, Any] | None, *, quiet: bool) -> Outcome:
    done = outcome.done
    if done is None:
        return outcome
    changes = [_described(change) for change in done.collector.changes]
    result = ExitCode(outcome.exit_code).name.lower()
    data: dict[str, Any] = {
        "phase": "ended",
        "run": done.folder.name,
        "check": job.check,
        "exit_code": int(outcome.exit_code),
        "result": result,
        "seconds": round(done.seconds, 1),
        "hosts": {name: host.state for name, host in done.collector.hosts.items() if host.state != "waiting"},
        **_journals().listed(changes),
        "slowest": done.collector.slowest(),
    }
    if began:
        data["began"] = {"n": began["n"], "hash": began["hash"]}
        data["nodes"] = _tell_nodes(session, prepared, job, done, began, result)
    if not quiet:
        count = f"{_journals().counted(changes)}{' to make' if job.check else ''}"
        _try(session, lambda: _journals().append(job.federation, session.command, f"{result}, {count}: {job.command}", data))
    # What is about some of the nodes only is no picture of the federation.
    for name in () if job.limit or job.variables.get("status_only") else KEPT:
        if (report := done.collector.reports.get(name)) is not None:
            found = {"at": journal(job.federation).now(), "exit_code": int(outcome.exit_code), "seconds": data["seconds"]}
            content = {**found, "run": data["run"], "report": report}
            _try(session, functools.partial(keep, job.federation, name, content))
    return outcome


def _described(change: Any) -> str:
    return f"{change.host}: {_journals().described(change.role, change.task, change.item)}"


def _tell_nodes(session: Session, prepared: Prepared, job: Job, done: Done, began: Mapping[str, Any], result: str) -> dict[str, Any]:
    """Write an entry on each node that was changed; return by node its number and hash, or why it has none."""
    from concurrent.futures import ThreadPoolExecutor

    from mipfed import render, ssh

    by_node: dict[str, list[str]] = {}
    for change in done.collector.changes:
        by_node.setdefault(change.host, []).append(_described(change).partition(": ")[2])
    nodes = [node for node in prepared.resolved["nodes"] if node["name"] in by_node and node["ssh_host"]]
    source = ssh.collection_file("roles/site/files/mip-site")

    def tell(node: Mapping[str, Any]) -> dict[str, Any]:
        more = {"run": done.folder.name, "centre": {"n": began["n"], "hash": began["hash"]}}
        who = f"{_journals().person()}, federation {job.federation}"
        request = _journals().node_entry(session.command, who, result, job.command, by_node[str(node["name"])], more)
        if done.collector.hosts[str(node["name"])].counts["unreachable"]:
            return {"error": "it could not be reached any more"}
        try:
            found = ssh.ask(prepared, node, ssh.program(source, "answer", request), seconds=20)
            return {"n": int(found["n"]), "hash": str(found["hash"])}
        except (OSError, KeyError, TypeError, ValueError, MipfedError) as error:
            return {"error": str(error)}

    with ThreadPoolExecutor(16) as pool:
        answers = dict(zip((str(node["name"]) for node in nodes), pool.map(tell, nodes), strict=True))
    for name, answer in answers.items():
        if "error" in answer and result != "interrupted":
            render.line(f"warning: {name}: its journal has no entry of this run: {answer['error']}")
    return answers


def anchors(entries: Sequence[Mapping[str, Any]], node: str) -> list[tuple[int, str, str]]:
    """Return what is known here of a node's journal: number and hash of entries, and when they were written."""
    found: list[tuple[int, str, str]] = []
    for entry in entries:
        data = entry.get("data") or {}
        if entry.get("what") in _NEW_MACHINE and data.get("phase") == "began" and node in str(entry.get("text")).split():
            found = []
        told = (data.get("nodes") or {}).get(node) or {}
        if told.get("hash"):
            found.append((int(told["n"]), str(told["hash"]), str(entry.get("time"))))
    return found


def compare(known: Sequence[tuple[int, str, str]], entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is wrong with a node's entries by what is known of them here."""
    hashes = {entry.get("n"): entry.get("hash") for entry in entries}
    problems = []
    for number, value, when in known:
        if number not in hashes:
            problems.append(f"entry {number}, which was written in a run that ended at {when}, is missing")
        elif hashes[number] != value:
            problems.append(f"entry {number} is another one than was written in the run that ended at {when}")
    return problems


def _read(prepared: Prepared, node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node's entries and what is wrong with them. Raises OSError."""
    from mipfed import ssh

    found = ssh.ask(prepared, node, ssh.program(ssh.collection_file("roles/site/files/mip-site"), "answer", {"action": "read"}))
    if not isinstance(found, dict) or not isinstance(found.get("entries"), list):
        raise OSError("its answer is not understood")
    return found


def _text(entries: Sequence[Mapping[str, Any]]) -> Callable[[Console], None]:
    def write(out: Console) -> None:
        from mipfed.render import rows

        table = ((e["n"], e["time"], e.get("who"), e.get("what"), e.get("text")) for e in entries)
        rows(out, ("entry", "time", "who", "command", "what came of it"), table)

    return write


def audit(
    session: Session,
    node: Annotated[
        str,
        typer.Argument(
            metavar="[NODE]", help="The journal on this node; otherwise the one on this machine.", autocompletion=completion.nodes
        ),
    ] = "",
    verify: Annotated[bool, typer.Option("--verify", help="Are the journals complete and unchanged, here and on all nodes?")] = False,
    last: Annotated[int, typer.Option("--last", metavar="N", min=0, help="Only the last N entries; 0 for all.")] = 20,
    head: Annotated[str, typer.Option("--head", metavar="HASH", help="With --verify: the hash of an entry that was noted earlier.")] = "",
) -> Outcome:
    """Show who ran what, when, and what came of it.

    Every run that may change something is written down on this machine, and on each node that it changed. With --verify, which ends with
    4 when an entry was changed, is missing or was moved, each journal is compared with what the other side knows of it. Changes nothing.
    """
    name = session.source.name
    own = journal(name)
    entries, problems = own.examine(head if verify and not node else "")
    if not node and not verify:
        shown = entries[-last:] if last else entries
        errors = [Problem("audit", problem, next=session.call("audit --verify")) for problem in problems]
        return Outcome({"entries": shown, "problems": problems}, ExitCode.CHECK if errors else ExitCode.OK, errors, text=_text(shown))
    prepared = session.prepare(secrets=False)
    nodes = [entry for entry in prepared.resolved["nodes"] if entry["ssh_host"] and entry["kind"] != "pusher"]
    if node:
        nodes = [entry for entry in nodes if entry["name"] == node]
        if not nodes:
            raise MipfedError(ExitCode.NO_HOSTS, f"{name} has no node {node} that gives access over SSH.", next=session.call("node ls"))
    return _nodes(session, prepared, nodes, (entries, problems), verify=verify, last=last, head=head if node else "")


def _nodes(
    session: Session,
    prepared: Prepared,
    nodes: Sequence[Mapping[str, Any]],
    own: tuple[list[dict[str, Any]], list[str]],
    *,
    verify: bool,
    last: int,
    head: str,
) -> Outcome:
    """Read the journals of nodes, and with `verify` tell what is wrong with them and with this machine's."""
    from concurrent.futures import ThreadPoolExecutor

    from mipfed import events, render

    def read(node: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return _read(prepared, node)
        except (OSError, MipfedError) as error:
            return {"entries": [], "problems": [], "error": str(error)}

    with ThreadPoolExecutor(16) as pool:
        found = dict(zip((str(node["name"]) for node in nodes), pool.map(read, nodes), strict=True))
    errors, table = [], []
    tips = session.tips(prepared)
    if verify:
        errors += [Problem("audit", problem, host="this machine") for problem in own[1]]
        table.append(("this machine", len(own[0]), len(own[1]), _last_hash(own[0])))
    for name, content in found.items():
        if "error" in content:
            following = events.hint(content["error"], tips[name]) or session.call(f"check -l {name}")
            errors.append(Problem("unreachable", content["error"], host=name, next=following))
            continue
        content["problems"] += compare(anchors(own[0], name), content["entries"])
        if head and not any(str(entry["hash"]).startswith(head) for entry in content["entries"]):
            content["problems"].append(f"no entry has the hash {head}, which was noted earlier")
        errors += [Problem("audit", problem, host=name) for problem in content["problems"]]
        table.append((name, len(content["entries"]), len(content["problems"]), _last_hash(content["entries"])))
    codes = {problem.code for problem in errors}
    code = ExitCode.CHECK if "audit" in codes else ExitCode.UNREACHABLE if codes else ExitCode.OK
    result: dict[str, Any] = {"nodes": {name: {**content, "entries": len(content["entries"])} for name, content in found.items()}}
    result["problems"] = own[1]
    if verify:
        return Outcome(result, code, errors, text=lambda out: render.rows(out, ("journal of", "entries", "problems", "last hash"), table))
    shown = [entry for content in found.values() for entry in content["entries"]]
    shown = shown[-last:] if last else shown
    return Outcome({**result, "entries": shown}, code, errors, text=_text(shown))


def _last_hash(entries: Sequence[Mapping[str, Any]]) -> str:
    return str(entries[-1]["hash"]) if entries else ""


def register(application: typer.Typer) -> None:
    """Give an application this command."""
    command(application, "audit", REMOTE)(audit)
