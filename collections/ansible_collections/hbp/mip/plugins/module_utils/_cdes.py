# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a pathology's CDEsMetadata.json, and writing the one list in it that a consolidation may change.

The reader keeps positions, so that every broken rule is told with its line and column; it finds duplicate keys, which the
json module hides, and it never recurses on what a file holds. The rules are those that the engine (exareme 1) and the portal
need; what neither of them minds is a warning.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import math
import re
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

MOST_BYTES = 8 << 20
MOST_DEPTH = 100
MOST_FINDINGS = 1000
# SQLite's limit for the columns of a table.
MOST_VARIABLES = 2000

SQL_TYPES = ("text", "int", "real")
# Those that the current format names, and the older spellings that the portal shows all the same.
TYPES = frozenset(
    ["nominal", "real", "integer", "text", "int", "polynominal", "multinominal", "binominal", "boolean", "date", "timestamp", "image"]
)

# Words that SQLite does not take as a column's name without quotes (found by trying all of them); the engine writes none.
_SQL_WORDS = """
    add all alter and as autoincrement between case cast check collate commit constraint create current_date current_time
    current_timestamp default deferrable delete distinct drop else escape except exists foreign from group having in index insert
    intersect into is isnull join limit not nothing notnull null on or order primary raise references returning select set table
    then to transaction union unique update using values when where
"""
SQL_WORDS = frozenset(_SQL_WORDS.split())

_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = re.compile(r'"([^"\\\x00-\x1f]*)"')
_KEY = re.compile(r'"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*')
_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORD = re.compile(r"true|false|null")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ASCII_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LINE_END = re.compile(r"\r\n|\n|\r")
_WORDS = {"true": True, "false": False, "null": None}
_LONGEST_NUMBER = 1000
_DECODER = json.JSONDecoder()
_MISSING: Any = object()

Number = Union[int, float]


class CdesError(Exception):
    """A file that cannot be read at all: not UTF-8, not JSON, not an object, nested too deep.

    `line` and `column` count from 1; 0 is unknown.
    """

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column

    def __str__(self) -> str:
        where = "line %d, column %d: " % (self.line, self.column) if self.line else ""
        return where + self.message


class Finding(NamedTuple):
    """A broken rule; `severity` error keeps the file from being handed out and compiled, warning does not.

    Codes of errors: duplicate-key, surrogate, number-range, field-missing, field-type, variable-code, variable-word, variable-duplicate,
    variables-many, sql-type, enumerations-missing, enumeration-duplicate, enumeration-code, range-type, range-order,
    group-duplicate, dataset-missing, dataset-type, findings-many.
    Codes of warnings: byte-order-mark, label-missing, version-missing, longitudinal, variable-ascii, type, enumerations-empty,
    enumeration-blank, enumeration-type, range-text, dataset-enumerations.
    """

    code: str
    message: str
    line: int
    column: int
    severity: str = "error"


class Variable:
    """One variable (a leaf of the tree).

    `sql_type` and `type` are as written, empty when they are no text; `enumerations` are (code, label) in their order, None
    when there are none; `minimum` and `maximum` come from minValue and maxValue or from min and max.
    """

    __slots__ = ("code", "column", "enumerations", "is_categorical", "label", "line", "maximum", "minimum", "sql_type", "type")

    def __init__(self, code: str, line: int, column: int) -> None:
        self.code = code
        self.line = line
        self.column = column
        self.label = ""
        self.sql_type = ""
        self.type = ""
        self.is_categorical = False
        self.enumerations: Optional[List[Tuple[str, str]]] = None
        self.minimum: Optional[Number] = None
        self.maximum: Optional[Number] = None

    def __repr__(self) -> str:
        return "Variable(%r, %r, line %d)" % (self.code, self.sql_type, self.line)


class Cdes:
    """A metadata file that is a JSON object. `findings` tells which rules it breaks; `errors` are those that stop.

    `tree` is what the json module would give (the last of duplicate keys); it must not be changed.
    `variables` are in tree order: those of a node, then those of its groups, depth first.
    """

    def __init__(self, content: bytes, text: str, tree: Dict[str, Any], source: _Source) -> None:
        self.content = content
        self.tree = tree
        self.findings: List[Finding] = []
        self.variables: List[Variable] = []
        self._text = text
        self._source = source
        self._dataset: Optional[Dict[str, Any]] = None
        self._model: Optional[str] = None
        self._digests: Optional[Dict[str, str]] = None
        self._nodes: List[Dict[str, Any]] = []
        _Rules(self, source).apply()
        self.code = _text_of(tree, "code")
        self.label = _text_of(tree, "label")
        self.version = _text_of(tree, "version")
        self.longitudinal = tree.get("longitudinal") is True

    @property
    def errors(self) -> List[Finding]:
        """The findings because of which the file must neither be handed out nor compiled."""
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def datasets(self) -> List[Tuple[str, str]]:
        """Code and label of each dataset that the variable `dataset` enumerates."""
        variable = next((variable for variable in self.variables if variable.code == "dataset"), None)
        return list(variable.enumerations or []) if variable else []

    @property
    def model(self) -> str:
        """SHA-256 (hex) of the tree in a canonical form, without the enumerations of `dataset`.

        The order of keys, the spacing and the way of writing characters do not count; the order of lists does.
        """
        if self._model is None:
            self._model = hashlib.sha256(self._without_datasets(self.tree)).hexdigest()
        return self._model

    @property
    def digests(self) -> Dict[str, str]:
        """For each variable's code the first 12 hex digits of the SHA-256 of its canonical form."""
        if self._digests is None:
            found: Dict[str, str] = {}
            for variable, node in zip(self.variables, self._nodes):
                found.setdefault(variable.code, hashlib.sha256(self._without_datasets(node)).hexdigest()[:12])
            self._digests = found
        return self._digests

    def _without_datasets(self, node: Dict[str, Any]) -> bytes:
        dataset = self._dataset
        if dataset is None or "enumerations" not in dataset or (node is not self.tree and node is not dataset):
            return _canonical(node)
        kept = dict(dataset)
        del dataset["enumerations"]
        try:
            return _canonical(node)
        finally:
            dataset.clear()
            dataset.update(kept)

    def with_datasets(self, entries: Sequence[Tuple[str, str]]) -> bytes:
        """The file with `entries` (code, label) as the enumerations of `dataset`, and with not one other byte changed.

        An entry that is there with the same code and label keeps its text; a new one is written as the others are, or as the
        file is. Raises CdesError when the file has no variable `dataset`.
        """
        if self._dataset is None:
            raise CdesError("there is no variable dataset, so no list of datasets can be written")
        wanted = [(entry[0], entry[1]) for entry in entries]
        enumerations = self._dataset.get("enumerations")
        if isinstance(enumerations, list) and wanted == self.datasets and len(enumerations) == len(wanted):
            return self.content
        start, end, new = _Writer(self._text, self._source.starts[id(self._dataset)]).list_of(wanted)
        changed = self._text[:start] + new + self._text[end:]
        mark = b"\xef\xbb\xbf" if self._source.mark else b""
        return mark + changed.encode("utf-8")


def parse(content: bytes) -> Cdes:
    """Read a metadata file; raises CdesError when it is no JSON object at all, and nothing else for whatever bytes."""
    if len(content) > MOST_BYTES:
        raise CdesError("the file has %d bytes, more than %d MiB" % (len(content), MOST_BYTES >> 20))
    mark = content.startswith(b"\xef\xbb\xbf")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        line, column = _position(before, len(before))
        raise CdesError("byte %d of the file (0x%02x) is not UTF-8" % (error.start + 1, content[error.start]), line, column) from None
    if mark:
        text = text[1:]
    source = _Source(text, mark)
    tree = source.read()
    if not isinstance(tree, dict):
        raise CdesError("the file holds no JSON object", *source.position(_space(text, 0)))
    return Cdes(content, text, tree, source)


def _text_of(node: Dict[str, Any], key: str) -> str:
    value = node.get(key)
    return value if isinstance(value, str) else ""


def _canonical(node: Any) -> bytes:
    return json.dumps(node, sort_keys=True, separators=(",", ":")).encode("ascii")


def _position(text: str, offset: int) -> Tuple[int, int]:
    line, begin = 1, 0
    for end in _LINE_END.finditer(text, 0, offset):
        line, begin = line + 1, end.end()
    return line, offset - begin + 1


def _space(text: str, offset: int) -> int:
    found = _SPACE.match(text, offset)
    return found.end() if found else offset


class _Source:
    """A JSON reader that remembers where each object and list begins, and which keys were given twice."""

    def __init__(self, text: str, mark: bool) -> None:
        self.text = text
        self.mark = mark
        # By id(); the tree keeps all of its parts alive. What a duplicate key has dropped cannot be asked for.
        self.starts: Dict[int, int] = {}
        self.duplicates: List[Tuple[str, int]] = []
        self.surrogates: List[int] = []
        self.infinite: List[int] = []
        self._lines: Optional[List[int]] = None

    def position(self, offset: int) -> Tuple[int, int]:
        """Line and column, both from 1, of a place in the text."""
        if self._lines is None:
            if "\r" in self.text:
                self._lines = [0] + [end.end() for end in _LINE_END.finditer(self.text)]
            else:
                self._lines = [0, *itertools.accumulate(len(line) + 1 for line in self.text.split("\n"))]
        line = bisect.bisect_right(self._lines, offset)
        return line, offset - self._lines[line - 1] + 1

    def error(self, message: str, offset: int) -> CdesError:
        """The error for a place in the text. No text of the file is quoted: it may not be a metadata file at all."""
        return CdesError(message, *self.position(offset))

    def read(self) -> Any:
        """The whole text as a value; raises CdesError."""
        text, starts = self.text, self.starts
        # The container that is being read, and for an object the key whose value comes next.
        container: Any = None
        is_object = False
        key = ""
        outer: List[Tuple[Any, bool]] = []
        root: Any = _MISSING
        at = _space(text, 0)
        while True:
            value, at, opened = self._value(at)
            if container is None:
                root = value
            elif is_object:
                container[key] = value
            else:
                container.append(value)
            if opened:
                if len(outer) >= MOST_DEPTH:
                    raise self.error("the file is nested deeper than %d levels" % MOST_DEPTH, starts[id(value)])
                outer.append((container, is_object))
                container, is_object = value, isinstance(value, dict)
                at = _space(text, at)
                if text[at : at + 1] != ("}" if is_object else "]"):
                    if is_object:
                        key, at = self._key(container, at)
                    continue
            # A value is complete, or the container that was just opened is about to end: see what follows.
            while True:
                at = _space(text, at)
                if container is None:
                    if at < len(text):
                        raise self.error("nothing may follow the end of the object", at)
                    return root
                follows = text[at : at + 1]
                if follows == ",":
                    at = _space(text, at + 1)
                    if text[at : at + 1] in ("}", "]"):
                        raise self.error("there is a comma too many before this bracket", at)
                    if is_object:
                        key, at = self._key(container, at)
                    break
                if follows != ("}" if is_object else "]"):
                    self._no_end(at, is_object)
                container, is_object = outer.pop()
                at += 1

    def _no_end(self, at: int, is_object: bool) -> None:
        if at >= len(self.text):
            raise self.error("the file ends in the middle of %s" % ("an object" if is_object else "a list"), at)
        raise self.error("a comma or '%s' is missing here" % ("}" if is_object else "]"), at)

    def _value(self, at: int) -> Tuple[Any, int, bool]:
        """The value that begins here, where it ends, and whether it is a container that was only opened."""
        text = self.text
        first = text[at : at + 1]
        if first == '"':
            found = _STRING.match(text, at)
            if found:
                return found.group(1), found.end(), False
            value, end = self._string(at)
            return value, end, False
        if first == "{" or first == "[":
            container: Any = {} if first == "{" else []
            self.starts[id(container)] = at
            return container, at + 1, True
        found = _NUMBER.match(text, at)
        if found:
            if found.end() - at > _LONGEST_NUMBER:
                raise self.error("a number has more than %d digits" % _LONGEST_NUMBER, at)
            whole, fraction, exponent = found.groups()
            number: Number = float(found.group()) if fraction or exponent else int(whole)
            if number in (math.inf, -math.inf) and len(self.infinite) <= MOST_FINDINGS:
                self.infinite.append(at)
            return number, found.end(), False
        found = _WORD.match(text, at)
        if found:
            return _WORDS[found.group()], found.end(), False
        raise self.error("the file ends where a value is expected" if at >= len(text) else "this is no JSON value", at)

    def _key(self, container: Dict[str, Any], at: int) -> Tuple[str, int]:
        text = self.text
        found = _KEY.match(text, at)
        if found:
            key, end = found.group(1), found.end()
        else:
            if text[at : at + 1] != '"':
                where = "the file ends" if at >= len(text) else "something else stands"
                raise self.error('%s where a key in double quotes ("...") is expected' % where, at)
            key, end = self._string(at)
            end = _space(text, end)
            if text[end : end + 1] != ":":
                raise self.error("a colon is missing after the key", end)
            end = _space(text, end + 1)
        if key in container and len(self.duplicates) <= MOST_FINDINGS:
            self.duplicates.append((key, at))
        return key, end

    def _string(self, at: int) -> Tuple[str, int]:
        """A text that has escapes, or is not well written."""
        try:
            value, end = _DECODER.raw_decode(self.text, at)
        except json.JSONDecodeError as error:
            if error.msg.startswith("Unterminated"):
                raise self.error("this text has no closing quote", at) from None
            what = "a control character, such as a line end," if "control" in error.msg else "a backslash that begins no escape"
            raise self.error("%s stands in a text" % what, min(error.pos, len(self.text))) from None
        value = str(value)
        if _SURROGATE.search(value):
            if len(self.surrogates) <= MOST_FINDINGS:
                self.surrogates.append(at)
            value = _SURROGATE.sub("\ufffd", value)
        return value, end


def _members(text: str, start: int) -> List[Tuple[str, int, int, int]]:
    """Key, its begin, and begin and end of its value, of the members of the valid object that begins at `start`."""
    found: List[Tuple[str, int, int, int]] = []
    at = _space(text, start + 1)
    while text[at] != "}":
        begin = at
        key, at = _DECODER.raw_decode(text, at)
        at = _space(text, _space(text, at) + 1)
        value = at
        _unused, at = _DECODER.raw_decode(text, at)
        found.append((key, begin, value, at))
        at = _space(text, at)
        if text[at] == ",":
            at = _space(text, at + 1)
    return found


def _items(text: str, start: int) -> List[Tuple[int, int]]:
    """Begin and end of the items of the valid list that begins at `start`."""
    found: List[Tuple[int, int]] = []
    at = _space(text, start + 1)
    while text[at] != "]":
        begin = at
        _unused, at = _DECODER.raw_decode(text, at)
        found.append((begin, at))
        at = _space(text, at)
        if text[at] == ",":
            at = _space(text, at + 1)
    return found


class _Rules:
    """Applies the rules to a tree: fills `variables` and `findings`."""

    def __init__(self, cdes: Cdes, source: _Source) -> None:
        self.cdes = cdes
        self.source = source
        self.findings: List[Tuple[str, str, int, str]] = []
        self.dropped = 0
        self.codes: Dict[str, int] = {}
        self.groups: Dict[str, int] = {}

    def found(self, code: str, message: str, offset: int, severity: str = "error") -> None:
        """Note a finding at a place in the text."""
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append((code, message, offset, severity))
        else:
            self.dropped += 1

    def warn(self, code: str, message: str, offset: int) -> None:
        """Note a finding that does not stop."""
        self.found(code, message, offset, "warning")

    def start(self, node: Any) -> int:
        """Where an object or list begins."""
        return self.source.starts[id(node)]

    def at(self, node: Dict[str, Any], key: str) -> int:
        """Where the value of a key of an object begins, the object's begin when it has none."""
        start = self.start(node)
        if key not in node or len(self.findings) >= MOST_FINDINGS:
            return start
        return next(value for name, _unused, value, _end in reversed(_members(self.source.text, start)) if name == key)

    def apply(self) -> None:
        """Look at the whole tree."""
        source, tree = self.source, self.cdes.tree
        if source.mark:
            self.warn("byte-order-mark", "the file begins with a byte order mark, which other tools refuse", 0)
        for key, offset in source.duplicates:
            self.found("duplicate-key", "the key %s is given twice in one object" % _shown(key), offset)
        for offset in source.surrogates:
            self.found("surrogate", "this text holds half a surrogate pair (\\ud800 to \\udfff), which is no character", offset)
        for offset in source.infinite:
            self.found("number-range", "this number is larger than a number can be, so other programs read no number", offset)
        self._root(tree)
        self._node(tree)
        self._dataset()
        if tree.get("longitudinal") is True:
            self._longitudinal()
        many = len(self.cdes.variables)
        if many > MOST_VARIABLES:
            self.found("variables-many", "there are %d variables; a database's table takes %d" % (many, MOST_VARIABLES), 0)
        listed = [Finding(code, message, *source.position(offset), severity) for code, message, offset, severity in self.findings]
        listed.sort(key=lambda finding: (finding.line, finding.column))
        if self.dropped:
            listed.append(Finding("findings-many", "and %d more findings" % self.dropped, 0, 0))
        self.cdes.findings = listed

    def _root(self, tree: Dict[str, Any]) -> None:
        self._text(tree, "code", "the file")
        self._text(tree, "label", "the file", missing="label-missing")
        self._text(tree, "version", "the file", missing="version-missing")
        if "longitudinal" in tree and not isinstance(tree["longitudinal"], bool):
            self.warn("longitudinal", "longitudinal is neither true nor false", self.at(tree, "longitudinal"))

    def _text(self, node: Dict[str, Any], key: str, what: str, missing: str = "", empty: bool = False) -> str:
        """The text that an object should have; `missing` is the warning's code where its absence does not stop."""
        value = node.get(key, _MISSING)
        if isinstance(value, str) and (value or empty):
            return value
        if value is _MISSING or value is None or value == "":
            state = "is empty" if value == "" else "is missing"
            message = "%s: %s %s" % (what, key, state)
            self.found(missing or "field-missing", message, self.start(node), "warning" if missing else "error")
        else:
            self.found("field-type", "%s: %s is no text" % (what, key), self.at(node, key))
        return ""

    def _list(self, node: Dict[str, Any], key: str, what: str) -> List[Any]:
        value = node.get(key)
        if value is None:
            return []
        if isinstance(value, list):
            return value
        self.found("field-type", "%s: %s is no list" % (what, key), self.at(node, key))
        return []

    def _node(self, node: Dict[str, Any], what: str = "the file") -> None:
        # Recursive, but the reader has limited the depth.
        for key in ("variables", "groups"):
            items = self._list(node, key, what)
            for item in items:
                if not isinstance(item, dict):
                    self.found("field-type", "%s: an item of %s is no object" % (what, key), self.start(items))
                elif key == "variables":
                    self._variable(item)
                else:
                    self._group(item)

    def _group(self, node: Dict[str, Any]) -> None:
        code = self._text(node, "code", "a group")
        what = "group %s" % _shown(code) if code else "a group"
        self._text(node, "label", what, missing="label-missing")
        if code:
            if code in self.groups:
                line = self.source.position(self.groups[code])[0]
                message = "%s: there is another group of this code in line %d; the portal then shows variables in the wrong one"
                self.found("group-duplicate", message % (what, line), self.start(node))
            self.groups.setdefault(code, self.start(node))
        self._node(node, what)

    def _variable(self, node: Dict[str, Any]) -> None:
        start = self.start(node)
        code = self._text(node, "code", "a variable")
        what = "variable %s" % _shown(code) if code else "a variable"
        variable = Variable(code, *self.source.position(start))
        variable.label = self._text(node, "label", what)
        if code:
            self._code(code, what, node)
            self.cdes.variables.append(variable)
            self.cdes._nodes.append(node)
            if code == "dataset" and self.cdes._dataset is None:
                self.cdes._dataset = node
        sql_type = variable.sql_type = self._text(node, "sql_type", what)
        if sql_type and sql_type not in SQL_TYPES:
            hint = "; the engine wants it in lower case" if sql_type.lower() in SQL_TYPES else ""
            message = "%s: sql_type is %s, not text, int or real%s" % (what, _shown(sql_type), hint)
            self.found("sql-type", message, self.at(node, "sql_type"))
        variable.is_categorical = node.get("isCategorical") is True
        if node.get("isCategorical") is None:
            self.found("field-missing", "%s: isCategorical is missing" % what, start)
        elif not isinstance(node["isCategorical"], bool):
            self.found("field-type", "%s: isCategorical is neither true nor false" % what, self.at(node, "isCategorical"))
        self._type(node, what, variable)
        self._enumerations(node, what, variable)
        self._range(node, what, variable)

    def _code(self, code: str, what: str, node: Dict[str, Any]) -> None:
        if not code.isidentifier():
            message = "%s: the code may hold letters, digits and '_' only, and not begin with a digit"
            self.found("variable-code", message % what, self.at(node, "code"))
        elif code.lower() in SQL_WORDS:
            message = "%s: the code is a word of SQL, and the engine writes it without quotes"
            self.found("variable-word", message % what, self.at(node, "code"))
        elif not _ASCII_NAME.fullmatch(code):
            self.warn("variable-ascii", "%s: the code has letters other than a to z" % what, self.at(node, "code"))
        first = self.codes.setdefault(code.lower(), self.start(node))
        if first != self.start(node):
            message = "%s: there is another variable of this code, upper and lower case being the same, in line %d"
            self.found("variable-duplicate", message % (what, self.source.position(first)[0]), self.at(node, "code"))

    def _type(self, node: Dict[str, Any], what: str, variable: Variable) -> None:
        variable.type = _text_of(node, "type")
        if variable.type.lower() not in TYPES:
            state = "is missing" if not node.get("type") else "is none that the portal knows"
            self.warn("type", "%s: type %s" % (what, state), self.at(node, "type"))

    def _enumerations(self, node: Dict[str, Any], what: str, variable: Variable) -> None:
        is_dataset = variable.code == "dataset"
        if node.get("enumerations") is None:
            if variable.is_categorical and is_dataset:
                self.warn("dataset-enumerations", "%s: enumerations is missing; a consolidation writes it" % what, self.start(node))
            elif variable.is_categorical:
                self.found("enumerations-missing", "%s: it is categorical but has no enumerations" % what, self.start(node))
            return
        items = self._list(node, "enumerations", what)
        if not isinstance(node["enumerations"], list):
            return
        variable.enumerations = found = []
        if not items and variable.is_categorical and not is_dataset:
            self.warn("enumerations-empty", "%s: enumerations is empty, so no value is ever right" % what, self.at(node, "enumerations"))
        codes = set()
        for item in items:
            if not isinstance(item, dict):
                self.found("field-type", "%s: an item of enumerations is no object" % what, self.start(items))
                continue
            code, label = self._plain(item, "code", what), self._plain(item, "label", what)
            if code is None:
                continue
            found.append((code, label or ""))
            if code in codes:
                self.found("enumeration-duplicate", "%s: the code %s is enumerated twice" % (what, _shown(code)), self.start(item))
            codes.add(code)
            if not code or "," in code:
                why = "a code is empty" if not code else "the code %s has a comma, at which the engine parts the list" % _shown(code)
                self.found("enumeration-code", "%s: %s" % (what, why), self.start(item))
            elif code != code.strip():
                self.warn("enumeration-blank", "%s: the code %s begins or ends with a blank" % (what, _shown(code)), self.start(item))
            elif not _fits(code, variable.sql_type):
                message = "%s: the code %s is no %s, so no value is ever equal to it" % (what, _shown(code), variable.sql_type)
                self.warn("enumeration-type", message, self.start(item))

    def _plain(self, item: Dict[str, Any], key: str, what: str) -> Optional[str]:
        value = item.get(key)
        if isinstance(value, str):
            return value
        if value is None:
            self.found("field-missing", "%s: an item of enumerations has no %s" % (what, key), self.start(item))
            return None
        self.found("field-type", "%s: the %s of an item of enumerations is no text" % (what, key), self.at(item, key))
        return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    def _range(self, node: Dict[str, Any], what: str, variable: Variable) -> None:
        minimum, low = self._bound(node, what, ("minValue", "min"))
        maximum, high = self._bound(node, what, ("maxValue", "max"))
        if (minimum is not None or maximum is not None) and variable.sql_type == "text":
            self.warn("range-text", "%s: %s means nothing for a text" % (what, low or high), self.at(node, low or high))
            return
        variable.minimum, variable.maximum = minimum, maximum
        if minimum is not None and maximum is not None and minimum >= maximum:
            message = "%s: %s (%s) is not below %s (%s)" % (what, low, minimum, high, maximum)
            self.found("range-order", message, self.at(node, low))

    def _bound(self, node: Dict[str, Any], what: str, keys: Tuple[str, str]) -> Tuple[Optional[Number], str]:
        found: Optional[Number] = None
        name = ""
        for key in keys:
            value = node.get(key)
            if value is None or value == "":
                continue
            number = _number(value)
            if number is None:
                self.found("range-type", "%s: %s is no number" % (what, key), self.at(node, key))
            elif found is not None and found != number:
                self.found("range-type", "%s: %s and %s differ" % (what, keys[0], keys[1]), self.at(node, key))
            elif found is None:
                found, name = number, key
        return found, name

    def _dataset(self) -> None:
        node = self.cdes._dataset
        if node is None:
            self.found("dataset-missing", "there is no variable dataset, by which the engine finds the datasets", 0)
            return
        if node.get("isCategorical") is False:
            self.found("dataset-type", "variable dataset: it must be categorical", self.at(node, "isCategorical"))
        if node.get("sql_type") in ("int", "real"):
            self.found("dataset-type", "variable dataset: its sql_type must be text", self.at(node, "sql_type"))

    def _longitudinal(self) -> None:
        codes = {variable.code for variable in self.cdes.variables}
        for code in ("subjectid", "visitid"):
            if code not in codes:
                offset = self.at(self.cdes.tree, "longitudinal")
                self.warn("longitudinal", "a longitudinal pathology needs the variable %s" % code, offset)


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 80 else repr(text[:80]) + "..."


def _number(value: Any) -> Optional[Number]:
    """A bound as a finite number; the first format wrote them as texts."""
    if isinstance(value, str):
        found = _NUMBER.fullmatch(value)
        if not found or len(value) > _LONGEST_NUMBER:
            return None
        value = float(value) if found.group(2) or found.group(3) else int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None


def _fits(code: str, sql_type: str) -> bool:
    found = _NUMBER.fullmatch(code)
    if sql_type == "int":
        return bool(found and not found.group(2) and not found.group(3))
    return bool(found) if sql_type == "real" else True


class _Frame(NamedTuple):
    """An item of the list as it is written: the texts before, between and after its two values."""

    code: str
    label: str
    # Whether it has no other keys.
    bare: bool
    parts: Tuple[str, str, str]
    code_first: bool

    @classmethod
    def of(cls, text: str, begin: int, end: int) -> Optional[_Frame]:
        """The item that stands there, None when it is none with one code and one label, both texts."""
        if text[begin] != "{":
            return None
        members = _members(text, begin)
        places = {key: (value, stop) for key, _unused, value, stop in members}
        if "code" not in places or "label" not in places or len(places) != len(members):
            return None
        code, label = (_DECODER.raw_decode(text, places[key][0])[0] for key in ("code", "label"))
        if not isinstance(code, str) or not isinstance(label, str):
            return None
        one, two = sorted([places["code"], places["label"]])
        parts = (text[begin : one[0]], text[one[1] : two[0]], text[two[1] : end])
        return cls(code, label, len(members) == 2, parts, one == places["code"])

    def filled(self, code: str, label: str) -> str:
        """The item with other values, given as JSON."""
        before, between, after = self.parts
        first, second = (code, label) if self.code_first else (label, code)
        return before + first + between + second + after


class _Writer:
    """Writes the list of datasets in the style of the file."""

    def __init__(self, text: str, start: int) -> None:
        self.text = text
        self.members = _members(text, start)
        self.ascii = text.isascii() and "\\u" in text

    def quoted(self, value: str) -> str:
        """A text as JSON, escaped beyond need only where the file does so."""
        return json.dumps(value, ensure_ascii=self.ascii)

    def list_of(self, entries: List[Tuple[str, str]]) -> Tuple[int, int, str]:
        """Begin and end of the text to replace, and what to put there."""
        place = next((member for member in reversed(self.members) if member[0] == "enumerations"), None)
        if place is not None:
            _unused, begin, value, end = place
            if self.text[value] == "[":
                found = _items(self.text, value)
                if found:
                    return value, end, self._in_style(entries, value, end, found)
            return value, end, self._plain(entries, begin)
        _unused, begin, _value, end = self.members[-1]
        before = self._before(begin)
        colon = self._colon()
        separator = before if _LINE_END.search(before) else self._gap()
        return end, end, ",%s%s%s%s" % (separator, '"enumerations"', colon, self._plain(entries, begin))

    def _before(self, offset: int) -> str:
        """The blanks before a place."""
        begin = offset
        while begin > 0 and self.text[begin - 1] in " \t\n\r":
            begin -= 1
        return self.text[begin:offset]

    def _colon(self) -> str:
        """What stands between key and value of the variable's first member."""
        _unused, begin, value, _end = self.members[0]
        _key, end = _DECODER.raw_decode(self.text, begin)
        return self.text[end:value]

    def _gap(self) -> str:
        """The blanks after a comma, where everything stands in one line."""
        return self._before(self.members[1][1]) if len(self.members) > 1 else " "

    def _in_style(self, entries: List[Tuple[str, str]], start: int, end: int, found: List[Tuple[int, int]]) -> str:
        """The list, written as the one that is there."""
        if not entries:
            return "[]"
        text = self.text
        lead = text[start + 1 : found[0][0]]
        between = text[found[0][1] : found[1][0]] if len(found) > 1 else "," + (lead if _LINE_END.search(lead) else self._gap())
        kept: Dict[Tuple[str, str], str] = {}
        frame: Optional[_Frame] = None
        for begin, stop in found:
            item = _Frame.of(text, begin, stop)
            if item is not None:
                kept.setdefault((item.code, item.label), text[begin:stop])
                frame = frame or (item if item.bare else None)
        written = []
        for code, label in entries:
            if (code, label) in kept:
                written.append(kept[code, label])
            elif frame is not None:
                written.append(frame.filled(self.quoted(code), self.quoted(label)))
            else:
                # No item is a plain pair: as the file would write a list that was not there.
                return self._plain(entries, next(member[1] for member in self.members if member[0] == "enumerations"))
        return "[" + lead + between.join(written) + text[found[-1][1] : end]

    def _plain(self, entries: List[Tuple[str, str]], key: int) -> str:
        """The list in the style of the variable whose keys begin as the one at `key` does."""
        if not entries:
            return "[]"
        colon = self._colon()
        before = self._before(key)
        breaks: List[str] = _LINE_END.findall(before)
        if not breaks:
            gap = self._gap()
            items = ['{"code"%s%s,%s"label"%s%s}' % (colon, self.quoted(code), gap, colon, self.quoted(label)) for code, label in entries]
            return "[" + ("," + gap).join(items) + "]"
        inner = _indent(before)
        unit = self._unit(inner)
        line = breaks[-1] + inner
        item = line + unit
        part = item + unit
        items = [
            '%s{%s"code"%s%s,%s"label"%s%s%s}' % (item, part, colon, self.quoted(code), part, colon, self.quoted(label), item)
            for code, label in entries
        ]
        return "[" + ",".join(items) + line + "]"

    def _unit(self, inner: str) -> str:
        """One step of indentation: how much deeper the variable's keys stand than its bracket, or the file's first key."""
        outer = self._before(_space(self.text, self.members[-1][3]))
        closing = _indent(outer)
        if _LINE_END.search(outer) and inner.startswith(closing) and len(inner) > len(closing):
            return inner[len(closing) :]
        begin = self.text.index("{") + 1
        lead = self.text[begin : _space(self.text, begin)]
        return (_indent(lead) if _LINE_END.search(lead) else "") or "  "


def _indent(blanks: str) -> str:
    """What stands after the last line end."""
    return blanks[max(blanks.rfind("\n"), blanks.rfind("\r")) + 1 :]
