# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The data of a federation: three pathologies over three hospitals, from files to the engine, with faults.

Each test goes on from what the one before it has left; after a failure the others are skipped.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from .conftest import INVENTORY, LAB, ROOT, Lab, lab_command

pytestmark = pytest.mark.in_order

SAMPLES = ROOT / "tests/samples"
FOLDER = f"/data/{LAB}"
PORTAL = f"/var/lib/mip/{LAB}/portal/pathologies.json"
LABELS = INVENTORY / "labels.yml"
#: Texts that stand in cells of patients, and may never leave their hospital.
CANARIES = {"subject": "canary-5e77-subject", "number": "canary-9c1d-number", "note": "canary-41fa-note"}

Rows = list[list[str]]


def rows_of(pathology: str, name: str) -> Rows:
    """A sample, with a canary in a column of free text where there is one."""
    with (SAMPLES / pathology / name).open(newline="") as file:
        rows = list(csv.reader(file))
    for column, canary in (("subjectcode", CANARIES["subject"]), ("B1m", CANARIES["note"])):
        if column in rows[0]:
            for number, row in enumerate(rows[1:], 1):
                row[rows[0].index(column)] = f"{canary}-{number}"
    return rows


def table(rows: Rows) -> str:
    """Rows as a CSV file."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def column(rows: Rows, name: str, value: str) -> Rows:
    """Rows with one value in all cells of a column."""
    place = rows[0].index(name)
    return [rows[0], *([*row[:place], value, *row[place + 1 :]] for row in rows[1:])]


def codes(content: str) -> list[str]:
    """The datasets that CDEs list."""

    def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from node.get("variables", [])
        for group in node.get("groups", []):
            yield from walk(group)

    return [entry["code"] for variable in walk(json.loads(content)) if variable["code"] == "dataset" for entry in variable["enumerations"]]


class Data:
    """The lab, and what lies on its machines."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.ui = f"{LAB}-ui"
        self.nodes = [lab.master, *lab.workers]
        #: What mipfed has written to its terminal.
        self.output: list[str] = []

    def mipfed(self, *arguments: str, code: int = 0) -> str:
        """Run mipfed; returns all that it writes."""
        done = self.lab.run(*arguments, code=code)
        self.output.append(done.stdout + done.stderr)
        return done.stdout + done.stderr

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Run mipfed; returns its document."""
        done = self.lab.run("-o", "json", *arguments, code=code)
        self.output.append(done.stdout + done.stderr)
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def read(self, node: str, path: str) -> str:
        """A file below the data folder."""
        return self.lab.ssh(node, f"cat {FOLDER}/{path}")

    def write(self, node: str, path: str, content: str) -> None:
        """Write a file below the data folder."""
        self.lab.ssh(node, f"cat > {FOLDER}/{path}", content=content)

    def hashes(self, nodes: Sequence[str] = ()) -> dict[str, str]:
        """All files of the federation's data, except those that only say what went wrong; also those on the pusher."""
        found = {}
        for node in nodes or self.nodes:
            listed = self.lab.ssh(node, f"cd {FOLDER} && find . -type f ! -name '*.errors.txt' -exec sha256sum {{}} +")
            found.update({f"{node}:{line[66:]}": line[:64] for line in listed.splitlines()})
        found[f"{self.ui}:portal"] = self.lab.ssh(self.ui, f"sha256sum < {PORTAL}", check=False)
        for path in (LABELS, INVENTORY / "state/data.json"):
            found[f"pusher:{path.name}"] = path.read_text() if path.exists() else ""
        return found

    def pathologies(self) -> dict[str, list[str]]:
        """What the portal shows: datasets by pathology, sorted."""
        return {
            entry["code"]: sorted(dataset["code"] for dataset in entry["datasets"])
            for entry in json.loads(self.lab.ssh(self.ui, f"cat {PORTAL}"))
        }

    def starts(self) -> dict[str, str]:
        """The containers in which the engines run, by node."""
        found = {}
        for node in self.nodes:
            ids = self.lab.ssh(node, "docker ps -q --no-trunc --filter name=_exareme").splitlines()
            found[node] = ",".join(sorted(name for name in ids if name))
        return found

    def listed(self) -> dict[str, dict[str, list[str]]]:
        """What the engine says that it has, without what has no dataset."""
        answer = self.lab.api("LIST_DATASET")
        return {node: held for node, found in answer.items() if (held := {name: sorted(codes) for name, codes in found.items() if codes})}

    def stale(self, code: int = 4) -> set[tuple[str, str, str]]:
        """Nodes and pathologies that `data ls` does not call compiled, with the state."""
        found = self.json("data", "ls", code=code)["result"]["pathologies"]
        return {
            (node, pathology, entry["compiled"]["state"])
            for pathology, known in found.items()
            for node, entry in known["nodes"].items()
            if entry["compiled"]["state"] != "compiled"
        }


@contextlib.contextmanager
def files_of(data: Data, *paths: tuple[str, str]) -> Iterator[None]:
    """Put files back afterwards, with their dates; those that were not there are removed."""
    nodes = {node: [path for other, path in paths if other == node] for node, _path in paths}
    for node, names in nodes.items():
        data.lab.ssh(
            node, f"cd {FOLDER} && tar cf /root/kept.tar --ignore-failed-read {' '.join(names)} 2>/dev/null; test -s /root/kept.tar"
        )
    try:
        yield
    finally:
        for node, names in nodes.items():
            data.lab.ssh(node, f"cd {FOLDER} && rm -f {' '.join(names)} && tar xf /root/kept.tar && rm /root/kept.tar")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples with canaries, and a second dataset of the first."""
    folder = tmp_path_factory.mktemp("source")
    for path in sorted(SAMPLES.glob("*/*.csv")):
        target = folder / path.parent.name
        target.mkdir()
        shutil.copy(path.with_name("CDEsMetadata.json"), target)
        (target / path.name).write_text(table(rows_of(target.name, path.name)))
    (folder / "dementia/edsd.csv").write_text(edsd(200))
    return folder


def edsd(rows: int) -> str:
    """A second hospital's dataset of the first pathology, as a CSV file."""
    return table(column(rows_of("dementia", "desd-synthdata.csv")[: rows + 1], "dataset", "edsd"))


@pytest.fixture(scope="module")
def data(machines: Lab, source: Path) -> Iterator[Data]:
    """A deployed federation of three hospitals with three pathologies; nobody has compiled these files yet.

    The files are dealt in turn: the first hospital gets a dataset of dementia and that of traumatic brain injury, the second
    another one of dementia, the third that of mental health.
    """
    lab_command("up", "--workers", "3", "--data", str(source))
    machines.read_hosts()
    machines.run("deploy", "-y")
    assert machines.all_active(), "an engine starts also before its data are compiled"
    yield Data(machines)


#: Datasets in the order that the samples' CDEs have.
PATHOLOGIES = {"dementia": ["edsd", "desd-synthdata"], "mentalhealth": ["demo"], "tbi": ["dummy_tbi"]}


def held(data: Data) -> dict[str, dict[str, list[str]]]:
    """What each hospital has been dealt."""
    first, second, third = data.lab.workers
    return {
        first: {"dementia": ["desd-synthdata"], "tbi": ["dummy_tbi"]}, second: {"dementia": ["edsd"]}, third: {"mentalhealth": ["demo"]},
    }  # fmt: skip


def totals(data: Data, pathology: str, datasets: Sequence[str], variable: str) -> dict[str, int]:
    """The numbers of rows that the engine counts."""
    answer = data.lab.api("DESCRIPTIVE_STATS", pathology=pathology, dataset=",".join(datasets), y=variable, filter="")
    assert answer["result"][0]["type"] == "application/json", answer
    single = next(iter(answer["result"][0]["data"]["single"].values()))
    return {code: found["num_total"] for code, found in single.items()}


def test_the_samples_are_consolidated_compiled_listed_and_analysed(data: Data) -> None:
    where = {(data.lab.master, name) for name in PATHOLOGIES} | {(node, name) for node, found in held(data).items() for name in found}
    # Some have the databases of what lay there before, others have none.
    assert {(node, name) for node, name, _state in data.stale()} == where

    consolidated = data.json("data", "consolidate", "-y")["result"]
    assert consolidated["problems"] == []
    for node, name in where:
        assert codes(data.read(node, f"{name}/CDEsMetadata.json")) == PATHOLOGIES[name]
    assert data.pathologies() == {name: sorted(found) for name, found in PATHOLOGIES.items()}
    assert {
        (entry["name"], node["name"], tuple(dataset["name"] for dataset in node["datasets"]))
        for entry in consolidated["structure"]
        for node in entry["nodes"]
    } == {(name, node, tuple(found)) for node, pathologies in held(data).items() for name, found in pathologies.items()}
    # A dataset that the sample's own CDEs list keeps its label from there.
    assert "edsd: EDSD" in LABELS.read_text()

    compiled = data.json("data", "compile", "-y")["result"]
    states = {(node, name): entry["state"] for node, found in compiled["nodes"].items() for name, entry in found["pathologies"].items()}
    assert states == dict.fromkeys(where, "compiled")
    # Worker by worker, and the master last.
    assert compiled["restarted"] == [*data.lab.workers, data.lab.master]
    assert data.lab.all_active()
    assert data.listed() == held(data)
    assert data.stale(code=0) == set()

    report = data.json("verify")["result"]
    assert report["engine"]["health"]["ok"] is True
    assert totals(data, "dementia", PATHOLOGIES["dementia"], "lefthippocampus") == {"desd-synthdata": 1000, "edsd": 200}
    assert totals(data, "mentalhealth", ["demo"], "lefthippocampus") == {"demo": 104}
    assert totals(data, "tbi", ["dummy_tbi"], "age_value") == {"dummy_tbi": 99}


def test_a_second_run_changes_nothing(data: Data) -> None:
    before, starts = data.hashes(), data.starts()
    consolidated = data.json("data", "consolidate", "-y")
    assert consolidated["result"]["plan"]["changes"] == 0
    compiled = data.json("data", "compile", "-y")
    assert compiled["result"]["restarted"] == []
    for document in (consolidated, compiled):
        assert {name: host["changed"] for name, host in document["hosts"].items() if host["changed"]} == {}
    assert data.hashes() == before
    assert data.starts() == starts


def test_an_edited_file_is_compiled_where_it_was_edited(data: Data) -> None:
    second = data.lab.workers[1]
    starts = data.starts()
    data.write(second, "dementia/edsd.csv", edsd(150))
    assert data.stale() == {(second, "dementia", "stale")}
    compiled = data.json("data", "compile", "-y")["result"]
    states = {(node, name): entry["state"] for node, found in compiled["nodes"].items() for name, entry in found["pathologies"].items()}
    assert {place for place, state in states.items() if state != "unchanged"} == {(second, "dementia")}
    assert compiled["restarted"] == [second]
    assert data.lab.all_active()
    now = data.starts()
    assert {node for node in data.nodes if now[node] != starts[node]} == {second}
    assert totals(data, "dementia", PATHOLOGIES["dementia"], "lefthippocampus") == {"desd-synthdata": 1000, "edsd": 150}


def test_wrong_files_stop_consolidation_with_one_message_each(data: Data) -> None:
    master, (first, second, _third) = data.lab.master, data.lab.workers
    wrong = [(master, "mentalhealth/CDEsMetadata.json"), (first, "tbi/wrong.csv"), (second, "dementia/twice.csv")]
    with files_of(data, *wrong, (second, "dementia/CDEsMetadata.json"), (second, "dementia/outside.csv")):
        broken = data.read(master, "mentalhealth/CDEsMetadata.json")[:-20]
        data.write(master, "mentalhealth/CDEsMetadata.json", broken)
        data.write(first, "tbi/wrong.csv", "dataset,age_value,unknown_column\ndummy2,8,x\n")
        data.write(second, "dementia/twice.csv", f"dataset,subjectcode\ndesd-synthdata,{CANARIES['subject']}\n")
        cdes = data.read(second, "dementia/CDEsMetadata.json")
        assert '"maxValue": 30,' in cdes
        data.write(second, "dementia/CDEsMetadata.json", cdes.replace('"maxValue": 30,', '"maxValue": 31,'))
        data.lab.ssh(second, f"ln -s /etc/passwd {FOLDER}/dementia/outside.csv")
        before, starts = data.hashes(), data.starts()
        document = data.json("data", "consolidate", "-y", code=4)
        assert data.hashes() == before
        assert data.starts() == starts
    messages = {f"{problem['host']}: {problem['message']}" for problem in document["errors"]}

    def told(*parts: str) -> bool:
        return any(all(part in message for part in parts) for message in messages)

    assert told(master, f"mentalhealth/CDEsMetadata.json:{len(broken.splitlines())}:"), messages
    assert told(first, "tbi/wrong.csv", "unknown_column"), messages
    assert told(first, second, "desd-synthdata"), messages
    assert told(second, "dementia/CDEsMetadata.json", "minimentalstate"), messages
    assert told(second, "dementia/outside.csv", "link"), messages


def test_a_node_that_cannot_be_written_is_shown_and_repaired(data: Data) -> None:
    """The labels of two datasets change. One hospital's folder cannot be written: the others have theirs, it gets its own later."""
    first, second, third = data.lab.workers
    folder = f"{FOLDER}/dementia"
    text = LABELS.read_text()
    changed = re.sub(r"( edsd: ).*", r"\g<1>Synthetic", re.sub(r"( demo: ).*", r"\g<1>Zürich, demo  # ours", text))
    LABELS.write_text(changed)
    before = data.read(second, "dementia/CDEsMetadata.json")
    data.lab.ssh(second, f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}")
    try:
        document = data.json("data", "consolidate", "-y", code=5)
        assert {error["host"] for error in document["errors"]} == {second}
        assert "Read-only file system" in json.dumps(document["errors"])
        assert document["result"]["distributed"][second]["ok"] is False
        assert data.read(second, "dementia/CDEsMetadata.json") == before
        for node in (data.lab.master, third):
            assert "Zürich, demo" in data.read(node, "mentalhealth/CDEsMetadata.json")
        assert "Zürich, demo" in data.lab.ssh(data.ui, f"cat {PORTAL}")
        assert LABELS.read_text() == changed
        found = data.json("data", "ls", code=4)["result"]["pathologies"]["dementia"]["nodes"]
        assert {node: entry["cdes"]["state"] for node, entry in found.items()} == {data.lab.master: "same", first: "same", second: "old"}
    finally:
        data.lab.ssh(second, f"umount {folder}")
    repaired = data.json("data", "consolidate", "-y")["result"]
    written = {node: [file["path"] for file in entry["files"] if file["changed"]] for node, entry in repaired["distributed"].items()}
    assert {node: files for node, files in written.items() if files} == {second: ["dementia/CDEsMetadata.json"]}


def test_a_wrong_cell_stops_its_pathology_and_stays_at_home(data: Data) -> None:
    """The pathologies whose CDEs changed in the test before are compiled; the one with the wrong cell is offered as it was."""
    first = data.lab.workers[0]
    before = data.hashes()
    with files_of(data, (first, "tbi/dummy_tbi.csv")):
        rows = rows_of("tbi", "dummy_tbi.csv")
        rows[7][rows[0].index("age_value")] = CANARIES["number"]
        data.write(first, "tbi/dummy_tbi.csv", table(rows))
        text = data.mipfed("data", "compile", "-y", "-v", "-v", "-v", code=4)
        assert "dummy_tbi.csv:8:age_value" in text
        assert CANARIES["number"] in data.read(first, "tbi/datasets.db.errors.txt")
        assert data.stale() == {(first, "tbi", "stale")}
    now = data.hashes()
    compiled = {name.removesuffix(".json") for name in now if now[name] != before[name]}
    assert compiled == {
        f"{node}:./{name}/datasets.db"
        for node, found in {data.lab.master: PATHOLOGIES, **held(data)}.items()
        for name in found
        if name != "tbi"
    }
    assert data.lab.all_active()
    assert data.listed() == held(data)


def test_a_removed_dataset_is_gone_everywhere(data: Data) -> None:
    first, second, _third = data.lab.workers
    data.lab.ssh(second, f"rm {FOLDER}/dementia/edsd.csv")
    data.json("data", "consolidate", "-y")
    data.json("data", "compile", "-y")
    assert data.lab.all_active()
    for node in (data.lab.master, first, second):
        assert codes(data.read(node, "dementia/CDEsMetadata.json")) == ["desd-synthdata"]
    assert data.pathologies()["dementia"] == ["desd-synthdata"]
    assert data.listed() == {node: found for node, found in held(data).items() if node != second}
    answer = data.lab.api("DESCRIPTIVE_STATS", pathology="dementia", dataset="edsd", y="lefthippocampus", filter="")
    assert "does not exist" in answer["result"][0]["data"]


def test_a_hospital_that_is_away_keeps_its_datasets_and_label(data: Data, power: Callable[[str, str], None]) -> None:
    third = data.lab.workers[2]
    others = [node for node in data.nodes if node != third]
    before = data.hashes(others)
    power(third, "kill")
    document = data.json("data", "consolidate", "-y", code=6)
    assert document["result"]["away"] == [third]
    datasets = document["result"]["plan"]["pathologies"]["mentalhealth"]["datasets"]
    assert [(entry["code"], entry["label"], entry["state"]) for entry in datasets] == [("demo", "Zürich, demo", "absent")]
    now = data.hashes(others)
    assert {name for name in now if now[name] != before[name]} <= {"pusher:data.json"}

    data.json("data", "consolidate", "-y", "--drop-absent", code=6)
    assert codes(data.read(data.lab.master, "mentalhealth/CDEsMetadata.json")) == []
    assert "mentalhealth" not in data.pathologies()

    power(third, "on")
    back = data.json("data", "consolidate", "-y")["result"]["plan"]["pathologies"]["mentalhealth"]["datasets"]
    assert [(entry["code"], entry["label"]) for entry in back] == [("demo", "Zürich, demo")]
    assert codes(data.read(data.lab.master, "mentalhealth/CDEsMetadata.json")) == ["demo"]
    assert "Zürich, demo" in data.lab.ssh(data.ui, f"cat {PORTAL}")
    data.json("data", "compile", "-y")
    assert data.lab.all_active()
    assert data.stale(code=0) == set()


def packed(content: bytes) -> Iterator[bytes]:
    """What files in a module's arguments and results unfold to."""
    for text in re.findall(rb"[A-Za-z0-9+/]{40,}={0,2}", content):
        with contextlib.suppress(ValueError, zlib.error):
            yield zlib.decompress(base64.b64decode(text))


def test_no_cell_has_left_its_hospital(data: Data) -> None:
    """Looks for what stood in cells of patients: in what mipfed wrote, on the pusher, and on all machines that do not hold it."""
    first, second, third = data.lab.workers
    assert data.lab.ssh(first, f"grep -c {CANARIES['subject']} {FOLDER}/dementia/desd-synthdata.csv") == "1000"
    written = {"terminal": "".join(data.output).encode()}
    for folder in (data.lab.state_home, INVENTORY):
        written.update({str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert any(content for name, content in written.items() if name != "terminal")
    for name, content in written.items():
        for text in (content, *packed(content)):
            assert not [canary for canary in CANARIES.values() if canary.encode() in text], name
    places = {name: set(CANARIES.values()) for name in (data.lab.master, data.ui)}
    places |= {first: {CANARIES["note"]}, second: {CANARIES["note"], CANARIES["number"]}, third: {CANARIES["subject"], CANARIES["number"]}}
    for name, strangers in places.items():
        for canary in strangers:
            where = f"/var/log /tmp /root /home /run/mip /var/lib/mip {FOLDER}"
            assert data.lab.ssh(name, f"grep -rlF -- '{canary}' {where} 2>/dev/null", check=False) == "", name
            assert data.lab.ssh(name, f"journalctl -q | grep -cF -- '{canary}'", check=False) in {"", "0"}, name
