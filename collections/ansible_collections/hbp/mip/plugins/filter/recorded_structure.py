# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.hbp.mip.plugins.plugin_utils._data_reports import structure

DOCUMENTATION = r"""
name: recorded_structure
short_description: Which node held which datasets when the data were consolidated last
version_added: 0.4.0
description:
  - Reads what a consolidation recorded beside the inventory. A node that was away then counts with what it was last seen to hold.
author:
  - The hbp.mip authors (@HBPMedical)
options:
  _input:
    description: The content of C(state/data.json); nothing when there is none.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show who holds what
  ansible.builtin.debug:
    msg: "{{ lookup('ansible.builtin.file', inventory_dir ~ '/state/data.json') | hbp.mip.recorded_structure }}"
"""

RETURN = r"""
_value:
  description: Pathologies with their nodes and datasets, in the shape that C(mipfed data structure) prints.
  type: list
  elements: dict
"""


def recorded_structure(record: str) -> list[dict[str, Any]]:
    """Return the data structure of a record; an empty one when there is none."""
    if not record.strip():
        return []
    try:
        nodes = json.loads(record)["nodes"]
        datasets: dict[str, dict[str, set[str]]] = {}
        for node, known in nodes.items():
            for pathology, held in known["pathologies"].items():
                codes = {code for codes in held["files"].values() for code in codes}
                datasets.setdefault(pathology, {})[node] = codes
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AnsibleFilterError(f"the record of the data (state/data.json) is not what a consolidation wrote: {error!r}") from error
    return structure(datasets)


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"recorded_structure": recorded_structure}
