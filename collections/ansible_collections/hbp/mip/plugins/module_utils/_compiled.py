# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a compiled pathology was compiled from: the manifest beside its database, and whether that still holds.

The manifest names files and hashes; it holds no counts and nothing of the files' content.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from typing import Any

#: Raised whenever the same input gives another database; every database of an older compiler is then stale.
COMPILER = "1"
DATABASE = "datasets.db"
MANIFEST = "datasets.db.json"
ERRORS = "datasets.db.errors.txt"
CDES = "CDEsMetadata.json"

_SCHEMA = 1
_LARGEST = 16 << 20


def database_mark(path: str) -> dict[str, int] | None:
    """Size in bytes and time of the last change (ns) of a database that is a plain file, else None."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns} if stat.S_ISREG(found.st_mode) else None


def manifest_content(
    cdes_sha256: str,
    files: Mapping[str, str],
    policy: str,
    metadata_only: bool,
    database: Mapping[str, int],
    rows: int | str | None = None,
) -> bytes:
    """The manifest of a database, as it is written: files by name with their sha256 (hex), its mark, its number of rows as it is told."""
    manifest = {
        "schema": _SCHEMA,
        "compiler": COMPILER,
        "policy": policy,
        "metadata_only": metadata_only,
        "cdes": cdes_sha256,
        "files": dict(sorted(files.items())),
        "database": {"size": database["size"], "mtime_ns": database["mtime_ns"]},
        "rows": rows,
    }
    return (json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8", "surrogateescape")


def read_manifest(folder: str) -> dict[str, Any] | None:
    """The manifest in a pathology's folder; None when there is none, or none that can be understood. Links are not followed."""
    try:
        descriptor = os.open(os.path.join(folder, MANIFEST), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return None
            content = stream.read(_LARGEST + 1)
        manifest = json.loads(content.decode("utf-8", "surrogateescape"))
    except (OSError, ValueError, RecursionError):
        return None
    return manifest if len(content) <= _LARGEST and _understood(manifest) else None


def state(
    folder: str,
    cdes_sha256: str,
    files: Mapping[str, str],
    policy: str | None = None,
    metadata_only: bool = False,
) -> tuple[str, list[str]]:
    """Whether a pathology's database was compiled from just these files, and what differs.

    `cdes_sha256` is the sha256 (hex) of CDEsMetadata.json, `files` that of each CSV file by its name; with `metadata_only` the
    CSV files do not count. `policy` None leaves the policy out of the comparison. The state is `compiled`, `stale`, `missing` (no
    database) or `unknown` (a database, but nothing that says what it was made from).
    """
    mark = database_mark(os.path.join(folder, DATABASE))
    if mark is None:
        there = os.path.lexists(os.path.join(folder, DATABASE))
        return ("unknown", ["%s is not a plain file" % DATABASE]) if there else ("missing", ["there is no %s" % DATABASE])
    manifest = read_manifest(folder)
    if manifest is None:
        return "unknown", ["%s does not say what %s was compiled from" % (MANIFEST, DATABASE)]
    reasons = []
    if manifest["compiler"] != COMPILER:
        reasons.append("another compiler (%s, now %s)" % (manifest["compiler"], COMPILER))
    if policy is not None and manifest["policy"] != policy:
        reasons.append("another policy (%s, now %s)" % (manifest["policy"], policy))
    if manifest["metadata_only"] != metadata_only:
        reasons.append("it has no rows" if manifest["metadata_only"] else "it has rows where only metadata belong")
    if manifest["cdes"] != cdes_sha256:
        reasons.append("%s was changed" % CDES)
    if not metadata_only and not manifest["metadata_only"]:
        known = manifest["files"]
        for name in sorted(set(known) | set(files)):
            if name not in known:
                reasons.append("%s is new" % name)
            elif name not in files:
                reasons.append("%s is gone" % name)
            elif known[name] != files[name]:
                reasons.append("%s was changed" % name)
    if manifest["database"] != mark:
        reasons.append("%s was changed after it was compiled" % DATABASE)
    return ("stale", reasons) if reasons else ("compiled", [])


def newest(data_dir: str) -> float:
    """When the databases of a data folder changed last, in seconds since 1970; 0 when there is none.

    The folder's own time counts as well: it changes when a pathology is taken away.
    """
    times = []
    try:
        names = os.listdir(data_dir)
        for name in names:
            mark = database_mark(os.path.join(data_dir, name, DATABASE))
            if mark is not None:
                times.append(mark["mtime_ns"] / 1e9)
        return max([*times, os.stat(data_dir).st_mtime]) if times else 0.0
    except OSError:
        return max(times, default=0.0)


def _understood(manifest: Any) -> bool:
    """Whether this is a manifest of the schema that this version writes."""
    if not isinstance(manifest, dict) or manifest.get("schema") != _SCHEMA or isinstance(manifest.get("schema"), bool):
        return False
    files, database = manifest.get("files"), manifest.get("database")
    return (
        all(isinstance(manifest.get(key), str) for key in ("compiler", "policy", "cdes"))
        and isinstance(manifest.get("metadata_only"), bool)
        and isinstance(files, dict)
        and all(isinstance(value, str) for value in files.values())
        and isinstance(database, dict)
        and all(isinstance(database.get(key), int) for key in ("size", "mtime_ns"))
    )
