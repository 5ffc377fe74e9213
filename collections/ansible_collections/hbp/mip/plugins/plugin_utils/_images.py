# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip and mipfed: the images of a federation, and the file `images.lock` that pins them.

The file stands beside the inventory. It is a list, so that while an upgrade is written down the old and the new reference can both be
in it: at no moment does the inventory name an image that the file does not have.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.hbp.mip.plugins.module_utils import _registry
from ansible_collections.hbp.mip.plugins.plugin_utils import _files, _portal
from ansible_collections.hbp.mip.plugins.plugin_utils._problems import Problem, problem

FILE = "images.lock"
SCHEMA = 1
HEAD = """\
# Which image each reference of the inventory stands for. Written by `mipfed image lock`, `upgrade`, `rollback` and `image load`.
# With it every deploy runs exactly these; keep it under version control with the inventory.
"""
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
#: Keys of an entry, in the order in which they are written.
KEYS = ("name", "reference", "digest", "size", "platform", "platforms", "manifest", "id", "locked_at", "locked_from")

#: Where the inventory names each image: the variable and the key in it.
VARIABLES = {
    "engine": ("mip_engine", "image"),
    "keystore": ("mip_engine", "keystore_image"),
    "portainer": ("mip_expose", "portainer", "image"),
    **{f"portal-{component}": ("mip_ui", "images", key) for component, key in _portal.IMAGES.items()},
}


class LockError(Exception):
    """The file `images.lock` cannot be used."""


def references(federation: Mapping[str, Any]) -> dict[str, str]:
    """Return the images of a resolved federation as the inventory names them, by what they are for."""
    engine, portainer = federation["engine"], federation["expose"]["portainer"]
    found = {"engine": str(engine["image"]), "keystore": str(engine["keystore_image"])}
    if portainer["allow"]:
        found["portainer"] = str(portainer["image"])
    return {**found, **_portal.references(federation)}


def split(reference: str) -> tuple[str, str]:
    """Return a reference without its digest, and the digest or an empty text."""
    name, at, digest = reference.partition("@")
    return (name, digest) if at else (reference, "")


def parse(text: str, where: str) -> list[dict[str, Any]]:
    """Return the entries of a lock file. Raises LockError naming `where` and every entry that is wrong."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark else where
        raise LockError(f"{place}: not YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(document, Mapping) or not isinstance(document.get("images"), list):
        raise LockError(f"{where}: it has no list `images`")
    if document.get("schema") != SCHEMA:
        raise LockError(f"{where}: schema {document.get('schema')!r} is not {SCHEMA}; it was written by another version of this collection")
    wrong, entries = [], []
    for number, entry in enumerate(document["images"], 1):
        if not isinstance(entry, Mapping) or not all(isinstance(entry.get(key), str) for key in ("name", "reference", "digest")):
            wrong.append(f"images[{number}]: name, reference and digest are needed")
        elif not DIGEST.fullmatch(entry["digest"]):
            wrong.append(f"images[{number}]: {entry['digest']!r} is no sha256 digest")
        else:
            entries.append(dict(entry))
    if wrong:
        raise LockError(f"{where}: {'; '.join(wrong)}")
    return entries


def read(folder: Path) -> list[dict[str, Any]] | None:
    """Return the entries of the lock file in a folder, or None when there is none. Raises LockError."""
    path = folder / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise LockError(f"{path}: {error}") from None
    return parse(text, str(path))


def plain(value: Any) -> Any:
    """Return a value without what Ansible's variables carry beside their content, which YAML cannot write."""
    return json.loads(json.dumps(value, default=str))


def text_of(entries: Iterable[Mapping[str, Any]]) -> str:
    """Return the lock file for these entries."""
    kept = [{key: entry[key] for key in KEYS if entry.get(key) not in (None, "", [])} for entry in entries]
    body = yaml.safe_dump({"schema": SCHEMA, "images": plain(kept)}, sort_keys=False, allow_unicode=True, width=140)
    return HEAD + body


def write(path: Path, text: str) -> bool:
    """Write a file so that a reader sees the old or the new one. Returns whether it changed."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if path.read_text(encoding="utf-8") == text:
            return False
    path.parent.mkdir(parents=True, exist_ok=True)
    _files.write(path, text)
    return True


def with_lock(federation: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the federation with what the lock file beside its inventory says. Raises LockError."""
    entries = read(folder)
    return {**federation, "images": {"file": str(folder / FILE), "locked": entries is not None, "entries": entries or []}}


def entry_of(federation: Mapping[str, Any], reference: str) -> Mapping[str, Any] | None:
    """Return the entry of the lock for exactly this reference."""
    found: Sequence[Mapping[str, Any]] = (federation.get("images") or {}).get("entries") or ()
    return next((entry for entry in found if entry["reference"] == reference), None)


def image_for(federation: Mapping[str, Any], node: Mapping[str, Any], reference: str) -> str:
    """Return what the specification of a service on a node names."""
    entry = entry_of(federation, reference)
    if entry is None:
        return reference
    if node.get("image_source") == "loaded":
        return _registry.loaded_name(str(entry["reference"]), str(entry["digest"]))
    return reference if "@" in reference else f"{reference}@{entry['digest']}"


def judge(federation: Mapping[str, Any]) -> tuple[list[Problem], list[Problem]]:
    """Compare inventory and lock; return problems, because of which nothing may be deployed, and warnings."""
    images = federation.get("images")
    if not images:
        return [], []
    call, problems = f"mipfed -f {federation['name']}", []
    for name, reference in references(federation).items():
        if not images["locked"] or entry_of(federation, reference):
            continue
        others = [entry["reference"] for entry in images["entries"] if entry["name"] == name]
        problems.append(
            problem(
                "pusher",
                "images-lock-stale",
                f"{images['file']} locks {' and '.join(others) or 'nothing'} as {name}, and {'.'.join(VARIABLES[name])} is {reference}",
                f"{call} upgrade --set {name}={reference}   (or, to take it as it is: {call} image lock)",
            )
        )
    loaded = [node["name"] for node in federation["nodes"] if node.get("image_source") == "loaded" and node["kind"] != "ui"]
    if loaded and not images["locked"]:
        problems.append(
            problem(
                ", ".join(loaded),
                "images-unlocked",
                f"mip_image_source is loaded, and there is no {images['file']} that says which images",
                f"{call} image load BUNDLE",
            )
        )
    if images["locked"] or loaded:
        return problems, []
    return problems, [
        problem(
            "pusher",
            "images-unlocked",
            f"there is no {images['file']}: a tag may mean another image tomorrow",
            f"{call} image lock",
        )
    ]


def with_images(federation: Mapping[str, Any], target: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the federation as it will be when it runs other images.

    :arg target: entries of a lock by what the image is for.
    """
    engine, expose, portal = dict(federation["engine"]), dict(federation["expose"]), {}
    for name, entry in target.items():
        if name == "portainer":
            expose = {**expose, "portainer": {**expose["portainer"], "image": entry["reference"]}}
        elif VARIABLES[name][0] == "mip_ui":
            portal[VARIABLES[name][2]] = entry["reference"]
        else:
            engine[VARIABLES[name][1]] = entry["reference"]
    images = federation.get("images") or {"file": "", "locked": False, "entries": []}
    given = {entry["reference"] for entry in target.values()}
    entries = [entry for entry in images["entries"] if entry["reference"] not in given] + [dict(entry) for entry in target.values()]
    if portal:
        federation = {**federation, "ui": {**federation["ui"], "images": {**federation["ui"]["images"], **portal}}}
    return {**federation, "engine": engine, "expose": expose, "images": {**images, "locked": True, "entries": entries}}
