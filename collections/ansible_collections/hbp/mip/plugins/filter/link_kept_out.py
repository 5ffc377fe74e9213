# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.hbp.mip.plugins.plugin_utils import _links

DOCUMENTATION = r"""
name: link_kept_out
short_description: The nodes whose own rules keep something out that a link needs
version_added: 0.4.0
description:
  - Returns the nodes whose own firewall keeps out, or does not let go, what M(hbp.mip.link_probe) tried.
  - With O(nodes), without those whose firewall was set when the federation did not have that peer. A deploy changes it there.
author:
  - The hbp.mip authors (@HBPMedical)
positional: answers, nodes
options:
  _input:
    description: What P(hbp.mip.link_plan#filter) returned.
    type: dict
    required: true
  answers:
    description: By node, the results C(listened), C(sent) and C(collected) of M(hbp.mip.link_probe).
    type: dict
    required: true
  nodes:
    description: By node, the result of M(hbp.mip.node_check).
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Tell whose firewall it is
  ansible.builtin.debug:
    msg: "{{ links | hbp.mip.link_kept_out({'hospital-a': {'listened': listened, 'sent': sent, 'collected': collected}}) }}"
"""

RETURN = r"""
_value:
  description: Names of the nodes.
  type: list
  elements: str
"""


def link_kept_out(
    links: Mapping[str, Any], answers: Mapping[str, Mapping[str, Any]], nodes: Mapping[str, Mapping[str, Any]] | None = None
) -> list[str]:
    """Return the nodes whose own rules keep something out, without those where it is clear that a deploy changes them."""
    listened, sent, collected = ({name: answer.get(part) for name, answer in answers.items()} for part in ("listened", "sent", "collected"))
    known = {name: node.get("facts", {}).get("firewall", {}).get("peers") for name, node in (nodes or {}).items()}
    verdict = _links.judge(links, listened, sent, collected)
    changing = _links.without_peer(verdict, links, {name: peers for name, peers in known.items() if peers is not None})
    return [name for name in _links.kept_out(verdict) if name not in changing]


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"link_kept_out": link_kept_out}
