# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where things are: the project, its federations, the collection, the records of runs."""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

from mipfed.errors import MipfedError
from mipfed.exitcodes import ExitCode

COLLECTION = Path("ansible_collections/hbp/mip")
#: What a pathology's folder, and so the pathology, may be called.
PATHOLOGY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
#: Names of the main inventory file, in the order in which they are looked for.
HOSTS_FILES = ("hosts.yml", "hosts.yaml", "hosts.ini", "hosts")


def project_root() -> Path:
    """Return the project: the nearest folder upwards that has `inventories/`, else MIPFED_HOME, else the current one."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "inventories").is_dir():
            return folder
    home = os.environ.get("MIPFED_HOME")
    return Path(home).expanduser().resolve() if home else here


def federations(root: Path) -> list[str]:
    """Return the names of the federations of a project, sorted."""
    try:
        entries = sorted((root / "inventories").iterdir())
    except OSError:
        return []
    return [entry.name for entry in entries if not entry.name.startswith(".") and hosts_file(entry)]


def hosts_file(inventory: Path) -> Path | None:
    """Return the main file of an inventory directory, or nothing when it has none."""
    return next((inventory / name for name in HOSTS_FILES if (inventory / name).is_file()), None)


def collections_dir() -> Path | None:
    """Return the folder with `ansible_collections/hbp/mip`.

    MIPFED_COLLECTIONS when set, the checkout's `collections/` when mipfed runs from a checkout, else the copy in the
    installed package. Nothing when the installation is broken.
    """
    package = Path(__file__).resolve().parent
    given = os.environ.get("MIPFED_COLLECTIONS")
    candidates = [Path(given).expanduser().resolve()] if given else [package.parents[2] / "collections", package / "collections"]
    return next((folder for folder in candidates if (folder / COLLECTION / "galaxy.yml").is_file()), None)


def collection_module(name: str) -> Any:
    """Import a module of the collection, such as `module_utils._host_keys`.

    :raises MipfedError: INTERNAL when the collection is not there.
    """
    folder = collections_dir()
    if folder is None:
        raise MipfedError(ExitCode.INTERNAL, "The collection hbp.mip is not beside mipfed.", next="mipfed doctor")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return importlib.import_module(f"ansible_collections.hbp.mip.plugins.{name}")


def state_dir() -> Path:
    """Return the folder for the records of runs, by the XDG base directory rules."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "mipfed"


def bin_dir() -> Path:
    """Return the folder of the programs installed beside this Python (ansible-playbook among them)."""
    return Path(sys.executable).parent


def search_path() -> str:
    """Return PATH with the folder of this installation's programs first."""
    return os.pathsep.join([str(bin_dir()), *(p for p in os.environ.get("PATH", os.defpath).split(os.pathsep) if p != str(bin_dir()))])


def shown(path: Path) -> str:
    """Return a path as short as a reader in the current folder can use it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new one, also after a crash. Keeps its mode; follows a link.

    :raises MipfedError: FAILED when it cannot be written.
    """
    try:
        collection_module("plugin_utils._files").write(path, text)
    except OSError as error:
        raise MipfedError(ExitCode.FAILED, f"{shown(path)} cannot be written: {error.strerror}") from None
