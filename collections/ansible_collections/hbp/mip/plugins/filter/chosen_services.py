# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ansible_collections.hbp.mip.plugins.filter.engine_services import engine_services

DOCUMENTATION = r"""
name: chosen_services
short_description: The services that a command is about
version_added: 0.3.0
description:
  - Returns those services of a federation that belong to some of its components, and to some of its nodes, in the order in which they
    are started. They are stopped in the reverse order.
  - Services of nodes that the inventory disables are left out.
author:
  - The hbp.mip authors (@HBPMedical)
positional: components, nodes
options:
  _input:
    description: The resolved federation, as M(hbp.mip.federation) returns it.
    type: dict
    required: true
  components:
    description: Names of components. None stands for all of them.
    type: list
    elements: str
    default: []
  nodes:
    description: Names of nodes. None stands for all of them.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Stop the hospitals' engines
  hbp.mip.swarm_power:
    project: "{{ mip.name }}"
    state: stopped
    services: "{{ mip | hbp.mip.chosen_services(['engine'], ['hospital-a', 'hospital-b']) }}"
"""

RETURN = r"""
_value:
  description: C(name), C(node), C(component), C(wave) and C(may_rest) of each service.
  type: list
  elements: dict
"""

#: What the containers of the components are labelled with, as C(eu.humanbrainproject.mip.service).
COMPONENTS = {
    "keystore": ("exareme-keystore",),
    "engine": ("exareme-master", "exareme"),
    "portainer": ("portainer",),
}
_SERVICE_LABEL = "eu.humanbrainproject.mip.service"


def component_of(service: Mapping[str, Any]) -> str:
    """Return the component that a wanted service belongs to."""
    label = service["container_labels"][_SERVICE_LABEL]
    return next(name for name, labels in COMPONENTS.items() if label in labels)


def chosen_services(federation: Mapping[str, Any], components: Collection[str] = (), nodes: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return the services of some components on some nodes, in the order in which they are started."""
    if unknown := sorted(set(components) - set(COMPONENTS)):
        raise ValueError(f"there is no component {', '.join(unknown)}; there are {', '.join(COMPONENTS)}")
    known = [str(node["name"]) for node in [*federation["nodes"], *federation.get("kits", ())]]
    if unknown := sorted(set(nodes) - set(known)):
        raise ValueError(f"there is no node {', '.join(unknown)}; there are {', '.join(known)}")
    disabled = {node["name"] for node in federation.get("disabled", ())}
    found = []
    for service in engine_services(federation, []):
        component = component_of(service)
        if (components and component not in components) or (nodes and service["node"] not in nodes) or service["node"] in disabled:
            continue
        found.append(
            {
                "name": service["name"],
                "node": service["node"],
                "component": component,
                "wave": service["wave"],
                "may_rest": service.get("may_rest", False),
            }
        )
    return sorted(found, key=lambda service: service["wave"])


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"chosen_services": chosen_services}
