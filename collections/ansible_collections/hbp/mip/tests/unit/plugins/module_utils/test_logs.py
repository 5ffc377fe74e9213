# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host reads of its logs: frames, time stamps, the engine's journal without keys, and where to go on."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _logs
from ansible_collections.hbp.mip.plugins.module_utils._logs import Line, Reader, Source

SOURCE = Source("c1", "engine", "", "/containers/c1/logs", True)


def frame(text: str, stream: int = 1) -> bytes:
    """A message as the engine frames it."""
    data = text.encode()
    return struct.pack(">BxxxI", stream, len(data)) + data


def reader(**request: Any) -> tuple[Reader, list[dict[str, Any]]]:
    """A reader, and what it writes."""
    written: list[dict[str, Any]] = []
    return Reader({"federation": "fed", **request}, written.append), written


def lines(data: bytes) -> list[tuple[int, str, str]]:
    """The lines in a log stream."""
    return [(line.time, line.stream, line.text) for line in _logs.lines_of(SOURCE, _logs.frames(io.BytesIO(data)))]


def test_frames_become_lines() -> None:
    """Streams are told apart; a line that came in parts is one; a line that has no end yet is not lost."""
    data = frame("2026-11-22T10:00:00.000000001Z one\n") + frame("2026-11-22T10:00:00.5Z err\n", 2)
    data += frame("2026-11-22T10:00:01Z long, ") + frame("2026-11-22T10:00:01.2Z between\n", 2)
    data += frame("2026-11-22T10:00:01.3Z and its end\n")
    data += frame("2026-11-22T10:00:02Z open")
    second = 1795341600 * 10**9
    assert lines(data) == [
        (second + 1, "stdout", "one"),
        (second + 5 * 10**8, "stderr", "err"),
        (second + 10**9 + 2 * 10**8, "stderr", "between"),
        (second + 10**9, "stdout", "long, and its end"),
        (second + 2 * 10**9, "stdout", "open"),
    ]
    assert lines(b"") == []
    assert lines(data[:-3])[:4] == lines(data)[:4]


def test_a_terminal_has_no_frames() -> None:
    """What a container with a terminal wrote is a plain text."""
    assert [text for _time, _stream, text in lines(b"2026-11-22T10:00:00Z one\r\n2026-11-22T10:00:01Z two\r\n")] == ["one", "two"]


def test_a_line_without_end_is_cut() -> None:
    """A container can write for ever without a line feed."""
    part = "x" * 16000
    data = b"".join(frame(f"2026-11-22T10:00:00.{number:09d}Z {part}") for number in range(20))
    found = lines(data)
    assert sum(len(text) for _time, _stream, text in found) == 20 * len(part)
    assert max(len(text) for _time, _stream, text in found) < _logs.LONGEST + len(part)


@pytest.mark.parametrize(
    ("text", "offset"), [("2026-11-22T11:00:00+01:00", 0), ("2026-11-22T09:30:00.25-00:30", 25 * 10**7), ("2026-11-22T10:00:00Z", 0)]
)
def test_times(text: str, offset: int) -> None:
    """With every zone and fraction that an engine writes."""
    assert _logs.parse_time(text) == 1795341600 * 10**9 + offset


def journal(*messages: Any) -> str:
    """A program that prints a journal."""
    text = "".join(
        json.dumps({"MESSAGE": message, "__REALTIME_TIMESTAMP": str(10 + number)}) + "\n" for number, message in enumerate(messages)
    )
    return f"#!/bin/sh\ncat <<'EOF'\n{text}EOF\n"


def test_the_engines_journal_has_no_keys(tmp_path: Path) -> None:
    """What it writes when it debugs is left out, and so is every line that looks like a key; informative lines only when asked for."""
    program = tmp_path / "journalctl"
    program.write_text(
        journal(
            'time="x" level=debug msg="Gossip cluster bulk sync"',
            'level=info msg="Loading containers: done."',
            'level=warning msg="memberlist: Refuting a suspect message"',
            'level=warning msg="Primary key abcde has changed"',
            'level=error msg="node key: 0123456789abcdef"',
            list(b'level=error msg="bytes"'),
            "Starting Docker Application Container Engine",
            'level=error msg="SWMTKN-1-secret"',
            None,
        )
    )
    program.chmod(0o755)
    asked, _written = reader(journal=str(program))
    quiet = [line.text for line in asked.read_journal(False)]
    assert quiet == ['level=warning msg="memberlist: Refuting a suspect message"', 'level=error msg="bytes"']
    loud, _written = reader(journal=str(program), components=["docker"])
    assert [line.text for line in loud.read_journal(False)] == [
        'level=info msg="Loading containers: done."',
        *quiet,
        "Starting Docker Application Container Engine",
    ]
    again, _written = reader(journal=str(program), cursors=[["docker", "stderr", 12000, 1]])
    assert [line.text for line in again.read_journal(False)] == quiet[1:]


def some(*times: int, stream: str = "stdout") -> list[Line]:
    """Lines of these times."""
    return [Line(time, "c1", "engine", "", stream, f"{stream} {time}.{place}") for place, time in enumerate(times)]


def test_nothing_comes_twice_and_nothing_is_left_out() -> None:
    """By time and by number within one moment, for each stream by itself, also with a pattern and when a clock goes back."""
    everything = some(1, 2, 2, 2, 3) + some(1, 2, stream="stderr")
    first, _written = reader()
    cut = list(first.fresh(iter(everything[:3])))
    assert cut == everything[:3]
    cursors = [[source, stream, *reached] for (source, stream), reached in first.cursors.items()]
    second, _written = reader(cursors=cursors)
    assert list(second.fresh(iter(everything))) == everything[3:]
    assert second.start_of("c1") <= 1 and second.start_of("c2") == 0
    assert list(second.fresh(iter(everything))) == []
    back, _written = reader(cursors=[["c1", "stdout", 5, 1]])
    assert list(back.fresh(iter(some(5, 6, 4, 7)))) == [line for line in some(5, 6, 4, 7) if line.time != 5]
    chosen, _written = reader(grep="[.][13]$", cursors=[["c1", "stdout", 2, 1]])
    assert [line.text for line in chosen.fresh(iter(everything))] == ["stdout 2.3", "stderr 2.1"]


def test_components() -> None:
    """By the labels of the federation's own containers."""
    names = {"exareme-master": "engine"}
    assert _logs.component_of({_logs.LABEL + "service": "exareme-master"}, names) == "engine"
    assert _logs.component_of({_logs.LABEL + "portal": "gateway"}, names) == "gateway"
    asked, _written = reader(components=["keystore"])
    assert asked.wants("keystore") and not asked.wants("docker")


def test_no_engine_is_said_once(tmp_path: Path) -> None:
    """A host without an engine that answers ends its past all the same."""
    asked, written = reader(socket=str(tmp_path / "none"), journal=str(tmp_path / "none either"))
    asked.past()
    assert [record["k"] for record in written] == ["note", "past"]
    assert "cannot be asked" in written[0]["m"]


def test_what_is_sent_is_complete() -> None:
    """The file runs by itself: it imports nothing but the standard library."""
    text = Path(str(_logs.__file__)).read_text(encoding="utf-8")
    assert "ansible" not in text.split('"""', 2)[2]
