# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Settings, all from the environment: the engine's own names, and STANDIN_* for what the engine has fixed."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: Fixed by the engine: clients, health checks and the published port rely on them.
API_PORT = 9090
REMOVE_PORT = 9091
CHECK_PORT = 9092
#: Every node answers here. The engine has its SQL server on this port.
NODE_PORT = 8888

#: Checked in this order, as the engine does.
REQUIRED = ("CONSULURL", "NODE_NAME", "FEDERATION_ROLE", "ENVIRONMENT_TYPE", "CONVERT_CSVS")
LEVELS = {"DEBUG": logging.DEBUG, "INFO": logging.INFO, "WARN": logging.WARNING, "ERROR": logging.ERROR}


class MissingSetting(Exception):
    """A variable that the engine cannot start without is empty."""


class SettingsError(Exception):
    """A variable has a value that cannot be used."""


@dataclass(frozen=True)
class Settings:
    """What one node needs to know. Intervals and timeouts are in seconds."""

    keystore: str
    node_name: str
    role: str
    environment_type: str
    log_level: int
    node_timeout: float
    data: Path
    version: str
    bind: str
    fixed_address: str
    keystore_interval: float
    keystore_attempts: int
    check_interval: float
    check_retries: int
    watch_interval: float
    crash: str

    @property
    def is_master(self) -> bool:
        """Whether this node is the federation's master."""
        return self.role == "master"

    @property
    def minimum(self) -> int:
        """Rows below which nothing is told about them."""
        return 0 if self.environment_type == "TEST" else 10

    def address(self) -> str:
        """Return this node's address on the network that leads to the keystore.

        Raises OSError when the keystore's name does not resolve or no route leads there.
        """
        if self.fixed_address:
            return self.fixed_address
        host, _unused, port = self.keystore.partition(":")
        # Containers have several interfaces (overlay, bridge for the published port): the kernel knows which one is meant.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, int(port or 80)))
            return str(probe.getsockname()[0])


def _number(environment: Mapping[str, str], name: str, default: float, least: float) -> float:
    text = environment.get(name, "").strip() or str(default)
    try:
        value = float(text)
    except ValueError:
        raise SettingsError(f"{name} is '{text}', which is not a number.") from None
    if not least <= value <= 86400000:
        raise SettingsError(f"{name} is {text}, but must be between {least:g} and 86400000.")
    return value


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Return the settings found in the environment, by default that of this process.

    Raises MissingSetting when a required variable is empty, SettingsError when a value cannot be used.
    """
    if environment is None:
        environment = os.environ
    for name in REQUIRED:
        if not environment.get(name):
            raise MissingSetting(f"{name} is unset. Check docker-compose file.")
    role = environment["FEDERATION_ROLE"]
    if role not in ("master", "worker"):
        raise SettingsError(f"FEDERATION_ROLE is '{role}', but must be master or worker.")
    if environment["CONVERT_CSVS"].upper() != "FALSE":
        raise SettingsError(
            f"CONVERT_CSVS is '{environment['CONVERT_CSVS']}', but this stand-in does not convert CSV files. "
            "Compile them to datasets.db first and set CONVERT_CSVS=FALSE."
        )
    level = environment.get("LOG_LEVEL", "").upper() or "INFO"
    if level not in LEVELS:
        raise SettingsError(f"LOG_LEVEL is '{level}', but must be one of {', '.join(LEVELS)}.")
    keystore = environment["CONSULURL"].removeprefix("http://").rstrip("/")
    return Settings(
        keystore=keystore,
        node_name=environment["NODE_NAME"],
        role=role,
        environment_type=environment["ENVIRONMENT_TYPE"],
        log_level=LEVELS[level],
        node_timeout=_number(environment, "NODE_COMMUNICATION_TIMEOUT", 30000, 100) / 1000,
        data=Path(environment.get("STANDIN_DATA", "") or "/root/exareme/data"),
        version=environment.get("STANDIN_VERSION", "") or "0",
        bind=environment.get("STANDIN_BIND", "") or "0.0.0.0",  # noqa: S104 - a container publishes what its service says
        fixed_address=environment.get("STANDIN_ADDRESS", ""),
        keystore_interval=_number(environment, "STANDIN_KEYSTORE_INTERVAL", 5, 0.01),
        keystore_attempts=int(_number(environment, "STANDIN_KEYSTORE_ATTEMPTS", 20, 1)),
        check_interval=_number(environment, "STANDIN_CHECK_INTERVAL", 5, 0.01),
        check_retries=int(_number(environment, "STANDIN_CHECK_RETRIES", 10, 0)),
        watch_interval=_number(environment, "STANDIN_WATCH_INTERVAL", 5, 0.05),
        crash=environment.get("STANDIN_CRASH", ""),
    )
