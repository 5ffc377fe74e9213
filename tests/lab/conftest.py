# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab of real machines, and the real `mipfed` against it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LAB = os.environ.get("MIP_TEST_LAB", "lab-test")
INVENTORY = ROOT / "inventories" / LAB
MIPFED = ROOT / ".venv/bin/mipfed"
#: All machines share this one's processors: on a busy one sshd may need a while to say who it is.
TIMEOUT = os.environ.get("ANSIBLE_TIMEOUT", "60")
ENVIRONMENT = {**os.environ, "PATH": f"{MIPFED.parent}:{os.environ['PATH']}", "NO_COLOR": "1", "ANSIBLE_TIMEOUT": TIMEOUT}


class Lab:
    """The machines of a lab, its inventory, and mipfed."""

    def __init__(self, state_home: Path) -> None:
        self.environment = {**ENVIRONMENT, "XDG_STATE_HOME": str(state_home)}
        self.state_home = state_home
        #: Addresses of all machines, also of those that the inventory does not have any more.
        self.addresses: dict[str, str] = {}
        self.master = f"{LAB}-ms"
        self.read_hosts()

    def read_hosts(self) -> None:
        """Read the inventory's machines, again after a change of their number."""
        self.hosts: dict[str, str] = {}
        for group in yaml.safe_load((INVENTORY / "hosts.yml").read_text())["all"]["children"].values():
            for name, values in group["hosts"].items():
                if "ansible_host" in values:
                    self.hosts[name] = values["ansible_host"]
        self.addresses.update(self.hosts)
        self.workers = sorted(name for name in self.hosts if "-wk-" in name)

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start mipfed on the lab's federation and return its process."""
        command = [str(MIPFED), "-f", LAB, *arguments]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            **options,
        )

    def run(self, *arguments: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run mipfed on the lab's federation; its exit code must be the given one."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=1500)
        except subprocess.TimeoutExpired:
            # So that it takes its lock back.
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=120)
            raise AssertionError(f"mipfed {' '.join(arguments)} did not end:\n{out}\n{err}") from None
        if code is not None:
            assert process.returncode == code, f"mipfed {' '.join(arguments)}: {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def json(self, *arguments: str, code: int | None = 0) -> dict[str, Any]:
        """Run mipfed and return its JSON document."""
        document: dict[str, Any] = json.loads(self.run("-o", "json", *arguments, code=code).stdout)
        return document

    def ssh(self, host: str, command: str, check: bool = True, content: str | None = None) -> str:
        """Run a shell command on a machine, with something on its standard input, and return what it prints."""
        # A machine that was taken out of the inventory is none that mipfed knows the key of.
        trust = [] if host in self.hosts else ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        done = subprocess.run(
            [
                "ssh", *trust, "-i", str(INVENTORY / "ssh/id_ed25519"), "-o", f"UserKnownHostsFile={INVENTORY / 'known_hosts'}",
                "-o", "BatchMode=yes", "-o", f"ConnectTimeout={TIMEOUT}", f"root@{self.addresses[host]}", command,
            ],
            capture_output=True, text=True, check=False, timeout=300, input=content,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, f"{host}: {command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def variables(self, **changes: Any) -> None:
        """Change the federation's variables; dictionaries are merged. The fixture puts the file back after each test."""
        path = INVENTORY / "group_vars/all/main.yml"
        values = yaml.safe_load(path.read_text())
        for key, change in changes.items():
            if isinstance(change, dict):
                values[key] = {**(values.get(key) or {}), **change}
            else:
                values[key] = change
        path.write_text(yaml.safe_dump(values))

    def api(self, algorithm: str, **parameters: str) -> Any:
        """Ask the engine's API on the master."""
        body = json.dumps([{"name": name, "value": value} for name, value in parameters.items()]) if parameters else ""
        url = f"http://{self.hosts[self.master]}:9090/mining/query/{algorithm}"
        done = subprocess.run(["curl", "-sS", "-m", "10", "-X", "POST", "-d", body, url], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    def active_nodes(self) -> set[str]:
        """Return the nodes that the engine itself says are active."""
        return set(self.api("HEALTH_CHECK")["active_nodes"].split(", "))

    def all_active(self, seconds: float = 300, also: tuple[str, ...] = ()) -> bool:
        """Does the engine come to know all nodes, and no others, within so many seconds? A worker registers after its start."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(subprocess.CalledProcessError, KeyError, json.JSONDecodeError):
                if self.active_nodes() == {self.master, *self.workers, *also}:
                    return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(1)

    def whole(self) -> bool:
        """Does the federation run as its inventory says? Spares a deploy between tests that leave it so."""
        engine = yaml.safe_load((INVENTORY / "group_vars/all/main.yml").read_text())["mip_engine"]
        services = self.ssh(self.master, "docker service ls --format '{{.Name}} {{.Replicas}} {{.Image}}'", check=False).splitlines()
        images = {self.master + "_exareme-keystore": engine["keystore_image"], self.master + "_exareme-master": engine["image"]}
        images |= {f"{worker}_exareme": engine["image"] for worker in self.workers}
        if sorted(services) != sorted(f"{name} 1/1 {image}" for name, image in images.items()):
            return False
        # What was started a moment ago registers soon, which costs less than a deploy.
        return self.all_active(60)


def lab_command(*arguments: str) -> None:
    """Run `mipfed lab`; it must succeed."""
    done = subprocess.run(
        [str(MIPFED), "lab", *arguments, "--name", LAB], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Freshly booted machines: a master, a ui node and two hospitals. Removed afterwards.

    MIPFED_KEEP_LAB leaves them, as they are then, to the next run that has it as well.
    """
    if os.geteuid():
        pytest.skip("lab machines need root")
    if not (keep := bool(os.environ.get("MIPFED_KEEP_LAB"))):
        lab_command("down")
    if not (keep and (INVENTORY / "hosts.yml").exists()):
        lab_command("up", "--workers", "2")
    made = Lab(tmp_path_factory.mktemp("state"))
    # The tests ask the engine from here, which is the gateway of the machines' network.
    made.variables(mip_firewall={"engine_allow": [made.hosts[made.master].rpartition(".")[0] + ".1"]})
    yield made
    if not keep:
        lab_command("down")


@pytest.fixture
def lab(machines: Lab, tmp_path: Path) -> Iterator[Lab]:
    """The lab, with its inventory put back after the test."""
    kept = tmp_path / "inventory"
    shutil.copytree(INVENTORY, kept)
    yield machines
    for path in kept.rglob("*"):
        if path.is_file():
            target = INVENTORY / path.relative_to(kept)
            if not target.exists() or target.read_bytes() != path.read_bytes():
                shutil.copy2(path, target)


@pytest.fixture
def federation(lab: Lab) -> Lab:
    """The lab, deployed."""
    if not lab.whole():
        lab.run("deploy", "-y")
    return lab


@pytest.fixture
def portal(federation: Lab) -> Lab:
    """The lab with its portal and a Keycloak, which the federation does not use yet."""
    parts = {"portal": "ui.yml", "keycloak": "keycloak.yml"}
    if not all((INVENTORY / "group_vars/all" / name).exists() for name in parts.values()):
        lab_command("up", "--workers", "2", *(word for part in parts for word in ("--with", part)))
    return federation


@pytest.fixture
def power(machines: Lab) -> Iterator[Callable[[str, str], None]]:
    """Switch a machine of the lab off and on; it is on again after the test."""
    off: set[str] = set()

    def switch(name: str, state: str) -> None:
        module = ["ansible", "localhost", "-m", "hbp.mip.lab_machine_power", "-a", f"lab={LAB} machines={name} state={state}"]
        done = subprocess.run(module, cwd=ROOT, env=machines.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
        off.discard(name)
        if state != "on":
            off.add(name)

    yield switch
    for name in sorted(off):
        switch(name, "on")


#: The test that failed, by file, in files whose tests go on from one another.
broken: dict[Path, str] = {}


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", "in_order: each test of the file goes on from what the one before it has left")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test the time that a deploy needs on a busy machine: its fixtures count as well."""
    for item in items:
        if item.path.parent == Path(__file__).parent and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3600))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what cannot work any more."""
    if item.path in broken:
        pytest.skip(f"{broken[item.path]} failed")


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Take note of a failure."""
    if item.get_closest_marker("in_order") and call.excinfo and not isinstance(call.excinfo.value, pytest.skip.Exception):
        broken.setdefault(item.path, item.name)
