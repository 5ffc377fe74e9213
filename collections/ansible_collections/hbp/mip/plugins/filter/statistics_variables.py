# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: statistics_variables
short_description: Variables to ask a statistic of
version_added: 0.2.0
description:
  - Chooses some from the engine's answer to C(LIST_VARIABLES), real ones if there are, else integer ones, else the first of all.
  - They are spread over the list, because a hospital need not have measured those of one group.
author:
  - The hbp.mip authors (@HBPMedical)
options:
  _input:
    description: SQL type by variable code.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Choose variables
  ansible.builtin.set_fact:
    chosen: "{{ variables.data | hbp.mip.statistics_variables }}"
"""

RETURN = r"""
_value:
  description: Codes of the variables; empty if there is none.
  type: list
  elements: str
"""

MOST = 5


def statistics_variables(variables: Mapping[str, str]) -> list[str]:
    """Return the codes of some variables, numeric if there are any."""
    for kind in ("real", "int"):
        found = [code for code, sql_type in variables.items() if str(sql_type).lower().startswith(kind)]
        if found:
            step = max(1, len(found) // MOST)
            return found[::step][:MOST]
    return list(variables)[:1]


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"statistics_variables": statistics_variables}
