#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_set
short_description: Begin, seal, look at and verify backups of a federation
version_added: 0.3.0
description:
  - A set is one file, a tar whose members are encrypted with age. It gets its name when it is complete and on disk.
  - Everything happens on the controller.
author:
  - The hbp.mip authors (@HBPMedical)
options:
  state:
    description:
      - V(begun) makes the hidden folder that M(hbp.mip.backup_part) fills. V(sealed) makes the file of it and removes the oldest sets.
      - V(discarded) removes the hidden folder. V(listed) lists the sets. V(opened) decrypts the manifest. V(verified) reads all of a set.
    type: str
    choices: [begun, sealed, discarded, listed, opened, verified]
    required: true
  federation:
    description:
      - Name of the federation.
    type: str
    required: true
  directory:
    description:
      - Folder of the sets.
    type: path
  inventory:
    description:
      - Folder of the inventory, which becomes a member with O(state=begun).
    type: path
  set:
    description:
      - The hidden folder with V(sealed) and V(discarded), the file with V(opened) and V(verified).
    type: path
  recipients:
    description:
      - Whom it is encrypted for.
    type: list
    elements: str
    default: []
  identity:
    description:
      - File with the secret key, for V(opened) and V(verified). It may be encrypted with ansible-vault.
    type: path
  facts:
    description:
      - What the manifest says beside its members.
    type: dict
    default: {}
  keep:
    description:
      - How many sets of the federation are kept.
    type: int
    default: 14
attributes:
  action:
    description: Runs on the controller.
    support: full
  check_mode:
    description: Checks the recipients or the set, and writes nothing.
    support: full
  diff_mode:
    description: What is in a backup is secret.
    support: none
"""

EXAMPLES = r"""
- name: Begin a backup
  hbp.mip.backup_set:
    state: begun
    federation: "{{ mip.name }}"
    directory: "{{ inventory_dir }}/backups"
    inventory: "{{ inventory_dir }}"
    recipients: "{{ mip.backup.recipients }}"
  register: backup_begun
"""

RETURN = r"""
set:
  description: The hidden folder, or the file.
  returned: V(begun), V(sealed)
  type: str
manifest:
  description: What is in the set.
  returned: V(sealed), V(opened), V(verified)
  type: dict
removed:
  description: Sets that were removed since more than O(keep) were there.
  returned: V(sealed)
  type: list
  elements: str
sets:
  description: The sets of the federation.
  returned: V(listed)
  type: list
  elements: dict
"""
