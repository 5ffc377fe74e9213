# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: what there is to take over from the legacy playbooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.hbp.mip.plugins.plugin_utils._problems import Report, problem


def adopt(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Return what becomes of each service, what is to be known beforehand, and what stands in the way."""
    found, health = data["found"], data.get("health") or {}
    notices, problems = list(found["notices"]), list(found["problems"])
    master = next((str(node["name"]) for node in federation["nodes"] if node["kind"] == "master"), "")
    active = [str(name) for name in health.get("nodes") or ()]
    if found["adopt"] and not active:
        text = f"the engine's API does not answer now: {health.get('msg') or 'no node is active'}"
        if data.get("without_api"):
            notices.append(problem(master, "legacy-api", f"{text}; nothing guards the steps", ""))
        else:
            fix = "Let the old pusher bring it up (mip service status), or take over without this guard: --without-api"
            problems.append(problem(master, "legacy-api", text, fix))
    elif found["adopt"]:
        expected = {str(entry["node"]) for entry in found["services"] if entry["state"] == "adopt"}
        away = sorted(expected - set(active))
        if away:
            text = f"the engine does not know {', '.join(away)} now; that is no condition after the steps either"
            notices.append(problem(master, "legacy-inactive", text, f"mipfed -f {federation['name']} verify says more, once taken over"))
    if found["adopt"] and not data.get("sdk", True):
        text = "the master lacks Docker's library for Python; until it is installed, a dry run cannot tell what changes in services"
        notices.append(problem(master, "legacy-library", text, "apt-get install python3-docker there shows it beforehand"))
    if not found["swarm"]:
        notices.append(problem(master, "legacy-none", "the master is in no swarm, so that there is nothing to take over", ""))
    return {
        "services": found["services"],
        "adopt": found["adopt"],
        "active": active,
        "ok": not problems,
        "problems": problems,
        "notices": notices,
    }
