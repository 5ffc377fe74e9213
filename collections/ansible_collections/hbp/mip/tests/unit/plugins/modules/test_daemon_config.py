# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _daemon
from ansible_collections.hbp.mip.tests.unit.plugins.modules.module_process import run_module

DOCKERD = os.environ.get("MIP_TEST_DOCKERD") or shutil.which("dockerd") or ""


@pytest.fixture
def config(tmp_path: Path) -> Any:
    path = tmp_path / "docker" / "daemon.json"

    def call(content: dict[str, Any], check: bool = False, **more: Any) -> dict[str, Any]:
        return run_module("daemon_config", {"content": content, "path": str(path), **more}, check=check, diff=True)

    call.path = path  # type: ignore[attr-defined]
    return call


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def test_new_file(config: Any) -> None:
    wanted = {"insecure-registries": ["10.77.1.1:5000"], "log-driver": "json-file", "log-opts": {"max-size": "10m", "max-file": 3}}
    planned = config(wanted, check=True)
    assert planned["changed"] and not config.path.parent.exists()
    done = config(wanted)
    assert done["changed"] and done["restart_needed"] and not done["reload_enough"]
    assert done["diff"] == planned["diff"] and done["diff"]["before"] == ""
    assert json.loads(config.path.read_text())["log-opts"] == {"max-size": "10m", "max-file": "3"}
    assert config.path.stat().st_mode & 0o777 == 0o644
    again = config(wanted)
    assert not again["changed"] and not again["restart_needed"] and not again["reload_enough"] and "diff" not in again
    assert sorted(os.listdir(config.path.parent)) == ["daemon.json", "daemon.json.previous"]


def test_keeps_what_the_operator_set(config: Any) -> None:
    before = '{"data-root": "/srv/docker", "insecure-registries": ["a:5000"], "log-opts": {"max-size": "1g", "tag": "x"}}'
    write(config.path, before)
    done = config({"insecure-registries": ["b:5000", "a:5000"], "log-opts": {"max-size": "10m"}})
    assert json.loads(config.path.read_text()) == {
        "data-root": "/srv/docker",
        "insecure-registries": ["a:5000", "b:5000"],
        "log-opts": {"max-size": "10m", "tag": "x"},
    }
    assert done["keys"] == ["insecure-registries", "log-opts"] and done["restart_keys"] == ["log-opts"]
    assert Path(done["previous"]).read_text() == before


def test_reload_is_enough_for_registries(config: Any) -> None:
    done = config({"insecure-registries": ["a:5000"], "registry-mirrors": ["https://m"], "debug": True})
    assert done["changed"] and done["reload_enough"] and not done["restart_needed"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"debug": true,}', "line 1, column"),
        ('{\n "debug": tru\n}', "line 2, column 11"),
        ("{", "line 1, column 2"),
        ("[]", "list instead of an object"),
        ('{"debug": true, "debug": false}', "'debug' stands there twice"),
        ('{"insecure-registries": "a:5000"}', "'insecure-registries' holds str"),
    ],
)
def test_unusable_file_is_left_alone(config: Any, text: str, words: str) -> None:
    write(config.path, text)
    result = config({"insecure-registries": ["b:5000"]})
    assert result["failed"] and result["mip_error"] == "configuration"
    assert (words in result["msg"] and str(config.path) in result["msg"]) or "holds str" in words
    assert config.path.read_text() == text and os.listdir(config.path.parent) == ["daemon.json"]


def test_empty_file_counts_as_empty_configuration(config: Any) -> None:
    write(config.path, "\n")
    assert config({"debug": False})["changed"]


def test_folder_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run_module("daemon_config", {"content": {"debug": True}, "path": str(tmp_path / "file" / "daemon.json")})
    assert result["failed"] and str(tmp_path / "file") in result["msg"]


def test_options_of_another_log_driver_are_dropped() -> None:
    merged = _daemon.merge(
        {"log-driver": "gelf", "log-opts": {"gelf-address": "udp://x"}}, {"log-driver": "json-file", "log-opts": {"max-file": 3}}
    )
    assert merged == {"log-driver": "json-file", "log-opts": {"max-file": "3"}}
    assert _daemon.merge({"log-opts": {"tag": "x"}}, {"log-driver": "json-file"}) == {"log-opts": {"tag": "x"}, "log-driver": "json-file"}


def test_lists_are_united() -> None:
    assert _daemon.merge({"labels": ["a=1", "b=2"]}, {"labels": ["a=3"]}) == {"labels": ["b=2", "a=3"]}
    assert _daemon.merge({"dns": ["1.1.1.1"]}, {"dns": ["2.2.2.2", "1.1.1.1"]}) == {"dns": ["1.1.1.1", "2.2.2.2"]}
    pools = [{"base": "10.1.0.0/16", "size": 24}]
    assert _daemon.merge({"default-address-pools": pools}, {"default-address-pools": pools}) == {"default-address-pools": pools}
    changed = [{"base": "10.1.0.0/16", "size": 26}]
    assert _daemon.merge({"default-address-pools": pools}, {"default-address-pools": changed}) == {"default-address-pools": changed}


def test_flags_of_the_running_engine() -> None:
    running = ["/usr/sbin/dockerd", "-H", "fd://", "--insecure-registry=a:5000", "--log-opt", "max-size=1m"]
    assert _daemon.flags_in_conflict(["hosts"], running) == ["-H"]
    assert _daemon.flags_in_conflict(["insecure-registries", "log-opts"], running) == ["--insecure-registry", "--log-opt"]
    assert _daemon.flags_in_conflict(["log-driver", "mtu"], running) == []


def test_what_the_engine_does_not_follow_yet() -> None:
    info = {
        "RegistryConfig": {
            "InsecureRegistryCIDRs": ["127.0.0.0/8", "10.0.0.0/8"],
            "IndexConfigs": {"docker.io": {"Secure": True}, "a:5000": {"Secure": False}},
            "Mirrors": ["https://mirror/"],
        },
        "LoggingDriver": "json-file",
        "LiveRestoreEnabled": False,
    }
    in_force = {
        "insecure-registries": ["a:5000", "10.0.0.0/8", "127.0.0.1/8"],
        "registry-mirrors": ["https://mirror"],
        "log-driver": "json-file",
        "live-restore": False,
    }
    assert _daemon.not_in_force(in_force, info) == []
    late = {"insecure-registries": ["b:5000"], "registry-mirrors": ["https://x"], "log-driver": "local", "live-restore": True}
    assert _daemon.not_in_force(late, info) == ["insecure-registries", "registry-mirrors", "live-restore", "log-driver"]


RUNNING = ["/usr/sbin/dockerd", "-H", "fd://"]


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is to become of a file beside an engine that runs with these arguments and says this of itself."""
    path = tmp_path / "daemon.json"
    monkeypatch.setattr(_daemon, "PATH", str(path))

    def plan(text: str, wanted: dict[str, Any], info: dict[str, Any] | None, arguments: list[str] | None) -> _daemon.Plan:
        path.write_text(text)
        monkeypatch.setattr(_daemon._docker_http, "daemon_pid", lambda: os.getpid() if arguments else 0)
        monkeypatch.setattr(_daemon, "command_line", lambda _pid: arguments)
        return _daemon.plan(str(path), wanted, lambda: info)

    plan.path = path  # type: ignore[attr-defined]
    return plan


def test_a_file_as_wanted_and_in_force(planned: Any) -> None:
    found = planned('{"log-driver": "local", "debug": true}', {"log-driver": "local"}, {"LoggingDriver": "local"}, RUNNING)
    assert (found.keys, found.pending, found.conflicts) == ([], [], [])
    assert json.loads(found.before) == json.loads(found.after) == {"log-driver": "local", "debug": True}


def test_a_key_that_differs(planned: Any) -> None:
    found = planned("{}", {"debug": True, "mtu": 1400}, {}, [*RUNNING, "--mtu=1400"])
    assert found.keys == ["debug", "mtu"] and found.conflicts == ["--mtu"] and found.before == "{}"
    assert json.loads(found.after) == {"debug": True, "mtu": 1400}


def test_the_engine_runs_with_another_file_than_there_is(planned: Any) -> None:
    """An earlier run wrote the file and was cut off: the engine tells it, or the time of the file does."""
    wanted = {"log-driver": "local"}
    assert planned(json.dumps(wanted), wanted, {"LoggingDriver": "json-file"}, RUNNING).pending == ["log-driver"]
    assert planned(json.dumps(wanted), wanted, {"LoggingDriver": "json-file"}, None).pending == []
    Path(f"{planned.path}.previous").write_text('{"mtu": 1400}')
    assert planned(json.dumps(wanted), wanted, None, RUNNING).pending == ["log-driver", "mtu"]


def test_the_engine_is_asked_only_where_it_matters(planned: Any) -> None:
    asked: list[str] = []
    planned("{}", {}, None, RUNNING)
    _daemon.plan(str(planned.path.with_name("other.json")), {"debug": True}, lambda: asked.append("info"))  # type: ignore[arg-type, return-value]
    assert asked == []


def test_start_of_a_process() -> None:
    assert abs(_daemon.started_at(os.getpid()) - time.time()) < 3600
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    try:
        assert abs(_daemon.started_at(child) - time.time()) < 1
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


@pytest.mark.skipif(not DOCKERD, reason="no dockerd on this machine (MIP_TEST_DOCKERD names one)")
def test_the_engine_validates(config: Any) -> None:
    accepted = config({"log-driver": "json-file"}, executable=DOCKERD)
    assert accepted["changed"]
    if not accepted["validated"]:
        pytest.skip("this engine cannot validate (older than 23.0)")
    before = config.path.read_bytes()
    refused = config({"no-such-key": 1}, executable=DOCKERD)
    assert refused["failed"] and "no-such-key" in refused["msg"] and "Nothing was changed" in refused["msg"]
    assert config.path.read_bytes() == before


def test_an_engine_that_cannot_validate(config: Any, tmp_path: Path) -> None:
    old = tmp_path / "dockerd"
    old.write_text('#!/bin/sh\necho "Status: unknown flag: --validate" >&2\nexit 1\n')
    old.chmod(0o755)
    done = config({"debug": True}, executable=str(old))
    assert done["changed"] and not done["validated"]


def test_complaints_that_are_not_about_the_change(config: Any, tmp_path: Path) -> None:
    fussy = tmp_path / "dockerd"
    fussy.write_text("#!/bin/sh\necho 'invalid userland-proxy-path' >&2\nexit 1\n")
    fussy.chmod(0o755)
    done = config({"debug": True}, executable=str(fussy))
    assert done["changed"] and not done["validated"]
