#!/usr/bin/python

# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_bundle
short_description: Check and open a bundle of images
version_added: 0.3.0
description:
  - Opens what M(hbp.mip.image_save) wrote, after the signature of its checksums and the checksums of its images were checked, so that
    M(hbp.mip.image_present) can load them on the nodes. Closing it adds its images to C(images.lock).
  - It runs on the controller only.
author:
  - The hbp.mip authors (@HBPMedical)
attributes:
  check_mode:
    support: full
    description: Opening changes nothing but a scratch folder beside the bundle, which closing removes. The lock is not written.
  diff_mode:
    support: none
    description: There is nothing to compare.
  idempotent:
    support: full
    description: Images that the lock has already do not change it.
options:
  state:
    description: V(opened) checks it and makes its files readable, V(closed) tidies up and writes the lock.
    type: str
    choices: [opened, closed]
    required: true
  path:
    description: The bundle, a folder or a C(.tar) file.
    type: path
    required: true
  signer:
    description: Public SSH key of whom it comes from. By default that of the federation.
    type: path
    default: ""
  federation:
    description: The resolved federation, as M(hbp.mip.federation) returns it.
    type: dict
    required: true
  opened:
    description: What O(state=opened) returned.
    type: dict
    default: {}
  loaded:
    description: Answers of M(hbp.mip.image_present) by node, as C(held) and C(loaded).
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Check the bundle
  hbp.mip.image_bundle:
    state: opened
    path: /srv/hospitals.tar
    federation: "{{ mip }}"
  register: image_opened
"""

RETURN = r"""
folder:
  description: Where its files are now.
  returned: when O(state=opened)
  type: str
scratch:
  description: The folder that is removed when it is closed; empty when the bundle was a folder.
  returned: when O(state=opened)
  type: str
signed_by:
  description: The federation whose key signed it.
  returned: when O(state=opened)
  type: str
images:
  description: Its images, as entries of C(images.lock), with C(file) and C(tag), their name once they are loaded.
  returned: when O(state=opened)
  type: list
  elements: dict
sums:
  description: Checksums by file.
  returned: when O(state=opened)
  type: dict
"""
