# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`federation.lock`: all that a deploy is made from, pinned."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mipfed import paths
from mipfed.errors import configuration

FILE = "federation.lock"
SCHEMA = 1
HEAD = "# What this federation is deployed from. Written by `mipfed release lock`, compared by `mipfed release lock --check`.\n"
#: Parts of the collection that reach a node or decide what does.
_PARTS = ("galaxy.yml", "meta", "playbooks", "plugins", "roles")


def _hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree_hash(roots: Mapping[str, Path]) -> str:
    """Return one hash of all files below some folders, or of single files, by their names in `roots`; the same on every machine."""
    lines = []
    for name, root in sorted(roots.items()):
        files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
        for path in files:
            if path.suffix == ".pyc" or "__pycache__" in path.parts:
                continue
            relative = name if path == root else f"{name}/{path.relative_to(root).as_posix()}"
            lines.append(f"{_hash_of(path)}  {relative}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _own() -> dict[str, Path]:
    package = Path(__file__).resolve().parent
    roots = {f"mipfed/{path.name}": path for path in package.iterdir() if path.name not in ("collections", "__pycache__")}
    folder = paths.collections_dir()
    if folder is not None:
        roots |= {f"hbp.mip/{part}": folder / paths.COLLECTION / part for part in _PARTS if (folder / paths.COLLECTION / part).exists()}
    return roots


def _packages() -> dict[str, str]:
    """Return the packages that mipfed needs, with all that they need, as they are installed."""
    from packaging.requirements import Requirement

    found: dict[str, str] = {}
    todo = ["mipfed"]
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in found:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[name] = distribution.version
        for text in distribution.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(requirement.name)
    found.pop("mipfed", None)
    return dict(sorted(found.items()))


def _collections() -> dict[str, str]:
    """Return the collections whose modules the playbooks use, with their versions."""
    from mipfed import doctor

    found = (finding for finding in doctor._collections() if finding.state == "ok")
    return dict(sorted((finding.name.removeprefix("collection "), finding.detail.split()[0]) for finding in found))


def current(resolved: Mapping[str, Any], wheel: Path | None = None) -> dict[str, Any]:
    """Return the lock for what is installed here and what `images.lock` says."""
    images = {
        str(entry["name"]): {key: entry[key] for key in ("reference", "digest", "size") if entry.get(key)}
        for entry in resolved["images"]["entries"]
    }
    mine: dict[str, Any] = {"version": importlib.metadata.version("mipfed"), "files_sha256": tree_hash(_own())}
    if wheel is not None:
        path = wheel.expanduser()
        mine |= {"wheel": path.name, "wheel_sha256": _hash_of(path)}
    requirements = Path(__file__).resolve().parents[3] / "uv.lock"
    return {
        "schema": SCHEMA,
        "federation": resolved["name"],
        "mipfed": mine,
        "python": platform.python_version(),
        **({"uv_lock_sha256": _hash_of(requirements)} if requirements.is_file() else {}),
        "images": images,
        "collections": _collections(),
        "packages": _packages(),
    }


def read(path: Path) -> dict[str, Any]:
    """Return a lock file.

    :raises MipfedError: CONFIGURATION when it cannot be used.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise configuration(f"There is no {paths.shown(path)}.", next=f"mipfed -f {path.parent.name} release lock") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise configuration(f"{paths.shown(path)}: {error}") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise configuration(f"{paths.shown(path)}: not a lock that this version knows.")
    return document


def differences(locked: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return a sentence for everything that is not as the lock says. A wheel is compared only when one is given."""
    found = []
    for key in sorted({*locked, *here} - {"schema"}):
        before, now = locked.get(key), here.get(key)
        if isinstance(before, Mapping) or isinstance(now, Mapping):
            was: Mapping[str, Any] = before if isinstance(before, Mapping) else {}
            there: Mapping[str, Any] = now if isinstance(now, Mapping) else {}
            for name in sorted({*was, *there}):
                if key == "mipfed" and name in ("wheel", "wheel_sha256") and name not in there:
                    continue
                if was.get(name) != there.get(name):
                    found.append(f"{key}.{name}: {_shown(there.get(name))} here, {_shown(was.get(name))} in the lock")
        elif before != now and not (key == "uv_lock_sha256" and now is None):
            found.append(f"{key}: {_shown(now)} here, {_shown(before)} in the lock")
    return found


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(str(part) for part in value.values())
    return str(value) if value not in (None, "") else "nothing"


def write(path: Path, document: Mapping[str, Any]) -> bool:
    """Write a lock file; returns whether it changed."""
    text = HEAD + yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=140)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    paths.write_atomically(path, text)
    return True
