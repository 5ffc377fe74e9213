#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dataset_info
short_description: Tells which datasets a node holds, and nothing about patients
version_added: 0.1.0
author: The hbp.mip authors (@HBPMedical)
description:
  - Looks at the data folder of a node and returns, for each pathology, the dataset codes with their numbers of rows and the hash
    of its metadata.
  - Codes, counts and hashes are all that leaves the node. A number of rows below 10 is returned as V(<10); a value that does not
    look like a dataset code is counted and not returned.
  - Databases are opened for reading only; no file is made, also not by SQLite. Symbolic links are not followed out of the folder.
  - What is missing, broken or being written is a result and no failure of the module.
attributes:
  check_mode:
    description: Can run in check mode and give the same answer.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
  idempotent:
    description: Reading changes nothing.
    support: full
options:
  data_dir:
    description: The federation's data folder, with one folder for each pathology.
    type: path
    required: true
  mode:
    description: What to look at; V(databases) are the compiled ones that the engine reads.
    type: str
    choices: [databases]
    default: databases
  seconds:
    description: Seconds that counting the rows of one database may take.
    type: float
    default: 60
"""

EXAMPLES = r"""
- name: See which datasets this node holds
  hbp.mip.dataset_info:
    data_dir: /data/lab
  register: held
"""

RETURN = r"""
pathologies:
  description: What each pathology's folder holds.
  returned: always
  type: dict
  contains:
    cdes:
      description: >-
        Of C(CDEsMetadata.json), the keys C(present), C(valid) (a JSON object), C(sha256), C(size) in bytes and C(variables), their
        number.
      type: dict
    database:
      description: >-
        State of C(datasets.db). V(ok), V(missing), V(empty), V(broken), V(locked), V(interrupted), V(foreign) (no compiled
        pathology), V(slow) or V(unusable).
      type: str
    datasets:
      description: Numbers of rows by dataset code, V(<10) below 10.
      type: dict
codes:
  description: Dataset codes by pathology, without pathologies that have none; the form that exareme_query compares.
  returned: always
  type: dict
problems:
  description: Keys C(code), C(pathology), C(message) and C(fix).
  returned: always
  type: list
  elements: dict
other_files:
  description: Number of files that lie beside the pathologies' folders.
  returned: always
  type: int
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _datasets


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "data_dir": {"type": "path", "required": True},
            "mode": {"type": "str", "choices": ["databases"], "default": "databases"},
            "seconds": {"type": "float", "default": 60},
        },
        supports_check_mode=True,
    )
    inventory = _datasets.Inventory(module.params["data_dir"], module.params["seconds"])
    inventory.look()
    found = inventory.pathologies
    module.exit_json(
        changed=False,
        pathologies=found,
        codes={name: sorted(item["datasets"]) for name, item in sorted(found.items()) if item["datasets"]},
        problems=inventory.problems,
        other_files=inventory.other_files,
    )


if __name__ == "__main__":
    main()
