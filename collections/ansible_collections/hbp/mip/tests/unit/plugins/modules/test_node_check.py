# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import array
import contextlib
import copy
import errno
import fcntl
import json
import os
import shutil
import socket
import socketserver
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import (
    _advisories,
    _daemon,
    _docker_http,
    _firewall,
    _firewall_host,
    _gates,
    _gates_network,
    _host,
    _host_names,
    _host_network,
    _netlink,
)
from ansible_collections.hbp.mip.tests.unit.plugins.modules.module_process import run_module

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def codes(entries: list[dict[str, str]]) -> list[str]:
    return [entry["code"] for entry in entries]


# --- the module on this machine


def test_answers_fast_and_completely() -> None:
    arguments = {"kinds": ["worker"], "account": "root", "data_dir": "/no/such/folder"}
    # the best of a few, because a busy machine counts what others do as well
    results = [run_module("node_check", {**arguments, "reference_time": time.time()}) for _number in range(4)]
    result = min(results, key=lambda each: each["seconds"])
    facts = result["facts"]
    assert result["changed"] is False and result["seconds"] < 0.5
    assert facts["hostname"] == socket.gethostname() and facts["arch"] == os.uname().machine
    assert facts["machine_id"] == Path("/etc/machine-id").read_text().strip()
    assert "127.0.0.1" in facts["addresses"]
    assert facts["account"]["exists"] and facts["account"]["uid"] == 0 and facts["account"]["home"] == "/root"
    assert facts["data"]["state"] == "missing" and "data-folder-missing" in codes(result["warnings_found"])
    assert abs(facts["time_offset_s"]) < 5 and "clock-skew" not in codes(result["problems"])
    for entry in result["problems"] + result["warnings_found"]:
        assert set(entry) == {"code", "message", "fix", "who"} and all(entry.values())


def test_same_answer_in_check_mode() -> None:
    arguments = {"kinds": ["master"], "expected_hostname": "other"}
    plain, checked = run_module("node_check", arguments), run_module("node_check", arguments, check=True)
    assert plain["problems"] == checked["problems"] and plain["warnings_found"] == checked["warnings_found"]
    assert checked["changed"] is False


def test_everything_wrong_is_listed_at_once() -> None:
    routes = _netlink.addresses_and_routes()[1]
    taken = next((route.destination for route in routes if not route.destination.endswith("/0") and ":" not in route.destination), None)
    result = run_module(
        "node_check",
        {
            "kinds": ["worker"],
            "address": "192.0.2.254",
            "reference_time": time.time() - 3600,
            "limits": {"disk_free_gb": 1e9, "memory_mb": 10**9, "inodes_free": 2 * 10**9},
            "data_dir": "/proc/version",
            "data_required": True,
            **({"overlay_subnet": taken} if taken else {}),
            "fail_on_problems": True,
        },
    )
    assert result["failed"] and result["mip_error"] == "check"
    wanted = {"address-not-local", "clock-skew", "disk-low", "memory-low", "data-folder-unusable"} | (
        {"subnet-collision"} if taken else set()
    )
    assert wanted <= set(codes(result["problems"]))
    for code in wanted:
        assert f"- {code}: " in result["msg"]


def test_a_pusher_is_asked_for_its_clock_only() -> None:
    result = run_module("node_check", {"kinds": ["pusher"], "limits": {"memory_mb": 10**9}, "reference_time": time.time() - 3600})
    assert set(codes(result["problems"])) - {"not-root"} == {"clock-skew"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"address": "10.0.0.300"}, "address: "),
        ({"overlay_subnet": "10.20.30.1/24"}, "overlay_subnet: "),
        ({"address_pools": ["10.0.0.0/8", "x"]}, "address_pools: "),
    ],
)
def test_bad_options(arguments: dict[str, Any], words: str) -> None:
    result = run_module("node_check", arguments)
    assert result["failed"] and result["msg"].startswith(words)


@root_only
def test_kernel_is_tried_for_real() -> None:
    """The verdict must be that of the kernel, however this machine's kernel was built."""
    result = run_module("node_check", {"encrypted": True})
    overlay = result["facts"]["kernel_overlay"]
    assert overlay["esp"]["tested"] and overlay["vxlan"]["tested"]
    expected = _ip_adds_association()
    if expected is not None:
        assert overlay["esp"]["ok"] is expected
    assert ("kernel-no-esp" in codes(result["problems"])) is not overlay["esp"]["ok"]
    if not overlay["esp"]["ok"]:
        assert "the kernel answered E" in overlay["esp"]["reason"] and "CONFIG_" in overlay["esp"]["reason"]
    plain = run_module("node_check", {"encrypted": False})
    assert "esp" not in plain["facts"]["kernel_overlay"] and "kernel-no-esp" not in codes(plain["problems"])
    assert not subprocess.run(["ip", "xfrm", "state"], capture_output=True, text=True, check=False).stdout


def _ip_adds_association() -> bool | None:
    if not shutil.which("ip") or not shutil.which("unshare"):
        return None
    command = "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 1 mode transport aead 'rfc4106(gcm(aes))' 0x%s 64" % ("00" * 20)
    return subprocess.run(["unshare", "-n", "sh", "-c", command], capture_output=True, check=False).returncode == 0


@root_only
@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv")
def test_masked_capabilities_are_named() -> None:
    without = ["setpriv", "--bounding-set=-net_admin,-sys_admin", "--inh-caps=-net_admin,-sys_admin"]
    result = run_module("node_check", {}, prefix=without)
    assert {"kernel-no-esp", "kernel-no-vxlan"} <= set(codes(result["problems"]))
    problem = next(entry for entry in result["problems"] if entry["code"] == "kernel-no-esp")
    assert "could not be tried" in problem["message"] and "CAP_NET_ADMIN and CAP_SYS_ADMIN masked" in problem["message"]
    assert "CAP_NET_ADMIN" in problem["fix"] and "linux-image" not in problem["fix"]


@root_only
@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv")
def test_without_root() -> None:
    result = run_module("node_check", {}, prefix=["setpriv", "--reuid=65534", "--clear-groups"])
    assert codes(result["problems"])[0] == "not-root"
    assert "without root" in next(entry for entry in result["problems"] if entry["code"] == "kernel-no-esp")["message"]


# --- an engine that answers; the shapes are those of Docker 20.10 to 29


class Engine:
    """Answers on a Unix socket as an engine does."""

    def __init__(self, path: Path, answers: dict[str, tuple[int, Any]]) -> None:
        engine = self
        self.answers = answers

        class Handler(BaseHTTPRequestHandler):
            def address_string(self) -> str:
                return "unix"

            def log_message(self, *_ignored: Any) -> None:
                pass

            def do_GET(self) -> None:
                status, body = engine.answers.get(self.path.partition("?")[0], (404, {"message": "page not found"}))
                if body is None:
                    time.sleep(1)
                    return
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


INFO = {
    "ServerVersion": "28.5.1",
    "Driver": "overlay2",
    "CgroupVersion": "2",
    "LoggingDriver": "json-file",
    "LiveRestoreEnabled": False,
    "RegistryConfig": {
        "InsecureRegistryCIDRs": ["127.0.0.0/8"],
        "IndexConfigs": {"10.77.1.1:5000": {"Secure": False}, "docker.io": {"Secure": True}},
    },
    "Swarm": {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": False, "Error": ""},
}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Any]:
    engines = []

    def start(swarm: dict[str, Any] | None = None, swarm_call: tuple[int, Any] = (200, {"ID": "c1"}), **info: Any) -> str:
        path = tmp_path / "docker.sock"
        answer = {**copy.deepcopy(INFO), "DockerRootDir": str(tmp_path / "root"), **info}
        answer["Swarm"] = {**INFO["Swarm"], **(swarm or {})}  # type: ignore[dict-item]
        engines.append(Engine(path, {"/info": (200, answer), "/swarm": swarm_call}))
        return str(path)

    yield start
    for item in engines:
        item.close()


def check_engine(path: str, **arguments: Any) -> dict[str, Any]:
    return run_module("node_check", {"docker_socket": path, "encrypted": False, **arguments})


def test_running_engine(engine: Any) -> None:
    facts = check_engine(engine())["facts"]
    assert facts["docker"]["running"] and facts["docker"]["version"] == "28.5.1" and facts["docker"]["storage_driver"] == "overlay2"
    assert facts["docker"]["insecure_registries"] == ["10.77.1.1:5000", "127.0.0.0/8"]
    assert facts["swarm"]["state"] == "none"


@pytest.mark.parametrize(
    ("text", "configured"),
    [
        ('{"insecure-registries": ["10.77.1.1:5000"], "debug": true}', True),
        (None, False),
        ("{}", False),
        ("{", False),
        ("[]", False),
        ('{"insecure-registries": "10.77.1.1:5000"}', False),
        ('{"insecure-registries": ["10.77.1.1:5000"], "registry-mirrors": 1}', False),
        ('{"insecure-registries": ["10.77.1.1:5000"], "log-driver": "local"}', False),
    ],
)
def test_whether_the_engine_is_configured(
    text: str | None, configured: bool, engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What daemon_config would change, complain about, or find to be written but not in force is not in order."""
    path = tmp_path / "daemon.json"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(_daemon, "PATH", str(path))
    monkeypatch.setattr(_docker_http, "daemon_pid", os.getpid)
    wanted = {"insecure-registries": ["10.77.1.1:5000"]}
    served = engine()
    assert _host.engine(served, {}, wanted)[0]["configured"] is configured
    # It runs, but does not tell with what.
    Path(served).unlink()
    assert _host.engine(served, {}, wanted)[0]["configured"] is False


@pytest.mark.parametrize(("package", "configured"), [({"docker.io": "20.10.24"}, True), ({}, False)])
def test_a_stopped_engine_is_judged_by_its_file(
    package: dict[str, str], configured: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "daemon.json").write_text('{"debug": true}')
    monkeypatch.setattr(_daemon, "PATH", str(tmp_path / "daemon.json"))
    monkeypatch.setattr(_docker_http, "daemon_pid", lambda: 0)
    monkeypatch.setattr(_host, "docker_origin", lambda _executable, installed: "distro" if installed else "")
    assert _host.engine(_docker_http.SOCKET, package, {"debug": True})[0]["configured"] is configured
    assert _host.engine(_docker_http.SOCKET, package, {"debug": False})[0]["configured"] is False


def test_it_is_told_when_asked(engine: Any) -> None:
    path = engine()
    assert "configured" not in check_engine(path)["facts"]["docker"]
    assert check_engine(path, daemon={"no-such-key": "x"})["facts"]["docker"]["configured"] is False


@pytest.mark.parametrize("version", ["19.03.15", "18.09.1-ce", "1.13.1"])
def test_old_engine(engine: Any, version: str) -> None:
    assert "docker-too-old" in codes(check_engine(engine(ServerVersion=version))["problems"])


@pytest.mark.parametrize("version", ["20.10.24+dfsg1", "26.1.5+dfsg1", "29.8.2"])
def test_engine_new_enough(engine: Any, version: str) -> None:
    assert "docker-too-old" not in codes(check_engine(engine(ServerVersion=version))["problems"])


@pytest.mark.parametrize("version, bad", [("29.1.3", True), ("25.0.13", True), ("25.0.19", False), ("29.8.2", False), ("28.5.1", False)])
def test_engines_that_do_not_mix(engine: Any, version: str, bad: bool) -> None:
    result = check_engine(engine(ServerVersion=version), encrypted=True)
    assert ("docker-encrypted-mix" in codes(result["warnings_found"])) is bad


def test_snap(engine: Any) -> None:
    result = check_engine(engine(DockerRootDir="/var/snap/docker/common/var-lib-docker"))
    assert "docker-snap" in codes(result["problems"]) and result["facts"]["docker"]["from"] == "snap"


def test_live_restore(engine: Any) -> None:
    assert "docker-live-restore" in codes(check_engine(engine(LiveRestoreEnabled=True))["problems"])


@pytest.mark.parametrize("state", ["locked", "pending", "error"])
def test_swarm_states_that_stop(engine: Any, state: str) -> None:
    result = check_engine(engine({"LocalNodeState": state, "Error": "the engine's own words"}))
    assert result["facts"]["swarm"]["state"] == state
    problem = next(entry for entry in result["problems"] if entry["code"] == f"swarm-{state}")
    assert "the engine's own words" in problem["message"]


def test_manager_without_quorum(engine: Any) -> None:
    swarm = {"LocalNodeState": "active", "ControlAvailable": True, "NodeID": "n1", "Cluster": {"ID": "c1"}}
    words = "rpc error: code = Unknown desc = The swarm does not have a leader."
    result = check_engine(engine(swarm, (503, {"message": words})))
    assert result["facts"]["swarm"]["state"] == "no-quorum" and "swarm-no-quorum" in codes(result["problems"])
    healthy = run_module("node_check", {"docker_socket": "/nonexistent", "encrypted": False})
    assert "swarm-no-quorum" not in codes(healthy["problems"])


def test_foreign_swarm_only_when_the_own_is_known(engine: Any) -> None:
    swarm = {"LocalNodeState": "active", "ControlAvailable": True, "NodeID": "n1", "NodeAddr": "10.0.0.1", "Cluster": {"ID": "c1"}}
    path = engine(swarm)
    assert not [code for code in codes(check_engine(path)["problems"]) if code.startswith("swarm-")]
    assert "swarm-foreign" in codes(check_engine(path, cluster_id="c2")["problems"])
    assert "swarm-foreign" not in codes(check_engine(path, cluster_id="c1")["problems"])


def test_moved_manager(engine: Any) -> None:
    swarm = {"LocalNodeState": "active", "ControlAvailable": True, "NodeID": "n1", "NodeAddr": "10.0.0.1", "Cluster": {"ID": "c1"}}
    assert "swarm-address" in codes(check_engine(engine(swarm), address="10.0.0.2")["problems"])


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_cluster_of_a_worker_comes_from_its_certificate(engine: Any, tmp_path: Path) -> None:
    folder = tmp_path / "root" / "swarm" / "certificates"
    folder.mkdir(parents=True)
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"),
            *("-subj", "/O=cluster9/OU=swarm-worker/CN=node9", "-keyout", str(tmp_path / "key"), "-out", str(folder / "swarm-node.crt")),
        ],
        check=True,
        capture_output=True,
    )
    swarm = check_engine(engine({"LocalNodeState": "active"}), cluster_id="other")
    assert swarm["facts"]["swarm"]["cluster_id"] == "cluster9" and swarm["facts"]["swarm"]["node_id"] == "node9"
    assert swarm["facts"]["swarm"]["state"] == "worker" and "swarm-foreign" in codes(swarm["problems"])
    (folder / "swarm-node.crt").write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    assert _host.certificate_identity(str(folder / "swarm-node.crt")) == {}


def test_engine_that_does_not_answer(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        result = check_engine(str(path))
    assert result["facts"]["docker"]["running"] is False and "Connection refused" in result["facts"]["docker"]["error"]


def test_engine_errors(tmp_path: Path) -> None:
    served = Engine(
        tmp_path / "s",
        {"/slow": (200, None), "/text": (500, b"oops"), "/list": (200, []), "/bad": (409, {"message": "no"}), "/bare": (500, {})},
    )
    try:
        path = str(tmp_path / "s")
        assert _docker_http.get("/list", path) == []
        with pytest.raises(_docker_http.DockerError, match="within"):
            _docker_http.get("/slow", path, timeout=0.2)
        for call, status in (("/text", 500), ("/bad", 409), ("/bare", 500), ("/gone", 404)):
            with pytest.raises(_docker_http.DockerError) as caught:
                _docker_http.get(call, path)
            assert caught.value.status == status
    finally:
        served.close()
    with pytest.raises(_docker_http.DockerError, match="No such file"):
        _docker_http.get("/info", str(tmp_path / "none"))


# --- the rules

USED = {"proto": "tcp", "port": 0, "address": "0.0.0.0", "kernel": False, "program": "nginx", "pid": 7}


def healthy() -> dict[str, Any]:
    storage = {"measured_at": "/", "free_gb": 50.0, "free_inodes": 10**6, "read_only": False, "device": 1}
    return {
        "root": True,
        "os": {"id": "debian", "version": "12", "codename": "bookworm", "pretty": "Debian GNU/Linux 12 (bookworm)"},
        "arch": "x86_64",
        "init": "systemd",
        "container": "",
        "kernel": "6.1.0",
        "hostname": "wk1",
        "machine_id": "m",
        "memory_mb": 950,
        "storage": {path: dict(storage, measured_at=path) for path in ("/", "/var/lib/docker", "/etc/docker", "/data/lab")},
        "time_offset_s": 0.1,
        "clock_synchronised": True,
        "data": {"path": "/data/lab", "state": "folder"},
        "network_error": "",
        "addresses": ["127.0.0.1", "10.77.1.21"],
        "interfaces": [{"address": "10.77.1.21", "prefix": 24, "interface": "eth0"}],
        "routes": [
            {"destination": "0.0.0.0/0", "interface": "eth0", "gateway": "10.77.1.1"},
            {"destination": "10.77.1.0/24", "interface": "eth0", "gateway": ""},
            {"destination": "::/0", "interface": "eth0", "gateway": "fe80::1"},
        ],
        "name_servers": ["10.77.1.1", "fe80::1%eth0", "odd"],
        "hardware": "Dell Inc.",
        "devices": {
            "eth0": {"up": True, "mtu": 1500, "kind": ""},
            "docker0": {"up": False, "mtu": 1500, "kind": "bridge"},
        },
        "vmxnet3": [],
        "sockets": [],
        "packet_filter": {
            "nft": True,
            "legacy": False,
            "docker_chains": True,
            "masquerade": True,
            "forward_policy": "drop",
            "forward_drop": [],
            "error": "",
        },
        "forwarding": {"now": True, "off_at_boot": ""},
        "kernel_modules": {"missing": [], "gone": False},
        "dns": [{"server": "10.77.1.1", "ms": 0.4, "code": 0, "addresses": 0}],
        "registry": {},
        "docker": {
            "installed": True,
            "from": "distro",
            "version": "20.10.24+dfsg1",
            "package": "20.10.24+dfsg1-1+deb12u1",
            "advisories": [],
            "running": True,
            "error": "",
            "root_dir": "/var/lib/docker",
            "live_restore": False,
            "rootless": False,
            "twice": False,
            "firewall_backend": "",
            "config_error": "",
            "iptables": True,
            "ip_masq": True,
            "ip_forward": True,
            "own_networks": False,
            "proxy": {"http": "", "https": "", "no_proxy": ""},
        },
        "swarm": {"state": "none", "node_id": "", "node_addr": "", "cluster_id": "", "role": "", "error": ""},
        "kernel_overlay": {"vxlan": {"ok": True, "reason": "", "tested": True}, "esp": {"ok": True, "reason": "", "tested": True}},
    }


WANTED = _gates.Wanted(
    kinds=["worker"],
    limits={"disk_free_gb": 5.0, "inodes_free": 50000, "memory_mb": 1024, "clock_skew_seconds": 5},
    address="10.77.1.21",
    encrypted=True,
    docker_source="distro",
    data_dir="/data/lab",
    data_required=False,
    overlay_subnet="10.20.30.0/24",
    address_pools=["10.30.0.0/16"],
    expected_hostname="wk1",
    cluster_id="",
    peers=["10.77.1.11", "10.77.1.21", "192.0.2.31"],
    data_path_port=4789,
)


def judged(path: str = "", value: Any = None, **wanted: Any) -> tuple[list[str], list[str]]:
    facts = healthy()
    if path:
        place: Any = facts
        *parents, last = path.split(".")
        for part in parents:
            place = place[part]
        place[last] = value
    found = _gates.judge(facts, WANTED._replace(**wanted))
    return codes(found.problems), codes(found.warnings)


def test_healthy_host() -> None:
    assert judged() == ([], [])


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("os", {"id": "ubuntu", "version": "18.04", "pretty": "Ubuntu 18.04", "codename": "bionic"}, "os-unsupported"),
        ("os", {"id": "linuxmint", "version": "22.04", "pretty": "", "codename": ""}, "os-unsupported"),
        ("arch", "armv7l", "arch-unsupported"),
        ("init", "other", "init-unsupported"),
        ("hostname", "wk1.hospital.example", "hostname-dotted"),
        ("memory_mb", 900, "memory-low"),
        ("time_offset_s", -5.2, "clock-skew"),
        ("time_offset_s", 5.2, "clock-skew"),
        ("addresses", ["127.0.0.1", "10.77.1.22"], "address-not-local"),
        ("network_error", "refused", "network-unreadable"),
        ("docker.from", "snap", "docker-snap"),
        ("docker.version", "19.03.15", "docker-too-old"),
        ("docker.running", False, "docker-silent"),
        ("docker.live_restore", True, "docker-live-restore"),
        ("data.state", "other", "data-folder-unusable"),
        ("kernel_overlay.vxlan", {"ok": False, "reason": "r", "tested": True}, "kernel-no-vxlan"),
        ("kernel_overlay.esp", {"ok": False, "reason": "r", "tested": True}, "kernel-no-esp"),
        ("sockets", [USED | {"proto": "tcp", "port": 7946}], "port-taken"),
        ("sockets", [USED | {"proto": "udp", "port": 7946}], "port-taken"),
        ("sockets", [USED | {"proto": "udp", "port": 4789}], "port-taken"),
        ("routes", [{"destination": "10.20.0.0/16", "interface": "tun0", "gateway": ""}], "subnet-collision"),
        ("routes", [{"destination": "10.30.7.0/24", "interface": "eth1", "gateway": "10.77.1.9"}], "subnet-collision"),
        ("name_servers", ["10.20.30.2"], "subnet-collision"),
        ("interfaces", [{"address": "10.20.30.4", "prefix": 32, "interface": "wg0"}], "subnet-collision"),
        ("root", False, "not-root"),
    ],
)
def test_problems(path: str, value: Any, code: str) -> None:
    assert judged(path, value)[0] == [code]


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("hostname", "wk2", "hostname-mismatch"),
        ("machine_id", "", "machine-id-missing"),
        ("clock_synchronised", False, "clock-unsynchronised"),
        ("data.state", "missing", "data-folder-missing"),
        ("data.state", "link", "data-folder-link"),
        ("docker", {**healthy()["docker"], "from": "docker", "version": "29.8.2"}, "docker-source"),
        ("vmxnet3", ["ens192"], "vmxnet3-checksum"),
    ],
)
def test_warnings(path: str, value: Any, code: str) -> None:
    assert judged(path, value) == ([], [code])


def test_a_stopped_engine_is_what_a_deploy_starts() -> None:
    """Not a problem: the deploy starts it, as it installs a missing one."""
    wanted_facts = {"running": False, "error": "the engine is stopped", "service": "inactive/dead, disabled"}
    problems, warnings = judged("docker", {**healthy()["docker"], **wanted_facts})
    assert (problems, warnings) == ([], ["docker-stopped"])


@pytest.mark.parametrize(
    "system", [("ubuntu", version) for version in ("20.04", "22.04", "24.04")] + [("debian", v) for v in ("11", "12", "13")]
)
def test_supported_systems(system: tuple[str, str]) -> None:
    assert judged("os", {"id": system[0], "version": system[1], "pretty": "", "codename": ""}) == ([], [])


def test_disks_are_counted_once() -> None:
    facts = healthy()
    for item in facts["storage"].values():
        item.update(free_gb=1.0, free_inodes=10, device=1)
    facts["storage"]["/data/lab"]["device"] = 2
    found = _gates.judge(facts, WANTED)
    assert codes(found.problems) == ["disk-low", "inodes-low", "disk-low", "inodes-low"]
    for item in facts["storage"].values():
        item.update(free_gb=9.0, free_inodes=-1, read_only=True)
    assert codes(_gates.judge(facts, WANTED).problems) == ["filesystem-readonly"] * 4


def test_docker_absent_matters_only_when_nobody_installs_it() -> None:
    facts = healthy()
    facts["docker"].update(installed=False, running=False, version="", **{"from": ""})
    assert codes(_gates.judge(facts, WANTED).problems) == []
    assert codes(_gates.judge(facts, WANTED._replace(docker_source="none")).problems) == ["docker-absent"]


def test_ports_of_an_own_swarm_are_not_taken() -> None:
    facts = healthy()
    facts["sockets"] = [USED | {"port": port} for port in (2377, 7946, 9090)]
    facts["sockets"].append(USED | {"proto": "udp", "port": 4789, "kernel": True})
    facts["swarm"].update(state="manager", role="manager", cluster_id="c")
    assert codes(_gates.judge(facts, WANTED._replace(kinds=["master"])).problems) == []
    facts["swarm"].update(state="none", role="", cluster_id="")
    assert codes(_gates.judge(facts, WANTED._replace(kinds=["master"])).problems) == ["port-taken"] * 3


def test_data_required() -> None:
    assert judged("data.state", "missing", data_required=True) == (["data-folder-missing"], [])


def test_no_esp_needed_without_encryption() -> None:
    assert judged("kernel_overlay.esp", {"ok": False, "reason": "r", "tested": True}, encrypted=False) == ([], [])


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("devices.eth0.up", False, "interface-down"),
        ("interfaces", [{"address": "10.77.1.21", "prefix": 32, "interface": "docker0"}], "address-unusable"),
        ("routes", [{"destination": "192.0.0.0/16", "interface": "br-12", "gateway": ""}], "bridge-collision"),
        ("forwarding", {"now": False, "off_at_boot": ""}, "forwarding-off"),
        ("packet_filter.docker_chains", False, "docker-rules-gone"),
        ("packet_filter.masquerade", False, "masquerade-missing"),
        ("kernel_modules", {"missing": ["xt_policy"], "gone": False}, "kernel-module-missing"),
        ("docker.rootless", True, "docker-rootless"),
        ("docker.config_error", "line 1", "docker-config-broken"),
        ("docker.firewall_backend", "nftables", "docker-nftables"),
        ("docker.iptables", False, "docker-filter-off"),
        ("docker.ip_masq", False, "docker-filter-off"),
    ],
)
def test_problems_of_the_network(path: str, value: Any, code: str) -> None:
    assert judged(path, value) == ([code], [])


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("forwarding", {"now": True, "off_at_boot": "/etc/sysctl.d/90-cis.conf"}, "forwarding-not-kept"),
        ("packet_filter.legacy", True, "iptables-mixed"),
        ("packet_filter.forward_drop", [{"family": "inet", "table": "filter", "chain": "forward", "rules": 0}], "forward-drop"),
        ("kernel_modules", {"missing": [], "gone": True}, "kernel-modules-gone"),
        ("docker.twice", True, "docker-twice"),
        ("docker.proxy", {"http": "http://p:3128", "https": "", "no_proxy": "10.0.0.0/8"}, "docker-proxy"),
        ("dns", [{"server": "10.77.1.1", "ms": None, "code": None, "addresses": 0}], "dns-silent"),
        ("dns", [{"server": "10.77.1.1", "ms": 2100.0, "code": 0, "addresses": 0}], "dns-slow"),
        ("devices", {"flannel.1": {"up": True, "mtu": 1450, "kind": "vxlan", "vni": 1, "port": 4789}}, "vxlan-port-shared"),
    ],
)
def test_warnings_of_the_network(path: str, value: Any, code: str) -> None:
    assert judged(path, value) == ([], [code])


def test_rules_stay_quiet_where_they_cannot_know() -> None:
    """Rules of others that accept what they like, a filter that could not be read, an engine that does not run."""
    rules = [{"family": "inet", "table": "filter", "chain": "forward", "rules": 3}]
    assert judged("packet_filter.forward_drop", rules) == ([], [])
    for table in ("firewalld", "mip_lab"):
        assert judged("packet_filter.forward_drop", [rules[0] | {"table": table, "rules": 0}]) == ([], [])
    unread = {**healthy()["packet_filter"], "docker_chains": None, "masquerade": None, "error": "EPERM"}
    assert judged("packet_filter", unread) == ([], [])
    facts = healthy()
    facts["docker"].update(running=False, error="the engine is stopped")
    facts["forwarding"]["now"] = False
    facts["packet_filter"].update(docker_chains=False, masquerade=False)
    found = _gates.judge(facts, WANTED)
    assert (codes(found.problems), codes(found.warnings)) == ([], ["docker-stopped"])


def test_nodes_in_the_networks_of_containers() -> None:
    assert judged(peers=["10.20.30.7"])[0] == ["subnet-collision"]
    assert judged(peers=["10.30.1.1", "2001:db8::1"])[0] == ["subnet-collision"]
    facts = healthy()
    facts["docker"].update(running=False, error="the engine is stopped")
    assert "bridge-collision" in codes(_gates.judge(facts, WANTED._replace(peers=["172.17.4.4"])).warnings)
    facts["docker"]["own_networks"] = True
    assert "bridge-collision" not in codes(_gates.judge(facts, WANTED._replace(peers=["172.17.4.4"])).warnings)
    # a route of the hospital's own to it wins over the bridge
    facts = healthy()
    facts["routes"] += [
        {"destination": "172.17.0.0/16", "interface": "docker0", "gateway": ""},
        {"destination": "172.17.4.0/24", "interface": "eth0", "gateway": "10.77.1.1"},
    ]
    assert codes(_gates.judge(facts, WANTED._replace(peers=["172.17.4.4"])).problems) == []
    assert codes(_gates.judge(facts, WANTED._replace(peers=["172.17.5.4"])).problems) == ["bridge-collision"]


@pytest.mark.parametrize(
    ("no_proxy", "host", "exempt"),
    [
        ("", "10.0.0.1", False),
        ("*", "10.0.0.1", True),
        ("localhost, 10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.1:2377", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.10", False),
        (".hospital.example", "wk.hospital.example", True),
        ("hospital.example", "wk.hospital.example", True),
        ("hospital.example", "nohospital.example", False),
        ("fd00::/8", "fd00::5", True),
        ("10.*", "10.0.0.1", False),
    ],
)
def test_what_no_proxy_exempts(no_proxy: str, host: str, exempt: bool) -> None:
    assert _gates_network.without_proxy(no_proxy, host) is exempt


def registry(**given: Any) -> dict[str, Any]:
    sound = {
        "resolved": True,
        "connected": True,
        "error": "",
        "trusted": True,
        "issuer": "Let's Encrypt, R11",
        "reason": "",
        "verify_code": 0,
    }
    return {"name": "r.example.org", "host": "r.example.org", "port": 443, "tls": True, **sound, **given}


@pytest.mark.parametrize(
    ("given", "problems", "warnings"),
    [
        ({}, [], []),
        ({"resolved": False, "error": "Name or service not known"}, ["registry-unresolved"], []),
        ({"connected": False, "error": "timed out"}, ["registry-unreachable"], []),
        ({"trusted": False, "verify_code": 20, "issuer": "Example CA"}, ["registry-tls-untrusted"], []),
        ({"trusted": False, "verify_code": 19, "issuer": "Zscaler Inc., Root"}, ["registry-tls-intercepted"], []),
        ({"trusted": False, "verify_code": 20, "issuer": "X", "host": "registry-1.docker.io"}, ["registry-tls-intercepted"], []),
        ({"trusted": False, "verify_code": 10, "issuer": "X"}, ["registry-tls"], []),
        ({"trusted": False, "verify_code": -1, "reason": "WRONG_VERSION_NUMBER"}, ["registry-tls"], []),
        ({"issuer": "FortiGate CA, Fortinet"}, [], ["registry-tls-intercepted"]),
    ],
)
def test_registry(given: dict[str, Any], problems: list[str], warnings: list[str]) -> None:
    assert judged("registry", registry(**given)) == (problems, warnings)


def test_names_matter_more_when_the_registry_has_one() -> None:
    facts = healthy()
    facts["dns"] = [{"server": "192.0.2.1", "ms": None, "code": None, "addresses": 0}]
    facts["registry"] = registry(resolved=False)
    assert codes(_gates.judge(facts, WANTED).problems) == ["dns-silent", "registry-unresolved"]
    facts["dns"] = [{"server": "192.0.2.1", "ms": 1.0, "code": 2, "addresses": 0}]
    facts["registry"] = registry()
    assert codes(_gates.judge(facts, WANTED).warnings) == ["dns-refuses"]
    facts["dns"] = []
    assert codes(_gates.judge(facts, WANTED).warnings) == []


# --- faults of engine versions


@pytest.mark.parametrize(
    ("version", "origin", "system", "named", "applies", "unknown"),
    [
        ("20.10.23", "docker", ("debian", "12"), [], 4, 0),
        ("20.10.24", "docker", ("debian", "12"), [], 1, 0),
        ("23.0.2", "docker", ("debian", "12"), [], 4, 0),
        ("23.0.3", "other", ("debian", "12"), [], 1, 0),
        ("25.0.18", "docker", ("debian", "12"), [], 1, 0),
        ("25.0.19", "docker", ("debian", "12"), [], 0, 0),
        ("28.5.1", "docker", ("ubuntu", "24.04"), [], 1, 0),
        ("29.8.2", "docker", ("ubuntu", "24.04"), [], 0, 0),
        ("30.0.0", "docker", ("ubuntu", "24.04"), [], 0, 0),
        # distributions' packages: only what is known
        ("20.10.24+dfsg1", "distro", ("debian", "12"), [], 0, 1),
        ("20.10.24+dfsg1", "distro", ("debian", "12"), ["CVE-2026-92542"], 0, 0),
        ("26.1.5+dfsg1", "distro", ("debian", "13"), [], 0, 1),
        ("20.10.5+dfsg1", "distro", ("debian", "11"), [], 3, 1),
        ("20.10.5+dfsg1", "distro", ("debian", "11"), ["CVE-2023-28840", "CVE-2023-28841", "CVE-2023-28842"], 0, 1),
        ("20.10.12", "distro", ("ubuntu", "20.04"), [], 0, 4),
        ("", "docker", ("debian", "12"), [], 0, 0),
    ],
)
def test_advisories(version: str, origin: str, system: tuple[str, str], named: list[str], applies: int, unknown: int) -> None:
    found = _advisories.judge(version, origin, system, named)
    assert (len(found[0]), len(found[1])) == (applies, unknown)


def test_only_an_encrypted_overlay_has_them() -> None:
    facts = healthy()
    facts["docker"].update(version="20.10.12", **{"from": "docker"})
    wanted = WANTED._replace(docker_source="docker")
    found = _gates.judge(facts, wanted)
    assert codes(found.warnings) == ["docker-vulnerable"] and "GHSA-232p-vwff-86mp" in found.warnings[0]["message"]
    assert codes(_gates.judge(facts, wanted._replace(encrypted=False)).warnings) == []
    facts["docker"].update(version="20.10.24+dfsg1", **{"from": "distro"})
    assert codes(_gates.judge(facts, WANTED).notes) == ["docker-advisories"]


# --- names and the registry, for real


class NameServer:
    """Answers on 127.0.0.1 with a result code and one address, or not at all."""

    def __init__(self, code: int | None, delay: float = 0) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.questions: list[bytes] = []

        def serve() -> None:
            while True:
                try:
                    question, who = self.socket.recvfrom(4096)
                except OSError:
                    return
                self.questions.append(question)
                time.sleep(delay)
                if code is not None:
                    record = b"" if code else b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x0a\x01\x02\x03"
                    head = question[:2] + bytes([0x81, 0x80 | code]) + b"\x00\x01" + (b"\x00\x01" if record else b"\x00\x00") + b"\0\0\0\0"
                    self.socket.sendto(head + question[12:] + record, who)

        threading.Thread(target=serve, daemon=True).start()


@pytest.mark.parametrize(("code", "addresses"), [(0, 1), (3, 0), (5, 0)])
def test_name_server_answers(code: int, addresses: int) -> None:
    server = NameServer(code)
    answer = _host_names.ask_name_servers(["127.0.0.1"], "r.example.org", port=server.port)[0]
    assert (answer["code"], answer["addresses"]) == (code, addresses) and answer["ms"] < 1000
    assert b"\x01r\x07example\x03org\x00" in server.questions[0]
    server.socket.close()


def test_silent_name_servers_cost_their_time_once() -> None:
    server = NameServer(None)
    began = time.monotonic()
    answers = _host_names.ask_name_servers(["127.0.0.1", "no address", "127.0.0.1"], "", timeout=0.7, port=server.port)
    assert [answer["ms"] for answer in answers] == [None] * 3 and 0.6 < time.monotonic() - began < 3
    assert len(server.questions) == 4  # each once more after half a second
    server.socket.close()
    # a port that nobody has: the host says so at once
    began = time.monotonic()
    assert _host_names.ask_name_servers(["127.0.0.1"], "", timeout=3, port=server.port)[0]["ms"] is None
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("docker.io", ("registry-1.docker.io", 0)),
        ("r.example.org:5000", ("r.example.org", 5000)),
        ("10.77.1.1:5000/mip", ("10.77.1.1", 5000)),
        ("[fd00::1]:443", ("fd00::1", 443)),
        ("", ("", 0)),
    ],
)
def test_names_of_registries(name: str, split: tuple[str, int]) -> None:
    assert _host_names.split_registry(name) == split


@pytest.mark.parametrize(
    ("name", "insecure", "tls"),
    [
        ("r.example.org", [], True),
        ("r.example.org:5000", ["r.example.org:5000"], False),
        ("10.77.1.1:5000", ["10.77.0.0/16"], False),
        ("127.0.0.1:5000", [], False),
        ("10.77.1.1:5000", ["127.0.0.0/8", "other"], True),
    ],
)
def test_registries_without_tls(name: str, insecure: list[str], tls: bool) -> None:
    assert _host.registry_uses_tls(name, insecure) is tls


@pytest.fixture
def secure_server(tmp_path: Path) -> Iterator[Any]:
    """A function that starts a TLS server whose certificate a certain organisation signed, and returns its port."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    listeners = []

    def start(organisation: str) -> int:
        key, certificate = tmp_path / "key", tmp_path / "crt"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        command += ["-subj", f"/O={organisation}/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
        subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            while True:
                try:
                    connection = listener.accept()[0]
                except OSError:
                    return
                with contextlib.suppress(OSError), connection, context.wrap_socket(connection, server_side=True) as secured:
                    secured.recv(1)

        threading.Thread(target=serve, daemon=True).start()
        return int(listener.getsockname()[1])

    yield start
    for listener in listeners:
        listener.close()


def test_who_signed_the_registry(secure_server: Any) -> None:
    port = secure_server("Zscaler Inc.")
    found = _host_names.registry(f"127.0.0.1:{port}", True)
    assert found["connected"] and not found["trusted"] and found["issuer"] == "Zscaler Inc., 127.0.0.1" and found["verify_code"] == 18
    assert judged("registry", found) == (["registry-tls-intercepted"], [])
    plain = _host_names.registry(f"127.0.0.1:{port}", False)
    assert plain["connected"] and "trusted" not in plain and judged("registry", plain) == ([], [])


def test_registries_that_are_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    found = _host_names.registry(f"127.0.0.1:{port}", True)
    assert found["resolved"] and not found["connected"] and "refused" in found["error"]
    unknown = _host_names.registry("no-such-registry.invalid", True)
    assert not unknown["resolved"] and judged("registry", unknown)[0] == ["registry-unresolved"]


def test_something_else_than_tls() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.recv(1)
                connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        found = _host_names.registry(f"127.0.0.1:{listener.getsockname()[1]}", True)
    assert found["connected"] and not found["trusted"] and judged("registry", found)[0] == ["registry-tls"]


# --- sockets, cards and the packet filter, for real


def test_who_has_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp:
        udp.bind(("::1", 0))
        ports = [("tcp", tcp.getsockname()[1]), ("udp", udp.getsockname()[1])]
        found = {item["proto"]: item for item in _host_network.sockets(ports, 0)}
    assert found["tcp"]["address"] == "127.0.0.1" and found["udp"]["address"] == "::1"
    assert all(item["pid"] == os.getpid() and not item["kernel"] for item in found.values())
    assert _host_network.sockets(ports, 0) == []


@root_only
@pytest.mark.skipif(not shutil.which("ip"), reason="needs iproute2")
def test_vxlan_devices_and_their_sockets() -> None:
    def look() -> dict[str, Any]:
        _netlink.unshare_network()
        for command in (
            "ip link set lo up",
            "ip link add vx0 type vxlan id 77 dstport 4789 dev lo",
            "ip link set vx0 up mtu 1350",
            "ip link add v0 type veth peer name v1",
        ):
            subprocess.run(command.split(), check=True)
        return {"devices": _host_network.devices(), "sockets": _host_network.sockets([("udp", 4789)], 0)}

    found = _netlink.in_child(look, 20)
    assert found["devices"]["vx0"] == {"up": True, "mtu": 1350, "kind": "vxlan", "vni": 77, "port": 4789}
    assert found["devices"]["v0"]["up"] is False and found["devices"]["lo"]["up"] is True
    assert found["sockets"] and all(item["kernel"] and not item["program"] for item in found["sockets"])


@root_only
@pytest.mark.skipif(not shutil.which("ip"), reason="needs iproute2")
def test_cards_that_compute_checksums() -> None:
    def look() -> dict[str, Any]:
        _netlink.unshare_network()
        subprocess.run("ip link add v0 type veth peer name v1".split(), check=True)
        before = _host_network.computes_checksums("v0")
        # ETHTOOL_STXCSUM, what `ethtool -K v0 tx off` does
        value = array.array("B", struct.pack("=II", 0x17, 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, 0x8946, struct.pack("16sP", b"v0", value.buffer_info()[0]) + b"\0" * 16)
        return {"before": before, "after": _host_network.computes_checksums("v0"), "none": _host_network.computes_checksums("v9")}

    assert _netlink.in_child(look, 20) == {"before": True, "after": False, "none": True}


@root_only
@pytest.mark.skipif(not shutil.which("nft"), reason="needs nftables")
def test_packet_filter() -> None:
    def look() -> dict[str, Any]:
        _netlink.unshare_network()
        results: dict[str, Any] = {"empty": _host_network.packet_filter()}
        rules = """
            add table ip nat
            add chain ip nat DOCKER
            add chain ip nat POSTROUTING { type nat hook postrouting priority 100; }
            add rule ip nat POSTROUTING oifname != "docker0" ip saddr 172.17.0.0/16 masquerade
            add table ip filter
            add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }
            add table inet hardened
            add chain inet hardened forward { type filter hook forward priority 0; policy drop; }
            add table inet open
            add chain inet open forward { type filter hook forward priority 0; policy accept; }
        """
        subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True)
        results["full"] = _host_network.packet_filter()
        subprocess.run(["nft", "flush", "chain", "ip", "nat", "POSTROUTING"], check=True)
        results["flushed"] = _host_network.packet_filter()
        return results

    found = _netlink.in_child(look, 20)
    assert found["empty"]["docker_chains"] is False and not found["empty"]["nft"] and found["empty"]["error"] == ""
    assert (
        found["full"]["docker_chains"]
        and found["full"]["masquerade"]
        and found["full"]["nft"]
        and found["full"]["forward_policy"] == "drop"
    )
    assert found["full"]["forward_drop"] == [{"family": "inet", "table": "hardened", "chain": "forward", "rules": 0}]
    assert found["flushed"]["docker_chains"] and found["flushed"]["masquerade"] is False


def test_sysctl_files_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / "10-a.conf", tmp_path / "90-b.conf"]
    files[0].write_text("net.ipv4.ip_forward = 0\n")
    files[1].write_text("# net.ipv4.ip_forward=1\nkernel.x = 1\n")
    monkeypatch.setattr(_host_network, "_sysctl_files", lambda: [str(path) for path in files])
    assert _host_network.forwarding()["off_at_boot"] == str(files[0])
    files[1].write_text("-net/ipv4/ip_forward=1\n")
    assert _host_network.forwarding()["off_at_boot"] == ""


@pytest.mark.parametrize("text", ["{", "[]", '"x"', '{"proxies": 1, "bip": 1}'])
def test_odd_configurations_of_the_engine(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_host, "read_text", lambda path: text if path.endswith("daemon.json") else "")
    found = _host.engine_configuration()
    assert bool(found["config_error"]) is not text.startswith('{"') and found["iptables"] is True


def test_arguments_of_the_engine_count(tmp_path: Path) -> None:
    """The command line of a real process."""
    process = subprocess.Popen(
        ["sh", "-c", "read x", "dockerd", "--iptables=false", "--firewall-backend=nftables", "--bip=10.1.0.1/24"], stdin=-1
    )
    try:
        # For a moment after it began to run, a program's command line is empty.
        while b"dockerd" not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
            time.sleep(0.01)
        found = _host.engine_configuration(process.pid)
        assert (found["iptables"], found["ip_masq"], found["firewall_backend"], found["own_networks"]) == (False, True, "nftables", True)
    finally:
        process.communicate(b"\n")


@pytest.mark.parametrize("url", ["http://p:1", "http://u@p:1", "http://u:a/b@c@p:1"])
def test_no_account_of_a_proxy_leaves(url: str) -> None:
    assert _host.without_password(url) == "http://p:1" and _host.without_password("u:x@p:1") == "p:1"


@pytest.mark.parametrize(("no_proxy", "asked"), [("localhost", False), ("127.0.0.0/8", True)])
def test_a_registry_behind_the_proxy_is_not_asked(no_proxy: str, asked: bool, engine: Any) -> None:
    given = {"registry": "127.0.0.1:1", "registry_tls": False}
    facts = check_engine(engine(HttpProxy="http://p:1", NoProxy=no_proxy), **given)["facts"]
    assert bool(facts["registry"]) is asked


def test_proxies_are_found_and_their_accounts_kept_back(monkeypatch: pytest.MonkeyPatch, engine: Any) -> None:
    daemon = '{"iptables": false, "firewall-backend": "nftables", "proxies": {"https-proxy": "http://user:secret@p:3128"}}'
    monkeypatch.setattr(_host, "read_text", lambda path: daemon if path.endswith("daemon.json") else "")
    found = _host.engine_configuration()
    assert found["proxy"]["https"] == "http://p:3128" and found["iptables"] is False and found["firewall_backend"] == "nftables"
    result = check_engine(
        engine(
            HttpProxy="http://u:x@p:1", NoProxy="10.77.1.0/24", FirewallBackend={"Driver": "nftables"}, SecurityOptions=["name=rootless"]
        ),
        peers=["10.77.1.11", "192.0.2.1"],
    )
    assert result["facts"]["docker"]["proxy"] == {"http": "http://p:1", "https": "", "no_proxy": "10.77.1.0/24"}
    assert {"docker-nftables", "docker-rootless"} <= set(codes(result["problems"]))
    warning = next(entry for entry in result["warnings_found"] if entry["code"] == "docker-proxy")
    assert "192.0.2.1" in warning["message"] and "10.77.1.11" not in warning["message"] and warning["who"] == "host"


# --- netlink


@pytest.mark.parametrize(
    ("number", "where", "words"),
    [
        (errno.ENOSYS, "request", "CONFIG_CRYPTO_GCM"),
        (errno.EPROTONOSUPPORT, "request", "CONFIG_INET_ESP"),
        (errno.EPROTONOSUPPORT, "socket", "CONFIG_XFRM_USER"),
        (errno.ENOENT, "request", "CONFIG_CRYPTO_SEQIV"),
        (errno.EPERM, "request", "CAP_NET_ADMIN"),
        (errno.EINVAL, "request", "the kernel refused"),
    ],
)
def test_each_refusal_has_its_words(number: int, where: str, words: str) -> None:
    def refuse() -> None:
        raise _netlink.NetlinkError(number, "kernel's words", where)

    verdict = _host._verdict(_host._try(refuse), _host._ESP_MEANINGS)
    assert not verdict["ok"] and words in verdict["reason"] and errno.errorcode[number] in verdict["reason"]
    assert "kernel's words" in verdict["reason"]


@pytest.mark.skipif(not shutil.which("ip"), reason="needs iproute2")
def test_addresses_and_routes_are_those_of_ip() -> None:
    addresses, routes = _netlink.addresses_and_routes()
    told = json.loads(subprocess.run(["ip", "-j", "address"], capture_output=True, check=True).stdout)
    expected = {(item["local"], item["prefixlen"], link["ifname"]) for link in told for item in link["addr_info"]}
    assert {tuple(address) for address in addresses} == expected
    told = json.loads(subprocess.run(["ip", "-4", "-j", "route", "show", "table", "main"], capture_output=True, check=True).stdout)
    expected_routes = {("0.0.0.0/0" if item["dst"] == "default" else item["dst"], item.get("dev", "")) for item in told}
    found = {(route.destination.removesuffix("/32"), route.interface) for route in routes if ":" not in route.destination}
    assert {(destination.removesuffix("/32"), interface) for destination, interface in expected_routes} <= found


def test_a_child_that_hangs_dies_or_raises() -> None:
    started = time.monotonic()
    assert "no answer within 0.3" in _netlink.in_child(lambda: time.sleep(30) or {}, 0.3)["error"]
    assert time.monotonic() - started < 5
    assert "died" in _netlink.in_child(lambda: os._exit(1), 5)["error"]

    def fail() -> dict[str, Any]:
        raise OSError(errno.EPERM, "Operation not permitted")

    answer = _netlink.in_child(fail, 5)
    assert answer["errno"] == errno.EPERM
    assert _netlink.in_child(lambda: {"x": "y" * 300000}, 5)["x"] == "y" * 300000


def test_damaged_attributes_are_ignored() -> None:
    good = _netlink.attribute(3, b"abc")
    assert _netlink.attributes(good + b"\x01\x00") == {3: b"abc"}
    assert _netlink.attributes(b"\xff\xff\x01\x00") == {}
    assert _netlink.attributes(b"\x00\x00\x01\x00") == {}


def test_the_firewalls_that_a_deploy_opens(tmp_path: Path) -> None:
    assert _host.own_firewalls(str(tmp_path)) == []
    (tmp_path / "etc/ufw").mkdir(parents=True)
    (tmp_path / "etc/ufw/ufw.conf").write_text("# x\nENABLED=no\n")
    (tmp_path / "etc/mip").mkdir()
    (tmp_path / "etc/mip/firewall-lab.nft").touch()
    assert _host.own_firewalls(str(tmp_path)) == ["guard"]
    (tmp_path / "etc/ufw/ufw.conf").write_text("ENABLED=yes\n")
    wants = tmp_path / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "firewalld.service").symlink_to("/lib/systemd/system/firewalld.service")
    assert _host.own_firewalls(str(tmp_path)) == ["ufw", "firewalld", "guard"]


def test_the_peers_of_the_firewall_as_it_was_set(tmp_path: Path) -> None:
    """Read from the file that the module firewall writes."""
    peers = [{"name": name, "address": address} for name, address in (("ms", "10.1.0.10"), ("wb", "10.1.0.12"))]
    wanted = _firewall.settings({"name": "brain", "address": "10.1.0.11", "peers": peers})
    (path,) = (path for path in _firewall_host.file_set("brain", wanted, "none", []) if path.endswith("settings.json"))
    there = tmp_path / path[1:]
    assert _host.firewall_peers("brain", str(tmp_path)) is None
    there.parent.mkdir(parents=True)
    content = _firewall_host.file_set("brain", wanted, "none", [])[path]
    assert isinstance(content, bytes)
    there.write_bytes(content)
    assert _host.firewall_peers("brain", str(tmp_path)) == ["10.1.0.10", "10.1.0.12"]
    assert _host.firewall_peers("other", str(tmp_path)) is None
    for damaged in ("{", "[]", '{"settings": {"peers": [1]}}', '{"settings": 1}'):
        there.write_text(damaged)
        assert _host.firewall_peers("brain", str(tmp_path)) is None


def test_peers_are_told_where_the_firewall_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "firewall" not in run_module("node_check", {"federation": "none-such"})["facts"]
    monkeypatch.setattr(_host, "firewall_peers", lambda name: [name])
    arguments = ("", "", False, False, "/nonexistent", None)
    assert "firewall" not in _host.gather(*arguments)
    assert _host.gather(*arguments, federation="brain")["firewall"] == {"peers": ["brain"]}
