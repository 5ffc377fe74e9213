# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SSH host keys: shown, compared, pinned in the federation's own `known_hosts`. A key that changed stops everything."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mipfed import paths
from mipfed.errors import MipfedError, Problem
from mipfed.exitcodes import ExitCode

Address = tuple[str, int]


@dataclass
class Trust:
    """What is known about one node's host key."""

    node: str
    address: Address
    #: pinned, new, matches (the inventory gives this fingerprint), mismatch, changed or unreachable.
    state: str
    fingerprint: str = ""
    kind: str = ""
    key: str = ""
    message: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the node for JSON."""
        return {
            "node": self.node,
            "host": self.address[0],
            "port": self.address[1],
            "state": self.state,
            "type": self.kind,
            "fingerprint": self.fingerprint,
        }


def _keys() -> Any:
    return paths.collection_module("module_utils._host_keys")


def addresses(nodes: Iterable[Mapping[str, Any]]) -> dict[str, Address]:
    """Return where ssh connects to, by node; nodes that are reached without ssh are left out."""
    return {str(node["name"]): (str(node["ssh_host"]), int(node["ssh_port"])) for node in nodes if node["ssh_host"]}


def missing(nodes: Sequence[Mapping[str, Any]], files: Mapping[str, Sequence[Path]]) -> list[Mapping[str, Any]]:
    """Return the nodes that have no pinned key. Contacts no host.

    :arg files: by node, the known_hosts files that ssh will read.
    """
    where = addresses(nodes)
    keys = _keys()
    return [
        node
        for node in nodes
        if node["name"] in where
        and not any(keys.pinned(str(file), [where[node["name"]]])[where[node["name"]]] for file in files.get(node["name"], ()))
    ]


def examine(nodes: Sequence[Mapping[str, Any]], known_hosts: Path, *, timeout: int = 5) -> list[Trust]:
    """Ask the nodes for their host keys and compare them with what is pinned and with what the inventory promises.

    :arg timeout: seconds to wait for each node; all are asked at the same time.
    """
    keys = _keys()
    where = addresses(nodes)
    pinned = keys.pinned(str(known_hosts), where.values())
    shown = keys.scan_all(list(dict.fromkeys(where.values())), timeout)
    return [
        _judge(str(node["name"]), where[node["name"]], pinned, shown, str(node.get("host_key") or ""))
        for node in nodes
        if node["name"] in where
    ]


def _judge(name: str, address: Address, pinned: Mapping[Address, Any], shown: Mapping[Address, Any], promised: str) -> Trust:
    keys = _keys()
    answer = shown[address]
    known = pinned[address]
    if isinstance(answer, keys.HostKeyError):
        return Trust(name, address, "unreachable", message=str(answer))
    for kind, key in known:
        for shown_kind, shown_key in answer:
            if shown_kind == kind and shown_key != key:
                message = f"its {kind} key is {keys.fingerprint(shown_key)}, but {keys.fingerprint(key)} is pinned"
                return Trust(name, address, "changed", keys.fingerprint(shown_key), shown_kind, shown_key, message)
    same = next(((kind, key) for kind, key in answer if (kind, key) in known), None)
    if same:
        return Trust(name, address, "pinned", keys.fingerprint(same[1]), *same)
    if known:
        kinds = ", ".join(kind for kind, _key in known)
        kind, key = answer[0]
        return Trust(name, address, "changed", keys.fingerprint(key), kind, key, f"it no longer shows the pinned key ({kinds})")
    if promised:
        for kind, key in answer:
            if keys.fingerprint(key) == promised:
                return Trust(name, address, "matches", promised, kind, key)
        kind, key = answer[0]
        message = f"it shows {keys.fingerprint(key)}, but the inventory promises {promised} (mip_host_key)"
        return Trust(name, address, "mismatch", keys.fingerprint(key), kind, key, message)
    kind, key = answer[0]
    return Trust(name, address, "new", keys.fingerprint(key), kind, key)


def pin(known_hosts: Path, entries: Sequence[Trust], *, replace: bool = False) -> None:
    """Pin the keys of the entries; with `replace` whatever was pinned for them goes. The file is replaced in one step."""
    keys = _keys()
    chosen = {entry.address: [(entry.kind, entry.key)] for entry in entries}
    if not chosen:
        return
    if not replace or not known_hosts.exists():
        keys.pin(str(known_hosts), chosen)
        return
    _rewrite(known_hosts, list(chosen), chosen)


def unpin(known_hosts: Path, addresses: Sequence[Address]) -> None:
    """Forget what is pinned for these addresses. The file is replaced in one step."""
    _rewrite(known_hosts, addresses, {})


def carry_over(known_hosts: Path, old: Address, new: Address) -> None:
    """Pin for a host's new address what is pinned for its old one, unless the new one has a key already."""
    keys = _keys()
    found = keys.pinned(str(known_hosts), [old, new])
    if found[old] and not found[new]:
        keys.pin(str(known_hosts), {new: found[old]})


def _rewrite(known_hosts: Path, dropped: Sequence[Address], added: Mapping[Address, Sequence[tuple[str, str]]]) -> None:
    keys = _keys()
    handle, name = tempfile.mkstemp(prefix=".known_hosts.", dir=known_hosts.parent)
    copy = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(known_hosts.read_text(encoding="utf-8"))
        for address in dropped:
            removal = ["ssh-keygen", "-q", "-R", keys.address_of(*address), "-f", str(copy)]
            subprocess.run(removal, check=True, capture_output=True)
        keys.pin(str(copy), added)
        copy.replace(known_hosts)
    finally:
        for leftover in (copy, copy.with_name(copy.name + ".old")):
            leftover.unlink(missing_ok=True)


def shown(entries: Sequence[Trust]) -> str:
    """Return the keys that somebody has to confirm, and with what to compare them."""
    lines = ["These hosts show these keys:"]
    lines += [f"  {entry.node:<24} {entry.address[0]:<16} {entry.kind:<20} {entry.fingerprint}" for entry in entries]
    return "\n".join([*lines, "Compare with the output of `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on each host."])


def refusals(entries: Sequence[Trust], mipfed: str) -> list[Problem]:
    """Return a problem for each key that must not be accepted as it is."""
    found = []
    for entry in entries:
        if entry.state == "changed":
            advice = (
                f"Find out why from the people at {entry.node} (a new installation, or someone in between); "
                f"when it is right: {mipfed} trust --replace {entry.node}"
            )
            found.append(Problem("host-key-changed", entry.message, host=entry.node, next=advice))
        elif entry.state == "mismatch":
            advice = f"Compare on the node: ssh-keygen -lf /etc/ssh/ssh_host_{entry.kind.removeprefix('ssh-').split('-')[0]}_key.pub"
            found.append(Problem("host-key-mismatch", entry.message, host=entry.node, next=advice))
        elif entry.state == "unreachable":
            found.append(Problem("unreachable", entry.message, host=entry.node))
    return found


def pin_promised(nodes: Sequence[Mapping[str, Any]], known_hosts: Path, mipfed: str) -> list[Trust]:
    """Pin the keys of nodes whose fingerprints the inventory gives.

    :raises MipfedError: CHECK when a node shows another key. A node that does not answer is left for the run to report.
    """
    entries = examine(nodes, known_hosts)
    wrong = [problem for problem in refusals(entries, mipfed) if problem.code != "unreachable"]
    if wrong:
        raise MipfedError(ExitCode.CHECK, wrong)
    matching = [entry for entry in entries if entry.state == "matches"]
    pin(known_hosts, matching)
    return matching


def decide(
    entries: Sequence[Trust], mipfed: str, *, replace: Sequence[str], accept: Callable[[Sequence[Trust]], bool]
) -> tuple[list[Trust], list[Trust], list[Problem]]:
    """Divide what was examined into keys to add, keys to replace and problems.

    :arg mipfed: the program with its federation, for the commands that come next.
    :arg replace: nodes whose changed keys are to be replaced.
    :arg accept: asks about keys that nothing vouches for; none of them is taken when it says no.
    """
    problems = [p for p in refusals(entries, mipfed) if not (p.code == "host-key-changed" and p.host in replace)]
    changed = [entry for entry in entries if entry.state == "changed" and entry.node in replace]
    unknown = [entry for entry in entries if entry.state == "new"]
    added = [entry for entry in entries if entry.state == "matches"]
    asked = [*unknown, *changed]
    if asked:
        if accept(asked):
            added += unknown
        else:
            changed = []
    return added, changed, problems
