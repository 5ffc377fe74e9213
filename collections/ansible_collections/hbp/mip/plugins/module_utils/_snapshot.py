# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives of files of this host, and an engine that is stopped while it is copied and runs again whatever happens."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import subprocess
import tarfile
import time
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

from ansible_collections.hbp.mip.plugins.module_utils._engine import EngineError, engine_call, wait_until

_READ_BYTES = 1 << 20
#: An engine that does not stop within this time is left alone.
_STOP_SECONDS = 120
_START_SECONDS = 180


class SnapshotError(Exception):
    """Something cannot be copied or put back; the message is for an operator."""


def private_folder(path: str) -> str:
    """Make a folder that only its owner reads. Raises SnapshotError."""
    try:
        os.makedirs(os.path.dirname(path) or "/", 0o755, exist_ok=True)
        os.makedirs(path, 0o700, exist_ok=True)
        if os.path.islink(path):
            raise SnapshotError("%s is a link" % path)
        os.chmod(path, 0o700)
    except OSError as error:
        raise SnapshotError("%s: %s" % (error.filename or path, error.strerror)) from error
    return path


def tree_size(folder: str) -> int:
    """Bytes that the files below `folder` occupy."""
    total = 0
    for here, _unused, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(here, name)).st_blocks * 512
    return total


def need_space(folder: str, size: int) -> None:
    """Raise SnapshotError unless the file system of `folder` has `size` bytes and a reserve."""
    free = shutil.disk_usage(folder).free
    wanted = size + (64 << 20)
    if free < wanted:
        raise SnapshotError(
            "%s: %d MiB are free, and %d MiB are needed. Nothing was changed. Free space there" % (folder, free >> 20, wanted >> 20)
        )


def digest(path: str) -> str:
    """SHA-256 of a file."""
    found = hashlib.sha256()
    with open(path, "rb") as stream:
        for data in iter(lambda: stream.read(_READ_BYTES), b""):
            found.update(data)
    return found.hexdigest()


def copy_tree(source: str, target: str) -> None:
    """Copy folders and files with owner and mode; sockets and the like are left out, and zeros take no space."""
    status = os.lstat(source)
    os.mkdir(target, 0o700)
    for name in sorted(os.listdir(source)):
        path, copy = os.path.join(source, name), os.path.join(target, name)
        mode = os.lstat(path).st_mode
        if stat.S_ISDIR(mode):
            copy_tree(path, copy)
        elif stat.S_ISREG(mode):
            _copy_file(path, copy)
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))


def _copy_file(source: str, target: str) -> None:
    with open(source, "rb") as reading, open(target, "xb") as writing:
        status = os.fstat(reading.fileno())
        os.fchmod(writing.fileno(), stat.S_IMODE(status.st_mode))
        os.fchown(writing.fileno(), status.st_uid, status.st_gid)
        for data in iter(lambda: reading.read(_READ_BYTES), b""):
            if data.strip(b"\0"):
                writing.write(data)
            else:
                writing.seek(len(data), os.SEEK_CUR)
        writing.truncate()
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def pack(root: str, names: Sequence[str], archive: str) -> Dict[str, Any]:
    """Write the files and folders `names` below `root` to a compressed tar that only its owner reads.

    Returns `path`, `size`, `sha256` and `files`: path, size, mode and SHA-256 of each; of a folder the SHA-256 is empty.
    """
    files: List[Dict[str, Any]] = []
    draft = archive + ".part"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(draft)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as stream:
        with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1, format=tarfile.PAX_FORMAT) as output:
            for name in names:
                _pack_one(output, root, name, files)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(draft, archive)
    return {"path": archive, "size": os.path.getsize(archive), "sha256": digest(archive), "files": files}


class _Reading:
    """A file whose digest is taken while tarfile reads it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        """Bytes for the archive."""
        data: bytes = self._stream.read(size)
        self.digest.update(data)
        return data


def _pack_one(output: tarfile.TarFile, root: str, name: str, files: List[Dict[str, Any]]) -> None:
    path = os.path.join(root, name)
    entry = output.gettarinfo(path, arcname=name)
    if entry is None or not (entry.isreg() or entry.isdir()):
        return
    entry.uname = entry.gname = ""
    told = {"path": name, "size": entry.size, "mode": entry.mode, "sha256": ""}
    if entry.isdir():
        output.addfile(entry)
    else:
        # A second name of the same file is a file of its own here.
        entry.type, entry.linkname = tarfile.REGTYPE, ""
        with open(path, "rb") as stream:
            entry.size = told["size"] = os.fstat(stream.fileno()).st_size
            reading = _Reading(stream)
            output.addfile(entry, reading)  # type: ignore[arg-type]
        told["sha256"] = reading.digest.hexdigest()
    files.append(told)


def walk(root: str) -> List[str]:
    """Everything below `root`, folders before what is in them, relative to it."""
    found = []
    for here, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(folders + names):
            found.append(os.path.relpath(os.path.join(here, name), root))
    return sorted(found)


def _entries(archive: str) -> Iterator[Tuple[tarfile.TarFile, tarfile.TarInfo]]:
    with tarfile.open(archive, mode="r:gz") as source:
        for entry in source:
            parts = entry.name.split("/")
            if entry.name.startswith("/") or ".." in parts or "" in parts or not (entry.isreg() or entry.isdir()):
                raise SnapshotError("%s contains %r, which no snapshot has. Nothing was changed" % (archive, entry.name))
            yield source, entry


def check_archive(archive: str, sha256: str) -> Dict[str, str]:
    """The SHA-256 of every file in an archive, empty for folders. Raises SnapshotError when it is damaged or not the wanted one."""
    found: Dict[str, str] = {}
    try:
        if sha256 and digest(archive) != sha256:
            raise SnapshotError("%s is damaged: its digest is another. Nothing was changed" % archive)
        for source, entry in _entries(archive):
            if entry.name in found:
                raise SnapshotError("%s contains %r twice. Nothing was changed" % (archive, entry.name))
            content = source.extractfile(entry) if entry.isreg() else None
            seen = hashlib.sha256()
            while content:
                data = content.read(_READ_BYTES)
                if not data:
                    break
                seen.update(data)
            found[entry.name] = seen.hexdigest() if content else ""
    except FileNotFoundError as error:
        raise SnapshotError("%s does not exist" % archive) from error
    except (tarfile.TarError, OSError, EOFError) as error:
        raise SnapshotError("%s is damaged: %s. Nothing was changed" % (archive, error)) from error
    return found


def read_member(archive: str, name: str, limit: int = 1 << 20) -> bytes:
    """One small file of an archive that was checked; empty when it is not in it."""
    for source, entry in _entries(archive):
        if entry.name == name and entry.isreg():
            content = source.extractfile(entry)
            return content.read(limit) if content else b""
    return b""


def unpack(archive: str, target: str) -> None:
    """Put the content of a checked archive into the new folder `target`, with owners and modes, and on disk."""
    os.mkdir(target, 0o700)
    modes: List[Tuple[str, tarfile.TarInfo]] = []
    for source, entry in _entries(archive):
        path = os.path.join(target, entry.name)
        if entry.isdir():
            os.makedirs(path, 0o700, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            content = source.extractfile(entry)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(handle, "wb") as stream:
                if content is not None:
                    shutil.copyfileobj(content, stream, _READ_BYTES)
                stream.flush()
                os.fsync(stream.fileno())
        modes.append((path, entry))
    for path, entry in reversed(modes):
        if os.geteuid() == 0:
            os.chown(path, entry.uid, entry.gid)
        os.chmod(path, entry.mode & 0o7777)


def _run(*command: str, timeout: float = 60) -> Tuple[int, str]:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, "%s: %s" % (" ".join(command), error)
    return done.returncode, " ".join(done.stdout.decode("utf-8", "replace").split())


class Service:
    """The engine's units of systemd."""

    def __init__(self, name: str) -> None:
        self.units = ["%s.socket" % name, "%s.service" % name]
        self.name = name

    def running(self) -> bool:
        """Whether the engine runs or is being started."""
        return _run("systemctl", "is-active", self.units[1])[1] in ("active", "activating", "reloading")

    def why(self) -> str:
        """What the journal says last, without the words of its beginning; empty when there is none."""
        _unused, text = _run("journalctl", "-u", self.units[1], "-n", "40", "-o", "cat", "--no-pager")
        return text

    def start(self) -> None:
        """Start the engine. Raises SnapshotError when it does not come up."""
        # After failures in a row systemd would refuse to try again.
        _run("systemctl", "reset-failed", *self.units)
        for unit in self.units:
            code, text = _run("systemctl", "start", unit, timeout=_START_SECONDS)
        if code or not self.running():
            raise SnapshotError("%s does not start: %s. Next: journalctl -u %s -n 50" % (self.units[1], text, self.name))

    @contextlib.contextmanager
    def stopped(self, purpose: str) -> Iterator["Stop"]:
        """Stop the engine for the block. It is started afterwards, also when this process is killed in between.

        A unit of systemd looks after that: it ends when this process does, and starts the engine as it ends.
        """
        guard = "mip-engine-back-%s" % secrets.token_hex(4)
        back = "; ".join("systemctl start %s" % unit for unit in self.units)
        code, text = _run(
            "systemd-run", "--quiet", "--collect", "--unit", guard, "--description", "Starts %s again after: %s" % (self.name, purpose),
            "--property", "ExecStopPost=/bin/sh -c '%s'" % back, "--property", "RuntimeMaxSec=900",
            "/bin/sh", "-c", "while [ -d /proc/%d ]; do sleep 0.5; done" % os.getpid(),
        )  # fmt: skip
        if code:
            raise SnapshotError("nobody could look after the engine's start, so that it was not stopped: %s" % text)
        try:
            # The socket first: a connection to it would start the engine again.
            code, text = _run("systemctl", "stop", *self.units, timeout=_STOP_SECONDS)
            if code or self.running():
                raise SnapshotError("%s does not stop: %s. Next: systemctl status %s" % (self.units[1], text, self.name))
            stop = Stop(self)
            yield stop
        finally:
            try:
                self.start()
            finally:
                _run("systemctl", "stop", "%s.service" % guard)


def forget_managers(connected: Callable[[], Any], timeout: float) -> List[str]:
    """Remove the other managers from the list of a swarm that was forced to have this one only; returns their ids.

    They are no members of it any more, so that they need not be demoted. Raises EngineError.
    """
    removed: List[str] = []

    def gone() -> bool:
        client = connected()
        try:
            with engine_call("read the state of the engine"):
                own = str(client.info()["Swarm"]["NodeID"])
            with engine_call("list the nodes of the swarm"):
                others = [node for node in client.nodes() if node["Spec"]["Role"] == "manager" and node["ID"] != own]
            for node in others:
                with engine_call("remove the manager %s, which is lost" % node["ID"]):
                    client.remove_node(node["ID"], force=True)
                removed.append(str(node["ID"]))
        except EngineError as error:
            # A leader is elected within seconds after the start.
            why[0] = error
            return False
        finally:
            client.close()
        return True

    why: List[EngineError] = [EngineError("the swarm has no leader")]
    if not wait_until(gone, timeout, longest=2.0):
        raise why[0]
    return removed


class Stop:
    """A time during which the engine does not run."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.began = time.monotonic()

    def check(self) -> None:
        """Raise SnapshotError when somebody started the engine meanwhile, so that what was copied may contradict itself."""
        if self._service.running():
            raise SnapshotError(
                "somebody started %s during the copy, which may contradict itself and was thrown away. Run this again" % self._service.name
            )
