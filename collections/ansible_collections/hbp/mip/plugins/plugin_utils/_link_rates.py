# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: throughput between nodes, on request: whom a node sends to in a round, by which way, and what came of it.

Before a swarm runs the probe itself listens on TCP 7946 (from the ui on the master's port of the engine), which is what firewalls leave
open. Once it runs the ports are Docker's, and the overlay is the way that is open. No rule is changed for a measurement.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.hbp.mip.plugins.plugin_utils import _links


def target(links: Mapping[str, Any], node: str, round_: Mapping[str, str], listened: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the target of a node in a round for O(mode=throughput) of M(hbp.mip.link_probe), alone in a list; empty for none.

    :arg links: what :func:`_links.plan` returned.
    :arg round_: the receiver by sender.
    :arg listened: results of O(mode=listen), by node name; nodes may be missing.
    """
    receiver = round_.get(node)
    found = next((entry for entry in _links.targets(links, node, listened) if entry["node"] == receiver), None)
    if found is None:
        return []
    kinds = {links["nodes"][name]["kind"] for name in (node, found["node"])}
    overlay = {} if "ui" in kinds else (listened.get(found["node"]) or {}).get("overlay") or {}
    if not found["own_tcp"] and not overlay.get("port"):
        return []
    # Gossip's port first: it is open between all members.
    found["own_tcp"] = sorted(found["own_tcp"], key=lambda port: port != _links.GOSSIP_PORT)
    return [{**found, "overlay": {"address": overlay.get("address") or "", "port": overlay.get("port") or 0}}]


def _why_not(pair: Mapping[str, Any], links: Mapping[str, Any], listened: Mapping[str, Any]) -> str:
    """Why nobody sent from one node to another."""
    receiver = pair["to"]
    answer = listened.get(receiver) or {}
    if not answer.get("ok"):
        return f"{receiver} does not listen: {answer.get('error') or answer.get('msg') or 'it does not answer'}"
    ports = [check["port"] for check in pair["checks"] if check["proto"] == "tcp"]
    taken = [
        f"TCP {item['port']} belongs to {item['by'] or 'nobody'}"
        for item in answer.get("listening", ())
        if item["port"] in ports and item["proto"] == "tcp"
    ]
    inside = str((answer.get("overlay") or {}).get("error") or "")
    if "ui" in (links["nodes"][pair["from"]]["kind"], links["nodes"][receiver]["kind"]):
        inside = "the ui node takes no part in the overlay"
    return f"of {receiver} {' and '.join(taken) or 'no port is open'}; {inside or 'the overlay cannot be used'}"


def joined(
    verdict: Mapping[str, Any], links: Mapping[str, Any], listened: Mapping[str, Any], measured: Mapping[str, Iterable[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Return a verdict whose pairs have what was measured.

    :arg verdict: what :func:`_links.judge` returned.
    :arg measured: by sender, ``{node, throughput}`` for each pair that was tried.
    :returns: the verdict; ``throughput`` of each pair is ``{mb_per_s, bytes, seconds, via, error}``. ``mb_per_s`` is None where nothing
        was measured, and ``error`` says why.
    """
    found = {(sender, entry["node"]): dict(entry["throughput"]) for sender, entries in measured.items() for entry in entries}
    nothing = {"mb_per_s": None, "bytes": 0, "seconds": 0.0, "via": ""}
    pairs = [
        {**pair, "throughput": found.get((pair["from"], pair["to"])) or {**nothing, "error": _why_not(pair, links, listened)}}
        for pair in verdict["pairs"]
    ]
    return {**verdict, "pairs": pairs}
