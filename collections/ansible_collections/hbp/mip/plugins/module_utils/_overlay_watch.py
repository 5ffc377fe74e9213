# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What leaves a host for its peers, and what arrives from them, while data pass over the overlay: ESP, or VXLAN in clear.

A process of its own in the host's network looks at the network cards with a packet socket, on which a filter in the kernel lets only
ESP and VXLAN through, and of these the first bytes. Packets and bytes are counted, and nothing of a packet is kept. Beside that it reads
what the kernel counts of IPsec at its start and whenever it is asked. It is asked by the listener beside it, for a peer, over a pair of
sockets, and by root on this host, for everything, and it is gone after its time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import signal
import socket
import struct
import time
from typing import Any

from ansible_collections.hbp.mip.plugins.module_utils import _link_wire, _netlink, _probe, _xfrm

KINDS = ("esp", "clear", "other")

_ETH_P_ALL = 3
_PACKET_FOREIGN = 3
_PACKET_OUTGOING = 4
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 16 << 20
#: IP header with all its options, UDP and VXLAN header.
_SNAP = 60 + 8 + 8
_PATIENCE = 10.0
_PAUSE = 0.05
_ESP_OFFLOAD = "/sys/module/esp4_offload"


def packet_filter(data_path_port: int) -> bytes:
    """A filter (classic BPF) that passes the first bytes of ESP, and of UDP to the overlay's port, over IPv4, from the IP header on."""
    code = (
        (0x30, 0, 0, 0),  # version
        (0x54, 0, 0, 0xF0),
        (0x15, 0, 9, 0x40),
        (0x30, 0, 0, 9),  # protocol
        (0x15, 6, 0, socket.IPPROTO_ESP),
        (0x15, 0, 6, socket.IPPROTO_UDP),
        (0x28, 0, 0, 6),  # a later fragment has no ports
        (0x45, 4, 0, 0x1FFF),
        (0xB1, 0, 0, 0),  # length of the IP header
        (0x48, 0, 0, 2),  # destination port
        (0x15, 0, 1, data_path_port),
        (0x06, 0, 0, _SNAP),
        (0x06, 0, 0, 0),
    )
    return b"".join(struct.pack("=HBBI", *step) for step in code)


def classify(data: bytes, vni: int) -> tuple[str, str, str, int] | None:
    """What a packet that the filter passed is: kind, source, destination and size.

    The kind is `esp`, `clear` for VXLAN of the network `vni`, or `other` for VXLAN of another one; with `vni` 0 all VXLAN is `clear`.
    """
    if len(data) < 20 or data[0] >> 4 != 4:
        return None
    length = (data[0] & 15) * 4
    (size,) = struct.unpack_from("!H", data, 2)
    source, destination = socket.inet_ntoa(data[12:16]), socket.inet_ntoa(data[16:20])
    if data[9] == socket.IPPROTO_ESP:
        return "esp", source, destination, size
    header = data[length + 8 : length + 16]
    if len(header) < 8 or not header[0] & 0x08:
        return None  # no VXLAN with a network's number, which no overlay takes
    number = int.from_bytes(header[4:7], "big")
    return "clear" if not vni or number == vni else "other", source, destination, size


def address_of(nonce: str) -> str:
    """Where the process of a listener is asked: an abstract address, which only this host's network has."""
    return "\0mip-overlay-" + hashlib.sha256(nonce.encode("ascii")).hexdigest()[:32]


class Watch:
    """The sockets of the process, and what they saw. Made in the host's network; raises OSError when nothing can be captured."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.address: str = given["underlay"]
        self.vni: int = given["vni"]
        self.names = {peer["address"]: peer["node"] for peer in given["peers"] if peer["address"] != self.address}
        self.seen: dict[tuple[str, str, str, str], list[int]] = {}
        self.lost = 0
        self.capture = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        _link_wire.attach(self.capture, packet_filter(given["data_path_port"]))
        with contextlib.suppress(OSError):
            self.capture.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        self.capture.setblocking(False)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(address_of(given["nonce"]))
        self.listener.listen(8)
        self.states_error = ""
        self.states = self._states()
        self.errors = _xfrm.errors()

    def _states(self) -> list[_xfrm.Association]:
        try:
            return _xfrm.associations()
        except _netlink.NetlinkError as error:
            self.states_error = "the kernel's IPsec associations cannot be read: %s" % error.words()
            return []

    def drain(self) -> None:
        """Count what waits on the capture socket."""
        until = time.monotonic() + 2
        while time.monotonic() < until:
            for _round in range(512):
                try:
                    data, place = self.capture.recvfrom(_SNAP)
                except BlockingIOError:
                    return
                except OSError:
                    continue  # a card that went down is told once on this socket
                if place[2] == _PACKET_FOREIGN:
                    continue
                found = classify(data, self.vni)
                if found is None:
                    continue
                kind, source, destination, size = found
                leaves = place[2] == _PACKET_OUTGOING
                peer = self.names.get(destination if leaves else source)
                if peer is None or (source if leaves else destination) != self.address:
                    continue
                # A packet passes a bridge or a VLAN and the card below it: each card has a count of its own.
                total = self.seen.setdefault((peer, "left" if leaves else "arrived", kind, place[0]), [0, 0])
                total[0] += 1
                total[1] += size

    def _total(self, peer: str, direction: str, kind: str) -> dict[str, int]:
        counts = [total for (name, way, what, _card), total in self.seen.items() if (name, way, what) == (peer, direction, kind)]
        packets, size = max(counts, default=[0, 0])
        return {"packets": packets, "bytes": size}

    def answer(self, wanted: str | None) -> dict[str, Any]:
        """What was seen of the peer `wanted`, or of all peers and the kernel's errors."""
        self.drain()
        with contextlib.suppress(OSError):
            _packets, drops = struct.unpack("=II", self.capture.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
            self.lost += drops
        grown = _xfrm.grown(self.states, self._states())
        peers: dict[str, dict[str, Any]] = {}
        for address, name in self.names.items():
            if wanted is not None and name != wanted:
                continue
            peers[name] = {}
            for direction, way in (("left", (self.address, address)), ("arrived", (address, self.address))):
                counts: dict[str, Any] = {kind: self._total(name, direction, kind) for kind in KINDS}
                counts["states"] = grown.get(way, {"packets": 0, "bytes": 0, "associations": 0})
                peers[name][direction] = counts
        told: dict[str, Any] = {
            "lost": self.lost,
            "states_error": self.states_error,
            "esp_offload": os.path.exists(_ESP_OFFLOAD),
            "error": "",
        }
        if wanted is not None:
            return dict(told, **peers.get(wanted, {}), error="" if wanted in peers else "%s is none of this node's peers" % wanted)
        return dict(told, peers=peers, errors=_xfrm.risen(self.errors, _xfrm.errors()), errors_kept=self.errors is not None)

    def serve(self, channel: socket.socket, lifetime: float) -> None:
        """Count and answer until the time is over, or until the other end of `channel` is gone."""
        deadline = time.monotonic() + lifetime
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            # Not woken by each packet, which on a busy host would cost more than counting them.
            ready = select.select([self.listener, channel], [], [], min(left, _PAUSE))[0]
            self.drain()
            if channel in ready:
                line = channel.recv(4096)
                if not line:
                    return
                channel.sendall(json.dumps(self.answer(line.decode("utf-8").rstrip("\n"))).encode("utf-8") + b"\n")
            if self.listener in ready:
                self._tell()

    def _tell(self) -> None:
        with contextlib.suppress(OSError):
            connection, _address = self.listener.accept()
            with connection:
                connection.settimeout(_PATIENCE)
                _pid, user, _group = struct.unpack("=iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
                if user in (0, os.geteuid()):
                    connection.sendall(json.dumps(self.answer(None)).encode("utf-8"))


def start(given: dict[str, Any]) -> socket.socket:
    """Start the process that counts, and return the socket over which it is asked for a peer (a name and a newline).

    `given` has `underlay` (this node's address), `peers` (of `node` and `address`), `vni`, `data_path_port`, `nonce` and `lifetime`.
    Raises OSError.
    """
    watch = Watch(given)
    ours, theirs = socket.socketpair()
    if os.fork():
        theirs.close()
        watch.capture.close()
        watch.listener.close()
        return ours
    try:
        ours.close()
        os.setsid()
        _probe.detach(watch.capture.fileno(), watch.listener.fileno(), theirs.fileno())
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(given["lifetime"] + 5)
        watch.serve(theirs, given["lifetime"])
    finally:
        os._exit(0)


def report(nonce: str) -> dict[str, Any]:
    """Everything that the process of the listener with this nonce has seen; {"error"} when it cannot be asked."""
    data = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(_PATIENCE)
            channel.connect(address_of(nonce))
            while True:
                piece = channel.recv(1 << 16)
                if not piece:
                    break
                data += piece
        found = json.loads(data.decode("utf-8"))
    except (OSError, ValueError) as error:
        return {"error": "what counted the packets on this host is gone: %s" % (getattr(error, "strerror", None) or error or "no answer")}
    return found if isinstance(found, dict) else {"error": "what counted the packets on this host answered something else"}
