# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Managers that are locked when they restart: switched on and off, unlocked, the key replaced, on real engines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.tests.helpers.engines import Engine, Engines, wait_for
from ansible_collections.hbp.mip.tests.helpers.modules import COLLECTIONS

from .conftest import call, refuse, succeed
from .test_recovery import join

pytestmark = pytest.mark.engine


def autolock(engine: Engine, state: str, *, check: bool = False, **more: Any) -> Any:
    """Run the module, which must not fail."""
    return succeed("swarm_autolock", engine, check=check, state=state, **more)


def locked(engine: Engine) -> bool:
    """Whether the engine waits for its key."""
    return bool(call("swarm_info", engine).data.get("local_state") == "locked")


def restart(engine: Engine) -> None:
    """Restart an engine and wait until it is locked."""
    engine.restart()
    wait_for(lambda: locked(engine), 60, f"{engine.name} is locked")


def test_locked_and_unlocked(alone: Engines) -> None:
    """Switched on once, locked after a restart, opened by the key alone, switched off again."""
    manager = alone[0]
    created = succeed("swarm_member", manager, init=True, role="manager", advertise_addr=manager.address)
    assert not autolock(manager, "known").changed
    assert not autolock(manager, "rotated").changed
    planned = autolock(manager, "enabled", check=True)
    assert planned.changed and "secret" not in planned and not autolock(manager, "known")["autolock"]
    first = autolock(manager, "enabled")
    key = first["secret"]["key"]
    assert first.changed and first["autolock"] and key.startswith("SWMKEY-1-")
    assert planned["diff"]["before"] == first["diff"]["before"] != first["diff"]["after"] and key not in str(first["diff"])
    again = autolock(manager, "enabled")
    assert not again.changed and again["secret"]["key"] == key
    assert not autolock(manager, "unlocked", known=[key]).changed

    restart(manager)
    assert "neither the vault has its unlock key" in refuse("swarm_autolock", manager, state="unlocked")
    wrong = "SWMKEY-1-" + "A" * 43
    message = refuse("swarm_autolock", manager, state="unlocked", known=[wrong])
    assert "none of 1 key unlocks" in message and wrong not in message and locked(manager)
    assert "mipfed unlock" in refuse("swarm_autolock", manager, state="enabled")
    assert autolock(manager, "unlocked", known=[wrong, key], check=True).changed and locked(manager)
    # A key of before comes second; one that is given counts first.
    opened = autolock(manager, "unlocked", known=[wrong, key])
    assert opened.changed and opened["local_state"] != "locked" and key not in opened.output
    assert not autolock(manager, "unlocked", unlock_key=key).changed

    state = wait_for(lambda: succeed("swarm_info", manager).data, 60, "the manager answers")
    assert state["local_state"] == "manager" and state["cluster_id"] == created["cluster_id"]
    refuse("swarm_autolock", manager, state="enabled", cluster_id="another")
    assert autolock(manager, "disabled").changed and not autolock(manager, "disabled").changed
    manager.restart()
    assert not locked(manager)


def test_key_replaced(alone: Engines) -> None:
    """The new key opens managers that took part; one that was off meanwhile needs the key of before, and the module says whose."""
    first, second, third = alone.engines
    succeed("swarm_member", first, init=True, role="manager", advertise_addr=first.address)
    for other in (second, third):
        join(first, other)
    old = autolock(first, "enabled")["secret"]["key"]
    # The key reaches the other managers' disks within moments, but not at once.
    restart_when_keyed(third, old)
    third.stop()
    wait_for(
        lambda: sum(node["reachability"] == "reachable" for node in succeed("swarm_info", first)["nodes"]) == 2, 60, "one manager away"
    )
    rotated = autolock(first, "rotated")
    new = rotated["secret"]["key"]
    assert rotated.changed and new != old and rotated["behind"] and old not in rotated.output.replace(new, "")
    third.start()
    wait_for(lambda: locked(third), 60, "the third is locked")
    refuse("swarm_autolock", third, state="unlocked", known=[new])
    assert autolock(third, "unlocked", known=[new, old]).changed
    wait_for(
        lambda: sum(node["reachability"] == "reachable" for node in succeed("swarm_info", first)["nodes"]) == 3, 90, "all managers work"
    )


def test_the_key_is_kept_in_the_vault(alone: Engines, tmp_path: Path) -> None:
    """As Ansible runs it: the key is in the encrypted file and in nothing that Ansible says; without a password nothing is done."""
    manager = alone[0]
    succeed("swarm_member", manager, init=True, role="manager", advertise_addr=manager.address)
    password, vault = tmp_path / "password", tmp_path / "state" / "unlock_key.vault"
    password.write_text("a password\n")

    def ansible(state: str, *options: str, path: Path = vault) -> tuple[dict[str, Any], str]:
        given = json.dumps({"state": state, "path": str(path), "docker_host": manager.docker_host})
        command = ["ansible", "localhost", "-c", "local", "-vvv", "-m", "hbp.mip.swarm_autolock", "-a", given, *options]
        environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1"}
        environment |= {"ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.oneline", "ANSIBLE_PYTHON_INTERPRETER": sys.executable}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
        line = next(line for line in done.stdout.splitlines() if line.startswith("localhost | "))
        answer: dict[str, Any] = json.loads(line[line.index("{") :])
        return {**answer, "failed": done.returncode != 0}, done.stdout + done.stderr

    refused, _unused = ansible("enabled")
    assert refused["failed"] and "needs a vault password" in refused["msg"]
    (tmp_path / "file").write_text("")
    refused, _unused = ansible("enabled", "--vault-password-file", str(password), path=tmp_path / "file" / "x.vault")
    assert refused["failed"] and "cannot be read: Not a directory" in refused["msg"]
    assert not autolock(manager, "known")["autolock"]

    done, said = ansible("enabled", "--vault-password-file", str(password))
    key = autolock(manager, "known")["secret"]["key"]
    assert done["changed"] and done["stored"] and done["autolock"] and key not in said and "secret" not in done
    assert vault.read_bytes().startswith(b"$ANSIBLE_VAULT") and key.encode() not in vault.read_bytes()
    again, _unused = ansible("enabled", "--vault-password-file", str(password))
    assert not again["changed"] and not again["stored"]
    # What a run that was cut off did not keep, the next one does.
    vault.unlink()
    repaired, _unused = ansible("enabled", "--vault-password-file", str(password))
    assert repaired["stored"] and repaired["changed"]

    restart(manager)
    opened, said = ansible("unlocked", "--vault-password-file", str(password))
    assert opened["changed"] and opened["local_state"] != "locked" and key not in said


def restart_when_keyed(engine: Engine, key: str) -> None:
    """Restart a manager until it comes back locked, and unlock it."""

    def comes_back_locked() -> bool:
        engine.restart()
        return bool(wait_for(lambda: (seen := call("swarm_info", engine).data.get("local_state")) and seen, 60, "it answers") == "locked")

    wait_for(comes_back_locked, 120, f"{engine.name} is locked")
    assert autolock(engine, "unlocked", known=[key]).changed
