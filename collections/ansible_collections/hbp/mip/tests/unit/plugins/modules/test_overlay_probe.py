# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _netlink, _probe
from ansible_collections.hbp.mip.tests.helpers import namespaces
from ansible_collections.hbp.mip.tests.unit.plugins.modules.module_process import result_of, run_module, start_module

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or not all(shutil.which(tool) for tool in ("ip", "nsenter", "unshare")), reason="needs root and iproute2"
)


# --- the protocol, without namespaces


@contextlib.contextmanager
def listener(nonce: str = "n" * 32, lifetime: float = 20) -> Iterator[dict[str, Any]]:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            with contextlib.suppress(ValueError, OSError):  # the socket is closed under it when the test is over
                _probe.serve(server, nonce, lifetime)

        threading.Thread(target=run, daemon=True).start()
        yield {"node": "b", "address": "127.0.0.1", "port": server.getsockname()[1], "nonce": nonce}


def talk(target: dict[str, Any], data: bytes, end: bool = True) -> Any:
    with socket.create_connection((target["address"], target["port"]), 5) as connection:
        connection.sendall(data)
        if end:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return json.loads(answer) if answer.startswith(b"{") else answer


def line(**request: Any) -> bytes:
    return json.dumps({"nonce": "n" * 32, "op": "echo", "size": 3, **request}).encode() + b"\n"


def test_echo_and_store() -> None:
    with listener() as target:
        assert _probe.small_round_trip(target, 5) > 0
        size, speed = _probe.large_transfer(target, 10 << 20, 30)
        assert size == 10 << 20 and speed > 0
        assert _probe.large_transfer(target, 1, 5)[0] == 1
        assert _probe.large_transfer(target, _probe.CHUNK + 1, 5)[0] == _probe.CHUNK + 1
        assert talk(target, line() + b"abc" + line() + b"def") == b"abcdef"


def test_an_address_that_the_hosts_have_not_heard_of_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []
    connect = socket.create_connection

    def unknown(address: tuple[str, int], timeout: float) -> socket.socket:
        calls.append(timeout)
        if len(calls) < 3:
            raise OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
        return connect(address, timeout)

    monkeypatch.setattr(_probe, "_GOSSIP_SECONDS", 0.01)
    monkeypatch.setattr(socket, "create_connection", unknown)
    with listener() as target:
        assert _probe.small_round_trip(target, 5) > 0
        assert len(calls) == 3 and calls == sorted(calls, reverse=True)
        calls[:] = []
        with pytest.raises(_probe.ProbeError, match="cannot connect: No route to host"):
            _probe.small_round_trip(target, 0)
        assert len(calls) == 1


@pytest.mark.parametrize(
    ("request_line", "words"),
    [
        (line(nonce="x" * 32), "wrong nonce"),
        (line(nonce=""), "wrong nonce"),
        (line(nonce=None), "wrong nonce"),
        (line(nonce="\u00e9"), "wrong nonce"),
        (b"GET / HTTP/1.1\n", "not a request"),
        (b"[]\n", "not a request"),
        (b'"nonce"\n', "not a request"),
        (b"\xff\xfe\n", "not a request"),
        (b"{}\n", "not a request"),
        (line(op="exec"), "unknown operation"),
        (line(op=["echo"]), "unknown operation"),
        (line(size=0), "size must be"),
        (line(size=-1), "size must be"),
        (line(size="3"), "size must be"),
        (line(size=True), "size must be"),
        (line(size=_probe.LARGEST_ECHO + 1), "size must be"),
        (line(op="store", size=_probe.LARGEST_STORE + 1), "size must be"),
        (b"x" * 3000, "a line of more than"),
        (b'{"nonce"', "middle of a line"),
        (line() + b"ab", "middle of a message"),
        (line(op="store", size=10) + b"12345", "only 5 of 10 bytes"),
        (line(op="store", size=5) + b"12345" + b"0" * 63, "only 5 of 5 bytes"),
        (line(op="store", size=5) + b"12345" + b"0" * 64, "another SHA-256"),
    ],
)
def test_what_the_listener_refuses(request_line: bytes, words: str) -> None:
    with listener() as target:
        answer = talk(target, request_line)
        assert answer["ok"] is False and words in answer["error"]
        assert _probe.small_round_trip(target, 5) > 0, "one bad sender must not stop the listener"


def test_digest_is_echoed() -> None:
    with listener() as target:
        digest = hashlib.sha256(b"12345").hexdigest()
        answer = talk(target, line(op="store", size=5) + b"12345" + digest.encode())
        assert answer == {"ok": True, "bytes": 5, "sha256": digest, "error": ""}


def test_sender_is_told_of_a_wrong_nonce() -> None:
    with listener() as target:
        other = dict(target, nonce="x" * 32)
        with pytest.raises(_probe.ProbeError, match="wrong nonce"):
            _probe.small_round_trip(other, 5)
        with pytest.raises(_probe.ProbeError, match="wrong nonce"):
            _probe.large_transfer(other, 10 << 20, 10)


@contextlib.contextmanager
def peer(behaviour: Any) -> Iterator[dict[str, Any]]:
    """Some other program where the listener should be."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _address = server.accept()
                    with connection, contextlib.suppress(OSError):
                        behaviour(connection)

        threading.Thread(target=run, daemon=True).start()
        yield {"node": "b", "address": "127.0.0.1", "port": server.getsockname()[1], "nonce": "n"}


def swallow(connection: socket.socket) -> None:
    while connection.recv(1 << 16):
        pass


def lie(connection: socket.socket) -> None:
    stream = _probe.Stream(connection)
    size = json.loads(stream.line())["size"]
    stream.take(size + 64, lambda _piece: None)
    connection.sendall(json.dumps({"ok": True, "bytes": size, "sha256": "0" * 64, "error": ""}).encode() + b"\n")


def garble(connection: socket.socket) -> None:
    connection.recv(1 << 16)
    connection.sendall(b"#" * 64)


def test_other_programs_and_silence() -> None:
    with peer(swallow) as target:
        with pytest.raises(_probe.ProbeError, match=r"no answer within 0.3"):
            _probe.small_round_trip(target, 0.3)
        with pytest.raises(_probe.ProbeError, match="stalled after"):
            _probe.large_transfer(target, 1 << 20, 0.5)
    with peer(lie) as target, pytest.raises(_probe.ProbeError, match="SHA-256 differs"):
        _probe.large_transfer(target, 1000, 5)
    with peer(garble) as target, pytest.raises(_probe.ProbeError, match="not what was sent"):
        _probe.small_round_trip(target, 5)
    with peer(lambda connection: None) as target, pytest.raises(_probe.ProbeError, match=r"closed the connection|broke"):
        _probe.small_round_trip(target, 5)
    with peer(lambda connection: connection.recv(100)) as target, pytest.raises(_probe.ProbeError, match=r"cannot be read|broke"):
        _probe.large_transfer(target, 8 << 20, 5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = {"node": "b", "address": "127.0.0.1", "port": server.getsockname()[1], "nonce": "n"}
    with pytest.raises(_probe.ProbeError, match="refused"):
        _probe.small_round_trip(closed, 5)


def test_one_bad_target_does_not_spoil_the_others() -> None:
    with listener() as good, peer(swallow) as silent:
        results = _probe.measure([silent, dict(good, node="a")], 1 << 20, 0.5, 10)
    assert [result["ok"] for result in results] == [False, True]
    assert results[0]["small_ms"] is None and "no answer" in results[0]["error"]
    assert results[1]["bytes"] == 1 << 20 and results[1]["mb_per_s"] > 0


def test_listener_ends_by_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        started = time.monotonic()
        _probe.serve(server, "n", 0.4)
        assert 0.3 < time.monotonic() - started < 3


# --- the module, between real network namespaces


class Namespaces:
    """Processes in network namespaces of their own, on one bridge in a namespace of its own."""

    def __init__(self, count: int) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.bridge = self._process()
        namespaces.inside(self.bridge, "ip link add br0 type bridge && ip link set br0 up")
        self.pids = []
        for number in range(1, count + 1):
            pid = self._process()
            self.pids.append(pid)
            namespaces.inside(
                self.bridge, f"ip link add v{number} type veth peer name eth0 netns {pid} && ip link set v{number} master br0 up"
            )
            namespaces.inside(pid, f"ip link set lo up && ip addr add 10.9.8.{number}/24 dev eth0 && ip link set eth0 up")

    def _process(self) -> int:
        self.processes.append(namespaces.hold())
        return self.processes[-1].pid

    def run(self, number: int, command: str) -> str:
        return namespaces.inside(self.pids[number - 1] if number else self.bridge, command)

    def listen(self, number: int, **more: Any) -> dict[str, Any]:
        arguments = {"mode": "listen", "node": f"n{number}", "pid": self.pids[number - 1], "address": f"10.9.8.{number}", "lifetime": 60}
        return run_module("overlay_probe", {**arguments, **more})

    def send(self, number: int, targets: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        arguments = {
            "mode": "send",
            "node": f"n{number}",
            "pid": self.pids[number - 1],
            "targets": targets,
            "timeout": 2,
            "large_timeout": 6,
        }
        return run_module("overlay_probe", {**arguments, **more})

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def net() -> Iterator[Any]:
    made: list[Namespaces] = []
    listeners: list[int] = []

    def make(count: int) -> Namespaces:
        made.append(Namespaces(count))
        original = made[-1].listen

        def listen(number: int, **more: Any) -> dict[str, Any]:
            result = original(number, **more)
            listeners.append(result["listener_pid"])
            return result

        made[-1].listen = listen  # type: ignore[method-assign]
        return made[-1]

    yield make
    for pid in filter(None, listeners):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for item in made:
        item.close()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@needs_namespaces
def test_every_ordered_pair(net: Any) -> None:
    three = net(3)
    listening = [three.listen(number) for number in (1, 2, 3)]
    assert all(item["ready"] and not item["changed"] for item in listening)
    targets = [item["target"] for item in listening]
    assert len({target["nonce"] for target in targets}) == 3
    pairs = []
    for number in (1, 2, 3):
        sent = three.send(number, targets)
        assert sent["ok"] and not sent["error"], sent
        pairs += sent["pairs"]
    assert [(pair["from"], pair["to"]) for pair in pairs] == [
        ("n1", "n2"), ("n1", "n3"), ("n2", "n1"), ("n2", "n3"), ("n3", "n1"), ("n3", "n2"),
    ]  # fmt: skip
    assert all(pair["bytes"] == 10 << 20 and pair["small_ms"] > 0 and pair["mb_per_s"] > 0 for pair in pairs)
    # on the overlay's address only
    listened = three.run(1, "ss -Hltn" if shutil.which("ss") else "cat /proc/net/tcp")
    assert "10.9.8.1:" in listened or "0108090A:" in listened
    assert "0.0.0.0:%d" % targets[0]["port"] not in listened


@needs_namespaces
def test_listener_lets_go_of_everything(net: Any) -> None:
    one = net(1)
    started = time.monotonic()
    # subprocess.communicate waits for the end of all copies of the pipes, as Ansible's pipelining does
    result = one.listen(1, lifetime=30)
    assert time.monotonic() - started < 10
    pid = result["listener_pid"]
    assert alive(pid)
    deadline = time.monotonic() + 5
    links = {}
    while time.monotonic() < deadline:
        links = {int(entry.name): os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}
        if len(links) == 5:
            break
        time.sleep(0.05)
    assert [links.pop(number) for number in (0, 1, 2)] == ["/dev/null"] * 3
    # one socket for connections, one for datagrams
    assert len(links) == 2 and all(link.startswith("socket:") for link in links.values())
    assert os.getsid(pid) != os.getsid(0) and os.readlink(f"/proc/{pid}/cwd") == "/"
    assert result["target"]["nonce"] not in Path(f"/proc/{pid}/cmdline").read_text()


@needs_namespaces
def test_listener_is_gone_after_its_time(net: Any) -> None:
    one = net(1)
    pid = one.listen(1, lifetime=1)["listener_pid"]
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(pid)


@needs_namespaces
def test_cut_link_and_missing_listeners(net: Any) -> None:
    three = net(3)
    targets = [three.listen(number)["target"] for number in (1, 2)]
    targets.append({"node": "n3", "error": "no running container"})
    three.run(0, "ip link set v2 down")
    sent = three.send(1, targets)
    assert not sent["ok"] and [pair["to"] for pair in sent["pairs"]] == ["n2", "n3"]
    assert "cannot reach each other" in sent["pairs"][0]["error"] or "No route" in sent["pairs"][0]["error"]
    assert sent["pairs"][1]["error"] == "no listener there: no running container"
    three.run(0, "ip link set v2 up")
    for _attempt in range(5):  # the kernel takes a moment to use the link again
        sent = three.send(1, targets)
        if sent["pairs"][0]["ok"]:
            break
    assert sent["pairs"][0]["ok"], sent["pairs"]


@needs_namespaces
def test_too_large_mtu_is_recognised(net: Any) -> None:
    two = net(2)
    target = two.listen(2)["target"]
    # The sender believes in 1500 bytes, the way takes only 600 and says nothing: what a wrong overlay MTU looks like.
    two.run(0, "ip link set v2 mtu 600")
    two.run(0, "sysctl -qw net.ipv4.ip_forward=0 || true")
    sent = two.send(1, [target])
    pair = sent["pairs"][0]
    assert not pair["ok"] and pair["small_ms"] > 0
    assert "MTU is too large" in pair["error"] or "bytes were sent within" in pair["error"]


@needs_namespaces
def test_wrong_process_and_wrong_address(net: Any) -> None:
    one = net(1)
    foreign = one.listen(1, address="10.9.8.77")
    assert not foreign["ready"] and "Cannot assign requested address" in foreign["error"] and foreign["target"]["error"]
    gone = run_module("overlay_probe", {"mode": "listen", "node": "n1", "pid": 2**22 - 1, "address": "10.9.8.1"})
    assert not gone["ready"] and not gone.get("failed") and "No such file" in gone["error"]
    sent = run_module(
        "overlay_probe", {"mode": "send", "node": "n1", "pid": 2**22 - 1, "targets": [{"node": "n2", "address": "10.9.8.2", "port": 1}]}
    )
    assert not sent["ok"] and "No such file" in sent["pairs"][0]["error"]


@needs_namespaces
def test_many_at_once(net: Any) -> None:
    six = net(6)
    targets = [six.listen(number)["target"] for number in range(1, 7)]
    senders = [
        start_module("overlay_probe", {"mode": "send", "node": f"n{n}", "pid": six.pids[n - 1], "targets": targets, "large_bytes": 1 << 20})
        for n in range(1, 7)
    ]
    results = [result_of(sender) for sender in senders]
    assert all(result["ok"] for result in results) and sum(len(result["pairs"]) for result in results) == 30


def test_no_engine_is_a_result() -> None:
    listening = run_module("overlay_probe", {"mode": "listen", "node": "n1", "docker_socket": "/no/such.sock"})
    assert listening["ok"] is False and "/no/such.sock" in listening["error"] and listening["target"]["error"] == listening["error"]
    sent = run_module(
        "overlay_probe",
        {"mode": "send", "node": "n1", "docker_socket": "/no/such.sock", "targets": [{"node": "n2", "address": "10.0.0.1", "port": 1}]},
    )
    assert sent["ok"] is False and sent["pairs"][0]["error"] == sent["error"]


def test_check_mode_starts_nothing() -> None:
    result = run_module("overlay_probe", {"mode": "listen", "node": "n1", "pid": os.getpid(), "address": "127.0.0.1"}, check=True)
    assert result["changed"] is False and result["skipped"] is True and "listener_pid" not in result


@pytest.mark.parametrize(
    "arguments",
    [{"large_bytes": -1}, {"large_bytes": 2 << 30}, {"lifetime": 0}, {"lifetime": 99999}, {"pid": 1}, {"pid": 1, "address": "x"}],
)
def test_bad_options(arguments: dict[str, Any]) -> None:
    assert run_module("overlay_probe", {"mode": "listen", "node": "n1", **arguments})["failed"]


def test_entering_a_namespace_needs_a_process() -> None:
    with pytest.raises(OSError):
        _netlink.enter_network_of(2**22 - 1)
