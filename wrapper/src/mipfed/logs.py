# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `mipfed logs`: the logs of the whole federation, or of a part of it, as one stream."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mipfed import completion, paths
from mipfed.errors import MipfedError, Problem, usage
from mipfed.exitcodes import ExitCode
from mipfed.formats import Output
from mipfed.options import REMOTE, command
from mipfed.outcome import Outcome
from mipfed.session import Prepared, Session

if TYPE_CHECKING:
    from mipfed.log_stream import Entry

#: The engine's own journal; all other components are containers.
JOURNAL = "docker"
#: How many lines of the past are shown when nothing says how many.
DEFAULT_LINES = 100
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_NODE_COLOURS = ("36", "33", "35", "32", "34", "96", "93", "95", "92", "94")
_BAD = re.compile(r"\b(ERROR|FATAL|CRITICAL|SEVERE|PANIC|Traceback|Exception)\b|level=(error|fatal|panic)|\[(ERROR|ERR)\]")
_DOUBTFUL = re.compile(r"\bWARN(ING)?\b|level=warning|\[WARN\]")


@dataclass(frozen=True)
class Wanted:
    """What of the logs is wanted."""

    nodes: Sequence[str] = ()
    #: Kinds of nodes, master for example; none stands for all.
    kinds: Sequence[str] = ()
    components: Sequence[str] = ()
    since: str = ""
    limit: int | None = None
    grep: str = ""
    follow: bool = False
    json: bool = False


def moment(text: str, now: float) -> int:
    """Return the time that `--since` means: how long ago (10s, 5m, 1h, 2d, 1w), or a date with or without a time.

    In nanoseconds since 1970; a date exactly, because a float would be off by some hundred of them, and lines would be lost.

    :raises MipfedError: USAGE when it is neither.
    """
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text):
        return int((now - float(found[1]) * _UNITS[found[2]]) * 10**9)
    try:
        given = datetime.fromisoformat(text)
        return int(given.replace(microsecond=0).timestamp()) * 10**9 + given.microsecond * 1000
    except ValueError:
        raise usage(f"--since {text}: neither how long ago (10m, 1h, 2d) nor a time (2026-11-22T10:00).") from None


def components() -> dict[str, list[str]]:
    """Return what can be asked for, each with the names of services that belong to it."""
    from mipfed.ui import Component

    services = paths.collection_module("filter.chosen_services").COMPONENTS
    return {
        **{name: list(labels) for name, labels in services.items()},
        **{part.value: [] for part in Component},
        JOURNAL: [],
    }


def _known(session: Session, prepared: Prepared, wanted: Wanted) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the nodes that are asked directly, and those that are asked through a manager. Raises MipfedError."""
    known = components()
    if unknown := [name for name in wanted.components if name not in known]:
        raise usage(f"There is no component {', '.join(unknown)}.", next=f"Components: {', '.join(known)}")
    resolved = prepared.resolved
    direct = [node for node in prepared.nodes if node["kind"] != "pusher"]
    relayed = [node for node in resolved.get("kits", ()) if node["site_kit"] == "member"]
    names = [str(node["name"]) for node in [*direct, *relayed]]
    if unknown := [name for name in wanted.nodes if name not in names]:
        off = [str(node["name"]) for node in resolved.get("disabled", ()) if node["name"] in unknown]
        raise MipfedError(
            ExitCode.NO_HOSTS,
            f"{session.source.name} has no node {', '.join(unknown)}" + (f"; the inventory disables {', '.join(off)}." if off else "."),
            next=session.call(f"node enable {off[0]}") if off else f"Nodes: {', '.join(names)}",
        )
    chosen = {str(node["name"]) for node in [*direct, *relayed] if node["kind"] in (wanted.kinds or (node["kind"],))}
    chosen &= set(wanted.nodes or names)
    if not chosen:
        what = f"{' or '.join(wanted.kinds)} node" if wanted.kinds else "node"
        raise MipfedError(ExitCode.NO_HOSTS, f"{session.source.name} has no {what} whose logs can be read.", next=session.call("node ls"))
    relayed = [node for node in relayed if node["name"] in chosen]
    return [node for node in direct if node["name"] in chosen], relayed


def _final(reason: str, connected: bool) -> bool:
    """Tell whether it is no use to try again."""
    if re.search(r"Host key verification failed|IDENTIFICATION HAS CHANGED|No \S+ host key is known", reason):
        return True
    return not connected and bool(re.search(r"Permission denied|password is required|Could not resolve|not found|No such file", reason))


def show(session: Session, wanted: Wanted) -> Outcome:
    """Read the logs and write them as they come."""
    import asyncio

    from mipfed import events, log_stream, ssh

    if wanted.follow and session.options.output is Output.JSON:
        raise usage("-f never comes to an end, and -o json writes one document at the end.", next="-o jsonl, or --json")
    try:
        re.compile(wanted.grep)
    except re.error as error:
        raise usage(f"--grep {wanted.grep}: no regular expression ({error}).") from None
    since = moment(wanted.since, time.time()) if wanted.since else 0
    prepared = session.prepare(secrets=False)
    direct, relayed = _known(session, prepared, wanted)
    limit = wanted.limit if wanted.limit is not None else 0 if wanted.since else DEFAULT_LINES
    request = {
        "federation": prepared.resolved["name"],
        "components": list(wanted.components),
        "names": {label: name for name, labels in components().items() for label in labels},
        "follow": wanted.follow,
        "grep": wanted.grep,
        "limit": limit,
        "since": since,
    }
    reader = ssh.collection_file("plugins/module_utils/_logs.py")
    managers = [node for node in prepared.nodes if node["kind"] == "master" or node.get("manager")]
    asked = [{**node, "quiet": False} for node in direct]
    if relayed and managers:
        # Site kits give no access over SSH: a manager reads those hospitals' containers through the swarm.
        first = min(managers, key=lambda node: node["kind"] != "master")
        asked = [node for node in asked if node["name"] != first["name"]] + [
            {**first, "relayed": [node["name"] for node in relayed], "quiet": first not in direct}
        ]
    feeds = [
        log_stream.Feed(
            name=str(node["name"]),
            command=ssh.python(prepared, node),
            program=lambda request: ssh.program(reader, "main", request),
            request={**request, "relayed": node.get("relayed", []), "own": not node["quiet"]},
        )
        for node in asked
    ]
    names = [str(node["name"]) for node in (*direct, *relayed)]
    writer = Writer(session, wanted, names)
    interrupted = False
    stream = log_stream.Stream(feeds, writer.entry, writer.notice, limit=limit, final=_final)
    try:
        asyncio.run(stream.run())
    except KeyboardInterrupt:
        interrupted = True
    except BaseExceptionGroup as group:
        if group.split(BrokenPipeError)[1]:
            raise
        # The reader has left (`| head`); Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    tips = session.tips(prepared)
    errors = []
    for feed in feeds:
        if feed.lost:
            following = events.hint(feed.lost, tips[feed.name]) or session.call(f"check -l {feed.name}")
            errors.append(Problem("unreachable", feed.lost, host=feed.name, next=following))
    code = ExitCode.INTERRUPTED if interrupted else ExitCode.UNREACHABLE if errors else ExitCode.OK
    return Outcome(result=writer.result(), exit_code=code, errors=errors)


class Writer:
    """Writes lines and notices in the format that the user asked for."""

    def __init__(self, session: Session, wanted: Wanted, nodes: Sequence[str]) -> None:
        output = Output.JSONL if wanted.json else session.options.output
        self._kept: list[dict[str, str]] = []
        self._lines = 0
        self._width = max((len(name) for name in nodes), default=0)
        coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
        self._colours = {name: _NODE_COLOURS[place % len(_NODE_COLOURS)] for place, name in enumerate(nodes)} if coloured else {}
        self._write: Callable[[Entry], None] = {Output.TEXT: self._text, Output.JSON: self._keep, Output.JSONL: self._json}[output]
        self._machine = output is Output.JSONL

    def entry(self, entry: Entry) -> None:
        """Write a line of a log."""
        self._lines += 1
        self._write(entry)

    def notice(self, node: str, code: str, message: str) -> None:
        """Say what people should know; to programs as well."""
        from mipfed import render

        if self._machine:
            print(render.event_line("notice", node=node, code=code, message=message), flush=True)
        else:
            render.line(f"-- {node}: {message}")

    def result(self) -> dict[str, Any]:
        """Return the result of the command for JSON."""
        return {"lines": self._kept} if self._write == self._keep else {"count": self._lines}

    def _keep(self, entry: Entry) -> None:
        self._kept.append(entry.as_dict())

    def _json(self, entry: Entry) -> None:
        from mipfed import render

        print(render.event_line("log", **entry.as_dict()), flush=True)

    def _text(self, entry: Entry) -> None:
        from mipfed import render

        when, name, component = f"{entry.at[:23]}Z", f"{entry.node:<{self._width}}", f"{entry.component:<8}"
        text = render.visible(entry.text)
        if self._colours:
            colour = self._colours.get(entry.node, "0")
            when, name, component = f"\x1b[2m{when}\x1b[0m", f"\x1b[{colour}m{name}\x1b[0m", f"\x1b[2m{component}\x1b[0m"
            if _BAD.search(text):
                text = f"\x1b[31m{text}\x1b[0m"
            elif _DOUBTFUL.search(text):
                text = f"\x1b[33m{text}\x1b[0m"
        print(f"{when} {name} {component} {text}", flush=True)


def _complete_component(incomplete: str) -> list[str]:
    return [name for name in components() if name.startswith(incomplete)]


def logs(
    session: Session,
    nodes: Annotated[
        list[str] | None, typer.Argument(metavar="[NODE]...", help="Only these nodes.", show_default=False, autocompletion=completion.nodes)
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    component: Annotated[
        list[str] | None,
        typer.Option(
            "--component",
            "-C",
            metavar="NAME",
            help="engine, keystore, portainer, frontend, gateway, backend, database, galaxy; docker for the journal of Docker itself.",
            show_default=False,
            autocompletion=_complete_component,
        ),
    ] = None,
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="From then on: 10m, 1h, 2d ago, or 2026-11-22T10:00.")] = "",
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", "-n", metavar="N", min=0, help="The last N lines of the past; 100, or all with --since.", show_default=False
        ),
    ] = None,
    grep: Annotated[str, typer.Option("--grep", metavar="RE", help="Only lines that match; searched on the nodes.")] = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> Outcome:
    """Show the logs of the federation, or of a part of it, in order of time.

    Containers of the federation on all nodes, and warnings and errors of their Docker engines. With -f it goes on through restarts
    and cut links, and leaves nothing out; the federation is named before the verb (`mipfed -f NAME logs -f`). Changes nothing.
    """
    return show(session, Wanted(nodes or (), components=component or (), since=since, limit=limit, grep=grep, follow=follow, json=json))


def register(application: typer.Typer) -> None:
    """Give an application this command."""
    # After this verb -f is --follow, as everybody expects; the federation is named before it.
    command(application, "logs", tuple(name for name in REMOTE if name != "federation"))(logs)
