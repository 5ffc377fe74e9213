# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an engine's container reaches a TCP service outside the overlay, such as the hospital's local data store, and who keeps it out.

The same connection is tried from the container's network and from the host's. What only the container cannot reach is kept out by the
host's own rules, because containers leave with the host's address.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import select
import socket
import struct
import time
from typing import Any

from ansible_collections.hbp.mip.plugins.module_utils import _link_listen, _netlink

CODE = "ldsm-unreachable"
BRIDGE = "docker_gwbridge"

_TYPE_A = 1
_DNS_SECONDS = 3.0
_REASONS = {
    errno.ECONNREFUSED: "refused",
    errno.ENETUNREACH: "no-route",
    errno.EHOSTUNREACH: "no-route",
    errno.EACCES: "no-route",
    errno.EPERM: "own-filter",
}


def is_address(host: str) -> bool:
    """Whether a host is given as an IPv4 address."""
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def is_local(address: str) -> bool:
    """Whether an address is one of this host's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def is_here(host: str) -> bool:
    """Whether a host, a name or an IPv4 address, is this one."""
    try:
        return is_local(str(socket.getaddrinfo(host, 0, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]))
    except (OSError, UnicodeError):
        return False


def attempt(address: str, port: int, timeout: float) -> str:
    """Connect from the calling process's network: `ok`, `refused`, `no-route`, `own-filter`, `silent` or another error's words."""
    try:
        socket.create_connection((address, port), timeout).close()
    except socket.timeout:
        return "silent"
    except OSError as error:
        return _REASONS.get(error.errno or 0, error.strerror or str(error) or "failed")
    return "ok"


# --- names, as the container looks them up


def _skip_name(answer: bytes, offset: int) -> int:
    while answer[offset]:
        if answer[offset] & 0xC0:
            return offset + 2
        offset += 1 + answer[offset]
    return offset + 1


def addresses_in(answer: bytes) -> list[str]:
    """The IPv4 addresses in a DNS answer (RFC 1035); none of a damaged one."""
    found = []
    with contextlib.suppress(struct.error, IndexError, OSError):
        questions, answers = struct.unpack_from("!HH", answer, 4)
        offset = 12
        for _number in range(questions):
            offset = _skip_name(answer, offset) + 4
        for _number in range(answers):
            offset = _skip_name(answer, offset)
            kind, _class, _ttl, length = struct.unpack_from("!HHIH", answer, offset)
            if kind == _TYPE_A:
                found.append(socket.inet_ntoa(answer[offset + 10 : offset + 10 + length]))
            offset += 10 + length
    return found


def _ask(server: str, name: str, timeout: float) -> list[str]:
    labels = name.rstrip(".").encode("idna").split(b".")
    question = b"".join(bytes([len(label)]) + label for label in labels) + b"\0" + struct.pack("!HH", _TYPE_A, 1)
    message = os.urandom(2) + struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0) + question
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.connect((server, 53))
        channel.setblocking(False)
        while time.monotonic() < deadline:
            channel.send(message)
            if not select.select([channel], [], [], timeout / 2)[0]:
                continue
            answer = channel.recv(4096)
            if answer[:2] == message[:2]:
                return addresses_in(answer)
    return []


def resolve_like(root: str, host: str) -> str:
    """The IPv4 address that a process with the files below `root` finds for a name; empty when there is none."""
    with contextlib.suppress(OSError), open(os.path.join(root, "etc/hosts"), encoding="utf-8", errors="replace") as stream:
        for line in stream:
            fields = line.partition("#")[0].split()
            if host in fields[1:] and is_address(fields[0]):
                return fields[0]
    servers, domains = [], []
    with contextlib.suppress(OSError), open(os.path.join(root, "etc/resolv.conf"), encoding="utf-8", errors="replace") as stream:
        for line in stream:
            fields = line.split()
            if fields[:1] == ["nameserver"] and len(fields) > 1 and is_address(fields[1]):
                servers.append(fields[1])
            elif fields[:1] in (["search"], ["domain"]):
                domains = fields[1:]
    names = [host] if "." in host else [*("%s.%s" % (host, domain) for domain in domains), host]
    for name in names:
        for server in servers[:3]:
            with contextlib.suppress(OSError, UnicodeError):
                found = _ask(server, name, _DNS_SECONDS)
                if found:
                    return found[0]
    return ""


# --- the verdict


def _from_inside(pid: int, host: str, port: int, timeout: float) -> dict[str, Any]:
    root = "/proc/%d/root" % pid

    def run() -> dict[str, Any]:
        _netlink.enter_network_of(pid)
        address = host if is_address(host) else resolve_like(root, host)
        return {"address": address, "result": attempt(address, port, timeout) if address else "name"}

    answer = _netlink.in_child(run, timeout + 30)
    return {"address": "", "result": str(answer["error"])} if "error" in answer else answer


def _on_loopback_only(port: int) -> bool:
    listening = [text for text, _inode in _link_listen.socket_tables().get(("tcp", port), [])]
    return bool(listening) and all(text.startswith("127.") for text in listening)


def look(host: str, port: int, timeout: float = 5.0, pid: int = 0) -> dict[str, Any]:
    """Try a service from the network of process `pid` and from this host's own; with `pid` 0 from the latter only.

    Returns {host, port, address, local, inside, outside, verdict, message, fix}. `inside` and `outside` are what `attempt` says, or
    `name`, empty where it was not tried. `verdict` is `ok`, `name`, `no-route`, `refused`, `own-filter` (this host's rules) or `path`.
    """
    inside = _from_inside(pid, host, port, timeout) if pid else {"address": "", "result": ""}
    address, outside = host if is_address(host) else "", ""
    if not address:
        try:
            address = str(socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
        except (OSError, UnicodeError):
            outside = "name"
    if inside["result"] != "ok" and not outside:
        outside = attempt(address, port, timeout)
    address = inside["address"] or address
    found = {
        "host": host,
        "port": port,
        "address": address,
        "local": bool(address) and is_local(address),
        "inside": inside["result"],
        "outside": outside,
    }
    verdict, message, fix = judge(found, bool(found["local"]) and _on_loopback_only(port))
    return dict(found, verdict=verdict, message=message, fix=fix)


def judge(found: dict[str, Any], loopback_only: bool) -> tuple[str, str, str]:
    """The verdict over what was tried, with a sentence and the next thing to do. Looks at nothing itself."""
    host, port, inside, outside = found["host"], found["port"], found["inside"], found["outside"]
    where = "the local data store %s:%d" % (host, port)
    if "ok" in (inside, outside) and inside in ("ok", ""):
        return "ok", "", ""
    if inside == "name" or (not inside and outside == "name"):
        known = inside == "name" and outside != "name"
        message = "the name %s is not known %s" % (
            host,
            "in the engine's container, which asks the host's name servers" if known else "here",
        )
        return "name", message, "write its address into mip_ldsm.host, or let the name servers know it: getent hosts %s" % host
    if inside and outside == "ok":
        message = "%s answers this host and not the engine's container (%s): rules of this host keep out what comes from %s" % (
            where,
            inside,
            BRIDGE,
        )
        if found["local"]:
            fix = "mipfed deploy opens it in ufw; by hand: sudo ufw allow in on {0} to any port {1} proto tcp, or "
            fix += "sudo nft insert rule inet filter input iifname {0} tcp dport {1} accept"
            fix = fix.format(BRIDGE, port)
        else:
            fix = (
                "sudo iptables -nvL FORWARD and sudo nft list ruleset show the rule that drops TCP %d from %s; accept it, as in DOCKER-USER"
                % (
                    port,
                    BRIDGE,
                )
            )
        return "own-filter", message, fix
    if outside == "own-filter":
        return (
            "own-filter",
            "this host's own output rules drop what goes to %s" % where,
            "sudo nft list ruleset; accept TCP %d to %s"
            % (
                port,
                found["address"],
            ),
        )
    if outside == "refused":
        if loopback_only:
            message = "%s listens on 127.0.0.1 only, which is another in each container" % where
            return "refused", message, "let it listen on %s as well; a deploy opens it to the engine's bridge only" % found["address"]
        return (
            "refused",
            "%s refuses: nothing listens there, or a rule rejects it" % where,
            "on %s: sudo ss -ltnp 'sport = :%d'"
            % (
                host,
                port,
            ),
        )
    if outside == "no-route":
        message = "there is no way to %s: no route, no such host, or a device refuses it" % where
        return (
            "no-route",
            message,
            "ip route get %s; ping %s; correct mip_ldsm, or let the network team allow TCP %d from this host"
            % (
                found["address"],
                found["address"],
                port,
            ),
        )
    if outside == "silent":
        message = "%s does not answer, neither to this host%s" % (where, " nor to the engine's container" if inside else "")
        return (
            "path",
            message,
            "network team: allow TCP %d from this host to %s, also in the firewall of the data store's own host" % (port, host),
        )
    return "path", "%s cannot be reached: %s" % (where, outside or inside), "nc -vz %s %d on this host" % (host, port)
