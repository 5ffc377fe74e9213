# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an engine's API has to answer after a step of an upgrade, asked over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils._api_gate import Gate

NODES = ["h-ms", "h-wk-a"]
HELD = {"h-ms": {}, "h-wk-a": {"dementia": ["one", "two"]}, "h-wk-b": {"dementia": ["three"]}}


class Api:
    """An engine's API whose answers the test changes."""

    def __init__(self) -> None:
        self.active, self.held, self.broken = list(NODES), dict(HELD), 0
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                answer: dict[str, Any] = {"active_nodes": ", ".join(api.active)} if self.path.endswith("HEALTH_CHECK") else api.held
                if api.broken:
                    api.broken -= 1
                    text = "Something went wrong. Please consult the system administrator."
                    answer = {"result": [{"type": "text/plain+error", "data": text}]}
                body = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Stay silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        """Stop answering."""
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    yield made
    made.close()


def test_the_same_answers_as_before_are_well(api: Api) -> None:
    gate = Gate(api.url, NODES, 30)
    gate.look()
    api.active.append("h-wk-new")
    assert gate.ask() == ""


def test_it_waits_for_what_comes_back(api: Api) -> None:
    gate = Gate(api.url, NODES, 60)
    gate.look()
    api.broken = 2
    assert gate.ask() == "" and api.broken == 0


def test_a_node_that_does_not_come_back_is_named(api: Api) -> None:
    gate = Gate(api.url, NODES, 0)
    gate.look()
    api.active.remove("h-wk-a")
    assert "h-wk-a not among its active nodes" in gate.ask()


def test_datasets_that_were_there_must_be_there(api: Api) -> None:
    gate = Gate(api.url, NODES, 0)
    gate.look()
    # That of a node that is not asked for may go.
    api.held = {"h-ms": {}, "h-wk-a": {"dementia": ["one"]}}
    assert gate.ask().endswith("it no longer offers two of h-wk-a")


def test_an_engine_that_did_not_answer_before_had_nothing_to_lose(api: Api) -> None:
    gate = Gate(api.url, NODES, 0)
    api.broken = 1
    gate.look()
    assert gate.before == {} and gate.ask() == ""


def test_an_api_that_is_gone_is_told_as_that(api: Api) -> None:
    gate = Gate(api.url, NODES, 0)
    gate.look()
    api.close()
    assert "connection refused" in gate.ask()
