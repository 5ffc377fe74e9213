# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip and mipfed: rules for `mip_backup` that a type cannot express."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def wrong(backup: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the values of `mip_backup`."""
    errors = []
    if backup["keep"] < 1:
        errors.append(f"mip_backup.keep: {backup['keep']} would keep none; use 1 or more")
    if backup["recipients"]:
        # Imported only where backups are encrypted: cryptography is slow to load.
        from ansible_collections.hbp.mip.plugins.plugin_utils._age import AgeError, Recipient

        for number, text in enumerate(backup["recipients"], 1):
            try:
                Recipient.parse(str(text))
            except AgeError as error:
                errors.append(f"mip_backup.recipients: entry {number}: {error}")
    for key in ("dir", "identity"):
        if backup[key] and not str(backup[key]).startswith(("/", "~")):
            errors.append(f"mip_backup.{key}: {backup[key]!r} is not an absolute path")
    if "\n" in backup["schedule"]:
        errors.append("mip_backup.schedule: it has more than one line")
    return errors
