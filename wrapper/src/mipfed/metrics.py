# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The facts of `mipfed report` in the text format of Prometheus, for the textfile collector of node_exporter."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from mipfed.overview import timestamp

Samples = list[tuple[Mapping[str, str], float]]

#: Name without `mip_`, and what it means; all are gauges. The order is that of the file.
METRICS = {
    "report_timestamp_seconds": "When this was written.",
    "healthy": "1 when nothing is wrong with the federation.",
    "problems": "Problems, by node; an empty node stands for the federation.",
    "swarm_managers": "Managers of the swarm.",
    "swarm_managers_reachable": "Managers of the swarm that work.",
    "node_up": "1 when the node is ready in the swarm.",
    "node_disabled": "1 when the inventory disables the node.",
    "node_engine_info": "Always 1; the label tells the version of the node's Docker engine.",
    "node_certificate_expiry_timestamp_seconds": "When the node's certificate of the swarm ends.",
    "service_tasks_running": "Tasks of the service that run.",
    "service_tasks_desired": "Tasks of the service that should run; 0 when it was stopped on purpose.",
    "service_image_drift": "1 when the service runs another image than the inventory wants.",
    "engine_api_up": "1 when the analysis engine's API answers as it should.",
    "engine_api_seconds": "How long the API took to answer.",
    "engine_datasets": "Datasets that the engine knows, by node.",
    "link_ok": "1 when all that the swarm needs passes from one node to the other, as of the last check or verification.",
    "last_run_timestamp_seconds": "When the last run of the command ended.",
    "last_run_success": "1 when the last run of the command ended well.",
    "last_run_duration_seconds": "How long the last run of the command took.",
    "last_backup_timestamp_seconds": "When the last backup that is kept was made.",
    "last_backup_verified": "1 when the last backup that is kept was opened and found whole.",
}


def samples(facts: Mapping[str, Any], now: float | None = None) -> dict[str, Samples]:
    """Return the samples of each metric; a metric that nothing is known of has none."""
    found: dict[str, Samples] = {name: [] for name in METRICS}

    def add(name: str, value: Any, **labels: Any) -> None:
        if value is not None:
            found[name].append(({key: str(label) for key, label in labels.items()}, float(value)))

    status: Mapping[str, Any] = facts["status"]
    add("report_timestamp_seconds", time.time() if now is None else now)
    add("healthy", bool(status.get("ok")))
    by_node: dict[str, int] = {str(node["name"]): 0 for node in status.get("nodes") or ()}
    for problem in status.get("problems") or ():
        by_node[str(problem.get("node") or "")] = by_node.get(str(problem.get("node") or ""), 0) + 1
    for name, count in by_node.items():
        add("problems", count, node=name)
    managers = (status.get("swarm") or {}).get("managers") or {}
    add("swarm_managers", managers.get("total"))
    add("swarm_managers_reachable", managers.get("reachable"))
    for node in status.get("nodes") or ():
        labels = {"node": node["name"], "kind": node["kind"]}
        add("node_up", node.get("status") == "ready", **labels)
        add("node_disabled", 0, **labels)
        if node.get("engine_version"):
            add("node_engine_info", 1, **labels, version=node["engine_version"])
        add("node_certificate_expiry_timestamp_seconds", timestamp(node.get("certificate_expires")), **labels)
    for node in status.get("disabled") or ():
        add("node_disabled", 1, node=node["name"], kind=node["kind"])
    for service in status.get("services") or ():
        labels = {"service": service["name"], "node": service["node"], "component": service["component"]}
        add("service_tasks_running", service["running"], **labels)
        add("service_tasks_desired", service["desired"], **labels)
        add("service_image_drift", bool(service["drift"]), **labels)
    engine = status.get("engine") or {}
    if engine.get("asked"):
        add("engine_api_up", bool(engine.get("ok")))
        add("engine_api_seconds", engine.get("seconds"))
        for name, codes in (engine.get("datasets") or {}).items():
            add("engine_datasets", len(codes), node=name)
    for pair in facts.get("links") or ():
        if pair["level"] != "unknown":
            add("link_ok", pair["level"] in ("ok", "note"), **{"from": pair["from"], "to": pair["to"]})
    for command, run in (facts.get("last") or {}).items():
        if command != "backups" and run:
            add("last_run_timestamp_seconds", timestamp(run["at"]), command=command)
            add("last_run_success", run["exit_code"] == 0, command=command)
            add("last_run_duration_seconds", run["seconds"], command=command)
    backup = (facts.get("last") or {}).get("backups") or {}
    if backup:
        add("last_backup_timestamp_seconds", timestamp(backup["at"]))
        add("last_backup_verified", bool((backup.get("verified") or {}).get("ok")))
    return found


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _lines(facts: Mapping[str, Any], now: float | None) -> Iterator[str]:
    federation = str(facts["federation"])
    for name, values in samples(facts, now).items():
        if not values:
            continue
        yield f"# HELP mip_{name} {METRICS[name]}"
        yield f"# TYPE mip_{name} gauge"
        for labels, value in values:
            shown = ",".join(f'{key}="{_escaped(label)}"' for key, label in {"federation": federation, **labels}.items())
            yield f"mip_{name}{{{shown}}} {value:.15g}"


def render(facts: Mapping[str, Any], now: float | None = None) -> str:
    """Return the file."""
    return "".join(f"{line}\n" for line in _lines(facts, now))
