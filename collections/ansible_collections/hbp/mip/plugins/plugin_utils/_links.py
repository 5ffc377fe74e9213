# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip and mipfed: which links a federation needs, and what the answers of M(hbp.mip.link_probe) say about each.

Pure functions: nothing here asks a host. Every finding has a stable name, ``link-…``, that docs/findings.md explains.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ansible_collections.hbp.mip.plugins.plugin_utils._problems import Problem, problem

#: Sizes of IP packets that tell the usual path MTUs apart: least of IPv4 and of IPv6, tunnels, WireGuard, clouds, PPPoE, Ethernet.
SIZES = (576, 1280, 1400, 1420, 1450, 1480, 1492, 1500)
MANAGER_PORT, GOSSIP_PORT, ENGINE_PORT = 2377, 7946, 9090

#: What the small words of ICMP "destination unreachable" mean (RFC 792, RFC 1812).
_ICMP = {
    0: "network unreachable", 1: "host unreachable", 2: "protocol unreachable", 3: "port unreachable", 4: "packet too big",
    9: "network prohibited", 10: "host prohibited", 13: "administratively prohibited",
}  # fmt: skip

#: Verdict to who has to act: the sender's host, the network between, or the receiver's host.
WHO = {
    "sender-filter": "sender", "no-route": "sender", "no-route-back": "receiver", "path": "network", "no-answer": "network",
    "return-path": "network",
    "translated": "network", "intercepted": "network", "mtu": "network", "late": "network",
    "receiver-filter": "receiver", "nobody-listening": "receiver",
}  # fmt: skip

#: Names of findings whose cause does not depend on the protocol.
_NAMES = {
    "no-route": "link-no-route", "no-route-back": "link-no-route", "no-answer": "link-no-answer",
    "translated": "link-translated", "intercepted": "link-tcp-intercepted",
    "mtu": "link-mtu", "late": "link-esp-late", "not-measured": "link-not-measured",
}  # fmt: skip

#: Names of findings with a cause of their own under a verdict that has others.
_SAME_CAUSE = ("link-reverse-path", "link-route-refused")

#: All names of findings, in the order of docs/findings.md.
FINDINGS = (
    *(f"link-{proto}-{verdict}" for proto in ("tcp", "udp", "vxlan", "esp") for verdict in ("sender-filter", "path", "receiver-filter")),
    "link-tcp-nobody-listening", "link-udp-nobody-listening", "link-tcp-return-path", "link-tcp-intercepted", "link-translated",
    "link-no-route", "link-route-refused", "link-no-answer", "link-reverse-path", "link-esp-late", "link-mtu", "link-not-measured",
)  # fmt: skip


class Check(NamedTuple):
    """One thing that has to pass from one node to another. ``proto`` is tcp, udp, vxlan (UDP to the data path port) or esp."""

    sender: str
    receiver: str
    proto: str
    port: int
    sizes: tuple[int, ...]
    why: str


def plan(
    federation: Mapping[str, Any],
    nodes: Collection[str] | None = None,
    sizes: Sequence[int] = SIZES,
    run: str = "",
    swarms: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Say what has to pass between the nodes of a federation, as arguments of the module.

    :arg federation: the resolved federation; its ``nodes``, ``overlay.encrypted``, ``overlay.mtu``, ``swarm.data_path_port`` and
        ``engine.port`` are read.
    :arg nodes: names of the nodes that can be asked; the others are left out. All by default.
    :arg sizes: sizes in bytes of the IP packets that measure the path's MTU.
    :arg run: the run's nonce, only passed on.
    :arg swarms: ids of the swarms that nodes are in, by name. Between two of the same swarm nothing is tried: of those `verify` tells more.
    :returns: ``run``; ``listen`` and ``send``, both by node name, the arguments of M(hbp.mip.link_probe) besides ``mode`` and ``run``;
        ``checks``, a list of dictionaries with the fields of :class:`Check`; ``nodes``, ``encrypted``, ``data_path_port``.
    """
    chosen = [node for node in federation["nodes"] if nodes is None or node["name"] in nodes]
    encrypted = bool(federation["overlay"]["encrypted"])
    data_path_port = int(federation["swarm"]["data_path_port"])
    engine_port = int((federation.get("engine") or {}).get("port") or ENGINE_PORT)
    # the overlay's own MTU is tried itself; between two usual sizes it would seem too large
    sizes = sorted({*sizes, *([int(federation["overlay"]["mtu"])] if federation["overlay"].get("mtu") else [])})
    swarms = swarms or {}
    checks = [
        check
        for a in chosen
        for b in chosen
        if not swarms.get(a["name"]) or swarms[a["name"]] != swarms.get(b["name"])
        for check in _between(a, b, encrypted, data_path_port, engine_port, tuple(sizes))
    ]
    by_pair: dict[tuple[str, str], list[Check]] = {}
    by_node: dict[str, list[Check]] = {node["name"]: [] for node in chosen}
    for check in checks:
        by_pair.setdefault((check.sender, check.receiver), []).append(check)
        by_node[check.sender].append(check)
        by_node[check.receiver].append(check)
    listen, send = {}, {}
    for node in chosen:
        name = node["name"]
        own_checks = by_node[name]
        own = {(_transport(check.proto), check.port): check.why for check in own_checks if check.receiver == name and check.proto != "esp"}
        listen[name] = {
            "node": name,
            "address": node["address"],
            "peers": [{"node": other["name"], "address": other["address"]} for other in chosen if other is not node],
            "ports": [{"proto": proto, "port": port, "why": why} for (proto, port), why in sorted(own.items())],
            "watch": sorted({check.port for check in own_checks if check.sender == name and check.proto == "tcp"}),
            "esp": encrypted,
            "data_path_port": data_path_port,
        }
        targets = [_target(other, by_pair.get((name, other["name"]), [])) for other in chosen if other is not node]
        send[name] = {
            "node": name,
            "address": node["address"],
            "data_path_port": data_path_port,
            "targets": [target for target in targets if any(target[key] for key in ("tcp", "udp", "vxlan_sizes", "esp_sizes"))],
        }
    return {
        "run": run,
        "nodes": {node["name"]: {key: node[key] for key in ("address", "kind", "manager")} for node in chosen},
        "encrypted": encrypted,
        "data_path_port": data_path_port,
        "listen": listen,
        "send": send,
        "checks": [check._asdict() for check in checks],
    }


def _transport(proto: str) -> str:
    return "udp" if proto == "vxlan" else proto


def _between(
    a: Mapping[str, Any], b: Mapping[str, Any], encrypted: bool, data_path_port: int, engine_port: int, sizes: tuple[int, ...]
) -> Iterable[Check]:
    """What must pass from a to b."""
    if a is b:
        return
    pair = a["name"], b["name"]
    if a["kind"] == "ui" or b["kind"] == "ui":
        if a["kind"] == "ui" and b["kind"] == "master":
            yield Check(*pair, "tcp", engine_port, (), "the portal asks the engine")
        return
    if b["manager"]:
        yield Check(*pair, "tcp", MANAGER_PORT, (), "the swarm's management")
    yield Check(*pair, "tcp", GOSSIP_PORT, (), "the nodes' gossip")
    yield Check(*pair, "udp", GOSSIP_PORT, (), "the nodes' gossip")
    yield Check(*pair, "vxlan", data_path_port, () if encrypted else sizes, "the overlay's data (VXLAN)")
    if encrypted:
        yield Check(*pair, "esp", 0, sizes, "the overlay's encrypted data")


def _target(receiver: Mapping[str, Any], found: Sequence[Check]) -> dict[str, Any]:
    return {
        "node": receiver["name"],
        "address": receiver["address"],
        "tcp": [check.port for check in found if check.proto == "tcp"],
        "own_tcp": [],
        "udp": [check.port for check in found if _transport(check.proto) == "udp" and not check.sizes],
        "vxlan_sizes": [size for check in found if check.proto == "vxlan" for size in check.sizes],
        "esp_sizes": [size for check in found if check.proto == "esp" for size in check.sizes],
    }


def targets(links: Mapping[str, Any], node: str, listened: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the targets of a node for O(mode=send), now that it is known where the probe itself listens.

    :arg links: what :func:`plan` returned.
    :arg listened: results of O(mode=listen) by node name; nodes may be missing.
    """
    result = []
    for target in links["send"][node]["targets"]:
        own = {item["port"] for item in (listened.get(target["node"]) or {}).get("listening", ()) if item["proto"] == "tcp" and item["own"]}
        result.append({**target, "own_tcp": [port for port in target["tcp"] if port in own]})
    return result


def requirements(links: Mapping[str, Any], node: str) -> list[dict[str, Any]]:
    """Return what the network team of a node's site has to allow, peers with the same need together.

    :returns: dictionaries with ``direction`` (in, out, as seen from the node), ``what`` (for a network team), ``proto`` (tcp, udp, esp),
        ``port``, ``why`` and ``peers``, a list of ``{node, address}``. With an encrypted overlay VXLAN is not among them, because on the
        wire there is ESP only.
    """
    rows: dict[tuple[str, str, int], dict[str, Any]] = {}
    for fields in links["checks"]:
        check = Check(**fields)
        if node not in (check.sender, check.receiver) or (check.proto == "vxlan" and links["encrypted"]):
            continue
        direction, peer = ("out", check.receiver) if check.sender == node else ("in", check.sender)
        proto = _transport(check.proto)
        row = rows.setdefault(
            (direction, proto, check.port),
            {
                "direction": direction, "what": _what(check.proto, check.port), "proto": proto, "port": check.port, "why": check.why,
                "peers": [],
            },
        )  # fmt: skip
        row["peers"].append({"node": peer, "address": links["nodes"][peer]["address"]})
    return [rows[key] for key in sorted(rows)]


def tournament(nodes: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Return rounds of ordered pairs for measuring throughput: in each round no node is in two pairs, and every ordered pair comes once."""
    names: list[str | None] = list(nodes)
    if len(names) % 2:
        names.append(None)
    half: list[list[tuple[str, str]]] = []
    for _round in range(len(names) - 1):
        pairs = [(names[index], names[-1 - index]) for index in range(len(names) // 2)]
        half.append([(a, b) for a, b in pairs if a is not None and b is not None])
        names = [names[0], names[-1], *names[1:-1]]
    return [pairs for pairs in (*half, *([(b, a) for a, b in pairs] for pairs in half)) if pairs]


# --- verdicts


class _Verdict(NamedTuple):
    """What became of one check, or of one size of it."""

    verdict: str
    evidence: str
    ms: float | None = None
    reverse_path: bool = False
    #: The kind of the route that refuses the peer: unreachable, prohibit or blackhole.
    refused: str = ""


class _Answers:
    """The answers of all nodes, by what one asks of them."""

    def __init__(
        self, links: Mapping[str, Any], listened: Mapping[str, Any], sent: Mapping[str, Any], collected: Mapping[str, Any]
    ) -> None:
        self.nodes: Mapping[str, Mapping[str, Any]] = links["nodes"]
        self.listened, self.sent, self.collected = listened, sent, collected
        self.seen = {
            (name, item["peer"], item["proto"], item["port"], item["size"]): item
            for name, answer in collected.items()
            if answer
            for item in answer.get("seen", ())
        }
        self.results = {
            (name, target["node"]): target for name, answer in sent.items() if answer for target in answer.get("sent", ()) or ()
        }

    def address(self, name: str) -> str:
        return str(self.nodes[name]["address"])

    def named(self, name: str) -> str:
        return f"{name} ({self.address(name)})"

    def why_deaf(self, name: str) -> str:
        """Why a node could not tell what it saw; empty when it did."""
        for answer, missing in ((self.listened.get(name), "it does not answer"), (self.collected.get(name), "it did not tell what it saw")):
            if not answer or answer.get("unreachable"):
                return missing
            if answer.get("skipped"):
                return "nothing was measured in check mode"
            if answer.get("failed") or not answer.get("ok"):
                return str(answer.get("error") or answer.get("msg") or missing)
        return ""

    def why_mute(self, name: str) -> str:
        """Why a node sent nothing; empty when it did."""
        answer = self.sent.get(name)
        if not answer or answer.get("unreachable"):
            return "it does not answer"
        if answer.get("skipped"):
            return "nothing was measured in check mode"
        return "" if answer.get("ok") else str(answer.get("error") or answer.get("msg") or "it sent nothing")

    def uncertain(self, name: str) -> str:
        """Why what this node did not see proves nothing; empty when it does."""
        answer = self.collected.get(name) or {}
        if answer.get("lost"):
            return f"the capture on {name} lost {answer['lost']} packets"
        return f"there was more to note on {name} than fits" if answer.get("overfull") else ""

    def port(self, name: str, proto: str, port: int) -> Mapping[str, Any]:
        """What listens on a port of a node."""
        for item in (self.listened.get(name) or {}).get("listening", ()) or ():
            if (item["proto"], item["port"]) == (_transport(proto), port):
                found: Mapping[str, Any] = item
                return found
        return {}

    def left(self, check: Check, local_port: int) -> Mapping[str, Any] | None:
        """The start of a connection as its sender's card saw it, behind an address translation of the sender itself."""
        where = self.address(check.receiver), local_port, check.port
        return next((flow for flow in self._flows(check.sender) if (flow["server"], flow["client_port"], flow["port"]) == where), None)

    def came(self, check: Check, local_port: int, sequence: int | None) -> Mapping[str, Any] | None:
        """The same as the receiver's card saw it: known by its number, or by where it came from."""
        flows = [flow for flow in self._flows(check.receiver) if flow["port"] == check.port]
        where = self.address(check.sender), local_port
        by_number = (flow for flow in flows if sequence is not None and flow["sequence"] == sequence)
        return next(by_number, None) or next((flow for flow in flows if (flow["client"], flow["client_port"]) == where), None)

    def _flows(self, name: str) -> Sequence[Mapping[str, Any]]:
        flows: Sequence[Mapping[str, Any]] = (self.collected.get(name) or {}).get("flows", ())
        return flows


def _icmp_words(entries: Iterable[Mapping[str, Any]], answers: _Answers) -> str:
    """Return who refused packets with ICMP, as a half sentence."""
    by_address = {node["address"]: name for name, node in answers.nodes.items()}
    told = []
    for entry in entries:
        if entry["type"] != 3:
            continue
        name = by_address.get(entry["from"])
        sender = f"{name} ({entry['from']})" if name else entry["from"]
        told.append(f"{sender} answered with ICMP 3/{entry['code']} ({_ICMP.get(entry['code'], 'unreachable')})")
    return "; ".join(dict.fromkeys(told))


def _unsent(check: Check, answers: _Answers, result: Mapping[str, Any], error: str, told: str) -> _Verdict:
    """Judge what never left its sender."""
    hop = result.get("next_hop") or {}
    sender = check.sender
    if hop.get("refused"):
        return _refused("no-route", sender, answers.named(check.receiver), hop["refused"])
    if error == "ENETUNREACH" or hop.get("state") == "no-route":
        return _Verdict("no-route", f"{sender} has no route to {answers.named(check.receiver)}")
    if hop.get("state") == "silent" and error != "EPERM":
        if hop["address"] == answers.address(check.receiver):
            return _Verdict("no-answer", f"{answers.named(check.receiver)} does not answer ARP on {hop['interface']} of {sender}")
        return _Verdict("no-answer", f"the gateway {hop['address']} does not answer ARP on {hop['interface']} of {sender}")
    reason = f"the kernel of {sender} refused to send it ({error})" if error else f"it never left the network card of {sender}"
    return _Verdict("sender-filter", reason + (f"; {told}" if told else ""))


def _refused(verdict: str, host: str, peer: str, kind: str) -> _Verdict:
    return _Verdict(verdict, f"the routing table of {host} refuses {peer} (a route of the type {kind})", refused=kind)


def _packet(check: Check, size: int, answers: _Answers) -> _Verdict:
    """Judge UDP or ESP of one size; size 0 stands for the smallest."""
    proto, sender, receiver = _transport(check.proto), check.sender, check.receiver
    result = answers.results.get((sender, receiver)) or {}
    probes = [probe for probe in result.get("probes", ()) if probe["proto"] == proto and probe["port"] == check.port]
    probe: Mapping[str, Any] = next((probe for probe in probes if not size or probe["size"] == size), {})
    key = proto, check.port, probe.get("size", size)
    there = answers.seen.get((receiver, sender, *key), {})
    here = answers.seen.get((sender, receiver, *key), {})
    deaf, mute = answers.why_deaf(receiver), answers.why_mute(sender)
    told = _icmp_words(probe.get("icmp", ()), answers)
    if there.get("delivered"):
        foreign = [address for address in there["addresses"] if address != answers.address(sender)]
        if foreign:
            return _Verdict("translated", f"it comes to {receiver} from {foreign[0]} instead of {answers.address(sender)}", probe.get("ms"))
        known = proto == "esp" and answers.address(sender) in (answers.collected.get(receiver) or {}).get("tracked", ())
        return _Verdict("ok", f"the firewall of {receiver} knew the connection from before" if known else "", probe.get("ms"))
    if probe.get("answered"):
        return _Verdict("ok", f"answered, though {receiver} could not tell what it saw", probe.get("ms"))
    if mute:
        return _Verdict("not-measured", f"{sender}: {mute}")
    if probe.get("error") == "EMSGSIZE":
        return _Verdict("too-large", f"the network card of {sender} takes no packets of {probe['size']} bytes")
    if deaf:
        return _Verdict("not-measured", f"{receiver}: {deaf}")
    if there.get("arrived"):
        drops = int((answers.collected.get(receiver) or {}).get("reverse_path_drops", 0))
        return _Verdict(
            "receiver-filter",
            f"it arrives at {receiver} and is not let in" + (f"; {told}" if told else ""),
            None,
            drops >= there["arrived"],
        )
    if here.get("left"):
        uncertain = answers.uncertain(receiver)
        if uncertain:
            return _Verdict("not-measured", uncertain)
        return _Verdict(
            "path", f"it leaves {sender} ({here['left']} times) and does not arrive at {receiver}" + (f"; {told}" if told else "")
        )
    deaf = answers.why_deaf(sender)
    if deaf and not probe.get("error"):
        return _Verdict("path", f"it does not arrive at {receiver}; whether it left is unknown ({sender}: {deaf})")
    if answers.uncertain(sender) and not probe.get("error"):
        return _Verdict("not-measured", answers.uncertain(sender))
    return _unsent(check, answers, result, str(probe.get("error", "")), told)


def _tcp(check: Check, answers: _Answers) -> _Verdict:
    """Judge a TCP connection."""
    sender, receiver = check.sender, check.receiver
    result = answers.results.get((sender, receiver)) or {}
    tried = next((item for item in result.get("tcp", ()) if item["port"] == check.port), None)
    if tried is None:
        return _Verdict("not-measured", f"{sender}: {answers.why_mute(sender) or 'it did not try'}")
    left = answers.left(check, tried["local_port"])
    came = answers.came(check, tried["local_port"], left["sequence"] if left else None)
    out, into = (left or {}).get("events", {}), (came or {}).get("events", {})
    deaf = answers.why_deaf(receiver)
    listening = answers.port(receiver, "tcp", check.port)
    told = _icmp_words(tried["icmp"], answers)
    connected = tried["result"] == "connected"
    if connected and not came and tried["answer"] != "right" and not deaf and not answers.uncertain(receiver):
        return _Verdict(
            "intercepted",
            f"something answers in the place of {receiver}: a connection was made, of which nothing arrived there",
            tried["ms"],
        )
    if connected:
        if came and came["client"] != answers.address(sender):
            return _Verdict("translated", f"it comes to {receiver} from {came['client']} instead of {answers.address(sender)}", tried["ms"])
        return _Verdict("ok", "", tried["ms"])
    words = f"; {told}" if told else ""
    answer = {"refused": "the connection is refused", "timeout": "nothing answers"}.get(
        tried["result"], f"the kernel says {tried['error']}"
    )
    if left is not None and not out.get("syn-left"):
        left = None
    if deaf:
        return _Verdict("not-measured", f"{answer}; {receiver}: {deaf}")
    if not came:
        if left is None and not answers.why_deaf(sender):
            if answers.uncertain(sender):
                return _Verdict("not-measured", answers.uncertain(sender))
            return _unsent(check, answers, result, tried["error"] if tried["error"] in ("ENETUNREACH", "EPERM") else "", told)
        if answers.uncertain(receiver):
            return _Verdict("not-measured", answers.uncertain(receiver))
        return _Verdict("path", f"it leaves {sender} and does not arrive at {receiver}; {answer}{words}")
    if out.get("synack-arrived"):
        return _Verdict("sender-filter", f"the answer of {receiver} comes back to {sender} and is not let in there")
    if into.get("synack-left"):
        return _Verdict("return-path", f"{receiver} answers, and the answer does not come back to {sender}")
    if not into.get("syn-delivered"):
        drops = int((answers.collected.get(receiver) or {}).get("reverse_path_drops", 0))
        return _Verdict(
            "receiver-filter",
            f"it arrives at {receiver} and is not let in; {answer}{words}",
            None,
            drops >= int(into.get("syn-arrived", 1)),
        )
    if into.get("rst-left") or tried["result"] == "refused":
        reason = f" ({listening['error']})" if listening.get("error") else ""
        return _Verdict("nobody-listening", f"{receiver} itself refuses: nothing listens there on TCP port {check.port}{reason}")
    hop = (answers.results.get((receiver, sender)) or {}).get("next_hop") or {}
    if hop.get("refused"):
        return _refused("no-route-back", receiver, answers.named(sender), hop["refused"])
    if hop.get("state") == "no-route":
        return _Verdict("no-route-back", f"it is let in at {receiver}, which has no route back to {answers.named(sender)}")
    return _Verdict("receiver-filter", f"it is let in at {receiver}, and the answer does not leave there (its OUTPUT rules)")


def _let_in_at_times(check: Check, answers: _Answers) -> _Verdict | None:
    """Judge ESP of which a part only is let in: what arrives just when the receiver itself sends passes its filter as an answer.

    The probe takes the filter's memory of its packets away at once, but not before they are sent. Without a filter all that arrives
    is let in.
    """
    if check.proto != "esp":
        return None
    items = [answers.seen.get((check.receiver, check.sender, "esp", 0, size), {}) for size in check.sizes]
    arrived, let_in = (sum(int(item.get(event, 0)) for item in items) for event in ("arrived", "delivered"))
    if not let_in or let_in >= 0.9 * arrived:
        return None
    return _Verdict(
        "receiver-filter", f"of {arrived} that arrive at {check.receiver} {let_in} are let in, as answers to its own packets only"
    )


def _late(check: Check, answers: _Answers) -> bool:
    """Tell whether of every size of ESP some packets were lost before others arrived.

    That is no accident: a stateful firewall between lets ESP in only since the receiver itself has sent some, or a tunnel had to come up.
    """
    if check.proto != "esp" or answers.why_deaf(check.sender) or answers.uncertain(check.receiver):
        return False
    pairs = []
    for size in check.sizes:
        left = answers.seen.get((check.sender, check.receiver, "esp", 0, size), {}).get("left", 0)
        arrived = answers.seen.get((check.receiver, check.sender, "esp", 0, size), {}).get("arrived", 0)
        pairs += [(left, arrived)] if left else []
    return len(pairs) >= 3 and all(0 < arrived < left for left, arrived in pairs)


def _sized(check: Check, answers: _Answers) -> tuple[_Verdict, int | None]:
    """Judge all sizes of a check: the verdict, and the path's MTU as far as it was measured."""
    verdicts = {size: _packet(check, size, answers) for size in sorted(check.sizes)}
    at_times = _let_in_at_times(check, answers)
    if at_times:
        return at_times, None
    passed = [size for size, verdict in verdicts.items() if verdict.verdict in ("ok", "translated")]
    first = next(iter(verdicts.values()))
    if not passed:
        return first, None
    mtu = max(passed)
    smallest = verdicts[passed[0]]
    failed = [size for size in verdicts if size > mtu]
    if smallest.verdict == "ok" and not failed and _late(check, answers):
        reason = f"the first packets leave {check.sender} and do not arrive at {check.receiver}, later ones do"
        return _Verdict("late", reason, smallest.ms), mtu
    if smallest.verdict != "ok" or not failed or verdicts[failed[0]].verdict == "not-measured":
        return smallest, mtu
    lost = verdicts[failed[0]]
    reason = lost.evidence if lost.verdict != "path" else f"packets of {failed[0]} bytes leave {check.sender} and do not arrive"
    return _Verdict(f"mtu-{mtu}", f"{mtu} bytes pass; {reason}", smallest.ms), mtu


# --- what to do


def _what(proto: str, port: int) -> str:
    """Name a protocol for a network team."""
    return "IP protocol 50 (ESP)" if proto == "esp" else f"{_transport(proto).upper()} port {port}"


def _commands(proto: str, port: int, peer: str, out: bool) -> dict[str, list[str]]:
    """Return the commands that open a host's own firewall for one protocol of one peer, by kind of firewall."""
    kind = _transport(proto)
    side = "to" if out else "from"
    if kind == "esp":
        ufw = f"sudo ufw allow out proto esp to {peer}" if out else f"sudo ufw allow proto esp from {peer}"
        match, rich = "ip protocol esp", 'protocol value="esp"'
    else:
        ufw = (
            f"sudo ufw allow out proto {kind} to {peer} port {port}"
            if out
            else f"sudo ufw allow proto {kind} from {peer} to any port {port}"
        )
        match, rich = f"{kind} dport {port}", f'port port="{port}" protocol="{kind}"'
    if out:
        rule = f'rule family="ipv4" destination address="{peer}" {rich} accept'
        firewalld = [
            "sudo firewall-cmd --permanent --new-policy mip-out  # once",
            "sudo firewall-cmd --permanent --policy mip-out --add-ingress-zone HOST --add-egress-zone ANY  # once",
            f"sudo firewall-cmd --permanent --policy mip-out --add-rich-rule '{rule}'",
            "sudo firewall-cmd --reload",
        ]
    else:
        rule = f'rule family="ipv4" source address="{peer}" {rich} accept'
        firewalld = [f"sudo firewall-cmd --add-rich-rule '{rule}'", f"sudo firewall-cmd --permanent --add-rich-rule '{rule}'"]
    chain, address = ("output", "ip daddr") if out else ("input", "ip saddr")
    nftables = [
        f"sudo nft -a list ruleset | grep -n 'hook {chain}'  # shows the table and chain that drop what comes {side} {peer}",
        f"sudo nft insert rule inet filter {chain} {address} {peer} {match} accept",
    ]
    return {"ufw": [ufw], "firewalld": firewalld, "nftables": nftables}


def _request(check: Check, found: _Verdict, answers: _Answers) -> str:
    """Return one sentence for whoever has to act."""
    verdict = found.verdict
    what, a, b = _what(check.proto, check.port), answers.named(check.sender), answers.named(check.receiver)
    if verdict.startswith("mtu-"):
        return (
            f"Packets from {a} to {b} pass up to {verdict[4:]} bytes only: let larger ones pass and ICMP type 3 code 4 back, "
            f"or keep mip_overlay.mtu at {verdict[4:]} or less"
        )
    if found.refused:
        host, peer = (a, b) if verdict == "no-route" else (b, a)
        return f"Take the route of the type {found.refused} to {peer} away on {host}, or give {peer} a route of its own there"
    if verdict == "receiver-filter" and found.reverse_path:
        return (
            f"{check.receiver} would answer {a} over another network card and so drops {what} (rp_filter): correct the route back, "
            "or set net.ipv4.conf.all.rp_filter=2"
        )
    return {
        "path": f"Allow {what} from {a} to {b} in every firewall between",
        "late": f"Allow {what} from {a} to {b} in every firewall between, also when {check.receiver} has not sent any before",
        "no-answer": f"Check that {b} is up, and the cable, VLAN or gateway between it and {a}",
        "return-path": f"Let the answers of {what} from {b} back to {a}: a firewall between drops them, or they take another way",
        "translated": f"Remove the address translation from {a} to {b} for {what}, or give both addresses of a VPN as mip_address",
        "intercepted": f"Let {what} from {a} to {b} through as it is: a proxy or firewall between answers in its place",
        "sender-filter": f"Allow {what} to {b} in the firewall of {a} itself",
        "no-route": f"Give {a} a route to {b}",
        "no-route-back": f"Give {b} a route to {a}",
        "receiver-filter": f"Allow {what} from {a} in the firewall of {b} itself",
        "nobody-listening": f"See why nothing listens on {what} of {b}",
        "not-measured": f"Run the check again when {a} and {b} both answer",
    }[verdict]


def _advice(check: Check, found: _Verdict, answers: _Answers) -> dict[str, list[str]]:
    """Return commands by what they are for: a kind of firewall, or ``look``."""
    verdict = found.verdict
    a, b = answers.address(check.sender), answers.address(check.receiver)
    if found.refused:
        peer = b if verdict == "no-route" else a
        return {"look": [f"ip route get {peer}", f"ip route show table all type {found.refused}", "ip rule"]}
    if verdict == "receiver-filter" and found.reverse_path:
        return {
            "look": [f"ip route get {a}", "sysctl net.ipv4.conf.all.rp_filter"],
            "sysctl": ["sudo sysctl -w net.ipv4.conf.all.rp_filter=2"],
        }
    if verdict == "receiver-filter":
        return _commands(check.proto, check.port, a, out=False)
    if verdict == "sender-filter":
        return _commands(check.proto, check.port, b, out=True)
    if verdict in ("no-route", "no-route-back"):
        return {"look": [f"ip route get {b if verdict == 'no-route' else a}"]}
    if verdict == "no-answer":
        return {"look": [f"ip route get {b}", f"ping -c 3 {b}"]}
    if verdict == "nobody-listening":
        return {
            "look": [f"sudo ss -lntup 'sport = :{check.port}'", "sudo systemctl status docker", "sudo docker info --format '{{.Swarm}}'"]
        }
    if verdict.startswith("mtu-"):
        return {"look": [f"ip route get {b}", f"ping -c 3 -M do -s {int(verdict[4:]) - 28} {b}"]}
    return {}


def judge(
    links: Mapping[str, Any],
    listened: Mapping[str, Any],
    sent: Mapping[str, Any],
    collected: Mapping[str, Any],
    members: Collection[str] = (),
    overlay_mtu: int = 0,
) -> dict[str, Any]:
    """Join the answers of all nodes to a verdict for every check.

    :arg links: what :func:`plan` returned.
    :arg listened: results of O(mode=listen) of M(hbp.mip.link_probe), by node name; a node that did not answer may be missing. The same
        for ``sent`` and ``collected``.
    :arg members: nodes that are in a swarm now, so that their engine has to listen itself.
    :arg overlay_mtu: the MTU that the overlay has or gets, 0 when it is chosen by this measurement; a smaller path is a fault then.
    :returns: ``pairs``, a list of ``{from, to, ok, level, mtu, checks}`` in the order of the nodes; each check has ``proto``, ``port``,
        ``why``, ``verdict``, ``name``, ``level`` (ok, note, unknown, fault), ``evidence``, ``request``, ``who`` (sender, network,
        receiver), ``host`` (who must act, empty for the network), ``commands`` and ``ms``.
        ``path_mtu``, the smallest of all pairs or None; ``ok``; ``problems`` and ``notes``, each ``{node, code, message, fix}``;
        ``requests``, ``{who, host, from, to, verdict, names, text}``, one for each pair and party with all protocols together.
    """
    answers = _Answers(links, listened, sent, collected)
    pairs: dict[tuple[str, str], dict[str, Any]] = {}
    problems: list[Problem] = []
    notes: list[Problem] = []
    for fields in links["checks"]:
        check = Check(**{**fields, "sizes": tuple(fields["sizes"])})
        cell, mtu = _cell(check, answers, links, set(members), overlay_mtu)
        pair = pairs.setdefault(
            (check.sender, check.receiver),
            {"from": check.sender, "to": check.receiver, "ok": True, "level": "ok", "mtu": None, "checks": []},
        )
        pair["checks"].append(cell)
        if mtu is not None:
            pair["mtu"] = mtu
        levels = ("ok", "note", "unknown", "fault")
        pair["level"] = max(pair["level"], cell["level"], key=levels.index)
        pair["ok"] = pair["level"] in ("ok", "note")
        if cell["level"] == "ok":
            continue
        where = cell["host"] or f"{check.sender} → {check.receiver}"
        message = _message(check.sender, check.receiver, cell)
        (notes if cell["level"] == "note" else problems).append(problem(where, cell["name"], message, _fix(cell)))
    measured = [pair["mtu"] for pair in pairs.values() if pair["mtu"] is not None]
    return {
        "pairs": list(pairs.values()),
        "path_mtu": min(measured) if measured else None,
        "ok": all(pair["ok"] for pair in pairs.values()),
        "problems": problems,
        "notes": notes,
        "requests": _requests(pairs.values(), answers),
    }


def kept_out(verdict: Mapping[str, Any]) -> list[str]:
    """Return the hosts whose own rules keep something out, in the order of the links.

    :arg verdict: what :func:`judge` returned.
    """
    return list(dict.fromkeys(cell["host"] for pair in verdict["pairs"] for cell in pair["checks"] if _filtered(cell)))


def without_peer(verdict: Mapping[str, Any], links: Mapping[str, Any], known: Mapping[str, Collection[str]]) -> set[str]:
    """Return the hosts that keep out a member of the swarm for which their rules were not set yet, so that a deploy changes them.

    :arg verdict: what :func:`judge` returned.
    :arg links: what :func:`plan` returned.
    :arg known: by host, the addresses of the peers for which its rules were set; hosts of which that is not known are missing.
    """
    found = set()
    for pair in verdict["pairs"]:
        for cell in pair["checks"]:
            peer = links["nodes"][pair["to"] if cell["host"] == pair["from"] else pair["from"]]
            # The ui node is no member: the rules never name it as a peer.
            if _filtered(cell) and peer["kind"] != "ui" and peer["address"] not in known.get(cell["host"], (peer["address"],)):
                found.add(cell["host"])
    return found


def _filtered(cell: Mapping[str, Any]) -> bool:
    return cell["level"] == "fault" and cell["verdict"] in ("receiver-filter", "sender-filter")


def kept_out_by_others(verdict: Mapping[str, Any], hosts: Collection[str]) -> dict[str, Any]:
    """Say of what these hosts keep out that it is not the federation's own rules, which are in place there.

    :arg verdict: what :func:`judge` returned.
    """
    told: dict[str, str] = {}
    pairs = []
    for pair in verdict["pairs"]:
        checks = []
        for cell in pair["checks"]:
            if _filtered(cell) and cell["host"] in hosts:
                longer = f"{cell['evidence']}; the federation's own rules on {cell['host']} are in place, others there keep it out"
                told[_message(pair["from"], pair["to"], cell)] = _message(pair["from"], pair["to"], {**cell, "evidence": longer})
                cell = {**cell, "evidence": longer}
            checks.append(cell)
        pairs.append({**pair, "checks": checks})
    problems = [{**entry, "message": told.get(entry["message"], entry["message"])} for entry in verdict["problems"]]
    return {**verdict, "pairs": pairs, "problems": problems}


def _message(sender: str, receiver: str, cell: Mapping[str, Any]) -> str:
    return f"{_what(cell['proto'], cell['port'])} from {sender} to {receiver} ({cell['why']}): {cell['evidence']}"


def opened_by_deploy(verdict: Mapping[str, Any], hosts: Collection[str]) -> dict[str, Any]:
    """Take what the own firewalls of these hosts keep out as a note: a deploy opens them, for a new peer as well.

    :arg verdict: what :func:`judge` returned.
    :arg hosts: nodes whose firewall a deploy manages (ufw, firewalld, or the guard of a federation) and is going to change.
    """
    taken: set[tuple[str, str]] = set()
    pairs = []
    levels = ("ok", "note", "unknown", "fault")
    for pair in verdict["pairs"]:
        checks = []
        for cell in pair["checks"]:
            if _filtered(cell) and cell["host"] in hosts:
                taken.add((cell["host"], cell["name"]))
                cell = {**cell, "level": "note", "evidence": cell["evidence"] + "; a deploy opens it"}
            checks.append(cell)
        level = max((cell["level"] for cell in checks), key=levels.index, default="ok")
        pairs.append({**pair, "checks": checks, "level": level, "ok": level in ("ok", "note")})
    own = [entry for entry in verdict["problems"] if (entry["node"], entry["code"]) in taken]
    return {
        **verdict,
        "pairs": pairs,
        "ok": all(pair["ok"] for pair in pairs),
        "problems": [entry for entry in verdict["problems"] if entry not in own],
        "notes": [*verdict["notes"], *({**entry, "message": entry["message"] + "; a deploy opens it", "fix": ""} for entry in own)],
        "requests": [
            request
            for request in verdict["requests"]
            if not (request["host"] in hosts and request["verdict"] in ("receiver-filter", "sender-filter"))
        ],
    }


def _fix(cell: Mapping[str, Any]) -> str:
    commands = [lines[0] for kind, lines in cell["commands"].items() if kind in ("ufw", "look")]
    return str(cell["request"]) + (f" ({commands[0]})" if commands else "")


def _cell(
    check: Check, answers: _Answers, links: Mapping[str, Any], members: set[str], overlay_mtu: int
) -> tuple[dict[str, Any], int | None]:
    mtu = None
    if check.proto == "tcp":
        found = _tcp(check, answers)
    elif check.sizes:
        found, mtu = _sized(check, answers)
    else:
        found = _packet(check, 0, answers)
    expected = check.receiver in members and check.port in (MANAGER_PORT, GOSSIP_PORT)
    if found.verdict == "ok" and expected:
        listening = answers.port(check.receiver, check.proto, check.port)
        if listening and (listening["own"] if check.proto == "tcp" else not listening["by"]):
            reason = f"{check.receiver} is in a swarm, and nothing listens there on {_what(check.proto, check.port)}"
            found = _Verdict("nobody-listening", reason, found.ms)
    kind = "mtu" if found.verdict.startswith("mtu-") else found.verdict
    if found.verdict == "too-large":
        kind, found = "mtu", found._replace(verdict=f"mtu-{min(check.sizes)}")
    level, note = _level(check, found, kind, mtu, answers, links, overlay_mtu)
    who = WHO.get(kind, "")
    cell: dict[str, Any] = {
        "proto": check.proto,
        "port": check.port,
        "why": check.why,
        "verdict": found.verdict,
        "name": "",
        "level": level,
        "evidence": found.evidence + note,
        "request": "",
        "who": who,
        "host": {"sender": check.sender, "receiver": check.receiver}.get(who, ""),
        "commands": {},
        "ms": found.ms,
    }
    if found.verdict != "ok":
        cell["name"] = (
            "link-reverse-path"
            if found.reverse_path
            else "link-route-refused"
            if found.refused
            else _NAMES.get(kind, f"link-{check.proto}-{kind}")
        )
        cell["request"] = _request(check, found, answers)
        cell["commands"] = _advice(check, found, answers)
    return cell, mtu


def _level(
    check: Check, found: _Verdict, kind: str, mtu: int | None, answers: _Answers, links: Mapping[str, Any], overlay_mtu: int
) -> tuple[str, str]:
    """Return how bad a verdict is, and what to add to its evidence."""
    if kind == "ok":
        return "ok", ""
    if kind == "not-measured":
        return "unknown", ""
    if kind == "late":
        return "note", "; if a firewall lets it in as an answer only, it will fail after minutes of silence"
    if kind == "mtu":
        return ("fault" if overlay_mtu and (mtu or 0) < overlay_mtu else "note"), ""
    if check.proto == "vxlan" and links["encrypted"]:
        # Encrypted, VXLAN travels inside ESP only: on the wire it may be closed, behind IPsec the receiver's INPUT rules still see it.
        for name, verdict in ((check.sender, "sender-filter"), (check.receiver, "receiver-filter")):
            if kind == verdict and (answers.listened.get(name) or {}).get("guards"):
                return "note", f"; the table of {name} that lets VXLAN pass only with IPsec does so, as it must"
        if kind != "receiver-filter":
            return "note", "; with an encrypted overlay this may stay closed"
    return "fault", ""


def _requests(pairs: Iterable[Mapping[str, Any]], answers: _Answers) -> list[dict[str, Any]]:
    """Put the requests of a pair to the same party together."""
    merged: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    for pair in pairs:
        for cell in pair["checks"]:
            if cell["level"] != "fault":
                continue
            party = cell["who"], pair["from"], pair["to"], cell["verdict"] + cell["name"] * (cell["name"] in _SAME_CAUSE)
            entry = merged.setdefault(
                party,
                {
                    "who": cell["who"], "host": cell["host"], "from": pair["from"], "to": pair["to"], "verdict": cell["verdict"],
                    "names": [], "whats": [], "text": cell["request"],
                },
            )  # fmt: skip
            entry["names"] += [cell["name"]] if cell["name"] not in entry["names"] else []
            entry["whats"].append(_what(cell["proto"], cell["port"]))
    result = []
    for entry in merged.values():
        whats = list(dict.fromkeys(entry.pop("whats")))
        if len(whats) > 1:
            entry["text"] = entry["text"].replace(whats[0], ", ".join(whats[:-1]) + " and " + whats[-1], 1)
        result.append(entry)
    return result
