# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The exit codes of `mipfed`, in the one table that help, documents and tests are made from."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command ends with. The numbers are part of the interface and never change their meaning."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    CONFIGURATION = 3
    CHECK = 4
    FAILED = 5
    UNREACHABLE = 6
    LOCKED = 7
    DECLINED = 8
    CHANGES = 9
    NO_HOSTS = 10
    INTERRUPTED = 130


MEANING: dict[ExitCode, str] = {
    ExitCode.OK: "done, nothing is wrong",
    ExitCode.INTERNAL: "internal error of mipfed or Ansible",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.CONFIGURATION: "the configuration is wrong; no host was contacted",
    ExitCode.CHECK: "a check failed, or a report names problems",
    ExitCode.FAILED: "a host failed (also when others were unreachable)",
    ExitCode.UNREACHABLE: "a host was unreachable; the others finished",
    ExitCode.LOCKED: "someone else is changing this federation",
    ExitCode.DECLINED: "declined, or no terminal to ask on and no -y",
    ExitCode.CHANGES: "plan --detailed-exitcode: there are changes to make",
    ExitCode.NO_HOSTS: "no host matched",
    ExitCode.INTERRUPTED: "interrupted",
}

#: Of several reasons the first in this order decides. INTERRUPTED stands above all and is not derived from results.
PRECEDENCE: tuple[ExitCode, ...] = (
    ExitCode.LOCKED,
    ExitCode.CONFIGURATION,
    ExitCode.FAILED,
    ExitCode.CHECK,
    ExitCode.UNREACHABLE,
    ExitCode.NO_HOSTS,
)

#: What a failed task says about itself in `mip_error`.
BY_MIP_ERROR: dict[str, ExitCode] = {
    "locked": ExitCode.LOCKED,
    "configuration": ExitCode.CONFIGURATION,
    "check": ExitCode.CHECK,
    "unreachable": ExitCode.UNREACHABLE,
}


def table() -> str:
    """Return the table of exit codes as lines of plain text."""
    return "\n".join(f"{code.value:>3}  {MEANING[code]}" for code in ExitCode)


def markdown() -> str:
    """Return the table of exit codes as Markdown, for the documents."""
    rows = "\n".join(f"| {code.value} | {MEANING[code]} |" for code in ExitCode)
    return f"| exit code | meaning |\n| ---: | --- |\n{rows}"


def decide(reasons: set[ExitCode]) -> ExitCode:
    """Return the code for a set of reasons, by `PRECEDENCE`; OK when there is none."""
    return next((code for code in PRECEDENCE if code in reasons), ExitCode.OK)
