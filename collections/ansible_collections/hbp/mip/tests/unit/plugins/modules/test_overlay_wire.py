# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What verify counts on the wire, between network namespaces: hosts with containers, and an overlay between these.

The overlay in clear is the kernel's VXLAN, set up as the engine does. This machine's kernel may have no ESP; in its place a program
carries the containers' packets in IP packets of protocol 50, which on the wire is the same.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _encryption, _overlay_watch, _store
from ansible_collections.hbp.mip.tests.helpers import namespaces
from ansible_collections.hbp.mip.tests.helpers.namespaces import inside
from ansible_collections.hbp.mip.tests.unit.plugins.modules.module_process import run_module

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or not all(shutil.which(tool) for tool in ("ip", "nsenter", "unshare", "nft")), reason="needs root, iproute2 and nft"
)

VNI = 4097
#: Carries packets between a container's interface and IP packets of protocol 50. Arguments: own address, the other's, container's pid.
CARRIER = """
import fcntl, os, select, socket, struct, subprocess, sys
own, other, container, name = sys.argv[1:5]
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1001))
subprocess.run(["ip", "link", "set", name, "netns", container], check=True)
wire = socket.socket(socket.AF_INET, socket.SOCK_RAW, 50)
wire.bind((own, 0))
wire.connect((other, 0))
print("ready", flush=True)
while True:
    for source in select.select([tun, wire], [], [])[0]:
        try:
            if source is wire:
                packet = wire.recv(65535)
                os.write(tun, packet[(packet[0] & 15) * 4 + 8:])
            else:
                wire.send(struct.pack("!II", 0xC0FFEE00, 1) + os.read(tun, 65535))
        except OSError:
            continue  # the other carrier does not run yet
"""


class Hosts:
    """Two hosts on a bridge, each with a container."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[Any]] = []
        self.wires = self.namespace()
        inside(self.wires, "ip link add br0 type bridge mcast_snooping 0 && ip link set br0 up")
        self.hosts, self.containers = [], []
        for number in (1, 2):
            host, container = self.namespace(), self.namespace()
            inside(self.wires, f"ip link add v{number} type veth peer name eth0 netns {host} && ip link set v{number} master br0 up")
            inside(host, f"ip link set lo up && ip addr add 192.0.2.{number}/24 dev eth0 && ip link set eth0 up")
            inside(container, "ip link set lo up")
            self.hosts.append(host)
            self.containers.append(container)

    def namespace(self) -> int:
        self.processes.append(namespaces.hold())
        return int(self.processes[-1].pid)

    def in_clear(self, mtu: int = 1450) -> None:
        """Connect the containers as the engine does: VXLAN between the hosts, and its interface in the container."""
        for number, (host, container) in enumerate(zip(self.hosts, self.containers, strict=True), 1):
            remote = f"192.0.2.{3 - number}"
            inside(host, f"ip link add vx0 type vxlan id {VNI} local 192.0.2.{number} remote {remote} dstport 4789 noudpcsum")
            inside(host, f"ip link set vx0 netns {container}")
            inside(container, f"ip link set vx0 mtu {mtu} up && ip addr add 10.20.30.{number}/24 dev vx0")

    def in_protocol_50(self) -> None:
        """Connect the containers through IP packets of protocol 50."""
        for number, (host, container) in enumerate(zip(self.hosts, self.containers, strict=True), 1):
            command = ["nsenter", f"--net=/proc/{host}/ns/net", sys.executable, "-c", CARRIER]
            command += [f"192.0.2.{number}", f"192.0.2.{3 - number}", str(container), "ov0"]
            carrier = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            self.processes.append(carrier)
            assert carrier.stdout is not None and carrier.stdout.readline() == "ready\n"
            inside(container, f"ip addr add 10.20.30.{number}/24 dev ov0 && ip link set ov0 mtu 1424 up")

    def run(self, number: int, **arguments: Any) -> dict[str, Any]:
        given = {"node": f"n{number}", "pid": self.containers[number - 1], "address": f"10.20.30.{number}", **arguments}
        return run_module("overlay_probe", given, prefix=["nsenter", f"--net=/proc/{self.hosts[number - 1]}/ns/net"])

    def listen(self, number: int, **more: Any) -> dict[str, Any]:
        peers = [{"node": f"n{n}", "address": f"192.0.2.{n}"} for n in (1, 2)]
        result = self.run(number, mode="listen", underlay=f"192.0.2.{number}", peers=peers, lifetime=120, **{"vni": VNI, **more})
        assert result["ready"] and not result["watch_error"], result
        return result

    def pair(self, **more: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Listen on both, and send from the first to the second; returns the pair and the listeners' targets."""
        targets = [self.listen(number, **more)["target"] for number in (1, 2)]
        sent = self.run(1, mode="send", targets=targets, large_bytes=1 << 20, timeout=5, large_timeout=30)
        return sent["pairs"][0], targets

    def close(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    made = Hosts()
    listeners: list[int] = []
    original = made.listen

    def listen(number: int, **more: Any) -> dict[str, Any]:
        result = original(number, **more)
        listeners.append(result["listener_pid"])
        return result

    made.listen = listen  # type: ignore[method-assign]
    yield made
    for pid in filter(None, listeners):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    made.close()


@needs_namespaces
def test_vxlan_in_clear_is_counted_at_both_ends(hosts: Hosts) -> None:
    hosts.in_clear()
    pair, targets = hosts.pair()
    assert pair["ok"] and pair["bytes"] == 1 << 20, pair
    assert (pair["mtu"], pair["packet"]) == (1450, 1450)
    found = pair["encryption"]
    assert found["verdict"] == "clear" and "left the sender in clear" in found["reason"]
    for side in ("sender", "receiver"):
        assert found[side]["clear"]["bytes"] > 1 << 20 and found[side]["clear"]["packets"] > 10
        assert found[side]["esp"] == {"packets": 0, "bytes": 0} and found[side]["lost"] == 0
    # The receiver's own host tells the same afterwards, and what went back to the sender.
    told = hosts.run(2, mode="collect", targets=targets)["counted"]
    assert told["peers"]["n1"]["arrived"]["clear"]["bytes"] >= found["receiver"]["clear"]["bytes"]
    assert told["peers"]["n1"]["left"]["clear"]["packets"] > 0
    assert told["errors"] == {}


@needs_namespaces
def test_vxlan_of_another_network_is_not_ours(hosts: Hosts) -> None:
    hosts.in_clear()
    pair, _targets = hosts.pair(vni=VNI + 1)
    assert pair["ok"]
    found = pair["encryption"]
    assert found["verdict"] == "no-proof" and "counted 0 bytes of ESP" in found["reason"]
    assert found["sender"]["other"]["bytes"] > 1 << 20 and found["sender"]["clear"]["packets"] == 0


@needs_namespaces
def test_protocol_50_and_nothing_in_clear_is_encrypted(hosts: Hosts) -> None:
    hosts.in_protocol_50()
    pair, _targets = hosts.pair()
    assert pair["ok"], pair
    found = pair["encryption"]
    assert found["verdict"] == "encrypted" and found["reason"] == "", found
    for side in ("sender", "receiver"):
        assert found[side]["esp"]["bytes"] > 1 << 20 and found[side]["clear"]["packets"] == 0
    assert pair["packet"] == 1424


@needs_namespaces
def test_what_leaves_in_clear_is_seen_though_nothing_passes(hosts: Hosts) -> None:
    hosts.in_clear()
    rules = "add table inet t; add chain inet t c { type filter hook input priority 0; }; add rule inet t c udp dport 4789 drop"
    inside(hosts.hosts[1], f"nft '{rules}'")
    targets = [hosts.listen(number)["target"] for number in (1, 2)]
    sent = hosts.run(1, mode="send", targets=targets, large_bytes=1 << 20, timeout=1)
    (pair,) = sent["pairs"]
    assert not pair["ok"] and pair["encryption"]["verdict"] == "clear"
    told = hosts.run(2, mode="collect", targets=targets)["counted"]
    assert told["peers"]["n1"]["arrived"]["clear"]["packets"] > 0, "a capture sees what the host's rules drop afterwards"


@needs_namespaces
def test_packets_of_the_overlays_size_that_do_not_pass(hosts: Hosts) -> None:
    hosts.in_clear()
    # The path takes 1300 bytes, and a firewall in it lets no fragments pass.
    inside(hosts.hosts[0], "ip link set eth0 mtu 1300")
    rules = (
        "add table ip t; add chain ip t c { type filter hook prerouting priority -450; }; add rule ip t c ip frag-off & 0x3fff != 0 drop"
    )
    inside(hosts.hosts[1], f"nft '{rules}'")
    pair, _targets = hosts.pair()
    assert not pair["ok"] and pair["small_ms"] > 0
    assert pair["mtu"] == 1450 and 1240 <= pair["packet"] <= 1250, pair
    assert "packets of %d bytes pass" % pair["packet"] in pair["error"]


@needs_namespaces
def test_only_root_of_this_host_gets_the_counts(hosts: Hosts) -> None:
    hosts.in_clear()
    target = hosts.listen(1)["target"]
    assert hosts.run(1, mode="collect", targets=[target])["ok"]
    # Another run's word, and another network, lead nowhere.
    wrong = hosts.run(1, mode="collect", targets=[dict(target, nonce="0" * 32)])
    assert not wrong["ok"] and "is gone" in wrong["error"]
    assert not run_module("overlay_probe", {"mode": "collect", "node": "n1", "targets": [target]})["ok"]
    code = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect('\\0'+sys.argv[1]); print(len(s.recv(100)))"
    name = _overlay_watch.address_of(target["nonce"])[1:]
    command = ["nsenter", f"--net=/proc/{hosts.hosts[0]}/ns/net", "setpriv", "--reuid=65534", sys.executable, "-c", code, name]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "0\n"


@needs_namespaces
def test_the_counting_process_ends_with_its_listener(hosts: Hosts) -> None:
    hosts.in_clear()
    result = hosts.listen(1)
    os.kill(result["listener_pid"], signal.SIGKILL)
    deadline = time.monotonic() + 20
    while hosts.run(1, mode="collect", targets=[result["target"]])["ok"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)


# --- pure parts


def packet(protocol: int, body: bytes, options: bytes = b"") -> bytes:
    length = 20 + len(options)
    head = struct.pack("!BBHHHBBH", 0x40 | length // 4, 0, length + len(body), 0, 0, 64, protocol, 0)
    return head + bytes([192, 0, 2, 1, 192, 0, 2, 2]) + options + body


def vxlan(number: int, flags: int = 8) -> bytes:
    return struct.pack("!HHHH", 40000, 4789, 16, 0) + struct.pack("!B3xI", flags, number << 8)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (packet(50, b"\0" * 40), "esp"),
        (packet(17, vxlan(VNI)), "clear"),
        (packet(17, vxlan(VNI), options=b"\1" * 8), "clear"),
        (packet(17, vxlan(7)), "other"),
        (packet(17, vxlan(VNI, flags=0)), None),
        (packet(17, vxlan(VNI)[:12]), None),
        (b"\x60" + b"\0" * 60, None),
        (b"", None),
    ],
)
def test_classify(data: bytes, kind: str | None) -> None:
    found = _overlay_watch.classify(data, VNI)
    assert (found[0] if found else None) == kind
    if found:
        assert found[1:] == ("192.0.2.1", "192.0.2.2", len(data))
    if kind == "other":
        everything = _overlay_watch.classify(data, 0)
        assert everything is not None and everything[0] == "clear", "where the number is not known all VXLAN counts"


def side(esp: int = 0, clear: int = 0, states: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "esp": {"packets": esp // 1000, "bytes": esp},
        "clear": {"packets": clear // 1000, "bytes": clear},
        "states": {"packets": states // 1000, "bytes": states},
        "lost": 0,
        "error": "",
        **more,
    }


GOOD = side(esp=11_000_000)


@pytest.mark.parametrize(
    ("ok", "sender", "receiver", "verdict", "words"),
    [
        (True, GOOD, GOOD, "encrypted", ""),
        (True, side(states=11_000_000), side(states=11_000_000), "encrypted", ""),
        (True, side(esp=5_000_000, lost=9), GOOD, "encrypted", ""),
        (True, side(esp=11_000_000, clear=1000), GOOD, "clear", "left the sender"),
        (True, GOOD, side(esp=11_000_000, clear=1000), "clear", "arrived in clear"),
        (True, GOOD, side(clear=11_000_000, states=11_000_000, esp_offload=True), "encrypted", ""),
        (True, GOOD, side(clear=11_000_000, states=11_000_000, esp_offload=False), "clear", "arrived in clear"),
        (True, GOOD, side(clear=11_000_000, states=10_000_000, esp_offload=True), "clear", "arrived in clear"),
        (True, GOOD, side(clear=11_000_000, esp_offload=True), "clear", "arrived in clear"),
        (True, side(esp=900_000), GOOD, "no-proof", "sender's host counted 900000 bytes of ESP for 10000000"),
        (True, GOOD, side(), "no-proof", "receiver's host counted 0 bytes"),
        (True, GOOD, side(states_error="not readable"), "no-proof", "not readable"),
        (True, GOOD, {"error": "gone"}, "no-proof", "gone"),
        (True, {}, {}, "no-proof", "counted 0 bytes"),
        (False, GOOD, GOOD, "no-proof", "did not pass"),
        (False, side(clear=1000), {"error": "gone"}, "clear", "left the sender"),
    ],
)
def test_judge(ok: bool, sender: dict[str, Any], receiver: dict[str, Any], verdict: str, words: str) -> None:
    found = _encryption.judge(ok, 10_000_000 if ok else 0, sender, receiver)
    assert found["verdict"] == verdict and words in found["reason"] and bool(words) == bool(found["reason"])


@pytest.mark.parametrize(
    ("path", "plain", "encrypted"),
    [
        (0, 1450, 1424),
        (1500, 1450, 1424),
        (1492, 1442, 1416),
        (1460, 1410, 1384),
        (1450, 1400, 1372),
        (1400, 1350, 1324),
        (9000, 8950, 8924),
    ],
)
def test_mtu_as_the_engine_computes_it(path: int, plain: int, encrypted: int) -> None:
    assert _encryption.overlay_mtu(path, False) == plain and _encryption.overlay_mtu(path, True) == encrypted
    for value in (False, True):
        needed = _encryption.path_mtu(_encryption.overlay_mtu(path, value), value)
        assert needed <= (path or 1500) < needed + 4


# --- the local data store


@contextlib.contextmanager
def service(hosts: Hosts, number: int, address: str, port: int) -> Iterator[None]:
    """A TCP service in a host's network."""
    code = f"import socket; s=socket.create_server(('{address}',{port})); print('ready',flush=True)\nwhile True: s.accept()[0].close()"
    command = ["nsenter", f"--net=/proc/{hosts.hosts[number - 1]}/ns/net", sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


def with_bridge(hosts: Hosts) -> None:
    """Give the first host's container its way out, as the engine does: a bridge and masquerading."""
    host, container = hosts.hosts[0], hosts.containers[0]
    inside(
        host, f"ip link add {_store.BRIDGE} type bridge && ip addr add 172.18.0.1/16 dev {_store.BRIDGE} && ip link set {_store.BRIDGE} up"
    )
    inside(host, f"ip link add c0 type veth peer name eth1 netns {container} && ip link set c0 master {_store.BRIDGE} up")
    inside(container, "ip addr add 172.18.0.2/16 dev eth1 && ip link set eth1 up && ip route add default via 172.18.0.1")
    inside(host, "echo 1 > /proc/sys/net/ipv4/ip_forward")
    inside(host, "nft 'add table ip n; add chain ip n p { type nat hook postrouting priority 100; }'")
    inside(host, "nft 'add rule ip n p ip saddr 172.18.0.0/16 oifname eth0 masquerade'")


@needs_namespaces
def test_a_data_store_on_the_host_and_elsewhere(hosts: Hosts) -> None:
    with_bridge(hosts)
    hosts.in_clear()

    def look(host: str, port: int = 5432) -> dict[str, Any]:
        found: dict[str, Any] = hosts.run(1, mode="listen", timeout=1, lifetime=20, store={"host": host, "port": port})["store"]
        return found

    with service(hosts, 1, "0.0.0.0", 5432), service(hosts, 2, "0.0.0.0", 5432), service(hosts, 1, "127.0.0.1", 5433):
        here, there = look("192.0.2.1"), look("192.0.2.2")
        assert (here["verdict"], here["local"], here["inside"]) == ("ok", True, "ok"), here
        assert (there["verdict"], there["local"], there["inside"]) == ("ok", False, "ok"), there
        # Nothing listens there, or not where a container could reach it.
        assert look("192.0.2.2", 9)["verdict"] == "refused"
        loopback = look("192.0.2.1", 5433)
        assert loopback["verdict"] == "refused" and "127.0.0.1 only" in loopback["message"]
        assert look("203.0.113.9")["verdict"] == "no-route"
        unknown = look("no-such-host.invalid")
        assert unknown["verdict"] == "name" and unknown["inside"] == "name"
        # The host's own rules, towards itself and towards others.
        rules = "add table inet t; add chain inet t i { type filter hook input priority 0; }; "
        rules += "add chain inet t f { type filter hook forward priority 0; }"
        inside(hosts.hosts[0], f"nft '{rules}; add rule inet t i iifname {_store.BRIDGE} drop; add rule inet t f tcp dport 5432 drop'")
        here, there = look("192.0.2.1"), look("192.0.2.2")
        assert (here["verdict"], here["inside"], here["outside"]) == ("own-filter", "silent", "ok")
        assert _store.BRIDGE in here["message"] and "ufw allow in on docker_gwbridge to any port 5432" in here["fix"]
        assert there["verdict"] == "own-filter" and "FORWARD" in there["fix"]
        # The other machine's rules, or those between.
        inside(hosts.hosts[0], "nft delete table inet t")
        inside(hosts.hosts[1], f"nft '{rules}; add rule inet t i tcp dport 5432 drop'")
        away = look("192.0.2.2")
        assert (away["verdict"], away["inside"], away["outside"]) == ("path", "silent", "silent") and "TCP 5432" in away["fix"]


def test_addresses_in_a_dns_answer() -> None:
    name = b"\3lds\7example\0"
    question = name + struct.pack("!HH", 1, 1)
    alias = b"\xc0\x0c" + struct.pack("!HHIH", 5, 1, 60, 2) + b"\xc0\x0c"
    record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + bytes([192, 0, 2, 7])
    answer = struct.pack("!HHHHHH", 1, 0x8180, 1, 2, 0, 0) + question + alias + record
    assert _store.addresses_in(answer) == ["192.0.2.7"]
    for cut in range(len(answer) - 1):
        assert _store.addresses_in(answer[:cut]) in ([], ["192.0.2.7"])
    assert _store.addresses_in(b"") == []


def test_names_are_looked_up_as_the_container_does(tmp_path: Any) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").write_text("127.0.0.1 localhost\n192.0.2.9 lds lds.hospital # the store\n::1 six\n")
    (tmp_path / "etc/resolv.conf").write_text("search hospital\n")
    assert _store.resolve_like(str(tmp_path), "lds") == "192.0.2.9"
    assert _store.resolve_like(str(tmp_path), "six") == _store.resolve_like(str(tmp_path), "other") == ""
    assert _store.resolve_like(str(tmp_path / "none"), "lds") == ""


def test_node_check_tries_the_data_store_from_the_host() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = run_module("node_check", {"kinds": ["worker"], "store": {"host": "127.0.0.1", "port": port}})
        assert found["facts"]["store"]["verdict"] == "ok" and found["facts"]["store"]["inside"] == ""
        assert _store.CODE not in {problem["code"] for problem in found["problems"]}
    found = run_module("node_check", {"kinds": ["worker"], "store": {"host": "127.0.0.1", "port": port}})
    (problem,) = [problem for problem in found["problems"] if problem["code"] == _store.CODE]
    assert "refuses" in problem["message"] and str(port) in problem["fix"]
