#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cde_consolidate
short_description: Works out which CDEs every node should have
version_added: 0.2.0
author: The hbp.mip authors (@HBPMedical)
description:
  - Takes what M(hbp.mip.dataset_info) told of the master and of all workers, and returns the CDEs (C(CDEsMetadata.json)) of each
    pathology with exactly the datasets that there are, and the portal's list of pathologies (C(pathologies.json)).
  - Of a CDE file only the list of datasets is written anew; every other byte stays. Known datasets keep their place and label.
  - It runs on the pusher and hands out nothing. The only files that it writes are O(labels) and O(record), and these only when
    something in them changes.
  - All errors are listed at once, and with any error nothing is written or returned for handing out.
attributes:
  check_mode:
    description: Can run without writing a file.
    support: full
  diff_mode:
    description: Shows the CDEs and the labels before and after, and of the portal's list the labels and datasets.
    support: full
  idempotent:
    description: With the same input nothing is written, and the same is returned.
    support: full
requirements:
  - ruamel.yaml >= 0.18 on the host that runs it
options:
  master:
    description:
      - The master, as C(name), C(pathologies) and C(problems); the latter two as M(hbp.mip.dataset_info) returns them with
        O(hbp.mip.dataset_info#module:mode=files) and O(hbp.mip.dataset_info#module:cdes_content=true).
      - A C(state) other than V(present) is an error, because the master's CDEs are the federation's.
    type: dict
    required: true
  nodes:
    description:
      - The workers by name, in the order of the inventory, each with C(state), C(pathologies) and C(problems).
      - Of a node whose state is V(away) or V(disabled) the datasets of the last time count, which are in O(record).
    type: dict
    required: true
  catalogue:
    description:
      - CDEs to use instead of the master's, by pathology, as M(hbp.mip.data_catalogue) returns them.
      - CDEs that cannot be used are a warning, and the master's are used.
    type: dict
    default: {}
  labels:
    description: >-
      YAML file of labels, C(pathologies) with a label by code and C(datasets) with a label by pathology and code. It goes before
      the CDEs, and every label in use is added to it. Comments stay.
    type: path
    required: true
  record:
    description: JSON file with what each node was last known to hold, and with every CDE that was ever returned.
    type: path
    required: true
  drop_absent:
    description: >-
      Drop the datasets of nodes that are away or disabled. They are forgotten, and so come back when the node answers again and
      not before; their labels stay.
    type: bool
    default: false
  shared_datasets:
    description: What to do with the same dataset code of a pathology on two nodes; V(merge) takes them as one dataset.
    type: str
    choices: [error, merge]
    default: error
  new_datasets:
    description: >-
      What to do with datasets that neither the CDEs nor O(labels) name; V(accept) adds them, V(refuse) is an error until they
      are in O(labels).
    type: str
    choices: [accept, refuse]
    default: accept
  cde_conflict:
    description: >-
      What to do with a worker's CDE whose meaning, apart from the list of datasets, is neither the master's nor one that was
      returned earlier; V(master) replaces it.
    type: str
    choices: [error, master]
    default: error
  expected_plan:
    description: RV(plan.id) of the plan that was agreed to; any other plan is then an error. Empty is any plan.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Work out what every node should have
  hbp.mip.cde_consolidate:
    master: "{{ seen.master }}"
    nodes: "{{ seen.nodes }}"
    labels: "{{ inventory_dir }}/labels.yml"
    record: "{{ inventory_dir }}/state/data.json"
  delegate_to: localhost
  register: consolidated
"""

RETURN = r"""
plan:
  description: >-
    What is going to change. C(id) stands for everything that is handed out; C(changes) is the number of files that are not yet
    like that, on the master, the workers that answered and (compared with the last time) the ui node.
  returned: without errors
  type: dict
  contains:
    id:
      description: SHA-256 of what is handed out and to whom.
      type: str
    changes:
      description: Number of files to change.
      type: int
    pathologies:
      description: >-
        By pathology C(label), C(version), C(source) (V(master) or V(catalogue)), C(before) and C(after) (SHA-256 of the master's
        file), C(changed), and C(datasets), each with C(code), C(label), C(nodes), C(rows) (a number, V(<10), V(>=N) or
        V(unknown)) and C(state) (V(kept), V(new), V(removed), or V(absent) for one that is kept though its nodes are away).
      type: dict
contents:
  description: By pathology the new file, as C(content) (base64 of zlib) and C(sha256).
  returned: without errors
  type: dict
portal:
  description: The portal's list of pathologies, as C(content) (base64 of zlib) and C(sha256).
  returned: without errors
  type: dict
targets:
  description: By node the pathologies whose files it should have.
  returned: without errors
  type: dict
structure:
  description: Which node holds which datasets, in the shape of the older platform's export.
  returned: without errors
  type: list
  elements: dict
new_plan:
  description: The plan as it is now, with the same keys as RV(plan).
  returned: when it is not O(expected_plan)
  type: dict
notices:
  description: What does not keep from handing out, but should be known. Keys C(node), C(code), C(message) and C(fix).
  returned: always
  type: list
  elements: dict
problems:
  description: Keys C(node), C(code), C(message) and C(fix).
  returned: with errors
  type: list
  elements: dict
mip_error:
  description: Kind of the failure.
  returned: with errors
  type: str
"""

import time
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ansible_collections.hbp.mip.plugins.module_utils import _consolidation, _labels

MOST_SHOWN = 200


def fail(module: AnsibleModule, problems: List[Dict[str, str]], warnings: List[Dict[str, str]], **more: Any) -> None:
    """Fail with all problems."""
    shown = ["%s%s" % (item["node"] + ": " if item["node"] else "", item["message"]) for item in problems[:MOST_SHOWN]]
    if len(problems) > MOST_SHOWN:
        shown.append("and %d more" % (len(problems) - MOST_SHOWN))
    module.fail_json(
        msg="nothing was consolidated:\n- " + "\n- ".join(shown), mip_error="check", problems=problems, notices=warnings, **more
    )


def portal_text(entries: Dict[str, Any]) -> str:
    """Labels and datasets of the portal's list, for a diff."""
    lines = []
    for name, item in entries.items():
        lines.append("%s: %s" % (name, item["label"]))
        lines.extend("  %s: %s" % entry for entry in item["datasets"].items())
    return "".join(line + "\n" for line in lines)


def differences(outcome: _consolidation.Outcome, labels: _labels.Labels, text: str) -> List[Dict[str, str]]:
    """What changes, for `--diff`."""
    found = []
    for name, content in outcome.contents.items():
        before = outcome.before.get(name, b"")
        if before != content:
            header = "%s/%s" % (name, _consolidation.CDES)
            found.append((header, before.decode("utf-8"), content.decode("utf-8")))
    found.append(
        ("pathologies.json (labels and datasets)", portal_text(outcome.portal_before), portal_text(outcome.record["portal"]["entries"]))
    )
    found.append((labels.path, labels.text, text))
    return [
        {"before_header": header, "after_header": header, "before": before, "after": after}
        for header, before, after in found
        if before != after
    ]


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "master": {"type": "dict", "required": True},
            "nodes": {"type": "dict", "required": True},
            "catalogue": {"type": "dict", "default": {}},
            "labels": {"type": "path", "required": True},
            "record": {"type": "path", "required": True},
            "drop_absent": {"type": "bool", "default": False},
            "shared_datasets": {"type": "str", "choices": ["error", "merge"], "default": "error"},
            "new_datasets": {"type": "str", "choices": ["accept", "refuse"], "default": "accept"},
            "cde_conflict": {"type": "str", "choices": ["error", "master"], "default": "error"},
            "expected_plan": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    if _labels.RUAMEL_MISSING:
        module.fail_json(
            msg=missing_required_lib("ruamel.yaml", reason="to keep the comments of labels.yml"), exception=_labels.RUAMEL_MISSING
        )
    given = module.params
    labels, record = _labels.Labels(given["labels"]), _labels.Record(given["record"])
    problems: List[Dict[str, str]] = []
    for code, file in (("labels", labels), ("record", record)):
        try:
            file.read()
        except _labels.FileError as error:
            problems += [{"node": "", "code": code, "message": message, "fix": fix} for message, fix in error.problems]
    options = _consolidation.Options(*(given[name] for name in _consolidation.Options._fields))
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    outcome = _consolidation.consolidate(
        given["master"], given["nodes"], given["catalogue"] or {}, labels.labels, record.record, options, now
    )
    problems += outcome.problems
    if problems:
        fail(module, problems, outcome.warnings)
    if given["expected_plan"] not in ("", outcome.plan["id"]):
        message = "what is there has changed since the plan was shown, so it is another plan now"
        changed = {"node": "", "code": "plan-changed", "message": message, "fix": "run again and look at the new plan"}
        fail(module, [changed], outcome.warnings, new_plan=outcome.plan)
    text = labels.with_labels(outcome.labels)
    noted = outcome.record != record.record
    if not module.check_mode:
        try:
            if text != labels.text:
                _labels.write(labels.path, text)
            if noted:
                _labels.write(record.path, _labels.record_text(outcome.record))
        except _labels.FileError as error:
            fail(
                module, [{"node": "", "code": "write", "message": message, "fix": fix} for message, fix in error.problems], outcome.warnings
            )
    result: Dict[str, Any] = {
        "changed": text != labels.text or noted,
        "plan": outcome.plan,
        "contents": {name: _consolidation.packed(content) for name, content in outcome.contents.items()},
        "portal": _consolidation.packed(outcome.portal),
        "targets": outcome.targets,
        "structure": outcome.structure,
        "notices": outcome.warnings,
    }
    if module._diff:
        result["diff"] = differences(outcome, labels, text)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
