# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of a federation, for tests of what is made of it; the status is what the collection's own function says."""

from __future__ import annotations

from typing import Any

from ansible_collections.hbp.mip.plugins.plugin_utils._federation import resolve
from ansible_collections.hbp.mip.plugins.plugin_utils._service_reports import status

DIGEST = "@sha256:" + "a" * 64
EVIL = '<script>alert("x")</script>'


def federation(workers: int = 3) -> dict[str, Any]:
    """A resolved federation; one hospital is disabled, for a reason that tries to be a script."""
    engine = {"image": "r:5000/exareme:1.0", "keystore_image": "r:5000/consul:1.8"}
    names = ["hosp-ms", "hosp-ui", *(f"hosp-wk-{number}" for number in range(1, workers + 1))]
    hostvars: dict[str, dict[str, Any]] = {
        name: {"ansible_host": f"192.0.2.{number}", "mip_engine": engine} for number, name in enumerate(names, 1)
    }
    hostvars[names[-1]]["mip_disabled"] = {"reason": EVIL, "since": "2026-11-01"}
    return dict(resolve("hosp", {"master": names[:1], "ui": names[1:2], "workers": names[2:]}, hostvars))


def healthy(resolved: dict[str, Any]) -> dict[str, Any]:
    """What the managers and the engine of a federation say that is well."""
    active = [node["name"] for node in resolved["nodes"] if node["kind"] != "ui"]
    master = active[0]

    def service(name: str, image: str) -> dict[str, Any]:
        values = {"name": name, "node": name.partition("_")[0], "image": image + DIGEST, "state": "running", "desired": 1, "running": 1}
        return {**values, "error": "", "since": "", "update_state": "", "stopped_since": "", "stopped_reason": ""}

    services = [service(f"{master}_exareme-keystore", "r:5000/consul:1.8"), service(f"{master}_exareme-master", "r:5000/exareme:1.0")]
    services += [service(f"{name}_exareme", "r:5000/exareme:1.0") for name in active[1:]]
    members = [
        {
            "name": name,
            "id": f"id-{name}",
            "hostname": name,
            "role": "manager" if name == master else "worker",
            "status": "ready",
            "availability": "active",
            "address": "192.0.2.9",
            "engine_version": "20.10.24",
            "leader": name == master,
            "reachability": "",
        }
        for name in active
    ]
    view = {
        "local_state": "manager",
        "problems": [],
        "nodes": members,
        "services": services,
        "certificate_expires": "2027-02-01T00:00:00Z",
        "cluster": {"id": "c1"},
        "managers": {"total": 1, "reachable": 1, "quorum": True, "may_fail": 0},
    }
    own = {"local_state": "worker", "problems": [], "certificate_expires": "2027-01-01T00:00:00Z"}
    nodes = {name: {"swarm": view if name == master else own} for name in active}
    health = {"ok": True, "code": "ok", "seconds": 0.25, "nodes": active, "problems": []}
    held = {"ok": True, "problems": [], "datasets": {name: {"dementia": [f"edsd-{name}", "ppmi"]} for name in active[1:]}}
    return {"nodes": nodes, "engine": {"health": health, "datasets": held}}


def report(resolved: dict[str, Any], data: dict[str, Any] | None = None) -> dict[str, Any]:
    """The report of status."""
    return dict(status(resolved, data if data is not None else healthy(resolved)))


def pairs(names: list[str], fault: tuple[str, str] | None = None) -> list[dict[str, Any]]:
    """The links of a check; one of them may be at fault."""
    found = []
    for sender in names:
        for receiver in names:
            if sender != receiver:
                bad = (sender, receiver) == fault
                checks = [{"proto": "ESP", "port": None, "verdict": "dropped on the way", "level": "fault"}] if bad else []
                found.append({"from": sender, "to": receiver, "level": "fault" if bad else "ok", "checks": checks, "mtu": 1500})
    return found


def facts(**more: Any) -> dict[str, Any]:
    """Everything that a page and metrics show."""
    resolved = federation()
    run = {"n": 2, "at": "2026-11-22T10:00:00Z", "command": "deploy", "who": "ann on desk", "result": "ok", "exit_code": 0, "check": False}
    run |= {"seconds": 87.8, "changes": 49, "slowest": [["master : Run the keystore and the engine", 16.4]]}
    known = {key: run[key] for key in ("at", "result", "exit_code", "seconds", "changes", "who")}
    backup = {"at": "2026-11-21T02:00:00Z", "file": "b.tar", "size": 10, "verified": {"at": "2026-11-21T03:00:00Z", "ok": True}, "count": 3}
    return {
        "federation": "hosp",
        "at": "2026-11-22T12:00:00Z",
        "offline": False,
        "nodes": [
            {"name": node["name"], "kind": node["kind"], "disabled": group == "disabled"}
            for group in ("nodes", "disabled")
            for node in resolved[group]
        ],
        "status": report(resolved),
        "links": pairs(["hosp-ms", "hosp-wk-1", "hosp-wk-2"], ("hosp-wk-1", "hosp-ms")),
        "links_from": "as of the check of 2026-11-22T09:00:00Z",
        "datasets": [{"node": "hosp-wk-1", "pathology": "Dementia", "datasets": ["edsd", "ppmi"]}],
        "datasets_from": ", as of 2026-11-22T09:30:00Z",
        "last": {"check": None, "verify": None, "deploy": known, "backup create": None, "backups": backup},
        "runs": [run, {**run, "n": 4, "command": "verify", "result": "check", "exit_code": 4, "changes": 0, "seconds": 9.1}],
        "slowest": run["slowest"],
        "versions": {"mipfed": "0.3.0", "hbp.mip": "0.3.0", "ansible-core": "2.19.4"},
        **more,
    }
