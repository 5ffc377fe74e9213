# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host's network does with a federation's packets: sockets, network cards, packet filter, forwarding.

Everything is read from the kernel itself, so that it works on hosts without iproute2, nft or iptables. Nothing here changes anything.
"""

from __future__ import annotations

import fcntl
import glob
import os
import re
import shutil
import socket
import struct
import subprocess
from typing import Any, Iterable

from ansible_collections.hbp.mip.plugins.module_utils import _netlink

_TOOLS = "/usr/sbin:/usr/bin:/sbin:/bin"
_TOOL_TIMEOUT = 3.0

_RTM_GETLINK = 18
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO = 3, 4, 18
_IFLA_VXLAN_ID, _IFLA_VXLAN_PORT = 1, 15

_NETLINK_NETFILTER = 12
_NFT_MSG_GETCHAIN, _NFT_MSG_GETRULE = 0x0A04, 0x0A07
_NF_INET_FORWARD, _NF_DROP = 2, 0
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
_IPTABLES_TABLES = ("filter", "nat", "mangle", "raw", "security")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


# --- sockets


def sockets(wanted: Iterable[tuple[str, int]], engine_pid: int) -> list[dict[str, Any]]:
    """Who has the ports in `wanted`, pairs of `tcp` or `udp` and a number: listening TCP and bound UDP sockets.

    Each is {proto, port, address, kernel, program, pid}. `kernel` is a socket of the kernel itself, as a VXLAN device has. The program
    stays empty when it is not known, which needs root; `engine_pid` is looked at first, because the engine has them on a sound node.
    """
    ports = set(wanted)
    found: list[dict[str, Any]] = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        proto = table[:3]
        for line in _read("/proc/net/" + table).splitlines()[1:]:
            fields = line.split()
            if len(fields) < 10 or (proto == "tcp" and fields[3] != "0A"):
                continue
            address, _separator, number = fields[1].rpartition(":")
            port = int(number, 16)
            if (proto, port) in ports:
                found.append({"proto": proto, "port": port, "address": _address(address), "inode": fields[9]})
    owners = _owners({item["inode"] for item in found} - {"0"}, engine_pid)
    for item in found:
        inode = item.pop("inode")
        pid, program = owners.get(inode, (0, ""))
        # a VXLAN device's socket looks like any other here, but no process has it; only root sees all processes
        item.update(kernel=not pid and os.geteuid() == 0, pid=pid, program=program)
    return found


def _address(text: str) -> str:
    # the kernel prints each 32-bit word in the host's order
    words = [struct.pack("=I", int(text[start : start + 8], 16)) for start in range(0, len(text), 8)]
    raw = b"".join(words)
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def _owners(inodes: set[str], engine_pid: int) -> dict[str, tuple[int, str]]:
    owners: dict[str, tuple[int, str]] = {}
    if not inodes:
        return owners
    pids = [str(engine_pid)] if engine_pid else []
    pids += [name for name in os.listdir("/proc") if name.isdigit() and name != str(engine_pid)]
    for pid in pids:
        try:
            names = os.listdir("/proc/%s/fd" % pid)
        except OSError:
            continue
        for name in names:
            try:
                target = os.readlink("/proc/%s/fd/%s" % (pid, name))
            except OSError:
                continue
            inode = target[8:-1] if target.startswith("socket:[") else ""
            if inode in inodes and inode not in owners:
                owners[inode] = (int(pid), _read("/proc/%s/comm" % pid).strip())
        if len(owners) == len(inodes):
            break
    return owners


# --- network cards


def devices() -> dict[str, dict[str, Any]]:
    """The network cards by name: {up, mtu, kind} and for VXLAN also {vni, port}. Raises OSError."""
    found = {}
    with _netlink.Netlink(_netlink.NETLINK_ROUTE) as netlink:
        for body in netlink.dump(_RTM_GETLINK, struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0)):
            (flags,) = struct.unpack_from("=I", body, 8)
            parts = _netlink.attributes(body[16:])
            info = _netlink.attributes(parts.get(_IFLA_LINKINFO, b""))
            kind = info.get(1, b"").rstrip(b"\0").decode("ascii", "replace")
            device: dict[str, Any] = {
                "up": bool(flags & _IFF_UP and flags & _IFF_RUNNING),
                "mtu": struct.unpack("=I", parts[_IFLA_MTU])[0] if len(parts.get(_IFLA_MTU, b"")) == 4 else 0,
                "kind": kind,
            }
            if kind == "vxlan":
                data = _netlink.attributes(info.get(2, b""))
                device["vni"] = struct.unpack("=I", data[_IFLA_VXLAN_ID])[0] if _IFLA_VXLAN_ID in data else 0
                device["port"] = struct.unpack("!H", data[_IFLA_VXLAN_PORT])[0] if _IFLA_VXLAN_PORT in data else 0
            found[parts.get(_IFLA_IFNAME, b"?").rstrip(b"\0").decode("utf-8", "replace")] = device
    return found


_SIOCETHTOOL = 0x8946
_ETHTOOL_GTXCSUM = 0x16


def computes_checksums(interface: str) -> bool:
    """Whether a network card computes the checksums of what it sends; true when that cannot be asked."""
    import array

    value = array.array("B", struct.pack("=II", _ETHTOOL_GTXCSUM, 1))
    request = struct.pack("16sP", interface.encode()[:15], value.buffer_info()[0]) + b"\0" * 16
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
    except OSError:
        return True
    return bool(struct.unpack("=II", value.tobytes())[1])


# --- packet filter


def packet_filter() -> dict[str, Any]:
    """What the packet filter says about containers, from nf_tables itself and, where it was ever used, the older ip_tables.

    `nft`, `legacy`: whether iptables' rules are in nf_tables and in the older tables; `docker_chains`: whether the engine's chains for
    published ports are in either; `masquerade`: whether containers' traffic to the outside gets the host's address; both None when
    nobody could be asked. `forward_drop`: chains outside iptables' tables that drop forwarded packets by default, each {family,
    table, chain, rules}; `forward_policy`: policy of iptables' own FORWARD chain. `error`: why nf_tables could not be read.
    """
    found: dict[str, Any] = {
        "nft": False,
        "legacy": False,
        "docker_chains": None,
        "masquerade": None,
        "forward_policy": "",
        "forward_drop": [],
        "error": "",
    }
    try:
        with _netlink.Netlink(_NETLINK_NETFILTER) as netlink:
            chains = [_chain(body) for body in netlink.dump(_NFT_MSG_GETCHAIN, struct.pack("=BBH", socket.AF_UNSPEC, 0, 0))]
            found["docker_chains"] = any(
                chain["family"] == "ip" and chain["table"] == "nat" and chain["name"] == "DOCKER" for chain in chains
            )
            found["masquerade"] = _masquerades(netlink) if found["docker_chains"] else False
    except _netlink.NetlinkError as error:
        chains = []
        found["error"] = error.words()
    for chain in chains:
        iptables = chain["family"] in ("ip", "ip6") and chain["table"] in _IPTABLES_TABLES and chain["name"].isupper()
        used = chain["uses"] > 0 or chain["drops"]
        if iptables and chain["family"] == "ip" and (used or not chain["hooked"]):
            found["nft"] = True
        if chain["hook"] != _NF_INET_FORWARD or not chain["hooked"] or chain["family"] not in ("inet", "ip"):
            continue
        if iptables:
            found["forward_policy"] = "drop" if chain["drops"] else "accept"
        elif chain["drops"]:
            found["forward_drop"].append(
                {"family": chain["family"], "table": chain["table"], "chain": chain["name"], "rules": chain["uses"]}
            )
    _legacy(found)
    return found


def _chain(body: bytes) -> dict[str, Any]:
    parts = _netlink.attributes(body[4:])
    hook = _netlink.attributes(parts.get(4, b""))
    return {
        "family": _FAMILIES.get(body[0], str(body[0])),
        "table": _text(parts.get(1)),
        "name": _text(parts.get(3)),
        "hooked": bool(hook),
        "hook": _number(hook.get(1)),
        "drops": 5 in parts and _number(parts[5]) == _NF_DROP,
        # rules in it and jumps to it
        "uses": _number(parts.get(6)),
    }


def _text(raw: bytes | None) -> str:
    return (raw or b"").rstrip(b"\0").decode("utf-8", "replace")


def _number(raw: bytes | None) -> int:
    return int(struct.unpack("!I", raw)[0]) if raw and len(raw) == 4 else 0


def _masquerades(netlink: _netlink.Netlink) -> bool:
    chosen = _netlink.attribute(1, b"nat\0") + _netlink.attribute(2, b"POSTROUTING\0")
    for body in netlink.dump(_NFT_MSG_GETRULE, struct.pack("=BBH", socket.AF_INET, 0, 0) + chosen):
        parts = _netlink.attributes(body[4:])
        # older kernels send all rules whatever was asked for
        if _text(parts.get(1)) == "nat" and _text(parts.get(2)) == "POSTROUTING":
            expressions = parts.get(4, b"")
            if b"masq\0" in expressions or b"MASQUERADE\0" in expressions:
                return True
    return False


def _legacy(found: dict[str, Any]) -> None:
    """The older ip_tables, asked only when a table of it was ever used since the boot."""
    if not _read("/proc/net/ip_tables_names").strip():
        return
    tool = shutil.which("iptables-legacy-save", path=_TOOLS)
    if not tool:
        return
    try:
        done = subprocess.run([tool], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=_TOOL_TIMEOUT, check=False)
    except (OSError, subprocess.SubprocessError):
        return
    text = done.stdout.decode("utf-8", "replace")
    found["legacy"] = bool(re.search(r"^(-A |:\S+ (DROP|-) )", text, re.MULTILINE))
    if re.search(r"^:DOCKER ", text, re.MULTILINE):
        found["docker_chains"] = True
        found["masquerade"] = bool(found["masquerade"]) or "-j MASQUERADE" in text


# --- forwarding


def forwarding() -> dict[str, Any]:
    """Whether this host forwards IPv4 now (None when unknown), and the file that turns it off at the next boot, if one does."""
    value = _read("/proc/sys/net/ipv4/ip_forward").strip()
    setting, origin = "", ""
    for path in _sysctl_files():
        for line in _read(path).splitlines():
            key, separator, given = line.partition("=")
            name = key.strip().lstrip("-").replace("/", ".")
            if separator and name in ("net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding"):
                setting, origin = given.strip(), path
    return {"now": value == "1" if value else None, "off_at_boot": origin if setting == "0" else ""}


def _sysctl_files() -> list[str]:
    """The files in the order in which systemd-sysctl applies them: by name, those of /etc before others of the same name."""
    chosen: dict[str, str] = {}
    for folder in ("/usr/lib/sysctl.d", "/usr/local/lib/sysctl.d", "/run/sysctl.d", "/etc/sysctl.d"):
        for path in glob.glob(folder + "/*.conf"):
            chosen[os.path.basename(path)] = path
    return [chosen[name] for name in sorted(chosen)] + ["/etc/sysctl.conf"]
