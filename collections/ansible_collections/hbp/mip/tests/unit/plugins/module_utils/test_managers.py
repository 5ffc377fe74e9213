# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Roles that keep the majority, and what is asked again after a leader is lost."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _managers
from ansible_collections.hbp.mip.plugins.module_utils._engine import EngineError, EngineMissing
from ansible_collections.hbp.mip.plugins.module_utils._swarm import SwarmError


def node(name: str, role: str = "worker", reachable: bool = True, status: str = "ready", leader: bool = False) -> dict[str, Any]:
    reachability = ("reachable" if reachable else "unreachable") if role == "manager" else ""
    return {"id": name, "name": name, "hostname": name, "role": role, "status": status, "reachability": reachability, "leader": leader}


def managers(*names: str, down: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    return [node(name, "manager", name not in down, "down" if name in down else "ready", name == names[0]) for name in names]


def wanted(nodes: list[dict[str, Any]], **roles: str) -> list[dict[str, Any]]:
    return [{**entry, "role": roles.get(entry["id"], entry["role"])} for entry in nodes]


def order(nodes: list[dict[str, Any]], own: str = "ms", **roles: str) -> list[tuple[str, str]]:
    return [(step["id"], step["role"]) for step in _managers.steps(nodes, wanted(nodes, **roles), own)]


def test_nothing_to_do() -> None:
    nodes = [*managers("ms", "a", "b"), node("c")]
    assert order(nodes) == []


def test_promotions_come_before_demotions_and_the_leader_is_demoted_last() -> None:
    nodes = [*managers("a", "ms", "b"), node("c"), node("d")]
    assert order(nodes, a="worker", b="worker", c="manager", d="manager") == [
        ("c", "manager"),
        ("d", "manager"),
        ("b", "worker"),
        ("a", "worker"),
    ]


def test_a_manager_that_is_lost_is_demoted_first() -> None:
    nodes = [*managers("ms", "a", "b", down=("b",)), node("c")]
    assert order(nodes, a="worker", b="worker") == [("b", "worker"), ("a", "worker")]


def test_a_step_that_leaves_no_majority_is_refused_before_the_first() -> None:
    nodes = managers("ms", "a", "b", down=("b",))
    with pytest.raises(SwarmError, match=r"make a \(a\) a worker would leave 1 of 2 managers working.*Nothing was changed"):
        order(nodes, a="worker")


def test_a_node_that_is_down_is_not_promoted() -> None:
    with pytest.raises(SwarmError, match=r"c \(c\) is down.*Nothing was changed"):
        order([*managers("ms"), node("c", status="down")], c="manager")


def test_the_manager_that_does_it_stays() -> None:
    with pytest.raises(SwarmError, match="cannot demote itself"):
        order(managers("ms", "a", "b"), own="a", a="worker")


class Answer:
    """What requests returns, as far as it is looked at."""

    def __init__(self, status: int, text: str = "") -> None:
        self.status_code = status
        self.text = text


class Request:
    """What requests sends, as far as it is looked at."""

    def __init__(self, method: str, url: str) -> None:
        self.method, self.url = method, url


class Client:
    """Answers one thing after the other."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked = 0

    def send(self, request: Request, **options: Any) -> Answer:
        self.asked += 1
        return self.answers.pop(0)


NO_LEADER = Answer(503, '{"message":"rpc error: code = Unknown desc = The swarm does not have a leader. It is possible that ..."}')
UNCLEAR = Answer(500, '{"message":"rpc error: code = DeadlineExceeded desc = context deadline exceeded"}')
LOST = Answer(500, '{"message":"rpc error: code = Unknown desc = raft: failed to process the request: node lost leader status"}')


@pytest.mark.parametrize(
    ("method", "path", "first", "repeated"),
    [
        ("POST", "/services/create", NO_LEADER, True),
        ("GET", "/services", UNCLEAR, True),
        ("POST", "/services/x/update?version=7", UNCLEAR, True),
        ("POST", "/nodes/x/update?version=7", LOST, True),
        ("POST", "/services/create", LOST, False),
        # It may have been created although the answer was lost.
        ("POST", "/services/create", UNCLEAR, False),
        ("GET", "/services", Answer(404, "no leader"), False),
        ("GET", "/services", Answer(500, "disk full"), False),
    ],
)
def test_what_is_asked_again(monkeypatch: pytest.MonkeyPatch, method: str, path: str, first: Answer, repeated: bool) -> None:
    monkeypatch.setattr(_managers, "_PAUSE_SECONDS", 0)
    client = Client(first, Answer(200))
    answer = _managers.patient(client).send(Request(method, f"http+docker://x/v1.41{path}"))
    assert (client.asked, answer.status_code) == ((2, 200) if repeated else (1, first.status_code))


def test_it_does_not_ask_for_ever() -> None:
    client = Client(NO_LEADER, Answer(200))
    assert _managers.patient(client, seconds=0).send(Request("GET", "/services")).status_code == 503


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (EngineMissing("no Docker"), True),
        (_managers.NotWorking("this node is a worker"), True),
        (EngineError("list: rpc error: The swarm does not have a leader"), True),
        (EngineError("list: the engine did not answer in time"), True),
        (EngineError("update the node x: rpc error: raft: failed to process the request: node lost leader status"), True),
        (EngineError("create the service x: name conflicts with an existing object"), False),
        (SwarmError("the name x is given more than once"), False),
    ],
)
def test_a_lost_manager_is_told_from_a_failed_change(error: Exception, lost: bool) -> None:
    assert _managers.lost(error) is lost
