# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The firewall role against machines with ufw, with firewalld and with neither; the first three tests follow one another."""

from __future__ import annotations

import json
import re
import time

import pytest

from ansible_collections.hbp.mip.tests.integration.firewall.conftest import FOREIGN, GUARDED, NAME, TABLE, Federation

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

MANAGERS = {"wk_1": {"mip_swarm_manager": True}, "wk_2": {"mip_swarm_manager": True}}
CLEAR = {"mip_overlay": {"encrypted": False}}

MEMBER = {"4 tcp 2377", "4 tcp 7946", "4 udp 7946"}
OPEN_ON = {"ms": set(), "wk-1": set(), "wk-2": {"4 tcp 8080", "6 tcp 8080"}}


def expect(federation: Federation, peers: set[str], gone: tuple[str, ...] = ()) -> None:
    """Try every port of every guarded machine from all others, over IPv4 and IPv6: exactly these come in."""
    arrived = federation.arrivals(["ms", "wk-1", "wk-2", "web", "out"])
    for (sender, receiver), found in arrived.items():
        if receiver in gone:
            continue
        wanted = set(OPEN_ON[receiver])
        if sender in GUARDED and sender not in gone:
            wanted |= peers
        if sender == "web":
            wanted.add("4 tcp 9090")
        if "4 esp 0" not in peers:
            # Not guarded without encryption. Two hosts that send it to each other look like question and answer to their firewalls.
            found = found - {"4 esp 0", "6 esp 0"}
        assert found == wanted, f"{sender} to {receiver}"


def same(federation: Federation, before: dict[str, dict[str, str]], *names: str, run: bool = True) -> None:
    """Nothing that is loaded differs, and (unless other tests have shown that for this state) another run finds nothing to do."""
    for name, after in zip(names, federation.each(federation.state, names), strict=True):
        for part, text in before[name].items():
            assert after[part] == text, f"{name}: {part}"
    if run:
        again = federation.play(limit=",".join(names))
        assert again.code == 0 and not again.changed, again.output


def states(federation: Federation) -> dict[str, dict[str, str]]:
    return dict(zip(GUARDED, federation.each(federation.state, GUARDED), strict=True))


@pytest.fixture
def applied(federation: Federation) -> Federation:
    """The machines with the role's rules, whatever the test before left."""
    federation.inventory(**MANAGERS)
    if not federation.settled or states(federation) != federation.settled:
        played = federation.play()
        assert played.code == 0, played.output
        federation.settled = states(federation)
    return federation


class TestApply:
    def test_before_everything_the_published_port_is_open_to_all(self, federation: Federation) -> None:
        arrived = federation.arrivals(["out"])
        assert all("4 tcp 9090" in found for found in arrived.values()), arrived
        # over IPv6 a process of Docker listens, so that ufw and firewalld are met
        assert "6 tcp 9090" in arrived["out", "wk-2"]
        # ufw and firewalld let no stranger and no peer in
        assert not {"4 tcp 7946", "4 esp 0"} & (arrived["out", "ms"] | arrived["out", "wk-1"])
        assert {"4 tcp 7946", "4 udp 4789", "4 esp 0"} <= arrived["out", "wk-2"]

    def test_check_mode_changes_nothing(self, federation: Federation) -> None:
        federation.inventory(**MANAGERS)
        before = states(federation)
        played = federation.play("main", "--check", "--diff")
        assert played.code == 0 and played.changed == set(GUARDED), played.output  # and not the ui node
        diff = played.of("Open and guard the ports", "ms")["diff"]
        assert diff["before"] == "" and f"peer wk-1 {federation.address('wk-1')}\n" in diff["after"]
        assert "allow 2377/tcp from the peers (swarm management)\n" in diff["after"]
        assert states(federation) == before and federation.ssh("ms", "ls /etc/mip /var/lib/mip 2>&1 || true").count("No such") == 2

    def test_opens_exactly_what_is_needed(self, federation: Federation) -> None:
        before = states(federation)
        played = federation.play()
        assert played.code == 0 and played.changed == set(GUARDED), played.output
        backends = {name: played.of("Open and guard the ports", name)["backend"] for name in GUARDED}
        assert backends == {"ms": "ufw", "wk-1": "firewalld", "wk-2": "none"}
        assert all(not played.of("Open and guard the ports", name)["problems"] for name in GUARDED), played.output
        assert all(state["ok"] for state in played.of("Open and guard the ports", "ms")["kernel"].values())
        assert not federation.ssh("web", "ls /etc/mip 2>/dev/null || true")
        # clear VXLAN is dropped for everyone; what comes out of ESP this kernel cannot show
        expect(federation, MEMBER | {"4 esp 0"})
        after = states(federation)
        for name in GUARDED:
            assert after[name]["zones"] == before[name]["zones"] and after[name]["foreign"] == before[name]["foreign"]
        assert federation.ssh("ms", "ls /var/lib/mip/firewall/brain").split() == ["lock", "outcome", "settings.json"]
        assert "confirmed" in federation.ssh("wk-1", "cat /var/lib/mip/firewall/brain/outcome")
        assert not federation.ssh("ms", "systemctl list-timers --all --no-legend 'mip-*'")

    def test_ufw_knows_the_rules_as_its_own(self, applied: Federation) -> None:
        shown = applied.ssh("ms", "ufw status")
        address = applied.address("wk-1")
        assert f"2377,7946/tcp              ALLOW       {address}" in shown and "# mip brain: peer" in shown
        assert re.search(rf"Anywhere +ALLOW +{address}/esp", shown), shown
        assert shown.index(address) < shown.index("192.0.2.0/24"), "ahead of what the administrator denies"
        # ufw writes the file anew, with ours and its administrator's
        applied.ssh("ms", "ufw allow 1234/tcp")
        again = applied.play()
        assert again.code == 0 and not again.changed, again.output
        applied.ssh("ms", "ufw delete allow 1234/tcp")

    def test_second_run_changes_nothing(self, applied: Federation) -> None:
        same(applied, states(applied), *GUARDED)
        checked = applied.play("main", "--check")
        assert checked.code == 0 and not checked.changed, checked.output

    def test_show(self, applied: Federation) -> None:
        played = applied.play("show")
        shown = played.of("Look at what is open, and to whom", "wk-1")
        assert not played.changed and shown["set"] and shown["drift"] == [] and shown["backend"] == "firewalld"
        allowed = {(rule["proto"], rule["port"]): rule for rule in shown["rules"] if rule["action"] == "allow"}
        assert set(allowed) == {("tcp", 2377), ("tcp", 7946), ("udp", 7946), ("udp", 4789), ("esp", 0), ("tcp", 9090)}
        assert allowed["tcp", 2377]["from"] == [f"ms ({applied.address('ms')})", f"wk-2 ({applied.address('wk-2')})"]
        assert allowed["tcp", 9090] == {
            "action": "allow",
            "proto": "tcp",
            "port": 9090,
            "from": [applied.address("web")],
            "why": "the engine",
            "enforced_by": ["firewalld", "guard"],
        }
        assert {item["what"].split(":")[0] for item in shown["dropped"]} == {"2377", "4789", "7946", "9090", "esp"}
        # without options it says what was last set
        assert '"set": true' in applied.module("wk-2", state="shown") and "swarm management" in applied.module("ms", state="shown")

    def test_drift_is_found_and_repaired(self, applied: Federation) -> None:
        before = states(applied)
        applied.ssh("ms", "ufw --force delete 1")
        rule = f"rule family=ipv4 source address={applied.address('web')} port port=9090 protocol=tcp accept"
        applied.ssh("wk-1", f"firewall-cmd --policy=mip-brain --remove-rich-rule='{rule}'")
        applied.ssh("wk-2", f"nft delete table inet {TABLE}")
        shown = applied.play("show")
        drift = {name: shown.of("Look at what is open, and to whom", name)["drift"] for name in GUARDED}
        assert drift["ms"] == ["/etc/ufw/user.rules differs"]
        assert drift["wk-1"] == ["firewalld policy mip-brain differs from what is wanted"]
        assert drift["wk-2"] == [f"nftables table inet {TABLE} is not loaded"]
        repaired = applied.play()
        assert repaired.code == 0 and repaired.changed == set(GUARDED), repaired.output
        assert not repaired.of("Open and guard the ports", "wk-1")["reloaded"]
        same(applied, before, *GUARDED)

    def test_a_peer_less_and_again(self, applied: Federation) -> None:
        before = states(applied)
        applied.inventory(wk_1=MANAGERS["wk_1"], wk_2={"gone": True})
        played = applied.play(limit="ms,wk-1")
        assert played.code == 0 and played.changed == {"ms", "wk-1"}, played.output
        assert not played.of("Open and guard the ports", "wk-1")["reloaded"], "firewalld reloads for the first rules only"
        expect(applied, MEMBER | {"4 esp 0"}, gone=("wk-2",))
        applied.inventory(**MANAGERS)
        assert applied.play().changed == {"ms", "wk-1"}
        same(applied, before, *GUARDED)

    def test_a_worker_is_no_manager(self, applied: Federation) -> None:
        applied.inventory()
        assert applied.play().changed == {"wk-1", "wk-2"}
        arrived = applied.arrivals(["ms", "out"])
        assert not any("2377" in port for receiver in ("wk-1", "wk-2") for port in arrived["ms", receiver])
        assert arrived["ms", "wk-1"] == {"4 tcp 7946", "4 udp 7946", "4 esp 0"} and arrived["out", "wk-1"] == set()
        assert "4 tcp 2377" in applied.arrivals(["wk-1"], ["ms"])["wk-1", "ms"]
        applied.inventory(**MANAGERS)
        assert applied.play().code == 0


class TestSurvives:
    def test_reloads_and_restarts(self, applied: Federation) -> None:
        before = states(applied)
        applied.ssh("ms", "ufw reload && systemctl restart ufw && systemctl restart docker")
        applied.ssh("wk-1", "firewall-cmd --reload && firewall-cmd --complete-reload && systemctl restart firewalld docker")
        # nftables.service would flush Docker's tables too, as it does on any host
        applied.ssh("wk-2", "systemctl start nftables && systemctl restart nftables && systemctl reload nftables")
        assert TABLE in applied.ssh("wk-2", "nft list tables")
        applied.ssh("wk-2", "systemctl stop nftables")
        assert TABLE in applied.ssh("wk-2", "nft list tables"), "nftables.service flushes all tables when it stops"
        applied.ssh("wk-2", "mv /etc/nftables.conf /root; echo nonsense > /etc/nftables.conf; systemctl restart nftables", check=False)
        assert TABLE in applied.ssh("wk-2", "nft list tables"), "a broken configuration of others"
        applied.ssh("wk-2", FOREIGN)
        applied.ssh("wk-2", "mv /root/nftables.conf /etc; systemctl reset-failed nftables; systemctl restart docker")
        applied.each(lambda name: applied.ssh(name, "timeout 60 sh -c 'until docker start echo; do sleep 1; done'"), GUARDED)
        same(applied, before, *GUARDED)
        expect(applied, MEMBER | {"4 esp 0"})

    def test_boot(self, applied: Federation) -> None:
        before = states(applied)
        before["wk-2"]["foreign"] = ""  # it was of this boot only
        applied.reboot(*GUARDED)
        for name in GUARDED:
            stamps = applied.ssh(
                name, f"systemctl show -p ExecMainStartTimestampMonotonic --value mip-firewall-{NAME}.service docker.service"
            )
            guard, docker = (int(stamp) for stamp in stamps.split())
            assert 0 < guard < docker, name
        applied.each(lambda name: applied.ssh(name, "timeout 60 sh -c 'until docker start echo; do sleep 1; done'"), GUARDED)
        same(applied, before, *GUARDED)
        expect(applied, MEMBER | {"4 esp 0"})


class TestNeverCutsSsh:
    def test_what_would_cut_the_connection_is_refused(self, applied: Federation) -> None:
        before = states(applied)
        cut = {"firewall_published": [{"port": 22, "allow": [applied.address("web")]}]}
        played = applied.play(limit=",".join(GUARDED), **cut)
        assert played.code != 0 and not played.changed
        result = played.of("Open and guard the ports", "ms")
        assert result["mip_error"] == "configuration"
        assert f"would cut SSH from {applied.gateway} to port 22" in result["msg"] and "Nothing was changed" in result["msg"]
        assert states(applied) == before

    def test_what_cannot_be_seen_takes_itself_back(self, applied: Federation) -> None:
        """The controller asks for port 2222, which the host redirects to its SSH server's 22: the server sees 22 only."""
        redirect = "table ip elsewhere { chain c { type nat hook prerouting priority -100; tcp dport 2222 redirect to :22; }; }"
        applied.each(lambda name: applied.ssh(name, f"nft '{redirect}'"), GUARDED)
        before = states(applied)
        cut = {"firewall_published": [{"port": 2222, "allow": [applied.address("web")]}]}
        applied.inventory({"ansible_ssh_extra_args": "-o Port=2222 -o HostKeyAlias=redirected -o StrictHostKeyChecking=no"}, **MANAGERS)
        started = time.monotonic()
        played = applied.play(firewall_rollback_seconds=20, limit=",".join(GUARDED), **cut)
        took = time.monotonic() - started
        assert played.code != 0, played.output
        assert took > 20
        for name in GUARDED:
            assert played.of("Open and guard the ports", name)["changed"]
            kept = played.of("Keep the rules", name)
            assert kept["failed"] and kept["mip_error"] == "firewall-rolled-back", kept
        assert states(applied) == before
        applied.each(lambda name: applied.ssh(name, "nft delete table ip elsewhere"), GUARDED)
        applied.inventory(**MANAGERS)
        same(applied, before, *GUARDED)

    def test_connections_that_the_inventory_shares_are_left_before_the_rules_are_kept(self, applied: Federation) -> None:
        shared = f"-o ControlMaster=auto -o ControlPersist=60 -o ControlPath={applied.folder}/shared-%C"
        applied.inventory({"ansible_ssh_args": shared}, **MANAGERS)
        before = states(applied)
        more = {"firewall_published": [{"port": 9091, "allow": [applied.address("web")], "why": "the engine"}]}
        played = applied.play(limit="wk-2", **more)
        assert played.code == 0 and played.changed == {"wk-2"}, played.output
        assert played.of("Come back over a new one", "wk-2"), "over the first connection the rules could not be kept"
        assert states(applied)["wk-2"] != before["wk-2"]
        assert "confirmed" in applied.ssh("wk-2", "cat /var/lib/mip/firewall/brain/outcome")
        applied.inventory(**MANAGERS)
        applied.play(limit="wk-2")
        assert states(applied) == before
        plain = applied.play(limit="wk-2", **more)
        assert plain.code == 0 and "Come back over a new one" not in plain.output, "a connection of its own needs no second look"
        applied.play(limit="wk-2")
        same(applied, before, *GUARDED)

    def test_the_same_connection_proves_nothing(self, applied: Federation) -> None:
        before = states(applied)
        book = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Make
      hbp.mip.firewall: {name: brain, state: absent, rollback_seconds: 600}
      register: made
    - name: Keep
      hbp.mip.firewall: {name: brain, state: confirmed, change: "{{ made.change }}"}
      ignore_errors: true
"""
        played = applied.play(text=book, limit=",".join(GUARDED))
        for name in GUARDED:
            assert played.of("Keep", name)["mip_error"] == "firewall-same-connection", played.output
        assert "not loaded" in " ".join(applied.play("show").of("Look at what is open, and to whom", "wk-2")["drift"])
        applied.each(lambda name: applied.ssh(name, "sh /var/lib/mip/firewall/brain/pending/rollback.sh"), GUARDED)
        same(applied, before, *GUARDED, run=False)

    @pytest.mark.parametrize("moment", [0.2, 1.0])
    def test_killed_in_the_middle(self, applied: Federation, moment: float) -> None:
        before = states(applied)
        kill = (
            'timeout 60 sh -c \'until pid=$(pgrep -f "AnsiballZ_firewall.py$" | tail -n 1); [ -n "$pid" ]; do :; done;'
            f" sleep {moment}; kill -9 $pid'; true"
        )
        for name in GUARDED:
            applied.module(name, background=True, state="absent", rollback_seconds=12)
        applied.each(lambda name: applied.ssh(name, kill), GUARDED)
        wait = "sleep 2; timeout 60 sh -c 'while [ -e /var/lib/mip/firewall/brain/pending ]; do sleep 1; done'"
        applied.each(lambda name: applied.ssh(name, wait), GUARDED)
        same(applied, before, *GUARDED, run=False)

    def test_power_cut_in_the_middle(self, applied: Federation) -> None:
        before = states(applied)
        for name in ("ms", "wk-1"):
            made = applied.module(name, state="absent", rollback_seconds=3000)
            assert '"changed": true' in made, made
        # This one is cut off by a later run, which begins from what was confirmed last.
        applied.module("wk-2", kind="worker", address=applied.address("wk-2"), rollback_seconds=3000)
        assert applied.state("wk-2")["guard"] != before["wk-2"]["guard"]
        applied.reboot("ms", "wk-1")
        assert "rolled-back" in applied.ssh("ms", "cat /var/lib/mip/firewall/brain/outcome")
        applied.each(lambda name: applied.ssh(name, "timeout 60 sh -c 'until docker start echo; do sleep 1; done'"), ("ms", "wk-1"))
        same(applied, before, "ms", "wk-1", run=False)
        assert applied.play(limit="wk-2").code == 0
        same(applied, before, "wk-2")


class TestSwarm:
    def test_an_overlay_works_behind_the_guard(self, applied: Federation) -> None:
        """Without encryption, which is all that this kernel can; the guard lets VXLAN of the peers through."""
        applied.inventory(CLEAR, **MANAGERS)
        played = applied.play()
        assert played.code == 0 and played.changed == set(GUARDED), played.output
        expect(applied, MEMBER | {"4 udp 4789"})
        applied.each(lambda name: applied.ssh(name, "systemctl stop listen"), GUARDED)
        applied.ssh("ms", f"docker swarm init --advertise-addr {applied.address('ms')}")
        try:
            token = applied.ssh("ms", "docker swarm join-token -q worker")
            for name in ("wk-1", "wk-2"):
                applied.ssh(
                    name, f"docker swarm join --advertise-addr {applied.address(name)} --token {token} {applied.address('ms')}:2377"
                )
            applied.ssh("ms", "docker network create -d overlay --attachable across")
            inside = "nsenter --net -t $(docker inspect -f '{{.State.Pid}}' across) python3 /root/probe.py"
            addresses = {}
            for name in GUARDED:
                applied.ssh(name, "docker run -dit --network across --name across echo:1 /bin/cat")
                found = json.loads(applied.ssh(name, "docker inspect across"))[0]
                addresses[name] = found["NetworkSettings"]["Networks"]["across"]["IPAddress"]
                applied.ssh(name, f"systemd-run -q --collect --unit=across {inside} listen /root/across.log")
            time.sleep(5)
            for name in GUARDED:
                others = [address for other, address in addresses.items() if other != name]
                answered = json.loads(applied.ssh(name, f"{inside} send across {' '.join(others)}"))
                assert answered == {address: [2377, 7946, 8080] for address in others}, f"from {name}"
        finally:
            for name in ("wk-1", "wk-2", "ms"):
                applied.ssh(name, "systemctl stop across; docker rm -f across; docker swarm leave --force", check=False)
            for name in GUARDED:
                applied.services(name)


class TestRemove:
    def test_nothing_is_left(self, applied: Federation) -> None:
        before = states(applied)
        played = applied.play("absent")
        assert played.code == 0 and played.changed == set(GUARDED), played.output
        again = applied.play("absent")
        assert again.code == 0 and not again.changed, again.output
        for name in GUARDED:
            after = applied.state(name)
            assert after["guard"] == "" and "mip" not in after["ufw file"] + after["files"], after
            assert after["zones"] == before[name]["zones"]
            left = applied.ssh(
                name,
                "find / -xdev -name '*mip-firewall*' -o -xdev -path '*/mip/firewall*' -o -xdev -name '*mip-new' | grep -v ^/proc || true",
            )
            assert left == "", left
        assert "192.0.2.0/24" in applied.ssh("ms", "ufw status") and "22/tcp" in applied.ssh("ms", "ufw status")
        assert "4444/tcp" in applied.ssh("wk-1", "firewall-cmd --list-ports --zone=public")
        applied.ssh("wk-1", "firewall-cmd --check-config")
        arrived = applied.arrivals(["out"])
        assert all("4 tcp 9090" in found for found in arrived.values()), arrived
        # over IPv6 a process of Docker listens, so that ufw and firewalld are met
        assert "6 tcp 9090" in arrived["out", "wk-2"]
