# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Other images for a running federation: pinned, upgraded with the API asked throughout, rolled back, saved and loaded."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import INVENTORY, Lab

pytestmark = pytest.mark.in_order


class Asked:
    """Asks the engine's API all the time; remembers when it did not answer."""

    def __init__(self, lab: Lab) -> None:
        self.url = f"http://{lab.hosts[lab.master]}:9090/mining/query/HEALTH_CHECK"
        self.answers: list[tuple[float, str]] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._ask, daemon=True)

    def _ask(self) -> None:
        while not self.over.wait(0.5):
            done = subprocess.run(["curl", "-sS", "-m", "10", "-X", "POST", self.url], capture_output=True, text=True, check=False)
            nodes = ""
            with contextlib.suppress(ValueError, KeyError, TypeError):
                nodes = json.loads(done.stdout)["active_nodes"]
            self.answers.append((time.time(), nodes))

    def __enter__(self) -> Asked:
        self.thread.start()
        return self

    def __exit__(self, *_unused: object) -> None:
        self.over.set()
        self.thread.join(60)

    def silent(self, before: float) -> list[float]:
        """Return when, before some time, the API did not answer."""
        return [when for when, nodes in self.answers if when < before and not nodes]


def inventory_files() -> dict[Path, bytes]:
    """Return what an upgrade may change only when all went well."""
    return {path: path.read_bytes() for path in (INVENTORY / "group_vars/all/main.yml", INVENTORY / "images.lock")}


def engine() -> str:
    """Return the engine's image as the inventory names it."""
    return str(yaml.safe_load((INVENTORY / "group_vars/all/main.yml").read_text())["mip_engine"]["image"])


def running(lab: Lab) -> dict[str, str]:
    """Return the image of each service, with its digest."""
    shown = "{{.Spec.Name}} {{.Spec.TaskTemplate.ContainerSpec.Image}}"
    names = lab.ssh(lab.master, f"docker service ls -q | xargs docker service inspect -f '{shown}'")
    return dict(line.split() for line in names.splitlines())


def created(lab: Lab, service: str) -> float:
    """Return when the newest task of a service was ordered, by the master's clock."""
    tasks = lab.ssh(lab.master, f"docker service ps -q --no-trunc {service} | xargs docker inspect -f '{{{{.CreatedAt}}}}'").splitlines()
    stamp = max(line.split(".")[0] for line in tasks)
    return float(lab.ssh(lab.master, f"date -u -d '{stamp}' +%s"))


@pytest.fixture(scope="module", autouse=True)
def inventory(machines: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave the inventory as it was found: these tests write files that others do not expect."""
    main = INVENTORY / "group_vars/all/main.yml"
    kept = main.read_bytes()
    yield
    for path in (INVENTORY / "images.lock", INVENTORY / "federation.lock"):
        path.unlink(missing_ok=True)
    main.write_bytes(kept)
    machines.run("deploy", "-y")


@pytest.fixture
def fed(machines: Lab) -> Lab:
    """The federation as the test before has left it: the fixture `lab` would put the inventory back after each test."""
    return machines


def test_an_image_is_pinned_and_a_deploy_runs_it(federation: Lab) -> None:
    done = federation.json("image", "lock")
    digests = {image["name"]: image["digest"] for image in done["result"]["images"]}
    assert federation.json("image", "lock")["result"]["changed"] is False
    # The services run these digests already: nothing has to be restarted for that.
    assert federation.json("deploy", "-y")["result"]["changed"] == 0
    images = running(federation)
    assert images[f"{federation.master}_exareme-keystore"].endswith("@" + digests["keystore"])
    assert {image.split("@")[1] for name, image in images.items() if "keystore" not in name} == {digests["engine"]}


def test_a_stale_lock_is_told_before_anything_is_changed(federation: Lab) -> None:
    federation.run("image", "lock")
    federation.variables(mip_engine={"image": engine().replace(":1.0", ":1.1")})
    for arguments in (("plan",), ("deploy", "-y")):
        done = federation.run(*arguments, code=4)
        assert "images-lock-stale" in done.stderr and "upgrade --set engine=" in done.stderr, done.stderr
    assert all(":1.1" not in image for image in running(federation).values())


def test_upgrade_with_the_api_asked_throughout(fed: Lab) -> None:
    fed.run("image", "lock")
    fed.run("deploy", "-y")
    before, new = running(fed), engine().replace(":1.0", ":1.1")
    planned = fed.run("upgrade", "--set", f"engine={new}", "--check")
    assert "Upgrade" in planned.stdout and running(fed) == before
    with Asked(fed) as asked:
        done = fed.json("upgrade", "--set", f"engine={new}", "-y")
    assert done["result"]["new"] is True
    images = running(fed)
    assert {image.split("@")[0] for name, image in images.items() if "keystore" not in name} == {new}
    assert images[f"{fed.master}_exareme-keystore"] == before[f"{fed.master}_exareme-keystore"]
    # The workers were changed one after the other, the first as the canary, and the API answered until the master's turn.
    ordered = [created(fed, f"{name}_exareme") for name in fed.workers]
    last = created(fed, f"{fed.master}_exareme-master")
    assert ordered == sorted(ordered) and last >= ordered[-1]
    assert asked.answers and asked.silent(last) == [], asked.answers
    assert fed.all_active()
    assert engine() == new
    locked = {image["name"]: image for image in yaml.safe_load((INVENTORY / "images.lock").read_text())["images"]}
    assert locked["engine"]["reference"] == new and images[f"{fed.workers[0]}_exareme"].endswith(locked["engine"]["digest"])
    assert fed.json("upgrade", "--set", f"engine={new}", "-y")["result"]["new"] is False
    assert fed.json("deploy", "-y")["result"]["changed"] == 0


def test_a_bad_image_goes_back_and_the_old_one_serves(fed: Lab) -> None:
    before, files = running(fed), inventory_files()
    bad = engine().rpartition(":")[0] + ":crash"
    with Asked(fed) as asked:
        done = fed.run("upgrade", "--set", f"engine={bad}", "-y", code=5)
    assert "the canary" in done.stderr and "Went back to the previous specification" in done.stderr, done.stderr
    assert "the program in the container ended by itself" in done.stderr or "always fails at the start" in done.stderr, done.stderr
    assert running(fed) == before and inventory_files() == files
    assert asked.silent(time.time()) == []
    assert fed.all_active()
    missing = fed.run("upgrade", "--set", f"engine={bad}-not-there", "-y", code=4)
    assert "image-not-had" in missing.stderr
    assert fed.run("lock", "status").stdout.startswith("Nobody holds the lock")
    assert fed.json("deploy", "-y")["result"]["changed"] == 0


def test_rollback_to_the_release_before(fed: Lab) -> None:
    releases = fed.json("release", "ls")["result"]["releases"]
    assert releases[0]["made_by"] == "upgrade" and releases[0]["images"]["engine"]["reference"].endswith(":1.1")
    done = fed.json("rollback", "-y")
    assert done["result"]["images"]["engine"]["reference"].endswith(":1.0")
    assert engine().endswith(":1.0") and fed.all_active()
    assert {image.split("@")[0] for name, image in running(fed).items() if "keystore" not in name} == {engine()}
    newest = fed.json("release", "show")["result"]
    assert newest["made_by"] == "rollback" and newest["services"][f"{fed.workers[0]}_exareme"]["spec_sha256"]
    assert fed.json("deploy", "-y")["result"]["changed"] == 0


def test_a_release_whose_image_is_gone_is_refused(fed: Lab) -> None:
    before = running(fed)
    number = max(int(path.stem) for path in (INVENTORY / "state/releases").iterdir()) + 1
    record = yaml.safe_load((INVENTORY / f"state/releases/{number - 1}.yml").read_text())
    record["images"]["engine"]["digest"] = "sha256:" + "0" * 64
    path = INVENTORY / f"state/releases/{number}.yml"
    path.write_text(yaml.safe_dump({**record, "release": number}))
    try:
        done = fed.run("rollback", str(number), "-y", code=4)
    finally:
        path.unlink()
    assert "image-not-had" in done.stderr and "not every node that needs it has it" in done.stderr
    assert running(fed) == before


def test_a_node_without_a_route_to_the_registry_gets_its_images_in_a_file(fed: Lab, tmp_path: Path) -> None:
    worker, registry = fed.workers[-1], engine().partition("/")[0]
    host, _colon, port = registry.partition(":")
    hosts = INVENTORY / "hosts.yml"
    kept = hosts.read_bytes()
    document: dict[str, Any] = yaml.safe_load(kept)
    fed.variables(mip_engine={"image": engine().replace(":1.0", ":1.1")})
    fed.run("image", "lock")
    bundle = tmp_path / "images.tar"
    saved = fed.json("image", "save", "--to", str(bundle))["result"]
    assert {file["reference"] for file in saved["artefacts"] if file.get("reference")} >= {engine()}
    rule = f"OUTPUT -p tcp -d {host} --dport {port} -j REJECT"
    fed.ssh(worker, f"iptables -I {rule}")
    try:
        # So that it can come only from the file.
        fed.ssh(worker, "docker image prune -af")
        damaged = tmp_path / "damaged.tar"
        data = bytearray(bundle.read_bytes())
        data[len(data) // 2] ^= 1
        damaged.write_bytes(data)
        refused = fed.run("image", "load", str(damaged), "-l", worker, "-y", code=4)
        assert "is not what was signed" in refused.stderr, refused.stderr
        loaded = fed.json("image", "load", str(bundle), "-l", worker, "-y")["result"]["nodes"]
        assert len(loaded[worker]["loaded"]) == 1
        again = fed.json("image", "load", str(bundle), "-l", worker, "-y")["result"]["nodes"]
        assert again[worker] == {"there": loaded[worker]["loaded"], "loaded": [], "error": ""}
        document["all"]["children"]["workers"]["hosts"][worker]["mip_image_source"] = "loaded"
        hosts.write_text(yaml.safe_dump(document))
        fed.run("deploy", "-y")
        assert running(fed)[f"{worker}_exareme"] == loaded[worker]["loaded"][0]
        assert fed.all_active()
        assert fed.json("deploy", "-y")["result"]["changed"] == 0
    finally:
        fed.ssh(worker, f"iptables -D {rule}")
        hosts.write_bytes(kept)
