# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ui_containers on a real engine."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.tests.helpers.engines import Engine, Engines
from ansible_collections.hbp.mip.tests.helpers.modules import Result

from .conftest import call, quad, refuse, succeed

pytestmark = pytest.mark.engine
HARD = "a'b\"$(id)`x` \\n;|&<>#%=*?!~ äß"


class Portal:
    """A set of containers on an engine."""

    def __init__(self, engine: Engine, image: str, folder: Path) -> None:
        self.engine, self.image, self.folder = engine, image, folder
        self.watched = folder / "pathologies.json"
        self.watched.write_text("[]")
        self.client = engine.client()

    def options(self, **backend: Any) -> dict[str, Any]:
        """A database, what fills it once, and a backend."""
        secret = {"name": "PASSWORD", "generate": "database"}
        return {
            "project": "lab",
            "network": "lab_portal",
            "directory": str(self.folder / "secrets"),
            "timeout": 60,
            "settle": 0.5,
            "containers": [
                {
                    "component": "database",
                    "image": self.image,
                    "args": ["sh", "-c", "touch /data/there; exec sleep 100000"],
                    "secrets": [secret],
                    "mounts": [{"type": "volume", "source": "lab_portal-database", "target": "/data"}],
                    "healthcheck": {"test": ["test", "-s", "/run/secrets/PASSWORD"], "interval": "1s"},
                    "stop_seconds": 1,
                },
                {"component": "create", "image": self.image, "once": True, "args": ["true"]},
                {
                    "component": "backend",
                    "image": self.image,
                    "args": ["sh", "-c", "exec sleep 100000"],
                    "env": {"VALUE": HARD},
                    "secrets": [{**secret, "environment": True}, {"name": "GIVEN", "value": HARD, "environment": True}],
                    "mounts": [{"source": str(self.folder), "target": "/api", "read_only": True}],
                    "watch": [str(self.watched)],
                    "healthcheck": {"test": ["test", "-f", "/api/pathologies.json"], "interval": "1s"},
                    "stop_seconds": 1,
                    "aliases": ["portalbackend"],
                    **backend,
                },
            ],
        }

    def apply(self, check: bool = False, **backend: Any) -> Result:
        """Run the module."""
        return succeed("ui_containers", self.engine, check=check, **self.options(**backend))

    def state(self, state: str, **more: Any) -> Result:
        """Run the module on what is there."""
        return succeed("ui_containers", self.engine, project="lab", directory=str(self.folder / "secrets"), state=state, settle=0.5, **more)

    def inspect(self, component: str) -> dict[str, Any]:
        """What the engine says of a container."""
        found: dict[str, Any] = self.client.inspect_container(f"lab_portal-{component}")
        return found

    def environment(self, component: str) -> dict[str, str]:
        """The environment of a container's first process, which its health check does not share."""
        pid = self.inspect(component)["State"]["Pid"]
        raw = self.engine.space.run("cat", f"/proc/{pid}/environ").stdout
        return dict(item.split("=", 1) for item in raw.split("\0") if item)


def actions(result: Result) -> dict[str, str]:
    """What was done to each."""
    return {item["component"]: item["action"] for item in result["containers"]}


def states(result: Result) -> dict[str, str]:
    """How each is."""
    return {item["component"]: item["state"] for item in result["containers"]}


@pytest.fixture
def portal(cluster: Engines, image: str, tmp_path: Path) -> Iterator[Portal]:
    """A portal of which nothing is left afterwards."""
    found = Portal(cluster[0], image, tmp_path)
    yield found
    call("ui_containers", cluster[0], project="lab", directory=str(tmp_path / "secrets"), state="absent")
    with contextlib.suppress(Exception):
        found.client.remove_volume("lab_portal-database")
    found.client.close()


def test_made_once_and_then_left_alone(portal: Portal) -> None:
    """Secrets arrive byte for byte, and the engine does not show them."""
    result = quad("ui_containers", portal.engine, **portal.options())
    assert states(result) == {"database": "up", "create": "done", "backend": "up"}
    password = (portal.folder / "secrets/generated/database").read_text()
    assert HARD not in json.dumps(result.data["diff"])
    found = portal.environment("backend")
    assert (found["PASSWORD"], found["GIVEN"], found["VALUE"]) == (password, HARD, HARD)
    for component in ("database", "backend"):
        shown = json.dumps(portal.inspect(component))
        assert password not in shown
    assert "GIVEN=" not in json.dumps(portal.inspect("backend"))
    assert portal.inspect("backend")["HostConfig"]["PortBindings"] == {}
    assert "portalbackend" in portal.inspect("backend")["NetworkSettings"]["Networks"]["lab_portal"]["Aliases"]


def test_only_what_differs_is_replaced(portal: Portal) -> None:
    """A changed file, a changed value, a changed secret; the data of the database stay."""
    portal.apply()
    database = portal.inspect("database")["Id"]
    portal.watched.write_text("[1]")
    assert actions(portal.apply()) == {"database": "unchanged", "create": "unchanged", "backend": "replaced"}
    changed = portal.apply(secrets=[{"name": "GIVEN", "value": "other", "environment": True}])
    assert actions(changed)["backend"] == "replaced"
    assert portal.environment("backend")["GIVEN"] == "other"
    assert portal.inspect("database")["Id"] == database
    assert {name for item in portal.client.containers(all=True) for name in item["Names"]} == {
        "/lab_portal-database",
        "/lab_portal-create",
        "/lab_portal-backend",
    }


def test_the_one_of_before_comes_back_when_the_new_one_fails(portal: Portal) -> None:
    """With the reason and the log of the one that failed."""
    portal.apply()
    before = portal.inspect("backend")["Id"]
    message = refuse("ui_containers", portal.engine, **portal.options(args=["sh", "-c", "echo it cannot work; exit 3"]))
    assert "code 3" in message
    assert "it cannot work" in message
    assert portal.inspect("backend")["Id"] == before
    assert portal.inspect("backend")["State"]["Running"]
    assert actions(portal.apply()) == dict.fromkeys(("database", "create", "backend"), "unchanged")


def test_an_older_version_of_what_keeps_data_is_refused(portal: Portal) -> None:
    """Before anything is changed, in check mode as well; unless somebody says so."""
    repository = portal.image.rpartition(":")[0]
    for tag in ("1.9", "1.10"):
        portal.client.tag(portal.image, repository, tag)
    portal.apply(image=f"{repository}:1.10", versioned_data=True)
    before = portal.inspect("backend")["Id"]
    older = portal.options(image=f"{repository}:1.9", versioned_data=True)
    for check in (True, False):
        message = refuse("ui_containers", portal.engine, check=check, **older)
        assert f"{repository}:1.9 is older than {repository}:1.10" in message
    assert portal.inspect("backend")["Id"] == before
    assert actions(succeed("ui_containers", portal.engine, **older, allow_downgrade=True))["backend"] == "replaced"
    assert actions(portal.apply(image=f"{repository}:1.10", versioned_data=True))["backend"] == "replaced"


def test_a_run_that_was_cut_off_is_put_right(portal: Portal) -> None:
    """The previous container is there under its other name, and no new one."""
    portal.apply()
    portal.client.stop("lab_portal-backend", timeout=1)
    portal.client.rename("lab_portal-backend", "lab_portal-backend-previous")
    assert states(portal.apply())["backend"] == "up"
    assert not portal.apply().changed
    assert not [item for item in portal.client.containers(all=True) if "previous" in item["Names"][0]]


def test_stopped_on_purpose_stays_stopped(portal: Portal) -> None:
    """Also when it is made anew, until it is started again."""
    portal.apply()
    assert portal.state("stopped", only=["backend"], reason="maintenance").changed
    assert not portal.state("stopped", only=["backend"]).changed
    assert actions(portal.apply())["backend"] == "unchanged"
    found = portal.apply(env={"VALUE": "new"})
    assert (actions(found)["backend"], states(found)["backend"]) == ("replaced", "stopped")
    seen = portal.state("queried", only=["backend"])["containers"]
    assert [item["stopped"]["reason"] for item in seen] == ["maintenance"]
    assert portal.state("started").changed
    assert states(portal.state("queried")) == {"database": "up", "create": "done", "backend": "up"}
    assert not portal.state("started").changed


def test_what_died_is_started_again(portal: Portal) -> None:
    """By the next run, which does not make it anew."""
    portal.apply()
    before = portal.inspect("database")["Id"]
    portal.client.stop("lab_portal-database", timeout=1)
    assert actions(portal.apply())["database"] == "started"
    assert portal.inspect("database")["Id"] == before
    restarted = portal.state("restarted", only=["backend"])
    assert actions(restarted)["backend"] == "restarted"
    assert states(restarted)["backend"] == "up"


def test_what_is_not_wanted_any_more_is_removed(portal: Portal) -> None:
    """And nothing that is not the project's."""
    portal.apply()
    foreign = portal.client.create_container(portal.image, name="foreign")
    options = portal.options()
    options["containers"] = options["containers"][:2]
    try:
        assert actions(succeed("ui_containers", portal.engine, **options))["backend"] == "removed"
        assert portal.state("absent").changed
        assert not portal.state("absent").changed
        assert [item["Names"] for item in portal.client.containers(all=True)] == [["/foreign"]]
        assert "lab_portal-database" in [volume["Name"] for volume in portal.client.volumes()["Volumes"]]
    finally:
        portal.client.remove_container(foreign["Id"], force=True)


def test_errors_name_what_is_wrong(portal: Portal) -> None:
    """Before anything is changed."""
    options = portal.options()
    options["containers"][2]["image"] = portal.image.replace("tiny", "absent")
    assert "absent" in refuse("ui_containers", portal.engine, **options)
    assert "lab_portal-database" not in str(portal.client.containers(all=True))
    gone = call("ui_containers", portal.engine, project="lab", directory=str(portal.folder), state="stopped", only=["nothing"])
    assert gone.failed
    assert "nothing" in gone.msg
