# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.hbp.mip.plugins.plugin_utils import _links

DOCUMENTATION = r"""
name: link_targets
short_description: Whom a node sends to when the links are measured
version_added: 0.2.0
description:
  - Returns the targets of a node for M(hbp.mip.link_probe), after all nodes listen and it is known which ports other programs have.
author:
  - The hbp.mip authors (@HBPMedical)
positional: node, hostvars
options:
  _input:
    description: What P(hbp.mip.link_plan#filter) returned.
    type: dict
    required: true
  node:
    description: The node that sends.
    type: str
    required: true
  hostvars:
    description: The variables of all hosts, with what the listening task registered as C(links_listened).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Send
  hbp.mip.link_probe:
    mode: send
    run: "{{ links.run }}"
    node: "{{ inventory_hostname }}"
    address: "{{ links.send[inventory_hostname].address }}"
    targets: "{{ links | hbp.mip.link_targets(inventory_hostname, hostvars) }}"
"""

RETURN = r"""
_value:
  description: The option O(hbp.mip.link_probe#module:targets).
  type: list
  elements: dict
"""


def link_targets(links: Mapping[str, Any], node: str, hostvars: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the targets of a node."""
    names = [target["node"] for target in links["send"][node]["targets"]]
    return _links.targets(links, node, {name: hostvars[name].get("links_listened") for name in names if name in hostvars})


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"link_targets": link_targets}
