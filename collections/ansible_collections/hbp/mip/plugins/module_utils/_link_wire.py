# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The packets of the link probe: how they are made, recognised, filtered in the kernel and answered.

A probe is a packet of the protocol that is measured. UDP carries eight bytes in front that keep the protocol's own receiver quiet,
ESP its security parameter index and sequence number; then follows the message::

    0   4  magic      of the run, so that the kernel can pass over everything else
    4   1  kind       1 probe, 2 answer
    5   1  protocol   17 or 50
    6   2  port       probed port; for ESP the UDP port to answer to
    8   2  size       of the whole IP packet
    10  2  attempt    from 0
    12  8  sender     of the run and the node's name
    20  8  receiver
    28  16 proof      HMAC-SHA256 of the above with the run's nonce, cut

Answers are UDP datagrams from the probed port; to ESP from the first UDP port that is listened on, since an answer by ESP would make
the firewall of the one who gets it believe in a connection. The nonce itself never travels. TCP packets carry nothing of ours; a
handshake is recognised at both ends by its initial sequence number, or its source port where a device in between changes the former.
On ports where the probe itself listens, both sides also prove that they know the nonce.
"""

from __future__ import annotations

import ctypes
import hashlib
import hmac
import socket
import struct
from typing import NamedTuple

ESP = 50
TCP = 6
UDP = 17
PROBE = 1
ANSWER = 2
HEADER = struct.Struct("!4sBBHHH8s8s")
MESSAGE = HEADER.size + 16
PREFIX = 8
#: Smallest IP packet that holds a message: IP header, UDP header, prefix.
SMALLEST = 20 + 8 + PREFIX + MESSAGE
#: The largest that an IP packet can be.
LARGEST = 65535

CHECK = b"C"
STREAM = b"S"
REQUEST = 17

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10


class Run:
    """What the nonce of a run gives: identities, proofs and the magic of its packets."""

    def __init__(self, nonce: str) -> None:
        self.key = bytes.fromhex(nonce)
        self.magic = self._digest(b"magic")[:4]
        # Security parameter indexes below 256 are reserved; a common one would make the packet look like no ESP at all.
        self.spi = struct.pack("!I", int.from_bytes(self._digest(b"spi")[:4], "big") | 0x80000000)

    def _digest(self, data: bytes) -> bytes:
        return hmac.new(self.key, data, hashlib.sha256).digest()

    def identity(self, node: str) -> bytes:
        """The eight bytes that stand for a node in the packets of this run."""
        return self._digest(b"node:" + node.encode("utf-8"))[:8]

    def label(self, node: str) -> str:
        """A word for file names that tells neither the nonce nor anything about the node."""
        return self._digest(b"state:" + node.encode("utf-8")).hex()[:24]

    def message(self, kind: int, protocol: int, port: int, size: int, attempt: int, sender: bytes, receiver: bytes) -> bytes:
        """A message with its proof."""
        header = HEADER.pack(self.magic, kind, protocol, port, size, attempt, sender, receiver)
        return header + self._digest(header)[:16]

    def read(self, data: bytes) -> Message | None:
        """The message at the start of `data`, or None when it is not one of this run."""
        if len(data) < MESSAGE or data[:4] != self.magic:
            return None
        header, proof = data[: HEADER.size], data[HEADER.size : MESSAGE]
        if not hmac.compare_digest(self._digest(header)[:16], proof):
            return None
        return Message(*HEADER.unpack(header)[1:])

    def request(self, kind: bytes, receiver: bytes, port: int) -> bytes:
        """What a sender says first on a TCP connection."""
        return kind + self._digest(b"tcp" + kind + receiver + struct.pack("!H", port))[:16]

    def reply(self, request: bytes, receiver: bytes, port: int) -> bytes:
        """What the listener answers; empty when the request is not one of this run."""
        kind = request[:1]
        if kind not in (CHECK, STREAM) or not hmac.compare_digest(request, self.request(kind, receiver, port)):
            return b""
        return self._digest(b"answer" + request + receiver)[:16]


class Message(NamedTuple):
    """A message of a run; see the top of this file."""

    kind: int
    protocol: int
    port: int
    size: int
    attempt: int
    sender: bytes
    receiver: bytes


def prefix(port: int, data_path_port: int) -> bytes:
    """The eight bytes before the message in a UDP datagram.

    On the data path port they are a VXLAN header without the flag that says that it carries a network id; the kernel drops such a
    datagram without a word (RFC 7348, section 5). The nodes' gossip takes the first byte for a version of its encryption; one that
    does not exist is refused before anything else is looked at.
    """
    return b"\0" * PREFIX if port == data_path_port else b"\xff" * PREFIX


class Packet(NamedTuple):
    """What matters of an IPv4 packet; `body` begins after the IP header."""

    protocol: int
    source: str
    destination: str
    size: int
    body: bytes


def packet(data: bytes) -> Packet | None:
    """An IPv4 packet that begins with `data` (its end may be missing); None when it is none or a later fragment."""
    if len(data) < 20 or data[0] >> 4 != 4:
        return None
    length = (data[0] & 15) * 4
    size, _identity, fragment = struct.unpack_from("!HHH", data, 2)
    if fragment & 0x1FFF or length < 20 or len(data) < length:
        return None
    return Packet(data[9], socket.inet_ntoa(data[12:16]), socket.inet_ntoa(data[16:20]), size, data[length:])


class Segment(NamedTuple):
    """What matters of a TCP segment."""

    source_port: int
    destination_port: int
    sequence: int
    acknowledged: int
    flags: int


def segment(body: bytes) -> Segment | None:
    """The TCP header at the start of `body`."""
    if len(body) < 14:
        return None
    source_port, destination_port, sequence, acknowledged, _offset, flags = struct.unpack_from("!HHIIBB", body)
    return Segment(source_port, destination_port, sequence, acknowledged, flags)


def udp_datagram(source: str, destination: str, source_port: int, destination_port: int, data: bytes) -> bytes:
    """A UDP datagram with its checksum, for a raw socket."""
    length = 8 + len(data)
    header = struct.pack("!HHHH", source_port, destination_port, length, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!BBH", 0, UDP, length)
    total = checksum(pseudo + header + data) or 0xFFFF
    return header[:6] + struct.pack("!H", total) + data


def checksum(data: bytes) -> int:
    """The checksum of the Internet protocols (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


_LD_H_ABS, _LD_B_ABS = 0x28, 0x30
_LD_W_IND, _LD_H_IND, _LD_B_IND = 0x40, 0x48, 0x50
_LDX_IP_LENGTH = 0xB1
_AND, _JUMP, _JEQ, _JSET, _RET = 0x54, 0x05, 0x15, 0x45, 0x06
_SNAP = 192
_SO_ATTACH_FILTER = 26


def socket_filter(magic: bytes, tcp_ports: list[int]) -> bytes:
    """A filter (classic BPF) for sockets that see IPv4 packets from the IP header on.

    It passes the messages of the run with this magic, and from TCP the first packets (SYN, RST) of connections to and from these ports.
    """
    number = int.from_bytes(magic, "big")
    ports = sorted(set(tcp_ports))
    # every step: (code, value, jump when true, jump when false); jumps name a label, an empty one is the next step
    steps: list[tuple[str, int, int, str, str]] = [
        ("", _LD_B_ABS, 0, "", ""),
        ("", _AND, 0xF0, "", ""),
        ("", _JEQ, 0x40, "", "drop"),
        ("", _LD_H_ABS, 6, "", ""),
        ("", _JSET, 0x1FFF, "drop", ""),
        ("", _LDX_IP_LENGTH, 0, "", ""),
        ("", _LD_B_ABS, 9, "", ""),
        ("", _JEQ, ESP, "esp", ""),
        ("", _JEQ, UDP, "udp", ""),
        ("", _JEQ, TCP, "", "drop"),
        ("", _LD_B_IND, 13, "", ""),
        ("", _JSET, SYN | RST, "", "drop"),
        ("", _LD_H_IND, 0, "", ""),
        *(("", _JEQ, port, "pass", "") for port in ports),
        ("", _LD_H_IND, 2, "", ""),
        *(("", _JEQ, port, "pass", "") for port in ports),
        ("drop", _RET, 0, "", ""),
        ("esp", _LD_W_IND, 8, "", ""),
        ("", _JEQ, number, "pass", "nothing"),
        ("udp", _LD_W_IND, 8 + PREFIX, "", ""),
        ("", _JEQ, number, "pass", "nothing"),
        ("nothing", _RET, 0, "", ""),
        ("pass", _RET, _SNAP, "", ""),
    ]
    places = {step[0]: index for index, step in enumerate(steps) if step[0]}
    code = b""
    for index, (_label, operation, value, true, false) in enumerate(steps):
        jumps = [places[name] - index - 1 if name else 0 for name in (true, false)]
        code += struct.pack("=HBBI", operation, jumps[0], jumps[1], value)
    return code


#: A filter that passes nothing, for sockets that only send.
NOTHING = struct.pack("=HBBI", _RET, 0, 0, 0)


def attach(endpoint: socket.socket, code: bytes) -> None:
    """Let a socket receive only what a filter passes. Raises OSError."""
    program = ctypes.create_string_buffer(code, len(code))
    endpoint.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(code) // 8, ctypes.addressof(program)))
