# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: outdated_files
short_description: The files that a node does not have as they should be
version_added: 0.2.0
description:
  - Compares what M(hbp.mip.cde_consolidate) worked out with what M(hbp.mip.dataset_info) found on a node, for M(hbp.mip.data_files).
author:
  - The hbp.mip authors (@HBPMedical)
positional: node, held, portal
options:
  _input:
    description: The result of M(hbp.mip.cde_consolidate).
    type: dict
    required: true
  node:
    description: Name of the node.
    type: str
    required: true
  held:
    description: On the master and a worker, what M(hbp.mip.dataset_info) found there.
    type: dict
    required: true
  portal:
    description: On the ui node, what M(ansible.builtin.stat) found of the portal's list of pathologies.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Hand out the CDEs
  hbp.mip.data_files:
    root: "{{ mip.data_dir }}"
    files: "{{ plan | hbp.mip.outdated_files(inventory_hostname, held, {}) }}"
"""

RETURN = r"""
_value:
  description: Files as M(hbp.mip.data_files#module) takes them.
  type: list
  elements: dict
"""

CDES = "CDEsMetadata.json"
PORTAL = "pathologies.json"


def outdated_files(consolidated: Mapping[str, Any], node: str, held: Mapping[str, Any], portal: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the files that a node lacks or has in another version; none where nothing was worked out."""
    if "targets" not in consolidated:
        return []
    if "stat" in portal:
        wanted = consolidated["portal"]
        return [] if portal["stat"].get("checksum") == wanted["sha256"] else [{"path": PORTAL, **wanted}]
    found = held.get("pathologies", {})
    files = []
    for pathology in consolidated["targets"].get(node, ()):
        wanted = consolidated["contents"][pathology]
        if found.get(pathology, {}).get("cdes", {}).get("sha256") != wanted["sha256"]:
            files.append({"path": f"{pathology}/{CDES}", "content": wanted["content"], "sha256": wanted["sha256"]})
    return files


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"outdated_files": outdated_files}
