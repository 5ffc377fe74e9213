# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: pure functions that judge what was collected from the nodes.

Each takes the resolved federation and the collected data and returns a report: a dictionary with at least ``problems``,
a list of ``{node, code, message, fix}``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.hbp.mip.plugins.plugin_utils import (
    _adopt_reports,
    _contact_reports,
    _images,
    _keycloak_reports,
    _kit_reports,
    _life_reports,
    _link_access,
    _link_rates,
    _links,
    _manager_reports,
    _node_reports,
    _portal_reports,
    _recovery_reports,
    _service_reports,
    _verify_reports,
)
from ansible_collections.hbp.mip.plugins.plugin_utils._data_reports import compiled, consolidate, names_of, overview
from ansible_collections.hbp.mip.plugins.plugin_utils._firewall_reports import firewall
from ansible_collections.hbp.mip.plugins.plugin_utils._problems import Problem, Report, problem

#: First line of the message when a report stops a run.
TITLES = {
    "check": "Nothing was changed: these nodes of federation {name} are not fit.",
    "status": "Federation {name} is not healthy:",
    "services": "Not all services of federation {name} are as they were asked to be:",
    "verify": "Federation {name} does not work as it should:",
    "consolidate": "The data of federation {name} are not consolidated, or not everywhere:",
    "compile": "Not all data of federation {name} are compiled:",
    "data": "The data of federation {name} are not in order:",
    "node": "Not all could be done in federation {name}:",
    "token": "The tokens of federation {name} were not replaced:",
    "kit": "The site kits of federation {name}:",
    "firewall": "The firewalls of federation {name} are not as the inventory says:",
    "adopt": "Nothing was changed: the swarm of federation {name} cannot be taken over like this.",
    "keycloak": "The Keycloak realm of federation {name} is not as it should be:",
    **_contact_reports.TITLES,
    **_manager_reports.TITLES,
    **_portal_reports.TITLES,
    **_recovery_reports.TITLES,
}


def _twins(nodes: Mapping[str, Mapping[str, Any]], key: str) -> list[tuple[str, list[str]]]:
    """Return the values of a fact that more than one node shows."""
    seen: dict[str, list[str]] = defaultdict(list)
    for name, node in nodes.items():
        value = str(node.get("facts", {}).get(key) or "")
        if value:
            seen[value].append(name)
    return [(value, names) for value, names in seen.items() if len(names) > 1]


def _swarm_of(node: Mapping[str, Any]) -> Mapping[str, Any]:
    swarm = node.get("facts", {}).get("swarm") or {}
    return swarm if isinstance(swarm, Mapping) else {}


def check(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Judge the nodes before anything is changed.

    :arg data: ``nodes``, the result of node_check by node name; a node that did not answer is not in it. ``links``, what
        :func:`_links.plan` returned, and ``link_answers``, by node name with ``listened``, ``sent`` and ``collected``, where the
        links were tried. ``firewalls``, by node name with ``shown``, what M(hbp.mip.firewall) returned with O(state=shown), of nodes
        whose own rules keep something out. ``asked``, by node name why it did not answer, empty when it did; without it all were.
        ``throughput``, whether that was measured. ``ignore``, codes of problems that shall not count.
    :returns: ``nodes`` with their facts, problems and warnings; ``problems`` of all of them and between them; ``ignored``, the problems
        that do not count; ``warnings`` between nodes; ``links``, see :func:`_links.judge`, or None; ``unreachable``.
    """
    nodes: Mapping[str, Mapping[str, Any]] = data["nodes"]
    problems = [
        problem(name, entry["code"], entry["message"], entry.get("fix", "")) for name, node in nodes.items() for entry in node["problems"]
    ]
    between, warnings = _node_reports.engines(federation, nodes)
    problems += between
    unlocked, moving = _images.judge(federation)
    problems += unlocked
    warnings += moving
    for key, what in (("machine_id", "machine id"), ("hostname", "host name")):
        for value, names in _twins(nodes, key):
            fix = (
                "Give the clone its own: rm /etc/machine-id /var/lib/dbus/machine-id && systemd-machine-id-setup && reboot"
                if key == "machine_id"
                else "hostnamectl set-hostname NAME"
            )
            problems.append(problem(", ".join(names), f"twin-{key.replace('_', '-')}", f"share the {what} {value}", fix))
    master = next(node["name"] for node in federation["nodes"] if node["kind"] == "master")
    expected = _swarm_of(nodes[master]).get("cluster_id") if master in nodes else None
    remembered = str(federation.get("remembered") or "")
    left = [name for name, node in nodes.items() if remembered and _swarm_of(node).get("cluster_id") == remembered]
    lost = left if master in nodes and not expected else []
    if lost:
        those = f"{', '.join(lost)} {'is' if len(lost) == 1 else 'are'} in the federation's ({remembered})"
        problems.append(
            problem(
                master,
                "swarm-lost",
                f"is in no swarm, and {those}: it lost its state",
                f"mipfed -f {federation['name']} recover",
            )
        )
    for node in federation["nodes"]:
        swarm = _swarm_of(nodes.get(node["name"], {}))
        cluster = swarm.get("cluster_id")
        if node["kind"] != "ui" and cluster and master in nodes and cluster != expected and node["name"] not in lost:
            of_master = f"the federation's is {expected}" if expected else f"the master {master} is in none"
            problems.append(
                problem(
                    node["name"],
                    "swarm-foreign",
                    f"is in another swarm ({cluster}; {of_master}); it was not touched",
                    "If that swarm is no longer needed, run `docker swarm leave` on the node yourself, then deploy again",
                )
            )
    links = _tried_links(federation, data, nodes)
    if links:
        problems += links["problems"]
    ignored = [entry for entry in problems if entry["code"] in names_of(data.get("ignore", ()))]
    problems = [entry for entry in problems if entry not in ignored]
    asked = data.get("asked")
    unreachable = [node["name"] for node in federation["nodes"] if node["name"] not in nodes and (asked is None or node["name"] in asked)]
    shown = {
        name: {
            "problems": node["problems"],
            "warnings": node.get("warnings_found", []),
            "notes": node.get("notes", []),
            "facts": node["facts"],
        }
        for name, node in nodes.items()
    }
    report: Report = {
        "nodes": shown,
        "links": links,
        "unreachable": unreachable,
        "problems": problems,
        "ignored": ignored,
        "warnings": warnings,
    }
    # With several managers the work for the swarm is done on another one; what is the master's own waits for it.
    working = any(_swarm_of(node).get("state") == "manager" for node in nodes.values())
    if master in unreachable and data.get("needs_master", False) and not working:
        report["problems"] = [
            problem(
                master, "unreachable", "the master does not answer, and nothing can be done without it", f"mipfed check --limit {master}"
            ),
            *problems,
        ]
        report["error"] = "unreachable"
    return report


def _tried_links(federation: Mapping[str, Any], data: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the verdict over the links, or None when they were not tried."""
    answers: Mapping[str, Mapping[str, Any]] = data.get("link_answers") or {}
    if not data.get("links") or not any(answers.values()):
        return None
    parts = {part: {name: answer.get(part) for name, answer in answers.items()} for part in ("listened", "sent", "collected")}
    # The engine of a node that is in a swarm has to listen; one that is stopped is started by a deploy.
    in_swarm = [name for name, node in nodes.items() if _swarm_of(node).get("state") in ("worker", "manager")]
    verdict = _links.judge(data["links"], parts["listened"], parts["sent"], parts["collected"], in_swarm, federation["overlay"]["mtu"])
    if federation["firewall"]["manage"]:
        shown: Mapping[str, Mapping[str, Any]] = {name: found.get("shown") or {} for name, found in (data.get("firewalls") or {}).items()}
        # Where all is set as the inventory asks, somebody else's rules keep it out, and a deploy does not change those.
        settled = [name for name, found in shown.items() if found.get("set") and found.get("drift") == []]
        opened = [name for name, node in nodes.items() if node.get("facts", {}).get("firewalls") and name not in settled]
        verdict = _links.opened_by_deploy(_links.kept_out_by_others(verdict, settled), opened)
    if data.get("throughput"):
        rates = {name: (answer.get("rates") or {}).get("pairs", ()) for name, answer in answers.items()}
        verdict = _link_rates.joined(verdict, data["links"], parts["listened"], rates)
    return _link_access.joined(verdict, federation, nodes, data.get("asked"))


def _members(federation: Mapping[str, Any]) -> list[str]:
    """Return the names of the nodes that are in the swarm, the master first."""
    return [node["name"] for node in federation["nodes"] if node["kind"] != "ui"]


def _pairs(members: list[str], nodes: Mapping[str, Mapping[str, Any]], problems: list[Problem]) -> list[dict[str, Any]]:
    """Return one result for each ordered pair; what could not be measured is a failed pair."""
    measured = {(pair["from"], pair["to"]): pair for name in members for pair in nodes.get(name, {}).get("sent", {}).get("pairs", ())}
    pairs = []
    for sender in members:
        for receiver in members:
            if sender == receiver:
                continue
            pair = measured.get((sender, receiver))
            if pair is None:
                reason = "does not answer over SSH"
                for name in (sender, receiver):
                    error = nodes.get(name, {}).get("listener", {}).get("error") or nodes.get(name, {}).get("sent", {}).get("error")
                    if error or name not in nodes or not nodes[name]:
                        reason = f"{name}: {error or reason}"
                        break
                else:
                    reason = "was not measured"
                pair = {"from": sender, "to": receiver, "ok": False, "small_ms": 0.0, "bytes": 0, "mb_per_s": 0.0, "error": reason}
            pairs.append(pair)
            if not pair["ok"] and not _verify_reports.too_large(pair):
                problems.append(
                    problem(
                        sender,
                        "overlay",
                        f"its engine's container does not reach that of {receiver}: {pair['error']}",
                        f"Allow IP protocol 50 (ESP), UDP 4789 and TCP and UDP 7946 from {sender} to {receiver} in all firewalls between",
                    )
                )
    return pairs


def verify(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Judge whether a deployed federation works.

    :arg data: ``nodes``, by node name, with ``listener``, ``sent``, perhaps ``counted`` (overlay_probe) and ``held`` (dataset_info), and
        on the master ``health``, ``datasets``, ``variables`` and ``statistics`` (exareme_query).
    :returns: ``pairs``, ``encryption``, ``overlay`` and ``stores`` (see :mod:`_verify_reports`), ``engine``, ``held``, ``ok``,
        ``problems``, ``warnings``.
    """
    nodes: Mapping[str, Mapping[str, Any]] = data["nodes"]
    members = _members(federation)
    master = members[0]
    problems: list[Problem] = []
    pairs = _pairs(members, nodes, problems)
    network, warnings = _verify_reports.network(federation, pairs, nodes, problems)
    for name in members:
        problems += [
            problem(name, entry["code"], f"{entry.get('pathology', '')}: {entry['message']}".lstrip(": "), entry.get("fix", ""))
            for entry in nodes.get(name, {}).get("held", {}).get("problems", ())
        ]
    answers = nodes.get(master, {})
    engine: dict[str, Any] = {}
    for part in ("health", "datasets", "variables", "statistics"):
        answer = answers.get(part)
        if answer is None:
            engine[part] = {"ok": False, "asked": False}
            continue
        engine[part] = {
            "ok": answer["ok"],
            "asked": True,
            "code": answer["code"],
            "seconds": answer.get("seconds", 0.0),
            "data": answer.get("data"),
        }
        problems += [problem(master, entry["code"], entry["message"], entry.get("fix", "")) for entry in answer["problems"]]
    engine["health"].update(
        expected=sorted([*members, *(str(node["name"]) for node in _kit_reports.members(federation))]),
        found=sorted(answers.get("health", {}).get("nodes") or ()),
    )
    engine["datasets"]["found"] = answers.get("datasets", {}).get("datasets") or {}
    if not engine["health"]["asked"]:
        problems.append(problem(master, "engine-not-asked", "the engine could not be asked", f"mipfed -f {federation['name']} status"))
    elif not engine["statistics"]["asked"]:
        fix = "Put data on the workers and compile them, then run verify again"
        problems.append(problem(master, "no-statistic", "no statistic was asked for: no node holds a dataset of 10 rows or more", fix))
    held = {name: nodes.get(name, {}).get("held", {}).get("codes", {}) for name in members}
    return {"pairs": pairs, **network, "engine": engine, "held": held, "ok": not problems, "problems": problems, "warnings": warnings}


REPORTS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Report]] = {
    "check": check,
    "status": _service_reports.status,
    "services": _service_reports.services,
    "verify": verify,
    "consolidate": consolidate,
    "compile": compiled,
    "data": overview,
    "node": _life_reports.node,
    "token": _life_reports.token,
    "kit": _kit_reports.kit,
    "firewall": firewall,
    "adopt": _adopt_reports.adopt,
    "keycloak": _keycloak_reports.keycloak,
    **_contact_reports.REPORTS,
    **_manager_reports.REPORTS,
    **_portal_reports.REPORTS,
    **_recovery_reports.REPORTS,
}
