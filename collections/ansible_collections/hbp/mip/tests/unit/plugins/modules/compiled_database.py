# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What two compiled databases must have in common to be equal, in a compact form.

python compiled_database.py DATABASE        prints that form
python compiled_database.py quirks FOLDER   writes a pathology with what valid files may hold
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
from pathlib import Path
from typing import Any


def cells(path: Path, table: str) -> list[list[list[Any]]]:
    """The rows of a table, each cell with its type; reals in the shortest form that gives the same number."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        query = ", ".join(f'"{name}", typeof("{name}")' for name in names)
        rows = connection.execute(f"SELECT {query} FROM {table} ORDER BY rowid").fetchall()
    connection.close()
    return [[[kind, repr(value) if kind == "real" else value] for value, kind in zip(row[::2], row[1::2], strict=True)] for row in rows]


def canonical(path: Path) -> dict[str, Any]:
    """Tables and columns in order with their types, metadata in full, and the rows of data as a hash of the sorted multiset."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        tables = sorted(row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'"))
        columns = {table: [[row[1], row[2].lower()] for row in connection.execute(f"PRAGMA table_info({table})")] for table in tables}
    connection.close()
    rows = cells(path, "DATA")
    lines = sorted(json.dumps(row) for row in rows)
    return {
        "columns": columns,
        "metadata": [[value for _kind, value in row] for row in cells(path, "METADATA")],
        "metadata_types": sorted({"/".join(kind for kind, _value in row) for row in cells(path, "METADATA")}),
        "rows": len(rows),
        "data_sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        "first_rows": [[value for _kind, value in row] for row in rows[:2]],
    }


def write_quirks(folder: Path) -> None:
    """A pathology whose files are valid, and in which the legacy converter errs nowhere. They are no files of the repository,
    because line ends are among the quirks."""

    def variable(code: str, sql_type: str, *enumerations: str, label: str = "A label", **more: Any) -> dict[str, Any]:
        kind = "nominal" if enumerations else {"int": "integer"}.get(sql_type, sql_type)
        found = {"code": code, "label": label, "sql_type": sql_type, "type": kind, "isCategorical": bool(enumerations), **more}
        if enumerations:
            found["enumerations"] = [{"code": code, "label": code.upper()} for code in enumerations]
        return found

    kinds = {"code": "h", "label": "H", "variables": [variable("kind", "text", "a b", "NA"), variable("unused_int", "int")]}
    ages = {"code": "g", "label": "G", "variables": [variable("Age", "int", label="Age (β)"), variable("note", "text")], "groups": [kinds]}
    subjects = {"code": "i", "label": "I", "variables": [variable("unused_text", "text"), variable("subjectcode", "text")]}
    cdes = {
        "code": "quirks",
        "label": "Quirks",
        "version": "1",
        "variables": [variable("dataset", "text", "one", "two-b"), variable("_score", "real", minValue=-5, maxValue=1e9)],
        "groups": [ages, subjects],
    }
    notes = ["plain", '"with, comma"', '"two ""quotes"""', "", "Zürich β 漢", "0x10", "NULL", "(select 1)"]
    numbers = ["", "0", "7", "-0", "9223372036854775807", "-9223372036854775808", "007"]
    scores = ["", "1", "1.5", "-4.25", "1e3", "2.5E-3", "123456789", ".5", "3."]
    rows = ["subjectcode,note,Age,_score,kind,dataset"]
    for i in range(250):
        rows.append(f"s{i},{notes[i % 8]},{numbers[i % 7]},{scores[i % 9]},{('a b', 'NA', '')[i % 3]},{('one', 'two-b')[i % 2]}")
    others = ["dataset,subjectcode,note"] + [f'one,t{i},"a\nb"' if i % 2 else f'"one","t{i}",' for i in range(130)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "CDEsMetadata.json").write_text(json.dumps(cdes, indent=2, ensure_ascii=False), encoding="utf-8")
    (folder / "a.csv").write_bytes("\r\n".join(rows).encode())
    (folder / "b.csv").write_bytes(("\n".join(others) + "\n").encode())
    (folder / "header-only.csv").write_bytes(b"dataset,subjectcode\n")


if __name__ == "__main__":
    if sys.argv[1] == "quirks":
        write_quirks(Path(sys.argv[2]))
    else:
        print(json.dumps(canonical(Path(sys.argv[1])), indent=1))
