# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the logs of a federation's containers on one host, first the past in order of time, then what comes.

`mipfed logs` sends the text of this file to a host over one SSH connection and runs it there, so that it uses the standard library
only and imports nothing else of the collection. It writes one JSON object a line:

    {"k": "line", "s": source, "c": component, "n": node or "", "t": nanoseconds, "o": stream, "m": text}
    {"k": "past", "base": nanoseconds}  all that was there has been sent; a request after a cut gives the base back
    {"k": "beat"}                       a sign of life
    {"k": "note", "code": …, "m": …}    what people should know

It ends when its standard input does, which is when the connection is cut.
"""

from __future__ import annotations

import heapq
import http.client
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from datetime import datetime, timezone
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple
from urllib.parse import urlencode

LABEL = "eu.humanbrainproject.mip."
SECOND = 1000000000
#: The two streams of a container are not written in order to the nanosecond.
SLACK = SECOND // 20
#: Longer lines are cut into several: a container can write without ever ending a line.
LONGEST = 256 * 1024
#: The journal of the engine, as a source and as a component.
ENGINE = "docker"

_LEVEL = re.compile(r"\blevel=(\w+)")
_HIDDEN_LEVELS = ("debug", "trace")
_QUIET_LEVELS = ("info",)
#: Older engines write the overlay's keys when they debug. Such lines never leave the host, whatever their level says.
_KEYS = re.compile(r"(encryption|gossip|primary|previous|private|ipsec) key|\bkeys?[:=]|keyring|join[- ]token|SWMTKN|SWMKEY", re.IGNORECASE)


class Line(NamedTuple):
    """One line of a log."""

    time: int
    source: str
    component: str
    node: str
    stream: str
    text: str


class Source(NamedTuple):
    """A log that can be read: a container of this host, a task on another one, or the engine's journal."""

    key: str
    component: str
    node: str
    path: str
    running: bool


#: What has to end together with this process.
_CHILDREN: Set[Any] = set()
Cursors = Dict[Tuple[str, str], Tuple[int, int]]


class Engine:
    """Docker's engine, asked over its socket."""

    def __init__(self, path: str) -> None:
        self.path = path

    def open(self, path: str, query: Dict[str, Any], seconds: Optional[float]) -> http.client.HTTPResponse:
        """The engine's answer to a GET, not read yet. Raises OSError, also when it is an error."""
        connection = http.client.HTTPConnection("localhost", timeout=seconds)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(seconds)
        try:
            connection.sock.connect(self.path)
            connection.request("GET", path + ("?" + urlencode(query) if query else ""), headers={"Connection": "close"})
            answer = connection.getresponse()
            if answer.status >= 400:
                body = answer.read(2000).decode("utf-8", "replace").strip()
                raise OSError("Docker's engine answers %d: %s" % (answer.status, body))
            return answer
        except http.client.HTTPException as error:
            raise OSError("Docker's engine: %s" % error) from error

    def ask(self, path: str, **filters: List[str]) -> Any:
        """The engine's answer to a GET as a whole."""
        query = {"filters": json.dumps(filters)} if filters else {}
        if path == "/containers/json":
            query["all"] = "1"
        with self.open(path, query, 20) as answer:
            try:
                return json.loads(answer.read().decode("utf-8"))
            except (ValueError, http.client.HTTPException) as error:
                raise OSError("Docker's engine: %s" % error) from error


def component_of(labels: Dict[str, str], names: Dict[str, str]) -> str:
    """What a container is for, by its labels; `names` are the components of the swarm's services."""
    service = labels.get(LABEL + "service", "")
    return labels.get(LABEL + "portal") or names.get(service, service) or "container"


def parse_time(text: str) -> int:
    """Nanoseconds since 1970 of a time as Docker writes it. Raises ValueError."""
    found = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:?\d\d)$", text)
    if not found:
        raise ValueError(text)
    whole, fraction, zone = found.groups()
    offset = 0
    if zone != "Z":
        digits = zone[1:].replace(":", "")
        offset = (int(digits[:2]) * 3600 + int(digits[2:]) * 60) * (-1 if zone[0] == "-" else 1)
    moment = datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
    seconds = int((moment - datetime(1970, 1, 1, tzinfo=timezone.utc)).total_seconds()) - offset
    return seconds * SECOND + int(((fraction or "") + "000000000")[:9])


def frames(answer: Any) -> Iterator[Tuple[str, bytes]]:
    """The messages of the engine's log stream, each with the stream that it was written to."""

    def exactly(size: int) -> bytes:
        found = b""
        while len(found) < size:
            part: bytes = answer.read(size - len(found))
            if not part:
                return b""
            found += part
        return found

    head = exactly(8)
    if head and (head[0] > 2 or head[1:4] != b"\0\0\0"):
        # The log of a container with a terminal is not framed.
        rest = head
        while True:
            line, found, rest = rest.partition(b"\n")
            if found:
                yield "stdout", line + b"\n"
                continue
            more = answer.read1(65536)
            if not more:
                if line:
                    yield "stdout", line + b"\n"
                return
            rest = line + more
    while head:
        data = exactly(struct.unpack(">I", head[4:])[0])
        yield "stderr" if head[0] == 2 else "stdout", data
        head = exactly(8)


def lines_of(source: Source, parts: Iterator[Tuple[str, bytes]]) -> Iterator[Line]:
    """The lines that messages with time stamps make; a message without a line feed goes on in the next one of its stream."""
    open_lines: Dict[str, Tuple[int, bytes]] = {}
    for stream, message in parts:
        stamp, _space, data = message.partition(b" ")
        try:
            moment = parse_time(stamp.decode("ascii"))
        except ValueError:
            continue
        moment, begun = open_lines.pop(stream, (moment, b""))
        data = begun + data
        if not data.endswith(b"\n") and len(data) < LONGEST:
            open_lines[stream] = (moment, data)
            continue
        yield Line(moment, source.key, source.component, source.node, stream, data.decode("utf-8", "replace").rstrip("\r\n"))
    for stream, (moment, data) in open_lines.items():
        yield Line(moment, source.key, source.component, source.node, stream, data.decode("utf-8", "replace"))


def engine_line(text: str, everything: bool) -> bool:
    """Whether a line of the engine's journal is shown: never debugging and keys, and what is only informative when asked for."""
    found = _LEVEL.search(text)
    level = found.group(1).lower() if found else "info"
    return level not in _HIDDEN_LEVELS and not _KEYS.search(text) and (everything or level not in _QUIET_LEVELS)


def journal_line(text: str, everything: bool) -> Optional[Line]:
    """The line that an entry of `journalctl -o json` is, if it is one to show."""
    try:
        entry = json.loads(text)
        message = entry["MESSAGE"]
        if isinstance(message, list):
            message = bytes(message).decode("utf-8", "replace")
        moment = int(entry["__REALTIME_TIMESTAMP"]) * 1000
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(message, str) or not engine_line(message, everything):
        return None
    return Line(moment, ENGINE, ENGINE, "", "stderr", message)


class Reader:
    """Reads everything that the request asks for."""

    def __init__(self, request: Dict[str, Any], write: Callable[[Dict[str, Any]], None]) -> None:
        self.federation = str(request["federation"])
        self.components = set(request.get("components") or ())
        self.names: Dict[str, str] = request.get("names") or {}
        self.relayed: Set[str] = set(request.get("relayed") or ())
        #: Whether this host's own logs are wanted, and not only what it can tell of others.
        self.own = bool(request.get("own", True))
        self.follow = bool(request.get("follow"))
        self.pattern = re.compile(request["grep"]) if request.get("grep") else None
        self.tail = int(request.get("limit") or 0)
        self.since = int(request.get("since") or 0)
        self.engine = Engine(str(request.get("socket") or "/var/run/docker.sock"))
        self.journal = str(request.get("journal") or "journalctl")
        #: Up to where each stream of each source has been sent: the time of its last line, and how many lines of that time.
        self.cursors: Cursors = {(source, stream): (moment, count) for source, stream, moment, count in request.get("cursors") or ()}
        #: After a cut nothing is left out: what there is no cursor for is read from here on.
        self.base: Optional[int] = request.get("base")
        self._write = write
        self._lock = threading.Lock()
        self._busy: Dict[str, threading.Thread] = {}
        self._ended: Set[str] = set()
        self._noted: Set[str] = set()

    # --- what there is to read

    def wants(self, component: str) -> bool:
        """Whether the request is about a component."""
        return not self.components or component in self.components

    def sources(self) -> List[Source]:
        """The containers of the federation on this host, and the tasks of nodes that are asked for through the swarm. Raises OSError."""
        found = []
        labels = ["%sfederation=%s" % (LABEL, self.federation)]
        for item in self.engine.ask("/containers/json", label=labels) if self.own else ():
            component = component_of(item.get("Labels") or {}, self.names)
            if self.wants(component):
                path = "/containers/%s/logs" % item["Id"]
                found.append(Source(item["Id"][:12], component, "", path, item.get("State") == "running"))
        return found + (self.tasks(labels) if self.relayed else [])

    def tasks(self, labels: List[str]) -> List[Source]:
        """The tasks on nodes that are asked for through the swarm. Raises OSError."""
        services = {item["ID"]: item for item in self.engine.ask("/services", label=labels)}
        if not services:
            return []
        nodes = {item["ID"]: (item["Spec"].get("Labels") or {}).get("name", "") for item in self.engine.ask("/nodes")}
        found = []
        for task in self.engine.ask("/tasks", service=sorted(services)):
            node = nodes.get(task.get("NodeID") or "", "")
            spec = services[task["ServiceID"]]["Spec"]["TaskTemplate"].get("ContainerSpec") or {}
            component = component_of(spec.get("Labels") or {}, self.names)
            state = task["Status"]["State"]
            # A task that never ran has no log, and asking for it waits until it has one.
            if node in self.relayed and self.wants(component) and (task["Status"].get("ContainerStatus") or {}).get("ContainerID"):
                found.append(Source(task["ID"][:12], component, node, "/tasks/%s/logs" % task["ID"], state == "running"))
        return found

    # --- reading

    def start_of(self, source: str) -> int:
        """From which time on a source is read."""
        known = [moment - SLACK for (key, _stream), (moment, _count) in list(self.cursors.items()) if key == source]
        return min(known) if known else self.base if self.base is not None else self.since

    def has_cursor(self, source: str) -> bool:
        """Whether something of a source has been sent."""
        return any(key == source for key, _stream in list(self.cursors))

    def fresh(self, lines: Iterator[Line]) -> Iterator[Line]:
        """The lines that match and were not sent yet."""
        sent = dict(self.cursors)
        seen: Dict[str, Tuple[int, int]] = {}
        for line in lines:
            if self.pattern and not self.pattern.search(line.text):
                continue
            key = (line.source, line.stream)
            moment, count = seen.get(line.stream, (0, 0))
            now = seen[line.stream] = (line.time, count + 1 if line.time == moment else 1)
            if now <= sent.get(key, (0, 0)):
                continue
            # From here on all is new, also when the clock is set back.
            sent.pop(key, None)
            self.cursors[key] = max(now, self.cursors.get(key, (0, 0)))
            yield line

    def read(self, source: Source, follow: bool) -> Iterator[Line]:
        """The lines of a source that were not sent yet, from its cursor on. Raises OSError."""
        begin = self.start_of(source.key)
        query: Dict[str, Any] = {"stdout": 1, "stderr": 1, "timestamps": 1, "follow": int(follow)}
        if begin:
            query["since"] = "%d.%09d" % divmod(begin, SECOND)
        if self.tail and not self.pattern and self.base is None and not self.has_cursor(source.key) and not follow:
            query["tail"] = self.tail
        with self.engine.open(source.path, query, None if follow else 60) as answer:
            try:
                for line in self.fresh(lines_of(source, frames(answer))):
                    if line.time >= begin:
                        yield line
            except http.client.HTTPException as error:
                raise OSError(str(error)) from error

    def read_journal(self, follow: bool) -> Iterator[Line]:
        """The lines of the engine's journal that were not sent yet. Raises OSError."""
        begin = self.start_of(ENGINE)
        command = [self.journal, "--unit=docker.service", "--output=json", "--no-pager", "--quiet"]
        if begin:
            command.append("--since=@%d" % (begin // SECOND))
        elif self.tail:
            # Most lines of the engine are not shown, so that many more are looked at than are wanted; but not all there ever were.
            command.append("--lines=%d" % max(1000, 20 * self.tail))
        if follow:
            command += ["--follow", "--no-tail"] if begin else ["--follow", "--lines=0"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0) as child:
            _CHILDREN.add(child)
            try:
                found = (journal_line(text.decode("utf-8", "replace"), ENGINE in self.components) for text in lines_from(child.stdout))
                for line in self.fresh(line for line in found if line):
                    if line.time >= begin:
                        yield line
            finally:
                child.kill()
                _CHILDREN.discard(child)

    def send(self, line: Line) -> None:
        """Write a line."""
        content = {"k": "line", "s": line.source, "c": line.component, "n": line.node, "t": line.time, "o": line.stream, "m": line.text}
        self._write(content)

    def note(self, code: str, message: str) -> None:
        """Write what people should know, once in a row."""
        if code not in self._noted:
            self._noted.add(code)
            self._write({"k": "note", "code": code, "m": message})

    # --- the past

    def past(self) -> None:
        """Send what is there, in order of time."""
        began = time.time_ns()
        try:
            sources = self.sources()
        except OSError as error:
            self.note("engine", "Docker's engine cannot be asked: %s" % error)
            sources = []
        streams = [self._quiet(source.key, self.read(source, False)) for source in sources]
        if self.own and self.wants(ENGINE):
            streams.append(self._quiet(ENGINE, self.read_journal(False)))
        if self.tail and self.base is None:
            streams = [iter(deque(stream, maxlen=self.tail)) for stream in streams]
        for line in heapq.merge(*streams, key=lambda line: line.time):
            self.send(line)
        if self.base is None:
            self.base = max(began, self.since)
        self._write({"k": "past", "base": self.base})

    def _quiet(self, key: str, lines: Iterator[Line]) -> Iterator[Line]:
        try:
            yield from lines
        except FileNotFoundError:
            if key != ENGINE:
                self.note("engine", "Docker's engine is not there")
        except OSError as error:
            self.note("source " + key, "the log of %s cannot be read: %s" % (key, error))

    # --- what comes

    def tend(self, pause: float = 1.0) -> None:
        """Follow everything, also what is started later, until the process ends."""
        if self.own and self.wants(ENGINE):
            threading.Thread(target=self._follow_journal, daemon=True).start()
        while True:
            try:
                sources = self.sources()
            except OSError as error:
                self.note("engine", "Docker's engine cannot be asked: %s; trying again" % error)
                sources = []
            else:
                self._noted.discard("engine")
            for source in sources:
                self.attend(source)
            self._ended &= {source.key for source in sources}
            time.sleep(pause)

    def attend(self, source: Source) -> None:
        """See to it that a source is followed while it runs, and read to its end when it has stopped."""
        thread = self._busy.get(source.key)
        if thread and thread.is_alive():
            return
        if source.running:
            self._ended.discard(source.key)
        elif source.key in self._ended:
            return
        else:
            self._ended.add(source.key)
        self._busy[source.key] = threading.Thread(target=self._read, args=(source, source.running), daemon=True)
        self._busy[source.key].start()

    def _read(self, source: Source, follow: bool) -> None:
        for line in self._quiet(source.key, self.read(source, follow)):
            self.send(line)
        if follow:
            # It may have ended between its last line and the end of the answer: it is read once more when it is seen stopped.
            self._ended.discard(source.key)

    def _follow_journal(self) -> None:
        while True:
            try:
                for line in self.read_journal(True):
                    self.send(line)
            except FileNotFoundError:
                return
            except OSError as error:
                self.note("journal", "the journal of docker cannot be read: %s" % error)
            time.sleep(5)


def lines_from(stream: Any) -> Iterator[bytes]:
    """The lines of an unbuffered stream, each as soon as it is whole."""
    rest = b""
    while True:
        more = stream.read(65536)
        if not more:
            return
        parts = (rest + more).split(b"\n")
        rest = parts.pop()
        yield from parts


def leave() -> None:
    """End this process at once, whatever its threads do, and what it started."""
    for child in list(_CHILDREN):
        child.kill()
    os._exit(0)


def main(text: str) -> int:
    """Carry out a request, which is a JSON object."""
    guard = threading.Lock()
    output = sys.stdout.buffer

    def write(content: Dict[str, Any]) -> None:
        data = json.dumps(content).encode("ascii") + b"\n"
        try:
            with guard:
                output.write(data)
                output.flush()
        except OSError:
            leave()

    def watch_input() -> None:
        while os.read(0, 4096):
            pass
        leave()

    def beat() -> None:
        while True:
            write({"k": "beat"})
            time.sleep(5)

    reader = Reader(json.loads(text), write)
    for target in (watch_input, beat):
        threading.Thread(target=target, daemon=True).start()
    reader.past()
    if reader.follow:
        reader.tend()
    leave()
    return 0
