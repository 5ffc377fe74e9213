# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who holds the lock on which managers, and which managers were unlocked."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.plugin_utils._manager_reports import lock, unlock

FEDERATION = {
    "name": "lab",
    "nodes": [
        {"name": "ms", "kind": "master", "manager": True},
        {"name": "ui", "kind": "ui", "manager": False},
        {"name": "wk-1", "kind": "worker", "manager": True},
        {"name": "wk-2", "kind": "worker", "manager": True},
        {"name": "wk-3", "kind": "worker", "manager": False},
    ],
}


def seen(holder: str = "", **more: Any) -> dict[str, Any]:
    """The answer of federation_lock."""
    given = {"held": bool(holder), "holder": {"user": holder} if holder else {}, "since": "", "expires": "", "expired": False}
    return {"seen": {"changed": False, "rebooted": False, "notice": "", **given, **more}}


@pytest.mark.parametrize(
    ("answers", "held", "silent", "problems"),
    [
        ({"ms": seen(), "wk-1": seen(), "wk-2": seen()}, "", [], 0),
        ({"ms": seen(), "wk-1": seen("anna"), "wk-2": seen("anna")}, "anna", [], 0),
        # One that is left is enough to keep others out.
        ({"ms": seen(), "wk-1": seen(), "wk-2": seen("anna")}, "anna", [], 0),
        ({"wk-1": seen("anna"), "wk-2": seen("anna"), "ms": {}}, "anna", ["ms"], 0),
        ({"wk-1": seen(), "wk-2": seen(), "ms": {"seen": {"changed": False, "away": True, "msg": "No route to host"}}}, "", ["ms"], 0),
        ({"wk-2": seen()}, "", ["ms", "wk-1"], 1),
        ({}, "", ["ms", "wk-1", "wk-2"], 1),
    ],
)
def test_lock_of_several_managers(answers: dict[str, Any], held: str, silent: list[str], problems: int) -> None:
    report = lock(FEDERATION, {"released": False, "nodes": answers})
    assert (report["held"], report["holder"].get("user", ""), report["silent"]) == (bool(held), held, silent)
    assert [entry["name"] for entry in report["managers"]] == ["ms", "wk-1", "wk-2"]
    assert len(report["problems"]) == problems and report["ok"] == (not problems)


def test_released_lock_names_its_holder() -> None:
    gone = seen("anna", held=False, notice="the lock of mipfed deploy by anna was removed by force")
    report = lock(FEDERATION, {"released": True, "nodes": {"ms": seen(notice="nobody held the lock"), "wk-1": gone, "wk-2": gone}})
    assert not report["held"] and report["holder"] == {"user": "anna"} and "by anna" in report["notice"]


def test_unlocked_managers() -> None:
    nodes = {
        "ms": {"unlocked": {"changed": True, "local_state": "no-quorum"}, "now": {"local_state": "manager"}},
        "wk-1": {"unlocked": {"changed": False, "failed": True, "local_state": "locked", "msg": "none of 1 key unlocks this manager"}},
        "wk-2": {},
        "wk-3": {"unlocked": {"changed": False, "local_state": "worker"}},
        "ui": {},
    }
    report = unlock(FEDERATION, {"nodes": nodes})
    assert [(node["name"], node["state"]) for node in report["nodes"]] == [
        ("ms", "unlocked"), ("wk-1", "locked"), ("wk-2", "silent"), ("wk-3", "open"),
    ]  # fmt: skip
    assert report["unlocked"] == ["ms"]
    (entry,) = report["problems"]
    assert (entry["node"], entry["code"]) == ("wk-1", "swarm-locked") and "mipfed -f lab unlock" in entry["fix"]


def test_vault_that_cannot_be_read_is_told() -> None:
    nodes = {"ms": {"unlocked": {"changed": False, "failed": True, "mip_error": "configuration", "msg": "cannot be decrypted"}}}
    report = unlock(FEDERATION, {"nodes": nodes})
    assert report["problems"][0]["message"] == "cannot be decrypted" and not report["ok"]


def test_unlocked_without_a_majority_is_told() -> None:
    nodes = {"ms": {"unlocked": {"changed": True, "local_state": "no-quorum"}, "now": {"local_state": "no-quorum", "changed": False}}}
    assert unlock(FEDERATION, {"nodes": nodes})["problems"][0]["code"] == "swarm-no-quorum"
