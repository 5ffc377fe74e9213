# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.hbp.mip.plugins.module_utils import _csv

RULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
BOUNDED = settings(max_examples=150, deadline=None)


def summarise(content: bytes, most: int = 1000) -> _csv.Summary:
    summary = _csv.summarise(io.BytesIO(content), "dataset", RULE, most)
    assert summary.size == len(content) and summary.sha256 == hashlib.sha256(content).hexdigest()
    return summary


def codes(summary: _csv.Summary) -> list[str]:
    return [finding.code for finding in summary.findings]


def test_plain_file() -> None:
    found = summarise(b"subjectcode,dataset,age\np1,edsd,50\np2,ppmi,60\np3,edsd,70\n")
    assert found.header == ["subjectcode", "dataset", "age"] and found.column == 1
    assert (found.rows, found.codes, found.complete, found.findings) == (3, {"edsd": 2, "ppmi": 1}, True, [])
    assert (found.encoding, found.newline) == ("utf-8", "lf")


@pytest.mark.parametrize(
    ("content", "rows", "newline"),
    [
        (b"a,dataset\r\n1,d\r\n2,d\r\n", 2, "crlf"),
        (b"a,dataset\r1,d\r2,d\r", 2, "cr"),
        (b"a,dataset\r1,d\r2,d", 2, "cr"),
        (b"a,dataset\n1,d\r\n2,d\r3,d", 3, "mixed"),
        (b"a,dataset\n1,d", 1, "lf"),
        (b"a,dataset", 0, "none"),
        (b'"a","dataset"\r\n"x\ny","d"\r\n"x\rz","d"\r\n', 2, "crlf"),
        (b'dataset\n"d"\nd', 2, "lf"),
    ],
)
def test_line_ends(content: bytes, rows: int, newline: str) -> None:
    found = summarise(content)
    assert (found.rows, found.newline, found.ragged, found.strange) == (rows, newline, 0, 0)
    assert codes(found) == (["line-ends-mixed"] if newline == "mixed" else [])


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (b"", "empty", 0),
        (b"\xef\xbb\xbf", "empty", 0),
        (b"\n\n\n", "header-missing", 1),
        (b"a;dataset;b\n1;d;2\n", "delimiter", 1),
        (b"a\tdataset\n1\td\n", "delimiter", 1),
        (b"a|dataset\n1|d\n", "delimiter", 1),
        (b"a,Dataset\n1,d\n", "dataset-missing", 1),
        (b"a, dataset\n1,d\n", "dataset-missing", 1),
        (b"p1,edsd,50\np2,edsd,60\n", "dataset-missing", 1),
        (b'"a,dataset\n1,d\n', "unclosed-quote", 1),
        (b'a,dataset\n1,d\n"2,d\n3,d\n', "unclosed-quote", 3),
        (b'a,dataset\n1,d\n"' + b"2,d\n" * 50000 + b'",d\n', "unclosed-quote", 3),
        (b'a,dataset\n1,d\n"1\n2",d\n\n1,"d\n' + b'","\n' * 2000000, "unclosed-quote", 6),
        (b"a,dataset\n1,d\n" + b"x" * (5 << 20), "line-too-long", 3),
        (b"x" * (5 << 20), "line-too-long", 1),
        (b"a,dataset\n1,d\n\xe9,d\n", "encoding", 3),
        (b"a,dataset\r\n1,d\r\n\r\n\xc3\xa9\xe2\x82", "encoding", 4),
        (b'a,dataset\n"x\ny",d\n"\xff",d\n', "encoding", 4),
        (b"a,dataset\n1\x00,d\n", "zero-byte", 2),
        ("a,dataset\n1,d\n".encode("utf-16"), "encoding", 0),
        ("a,dataset\n1,d\n".encode("utf-16-le"), "encoding", 0),
        ("a,dataset\n1,d\n".encode("utf-16-be"), "encoding", 0),
        ("a,dataset\n1,d\n".encode("utf-32"), "encoding", 0),
        (b"PK\x03\x04" + bytes(range(256)) * 10, "no-csv", 0),
        (b"SQLite format 3\x00" + bytes(1000), "no-csv", 0),
        (bytes(100), "encoding", 0),
    ],
)
def test_broken_files(content: bytes, code: str, line: int) -> None:
    found = summarise(content)
    assert [(finding.code, finding.line) for finding in found.findings if finding.severity == "error"] == [(code, line)]


def test_where_the_bad_byte_is() -> None:
    content = b"\xef\xbb\xbfa,dataset\r\n" + b"1,d\r\n" * 100000 + b"\xff,d\r\n" + b"1,\xff\r\n" * 10
    found = summarise(content)
    assert codes(found) == ["byte-order-mark", "encoding"] and found.findings[1].line == 100002
    assert found.findings[1].message == f"byte {content.index(bytes([255])) + 1} of the file is not UTF-8"
    assert found.rows == 100011 and found.codes == {"d": 100001} and found.strange == 10 and found.encoding == "unknown"


def test_rows_that_are_not_counted_as_a_dataset() -> None:
    content = b"a,dataset,b\n1,d,2\n\n1,d\n1,d,2,3\n,,\n1, d,2\n1,dataset,2\n1,d,2\n   \n"
    for variant in (content, content.replace(b"1,d,2\n", b'"1",d,2\n', 1), content.replace(b"\n", b"\r\n")):
        found = summarise(variant)
        assert found.codes == {"d": 2} and found.rows == 8
        assert (found.ragged, found.ragged_line, found.blank_line) == (3, 4, 3)
        assert (found.strange, found.strange_line, found.repeated, found.repeated_line) == (3, 6, 1, 8)
    found = summarise(b"dataset,a\nx y,1\nd,2\nx y,3\ndataset,1\n")
    assert (found.strange_line, found.repeated_line) == (2, 5)


def test_two_columns_of_the_same_name() -> None:
    found = summarise(b"dataset,dataset\nd,e\n")
    assert found.column is None and found.codes == {} and found.rows == 1


def test_too_many_values() -> None:
    content = b"dataset\n" + b"".join(b"p%d\n" % number for number in range(1500))
    assert summarise(content).codes_many and summarise(content).codes == {} and summarise(content).rows == 1500
    assert len(summarise(content, 1500).codes) == 1500


MEASURE = """
import re, resource, sys
from ansible_collections.hbp.mip.plugins.module_utils import _csv
class Stream:
    left = 300
    block = b"".join(eval(sys.argv[1]) % (n % 7, n) for n in range(12000))
    def read(self, size):
        self.left -= 1
        return b"dataset,a\\n" if self.left == 299 else self.block if self.left > 0 else b""
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = _csv.summarise(Stream(), "dataset", re.compile("[a-z0-9]+"), 1000)
print(found.rows, found.size >> 20, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.parametrize("row", [b"edsd%d,%d--------\n", b'edsd%d,"%d"------\n', b"x y %d,%d,-------\n"])
def test_memory_does_not_grow_with_the_file(row: bytes) -> None:
    root = str(Path(_csv.__file__).parents[5])
    command = [sys.executable, "-c", MEASURE, repr(row)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": root})
    rows, size, grown = map(int, answer.stdout.split())
    assert rows == 298 * 12000 and size > 50 and grown < 12


def quoted(field: str, always: bool) -> str:
    return '"' + field.replace('"', '""') + '"' if always or any(sign in field for sign in ',"\r\n') else field


def written(rows: list[list[str]], end: str, last: bool, always: bool) -> bytes:
    # a lone empty field would be a blank line
    lines = [",".join(quoted(field, always or row == [""]) for field in row) for row in rows]
    return (end.join(lines) + (end if last else "")).encode()


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8) | st.sampled_from(
    ["", '"', '""', ",", "\r\n", "\n", "a\rb", "é", "\u2028", "\x0b", "\x1c", "d1", "d2"]
)
tables = st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(texts, min_size=width, max_size=width), min_size=1, max_size=12))


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 18])
@BOUNDED
@given(table=tables, end=st.sampled_from(["\n", "\r\n", "\r"]), last=st.booleans(), always=st.booleans())
def test_any_table_round_trips(size: int, table: list[list[str]], end: str, last: bool, always: bool) -> None:
    before, _csv.BLOCK_BYTES = _csv.BLOCK_BYTES, size
    try:
        content = written([["h"] * len(table[0]), *table], end, last, always)
        reader = _csv.Reader(io.BytesIO(content))
        records = list(reader.records())
        reader.finish()
    finally:
        _csv.BLOCK_BYTES = before
    assert [fields for _line, fields in records] == table and reader.complete
    assert reader.sha256 == hashlib.sha256(content).hexdigest()
    line = 2
    for (number, _fields), row in zip(records, table, strict=True):
        assert number == line
        line += 1 + sum(len(re.findall("\r\n|\r|\n", field)) for field in row)


@BOUNDED
@given(
    values=st.lists(st.sampled_from(["d1", "d2", "D1", "", "x y", "dataset", "é"]), max_size=40),
    before=st.integers(0, 3),
    after=st.integers(0, 3),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    size=st.sampled_from([1, 5, 100, 1 << 18]),
)
def test_plain_and_quoted_files_count_the_same(values: list[str], before: int, after: int, end: str, size: int) -> None:
    rows = [["a"] * before + [value] + ["b"] * after for value in ["dataset", *values]]
    if not before + after:
        rows = [row for row in rows if row != [""]]
    found = []
    original = _csv.BLOCK_BYTES
    for always in (False, True):
        for _csv.BLOCK_BYTES in (size, original):
            summary = summarise(written(rows, end, True, always))
            found.append(summary._replace(sha256="", size=0))
    assert all(summary == found[0] for summary in found)
    told = Counter(row[before] for row in rows[1:])
    assert found[0].codes == {code: told[code] for code in ("d1", "d2", "D1") if told[code]} and found[0].rows == len(rows) - 1
    assert found[0].strange == sum(told[code] for code in ("", "x y", "dataset", "é")) and found[0].repeated == told["dataset"]


pieces = st.sampled_from(
    [b"dataset", b"a", b"d1", b",", b",", b'"', b"\n", b"\r\n", b"\r", b"\x00", b"\xff", b"\xef\xbb\xbf", b";", b"\xe2\x82", b"PK\x03\x04"]
)


@settings(max_examples=500, deadline=None)
@given(content=st.lists(pieces, max_size=60).map(b"".join) | st.binary(max_size=200), size=st.sampled_from([1, 3, 1 << 18]))
def test_any_bytes_give_an_answer(content: bytes, size: int) -> None:
    before, _csv.BLOCK_BYTES = _csv.BLOCK_BYTES, size
    try:
        found = summarise(content)
    finally:
        _csv.BLOCK_BYTES = before
    whole = summarise(content)
    assert found == whole
    if whole.complete and whole.header and "encoding" not in codes(whole):
        text = io.StringIO(content.decode("utf-8-sig").replace("\x00", "\ufffd"), newline="")
        rows = [row for row in list(csv.reader(text))[1:] if row]
        assert whole.rows == len(rows) and whole.ragged == sum(len(row) != len(whole.header) for row in rows)
        lines = content.decode("utf-8-sig").count("\n") + content.decode("utf-8-sig").count("\r") + 1
        assert all(finding.line <= lines for finding in whole.findings)
