# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: registered
short_description: What a role registered on a host
version_added: 0.1.0
description:
  - Returns the variables of a host whose names begin with a prefix and hold the result of a task that ran, by the rest of their name.
author:
  - The hbp.mip authors (@HBPMedical)
positional: prefix
options:
  _input:
    description: Variables of a host.
    type: dict
    required: true
  prefix:
    description: What their names begin with.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Collect
  ansible.builtin.set_fact:
    collected: "{{ hostvars['hospital-a'] | hbp.mip.registered('verify_') }}"
"""

RETURN = r"""
_value:
  description: Results by name without the prefix. Tasks that were skipped, or failed to reach the host, are left out.
  type: dict
"""


def registered(variables: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the results of tasks that ran, by name without the prefix."""
    results = {}
    for name in variables:
        if name.startswith(prefix):
            value = variables[name]
            if isinstance(value, Mapping) and "changed" in value and not value.get("skipped") and not value.get("unreachable"):
                results[name.removeprefix(prefix)] = value
    return results


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"registered": registered}
