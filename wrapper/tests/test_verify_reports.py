# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What verify shows of the network on a terminal and in a pipe."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from mipfed import reports, verify_reports


def shown(data: dict[str, Any], *, terminal: bool = False) -> str:
    """Return what is written."""
    stream = io.StringIO()
    out = Console(file=stream, width=200, force_terminal=terminal, color_system="standard" if terminal else None, highlight=False)
    verify_reports.network(out, data)
    return stream.getvalue()


def encryption(state: str, *, wanted: bool, verdict: str = "", reason: str = "") -> dict[str, Any]:
    """Return a report with one pair."""
    esp = {"packets": 0 if state == "clear" else 7500, "bytes": 0 if state == "clear" else 11 * 2**20}
    clear = {"packets": 7000 if state == "clear" else 0, "bytes": 10 * 2**20 if state == "clear" else 0}
    side = {"esp": esp, "clear": clear}
    pair = {"from": "wk1", "to": "ms", "verdict": verdict or state, "reason": reason, "sender": side, "receiver": side}
    return {"encryption": {"wanted": wanted, "state": state, "pairs": [pair], "errors": {}}}


def test_encrypted() -> None:
    text = shown(encryption("encrypted", wanted=True))
    assert "7500 / 11.0 MB" in text and "0 / 0.0 MB" in text
    assert "Everything that passed between the hosts was encrypted." in text and "NOT ENCRYPTED" not in text


@pytest.mark.parametrize("state", ["clear", "no-proof"])
def test_not_encrypted_is_said_on_a_line_of_its_own(state: str) -> None:
    text = shown(encryption(state, wanted=True, reason="7000 VXLAN packets left the sender in clear"))
    (line,) = [line for line in text.splitlines() if line.startswith("NOT ENCRYPTED: ")]
    assert "inventory" not in line and "7000 VXLAN packets" in text


def test_what_the_inventory_turned_off_is_red_and_bold() -> None:
    data = encryption("clear", wanted=False, reason="7000 VXLAN packets left the sender in clear")
    assert "mip_overlay.encrypted: false" in shown(data)
    coloured = shown(data, terminal=True)
    (line,) = [line for line in coloured.splitlines() if "NOT ENCRYPTED" in line]
    assert line.startswith("\x1b[1;31mNOT ENCRYPTED")


def test_overlay_stores_and_warnings() -> None:
    data = {
        "overlay": {"wanted": 1400, "made_for": 1400, "recorded": 1400, "nodes": {"ms": 1324, "wk1": 1324}},
        "stores": {
            "wk1": {"host": "192.0.2.3", "port": 5432, "verdict": "ok", "message": ""},
            "wk2": {"host": "lds", "port": 5432, "verdict": "own-filter", "message": "rules of this host keep out"},
        },
        "warnings": [{"node": "wk1", "code": "ipsec-in-no-states", "message": "XfrmInNoStates rose by 4", "fix": ""}],
    }
    text = shown(data)
    assert "made for paths of 1400 bytes, measured before that: 1400; in containers 1324" in text
    assert "192.0.2.3:5432" in text and "own-filter: rules of this host keep out" in text
    assert "warning: wk1: XfrmInNoStates rose by 4 [ipsec-in-no-states]" in text


def test_an_older_report_has_nothing_of_it() -> None:
    assert shown({}) == ""
    stream = io.StringIO()
    reports.verify(Console(file=stream), {"ok": True, "pairs": [], "engine": {}})
    assert "The federation works." in stream.getvalue()
