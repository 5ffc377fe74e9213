# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pure rules about a host's network, names and packet filter; a part of `_gates`."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ansible_collections.hbp.mip.plugins.module_utils._gates import Findings, Wanted

GOSSIP_PORT, MANAGER_PORT, ENGINE_PORT = 7946, 2377, 9090
# the engine's own bridges when nobody chose other networks: docker0 takes the first, docker_gwbridge the next
_BRIDGES = ("172.17.0.0/16", "172.18.0.0/16")
_ENGINE_DEVICES = ("docker0", "docker_gwbridge", "br-")
# organisations and products that sign certificates in the place of a server
_INTERCEPTORS = (
    "zscaler", "fortinet", "fortigate", "palo alto", "sophos", "netskope", "forcepoint", "websense", "skyhigh", "mcafee", "trellix",
    "check point", "checkpoint", "watchguard", "blue coat", "bluecoat", "symantec web", "barracuda", "kaspersky", "bitdefender", "eset ",
    "cisco umbrella", "cisco secure", "sonicwall", "stormshield", "squid", "mitmproxy", "proxy", "inspection", "decrypt", "firewall",
    "gateway", "avast", "untangle", "smoothwall", "iboss", "menlo", "clearswift",
)  # fmt: skip
_SLOW_DNS_MS = 2000
_REFUSED_CODES = (2, 5)  # the server itself failed, or will not answer this host


def judge(facts: dict[str, Any], wanted: Wanted, found: Findings) -> None:
    """Add what is wrong with a node's network to `found`."""
    _cards(facts, wanted, found)
    _peers(facts, wanted, found)
    _names(facts, found)
    _registry(facts, found)
    _proxy(facts, wanted, found)
    _forwarding(facts, found)
    _filter(facts, found)
    _overlay_port(facts, wanted, found)


def _cards(facts: dict[str, Any], wanted: Wanted, found: Findings) -> None:
    for item in facts["interfaces"]:
        if item["address"] != wanted.address:
            continue
        name = item["interface"]
        address = ipaddress.ip_address(wanted.address)
        if address.is_loopback or address.is_link_local or name.startswith(_ENGINE_DEVICES):
            found.problem(
                "address-unusable",
                "%s on %s reaches this host only from itself%s" % (wanted.address, name, " and its cable" if address.is_link_local else ""),
                "set mip_address to an address of this host that all the other nodes reach",
            )
            continue
        device = facts["devices"].get(name)
        if device and not device["up"]:
            found.problem(
                "interface-down",
                "the network card %s, which has %s, is down or has no cable" % (name, wanted.address),
                "ip link show %s; then sudo ip link set %s up, or plug in the cable" % (name, name),
            )


def _peers(facts: dict[str, Any], wanted: Wanted, found: Findings) -> None:
    """The other nodes' addresses must not lie where containers' networks are or will be."""
    peers = [ipaddress.ip_address(peer) for peer in wanted.peers if peer != wanted.address]
    planned = [("mip_overlay.subnet", wanted.overlay_subnet)] if wanted.overlay_subnet else []
    planned += [("mip_swarm.address_pools", pool) for pool in wanted.address_pools]
    for option, text in planned:
        subnet = ipaddress.ip_network(text, strict=False)
        inside = [str(peer) for peer in peers if peer.version == subnet.version and peer in subnet]
        if inside:
            found.problem(
                "subnet-collision",
                "%s %s contains the address of the node %s; containers could no longer reach it" % (option, subnet, ", ".join(inside)),
                "choose another network for %s, for example from 100.64.0.0/10 or 198.18.0.0/15" % option,
            )
    fix = (
        'give the engine\'s bridges another network: "bip" and "default-address-pools" in /etc/docker/daemon.json (mip_docker.options), '
        "for example 100.65.0.1/24; then restart the engine"
    )
    own = [
        (ipaddress.ip_network(route["destination"], strict=False), route["interface"])
        for route in facts["routes"]
        if not route["destination"].endswith("/0")
    ]
    for peer in peers:
        over = [(net.prefixlen, device) for net, device in own if net.version == peer.version and peer in net]
        device = max(over)[1] if over else ""
        if device.startswith(_ENGINE_DEVICES):
            found.problem("bridge-collision", "the node %s is in the network of this host's own bridge %s" % (peer, device), fix)
        elif not facts["docker"]["running"] and not facts["docker"].get("own_networks") and not over:
            taken = [net for net in _BRIDGES if peer in ipaddress.ip_network(net)]
            if taken:
                found.warning(
                    "bridge-collision",
                    "the node %s is in %s, which the engine takes for its own bridge unless told otherwise" % (peer, taken[0]),
                    fix,
                )


def _names(facts: dict[str, Any], found: Findings) -> None:
    asked = facts["dns"]
    registry = facts["registry"]
    by_name = bool(registry) and not _is_address(registry["host"])
    report = found.problem if by_name else found.warning
    if not asked:
        if by_name and not registry["resolved"]:
            report(
                "dns-none", "no name server is set in /etc/resolv.conf", "enter the hospital's name servers (resolvectl dns, or netplan)"
            )
        return
    # a server's host that says "nothing listens here" is no answer either
    silent = [item["server"] for item in asked if item["ms"] is None]
    refusing = [item["server"] for item in asked if item["ms"] is not None and item["code"] in _REFUSED_CODES]
    slow = [item["server"] for item in asked if item["ms"] is not None and item["ms"] > _SLOW_DNS_MS]
    fix = "try it: dig @%s example.org; correct /etc/resolv.conf (resolvectl dns), or let UDP and TCP port 53 to it pass"
    if len(silent) == len(asked):
        report(
            "dns-silent",
            "no name server answers (%s); every look-up of a name waits until it gives up" % ", ".join(silent),
            fix % silent[0],
        )
    elif silent:
        found.warning(
            "dns-slow",
            "the name server %s does not answer, so look-ups may wait seconds for the next one" % ", ".join(silent),
            fix % silent[0],
        )
    elif slow:
        found.warning("dns-slow", "the name server %s needs more than two seconds for an answer" % ", ".join(slow), fix % slow[0])
    elif len(refusing) == len(asked) and by_name:
        found.warning("dns-refuses", "the name server %s answers with a failure" % ", ".join(refusing), fix % refusing[0])


def _registry(facts: dict[str, Any], found: Findings) -> None:
    registry = facts["registry"]
    if not registry:
        return
    where = "%s:%d" % (registry["host"], registry["port"])
    if not registry["resolved"]:
        found.problem(
            "registry-unresolved",
            "the name of the images' registry, %s, is not known here: %s" % (registry["host"], registry["error"]),
            "getent hosts %s; correct the name servers, or the images' names in the inventory" % registry["host"],
        )
    elif not registry["connected"]:
        found.problem(
            "registry-unreachable",
            "the images' registry does not answer on TCP %s: %s" % (where, registry["error"]),
            "allow TCP %d from this host to %s; behind a proxy, set it for the engine (docs/findings.md)"
            % (registry["port"], registry["host"]),
        )
    elif registry["tls"]:
        _certificate(registry, where, found)


def _certificate(registry: dict[str, Any], where: str, found: Findings) -> None:
    issuer = registry.get("issuer") or "somebody without a name"
    suspicious = any(word in issuer.lower() for word in _INTERCEPTORS)
    if registry.get("trusted"):
        if suspicious:
            found.warning(
                "registry-tls-intercepted",
                "the certificate of the registry %s was signed by '%s', which looks like a device that opens encrypted connections"
                % (where, issuer),
                "it works as long as this host trusts that device; better let the network team except %s" % registry["host"],
            )
        return
    # OpenSSL: 18 self-signed, 19 self-signed in the chain, 20 and 21 the issuer is not known
    if registry.get("verify_code") in (18, 19, 20, 21):
        text = "the certificate of the registry %s was signed by '%s', which this host does not trust (%s)" % (
            where,
            issuer,
            registry["reason"],
        )
        if suspicious or registry["host"] == "registry-1.docker.io":
            text += "; a device in between opens encrypted connections"
            code = "registry-tls-intercepted"
            fix = "let the network team except %s, or make this host trust the device's certificate" % registry["host"]
        else:
            code = "registry-tls-untrusted"
            fix = "if it is the registry's own authority"
        fix += ": sudo cp CA.crt /usr/local/share/ca-certificates/ && sudo update-ca-certificates && sudo systemctl restart docker"
        found.problem(code, text, fix)
        return
    reason = registry.get("reason") or "no reason given"
    fix = "openssl s_client -connect %s -servername %s" % (where, registry["host"])
    if registry.get("verify_code") in (9, 10):
        fix = "look at this host's clock (timedatectl), then at the certificate: " + fix
    found.problem("registry-tls", "the registry %s cannot be asked over TLS: %s" % (where, reason), fix)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def without_proxy(no_proxy: str, host: str) -> bool:
    """Whether NO_PROXY, as the engine reads it, exempts a host: names with their subdomains, addresses, networks or `*`."""
    for entry in no_proxy.lower().split(","):
        entry = entry.strip()
        name, _separator, port = entry.rpartition(":")
        if port.isdigit() and ":" not in name:
            entry = name
        if entry == "*":
            return True
        if not entry:
            continue
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:
            bare = entry.lstrip(".")
            if host.lower() == bare or host.lower().endswith("." + bare):
                return True
    return False


def _proxy(facts: dict[str, Any], wanted: Wanted, found: Findings) -> None:
    proxy = facts["docker"].get("proxy") or {}
    used = proxy.get("https") or proxy.get("http")
    if not used:
        return
    needed = [peer for peer in [wanted.address, *wanted.peers] if peer]
    uncovered = [peer for peer in dict.fromkeys(needed) if not without_proxy(proxy["no_proxy"], peer)]
    if uncovered:
        entries = [entry for entry in proxy["no_proxy"].split(",") if entry] + uncovered
        found.warning(
            "docker-proxy",
            "the engine asks through the proxy %s, and NO_PROXY does not except the nodes %s"
            % (used, ", ".join(uncovered[:5]) + (" and %d more" % (len(uncovered) - 5) if len(uncovered) > 5 else "")),
            "sudo systemctl edit docker: [Service] Environment=NO_PROXY=%s; then restart the engine" % ",".join(entries),
        )


def _forwarding(facts: dict[str, Any], found: Findings) -> None:
    state, docker = facts["forwarding"], facts["docker"]
    if not state:
        return
    again = "sudo sysctl -w net.ipv4.ip_forward=1"
    if state["now"] is False and docker["running"]:
        found.problem(
            "forwarding-off",
            "net.ipv4.ip_forward is 0 although the engine runs: published ports and containers' way out do not work",
            again + ("; and correct %s" % state["off_at_boot"] if state["off_at_boot"] else "; see what turned it off (sysctl --system)"),
        )
    elif state["off_at_boot"]:
        found.warning(
            "forwarding-not-kept",
            "%s turns net.ipv4.ip_forward off whenever it is read, after the engine's start as well" % state["off_at_boot"],
            "set net.ipv4.ip_forward=1 there, then " + again,
        )


def _filter(facts: dict[str, Any], found: Findings) -> None:
    rules, docker = facts["packet_filter"], facts["docker"]
    if not rules:
        return
    if rules["nft"] and rules["legacy"]:
        found.warning(
            "iptables-mixed",
            "both iptables-nft and iptables-legacy hold rules here; both are applied, and after a reboot other ones than now",
            "see them: sudo iptables-nft-save; sudo iptables-legacy-save. Keep one (sudo update-alternatives --config iptables), empty the "
            "other, restart the engine",
        )
    managed = docker["running"] and docker.get("iptables", True) and docker.get("firewall_backend") != "nftables"
    if managed and rules["docker_chains"] is False:
        found.problem(
            "docker-rules-gone",
            "the engine's rules are no longer in the packet filter: something emptied it after the engine's start; published ports and "
            "containers' way out do not work",
            "sudo systemctl restart docker; and find what does it (systemctl restart nftables, iptables -F, a firewall's start)",
        )
    elif (
        managed
        and docker.get("ip_masq", True)
        and rules["masquerade"] is False
        and not {"docker0", "docker_gwbridge"}.isdisjoint(facts["devices"])
    ):
        found.problem(
            "masquerade-missing",
            "no rule gives containers' traffic to the outside this host's address (masquerade), so nothing answers it",
            "sudo systemctl restart docker; and find what removed the rule from nat POSTROUTING",
        )
    for chain in rules["forward_drop"]:
        if chain["table"] == "firewalld" or chain["table"].startswith("mip_"):
            continue
        where = "%s %s %s" % (chain["family"], chain["table"], chain["chain"])
        text = (
            "the nftables chain %s drops what is forwarded unless a rule of its own accepts it; what the engine accepts in its own" % where
        )
        fix = (
            "sudo nft list chain %s; accept there what goes to and comes from docker0 and docker_gwbridge, or set its policy to accept"
            % where
        )
        report = found.note if chain["rules"] else found.warning
        report("forward-drop", text + " table does not count", fix)


def _overlay_port(facts: dict[str, Any], wanted: Wanted, found: Findings) -> None:
    shared = [name for name, device in facts["devices"].items() if device["kind"] == "vxlan" and device["port"] == wanted.data_path_port]
    other = "set mip_swarm.data_path_port to another one, the same for the whole swarm; it can only be chosen when the swarm is made"
    if shared:
        found.warning(
            "vxlan-port-shared",
            "%s of other software uses the overlay's UDP port %d, too (%s)"
            % ("the VXLAN device" if len(shared) == 1 else "VXLAN devices", wanted.data_path_port, ", ".join(sorted(shared))),
            "see ip -d link show type vxlan; move that software to another port, or " + other,
        )
    if "vmware" in facts["hardware"].lower() and not wanted.encrypted and wanted.data_path_port == 4789:
        found.note(
            "vmware-vxlan",
            "this is a VMware guest; where VMware NSX runs, it takes UDP port 4789 for itself, and the overlay's data does not arrive",
            "if the links' check says so: " + other,
        )


def ports(facts: dict[str, Any], wanted: Wanted, found: Findings) -> None:
    """Ports of the swarm that another program has, on a node that is in no swarm yet."""
    needed = {("tcp", GOSSIP_PORT): "the nodes' gossip", ("udp", GOSSIP_PORT): "the nodes' gossip"}
    if "master" in wanted.kinds:
        needed[("tcp", MANAGER_PORT)] = "the swarm's managers"
        needed[("tcp", ENGINE_PORT)] = "the engine's API"
    _taken(facts, needed, found)


def overlay_port_taken(facts: dict[str, Any], wanted: Wanted, found: Findings) -> None:
    """A program on the overlay's port; the kernel's own socket there is that of the overlay itself, or of another VXLAN device."""
    _taken(facts, {("udp", wanted.data_path_port): "the overlay's data (VXLAN)"}, found)


def _taken(facts: dict[str, Any], needed: dict[tuple[str, int], str], found: Findings) -> None:
    for proto, port in sorted(needed, key=lambda key: (key[1], key[0])):
        users = [item for item in facts["sockets"] if (item["proto"], item["port"]) == (proto, port) and not item["kernel"]]
        if users:
            programs = sorted({"%s, process %d" % (item["program"], item["pid"]) for item in users if item["program"]})
            by = "another program" + (" (%s)" % "; ".join(programs) if programs else "")
            found.problem(
                "port-taken",
                "%s port %d, which %s needs, is in use by %s" % (proto.upper(), port, needed[(proto, port)], by),
                "sudo ss -l%snp 'sport = :%d' shows it; stop it, or move it to another port" % (proto[0], port),
            )
