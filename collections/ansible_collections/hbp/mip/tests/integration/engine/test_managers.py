# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Three managers on real engines: made one by one, and what goes on when the leader is lost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from ansible_collections.hbp.mip.tests.helpers.engines import Engine, Engines, wait_for

from .conftest import form_swarm, quad, refuse, succeed
from .test_power import pinned, running

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def three(cluster: Engines, image: str) -> Iterator[tuple[list[Engine], dict[str, str], str]]:
    """A manager and two workers in one swarm, with names."""
    engines = list(cluster.engines)
    cluster_id, ids = form_swarm(engines[0], engines[1])
    token = succeed("swarm_token", engines[0])
    joined = succeed(
        "swarm_member", engines[2], cluster_id=cluster_id, advertise_addr=engines[2].address, join_token=token["token"],
        remote_addrs=token["remote_addrs"],
    )  # fmt: skip
    ids["wk-2"] = joined["node_id"]
    succeed("swarm_nodes", engines[0], nodes=[{"node_id": ids["wk-2"], "name": "wk-2"}])
    yield engines, ids, image
    for engine in engines:
        engine.leave_swarm()


def managers(engine: Engine) -> dict[str, bool]:
    """The managers by name, and whether each works."""
    info = succeed("swarm_info", engine)
    return {node["name"]: node["reachability"] == "reachable" for node in info["nodes"] if node["role"] == "manager"}


def roles(ids: dict[str, str], **wanted: str) -> list[dict[str, str]]:
    """The nodes with the roles that they shall have."""
    return [{"node_id": ids[name.replace("_", "-")], "role": role} for name, role in wanted.items()]


def test_promotions_demotions_and_the_leader(three: tuple[list[Engine], dict[str, str], str]) -> None:
    """Two more managers, a leader that is cut off while services are stopped and started, and back to one manager."""
    (first, second, third), ids, image = three
    both = roles(ids, ms="manager", wk_1="manager", wk_2="manager")
    done = quad("swarm_nodes", first, nodes=both)
    assert set(done["changed_nodes"]) == {ids["wk-1"], ids["wk-2"]}
    assert managers(first) == {"ms": True, "wk-1": True, "wk-2": True}
    assert succeed("swarm_info", first)["managers"]["may_fail"] == 1
    assert "cannot demote itself" in refuse("swarm_nodes", first, nodes=roles(ids, ms="worker"))

    # wk-2 runs nothing, so that the leader's loss alone is what is seen.
    services = [pinned(image, "keystore", "wk-1"), pinned(image, "engine", "wk-1")]
    succeed("swarm_services", first, project="lab", services=services)
    leader = next(node["name"] for node in succeed("swarm_info", first)["nodes"] if node["leader"])
    assert leader == "ms"
    first.freeze()
    try:
        # Asked at once, when the others do not yet know that they have no leader.
        names = [{"name": "keystore", "wave": 0}, {"name": "engine", "wave": 1}]
        stopped = succeed("swarm_power", second, project="lab", state="stopped", services=names)
        assert [(item["action"], item["unconfirmed"]) for item in stopped["services"]] == [("stopped", []), ("stopped", [])]
        assert running(third) == set()
        started = succeed("swarm_power", third, project="lab", state="started", services=names)
        assert [item["action"] for item in started["services"]] == ["started", "started"]
        assert not succeed("swarm_services", second, project="lab", services=services).changed
        wait_for(lambda: managers(second)["ms"] is False, 60, "the others see that the leader is away")
        # Without ms, wk-2 is needed for a majority.
        message = refuse("swarm_nodes", second, nodes=roles(ids, wk_2="worker"))
        assert "would leave 1 of 2 managers working" in message
        assert managers(second) == {"ms": False, "wk-1": True, "wk-2": True}
    finally:
        first.thaw()
    wait_for(lambda: all(managers(second).values()), 90, "the old leader is back")
    wait_for(lambda: succeed("swarm_info", first)["local_state"] == "manager", 60, "the old leader knows it")
    quad("swarm_nodes", first, nodes=roles(ids, ms="manager", wk_1="worker", wk_2="worker"))
    assert managers(first) == {"ms": True}
    with contextlib.closing(first.client()) as client:
        for service in client.services():
            client.remove_service(service["ID"])
