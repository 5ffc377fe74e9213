# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: held_data
short_description: What the nodes of a federation hold
version_added: 0.2.0
description:
  - Collects what M(hbp.mip.dataset_info) found on the master and the workers, for M(hbp.mip.cde_consolidate).
author:
  - The hbp.mip authors (@HBPMedical)
positional: hostvars
options:
  _input:
    description: The resolved federation, as M(hbp.mip.federation) returns it.
    type: dict
    required: true
  hostvars:
    description: The variables of all hosts, with the results of the role P(hbp.mip.data#role).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: See which pathologies there are
  ansible.builtin.debug:
    msg: "{{ (mip | hbp.mip.held_data(hostvars)).pathologies }}"
"""

RETURN = r"""
_value:
  description:
    - C(master) with its name, state, pathologies and problems; C(nodes), the same of each worker by its name; C(pathologies), the
      names that any of them has.
    - The state is V(present), or V(away) for a node that did not answer.
  type: dict
"""


def _node(host: Mapping[str, Any]) -> dict[str, Any]:
    held = host.get("data_held") or {}
    answered = "pathologies" in held
    return {
        "state": "present" if answered else "away",
        "pathologies": held["pathologies"] if answered else {},
        "problems": held["problems"] if answered else [],
    }


def held_data(federation: Mapping[str, Any], hostvars: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the master and each worker hold; a node that did not answer is away."""
    found = {node["name"]: _node(hostvars[node["name"]]) for node in federation["nodes"] if node["kind"] != "ui"}
    master = next(node["name"] for node in federation["nodes"] if node["kind"] == "master")
    names = sorted({name for node in found.values() for name in node["pathologies"]})
    return {"master": {"name": master, **found.pop(master)}, "nodes": found, "pathologies": names}


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"held_data": held_data}
