# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node's data folder holds, told in codes, counts and hashes only.

The folder holds patients' data. No value of any cell leaves this module but the dataset codes, and of those only what
looks like a code; a number of rows below the privacy threshold is told as such, and no other number gives it away.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import re
import sqlite3
import stat
import time
import zlib
from typing import Any, Dict, List, Optional, Tuple, Union
from urllib.parse import quote

from ansible_collections.hbp.mip.plugins.module_utils import _cdes, _compiled, _csv

PRIVACY_ROWS = 10
LARGEST_CDES = 64 << 20
MOST_DATASETS = 1000
MOST_FILES = 1000
# SQLite's limit, and so that of a compiled pathology.
MOST_COLUMNS = 2000
# More values than this that few rows have are hardly dataset codes, but what tells the patients apart.
MOST_SMALL = 20

#: A number of rows as it is told: itself, `<10`, or `>=N` where it would give a small number away.
Told = Union[int, str]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_BUSY_SECONDS = 2.0
_SHOWN = 10


class Inventory:
    """Looks at a data folder and its compiled databases; the results are in `pathologies` and `problems`."""

    #: Whether a pathology without a database is a problem.
    wants_database = True

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
        if state == "missing" and self.wants_database:
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


class Files(Inventory):
    """Looks at a data folder, with all that a consolidation needs to know of the metadata and the CSV files.

    A CSV file is read once, for its hash and its rows. Links out of the data folder are not followed, and nothing but a plain file
    is read.

    :arg policy: the compile policy that the databases should have; empty leaves it out of the comparison.
    :arg metadata_only: this node's databases should have no rows (the master's).
    :arg cdes_content: return the metadata files themselves, compressed.
    """

    wants_database = False

    def __init__(self, data_dir: str, seconds: float, policy: str = "", metadata_only: bool = False, cdes_content: bool = False) -> None:
        super().__init__(data_dir, seconds)
        self.policy = policy
        self.metadata_only = metadata_only
        self.cdes_content = cdes_content

    def _pathology(self, name: str, path: str) -> dict[str, Any]:
        cdes, parsed = self._metadata(name, os.path.join(path, _compiled.CDES))
        summaries = self._files(name, path, parsed)
        state, datasets = self._database(name, os.path.join(path, _compiled.DATABASE))
        hashes = {file: summary.sha256 for file, (summary, _unused) in summaries.items()}
        compiled, reasons = _compiled.state(path, cdes["sha256"], hashes, self.policy or None, self.metadata_only)
        known = frozenset(code for code, _unused in parsed.datasets) if parsed else frozenset()
        codes = {file: _codes(summary, known) for file, (summary, _unused) in summaries.items()}
        labels, shared = tell(codes)
        return {
            "cdes": cdes,
            "files": {file: _file(summary, status, codes[file], labels[file], parsed) for file, (summary, status) in summaries.items()},
            "database": state,
            "datasets": {code: ">=%d" % PRIVACY_ROWS if code in shared and rows != _few() else rows for code, rows in datasets.items()},
            "compiled": {"state": compiled, "reasons": reasons},
        }

    def codes(self) -> dict[str, list[str]]:
        """The dataset codes of the CSV files, by pathology."""
        found: Dict[str, List[str]] = {}
        for name, item in sorted(self.pathologies.items()):
            codes = sorted({code for file in item["files"].values() for code in file["datasets"]})
            if codes:
                found[name] = codes
        return found

    def _metadata(self, name: str, path: str) -> tuple[dict[str, Any], Optional[_cdes.Cdes]]:
        found: Dict[str, Any] = {
            "present": False,
            "valid": False,
            "sha256": "",
            "size": 0,
            "mtime": "",
            "code": "",
            "label": "",
            "version": "",
            "model": "",
            "variables": {},
            "datasets": [],
            "findings": [],
        }
        state = self._regular(name, path)
        if state == "missing":
            self.problem(
                "cdes-missing",
                name,
                "%s is missing; the engine cannot use the pathology without it" % path,
                "mipfed data consolidate puts it there, if the master or the data catalogue has it",
            )
        if state != "ok":
            return found, None
        try:
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
                status = os.fstat(stream.fileno())
                content = stream.read(_cdes.MOST_BYTES + 1)
        except OSError as error:
            self.problem("file-unusable", name, "%s: %s" % (path, error.strerror), "check the file's owner and mode")
            return found, None
        found.update(present=True, sha256=hashlib.sha256(content).hexdigest(), size=status.st_size, mtime=_when(status.st_mtime))
        try:
            parsed = _cdes.parse(content)
        except _cdes.CdesError as error:
            found["findings"] = [
                {"code": "unreadable", "message": error.message, "line": error.line, "column": error.column, "severity": "error"}
            ]
            where = ":%d:%d" % (error.line, error.column) if error.line else ""
            self.problem("cdes-invalid", name, "%s%s: %s" % (path, where, error.message), "correct the file, or replace it")
            return found, None
        errors = parsed.errors
        if errors:
            first = errors[0]
            more = "; and %d more errors" % (len(errors) - 1) if len(errors) > 1 else ""
            self.problem(
                "cdes-invalid",
                name,
                "%s:%d:%d: %s%s" % (path, first.line, first.column, first.message, more),
                "correct the file, or replace it",
            )
        found.update(
            valid=not errors,
            model=parsed.model,
            variables=parsed.digests,
            datasets=[list(entry) for entry in parsed.datasets],
            findings=[finding._asdict() for finding in parsed.findings],
        )
        # A JSON file without variables is something else under this name, and its texts could be a patient's.
        if "variables" in parsed.tree or "groups" in parsed.tree:
            found.update(code=parsed.code, label=parsed.label, version=parsed.version)
            if self.cdes_content:
                found["content"] = base64.b64encode(zlib.compress(content, 9)).decode("ascii")
        return found, parsed

    def _files(self, name: str, path: str, parsed: Optional[_cdes.Cdes]) -> dict[str, tuple[_csv.Summary, os.stat_result]]:
        """The pathology's CSV files by name, with what was counted and what the file system says."""
        found: Dict[str, Tuple[_csv.Summary, os.stat_result]] = {}
        try:
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            self.problem("file-unusable", name, "%s cannot be listed: %s" % (path, error.strerror), "check the folder's owner and mode")
            return found
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
            names = self._plain_names(name, path, entries)
            for entry_name in names[:MOST_FILES]:
                try:
                    found[entry_name] = self._read(folder, path, entry_name)
                except _Unusable as error:
                    self.problem(error.code, name, "%s %s" % (os.path.join(path, entry_name), error), error.fix)
                except OSError as error:
                    fix = "check the file's owner and mode"
                    self.problem("file-unusable", name, "%s: %s" % (os.path.join(path, entry_name), error.strerror), fix)
            if len(names) > MOST_FILES:
                message = "%s holds %d CSV files; only the first %d were read" % (path, len(names), MOST_FILES)
                self.problem("files-many", name, message, "merge them, or move files that are no datasets elsewhere")
        except OSError as error:
            self.problem("file-unusable", name, "%s cannot be listed: %s" % (path, error.strerror), "check the folder's owner and mode")
        finally:
            os.close(folder)
        return found

    def _plain_names(self, name: str, path: str, entries: list[os.DirEntry[str]]) -> list[str]:
        """The names of the CSV files; what looks like one or could hide one, and is none, becomes a problem."""
        names: List[str] = []
        links: List[str] = []
        folders: List[str] = []
        odd: List[str] = []
        for entry in entries:
            looks = entry.name.lower().endswith(".csv")
            if entry.is_symlink():
                # Those of files that are read are judged there.
                if _csv.FILE_NAME.fullmatch(entry.name):
                    names.append(entry.name)
                elif entry.name not in (_compiled.CDES, _compiled.DATABASE):
                    links.append(entry.name)
            elif entry.is_dir(follow_symlinks=False):
                if looks or not (entry.name.startswith(".") or entry.name == "lost+found"):
                    folders.append(entry.name)
            elif looks:
                (names if _csv.FILE_NAME.fullmatch(entry.name) else odd).append(entry.name)
        for code, what, fix, those in (
            ("symlink", "%s symbolic links, which are not followed: %s", "remove them, or put there what they lead to", links),
            ("sub-folder", "%s folders, which are not looked into: %s", "put the CSV files beside CDEsMetadata.json", folders),
            (
                "file-name",
                "%s files that are not read as datasets, whose names begin with a letter or a digit, hold only these and '_', '.', '-', "
                "end in '.csv' (small letters) and have at most 128 characters: %s",
                "rename or remove them",
                odd,
            ),
        ):
            if those:
                shown = ", ".join(_shown(item, 64) for item in those[:_SHOWN]) + (", ..." if len(those) > _SHOWN else "")
                self.problem(code, name, "%s holds " % path + what % (len(those), shown), fix)
        return names

    def _open(self, folder: int, path: str, name: str) -> int:
        """Open a file of a folder without waiting for anything; a link only where it stays inside the data folder."""
        try:
            return os.open(name, _OPEN, dir_fd=folder)
        except FileNotFoundError:
            raise _Unusable("files-changing", "vanished while the folder was looked at", "look again when nobody works there") from None
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        root = os.path.realpath(self.data_dir)
        real = os.path.realpath(os.path.join(path, name))
        outside = _Unusable("symlink", "is a symbolic link out of the data folder and was not followed", "put the file itself there")
        if os.path.commonpath([root, real]) != root:
            raise outside
        try:
            handle = os.open(real, _OPEN)
        except FileNotFoundError:
            raise _Unusable("symlink", "is a symbolic link that leads to nothing", "remove it") from None
        # A folder on the way may have become a link in the meantime.
        try:
            inside = os.path.commonpath([root, os.readlink("/proc/self/fd/%d" % handle)]) == root
        except OSError:
            inside = False
        if not inside:
            os.close(handle)
            raise outside
        return handle

    def _read(self, folder: int, path: str, name: str) -> tuple[_csv.Summary, os.stat_result]:
        handle = self._open(folder, path, name)
        with os.fdopen(handle, "rb", buffering=0) as stream:
            before = os.fstat(handle)
            if not stat.S_ISREG(before.st_mode):
                raise _Unusable("file-unusable", "is not a plain file, and was not read", "move it away")
            summary = _csv.summarise(stream, "dataset", _NAME, MOST_DATASETS)
            after = os.fstat(handle)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or summary.size != after.st_size:
            message = "the file was changed while it was read, so the numbers may be those of neither version"
            summary.findings.append(_csv.Finding("changing", message))
        return summary, after


class _Unusable(Exception):
    """A file that cannot be looked at; the text follows its path."""

    def __init__(self, code: str, message: str, fix: str) -> None:
        super().__init__(message)
        self.code = code
        self.fix = fix


class _Codes:
    """What of a file's dataset codes may be told at all."""

    def __init__(self, rows: Dict[str, int], strange: int, implausible: bool) -> None:
        self.rows = rows
        self.strange = strange
        self.implausible = implausible


def _codes(summary: _csv.Summary, known: frozenset[str]) -> _Codes:
    """Sort out values that match the rule for codes, but are hardly any: numbers, dates, and what differs from row to row.

    A column of another kind under the name `dataset` must not leave the node; what the metadata enumerate is a code in any case.
    """
    rows = {}
    strange = summary.strange
    for code, count in summary.codes.items():
        if code in known or not _is_number(code):
            rows[code] = count
        else:
            strange += count
    small = sum(1 for code, count in rows.items() if count < PRIVACY_ROWS and code not in known)
    if summary.codes_many or (small > MOST_SMALL and small * 2 > len(rows)):
        return _Codes({}, summary.strange, True)
    return _Codes(rows, strange, False)


def _is_number(text: str) -> bool:
    """Whether a value is a number or a date, as other columns hold them: no letter but an exponent's."""
    return not re.search("[A-Za-z]", text) or re.fullmatch(r"[0-9.]+[eE]-?[0-9]+", text) is not None


def _few() -> str:
    return "<%d" % PRIVACY_ROWS


def told(rows: int) -> Told:
    """A number of rows as it may be told on its own."""
    return rows if rows >= PRIVACY_ROWS else _few()


def tell(codes: dict[str, _Codes]) -> tuple[dict[str, dict[str, Told]], set[str]]:
    """The rows of each file's datasets as they may be told, and the datasets whose sum must not be told either.

    A dataset in several files, of which one has few rows: its sum, which the compiled database tells, less the other files'
    rows would be that number. So none of them is told; unless the sum itself is small, as then all are.
    """
    labels = {file: {code: told(rows) for code, rows in sorted(found.rows.items())} for file, found in codes.items()}
    shared: set[str] = set()
    for code in {code for found in codes.values() for code in found.rows}:
        rows = [found.rows[code] for found in codes.values() if code in found.rows]
        if len(rows) > 1 and min(rows) < PRIVACY_ROWS <= sum(rows):
            shared.add(code)
            for file in labels.values():
                if code in file:
                    file[code] = ">=1"
    return labels, shared


def _least(label: Told) -> int:
    """The least number of rows that a told number leaves possible."""
    if isinstance(label, int):
        return label
    return int(label[2:]) if label.startswith(">=") else 1


def _rows(summary: _csv.Summary, codes: _Codes, labels: dict[str, Told]) -> Told:
    """The number of a file's rows, as far as it says no more than the numbers of its parts do."""
    parts = list(labels.values())
    plain = summary.rows - summary.ragged - codes.strange - sum(codes.rows.values())
    parts += [told(count) for count in (plain, codes.strange, summary.ragged) if count]
    if not summary.complete:
        return ">=%d" % sum(_least(part) for part in parts)
    if all(isinstance(part, int) for part in parts):
        return told(summary.rows)
    if parts == [_few()]:
        return _few()
    return ">=%d" % sum(_least(part) for part in parts)


def _file(
    summary: _csv.Summary, status: os.stat_result, codes: _Codes, labels: dict[str, Told], parsed: Optional[_cdes.Cdes]
) -> dict[str, Any]:
    header, findings = _header(summary, frozenset(variable.code for variable in parsed.variables) if parsed else frozenset())
    findings = [*summary.findings, *findings, *_row_findings(summary, codes)]
    return {
        "sha256": summary.sha256,
        "size": summary.size,
        "mtime": _when(status.st_mtime),
        "columns": len(summary.header),
        "header": header,
        "rows": _rows(summary, codes, labels),
        "datasets": labels,
        "encoding": summary.encoding,
        "newline": summary.newline,
        "findings": [finding._asdict() for finding in sorted(findings, key=lambda finding: (finding.line, finding.code))],
    }


def _header(summary: _csv.Summary, variables: frozenset[str]) -> tuple[list[str], list[_csv.Finding]]:
    """The column names that may be told, and what is wrong with the header.

    A file without a header has a patient in its first line; so nothing of that line is told unless it names the column dataset.
    Where line ends are lost, the first line is a header and a patient; so a name that only looks like one is told when there is a
    row with as many fields. (Most rows would be a better proof, but comparing would tell something of small numbers.)
    """
    names = summary.header
    if "dataset" not in names:
        return [], []
    proven = summary.rows > summary.ragged
    known = variables | {"dataset"}
    header = [name for name in names if name in known or (proven and _COLUMN.fullmatch(name))]
    findings = []
    odd = sum(1 for name in names if name not in known and not _COLUMN.fullmatch(name))
    if odd:
        message = "%d of the %d column names are neither variables of the CDE nor names (letters, digits and '_'); they are not told"
        findings.append(_csv.Finding("column-name", message % (odd, len(names)), 1))
    if len(header) + odd < len(names):
        message = "no row has as many fields as this header (%d), so only names that are variables of the CDE are told"
        findings.append(_csv.Finding("header-unproven", message % len(names), 1, "warning"))
    double = sorted({name for name in header if header.count(name) > 1}) if len(set(header)) < len(header) else []
    if double:
        shown = ", ".join(double[:_SHOWN]) + (", ..." if len(double) > _SHOWN else "")
        findings.append(_csv.Finding("column-duplicate", "these columns stand there more than once: %s" % shown, 1))
    if len(names) > MOST_COLUMNS:
        message = "the file has %d columns, and a database at most %d; only these many names are told"
        findings.append(_csv.Finding("columns-many", message % (len(names), MOST_COLUMNS), 1))
    return header[:MOST_COLUMNS], findings


def _row_findings(summary: _csv.Summary, codes: _Codes) -> list[_csv.Finding]:
    findings = []
    if summary.header and summary.complete and not summary.rows:
        findings.append(_csv.Finding("rows-missing", "the file has no rows", 0, "warning"))
    if summary.ragged:
        message = "%s do not have as many fields as the header (%d)" % (_number(summary.ragged), len(summary.header))
        findings.append(_csv.Finding("row-length", message, summary.ragged_line))
    if summary.repeated:
        findings.append(_csv.Finding("header-repeated", "the header stands there again", summary.repeated_line))
    if codes.implausible:
        message = "the column dataset holds many different values that few rows have; they are hardly dataset codes and are not told"
        findings.append(_csv.Finding("datasets-implausible", message))
    if codes.strange:
        message = (
            "%s hold no dataset code in the column dataset (it begins with a letter or a digit, holds only these and '_', '.', '-', "
            "has at most 64 characters, and is no number or date unless the CDE lists it); the values are not told"
        )
        findings.append(_csv.Finding("dataset-name", message % _number(codes.strange), summary.strange_line))
    if summary.blank_line:
        findings.append(_csv.Finding("line-blank", "the line is blank; blank lines are skipped", summary.blank_line, "warning"))
    return findings


def _number(rows: int) -> str:
    return "%d rows" % rows if rows >= PRIVACY_ROWS else "fewer than %d rows" % PRIVACY_ROWS


def _when(seconds: float) -> str:
    """A time as ISO 8601 in UTC, empty where the file system says something that is no time."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return ""


def _shown(path: str, most: int = 200) -> str:
    return repr(path) if len(path) <= most else repr(path[:most]) + "..."


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
