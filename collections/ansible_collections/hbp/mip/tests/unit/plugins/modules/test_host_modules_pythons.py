# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host modules run with the Pythons of all supported hosts, from 3.8 (Ubuntu 20.04) to 3.13 (Debian 13)."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.tests.unit.plugins.modules.module_process import run_module

VERSIONS = ("3.8", "3.9", "3.10", "3.12", "3.13")


def interpreter(version: str) -> str:
    """An interpreter of this version on this machine that works, or an empty string."""
    found = [str(path) for path in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python3"))]
    for path in [*found, shutil.which(f"python{version}") or ""]:
        if path and subprocess.run([path, "-c", "import ctypes, sqlite3, ssl"], capture_output=True, check=False).returncode == 0:
            return path
    return ""


@pytest.mark.parametrize("version", VERSIONS)
def test_modules_run(version: str, tmp_path: Path) -> None:
    python = interpreter(version)
    if not python:
        pytest.skip(f"no Python {version} on this machine")

    def run(name: str, **arguments: Any) -> dict[str, Any]:
        result = run_module(name, arguments, python=python)
        assert not result.get("failed"), result
        return result

    checked = run("node_check", address="127.0.0.1", address_pools=["10.200.0.0/16"], data_dir=str(tmp_path), reference_time=0)
    assert checked["facts"]["python"].startswith(version + ".") and checked["problems"][0]["code"]
    assert run("daemon_config", path=str(tmp_path / "d.json"), content={"debug": True}, executable="/none")["changed"]
    holder = {"host": "a", "pid": 1}
    assert run("federation_lock", federation="lab", directory=str(tmp_path), holder=holder)["mine"]
    assert not run("federation_lock", federation="lab", directory=str(tmp_path), holder=holder, state="released")["held"]
    assert run("exareme_query", url="http://127.0.0.1:1", algorithm="HEALTH_CHECK")["code"] == "refused"
    (tmp_path / "data" / "dementia").mkdir(parents=True)
    with sqlite3.connect(tmp_path / "data" / "dementia" / "datasets.db") as connection:
        connection.execute("CREATE TABLE DATA(dataset TEXT)")
        connection.executemany("INSERT INTO DATA VALUES(?)", [("edsd",)] * 12)
    assert run("dataset_info", data_dir=str(tmp_path / "data"))["pathologies"]["dementia"]["datasets"] == {"edsd": 12}
    content = json.dumps({"code": "dementia", "variables": []}).encode()
    packed = {"content": base64.b64encode(zlib.compress(content)).decode(), "sha256": hashlib.sha256(content).hexdigest()}
    files = [{"path": "dementia/CDEsMetadata.json", **packed}]
    assert run("data_files", root=str(tmp_path / "data"), files=files)["changed"]
    (tmp_path / "data" / "dementia" / "a.csv").write_bytes(b"age,dataset\r\n" + b"50,edsd\r\n" * 12 + b'"6\n0",edsd\r\n\xff\x00,"x\n')
    found = run("dataset_info", data_dir=str(tmp_path / "data"), mode="files")["pathologies"]["dementia"]
    assert found["cdes"]["sha256"] == packed["sha256"] and found["compiled"]["state"] == "unknown"
    assert found["files"]["a.csv"]["datasets"] == {"edsd": 13} and found["files"]["a.csv"]["rows"] == ">=13"
    assert {item["code"] for item in found["files"]["a.csv"]["findings"]} == {"encoding", "zero-byte", "unclosed-quote"}
    if os.geteuid() == 0:
        listening = run("overlay_probe", mode="listen", node="a", pid=os.getpid(), address="127.0.0.1", lifetime=20)
        assert listening["ready"]
        sent = run("overlay_probe", mode="send", node="b", pid=os.getpid(), targets=[listening["target"]], large_bytes=1000000)
        assert sent["ok"], sent
