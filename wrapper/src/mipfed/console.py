# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A shell on a node, over the connection that the inventory describes: `mipfed ssh`, and the consoles of the cockpit."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mipfed import paths
from mipfed.errors import MipfedError, configuration
from mipfed.exitcodes import ExitCode
from mipfed.outcome import Outcome
from mipfed.session import Session

if TYPE_CHECKING:
    from mipfed.inventory import Inventory


def arguments(inventory: Inventory, node: Mapping[str, Any], remote: Sequence[str] = (), *, terminal: bool = True) -> list[str]:
    """Return the command line that runs something on a node, or a login shell where nothing is given.

    The host's key is checked against what is pinned, whatever the inventory's own arguments say; nothing asks for a password.

    :raises MipfedError: CONFIGURATION when the inventory's ssh arguments cannot be read.
    """
    from mipfed.inventory import known_hosts_files

    if not node["ssh_host"]:
        return list(remote) or ["bash", "-l"]
    variables = inventory.variables[node["name"]]
    files = " ".join(f'"{path}"' for path in known_hosts_files(inventory, node["name"]))
    line = ["ssh", "-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={files}", "-o", "BatchMode=yes"]
    line += ["-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3"]
    for key in ("ansible_ssh_common_args", "ansible_ssh_extra_args"):
        try:
            line += shlex.split(str(variables.get(key) or ""))
        except ValueError as error:
            raise configuration(f"host {node['name']}: {key} cannot be read: {error}") from None
    if key_file := variables.get("ansible_ssh_private_key_file"):
        line += ["-i", str(Path(str(key_file)).expanduser())]
    if user := variables.get("ansible_user"):
        line += ["-l", str(user)]
    line += ["-p", str(node["ssh_port"]), *(["-t"] if terminal else [])]
    # ssh joins what follows with blanks and gives it to a shell.
    return [*line, "--", str(node["ssh_host"]), *([shlex.join(remote)] if remote else [])]


def open_on(session: Session, node: str, remote: Sequence[str]) -> Outcome:
    """Carry out `mipfed ssh`: this process becomes ssh, or the shell of a node that is this machine."""
    from mipfed import inventory as inventories

    inventory = inventories.load(session.source)
    resolved = inventories.resolve(inventory)
    known = [*resolved["nodes"], *resolved["disabled"]]
    found = next((entry for entry in known if entry["name"] == node), None)
    if found is None:
        kits = {entry["name"] for entry in resolved["kits"]}
        reason = "joined with a site kit, which gives no access over SSH" if node in kits else "is no node of it"
        raise MipfedError(
            ExitCode.NO_HOSTS,
            f"{session.source.name}: {node} {reason}.",
            next=f"Nodes: {', '.join(entry['name'] for entry in known)}",
        )
    argv = arguments(inventory, found, remote, terminal=sys.stdin.isatty())
    sys.stdout.flush()
    try:
        os.execvpe(argv[0], argv, {**os.environ, "PATH": paths.search_path()})  # noqa: S606
    except FileNotFoundError:
        raise configuration(f"{argv[0]} is not installed.", next="apt-get install openssh-client") from None
