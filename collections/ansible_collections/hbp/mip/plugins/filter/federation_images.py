# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.hbp.mip.plugins.plugin_utils._images import references

DOCUMENTATION = r"""
name: federation_images
short_description: The images of a federation
version_added: 0.3.0
description:
  - Returns the images that an inventory names, by what they are for.
author:
  - The hbp.mip authors (@HBPMedical)
options:
  _input:
    description: The resolved federation, as M(hbp.mip.federation) returns it.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the images
  ansible.builtin.debug:
    msg: "{{ mip | hbp.mip.federation_images }}"
"""

RETURN = r"""
_value:
  description: V(engine), V(keystore) and, where it is exposed, V(portainer), each with its C(reference).
  type: dict
"""


def federation_images(federation: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the reference of each image."""
    return {name: {"reference": reference} for name, reference in references(federation).items()}


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"federation_images": federation_images}
