# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading and checking rows: every rule by example, and the quick check against the slow one by property."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.hbp.mip.plugins.module_utils import _compile_rows
from ansible_collections.hbp.mip.plugins.module_utils._compile_rows import Column, problem_of

TEXT = Column("note", "text", None, False, None, None)
INT = Column("age", "int", None, False, 0, 120)
REAL = Column("score", "real", None, False, -1.5, 0)
KIND = Column("kind", "text", {"a", "b c", "NA"}, False, None, None)
DIGIT = Column("digit", "int", {"1", "2"}, False, None, None)
DATASET = Column("dataset", "text", {"one", "two"}, True, None, None)
ANY_INT = Column("n", "int", None, False, None, None)
ANY_REAL = Column("r", "real", None, False, None, None)
ALL = {column.code: column for column in (DATASET, TEXT, INT, REAL, KIND, DIGIT, ANY_INT, ANY_REAL)}

NO_INT = ["50.0", "1e3", " 5", "5 ", "+5", "0x10", "--1", "-", "1_0", "true", "NaN", "2020-01-02", "(select 1)", "１", "5\n", "\x005"]
NO_REAL = ["1,5", "1.5.2", "e5", ".", "-", "", "nan", "inf", "-Infinity", "0x1p3", "1_0.0", " 1", "1 ", "1e", "NULL", "2020-01-02", "٣"]


@pytest.mark.parametrize("cell", NO_INT)
def test_no_int(cell: str) -> None:
    assert problem_of(ANY_INT, cell) == ("type", "it is no integer")


@pytest.mark.parametrize("cell", [cell for cell in NO_REAL if cell])
def test_no_real(cell: str) -> None:
    assert problem_of(ANY_REAL, cell) == ("type", "it is no number")


@pytest.mark.parametrize(
    ("column", "cell", "rule"),
    [
        (ANY_INT, "9223372036854775807", ""),
        (ANY_INT, "-9223372036854775808", ""),
        (ANY_INT, "0" * 200 + "7", ""),
        (ANY_INT, "9223372036854775808", "type"),
        (ANY_INT, "-9223372036854775809", "type"),
        (ANY_INT, "9" * 100000, "type"),
        (ANY_REAL, "1e308", ""),
        (ANY_REAL, "1e309", "type"),
        (ANY_REAL, "-1e999", "type"),
        (ANY_REAL, "9" * 400, "type"),
        (ANY_REAL, "1e-400", ""),
        (ANY_REAL, "+.5E+1", ""),
        (INT, "0", ""),
        (INT, "-0", ""),
        (INT, "-1", "range"),
        (INT, "120", ""),
        (INT, "121", "range"),
        (REAL, "0", ""),
        (REAL, "0.0000001", "range"),
        (REAL, "-1.5", ""),
        (REAL, "-1.50000001", "range"),
        (KIND, "NA", ""),
        (KIND, "", ""),
        (KIND, "A", "enumeration"),
        (KIND, "a ", "enumeration"),
        (DIGIT, "1", ""),
        (DIGIT, "01", "enumeration"),
        (DIGIT, "a", "type"),
        (DATASET, "one", ""),
        (DATASET, "", "required"),
        (DATASET, "three", "enumeration"),
        (DATASET, " one", "dataset-code"),
        (DATASET, "-one", "dataset-code"),
        (TEXT, "O'Brien", ""),
    ],
)
def test_cells(column: Column, cell: str, rule: str) -> None:
    found = problem_of(column, cell)
    assert (found[0] if found else "") == rule
    if found:
        assert len(cell) < 3 or cell not in found[1], "a message must not hold the value"


class Read:
    """The rows and reports of a file."""

    def __init__(self, path: Path, content: bytes, known: dict[str, Column] = ALL, required: tuple[str, ...] = ("dataset",)) -> None:
        path.write_bytes(content)
        self.rows: list[tuple[int, list[str]]] = []
        self.errors: list[tuple[int, str, str]] = []
        self.messages: list[str] = []
        self.header: list[str] | None = None
        descriptor = os.open(path, os.O_RDONLY)
        try:
            self._read(descriptor, len(content), known, required)
        finally:
            os.close(descriptor)

    def _report(self, line: int, column: str, rule: str, message: str, value: str | None) -> None:
        self.errors.append((line, column, rule))
        self.messages.append(message)

    def _read(self, descriptor: int, size: int, known: dict[str, Column], required: tuple[str, ...]) -> None:
        try:
            blocks = _compile_rows.Blocks(descriptor, 0, size, 1, self._report)
            line, names, offset, first = _compile_rows.read_header(blocks, self._report)
        except _compile_rows.Stop:
            return
        table = _compile_rows.columns_of(names, known, required, line, self._report)
        if table is None:
            return
        self.header = names
        blocks = _compile_rows.Blocks(descriptor, offset, size, first, self._report)
        for numbers, rows in _compile_rows.Rows(table, blocks, self._report).batches():
            self.rows.extend(zip(numbers, rows, strict=True))


@pytest.fixture(params=[1 << 18, 7])
def read(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(_compile_rows, "BLOCK_BYTES", request.param)
    yield lambda content, **more: Read(tmp_path / "x.csv", content, **more)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("final", [True, False])
def test_line_ends(read: Any, end: bytes, mark: bytes, final: bool) -> None:
    lines = [b"dataset,note", b"one,x", b"", b'two,"a,b ""c"""', b"one,", b"two,last"]
    found = read(mark + end.join(lines) + (end if final else b""))
    assert found.errors == []
    assert found.rows == [(2, ["one", "x"]), (4, ["two", 'a,b "c"']), (5, ["one", ""]), (6, ["two", "last"])]


def test_quoted_newlines_keep_line_numbers(read: Any) -> None:
    found = read(b'dataset,note\none,"a\nb\r\nc\rd"\nwrong,x\none,"\n"\n\nwrong,\n')
    assert found.rows == [(2, ["one", "a\nb\r\nc\rd"]), (7, ["one", "\n"])]
    assert found.errors == [(6, "dataset", "enumeration"), (10, "dataset", "enumeration")]


def test_errors_have_their_lines_and_columns(read: Any) -> None:
    content = b"kind,age,dataset,score\na,5,one,0\nx,5.0,one,1\n\na,1,one\na,1,one,0,\nb c,,,-1\nNA,7,two,\n"
    found = read(content)
    assert found.errors == [
        (3, "kind", "enumeration"),
        (3, "age", "type"),
        (3, "score", "range"),
        (5, "", "fields"),
        (6, "", "fields"),
        (7, "dataset", "required"),
    ]
    assert [line for line, _row in found.rows] == [2, 8]


@pytest.mark.parametrize(
    ("header", "errors", "hint"),
    [
        (b"", [(1, "", "header-missing")], "empty"),
        (b"\xef\xbb\xbf", [(1, "", "header-missing")], "empty"),
        (b"\ndataset\n", [(1, "", "header-missing")], "blank"),
        (b"note\nx\n", [(1, "dataset", "column-missing")], "no column dataset"),
        (b"dataset,note,note\n", [(1, "note", "header-duplicate")], "columns 2 and 3"),
        (b"dataset,zzz,zzz\n", [(1, "zzz", "column-unknown"), (1, "", "header-duplicate")], ""),
        (b"dataset,,note\n", [(1, "", "column-unknown")], "column 2 has no name"),
        (b"dataset, Note\n", [(1, "", "column-unknown")], "note is written like this"),
        (b"dataset;note\n", [(1, "", "column-unknown"), (1, "dataset", "column-missing")], "commas"),
        (b"Smith,1961\n", [(1, "", "column-unknown"), (1, "", "column-unknown"), (1, "dataset", "column-missing")], ""),
        (b"\xff\xfed\x00a\x00", [(1, "", "encoding")], "UTF-16"),
        (b"\x00d\x00a\x00t\x00a", [(1, "", "encoding")], "UTF-16"),
        (b'dataset,"note\n1', [(1, "", "quote")], "unclosed quote near line 1"),
        (b'dataset,"no"te\nnote,x\n', [(1, "", "quote")], "quotes are wrong"),
    ],
)
def test_headers(read: Any, header: bytes, errors: list[Any], hint: str) -> None:
    found = read(header)
    assert found.errors == errors
    assert hint in " ".join(found.messages) and "Smith" not in " ".join(found.messages)


def test_bytes_that_are_no_text(read: Any) -> None:
    found = read(b'dataset,note\none,ok\none,caf\xe9\none,a\x00b\none,"x\n\xff"\ntwo,z\n')
    assert found.errors == [(3, "", "encoding"), (4, "", "zero-byte"), (6, "", "encoding")]
    assert "byte 8 of the line, 28 of the file, is not UTF-8" in found.messages[0]


def test_unclosed_quote(read: Any) -> None:
    found = read(b'dataset,note\none,a\ntwo,"b\none,c\n')
    assert found.errors == [(3, "", "quote")] and "unclosed quote near line 3" in found.messages[0]
    assert found.rows == [] or found.rows == [(2, ["one", "a"])]
    found = read(b'dataset,note\none,"' + b"b\n" * 100000)
    assert found.errors == [(2, "", "quote")] and "unclosed quote near line 2" in found.messages[0]
    found = read(b'dataset,note\none,"x"y\none,z\n')
    assert found.errors == [(2, "", "quote")] and found.rows == [(3, ["one", "z"])]


def test_a_stray_quote_is_a_character(read: Any) -> None:
    assert read(b'dataset,note\none,5" tube\ntwo,x\n').rows == [(2, ["one", '5" tube']), (3, ["two", "x"])]


def test_long_fields_and_lines(tmp_path: Path) -> None:
    long = b"x" * _compile_rows.LONGEST_FIELD
    assert not Read(tmp_path / "x.csv", b"dataset,note\none," + long + b"\n").errors
    found = Read(tmp_path / "x.csv", b"dataset,note\none,y\none,x" + long + b"\none,z\n")
    assert found.errors == [(3, "", "quote")]
    found = Read(tmp_path / "x.csv", b"dataset,note\none,y\none," + b"x" * (_compile_rows.LONGEST_RECORD + 600000))
    assert found.errors == [(3, "", "line-too-long")] and found.rows == [(2, ["one", "y"])]
    endless = b'one,"' + (b"x" * 100000 + b'","' + b"\n") * 60
    assert [rule for _line, _column, rule in Read(tmp_path / "x.csv", b"dataset,note\n" + endless).errors] == ["quote"]


def test_single_column(read: Any) -> None:
    found = read(b'dataset\none\n\n""\ntwo\n')
    assert found.rows == [(2, ["one"]), (5, ["two"])] and found.errors == [(4, "dataset", "required")]
    found = read(b"note\na\n\nb\n", required=())
    assert found.rows == [(2, ["a"]), (4, ["b"])] and found.errors == []


def test_without_enumerations(read: Any) -> None:
    free = {**ALL, "dataset": DATASET._replace(allowed=None)}
    found = read(b"dataset\nnew\nnew\nbad code\n", known=free)
    assert [row for _line, row in found.rows] == [["new"], ["new"]] and found.errors == [(4, "dataset", "dataset-code")]


def test_a_separator_in_a_cell(read: Any) -> None:
    content = 'dataset,note,kind\none,"a\x1fb",a\none,"a\x1fb"\none,"",a\n'.encode()
    found = read(content)
    assert found.rows == [(2, ["one", "a\x1fb", "a"]), (4, ["one", "", "a"])] and found.errors == [(3, "", "fields")]


CELL = st.one_of(
    st.sampled_from(
        [
            "",
            "one",
            "a",
            "b c",
            "NA",
            "1",
            "2",
            "0",
            "-1",
            "1.5",
            "1e3",
            "5.",
            ".5",
            "1e999",
            "9" * 20,
            "9" * 400,
            "-" + "9" * 400,
            "-",
            "-.",
            ".",
            "nan",
            "x'y",
            "\x1f",
        ]
    ),
    st.sampled_from(NO_INT + NO_REAL),
    st.integers().map(str),
    st.floats().map(repr),
    st.text(max_size=4),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(ALL)), st.lists(CELL, min_size=1, max_size=5))
def test_what_the_quick_check_accepts_is_right(code: str, cells: list[str]) -> None:
    table = _compile_rows.Table([ALL[code], TEXT])
    rows = [[cell, "t"] for cell in cells]
    right = all(problem_of(ALL[code], cell) is None for cell in cells)
    if all(map(table.parted.fullmatch, map("\x1f".join, rows))) and table.fits(rows):
        assert right
    if not any(set(cell) & set(",\n\r") for cell in cells) and all(map(table.plain.fullmatch, map(",".join, rows))) and table.fits(rows):
        assert right


PIECE = st.sampled_from(
    [
        b'"',
        b'""',
        b",",
        b"\n",
        b"\r",
        b"\r\n",
        b"one,",
        b"dataset",
        b"note",
        b"a",
        b"1",
        b"\x00",
        b"\xff",
        "é".encode(),
        b"\xef\xbb\xbf",
        b" ",
    ]
)


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.booleans(), st.lists(PIECE, max_size=40).map(b"".join) | st.binary(max_size=60), st.integers(1, 40))
def test_any_bytes_in_any_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: bool, content: bytes, size: int) -> None:
    """Whatever a file holds, the size of the blocks changes nothing, and the rows are those of the csv module."""
    content = (b"dataset,note\n" if header else b"") + content
    whole = Read(tmp_path / "x.csv", content)
    monkeypatch.setattr(_compile_rows, "BLOCK_BYTES", size)
    parted = Read(tmp_path / "x.csv", content)
    monkeypatch.undo()
    if not any(rule == "quote" for _line, _column, rule in whole.errors):
        assert (parted.rows, parted.header) == (whole.rows, whole.header)
    # Within a block, what is wrong with its lines is told before what is wrong with its cells. What comes after a quotation mark
    # that is not closed is anybody's guess, also the reader's.
    last = min((line for line, _column, rule in whole.errors if rule == "quote"), default=len(content) + 1)
    assert sorted(error for error in parted.errors if error[0] <= last) == sorted(error for error in whole.errors if error[0] <= last)
    if not whole.errors:
        text = content.decode("utf-8-sig")
        expected = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
        assert [whole.header] + [row for _line, row in whole.rows] == expected
