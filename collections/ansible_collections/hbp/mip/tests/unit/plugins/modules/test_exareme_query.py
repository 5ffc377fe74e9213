# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _exareme
from ansible_collections.hbp.mip.tests.unit.plugins.modules.module_process import run_module


class Master:
    """An HTTP server that answers as an Exareme master does, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, Any]]] = {}
        self.asked: list[tuple[str, str, str]] = []
        master = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_ignored: Any) -> None:
                pass

            def do_GET(self) -> None:
                self.answer()

            def do_POST(self) -> None:
                self.answer()

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                master.asked.append((self.command, self.path, body))
                queue = master.answers[self.path.rpartition("/")[2]]
                status, content = queue.pop(0) if len(queue) > 1 else queue[0]
                if callable(content):
                    content(self)
                    return
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def query(self, algorithm: str | None, *answers: tuple[int, Any], check: bool = False, **more: Any) -> dict[str, Any]:
        self.answers[algorithm or "algorithms.json"] = list(answers)
        arguments = {"url": self.url, "timeout": 5, **({"algorithm": algorithm} if algorithm else {}), **more}
        return run_module("exareme_query", arguments, check=check)


@pytest.fixture
def master() -> Iterator[Master]:
    made = Master()
    yield made
    made.server.shutdown()
    made.server.server_close()


def envelope(kind: str, data: Any) -> dict[str, Any]:
    return {"result": [{"data": data, "type": kind}]}


def codes(result: dict[str, Any]) -> list[str]:
    return [problem["code"] for problem in result["problems"]]


def test_health(master: Master) -> None:
    body = {"active_nodes": "ms, wk1, wk2"}
    result = master.query("HEALTH_CHECK", (200, body), expect_nodes=["wk2", "ms", "wk1"])
    assert result["ok"] and result["code"] == "ok" and result["nodes"] == ["ms", "wk1", "wk2"] and not result["changed"]
    assert master.asked == [("POST", "/mining/query/HEALTH_CHECK", "")]
    assert master.query("HEALTH_CHECK", (200, envelope("application/json", body)), check=True)["nodes"] == ["ms", "wk1", "wk2"]


def test_names_are_compared_whole(master: Master) -> None:
    result = master.query("HEALTH_CHECK", (200, {"active_nodes": "ms, wk10, wk10, old"}), expect_nodes=["ms", "wk1", "wk10"])
    assert not result["ok"] and codes(result) == ["node-missing", "node-unexpected", "node-twice"]
    assert result["problems"][0]["message"].startswith("wk1 is not among")
    assert result["code"] == "ok", "the call itself was answered"
    nobody = master.query("HEALTH_CHECK", (200, {"active_nodes": ""}), expect_nodes=["ms"])
    assert nobody["nodes"] == [] and codes(nobody) == ["node-missing"]


DATASETS = {"ms": {"dementia": []}, "wk1": {"dementia": ["edsd", "adni"]}, "wk2": {"dementia": ["ppmi"], "epilepsy": ["e1"]}}


def test_datasets(master: Master) -> None:
    exact = {"wk1": {"dementia": ["adni", "edsd"]}, "wk2": {"dementia": ["ppmi"], "epilepsy": ["e1"]}}
    result = master.query("LIST_DATASET", (200, DATASETS), expect_datasets=exact)
    assert result["ok"] and result["datasets"] == exact
    other = {"wk1": {"dementia": ["edsd"]}, "wk2": {"dementia": ["ppmi", "new"]}, "wk3": {"dementia": ["x"]}, "ms": {"dementia": []}}
    result = master.query("LIST_DATASET", (200, DATASETS), expect_datasets=other)
    assert [(p["code"], p["message"].partition(":")[0]) for p in result["problems"]] == [
        ("dataset-unexpected", "wk1, pathology dementia"),
        ("dataset-missing", "wk2, pathology dementia"),
        ("dataset-unexpected", "wk2, pathology epilepsy"),
        ("dataset-missing", "wk3, pathology dementia"),
    ]


def test_parameters(master: Master) -> None:
    data = {"single": {"Left Hippocampus": {"edsd": {"num_total": 474}}}}
    result = master.query(
        "DESCRIPTIVE_STATS",
        (200, envelope("application/json", data)),
        parameters={
            "y": ["lefthippocampus", "age"],
            "dataset": "edsd",
            "pathology": "dementia",
            "filter": "",
            "bins": 5,
            "flag": True,
            "none": None,
        },
    )
    assert result["ok"] and result["data"] == data
    sent = {item["name"]: item["value"] for item in json.loads(master.asked[0][2])}
    assert sent == {
        "y": "lefthippocampus,age",
        "dataset": "edsd",
        "pathology": "dementia",
        "filter": "",
        "bins": "5",
        "flag": "true",
        "none": "",
    }


def test_several_results_are_kept(master: Master) -> None:
    body = {"result": [{"type": "application/json", "data": {"a": 1}}, {"type": "application/vnd.highcharts+json", "data": {}}]}
    assert master.query("HISTOGRAMS", (200, body))["data"] == body
    body["result"][1] = {"type": "text/plain+error", "data": "Something went wrong. Please inform the system administrator."}
    assert codes(master.query("HISTOGRAMS", (200, body))) == ["engine-error"]


def test_list_of_algorithms(master: Master) -> None:
    result = master.query(None, (200, [{"name": "PCA", "parameters": []}, {"name": "ANOVA"}]))
    assert result["algorithms"] == ["ANOVA", "PCA"] and master.asked == [("GET", "/mining/algorithms.json", "")]
    assert codes(master.query(None, (200, {"x": 1}))) == ["unexpected"]


@pytest.mark.parametrize(
    ("status", "kind", "text", "code"),
    [
        (400, "user_error", "The algorithm 'X' does not exist.", "algorithm-unknown"),
        (400, "user_error", "Pathology x is not available.", "pathology-unknown"),
        (400, "user_error", "Please provide a pathology.", "parameter-missing"),
        (400, "user_error", "Dataset(s) x does not exist in pathology dementia.", "dataset-unknown"),
        (400, "user_error", "The following datasets x are currently unavailable. Please try again later.", "datasets-unavailable"),
        (400, "user_error", "The value of the parameter 'dataset' should not be blank.", "parameter-missing"),
        (400, "user_error", "The CDE 'X' does not exist.", "cde-unknown"),
        (400, "user_error", "Something new.", "refused-request"),
        (500, "error", "Something went wrong. Please consult the system administrator or try again later.", "engine-error"),
        (200, "error", "One or more containers are not responding. Please inform the system administrator.", "nodes-silent"),
        (200, "error", "Something went wrong. Please inform your system administrator.", "engine-error"),
        (200, "error", "Something else.", "engine-error"),
        (200, "warning", "The model is not valid: insufficient data.", "insufficient-data"),
    ],
)
def test_error_envelopes_whatever_the_status(master: Master, status: int, kind: str, text: str, code: str) -> None:
    body = envelope(f"text/plain+{kind}", text)
    for given_status in sorted({status, 200}):
        result = master.query("X", (given_status, body))
        assert not result["ok"] and result["code"] == code and codes(result) == [code] and result["status"] == given_status
        assert text in result["problems"][0]["message"] and result["problems"][0]["fix"]
    assert not result.get("failed")
    failed = master.query("X", (status, body), fail_on_problems=True)
    assert failed["failed"] and text in failed["msg"] and f"- {code}: " in failed["msg"]


@pytest.mark.parametrize(
    ("algorithm", "status", "body", "words"),
    [
        ("HEALTH_CHECK", 200, b"", "empty body"),
        ("HEALTH_CHECK", 200, b"<html>login</html>", "not JSON: <html>login</html>"),
        ("HEALTH_CHECK", 200, b"\xff\xfe", "not JSON"),
        ("HEALTH_CHECK", 502, {"x": 1}, "HTTP 502 without an explanation"),
        ("HEALTH_CHECK", 200, {"x": 1}, "no active_nodes"),
        ("HEALTH_CHECK", 200, [], "no active_nodes"),
        ("HEALTH_CHECK", 200, {"active_nodes": ["ms"]}, "no active_nodes"),
        ("LIST_DATASET", 200, [], "not an object"),
        ("LIST_DATASET", 200, {"ms": []}, "not an object"),
        ("LIST_DATASET", 200, {"ms": {"dementia": "edsd"}}, "not a list"),
    ],
)
def test_answers_of_something_else(master: Master, algorithm: str, status: int, body: Any, words: str) -> None:
    result = master.query(algorithm, (status, body))
    assert not result["ok"] and result["code"] == "unexpected" and words in result["problems"][0]["message"]


def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    result = run_module("exareme_query", {"url": f"http://127.0.0.1:{port}", "algorithm": "HEALTH_CHECK"})
    assert result["code"] == "refused" and result["status"] == 0 and not result.get("failed")
    unknown = run_module("exareme_query", {"url": "http://no-such-host.invalid:9090", "algorithm": "HEALTH_CHECK", "timeout": 5})
    assert unknown["code"] in ("unreachable", "timeout")


def test_silence_and_dribble(master: Master) -> None:
    def dribble(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        for _byte in range(60):
            handler.wfile.write(b" " * 10)
            handler.wfile.flush()
            time.sleep(0.1)

    result = master.query("HEALTH_CHECK", (200, lambda handler: time.sleep(3)), timeout=0.5)
    assert result["code"] == "timeout" and "0.5 seconds" in result["problems"][0]["message"]
    assert master.query("HEALTH_CHECK", (200, dribble), timeout=0.7)["code"] == "timeout"

    def cut(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b'{"active_nodes"')

    assert master.query("HEALTH_CHECK", (200, cut))["code"] in ("unreachable", "unexpected")


def test_waits_until_all_are_there(master: Master) -> None:
    answers = [
        (500, envelope("text/plain+error", "Something went wrong. Please consult the system administrator or try again later.")),
        (200, {"active_nodes": "ms"}),
        (200, {"active_nodes": "ms, wk1"}),
    ]
    result = master.query("HEALTH_CHECK", *answers, expect_nodes=["ms", "wk1"], wait=20, interval=0.1)
    assert result["ok"] and result["attempts"] == 3
    never = master.query("HEALTH_CHECK", (200, {"active_nodes": "ms"}), expect_nodes=["ms", "wk1"], wait=0.5, interval=0.2)
    assert codes(never) == ["node-missing"] and never["attempts"] >= 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"url": "10.0.0.1:9090"}, "url: "),
        ({"url": "http://"}, "url: "),
        ({"url": "file:///etc/passwd"}, "url: "),
        ({"url": "http://h:99999"}, "url: "),
        ({"url": "http://h", "algorithm": "../x"}, "algorithm: "),
        ({"url": "http://h", "timeout": 0}, "timeout: "),
        ({"url": "http://h", "expect_datasets": {"wk1": ["edsd"]}}, "expect_datasets: wk1"),
    ],
)
def test_bad_options(arguments: dict[str, Any], words: str) -> None:
    result = run_module("exareme_query", arguments)
    assert result["failed"] and result["msg"].startswith(words)


def test_a_path_before_the_api(master: Master) -> None:
    master.answers["HEALTH_CHECK"] = [(200, {"active_nodes": "ms"})]
    run_module("exareme_query", {"url": master.url + "/exareme/", "algorithm": "HEALTH_CHECK"})
    assert master.asked[0][1] == "/exareme/mining/query/HEALTH_CHECK"


def test_proxies_are_not_used(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert master.query("HEALTH_CHECK", (200, {"active_nodes": "ms"}))["ok"]


def test_interpretation_of_odd_bodies() -> None:
    assert _exareme.interpret(200, b"null").data is None
    assert _exareme.interpret(200, b'{"result": []}').ok
    assert _exareme.interpret(200, b'{"result": [1, 2]}').ok
    assert _exareme.interpret(200, json.dumps(envelope("text/plain+error", None)).encode()).code == "engine-error"
