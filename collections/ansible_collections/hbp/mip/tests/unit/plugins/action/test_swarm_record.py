# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The swarm that is remembered beside the inventory."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.hbp.mip.plugins.action.swarm_record import differs, read, write

NOTHING = {"cluster_id": "", "recorded_at": ""}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "state" / "swarm.json"
    assert read(path) == NOTHING
    known = {"cluster_id": "c1", "recorded_at": "2026-11-22T10:00:00Z"}
    write(path, known)
    assert read(path) == known
    assert [entry.name for entry in path.parent.iterdir()] == ["swarm.json"]
    for damaged in ("", "{", "[]", '"x"'):
        path.write_text(damaged)
        assert read(path) == NOTHING


def test_another_swarm_and_none_are_told_apart() -> None:
    assert differs("", "c1", "lab") == differs("c1", "c1", "lab") == differs("", "", "lab") == ""
    assert "is in the swarm c2" in differs("c1", "c2", "lab")
    lost = differs("c1", "", "lab")
    assert "lost its state" in lost and "mipfed -f lab recover" in lost
