# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reports of check, status and verify as tables. Takes what is there; a report without a part has no table of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mipfed.events import Collector
from mipfed.render import cell_text, coloured, rows
from mipfed.verify_reports import network

if TYPE_CHECKING:
    from rich.console import Console


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _entries(value: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in value or () if isinstance(entry, Mapping)] if isinstance(value, (list, tuple)) else []


def check(out: Console, data: Mapping[str, Any]) -> None:
    """Write what a check found on each node."""
    table = []
    for name, node in _mapping(data.get("nodes")).items():
        facts = _mapping(node.get("facts"))
        system, docker, swarm = (_mapping(facts.get(key)) for key in ("os", "docker", "swarm"))
        free = _mapping(facts.get("disk_free_gb"))
        state = "failed" if node.get("problems") else "changed" if node.get("warnings") else "ok"
        table.append(
            (
                name,
                coloured_as(state, {"failed": "problem", "changed": "warning", "ok": "ok"}[state]),
                system.get("pretty") or system.get("id"),
                facts.get("kernel"),
                (docker.get("version") or "installed") if docker.get("installed") else "not yet",
                swarm.get("state"),
                facts.get("memory_mb"),
                min((float(value) for value in free.values() if isinstance(value, (int, float))), default=None),
            )
        )
    for name in data.get("unreachable") or ():
        table.append((name, coloured("unreachable"), *[""] * 6))
    rows(out, ("node", "verdict", "system", "kernel", "docker", "swarm", "memory MB", "disk free GB"), table)
    for name, node in _mapping(data.get("nodes")).items():
        for warning in node.get("warnings") or ():
            text = _mapping(warning).get("message") if isinstance(warning, Mapping) else warning
            out.print(f"warning: {name}: {text}", markup=False)
    for entry in _entries(data.get("warnings")):
        out.print(f"warning: {entry.get('node')}: {entry.get('message')}", markup=False)
    links(out, _mapping(data.get("links")))
    for entry in _entries(data.get("ignored")):
        out.print(f"ignored: {entry.get('node')}: {entry.get('message')} [{entry.get('code')}]", markup=False)


def links(out: Console, data: Mapping[str, Any]) -> None:
    """Write what passes between the nodes: a matrix of senders and receivers, and what has to be asked of whom."""
    pairs = {(pair["from"], pair["to"]): pair for pair in _entries(data.get("pairs"))}
    if not pairs:
        return
    colours = {"ok": "ok", "note": "changed", "unknown": "skipped", "fault": "failed"}
    senders, receivers = (list(dict.fromkeys(pair[side] for pair in pairs)) for side in (0, 1))

    def cell(sender: str, receiver: str) -> Any:
        pair = pairs.get((sender, receiver))
        if pair is None:
            return coloured_as("skipped", "·")
        level = str(pair.get("level"))
        bad = [check for check in _entries(pair.get("checks")) if check.get("level") in ("fault", "unknown")]
        words = [f"{check['proto']} {check['port'] or ''}".strip() + f" {check['verdict']}" for check in bad]
        mtu = f" {pair['mtu']}" if pair.get("mtu") else ""
        rate = _mapping(pair.get("throughput"))
        speed = "" if not rate else f"\n{rate['mb_per_s']:.1f} MB/s" if rate.get("mb_per_s") is not None else "\nnot measured"
        return coloured_as(colours.get(level, "failed"), ("\n".join(words) or f"ok{mtu}") + speed)

    table = [(sender, *(cell(sender, receiver) for receiver in receivers)) for sender in senders]
    rows(out, ("from \\ to", *receivers), table, title="Links, with the largest IP packet that passes whole")
    for reason in dict.fromkeys(rate["error"] for pair in pairs.values() if (rate := _mapping(pair.get("throughput"))).get("error")):
        out.print(f"throughput not measured: {reason}", markup=False)
    if data.get("path_mtu"):
        out.print(f"smallest path MTU: {data['path_mtu']}", markup=False)
    for note in _entries(data.get("notes")):
        out.print(f"note: {note.get('node')}: {note.get('message')}", markup=False)
    asked = [request for request in _entries(data.get("requests")) if request.get("text")]
    if asked and any(pair.get("level") == "fault" for pair in pairs.values()):
        out.print("[bold]What to ask for[/bold]")
        for request in asked:
            out.print(f"  {request.get('host') or 'the network between'}: {request['text']}", markup=False)


def coloured_as(state: str, text: str) -> Any:
    """Return a text in the colour of a state."""
    styled = coloured(state)
    styled.plain = text
    return styled


def verify(out: Console, data: Mapping[str, Any]) -> None:
    """Write what was measured between the nodes and what the engine answered."""
    rows(
        out,
        ("from", "to", "verdict", "round trip ms", "sent", "MB/s", "error"),
        (
            (
                pair.get("from"),
                pair.get("to"),
                coloured_as("ok", "ok") if pair.get("ok") else coloured("failed"),
                f"{float(pair.get('small_ms') or 0):.2f}",
                f"{float(pair.get('bytes') or 0) / 2**20:.0f} MB",
                pair.get("mb_per_s"),
                pair.get("error"),
            )
            for pair in _entries(data.get("pairs"))
        ),
        title="Links over the overlay",
    )
    network(out, data)
    engine = _mapping(data.get("engine"))
    answers = []
    for what, part in engine.items():
        part = _mapping(part)
        verdict = coloured_as("ok", "ok") if part.get("ok") else coloured("failed") if part.get("asked", True) else "not asked"
        answers.append((what, verdict, cell_text(part.get("seconds")), _answer(what, part)))
    rows(out, ("engine", "verdict", "seconds", "answer"), answers, title="Engine")
    rows(
        out,
        ("variable", "dataset", "rows", "mean", "standard deviation"),
        (
            (
                variable,
                dataset,
                f"{_mapping(values).get('num_datapoints')} of {_mapping(values).get('num_total')}",
                *(f"{float(_mapping(_mapping(values).get('data')).get(key) or 0):.2f}" for key in ("mean", "std")),
            )
            for variable, datasets in _mapping(_mapping(_mapping(engine.get("statistics")).get("data")).get("single")).items()
            for dataset, values in _mapping(datasets).items()
            # Of some variables a hospital has nothing, or too little to be told.
            if _mapping(values).get("num_datapoints")
        ),
        title="One federated statistic",
    )
    if data.get("ok"):
        out.print("The federation works.")


def _answer(what: str, part: Mapping[str, Any]) -> str:
    """Return in a few words what the engine answered."""
    if what == "health":
        return cell_text(part.get("found"))
    if what == "datasets":
        return "; ".join(
            f"{node}: {', '.join(str(code) for codes in _mapping(pathologies).values() for code in codes)}"
            for node, pathologies in sorted(_mapping(part.get("found")).items())
        )
    if what == "variables":
        return f"{len(_mapping(part.get('data')))} variables"
    if what == "statistics":
        return f"{len(_mapping(_mapping(part.get('data')).get('single')))} variables described" if part.get("ok") else ""
    return ""


def lab(out: Console, data: Mapping[str, Any]) -> None:
    """Write the machines of a lab."""
    machines = _entries(data.get("machines")) or _entries(data.get("nodes"))
    names = list(dict.fromkeys(key for machine in machines for key in machine if not isinstance(machine[key], Mapping)))
    rows(out, names, ([machine.get(name) for name in names] for machine in machines))
    for key, value in data.items():
        if key not in ("machines", "nodes", "problems") and not isinstance(value, (Mapping, list)):
            out.print(f"{key}: {cell_text(value)}", markup=False)


def changes(out: Console, collector: Collector, *, with_diff: bool) -> None:
    """Write a plan: for each host what would change."""
    hosts = dict.fromkeys(change.host for change in collector.changes)
    if not hosts:
        out.print("Nothing to do.")
        return
    for host in hosts:
        out.print(f"[bold]{host}[/bold]")
        for change in (change for change in collector.changes if change.host == host):
            role = f"{change.role.rsplit('.', 1)[-1]} : " if change.role else ""
            item = f" [{change.item}]" if change.item else ""
            out.print(f"  ~ {role}{change.task}{item}", style="yellow", markup=False)
            if change.message:
                out.print("      " + change.message.replace("\n", "\n      "), markup=False)
            if with_diff and change.diff:
                for text in change.diff.splitlines():
                    style = "green" if text.startswith("+") else "red" if text.startswith("-") else "dim"
                    out.print("      " + text, style=style, markup=False)
    tasks = len(collector.changes)
    out.print(f"{tasks} change{'s' * (tasks != 1)} on {len(hosts)} host{'s' * (len(hosts) != 1)}.")
