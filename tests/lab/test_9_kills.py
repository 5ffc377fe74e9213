# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mipfed is killed in the middle of what it does: kill -9 of its process group at a random event. The same command again ends the work,
nothing is lost, and a deploy has nothing to do.

The events are chosen by seeds: MIP_KILL_SEEDS=1-20 tries twenty for each command, and by default it is one. A failure names its seed.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import INVENTORY, Lab
from .test_4_nodes import eventually

pytestmark = pytest.mark.in_order

LOCKED, NO_HOSTS = 7, 10
#: Up to which event a command is killed; on a lab of two hospitals each has more.
EVENTS = {"deploy": 150, "node remove": 60, "node add": 200, "upgrade": 90, "backup create": 50, "restore": 90}
#: Where a token must not lie: what mipfed and Ansible write on a node.
PLACES = "/tmp /var/tmp /root/.ansible /var/log /var/lib/mip /etc/mip"


def seeds() -> list[int]:
    """Return the seeds that MIP_KILL_SEEDS names: 7, or 1-20, or 3,5,8-9."""
    found: list[int] = []
    for part in os.environ.get("MIP_KILL_SEEDS", "1").split(","):
        first, _dash, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


each_seed = pytest.mark.parametrize("seed", seeds())


class Federation:
    """The lab's federation, and what must survive."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        key = folder / "backup.key"
        lab.json("backup", "key", str(key))
        recipient = re.findall(r"public key: (\S+)", key.read_text())[0]
        lab.variables(mip_backup={"recipients": [recipient], "identity": str(key), "keep": 3})
        self.cluster = self.swarm()
        self.data = self.files()
        self.written = 0

    def swarm(self) -> str:
        """Return the swarm's id."""
        return self.lab.ssh(self.lab.master, "docker info -f '{{.Swarm.Cluster.ID}}'", check=False)

    def files(self) -> dict[str, str]:
        """Return what the hospitals' own files are, by hospital."""
        return {
            name: self.lab.ssh(name, "find /data -name '*.csv' | sort | xargs sha256sum") for name in self.lab.addresses if "-wk-" in name
        }

    def keystore(self, command: str, *, check: bool = True) -> str:
        """Run a command of Consul in the keystore's container."""
        inside = f"docker exec $(docker ps -q -f label=eu.humanbrainproject.mip.service=exareme-keystore) consul {command}"
        return self.lab.ssh(self.lab.master, inside, check=check)

    def write(self) -> None:
        """Write a key that must not be lost, and wait until the keystore took it."""
        self.written += 1
        assert eventually(lambda: "Success" in self.keystore(f"kv put kills/{self.written} {self.written}", check=False), 180)

    def cut(self, seed: int, command: str, *arguments: str) -> str:
        """Start a command and kill it at a random event; returns what was being done then."""
        number = random.Random(f"{command} {seed}").randint(1, EVENTS[command])
        process = self.lab.start("-o", "jsonl", *command.split(), *arguments, start_new_session=True)
        assert process.stdout
        at = ""
        for count, line in enumerate(process.stdout, 1):
            if count == number:
                event: dict[str, Any] = json.loads(line)
                os.killpg(process.pid, signal.SIGKILL)
                at = f"{event.get('event')} {event.get('play', '')}: {event.get('task', '')}"
                break
        _out, err = process.communicate(timeout=600)
        print(f"{command}, seed {seed}: killed at event {number}, {at or 'after its end'}")
        assert at or process.returncode == 0, err
        return at

    def again(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; what the killed one began on the hosts, and its lock, may take a while to end."""
        done: list[subprocess.CompletedProcess[str]] = []

        def free() -> bool:
            done.append(self.lab.run(*arguments, code=None))
            return done[-1].returncode != LOCKED

        assert eventually(free, 300), done[-1].stderr
        assert done[-1].returncode in codes, f"{' '.join(arguments)}: {done[-1].returncode}\n{done[-1].stdout}\n{done[-1].stderr}"
        return done[-1]

    def whole(self) -> None:
        """All is as it was, nothing is lost, nothing secret lies about, and there is nothing to do."""
        self.lab.read_hosts()
        assert self.swarm() == self.cluster
        assert self.lab.all_active(240)
        assert json.loads(self.again("-o", "json", "deploy", "-y").stdout)["result"]["changed"] == 0
        kept = set(self.keystore("kv get -keys kills/").split())
        assert {f"kills/{number}" for number in range(1, self.written + 1)} <= kept
        assert self.files() == self.data
        for top in (self.lab.state_home, INVENTORY):
            for path in top.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    assert b"SWMTKN-1-" not in path.read_bytes(), path
                    assert path.name != "variables.json", path
        for name in self.lab.hosts:
            assert self.lab.ssh(name, f"grep -rlsI SWMTKN-1- {PLACES}", check=False) == "", name


@pytest.fixture(scope="module")
def fed(machines: Lab, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """The lab, deployed, with a key for its backups."""
    if not machines.whole():
        machines.run("deploy", "-y")
    assert machines.all_active(240)
    return Federation(machines, tmp_path_factory.mktemp("kills"))


def engine() -> str:
    """Return the engine's image as the inventory names it."""
    return str(yaml.safe_load((INVENTORY / "group_vars/all/main.yml").read_text())["mip_engine"]["image"])


@each_seed
def test_deploy(fed: Federation, seed: int) -> None:
    fed.write()
    # Something to do, on every node.
    fed.lab.variables(mip_engine={"communication_timeout_ms": 30000 + seed})
    fed.cut(seed, "deploy", "-y")
    fed.again("deploy", "-y")
    fed.whole()


@each_seed
def test_node_remove_and_node_add(fed: Federation, seed: int) -> None:
    fed.write()
    name = fed.lab.workers[-1]
    address = fed.lab.hosts[name]
    fed.cut(seed, "node remove", name, "-y")
    done = fed.again("node", "remove", name, "-y", codes=(0, NO_HOSTS))
    fed.lab.read_hosts()
    assert name not in fed.lab.hosts, done.stderr
    assert name not in fed.lab.ssh(fed.lab.master, "docker node ls --format '{{.Hostname}}'")
    fed.cut(seed, "node add", name, "--address", address, "-y")
    fed.again("node", "add", name, "--address", address, "-y")
    fed.lab.read_hosts()
    assert fed.lab.hosts[name] == address
    fed.whole()


@each_seed
def test_upgrade(fed: Federation, seed: int) -> None:
    fed.write()
    if not (INVENTORY / "images.lock").exists():
        fed.lab.run("image", "lock")
    image = engine()
    wanted = image.replace(":1.0", ":1.1") if ":1.0" in image else image.replace(":1.1", ":1.0")
    fed.cut(seed, "upgrade", "--set", f"engine={wanted}", "--no-backup", "-y")
    fed.again("upgrade", "--set", f"engine={wanted}", "--no-backup", "-y")
    assert wanted == engine()
    fed.whole()


@each_seed
def test_backup(fed: Federation, seed: int) -> None:
    fed.write()
    fed.cut(seed, "backup create", "-y")
    fed.again("backup", "create", "-y")
    newest = fed.lab.json("backup", "ls")["result"]["sets"][-1]
    assert fed.lab.json("backup", "verify", newest["file"])["result"]["ok"] is True
    assert not [path for path in (INVENTORY / "backups").iterdir() if path.name.endswith(".partial")]
    fed.whole()


@each_seed
def test_restore(fed: Federation, seed: int) -> None:
    fed.write()
    fed.again("backup", "create", "-y")
    newest = fed.lab.json("backup", "ls")["result"]["sets"][-1]["file"]
    fed.lab.ssh(fed.lab.master, "systemctl stop docker.socket docker; rm -rf /var/lib/docker/*; systemctl start docker")
    name = json.loads(fed.lab.run("-o", "json", "config", "show").stdout)["federation"]
    fed.cut(seed, "restore", newest, "--confirm", name)
    fed.again("restore", newest, "--confirm", name)
    fed.again("deploy", "-y")
    assert fed.lab.ssh(fed.lab.master, f"ls /var/lib/mip/{name}/restore", check=False) == ""
    fed.whole()
