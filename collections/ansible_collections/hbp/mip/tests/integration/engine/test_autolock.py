# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Managers that are locked when they restart: switched on and off, unlocked, the key replaced, on real engines."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.hbp.mip.tests.helpers.engines import Engine, Engines, wait_for

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
    # The keys reach the other managers' disks within moments, but not at once.
    for engine in (second, third):
        restart_when_keyed(engine, old)
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


def restart_when_keyed(engine: Engine, key: str) -> None:
    """Restart a manager until it comes back locked, and unlock it."""

    def comes_back_locked() -> bool:
        engine.restart()
        return bool(wait_for(lambda: (seen := call("swarm_info", engine).data.get("local_state")) and seen, 60, "it answers") == "locked")

    wait_for(comes_back_locked, 120, f"{engine.name} is locked")
    assert autolock(engine, "unlocked", known=[key]).changed
