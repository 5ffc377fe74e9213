# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What verify says of the network beside the links: encryption, the overlay's MTU, the hospitals' data stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mipfed.render import cell_text, coloured, rows

if TYPE_CHECKING:
    from rich.console import Console

_STATES = {"encrypted": "ok", "clear": "failed", "no-proof": "waiting"}


def _part(value: Any, *keys: str) -> Mapping[str, Any]:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _counts(side: Mapping[str, Any], kind: str) -> str:
    found = _part(side, kind)
    return f"{found.get('packets') or 0} / {float(found.get('bytes') or 0) / 2**20:.1f} MB" if found else ""


def network(out: Console, data: Mapping[str, Any]) -> None:
    """Write what was found of the network beside the links."""
    encryption = _part(data, "encryption")
    if encryption:
        _encryption(out, encryption)
    overlay = _part(data, "overlay")
    if overlay.get("nodes"):
        made, recorded = overlay.get("made_for") or 1500, overlay.get("recorded")
        inside = ", ".join(str(value) for value in sorted({*overlay["nodes"].values()}))
        measured = f", measured before that: {recorded}" if recorded else ""
        out.print(f"overlay: made for paths of {made} bytes{measured}; in containers {inside}", markup=False)
    rows(
        out,
        ("node", "local data store", "verdict", "why"),
        (
            (
                name,
                f"{_part(store).get('host')}:{_part(store).get('port')}",
                coloured("ok" if _part(store).get("verdict") == "ok" else "failed"),
                "" if _part(store).get("verdict") == "ok" else f"{_part(store).get('verdict')}: {_part(store).get('message')}",
            )
            for name, store in _part(data, "stores").items()
        ),
        title="Local data stores",
    )
    for entry in data.get("warnings") or ():
        out.print(f"warning: {_part(entry).get('node')}: {_part(entry).get('message')} [{_part(entry).get('code')}]", markup=False)


def _encryption(out: Console, data: Mapping[str, Any]) -> None:
    def styled(verdict: str) -> Any:
        text = coloured(_STATES.get(verdict, "failed") if data.get("wanted") or verdict != "clear" else "changed")
        text.plain = verdict
        return text

    rows(
        out,
        ("from", "to", "verdict", "ESP left", "ESP arrived", "in clear left", "in clear arrived", "why"),
        (
            (
                pair.get("from"),
                pair.get("to"),
                styled(str(pair.get("verdict"))),
                _counts(_part(pair, "sender"), "esp"),
                _counts(_part(pair, "receiver"), "esp"),
                _counts(_part(pair, "sender"), "clear"),
                _counts(_part(pair, "receiver"), "clear"),
                cell_text(pair.get("reason")) if data.get("wanted") else "",
            )
            for pair in data.get("pairs") or ()
        ),
        title="Encryption between the hosts, in packets and MB",
    )
    state = str(data.get("state"))
    if state == "encrypted":
        out.print("Everything that passed between the hosts was encrypted.", style="green", markup=False)
        return
    why = {
        "clear": "data pass between the hosts in clear",
        "no-proof": "it is not proven that what passes between the hosts is encrypted",
    }.get(state, state)
    told = "" if data.get("wanted") else "; the inventory turned encryption off (mip_overlay.encrypted: false), which only a lab may"
    out.print(f"NOT ENCRYPTED: {why}{told}.", style="bold red", markup=False)
