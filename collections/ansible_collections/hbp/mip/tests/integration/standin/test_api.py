# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The API of the stand-in has the shapes, codes and messages that the engine's contract names."""

from __future__ import annotations

import sqlite3
import statistics
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils._lab_seed import Dataset, columns
from ansible_collections.hbp.mip.tests.helpers.standin import Federation, request

SERVER_ERROR = "Something went wrong. Please consult the system administrator or try again later."
RUN_ERROR = "Something went wrong. Please inform the system administrator."
INSUFFICIENT = "The Experiment could not run with the input provided because there are insufficient data."


def envelope(message: str, kind: str) -> dict[str, Any]:
    return {"result": [{"data": message, "type": kind}]}


def rows(federation: Federation, node: str, dataset: str, *codes: str) -> list[tuple[Any, ...]]:
    """A dataset's values, read past the engine."""
    with sqlite3.connect(f"file:{federation.database(node, 'dementia')}?mode=ro", uri=True) as connection:
        return connection.execute(f"SELECT {', '.join(codes)} FROM DATA WHERE dataset = ?", [dataset]).fetchall()


def test_keystore_holds_the_keys_of_the_contract(federation: Federation) -> None:
    wanted = federation.wanted_keys()
    assert sorted(federation.keys()) == sorted(wanted)
    assert {key: federation.value(key) for key in wanted} == wanted
    assert federation.held("wk-1", "dementia") == ["dementia-h1", "dementia-h1-cohort2"]
    assert federation.value("data/ms/dementia") == "[]"


def test_algorithms(federation: Federation) -> None:
    reply = federation.api("GET", "/mining/algorithms.json")
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Server"] == "exareme-standin/1.0 (lab stand-in, not Exareme)"
    assert reply.text.startswith("[\n  {\n")
    found = {algorithm["name"]: algorithm for algorithm in reply.data}
    assert set(found) == {"HEALTH_CHECK", "LIST_DATASET", "LIST_VARIABLES", "DESCRIPTIVE_STATS"}
    for algorithm in found.values():
        assert set(algorithm) == {"name", "desc", "label", "type", "parameters"}
        assert "exareme-standin 1.0" in algorithm["desc"]
    parameters = {parameter["name"]: parameter for parameter in found["DESCRIPTIVE_STATS"]["parameters"]}
    assert {"y", "dataset", "filter", "pathology"} == set(parameters)
    assert {"name", "label", "desc", "type", "value", "valueNotBlank", "valueMultiple", "valueType"} <= set(parameters["y"])


@pytest.mark.parametrize("prefix", ["/mining/query/", "/v1/mining/"])
@pytest.mark.parametrize("body", [None, "", "[]"])
def test_health_check(federation: Federation, prefix: str, body: str | None) -> None:
    reply = federation.api("POST", f"{prefix}HEALTH_CHECK", body)
    assert reply.status == 200
    assert set(reply.data) == {"active_nodes"}
    assert sorted(reply.data["active_nodes"].split(", ")) == ["ms", "wk-1", "wk-10"]


def test_list_dataset(federation: Federation) -> None:
    reply = federation.query("LIST_DATASET")
    assert reply.status == 200
    assert reply.data == {
        name: {pathology: federation.held(name, pathology) for pathology in ("dementia", "mentalhealth")} for name in federation.nodes
    }
    assert reply.data["ms"] == {"dementia": [], "mentalhealth": []}
    assert "dementia-h2-pilot" in reply.data["wk-10"]["dementia"]


def test_list_variables(federation: Federation, seeded: list[Dataset]) -> None:
    for pathology in ("dementia", "mentalhealth"):
        reply = federation.query("LIST_VARIABLES", pathology=pathology)
        assert reply.status == 200
        assert reply.data == {variable.code: variable.sql_type for variable in columns(pathology, seeded)}
    assert reply.data["phq9"] == "int"


def test_descriptive_statistics_are_those_of_all_rows(federation: Federation) -> None:
    reply = federation.query(
        "DESCRIPTIVE_STATS", y="lefthippocampus,gender", dataset="dementia-h1,dementia-h2", pathology="dementia", filter=""
    )
    assert reply.status == 200
    assert set(reply.data) == {"result"}
    (result,) = reply.data["result"]
    assert result["type"] == "application/json"
    assert set(result["data"]) == {"single", "model"}
    for node, dataset in (("wk-1", "dementia-h1"), ("wk-10", "dementia-h2")):
        everything = rows(federation, node, dataset, "lefthippocampus", "gender")
        volumes = [volume for volume, _gender in everything if volume is not None]
        assert result["data"]["single"]["Left hippocampus"][dataset] == {
            "num_datapoints": len(volumes),
            "num_nulls": len(everything) - len(volumes),
            "num_total": len(everything),
            "data": {
                "mean": round(statistics.fmean(volumes), 2),
                "std": round(statistics.stdev(volumes), 2),
                "min": round(min(volumes), 2),
                "max": round(max(volumes), 2),
            },
        }
        women = sum(gender == "F" for _volume, gender in everything)
        gender = result["data"]["single"]["Gender"][dataset]
        assert gender["num_total"] == gender["num_datapoints"] == len(everything)
        assert gender["data"]["F"] == {"count": women, "percentage": round(100 * women / len(everything), 2)}
        model = result["data"]["model"][dataset]
        assert model["num_datapoints"] == len(volumes)
        assert model["num_total"] == len(everything)
        assert set(model["data"]) == {"Left hippocampus", "Gender"}


def test_filter_selects_rows(federation: Federation) -> None:
    rules = (
        '{"condition":"AND","rules":[{"id":"gender","field":"gender","type":"string","input":"select","operator":"equal","value":"F"},'
        '{"id":"subjectageyears","field":"subjectageyears","type":"integer","input":"number","operator":"between","value":[60,70]}],"valid":true}'
    )
    reply = federation.query("DESCRIPTIVE_STATS", y="tiv", dataset="dementia-h1", pathology="dementia", filter=rules)
    found = rows(federation, "wk-1", "dementia-h1", "gender", "subjectageyears", "tiv")
    chosen = [tiv for gender, age, tiv in found if gender == "F" and 60 <= age <= 70]
    single = reply.data["result"][0]["data"]["single"]["Total intracranial volume"]["dementia-h1"]
    assert single["num_total"] == len(chosen) >= 10


@pytest.mark.parametrize(
    ("algorithm", "parameters", "message"),
    [
        ("NO_SUCH", {}, "The algorithm 'NO_SUCH' does not exist."),
        ("WP_LIST_DATASETS", {}, "The algorithm 'WP_LIST_DATASETS' does not exist."),
        ("LIST_VARIABLES", {"pathology": "nosuch"}, "Pathology nosuch is not available."),
        ("LIST_VARIABLES", {"other": "1"}, "Please provide a pathology."),
        ("DESCRIPTIVE_STATS", {"y": "tiv", "dataset": "dementia-h1"}, "Please provide a pathology."),
        ("DESCRIPTIVE_STATS", {"y": "tiv", "dataset": "x", "pathology": "dementia"}, "Dataset(s) x does not exist in pathology dementia."),
        ("DESCRIPTIVE_STATS", {"y": "tiv", "pathology": "dementia"}, "The value of the parameter 'dataset' should not be blank."),
        ("DESCRIPTIVE_STATS", {"dataset": "dementia-h1", "pathology": "dementia"}, "The value of the parameter 'y' should not be blank."),
        ("DESCRIPTIVE_STATS", {"y": "nosuch", "dataset": "dementia-h1", "pathology": "dementia"}, "The CDE 'nosuch' does not exist."),
        ("HEALTH_CHECK", {"any": "thing"}, "Please provide a pathology."),
    ],
)
def test_wrong_input(federation: Federation, algorithm: str, parameters: dict[str, str], message: str) -> None:
    reply = federation.query(algorithm, **parameters)
    assert reply.status == 400
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.data == envelope(message, "text/plain+user_error")


@pytest.mark.parametrize("body", ["{", "7", '[{"name": "y", "value": 3}]', "[1]"])
def test_broken_body(federation: Federation, body: str) -> None:
    reply = federation.api("POST", "/mining/query/LIST_VARIABLES", body)
    assert reply.status == 500
    assert reply.data == envelope(SERVER_ERROR, "text/plain+error")


def test_get_of_a_query(federation: Federation) -> None:
    reply = federation.api("GET", "/mining/query/HEALTH_CHECK")
    assert reply.status == 500
    assert reply.data == envelope(SERVER_ERROR, "text/plain+error")


@pytest.mark.parametrize(
    ("y", "rules"),
    [
        ("acquisitionnote", ""),
        ("tiv", '{"id":"nosuch","operator":"equal","value":"1"}'),
        ("tiv", '{"id":"gender","operator":"drop","value":"1"}'),
    ],
)
def test_failure_while_running_comes_with_status_200(federation: Federation, y: str, rules: str) -> None:
    reply = federation.query("DESCRIPTIVE_STATS", y=y, dataset="dementia-h1", pathology="dementia", filter=rules)
    assert reply.status == 200
    assert reply.data == envelope(RUN_ERROR, "text/plain+error")


def test_other_paths(federation: Federation) -> None:
    assert federation.api("GET", "/exa-view/index.html").status == 200
    assert "stand-in" in federation.api("GET", "/exa-view/index.html").text
    assert federation.api("GET", "/nosuch").status == 404
    assert federation.api("GET", "/mining/../etc/passwd").status == 404


def test_check_worker(federation: Federation) -> None:
    master, worker = federation.addresses["ms"], federation.addresses["wk-1"]
    assert request(master, 9092, "GET", f"/check/worker?NODE_IP={worker}&NODE_NAME=wk-10").data == envelope(RUN_ERROR, "text/plain+error")
    assert request(master, 9092, "GET", f"/check/worker?NODE_NAME=wk-1&NODE_IP={worker}").status == 400
    nobody = request(master, 9092, "GET", "/check/worker?NODE_IP=127.0.0.250&NODE_NAME=ghost")
    assert nobody.status == 200
    assert nobody.data["result"][0]["type"] == "text/plain+error"
    assert "ghost" not in federation.active()


# Privacy


def statistics_of(federation: Federation, y: str, datasets: str, **more: str) -> Any:
    return federation.query("DESCRIPTIVE_STATS", y=y, dataset=datasets, pathology="dementia", **more)


def test_small_dataset_alone_is_insufficient(federation: Federation) -> None:
    assert 0 < len(rows(federation, "wk-10", "dementia-h2-pilot", "tiv")) < 10
    reply = statistics_of(federation, "tiv,gender", "dementia-h2-pilot")
    assert reply.status == 200
    assert reply.data == envelope(INSUFFICIENT, "text/plain+warning")


def test_small_dataset_beside_a_large_one_stays_untold(federation: Federation) -> None:
    data = statistics_of(federation, "tiv", "dementia-h2,dementia-h2-pilot").data["result"][0]["data"]
    label = "Total intracranial volume"
    untold = {"num_datapoints": None, "num_nulls": None, "num_total": None}
    assert data["single"][label]["dementia-h2-pilot"] == {**untold, "data": "NOT ENOUGH DATA"}
    assert data["model"]["dementia-h2-pilot"] == {**untold, "data": {label: "NOT ENOUGH DATA"}}
    assert data["single"][label]["dementia-h2"]["num_total"] >= 300


def test_filter_that_leaves_few_rows_is_insufficient(federation: Federation) -> None:
    rules = '{"id":"subjectcode","operator":"equal","value":"dementia-h1-0001"}'
    assert statistics_of(federation, "tiv", "dementia-h1", filter=rules).data == envelope(INSUFFICIENT, "text/plain+warning")


def small_numbers(data: Any) -> list[int]:
    """All numbers from 1 to 9 that count something."""
    if not isinstance(data, dict):
        return []
    counted = [data.get("count"), data.get("total"), *dict(data.get("counts") or {}).values()]
    small = [number for number in counted if isinstance(number, int) and 0 < number < 10]
    return small + [number for value in data.values() for number in small_numbers(value)]


def test_small_counts_never_leave_the_node(federation: Federation) -> None:
    """The worker enforces the minimum, not the master: asked directly, past the master, it tells no more."""
    query = {
        "pathology": "dementia",
        "datasets": ["dementia-h2", "dementia-h2-pilot"],
        "variables": ["handedness", "agegroup", "tiv", "csftau"],
        "filter": None,
        "minimum": 0,
    }
    reply = request(federation.addresses["wk-10"], 8888, "POST", "/node/statistics", query)
    assert reply.status == 200
    assert reply.data["single"]["tiv"]["dementia-h2-pilot"] == {"enough": False}
    # This hospital does not measure it: all cells are empty.
    assert reply.data["single"]["csftau"]["dementia-h2"]["enough"] is False
    rare = dict.fromkeys(("R", "L", "A"), 0)
    for (hand,) in rows(federation, "wk-10", "dementia-h2", "handedness"):
        if hand:
            rare[hand] += 1
    assert 0 < rare["A"] < 10, "the seed must give a rare category"
    told = reply.data["single"]["handedness"]["dementia-h2"]
    assert "A" not in told["counts"]
    assert "A" in told["suppressed"]
    # What is hidden together is large enough, so that no small count follows from the sum.
    assert told["count"] - sum(told["counts"].values()) >= 10
    assert small_numbers(reply.data) == []
    assert "dementia-h2-0001" not in reply.text


def test_hidden_categories_are_null_in_the_answer(federation: Federation) -> None:
    single = statistics_of(federation, "handedness", "dementia-h2").data["result"][0]["data"]["single"]["Handedness"]["dementia-h2"]
    assert single["data"]["A"] == {"count": None, "percentage": None}
