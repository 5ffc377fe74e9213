# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module as a process on one host; between hosts it is tested in tests/integration/links."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _link_conntrack, _link_listen, _link_send, _link_wire
from ansible_collections.hbp.mip.plugins.module_utils._netlink import Route
from ansible_collections.hbp.mip.tests.unit.plugins.modules.module_process import run_module
from ansible_collections.hbp.mip.tests.unit.plugins.modules.test_host_modules_pythons import VERSIONS, interpreter

RUN = "5c0f6a1d7f0e4c8bb4ad5d1fb0a97c11"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"run": "short"}, "run:"),
        ({"run": RUN.upper()}, "run:"),
        ({"run": "0" * 31}, "run:"),
        ({"run": "0" * 130}, "run:"),
        ({"address": ""}, "address:"),
        ({"address": "host.example"}, "address:"),
        ({"address": "::1"}, "address:"),
        ({"peers": [{"node": "b", "address": "b"}]}, "peers:"),
        ({"ports": [{"proto": "tcp", "port": 0}]}, "ports: 0"),
        ({"watch": [65536]}, "watch: 65536"),
        ({"watch": list(range(1, 70))}, "more than 60"),
        ({"data_path_port": 70000}, "data_path_port"),
        ({"targets": [{"node": "b", "address": "x"}]}, "targets:"),
        ({"targets": [{"node": "b", "address": "192.0.2.1", "tcp": [-1]}]}, "targets: -1"),
        ({"targets": [{"node": "b", "address": "192.0.2.1", "esp_sizes": [20]}]}, "20 bytes is not between"),
        ({"targets": [{"node": "b", "address": "192.0.2.1", "vxlan_sizes": [70000]}]}, "70000 bytes is not between"),
        ({"seconds": 0}, "seconds:"),
        ({"attempts": 0}, "attempts:"),
        ({"timeout": 0}, "timeout:"),
        ({"duration": 61}, "duration:"),
        ({"mode": "throughput"}, "exactly one"),
    ],
)
def test_bad_options(given: dict[str, Any], words: str) -> None:
    result = run_module("link_probe", {"mode": "send", "run": RUN, "node": "a", "address": "127.0.0.1", **given})
    assert result["failed"] and words in result["msg"] and result["mip_error"] == "configuration"


def test_check_mode_measures_nothing() -> None:
    result = run_module("link_probe", {"mode": "listen", "run": RUN, "node": "a", "address": "127.0.0.1"}, check=True)
    assert result["skipped"] and result["ok"] and not result["changed"] and "listener_pid" not in result


def test_collect_without_a_listener_is_a_result() -> None:
    result = run_module("link_probe", {"mode": "collect", "run": secrets.token_hex(16), "node": "a"})
    assert not result.get("failed") and not result["ok"] and "no listener of this run" in result["error"]
    assert result["seen"] == [] and result["flows"] == [] and result["lost"] == 0


@needs_root
@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv")
def test_without_root_it_says_so() -> None:
    prefix = ["setpriv", "--bounding-set", "-net_raw,-net_admin"]
    listening = run_module("link_probe", {"mode": "listen", "run": RUN, "node": "a", "address": "127.0.0.1"}, prefix=prefix)
    assert not listening["ok"] and "CAP_NET_RAW" in listening["error"] and listening["listener_pid"] == 0
    target = {"node": "b", "address": "127.0.0.2", "esp_sizes": [576]}
    sent = run_module("link_probe", {"mode": "send", "run": RUN, "node": "a", "address": "127.0.0.1", "targets": [target]}, prefix=prefix)
    assert not sent["ok"] and "CAP_NET_RAW" in sent["error"] and not Path("/run/mip").exists()


@needs_root
@pytest.mark.parametrize("version", VERSIONS)
def test_all_rounds_with_all_pythons(version: str) -> None:
    python = interpreter(version)
    if not python:
        pytest.skip(f"no Python {version} on this machine")
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        used, port = taken.getsockname()[1], free.getsockname()[1]
        free.close()
        run = secrets.token_hex(16)

        def probe(mode: str, node: str, **more: Any) -> dict[str, Any]:
            given = {"mode": mode, "run": run, "node": node, "address": {"a": "127.0.0.1", "b": "127.0.0.2"}[node], **more}
            result = run_module("link_probe", given, python=python)
            assert not result.get("failed") and not result["changed"], result
            return result

        ports = [{"proto": "tcp", "port": used}, {"proto": "tcp", "port": port, "why": "test"}, {"proto": "udp", "port": port}]
        listening = probe("listen", "a", ports=ports, peers=[{"node": "b", "address": "127.0.0.2"}], seconds=30)
        assert listening["ok"] and listening["address_local"]
        assert [(item["own"], item["by"]) for item in listening["listening"]] == [
            (False, f"{Path('/proc/self/comm').read_text().strip()} (pid {os.getpid()})"),
            (True, ""),
            (True, ""),
        ]
        target = {"node": "a", "address": "127.0.0.1", "tcp": [used, port], "own_tcp": [port], "udp": [port], "esp_sizes": [576, 1500]}
        sent = probe("send", "b", targets=[target, {"node": "b", "address": "127.0.0.2", "tcp": [port]}])
        assert [item["node"] for item in sent["sent"]] == ["a"], "a host sends nothing to itself"
        result = sent["sent"][0]
        assert [(item["result"], item["answer"]) for item in result["tcp"]] == [("connected", "not-asked"), ("connected", "right")]
        assert all(item["answered"] and item["sent"] == 1 and item["ms"] > 0 for item in result["probes"])
        assert probe("throughput", "b", targets=[target], duration=0.2)["throughput"]["mb_per_s"] > 1
        collected = probe("collect", "a")
        assert [(item["peer"], item["proto"], item["size"], item["arrived"], item["delivered"]) for item in collected["seen"]] == [
            ("b", "esp", 576, 1, 1),
            ("b", "esp", 1500, 1, 1),
            ("b", "udp", _link_wire.SMALLEST, 1, 1),
        ]
        flows = {flow["port"]: flow["events"] for flow in collected["flows"]}
        assert flows[used]["syn-delivered"] >= 1 and flows[port]["synack-left"] >= 1
        assert not Path("/run/mip").exists()


def test_who_has_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        tables = _link_listen.socket_tables()
        assert _link_listen.who_has("tcp", port, "127.0.0.1", tables).endswith(f"(pid {os.getpid()})")
        assert _link_listen.who_has("tcp", port, "192.0.2.1", tables) == ""
        assert _link_listen.who_has("udp", port, "127.0.0.1", tables) == ""


def test_the_folder_must_be_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_link_listen, "FOLDER", str(tmp_path / "mip"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mip").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(_link_listen.LinkError, match="is no folder"):
        _link_listen.prepare_folder()
    (tmp_path / "mip").unlink()
    (tmp_path / "mip").mkdir(mode=0o755)
    _link_listen.prepare_folder()
    assert (tmp_path / "mip").stat().st_mode & 0o777 == 0o700


def test_the_longest_route_wins() -> None:
    routes = [
        Route("0.0.0.0/0", "eth0", "192.0.2.1"),
        Route("10.0.0.0/8", "eth1", ""),
        Route("10.1.0.0/16", "eth2", ""),
        Route("::/0", "e", ""),
    ]
    assert _link_send._route_to("10.1.2.3", routes) == routes[2]
    assert _link_send._route_to("10.2.2.3", routes) == routes[1]
    assert _link_send._route_to("198.51.100.1", routes) == routes[0]
    assert _link_send._route_to("198.51.100.1", routes[1:]) is None


@needs_root
def test_no_entries_are_asked_without_connection_tracking() -> None:
    entries = _link_conntrack.EspEntries("192.0.2.1", ["192.0.2.2"])
    assert entries.foreign == []
    entries.forget("192.0.2.2")
    entries.close()
    entries.forget("192.0.2.2")
    assert not entries.known
