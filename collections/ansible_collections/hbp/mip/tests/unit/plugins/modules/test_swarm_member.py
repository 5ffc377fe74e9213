# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every refusal of swarm_member, and the words for failed joins. Joining itself is tested on real engines."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _swarm
from ansible_collections.hbp.mip.plugins.modules import swarm_member

OURS, THEIRS = "ourcluster", "theircluster"


def params(**changes: Any) -> dict[str, Any]:
    return {
        "cluster_id": OURS,
        "advertise_addr": "10.0.0.5",
        "data_path_addr": "",
        "address_pools": [],
        "subnet_size": None,
        "data_path_port": None,
        "remote_addrs": ["10.0.0.1:2377"],
        **changes,
    }


def local(state: str = "worker", **changes: Any) -> _swarm.LocalState:
    start = _swarm.LocalState(
        state=state,
        cluster_id=OURS,
        node_id="node1",
        node_addr="10.0.0.5",
        role="worker" if state == "worker" else "manager",
        error="",
        managers=["10.0.0.1:2377"],
        cluster={"DefaultAddrPool": ["10.0.0.0/8"], "SubnetSize": 24, "DataPathPort": 4789} if state == "manager" else {},
        certificate=None,
        started_with={},
    )
    return start._replace(**changes)


def test_a_good_member() -> None:
    assert swarm_member.check_member(local(), params()) == []
    assert swarm_member.check_member(local("manager"), params(subnet_size=24, data_path_port=4789, address_pools=["10.0.0.0/8"])) == []
    assert swarm_member.check_member(local("manager"), params(advertise_addr="eth0")) == []
    assert swarm_member.check_member(local(cluster_id=""), params(cluster_id=None)) == []


@pytest.mark.parametrize(
    ("found", "options", "words"),
    [
        (local(cluster_id=THEIRS), {}, "this node is in another swarm: theircluster as worker, the wanted swarm is ourcluster"),
        (local("manager", cluster_id=THEIRS), {}, "docker swarm leave --force"),
        (local("locked", cluster_id=THEIRS), {}, "another swarm"),
        (local("locked"), {}, "this manager is locked"),
        (local("locked"), {}, "Next: mipfed unlock"),
        (local("no-quorum", error="does not have a leader"), {}, "no majority of its managers: does not have a leader"),
        (local("pending"), {}, "has begun to join a swarm and has not finished"),
        (local("pending"), {}, "docker swarm leave"),
        (local("error", error="boom"), {}, "the swarm part of this engine failed: boom"),
        (local("error", error="certificates have expired"), {}, "timedatectl"),
        (local(cluster_id=""), {}, "whose ID cannot be read"),
        (local("manager", node_addr="10.0.0.9"), {}, "it is known in the swarm as 10.0.0.9, the wanted address is 10.0.0.5"),
        (local("manager"), {"subnet_size": 26}, "subnet_size is 24, wanted 26"),
        (local("manager"), {"data_path_port": 5789}, "data_path_port is 4789, wanted 5789"),
        (local("manager"), {"address_pools": ["10.50.0.0/16"]}, "address_pools is 10.0.0.0/8, wanted 10.50.0.0/16"),
    ],
)
def test_refusals(found: _swarm.LocalState, options: dict[str, Any], words: str) -> None:
    with pytest.raises(swarm_member.Refused) as caught:
        swarm_member.check_member(found, params(**options))
    assert words in str(caught.value)
    assert "Nothing was changed" in str(caught.value)


def test_warnings() -> None:
    assert "address of this worker changed" in swarm_member.check_member(local(node_addr="10.0.0.9"), params())[0]
    other = local(started_with={"DataPathAddr": "192.168.1.1"})
    assert "uses 192.168.1.1, wanted 10.1.1.1" in swarm_member.check_member(other, params(data_path_addr="10.1.1.1"))[0]


@pytest.mark.parametrize(
    ("engine_says", "words"),
    [
        ("rpc error: code = InvalidArgument desc = A valid join token is necessary to join this cluster", "was rotated"),
        ("invalid join token", "does not accept the join token"),
        ("remote CA does not match fingerprint. Expected: abc", "belongs to another swarm than the manager at m:2377"),
        ("x509: certificate has expired or is not yet valid", "clocks of this host and of the manager differ"),
        ("rpc error: code = Unavailable desc = connection error: connect: connection refused", "refuses connections"),
        ("dial tcp: connect: no route to host", "there is no route"),
        ("could not choose an IP address to advertise", "correct the node's address"),
        ("rpc error: The swarm does not have a leader", "no majority"),
        ("context deadline exceeded", "drops TCP 2377"),
        ("", "drops TCP 2377"),
        ("something new", "journalctl -u docker"),
    ],
)
def test_words_for_failed_joins(engine_says: str, words: str) -> None:
    assert words in swarm_member.explain_join(engine_says, ["m:2377"])


class TestManagers:
    """What can be found out about managers before a join."""

    def probe(self, monkeypatch: pytest.MonkeyPatch, **answers: _swarm.ManagerProbe) -> None:
        monkeypatch.setattr(_swarm, "probe_manager", lambda address: answers[address])

    def test_one_of_several_is_enough(self, monkeypatch: pytest.MonkeyPatch) -> None:
        certificate = _swarm.Certificate({"O": OURS}, 0, 10**10)
        self.probe(monkeypatch, a=_swarm.ManagerProbe("a:2377", "refuses", None), b=_swarm.ManagerProbe("b:2377", "", certificate))
        assert swarm_member.check_managers(params(remote_addrs=["a", "b"]), 1000) == ["b:2377"]

    def test_none_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.probe(monkeypatch, a=_swarm.ManagerProbe("a:2377", "refuses", None), b=_swarm.ManagerProbe("b:2377", "is silent", None))
        with pytest.raises(swarm_member.Refused, match=r"a:2377 refuses; b:2377 is silent\. Nothing was changed"):
            swarm_member.check_managers(params(remote_addrs=["a", "b"]), 1000)

    def test_another_swarm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.probe(monkeypatch, a=_swarm.ManagerProbe("a:2377", "", _swarm.Certificate({"O": THEIRS}, 0, 10**10)))
        with pytest.raises(swarm_member.Refused, match="belongs to the swarm theircluster"):
            swarm_member.check_managers(params(remote_addrs=["a"]), 1000)
        assert swarm_member.check_managers(params(remote_addrs=["a"], cluster_id=None), 1000) == ["a:2377"]

    def test_clocks_that_differ(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.probe(monkeypatch, a=_swarm.ManagerProbe("a:2377", "", _swarm.Certificate({"O": OURS}, 5000, 10**10)))
        with pytest.raises(swarm_member.Refused, match=r"do not agree about the time: .*Nothing was changed\. Next: timedatectl"):
            swarm_member.check_managers(params(remote_addrs=["a"]), 1000)
