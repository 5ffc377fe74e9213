# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

DOCUMENTATION = r"""
name: revived_nodes
short_description: Nodes that a restored swarm has and the federation has not
version_added: 0.3.0
description:
  - A restored swarm knows the nodes of the time of its backup. Those that were removed or replaced since are back in its list.
author:
  - The hbp.mip authors (@HBPMedical)
positional: nodes, replaced
options:
  _input:
    description: The resolved federation, as M(hbp.mip.federation) returns it.
    type: dict
    required: true
  nodes:
    description: The nodes of the swarm, as M(hbp.mip.swarm_info#module) returns them.
    type: list
    elements: dict
    required: true
  replaced:
    description: Names of nodes that are to join anew; what the swarm has of them is removed, once it is down.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Remove the nodes that came back with the backup
  hbp.mip.swarm_nodes:
    nodes: "{{ (mip | hbp.mip.revived_nodes(swarm.nodes)).remove }}"
"""

RETURN = r"""
_value:
  description:
    - C(remove), entries for M(hbp.mip.swarm_nodes#module), of nodes that are down and not wanted; C(demote), those of them that were
      managers, to be demoted before.
    - C(unknown), names of nodes that work and are not in the inventory. They are for a person to decide.
    - C(away), nodes of the inventory that are not ready.
  type: dict
"""


def _said(node: Mapping[str, Any]) -> str:
    return f"{node['name'] or node['hostname']} ({node['id']}, {node['address']})"


def revived_nodes(
    federation: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]], replaced: Collection[str] = ()
) -> dict[str, list[Any]]:
    """Return what is to be done with the nodes of a restored swarm."""
    kits = [node for node in federation.get("kits", ()) if node["site_kit"] == "member"]
    wanted = {node["name"] for node in (*federation["nodes"], *federation.get("disabled", ()), *kits) if node["kind"] != "ui"}
    members = {node["name"]: node["manager"] for node in federation["nodes"] if node["kind"] != "ui"}
    ready = {node["name"] for node in nodes if node["status"] == "ready"}
    gone, unknown = [], []
    for node in nodes:
        stranger = node["name"] not in wanted
        twin = node["name"] in ready and node["status"] != "ready"
        if node["status"] == "ready":
            if stranger:
                unknown.append(_said(node))
        elif stranger or twin or node["name"] in replaced:
            gone.append(node)
    return {
        "demote": [{"node_id": node["id"], "role": "worker"} for node in gone if node["role"] == "manager"],
        "remove": [{"node_id": node["id"], "state": "absent"} for node in gone],
        "removed": [_said(node) for node in gone],
        "unknown": unknown,
        "away": sorted(name for name in members if name not in ready),
    }


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"revived_nodes": revived_nodes}
