# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The link probe's listener: one detached process per host that sees what leaves, what arrives and what is let in.

What leaves and arrives is seen by a packet socket, at the network card's side of every filter. What was let in is seen by raw
sockets, behind the INPUT rules, whoever owns the port. The process answers the probes of its run, takes part in nothing else, and is
gone after its time, or when it was asked for what it saw.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import select
import signal
import socket
import stat
import struct
import subprocess
import time
from typing import Any, Callable

from ansible_collections.hbp.mip.plugins.module_utils import _link_conntrack, _link_overlay, _link_wire, _netlink, _probe

FOLDER = "/run/mip"

_ETH_P_ALL = 3
_PACKET_OUTGOING = 4
_PACKET_FOREIGN = 3
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 4 << 20
_LARGEST_RECORD = 20000
_LARGEST_CROWD = 64
_PATIENCE = 10.0
_CHUNK = 1 << 18
_ASK = b"collect"


class LinkError(Exception):
    """Something that an operator must know; the message says what and what to do."""


def socket_path(run: _link_wire.Run, node: str) -> str:
    """Where the listener of a node in a run is asked for what it saw."""
    return os.path.join(FOLDER, "link-%s.sock" % run.label(node))


def prepare_folder() -> None:
    """Make the folder for the listeners' sockets, root's only. Raises LinkError."""
    try:
        os.mkdir(FOLDER, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise LinkError("%s cannot be made: %s" % (FOLDER, error.strerror)) from error
    status = os.lstat(FOLDER)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise LinkError("%s is no folder of root's; look who made it (ls -ld %s) and move it away" % (FOLDER, FOLDER))
    if status.st_mode & 0o077:
        os.chmod(FOLDER, 0o700)


def sweep() -> None:
    """Remove the sockets that killed listeners left behind."""
    with contextlib.suppress(OSError):
        for name in os.listdir(FOLDER):
            if re.match(r"link-[0-9a-f]{24}\.sock\Z", name):
                path = os.path.join(FOLDER, name)
                if time.time() - os.lstat(path).st_mtime < _PATIENCE:
                    continue  # just made, it may not listen yet
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                    probe.settimeout(1)
                    try:
                        probe.connect(path)
                    except ConnectionRefusedError:
                        with contextlib.suppress(OSError):
                            os.unlink(path)
                    except OSError:
                        continue


def remove_folder() -> None:
    """Remove the folder if nothing else is in it."""
    with contextlib.suppress(OSError):
        os.rmdir(FOLDER)


# --- who has a port


def socket_tables() -> dict[tuple[str, int], list[tuple[str, str]]]:
    """Listening TCP and bound UDP sockets: (protocol, port) to a list of (address, inode); IPv6 wildcards count as 0.0.0.0."""
    found: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for protocol, name, state in (("tcp", "tcp", "0A"), ("tcp", "tcp6", "0A"), ("udp", "udp", "07"), ("udp", "udp6", "07")):
        try:
            with open("/proc/net/" + name, encoding="ascii") as stream:
                lines = stream.read().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if len(fields) < 10 or fields[3] != state:
                continue
            address, _colon, port = fields[1].rpartition(":")
            if len(address) == 8:
                text = socket.inet_ntoa(struct.pack("=I", int(address, 16)))
            elif not int(address, 16):
                text = "0.0.0.0"  # noqa: S104
            else:
                continue
            found.setdefault((protocol, int(port, 16)), []).append((text, fields[9]))
    return found


def owner(inode: str) -> str:
    """The program that has a socket, as `dockerd (pid 812)`; for the kernel's own, such as VXLAN's, `the kernel`."""
    wanted = "socket:[%s]" % inode
    for process in os.listdir("/proc"):
        if not process.isdigit():
            continue
        folder = "/proc/%s/fd" % process
        with contextlib.suppress(OSError):
            for descriptor in os.listdir(folder):
                with contextlib.suppress(OSError):
                    if os.readlink(os.path.join(folder, descriptor)) == wanted:
                        with open("/proc/%s/comm" % process, encoding="utf-8", errors="replace") as stream:
                            return "%s (pid %s)" % (stream.read().strip(), process)
    return "the kernel"


def who_has(protocol: str, port: int, address: str, tables: dict[tuple[str, int], list[tuple[str, str]]]) -> str:
    """Who has a port on this address (or on all), an empty string when nobody does."""
    for text, inode in tables.get((protocol, port), []):
        if text in ("0.0.0.0", address):  # noqa: S104
            return owner(inode)
    return ""


def guards(data_path_port: int) -> list[str]:
    """nftables tables of this host that drop VXLAN datagrams that did not come through IPsec or that a program sends.

    On a host with such a table a datagram of the probe to the data path port must be dropped; that is no fault.
    """
    try:
        done = subprocess.run(["nft", "-j", "list", "ruleset"], capture_output=True, text=True, timeout=5, check=False)
        entries = json.loads(done.stdout or "{}").get("nftables", [])
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    found = []
    for entry in entries:
        rule = entry.get("rule") or {}
        if not str(rule.get("table", "")).startswith("mip"):
            continue
        text = json.dumps(rule.get("expr", []))
        if ('"dport"' in text and str(data_path_port) in text and '"drop"' in text) and ("ipsec" in text or "skuid" in text):
            found.append("%s %s" % (rule.get("family"), rule.get("table")))
    return sorted(set(found))


def reverse_path_drops() -> int:
    """How many packets the kernel dropped because their way back would be another (rp_filter)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open("/proc/net/netstat", encoding="ascii") as stream:
            lines = [line.split() for line in stream if line.startswith("TcpExt:")]
        return int(lines[1][lines[0].index("IPReversePathFilter")])
    return 0


# --- the process


class Listener:
    """All sockets of a host's listener, and what they saw."""

    def __init__(self, run: _link_wire.Run, given: dict[str, Any]) -> None:
        self.run = run
        self.node: str = given["node"]
        self.address: str = given["address"]
        self.data_path_port: int = given["data_path_port"]
        self.identity = run.identity(self.node)
        self.names = {run.identity(peer["node"]): peer["node"] for peer in given["peers"]}
        self.addresses = {run.identity(peer["node"]): peer["address"] for peer in given["peers"]}
        self.entries: _link_conntrack.EspEntries | None = None
        self.tcp_ports = sorted({item["port"] for item in given["ports"] if item["proto"] == "tcp"})
        self.started = time.monotonic()
        self.deadline = self.started + given["seconds"]
        self.handlers: dict[Any, Callable[[], None]] = {}
        self.seen: dict[tuple[str, str, int, int], dict[str, Any]] = {}
        self.attempts: dict[tuple[str, str, str, int, int], int] = {}
        self.flows: dict[tuple[str, str, int, int], dict[str, Any]] = {}
        self.conversations: dict[Any, dict[str, Any]] = {}
        self.lost = 0
        self.overfull = False
        self.capture: socket.socket | None = None
        self.answering: socket.socket | None = None
        udp_ports = [item["port"] for item in given["ports"] if item["proto"] == "udp"]
        self.answer_port = next((port for port in udp_ports if port != self.data_path_port), 0)
        self.listening: list[dict[str, Any]] = []
        self.overlay: dict[str, Any] = {"address": "", "port": 0, "error": ""}
        self.address_local = True
        self.reverse_path = reverse_path_drops()
        self.tracked: list[str] = []

    # opening

    def open(self, given: dict[str, Any]) -> None:
        """Open everything; afterwards `listening` says what listens. Raises OSError when nothing can be captured."""
        code = _link_wire.socket_filter(self.run.magic, [*self.tcp_ports, *given["watch"]])
        capture = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        self._prepare(capture, code)
        self.capture = capture
        self.handlers[capture] = lambda: self._captured(capture)
        udp = any(item["proto"] == "udp" for item in given["ports"])
        wanted = [_link_wire.TCP] if self.tcp_ports else []
        wanted += [_link_wire.UDP] if udp else []
        wanted += [_link_wire.ESP] if given["esp"] else []
        for protocol in wanted:
            endpoint = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
            self._prepare(endpoint, code)
            self.handlers[endpoint] = lambda endpoint=endpoint: self._let_in(endpoint)  # type: ignore[misc]
        if udp:
            self.answering = socket.socket(socket.AF_INET, socket.SOCK_RAW, _link_wire.UDP)
            _link_wire.attach(self.answering, _link_wire.NOTHING)
            self.address_local = bind_source(self.answering, self.address)
            self.answering.setblocking(False)
        if given["esp"]:
            self.entries = _link_conntrack.EspEntries(self.address, list(self.addresses.values()))
        tables = socket_tables()
        for item in given["ports"]:
            entry = {"proto": item["proto"], "port": item["port"], "why": item["why"], "own": False, "by": "", "error": ""}
            self.listening.append(entry)
            if item["proto"] == "udp":
                entry["own"] = True
                entry["by"] = who_has("udp", item["port"], self.address, tables)
            else:
                self._listen_tcp(entry, tables)
        self._listen_inside(_link_overlay.place(self.node, given.get("overlay")))

    def _listen_inside(self, place: dict[str, Any]) -> None:
        """Listen on the overlay, beside the engine's container; without one `overlay` says why not."""
        self.overlay["error"] = place["error"]
        if not place["pid"]:
            return
        try:
            listener = _link_overlay.tcp_socket(place["pid"])
            listener.bind((place["address"], 0))
            listener.listen(_LARGEST_CROWD)
            listener.setblocking(False)
        except OSError as error:
            self.overlay["error"] = "nobody can listen in the network of the engine's container: %s" % (error.strerror or error)
            return
        port = int(listener.getsockname()[1])
        self.overlay.update(address=place["address"], port=port)
        self.handlers[listener] = lambda: self._accept(listener, port)

    @staticmethod
    def _prepare(endpoint: socket.socket, code: bytes) -> None:
        _link_wire.attach(endpoint, code)
        with contextlib.suppress(OSError):
            endpoint.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        endpoint.setblocking(False)

    def _listen_tcp(self, entry: dict[str, Any], tables: dict[tuple[str, int], list[tuple[str, str]]]) -> None:
        port = entry["port"]
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            # without this a connection that ended lately would keep the port for a minute; a listening program still keeps it
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.address_local = bind_source(listener, self.address, port)
            listener.listen(_LARGEST_CROWD)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            entry["by"] = who_has("tcp", port, self.address, tables)
            if not entry["by"]:
                entry["error"] = error.strerror or str(error)
            return
        entry["own"] = True
        self.handlers[listener] = lambda: self._accept(listener, port)

    # what the sockets say

    def _name(self, identity: bytes) -> str:
        return str(self.names.get(identity) or identity.hex())

    def _note(self, event: str, peer: bytes, message: _link_wire.Message, address: str) -> None:
        esp = message.protocol == _link_wire.ESP
        key = (self._name(peer), "esp" if esp else "udp", 0 if esp else message.port, message.size)
        record = self.seen.get(key)
        if record is None:
            if len(self.seen) >= _LARGEST_RECORD:
                self.overfull = True
                return
            record = self.seen[key] = {"left": 0, "arrived": 0, "delivered": 0, "addresses": []}
        # a packet passes a bridge or a VLAN and the card below it: each attempt counts once
        bit = 1 << min(message.attempt, 31)
        attempts = self.attempts.setdefault((event, *key), 0)
        if attempts & bit:
            return
        self.attempts[(event, *key)] = attempts | bit
        record[event] += 1
        if event != "left" and address not in record["addresses"] and len(record["addresses"]) < 4:
            record["addresses"].append(address)

    def _message(self, found: _link_wire.Packet) -> _link_wire.Message | None:
        """The probe in a packet, None when it is none, or not what the message in it says."""
        start = _link_wire.PREFIX + (8 if found.protocol == _link_wire.UDP else 0)
        message = self.run.read(found.body[start:])
        if message is None or message.kind != _link_wire.PROBE:
            return None
        if message.protocol != found.protocol or message.size != found.size:
            return None
        if message.protocol == _link_wire.UDP and message.port != struct.unpack_from("!H", found.body, 2)[0]:
            return None
        return message

    def _captured(self, capture: socket.socket) -> None:
        for _round in range(512):
            try:
                data, place = capture.recvfrom(_link_wire.LARGEST)
            except BlockingIOError:
                return
            except OSError:
                continue  # a card that went down is told once on this socket
            direction = place[2]
            found = _link_wire.packet(data)
            if found is None or direction == _PACKET_FOREIGN:
                continue
            out = direction == _PACKET_OUTGOING
            if found.protocol == _link_wire.TCP:
                self._segment(found, "left" if out else "arrived")
                continue
            message = self._message(found)
            if message is None:
                continue
            if out and message.sender == self.identity:
                self._note("left", message.receiver, message, found.source)
            elif not out and message.receiver == self.identity:
                self._note("arrived", message.sender, message, found.source)

    def _let_in(self, endpoint: socket.socket) -> None:
        for _round in range(512):
            try:
                data = endpoint.recv(_link_wire.LARGEST)
            except BlockingIOError:
                return
            except OSError:
                continue
            found = _link_wire.packet(data)
            if found is None:
                continue
            if found.protocol == _link_wire.TCP:
                self._segment(found, "delivered")
                continue
            message = self._message(found)
            if message is not None and message.receiver == self.identity:
                self._note("delivered", message.sender, message, found.source)
                self._answer(found, message)
                if message.protocol == _link_wire.ESP and self.entries is not None and message.sender in self.addresses:
                    self.entries.forget(self.addresses[message.sender])

    def _answer(self, found: _link_wire.Packet, message: _link_wire.Message) -> None:
        """Tell the sender that its probe was let in, so that it need not repeat it."""
        own_port, port = self.answer_port, message.port
        if message.protocol == _link_wire.UDP:
            port, own_port = struct.unpack_from("!HH", found.body)
        if self.answering is None or not own_port or not port:
            return
        data = self.run.message(
            _link_wire.ANSWER, message.protocol, message.port, message.size, message.attempt, self.identity, message.sender
        )
        packet = _link_wire.udp_datagram(found.destination, found.source, own_port, port, b"\0" * _link_wire.PREFIX + data)
        with contextlib.suppress(OSError):
            self.answering.sendto(packet, (found.source, 0))

    def _segment(self, found: _link_wire.Packet, event: str) -> None:
        """Note the start of a connection: SYN, its answer, or its refusal; each is known by the number in the SYN."""
        head = _link_wire.segment(found.body)
        if head is None:
            return
        flags = head.flags & (_link_wire.SYN | _link_wire.ACK | _link_wire.RST)
        if flags == _link_wire.SYN:
            what, number, forth = "syn", head.sequence, True
        elif flags == _link_wire.SYN | _link_wire.ACK:
            what, number, forth = "synack", (head.acknowledged - 1) & 0xFFFFFFFF, False
        elif flags == _link_wire.RST | _link_wire.ACK:
            what, number, forth = "rst", (head.acknowledged - 1) & 0xFFFFFFFF, False
        else:
            return
        # The one who asked is the "client"; a host can be either.
        client, client_port, port = (
            (found.source, head.source_port, head.destination_port)
            if forth
            else (found.destination, head.destination_port, head.source_port)
        )
        server = found.destination if forth else found.source
        key = (client, server, client_port, port)
        flow = self.flows.get(key)
        if flow is None:
            if len(self.flows) >= _LARGEST_RECORD or what != "syn":
                self.overfull = self.overfull or what == "syn"
                return
            flow = self.flows[key] = {
                "client": client, "server": server, "client_port": client_port, "port": port, "sequence": number, "events": {},
            }  # fmt: skip
        name = "%s-%s" % (what, event)
        flow["events"][name] = flow["events"].get(name, 0) + 1

    # TCP conversations

    def _accept(self, listener: socket.socket, port: int) -> None:
        try:
            connection, _peer = listener.accept()
        except OSError:
            return
        if len(self.conversations) >= _LARGEST_CROWD * 4:
            connection.close()
            return
        connection.setblocking(False)
        self.conversations[connection] = {"port": port, "data": b"", "proof": b"", "bytes": 0, "since": time.monotonic()}
        self.handlers[connection] = lambda: self._converse(connection)

    def _end(self, connection: socket.socket) -> None:
        self.conversations.pop(connection, None)
        self.handlers.pop(connection, None)
        connection.close()

    def _converse(self, connection: socket.socket) -> None:
        talk = self.conversations[connection]
        try:
            data = connection.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._end(connection)
            return
        talk["since"] = time.monotonic()
        if talk["proof"]:
            talk["bytes"] += len(data)
            if not data:
                with contextlib.suppress(OSError):
                    connection.sendall(talk["proof"] + struct.pack("!Q", talk["bytes"]))
                self._end(connection)
            return
        talk["data"] += data
        if not data:
            self._end(connection)
        elif len(talk["data"]) >= _link_wire.REQUEST:
            request = talk["data"][: _link_wire.REQUEST]
            reply = self.run.reply(request, self.identity, talk["port"])
            if not reply:
                self._end(connection)
            elif request[:1] == _link_wire.STREAM:
                talk["proof"] = reply
                talk["bytes"] = len(talk["data"]) - _link_wire.REQUEST
            else:
                with contextlib.suppress(OSError):
                    connection.sendall(reply)
                talk["data"] = b""

    # its life

    def serve(self, control: socket.socket) -> socket.socket | None:
        """Work until somebody asks at `control`; returns that connection, or None when the time is over."""
        poll = select.poll()
        known: dict[int, Any] = {}
        while True:
            current = {endpoint.fileno(): endpoint for endpoint in self.handlers}
            for number in set(known) - set(current):
                poll.unregister(number)
            for number in set(current) - set(known):
                poll.register(number, select.POLLIN)
            if control.fileno() not in current:
                poll.register(control.fileno(), select.POLLIN)
            known = current
            left = self.deadline - time.monotonic()
            if left <= 0:
                return None
            for number, _event in poll.poll(min(left, 1.0) * 1000):
                if number == control.fileno():
                    asked = _asked(control)
                    if asked is not None:
                        return asked
                handler = self.handlers.get(current.get(number))
                if handler is not None:
                    handler()
            limit = time.monotonic() - _PATIENCE
            for connection in [item for item, talk in self.conversations.items() if talk["since"] < limit]:
                self._end(connection)

    def close(self) -> None:
        """Read what still waits, then close every socket."""
        if self.capture is not None:
            for endpoint, handler in list(self.handlers.items()):
                if endpoint.type in (socket.SOCK_RAW, socket.SOCK_DGRAM):
                    handler()
            with contextlib.suppress(OSError):
                _packets, self.lost = struct.unpack("II", self.capture.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        for endpoint in self.handlers:
            endpoint.close()
        if self.answering is not None:
            self.answering.close()
        if self.entries is not None:
            self.tracked = self.entries.foreign
            self.entries.close()

    def result(self) -> dict[str, Any]:
        """What was seen; see RETURN of the module."""
        seen = [
            dict(record, peer=peer, proto=protocol, port=port, size=size)
            for (peer, protocol, port, size), record in sorted(self.seen.items())
        ]
        return {
            "seen": seen,
            "flows": list(self.flows.values()),
            "lost": self.lost,
            "overfull": self.overfull,
            "tracked": self.tracked,
            "reverse_path_drops": max(0, reverse_path_drops() - self.reverse_path),
            "seconds": round(time.monotonic() - self.started, 3),
        }


def _asked(control: socket.socket) -> socket.socket | None:
    """The connection of somebody who asks for the result; None when somebody only looked whether anybody is there."""
    with contextlib.suppress(OSError):
        connection = control.accept()[0]
        connection.settimeout(1)
        with contextlib.suppress(OSError):
            if connection.recv(len(_ASK)) == _ASK:
                return connection
        connection.close()
    return None


def bind_source(endpoint: socket.socket, address: str, port: int = 0) -> bool:
    """Bind to an address of this host, or to all when it is none of its own; returns which. Raises OSError."""
    try:
        endpoint.bind((address, port))
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        endpoint.bind(("0.0.0.0", port))  # noqa: S104
        return False
    return True


def listen(run: _link_wire.Run, given: dict[str, Any]) -> dict[str, Any]:
    """Start the listener as a process of its own, ready when this returns: {"pid", "listening", "address_local"} or {"error"}."""
    try:
        prepare_folder()
    except LinkError as error:
        return {"error": str(error)}
    sweep()
    if os.path.lexists(socket_path(run, given["node"])):
        collect(run, given["node"], 5)

    def start() -> dict[str, Any]:
        reading, writing = os.pipe()
        os.setsid()
        child = os.fork()
        if child == 0:
            try:
                os.close(reading)
                _live(run, given, writing)
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as stream:
            data = stream.read()
        answer = json.loads(data.decode("utf-8")) if data else {"error": "the listener ended before it was ready"}
        return dict(answer, pid=child)

    return _netlink.in_child(start, 20)


def _live(run: _link_wire.Run, given: dict[str, Any], telling: int) -> None:
    _probe.detach(telling)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(given["seconds"]) + 5)
    path = socket_path(run, given["node"])
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener = Listener(run, given)
    asked: socket.socket | None = None

    def tell(answer: dict[str, Any]) -> None:
        with os.fdopen(telling, "wb") as stream:
            stream.write(json.dumps(answer).encode("utf-8"))

    try:
        _bind_control(control, path)
        listener.open(given)
    except (OSError, LinkError) as error:
        tell({"error": str(error) if isinstance(error, LinkError) else _why_not(error)})
        listener.close()
    else:
        tell({"listening": listener.listening, "address_local": listener.address_local, "overlay": listener.overlay})
        try:
            asked = listener.serve(control)
        finally:
            listener.close()
    with contextlib.suppress(OSError):
        os.unlink(path)
    control.close()
    remove_folder()
    if asked is not None:
        with asked, contextlib.suppress(OSError):
            asked.settimeout(10)
            asked.sendall(json.dumps(listener.result()).encode("utf-8"))


def _bind_control(control: socket.socket, path: str) -> None:
    """Bind the socket at which the listener is asked; the listener of another run may take the empty folder away meanwhile."""
    previous = os.umask(0o077)
    try:
        for last in (False, False, False, True):
            prepare_folder()
            try:
                control.bind(path)
                break
            except FileNotFoundError:
                if last:
                    raise
    finally:
        os.umask(previous)
    control.listen(4)


def _why_not(error: OSError) -> str:
    text = error.strerror or str(error)
    if error.errno in (errno.EPERM, errno.EACCES):
        return "packets cannot be captured here (%s); run as root, and in a container with CAP_NET_RAW and CAP_NET_ADMIN" % text
    return "the listener cannot be opened: %s" % text


def collect(run: _link_wire.Run, node: str, timeout: float) -> dict[str, Any]:
    """What the listener of a node saw; it is gone afterwards. {"error"} when there is none."""
    path = socket_path(run, node)
    pieces = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(timeout)
        try:
            asking.connect(path)
            asking.sendall(_ASK)
            piece = asking.recv(_CHUNK)
            while piece:
                pieces.append(piece)
                piece = asking.recv(_CHUNK)
        except FileNotFoundError:
            return {"error": "no listener of this run is left; its time was over, or it was never started"}
        except OSError as error:
            sweep()
            remove_folder()
            return {"error": "the listener of this run does not answer: %s" % (error.strerror or error)}
    try:
        answer = json.loads(b"".join(pieces).decode("utf-8"))
    except ValueError:
        return {"error": "the listener of this run ended without an answer"}
    return answer if isinstance(answer, dict) else {"error": "the listener answered something else"}
