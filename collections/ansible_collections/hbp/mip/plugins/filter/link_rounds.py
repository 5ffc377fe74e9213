# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ansible_collections.hbp.mip.plugins.plugin_utils import _links

DOCUMENTATION = r"""
name: link_rounds
short_description: The order in which the throughput between nodes is measured
version_added: 0.2.0
description:
  - Returns rounds of ordered pairs, such that every pair comes once and no node is in two pairs of a round, for
    M(hbp.mip.link_probe) with O(hbp.mip.link_probe#module:mode=throughput).
author:
  - The hbp.mip authors (@HBPMedical)
options:
  _input:
    description: Names of the nodes.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show the rounds
  ansible.builtin.debug:
    msg: "{{ ['master', 'hospital-a', 'hospital-b'] | hbp.mip.link_rounds }}"
"""

RETURN = r"""
_value:
  description: For each round, the receiver by sender.
  type: list
  elements: dict
"""


def link_rounds(nodes: Sequence[str]) -> list[dict[str, str]]:
    """Return the receiver by sender for each round."""
    return [dict(pairs) for pairs in _links.tournament(nodes)]


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"link_rounds": link_rounds}
