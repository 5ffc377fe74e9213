# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's database while it is made: its tables, and the ways in which rows get into them."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from types import TracebackType
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple

from ansible_collections.hbp.mip.plugins.module_utils import _cdes, _compile_rows

# SQLite before 3.32 takes 999 parameters unless it was built otherwise.
MOST_PARAMETERS = 900
_CACHE_KIB = 2048


class Database:
    """A database under construction. It has no journal: until it is complete, nobody else knows of it."""

    def __init__(self, path: str, variables: List[_cdes.Variable], pairs: bool, create: bool) -> None:
        self.rows = 0
        self._path = path
        self._variables = variables
        self._pairs = pairs
        if create:
            for new in [path] + ([path + "-visits"] if pairs else []):
                os.close(create_file(new))
        # What SQLite sorts on disk stays beside the data. The files have no name.
        os.environ["SQLITE_TMPDIR"] = os.path.dirname(path)
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._attached("main", path)
        if pairs:
            self._attached("visits", path + "-visits")
        if create:
            self._create()

    def __enter__(self) -> Database:
        self._connection.execute("BEGIN")
        return self

    def __exit__(self, kind: Optional[type], _error: Optional[BaseException], _trace: Optional[TracebackType]) -> None:
        if kind is None and self._connection.in_transaction:
            self._connection.execute("COMMIT")
        self._connection.close()

    def _attached(self, name: str, path: str) -> None:
        if name != "main":
            self._connection.execute("ATTACH ? AS %s" % name, (path,))
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE", "cache_size = -%d" % _CACHE_KIB):
            self._connection.execute("PRAGMA %s.%s" % (name, pragma))

    def _create(self) -> None:
        """The tables as the engine knows them. In a CHECK, OR: with IN, SQLite makes an index for each cell of each row."""
        self._connection.execute("PRAGMA main.page_size = 4096")
        self._connection.execute("PRAGMA main.encoding = 'UTF-8'")
        self._connection.execute(
            "CREATE TABLE METADATA(code TEXT PRIMARY KEY ASC CHECK (typeof(code) = 'text'), label TEXT CHECK (typeof(label) = 'text'), "
            "sql_type TEXT CHECK (typeof(sql_type) = 'text'), isCategorical INTEGER CHECK (typeof(isCategorical) = 'integer'), "
            "enumerations TEXT CHECK (typeof(enumerations) = 'text' OR typeof(enumerations) = 'null'), "
            "min INTEGER CHECK (typeof(min) = 'integer' OR typeof(min) = 'null'), "
            "max INTEGER CHECK (typeof(max) = 'integer' OR typeof(max) = 'null'))"
        )
        columns = []
        for variable in self._variables:
            name = _quoted(variable.code)
            types = {"int": ("integer", "null"), "real": ("real", "integer", "null"), "text": ("text", "null")}[variable.sql_type.lower()]
            check = " OR ".join("typeof(%s) = '%s'" % (name, kind) for kind in types)
            columns.append("%s %s CHECK (%s)" % (name, variable.sql_type, check))
        self._connection.execute("CREATE TABLE DATA(%s)" % ", ".join(columns))
        if self._pairs:
            self._connection.execute("CREATE TABLE visits.pairs(file INTEGER, subjectid TEXT, visitid TEXT, line INTEGER)")

    def inserter(self, table: _compile_rows.Table, file: int) -> Callable[[Sequence[int], List[List[str]]], None]:
        """A function that adds rows of a file with these columns. Empty text is '', an empty number NULL."""
        names = ", ".join(_quoted(column.code) for column in table.columns)
        texts = [column.sql_type == "text" for column in table.columns]
        connection = self._connection
        bound = table.width <= MOST_PARAMETERS
        values = ", ".join("?" if text else "nullif(?, '')" for text in texts)
        statement = "INSERT INTO DATA(%s) VALUES(%s)" % (names, values)
        pairs = "INSERT INTO visits.pairs VALUES(%d, ?, ?, ?)" % file
        subject, visit = (table.index.get("subjectid", 0), table.index.get("visitid", 0)) if self._pairs else (0, 0)

        def insert(lines: Sequence[int], rows: List[List[str]]) -> None:
            if bound:
                connection.executemany(statement, rows)
            else:
                for row in rows:
                    literals = [_literal(cell) if cell or text else "NULL" for cell, text in zip(row, texts)]
                    connection.execute("INSERT INTO DATA(%s) VALUES(%s)" % (names, ", ".join(literals)))
            if self._pairs:
                connection.executemany(pairs, ((row[subject], row[visit], line) for row, line in zip(rows, lines)))
            self.rows += len(rows)

        return insert

    def merge_pairs(self, others: List[str]) -> None:
        """Add the visits of the other parts to those of this one."""
        for other in others:
            with self._other(other + "-visits"):
                self._connection.execute("INSERT INTO visits.pairs SELECT * FROM other.pairs")

    def repeated_visits(self) -> Iterator[Tuple[int, int, int]]:
        """File, line, and the line of the first occurrence, of each visit of a subject that a file holds again."""
        before: Tuple[Any, ...] = ()
        first = 0
        query = "SELECT file, subjectid, visitid, line FROM visits.pairs ORDER BY file, subjectid, visitid, line"
        for row in self._connection.execute(query):
            if row[:3] == before:
                yield row[0], row[3], first
            else:
                before, first = row[:3], row[3]

    def merge(self, others: List[str]) -> None:
        """Append the rows of the other parts. The tables being alike, SQLite copies records as they are."""
        for other in others:
            with self._other(other):
                self._connection.execute("INSERT INTO main.DATA SELECT * FROM other.DATA")
            os.unlink(other)

    @contextlib.contextmanager
    def _other(self, path: str) -> Iterator[None]:
        # A database can be attached and detached between transactions only.
        self._connection.execute("COMMIT")
        self._connection.execute("ATTACH ? AS other", (path,))
        self._connection.execute("PRAGMA other.cache_size = -%d" % _CACHE_KIB)
        self._connection.execute("BEGIN")
        yield
        self._connection.execute("COMMIT")
        self._connection.execute("DETACH other")
        self._connection.execute("BEGIN")

    def add_metadata(self) -> None:
        """One row for each variable. Bounds stay NULL: their columns take integers only, and the engine does not read them."""
        rows = []
        for variable in self._variables:
            enumerations = ",".join(code for code, _unused in variable.enumerations or ())
            rows.append((variable.code, variable.label, variable.sql_type, int(variable.is_categorical), enumerations or None))
        self._connection.executemany("INSERT INTO METADATA VALUES(?, ?, ?, ?, ?, NULL, NULL)", rows)

    def last_row(self) -> int:
        """The number of the last row, which is that of the rows."""
        (number,) = self._connection.execute("SELECT ifnull(max(rowid), 0) FROM DATA").fetchone()
        return int(number)


def create_file(path: str) -> int:
    """A new file that only we can read, opened for writing; whose folder it is cannot lead us elsewhere by a link."""
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _quoted(name: str) -> str:
    return '"%s"' % name.replace('"', '""')


def _literal(cell: str) -> str:
    return "'%s'" % cell.replace("'", "''")
