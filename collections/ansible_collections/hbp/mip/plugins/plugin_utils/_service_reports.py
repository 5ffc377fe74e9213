# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: how a federation is, and what came of starting and stopping its services."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.hbp.mip.plugins.filter.chosen_services import component_of
from ansible_collections.hbp.mip.plugins.filter.engine_services import engine_services
from ansible_collections.hbp.mip.plugins.module_utils._services import is_pinned, without_digest
from ansible_collections.hbp.mip.plugins.plugin_utils import _kit_reports, _node_reports
from ansible_collections.hbp.mip.plugins.plugin_utils._problems import Problem, Report, problem

Nodes = Mapping[str, Mapping[str, Any]]

#: What a node can say of itself that the managers do not know.
_OWN_PROBLEMS = ("certificate", "engine", "locked", "pending", "no-quorum", "error")


def _members(federation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the nodes that belong into the swarm, the master first; those that joined with a site kit are reached through it only."""
    kits = [{**node, "silent": True} for node in federation.get("kits", ()) if node["site_kit"] == "member"]
    return sorted((node for node in [*federation["nodes"], *kits] if node["kind"] != "ui"), key=lambda node: node["kind"] != "master")


def _best_view(members: Iterable[Mapping[str, Any]], nodes: Nodes) -> tuple[str, Mapping[str, Any]]:
    """Return the name and the answer of the first manager that works; else of the first that answered at all."""
    names = [str(node["name"]) for node in members if node["kind"] == "master" or node.get("manager")]
    answered = [(name, nodes[name]["swarm"]) for name in names if nodes.get(name, {}).get("swarm")]
    working = [entry for entry in answered if entry[1]["local_state"] == "manager"]
    return next(iter(working or answered), (names[0], {}))


def _about(message: str, services: Iterable[Mapping[str, Any]], names: Iterable[str], default: str) -> str:
    """Return the node that a problem which a manager reports is about."""
    for service in services:
        if message.startswith(f"the service {service['name']} ") and service["node"]:
            return str(service["node"])
    found = re.match(r"the (?:node|manager) (\S+) \(", message)
    return found.group(1) if found and found.group(1) in set(names) else default


def is_drift(wanted: str, present: str) -> bool:
    """Return whether a service runs another image than it is meant to; a tag without digest stands for any digest."""
    if is_pinned(wanted):
        return wanted != present and not (is_pinned(present) and wanted.rpartition("@")[2] == present.rpartition("@")[2])
    return without_digest(wanted) != without_digest(present)


def _services(federation: Mapping[str, Any], view: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the services as the swarm runs them, each with what it belongs to and what it is meant to run."""
    wanted = {service["name"]: service for service in engine_services(federation, [])}
    found = []
    for service in view.get("services", ()):
        meant = wanted.get(service["name"])
        image = str(meant["image"]) if meant else ""
        found.append(
            {
                "stopped_since": "",
                "stopped_reason": "",
                **service,
                "component": component_of(meant) if meant else "",
                "wanted_image": image,
                "drift": bool(meant) and is_drift(image, str(service["image"])),
            }
        )
    return found


def _drift(services: Iterable[Mapping[str, Any]], nodes: Iterable[Mapping[str, Any]], deploy: str) -> list[Problem]:
    """Return where images or engines differ from what is wanted, or from one another."""
    notices = []
    digests: dict[str, dict[str, list[str]]] = {}
    for service in services:
        if service["drift"]:
            text = f"the service {service['name']} runs {service['image']}, and {service['wanted_image']} is wanted"
            notices.append(problem(service["node"], "image-drift", text, deploy))
        if is_pinned(service["image"]):
            name, _at, digest = service["image"].rpartition("@")
            digests.setdefault(name, {}).setdefault(digest, []).append(service["name"])
    for name, found in digests.items():
        if len(found) > 1:
            shown = "; ".join(f"{digest[:19]}: {', '.join(names)}" for digest, names in sorted(found.items()))
            notices.append(problem("", "image-drift", f"services run different images of the name {name}: {shown}", deploy))
    versions: dict[str, list[str]] = {}
    for node in nodes:
        if node["engine_version"]:
            versions.setdefault(node["engine_version"], []).append(node["name"])
    if len(versions) > 1:
        shown = "; ".join(f"{version}: {', '.join(names)}" for version, names in sorted(versions.items()))
        notices.append(
            problem("", "engine-drift", f"the nodes run different Docker engines: {shown}", "Upgrade the older ones, one by one")
        )
    return notices


def _engine(answers: Mapping[str, Any], master: str, resting: bool) -> tuple[dict[str, Any], list[Problem]]:
    """Return what the analysis engine answered, and what is wrong with that."""
    health, datasets = answers.get("health"), answers.get("datasets")
    engine: dict[str, Any] = {
        "asked": bool(health),
        "ok": False,
        "code": "",
        "seconds": 0.0,
        "nodes": [],
        "datasets": {},
        "dataset_count": 0,
    }
    if not health:
        return engine, []
    codes = {
        name: sorted({str(code) for found in pathologies.values() for code in found})
        for name, pathologies in ((datasets or {}).get("datasets") or {}).items()
    }
    engine.update(
        ok=bool(health["ok"]) and bool((datasets or {}).get("ok")),
        code=health["code"],
        seconds=health.get("seconds", 0.0),
        nodes=sorted(health.get("nodes") or ()),
        datasets=codes,
        dataset_count=len({code for found in codes.values() for code in found}),
    )
    if resting:
        return engine, []
    entries = [*health["problems"], *((datasets or {}).get("problems") or () if health["ok"] else ())]
    return engine, [problem(master, entry["code"], entry["message"], entry.get("fix", "")) for entry in entries]


def _drained(nodes: Iterable[Mapping[str, Any]], master: str) -> list[str]:
    """Return the names of the nodes that somebody drained and that are there; a drained master is nothing that anybody can want."""
    return [node["name"] for node in nodes if node["availability"] == "drain" and node["name"] != master]


def status(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Judge how the federation is: swarm, nodes, services, the engine's API.

    :arg data: ``nodes``, by node name, with ``swarm``, the result of swarm_info; a node that did not answer has none. ``engine``, with
        ``health`` and ``datasets``, those of exareme_query. ``only``, names of nodes that the report is restricted to.
    :returns: ``ok``; ``manager``, whose view it is; ``swarm``, that view; ``nodes``; ``services``; ``engine``; ``unreachable``;
        ``disabled``; ``notices``, what is as somebody wanted it or does no harm; ``problems``.
    """
    nodes: Nodes = data["nodes"]
    only = set(data.get("only") or ())
    members = _members(federation)
    names = [str(node["name"]) for node in members]
    asked = [str(node["name"]) for node in members if not node.get("silent") and (not only or node["name"] in only or node.get("manager"))]
    master = names[0]
    deploy = f"Run `mipfed -f {federation['name']} deploy`"
    manager, view = _best_view(members, nodes)
    unreachable = [name for name in asked if "swarm" not in nodes.get(name, {})]
    problems = [
        problem(name, "unreachable", "does not answer over SSH", f"Is it up? Try `mipfed -f {federation['name']} check -l {name}`")
        for name in unreachable
    ]
    disabled = [
        {**node["disabled"], "name": node["name"], "kind": node["kind"], "address": node["address"]}
        for node in federation.get("disabled", ())
    ]
    services = _services(federation, view)
    report: Report = {"ok": False, "manager": manager if view else "", "swarm": view, "nodes": [], "services": services}
    report |= {
        "engine": _engine({}, master, False)[0],
        "unreachable": unreachable,
        "disabled": disabled,
        "notices": [],
        "problems": problems,
    }
    if not view:
        return report
    working = view["local_state"] == "manager"
    if not working:
        fix = f"mipfed -f {federation['name']} unlock" if view["local_state"] == "locked" else deploy
        problems.append(problem(manager, f"swarm-{view['local_state']}", f"is no working manager: {view['local_state']}", fix))
    problems += [
        problem(_about(entry["message"], services, names, manager), entry["code"], entry["message"], entry.get("fix", ""))
        for entry in view["problems"]
    ]
    by_name = {node["name"]: node for node in view["nodes"] if node.get("name")}
    problems += _kit_reports.unknown(federation, view["nodes"])
    for node in members:
        name = str(node["name"])
        seen = by_name.get(name)
        own = nodes.get(name, {}).get("swarm", {})
        report["nodes"].append(
            {
                "name": name,
                "kind": node["kind"],
                "operated": "swarm" if node.get("silent") else "ssh" if node["ssh_host"] else "local",
                "role": seen["role"] if seen else "",
                "wanted_role": "manager" if node["kind"] == "master" or node.get("manager") else "worker",
                "leader": bool(seen and seen.get("leader")),
                "reachability": seen.get("reachability", "") if seen else "",
                "swarm": own.get("local_state", "unreachable" if name in unreachable else (seen or {}).get("role", "")),
                "status": seen["status"] if seen else "absent",
                "availability": seen["availability"] if seen else "",
                "address": seen["address"] if seen else "",
                "engine_version": seen["engine_version"] if seen else own.get("engine_version", ""),
                "certificate_expires": own.get("certificate_expires", ""),
            }
        )
        problems += _kit_reports.paused(federation, node, own, seen)
        if name != manager:
            entries = [entry for entry in own.get("problems", ()) if entry["code"] in _OWN_PROBLEMS]
            problems += [problem(name, entry["code"], entry["message"], entry.get("fix", "")) for entry in entries]
        if working and not seen:
            problems.append(problem(name, "not-a-member", "is not a member of the swarm, or has no label", deploy))
        elif seen and seen["role"] and seen["role"] != report["nodes"][-1]["wanted_role"]:
            text = f"is a {seen['role']} of the swarm, and the inventory wants a {report['nodes'][-1]['wanted_role']}"
            report["notices"].append(problem(name, "role-drift", text, deploy))
    running = {service["name"] for service in services}
    away = {node["name"] for node in disabled}
    if working:
        problems += [
            problem(service["node"], "service-absent", f"the service {service['name']} does not exist", deploy)
            for service in engine_services(federation, [])
            if service["name"] not in running and service["node"] not in away
        ]
    start = f"mipfed -f {federation['name']} start"
    stopped = [service for service in services if service["stopped_since"]]
    for service in stopped:
        why = f": {service['stopped_reason']}" if service["stopped_reason"] else ""
        text = f"the service {service['name']} is stopped on purpose since {service['stopped_since']}{why}"
        report["notices"].append(problem(service["node"], "stopped", text, start))
    report["notices"] += _drift(services, report["nodes"], deploy)
    resting = any(service["node"] == master and service["component"] in ("engine", "keystore") for service in stopped)
    report["engine"], wrong = _engine(data.get("engine") or {}, master, resting)
    problems += wrong
    drained = _drained(report["nodes"], master)
    report["notices"] += [
        problem(name, "drained", "is drained: its engine stays stopped", f"mipfed -f {federation['name']} node activate {name}")
        for name in drained
    ]
    problems[:] = [entry for entry in problems if entry["code"] not in ("node-drain", "service-down") or entry["node"] not in drained]
    kept = [entry for entry in problems if not _node_reports.about(entry["message"], away)]
    if only:
        kept = [entry for entry in kept if entry["node"] in only]
        report["notices"] = [entry for entry in report["notices"] if entry["node"] in only]
        report["nodes"] = [node for node in report["nodes"] if node["name"] in only]
        report["services"] = [service for service in services if service["node"] in only]
    report["problems"] = kept
    report["ok"] = not kept
    return report


def services(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Judge what came of starting, stopping or restarting services.

    :arg data: ``state`` (started, stopped, restarted), ``components`` and ``nodes`` that were asked for, and ``done``, the result of
        swarm_power or swarm_restart; empty when there was nothing to run it on.
    :returns: ``state``, ``services`` with ``name``, ``node``, ``action``, ``since``, ``seconds``, ``error``, ``fix`` and ``log``,
        ``changed``, ``problems``.
    """
    done: Mapping[str, Any] = data.get("done") or {}
    found = []
    problems: list[Problem] = []
    for service in done.get("services") or ():
        found.append({key: service.get(key, "") for key in ("name", "node", "action", "since", "reason", "seconds", "error", "fix", "log")})
        found[-1]["unconfirmed"] = list(service.get("unconfirmed") or ())
        if service["action"] == "failed":
            log = "".join(f"\n    {line}" for line in service.get("log") or ())
            text = f"the service {service['name']} is not {data['state']}: {service['error']}" + (
                f"\n  last lines of its log:{log}" if log else ""
            )
            problems.append(problem(service["node"], service.get("kind") or "failed", text, service.get("fix") or ""))
    unfinished = any(service["action"] == "waiting" for service in found) or not found
    if done.get("msg") and not problems and (done.get("errors") or unfinished):
        problems.append(problem("", "refused", str(done["msg"]), ""))
    waiting = [service for service in found if service["action"] == "waiting"]
    if waiting and problems:
        names = ", ".join(service["name"] for service in waiting)
        problems.append(
            problem("", "waiting", f"not {data['state']} because of that: {names}", "Run the same again once the reason is gone")
        )
    return {
        "state": data["state"],
        "services": found,
        "changed": bool(done.get("changed")),
        "problems": problems,
        "error": "failed",
    }
