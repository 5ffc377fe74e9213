#!/usr/bin/python

# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Choose and write down what a federation runs
version_added: 0.3.0
description:
  - A release is what ran after a deploy, an upgrade or a rollback, with versions, digests and hashes of the services' specifications. It is
    a file beside the inventory, C(state/releases/NUMBER.yml), without secrets.
  - It runs on the controller only.
author:
  - The hbp.mip authors (@HBPMedical)
attributes:
  check_mode:
    support: full
    description: Tells whether there would be a new release.
  diff_mode:
    support: none
    description: A release is a new file.
  idempotent:
    support: full
    description: What runs already, as the last release says, is no new one.
options:
  state:
    description:
      - V(chosen) works out in RV(wanted) which images O(set) or O(release) lead to, and fails if the inventory could not be brought to
        name them. It changes nothing.
      - V(recorded) writes down what runs now. With O(target) the inventory's variables and C(images.lock) are brought into line first.
    type: str
    choices: [chosen, recorded]
    default: recorded
  federation:
    description: The resolved federation, as M(hbp.mip.federation) returns it.
    type: dict
    required: true
  set:
    description: Images to change, by what they are for, V(engine), V(keystore) or V(portainer).
    type: dict
    default: {}
  release:
    description: Number of the release whose images are wanted, or that was gone back to. V(0) is none.
    type: int
    default: 0
  services:
    description: What M(hbp.mip.swarm_services) returned of all services.
    type: list
    elements: dict
    default: []
  target:
    description: Entries of C(images.lock) that an upgrade led to, by what the image is for.
    type: dict
    default: {}
  verb:
    description: What made the release.
    type: str
    default: deploy
  optional:
    description: Warn instead of failing when it cannot be written down.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Write down what runs now
  hbp.mip.release:
    federation: "{{ mip }}"
    services: "{{ master_services.services }}"
"""

RETURN = r"""
wanted:
  description: By what an image is for, its C(reference), and what is known of it.
  returned: when O(state=chosen)
  type: dict
asked:
  description: What registries have to be asked for.
  returned: when O(state=chosen)
  type: list
  elements: str
release:
  description: Number of the release.
  returned: when O(state=recorded)
  type: int
"""
