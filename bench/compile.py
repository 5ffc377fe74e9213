#!/usr/bin/env python3
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures dataset_compile on a large CSV file, beside the legacy converter where a copy of it is given.

    bench/compile.py [--legacy convert-csv-dataset-to-db.py] [--megabytes 200] [--repeat 3] [--processes 1 2] [--output bench/compile]

The file has the rows of tests/samples/dementia (169 columns) again and again, each with a subject code of its own. The module runs as
Ansible runs it: a process with its arguments on standard input. Runs alternate; the medians count. CPU seconds are those of all
processes, and the honest figure on a machine that does other things too; memory is sampled over the tree of processes, as the sum of
RSS (which counts what processes share more than once) and of PSS (which does not). Both databases are compared, row by row.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COLLECTIONS = ROOT / "collections"
MODULE = COLLECTIONS / "ansible_collections/hbp/mip/plugins/modules/dataset_compile.py"
SAMPLE = ROOT / "tests/samples/dementia"
WANTED_RATIO, WANTED_MEGABYTES, WANTED_UNCHANGED = 2.5, 120, 1.0


def make_input(folder: Path, megabytes: int) -> int:
    """Write the pathology's files and return the number of rows."""
    folder.mkdir(parents=True)
    shutil.copy(SAMPLE / "CDEsMetadata.json", folder)
    header, *lines = (SAMPLE / "desd-synthdata.csv").read_bytes().splitlines(True)
    tails = [line.split(b",", 1)[1] for line in lines]
    rows = 0
    with (folder / "bench.csv").open("wb") as stream:
        stream.write(header)
        while stream.tell() < megabytes * 1_000_000:
            stream.write(b"".join(b"s%07d,%s" % (rows + number, tail) for number, tail in enumerate(tails)))
            rows += len(tails)
    return rows


def tree(pid: int) -> list[int]:
    """A process and all of its descendants."""
    found = [pid]
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found.extend(tree(int(child)))
    return found


def memory(pid: int) -> tuple[int, int]:
    """RSS and PSS in KiB, summed over a process and its descendants."""
    sums = [0, 0]
    for member in tree(pid):
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Rss:", "Pss:")):
                    sums[line.startswith("Pss:")] += int(line.split()[1])
    return sums[0], sums[1]


def measure(command: list[str], given: str = "") -> dict[str, Any]:
    """Run a command with this on its standard input; its output comes back with what it cost."""
    load = os.getloadavg()[0]
    peak = [0, 0]
    began = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(COLLECTIONS), "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryFile("w+") as source, tempfile.TemporaryFile("w+") as output:
        source.write(given)
        source.seek(0)
        process = subprocess.Popen(command, stdin=source, stdout=output, stderr=subprocess.STDOUT, env=environment)
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.2):
                for place, size in enumerate(memory(process.pid)):
                    peak[place] = max(peak[place], size)

        watcher = threading.Thread(target=watch)
        watcher.start()
        _pid, status, used = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        done.set()
        watcher.join()
        output.seek(0)
        text = output.read()
    if process.returncode:
        sys.exit(f"{command} failed ({process.returncode}):\n{text[-3000:]}")
    cost = {"wall": seconds, "cpu": used.ru_utime + used.ru_stime, "rss_mb": peak[0] / 1024, "pss_mb": peak[1] / 1024, "load": load}
    return {"output": text, "cost": {key: round(value, 2) for key, value in cost.items()}}


def ours(data: Path, processes: int, state: str) -> dict[str, float]:
    """Run the module, which must end in this state."""
    arguments = {"ANSIBLE_MODULE_ARGS": {"data_dir": str(data), "processes": processes}}
    found = measure([sys.executable, str(MODULE)], json.dumps(arguments))
    result = json.loads(found["output"].splitlines()[-1])
    if result["pathologies"]["dementia"]["state"] != state:
        sys.exit(f"expected {state}: {found['output'][-3000:]}")
    cost: dict[str, float] = found["cost"]
    return cost


def fresh(folder: Path) -> None:
    """Remove what was compiled, and let what others wrote reach the disk first."""
    for path in folder.glob("datasets.db*"):
        path.unlink()
    os.sync()


def same_rows(one: Path, other: Path) -> int:
    """Compare two databases cell by cell; returns the number of rows."""
    rows = 0
    with contextlib.closing(sqlite3.connect(one)) as left, contextlib.closing(sqlite3.connect(other)) as right:
        for table in ("METADATA", "DATA"):
            query = f"SELECT * FROM {table} ORDER BY rowid"  # noqa: S608
            for first, second in zip(left.execute(query), right.execute(query), strict=True):
                if first != second or list(map(type, first)) != list(map(type, second)):
                    sys.exit(f"the databases differ in {table}, row {rows + 1}")
                rows += table == "DATA"
    return rows


def median(costs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure; of memory the largest."""
    return {
        key: (max if key.endswith("_mb") else statistics.median)([cost[key] for cost in costs])
        for key in ("wall", "cpu", "rss_mb", "pss_mb", "load")
    }


def report(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"{found['bytes'] / 1e6:.0f} MB, {found['rows']} rows, 169 columns; {found['machine']}; median of {found['repeat']} runs, "
        "the maximum of memory.",
        "",
        "| run | wall s | CPU s | peak memory MB (PSS / RSS, all processes) | load when started |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, cost in found["median"].items():
        lines.append(
            f"| {name} | {cost['wall']:.1f} | {cost['cpu']:.1f} | {cost['pss_mb']:.0f} / {cost['rss_mb']:.0f} | {cost['load']:.1f} |"
        )
    lines += ["", "| budget | wanted | measured |", "| --- | --- | --- |"]
    lines += [f"| {what} | {wanted} | {measured} |" for what, wanted, measured in found["budgets"]]
    if found["compared"]:
        lines += ["", f"Both databases were compared cell by cell and type by type: {found['compared']} rows, no difference."]
    return "\n".join(lines) + "\n"


def budgets(medians: dict[str, dict[str, float]], processes: list[int]) -> list[tuple[str, str, str]]:
    """What was wanted, and what came out."""
    most = f"{max(processes)} processes" if max(processes) > 1 else "1 process"
    rows = []
    if "legacy" in medians:
        for key, what in (("wall", "wall time"), ("cpu", "CPU time")):
            ratio = medians["legacy"][key] / medians[most][key]
            rows.append(
                (f"legacy against {most} with full validation, {what}", f"≥ {WANTED_RATIO}×" if key == "wall" else "", f"{ratio:.1f}×")
            )
        ratio = medians["legacy"]["cpu"] / medians["1 process"]["cpu"] if "1 process" in medians else 0
        if ratio:
            rows.append(("legacy against 1 process, CPU time", "", f"{ratio:.1f}×"))
    peak = max(cost["rss_mb"] for name, cost in medians.items() if name != "legacy")
    rows.append(("peak memory of all processes (RSS)", f"< {WANTED_MEGABYTES} MB", f"{peak:.0f} MB"))
    rows.append(("unchanged input, wall time", f"< {WANTED_UNCHANGED:.0f} s", f"{medians['unchanged']['wall']:.2f} s"))
    rows.append(("unchanged input, CPU time", "", f"{medians['unchanged']['cpu']:.2f} s"))
    return rows


def save(options: argparse.Namespace, size: int, rows: int, costs: dict[str, list[dict[str, float]]], compared: int) -> None:
    """Write what there is; a run that is cut off leaves the rounds before."""
    medians = {name: median(found) for name, found in costs.items()}
    found = {
        "bytes": size,
        "rows": rows,
        "machine": f"{os.cpu_count()} CPUs, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}",
        "repeat": len(costs["unchanged"]),
        "runs": costs,
        "median": medians,
        "budgets": budgets(medians, options.processes),
        "compared": compared,
    }
    options.output.with_suffix(".json").write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    options.output.with_suffix(".md").write_text(report(found), encoding="utf-8")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--legacy", type=Path, help="a copy of the legacy converter, convert-csv-dataset-to-db.py")
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--scratch", type=Path, help="where the files are made, 6 times the megabytes (default: TMPDIR)")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/compile", help="path of the results, without .json and .md")
    options = parser.parse_args()
    costs: dict[str, list[dict[str, float]]] = {}
    compared = 0
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="bench-compile-") as scratch:
        data = Path(scratch) / "ours"
        rows = make_input(data / "dementia", options.megabytes)
        legacy = Path(scratch) / "legacy"
        (legacy / "dementia").mkdir(parents=True)
        for path in (data / "dementia").iterdir():
            os.link(path, legacy / "dementia" / path.name)
        size = (data / "dementia" / "bench.csv").stat().st_size
        for attempt in range(options.repeat):
            if options.legacy:
                fresh(legacy / "dementia")
                found = measure([sys.executable, str(options.legacy), "-f", str(legacy)])
                costs.setdefault("legacy", []).append(found["cost"])
                print("legacy", found["cost"], flush=True)
            for processes in options.processes:
                name = f"{processes} processes" if processes > 1 else "1 process"
                fresh(data / "dementia")
                costs.setdefault(name, []).append(ours(data, processes, "compiled"))
                print(name, costs[name][-1], flush=True)
            costs.setdefault("unchanged", []).append(ours(data, max(options.processes), "unchanged"))
            print("unchanged", costs["unchanged"][-1], flush=True)
            if options.legacy and attempt == 0:
                compared = same_rows(legacy / "dementia" / "datasets.db", data / "dementia" / "datasets.db")
            save(options, size, rows, costs, compared)
    print(options.output.with_suffix(".md").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
