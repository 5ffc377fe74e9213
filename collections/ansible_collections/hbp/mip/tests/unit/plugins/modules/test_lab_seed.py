# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Synthetic data: the same for the same seed, fit for the engine, and never in the way of somebody else's files."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _lab_seed as seed
from ansible_collections.hbp.mip.tests.helpers.modules import Result, run_module

BOTH = ["dementia", "mentalhealth"]


def walk(node: dict[str, Any], depth: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    for variable in node.get("variables", []):
        yield depth, variable
    for group in node.get("groups", []):
        yield from walk(group, depth + 1)


def groups(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for group in node.get("groups", []):
        yield group
        yield from groups(group)


def test_same_seed_gives_the_same_bytes() -> None:
    for dataset in seed.plan([1, 2], BOTH, 5):
        assert seed.table(dataset, 5) == seed.table(dataset, 5)
        assert seed.table(dataset, 5) != seed.table(dataset, 6)
    assert seed.plan([1, 2], BOTH, 5) == seed.plan([1, 2], BOTH, 5)


def test_data_are_fixed() -> None:
    """Other Pythons and other machines must make the same. A change of the generator must change GENERATOR, and this value."""
    found = b"".join(seed.table(dataset, 1) for dataset in seed.plan([1, 2, 3], BOTH, 1))
    assert seed.GENERATOR == 1
    assert hashlib.sha256(found).hexdigest() == "5547fc1147e538da3239f539b2e685f991317aff4c7b4a3af21df0f4a2fae802"


def test_data_do_not_depend_on_the_other_hospitals() -> None:
    few = {dataset.code: dataset for dataset in seed.plan([1, 2], BOTH, 1)}
    many = {dataset.code: dataset for dataset in seed.plan(list(range(1, 9)), BOTH, 1)}
    assert set(few) < set(many)
    assert all(many[code] == dataset for code, dataset in few.items())


@pytest.mark.parametrize("hospitals", [[1], [1, 2], [1, 2, 3], [4, 7], list(range(1, 51))])
def test_plan(hospitals: list[int]) -> None:
    datasets = seed.plan(hospitals, BOTH, 1)
    codes = [dataset.code for dataset in datasets]
    assert len(set(codes)) == len(codes)
    assert codes == [code.lower() for code in codes]
    assert {dataset.hospital for dataset in datasets} == set(hospitals)
    small = [dataset for dataset in datasets if dataset.rows < 10]
    assert len(small) == 1
    assert all(300 <= dataset.rows <= 1000 for dataset in datasets if dataset not in small)


@pytest.mark.parametrize("pathology", BOTH)
def test_metadata_follow_the_rules_of_the_format(pathology: str) -> None:
    datasets = seed.plan([1, 2, 3], BOTH, 1)
    tree = json.loads(seed.metadata(pathology, datasets))
    assert tree["code"] == pathology
    assert {"code", "label", "version"} <= set(tree)
    found = list(walk(tree))
    codes = [variable["code"] for _depth, variable in found]
    assert 25 <= len(codes) <= 40
    assert len({code.lower() for code in codes}) == len(codes)
    assert max(depth for depth, _variable in found) >= 2
    names = [group["code"] for group in groups(tree)]
    assert len(set(names)) == len(names)
    for _depth, variable in found:
        assert variable["code"].isidentifier()
        assert {"code", "label", "sql_type", "isCategorical", "type"} <= set(variable)
        assert (variable["type"], variable["sql_type"]) in {("nominal", "text"), ("text", "text"), ("real", "real"), ("integer", "int")}
        assert variable["isCategorical"] is (variable["type"] == "nominal")
        assert ("enumerations" in variable) is variable["isCategorical"]
        for entry in variable.get("enumerations", []):
            assert set(entry) == {"code", "label"}
            assert "," not in entry["code"]
        if "minValue" in variable:
            assert variable["minValue"] < variable["maxValue"]
    dataset = tree["variables"][0]
    assert dataset["code"] == "dataset"
    assert [entry["code"] for entry in dataset["enumerations"]] == [item.code for item in datasets if item.pathology == pathology]
    assert codes == [variable.code for variable in seed.columns(pathology, datasets)]


@pytest.mark.parametrize("pathology", BOTH)
def test_every_value_is_allowed(pathology: str) -> None:
    datasets = seed.plan([1, 2], BOTH, 1)
    known = {variable.code: variable for variable in seed.columns(pathology, datasets)}
    for dataset in (item for item in datasets if item.pathology == pathology):
        rows = list(csv.DictReader(io.StringIO(seed.table(dataset, 1).decode())))
        assert len(rows) == dataset.rows
        assert set(rows[0]) == set(known) - set(dataset.without)
        assert len({row["subjectcode"] for row in rows}) == len(rows)
        assert {row["dataset"] for row in rows} == {dataset.code}
        for row in rows:
            for code, cell in row.items():
                variable = known[code]
                if not cell:
                    continue
                if variable.enumerations:
                    assert cell in [name for name, _label in variable.enumerations]
                if variable.kind in ("real", "integer"):
                    number = int(cell) if variable.kind == "integer" else float(cell)
                    assert variable.minimum is not None
                    assert variable.maximum is not None
                    assert variable.minimum <= number <= variable.maximum


def test_disease_shows_in_the_data() -> None:
    dataset = seed.plan([1], ["dementia"], 1)[0]
    rows = list(csv.DictReader(io.StringIO(seed.table(dataset, 1).decode())))

    def mean(code: str, category: str) -> float:
        cells = [float(row[code]) for row in rows if row["alzheimerbroadcategory"] == category and row[code]]
        return sum(cells) / len(cells)

    assert mean("lefthippocampus", "AD") < mean("lefthippocampus", "MCI") < mean("lefthippocampus", "CN")
    assert mean("minimentalstate", "AD") < mean("minimentalstate", "MCI") < mean("minimentalstate", "CN")
    assert mean("leftlateralventricle", "AD") > mean("leftlateralventricle", "CN")
    empty = sum(not cell for row in rows for cell in row.values())
    assert 0.02 < empty / sum(len(row) for row in rows) < 0.2


def test_database_is_what_the_engine_reads(tmp_path: Path) -> None:
    datasets = seed.plan([1, 2], BOTH, 1)
    held = [dataset for dataset in datasets if dataset.pathology == "dementia" and dataset.hospital == 2]
    path = tmp_path / "datasets.db"
    seed.write_database(str(path), "dementia", datasets, held, 1)
    wanted = seed.columns("dementia", datasets)
    with sqlite3.connect(path) as connection:
        meta = connection.execute("SELECT * FROM METADATA").fetchall()
        info = connection.execute("PRAGMA table_info(DATA)").fetchall()
        assert [(row[1], row[2].lower()) for row in info] == [(variable.code, variable.sql_type) for variable in wanted]
        columns = [row[1] for row in connection.execute("PRAGMA table_info(METADATA)")]
        assert columns == ["code", "label", "sql_type", "isCategorical", "enumerations", "min", "max"]
        assert [row[0] for row in meta] == [variable.code for variable in wanted]
        assert meta[0][4] == ",".join(dataset.code for dataset in datasets if dataset.pathology == "dementia")
        assert {row[5:] for row in meta} == {(None, None)}
        assert connection.execute("SELECT COUNT(*) FROM DATA").fetchone() == (sum(dataset.rows for dataset in held),)
        assert connection.execute("SELECT DISTINCT typeof(tiv) FROM DATA ORDER BY 1").fetchall() == [("null",), ("real",)]
        assert connection.execute("SELECT DISTINCT typeof(minimentalstate) FROM DATA ORDER BY 1").fetchall() == [("integer",), ("null",)]
        assert connection.execute("SELECT DISTINCT typeof(handedness) FROM DATA").fetchall() == [("text",)]
        assert connection.execute("SELECT COUNT(csftau) FROM DATA").fetchone() == (0,)
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute("UPDATE DATA SET tiv = 'large'")
    again = tmp_path / "again.db"
    seed.write_database(str(again), "dementia", datasets, held, 1)
    assert again.read_bytes() == path.read_bytes()


# The module


class Lab:
    """Roots of machines, and the module's arguments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: list[dict[str, Any]] = []
        for name in ("ms", "wk-1", "wk-2"):
            root = folder / name
            root.mkdir()
            self.nodes.append({"name": name, "kind": "master" if name == "ms" else "worker", "root": str(root)})

    def run(self, *, check: bool = False, **changes: Any) -> Result:
        arguments = {"nodes": self.nodes, "data_dir": "/data/lab", "record": str(self.folder / "state/seed.json"), **changes}
        return run_module("lab_seed", arguments, check=check)

    def files(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in self.folder.glob("*/data/**/*") if path.is_file()}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_module_check_apply_apply_check(lab: Lab) -> None:
    planned = lab.run(check=True)
    assert lab.files() == {}
    applied = lab.run()
    again = lab.run()
    checked = lab.run(check=True)
    assert [planned.changed, applied.changed, again.changed, checked.changed] == [True, True, False, False]
    assert planned["written"] == applied["written"] != []
    assert "ms:/data/lab/dementia/datasets.db: to be written" in planned["diff"]["after"]
    files = lab.files()
    assert "wk-2/data/lab/dementia/dementia-h2-pilot.csv" in files
    assert not [name for name in files if name.startswith("ms/") and name.endswith(".csv")]
    assert not [name for name in files if Path(name).name.startswith(".")]
    assert files["ms/data/lab/dementia/CDEsMetadata.json"] == files["wk-2/data/lab/dementia/CDEsMetadata.json"]
    assert applied["datasets"]["ms"] == {"dementia": {}, "mentalhealth": {}}
    for name, pathologies in applied["datasets"].items():
        for pathology, datasets in pathologies.items():
            with sqlite3.connect(lab.folder / name / "data/lab" / pathology / "datasets.db") as connection:
                assert dict(connection.execute("SELECT dataset, COUNT(*) FROM DATA GROUP BY 1")) == datasets
    assert oct(os.stat(lab.folder / "wk-1/data/lab/dementia/datasets.db").st_mode & 0o777) == "0o640"


def test_module_brings_back_what_is_missing_and_what_a_killed_run_forgot(lab: Lab) -> None:
    lab.run()
    before = lab.files()
    (lab.folder / "wk-1/data/lab/dementia/datasets.db").unlink()
    assert lab.run()["written"] == ["wk-1:/data/lab/dementia/datasets.db"]
    (lab.folder / "state/seed.json").unlink()
    result = lab.run()
    assert not result.changed
    assert result["kept"] == []
    assert lab.files() == before


def test_module_leaves_the_files_of_others_alone(lab: Lab) -> None:
    folder = lab.folder / "wk-1/data/lab/dementia"
    folder.mkdir(parents=True)
    (folder / "CDEsMetadata.json").write_text("{}")
    (folder / "own.csv").write_text("x")
    first = lab.run()
    assert first["kept"] == ["wk-1:/data/lab/dementia/CDEsMetadata.json"]
    (folder / "datasets.db").write_bytes(b"compiled by somebody else")
    for check in (True, False):
        again = lab.run(check=check)
        assert not again.changed
        assert sorted(again["kept"]) == ["wk-1:/data/lab/dementia/CDEsMetadata.json", "wk-1:/data/lab/dementia/datasets.db"]
    assert (folder / "datasets.db").read_bytes() == b"compiled by somebody else"
    forced = lab.run(force=True)
    assert sorted(forced["written"]) == ["wk-1:/data/lab/dementia/CDEsMetadata.json", "wk-1:/data/lab/dementia/datasets.db"]
    assert (folder / "own.csv").read_text() == "x"
    assert not lab.run().changed


def test_module_follows_a_smaller_federation(lab: Lab) -> None:
    lab.run()
    own = lab.folder / "wk-1/data/lab/mentalhealth/own.csv"
    own.write_text("x")
    planned = lab.run(check=True, pathologies=["dementia"])
    applied = lab.run(pathologies=["dementia"])
    assert planned["removed"] == applied["removed"]
    assert "wk-1:/data/lab/mentalhealth/datasets.db" in applied["removed"]
    assert own.exists()
    assert not (lab.folder / "wk-2/data/lab/mentalhealth").exists()
    assert not lab.run(pathologies=["dementia"]).changed


def test_module_adds_a_hospital_to_everybodys_metadata(lab: Lab) -> None:
    lab.run()
    root = lab.folder / "wk-3"
    root.mkdir()
    lab.nodes.append({"name": "wk-3", "kind": "worker", "root": str(root)})
    written = lab.run()["written"]
    assert "wk-3:/data/lab/dementia/dementia-h3.csv" in written
    assert "wk-1:/data/lab/dementia/CDEsMetadata.json" in written
    assert "wk-1:/data/lab/dementia/dementia-h1.csv" not in written


@pytest.mark.parametrize("part", ["data", "data/lab", "data/lab/dementia", "data/lab/dementia/datasets.db"])
def test_module_does_not_follow_a_link_out_of_the_machine(lab: Lab, part: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    link = lab.folder / "wk-1" / part
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)
    result = lab.run()
    assert result.failed
    assert f"wk-1: {link} is not a plain" in result.msg
    assert list(outside.iterdir()) == []


def test_module_names_what_is_wrong(lab: Lab) -> None:
    lab.nodes[1]["hospital"] = 2
    assert "must be different numbers" in lab.run().msg
    lab.nodes[1]["hospital"] = 1
    lab.nodes[1]["root"] = str(lab.folder / "nosuch")
    assert f"wk-1: its root {lab.folder}/nosuch does not exist" in lab.run().msg
    assert lab.run(check=True).changed
    (lab.folder / "state").mkdir(exist_ok=True)
    (lab.folder / "state/seed.json").write_text("{")
    assert "seed.json is damaged" in lab.run().msg
