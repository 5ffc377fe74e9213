# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts as network namespaces on one bridge, with real filters at the sender, on the bridge and at the receiver."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.plugin_utils import _links
from ansible_collections.hbp.mip.tests.unit.plugins.modules.module_process import result_of, start_module


class Network:
    """Nodes on a bridge, each in a namespace of its own; the bridge is in one, too. The first node is the master."""

    def __init__(self, names: Iterable[str], encrypted: bool = True) -> None:
        self.prefix = f"mipl{os.getpid()}{secrets.token_hex(2)}"
        self.names = list(names)
        self.addresses = {name: f"10.88.0.{number}" for number, name in enumerate(self.names, 11)}
        self.federation: dict[str, Any] = {
            "overlay": {"encrypted": encrypted},
            "swarm": {"data_path_port": 4789},
            "nodes": [
                {
                    "name": name,
                    "kind": "master" if name == self.names[0] else "ui" if name == "ui" else "worker",
                    "address": address,
                    "manager": name == self.names[0],
                }
                for name, address in self.addresses.items()
            ],
        }
        self.took: dict[str, float] = {}
        self._namespace("bridge")
        self.run("bridge", "ip link add br0 type bridge && ip link set br0 up")
        for name, address in self.addresses.items():
            self._namespace(name)
            self.run("bridge", f"ip link add {name} type veth peer name eth0 netns {self.prefix}{name}")
            self.run("bridge", f"ip link set {name} master br0 up")
            self.run(name, f"ip link set lo up && ip addr add {address}/24 dev eth0 && ip link set eth0 up")

    def _namespace(self, name: str) -> None:
        subprocess.run(["ip", "netns", "add", self.prefix + name], check=True)

    def run(self, name: str, command: str) -> str:
        """Run a shell command on a node, or on the bridge."""
        done = subprocess.run(["ip", "netns", "exec", self.prefix + name, "sh", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{name}: {command}: {done.stderr}"
        return done.stdout

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a program on a node."""
        return subprocess.Popen(["ip", "netns", "exec", self.prefix + name, *command])

    def module(self, name: str, arguments: dict[str, Any]) -> subprocess.Popen[str]:
        """Start the module on a node."""
        return start_module("link_probe", arguments, prefix=["ip", "netns", "exec", self.prefix + name])

    def filter(self, place: str, rule: str, hook: str, family: str = "inet") -> None:
        """Add a rule to the filter of a node (hooks input, output) or of the bridge (family bridge, hook forward)."""
        self.run(
            place,
            f"nft add table {family} t && nft add chain {family} t {hook} '{{ type filter hook {hook} priority 0; }}' && "
            f"nft add rule {family} t {hook} {rule}",
        )

    def open(self) -> None:
        """Take all filters away."""
        for name in (*self.names, "bridge"):
            self.run(name, "nft flush ruleset")

    def round(self, arguments: dict[str, dict[str, Any]], pause: float = 0) -> dict[str, Any]:
        """Run the module on all nodes at once, or with a pause between them."""
        started = {}
        for name, given in arguments.items():
            started[name] = self.module(name, given)
            time.sleep(pause)
        return {name: result_of(process) for name, process in started.items()}

    def check(self, members: Iterable[str] = (), overlay_mtu: int = 0, pause: float = 0, **send: Any) -> dict[str, Any]:
        """All three rounds, as a playbook does them, and the verdicts. `pause` is between the senders."""
        links = _links.plan(self.federation)
        word = secrets.token_hex(16)
        begun = time.monotonic()
        self.listened = self.round({name: {**given, "mode": "listen", "run": word} for name, given in links["listen"].items()})
        heard = time.monotonic()
        self.sent = self.round(
            {
                name: {**given, "mode": "send", "run": word, "targets": _links.targets(links, name, self.listened), **send}
                for name, given in links["send"].items()
            },
            pause,
        )
        said = time.monotonic()
        self.collected = self.round({name: {"node": name, "mode": "collect", "run": word} for name in self.names})
        self.took = {"listen": heard - begun, "send": said - heard, "collect": time.monotonic() - said}
        return _links.judge(links, self.listened, self.sent, self.collected, list(members), overlay_mtu)

    def close(self) -> None:
        """Remove everything."""
        for name in (*self.names, "bridge"):
            subprocess.run(["ip", "netns", "del", self.prefix + name], check=False)


def verdicts(report: dict[str, Any]) -> dict[tuple[str, str, str, int], str]:
    """Everything that is not in order: (from, to, protocol, port) to the verdict."""
    return {
        (pair["from"], pair["to"], cell["proto"], cell["port"]): cell["verdict"]
        for pair in report["pairs"]
        for cell in pair["checks"]
        if cell["level"] != "ok"
    }


@pytest.fixture(scope="session")
def networks() -> Iterator[Callable[..., Network]]:
    """A function that makes networks; they are removed afterwards."""
    if os.geteuid() or not all(shutil.which(tool) for tool in ("ip", "nft")):
        pytest.skip("needs root, iproute2 and nftables")
    made: list[Network] = []

    def make(*names: str, **given: Any) -> Network:
        made.append(Network(names, **given))
        return made[-1]

    yield make
    for network in made:
        network.close()


@pytest.fixture(scope="session")
def three(networks: Callable[..., Network]) -> Network:
    """A master and two workers with an encrypted overlay."""
    return networks("ms", "wa", "wb")


@pytest.fixture
def net(three: Network) -> Iterator[Network]:
    """The same three, without any filter before and after the test."""
    three.open()
    yield three
    three.open()
