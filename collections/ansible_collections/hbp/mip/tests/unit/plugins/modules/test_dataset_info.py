# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.tests.unit.plugins.modules.module_process import run_module

CANARY = "CANARY-4711-Smith"
CDES = {
    "code": "root",
    "variables": [{"code": "dataset", "sql_type": "text"}, {"code": "subjectcode", "sql_type": "text"}],
    "groups": [{"code": "g", "variables": [{"code": "age"}], "groups": [{"code": "h", "variables": [{"code": "score"}]}]}],
}


def make_database(path: Path, rows: dict[Any, int], journal: str = "DELETE") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA journal_mode = {journal}")
    connection.execute("CREATE TABLE METADATA(code TEXT PRIMARY KEY, label TEXT)")
    connection.execute("INSERT INTO METADATA VALUES('subjectcode', ?)", (CANARY,))
    connection.execute("CREATE TABLE DATA(dataset TEXT, subjectcode TEXT, age INT)")
    for code, count in rows.items():
        connection.executemany("INSERT INTO DATA VALUES(?, ?, ?)", [(code, f"{CANARY}-{n}", 987654321 + n) for n in range(count)])
    connection.commit()
    connection.close()


def make_pathology(folder: Path, name: str, rows: dict[Any, int]) -> Path:
    make_database(folder / name / "datasets.db", rows)
    (folder / name / "CDEsMetadata.json").write_text(json.dumps(CDES))
    return folder / name


def look(folder: Path, **more: Any) -> dict[str, Any]:
    before = snapshot(folder)
    result = run_module("dataset_info", {"data_dir": str(folder), **more})
    assert result["changed"] is False and not result.get("failed")
    assert snapshot(folder) == before, "looking must change nothing"
    assert CANARY not in json.dumps(result) and "987654321" not in json.dumps(result)
    return result


def snapshot(folder: Path) -> dict[str, Any]:
    found = {}
    for root, folders, files in os.walk(folder):
        for name in folders + files:
            path = os.path.join(root, name)
            status = os.lstat(path)
            found[path] = (status.st_mode, status.st_size if name in files else 0, status.st_mtime_ns)
    return found


def codes(result: dict[str, Any]) -> list[str]:
    return [problem["code"] for problem in result["problems"]]


def test_what_a_hospital_holds(tmp_path: Path) -> None:
    make_pathology(tmp_path, "dementia", {"edsd": 474, "small": 9, "ten": 10, "one": 1})
    make_pathology(tmp_path, "epilepsy", {})
    (tmp_path / "pathologies.json").write_text("[]")
    result = look(tmp_path)
    assert result["problems"] == [] and result["other_files"] == 1
    assert result["pathologies"]["dementia"]["datasets"] == {"edsd": 474, "one": "<10", "small": "<10", "ten": 10}
    assert result["codes"] == {"dementia": ["edsd", "one", "small", "ten"]}
    assert result["pathologies"]["epilepsy"]["database"] == "ok" and result["pathologies"]["epilepsy"]["datasets"] == {}
    content = (tmp_path / "dementia" / "CDEsMetadata.json").read_bytes()
    assert result["pathologies"]["dementia"]["cdes"] == {
        "present": True,
        "valid": True,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "variables": 4,
    }
    # a total beside the counts would give a hidden one away
    assert "493" not in json.dumps(result) and "494" not in json.dumps(result)


def test_missing_folder_and_files(tmp_path: Path) -> None:
    assert codes(look(tmp_path / "none")) == ["data-folder-missing"]
    assert look(tmp_path)["pathologies"] == {}
    (tmp_path / "dementia").mkdir()
    result = look(tmp_path)
    assert codes(result) == ["cdes-missing", "database-missing"] and result["pathologies"]["dementia"]["database"] == "missing"
    (tmp_path / "file").write_text("")
    assert codes(look(tmp_path / "file")) == ["data-folder-unusable"]


@pytest.mark.parametrize(
    ("content", "code", "state"),
    [
        (b"", "database-empty", "empty"),
        (b"SQLite format 3\x00" + b"\x00" * 84, "database-broken", "broken"),
        (b"not a database at all, but long enough to be looked at: " + CANARY.encode() * 20, "database-broken", "broken"),
    ],
)
def test_broken_databases(tmp_path: Path, content: bytes, code: str, state: str) -> None:
    path = make_pathology(tmp_path, "dementia", {"edsd": 20}) / "datasets.db"
    path.write_bytes(content)
    result = look(tmp_path)
    assert codes(result) == [code] and result["pathologies"]["dementia"]["database"] == state


def test_truncated_database(tmp_path: Path) -> None:
    path = make_pathology(tmp_path, "dementia", {"edsd": 5000}) / "datasets.db"
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size // 2)
    assert codes(look(tmp_path)) == ["database-broken"]


def test_other_databases(tmp_path: Path) -> None:
    path = make_pathology(tmp_path, "dementia", {}) / "datasets.db"
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE DATA(age INT)")
    connection.commit()
    assert codes(look(tmp_path)) == ["database-foreign"]
    connection.execute("DROP TABLE DATA")
    connection.commit()
    connection.close()
    assert "no table DATA" in look(tmp_path)["problems"][0]["message"]


def test_locked_database(tmp_path: Path) -> None:
    path = make_pathology(tmp_path, "dementia", {"edsd": 20}) / "datasets.db"
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    try:
        result = look(tmp_path)
        assert codes(result) == ["database-locked"] and result["pathologies"]["dementia"]["database"] == "locked"
    finally:
        writer.execute("ROLLBACK")
        writer.close()
    assert look(tmp_path)["problems"] == []


def test_write_ahead_log(tmp_path: Path) -> None:
    path = tmp_path / "dementia" / "datasets.db"
    make_database(path, {"edsd": 20}, journal="WAL")
    (tmp_path / "dementia" / "CDEsMetadata.json").write_text("{}")
    assert not path.with_name("datasets.db-wal").exists()
    result = look(tmp_path)
    assert result["problems"] == [] and result["codes"] == {"dementia": ["edsd"]}
    writer = sqlite3.connect(path)
    writer.execute("DELETE FROM DATA")
    writer.commit()
    try:
        assert codes(look(tmp_path)) == ["database-locked"]
    finally:
        writer.close()


def test_writer_that_was_cut_off(tmp_path: Path) -> None:
    path = make_pathology(tmp_path, "dementia", {"edsd": 2000}) / "datasets.db"
    script = (
        "import os, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('PRAGMA cache_size = 1'); c.execute('BEGIN')\n"
        "c.execute('UPDATE DATA SET age = age + 1'); os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert path.with_name("datasets.db-journal").exists()
    result = look(tmp_path)
    assert codes(result) == ["database-interrupted"] and result["codes"] == {}


def test_only_what_looks_like_a_code_is_told(tmp_path: Path) -> None:
    rows = {"edsd": 20, f"{CANARY} born 1950": 20, None: 20, "": 20, 17: 20, "a" * 65: 20, "-x": 20, "e\u00e9": 20}
    make_pathology(tmp_path, "dementia", rows)
    result = look(tmp_path)
    assert codes(result) == ["dataset-name"] and result["pathologies"]["dementia"]["datasets"]["edsd"] == 20
    assert "1950" not in json.dumps(result)
    assert sorted(result["pathologies"]["dementia"]["datasets"]) == ["17", "edsd"], "a column of type TEXT turns 17 into text"


def test_patients_instead_of_datasets(tmp_path: Path) -> None:
    make_pathology(tmp_path, "dementia", {f"patient{number}": 1 for number in range(1001)})
    result = look(tmp_path)
    assert codes(result) == ["datasets-implausible"] and "patient" not in json.dumps({**result, "invocation": None}).replace("patients", "")


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = make_pathology(tmp_path / "outside", "secret", {"hidden": 20})
    data = tmp_path / "data"
    make_pathology(data, "dementia", {"edsd": 20})
    (data / "epilepsy").symlink_to(outside)
    (data / "mental").mkdir()
    (data / "mental" / "datasets.db").symlink_to(outside / "datasets.db")
    (data / "mental" / "CDEsMetadata.json").symlink_to("../dementia/CDEsMetadata.json")
    result = look(data)
    assert sorted(codes(result)) == ["symlink", "symlink"] and result["codes"] == {"dementia": ["edsd"]}
    assert "hidden" not in json.dumps(result)
    assert result["pathologies"]["mental"]["cdes"]["valid"], "a link inside the data folder works in the container too"


@pytest.mark.parametrize("name", [".cache", "lost+found", "with space", "caf\u00e9", "-x", "a" * 65, "new\nline"])
def test_folders_that_are_no_pathologies(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    result = look(tmp_path)
    assert codes(result) == ["folder-name"] and result["pathologies"] == {}


def test_special_files(tmp_path: Path) -> None:
    path = make_pathology(tmp_path, "dementia", {})
    (path / "datasets.db").unlink()
    os.mkfifo(path / "datasets.db")
    (path / "CDEsMetadata.json").unlink()
    (path / "CDEsMetadata.json").mkdir()
    assert codes(look(tmp_path)) == ["file-unusable", "file-unusable"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"a": "' + CANARY.encode() + b'"', b"[" * 100000])
def test_broken_metadata(tmp_path: Path, content: bytes) -> None:
    path = make_pathology(tmp_path, "dementia", {"edsd": 20})
    (path / "CDEsMetadata.json").write_bytes(content)
    result = look(tmp_path)
    assert codes(result) == ["cdes-invalid"]
    assert result["pathologies"]["dementia"]["cdes"]["sha256"] == hashlib.sha256(content).hexdigest()


def test_odd_names_in_the_path(tmp_path: Path) -> None:
    folder = tmp_path / "a b?mode=rwc&x#%41"
    make_pathology(folder, "dementia", {"edsd": 20})
    assert look(folder)["codes"] == {"dementia": ["edsd"]}


def test_time_limit(tmp_path: Path) -> None:
    make_pathology(tmp_path, "dementia", {"edsd": 50000})
    result = look(tmp_path, seconds=0)
    assert codes(result) == ["database-slow"]
