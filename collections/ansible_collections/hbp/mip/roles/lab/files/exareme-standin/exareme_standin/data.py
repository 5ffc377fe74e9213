# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The node's databases, opened read-only, and the sums that may leave it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

NUMERIC = ("int", "real")
COMPARISONS = {
    "equal": "= ?",
    "not_equal": "<> ?",
    "less": "< ?",
    "greater": "> ?",
    "less_or_equal": "<= ?",
    "greater_or_equal": ">= ?",
    "between": "BETWEEN ? AND ?",
    "not_between": "NOT BETWEEN ? AND ?",
}


class DataError(Exception):
    """A database is missing, broken, or does not hold what was asked for."""


def _name(identifier: str) -> str:
    """Return an identifier quoted for SQL."""
    return '"' + identifier.replace('"', '""') + '"'


class Variable:
    """One row of METADATA."""

    def __init__(self, code: str, label: str, sql_type: str, is_categorical: bool) -> None:
        """Remember what the engine reads of a variable."""
        self.code = code
        self.label = label
        self.sql_type = sql_type
        self.is_categorical = is_categorical

    @property
    def is_numeric(self) -> bool:
        """Whether sums of the variable make sense."""
        return not self.is_categorical and self.sql_type.lower() in NUMERIC


class Databases:
    """The datasets.db files below a data folder, one a pathology."""

    def __init__(self, folder: Path) -> None:
        """Remember the folder; it is read at every call."""
        self.folder = folder

    def pathologies(self) -> list[str]:
        """Return the names of the pathology folders, with or without a database. Raises DataError."""
        try:
            return sorted(entry.name for entry in self.folder.iterdir() if entry.is_dir())
        except OSError as error:
            raise DataError(f"The data folder {self.folder} cannot be read: {error.strerror}") from error

    def path(self, pathology: str) -> Path:
        """Return where a pathology's database is."""
        return self.folder / pathology / "datasets.db"

    @contextmanager
    def _open(self, pathology: str, *, create: bool = False) -> Iterator[sqlite3.Connection]:
        path = self.path(pathology)
        if create and pathology in self.pathologies() and not path.exists():
            # The engine opens it for writing, and SQLite then leaves an empty file there: who compiles next must cope with it.
            with contextlib.suppress(OSError):
                path.touch()
        if pathology not in self.pathologies() or not path.is_file():
            raise DataError(f"{path} does not exist")
        connection = None
        try:
            connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=10)
            yield connection
        except sqlite3.Error as error:
            raise DataError(f"{path}: {error}") from error
        finally:
            if connection is not None:
                connection.close()

    def datasets(self, pathology: str) -> list[str]:
        """Return the codes of the datasets in a pathology's database. Raises DataError."""
        with self._open(pathology, create=True) as connection:
            rows = connection.execute("SELECT DISTINCT dataset FROM DATA WHERE dataset IS NOT NULL ORDER BY 1")
            return [str(row[0]) for row in rows]

    def variables(self, pathology: str, *, create: bool = False) -> dict[str, Variable]:
        """Return a pathology's variables by code, in the order of METADATA. Raises DataError.

        `create` leaves an empty file where there is no database, as the engine's LIST_VARIABLES does.
        """
        with self._open(pathology, create=create) as connection:
            rows = connection.execute("SELECT code, label, sql_type, isCategorical FROM METADATA ORDER BY rowid")
            return {row[0]: Variable(row[0], row[1], row[2], row[3] == 1) for row in rows}

    def statistics(
        self, pathology: str, datasets: Sequence[str], codes: Sequence[str], rules: Mapping[str, Any] | None, minimum: int
    ) -> dict[str, Any]:
        """Return sums over rows, never rows.

        A group of fewer than minimum rows is only reported as such. The answer has, for every variable and dataset, the
        statistics of the rows where the variable is filled (`single`), and of the rows where all the variables are
        (`model`). Raises DataError.
        """
        variables = self.variables(pathology)
        unknown = [code for code in codes if code not in variables]
        if unknown:
            raise DataError(f"{self.path(pathology)} has no variable {', '.join(unknown)}")
        for code in codes:
            if not variables[code].is_categorical and not variables[code].is_numeric:
                raise DataError(f"variable {code} is free text: it has no statistics")
        condition, values = compile_filter(rules, variables) if rules else ("1", [])
        complete = " AND ".join(_filled(code) for code in codes)
        single: dict[str, Any] = {code: {} for code in codes}
        model: dict[str, Any] = {code: {} for code in codes}
        with self._open(pathology) as connection:
            for dataset in datasets:
                where, arguments = f"dataset = ? AND ({condition})", [dataset, *values]
                for code in codes:
                    query = _Query(connection, variables[code], minimum)
                    alone = query.run(where, arguments, "1")
                    together = query.run(where, arguments, complete)
                    if alone.get("enough") and together.get("enough") and 0 < alone["count"] - together["count"] < minimum:
                        # The difference of the two answers would tell about the few rows that are in only one of them.
                        together = {"enough": False, "total": together["total"]}
                    single[code][dataset], model[code][dataset] = alone, together
        return {"single": single, "model": model}


def _filled(code: str) -> str:
    return f"({_name(code)} IS NOT NULL AND {_name(code)} <> '')"


class _Query:
    """The statistics of one variable."""

    def __init__(self, connection: sqlite3.Connection, variable: Variable, minimum: int) -> None:
        self.connection = connection
        self.variable = variable
        self.minimum = minimum

    def run(self, where: str, arguments: Sequence[Any], rows: str) -> dict[str, Any]:
        """Return the statistics over what `where` selects and `rows` keeps."""
        column, present = _name(self.variable.code), f"{rows} AND {_filled(self.variable.code)}"
        # Identifiers are quoted and come from METADATA; every value is bound.
        total, count = self.connection.execute(
            f"SELECT COUNT(*), COUNT(CASE WHEN {present} THEN 1 END) FROM DATA WHERE {where}",  # noqa: S608
            arguments,
        ).fetchone()
        if total < self.minimum or total == 0:
            return {"enough": False}
        if count < self.minimum or count == 0:
            return {"enough": False, "total": total}
        answer: dict[str, Any] = {"enough": True, "total": total, "nulls": total - count, "count": count}
        source = f"FROM DATA WHERE {where} AND {present}"
        if self.variable.is_categorical:
            groups = self.connection.execute(f"SELECT CAST({column} AS TEXT), COUNT(*) {source} GROUP BY 1", arguments)
            counts = dict(groups.fetchall())
            answer["counts"], answer["suppressed"] = suppress(counts, self.minimum)
            return answer
        answer["sum"], answer["sum_of_squares"], answer["min"], answer["max"] = self.connection.execute(
            f"SELECT SUM({column}), TOTAL(1.0 * {column} * {column}), MIN({column}), MAX({column}) {source}",
            arguments,
        ).fetchone()
        return answer


def suppress(counts: Mapping[str, int], minimum: int) -> tuple[dict[str, int], list[str]]:
    """Split counts into those that may be told and the names of those that may not.

    Hidden are all below the minimum, and then the next smallest until what is hidden together reaches it: else the
    hidden count would follow from the sum.
    """
    ordered = sorted(counts.items(), key=lambda item: (item[1], item[0]))
    hidden: list[str] = []
    hidden_rows = 0
    for code, count in ordered:
        if count >= minimum and (not hidden or hidden_rows >= minimum):
            break
        hidden.append(code)
        hidden_rows += count
    return {code: count for code, count in counts.items() if code not in hidden}, sorted(hidden)


def compile_filter(rules: Mapping[str, Any], variables: Mapping[str, Variable]) -> tuple[str, list[Any]]:
    """Return the SQL condition of a jQuery QueryBuilder filter, and the values to bind to it. Raises DataError."""
    if "condition" in rules:
        joint = {"AND": " AND ", "OR": " OR "}.get(str(rules["condition"]))
        parts = rules.get("rules")
        if joint is None or not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise DataError("a group of filter rules needs a condition AND or OR, and a list of rules")
        compiled = [compile_filter(part, variables) for part in parts]
        if not compiled:
            return "1", []
        return "(" + joint.join(text for text, _values in compiled) + ")", [value for _text, some in compiled for value in some]
    code, operator, value = str(rules.get("id")), str(rules.get("operator")), rules.get("value")
    if code not in variables:
        raise DataError(f"the filter names the unknown variable {code}")
    if operator not in COMPARISONS:
        raise DataError(f"the filter has the unknown operator {operator}")
    values = value if isinstance(value, list) else [value]
    if len(values) != COMPARISONS[operator].count("?") or not all(isinstance(item, str | int | float) for item in values):
        raise DataError(f"the filter's operator {operator} on {code} has a wrong value")
    return f"{_name(code)} {COMPARISONS[operator]}", values
