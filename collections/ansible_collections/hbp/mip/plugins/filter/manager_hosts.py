# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: manager_hosts
short_description: The managers of the swarm that answered in this run
version_added: 0.3.0
description:
  - Returns the hosts on which tasks for the swarm can run, the best first. The swarm is the same seen from each of them.
  - The master comes first, because data and lock are there; then the further managers in the order of the inventory.
author:
  - The hbp.mip authors (@HBPMedical)
positional: hostvars
options:
  _input:
    description: The resolved federation, as M(hbp.mip.federation) returns it.
    type: dict
    required: true
  hostvars:
    description:
      - Variables of the hosts, with C(managers_seen), a result of M(hbp.mip.swarm_info#module), or C(common_check), one of
        M(hbp.mip.node_check#module), or C(master_swarm), one of M(hbp.mip.swarm_member#module).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show where tasks for the swarm can run
  ansible.builtin.debug:
    msg: "{{ mip | hbp.mip.manager_hosts(hostvars) }}"
"""

RETURN = r"""
_value:
  description: Names of hosts. Empty when none of the managers answered, or none of them works.
  type: list
  elements: str
"""


def manager_state(host: Mapping[str, Any]) -> str:
    """Return what a host is in the swarm by the newest that it told in this run; empty when it told nothing."""
    for name in ("managers_seen", "master_swarm"):
        found = host.get(name)
        if isinstance(found, Mapping) and found.get("local_state"):
            return str(found["local_state"])
    checked = host.get("common_check")
    swarm = (checked.get("facts") or {}).get("swarm") if isinstance(checked, Mapping) else None
    return str((swarm or {}).get("state") or "")


def manager_hosts(federation: Mapping[str, Any], hostvars: Mapping[str, Any]) -> list[str]:
    """Return the names of the managers that work, the master first."""
    found = []
    for node in sorted(federation["nodes"], key=lambda node: node["kind"] != "master"):
        if node.get("manager") and manager_state(hostvars[node["name"]]) == "manager":
            found.append(str(node["name"]))
    return found


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"manager_hosts": manager_hosts}
