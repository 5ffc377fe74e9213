# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a command ends with, for every output format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mipfed.errors import Problem
from mipfed.exitcodes import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from mipfed.runner import Done


@dataclass
class Outcome:
    """What a command has to say."""

    result: Any = None
    exit_code: ExitCode = ExitCode.OK
    errors: list[Problem] = field(default_factory=list)
    done: Done | None = None
    next: str = ""
    #: Whether the totals per host belong to the result; otherwise they are shown with -v, or when something failed.
    recap: bool = False
    #: Writes the result for people; without it the result is not shown in text.
    text: Callable[[Console], None] | None = None
