# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The output formats, apart from `render` so that the command line is parsed without it."""

from __future__ import annotations

from enum import StrEnum


class Output(StrEnum):
    """What `-o` takes."""

    TEXT = "text"
    JSON = "json"
    JSONL = "jsonl"
