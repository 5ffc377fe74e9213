# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reports of status and of starting and stopping services as tables. A report without a part has no table of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mipfed import overview
from mipfed.render import cell_text, rows
from mipfed.reports import coloured_as

if TYPE_CHECKING:
    from rich.console import Console

_ACTIONS = {"started": "changed", "stopped": "changed", "restarted": "changed", "failed": "failed", "waiting": "waiting"}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _entries(value: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in value or () if isinstance(entry, Mapping)] if isinstance(value, (list, tuple)) else []


def _state(text: str, good: tuple[str, ...]) -> Any:
    return coloured_as("ok" if text.lower() in good else "failed" if text else "waiting", text)


def status(out: Console, data: Mapping[str, Any]) -> None:
    """Write the swarm, its nodes, the services, and what the engine's API answers."""
    swarm = _mapping(data.get("swarm"))
    cluster, managers = _mapping(swarm.get("cluster")), _mapping(swarm.get("managers"))
    if cluster.get("id"):
        quorum = "quorum" if managers.get("quorum") else "NO QUORUM"
        count = f"{cell_text(managers.get('reachable'))} of {cell_text(managers.get('total'))} managers reachable"
        seen = f", seen from {data['manager']}" if data.get("manager") else ""
        out.print(f"swarm {cluster['id']}, {count}, {quorum}, {cell_text(managers.get('may_fail'))} may fail{seen}", markup=False)
    leaders = {str(node.get("name") or node.get("hostname")) for node in _entries(swarm.get("nodes")) if node.get("leader")}
    table = [
        (
            node.get("name") or node.get("hostname"),
            f"{node.get('swarm') or node.get('role') or ''}{' (leader)' if node.get('name') in leaders else ''}"
            + (", by site kit" if node.get("operated") == "swarm" else ""),
            _state(str(node.get("status") or node.get("state") or ""), good=("ready", "ok")),
            node.get("availability"),
            node.get("address"),
            node.get("engine_version"),
            str(node.get("certificate_expires") or "")[:10],
        )
        for node in _entries(data.get("nodes")) or _entries(swarm.get("nodes"))
    ]
    for node in _entries(data.get("disabled")):
        since = f" since {str(node['since'])[:10]}" if node.get("since") else ""
        table.append(
            (node.get("name"), f"disabled{since}", coloured_as("waiting", str(node.get("reason"))), "", node.get("address"), "", "")
        )
    rows(out, ("node", "role", "state", "availability", "address", "engine", "certificate until"), table, title="Nodes")
    rows(
        out,
        ("service", "node", "state", "tasks", "image", "error"),
        (
            (
                service.get("name"),
                service.get("node"),
                _service_state(service),
                f"{cell_text(service.get('running'))}/{cell_text(service.get('desired'))}",
                str(service.get("image") or "").split("@")[0] + (" (another is wanted)" if service.get("drift") else ""),
                service.get("error"),
            )
            for service in _entries(data.get("services"))
        ),
        title="Services",
    )
    engine = _mapping(data.get("engine"))
    if engine.get("asked"):
        verdict = "answers" if engine.get("ok") else f"does not answer as it should ({engine.get('code')})"
        held = f"{cell_text(engine.get('dataset_count'))} datasets on {len(_mapping(engine.get('datasets')))} nodes"
        out.print(f"API {verdict}: {len(list(engine.get('nodes') or ()))} nodes active, {held}", markup=False)
    if "last" in data:
        for sentence in overview.sentences(_mapping(data["last"])):
            out.print(sentence, markup=False)
    for entry in _entries(data.get("notices")):
        out.print(f"note: {entry.get('node') or 'federation'}: {entry.get('message')} [{entry.get('code')}]", markup=False)


def _service_state(service: Mapping[str, Any]) -> Any:
    if service.get("stopped_since"):
        return coloured_as("waiting", f"stopped since {str(service['stopped_since'])[:16].replace('T', ' ')}")
    return _state(str(service.get("state") or ""), good=("running", "ok"))


def services(out: Console, data: Mapping[str, Any], *, check: bool) -> None:
    """Write what was done to each service, or would be."""
    table = []
    for service in _entries(data.get("services")):
        action = str(service.get("action") or "")
        since = f" since {service['since']}" if service.get("since") else ""
        shown = f"would be {action}" if check and action in _ACTIONS else action + (since if action in ("stopped", "unchanged") else "")
        unconfirmed = ", ".join(str(name) for name in service.get("unconfirmed") or ())
        remark = f"{unconfirmed} does not answer; it ends there when it is back" if unconfirmed else str(service.get("error") or "")
        if action == "drained":
            remark = "its node is drained; it runs once the node is active again"
        seconds = service.get("seconds")
        table.append(
            (
                service.get("name"),
                service.get("node"),
                coloured_as(_ACTIONS.get(action, "ok"), shown),
                f"{float(seconds):.1f}" if seconds else "",
                remark,
            )
        )
    if not table and not data.get("problems"):
        out.print("There is no such service on these nodes.", markup=False)
    rows(out, ("service", "node", "action", "seconds", "remark"), table)
