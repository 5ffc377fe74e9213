# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keystore, Consul, asked from inside its container's network: it listens nowhere else."""

from __future__ import annotations

import base64
import http.client
import json
import urllib.parse
from typing import Any, Callable, Dict, List

from ansible_collections.hbp.mip.plugins.module_utils import _docker_http, _netlink

PORT = 8500
_TIMEOUT = 30
#: Consul takes at most so many operations in one transaction.
_BATCH = 60


class KeystoreError(Exception):
    """The keystore cannot be asked, or refuses."""


def find(federation: str, socket_path: str = _docker_http.SOCKET) -> int:
    """The process of the keystore's container on this host. Raises KeystoreError."""
    labels = ["eu.humanbrainproject.mip.federation=%s" % federation, "eu.humanbrainproject.mip.service=exareme-keystore"]
    try:
        found = _docker_http.containers(labels, socket_path)
        if not found:
            raise KeystoreError(
                "no keystore of %s runs on this host. Next: docker service ps --no-trunc of its service; mipfed status" % federation
            )
        details = _docker_http.inspect(str(found[0]["Id"]), socket_path)
    except _docker_http.DockerError as error:
        raise KeystoreError("the engine cannot be asked for the keystore: %s" % error) from error
    pid = int((details.get("State") or {}).get("Pid") or 0)
    if not pid:
        raise KeystoreError("the keystore of %s has no process" % federation)
    return pid


def inside(pid: int, work: Callable[[], Dict[str, Any]], timeout: float = 120) -> Dict[str, Any]:
    """Run `work` in the network of the process `pid` and return its answer. Raises KeystoreError."""

    def enter() -> Dict[str, Any]:
        _netlink.enter_network_of(pid)
        return work()

    answer = _netlink.in_child(enter, timeout)
    if answer.get("error"):
        raise KeystoreError(str(answer["error"]))
    return answer


def _ask(method: str, path: str, body: bytes = b"", address: str = "127.0.0.1") -> "tuple[int, bytes]":
    connection = http.client.HTTPConnection(address, PORT, timeout=_TIMEOUT)
    try:
        connection.request(method, path, body=body or None)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise KeystoreError("%s %s: %s" % (method, path, error)) from error
    finally:
        connection.close()


def read() -> Dict[str, Any]:
    """All keys with their values, as one consistent view: {"keys": {name: {"value": base64, "flags"}}}."""
    status, body = _ask("GET", "/v1/kv/?recurse&consistent")
    if status == 404:
        return {"keys": {}}
    if status != 200:
        raise KeystoreError("it answered %d for its keys: %s" % (status, body[:200].decode("utf-8", "replace")))
    keys = {str(entry["Key"]): {"value": entry["Value"] or "", "flags": entry.get("Flags") or 0} for entry in json.loads(body)}
    return {"keys": keys}


def snapshot() -> Dict[str, Any]:
    """Consul's own snapshot in base64, or why there is none: {"snapshot", "why"}."""
    status, body = _ask("GET", "/v1/snapshot")
    if status != 200 or not body:
        return {"snapshot": "", "why": "it answered %d: %s" % (status, body[:200].decode("utf-8", "replace").strip())}
    return {"snapshot": base64.b64encode(body).decode("ascii"), "why": ""}


def write(keys: Dict[str, Dict[str, Any]], delete: List[str]) -> Dict[str, Any]:
    """Set and delete keys, in transactions."""
    operations: List[Dict[str, Any]] = [
        {"KV": {"Verb": "set", "Key": name, "Value": entry["value"], "Flags": entry["flags"]}} for name, entry in sorted(keys.items())
    ]
    operations += [{"KV": {"Verb": "delete", "Key": name}} for name in sorted(delete)]
    for start in range(0, len(operations), _BATCH):
        status, body = _ask("PUT", "/v1/txn", json.dumps(operations[start : start + _BATCH]).encode("utf-8"))
        if status != 200:
            raise KeystoreError("it refused keys with %d: %s" % (status, body[:300].decode("utf-8", "replace")))
    return {"written": len(operations)}


def ready() -> Dict[str, Any]:
    """Whether it has a leader, which it needs to take keys."""
    try:
        status, body = _ask("GET", "/v1/status/leader")
    except KeystoreError as error:
        return {"ready": False, "why": str(error)}
    return {"ready": status == 200 and len(body.strip()) > 2, "why": "it has no leader yet"}


def node_of(key: str) -> str:
    """The node that a key belongs to: `active_workers/<node>`, `data/<node>/...`; empty for others."""
    parts = urllib.parse.unquote(key).split("/")
    return parts[1] if len(parts) > 1 and parts[0] in ("active_workers", "data") else ""
