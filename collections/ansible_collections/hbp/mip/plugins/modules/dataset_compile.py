#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dataset_compile
short_description: Compiles a node's CSV files into the engine's databases
version_added: 0.2.0
author: The hbp.mip authors (@HBPMedical)
description:
  - Makes C(datasets.db) of each pathology from its C(CDEsMetadata.json) and its C(*.csv), with the tables C(METADATA) and C(DATA) that
    the engine (exareme) reads. On the master, O(metadata_only) leaves C(DATA) empty.
  - Every cell is checked against its variable. All errors are told by file, line and column, never with the value; the values are in
    C(datasets.db.errors.txt) beside the files, until the next success.
  - A database is built beside the old one, written to the disk and put in its place by a rename. Whatever happens before that, the old
    one stays in service. Owner, group and mode are those of the old one, or the folder's owner and group and mode 0640.
  - A pathology is left as it is when nothing has changed since it was compiled, as the hashes in C(datasets.db.json) tell.
  - A pathology that cannot be compiled fails by itself, as a result; the others are compiled all the same.
  - Works with Python's standard library alone. A file needs the same memory whatever its size.
notes:
  - CSV files are UTF-8 (with or without a byte order mark), with commas, quotes as in RFC 4180, and any line ends. The columns are
    variables of the pathology, in any order; a variable without a column is NULL. The column C(dataset) must be there and filled.
    Where C(subjectcode) is a variable and a column it must be filled; in longitudinal pathologies, C(subjectid) and C(visitid) must be
    there and filled, and together occur once in a file.
  - An empty cell is V('') in a column of text and NULL in one of numbers. An integer has digits and perhaps a minus; V(50.0) is none.
attributes:
  check_mode:
    description: Can run in check mode and tell what it would compile. The content of changed files is not checked then.
    support: full
  diff_mode:
    description: Shows the hashes of what a database is compiled from, before and after.
    support: full
  idempotent:
    description: A second run compiles nothing, unless O(force=true).
    support: full
options:
  data_dir:
    description: The federation's data folder, with one folder for each pathology.
    type: path
    required: true
  pathologies:
    description: The pathologies to compile; all when the list is empty. Names that the node does not have are returned in RV(absent).
    type: list
    elements: str
    default: []
  policy:
    description: Whether a value outside its variable's enumerations or range is an error (V(strict)) or taken as it is (V(legacy)).
    type: str
    choices: [strict, legacy]
    default: strict
  metadata_only:
    description: Leave the CSV files alone and C(DATA) empty, as on the master.
    type: bool
    default: false
  force:
    description: Compile what has not changed, too.
    type: bool
    default: false
  processes:
    description: Processes that work at once; V(0) takes as many as the host has cores, but not more than 4.
    type: int
    default: 0
  errors_shown:
    description: How many errors of a pathology are returned. All are counted.
    type: int
    default: 100
"""

EXAMPLES = r"""
- name: Compile what has changed
  hbp.mip.dataset_compile:
    data_dir: /data/lab
  register: compiled

- name: On the master, the metadata of all pathologies
  hbp.mip.dataset_compile:
    data_dir: /data/lab
    metadata_only: true

- name: One pathology again, with values that its metadata do not allow
  hbp.mip.dataset_compile:
    data_dir: /data/lab
    pathologies: [dementia]
    policy: legacy
    force: true
"""

RETURN = r"""
pathologies:
  description: What was done, by pathology.
  returned: always
  type: dict
  contains:
    state:
      description: V(compiled), V(unchanged), V(failed), or in check mode V(would_compile).
      type: str
    reasons:
      description: Why the database was not up to date.
      type: list
      elements: str
    seconds:
      description: How long it took.
      type: float
    rows:
      description:
        - Rows in the database; V(<10) below 10, V(>=N) where an exact number would give away that of a small dataset.
        - Missing where it failed or was not made.
      type: raw
    errors:
      description: The first errors, with the keys C(file), C(line), C(column) (a name, or empty), C(rule) and C(message).
      type: list
      elements: dict
    errors_total:
      description: How many errors there are.
      type: int
newest:
  description: When the databases of the node changed last, in seconds since 1970; an engine that started earlier has not read them all.
  returned: always
  type: float
absent:
  description: Names in O(pathologies) that the node does not have.
  returned: always
  type: list
  elements: str
problems:
  description: Why something was not compiled, with the keys C(code), C(pathology), C(message) and C(fix).
  returned: always
  type: list
  elements: dict
"""

import os
import signal

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _children, _compile, _compiled


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "data_dir": {"type": "path", "required": True},
            "pathologies": {"type": "list", "elements": "str", "default": []},
            "policy": {"type": "str", "choices": ["strict", "legacy"], "default": "strict"},
            "metadata_only": {"type": "bool", "default": False},
            "force": {"type": "bool", "default": False},
            "processes": {"type": "int", "default": 0},
            "errors_shown": {"type": "int", "default": 100},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    for name in ("processes", "errors_shown"):
        if parameters[name] < 0:
            module.fail_json(msg="%s is %d; it must not be below 0" % (name, parameters[name]))
    options = _compile.Options(
        policy=parameters["policy"],
        metadata_only=parameters["metadata_only"],
        force=parameters["force"],
        processes=parameters["processes"],
        errors_shown=parameters["errors_shown"],
        check=module.check_mode,
    )
    compiler = _compile.Compiler(parameters["data_dir"], options)
    try:
        compiler.run(parameters["pathologies"])
    except _children.Ended as ended:
        # Everything is cleaned up; now end as the signal says.
        signal.signal(ended.number, signal.SIG_DFL)
        os.kill(os.getpid(), ended.number)
    result = {
        "changed": compiler.changed,
        "pathologies": compiler.pathologies,
        "newest": _compiled.newest(parameters["data_dir"]),
        "absent": compiler.absent,
        "problems": compiler.problems,
    }
    if module._diff:
        result["diff"] = compiler.diff
    module.exit_json(**result)


if __name__ == "__main__":
    main()
