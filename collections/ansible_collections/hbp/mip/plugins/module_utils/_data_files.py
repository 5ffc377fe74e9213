# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replacing metadata files in a data folder, each in one step, none before all are known to be right and on the disk.

Folders are walked by descriptor and links in them are never followed, as the folder belongs to others than root. Whenever a
run is cut off, every file is either the old one or the new one; what was written beside them goes at the next run.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import difflib
import errno
import fcntl
import grp
import hashlib
import json
import os
import pwd
import re
import stat
import time
import zlib
from typing import Any, Callable, Dict, List, NamedTuple, NoReturn, Optional, Sequence, Tuple

from ansible_collections.hbp.mip.plugins.module_utils import _cdes

LARGEST_FILE = 64 << 20
MOST_FILES = 10000
LOCK_SECONDS = 60.0
#: Mode of a new file.
MODE = 0o640

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_HASH = re.compile(r"[0-9a-f]{64}")
_MODE = re.compile(r"0?[0-7]{3}")
_PREFIX, _SUFFIX = ".mipfed-", ".tmp"
_STALE = re.compile(r"\.mipfed-[0-9a-f]{16}\.tmp")
# Beside what is written, so that a full disk is not what stops the host's other services.
_SPARE_BYTES = 1 << 20
_LONGEST_DIFF_LINES = 20000
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class FilesError(Exception):
    """What is wanted cannot be done. `problems` lists why, a message each; `replaced` says which files are new already."""

    def __init__(self, problems: Sequence[str], replaced: Sequence[str] = ()) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)
        self.replaced = list(replaced)


class Wanted(NamedTuple):
    """A file as it should be: its path below the root, its bytes and their SHA-256 (hex)."""

    path: str
    content: bytes
    sha256: str


class Attributes(NamedTuple):
    """Owner, group and mode of a file; None leaves it to the replaced file, or else to the folder (mode: MODE)."""

    uid: Optional[int]
    gid: Optional[int]
    mode: Optional[int]


def attributes(owner: str, group: str, mode: str) -> Attributes:
    """Attributes from names or numbers, empty for none; `mode` is octal, such as 0640. Raises FilesError."""
    problems = []
    uid = gid = None
    if owner:
        try:
            uid = int(owner) if owner.isdigit() else pwd.getpwnam(owner).pw_uid
        except KeyError:
            problems.append("there is no user %s on this host" % owner)
    if group:
        try:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
        except KeyError:
            problems.append("there is no group %s on this host" % group)
    if mode and not _MODE.fullmatch(mode):
        problems.append("mode %s is not three octal digits, such as 0640 (with quotes in YAML)" % mode)
    if problems:
        raise FilesError(problems)
    return Attributes(uid, gid, int(mode, 8) if mode else None)


def decode(entries: Sequence[Dict[str, Any]]) -> List[Wanted]:
    """The wanted files, each checked against its hash. Raises FilesError with everything that is wrong with any of them."""
    found: List[Wanted] = []
    problems: List[str] = []
    if len(entries) > MOST_FILES:
        raise FilesError(["%d files are more than %d" % (len(entries), MOST_FILES)])
    seen = set()
    for entry in entries:
        path, sha256 = entry["path"], entry["sha256"].lower()
        fault = _path_fault(path)
        if not fault and path in seen:
            fault = "stands in the list twice"
        seen.add(path)
        content = b""
        if not fault and not _HASH.fullmatch(sha256):
            fault = "has no SHA-256 of 64 hexadecimal digits"
        if not fault:
            content, fault = _plain(entry["content"])
        if not fault and hashlib.sha256(content).hexdigest() != sha256:
            fault = "did not arrive as it was sent: its SHA-256 is %s and should be %s" % (hashlib.sha256(content).hexdigest(), sha256)
        if fault:
            problems.append("%r %s" % (path[:200], fault))
        else:
            found.append(Wanted(path, content, sha256))
    paths = {item.path for item in found}
    for path in sorted(paths):
        if any(other.startswith(path + "/") for other in paths):
            problems.append("%r is a file, and also the folder of another one" % path)
        if path + ".previous" in paths:
            problems.append("%r is where the former %r is kept" % (path + ".previous", path))
    if problems:
        raise FilesError(problems)
    return found


def _path_fault(path: str) -> str:
    if not all(_PART.fullmatch(part) for part in path.split("/")) or len(path) > 1000:
        return "is no path below the root (parts of letters, digits, '_', '.', '-', not beginning with a dot)"
    if path.lower().endswith((".csv", ".db")):
        return "is a dataset or a database; only metadata are handed out"
    return ""


def _plain(text: str) -> Tuple[bytes, str]:
    """The bytes of a content, or a fault."""
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(base64.b64decode(text, validate=True), LARGEST_FILE + 1)
    except (binascii.Error, ValueError, zlib.error):
        return b"", "did not arrive as it was sent: its content is not compressed with zlib and in base64"
    if len(content) > LARGEST_FILE:
        return b"", "is larger than %d MiB" % (LARGEST_FILE >> 20)
    if not unpacker.eof or unpacker.unused_data:
        return b"", "did not arrive as it was sent: its content is cut off, or something follows it"
    return content, ""


class _Target:
    """A wanted file and what is there now."""

    def __init__(self, wanted: Wanted, folder_path: str) -> None:
        self.wanted = wanted
        self.name = wanted.path.rsplit("/", 1)[-1]
        self.folder_path = folder_path
        self.folder = -1
        self.status: Optional[os.stat_result] = None
        self.before = ""
        self.old = b""
        self.owner: Tuple[int, int] = (0, 0)
        self.mode = MODE
        self.temporary = ""
        self.replaced = False

    @property
    def rewritten(self) -> bool:
        """Whether the content differs."""
        return self.before != self.wanted.sha256

    @property
    def changed(self) -> bool:
        """Whether anything differs."""
        if self.rewritten or self.status is None:
            return True
        return (self.status.st_uid, self.status.st_gid) != self.owner or stat.S_IMODE(self.status.st_mode) != self.mode


class Replacement:
    """Replaces files below a folder; a context, as it holds folders open and locked.

    `look` compares, `write` replaces. Both raise FilesError; nothing was written when `look` does.

    :arg create: make folders that are missing, also the root.
    :arg keep_previous: keep a replaced file as `<name>.previous`.
    """

    def __init__(self, root: str, wanted: Sequence[Wanted], given: Attributes, create: bool = False, keep_previous: bool = True) -> None:
        self.root = root
        self.given = given
        self.create = create
        self.keep_previous = keep_previous
        self.targets = [_Target(item, os.path.dirname(os.path.join(root, item.path))) for item in wanted]
        self._open: Dict[str, int] = {}
        self._missing: List[str] = []

    def __enter__(self) -> Replacement:
        return self

    def __exit__(self, *_unused: object) -> None:
        for handle in self._open.values():
            os.close(handle)
        self._open.clear()

    @property
    def changed(self) -> bool:
        """Whether anything is to be changed, or was."""
        return any(target.changed for target in self.targets)

    def look(self, lock: bool) -> None:
        """See what is there; `lock` keeps other runs out until the end, and removes what one that was cut off left behind."""
        problems: List[str] = []
        self._open_root(lock)
        for target in self.targets:
            try:
                target.folder = self._folder(target.wanted.path.split("/")[:-1], problems)
                if target.folder >= 0:
                    self._compare(target)
            except FilesError as error:
                problems += error.problems
            except OSError as error:
                problems.append("%s: %s" % (os.path.join(self.root, target.wanted.path), error.strerror))
        if lock:
            for folder in sorted({target.folder for target in self.targets if target.folder >= 0}):
                _clean(folder)
        self._check_space(problems)
        if problems:
            raise FilesError(sorted(set(problems), key=problems.index))

    def _open_root(self, lock: bool) -> None:
        try:
            # The root is the operator's own choice; it may be a link to a mounted disk.
            handle = os.open(self.root, _FOLDER)
        except FileNotFoundError:
            if not self.create:
                raise FilesError(["the folder %s is missing on this host; mipfed deploy makes it" % self.root]) from None
            self._missing.append("")
            return
        except OSError as error:
            raise FilesError(["the folder %s cannot be opened: %s" % (self.root, error.strerror)]) from None
        self._open[""] = handle
        if lock:
            _lock(handle, self.root)

    def _folder(self, parts: List[str], problems: List[str]) -> int:
        """The descriptor of a folder below the root; -1 when it is missing, which is a problem unless it may be created."""
        path = ""
        for part in ["", *parts]:
            parent, path = path, "/".join(filter(None, [path, part]))
            if path in self._open:
                continue
            if path in self._missing or parent in self._missing:
                if path not in self._missing:
                    self._missing.append(path)
                continue
            try:
                self._open[path] = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=self._open[parent])
            except FileNotFoundError:
                if not self.create:
                    raise FilesError(
                        ["the folder %s is missing; a pathology's folder is made by who brings its data" % os.path.join(self.root, path)]
                    ) from None
                self._missing.append(path)
            except OSError as error:
                full = os.path.join(self.root, path)
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise FilesError(["%s is a link or no folder, and was not followed; put the folder itself there" % full]) from None
                raise FilesError(["%s: %s" % (full, error.strerror)]) from None
        return self._open.get("/".join(parts), -1)

    def _compare(self, target: _Target) -> None:
        """Read what is there in place of a wanted file, and settle its future attributes."""
        full = os.path.join(self.root, target.wanted.path)
        for name in (target.name, target.name + ".previous"):
            try:
                status = os.stat(name, dir_fd=target.folder, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if not stat.S_ISREG(status.st_mode):
                what = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no plain file"
                where = os.path.join(target.folder_path, name)
                raise FilesError(["%s is %s, and was left alone; see what it is: ls -l %s" % (where, what, target.folder_path)])
        folder = os.fstat(target.folder)
        try:
            handle = os.open(target.name, _FILE, dir_fd=target.folder)
        except FileNotFoundError:
            self._settle(target, folder)
            return
        with os.fdopen(handle, "rb") as stream:
            target.status = os.fstat(handle)
            if not stat.S_ISREG(target.status.st_mode):
                raise FilesError(["%s is no plain file, and was left alone" % full])
            digest = hashlib.sha256()
            while True:
                chunk = stream.read(1 << 20)
                if not chunk:
                    break
                digest.update(chunk)
                if len(target.old) <= LARGEST_FILE:
                    target.old += chunk
        target.before = digest.hexdigest()
        self._settle(target, folder)

    def _settle(self, target: _Target, folder: os.stat_result) -> None:
        former = target.status or folder
        target.owner = (
            former.st_uid if self.given.uid is None else self.given.uid,
            former.st_gid if self.given.gid is None else self.given.gid,
        )
        if self.given.mode is not None:
            target.mode = self.given.mode
        elif target.status is not None:
            target.mode = stat.S_IMODE(target.status.st_mode)

    def _check_space(self, problems: List[str]) -> None:
        needed: Dict[int, Tuple[int, int, str]] = {}
        for target in self.targets:
            if target.folder < 0 or not target.rewritten:
                continue
            device = os.fstat(target.folder).st_dev
            size, files, _unused = needed.get(device, (_SPARE_BYTES, 0, ""))
            needed[device] = (size + len(target.wanted.content) + 4096, files + 1, target.folder_path)
        for size, files, path in needed.values():
            space = os.statvfs(path)
            free = space.f_bavail * space.f_frsize
            if free < size:
                problems.append("the disk of %s has %d KiB free, and %d KiB are needed; make room there" % (path, free >> 10, size >> 10))
            elif space.f_files and space.f_favail < files:
                problems.append("the file system of %s has no room for %d more files (inodes); remove some there" % (path, files))

    def write(self) -> None:
        """Replace what differs. On failure FilesError says which files are the new ones already."""
        try:
            self._make_folders()
            changed = [target for target in self.targets if target.changed]
            for target in changed:
                if target.rewritten:
                    self._each(target, self._stage)
            for target in changed:
                self._each(target, self._replace)
        finally:
            for target in self.targets:
                if target.temporary:
                    _unlink(target.temporary, target.folder)

    def _each(self, target: _Target, action: Callable[[_Target], None]) -> None:
        try:
            action(target)
        except OSError as error:
            self._fail(os.path.join(self.root, target.wanted.path), error)

    def _fail(self, path: str, error: OSError) -> NoReturn:
        replaced = [target.wanted.path for target in self.targets if target.replaced]
        done = "already replaced: %s" % ", ".join(replaced) if replaced else "no file was replaced"
        raise FilesError(["%s cannot be written: %s (%s)" % (path, error.strerror, done)], replaced) from None

    def _make_folders(self) -> None:
        for path in self._missing:
            full = os.path.join(self.root, path) if path else self.root
            try:
                if not path:
                    os.makedirs(self.root, 0o755, exist_ok=True)
                    self._open[""] = os.open(self.root, _FOLDER)
                    _lock(self._open[""], self.root)
                    continue
                parent, _unused, name = path.rpartition("/")
                model = os.fstat(self._open[parent])
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, stat.S_IMODE(model.st_mode) & 0o777, dir_fd=self._open[parent])
                handle = self._open[path] = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=self._open[parent])
                uid = model.st_uid if self.given.uid is None else self.given.uid
                gid = model.st_gid if self.given.gid is None else self.given.gid
                _own(handle, (uid, gid))
                os.fchmod(handle, stat.S_IMODE(model.st_mode) & 0o777)
                os.fsync(self._open[parent])
            except OSError as error:
                self._fail(full, error)
        for target in self.targets:
            if target.folder < 0:
                target.folder = self._open["/".join(target.wanted.path.split("/")[:-1])]
                self._each(target, self._compare)

    def _stage(self, target: _Target) -> None:
        """Put the new content beside the file, safe on the disk."""
        temporary = _PREFIX + os.urandom(8).hex() + _SUFFIX
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=target.folder)
        target.temporary = temporary
        with os.fdopen(handle, "wb") as stream:
            stream.write(target.wanted.content)
            stream.flush()
            _own(handle, target.owner)
            os.fchmod(handle, target.mode)
            os.fsync(handle)

    def _replace(self, target: _Target) -> None:
        """Put a staged file in its place, or correct the attributes of one whose content is right."""
        if not target.rewritten:
            handle = os.open(target.name, _FILE, dir_fd=target.folder)
            try:
                _own(handle, target.owner)
                os.fchmod(handle, target.mode)
                os.fsync(handle)
            finally:
                os.close(handle)
            target.replaced = True
            return
        if self.keep_previous and target.status is not None:
            self._keep(target)
        os.replace(target.temporary, target.name, src_dir_fd=target.folder, dst_dir_fd=target.folder)
        target.temporary = ""
        target.replaced = True
        os.fsync(target.folder)

    def _keep(self, target: _Target) -> None:
        """Keep the present file under its second name, while it stays under its first."""
        previous = target.name + ".previous"
        temporary = _PREFIX + os.urandom(8).hex() + _SUFFIX
        folder = target.folder
        try:
            try:
                os.link(target.name, temporary, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                    raise
                # a file system without hard links
                handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
                with os.fdopen(handle, "wb") as copy, os.fdopen(os.open(target.name, _FILE, dir_fd=folder), "rb") as present:
                    for chunk in iter(lambda: present.read(1 << 20), b""):
                        copy.write(chunk)
                    copy.flush()
                    _own(handle, target.owner)
                    os.fchmod(handle, target.mode)
                    os.fsync(handle)
            os.replace(temporary, previous, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            # Renaming a file to another name of the same file does nothing, after a run that was cut off just here.
            _unlink(temporary, folder)

    def result(self, written: bool) -> List[Dict[str, Any]]:
        """Each file's path, its hash before and after, and whether it changed; after a failure as far as it came."""
        return [
            {
                "path": target.wanted.path,
                "before": target.before,
                "after": target.wanted.sha256 if target.replaced or not written else target.before,
                "changed": target.replaced if written else target.changed,
            }
            for target in self.targets
        ]

    def diff(self) -> List[Dict[str, str]]:
        """Unified differences as Ansible shows them. A former file that is no metadata is not shown."""
        found = []
        for target in self.targets:
            if target.changed:
                text = _difference(target) if target.rewritten else "owner, group or mode of %s\n" % target.wanted.path
                found.append({"prepared": text})
        return found


def _difference(target: _Target) -> str:
    path = target.wanted.path
    if target.old and not _is_metadata(target.old):
        return "%s: not shown, as what is there is no metadata file\n" % path
    try:
        sides = [content.decode("utf-8").splitlines(True) for content in (target.old, target.wanted.content)]
    except UnicodeDecodeError:
        return "%s: not shown, as it is no text\n" % path
    if sum(map(len, sides)) > _LONGEST_DIFF_LINES:
        return "%s: not shown, as it is too long\n" % path
    lines = difflib.unified_diff(sides[0], sides[1], path + " (before)", path + " (after)", n=3)
    return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)


def _is_metadata(content: bytes) -> bool:
    """Whether this is a CDEsMetadata.json, or a list of them for the portal: anything else could be patients' data."""
    try:
        tree = _cdes.parse(content).tree
        return "code" in tree and ("variables" in tree or "groups" in tree)
    except _cdes.CdesError:
        pass
    try:
        found = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        return False
    return isinstance(found, list) and all(isinstance(item, dict) and "code" in item and "metadataHierarchy" in item for item in found)


def _lock(handle: int, path: str) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                # A file system without locks: then it is the federation's own lock alone that keeps others out.
                return
        if time.monotonic() > deadline:
            raise FilesError(["another run is writing in %s and did not end within %d s; see: fuser -v %s" % (path, LOCK_SECONDS, path)])
        time.sleep(0.2)


def _clean(folder: int) -> None:
    """Remove what a run that was cut off has left beside the files. Others are kept out by the lock."""
    with os.scandir(folder) as listing:
        names = [entry.name for entry in listing if _STALE.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)]
    for name in names:
        _unlink(name, folder)


def _unlink(name: str, folder: int) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=folder)


def _own(handle: int, owner: Tuple[int, int]) -> None:
    """Set owner and group, where they differ: only root may give files away."""
    status = os.fstat(handle)
    if (status.st_uid, status.st_gid) != owner:
        os.fchown(handle, *owner)
