# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Three real engines for all tests here, and a swarm of two of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from ansible_collections.hbp.mip.tests.helpers.engines import Engine, Engines, EnginesError
from ansible_collections.hbp.mip.tests.helpers.modules import Result, run_module

NETWORK = "mip-federation"


def call(module: str, engine: Engine, *, check: bool = False, **arguments: Any) -> Result:
    """Run a module on the host of `engine`."""
    return run_module(module, {"docker_host": engine.docker_host, **arguments}, check=check, prefix=engine.space.enter_network())


def succeed(module: str, engine: Engine, *, check: bool = False, **arguments: Any) -> Result:
    """Run a module that must not fail."""
    result = call(module, engine, check=check, **arguments)
    assert not result.failed, result.msg
    return result


def refuse(module: str, engine: Engine, *, check: bool = False, **arguments: Any) -> str:
    """Run a module that must fail, and return its message."""
    result = call(module, engine, check=check, **arguments)
    assert result.failed, result.data
    assert "Traceback" not in result.output
    return result.msg


def quad(module: str, engine: Engine, **arguments: Any) -> Result:
    """check, apply, apply, check: the first two must change something and announce the same, the last two nothing.

    Returns the result of the first application.
    """
    planned = succeed(module, engine, check=True, **arguments)
    applied = succeed(module, engine, **arguments)
    again = succeed(module, engine, **arguments)
    checked = succeed(module, engine, check=True, **arguments)
    assert [planned.changed, applied.changed, again.changed, checked.changed] == [True, True, False, False]
    assert planned["diff"]["before"] != planned["diff"]["after"]
    assert applied["diff"]["before"] == planned["diff"]["before"]
    for unchanged in (again, checked):
        assert unchanged["diff"]["before"] == unchanged["diff"]["after"]
    return applied


@dataclass
class Swarm:
    """A manager (node `ms`) and a worker (node `wk-1`) in one swarm, and a third engine in none."""

    manager: Engine
    worker: Engine
    spare: Engine
    cluster_id: str
    node_ids: dict[str, str]
    image: str


@pytest.fixture(scope="session")
def cluster() -> Iterator[Engines]:
    """Three engines and a registry."""
    if os.geteuid():
        pytest.skip("engines need root")
    try:
        engines = Engines(3)
    except EnginesError as error:
        pytest.fail(str(error))
    yield engines
    engines.close()


@pytest.fixture(scope="session")
def image(cluster: Engines) -> str:
    """An image with busybox that does nothing for a long time."""
    return cluster.build_image("tiny:1.0")


@pytest.fixture
def alone(cluster: Engines) -> Iterator[Engines]:
    """The engines, in no swarm before and after the test."""
    yield cluster
    for engine in cluster.engines:
        engine.leave_swarm()


@pytest.fixture(scope="module")
def mixed() -> Iterator[Engines]:
    """A newer engine (26.1) and an older one (20.10), in no swarm."""
    if os.geteuid():
        pytest.skip("engines need root")
    try:
        engines = Engines(2, newer=(0,))
    except EnginesError as error:
        pytest.skip(str(error))
    yield engines
    engines.close()


def form_swarm(manager: Engine, worker: Engine) -> tuple[str, dict[str, str]]:
    """Make a swarm of two engines. Returns its id, and the ids of its nodes by the names that they get."""
    first = succeed("swarm_member", manager, init=True, role="manager", advertise_addr=manager.address)
    token = succeed("swarm_token", manager)
    second = succeed(
        "swarm_member", worker, advertise_addr=worker.address, join_token=token["token"], remote_addrs=token["remote_addrs"]
    )  # fmt: skip
    ids = {"ms": first["node_id"], "wk-1": second["node_id"]}
    succeed("swarm_nodes", manager, nodes=[{"node_id": node_id, "name": name} for name, node_id in ids.items()])
    return first["cluster_id"], ids


@pytest.fixture(scope="module")
def swarm(cluster: Engines, image: str) -> Iterator[Swarm]:
    """A swarm of two engines with names and a network."""
    manager, worker, spare = cluster.engines
    cluster_id, ids = form_swarm(manager, worker)
    succeed("swarm_network", manager, name=NETWORK, subnet="10.20.30.0/24", encrypted=False)
    yield Swarm(manager, worker, spare, cluster_id, ids, image)
    for engine in cluster.engines:
        engine.leave_swarm()


@pytest.fixture
def clean(swarm: Swarm) -> Iterator[Callable[[], None]]:
    """Removes all services after the test."""

    def remove() -> None:
        client = swarm.manager.client()
        for service in client.services():
            client.remove_service(service["ID"])
        client.close()

    yield remove
    remove()
