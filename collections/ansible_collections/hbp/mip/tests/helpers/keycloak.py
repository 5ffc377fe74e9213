# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The real Keycloak on the loopback address, and realms for tests in it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keycloak import KeycloakAdmin

from ansible_collections.hbp.mip.plugins.module_utils import _lab_keycloak
from ansible_collections.hbp.mip.tests.helpers.modules import Result, run_module

DEADLINE = 1200
#: Seconds for one request: the tests run on machines with better things to do.
PATIENCE = 300


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def link(source: str, target: str) -> None:
    """A second name for a file; a copy where the file systems differ."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


class Keycloak:
    """One server, started by `start` and ended by `stop`, with everything it writes in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.home, self.log = folder / "home", folder / "keycloak.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.password = secrets.token_urlsafe(16)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        source = Path(_lab_keycloak.distribution(os.environ.get("MIP_LAB_CACHE", "/var/cache/mip-lab"))) / "home"
        shutil.copytree(source, self.home, symlinks=True, copy_function=link)
        (self.home / "data").unlink()
        (self.home / "data").mkdir()
        command = [str(self.home / "bin" / "kc.sh"), *_lab_keycloak.start_options("127.0.0.1", self.port, self.url)]
        command += [f"--http-management-port={free_port()}"]
        environment = {
            **os.environ,
            **_lab_keycloak.environment(self.password),
            "JAVA_OPTS_KC_HEAP": "-Xms64m -Xmx512m",
            "KC_DB_URL": "jdbc:h2:mem:keycloak;DB_CLOSE_DELAY=-1;NON_KEYWORDS=VALUE",
        }
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        deadline = time.monotonic() + DEADLINE
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"Keycloak did not start:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.5)

    def answers(self) -> bool:
        """Whether it serves its own realm."""
        return _lab_keycloak.answers(self.url)

    def stop(self) -> None:
        """End it and what it started."""
        if self._process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(60)
                break

    def administrator(self, realm: str) -> KeycloakAdmin:
        """The server's administrator, at work in a realm."""
        return KeycloakAdmin(
            server_url=self.url,
            username="admin",
            password=self.password,
            realm_name=realm,
            user_realm_name="master",
            timeout=PATIENCE,
            max_retries=0,
        )


@dataclass
class Realm:
    """A realm with a service client, as `mipfed keycloak prepare` makes it, and the options of the module for it."""

    server: Keycloak
    name: str
    secret: str
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def make(cls, server: Keycloak, client: str = "fed") -> Realm:
        """A new realm."""
        realm = cls(server, f"realm-{secrets.token_hex(4)}", secrets.token_urlsafe(20))
        done = realm.prepare(create_realm=True)
        assert not done.failed, done.output
        realm.options = {
            "url": server.url,
            "realm": realm.name,
            "service_client": "mipfed-test",
            "service_secret": realm.secret,
            "client_id": client,
            "redirect_uris": ["https://portal.example/services/sso/login"],
            "timeout": PATIENCE,
        }
        return realm

    def prepare(self, *, check: bool = False, **options: Any) -> Result:
        """Run the module that makes the service client."""
        given = {
            "url": self.server.url,
            "realm": self.name,
            "admin_user": "admin",
            "admin_password": self.server.password,
            "client_id": "mipfed-test",
            "client_secret": self.secret,
            "timeout": PATIENCE,
        }
        return run_module("keycloak_service_client", {**given, **options}, check=check)

    def sync(self, structure: list[dict[str, Any]], *, check: bool = False, **options: Any) -> Result:
        """Run the module that keeps the roles in line."""
        return run_module("keycloak_roles", {**self.options, "structure": structure, **options}, check=check)

    @property
    def admin(self) -> KeycloakAdmin:
        """The administrator of this realm, freshly logged in."""
        return self.server.administrator(self.name)
