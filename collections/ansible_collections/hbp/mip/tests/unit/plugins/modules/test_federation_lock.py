# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _lock
from ansible_collections.hbp.mip.tests.unit.plugins.modules.module_process import result_of, run_module, start_module

ANNA = {"user": "anna", "host": "pusher", "pid": 4711, "command": "mipfed deploy"}
BERND = {"user": "bernd", "host": "pusher", "pid": 4712}


@pytest.fixture
def lock(tmp_path: Path) -> Any:
    def call(state: str, holder: dict[str, Any] | None = None, check: bool = False, **more: Any) -> dict[str, Any]:
        arguments = {"state": state, "federation": "lab", "directory": str(tmp_path / "mip"), **more}
        if holder is not None:
            arguments["holder"] = holder
        result = run_module("federation_lock", arguments, check=check)
        assert result["changed"] is False if not result.get("failed") else True
        return result

    return call


def lock_file(tmp_path: Path) -> Path:
    return tmp_path / "mip" / "lab" / "lock"


def test_take_and_give_back(lock: Any, tmp_path: Path) -> None:
    taken = lock("acquired", ANNA)
    assert taken["held"] and taken["mine"] and not taken["renewed"]
    assert taken["holder"] == ANNA
    assert lock_file(tmp_path).parent.stat().st_mode & 0o777 == 0o700
    assert lock_file(tmp_path).stat().st_mode & 0o777 == 0o600
    assert lock("shown", BERND)["held"] and not lock("shown", BERND)["mine"]
    given = lock("released", ANNA)
    assert not given["held"]
    assert not lock_file(tmp_path).exists()
    assert lock("released", ANNA)["notice"] == "nobody held the lock"


def test_refused_to_anybody_else(lock: Any) -> None:
    taken = lock("acquired", ANNA)
    refused = lock("acquired", BERND)
    assert refused["failed"] and refused["mip_error"] == "locked"
    assert refused["holder"] == ANNA and refused["nonce"] == taken["nonce"] and refused["since"] == taken["since"]
    assert "mipfed deploy by anna on pusher, process 4711" in refused["msg"]
    assert "mipfed -f lab lock release" in refused["msg"]
    not_given = lock("released", BERND)
    assert not_given["failed"] and not_given["mip_error"] == "locked"
    assert lock("shown")["nonce"] == taken["nonce"]
    forced = lock("released", BERND, force=True)
    assert not forced.get("failed") and "removed by force" in forced["notice"]
    assert lock("acquired", BERND)["mine"]


def test_taking_again_renews(lock: Any) -> None:
    first = lock("acquired", ANNA, lease=60)
    second = lock("acquired", ANNA, lease=7200)
    assert second["renewed"] and second["nonce"] == first["nonce"] and second["since"] == first["since"]
    assert second["expires"] > first["expires"]


def test_same_process_id_started_at_another_time_is_another_holder(lock: Any) -> None:
    lock("acquired", dict(ANNA, pid_start="100"))
    assert lock("acquired", dict(ANNA, pid_start="200"))["mip_error"] == "locked"


def test_lease_ends(lock: Any) -> None:
    lock("acquired", ANNA, lease=1)
    time.sleep(1.1)
    assert lock("shown")["expired"]
    taken = lock("acquired", BERND)
    assert taken["mine"] and taken["previous"]["holder"] == ANNA and "lease" in taken["notice"]
    assert lock("released", ANNA)["mip_error"] == "locked"


def test_dead_holder_is_taken_over_by_its_nonce_only(lock: Any) -> None:
    nonce = lock("acquired", ANNA)["nonce"]
    assert lock("acquired", BERND, dead_holder="0" * 32)["mip_error"] == "locked"
    taken = lock("acquired", BERND, dead_holder=nonce)
    assert taken["mine"] and taken["nonce"] != nonce
    assert "cut off" in taken["notice"] and taken["warnings"]
    # a third one that saw the first lock must not get the second one with it
    assert lock("acquired", {"id": "third"}, dead_holder=nonce)["mip_error"] == "locked"


def test_takeover_on_request(lock: Any) -> None:
    lock("acquired", ANNA)
    taken = lock("acquired", BERND, takeover=True)
    assert taken["mine"] and "on request" in taken["notice"]


@pytest.mark.parametrize("content", [b"", b"   \n", b"{", b"[]", b'{"nonce": "x"}', b"\xff\xfe\x00", b'{"expires_at": "soon"}'])
def test_damaged_file_is_explained_and_kept(lock: Any, tmp_path: Path, content: bytes) -> None:
    path = lock_file(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    seen = lock("shown")
    assert not seen["held"] and str(path) in seen["notice"]
    taken = lock("acquired", ANNA)
    assert taken["mine"] and str(path) in taken["notice"]
    assert path.with_name("lock.damaged").read_bytes() == content
    assert json.loads(path.read_text())["holder"] == ANNA


def test_damaged_file_can_be_given_back(lock: Any, tmp_path: Path) -> None:
    path = lock_file(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text("")
    assert "was removed" in lock("released", ANNA)["notice"]
    assert not path.exists()


def test_check_mode_writes_nothing(lock: Any, tmp_path: Path) -> None:
    assert lock("acquired", ANNA, check=True)["mine"]
    assert lock("released", ANNA, check=True)["notice"] == "nobody held the lock"
    assert not (tmp_path / "mip").exists()
    lock("acquired", ANNA)
    before = lock_file(tmp_path).read_bytes()
    assert lock("acquired", BERND, check=True)["mip_error"] == "locked"
    lock("acquired", ANNA, check=True, lease=1)
    lock("released", ANNA, check=True)
    assert lock_file(tmp_path).read_bytes() == before


def test_info_never_fails(lock: Any, tmp_path: Path) -> None:
    assert lock("shown")["held"] is False
    lock_file(tmp_path).mkdir(parents=True)
    unreadable = lock("shown")
    assert not unreadable.get("failed") and "cannot be read" in unreadable["notice"]
    (tmp_path / "mip" / "lab" / "lock").rmdir()
    (tmp_path / "mip" / "lab").rmdir()
    (tmp_path / "mip").rmdir()
    (tmp_path / "mip").write_text("a file")
    assert not lock("shown").get("failed")
    failed = lock("acquired", ANNA)
    assert failed["failed"] and str(tmp_path / "mip") in failed["msg"]


@pytest.mark.parametrize("federation", ["../lab", "a/b", "", ".", "-x", "a" * 64])
def test_bad_names(tmp_path: Path, federation: str) -> None:
    result = run_module("federation_lock", {"federation": federation, "holder": ANNA, "directory": str(tmp_path)})
    assert result["failed"] and result["mip_error"] == "configuration"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("holder", [{}, {"host": "a"}, {"pid": 1}, {"user": "anna"}])
def test_holder_must_be_known(lock: Any, holder: dict[str, Any]) -> None:
    assert "holder: give id" in lock("acquired", holder)["msg"]


def test_reboot_is_told(lock: Any, tmp_path: Path) -> None:
    lock("acquired", ANNA)
    path = lock_file(tmp_path)
    found = json.loads(path.read_text())
    found["boot_id"] = "another"
    path.write_text(json.dumps(found))
    seen = lock("shown")
    assert seen["rebooted"] and seen["held"]


def test_twenty_modules_at_once_one_wins(tmp_path: Path) -> None:
    processes = [
        start_module("federation_lock", {"federation": "lab", "directory": str(tmp_path), "holder": {"host": "pusher", "pid": pid}})
        for pid in range(1, 21)
    ]
    results = [result_of(process) for process in processes]
    winners = [result for result in results if not result.get("failed")]
    assert len(winners) == 1
    assert all(result["mip_error"] == "locked" and result["holder"] == winners[0]["holder"] for result in results if result.get("failed"))


def _race(directory: str, number: int, gate: Any, dead: str, queue: Any) -> None:
    gate.wait()
    try:
        _lock.FederationLock(directory).acquire({"id": str(number)}, 60, dead, False, False)
        queue.put(number)
    except _lock.Locked:
        queue.put(-1)


@pytest.mark.parametrize("state", ["free", "expired", "dead", "damaged"])
def test_twenty_processes_at_the_same_moment_one_wins(tmp_path: Path, state: str) -> None:
    directory = str(tmp_path / "lab")
    dead = ""
    if state in ("expired", "dead"):
        taken = _lock.FederationLock(directory).acquire(ANNA, 0.01 if state == "expired" else 60, "", False, False)
        time.sleep(0.02)
        dead = taken["lock"]["nonce"] if state == "dead" else ""
    if state == "damaged":
        os.makedirs(directory)
        Path(directory, "lock").write_text("")
    context = multiprocessing.get_context("fork")
    queue: Any = context.SimpleQueue()
    gate = context.Barrier(20)
    racers = [context.Process(target=_race, args=(directory, number, gate, dead, queue)) for number in range(20)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    results = [queue.get() for _unused in racers]
    winners = [number for number in results if number >= 0]
    assert len(winners) == 1
    found, damage = _lock.FederationLock(directory).read()
    assert not damage and found is not None and found["id"] == str(winners[0])
    assert sorted(os.listdir(directory)) in (["lock", "lock.guard"], ["lock", "lock.damaged", "lock.guard"])
