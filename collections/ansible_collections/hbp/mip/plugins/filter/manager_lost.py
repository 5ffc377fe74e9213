# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: manager_lost
short_description: Is a task still to be done, by another manager?
version_added: 0.3.0
description:
  - Tells from the result of a task that ran on a manager whether that manager could not do it, while another one may.
  - That is so when the host did not answer, when its engine did not, or when it is no working manager of the swarm any more.
author:
  - The hbp.mip authors (@HBPMedical)
options:
  _input:
    description: The result of the task. Anything else stands for a task that has not run yet.
    type: raw
    required: true
"""

EXAMPLES = r"""
- name: Try the next manager
  ansible.builtin.include_tasks: attempt.yml
  when: master_services | default({}) | hbp.mip.manager_lost
"""

RETURN = r"""
_value:
  description: Whether the task has to be done by another manager.
  type: bool
"""


def manager_lost(result: Any) -> bool:
    """Return whether the task has not run, or ran on a manager that could not do it."""
    if not isinstance(result, Mapping) or not result:
        return True
    return any(bool(result.get(key)) for key in ("unreachable", "manager_lost"))


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"manager_lost": manager_lost}
