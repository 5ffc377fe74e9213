# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the link probe has no port of its own between the nodes: sockets inside the overlay, beside the engine's container.

Once a swarm runs, every TCP port that the firewalls leave open between the nodes belongs to Docker. The overlay is open then, needs no
rule, and is what the federation's data take.
"""

from __future__ import annotations

import socket
import threading
from typing import Any

from ansible_collections.hbp.mip.plugins.module_utils import _docker_http, _netlink

NODE_LABEL = "eu.humanbrainproject.mip.node"


def place(node: str, given: dict[str, Any] | None) -> dict[str, Any]:
    """The container of `node` on the overlay: {"pid", "address", "error"}; `given` is the module's option, None for no overlay."""
    found: dict[str, Any] = {"pid": 0, "address": "", "error": ""}
    if not given:
        return found
    if given["pid"]:
        return dict(found, pid=given["pid"], address=given["address"] or "")
    if not _docker_http.daemon_pid():
        return dict(found, error="the Docker engine of %s does not run" % node)
    try:
        for item in _docker_http.containers(["%s=%s" % (NODE_LABEL, node)]):
            details = _docker_http.inspect(str(item["Id"]))
            networks = (details.get("NetworkSettings") or {}).get("Networks") or {}
            address = str((networks.get(given["network"]) or {}).get("IPAddress") or "")
            pid = int((details.get("State") or {}).get("Pid") or 0)
            if address and pid:
                return dict(found, pid=pid, address=address)
    except _docker_http.DockerError as error:
        return dict(found, error="the Docker engine of %s cannot be asked: %s" % (node, error))
    return dict(found, error="no container of the federation runs on %s" % node)


def tcp_socket(pid: int) -> socket.socket:
    """A TCP socket in the network of the process `pid`; the calling thread stays where it is. Raises OSError."""
    made: list[socket.socket] = []
    failed: list[OSError] = []

    def inside() -> None:
        try:
            _netlink.enter_network_of(pid)
            made.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        except OSError as error:
            failed.append(error)

    # A network namespace belongs to a thread, and a socket to the namespace that it was made in.
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]
