# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The link probe's sender: everything to all targets at once, repeated until it was answered."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import select
import socket
import struct
import time
from typing import Any

from ansible_collections.hbp.mip.plugins.module_utils import _link_conntrack, _link_listen, _link_overlay, _link_wire, _netlink

_IP_MTU_DISCOVER = 10
_IP_PMTUDISC_PROBE = 3
_IP_RECVERR = 11
_MSG_ERRQUEUE = 0x2000
_ORIGIN_ICMP = 2
#: Errors that an earlier packet's ICMP answer leaves on the socket; the packet in hand was not sent and has to be sent again.
_STALE = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.EPROTO, errno.EOPNOTSUPP)
_INTERVAL = 0.5
_GRACE = 0.7
_BURST = 64
_CHUNK = 1 << 17


class Probe:
    """One packet to send until it is answered: a protocol, a port and a size for one target."""

    def __init__(self, target: int, protocol: int, port: int, size: int) -> None:
        self.target = target
        self.protocol = protocol
        self.port = port
        self.size = size
        self.sent = 0
        self.first = 0.0
        self.answered: float | None = None
        self.error = 0
        self.icmp: list[dict[str, Any]] = []

    def result(self) -> dict[str, Any]:
        """As the module returns it."""
        return {
            "proto": "esp" if self.protocol == _link_wire.ESP else "udp",
            "port": self.port,
            "size": self.size,
            "sent": self.sent,
            "answered": self.answered is not None,
            "ms": None if self.answered is None else round((self.answered - self.first) * 1000, 2),
            "error": errno.errorcode.get(self.error, str(self.error)) if self.error else "",
            "icmp": self.icmp,
        }


class Connection:
    """One TCP connection attempt."""

    def __init__(self, target: int, port: int, own: bool) -> None:
        self.target = target
        self.port = port
        self.own = own
        self.endpoint: socket.socket | None = None
        self.local_port = 0
        self.started = 0.0
        self.took: float | None = None
        self.result = "timeout"
        self.error = 0
        self.answer = "not-asked"
        self.request = b""
        self.data = b""
        self.icmp: list[dict[str, Any]] = []

    def close(self) -> None:
        """Let go of the socket."""
        if self.endpoint is not None:
            self.endpoint.close()
            self.endpoint = None

    def outcome(self) -> dict[str, Any]:
        """As the module returns it."""
        return {
            "port": self.port,
            "result": self.result,
            "error": errno.errorcode.get(self.error, str(self.error)) if self.error else "",
            "answer": self.answer,
            "local_port": self.local_port,
            "ms": None if self.took is None else round(self.took * 1000, 2),
            "icmp": self.icmp,
        }


class Sender:
    """Sends to all targets; see `run`."""

    def __init__(self, run: _link_wire.Run, given: dict[str, Any]) -> None:
        self.word = run
        self.node: str = given["node"]
        self.address: str = given["address"]
        self.targets: list[dict[str, Any]] = given["targets"]
        self.attempts: int = given["attempts"]
        self.timeout: float = given["timeout"]
        self.data_path_port: int = given["data_path_port"]
        self.identity = run.identity(self.node)
        self.identities = [run.identity(target["node"]) for target in self.targets]
        self.probes: list[Probe] = []
        self.connections: list[Connection] = []
        self.sockets: dict[int, socket.socket] = {}
        self.by_key: dict[tuple[bytes, int, int, int], Probe] = {}
        self.answers_to = 0
        self.entries: _link_conntrack.EspEntries | None = None
        for number, target in enumerate(self.targets):
            for port in target["tcp"]:
                self.connections.append(Connection(number, port, port in target["own_tcp"]))
            for port in target["udp"]:
                self.probes.append(Probe(number, _link_wire.UDP, port, _link_wire.SMALLEST))
            for size in target["vxlan_sizes"]:
                self.probes.append(Probe(number, _link_wire.UDP, self.data_path_port, size))
            for size in target["esp_sizes"]:
                self.probes.append(Probe(number, _link_wire.ESP, 0, size))
        for probe in self.probes:
            self.by_key[(self.identities[probe.target], probe.protocol, probe.port, probe.size)] = probe

    def run(self) -> list[dict[str, Any]]:
        """Send everything and return one result for each target. Raises OSError when there are no raw sockets."""
        try:
            self._open()
            self._work()
        finally:
            for connection in self.connections:
                connection.close()
            for endpoint in self.sockets.values():
                endpoint.close()
            if self.entries is not None:
                self.entries.close()
        results: list[dict[str, Any]] = [
            {"node": target["node"], "address": target["address"], "probes": [], "tcp": [], "next_hop": {}} for target in self.targets
        ]
        for probe in self.probes:
            results[probe.target]["probes"].append(probe.result())
        for connection in self.connections:
            results[connection.target]["tcp"].append(connection.outcome())
        self._look_at_the_way(results)
        return results

    def _open(self) -> None:
        wanted = {probe.protocol for probe in self.probes}
        if wanted:
            self.sockets[_link_wire.UDP] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if _link_wire.ESP in wanted:
            endpoint = socket.socket(socket.AF_INET, socket.SOCK_RAW, _link_wire.ESP)
            _link_wire.attach(endpoint, _link_wire.NOTHING)
            self.sockets[_link_wire.ESP] = endpoint
            addresses = [target["address"] for target in self.targets if target["esp_sizes"]]
            self.entries = _link_conntrack.EspEntries(self.address, addresses)
        for endpoint in self.sockets.values():
            _link_listen.bind_source(endpoint, self.address)
            # PROBE sets DF and lets the sizes be measured anew, whatever the kernel believes about the path.
            endpoint.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
            endpoint.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            endpoint.setblocking(False)
        if wanted:
            self.answers_to = self.sockets[_link_wire.UDP].getsockname()[1]

    def _work(self) -> None:
        started = time.monotonic()
        for connection in self.connections:
            self._connect(connection)
        attempt = 0
        last = started + self.timeout
        quiet_after = started
        while True:
            now = time.monotonic()
            if attempt < self.attempts and now >= started + attempt * _INTERVAL:
                self._send_all(attempt)
                attempt += 1
                quiet_after = time.monotonic() + _GRACE
                continue
            waiting = [probe for probe in self.probes if probe.answered is None and probe.error != errno.EMSGSIZE]
            open_ones = [connection for connection in self.connections if connection.endpoint is not None]
            probing = bool(waiting) and (attempt < self.attempts or now < quiet_after)
            if not probing and not open_ones:
                return
            if now >= last:
                return
            until = last
            if waiting and attempt < self.attempts:
                until = min(until, started + attempt * _INTERVAL)
            elif probing:
                until = min(until, quiet_after)
            self._wait(max(0.0, until - now), open_ones)

    def _wait(self, seconds: float, open_ones: list[Connection]) -> None:
        poll = select.poll()
        for endpoint in self.sockets.values():
            poll.register(endpoint.fileno(), select.POLLIN)
        by_number = {}
        for connection in open_ones:
            if connection.endpoint is None:
                continue
            by_number[connection.endpoint.fileno()] = connection
            poll.register(connection.endpoint.fileno(), select.POLLIN if connection.request else select.POLLOUT)
        for number, event in poll.poll(seconds * 1000):
            found = by_number.get(number)
            if found is not None:
                self._advance(found)
            elif event & select.POLLERR:
                self._read_errors()
        self._read_answers()

    # UDP and ESP

    def _send_all(self, attempt: int) -> None:
        count = 0
        for probe in self.probes:
            if probe.answered is not None or probe.error in (errno.EMSGSIZE, errno.EACCES):
                continue
            self._send(probe, attempt)
            count += 1
            if count % _BURST == 0:
                self._read_answers()

    def _send(self, probe: Probe, attempt: int) -> None:
        target = self.targets[probe.target]
        port = probe.port or self.answers_to
        message = self.word.message(
            _link_wire.PROBE, probe.protocol, port, probe.size, attempt, self.identity, self.identities[probe.target]
        )
        if probe.protocol == _link_wire.ESP:
            data = self.word.spi + struct.pack("!I", attempt + 1) + message
            data += b"\0" * (probe.size - 20 - len(data))
        else:
            data = _link_wire.prefix(probe.port, self.data_path_port) + message
            data += b"\0" * (probe.size - 28 - len(data))
        endpoint = self.sockets[probe.protocol]
        if not probe.sent:
            probe.first = time.monotonic()
        probe.sent += 1
        for last in (False, True):
            try:
                endpoint.sendto(data, (target["address"], probe.port))
                probe.error = 0
            except BlockingIOError:
                select.select([], [endpoint], [], 0.2)
                if last:
                    probe.error = errno.EAGAIN
                continue
            except OSError as error:
                number = error.errno or errno.EIO
                if number == errno.ENOBUFS and not last:
                    time.sleep(0.01)
                    continue
                if number in _STALE and not last:
                    self._read_errors()
                    continue
                probe.error = number
            break
        if probe.protocol == _link_wire.ESP and self.entries is not None:
            self.entries.forget(target["address"])

    def _read_answers(self) -> None:
        endpoint = self.sockets.get(_link_wire.UDP)
        while endpoint is not None:
            try:
                data, _place = endpoint.recvfrom(_link_wire.LARGEST)
            except BlockingIOError:
                return
            except OSError:
                self._read_errors()
                continue
            message = self.word.read(data[_link_wire.PREFIX :])
            if message is None or message.kind != _link_wire.ANSWER or message.receiver != self.identity:
                continue
            probe = self._probe(message, message.sender)
            if probe is not None and probe.answered is None:
                probe.answered = time.monotonic()

    def _probe(self, message: _link_wire.Message, receiver: bytes) -> Probe | None:
        """The probe that a message was sent as."""
        port = 0 if message.protocol == _link_wire.ESP else message.port
        return self.by_key.get((receiver, message.protocol, port, message.size))

    def _read_errors(self) -> None:
        """Note the ICMP answers to UDP and ESP: whose packet, and who says what about it."""
        for protocol, endpoint in self.sockets.items():
            endpoint.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            while True:
                try:
                    data, extra, _flags, place = endpoint.recvmsg(2048, 512, _MSG_ERRQUEUE)
                except OSError:
                    break
                for level, kind, content in extra:
                    if level != socket.IPPROTO_IP or kind != _IP_RECVERR or len(content) < 16:
                        continue
                    told = _icmp(content)
                    if told is None:
                        continue
                    for probe in self._meant(protocol, data, place):
                        if told not in probe.icmp and len(probe.icmp) < 4:
                            probe.icmp.append(told)

    def _meant(self, protocol: int, data: bytes, place: Any) -> list[Probe]:
        """The probes that an ICMP answer speaks of; it quotes the whole message, or only enough for the address and port."""
        message = self.word.read(data[_link_wire.PREFIX :])
        if message is not None:
            probe = self._probe(message, message.receiver)
            return [probe] if probe is not None else []
        address, port = (place[0], place[1]) if place else ("", 0)
        return [
            probe
            for probe in self.probes
            if probe.protocol == protocol
            and self.targets[probe.target]["address"] == address
            and (protocol == _link_wire.ESP or probe.port == port)
        ]

    # TCP

    def _connect(self, connection: Connection) -> None:
        endpoint = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.endpoint = endpoint
        connection.started = time.monotonic()
        endpoint.setblocking(False)
        try:
            _link_listen.bind_source(endpoint, self.address)
            endpoint.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            connection.local_port = endpoint.getsockname()[1]
            endpoint.connect((self.targets[connection.target]["address"], connection.port))
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(connection, error.errno or errno.EIO)
            return
        self._advance(connection)

    def _failed(self, connection: Connection, number: int) -> None:
        connection.took = time.monotonic() - connection.started
        connection.error = number
        if number == errno.ETIMEDOUT:
            connection.result = "timeout"
        else:
            connection.result = "refused" if number == errno.ECONNREFUSED else "error"
        if connection.endpoint is not None:
            with contextlib.suppress(OSError):
                _data, extra, _flags, _place = connection.endpoint.recvmsg(1, 512, _MSG_ERRQUEUE)
                told = [_icmp(content) for level, kind, content in extra if level == socket.IPPROTO_IP and kind == _IP_RECVERR]
                connection.icmp = [item for item in told if item]
        connection.close()

    def _advance(self, connection: Connection) -> None:
        endpoint = connection.endpoint
        if endpoint is None:
            return
        if not connection.request:
            number = endpoint.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                self._failed(connection, number)
                return
            try:
                endpoint.getpeername()
            except OSError:
                return  # woken by something else
            connection.took = time.monotonic() - connection.started
            connection.result = "connected"
            if not connection.own:
                connection.close()
                return
            connection.answer = "none"
            connection.request = self.word.request(_link_wire.CHECK, self.identities[connection.target], connection.port)
            try:
                endpoint.sendall(connection.request)
            except OSError:
                connection.close()
            return
        try:
            data = endpoint.recv(64)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        connection.data += data
        expected = self.word.reply(connection.request, self.identities[connection.target], connection.port)
        if connection.data == expected:
            connection.answer = "right"
        elif not data or len(connection.data) >= len(expected):
            connection.answer = "wrong" if connection.data else "none"
        else:
            return
        connection.close()

    # the way

    def _look_at_the_way(self, results: list[dict[str, Any]]) -> None:
        """Tell for each target that did not answer whether there is a route, and whether the next host on it answers ARP."""
        if not any(_silent(result) for result in results):
            return
        try:
            routes = _netlink.addresses_and_routes()[1]
        except OSError:
            return
        neighbours = _neighbours()
        for result in results:
            if not _silent(result):
                continue
            result["next_hop"] = {"state": "unknown", "address": "", "interface": "", "refused": ""}
            refused = _refused(result["address"], self.address)
            if refused is not None:
                result["next_hop"].update(state="no-route", refused=refused)
                continue
            route = _route_to(result["address"], routes)
            if route is not None:  # else one that only a further table has
                address = route.gateway or result["address"]
                state = neighbours.get((address, route.interface), "unknown")
                result["next_hop"].update(state=state, address=address, interface=route.interface)


#: What the kernel answers for a route that is there to refuse (ip-route(8)), and its name there.
_REFUSING = {errno.EHOSTUNREACH: "unreachable", errno.EACCES: "prohibit", errno.EINVAL: "blackhole"}


def _refused(address: str, source: str) -> str | None:
    """Whether the routing tables refuse an address: the kind of the route that does, empty for no route at all, None when there is one.

    Connecting a UDP socket looks the route up and sends nothing, so that no filter has a say in it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as endpoint:
        try:
            _link_listen.bind_source(endpoint, source)
        except OSError:
            return None
        try:
            endpoint.connect((address, 9))
        except OSError as error:
            if error.errno == errno.ENETUNREACH:
                return ""
            return _REFUSING.get(error.errno or 0)
    return None


def _silent(result: dict[str, Any]) -> bool:
    return any(not probe["answered"] for probe in result["probes"]) or any(item["result"] != "connected" for item in result["tcp"])


def _icmp(content: bytes) -> dict[str, Any] | None:
    """An ICMP answer from the kernel's record of it (struct sock_extended_err and the sender's address)."""
    _number, origin, kind, code, _pad, _info, _data = struct.unpack_from("=IBBBBII", content)
    if origin != _ORIGIN_ICMP:
        return None
    sender = socket.inet_ntoa(content[20:24]) if len(content) >= 24 else ""
    return {"type": kind, "code": code, "from": sender}


def _neighbours() -> dict[tuple[str, str], str]:
    """(address, interface) to `answers` or `silent`, from the kernel's ARP table."""
    found = {}
    with contextlib.suppress(OSError), open("/proc/net/arp", encoding="ascii") as stream:
        for line in stream.read().splitlines()[1:]:
            fields = line.split()
            if len(fields) >= 6:
                found[(fields[0], fields[5])] = "answers" if int(fields[2], 16) & 2 else "silent"
    return found


def _route_to(address: str, routes: list[_netlink.Route]) -> _netlink.Route | None:
    wanted = ipaddress.ip_address(address)
    best: _netlink.Route | None = None
    longest = -1
    for route in routes:
        network = ipaddress.ip_network(route.destination, strict=False)
        if network.version == wanted.version and wanted in network and network.prefixlen > longest:
            best, longest = route, network.prefixlen
    return best


def throughput(run: _link_wire.Run, target: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Send for the option `duration` over one TCP connection to the target's listener: {"mb_per_s", "bytes", "seconds", "via", "error"}.

    To a port of its host where it listens itself, else on the overlay. The listener's own count decides, so that what only sits in
    buffers is not counted. MB are 10^6 bytes.
    """
    result: dict[str, Any] = {"mb_per_s": None, "bytes": 0, "seconds": 0.0, "via": "", "error": ""}
    overlay = target.get("overlay") or {}
    pid = 0
    if target["own_tcp"]:
        there, port, address = target["address"], target["own_tcp"][0], given["address"]
        result["via"] = "tcp %d" % port
    elif overlay.get("port"):
        place = _link_overlay.place(given["node"], given.get("overlay"))
        there, port, address, pid = overlay["address"], overlay["port"], place["address"], place["pid"]
        if not pid:
            result["error"] = place["error"] or "%s takes no part in the overlay" % given["node"]
            return result
        result["via"] = "overlay"
    else:
        result["error"] = "the probe itself listens on no TCP port of %s, other programs have them all" % target["node"]
        return result
    seconds = given["duration"]
    identity = run.identity(target["node"])
    block = b"\0" * _CHUNK
    try:
        connection = _link_overlay.tcp_socket(pid) if pid else socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        result["error"] = "the network of the engine's container cannot be used: %s" % (error.strerror or error)
        return result
    with connection as endpoint:
        try:
            _link_listen.bind_source(endpoint, address)
            endpoint.settimeout(5)
            endpoint.connect((there, port))
            request = run.request(_link_wire.STREAM, identity, port)
            started = time.monotonic()
            endpoint.sendall(request)
            while time.monotonic() - started < seconds:
                endpoint.sendall(block)
            endpoint.shutdown(socket.SHUT_WR)
            endpoint.settimeout(30)
            answer = b""
            piece = endpoint.recv(64)
            while piece:
                answer += piece
                piece = endpoint.recv(64)
            took = time.monotonic() - started
        except (BrokenPipeError, ConnectionResetError):
            result["error"] = "TCP port %d: the other side closed the connection; it is not this run's listener, or its time is over" % port
            return result
        except OSError as error:
            result["error"] = "TCP port %d: %s" % (port, error.strerror or error)
            return result
    if len(answer) != 24 or answer[:16] != run.reply(request, identity, port):
        result["error"] = "TCP port %d: what answers is not this run's listener" % port
        return result
    (result["bytes"],) = struct.unpack("!Q", answer[16:])
    result["seconds"] = round(took, 3)
    result["mb_per_s"] = round(result["bytes"] / took / 1e6, 2)
    return result
