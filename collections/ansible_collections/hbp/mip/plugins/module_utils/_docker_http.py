# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read-only questions to the Docker engine over its socket, with the standard library only.

The checks run on hosts where neither the Docker SDK nor requests is installed yet.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from typing import Any
from urllib.parse import quote

SOCKET = "/var/run/docker.sock"


class DockerError(Exception):
    """The engine could not be asked, or refused: `status` is the HTTP status, 0 when there was no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def get(path: str, socket_path: str = SOCKET, timeout: float = 5.0) -> Any:
    """GET `path` and return the decoded JSON. `timeout` is in seconds. Raises DockerError."""
    connection = _UnixConnection(socket_path, timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    except socket.timeout as error:
        raise DockerError("no answer from %s within %g seconds" % (socket_path, timeout)) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DockerError("%s: %s" % (socket_path, reason)) from error
    finally:
        connection.close()
    try:
        answer = json.loads(body.decode("utf-8"))
    except ValueError as error:
        text = "%s answered HTTP %d with something that is not JSON" % (socket_path, response.status)
        raise DockerError(text, response.status) from error
    if response.status >= 400:
        message = answer.get("message") if isinstance(answer, dict) else None
        raise DockerError(str(message or "HTTP %d" % response.status), response.status)
    return answer


def containers(labels: list[str], socket_path: str = SOCKET, timeout: float = 5.0) -> list[dict[str, Any]]:
    """The running containers that carry all `labels`, each `key` or `key=value`. Raises DockerError."""
    filters = quote(json.dumps({"label": labels, "status": ["running"]}))
    found = get("/containers/json?filters=" + filters, socket_path, timeout)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def inspect(identifier: str, socket_path: str = SOCKET, timeout: float = 5.0) -> dict[str, Any]:
    """One container's details. Raises DockerError."""
    found = get("/containers/%s/json" % quote(identifier, safe=""), socket_path, timeout)
    return found if isinstance(found, dict) else {}


def daemon_pid() -> int:
    """The process id of a Docker engine on this host, 0 when none runs.

    Found without touching the socket, because systemd would start a stopped engine at the first connection.
    Engines inside containers have another pid namespace and do not count.
    """
    try:
        with open("/var/run/docker.pid", encoding="ascii") as stream:
            pid = int(stream.read().strip())
        if _command(pid) == "dockerd":
            return pid
    except (OSError, ValueError):
        pass
    own = _pid_namespace("self")
    for name in os.listdir("/proc"):
        if name.isdigit() and _command(int(name)) == "dockerd" and _pid_namespace(name) == own:
            return int(name)
    return 0


def _command(pid: int) -> str:
    try:
        with open("/proc/%d/comm" % pid, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""


def _pid_namespace(pid: str) -> str:
    try:
        return os.readlink("/proc/%s/ns/pid" % pid)
    except OSError:
        return ""
