# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: swarm_members
short_description: The members of the swarm that answered in this run
version_added: 0.1.0
description:
  - Joins what M(hbp.mip.swarm_member#module) returned on the nodes into the list that M(hbp.mip.swarm_nodes#module) takes.
author:
  - The hbp.mip authors (@HBPMedical)
positional: hostvars
options:
  _input:
    description: The resolved federation, as M(hbp.mip.federation) returns it.
    type: dict
    required: true
  hostvars:
    description: Variables of the hosts, with the registered C(master_swarm), C(worker_probe) and C(worker_join).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Label the nodes
  hbp.mip.swarm_nodes:
    nodes: "{{ mip | hbp.mip.swarm_members(hostvars) }}"
"""

RETURN = r"""
_value:
  description: One entry with C(name) and C(node_id) for each member.
  type: list
  elements: dict
"""


def swarm_members(federation: Mapping[str, Any], hostvars: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return name and node id of every node that told its node id in this run."""
    members = []
    for node in federation["nodes"]:
        host = hostvars[node["name"]]
        for register in ("master_swarm", "worker_join", "worker_probe"):
            node_id = (host.get(register) or {}).get("node_id")
            if node_id:
                members.append({"name": node["name"], "node_id": str(node_id)})
                break
    return members


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"swarm_members": swarm_members}
