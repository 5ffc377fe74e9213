# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Specifications, secrets and states of the portal's containers."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _containers
from ansible_collections.hbp.mip.plugins.module_utils._containers import ContainerError, SecretFiles

HARD = "p'\"$(id)`x` \\n;|&<>{}[]#%=*?!~ äß\t$HOME\nsecond line"


def options(**more: Any) -> dict[str, Any]:
    """A wanted container."""
    return {"component": "backend", "image": "backend:1", "once": False, "env": {}, "secrets": [], "watch": [], **more}


def built(**more: Any) -> dict[str, Any]:
    """What the engine is asked for."""
    return _containers.build(options(**more), "lab", "lab_portal", "/secrets/backend")


def test_values_of_the_environment_stay_as_they_are() -> None:
    """No value is cut or changed."""
    assert built(env={"A": "x=y==", "B": HARD, "N": 5})["Env"] == ["A=x=y==", f"B={HARD}", "N=5"]


@pytest.mark.parametrize("value", [True, None, {"a": 1}, ["a"], "a\0b"])
def test_what_no_environment_can_carry_is_refused(value: Any) -> None:
    """YAML makes a Boolean of an unquoted FALSE."""
    with pytest.raises(ContainerError, match="A"):
        built(env={"A": value})


def test_published_ports_and_limits() -> None:
    """Ports are bound, memory is counted in bytes."""
    body = built(ports=[{"target": 80, "published": 8000, "address": "10.0.0.1"}], limits={"memory_mb": 2, "cpus": 0.5, "pids": 9})
    assert body["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostIp": "10.0.0.1", "HostPort": "8000"}]}
    assert (body["HostConfig"]["Memory"], body["HostConfig"]["NanoCpus"], body["HostConfig"]["PidsLimit"]) == (2 << 20, 500000000, 9)
    with pytest.raises(ContainerError, match="70000"):
        built(ports=[{"target": 80, "published": 70000}])


def test_a_one_shot_container_is_repeated_when_it_fails_only() -> None:
    """All others run until they are stopped."""
    assert built(once=True)["HostConfig"]["RestartPolicy"]["Name"] == "on-failure"
    assert built()["HostConfig"]["RestartPolicy"] == {"Name": "unless-stopped"}


def test_secrets_are_mounted_only_where_there_are_some() -> None:
    """The folder of the component, read-only."""
    mount = {"Type": "bind", "Source": "/secrets/backend", "Target": "/run/secrets", "ReadOnly": True}
    assert built(secrets=[{"name": "A", "value": "x"}])["HostConfig"]["Mounts"] == [mount]
    assert built()["HostConfig"]["Mounts"] == []
    with pytest.raises(ContainerError, match="target"):
        built(mounts=[{"source": "/a", "target": "/t"}, {"source": "/b", "target": "/t"}])


def test_a_generated_password_is_made_once_and_only_root_gets_to_it(tmp_path: Path) -> None:
    """Another run, and another container, get the same."""
    folder = tmp_path / "secrets"
    first = SecretFiles(str(folder), dry=False)
    password = first.password("database-admin")
    assert len(password) >= 40
    assert SecretFiles(str(folder), dry=False).password("database-admin") == password != first.password("database-portal")
    first.write("database", {"POSTGRES_PASSWORD": password})
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "generated" / "database-admin").stat().st_mode & 0o777 == 0o600
    assert (folder / "database" / "POSTGRES_PASSWORD").read_text() == password
    assert first.outdated("database", {"POSTGRES_PASSWORD": password}) == []
    first.write("database", {"OTHER": HARD})
    assert {path.name: path.read_text() for path in (folder / "database").iterdir()} == {"OTHER": HARD}


def test_a_password_that_was_written_in_place_of_a_generated_one(tmp_path: Path) -> None:
    """Every character counts as it is; what is no text is refused with its place."""
    files = SecretFiles(str(tmp_path / "state"), dry=False)
    files.password("database")
    kept = tmp_path / "state/generated/database"
    kept.write_bytes("p'\"$(id)`x` \u00e4\u00df".encode())
    assert files.password("database") == "p'\"$(id)`x` \u00e4\u00df"
    kept.write_bytes(b"\xff\xfe")
    with pytest.raises(ContainerError, match=f"{kept} is no UTF-8"):
        files.password("database")


def test_nothing_is_written_when_it_must_not_be(tmp_path: Path) -> None:
    """A dry run tells what it would write."""
    files = SecretFiles(str(tmp_path / "secrets"), dry=True)
    assert files.password("one") == files.password("one")
    files.write("backend", {"A": "x"})
    assert files.written == ["backend/A"]
    assert not (tmp_path / "secrets").exists()


def test_a_mark_tells_only_whether_a_secret_is_the_same(tmp_path: Path) -> None:
    """Another host has another mark for the same secret."""
    one, two = SecretFiles(str(tmp_path / "1"), dry=False), SecretFiles(str(tmp_path / "2"), dry=False)
    assert one.mark(b"x") == SecretFiles(str(tmp_path / "1"), dry=False).mark(b"x")
    assert len({one.mark(b"x"), one.mark(b"y"), two.mark(b"x")}) == 3


@pytest.mark.parametrize("value", ["", "a\n", "a\0"])
def test_secrets_that_would_not_arrive_unchanged_are_refused(value: str) -> None:
    """A shell cuts line feeds at the end."""
    with pytest.raises(ContainerError):
        _containers.check_secret("A", value)


def test_a_secret_is_given_or_generated(tmp_path: Path) -> None:
    """Not both, not none, and not twice."""
    files = SecretFiles(str(tmp_path), dry=True)
    for wrong in (
        [{"name": "A"}],
        [{"name": "A", "value": "x", "generate": "y"}],
        [{"name": "A", "value": "x"}] * 2,
        [{"name": "a/b", "value": "x"}],
    ):
        with pytest.raises(ContainerError):
            _containers.secret_values(options(secrets=wrong), files)


def test_the_program_gets_secrets_byte_for_byte(tmp_path: Path) -> None:
    """The wrapper itself, run by the shell that is here."""
    body = _containers.wrapped(
        {"Image": "x", "Env": ["PLAIN=1"]}, ["A", "B"], {"Config": {"Entrypoint": ["printenv"], "Cmd": ["-0", "A", "B", "PLAIN"]}}
    )
    (tmp_path / "A").write_text(HARD)
    (tmp_path / "B").write_text("-n 'x'")
    script = body["Entrypoint"][2].replace("/run/secrets", str(tmp_path))
    environment = {"PATH": os.environ["PATH"], **dict(item.split("=", 1) for item in body["Env"])}
    done = subprocess.run(["/bin/sh", "-c", script, "sh", *body["Cmd"]], capture_output=True, check=True, env=environment)
    assert done.stdout.decode().split("\0") == [HARD, "-n 'x'", "1", ""]


def test_without_secrets_the_program_is_the_images_own() -> None:
    """And one without a program cannot be wrapped."""
    assert "Entrypoint" not in _containers.wrapped({"Image": "x", "Env": []}, [], {"Config": {"Entrypoint": ["a"]}})
    with pytest.raises(ContainerError, match="no program"):
        _containers.wrapped({"Image": "x", "Env": []}, ["A"], {"Config": {}})


def test_labels_hold_no_secret_and_give_the_specification_back(tmp_path: Path) -> None:
    """What is compared in the next run."""
    files = SecretFiles(str(tmp_path), dry=True)
    wanted = options(secrets=[{"name": "A", "value": HARD}])
    marks = {"A": files.mark(HARD.encode())}
    shown = _containers.readable(built(secrets=wanted["secrets"]), wanted, marks, {"/f": "00"})
    labels = _containers.with_labels({}, "lab", "backend", shown)["Labels"]
    assert _containers.spec_of(labels) == shown
    assert "second line" not in json.dumps(labels)
    assert _containers.spec_of({_containers.SPEC: "{"}) == _containers.spec_of(None) == {}


@pytest.mark.parametrize(
    ("state", "once", "checked", "expected"),
    [
        ({"Status": "running"}, False, False, "up"),
        ({"Status": "running", "Health": {"Status": "starting"}}, False, True, "starting"),
        ({"Status": "running", "Health": {"Status": "healthy"}}, False, True, "up"),
        ({"Status": "running", "Health": {"Status": "unhealthy", "Log": [{"Output": "no answer"}]}}, False, True, "failed"),
        ({"Status": "running"}, True, False, "starting"),
        ({"Status": "exited", "ExitCode": 0}, True, False, "done"),
        ({"Status": "exited", "ExitCode": 3}, True, False, "failed"),
        ({"Status": "exited", "ExitCode": 0}, False, False, "failed"),
        ({"Status": "restarting", "Restarting": True, "ExitCode": 1}, False, False, "failed"),
        ({"Status": "restarting", "Restarting": True, "ExitCode": 1}, True, False, "starting"),
        ({"Status": "created"}, False, False, "starting"),
    ],
)
def test_states(state: dict[str, Any], once: bool, checked: bool, expected: str) -> None:
    """What the engine says, in the words of the portal."""
    assert _containers.condition(state, once, checked)[0] == expected


def test_the_reason_of_an_unhealthy_container() -> None:
    """The last thing that its check said."""
    state = {"Status": "running", "Health": {"Status": "unhealthy", "Log": [{"Output": "old"}, {"Output": "no\n answer"}]}}
    assert _containers.condition(state, False, True)[1] == "its health check fails: no answer"
    assert "memory" in _containers.condition({"Status": "exited", "ExitCode": 137, "OOMKilled": True}, False, False)[1]


def test_files_are_written_once_and_kept_where_asked(tmp_path: Path) -> None:
    """What would be written counts already in a dry run."""
    path = tmp_path / "portal" / "pathologies.json"
    item = {"path": str(path), "content": "[]", "secret": "", "mode": "0640", "keep": True}
    assert _containers.write_files([item], dry=True) == {str(path): b"[]"}
    assert not path.exists()
    assert _containers.write_files([item], dry=False) == {str(path): b"[]"}
    assert path.stat().st_mode & 0o777 == 0o640
    assert _containers.write_files([item], dry=False) == {}
    path.write_text("[1]")
    assert _containers.write_files([item], dry=False) == {}
    assert _containers.write_files([{**item, "keep": False}], dry=False) == {str(path): b"[]"}
    marks = _containers.file_marks([str(path), "/absent"], {"/absent": b""})
    assert _containers.file_marks([str(path), "/absent"], {}) == {str(path): marks[str(path)], "/absent": ""}
    assert len(marks["/absent"]) == 64


@pytest.mark.parametrize(
    ("image", "other", "expected"),
    [
        ("hbpmip/portal-backend:7.5.4", "hbpmip/portal-backend:7.6.1@sha256:ab", True),
        ("hbpmip/portal-backend:7.10.0", "hbpmip/portal-backend:7.9.3", False),
        ("host:5000/backend:v2", "backend:10", True),
        ("postgres:11.3-alpine", "postgres:11-alpine", False),
        ("postgres:11-alpine", "postgres:11.0", False),
        ("backend@sha256:ab", "backend:9", False),
        ("backend:latest", "backend:9", False),
    ],
)
def test_older_by_the_numbers_of_the_tag(image: str, other: str, expected: bool) -> None:
    """What does not say is not older."""
    assert _containers.older(image, other) is expected
