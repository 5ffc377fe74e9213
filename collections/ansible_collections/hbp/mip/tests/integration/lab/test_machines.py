# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lab machines: what they can, what survives, and what is left."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _lab, _lab_machine
from ansible_collections.hbp.mip.tests.helpers.modules import COLLECTIONS, run_module
from ansible_collections.hbp.mip.tests.integration.lab.conftest import Lab, succeed, until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

#: a container image of the machine's own shell and C library
IMAGE = (
    "tar -C / -ch bin/sh bin/sleep bin/cat $(ldd /bin/sh /bin/sleep /bin/cat | grep -o '/lib[^ ]*' | sort -u | cut -c2-)"
    " | docker import - shell:1"
)


def host_state(lab: str) -> dict[str, list[str]]:
    """Everything on this host that carries the lab's name or could."""

    def out(*command: str) -> list[str]:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()

    number = _lab.read_json(f"/var/lib/mip-lab/{lab}/lab.json").get("number", 0)
    marks = [f"mip-lab/{lab}", f"{lab}.", f"miplab{number}"] if number else [f"mip-lab/{lab}", f"{lab}."]

    def ours(lines: list[str]) -> list[str]:
        return [line for line in lines if any(mark in line for mark in marks)]

    return {
        "mounts": ours([point + " " + options for point, _kind, options in _lab.mounts()]),
        "namespaces": ours([path.name for path in Path("/run/netns").glob("*")]),
        "links": ours(out("ip", "-o", "link")),
        "rules": ours(out("ip", "rule")),
        "firewall": ours(out("iptables", "-S")) if shutil.which("iptables") else [],
        "cgroups": ours([str(path) for tree in _lab.cgroup_trees() for path in Path(tree.path, "mip-lab").rglob("*") if path.is_dir()]),
        "processes": ours([" ".join(process.argv) for process in _lab.processes() if "pytest" not in " ".join(process.argv)]),
        "nspawn": ours([str(path) for path in Path("/run/systemd/nspawn").rglob("miplab*")]),
        "files": [str(path) for path in Path("/var/lib/mip-lab").glob(lab)],
    }


class TestMachine:
    def test_is_a_whole_debian(self, lab: Lab) -> None:
        until(lambda: lab.ssh("a", "systemctl is-system-running || true") == "running")
        assert lab.ssh("a", "hostname") == f"{lab.name}-a"
        assert lab.ssh("a", "cat /etc/machine-id") != lab.ssh("b", "cat /etc/machine-id")
        assert lab.made["a"]["host_key"] != lab.made["b"]["host_key"]
        assert lab.ssh("a", "ip -4 -o route get 192.0.2.99 | grep -o 'dev eth0'") == "dev eth0"

    def test_second_call_changes_nothing_and_is_quick(self, lab: Lab) -> None:
        started = time.monotonic()
        result = lab.up("a", "b")
        assert not result.changed
        assert result["actions"] == []
        assert time.monotonic() - started < 4
        assert not lab.up("a", "b", check=True).changed

    def test_root_comes_in_with_the_key_only(self, lab: Lab) -> None:
        done = lab.try_ssh("a", "true", options=("-o", "PubkeyAuthentication=no", "-v"))
        assert done.returncode == 255
        assert b"Permission denied" in done.stderr

    def test_names(self, lab: Lab) -> None:
        assert lab.ssh("a", f"getent hosts {lab.name}-b").split()[0] == lab.made["b"]["address"]
        started = time.monotonic()
        assert lab.try_ssh("a", "getent hosts registry-1.docker.io").returncode == 2
        assert time.monotonic() - started < 3

    def test_no_way_out(self, lab: Lab) -> None:
        """To anywhere else a connection fails at once, and never gets through."""
        probe = (
            "import socket,time; t=time.time(); s=socket.socket(); s.settimeout(10);"
            " print(s.connect_ex(('203.0.113.9',80)), time.time()-t<9)"
        )
        code, quick = lab.ssh("a", f'python3 -c "{probe}"').split()
        assert int(code) != 0
        assert quick == "True"

    def test_runs_containers(self, lab: Lab) -> None:
        lab.ssh("a", IMAGE)
        assert lab.ssh("a", "docker run --rm --network none shell:1 /bin/sh -c 'echo from a container'") == "from a container"
        assert lab.ssh("a", "docker info --format '{{.Driver}}'") == "overlay2"

    def test_does_not_touch_the_host(self, lab: Lab) -> None:
        """The clock and the kernel's settings are the host's; the network's are the machine's."""
        assert lab.try_ssh("a", "date -s '2001-01-01'").returncode != 0
        before = Path("/proc/sys/net/ipv4/ip_forward").read_text()
        lab.ssh("b", "sysctl -w net.ipv4.ip_forward=1; sysctl -w net.ipv4.ip_forward=0")
        assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == before

    def test_packages_without_a_network(self, lab: Lab) -> None:
        lab.ssh("b", "apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes acl")
        assert "acl" in lab.ssh("b", "dpkg-query -W acl")

    def test_info(self, lab: Lab) -> None:
        info = lab.info()
        assert {name: (machine["power"], machine["ssh"], machine["engine"]) for name, machine in info.items()} == {
            "a": ("on", True, True),
            "b": ("on", True, True),
        }
        report = succeed("lab_info", lab=lab.name)["mip_report"]
        assert report["data"]["machines"][0]["name"] == f"{lab.name}-a"
        assert succeed("lab_info", lab="no-such-lab")["mip_report"]["data"]["name"] == "no-such-lab"

    def test_memory_limit(self, empty_lab: Lab) -> None:
        empty_lab.up("m", memory_mb=300)
        for tree in _lab.cgroup_trees():
            for name in ("memory.max", "memory.limit_in_bytes"):
                path = Path(tree.path, "mip-lab", empty_lab.name, f"{empty_lab.name}-m", name)
                if path.exists():
                    assert int(path.read_text()) == 300 << 20
                    return
        pytest.skip("this host has no memory controller")


class TestPower:
    def test_reboot_from_inside(self, lab: Lab) -> None:
        before = lab.boot_id("a")
        lab.ssh("a", "ip link add left-over type bridge")
        lab.try_ssh("a", "reboot")
        until(lambda: lab.boot_id("a") not in (before, 0) and lab.info()["a"]["engine"], 60)
        # a fresh network, as after a real boot
        assert lab.try_ssh("a", "ip link show left-over").returncode != 0

    def test_kill_on_off(self, lab: Lab) -> None:
        assert lab.power("kill", "a").changed
        assert not lab.power("kill", "a").changed
        assert lab.info()["a"]["power"] == "off"
        assert lab.info()["b"]["power"] == "on"
        assert not _lab.ask_tcp(lab.made["a"]["address"], 22)
        assert lab.power("on", "a").changed
        assert not lab.power("on", "a").changed
        assert lab.info()["a"]["engine"]
        lab.ssh("a", "touch /root/kept")
        assert lab.power("off", "a", "b").changed
        assert not lab.power("off", "a", "b").changed
        assert {machine["power"] for machine in lab.info().values()} == {"off"}
        assert lab.power("on", "a", "b").changed
        lab.ssh("a", "test -e /root/kept")

    def test_reboot_from_outside(self, lab: Lab) -> None:
        before = lab.boot_id("b")
        assert lab.power("reboot", "b").changed
        assert lab.boot_id("b") not in (before, 0)

    def test_halted_from_inside_is_started_by_the_next_call(self, lab: Lab) -> None:
        lab.try_ssh("b", "poweroff")
        until(lambda: lab.info()["b"]["power"] == "off", 60)
        assert lab.up("a", "b")["actions"] == [f"{lab.name}-b: started"]

    def test_no_such_machine(self, lab: Lab) -> None:
        result = run_module("lab_machine_power", {"lab": lab.name, "machines": ["nobody"], "state": "on"})
        assert result.failed
        assert f"it has: {lab.name}-a, {lab.name}-b" in result.msg


class TestRepair:
    @pytest.mark.parametrize("damage", ["supervisor", "container", "cable", "bridge", "rule", "resolver", "firewall"])
    def test_of_what_was_taken_away(self, lab: Lab, damage: str) -> None:
        paths = _lab.lab_paths("/var/lib/mip-lab", lab.name)
        net = _lab.network(_lab_machine.load(paths)["number"])
        found = _lab_machine.running(paths, f"{lab.name}-a")
        if damage == "supervisor":
            assert found.supervisor
            os.kill(found.supervisor, signal.SIGKILL)
        elif damage == "container":
            assert found.leader
            os.kill(found.leader, signal.SIGKILL)
            until(lambda: not _lab_machine.running(paths, f"{lab.name}-a").any)
        elif damage == "cable":
            _lab.run(["ip", "link", "delete", lab.made["a"]["veth"]])
        elif damage == "bridge":
            _lab.run(["ip", "link", "delete", net.bridge])
        elif damage == "rule":
            _lab_machine.remove_rule(net)
        elif damage == "firewall":
            if not shutil.which("iptables"):
                pytest.skip("this host has no iptables")
            _lab_machine.remove_firewall(net, [])
        else:
            _lab.kill(_lab_machine.resolver_pids(paths, net))
            until(lambda: not _lab_machine.resolver_pids(paths, net))
        assert lab.up("a", "b", check=True).changed
        assert lab.up("a", "b").changed
        assert not lab.up("a", "b").changed
        assert lab.ssh("a", f"getent hosts {lab.name}-b").split()[0] == lab.made["b"]["address"]
        assert lab.ssh("a", f"ping -c 1 -W 3 {lab.made['b']['address']} >/dev/null && echo there") == "there"

    @pytest.mark.parametrize("seconds", [0.3, 0.5, 0.7, 0.9, 1.2, 1.8])
    def test_after_a_killed_run(self, empty_lab: Lab, seconds: float) -> None:
        """Kills the module after some time, wherever it is then; the next call makes all well."""
        empty_lab.name = f"{empty_lab.name}k"
        start = (
            "import runpy, ansible.module_utils.basic as basic;"
            "setattr(basic, '_ANSIBLE_PROFILE', 'legacy') if hasattr(basic, '_ANSIBLE_PROFILE') else None;"
            "runpy.run_module('ansible_collections.hbp.mip.plugins.modules.lab_machines', run_name='__main__', alter_sys=True)"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", start],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(COLLECTIONS)},
        )
        assert process.stdin
        process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": empty_lab.wanted("a", "b", "c")}).encode())
        process.stdin.close()
        time.sleep(seconds)
        process.kill()
        process.wait()
        empty_lab.up("a", "b", "c")
        assert not empty_lab.up("a", "b", "c").changed
        assert {machine["ssh"] for machine in empty_lab.info().values()} == {True}

    @pytest.mark.parametrize("seconds", [0.5, 0.9])
    def test_a_killed_run_can_be_removed(self, empty_lab: Lab, seconds: float) -> None:
        code = (
            "from ansible_collections.hbp.mip.plugins.module_utils import _lab_machine;"
            f"_lab_machine.bring_up({empty_lab.name!r}, '/var/lib/mip-lab', [{{'name': 'k-a'}}, {{'name': 'k-b'}}], {empty_lab.base!r})"
        )
        process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(COLLECTIONS)})
        time.sleep(seconds)
        process.kill()
        process.wait()
        empty_lab.down()
        assert not any(host_state(empty_lab.name).values())


class TestLab:
    def test_machines_come_and_go(self, empty_lab: Lab) -> None:
        assert empty_lab.up("a", check=True).changed
        assert not succeed("lab_info", lab=empty_lab.name)["exists"]
        empty_lab.up("a")
        address = empty_lab.made["a"]["address"]
        result = empty_lab.up("a", "b")
        assert result["actions"] == [f"{empty_lab.name}-b: created"]
        assert empty_lab.made["a"]["address"] == address
        assert empty_lab.ssh("a", f"getent hosts {empty_lab.name}-b")
        assert empty_lab.up("b")["actions"] == [f"{empty_lab.name}-a: removed"]
        assert list(empty_lab.info()) == ["b"]

    def test_side_by_side(self, lab: Lab, empty_lab: Lab) -> None:
        empty_lab.up("a")
        other = empty_lab.made["a"]["address"]
        assert other.rsplit(".", 1)[0] != lab.made["a"]["address"].rsplit(".", 1)[0]
        assert lab.try_ssh("a", f"ping -c 1 -W 2 {other}").returncode != 0
        assert lab.try_ssh("a", f"getent hosts {empty_lab.name}-a").returncode == 2
        empty_lab.down()
        lab.ssh("a", "true")

    def test_down_leaves_nothing(self, empty_lab: Lab) -> None:
        empty_lab.up("a", "b")
        empty_lab.ssh("a", IMAGE)
        empty_lab.ssh("a", "docker run -d --restart always shell:1 /bin/sleep 1000")
        before = host_state(empty_lab.name)
        assert all(before[kind] for kind in ("mounts", "namespaces", "links", "rules", "cgroups", "processes", "files")), before
        number = before["links"][0]
        assert succeed("lab_machines", check=True, lab=empty_lab.name, state="absent", host_ports=[]).changed
        assert host_state(empty_lab.name)["processes"]
        assert empty_lab.down().changed
        assert not empty_lab.down().changed
        after = host_state(empty_lab.name)
        assert not any(after.values()), after
        bridge = re.search(r"miplab\d+", number)
        assert bridge
        for text in (_lab.run(["ip", "-o", "link"]), _lab.run(["ip", "rule"])):
            assert not re.search(rf"{bridge.group()}\b", text)

    def test_refused_base(self, empty_lab: Lab, tmp_path: Path) -> None:
        result = run_module("lab_machines", {"lab": empty_lab.name, "base": str(tmp_path), "machines": [{"name": "x"}]})
        assert result.failed
        assert "is no base" in result.msg

    def test_network_of_someone_else(self, empty_lab: Lab) -> None:
        _lab.run(["ip", "link", "add", "itbridge", "type", "bridge"])
        try:
            _lab.run(["ip", "address", "add", "10.77.200.7/24", "dev", "itbridge"])
            _lab.run(["ip", "link", "set", "itbridge", "up"])
            result = run_module("lab_machines", {**empty_lab.wanted("a"), "number": 200})
            assert result.failed
            assert "this host routes 10.77.200.0/24 through itbridge" in result.msg
        finally:
            _lab.run(["ip", "link", "delete", "itbridge"])

    def test_a_machine_that_does_not_come_up_is_explained(self, empty_lab: Lab) -> None:
        result = run_module("lab_machines", empty_lab.wanted("a", binds=["/no/such/folder:/x"]))
        assert result.failed
        assert f"{empty_lab.name}-a (no power; " in result.msg
        assert "/no/such/folder" in result.msg

    def test_inventory(self, lab: Lab, tmp_path: Path) -> None:
        path = tmp_path / "inventory"
        arguments: dict[str, Any] = {"lab": lab.name, "path": str(path)}
        states = [succeed("lab_inventory", check=check, **arguments).changed for check in (True, False, False, True)]
        assert states == [True, True, False, False]
        assert (path / "ssh/id_ed25519").stat().st_mode & 0o777 == 0o600
        variables = path / "group_vars/all/main.yml"
        variables.write_text(variables.read_text() + "mip_data_root: /srv\n")
        assert not succeed("lab_inventory", **arguments).changed
        assert succeed("lab_inventory", state="absent", **arguments).changed
        assert not path.exists()


@pytest.mark.parametrize("suite", ["bullseye", "trixie"])
def test_other_suites(bases: Callable[..., str], empty_lab: Lab, suite: str) -> None:
    empty_lab.base = bases(suite)
    empty_lab.up("a")
    assert suite in empty_lab.ssh("a", "cat /etc/os-release")
    empty_lab.ssh("a", IMAGE)
    assert empty_lab.ssh("a", "docker run --rm --network none shell:1 /bin/sh -c 'echo from a container'") == "from a container"
    before = empty_lab.boot_id("a")
    empty_lab.power("reboot", "a")
    assert empty_lab.boot_id("a") != before


def test_bare_machine_gets_docker_without_a_network(bases: Callable[..., str], empty_lab: Lab) -> None:
    empty_lab.base = bases(docker=False)
    empty_lab.up("a")
    assert empty_lab.try_ssh("a", "command -v dockerd").returncode != 0
    empty_lab.ssh("a", "DEBIAN_FRONTEND=noninteractive apt-get install --yes docker.io python3-docker")
    assert empty_lab.ssh("a", "docker info --format '{{.Driver}}'") == "overlay2"
    assert empty_lab.ssh("a", "python3 -c 'import docker; print(docker.APIClient().ping())'") == "True"


class TestBase:
    def test_killed_build_is_cleaned_up(self, bases: Callable[..., str], tmp_path: Path) -> None:
        """A build killed in the middle leaves no process, and the next one removes its files."""
        cache = tmp_path / "cache"
        code = (
            "from ansible_collections.hbp.mip.plugins.module_utils import _lab_base as b;"
            f"b.build({str(cache)!r}, b.recipe('bookworm', False), 300)"
        )
        process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(COLLECTIONS)})
        until(lambda: bool(list(cache.glob("bases/.building-*/rootfs/*"))), 60)
        time.sleep(1)
        process.kill()
        process.wait()
        until(lambda: not [p for p in _lab.processes() if str(cache) in " ".join(p.argv)], 20)
        left = list(cache.glob("bases/.building-*"))
        assert left
        assert succeed("lab_base", state="absent", cache_dir=str(cache)).changed
        assert not list(cache.glob("bases/.b*"))
        with contextlib.suppress(FileNotFoundError):
            _lab.remove_tree(str(cache))

    def test_unreachable_mirror(self, bases: Callable[..., str], tmp_path: Path) -> None:
        result = run_module("lab_base", {"cache_dir": str(tmp_path), "mirror": "http://127.0.0.1:9/debian", "docker": False})
        assert result.failed
        assert "is the Debian mirror reachable?" in result.msg
        assert not list(tmp_path.glob("bases/.building-*"))

    def test_base_in_use_is_kept(self, lab: Lab) -> None:
        assert lab.base in succeed("lab_base", check=True, state="absent")["kept"]
