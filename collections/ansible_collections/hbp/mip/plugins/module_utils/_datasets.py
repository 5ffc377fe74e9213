# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node's data folder holds, told in codes, counts and hashes only.

The folder holds patients' data. No value of any cell leaves this module but the dataset codes, and of those only what
looks like a code; a number of rows below the privacy threshold is told as such.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import stat
import time
from typing import Any
from urllib.parse import quote

PRIVACY_ROWS = 10
LARGEST_CDES = 64 << 20
MOST_DATASETS = 1000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_BUSY_SECONDS = 2.0


class Inventory:
    """Looks at a data folder; the results are in `pathologies` and `problems`."""

    def __init__(self, data_dir: str, seconds: float) -> None:
        self.data_dir = data_dir
        self.seconds = seconds
        self.pathologies: dict[str, dict[str, Any]] = {}
        self.problems: list[dict[str, str]] = []
        self.other_files = 0

    def problem(self, code: str, pathology: str, message: str, fix: str) -> None:
        """Note something that keeps the engine from using the folder as it is."""
        self.problems.append({"code": code, "pathology": pathology, "message": message, "fix": fix})

    def look(self) -> None:
        """Look at every pathology. Nothing is raised for what is found in the folder."""
        try:
            entries = sorted(os.scandir(self.data_dir), key=lambda entry: entry.name)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            self.problem(
                "data-folder-missing" if missing else "data-folder-unusable",
                "",
                "the data folder %s cannot be listed: %s" % (self.data_dir, error.strerror),
                "mipfed deploy makes it" if missing else "see what is there: ls -ld %s" % self.data_dir,
            )
            return
        for entry in entries:
            path = os.path.join(self.data_dir, entry.name)
            if entry.is_symlink():
                self.problem(
                    "symlink",
                    "",
                    "%s is a symbolic link and was not followed; in the engine's container it leads nowhere" % _shown(path),
                    "put the folder itself there, or mount it",
                )
            elif not entry.is_dir(follow_symlinks=False):
                self.other_files += 1
            elif not _NAME.fullmatch(entry.name):
                self.problem(
                    "folder-name",
                    "",
                    "%s cannot be a pathology (letters, digits, '_', '.' and '-', not more than 64), and the engine stumbles "
                    "over any folder that is none" % _shown(path),
                    "rename it, or move it out of %s" % self.data_dir,
                )
            else:
                self.pathologies[entry.name] = self._pathology(entry.name, path)

    def _pathology(self, name: str, path: str) -> dict[str, Any]:
        cdes = self._cdes(name, os.path.join(path, "CDEsMetadata.json"))
        state, datasets = self._database(name, os.path.join(path, "datasets.db"))
        return {"cdes": cdes, "database": state, "datasets": datasets}

    def _regular(self, name: str, path: str) -> str:
        """`ok`, `missing`, or `unusable` with a problem, for a file that should be a plain one inside the data folder."""
        try:
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                root = os.path.realpath(self.data_dir)
                if os.path.commonpath([root, os.path.realpath(path)]) != root:
                    self.problem(
                        "symlink",
                        name,
                        "%s is a symbolic link out of the data folder and was not followed" % path,
                        "put the file itself there",
                    )
                    return "unusable"
                status = os.stat(path)
        except FileNotFoundError:
            return "missing"
        except OSError as error:
            self.problem("file-unusable", name, "%s: %s" % (path, error.strerror), "see what is there: ls -l %s" % path)
            return "unusable"
        if not stat.S_ISREG(status.st_mode):
            self.problem("file-unusable", name, "%s is not a plain file" % path, "move it away")
            return "unusable"
        return "ok"

    def _cdes(self, name: str, path: str) -> dict[str, Any]:
        found: dict[str, Any] = {"present": False, "valid": False, "sha256": "", "size": 0, "variables": 0}
        state = self._regular(name, path)
        if state == "missing":
            self.problem(
                "cdes-missing",
                name,
                "%s is missing; the engine cannot use the pathology without it" % path,
                "copy the pathology's CDEsMetadata.json there",
            )
        if state != "ok":
            return found
        try:
            with open(path, "rb") as stream:
                content = stream.read(LARGEST_CDES + 1)
        except OSError as error:
            self.problem("file-unusable", name, "%s: %s" % (path, error.strerror), "check the file's owner and mode")
            return found
        if len(content) > LARGEST_CDES:
            self.problem("cdes-invalid", name, "%s is larger than %d MiB" % (path, LARGEST_CDES >> 20), "replace the file")
            return found
        found.update(present=True, sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        try:
            tree = json.loads(content.decode("utf-8"))
            if not isinstance(tree, dict):
                raise ValueError("not an object")
            found["variables"] = _count_variables(tree)
            found["valid"] = True
        except (ValueError, RecursionError) as error:
            where = "line %d, column %d" % (error.lineno, error.colno) if isinstance(error, json.JSONDecodeError) else "no object"
            self.problem("cdes-invalid", name, "%s is not a metadata file (%s)" % (path, where), "replace the file")
        return found

    def _database(self, name: str, path: str) -> tuple[str, dict[str, Any]]:
        state = self._regular(name, path)
        if state == "missing":
            self.problem(
                "database-missing",
                name,
                "%s is missing; the engine then lists no dataset of this node at all" % path,
                "compile the pathology's CSV files on this node",
            )
        if state != "ok":
            return state, {}
        try:
            return self._datasets(name, path)
        except sqlite3.Error as error:
            state, message, fix = _meaning(error, path)
        except OSError as error:
            state, message, fix = "unusable", "%s: %s" % (path, error.strerror), "check the file's owner and mode"
        self.problem("database-%s" % state, name, message, fix)
        return state, {}

    def _datasets(self, name: str, path: str) -> tuple[str, dict[str, Any]]:
        with open(path, "rb") as stream:
            header = stream.read(100)
        if not header:
            self.problem(
                "database-empty",
                name,
                "%s is an empty file; an engine that finds no database makes one like that" % path,
                "compile the pathology's CSV files on this node",
            )
            return "empty", {}
        immutable = 0
        if header[18:20] == b"\x02\x02":
            # A reader of a write-ahead log makes files beside the database, which must not happen here.
            if os.path.exists(path + "-wal") and os.path.getsize(path + "-wal"):
                self.problem(
                    "database-locked",
                    name,
                    "%s is being written (there is a %s-wal)" % (path, os.path.basename(path)),
                    "wait until the writer is done, or compile again if there is none",
                )
                return "locked", {}
            immutable = 1
        uri = "file:%s?mode=ro&immutable=%d" % (quote(os.path.abspath(path)), immutable)
        connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS)
        try:
            deadline = time.monotonic() + self.seconds
            connection.set_progress_handler(lambda: int(time.monotonic() > deadline), 100000)
            connection.execute("PRAGMA query_only = ON")
            columns = [str(row[1]).lower() for row in connection.execute("PRAGMA table_info(DATA)")]
            if "dataset" not in columns:
                what = "no column dataset in its table DATA" if columns else "no table DATA"
                self.problem(
                    "database-foreign",
                    name,
                    "%s has %s, so it is not a compiled pathology" % (path, what),
                    "compile the pathology's CSV files on this node",
                )
                return "foreign", {}
            query = "SELECT dataset, count(*) FROM DATA GROUP BY dataset LIMIT ?"
            rows = connection.execute(query, (MOST_DATASETS + 1,)).fetchall()
        finally:
            connection.close()
        return self._tell(name, path, rows)

    def _tell(self, name: str, path: str, rows: list[tuple[Any, int]]) -> tuple[str, dict[str, Any]]:
        if len(rows) > MOST_DATASETS:
            self.problem(
                "datasets-implausible",
                name,
                "%s names more than %d datasets; that column hardly holds dataset codes, so nothing of it is told" % (path, MOST_DATASETS),
                "see what the CSV files hold in the column dataset",
            )
            return "foreign", {}
        datasets: dict[str, Any] = {}
        strange = 0
        for code, count in rows:
            if isinstance(code, str) and _NAME.fullmatch(code):
                datasets[code] = count if count >= PRIVACY_ROWS else "<%d" % PRIVACY_ROWS
            else:
                strange += 1
        if strange:
            self.problem(
                "dataset-name",
                name,
                "%s holds %d values in the column dataset that are no dataset codes (letters, digits, '_', '.' and '-', not "
                "more than 64); they are not told here" % (path, strange),
                "correct the CSV files and compile again",
            )
        return "ok", dict(sorted(datasets.items()))


def _shown(path: str) -> str:
    return repr(path) if len(path) <= 200 else repr(path[:200]) + "..."


def _count_variables(tree: dict[str, Any]) -> int:
    variables = tree.get("variables")
    count = len(variables) if isinstance(variables, list) else 0
    groups = tree.get("groups")
    if isinstance(groups, list):
        count += sum(_count_variables(group) for group in groups if isinstance(group, dict))
    return count


def _meaning(error: sqlite3.Error, path: str) -> tuple[str, str, str]:
    """State, message and fix for what SQLite says about a database that exists."""
    text = str(error)
    if "locked" in text or "busy" in text:
        return "locked", "%s is being written: %s" % (path, text), "wait until the writer is done"
    if "interrupted" in text:
        return "slow", "%s could not be counted in the given time" % path, "give the module more seconds, or look at the disk"
    if os.path.exists(path + "-journal"):
        return (
            "interrupted",
            "a writer of %s was cut off (there is a %s-journal): %s" % (path, os.path.basename(path), text),
            "compile the pathology's CSV files on this node again",
        )
    return "broken", "%s cannot be read: %s" % (path, text), "compile the pathology's CSV files on this node again"
