#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: exareme_query
short_description: Asks the engine's API and reads what it really answered
version_added: 0.1.0
author: The hbp.mip authors (@HBPMedical)
description:
  - Runs an algorithm on an Exareme master, or lists its algorithms, and interprets the body. The engine answers many errors
    with status 200.
  - Compares the answer of C(HEALTH_CHECK) and C(LIST_DATASET) with what should be there.
  - The engine keeps one set of parameters for each algorithm, so do not run one algorithm twice at the same time.
attributes:
  check_mode:
    description: Can run in check mode and asks the same, because asking changes nothing.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
  idempotent:
    description: Asking changes nothing.
    support: full
options:
  url:
    description: Address of the API.
    type: str
    required: true
  algorithm:
    description: Name of the algorithm, for example V(HEALTH_CHECK); without it the algorithms are listed.
    type: str
  parameters:
    description: Parameters by name; lists are joined with commas, other values are turned into text.
    type: dict
    default: {}
  timeout:
    description: Seconds for one call.
    type: float
    default: 60
  wait:
    description: Seconds during which the call is repeated until there is no problem; 0 asks once.
    type: float
    default: 0
  interval:
    description: Seconds between two calls while waiting.
    type: float
    default: 3
  expect_nodes:
    description: With V(HEALTH_CHECK), the names that must be active, no more and no less.
    type: list
    elements: str
  expect_datasets:
    description:
      - With V(LIST_DATASET), the dataset codes that must be offered, by node and by pathology, no more and no less.
      - Nodes and pathologies without datasets may be left out.
    type: dict
  validate_certs:
    description: Whether an HTTPS server must have a valid certificate.
    type: bool
    default: true
  fail_on_problems:
    description: Whether to fail when there is a problem.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Are all nodes active?
  hbp.mip.exareme_query:
    url: http://192.0.2.11:9090
    algorithm: HEALTH_CHECK
    expect_nodes: [lab-ms, lab-wk-1, lab-wk-2]
    wait: 120

- name: Describe one variable
  hbp.mip.exareme_query:
    url: http://192.0.2.11:9090
    algorithm: DESCRIPTIVE_STATS
    parameters: {pathology: dementia, dataset: [edsd], "y": [lefthippocampus], filter: ""}
"""

RETURN = r"""
ok:
  description: Whether the engine answered and everything is as expected.
  returned: always
  type: bool
code:
  description: >-
    V(ok), or what went wrong with the call itself. V(refused), V(unreachable), V(timeout), V(unexpected), V(nodes-silent),
    V(datasets-unavailable), V(engine-error), V(algorithm-unknown), V(parameter-missing), V(pathology-unknown),
    V(dataset-unknown), V(cde-unknown), V(insufficient-data) or V(refused-request).
  returned: always
  type: str
problems:
  description: >-
    Everything that is wrong, with C(code), C(message) and C(fix); the call itself or V(node-missing), V(node-unexpected),
    V(node-twice), V(dataset-missing), V(dataset-unexpected).
  returned: always
  type: list
  elements: dict
status:
  description: HTTP status, 0 without an answer.
  returned: always
  type: int
data:
  description: The engine's answer, without its envelope.
  returned: always
  type: raw
nodes:
  description: The active nodes.
  returned: with V(HEALTH_CHECK), when the engine answered
  type: list
  elements: str
datasets:
  description: Dataset codes by node and pathology, without empty ones.
  returned: with V(LIST_DATASET), when the engine answered
  type: dict
algorithms:
  description: Names of the algorithms.
  returned: without O(algorithm), when the engine answered
  type: list
  elements: str
seconds:
  description: How long the last call took.
  returned: always
  type: float
attempts:
  description: How many calls were made.
  returned: always
  type: int
"""

import re
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _exareme


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_text(item) for item in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _ask(given: dict[str, Any], parameters: dict[str, str]) -> dict[str, Any]:
    algorithm = given["algorithm"] or ""
    started = time.monotonic()
    answer = _exareme.call(given["url"], algorithm, parameters, given["timeout"], given["validate_certs"])
    result: dict[str, Any] = {
        "code": answer.code,
        "status": answer.status,
        "data": answer.data,
        "seconds": round(time.monotonic() - started, 3),
        "problems": [],
    }
    if not answer.ok:
        result["problems"].append({"code": answer.code, "message": answer.message, "fix": answer.fix})
    else:
        try:
            if algorithm == "HEALTH_CHECK":
                result["nodes"] = _exareme.active_nodes(answer.data)
                if given["expect_nodes"] is not None:
                    result["problems"] += _exareme.compare_nodes(result["nodes"], given["expect_nodes"])
            elif algorithm == "LIST_DATASET":
                result["datasets"] = _exareme.datasets(answer.data)
                if given["expect_datasets"] is not None:
                    result["problems"] += _exareme.compare_datasets(result["datasets"], given["expect_datasets"])
            elif not algorithm:
                result["algorithms"] = sorted(str(item["name"]) for item in answer.data)
        except (ValueError, KeyError, TypeError) as error:
            result["code"] = "unexpected"
            result["problems"].append(
                {
                    "code": "unexpected",
                    "message": "%s answered in a form that is not known: %s" % (algorithm or "algorithms.json", error),
                    "fix": "is this the API of an Exareme master of a supported version?",
                }
            )
    result["ok"] = not result["problems"]
    return result


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "algorithm": {"type": "str"},
            "parameters": {"type": "dict", "default": {}},
            "timeout": {"type": "float", "default": 60},
            "wait": {"type": "float", "default": 0},
            "interval": {"type": "float", "default": 3},
            "expect_nodes": {"type": "list", "elements": "str"},
            "expect_datasets": {"type": "dict"},
            "validate_certs": {"type": "bool", "default": True},
            "fail_on_problems": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    given = module.params
    if given["algorithm"] and not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", given["algorithm"]):
        module.fail_json(msg="algorithm: %r is not the name of an algorithm" % given["algorithm"])
    if given["timeout"] <= 0:
        module.fail_json(msg="timeout: must be more than 0 seconds")
    for node, held in (given["expect_datasets"] or {}).items():
        if not isinstance(held, dict) or not all(isinstance(codes, list) for codes in held.values()):
            module.fail_json(msg="expect_datasets: %s must hold lists of dataset codes by pathology" % node)
    parameters = {str(name): _text(value) for name, value in given["parameters"].items()}
    deadline = time.monotonic() + given["wait"]
    attempts = 0
    while True:
        attempts += 1
        try:
            result = _ask(given, parameters)
        except _exareme.UrlError as error:
            module.fail_json(msg=str(error))
        if result["ok"] or time.monotonic() + given["interval"] > deadline:
            break
        time.sleep(max(given["interval"], 0.1))
    result.update(changed=False, attempts=attempts)
    if result["problems"] and given["fail_on_problems"]:
        lines = ["- %(code)s: %(message)s. Next: %(fix)s" % problem for problem in result["problems"]]
        module.fail_json(msg="%s at %s:\n%s" % (given["algorithm"] or "the API", given["url"], "\n".join(lines)), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
