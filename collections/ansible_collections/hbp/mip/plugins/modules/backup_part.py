#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_part
short_description: Bring one file from a host into a backup, or from a backup to a host
version_added: 0.3.0
description:
  - With O(state=taken) a file of the host is read in pieces and encrypted on the controller while it arrives. Nothing of it is written
    there in clear.
  - With O(state=given) a member of a set is decrypted in pieces and written on the host, into a folder that only root reads.
  - Works through the connection of the task, so that nothing but SSH is needed.
author:
  - The hbp.mip authors (@HBPMedical)
options:
  state:
    description:
      - V(taken) from the host, V(given) to the host.
    type: str
    choices: [taken, given]
    default: taken
  set:
    description:
      - The hidden folder of the set, as M(hbp.mip.backup_set) returns it, or with O(state=given) the set's file. On the controller.
    type: path
    required: true
  name:
    description:
      - Name of the member.
    type: str
    required: true
  kind:
    description:
      - What it is, for the manifest.
    type: str
  path:
    description:
      - The file on the host.
    type: path
    required: true
  size:
    description:
      - Size of the file in bytes, with O(state=taken).
    type: int
  sha256:
    description:
      - Digest of the file, with O(state=taken). What arrives must have it.
    type: str
  files:
    description:
      - What is in it, when it is an archive, with O(state=taken).
    type: list
    elements: dict
  about:
    description:
      - More for the manifest, with O(state=taken).
    type: dict
    default: {}
  recipients:
    description:
      - Whom it is encrypted for, with O(state=taken).
    type: list
    elements: str
    default: []
  identity:
    description:
      - File on the controller with the secret key, with O(state=given). It may be encrypted with ansible-vault.
    type: path
attributes:
  action:
    description: Runs on the controller; on the host only C(dd) and C(base64) run.
    support: full
  check_mode:
    description: Does nothing.
    support: full
  diff_mode:
    description: What is in a backup is secret.
    support: none
"""

EXAMPLES = r"""
- name: Bring the keys of the keystore into the backup
  hbp.mip.backup_part:
    set: "{{ hostvars.pusher.backup_begun.set }}"
    name: keystore.json
    kind: keystore
    path: "{{ saved.files[0].path }}"
    size: "{{ saved.files[0].size }}"
    sha256: "{{ saved.files[0].sha256 }}"
    recipients: "{{ mip.backup.recipients }}"
"""

RETURN = r"""
member:
  description: The member as it is in the manifest.
  returned: success
  type: dict
"""
