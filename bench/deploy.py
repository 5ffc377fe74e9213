#!/usr/bin/env python3
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures a deploy on lab machines: seconds, tasks, changes and remote executions per host, for several sizes.

Each size is deployed on bare hosts, on prepared ones without a swarm (the scope of the legacy playbooks: swarm, overlay, labels,
services, with Docker and the images there), and again with nothing to do.

    bench/deploy.py [--workers 2 8] [--repeat 3] [--output bench/deploy.md]

Counts do not depend on the machine; of the seconds only the ratios say something. The lab `lab-bench` is made and removed.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
LAB = "lab-bench"
#: What the legacy playbooks took for the same scope on the same kind of machine, 2 workers (docs/performance.md).
LEGACY_FRESH_SECONDS, LEGACY_AGAIN_SECONDS = 50.0, 59.0


def mipfed(*arguments: str) -> None:
    """Run mipfed; a failure ends the bench with its output."""
    done = subprocess.run([ROOT / ".venv/bin/mipfed", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"mipfed {' '.join(arguments)} failed ({done.returncode}):\n{done.stdout}{done.stderr}")


def deploy() -> dict[str, Any]:
    """Deploy the lab once with plain ansible-playbook and return what it cost."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "ssh.log"
        environment = {
            **os.environ,
            "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}",
            "BENCH_SSH_LOG": str(log),
            "ANSIBLE_SSH_EXECUTABLE": str(ROOT / "bench/ssh"),
            "ANSIBLE_FORCE_COLOR": "0",
            "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "0",
        }
        began = time.monotonic()
        command = ["ansible-playbook", "site.yml", "-i", f"inventories/{LAB}"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - began
        if done.returncode:
            sys.exit(f"the deploy failed ({done.returncode}):\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
        executions = collections.Counter(log.read_text().split() if log.exists() else [])
    recap = re.findall(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)", done.stdout, re.MULTILINE)
    return {
        "seconds": seconds,
        "tasks": {host: int(ok) for host, ok, _changed in recap},
        "changed": sum(int(changed) for _host, _ok, changed in recap),
        "executions": dict(executions),
    }


def on_machines(master: str, others: str) -> None:
    """Run a shell command on the master, then another on every worker."""
    inventory = ROOT / "inventories" / LAB
    hosts = yaml.safe_load((inventory / "hosts.yml").read_text(encoding="utf-8"))["all"]["children"]
    ssh = ["ssh", "-i", str(inventory / "ssh/id_ed25519"), "-o", f"UserKnownHostsFile={inventory / 'known_hosts'}", "-o", "BatchMode=yes"]
    for group, command in (("master", master), ("workers", others)):
        for host in hosts[group]["hosts"].values():
            subprocess.run([*ssh, f"root@{host['ansible_host']}", command], check=True, capture_output=True)


def unswarm() -> None:
    """Take the swarm away and leave the hosts as they are, images included: where the legacy playbooks begin."""
    on_machines("docker service rm $(docker service ls -q) && sleep 3 && docker swarm leave --force", "docker swarm leave --force")


def measure(workers: int, repeat: int) -> dict[str, Any]:
    """Measure deploys of a lab with so many workers: on bare hosts, on prepared hosts without a swarm, and again."""
    runs: dict[str, Any] = {"workers": workers, "bare": [], "prepared": [], "again": []}
    for _round in range(repeat):
        mipfed("lab", "down", "--name", LAB)
        mipfed("lab", "up", "--name", LAB, "--workers", str(workers))
        runs["bare"].append(deploy())
        unswarm()
        runs["prepared"].append(deploy())
        runs["again"] += [deploy() for _time in range(2)]
    return runs


def median(runs: list[dict[str, Any]]) -> float:
    """Return the median seconds of some runs."""
    return statistics.median(run["seconds"] for run in runs)


def table(results: list[dict[str, Any]]) -> str:
    """Return the figures as Markdown, with the budgets beside them."""
    lines = [
        "| workers | run | seconds (median) | tasks per host (max) | remote executions per host (max) | changes |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        for kind in ("bare", "prepared", "again"):
            runs = result[kind]
            tasks = max(max(run["tasks"].values()) for run in runs)
            executions = max(max(run["executions"].values()) for run in runs)
            changes = max(run["changed"] for run in runs)
            lines.append(f"| {result['workers']} | {kind} | {median(runs):.1f} | {tasks} | {executions} | {changes} |")
    by_size = {result["workers"]: result for result in results}
    lines += ["", "| budget | wanted | measured |", "| --- | --- | --- |"]
    most = max(max(run["executions"].values()) for result in results for run in result["again"])
    lines.append(f"| remote executions per host, nothing to change | ≤ 10 | {most} |")
    if {2, 8} <= by_size.keys():
        lines.append(
            f"| 8 workers against 2, prepared hosts | ≤ 1.3× | {median(by_size[8]['prepared']) / median(by_size[2]['prepared']):.2f}× |"
        )
    if 2 in by_size:
        lines.append(
            f"| legacy against this, 2 workers, prepared hosts | ≥ 3× | {LEGACY_FRESH_SECONDS / median(by_size[2]['prepared']):.1f}× |"
        )
        lines.append(f"| legacy against this, 2 workers, again | ≥ 8× | {LEGACY_AGAIN_SECONDS / median(by_size[2]['again']):.1f}× |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 8], help="sizes of the lab")
    parser.add_argument(
        "--repeat",
        type=int,
        default=3,
        help="fresh deploys of each size; each is followed by one without a swarm and two with nothing to do",
    )
    parser.add_argument("--output", type=Path, help="write the tables to this file, and the raw figures beside it as JSON")
    arguments = parser.parse_args()
    try:
        results = [measure(workers, arguments.repeat) for workers in arguments.workers]
    finally:
        mipfed("lab", "down", "--name", LAB)
    print(table(results))
    if arguments.output:
        arguments.output.write_text(table(results), encoding="utf-8")
        arguments.output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
