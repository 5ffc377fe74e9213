# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real machines over SSH, as a playbook asks them: before any swarm and beside one that runs, with engines 20.10 and 26.1."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.hbp.mip.plugins.plugin_utils import _links
from ansible_collections.hbp.mip.tests.helpers.modules import COLLECTION, COLLECTIONS
from ansible_collections.hbp.mip.tests.integration.lab.conftest import Lab, succeed, until
from ansible_collections.hbp.mip.tests.integration.links.conftest import verdicts

NAMES = ("a", "b", "c")


class Machines:
    """Three machines; `a` is the manager, `c` has the newer engine."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.seconds = 0.0

    def address(self, name: str) -> str:
        return str(self.lab.made[name]["address"])

    def check(self, encrypted: bool = False, members: tuple[str, ...] = ()) -> dict[str, Any]:
        """Run the playbook and judge what it collected."""
        known = self.folder / "known_hosts"
        known.write_text("".join(f"{machine['address']} {machine['host_key']}\n" for machine in self.lab.made.values()))
        hosts = {
            name: {
                "ansible_host": self.address(name), "ansible_user": "root", "ansible_ssh_private_key_file": self.lab.key,
                "ansible_ssh_common_args": f"-F /dev/null -o UserKnownHostsFile={known}", "ansible_python_interpreter": "/usr/bin/python3",
            }
            for name in NAMES
        }  # fmt: skip
        inventory = self.folder / "hosts.yml"
        inventory.write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
        nodes = [
            {"name": name, "kind": "master" if name == "a" else "worker", "address": self.address(name), "manager": name == "a"}
            for name in NAMES
        ]
        federation = {"overlay": {"encrypted": encrypted}, "swarm": {"data_path_port": 4789}, "nodes": nodes}
        settings = self.folder / "ansible.cfg"
        settings.write_text(f"[defaults]\ncollections_path = {COLLECTIONS}\n[connection]\npipelining = True\n")
        answers = self.folder / "answers"
        answers.mkdir(exist_ok=True)
        begun = time.monotonic()
        done = subprocess.run(
            ["ansible-playbook", "-i", str(inventory), "-e", json.dumps({"mip": federation, "answers": str(answers)}), str(ROUNDS)],
            capture_output=True, text=True, check=False,
            env={**os.environ, "ANSIBLE_CONFIG": str(settings)},
        )  # fmt: skip
        self.seconds = time.monotonic() - begun
        assert done.returncode == 0, done.stdout + done.stderr
        self.told = {name: json.loads((answers / name).read_text()) for name in NAMES}
        parts = [{name: told[part] for name, told in self.told.items()} for part in ("listened", "sent", "collected")]
        return _links.judge(self.told["a"]["links"], *parts, members=members)

    def took(self) -> float:
        """Seconds of the three rounds themselves, on the slowest machine of each."""
        return sum(max(told[part]["took"] for told in self.told.values()) for part in ("listened", "sent", "collected"))


ROUNDS = COLLECTION / "tests/integration/links/rounds.yml"


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    if os.geteuid():
        pytest.skip("lab machines need root")
    older, newer = (str(succeed("lab_base", suite=suite, docker=True)["base"]["path"]) for suite in ("bookworm", "trixie"))
    lab = Lab(f"lk{os.getpid()}", older)
    try:
        wanted = lab.wanted("a", "b")
        wanted["machines"].append({"name": f"{lab.name}-c", "base": newer})
        made = succeed("lab_machines", **wanted)
        lab.made = {machine["name"].removeprefix(lab.name + "-"): machine for machine in made["machines"]}
        lab.key = made["lab"]["ssh_private_key_file"]
        yield Machines(lab, tmp_path_factory.mktemp("links"))
    finally:
        lab.down()


def swarm(machines: Machines) -> None:
    """Make a swarm of all three, if there is none yet."""
    lab = machines.lab
    if lab.ssh("a", "docker info --format '{{.Swarm.LocalNodeState}}'") == "active":
        return
    lab.ssh("a", f"docker swarm init --advertise-addr {machines.address('a')}")
    token = lab.ssh("a", "docker swarm join-token -q worker")
    for name in ("b", "c"):
        lab.ssh(name, f"docker swarm join --advertise-addr {machines.address(name)} --token {token} {machines.address('a')}:2377")
    lab.ssh("a", "docker network create -d overlay --attachable try")


def test_before_any_swarm(machines: Machines) -> None:
    for encrypted in (True, False):
        report = machines.check(encrypted)
        assert verdicts(report) == {} and report["path_mtu"] == 1500, report["problems"]
        assert all(item["own"] and not item["by"] for told in machines.told.values() for item in told["listened"]["listening"])
    for name in NAMES:
        assert machines.lab.try_ssh(name, "test -e /run/mip").returncode == 1


def test_filters_of_the_machines(machines: Machines) -> None:
    lab = machines.lab
    table = "nft add table inet t && nft add chain inet t c '{ type filter hook %s priority 0; }' && nft add rule inet t c %s drop"
    try:
        lab.ssh("b", table % ("input", f"ip saddr {machines.address('a')} ip protocol esp"))
        lab.ssh("c", table % ("output", f"ip daddr {machines.address('a')} udp dport 7946"))
        lab.ssh("a", table % ("input", f"ip saddr {machines.address('b')} tcp dport 2377"))
        assert verdicts(machines.check(True)) == {
            ("a", "b", "esp", 0): "receiver-filter",
            ("c", "a", "udp", 7946): "sender-filter",
            ("b", "a", "tcp", 2377): "receiver-filter",
        }
    finally:
        for name in NAMES:
            lab.try_ssh(name, "nft delete table inet t")


def test_ufw_like_host_without_esp(machines: Machines) -> None:
    """What ufw's rules come to: answers pass, the swarm's ports pass, ESP was forgotten."""
    lab = machines.lab
    rules = (
        "iptables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; iptables -A INPUT -i lo -j ACCEPT; "
        "iptables -A INPUT -m conntrack --ctstate INVALID -j DROP; iptables -A INPUT -p tcp -m multiport --dports 22,2377,7946 -j ACCEPT; "
        "iptables -A INPUT -p udp -m multiport --dports 4789,7946 -j ACCEPT; iptables -A INPUT -p icmp -j ACCEPT; iptables -A INPUT -j DROP"
    )
    try:
        lab.ssh("b", rules)
        for _again in range(2):
            assert verdicts(machines.check(True)) == {(name, "b", "esp", 0): "receiver-filter" for name in ("a", "c")}
    finally:
        lab.try_ssh("b", "iptables -F INPUT")


def test_beside_a_running_swarm(machines: Machines) -> None:
    swarm(machines)
    lab = machines.lab
    for name in NAMES:
        lab.ssh(name, "journalctl --rotate -q; journalctl --vacuum-time=1s -q || true")
    since = int(time.time())
    for _attempt in range(5):
        report = machines.check(members=NAMES)
        assert verdicts(report) == {} and report["path_mtu"] == 1500, report["problems"]
    listening = {(item["proto"], item["port"]): item for item in machines.told["a"]["listened"]["listening"]}
    assert listening["tcp", 2377]["by"].startswith("dockerd (pid ") and not listening["tcp", 2377]["own"]
    assert listening["udp", 7946]["by"].startswith("dockerd (pid ")
    # one line for each datagram to the gossip (a busy machine answers so late that it is repeated), and one for each connection to the
    # manager that says nothing; nothing else
    for name in NAMES:
        lines = lab.ssh(name, f"journalctl -u docker --since @{since} -o cat --no-pager").splitlines()
        gossip = [line for line in lines if "memberlist" in line]
        others = [line for line in lines if line not in gossip and "security handshake" not in line]
        assert len(gossip) <= 5 * 2 * 2 and len(lines) - len(gossip) - len(others) <= 5 * 2 * (name == "a")
        assert not [line for line in others if "level=error" in line or "level=warning" in line], others
    assert lab.ssh("a", "docker node ls --format '{{.Status}}'").split() == ["Ready"] * 3


def test_an_engine_that_stopped_is_named(machines: Machines) -> None:
    swarm(machines)
    machines.lab.ssh("b", "systemctl stop docker.socket docker")
    try:
        report = machines.check(members=NAMES)
        names = {(problem["node"], problem["code"]) for problem in report["problems"]}
        assert names == {("b", "link-tcp-nobody-listening"), ("b", "link-udp-nobody-listening")}
    finally:
        machines.lab.ssh("b", "systemctl start docker")
    # the engine gets the ports that the probe had
    until(lambda: machines.lab.ssh("b", "docker info --format '{{.Swarm.LocalNodeState}}'") == "active", 60)
    until(lambda: machines.lab.ssh("b", "ss -Hltn 'sport = :7946'") != "", 60)
