# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two files that a consolidation keeps on the pusher: the labels, which are the operator's, and the record, which is not.

The file of labels is read and written with its comments, order and quotes. The record is JSON.
"""

from __future__ import annotations

import io
import json
import os
import re
import stat
import tempfile
import traceback
from typing import Any, Dict, List, Optional, Tuple

from ansible_collections.hbp.mip.plugins.module_utils import _consolidation

try:
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    RUAMEL_MISSING: Optional[str] = None
except ImportError:
    RUAMEL_MISSING = traceback.format_exc()

_START = re.compile("^---", re.MULTILINE)
_HEAD = """\
---
# Labels of pathologies and datasets, as the portal shows them. What is written here goes before what the metadata say.
# pathologies: {CODE: label}
# datasets: {PATHOLOGY: {CODE: label}}
"""


class FileError(Exception):
    """A file that cannot be used or written; `problems` are message and fix of each thing that is wrong."""

    def __init__(self, problems: List[Tuple[str, str]]) -> None:
        super().__init__("; ".join(message for message, _unused in problems))
        self.problems = problems


class Labels:
    """The file of labels. `labels` are those in it: pathologies by code, datasets by pathology and code."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.text = ""
        self.labels: Dict[str, Any] = {"pathologies": {}, "datasets": {}}
        self._tree: Any = None

    def read(self) -> None:
        """Read the file; an absent one has no labels. Raises FileError with everything that is wrong, by line and column."""
        try:
            with open(self.path, encoding="utf-8-sig", newline="") as stream:
                self.text = stream.read()
        except FileNotFoundError:
            self._tree = CommentedMap()
            return
        except OSError as error:
            raise FileError([("%s cannot be read: %s" % (self.path, error.strerror), "ls -l %s" % self.path)]) from None
        except UnicodeDecodeError as error:
            raise self._wrong("it is not UTF-8 (byte %d)" % (error.start + 1)) from None
        try:
            self._tree = _yaml().load(self.text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            why = " ".join(str(part) for part in (error.context, error.problem) if part) or "it is no YAML"
            raise self._wrong(why.split("\n", 1)[0], mark.line + 1 if mark else 0, mark.column + 1 if mark else 0) from None
        except YAMLError as error:
            raise self._wrong(str(error).strip().split("\n", 1)[0] or "it is no YAML") from None
        if self._tree is None:
            self._tree = CommentedMap()
        problems: List[FileError] = []
        for section, content, place in self._each(self._tree, "", (1, 1), problems):
            if section == "pathologies":
                self._all(self.labels[section], content, section, place, problems)
            elif section == "datasets":
                for name, codes, inner in self._each(content, section, place, problems):
                    self._all(self.labels[section].setdefault(name, {}), codes, "%s.%s" % (section, name), inner, problems)
            else:
                problems.append(self._wrong("unknown key %r; known: pathologies, datasets" % section, *place))
        if problems:
            raise FileError([problem for error in problems for problem in error.problems])

    def _wrong(self, message: str, line: int = 0, column: int = 0) -> FileError:
        where = ":%d:%d" % (line, column) if line else ""
        return FileError([("%s%s: %s" % (self.path, where, message), "correct %s" % self.path)])

    def _each(self, value: Any, where: str, place: Tuple[int, int], problems: List[FileError]) -> List[Tuple[str, Any, Tuple[int, int]]]:
        """Key, value and place of a mapping's entries."""
        if value is None:
            return []
        if not isinstance(value, CommentedMap):
            problems.append(self._wrong("%sexpected names with labels" % (where + ": " if where else ""), *place))
            return []
        found = []
        for key, item in value.items():
            at = place
            if key in (value.lc.data or {}):
                line, column = value.lc.key(key)
                at = (line + 1, column + 1)
            if isinstance(key, str):
                found.append((key, item, at))
            else:
                problems.append(self._wrong("%sthe name %r is not text; put it into quotes" % (where + ": " if where else "", key), *at))
        return found

    def _all(self, into: Dict[str, str], value: Any, where: str, place: Tuple[int, int], problems: List[FileError]) -> None:
        """Take in the labels of a mapping."""
        for key, label, at in self._each(value, where, place, problems):
            why = _consolidation.wrong_label(label) if isinstance(label, str) else "it is not text; put it into quotes"
            if why:
                problems.append(self._wrong("%s.%s is no label: %s" % (where, key, why), *at))
            else:
                into[key] = str(label)

    def with_labels(self, labels: Dict[str, Any]) -> str:
        """The text of the file with these labels in it, changed only where one is new or another."""
        wanted: List[Tuple[Tuple[str, ...], str]] = [(("pathologies", name), label) for name, label in labels["pathologies"].items()]
        wanted += [(("datasets", name, code), label) for name, codes in labels["datasets"].items() for code, label in codes.items()]
        missing = [(keys, label) for keys, label in wanted if self._known(keys) != label]
        if not missing:
            return self.text
        head = ""
        if not self._tree:
            # ruamel has nothing to keep the comments of an empty file with.
            comments = [line for line in self.text.splitlines() if line.startswith("---") or line.lstrip().startswith("#")]
            head = "".join(line + "\n" for line in comments) or _HEAD
        for keys, label in missing:
            target = self._tree
            for key in keys[:-1]:
                if target.get(key) is None:
                    target[key] = CommentedMap()
                target = target[key]
            target[keys[-1]] = label
        stream = io.StringIO()
        yaml = _yaml()
        yaml.explicit_start = not head and _START.search(self.text) is not None
        yaml.dump(self._tree, stream)
        return head + stream.getvalue()

    def _known(self, keys: Tuple[str, ...]) -> Any:
        value: Any = self.labels
        for key in keys:
            value = value.get(key, {})
        return value


def _yaml() -> Any:
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 4096
    return yaml


class Record:
    """The record of earlier consolidations, see `_consolidation.empty_record`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.record = _consolidation.empty_record()

    def read(self) -> None:
        """Read the file; an absent one is an empty record. Raises FileError."""
        fix = "put a backup of it in its place, or remove it: what nodes that are away hold is then unknown"
        try:
            with open(self.path, encoding="utf-8") as stream:
                record = json.load(stream)
        except FileNotFoundError:
            return
        except OSError as error:
            raise FileError([("%s cannot be read: %s" % (self.path, error.strerror), "ls -l %s" % self.path)]) from None
        except (ValueError, RecursionError):
            raise FileError([("%s is no JSON, so it is not what a consolidation wrote" % self.path, fix)]) from None
        if isinstance(record, dict) and isinstance(record.get("schema"), int) and record["schema"] > _consolidation.RECORD_SCHEMA:
            message = "%s was written by a newer version (schema %d)" % (self.path, record["schema"])
            raise FileError([(message, "use that version of mipfed")])
        if not _is_record(record):
            raise FileError([("%s is not what a consolidation wrote" % self.path, fix)])
        self.record = record


def _is_record(record: Any) -> bool:
    """Whether a record has the shape that `_consolidation` counts on."""
    try:
        nodes = [known["pathologies"] for known in record["nodes"].values()]
        files = [codes for held in nodes for pathology in held.values() for codes in pathology["files"].values()]
        rows = [count for codes in files for count in codes.values()]
        handed = [item for known in record["handed_out"].values() for item in known]
        portal = record["portal"]
        entries = list(portal.get("entries", {}).values())
        labels = [item["label"] for item in entries] + [label for item in entries for label in item["datasets"].values()]
        return (
            record["schema"] == _consolidation.RECORD_SCHEMA
            and all(isinstance(count, (int, str)) for count in rows)
            and all(isinstance(item[key], str) for item in handed for key in ("sha256", "model", "time"))
            and all(isinstance(label, str) for label in labels)
        )
    except (KeyError, TypeError, AttributeError):
        return False


def record_text(record: Dict[str, Any]) -> str:
    """The record as its file holds it."""
    return json.dumps(record, indent=1, sort_keys=False, ensure_ascii=False) + "\n"


def write(path: str, text: str) -> None:
    """Write a file beside itself and rename it; it keeps its mode. Raises FileError; the old file is then still there."""
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    temporary = ""
    try:
        os.makedirs(folder, exist_ok=True)
        try:
            mode = stat.S_IMODE(os.stat(path).st_mode)
        except FileNotFoundError:
            mode = 0o644
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".%s." % os.path.basename(path))
        with os.fdopen(handle, "wb") as stream:
            stream.write(text.encode("utf-8"))
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        os.rename(temporary, path)
        temporary = ""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise FileError([("%s cannot be written: %s" % (path, error.strerror), "ls -ld %s; df %s" % (folder, folder))]) from None
    finally:
        if temporary:
            os.unlink(temporary)
