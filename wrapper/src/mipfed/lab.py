# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab: a federation of real machines on this host, made by the playbooks hbp.mip.lab_*."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mipfed import paths
from mipfed.errors import MipfedError, Problem
from mipfed.exitcodes import ExitCode

CDES = "CDEsMetadata.json"


def variables(
    root: Path,
    name: str,
    *,
    workers: int | None = None,
    base: str | None = None,
    purge: bool | None = None,
    data: Path | None = None,
    further: Sequence[str] | None = None,
    bare: bool = False,
) -> dict[str, Any]:
    """Return the variables of the lab's playbooks; what is not given is left to the role's defaults."""
    given = {
        "lab_workers": workers,
        "lab_base": base,
        "lab_purge": purge,
        "lab_data_source": str(data) if data else None,
        "lab_bare": bare or None,
        "lab_with": list(further) if further else None,
    }
    return {
        "lab_name": name,
        "lab_inventory_dir": str(root / "inventories" / name),
        **{key: value for key, value in given.items() if value is not None},
    }


def bare_lines(folder: str, gateway: str) -> list[str]:
    """Return what has to be known of bare machines in order to make a federation of them."""
    registry = f"{gateway}:5000"
    return [
        "Nobody's key is let in on these machines. What a hospital would tell you:",
        f"  account: admin, its password: sudo cat {folder}/password",
        f"  image of the engine: {registry}/exareme-standin:1.0, of the keystore: {registry}/keystore:1.8.7",
    ]


def data_source(folder: Path) -> Path:
    """Return the absolute path of a folder of pathologies that a lab can be given as its data.

    :raises MipfedError: USAGE with everything because of which the machines would be started in vain.
    """
    folder = folder.expanduser().absolute()

    def refused(*reasons: str) -> MipfedError:
        hint = "It holds one folder for each pathology, with CDEsMetadata.json and CSV files"
        return MipfedError(ExitCode.USAGE, [Problem("usage", f"--data: {reason}", next=hint) for reason in reasons])

    try:
        inside = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except OSError as error:
        raise refused(f"{paths.shown(folder)}: {error.strerror}") from None
    wrong, pathologies = [], 0
    for entry in inside:
        try:
            held = sorted(file.name for file in entry.iterdir())
        except OSError as error:
            wrong.append(f"{paths.shown(entry)}: {error.strerror}")
            continue
        tables = [name for name in held if name.endswith(".csv")]
        if CDES not in held and not tables:
            continue
        pathologies += 1
        if not paths.PATHOLOGY.fullmatch(entry.name):
            wrong.append(f"{paths.shown(entry)}: {entry.name!r} is no name for a pathology")
        if CDES not in held:
            wrong.append(f"{paths.shown(entry)} has CSV files, but no {CDES}")
        wrong += [
            f"{paths.shown(entry / name)} is no file that can be read"
            for name in (*([CDES] if CDES in held else ()), *tables)
            if not (entry / name).is_file() or not os.access(entry / name, os.R_OK)
        ]
    if wrong or not pathologies:
        raise refused(*(wrong or [f"{paths.shown(folder)} has no folder with a {CDES}"]))
    return folder
