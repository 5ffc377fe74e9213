# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: unanswered
short_description: Why a host did not answer a task
version_added: 0.3.0
description:
  - Returns why a host could not be reached, from the result that a task registered there.
author:
  - The hbp.mip authors (@HBPMedical)
positional: task
options:
  _input:
    description: Variables of a host.
    type: dict
    required: true
  task:
    description: The name under which the task's result was registered.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Tell who did not answer
  ansible.builtin.debug:
    msg: "{{ hostvars['hospital-a'] | hbp.mip.unanswered('common_check') }}"
"""

RETURN = r"""
_value:
  description: The reason, empty for a host that answered, also with a failure, and C(it was not asked) for one without a result.
  type: str
"""


def unanswered(variables: Mapping[str, Any], task: str) -> str:
    """Return why a host did not answer a task, empty when it did."""
    result = variables.get(task)
    if not isinstance(result, Mapping) or result.get("skipped"):
        return "it was not asked"
    return str(result.get("msg") or "it does not answer") if result.get("unreachable") else ""


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"unanswered": unanswered}
