# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Connecting to engines, and the words for what goes wrong."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import docker.errors
import pytest
import requests

from ansible_collections.hbp.mip.plugins.module_utils import _engine


class Handler(BaseHTTPRequestHandler):
    """Answers every request with what the server was given."""

    def do_GET(self) -> None:
        status, body = self.server.answer  # type: ignore[attr-defined]
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Callable[[int, bytes], str]]:
    """Something that answers HTTP as told, and its address."""
    http = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()

    def answer(status: int, body: bytes) -> str:
        http.answer = (status, body)  # type: ignore[attr-defined]
        return f"tcp://127.0.0.1:{http.server_port}"

    yield answer
    http.shutdown()
    http.server_close()


@pytest.mark.parametrize(
    ("highest", "lowest", "chosen"),
    [("1.41", "1.12", "1.41"), ("1.45", "1.24", "1.44"), ("1.52", "1.44", "1.44"), ("1.60", "1.50", "1.50"), ("1.40", None, "1.40")],
)
def test_api_version(highest: str, lowest: str | None, chosen: str) -> None:
    assert _engine.choose_api_version({"ApiVersion": highest, "MinAPIVersion": lowest}) == chosen


def test_engine_that_is_too_old() -> None:
    with pytest.raises(_engine.EngineError, match=r"Docker Engine 18\.09 is too old"):
        _engine.choose_api_version({"ApiVersion": "1.39", "Version": "18.09"})


def test_connects_with_the_version_that_both_speak(server: Callable[[int, bytes], str]) -> None:
    client = _engine.connect(server(200, b'{"ApiVersion": "1.52", "MinAPIVersion": "1.44"}'), 5)
    assert client.api_version == "1.44"


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(_engine.EngineMissing, match=r"does not exist: Docker is not installed, or not running\. Next: systemctl"):
        _engine.connect(f"unix://{tmp_path}/none.sock", 5)
    path = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(_engine.EngineMissing, match="Docker is stopped"):
        _engine.connect(f"unix://{path}", 5)


def test_engine_that_hangs(tmp_path: Path) -> None:
    path = tmp_path / "silent.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with pytest.raises(_engine.EngineError, match="did not answer within 1 s: the engine hangs") as caught:
            _engine.connect(f"unix://{path}", 1)
        assert not isinstance(caught.value, _engine.EngineMissing)


def test_engine_that_answers_errors(server: Callable[[int, bytes], str]) -> None:
    with pytest.raises(_engine.EngineError, match="a plugin says no") as caught:
        _engine.connect(server(403, b'{"message": "a plugin\\n says no"}'), 5)
    assert caught.value.status == 403


def test_without_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_engine, "SDK_ERROR", "ImportError")
    with pytest.raises(_engine.EngineMissing, match="apt-get install --no-install-recommends python3-docker"):
        _engine.connect("unix:///nonexistent", 5)


def test_old_sdk_with_new_requests() -> None:
    error = docker.errors.DockerException("Error while fetching server API version: Not supported URL scheme http+docker")
    found = _engine._not_reached("unix:///x", 5, error)
    assert "does not work with the installed `requests`" in str(found)
    assert not isinstance(found, _engine.EngineMissing)


def test_permission() -> None:
    assert "become: true" in str(_engine._not_reached("unix:///x", 5, PermissionError(13, "Permission denied")))


@pytest.mark.parametrize(
    ("error", "words", "status"),
    [
        (docker.errors.APIError("x", explanation="no\nway"), "do it: no way", 0),
        (docker.errors.DockerException("odd"), "do it: odd", 0),
        (requests.exceptions.ReadTimeout("slow"), "do it: the engine did not answer in time", 0),
        (requests.exceptions.ConnectionError("Read timed out."), "do it: the engine did not answer in time", 0),
        (requests.exceptions.ConnectionError("gone"), "do it: gone", 0),
    ],
)
def test_translation(error: Exception, words: str, status: int) -> None:
    with pytest.raises(_engine.EngineError) as caught, _engine.engine_call("do it"):
        raise error
    assert str(caught.value).startswith(words)
    assert caught.value.status == status


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), _engine.engine_call("do it"):
        raise KeyError("a mistake of ours")


def test_secrets_never_appear() -> None:
    text = "join with SWMTKN-1-3pu6hszjas19-7p73s1dx5in4 failed; key SWMKEY-1-7c37Cc8654o6p38+0=/a"
    hidden = _engine.hide_secrets(text)
    assert hidden == "join with SWMTKN-1-*** failed; key SWMKEY-1-***"
    assert str(_engine.EngineError(text)) == hidden


def test_waiting() -> None:
    answers = iter([False, False, True])
    assert _engine.wait_until(lambda: next(answers), 5, first=0.01)
    assert not _engine.wait_until(lambda: False, 0.05, first=0.01)
