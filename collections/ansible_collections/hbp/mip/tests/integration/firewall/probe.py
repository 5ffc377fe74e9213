# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on lab machines: listens on ports, or sends to those of others. Standard library, Python 3.8 and newer.

`probe.py listen LOG` listens on every port below over IPv4 and IPv6 and writes `FAMILY PROTO PORT WORD` for what arrives.
`probe.py send WORD ADDRESS...` sends WORD to every port of every address, and prints as JSON which TCP ports answered it.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import sys
import time
from pathlib import Path

TCP = (2377, 7946, 8080)
UDP = (7946, 4789)
# a container of Docker answers here
PUBLISHED = (9090,)
ESP = 50
WAIT = 3.0


def family_of(address: str) -> int:
    """The family of an address as text."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def listen(path: str) -> None:
    """Listen for ever."""
    chosen = selectors.DefaultSelector()
    with Path(path).open("a", buffering=1, encoding="ascii") as log:
        for family in (socket.AF_INET, socket.AF_INET6):
            digit = 6 if family == socket.AF_INET6 else 4
            for kind, name, ports in ((socket.SOCK_STREAM, "tcp", TCP), (socket.SOCK_DGRAM, "udp", UDP)):
                for port in ports:
                    listener = socket.socket(family, kind)
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if digit == 6:
                        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    listener.bind(("", port))
                    if name == "tcp":
                        listener.listen(64)
                    listener.setblocking(False)
                    chosen.register(listener, selectors.EVENT_READ, (digit, name, port))
            raw = socket.socket(family, socket.SOCK_RAW, ESP)
            raw.setblocking(False)
            chosen.register(raw, selectors.EVENT_READ, (digit, "esp", 0))
        log.write("ready\n")
        while True:
            for key, _events in chosen.select():
                digit, name, port = key.data
                try:
                    if name == "tcp":
                        connection, _peer = key.fileobj.accept()
                        connection.setblocking(False)
                        chosen.register(connection, selectors.EVENT_READ, (digit, "stream", port))
                        continue
                    data = key.fileobj.recv(2048)
                    if name == "stream":
                        chosen.unregister(key.fileobj)
                        key.fileobj.send(data)
                        key.fileobj.close()
                        name = "tcp"
                except OSError:
                    if name == "stream":
                        chosen.unregister(key.fileobj)
                        key.fileobj.close()
                    continue
                word = data[data.rfind(b"<") + 1 : data.rfind(b">")].decode("ascii", "replace")
                log.write(f"{digit} {name} {port} {word}\n")


def send(word: str, addresses: list[str]) -> dict[str, list[int]]:
    """Send to all at once. Returns the TCP ports that answered, by address."""
    text = f"<{word}>".encode("ascii")
    for address in addresses:
        family = family_of(address)
        for port in UDP:
            # the guard of this host lets no process speak VXLAN
            with socket.socket(family, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
                sender.sendto(text, (address, port))
        with socket.socket(family, socket.SOCK_RAW, ESP) as sender:
            sender.sendto(b"MIP\1\0\0\0\1" + text, (address, 0))
    chosen = selectors.DefaultSelector()
    answered: dict[str, list[int]] = {address: [] for address in addresses}
    for address in addresses:
        for port in (*TCP, *PUBLISHED):
            connection = socket.socket(family_of(address), socket.SOCK_STREAM)
            connection.setblocking(False)
            connection.connect_ex((address, port))
            chosen.register(connection, selectors.EVENT_WRITE, (address, port))
    deadline = time.monotonic() + WAIT
    while chosen.get_map() and time.monotonic() < deadline:
        for key, events in chosen.select(0.2):
            try:
                if events & selectors.EVENT_WRITE:
                    key.fileobj.send(text)
                    chosen.modify(key.fileobj, selectors.EVENT_READ, key.data)
                    continue
                if key.fileobj.recv(2048) == text:
                    answered[key.data[0]].append(key.data[1])
            except OSError:
                pass  # refused or reset: no answer
            chosen.unregister(key.fileobj)
            key.fileobj.close()
    return answered


if __name__ == "__main__":
    if sys.argv[1] == "listen":
        listen(sys.argv[2])
    else:
        print(json.dumps(send(sys.argv[2], sys.argv[3:])))
