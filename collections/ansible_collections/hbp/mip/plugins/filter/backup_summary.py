# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: backup_summary
short_description: Which manager is copied, and what a backup's manifest says
version_added: 0.3.0
description:
  - Chooses the manager whose state of the swarm is copied, which stops its engine for a moment. With several managers it is one that
    does not lead, so that the swarm goes on.
  - Tells what belongs into the manifest, and what could not be copied.
author:
  - The hbp.mip authors (@HBPMedical)
positional: hostvars
options:
  _input:
    description: The resolved federation, as M(hbp.mip.federation) returns it.
    type: dict
    required: true
  hostvars:
    description: Variables of the hosts, with what the role P(hbp.mip.backup#role) registered.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Copy the state of the swarm
  hbp.mip.swarm_snapshot:
    directory: /var/lib/mip/lab/backup
  when: inventory_hostname == (mip | hbp.mip.backup_summary(hostvars)).manager
"""

RETURN = r"""
_value:
  description: C(manager), its name or nothing; C(facts) for the manifest; C(missing), entries with C(node), C(what) and C(why).
  type: dict
"""


def _choose(federation: Mapping[str, Any], hostvars: Mapping[str, Any]) -> str:
    working = []
    for node in federation["nodes"]:
        swarm = hostvars[node["name"]].get("backup_swarm") or {} if node["manager"] else {}
        if swarm.get("local_state") == "manager":
            own: Mapping[str, Any] = next((entry for entry in swarm.get("nodes") or () if entry["id"] == swarm["node_id"]), {})
            working.append((bool(own.get("leader")), node["kind"] == "master", node["name"]))
    return min(working)[2] if working else ""


def _why(found: Mapping[str, Any]) -> str:
    return " ".join(str(found.get("msg") or "failed").split())


def backup_summary(federation: Mapping[str, Any], hostvars: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chosen manager, the facts of the manifest, and what is missing."""
    manager = _choose(federation, hostvars)
    missing = []
    state = (hostvars[manager].get("backup_state") or {}) if manager else {}
    for node in federation["nodes"]:
        name = node["name"]
        found = hostvars[name]
        wanted = ["keystore"] if node["kind"] == "master" else []
        wanted += ["portal"] if node["kind"] == "ui" and federation["ui"]["enabled"] else []
        wanted += ["data"] if federation["backup"]["include_data"] and node["backup_data"] else []
        for what in wanted:
            done = found.get(f"backup_{what}")
            if done is None:
                missing.append({"node": name, "what": what, "why": "the node did not answer"})
            elif "msg" in done and not done.get("files") and not done.get("archive"):
                missing.append({"node": name, "what": what, "why": _why(done)})
        for brought in (found.get("backup_brought") or {}).get("results") or ():
            if not brought.get("member") and "msg" in brought:
                missing.append({"node": name, "what": brought["backup_part"]["name"], "why": _why(brought)})
    if not manager:
        missing.append({"node": "", "what": "swarm", "why": "no manager of the swarm works and answers"})
    elif state and not state.get("archive") and "msg" in state:
        missing.append({"node": manager, "what": "swarm", "why": _why(state)})
    seen = (hostvars[manager].get("backup_swarm") or {}) if manager else {}
    facts = {
        "swarm": {**(state.get("swarm") or {}), "node": manager},
        "stopped_seconds": state.get("stopped_seconds", 0),
        "missing": missing,
        "nodes": [
            {
                "name": node["name"],
                "kind": node["kind"],
                "address": node["address"],
                "manager": node["manager"],
                "node_id": next((entry["id"] for entry in seen.get("nodes") or () if entry["name"] == node["name"]), ""),
                "engine_version": next((entry["engine_version"] for entry in seen.get("nodes") or () if entry["name"] == node["name"]), ""),
            }
            for node in federation["nodes"]
        ],
        "images": {"engine": federation["engine"]["image"], "keystore": federation["engine"]["keystore_image"]},
    }
    return {"manager": manager, "facts": facts, "missing": missing}


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"backup_summary": backup_summary}
