# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: what verify says of the overlay, from the results of M(hbp.mip.overlay_probe) on all nodes.

Whether data passed encrypted, whether the overlay's MTU fits the paths, and whether the engines reach their hospitals' data stores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.hbp.mip.plugins.module_utils import _encryption, _store, _xfrm
from ansible_collections.hbp.mip.plugins.plugin_utils._problems import Problem, problem

Nodes = Mapping[str, Mapping[str, Any]]

_NOT_COUNTED = "packets were not counted"


def migration(name: str, mtu: int, network: str) -> str:
    """Return how an overlay gets another MTU, which is fixed when it is made."""
    return (
        "The MTU of an overlay is fixed when it is made. To change it, in an announced interruption: write "
        f"mip_overlay.mtu: {mtu} into the inventory; on the master remove what is on the network, docker service rm $(docker service ls "
        f"-q --filter label=eu.humanbrainproject.mip.federation={name}), then docker network rm {network}; mipfed -f {name} deploy; "
        f"mipfed -f {name} verify"
    )


# --- encryption


def encryption(
    federation: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]], nodes: Nodes
) -> tuple[dict[str, Any], list[Problem], list[Problem]]:
    """Judge whether what passed between the nodes was encrypted.

    :arg pairs: one result for each ordered pair, as :func:`_reports.verify` has them.
    :arg nodes: by node name with ``listener``, ``sent`` and perhaps ``counted``, the results of overlay_probe.
    :returns: ``wanted`` (what the inventory says), ``state`` (``encrypted`` when every pair is, ``clear`` when one is, else ``no-proof``),
        ``pairs`` (``from``, ``to``, ``verdict``, ``reason``, ``sender``, ``receiver``) and ``errors``, the kernel's counters that rose, by
        node; then problems and warnings.
    """
    wanted = bool(federation["overlay"]["encrypted"])
    name, network = federation["name"], federation["overlay"]["name"]
    problems: list[Problem] = []
    warnings: list[Problem] = []
    verdicts = []
    failing: set[str] = set()
    for pair in pairs:
        if not pair["ok"]:
            failing |= {pair["from"], pair["to"]}
        found = dict(pair.get("encryption") or {"verdict": _encryption.NO_PROOF, "reason": _NOT_COUNTED, "sender": {}, "receiver": {}})
        verdicts.append({"from": pair["from"], "to": pair["to"], **found})
        if not wanted:
            continue
        sender, receiver = pair["from"], pair["to"]
        if found["verdict"] == _encryption.CLEAR:
            problems.append(_clear(sender, receiver, found["reason"], nodes, name, network))
        elif found["verdict"] == _encryption.NO_PROOF and pair["ok"]:
            problems.append(
                problem(
                    sender,
                    "encryption-no-proof",
                    f"data pass to {receiver}, and it is not proven that they are encrypted: {found['reason']}",
                    f"On {sender} and {receiver}: sudo ip -s xfrm state list nokeys must list the other's address, with bytes that grow; "
                    f"sudo tcpdump -ni any 'ip proto 50' while mipfed -f {name} verify runs",
                )
            )
    errors = _errors(nodes)
    for node, counters in errors.items():
        target = problems if node in failing else warnings
        target += [problem(node, entry["code"], entry["message"], entry["fix"]) for entry in _xfrm.findings(node, counters)]
    warnings += _foreign(verdicts) if wanted else []
    states = {entry["verdict"] for entry in verdicts}
    state = _encryption.NO_PROOF
    if _encryption.CLEAR in states:
        state = _encryption.CLEAR
    elif states == {_encryption.ENCRYPTED}:
        state = _encryption.ENCRYPTED
    return {"wanted": wanted, "state": state, "pairs": verdicts, "errors": errors}, problems, warnings


def _clear(sender: str, receiver: str, reason: str, nodes: Nodes, name: str, network: str) -> Problem:
    made = nodes.get(sender, {}).get("listener", {}).get("overlay") or {}
    if made.get("encrypted") is False:
        fix = (
            f"The network {network} was made without encryption, which cannot be changed. In an announced interruption, on the master: "
            f"docker service rm $(docker service ls -q --filter label=eu.humanbrainproject.mip.federation={name}), "
            f"docker network rm {network}; then mipfed -f {name} deploy"
        )
    else:
        fix = (
            f"Stop the engine of {sender} now (docker service scale {sender}_exareme=0 on the master). Then on {sender}: docker version "
            "(before 20.10.24 and 23.0.3 a kernel without xt_u32 sends in clear, CVE-2023-28841), sudo iptables -t mangle -S OUTPUT must "
            "have a rule that marks the overlay's packets, sudo ip xfrm policy one for each peer; sudo systemctl restart docker makes "
            "both anew"
        )
    return problem(sender, "encryption-clear", f"data to {receiver} pass NOT ENCRYPTED: {reason}", fix)


def _errors(nodes: Nodes) -> dict[str, dict[str, int]]:
    """Return the counters of IPsec errors that rose, by node, as late as they were read."""
    found = {}
    for name, node in nodes.items():
        counted = (node.get("counted") or {}).get("counted") or (node.get("sent") or {}).get("counted") or {}
        if counted.get("errors"):
            found[name] = dict(counted["errors"])
    return found


def _foreign(verdicts: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """Return a warning for each node that sends VXLAN of other networks to its peers in clear."""
    count: dict[str, int] = {}
    for entry in verdicts:
        sender = entry.get("sender") or {}
        packets = int((sender.get("other") or {}).get("packets") or 0)
        if packets:
            count[entry["from"]] = count.get(entry["from"], 0) + packets
    return [
        problem(
            node,
            "vxlan-other-clear",
            f"{packets} packets of other overlay networks left for other nodes in clear; they are not this federation's",
            "docker network ls --filter driver=overlay; publish no port through the ingress network, and make other overlays with "
            "--opt encrypted",
        )
        for node, packets in count.items()
    ]


# --- MTU


def mtu(federation: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]], nodes: Nodes) -> tuple[dict[str, Any], list[Problem]]:
    """Judge whether the overlay's MTU fits the paths that it was made for, and those that there are.

    :returns: ``wanted`` (the inventory's, 0 is none), ``made_for`` (the network's option, 0 is the engine's own 1500), ``recorded`` (what
        was measured before it was made, 0 is nothing) and ``nodes``, the container's MTU by node; then problems. Pairs between which the
        largest packets do not pass are named here, and nowhere else.
    """
    name, network = federation["name"], federation["overlay"]["name"]
    encrypted, wanted = bool(federation["overlay"]["encrypted"]), int(federation["overlay"]["mtu"] or 0)
    problems: list[Problem] = []
    seen = {node: found["overlay"] for node, found in ((n, nodes[n].get("listener") or {}) for n in nodes) if found.get("overlay")}
    known = {node: overlay for node, overlay in seen.items() if overlay.get("mtu_option") is not None}
    options = {int(overlay["mtu_option"]) for overlay in known.values()}
    recorded = max((int(overlay.get("path_mtu") or 0) for overlay in seen.values()), default=0)
    made_for = max(options, default=0)
    for node, overlay in known.items():
        as_made = bool(overlay["encrypted"]) if overlay.get("encrypted") is not None else encrypted
        expected = _encryption.overlay_mtu(int(overlay["mtu_option"]), as_made)
        if overlay.get("mtu") and overlay["mtu"] != expected:
            problems.append(
                problem(
                    node,
                    "overlay-mtu-differs",
                    f"its engine's container has an MTU of {overlay['mtu']} on {network}, and the network was made for {expected}",
                    f"The container is older than the network, or somebody changed it: docker service update --force {node}_exareme "
                    "on the master",
                )
            )
    if known:
        smallest = min(value for value in (wanted, recorded, _encryption.USUAL_MTU) if value)
        if (made_for or _encryption.USUAL_MTU) > smallest:
            source = "the inventory says mip_overlay.mtu" if smallest == wanted else "the path that was measured before it was made has"
            problems.append(
                problem(
                    next(iter(known)),
                    "overlay-mtu-too-large",
                    f"the network {network} was made for paths of {made_for or _encryption.USUAL_MTU} bytes, and {source} {smallest}: "
                    "large packets are split or lost",
                    migration(name, smallest, network),
                )
            )
    failing = [pair for pair in pairs if too_large(pair)]
    if failing:
        lowest = min(_encryption.path_mtu(int(pair["packet"]), encrypted) for pair in failing)
        # One overlay has one MTU: how to change it is said once.
        otherwise = f"Else: {migration(name, lowest, network)}"
        for pair in failing:
            size, packet = int(pair["mtu"]), int(pair["packet"])
            problems.append(
                problem(
                    pair["from"],
                    "overlay-mtu-too-large",
                    f"packets to {pair['to']} pass up to {packet} bytes on the overlay, and its MTU is {size}: small requests work and "
                    f"large answers hang. The path takes {_encryption.path_mtu(packet, encrypted)} bytes, fragments do not pass",
                    f"Network team: let {_encryption.path_mtu(size, encrypted)} bytes, or IP fragments, pass between the two. {otherwise}",
                )
            )
            otherwise = f"Else: mip_overlay.mtu: {lowest}, as said before"
    shown = {node: int(overlay.get("mtu") or 0) for node, overlay in seen.items()}
    return {"wanted": wanted, "made_for": made_for, "recorded": recorded, "nodes": shown}, problems


# --- local data stores


def stores(federation: Mapping[str, Any], nodes: Nodes) -> tuple[dict[str, Any], list[Problem]]:
    """Judge whether each engine reaches its hospital's local data store.

    :returns: by node what was tried, then problems.
    """
    found: dict[str, Any] = {}
    problems: list[Problem] = []
    for node in federation["nodes"]:
        store = (nodes.get(node["name"], {}).get("listener") or {}).get("store")
        if node.get("ldsm") and store:
            found[node["name"]] = dict(store)
            if store["verdict"] != "ok":
                problems.append(problem(node["name"], _store.CODE, store["message"], store["fix"]))
    return found, problems


# --- all of it


def too_large(pair: Mapping[str, Any]) -> bool:
    """Return whether a pair fails because the largest packets do not pass, which is told by its own name."""
    return pair.get("packet") is not None and int(pair["packet"]) < int(pair.get("mtu") or 0)


def network(
    federation: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]], nodes: Nodes, problems: list[Problem]
) -> tuple[dict[str, Any], list[Problem]]:
    """Return what verify reports of the network beside the pairs, and the warnings; its problems are added to ``problems``."""
    enciphered, wrong, warnings = encryption(federation, pairs, nodes)
    overlay, misfits = mtu(federation, pairs, nodes)
    reached, missed = stores(federation, nodes)
    problems += [*wrong, *misfits, *missed]
    return {"encryption": enciphered, "overlay": overlay, "stores": reached}, warnings
