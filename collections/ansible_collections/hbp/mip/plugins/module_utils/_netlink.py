# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The few netlink messages that the checks need, and network namespaces, with the standard library only.

Hosts are checked before anything is installed on them, so neither iproute2 nor any Python package can be relied on;
and only the kernel's own answer tells exactly which of its parts is missing.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import socket
import struct
import time
from typing import Any, Callable, NamedTuple

NETLINK_ROUTE = 0
NETLINK_XFRM = 6

CLONE_NEWNET = 0x40000000

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_REQUEST = 0x1
_NLM_F_ACK = 0x4
_NLM_F_DUMP = 0x300
_NLM_F_ACK_TLVS = 0x200
NLM_F_CREATE_EXCL = 0x600

_RTM_NEWLINK = 16
_RTM_GETLINK = 18
_RTM_GETADDR = 22
_RTM_GETROUTE = 26

_RT_TABLE_LOCAL = 255
_RTN_UNICAST = 1

_XFRM_MSG_NEWSA = 0x10
_XFRM_MSG_DELSA = 0x11
_XFRMA_ALG_CRYPT = 2
_XFRMA_ALG_AEAD = 18
_XFRM_INF = 0xFFFFFFFFFFFFFFFF


class NetlinkError(OSError):
    """The kernel refused a request: `errno`, and in `detail` the kernel's own words when it gave any."""

    def __init__(self, number: int, detail: str, where: str) -> None:
        super().__init__(number, os.strerror(number))
        self.detail = detail
        self.where = where

    def words(self) -> str:
        """The refusal as `ENOSYS (Function not implemented): Requested AEAD algorithm not found`."""
        name = errno.errorcode.get(self.errno or 0, str(self.errno))
        text = "%s (%s)" % (name, os.strerror(self.errno or 0))
        return "%s: %s" % (text, self.detail) if self.detail else text


def attribute(kind: int, payload: bytes) -> bytes:
    """One netlink attribute, padded to four bytes."""
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind) + payload + b"\0" * (-length % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in `data` by kind; a damaged tail is ignored."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4 or offset + length > len(data):
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


class Netlink:
    """A netlink socket; use it as a context manager. Raises NetlinkError, its `where` is `socket` or `request`."""

    def __init__(self, protocol: int, timeout: float = 5.0) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        except OSError as error:
            raise NetlinkError(error.errno or errno.EIO, "", "socket") from error
        self._socket.settimeout(timeout)
        self._sequence = 0
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
            try:
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            except OSError:
                continue  # kernels before 4.12 answer with the bare number

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_ignored: object) -> None:
        self._socket.close()

    def _send(self, kind: int, flags: int, payload: bytes) -> None:
        self._sequence += 1
        header = struct.pack("=IHHII", 16 + len(payload), kind, flags | _NLM_F_REQUEST, self._sequence, 0)
        try:
            self._socket.send(header + payload)
        except OSError as error:
            raise NetlinkError(error.errno or errno.EIO, "", "request") from error

    def _answers(self) -> list[tuple[int, int, bytes]]:
        data = self._socket.recv(1 << 18)
        messages = []
        offset = 0
        while offset + 16 <= len(data):
            length, kind, flags, sequence, _pid = struct.unpack_from("=IHHII", data, offset)
            if length < 16 or offset + length > len(data):
                break
            if sequence == self._sequence:
                messages.append((kind, flags, data[offset + 16 : offset + length]))
            offset += (length + 3) & ~3
        return messages

    @staticmethod
    def _raise_if_refused(flags: int, payload: bytes) -> None:
        (number,) = struct.unpack_from("=i", payload)
        if number == 0:
            return
        detail = ""
        if flags & _NLM_F_ACK_TLVS:
            detail = attributes(payload[20:]).get(1, b"").rstrip(b"\0").decode("utf-8", "replace")
        raise NetlinkError(-number, detail, "request")

    def request(self, kind: int, payload: bytes, flags: int = 0) -> None:
        """Send one request and wait for the kernel's acknowledgement."""
        self._send(kind, flags | _NLM_F_ACK, payload)
        while True:
            for answer, answer_flags, body in self._answers():
                if answer == _NLMSG_ERROR:
                    self._raise_if_refused(answer_flags, body)
                    return

    def dump(self, kind: int, payload: bytes, most: int | None = None) -> list[bytes]:
        """All objects of a kind, each as its message body, of which only the first `most` bytes are kept."""
        self._send(kind, _NLM_F_DUMP, payload)
        bodies: list[bytes] = []
        while True:
            for answer, answer_flags, body in self._answers():
                if answer == _NLMSG_DONE:
                    return bodies
                if answer == _NLMSG_ERROR:
                    self._raise_if_refused(answer_flags, body)
                    return bodies
                bodies.append(body[:most])


class Address(NamedTuple):
    """An address of this host: the address, its prefix length and its interface."""

    address: str
    prefix: int
    interface: str


class Route(NamedTuple):
    """A route of this host: destination in CIDR form, interface, gateway or an empty string."""

    destination: str
    interface: str
    gateway: str


def _links(netlink: Netlink) -> dict[int, str]:
    names = {}
    for body in netlink.dump(_RTM_GETLINK, struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0)):
        (index,) = struct.unpack_from("=i", body, 4)
        names[index] = attributes(body[16:]).get(3, b"?").rstrip(b"\0").decode("utf-8", "replace")
    return names


def addresses_and_routes() -> tuple[list[Address], list[Route]]:
    """The IPv4 and IPv6 addresses and unicast routes of the calling process's network namespace."""
    addresses = []
    routes = []
    with Netlink(NETLINK_ROUTE) as netlink:
        names = _links(netlink)
        for family in (socket.AF_INET, socket.AF_INET6):
            for body in netlink.dump(_RTM_GETADDR, struct.pack("=BBBBi", family, 0, 0, 0, 0)):
                found_family, prefix, _flags, _scope, index = struct.unpack_from("=BBBBi", body)
                found = attributes(body[8:])
                raw = found.get(2) or found.get(1)
                if found_family == family and raw:
                    addresses.append(Address(socket.inet_ntop(family, raw), prefix, names.get(index, str(index))))
            size = 4 if family == socket.AF_INET else 16
            for body in netlink.dump(_RTM_GETROUTE, struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)):
                found_family, prefix, _src, _tos, table, _proto, _scope, kind = struct.unpack_from("=BBBBBBBB", body)
                if found_family != family or table == _RT_TABLE_LOCAL or kind != _RTN_UNICAST:
                    continue
                found = attributes(body[12:])
                raw = found.get(1, b"\0" * size)
                gateway = socket.inet_ntop(family, found[5]) if len(found.get(5, b"")) == size else ""
                index = struct.unpack("=i", found[4])[0] if 4 in found else 0
                destination = "%s/%d" % (socket.inet_ntop(family, raw), prefix)
                routes.append(Route(destination, names.get(index, ""), gateway))
    return addresses, routes


def interface_of(address: str) -> tuple[str, int]:
    """The interface with an IPv4 address in the calling process's network namespace, and its MTU; ("", 0) when there is none."""
    wanted = socket.inet_aton(address)
    with Netlink(NETLINK_ROUTE) as netlink:
        for body in netlink.dump(_RTM_GETADDR, struct.pack("=BBBBi", socket.AF_INET, 0, 0, 0, 0)):
            family, _prefix, _flags, _scope, index = struct.unpack_from("=BBBBi", body)
            found = attributes(body[8:])
            if family != socket.AF_INET or wanted not in (found.get(1), found.get(2)):
                continue
            for link in netlink.dump(_RTM_GETLINK, struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0)):
                if struct.unpack_from("=i", link, 4)[0] == index:
                    about = attributes(link[16:])
                    name = about.get(3, b"").rstrip(b"\0").decode("utf-8", "replace")
                    return name, struct.unpack("=I", about.get(4, b"\0\0\0\0"))[0]
    return "", 0


def unshare_network() -> None:
    """Move the calling process into a network namespace of its own. Raises OSError."""
    _libc_call("unshare", CLONE_NEWNET)


def enter_network_of(pid: int) -> None:
    """Move the calling process into the network namespace of the process `pid`. Raises OSError."""
    handle = os.open("/proc/%d/ns/net" % pid, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _libc_call("setns", handle, CLONE_NEWNET)
    finally:
        os.close(handle)


def _libc_call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*(ctypes.c_int(argument) for argument in arguments)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def in_child(function: Callable[[], dict[str, Any]], timeout: float) -> dict[str, Any]:
    """Run `function` in a forked child, which may change namespaces, and return its answer.

    A child that raises, dies or does not answer within `timeout` seconds gives {"error": "<why>"}.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            try:
                answer = function()
            except Exception as error:
                answer = {"error": str(error) or type(error).__name__, "errno": getattr(error, "errno", None)}
            with os.fdopen(writing, "wb") as stream:
                stream.write(json.dumps(answer).encode("utf-8"))
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    deadline = time.monotonic() + timeout
    data = b""
    finished = False
    try:
        while not finished:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([reading], [], [], left)[0]:
                os.kill(child, signal.SIGKILL)
                return {"error": "no answer within %g seconds" % timeout}
            chunk = os.read(reading, 65536)
            finished = not chunk
            data += chunk
    finally:
        os.close(reading)
        os.waitpid(child, 0)
    try:
        answer = json.loads(data.decode("utf-8"))
    except ValueError:
        return {"error": "the child process died without an answer"}
    return answer if isinstance(answer, dict) else {"error": "unexpected answer"}


_SPI = 0x4D495001  # any number; the association lives in a namespace that nobody else sees
_DUMMY_FROM = socket.inet_aton("192.0.2.1") + b"\0" * 12
_DUMMY_TO = socket.inet_aton("192.0.2.2") + b"\0" * 12


def _security_association(algorithm: bytes) -> bytes:
    selector = struct.pack("=16s16sHHHHHBBB3xii", b"", b"", 0, 0, 0, 0, socket.AF_INET, 0, 0, 0, 0, 0)
    identity = struct.pack("=16sIB3x", _DUMMY_TO, socket.htonl(_SPI), socket.IPPROTO_ESP)
    lifetime = struct.pack("=8Q", *([_XFRM_INF] * 4 + [0] * 4)) + b"\0" * 32
    state = b"\0" * 12 + struct.pack("=IIHBBB7x", 0, 0, socket.AF_INET, 0, 0, 0)
    return selector + identity + _DUMMY_FROM + lifetime + state + algorithm


def add_dummy_association(cipher: str) -> None:
    """Add a security association as the encrypted overlay does, and delete it again.

    `cipher` is `aead` for AES-GCM as Docker uses it, or `cbc` to find out whether ESP itself is there.
    Call it in a network namespace of its own. Raises NetlinkError.
    """
    if cipher == "aead":
        body = struct.pack("=64sII", b"rfc4106(gcm(aes))", 160, 64) + b"\0" * 20
        algorithm = attribute(_XFRMA_ALG_AEAD, body)
    else:
        algorithm = attribute(_XFRMA_ALG_CRYPT, struct.pack("=64sI", b"cbc(aes)", 128) + b"\0" * 16)
    with Netlink(NETLINK_XFRM) as netlink:
        netlink.request(_XFRM_MSG_NEWSA, _security_association(algorithm), NLM_F_CREATE_EXCL)
        identity = struct.pack("=16sIHBx", _DUMMY_TO, socket.htonl(_SPI), socket.AF_INET, socket.IPPROTO_ESP)
        netlink.request(_XFRM_MSG_DELSA, identity)


def add_dummy_vxlan() -> None:
    """Add a VXLAN interface; call it in a network namespace of its own, which takes it away. Raises NetlinkError."""
    data = attribute(1, struct.pack("=I", 4242)) + attribute(15, struct.pack("!H", 4789))
    info = attribute(1, b"vxlan\0") + attribute(2, data)
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0) + attribute(3, b"mipvx0\0") + attribute(18, info)
    with Netlink(NETLINK_ROUTE) as netlink:
        netlink.request(_RTM_NEWLINK, body, NLM_F_CREATE_EXCL)
