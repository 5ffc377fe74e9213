# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""swarm_services on a real swarm: what works, and every failure that it explains."""

from __future__ import annotations

import concurrent.futures
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError

from ansible_collections.hbp.mip.tests.helpers.engines import REGISTRY, Engine, Engines, wait_for
from ansible_collections.hbp.mip.tests.helpers.modules import Result

from .conftest import NETWORK, Swarm, call, quad, refuse, succeed

pytestmark = pytest.mark.engine
PROJECT_LABEL = "eu.humanbrainproject.mip.federation"


def service(swarm: Swarm, name: str, node: str, **more: Any) -> dict[str, Any]:
    """A wanted service pinned to a node."""
    return {
        "name": name, "node": node, "image": swarm.image, "constraints": [f"node.labels.name=={node}"],
        "networks": [{"name": NETWORK, "aliases": [name]}], "stop_grace_period": "1s", **more,
    }  # fmt: skip


def deploy(swarm: Swarm, *services: dict[str, Any], **more: Any) -> Result:
    """Run the module."""
    return call("swarm_services", swarm.manager, **{"project": "lab", "services": list(services), "timeout": 60, **more})


def action(result: Result, name: str) -> str:
    """What happened to a service."""
    return str(next(item for item in result["services"] if item["name"] == name)["action"])


def failed(result: Result, name: str) -> dict[str, Any]:
    """What is told about a service that failed."""
    assert result.failed, result.data
    assert "Traceback" not in result.output
    return dict(next(item for item in result["services"] if item["name"] == name))


def specs(swarm: Swarm) -> dict[str, Any]:
    """The specifications of all services, by name."""
    return {item["Spec"]["Name"]: item["Spec"] for item in swarm.manager.client().services()}


@contextlib.contextmanager
def listening(engine: Engine, port: int) -> Iterator[None]:
    """Something outside Docker that holds a port of a host."""
    code = f"import socket,time; s=socket.create_server(('', {port})); print('ready', flush=True); time.sleep(600)"
    process = subprocess.Popen([*engine.space.enter_network(), sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()


def federation(swarm: Swarm, **environment: str) -> list[dict[str, Any]]:
    """Three services in three waves that use every kind of option."""
    return [
        service(swarm, "ms_keystore", "ms", mounts=[{"type": "volume", "source": "lab_keystore", "target": "/var"}]),
        service(
            swarm, "ms_master", "ms", wave=1, args=["/bin/httpd", "-f", "-p", "9090"], env=environment,
            ports=[{"target": 9090, "published": 9090}], hostname="ms", labels={"a": "b"}, container_labels={"c": 1},
            healthcheck={"test": ["/bin/wget", "-q", "-O", "-", "http://127.0.0.1:9090/etc/index.html"],
                         "interval": 1, "timeout": "1s", "retries": 30},
            limits={"memory_mb": 64, "cpus": 0.5, "pids": 50}, reservations={"memory_mb": 16}, init=True,
            log={"driver": "json-file", "options": {"max-size": "1m", "max-file": "2"}},
        ),
        service(
            swarm, "wk-1_exareme", "wk-1", wave=2, env={"NODE_NAME": "wk-1", "N": 3, **environment},
            command=["/bin/sleep"], args=["100000"],
            mounts=[{"source": "/etc", "target": "/root/data", "read_only": True}, {"type": "tmpfs", "target": "/tmp"}],
            restart={"condition": "any", "delay": "2s"}, update={"order": "start-first", "monitor": "2s"},
        ),
    ]  # fmt: skip


def test_whole_life(swarm: Swarm, cluster: Engines, clean: Callable[[], None]) -> None:
    """Create, change and remove, each four times; an unchanged service is never restarted."""
    cluster.build_image("web:1.0", changes=["CMD sleep 100000"], files={"etc/index.html": "hello"})
    wanted = federation(swarm, LOG_LEVEL="INFO")
    wanted[1]["image"] = f"{REGISTRY}/web:1.0"
    result = quad("swarm_services", swarm.manager, project="lab", services=wanted, timeout=60)
    assert [item["action"] for item in result["services"]] == ["created"] * 3
    for item in result["services"]:
        assert "@sha256:" in item["image"]
        assert item["tasks"][0]["state"] == "running"
    assert [item["tasks"][0]["node"] for item in result["services"]] == ["ms", "ms", "wk-1"]
    found = specs(swarm)
    assert all(spec["Labels"][PROJECT_LABEL] == "lab" for spec in found.values())
    assert found["ms_master"]["EndpointSpec"]["Mode"] == "dnsrr"
    info = succeed("swarm_info", swarm.manager, project="lab")
    assert [(item["name"], item["node"], item["state"], item["running"]) for item in info["services"]] == [
        ("ms_keystore", "ms", "running", 1),
        ("ms_master", "ms", "running", 1),
        ("wk-1_exareme", "wk-1", "running", 1),
    ]
    assert not info["problems"]
    keystore = result["services"][0]["tasks"][0]["id"]

    changed = federation(swarm, LOG_LEVEL="DEBUG")
    changed[1]["image"] = f"{REGISTRY}/web:1.0"
    result = quad("swarm_services", swarm.manager, project="lab", services=changed, timeout=60)
    assert [item["action"] for item in result["services"]] == ["unchanged", "updated", "updated"]
    assert result["services"][0]["tasks"][0]["id"] == keystore
    assert "LOG_LEVEL=INFO" in result["diff"]["before"]["ms_master"]["TaskTemplate"]["ContainerSpec"]["Env"]
    assert "LOG_LEVEL=DEBUG" in result["diff"]["after"]["ms_master"]["TaskTemplate"]["ContainerSpec"]["Env"]
    assert "ms_keystore" not in result["diff"]["after"]

    # Without prune what is not wanted is only reported.
    kept = deploy(swarm, *changed[:2])
    assert not kept.changed
    assert kept["orphans"] == ["wk-1_exareme"]
    assert "wk-1_exareme" in specs(swarm)
    # What is named is removed; what merely is not wanted stays.
    named = deploy(swarm, changed[0], absent=["ms_master", "never-there"])
    assert action(named, "ms_master") == "removed"
    assert sorted(specs(swarm)) == ["ms_keystore", "wk-1_exareme"]
    assert not deploy(swarm, *changed[:2]).failed
    pruned = quad("swarm_services", swarm.manager, project="lab", services=changed[:2], prune=True)
    assert action(pruned, "wk-1_exareme") == "removed"
    assert sorted(specs(swarm)) == ["ms_keystore", "ms_master"]


def test_changes_outside_are_undone(swarm: Swarm, clean: Callable[[], None]) -> None:
    """What somebody changed by hand is drift; a forced restart is not."""
    wanted = service(swarm, "drifting", "wk-1", env={"A": "1"}, update={"monitor": 1})
    assert not deploy(swarm, wanted).failed
    client = swarm.manager.client()
    spec = client.inspect_service("drifting")["Spec"]

    def change(**changes: Any) -> bool:
        found = client.inspect_service("drifting")
        keys = {"labels": "Labels", "mode": "Mode", "update_config": "UpdateConfig", "endpoint_spec": "EndpointSpec"}
        given = {"task_template": spec["TaskTemplate"], **{key: spec[name] for key, name in keys.items()}, **changes}
        try:
            client.update_service(found["ID"], found["Version"]["Index"], name="drifting", **given)
        except APIError as error:
            # The swarm itself wrote something down in between.
            if "out of sequence" in str(error):
                return False
            raise
        return True

    spec["TaskTemplate"]["ForceUpdate"] = 7
    wait_for(lambda: change(rollback_config=spec["RollbackConfig"]), 60, "a forced restart by hand")
    result = deploy(swarm, wanted)
    assert (result.failed, result.changed) == (False, False)
    spec["TaskTemplate"]["ContainerSpec"]["Env"] = ["A=1", "B=2"]
    wait_for(lambda: change(mode={"Replicated": {"Replicas": 2}}), 60, "a change by hand")
    quad("swarm_services", swarm.manager, project="lab", services=[wanted])
    assert specs(swarm)["drifting"]["TaskTemplate"]["ContainerSpec"]["Env"] == ["A=1"]
    assert specs(swarm)["drifting"]["Mode"] == {"Replicated": {"Replicas": 1}}


def test_secrets_configs_and_scaling(swarm: Swarm, clean: Callable[[], None]) -> None:
    """Files from the swarm by name, and numbers of tasks from none to two."""
    client = swarm.manager.client()
    secret = client.create_secret("key", b"hidden")
    config = client.create_config("conf", b"open")
    try:
        wanted = service(
            swarm, "files", "wk-1", secrets=[{"name": "key", "target": "k", "mode": "0400", "uid": "7"}],
            configs=[{"name": "conf", "target": "/etc/conf"}], healthcheck={"test": "cat /run/secrets/k /etc/conf", "interval": 1},
        )  # fmt: skip
        quad("swarm_services", swarm.manager, project="lab", services=[wanted])
        for replicas in (2, 0, 1):
            result = quad("swarm_services", swarm.manager, project="lab", services=[{**wanted, "replicas": replicas}])
            assert result["services"][0]["action"] == "updated"
            tasks = client.tasks(filters={"service": "files", "desired-state": "running"})
            assert sum(task["Status"]["State"] == "running" for task in tasks) == replicas
        assert "there is no secret called nokey" in refuse(
            "swarm_services", swarm.manager, project="lab", services=[{**wanted, "secrets": [{"name": "nokey"}]}]
        )  # fmt: skip
    finally:
        for found in client.services(filters={"name": "files"}):
            client.remove_service(found["ID"])
        client.remove_secret(secret["ID"])
        client.remove_config(config["ID"])


def test_moved_tag(swarm: Swarm, cluster: Engines, clean: Callable[[], None]) -> None:
    """A tag that points to another image is an update; with resolve_image=never it is not looked up."""
    moving = cluster.build_image("moving:1.0", changes=["CMD sleep 50000"])
    wanted = {**service(swarm, "moving", "wk-1", update={"monitor": 1}), "image": moving}
    first = deploy(swarm, wanted)
    assert not first.failed, first.msg
    cluster.build_image("moving:1.0", changes=["CMD sleep 60000"])
    assert not deploy(swarm, wanted, resolve_image="never").changed
    second = quad("swarm_services", swarm.manager, project="lab", services=[wanted])
    assert first["services"][0]["image"] != second["services"][0]["image"]
    # A registry that is gone does not stop a deploy of what already runs, and stops anything else before it begins.
    cluster.stop_registry()
    try:
        same = deploy(swarm, wanted)
        assert (same.failed, same.changed) == (False, False), same.msg
        assert any("could not be looked up" in text for text in same.warnings)
        more = {**service(swarm, "another", "ms"), "image": f"{REGISTRY}/another:2.0"}
        result = deploy(swarm, {**wanted, "env": {"X": "1"}}, more)
        assert result.failed
        assert f"image {REGISTRY}/another:2.0: the registry {REGISTRY} cannot be asked" in result.msg
        assert "connection refused" in result.msg
        assert "Nothing was changed" in result.msg
        assert list(specs(swarm)) == ["moving"]
        assert "Env" not in specs(swarm)["moving"]["TaskTemplate"]["ContainerSpec"]
    finally:
        cluster.start_registry()


def test_missing_image(swarm: Swarm, clean: Callable[[], None]) -> None:
    """An image that does not exist stops the run before anything is changed."""
    wanted = [service(swarm, "good", "ms"), {**service(swarm, "bad", "wk-1"), "image": f"{REGISTRY}/tiny:9.9"}]
    for check in (True, False):
        message = refuse("swarm_services", swarm.manager, check=check, project="lab", services=wanted)
        assert f"image {REGISTRY}/tiny:9.9: the registry {REGISTRY} does not give it" in message
        assert "manifest unknown" in message
    assert not specs(swarm)


def test_wrong_options(swarm: Swarm) -> None:
    """Everything that is wrong with the wanted services is told at once."""
    wanted = [
        service(swarm, "a", "ms", env={"CONVERT_CSVS": False}),
        service(swarm, "b", "ms", ports=[{"target": 80, "published": 80, "mode": "ingress"}]),
        service(swarm, "c", "ms", ports=[{"target": 80, "published": 80}], update={"order": "start-first"}),
        service(swarm, "d", "ms", mounts=[{"source": "data", "target": "/data"}]),
        service(swarm, "e", "ms", healthcheck={"test": "true", "interval": "1 fortnight"}),
        service(swarm, "f.g", "ms"),
        {**service(swarm, "h", "ms"), "networks": [{"name": "nonesuch"}]},
        service(swarm, "i", "ms"),
        service(swarm, "i", "ms"),
    ]
    message = refuse("swarm_services", swarm.manager, project="lab", services=wanted)
    for words in (
        "service a.env.CONVERT_CSVS: the value is False, not a text. Put it in quotes",
        "service b.ports: the port 80 is published in ingress mode",
        "service c.update.order: the service publishes the port 80 on its host",
        "service d.mounts: the source data is not an absolute path",
        "service e.healthcheck.interval: '1 fortnight' is not a duration",
        "service f.g: the name may have letters",
        "service h.networks: there is no overlay network called nonesuch in the swarm (there are: mip-federation",
        "service i: given more than once",
    ):
        assert words in message
    assert "Supported parameters include" in refuse("swarm_services", swarm.manager, project="lab", services=[{**wanted[0], "envv": {}}])


def test_foreign_service_is_not_touched(swarm: Swarm, clean: Callable[[], None]) -> None:
    """A service of somebody else stays as it is, even when its name is wanted, and with prune."""
    client = swarm.manager.client()
    template = {"ContainerSpec": {"Image": swarm.image}, "Placement": {"Constraints": ["node.labels.name==ms"]}}
    client.create_service(template, name="theirs")
    client.create_service(template, name="other-federation", labels={PROJECT_LABEL: "other"})
    before = specs(swarm)
    for name, words in (("theirs", "does not belong to this federation"), ("other-federation", "belongs to the federation other")):
        message = refuse(
            "swarm_services", swarm.manager, project="lab", services=[service(swarm, name, "ms"), service(swarm, "ours", "ms")]
        )
        assert words in message
    result = deploy(swarm, service(swarm, "ours", "ms"), prune=True)
    assert not result.failed
    assert result["orphans"] == []
    assert {name: spec for name, spec in specs(swarm).items() if name != "ours"} == before


def test_crash_at_start(swarm: Swarm, clean: Callable[[], None]) -> None:
    """A program that ends at once: node, exit code and last log lines are told, and the service is removed again."""
    wanted = service(swarm, "crashing", "wk-1", command=["/bin/sh", "-c", "echo cannot open the database; exit 3"], restart={"delay": "1s"})
    result = deploy(swarm, service(swarm, "good", "ms"), wanted)
    item = failed(result, "crashing")
    assert (item["kind"], item["action"]) == ("crash", "failed")
    assert "non-zero exit (3)" in item["error"]
    assert item["log"] == ["cannot open the database"]
    assert "crashing on wk-1: " in result.msg
    assert "cannot open the database" in result.msg
    assert "Removed again: crashing" in result.msg
    assert list(specs(swarm)) == ["good"]
    kept = deploy(swarm, wanted, on_failure="keep")
    assert kept.failed
    assert sorted(specs(swarm)) == ["crashing", "good"]
    # The next run looks at it again: nothing to change, but still not right.
    again = deploy(swarm, wanted, timeout=20)
    assert again.failed
    assert action(again, "crashing") == "failed"
    info = succeed("swarm_info", swarm.manager, project="lab")
    assert any(entry["code"] == "service-down" and "crashing on wk-1" in entry["message"] for entry in info["problems"])


def test_missing_bind_source(swarm: Swarm, clean: Callable[[], None]) -> None:
    """A folder that is not there."""
    began = time.monotonic()
    result = deploy(swarm, service(swarm, "unbound", "wk-1", mounts=[{"source": "/nonexistent/data", "target": "/data"}]))
    item = failed(result, "unbound")
    assert item["kind"] == "mount"
    assert "bind source path does not exist: /nonexistent/data" in item["error"]
    assert item["fix"] == "on that node: mkdir -p /nonexistent/data"
    assert "unbound on wk-1" in result.msg
    assert time.monotonic() - began < 20
    assert not specs(swarm)


def test_what_was_mended_counts_no_more(swarm: Swarm, clean: Callable[[], None], tmp_path: Path) -> None:
    """The swarm tries again by itself: what failed before the repair is no failure of a deploy that changes nothing."""
    data = tmp_path / "data"
    data.mkdir()
    wanted = service(swarm, "mended", "wk-1", mounts=[{"source": str(data), "target": "/data"}], restart={"delay": "15s"})
    assert not deploy(swarm, wanted).failed
    manager = swarm.manager.client()
    data.rmdir()
    worker = swarm.worker.client()
    for container in worker.containers(filters={"name": "mended"}):
        worker.kill(container["Id"])
    wait_for(
        lambda: [task for task in manager.tasks(filters={"service": "mended"}) if task["Status"]["State"] == "rejected"], 60, "the failure"
    )
    data.mkdir()
    result = deploy(swarm, wanted)
    assert not result.failed, result.msg
    assert action(result, "mended") == "unchanged"


def test_command_that_is_not_there(swarm: Swarm, clean: Callable[[], None]) -> None:
    """An image that cannot run."""
    item = failed(deploy(swarm, service(swarm, "nocommand", "wk-1", command=["/bin/nonesuch"])), "nocommand")
    assert item["kind"] == "start"
    assert "/bin/nonesuch" in item["error"]


def test_no_suitable_node(swarm: Swarm, clean: Callable[[], None]) -> None:
    """A label that no node has."""
    result = deploy(swarm, service(swarm, "nowhere", "wk-7"))
    item = failed(result, "nowhere")
    assert item["kind"] == "placement"
    assert "no suitable node" in item["error"]
    assert "no node of the swarm has the label name=wk-7" in item["fix"]
    result = deploy(swarm, service(swarm, "greedy", "wk-1", reservations={"memory_mb": 999999}))
    assert failed(result, "greedy")["kind"] == "resources"


def test_port_in_use(swarm: Swarm, clean: Callable[[], None]) -> None:
    """A port that a program outside Docker holds, and one that another service holds."""
    wanted = service(swarm, "porter", "wk-1", ports=[{"target": 80, "published": 8081}], restart={"delay": "1s"})
    with listening(swarm.worker, 8081):
        item = failed(deploy(swarm, wanted), "porter")
    assert item["kind"] == "port"
    assert "address already in use" in item["error"]
    assert "ss -ltnp" in item["fix"]
    assert not deploy(swarm, wanted).failed
    second = {**wanted, "name": "porter2"}
    item = failed(deploy(swarm, wanted, second), "porter2")
    assert item["kind"] == "port"
    assert "another service of the swarm" in item["fix"]
    assert list(specs(swarm)) == ["porter"]


def test_health_check_that_never_succeeds(swarm: Swarm, clean: Callable[[], None]) -> None:
    """Unhealthy containers, and a start that takes too long."""
    sick = service(
        swarm, "sick", "wk-1", restart={"delay": "1s"},
        healthcheck={"test": ["/bin/false"], "interval": 1, "timeout": 1, "retries": 1},
    )  # fmt: skip
    item = failed(deploy(swarm, sick), "sick")
    assert item["kind"] == "health"
    slow = service(swarm, "slow", "wk-1", healthcheck={"test": "exit 1", "interval": 1, "retries": 1, "start_period": 300})
    began = time.monotonic()
    item = failed(deploy(swarm, slow, timeout=8), "slow")
    assert item["kind"] == "health"
    assert "did not succeed within 8 s" in item["error"]
    assert time.monotonic() - began < 30


def test_bad_update_takes_everything_back(swarm: Swarm, clean: Callable[[], None]) -> None:
    """An update that fails in the second wave also takes back the first, and keeps what was created."""
    good = [
        service(swarm, "one", "ms", env={"V": "1"}, update={"monitor": 2}),
        service(swarm, "two", "wk-1", wave=1, env={"V": "1"}, update={"monitor": 2}),
    ]
    assert not deploy(swarm, *good).failed
    before = specs(swarm)
    bad = [
        {**good[0], "env": {"V": "2"}},
        {**good[1], "env": {"V": "2"}, "command": ["/bin/sh", "-c", "echo broken; exit 1"]},
        service(swarm, "new", "ms"),
        service(swarm, "later", "ms", wave=2),
    ]
    result = deploy(swarm, *bad)
    item = failed(result, "two")
    assert item["action"] == "rolled_back"
    assert item["kind"] == "crash"
    assert item["log"] == ["broken"]
    assert action(result, "one") == "rolled_back"
    assert "Went back to the previous specification: two, one" in result.msg or "one, two" in result.msg
    after = specs(swarm)
    assert after.pop("new")
    assert after == before
    client = swarm.manager.client()
    for name in ("one", "two"):
        tasks = client.tasks(filters={"service": name, "desired-state": "running"})
        assert [task["Status"]["State"] for task in tasks] == ["running"]
        assert tasks[0]["Spec"]["ContainerSpec"]["Env"] == ["V=1"]
    # The same, when the update never starts: the swarm itself would wait for ever.
    result = deploy(swarm, {**good[0], "env": {"V": "3"}}, {**good[1], "constraints": ["node.labels.name==gone"]})
    assert failed(result, "two")["kind"] == "placement"
    after = specs(swarm)
    after.pop("new")
    assert after == before
    assert not deploy(swarm, *good).changed


def test_interrupted_update_is_repaired(swarm: Swarm, clean: Callable[[], None]) -> None:
    """An update that stopped half-way (paused) is taken up again although the specification is already right."""
    wanted = service(
        swarm, "paused", "wk-1", command=["/bin/sh", "-c", "test -e /var/ok && exec sleep 10000; exit 1"],
        mounts=[{"type": "volume", "source": "paused", "target": "/var"}], restart={"condition": "none"},
        update={"monitor": 2, "failure_action": "pause"},
    )  # fmt: skip
    assert not deploy(swarm, {**wanted, "command": ["/bin/sh", "-c", "exec sleep 10000"]}).failed
    result = deploy(swarm, wanted, on_failure="keep")
    assert failed(result, "paused")["kind"] == "crash"
    client = swarm.manager.client()
    assert client.inspect_service("paused")["UpdateStatus"]["State"] == "paused"
    (swarm.worker.root / "volumes" / "paused" / "_data" / "ok").touch()
    planned = deploy(swarm, wanted)
    assert (planned.failed, planned.changed) == (False, True), planned.msg
    assert planned["diff"]["before"]["paused"]["interrupted_update"] == "paused"
    assert client.inspect_service("paused")["UpdateStatus"]["State"] != "paused"
    assert not deploy(swarm, wanted).changed


def test_node_that_cannot_be_reached(swarm: Swarm, clean: Callable[[], None]) -> None:
    """A service of a node that is down is applied but not waited for; if it is waited for, the reason is told."""
    both = [service(swarm, "here", "ms"), service(swarm, "there", "wk-1")]
    assert not deploy(swarm, *both).failed
    client = swarm.manager.client()
    swarm.worker.freeze()
    try:
        wait_for(lambda: client.inspect_node(swarm.node_ids["wk-1"])["Status"]["State"] == "down", 60, "the worker is down")
        changed = [{**item, "env": {"V": "2"}} for item in both]
        began = time.monotonic()
        result = deploy(swarm, changed[0], {**changed[1], "wait": False})
        assert not result.failed, result.msg
        assert [action(result, name) for name in ("here", "there")] == ["updated", "updated"]
        assert time.monotonic() - began < 30
        result = deploy(swarm, *[{**item, "env": {"V": "3"}} for item in both])
        item = failed(result, "there")
        assert "start its Docker engine" in item["fix"]
        assert action(result, "here") == "rolled_back"
    finally:
        swarm.worker.thaw()
    wait_for(lambda: client.inspect_node(swarm.node_ids["wk-1"])["Status"]["State"] == "ready", 60, "the worker is back")
    result = deploy(swarm, *changed)
    assert not result.failed, result.msg


def test_calls_at_the_same_time_take_turns(swarm: Swarm, clean: Callable[[], None]) -> None:
    """A killed run's call goes on; the next run's waits for it and then finds everything done."""
    wanted = [service(swarm, name, node) for name, node in (("first", "ms"), ("second", "wk-1"))]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = [future.result() for future in [pool.submit(deploy, swarm, *wanted) for _call in range(2)]]
    assert not any(result.failed for result in results), [result.data for result in results]
    assert sorted(action(result, "first") for result in results) == ["created", "unchanged"]
