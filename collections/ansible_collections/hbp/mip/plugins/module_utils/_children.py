# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Child processes that each do one piece of work, and steps that hand out such pieces and wait for the answers.

The children are forked, because a module that Ansible sends has no file that a fresh interpreter could import.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import signal
import sqlite3
import sys
from collections import deque
from types import FrameType
from typing import Any, Callable, Deque, Dict, Generator, List, NoReturn, Optional, Set, Tuple

#: What is to be done at once in child processes; the answers come back in this order.
Batch = List[Callable[[], Dict[str, Any]]]
Steps = Generator[Batch, List[Dict[str, Any]], None]


class Refused(Exception):
    """A pathology cannot be compiled, for a reason that is not a wrong cell."""

    def __init__(self, code: str, message: str, fix: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fix = fix


# In a child, the number of its parent.
_parent = 0


def bound(function: Callable[..., Dict[str, Any]], *arguments: Any) -> Callable[[], Dict[str, Any]]:
    """The function with its arguments, as an item of a batch."""
    return lambda: function(*arguments)


def still_wanted() -> None:
    """End a child whose parent was killed."""
    if _parent and os.getppid() != _parent:
        os._exit(1)


def _answer(function: Callable[[], Dict[str, Any]]) -> Dict[str, Any]:
    """What a child found. Texts of unforeseen exceptions may hold values, so only their kind and place are told."""
    try:
        return function()
    except Refused as refused:
        return {"refused": [refused.code, refused.message, refused.fix]}
    except OSError as error:
        where = "%s: " % shown(error.filename) if isinstance(error.filename, str) else ""
        fix = "make room on the disk" if code_of(error) == "disk-full" else "check the file's owner and mode, and the disk"
        return {"refused": [code_of(error), "%s%s" % (where, error.strerror), fix]}
    except sqlite3.OperationalError as error:
        if "full" in str(error) or "disk I/O" in str(error):
            return {"refused": ["disk-full", "the disk is full or failing", "make room on the disk, and look at it: dmesg"]}
        return _unforeseen(error)
    except MemoryError:
        return {"refused": ["memory", "there was not enough memory", "free memory on the node, and run again"]}
    except Exception as error:
        return _unforeseen(error)


def _unforeseen(error: Exception) -> Dict[str, Any]:
    trace = error.__traceback__
    where = ""
    while trace is not None:
        where = "%s:%d" % (os.path.basename(trace.tb_frame.f_code.co_filename), trace.tb_lineno)
        trace = trace.tb_next
    return {"refused": ["internal", "%s at %s" % (type(error).__name__, where), "run again; if it stays, report it with this message"]}


def code_of(error: OSError) -> str:
    """The code of the problem that an error of the operating system is."""
    return "disk-full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "file-unusable"


def shown(path: str) -> str:
    """A path for a message: in ASCII, and not endless."""
    return ascii(path) if len(path) <= 200 else ascii(path[:200]) + "..."


class Children:
    """Child processes, each with one piece of work. None outlives this context, not even when we are told to end.

    A signal that tells us so comes as the exception Ended, and only while children are waited for: never between a fork and the note
    of its number, or between the two renames of a publication.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._running: Dict[int, Tuple[int, List[bytes], Any]] = {}
        self._handlers: Dict[int, Any] = {}
        self._mask: Set[Any] = set()

    def __enter__(self) -> Children:
        # A hang-up that is ignored (nohup) stays ignored.
        numbers = [number for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT) if signal.getsignal(number) is not signal.SIG_IGN]
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        self._handlers = {number: signal.signal(number, self._told_to_end) for number in numbers}
        return self

    def _told_to_end(self, number: int, _frame: Optional[FrameType]) -> NoReturn:
        raise Ended(number)

    def __exit__(self, *_error: object) -> None:
        self.kill()
        self._selector.close()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def kill(self) -> None:
        """End all children."""
        for pid, _unused, _also in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for descriptor, (pid, _unused, _also) in list(self._running.items()):
            os.waitpid(pid, 0)
            self._selector.unregister(descriptor)
            os.close(descriptor)
        self._running.clear()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, function: Callable[[], Dict[str, Any]], key: Any) -> None:
        """Let a child do this; `key` comes back with its answer."""
        reading, writing = os.pipe()
        parent = os.getpid()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        pid = os.fork()
        if pid == 0:
            self._child(function, writing, parent)
        os.close(writing)
        self._running[reading] = (pid, [], key)
        self._selector.register(reading, selectors.EVENT_READ)

    def _child(self, function: Callable[[], Dict[str, Any]], writing: int, parent: int) -> NoReturn:
        global _parent
        status = 1
        try:
            for number in self._handlers:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            _parent = parent
            content = json.dumps(_answer(function)).encode("ascii")
            while content:
                content = content[os.write(writing, content) :]
            status = 0
        finally:
            os._exit(status)

    def _select(self) -> List[Tuple[selectors.SelectorKey, int]]:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        try:
            return self._selector.select()
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, list(self._handlers))

    def wait(self) -> List[Tuple[Any, Dict[str, Any]]]:
        """Keys and answers of the children that are done, at least one."""
        done: List[Tuple[Any, Dict[str, Any]]] = []
        while not done:
            for selected, _unused in self._select():
                pid, content, key = self._running[selected.fd]
                chunk = os.read(selected.fd, 1 << 16)
                if chunk:
                    content.append(chunk)
                    continue
                self._selector.unregister(selected.fd)
                os.close(selected.fd)
                del self._running[selected.fd]
                _unused_pid, status = os.waitpid(pid, 0)
                if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
                    done.append((key, json.loads(b"".join(content))))
                else:
                    how = "by signal %d" % os.WTERMSIG(status) if os.WIFSIGNALED(status) else "early"
                    fix = "see whether memory ran out (dmesg), then run again"
                    done.append((key, {"refused": ["process-ended", "a process that compiled the files was ended %s" % how, fix]}))
        return done


class Ended(BaseException):
    """We were told to end by a signal; everything is cleaned up on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def work_off(work: Deque[Steps], children: Children, processes: int) -> None:
    """Run the steps of all pathologies, with as many children at once as there should be processes."""
    answers: Dict[Steps, List[Optional[Dict[str, Any]]]] = {}
    waiting: Deque[Tuple[Steps, int, Callable[[], Dict[str, Any]]]] = deque()

    def go_on(steps: Steps, sent: Optional[List[Dict[str, Any]]]) -> None:
        try:
            batch = next(steps) if sent is None else steps.send(sent)
        except StopIteration:
            answers.pop(steps, None)
            return
        answers[steps] = [None] * len(batch)
        waiting.extend((steps, place, function) for place, function in enumerate(batch))

    try:
        while work or answers:
            while work and len(waiting) + len(children) < processes:
                go_on(work.popleft(), None)
            while waiting and len(children) < processes:
                steps, place, function = waiting.popleft()
                children.start(function, (steps, place))
            if not len(children):
                continue
            for (steps, place), answer in children.wait():
                answers[steps][place] = answer
                complete = [item for item in answers[steps] if item is not None]
                if len(complete) == len(answers[steps]):
                    go_on(steps, complete)
    except BaseException:
        # Children first: they would go on writing the files that the steps now remove.
        children.kill()
        raise
    finally:
        for steps in list(answers):
            steps.close()
