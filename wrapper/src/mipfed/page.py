# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of `mipfed report --html`: one file, without scripts, that asks the network for nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mipfed import overview

_TEMPLATE = "report.html.j2"
#: Words for the states of links, nodes and services; never the colour alone tells.
LEVELS = {"ok": "ok", "note": "ok, with a note", "unknown": "not known", "fault": "fault"}

#: So many hospitals have room around the master.
AROUND = 6


def _state(node: Mapping[str, Any], problems: set[str]) -> str:
    if node.get("status") != "ready":
        return "bad"
    return "doubt" if node["name"] in problems or node.get("availability") != "active" else "good"


def topology(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return where each node stands in the drawing, and the lines between them: the master in the middle, the hospitals around it, or
    in rows below it when there are many."""
    status = facts["status"]
    states = {node["name"]: node for node in status.get("nodes") or ()}
    problems = {str(entry.get("node")) for entry in status.get("problems") or ()}
    around = [node for node in facts["nodes"] if node["kind"] == "worker"]
    width, radius, grid = 760, (260.0, 150.0), len(around) > AROUND
    centre = (width / 2, 210.0)
    height = centre[1] + (40 + 80 * math.ceil(len(around) / 4) if grid else radius[1]) + 60
    drawn: list[dict[str, Any]] = []

    def draw(node: Mapping[str, Any], x: float, y: float) -> None:
        known = states.get(node["name"])
        state = "off" if node.get("disabled") else _state(known, problems) if known else "plain"
        said = {"off": "disabled", "bad": "away", "doubt": "with problems", "good": "ready", "plain": ""}[state]
        drawn.append({"name": node["name"], "kind": node["kind"], "x": round(x, 1), "y": round(y, 1), "state": state, "said": said})

    for number, node in enumerate(around):
        if grid:
            draw(node, 95 + 190 * (number % 4), centre[1] + 120 + 80 * (number // 4))
            continue
        # From the right of the top on, so that the place above the master stays free for the ui node.
        angle = -math.pi / 2 + 2 * math.pi * (number + 1) / (len(around) + 1)
        draw(node, centre[0] + radius[0] * math.cos(angle), centre[1] + radius[1] * math.sin(angle))
    for node in facts["nodes"]:
        if node["kind"] == "master":
            draw(node, *centre)
        elif node["kind"] == "ui":
            draw(node, centre[0], centre[1] - radius[1])
    places = {node["name"]: node for node in drawn}
    master = next(node["name"] for node in drawn if node["kind"] == "master")
    levels: dict[frozenset[str], str] = {}
    order = list(LEVELS)
    for pair in facts["links"]:
        key = frozenset((str(pair["from"]), str(pair["to"])))
        levels[key] = max(levels.get(key, "ok"), str(pair["level"]), key=lambda level: order.index(level) if level in order else 3)
    lines = []
    for node in drawn:
        if node["name"] != master:
            level = levels.get(frozenset((master, node["name"])), "unknown")
            lines.append({"from": places[master], "to": node, "level": level, "said": LEVELS[level]})
    for key, level in levels.items():
        ends = [places[name] for name in sorted(key) if name in places]
        if level == "fault" and master not in key and len(ends) == 2:
            lines.append({"from": ends[0], "to": ends[1], "level": level, "said": LEVELS[level]})
    return {"width": width, "height": round(height), "nodes": drawn, "lines": lines}


def matrix(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the links as a table: names, and by sender and receiver the verdict in words."""
    names = list(dict.fromkeys([str(pair["from"]) for pair in pairs] + [str(pair["to"]) for pair in pairs]))
    cells: dict[str, dict[str, dict[str, str]]] = {name: {} for name in names}
    for pair in pairs:
        bad = [check for check in pair.get("checks") or () if check.get("level") in ("fault", "unknown")]
        words = [f"{check['proto']} {check.get('port') or ''} {check['verdict']}".replace("  ", " ") for check in bad]
        detail = ", ".join(words) or pair.get("detail") or (f"MTU {pair['mtu']}" if pair.get("mtu") else "")
        cells[str(pair["from"])][str(pair["to"])] = {
            "level": str(pair["level"]),
            "word": LEVELS.get(str(pair["level"]), "fault"),
            "detail": detail,
        }
    return {"names": names, "cells": cells}


def image(text: str) -> str:
    """Return an image's name with its tag, and the beginning of its digest."""
    name, _at, digest = text.partition("@sha256:")
    return f"{name} @{digest[:12]}" if digest else name


def render(facts: Mapping[str, Any]) -> str:
    """Return the page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"image": image, "words": lambda text: re.sub(r"[_-]", " ", str(text))}
    made = str(facts["at"])
    return environment.get_template(_TEMPLATE).render(
        facts=facts,
        status=facts["status"],
        drawing=topology(facts),
        links=matrix(facts["links"]),
        certificate=overview.certificates(facts["status"].get("nodes") or ()),
        sentences=overview.sentences(facts["last"]),
        runs=list(reversed(facts["runs"]))[:50],
        longest=max((run["seconds"] for run in facts["runs"][-50:]), default=0) or 1,
        made=made,
    )
