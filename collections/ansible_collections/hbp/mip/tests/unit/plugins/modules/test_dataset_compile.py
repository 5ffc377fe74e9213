# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.hbp.mip.plugins.module_utils import _compile, _compile_database, _compile_rows, _compiled
from ansible_collections.hbp.mip.tests.unit.plugins.modules.compiled_database import canonical, cells, write_quirks
from ansible_collections.hbp.mip.tests.unit.plugins.modules.module_process import COLLECTIONS, run_module, start_module
from ansible_collections.hbp.mip.tests.unit.plugins.modules.test_host_modules_pythons import VERSIONS, interpreter

SAMPLES = COLLECTIONS.parent / "tests" / "samples"
GOLDEN = Path(__file__).with_name("golden_compile")
CANARY = "CANARY-4711-Smith"
ROOT = os.geteuid() == 0


def variable(code: str, sql_type: str = "text", *enumerations: str, **more: Any) -> dict[str, Any]:
    kind = "nominal" if enumerations else {"int": "integer"}.get(sql_type, sql_type)
    found = {"code": code, "label": f"The {code}", "sql_type": sql_type, "type": kind, "isCategorical": bool(enumerations), **more}
    if enumerations:
        found["enumerations"] = [{"code": name, "label": name.upper()} for name in enumerations]
    return found


AGE = variable("age", "int", minValue=0, maxValue=120)
VARIABLES = [
    variable("dataset", "text", "one", "two"),
    variable("subjectcode"),
    AGE,
    variable("kind", "text", "a", "b"),
    variable("r", "real"),
]
GOOD = "dataset,subjectcode,age,kind,r\n" + "".join(f"one,s{i},{i % 120},a,{i}.5\n" for i in range(20))


def cdes(name: str, variables: list[dict[str, Any]], **more: Any) -> str:
    return json.dumps({"code": name, "label": name, "version": "1", "variables": variables, **more})


def pathology(data: Path, name: str = "p", variables: list[dict[str, Any]] | None = None, more: Any = None, **files: Any) -> Path:
    folder = data / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "CDEsMetadata.json").write_text(cdes(name, variables or VARIABLES, **(more or {})), encoding="utf-8")
    for file, content in files.items():
        (folder / f"{file}.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def compile_here(data: Path, names: list[str] | None = None, **options: Any) -> _compile.Compiler:
    compiler = _compile.Compiler(str(data), _compile.Options(**options))
    compiler.run(names or [])
    return compiler


def clean(folder: Path) -> bool:
    """Whether there is nothing but inputs and results."""
    allowed = {"CDEsMetadata.json", "datasets.db", "datasets.db.json", "datasets.db.errors.txt"}
    return all(name in allowed or name.endswith(".csv") for name in os.listdir(folder))


def rows(folder: Path) -> list[list[Any]]:
    return [[value for _kind, value in row] for row in cells(folder / "datasets.db", "DATA")]


def rules(compiler: _compile.Compiler, name: str = "p") -> list[tuple[Any, ...]]:
    return [(item["file"], item["line"], item["column"], item["rule"]) for item in compiler.pathologies[name]["errors"]]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts and blocks so small that small files are parted."""
    monkeypatch.setattr(_compile, "SHARED_FROM", 1)
    monkeypatch.setattr(_compile, "LEAST_PIECE", 40)
    monkeypatch.setattr(_compile, "_MARK_EVERY", 20)
    monkeypatch.setattr(_compile, "_READ_BYTES", 64)
    monkeypatch.setattr(_compile_rows, "BLOCK_BYTES", 50)


# The same database as the legacy converter's.


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("name", ["dementia", "mentalhealth", "tbi", "quirks"])
def test_golden(tmp_path: Path, name: str, processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compile, "SHARED_FROM", 1)
    monkeypatch.setattr(_compile, "LEAST_PIECE", 1000)
    monkeypatch.setattr(_compile, "_MARK_EVERY", 500)
    if name == "quirks":
        write_quirks(tmp_path / name)
    else:
        shutil.copytree(SAMPLES / name, tmp_path / name)
    compiler = compile_here(tmp_path, processes=processes)
    assert compiler.problems == [] and compiler.pathologies[name]["state"] == "compiled" and compiler.changed
    golden = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    assert canonical(tmp_path / name / "datasets.db") == golden
    assert compiler.pathologies[name]["rows"] == golden["rows"]
    with sqlite3.connect(tmp_path / name / "datasets.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT max(rowid), count(*) FROM DATA").fetchone() == (golden["rows"],) * 2
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connection.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_golden_on_all_pythons(version: str, tmp_path: Path) -> None:
    python = interpreter(version)
    if not python:
        pytest.skip(f"no Python {version} on this machine")
    for name in ("dementia", "tbi"):
        shutil.copytree(SAMPLES / name, tmp_path / name)
    write_quirks(tmp_path / "quirks")
    result = run_module("dataset_compile", {"data_dir": str(tmp_path)}, python=python)
    for name in ("dementia", "tbi", "quirks"):
        assert result["pathologies"][name]["state"] == "compiled"
        assert canonical(tmp_path / name / "datasets.db") == json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


# The module's answers.


def test_compiles_what_has_changed(tmp_path: Path) -> None:
    pathology(tmp_path, "p", a=GOOD)
    pathology(tmp_path, "q", b=GOOD, c="dataset,age\ntwo,5\n")
    arguments = {"data_dir": str(tmp_path)}
    planned = run_module("dataset_compile", arguments, check=True, diff=True)
    assert planned["changed"] and {item["state"] for item in planned["pathologies"].values()} == {"would_compile"}
    assert clean(tmp_path / "p") and not (tmp_path / "p" / "datasets.db").exists()
    made = run_module("dataset_compile", arguments, diff=True)
    assert made["changed"] and made["pathologies"]["q"] == {
        "state": "compiled",
        "reasons": ["there is no datasets.db"],
        "seconds": made["pathologies"]["q"]["seconds"],
        "errors": [],
        "errors_total": 0,
        "rows": ">=21",
    }
    assert made["absent"] == [] and made["problems"] == [] and made["diff"] == planned["diff"]
    before = (tmp_path / "q" / "datasets.db").stat()[:7]
    again = run_module("dataset_compile", arguments, diff=True)
    assert not again["changed"] and again["pathologies"]["q"]["state"] == "unchanged" and again["pathologies"]["q"]["rows"] == ">=21"
    assert again["diff"] == [] and (tmp_path / "q" / "datasets.db").stat()[:7] == before
    (tmp_path / "q" / "c.csv").write_text("dataset,age\ntwo,6\n")
    third = run_module("dataset_compile", arguments, diff=True)
    assert [third["pathologies"][name]["state"] for name in "pq"] == ["unchanged", "compiled"]
    assert third["pathologies"]["q"]["reasons"] == ["c.csv was changed"] and len(third["diff"]) == 1
    assert third["diff"][0]["before"] != third["diff"][0]["after"]
    assert rows(tmp_path / "q")[-1] == ["two", None, 6, None, None]


def test_selection_and_force(tmp_path: Path) -> None:
    for name in "pqr":
        pathology(tmp_path, name, a=GOOD)
    assert list(compile_here(tmp_path, ["p", "r", "nosuch"]).pathologies) == ["p", "r"]
    again = compile_here(tmp_path, ["p", "nosuch"], force=True)
    assert again.absent == ["nosuch"] and again.pathologies["p"]["reasons"] == ["it was asked for (force)"] and again.changed
    assert compile_here(tmp_path, force=True, check=True).pathologies["p"]["state"] == "would_compile"
    assert compile_here(tmp_path, ["nosuch"]).pathologies == {}


def test_small_counts_are_not_told(tmp_path: Path) -> None:
    folder = pathology(tmp_path, a="dataset,age\n" + "one,1\n" * 9)
    assert compile_here(tmp_path).pathologies["p"]["rows"] == "<10"
    assert compile_here(tmp_path).pathologies["p"]["rows"] == "<10"
    (folder / "b.csv").write_text("dataset\ntwo\n")
    assert compile_here(tmp_path).pathologies["p"]["rows"] == ">=2"
    (folder / "c.csv").write_text("dataset,age\n" + "one,2\n" * 90)
    assert compile_here(tmp_path).pathologies["p"]["rows"] == ">=100"
    (folder / "b.csv").write_text("dataset\n" + "two\n" * 10)
    assert compile_here(tmp_path).pathologies["p"]["rows"] == 109
    (folder / "b.csv").write_text("dataset\n" + "two\n" * 4)
    assert compile_here(tmp_path).pathologies["p"]["rows"] == ">=100"
    assert compile_here(tmp_path).pathologies["p"]["rows"] == ">=100"
    assert "103" not in (folder / "datasets.db.json").read_text().replace("size", "").split("files")[0]


def test_metadata_only(tmp_path: Path) -> None:
    folder = pathology(tmp_path, a="no header at all, and wrong in every way")
    made = compile_here(tmp_path, metadata_only=True)
    assert made.pathologies["p"]["state"] == "compiled" and made.pathologies["p"]["rows"] == 0 and made.problems == []
    found = canonical(folder / "datasets.db")
    assert found["rows"] == 0 and [row[0] for row in found["metadata"]] == ["dataset", "subjectcode", "age", "kind", "r"]
    assert found["metadata"][0] == ["dataset", "The dataset", "text", 1, "one,two", None, None]
    assert not compile_here(tmp_path, metadata_only=True).changed
    assert compile_here(tmp_path).pathologies["p"]["reasons"] == ["it has no rows"]


def test_a_pathology_without_csv_files_gets_its_metadata(tmp_path: Path) -> None:
    folder = pathology(tmp_path)
    assert compile_here(tmp_path).pathologies["p"]["state"] == "compiled"
    assert canonical(folder / "datasets.db")["rows"] == 0


def test_empty_cells_and_missing_columns(tmp_path: Path) -> None:
    folder = pathology(tmp_path, a="kind,dataset,r,age\n,one,,\n", b="dataset\ntwo\n")
    assert compile_here(tmp_path).problems == []
    kinds = [[kind for kind, _value in row] for row in cells(folder / "datasets.db", "DATA")]
    assert kinds == [["text", "null", "null", "text", "null"], ["text", "null", "null", "null", "null"]]
    assert rows(folder) == [["one", None, None, "", None], ["two", None, None, None, None]]


@pytest.mark.parametrize("parameter", [{"processes": -1}, {"errors_shown": -1}, {"policy": "lax"}])
def test_wrong_parameters(tmp_path: Path, parameter: dict[str, Any]) -> None:
    assert run_module("dataset_compile", {"data_dir": str(tmp_path), **parameter})["failed"]


def test_no_data_folder(tmp_path: Path) -> None:
    result = run_module("dataset_compile", {"data_dir": str(tmp_path / "none"), "pathologies": ["p"]})
    assert result["problems"][0]["code"] == "data-folder-missing" and result["absent"] == ["p"] and not result["changed"]


# Errors, and what they leave alone.

BAD = """dataset,subjectcode,age,kind,r
one,s1,5,a,1
one,s2,5.0,c,x
three,,121,a,1e999
one,s3

,s4,1,a,
"""


def test_every_error_is_told(tmp_path: Path) -> None:
    folder = pathology(tmp_path, a=GOOD, b=BAD, c="dataset,nosuch\none,1\n")
    compiler = compile_here(tmp_path)
    found = compiler.pathologies["p"]
    assert found["state"] == "failed" and found["errors_total"] == 10 and "rows" not in found and not compiler.changed
    assert rules(compiler) == [
        ("b.csv", 3, "age", "type"),
        ("b.csv", 3, "kind", "enumeration"),
        ("b.csv", 3, "r", "type"),
        ("b.csv", 4, "dataset", "enumeration"),
        ("b.csv", 4, "subjectcode", "required"),
        ("b.csv", 4, "age", "range"),
        ("b.csv", 4, "r", "type"),
        ("b.csv", 5, "", "fields"),
        ("b.csv", 7, "dataset", "required"),
        ("c.csv", 1, "nosuch", "column-unknown"),
    ]
    assert compiler.problems[0]["code"] == "data-invalid" and "10 errors in b.csv, c.csv" in compiler.problems[0]["message"]
    told = (folder / "datasets.db.errors.txt").read_text()
    assert "b.csv:3:age: type: it is no integer: '5.0'\n" in told and told.endswith("\n10 errors in all\n")
    assert clean(folder) and not (folder / "datasets.db").exists() and not (folder / "datasets.db.json").exists()
    assert (folder / "datasets.db.errors.txt").stat().st_mode & 0o777 == 0o640
    few = compile_here(tmp_path, errors_shown=3).pathologies["p"]
    assert len(few["errors"]) == 3 and few["errors_total"] == 10
    assert compile_here(tmp_path, errors_shown=0).pathologies["p"]["errors"] == []
    (folder / "b.csv").unlink()
    (folder / "c.csv").unlink()
    assert compile_here(tmp_path).pathologies["p"]["state"] == "compiled" and not (folder / "datasets.db.errors.txt").exists()


def test_no_value_leaves_the_node(tmp_path: Path) -> None:
    """Whatever is wrong, no cell is in the answer, in the diff or in the output; the file on the node has them."""
    wrong = [
        f"dataset,subjectcode,age,kind,r\none,{CANARY},{CANARY},{CANARY},{CANARY}\n{CANARY},{CANARY}\n{CANARY},,,,\n",
        f"{CANARY},{CANARY}\n{CANARY},1\n",
        f"dataset,{CANARY}\none,{CANARY}\n",
        f'dataset,subjectcode\none,"{CANARY}"{CANARY}\n',
        f'dataset,subjectcode\none,"{CANARY}',
        f"dataset,subjectcode\none,{CANARY}\0\n",
        f"dataset\n{CANARY}\n",
        f"subjectcode\n{CANARY}\n",
    ]
    for number, content in enumerate(wrong):
        pathology(tmp_path, f"p{number}", a=content)
    (tmp_path / "p0" / "b.csv").write_bytes(f"dataset,subjectcode\none,{CANARY}\xff\n".encode("latin-1"))
    for policy in ("strict", "legacy"):
        result = run_module("dataset_compile", {"data_dir": str(tmp_path), "policy": policy}, diff=True)
        assert CANARY not in json.dumps(result)
        for number in range(7):
            expected = "compiled" if policy == "legacy" and number == 6 else "failed"
            assert result["pathologies"][f"p{number}"]["state"] == expected
    assert CANARY in (tmp_path / "p0" / "datasets.db.errors.txt").read_text()


def test_a_bad_file_leaves_the_others_and_the_old_database(tmp_path: Path) -> None:
    folder = pathology(tmp_path, "p", a=GOOD)
    pathology(tmp_path, "q", a=GOOD)
    compile_here(tmp_path)
    before = ((folder / "datasets.db").read_bytes(), (folder / "datasets.db.json").read_bytes())
    (folder / "a.csv").write_text(BAD)
    (tmp_path / "q" / "b.csv").write_text("dataset\ntwo\n")
    compiler = compile_here(tmp_path)
    assert [compiler.pathologies[name]["state"] for name in "pq"] == ["failed", "compiled"]
    assert ((folder / "datasets.db").read_bytes(), (folder / "datasets.db.json").read_bytes()) == before
    assert compiler.changed and ["/q/" in diff["before_header"] for diff in compiler.diff] == [True]
    assert compile_here(tmp_path).pathologies["p"]["reasons"] == ["a.csv was changed"]
    assert (folder / "datasets.db.errors.txt").exists()
    (folder / "a.csv").write_text(GOOD)
    assert compile_here(tmp_path).pathologies["p"]["state"] == "unchanged" and not (folder / "datasets.db.errors.txt").exists()


def test_policy_legacy_is_about_enumerations_and_ranges_only(tmp_path: Path) -> None:
    folder = pathology(tmp_path, a="dataset,age,kind\nthree,121,zzz\n")
    assert [rule for *_place, rule in rules(compile_here(tmp_path))] == ["enumeration", "range", "enumeration"]
    assert compile_here(tmp_path, policy="legacy").pathologies["p"]["state"] == "compiled"
    assert rows(folder) == [["three", None, 121, "zzz", None]]
    assert compile_here(tmp_path).pathologies["p"]["reasons"] == ["another policy (legacy, now strict)"]
    (folder / "a.csv").write_text("dataset,age,kind\nth ree,1.0,zzz\none,,,\n,,\n")
    found = [rule for *_place, rule in rules(compile_here(tmp_path, policy="legacy"))]
    assert found == ["dataset-code", "type", "fields", "required"]


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("", "unreadable"),
        ("{", "unreadable"),
        ("[]", "unreadable"),
        (b"\xff\xfe", "unreadable"),
        (cdes("p", [variable("age", "int")]), "dataset-missing"),
        (cdes("p", [*VARIABLES, AGE]), "variable-duplicate"),
        (cdes("p", [*VARIABLES, variable("AGE")]), "variable-duplicate"),
        (cdes("p", [*VARIABLES, variable("x", "integer")]), "sql-type"),
        (cdes("p", [*VARIABLES, variable("x); DROP TABLE DATA; --")]), "variable-code"),
    ],
)
def test_wrong_metadata(tmp_path: Path, content: str | bytes, rule: str) -> None:
    folder = pathology(tmp_path, a=GOOD)
    (folder / "CDEsMetadata.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    compiler = compile_here(tmp_path)
    assert rules(compiler)[0][0] == "CDEsMetadata.json" and rules(compiler)[0][3] == rule
    assert compiler.problems[0]["code"] == "cdes-invalid" and compiler.pathologies["p"]["errors_total"]
    assert clean(folder) and (folder / "datasets.db.errors.txt").exists()


def test_longitudinal(tmp_path: Path) -> None:
    variables = [*VARIABLES, variable("subjectid"), variable("visitid", "text", "BL", "FL1")]
    first = "dataset,subjectid,visitid\none,s1,BL\none,s1,FL1\n\none,s2,BL\none,s1,BL\none,s1,BL\n"
    folder = pathology(tmp_path, variables=variables, more={"longitudinal": True}, a=first, b="dataset,subjectid,visitid\ntwo,s1,BL\n")
    compiler = compile_here(tmp_path)
    assert rules(compiler) == [("a.csv", 6, "visitid", "visit-duplicate"), ("a.csv", 7, "visitid", "visit-duplicate")]
    assert compiler.pathologies["p"]["errors"][0]["message"] == "subjectid and visitid are those of line 2"
    (folder / "a.csv").write_text("dataset,subjectid,visitid\none,,BL\none,s1,\n")
    assert [rule for *_place, rule in rules(compile_here(tmp_path))] == ["required", "required"]
    (folder / "a.csv").write_text("dataset,subjectid\none,s1\n")
    assert rules(compile_here(tmp_path)) == [("a.csv", 1, "visitid", "column-missing")]
    (folder / "a.csv").write_text(first[: first.index("one,s2")])
    assert compile_here(tmp_path).pathologies["p"]["state"] == "compiled" and len(rows(folder)) == 3
    with sqlite3.connect(folder / "datasets.db") as connection:
        assert {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")} == {"DATA", "METADATA"}
    connection.close()


def test_longitudinal_in_parts(tmp_path: Path, small: None) -> None:
    variables = [*VARIABLES, variable("subjectid"), variable("visitid", "text", "BL", "FL1")]
    content = "dataset,subjectid,visitid\n" + "".join(f"one,s{i},BL\n" for i in range(100)) + "one,s3,BL\n"
    folder = pathology(tmp_path, variables=variables, more={"longitudinal": True}, a=content)
    assert rules(compile_here(tmp_path, processes=4)) == [("a.csv", 102, "visitid", "visit-duplicate")]
    (folder / "a.csv").write_text(content.replace("one,s3,BL\n", "", 1))
    assert compile_here(tmp_path, processes=4).pathologies["p"]["rows"] == 100 and clean(folder)


# Names, links and other things that are no data.


def test_names_and_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.csv").write_text(GOOD)
    data = tmp_path / "data"
    pathology(data, "a", good=GOOD)
    (data / "a" / "z.csv").symlink_to(outside / "x.csv")
    pathology(data, "b", good=GOOD)
    (data / "b" / "z.csv").symlink_to("good.csv")
    pathology(data, "c", good=GOOD)
    (data / "c" / "z.csv").mkdir()
    pathology(data, "d", good=GOOD)
    (data / "d" / ".hidden.csv").write_text("nothing")
    (data / "d" / "OTHER.CSV").write_text("nothing")
    pathology(data, "e", good=GOOD)
    (data / "e" / "a b.csv").write_text(GOOD)
    pathology(data, "f", good=GOOD)
    os.mkfifo(data / "f" / "z.csv")
    pathology(data, "g", good=GOOD)
    (data / "g" / "datasets.db").symlink_to(outside / "datasets.db")
    pathology(data, "h", good=GOOD)
    (data / "h" / "z.csv").symlink_to("nowhere.csv")
    pathology(data, "i", good=GOOD)
    (data / "i" / "CDEsMetadata.json").unlink()
    pathology(data, "j k", good=GOOD)
    (data / "link").symlink_to(outside)
    (data / "file").write_text("")
    compiler = compile_here(data)
    assert {name: item["state"] for name, item in compiler.pathologies.items()} == {
        **dict.fromkeys("acefghi", "failed"),
        **dict.fromkeys("bd", "compiled"),
    }
    assert compiler.pathologies["b"]["rows"] == 40 and compiler.pathologies["d"]["rows"] == 20
    codes = {(problem["pathology"], problem["code"]) for problem in compiler.problems}
    assert codes == {
        ("a", "symlink"),
        ("c", "file-unusable"),
        ("e", "file-name"),
        ("f", "file-unusable"),
        ("g", "database-unusable"),
        ("h", "file-unusable"),
        ("i", "cdes-missing"),
        ("", "folder-name"),
        ("", "symlink"),
    }
    assert not (outside / "datasets.db").exists() and all(clean(data / name) for name in "acghi")


def test_owner_and_mode(tmp_path: Path) -> None:
    folder = pathology(tmp_path, a=GOOD)
    if ROOT:
        os.chown(folder, 1234, 2345)
    compile_here(tmp_path)
    for name in ("datasets.db", "datasets.db.json"):
        status = (folder / name).stat()
        assert status.st_mode & 0o7777 == 0o640
        assert not ROOT or (status.st_uid, status.st_gid) == (1234, 2345)
    (folder / "datasets.db").chmod(0o604)
    if ROOT:
        os.chown(folder / "datasets.db", 11, 22)
    compile_here(tmp_path, force=True)
    status = (folder / "datasets.db").stat()
    assert status.st_mode & 0o7777 == 0o604 and (not ROOT or (status.st_uid, status.st_gid) == (11, 22))
    (folder / "a.csv").write_text(BAD)
    compile_here(tmp_path)
    assert not ROOT or (folder / "datasets.db.errors.txt").stat().st_uid == 1234


def test_a_database_of_the_legacy_converter_is_replaced(tmp_path: Path) -> None:
    folder = pathology(tmp_path, a=GOOD)
    for content in (b"", b"no database", b"SQLite format 3\0" + b"\0" * 200):
        (folder / "datasets.db").write_bytes(content)
        compiler = compile_here(tmp_path)
        assert compiler.pathologies["p"]["state"] == "compiled" and len(rows(folder)) == 20
        (folder / "datasets.db.json").unlink()


def test_a_broken_database_is_made_again(tmp_path: Path) -> None:
    folder = pathology(tmp_path, a=GOOD)
    compile_here(tmp_path)
    status = (folder / "datasets.db").stat()
    (folder / "datasets.db").write_bytes(b"\0" * status.st_size)
    os.utime(folder / "datasets.db", ns=(status.st_atime_ns, status.st_mtime_ns))
    compiler = compile_here(tmp_path)
    assert compiler.pathologies["p"]["reasons"] == ["datasets.db cannot be read"] and len(rows(folder)) == 20


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_what_a_killed_writer_left(tmp_path: Path, mode: str) -> None:
    """A journal or log beside the old database must not get into the new one."""
    folder = pathology(tmp_path, a=GOOD)
    database = folder / "datasets.db"
    script = (
        f"import os, sqlite3; c = sqlite3.connect({str(database)!r}, isolation_level=None); c.execute('PRAGMA journal_mode={mode}'); "
        "c.execute('CREATE TABLE DATA(x)'); c.execute('PRAGMA cache_size=1'); c.execute('BEGIN'); "
        "c.executemany('INSERT INTO DATA VALUES(?)', [('x' * 1000,)] * 2000); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    assert any((folder / f"datasets.db{end}").exists() for end in ("-journal", "-wal"))
    assert compile_here(tmp_path).pathologies["p"]["state"] == "compiled"
    assert clean(folder) and len(rows(folder)) == 20


def test_a_database_that_is_being_written_is_left(tmp_path: Path) -> None:
    folder = pathology(tmp_path, a=GOOD)
    with contextlib.closing(sqlite3.connect(folder / "datasets.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE x(y)")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO x VALUES(1)")
        compiler = compile_here(tmp_path)
        assert compiler.problems[0]["code"] == "database-locked" and compiler.pathologies["p"]["state"] == "failed"
        connection.execute("COMMIT")
        assert connection.execute("SELECT count(*) FROM x").fetchone() == (1,)
    assert compile_here(tmp_path).pathologies["p"]["state"] == "compiled"


def test_two_at_once(tmp_path: Path) -> None:
    folder = pathology(tmp_path, a=GOOD)
    (folder / "datasets.db.tmp-1-3").write_text("left by a killed run")
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert compile_here(tmp_path).problems[0]["code"] == "busy"
    assert (folder / "datasets.db.tmp-1-3").exists()
    os.close(descriptor)
    assert compile_here(tmp_path).pathologies["p"]["state"] == "compiled" and clean(folder)


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process that is alive has made is left alone; what links there are is not followed."""
    folder = pathology(tmp_path, a=GOOD)
    finished = subprocess.Popen(["true"])
    finished.wait()
    target = tmp_path / "target"
    target.write_text("kept")
    (folder / f"datasets.db.tmp-{finished.pid}").symlink_to(target)
    (folder / f"datasets.db.tmp-{os.getppid()}-1").write_text("at work")
    monkeypatch.setattr(_compile, "_alive", lambda pid: pid == os.getppid())

    def none(_descriptor: int, _operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    assert compile_here(tmp_path).pathologies["p"]["state"] == "compiled"
    assert [name for name in os.listdir(folder) if ".tmp-" in name] == [f"datasets.db.tmp-{os.getppid()}-1"]
    assert target.read_text() == "kept"
    monkeypatch.undo()
    assert compile_here(tmp_path).pathologies["p"]["state"] == "unchanged" and clean(folder)
    (folder / f"datasets.db.tmp-{os.getpid()}").mkdir()
    assert compile_here(tmp_path, force=True).problems[0]["code"] == "file-unusable"
    assert _compile._alive(os.getpid()) is False and _compile._alive(finished.pid) is False


def test_a_file_that_changes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pathology(tmp_path, a=GOOD)
    survey = _compile._survey

    def meddle(files: Any) -> Any:
        found = survey(files)
        with (folder / "a.csv").open("a") as stream:
            stream.write("two,t,1,a,1\n")
        return found

    monkeypatch.setattr(_compile, "_survey", meddle)
    compiler = compile_here(tmp_path)
    assert compiler.problems[0]["code"] == "file-changed" and clean(folder) and not (folder / "datasets.db").exists()


def test_more_columns_than_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite before 3.32 takes 999 parameters; then values are quoted."""
    monkeypatch.setattr(_compile_database, "MOST_PARAMETERS", 3)
    nasty = "x'); DELETE FROM DATA; --"
    folder = pathology(tmp_path, a=f"dataset,subjectcode,age,kind,r\none,\"{nasty}\",7,,2.5\none,'''',,a,\n")
    assert compile_here(tmp_path).problems == []
    found = cells(folder / "datasets.db", "DATA")
    assert found[0] == [["text", "one"], ["text", nasty], ["integer", 7], ["text", ""], ["real", "2.5"]]
    assert found[1] == [["text", "one"], ["text", "''''"], ["null", None], ["text", "a"], ["null", None]]


def test_two_thousand_columns(tmp_path: Path) -> None:
    names = [f"v{number}" for number in range(1999)]
    content = ",".join(["dataset", *names]) + "\n" + ("one" + ",1" * 1999 + "\n") * 12
    folder = pathology(tmp_path, variables=[VARIABLES[0], *(variable(name, "int") for name in names)], a=content)
    assert compile_here(tmp_path).pathologies["p"]["rows"] == 12
    with contextlib.closing(sqlite3.connect(folder / "datasets.db")) as connection:
        assert connection.execute("SELECT * FROM DATA").fetchall()[11] == ("one", *[1] * 1999)


# Processes.


def test_parts_are_merged_in_order(tmp_path: Path, small: None) -> None:
    contents = {
        name: "dataset,age,subjectcode\r\n" + "".join(f"one,{i % 100},{name}{i}\r\n" for i in range(n))
        for name, n in (("a", 30), ("c", 200))
    }
    quoted = "subjectcode,dataset\n" + "".join(f'"b\n{i}",two\n' for i in range(100))
    folder = pathology(tmp_path, b=quoted, d="dataset,subjectcode\n", e="dataset,subjectcode\none,last", **contents)
    assert compile_here(tmp_path, processes=5).problems == []
    expected = [f"a{i}" for i in range(30)] + [f"b\n{i}" for i in range(100)] + [f"c{i}" for i in range(200)] + ["last"]
    assert [row[1] for row in rows(folder)] == expected
    (folder / "c.csv").write_text(contents["c"].replace("one,50,c150", "one,500,c150"), newline="")
    assert rules(compile_here(tmp_path, processes=5)) == [("c.csv", 152, "age", "range")]
    (folder / "c.csv").write_text("dataset,wrong\n" + "x,y\n" * 500)
    assert rules(compile_here(tmp_path, processes=5)) == [("c.csv", 1, "wrong", "column-unknown")]


def test_what_a_child_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pathology(tmp_path, a=GOOD)
    pathology(tmp_path, "q", a=GOOD)
    finish = _compile._Plan.finish
    for failure, code in [
        (lambda: os.kill(os.getpid(), 9), "process-ended"),
        (lambda: int(CANARY), "internal"),
        (lambda: bytearray(1 << 60), "memory"),
        (lambda: os.open("/nonexistent", os.O_RDONLY), "file-unusable"),
    ]:

        def fail(self: Any, *arguments: Any, failure: Any = failure) -> Any:
            if "/p/" in self.temporary:
                failure()
            return finish(self, *arguments)

        monkeypatch.setattr(_compile._Plan, "finish", fail)
        compiler = compile_here(tmp_path, force=True)
        assert [problem["code"] for problem in compiler.problems] == [code] and CANARY not in json.dumps(compiler.problems)
        assert [compiler.pathologies[name]["state"] for name in "pq"] == ["failed", "compiled"]
        assert clean(folder) and not (folder / "datasets.db").exists()


SLOW = """
import sys, time
sys.path.insert(0, {collections!r})
from ansible_collections.hbp.mip.plugins.module_utils import _compile, _compile_rows, _children
_compile.SHARED_FROM, _compile.LEAST_PIECE, _compile._MARK_EVERY, _compile_rows.BLOCK_BYTES = 1, 1000, 500, 300
wanted = _children.still_wanted
def slowly():
    wanted()
    time.sleep(0.004)
_children.still_wanted = slowly
replace = _compile.os.replace
def replaced(*names):
    time.sleep(0.05)
    replace(*names)
    time.sleep(0.05)
_compile.os.replace = replaced
print("ready", flush=True)
try:
    compiler = _compile.Compiler({data!r}, _compile.Options(processes=3))
    compiler.run([])
except _children.Ended as ended:
    sys.exit(100 + ended.number)
"""


@contextlib.contextmanager
def slow_run(data: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that takes about half a second, in a session of its own."""
    script = SLOW.format(collections=str(COLLECTIONS), data=str(data))
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}

    def default() -> None:
        # Tests that run in the background ignore these, and their children inherit that.
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)

    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment, preexec_fn=default
    )
    try:
        assert process.stdout and process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def members(session: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.getsid(int(name)) == session and Path(f"/proc/{name}/stat").read_text().rsplit(")")[-1][1] != "Z":
                found.append(int(name))
    return found


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """A pathology with a database in service, and with a changed file."""
    folder = pathology(tmp_path, a=GOOD)
    compile_here(tmp_path)
    lines = "".join(f"two,s{i},{i % 100},b,{i}\n" for i in range(2000))
    (folder / "b.csv").write_text("dataset,subjectcode,age,kind,r\n" + lines)
    return folder


def gone(session: int) -> bool:
    deadline = time.monotonic() + 10
    while members(session) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not members(session)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_ended_by_a_signal(interrupted: Path, number: int) -> None:
    before = (interrupted / "datasets.db").read_bytes()
    with slow_run(interrupted.parent) as process:
        time.sleep(0.2)
        process.send_signal(number)
        assert process.wait(20) == 100 + number
        assert gone(process.pid), "no child stays"
    assert clean(interrupted) and (interrupted / "datasets.db").read_bytes() == before
    assert compile_here(interrupted.parent).pathologies["p"]["state"] == "compiled" and len(rows(interrupted)) == 2020


def test_the_module_ends_as_the_signal_says(tmp_path: Path) -> None:
    folder = pathology(tmp_path, a="dataset,subjectcode,age,kind,r\n" + "one,subject,50,a,1.25\n" * 1000000)
    process = start_module("dataset_compile", {"data_dir": str(tmp_path), "processes": 1})
    deadline = time.monotonic() + 60
    while clean(folder) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (-signal.SIGTERM, "", "")
    assert clean(folder) and not (folder / "datasets.db").exists()


def test_killed_at_any_moment(interrupted: Path) -> None:
    """Kill -9: the old database or the new one is in service, always complete; the next run makes it right."""
    before = (interrupted / "datasets.db").read_bytes()
    manifest = (interrupted / "datasets.db.json").read_bytes()
    chance = random.Random(1)
    seen = set()
    for _attempt in range(14):
        with slow_run(interrupted.parent) as process:
            time.sleep(chance.uniform(0, 1.1))
            process.kill()
            process.wait(20)
            assert gone(process.pid), "children end when their parent is killed"
        count = len(rows(interrupted))
        seen.add(count)
        assert count in (20, 2020)
        with contextlib.closing(sqlite3.connect(interrupted / "datasets.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        compile_here(interrupted.parent)
        assert clean(interrupted) and len(rows(interrupted)) == 2020
        assert compile_here(interrupted.parent).pathologies["p"]["state"] == "unchanged"
        (interrupted / "datasets.db").write_bytes(before)
        (interrupted / "datasets.db.json").write_bytes(manifest)
    assert 20 in seen


@pytest.mark.skipif(not ROOT, reason="mounts a small file system")
@pytest.mark.parametrize("room", [1200, 2200])
def test_a_full_disk(tmp_path: Path, room: int) -> None:
    data = tmp_path / "data"
    data.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}k", "none", str(data)], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        folder = pathology(data, a=GOOD)
        compile_here(data)
        before = (folder / "datasets.db").read_bytes()
        lines = "".join(f"two,subject-{i:08d},{i % 100},b,{i}.5\n" for i in range(30000))
        (folder / "b.csv").write_text("dataset,subjectcode,age,kind,r\n" + lines[: (room - 250) * 1024].rsplit("\n", 1)[0])
        for processes in (1, 2):
            compiler = compile_here(data, processes=processes)
            assert [problem["code"] for problem in compiler.problems] == ["disk-full"], compiler.problems
            assert clean(folder) and (folder / "datasets.db").read_bytes() == before
    finally:
        subprocess.run(["umount", str(data)], check=True)


def test_as_ansible_sends_it(tmp_path: Path) -> None:
    """Pipelined, there is no file of the module on the host; its children must start all the same."""
    pathology(tmp_path, a=GOOD)
    (tmp_path / "ansible.cfg").write_text("")
    arguments = json.dumps({"data_dir": str(tmp_path), "processes": 2})
    command = [Path(sys.executable).with_name("ansible"), "localhost", "-i", "localhost,", "-c", "local", "-m", "hbp.mip.dataset_compile"]
    environment = {
        **os.environ,
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
        "ANSIBLE_FORCE_COLOR": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run([*command, "-a", arguments], env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0 and '"state": "compiled"' in done.stdout, done.stdout + done.stderr


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """The largest process, for 4 MB and for 40 MB (which two processes share)."""
    largest = {}
    for megabytes in (4, 40):
        line = "one,subject,50,a," + "1.2345678\n"
        data = tmp_path / str(megabytes)
        pathology(data, a="dataset,subjectcode,age,kind,r\n" + line * (megabytes * 1000000 // len(line)))
        script = (
            f"import sys; sys.path.insert(0, {str(COLLECTIONS)!r})\n"
            "from ansible_collections.hbp.mip.plugins.module_utils import _compile, _children\n"
            "answer = _children._answer\n"
            "def peak(function):\n"
            "    found = answer(function)\n"
            "    print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], flush=True)\n"
            "    return found\n"
            "_children._answer = peak\n"
            f"c = _compile.Compiler({str(data)!r}, _compile.Options(processes=2)); c.run([]); assert not c.problems"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        largest[megabytes] = max(int(line) >> 10 for line in done.stdout.split())
        shutil.rmtree(data)
    assert largest[40] < largest[4] + 6 and largest[40] < 45, largest


# Properties.

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    [
        "'",
        "''",
        '"',
        '""',
        ",",
        "\n",
        "\r\n",
        "\r",
        "NULL",
        "0x10",
        "1e3",
        "x'); DROP TABLE DATA; --",
        "(select 1)",
        " ",
        "\x1f",
        "﻿",
        "a\tb",
    ]
)
INTS = st.just("") | st.integers(-(1 << 63), (1 << 63) - 1).map(str)
REALS = (
    st.just("")
    | st.floats(-1e280, 1e280).map(repr)
    | st.decimals(-(10**9), 10**9, places=3).map(str)
    | st.integers(-(10**15), 10**15).map(str)
)
KINDS = {"note": ("text", TEXT), "n": ("int", INTS), "r": ("real", REALS), "s": ("text", TEXT), "m": ("int", INTS)}


def written(row: list[str], always: list[bool]) -> str:
    """A record by RFC 4180, with quotes where they are needed and where they are wanted."""
    found = []
    for cell, quote in zip(row, always, strict=False):
        needed = any(character in cell for character in '",\r\n') or len(row) == 1
        found.append('"%s"' % cell.replace('"', '""') if needed or quote else cell)
    return ",".join(found)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[str]], bytes]:
    """Header, rows and a file that holds them."""
    names = draw(st.lists(st.sampled_from(sorted(KINDS)), unique=True))
    header = draw(st.permutations(["dataset", *names]))
    content = draw(st.lists(st.tuples(*[st.sampled_from(["one", "two"]) if name == "dataset" else KINDS[name][1] for name in header])))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    wanted = draw(st.lists(st.booleans(), min_size=len(header), max_size=len(header)))
    records = [written(list(row), wanted) for row in [header, *content]]
    for place in draw(st.lists(st.integers(1, len(records)), max_size=2)):
        records.insert(place, "")
    text = end.join(records) + draw(st.sampled_from(["", end]))
    return list(header), [list(row) for row in content], draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode()


def expected_of(name: str, cell: str) -> tuple[str, Any]:
    kind = "text" if name == "dataset" else KINDS[name][0]
    if kind == "text":
        return "text", cell
    if not cell:
        return "null", None
    return ("integer", int(cell)) if kind == "int" else ("real", float(cell))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(tables(), st.integers(1, 3), st.integers(5, 200))
def test_any_valid_file_round_trips(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch, table: tuple[list[str], list[list[str]], bytes], processes: int, size: int
) -> None:
    header, content, data = table
    monkeypatch.setattr(_compile_rows, "BLOCK_BYTES", size)
    monkeypatch.setattr(_compile, "_READ_BYTES", size)
    variables = [VARIABLES[0], *(variable(name, kind) for name, (kind, _cells) in KINDS.items())]
    folder = pathology(tmp_path, variables=variables, a=data)
    compiler = compile_here(tmp_path, processes=processes, force=True)
    assert compiler.problems == [], (compiler.problems, compiler.pathologies)
    order = ["dataset", *KINDS]
    found = cells(folder / "datasets.db", "DATA")
    assert len(found) == len(content)
    for row, stored in zip(content, found, strict=True):
        for name, (kind, value) in zip(order, stored, strict=True):
            wanted_kind, wanted = expected_of(name, row[header.index(name)]) if name in header else ("null", None)
            assert kind == wanted_kind
            # The last digit of a real is SQLite's; it is the same that the engine would have read before.
            assert math.isclose(float(value), wanted, rel_tol=1e-14) if kind == "real" else value == wanted


PIECE = st.sampled_from(
    [
        b'"',
        b'""',
        b",",
        b"\n",
        b"\r",
        b"\r\n",
        b"one,",
        b"dataset",
        b"subjectcode",
        b"age",
        b"1",
        b"a",
        b"\0",
        b"\xff",
        b"\xc3\xa9",
        b" ",
        b"'",
    ]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.booleans(), st.lists(PIECE, max_size=60).map(b"".join) | st.binary(max_size=80), st.sampled_from(["strict", "legacy"]))
def test_any_bytes_as_csv(tmp_path: Path, small: None, capfd: Any, header: bool, content: bytes, policy: str) -> None:
    """Errors or a database, the same in one process as in three; nothing else, and nothing left."""
    folder = pathology(tmp_path, a=(b"dataset,subjectcode,age\n" if header else b"") + content, b=GOOD)
    outcomes = []
    for processes in (1, 3):
        compiler = compile_here(tmp_path, processes=processes, policy=policy, force=True)
        found = compiler.pathologies["p"]
        assert clean(folder) and {problem["code"] for problem in compiler.problems} <= {"data-invalid"}
        assert found["state"] == ("failed" if found["errors_total"] else "compiled") and bool(compiler.problems) == bool(
            found["errors_total"]
        )
        outcomes.append((found["state"], found["errors"], found["errors_total"], rows(folder) if found["state"] == "compiled" else []))
    assert outcomes[0] == outcomes[1]
    assert capfd.readouterr() == ("", "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["dataset", "text", "int"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["code", "label", "variables", "groups", "sql_type", "isCategorical", "enumerations", "minValue"]), inner
        )
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | JSON.map(lambda tree: json.dumps(tree).encode()) | JSON.map(lambda v: cdes("p", [*VARIABLES, v]).encode()))
def test_any_bytes_as_metadata(tmp_path: Path, capfd: Any, content: bytes) -> None:
    folder = pathology(tmp_path, a=GOOD)
    (folder / "CDEsMetadata.json").write_bytes(content)
    compiler = compile_here(tmp_path, force=True)
    assert clean(folder) and {problem["code"] for problem in compiler.problems} <= {"cdes-invalid", "data-invalid"}
    assert compiler.pathologies["p"]["state"] == ("failed" if compiler.problems else "compiled")
    assert capfd.readouterr() == ("", "")


def test_the_manifest_says_what_it_was_made_from(tmp_path: Path) -> None:
    folder = pathology(tmp_path, a=GOOD, b="dataset\none\n")
    compile_here(tmp_path)
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("a.csv", "b.csv", "CDEsMetadata.json")}
    sha256 = hashes.pop("CDEsMetadata.json")
    assert _compiled.state(str(folder), sha256, hashes, "strict") == ("compiled", [])
    assert _compiled.state(str(folder), sha256, hashes, "legacy")[0] == "stale"
