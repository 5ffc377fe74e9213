# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults that are no plain filter, hosts where others have the ports, and what the listener leaves behind."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _link_wire
from ansible_collections.hbp.mip.plugins.plugin_utils import _link_rates, _links
from ansible_collections.hbp.mip.tests.integration.links.conftest import Network, verdicts
from ansible_collections.hbp.mip.tests.unit.plugins.modules.module_process import result_of

SERVER = "import socket, time\ns = socket.create_server(('0.0.0.0', 7946))\nwhile True: s.accept()[0].close()"


def names(report: dict[str, Any], a: str, b: str) -> set[str]:
    """The findings of one ordered pair."""
    return {
        cell["name"]
        for pair in report["pairs"]
        if (pair["from"], pair["to"]) == (a, b)
        for cell in pair["checks"]
        if cell["level"] == "fault"
    }


@contextlib.contextmanager
def running(process: subprocess.Popen[Any]) -> Iterator[None]:
    """A process for as long as it is needed."""
    time.sleep(0.5)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_refused_by_filters(net: Network) -> None:
    """A filter that answers is still a filter, at the sender and at the receiver."""
    net.filter("ms", f"ip saddr {net.addresses['wa']} tcp dport 7946 reject with tcp reset", "input")
    net.filter("ms", f"ip saddr {net.addresses['wa']} udp dport 7946 reject with icmp type admin-prohibited", "input")
    net.filter("wb", f"ip daddr {net.addresses['ms']} meta l4proto {{ tcp, udp, 50 }} reject", "output")
    report = net.check()
    assert verdicts(report) == {
        ("wa", "ms", "tcp", 7946): "receiver-filter",
        ("wa", "ms", "udp", 7946): "receiver-filter",
        **{("wb", "ms", *what): "sender-filter" for what in (("tcp", 2377), ("tcp", 7946), ("udp", 7946), ("vxlan", 4789), ("esp", 0))},
        **{  # the answers of wb to ms are dropped, too; TCP notices that
            ("ms", "wb", "tcp", 7946): "receiver-filter",
        },
    }
    evidence = [p["message"] for p in report["problems"] if "UDP port 7946 from wa" in p["message"]]
    assert "ms (10.88.0.11) answered with ICMP 3/13 (administratively prohibited)" in evidence[0]


def test_stateful_filter_does_not_hide_missing_esp(net: Network) -> None:
    """A filter that lets in what belongs to a connection would let in for ten minutes whom the host itself sent ESP to."""
    for name in ("ms", "wa"):
        net.run(
            name,
            "nft add table inet t && nft add chain inet t input '{ type filter hook input priority 0; }' && "
            "nft add rule inet t input ct state established,related accept && nft add rule inet t input ip protocol esp drop",
        )
    for _again in range(2):
        assert verdicts(net.check()) == {
            ("wa", "ms", "esp", 0): "receiver-filter",
            ("wb", "ms", "esp", 0): "receiver-filter",
            ("ms", "wa", "esp", 0): "receiver-filter",
            ("wb", "wa", "esp", 0): "receiver-filter",
        }


def test_firewall_between_that_lets_answers_in(net: Network) -> None:
    """It lets ESP of wa out, and in only for whom wa has sent some; ms sends first."""
    net.run(
        "bridge",
        "nft add table bridge t && nft add set bridge t known '{ type ipv4_addr; flags dynamic; size 64; }' && "
        "nft add chain bridge t forward '{ type filter hook forward priority 0; }' && "
        f"nft add rule bridge t forward ip saddr {net.addresses['wa']} ip protocol esp add @known '{{ ip daddr }}' accept && "
        f"nft add rule bridge t forward ip daddr {net.addresses['wa']} ip protocol esp ip saddr != @known drop",
    )
    report = net.check(pause=1.5, attempts=20)
    assert verdicts(report) == {("ms", "wa", "esp", 0): "late"}
    assert report["ok"] and [entry["code"] for entry in report["notes"]] == ["link-esp-late"]


@pytest.mark.parametrize(("mtu", "found"), [(1400, 1400), (1300, 1280)])
def test_small_path_without_icmp(net: Network, mtu: int, found: int) -> None:
    net.run("bridge", f"ip link set wb mtu {mtu}")
    try:
        report = net.check()
    finally:
        net.run("bridge", "ip link set wb mtu 1500")
    expected = {(a, b, "esp", 0): f"mtu-{found}" for a, b in (("wb", "ms"), ("wb", "wa"), ("ms", "wb"), ("wa", "wb"))}
    assert verdicts(report) == expected
    assert report["path_mtu"] == found and report["ok"] and not report["problems"] and len(report["notes"]) == 4
    assert {pair["mtu"] for pair in report["pairs"]} == {found, 1500}


def test_small_path_one_way_and_too_large_an_overlay(net: Network) -> None:
    net.filter("bridge", f"ip saddr {net.addresses['ms']} ip daddr {net.addresses['wa']} ip length 1421-65535 drop", "forward", "bridge")
    report = net.check(overlay_mtu=1450)
    assert verdicts(report) == {("ms", "wa", "esp", 0): "mtu-1420"}
    assert not report["ok"] and [entry["code"] for entry in report["problems"]] == ["link-mtu"]
    assert "1420" in report["requests"][0]["text"]


def test_own_card_with_small_mtu(net: Network) -> None:
    net.run("wa", "ip link set eth0 mtu 1450")
    try:
        report = net.check()
    finally:
        net.run("wa", "ip link set eth0 mtu 1500")
    assert report["path_mtu"] == 1450
    assert verdicts(report)["wa", "ms", "esp", 0] == "mtu-1450"
    assert "network card of wa" in next(entry["message"] for entry in report["notes"] if "from wa to ms" in entry["message"])


def test_unencrypted_overlay_is_measured_with_vxlan(networks: Callable[..., Network]) -> None:
    two = networks("ms", "wa", encrypted=False)
    assert verdicts(two.check()) == {}
    two.run("bridge", "ip link set wa mtu 1450")
    report = two.check()
    assert verdicts(report) == {("ms", "wa", "vxlan", 4789): "mtu-1450", ("wa", "ms", "vxlan", 4789): "mtu-1450"}
    two.run("bridge", "ip link set wa mtu 1500")
    two.filter("wa", "udp dport 4789 drop", "input")
    two.filter("bridge", "ip protocol esp drop", "forward", "bridge")
    assert verdicts(two.check()) == {("ms", "wa", "vxlan", 4789): "receiver-filter"}


def test_vxlan_may_be_closed_when_encrypted(net: Network) -> None:
    """On the wire it must not be open; only a host's own rules, which decrypted packets pass, too, must let it in."""
    net.filter("bridge", f"ip saddr {net.addresses['wa']} udp dport 4789 drop", "forward", "bridge")
    net.run(
        "ms",
        "nft add table inet mip_try && nft add chain inet mip_try pre '{ type filter hook prerouting priority -150; }' && "
        "nft add rule inet mip_try pre udp dport 4789 meta ipsec missing drop && "
        "nft add chain inet mip_try out '{ type filter hook output priority -160; }' && "
        "nft add rule inet mip_try out udp dport 4789 meta skuid 0-4294967294 drop",
    )
    net.filter("wb", "udp dport 4789 drop", "input")
    report = net.check()
    assert verdicts(report) == {
        ("wa", "ms", "vxlan", 4789): "path",
        ("wa", "wb", "vxlan", 4789): "path",
        ("wb", "ms", "vxlan", 4789): "receiver-filter",
        ("ms", "wa", "vxlan", 4789): "sender-filter",
        ("ms", "wb", "vxlan", 4789): "sender-filter",
    }
    assert report["ok"] and not report["problems"] and len(report["notes"]) == 5
    net.open()
    net.filter("wb", "udp dport 4789 drop", "input")
    report = net.check()
    assert {entry["code"] for entry in report["problems"]} == {"link-vxlan-receiver-filter"} and len(report["problems"]) == 2


def test_answers_lost(net: Network) -> None:
    net.filter("bridge", f"ip saddr {net.addresses['ms']} ip daddr {net.addresses['wa']} tcp sport 2377 drop", "forward", "bridge")
    net.filter("wb", f"ip saddr {net.addresses['ms']} tcp sport 7946 drop", "input")
    report = net.check()
    assert verdicts(report) == {("wa", "ms", "tcp", 2377): "return-path", ("wb", "ms", "tcp", 7946): "sender-filter"}
    assert report["requests"][0]["text"].startswith("Let the answers of TCP port 2377 from ms (10.88.0.11) back to wa")


def test_other_programs_have_the_ports(net: Network) -> None:
    with running(net.start("ms", sys.executable, "-c", SERVER)):
        report = net.check(members=["ms"])
        port = next(item for item in net.listened["ms"]["listening"] if (item["proto"], item["port"]) == ("tcp", 7946))
        assert not port["own"] and port["by"].startswith("python")
        assert [item["answer"] for item in net.sent["wa"]["sent"][0]["tcp"]] == ["right", "not-asked"]
        assert {key: value for key, value in verdicts(report).items() if key[3] == 7946 and key[2] == "tcp"} == {}
        # a member of a swarm whose engine does not listen
        assert verdicts(report) == {(a, "ms", p, n): "nobody-listening" for a in ("wa", "wb") for p, n in (("tcp", 2377), ("udp", 7946))}
        net.filter("ms", "tcp dport 7946 drop", "input")
        assert verdicts(net.check()) == {(a, "ms", "tcp", 7946): "receiver-filter" for a in ("wa", "wb")}


def test_address_translation(net: Network) -> None:
    net.run("wa", "ip addr add 10.88.0.99/24 dev eth0")
    try:
        net.run(
            "wa",
            "nft add table ip n && nft add chain ip n post '{ type nat hook postrouting priority 100; }' && "
            f"nft add rule ip n post ip daddr {net.addresses['ms']} snat to 10.88.0.99",
        )
        report = net.check()
    finally:
        net.run("wa", "ip addr del 10.88.0.99/24 dev eth0")
    assert set(verdicts(report).values()) == {"translated"} and len(verdicts(report)) == 5
    assert names(report, "wa", "ms") == {"link-translated"}
    assert "from 10.88.0.99 instead of 10.88.0.12" in report["problems"][0]["message"]


def test_something_answers_in_its_place(net: Network) -> None:
    net.run(
        "wa",
        "nft add table ip n && nft add chain ip n out '{ type nat hook output priority -100; }' && "
        f"nft add rule ip n out ip daddr {net.addresses['ms']} tcp dport 7946 dnat to {net.addresses['wb']}",
    )
    report = net.check()
    assert verdicts(report) == {("wa", "ms", "tcp", 7946): "intercepted"}
    assert net.sent["wa"]["sent"][0]["tcp"][1]["answer"] in ("none", "wrong")


def test_host_off_and_no_route(net: Network) -> None:
    net.run("bridge", "ip link set wb down")
    for name in net.names:
        net.run(name, "ip neigh flush all")  # with a known neighbour packets would leave all the same
    try:
        report = net.check()
    finally:
        net.run("bridge", "ip link set wb up")
    assert names(report, "ms", "wb") == names(report, "wa", "wb") == {"link-no-answer"}
    assert names(report, "wb", "ms") <= {"link-no-answer", "link-no-route"} and names(report, "wb", "ms")
    assert names(report, "ms", "wa") == names(report, "wa", "ms") == set()
    net.run("wb", "ip route del 10.88.0.0/24 && ip route add 10.88.0.12/32 dev eth0")
    try:
        report = net.check()
    finally:
        net.run("wb", "ip route del 10.88.0.12/32 && ip route add 10.88.0.0/24 dev eth0 src 10.88.0.13")
    assert names(report, "wb", "ms") == {"link-no-route"} and names(report, "wb", "wa") == names(report, "wa", "wb") == set()


@pytest.mark.parametrize("kind", ["unreachable", "prohibit", "blackhole"])
def test_route_that_refuses(net: Network, kind: str) -> None:
    """A route or a rule of the administrator's says that a peer is not to be reached; it is no filter, and no route is missing."""
    route = f"{kind} {net.addresses['ms']}/32"
    net.run("wa", f"ip route add {route}")
    try:
        report = net.check()
    finally:
        net.run("wa", f"ip route del {route}")
    assert names(report, "wa", "ms") == {"link-route-refused"}
    found = verdicts(report)
    assert {found["wa", "ms", *what] for what in (("tcp", 2377), ("tcp", 7946), ("udp", 7946), ("esp", 0))} == {"no-route"}
    # what comes from the other side is let in; only TCP needs the way back
    assert found["ms", "wa", "tcp", 7946] == "no-route-back" and {key[2] for key in found if key[:2] == ("ms", "wa")} == {"tcp"}
    assert not {key[:2] for key in found} - {("wa", "ms"), ("ms", "wa")}
    entries = [entry for entry in report["problems"] if entry["code"] == "link-route-refused"]
    assert {entry["node"] for entry in entries} == {"wa"} and len(entries) == 5
    assert all(f"a route of the type {kind}" in entry["message"] and "ip route get 10.88.0.11" in entry["fix"] for entry in entries)
    assert {(request["host"], request["text"].split(" to ")[0]) for request in report["requests"]} == {
        ("wa", f"Take the route of the type {kind}")
    }


def test_reverse_path(net: Network) -> None:
    net.run(
        "wb",
        "ip link add other type veth peer name end && ip link set other up && ip link set end up && "
        "ip route add 10.88.0.12/32 dev other && "
        "sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.eth0.rp_filter=1",
    )
    try:
        report = net.check()
    finally:
        net.run("wb", "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0; ip link del other")
    assert names(report, "wa", "wb") == {"link-reverse-path"}
    assert names(report, "ms", "wb") == names(report, "wb", "ms") == names(report, "wa", "ms") == set()


def test_silent_nodes_are_not_blamed(net: Network) -> None:
    """A host that cannot be asked is unknown; what others measured between them stays."""
    links = _links.plan(net.federation)
    word = secrets.token_hex(16)
    alive = ["ms", "wa"]
    listened = net.round({name: {**links["listen"][name], "mode": "listen", "run": word} for name in alive})
    given = {name: {**links["send"][name], "targets": _links.targets(links, name, listened)} for name in alive}
    sent = net.round({name: {**given[name], "mode": "send", "run": word, "timeout": 1} for name in alive})
    collected = net.round({name: {"node": name, "mode": "collect", "run": word} for name in alive})
    report = _links.judge(links, listened, sent, collected)
    for pair in report["pairs"]:
        silent = "wb" in (pair["from"], pair["to"])
        assert {cell["verdict"] for cell in pair["checks"]} == ({"not-measured"} if silent else {"ok"})
    assert {entry["code"] for entry in report["problems"]} == {"link-not-measured"}


def test_throughput(net: Network) -> None:
    links = _links.plan(net.federation)
    word = secrets.token_hex(16)
    listened = net.round({name: {**given, "mode": "listen", "run": word} for name, given in links["listen"].items()})
    assert sorted(pair for pairs in _links.tournament(net.names) for pair in pairs) == sorted(
        (a, b) for a in net.names for b in net.names if a != b
    )
    target = next(target for target in _links.targets(links, "wa", listened) if target["node"] == "ms")
    given = {**links["send"]["wa"], "mode": "throughput", "targets": [target], "run": word, "duration": 1}
    result = result_of(net.module("wa", given))
    assert result["ok"] and result["throughput"]["mb_per_s"] > 10 and result["throughput"]["bytes"] > 10_000_000
    other = result_of(net.module("wa", {**given, "run": secrets.token_hex(16)}))
    assert not other["ok"] and "not this run's listener" in other["error"]
    net.round({name: {"node": name, "mode": "collect", "run": word} for name in net.names})


def test_throughput_over_the_overlay(net: Network, networks: Callable[..., Network]) -> None:
    """Once Docker has the ports, the probe measures in the network that the containers share."""
    links, word = _links.plan(net.federation), secrets.token_hex(16)
    inner = networks("cms", "cwa")
    containers = {name: inner.start(f"c{name}", "sleep", "60") for name in ("ms", "wa")}
    taken = net.start("ms", sys.executable, "-c", SERVER)
    with running(taken), running(containers["ms"]), running(containers["wa"]):
        inside = {name: {"pid": process.pid, "address": inner.addresses[f"c{name}"]} for name, process in containers.items()}
        more = {name: {"overlay": inside[name]} if name in inside else {} for name in net.names}
        ports = [port for port in links["listen"]["ms"]["ports"] if port["port"] != 2377]
        more["ms"]["ports"] = ports
        listened = net.round({name: {**given, "mode": "listen", "run": word, **more[name]} for name, given in links["listen"].items()})
        assert listened["ms"]["overlay"]["address"] == "10.88.0.11" and listened["wb"]["overlay"]["port"] == 0
        targets = _link_rates.target(links, "wa", {"wa": "ms"}, listened)
        assert targets[0]["own_tcp"] == [] and targets[0]["overlay"]["port"]
        given = {**links["send"]["wa"], "mode": "throughput", "targets": targets, "run": word, "duration": 0.5, **more["wa"]}
        rate = result_of(net.module("wa", given))["throughput"]
        assert rate["via"] == "overlay" and rate["mb_per_s"] > 10 and not rate["error"]
        # who is on the overlay and not of this run gets nothing
        stranger = (
            f"import socket; c = socket.create_connection(('10.88.0.11', {listened['ms']['overlay']['port']})); "
            "c.sendall(b'S' + bytes(16)); c.settimeout(20); print(c.recv(64))"
        )
        assert inner.run("cwa", f'{sys.executable} -c "{stranger}"') == "b''\n"
        # the other way the host's own port serves
        back = _link_rates.target(links, "ms", {"ms": "wa"}, listened)
        given = {**links["send"]["ms"], "mode": "throughput", "targets": back, "run": word, "duration": 0.3, **more["ms"]}
        given.pop("ports")
        assert result_of(net.module("ms", given))["throughput"]["via"] == "tcp 7946"
        net.round({name: {"node": name, "mode": "collect", "run": word} for name in net.names})


# --- the listener itself


def listen(net: Network, name: str, word: str, **more: Any) -> dict[str, Any]:
    return result_of(net.module(name, {**_links.plan(net.federation)["listen"][name], "mode": "listen", "run": word, **more}))


def collect(net: Network, name: str, word: str) -> dict[str, Any]:
    return result_of(net.module(name, {"mode": "collect", "run": word, "node": name}))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_nothing_is_left(net: Network) -> None:
    word = secrets.token_hex(16)
    started = listen(net, "ms", word, seconds=30)
    pid = started["listener_pid"]
    assert alive(pid) and os.getsid(pid) != os.getsid(0) and Path(f"/proc/{pid}/cwd").resolve() == Path("/")
    assert word not in Path(f"/proc/{pid}/cmdline").read_text()
    status = Path("/run/mip").stat()
    assert status.st_mode & 0o777 == 0o700 and status.st_uid == 0
    assert net.run("ms", "ss -Hltn").count("10.88.0.11:") == 2
    again = listen(net, "ms", word, seconds=30)
    assert again["ok"] and not alive(pid) and all(item["own"] for item in again["listening"])
    collected = collect(net, "ms", word)
    assert collected["ok"] and collected["seen"] == []
    assert net.run("ms", "ss -Hltnu").strip() == "" and not Path("/run/mip").exists()
    assert "no listener of this run" in collect(net, "ms", word)["error"]


def test_ends_by_itself_and_after_a_kill(net: Network) -> None:
    word = secrets.token_hex(16)
    pid = listen(net, "ms", word, seconds=1)["listener_pid"]
    deadline = time.monotonic() + 15
    while (alive(pid) or Path("/run/mip").exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(pid) and not Path("/run/mip").exists()
    pid = listen(net, "ms", word, seconds=30)["listener_pid"]
    os.kill(pid, signal.SIGKILL)
    left = next(Path("/run/mip").iterdir())
    os.utime(left, (1, 1))
    assert "does not answer" in collect(net, "ms", word)["error"]
    assert not Path("/run/mip").exists()


def test_two_runs_at_once(net: Network) -> None:
    first, second = secrets.token_hex(16), secrets.token_hex(16)
    assert listen(net, "ms", first)["ok"]
    other = listen(net, "ms", second)
    assert other["ok"] and [item["own"] for item in other["listening"]] == [False, False, True, True]
    assert other["listening"][0]["by"].startswith("python")
    assert collect(net, "ms", first)["ok"] and collect(net, "ms", second)["ok"]


def test_strangers_prove_nothing(net: Network) -> None:
    """Packets of another run, of nobody, to another receiver, changed or lying about themselves are not noted."""
    word = secrets.token_hex(16)
    assert listen(net, "ms", word)["ok"]
    run, other = _link_wire.Run(word), _link_wire.Run(secrets.token_hex(16))
    size = _link_wire.SMALLEST

    def message(by: _link_wire.Run, **changed: Any) -> bytes:
        fields = {
            "kind": _link_wire.PROBE, "protocol": 17, "port": 7946, "size": size, "attempt": 0,
            "sender": run.identity("wa"), "receiver": run.identity("ms"), **changed,
        }  # fmt: skip
        return by.message(**fields)

    right = message(run)
    wrong = [
        message(other),
        run.magic + message(other)[4:],
        right[:-1] + bytes([right[-1] ^ 1]),
        message(run, receiver=run.identity("wb")),
        message(run, port=4789),
        message(run, size=1500),
        message(run, protocol=50),
        message(run, kind=_link_wire.ANSWER),
        run.magic,
        b"",
    ]
    code = (
        "import socket, sys\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "for line in sys.stdin: s.sendto(bytes(8) + bytes.fromhex(line), ('10.88.0.11', 7946))"
    )

    def send(*data: bytes) -> None:
        process = subprocess.run(
            ["ip", "netns", "exec", f"{net.prefix}wa", sys.executable, "-c", code],
            input="".join(item.hex() + "\n" for item in data), text=True, check=True,
        )  # fmt: skip
        assert process.returncode == 0

    send(*wrong)
    assert collect(net, "ms", word)["seen"] == []
    assert listen(net, "ms", word)["ok"]
    send(right)
    seen = collect(net, "ms", word)["seen"]
    assert [(item["peer"], item["arrived"], item["delivered"]) for item in seen] == [("wa", 1, 1)]


def test_address_of_another_host(net: Network) -> None:
    word = secrets.token_hex(16)
    started = listen(net, "ms", word, address="203.0.113.9")
    assert started["ok"] and not started["address_local"] and all(item["own"] for item in started["listening"])
    assert socket.inet_aton(net.addresses["ms"])
    collect(net, "ms", word)
