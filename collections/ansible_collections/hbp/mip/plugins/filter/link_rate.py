# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.hbp.mip.plugins.plugin_utils import _link_rates

DOCUMENTATION = r"""
name: link_rate
short_description: Whom a node sends to in one round of the throughput's measurement
version_added: 0.3.0
description:
  - Returns the targets for M(hbp.mip.link_probe) with O(hbp.mip.link_probe#module:mode=throughput), after all nodes listen.
author:
  - The hbp.mip authors (@HBPMedical)
positional: node, pairs, hostvars
options:
  _input:
    description: What P(hbp.mip.link_plan#filter) returned.
    type: dict
    required: true
  node:
    description: The node that sends.
    type: str
    required: true
  pairs:
    description: The round, the receiver by sender, one of those that P(hbp.mip.link_rounds#filter) returned.
    type: dict
    required: true
  hostvars:
    description: The variables of all hosts, with what the listening task registered as C(links_listened).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Send for some seconds
  hbp.mip.link_probe:
    mode: throughput
    run: "{{ links.run }}"
    node: "{{ inventory_hostname }}"
    address: "{{ links.send[inventory_hostname].address }}"
    targets: "{{ links | hbp.mip.link_rate(inventory_hostname, pairs, hostvars) }}"
    overlay: {network: mip-federation}
  when: links | hbp.mip.link_rate(inventory_hostname, pairs, hostvars)
"""

RETURN = r"""
_value:
  description: The option O(hbp.mip.link_probe#module:targets); empty when the node has nobody to send to in this round.
  type: list
  elements: dict
"""


def link_rate(
    links: Mapping[str, Any], node: str, pairs: Mapping[str, str], hostvars: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the target of a node in a round, alone in a list."""
    receiver = pairs.get(node, "")
    if receiver not in hostvars:
        return []
    return _link_rates.target(links, node, pairs, {receiver: hostvars[receiver].get("links_listened")})


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"link_rate": link_rate}
