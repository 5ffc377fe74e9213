# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at this machine and this installation: can it run federations? Offline; contacts nobody."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mipfed import inventory as inventories
from mipfed import paths, vault
from mipfed.errors import MipfedError, Problem

MINIMUM_FREE_MB = 500
#: Collections whose modules the playbooks use, beside our own.
NEEDED_COLLECTIONS = ("ansible.posix", "community.crypto")


@dataclass
class Finding:
    """The answer to one question: ok, warning or problem, and how to put it right."""

    name: str
    state: str
    detail: str
    fix: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the finding for JSON."""
        return {"name": self.name, "state": self.state, "detail": self.detail, "fix": self.fix}


def problems(findings: list[Finding]) -> list[Problem]:
    """Return the findings that stop work."""
    return [Problem("doctor", f"{found.name}: {found.detail}", next=found.fix) for found in findings if found.state == "problem"]


def _requirement(package: str) -> str:
    """Return the range of versions of a package that this mipfed asks for on this Python."""
    from packaging.requirements import Requirement

    for text in importlib.metadata.requires("mipfed") or []:
        requirement = Requirement(text)
        if requirement.name == package and (requirement.marker is None or requirement.marker.evaluate()):
            return str(requirement.specifier)
    return ""


def _package(name: str) -> Finding:
    from packaging.specifiers import SpecifierSet

    wanted = _requirement(name)
    fix = f"{sys.executable} -m pip install '{name}{wanted}'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "problem", "is not installed", fix)
    if not SpecifierSet(wanted).contains(version, prereleases=True):
        return Finding(name, "problem", f"{version} is not in {wanted}", fix)
    return Finding(name, "ok", f"{version} ({wanted or 'any version'})")


def _program(name: str, package: str) -> Finding:
    path = shutil.which(name, path=paths.search_path())
    if path:
        return Finding(name, "ok", path)
    return Finding(name, "problem", "is not on PATH", f"apt-get install {package}")


def _collection_version(folder: Path) -> str:
    import json

    manifest, galaxy = folder / "MANIFEST.json", folder / "galaxy.yml"
    if manifest.is_file():
        return str(json.loads(manifest.read_text(encoding="utf-8"))["collection_info"]["version"])
    match = re.search(r"^version:\s*(\S+)", galaxy.read_text(encoding="utf-8"), re.MULTILINE) if galaxy.is_file() else None
    return match.group(1) if match else "unknown version"


def collection_version() -> str:
    """Return the version of the collection hbp.mip in use, or `not found`."""
    folder = paths.collections_dir()
    return _collection_version(folder / paths.COLLECTION) if folder else "not found"


def _collections() -> Iterator[Finding]:
    ours = paths.collections_dir()
    if ours:
        yield Finding("collection hbp.mip", "ok", f"{collection_version()} in {ours}")
    else:
        yield Finding("collection hbp.mip", "problem", "is not beside mipfed", f"{sys.executable} -m pip install --force-reinstall mipfed")
    given = os.environ.get("ANSIBLE_COLLECTIONS_PATH", "~/.ansible/collections:/usr/share/ansible/collections").split(":")
    places = [ours, *(Path(place).expanduser() for place in given), *(Path(place) for place in sys.path if place)]
    for name in NEEDED_COLLECTIONS:
        folders = [place / "ansible_collections" / Path(*name.split(".")) for place in places if place]
        found = next((folder for folder in folders if folder.is_dir()), None)
        if found:
            yield Finding(f"collection {name}", "ok", f"{_collection_version(found)} in {found.parents[2]}")
        else:
            fix = f"{paths.bin_dir() / 'ansible-galaxy'} collection install {name}   (or pip install ansible)"
            yield Finding(f"collection {name}", "problem", "is not installed", fix)


def _private(path: Path, what: str) -> Finding:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        return Finding(what, "problem", f"{path}: {error.strerror}", f"Correct the path {path}")
    if mode & 0o077:
        return Finding(what, "problem", f"{paths.shown(path)} can be read by others (mode {mode:04o})", f"chmod go-rwx {path}")
    return Finding(what, "ok", f"{paths.shown(path)}, mode {mode:04o}")


def encrypted_key(path: Path) -> bool:
    """Tell whether a private key needs a passphrase."""
    done = subprocess.run(["ssh-keygen", "-y", "-P", "", "-f", str(path)], capture_output=True, text=True, check=False)
    return done.returncode != 0 and "passphrase" in done.stderr


def in_agent(path: Path) -> bool:
    """Tell whether the ssh agent holds a private key, by its public half."""
    try:
        public = path.with_name(path.name + ".pub").read_text(encoding="utf-8").split()[1]
    except (OSError, IndexError):
        return False
    done = subprocess.run(["ssh-add", "-L"], capture_output=True, text=True, check=False)
    return public in done.stdout


def _federation(root: Path, name: str) -> Iterator[Finding]:
    label = f"federation {name}"
    try:
        source = inventories.find(root, name, None)
        inventory = inventories.load(source)
        resolved = inventories.resolve(inventory)
        yield Finding(label, "ok", f"{len(resolved['nodes'])} nodes in {paths.shown(source.folder)}")
    except MipfedError as error:
        for problem in error.problems:
            yield Finding(label, "problem", problem.message, f"mipfed -f {name} config show")
        return
    if vault.is_encrypted(source.path):
        given = vault.password_file(None)
        if given and not os.access(given[0].expanduser(), os.X_OK):
            yield _private(given[0].expanduser(), f"{label}: vault password")
    keys = {str(v["ansible_ssh_private_key_file"]) for v in inventory.variables.values() if v.get("ansible_ssh_private_key_file")}
    for key in sorted(keys):
        path = Path(key).expanduser()
        what = f"{label}: ssh key"
        if not path.is_file():
            yield Finding(
                what, "warning", f"{paths.shown(path)} is not there; the first deploy makes it", f"ssh-keygen -t ed25519 -f {path}"
            )
            continue
        yield _private(path, what)
        if shutil.which("ssh-keygen") and encrypted_key(path) and not in_agent(path):
            yield Finding(what, "problem", f"{paths.shown(path)} needs a passphrase and is not in the agent", f"ssh-add {path}")


def examine(root: Path) -> list[Finding]:
    """Return everything that was looked at, in the order of a first installation."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    findings = [
        Finding("Python", "ok", f"{version} ({sys.executable})")
        if sys.version_info >= (3, 11)
        else Finding("Python", "problem", f"{version} is older than 3.11", "apt-get install python3.11")
    ]
    findings += [_package(name) for name in ("ansible-core", "ansible-runner", "docker", "typer", "rich")]
    findings += _collections()
    findings += [_program("ansible-playbook", "(part of ansible-core)")]
    findings += [_program(name, "openssh-client") for name in ("ssh", "ssh-keygen", "ssh-keyscan")]
    names = paths.federations(root)
    if (root / "inventories").is_dir():
        findings.append(Finding("project", "ok", str(root)))
    else:
        findings.append(Finding("project", "warning", f"{root} has no inventories/", "mipfed init NAME, or set MIPFED_HOME"))
    if not names:
        findings.append(Finding("federations", "warning", "none yet", "mipfed init NAME"))
    for name in names:
        findings += _federation(root, name)
    findings += _space(root)
    return findings


def _space(root: Path) -> Iterator[Finding]:
    state: Path = paths.state_dir()
    while not state.exists():
        state = state.parent
    for what, folder in (("disk for records of runs", state), ("disk of the project", root)):
        free = shutil.disk_usage(folder).free // 2**20
        good = free >= MINIMUM_FREE_MB
        fix = "" if good else f"Free space on the file system of {folder}"
        yield Finding(what, "ok" if good else "problem", f"{free} MB free in {folder}", fix)
        if not os.access(folder, os.W_OK):
            yield Finding(what, "problem", f"{folder} is not writable for you", f"chown {os.getuid()} {folder}")


def versions() -> dict[str, Any]:
    """Return the versions that a bug report needs."""
    found: dict[str, Any] = {"mipfed": importlib.metadata.version("mipfed"), "hbp.mip": collection_version()}
    for package in ("ansible-core", "ansible-runner", "typer", "rich"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    found["python"] = ".".join(str(part) for part in sys.version_info[:3])
    return found
