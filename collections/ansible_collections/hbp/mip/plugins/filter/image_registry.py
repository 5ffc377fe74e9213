# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: image_registry
short_description: The registry that the engine's image comes from
version_added: 0.2.0
description:
  - Returns the registry in the name of the engine's image, C(docker.io) when it names none.
  - With mirrors in place of C(docker.io) it returns nothing, because the nodes need not reach C(docker.io) then.
author:
  - The hbp.mip authors (@HBPMedical)
options:
  _input:
    description: The resolved federation, as M(hbp.mip.federation) returns it.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show where the images come from
  ansible.builtin.debug:
    msg: "{{ mip | hbp.mip.image_registry }}"
"""

RETURN = r"""
_value:
  description: Name of the registry, with its port where it has one.
  type: str
"""


def image_registry(federation: Mapping[str, Any]) -> str:
    """Return the registry of the engine's image; the rule by which Docker tells a registry from a repository's first part."""
    first, slash, _rest = str(federation["engine"]["image"]).partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first
    return "" if federation["docker"]["registry_mirrors"] else "docker.io"


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"image_registry": image_registry}
