# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: engines_to_refresh
short_description: The engines that have to read new databases
version_added: 0.2.0
description:
  - Returns the engine service of each node on which M(hbp.mip.dataset_compile) looked at the databases, for M(hbp.mip.swarm_restart).
  - The workers come first, because the master asks them about what it has read itself.
author:
  - The hbp.mip authors (@HBPMedical)
positional: hostvars
options:
  _input:
    description: The resolved federation, as M(hbp.mip.federation) returns it.
    type: dict
    required: true
  hostvars:
    description: The variables of all hosts, with the results of the role P(hbp.mip.data#role).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Restart the engines that run with older databases than they have
  hbp.mip.swarm_restart:
    project: "{{ mip.name }}"
    services: "{{ engines.services }}"
    older_than: "{{ engines.older_than }}"
    may_rest: "{{ engines.may_rest }}"
  vars:
    engines: "{{ mip | hbp.mip.engines_to_refresh(hostvars) }}"
"""

RETURN = r"""
_value:
  description:
    - C(services), names of services, and C(older_than), by name the time of the newest database of a node whose databases did not change
      now; an earlier run may have been cut off before it restarted that engine.
    - C(may_rest), names of the workers' services; a drained worker reads its databases when it is active again.
  type: dict
"""


def engines_to_refresh(federation: Mapping[str, Any], hostvars: Mapping[str, Any]) -> dict[str, Any]:
    """Return the engines of the nodes that told when their databases changed last, the master's at the end."""
    services: list[str] = []
    may_rest: list[str] = []
    older_than: dict[str, float] = {}
    for kind, suffix in (("worker", "exareme"), ("master", "exareme-master")):
        for node in federation["nodes"]:
            if node["kind"] != kind:
                continue
            result = hostvars[node["name"]].get("data_compiled") or {}
            if not result.get("newest"):
                continue
            name = f"{node['name']}_{suffix}"
            services.append(name)
            if kind == "worker":
                may_rest.append(name)
            if not result["changed"]:
                older_than[name] = result["newest"]
    return {"services": services, "older_than": older_than, "may_rest": may_rest}


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"engines_to_refresh": engines_to_refresh}
