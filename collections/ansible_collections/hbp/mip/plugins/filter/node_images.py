# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.hbp.mip.plugins.filter.engine_services import engine_services
from ansible_collections.hbp.mip.plugins.plugin_utils import _images

DOCUMENTATION = r"""
name: node_images
short_description: The images that a node needs
version_added: 0.3.0
description:
  - Returns the images of the services that a node runs, under the names that its engine knows them by, for M(hbp.mip.image_present).
  - Images without an entry in C(images.lock) are not among them, because nobody knows which digest is meant.
author:
  - The hbp.mip authors (@HBPMedical)
positional: node
options:
  _input:
    description: The resolved federation, as M(hbp.mip.federation) returns it.
    type: dict
    required: true
  node:
    description: Name of the node.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Fetch what the node is going to run
  hbp.mip.image_present:
    image: "{{ item.image }}"
  loop: "{{ mip | hbp.mip.node_images(inventory_hostname) }}"
"""

RETURN = r"""
_value:
  description: The images, each with C(name) (what it is for), C(image), C(ids) and C(size).
  type: list
  elements: dict
"""


def node_images(federation: Mapping[str, Any], node: str) -> list[dict[str, Any]]:
    """Return the images that a node needs, each once."""
    place = next(entry for entry in federation["nodes"] if entry["name"] == node)
    wanted = {service["image"] for service in engine_services(federation, []) if service["node"] == node}
    found = []
    for name, reference in _images.references(federation).items():
        entry = _images.entry_of(federation, reference)
        if entry is None:
            continue
        image = _images.image_for(federation, place, reference)
        if image in wanted:
            ids = [str(entry[key]) for key in ("id", "manifest", "digest") if entry.get(key)]
            found.append({"name": name, "image": image, "ids": ids, "size": int(entry.get("size") or 0)})
    return found


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"node_images": node_images}
