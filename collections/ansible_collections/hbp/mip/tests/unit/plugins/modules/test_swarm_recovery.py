# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is found to be wrong with a member, from what its engine and its files say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _swarm
from ansible_collections.hbp.mip.plugins.modules.swarm_recovery import DAMAGED, began_later, judge, raft_log, treatments

NOW = 1_800_000_000.0
CERTIFICATE = _swarm.Certificate({"O": "c1", "CN": "n1", "OU": "swarm-manager"}, 0, int(NOW) + 1000)
RECORDED = {"cluster_id": "c1", "recorded_at": "2026-11-22T10:00:00Z", "manager": True}


def state(found: str, error: str = "", certificate: _swarm.Certificate | None = CERTIFICATE, **more: Any) -> _swarm.LocalState:
    """A node's state."""
    values: dict[str, Any] = {
        "state": found, "cluster_id": "" if found == "none" else "c1", "node_id": "n1", "node_addr": "10.0.0.1", "role": "manager",
        "error": error, "managers": ["10.0.0.1:2377"], "cluster": {"ID": "c1", "CreatedAt": "2026-11-22T09:59:59.1Z"},
        "certificate": certificate, "started_with": {},
    }  # fmt: skip
    return _swarm.LocalState(**{**values, **more})


@pytest.mark.parametrize(
    ("local", "wal", "journal", "finding"),
    [
        (state("manager"), "", "", "ok"),
        (state("none", role="", certificate=None), "", "", "state-lost"),
        (state("locked"), "", "", "locked"),
        (state("no-quorum", "The swarm does not have a leader"), "", "", "no-quorum"),
        (state("no-quorum", "context deadline exceeded"), "", "", "no-quorum"),
        (state("manager"), "has no log", "", "raft-damaged"),
        (state("error", "manager stopped: can't initialize raft node: irreparable WAL error: wal: crc mismatch"), "", "", "raft-damaged"),
        (state("no-quorum"), "", "tocommit(26) is out of range [lastIndex(7)]. Was the raft log corrupted", "raft-damaged"),
        (state("error", "something else"), "", "", "error"),
        (state("error", certificate=CERTIFICATE._replace(not_after=int(NOW) - 1)), "", "", "certificate-expired"),
        (state("error", "Swarm certificates have expired. To replace them, leave the swarm."), "", "", "certificate-expired"),
        (state("manager", cluster_id="c2"), "", "", "foreign-swarm"),
        (state("pending", role=""), "", "", "pending"),
        (state("manager", cluster={"ID": "c1", "CreatedAt": "2026-11-22T11:00:00Z"}), "", "", "state-new"),
    ],
)  # fmt: skip
def test_findings(local: _swarm.LocalState, wal: str, journal: str, finding: str) -> None:
    found, message = judge(local, wal, journal, [], RECORDED, NOW)
    assert found == finding
    assert message


def test_a_node_in_no_swarm_is_right_before_the_first_deploy() -> None:
    nothing = {"cluster_id": "", "recorded_at": "", "manager": True}
    assert judge(state("none", role="", certificate=None), "", "", [], nothing, NOW)[0] == "ok"
    assert judge(state("manager", cluster_id="c2"), "", "", [], nothing, NOW)[0] == "ok"


def test_managers_that_are_down_are_told() -> None:
    nodes = [
        {"role": "manager", "reachability": "reachable", "name": "a", "hostname": "a"},
        {"role": "manager", "reachability": "unreachable", "name": "b", "hostname": "b"},
    ]
    found, message = judge(state("manager"), "", "", nodes, RECORDED, NOW)
    assert found == "manager-down" and message.endswith(": b")


def test_nothing_is_forced_on_a_damaged_log() -> None:
    assert treatments("raft-damaged", "manager", True) == ["set_aside"]
    assert treatments("locked", "manager", True) == ["unlock"]
    assert treatments("certificate-expired", "manager", True) == ["force_new_cluster"]
    assert treatments("certificate-expired", "manager", False) == ["set_aside"]
    assert treatments("certificate-expired", "worker", True) == ["leave"]
    assert treatments("ok", "manager", True) == treatments("foreign-swarm", "manager", True) == []


def test_clocks_may_differ_by_minutes() -> None:
    assert not began_later("2026-11-22T10:01:30.123456Z", "2026-11-22T10:00:00Z")
    assert began_later("2026-11-22T10:03:00Z", "2026-11-22T10:00:00Z")
    assert not began_later("", "2026-11-22T10:00:00Z") and not began_later("2026-11-22T10:03:00Z", "")


def test_the_log_is_looked_at(tmp_path: Path) -> None:
    assert "has no log" in raft_log(str(tmp_path))
    folder = tmp_path / "swarm/raft/wal-v3-encrypted"
    folder.mkdir(parents=True)
    (folder / "0.wal").write_bytes(b"")
    assert "is empty" in raft_log(str(tmp_path))
    (folder / "0.wal").write_bytes(b"0123456789")
    assert raft_log(str(tmp_path)) == ""


def test_what_the_engine_says_of_damage_is_known() -> None:
    for text in ("wal: max entry size limit exceeded", "irreparable WAL error", "wal: crc mismatch", "snap: empty snapshot"):
        assert DAMAGED.search(text), text
    assert not DAMAGED.search("The swarm does not have a leader. It's possible that too few managers are online.")
