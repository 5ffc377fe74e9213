# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: statistics_variable
short_description: A variable to ask a statistic of
version_added: 0.1.0
description:
  - Chooses, from the engine's answer to C(LIST_VARIABLES), the first real variable, else the first integer one, else the first.
author:
  - The hbp.mip authors (@HBPMedical)
options:
  _input:
    description: SQL type by variable code.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Choose a variable
  ansible.builtin.set_fact:
    variable: "{{ variables.data | hbp.mip.statistics_variable }}"
"""

RETURN = r"""
_value:
  description: Code of the variable; empty if there is none.
  type: str
"""


def statistics_variable(variables: Mapping[str, str]) -> str:
    """Return the code of a variable, numeric if there is one."""
    for kind in ("real", "int"):
        for code, sql_type in variables.items():
            if str(sql_type).lower().startswith(kind):
                return code
    return next(iter(variables), "")


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"statistics_variable": statistics_variable}
