# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the data playbooks pass from one host to another."""

from __future__ import annotations

from typing import Any

from ansible_collections.hbp.mip.plugins.filter.engines_to_refresh import engines_to_refresh
from ansible_collections.hbp.mip.plugins.filter.held_data import held_data
from ansible_collections.hbp.mip.plugins.filter.outdated_files import outdated_files

FEDERATION = {
    "name": "hosp",
    "nodes": [
        {"name": "ms", "kind": "master"},
        {"name": "ui", "kind": "ui"},
        {"name": "a", "kind": "worker"},
        {"name": "b", "kind": "worker"},
    ],
}
PLAN: dict[str, Any] = {
    "targets": {"ms": ["dementia", "tbi"], "a": ["tbi"]},
    "contents": {"dementia": {"content": "D", "sha256": "d"}, "tbi": {"content": "T", "sha256": "t"}},
    "portal": {"content": "P", "sha256": "p"},
}


def held(**hashes: str) -> dict[str, Any]:
    return {"pathologies": {name: {"cdes": {"sha256": value}} for name, value in hashes.items()}, "problems": []}


def test_a_node_without_a_result_is_away() -> None:
    hostvars = {
        "ms": {"data_held": held(tbi="t")},
        "ui": {},
        "a": {"data_held": held(dementia="d")},
        "b": {"data_held": {"unreachable": True}},
    }
    found = held_data(FEDERATION, hostvars)
    assert found["master"]["name"] == "ms"
    assert found["pathologies"] == ["dementia", "tbi"]
    assert {name: node["state"] for name, node in found["nodes"].items()} == {"a": "present", "b": "away"}


def test_a_node_gets_what_it_lacks_and_nothing_else() -> None:
    assert [file["path"] for file in outdated_files(PLAN, "ms", held(dementia="d", tbi="older"), {})] == ["tbi/CDEsMetadata.json"]
    assert [file["path"] for file in outdated_files(PLAN, "ms", held(), {})] == ["dementia/CDEsMetadata.json", "tbi/CDEsMetadata.json"]
    assert outdated_files(PLAN, "a", held(tbi="t"), {}) == []
    assert outdated_files(PLAN, "b", held(), {}) == []


def test_the_portal_gets_its_list_when_it_has_another() -> None:
    assert outdated_files(PLAN, "ui", {}, {"stat": {"exists": False}}) == [{"path": "pathologies.json", "content": "P", "sha256": "p"}]
    assert outdated_files(PLAN, "ui", {}, {"stat": {"exists": True, "checksum": "p"}}) == []


def test_nothing_is_handed_out_after_a_refusal() -> None:
    assert outdated_files({"failed": False, "problems": [{}]}, "ms", held(), {}) == []


def test_engines_of_changed_databases_are_restarted_in_any_case_and_the_others_only_when_older() -> None:
    hostvars = {
        "ms": {"data_compiled": {"changed": True, "newest": 5.0}},
        "ui": {},
        "a": {"data_compiled": {"changed": False, "newest": 7.0}},
        "b": {},
    }
    assert engines_to_refresh(FEDERATION, hostvars) == {
        "services": ["a_exareme", "ms_exareme-master"],
        "older_than": {"a_exareme": 7.0},
        "may_rest": ["a_exareme"],
    }


def test_a_node_without_databases_has_nothing_to_read() -> None:
    assert engines_to_refresh(FEDERATION, {"ms": {}, "a": {"data_compiled": {"changed": False, "newest": 0}}, "b": {}})["services"] == []
