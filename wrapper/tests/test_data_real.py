# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`mipfed data …` with the collection's own playbooks and modules, on nodes that are mount namespaces of this host.

Each node has its own data folder and its own /var/lib/mip, because its modules run below an interpreter that mounts them. There
are no engines, so nothing is restarted; that is for the lab's tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mipfed.exitcodes import ExitCode

from .conftest import MAIN_YML, REPOSITORY, Ended, Project
from .test_trust import on_terminal

SAMPLES = REPOSITORY / "tests" / "samples"
NODES = ("ms", "ui", "wk-1", "wk-2")


def _namespaces() -> bool:
    tried = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    return os.geteuid() == 0 and tried.returncode == 0


pytestmark = pytest.mark.skipif(not _namespaces(), reason="needs mount namespaces (root)")


@dataclass
class Federation:
    """A federation of a master, a ui node and two workers, with real data."""

    project: Project
    name: str
    root: Path
    inventory: Path

    def data(self, node: str, *parts: str) -> Path:
        """Return a path in a node's data folder, as this host sees it."""
        return self.root / node / "data" / self.name / Path(*parts)

    @property
    def portal(self) -> Path:
        """The portal's list, as this host sees it."""
        return self.root / "ui" / "lib" / self.name / "portal" / "pathologies.json"

    def run(self, *arguments: str) -> Ended:
        """Run `mipfed data ARGUMENTS`."""
        return self.project.run("-f", self.name, "data", *arguments)

    def give(self, node: str, pathology: str, *files: str) -> None:
        """Put files of the samples on a node."""
        folder = self.data(node, pathology)
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(SAMPLES / pathology / file, folder)

    def cdes(self, node: str, pathology: str) -> dict[str, Any]:
        """Return a node's metadata of a pathology."""
        tree: dict[str, Any] = json.loads(self.data(node, pathology, "CDEsMetadata.json").read_text(encoding="utf-8"))
        return tree

    def datasets(self, node: str, pathology: str) -> dict[str, str]:
        """Return code and label of each dataset that a node's metadata list."""
        (variable,) = [variable for variable in self.cdes(node, pathology)["variables"] if variable["code"] == "dataset"]
        return {entry["code"]: entry["label"] for entry in variable["enumerations"]}


@pytest.fixture
def federation(project: Project, tmp_path: Path) -> Iterator[Federation]:
    """dementia on the first worker, tbi on the second, mentalhealth on both's master only."""
    name = f"mipfed-test-{os.getpid()}"
    root, shared = tmp_path / "nodes", tmp_path / "data"
    shared.mkdir()
    Path("/var/lib/mip").mkdir(exist_ok=True)
    variables = {}
    for node in NODES:
        for folder in ("data", "lib"):
            (root / node / folder).mkdir(parents=True)
        interpreter = root / node / "python"
        interpreter.write_text(
            "#!/bin/sh\n"
            f"exec unshare -m sh -c 'mount --bind {root / node / 'data'} {shared} && mount --bind {root / node / 'lib'} /var/lib/mip "
            f'&& exec {sys.executable} "$@"\' python "$@"\n',
            encoding="utf-8",
        )
        interpreter.chmod(0o755)
        variables[f"{name}-{node}"] = {"ansible_python_interpreter": str(interpreter)}
    project.environment |= {"MIPFED_COLLECTIONS": str(REPOSITORY / "collections"), "COLUMNS": "200"}
    inventory = project.federation(name, variables=variables, main=f"{MAIN_YML}mip_data_root: {shared}\ndata_refresh: false\n")
    made = Federation(project, name, root, inventory)
    for pathology in ("dementia", "tbi", "mentalhealth"):
        made.give("ms", pathology, "CDEsMetadata.json")
    made.give("wk-1", "dementia", "CDEsMetadata.json", "desd-synthdata.csv")
    made.give("wk-2", "tbi", "CDEsMetadata.json", "dummy_tbi.csv")
    (root / "ui" / "lib" / name).mkdir()
    yield made
    if not any(Path("/var/lib/mip").iterdir()):
        Path("/var/lib/mip").rmdir()


def test_consolidate_compile_and_look(federation: Federation) -> None:
    master = federation.data("ms", "dementia", "CDEsMetadata.json").read_bytes()
    plan = federation.run("consolidate", "--check", "--diff")
    assert plan.code == ExitCode.OK, plan.err
    assert "desd-synthdata" in plan.out
    assert federation.data("ms", "dementia", "CDEsMetadata.json").read_bytes() == master
    assert not federation.portal.exists()
    assert not (federation.inventory / "labels.yml").exists()

    code, shown = on_terminal(federation.project, "y\n", "-f", federation.name, "data", "consolidate")
    assert code == ExitCode.OK, shown
    assert list(federation.datasets("ms", "dementia")) == ["desd-synthdata"]
    assert list(federation.datasets("wk-2", "tbi")) == ["dummy_tbi"]
    portal = json.loads(federation.portal.read_text(encoding="utf-8"))
    assert [entry["code"] for entry in portal] == ["dementia", "tbi"]
    labels = yaml.safe_load((federation.inventory / "labels.yml").read_text(encoding="utf-8"))
    assert labels["datasets"]["mentalhealth"] == {"demo": "Demo"}, "the label of a dataset that is not there now is kept"

    again = federation.run("consolidate")
    assert again.code == ExitCode.OK, again.err
    assert "Nothing to do." in again.out

    check = federation.run("compile", "--check")
    assert check.code == ExitCode.OK, check.err
    assert "would compile" in check.out
    compiled = federation.run("compile", "-y", "-o", "json")
    assert compiled.code == ExitCode.OK, compiled.err
    nodes = compiled.document["result"]["nodes"]
    assert nodes[f"{federation.name}-wk-1"]["pathologies"]["dementia"]["state"] == "compiled"
    assert federation.data("wk-2", "tbi", "datasets.db").is_file()

    looked = federation.run("ls", "-o", "json")
    assert looked.code == ExitCode.OK, looked.err
    report = looked.document["result"]
    tbi = report["pathologies"]["tbi"]["nodes"][f"{federation.name}-wk-2"]
    assert (tbi["cdes"]["state"], tbi["compiled"]["state"], tbi["datasets"]) == ("same", "compiled", {"dummy_tbi": 99})
    assert report["portal"]["state"] == "same"
    structure = federation.run("structure")
    assert structure.code == ExitCode.OK, structure.err
    assert json.loads(structure.out) == [
        {"name": "dementia", "nodes": [{"name": f"{federation.name}-wk-1", "datasets": [{"name": "desd-synthdata"}]}]},
        {"name": "tbi", "nodes": [{"name": f"{federation.name}-wk-2", "datasets": [{"name": "dummy_tbi"}]}]},
    ]


def test_labels_reviewed(federation: Federation) -> None:
    answers = "".join(f"{line}\n" for line in ("Démence", "Synthetic", "", "", "", "y"))
    code, shown = on_terminal(federation.project, answers, "-f", federation.name, "data", "consolidate", "--review-dataset-labels")
    assert code == ExitCode.OK, shown
    assert federation.datasets("wk-1", "dementia") == {"desd-synthdata": "Synthetic"}
    portal = json.loads(federation.portal.read_text(encoding="utf-8"))
    assert portal[0]["label"] == "Démence"


def test_what_changed_after_the_plan_is_not_applied(federation: Federation) -> None:
    project = federation.project
    before = federation.data("ms", "tbi", "CDEsMetadata.json").read_bytes()
    plan = federation.run("consolidate", "--check", "-o", "json").document["result"]["plan"]
    federation.data("wk-2", "tbi", "dummy_tbi.csv").unlink()
    # What the command does after the question, without the question.
    variables = project.root / "expected.json"
    variables.write_text(json.dumps({"data_expected_plan": plan["id"]}), encoding="utf-8")
    main = federation.inventory / "group_vars" / "all" / "main.yml"
    main.write_text(main.read_text(encoding="utf-8") + f"data_expected_plan: {plan['id']}\n", encoding="utf-8")
    done = federation.run("consolidate", "-y", "-o", "json")
    assert done.code == ExitCode.CHECK
    assert [error["code"] for error in done.document["errors"]] == ["plan-changed"]
    assert federation.data("ms", "tbi", "CDEsMetadata.json").read_bytes() == before


def test_no_cell_passes_by(federation: Federation) -> None:
    file = federation.data("wk-1", "dementia", "desd-synthdata.csv")
    lines = file.read_text(encoding="utf-8").splitlines()
    header = lines[0].split(",")
    cells = lines[1].split(",")
    cells[header.index("gender")] = "canary-in-a-cell"
    file.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n", encoding="utf-8")
    shown = ""
    for arguments in (("consolidate", "-y", "-v"), ("compile", "-y", "-vvv"), ("ls", "-vvv"), ("ls", "-o", "json")):
        done = federation.run(*arguments)
        shown += done.out + done.err
        if arguments[0] == "compile":
            assert done.code == ExitCode.CHECK, done.err
            assert "dementia/desd-synthdata.csv:2:gender" in done.out
    assert "canary" in federation.data("wk-1", "dementia", "datasets.db.errors.txt").read_text(encoding="utf-8")
    assert "canary" not in shown
    for path in federation.project.state.rglob("*"):
        assert not path.is_file() or b"canary" not in path.read_bytes(), path
    for path in federation.inventory.rglob("*"):
        assert not path.is_file() or b"canary" not in path.read_bytes(), path
