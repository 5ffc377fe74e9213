# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""dataset_info, mode files: what it tells of a hospital's files, and above all what it does not."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import re
import shutil
import sqlite3
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.hbp.mip.plugins.module_utils import _compiled, _datasets
from ansible_collections.hbp.mip.tests.unit.plugins.modules.module_process import result_of, run_module, start_module

CDES = {
    "code": "dementia",
    "label": "Dementia",
    "version": "1",
    "variables": [
        {
            "code": "dataset",
            "label": "Dataset",
            "sql_type": "text",
            "type": "nominal",
            "isCategorical": True,
            "enumerations": [{"code": "edsd", "label": "EDSD"}, {"code": "2024", "label": "The year's"}],
        },
        {"code": "subjectcode", "label": "Subject", "sql_type": "text", "type": "text", "isCategorical": False},
        {"code": "age", "label": "Age", "sql_type": "int", "type": "integer", "isCategorical": False},
    ],
}
HEADER = "subjectcode,dataset,age\n"


def rows(**counts: int) -> str:
    return "".join(f"p{number},{code},{number}\n" for code, count in counts.items() for number in range(count))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pathology's folder with metadata."""
    path = tmp_path / "data" / "dementia"
    path.mkdir(parents=True)
    (path / "CDEsMetadata.json").write_text(json.dumps(CDES, indent=2))
    return path


def look(folder: Path, **more: Any) -> dict[str, Any]:
    result = run_module("dataset_info", {"data_dir": str(folder.parent), "mode": "files", **more})
    assert result["changed"] is False and not result.get("failed"), result
    return result


def files_of(folder: Path, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = look(folder, **more)["pathologies"]["dementia"]["files"]
    return found


def codes(found: dict[str, Any]) -> list[str]:
    return [item["code"] for item in found.get("findings", found.get("problems", []))]


def test_what_a_hospital_holds(folder: Path) -> None:
    content = (HEADER + rows(edsd=30, adni=12)).encode()
    (folder / "a.csv").write_bytes(content)
    os.utime(folder / "a.csv", (1700000000, 1700000000))
    (folder / "b.csv").write_text("age,dataset,_extra\r\n")
    (folder / "c.csv").write_text("age,dataset,_extra\r\n1,ppmi,3\r\n")
    result = look(folder)
    found = result["pathologies"]["dementia"]
    assert result["problems"] == [] and result["codes"] == {"dementia": ["adni", "edsd", "ppmi"]}
    assert found["files"]["a.csv"] == {
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "mtime": "2023-11-14T22:13:20Z",
        "columns": 3,
        "header": ["subjectcode", "dataset", "age"],
        "rows": 42,
        "datasets": {"edsd": 30, "adni": 12},
        "encoding": "utf-8",
        "newline": "lf",
        "findings": [],
    }
    assert found["files"]["b.csv"]["header"] == ["age", "dataset"] and found["files"]["b.csv"]["rows"] == "<10"
    assert [(item["code"], item["severity"]) for item in found["files"]["b.csv"]["findings"]] == [
        ("rows-missing", "warning"),
        ("header-unproven", "warning"),
    ]
    assert found["files"]["c.csv"]["header"] == ["age", "dataset", "_extra"] and found["files"]["c.csv"]["columns"] == 3
    metadata = (folder / "CDEsMetadata.json").read_bytes()
    cdes = found["cdes"]
    assert cdes["present"] and cdes["valid"] and cdes["sha256"] == hashlib.sha256(metadata).hexdigest() and "content" not in cdes
    assert (cdes["code"], cdes["label"], cdes["version"]) == ("dementia", "Dementia", "1") and cdes["size"] == len(metadata)
    assert sorted(cdes["variables"]) == ["age", "dataset", "subjectcode"] and cdes["datasets"][0] == ["edsd", "EDSD"]
    assert len(cdes["model"]) == 64 and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", cdes["mtime"])
    assert found["database"] == "missing" and found["compiled"]["state"] == "missing"
    wanted = look(folder, cdes_content=True)["pathologies"]["dementia"]["cdes"]
    assert zlib.decompress(base64.b64decode(wanted["content"])) == metadata


def test_looking_changes_nothing(folder: Path) -> None:
    (folder / "a.csv").write_text(HEADER + rows(edsd=30))
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.parent.rglob("*"))
    look(folder)
    assert before == sorted((path, path.stat().st_mtime_ns) for path in folder.parent.rglob("*"))


def test_the_state_of_the_database(folder: Path) -> None:
    (folder / "a.csv").write_text(HEADER + rows(edsd=30))
    with sqlite3.connect(folder / "datasets.db") as connection:
        connection.execute("CREATE TABLE DATA(dataset TEXT)")
        connection.executemany("INSERT INTO DATA VALUES(?)", [("edsd",)] * 30)
    connection.close()
    found = look(folder)["pathologies"]["dementia"]
    assert found["compiled"]["state"] == "unknown" and found["datasets"] == {"edsd": 30}
    hashes = {"a.csv": found["files"]["a.csv"]["sha256"]}
    mark = _compiled.database_mark(str(folder / "datasets.db"))
    assert mark
    manifest = _compiled.manifest_content(found["cdes"]["sha256"], hashes, "strict", False, mark)
    (folder / "datasets.db.json").write_bytes(manifest)
    assert look(folder)["pathologies"]["dementia"]["compiled"] == {"state": "compiled", "reasons": []}
    assert look(folder, policy="strict")["pathologies"]["dementia"]["compiled"]["state"] == "compiled"
    assert look(folder, policy="legacy")["pathologies"]["dementia"]["compiled"]["state"] == "stale"
    assert look(folder, metadata_only=True)["pathologies"]["dementia"]["compiled"]["state"] == "stale"
    (folder / "a.csv").write_text(HEADER + rows(edsd=31))
    assert look(folder)["pathologies"]["dementia"]["compiled"] == {"state": "stale", "reasons": ["a.csv was changed"]}


@pytest.mark.parametrize(
    ("content", "columns", "header", "datasets", "expected"),
    [
        ("", 0, [], {}, ["empty"]),
        ("p1,edsd,50\np2,edsd,60\n", 3, [], {}, ["dataset-missing"]),
        ("Study 2024\n" + HEADER + rows(edsd=20), 1, [], {}, ["dataset-missing", "row-length"]),
        ("subjectcode;dataset;age\np1;edsd;50\n", 1, [], {}, ["delimiter"]),
        ("\ufeff" + HEADER + rows(edsd=20), 3, ["subjectcode", "dataset", "age"], {"edsd": 20}, ["byte-order-mark"]),
        (
            "John Smith,dataset,age,1950-01-01,\n" + "x,edsd,1,2,3\n" * 20,
            5,
            ["dataset", "age"],
            {"edsd": 20},
            ["column-name"],
        ),
        ("age,dataset,age\n" + rows(edsd=20), 3, ["age", "dataset", "age"], {"edsd": 20}, ["column-duplicate"]),
        ("dataset,dataset,age\n" + rows(edsd=20), 3, ["dataset", "dataset", "age"], {}, ["column-duplicate"]),
        (HEADER + rows(edsd=20) + "p,edsd\n" + HEADER, 3, ["subjectcode", "dataset", "age"], {"edsd": 20}, None),
        (HEADER + rows(edsd=20) + "\n", 3, ["subjectcode", "dataset", "age"], {"edsd": 20}, ["line-blank"]),
    ],
)
def test_findings(
    folder: Path, content: str, columns: int, header: list[str], datasets: dict[str, int], expected: list[str] | None
) -> None:
    (folder / "a.csv").write_text(content)
    found = files_of(folder)["a.csv"]
    assert (found["columns"], found["header"], found["datasets"]) == (columns, header, datasets)
    assert codes(found) == (["row-length", "dataset-name", "header-repeated"] if expected is None else expected)
    assert "Smith" not in json.dumps(found) and "1950" not in json.dumps(found) and "Study" not in json.dumps(found)


def test_what_is_hardly_a_code_is_not_told(folder: Path) -> None:
    (folder / "a.csv").write_text(
        HEADER + rows(edsd=20) + "".join(f"p,{value},1\n" * 11 for value in ("63", "1950-03-12", "1.5e-3", "2024"))
    )
    found = files_of(folder)["a.csv"]
    assert found["datasets"] == {"edsd": 20, "2024": 11} and codes(found) == ["dataset-name"]
    assert "33 rows" in found["findings"][0]["message"] and found["rows"] == 64
    (folder / "a.csv").write_text("dataset,age\n" + "".join(f"patient{number},{number}\n" for number in range(30)))
    found = files_of(folder)["a.csv"]
    assert found["datasets"] == {} and codes(found) == ["datasets-implausible"] and found["rows"] == 30
    assert "patient" not in json.dumps(found)


# Names of files -------------------------------------------------------------------------------------------------------------


def test_names_and_kinds_of_files(folder: Path) -> None:
    outside = folder.parent.parent / "outside.csv"
    outside.write_text("dataset\n" + "secret\n" * 20)
    for name in ("a.csv", "B-2_x.csv"):
        (folder / name).write_text(HEADER + rows(edsd=20))
    for name in ("upper.CSV", ".hidden.csv", "with space.csv", "caf\u00e9.csv", "new\nline\x1b[31m.csv", "a" * 125 + ".csv", ".csv"):
        (folder / name).write_text(HEADER + rows(hidden=20))
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.csv")).write_text(HEADER)
    (folder / "out.csv").symlink_to(outside)
    (folder / "inside.csv").symlink_to("a.csv")
    (folder / "dangling.csv").symlink_to("nowhere")
    (folder / "linked").symlink_to(folder.parent.parent)
    (folder / "dir.csv").mkdir()
    (folder / "sub").mkdir()
    (folder / "sub" / "x.csv").write_text(HEADER + rows(hidden=20))
    (folder / ".snapshot").mkdir()
    os.mkfifo(folder / "fifo.csv")
    (folder / "notes.txt").write_text("x")
    began = time.monotonic()
    result = look(folder)
    assert time.monotonic() - began < 20
    assert sorted(result["pathologies"]["dementia"]["files"]) == ["B-2_x.csv", "a.csv", "inside.csv"] and result["codes"] == {
        "dementia": ["edsd"]
    }
    messages = {problem["code"]: problem["message"] for problem in result["problems"]}
    links = [problem["message"].replace(str(folder), "") for problem in result["problems"] if problem["code"] == "symlink"]
    assert sorted(codes(result)) == ["file-name", "file-unusable", "sub-folder", "symlink", "symlink", "symlink"]
    assert links == [
        " holds 1 symbolic links, which are not followed: 'linked'",
        "/dangling.csv is a symbolic link that leads to nothing",
        "/out.csv is a symbolic link out of the data folder and was not followed",
    ]
    assert "holds 8 files" in messages["file-name"] and "'upper.CSV'" in messages["file-name"]
    assert "'dir.csv', 'sub'" in messages["sub-folder"] and "fifo.csv is not a plain file" in messages["file-unusable"]
    text = json.dumps(result, ensure_ascii=False)
    assert "\x1b" not in text and "\\u001b" not in text and "a" * 65 not in text and "secret" not in text and "hidden=" not in text


def test_links_that_leave_the_folder_on_the_way(folder: Path) -> None:
    outside = folder.parent.parent / "outside"
    outside.mkdir()
    (outside / "x.csv").write_text("dataset\n" + "secret\n" * 20)
    (folder.parent / "way").symlink_to(outside)
    (folder / "a.csv").symlink_to("../way/x.csv")
    (folder / "b.csv").symlink_to("b.csv")
    (folder / "c.csv").symlink_to("/dev/zero")
    (folder / "d.csv").symlink_to("sub")
    (folder / "sub").mkdir()
    result = look(folder)
    assert result["pathologies"]["dementia"]["files"] == {} and "secret" not in json.dumps(result)
    assert codes(result) == ["sub-folder", "symlink", "file-unusable", "symlink", "file-unusable", "symlink"]


def test_a_link_as_pathology_is_not_followed(folder: Path) -> None:
    (folder / "a.csv").write_text(HEADER + rows(edsd=20))
    (folder.parent / "epilepsy").symlink_to(folder)
    result = look(folder)
    assert codes(result) == ["symlink"] and list(result["pathologies"]) == ["dementia"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_unreadable_files(folder: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (folder / name).write_text(HEADER + rows(edsd=20))
    (folder / "b.csv").chmod(0)
    (folder / "CDEsMetadata.json").chmod(0)
    prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    result = run_module("dataset_info", {"data_dir": str(folder.parent), "mode": "files"}, prefix=prefix)
    assert codes(result) == ["file-unusable", "file-unusable"] and list(result["pathologies"]["dementia"]["files"]) == ["a.csv"]
    folder.chmod(0)
    result = run_module("dataset_info", {"data_dir": str(folder.parent), "mode": "files"}, prefix=prefix)
    assert "file-unusable" in codes(result) and not result.get("failed")
    folder.chmod(0o755)


def test_a_file_that_is_being_written(folder: Path) -> None:
    path = folder / "a.csv"
    path.write_text(HEADER + rows(edsd=20) * 200000)
    stop = threading.Event()

    def grow() -> None:
        with path.open("a") as stream:
            while not stop.is_set():
                stream.write("p1,edsd,1\n")
                stream.flush()
                time.sleep(0.001)

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        assert "changing" in codes(files_of(folder)["a.csv"])
    finally:
        stop.set()
        writer.join()


def test_too_many_files(folder: Path) -> None:
    for number in range(_datasets.MOST_FILES + 5):
        (folder / f"{number}.csv").write_text("dataset\n")
    result = look(folder)
    assert codes(result) == ["files-many"] and len(result["pathologies"]["dementia"]["files"]) == _datasets.MOST_FILES


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (b"{", "cdes-invalid", 1),
        (b'{"code": "CNR",\n "CNR": CNR}', "cdes-invalid", 2),
        (b"subjectcode,dataset\nCNR,edsd\n", "cdes-invalid", 1),
        (b"\xff\xfe", "cdes-invalid", 1),
        (b"[1, 2]", "cdes-invalid", 1),
        (b"[" * 100000, "cdes-invalid", 1),
        (b"x" * (17 << 20), "cdes-invalid", 0),
    ],
)
def test_metadata_that_cannot_be_read(folder: Path, content: bytes, code: str, line: int) -> None:
    (folder / "CDEsMetadata.json").write_bytes(content)
    (folder / "a.csv").write_text(HEADER + rows(edsd=20))
    result = look(folder, cdes_content=True)
    found = result["pathologies"]["dementia"]
    assert codes(result) == [code] and not found["cdes"]["valid"] and found["cdes"]["present"] and "content" not in found["cdes"]
    assert [(item["code"], item["line"]) for item in found["cdes"]["findings"]] == [("unreadable", line)]
    assert found["files"]["a.csv"]["datasets"] == {"edsd": 20} and "CNR" not in json.dumps(result)


def test_metadata_that_break_rules(folder: Path) -> None:
    (folder / "CDEsMetadata.json").write_text(json.dumps({"code": "dementia", "label": "", "variables": []}))
    result = look(folder)
    cdes = result["pathologies"]["dementia"]["cdes"]
    assert codes(result) == ["cdes-invalid"] and not cdes["valid"] and "dataset-missing" in codes(cdes) and cdes["code"] == "dementia"
    (folder / "CDEsMetadata.json").unlink()
    assert codes(look(folder)) == ["cdes-missing"]


# What leaves the node -------------------------------------------------------------------------------------------------------


class Canaries:
    """Cells that look like codes, no two alike."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)

    def __call__(self) -> str:
        return f"CNR{next(self.numbers)}X"

    def row(self, code: str, width: int = 4) -> list[str]:
        cells = [self() for _number in range(width)]
        cells[1] = code
        return cells


def broken_files() -> Iterator[tuple[str, bytes]]:
    """Files in which every cell other than the dataset's is a canary, whole and broken in all ways."""
    canary = Canaries()
    head = "subjectcode,dataset,age,name\n"
    good = "".join(",".join(canary.row("edsd")) + "\n" for _number in range(40))
    yield "good.csv", (head + good).encode()
    yield "headerless.csv", good.encode()
    yield "one-line.csv", good.splitlines()[0].encode()
    yield "title.csv", (f"{canary()} {canary()}\n" + head + good).encode()
    yield "header-later.csv", (good + head + good).encode()
    yield "header-cells.csv", (f"{canary()} 1,dataset,1{canary()},-{canary()}\n" + good).encode()
    yield "semicolon.csv", (head + good).replace(",", ";").encode()
    yield "tab.csv", (head + good).replace(",", "\t").encode()
    yield "decimal-comma.csv", (head + "".join(f"{canary()},edsd,1,{canary()},{canary()}\n" for _number in range(20))).encode()
    yield "shifted.csv", (head + good + "".join(f"{canary()},{canary()},edsd,x,{canary()}\n" for _number in range(15))).encode()
    yield "short.csv", (head + good + "".join(f"{canary()},{canary()}\n" for _number in range(15))).encode()
    yield "free-text.csv", (head + "".join(f"{canary()},seen by Dr {canary()},1,2\n" for _number in range(30))).encode()
    yield "ids-as-codes.csv", (head + "".join(",".join(canary.row(canary())) + "\n" for _number in range(30))).encode()
    yield "many-ids-as-codes.csv", (head + "".join(",".join(canary.row(canary())) + "\n" for _number in range(3000))).encode()
    yield "cut.csv", (head + good).encode()[:-7]
    yield "bom.csv", b"\xef\xbb\xbf" + (head + good).encode()
    yield "latin.csv", (head + good).replace("CNR", "\u00e9CNR").encode("latin-1")
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "cp037"):
        yield f"{encoding}.csv", (head + good).encode(encoding)
    yield "crlf.csv", (head + good).replace("\n", "\r\n").encode()
    yield "cr.csv", (head + good).replace("\n", "\r").encode()
    yield "zero.csv", (head + good).replace("X,edsd", "\x00X,edsd").encode()
    yield "unclosed.csv", (head + good + f'"{canary()},edsd,1,2\n' + good).encode()
    yield "unclosed-dataset.csv", (head + good + f'{canary()},"edsd {canary()},1,2\n' + good * 400).encode()
    yield "unclosed-head.csv", (f'"{canary()}' + head + good).encode()
    yield "quoted.csv", (head + good).replace(",", '","').replace("\n", '"\n"').encode()
    yield "inner-quotes.csv", (head + good).replace("CNR", 'C"NR').encode()
    yield "long-line.csv", (head + good + canary() * 700000).encode()
    yield "two-datasets.csv", ("dataset,dataset,age,name\n" + good).encode()
    yield "no-dataset.csv", ("subjectcode,Dataset,age,name\n" + good).encode()
    yield "blank-head.csv", ("\n" + head + good).encode()
    yield "no-csv.csv", b"PK\x03\x04" + good.encode()
    yield "json.csv", json.dumps([{canary(): canary()}]).encode()


def test_no_canary_leaves_the_node(folder: Path) -> None:
    for name, content in broken_files():
        (folder / name).write_bytes(content)
    canary = Canaries()
    (folder / "wrong.CSV").write_text(canary())
    (folder / "datasets.db.json").write_text(json.dumps({canary(): canary()}))
    (folder / "datasets.db.errors.txt").write_text(canary())
    with sqlite3.connect(folder / "datasets.db") as connection:
        connection.execute("CREATE TABLE DATA(dataset TEXT, name TEXT)")
        connection.executemany("INSERT INTO DATA VALUES('edsd', ?)", [(canary(),) for _number in range(20)])
    connection.close()
    for metadata in (
        None,
        json.dumps({"patients": [{"name": canary(), "n": 1}], "code": canary(), "label": canary()}),
        canary(),
        f'{{"code": "{canary()}',
        "",
    ):
        if metadata is not None:
            (folder / "CDEsMetadata.json").write_text(metadata)
        for more in ({}, {"cdes_content": True, "_ansible_verbosity": 4, "_ansible_debug": True}):
            process = start_module("dataset_info", {"data_dir": str(folder.parent), "mode": "files", **more})
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, (out, err)
            assert metadata is None or '"content"' not in out
            assert not re.search("C.?N.?R.?[0-9]", out + err, re.IGNORECASE), re.findall("[^{}]*C.?N.?R.?[0-9][^{}]*", out + err)[:3]
    result = look(folder)
    assert len(result["pathologies"]["dementia"]["files"]) == len(list(broken_files())) and result["codes"] == {"dementia": ["edsd"]}


def inventory(folder: Path, files: dict[str, bytes]) -> dict[str, Any]:
    """What the module would return, without a process."""
    for path in folder.glob("*.csv"):
        path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    found = _datasets.Files(str(folder.parent), 60)
    found.look()
    return {"pathologies": found.pathologies, "problems": found.problems, "codes": found.codes()}


mutations = st.lists(
    st.tuples(st.sampled_from(["quote", "cut", "newline", "join", "bytes", "zero", "comma"]), st.floats(0, 1), st.binary(max_size=3)),
    max_size=4,
)


@settings(max_examples=100, deadline=None)
@given(
    width=st.integers(2, 5),
    header=st.sampled_from(["good", "none", "odd"]),
    count=st.integers(0, 30),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    delimiter=st.sampled_from([",", ",", ",", ";", "\t"]),
    changes=mutations,
)
def test_no_canary_leaves_a_damaged_file(
    tmp_path_factory: pytest.TempPathFactory, width: int, header: str, count: int, end: str, delimiter: str, changes: list[Any]
) -> None:
    canary = Canaries()
    heads = {"good": ["a", "dataset", "b", "c", "d"], "odd": ["1CNR", "dataset", " CNR2", "CNR 3", "-CNR4"]}
    table = [heads[header][:width]] if header in heads else []
    table += [canary.row("edsd", width) for _number in range(count)]
    content = end.join(delimiter.join(row) for row in table).encode()
    first = len(content.split(end.encode())[0]) if table else 0
    for kind, place, noise in changes:
        # The names themselves stay as they are: what a header names may be told.
        at = first + int(place * (len(content) - first))
        if kind == "cut":
            content = content[:at]
        elif kind == "join":
            content = content[:at] + content[at:].replace(end.encode(), b"", 1)
        else:
            what = {"quote": b'"', "newline": b"\n", "bytes": noise.replace(b",", b""), "zero": b"\0", "comma": b","}[kind]
            content = content[:at] + what + content[at:]
    path = tmp_path_factory.mktemp("data") / "dementia"
    path.mkdir()
    result = json.dumps(inventory(path, {"a.csv": content}))
    assert "CNR" not in result, (content, result)


def test_a_first_line_that_is_header_and_patient(folder: Path) -> None:
    for end in ("\x0b", "\x1e", "\x85", "\u2028", "\\n", " "):
        (folder / "a.csv").write_text(end.join(["subjectcode,dataset,age,extra", "CNR1,edsd,CNR2,CNR3", "CNR4,edsd,CNR5,CNR6"]))
        found = files_of(folder)["a.csv"]
        assert found["header"] == ["subjectcode", "dataset", "age"] and "CNR" not in json.dumps(found)
        assert "header-unproven" in codes(found)


def test_a_failure_of_the_module_itself_tells_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / "a.csv").write_text("dataset,age\nCNR1X,1\n")
    (tmp_path / "sitecustomize.py").write_text(
        "import builtins\nreal = builtins.min\n"
        "import sys\nsys.setrecursionlimit(1000)\n"
        "import collections\n"
        "class Broken(collections.Counter):\n"
        "    def __init__(self, values=()):\n"
        "        raise KeyError(list(values))\n"
        "collections.Counter = Broken\n"
    )
    process = start_module(
        "dataset_info",
        {"data_dir": str(folder.parent), "mode": "files", "_ansible_verbosity": 4},
        prefix=["env", f"PYTHONPATH={tmp_path}:{os.environ.get('PYTHONPATH', '')}:{Path(_datasets.__file__).parents[5]}"],
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "CNR" not in out + err, (out, err)
    result = json.loads(out.splitlines()[-1])
    assert "KeyError (_csv.py, line " not in result["msg"] and "failed with KeyError" in result["msg"]


# Small numbers --------------------------------------------------------------------------------------------------------------


def with_database(folder: Path, counts: dict[str, int]) -> None:
    (folder / "datasets.db").unlink(missing_ok=True)
    with sqlite3.connect(folder / "datasets.db") as connection:
        connection.execute("CREATE TABLE DATA(dataset TEXT)")
        connection.executemany("INSERT INTO DATA VALUES(?)", [(code,) for code, count in counts.items() for _number in range(count)])
    connection.close()


def numbers(result: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    found = result["pathologies"]["dementia"]
    return {name: (file["rows"], file["datasets"]) for name, file in found["files"].items()}, found["datasets"]


def test_small_numbers(folder: Path) -> None:
    (folder / "a.csv").write_text(HEADER + rows(edsd=30, ppmi=4))
    (folder / "b.csv").write_text(HEADER + rows(few=9))
    (folder / "c.csv").write_text(HEADER + rows(adni=20) + "p,x y,1\n" * 3)
    (folder / "d.csv").write_text(HEADER + rows(other=20) + "p,other\n" * 12)
    (folder / "e.csv").write_text(HEADER + rows(one=6, two=7))
    found, _database = numbers(look(folder))
    assert found["a.csv"] == (">=31", {"edsd": 30, "ppmi": "<10"})
    assert found["b.csv"] == ("<10", {"few": "<10"})
    assert found["c.csv"] == (">=21", {"adni": 20})
    assert found["d.csv"] == (32, {"other": 20})
    assert found["e.csv"] == (">=2", {"one": "<10", "two": "<10"})
    messages = {name: file["findings"] for name, file in files_of(folder).items()}
    assert "fewer than 10 rows hold" in messages["c.csv"][0]["message"] and "12 rows do not" in messages["d.csv"][0]["message"]


def test_the_database_does_not_give_a_small_number_away(folder: Path) -> None:
    (folder / "a.csv").write_text(HEADER + rows(edsd=470, ppmi=20))
    (folder / "b.csv").write_text(HEADER + rows(edsd=4))
    with_database(folder, {"edsd": 474, "ppmi": 20})
    found, database = numbers(look(folder))
    assert found == {"a.csv": (">=21", {"edsd": ">=1", "ppmi": 20}), "b.csv": (">=1", {"edsd": ">=1"})}
    assert database == {"edsd": ">=10", "ppmi": 20}
    (folder / "a.csv").write_text(HEADER + rows(edsd=3))
    with_database(folder, {"edsd": 7})
    found, database = numbers(look(folder))
    assert found == {"a.csv": ("<10", {"edsd": "<10"}), "b.csv": ("<10", {"edsd": "<10"})} and database == {"edsd": "<10"}


small_or_not = st.one_of(st.integers(1, 9), st.integers(10, 40))
worlds = st.lists(
    st.fixed_dictionaries(
        {"codes": st.dictionaries(st.sampled_from(["d1", "d2", "d3"]), small_or_not, max_size=3)},
        optional={"strange": small_or_not, "ragged": small_or_not},
    ),
    min_size=1,
    max_size=3,
)


def publish(folder: Path, world: list[dict[str, Any]]) -> str:
    """All numbers that can be asked for, of both modes, without the files' sizes and hashes."""
    files = {}
    total: dict[str, int] = {}
    for number, file in enumerate(world):
        lines = ["dataset,a"]
        # All first lines are the same in any world, so that only the numbers differ.
        for code in sorted(file["codes"]):
            lines.append(f"{code},1")
        lines += ["x y,1"] * bool(file.get("strange")) + ["z"] * bool(file.get("ragged"))
        for code, count in file["codes"].items():
            lines += [f"{code},1"] * (count - 1)
            total[code] = total.get(code, 0) + count
        lines += ["x y,1"] * (file.get("strange", 1) - 1) + ["z"] * (file.get("ragged", 1) - 1)
        files[f"{number}.csv"] = "\n".join(lines).encode()
    with_database(folder, total)
    found = inventory(folder, files)
    for file in found["pathologies"]["dementia"]["files"].values():
        for key in ("sha256", "size", "mtime"):
            del file[key]
    before = _datasets.Inventory(str(folder.parent), 60)
    before.look()
    return json.dumps([found, before.pathologies], sort_keys=True)


@settings(max_examples=60, deadline=None)
@given(world=worlds)
def test_no_number_and_no_difference_tells_a_small_number(tmp_path_factory: pytest.TempPathFactory, world: list[dict[str, Any]]) -> None:
    """For every number below 10 there is another world with another number there, of which the same is told."""
    folder = tmp_path_factory.mktemp("data") / "dementia"
    folder.mkdir()
    told = publish(folder, world)
    for number, file in enumerate(world):
        for kind in ("strange", "ragged"):
            if 0 < file.get(kind, 0) < 10:
                assert publish(folder, changed(world, number, kind, None, 1 if file[kind] != 1 else 2)) == told
        for code, count in file["codes"].items():
            if count < 10:
                assert any(publish(folder, other) == told for other in alternatives(world, number, code)), (number, code)


def changed(world: list[dict[str, Any]], number: int, kind: str, code: str | None, value: int) -> list[dict[str, Any]]:
    other = json.loads(json.dumps(world))
    if code is None:
        other[number][kind] = value
    else:
        other[number][kind][code] = value
    return other  # type: ignore[no-any-return]


def alternatives(world: list[dict[str, Any]], number: int, code: str) -> Iterator[list[dict[str, Any]]]:
    """Worlds with another number of rows of a dataset in one file, and the same in all files together where another has it."""
    count = world[number]["codes"][code]
    for value in range(1, 10):
        if value != count:
            yield changed(world, number, "codes", code, value)
            for other, file in enumerate(world):
                rest = file["codes"].get(code, 0) + count - value
                if other != number and code in file["codes"] and rest > 0:
                    yield changed(changed(world, number, "codes", code, value), other, "codes", code, rest)


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=300))
def test_any_bytes_give_an_answer(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("data") / "dementia"
    folder.mkdir()
    (folder / "CDEsMetadata.json").write_bytes(content)
    (folder / "datasets.db").write_bytes(content)
    (folder / "datasets.db.json").write_bytes(content)
    found = inventory(folder, {"a.csv": content})
    json.dumps(found)
    assert found["pathologies"]["dementia"]["files"]["a.csv"]["sha256"] == hashlib.sha256(content).hexdigest()


def test_the_published_samples(tmp_path: Path) -> None:
    samples = next(parent / "tests" / "samples" for parent in Path(__file__).parents if (parent / "tests" / "samples" / "tbi").is_dir())
    for name in ("dementia", "mentalhealth", "tbi"):
        shutil.copytree(samples / name, tmp_path / name)
    result = run_module("dataset_info", {"data_dir": str(tmp_path), "mode": "files"})
    assert result["codes"]["dementia"] == ["desd-synthdata"] and result["codes"]["tbi"] == ["dummy_tbi"]
    found = result["pathologies"]
    assert found["dementia"]["files"]["desd-synthdata.csv"]["rows"] == 1000 and found["tbi"]["files"]["dummy_tbi.csv"]["rows"] == 99
    assert all(item["cdes"]["valid"] and not file["findings"] for item in found.values() for file in item["files"].values())
    assert result["problems"] == [] and len(found["dementia"]["files"]["desd-synthdata.csv"]["header"]) == 169


def test_module_process_answers_in_check_mode(folder: Path) -> None:
    process = start_module("dataset_info", {"data_dir": str(folder.parent), "mode": "files"}, check=True)
    assert result_of(process)["changed"] is False
    assert (
        subprocess.run(["find", str(folder.parent), "-newer", str(folder / "CDEsMetadata.json"), "-type", "f"], check=True).returncode == 0
    )
