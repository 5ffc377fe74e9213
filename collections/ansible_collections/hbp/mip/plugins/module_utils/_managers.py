# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Several managers: waiting for a new leader, telling a lost manager from a failed change, and roles that keep the majority."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from ansible_collections.hbp.mip.plugins.module_utils import _swarm
from ansible_collections.hbp.mip.plugins.module_utils._engine import EngineError, EngineMissing, engine_call, wait_until

#: Managers that have lost their leader choose another after ten to twenty seconds; until then they refuse every request.
ELECTION_SECONDS = 45.0
_PAUSE_SECONDS = 0.5

# Said before a change is proposed to anybody: it can be asked for again whatever it was.
_NOT_PROPOSED = ("does not have a leader", "has no leader", "no elected cluster leader", "error while dialing", "connection refused")
# Said also when the answer to a change was lost. Only what may be repeated is.
_UNCLEAR = (
    "deadline exceeded", "transport is closing", "code = unavailable", "leadership", "lost leader status", "raft: stopped",
    "node is stopped",
)  # fmt: skip


def _may_be_repeated(method: str, path: str, status: int, text: str) -> bool:
    """Whether an answer of the engine only says that there is no leader now, and the request can be sent once more."""
    if status < 500:
        return False
    lower = text.lower()
    if any(words in lower for words in _NOT_PROPOSED):
        return True
    # An update names the version that it changes, so that it cannot be done twice.
    harmless = method == "GET" or path.partition("?")[0].endswith("/update")
    return harmless and any(words in lower for words in _UNCLEAR)


def patient(client: Any, seconds: float = ELECTION_SECONDS) -> Any:
    """`client` (the SDK's), whose requests wait at most `seconds` while the managers choose a new leader."""
    send = client.send

    def send_again(request: Any, **options: Any) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            answer = send(request, **options)
            if answer.status_code < 500 or time.monotonic() >= deadline:
                return answer
            if not _may_be_repeated(str(request.method), str(request.url), answer.status_code, answer.text):
                return answer
            time.sleep(_PAUSE_SECONDS)

    client.send = send_again
    return client


def settled(client: Any, seconds: float = ELECTION_SECONDS) -> _swarm.LocalState:
    """What this node is in a swarm, after waiting at most `seconds` for the managers to have a leader. Raises `EngineError`."""
    seen: List[_swarm.LocalState] = []

    def look() -> bool:
        with engine_call("read the state of the engine"):
            seen.append(_swarm.local_state(client))
        return seen[-1].state != _swarm.NO_QUORUM

    wait_until(look, seconds, first=0.5)
    return seen[-1]


def lost(error: Exception) -> bool:
    """Whether `error` says that this host is no working manager now, so that another one can be asked instead."""
    if isinstance(error, (EngineMissing, NotWorking)):
        return True
    return isinstance(error, EngineError) and any(words in str(error).lower() for words in (*_NOT_PROPOSED, *_UNCLEAR, "did not answer"))


class NotWorking(_swarm.SwarmError):
    """This host is no working manager of the swarm."""


def require(client: Any, cluster_id: str = "") -> _swarm.LocalState:
    """What this node is, after waiting for a leader. Raises `NotWorking` unless it is a working manager."""
    local = settled(patient(client))
    try:
        _swarm.require_manager(local, cluster_id or None)
    except _swarm.SwarmError as error:
        raise NotWorking(str(error)) from error
    return local


# --- roles ---------------------------------------------------------------------------------------------------------------


def _name(node: Mapping[str, Any]) -> str:
    return "%s (%s)" % (node["name"] or node["hostname"], node["id"])


def _counts(nodes: Sequence[Mapping[str, Any]]) -> Tuple[int, int]:
    """How many managers there are, and how many of them work."""
    managers = [node for node in nodes if node["role"] == _swarm.MANAGER]
    return len(managers), sum(node["reachability"] == "reachable" for node in managers)


def steps(found: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]], own_id: str) -> List[Dict[str, Any]]:
    """The changes of roles from `found` to `wanted` (both as `_swarm.node_summary` gives them), in a safe order.

    Promotions come first. Of the demotions those of managers that do not work come first, because they only make the majority easier.
    Raises `SwarmError` when a step would leave no majority, or when this manager, `own_id`, would demote itself.
    """
    before = {node["id"]: dict(node) for node in found}
    changes = [dict(node) for node in wanted if node["id"] in before and before[node["id"]]["role"] != node["role"]]
    order = sorted(
        changes,
        key=lambda node: (
            node["role"] != _swarm.MANAGER,
            before[node["id"]]["reachability"] == "reachable",
            before[node["id"]]["leader"],
        ),
    )
    state = before
    for change in order:
        node = state[change["id"]]
        if change["role"] == _swarm.MANAGER:
            if node["status"] != "ready":
                raise _swarm.SwarmError(
                    "the node %s is %s, and a manager that does not work weakens the majority. Nothing was changed. Next: start its "
                    "Docker engine, or take mip_swarm_manager from it" % (_name(node), node["status"] or "unknown")
                )
            node.update(role=_swarm.MANAGER, reachability="reachable")
        else:
            if node["id"] == own_id:
                raise _swarm.SwarmError(
                    "the node %s is the manager that this runs on; it cannot demote itself. Nothing was changed. Next: run it on "
                    "another manager" % _name(node)
                )
            node.update(role="worker", reachability="")
        total, reachable = _counts(list(state.values()))
        if not total or reachable <= total // 2:
            raise _swarm.SwarmError(
                "to make %s a %s would leave %d of %d managers working, which is no majority. Nothing was changed. Next: start the "
                "managers that are down, then run again" % (_name(node), change["role"], reachable, total)
            )
    return order


def wait_for_majority(read: Callable[[], List[Dict[str, Any]]], without: Mapping[str, Any], seconds: float) -> None:
    """Wait until the managers other than `without` are a working majority of themselves, as before a demotion.

    `read` returns the nodes. Raises `EngineError` after `seconds`.
    """

    def enough() -> bool:
        total, reachable = _counts([node for node in read() if node["id"] != without["id"]])
        return bool(total) and reachable > total // 2

    if not wait_until(enough, seconds):
        raise EngineError(
            "the node %s was not demoted: the other managers are no working majority after %d s. Next: docker node ls, and start those "
            "that are unreachable" % (_name(without), seconds)
        )
