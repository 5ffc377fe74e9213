# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a federation needs opened and closed on a host, and the text of every file that says so. Nothing here looks at a host.

Two layers. The *input rules* go into the host's own firewall (ufw or firewalld), where a packet must be accepted to arrive. The
*guard* is an nftables table of our own: a drop in any table is final and an accept is not, so that it can only restrict, and it
does so before Docker's address translation, which takes published ports past every host firewall.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union
from xml.sax.saxutils import escape, quoteattr

NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
BACKENDS = ("ufw", "firewalld", "nftables", "none")

MANAGEMENT_PORT = 2377
GOSSIP_PORT = 7946
#: The bridge over which the engine's containers leave the overlay.
GATEWAY_BRIDGE = "docker_gwbridge"

NFT = "/usr/sbin/nft"
_MARK = "Written by hbp.mip"

#: what the guard needs of the kernel beyond tables of the family inet, each with a rule that shows it and the hook it runs at
FEATURES = {
    "fib": ("prerouting", "fib daddr type local drop"),
    "ipsec": ("prerouting", "udp dport 9 meta ipsec missing drop"),
    "owner": ("output", "udp dport 9 meta skuid >= 0 drop"),
    "conntrack": ("prerouting", "ct direction reply accept"),
}


class ConfigError(Exception):
    """The options contradict themselves or cannot be carried out."""


class Peer(NamedTuple):
    """Another member of the swarm."""

    name: str
    address: str


class Published(NamedTuple):
    """A port of this host that only named addresses may reach."""

    port: int
    proto: str
    allow: Tuple[str, ...]
    why: str


class Rule(NamedTuple):
    """Something that may come in. `port` is 0 for ESP; `sources` are addresses and networks, `peers` when it is all peers.

    With `interface`, whatever comes in there may.
    """

    proto: str
    port: int
    sources: Tuple[str, ...]
    peers: bool
    why: str
    interface: str = ""


class Settings(NamedTuple):
    """All that is wanted of one host; see the options of the module."""

    name: str
    kind: str = "worker"
    manager: bool = False
    address: str = ""
    peers: Tuple[Peer, ...] = ()
    data_path_port: int = 4789
    encrypted: bool = True
    published: Tuple[Published, ...] = ()
    ipsec_others: Tuple[str, ...] = ()
    from_containers: Tuple[int, ...] = ()

    @property
    def member(self) -> bool:
        """Whether the host belongs to the swarm; the ui node does not."""
        return self.kind != "ui"

    @property
    def managing(self) -> bool:
        """Whether the host is a manager of the swarm."""
        return self.kind == "master" or (self.manager and self.member)

    @property
    def guarded(self) -> bool:
        """Whether there is anything to guard on this host."""
        return self.member or bool(self.published)


def _ipv4(text: Any, where: str, errors: List[str]) -> str:
    try:
        return str(ipaddress.IPv4Address(str(text)))
    except ValueError:
        errors.append("%s: %r is not an IPv4 address" % (where, text))
        return ""


def _networks(entries: Iterable[Any], where: str, errors: List[str]) -> Tuple[str, ...]:
    """The entries as few networks as possible, sorted; an address is written without its /32."""
    found = []
    for entry in entries:
        try:
            found.append(ipaddress.IPv4Network(str(entry)))
        except ValueError as error:
            errors.append("%s: %r is neither an IPv4 address nor an IPv4 network (%s)" % (where, entry, error))
    return tuple(str(item.network_address) if item.prefixlen == 32 else str(item) for item in ipaddress.collapse_addresses(found))


def _port(value: Any, where: str, errors: List[str]) -> int:
    if isinstance(value, int) and 1 <= value <= 65535:
        return value
    errors.append("%s: %r is not a port (1 to 65535)" % (where, value))
    return 0


def settings(options: Mapping[str, Any]) -> Settings:
    """The settings in the module's options. Raises ConfigError with everything that is wrong with them."""
    errors: List[str] = []
    name = str(options["name"])
    if not NAME.fullmatch(name):
        errors.append("name: %r is not a federation's name; use lower-case letters, digits and hyphens, a letter first" % name)
    address = _ipv4(options["address"], "address", errors) if options.get("address") else ""
    peers: Dict[str, Peer] = {}
    for index, item in enumerate(options.get("peers") or []):
        where = "peers[%d] (%s)" % (index, item.get("name"))
        found = _ipv4(item.get("address"), where, errors)
        if found in peers and found:
            errors.append("%s: %s is also the address of %s" % (where, found, peers[found].name))
        elif found and found != address:
            peers[found] = Peer(str(item.get("name")), found)
    kind = str(options.get("kind") or "worker")
    data_path_port = _port(options.get("data_path_port", 4789), "data_path_port", errors)
    if data_path_port == GOSSIP_PORT:
        errors.append("data_path_port: %d is the swarm's gossip port" % GOSSIP_PORT)
    reserved = {("tcp", MANAGEMENT_PORT), ("tcp", GOSSIP_PORT), ("udp", GOSSIP_PORT), ("udp", data_path_port)} if kind != "ui" else set()
    published: Dict[Tuple[int, str], Published] = {}
    for index, item in enumerate(options.get("published") or []):
        where = "published[%d]" % index
        proto = str(item.get("proto") or "tcp")
        port = _port(item.get("port"), where, errors)
        if (proto, port) in reserved:
            errors.append("%s: %d/%s is a port of the swarm itself" % (where, port, proto))
        if (port, proto) in published:
            errors.append("%s: %d/%s is there twice; put all addresses in one entry" % (where, port, proto))
        allow = _networks(item.get("allow") or (), where + ".allow", errors)
        published[port, proto] = Published(port, proto, allow, str(item.get("why") or "published port"))
    others = []
    for entry in options.get("ipsec_others") or ():
        try:
            others.append(str(ipaddress.ip_address(str(entry))))
        except ValueError:
            errors.append("ipsec_others: %r is not an IP address" % entry)
    containers = tuple(sorted({_port(port, "from_containers", errors) for port in options.get("from_containers") or ()}))
    if errors:
        raise ConfigError("; ".join(errors))
    return Settings(
        name=name,
        kind=kind,
        manager=bool(options.get("manager")),
        address=address,
        peers=tuple(sorted(peers.values(), key=lambda peer: ipaddress.IPv4Address(peer.address))),
        data_path_port=data_path_port,
        encrypted=bool(options.get("encrypted", True)),
        published=tuple(published[key] for key in sorted(published)),
        ipsec_others=tuple(sorted(set(others))),
        from_containers=containers,
    )


def to_json(wanted: Settings) -> Dict[str, Any]:
    """The settings as plain data, for the host's own record."""
    found: Dict[str, Any] = dict(wanted._asdict())
    found["peers"] = [dict(peer._asdict()) for peer in wanted.peers]
    found["published"] = [dict(item._asdict(), allow=list(item.allow)) for item in wanted.published]
    found["ipsec_others"] = list(wanted.ipsec_others)
    found["from_containers"] = list(wanted.from_containers)
    return found


# --- rules

_STORE = "the local data store, for the engine"


def rules(wanted: Settings) -> List[Rule]:
    """What may come in, and why; everything else that the guard names is closed."""
    found: List[Rule] = []
    peers = tuple(peer.address for peer in wanted.peers)
    if wanted.member:
        if wanted.managing:
            found.append(Rule("tcp", MANAGEMENT_PORT, peers, True, "swarm management"))
        found.append(Rule("tcp", GOSSIP_PORT, peers, True, "gossip of the swarm"))
        found.append(Rule("udp", GOSSIP_PORT, peers, True, "gossip of the swarm"))
        if wanted.encrypted:
            found.append(Rule("esp", 0, peers, True, "encrypted overlay"))
            why = "overlay data, only when it came out of ESP"
        else:
            why = "overlay data, NOT ENCRYPTED"
        found.append(Rule("udp", wanted.data_path_port, peers, True, why))
    found += [Rule(item.proto, item.port, item.allow, False, item.why) for item in wanted.published]
    found += [Rule("tcp", port, (), False, _STORE, GATEWAY_BRIDGE) for port in wanted.from_containers]
    return found


def blocked(wanted: Settings, port: int, source: str) -> str:
    """Why the guard would drop a TCP connection to `port` from the address `source`; an empty string when it would not."""
    address = ipaddress.ip_address(source)
    if address.is_loopback:
        return ""
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    from_peer = str(address) in {peer.address for peer in wanted.peers}
    if wanted.member and port in (MANAGEMENT_PORT, GOSSIP_PORT):
        if address.version == 6:
            return "TCP port %d is closed over IPv6" % port
        if port == MANAGEMENT_PORT and not wanted.managing:
            return "TCP port %d is closed on a node that is no manager" % port
        return "" if from_peer else "TCP port %d is open to the peers only" % port
    for item in wanted.published:
        if item.proto == "tcp" and item.port == port:
            if address.version == 6:
                return "TCP port %d is closed over IPv6" % port
            if not any(address in ipaddress.ip_network(entry) for entry in item.allow):
                return "TCP port %d is open to %s only" % (port, ", ".join(item.allow) or "nobody")
    return ""


def report(wanted: Settings, backend: str) -> List[Dict[str, Any]]:
    """The rules for people and reports: what is open to whom and why, and what the guard closes."""
    names = {peer.address: peer.name for peer in wanted.peers}
    layers = ([backend] if backend in ("ufw", "firewalld") else []) + ["guard"]
    found: List[Dict[str, Any]] = []
    for rule in rules(wanted):
        senders = ["%s (%s)" % (names[source], source) if source in names else source for source in rule.sources]
        if rule.interface:
            senders = ["containers on this host (%s)" % rule.interface]
        found.append(
            {"action": "allow", "proto": rule.proto, "port": rule.port, "from": senders, "why": rule.why, "enforced_by": list(layers)}
        )
    for proto, port, who, why, _statement in _drops(wanted, frozenset(FEATURES)):
        found.append({"action": "drop", "proto": proto, "port": port, "from": [who], "why": why, "enforced_by": ["guard"]})
    return found


def lines(wanted: Settings, backend: str) -> List[str]:
    """The rules as a short readable list, a line each, for a diff."""
    found = ["host firewall: %s" % backend]
    found += ["peer %s %s" % (peer.name, peer.address) for peer in wanted.peers]
    for rule in rules(wanted):
        what = "esp" if rule.proto == "esp" else "%d/%s" % (rule.port, rule.proto)
        whom = "the peers" if rule.peers else rule.interface or (", ".join(rule.sources) or "nobody")
        found.append("allow %s from %s (%s)" % (what, whom, rule.why))
    for proto, port, who, why, _statement in _drops(wanted, frozenset(FEATURES)):
        found.append("drop %s from %s (%s)" % ("%d/%s" % (port, proto) if port else proto, who, why))
    return found


# --- the guard


def table(name: str) -> str:
    """Name of the federation's nftables table. A hyphen is no character of an identifier in every version of nft."""
    return "mip_" + name.replace("-", "_")


def _allowed(item: Published) -> str:
    return "allowed_%s_%d" % (item.proto, item.port)


def _set(name: str, elements: Sequence[str], kind: str = "ipv4_addr") -> List[str]:
    # interval sets are listed in order, so that what is loaded can be compared
    found = ["  set %s {" % name, "    type %s" % kind, "    flags interval"]
    if elements:
        found.append("    elements = { %s }" % ", ".join(elements))
    return [*found, "  }"]


Drop = Tuple[str, int, str, str, str]


def _drops(wanted: Settings, features: "frozenset[str]") -> List[Drop]:
    """What the guard drops as it comes in: protocol, port, from whom, why, and the nft statement without its verdict."""
    found: List[Drop] = []
    port = wanted.data_path_port
    if wanted.member:
        if wanted.encrypted:
            if "ipsec" in features:
                # after decryption a packet passes prerouting a second time, then with the mark that is looked for here
                clear = "udp dport %d meta ipsec missing" % port
                found.append(("udp", port, "anyone", "VXLAN that did not come through IPsec", clear))
            senders = "the peers and other IPsec partners" if wanted.ipsec_others else "the peers"
            found.append(("esp", 0, "anyone but " + senders, "ESP of strangers", "ip saddr != @esp_senders meta l4proto esp"))
            others = [entry for entry in wanted.ipsec_others if ":" in entry]
            six = "ip6 saddr != @esp_senders6 meta l4proto esp" if others else "meta nfproto ipv6 meta l4proto esp"
            found.append(("esp", 0, "anyone over IPv6" + (" but other IPsec partners" if others else ""), "IPv6 is closed", six))
        stranger = "anyone but the peers"
        found.append(("udp", port, stranger, "overlay data", "ip saddr != @peers udp dport %d" % port))
        for proto in ("udp", "tcp"):
            found.append((proto, GOSSIP_PORT, stranger, "gossip of the swarm", "ip saddr != @peers %s dport %d" % (proto, GOSSIP_PORT)))
        if wanted.managing:
            found.append(("tcp", MANAGEMENT_PORT, stranger, "swarm management", "ip saddr != @peers tcp dport %d" % MANAGEMENT_PORT))
        else:
            found.append(("tcp", MANAGEMENT_PORT, "anyone", "this node is no manager", "tcp dport %d" % MANAGEMENT_PORT))
        for proto, ports in (("tcp", (MANAGEMENT_PORT, GOSSIP_PORT)), ("udp", (port, GOSSIP_PORT))):
            for closed in ports:
                if (proto, closed) != ("tcp", MANAGEMENT_PORT) or wanted.managing:
                    text = "meta nfproto ipv6 %s dport %d" % (proto, closed)
                    found.append((proto, closed, "anyone over IPv6", "IPv6 is closed", text))
    for item in wanted.published:
        text = "ip saddr != @%s %s dport %d" % (_allowed(item), item.proto, item.port)
        found.append((item.proto, item.port, "anyone but the allowed", item.why, text))
        text = "meta nfproto ipv6 %s dport %d" % (item.proto, item.port)
        found.append((item.proto, item.port, "anyone over IPv6", "IPv6 is closed", text))
    return found


def guard(wanted: Settings, features: Iterable[str] = tuple(FEATURES)) -> str:
    """The guard as a file for nft, which replaces the table in one step; `features` are those that the kernel has."""
    able = frozenset(features)
    name = table(wanted.name)
    text = [
        "# %s for the federation %s; it is overwritten." % (_MARK, wanted.name),
        "# Docker's published ports pass by the host's firewall: this table looks at packets before Docker translates them.",
        "table inet %s" % name,
        "delete table inet %s" % name,
        "table inet %s {" % name,
    ]
    if wanted.member:
        peers = [peer.address for peer in wanted.peers]
        text += _set("peers", peers)
        if wanted.encrypted:
            four = [entry for entry in wanted.ipsec_others if ":" not in entry]
            text += _set("esp_senders", sorted({*peers, *four}, key=ipaddress.IPv4Address))
            six = [entry for entry in wanted.ipsec_others if ":" in entry]
            if six:
                text += _set("esp_senders6", six, "ipv6_addr")
    for item in wanted.published:
        text += _set(_allowed(item), item.allow)
    text += ["  chain prerouting {", "    type filter hook prerouting priority -150; policy accept;", '    iif "lo" accept']
    if "fib" in able:
        text.append("    fib daddr type != local accept")
    replies = "conntrack" in able and bool(wanted.published)
    for proto, port, who, why, statement in _drops(wanted, able):
        if replies and (port, proto) in {(item.port, item.proto) for item in wanted.published}:
            # answers to what this host or its containers asked from such a port
            text.append("    ct direction reply accept")
            replies = False
        text.append('    %s counter drop comment "%s: %s, from %s"' % (statement, port or proto, why.replace('"', "'")[:60], who))
    text.append("  }")
    if wanted.member and wanted.encrypted and "owner" in able:
        text += [
            "  chain output {",
            "    type filter hook output priority -160; policy accept;",
            # The kernel's VXLAN has no owner. Engines before 25.0.19 and 29.8.2 encrypt what any process sends here (CVE-2026-92542).
            "    ip daddr @peers udp dport %d meta skuid >= 0 counter drop" % wanted.data_path_port
            + ' comment "%d: VXLAN of a process, to the peers"' % wanted.data_path_port,
            "  }",
        ]
    return "\n".join([*text, "}", ""])


def no_guard(name: str) -> str:
    """What nft is given to remove the guard, whether it is loaded or not."""
    return "table inet %s\ndelete table inet %s\n" % (table(name), table(name))


def feature_probe(feature: str) -> str:
    """A table that can be loaded only by a kernel that has the feature."""
    hook, rule = FEATURES[feature]
    return "table inet mip_probe {\n  chain c {\n    type filter hook %s priority 0;\n    %s\n  }\n}\n" % (hook, rule)


# --- units


def guard_unit(name: str, path: str) -> str:
    """The unit that loads the guard before there is a network, and so before Docker."""
    return """# %(mark)s for the federation %(name)s; it is overwritten.
[Unit]
Description=Guard of the ports of the MIP federation %(name)s
DefaultDependencies=no
RequiresMountsFor=%(path)s
ConditionPathExists=%(path)s
After=nftables.service
Wants=network-pre.target
Before=network-pre.target docker.service shutdown.target
Conflicts=shutdown.target
StartLimitIntervalSec=0

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=%(nft)s -f %(path)s
ExecReload=%(nft)s -f %(path)s
ExecStop=-%(nft)s delete table inet %(table)s

[Install]
WantedBy=multi-user.target
""" % {"mark": _MARK, "name": name, "path": path, "nft": NFT, "table": table(name)}


def nftables_dropin(name: str, path: str) -> str:
    """Loads the guard again whenever nftables.service flushed all tables: at its start, stop and reload."""
    command = "-%s -f %s" % (NFT, path)
    return "# %s for the federation %s; it is overwritten.\n[Service]\nExecStartPost=%s\nExecStopPost=%s\nExecReload=%s\n" % (
        _MARK,
        name,
        command,
        command,
        command,
    )


def rollback_unit(name: str, folder: str) -> str:
    """The unit that takes an unconfirmed change back at the next boot, before anything reads it."""
    return """# %(mark)s for the federation %(name)s; it is overwritten.
[Unit]
Description=Take back an unconfirmed change of the firewall of the MIP federation %(name)s
DefaultDependencies=no
RequiresMountsFor=%(folder)s
ConditionPathExists=%(folder)s/pending/rollback.sh
After=local-fs.target
Wants=network-pre.target
Before=mip-firewall-%(name)s.service nftables.service ufw.service firewalld.service network-pre.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
ExecStart=/bin/sh %(folder)s/pending/rollback.sh boot

[Install]
WantedBy=multi-user.target
""" % {"mark": _MARK, "name": name, "folder": folder}


# --- ufw


_TUPLE = re.compile(r"### tuple ### .* comment=([0-9a-f]+)\s*$")


def _ufw_mark(name: str) -> str:
    return "mip %s: " % name


def ufw_rules(wanted: Settings) -> List[Tuple[str, str]]:
    """The input rules as ufw keeps them: pairs of its own description (tuple) and the rule for iptables.

    The format is that of ufw 0.36 (backend_iptables.py, `_write_rules`); ufw reads the tuples and writes both again.
    """
    found: List[Tuple[str, str]] = []
    for sources, by_proto, why in _by_sources(wanted):
        comment = (_ufw_mark(wanted.name) + why).encode("utf-8").hex()
        for source in sources:
            for proto, ports in by_proto:
                port = ",".join(str(number) for number in ports) or "any"
                match = "-p %s" % proto
                if len(ports) > 1:
                    match += " -m multiport --dports %s" % port
                elif ports:
                    match += " --dport %s" % port
                origin = "" if source == "0.0.0.0/0" else " -s %s" % source
                described = "### tuple ### allow %s %s 0.0.0.0/0 any %s in comment=%s" % (proto, port, source, comment)
                found.append((described, "-A ufw-user-input %s%s -j ACCEPT" % (match, origin)))
    for rule in rules(wanted):
        if rule.interface:
            comment = (_ufw_mark(wanted.name) + rule.why).encode("utf-8").hex()
            what = (rule.proto, rule.port, rule.interface, comment)
            described = "### tuple ### allow %s %d 0.0.0.0/0 any 0.0.0.0/0 in_%s comment=%s" % what
            accept = "-A ufw-user-input -i %s -p %s --dport %d -j ACCEPT" % (rule.interface, rule.proto, rule.port)
            found.append((described, accept))
    return found


def _by_sources(wanted: Settings) -> List[Tuple[Tuple[str, ...], List[Tuple[str, List[int]]], str]]:
    """The rules joined: for the peers a rule for each protocol, for a published port one."""
    peers: Dict[str, List[int]] = {}
    found = []
    for rule in rules(wanted):
        if rule.peers:
            peers.setdefault(rule.proto, [])
            if rule.port:
                peers[rule.proto].append(rule.port)
    if peers:
        joined = [(proto, sorted(ports)) for proto, ports in peers.items()]
        found.append((tuple(peer.address for peer in wanted.peers), joined, "peer"))
    for item in wanted.published:
        found.append((item.allow, [(item.proto, [item.port])], item.why))
    return found


def ufw_file(text: str, name: str, wanted: Sequence[Tuple[str, str]]) -> str:
    """ufw's user.rules with exactly `wanted` as the federation's rules, ahead of all others. Raises ConfigError.

    Ours come first, because ufw takes the first rule that matches, and a `deny` of a whole network is common in a hospital.
    """
    kept: List[str] = []
    skipping = False
    for line in text.split("\n"):
        found = _TUPLE.match(line)
        if found:
            try:
                ours = bytes.fromhex(found.group(1)).decode("utf-8", "replace").startswith(_ufw_mark(name))
            except ValueError:
                ours = False
            if ours:
                # the blank line before the tuple belongs to it
                if kept and not kept[-1]:
                    kept.pop()
                skipping = True
                continue
        if skipping and line.startswith("-A "):
            continue
        skipping = False
        kept.append(line)
    if wanted:
        try:
            start = kept.index("### RULES ###") + 1
        except ValueError:
            raise ConfigError("ufw's user.rules has no line '### RULES ###', so that it is not a file of ufw. Try: ufw status") from None
        block: List[str] = []
        for described, rule in wanted:
            block += ["", described, rule]
        kept[start:start] = block
    return "\n".join(kept)


# --- firewalld


def firewalld_name(name: str) -> str:
    """Name of the policy and the ipset; firewalld allows 17 characters."""
    short = "mip-" + name
    return short if len(short) <= 17 else "mip-%s-%s" % (name[:7].rstrip("-"), hashlib.sha256(name.encode()).hexdigest()[:5])


def firewalld_ipset(wanted: Settings) -> str:
    """The peers as a permanent ipset of firewalld."""
    text = [
        '<?xml version="1.0" encoding="utf-8"?>',
        '<ipset type="hash:ip">',
        "  <short>MIP federation %s</short>" % escape(wanted.name),
        "  <description>%s; it is overwritten.</description>" % _MARK,
        '  <option name="family" value="inet"/>',
    ]
    text += ["  <entry>%s</entry>" % peer.address for peer in wanted.peers]
    return "\n".join([*text, "</ipset>", ""])


def _rich(wanted: Settings) -> List[Tuple[Tuple[str, str], str, int]]:
    found: List[Tuple[Tuple[str, str], str, int]] = []
    for rule in rules(wanted):
        sources = [("ipset", firewalld_name(wanted.name))] if rule.peers else [("address", source) for source in rule.sources]
        found += [(source, rule.proto, rule.port) for source in sources]
    return found


def firewalld_policy(wanted: Settings) -> str:
    """The input rules as a permanent policy of firewalld from anywhere to this host.

    A policy and not a zone: a zone with sources would take the peers out of the zone that they are in, together with all that
    the host's administrator has opened there for them, such as SSH or monitoring. A policy is looked at before the zones and
    only adds. firewalld has policies since 0.9.
    """
    text = [
        '<?xml version="1.0" encoding="utf-8"?>',
        '<policy target="CONTINUE" priority="-10">',
        "  <short>MIP federation %s</short>" % escape(wanted.name),
        "  <description>%s; it is overwritten.</description>" % _MARK,
        '  <ingress-zone name="ANY"/>',
        '  <egress-zone name="HOST"/>',
    ]
    for (key, value), proto, port in _rich(wanted):
        what = '<port port="%d" protocol="%s"/>' % (port, proto) if port else '<protocol value="%s"/>' % proto
        text += ['  <rule family="ipv4">', "    <source %s=%s/>" % (key, quoteattr(value)), "    " + what, "    <accept/>", "  </rule>"]
    return "\n".join([*text, "</policy>", ""])


def firewalld_rich_rules(wanted: Settings) -> List[str]:
    """The same rules as firewalld's running policy lists them."""
    found = []
    for (key, value), proto, port in _rich(wanted):
        what = 'port port="%d" protocol="%s"' % (port, proto) if port else 'protocol value="%s"' % proto
        found.append('rule family="ipv4" source %s="%s" %s accept' % (key, value, what))
    return found


# --- what the administrator of another filter has to add


def requests(wanted: Settings) -> List[str]:
    """The input rules as lines for a hand-made input chain of nftables."""
    found = []
    for rule in rules(wanted):
        if rule.sources:
            what = "meta l4proto esp" if rule.proto == "esp" else "%s dport %d" % (rule.proto, rule.port)
            found.append("ip saddr { %s } %s accept" % (", ".join(rule.sources), what))
        elif rule.interface:
            found.append('iifname "%s" %s dport %d accept' % (rule.interface, rule.proto, rule.port))
    return found


#: a file or a link of the file set: its content, the target of a link as text, or None for "not there"
Content = Optional[Union[bytes, str]]
