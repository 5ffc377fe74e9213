# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host opens and closes, and the files that say so; the kernel's own nftables looks at each guard."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _firewall, _firewall_host
from ansible_collections.hbp.mip.tests.unit.plugins.modules.module_process import run_module
from ansible_collections.hbp.mip.tests.unit.plugins.modules.test_host_modules_pythons import VERSIONS, interpreter

PEERS = [{"name": "ms", "address": "10.0.0.10"}, {"name": "wk-2", "address": "10.0.0.9"}]
ENGINE = {"port": 9090, "allow": ["10.0.0.20", "10.9.0.0/24"], "why": "the engine"}

needs_nft = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nft", path=_firewall_host._PATH), reason="needs root and nft")


def wanted(**options: Any) -> _firewall.Settings:
    return _firewall.settings({"name": "brain", "address": "10.0.0.11", "peers": PEERS, **options})


class TestSettings:
    def test_peers_are_sorted_by_address_and_never_oneself(self) -> None:
        found = wanted(peers=[*PEERS, {"name": "me", "address": "10.0.0.11"}])
        assert [peer.name for peer in found.peers] == ["wk-2", "ms"]

    def test_networks_are_joined(self) -> None:
        allow = ["10.9.0.128/25", "10.9.0.0/25", "10.9.0.7", "10.0.0.20/32"]
        assert wanted(published=[{"port": 1, "allow": allow}]).published[0].allow == ("10.0.0.20", "10.9.0.0/24")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"name": "Brain"}, "not a federation's name"),
            ({"address": "host"}, "address: 'host' is not an IPv4 address"),
            ({"peers": [{"name": "a", "address": "fe80::1"}]}, "peers[0] (a): 'fe80::1'"),
            ({"peers": [*PEERS, {"name": "b", "address": "10.0.0.9"}]}, "also the address of wk-2"),
            ({"published": [{"port": 70000}]}, "published[0]: 70000 is not a port"),
            ({"published": [{"port": 80, "allow": ["10.0.0.1/24"]}]}, "published[0].allow: '10.0.0.1/24'"),
            ({"published": [{"port": 7946}]}, "7946/tcp is a port of the swarm itself"),
            ({"published": [{"port": 4790, "proto": "udp"}], "data_path_port": 4790}, "4790/udp is a port of the swarm"),
            ({"published": [{"port": 80}, {"port": 80}]}, "80/tcp is there twice"),
            ({"data_path_port": 7946}, "gossip"),
            ({"ipsec_others": ["gateway"]}, "ipsec_others: 'gateway'"),
        ],
    )
    def test_what_is_wrong_is_said(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(_firewall.ConfigError) as error:
            wanted(**options)
        assert words in str(error.value)

    def test_everything_that_is_wrong_is_said_at_once(self) -> None:
        with pytest.raises(_firewall.ConfigError) as error:
            wanted(address="x", published=[{"port": 0, "allow": ["y"]}])
        assert str(error.value).count(";") == 2

    def test_record_gives_the_same_settings(self) -> None:
        found = wanted(kind="master", published=[ENGINE], ipsec_others=["2001:db8::1"], encrypted=False, data_path_port=4790)
        assert _firewall.settings(_firewall.to_json(found)) == found


class TestRules:
    @staticmethod
    def ports(**options: Any) -> set[tuple[str, int]]:
        return {(rule.proto, rule.port) for rule in _firewall.rules(wanted(**options))}

    def test_each_kind_opens_what_it_needs(self) -> None:
        worker = {("tcp", 7946), ("udp", 7946), ("udp", 4789), ("esp", 0)}
        assert self.ports() == worker
        assert self.ports(manager=True) == self.ports(kind="master") == worker | {("tcp", 2377)}
        assert self.ports(encrypted=False) == worker - {("esp", 0)}
        assert self.ports(data_path_port=5000) == worker - {("udp", 4789)} | {("udp", 5000)}
        assert self.ports(kind="ui") == set()
        assert self.ports(kind="ui", published=[ENGINE]) == {("tcp", 9090)}
        assert not wanted(kind="ui").guarded and wanted(kind="ui", published=[ENGINE]).guarded

    @pytest.mark.parametrize(
        ("port", "source", "reason"),
        [
            (22, "192.0.2.1", ""),
            (22, "2001:db8::1", ""),
            (9090, "10.0.0.20", ""),
            (9090, "::ffff:10.9.0.3", ""),
            (9090, "127.0.0.1", ""),
            (9090, "10.0.0.9", "TCP port 9090 is open to 10.0.0.20, 10.9.0.0/24 only"),
            (9090, "2001:db8::1", "TCP port 9090 is closed over IPv6"),
            (7946, "10.0.0.9", ""),
            (7946, "10.0.0.8", "TCP port 7946 is open to the peers only"),
            (7946, "2001:db8::1", "TCP port 7946 is closed over IPv6"),
            (2377, "10.0.0.9", "TCP port 2377 is closed on a node that is no manager"),
        ],
    )
    def test_what_would_be_cut(self, port: int, source: str, reason: str) -> None:
        assert _firewall.blocked(wanted(published=[ENGINE]), port, source) == reason

    def test_the_report_names_the_peers(self) -> None:
        report = _firewall.report(wanted(published=[ENGINE, {"port": 8500}]), "ufw")
        allowed = {(rule["proto"], rule["port"]): rule for rule in report if rule["action"] == "allow"}
        assert allowed["tcp", 7946]["from"] == ["wk-2 (10.0.0.9)", "ms (10.0.0.10)"]
        assert allowed["tcp", 9090]["from"] == ["10.0.0.20", "10.9.0.0/24"] and allowed["tcp", 9090]["enforced_by"] == ["ufw", "guard"]
        assert allowed["tcp", 8500]["from"] == []
        assert "allow 8500/tcp from nobody (published port)" in _firewall.lines(wanted(published=[{"port": 8500}]), "none")


@needs_nft
class TestGuard:
    CASES: ClassVar[list[dict[str, Any]]] = [
        {},
        {"kind": "master", "published": [ENGINE, {"port": 8500}, {"port": 53, "proto": "udp", "allow": ["0.0.0.0/0"]}]},
        {"peers": []},
        {"encrypted": False, "data_path_port": 4790},
        {"kind": "ui", "published": [ENGINE]},
        {"ipsec_others": ["192.0.2.1", "2001:db8::1"], "name": "a-b-c"},
    ]

    @pytest.mark.parametrize("options", CASES, ids=str)
    def test_the_kernel_takes_it_whatever_it_lacks(self, options: dict[str, Any]) -> None:
        settings = wanted(**options)
        for count in range(len(_firewall.FEATURES) + 1):
            for features in itertools.combinations(_firewall.FEATURES, count):
                text = _firewall.guard(settings, features)
                listed = _firewall_host.canonical_guard(text, settings.name)
                assert ("fib daddr" in listed) == ("fib" in features)
                assert not ("meta ipsec" in listed and "ipsec" not in features)

    def test_is_replaced_in_one_step_and_lists_the_same(self) -> None:
        first, second = _firewall.guard(wanted(published=[ENGINE])), _firewall.guard(wanted(peers=PEERS[:1]))
        listing = ["nft", "-s", "list", "ruleset"]
        load = ["nft", "-f", "-"]
        done = _firewall_host.in_namespace([(load, first), (load, second), (listing, "")])
        assert done[-1].out.strip() == _firewall_host.canonical_guard(second, "brain").strip()
        gone = _firewall_host.in_namespace([(load, first), (load, _firewall.no_guard("brain")), (listing, "")])
        assert [item.code for item in gone] == [0, 0, 0] and gone[-1].out == ""
        # also where there is none
        assert _firewall_host.in_namespace([(load, _firewall.no_guard("brain"))])[-1].code == 0

    def test_the_order_of_peers_does_not_matter(self) -> None:
        many = [{"name": f"n{number}", "address": f"10.1.{number % 7}.{number}"} for number in range(1, 60)]
        one = _firewall_host.canonical_guard(_firewall.guard(wanted(peers=many)), "brain")
        assert one == _firewall_host.canonical_guard(_firewall.guard(wanted(peers=many[::-1])), "brain")

    def test_only_a_master_speaks_of_management_to_the_peers(self) -> None:
        assert "ip saddr != @peers tcp dport 2377" in _firewall.guard(wanted(manager=True))
        assert "    tcp dport 2377 counter drop" in _firewall.guard(wanted())
        assert "@peers" not in _firewall.guard(wanted(kind="ui", published=[ENGINE]))
        assert "meta ipsec" not in _firewall.guard(wanted(encrypted=False)) and "skuid" not in _firewall.guard(wanted(encrypted=False))

    def test_features_of_this_kernel(self) -> None:
        features = _firewall_host.kernel_features(_firewall.guard(wanted(published=[ENGINE])), "brain")
        assert set(features) == set(_firewall.FEATURES)
        for feature, state in features.items():
            loads = _firewall_host.in_namespace([(["nft", "-f", "-"], _firewall.feature_probe(feature))])[-1].code == 0
            assert state["ok"] == loads

    def test_a_kernel_without_one_feature(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = _firewall_host.run

        def refusing(command: Any, stdin: str = "", timeout: float = 30) -> _firewall_host.Done:
            if "meta ipsec" in stdin:
                return _firewall_host.Done(1, "", "/dev/stdin:4:1-9: Error: Could not process rule: No such file or directory\n ^^^^")
            return real(command, stdin, timeout)

        monkeypatch.setattr(_firewall_host, "run", refusing)
        features = _firewall_host.kernel_features(_firewall.guard(wanted()), "brain")
        assert [feature for feature, state in features.items() if not state["ok"]] == ["ipsec"]
        none = _firewall_host.Backend("none", False, "")
        problem = _firewall_host.problems(wanted(), none, features)[0]
        assert problem.code == "firewall-kernel-ipsec" and "Could not process rule" in problem.message


UFW = """*filter
:ufw-user-input - [0:0]
:ufw-user-output - [0:0]
:ufw-user-forward - [0:0]
:ufw-user-limit - [0:0]
:ufw-user-limit-accept - [0:0]
### RULES ###

### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in
-A ufw-user-input -p tcp --dport 22 -j ACCEPT

### tuple ### deny any any 0.0.0.0/0 any 10.0.0.0/8 in comment=6d697020666f7265766572
-A ufw-user-input -s 10.0.0.0/8 -j DROP

### END RULES ###
-A ufw-user-limit -m limit --limit 3/minute -j LOG --log-prefix "[UFW LIMIT BLOCK] "
-A ufw-user-limit -j REJECT
-A ufw-user-limit-accept -j ACCEPT
COMMIT
"""


class TestUfw:
    def test_ours_come_first_and_go_without_a_trace(self) -> None:
        rules = _firewall.ufw_rules(wanted(kind="master", published=[ENGINE]))
        made = _firewall.ufw_file(UFW, "brain", rules)
        assert made.index("-s 10.0.0.9 -j ACCEPT") < made.index("-p tcp --dport 22")
        assert _firewall.ufw_file(made, "brain", rules) == made
        assert _firewall.ufw_file(made, "brain", []) == UFW
        fewer = _firewall.ufw_rules(wanted(kind="master", peers=PEERS[:1], published=[ENGINE]))
        assert _firewall.ufw_file(made, "brain", fewer) == _firewall.ufw_file(UFW, "brain", fewer)

    def test_another_federation_keeps_its_rules(self) -> None:
        other = _firewall.ufw_file(UFW, "brain-two", _firewall.ufw_rules(wanted(name="brain-two")))
        both = _firewall.ufw_file(other, "brain", _firewall.ufw_rules(wanted()))
        assert _firewall.ufw_file(both, "brain", []) == other

    def test_as_ufw_writes_them(self) -> None:
        rules = dict(_firewall.ufw_rules(wanted(kind="master", peers=PEERS[:1], published=[ENGINE])))
        comment = b"mip brain: peer".hex()
        assert rules[f"### tuple ### allow tcp 2377,7946 0.0.0.0/0 any 10.0.0.10 in comment={comment}"] == (
            "-A ufw-user-input -p tcp -m multiport --dports 2377,7946 -s 10.0.0.10 -j ACCEPT"
        )
        assert rules[f"### tuple ### allow esp any 0.0.0.0/0 any 10.0.0.10 in comment={comment}"] == (
            "-A ufw-user-input -p esp -s 10.0.0.10 -j ACCEPT"
        )
        assert any(rule.endswith("-p tcp --dport 9090 -s 10.9.0.0/24 -j ACCEPT") for rule in rules.values())

    def test_a_file_that_is_none_of_ufw(self) -> None:
        with pytest.raises(_firewall.ConfigError, match="not a file of ufw"):
            _firewall.ufw_file("*filter\nCOMMIT\n", "brain", _firewall.ufw_rules(wanted()))

    @pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("iptables-restore", path=_firewall_host._PATH), reason="needs iptables")
    def test_iptables_takes_the_file(self) -> None:
        made = _firewall.ufw_file(UFW, "brain", _firewall.ufw_rules(wanted(kind="master", published=[ENGINE])))
        done = _firewall_host.in_namespace([(["iptables-restore", "-n"], made)] * 2 + [(["iptables", "-S", "ufw-user-input"], "")])
        assert done[-1].code == 0, done
        assert done[-1].out.count("-A ufw-user-input") == 2 * 3 + 2 + 2, "loading it again replaces the chain"


class TestFirewalld:
    def test_names_fit(self) -> None:
        assert _firewall.firewalld_name("brain") == "mip-brain"
        long = {_firewall.firewalld_name("a-federation-of-" + letter * 20) for letter in "abc"}
        assert len(long) == 3 and all(len(name) <= 17 for name in long)

    def test_files(self) -> None:
        settings = wanted(kind="master", published=[ENGINE])
        policy = ElementTree.fromstring(_firewall.firewalld_policy(settings))
        assert policy.get("target") == "CONTINUE" and int(policy.get("priority", "0")) < 0
        assert len(policy.findall("rule")) == len(_firewall.firewalld_rich_rules(settings)) == 7
        assert [item.get("value") for item in policy.iter("protocol")] == ["esp"]
        entries = [item.text for item in ElementTree.fromstring(_firewall.firewalld_ipset(settings)).iter("entry")]
        assert entries == ["10.0.0.9", "10.0.0.10"]
        assert 'rule family="ipv4" source ipset="mip-brain" protocol value="esp" accept' in _firewall.firewalld_rich_rules(settings)


class TestChange:
    """Saving and taking back, on files of the test's own; the lab tests do it with everything loaded."""

    @pytest.fixture
    def plan(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _firewall_host.Plan:
        monkeypatch.setattr(_firewall_host, "STATE_DIR", str(tmp_path / "state"))
        monkeypatch.setattr(_firewall_host, "UFW_RULES", str(tmp_path / "user.rules"))
        monkeypatch.setattr(_firewall_host, "firewalld_runs", lambda: False)
        (tmp_path / "state" / "brain").mkdir(parents=True)
        (tmp_path / "old file").write_text("old\n")
        (tmp_path / "old file").chmod(0o640)
        (tmp_path / "old-link").symlink_to("/nowhere/old")
        (tmp_path / "gone").write_text("gone\n")
        (tmp_path / "user.rules").write_text(UFW)
        files: _firewall_host.FileSet = {
            str(tmp_path / "new" / "file"): b"new\n",
            str(tmp_path / "new-link"): "/nowhere/new",
            str(tmp_path / "old file"): b"changed\n",
            str(tmp_path / "old-link"): "/nowhere/changed",
            str(tmp_path / "gone"): None,
            str(tmp_path / "user.rules"): _firewall.ufw_file(UFW, "brain", _firewall.ufw_rules(wanted())).encode(),
        }
        return _firewall_host.Plan("brain", wanted(), _firewall_host.Backend("ufw", False, ""), files, list(files), ["all"])

    @staticmethod
    def tree(folder: Path) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else f"{path.stat().st_mode:o} {path.read_text()}"
            for path in folder.rglob("*")
            if (path.is_symlink() or path.is_file()) and "state" not in path.relative_to(folder).parts
        }

    def change(self, plan: _firewall_host.Plan) -> None:
        _firewall_host._save(plan, "change1", "192.0.2.1:5:22")
        for path in plan.changed_files:
            _firewall_host._put(path, plan.files[path])

    def take_back(self) -> None:
        script = Path(_firewall_host.pending_folder("brain")) / "rollback.sh"
        subprocess.run(["sh", "-n", str(script)], check=True)
        done = subprocess.run(["sh", str(script), "boot"], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and done.stderr == "", done

    def test_back_is_exactly_what_was(self, plan: _firewall_host.Plan, tmp_path: Path) -> None:
        before = self.tree(tmp_path)
        self.change(plan)
        assert (tmp_path / "new" / "file").read_text() == "new\n" and (tmp_path / "old file").stat().st_mode & 0o777 == 0o640
        self.take_back()
        assert self.tree(tmp_path) == before
        assert not Path(_firewall_host.pending_folder("brain")).exists()
        assert _firewall_host.outcome("brain")[:2] == ["rolled-back", "change1"]

    @pytest.mark.parametrize("written", range(7))
    def test_cut_off_anywhere(self, plan: _firewall_host.Plan, tmp_path: Path, written: int) -> None:
        before = self.tree(tmp_path)
        _firewall_host._save(plan, "change1", "")
        for path in plan.changed_files[:written]:
            _firewall_host._put(path, plan.files[path])
        self.take_back()
        assert self.tree(tmp_path) == before

    def test_what_an_administrator_did_to_ufw_since_stays(self, plan: _firewall_host.Plan, tmp_path: Path) -> None:
        self.change(plan)
        with (tmp_path / "user.rules").open("a") as stream:
            stream.write("# since then\n")
        self.take_back()
        assert "# since then" in (tmp_path / "user.rules").read_text()

    def test_an_old_timer_does_not_take_back_a_later_change(self, plan: _firewall_host.Plan, tmp_path: Path) -> None:
        self.change(plan)
        script = (Path(_firewall_host.pending_folder("brain")) / "rollback.sh").read_text()
        (tmp_path / "old.sh").write_text(script)
        shutil.rmtree(_firewall_host.pending_folder("brain"))
        _firewall_host._save(plan, "change2", "")
        subprocess.run(["sh", str(tmp_path / "old.sh"), "boot"], check=True)
        assert _firewall_host.pending("brain")["id"] == "change2" and (tmp_path / "new" / "file").exists()

    def test_confirmation(self, plan: _firewall_host.Plan) -> None:
        same, other = _firewall_host.Connection("192.0.2.1", 5, 22), _firewall_host.Connection("192.0.2.1", 6, 22)
        self.change(plan)
        with pytest.raises(_firewall_host.HostError, match="proves nothing") as error:
            _firewall_host.confirm("brain", "change1", same)
        assert error.value.code == "firewall-same-connection"
        with pytest.raises(_firewall_host.HostError) as error:
            _firewall_host.outcome("brain")
            Path(_firewall_host.folder("brain"), "outcome").write_text("confirmed change0 2026-01-01T00:00:00Z\n")
            _firewall_host.confirm("brain", "change9", other)
        assert error.value.code == "firewall-no-change"
        Path(_firewall_host.folder("brain"), "settings.json").write_text("{}")
        assert _firewall_host.confirm("brain", "change1", other)
        assert not _firewall_host.confirm("brain", "change1", other), "already"
        assert not Path(_firewall_host.pending_folder("brain")).exists()

    def test_too_late(self, plan: _firewall_host.Plan) -> None:
        self.change(plan)
        self.take_back()
        for change in ("change1", ""):
            with pytest.raises(_firewall_host.HostError, match="was taken back at 20") as error:
                _firewall_host.confirm("brain", change, None)
            assert error.value.code == "firewall-rolled-back"


class TestHost:
    def test_connection(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SSH_CONNECTION", "fe80::1%eth0 40000 fe80::2%eth0 2222")
        assert _firewall_host.connection() == _firewall_host.Connection("fe80::1", 40000, 2222)

    def test_connection_behind_sudo(self, tmp_path: Path) -> None:
        """sudo drops the variable; the shell above it has it."""
        code = (
            "import sys; sys.path[:0] = %r; "
            "from ansible_collections.hbp.mip.plugins.module_utils import _firewall_host; print(_firewall_host.connection())"
        ) % ([path for path in os.sys.path if path],)  # type: ignore[attr-defined]
        script = tmp_path / "probe.py"
        script.write_text(code)
        done = subprocess.run(
            ["sh", "-c", f"env -u SSH_CONNECTION {os.sys.executable} {script}; true"],  # type: ignore[attr-defined]
            env={**os.environ, "SSH_CONNECTION": "192.0.2.7 40000 192.0.2.8 22"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "Connection(address='192.0.2.7', client_port=40000, port=22)"

    def test_other_ipsec_partners(self, monkeypatch: pytest.MonkeyPatch) -> None:
        out = (
            "src 10.0.0.9 dst 10.0.0.11\n\tproto esp spi 0x1 reqid 1 mode transport\n"
            "src 192.0.2.1 dst 10.0.0.11\n\tproto esp spi 0x2 reqid 2 mode tunnel\n"
            "src 10.0.0.44 dst 10.0.0.11\n\tproto esp spi 0x3 reqid 13681891 mode transport\n"
        )
        monkeypatch.setattr(_firewall_host, "run", lambda *_arguments, **_more: _firewall_host.Done(0, out, ""))
        assert _firewall_host.foreign_ipsec(wanted()) == ["192.0.2.1"]
        assert _firewall_host.foreign_ipsec(wanted(ipsec_others=["192.0.2.1"])) == []

    def test_two_firewalls(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_firewall_host, "ufw_enabled", lambda: True)
        monkeypatch.setattr(_firewall_host, "firewalld_runs", lambda: True)
        with pytest.raises(_firewall_host.HostError) as error:
            _firewall_host.backend("auto", "mip_brain")
        assert error.value.code == "firewall-two-backends"

    @needs_nft
    def test_filters_of_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        text = """
table inet a { chain input { type filter hook input priority 0; policy drop; ct state established accept; }; }
table inet b { chain input { type filter hook input priority 0; policy accept; tcp dport 1 drop; counter reject; }; }
table inet c { chain input { type filter hook input priority 0; policy accept; tcp dport 1 drop; }; }
table ip d { chain output { type filter hook output priority 0; policy drop; }; }
table inet firewalld { chain input { type filter hook input priority 0; policy drop; }; }
table inet mip_brain { chain input { type filter hook input priority 0; policy drop; }; }
"""
        listed = _firewall_host.in_namespace([(["nft", "-f", "-"], text), (["nft", "-j", "list", "ruleset"], "")])[-1]
        assert listed.code == 0, listed
        monkeypatch.setattr(_firewall_host, "run", lambda *_arguments, **_more: listed)
        monkeypatch.setattr(_firewall_host, "read", lambda _path: "")
        assert _firewall_host.foreign_filters("mip_brain") == ["nftables inet a input", "nftables inet b input"]


def test_bad_name() -> None:
    result = run_module("firewall", {"name": "../etc", "state": "shown"})
    assert result["failed"] and result["mip_error"] == "configuration"


@pytest.mark.parametrize("version", VERSIONS)
def test_pythons_of_the_hosts(version: str) -> None:
    python = interpreter(version)
    if not python:
        pytest.skip(f"no Python {version} on this machine")
    result = run_module("firewall", {"name": "brain", "kind": "master", "published": [{"port": 22}], "state": "shown"}, python=python)
    # systemd does not run everywhere that tests do
    assert result.get("mip_error") in (None, "firewall-root", "firewall-no-systemd", "tool-missing"), result
