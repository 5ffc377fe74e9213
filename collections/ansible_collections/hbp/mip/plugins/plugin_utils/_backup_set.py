# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip and mipfed: the files that backups are kept in.

A set is one tar file, readable without this program: `mipbackup.json` says in plain words what it is and holds no secret, every
other member is encrypted with age. `manifest.json.age` lists all of them with their digests. A set gets its name only when it is
complete and on disk; until then its parts lie, encrypted, in a hidden folder beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from ansible_collections.hbp.mip.plugins.plugin_utils import _age, _files

FORMAT = 1
SUFFIX = ".mipbackup"
HEADER = "mipbackup.json"
MANIFEST = "manifest.json"
CATALOGUE = "catalogue.json"
#: Without these a set could not bring a federation back, and is not sealed.
ESSENTIAL = ("swarm", "inventory")
READ_BYTES = 1 << 20

_NAME = re.compile(r"[a-z][a-z0-9-]{0,80}(\.[a-z0-9]+){1,3}")
_LONGEST_HEADER = 1 << 16
_LONGEST_MANIFEST = 1 << 26
_OPEN_WITH = "tar -xf FILE; age --decrypt --identity KEYFILE swarm.tar.gz.age | tar -tz"


class BackupError(Exception):
    """A set cannot be made, or one is damaged, incomplete, or not for the given key."""


def moment(seconds: float | None = None) -> str:
    """Return a time as UTC text."""
    return datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def recipients(texts: Sequence[str]) -> list[_age.Recipient]:
    """Read the recipients of the inventory.

    :raises BackupError: when there is none, or one that cannot be used.
    """
    if not texts:
        raise BackupError(
            "mip_backup.recipients is empty: a backup is encrypted, and nobody is named who can open it. Make a key with "
            "`mipfed backup key FILE` (or age-keygen), keep that file away from this machine, and write the recipient into the inventory"
        )
    found = []
    for number, text in enumerate(texts, 1):
        try:
            found.append(_age.Recipient.parse(text))
        except _age.AgeError as error:
            raise BackupError(f"mip_backup.recipients, entry {number}: {error}") from None
    return found


def begin(folder: Path, federation: str) -> Path:
    """Make the hidden folder of a new set, and remove those that killed runs have left.

    Only for a run that holds the federation's lock.

    :raises BackupError: when the folder cannot be used.
    """
    try:
        if not folder.exists():
            folder.mkdir(parents=True, mode=0o700)
        for stale in folder.glob(f".{federation}.*.partial"):
            shutil.rmtree(stale)
        name = f"{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}-{secrets.token_hex(4)}"
        staging = folder / f".{federation}.{name}.partial"
        staging.mkdir(mode=0o700)
    except OSError as error:
        raise BackupError(f"{error.filename or folder}: {error.strerror}. Correct mip_backup.dir") from None
    return staging


def discard(staging: Path) -> bool:
    """Remove the parts of a set that is not wanted any more; returns whether there were any."""
    if not staging.name.endswith(".partial") or not staging.is_dir():
        return False
    shutil.rmtree(staging)
    return True


def set_id(staging: Path) -> str:
    """Return the name that a set will have, from its hidden folder."""
    return staging.name.removesuffix(".partial").rpartition(".")[2]


class Part:
    """One member of a set while it is being written, encrypted, into the hidden folder."""

    def __init__(self, staging: Path, name: str, targets: Sequence[_age.Recipient], about: Mapping[str, Any]) -> None:
        if not _NAME.fullmatch(name):
            raise BackupError(f"{name!r} is no name for a part of a backup")
        self.name = name
        self.about = dict(about)
        self.path = staging / f"{name}.age"
        self._targets = targets
        self._digest = hashlib.sha256()
        self._size = 0

    def __enter__(self) -> Part:
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        self._file = os.fdopen(handle, "wb")
        self._writer = _age.Writer(self._file, self._targets)
        return self

    def write(self, data: bytes) -> None:
        """Take more of the content."""
        self._digest.update(data)
        self._size += len(data)
        self._writer.write(data)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._file:
            if kind is None:
                self._writer.finish()
                self._file.flush()
                os.fsync(self._file.fileno())
        if kind is not None:
            self.path.unlink(missing_ok=True)

    def check(self, size: int, sha256: str) -> None:
        """Compare with what the content is known to be.

        :raises BackupError: when something else was written.
        """
        if (self._size, self._digest.hexdigest()) != (size, sha256):
            self.path.unlink(missing_ok=True)
            raise BackupError(f"{self.name}: {self._size} of {size} bytes arrived, or others than were sent")

    def describe(self) -> dict[str, Any]:
        """Write down what the member is, beside it, and return it."""
        encrypted = hashlib.sha256()
        with self.path.open("rb") as stream:
            while data := stream.read(READ_BYTES):
                encrypted.update(data)
        found = {
            "name": self.name,
            "size": self._size,
            "sha256": self._digest.hexdigest(),
            "encrypted_size": self.path.stat().st_size,
            "encrypted_sha256": encrypted.hexdigest(),
            **self.about,
        }
        draft = self.path.with_name(f"{self.name}.about.part")
        draft.write_text(json.dumps(found), encoding="utf-8")
        draft.replace(self.path.with_name(f"{self.name}.about"))
        return found


def staged(staging: Path) -> list[dict[str, Any]]:
    """Return the members that are complete in a hidden folder, by name."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(staging.glob("*.about"))]


def seal(staging: Path, header: Mapping[str, Any], facts: Mapping[str, Any], targets: Sequence[_age.Recipient]) -> Path:
    """Make one file of the parts. It has its name only when all of it is on disk.

    :arg header: what anybody may read; `facts`: what belongs into the manifest.
    :raises BackupError: when an essential part is missing, or the disk is full.
    """
    members = staged(staging)
    missing = [kind for kind in ESSENTIAL if kind not in {member["kind"] for member in members}]
    if missing:
        raise BackupError(f"the backup has no {' and no '.join(missing)}; it was not made")
    name = set_id(staging)
    shown = {"format": FORMAT, "id": name, "open_with": _OPEN_WITH, **header}
    manifest = {**shown, **facts, "members": members}
    with Part(staging, MANIFEST, targets, {}) as part:
        part.write(json.dumps(manifest, indent=1).encode())
    final, draft = staging.parent / f"{name}{SUFFIX}", staging / "set"
    try:
        with draft.open("wb") as stream:
            os.fchmod(stream.fileno(), 0o600)
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
                content = json.dumps(shown, indent=1).encode()
                _add(archive, HEADER, len(content), io.BytesIO(content))
                for each in (MANIFEST, *(member["name"] for member in members)):
                    path = staging / f"{each}.age"
                    with path.open("rb") as source:
                        _add(archive, path.name, path.stat().st_size, source)
                    # The disk need not hold everything twice.
                    path.unlink()
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(final)
        _files.fsync_folder(final.parent)
    except OSError as error:
        raise BackupError(f"{final}: {error.strerror}. The backup was not made; earlier ones are as they were") from None
    shutil.rmtree(staging)
    return final


def _add(archive: tarfile.TarFile, name: str, size: int, source: BinaryIO) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size, 0o600, int(time.time())
    archive.addfile(entry, source)


class BackupSet:
    """A set in a file. Opening looks at its outside only; what is inside is checked when it is read."""

    def __init__(self, path: Path) -> None:
        """Open a set.

        :raises BackupError: when the file is none, or of a format that this version does not know.
        """
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}
        try:
            with path.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
                for entry in archive:
                    if not entry.isreg() or not _NAME.fullmatch(entry.name) or entry.name in self._places:
                        raise BackupError(f"{path} is no backup, or was tampered with: it contains {entry.name!r}")
                    self._places[entry.name] = (entry.offset_data, entry.size)
            end = max((offset + size for offset, size in self._places.values()), default=0)
            if path.stat().st_size < end:
                raise BackupError(f"{path} is cut off")
            header = json.loads(b"".join(self._raw(HEADER, _LONGEST_HEADER)))
        except OSError as error:
            raise BackupError(f"{path}: {error.strerror}") from None
        except tarfile.TarError as error:
            raise BackupError(f"{path} is no backup, or cut off ({error})") from None
        except ValueError:
            raise BackupError(f"{path} is no backup: {HEADER} in it cannot be read") from None
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            found = header.get("format") if isinstance(header, dict) else "unknown"
            raise BackupError(f"{path} has the format {found}; this version reads format {FORMAT}. Use a newer mipfed")
        self.header: dict[str, Any] = header

    @property
    def names(self) -> list[str]:
        """The encrypted members, without the manifest."""
        return [name.removesuffix(".age") for name in self._places if name not in (HEADER, f"{MANIFEST}.age")]

    def _raw(self, name: str, limit: int = 0) -> Iterator[bytes]:
        if name not in self._places:
            raise BackupError(f"{self.path}: {name} is missing in it")
        offset, left = self._places[name]
        if limit and left > limit:
            raise BackupError(f"{self.path}: {name} is too long")
        with self.path.open("rb") as stream:
            stream.seek(offset)
            while left:
                data = stream.read(min(READ_BYTES, left))
                if not data:
                    raise BackupError(f"{self.path} is cut off in {name}")
                left -= len(data)
                yield data

    def _opened(self, name: str, keys: Sequence[_age.Identity], limit: int = 0) -> Iterator[bytes]:
        source = _Stream(self._raw(f"{name}.age", limit))
        try:
            yield from _age.decrypt(io.BufferedReader(source, READ_BYTES), keys)
        except _age.AgeError as error:
            raise BackupError(f"{self.path}: {name}: {error}") from None

    def manifest(self, keys: Sequence[_age.Identity]) -> dict[str, Any]:
        """Decrypt and check the manifest.

        :raises BackupError: for a wrong key, or when it does not belong to this file.
        """
        try:
            manifest = json.loads(b"".join(self._opened(MANIFEST, keys, _LONGEST_MANIFEST)))
            listed = {member["name"]: int(member["encrypted_size"]) for member in manifest["members"]}
        except (ValueError, KeyError, TypeError):
            raise BackupError(f"{self.path}: its manifest cannot be read") from None
        if {key: manifest.get(key) for key in self.header} != self.header:
            raise BackupError(f"{self.path} was tampered with: {HEADER} says otherwise than the manifest")
        if listed != {name: self._places[f"{name}.age"][1] for name in self.names}:
            raise BackupError(f"{self.path} was tampered with: its members are not those of the manifest")
        return dict(manifest)

    def member(self, entry: Mapping[str, Any], keys: Sequence[_age.Identity]) -> Iterator[bytes]:
        """Yield the content of a member of the manifest, and compare its digest at the end.

        :raises BackupError: when it is damaged. What was yielded before may be incomplete.
        """
        digest, size = hashlib.sha256(), 0
        for data in self._opened(str(entry["name"]), keys):
            digest.update(data)
            size += len(data)
            yield data
        if (size, digest.hexdigest()) != (entry["size"], entry["sha256"]):
            raise BackupError(f"{self.path}: {entry['name']} is not what the manifest says")

    def verify(self, keys: Sequence[_age.Identity]) -> dict[str, Any]:
        """Read all of the set, down to the digest of every file in it; returns the manifest.

        :raises BackupError: for the first thing that is wrong.
        """
        manifest = self.manifest(keys)
        for entry in manifest["members"]:
            content = self.member(entry, keys)
            if entry.get("files") is None:
                for _data in content:
                    pass
                continue
            found = archive_digests(_Stream(content), f"{self.path}: {entry['name']}")
            wanted = {file["path"]: file["sha256"] for file in entry["files"] if file["sha256"]}
            if found != wanted:
                name = next(iter(sorted(set(found.items()) ^ set(wanted.items()))))[0]
                raise BackupError(f"{self.path}: {entry['name']}: {name} is not what the manifest says")
        return manifest


class _Stream(io.RawIOBase):
    """A generator of bytes as a file."""

    def __init__(self, source: Iterator[bytes]) -> None:
        super().__init__()
        self._source = source
        self._rest = b""

    def readable(self) -> bool:
        """It can."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Give the next bytes."""
        while not self._rest:
            try:
                self._rest = next(self._source)
            except StopIteration:
                return 0
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def drain(self) -> None:
        """Read to the end, so that what is checked there is."""
        for _data in self._source:
            pass


def archive_digests(stream: _Stream, where: str) -> dict[str, str]:
    """Return the SHA-256 of every file of a compressed tar.

    :raises BackupError: when it is damaged or has members that no archive of ours has.
    """
    found: dict[str, str] = {}
    try:
        with tarfile.open(fileobj=io.BufferedReader(stream, READ_BYTES), mode="r|gz") as archive:
            for entry in archive:
                parts = Path(entry.name).parts
                if entry.name.startswith("/") or ".." in parts or not (entry.isreg() or entry.isdir()):
                    raise BackupError(f"{where}: {entry.name!r} may not be in it")
                content = archive.extractfile(entry) if entry.isreg() else None
                if content:
                    digest = hashlib.sha256()
                    while data := content.read(READ_BYTES):
                        digest.update(data)
                    found[entry.name] = digest.hexdigest()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise BackupError(f"{where}: its archive is damaged ({error})") from None
    stream.drain()
    return found


def pack(files: Sequence[tuple[str, Path]], write: Callable[[bytes], None]) -> list[dict[str, Any]]:
    """Write files of this machine as a compressed tar; returns what `files` of a member says of them."""
    listed: list[dict[str, Any]] = []

    class Sink:
        """Gives tarfile something to write to."""

        def write(self, data: bytes) -> int:
            """Pass it on."""
            write(bytes(data))
            return len(data)

    with tarfile.open(fileobj=Sink(), mode="w|gz", format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
        for name, path in files:
            content = path.read_bytes()
            status = path.stat()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), status.st_mode & 0o7777, int(status.st_mtime)
            archive.addfile(entry, io.BytesIO(content))
            listed.append({"path": name, "size": len(content), "mode": entry.mode, "sha256": hashlib.sha256(content).hexdigest()})
    return listed


def inventory_files(folder: Path, leave_out: Sequence[Path]) -> list[tuple[str, Path]]:
    """Return the files of an inventory, by their names below it: vault files as they are, keys of SSH, records of releases."""
    excluded = [path.resolve() for path in leave_out]
    found = []
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = sorted(name for name in folders if name not in ("backups", "__pycache__") and (here / name).resolve() not in excluded)
        for name in sorted(names):
            path = here / name
            if path.is_file() and not path.is_symlink() and not name.endswith(SUFFIX):
                found.append((str(path.relative_to(folder)), path))
    return found


def listed(folder: Path, federation: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the federation's sets, the oldest first, and why others in the folder cannot be read."""
    known = _read_catalogue(folder)
    found, problems = [], []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            opened = BackupSet(path)
        except BackupError as error:
            problems.append(str(error))
            continue
        if opened.header.get("federation") == federation:
            entry = known.get(path.name, {})
            found.append(
                {
                    "file": str(path),
                    "id": opened.header["id"],
                    "created": opened.header.get("created", ""),
                    "cluster_id": opened.header.get("cluster_id", ""),
                    "size": path.stat().st_size,
                    "members": opened.names,
                    "missing": opened.header.get("missing", []),
                    "verified": entry.get("verified"),
                    "restored": entry.get("restored"),
                }
            )
    return found, problems


def retain(folder: Path, federation: str, keep: int) -> list[str]:
    """Remove the oldest sets of the federation until `keep` are left; returns the names of those that went."""
    sets, _problems = listed(folder, federation)
    gone = [Path(entry["file"]) for entry in sets[: max(0, len(sets) - max(keep, 1))]]
    for path in gone:
        path.unlink()
    if gone:
        _files.fsync_folder(folder)
        with _catalogue(folder) as known:
            for path in gone:
                known.pop(path.name, None)
    return [path.name for path in gone]


def note(path: Path, **entry: Any) -> None:
    """Write down in the catalogue beside a set what is known of it, such as the result of a verification."""
    with _catalogue(path.parent) as known:
        known[path.name] = {**known.get(path.name, {}), **entry}


def _read_catalogue(folder: Path) -> dict[str, Any]:
    try:
        known = json.loads((folder / CATALOGUE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


@contextlib.contextmanager
def _catalogue(folder: Path) -> Iterator[dict[str, Any]]:
    """Change the catalogue; a damaged one is begun anew, since it holds nothing that a set needs."""
    with (folder / ".catalogue.guard").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        known = _read_catalogue(folder)
        yield known
        _files.write(folder / CATALOGUE, json.dumps(known, indent=1, sort_keys=True), mode=0o600)
