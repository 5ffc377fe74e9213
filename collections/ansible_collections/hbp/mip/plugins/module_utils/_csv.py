# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a dataset's CSV file once: its hash, its header, and how many rows each dataset code has.

A file is read in blocks of whole lines, so memory does not grow with it. Blocks without a quote are counted without taking
the rows apart (all fields are then delimited by commas and line ends alone); the others go through the csv module. Whatever
the bytes are, the answer is a summary with findings: nothing here raises for what a file holds, and no finding holds a cell.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import Counter
from typing import BinaryIO, Dict, Iterator, List, NamedTuple, Optional, Pattern, Tuple

#: A name of a dataset file; other files in a pathology's folder are none.
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,123}\.csv")

BLOCK_BYTES = 1 << 18
LONGEST_LINE = 4 << 20
LONGEST_RECORD = 4 << 20
# As much of a file as tells its encoding.
_START_BYTES = 4096

_BOM = b"\xef\xbb\xbf"
# The longer marks first: UTF-16's begins UTF-32's.
_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_FORMATS = (
    (b"PK\x03\x04", "a ZIP archive, as a spreadsheet is"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a document of an old office program"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"SQLite format 3\x00", "an SQLite database"),
)


class Finding(NamedTuple):
    """What is wrong with a file: a code, a message without any cell, the physical line (from 1, 0 for the whole file).

    `severity` is error where the file cannot be compiled as it is, else warning.
    """

    code: str
    message: str
    line: int = 0
    severity: str = "error"


class Reader:
    """A CSV file (RFC 4180, with comma) as records with their physical lines; the header is read at once.

    `complete` turns False where the rest cannot be read as CSV; `sha256` and `size` are of the whole file after `finish`.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.findings: List[Finding] = []
        self.encoding = "utf-8"
        self.complete = True
        self.size = 0
        self.header: List[str] = []
        self._stream = stream
        self._hash = hashlib.sha256()
        self._ends = {"lf": 0, "crlf": 0, "cr": 0}
        self._rest = b""
        self._block_line = 0
        self._next_line = 0
        self._offset = 0
        self._seen: Dict[str, bool] = {}
        self._head = self._first_block()

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of what was read so far."""
        return self._hash.hexdigest()

    @property
    def newline(self) -> str:
        """How the records end: lf, crlf, cr, mixed, or none where there is no line end."""
        kinds = [kind for kind, count in self._ends.items() if count]
        return kinds[0] if len(kinds) == 1 else ("mixed" if kinds else "none")

    def records(self) -> Iterator[Tuple[int, List[str]]]:
        """The records after the header, each with the physical line where it begins. Blank lines are left out."""
        block = self._take_head()
        while block:
            for line, fields in self._parse(block):
                if fields:
                    yield line, fields
            block = self._block()

    def finish(self) -> None:
        """Read what is left of the file, for its hash."""
        while self._read():
            pass

    def _read(self) -> bytes:
        chunk = self._stream.read(BLOCK_BYTES)
        self._hash.update(chunk)
        self.size += len(chunk)
        return chunk

    def _note(self, code: str, message: str, line: int = 0, severity: str = "error") -> None:
        if code not in self._seen:
            self._seen[code] = True
            self.findings.append(Finding(code, message, line, severity))

    def _stop(self, code: str, message: str, line: int = 0) -> None:
        self._note(code, message, line)
        self.complete = False

    def _first_block(self) -> bytes:
        """Look at the encoding, read the header, and give what follows it in its block."""
        chunk = self._read()
        while chunk and len(self._rest) + len(chunk) < _START_BYTES:
            self._rest += chunk
            chunk = self._read()
        self._rest += chunk
        if not self._rest:
            self._note("empty", "the file is empty")
            return b""
        if self._is_no_text(self._rest[:_START_BYTES]):
            self._rest = b""
            return b""
        if self._rest.startswith(_BOM):
            self.encoding = "utf-8-bom"
            self._note("byte-order-mark", "the file begins with a byte order mark", 1, "warning")
            self._rest = self._rest[len(_BOM) :]
            self._offset = len(_BOM)
        block = self._block()
        if not block:
            if self.complete:
                self._note("empty", "the file is empty but for its byte order mark")
            return b""
        lines = _Lines(self, block)
        try:
            self.header = next(csv.reader(lines), [])
        except (csv.Error, _RecordTooLong):
            self._stop("unclosed-quote", "a quote that opens a field is never closed", 1)
            return b""
        self._count_end(lines.last)
        if lines.unclosed:
            self._stop("unclosed-quote", "a quote that opens a field is never closed", 1)
            self.header = []
            return b""
        if not self.header:
            self._stop("header-missing", "the first line is blank, and should hold the names of the columns", 1)
            return b""
        self._block_line += lines.taken
        return b"".join(lines.block.splitlines(True)[lines.taken :])

    def _is_no_text(self, start: bytes) -> bool:
        for mark, name in _MARKS:
            if start.startswith(mark):
                self.encoding = name
                self._stop("encoding", "the file is %s; save it as UTF-8" % name.upper())
                return True
        for mark, name in _FORMATS:
            if start.startswith(mark):
                self.encoding = "unknown"
                self._stop("no-csv", "the file is %s and no CSV file" % name)
                return True
        zeros = start.count(b"\x00")
        if zeros * 4 > len(start):
            even = start[::2].count(b"\x00")
            self.encoding = "utf-16-be" if even > zeros - even else "utf-16-le"
            self._stop("encoding", "a large part of the file are zero bytes: it is UTF-16 or no text; save it as UTF-8")
            return True
        return False

    def _take_head(self) -> bytes:
        head, self._head = self._head, b""
        return head or self._block()

    def _block(self) -> bytes:
        """The next whole lines of the file, empty at its end; the very last one may lack its line end."""
        if not self.complete:
            return b""
        data = self._rest
        chunk = b""
        # What the constructor read in order to see the encoding comes first.
        cut = _last_end(data)
        while not cut:
            if len(data) > LONGEST_LINE:
                self._rest = b""
                self._stop("line-too-long", "a line is longer than %d MiB" % (LONGEST_LINE >> 20), self._next_line + 1)
                return b""
            chunk = self._read()
            if not chunk:
                cut = len(data)
                break
            data += chunk
            cut = _last_end(data)
        block, self._rest = data[:cut], data[cut:]
        self._block_line = self._next_line
        self._next_line += _count_ends(block)
        self._check_bytes(block)
        self._offset += len(block)
        return block

    def _check_bytes(self, block: bytes) -> None:
        if not block.isascii() and self.encoding.startswith("utf-8"):
            try:
                block.decode("utf-8")
            except UnicodeDecodeError as error:
                line = self._block_line + _count_ends(block[: error.start]) + 1
                self._note("encoding", "byte %d of the file is not UTF-8" % (self._offset + error.start + 1), line)
                self.encoding = "unknown"
        if b"\x00" in block:
            at = block.index(b"\x00")
            line = self._block_line + _count_ends(block[:at]) + 1
            self._note("zero-byte", "byte %d of the file is zero, which no text has" % (self._offset + at + 1), line)

    def _count_end(self, line: str) -> None:
        if line.endswith("\n"):
            self._ends["crlf" if line.endswith("\r\n") else "lf"] += 1
        elif line.endswith("\r"):
            self._ends["cr"] += 1

    def _parse(self, block: bytes) -> Iterator[Tuple[int, List[str]]]:
        """The records that begin in a block, each with its line; a quoted field may take in the blocks that follow."""
        lines = _Lines(self, block)
        reader = csv.reader(lines)
        base, before = self._block_line + 1, 0
        try:
            for fields in reader:
                lines.between = True
                if lines.unclosed:
                    self._stop("unclosed-quote", "a quote that opens a field is never closed", base + before)
                    return
                self._count_end(lines.last)
                yield base + before, fields
                before = reader.line_num
        except csv.Error:
            limit = csv.field_size_limit()
            self._stop("unclosed-quote", "a quote is not closed within %d characters" % limit, base + before)
        except _RecordTooLong:
            self._stop("unclosed-quote", "a record is longer than %d MiB: a quote is not closed" % (LONGEST_RECORD >> 20), base + before)


class _RecordTooLong(Exception):
    """A record goes on and on, because some quote opens a field that was not meant."""


class _Lines:
    """The lines of a block for csv.reader.

    At the block's end it stops between two records, and goes on with the file's next block within one: so the rest of a file
    need not go through csv.reader because of one quote.
    """

    def __init__(self, reader: Reader, block: bytes) -> None:
        self.between = True
        self.unclosed = False
        self.last = ""
        self.block = block
        self.taken = 0
        self._reader = reader
        self._used = 0
        self._load(block)

    def _load(self, block: bytes) -> None:
        self.block = block
        self.taken = 0
        # csv.reader of Python 3.8 to 3.10 raises at a zero byte; it is told as a finding already.
        text = block.decode("utf-8", "replace").replace("\x00", "\ufffd")
        self._lines = iter(io.StringIO(text, newline=""))

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._lines, "")
        if not line:
            if self.between:
                raise StopIteration
            block = self._reader._block()
            if not block:
                self.unclosed = True
                raise StopIteration
            self._load(block)
            line = next(self._lines)
        if self.between:
            self.between = False
            self._used = 0
        self._used += len(line)
        if self._used > LONGEST_RECORD:
            raise _RecordTooLong
        self.taken += 1
        self.last = line
        return line


def _last_end(data: bytes) -> int:
    """Length of the whole lines in `data`. A CR at the very end may be half of a CRLF, and so ends nothing yet."""
    newline = data.rfind(b"\n")
    return max(newline, data.rfind(b"\r", newline + 1, max(len(data) - 1, 0))) + 1


def _count_ends(data: bytes) -> int:
    count = data.count(b"\n")
    if b"\r" in data:
        count += data.count(b"\r") - data.count(b"\r\n")
    return count


class Summary(NamedTuple):
    """A file in numbers. `header` and `codes` are cells still: the caller decides which of them may be told.

    `codes` are the values of the wanted column that match the rule, with their rows, from rows with as many fields as the header
    (empty when there are more than the caller allows: `codes_many`). `strange` rows hold another value there, `repeated` of them
    the column's own name; `ragged` rows have another number of fields. `rows` is the sum of all; blank lines are none of them. The
    `_line` are those of the first such row. Unless `complete`, the numbers are of the part before the error.
    """

    sha256: str
    size: int
    encoding: str
    newline: str
    header: List[str]
    column: Optional[int]
    complete: bool
    rows: int
    codes: Dict[str, int]
    codes_many: bool
    strange: int
    strange_line: int
    repeated: int
    repeated_line: int
    ragged: int
    ragged_line: int
    blank_line: int
    findings: List[Finding]


class _Counts:
    """Counting rows by the value of one column."""

    def __init__(self, name: str, columns: int, index: Optional[int], rule: Pattern[str], most: int) -> None:
        self.rows = self.strange = self.repeated = self.ragged = 0
        self.strange_line = self.repeated_line = self.ragged_line = self.blank_line = 0
        self.codes: Dict[str, int] = {}
        self.many = False
        self._name = name
        self._columns = columns
        self._index = index
        self._rule = rule
        self._most = most

    def record(self, line: int, fields: List[str]) -> None:
        """Count one record."""
        if len(fields) == self._columns:
            self.rows += 1
            if self._index is not None:
                self._one(fields[self._index], line)
        elif fields:
            self._ragged(line)
        elif not self.blank_line:
            self.blank_line = line

    def block(self, first: int, lines: List[bytes]) -> None:
        """Count whole lines without a quote, of which the first has the number `first`."""
        commas = self._columns - 1
        if [line.count(b",") for line in lines].count(commas) == len(lines) and (commas or b"" not in lines):
            self.rows += len(lines)
            if self._index is not None:
                self._many(self._values(lines, self._index), first)
            return
        for number, line in enumerate(lines, first):
            if not line:
                self.blank_line = self.blank_line or number
            elif line.count(b",") != commas:
                self._ragged(number)
            else:
                self.rows += 1
                if self._index is not None:
                    self._one(self._values([line], self._index)[0].decode("utf-8", "replace"), number)

    def _values(self, lines: List[bytes], index: int) -> List[bytes]:
        after = self._columns - 1 - index
        if index <= after:
            return [line.split(b",", index + 1)[index] for line in lines]
        return [line.rsplit(b",", after + 1)[-after - 1] for line in lines]

    def _many(self, values: List[bytes], first: int) -> None:
        odd = set()
        for value, count in Counter(values).items():
            if not self._count(value.decode("utf-8", "replace"), count):
                odd.add(value)
        if odd and not self.strange_line:
            self.strange_line = first + next(number for number, value in enumerate(values) if value in odd)
        if self.repeated and not self.repeated_line:
            self.repeated_line = first + values.index(self._name.encode("utf-8"))

    def _one(self, text: str, line: int) -> None:
        if not self._count(text, 1):
            self.strange_line = self.strange_line or line
            if self.repeated:
                self.repeated_line = self.repeated_line or line

    def _ragged(self, line: int) -> None:
        self.rows += 1
        self.ragged += 1
        self.ragged_line = self.ragged_line or line

    def _count(self, text: str, count: int) -> bool:
        """Count rows with this value; False when it is a strange one."""
        if text in self.codes:
            self.codes[text] += count
            return True
        if text == self._name or not self._rule.fullmatch(text):
            self.strange += count
            self.repeated += count if text == self._name else 0
            return False
        if not self.many:
            self.codes[text] = count
            if len(self.codes) > self._most:
                self.codes.clear()
                self.many = True
        return True


def summarise(stream: BinaryIO, name: str, rule: Pattern[str], most: int) -> Summary:
    """Read a CSV file once, and count its rows by the value of the column `name`.

    `rule` is what a value must match as a whole to be told, `most` how many different ones may be told. Memory is that of a few
    blocks (BLOCK_BYTES) and of the longest record. Raises OSError only, when the stream cannot be read.
    """
    reader = Reader(stream)
    header = reader.header
    index = header.index(name) if header.count(name) == 1 else None
    if header and name not in header:
        _hint(reader, name)
    counts = _Counts(name, len(header), index, rule, most)
    block = reader._take_head()
    while block:
        if b'"' in block:
            for line, fields in reader._parse(block):
                counts.record(line, fields)
        else:
            plain = block
            if b"\r" in plain:
                pairs = plain.count(b"\r\n")
                reader._ends["crlf"] += pairs
                reader._ends["lf"] += plain.count(b"\n") - pairs
                reader._ends["cr"] += plain.count(b"\r") - pairs
                plain = plain.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            else:
                reader._ends["lf"] += plain.count(b"\n")
            lines = plain.split(b"\n")
            if not lines[-1]:
                lines.pop()
            counts.block(reader._block_line + 1, lines)
        block = reader._block()
    reader.finish()
    if reader.newline == "mixed":
        reader._note("line-ends-mixed", "some lines end as on Windows and some do not", 0, "warning")
    return Summary(
        reader.sha256,
        reader.size,
        reader.encoding,
        reader.newline,
        header,
        index,
        reader.complete,
        counts.rows,
        counts.codes,
        counts.many,
        counts.strange,
        counts.strange_line,
        counts.repeated,
        counts.repeated_line,
        counts.ragged,
        counts.ragged_line,
        counts.blank_line,
        reader.findings,
    )


def _hint(reader: Reader, name: str) -> None:
    """Say why the wanted column is missing, as far as the header shows."""
    text = "".join(reader.header)
    for delimiter, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")):
        if text.count(delimiter) >= len(reader.header):
            reader._note("delimiter", "the columns are separated by %s instead of commas" % word, 1)
            return
    near = [field for field in reader.header if field.strip().lower() == name]
    hint = "; one is named like it but for blanks or capital letters" if near else ""
    reader._note("dataset-missing", "the first line names no column %s%s" % (name, hint), 1)
