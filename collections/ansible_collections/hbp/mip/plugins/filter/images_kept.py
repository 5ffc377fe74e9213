# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: images_kept
short_description: The images that every node that needs them has
version_added: 0.3.0
description:
  - Tells by what an image is for whether all nodes that were asked, and need it, have it.
author:
  - The hbp.mip authors (@HBPMedical)
options:
  _input:
    description: The variables of the hosts, with the answers of M(hbp.mip.image_present) in C(images_held).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what need not be fetched
  ansible.builtin.debug:
    msg: "{{ hostvars | hbp.mip.images_kept }}"
"""

RETURN = r"""
_value:
  description: Whether all have it, by what the image is for.
  type: dict
"""


def images_kept(hostvars: Mapping[str, Mapping[str, Any]]) -> dict[str, bool]:
    """Return which images all nodes have."""
    kept: dict[str, bool] = {}
    for host in hostvars:
        held = hostvars[host].get("images_held") or {}
        for answer in held.get("results") or ():
            name = answer["item"]["name"]
            kept[name] = kept.get(name, True) and bool(answer.get("there"))
    return kept


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"images_kept": images_kept}
