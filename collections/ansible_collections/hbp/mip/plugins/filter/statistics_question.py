# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: statistics_question
short_description: A question that involves as many hospitals as possible
version_added: 0.1.0
description:
  - Chooses, from what the nodes hold, the pathology with the most datasets that are large enough to be analysed.
  - Datasets with fewer than 10 rows are left out, because the engine answers nothing about them.
author:
  - The hbp.mip authors (@HBPMedical)
options:
  _input:
    description: Results of M(hbp.mip.dataset_info#module) by node.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Choose a question
  ansible.builtin.set_fact:
    question: "{{ holdings | hbp.mip.statistics_question }}"
"""

RETURN = r"""
_value:
  description: C(pathology), empty if nobody holds anything, and C(datasets), a list of codes.
  type: dict
"""


def statistics_question(holdings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the pathology with the most analysable datasets, and those datasets, sorted."""
    found: dict[str, set[str]] = {}
    for held in holdings.values():
        for pathology, content in (held.get("pathologies") or {}).items():
            large = {code for code, rows in (content.get("datasets") or {}).items() if rows != "<10"}
            found.setdefault(pathology, set()).update(large)
    best = max(sorted(found), key=lambda pathology: len(found[pathology]), default="")
    return {"pathology": best if found.get(best) else "", "datasets": sorted(found.get(best, ()))}


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"statistics_question": statistics_question}
