# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's name server."""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _lab_resolver

NAMES = {"lab-ms": "10.77.1.11"}
A, AAAA, ANY = 1, 28, 255


def query(name: str, kind: int = A, ident: int = 7, flags: int = 0x0100) -> bytes:
    """One question, as a client asks it."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
    return struct.pack("!HHHHHH", ident, flags, 1, 0, 0, 0) + labels + struct.pack("!HH", kind, 1)


def read(reply: bytes) -> tuple[int, int, int]:
    """(identifier, response code, answers) of a reply that must be one."""
    ident, flags, _questions, answers = struct.unpack("!HHHH", reply[:8])
    assert flags & 0x8000
    return ident, flags & 0xF, answers


@pytest.mark.parametrize("name", ["lab-ms", "LAB-MS"])
@pytest.mark.parametrize("kind", [A, ANY])
def test_known_name(name: str, kind: int) -> None:
    reply = _lab_resolver.answer(query(name, kind, 9), NAMES)
    assert read(reply) == (9, 0, 1)
    assert reply.endswith(socket.inet_aton("10.77.1.11"))


def test_known_name_has_no_ipv6_address() -> None:
    assert read(_lab_resolver.answer(query("lab-ms", AAAA), NAMES)) == (7, 0, 0)


@pytest.mark.parametrize("name", ["registry-1.docker.io", "x", "lab-ms.lab", "a" * 63 + "." + "b" * 63])
def test_no_such_name(name: str) -> None:
    assert read(_lab_resolver.answer(query(name), NAMES)) == (7, 3, 0)


def test_other_operations_are_not_implemented() -> None:
    assert read(_lab_resolver.answer(query("lab-ms", flags=0x2000), NAMES)) == (7, 4, 0)


def test_extra_records_of_the_query_are_not_copied() -> None:
    # EDNS, as glibc and dig send it
    packet = query("lab-ms") + b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0)
    reply = _lab_resolver.answer(packet, NAMES)
    assert read(reply) == (7, 0, 1)
    assert struct.unpack("!H", reply[10:12]) == (0,)


@pytest.mark.parametrize("packet", [b"", b"abc", query("lab-ms", flags=0x8180)])
def test_no_answer_to_what_is_no_query(packet: bytes) -> None:
    assert _lab_resolver.answer(packet, NAMES) == b""


def test_any_bytes_are_survived() -> None:
    source = random.Random(1)
    good = query("lab-ms.example")
    for _round in range(3000):
        packet = bytearray(good[: source.randrange(len(good) + 1)])
        for _change in range(source.randrange(4)):
            if packet:
                packet[source.randrange(len(packet))] = source.randrange(256)
        reply = _lab_resolver.answer(bytes(packet), NAMES)
        assert reply == b"" or reply[:2] == bytes(packet[:2])


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"machines": {"a": {}}}'])
def test_a_record_that_is_not_there_yet(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "lab.json"
    if text is not None:
        path.write_text(text)
    assert _lab_resolver.load_names(str(path)) == {}


def test_serves_and_notices_new_machines(tmp_path: Path) -> None:
    path = tmp_path / "lab.json"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    threading.Thread(target=_lab_resolver.serve, args=("127.0.0.1", str(path), port), daemon=True).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.5)
        client.connect(("127.0.0.1", port))

        def ask(name: str) -> tuple[int, int, int]:
            for _attempt in range(10):
                try:
                    client.send(query(name))
                    return read(client.recv(512))
                except OSError:
                    time.sleep(0.1)
            raise AssertionError("no answer")

        assert ask("lab-wk-1")[1] == 3
        path.write_text(json.dumps({"machines": {"lab-wk-1": {"address": "10.77.1.21"}}}))
        assert ask("lab-wk-1") == (7, 0, 1)
