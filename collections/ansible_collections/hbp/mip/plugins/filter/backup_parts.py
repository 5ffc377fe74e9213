# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: backup_parts
short_description: What one host contributes to a backup
version_added: 0.3.0
description:
  - Turns what the tasks of a backup returned on a host into the parts that M(hbp.mip.backup_part#module) brings into the set.
author:
  - The hbp.mip authors (@HBPMedical)
positional: name
options:
  _input:
    description: Variables of the host, with the registered C(backup_keystore), C(backup_cdes), C(backup_configuration), C(backup_data),
      C(backup_portal) and C(backup_state).
    type: dict
    required: true
  name:
    description: Name of the host.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Bring it into the backup
  hbp.mip.backup_part:
    name: "{{ item.name }}"
  loop: "{{ hostvars[inventory_hostname] | hbp.mip.backup_parts(inventory_hostname) }}"
"""

RETURN = r"""
_value:
  description: Entries with C(name), C(kind), C(path), C(size), C(sha256) and C(files).
  type: list
  elements: dict
"""


def _part(name: str, kind: str, found: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "kind": kind, "files": found.get("files"), **{key: found[key] for key in ("path", "size", "sha256")}}


def backup_parts(variables: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the parts that were copied on a host."""
    parts = []
    for found in (variables.get("backup_keystore") or {}).get("files") or ():
        parts.append(_part(str(found["path"]).rpartition("/")[2], "keystore", found))
    for kind, file in (("cdes", "cdes"), ("configuration", "configuration"), ("data", f"data-{name}")):
        archive = (variables.get(f"backup_{kind}") or {}).get("archive")
        if archive:
            parts.append(_part(f"{file}.tar.gz", kind, archive))
    portal = (variables.get("backup_portal") or {}).get("archive")
    if portal:
        parts.append(_part("portal.dump", "portal", portal))
    state = variables.get("backup_state") or {}
    if state.get("archive"):
        parts.append(_part("swarm.tar.gz", "swarm", state["archive"]))
    if state.get("unlock_key"):
        parts.append(_part("swarm-unlock-key.txt", "unlock-key", state["unlock_key"]))
    return parts


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"backup_parts": backup_parts}
