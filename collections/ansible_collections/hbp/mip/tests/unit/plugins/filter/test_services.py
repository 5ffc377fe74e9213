# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which services a command is about, and on which managers it can be done."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.filter.chosen_services import chosen_services
from ansible_collections.hbp.mip.plugins.filter.manager_hosts import manager_hosts
from ansible_collections.hbp.mip.plugins.filter.manager_lost import manager_lost
from ansible_collections.hbp.mip.plugins.plugin_utils._federation import resolve


@pytest.fixture
def federation() -> dict[str, Any]:
    engine = {"image": "r/exareme:1", "keystore_image": "r/consul:1"}
    addresses = {name: f"192.0.2.{number}" for number, name in enumerate(("ms", "ui", "a", "b", "c"), 11)}
    hostvars: dict[str, dict[str, Any]] = {name: {"ansible_host": address, "mip_engine": engine} for name, address in addresses.items()}
    hostvars["a"]["mip_swarm_manager"] = True
    hostvars["b"]["mip_swarm_manager"] = True
    hostvars["c"]["mip_disabled"] = {"reason": "moves house", "since": "", "keep_running": False}
    return resolve("hosp", {"master": ["ms"], "ui": ["ui"], "workers": ["a", "b", "c"]}, hostvars)


@pytest.mark.parametrize(
    ("components", "nodes", "names"),
    [
        ([], [], ["ms_exareme-keystore", "ms_exareme-master", "a_exareme", "b_exareme"]),
        (["engine"], [], ["ms_exareme-master", "a_exareme", "b_exareme"]),
        (["keystore"], [], ["ms_exareme-keystore"]),
        ([], ["b"], ["b_exareme"]),
        (["keystore"], ["b"], []),
    ],
)
def test_services_in_the_order_of_their_start(
    federation: dict[str, Any], components: list[str], nodes: list[str], names: list[str]
) -> None:
    chosen = chosen_services(federation, components, nodes)
    assert [service["name"] for service in chosen] == names
    assert [service["wave"] for service in chosen] == sorted(service["wave"] for service in chosen)
    # Only a hospital's node can be drained and the federation still be one.
    assert [service["may_rest"] for service in chosen] == [service["node"] != "ms" for service in chosen]


def test_unknown_names_are_named(federation: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no component engin; there are keystore, engine"):
        chosen_services(federation, ["engin"])
    with pytest.raises(ValueError, match="no node c; there are ms, ui, a, b"):
        chosen_services(federation, [], ["c"])  # disabled


def test_the_master_is_the_first_of_the_managers_that_work(federation: dict[str, Any]) -> None:
    hostvars: dict[str, Any] = {
        "ms": {"common_check": {"facts": {"swarm": {"state": "manager"}}}},
        "a": {"managers_seen": {"local_state": "no-quorum"}, "common_check": {"facts": {"swarm": {"state": "manager"}}}},
        "b": {"managers_seen": {"local_state": "manager"}},
        "ui": {},
    }
    assert manager_hosts(federation, hostvars) == ["ms", "b"]
    hostvars["ms"] = {"managers_seen": {"unreachable": True, "msg": "timed out"}}
    assert manager_hosts(federation, hostvars) == ["b"]
    # The one that made the swarm just now.
    hostvars |= {"ms": {"master_swarm": {"local_state": "manager"}}, "b": {"common_check": {"facts": {"swarm": {"state": "worker"}}}}}
    assert manager_hosts(federation, hostvars) == ["ms"]


@pytest.mark.parametrize(
    ("result", "lost"),
    [
        ({}, True),
        (None, True),
        ({"unreachable": True}, True),
        ({"changed": True, "engine_missing": True}, False),  # a dry run before Docker is installed
        ({"failed": True, "manager_lost": True}, True),
        ({"failed": True, "manager_lost": False}, False),
        ({"changed": False}, False),
    ],
)
def test_who_has_to_go_on(result: Any, lost: bool) -> None:
    assert manager_lost(result) is lost
