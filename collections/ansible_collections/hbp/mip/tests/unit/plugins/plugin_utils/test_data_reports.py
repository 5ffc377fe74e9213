# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judgements over the federation's data."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.plugin_utils._data_reports import compiled, consolidate, names_of, overview, structure

FEDERATION = {
    "name": "hosp",
    "data_dir": "/data/hosp",
    "nodes": [
        {"name": "ms", "kind": "master"},
        {"name": "ui", "kind": "ui"},
        {"name": "a", "kind": "worker"},
        {"name": "b", "kind": "worker"},
    ],
}


def codes(report: dict[str, Any]) -> list[tuple[str, str]]:
    return [(entry["node"], entry["code"]) for entry in report["problems"]]


def test_structure_has_the_legacy_shape_in_a_stable_order() -> None:
    assert structure({"tbi": {"b": ["y", "x"], "a": []}, "dementia": {"a": ["d"]}, "empty": {"a": []}}) == [
        {"name": "dementia", "nodes": [{"name": "a", "datasets": [{"name": "d"}]}]},
        {"name": "tbi", "nodes": [{"name": "b", "datasets": [{"name": "x"}, {"name": "y"}]}]},
    ]


@pytest.mark.parametrize("given", ["a, b,", ["a", "b"], ["a", " b "]])
def test_names_come_as_list_or_text(given: Any) -> None:
    assert names_of(given) == ["a", "b"]


# --- consolidate ---------------------------------------------------------------------------------------------------------------

DONE = {
    "changed": True,
    "plan": {"id": "1"},
    "targets": {"ms": ["tbi"], "a": ["tbi"]},
    "portal": {"sha256": "p"},
    "structure": [],
    "notices": [],
}


def consolidated(done: dict[str, Any], nodes: dict[str, Any], answered: dict[str, Any] | None = None) -> dict[str, Any]:
    return consolidate(FEDERATION, {"consolidated": done, "answered": answered or {}, "labels": "labels.yml", "nodes": nodes})


def test_every_node_that_should_get_something_is_told() -> None:
    file = {"path": "tbi/CDEsMetadata.json", "before": "1", "after": "2", "changed": True}
    report = consolidated(
        DONE, {"ms": {"held": {}, "files": {"files": [file]}}, "a": {"held": {}}, "ui": {"portal": {}}, "b": {"held": {}}}
    )
    assert report["problems"] == []
    assert report["distributed"] == {
        "ui": {"files": [], "ok": True, "error": ""},
        "ms": {"files": [file], "ok": True, "error": ""},
        "a": {"files": [], "ok": True, "error": ""},
    }


def test_a_node_that_failed_is_a_problem_and_one_that_is_away_is_told_as_such() -> None:
    nodes = {"ms": {"held": {}, "files": {"failed": True, "msg": "disk full", "files": []}}, "ui": {"portal": {}}, "b": {"held": {}}}
    report = consolidated(DONE, nodes)
    assert codes(report) == [("ms", "distribution")]
    assert "disk full" in report["problems"][0]["message"]
    assert report["away"] == ["a"]
    assert report["distributed"]["a"]["ok"] is False


def test_a_refusal_lists_everything_and_hands_out_nothing() -> None:
    done = {
        "changed": False,
        "msg": "two",
        "problems": [{"node": n, "code": c, "message": "m", "fix": "f"} for n, c in (("a", "x"), ("b", "y"))],
    }
    report = consolidated(done, {"ms": {"held": {}}, "a": {"held": {}}, "b": {"held": {}}, "ui": {"portal": {}}})
    assert codes(report) == [("a", "x"), ("b", "y")]
    assert report["distributed"] == {}
    assert report["plan"] is None


def test_a_crash_is_not_taken_for_success() -> None:
    assert codes(consolidated({"msg": "Traceback"}, {})) == [("pusher", "consolidate-failed")]


def test_a_catalogue_that_failed_is_told_though_the_local_cde_was_used() -> None:
    answered = {"catalogue": {}, "problems": [{"code": "catalogue-404", "pathology": "tbi", "message": "not there", "fix": "f"}]}
    report = consolidated(DONE, {"ms": {"held": {}}, "a": {"held": {}}, "b": {"held": {}}, "ui": {"portal": {}}}, answered)
    assert codes(report) == [("pusher", "catalogue-404")]
    assert "tbi" in report["problems"][0]["message"]


def test_a_catalogue_that_could_not_even_be_asked_is_told() -> None:
    report = consolidated(DONE, {"ms": {"held": {}}, "a": {"held": {}}, "ui": {"portal": {}}}, {"msg": "host: empty", "failed": False})
    assert codes(report) == [("pusher", "catalogue-not-asked")]


# --- compile -------------------------------------------------------------------------------------------------------------------


def result(**states: str) -> dict[str, Any]:
    errors = [{"file": "x.csv", "line": line, "column": "age", "rule": "int", "message": "not a whole number"} for line in range(2, 9)]
    return {
        "changed": True,
        "problems": [],
        "pathologies": {
            name: {
                "state": state,
                "reasons": [],
                "seconds": 0.1,
                "rows": 100,
                "errors": errors if state == "failed" else [],
                "errors_total": 12 if state == "failed" else 0,
            }
            for name, state in states.items()
        },
    }


def judged(nodes: dict[str, Any], pathologies: Any = (), asked: Any = ()) -> dict[str, Any]:
    return compiled(FEDERATION, {"nodes": nodes, "pathologies": pathologies, "asked": asked})


def test_bad_cells_are_told_by_place_and_number() -> None:
    report = judged({"ms": {"compiled": result(tbi="compiled")}, "a": {"compiled": result(tbi="failed", dementia="compiled")}, "b": {}})
    assert codes(report) == [("a", "compile-failed")]
    message = report["problems"][0]["message"]
    assert "12 errors: x.csv:2:age not a whole number; x.csv:3:age" in message
    assert message.endswith("and 7 more")
    assert report["away"] == ["b"]


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    nodes = {name: {"compiled": result(tbi="compiled")} for name in ("ms", "a", "b")}
    report = judged(nodes, pathologies="tbi,tbo", asked=["a", "ui", "z"])
    assert [entry["code"] for entry in report["problems"]] == ["unknown-node", "unknown-node", "unknown-pathology"]
    assert "tbo" in report["problems"][2]["message"]


def test_engines_that_were_restarted_and_one_that_did_not_come_back() -> None:
    restarted = {
        "msg": "a_exareme: crash",
        "not_restarted": ["b_exareme"],
        "services": [{"name": "a_exareme", "node": "a", "action": "restarted"}, {"name": "b_exareme", "node": "b", "action": "failed"}],
    }
    report = judged(
        {name: {"compiled": result(tbi="compiled")} for name in ("a", "b")} | {"ms": {"compiled": result(), "restarted": restarted}}
    )
    assert report["restarted"] == ["a"]
    assert codes(report) == [("ms", "restart-failed")]


def test_no_engine_yet_is_no_problem() -> None:
    nodes = {"ms": {"compiled": result(tbi="compiled"), "restarted": {"msg": "Docker is not installed", "engine_missing": True}}}
    assert judged(nodes, asked=["ms"])["problems"] == []


# --- data ----------------------------------------------------------------------------------------------------------------------


def held(sha: str, *, model: str = "m", state: str = "compiled", datasets: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    cdes = {"present": bool(sha), "sha256": sha, "model": model, "version": "1", "label": "TBI"}
    file = {"rows": 100, "sha256": "f", "findings": [], "datasets": datasets if datasets is not None else {"x": 100}}
    found = {
        "cdes": cdes,
        "files": {"x.csv": {**file, **more}},
        "database": "ok",
        "datasets": {},
        "compiled": {"state": state, "reasons": ["x.csv was changed"]},
    }
    return {"held": {"pathologies": {"tbi": found}, "problems": []}}


def looked(nodes: dict[str, Any], **record: Any) -> dict[str, Any]:
    return overview(FEDERATION, {"nodes": nodes, "record": record})


def test_all_in_order() -> None:
    stat = {"portal": {"stat": {"exists": True, "checksum": "p"}}}
    report = looked(
        {"ms": held("1", datasets={}), "a": held("1"), "b": held("1", datasets={"y": "<10"}), "ui": stat}, portal={"sha256": "p"}
    )
    assert report["problems"] == []
    assert report["pathologies"]["tbi"]["nodes"]["b"]["datasets"] == {"y": "<10"}
    assert report["structure"][0]["nodes"] == [{"name": "a", "datasets": [{"name": "x"}]}, {"name": "b", "datasets": [{"name": "y"}]}]
    assert report["portal"] == {"node": "ui", "state": "same", "sha256": "p"}
    assert report["away"] == []


def test_versions_of_the_cde_are_told_apart() -> None:
    nodes = {"ms": held("1"), "a": held("2", model="other"), "b": held("3", model="changed")}
    report = looked(nodes, handed_out={"tbi": [{"sha256": "2"}]})
    states = {name: node["cdes"]["state"] for name, node in report["pathologies"]["tbi"]["nodes"].items()}
    assert states == {"ms": "same", "a": "old", "b": "differs"}
    assert codes(report) == [("a", "cdes-old"), ("b", "cdes-differs")]


def test_what_is_stale_or_broken_names_the_file_and_the_next_command() -> None:
    finding = {"code": "ragged", "message": "5 fields of 6", "line": 7}
    report = looked({"ms": held("1"), "a": held("1", state="stale", findings=[finding]), "b": held("1")})
    assert codes(report) == [("a", "csv-ragged"), ("a", "database-stale")]
    assert report["problems"][0]["message"] == "tbi/x.csv:7: 5 fields of 6"
    assert report["problems"][1]["fix"] == "mipfed -f hosp data compile"


@pytest.mark.parametrize(("stat", "state"), [({"exists": False}, "missing"), ({"exists": True, "checksum": "older"}, "old")])
def test_a_portal_with_another_list_is_told(stat: dict[str, Any], state: str) -> None:
    report = looked({"ms": held("1"), "ui": {"portal": {"stat": stat}}}, portal={"sha256": "p"})
    assert report["portal"]["state"] == state
    assert codes(report) == [("ui", f"portal-{state}")]
    assert looked({"ms": held("1"), "ui": {"portal": {"stat": stat}}})["problems"] == []
