# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How results look: progress and tables for people, documents and lines for programs. rich is imported when used."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from mipfed.events import COUNTS, Collector, Step
from mipfed.exitcodes import ExitCode
from mipfed.formats import Output
from mipfed.outcome import Outcome

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from mipfed.runner import Done

SCHEMA = 1
#: On a terminal of fewer columns a table that would have to break words is written as one value a line.
_NARROW = 60
_COLOURS = {
    "ok": "green",
    "changed": "yellow",
    "failed": "bold red",
    "unreachable": "bold magenta",
    "running": "cyan",
    "skipped": "dim",
    "waiting": "dim",
    "ignored": "dim",
}


def console(*, stderr: bool = False) -> Console:
    """Return a console on standard output or standard error; wide enough for tables where there is no terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS") else 160
    return Console(file=stream, width=width, highlight=False, soft_wrap=not stream.isatty(), emoji=False)


def visible(text: str) -> str:
    """Return a text without control characters: names and labels from elsewhere do not get to steer the terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text.replace("\r\n", "\n"))


def line(text: str = "", *, stream: TextIO | None = None) -> None:
    """Write one plain line; by default to standard error, which `-o json` leaves to people."""
    print(visible(text), file=stream or sys.stderr, flush=True)


def document(command: str, federation: str | None, outcome: Outcome) -> dict[str, Any]:
    """Return the one document of `-o json`; the same keys whatever the command and however it ended."""
    done = outcome.done
    return {
        "schema": SCHEMA,
        "command": command,
        "federation": federation,
        "exit_code": int(outcome.exit_code),
        "ok": outcome.exit_code in (ExitCode.OK, ExitCode.CHANGES),
        "result": outcome.result,
        "hosts": {name: host.as_dict() for name, host in done.collector.hosts.items()} if done else {},
        "errors": [problem.as_dict() for problem in outcome.errors],
        "run": done.as_dict() if done else None,
    }


def event_line(event: str, **content: Any) -> str:
    """Return one line of `-o jsonl`."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
    return json.dumps({"schema": SCHEMA, "time": stamp, "event": event, **content}, default=str, ensure_ascii=False)


def emit(output: Output, command: str, federation: str | None, outcome: Outcome, *, verbose: int = 0) -> None:
    """Write a command's end in the format that the user asked for."""
    if output is Output.JSON:
        print(json.dumps(document(command, federation, outcome), indent=2, default=str, ensure_ascii=False), flush=True)
    elif output is Output.JSONL:
        print(event_line("end", **{k: v for k, v in document(command, federation, outcome).items() if k != "schema"}), flush=True)
    else:
        if outcome.text:
            outcome.text(console())
        # After a failed check the problems say all; the totals would only show that a report was bad.
        if outcome.done and (outcome.recap or verbose or outcome.done.exit_code not in (ExitCode.OK, ExitCode.CHECK)):
            recap(outcome.done, verbose)
        show_errors(outcome)
        sys.stdout.flush()


def indented(text: str, by: int = 4) -> str:
    """Return a text with its second and further lines indented."""
    return text.strip().replace("\n", "\n" + " " * by)


def show_errors(outcome: Outcome) -> None:
    """Write what is wrong to standard error: host, task, reason, next command; and where the log is."""
    failed = outcome.exit_code not in (ExitCode.OK, ExitCode.CHANGES)
    shown: set[str] = set()
    for problem in outcome.errors:
        place = ", ".join(part for part in (problem.host, problem.task) if part)
        line(f"{problem.code}: {f'{place}: ' if place else ''}{indented(problem.message)}")
        if problem.next and problem.next not in shown:
            shown.add(problem.next)
            line(f"    next: {indented(problem.next, 10)}")
    if outcome.next and outcome.next not in shown:
        line(f"next: {outcome.next}")
    if outcome.done and failed:
        line(f"log:  {outcome.done.log}")


def recap(done: Done, verbose: int) -> None:
    """Write the totals per host and, with -v, the slowest tasks to standard error."""
    out = console(stderr=True)
    hosts = [host for host in done.collector.hosts.values() if host.state != "waiting"]
    if not hosts:
        return
    table = _table("host", "state", *COUNTS)
    for host in hosts:
        counts = [str(host.counts[name]) if host.counts[name] else "·" for name in COUNTS]
        table.add_row(host.name, coloured(host.state), *counts)
    out.print(table)
    out.print(f"{done.seconds:.1f} s")
    if verbose and (slowest := done.collector.slowest()):
        out.print("slowest tasks:")
        for task, seconds in slowest:
            out.print(f"  {seconds:7.1f} s  {task}", markup=False)


def _table(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def coloured(state: str) -> Any:
    """Return a state in its colour."""
    from rich.text import Text

    return Text(state, style=_COLOURS.get(state, ""))


def rows(out: Console, columns: Sequence[str], content: Iterable[Sequence[Any]], *, title: str = "") -> None:
    """Write a table; nothing when it has no rows."""
    from rich.text import Text

    made = [[cell if isinstance(cell, Text) else Text(visible(cell_text(cell))) for cell in row] for row in content]
    if out.is_terminal and out.width < _NARROW and _words_wide(columns, made) > out.width:
        out.print(*([f"[bold]{title}[/bold]"] if title else []))
        for row in made:
            for column, cell in zip(columns, row, strict=True):
                out.print(Text.assemble((f"{column}: ", "bold"), cell))
            out.print()
        return
    table = _table(*columns)
    for cells in made:
        table.add_row(*cells)
    if table.row_count:
        if title:
            out.print(f"[bold]{title}[/bold]")
        out.print(table)


def _words_wide(columns: Sequence[str], made: Sequence[Sequence[Any]]) -> int:
    """Return how wide a table is at least when no word of it is broken."""
    texts = [[column, *(row[number].plain for row in made)] for number, column in enumerate(columns)]
    return sum(3 + max(len(word) for text in column for word in (text.split() or [""])) for column in texts)


def cell_text(value: Any) -> str:
    """Return a value as a table shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={cell_text(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(cell_text(inner) for inner in value)
    return str(value)


class Progress:
    """Shows a run while it goes on. This one is silent; see its subclasses."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_unused: object) -> None:
        return None

    def step(self, step: Step, collector: Collector) -> None:
        """Show one step."""

    def interrupted(self, count: int) -> None:
        """Say what an interrupt does."""
        if count == 1:
            self.say("Stopping. The task that is running now may still finish on the nodes. Once more: stop at once.")
        else:
            self.say("Stopping at once. Tasks may still be running on the nodes.")

    def say(self, text: str) -> None:
        """Write a notice."""
        line(text)


class Lines(Progress):
    """One plain line for each play and for each thing worth knowing; for logs and pipes."""

    def __init__(self, verbose: int) -> None:
        self._verbose = verbose

    def step(self, step: Step, collector: Collector) -> None:
        if text := plain(step, self._verbose):
            self.say(text)


class Table(Progress):
    """A table of the nodes that is redrawn in place, on a terminal; failures are written above it."""

    def __init__(self, collector_hosts: Sequence[str], verbose: int) -> None:
        from rich.live import Live

        self._console = console(stderr=True)
        self._collector = Collector(list(collector_hosts))
        self._verbose = verbose
        self._live = Live(get_renderable=self._draw, console=self._console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Progress:
        self._live.start()
        return self

    def __exit__(self, *_unused: object) -> None:
        self._live.stop()

    def step(self, step: Step, collector: Collector) -> None:
        self._collector = collector
        wanted = step.status in ("failed", "unreachable") or (self._verbose and step.event == "host")
        if wanted and (text := plain(step, self._verbose)):
            self.say(text)

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def _draw(self) -> RenderableType:
        from rich.console import Group
        from rich.spinner import Spinner
        from rich.text import Text

        table = _table("node", "phase", "task", "state", "changed")
        for host in list(self._collector.hosts.values()):
            changed = str(host.counts["changed"]) if host.counts["changed"] else ""
            table.add_row(host.name, Text(host.play), Text(host.task, overflow="ellipsis", no_wrap=True), coloured(host.state), changed)
        return Group(Spinner("dots", text=Text(self._collector.play or "Starting Ansible")), table)


class JsonLines(Progress):
    """One JSON object a line on standard output for each step."""

    def step(self, step: Step, collector: Collector) -> None:
        content = step.as_dict()
        print(event_line(content.pop("event"), **content), flush=True)


def plain(step: Step, verbose: int = 0) -> str:
    """Return the line for a step, or nothing when it is not worth one."""
    if step.event == "play":
        return f"== {step.play}"
    if step.event != "host" or (step.status in ("ok", "skipped", "ignored") and not verbose) or (step.status == "skipped" and verbose < 2):
        return ""
    if step.status == "ok" and verbose < 2 and step.task.startswith("Validating arguments against arg spec"):
        return ""
    item = f" [{step.item}]" if step.item else ""
    role = f"{step.role.rsplit('.', 1)[-1]} : " if step.role else ""
    took = f" ({step.seconds:.1f} s)" if step.seconds and step.seconds >= 0.1 else ""
    message = f": {indented(step.message)}" if step.message else ""
    return f"   {step.host}: {step.status.upper() if step.message else step.status} {role}{step.task}{item}{took}{message}"


def progress(output: Output, hosts: Sequence[str], verbose: int) -> Progress:
    """Return how a run is shown: a live table on a terminal, plain lines elsewhere, JSON lines, or nothing."""
    if output is Output.JSONL:
        return JsonLines()
    if output is Output.JSON:
        return Progress()
    dumb = os.environ.get("TERM", "") in ("", "dumb")
    return Table(hosts, verbose) if sys.stderr.isatty() and not dumb else Lines(verbose)


def clean(text: str) -> str:
    """Return a text without terminal control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
