# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The name server of a lab: knows the lab's machines, and says at once that every other name does not exist.

A silent resolver costs the Docker engine about 20 seconds for each image whose digest it looks up, so a lab without a way
out needs one that answers. Runs by itself (``python3 -I resolver.py ADDRESS LAB_FILE``), with the standard library only.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from typing import Dict

A, ANY, NXDOMAIN, NOTIMP, FORMERR = 1, 255, 3, 4, 1


def question_end(packet: bytes) -> int:
    """Offset behind the first question; ValueError when the packet is cut off or compressed there."""
    offset = 12
    while True:
        if offset >= len(packet):
            raise ValueError("cut off")
        length = packet[offset]
        if length > 63:
            raise ValueError("compressed")
        offset += 1 + length
        if length == 0:
            if offset + 4 > len(packet):
                raise ValueError("cut off")
            return offset + 4


def question_name(packet: bytes) -> str:
    """The name asked for, lower case, without the last dot."""
    labels, offset = [], 12
    while packet[offset]:
        labels.append(packet[offset + 1 : offset + 1 + packet[offset]].decode("ascii", "replace"))
        offset += 1 + packet[offset]
    return ".".join(labels).lower()


def answer(packet: bytes, names: Dict[str, str]) -> bytes:
    """The reply to one query: an address of the lab, an empty answer, or "no such name"; empty for what is no query."""
    if len(packet) < 12:
        return b""
    ident, flags, questions = struct.unpack("!HHH", packet[:6])
    if flags & 0x8000:
        return b""
    # a response, authoritative, recursion "available", so that no client looks further
    head = 0x8480 | (flags & 0x7900)
    if questions != 1:
        return struct.pack("!HHHHHH", ident, head | FORMERR, 0, 0, 0, 0)
    try:
        end = question_end(packet)
    except ValueError:
        return struct.pack("!HHHHHH", ident, head | FORMERR, 0, 0, 0, 0)
    question = packet[12:end]
    if flags & 0x7800:
        return struct.pack("!HHHHHH", ident, head | NOTIMP, 1, 0, 0, 0) + question
    address = names.get(question_name(packet))
    if address is None:
        return struct.pack("!HHHHHH", ident, head | NXDOMAIN, 1, 0, 0, 0) + question
    kind = struct.unpack("!H", question[-4:-2])[0]
    if kind not in (A, ANY):
        return struct.pack("!HHHHHH", ident, head, 1, 0, 0, 0) + question
    record = struct.pack("!HHHIH", 0xC00C, A, 1, 5, 4) + socket.inet_aton(address)
    return struct.pack("!HHHHHH", ident, head, 1, 1, 0, 0) + question + record


def load_names(path: str) -> Dict[str, str]:
    """Name to address of every machine in the lab's file; empty while there is none."""
    try:
        with open(path, encoding="utf-8") as stream:
            machines = json.load(stream).get("machines", {})
        return {name.lower(): machine["address"] for name, machine in machines.items()}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}


def serve(address: str, path: str, port: int = 53) -> None:
    """Answers for ever on UDP ``address``:``port``; the file is read again when it changes."""
    link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    link.bind((address, port))
    names: Dict[str, str] = {}
    seen = (0, 0)
    while True:
        packet, client = link.recvfrom(4096)
        try:
            status = os.stat(path)
            now = (status.st_mtime_ns, status.st_ino)
        except OSError:
            now = (0, 0)
        if now != seen:
            names, seen = load_names(path), now
        reply = answer(packet, names)
        if reply:
            try:
                link.sendto(reply, client)
            except OSError as exc:
                sys.stderr.write("cannot answer %s: %s\n" % (client[0], exc))


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
