# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What passes on the bridge, seen and made. Standard library only: the same text runs on the bridge and in the machines.

wire.py capture NEEDLE        until its input ends; then one line of JSON: packets by kind and pair, packets with the needle in clear
wire.py inject                one line of JSON on the input: sends VXLAN frames
wire.py receive ADDRESS PORT NEEDLE SECONDS
                              says READY, then what arrived: datagrams at a socket, and frames with the needle at all
"""

from __future__ import annotations

import collections
import contextlib
import json
import select
import socket
import struct
import sys
import time
from typing import Any

ETH_P_ALL, ETH_P_IP = 3, 0x0800
PACKET_OUTGOING = 4
SOL_PACKET, PACKET_STATISTICS, SO_RCVBUFFORCE = 263, 6, 33
UDP, ESP = 17, 50
VXLAN = 4789


def kind_of(frame: bytes) -> tuple[str, str, str] | None:
    """Return source, destination and kind (esp, vxlan, udp, tcp, …) of an IPv4 packet in an Ethernet frame."""
    if len(frame) < 34 or struct.unpack_from("!H", frame, 12)[0] != ETH_P_IP:
        return None
    header = 14 + (frame[14] & 15) * 4
    source, destination = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
    protocol = frame[23]
    if protocol == ESP:
        return source, destination, "esp"
    if protocol == UDP:
        # the data path port of an outgoing VXLAN packet is the destination's; of both sides none other is looked at
        ports = struct.unpack_from("!HH", frame, header) if len(frame) >= header + 4 else (0, 0)
        return source, destination, "vxlan" if VXLAN in ports else "udp"
    return source, destination, {1: "icmp", 6: "tcp"}.get(protocol, str(protocol))


def capture(needle: bytes) -> dict[str, Any]:
    """Count what machines send over the bridge until the standard input ends."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as taken:
        taken.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 128 << 20)
        print("READY", flush=True)
        packets: collections.Counter[tuple[str, str, str]] = collections.Counter()
        clear: collections.Counter[tuple[str, str, str]] = collections.Counter()
        largest: collections.Counter[str] = collections.Counter()
        end = 0.0
        while not end or time.monotonic() < end:
            ready, _writable, _broken = select.select([taken] if end else [taken, sys.stdin], [], [], 1 if end else None)
            if taken not in ready and end:
                break
            if sys.stdin in ready:
                # what waits is taken as well; it is never quiet for long where engines gossip
                end = time.monotonic() + 10
            if taken not in ready:
                continue
            frame, origin = taken.recvfrom(1 << 16)
            # each frame once, as it comes in from a machine's port
            if origin[2] == PACKET_OUTGOING or not str(origin[0]).startswith("tap"):
                continue
            found = kind_of(frame)
            if found is None:
                continue
            packets[found] += 1
            largest[found[2]] = max(largest[found[2]], struct.unpack_from("!H", frame, 16)[0])
            if needle and needle in frame:
                clear[found] += 1
        _seen, lost = struct.unpack("II", taken.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    return {
        "packets": [[*key, number] for key, number in sorted(packets.items())],
        "clear": [[*key, number] for key, number in sorted(clear.items())],
        "largest": dict(largest),
        "lost": lost,
    }


def checksum(data: bytes) -> int:
    """Return the internet checksum."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def datagram(source: str, destination: str, ports: tuple[int, int], payload: bytes) -> bytes:
    """Return an IPv4 packet with a UDP datagram; its checksum is left out, which IPv4 allows."""
    udp = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, UDP, 0, socket.inet_aton(source), socket.inet_aton(destination))
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + udp


def vxlan_frame(given: dict[str, Any]) -> bytes:
    """Return an Ethernet frame with a VXLAN packet with an Ethernet frame with a UDP datagram."""
    inner = _mac(given["inner_mac"]) + _mac(given["inner_source_mac"]) + struct.pack("!H", ETH_P_IP)
    inner += datagram(given["inner_source"], given["inner_destination"], (40000, given["port"]), given["needle"].encode())
    outer = struct.pack("!II", 0x08000000, given["vni"] << 8) + inner
    return (
        _mac(given["mac"])
        + _mac(given["source_mac"])
        + struct.pack("!H", ETH_P_IP)
        + datagram(given["source"], given["destination"], (50000, VXLAN), outer)
    )


def inject() -> dict[str, Any]:
    """Send the frame that the input describes, several times."""
    given = json.loads(sys.stdin.readline())
    frame = vxlan_frame(given)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as out:
        out.bind((given["interface"], 0))
        for _number in range(given["count"]):
            out.send(frame)
            time.sleep(0.05)
    return {"sent": given["count"], "bytes": len(frame)}


def receive(address: str, port: int, needle: bytes, seconds: float) -> dict[str, Any]:
    """Count what arrives here: datagrams at a socket, and frames that have the needle in them."""
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as taken,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound,
    ):
        bound.bind((address, port))
        taken.setblocking(False)
        print("READY", flush=True)
        last = b"end of " + needle
        datagrams = frames = control = 0
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not control:
            ready, _writable, _broken = select.select([taken, bound], [], [], max(0.0, deadline - time.monotonic()))
            if bound in ready:
                data = bound.recv(1 << 16)
                control += data == last
                datagrams += needle in data and data != last
            # also what came in before the last datagram
            with contextlib.suppress(BlockingIOError):
                while True:
                    frame = taken.recv(1 << 16)
                    frames += needle in frame and last not in frame
    return {"datagrams": datagrams, "frames": frames, "control": control}


def main() -> None:
    """Do what the arguments say."""
    verb, arguments = sys.argv[1], sys.argv[2:]
    if verb == "capture":
        answer = capture(arguments[0].encode())
    elif verb == "inject":
        answer = inject()
    else:
        answer = receive(arguments[0], int(arguments[1]), arguments[2].encode(), float(arguments[3]))
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
