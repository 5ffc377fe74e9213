# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ansible_collections.hbp.mip.plugins.filter.engine_services import engine_services

DOCUMENTATION = r"""
name: upgrade_steps
short_description: The order in which the services of a federation are upgraded
version_added: 0.3.0
description:
  - Returns one step for each service. One worker is the canary and comes first, then the other workers follow one after the other, then the
    keystore, then the master, then what else there is.
  - The keystore comes before the master, because the master reads it when it starts.
author:
  - The hbp.mip authors (@HBPMedical)
positional: reachable, canary
options:
  _input:
    description: The federation as it will be, see P(hbp.mip.with_images#filter).
    type: dict
    required: true
  reachable:
    description: Names of the nodes whose services are waited for.
    type: list
    elements: str
    required: true
  canary:
    description: Name of the worker that comes first. By default the first of the inventory.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Upgrade
  ansible.builtin.include_tasks: step.yml
  loop: "{{ upgrade_federation | hbp.mip.upgrade_steps(ansible_play_hosts) }}"
"""

RETURN = r"""
_value:
  description: The steps, each with C(title), C(canary) and C(services) for M(hbp.mip.swarm_services).
  type: list
  elements: dict
"""


def upgrade_steps(federation: Mapping[str, Any], reachable: Collection[str], canary: str = "") -> list[dict[str, Any]]:
    """Return the steps of an upgrade."""
    services = engine_services(federation, reachable)
    workers = [service for service in services if service["name"].endswith("_exareme")]
    first = canary or next((service["node"] for service in workers if service["wait"]), "")
    workers.sort(key=lambda service: service["node"] != first)
    steps = []
    for service in [*workers, *(service for service in services if service not in workers)]:
        is_canary = service["node"] == first
        steps.append(
            {"title": f"{service['name']}, the canary" if is_canary else service["name"], "canary": is_canary, "services": [service]}
        )
    return steps


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"upgrade_steps": upgrade_steps}
