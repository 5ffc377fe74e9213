# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a host finds names and its images' registry: one question to each name server, one connection to the registry."""

from __future__ import annotations

import glob
import ipaddress
import os
import select
import socket
import struct
import time
from typing import Any, Sequence

from ansible_collections.hbp.mip.plugins.module_utils import _der, _netlink

#: Seconds for all name servers together: the libc's resolver waits five for each. One that asks others itself may need two.
DNS_TIMEOUT = 2.5
_DNS_REPEAT = 0.5
#: Seconds for connecting and the certificate, a half for each; a lost first packet is repeated after one.
REGISTRY_TIMEOUT = 4.0
#: Seconds for looking a name up: the libc asks again after five. Where no name server answers, there is nothing to wait for.
_LOOK_UP, _LOOK_UP_IN_VAIN = 12.0, 2.0
_TYPE_A, _TYPE_NS = 1, 2


def ask_name_servers(servers: Sequence[str], name: str, timeout: float = DNS_TIMEOUT, port: int = 53) -> list[dict[str, Any]]:
    """Ask every name server for the IPv4 address of `name`, or for the root's servers when it is empty, all at once.

    Each answer is {server, ms, code, addresses}: `ms` is None for a server that did not answer within `timeout` seconds, `code` is the
    DNS result code (0 no error, 3 no such name; RFC 1035), `addresses` the number of IPv4 addresses.
    """
    question = _question(name)
    asked: dict[int, tuple[dict[str, Any], socket.socket, bytes, float]] = {}
    results = []
    for server in list(servers)[:3]:  # the libc looks at three
        result: dict[str, Any] = {"server": server, "ms": None, "code": None, "addresses": 0}
        results.append(result)
        try:
            family, _kind, _proto, _name, where = socket.getaddrinfo(server, port, 0, socket.SOCK_DGRAM, 0, socket.AI_NUMERICHOST)[0]
            channel = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError:
            continue
        message = os.urandom(2) + question
        try:
            channel.connect(where)
            channel.send(message)
        except OSError:
            channel.close()
            continue
        asked[channel.fileno()] = (result, channel, message, time.monotonic())
    deadline, repeat = time.monotonic() + timeout, time.monotonic() + _DNS_REPEAT
    while asked:
        now = time.monotonic()
        if now >= deadline:
            break
        if now >= repeat:
            repeat = deadline
            for _result, channel, message, _sent in asked.values():
                _quietly_send(channel, message)
        for handle in select.select(list(asked), [], [], max(0.0, min(deadline, repeat) - now))[0]:
            result, channel, message, sent = asked[handle]
            try:
                answer = channel.recv(4096)
            except OSError:
                # the server's host says that nothing listens there
                asked.pop(handle)[1].close()
                continue
            if len(answer) >= 12 and answer[:2] == message[:2] and answer[2] & 0x80:
                result.update(ms=round((time.monotonic() - sent) * 1000, 1), code=answer[3] & 0x0F, addresses=_addresses(answer))
                asked.pop(handle)[1].close()
    for _result, channel, _message, _sent in asked.values():
        channel.close()
    return results


def _quietly_send(channel: socket.socket, message: bytes) -> None:
    try:
        channel.send(message)
    except OSError:
        return


def _question(name: str) -> bytes:
    labels = [label.encode("ascii", "ignore")[:63] for label in name.rstrip(".").split(".") if label]
    encoded = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0) + encoded + struct.pack("!HH", _TYPE_A if labels else _TYPE_NS, 1)


def _addresses(answer: bytes) -> int:
    """Count the IPv4 addresses in an answer; 0 for a damaged one."""
    count = 0
    try:
        questions, answers = struct.unpack_from("!HH", answer, 4)
        offset = 12
        for _number in range(questions):
            offset = _after_name(answer, offset) + 4
        for _number in range(answers):
            offset = _after_name(answer, offset)
            kind, _class, _ttl, length = struct.unpack_from("!HHIH", answer, offset)
            offset += 10 + length
            count += kind == _TYPE_A
    except (struct.error, IndexError):
        return count
    return count


def _after_name(answer: bytes, offset: int) -> int:
    while answer[offset]:
        if answer[offset] & 0xC0:
            return offset + 2
        offset += 1 + answer[offset]
    return offset + 1


def split_registry(registry: str) -> tuple[str, int]:
    """Host and port (0 when it names none) of a registry as image names begin with it; Docker Hub's names become its real host."""
    text = registry.partition("/")[0]
    if text.startswith("["):
        host, _separator, rest = text[1:].partition("]")
        port = rest.lstrip(":")
    else:
        host, _separator, port = text.partition(":")
    if host in ("docker.io", "index.docker.io"):
        host = "registry-1.docker.io"
    return host, int(port) if port.isdigit() else 0


def is_address(host: str) -> bool:
    """Whether a host is given as an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def registry(name: str, tls: bool, names_are_answered: bool = True, timeout: float = REGISTRY_TIMEOUT) -> dict[str, Any]:
    """Connect to a registry as the engine does. `names_are_answered` tells whether a name server of this host answers.

    Returns {name, host, port, tls, resolved, connected, error, issuer, subject, trusted, reason}: `error` is why there is no
    connection; `issuer` and `subject` name the certificate's organisation or common name; `reason` is why it is not trusted, with
    `verify_code`, OpenSSL's number of that. Once its name is known, it takes about `timeout` seconds at most.
    """
    host, port = split_registry(name)
    port = port or (443 if tls else 80)
    found: dict[str, Any] = {"name": name, "host": host, "port": port, "tls": tls, "resolved": False, "connected": False, "error": ""}
    known = _netlink.in_child(lambda: _addresses_of(host, port), _LOOK_UP if names_are_answered else _LOOK_UP_IN_VAIN)
    if is_address(host):
        known.setdefault("addresses", [host])
    if "addresses" not in known:
        found["error"] = known.get("error") or "no answer"
        return found
    found["resolved"] = True
    answer = _netlink.in_child(lambda: _connect(name, host, known["addresses"], port, tls, timeout), timeout * 3 / 2)
    found.update(answer if "connected" in answer else {"error": answer.get("error") or "no answer"})
    return found


def _addresses_of(host: str, port: int) -> dict[str, Any]:
    """The first address of each family: the engine tries all of them, but that is enough to tell."""
    try:
        places = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    except OSError as error:
        return {"error": error.strerror or str(error)}
    first = {place[0]: str(place[4][0]) for place in reversed(places)}
    return {"addresses": [first[family] for family in (socket.AF_INET, socket.AF_INET6) if family in first]}


def _connect(name: str, host: str, addresses: Sequence[str], port: int, tls: bool, timeout: float) -> dict[str, Any]:
    answer: dict[str, Any] = {"connected": False, "error": ""}
    connection = None
    for address in addresses:
        try:
            connection = socket.create_connection((address, port), timeout / 2)
            break
        except OSError as error:
            answer["error"] = error.strerror or str(error) or "no answer"
    if connection is None:
        return answer
    answer.update(connected=True, error="")
    with connection:
        connection.settimeout(timeout / 2)
        if tls:
            answer.update(_certificate(connection, name, host, port, timeout / 2))
    return answer


def _certificate(connection: socket.socket, name: str, host: str, port: int, timeout: float) -> dict[str, Any]:
    import ssl

    context = ssl.create_default_context()
    # what an administrator gave the engine for this registry counts for it as well
    for path in glob.glob("/etc/docker/certs.d/%s/*.crt" % glob.escape(name.partition("/")[0])):
        try:
            context.load_verify_locations(path)
        except (OSError, ssl.SSLError):
            continue
    try:
        with context.wrap_socket(connection, server_hostname=host) as secured:
            issuer, subject = _der.certificate_names(secured.getpeercert(True) or b"")
        return {"trusted": True, "reason": "", "verify_code": 0, "issuer": _called(issuer), "subject": _called(subject)}
    except ssl.SSLCertVerificationError as error:
        result: dict[str, Any] = {"trusted": False, "reason": error.verify_message, "verify_code": error.verify_code}
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error) or type(error).__name__
        return {"trusted": False, "reason": str(reason), "verify_code": -1, "issuer": "", "subject": ""}
    # only to read who signed it; nothing is sent or believed over this connection
    unchecked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unchecked.check_hostname = False
    unchecked.verify_mode = ssl.CERT_NONE
    issuer, subject = {}, {}
    try:
        with socket.create_connection((host, port), timeout) as again, unchecked.wrap_socket(again, server_hostname=host) as secured:
            issuer, subject = _der.certificate_names(secured.getpeercert(True) or b"")
    except (OSError, ssl.SSLError):
        pass
    result.update(issuer=_called(issuer), subject=_called(subject))
    return result


def _called(names: dict[str, str]) -> str:
    parts = [names[key] for key in ("O", "CN") if names.get(key)]
    return ", ".join(dict.fromkeys(parts))
