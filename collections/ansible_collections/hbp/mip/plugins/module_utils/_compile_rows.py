# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a dataset's CSV file row by row, with every cell checked against the pathology's variables.

A file is read in blocks of whole lines. A block is checked as a whole first, by one regular expression for a row and by sets for
columns, all of which run in C; only where that does not say yes is every cell looked at by itself, to say which are wrong. So what
the quick check accepts must be right, and what it refuses need not be wrong.
"""

from __future__ import annotations

import csv
import os
import re
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Pattern, Sequence, Set, Tuple, Union

BLOCK_BYTES = 1 << 18
LONGEST_RECORD = 4 << 20
#: Characters in a field; the limit of Python's csv module, at which an unclosed quote is noticed.
LONGEST_FIELD = 131072
#: What a dataset's code may be: it names a role in the portal and a key in the engine's store.
DATASET_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

_BOM = b"\xef\xbb\xbf"
_MARKS = ((b"\xff\xfe\x00\x00", "UTF-32"), (b"\x00\x00\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))
_INT = re.compile(r"-?[0-9]+")
_REAL = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
# The same in lengths that cannot be out of range, below 10^18 and below 10^300. Alternatives that begin with a character are what
# Python's matcher decides at once; an optional group costs twice the time.
_EXPONENT = "(?:[eE][-+]?[0-9]{1,2}|)"
_QUICK = {
    "int": "(?:[0-9][0-9]{0,17}|-[0-9]{1,18}|)",
    "real": r"(?:[0-9][0-9]{0,199}(?:\.[0-9]*|)%s|-[0-9]{1,200}(?:\.[0-9]*|)%s|)" % (_EXPONENT, _EXPONENT),
}
# Between the fields of a row that has been through the csv module; a cell that holds it only loses the quick check.
_SEPARATOR = "\x1f"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 63) - 1
_MOST_KNOWN = 10000

Number = Union[int, float]
#: line, column (a name, or empty), rule, message, and the value for the file that stays on the node (None: there is none).
Report = Callable[[int, str, str, str, Optional[str]], None]


class Stop(Exception):
    """The rest of a file cannot be read as CSV; the reason was reported."""


class Column(NamedTuple):
    """What the cells of one column must be. `allowed` None: anything; `required`: not empty."""

    code: str
    sql_type: str
    allowed: Optional[Set[str]]
    required: bool
    minimum: Optional[Number]
    maximum: Optional[Number]

    @property
    def is_dataset(self) -> bool:
        """Whether the cells are dataset codes."""
        return self.code == "dataset"


def problem_of(column: Column, cell: str) -> Optional[Tuple[str, str]]:
    """The rule that a cell breaks, with a message that does not hold the cell; None when it is right."""
    if not cell:
        return ("required", "it is empty") if column.required else None
    value: Number = 0
    if column.sql_type == "int":
        # 20 characters hold every 64-bit integer but for leading zeros; Python limits the digits that int() takes.
        if not _INT.fullmatch(cell):
            return "type", "it is no integer"
        digits = cell.lstrip("-").lstrip("0") or "0"
        if len(digits) > 19 or not _INT_MIN <= int(digits if cell[0] != "-" else "-" + digits) <= _INT_MAX:
            return "type", "it is an integer of more than 64 bits"
        value = int(digits) if cell[0] != "-" else -int(digits)
    elif column.sql_type == "real":
        if not _REAL.fullmatch(cell):
            return "type", "it is no number"
        value = float(cell)
        if value in (float("inf"), float("-inf")):
            return "type", "it is too large for a number"
    if column.is_dataset and not DATASET_CODE.fullmatch(cell):
        return "dataset-code", "it is no dataset code (letters, digits, '_', '.' and '-', not more than 64)"
    if column.allowed is not None and cell not in column.allowed:
        if column.is_dataset:
            return "enumeration", "the variable dataset does not enumerate it; mipfed data consolidate adds it"
        return "enumeration", "it is none of the %d enumerated codes" % len(column.allowed)
    if column.minimum is not None and value < column.minimum:
        return "range", "it is less than the minimum %s" % column.minimum
    if column.maximum is not None and value > column.maximum:
        return "range", "it is more than the maximum %s" % column.maximum
    return None


class Table:
    """The columns of a file in the order of its header, and the quick check of its rows."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = list(columns)
        self.width = len(self.columns)
        self.plain = self._row(",")
        self.parted = self._row(_SEPARATOR)
        self.index = {column.code: place for place, column in enumerate(self.columns)}
        self._sets: List[Tuple[int, Set[str]]] = []
        self._filled: List[int] = []
        self._ranges: List[Tuple[int, Callable[[str], Number], Number, Number]] = []
        for place, column in enumerate(self.columns):
            if column.is_dataset or column.allowed is not None:
                known = {code for code in column.allowed or () if problem_of(column, code) is None}
                self._sets.append((place, known if column.required else known | {""}))
            elif column.required:
                self._filled.append(place)
            if column.minimum is not None or column.maximum is not None:
                low = float("-inf") if column.minimum is None else column.minimum
                high = float("inf") if column.maximum is None else column.maximum
                self._ranges.append((place, int if column.sql_type == "int" else float, low, high))

    def _row(self, separator: str) -> Pattern[str]:
        text = "[^%s]*" % separator
        return re.compile(separator.join(_QUICK.get(column.sql_type, text) for column in self.columns))

    def fits(self, rows: List[List[str]]) -> bool:
        """Whether rows that match the regular expression are right in everything else. False says nothing."""
        for place, known in self._sets:
            if not known.issuperset([row[place] for row in rows]):
                return False
        for place in self._filled:
            if "" in [row[place] for row in rows]:
                return False
        for place, convert, low, high in self._ranges:
            values = [convert(row[place]) for row in rows if row[place]]
            if values and (min(values) < low or max(values) > high):
                return False
        return True

    def check(self, line: int, row: List[str], report: Report) -> bool:
        """Look at every cell of a row; False after reporting what is wrong."""
        if len(row) != self.width:
            report(line, "", "fields", "the row has %d fields, the header %d" % (len(row), self.width), None)
            return False
        if self.parted.fullmatch(_SEPARATOR.join(row)) and self.fits([row]):
            return True
        right = True
        for column, cell in zip(self.columns, row):
            problem = problem_of(column, cell)
            if problem is not None:
                right = False
                report(line, column.code, problem[0], problem[1], cell)
        if right:
            self._learn(row)
        return right

    def _learn(self, row: List[str]) -> None:
        """Remember dataset codes that are right although nothing enumerates them, for the quick check."""
        for place, known in self._sets:
            if len(known) < _MOST_KNOWN:
                known.add(row[place])


def columns_of(header: Sequence[str], known: Dict[str, Column], required: Sequence[str], line: int, report: Report) -> Optional[Table]:
    """The table for a header, None after reporting what is wrong with it.

    `known` are the pathology's variables; `required` are the columns that must be there. An unknown name may be no name but a
    patient's value, in a file without a header, so it is told only beside a column `dataset` and when it looks like a name.
    """
    right = True
    seen: Dict[str, int] = {}
    tell = "dataset" in header
    folded = {code.strip().lower(): code for code in known}
    for place, name in enumerate(header, 1):
        if name in seen:
            right = False
            message = "columns %d and %d have the same name" % (seen[name], place)
            report(line, name if name in known else "", "header-duplicate", message, name)
        elif name not in known:
            right = False
            shown = name if tell and _NAME.fullmatch(name) else ""
            message = "column %d %s" % (place, "has no name" if not name else "is no variable of the pathology")
            meant = folded.get(name.strip().lower())
            if meant:
                message += "; %s is written like this in CDEsMetadata.json" % meant
            elif ";" in name or "\t" in name:
                message += "; the fields must be parted by commas"
            report(line, shown, "column-unknown", message, name)
        seen.setdefault(name, place)
    for name in required:
        if name not in seen:
            right = False
            report(line, name, "column-missing", "the file has no column %s" % name, None)
    return Table([known[name] for name in header]) if right else None


class Blocks:
    """Whole lines of a part of a file, block by block. `line` is the number of the next block's first line, `offset` its place."""

    def __init__(self, descriptor: int, start: int, end: int, line: int, report: Report) -> None:
        self.offset = start
        self.line = line
        self._descriptor = descriptor
        self._position = start
        self._end = end
        self._rest = b""
        self._report = report

    def take(self) -> bytes:
        """The next block, empty at the end. Only the file's last line may lack its end. Raises Stop at an endless line."""
        data = self._rest
        cut = 0
        while not cut:
            chunk = os.pread(self._descriptor, min(BLOCK_BYTES, self._end - self._position), self._position)
            if not chunk:
                cut = len(data)
                break
            self._position += len(chunk)
            data += chunk
            cut = last_end(data)
            if not cut and len(data) > LONGEST_RECORD:
                message = "a line is longer than %d MiB" % (LONGEST_RECORD >> 20)
                self._report(self.line, "", "line-too-long", message, None)
                raise Stop
        block, self._rest = data[:cut], data[cut:]
        self.line += count_ends(block)
        self.offset += len(block)
        return block

    def skip_mark(self) -> None:
        """Leave out a byte order mark at the file's begin. Raises Stop for a file in another encoding or no text at all."""
        start = os.pread(self._descriptor, 4096, 0)
        name = next((name for mark, name in _MARKS if start.startswith(mark)), "")
        if name or start.count(b"\x00") * 4 > len(start):
            self._report(1, "", "encoding", "the file is %s; save it as UTF-8" % (name or "UTF-16 or no text"), None)
            raise Stop
        if start.startswith(_BOM):
            self._position = self.offset = len(_BOM)


def last_end(data: bytes) -> int:
    """Length of the whole lines in `data`. A CR at the very end may be half of a CRLF, and so ends nothing yet."""
    newline = data.rfind(b"\n")
    return max(newline, data.rfind(b"\r", newline + 1, max(len(data) - 1, 0))) + 1


def count_ends(data: bytes) -> int:
    """Number of line ends: LF, CRLF and CR."""
    count = data.count(b"\n")
    if b"\r" in data:
        count += data.count(b"\r") - data.count(b"\r\n")
    return count


class Lines:
    """The lines of a block for csv.reader, and within a record those of the blocks that follow."""

    def __init__(self, blocks: Blocks, block: bytes, line: int, report: Report) -> None:
        #: Number of the next line, its place in the file, and whether a record ended just before it.
        self.number = line
        self.offset = blocks.offset - len(block)
        self.between = True
        self.unclosed = False
        self._blocks = blocks
        self._report = report
        self._lines = block.splitlines(True)
        self._next = 0
        self._used = 0

    @property
    def more(self) -> bool:
        """Whether the block has more lines."""
        return self._next < len(self._lines)

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        if not self.more:
            block = b"" if self.between else self._blocks.take()
            if not block:
                self.unclosed = not self.between
                raise StopIteration
            self._lines = block.splitlines(True)
            self._next = 0
        line = self._lines[self._next]
        self._used = len(line) if self.between else self._used + len(line)
        if self._used > LONGEST_RECORD:
            self._report(self.number, "", "quote", "a record is longer than %d MiB: a quote is not closed" % (LONGEST_RECORD >> 20), None)
            raise Stop
        self.between = False
        self._next += 1
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            message = "byte %d of the line, %d of the file, is not UTF-8" % (error.start + 1, self.offset + error.start + 1)
            self._report(self.number, "", "encoding", message, None)
            text = line.decode("utf-8", "replace")
        if "\x00" in text:
            message = "byte %d of the line, %d of the file, is zero" % (line.index(b"\x00") + 1, self.offset + line.index(b"\x00") + 1)
            self._report(self.number, "", "zero-byte", message, None)
            text = text.replace("\x00", "\ufffd")
        self.number += 1
        self.offset += len(line)
        return text


def records_of(lines: Lines, report: Report) -> Iterator[Tuple[int, List[str]]]:
    """The records that begin in a block, each with its first line; blank lines are left out. Raises Stop where CSV ends."""
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(lines, strict=True)
    while lines.more:
        begin = lines.number
        lines.between = True
        try:
            fields = next(reader)
        except (csv.Error, StopIteration) as error:
            if lines.unclosed:
                report(begin, "", "quote", "unclosed quote near line %d: the file ends within a quoted field" % begin, None)
                raise Stop from None
            if "field larger than field limit" in str(error):
                message = "unclosed quote near line %d, or a field of more than %d characters" % (begin, LONGEST_FIELD)
                report(begin, "", "quote", message, None)
                raise Stop from None
            report(begin, "", "quote", "the quotes are wrong: a comma or the end of the line must follow the end of a quoted field", None)
            continue
        if fields:
            yield begin, fields
    lines.between = True


def read_header(blocks: Blocks, report: Report) -> Tuple[int, List[str], int, int]:
    """The header of a file: its line, its names, and the place and line where the rows begin. Raises Stop when there is none."""
    blocks.skip_mark()
    block = blocks.take()
    if block[:1] in (b"", b"\n", b"\r"):
        report(1, "", "header-missing", "the first line is blank" if block else "the file is empty", None)
        raise Stop
    lines = Lines(blocks, block, 1, report)
    for begin, names in records_of(lines, report):
        if begin == 1:
            return begin, names, lines.offset, lines.number
        break
    # Line 1 holds something that is no record, which was reported.
    raise Stop


class Rows:
    """The rows of a part of a file, in batches. Batches that are not all right come without the wrong rows, which are reported."""

    def __init__(self, table: Table, blocks: Blocks, report: Report) -> None:
        self._table = table
        self._blocks = blocks
        self._report = report

    def batches(self) -> Iterator[Tuple[Union[range, List[int]], List[List[str]]]]:
        """Line numbers and rows. Ends early, after a report, where the file stops being CSV."""
        try:
            while True:
                line = self._blocks.line
                block = self._blocks.take()
                if not block:
                    return
                rows = self._plain(block)
                if rows is not None:
                    yield range(line, line + len(rows)), rows
                else:
                    yield self._parted(block, line)
        except Stop:
            return

    def _plain(self, block: bytes) -> Optional[List[List[str]]]:
        """The rows of a block in which commas and line ends part fields and nothing else; None when that is not sure."""
        if b'"' in block or b"\x00" in block:
            return None
        try:
            text = block.decode("utf-8")
        except UnicodeDecodeError:
            return None
        if "\r" in text:
            text = text.replace("\r\n", "\n")
            if "\r" in text:
                return None
        if text.endswith("\n"):
            text = text[:-1]
        lines = text.split("\n")
        if len(max(lines, key=len)) > LONGEST_FIELD or (self._table.width == 1 and "" in lines):
            return None
        if not all(map(self._table.plain.fullmatch, lines)):
            return None
        rows = [line.split(",") for line in lines]
        return rows if self._table.fits(rows) else None

    def _parted(self, block: bytes, line: int) -> Tuple[List[int], List[List[str]]]:
        """The right rows of a block that goes through the csv module."""
        table = self._table
        numbers: List[int] = []
        rows: List[List[str]] = []
        failed: Optional[Stop] = None
        try:
            for number, row in records_of(Lines(self._blocks, block, line, self._report), self._report):
                numbers.append(number)
                rows.append(row)
        except Stop as error:
            failed = error
        widths: List[Any] = list(map(len, rows))
        quick = widths.count(table.width) == len(rows) and all(map(table.parted.fullmatch, map(_SEPARATOR.join, rows)))
        if not quick or not table.fits(rows):
            right = [table.check(number, row, self._report) for number, row in zip(numbers, rows)]
            numbers = [number for number, good in zip(numbers, right) if good]
            rows = [row for row, good in zip(rows, right) if good]
        if failed is not None:
            raise failed
        return numbers, rows
