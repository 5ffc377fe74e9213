# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The logs of many nodes as one stream in order of time: one connection a node, which comes back after a cut without gaps or repetitions.

Knows nothing of how a node is reached or how a line is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import json
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Seconds that a line of the present is kept, for an older one that is still on its way from another node.
HOLD = 0.5
#: No line waits longer than this, however wrong a node's clock is.
LONGEST_HOLD = 3.0
#: A node that says nothing for this long is cut off; it gives a sign of life every five seconds.
SILENT = 30.0
#: Seconds between attempts: the first, and the longest.
BACK_OFF = (1.0, 30.0)
#: How often a node is tried when the stream is not to be followed.
ATTEMPTS = 3
#: Lines of one node that wait for the others, before its connection is read no further.
WAITING = 2000
_LONGEST_LINE = 8 * 2**20


@dataclass(frozen=True)
class Entry:
    """One line of a log."""

    time: int
    node: str
    component: str
    source: str
    stream: str
    text: str

    @property
    def at(self) -> str:
        """The time in UTC, to the nanosecond."""
        seconds, rest = divmod(self.time, 10**9)
        return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"

    def as_dict(self) -> dict[str, str]:
        """Return the line for JSON."""
        return {
            "at": self.at,
            "node": self.node,
            "component": self.component,
            "source": self.source,
            "stream": self.stream,
            "text": self.text,
        }


@dataclass
class Feed:
    """One node: how it is reached, what it is asked, and how far its lines have come."""

    name: str
    command: Sequence[str]
    #: Makes from a request what is written to the command's standard input.
    program: Callable[[Mapping[str, Any]], bytes]
    request: Mapping[str, Any]
    cursors: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    base: int | None = None
    connected: bool = False
    #: Why it was given up; empty when it was not.
    lost: str = ""

    def again(self) -> dict[str, Any]:
        """Return what to ask so that nothing comes twice."""
        cursors = [[source, stream, *reached] for (source, stream), reached in self.cursors.items()]
        return {**self.request, "cursors": cursors, "base": self.base}

    def take(self, record: Mapping[str, Any]) -> Entry:
        """Return the line that a record is, and remember how far that is."""
        key, moment = (str(record["s"]), str(record["o"])), int(record["t"])
        reached, count = self.cursors.get(key, (0, 0))
        if moment >= reached:
            self.cursors[key] = (moment, count + 1 if moment == reached else 1)
        return Entry(moment, str(record["n"] or self.name), str(record["c"]), key[0], key[1], str(record["m"]))


class Merger:
    """Puts lines in order: the past exactly, the present as far as a short wait allows."""

    def __init__(self, nodes: Sequence[str], emit: Callable[[Entry], None], *, limit: int = 0) -> None:
        self._emit = emit
        self._heap: list[tuple[int, int, Entry, str]] = []
        #: When lines of the present came that wait, the one that waits longest first.
        self._arrived: OrderedDict[int, float] = OrderedDict()
        self._number = 0
        self._pending = dict.fromkeys(nodes, 0)
        #: Nodes whose past has not come to its end; as long as one of them has nothing to offer, nothing can be the oldest line.
        self._past = set(nodes)
        self._last: deque[Entry] | None = deque(maxlen=limit) if limit else None

    def room(self, node: str) -> bool:
        """Tell whether a node may send more."""
        return node not in self._past or self._pending[node] < WAITING

    def add(self, node: str, entry: Entry) -> None:
        """Take in a line of a node."""
        self._number += 1
        heapq.heappush(self._heap, (entry.time, self._number, entry, node))
        self._pending[node] += 1
        if not self._past:
            self._arrived[self._number] = time.monotonic()
        self.drain()

    def caught_up(self, node: str) -> None:
        """Take note that all of a node's past has come, or that it is not waited for any more."""
        if node in self._past:
            self._past.discard(node)
            if self._past:
                self.drain()
            else:
                self.close()

    def drain(self) -> float:
        """Give out every line whose time has come; return after how many seconds to look again."""
        while self._heap:
            if self._past:
                if any(not self._pending[node] for node in self._past):
                    return HOLD
            elif (wait := self._unripe()) > 0:
                return wait
            _time, number, entry, node = heapq.heappop(self._heap)
            self._pending[node] -= 1
            self._arrived.pop(number, None)
            self._give(entry)
        return HOLD

    def close(self) -> None:
        """Give out all that has come; of the past, the last lines."""
        while self._heap:
            _time, _number, entry, node = heapq.heappop(self._heap)
            self._pending[node] -= 1
            self._give(entry)
        self._arrived.clear()
        last, self._last = self._last, None
        for entry in last or ():
            self._emit(entry)

    def _unripe(self) -> float:
        """Return for how many more seconds the oldest line has to wait."""
        now = time.monotonic()
        longest = next(iter(self._arrived.values()), now)
        return min(self._arrived.get(self._heap[0][1], 0.0) + HOLD, longest + LONGEST_HOLD) - now

    def _give(self, entry: Entry) -> None:
        if self._last is None:
            self._emit(entry)
        else:
            self._last.append(entry)


class Stream:
    """Reads all nodes at once until they end, or until it is cancelled."""

    def __init__(
        self,
        feeds: Sequence[Feed],
        emit: Callable[[Entry], None],
        notice: Callable[[str, str, str], None],
        *,
        limit: int = 0,
        final: Callable[[str, bool], bool] = lambda _reason, _connected: False,
    ) -> None:
        """Prepare.

        :arg notice: is told the node, a code and a sentence when something happens that people should know.
        :arg limit: how many lines of the past are given out, the last ones; 0 for all.
        :arg final: tells of a reason for which a connection failed, and whether there had been one before, that trying again is no use.
        """
        self._feeds = feeds
        self._notice = notice
        self._final = final
        self._follow = any(feed.request.get("follow") for feed in feeds)
        self._merger = Merger([feed.name for feed in feeds], emit, limit=limit)

    async def run(self) -> None:
        """Read until every node has ended."""
        try:
            async with asyncio.TaskGroup() as group:
                ticker = group.create_task(self._tick())
                await asyncio.gather(*(group.create_task(self._keep(feed)) for feed in self._feeds))
                ticker.cancel()
        finally:
            self._merger.close()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(max(0.02, self._merger.drain()))

    async def _keep(self, feed: Feed) -> None:
        """Read a node, again and again as long as that makes sense."""
        wait, attempts = BACK_OFF[0], 0
        while True:
            reason, heard = await self._read(feed)
            if not reason and not self._follow:
                break
            reason = reason or "the node ended the stream"
            attempts += 1
            if self._final(reason, feed.connected) or (not self._follow and attempts >= ATTEMPTS):
                feed.lost = reason
                break
            if self._follow:
                # The others do not wait for one that is away.
                self._merger.caught_up(feed.name)
            if heard:
                wait = BACK_OFF[0]
            self._notice(feed.name, "cut" if feed.connected else "unreachable", f"{reason}; trying again in {wait:.0f} s")
            await asyncio.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311
            wait = min(wait * 2, BACK_OFF[1])
        self._merger.caught_up(feed.name)

    async def _read(self, feed: Feed) -> tuple[str, bool]:
        """Read a node over one connection; return why that ended, or nothing when the node had no more to say, and whether it spoke."""
        start = asyncio.create_subprocess_exec(
            *feed.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
            # Ctrl-C is for this program, which then ends the connections itself.
            start_new_session=True,
        )
        starting = asyncio.ensure_future(start)
        try:
            # What is interrupted halfway would be left running.
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            process = await starting
            process.kill()
            await process.communicate()
            raise
        except OSError as error:
            return f"{feed.command[0]}: {error.strerror}", False
        assert process.stdin and process.stdout and process.stderr
        said = asyncio.create_task(process.stderr.read(16384))
        ended, heard = "cancelled", False
        try:
            with contextlib.suppress(ConnectionError):
                process.stdin.write(feed.program(feed.again()))
                await process.stdin.drain()
            ended, heard = await self._records(feed, process.stdout)
        finally:
            # The end of its input ends the program on the node.
            process.stdin.close()
            with contextlib.suppress(ProcessLookupError):
                if ended:
                    process.terminate()
            code = await process.wait()
            words = (await said).decode("utf-8", "replace")
            # A pipe that is not read to its end would outlive the loop, and complain.
            with contextlib.suppress(TimeoutError, ValueError):
                await asyncio.wait_for(process.stdout.read(), 2)
        return ended or ("" if code == 0 else _sentence(words) or f"the connection ended with code {code}"), heard

    async def _records(self, feed: Feed, stream: asyncio.StreamReader) -> tuple[str, bool]:
        """Take in what a node sends; return why no more is read, nothing when it ended by itself, and whether it spoke."""
        heard = False
        while True:
            try:
                text = await asyncio.wait_for(stream.readline(), SILENT)
            except TimeoutError:
                return f"no sign of life for {SILENT:.0f} s", heard
            except ValueError:
                return "it sends lines that are too long", heard
            if not text.endswith(b"\n"):
                return "", heard
            try:
                record = json.loads(text)
                kind = record["k"]
            except (ValueError, KeyError, TypeError):
                # A login message, for example.
                continue
            if not heard and feed.connected:
                self._notice(feed.name, "connected", "connected again")
            heard = feed.connected = True
            if kind == "line":
                self._merger.add(feed.name, feed.take(record))
                while not self._merger.room(feed.name):
                    await asyncio.sleep(0.02)
            elif kind == "past":
                feed.base = int(record["base"])
                self._merger.caught_up(feed.name)
            elif kind == "note":
                self._notice(feed.name, str(record["code"]), str(record["m"]))


def _sentence(words: str) -> str:
    """Return what ssh or sudo said, without what is said before every answer."""
    lines = [line.strip() for line in words.splitlines() if line.strip() and not line.startswith(("Warning: Permanently", "@@@"))]
    return "; ".join(lines[-3:])
