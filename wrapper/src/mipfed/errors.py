# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong, in a form that every output format can show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mipfed.exitcodes import ExitCode


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: what, where, and the command that comes next."""

    code: str
    message: str
    host: str = ""
    task: str = ""
    next: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the problem for JSON; every key is always there."""
        return {"code": self.code, "message": self.message, "host": self.host, "task": self.task, "next": self.next}


class MipfedError(Exception):
    """Ends a command with an exit code and everything that is wrong, not only the first thing."""

    def __init__(self, exit_code: ExitCode, problems: str | Problem | Sequence[Problem], *, next: str = "") -> None:
        if isinstance(problems, str):
            problems = Problem(exit_code.name.lower().replace("_", "-"), problems, next=next)
        if isinstance(problems, Problem):
            problems = [problems]
        self.exit_code = exit_code
        self.problems = list(problems)
        self.next = next
        super().__init__("\n".join(problem.message for problem in self.problems))


def usage(message: str, *, next: str = "") -> MipfedError:
    """Return the error for a command line that cannot be carried out as given."""
    return MipfedError(ExitCode.USAGE, message, next=next)


def pair(text: str, option: str, form: str, example: str) -> tuple[str, str]:
    """Read an option's LEFT=RIGHT.

    :arg form: how it is written in the command's help, such as ``NAME=ADDRESS``.
    :raises MipfedError: USAGE when it is something else.
    """
    left, _equals, right = (part.strip() for part in text.partition("="))
    if not left or not right:
        raise usage(f"{option} {text!r}: expected {form}, for example {option} {example}")
    return left, right


def configuration(message: str, *, next: str = "") -> MipfedError:
    """Return the error for a configuration that cannot be used; no host has been contacted."""
    return MipfedError(ExitCode.CONFIGURATION, message, next=next)


def declined(message: str, *, next: str = "") -> MipfedError:
    """Return the error for a question answered with no, or one that could not be asked."""
    return MipfedError(ExitCode.DECLINED, message, next=next)
