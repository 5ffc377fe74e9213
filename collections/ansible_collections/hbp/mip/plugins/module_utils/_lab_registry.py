# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A lab's image registry: Debian's docker-registry as a background process, with a pid file that survives crashes."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import time
from typing import Any, Dict, Optional, Tuple

PROGRAM = "docker-registry"


class RegistryError(Exception):
    """The registry cannot be started or stopped: says what, where, why and what to do."""


def process_start(pid: int) -> Optional[str]:
    """Return when a process started, as something that no other process with the same pid has; None if it does not live."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # A zombie is dead, only nobody has asked for its exit code yet.
    return None if fields[0] in ("Z", "X") else f"{boot}:{fields[19]}"


class Registry:
    """One registry, with all its files in a folder of its own."""

    def __init__(self, folder: str, address: str, port: int) -> None:
        """Remember where it is to listen and to keep its files."""
        self.folder = folder
        self.address = address
        self.port = port
        self.config_path = os.path.join(folder, "config.json")
        self.pid_path = os.path.join(folder, "registry.pid")
        self.log_path = os.path.join(folder, "registry.log")
        self.storage = os.path.join(folder, "storage")

    @property
    def endpoint(self) -> str:
        """Where clients find the registry."""
        return f"{self.address}:{self.port}"

    def pid(self) -> Optional[int]:
        """Return the pid of the registry that this folder belongs to, if it lives."""
        state = self._read(self.pid_path)
        if not isinstance(state, dict) or not isinstance(state.get("pid"), int):
            return None
        return state["pid"] if process_start(state["pid"]) == state.get("start") else None

    @staticmethod
    def _read(path: str) -> Any:
        try:
            with open(path) as file:
                return json.load(file)
        except (FileNotFoundError, ValueError):
            return None

    def _write(self, path: str, data: Any, mode: int) -> None:
        new = path + ".new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
            json.dump(data, file, indent=1)
        os.replace(new, path)

    def config(self) -> Dict[str, Any]:
        """Return the wanted configuration. The secret, which uploads are signed with, stays as it is."""
        old = self._read(self.config_path) or {}
        secret = old.get("http", {}).get("secret") or secrets.token_hex(16)
        return {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": self.storage},
                "delete": {"enabled": True},
                # It could not be switched off while somebody pulls, and a lab's storage goes with the lab.
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": {"addr": self.endpoint, "secret": secret},
        }

    def answers(self, timeout: float = 5) -> bool:
        """Return whether a registry answers at the endpoint."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=timeout)
        try:
            connection.request("GET", "/v2/")
            answer = connection.getresponse()
            answer.read()
            return answer.status == 200 and answer.headers.get("Docker-Distribution-Api-Version", "").startswith("registry/")
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def ensure(self, timeout: float, check_mode: bool) -> Tuple[bool, str]:
        """Make the registry run with the wanted configuration. Returns whether something changed, and what. Raises RegistryError."""
        config, pid = self.config(), self.pid()
        same = self._read(self.config_path) == config
        if pid is not None and same and self.answers():
            return False, "running"
        if pid is None:
            what = "restarted, it was dead" if os.path.exists(self.pid_path) else "started"
        else:
            what = "restarted with a new configuration" if not same else "restarted, it did not answer"
        if check_mode:
            return True, what
        if pid is not None:
            self.stop(timeout, False)
        self._start(config, timeout)
        return True, what

    def _start(self, config: Dict[str, Any], timeout: float) -> None:
        # The threads of a process that was just killed may hold its socket a little longer than the process seems to live.
        patience = time.monotonic() + 2
        while True:
            error = self._obstacle()
            if error is None:
                break
            if error.errno != errno.EADDRINUSE or time.monotonic() > patience:
                raise RegistryError(
                    f"registry: {self.endpoint} cannot be used: {error.strerror}. The lab's bridge must have the address, and nothing else "
                    f"may use the port (ss -ltnp 'sport = {self.port}'). Debian's own service takes the port on all addresses: "
                    "systemctl disable --now docker-registry"
                )
            time.sleep(0.05)
        os.makedirs(self.folder, mode=0o755, exist_ok=True)
        os.makedirs(self.storage, mode=0o700, exist_ok=True)
        self._write(self.config_path, config, 0o600)
        with open(self.log_path, "wb") as log:
            try:
                process = subprocess.Popen(
                    [PROGRAM, "serve", self.config_path],
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            except FileNotFoundError:
                raise RegistryError(f"registry: {PROGRAM} is not installed. Install it: apt-get install docker-registry") from None
        self._write(self.pid_path, {"pid": process.pid, "start": process_start(process.pid)}, 0o644)
        deadline = time.monotonic() + timeout
        while not self.answers(1):
            if process.poll() is not None or time.monotonic() > deadline:
                reason = (
                    f"ended with code {process.returncode}" if process.returncode is not None else f"does not answer after {timeout:g} s"
                )
                with open(self.log_path, errors="replace") as file:
                    last = " | ".join(file.read().strip().splitlines()[-3:])
                self.stop(timeout, False)
                raise RegistryError(f"registry: {PROGRAM} at {self.endpoint} {reason}. Last of {self.log_path}: {last or 'nothing'}")
            time.sleep(0.05)

    def _obstacle(self) -> Optional[OSError]:
        """Why the registry's port cannot be taken, None when it can."""
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.address, self.port))
            except OSError as error:
                return error
        return None

    def stop(self, timeout: float, check_mode: bool) -> bool:
        """Stop the registry, by force if it takes longer than timeout (seconds). Returns whether there was something to do."""
        pid = self.pid()
        if pid is None:
            stale = os.path.exists(self.pid_path)
            if stale and not check_mode:
                os.unlink(self.pid_path)
            return stale
        if check_mode:
            return True
        start = process_start(pid)
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            deadline = time.monotonic() + timeout
            while process_start(pid) == start and time.monotonic() < deadline:
                time.sleep(0.02)
            if process_start(pid) != start:
                os.unlink(self.pid_path)
                return True
        raise RegistryError(f"registry: process {pid} does not end, not even when killed. Look at it: ps -fp {pid}")
