#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_record
short_description: Remember which swarm is a federation's
version_added: 0.3.0
description:
  - Keeps the ID of the federation's swarm in a file beside the inventory, so that a manager that lost its state, or is in another swarm,
    is noticed instead of a new swarm being made silently.
  - Runs on the controller; no host is contacted.
author:
  - The hbp.mip authors (@HBPMedical)
options:
  state:
    description:
      - V(read) returns what is remembered. V(checked) fails when O(cluster_id) is another.
      - V(recorded) remembers it when nothing is remembered yet, and fails when another is. A file that cannot be written is a warning.
      - V(replaced) remembers it in any case, V(forgotten) nothing.
    type: str
    choices: [read, checked, recorded, replaced, forgotten]
    required: true
  path:
    description:
      - The file.
    type: path
    required: true
  cluster_id:
    description:
      - ID of the swarm that the master is in; empty when it is in none.
    type: str
    default: ""
  federation:
    description:
      - Name of the federation, for messages.
    type: str
    default: ""
attributes:
  action:
    description: Runs on the controller.
    support: full
  check_mode:
    description: Compares, and writes nothing.
    support: full
  diff_mode:
    description: Shows the ID before and after.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Remember the swarm
  hbp.mip.swarm_record:
    state: recorded
    path: "{{ inventory_dir }}/state/swarm.json"
    cluster_id: "{{ master_swarm.cluster_id }}"
"""

RETURN = r"""
cluster_id:
  description: The swarm that is remembered; empty when none is.
  returned: success
  type: str
recorded_at:
  description: Since when (UTC).
  returned: success
  type: str
"""
