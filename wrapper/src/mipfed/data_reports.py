# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reports of consolidate, compile and data as tables. Takes what is there; labels are shown as they are, without markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mipfed.render import cell_text, rows, visible
from mipfed.reports import coloured_as

if TYPE_CHECKING:
    from rich.console import Console

#: Errors and findings that are listed for one pathology of one node; with -v all that the node told.
SHOWN = 20
_STATES = {
    # datasets of a plan
    "kept": "ok",
    "new": "changed",
    "removed": "failed",
    "absent": "unreachable",
    # a node's metadata, its database, the portal's list
    "same": "ok",
    "present": "ok",
    "old": "changed",
    "differs": "failed",
    "missing": "failed",
    "compiled": "ok",
    "stale": "changed",
    "unknown": "changed",
    # a compile
    "unchanged": "ok",
    "would_compile": "changed",
    "failed": "failed",
}


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a value that should be a mapping; an empty one when it is something else."""
    return value if isinstance(value, Mapping) else {}


def entries(value: Any) -> list[Mapping[str, Any]]:
    """Return the mappings of a value that should be a list of them."""
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, (list, tuple)) else []


def _state(text: Any) -> Any:
    return coloured_as(_STATES.get(str(text), "waiting"), visible(str(text or "")).replace("_", " "))


def _say(out: Console, text: str, style: str = "") -> None:
    out.print(visible(text), style=style, markup=False)


def _files(count: int) -> str:
    return f"{count} file{'s' * (count != 1)}"


def _short(digest: Any) -> str:
    return str(digest or "")[:12]


def changed_files(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return by node the paths of the files that change (or changed) there."""
    found = {}
    for node, entry in mapping(report.get("distributed")).items():
        paths = [str(file.get("path")) for file in entries(mapping(entry).get("files")) if file.get("changed")]
        if paths:
            found[str(node)] = paths
    return found


def pending(report: Any) -> bool:
    """Tell whether a consolidation changes something: a file of a node, the label file, or what is recorded here."""
    report = mapping(report)
    failed = any(mapping(entry).get("error") for entry in mapping(report.get("distributed")).values())
    return failed or bool(changed_files(report)) or bool(report.get("labels_changed"))


def summary(report: Mapping[str, Any]) -> str:
    """Return in a sentence or two what applying a plan does, for the question."""
    changed = changed_files(report)
    count = sum(len(files) for files in changed.values())
    lines = []
    if count:
        nodes = len(changed)
        lines.append(
            f"This replaces {_files(count)} on {nodes} node{'s' * (nodes != 1)}; the previous one is kept beside each as NAME.previous."
        )
    if report.get("labels_changed"):
        lines.append("What was found, and the labels in use, are recorded beside the inventory.")
    return "\n".join(lines)


def plan(out: Console, report: Mapping[str, Any], *, check: bool, verbose: int) -> None:
    """Write the plan of a consolidation: what the federation holds, who gets what, what to mind, and differences."""
    planned = mapping(report.get("plan"))
    pathologies = mapping(planned.get("pathologies"))
    rows(
        out,
        ("pathology", "label", "version", "CDEs from", "CDEsMetadata.json", "datasets"),
        (
            (
                name,
                entry.get("label"),
                entry.get("version"),
                entry.get("source"),
                coloured_as("changed", f"{_short(entry.get('before')) or 'none'} → {_short(entry.get('after'))}")
                if entry.get("changed")
                else coloured_as("ok", "unchanged"),
                sum(dataset.get("state") != "removed" for dataset in entries(entry.get("datasets"))),
            )
            for name, entry in pathologies.items()
        ),
        title="Pathologies",
    )
    rows(
        out,
        ("pathology", "dataset", "label", "nodes", "rows", "state"),
        (
            (
                name,
                dataset.get("code"),
                dataset.get("label"),
                dataset.get("nodes"),
                _rows(dataset.get("rows")),
                coloured_as("unreachable", "absent, kept") if dataset.get("state") == "absent" else _state(dataset.get("state")),
            )
            for name, entry in pathologies.items()
            for dataset in entries(entry.get("datasets"))
        ),
        title="Datasets",
    )
    for name, entry in mapping(report.get("catalogue")).items():
        used = "" if mapping(pathologies.get(name)).get("source") == "catalogue" else " (not used)"
        _say(out, f"{name}: CDEs from {cell_text(mapping(entry).get('url'))}, SHA-256 {cell_text(mapping(entry).get('sha256'))}{used}")
    rows(
        out,
        ("node", "would get" if check else "gets", "unchanged"),
        (
            (
                node,
                coloured_as("changed", "\n".join(visible(path) for path in changed_files(report).get(node, [])) or ""),
                sum(not file.get("changed") for file in entries(mapping(entry).get("files"))) or "",
            )
            for node, entry in mapping(report.get("distributed")).items()
            if changed_files(report).get(node) or verbose
        ),
        title="Handed out",
    )
    _notes(out, report)
    for diff in entries(report.get("diffs")):
        for text in str(diff.get("diff")).splitlines():
            _say(out, text, "green" if text.startswith("+") else "red" if text.startswith("-") else "dim")
    if not planned:
        return
    if not pending(report):
        out.print("Nothing to do.")
    elif check and not changed_files(report) and report.get("labels_changed"):
        out.print("No node gets anything new; only the records beside the inventory change.")


def distribution(out: Console, report: Mapping[str, Any]) -> None:
    """Write what came of applying a plan."""
    changed = changed_files(report)
    failed = [name for name, entry in mapping(report.get("distributed")).items() if mapping(entry).get("ok") is False]
    if changed:
        count = sum(len(files) for files in changed.values())
        _say(out, f"Replaced {_files(count)} on {len(changed)} node{'s' * (len(changed) != 1)}: {', '.join(changed)}.")
    elif report.get("labels_changed") and not failed:
        out.print("The nodes have what they should have; labels and datasets are recorded beside the inventory.")
    if failed:
        _say(out, f"Not up to date: {', '.join(failed)}. The same again gives them what they lack.")


def chosen_diffs(report: Mapping[str, Any], diffs: Sequence[tuple[str, str]], *, everything: bool) -> list[dict[str, str]]:
    """Return the differences to show, as `{file, diff}`: all, or those of the CDEs that come from the data catalogue."""
    planned = mapping(mapping(report.get("plan")).get("pathologies"))
    fetched = {name for name, entry in planned.items() if mapping(entry).get("source") == "catalogue"}
    return [{"file": file, "diff": text} for file, text in diffs if everything or file.split("/")[0] in fetched]


def _notes(out: Console, report: Mapping[str, Any]) -> None:
    for warning in entries(report.get("warnings")):
        place = f"{warning['node']}: " if warning.get("node") else ""
        _say(out, f"warning: {place}{cell_text(warning.get('message'))}", "yellow")
        if warning.get("fix"):
            _say(out, f"    {warning['fix']}")
    if away := [str(name) for name in report.get("away") or ()]:
        _say(out, f"Away: {', '.join(away)}.", "magenta")


def _rows(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{node}: {_rows(count)}" for node, count in value.items())
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else cell_text(value)


def compiled(out: Console, report: Mapping[str, Any], *, data_dir: str, verbose: int, check: bool) -> None:
    """Write what was compiled where, and the errors in the files: place and rule, the values stay on the node.

    :arg data_dir: the federation's data folder on the nodes.
    """
    table = []
    listed = []
    states = set()
    for node, held in mapping(report.get("nodes")).items():
        for pathology, entry in mapping(mapping(held).get("pathologies")).items():
            entry = mapping(entry)
            states.add(str(entry.get("state")))
            total = entry.get("errors_total") or len(entries(entry.get("errors")))
            table.append(
                (
                    node,
                    pathology,
                    _state(entry.get("state")),
                    _rows(entry.get("rows")),
                    cell_text(entry.get("seconds")),
                    coloured_as("failed", f"{total}") if total else "",
                    "; ".join(str(reason) for reason in entry.get("reasons") or ()),
                )
            )
            if total:
                listed.append((node, pathology, entry, total))
    rows(out, ("node", "pathology", "state", "rows", "seconds", "errors", "because"), table)
    for node, pathology, entry, total in listed:
        out.print(f"[bold]{visible(str(node))}[/bold]")
        errors = entries(entry.get("errors"))
        shown = errors if verbose else errors[:SHOWN]
        for error in shown:
            place = ":".join(str(part) for part in (error.get("file"), error.get("line"), error.get("column")) if part not in (None, ""))
            text = ": ".join(str(part) for part in (error.get("rule"), error.get("message")) if part)
            _say(out, f"  {pathology}/{place} {text}")
        left = total - len(shown) if isinstance(total, int) else len(errors) - len(shown)
        more = f"… and {left} more. " if left > 0 else ""
        # A check writes no file on the node.
        full = "" if check else f"All, with their values, on {node}: {data_dir}/{pathology}/datasets.db.errors.txt"
        if more or full:
            _say(out, f"  {more}{full}".rstrip())
    if restarted := [str(name) for name in report.get("restarted") or ()]:
        _say(out, f"{'To be restarted' if check else 'Restarted'}: the engine of {', '.join(restarted)}.")
    _notes(out, report)
    if states and states <= {"unchanged"} and not restarted:
        out.print("Nothing to do.")


def overview(out: Console, report: Mapping[str, Any]) -> None:
    """Write what every node holds: a line for each dataset, or one for a pathology of which a node has none."""
    table = []
    found = []
    for pathology, entry in mapping(report.get("pathologies")).items():
        entry = mapping(entry)
        for node, held in mapping(entry.get("nodes")).items():
            held = mapping(held)
            cdes, database = mapping(held.get("cdes")), mapping(held.get("compiled"))
            errors, warnings = _findings(str(pathology), held)
            found += [(str(node), text) for text in warnings]
            version = " ".join(str(part) for part in (cdes.get("version"), cdes.get("state")) if part)
            reasons = "; ".join(str(reason) for reason in database.get("reasons") or ())
            state = str(database.get("state") or "")
            datasets = mapping(held.get("datasets")) or {"": ""}
            for code, count in datasets.items():
                table.append(
                    (
                        pathology,
                        node,
                        code,
                        _rows(count),
                        coloured_as(_STATES.get(str(cdes.get("state")), "waiting"), visible(version)),
                        coloured_as(_STATES.get(state, "waiting"), visible(f"{state}: {reasons}" if reasons else state)),
                        coloured_as("failed", str(errors)) if errors else "",
                    )
                )
    rows(out, ("pathology", "node", "dataset", "rows", "CDEs", "database", "problems"), table)
    if not table:
        out.print("No node has a pathology.")
    for node, text in found[:SHOWN]:
        _say(out, f"warning: {node}: {text}", "yellow")
    if len(found) > SHOWN:
        _say(out, f"… and {len(found) - SHOWN} more; -o json has all.")
    portal = mapping(report.get("portal"))
    if portal.get("node"):
        out.print("pathologies.json on", visible(str(portal["node"])) + ":", _state(portal.get("state")), markup=False)
    _notes(out, report)


def _findings(pathology: str, held: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Return how much is wrong with a pathology on a node, which the command's problems list, and what is only worth knowing."""
    errors, warnings = len(entries(held.get("problems"))), []
    for file, content in mapping(held.get("files")).items():
        for finding in entries(mapping(content).get("findings")):
            if finding.get("severity", "error") == "error":
                errors += 1
            else:
                place = f"{pathology}/{file}" + (f":{finding['line']}" if finding.get("line") else "")
                warnings.append(f"{place}: {cell_text(finding.get('message'))}")
    return errors, warnings
