# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults on real links: each protocol dropped at each place in each direction is named, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.hbp.mip.tests.integration.links.conftest import Network, verdicts

MATCHES = {
    ("tcp", 2377): "tcp dport 2377",
    ("tcp", 7946): "tcp dport 7946",
    ("udp", 7946): "udp dport 7946",
    ("vxlan", 4789): "udp dport 4789",
    ("esp", 0): "ip protocol esp",
}
PLACES = {"sender": "sender-filter", "bridge": "path", "receiver": "receiver-filter"}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", MATCHES, ids=lambda what: f"{what[0]}{what[1]}")
def test_dropped(net: Network, what: tuple[str, int], place: str) -> None:
    """wa → ms, and for what workers receive also ms → wb, so that both directions of a link are tried."""
    pairs = [("wa", "ms")] + [("ms", "wb")] * (what != ("tcp", 2377))
    for a, b in pairs:
        way = f"ip saddr {net.addresses[a]} ip daddr {net.addresses[b]} {MATCHES[what]} drop"
        if place == "sender":
            net.filter(a, way, "output")
        elif place == "receiver":
            net.filter(b, way, "input")
        else:
            net.filter("bridge", way, "forward", "bridge")
    report = net.check()
    assert verdicts(report) == {(*pair, *what): PLACES[place] for pair in pairs}
    for pair in report["pairs"]:
        for cell in pair["checks"]:
            if cell["verdict"] != "ok":
                assert cell["name"] == f"link-{what[0]}-{PLACES[place]}"
                assert cell["host"] == {"sender": pair["from"], "receiver": pair["to"], "bridge": ""}[place]
    assert not Path("/run/mip").exists()


def test_healthy(net: Network) -> None:
    for _attempt in range(20):
        report = net.check()
        assert report["ok"] and verdicts(report) == {} and report["path_mtu"] == 1500, report["problems"] + report["notes"]
