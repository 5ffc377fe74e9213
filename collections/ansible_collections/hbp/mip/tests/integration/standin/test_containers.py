# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lab's images are built, pushed, pulled and run by a real Docker engine."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker.types import ContainerSpec, Healthcheck, NetworkAttachmentConfig, RestartPolicy, TaskTemplate
from jinja2.nativetypes import NativeEnvironment

from ansible_collections.hbp.mip.plugins.module_utils._lab_seed import Dataset
from ansible_collections.hbp.mip.tests.helpers.engines import REGISTRY, Engine, Engines, EnginesError
from ansible_collections.hbp.mip.tests.helpers.modules import Result, run_module
from ansible_collections.hbp.mip.tests.helpers.standin import PATHOLOGIES, ROLE, write_pathology

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

NETWORK = "mip-federation"
CACHE = "/var/cache/mip-lab/images"


def image_list() -> list[dict[str, Any]]:
    """The role's list of images, as Ansible hands it to the module."""
    variables = yaml.safe_load((ROLE / "vars/images.yml").read_text())
    environment = NativeEnvironment()
    environment.filters["combine"] = lambda first, second: {**first, **second}

    def resolve(value: Any) -> Any:
        if isinstance(value, str) and "{{" in value:
            return environment.from_string(value).render(role_path=str(ROLE), **known)
        if isinstance(value, dict):
            return {key: resolve(item) for key, item in value.items()}
        return [resolve(item) for item in value] if isinstance(value, list) else value

    known: dict[str, Any] = {}
    for name, value in variables.items():
        known[name] = resolve(value)
    return list(known["lab_image_list"])


def wait(check: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        answer = check()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.2)


class Host:
    """One engine with the images of the lab in its registry."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.client = engine.client()

    def images(self, *, check: bool = False, registry: str = REGISTRY) -> Result:
        prefix = self.engine.space.enter_network()
        return run_module("lab_images", {"cache": CACHE, "registry": registry, "images": image_list()}, check=check, prefix=prefix)

    def service(self, name: str, image: str, **more: Any) -> str:
        """Create a service of one task on the overlay. Returns its ID."""
        health = more.pop("healthcheck", None)
        container = ContainerSpec(f"{REGISTRY}/{image}", healthcheck=Healthcheck(**health) if health else None, hostname=name, **more)
        template = TaskTemplate(
            container, networks=[NetworkAttachmentConfig(NETWORK, aliases=[name])], restart_policy=RestartPolicy("any", delay=int(1e9))
        )
        return str(self.client.create_service(template, name=name, endpoint_spec={"Mode": "dnsrr"})["ID"])

    def container(self, service: str) -> dict[str, Any] | None:
        """The running container of a service."""
        found = self.client.containers(filters={"label": f"com.docker.swarm.service.name={service}"})
        return self.client.inspect_container(found[0]["Id"]) if found else None

    def healthy(self, service: str) -> bool:
        container = self.container(service)
        return bool(container and container["State"].get("Health", {}).get("Status") == "healthy")

    def run(self, service: str, *command: str) -> tuple[int, str]:
        """Run a command in the container of a service."""
        container = self.container(service)
        assert container is not None
        started = self.client.exec_create(container["Id"], list(command))
        output = self.client.exec_start(started["Id"]).decode()
        return self.client.exec_inspect(started["Id"])["ExitCode"], output

    def query(self, algorithm: str, **parameters: str) -> Any:
        """Ask the master, from inside its container."""
        body = json.dumps([{"name": name, "value": value} for name, value in parameters.items()])
        code = (
            "import sys, urllib.request as u, urllib.error as e\n"
            "try: print(u.urlopen(u.Request('http://127.0.0.1:9090/mining/query/' + sys.argv[1], sys.argv[2].encode())).read().decode())\n"
            "except e.HTTPError as error: print(error.read().decode())"
        )
        status, output = self.run("ms", "python3", "-c", code, algorithm, body if parameters else "")
        assert status == 0, output
        return json.loads(output)

    def logs(self, service: str) -> str:
        return b"".join(self.client.service_logs(service, stdout=True, stderr=True)).decode(errors="replace")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    if os.geteuid():
        pytest.skip("engines need root")
    for program in ("mmdebstrap", "skopeo"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (apt-get install {program})")
    try:
        engines = Engines(1)
    except EnginesError as error:
        pytest.fail(str(error))
    try:
        made = Host(engines[0], tmp_path_factory.mktemp("data"))
        yield made
        with contextlib.closing(made.client):
            engines[0].leave_swarm()
    finally:
        engines.close()


@pytest.fixture(scope="module")
def pushed(host: Host) -> Result:
    result = host.images()
    assert not result.failed, result.msg
    return result


@pytest.fixture(scope="module")
def federation(host: Host, pushed: Result, seeded: list[Dataset]) -> Host:
    """Keystore, master and one worker as services of a swarm, as a deployment makes them."""
    client = host.client
    client.init_swarm(advertise_addr=host.engine.address)
    client.create_network(NETWORK, driver="overlay", attachable=False)
    volume = {"Type": "volume", "Source": "keystore", "Target": "/consul/data"}
    host.service("exareme-keystore", "keystore:1.8.7", mounts=[volume], env=["CONSUL_BIND_INTERFACE=lo"])
    for name, role in (("ms", "master"), ("wk-1", "worker")):
        for pathology in PATHOLOGIES:
            held = [item for item in seeded if item.pathology == pathology and item.hospital == 1 and role == "worker"]
            write_pathology(host.folder / name / pathology, seeded, held)
        host.service(
            name,
            "exareme-standin:1.0",
            mounts=[{"Type": "bind", "Source": str(host.folder / name), "Target": "/root/exareme/data"}],
            env=[
                "CONSULURL=exareme-keystore:8500", f"NODE_NAME={name}", f"FEDERATION_ROLE={role}", "ENVIRONMENT_TYPE=PROD",
                "CONVERT_CSVS=FALSE", "LOG_LEVEL=INFO", "NODE_COMMUNICATION_TIMEOUT=30000", "STANDIN_KEYSTORE_INTERVAL=1",
            ],
            healthcheck={"test": ["CMD", "healthcheck"], "interval": int(1e9), "timeout": int(5e9), "retries": 60},
        )  # fmt: skip
    for name in ("ms", "wk-1"):
        wait(functools.partial(host.healthy, name), f"{name} is healthy")
    return host


def test_check_apply_apply_check(host: Host, pushed: Result) -> None:
    again, checked = host.images(), host.images(check=True)
    assert [pushed.changed, again.changed, checked.changed] == [True, False, False]
    assert [image["reference"] for image in pushed["images"]] == [
        f"{REGISTRY}/{name}" for name in ("exareme-standin:1.0", "exareme-standin:1.1", "exareme-standin:crash", "keystore:1.8.7")
    ]
    assert len({image["digest"] for image in pushed["images"]}) == 4


def test_only_what_is_missing_is_pushed(host: Host, pushed: Result) -> None:
    digest = pushed["images"][1]["digest"]
    code = (
        "import http.client, sys; c = http.client.HTTPConnection(sys.argv[1]); "
        "c.request('DELETE', f'/v2/exareme-standin/manifests/{sys.argv[2]}'); print(c.getresponse().status)"
    )
    done = subprocess.run(
        [*host.engine.space.enter_network(), sys.executable, "-c", code, REGISTRY, digest], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "202"
    planned = host.images(check=True)
    assert [image["pushed"] for image in planned["images"]] == [False, True, False, False]
    assert "exareme-standin:1.1: absent" in planned["diff"]["before"]
    result = host.images()
    assert [image["pushed"] for image in result["images"]] == [False, True, False, False]
    assert not any(image["built"] for image in result["images"])


def test_engine_knows_the_images(host: Host, pushed: Result) -> None:
    for image in pushed["images"]:
        found = host.client.inspect_distribution(image["reference"])
        assert found["Descriptor"]["digest"] == image["digest"]
        host.client.pull(image["reference"])
        described = host.client.inspect_image(image["reference"])
        assert f"{image['reference'].rpartition(':')[0]}@{image['digest']}" in described["RepoDigests"]
        labels = described["Config"]["Labels"]
        assert labels["org.opencontainers.image.version"] == image["tag"]
        assert (labels.get("eu.humanbrainproject.mip.standin") == "exareme") is (image["name"] == "exareme-standin")
    # The stand-in's variants and the keystore share the base.
    layers = [host.client.inspect_image(image["reference"])["RootFS"]["Layers"] for image in pushed["images"]]
    assert layers[0] == layers[1] == layers[2]
    assert layers[0][0] == layers[3][0]


def test_federation_of_containers(federation: Host) -> None:
    assert set(federation.query("HEALTH_CHECK")["active_nodes"].split(", ")) == {"ms", "wk-1"}
    assert federation.query("LIST_DATASET")["wk-1"]["dementia"] == ["dementia-h1", "dementia-h1-cohort2"]
    data = federation.query("DESCRIPTIVE_STATS", y="tiv", dataset="dementia-h1", pathology="dementia", filter="")["result"][0]
    assert data["type"] == "application/json"
    assert data["data"]["single"]["Total intracranial volume"]["dementia-h1"]["num_total"] >= 300


def test_address_is_that_of_the_overlay(federation: Host) -> None:
    container = federation.container("wk-1")
    assert container is not None
    addresses = {network["IPAddress"] for name, network in container["NetworkSettings"]["Networks"].items() if name == NETWORK}
    _code, output = federation.run(
        "ms", "python3", "-c", "import urllib.request as u; print(u.urlopen('http://exareme-keystore:8500/v1/kv/active_workers/wk-1?raw').read().decode())"
    )  # fmt: skip
    assert {output.strip()} == addresses


def test_default_health_checks_of_a_deployment_pass(federation: Host) -> None:
    """Those of the real engine: its API, and its SQL port."""
    master = "import urllib.request as u; u.urlopen('http://127.0.0.1:9090/mining/algorithms.json', timeout=5).read()"
    worker = "import socket; socket.create_connection(('127.0.0.1', 8888), 5).close()"
    assert federation.run("ms", "python3", "-c", master) == (0, "")
    assert federation.run("wk-1", "python3", "-c", worker) == (0, "")


def test_keystore_runs_without_rights(federation: Host) -> None:
    _code, identity = federation.run("exareme-keystore", "id", "-u")
    assert identity.strip() == "8500"
    _code, version = federation.run("exareme-keystore", "consul", "version")
    assert version.startswith("Consul v1.8.7")
    code, output = federation.run("exareme-keystore", "stat", "-c", "%u:%g %a", "/consul/data")
    assert (code, output.strip()) == (0, "8500:8500 700")


def test_lost_containers_are_replaced(federation: Host) -> None:
    """Each container is killed in turn. The swarm makes a new one with a new address, and the federation is complete again."""
    for name in ("exareme-keystore", "wk-1", "ms"):
        container = federation.container(name)
        assert container is not None
        old = container["Id"]
        federation.client.kill(old)

        def replaced(name: str = name, old: str = old) -> bool:
            now = federation.container(name)
            return now is not None and now["Id"] != old

        wait(replaced, f"{name} is replaced")

    def complete() -> bool:
        if not federation.container("ms"):
            return False
        try:
            answer = federation.query("HEALTH_CHECK")
        except (AssertionError, ValueError, http.client.HTTPException):
            return False
        return set(str(answer.get("active_nodes", "")).split(", ")) == {"ms", "wk-1"}

    wait(complete, "the federation is complete again", 90)
    data = federation.query("DESCRIPTIVE_STATS", y="tiv", dataset="dementia-h1", pathology="dementia", filter="")["result"][0]
    assert data["type"] == "application/json"


def test_stops_at_once(federation: Host) -> None:
    for name in ("wk-1", "exareme-keystore"):
        container = federation.container(name)
        assert container is not None
        begin = time.monotonic()
        federation.client.stop(container["Id"], timeout=30)
        assert time.monotonic() - begin < 8


def test_crash_variant_says_why(federation: Host) -> None:
    env = ["CONSULURL=x:1", "NODE_NAME=broken", "FEDERATION_ROLE=worker", "ENVIRONMENT_TYPE=PROD", "CONVERT_CSVS=FALSE"]
    service = federation.service("broken", "exareme-standin:crash", env=env)
    try:

        def failed() -> Any:
            tasks = federation.client.tasks({"service": service})
            return next((task for task in tasks if task["Status"]["State"] == "failed"), None)

        task = wait(failed, "the task fails")
        assert task["Status"]["ContainerStatus"]["ExitCode"] == 3
        assert "exareme-standin cannot start: this image always fails at the start" in federation.logs("broken")
    finally:
        federation.client.remove_service(service)
