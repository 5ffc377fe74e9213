# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: pure functions that judge what was collected about the federation's data; see `_reports`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.hbp.mip.plugins.module_utils._consolidation import sum_of_rows
from ansible_collections.hbp.mip.plugins.plugin_utils._problems import Problem, Report, problem

#: Errors of one pathology that a message shows.
SHOWN = 5


def _by_kind(federation: Mapping[str, Any], kind: str) -> list[str]:
    return [node["name"] for node in federation["nodes"] if node["kind"] == kind]


def _away(names: Sequence[str], nodes: Mapping[str, Mapping[str, Any]], key: str) -> list[str]:
    return [name for name in names if key not in nodes.get(name, {})]


def structure(datasets: Mapping[str, Mapping[str, Collection[str]]]) -> list[dict[str, Any]]:
    """Return which node holds which datasets, in the shape that `mip data consolidate --export-data-structure` had.

    :arg datasets: codes by pathology and node.
    """
    return [
        {
            "name": pathology,
            "nodes": [
                {"name": node, "datasets": [{"name": code} for code in sorted(codes)]} for node, codes in sorted(nodes.items()) if codes
            ],
        }
        for pathology, nodes in sorted(datasets.items())
        if any(nodes.values())
    ]


def consolidate(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Judge a consolidation.

    :arg data: ``pusher``, its name, ``consolidated`` (cde_consolidate), ``answered`` (data_catalogue, or empty), ``labels`` (path of the
        label file), ``nodes``, by node name, with ``held``, ``portal``, ``files`` and ``portal_files``.
    :returns: ``plan``, ``distributed`` by node, ``portal``, ``labels_file``, ``catalogue``, ``structure``, ``warnings``, ``diff``,
        ``away``, ``problems``.
    """
    nodes: Mapping[str, Mapping[str, Any]] = data["nodes"]
    done, answered = data["consolidated"], data["answered"]
    pusher = data.get("pusher", "pusher")
    problems: list[Problem] = [
        problem(
            pusher,
            entry["code"],
            f"{entry['message']} (the CDE that the master has was used for {entry['pathology']})"
            if entry.get("pathology")
            else entry["message"],
            entry.get("fix", ""),
        )
        for entry in answered.get("problems", ())
    ]
    if "msg" in answered and "catalogue" not in answered:
        problems.append(problem(pusher, "catalogue-not-asked", f"{answered['msg']} (the CDEs that the master has were used)", ""))
    members = _by_kind(federation, "master") + _by_kind(federation, "worker")
    report: Report = {
        "plan": done.get("plan"),
        "distributed": {},
        "portal": {"sha256": "", "changed": False},
        "labels_file": data["labels"],
        "labels_changed": bool(done.get("changed")),
        "catalogue": {
            name: {"url": found["url"], "sha256": found["sha256"], "shape": found["shape"]}
            for name, found in answered.get("catalogue", {}).items()
        },
        "structure": done.get("structure", []),
        "warnings": done.get("notices", []),
        "away": _away(members, nodes, "held"),
        "problems": problems,
    }
    if "plan" not in done:
        refused = done.get("problems", ())
        problems[:0] = [problem(entry["node"], entry["code"], entry["message"], entry.get("fix", "")) for entry in refused]
        if not refused:
            problems.insert(0, problem(pusher, "consolidate-failed", str(done.get("msg", "no result")), "mipfed doctor"))
        return report
    for name in _by_kind(federation, "ui"):
        report["distributed"][name] = _handed_out(nodes.get(name, {}), "portal_files", "portal")
        report["portal"] = {"sha256": done["portal"]["sha256"], "changed": any(f["changed"] for f in report["distributed"][name]["files"])}
    for name in members:
        if done["targets"].get(name):
            report["distributed"][name] = _handed_out(nodes.get(name, {}), "files", "held")
    problems += [
        problem(entry["node"] or pusher, entry["code"], entry["message"], entry.get("fix", ""))
        for entry in done.get("notices", ())
        if entry["code"].startswith("catalogue-")
    ]
    again = f"mipfed -f {federation['name']} data consolidate"
    for name, result in report["distributed"].items():
        if result["error"]:
            problems.append(problem(name, "distribution", f"did not get what it should have: {result['error']}", f"Then again: {again}"))
    return report


def _handed_out(node: Mapping[str, Any], key: str, seen: str) -> dict[str, Any]:
    """Return what came of handing files to one node: ``files``, ``ok``, ``error``."""
    result = node.get(key, {})
    files = [{name: entry.get(name) for name in ("path", "before", "after", "changed")} for entry in result.get("files", ())]
    error = ""
    if result.get("failed"):
        error = str(result.get("msg", "failed"))
    elif seen not in node:
        # The reason is an unreachable host, which the run itself reports.
        return {"files": [], "ok": False, "error": ""}
    return {"files": files, "ok": not error, "error": error}


def compiled(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Judge a compile.

    :arg data: ``nodes``, by node name, with ``compiled`` (dataset_compile) and on the master ``restarted`` (swarm_restart);
        ``pathologies`` and ``asked`` (nodes), what was asked for, empty for all.
    :returns: ``nodes`` with their pathologies, ``restarted``, ``away``, ``problems``.
    """
    nodes: Mapping[str, Mapping[str, Any]] = data["nodes"]
    members = _by_kind(federation, "master") + _by_kind(federation, "worker")
    asked = names_of(data["asked"]) or members
    problems: list[Problem] = [
        problem(name, "unknown-node", "is no master and no worker of the federation", f"Nodes: {', '.join(members)}")
        for name in asked
        if name not in members
    ]
    shown: dict[str, Any] = {}
    found: set[str] = set()
    for name in members:
        result = nodes.get(name, {}).get("compiled")
        if result is None:
            continue
        if result.get("failed"):
            problems.append(
                problem(name, "compile-failed", str(result.get("msg", "failed")), f"mipfed -f {federation['name']} check -l {name}")
            )
            continue
        shown[name] = {"pathologies": result["pathologies"]}
        found |= set(result["pathologies"])
        problems += [
            problem(name, entry["code"], f"{entry['pathology']}: {entry['message']}".removeprefix(": "), entry.get("fix", ""))
            for entry in result["problems"]
            # Told below, with the places.
            if entry["code"] != "data-invalid"
        ]
        for pathology, entry in result["pathologies"].items():
            if entry["state"] == "failed" and entry["errors_total"]:
                problems.append(_bad_cells(federation, name, pathology, entry))
    missing = [pathology for pathology in names_of(data["pathologies"]) if pathology not in found]
    if missing and shown:
        known = f"Pathologies there: {', '.join(sorted(found))}" if found else ""
        problems += [problem(", ".join(shown), "unknown-pathology", f"have no pathology {pathology}", known) for pathology in missing]
    restart: Mapping[str, Any] = next((nodes[name].get("restarted", {}) for name in _by_kind(federation, "master") if name in nodes), {})
    if restart.get("not_restarted") or ("services" not in restart and restart.get("msg") and not restart.get("engine_missing")):
        # The module names each service, its node, the reason and what to do.
        problems.append(
            problem(_by_kind(federation, "master")[0], "restart-failed", str(restart["msg"]), f"mipfed -f {federation['name']} status")
        )
    return {
        "nodes": shown,
        "restarted": [entry["node"] for entry in restart.get("services", ()) if entry["action"] == "restarted"],
        "away": [name for name in asked if name in members and "compiled" not in nodes.get(name, {})],
        "problems": problems,
    }


def names_of(given: str | Sequence[str]) -> list[str]:
    """Return names that are given as a list or, as AWX and ``-e`` do, as one text with commas."""
    parts = given.split(",") if isinstance(given, str) else given
    return [part.strip() for part in parts if part.strip()]


def _bad_cells(federation: Mapping[str, Any], node: str, pathology: str, entry: Mapping[str, Any]) -> Problem:
    """Return the problem of a pathology whose files have errors. Values stay on the node."""
    lines = [
        ":".join(str(part) for part in (error["file"], error["line"], error["column"]) if part) + f" {error['message']}"
        for error in entry["errors"][:SHOWN]
    ]
    total = entry["errors_total"]
    more = [f"and {total - len(lines)} more"] if total > len(lines) else []
    path = f"{federation['data_dir']}/{pathology}/datasets.db.errors.txt"
    return problem(
        node,
        "compile-failed",
        f"{pathology} was not compiled and stays as it was; {total} error{'s' * (total != 1)}: " + "; ".join([*lines, *more]),
        f"Correct the CSV files on {node}, then compile again; {path} there lists all errors with their values",
    )


def overview(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Judge what every node holds.

    :arg data: ``nodes``, by node name, with ``held`` (dataset_info, mode files) and ``portal`` (stat of pathologies.json);
        ``record``, what cde_consolidate keeps: its keys ``handed_out`` and ``portal`` are read.
    :returns: ``pathologies``, ``portal``, ``structure``, ``away``, ``problems``.
    """
    nodes: Mapping[str, Mapping[str, Any]] = data["nodes"]
    record: Mapping[str, Any] = data.get("record") or {}
    handed_out = {name: [item["sha256"] for item in items] for name, items in record.get("handed_out", {}).items()}
    master, members = _by_kind(federation, "master")[0], _by_kind(federation, "master") + _by_kind(federation, "worker")
    problems: list[Problem] = []
    pathologies: dict[str, Any] = {}
    codes: dict[str, dict[str, list[str]]] = {}
    of_master = nodes.get(master, {}).get("held", {}).get("pathologies", {})
    for name in members:
        held = nodes.get(name, {}).get("held", {})
        by_pathology: dict[str, list[Mapping[str, Any]]] = {}
        for entry in held.get("problems", ()):
            problems.append(problem(name, entry["code"], entry["message"], entry.get("fix", "")))
            by_pathology.setdefault(entry["pathology"], []).append(entry)
        for pathology, found in held.get("pathologies", {}).items():
            reference = of_master.get(pathology, {}).get("cdes", {})
            entry = pathologies.setdefault(
                pathology,
                {key: reference.get(key, "") for key in ("label", "version", "sha256")} | {"nodes": {}},
            )
            datasets = _rows(found["files"].values())
            if name != master:
                codes.setdefault(pathology, {})[name] = sorted(datasets)
            state = _version(found["cdes"], reference, handed_out.get(pathology, ()))
            entry["nodes"][name] = {
                "cdes": {"sha256": found["cdes"]["sha256"], "version": found["cdes"].get("version", ""), "state": state},
                "compiled": found["compiled"],
                "datasets": datasets,
                "files": {
                    file: {"rows": content["rows"], "sha256": content["sha256"], "findings": content["findings"]}
                    for file, content in found["files"].items()
                },
                "problems": by_pathology.get(pathology, []),
            }
            problems += _stale(federation, name, pathology, state, found)
    return {
        "pathologies": pathologies,
        "portal": _portal(federation, nodes, record.get("portal", {}).get("sha256", ""), problems),
        "structure": structure(codes),
        "away": _away(members, nodes, "held"),
        "problems": problems,
    }


def _rows(files: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the rows of each dataset over all files: a number, or a text such as ``<10`` or ``>=N`` where it may not be told."""
    counts: dict[str, list[Any]] = {}
    for file in files:
        for code, rows in file["datasets"].items():
            counts.setdefault(code, []).append(rows)
    return {code: sum_of_rows(rows) for code, rows in sorted(counts.items())}


def _version(cdes: Mapping[str, Any], reference: Mapping[str, Any], handed_out: Collection[str]) -> str:
    """Return how a node's CDE compares with the master's: same, old (it was handed out once), differs, or missing."""
    if not cdes["present"]:
        return "missing"
    if cdes["sha256"] == reference.get("sha256"):
        return "same"
    return "old" if cdes["sha256"] in handed_out or cdes.get("model") == reference.get("model") else "differs"


def _stale(federation: Mapping[str, Any], node: str, pathology: str, state: str, found: Mapping[str, Any]) -> list[Problem]:
    """Return what has to be done about a pathology on a node, beyond the problems that the node found itself."""
    call = f"mipfed -f {federation['name']} data"
    problems = []
    if state == "old":
        problems.append(
            problem(node, "cdes-old", f"{pathology}: its CDEsMetadata.json is an older one than the master's", f"{call} consolidate")
        )
    elif state == "differs":
        problems.append(
            problem(
                node, "cdes-differs", f"{pathology}: its CDEsMetadata.json was changed there and is not the master's", f"{call} consolidate"
            )
        )
    for file, content in found["files"].items():
        problems += [
            problem(
                node,
                f"csv-{finding['code']}",
                f"{pathology}/{file}" + (f":{finding['line']}" if finding.get("line") else "") + f": {finding['message']}",
                f"Correct the file on {node}",
            )
            for finding in content["findings"]
            if finding.get("severity", "error") == "error"
        ]
    compiled_state = found["compiled"]["state"]
    if compiled_state != "compiled":
        reasons = "; ".join(found["compiled"]["reasons"])
        problems.append(
            problem(node, f"database-{compiled_state}", f"{pathology}: its database is not up to date: {reasons}", f"{call} compile")
        )
    return problems


def _portal(federation: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]], wanted: str, problems: list[Problem]) -> dict[str, Any]:
    """Return what the ui node has of the portal's list of pathologies, compared with what was last handed out (`wanted`, if known)."""
    for name in _by_kind(federation, "ui"):
        stat = nodes.get(name, {}).get("portal", {}).get("stat")
        if stat is None:
            return {"node": name, "state": "unknown", "sha256": ""}
        found = stat.get("checksum", "") if stat["exists"] else ""
        state = "missing" if not found else "unknown" if not wanted else "same" if found == wanted else "old"
        if wanted and state != "same":
            message = "has no pathologies.json" if state == "missing" else "has another pathologies.json than was handed out last"
            problems.append(problem(name, f"portal-{state}", message, f"mipfed -f {federation['name']} data consolidate"))
        return {"node": name, "state": state, "sha256": found}
    return {"node": "", "state": "unknown", "sha256": ""}
