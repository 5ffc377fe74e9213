# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journals of who ran what: their form, and what a run writes into them.

The form is that of the hospitals' own command, C(mip-site), whose functions are used here.
"""

from __future__ import annotations

import functools
import getpass
import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.hbp.mip.plugins.plugin_utils import _site_programs

#: The hospitals' command.
SOURCE = _site_programs.FILES / "mip-site"
#: Tasks that an entry names; of all of them it has the number and the SHA-256.
MOST_CHANGES = 200
#: What Python is started with to run C(program) from its standard input.
START = 'import sys;exec(compile(sys.stdin.read(),"mip-site","exec"),{"__name__":"mip_site"})'


@functools.cache
def _program() -> Any:
    """Return the hospitals' command as a module."""
    return _site_programs.load(SOURCE.name, "mipfed_journal")


def folder(federation: str) -> Path:
    """Return the private folder of a federation's journal on this machine, by the XDG base directory rules."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "mipfed" / federation / "audit"


def journal(federation: str) -> Any:
    """Return the functions of C(mip-site) for a federation's journal on this machine; there is one at a time."""
    place, found = folder(federation), _program()
    found.JOURNAL, found.HEAD, found.PROTECT = str(place / "journal.jsonl"), str(place / "journal.head"), False
    return found


def person() -> str:
    """Return who runs this program: the person behind sudo where that is known."""
    return f"{os.environ.get('SUDO_USER') or getpass.getuser()} on {platform.node()}"


def append(federation: str, what: str, text: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Append an entry to the journal on this machine.

    :raises OSError: when it cannot be written.
    """
    folder(federation).mkdir(parents=True, exist_ok=True, mode=0o700)
    entry: dict[str, Any] = journal(federation).record(what, text, person(), dict(data))
    return entry


def described(role: str, task: str, item: str) -> str:
    """Return a task that changed something, in one line."""
    prefix = f"{role.rsplit('.', 1)[-1]} : " if role else ""
    return f"{prefix}{task}{f' [{item}]' if item else ''}"


def counted(changes: Sequence[Any]) -> str:
    """Return the number of changes in words."""
    return f"{len(changes)} change{'s' * (len(changes) != 1)}"


def listed(changes: Sequence[str]) -> dict[str, Any]:
    """Return what an entry holds of the tasks that changed something."""
    text = "\n".join(changes).encode()
    return {"changes": list(changes[:MOST_CHANGES]), "change_count": len(changes), "changes_sha256": hashlib.sha256(text).hexdigest()}


def node_entry(what: str, who: str, result: str, command: str, changes: Sequence[str], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request for an entry on a node that a run has changed; the function C(answer) of C(mip-site) takes it as JSON.

    :arg what: the command or playbook.
    :arg result: how the run ended, in one word.
    :arg command: the command line, without secrets.
    :arg data: what else the entry holds, such as the run's name.
    """
    text = f"{result}, {counted(changes)}: {command}"
    return {"action": "record", "what": what, "who": who, "text": text, "data": {**listed(changes), **data}}


def program(request: Mapping[str, Any]) -> str:
    """Return C(mip-site) as a program that carries out one request, on hosts with it and without it; see C(START)."""
    return f"{SOURCE.read_text(encoding='utf-8')}\nsys.exit(answer({json.dumps(json.dumps(request))}))\n"
