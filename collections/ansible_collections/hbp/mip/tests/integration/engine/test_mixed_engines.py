# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A swarm of engine 26.1 (manager) and 20.10 (worker): every module, each step four times."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.hbp.mip.tests.helpers.engines import Engines

from .conftest import NETWORK, quad, refuse, succeed

pytestmark = pytest.mark.engine


def test_every_module(mixed: Engines) -> None:
    """What one version writes the other must not take for a difference."""
    manager, worker = mixed.engines
    image = mixed.build_image("tiny:1.0")
    first = quad("swarm_member", manager, init=True, role="manager", advertise_addr=manager.address)
    token = succeed("swarm_token", manager)
    second = quad(
        "swarm_member", worker, cluster_id=first["cluster_id"], advertise_addr=worker.address,
        join_token=token["token"], remote_addrs=token["remote_addrs"],
    )  # fmt: skip
    nodes = [{"node_id": first["node_id"], "name": "ms"}, {"node_id": second["node_id"], "name": "wk-1", "labels": {"site": "a"}}]
    quad("swarm_nodes", manager, nodes=nodes)
    network: dict[str, Any] = {"name": NETWORK, "subnet": "10.20.30.0/24", "encrypted": True, "mtu": 1400, "labels": {"a": "b"}}
    quad("swarm_network", manager, **network)
    assert "encrypted is true, wanted false" in refuse("swarm_network", manager, **{**network, "encrypted": False})
    quad("swarm_network", manager, name="plain", subnet="10.20.31.0/24", encrypted=False)
    services = [
        {
            "name": f"{node}_svc", "node": node, "image": image, "constraints": [f"node.labels.name=={node}"],
            "networks": [{"name": "plain", "aliases": ["b", "a"]}], "env": {"B": 1, "A": "x=y"}, "hostname": node, "init": True,
            "mounts": [{"source": "/etc", "target": "/z", "read_only": True}, {"type": "volume", "source": "vol", "target": "/var"}],
            "ports": [{"target": 81, "published": 8081}, {"target": 80, "published": 8080, "protocol": "udp"}],
            "healthcheck": {"test": "true", "interval": 1, "timeout": 1, "retries": 3},
            "limits": {"memory_mb": 64, "cpus": 0.5, "pids": 50},
            "reservations": {"memory_mb": 16}, "log": {"driver": "json-file", "options": {"max-size": "1m"}}, "stop_grace_period": "1s",
            "restart": {"condition": "any", "delay": "2s", "max_attempts": 3, "window": "1m"}, "update": {"monitor": 1, "delay": 1},
        }
        for node in ("ms", "wk-1")
    ]  # fmt: skip
    quad("swarm_services", manager, project="lab", services=services, timeout=60)
    for item in services:
        item["env"] = {"B": 2}
    updated = quad("swarm_services", manager, project="lab", services=services, timeout=60)
    assert [item["action"] for item in updated["services"]] == ["updated"] * 2
    info = succeed("swarm_info", manager, project="lab")
    assert {node["engine_version"].split(".")[0] for node in info["nodes"]} == {"26", "20"}
    assert [item["running"] for item in info["services"]] == [1, 1]
    quad("swarm_services", manager, project="lab", services=[], prune=True)
    quad("swarm_member", worker, state="absent")
    quad("swarm_member", manager, state="absent", force=True)
