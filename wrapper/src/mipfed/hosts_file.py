# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Edits an inventory's `hosts.yml`: a node is added, changed or taken out, and every other byte stays as it is.

The file is parsed into ruamel.yaml's nodes, which know where in the text they stand. Only the text of what changes is replaced, and
the result is parsed again: unless it says exactly what it should, nothing is written. Comments, order, anchors and quotes are
therefore the author's, in any layout that YAML has.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mipfed import paths
from mipfed.errors import MipfedError, configuration
from mipfed.exitcodes import ExitCode

#: A word that YAML takes for a text without quotes.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_-]*|\d{1,3}(\.\d{1,3}){3}")
_NO_TEXT = {"true", "false", "yes", "no", "on", "off", "y", "n", "null"}
_NULL = "tag:yaml.org,2002:null"
#: A mapping as pairs, so that the order counts; a sequence; or a scalar as its tag and text.
Plain = tuple[Any, ...]


@dataclass
class _Entry:
    """One key of a mapping, with its value. Both are nodes of ruamel.yaml."""

    mapping: Any
    index: int

    @property
    def key(self) -> Any:
        return self.mapping.value[self.index][0]

    @property
    def value(self) -> Any:
        return self.mapping.value[self.index][1]

    @property
    def name(self) -> str:
        return str(self.key.value)

    @property
    def is_alias(self) -> bool:
        """Does an alias stand here? Its node is the one that the anchor names, somewhere before."""
        return bool(self.value.start_mark.index < self.key.end_mark.index)


def _is_mapping(node: Any) -> bool:
    return getattr(node, "id", "") == "mapping"


def _entries(node: Any) -> list[_Entry]:
    return [_Entry(node, index) for index in range(len(node.value))] if _is_mapping(node) else []


def _get(node: Any, name: str) -> _Entry | None:
    return next((entry for entry in _entries(node) if entry.name == name), None)


def _plain(node: Any, depth: int = 0) -> Plain:
    """Return what a node says, without how it is written. An alias says what its anchor does."""
    if depth > 50:
        raise ValueError("an anchor holds itself")
    if node is None:
        return ("scalar", _NULL, "")
    if node.id == "mapping":
        return ("mapping", [(_plain(key, depth + 1), _plain(value, depth + 1)) for key, value in node.value])
    if node.id == "sequence":
        return ("sequence", [_plain(value, depth + 1) for value in node.value])
    tag = str(node.tag)
    return ("scalar", tag, "" if tag == _NULL else node.value)


def _scalar(value: Any) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(str(key))}: {_scalar(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _NO_TEXT:
        return value
    return json.dumps(value, ensure_ascii=False)


class HostsFile:
    """The text of an inventory file and what it says. Nothing is written before `write`."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        :raises MipfedError: CONFIGURATION when it is none that can be edited; the message names file and line.
        """
        self.path = path
        if path.suffix not in (".yml", ".yaml"):
            raise configuration(
                f"{paths.shown(path)} is no YAML file, and only those are edited. Change it by hand, or turn it into one:",
                next=f"ansible-inventory -i {paths.shown(path)} --list --yaml --output hosts.yml",
            )
        try:
            self.original = path.read_bytes()
            text = self.original.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise configuration(f"{paths.shown(path)} cannot be read: {error}") from None
        self._mark = "\ufeff" if text.startswith("\ufeff") else ""
        self.text = text.removeprefix(self._mark)
        self.root = self._compose(self.text)

    @property
    def changed(self) -> bool:
        """Was anything changed since the file was read?"""
        return self._bytes() != self.original

    def _bytes(self) -> bytes:
        return (self._mark + self.text).encode("utf-8")

    def _compose(self, text: str) -> Any:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError

        try:
            root = YAML(typ="rt").compose(text)
            _plain(root)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f":{mark.line + 1}" if mark else ""
            raise configuration(f"{paths.shown(self.path)}{where}: {error.problem or error}") from None
        except (YAMLError, ValueError) as error:
            raise configuration(f"{paths.shown(self.path)}: {error}") from None
        if root is not None and root.id != "mapping":
            raise configuration(f"{paths.shown(self.path)}:1: an inventory is a mapping of groups, such as `all:`")
        return root

    # --- looking

    def _groups(self) -> Iterator[tuple[str, _Entry]]:
        """Yield every place where a group is described, in the order of the file."""

        def below(node: Any, seen: set[int]) -> Iterator[tuple[str, _Entry]]:
            for entry in _entries(node):
                yield entry.name, entry
                children = _get(entry.value, "children")
                if children and id(children.value) not in seen:
                    yield from below(children.value, seen | {id(children.value)})

        yield from below(self.root, set())

    def places(self, name: str) -> list[_Entry]:
        """Return the entries of a host below the `hosts` of any group."""
        found: list[_Entry] = []
        for _unused, group in self._groups():
            hosts = _get(group.value, "hosts")
            entry = _get(hosts.value, name) if hosts else None
            if entry and not any(entry.key is other.key for other in found):
                found.append(entry)
        return found

    def has(self, name: str) -> bool:
        """Does the file describe this host?"""
        return bool(self.places(name))

    def line(self, name: str) -> int:
        """Return the line on which a host is described first; 0 when it is not."""
        return next((entry.key.start_mark.line + 1 for entry in self.places(name)), 0)

    def variable(self, name: str, variable: str) -> bool:
        """Does the file give this host this variable, and not by an alias or a merge?"""
        return any(not place.is_alias and _get(place.value, variable) for place in self.places(name))

    def _required(self, name: str) -> list[_Entry]:
        found = self.places(name)
        if not found:
            ranges = [
                f"{entry.name} (line {entry.key.start_mark.line + 1})"
                for _unused, group in self._groups()
                for hosts in [_get(group.value, "hosts")]
                if hosts
                for entry in _entries(hosts.value)
                if "[" in entry.name
            ]
            hint = f"; it may come from the range {', '.join(ranges)}: write its hosts out" if ranges else ""
            raise configuration(f"{paths.shown(self.path)} does not describe the host {name}{hint}.")
        return found

    # --- replacing text

    def _replace(self, start: int, end: int, new: str, change: Callable[[], Plain]) -> None:
        """Replace a part of the text; the file must then say what `change` returns.

        :raises MipfedError: CONFIGURATION when it would not.
        """
        text = self.text[:start] + new + self.text[end:]
        line = self.text.count("\n", 0, start) + 1
        refused = configuration(
            f"{paths.shown(self.path)}:{line}: what stands here is used elsewhere as well (an anchor), or written in a way that cannot be "
            "changed without changing more. The file was not touched; change it by hand."
        )
        wanted = change()
        try:
            root = self._compose(text)
        except MipfedError:
            raise refused from None
        if _plain(root) != wanted:
            raise refused
        self.text, self.root = text, root

    def _newline(self) -> str:
        return "\r\n" if "\r\n" in self.text else "\n"

    def _line_start(self, index: int) -> int:
        return self.text.rfind("\n", 0, index) + 1

    def _line_end(self, index: int) -> int:
        """Return the place after the end of the line, which the last one of a file may not have."""
        found = self.text.find("\n", index)
        return len(self.text) if found < 0 else found + 1

    def _block_end(self, entry: _Entry) -> int:
        """Return where the lines of an entry of a block mapping end; comments that belong to what follows are not among them."""
        column = entry.key.start_mark.column
        end = at = self._line_end(entry.key.start_mark.index)
        while at < len(self.text):
            following = self._line_end(at)
            line = self.text[at:following]
            words = line.strip()
            indent = len(line) - len(line.lstrip(" "))
            if words and indent <= column and not words.startswith("#"):
                break
            if words and indent > column:
                end = following
            at = following
        return end

    @staticmethod
    def _alias(text: str, entry: _Entry) -> re.Match[str] | None:
        return re.compile(r"\s*:\s*(\*[^\s,\]}]+)").match(text, entry.key.end_mark.index) if entry.is_alias else None

    def _value_end(self, entry: _Entry) -> int:
        alias = self._alias(self.text, entry)
        return alias.end() if alias else int(max(entry.value.end_mark.index, entry.key.end_mark.index))

    def _step(self) -> int:
        """Return by how much the file indents."""
        for _unused, group in self._groups():
            for entry in _entries(group.value):
                step = entry.key.start_mark.column - group.key.start_mark.column
                if step > 0 and entry.key.start_mark.line > group.key.start_mark.line:
                    return int(step)
        return 2

    def _drop(self, entry: _Entry) -> None:
        """Take an entry out of its mapping."""
        node, index = entry.mapping, entry.index

        def change() -> Plain:
            return self._changed(node, lambda pairs: pairs[:index] + pairs[index + 1 :])

        if not node.flow_style:
            start = self._line_start(entry.key.start_mark.index)
            self._replace(start, self._block_end(entry), "", change)
        elif index + 1 < len(node.value):
            self._replace(entry.key.start_mark.index, node.value[index + 1][0].start_mark.index, "", change)
        else:
            start = entry.key.start_mark.index
            if index:
                start = self.text.rfind(",", 0, start)
            self._replace(start, self._value_end(entry), "", change)

    def _changed(self, node: Any, change: Callable[[list[Any]], list[Any]]) -> Plain:
        """Return what the file says once the pairs of one mapping are others. An empty block mapping is nothing."""

        times = 0

        def walk(place: Any) -> Plain:
            nonlocal times
            if place is None or place.id == "scalar":
                return _plain(place)
            if place.id == "sequence":
                return ("sequence", [walk(inner) for inner in place.value])
            if place is node:
                times += 1
                pairs = change([(*_plain(pair[0]), _plain(pair[1])) for pair in place.value])
                made = [(tuple(pair[:-1]), pair[-1]) for pair in pairs]
                return ("mapping", made) if made or node.flow_style else ("scalar", _NULL, "")
            return ("mapping", [(_plain(key), walk(value)) for key, value in place.value])

        wanted = walk(self.root)
        # What an anchor gives to several would change in all of them.
        return wanted if times == 1 else ()

    def _insert(self, node: Any, key: str, value: Any, *, block: bool = False) -> None:
        """Add a key to a mapping, after all that it has."""

        def change() -> Plain:
            added = [*_plain(self._compose(_scalar(key) + ":").value[0][0]), _plain(self._compose(_scalar({"x": value})).value[0][1])]
            return self._changed(node, lambda pairs: [*pairs, added])

        if node.flow_style:
            end = node.end_mark.index - 1
            before = self.text[:end].rstrip()
            comma = "" if before.endswith(("{", ",")) else ","
            space = " " if before.endswith(",") or comma else ""
            self._replace(len(before), len(before), f"{comma}{space}{_scalar(key)}: {_scalar(value)}", change)
            return
        last = _Entry(node, len(node.value) - 1)
        column = last.key.start_mark.column
        at = self._block_end(last)
        newline = self._newline()
        lines = self._lines(key, value, column, block)
        before = "" if self.text[:at].endswith("\n") else newline
        self._replace(at, at, before + newline.join(lines) + newline, change)

    def _lines(self, key: str, value: Any, column: int, block: bool) -> list[str]:
        """Return a key with its value as lines; with `block` the inner mappings stand below each other."""
        margin = " " * column
        if not (block and isinstance(value, Mapping) and value):
            return [f"{margin}{_scalar(key)}: {_scalar(value)}"]
        lines = [f"{margin}{_scalar(key)}:"]
        for inner, content in value.items():
            lines += self._lines(str(inner), content, column + self._step(), isinstance(content, Mapping))
        return lines

    def _fill(self, entry: _Entry, key: str, value: Any, *, block: bool = False) -> None:
        """Add a key to the mapping that an entry has as its value, which may be nothing yet."""
        node = entry.value
        alias = self._alias(self.text, entry)
        if alias:
            merged = "{<<: " + alias.group(1) + f", {_scalar(key)}: {_scalar(value)}" + "}"
            self._replace(alias.start(1), alias.end(1), merged, lambda: self._with_value(entry, merged, alias.group(1)))
        elif _is_mapping(node) and (node.value or node.flow_style):
            self._insert(node, key, value, block=block)
        elif node.id == "scalar" and str(node.tag) == _NULL:
            if node.end_mark.index > node.start_mark.index or entry.mapping.flow_style or not block:
                colon = self.text.index(":", entry.key.end_mark.index) + 1
                start, end = (node.start_mark.index, node.end_mark.index) if node.value else (colon, colon)
                new = _scalar({key: value})
                self._replace(start, end, new if node.value else f" {new}", lambda: self._with_value(entry, new))
            else:
                at = self._line_end(entry.key.start_mark.index)
                newline = self._newline()
                before = "" if self.text[:at].endswith("\n") else newline
                lines = self._lines(key, value, entry.key.start_mark.column + self._step(), block)
                self._replace(at, at, before + newline.join(lines) + newline, lambda: self._with_value(entry, _scalar({key: value})))
        else:
            raise configuration(f"{paths.shown(self.path)}:{entry.key.start_mark.line + 1}: {entry.name} is no mapping of variables")

    def _with_value(self, entry: _Entry, text: str, alias: str = "") -> Plain:
        """Return what the file says once an entry has the value that `text` writes; `alias` in it stands for the present one."""
        if alias:
            node = self._compose(text.replace(alias, "{}", 1))
            pairs = [(_plain(key), _plain(value)) for key, value in node.value]
            pairs[0] = (pairs[0][0], _plain(entry.value))
            value: Plain = ("mapping", pairs)
        else:
            value = _plain(self._compose("{x: " + text + "}").value[0][1])
        index = entry.index
        return self._changed(entry.mapping, lambda found: [*found[:index], [*found[index][:-1], value], *found[index + 1 :]])

    # --- what commands do

    def add(self, name: str, group: str, variables: Mapping[str, Any]) -> None:
        """Describe a host in a group, after the hosts that it has. The group is made if there is none.

        :raises MipfedError: CONFIGURATION when the host is there already, or the file cannot be edited.
        """
        if self.has(name):
            raise configuration(f"{paths.shown(self.path)}:{self.line(name)} describes {name} already.")
        value = dict(variables)
        groups = [entry for found, entry in self._groups() if found == group]
        for entry in sorted(groups, key=lambda found: _get(found.value, "hosts") is None):
            hosts = _get(entry.value, "hosts")
            if hosts is None:
                self._fill(entry, "hosts", {name: value}, block=True)
                return
            siblings = _entries(hosts.value)
            block = bool(siblings) and all(_is_mapping(s.value) and not s.value.flow_style and not s.is_alias for s in siblings)
            if siblings and not hosts.value.flow_style:
                self._insert(hosts.value, name, value, block=block)
            else:
                self._fill(hosts, name, value, block=True)
            return
        beside = next((entry for found, entry in self._groups() if found in ("workers", "master")), None)
        if beside is None:
            raise configuration(f"{paths.shown(self.path)} has neither a group master nor a group workers; it describes no federation.")
        self._insert(beside.mapping, group, {"hosts": {name: value}}, block=True)

    def remove(self, name: str) -> None:
        """Take a host out of every group.

        :raises MipfedError: CONFIGURATION when it is not there, or its text is needed elsewhere (an anchor).
        """
        self._required(name)
        while places := self.places(name):
            self._drop(places[0])

    def exchange(self, first: str, second: str) -> None:
        """Let two hosts of two groups change places, each with its variables and the comments right above it.

        :raises MipfedError: CONFIGURATION when one of them is not there, stands in several groups, or they are written in ways that differ.
        """
        found = []
        for name in (first, second):
            places = self._required(name)
            if len(places) > 1:
                lines = ", ".join(str(place.key.start_mark.line + 1) for place in places)
                raise configuration(f"{paths.shown(self.path)}: {name} stands in several groups (lines {lines}); change it by hand.")
            found.append(places[0])
        upper, lower = sorted(found, key=lambda entry: int(entry.key.start_mark.index))
        one, two = self._span(upper), self._span(lower)
        middle = self.text[one[1] : two[0]]
        texts = [self.text[start:end] for start, end in (one, two)]
        if not upper.mapping.flow_style:
            texts = [text if text.endswith("\n") else text + self._newline() for text in texts]
        other = {id(upper.mapping): (upper, lower), id(lower.mapping): (lower, upper)}

        def change() -> Plain:
            def walk(place: Any) -> Plain:
                if place is None or place.id == "scalar":
                    return _plain(place)
                if place.id == "sequence":
                    return ("sequence", [walk(inner) for inner in place.value])
                pairs = [(_plain(key), walk(value)) for key, value in place.value]
                if id(place) in other:
                    own, new = other[id(place)]
                    pairs[own.index] = (_plain(new.key), _plain(new.value))
                return ("mapping", pairs)

            return walk(self.root) if len(other) == 2 else ()

        self._replace(one[0], two[1], texts[1] + middle + texts[0], change)

    def _span(self, entry: _Entry) -> tuple[int, int]:
        """Return where the text of an entry begins and ends; in a block mapping with the comments right above it."""
        if entry.mapping.flow_style:
            return int(entry.key.start_mark.index), self._value_end(entry)
        start = self._line_start(entry.key.start_mark.index)
        while start:
            above = self._line_start(start - 1)
            line = self.text[above:start]
            if not (line.strip().startswith("#") and len(line) - len(line.lstrip(" ")) == entry.key.start_mark.column):
                break
            start = above
        return start, self._block_end(entry)

    def set(self, name: str, variable: str, value: Any) -> None:
        """Give a host a variable; None takes it away.

        :raises MipfedError: CONFIGURATION when the host is not there, or the file cannot be edited.
        """
        for place in self._required(name):
            found = None if place.is_alias else _get(place.value, variable)
            if found is None:
                continue
            if value is not None and not found.is_alias and found.value.id == "scalar" and found.value.end_mark.index:
                start, end = found.value.start_mark.index, found.value.end_mark.index
                if not isinstance(value, Mapping) and found.value.style not in ("|", ">") and end > start:
                    new = _scalar(value)
                    self._replace(start, end, new, lambda found=found, new=new: self._with_value(found, new))  # type: ignore[misc]
                    return
            self._drop(found)
        if value is not None:
            self._fill(self._required(name)[0], variable, value)

    def try_out(self, check: Callable[[Path], None]) -> None:
        """Give a draft of the file to `check`, and write nothing."""
        with tempfile.NamedTemporaryFile(prefix=".hosts.", suffix=self.path.suffix, dir=self.path.parent) as draft:
            draft.write(self._bytes())
            draft.flush()
            check(Path(draft.name))

    def write(self, check: Callable[[Path], None] | None = None) -> bool:
        """Replace the file in one step; a reader sees the old or the new one at any time. Keeps its mode, follows a link.

        :arg check: is given the draft, which lies beside the file, and raises what is wrong with it.
        :returns: whether there was anything to write.
        :raises MipfedError: FAILED when it cannot be written, CONFIGURATION when somebody else changed it meanwhile.
        """
        if not self.changed:
            return False
        target = self.path.resolve()
        draft: Path | None = None
        try:
            # Ansible reads neither what begins with a dot nor, when it is given one file, the others.
            handle, name = tempfile.mkstemp(prefix=".hosts.", suffix=self.path.suffix, dir=self.path.parent)
            draft = Path(name)
            with os.fdopen(handle, "wb") as stream:
                stream.write(self._bytes())
                stream.flush()
                os.fchmod(stream.fileno(), target.stat().st_mode & 0o7777)
                os.fsync(stream.fileno())
            if check:
                check(draft)
            if self.path.read_bytes() != self.original:
                raise configuration(f"{paths.shown(self.path)} was changed by somebody else meanwhile; it was not touched.")
            if target.parent != self.path.parent:
                paths.write_atomically(target, self._mark + self.text)
            else:
                draft.replace(target)
                paths.collection_module("plugin_utils._files").fsync_folder(target.parent)
        except OSError as error:
            raise MipfedError(ExitCode.FAILED, f"{paths.shown(self.path)} cannot be written: {error.strerror}") from None
        finally:
            if draft:
                with contextlib.suppress(OSError):
                    draft.unlink()
        self.original = self._bytes()
        return True
