# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One node of the engine, as the container runs it."""

from __future__ import annotations

import json
import logging
import os
import platform
import secrets
import signal
import sys
import time
from types import FrameType
from urllib.parse import quote

from exareme_standin.data import DataError
from exareme_standin.keystore import ACTIVE, DATA, MASTER, Keystore, KeystoreError
from exareme_standin.master import Master
from exareme_standin.node import Node
from exareme_standin.settings import CHECK_PORT, MissingSetting, Settings, SettingsError, read_settings
from exareme_standin.web import NodeError, NodeFault, NodeGone, ask

log = logging.getLogger("standin")


class StartError(Exception):
    """The node cannot start; the container ends, and the swarm starts it again."""


class Runner:
    """Starts a node, registers it and keeps it registered."""

    def __init__(self, settings: Settings) -> None:
        """Remember the settings."""
        self.settings = settings
        self.keystore = Keystore(settings.keystore)
        self.banner = f"exareme-standin/{settings.version} (lab stand-in, not Exareme)"
        self.node = Node(settings)
        self.master = Master(settings, self.keystore) if settings.is_master else None
        self.address = ""
        self.datasets: dict[str, str] = {}
        #: Tells the master one start of this node from the next.
        self.start_id = secrets.token_hex(8)

    def run(self) -> None:
        """Start, register and watch, for as long as the process lives. Raises StartError."""
        settings = self.settings
        log.info(
            "Starting exareme-standin %s, a stand-in for the Exareme engine: node %s, role %s, environment %s, data %s, Python %s",
            settings.version,
            settings.node_name,
            settings.role,
            settings.environment_type,
            settings.data,
            platform.python_version(),
        )
        if settings.crash:
            raise StartError(settings.crash)
        self.wait_for_keystore()
        self.datasets = self.read_datasets()
        try:
            self.node.start(self.banner)
            if self.master is not None:
                self.master.start(self.banner)
        except OSError as error:
            raise StartError(f"a port cannot be opened on {settings.bind}: {error}") from error
        if self.master is None:
            self.wait_for_master()
        self.register("started")
        self.node.registered = True
        self.watch()

    def wait_for_keystore(self) -> None:
        """Wait until Consul passes its own check and this node's address is known. Raises StartError."""
        settings, reason = self.settings, ""
        for attempt in range(1, settings.keystore_attempts + 1):
            try:
                if self.keystore.is_passing():
                    self.address = settings.address()
                    log.info("Node connected to the keystore at %s, own address %s", settings.keystore, self.address)
                    return
                reason = f"Consul at {settings.keystore} does not pass its own health check yet"
            except (KeystoreError, OSError) as error:
                reason = str(error)
            log.info("Trying to connect with the keystore (%d/%d): %s", attempt, settings.keystore_attempts, reason)
            if attempt < settings.keystore_attempts:
                time.sleep(settings.keystore_interval)
        raise StartError(f"the keystore cannot be used by node {settings.node_name}: {reason}. Check CONSULURL and the overlay network.")

    def read_datasets(self) -> dict[str, str]:
        """Return the keys that announce this node's datasets, read once at the start as the engine does. Raises StartError.

        A folder without a database gets no key, one whose database cannot be read an empty list: the node starts with both,
        so that a database can be compiled later.
        """
        databases = self.node.databases
        found: dict[str, list[str]] = {}
        try:
            pathologies = databases.pathologies()
        except DataError as error:
            raise StartError(str(error)) from error
        for name in pathologies:
            if not databases.path(name).is_file():
                log.warning("%s does not exist: LIST_DATASET will fail on this node", databases.path(name))
                continue
            try:
                found[name] = databases.datasets(name)
            except DataError as error:
                log.error("%s: LIST_DATASET will fail on this node", error)
                found[name] = []
        log.info("Datasets of node %s: %s", self.settings.node_name, json.dumps(found))
        return {f"{DATA}/{self.settings.node_name}/{name}": json.dumps(codes) for name, codes in found.items()}

    def wait_for_master(self) -> None:
        """Wait until a master is registered and takes this node in. Raises StartError."""
        settings = self.settings
        for attempt in range(1, settings.keystore_attempts + 1):
            try:
                if self.keystore.master_addresses():
                    break
                reason = f"no key under {MASTER}/"
            except KeystoreError as error:
                reason = str(error)
            log.info("Retrieving the master's address from the keystore (%d/%d): %s", attempt, settings.keystore_attempts, reason)
            if attempt < settings.keystore_attempts:
                time.sleep(settings.keystore_interval)
        else:
            raise StartError(f"node {settings.node_name} found no master in the keystore. Is the master's engine running?")
        for attempt in range(settings.check_retries + 1):
            if attempt:
                time.sleep(settings.check_interval)
            reason = self.check_in()
            if not reason:
                log.info("HEALTH CHECK successful on NODE_IP: %s", self.address)
                return
            log.info("HEALTH CHECK failed (%d/%d): %s", attempt + 1, settings.check_retries + 1, reason)
        raise StartError(f"the master did not take node {settings.node_name} in: {reason}")

    def check_in(self) -> str:
        """Ask the master to check this node. Returns an empty string when it is part of the federation, else why not."""
        settings = self.settings
        target = f"/check/worker?NODE_IP={quote(self.address)}&NODE_NAME={quote(settings.node_name)}&START={self.start_id}"
        reason = "no master is registered in the keystore"
        try:
            masters = self.keystore.master_addresses()
        except KeystoreError as error:
            return str(error)
        for name, address in masters.items():
            try:
                answer = ask(address, CHECK_PORT, "GET", target, None, 5, settings.node_timeout)
            except (NodeGone, NodeFault, NodeError) as error:
                reason = f"master {name}: {error}"
                continue
            if answer.get("active_nodes") == settings.node_name:
                return ""
            reason = f"master {name} at {address} answered {json.dumps(answer)}"
        return reason

    def wanted(self) -> dict[str, str]:
        """Return the keys that this node owns in the keystore."""
        own = {f"{ACTIVE}/{self.settings.node_name}": self.address}
        if self.master is not None:
            own[f"{MASTER}/{self.settings.node_name}"] = self.address
        return {**self.datasets, **own}

    def register(self, reason: str) -> None:
        """Write this node's keys. Raises StartError when the keystore is gone again."""
        try:
            for key, value in self.wanted().items():
                self.keystore.put(key, value)
        except KeystoreError as error:
            raise StartError(str(error)) from error
        if self.master is not None:
            self.master.registry.add(self.address, self.settings.node_name, self.start_id)
        log.info("Registered in the keystore (%s): %s", reason, json.dumps(self.wanted()))

    def watch(self) -> None:
        """Keep the node registered: a keystore may lose its keys, a master its list, a container its address."""
        trouble = ""
        while True:
            time.sleep(self.settings.watch_interval)
            now = self.look_after()
            if now and now != trouble:
                log.warning("%s", now)
            elif trouble and not now:
                log.info("The federation is complete again for this node")
            trouble = now

    def look_after(self) -> str:
        """Repair what is missing. Returns an empty string when all is well, else what is wrong."""
        try:
            address = self.settings.address()
        except OSError as error:
            return f"own address unknown: {error}"
        reason = ""
        if address != self.address:
            reason, self.address = f"address changed from {self.address} to {address}", address
        if self.master is None:
            problem = self.check_in()
            # The master's own key may be missing too: then this node's keys must still come back.
            if problem and "no master is registered" not in problem:
                return f"HEALTH CHECK failed: {problem}"
        try:
            if not reason and any(self.keystore.get(key) != value for key, value in self.wanted().items()):
                reason = "keys were missing or different"
            if reason:
                self.register(reason)
        except (KeystoreError, StartError) as error:
            return str(error)
        return ""


def stop(number: int, _frame: FrameType | None) -> None:
    """End at once: there is nothing to save, and the swarm waits for it."""
    sys.stdout.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} INFO Stopped by {signal.Signals(number).name}\n")
    sys.stdout.flush()
    os._exit(0)


def main() -> int:
    """Run a node. Returns the exit code."""
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        settings = read_settings()
    except MissingSetting as error:
        # The engine says so and leaves, with success.
        print(error, flush=True)
        return 0
    except SettingsError as error:
        print(error, file=sys.stderr, flush=True)
        return 2
    layout = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(stream=sys.stdout, level=settings.log_level, format=layout, datefmt="%Y-%m-%d %H:%M:%S")
    try:
        Runner(settings).run()
    except StartError as error:
        log.error("exareme-standin cannot start: %s", error)
    return 3 if settings.crash else 1


if __name__ == "__main__":
    sys.exit(main())
