# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `mipfed report`: the federation as a page for people, and as metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mipfed import paths
from mipfed.errors import MipfedError, usage
from mipfed.exitcodes import ExitCode
from mipfed.options import REMOTE, command
from mipfed.outcome import Outcome
from mipfed.session import Session


def _datasets(status: Mapping[str, Any], kept: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Return the datasets by hospital, and where that is known from: by pathology from `data ls`, else what the engine says."""
    found = []
    report = kept.get("report") or {}
    for pathology, content in (report.get("pathologies") or {}).items():
        for node, held in (content.get("nodes") or {}).items():
            if held.get("datasets"):
                found.append({"node": node, "pathology": content.get("label") or pathology, "datasets": sorted(held["datasets"])})
    if found:
        return sorted(found, key=lambda entry: (entry["node"], entry["pathology"])), f", as of {kept.get('at')}"
    engine = (status.get("engine") or {}).get("datasets") or {}
    return [{"node": node, "pathology": "", "datasets": codes} for node, codes in sorted(engine.items())], ", as the engine tells"


def _links(kept: Mapping[str, Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], str]:
    """Return the links as check or verify found them, whichever was later, and where that is known from; empty when neither did.

    :arg kept: the last report of each.
    """
    found: dict[str, list[Mapping[str, Any]]] = {
        "check": ((kept["check"].get("report") or {}).get("links") or {}).get("pairs") or [],
        "verify": [
            {"from": pair["from"], "to": pair["to"], "level": "ok" if pair["ok"] else "fault", "detail": pair["error"]}
            for pair in (kept["verify"].get("report") or {}).get("pairs") or ()
        ],
    }
    last = max((verb for verb, pairs in found.items() if pairs), key=lambda verb: str(kept[verb]["at"]), default="")
    words = {"check": "the check", "verify": "the verification"}
    return (found[last], f"as of {words[last]} of {kept[last]['at']}") if last else ([], "")


def facts(
    federation: str, resolved: Mapping[str, Any], status: Mapping[str, Any], folder: Path, *, at: str, offline: bool
) -> dict[str, Any]:
    """Return everything that page and metrics show.

    :arg status: the report of status.
    :arg folder: the folder of the inventory.
    :arg at: when that was so.
    """
    from mipfed import audit, doctor, overview

    links, links_from = _links({verb: audit.kept(federation, verb) for verb in ("check", "verify")})
    datasets, datasets_from = _datasets(status, audit.kept(federation, "data"))
    runs = overview.runs(federation)
    deploys = [run for run in runs if run["command"] == "deploy" and not run["check"]]
    nodes = [
        {"name": node["name"], "kind": node["kind"], "disabled": group == "disabled"}
        for group in ("nodes", "kits", "disabled")
        for node in resolved.get(group) or ()
        if node["kind"] != "pusher"
    ]
    return {
        "federation": federation,
        "at": at,
        "offline": offline,
        "nodes": nodes,
        "status": status,
        "links": links,
        "links_from": links_from,
        "datasets": datasets,
        "datasets_from": datasets_from,
        "last": overview.last(folder, resolved, runs),
        "runs": runs,
        "slowest": deploys[-1]["slowest"] if deploys else [],
        "versions": doctor.versions(),
    }


def report(
    session: Session,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page that needs nothing but a browser.")] = None,
    prometheus: Annotated[
        Path | None, typer.Option("--prometheus", metavar="FILE", help="Write metrics, for the textfile collector of node_exporter.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Contact no host: show what was found last.")] = False,
) -> Outcome:
    """Write how the federation is into a page, or into metrics for Prometheus.

    Looks at the federation as status does, and ends as status does. Links are those that the last check or verify on this machine
    found, datasets by pathology those of the last `data ls`. Files are replaced in one step. Changes nothing.
    """
    from mipfed import audit, inventory, metrics, page, services

    if html is None and prometheus is None:
        raise usage("report: give --html FILE, --prometheus FILE, or both.")
    for path in (html, prometheus):
        if path is not None and not path.expanduser().absolute().parent.is_dir():
            raise usage(f"{path}: there is no folder {path.expanduser().absolute().parent}.")
    name = session.source.name
    if offline:
        resolved = inventory.resolve(inventory.load(session.source))
        kept = audit.kept(name, "status")
        if not kept:
            raise MipfedError(ExitCode.CHECK, f"Nobody has looked at {name} from this machine yet.", next=session.call("status"))
        outcome = Outcome(result=kept["report"])
        at = str(kept["at"])
    else:
        prepared = session.prepare()
        resolved = prepared.resolved
        outcome = services.look(session, prepared)
        at = str(audit.journal(name).now())
    if not isinstance(outcome.result, dict) or "nodes" not in outcome.result:
        return outcome
    found = facts(name, resolved, outcome.result, session.source.folder, at=at, offline=offline)
    written = []
    for path, text in ((html, page.render), (prometheus, metrics.render)):
        if path is not None:
            paths.write_atomically(path.expanduser().absolute(), text(found))
            written.append(str(path))
    outcome.result = {"files": written, "healthy": bool(outcome.result.get("ok")), "at": at}
    outcome.text = lambda out: out.print(f"Wrote {' and '.join(written)}.", markup=False)
    return outcome


def register(application: typer.Typer) -> None:
    """Give an application this command."""
    command(application, "report", REMOTE)(report)
