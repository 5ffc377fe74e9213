# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip and mipfed: what a federation ran, release by release, and where its inventory names its images.

Records are files beside the inventory, `state/releases/<number>.yml`. They hold no secrets.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.hbp.mip.plugins.plugin_utils import _images

FOLDER = Path("state") / "releases"
SCHEMA = 1
_NUMBER = re.compile(r"([1-9][0-9]*)\.yml")
_VAULT = b"$ANSIBLE_VAULT;"


class ReleaseError(Exception):
    """A release cannot be read or written down: says what, where and why."""


# --- records -------------------------------------------------------------------------------------------------------------------------


def numbers(inventory: Path) -> list[int]:
    """Return the numbers of the releases, the oldest first."""
    try:
        names = [entry.name for entry in (inventory / FOLDER).iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ReleaseError(f"{inventory / FOLDER}: {error.strerror}") from None
    return sorted(int(found.group(1)) for name in names if (found := _NUMBER.fullmatch(name)))


def load(inventory: Path, number: int) -> dict[str, Any]:
    """Return a release. Raises ReleaseError when there is none of this number, or it cannot be read."""
    path = inventory / FOLDER / f"{number}.yml"
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(str(entry) for entry in numbers(inventory)) or "none"
        raise ReleaseError(f"there is no release {number}; there are: {known}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ReleaseError(f"{path}: {error}") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or not isinstance(document.get("images"), dict):
        raise ReleaseError(f"{path}: not a release that this version knows")
    return document


def content(record: Mapping[str, Any]) -> Any:
    """Return what makes two releases the same: images and specifications, and nothing about when and by whom."""
    images = {name: [entry.get("reference"), entry.get("digest")] for name, entry in (record.get("images") or {}).items()}
    services = {name: entry.get("spec_sha256") for name, entry in (record.get("services") or {}).items()}
    return [images, services]


def told(last: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Does a release tell all that runs? A node that was removed leaves the others running what they ran, which is no new release."""
    (images, services), (now, running) = content(last), content(record)
    return bool(images == now and running.items() <= services.items())


def new(
    federation: Mapping[str, Any], inventory: Path, services: Sequence[Mapping[str, Any]], verb: str, came_from: int = 0
) -> dict[str, Any]:
    """Return the record of what now runs.

    :arg services: the results of M(hbp.mip.swarm_services) for all services.
    :arg verb: what made it: deploy, upgrade or rollback.
    :arg came_from: the release that a rollback went to.
    """
    aside = {node["name"] for node in federation.get("disabled", ())}
    stopped = {str(entry["name"]) for entry in services if entry.get("stopped_since") or entry.get("node") in aside}
    known = {
        str(entry["name"]): {"node": entry.get("node", ""), "image": entry.get("image", ""), "spec_sha256": entry.get("spec_sha256", "")}
        for entry in services
        if entry.get("action") != "removed"
    }
    return {
        "schema": SCHEMA,
        "federation": federation["name"],
        "made_by": verb,
        **({"of_release": came_from} if came_from else {}),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "who": f"{os.environ.get('SUDO_USER') or getpass.getuser()}@{platform.node()}",
        "collection": collection_version(),
        "commit": commit(inventory),
        "images": images_of(federation, known),
        # What is stopped on purpose runs nothing, and its specification says so.
        "services": {name: entry for name, entry in known.items() if name not in stopped},
    }


def images_of(federation: Mapping[str, Any], running: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the entry of every image of the federation; without a lock, with the digest that the swarm found for its tag."""
    found = {}
    for name, reference in _images.references(federation).items():
        entry = dict(_images.entry_of(federation, reference) or {"name": name, "reference": reference})
        if not entry.get("digest"):
            bare = _images.split(reference)[0]
            known = {_images.split(str(service["image"])) for service in running.values()}
            digests = sorted({digest for tagged, digest in known if tagged == bare and digest})
            entry["digest"] = digests[0] if len(digests) == 1 else _images.split(reference)[1]
        found[name] = {key: entry[key] for key in _images.KEYS if entry.get(key) and key not in ("locked_at", "locked_from", "name")}
    return found


def write(inventory: Path, record: Mapping[str, Any]) -> tuple[int, bool]:
    """Write a release down unless the last one tells it. Returns its number, and whether it is new. Raises ReleaseError."""
    known = numbers(inventory)
    if known:
        try:
            if told(load(inventory, known[-1]), record):
                return known[-1], False
        except ReleaseError:
            pass  # what cannot be read is no reason not to write the next one
    number = (known[-1] if known else 0) + 1
    text = yaml.safe_dump(_images.plain({**record, "release": number}), sort_keys=False, allow_unicode=True, width=140)
    try:
        _images.write(inventory / FOLDER / f"{number}.yml", text)
    except OSError as error:
        raise ReleaseError(f"{inventory / FOLDER}: {error.strerror}") from None
    return number, True


def before(inventory: Path) -> int:
    """Return the newest release that ran other images than the last one; 0 when there is none."""
    known = numbers(inventory)
    if not known:
        return 0
    last = content(load(inventory, known[-1]))[0]
    for number in reversed(known[:-1]):
        try:
            if content(load(inventory, number))[0] != last:
                return number
        except ReleaseError:
            continue
    return 0


def collection_version() -> str:
    """Return the version of this collection."""
    root = Path(__file__).parents[2]
    try:
        if (root / "galaxy.yml").is_file():
            return str(yaml.safe_load((root / "galaxy.yml").read_text(encoding="utf-8"))["version"])
        return str(json.loads((root / "MANIFEST.json").read_text(encoding="utf-8"))["collection_info"]["version"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return ""


def commit(folder: Path) -> str:
    """Return the git commit that a folder is at, with `+` when something of the folder differs from it; empty without git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    try:
        if not git("ls-files", "--", "."):
            return ""  # an inventory that is not under version control has no commit
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


# --- the inventory's variables -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a file of the inventory names an image: the span of the value in its text."""

    path: Path
    line: int
    start: int
    end: int
    value: str
    style: str | None


def _files(inventory: Path) -> list[Path]:
    """Return the files that can hold the federation's variables."""
    found = [path for name in ("hosts.yml", "hosts.yaml") if (path := inventory / name).is_file()]
    folder = inventory / "group_vars"
    if folder.is_dir():
        found += sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in (".yml", ".yaml", ".json", ""))
    return found


def _child(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if isinstance(name, yaml.ScalarNode) and name.value == key), None)


def _holders(node: yaml.Node | None, key: str) -> list[yaml.Node]:
    """Return the values of a variable anywhere in a document: at its top, or below `vars` of an inventory's groups."""
    if not isinstance(node, yaml.MappingNode):
        return []
    found = []
    for name, value in node.value:
        if isinstance(name, yaml.ScalarNode) and name.value == key:
            found.append(value)
        else:
            found += _holders(value, key)
    return found


def places(inventory: Path, name: str) -> list[Place]:
    """Return every place that names an image. Raises ReleaseError for a file that cannot be read."""
    variable, *inner = _images.VARIABLES[name]
    found = []
    for path in _files(inventory):
        try:
            data = path.read_bytes()
            if data.startswith(_VAULT):
                continue
            text = data.decode("utf-8")
            document = yaml.compose(text, Loader=yaml.SafeLoader)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ReleaseError(f"{path}: {error}") from None
        for node in _holders(document, variable):
            scalar: yaml.Node | None = node
            for key in inner:
                scalar = _child(scalar, key)
            if isinstance(scalar, yaml.ScalarNode):
                mark = scalar.start_mark
                found.append(Place(path, mark.line + 1, mark.index, scalar.end_mark.index, str(scalar.value), scalar.style))
    return found


def place(inventory: Path, name: str, current: str) -> Place:
    """Return the one place where the inventory names an image.

    :arg current: what the resolved federation says. Raises ReleaseError when the place cannot be edited.
    """
    key = ".".join(_images.VARIABLES[name])
    found = places(inventory, name)
    where = ", ".join(f"{entry.path}:{entry.line}" for entry in found)
    if not found:
        raise ReleaseError(f"{key}: no file of {inventory} sets it in a way that can be edited; write it into group_vars/all/main.yml")
    if len(found) > 1:
        raise ReleaseError(f"{key}: it is set more than once ({where}); leave one of them")
    if "{{" in found[0].value or found[0].style in ("|", ">"):
        raise ReleaseError(f"{key}: {where} sets it by a template; write the image itself there")
    if found[0].value != current:
        raise ReleaseError(f"{key}: {where} says {found[0].value}, and what applies is {current}; remove what overrides it")
    return found[0]


def edit(inventory: Path, changes: Mapping[str, str]) -> bool:
    """Name other images in the inventory; everything else in its files, comments too, stays as it is. Returns whether a file changed."""
    changed = False
    for name, reference in changes.items():
        found = places(inventory, name)
        if len(found) != 1:
            raise ReleaseError(f"{'.'.join(_images.VARIABLES[name])}: the inventory was changed meanwhile; set it to {reference} yourself")
        spot = found[0]
        if spot.value == reference:
            continue
        text = spot.path.read_bytes().decode("utf-8")
        quote = spot.style or ""
        changed |= _images.write(spot.path, f"{text[: spot.start]}{quote}{reference}{quote}{text[spot.end :]}")
    return changed
