# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compiles a pathology's CSV files into the engine's datasets.db.

Of each pathology: survey (hashes), comparison with the manifest, pieces (rows into a database each), finish (the pieces merged),
publication (one rename). Survey, pieces and finish run in child processes, several at once. A database appears under its name only
when it is complete.

Values of cells stay on the node: what is returned has files, lines, columns and rules.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import sqlite3
import stat
import time
from collections import deque
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple, Union
from urllib.parse import quote

from ansible_collections.hbp.mip.plugins.module_utils import _cdes, _children, _compile_database, _compile_rows, _compiled, _csv

PRIVACY_ROWS = 10
#: CSV bytes of a pathology from which on more than one process works on it, and the least for each.
SHARED_FROM, LEAST_PIECE = 32 << 20, 8 << 20
#: Processes that "as many as cores" means at most: each takes some ten megabytes of its own, beside what all share.
MOST_AUTOMATIC = 4
#: Bytes of the file of errors, beyond which they are only counted.
MOST_ERROR_BYTES = 16 << 20

_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_TEMPORARY = re.compile(r"datasets\.db(?:\.json|\.errors\.txt)?\.tmp-([0-9]+)(?:-.*)?")
_READ_BYTES = 1 << 20
_MARK_EVERY = 4 << 20
_LONGEST_VALUE = 200

Range = Tuple[int, int, int]


class CsvFile(NamedTuple):
    """A CSV file of a pathology: name, the path to open, and once surveyed its state, hash and the places where it may be parted."""

    name: str
    path: str
    identity: Tuple[int, ...] = ()
    size: int = 0
    sha256: str = ""
    #: Offset and line number of some first bytes of a line, all before any quote.
    marks: Tuple[Tuple[int, int], ...] = ()


class Options(NamedTuple):
    """What a run was asked for; see the module's documentation."""

    policy: str = "strict"
    metadata_only: bool = False
    force: bool = False
    processes: int = 0
    errors_shown: int = 100
    check: bool = False


class Compiler:
    """Compiles the pathologies of a data folder. The results are in the attributes after `run`."""

    def __init__(self, data_dir: str, options: Options) -> None:
        self.data_dir = data_dir
        self.options = options
        self.pathologies: Dict[str, Dict[str, Any]] = {}
        self.problems: List[Dict[str, str]] = []
        self.absent: List[str] = []
        self.diff: List[Dict[str, str]] = []
        self.changed = False

    def problem(self, code: str, pathology: str, message: str, fix: str) -> None:
        """Note why something was not compiled."""
        self.problems.append({"code": code, "pathology": pathology, "message": message, "fix": fix})

    def run(self, names: Sequence[str]) -> None:
        """Compile these pathologies, or all when there are none. Nothing is raised for what the folder holds."""
        present = self._present(set(names))
        self.absent = sorted(set(names) - set(present))
        processes = self.options.processes or min(_cores(), MOST_AUTOMATIC)
        work = deque(_Pathology(self, name).steps(processes) for name in present if not names or name in names)
        with _children.Children() as children:
            _children.work_off(work, children, processes)
        self.pathologies = dict(sorted(self.pathologies.items()))
        self.problems.sort(key=lambda problem: problem["pathology"])
        self.diff.sort(key=lambda diff: diff["before_header"])

    def _present(self, wanted: Set[str]) -> List[str]:
        """The pathologies' folders. Only what is wanted is complained about."""
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
            return []
        found = []
        for entry in entries:
            path = os.path.join(self.data_dir, entry.name)
            if wanted and entry.name not in wanted:
                continue
            if entry.is_symlink():
                self.problem(
                    "symlink",
                    "",
                    "%s is a symbolic link and was not followed; in the engine's container it leads nowhere" % _children.shown(path),
                    "put the folder itself there, or mount it",
                )
            elif not entry.is_dir(follow_symlinks=False):
                continue
            elif not _FOLDER.fullmatch(entry.name):
                message = "%s cannot be a pathology (letters, digits, '_', '.' and '-', not more than 64)" % _children.shown(path)
                self.problem("folder-name", "", message, "rename it, or move it out of %s" % self.data_dir)
            else:
                found.append(entry.name)
        return found


class _Pathology:
    """One pathology on its way through the steps."""

    def __init__(self, compiler: Compiler, name: str) -> None:
        self.compiler = compiler
        self.options = compiler.options
        self.name = name
        self.folder = os.path.join(compiler.data_dir, name)
        self.database = os.path.join(self.folder, _compiled.DATABASE)
        self.temporary = "%s.tmp-%d" % (self.database, os.getpid())
        self.result: Dict[str, Any] = {"state": "failed", "reasons": [], "seconds": 0.0, "errors": [], "errors_total": 0}

    def steps(self, processes: int) -> _children.Steps:
        """Go all the way; each batch is for child processes, and their answers are sent back in."""
        began = time.monotonic()
        lock = -1
        try:
            if not self.options.check:
                lock, alone = self._lock()
                self._clean(alone)
            yield from self._compile(processes)
        except _children.Refused as refused:
            self.compiler.problem(refused.code, self.name, refused.message, refused.fix)
        except OSError as error:
            where = _children.shown(error.filename) if isinstance(error.filename, str) else self.folder
            fix = "make room on the disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the owner, mode and state of the file"
            self.compiler.problem(_children.code_of(error), self.name, "%s: %s" % (where, error.strerror), fix)
        finally:
            if not self.options.check:
                for path in _temporaries(self.folder, os.getpid()):
                    with contextlib.suppress(OSError):
                        os.unlink(path)
            if lock >= 0:
                os.close(lock)
            self.result["seconds"] = round(time.monotonic() - began, 3)
            self.compiler.pathologies[self.name] = self.result

    def _lock(self) -> Tuple[int, bool]:
        """A lock on the folder, which ends with the last process that holds it, and whether the file system has given one."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise _children.Refused(
                "busy", "another compile is at work in %s" % self.folder, "wait until it is done, then run again"
            ) from None
        except OSError:
            return descriptor, False
        return descriptor, True

    def _clean(self, alone: bool) -> None:
        """Remove what a run left that was killed."""
        for path in _temporaries(self.folder):
            number = _TEMPORARY.fullmatch(os.path.basename(path))
            if number and (alone or not _alive(int(number.group(1)))):
                _remove(path)

    def _compile(self, processes: int) -> _children.Steps:
        content, sha256 = self._cdes_content()
        files: List[CsvFile] = [] if self.options.metadata_only else self._files()
        if files:
            # The parent's share of a survey is nothing, so the files are dealt out whatever their number.
            hands = max(1, min(processes, len(files)))
            answers = yield [_children.bound(_survey, files[hand::hands]) for hand in range(hands)]
            surveyed = {item["name"]: item for answer in answers for item in _checked(answer, self.folder)["files"]}
            files = [_surveyed(file, surveyed[file.name]) for file in files]
        hashes = {file.name: file.sha256 for file in files}
        state, reasons = _compiled.state(self.folder, sha256, hashes, self.options.policy, self.options.metadata_only)
        if state == "compiled" and not _readable(self.database):
            state, reasons = "stale", ["%s cannot be read" % _compiled.DATABASE]
        if self.options.force and state == "compiled":
            reasons = ["it was asked for (force)"]
        self.result["reasons"] = [_printable(reason) for reason in reasons]
        if state == "compiled" and not self.options.force:
            self.result.update(state="unchanged", rows=(_compiled.read_manifest(self.folder) or {}).get("rows"))
            if not self.options.check:
                # A wrong file may have been put back as it was.
                _remove(os.path.join(self.folder, _compiled.ERRORS))
            return
        if not self._replaceable():
            message = "%s is not a plain file" % self.database
            raise _children.Refused("database-unusable", message, "move it away: the engine needs the database itself there")
        difference = self._difference(sha256, hashes)
        if self.options.check:
            self.result["state"] = "would_compile"
        else:
            cdes = self._read_cdes(content)
            if cdes is not None:
                yield from self._build(cdes, sha256, files, processes)
        if self.result["state"] != "failed":
            self.compiler.changed = True
            self.compiler.diff.append(difference)

    def _cdes_content(self) -> Tuple[bytes, str]:
        path = os.path.join(self.folder, _compiled.CDES)
        try:
            descriptor = _open_plain(_inside(self.compiler.data_dir, path))
        except FileNotFoundError:
            fix = "run mipfed data consolidate, or copy the pathology's CDEsMetadata.json there"
            raise _children.Refused("cdes-missing", "%s is missing; nothing can be compiled without it" % path, fix) from None
        with os.fdopen(descriptor, "rb") as stream:
            content = stream.read(_cdes.MOST_BYTES + 1)
        return content, hashlib.sha256(content).hexdigest()

    def _read_cdes(self, content: bytes) -> Optional[_cdes.Cdes]:
        """The metadata; None after noting its errors. They hold no values of patients."""
        found: Optional[_cdes.Cdes] = None
        try:
            found = _cdes.parse(content)
            errors = found.errors
        except _cdes.CdesError as error:
            errors = [_cdes.Finding("unreadable", error.message, error.line, error.column)]
        if not errors:
            return found
        listed = [
            {"file": _compiled.CDES, "line": item.line, "column": "", "rule": item.code, "message": item.message}
            for item in errors[: self.options.errors_shown]
        ]
        with _Errors("%s-errors-0" % self.temporary, 0) as written:
            for item in errors:
                written.add(_compiled.CDES, item.line, "", item.code, item.message, None)
        self._failed(listed, len(errors))
        message = "%s has %d errors" % (os.path.join(self.folder, _compiled.CDES), len(errors))
        self.compiler.problem("cdes-invalid", self.name, message, "correct the file named, then consolidate and compile again")
        return None

    def _files(self) -> List[CsvFile]:
        """The CSV files, by name. Names that begin with a dot are no data (editors and file servers make them)."""
        found = []
        with os.scandir(self.folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(".csv") and not entry.name.startswith("."))
        for name in names:
            path = os.path.join(self.folder, name)
            if not _csv.FILE_NAME.fullmatch(name):
                message = "%s is named against the rule (letters, digits, '_', '.' and '-'); nothing was compiled" % _children.shown(path)
                raise _children.Refused("file-name", message, "rename it, or move it out of %s" % self.folder)
            found.append(CsvFile(name, _inside(self.compiler.data_dir, path)))
        return found

    def _replaceable(self) -> bool:
        try:
            return stat.S_ISREG(os.lstat(self.database).st_mode)
        except FileNotFoundError:
            return True

    def _difference(self, sha256: str, hashes: Dict[str, str]) -> Dict[str, str]:
        """What the database was compiled from and what it will be, for Ansible's diff."""
        old = _compiled.read_manifest(self.folder)
        before = ""
        if old is not None:
            before = _inputs(old["compiler"], old["policy"], old["metadata_only"], old["cdes"], old["files"])
        after = _inputs(_compiled.COMPILER, self.options.policy, self.options.metadata_only, sha256, hashes)
        title = "%s, compiled from" % self.database
        return {"before_header": title, "after_header": title, "before": before, "after": after}

    def _build(self, cdes: _cdes.Cdes, sha256: str, files: List[CsvFile], processes: int) -> _children.Steps:
        plan = _Plan(cdes, self.options, self.temporary, files)
        parts = plan.parts(processes)
        answers = yield [_children.bound(plan.load, number, part) for number, part in enumerate(parts)]
        for answer in answers:
            _checked(answer, self.folder)
        total = sum(answer["errors_total"] for answer in answers)
        rows = sum(answer["rows"] for answer in answers)
        (last,) = yield [_children.bound(plan.finish, len(parts), rows, total)]
        answers.append(_checked(last, self.folder))
        total += last["errors_total"]
        if total:
            order = {file.name: number for number, file in enumerate(files)}
            listed = [error for answer in answers for error in answer["errors"]]
            listed.sort(key=lambda error: (order[error["file"]], error["line"]))
            self._failed(listed[: self.options.errors_shown], total)
            names = sorted({name for answer in answers for name in answer["files"]})
            message = "%d errors in %s" % (total, ", ".join(names[:10]) + (", ..." if len(names) > 10 else ""))
            fix = "correct the files; on the node, %s has the values too" % os.path.join(self.folder, _compiled.ERRORS)
            self.compiler.problem("data-invalid", self.name, message, fix)
            return
        rows_told = told_rows(self.temporary)
        self._publish(sha256, files, rows_told)
        self.result.update(state="compiled", rows=rows_told)

    def _failed(self, errors: List[Dict[str, Any]], total: int) -> None:
        """Put the file of errors, with values, where only who may read the data can read it."""
        self.result.update(errors=errors, errors_total=total)
        folder = os.stat(self.folder)
        temporary = "%s.tmp-%d" % (os.path.join(self.folder, _compiled.ERRORS), os.getpid())
        parts = sorted(
            (path for path in _temporaries(self.folder, os.getpid()) if "-errors-" in path), key=lambda path: int(path.rsplit("-", 1)[1])
        )
        with os.fdopen(_compile_database.create_file(temporary), "wb") as stream:
            self._own(stream.fileno(), folder, 0o640)
            room = MOST_ERROR_BYTES
            for part in parts:
                with os.fdopen(_open_plain(part), "rb") as source:
                    written = source.read(room)
                stream.write(written)
                room -= len(written)
            stream.write(b"%d errors in all%s\n" % (total, b"" if room > 0 else b"; the rest is not listed"))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, os.path.join(self.folder, _compiled.ERRORS))

    def _own(self, descriptor: int, like: os.stat_result, mode: int) -> None:
        """Owner, group and mode of a new file. Who is not root may not give files away, and keeps them."""
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, like.st_uid, like.st_gid)
        os.fchmod(descriptor, mode)

    def _publish(self, sha256: str, files: List[CsvFile], rows: Union[int, str]) -> None:
        """Put the database in service. Whatever happens in between, the next run sees that the manifest does not fit it."""
        like = os.stat(self.folder)
        mode = 0o640
        with contextlib.suppress(FileNotFoundError):
            like = os.lstat(self.database)
            mode = stat.S_IMODE(like.st_mode) & 0o777
        descriptor = os.open(self.temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._own(descriptor, like, mode)
            os.fsync(descriptor)
            made = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        manifest = os.path.join(self.folder, _compiled.MANIFEST)
        beside = "%s.tmp-%d" % (manifest, os.getpid())
        mark = {"size": made.st_size, "mtime_ns": made.st_mtime_ns}
        hashes = {file.name: file.sha256 for file in files}
        with os.fdopen(_compile_database.create_file(beside), "wb") as stream:
            self._own(stream.fileno(), like, mode)
            stream.write(_compiled.manifest_content(sha256, hashes, self.options.policy, self.options.metadata_only, mark, rows))
            stream.flush()
            os.fsync(stream.fileno())
        self._settle()
        os.replace(self.temporary, self.database)
        self.compiler.changed = True
        _sync(self.folder)
        os.replace(beside, manifest)
        _remove(os.path.join(self.folder, _compiled.ERRORS))
        _sync(self.folder)

    def _settle(self) -> None:
        """Deal with a journal or log of the old database: SQLite would apply it to the new one.

        A writer that is at work keeps its lock, and then nothing is replaced. Otherwise the old database is brought in order, as its
        next reader would do, and what is left beside it belongs to nothing any more.
        """
        beside = [self.database + end for end in ("-journal", "-wal", "-shm")]
        if not any(os.path.lexists(path) for path in beside):
            return
        if os.path.exists(self.database):
            try:
                with contextlib.closing(sqlite3.connect(self.database, timeout=2, isolation_level=None)) as connection:
                    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
                    connection.execute("BEGIN EXCLUSIVE")
                    connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                if "locked" in str(error) or "busy" in str(error):
                    message = "another program is using %s" % self.database
                    raise _children.Refused(
                        "database-locked", message, "find it (fuser -v %s), end it, and compile again" % self.database
                    ) from None
        for path in beside:
            _remove(path)


class _Plan:
    """How a pathology's rows get into its database; runs in child processes."""

    def __init__(self, cdes: _cdes.Cdes, options: Options, temporary: str, files: List[CsvFile]) -> None:
        self.variables = cdes.variables
        self.options = options
        self.temporary = temporary
        self.files = files
        longitudinal = {"subjectid", "visitid"} if cdes.longitudinal else set()
        codes = {variable.code for variable in self.variables}
        self.pairs = cdes.longitudinal and longitudinal <= codes
        #: Columns that a file must have; a subjectcode need not be there, but where it is it must not be empty.
        self.needed = ["dataset", *sorted(longitudinal & codes)]
        self.columns = {variable.code: self._column(variable, longitudinal) for variable in self.variables}

    def _column(self, variable: _cdes.Variable, longitudinal: Set[str]) -> _compile_rows.Column:
        strict = self.options.policy == "strict"
        allowed: Optional[Set[str]] = None
        if strict and (variable.is_categorical or variable.code == "dataset"):
            allowed = {code for code, _unused in variable.enumerations or ()}
        return _compile_rows.Column(
            variable.code,
            variable.sql_type,
            allowed,
            variable.code in ("dataset", "subjectcode") or variable.code in longitudinal,
            variable.minimum if strict and variable.sql_type != "text" else None,
            variable.maximum if strict and variable.sql_type != "text" else None,
        )

    def parts(self, processes: int) -> List[List[Tuple[int, Range]]]:
        """The files, parted for the processes: for each a list of files (by index) and their ranges (start, end, line)."""
        whole = [(index, (0, file.size, 1)) for index, file in enumerate(self.files)]
        total = sum(file.size for file in self.files)
        count = min(processes, total // LEAST_PIECE)
        if total < SHARED_FROM or count < 2:
            return [whole]
        cuts = self._cuts(total, count)
        parts: List[List[Tuple[int, Range]]] = []
        for begin, end in zip([(0, 0, 1), *cuts], [*cuts, (len(self.files), 0, 1)]):
            part = []
            for index in range(begin[0], min(end[0] + 1, len(self.files))):
                start, line = begin[1:] if index == begin[0] else (0, 1)
                stop = end[1] if index == end[0] else self.files[index].size
                # An empty file has no row, but its missing header must be told.
                if start < stop or (start == stop == 0 and index != end[0]):
                    part.append((index, (start, stop, line)))
            if part:
                parts.append(part)
        return parts

    def _cuts(self, total: int, count: int) -> List[Tuple[int, int, int]]:
        """Places (file, offset, line) near to equal parts, where a record certainly begins."""
        places = []
        before = 0
        for index, file in enumerate(self.files):
            places.append((before, (index, 0, 1)))
            places.extend((before + offset, (index, offset, line)) for offset, line in file.marks)
            before += file.size
        near = {min(places, key=lambda place: abs(place[0] - total * number // count)) for number in range(1, count)}
        return [place for offset, place in sorted(near) if offset]

    def path(self, number: int) -> str:
        """The database of a part; the first one becomes the pathology's."""
        return self.temporary if number == 0 else "%s-%d" % (self.temporary, number)

    def load(self, number: int, part: List[Tuple[int, Range]]) -> Dict[str, Any]:
        """Read and check one part, and put its rows into a database of its own."""
        with _Errors("%s-errors-%d" % (self.temporary, number), self.options.errors_shown) as errors:
            with _compile_database.Database(self.path(number), self.variables, self.pairs, create=True) as database:
                for index, limits in part:
                    self._load_file(self.files[index], index, limits, database, errors)
            return {"rows": database.rows, "errors": errors.shown, "errors_total": errors.total, "files": sorted(errors.files)}

    def _load_file(self, file: CsvFile, index: int, limits: Range, database: _compile_database.Database, errors: _Errors) -> None:
        descriptor = _open_plain(file.path)
        try:
            _same(descriptor, file)
            start, end, line = limits

            def report(number: int, column: str, rule: str, message: str, value: Optional[str]) -> None:
                errors.add(file.name, number, column, rule, message, value)

            def quiet(number: int, column: str, rule: str, message: str, value: Optional[str]) -> None:
                """Who reads the first part of the file tells what is wrong with its header."""

            told = report if start == 0 else quiet
            with contextlib.suppress(_compile_rows.Stop):
                begin, header, rows_at, rows_line = _compile_rows.read_header(_compile_rows.Blocks(descriptor, 0, file.size, 1, told), told)
                table = _compile_rows.columns_of(header, self.columns, self.needed, begin, told)
                if table is not None:
                    at, number = (rows_at, rows_line) if start == 0 else (start, line)
                    blocks = _compile_rows.Blocks(descriptor, at, end, number, report)
                    insert = database.inserter(table, index)
                    for lines, rows in _compile_rows.Rows(table, blocks, report).batches():
                        _children.still_wanted()
                        if not errors.total:
                            insert(lines, rows)
            _same(descriptor, file)
        finally:
            os.close(descriptor)

    def finish(self, parts: int, rows: int, total: int) -> Dict[str, Any]:
        """Merge the parts, look for visits that occur twice, add the metadata."""
        with _Errors("%s-errors-%d" % (self.temporary, parts), self.options.errors_shown) as errors:
            with _compile_database.Database(self.path(0), self.variables, self.pairs, create=False) as database:
                others = [self.path(number) for number in range(1, parts)]
                if self.pairs and not total:
                    database.merge_pairs(others)
                    for index, line, first in database.repeated_visits():
                        message = "subjectid and visitid are those of line %d" % first
                        errors.add(self.files[index].name, line, "visitid", "visit-duplicate", message, None)
                if not total and not errors.total:
                    database.merge(others)
                    database.add_metadata()
                    if database.last_row() != rows:
                        raise _children.Refused(
                            "internal", "the database has other rows than were read", "run again; if it stays, report it"
                        )
            return {"rows": rows, "errors": errors.shown, "errors_total": errors.total, "files": sorted(errors.files)}


class _Errors:
    """Counts errors, keeps the first without their values, and writes them with values to a file on the node."""

    def __init__(self, path: str, limit: int) -> None:
        self.shown: List[Dict[str, Any]] = []
        self.total = 0
        self.files: Set[str] = set()
        self._path = path
        self._limit = limit
        self._room = MOST_ERROR_BYTES
        self._stream: Any = None

    def __enter__(self) -> _Errors:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._stream is not None:
            self._stream.close()

    def add(self, file: str, line: int, column: str, rule: str, message: str, value: Optional[str]) -> None:
        """Note one error."""
        self.total += 1
        self.files.add(file)
        if len(self.shown) < self._limit:
            self.shown.append({"file": file, "line": line, "column": column, "rule": rule, "message": message})
        if self._room <= 0:
            return
        if self._stream is None:
            self._stream = os.fdopen(_compile_database.create_file(self._path), "wb")
        told = "" if value is None else ": %s" % (ascii(value[:_LONGEST_VALUE]) + ("..." if len(value) > _LONGEST_VALUE else ""))
        text = "%s:%d:%s: %s: %s%s\n" % (file, line, column, rule, message, told)
        content = text.encode("utf-8", "backslashreplace")
        self._room -= len(content)
        self._stream.write(content)


def _survey(files: Sequence[CsvFile]) -> Dict[str, Any]:
    """Hash files, and find places where they may be parted: line begins before which there is no quote."""
    answer = []
    for file in files:
        descriptor = _open_plain(file.path)
        try:
            before = os.fstat(descriptor)
            digest = hashlib.sha256()
            size, line, wanted = 0, 1, _MARK_EVERY
            marks: List[Tuple[int, int]] = []
            partable = True
            while True:
                block = os.read(descriptor, _READ_BYTES)
                if not block:
                    break
                if block.endswith(b"\r"):
                    block += os.read(descriptor, 1)
                digest.update(block)
                if partable:
                    # A CR without LF is a line end too; such files stay whole.
                    partable = b'"' not in block and (b"\r" not in block or block.count(b"\r\n") == block.count(b"\r"))
                    newline = block.find(b"\n", max(0, wanted - size)) if partable and size + len(block) > wanted else -1
                    if newline >= 0:
                        marks.append((size + newline + 1, line + block.count(b"\n", 0, newline + 1)))
                        wanted = size + newline + 1 + _MARK_EVERY
                    line += block.count(b"\n")
                size += len(block)
                _children.still_wanted()
            if _identity(os.fstat(descriptor)) != _identity(before) or size != before.st_size:
                raise _children.Refused(
                    "file-changed", "%s was written to while it was read" % file.name, "wait until it is complete, then run again"
                )
        finally:
            os.close(descriptor)
        answer.append({"name": file.name, "sha256": digest.hexdigest(), "size": size, "identity": _identity(before), "marks": marks})
    return {"files": answer}


def _surveyed(file: CsvFile, found: Dict[str, Any]) -> CsvFile:
    marks = tuple((int(offset), int(line)) for offset, line in found["marks"] if offset < found["size"])
    return CsvFile(file.name, file.path, tuple(found["identity"]), found["size"], found["sha256"], marks)


def _identity(status: os.stat_result) -> Tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _same(descriptor: int, file: CsvFile) -> None:
    """Refuse a file that is not the one that was hashed."""
    if _identity(os.fstat(descriptor)) != file.identity:
        raise _children.Refused(
            "file-changed", "%s was changed while it was compiled" % file.name, "wait until it is complete, then run again"
        )


def _inside(root: str, path: str) -> str:
    """The path to open for a file, which may be a link but not out of the data folder. Raises FileNotFoundError, _children.Refused."""
    if stat.S_ISLNK(os.lstat(path).st_mode):
        real, root = os.path.realpath(path), os.path.realpath(root)
        if os.path.commonpath([root, real]) != root:
            raise _children.Refused(
                "symlink", "%s is a symbolic link out of the data folder and was not followed" % path, "put the file itself there"
            )
        return real
    return path


def _open_plain(path: str) -> int:
    """Open a plain file for reading. Raises OSError, _children.Refused."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _children.Refused("file-unusable", "%s is not a plain file" % path, "move it away")
    return descriptor


def _readable(database: str) -> bool:
    """Whether SQLite can read a compiled database."""
    try:
        with _reading(database) as connection:
            connection.execute("SELECT max(rowid) FROM DATA").fetchone()
            return True
    except sqlite3.Error:
        return False


@contextlib.contextmanager
def _reading(database: str) -> Iterator[sqlite3.Connection]:
    uri = "file:%s?mode=ro&immutable=1" % quote(os.path.abspath(database))
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        yield connection


def told_rows(database: str) -> Union[int, str]:
    """The number of rows of a compiled database, as far as it may leave the node.

    It is exact only where each dataset has 10 rows or more: beside the datasets' own numbers, which are told too, it would give a small
    one away.
    """
    with _reading(database) as connection:
        counts = [int(row[0]) for row in connection.execute("SELECT count(*) FROM DATA GROUP BY dataset")]
    small = sum(count < PRIVACY_ROWS for count in counts)
    if not small:
        return sum(counts)
    if sum(counts) < PRIVACY_ROWS:
        return "<%d" % PRIVACY_ROWS
    return ">=%d" % (small + sum(count for count in counts if count >= PRIVACY_ROWS))


def _inputs(compiler: str, policy: str, metadata_only: bool, cdes: str, files: Dict[str, str]) -> str:
    lines = ["compiler %s, policy %s%s" % (compiler, policy, ", metadata only" if metadata_only else "")]
    lines.append("%s sha256:%s" % (_compiled.CDES, cdes[:16]))
    lines.extend("%s sha256:%s" % (_printable(name), digest[:16]) for name, digest in sorted(files.items()))
    return "\n".join(lines) + "\n"


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _cores() -> int:
    return max(1, len(os.sched_getaffinity(0)))


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporaries(folder: str, pid: int = 0) -> List[str]:
    """Our temporary files in a folder, of one process or of all."""
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            number = _TEMPORARY.fullmatch(entry.name)
            if number and (not pid or int(number.group(1)) == pid):
                found.append(entry.path)
    return found


def _alive(pid: int) -> bool:
    """Whether a process of that number could be at work in the folder. Our own number was another process' before."""
    if pid == os.getpid():
        return False
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as stream:
            return b"python" in stream.read(4096)
    except OSError:
        return False


def _checked(answer: Dict[str, Any], folder: str) -> Dict[str, Any]:
    """The answer of a child, or the reason why there is none as an exception."""
    if "refused" in answer:
        code, message, fix = answer["refused"]
        if code == "disk-full":
            message = "there was not enough room in %s" % folder
        raise _children.Refused(code, message, fix)
    return answer
