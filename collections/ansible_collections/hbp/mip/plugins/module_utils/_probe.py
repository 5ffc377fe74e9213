# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reachability between containers: a listener that lives a short time, and the sender that measures it.

One connection carries requests one after the other. A request is a line of JSON, `{"nonce", "op", "size"}`:
`echo` is followed by `size` bytes, which come back; `store` by `size` bytes and their SHA-256 in hexadecimal, and is
answered by a line of JSON `{"ok", "bytes", "sha256", "error"}` after the listener compared the two; `seen` by `size` bytes, the
sender's name, and is answered by a line of JSON that says what the listener's host saw of that node's packets. A request that the
listener does not accept is answered by such a line and the end of the connection.

Beside the connections the listener acknowledges datagrams, `nonce` and `size` and then anything up to that size, by `nonce` and
`size` alone: so the largest packet that passes in one direction is found.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import json
import os
import resource
import select
import signal
import socket
import statistics
import struct
import threading
import time
from typing import Any, Callable

from ansible_collections.hbp.mip.plugins.module_utils import _netlink

LONGEST_LINE = 1024
LARGEST_ECHO = 4096
LARGEST_STORE = 1 << 30
LONGEST_NAME = 253
ROUNDS = 5
CHUNK = 1 << 16
#: Size of a packet that passes wherever anything does.
SMALL_PACKET = 300

_IP_MTU_DISCOVER = 10
_IP_PMTUDISC_PROBE = 3
_HEADERS = 28

_LARGEST_CROWD = 64
_STALL_SECONDS = 15.0
# What gossip has not told yet is there within some times of this.
_GOSSIP_SECONDS = 0.5


class ProbeError(Exception):
    """The other side did not do what the protocol says; the message is for an operator."""


class Stream:
    """Lines and exact numbers of bytes from a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._buffer = b""

    def line(self) -> bytes:
        """The next line without its end; empty at the end of the connection. Raises ProbeError when it is too long."""
        while b"\n" not in self._buffer:
            if len(self._buffer) > LONGEST_LINE:
                raise ProbeError("a line of more than %d bytes" % LONGEST_LINE)
            data = self.connection.recv(CHUNK)
            if not data:
                if self._buffer:
                    raise ProbeError("the connection ended in the middle of a line")
                return b""
            self._buffer += data
        line, _end, self._buffer = self._buffer.partition(b"\n")
        return line

    def take(self, size: int, sink: Callable[[bytes], object]) -> int:
        """Give the next `size` bytes to `sink` in pieces; returns how many there were before the connection ended."""
        taken = 0
        while taken < size:
            if not self._buffer:
                self._buffer = self.connection.recv(min(CHUNK, size - taken))
                if not self._buffer:
                    break
            piece, self._buffer = self._buffer[: size - taken], self._buffer[size - taken :]
            sink(piece)
            taken += len(piece)
        return taken


def _answer(connection: socket.socket, **fields: Any) -> None:
    connection.sendall(json.dumps(fields).encode("ascii") + b"\n")


def parse_request(line: bytes, nonce: str) -> tuple[str, int]:
    """The operation and size that a request line asks for. Raises ProbeError."""
    try:
        request = json.loads(line.decode("ascii"))
        given, operation, size = request["nonce"], request["op"], request["size"]
    except (ValueError, KeyError, TypeError) as error:
        raise ProbeError("not a request of this probe") from error
    if not isinstance(given, str) or not hmac.compare_digest(given.encode("utf-8"), nonce.encode("utf-8")):
        raise ProbeError("wrong nonce: this listener belongs to another run")
    limit = {"echo": LARGEST_ECHO, "store": LARGEST_STORE, "seen": LONGEST_NAME}.get(operation, -1) if isinstance(operation, str) else -1
    if limit < 0:
        raise ProbeError("unknown operation")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= limit:
        raise ProbeError("size must be from 1 to %d" % limit)
    return operation, size


Ask = Callable[[str], "dict[str, Any]"]


def _nothing_seen(_name: str) -> dict[str, Any]:
    return {"error": "packets are not counted here"}


def converse(connection: socket.socket, nonce: str, ask: Ask = _nothing_seen) -> None:
    """The listener's side of one connection, until it ends. `ask` tells what was seen of a node's packets."""
    stream = Stream(connection)
    try:
        while True:
            line = stream.line()
            if not line:
                return
            operation, size = parse_request(line, nonce)
            if operation in ("echo", "seen"):
                pieces: list[bytes] = []
                if stream.take(size, pieces.append) < size:
                    raise ProbeError("the connection ended in the middle of a message")
                if operation == "seen":
                    _answer(connection, **ask(b"".join(pieces).decode("utf-8", "replace")))
                else:
                    connection.sendall(b"".join(pieces))
                continue
            digest = hashlib.sha256()
            taken = stream.take(size, digest.update)
            told: list[bytes] = []
            if taken < size or stream.take(64, told.append) < 64:
                raise ProbeError("only %d of %d bytes arrived" % (taken, size))
            same = hmac.compare_digest(b"".join(told), digest.hexdigest().encode("ascii"))
            error = "" if same else "the bytes that arrived have another SHA-256 than those that were sent"
            _answer(connection, ok=same, bytes=taken, sha256=digest.hexdigest(), error=error)
    except ProbeError as error:
        with contextlib.suppress(OSError):
            _answer(connection, ok=False, bytes=0, sha256="", error=str(error))
            # Closing with unread bytes would reset the connection and destroy the answer on its way.
            connection.shutdown(socket.SHUT_WR)
            _drain(connection)
    except OSError:
        return  # a sender that went away or fell silent
    finally:
        connection.close()


def _drain(connection: socket.socket) -> None:
    deadline = time.monotonic() + 1
    connection.settimeout(0.2)
    while time.monotonic() < deadline and connection.recv(CHUNK):
        pass


def acknowledge(datagrams: socket.socket, nonce: str) -> None:
    """Answer one datagram of `largest_packet`; anything else gets no answer."""
    with contextlib.suppress(OSError):
        data, sender = datagrams.recvfrom(CHUNK)
        key = nonce.encode("ascii")
        head = data[: len(key) + 2]
        if hmac.compare_digest(head[: len(key)], key) and head[len(key) :] == struct.pack("!H", len(data) + _HEADERS):
            datagrams.sendto(head, sender)


def serve(listener: socket.socket, nonce: str, lifetime: float, ask: Ask = _nothing_seen, datagrams: socket.socket | None = None) -> None:
    """Answer connections, and datagrams, until `lifetime` seconds are over."""
    deadline = time.monotonic() + lifetime
    crowd = threading.BoundedSemaphore(_LARGEST_CROWD)

    def answer(connection: socket.socket) -> None:
        try:
            connection.settimeout(_STALL_SECONDS)
            converse(connection, nonce, ask)
        finally:
            crowd.release()

    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return
        ready = select.select([listener, *([datagrams] if datagrams else [])], [], [], left)[0]
        if datagrams and datagrams in ready:
            acknowledge(datagrams, nonce)
        if listener not in ready:
            continue
        try:
            connection, _peer = listener.accept()
        except OSError:
            continue
        if not crowd.acquire(blocking=False):
            connection.close()
            continue
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def listen_detached(
    pid: int, address: str, port: int, nonce: str, lifetime: int, watch: Callable[[], socket.socket] | None = None
) -> dict[str, Any]:
    """Start a listener in the network namespace of process `pid`, as a process of its own.

    It listens on `address` only and ends after `lifetime` seconds, whatever happens. `watch` starts, in the network of the caller,
    what counts packets, and returns the socket over which it is asked for a node.
    Returns {"port", "udp_port", "pid", "interface", "mtu", "watch_error"} or {"error"}; without an answer from `watch` the listener
    runs all the same, and `watch_error` says why nothing is counted.
    """

    def start() -> dict[str, Any]:
        channel, watch_error = None, ""
        try:
            channel = watch() if watch else None
        except OSError as error:
            watch_error = "packets cannot be counted on this host: %s" % (error.strerror or error)
        _netlink.enter_network_of(pid)
        interface, mtu = _netlink.interface_of(address)
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.bind((address, port))
        listener.listen(_LARGEST_CROWD)
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind((address, 0))
        datagrams.setblocking(False)
        os.setsid()
        child = os.fork()
        if child == 0:
            try:
                detach(listener.fileno(), datagrams.fileno(), *([channel.fileno()] if channel else []))
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(lifetime + 5)
                serve(listener, nonce, lifetime, _asking(channel, watch_error), datagrams)
            finally:
                os._exit(0)
        return {
            "port": listener.getsockname()[1],
            "udp_port": datagrams.getsockname()[1],
            "pid": child,
            "interface": interface,
            "mtu": mtu,
            "watch_error": watch_error,
        }

    return _netlink.in_child(start, 10)


def _asking(channel: socket.socket | None, reason: str) -> Ask:
    """The question to what counts packets, one at a time."""
    lock = threading.Lock()

    def ask(name: str) -> dict[str, Any]:
        if channel is None:
            return {"error": reason or "packets are not counted there"}
        with lock:
            try:
                channel.settimeout(_STALL_SECONDS)
                channel.sendall(name.replace("\n", " ").encode("utf-8") + b"\n")
                stream = Stream(channel)
                found: dict[str, Any] = json.loads(stream.line().decode("utf-8"))
                return found
            except (OSError, ValueError, ProbeError) as error:
                return {"error": "what counts packets there does not answer: %s" % error}

    return ask


def detach(*keep: int) -> None:
    """Let go of everything that came with the caller: whoever reads its output would wait for this process otherwise."""
    os.chdir("/")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    first = 3
    for number in sorted(keep):
        os.closerange(first, number)
        first = number + 1
    highest = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 1 << 16)
    os.closerange(first, highest if highest > first else 1 << 16)


def _request(nonce: str, operation: str, size: int) -> bytes:
    return json.dumps({"nonce": nonce, "op": operation, "size": size}).encode("ascii") + b"\n"


def _dial(address: tuple[str, int], timeout: float) -> socket.socket:
    """Connect within `timeout` seconds. Raises OSError.

    Hosts hear of a container by gossip, a moment after it has started: an address that nobody answers for is asked for again.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            return socket.create_connection(address, timeout=max(0.1, deadline - time.monotonic()))
        except OSError as error:
            if error.errno != errno.EHOSTUNREACH or time.monotonic() + _GOSSIP_SECONDS >= deadline:
                raise
        time.sleep(_GOSSIP_SECONDS)


def _connect(target: dict[str, Any], timeout: float) -> socket.socket:
    try:
        connection = _dial((target["address"], target["port"]), timeout)
        connection.settimeout(timeout)
    except socket.timeout as error:
        raise ProbeError(
            "no answer within %g seconds; containers on different hosts cannot reach each other, often because a firewall "
            "drops UDP 4789 or, on an encrypted overlay, IP protocol 50 (ESP)" % timeout
        ) from error
    except ConnectionRefusedError as error:
        raise ProbeError("connection refused; the listener there is gone, run mipfed verify again") from error
    except OSError as error:
        raise ProbeError("cannot connect: %s" % (error.strerror or error)) from error
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def small_round_trip(target: dict[str, Any], timeout: float) -> float:
    """Median of a few round trips of 64 bytes, in milliseconds. Raises ProbeError."""
    with _connect(target, timeout) as connection:
        stream = Stream(connection)
        times = []
        for _round in range(ROUNDS):
            message = os.urandom(64)
            started = time.perf_counter()
            echoed: list[bytes] = []
            try:
                connection.sendall(_request(target["nonce"], "echo", len(message)) + message)
                taken = stream.take(len(message), echoed.append)
            except socket.timeout as error:
                raise ProbeError("connected, but no answer within %g seconds" % timeout) from error
            except OSError as error:
                raise ProbeError("the connection broke: %s" % (error.strerror or error)) from error
            answer = b"".join(echoed)
            if taken < len(message) or answer != message:
                raise ProbeError(_refusal(answer))
            times.append((time.perf_counter() - started) * 1000)
        return round(statistics.median(times), 3)


def _refusal(answer: bytes) -> str:
    """What the listener meant by something that is not the echo."""
    try:
        return "the listener refused: %s" % json.loads(answer.decode("ascii"))["error"]
    except (ValueError, KeyError, TypeError):
        if answer.startswith(b"{"):
            found = answer.partition(b'"error": "')[2].partition(b'"')[0].decode("ascii", "replace")
            return "the listener refused%s" % (": " + found if found else "")
        return "the answer was not what was sent" if answer else "the listener closed the connection"


def large_transfer(target: dict[str, Any], size: int, timeout: float) -> tuple[int, float]:
    """Send `size` bytes and have them verified. Returns the bytes and MB/s (10^6 bytes). Raises ProbeError."""
    block = os.urandom(CHUNK)
    digest = hashlib.sha256()
    sent = 0
    deadline = time.monotonic() + timeout
    with _connect(target, min(timeout, 10.0)) as connection:
        connection.settimeout(min(timeout, _STALL_SECONDS))
        started = time.perf_counter()
        try:
            connection.sendall(_request(target["nonce"], "store", size))
            while sent < size:
                if time.monotonic() > deadline:
                    raise ProbeError("only %d of %d bytes were sent within %g seconds" % (sent, size, timeout))
                # the counter makes the pieces differ, so that a lost or doubled one is noticed
                piece = (sent.to_bytes(8, "big") + block)[: min(CHUNK, size - sent)]
                connection.sendall(piece)
                digest.update(piece)
                sent += len(piece)
            connection.sendall(digest.hexdigest().encode("ascii"))
            line = Stream(connection).line()
        except socket.timeout as error:
            raise ProbeError(
                "stalled after %d of %d bytes, while small messages pass: the overlay's MTU is too large for this path, "
                "lower mip_overlay.mtu" % (sent, size)
            ) from error
        except OSError as error:
            raise ProbeError(_broken(connection, sent, size, error)) from error
        seconds = max(time.perf_counter() - started, 1e-6)
    try:
        answer = json.loads(line.decode("ascii"))
        ok, digest_there = answer["ok"], answer["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ProbeError("the listener's answer cannot be read") from error
    if not ok:
        raise ProbeError("the listener refused: %s" % answer.get("error"))
    if digest_there != digest.hexdigest():
        raise ProbeError("the listener received other bytes than were sent (SHA-256 differs)")
    return sent, round(size / seconds / 1e6, 2)


def _broken(connection: socket.socket, sent: int, size: int, error: OSError) -> str:
    """Why a transfer broke: the listener's own words when they arrived before the end."""
    with contextlib.suppress(OSError, ProbeError, ValueError, KeyError, TypeError):
        return "the listener refused: %s" % json.loads(Stream(connection).line().decode("ascii"))["error"]
    return "the connection broke after %d of %d bytes: %s" % (sent, size, error.strerror or error)


def seen_there(target: dict[str, Any], node: str, timeout: float) -> dict[str, Any]:
    """What the target's host saw of this node's packets; {"error"} when it cannot tell."""
    name = node.encode("utf-8")
    try:
        with _connect(target, timeout) as connection:
            connection.sendall(_request(target["nonce"], "seen", len(name)) + name)
            found: dict[str, Any] = json.loads(Stream(connection).line().decode("utf-8"))
            return found
    except (OSError, ValueError, ProbeError) as error:
        return {"error": "the receiver's host did not tell what it saw: %s" % error}


def largest_packet(target: dict[str, Any], mtu: int) -> int | None:
    """Size of the largest packet, up to `mtu`, that reaches the target whole; None when not even small ones are acknowledged."""
    nonce = target["nonce"].encode("ascii")
    acknowledged: set[int] = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        # May not be split, whatever the kernel believes to know about the path.
        channel.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        channel.connect((target["address"], target["udp_port"]))

        def attempt(sizes: list[int], seconds: float) -> None:
            for size in sizes:
                with contextlib.suppress(OSError):  # larger than the card takes, or the answer to an earlier one
                    channel.send((nonce + struct.pack("!H", size)).ljust(size - _HEADERS, b"\0"))
            until = time.monotonic() + seconds
            while not acknowledged.issuperset(sizes):
                left = until - time.monotonic()
                if left <= 0 or not select.select([channel], [], [], left)[0]:
                    return
                with contextlib.suppress(OSError):
                    data = channel.recv(64)
                    if data[: len(nonce)] == nonce and len(data) == len(nonce) + 2:
                        acknowledged.add(struct.unpack("!H", data[-2:])[0])

        for again in range(1, 5):
            attempt([SMALL_PACKET, mtu], 0.4 * again)
            if mtu in acknowledged:
                return mtu
        if not acknowledged:
            return None
        for step, reach in ((16, mtu), (4, 16)):
            lowest = max(acknowledged)
            sizes = list(range(lowest + step, min(mtu, lowest + reach), step))
            for _again in range(3):
                attempt([size for size in sizes if size not in acknowledged], 0.4)
    return max(acknowledged)


def measure(
    targets: list[dict[str, Any]], large_bytes: int, timeout: float, large_timeout: float, node: str = "", mtu: int = 0
) -> list[dict[str, Any]]:
    """Small round trips and the largest packet to all targets at once, then a large transfer to one after the other.

    With `node`, this node's name, the target's host is asked at the end what it saw of this node's packets (`seen`).
    """
    results: list[dict[str, Any]] = [
        {"node": target["node"], "small_ms": None, "bytes": 0, "mb_per_s": None, "ok": False, "error": "", "packet": None, "seen": {}}
        for target in targets
    ]

    def small(index: int) -> None:
        result = results[index]
        try:
            result["small_ms"] = small_round_trip(targets[index], timeout)
            if mtu > SMALL_PACKET and targets[index].get("udp_port"):
                result["packet"] = largest_packet(targets[index], mtu)
                if result["packet"] is not None and result["packet"] < mtu:
                    result["error"] = "packets of %d bytes pass, and those of %d, which the overlay's MTU allows, do not" % (
                        result["packet"],
                        mtu,
                    )
        except Exception as error:
            result["error"] = str(error) or type(error).__name__

    threads = [threading.Thread(target=small, args=(index,)) for index in range(len(targets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, target in enumerate(targets):
        result = results[index]
        if not result["error"]:
            try:
                if large_bytes:
                    result["bytes"], result["mb_per_s"] = large_transfer(target, large_bytes, large_timeout)
                result["ok"] = True
            except Exception as error:
                result["error"] = str(error) or type(error).__name__
        if node and result["small_ms"] is not None:
            result["seen"] = seen_there(target, node, timeout)
    return results
