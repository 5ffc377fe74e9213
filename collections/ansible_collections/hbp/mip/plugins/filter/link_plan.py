# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ansible_collections.hbp.mip.plugins.plugin_utils import _links

DOCUMENTATION = r"""
name: link_plan
short_description: What has to pass between the nodes of a federation
version_added: 0.2.0
description:
  - Returns the arguments of M(hbp.mip.link_probe) for all nodes, with a new nonce. Evaluate it once for all hosts.
author:
  - The hbp.mip authors (@HBPMedical)
positional: nodes
options:
  _input:
    description: The resolved federation, as M(hbp.mip.federation) returns it.
    type: dict
    required: true
  nodes:
    description: Names of the nodes that can be asked; the others are left out.
    type: list
    elements: str
    required: true
  swarms:
    description: Ids of the swarms that nodes are in, by their names. What passes between two of the same swarm is not asked.
    type: dict
    default: {}
    version_added: 0.4.0
"""

EXAMPLES = r"""
- name: Plan the links
  ansible.builtin.set_fact:
    links: "{{ mip | hbp.mip.link_plan(ansible_play_hosts) }}"
  run_once: true

- name: Listen
  hbp.mip.link_probe:
    mode: listen
    run: "{{ links.run }}"
    node: "{{ inventory_hostname }}"
    address: "{{ links.listen[inventory_hostname].address }}"
    peers: "{{ links.listen[inventory_hostname].peers }}"
    ports: "{{ links.listen[inventory_hostname].ports }}"
    watch: "{{ links.listen[inventory_hostname].watch }}"
    esp: "{{ links.encrypted }}"
    data_path_port: "{{ links.data_path_port }}"
  check_mode: false
  register: links_listened

- name: Send
  hbp.mip.link_probe:
    mode: send
    run: "{{ links.run }}"
    node: "{{ inventory_hostname }}"
    address: "{{ links.send[inventory_hostname].address }}"
    targets: "{{ links | hbp.mip.link_targets(inventory_hostname, hostvars) }}"
    data_path_port: "{{ links.data_path_port }}"
  check_mode: false
  register: links_sent

- name: Tell what was seen
  hbp.mip.link_probe:
    mode: collect
    run: "{{ links.run }}"
    node: "{{ inventory_hostname }}"
  check_mode: false
  register: links_collected
"""

RETURN = r"""
_value:
  description:
    - C(run), C(nodes), C(encrypted), C(data_path_port); C(listen) and C(send), arguments of the module by node; C(checks), everything
      that has to pass.
  type: dict
"""


def link_plan(federation: Mapping[str, Any], nodes: Collection[str], swarms: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return what has to pass between these nodes, with a new nonce."""
    return _links.plan(federation, nodes, run=secrets.token_hex(16), swarms=swarms)


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"link_plan": link_plan}
