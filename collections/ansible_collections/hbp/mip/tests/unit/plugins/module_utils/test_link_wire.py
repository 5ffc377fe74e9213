# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hbp.mip.plugins.module_utils import _link_wire
from ansible_collections.hbp.mip.plugins.module_utils._link_wire import ESP, SYN, TCP, UDP, Run

RUN = Run("5c0f6a1d7f0e4c8bb4ad5d1fb0a97c11")


def ip(protocol: int, body: bytes, *, options: bytes = b"", fragment: int = 0, version: int = 4) -> bytes:
    length = 20 + len(options)
    head = struct.pack("!BBHHHBBH", version << 4 | length // 4, 0, length + len(body), 1, fragment, 64, protocol, 0)
    return head + socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2") + options + body


def evaluate(code: bytes, data: bytes) -> int:
    """Run a classic BPF program as the kernel does: a load beyond the packet drops it."""
    accumulator = index = place = 0
    while True:
        operation, true, false, value = struct.unpack_from("=HBBI", code, place * 8)
        place += 1
        width = {0x00: 4, 0x08: 2, 0x10: 1}[operation & 0x18]
        if operation in (0x28, 0x30, 0x40, 0x48, 0x50):
            start = value + (index if operation & 0xE0 == 0x40 else 0)
            if start + width > len(data):
                return 0
            accumulator = int.from_bytes(data[start : start + width], "big")
        elif operation == 0xB1:
            if value >= len(data):
                return 0
            index = (data[value] & 15) * 4
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x15:
            place += true if accumulator == value else false
        elif operation == 0x45:
            place += true if accumulator & value else false
        elif operation == 0x06:
            return value
        else:
            raise AssertionError(hex(operation))


@given(
    kind=st.integers(0, 255), protocol=st.integers(0, 255), port=st.integers(0, 65535), size=st.integers(0, 65535),
    attempt=st.integers(0, 65535), tail=st.binary(max_size=40),
)  # fmt: skip
def test_message_round_trip(kind: int, protocol: int, port: int, size: int, attempt: int, tail: bytes) -> None:
    data = RUN.message(kind, protocol, port, size, attempt, RUN.identity("a"), RUN.identity("b"))
    assert len(data) == _link_wire.MESSAGE
    read = RUN.read(data + tail)
    assert read == (kind, protocol, port, size, attempt, RUN.identity("a"), RUN.identity("b"))
    assert Run("00" * 16).read(data) is None
    assert RUN.read(data[:-1]) is None


@given(data=st.binary(max_size=120), where=st.integers(0, _link_wire.MESSAGE - 1), bit=st.integers(0, 7))
def test_nothing_else_is_a_message(data: bytes, where: int, bit: int) -> None:
    assert RUN.read(data) is None and RUN.read(RUN.magic + data) is None
    changed = bytearray(RUN.message(1, 17, 7946, 80, 0, b"a" * 8, b"b" * 8))
    changed[where] ^= 1 << bit
    assert RUN.read(bytes(changed)) is None


def test_the_nonce_does_not_travel() -> None:
    data = RUN.message(1, 17, 7946, 80, 0, RUN.identity("a"), RUN.identity("b")) + RUN.spi + RUN.request(b"C", RUN.identity("a"), 1)
    assert RUN.key not in data and RUN.key.hex() not in RUN.label("a") and b"hospital" not in RUN.identity("hospital")
    assert struct.unpack("!I", RUN.spi)[0] > 255
    assert RUN.label("a") != RUN.label("b") != Run("11" * 16).label("b")


def test_requests_are_answered_by_their_receiver_only() -> None:
    request = RUN.request(_link_wire.CHECK, RUN.identity("a"), 7946)
    assert len(request) == _link_wire.REQUEST
    assert len(RUN.reply(request, RUN.identity("a"), 7946)) == 16
    assert RUN.reply(request, RUN.identity("b"), 7946) == RUN.reply(request, RUN.identity("a"), 2377) == b""
    assert RUN.reply(b"X" + request[1:], RUN.identity("a"), 7946) == RUN.reply(b"", RUN.identity("a"), 7946) == b""


@given(data=st.binary(max_size=100))
def test_packets_of_any_bytes(data: bytes) -> None:
    found = _link_wire.packet(data)
    if found is not None:
        _link_wire.segment(found.body)
    found = _link_wire.packet(ip(UDP, data))
    assert found is not None and found.body == data and found.source == "192.0.2.1" and found.size == 20 + len(data)
    assert evaluate(_link_wire.socket_filter(RUN.magic, [7946]), data) in (0, 192)


@pytest.mark.parametrize("options", [b"", b"\x01" * 4, b"\x01" * 40])
def test_the_filter_passes_what_is_meant(options: bytes) -> None:
    code = _link_wire.socket_filter(RUN.magic, [2377, 7946])

    def passes(protocol: int, body: bytes, **how: int) -> bool:
        return evaluate(code, ip(protocol, body, options=options, **how)) > 0

    def tcp(source: int, destination: int, flags: int) -> bytes:
        return struct.pack("!HHIIBBHHH", source, destination, 1, 2, 0x50, flags, 0, 0, 0)

    message = RUN.message(1, 17, 7946, 80, 0, b"a" * 8, b"b" * 8)
    datagram = struct.pack("!HHHH", 1, 7946, 0, 0)
    assert passes(ESP, b"\0" * 8 + message) and passes(UDP, datagram + b"\0" * 8 + message)
    assert not passes(ESP, b"\0" * 7 + message) and not passes(UDP, datagram + message)
    assert not passes(ESP, b"\0" * 8) and not passes(UDP, b"") and not passes(1, b"\0" * 8 + message)
    assert not passes(ESP, b"\0" * 8 + message, fragment=1) and passes(ESP, b"\0" * 8 + message, fragment=0x4000)
    assert not passes(ESP, b"\0" * 8 + message, version=6)
    for port in (2377, 7946):
        assert passes(TCP, tcp(port, 40000, SYN | 0x10)) and passes(TCP, tcp(40000, port, SYN)) and passes(TCP, tcp(port, 1, 0x14))
        assert not passes(TCP, tcp(40000, port, 0x10)) and not passes(TCP, tcp(40000, port + 1, SYN))


def test_a_filter_of_many_ports_has_no_jump_too_far() -> None:
    code = _link_wire.socket_filter(RUN.magic, list(range(1000, 1060)))
    assert evaluate(code, ip(TCP, struct.pack("!HHIIBB", 9, 1059, 0, 0, 0, SYN))) > 0
    assert evaluate(code, ip(TCP, struct.pack("!HHIIBB", 1000, 9, 0, 0, 0, SYN))) > 0
    assert evaluate(code, ip(ESP, b"\0" * 8 + RUN.magic)) > 0


def test_checksum() -> None:
    # the example of RFC 1071, section 3
    assert _link_wire.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2
    datagram = _link_wire.udp_datagram("192.0.2.1", "192.0.2.2", 7946, 40000, b"odd")
    pseudo = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2") + struct.pack("!BBH", 0, 17, len(datagram))
    assert _link_wire.checksum(pseudo + datagram) == 0


def test_prefixes() -> None:
    assert _link_wire.prefix(4789, 4789)[0] & 0x08 == 0, "VXLAN's flag I: the kernel would take it for a frame"
    assert _link_wire.prefix(7946, 4789)[0] not in (0, 1, 244), "versions and labels that memberlist knows"
