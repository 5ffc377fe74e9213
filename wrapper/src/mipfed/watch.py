# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A command that is repeated until somebody ends it, shown in place on a terminal."""

from __future__ import annotations

import dataclasses
import io
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from mipfed.errors import usage
from mipfed.exitcodes import ExitCode
from mipfed.formats import Output
from mipfed.outcome import Outcome

if TYPE_CHECKING:
    from mipfed.session import Session


def repeat(session: Session, interval: float, look: Callable[[], Outcome]) -> Outcome:
    """Look until Ctrl-C, and return the last outcome that is whole: its exit code tells how it was then.

    On a terminal the latest is shown in place; elsewhere each look is written below the one before, with `-o jsonl` as a line.
    """
    output = session.options.output
    if output is Output.JSON:
        raise usage("--watch never comes to an end, and -o json writes one document at the end.", next="-o jsonl")
    # How each look is gone about is of no interest here.
    session.options = dataclasses.replace(session.options, output=Output.JSON)
    last: Outcome | None = None
    shown = _Screen() if output is Output.TEXT else None
    try:
        while True:
            outcome = look()
            if outcome.exit_code is ExitCode.INTERRUPTED:
                break
            last = outcome
            if shown:
                shown.show(outcome, interval)
            else:
                from mipfed import render

                print(render.event_line("status", exit_code=int(outcome.exit_code), result=outcome.result), flush=True)
            time.sleep(interval)
    except KeyboardInterrupt:
        pass
    finally:
        session.options = dataclasses.replace(session.options, output=output)
        if shown:
            shown.close()
    if last is None:
        return Outcome(exit_code=ExitCode.INTERRUPTED)
    # What was shown last stays on the screen.
    return dataclasses.replace(last, text=None, errors=[], done=None, next="")


class _Screen:
    """The latest look on a terminal, or one below the other where there is none."""

    def __init__(self) -> None:
        from rich.live import Live

        from mipfed import render

        self._console = render.console()
        place = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._live: Any = Live(console=self._console, auto_refresh=False, vertical_overflow="visible") if place else None
        if self._live:
            self._live.start()

    def show(self, outcome: Outcome, interval: float) -> None:
        """Show an outcome, with what is wrong."""
        from rich.console import Console
        from rich.text import Text

        # On a sheet of its own: what is printed on the live console itself would be drawn around it.
        screen = self._console
        sheet = Console(
            file=io.StringIO(),
            width=screen.width,
            force_terminal=screen.is_terminal,
            no_color=screen.no_color,
            highlight=False,
            emoji=False,
        )
        sheet.print(f"{time.strftime('%H:%M:%S')}, every {interval:g} s; Ctrl-C ends", style="dim", markup=False)
        if outcome.text:
            outcome.text(sheet)
        for problem in outcome.errors:
            place = f"{problem.host}: " if problem.host else ""
            sheet.print(f"{problem.code}: {place}{problem.message}", style="red", markup=False)
            if problem.next:
                sheet.print(f"    next: {problem.next}", markup=False)
        text = cast("io.StringIO", sheet.file).getvalue()
        if self._live:
            self._live.update(Text.from_ansi(text), refresh=True)
        else:
            print(text, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was; the latest stays on it."""
        if self._live:
            self._live.stop()
