# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module cde_consolidate: the published samples over three hospitals, and the two files that it keeps."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _cdes, _consolidation, _labels
from ansible_collections.hbp.mip.tests.helpers.modules import Result, run_module

SAMPLES = next(parent for parent in Path(__file__).parents if (parent / "uv.lock").exists()) / "tests" / "samples"


def told(content: bytes, *, with_content: bool = False) -> dict[str, Any]:
    parsed = _cdes.parse(content)
    found = {
        "present": True,
        "valid": True,
        "sha256": hashlib.sha256(content).hexdigest(),
        "model": parsed.model,
        "variables": parsed.digests,
        "findings": [finding._asdict() for finding in parsed.findings],
    }
    return {**found, **({"content": _consolidation.packed(content)["content"]} if with_content else {})}


def federation(contents: dict[str, bytes] | None = None) -> dict[str, Any]:
    """The three samples, one at each of three hospitals; dementia at two."""
    contents = contents or {path.parent.name: path.read_bytes() for path in SAMPLES.glob("*/CDEsMetadata.json")}

    def held(name: str, file: str, code: str, rows: Any) -> dict[str, Any]:
        header = (SAMPLES / name).glob("*.csv").__next__().read_text(encoding="utf-8").partition("\n")[0].strip().split(",")
        return {"cdes": told(contents[name]), "files": {file: {"header": header, "datasets": {code: rows}, "findings": []}}}

    return {
        "master": {
            "name": "ms",
            "state": "present",
            "pathologies": {name: {"cdes": told(content, with_content=True), "files": {}} for name, content in contents.items()},
            "problems": [],
        },
        "nodes": {
            "hospital-a": {"state": "present", "problems": [], "pathologies": {"dementia": held("dementia", "edsd.csv", "edsd", 474)}},
            "hospital-b": {
                "state": "present",
                "problems": [],
                "pathologies": {
                    "dementia": held("dementia", "desd-synthdata.csv", "desd-synthdata", 1000),
                    "mentalhealth": held("mentalhealth", "demo.csv", "demo", 100),
                },
            },
            "hospital-c": {"state": "present", "problems": [], "pathologies": {"tbi": held("tbi", "dummy_tbi.csv", "dummy_tbi", "<10")}},
        },
    }


@pytest.fixture
def place(tmp_path: Path) -> dict[str, str]:
    return {"labels": str(tmp_path / "labels.yml"), "record": str(tmp_path / "state" / "data.json")}


def consolidate(given: dict[str, Any], place: dict[str, str], *, check: bool = False, **more: Any) -> Result:
    return run_module("cde_consolidate", {**given, **place, **more}, check=check)


def test_whole_run(place: dict[str, str]) -> None:
    labels, record = Path(place["labels"]), Path(place["record"])
    seen = consolidate(federation(), place, check=True)
    assert not seen.failed and seen.changed and not labels.exists() and not record.exists(), "check mode writes nothing"
    first = consolidate(federation(), place, expected_plan=seen["plan"]["id"])
    assert first.changed and first["plan"] == seen["plan"] and first.warnings == []
    assert first["plan"]["changes"] == 4, "dementia on the master and two workers, and the portal's list; the others are as they should be"
    assert first["targets"] == {
        "ms": ["dementia", "mentalhealth", "tbi"],
        "hospital-a": ["dementia"],
        "hospital-b": ["dementia", "mentalhealth"],
        "hospital-c": ["tbi"],
    }
    contents = {name: _consolidation.unpacked(packed["content"]) for name, packed in first["contents"].items()}
    assert [code for code, _label in _cdes.parse(contents["dementia"]).datasets] == ["edsd", "desd-synthdata"]
    assert contents["tbi"] == (SAMPLES / "tbi" / "CDEsMetadata.json").read_bytes()
    portal = _consolidation.unpacked(first["portal"]["content"])
    assert hashlib.sha256(portal).hexdigest() == first["portal"]["sha256"]
    assert [entry["code"] for entry in json.loads(portal)] == ["dementia", "mentalhealth", "tbi"]
    assert first["structure"][0] == {
        "name": "dementia",
        "nodes": [
            {"name": "hospital-a", "datasets": [{"name": "edsd"}]},
            {"name": "hospital-b", "datasets": [{"name": "desd-synthdata"}]},
        ],
    }
    diffs = {item["after_header"]: item for item in first["diff"]}
    assert set(diffs) == {"dementia/CDEsMetadata.json", "pathologies.json (labels and datasets)", place["labels"]}
    assert '"ppmi"' in diffs["dementia/CDEsMetadata.json"]["before"] and '"ppmi"' not in diffs["dementia/CDEsMetadata.json"]["after"]
    assert diffs["pathologies.json (labels and datasets)"]["after"].startswith("dementia: Dementia\n  desd-synthdata: DESD-synthdata\n")

    text = labels.read_text(encoding="utf-8")
    assert text.startswith("---\n# Labels of pathologies") and "  tbi: Traumatic Brain Injury\n" in text
    assert "    fake_longitudinal: Longitudinal\n" in text, "the label of a dataset that is gone is kept"
    assert json.loads(record.read_text(encoding="utf-8"))["schema"] == 1

    for path in (labels, record):
        os.utime(path, ns=(1, 1))
    second = consolidate(federation(contents), place)
    assert not second.failed and not second.changed
    assert second["plan"]["changes"] == 0 and second["plan"]["id"] == first["plan"]["id"] and second["diff"] == []
    assert second["contents"] == first["contents"] and second["portal"] == first["portal"]
    assert [path.stat().st_mtime_ns for path in (labels, record)] == [1, 1], "nothing is written"
    assert sorted(path.name for path in labels.parent.iterdir()) == ["labels.yml", "state"] and len(list(record.parent.iterdir())) == 1


def test_with_what_dataset_info_really_tells(tmp_path: Path, place: dict[str, str]) -> None:
    """The samples lie at three hospitals and on the master; what comes out is put there; then nothing is left to do."""
    folders = {node: tmp_path / "nodes" / node for node in ("ms", "hospital-a", "hospital-b", "hospital-c")}
    for number, name in enumerate(("dementia", "mentalhealth", "tbi")):
        for node in ("ms", list(folders)[number + 1]):
            shutil.copytree(SAMPLES / name, folders[node] / name)
        for csv in (folders["ms"] / name).glob("*.csv"):
            csv.unlink()

    def held() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for node, folder in folders.items():
            told = run_module("dataset_info", {"data_dir": str(folder), "mode": "files", "cdes_content": node == "ms"})
            assert not told.failed, told.msg
            found[node] = {"state": "present", "pathologies": told["pathologies"], "problems": told["problems"]}
        return {"master": {"name": "ms", **found.pop("ms")}, "nodes": found}

    first = consolidate(held(), place)
    assert not first.failed, first.msg
    assert _consolidation.unpacked(first["portal"]["content"]) == (SAMPLES / "expected" / "samples.json").read_bytes()
    assert {notice["code"] for notice in first["notices"]} == {"cdes-type"}
    for node, names in first["targets"].items():
        for name in names:
            (folders[node] / name / "CDEsMetadata.json").write_bytes(_consolidation.unpacked(first["contents"][name]["content"]))
    second = consolidate(held(), place)
    assert not second.failed and not second.changed and second["plan"]["changes"] == 0
    with (folders["hospital-c"] / "tbi" / "CDEsMetadata.json").open("a", encoding="utf-8") as stream:
        stream.write("}")
    (folders["hospital-a"] / "dementia" / "link.csv").symlink_to("/etc/passwd")
    third = consolidate(held(), place)
    assert [(problem["node"], problem["code"]) for problem in third["problems"]] == [
        ("hospital-a", "symlink"),
        ("hospital-c", "cdes-invalid"),
    ]


def test_a_label_that_was_edited(place: dict[str, str]) -> None:
    labels = Path(place["labels"])
    labels.write_text("# ours\npathologies:\n  tbi: 'TBI'   # short\ndatasets: {}\n", encoding="utf-8")
    labels.chmod(0o640)
    result = consolidate(federation(), place)
    assert result.changed and result["plan"]["pathologies"]["tbi"]["label"] == "TBI"
    text = labels.read_text(encoding="utf-8")
    assert text.startswith("# ours\npathologies:\n  tbi: 'TBI'   # short\n  dementia: Dementia\n")
    assert labels.stat().st_mode & 0o777 == 0o640


def test_another_plan_than_the_expected_one(place: dict[str, str]) -> None:
    result = consolidate(federation(), place, expected_plan="0" * 64)
    assert result.failed and result["mip_error"] == "check"
    assert [problem["code"] for problem in result["problems"]] == ["plan-changed"]
    assert len(result["new_plan"]["id"]) == 64 and "plan" not in result and "contents" not in result
    assert not Path(place["labels"]).exists()


def test_errors_are_listed_and_nothing_is_written(place: dict[str, str]) -> None:
    given = federation()
    given["nodes"]["hospital-c"]["pathologies"]["dementia"] = copy.deepcopy(given["nodes"]["hospital-a"]["pathologies"]["dementia"])
    given["nodes"]["hospital-c"]["pathologies"]["none"] = {"cdes": {"present": False}, "files": {}}
    Path(place["labels"]).write_text("pathologies: [1]\n1: x\n", encoding="utf-8")
    Path(place["record"]).parent.mkdir()
    Path(place["record"]).write_text("{}", encoding="utf-8")
    result = consolidate(given, place)
    assert result.failed and result["mip_error"] == "check" and "contents" not in result
    assert sorted(problem["code"] for problem in result["problems"]) == ["cdes-missing", "dataset-shared", "labels", "labels", "record"]
    assert all(problem["message"] in result.msg and problem["fix"] for problem in result["problems"])
    assert result.msg.startswith("nothing was consolidated:\n- ")
    assert Path(place["record"]).read_text(encoding="utf-8") == "{}"


def test_many_errors_in_the_message(place: dict[str, str]) -> None:
    given = federation()
    given["nodes"]["hospital-c"]["problems"] = [{"code": "symlink", "message": f"link {number}", "fix": "f"} for number in range(500)]
    result = consolidate(given, place)
    assert len(result["problems"]) == 500 and result.msg.endswith("\n- and 300 more")


def test_files_that_cannot_be_written(place: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no folder", encoding="utf-8")
    result = consolidate(federation(), place)
    assert result.failed
    assert [(problem["code"], "data.json" in problem["message"]) for problem in result["problems"]] == [("record", True)]
    (tmp_path / "state").unlink()
    place["labels"] = str(tmp_path / "file" / "labels.yml")
    (tmp_path / "file").symlink_to("/proc/1/none")
    result = consolidate(federation(), place)
    assert result.failed and result["problems"][0]["code"] in ("labels", "write")


def test_without_ruamel(place: dict[str, str], tmp_path: Path) -> None:
    broken = tmp_path / "path" / "ruamel"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('not here')\n", encoding="utf-8")
    environment = {"PYTHONPATH": os.pathsep.join([str(broken.parent), str(Path(_cdes.__file__).parents[5])])}
    result = run_module("cde_consolidate", {**federation(), **place}, environment=environment)
    assert result.failed and "ruamel.yaml" in result.msg and "Python" in result.msg


# -- the file of labels --------------------------------------------------------------------------------------------------------


def labels_of(path: Path, text: str | None) -> _labels.Labels:
    if text is not None:
        path.write_bytes(text.encode())
    labels = _labels.Labels(str(path))
    labels.read()
    return labels


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("pathologies: {a: b", ["1:19: "]),
        ("a: b\n", [":1:1: unknown key 'a'"]),
        ("- a\n", [":1:1: expected names"]),
        ("text\n", [":1:1: expected names"]),
        ("pathologies: x\n", [":1:1: pathologies: expected names"]),
        (
            "pathologies:\n  a: 1\n  b: ''\n  c: yes\n  d:\n  2: x\n",
            ["2:3: pathologies.a is no label", ":3:3: ", ":5:3: ", ":6:3: pathologies: the name 2 "],
        ),
        ("datasets:\n  p: [x]\n  q:\n    c: {}\n", [":2:3: datasets.p: expected", ":4:5: datasets.q.c is no label"]),
        ('pathologies:\n  a: "x\\ny"\n', ["one line"]),
        (f"pathologies:\n  a: {'x' * 201}\n", ["more than 200"]),
        ("pathologies:\n  a: x\n  a: y\n", ["duplicate key"]),
        ("pathologies: !!python/object:os.system {}\n", []),
        ("\x00", ["special characters"]),
    ],
)  # fmt: skip
def test_wrong_labels(tmp_path: Path, text: str, wrong: list[str]) -> None:
    path = tmp_path / "labels.yml"
    if not wrong:
        assert labels_of(path, text).labels == {"pathologies": {}, "datasets": {}}
        return
    with pytest.raises(_labels.FileError) as caught:
        labels_of(path, text)
    messages = [message for message, _fix in caught.value.problems]
    assert len(messages) == len(wrong)
    for message, part in zip(sorted(messages), wrong, strict=True):
        assert message.startswith(str(path)) and part in message


def test_label_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"pathologies: {a: \xe9}\n")
    for path, part in ((tmp_path, "cannot be read"), (tmp_path / "latin", "not UTF-8 (byte 18)")):
        labels = _labels.Labels(str(path))
        with pytest.raises(_labels.FileError) as caught:
            labels.read()
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "# only this\n",
        "---\n",
        "{}\n",
        "---\n# head\npathologies:\n  t: T  # why\n",
        "pathologies:\ndatasets:\n",
        "pathologies: {}\ndatasets: {t: }\n",
        "\ufeffdatasets:\r\n  t:\r\n    old: Old\r\n",
        "# head\n\ndatasets:\n  # in between\n  t:\n      old:   'Old'  # why\n\npathologies: {t: \"T\"}\n# tail\n",
    ],
)
def test_labels_are_added_and_all_else_stays(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "labels.yml"
    before = labels_of(path, text)
    assert before.with_labels({"pathologies": {}, "datasets": {}}) == before.text
    wanted = {
        "pathologies": {**before.labels["pathologies"], "t": "Tée: #1", "2019": "yes"},
        "datasets": {"t": {**before.labels["datasets"].get("t", {}), "1e5": "'quoted'", "no": "~"}, "u": {"0123": "- x"}},
    }
    new = before.with_labels(wanted)
    _labels.write(str(path), new)
    after = labels_of(path, None)
    assert after.labels == wanted
    assert after.with_labels(wanted) == after.text == new
    for line in (text or "").splitlines():
        if "#" in line:
            assert line[line.index("#") :] in new
    assert new.count("---") == (1 if text in (None, "", "{}\n") or text.startswith("---") else 0)


def test_record_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    record = _labels.Record(str(path))
    record.read()
    assert record.record == _consolidation.empty_record()
    good = {
        "schema": 1,
        "nodes": {"w": {"since": "t", "pathologies": {"p": {"files": {"f.csv": {"a": 3, "b": "<10"}}}}}},
        "handed_out": {"p": [{"sha256": "s", "model": "m", "time": "t"}]},
        "portal": {"sha256": "s", "time": "t", "entries": {"p": {"label": "P", "datasets": {"a": "A"}}}},
    }
    path.write_text(_labels.record_text(good), encoding="utf-8")
    record.read()
    assert record.record == good
    bad: list[Any] = [
        "text",
        [],
        {},
        {**good, "nodes": []},
        {**good, "portal": None},
        {**good, "handed_out": {"p": [{}]}},
        {**good, "schema": 2},
    ]
    bad += [{**good, "nodes": {"w": {"since": "t", "pathologies": {"p": {"files": {"f.csv": {"a": None}}}}}}}, {**good, "schema": "x"}]
    for content in [*(json.dumps(value) for value in bad), "", "{", "[" * 100000]:
        path.write_text(content, encoding="utf-8")
        with pytest.raises(_labels.FileError) as caught:
            _labels.Record(str(path)).read()
        ((_message, fix),) = caught.value.problems
        assert fix
