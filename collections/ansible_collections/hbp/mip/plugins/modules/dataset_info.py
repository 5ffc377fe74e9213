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
    of its metadata; with O(mode=files) also what its CSV files and its metadata hold and whether its database is up to date.
  - Column names, codes, counts and hashes are all that leaves the node. A number of rows below 10 is returned as V(<10), and
    another number that would give it away as V(>=N). A value that does not look like a dataset code is counted and not returned.
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
    description:
      - What to look at; V(databases) are the compiled ones that the engine reads.
      - With V(files) also the metadata and the CSV files, each of which is read once as a whole.
    type: str
    choices: [databases, files]
    default: databases
  seconds:
    description: Seconds that counting the rows of one database may take.
    type: float
    default: 60
  cdes_content:
    description: With O(mode=files), return each C(CDEsMetadata.json) itself.
    type: bool
    default: false
  policy:
    description: >-
      With O(mode=files), the policy that databases should be compiled with; one compiled with another is V(stale). Without it the
      policy does not count.
    type: str
    choices: [strict, legacy]
  metadata_only:
    description: With O(mode=files), whether the databases of this node should hold no rows, as on the master.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: See which datasets this node holds
  hbp.mip.dataset_info:
    data_dir: /data/lab
  register: held

- name: See what its files hold, before they are compiled
  hbp.mip.dataset_info:
    data_dir: /data/lab
    mode: files
    policy: strict
  register: found
"""

RETURN = r"""
pathologies:
  description: What each pathology's folder holds.
  returned: always
  type: dict
  contains:
    cdes:
      description:
        - Of C(CDEsMetadata.json), the keys C(present), C(valid), C(sha256) and C(size) in bytes.
        - With O(mode=databases), C(valid) means that it is a JSON object, and C(variables) is their number.
        - With O(mode=files), C(valid) means that it breaks no rule, and there are C(mtime) (ISO 8601, UTC), C(code), C(label),
          C(version), C(model) (hash of all but the list of datasets), C(variables) (hash by code), C(datasets) (lists of code
          and label), C(findings) (keys C(code), C(message), C(line), C(column), C(severity)) and, if wanted, C(content)
          (compressed with zlib, in base64).
      type: dict
    files:
      description:
        - The CSV files by name. C(sha256), C(size) in bytes, C(mtime) (ISO 8601, UTC), C(encoding), C(newline) (V(lf), V(crlf), V(cr),
          V(mixed), V(none)), C(columns), their number, and C(header), the names among them that are variables or look like one;
          empty when C(dataset) is not among them, as then the first line may be a patient. Unless a row has as many fields, only
          names of variables.
        - C(rows) and C(datasets) (rows by code) are numbers, V(<10), or V(>=N) where the number would give one below 10 away or is
          not known. Codes are taken from rows with as many fields as the header.
        - >-
          C(findings) have the keys C(code), C(message), C(line) (0 for the whole file) and C(severity). A file with a finding of
          severity V(error) cannot be compiled: V(empty), V(no-csv), V(encoding), V(zero-byte), V(delimiter), V(header-missing),
          V(dataset-missing), V(column-name), V(column-duplicate), V(columns-many), V(unclosed-quote), V(line-too-long),
          V(row-length), V(header-repeated), V(dataset-name), V(datasets-implausible), V(changing). Of severity V(warning) are
          V(byte-order-mark), V(line-ends-mixed), V(line-blank), V(rows-missing), V(header-unproven).
      type: dict
      returned: with O(mode=files)
    database:
      description: >-
        State of C(datasets.db). V(ok), V(missing), V(empty), V(broken), V(locked), V(interrupted), V(foreign) (no compiled
        pathology), V(slow) or V(unusable).
      type: str
    datasets:
      description: Numbers of rows in C(datasets.db) by dataset code, V(<10) below 10.
      type: dict
    compiled:
      description: >-
        C(state), which is V(compiled), V(stale), V(missing) or V(unknown) (a database that does not say what it was made from), and
        C(reasons), what differs.
      type: dict
      returned: with O(mode=files)
codes:
  description: >-
    Dataset codes by pathology, without pathologies that have none; the form that exareme_query compares. Those of the databases,
    with O(mode=files) those of the CSV files.
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

import os
import sys
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _datasets


def _look(params: dict[str, Any]) -> dict[str, Any]:
    if params["mode"] == "databases":
        inventory = _datasets.Inventory(params["data_dir"], params["seconds"])
        inventory.look()
        codes = {name: sorted(item["datasets"]) for name, item in sorted(inventory.pathologies.items()) if item["datasets"]}
    else:
        inventory = files = _datasets.Files(
            params["data_dir"], params["seconds"], params["policy"] or "", params["metadata_only"], params["cdes_content"]
        )
        files.look()
        codes = files.codes()
    return {
        "pathologies": inventory.pathologies,
        "codes": codes,
        "problems": inventory.problems,
        "other_files": inventory.other_files,
    }


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "data_dir": {"type": "path", "required": True},
            "mode": {"type": "str", "choices": ["databases", "files"], "default": "databases"},
            "seconds": {"type": "float", "default": 60},
            "cdes_content": {"type": "bool", "default": False},
            "policy": {"type": "str", "choices": ["strict", "legacy"]},
            "metadata_only": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    result: dict[str, Any] = {}
    failure = ""
    try:
        result = _look(module.params)
    except Exception:
        # An exception's text may quote what was read; its kind and place do not.
        kind, _unused, trace = sys.exc_info()
        while trace and trace.tb_next:
            trace = trace.tb_next
        place = "%s, line %d" % (os.path.basename(trace.tb_frame.f_code.co_filename), trace.tb_lineno) if trace else "unknown"
        failure = "looking at %s failed with %s (%s). Please report this; nothing was changed" % (
            module.params["data_dir"],
            kind.__name__ if kind else "an error",
            place,
        )
    # Outside of the handler, as Ansible adds the exception that is being handled to a failure.
    if failure:
        module.fail_json(msg=failure)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
