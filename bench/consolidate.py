# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Time of a consolidation's pure part: from what the nodes told to what every node should have.

    .venv/bin/python bench/consolidate.py [--workers 100] [--pathologies 10] [--variables 200] [--runs 5]

Prints one JSON object; `seconds` is the median. Nothing is read from or written to the disk within the time, and no node is asked.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "collections"))

from ansible_collections.hbp.mip.plugins.module_utils import _cdes, _consolidation

BUDGET_SECONDS = 1.0


def cdes(pathology: str, variables: int, datasets: list[str]) -> bytes:
    """A metadata file like the published ones: as many groups, keys and bytes for a variable."""

    def variable(number: int) -> dict[str, Any]:
        nominal = number % 6 == 0
        made: dict[str, Any] = {
            "isCategorical": nominal,
            "code": f"variable_{number}",
            "sql_type": "text" if nominal else "real",
            "description": "A made variable, described at some length, as those of the published files are (±3 ’σ’).",
            "label": f"Variable number {number}",
            "units": "cm3",
            "type": "nominal" if nominal else "real",
            "methodology": "mip-cde",
        }
        if nominal:
            made["enumerations"] = [{"code": f"v{value}", "label": f"Value {value}"} for value in range(6)]
        else:
            made.update(minValue=0, maxValue=100.5)
        return made

    dataset = {
        "isCategorical": True,
        "code": "dataset",
        "sql_type": "text",
        "description": "",
        "enumerations": [{"code": code, "label": code.upper()} for code in datasets],
        "label": "Dataset",
        "units": "",
        "type": "nominal",
        "methodology": "",
    }
    numbers = list(range(variables - 1))
    groups = [
        {"variables": [variable(number) for number in numbers[start : start + 8]], "code": f"group_{start}", "label": f"Group {start}"}
        for start in range(0, len(numbers), 8)
    ]
    tree = {"variables": [dataset], "code": pathology, "version": "1.0", "groups": groups, "label": pathology.capitalize()}
    return json.dumps(tree, indent=4, ensure_ascii=False).encode()


def arguments(workers: int, pathologies: int, variables: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The master and the nodes; every worker has every pathology, half of the datasets are new to the CDEs."""
    master: dict[str, Any] = {"name": "master", "state": "present", "problems": [], "pathologies": {}}
    nodes: dict[str, Any] = {f"worker{number}": {"state": "present", "problems": [], "pathologies": {}} for number in range(workers)}
    for place in range(pathologies):
        name = f"pathology{place}"
        content = cdes(name, variables, [f"{node}-{name}" for node in list(nodes)[: workers // 2]])
        parsed = _cdes.parse(content)
        told = {
            "present": True,
            "valid": True,
            "sha256": hashlib.sha256(content).hexdigest(),
            "code": parsed.code,
            "label": parsed.label,
            "version": parsed.version,
            "model": parsed.model,
            "variables": parsed.digests,
            "datasets": [list(entry) for entry in parsed.datasets],
            "findings": [],
        }
        master["pathologies"][name] = {"cdes": {**told, **_consolidation.packed(content)}, "files": {}}
        header = [variable.code for variable in parsed.variables]
        for node in nodes:
            summary = {"columns": len(header), "header": list(header), "rows": 500, "datasets": {f"{node}-{name}": 500}, "findings": []}
            nodes[node]["pathologies"][name] = {"cdes": {**told, "variables": dict(parsed.digests)}, "files": {f"{node}.csv": summary}}
    return master, nodes


def main() -> int:
    """Measure, print, and fail above the budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--pathologies", type=int, default=10)
    parser.add_argument("--variables", type=int, default=200)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    # As the module gets them: from JSON, sharing nothing.
    master, nodes = json.loads(json.dumps(arguments(given.workers, given.pathologies, given.variables)))
    wall, cpu = [], []
    for _number in range(given.runs):
        began, used = time.perf_counter(), time.process_time()
        outcome = _consolidation.consolidate(master, nodes, {}, {}, {}, _consolidation.Options(), "2026-01-01T00:00:00Z")
        packed = [_consolidation.packed(content) for content in (*outcome.contents.values(), outcome.portal)]
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
        if outcome.problems or len(packed) != given.pathologies + 1:
            raise SystemExit(f"it did not work: {outcome.problems[:3]}")
    seconds = statistics.median(wall)
    result = {
        "bench": "consolidate",
        "workers": given.workers,
        "pathologies": given.pathologies,
        "variables": given.variables,
        "cdes_bytes": len(outcome.contents["pathology0"]),
        "datasets": sum(len(item["datasets"]) for item in outcome.plan["pathologies"].values()),
        "portal_bytes": len(outcome.portal),
        "runs": [round(value, 3) for value in wall],
        "seconds": round(seconds, 3),
        "cpu_seconds": round(statistics.median(cpu), 3),
        "budget_seconds": BUDGET_SECONDS,
        "python": platform.python_version(),
    }
    print(json.dumps(result, indent=1))
    return 0 if seconds < BUDGET_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
