# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: the swarm that the controller remembers, C(state/swarm.json) of an inventory."""

from __future__ import annotations

import json
from pathlib import Path


def read(path: Path) -> dict[str, str]:
    """Return what is remembered; a file that cannot be read counts as none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    known = found if isinstance(found, dict) else {}
    return {key: str(known.get(key) or "") for key in ("cluster_id", "recorded_at")}
