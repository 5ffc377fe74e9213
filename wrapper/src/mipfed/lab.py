# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab: a federation of real machines on this host, made by the playbooks hbp.mip.lab_*."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BASES = ("bookworm", "trixie", "bullseye")


def variables(root: Path, name: str, *, workers: int | None = None, base: str | None = None, purge: bool | None = None) -> dict[str, Any]:
    """Return the variables of the lab's playbooks; what is not given is left to the role's defaults."""
    given = {"lab_workers": workers, "lab_base": base, "lab_purge": purge}
    return {
        "lab_name": name,
        "lab_inventory_dir": str(root / "inventories" / name),
        **{key: value for key, value in given.items() if value is not None},
    }
