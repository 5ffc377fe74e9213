# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Specifications of services: building, comparing, and explaining failed tasks."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _services

ANSWERS: dict[str, Any] = json.loads(Path(__file__).with_name("engine_answers.json").read_text(encoding="utf-8"))
NETWORKS = {"mip-federation": "net1"}
SECOND = 1_000_000_000


def build(**options: Any) -> dict[str, Any]:
    return _services.build_spec({"name": "svc", "image": "tiny:1", **options}, "lab", NETWORKS, {"key": "s1"}, {"conf": "c1"})


def recorded(version: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was wanted, as a specification, and what an engine of that version answered."""
    answer = ANSWERS[version]
    spec = _services.build_spec(answer["options"], "lab", {"mip-federation": answer["network_id"]}, {}, {})
    return _services.with_image(spec, _services.image_of(answer["service"]["Spec"])), answer


@pytest.mark.parametrize("version", sorted(ANSWERS))
def test_what_engines_answer_is_what_was_wanted(version: str) -> None:
    wanted, answer = recorded(version)
    assert _services.canonical(answer["service"]["Spec"]) == _services.canonical(wanted)
    assert not _services.tasks_are_replaced(answer["service"]["Spec"], wanted)
    assert _services.of_template([answer["task"]], wanted["TaskTemplate"]) == [answer["task"]]
    assert _services.running([answer["task"]]) == [answer["task"]]


@pytest.mark.parametrize("version", sorted(ANSWERS))
@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("TaskTemplate", "ContainerSpec", "Env"), ["A=other"]),
        (("TaskTemplate", "ContainerSpec", "Args"), ["sleep", "1000", ""]),
        (("TaskTemplate", "ContainerSpec", "Init"), False),
        (("TaskTemplate", "ContainerSpec", "StopGracePeriod"), 10 * SECOND),
        (("TaskTemplate", "ContainerSpec", "Healthcheck"), {"Test": ["NONE"]}),
        (("TaskTemplate", "ContainerSpec", "Mounts"), None),
        (("TaskTemplate", "ContainerSpec", "User"), "root"),
        (("TaskTemplate", "Resources", "Limits"), {}),
        (("TaskTemplate", "RestartPolicy", "MaxAttempts"), 0),
        (("TaskTemplate", "Placement", "Constraints"), []),
        (("TaskTemplate", "Networks"), []),
        (("TaskTemplate", "LogDriver"), None),
        (("Mode",), {"Replicated": {"Replicas": 0}}),
        (("Mode",), {"Global": {}}),
        (("Labels",), {}),
        (("UpdateConfig", "Order"), "start-first"),
        (("UpdateConfig", "FailureAction"), "pause"),
        (("EndpointSpec", "Mode"), "vip"),
        (("EndpointSpec", "Ports"), []),
    ],
)
def test_every_change_is_a_difference(version: str, path: tuple[str, ...], value: Any) -> None:
    wanted, answer = recorded(version)
    found = copy.deepcopy(answer["service"]["Spec"])
    holder = found
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    assert _services.canonical(found) != _services.canonical(wanted)
    replaced = path[0] in ("TaskTemplate", "EndpointSpec")
    assert _services.tasks_are_replaced(found, wanted) is replaced


def test_forms_that_mean_the_same() -> None:
    wanted = build(env={"A": 1, "B": "2"}, constraints=["node.role==worker", "node.labels.name==x"], networks=[{"name": "mip-federation"}])
    found = copy.deepcopy(wanted)
    container = found["TaskTemplate"]["ContainerSpec"]
    container.update(Env=["B=2", "A=1"], DNSConfig={}, Isolation="default", Privileges=None, Mounts=[], Init=None, OomScoreAdj=0)
    container["StopGracePeriod"] = 10 * SECOND
    found["TaskTemplate"]["Placement"] = {"Constraints": ["node.labels.name == x", "node.role == worker"], "Platforms": [{"OS": "linux"}]}
    found["TaskTemplate"]["ForceUpdate"] = 4
    found["TaskTemplate"]["Resources"] = None
    found["Networks"] = found["TaskTemplate"].pop("Networks")
    found["EndpointSpec"]["Ports"] = None
    assert _services.canonical(found) == _services.canonical(wanted)


def test_init_false_is_not_unset() -> None:
    assert _services.canonical(build(init=False)) != _services.canonical(build())


def test_defaults_of_a_small_service() -> None:
    spec = build()
    assert spec["Labels"] == {_services.PROJECT_LABEL: "lab"}
    assert spec["EndpointSpec"] == {"Mode": "dnsrr", "Ports": []}
    assert spec["TaskTemplate"]["RestartPolicy"] == {"Condition": "any", "Delay": 5 * SECOND}
    assert spec["UpdateConfig"]["FailureAction"] == "rollback"
    assert spec["Mode"] == {"Replicated": {"Replicas": 1}}


def test_secrets_and_configs() -> None:
    container = build(secrets=[{"name": "key", "mode": "0400"}], configs=[{"name": "conf", "target": "/etc/x", "uid": "5"}])[
        "TaskTemplate"
    ]["ContainerSpec"]
    assert container["Secrets"] == [{"SecretID": "s1", "SecretName": "key", "File": {"Name": "key", "UID": "0", "GID": "0", "Mode": 0o400}}]
    assert container["Configs"][0]["File"] == {"Name": "/etc/x", "UID": "5", "GID": "0", "Mode": 0o444}
    with pytest.raises(_services.SpecError, match="there is no secret called other in the swarm"):
        build(secrets=[{"name": "other"}])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"env": {"A": True}}, r"service svc\.env\.A: the value is True"),
        ({"env": {"A": None}}, r"the value is null"),
        ({"env": {"A": [1]}}, r"must be a text"),
        ({"ports": [{"target": 80, "mode": "ingress"}]}, r"published in ingress mode"),
        ({"ports": [{"target": 80, "published": 8}], "update": {"order": "start-first"}}, r"use stop-first"),
        ({"ports": [{"target": 99999}]}, r"99999 is not a port"),
        ({"mounts": [{"type": "bind", "source": "x", "target": "/x"}]}, r"the source x is not an absolute path"),
        ({"mounts": [{"type": "bind", "source": "/x", "target": "x"}]}, r"the target x is not an absolute path"),
        ({"mounts": [{"type": "volume", "target": "/x"}]}, r"needs a source"),
        ({"mounts": [{"type": "tmpfs", "target": "/x"}, {"type": "tmpfs", "target": "/x/"}]}, r"/x is a target more than once"),
        ({"networks": [{"name": "other"}]}, r"no overlay network called other in the swarm \(there are: mip-federation\)"),
        ({"stop_grace_period": "soon"}, r"service svc\.stop_grace_period: 'soon' is not a duration"),
        ({"name": "a b"}, r"the name may have letters"),
        ({"name": "x" * 64}, r"at most 63 characters"),
    ],
)
def test_services_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(_services.SpecError, match=words):
        build(**options)


@pytest.mark.parametrize(
    ("text", "seconds"), [(5, 5), ("5", 5), ("0.5", 0.5), ("1m30s", 90), ("500ms", 0.5), ("2h", 7200), (2.5, 2.5), ("10us", 0.00001)]
)
def test_durations(text: Any, seconds: float) -> None:
    assert _services.nanoseconds(text, "x") == int(seconds * SECOND)


@pytest.mark.parametrize(
    ("image", "bare", "registry", "pinned"),
    [
        ("tiny", "tiny:latest", "docker.io", False),
        ("a/b:1", "a/b:1", "docker.io", False),
        ("10.77.1.1:5000/exareme:1.0", "10.77.1.1:5000/exareme:1.0", "10.77.1.1:5000", False),
        ("10.77.1.1:5000/exareme", "10.77.1.1:5000/exareme:latest", "10.77.1.1:5000", False),
        ("ghcr.io/a/b:2@sha256:" + "0" * 64, "ghcr.io/a/b:2", "ghcr.io", True),
        ("localhost/x:1", "localhost/x:1", "localhost", False),
    ],
)
def test_image_names(image: str, bare: str, registry: str, pinned: bool) -> None:
    assert _services.without_digest(image) == bare
    assert _services.registry_of(image) == registry
    assert _services.is_pinned(image) is pinned


@pytest.mark.parametrize(
    ("states", "stumbles"),
    [
        ([], False),
        ([("running", "08:00:00")], False),
        ([("running", "09:59:50"), ("failed", "09:59:45")], True),
        ([("ready", "09:59:50"), ("rejected", "09:59:45")], True),
        # What has run for a while is over it.
        ([("running", "09:59:20"), ("failed", "09:59:10")], False),
        ([("running", "09:59:50"), ("shutdown", "09:59:45")], False),
    ],
)
def test_what_has_failed_until_now_must_be_seen_to_run(states: list[tuple[str, str]], stumbles: bool) -> None:
    tasks = [
        {
            "DesiredState": "shutdown" if state in _services.ENDED else "running",
            "Status": {"State": state, "Timestamp": f"2026-11-23T{at}.123456789Z"},
        }
        for state, at in states
    ]
    assert _services.stumbles(tasks, "2026-11-23T09:59:30Z") is stumbles


@pytest.mark.parametrize(
    ("answer", "reached", "words"),
    [
        ("manifest unknown: manifest unknown", True, "correct the name or the tag"),
        ("errors: denied: requested access to the resource is denied unauthorized: authentication required", True, "wants a login"),
        ("Get https://r:5000/v2/: http: server gave HTTP response to HTTPS client", False, "add r:5000 to insecure-registries"),
        ("Get https://r:5000/v2/: x509: certificate signed by unknown authority", False, "/etc/docker/certs.d/r:5000/ca.crt"),
        ("dial tcp: lookup r on 10.0.0.1:53: no such host", False, "cannot resolve r:5000"),
        ("dial tcp 10.0.0.9:5000: connect: connection refused", False, "curl -v http://r:5000/v2/"),
        ("Client.Timeout exceeded while awaiting headers", False, "curl"),
    ],
)
def test_registry_answers(answer: str, reached: bool, words: str) -> None:
    found, fix = _services.explain_registry("r:5000/x:1", answer)
    assert found is reached
    assert words in fix


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        ('invalid mount config for type "bind": bind source path does not exist: /data/lab', 0, "mount"),
        ("create v: volume name is too short, names should be at least two alphanumeric characters", 0, "mount"),
        ("No such image: 10.77.1.1:5000/exareme:1.0@sha256:00", 0, "image"),
        ("task: non-zero exit (1)", 1, "crash"),
        ("task: non-zero exit (137): dockerexec: unhealthy container", 137, "health"),
        ("task: non-zero exit (137)", 137, "memory"),
        ("no suitable node (scheduling constraints not satisfied on 3 nodes)", 0, "placement"),
        ("no suitable node (host-mode port already in use on 1 node)", 0, "port"),
        ("no suitable node (insufficient resources on 2 nodes)", 0, "resources"),
        ("no suitable node (unsupported platform on 2 nodes)", 0, "start"),
        ("starting container failed: driver failed programming connectivity: listen tcp4 0.0.0.0:9090: bind: address already in use",
         0, "port"),
        ('starting container failed: failed to create shim: OCI runtime create failed: exec: "x": executable file not found', 0, "start"),
        ("network sandbox join failed: subnet sandbox join failed", 0, "network"),
        ("something new", 0, "other"),
    ],
)  # fmt: skip
def test_diagnosis(error: str, code: int, kind: str) -> None:
    failure = _services.diagnose(error, "x:1", code)
    assert failure.kind == kind
    assert failure.error == error
    assert failure.fix


def test_fix_of_a_missing_folder_names_it() -> None:
    failure = _services.diagnose('invalid mount config for type "bind": bind source path does not exist: /data/lab', "x")
    assert failure.fix == "on that node: mkdir -p /data/lab"


def test_task_errors() -> None:
    assert _services.task_error({"Status": {"State": "running"}}) == ""
    assert _services.task_error({"Status": {"State": "failed", "Err": " a\n b "}}) == "a b"
    assert _services.task_error({"Status": {"State": "failed", "ContainerStatus": {"ExitCode": 3}}}) == "exit code 3"
    assert _services.task_error({"Status": {"State": "rejected", "Message": "preparing"}}) == "preparing"


def test_tasks_of_a_forced_restart_are_told_apart() -> None:
    template = build()["TaskTemplate"]
    old = {"ID": "old", "Spec": template}
    new = {"ID": "new", "Spec": {**template, "ForceUpdate": 1}}
    assert _services.of_template([old, new], {**template, "ForceUpdate": 1}) == [new]


def test_interrupted_updates() -> None:
    assert _services.needs_repair({"UpdateStatus": {"State": "paused"}})
    assert _services.needs_repair({"UpdateStatus": {"State": "rollback_paused"}})
    for state in ("completed", "updating", "rollback_completed", ""):
        assert not _services.needs_repair({"UpdateStatus": {"State": state}})
    assert not _services.needs_repair({})


def test_readable_diff() -> None:
    spec = build(networks=[{"name": "mip-federation"}], limits={"memory_mb": 64}, healthcheck={"test": "true", "interval": "1m"})
    shown = _services.readable(spec, {"net1": "mip-federation"})
    assert shown["TaskTemplate"]["Networks"] == [{"Target": "mip-federation"}]
    assert shown["TaskTemplate"]["Resources"]["Limits"] == {"MemoryBytes": "64MiB"}
    assert shown["TaskTemplate"]["ContainerSpec"]["Healthcheck"]["Interval"] == "60s"
    assert spec["TaskTemplate"]["Networks"] == [{"Target": "net1"}]
    assert _services.readable(None, {}) == {}
