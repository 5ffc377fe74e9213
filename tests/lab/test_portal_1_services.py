# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The web portal of a lab: stand-ins for its pages, and a real database, network and engine."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import INVENTORY, LAB, Lab

pytestmark = pytest.mark.in_order
HARD = "p'\"$(id)`x` \\n;|&<>#%=*?!~ äß"


def fetch(lab: Lab, path: str, data: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Ask the portal as a browser does."""
    request = urllib.request.Request(
        f"http://{lab.hosts[f'{LAB}-ui']}{path}",
        data=None if data is None else json.dumps(data).encode(),
        headers={"Content-Type": "application/json", **(headers or {})},
    )
    try:
        with urllib.request.urlopen(request, timeout=150) as answer:
            status, body = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read()
    try:
        return status, json.loads(body)
    except ValueError:
        return status, body.decode()


def components(lab: Lab) -> dict[str, str]:
    """How each component is."""
    return {entry["component"]: entry["state"] for entry in lab.json("ui", "status", code=None)["result"]["components"]}


def docker(lab: Lab, command: str) -> str:
    """Run docker on the ui machine."""
    return lab.ssh(f"{LAB}-ui", f"docker {command}")


UP = {"database": "up", "create-databases": "done", "backend": "up", "gateway": "up", "frontend": "up"}


def test_a_deploy_runs_the_portal_once(portal: Lab) -> None:
    """The second changes nothing, and plan says so."""
    portal.run("deploy", "-y")
    assert components(portal) == UP
    assert portal.json("deploy", "-y")["result"]["changed"] == 0
    assert portal.json("plan")["result"]["changes"] == []
    published = docker(portal, "ps --format '{{.Names}} {{.Ports}}'").splitlines()
    assert [line.split()[0] for line in published if "->" in line] == [f"{LAB}_portal-frontend"]


def test_secrets_are_in_files_that_only_root_reads(portal: Lab) -> None:
    """And in no answer of the engine."""
    ui = f"{LAB}-ui"
    state = f"/var/lib/mip/{LAB}/portal-state"
    assert portal.ssh(ui, f"stat -c %a {state}").strip() == "700"
    for name in ("database-admin", "database-portal"):
        password = portal.ssh(ui, f"cat {state}/generated/{name}").strip()
        assert len(password) >= 40
        assert password not in docker(portal, "inspect $(docker ps -aq)")


def test_pathologies_and_a_federated_statistic(portal: Lab) -> None:
    """From the page's server through gateway and backend to the engine on the master."""
    portal.run("data", "consolidate", "-y")
    portal.run("data", "compile", "-y")
    assert portal.all_active()
    status, page = fetch(portal, "/")
    assert status == 200
    assert "app.js" in page
    status, pathologies = fetch(portal, "/services/pathologies")
    assert status == 200
    first = pathologies[0]
    codes = [dataset["code"] for dataset in first["datasets"]]
    assert codes
    variable = next(iter(portal.api("LIST_VARIABLES", pathology=first["code"])))
    parameters = {"y": variable, "dataset": ",".join(codes), "pathology": first["code"], "filter": ""}
    algorithm = {"name": "DESCRIPTIVE_STATS", "parameters": [{"name": key, "value": value} for key, value in parameters.items()]}
    status, answer = fetch(portal, "/services/experiments", {"name": HARD, "algorithm": algorithm})
    assert (status, answer["status"]) == (200, "success"), answer
    assert set(next(iter(answer["result"][0]["data"]["single"].values()))) == set(codes)
    audited = portal.json("ui", "audit")["result"]["experiments"]
    assert (HARD, first["code"]) in [(entry["name"], entry["pathology"]) for entry in audited]
    others = [entry for entry in audited if entry["pathology"] != first["code"]]
    assert portal.json("ui", "experiments", "purge", "--pathology", "absent", "-y")["result"]["removed"] == 0
    purged = portal.json("ui", "experiments", "purge", "--pathology", first["code"], "-y")["result"]
    assert purged["removed"] == len(audited) - len(others)
    assert portal.ssh(f"{LAB}-ui", f"head -c 5 {purged['backups'][0]['path']}") == "PGDMP"
    assert portal.json("ui", "audit")["result"]["experiments"] == others


def test_the_pages_say_what_is_away(portal: Lab) -> None:
    """Words for people, not an empty page."""
    portal.run("ui", "stop", "backend", "--reason", "test", "-y")
    status, answer = fetch(portal, "/services/pathologies")
    assert status == 502
    assert "does not answer" in answer["message"]
    assert components(portal)["backend"] == "stopped"
    assert portal.json("deploy", "-y")["result"]["changed"] == 0
    portal.run("ui", "start")
    assert components(portal) == UP
    assert fetch(portal, "/services/pathologies")[0] == 200


def test_a_password_with_every_character_reaches_the_database(portal: Lab) -> None:
    """What was generated may be replaced by hand; the one-shot gives it to the database."""
    state = f"/var/lib/mip/{LAB}/portal-state/generated/database-portal"
    portal.ssh(f"{LAB}-ui", f"cat > {state}", content=HARD)
    portal.run("deploy", "-y")
    assert components(portal) == UP
    assert fetch(portal, "/services/experiments")[0] == 200


def test_the_portal_comes_back_with_its_machine(portal: Lab, power: Callable[[str, str], None]) -> None:
    """Without any command, after the machine's power was cut."""
    kept = fetch(portal, "/services/experiments")
    power(f"{LAB}-ui", "kill")
    power(f"{LAB}-ui", "on")
    deadline = time.monotonic() + 600
    while components(portal) != UP:
        assert time.monotonic() < deadline, components(portal)
        time.sleep(2)
    assert fetch(portal, "/services/experiments") == kept


def test_other_versions_keep_the_database(portal: Lab, tmp_path: Path) -> None:
    """Images of the database and of the backend are replaced by others; what people did is still there."""
    pathology = fetch(portal, "/services/pathologies")[1][0]
    parameters = {"y": "gender", "dataset": pathology["datasets"][0]["code"], "pathology": pathology["code"], "filter": ""}
    algorithm = {"name": "DESCRIPTIVE_STATS", "parameters": [{"name": key, "value": value} for key, value in parameters.items()]}
    assert fetch(portal, "/services/experiments", {"name": "kept", "algorithm": algorithm})[0] == 200
    before = fetch(portal, "/services/experiments")
    assert "kept" in [entry["name"] for entry in before[1]]
    path = INVENTORY / "group_vars/all/ui.yml"
    settings = yaml.safe_load(path.read_text())
    for component in ("database", "backend"):
        old = settings["mip_ui"]["images"][component]
        new = settings["mip_ui"]["images"][component] = f"{old.rpartition(':')[0]}:1.1"
        insecure = ["--src-tls-verify=false", "--dest-tls-verify=false"]
        subprocess.run(["skopeo", "copy", *insecure, f"docker://{old}", f"docker://{new}"], check=True, capture_output=True)
    path.write_text(yaml.safe_dump(settings))
    # These stay after the test, also in what the fixture puts back: older ones are refused on data that the newer ones have written.
    (tmp_path / "inventory/group_vars/all/ui.yml").write_text(yaml.safe_dump(settings))
    portal.run("deploy", "-y")
    images = docker(portal, "ps --format '{{.Names}} {{.Image}}'")
    for component in ("database", "backend"):
        assert f"{LAB}_portal-{component} {settings['mip_ui']['images'][component]}" in images
    assert components(portal) == UP
    assert fetch(portal, "/services/experiments") == before


def test_a_backup_brings_the_experiments_back(portal: Lab, tmp_path: Path) -> None:
    """What was done since is set aside; a second restore changes nothing. An older backend is refused on the newer one's data."""
    key = tmp_path / "backup.key"
    portal.json("backup", "key", str(key))
    recipient = next(line.split(": ")[1] for line in key.read_text().splitlines() if "public key" in line)
    portal.variables(mip_backup={"recipients": [recipient], "identity": str(key)})
    before = fetch(portal, "/services/experiments")[1]
    assert before
    made = portal.json("backup", "create", "-y")["result"]["set"]
    pathology = portal.json("ui", "audit")["result"]["experiments"][0]["pathology"]
    purged = portal.json("ui", "experiments", "purge", "--pathology", pathology, "-y")["result"]
    assert purged["removed"]
    assert fetch(portal, "/services/experiments")[1] != before
    restored = portal.json("ui", "restore", made, "-y")["result"]
    assert restored["changed"]
    assert components(portal) == UP
    assert fetch(portal, "/services/experiments")[1] == before
    assert not portal.json("ui", "restore", made, "-y")["result"]["changed"]
    listed = docker(portal, f"exec -u postgres {LAB}_portal-database psql -p 5433 -Atc 'SELECT datname FROM pg_database'").split()
    assert restored["databases"][0]["kept"] in listed
    path = INVENTORY / "group_vars/all/ui.yml"
    text = path.read_text()
    settings = yaml.safe_load(text)
    settings["mip_ui"]["images"]["backend"] = f"{settings['mip_ui']['images']['backend'].rpartition(':')[0]}:1.0"
    path.write_text(yaml.safe_dump(settings))
    try:
        assert "is older than" in portal.run("deploy", "-y", code=None).stderr
        assert components(portal) == UP
    finally:
        path.write_text(text)


def test_proxied_reaches_the_frontend(portal: Lab) -> None:
    """The backend learns what the reverse proxy's visitors see."""
    portal.run("ui", "configure", "--link", "proxied", "--external-protocol", "https")
    portal.run("deploy", "-y")
    environment = docker(portal, f"inspect -f '{{{{json .Config.Env}}}}' {LAB}_portal-frontend")
    assert {"MIP_LINK=proxied", "EXTERNAL_MIP_PROTOCOL=https"} <= set(json.loads(environment))
    assert fetch(portal, "/services/pathologies", headers={"X-Forwarded-Host": "mip.example.org", "X-Forwarded-For": "192.0.2.1"})[0] == 200
