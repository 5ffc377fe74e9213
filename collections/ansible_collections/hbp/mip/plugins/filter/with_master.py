# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: with_master
short_description: A federation whose master is another of its nodes
version_added: 0.4.0
description:
  - The worker becomes the master, and the master becomes a worker. It stays a manager of the swarm if the worker was one, so that there
    are as many managers as before.
author:
  - The hbp.mip authors (@HBPMedical)
positional: node
options:
  _input:
    description: The resolved federation, as M(hbp.mip.federation) returns it.
    type: dict
    required: true
  node:
    description: Name of the worker that becomes the master.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show the services after a move
  ansible.builtin.debug:
    msg: "{{ mip | hbp.mip.with_master('hospitals-spare') | hbp.mip.engine_services([]) }}"
"""

RETURN = r"""
_value:
  description: The federation as it will be.
  type: dict
"""

_ORDER = {"master": 0, "ui": 1, "worker": 2}


def with_master(federation: Mapping[str, Any], node: str) -> dict[str, Any]:
    """Return the federation with a worker as its master, and the master as a worker."""
    nodes = {entry["name"]: dict(entry) for entry in federation["nodes"]}
    if node not in nodes or nodes[node]["kind"] != "worker":
        workers = ", ".join(name for name, entry in nodes.items() if entry["kind"] == "worker")
        raise AnsibleFilterError(f"{node} is no worker of {federation['name']} that could become its master; workers: {workers}")
    new = nodes[node]
    old = next(entry for entry in nodes.values() if entry["kind"] == "master")
    old.update(kind="worker", manager=bool(new["manager"]))
    new.update(kind="master", manager=True)
    return {**federation, "nodes": sorted(nodes.values(), key=lambda entry: _ORDER[entry["kind"]])}


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"with_master": with_master}
