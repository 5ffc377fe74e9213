#!/usr/bin/python

# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: federation
short_description: Resolve and validate the inventory of a federation
version_added: 0.1.0
description:
  - Reads the groups C(master), C(ui) and C(workers) and every C(mip_*) variable, applies the defaults, and rejects what is unknown,
    contradictory or unsafe. All errors are listed at once.
  - It runs on the controller only; no host is contacted.
  - The variables are described in the argument specification of the role P(hbp.mip.federation#role).
author:
  - The hbp.mip authors (@HBPMedical)
attributes:
  check_mode:
    support: full
    description: Never changes anything.
  diff_mode:
    support: none
    description: There is nothing to compare.
  idempotent:
    support: full
    description: The same inventory gives the same result.
"""

EXAMPLES = r"""
- name: Resolve and validate the inventory
  hbp.mip.federation:
  register: mip
  run_once: true
"""

RETURN = r"""
name:
  description: Name of the federation.
  returned: success
  type: str
  sample: hospitals
data_dir:
  description: Folder of the federation's data on the master and the workers.
  returned: success
  type: str
  sample: /data/hospitals
portal_dir:
  description: Folder on the ui node with what the portal reads, C(pathologies.json).
  returned: success
  type: str
  sample: /var/lib/mip/hospitals/portal
nodes:
  description: Every node, the master first, then the ui node, then the workers.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Inventory name, which is the node's identity.
      type: str
    kind:
      description: V(master), V(ui) or V(worker).
      type: str
    address:
      description: IPv4 address within the federation.
      type: str
    manager:
      description: Is it a manager of the swarm?
      type: bool
    ssh_host:
      description: Name or address that SSH connects to; empty for a node that is reached without SSH.
      type: str
    ssh_port:
      description: Port that SSH connects to.
      type: int
    host_key:
      description: Fingerprint of its host key, if the inventory gives one.
      type: str
    image_source:
      description: V(registry), or V(loaded) for a node whose images are brought in a file.
      type: str
    first_password:
      description: Does the inventory have a password for the first contact? The password itself is not returned.
      type: bool
remembered:
  description:
    - Id of the swarm that was made for the federation, as C(state/swarm.json) beside the inventory says; empty before the first deploy.
  returned: success
  type: str
images:
  description: What C(images.lock) beside the inventory says.
  returned: success
  type: dict
  contains:
    file:
      description: Its path.
      type: str
    locked:
      description: Is there such a file?
      type: bool
    entries:
      description: Its entries, each with C(name), C(reference) and C(digest) at least.
      type: list
      elements: dict
warnings:
  description: What is allowed but unwise.
  returned: success
  type: list
  elements: str
errors:
  description: Everything that is wrong.
  returned: failure
  type: list
  elements: str
mip_error:
  description: V(configuration).
  returned: failure
  type: str
"""
