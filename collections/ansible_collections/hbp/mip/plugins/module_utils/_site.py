# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hospital's own command on a host: what is installed of it, and whether the hospital has paused."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ansible_collections.hbp.mip.plugins.module_utils import _site_kits

COMMAND = "/usr/local/sbin/mip-site"
CONFIG = "/etc/mip/site.json"
#: Is there while it is paused, also when a reboot comes in between.
PAUSE = "/etc/mip/pause.nft"
STATE = "/var/lib/mip/pause.json"


def _hash(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            return hashlib.sha256(stream.read()).hexdigest()
    except OSError:
        return ""


def facts() -> dict[str, Any]:
    """What node_check tells: hashes of command and configuration, the pause, and whether a kit is over its time on this manager."""
    paused = bool(_hash(PAUSE))
    said: dict[str, Any] = {}
    if paused:
        try:
            with open(STATE, encoding="utf-8") as stream:
                found = json.load(stream)
            said = found if isinstance(found, dict) else {}
        except (OSError, ValueError):
            said = {}
    return {
        "command_sha256": _hash(COMMAND),
        "config_sha256": _hash(CONFIG),
        "paused": paused,
        "paused_since": str(said.get("since") or ""),
        "paused_reason": str(said.get("reason") or ""),
        "kit_overdue": _site_kits.overdue(),
    }
