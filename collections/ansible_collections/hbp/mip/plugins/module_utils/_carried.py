# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The keys of a keystore that has no volume, carried from its old container into the new one."""

from __future__ import annotations

from typing import Any, Dict

from ansible_collections.hbp.mip.plugins.module_utils import _docker_http, _keystore
from ansible_collections.hbp.mip.plugins.module_utils._engine import EngineError, wait_until

SERVICE_LABEL = "com.docker.swarm.service.name"


class Carried:
    """Keys of the keystore that is the swarm service of this name, whose container is on this host."""

    def __init__(self, service: str, seconds: float) -> None:
        """`seconds` is how long the keystore may take until it takes keys."""
        self.service = service
        self.seconds = seconds
        self.keys: Dict[str, Any] = {}

    def _inside(self, work: Any) -> Dict[str, Any]:
        try:
            found = _docker_http.containers(["%s=%s" % (SERVICE_LABEL, self.service)])
            if not found:
                raise _keystore.KeystoreError("no container of %s runs on this host" % self.service)
            newest = max(found, key=lambda entry: int(entry.get("Created") or 0))
            pid = int((_docker_http.inspect(str(newest["Id"])).get("State") or {}).get("Pid") or 0)
        except _docker_http.DockerError as error:
            raise _keystore.KeystoreError("the engine cannot be asked for %s: %s" % (self.service, error)) from error
        if not pid:
            raise _keystore.KeystoreError("the container of %s has no process" % self.service)
        return _keystore.inside(pid, work)

    def take(self) -> None:
        """Read all keys. Raises EngineError: without them nothing may be changed."""
        try:
            self.keys = dict(self._inside(_keystore.read)["keys"])
        except _keystore.KeystoreError as error:
            raise EngineError("the keys of the keystore cannot be read, so that it was not touched: %s" % error) from error

    def give(self) -> None:
        """Write those that are missing, as soon as the keystore takes keys; what is there is newer. Raises EngineError."""
        why = [""]

        def ready() -> bool:
            try:
                answer = self._inside(_keystore.ready)
            except _keystore.KeystoreError as error:
                why[0] = str(error)
                return False
            why[0] = str(answer.get("why") or "")
            return bool(answer.get("ready"))

        if not wait_until(ready, self.seconds):
            raise EngineError("the keystore takes no keys after %d s: %s" % (self.seconds, why[0]))
        try:
            there = self._inside(_keystore.read)["keys"]
            missing = {name: entry for name, entry in self.keys.items() if name not in there}
            if missing:
                self._inside(lambda: _keystore.write(missing, []))
        except _keystore.KeystoreError as error:
            raise EngineError("the keys could not be written into the keystore: %s" % error) from error
