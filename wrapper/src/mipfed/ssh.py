# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs on a node over an SSH connection of its own, with the account, the key and the pinned host keys of the federation.

What is sent is a program in Python, on standard input; nothing is written on the node, and nothing secret is on a command line.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mipfed import console, paths
from mipfed.errors import MipfedError
from mipfed.exitcodes import ExitCode

if TYPE_CHECKING:
    from mipfed.session import Prepared

#: Reads how long the program is, then the program, and leaves standard input open: when it ends, the connection has.
_START = 'import sys;i=sys.stdin.buffer;exec(compile(i.read(int(i.readline())),"mipfed","exec"),{"__name__":"mipfed"})'


#: A connection of its own: one that others share would end with them. A cut is noticed within fifteen seconds.
_OPTIONS = ("-T", "-o", "ControlPath=none", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")


def command(prepared: Prepared, node: Mapping[str, Any], *words: str) -> list[str]:
    """Return the command line that runs a command on a node, as root where the inventory says so."""
    from ansible.module_utils.parsing.convert_bool import boolean

    become = prepared.inventory.variables[str(node["name"])].get("ansible_become", False)
    root = ["sudo", "-n", "--"] if boolean(become, strict=False) else []
    line = console.arguments(prepared.inventory, node, [*root, *words], terminal=False)
    return [line[0], *_OPTIONS, *line[1:]] if node["ssh_host"] else line


def python(prepared: Prepared, node: Mapping[str, Any]) -> list[str]:
    """Return the command line that runs the program which `program` makes."""
    return command(prepared, node, "python3" if node["ssh_host"] else sys.executable, "-c", _START)


def program(source: Path, function: str, request: Mapping[str, Any]) -> bytes:
    """Return what has to be written to standard input: a file of the collection, one of whose functions is given a request as JSON."""
    text = source.read_bytes() + f"\nsys.exit({function}({json.dumps(json.dumps(request))}))\n".encode()
    return f"{len(text)}\n".encode() + text


def collection_file(name: str) -> Path:
    """Return a file of the collection.

    :raises MipfedError: INTERNAL when the collection is not there.
    """
    folder = paths.collections_dir()
    if folder is None:
        raise MipfedError(ExitCode.INTERNAL, "The collection hbp.mip is not beside mipfed.", next="mipfed doctor")
    return folder / paths.COLLECTION / name


def ask(prepared: Prepared, node: Mapping[str, Any], sent: bytes, *, seconds: float = 30) -> Any:
    """Run a program on a node, and return its answer, which is JSON.

    :raises OSError: with what ssh or the program said, when there is no answer.
    """
    line = python(prepared, node)
    if node["ssh_host"]:
        # A connection that Ansible has left open is used, when there is one.
        shared = ["-o", "ControlMaster=no", "-o", "ControlPath=~/.ansible/cp/%C"]
        line = [line[0], *shared, *line[1:]]
    try:
        done = subprocess.run(line, input=sent, capture_output=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise OSError(f"no answer within {seconds:.0f} s") from None
    try:
        return json.loads(done.stdout.decode("utf-8").strip().splitlines()[-1])
    except (ValueError, IndexError):
        said = [text.strip() for text in done.stderr.decode("utf-8", "replace").splitlines() if text.strip()]
        raise OSError("; ".join(said[-2:]) or f"no answer (code {done.returncode})") from None
