# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

DOCUMENTATION = r"""
name: swarm_members
short_description: The members of the swarm that answered in this run
version_added: 0.1.0
description:
  - Joins what M(hbp.mip.swarm_member#module) and M(hbp.mip.node_check#module) returned on the nodes into the list that
    M(hbp.mip.swarm_nodes#module) takes.
author:
  - The hbp.mip authors (@HBPMedical)
positional: hostvars, active
options:
  _input:
    description: The resolved federation, as M(hbp.mip.federation) returns it.
    type: dict
    required: true
  hostvars:
    description: Variables of the hosts, with the registered C(master_swarm), C(worker_probe), C(worker_join) and C(common_check).
    type: dict
    required: true
  active:
    description: Names of the hosts that still answer.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Label the nodes
  hbp.mip.swarm_nodes:
    nodes: "{{ mip | hbp.mip.swarm_members(hostvars, ansible_play_hosts) }}"
"""

RETURN = r"""
_value:
  description: One entry with C(name), C(node_id) and the C(role) that it shall have for each member.
  type: list
  elements: dict
"""


def swarm_members(federation: Mapping[str, Any], hostvars: Mapping[str, Any], active: Collection[str]) -> list[dict[str, str]]:
    """Return name and node id of every active node that told its node id in this run."""
    members = []
    for node in federation["nodes"]:
        if node["name"] not in active:
            continue
        host = hostvars[node["name"]]
        checked = (host.get("common_check") or {}).get("facts") or {}
        for found in (host.get("master_swarm"), host.get("worker_join"), host.get("worker_probe"), checked.get("swarm")):
            node_id = (found or {}).get("node_id")
            if node_id:
                members.append({"name": node["name"], "node_id": str(node_id), "role": "manager" if node["manager"] else "worker"})
                break
    return members


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"swarm_members": swarm_members}
