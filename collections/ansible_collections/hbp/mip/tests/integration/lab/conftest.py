# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real lab machines, made by the modules themselves."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.tests.helpers.modules import Result, run_module


def succeed(module: str, *, check: bool = False, **arguments: Any) -> Result:
    """Run a module that must not fail."""
    result = run_module(module, arguments, check=check)
    assert not result.failed, result.msg
    return result


class Lab:
    """One lab, and what a test asks of it."""

    def __init__(self, name: str, base: str) -> None:
        self.name, self.base = name, base
        self.made: dict[str, Any] = {}

    def wanted(self, *names: str, **given: Any) -> dict[str, Any]:
        """Arguments of lab_machines for machines with these short names."""
        machines = [{"name": f"{self.name}-{name}", **given} for name in names]
        return {"lab": self.name, "base": self.base, "machines": machines, "host_ports": []}

    def up(self, *names: str, check: bool = False, **given: Any) -> Result:
        """Make the machines; nothing else is in the lab afterwards."""
        result = succeed("lab_machines", check=check, **self.wanted(*names, **given))
        self.made = {machine["name"].removeprefix(self.name + "-"): machine for machine in result["machines"]}
        self.key = result["lab"]["ssh_private_key_file"]
        return result

    def down(self) -> Result:
        """Remove the lab."""
        return succeed("lab_machines", lab=self.name, state="absent", host_ports=[])

    def power(self, state: str, *names: str) -> Result:
        """Switch machines."""
        return succeed("lab_machine_power", lab=self.name, machines=[f"{self.name}-{name}" for name in names], state=state)

    def info(self) -> dict[str, Any]:
        """How the machines are, by short name."""
        result = succeed("lab_info", lab=self.name)
        return {machine["name"].removeprefix(self.name + "-"): machine for machine in result["machines"]}

    def ssh(self, name: str, command: str, stdin: bytes | None = None, options: tuple[str, ...] = ()) -> str:
        """Output of a command in a machine, as root; its host key must be the one that the module returned."""
        done = self.try_ssh(name, command, stdin, options)
        assert done.returncode == 0, f"{name}: {command}: {done.stdout!r} {done.stderr!r}"
        return done.stdout.decode().strip()

    def try_ssh(
        self, name: str, command: str, stdin: bytes | None = None, options: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[bytes]:
        """The same, whatever comes of it."""
        machine = self.made[name]
        known = Path(self.key).parent / f"known_{name}"
        known.write_text(f"{machine['address']} {machine['host_key']}\n")
        arguments = ["-F", "/dev/null", "-i", self.key, "-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes"]
        arguments += ["-o", "BatchMode=yes", "-o", "ConnectTimeout=5", *options]
        return subprocess.run(
            ["ssh", *arguments, f"root@{machine['address']}", command], input=stdin or b"", capture_output=True, timeout=180, check=False
        )

    def boot_id(self, name: str) -> int:
        """The machine's pid 1 as this host sees it: another after each boot."""
        return int(self.info()[name]["pid"])


@pytest.fixture(scope="session")
def bases() -> Callable[..., str]:
    """A function that builds (or finds) a base and returns its path."""
    if os.geteuid():
        pytest.skip("lab machines need root")

    def base(suite: str = "bookworm", docker: bool = True) -> str:
        return str(succeed("lab_base", suite=suite, docker=docker)["base"]["path"])

    return base


@pytest.fixture(scope="module")
def lab(bases: Callable[..., str]) -> Iterator[Lab]:
    """A lab of two machines with Docker, for all tests of a module."""
    lab = Lab(f"it{os.getpid()}", bases())
    try:
        lab.up("a", "b")
        yield lab
    finally:
        lab.down()


@pytest.fixture
def empty_lab(bases: Callable[..., str]) -> Iterator[Lab]:
    """A lab that a test makes itself; removed afterwards."""
    lab = Lab(f"it{os.getpid()}e", bases())
    try:
        yield lab
    finally:
        lab.down()


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.2)
