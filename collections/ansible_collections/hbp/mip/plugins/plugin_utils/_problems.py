# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: what every report says problems with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Report = dict[str, Any]
Problem = dict[str, str]


def problem(node: str, code: str, message: str, fix: str) -> Problem:
    """Return a problem: its node, a stable code, what is wrong, and the next thing to do."""
    return {"node": node, "code": code, "message": message, "fix": fix}


def sentence(entry: Mapping[str, str]) -> str:
    """Return a problem as one line of text."""
    return f"  - {entry['node']}: {entry['message']} [{entry['code']}]" + (f"\n    {entry['fix']}" if entry.get("fix") else "")
