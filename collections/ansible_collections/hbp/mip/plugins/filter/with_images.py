# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.hbp.mip.plugins.plugin_utils import _images

DOCUMENTATION = r"""
name: with_images
short_description: A federation as it will be when it runs other images
version_added: 0.3.0
description:
  - Returns the federation with other images and the digests that they stand for.
author:
  - The hbp.mip authors (@HBPMedical)
positional: target
options:
  _input:
    description: The resolved federation, as M(hbp.mip.federation) returns it.
    type: dict
    required: true
  target:
    description: Entries of C(images.lock) by what the image is for. Those without a digest are left out.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the services after an upgrade
  ansible.builtin.debug:
    msg: "{{ mip | hbp.mip.with_images(upgrade_target.entries) | hbp.mip.engine_services([]) }}"
"""

RETURN = r"""
_value:
  description: The federation.
  type: dict
"""


def with_images(federation: Mapping[str, Any], target: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the federation with other images."""
    return _images.with_images(federation, {name: entry for name, entry in target.items() if entry.get("digest")})


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"with_images": with_images}
