# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A federation on emulated machines: its inventory, its images, and the real `mipfed` and modules against it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from emulated import GATEWAY, ROOT, Failure, Machine, Network, free_port, wait_for

from ansible_collections.hbp.mip.plugins.module_utils import _lab_inventory

HERE = Path(__file__).resolve().parent
BIN = ROOT / ".venv/bin"
#: All that the path between the machines lets pass of an encrypted packet, in bytes.
PATH_MTU = 1400
NARROW = f"ip protocol esp ip length > {PATH_MTU} counter drop"
PORT = 5000
ENGINE, KEYSTORE = "exareme-standin:1.0", "keystore:1.8.7"
OVERLAY = "mip-federation"
#: What is sent with a checksum between the containers of each pair, in bytes.
LARGE = 4 << 20
#: What an emulated machine may take; every wait ends as soon as its condition holds.
PATIENCE = 2700


class Federation:
    """A master and hospitals, each on a machine with a kernel of its own."""

    def __init__(self, folder: Path, network: Network, machines: dict[str, Machine], say: Callable[[str], None]) -> None:
        self.folder, self.network, self.machines, self.say = folder, network, machines, say
        self.name = "esp"
        self.names = list(machines)
        self.master, *self.workers = self.names
        self.inventory = folder / self.name
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "NO_COLOR": "1",
            "XDG_STATE_HOME": str(folder / "state"),
            "ANSIBLE_TIMEOUT": "120",
            "ANSIBLE_SSH_RETRIES": "2",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
            "ANSIBLE_LOCALHOST_WARNING": "False",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "False",
        }

    # --- before the machines are there

    def images(self) -> None:
        """Build the images of a lab and put them into a registry on the bridge.

        They are pushed outside the bridge's namespace, because what is missing in the cache comes from Debian's mirrors.
        """
        play = [
            {
                "hosts": "localhost",
                "connection": "local",
                "gather_facts": False,
                "vars": {
                    "lab_name": "images",
                    "lab_state_dir": str(self.folder),
                    "lab_made": {"lab": {"gateway": "127.0.0.1"}},
                    "lab_registry_port": free_port("127.0.0.1"),
                    "ansible_python_interpreter": "{{ ansible_playbook_python }}",
                },
                "tasks": [{"name": "Images", "ansible.builtin.include_role": {"name": "hbp.mip.lab", "tasks_from": "images"}}],
            }
        ]
        playbook = self.folder / "images.yml"
        playbook.write_text(yaml.safe_dump(play))
        try:
            self._succeed([str(BIN / "ansible-playbook"), str(playbook)])
        finally:
            self._registry("state=absent", outside=True)
        self._registry(f"address={GATEWAY} port={PORT}", outside=False)

    def _registry(self, arguments: str, outside: bool) -> None:
        command = [str(BIN / "ansible"), "localhost", "-m", "hbp.mip.lab_registry", "-a", f"path={self.folder}/images/registry {arguments}"]
        self._succeed(command if outside else [*self.network.prefix, *command])

    def write_inventory(self) -> None:
        """Write the inventory as a lab's is written; only what an emulated machine needs is added."""
        keys = dict(line.split(" ", 1) for line in (self.folder / "known_hosts").read_text().splitlines())
        described = [
            {
                "name": name,
                "kind": "master" if name == self.master else "worker",
                "address": machine.address,
                "host_key": keys[machine.address],
            }
            for name, machine in self.machines.items()
        ]
        lab = {"name": self.name, "ssh_private_key_file": str(self.folder / "id_ed25519")}
        for file in _lab_inventory.files(lab, described, f"{GATEWAY}:{PORT}", (ENGINE, KEYSTORE), {"supported": True, "reason": ""}):
            path = self.inventory / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.text)
            path.chmod(file.mode)
        path = self.inventory / "group_vars/all/main.yml"
        values = yaml.safe_load(path.read_text())
        # The health checks of a real engine start a Python each; that would be most of what these machines do.
        values["mip_engine"] |= {
            "start_seconds": PATIENCE,
            "master_healthcheck": ["CMD", "test", "-d", "/root/exareme/data"],
            "worker_healthcheck": ["CMD", "test", "-d", "/root/exareme/data"],
            "healthcheck_seconds": 10,
        }
        values["mip_limits"] = {"disk_free_gb": 1, "memory_mb": 512, "clock_skew_seconds": 120}
        values |= {
            "links_listen_seconds": PATIENCE,
            "verify_listen_seconds": PATIENCE,
            # A verify that has to fail waits as long for the engine's nodes.
            "verify_wait": 120,
            "verify_large_bytes": LARGE,
        }
        values["mip_firewall"] = {"rollback_seconds": 600}
        path.write_text(yaml.safe_dump(values))

    def seed(self) -> None:
        """Give the machines synthetic data of one pathology, made here: a federated statistic needs some."""
        nodes = []
        for name in self.names:
            root = self.folder / "seed" / name
            root.mkdir(parents=True)
            nodes.append({"name": name, "kind": "master" if name == self.master else "worker", "root": str(root)})
        arguments = {
            "data_dir": f"/data/{self.name}", "record": str(self.folder / "seed.json"), "pathologies": ["tbi"], "nodes": nodes,
            "databases": True,
        }  # fmt: skip
        self._succeed([str(BIN / "ansible"), "localhost", "-m", "hbp.mip.lab_seed", "-a", json.dumps(arguments)])
        for node in nodes:
            with subprocess.Popen(["tar", "-C", node["root"], "-c", "."], stdout=subprocess.PIPE) as archive:
                command = [*self.machines[node["name"]].ssh_command(), "tar -x -C / --no-same-owner --no-overwrite-dir"]
                subprocess.run(command, stdin=archive.stdout, check=True, timeout=300)

    def swarm(self) -> None:
        """Make the swarm ahead of the deploy, which verifies it: only so it can be told in time to be patient with slow nodes.

        A node that is silent for 15 seconds counts as down otherwise, and its containers are replaced.
        """
        address = self.machines[self.master].address
        arguments = {
            "role": "manager",
            "init": True,
            "advertise_addr": address,
            "data_path_addr": address,
            "listen_addr": f"{address}:2377",
        }
        self.module(self.master, "swarm_member", arguments)
        self.machines[self.master].run("docker swarm update --dispatcher-heartbeat 2m")

    def close(self) -> None:
        """Stop what runs outside the machines."""
        with contextlib.suppress(Failure):
            self._registry("state=absent", outside=True)

    # --- mipfed and modules

    def _succeed(self, command: list[str], timeout: float = PATIENCE) -> str:
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout
        )
        if done.returncode:
            raise Failure(f"{' '.join(command)}: {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}")
        return done.stdout

    def mipfed(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Run mipfed on the federation, which must end with the code, and return its JSON document."""
        began = time.monotonic()
        command = [*self.network.prefix, str(BIN / "mipfed"), "-i", str(self.inventory), "-o", "json", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        self.say(f"mipfed {' '.join(arguments)}: exit code {done.returncode}, {time.monotonic() - began:.0f} s")
        (self.folder / f"mipfed-{arguments[0]}-{int(time.time())}.json").write_text(done.stdout)
        if done.returncode != code:
            said = f"{done.stdout[-8000:]}\n{done.stderr[-4000:]}"
            raise Failure(f"mipfed {' '.join(arguments)}: {done.returncode} instead of {code}\n{said}\n{self.state()}")
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def module(self, hosts: str, name: str, arguments: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Run a module of the collection on machines, as Ansible does, and return the results by machine."""
        command = [*self.network.prefix, str(BIN / "ansible"), "-i", str(self.inventory), hosts, "-m", f"hbp.mip.{name}"]
        command += ["-a", json.dumps(arguments)]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        results: dict[str, dict[str, Any]] = {}
        for line in re.split(r"(?m)^(?=\S+ \| )", done.stdout):
            found = re.match(r"(\S+) \| (\S+) => (.*)", line, re.DOTALL)
            if found:
                results[found[1]] = json.loads(found[3])
        if done.returncode or not results:
            raise Failure(f"{name} on {hosts}: {done.stdout}{done.stderr}")
        return results

    def state(self) -> str:
        """Tell how the federation is, for whoever reads a failure."""
        commands = {
            self.master: "docker node ls; docker service ls; for s in $(docker service ls -q); do docker service ps --no-trunc $s; done",
            **dict.fromkeys(self.workers, "docker ps -a"),
        }
        found = [f"== {name}\n{machine.run(commands[name], check=False)}" for name, machine in self.machines.items()]
        # An engine writes the keys of its gossip into the journal as it joins.
        journal = "journalctl -u docker -n 30 --no-pager -o cat | grep -v Keys: | tail -n 15"
        found += [f"{machine.run(journal, check=False)}" for machine in self.machines.values()]
        return "\n".join(found)

    # --- containers and what protects them

    def container(self, machine: str, network: str = OVERLAY) -> dict[str, Any]:
        """Return process, address and MAC address of the machine's engine container, or of the one of the network's own name."""
        node = self.machines[machine]
        which = f"--filter name=^{network}$" if network != OVERLAY else f"--filter label=eu.humanbrainproject.mip.node={machine}"
        identifiers = node.run(f"docker ps -q {which}").split()
        for entry in json.loads(node.run("docker inspect " + " ".join(identifiers))) if identifiers else []:
            found = entry["NetworkSettings"]["Networks"].get(network)
            # of the two on the master the engine, whose image has Python in it
            if found and found["IPAddress"] and "keystore" not in entry["Name"]:
                return {"pid": entry["State"]["Pid"], "address": found["IPAddress"], "mac": found["MacAddress"], "name": entry["Name"]}
        raise Failure(f"{machine} has no container on {network}: {node.run('docker ps -a')}")

    def vni(self, network: str) -> int:
        """Return the number that VXLAN knows the overlay by."""
        options = json.loads(self.machines[self.master].run(f"docker network inspect {network}"))[0]["Options"]
        return int(options["com.docker.network.driver.overlay.vxlanid_list"])

    def associations(self, machine: str) -> dict[tuple[str, str], int]:
        """Return the bytes that a machine's IPsec associations have carried, by addresses; keys are never asked for."""
        text = self.machines[machine].run("ip -s xfrm state list nokeys")
        assert "0x" not in "".join(re.findall(r"(?:aead|enc|auth).*", text)), "keys were printed"
        carried: dict[tuple[str, str], int] = {}
        for block in re.split(r"(?m)^(?=src )", text):
            head = re.match(r"src (\S+) dst (\S+)\s+proto esp", block)
            current = re.search(r"lifetime current:\s+(\d+)\(bytes\)", block)
            if head and current:
                carried[head[1], head[2]] = carried.get((head[1], head[2]), 0) + int(current[1])
        return carried

    def refused(self, machine: str) -> int:
        """Return how many packets the machine's guard refused because they did not come through IPsec."""
        listed = json.loads(self.machines[machine].run(f"nft -j list table inet mip_{self.name}"))["nftables"]
        found = [
            expression["counter"]["packets"]
            for entry in listed
            if "did not come through IPsec" in entry.get("rule", {}).get("comment", "")
            for expression in entry["rule"]["expr"]
            if "counter" in expression
        ]
        assert len(found) == 1, listed
        return int(found[0])

    # --- what is sent

    @contextlib.contextmanager
    def captured(self, needle: str) -> Iterator[dict[str, Any]]:
        """Capture on the bridge; what was seen is in the dictionary afterwards."""
        seen: dict[str, Any] = {}
        process = subprocess.Popen(
            [*self.network.prefix, str(BIN / "python"), str(HERE / "wire.py"), "capture", needle],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdin and process.stdout
        try:
            assert process.stdout.readline().strip() == "READY"
            yield seen
            out, _err = process.communicate(timeout=120)
            seen.update(json.loads(out))
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def receiver(self, machine: str, place: dict[str, Any], port: int, needle: str, seconds: float = 600) -> subprocess.Popen[str]:
        """Start to receive in a container; it is ready when this returns."""
        process = self.machines[machine].python(
            (HERE / "wire.py").read_text(),
            "receive", place["address"], str(port), needle, str(seconds),
            prefix=f"nsenter -t {place['pid']} --net",
        )  # fmt: skip
        assert process.stdout is not None
        if process.stdout.readline().strip() != "READY":
            raise Failure(f"nothing receives on {machine}: {process.communicate(timeout=60)}")
        return process

    def send(self, machine: str, place: dict[str, Any], to: dict[str, Any], port: int, text: str) -> None:
        """Send a datagram from one container to another."""
        script = (
            f"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(({place['address']!r}, 0)); "
            f"s.sendto({text.encode()!r}, ({to['address']!r}, {port}))"
        )
        process = self.machines[machine].python(script, prefix=f"nsenter -t {place['pid']} --net")
        _out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err

    def end_reception(
        self, process: subprocess.Popen[str], sender: str, place: dict[str, Any], to: dict[str, Any], port: int, needle: str
    ) -> dict[str, Any]:
        """Send from container to container until the receiver has it, which ends it; so it is known that it did receive."""

        def ended() -> bool:
            if process.poll() is None:
                self.send(sender, place, to, port, f"end of {needle}")
            return process.poll() is not None

        wait_for("the control datagram", ended, 300, self.state)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        result: dict[str, Any] = json.loads(out)
        return result

    def inject(self, **frame: Any) -> dict[str, Any]:
        """Send VXLAN frames from a port of the bridge that belongs to no machine."""
        interface = "stranger"
        if interface not in self.network.run("ip -br link"):
            self.network.run(
                f"ip link add {interface} type veth peer name {interface}-port && ip link set {interface}-port master br0 up && "
                f"ip link set {interface} up"
            )
        mac = json.loads(self.network.run(f"ip -j link show dev {interface}"))[0]["address"]
        given = {"interface": interface, "source_mac": mac, "count": 20, **frame}
        done = subprocess.run(
            [*self.network.prefix, str(BIN / "python"), str(HERE / "wire.py"), "inject"],
            input=json.dumps(given) + "\n", capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        sent: dict[str, Any] = json.loads(done.stdout)
        return sent
