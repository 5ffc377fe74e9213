# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a node is in a swarm, from the engine's answers and files."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _swarm

ANSWERS: dict[str, Any] = json.loads(Path(__file__).with_name("engine_answers.json").read_text(encoding="utf-8"))
ANSWER = ANSWERS["20.10.24"]
PEM = ANSWER["certificate"]
CLUSTER = ANSWER["info"]["Swarm"]["Cluster"]["ID"]
NODE = ANSWER["info"]["Swarm"]["NodeID"]
WORKER = _swarm.Certificate({"O": "cluster1", "OU": "swarm-worker", "CN": "node1"}, 0, 100)
MANAGER = _swarm.Certificate({"O": "cluster1", "OU": "swarm-manager", "CN": "node1"}, 0, 100)


def info(**swarm: Any) -> dict[str, Any]:
    return {"Swarm": {"LocalNodeState": "active", "NodeID": "node1", "NodeAddr": "10.0.0.5", "ControlAvailable": False, **swarm}}


@pytest.mark.parametrize("version", sorted(ANSWERS))
def test_certificate_of_a_real_node(version: str) -> None:
    answer = ANSWERS[version]
    certificate = _swarm.parse_certificate(answer["certificate"].encode())
    assert certificate.cluster_id == answer["info"]["Swarm"]["Cluster"]["ID"]
    assert certificate.node_id == answer["info"]["Swarm"]["NodeID"]
    assert certificate.role == "manager"
    # 90 days, and an hour before now for clocks that differ.
    assert certificate.not_after - certificate.not_before == 90 * 86400 + 3600
    assert _swarm.iso_time(certificate.not_after) == "2027-02-20T05:19:00Z"


def test_certificate_as_the_standard_library_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "node.crt"
    file.write_text(PEM, encoding="ascii")
    decoded = ssl._ssl._test_decode_cert(str(file))  # type: ignore[attr-defined]
    certificate = _swarm.parse_certificate(PEM.encode())
    assert certificate.not_after == ssl.cert_time_to_seconds(decoded["notAfter"])
    assert certificate.not_before == ssl.cert_time_to_seconds(decoded["notBefore"])
    assert (("organizationName", certificate.cluster_id),) in decoded["subject"]


@pytest.mark.parametrize(
    "data", [b"", b"0", b"nonsense", b"-----BEGIN CERTIFICATE-----\n???", base64.b64decode("MIIB"), PEM.encode()[:300]]
)
def test_what_is_no_certificate(data: bytes) -> None:
    with pytest.raises(ValueError, match="certificate"):
        _swarm.parse_certificate(data)


def test_times_in_certificates() -> None:
    assert _swarm.iso_time(_swarm._time(0x17, "491231235959Z")) == "2049-12-31T23:59:59Z"
    assert _swarm.iso_time(_swarm._time(0x17, "500101000000Z")) == "1950-01-01T00:00:00Z"
    assert _swarm.iso_time(_swarm._time(0x18, "20991231235959Z")) == "2099-12-31T23:59:59Z"


def test_files_of_the_engine(tmp_path: Path) -> None:
    assert _swarm.read_certificate(str(tmp_path)) is None
    assert _swarm.read_start_config(str(tmp_path)) == {}
    folder = tmp_path / "swarm" / "certificates"
    folder.mkdir(parents=True)
    (folder / "swarm-node.crt").write_text(PEM, encoding="ascii")
    state = tmp_path / "swarm" / "docker-state.json"
    state.write_text("[", encoding="ascii")
    assert _swarm.read_start_config(str(tmp_path)) == {}
    state.write_text('{"JoinInProgress": true}', encoding="ascii")
    assert _swarm.read_start_config(str(tmp_path)) == {"JoinInProgress": True}
    certificate = _swarm.read_certificate(str(tmp_path))
    assert certificate is not None
    assert certificate.cluster_id == CLUSTER


@pytest.mark.parametrize("version", sorted(ANSWERS))
def test_a_real_manager(version: str) -> None:
    local = _swarm.classify(ANSWERS[version]["info"])
    assert (local.state, local.role, local.member) == ("manager", "manager", True)
    assert local.node_addr in local.managers[0]
    assert _swarm.state_problem(local) == ("", "")
    _swarm.require_manager(local, local.cluster_id)
    with pytest.raises(_swarm.SwarmError, match="belongs to another swarm"):
        _swarm.require_manager(local, "other")


@pytest.mark.parametrize(
    ("answer", "certificate", "started", "state", "role"),
    [
        ({}, None, {}, "none", ""),
        (info(LocalNodeState="inactive"), WORKER, {}, "none", ""),
        (info(LocalNodeState=""), None, {}, "none", ""),
        (info(), WORKER, {}, "worker", "worker"),
        (info(), None, {}, "worker", "worker"),
        (info(LocalNodeState="pending"), None, {}, "pending", ""),
        (info(LocalNodeState="pending"), WORKER, {}, "pending", "worker"),
        (info(LocalNodeState="pending"), MANAGER, {}, "no-quorum", "manager"),
        (info(LocalNodeState="pending"), MANAGER, {"JoinInProgress": True}, "pending", "manager"),
        (info(LocalNodeState="locked"), None, {}, "locked", "manager"),
        (info(LocalNodeState="error", Error="x"), WORKER, {}, "error", "worker"),
        (info(ControlAvailable=True, Cluster={"ID": "cluster1"}), MANAGER, {}, "manager", "manager"),
        (info(ControlAvailable=True, Error="rpc error: The swarm does not have a leader."), MANAGER, {}, "no-quorum", "manager"),
        (info(ControlAvailable=True, Error="context deadline exceeded"), MANAGER, {}, "no-quorum", "manager"),
        (info(ControlAvailable=True, Error="disk full"), MANAGER, {}, "error", "manager"),
    ],
)
def test_states(answer: dict[str, Any], certificate: Any, started: dict[str, Any], state: str, role: str) -> None:
    local = _swarm.classify(answer, certificate, started)
    assert (local.state, local.role) == (state, role)
    if certificate and state != "none":
        assert (local.cluster_id, local.node_id) == ("cluster1", "node1")
    if state == "none":
        assert (local.cluster_id, local.node_id, local.node_addr) == ("", "", "")
    problem, fix = _swarm.state_problem(local)
    assert bool(problem) is bool(fix) is (state in ("pending", "locked", "no-quorum", "error"))
    if state != "manager":
        with pytest.raises(_swarm.SwarmError, match="Nothing was changed"):
            _swarm.require_manager(local)


def test_expired_certificate_is_explained() -> None:
    local = _swarm.classify(info(LocalNodeState="error", Error="swarm certificates have expired"), WORKER)
    assert "timedatectl" in _swarm.state_problem(local)[1]


@pytest.mark.parametrize(
    ("wanted", "found", "same"),
    [
        ("10.0.0.5", "10.0.0.5", True),
        ("10.0.0.5:2377", "10.0.0.5", True),
        ("10.0.0.6", "10.0.0.5", False),
        ("eth0", "10.0.0.5", True),
        ("fd00::1", "fd00:0::1", True),
        ("[fd00::2]:2377", "fd00::1", False),
    ],
)
def test_addresses(wanted: str, found: str, same: bool) -> None:
    assert _swarm.same_address(wanted, found) is same


def test_address_forms() -> None:
    assert _swarm.split_address("10.0.0.1") == ("10.0.0.1", 2377)
    assert _swarm.split_address("host:99") == ("host", 99)
    assert _swarm.split_address("[fd00::1]:99") == ("fd00::1", 99)
    assert _swarm.split_address("fd00::1") == ("fd00::1", 2377)
    assert _swarm.join_address("fd00::1", 1) == "[fd00::1]:1"
    assert _swarm.join_address("h", 1) == "h:1"


def test_clock() -> None:
    certificate = _swarm.Certificate({}, 1000, 2000)
    assert _swarm.clock_problem(certificate, 1500) == ""
    assert "valid only from 1970-01-01T00:16:40Z" in _swarm.clock_problem(certificate, 900)
    assert "expired at 1970-01-01T00:33:20Z" in _swarm.clock_problem(certificate, 2100)


def test_probe_of_something_else() -> None:
    """Closed, silent and non-TLS ports."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        silent = _swarm.probe_manager(f"127.0.0.1:{port}", timeout=0.3)
        assert "did not answer within 0.3 s" in silent.problem

        def chatter() -> None:
            for _unused in range(2):
                connection, _unused = listener.accept()
                with connection:
                    connection.sendall(b"SSH-2.0-OpenSSH\r\n" * 4)

        threading.Thread(target=chatter, daemon=True).start()
        other = _swarm.probe_manager(f"127.0.0.1:{port}", timeout=2)
        assert other.problem
    closed = _swarm.probe_manager(f"127.0.0.1:{port}", timeout=2)
    assert "refuses connections" in closed.problem
    assert "form host:port" in _swarm.probe_manager("host:port").problem


def test_node_summary_and_twins() -> None:
    real = _swarm.node_summary(ANSWER["node"])
    assert (real["name"], real["role"], real["status"], real["reachability"], real["leader"]) == (
        "ms",
        "manager",
        "ready",
        "reachable",
        True,
    )
    assert real["engine_version"] == "20.10.24+dfsg1"
    nodes = [
        {"id": "1", "name": "wk-1", "hostname": "a", "address": "10.0.0.1", "status": "ready"},
        {"id": "2", "name": "wk-1", "hostname": "b", "address": "10.0.0.1", "status": "down"},
        {"id": "3", "name": "", "hostname": "b", "address": "0.0.0.0", "status": "ready"},
        {"id": "4", "name": "", "hostname": "c", "address": "0.0.0.0", "status": "ready"},
    ]
    assert _swarm.twins(nodes) == [
        {"by": "name", "value": "wk-1", "nodes": ["1", "2"], "down": ["2"]},
        {"by": "hostname", "value": "b", "nodes": ["2", "3"], "down": ["2"]},
        {"by": "address", "value": "10.0.0.1", "nodes": ["1", "2"], "down": ["2"]},
    ]
