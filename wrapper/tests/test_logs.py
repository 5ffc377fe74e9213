# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`mipfed logs`: what it refuses, how many streams become one, and how a stream goes on after a cut."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import pytest

from mipfed import log_stream
from mipfed.errors import MipfedError
from mipfed.exitcodes import ExitCode
from mipfed.log_stream import Entry, Feed, Merger, Stream
from mipfed.logs import moment

from .conftest import Project

#: A node that sends some lines for each connection and then ends it: its argument holds, by connection, what it sends and its exit code.
NODE = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
length = int(sys.stdin.buffer.readline())
(folder / f"request-{len(list(folder.glob('request-*')))}").write_bytes(sys.stdin.buffer.read(length))
number = len(list(folder.glob("request-*"))) - 1
script = json.loads((folder / "script").read_text())
records, code = script[min(number, len(script) - 1)]
print("Welcome to this host!")
for record in records:
    print(json.dumps(record), flush=True)
if code == "stay":
    sys.stdin.read()
elif code:
    print("the line was cut", file=sys.stderr)
    sys.exit(code)
"""


def line(time: int, text: str = "", source: str = "one", stream: str = "stdout") -> dict[str, object]:
    """A record of a line."""
    return {"k": "line", "s": source, "c": "engine", "n": "", "t": time, "o": stream, "m": text or str(time)}


PAST = {"k": "past", "base": 5}


def feed(folder: Path, name: str, script: list[object], *, follow: bool = False) -> Feed:
    """A node that keeps to a script."""
    place = folder / name
    place.mkdir()
    (place / "script").write_text(json.dumps(script))

    def program(request: object) -> bytes:
        text = json.dumps(request).encode()
        return f"{len(text)}\n".encode() + text

    return Feed(name, [sys.executable, "-c", NODE, str(place)], program, {"follow": follow})


def requests(folder: Path, name: str) -> list[dict[str, object]]:
    """What a node was asked, connection by connection."""
    return [json.loads(path.read_text()) for path in sorted((folder / name).glob("request-*"))]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_stream, "BACK_OFF", (0.01, 0.05))


def test_the_past_of_all_nodes_is_one_stream(tmp_path: Path) -> None:
    """In order of time, and only the last lines when there is a limit."""
    scripts = {"a": [[[line(1), line(4), line(6), PAST], 0]], "b": [[[line(2), line(3), PAST], 0]], "c": [[[PAST, line(5)], 0]]}
    shown: list[Entry] = []
    feeds = [feed(tmp_path, name, script) for name, script in scripts.items()]
    asyncio.run(Stream(feeds, shown.append, lambda *_said: None).run())
    assert [(entry.time, entry.node) for entry in shown if entry.time != 5] == [(1, "a"), (2, "b"), (3, "b"), (4, "a"), (6, "a")]
    assert len(shown) == 6
    shown.clear()
    for name in scripts:
        (tmp_path / name / "request-0").unlink()
    asyncio.run(Stream([feed_of(each) for each in feeds[:2]], shown.append, lambda *_said: None, limit=2).run())
    assert [entry.time for entry in shown] == [4, 6]


def feed_of(other: Feed) -> Feed:
    """The same node, asked anew."""
    return Feed(other.name, other.command, other.program, other.request)


def test_a_cut_past_goes_on_where_it_was(tmp_path: Path) -> None:
    """The next request tells how far each stream came: the time of its last line, and how many lines of that time."""
    script = [[[line(1), line(2), line(2), line(1, stream="stderr")], 255], [[line(3), PAST], 0]]
    shown: list[Entry] = []
    said: list[tuple[str, ...]] = []
    asyncio.run(Stream([feed(tmp_path, "a", script)], shown.append, lambda *words: said.append(words)).run())
    assert sorted(entry.time for entry in shown) == [1, 1, 2, 2, 3]
    first, second = requests(tmp_path, "a")
    assert (first["cursors"], first["base"]) == ([], None)
    assert second["cursors"] == [["one", "stdout", 2, 2], ["one", "stderr", 1, 1]]
    assert [words[1] for words in said] == ["cut", "connected"]
    assert "the line was cut" in said[0][2]


def test_a_node_that_never_answers_is_given_up(tmp_path: Path) -> None:
    """After some attempts, or at once when another attempt cannot change anything; the others are shown."""
    shown: list[Entry] = []
    feeds = [feed(tmp_path, "a", [[[], 255]]), feed(tmp_path, "b", [[[line(1), PAST], 0]])]
    asyncio.run(Stream(feeds, shown.append, lambda *_said: None).run())
    assert [entry.node for entry in shown] == ["b"]
    assert feeds[0].lost == "the line was cut"
    assert len(requests(tmp_path, "a")) == log_stream.ATTEMPTS
    last = feed(tmp_path, "c", [[[], 255]])
    asyncio.run(Stream([last], shown.append, lambda *_said: None, final=lambda reason, _connected: "cut" in reason).run())
    assert len(requests(tmp_path, "c")) == 1


def test_following_goes_on_for_ever(tmp_path: Path) -> None:
    """A stream that is followed comes back each time, and the base makes sure that nothing new is left out."""
    script = [[[PAST, line(10)], 1], [[PAST, line(11)], 0], [[PAST, line(12)], "stay"]]
    shown: list[Entry] = []
    other = feed(tmp_path, "b", [[[], 255]], follow=True)

    async def until_twelve() -> None:
        stream = asyncio.create_task(Stream([feed(tmp_path, "a", script, follow=True), other], shown.append, lambda *_said: None).run())
        deadline = time.monotonic() + 60
        while not any(entry.time == 12 for entry in shown) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        stream.cancel()
        await asyncio.wait([stream])

    asyncio.run(until_twelve())
    assert [entry.time for entry in shown] == [10, 11, 12]
    assert [request["base"] for request in requests(tmp_path, "a")] == [None, 5, 5]


def entry(time: int, node: str = "a") -> Entry:
    """A line."""
    return Entry(time, node, "engine", "one", "stdout", str(time))


def test_the_present_waits_a_moment_for_older_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that arrives late still stands in its place; a clock that is wrong holds nobody up for long."""
    now = [100.0]
    monkeypatch.setattr(log_stream.time, "monotonic", lambda: now[0])
    shown: list[int] = []
    merger = Merger(["a", "b"], lambda line: shown.append(line.time))
    merger.caught_up("a")
    merger.caught_up("b")
    merger.add("a", entry(20))
    now[0] += log_stream.HOLD / 2
    merger.add("b", entry(19, "b"))
    assert shown == []
    now[0] += log_stream.HOLD
    merger.drain()
    assert shown == [19, 20]
    merger.add("a", entry(1000))
    for number in range(100):
        now[0] += log_stream.HOLD / 2
        merger.add("b", entry(100 + number, "b"))
    assert shown.index(1000) < 30


def test_much_of_the_past_waits_for_the_others() -> None:
    """A node is read no further while another one has nothing to offer yet."""
    shown: list[int] = []
    merger = Merger(["a", "b"], lambda line: shown.append(line.time))
    for number in range(log_stream.WAITING):
        assert merger.room("a")
        merger.add("a", entry(number))
    assert not merger.room("a")
    assert shown == []
    merger.caught_up("b")
    assert len(shown) == log_stream.WAITING
    assert merger.room("a")


def test_since() -> None:
    """How long ago, or when."""
    assert moment("90s", 1000) == 910 * 10**9
    assert moment("1.5h", 10000) == 4600 * 10**9
    assert moment("2w", 2e6) == (2000000 - 14 * 86400) * 10**9
    assert moment("2026-11-22T10:00+00:00", 0) == 1795341600 * 10**9
    assert moment("2026-11-22T10:00:00.510075+00:00", 0) == 1795341600510075000
    for wrong in ("yesterday", "10", "-5m", ""):
        with pytest.raises(MipfedError) as caught:
            moment(wrong, 0)
        assert caught.value.exit_code is ExitCode.USAGE


def test_what_is_refused(project: Project) -> None:
    """Before a node is contacted; each with what would be right."""
    project.federation(variables={"fed-wk-2": {"mip_disabled": {"reason": "being rebuilt"}}})
    unknown = project.run("-f", "fed", "logs", "fed-wk-9")
    assert (unknown.code, "fed-wk-1" in unknown.err) == (ExitCode.NO_HOSTS, True)
    disabled = project.run("-f", "fed", "logs", "fed-wk-2")
    assert (disabled.code, "node enable fed-wk-2" in disabled.err) == (ExitCode.NO_HOSTS, True)
    component = project.run("-f", "fed", "logs", "--component", "motor")
    assert (component.code, "keystore" in component.err) == (ExitCode.USAGE, True)
    assert project.run("-f", "fed", "logs", "--grep", "(").code == ExitCode.USAGE
    assert project.run("-f", "fed", "logs", "--since", "never").code == ExitCode.USAGE
    assert project.run("-f", "fed", "logs", "-f", "-o", "json").code == ExitCode.USAGE


def test_no_secret_is_needed(project: Project) -> None:
    """Nobody is asked for the vault password, in the panes of a cockpit least of all; a host without Docker says so."""
    folder = project.federation(workers=1)
    (folder / "group_vars" / "all" / "vault.yml").write_text("$ANSIBLE_VAULT;1.1;AES256\n6162\n", encoding="utf-8")
    shown = project.run("-f", "fed", "logs", "fed-wk-1", "--json", "--component", "engine")
    assert shown.code == ExitCode.OK, shown.err
    assert {line["event"] for line in shown.lines} <= {"log", "notice"}
