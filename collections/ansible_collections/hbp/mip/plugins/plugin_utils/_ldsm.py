# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: a hospital's local data store, as one node's inventory names it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

_HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")


def data_store(name: str, kind: str, value: Any, address: str, errors: list[str]) -> dict[str, Any]:
    """Return where the engine of a worker finds the local data store, ``{host, port}``, or nothing when it has none.

    :arg value: ``mip_ldsm`` with its defaults. Without a host the store is on the worker itself, at the node's own address.
    :arg errors: what is wrong is added here.
    """
    given = value if isinstance(value, Mapping) else {}
    host, port = str(given.get("host") or ""), given.get("port") or 0
    if not isinstance(port, int):
        return {}  # what is of a wrong type was told already
    if not host and not port:
        return {}
    where = f"host {name}: mip_ldsm"
    if kind != "worker":
        errors.append(f"{where} is set, but only a worker's engine reads a local data store; this is the {kind}")
    if not 1 <= port <= 65535:
        errors.append(f"{where}.port: {port} is not a TCP port (1 to 65535)")
    host = host or address
    try:
        loopback = ipaddress.ip_address(host).is_loopback
        four = ipaddress.ip_address(host).version == 4
    except ValueError:
        loopback, four = host.rstrip(".").lower() == "localhost", True
        if not loopback and not _HOST.fullmatch(host):
            errors.append(f"{where}.host: {host!r} is neither a name nor an IPv4 address")
    if loopback:
        errors.append(f"{where}.host: {host} is the engine's own container there; give the host's address, or leave it out")
    elif not four:
        errors.append(f"{where}.host: {host} is an IPv6 address; the engine's containers have IPv4 only")
    return {"host": host, "port": port}
