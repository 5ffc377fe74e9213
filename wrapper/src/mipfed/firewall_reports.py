# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of `mipfed firewall show` as tables. Takes what is there; what hosts say is shown without markup."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mipfed.data_reports import entries, mapping
from mipfed.render import coloured, rows, visible

if TYPE_CHECKING:
    from rich.console import Console

#: A node's state in words, and the state whose colour it has.
_STATES = {
    "in-order": ("in order", "ok"),
    "drift": ("NOT AS THE INVENTORY SAYS", "failed"),
    "not-set": ("nothing set yet", "failed"),
    "unmanaged": ("left alone (mip_firewall.manage is false)", "skipped"),
    "failed": ("could not be looked at", "failed"),
    "unreachable": ("unreachable", "unreachable"),
}
_BACKENDS = {"": "", "none": "no firewall of its own", "nftables": "filters of its own making"}


def what(entry: Mapping[str, Any]) -> str:
    """Return a protocol and port as an administrator writes it."""
    return "ESP (IP protocol 50)" if entry.get("proto") == "esp" else f"{entry.get('port')}/{entry.get('proto')}"


def _why(rule: Mapping[str, Any]) -> str:
    return str(rule.get("why") or "")


def _layers(rule: Mapping[str, Any]) -> str:
    return " and ".join(str(layer) for layer in rule.get("enforced_by") or ())


def _sender(entry: Mapping[str, Any]) -> str:
    name, address = str(entry.get("node") or ""), str(entry.get("address") or "")
    return f"{name} ({address})" if name else address


def firewall(out: Console, data: Mapping[str, Any]) -> None:
    """Write for each node what it opens for whom, what it closes, and what differs."""

    def say(text: str, style: str = "") -> None:
        out.print(visible(text), style=style, markup=False)

    for name, node in mapping(data.get("nodes")).items():
        node = mapping(node)
        words, colour = _STATES.get(str(node.get("state")), (str(node.get("state")), "waiting"))
        backend = str(node.get("backend") or "")
        heading = f"{name} ({node.get('kind')}, {node.get('address')})"
        layer = _BACKENDS.get(backend, backend)
        say(f"{heading}{f', {layer}' if layer else ''}: {words}", style=f"bold {coloured(colour).style}")
        if node.get("error"):
            say(f"  {node['error']}")
        allowed = entries(node.get("allowed"))
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for rule in allowed:
            groups.setdefault("\n".join(_sender(sender) for sender in entries(rule.get("from"))) or "nobody", []).append(rule)
        rows(
            out,
            ("to be opened" if node.get("state") == "not-set" else "open", "why", "by", "from"),
            (
                (
                    *("\n".join(column(rule) for rule in rules) for column in (what, _why, _layers)),
                    senders,
                )
                for senders, rules in groups.items()
            ),
        )
        if not allowed and node.get("state") in ("in-order", "drift", "not-set", "unmanaged"):
            say("  nothing is opened on it, and nothing guarded")
        closed: dict[str, list[str]] = {}
        for rule in entries(node.get("closed")):
            port = what(rule)
            whom = closed.setdefault(str(rule.get("whom")), [])
            whom += [port] if port not in whom else []
        for who, ports in closed.items():
            say(f"  closed for {who}: {', '.join(ports)}")
        for entry in entries(node.get("dropped")):
            packets = entry.get("packets")
            say(f"  dropped since the guard was loaded: {packets} packet{'s' * (packets != 1)} ({entry.get('what')})")
        for line in (node.get("drift") or ()) if node.get("state") != "not-set" else ():
            say(f"  differs: {line}", style="red" if node.get("state") == "drift" else "")
        if node.get("waiting"):
            say("  a change waits for its confirmation; unconfirmed it takes itself back", style="yellow")
        for note in entries(node.get("notes")):
            say(f"  note: {note.get('message')} [{note.get('code')}]")
            if note.get("fix"):
                say(f"      {note['fix']}")
        say("")
