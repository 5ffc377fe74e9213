# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The few calls of Consul's HTTP API that the engine makes."""

from __future__ import annotations

import http.client
import json
from urllib.parse import quote

MASTER = "master"
ACTIVE = "active_workers"
DATA = "data"


class KeystoreError(Exception):
    """The keystore did not answer, or not with what was asked for."""


class Keystore:
    """A Consul server, addressed as host:port."""

    def __init__(self, address: str, timeout: float = 5) -> None:
        """Remember the server; nothing is sent yet. The timeout is in seconds."""
        self.address = address
        self.timeout = timeout

    def _call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        try:
            connection = http.client.HTTPConnection(self.address, timeout=self.timeout)
        except http.client.InvalidURL as error:
            raise KeystoreError(f"CONSULURL '{self.address}' is not host:port: {error}") from error
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise KeystoreError(f"Consul at {self.address} does not answer: {error}") from error
        finally:
            connection.close()

    def is_passing(self) -> bool:
        """Return whether the only health check known to Consul, its own, passes."""
        status, body = self._call("GET", "/v1/health/state/passing")
        if status != 200:
            return False
        try:
            return [check["Status"] for check in json.loads(body)] == ["passing"]
        except (ValueError, TypeError, KeyError) as error:
            raise KeystoreError(f"Consul at {self.address} sent something else than health checks: {error}") from error

    def keys(self, prefix: str) -> list[str]:
        """Return the keys that start with a prefix."""
        status, body = self._call("GET", f"/v1/kv/{quote(prefix)}?keys")
        if status == 404:
            return []
        if status != 200:
            raise KeystoreError(f"Consul at {self.address} answered {status} for keys under {prefix}")
        keys = json.loads(body)
        return [str(key) for key in keys]

    def get(self, key: str) -> str | None:
        """Return a key's value, or None when there is no such key."""
        status, body = self._call("GET", f"/v1/kv/{quote(key)}?raw")
        if status == 404:
            return None
        if status != 200:
            raise KeystoreError(f"Consul at {self.address} answered {status} for key {key}")
        return body.decode()

    def put(self, key: str, value: str) -> None:
        """Set a key."""
        status, body = self._call("PUT", f"/v1/kv/{quote(key)}", value.encode())
        if status != 200 or body.strip() != b"true":
            raise KeystoreError(f"Consul at {self.address} refused key {key}: status {status}, {body[:200]!r}")

    def master_addresses(self) -> dict[str, str]:
        """Return the addresses of the registered masters, by name. More than one only after a master was renamed."""
        found = {}
        for key in self.keys(f"{MASTER}/"):
            value = self.get(key)
            if value is not None:
                found[key.partition("/")[2]] = value.strip()
        return found
