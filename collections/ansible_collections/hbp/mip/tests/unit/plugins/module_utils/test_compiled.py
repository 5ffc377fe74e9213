# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _compiled

FILES = {"a.csv": "aa", "b.csv": "bb"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "datasets.db").write_bytes(b"x" * 10)
    write(tmp_path)
    return tmp_path


def write(folder: Path, files: dict[str, str] | None = None, policy: str = "strict", metadata_only: bool = False) -> None:
    mark = _compiled.database_mark(str(folder / "datasets.db"))
    assert mark
    (folder / "datasets.db.json").write_bytes(
        _compiled.manifest_content("cc", FILES if files is None else files, policy, metadata_only, mark)
    )


def state(folder: Path, cdes: str = "cc", files: dict[str, str] | None = None, **more: Any) -> tuple[str, list[str]]:
    return _compiled.state(str(folder), cdes, FILES if files is None else files, **more)


def test_compiled(folder: Path) -> None:
    assert state(folder) == ("compiled", [])
    assert state(folder, policy="strict") == ("compiled", [])


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"cdes": "dd"}, ["CDEsMetadata.json was changed"]),
        ({"files": {"a.csv": "aa", "b.csv": "xx"}}, ["b.csv was changed"]),
        ({"files": {"a.csv": "aa"}}, ["b.csv is gone"]),
        ({"files": {**FILES, "c.csv": "cc"}}, ["c.csv is new"]),
        ({"files": {"c.csv": "aa"}}, ["a.csv is gone", "b.csv is gone", "c.csv is new"]),
        ({"policy": "legacy"}, ["another policy (strict, now legacy)"]),
        ({"metadata_only": True}, ["it has rows where only metadata belong"]),
    ],
)
def test_stale(folder: Path, changes: dict[str, Any], reasons: list[str]) -> None:
    assert state(folder, **changes) == ("stale", reasons)


def test_metadata_only_looks_at_no_file(folder: Path) -> None:
    write(folder, {}, metadata_only=True)
    assert state(folder, metadata_only=True) == ("compiled", [])
    assert state(folder, files={}, metadata_only=True) == ("compiled", [])
    assert state(folder) == ("stale", ["it has no rows"])


def test_another_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compiled, "COMPILER", "99")
    assert state(folder) == ("stale", ["another compiler (1, now 99)"])


def test_a_changed_database(folder: Path) -> None:
    os.utime(folder / "datasets.db", ns=(1, 1))
    assert state(folder) == ("stale", ["datasets.db was changed after it was compiled"])


def test_missing(tmp_path: Path) -> None:
    assert state(tmp_path) == ("missing", ["there is no datasets.db"])
    assert state(tmp_path / "none") == ("missing", ["there is no datasets.db"])


def test_no_plain_file(tmp_path: Path) -> None:
    (tmp_path / "datasets.db").symlink_to("/etc/passwd")
    assert state(tmp_path) == ("unknown", ["datasets.db is not a plain file"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100000,
        b'{"schema": 2}',
        b'{"schema": true}',
        json.dumps(
            {"schema": 1, "compiler": 1, "policy": "strict", "metadata_only": False, "cdes": "", "files": {}, "database": {}}
        ).encode(),
    ],
)
def test_a_strange_manifest(folder: Path, content: bytes) -> None:
    (folder / "datasets.db.json").write_bytes(content)
    assert state(folder) == ("unknown", ["datasets.db.json does not say what datasets.db was compiled from"])


def test_a_manifest_that_is_no_file(folder: Path) -> None:
    (folder / "datasets.db.json").unlink()
    assert state(folder)[0] == "unknown"
    os.mkfifo(folder / "datasets.db.json")
    assert state(folder)[0] == "unknown"
    (folder / "datasets.db.json").unlink()
    (folder / "datasets.db.json").symlink_to("elsewhere")
    assert state(folder)[0] == "unknown"
