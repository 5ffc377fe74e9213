# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The data folders behind the expected files, and how these were made: see README.md."""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SAMPLES = HERE.parent


@dataclass
class Pathology:
    """A folder: the bytes of its CDEsMetadata.json, and the dataset code of each row of its CSV files."""

    cdes: bytes
    files: dict[str, list[str]]


def _of_sample(name: str) -> Pathology:
    files = {}
    for path in sorted((SAMPLES / name).glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as stream:
            files[path.name] = [row["dataset"] for row in csv.DictReader(stream)]
    return Pathology((SAMPLES / name / "CDEsMetadata.json").read_bytes(), files)


def _changed(name: str, files: dict[str, list[str]], datasets: list[list[str]] | None, **root: Any) -> Pathology:
    """A sample's CDEs with other datasets and other values at the root, and other files."""
    tree = json.loads((SAMPLES / name / "CDEsMetadata.json").read_bytes())
    tree.update(root)
    if datasets is not None:
        tree["variables"][0]["enumerations"] = [{"code": code, "label": label} for code, label in datasets]
    return Pathology(json.dumps(tree, indent=4, ensure_ascii=False).encode(), files)


def scenarios() -> dict[str, dict[str, Pathology]]:
    """The data folders by the name of their expected file, each by pathology."""
    samples = {name: _of_sample(name) for name in ("dementia", "mentalhealth", "tbi")}
    four = {f"{code}.csv": [code, code] for code in ("ppmi", "edsd", "desd-synthdata", "fake_longitudinal")}
    return {
        "samples": samples,
        "several-files": {"dementia": _changed("dementia", four, None)},
        "new-and-removed": {
            "tbi": _changed(
                "tbi",
                {"b.csv": ["site-9", "site-10", "site-9"], "a.csv": ["old_1", "Zurich.2020"], "c.csv": ["site-9", "A"]},
                [["gone", "Gone"], ["site-10", "Site 10 (größer)"], ["old_1", "Old One"], ["gone-too", "Gone"]],
            ),
            "mentalhealth": Pathology(samples["mentalhealth"].cdes, {"other.csv": ["other"]}),
        },
        "root-and-slash": {
            "tbi": _changed("tbi", {"dummy_tbi.csv": ["dummy_tbi"]}, None, code="root", label="/"),
            "twoWords_3": _changed("tbi", {"x.csv": ["x"]}, [["x", "X"]], code="twoWords_3", label="Läbel «2»"),
        },
        "escaped-twice": {
            "tbi": _changed(
                "tbi", {"x.csv": ["x"]}, [["x", "l\\u2019X"], ["y", "Y"]], note="\\u03b2-amyloid \\u0022, \u03c4", units=[1.50, 1e22, 3]
            ),
        },
    }


def main() -> None:
    """Write the expected files with the legacy generator, whose path is the argument."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("generator", type=Path)
    generator = parser.parse_args().generator.resolve()
    for name, pathologies in scenarios().items():
        with tempfile.TemporaryDirectory() as folder:
            for pathology, content in pathologies.items():
                place = Path(folder, "data", pathology)
                place.mkdir(parents=True)
                (place / "CDEsMetadata.json").write_bytes(content.cdes)
                for file, codes in content.files.items():
                    (place / file).write_text("".join(f"{code}\n" for code in ["dataset", *codes]), encoding="utf-8")
            command = [sys.executable, str(generator), "-d", str(Path(folder, "data")), "-p", folder, "--pathologies-preserve-dataset-var"]
            subprocess.run(command, check=True)
            shutil.copyfile(Path(folder, "pathologies.json"), HERE / f"{name}.json")


if __name__ == "__main__":
    main()
