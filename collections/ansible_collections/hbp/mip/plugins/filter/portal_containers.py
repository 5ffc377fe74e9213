# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.hbp.mip.plugins.plugin_utils import _images, _portal

DOCUMENTATION = r"""
name: portal_containers
short_description: The containers of a federation's web portal
version_added: 0.4.0
description:
  - Returns what the settings C(mip_ui) and C(mip_keycloak) mean for the containers on the ui node, with the images of C(images.lock).
author:
  - The hbp.mip authors (@HBPMedical)
positional: node
options:
  _input:
    description: The resolved federation, as M(hbp.mip.federation) returns it.
    type: dict
    required: true
  node:
    description: Name of the ui node.
    type: str
    required: true
  secret:
    description: Secret of the portal's Keycloak client, where it has one.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Run the portal
  hbp.mip.ui_containers:
    project: "{{ mip.name }}"
    network: "{{ mip.name }}_portal"
    directory: /var/lib/mip/lab/portal-secrets
    containers: "{{ mip | hbp.mip.portal_containers(inventory_hostname) }}"
"""

RETURN = r"""
_value:
  description: Containers as M(hbp.mip.ui_containers#module) takes them, in the order in which they start.
  type: list
  elements: dict
"""


def portal_containers(federation: Mapping[str, Any], node: str, secret: str = "") -> list[dict[str, Any]]:
    """Return the containers of a portal."""
    place = next(entry for entry in federation["nodes"] if entry["name"] == node)
    named = federation["ui"]["images"]
    images = {component: _images.image_for(federation, place, str(named[key])) for component, key in _portal.IMAGES.items()}
    return _portal.containers(federation, images, secret)


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"portal_containers": portal_containers}
