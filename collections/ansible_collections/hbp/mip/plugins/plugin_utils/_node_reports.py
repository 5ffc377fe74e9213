# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: what is wrong between nodes, seen from all results of M(hbp.mip.node_check) together."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from ansible_collections.hbp.mip.plugins.module_utils._advisories import numbers
from ansible_collections.hbp.mip.plugins.module_utils._gates import mixes_badly
from ansible_collections.hbp.mip.plugins.plugin_utils._problems import Problem, problem


def engines(federation: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> tuple[list[Problem], list[Problem]]:
    """Compare the engines' versions of the nodes of the swarm.

    :arg federation: the resolved federation; its ``nodes`` and ``overlay.encrypted`` are read.
    :arg nodes: results of M(hbp.mip.node_check) by node name; nodes may be missing.
    :returns: problems and warnings, each ``{node, code, message, fix}``. ``engines-incompatible``: encrypted data does not pass between
        two of them (moby#51798), a problem. ``engines-mixed``: releases differ, a warning; patch levels may, as distributions' do.
    """
    members = [node["name"] for node in federation["nodes"] if node["kind"] != "ui" and node["name"] in nodes]
    versions = {name: str(nodes[name].get("facts", {}).get("docker", {}).get("version") or "") for name in members}
    known = {name: numbers(version) for name, version in versions.items() if numbers(version)}
    if len(known) < 2:
        return [], []
    bad = [name for name, version in known.items() if mixes_badly(version)]
    if federation["overlay"]["encrypted"] and bad and len(bad) < len(known):
        others = [name for name in known if name not in bad]
        return [
            problem(
                ", ".join(bad),
                "engines-incompatible",
                f"Docker {_listed({versions[name] for name in bad})} exchanges no encrypted overlay data with {_listed(set(others))} "
                f"({_listed({versions[name] for name in others})}): services run, names resolve, and no data passes",
                f"upgrade the engine of {_listed(set(bad))} to 25.0.19 or 29.8.2, or newer",
            )
        ], []
    releases: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name, version in known.items():
        releases[version[:2]].append(name)
    if len(releases) == 1:
        return [], []
    newest = max(releases)
    older = [name for release, names in releases.items() if release != newest for name in names]
    described = "; ".join(
        f"{'.'.join(str(number) for number in release)} on {_listed(set(names))}" for release, names in sorted(releases.items())
    )
    return [], [
        problem(
            ", ".join(older),
            "engines-mixed",
            f"the nodes run different releases of Docker: {described}",
            "run the same everywhere: upgrade the older ones one node at a time, and mipfed verify after each",
        )
    ]


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


def about(message: str, names: Collection[str]) -> bool:
    """Tell whether a message of swarm_info is about one of these nodes, or about a service that is pinned to one."""
    found = re.search(r"\bthe (?:node|manager) (\S+) \(|\bthe service ([^\s_]+)_", message)
    return bool(found and (found.group(1) or found.group(2)) in names)
