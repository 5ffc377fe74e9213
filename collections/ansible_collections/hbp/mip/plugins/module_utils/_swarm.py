# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What this node is in a swarm, and what a swarm's own files and certificates say. No function here changes anything."""

from __future__ import annotations

import base64
import binascii
import calendar
import ipaddress
import json
import socket
import ssl
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

DEFAULT_PORT = 2377
DEFAULT_DATA_PATH_PORT = 4789

#: Values of `LocalState.state`.
NONE = "none"
PENDING = "pending"
WORKER = "worker"
MANAGER = "manager"
LOCKED = "locked"
NO_QUORUM = "no-quorum"
ERROR = "error"

_NO_LEADER = ("does not have a leader", "no leader", "deadline exceeded", "raft", "quorum")

_OID_COMMON_NAME = bytes((0x55, 0x04, 0x03))
_OID_ORGANIZATION = bytes((0x55, 0x04, 0x0A))
_OID_ORGANIZATIONAL_UNIT = bytes((0x55, 0x04, 0x0B))
_SUBJECT_KEYS = {_OID_COMMON_NAME: "CN", _OID_ORGANIZATION: "O", _OID_ORGANIZATIONAL_UNIT: "OU"}


class Certificate(NamedTuple):
    """Subject (`CN`, `O`, `OU`) and validity (Unix seconds) of an X.509 certificate."""

    subject: Dict[str, str]
    not_before: int
    not_after: int

    @property
    def cluster_id(self) -> str:
        """The swarm that issued a node's certificate."""
        return self.subject.get("O", "")

    @property
    def node_id(self) -> str:
        """The node that owns a node's certificate."""
        return self.subject.get("CN", "")

    @property
    def role(self) -> str:
        """`manager`, `worker`, or nothing for a certificate that is not a swarm node's."""
        unit = self.subject.get("OU", "")
        return unit[len("swarm-") :] if unit.startswith("swarm-") else ""


def _element(data: bytes, at: int) -> Tuple[int, int, int]:
    """Tag, start and end of the DER element at `at`."""
    tag, length, start = data[at], data[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(data[start : start + count], "big")
        start += count
    if start + length > len(data):
        raise ValueError("truncated certificate")
    return tag, start, start + length


def _children(data: bytes, start: int, end: int) -> List[Tuple[int, int, int]]:
    found = []
    while start < end:
        element = _element(data, start)
        found.append(element)
        start = element[2]
    return found


def _time(tag: int, text: str) -> int:
    if tag == 0x17:  # UTCTime has two digits for the year; RFC 5280 says which century
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    return calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ"))


def parse_certificate(data: bytes) -> Certificate:
    """Subject and validity of the first certificate in `data` (PEM or DER). Raises `ValueError` for anything else."""
    if b"-----BEGIN" in data:
        try:
            body = data.split(b"-----BEGIN CERTIFICATE-----", 1)[1].split(b"-----END CERTIFICATE-----", 1)[0]
            data = base64.b64decode(body)
        except (IndexError, binascii.Error) as error:
            raise ValueError("not a certificate in PEM form") from error
    try:
        _unused, start, end = _element(data, 0)
        _unused, start, end = _element(data, start)
        fields = _children(data, start, end)
        if fields[0][0] == 0xA0:  # the version is optional
            fields = fields[1:]
        validity, subject = fields[3], fields[4]
        times = [_time(tag, data[a:b].decode("ascii")) for tag, a, b in _children(data, validity[1], validity[2])]
        names: Dict[str, str] = {}
        for _unused, set_start, set_end in _children(data, subject[1], subject[2]):
            for _unused, pair_start, pair_end in _children(data, set_start, set_end):
                (_unused, a, b), (_unused, c, d) = _children(data, pair_start, pair_end)[:2]
                key = _SUBJECT_KEYS.get(data[a:b])
                if key:
                    names[key] = data[c:d].decode("utf-8", "replace")
        return Certificate(names, times[0], times[1])
    except (IndexError, ValueError) as error:
        raise ValueError("not an X.509 certificate: %s" % error) from error


def read_certificate(root_dir: str) -> Optional[Certificate]:
    """This node's own certificate below the engine's `root_dir`; None when there is none or it cannot be read."""
    try:
        return parse_certificate((Path(root_dir) / "swarm" / "certificates" / "swarm-node.crt").read_bytes())
    except (OSError, ValueError):
        return None


def read_start_config(root_dir: str) -> Dict[str, Any]:
    """What the engine was told at init or join (`ListenAddr`, `DataPathAddr`, `JoinInProgress`, …); {} when unknown."""
    try:
        content = json.loads((Path(root_dir) / "swarm" / "docker-state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


class LocalState(NamedTuple):
    """What this node is in a swarm, from the engine's `GET /info` and its files."""

    state: str
    cluster_id: str
    node_id: str
    node_addr: str
    role: str
    error: str
    managers: List[str]
    cluster: Dict[str, Any]
    certificate: Optional[Certificate]
    started_with: Dict[str, Any]

    @property
    def member(self) -> bool:
        """True when the node works in a swarm now."""
        return self.state in (WORKER, MANAGER)

    def public(self) -> Dict[str, Any]:
        """What modules return about it."""
        expires = self.certificate.not_after if self.certificate else 0
        return {
            "local_state": self.state,
            "cluster_id": self.cluster_id,
            "node_id": self.node_id,
            "node_addr": self.node_addr,
            "role": self.role,
            "remote_addrs": self.managers,
            "certificate_expires": iso_time(expires) if expires else "",
        }


def iso_time(seconds: float) -> str:
    """`seconds` since 1970 as an ISO 8601 time in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def classify(
    info: Mapping[str, Any], certificate: Optional[Certificate] = None, started_with: Optional[Dict[str, Any]] = None
) -> LocalState:
    """The state that `info` (the engine's `GET /info`) describes.

    `certificate` and `started_with` are what the engine keeps on disk: a worker's engine does not tell its swarm's id, and
    a manager that waits for its majority after a restart calls itself pending just as an unfinished join does.
    """
    swarm = info.get("Swarm") or {}
    local = swarm.get("LocalNodeState") or "inactive"
    error = str(swarm.get("Error") or "")
    cluster = swarm.get("Cluster") or {}
    started_with = started_with or {}
    role = ""
    if local == "inactive":
        state = NONE
    elif local == "locked":
        state = LOCKED
        role = MANAGER
    elif local == "pending":
        state = PENDING
        if certificate and certificate.role == MANAGER and not started_with.get("JoinInProgress"):
            state, role = NO_QUORUM, MANAGER
    elif local == "active":
        role = MANAGER if swarm.get("ControlAvailable") else WORKER
        state = role
        if role == MANAGER and error:
            state = NO_QUORUM if any(word in error for word in _NO_LEADER) else ERROR
    else:
        state = ERROR
    if state != NONE and certificate and not role:
        role = certificate.role
    return LocalState(
        state=state,
        cluster_id="" if state == NONE else str(cluster.get("ID") or (certificate.cluster_id if certificate else "")),
        node_id="" if state == NONE else str(swarm.get("NodeID") or (certificate.node_id if certificate else "")),
        node_addr="" if state == NONE else str(swarm.get("NodeAddr") or ""),
        role=role,
        error=error,
        managers=sorted(str(peer.get("Addr")) for peer in swarm.get("RemoteManagers") or [] if peer.get("Addr")),
        cluster=dict(cluster),
        certificate=certificate if state != NONE else None,
        started_with=started_with if state != NONE else {},
    )


def local_state(client: Any) -> LocalState:
    """What the node of this engine is in a swarm. Raises what the SDK raises."""
    info = client.info()
    root_dir = str(info.get("DockerRootDir") or "/var/lib/docker")
    return classify(info, read_certificate(root_dir), read_start_config(root_dir))


def state_problem(local: LocalState) -> Tuple[str, str]:
    """Why a node in this state cannot be worked with, and the next command; empty texts for none, worker and manager."""
    cause = ": %s" % local.error if local.error else ""
    if local.state == LOCKED:
        return (
            "this manager is locked: its swarm uses autolock and the engine was restarted",
            "mipfed unlock (the key is in the vault of the federation)",
        )
    if local.state == NO_QUORUM:
        return (
            "the swarm of this manager has no majority of its managers%s" % cause,
            "start the other managers (%s). Only if they are lost for good, see the recovery guide: a swarm that is "
            "initialised again is a different swarm" % (", ".join(local.managers) or "docker node ls on another one"),
        )
    if local.state == PENDING:
        return (
            "this node has begun to join a swarm and has not finished%s" % cause,
            "check that it reaches the manager's port 2377, then wait, or give up the join with: docker swarm leave",
        )
    if local.state == ERROR:
        fix = "journalctl -u docker -n 100"
        if "expired" in local.error or "certificate" in local.error:
            fix = (
                "check the clock (timedatectl); a node that was off for longer than its certificate lives must leave "
                "(docker swarm leave --force) and join again"
            )
        return ("the swarm part of this engine failed%s" % cause, fix)
    return ("", "")


def split_address(address: str, port: int = DEFAULT_PORT) -> Tuple[str, int]:
    """Host and port of `host`, `host:port`, `[v6]:port` or a bare IPv6 address. Raises `ValueError` for a bad port."""
    if address.startswith("["):
        host, _unused, rest = address[1:].partition("]")
        return host, int(rest[1:]) if rest.startswith(":") else port
    if address.count(":") > 1:
        return address, port
    host, _unused, number = address.partition(":")
    return host, int(number) if number else port


def join_address(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return "[%s]:%d" % (host, port) if ":" in host else "%s:%d" % (host, port)


def same_address(wanted: str, found: str) -> bool:
    """Whether two `host[:port]` name the same host; True when `wanted` is an interface, which cannot be compared."""
    try:
        return ipaddress.ip_address(split_address(wanted)[0]) == ipaddress.ip_address(split_address(found)[0])
    except ValueError:
        return True


class ManagerProbe(NamedTuple):
    """What can be learnt about a manager's port without a token. `problem` is empty when it answers as a manager."""

    address: str
    problem: str
    certificate: Optional[Certificate]


def probe_manager(address: str, timeout: float = 5.0) -> ManagerProbe:
    """Connect to a manager's `host:port` and read the certificate it shows. Takes at most about twice `timeout` seconds.

    Nothing is trusted because of this: joining verifies the manager by the token. It only finds out, before anything is
    changed, whether the port is reachable, to which swarm it belongs and whether the clocks agree.
    """
    try:
        host, port = split_address(address)
    except ValueError:
        return ManagerProbe(address, "is not an address of the form host:port", None)
    address = join_address(host, port)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection((host, port), timeout=timeout) as plain:
            plain.settimeout(timeout)
            with context.wrap_socket(plain) as secured:
                shown = secured.getpeercert(binary_form=True)
    except ConnectionRefusedError:
        return ManagerProbe(address, "refuses connections: no swarm manager runs there, or its engine is stopped", None)
    except socket.timeout:
        return ManagerProbe(
            address,
            "did not answer within %g s: the host is down, or a firewall on the way drops TCP port %d" % (timeout, port),
            None,
        )
    except socket.gaierror as error:
        return ManagerProbe(address, "cannot be resolved: %s" % (error.strerror or error), None)
    except ssl.SSLError as error:
        return ManagerProbe(address, "does not speak TLS as a swarm manager does: %s" % (error.reason or error), None)
    except OSError as error:
        return ManagerProbe(address, "cannot be reached: %s" % (error.strerror or error), None)
    try:
        return ManagerProbe(address, "", parse_certificate(shown or b""))
    except ValueError as error:
        return ManagerProbe(address, "shows a certificate that cannot be read: %s" % error, None)


def clock_problem(certificate: Certificate, now: float) -> str:
    """Why `certificate` is not valid at `now` (Unix seconds); empty when it is."""
    if now < certificate.not_before:
        return "the certificate is valid only from %s, and the clock of this host says %s" % (
            iso_time(certificate.not_before),
            iso_time(now),
        )
    if now > certificate.not_after:
        return "the certificate expired at %s, and the clock of this host says %s" % (
            iso_time(certificate.not_after),
            iso_time(now),
        )
    return ""


def node_summary(node: Mapping[str, Any]) -> Dict[str, Any]:
    """The parts of the engine's description of a swarm node that this collection works with."""
    spec = node.get("Spec") or {}
    description = node.get("Description") or {}
    status = node.get("Status") or {}
    manager = node.get("ManagerStatus") or {}
    resources = description.get("Resources") or {}
    labels = dict(spec.get("Labels") or {})
    return {
        "id": node.get("ID", ""),
        "hostname": description.get("Hostname", ""),
        "name": labels.get("name", ""),
        "role": spec.get("Role", ""),
        "availability": spec.get("Availability", ""),
        "status": status.get("State", ""),
        "status_message": status.get("Message", ""),
        "reachability": manager.get("Reachability", ""),
        "leader": bool(manager.get("Leader")),
        "manager_address": manager.get("Addr", ""),
        "address": status.get("Addr", ""),
        "engine_version": (description.get("Engine") or {}).get("EngineVersion", ""),
        "architecture": (description.get("Platform") or {}).get("Architecture", ""),
        "cpus": float(resources.get("NanoCPUs") or 0) / 1e9,
        "memory_mb": int(resources.get("MemoryBytes") or 0) // (1024 * 1024),
        "labels": labels,
        "created": node.get("CreatedAt", ""),
        "updated": node.get("UpdatedAt", ""),
    }


def twins(nodes: Sequence[Mapping[str, Any]]) -> List[Dict[str, Any]]:
    """Nodes of the swarm (as `node_summary` gives them) that share a host name, `name` label or address."""
    found = []
    for key in ("name", "hostname", "address"):
        groups: Dict[str, List[Mapping[str, Any]]] = {}
        for node in nodes:
            if node[key] and node[key] not in ("127.0.0.1", "0.0.0.0"):  # noqa: S104 - compared, not bound
                groups.setdefault(str(node[key]), []).append(node)
        for value, members in sorted(groups.items()):
            if len(members) > 1:
                found.append(
                    {
                        "by": key,
                        "value": value,
                        "nodes": [node["id"] for node in members],
                        "down": [node["id"] for node in members if node["status"] == "down"],
                    }
                )
    return found


class SwarmError(Exception):
    """The swarm is not in a state in which this can be done, or what is asked for contradicts it."""


def require_manager(local: LocalState, cluster_id: Optional[str] = None) -> None:
    """Raise `SwarmError` unless the node is a working manager, of the swarm `cluster_id` when that is given."""
    problem, fix = state_problem(local)
    if problem:
        raise SwarmError("%s. Nothing was changed. Next: %s" % (problem, fix))
    if local.state == NONE:
        raise SwarmError(
            "this node is in no swarm. Nothing was changed. Run this on a manager, after hbp.mip.swarm_member created the "
            "swarm (mipfed deploy)"
        )
    if local.state != MANAGER:
        raise SwarmError(
            "this node is a worker, and only managers can do this. Nothing was changed. Run it on %s"
            % (", ".join(local.managers) or "a manager")
        )
    if cluster_id and local.cluster_id != cluster_id:
        raise SwarmError(
            "this manager belongs to another swarm: %s, the wanted swarm is %s. Nothing was changed" % (local.cluster_id, cluster_id)
        )
