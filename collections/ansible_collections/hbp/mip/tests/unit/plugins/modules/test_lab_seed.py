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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _lab_seed as seed
from ansible_collections.hbp.mip.tests.helpers.modules import Result, run_module

ALL = ["dementia", "mentalhealth", "tbi"]


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
    for dataset in seed.plan([1, 2], ALL, 5):
        assert seed.table(dataset, 5) == seed.table(dataset, 5)
        assert seed.table(dataset, 5) != seed.table(dataset, 6)
    assert seed.plan([1, 2], ALL, 5) == seed.plan([1, 2], ALL, 5)


def test_data_are_fixed() -> None:
    """Other Pythons and other machines must make the same. A change of the generator must change GENERATOR, and this value."""
    found = b"".join(seed.table(dataset, 1) for dataset in seed.plan([1, 2, 3], ALL, 1))
    assert seed.GENERATOR == 2
    assert hashlib.sha256(found).hexdigest() == "6e285648e852eccfac7d0a2555ecc6e4b36cf13d9faf4ffb58ef11ff72d2bd5a"


def test_data_do_not_depend_on_the_other_hospitals() -> None:
    few = {dataset.code: dataset for dataset in seed.plan([1, 2], ALL, 1)}
    many = {dataset.code: dataset for dataset in seed.plan(list(range(1, 9)), ALL, 1)}
    assert set(few) < set(many)
    assert all(many[code] == dataset for code, dataset in few.items())


@pytest.mark.parametrize("hospitals", [[1], [1, 2], [1, 2, 3], [4, 7], list(range(1, 51))])
def test_plan(hospitals: list[int]) -> None:
    datasets = seed.plan(hospitals, ALL, 1)
    codes = [dataset.code for dataset in datasets]
    assert len(set(codes)) == len(codes)
    assert codes == [code.lower() for code in codes]
    assert {dataset.hospital for dataset in datasets} == set(hospitals)
    for hospital in hospitals:
        assert len({dataset.pathology for dataset in datasets if dataset.hospital == hospital}) == 2
    small = [dataset for dataset in datasets if dataset.rows < 10]
    assert len(small) == 1
    assert all(300 <= dataset.rows <= 1000 for dataset in datasets if dataset not in small)


def test_of_three_pathologies_each_is_at_two_of_three_hospitals() -> None:
    for first in range(1, 8):
        datasets = seed.plan([first, first + 1, first + 2], ALL, 1)
        for pathology in ALL:
            assert len({dataset.hospital for dataset in datasets if dataset.pathology == pathology}) == 2


@pytest.mark.parametrize("pathologies", [["dementia"], ["mentalhealth", "tbi"]])
def test_up_to_two_pathologies_are_everywhere(pathologies: list[str]) -> None:
    datasets = seed.plan([1, 2, 3], pathologies, 1)
    for hospital in (1, 2, 3):
        assert {dataset.pathology for dataset in datasets if dataset.hospital == hospital} == set(pathologies)
    assert sum(dataset.rows < 10 for dataset in datasets) == 1


@pytest.mark.parametrize("pathology", ALL)
def test_metadata_follow_the_rules_of_the_format(pathology: str) -> None:
    datasets = seed.plan([1, 2, 3], ALL, 1)
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


@pytest.mark.parametrize("pathology", ALL)
def test_every_value_is_allowed(pathology: str) -> None:
    datasets = seed.plan([1, 2], ALL, 1)
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


def test_injury_shows_in_the_data() -> None:
    dataset = next(item for item in seed.plan([2, 3], ALL, 1) if item.code == "tbi-h3")
    rows = list(csv.DictReader(io.StringIO(seed.table(dataset, 1).decode())))

    def mean(code: str, chosen: Callable[[dict[str, str]], bool]) -> float:
        cells = [float(row[code]) for row in rows if chosen(row) and row[code]]
        return sum(cells) / len(cells)

    groups = [lambda row: row["gose"] in {"1", "3"}, lambda row: row["gose"] in {"5", "6"}, lambda row: row["gose"] == "8"]
    assert sorted(values := [mean("gcstotal", group) for group in groups]) == values
    assert sorted(values := [-mean("gfap", group) for group in groups]) == values
    for row in rows:
        parts = [row[code] for code in ("gcseye", "gcsmotor", "gcsverbal")]
        if all(parts) and row["gcstotal"]:
            assert sum(map(int, parts)) == int(row["gcstotal"])
        # Nobody answers questions about the quality of a life that ended.
        assert not (row["gose"] == "1" and row["qolibri"])


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
    assert sorted(planned["written"]) == sorted(applied["written"]) != []
    assert "ms:/data/lab/dementia/datasets.db: to be written" in planned["diff"]["after"]
    files = lab.files()
    assert "wk-2/data/lab/dementia/dementia-h2-pilot.csv" in files
    assert sorted(f"{label.partition(':/')[0]}/{label.partition(':/')[2]}" for label in applied["written"]) == sorted(files)
    assert not [name for name in files if name.startswith("ms/") and name.endswith(".csv")]
    assert files["ms/data/lab/dementia/CDEsMetadata.json"] == files["wk-2/data/lab/dementia/CDEsMetadata.json"]
    assert {name: sorted(found) for name, found in applied["datasets"].items()} == {
        "ms": ["dementia", "mentalhealth", "tbi"], "wk-1": ["dementia", "mentalhealth"], "wk-2": ["dementia", "tbi"],
    }  # fmt: skip
    assert applied["files"]["wk-1"]["dementia"] == ["dementia-h1.csv", "dementia-h1-cohort2.csv"]
    assert applied["files"]["ms"]["tbi"] == []
    for name, pathologies in applied["datasets"].items():
        for pathology, datasets in pathologies.items():
            with sqlite3.connect(lab.folder / name / "data/lab" / pathology / "datasets.db") as connection:
                assert dict(connection.execute("SELECT dataset, COUNT(*) FROM DATA GROUP BY 1")) == datasets
    assert oct(os.stat(lab.folder / "wk-1/data/lab/dementia/datasets.db").st_mode & 0o777) == "0o640"


def test_databases_are_what_the_compiler_makes(lab: Lab) -> None:
    """So that nothing is left to do for `mipfed data compile`, and the engine reads the same as after it."""
    lab.run()
    for node in lab.nodes:
        for policy in ("strict", "legacy"):
            arguments = {"data_dir": f"{node['root']}/data/lab", "metadata_only": node["kind"] == "master", "policy": policy}
            found = run_module("dataset_compile", arguments, check=True)
            assert {entry["state"] for entry in found["pathologies"].values()} == {"unchanged" if policy == "strict" else "would_compile"}


def test_module_brings_back_what_is_missing_and_what_a_killed_run_forgot(lab: Lab) -> None:
    lab.run()
    (lab.folder / "wk-1/data/lab/dementia/datasets.db").unlink()
    assert lab.run()["written"] == [f"wk-1:/data/lab/dementia/{name}" for name in ("datasets.db", "datasets.db.json")]
    before = lab.files()
    (lab.folder / "state/seed.json").unlink()
    result = lab.run()
    assert not result.changed
    assert result["kept"] == []
    assert lab.files() == before


def test_module_leaves_the_files_of_others_alone(lab: Lab) -> None:
    folder = lab.folder / "wk-1/data/lab/dementia"
    folder.mkdir(parents=True)
    (folder / "CDEsMetadata.json").write_text("{}")
    first = lab.run()
    assert first["kept"] == ["wk-1:/data/lab/dementia/CDEsMetadata.json"]
    assert "wk-1:/data/lab/dementia has files of others and was not compiled" in str(first.warnings)
    assert not (folder / "datasets.db").exists()
    (folder / "datasets.db").write_bytes(b"compiled by somebody else")
    for check in (True, False):
        again = lab.run(check=check)
        assert not again.changed
        assert again["kept"] == ["wk-1:/data/lab/dementia/CDEsMetadata.json"]
    assert (folder / "datasets.db").read_bytes() == b"compiled by somebody else"
    forced = lab.run(force=True)
    names = ("CDEsMetadata.json", "datasets.db", "datasets.db.json")
    assert sorted(forced["written"]) == [f"wk-1:/data/lab/dementia/{name}" for name in names]
    assert not lab.run().changed


@pytest.mark.parametrize("check", [True, False])
def test_module_leaves_a_database_of_others_alone(lab: Lab, check: bool) -> None:
    lab.run()
    path = lab.folder / "wk-1/data/lab/dementia/datasets.db"
    path.write_bytes(b"compiled by somebody else")
    again = lab.run(check=check)
    assert not again.changed
    assert again["kept"] == ["wk-1:/data/lab/dementia/datasets.db"]
    assert path.read_bytes() == b"compiled by somebody else"


@pytest.mark.parametrize("check", [True, False])
def test_module_does_not_compile_where_others_have_put_files(lab: Lab, check: bool) -> None:
    lab.run()
    own = lab.folder / "wk-1/data/lab/dementia/own.csv"
    own.write_text("dataset\nx\n")
    (lab.folder / "wk-1/data/lab/dementia/dementia-h1.csv").unlink()
    before = (lab.folder / "wk-1/data/lab/dementia/datasets.db").read_bytes()
    again = lab.run(check=check)
    assert again["written"] == ["wk-1:/data/lab/dementia/dementia-h1.csv"]
    assert "wk-1:/data/lab/dementia has files of others and was not compiled" in str(again.warnings)
    assert (lab.folder / "wk-1/data/lab/dementia/datasets.db").read_bytes() == before
    assert own.exists()


def test_module_without_databases(lab: Lab) -> None:
    lab.run(databases=False)
    assert not [name for name in lab.files() if "datasets.db" in name]
    lab.run()
    before = lab.files()
    assert not lab.run(databases=False).changed
    lab.run(databases=False, pathologies=["dementia"])
    assert lab.files().keys() == {name for name in before if "/dementia/" in name}


def test_module_follows_a_smaller_federation(lab: Lab) -> None:
    lab.run()
    own = lab.folder / "wk-1/data/lab/mentalhealth/own.csv"
    own.write_text("x")
    planned = lab.run(check=True, pathologies=["dementia"])
    applied = lab.run(pathologies=["dementia"])
    assert planned["removed"] == applied["removed"]
    assert "wk-1:/data/lab/mentalhealth/datasets.db" in applied["removed"]
    assert own.exists()
    assert not (lab.folder / "wk-2/data/lab/tbi").exists()
    assert not lab.run(pathologies=["dementia"]).changed


def test_module_adds_a_hospital_to_everybodys_metadata(lab: Lab) -> None:
    lab.run()
    root = lab.folder / "wk-3"
    root.mkdir()
    lab.nodes.append({"name": "wk-3", "kind": "worker", "root": str(root)})
    written = lab.run()["written"]
    assert "wk-3:/data/lab/mentalhealth/mentalhealth-h3.csv" in written
    assert {"wk-1:/data/lab/mentalhealth/CDEsMetadata.json", "wk-1:/data/lab/mentalhealth/datasets.db"} <= set(written)
    assert "wk-1:/data/lab/mentalhealth/mentalhealth-h1.csv" not in written
    assert not any("/dementia/" in name for name in written), "it has no part in it"


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


# A source


SAMPLES = Path(__file__).resolve().parents[8] / "tests" / "samples"


def write_source(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def test_source_is_dealt_to_the_hospitals_in_turn(lab: Lab) -> None:
    root = lab.folder / "wk-3"
    root.mkdir()
    lab.nodes.append({"name": "wk-3", "kind": "worker", "root": str(root)})
    planned = lab.run(check=True, source=str(SAMPLES))
    assert lab.files() == {}
    applied = lab.run(source=str(SAMPLES))
    assert planned["written"] == applied["written"]
    assert applied["files"] == {
        "ms": {"dementia": [], "mentalhealth": [], "tbi": []},
        "wk-1": {"dementia": ["desd-synthdata.csv"]},
        "wk-2": {"mentalhealth": ["demo.csv"]},
        "wk-3": {"tbi": ["dummy_tbi.csv"]},
    }
    wanted = {f"ms/data/lab/{name}/CDEsMetadata.json": SAMPLES / name / "CDEsMetadata.json" for name in ALL}
    for node, pathology, name in (("wk-1", "dementia", "desd-synthdata"), ("wk-2", "mentalhealth", "demo"), ("wk-3", "tbi", "dummy_tbi")):
        for file in ("CDEsMetadata.json", f"{name}.csv"):
            wanted[f"{node}/data/lab/{pathology}/{file}"] = SAMPLES / pathology / file
    assert lab.files() == {name: path.read_bytes() for name, path in wanted.items()}
    assert applied["datasets"] == {}
    assert not lab.run(source=str(SAMPLES)).changed


def test_source_goes_around_and_replaces_synthetic_data(lab: Lab, tmp_path: Path) -> None:
    lab.run()
    files = {"b/CDEsMetadata.json": "{}", "a/CDEsMetadata.json": "{}", "a/2.csv": "2", "a/1.csv": "1", "b/3.csv": "3", "b/x.txt": "-"}
    source = write_source(tmp_path / "source", {**files, "notes/x.txt": "-"})
    applied = lab.run(source=str(source))
    assert applied["files"] == {
        "ms": {"a": [], "b": []}, "wk-1": {"a": ["1.csv"], "b": ["3.csv"]}, "wk-2": {"a": ["2.csv"]},
    }  # fmt: skip
    assert {name for name in lab.files() if "datasets.db" in name or "dementia" in name} == set()
    (source / "a/1.csv").write_text("changed")
    assert lab.run(source=str(source))["written"] == ["wk-1:/data/lab/a/1.csv"]
    (lab.folder / "wk-1/data/lab/a/1.csv").write_text("corrected by somebody")
    assert lab.run(source=str(source))["kept"] == ["wk-1:/data/lab/a/1.csv"]
    lab.nodes.reverse()
    assert lab.run(source=str(source))["files"]["wk-2"] == {"a": ["1.csv"], "b": ["3.csv"]}
    synthetic = lab.run()
    assert "wk-1:/data/lab/a/1.csv" not in synthetic["removed"]


def test_source_can_be_compiled(lab: Lab) -> None:
    applied = lab.run(source=str(SAMPLES), databases=True)
    assert "wk-1:/data/lab/dementia/datasets.db" in applied["written"]
    with sqlite3.connect(lab.folder / "wk-1/data/lab/dementia/datasets.db") as connection:
        assert connection.execute("SELECT dataset, COUNT(*) FROM DATA GROUP BY 1").fetchall() == [("desd-synthdata", 1000)]
    assert not lab.run(source=str(SAMPLES), databases=True).changed


def test_source_that_does_not_compile(lab: Lab, tmp_path: Path) -> None:
    cdes = (SAMPLES / "tbi/CDEsMetadata.json").read_text()
    source = write_source(tmp_path / "source", {"tbi/CDEsMetadata.json": cdes, "tbi/bad.csv": "dataset,age_value\ndummy_tbi,canary-7\n"})
    applied = lab.run(source=str(source), databases=True)
    assert not applied.failed
    assert "wk-1:/data/lab/tbi was not compiled: 1 error" in str(applied.warnings)
    assert "canary" not in applied.output


@pytest.mark.parametrize(
    ("files", "messages"),
    [
        ({}, ["has no folder with a CDEsMetadata.json"]),
        ({"x.csv": "x"}, ["has no folder with a CDEsMetadata.json"]),
        ({"a/1.csv": "1", "b c/CDEsMetadata.json": "{}"}, ["a has CSV files, but no CDEsMetadata.json", "'b c' cannot be a pathology"]),
        ({"a/CDEsMetadata.json/x": "", "a/1.csv/x": ""}, ["a/CDEsMetadata.json is not a file", "a/1.csv is not a file"]),
    ],
)
def test_source_is_checked_before_anything_is_written(lab: Lab, tmp_path: Path, files: dict[str, str], messages: list[str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    result = lab.run(source=str(write_source(source, files)))
    assert result.failed
    assert all(message in result.msg for message in messages), result.msg
    assert lab.files() == {}


def test_source_is_missing_or_has_no_hospital(lab: Lab, tmp_path: Path) -> None:
    assert f"source: there is no folder {tmp_path}/nosuch" in lab.run(source=str(tmp_path / "nosuch")).msg
    (tmp_path / "file").write_text("")
    assert f"source: {tmp_path}/file cannot be read: Not a directory" in lab.run(source=str(tmp_path / "file")).msg
    del lab.nodes[1:]
    assert "there is no hospital" in lab.run(source=str(SAMPLES)).msg
