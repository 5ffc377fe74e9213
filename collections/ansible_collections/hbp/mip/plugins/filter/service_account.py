# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

DOCUMENTATION = r"""
name: service_account
short_description: The service account with all its public keys
version_added: 0.1.0
description:
  - Returns the account of the federation with the federation's own public key, C(ssh/id_ed25519.pub) of the inventory, before those
    that the inventory names. Without that file, as on an AWX controller, only the named ones.
author:
  - The hbp.mip authors (@HBPMedical)
positional: inventory_dir
options:
  _input:
    description: The resolved federation, as M(hbp.mip.federation) returns it.
    type: dict
    required: true
  inventory_dir:
    description: Folder of the inventory.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Show the account
  ansible.builtin.debug:
    msg: "{{ mip | hbp.mip.service_account(inventory_dir) }}"
"""

RETURN = r"""
_value:
  description: C(name), C(sudo) and C(authorized_keys).
  type: dict
"""


def service_account(federation: Mapping[str, Any], inventory_dir: str) -> dict[str, Any]:
    """Return the account with the federation's own key first."""
    own = Path(inventory_dir) / "ssh" / "id_ed25519.pub"
    keys = [own.read_text(encoding="utf-8").strip()] if own.is_file() else []
    account = federation["account"]
    return {**account, "authorized_keys": [*keys, *(key for key in account["authorized_keys"] if key not in keys)]}


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"service_account": service_account}
