# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one page that a site's network team needs for a node, made of the inventory alone. Contacts no host.

What has to pass between the nodes is what a check measures: both come from the collection's `_links.plan`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mipfed import paths
from mipfed.errors import MipfedError, usage
from mipfed.exitcodes import ExitCode
from mipfed.outcome import Outcome

if TYPE_CHECKING:
    from mipfed.inventory import Inventory
    from mipfed.session import Session

#: Version of the sheet's shape in JSON.
SCHEMA = 1
GROUP = "MIP-PEERS"
#: What the engine asks for an image of Docker Hub.
HUB = ("registry-1.docker.io", "auth.docker.io", "production.cloudflare.docker.com")
_ROLES = {
    "master": "the master: it manages the federation's network and combines the hospitals' aggregates",
    "worker": "a hospital's node: it computes aggregates over data that stay on it",
    "ui": "the host of the web portal, which asks the master and is no member of the federation's network",
}


def command(session: Session, node: str, to: Path | None, *, alone: bool = True) -> Outcome:
    """Make the sheet of a node, to standard output or a file.

    :arg alone: whether no option of a check that contacts hosts was given.
    """
    from mipfed import inventory as inventories

    if not node:
        raise usage("--to is for --request-sheet NODE.")
    if not alone:
        raise usage("--request-sheet contacts no host; --limit, --throughput and --ignore-check have no meaning for it.")

    inventory = inventories.load(session.source)
    resolved = inventories.resolve(inventory)
    # Peers keep open for nodes that are disabled, and hospitals that join with a kit need the page most.
    resolved["nodes"] = [*resolved["nodes"], *resolved["disabled"], *resolved["kits"]]
    names = [entry["name"] for entry in resolved["nodes"]]
    if node not in names:
        message = f"{session.source.name} has no node {node}."
        raise MipfedError(ExitCode.NO_HOSTS, message, next=f"Nodes: {', '.join(names)}")
    made = sheet(resolved, node, pushers(inventory), session.call(""))
    text = markdown(made)
    made["text"] = text
    made["file"] = str(to) if to else ""
    if to is not None:
        if to.is_dir():
            raise usage(f"--to {paths.shown(to)} is a folder.", next=f"--to {paths.shown(to / f'{node}.md')}")
        if not to.absolute().parent.is_dir():
            raise usage(f"--to {paths.shown(to)}: the folder {paths.shown(to.absolute().parent)} does not exist.")
        paths.write_atomically(to, text)
        return Outcome(result=made, text=lambda out: out.print(f"Wrote {paths.shown(to)}.", markup=False))
    return Outcome(result=made, text=lambda _out: print(text, end=""))


def pushers(inventory: Inventory) -> list[dict[str, str]]:
    """Return name and address of the hosts that operate the federation; the address is empty where the inventory has none."""
    found = []
    for name in inventory.groups.get("pusher") or ["pusher"]:
        variables = inventory.variables.get(name, {})
        local = variables.get("ansible_connection") == "local"
        found.append({"node": name, "address": str(variables.get("mip_address") or ("" if local else variables.get("ansible_host") or ""))})
    return found


# --- what is needed


def sheet(federation: Mapping[str, Any], name: str, operators: Sequence[Mapping[str, str]], call: str) -> dict[str, Any]:
    """Return everything that has to pass to and from a node, why, the rules for it, and how it is proven.

    :arg federation: the resolved federation.
    :arg operators: what :func:`pushers` returned.
    :arg call: how mipfed is called for this federation.
    :returns: ``schema``, ``federation``, ``node``, ``kind``, ``address``, ``encrypted``; ``incoming`` and ``outgoing``, lists of
        ``{what, proto, port, peers, why, when, prove}``, where ``proto`` is tcp, udp or esp, ``port`` 0 for ESP, ``peers`` a list of
        ``{node, address}``, and ``when`` always, deploy (only while something is installed or upgraded) or host (what any server
        needs); ``not_needed`` and ``notes``, sentences; ``rules`` by kind of firewall; ``prove``, ``{what, command}``.
    """
    links = paths.collection_module("plugin_utils._links")
    node = next(entry for entry in federation["nodes"] if entry["name"] == name)
    plan = links.plan(federation)
    rows = [{**row, "when": "always"} for row in links.requirements(plan, name)]
    rows = [*_ssh(federation, node, operators), *rows, *_published(federation, node), *_outgoing(federation, node)]
    for row in rows:
        row["prove"] = _prove(row, node, call)
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "federation": federation["name"],
        "node": name,
        "kind": node["kind"],
        "address": node["address"],
        "encrypted": bool(federation["overlay"]["encrypted"]),
        **{
            key: [
                {part: row[part] for part in ("what", "proto", "port", "peers", "why", "when", "prove")}
                for row in rows
                if row["direction"] == side
            ]
            for key, side in (("incoming", "in"), ("outgoing", "out"))
        },
    }
    found["not_needed"] = _not_needed(federation, node)
    found["notes"] = _notes(federation, node)
    found["rules"] = _rules(found, int(federation["swarm"]["data_path_port"]))
    found["managed"] = bool(federation["firewall"]["manage"])
    found["prove"] = _proofs(found, call, bool(node.get("site_kit")))
    return found


def _row(direction: str, proto: str, port: int, peers: Iterable[Mapping[str, str]], why: str, when: str = "always") -> dict[str, Any]:
    what = "IP protocol 50 (ESP)" if proto == "esp" else f"{proto.upper()} port {port}"
    return {"direction": direction, "what": what, "proto": proto, "port": port, "peers": [dict(p) for p in peers], "why": why, "when": when}


def _addresses(federation: Mapping[str, Any], entries: Iterable[str]) -> list[dict[str, str]]:
    names = {node["address"]: node["name"] for node in federation["nodes"]}
    return [{"node": names.get(entry, ""), "address": entry} for entry in entries]


def _ssh(federation: Mapping[str, Any], node: Mapping[str, Any], operators: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    if not node["ssh_host"]:
        return []
    known = {entry["address"] for entry in operators}
    more = [entry for entry in federation["firewall"]["controllers"] if entry not in known]
    # Where other addresses are named, an operator without one is behind one of them.
    sources = [entry for entry in operators if entry["address"] or not more] + _addresses(federation, more)
    why = "the operator's SSH, by key only: deploy, check, logs"
    if node["ssh_host"] != node["address"]:
        why += f"; asked for at {node['ssh_host']}"
    return [_row("in", "tcp", int(node["ssh_port"]), sources, why)]


def _published(federation: Mapping[str, Any], node: Mapping[str, Any]) -> list[dict[str, Any]]:
    if node["kind"] != "master":
        return []
    expose = federation["expose"]
    wanted = (
        (federation["engine"]["port"], federation["firewall"]["engine_allow"], "further users of the engine, as the inventory names them"),
        (8500, expose["keystore"], "the keystore, for administrators"),
        (expose["portainer"]["port"], expose["portainer"]["allow"], "Portainer, for administrators"),
    )
    return [_row("in", "tcp", int(port), _addresses(federation, allow), why) for port, allow, why in wanted if allow]


def _outgoing(federation: Mapping[str, Any], node: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    docker = federation["docker"]
    store = node.get("ldsm") or {}
    if store and store["host"] != node["address"]:
        peers = [{"node": "", "address": str(store["host"])}]
        rows.append(_row("out", "tcp", int(store["port"]), peers, "the hospital's local data store, which the engine reads"))
    if node["kind"] != "ui":
        by_port: dict[int, list[str]] = {}
        for host, port in _registries(federation):
            by_port.setdefault(port, []).append(host)
        for port, hosts in sorted(by_port.items()):
            peers = [{"node": "", "address": host} for host in dict.fromkeys(hosts)]
            hub = hosts[0] == HUB[0]
            why = "the images' registry" + (", Docker Hub (its names as of now: Docker's allow list)" if hub else "")
            rows.append(_row("out", "tcp", port, peers, why, "deploy"))
    if docker["source"] != "none":
        for port in (80, 443):
            peers = [{"node": "", "address": "the distribution's package servers, or the site's mirror of them"}]
            rows.append(_row("out", "tcp", port, peers, "packages, while Docker is missing", "deploy"))
    if docker["source"] == "docker":
        address = urlsplit(docker["repository"])
        port = address.port or (80 if address.scheme == "http" else 443)
        rows.append(_row("out", "tcp", port, [{"node": "", "address": address.hostname or ""}], "Docker's packages", "deploy"))
    rows.append(_row("out", "udp", 53, [{"node": "", "address": "the site's name servers"}], "names (also TCP 53)", "host"))
    rows.append(_row("out", "udp", 123, [{"node": "", "address": "the site's time servers"}], "the clock", "host"))
    return rows


def _registries(federation: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return host and port of every registry that the images come from."""
    split = paths.collection_module("module_utils._host_names").split_registry
    found: list[tuple[str, int]] = []
    for image in (federation["engine"]["image"], federation["engine"]["keystore_image"]):
        first, slash, _rest = str(image).partition("/")
        if slash and ("." in first or ":" in first or first == "localhost"):
            found.append(split(first))
        elif federation["docker"]["registry_mirrors"]:
            for mirror in federation["docker"]["registry_mirrors"]:
                address = urlsplit(mirror if "//" in mirror else f"https://{mirror}")
                found.append((address.hostname or mirror, address.port or (80 if address.scheme == "http" else 443)))
        else:
            found += [(name, 443) for name in HUB]
    insecure = {entry.partition("/")[0] for entry in federation["docker"]["insecure_registries"]}
    return list(dict.fromkeys((host, port or (80 if host in insecure else 443)) for host, port in found))


def _not_needed(federation: Mapping[str, Any], node: Mapping[str, Any]) -> list[str]:
    encrypted, port = federation["overlay"]["encrypted"], federation["swarm"]["data_path_port"]
    found = ["Nothing comes in from the internet: no public address, no port forwarding, no reverse proxy, no DMZ rule beyond this page."]
    if node["kind"] == "worker":
        found.append("This node publishes no port: its engine is reached inside the federation's own network only.")
        found.append("It opens connections to the addresses on this page only, and sends nothing anywhere else.")
    elif node["kind"] == "master":
        found.append(f"It publishes TCP {federation['engine']['port']} only, and only to the addresses on this page.")
    else:
        found.append("It needs no TCP 2377, TCP or UDP 7946, UDP 4789 and no ESP: it is no member of the federation's network.")
        found.append("Who may use the portal itself (usually TCP 443) is the site's own decision and not part of this request.")
    if node["kind"] != "ui":
        if encrypted:
            found.append(
                f"UDP {port} (VXLAN) between the sites: it travels inside ESP and should stay closed on the way. Only the host's own "
                "filter sees it, after decryption."
            )
            found.append("UDP 500 and 4500 (IKE, NAT traversal): the keys come over the managers' TLS connections.")
        found.append("TCP 2377 from anyone to this node." if not node["manager"] else "TCP 2377 from anyone but the nodes on this page.")
    if node.get("site_kit"):
        found.append("SSH from outside: the hospital runs its site kit itself, and the node is operated through the swarm.")
    found.append("IPv6, and SSH between the nodes.")
    return found


def _notes(federation: Mapping[str, Any], node: Mapping[str, Any]) -> list[str]:
    if node["kind"] == "ui":
        return []
    mtu = int(federation["overlay"]["mtu"] or 0)
    found = []
    if federation["overlay"]["encrypted"]:
        found.append(
            'ESP is IP protocol 50: it has no port, and is neither TCP nor UDP. A rule "all TCP and UDP" does not contain it, and nc or '
            "nmap cannot test it. Without it everything starts and no data passes."
        )
        found.append(
            "No address translation between the nodes: without ports NAT of many hosts to one address (PAT) is impossible, and the "
            "addresses must arrive as they were sent. Where that cannot be, use a VPN and give its addresses as mip_address."
        )
    else:
        found.append(
            f"This federation is NOT ENCRYPTED (a lab): its data travel as UDP {federation['swarm']['data_path_port']} that anyone "
            "between can read."
        )
    found.append(
        (
            f"MTU: the network between the nodes has to carry packets of {mtu} bytes whole. "
            if mtu
            else "MTU: packets of 1500 bytes should pass whole; if fewer do, "
            "say so before the deploy, because the smallest path decides once. "
        )
        + 'Let ICMP type 3 code 4 ("fragmentation needed") through in both directions.'
    )
    found.append(
        "A stateful firewall has to allow each direction in its own right: answers to gossip and ESP are packets of their own, and the "
        "entry for ESP is forgotten after some minutes of silence."
    )
    return found


# --- rules


def _hosts(row: Mapping[str, Any]) -> list[str]:
    return [peer["address"] for peer in row["peers"] if peer["address"] and " " not in peer["address"]]


def _rules(found: Mapping[str, Any], data_path_port: int) -> dict[str, list[str]]:
    """Return the rules: ``generic`` for a firewall between, the others for the host's own, incoming only.

    The host's own filter sees what came out of ESP once more, as VXLAN.
    """
    own = str(found["address"])
    wanted = [row for row in found["incoming"] if _hosts(row)]
    unknown = [row for row in found["incoming"] if not _hosts(row)]
    sent = [row for row in found["outgoing"] if row["when"] != "host" and _hosts(row)]
    members = max((_hosts(row) for row in wanted if row["port"] == 7946), key=len, default=[])
    generic = [f"group {GROUP}", *(f"  host {address}" for address in members)] if len(members) > 1 else []

    def ends(row: Mapping[str, Any]) -> list[str]:
        addresses = _hosts(row)
        return [f"group {GROUP}"] if len(members) > 1 and addresses == members else [_end(address) for address in addresses]

    for row in wanted:
        generic += [_permit(row, end, f"host {own}") for end in ends(row)]
    generic += [_permit(row, "<the operator's address>", f"host {own}") for row in unknown]
    for row in sent:
        generic += [_permit(row, f"host {own}", end) for end in ends(row)]
    grouped: dict[tuple[str, ...], dict[str, list[int]]] = {}
    inside = found["encrypted"] and bool(members)
    for row in [*wanted, *([{"proto": "udp", "port": data_path_port, "peers": [{"address": each} for each in members]}] if inside else [])]:
        grouped.setdefault(tuple(_hosts(row)), {}).setdefault(row["proto"], []).append(row["port"])
    ufw, firewalld, nftables = [], [], []
    for addresses, protocols in grouped.items():
        loop = f"for a in {' '.join(addresses)}; do"
        commands = [
            f"sudo ufw allow proto {proto} from $a" + (f" to any port {','.join(str(port) for port in ports)}" if ports != [0] else "")
            for proto, ports in protocols.items()
        ]
        ufw += [f"{loop} {'; '.join(commands)}; done"]
        rich = [
            '\'rule family="ipv4" source address="\'$a\'" '
            + (f'port port="{port}" protocol="{proto}"' if port else f'protocol value="{proto}"')
            + " accept'"
            for proto, ports in protocols.items()
            for port in ports
        ]
        firewalld += [f'{loop} for r in {" ".join(rich)}; do sudo firewall-cmd --permanent --add-rich-rule "$r"; done; done']
        places = ", ".join(addresses)
        for proto, ports in protocols.items():
            if inside and proto == "udp" and data_path_port in ports:
                decrypted = f"meta ipsec exists udp dport {data_path_port}"
                nftables.append(f"sudo nft insert rule inet filter input ip saddr {{ {places} }} {decrypted} accept")
                ports = [port for port in ports if port != data_path_port]
            if not ports:
                continue
            match = f"{proto} dport {{ {', '.join(str(port) for port in ports)} }}" if ports != [0] else "meta l4proto esp"
            nftables.append(f"sudo nft insert rule inet filter input ip saddr {{ {places} }} {match} accept")
    firewalld += ["sudo firewall-cmd --reload"] if firewalld else []
    return {"generic": generic, "ufw": ufw, "firewalld": firewalld, "nftables": nftables}


def _end(address: str) -> str:
    return f"network {address}" if "/" in address else f"host {address}"


def _permit(row: Mapping[str, Any], source: str, destination: str) -> str:
    port = f" eq {row['port']}" if row["port"] else ""
    return f"permit {row['proto']}  {source}  {destination}{port}"


# --- proof


def _prove(row: Mapping[str, Any], node: Mapping[str, Any], call: str) -> str:
    """Return the command that shows that a row is allowed."""
    if node.get("site_kit") and (row["proto"] != "tcp" or row["port"] in (2377, 7946)):
        return f"{call} verify"
    if row["when"] == "host":
        return {53: "getent hosts registry-1.docker.io", 123: "timedatectl show -p NTPSynchronized"}[row["port"]]
    first = next((peer["address"] for peer in row["peers"]), "")
    if row["proto"] != "tcp":
        return f"{call} check"
    if row["direction"] == "in":
        return f"{call} check" if row["port"] in (2377, 7946) else f"nc -zvw3 {node['address']} {row['port']}"
    return (
        f"{call} check" if row["port"] in (2377, 7946) else f"nc -zvw3 {first} {row['port']}" if " " not in first else "sudo apt-get update"
    )


def _proofs(found: Mapping[str, Any], call: str, kit: bool) -> list[dict[str, str]]:
    name = found["node"]
    peers = next((_hosts(row) for row in found["incoming"] if row["port"] == 7946), [])
    everything = f"On the pusher, everything at once, changing nothing: row and column {name} say ok, a fault names who must do what"
    proofs = [] if kit else [{"what": everything, "command": f"{call} check"}]
    if found["encrypted"] and peers:
        when = "once it has joined" if kit else "while that runs"
        what = f"On {name}, {when}, for yourself: ESP arrives from every other node"
        proofs.append({"what": what, "command": "sudo tcpdump -ni any 'ip proto 50'"})
    if peers:
        command = f"ping -c 3 -M do -s {1500 - 28} {peers[0]}"
        proofs.append({"what": f"On {name}: packets of 1500 bytes pass whole", "command": command})
    if kit:
        proofs.append({"what": "On the pusher, once it has joined: every link over the overlay", "command": f"{call} verify"})
    else:
        what = "After the deploy: what the host itself opens, for whom and why"
        proofs.append({"what": what, "command": f"{call} firewall show {name}"})
    return proofs


# --- text


def _named(peers: Iterable[Mapping[str, str]]) -> str:
    found = []
    for peer in peers:
        name, address = peer["node"], peer["address"]
        found.append(f"{name} {address}" if name and address else address or f"{name} (its operator tells the address)")
    return ", ".join(found)


def _together(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with TCP and UDP of one port, and several ports for one purpose, as one line of text."""
    merged: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = (_named(row["peers"]), row["why"], row["when"])
        entry = merged.setdefault(key, {**row, "parts": {}})
        entry["parts"].setdefault(row["port"], []).append(row["proto"].upper())
    for entry in merged.values():
        by_protocols: dict[str, list[str]] = {}
        for port, protocols in entry["parts"].items():
            by_protocols.setdefault(" and ".join(protocols), []).append(str(port))
        parts = [
            "IP protocol 50 (ESP)" if protocols == "ESP" else f"{protocols} {', '.join(ports)}" for protocols, ports in by_protocols.items()
        ]
        entry["what"] = ", ".join(parts)
    return list(merged.values())


def _members(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the nodes that most lines are about, to be named once."""
    return max(([peer for peer in row["peers"] if peer["node"]] for row in found["incoming"] if row["port"] == 7946), key=len, default=[])


def markdown(found: Mapping[str, Any]) -> str:
    """Return the sheet as the page that is handed on."""
    name = found["node"]
    members = _members(found)
    lines = [
        f"# Network request for {name}, {found['address']}",
        "",
        f"Federation `{found['federation']}` of the Medical Informatics Platform. This host is {_ROLES[found['kind']]}. "
        "Addresses are static. Each line is one direction, with the answers to it.",
        "",
    ]
    if len(members) > 1:
        lines += [f"**Peers** are {_named(members)}.", ""]

    def ends(row: Mapping[str, Any]) -> str:
        return "the peers" if len(members) > 1 and row["peers"] == members else _named(row["peers"])

    for title, key, side in (("Incoming: allow to this host", "incoming", "from"), ("Outgoing: allow from this host", "outgoing", "to")):
        rows = _together(found[key])
        lines += [f"## {title}", "", f"| what | {side} | why |", "| --- | --- | --- |"]
        for row in rows:
            when = {"always": "", "deploy": " (during a deploy or upgrade only)", "host": " (as any server; probably open)"}[row["when"]]
            lines.append(f"| {row['what']} | {ends(row)} | {row['why']}{when} |")
        if not rows:
            lines.append("| nothing | | |")
        lines.append("")
    if found["notes"]:
        lines += [*(f"- {note}" for note in found["notes"]), ""]
    lines += ["## Not needed", "", *(f"- {entry}" for entry in found["not_needed"]), ""]
    rules = found["rules"]
    lines += ["## The same as rules", "", "For a firewall between the sites:", "", "```", *rules["generic"], "```", ""]
    if rules["ufw"]:
        whose = "In the host's own firewall"
        if found["managed"]:
            whose += " `mipfed deploy` sets all but SSH by itself"
        lines += [f"{whose}{';' if found['managed'] else ','} by hand, for the one it has:", "", "```"]
        for title, key in (
            ("ufw", "ufw"),
            ("firewalld", "firewalld"),
            ("nftables; for `inet filter input` take the chain that drops", "nftables"),
        ):
            lines += [f"# {title}", *rules[key]]
        lines += ["```", ""]
    lines += ["## Proof", ""]
    for proof in found["prove"]:
        lines += [f"- {proof['what']}: `{proof['command']}`"]
    return "\n".join([*lines, ""])
