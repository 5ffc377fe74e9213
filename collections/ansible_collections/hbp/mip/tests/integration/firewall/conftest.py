# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lab machines with ufw, with firewalld and without a firewall, and the real role against them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.hbp.mip.tests.helpers.modules import COLLECTIONS, run_module

NAME = "brain"
TABLE = "mip_brain"
PROBE = Path(__file__).with_name("probe.py")
# A container with a program that says back what it is told, out of the machine's own files.
IMAGE = (
    "docker image inspect echo:1 >/dev/null 2>&1 || tar -C / -ch bin/cat usr/bin/ncat"
    " $(ldd /bin/cat /usr/bin/ncat | grep -o '/lib[^ ]*' | sort -u | cut -c2-) 2>/dev/null | docker import - echo:1"
)
CONTAINER = (
    "docker rm -f echo; docker run -d --restart=always --name echo --ulimit nofile=1024:1024 -p 9090:8000"
    " echo:1 /usr/bin/ncat -l -k -p 8000 -e /bin/cat"
)

LISTEN = (
    "systemctl stop -q listen 2>/dev/null; rm -f /root/log; systemd-run -q --collect --unit=listen python3 /root/probe.py listen /root/log"
)

# A table of the host's administrator; it is there once, however often this runs.
FOREIGN = (
    "nft add table inet foreign && nft add chain inet foreign c && nft flush chain inet foreign c"
    " && nft add rule inet foreign c tcp dport 1 drop"
)

#: short name of the machine -> kind in the federation and firewall of the host
MACHINES = {
    "ms": ("master", "ufw"),
    "wk-1": ("worker", "firewalld"),
    "wk-2": ("worker", "none"),
    "web": ("ui", "none"),
    "out": ("", "none"),
}
GUARDED = ("ms", "wk-1", "wk-2")

PLAYBOOK = """
- hosts: master:ui:workers
  gather_facts: false
  tasks:
    - hbp.mip.federation:
      register: mip
      run_once: true
      check_mode: false
- hosts: master:ui:workers
  gather_facts: false
  strategy: ansible.builtin.free  # as in a deploy
  tasks:
    - ansible.builtin.include_role:
        name: hbp.mip.firewall
        tasks_from: "{{ part }}"
      vars:
        firewall_federation: "{{ mip }}"
"""


def must(module: str, **arguments: Any) -> dict[str, Any]:
    """Run a module on this host; it must not fail."""
    result = run_module(module, arguments)
    assert not result.failed, result.msg
    return result.data


class Played:
    """What came of a playbook."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.output = done.stdout + done.stderr
        self.code = done.returncode
        try:
            document = json.loads(done.stdout[done.stdout.index("{") :])
        except ValueError:
            document = {"stats": {}, "plays": []}
        self.stats: dict[str, dict[str, int]] = document["stats"]
        self.tasks: list[dict[str, Any]] = [task for play in document["plays"] for task in play["tasks"]]

    @property
    def changed(self) -> set[str]:
        """Hosts where something changed."""
        return {host for host, numbers in self.stats.items() if numbers["changed"]}

    def of(self, task: str, host: str) -> dict[str, Any]:
        """The result of the last task with this name on a host."""
        named = [item["hosts"] for item in self.tasks if item["task"]["name"].rpartition(" : ")[2] == task]
        found = [hosts[host] for hosts in named if host in hosts and "include" not in hosts[host]]
        assert found, (task, self.output)
        return dict(found[-1])


class Federation:
    """The machines, their inventory, and the role."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lab = "fwkept" if os.environ.get("MIPFED_KEEP_LAB") else f"fw{os.getpid()}"
        self.made: dict[str, dict[str, Any]] = {}
        #: What was loaded on the guarded machines after the role ran last; a test that finds it need not run the role again.
        self.settled: dict[str, dict[str, str]] = {}
        self.key = ""
        self.gateway = ""

    # --- machines

    def up(self) -> None:
        """Make the machines, each with its firewall."""
        base = must("lab_base", suite="bookworm", docker=True, packages=["ufw", "firewalld", "ncat"])["base"]["path"]
        machines = [{"name": f"{self.lab}-{name}"} for name in MACHINES]
        result = must("lab_machines", lab=self.lab, base=base, machines=machines, host_ports=[])
        self.made = {machine["name"][len(self.lab) + 1 :]: machine for machine in result["machines"]}
        self.key, self.gateway = result["lab"]["ssh_private_key_file"], result["lab"]["gateway"]
        known = "".join(f"{machine['address']} {machine['host_key']}\n" for machine in self.made.values())
        (self.folder / "known_hosts").write_text(known)
        self.each(self._prepare, MACHINES)
        self.inventory()

    def _prepare(self, name: str) -> None:
        firewall = MACHINES[name][1]
        if firewall != "firewalld":
            # firewalld takes Docker's rules along when it stops
            self.ssh(name, "systemctl disable -q --now firewalld && systemctl restart docker")
        if firewall == "ufw":
            self.ssh(name, "ufw allow 22/tcp && ufw deny from 192.0.2.0/24 && ufw --force enable")
        if firewall == "firewalld":
            self.ssh(name, "systemctl is-active firewalld && firewall-cmd --permanent --add-port=4444/tcp && firewall-cmd --reload")
        if firewall == "none":
            self.ssh(name, FOREIGN)
        subprocess.run([*self.command(name), "cat > /root/probe.py"], input=PROBE.read_bytes(), check=True, capture_output=True)
        if name in GUARDED:
            self.ssh(name, f"{IMAGE} && {CONTAINER}")
        self.services(name)

    def services(self, name: str) -> None:
        """What does not come back by itself after a boot: an IPv6 address and the listeners."""
        self.ssh(name, f"ip -6 address replace {self.address6(name)}/64 dev eth0 nodad")
        if name in GUARDED:
            self.ssh(
                name,
                LISTEN,
            )
            self.ssh(name, "timeout 20 sh -c 'until grep -q ready /root/log; do sleep 0.2; done'")

    def down(self) -> None:
        """Remove the machines."""
        must("lab_machines", lab=self.lab, state="absent", host_ports=[])

    def reboot(self, *names: str) -> None:
        """Start machines again."""
        must("lab_machine_power", lab=self.lab, machines=[f"{self.lab}-{name}" for name in names], state="reboot")
        self.each(self.services, names)

    def each(self, function: Any, names: Any) -> list[Any]:
        """Call a function for each name at once."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(function, names))

    def address(self, name: str) -> str:
        """The machine's IPv4 address."""
        return str(self.made[name]["address"])

    def address6(self, name: str) -> str:
        """The machine's IPv6 address."""
        return "fd77::" + self.address(name).rpartition(".")[2]

    def command(self, name: str) -> list[str]:
        """The ssh command for a machine."""
        options = ["-F", "/dev/null", "-i", self.key, "-o", f"UserKnownHostsFile={self.folder / 'known_hosts'}"]
        return ["ssh", *options, "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", f"root@{self.address(name)}"]

    def ssh(self, name: str, command: str, check: bool = True) -> str:
        """Output of a shell command on a machine."""
        done = subprocess.run([*self.command(name), command], capture_output=True, text=True, timeout=120, check=False)
        assert not check or done.returncode == 0, f"{name}: {command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    # --- the role

    def inventory(self, variables: Mapping[str, Any] | None = None, **hosts: Mapping[str, Any]) -> None:
        """Write the inventory, with further variables of all and of some (`wk_1` for wk-1)."""
        groups: dict[str, Any] = {"master": {}, "ui": {}, "workers": {}}
        for name, (kind, _firewall) in MACHINES.items():
            if kind:
                more = dict(hosts.get(name.replace("-", "_"), {}))
                if more.pop("gone", False):
                    continue
                group = "workers" if kind == "worker" else kind
                # the engine's port on every machine, so that each kind of host firewall is met by a published port
                if name in GUARDED:
                    more["firewall_published"] = [{"port": 9090, "allow": [self.address("web")], "why": "the engine"}]
                groups[group][name] = {"ansible_host": self.address(name), **more}
        shared = {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": self.key,
            "ansible_ssh_common_args": f"-F /dev/null -o UserKnownHostsFile={self.folder / 'known_hosts'} -o ConnectTimeout=5",
            "ansible_python_interpreter": "/usr/bin/python3",
            "mip_federation": NAME,
            "mip_lab": True,
            "mip_engine": {"image": "engine:1", "keystore_image": "keystore:1"},
            **(variables or {}),
        }
        document = {"all": {"vars": shared, "children": {group: {"hosts": members} for group, members in groups.items()}}}
        (self.folder / "hosts.yml").write_text(yaml.safe_dump(document))

    def play(self, part: str = "main", *arguments: str, text: str = PLAYBOOK, limit: str = "", **variables: Any) -> Played:
        """Run the role (or another playbook) on the machines."""
        book = self.folder / "play.yml"
        book.write_text(text)
        extra = json.dumps({"part": part, **variables})
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(self.folder / "hosts.yml"), str(book), "-e", extra]
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_RETRY_FILES_ENABLED": "0",
            "ANSIBLE_DEPRECATION_WARNINGS": "0",
            "ANSIBLE_FORKS": "10",
            "ANSIBLE_HOME": str(self.folder / "ansible"),
        }
        command += ["--limit", limit] if limit else []
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=400, env=environment)
        return Played(done)

    def module(self, name: str, background: bool = False, **arguments: Any) -> str:
        """Run the module alone on a machine, over a connection of its own, and return what it prints."""
        command = [str(Path(sys.executable).with_name("ansible")), "-i", str(self.folder / "hosts.yml"), name, "-m", "hbp.mip.firewall"]
        command += ["-a", json.dumps({"name": NAME, **arguments}), "-o"]
        environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "ANSIBLE_HOME": str(self.folder / "ansible")}
        environment["ANSIBLE_SSH_ARGS"] = "-o ControlMaster=no"
        if background:
            subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            return ""
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120).stdout

    # --- what is there, and what passes

    def state(self, name: str) -> dict[str, str]:
        """Everything loaded on a machine that is ours or a firewall's, without counters."""
        commands = {
            "guard": f"nft -s list table inet {TABLE}",
            "foreign": "nft -s list table inet foreign",
            "ufw": "iptables -S ufw-user-input; ip6tables -S ufw6-user-input",
            "ufw file": "cat /etc/ufw/user.rules",
            "firewalld": "(firewall-cmd --info-policy=mip-brain && firewall-cmd --info-ipset=mip-brain) | sort",
            "zones": "firewall-cmd --list-all-zones",
            "files": "grep -rs '' /etc/mip/ /etc/systemd/system/*mip-firewall* /etc/systemd/system/nftables.service.d"
            " /etc/firewalld/policies /etc/firewalld/ipsets; ls -l /etc/systemd/system/multi-user.target.wants | grep -o 'mip.*'",
        }
        text = "; ".join(f"echo '#### {key}'; ({command}) 2>/dev/null" for key, command in commands.items())
        found = {}
        for part in self.ssh(name, text + "; true").split("#### ")[1:]:
            key, _newline, value = part.partition("\n")
            found[key] = value.strip()
        return found

    def arrivals(self, senders: Sequence[str], receivers: Sequence[str] = GUARDED) -> dict[tuple[str, str], set[str]]:
        """What arrives from each sender at each receiver, as `4 tcp 7946`; every port over IPv4 and IPv6 is tried."""
        words = {sender: uuid.uuid4().hex[:8] + "-" + sender for sender in senders}

        def send(sender: str) -> dict[str, list[int]]:
            others = [name for name in receivers if name != sender]
            addresses = [function(name) for name in others for function in (self.address, self.address6)]
            answer: dict[str, list[int]] = json.loads(
                self.ssh(sender, shlex.join(["python3", "/root/probe.py", "send", words[sender], *addresses]))
            )
            return answer

        answers = dict(zip(senders, self.each(send, senders), strict=True))
        logs = dict(zip(receivers, self.each(lambda name: self.ssh(name, "cat /root/log").splitlines(), receivers), strict=True))
        found: dict[tuple[str, str], set[str]] = {}
        for sender in senders:
            for receiver in receivers:
                if sender != receiver:
                    arrived = {line.rpartition(" ")[0] for line in logs[receiver] if line.endswith(words[sender])}
                    for address in (self.address(receiver), self.address6(receiver)):
                        digit = 6 if ":" in address else 4
                        arrived |= {f"{digit} tcp {port}" for port in answers[sender][address]}
                    found[sender, receiver] = arrived
        return found


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """The machines, for all tests."""
    if os.geteuid():
        pytest.skip("lab machines need root")
    federation = Federation(tmp_path_factory.mktemp("firewall"))
    try:
        federation.up()
        yield federation
    finally:
        if not os.environ.get("MIPFED_KEEP_LAB"):
            federation.down()
