# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab modules decide, without a machine."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.hbp.mip.plugins.module_utils import _lab, _lab_machine
from ansible_collections.hbp.mip.plugins.module_utils._lab import CgroupTree, LabError, Process

ROLE = Path(__file__).resolve().parents[4] / "roles/lab"
ROUTES = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	010200C0	0003	0	0	0	00000000	0	0	0
eth0	000200C0	00000000	0001	0	0	0	00FFFFFF	0	0	0
miplab1	00014D0A	00000000	0001	0	0	0	00FFFFFF	0	0	0
tun0	00004D0A	00000000	0001	0	0	0	00FEFFFF	0	0	0
"""


def machine(name: str = "lab-ms", last_byte: int = 11, **given: Any) -> _lab_machine.Machine:
    """A wanted machine."""
    return _lab_machine.Machine(
        name=name,
        last_byte=last_byte,
        kind=given.get("kind", ""),
        base=given.get("base", "/cache/b"),
        memory_mb=given.get("memory_mb", 0),
        binds=given.get("binds", ()),
    )


class TestNames:
    @pytest.mark.parametrize("name", ["lab", "a", "lab-2", "x" * 31])
    def test_usable_lab(self, name: str) -> None:
        assert _lab.lab_paths("/state", name).root("m") == f"/state/{name}/machines/m/root"

    @pytest.mark.parametrize("name", ["", "Lab", "2lab", "../etc", "a.b", "a/b", "x" * 32, "a\n", "lab "])
    def test_unusable_lab(self, name: str) -> None:
        with pytest.raises(LabError, match="lab name"):
            _lab.lab_paths("/state", name)

    @pytest.mark.parametrize("number", [1, 9, 10, 99, 100, 254])
    def test_interface_names_fit_the_kernel(self, number: int) -> None:
        net = _lab.network(number)
        assert len(net.bridge) <= 15
        assert all(len(net.veth(byte)) <= 15 for byte in (2, 99, 254))
        assert len({net.mac(byte) for byte in range(2, 255)}) == 253

    @pytest.mark.parametrize("number", [0, 255, -1])
    def test_no_such_network(self, number: int) -> None:
        with pytest.raises(LabError, match="1 to 254"):
            _lab.network(number)


class TestNumber:
    def test_routes_are_read(self) -> None:
        assert _lab.parse_routes(ROUTES) == [
            (ipaddress.IPv4Network("192.0.2.0/24"), "eth0"),
            (ipaddress.IPv4Network("10.77.1.0/24"), "miplab1"),
            (ipaddress.IPv4Network("10.77.0.0/23"), "tun0"),
        ]

    def test_lowest_free(self) -> None:
        routes = _lab.parse_routes(ROUTES)
        # tun0 has 10.77.0.0 to 10.77.1.255
        assert _lab.choose_number(routes, []) == 2
        assert _lab.choose_number(routes, [2, 3, 5]) == 4

    def test_own_bridge_is_no_conflict(self) -> None:
        routes = [(ipaddress.IPv4Network("10.77.1.0/24"), "miplab1")]
        assert _lab.choose_number(routes, [], 1) == 1

    def test_wanted_but_routed_elsewhere(self) -> None:
        routes = [(ipaddress.IPv4Network("10.0.0.0/8"), "vpn0")]
        with pytest.raises(LabError, match=r"this host routes 10\.0\.0\.0/8 through vpn0"):
            _lab.choose_number(routes, [], 7)

    def test_wanted_but_taken(self) -> None:
        with pytest.raises(LabError, match="another lab has it"):
            _lab.choose_number([], [7], 7)

    def test_nothing_free(self) -> None:
        with pytest.raises(LabError, match=r"no network 10\.77\.N\.0/24 is free"):
            _lab.choose_number([(ipaddress.IPv4Network("10.0.0.0/8"), "vpn0")], [])


class TestAddresses:
    def test_asked_for_kept_and_free(self) -> None:
        wanted: list[dict[str, Any]] = [{"name": "a", "last_byte": 11}, {"name": "b"}, {"name": "c", "last_byte": None}]
        assert _lab.assign_last_bytes(wanted, {"c": 101}) == {"a": 11, "b": 102, "c": 101}

    def test_address_of_a_removed_machine_is_not_given_again_in_the_same_call(self) -> None:
        assert _lab.assign_last_bytes([{"name": "new"}], {"old": 101}) == {"new": 102}

    def test_known_address_lost_to_one_that_asks_for_it(self) -> None:
        assert _lab.assign_last_bytes([{"name": "a"}, {"name": "b", "last_byte": 101}], {"a": 101}) == {"b": 101, "a": 102}

    @pytest.mark.parametrize(
        ("machines", "message"),
        [
            ([{"name": "a"}, {"name": "a"}], "listed twice"),
            ([{"name": "a", "last_byte": 1}], "2 to 254"),
            ([{"name": "a", "last_byte": 255}], "2 to 254"),
            ([{"name": "a", "last_byte": 9}, {"name": "b", "last_byte": 9}], "both want"),
            ([{"name": "A"}], "not usable"),
            ([{"name": "a.b"}], "not usable"),
            ([{"name": f"m{n}"} for n in range(155)], "no address is free"),
        ],
    )
    def test_refused(self, machines: list[dict[str, Any]], message: str) -> None:
        with pytest.raises(LabError, match=message):
            _lab.assign_last_bytes(machines, {})


class TestFiles:
    def test_written_once(self, tmp_path: Path) -> None:
        path = str(tmp_path / "a/b")
        assert _lab.write_file(path, "x", 0o600) is True
        assert _lab.write_file(path, "x", 0o600) is False
        assert _lab.write_file(path, "x", 0o644) is True
        assert (tmp_path / "a").iterdir().__next__().name == "b"

    def test_a_link_is_replaced_not_followed(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.write_text("host")
        link = tmp_path / "resolv.conf"
        link.symlink_to(outside)
        assert _lab.write_file(str(link), "machine") is True
        assert outside.read_text() == "host"
        assert not link.is_symlink()

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"a": '])
    def test_a_cut_off_record_counts_as_none(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "lab.json"
        path.write_text(text)
        assert _lab.read_json(str(path)) == {}

    def test_mounts_with_blanks(self) -> None:
        text = "36 35 98:0 / /mnt\\040a rw,noatime master:1 - ext4 /dev/root rw,lowerdir=/x\n37 36 0:5 / /y rw - overlay mip rw\n"
        assert _lab.parse_mounts(text) == [("/mnt a", "ext4", "rw,lowerdir=/x"), ("/y", "overlay", "rw")]

    def test_remove_tree_removes_a_link_not_its_target(self, tmp_path: Path) -> None:
        target = tmp_path / "target"
        target.mkdir()
        (tmp_path / "link").symlink_to(target)
        assert _lab.remove_tree(str(tmp_path / "link")) is True
        assert target.is_dir()
        assert _lab.remove_tree(str(tmp_path / "link")) is False


class TestLock:
    def test_second_waits_and_gives_up_with_a_reason(self, tmp_path: Path) -> None:
        folder = str(tmp_path / "lab")
        with _lab.locked(folder, 1, "lab 'x'"), pytest.raises(LabError, match=r"lab 'x' is being changed by another run"):
            with _lab.locked(folder, 0.2, "lab 'x'"):
                pass

    def test_a_folder_removed_meanwhile_is_made_again(self, tmp_path: Path) -> None:
        folder = tmp_path / "lab"
        held, done = threading.Event(), threading.Event()

        def down() -> None:
            with _lab.locked(str(folder), 1, "x"):
                held.set()
                time.sleep(0.2)
                folder.rmdir()
            done.set()

        thread = threading.Thread(target=down)
        thread.start()
        held.wait(5)
        with _lab.locked(str(folder), 5, "x"):
            assert folder.is_dir()
        thread.join()
        assert done.is_set()


class TestProcesses:
    paths = _lab.lab_paths("/state", "lab")
    script = "/state/lab/machines/lab-ms/run"

    def test_nothing(self) -> None:
        found = _lab_machine.running(self.paths, "lab-ms", [Process(1, 0, ("init",))])
        assert not found.any
        assert found.pids() == []

    def test_subshell_is_not_the_supervisor(self) -> None:
        table = [Process(10, 1, ("/bin/sh", self.script)), Process(11, 10, ("/bin/sh", self.script))]
        found = _lab_machine.running(self.paths, "lab-ms", table)
        assert found.supervisor == 10
        assert not found.on

    def test_nspawn_of_another_machine_is_not_ours(self) -> None:
        table = [
            Process(10, 1, ("/usr/bin/systemd-nspawn", "--quiet", "--directory=/state/lab/machines/lab-ms/root")),
            Process(20, 1, ("/usr/bin/systemd-nspawn", "--quiet", "--directory=/state/lab2/machines/lab-ms/root")),
            Process(30, 1, ("less", "--directory=/state/lab/machines/lab-ms/root")),
        ]
        assert _lab_machine.running(self.paths, "lab-ms", table).nspawn == (10,)

    def test_process_table_of_this_host(self) -> None:
        mine = next(process for process in _lab.processes() if process.pid == os.getpid())
        assert mine.parent == os.getppid()
        assert not _lab.is_pid_one(os.getpid())

    def test_daemon_outlives_its_parent(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        code = (
            "from ansible_collections.hbp.mip.plugins.module_utils import _lab;"
            f"_lab.spawn_daemon(['/bin/sh', '-c', 'sleep 0.5; echo $PPID; readlink /proc/self/fd/0; exit'], {str(log)!r})"
        )
        started = time.monotonic()
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        assert time.monotonic() - started < 5
        assert log.read_text() == ""
        assert _lab.wait_until(lambda: log.read_text().count("\n") == 2, 5)
        assert log.read_text().splitlines()[1] == "/dev/null"


class TestScript:
    def script(self, **given: Any) -> str:
        paths = _lab.lab_paths("/state", "lab")
        wanted = machine(**given)
        net = _lab.network(7)
        command = _lab_machine.nspawn_command(paths, wanted, net)
        return _lab_machine.machine_script("lab", wanted, net, ["/sys/fs/cgroup/a b"], {"X": "1 2"}, command, 1400)

    def test_is_shell(self) -> None:
        subprocess.run(["sh", "-n"], input=self.script(binds=("/a b:/c:ro",)), text=True, check=True)

    def test_binds(self) -> None:
        text = self.script(binds=("/a b:/c:ro", "/d:/e"))
        assert "'--bind-ro=/a b:/c'" in text
        assert "--bind=/d:/e" in text

    def test_holds_what_it_must(self) -> None:
        text = self.script()
        assert "ip -n lab.lab-ms address add 10.77.7.11/24" in text
        assert "ip link set miplab7-11 master miplab7 up" in text
        assert "mtu 1400" in text
        assert "--machine=miplab7-11 --hostname=lab-ms" in text
        assert "'/sys/fs/cgroup/a b'" in text
        assert "env 'X=1 2' " in text
        assert "--network-namespace-path=/run/netns/lab.lab-ms" in text
        assert "--bind=/state/lab/machines/lab-ms/docker:/var/lib/docker" in text
        assert "--drop-capability=CAP_SYS_TIME,CAP_SYS_MODULE" in text

    @pytest.mark.parametrize(("code", "boots"), [(133, 3), (0, 1), (1, 1)])
    def test_starts_again_only_for_a_reboot(self, tmp_path: Path, code: int, boots: int) -> None:
        """Runs the program with `ip` and the container runner replaced by ones that count."""
        tools = tmp_path / "bin"
        tools.mkdir()
        (tools / "ip").write_text("#!/bin/sh\nexit 0\n")
        runner = tools / "runner"
        runner.write_text(f'#!/bin/sh\necho boot >>{tmp_path}/boots\n[ "$(grep -c boot {tmp_path}/boots)" -lt 3 ] && exit {code}\nexit 0\n')
        for tool in tools.iterdir():
            tool.chmod(0o755)
        group = tmp_path / "group"
        group.mkdir()
        text = _lab_machine.machine_script("lab", machine(), _lab.network(7), [str(group)], {"X": "1"}, [str(runner)], 1500)
        text = text.replace("PATH=/usr/sbin", f"PATH={tools}:/usr/sbin")
        done = subprocess.run(["sh", "-c", text], check=False, timeout=20)
        assert (tmp_path / "boots").read_text().count("boot") == boots
        assert done.returncode == (0 if boots == 3 else code)

    def test_network_that_cannot_be_made_ends_it(self, tmp_path: Path) -> None:
        (tmp_path / "ip").write_text("#!/bin/sh\nexit 2\n")
        (tmp_path / "ip").chmod(0o755)
        text = _lab_machine.machine_script("lab", machine(), _lab.network(7), [], {}, ["false"], 1500)
        done = subprocess.run(["sh", "-c", text.replace("PATH=/usr/sbin", f"PATH={tmp_path}:/usr/sbin")], check=False, timeout=20)
        assert done.returncode == 1


class TestCgroups:
    hybrid = (CgroupTree("/sys/fs/cgroup/memory", False, ("memory",)), CgroupTree("/sys/fs/cgroup/unified", True, ()))
    unified = (CgroupTree("/sys/fs/cgroup", True, ("cpu", "memory")),)

    @pytest.mark.parametrize(
        ("version", "trees", "wanted"),
        [
            ("257.7-1", hybrid, True),
            ("256~rc1-2", hybrid, True),
            ("252.39-1~deb12u2", hybrid, False),
            ("257.7-1", unified, False),
            ("", hybrid, False),
        ],
    )
    def test_new_systemd_on_an_old_hierarchy(self, version: str, trees: tuple[CgroupTree, ...], wanted: bool) -> None:
        env = _lab_machine.environment({"versions": {"systemd": version}}, trees)
        assert ("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY" in env) is wanted

    def test_cpuset_is_filled_before_use(self, tmp_path: Path) -> None:
        for name, value in (("cpuset.cpus", "0-1\n"), ("cpuset.mems", "0\n")):
            (tmp_path / name).write_text(value)
        child = tmp_path / "mip-lab"
        child.mkdir()
        for name in ("cpuset.cpus", "cpuset.mems"):
            (child / name).write_text("\n")
        assert _lab.make_cgroup(CgroupTree(str(tmp_path), False, ("cpuset",)), "mip-lab") == str(child)
        assert (child / "cpuset.cpus").read_text() == "0-1"
        assert (child / "cpuset.mems").read_text() == "0"

    def test_controllers_are_handed_down(self, tmp_path: Path) -> None:
        (tmp_path / "cgroup.subtree_control").write_text("")
        (tmp_path / "a").mkdir()
        (tmp_path / "a/cgroup.subtree_control").write_text("")
        _lab.make_cgroup(CgroupTree(str(tmp_path), True, ("memory",)), "a/b")
        assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory"
        assert (tmp_path / "a/cgroup.subtree_control").read_text() == "+memory"
        assert not (tmp_path / "a/b/cgroup.subtree_control").exists()


class TestPlan:
    def base(self, path: Path) -> str:
        path.mkdir(parents=True)
        (path / "base.json").write_text('{"docker": true}')
        return str(path)

    def test_no_base(self, tmp_path: Path) -> None:
        with pytest.raises(LabError, match=r"is no base; hbp\.mip\.lab_base makes one"):
            _lab_machine.plan_machines(_lab.lab_paths(str(tmp_path), "lab"), [{"name": "a"}], str(tmp_path / "none"))

    def test_a_machine_is_not_moved_to_another_base_or_address(self, tmp_path: Path) -> None:
        paths = _lab.lab_paths(str(tmp_path / "state"), "lab")
        one, two = self.base(tmp_path / "one"), self.base(tmp_path / "two")
        _lab_machine.record_machines(paths, [machine("a", 11, base=one)], _lab.network(1))
        _lab.write_json(os.path.join(paths.machine("a"), "machine.json"), {"name": "a"})
        assert _lab_machine.plan_machines(paths, [{"name": "a"}], one)[0].last_byte == 11
        with pytest.raises(LabError, match=r"machine 'a' was made with base .*one, wanted is .*two.*mipfed lab down --name lab"):
            _lab_machine.plan_machines(paths, [{"name": "a"}], two)
        with pytest.raises(LabError, match="last_byte 11, wanted is 12"):
            _lab_machine.plan_machines(paths, [{"name": "a", "last_byte": 12}], one)

    def test_a_half_made_machine_may_be_anything(self, tmp_path: Path) -> None:
        paths = _lab.lab_paths(str(tmp_path / "state"), "lab")
        one, two = self.base(tmp_path / "one"), self.base(tmp_path / "two")
        _lab_machine.record_machines(paths, [machine("a", 11, base=one)], _lab.network(1))
        assert _lab_machine.plan_machines(paths, [{"name": "a"}], two)[0].base == two

    def test_record(self, tmp_path: Path) -> None:
        paths = _lab.lab_paths(str(tmp_path / "state"), "lab")
        base = self.base(tmp_path / "b")
        one, two = machine("a", 11, base=base, memory_mb=5, binds=("/x:/y",)), machine("b", 12, base=base)
        _lab_machine.record_machines(paths, [one, two], _lab.network(3))
        _lab_machine.record_machines(paths, [one], _lab.network(3), ["b"])
        entries = _lab_machine.load(paths)["machines"]
        assert list(entries) == ["a"]
        assert entries["a"]["address"] == "10.77.3.11"
        assert _lab_machine.recorded_machine("a", entries["a"]) == one

    def test_numbers_of_other_labs(self, tmp_path: Path) -> None:
        for name, text in (("a", '{"number": 4}'), ("b", "{"), ("c", '{"number": 6}')):
            (tmp_path / name).mkdir()
            (tmp_path / name / "lab.json").write_text(text)
        assert sorted(_lab_machine.other_numbers(_lab.lab_paths(str(tmp_path), "c"))) == [4]


class TestFirewall:
    def test_only_what_the_lab_needs(self) -> None:
        rules = [" ".join(rule) for rule in _lab_machine.firewall_rules(_lab.network(2), [5000, 5001])]
        assert rules[0] == "FORWARD -i miplab2 -o miplab2 -j ACCEPT"
        assert "INPUT -i miplab2 -d 10.77.2.1 -p tcp --dport 5001 -j ACCEPT" in rules
        assert all("miplab2" in rule for rule in rules)


def test_fingerprint_is_what_ssh_keygen_says(tmp_path: Path) -> None:
    key = tmp_path / "ssh/key"
    _lab_machine.make_key(str(key), "comment")
    _lab_machine.make_key(str(key), "another")
    public = (tmp_path / "ssh/key.pub").read_text()
    assert public.split()[2] == "comment"
    shown = subprocess.run(["ssh-keygen", "-lf", str(key)], capture_output=True, text=True, check=True).stdout
    assert _lab_machine.fingerprint(public) == shown.split()[1]
    assert key.stat().st_mode & 0o777 == 0o600
    assert _lab_machine.fingerprint("") == ""


def test_everything_missing_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(_lab.NEEDED_FILES, "mmdebstrap", (str(tmp_path / "keyring"), "debian-archive-keyring"))
    problems = "; ".join(_lab.missing_requirements(["systemd-nspawn", "mmdebstrap", "ip"], 1e9, 10**9, str(tmp_path / "not/yet")))
    assert "apt-get install --yes debian-archive-keyring iproute2 mmdebstrap systemd-container" in problems
    assert "GB free, a lab needs 1000000000.0 GB" in problems
    assert "MB of memory are available" in problems


def test_role_defaults_are_those_of_its_specification() -> None:
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    for entry in yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"].values():
        assert {name: option["default"] for name, option in entry["options"].items()} == defaults


class TestWatches:
    def test_machines_of_all_labs_count(self, tmp_path: Path) -> None:
        for lab, names in (("lab", ("a", "b", "c")), ("other", ("d", "e"))):
            for name in names:
                (tmp_path / lab / "machines" / name).mkdir(parents=True)
        assert _lab.watches_wanted(str(tmp_path), "lab", 10) == 128 + 8 * 12
        assert _lab.watches_wanted(str(tmp_path / "none"), "lab", 1) == 136

    def test_a_limit_is_raised_and_never_lowered(self, tmp_path: Path) -> None:
        limit = tmp_path / "limit"
        limit.write_text("128\n")
        assert "from 128 to 200" in str(_lab.allow_watches(200, True, str(limit)))
        assert limit.read_text() == "128\n"
        assert _lab.allow_watches(200, False, str(limit))
        assert limit.read_text() == "200"
        assert _lab.allow_watches(150, False, str(limit)) is None
        assert _lab.allow_watches(150, False, str(tmp_path / "none")) is None

    def test_what_cannot_be_raised_names_the_command(self, tmp_path: Path) -> None:
        with pytest.raises(LabError, match=r"sysctl fs\.inotify\.max_user_instances=999999"):
            _lab.allow_watches(999999, False, "/proc/sys/fs/inotify/../overflowuid")
