# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The registry's process: started once, repaired when it died, stopped when asked."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils._lab_registry import Registry, process_start
from ansible_collections.hbp.mip.tests.helpers.modules import Result, run_module

pytestmark = pytest.mark.skipif(
    shutil.which("docker-registry") is None, reason="docker-registry is not installed (apt-get install docker-registry)"
)


class Lab:
    """The module's arguments, on an address that only this test uses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"127.{os.getpid() % 250 + 1}.{os.getpid() // 250 % 250}.9"

    def run(self, *, check: bool = False, **changes: Any) -> Result:
        return run_module("lab_registry", {"path": str(self.folder), "address": self.address, "port": 5009, **changes}, check=check)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path / "registry")
    yield made
    assert not made.run(state="absent").failed


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while process_start(pid) is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    return process_start(pid) is None


def test_check_apply_apply_check(lab: Lab) -> None:
    planned = lab.run(check=True)
    assert not lab.folder.exists()
    applied, again, checked = lab.run(), lab.run(), lab.run(check=True)
    assert [planned.changed, applied.changed, again.changed, checked.changed] == [True, True, False, False]
    assert applied["endpoint"] == f"{lab.address}:5009"
    assert applied["pid"] == again["pid"] > 0
    assert oct((lab.folder / "config.json").stat().st_mode & 0o777) == "0o600"
    # On this one address only.
    with pytest.raises(ConnectionRefusedError), socket.create_connection((f"{lab.address}9", 5009), 1):
        pass
    stopped = lab.run(state="absent", check=True), lab.run(state="absent"), lab.run(state="absent")
    assert [result.changed for result in stopped] == [True, True, False]
    assert gone(applied["pid"])


def test_dead_registry_is_started_again(lab: Lab) -> None:
    pid = lab.run()["pid"]
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    result = lab.run()
    assert result.changed
    assert result.msg == "registry restarted, it was dead"
    assert result["pid"] != pid


def test_silent_registry_is_replaced(lab: Lab) -> None:
    pid = lab.run()["pid"]
    os.kill(pid, signal.SIGSTOP)
    result = lab.run(timeout=6)
    assert result.msg == "registry restarted, it did not answer"
    assert gone(pid)


def test_pid_of_another_process_is_not_touched(lab: Lab) -> None:
    lab.folder.mkdir()
    (lab.folder / "registry.pid").write_text(f'{{"pid": {os.getpid()}, "start": "another boot:1"}}')
    assert lab.run(state="absent").changed
    assert not (lab.folder / "registry.pid").exists()


def test_new_port_restarts(lab: Lab) -> None:
    lab.run()
    result = lab.run(port=5010)
    assert result.msg == "registry restarted with a new configuration"
    assert result["endpoint"].endswith(":5010")


def test_taken_port_is_explained(lab: Lab) -> None:
    with socket.socket() as other:
        other.bind((lab.address, 5009))
        other.listen()
        result = lab.run()
    assert result.failed
    assert f"{lab.address}:5009 cannot be used: Address already in use" in result.msg


def test_address_that_this_host_does_not_have(lab: Lab) -> None:
    result = lab.run(address="192.0.2.1")
    assert result.failed
    assert "192.0.2.1:5009 cannot be used: Cannot assign requested address. The lab's bridge must have the address" in result.msg


def test_address_is_needed(lab: Lab) -> None:
    assert "no address to listen on" in lab.run(address="").msg


def test_start_that_fails_shows_the_last_of_the_log(lab: Lab) -> None:
    lab.folder.mkdir()
    registry = Registry(str(lab.folder), lab.address, 5009)
    config = registry.config()
    config["storage"]["filesystem"] = {"rootdirectory": "/proc/nowhere"}
    config["version"] = 9.9
    with pytest.raises(Exception, match=r"ended with code \d+\. Last of .*registry.log: .+"):
        registry._start(config, 10)
    assert registry.pid() is None
