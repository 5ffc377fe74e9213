#!/usr/bin/python

# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_lock
short_description: Pin the images of a federation
version_added: 0.3.0
description:
  - Writes C(images.lock) beside the inventory, from what registries said of the images. With it every deploy runs exactly these.
  - It runs on the controller only. It fails, and writes nothing, when one of the images cannot be had.
author:
  - The hbp.mip authors (@HBPMedical)
attributes:
  check_mode:
    support: full
    description: Tells what would be written.
  diff_mode:
    support: full
    description: Shows the file before and after.
  idempotent:
    support: full
    description: The same digests give the same file.
options:
  state:
    description: V(locked) writes the file, V(looked) only returns its entries.
    type: str
    choices: [locked, looked]
    default: locked
  federation:
    description: The resolved federation, as M(hbp.mip.federation) returns it.
    type: dict
    required: true
  wanted:
    description: By what an image is for, its C(reference), and C(digest) where that is known.
    type: dict
    required: true
  answers:
    description: By the host that asked, in C(asked), results of M(hbp.mip.image_info); the first that has an image counts.
    type: dict
    default: {}
  kept:
    description: By what an image is for, whether all nodes that need it have it, so that no registry has to.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Pin the images
  hbp.mip.image_lock:
    federation: "{{ mip }}"
    wanted: "{{ mip | hbp.mip.federation_images }}"
    answers:
      pusher: {asked: "{{ images_asked }}"}
"""

RETURN = r"""
path:
  description: The file.
  returned: always
  type: str
entries:
  description: Its entries by what the image is for.
  returned: always
  type: dict
problems:
  description: What is wrong with the images that cannot be had.
  returned: failure
  type: list
  elements: dict
"""
