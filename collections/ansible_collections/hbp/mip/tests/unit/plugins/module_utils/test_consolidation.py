# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every node should have, worked out from what they have; the portal's list against that of the older platform."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.hbp.mip.plugins.module_utils import _cdes, _consolidation
from ansible_collections.hbp.mip.plugins.module_utils._consolidation import Options, Outcome

SAMPLES = next(parent for parent in Path(__file__).parents if (parent / "uv.lock").exists()) / "tests" / "samples"
NOW = "2026-01-01T00:00:00Z"
LATER = "2026-01-02T00:00:00Z"


def load_scenarios() -> dict[str, dict[str, Any]]:
    spec = importlib.util.spec_from_file_location("expected_make", SAMPLES / "expected" / "make.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["expected_make"] = module
    spec.loader.exec_module(module)
    found: dict[str, dict[str, Any]] = module.scenarios()
    return found


SCENARIOS = load_scenarios()


def variable(code: str, **fields: Any) -> dict[str, Any]:
    return {"code": code, "label": code, "sql_type": "real", "isCategorical": False, "type": "real", **fields}


def cdes(name: str = "demo", datasets: Any = ("a", "b"), *more: dict[str, Any], **root: Any) -> bytes:
    """A metadata file whose datasets have the labels "Label CODE"."""
    entries = [{"code": code, "label": f"Label {code}"} for code in datasets]
    dataset = variable("dataset", sql_type="text", isCategorical=True, type="nominal", enumerations=entries)
    variables = [dataset, variable("age"), *more]
    return json.dumps({"code": name, "label": f"The {name}", "version": "1", "variables": variables, **root}, indent=1).encode()


def told(content: bytes | None, *, with_content: bool = False) -> dict[str, Any]:
    """What dataset_info tells of a metadata file."""
    if content is None:
        return {"present": False, "valid": False, "sha256": "", "model": "", "variables": {}, "findings": []}
    found: dict[str, Any] = {"present": True, "valid": False, "sha256": hashlib.sha256(content).hexdigest(), "model": "", "variables": {}}
    try:
        parsed = _cdes.parse(content)
    except _cdes.CdesError as error:
        finding = {"code": "unreadable", "message": error.message, "line": error.line, "column": error.column, "severity": "error"}
        return {**found, "findings": [finding]}
    found.update(
        valid=not parsed.errors,
        code=parsed.code,
        version=parsed.version,
        model=parsed.model,
        variables=parsed.digests,
        findings=[finding._asdict() for finding in parsed.findings],
    )
    return {**found, **({"content": _consolidation.packed(content)["content"]} if with_content else {})}


def master(**pathologies: bytes | None) -> dict[str, Any]:
    found = {name: {"cdes": told(content, with_content=True), "files": {}} for name, content in pathologies.items()}
    return {"name": "ms", "state": "present", "pathologies": found, "problems": []}


def file(*codes: str, rows: Any = 100, header: Any = ("dataset", "age"), **more: Any) -> dict[str, Any]:
    return {"header": list(header), "columns": len(header), "datasets": dict.fromkeys(codes, rows), "findings": [], **more}


def worker(copy_: bytes | None = None, name: str = "demo", *, state: str = "present", problems: Any = (), **files: Any) -> dict[str, Any]:
    """A worker with one pathology; a file's keyword is its name without .csv."""
    content = {f"{key}.csv": value for key, value in files.items()}
    return {"state": state, "pathologies": {name: {"cdes": told(copy_), "files": content}}, "problems": list(problems)}


AWAY: dict[str, Any] = {"state": "away", "pathologies": {}, "problems": []}


def run(master_: dict[str, Any], nodes: dict[str, Any], **given: Any) -> Outcome:
    options = Options(**{name: given.pop(name) for name in list(given) if name in Options._fields})
    state = {"catalogue": {}, "labels": {}, "record": {}, "now": NOW, **given}
    before = copy.deepcopy((master_, nodes, state["catalogue"], state["labels"], state["record"]))
    outcome = _consolidation.consolidate(master_, nodes, state["catalogue"], state["labels"], state["record"], options, state["now"])
    assert before == (master_, nodes, state["catalogue"], state["labels"], state["record"]), "what is given is left alone"
    return outcome


def listed(outcome: Outcome, name: str = "demo") -> list[tuple[str, str, str]]:
    """Code, label and state of a pathology's datasets in the plan."""
    return [(item["code"], item["label"], item["state"]) for item in outcome.plan["pathologies"][name]["datasets"]]


def enumerated(outcome: Outcome, name: str = "demo") -> list[tuple[str, str]]:
    return _cdes.parse(outcome.contents[name]).datasets


def codes(items: list[dict[str, str]]) -> list[str]:
    return [item["code"] for item in items]


# -- the older platform's list -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_portal_list_equals_that_of_the_older_generator(name: str, count: int) -> None:
    pathologies = SCENARIOS[name]
    nodes: dict[str, Any] = {f"w{number}": {"state": "present", "pathologies": {}, "problems": []} for number in range(count)}
    for pathology, content in pathologies.items():
        for number, (csv, rows) in enumerate(sorted(content.files.items())):
            held = nodes[f"w{number % count}"]["pathologies"].setdefault(pathology, {"cdes": told(content.cdes), "files": {}})
            held["files"][csv] = {"header": ["dataset"], "datasets": dict(Counter(rows)), "findings": []}
    given = master(**{pathology: content.cdes for pathology, content in pathologies.items()})
    outcome = run(given, nodes, shared_datasets="merge")
    assert outcome.problems == []
    assert outcome.portal == (SAMPLES / "expected" / f"{name}.json").read_bytes()
    again = run(master(**outcome.contents), nodes, shared_datasets="merge", labels=outcome.labels, record=outcome.record)
    assert again.contents == outcome.contents
    assert again.portal == outcome.portal or name == "new-and-removed"
    # A second run knows what was new, and says the same.
    assert json.loads(again.portal) == json.loads(outcome.portal)


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_only_the_list_of_datasets_is_written_anew(name: str) -> None:
    for pathology, content in SCENARIOS[name].items():
        held = {csv: {"header": ["dataset"], "datasets": dict(Counter(rows)), "findings": []} for csv, rows in content.files.items()}
        nodes = {"w": {"state": "present", "pathologies": {pathology: {"cdes": told(None), "files": held}}, "problems": []}}
        new = run(master(**{pathology: content.cdes}), nodes).contents[pathology]
        before, after = _cdes.parse(content.cdes), _cdes.parse(new)
        assert (before.model, before.digests) == (after.model, after.digests)
        assert before.with_datasets(after.datasets) == new
        start, end = content.cdes.index(b'"enumerations": ['), content.cdes.index(b"]")
        assert new.startswith(content.cdes[:start]) and new.endswith(content.cdes[end:])


# -- datasets and labels -------------------------------------------------------------------------------------------------------


def test_kept_new_and_removed() -> None:
    content = cdes(datasets=("gone", "b", "a"))
    nodes = {"w2": worker(content, z=file("b", "Zwei"), y=file("x")), "w1": worker(content, a=file("a", rows="<10"), y=file("neu", "y"))}
    outcome = run(master(demo=content), nodes)
    assert outcome.problems == [] and outcome.warnings == []
    assert listed(outcome) == [
        ("b", "Label b", "kept"),
        ("a", "Label a", "kept"),
        ("x", "X", "new"),
        ("neu", "NEU", "new"),
        ("y", "Y", "new"),
        ("Zwei", "ZWEI", "new"),
        ("gone", "Label gone", "removed"),
    ], "known ones in the CDEs' order, new ones by file, node and place"
    assert enumerated(outcome) == [(code, label) for code, label, state in listed(outcome) if state != "removed"]
    plan = outcome.plan["pathologies"]["demo"]
    rows = {item["code"]: (item["nodes"], item["rows"]) for item in plan["datasets"]}
    assert rows == {
        "b": (["w2"], 100), "a": (["w1"], "<10"), "x": (["w2"], 100), "neu": (["w1"], 100), "y": (["w1"], 100), "Zwei": (["w2"], 100),
        "gone": ([], 0),
    }  # fmt: skip
    assert (plan["label"], plan["version"], plan["source"], plan["changed"]) == ("The demo", "1", "master", True)
    assert plan["before"] == hashlib.sha256(content).hexdigest()
    assert plan["after"] == hashlib.sha256(outcome.contents["demo"]).hexdigest()
    assert outcome.targets == {"ms": ["demo"], "w2": ["demo"], "w1": ["demo"]}
    assert outcome.plan["changes"] == 4, "three copies of the CDEs, and the portal's list"
    assert outcome.structure == [
        {
            "name": "demo",
            "nodes": [
                {"name": "w1", "datasets": [{"name": "a"}, {"name": "neu"}, {"name": "y"}]},
                {"name": "w2", "datasets": [{"name": "Zwei"}, {"name": "b"}, {"name": "x"}]},
            ],
        }
    ]
    (entry,) = json.loads(outcome.portal)
    assert [item["code"] for item in entry["datasets"]] == ["a", "x", "neu", "y", "b", "Zwei"], "by file, as the older generator"
    assert list(entry) == ["code", "label", "metadataHierarchy", "datasets"]
    assert outcome.labels == {
        "pathologies": {"demo": "The demo"},
        "datasets": {"demo": {"b": "Label b", "a": "Label a", "x": "X", "neu": "NEU", "y": "Y", "Zwei": "ZWEI", "gone": "Label gone"}},
    }


def test_a_second_run_changes_nothing() -> None:
    nodes = {"w": worker(cdes(), f=file("b", "new"))}
    first = run(master(demo=cdes()), nodes)
    second = run(
        master(demo=first.contents["demo"]),
        {"w": worker(first.contents["demo"], f=file("b", "new"))},
        labels=first.labels,
        record=first.record,
        now=LATER,
    )
    assert (second.contents, second.portal, second.labels, second.record) == (first.contents, first.portal, first.labels, first.record)
    assert second.plan["changes"] == 0 and second.plan["id"] == first.plan["id"]
    assert {state for _code, _label, state in listed(second)} == {"kept"}
    assert second.portal_before == second.record["portal"]["entries"]


def test_labels_of_the_file_go_first() -> None:
    labels = {"pathologies": {"demo": "Mine", "other": "Kept"}, "datasets": {"demo": {"a": "Étude A", "away": "Kept"}, "other": {"o": "O"}}}
    outcome = run(master(demo=cdes()), {"w": worker(a=file("a", "b"))}, labels=labels)
    assert enumerated(outcome) == [("a", "Étude A"), ("b", "Label b")]
    assert outcome.plan["pathologies"]["demo"]["label"] == "Mine"
    assert json.loads(outcome.portal)[0]["label"] == "Mine"
    assert _cdes.parse(outcome.contents["demo"]).label == "The demo", "of the CDEs nothing but the datasets is written"
    expected = copy.deepcopy(labels)
    expected["datasets"]["demo"]["b"] = "Label b"
    assert outcome.labels == expected


def test_labels_that_cannot_be_kept_and_empty_ones() -> None:
    content = cdes().replace(b"Label a", b"two\\nlines").replace(b"Label b", b"")
    outcome = run(master(demo=content), {"w": worker(a=file("a", "b"))})
    assert enumerated(outcome) == [("a", "two\nlines"), ("b", "B")]
    assert outcome.labels["datasets"] == {"demo": {"b": "B"}}
    assert codes(outcome.warnings) == ["label"]


@pytest.mark.parametrize(
    ("label", "shown"), [("/", "Demo_x"), ("", "Demo_x"), ("x", "x"), ("l\\u2019X", "l\u2019X"), ("\\ud800", "\\ud800")]
)
def test_label_of_a_pathology(label: str, shown: str) -> None:
    outcome = run(master(demo_x=cdes("demo_x", label=label)), {"w": worker(name="demo_x", a=file("a"))})
    assert json.loads(outcome.portal)[0]["label"] == shown
    assert outcome.labels["pathologies"] == {"demo_x": shown}


def test_pathology_without_a_dataset() -> None:
    outcome = run(master(demo=cdes(), tbi=cdes("tbi")), {"w": worker(a=file("a")), "v": worker()})
    assert enumerated(outcome, "tbi") == []
    assert [entry["code"] for entry in json.loads(outcome.portal)] == ["demo"]
    assert codes(outcome.warnings) == ["pathology-empty"]
    assert outcome.targets == {"ms": ["demo", "tbi"], "w": ["demo"], "v": ["demo"]}
    assert [entry["name"] for entry in outcome.structure] == ["demo"]


def test_nothing_at_all() -> None:
    outcome = run({"name": "ms", "pathologies": {}}, {})
    assert (outcome.problems, outcome.contents, outcome.portal, outcome.targets) == ([], {}, b"[]\n", {"ms": []})


@pytest.mark.parametrize(
    ("parts", "total"),
    [
        ([], 0),
        ([3, 4], 7),
        (["<10"], "<10"),
        (["<10", "<10"], ">=2"),
        ([500, "<10"], ">=501"),
        ([">=30"], ">=30"),
        ([">=30", 5, "<10"], ">=36"),
        (["many", 5], ">=5"),
    ],
)
def test_sum_of_rows(parts: list[Any], total: Any) -> None:
    assert _consolidation.sum_of_rows(parts) == total


# -- nodes that do not answer --------------------------------------------------------------------------------------------------


def earlier(**given: Any) -> Outcome:
    """A first run with two hospitals."""
    nodes = {"w1": worker(cdes(), f1=file("a", rows=40)), "w2": worker(cdes(), f2=file("b", "c", rows=50))}
    return run(master(demo=cdes()), nodes, **given)


@pytest.mark.parametrize("state", ["away", "disabled"])
def test_a_node_that_is_away_keeps_its_datasets(state: str) -> None:
    first = earlier()
    now = first.contents["demo"]
    nodes = {"w1": worker(now, f1=file("a", rows=40)), "w2": {**AWAY, "state": state}}
    second = run(master(demo=now), nodes, labels=first.labels, record=first.record, now=LATER)
    assert second.problems == [] and second.warnings == []
    assert listed(second) == [("a", "Label a", "kept"), ("b", "Label b", "absent"), ("c", "C", "absent")]
    assert [(item["nodes"], item["rows"]) for item in second.plan["pathologies"]["demo"]["datasets"]][1] == (["w2"], 50)
    assert (second.contents, second.portal, second.record) == (first.contents, first.portal, first.record)
    assert second.targets == {"ms": ["demo"], "w1": ["demo"], "w2": []}
    assert [node["name"] for node in second.structure[0]["nodes"]] == ["w1", "w2"], "roles of its datasets stay"


def test_drop_absent() -> None:
    first = earlier()
    nodes = {"w1": worker(cdes(), f1=file("a")), "w2": AWAY}
    given: dict[str, Any] = {"labels": first.labels, "now": LATER}
    second = run(master(demo=first.contents["demo"]), nodes, record=first.record, drop_absent=True, **given)
    assert listed(second) == [("a", "Label a", "kept"), ("b", "Label b", "removed"), ("c", "C", "removed")]
    assert second.record["nodes"]["w2"] == {"since": LATER, "pathologies": {}}
    third = run(master(demo=second.contents["demo"]), nodes, record=second.record, **given)
    assert listed(third) == [("a", "Label a", "kept")], "what was dropped does not come back by itself"
    assert third.warnings == []
    back = {"w1": worker(cdes(), f1=file("a")), "w2": worker(cdes(), f2=file("b"))}
    fourth = run(master(demo=third.contents["demo"]), back, record=third.record, **given)
    assert listed(fourth)[-1] == ("b", "Label b", "new"), "its label was kept"


def test_a_node_that_was_never_seen() -> None:
    nodes = {"w1": worker(cdes(), f1=file("a")), "w2": AWAY}
    outcome = run(master(demo=cdes()), nodes)
    assert listed(outcome) == [("a", "Label a", "kept"), ("b", "Label b", "absent")]
    assert outcome.plan["pathologies"]["demo"]["datasets"][1]["rows"] == "unknown"
    assert codes(outcome.warnings) == ["away-unknown"] and outcome.warnings[0]["node"] == "w2"
    assert list(outcome.record["nodes"]) == ["w1"]
    assert [entry["code"] for entry in json.loads(outcome.portal)[0]["datasets"]] == ["a", "b"]
    dropped = run(master(demo=cdes()), nodes, drop_absent=True)
    assert listed(dropped)[1] == ("b", "Label b", "removed") and dropped.warnings == []


def test_what_the_catalogue_enumerates_is_not_kept_for_an_unknown_node() -> None:
    answer = {"demo": {**_consolidation.packed(cdes(datasets=("a", "foreign"))), "url": "https://dc/demo"}}
    outcome = run(master(demo=cdes(datasets=("a", "b"))), {"w1": worker(f=file("a")), "w2": AWAY}, catalogue=answer)
    assert [code for code, _label, _state in listed(outcome)] == ["a", "b"]


def test_a_node_that_left_the_inventory_is_forgotten() -> None:
    first = earlier()
    second = run(master(demo=first.contents["demo"]), {"w1": worker(f1=file("a"))}, record=first.record)
    assert list(second.record["nodes"]) == ["w1"]
    assert ("b", "Label b", "removed") in listed(second)


def test_record_keeps_its_times() -> None:
    first = earlier()
    assert first.record["nodes"]["w2"] == {
        "since": NOW,
        "pathologies": {"demo": {"files": {"f2.csv": {"b": 50, "c": 50}}}},
    }
    before, handed = first.record["handed_out"]["demo"]
    assert before["sha256"] == hashlib.sha256(cdes()).hexdigest(), "the master's until now may still be on a worker"
    assert handed == {
        "sha256": first.plan["pathologies"]["demo"]["after"],
        "model": _cdes.parse(first.contents["demo"]).model,
        "time": NOW,
    }
    nodes = {"w1": worker(f1=file("a", rows=40)), "w2": worker(f2=file("b", rows=60))}
    second = run(master(demo=first.contents["demo"]), nodes, record=first.record, now=LATER)
    assert second.record["nodes"]["w1"]["since"] == NOW and second.record["nodes"]["w2"]["since"] == LATER
    assert [item["time"] for item in second.record["handed_out"]["demo"]] == [NOW, NOW], "it is the first one again"
    assert second.record["portal"]["time"] == LATER
    assert second.record["portal"]["entries"] == {"demo": {"label": "The demo", "datasets": {"a": "Label a", "b": "Label b"}}}


# -- errors --------------------------------------------------------------------------------------------------------------------

BROKEN = b'{"code": "demo",\n "variables": [}'
LINK = {"code": "symlink", "pathology": "demo", "message": "/data/f/demo/x.csv is a link", "fix": "put the file there"}
BAD_CSV = {"code": "ragged", "message": "a row has another number of fields", "line": 7, "severity": "error"}


ERRORS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str, str, str]] = {
    # master, nodes, options, code, node, part of the message
    "the master is away": (
        {"name": "ms", "state": "away", "pathologies": {}},
        {"w": worker(a=file("a"))},
        {},
        "master-away",
        "ms",
        "did not answer",
    ),
    "no CDE on the master": (master(), {"w": worker(cdes(), a=file("a"))}, {}, "cdes-missing", "ms", "demo: at w"),
    "no CDE in the master's folder": (master(demo=None), {"w": worker(cdes(), a=file("a"))}, {}, "cdes-missing", "ms", "demo: at w"),
    "no CDE for a folder without files": (master(), {"w": worker()}, {}, "cdes-missing", "ms", "demo"),
    "invalid JSON": (master(demo=BROKEN), {"w": worker(a=file("a"))}, {}, "cdes-invalid", "ms", "demo/CDEsMetadata.json:2:16: "),
    "damaged content": (
        {"name": "ms", "pathologies": {"demo": {"cdes": {**told(cdes()), "content": "AAAA"}}}},
        {"w": worker(a=file("a"))},
        {},
        "cdes-invalid",
        "ms",
        "is damaged",
    ),
    "unusable file on the master": (
        {
            **master(demo=None),
            "problems": [{"code": "file-unusable", "pathology": "demo", "message": "/data/f/demo/CDEsMetadata.json: no", "fix": ""}],
        },
        {"w": worker(a=file("a"))},
        {},
        "file-unusable",
        "ms",
        "no",
    ),
    "too large a file on the master": (
        {**master(demo=None), "problems": [{"code": "cdes-invalid", "pathology": "demo", "message": "larger than 8 MiB", "fix": ""}]},
        {"w": worker(a=file("a"))},
        {},
        "cdes-invalid",
        "ms",
        "larger",
    ),
    "no variable dataset": (
        master(demo=cdes().replace(b'"dataset"', b'"data_set"')),
        {"w": worker(a=file("a", header=["age"]))},
        {},
        "cdes-dataset-missing",
        "ms",
        "demo/CDEsMetadata.json:1:1: there is no variable dataset",
    ),
    "duplicate key": (
        master(demo=cdes().replace(b'"version": "1"', b'"version": "1", "version": "2"')),
        {"w": worker(a=file("a"))},
        {},
        "cdes-duplicate-key",
        "ms",
        "demo/CDEsMetadata.json:4:18: the key 'version' is given twice",
    ),
    "duplicate variable": (
        master(demo=cdes("demo", ("a",), variable("AGE"))),
        {"w": worker(a=file("a"))},
        {},
        "cdes-variable-duplicate",
        "ms",
        "'AGE'",
    ),
    "code of another folder": (master(demo=cdes("dementia")), {"w": worker(a=file("a"))}, {}, "cdes-code", "ms", "its code is 'dementia'"),
    "same dataset on two nodes": (
        master(demo=cdes()),
        {"w1": worker(a=file("a", "b")), "w2": worker(c=file("c", "a"))},
        {},
        "dataset-shared",
        "w2",
        "demo: dataset a is on several nodes: w1 (a.csv), w2 (c.csv)",
    ),
    "column unknown to the CDEs": (
        master(demo=cdes()),
        {"w": worker(a=file("a", header=["dataset", "Age", "height"]))},
        {},
        "column-unknown",
        "w",
        "demo/a.csv on w has 2 columns that the CDEs do not have: Age (there is age), height",
    ),
    "one column unknown to the catalogue's CDEs": (
        master(demo=cdes("demo", ("a",), variable("old"))),
        {"w": worker(cdes("demo", ("a",), variable("old")), a=file("a", header=["dataset", "old"]))},
        {"catalogue": {"demo": {**_consolidation.packed(cdes(version="2")), "url": "https://dc/demo"}}},
        "column-unknown",
        "w",
        "has a column that the CDEs do not have: old",
    ),
    "another copy on a worker": (
        master(demo=cdes()),
        {"w": worker(cdes("demo", ("a",), variable("x"), version="2"), a=file("a"))},
        {},
        "cdes-differ",
        "w",
        "with in addition x; version 2, not 1",
    ),
    "changed variable on a worker": (
        master(demo=cdes()),
        {"w": worker(cdes().replace(b'"age"', b'"AGE"', 1), a=file("a"))},
        {},
        "cdes-differ",
        "w",
        "without age; with in addition AGE",
    ),
    "changed label on a worker": (
        master(demo=cdes()),
        {"w": worker(cdes().replace(b'"label": "age"', b'"label": "Years"'), a=file("a"))},
        {},
        "cdes-differ",
        "w",
        "other variables age",
    ),
    "changed root on a worker": (
        master(demo=cdes()),
        {"w": worker(cdes(label="x"), a=file("a"))},
        {},
        "cdes-differ",
        "w",
        "the variables are the same",
    ),
    "broken copy on a worker": (
        master(demo=cdes()),
        {"w": worker(BROKEN, a=file("a"))},
        {},
        "cdes-invalid",
        "w",
        "demo/CDEsMetadata.json:2:16 on w: ",
    ),
    "link on a worker": (master(demo=cdes()), {"w": worker(a=file("a"), problems=[LINK])}, {}, "symlink", "w", "is a link"),
    "folder name on a worker": (
        master(demo=cdes()),
        {
            "w": worker(
                a=file("a"),
                problems=[{"code": "folder-name", "pathology": "", "message": "'x y' cannot be a pathology", "fix": "rename it"}],
            )
        },
        {},
        "folder-name",
        "w",
        "cannot be",
    ),
    "folder name that was told": (
        master(demo=cdes()),
        {"w": worker(a=file("a")), "v": worker(name="x y", a=file("b"))},
        {},
        "folder-name",
        "v",
        "'x y'",
    ),
    "error in a CSV file": (
        master(demo=cdes()),
        {"w": worker(a=file("a", findings=[BAD_CSV]))},
        {},
        "csv-ragged",
        "w",
        "demo/a.csv:7: a row has",
    ),
    "dataset code outside of the rule": (
        master(demo=cdes()),
        {"w": worker(a=file("a", "b c"))},
        {},
        "dataset-code",
        "w",
        "demo/a.csv: a value",
    ),
    "new dataset refused": (
        master(demo=cdes()),
        {"w": worker(a=file("a", "n"))},
        {"new_datasets": "refuse"},
        "dataset-new",
        "w",
        "demo: dataset n (a.csv on w) is new",
    ),
}


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_errors(name: str) -> None:
    given, nodes, options, code, node, part = ERRORS[name]
    outcome = run(given, nodes, **options)
    assert codes(outcome.problems) == [code]
    (problem,) = outcome.problems
    assert problem["node"] == node and part in problem["message"]
    assert problem["fix"] or code in ("file-unusable", "cdes-invalid")
    assert (outcome.contents, outcome.portal, outcome.labels, outcome.targets) == ({}, b"", {}, {}), "nothing to hand out"


def test_all_errors_are_listed_at_once() -> None:
    nodes = {
        "w1": worker(cdes(version="0"), a=file("a", header=["dataset", "x"]), problems=[LINK]),
        "w2": worker(BROKEN, a=file("a", findings=[BAD_CSV])),
        "w3": worker(cdes("tbi"), "tbi", t=file("t")),
        "w4": worker(name="none", n=file("n")),
    }
    outcome = run(master(demo=cdes(), tbi=BROKEN), nodes)
    assert sorted(codes(outcome.problems)) == sorted(
        ["symlink", "csv-ragged", "cdes-differ", "cdes-invalid", "column-unknown", "dataset-shared", "cdes-missing", "cdes-invalid"]
    )


def test_long_lists_are_cut() -> None:
    many = [variable(f"v{number}") for number in range(30)]
    nodes = {"w": worker(cdes("demo", ("a",), *many), a=file("a", header=["dataset", *(f"v{number}" for number in range(30))]))}
    differ, columns = (problem["message"] for problem in run(master(demo=cdes()), nodes).problems)
    assert "v9 and 20 more" in differ and "v9 and 20 more" in columns and len(differ + columns) < 600


# -- what does not stop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code", ["cdes-missing", "cdes-invalid", "database-missing", "database-broken", "dataset-name", "datasets-implausible"]
)
def test_what_compile_or_this_run_puts_right(code: str) -> None:
    problem = {"code": code, "pathology": "demo", "message": "m", "fix": "f"}
    given = {**master(demo=cdes()), "problems": [problem]}
    outcome = run(given, {"w": worker(a=file("a"), problems=[problem])})
    assert outcome.problems == [] and outcome.warnings == []


@pytest.mark.parametrize(("code", "on_worker"), [("file-name", "problem"), ("files-many", "problem"), ("sub-folder", "warning")])
def test_files_count_on_workers_only(code: str, on_worker: str) -> None:
    problem = {"code": code, "pathology": "demo", "message": "m", "fix": "f"}
    assert run({**master(demo=cdes()), "problems": [problem]}, {"w": worker(a=file("a"))}).problems == []
    outcome = run(master(demo=cdes()), {"w": worker(a=file("a"), problems=[problem])})
    assert (codes(outcome.problems), codes(outcome.warnings)) == (([code], []) if on_worker == "problem" else ([], [code]))


def test_warnings() -> None:
    finding = {"code": "byte-order-mark", "message": "the file begins with one", "line": 1, "severity": "warning"}
    content = cdes("demo", ("a", "D1"), version="")
    nodes = {"w": worker(content, a=file("a", "d1", findings=[finding]), b=file("a"))}
    outcome = run(master(demo=content), nodes)
    assert outcome.problems == []
    assert sorted((item["code"], item["node"]) for item in outcome.warnings) == [
        ("cdes-version-missing", "ms"),
        ("csv-byte-order-mark", "w"),
        ("dataset-case", ""),
        ("dataset-files", "w"),
    ]
    assert listed(outcome)[-1] == ("D1", "Label D1", "removed")


# -- policies ------------------------------------------------------------------------------------------------------------------


def test_shared_datasets_merge() -> None:
    nodes = {"w1": worker(x=file("a", rows=100)), "w2": worker(y=file("a", rows="<10"))}
    outcome = run(master(demo=cdes()), nodes, shared_datasets="merge")
    assert outcome.problems == []
    (first, _removed) = outcome.plan["pathologies"]["demo"]["datasets"]
    assert (first["nodes"], first["rows"]) == (["w1", "w2"], ">=101")
    assert [entry["code"] for entry in json.loads(outcome.portal)[0]["datasets"]] == ["a"]
    assert [node["name"] for node in outcome.structure[0]["nodes"]] == ["w1", "w2"]


def test_a_dataset_that_moved_from_a_node_that_is_away() -> None:
    first = earlier()
    nodes = {"w1": worker(f1=file("a", "b")), "w2": AWAY}
    outcome = run(master(demo=cdes()), nodes, record=first.record)
    assert codes(outcome.problems) == ["dataset-shared"]
    assert "w2 is away: if the dataset has moved, use --drop-absent" in outcome.problems[0]["message"]
    assert run(master(demo=cdes()), nodes, record=first.record, drop_absent=True).problems == []


def test_same_dataset_in_two_pathologies_is_fine() -> None:
    nodes = {"w1": worker(x=file("a")), "w2": worker(name="tbi", x=file("a"))}
    assert run(master(demo=cdes(), tbi=cdes("tbi")), nodes).problems == []


def test_new_datasets_refused_until_they_have_a_label() -> None:
    nodes = {"w": worker(x=file("a", "n"))}
    labels = {"datasets": {"demo": {"n": "Admitted"}}}
    outcome = run(master(demo=cdes()), nodes, new_datasets="refuse", labels=labels)
    assert outcome.problems == [] and listed(outcome)[1] == ("n", "Admitted", "new")


@pytest.mark.parametrize("copy_", [cdes(version="2"), BROKEN], ids=["other", "broken"])
def test_conflict_settled_by_the_master(copy_: bytes) -> None:
    outcome = run(master(demo=cdes()), {"w": worker(copy_, x=file("a"))}, cde_conflict="master")
    assert outcome.problems == []
    assert len(outcome.warnings) == 1 and outcome.warnings[0]["message"].endswith("; it is replaced")
    assert outcome.targets["w"] == ["demo"]


def test_copies_that_may_be() -> None:
    first = earlier()
    handed = first.contents["demo"]
    changed = cdes("demo", ("a", "b"), variable("added"), version="2")
    styled = json.dumps(json.loads(cdes(datasets=("zzz",)))).encode()
    for copy_ in (handed, styled, changed, None):
        nodes = {"w1": worker(copy_, f1=file("a")), "w2": worker(copy_, f2=file("b", "c"))}
        outcome = run(master(demo=changed), nodes, record=first.record)
        assert outcome.problems == [], "older ones that were handed out, other datasets, another style, the new one, none"
        assert outcome.plan["pathologies"]["demo"]["version"] == "2"
    refused = run(master(demo=changed), {"w1": worker(handed, f1=file("a")), "w2": worker(f2=file("b", "c"))})
    assert codes(refused.problems) == ["cdes-differ"], "without the record nobody knows that it was handed out"


# -- data catalogue ------------------------------------------------------------------------------------------------------------


def answer(content: bytes, name: str = "demo") -> dict[str, Any]:
    return {name: {**_consolidation.packed(content), "url": f"https://dc/{name}"}}


def test_catalogue_replaces_the_master() -> None:
    online = cdes("demo", ("b", "z"), variable("added"), version="9").replace(b"Label b", b"Online b")
    local = cdes(datasets=("c", "b", "a"))
    nodes = {"w": worker(local, x=file("a", "b", "c", "n"))}
    outcome = run(master(demo=local), nodes, catalogue=answer(online))
    plan = outcome.plan["pathologies"]["demo"]
    assert (plan["source"], plan["version"], plan["before"]) == ("catalogue", "9", hashlib.sha256(local).hexdigest())
    assert listed(outcome) == [
        ("b", "Online b", "kept"), ("c", "Label c", "kept"), ("a", "Label a", "kept"), ("n", "N", "new"),
    ], "curated labels of the master's CDEs are not lost"  # fmt: skip
    assert _cdes.parse(outcome.contents["demo"]).with_datasets([("b", "Online b"), ("z", "Label z")]) == online
    again = run(master(demo=outcome.contents["demo"]), nodes, catalogue=answer(online), labels=outcome.labels, record=outcome.record)
    assert again.contents == outcome.contents and not again.plan["pathologies"]["demo"]["changed"]


def test_catalogue_instead_of_a_missing_or_broken_file() -> None:
    for local in (None, BROKEN):
        outcome = run(master(demo=local), {"w": worker(x=file("a"))}, catalogue=answer(cdes()))
        assert outcome.problems == [] and outcome.targets["ms"] == ["demo"]
    outcome = run(master(), {"w": worker(x=file("a"))}, catalogue=answer(cdes()))
    assert outcome.problems == [] and outcome.plan["pathologies"]["demo"]["before"] == ""
    assert listed(outcome) == [("a", "Label a", "new")]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (BROKEN, "line 2, column 16"),
        (cdes("other"), "its code is 'other'"),
        (cdes().replace(b'"real"', b'"REAL"'), "sql_type"),
    ],
)
def test_catalogue_with_unusable_cdes(content: bytes, why: str) -> None:
    nodes = {"w": worker(x=file("a"))}
    outcome = run(master(demo=cdes()), nodes, catalogue=answer(content))
    assert outcome.problems == [] and outcome.plan["pathologies"]["demo"]["source"] == "master"
    assert codes(outcome.warnings) == ["catalogue-invalid"] and why in outcome.warnings[0]["message"]
    alone = run(master(), nodes, catalogue=answer(content))
    assert codes(alone.problems) == ["cdes-missing"] and codes(alone.warnings) == ["catalogue-invalid"]


def test_packed_contents() -> None:
    content = bytes(range(256)) * 50
    packed = _consolidation.packed(content)
    assert _consolidation.unpacked(packed["content"]) == content
    bomb = _consolidation.packed(b" " * (_cdes.MOST_BYTES + 5))["content"]
    assert len(_consolidation.unpacked(bomb)) == _cdes.MOST_BYTES + 1, "no more than it takes to refuse it"
    for damaged in ("", "é", "AAAA", packed["content"][:-40]):
        with pytest.raises(_cdes.CdesError):
            _consolidation.unpacked(damaged)


# -- whatever the federation ---------------------------------------------------------------------------------------------------

CODES = st.sampled_from(["a", "b", "c", "D1", "d1", "x-1", "new.2"])
FILES = st.dictionaries(st.sampled_from(["f1", "f2", "f3"]), st.lists(CODES, unique=True, max_size=4), max_size=3)
NODES = st.dictionaries(
    st.sampled_from(["w1", "w2", "w3"]), st.tuples(st.sampled_from(["present", "present", "away", "disabled"]), FILES), max_size=3
)


@settings(max_examples=150, deadline=None)
@given(st.lists(CODES, unique=True), NODES, NODES, st.booleans())
def test_what_always_holds(known: list[str], before: dict[str, Any], after: dict[str, Any], drop: bool) -> None:
    def nodes(given_: dict[str, Any]) -> dict[str, Any]:
        return {
            name: worker(**{key: file(*codes_) for key, codes_ in files.items()}) if state == "present" else {**AWAY, "state": state}
            for name, (state, files) in given_.items()
        }

    first = run(master(demo=cdes(datasets=known)), nodes(before), shared_datasets="merge")
    assert first.problems == []
    second = run(
        master(**first.contents), nodes(after), shared_datasets="merge", drop_absent=drop, labels=first.labels, record=first.record
    )
    present = {code for state, files in after.values() if state == "present" for codes_ in files.values() for code in codes_}
    entries = enumerated(second)
    assert present <= {code for code, _label in entries}
    if drop or all(state == "present" for state, _files in after.values()):
        assert present == {code for code, _label in entries}
    kept = [code for code, _label in enumerated(first) if code in dict(entries)]
    assert [code for code, _label in entries][: len(kept)] == kept, "known ones keep their order"
    assert {label for code, label in entries} <= {f"Label {code}" for code in known} | {
        code.upper() for code in present | dict(entries).keys()
    }
    portal = json.loads(second.portal)
    assert [entry["code"] for entry in portal] == (["demo"] if entries else [])
    for entry in portal:
        assert sorted((item["code"], item["label"]) for item in entry["datasets"]) == sorted(entries)
        assert entry["metadataHierarchy"] == json.loads(second.contents["demo"])
    again = run(
        master(**second.contents),
        nodes(after),
        shared_datasets="merge",
        drop_absent=drop,
        labels=second.labels,
        record=second.record,
        now=LATER,
    )
    assert (again.contents, again.portal, again.labels, again.record) == (second.contents, second.portal, second.labels, second.record)
    assert again.plan["id"] == second.plan["id"]
