# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The commands `mipfed keycloak …`, with an inventory, a vault and what a consolidation recorded, against the real Keycloak."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.vault import VaultLib, VaultSecret

from ansible_collections.hbp.mip.tests.helpers.keycloak import PATIENCE, Keycloak

pytestmark = pytest.mark.timeout(3000)

HOSTS = """\
all:
  vars: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  children:
    pusher: {hosts: {here: {}}}
    master: {hosts: {ms: {mip_address: 10.1.0.1}}}
    ui: {hosts: {}}
    workers: {hosts: {west: {mip_address: 10.1.0.2}, east: {mip_address: 10.1.0.3}}}
"""
VAULT_PASSWORD = "canary-vault-password"


@dataclass
class Federation:
    """An inventory whose nodes nobody contacts, and a realm that is not there yet."""

    folder: Path
    server: Keycloak
    realm: str

    @classmethod
    def make(cls, folder: Path, server: Keycloak) -> Federation:
        """Write the inventory."""
        made = cls(folder, server, f"realm-{secrets.token_hex(4)}")
        (folder / "inventory" / "group_vars" / "all").mkdir(parents=True)
        (folder / "inventory" / "state").mkdir()
        (folder / "inventory" / "hosts.yml").write_text(HOSTS)
        main = {
            "mip_federation": "fed",
            "mip_engine": {"image": "r.example/engine:1.0", "keystore_image": "r.example/keystore:1.8.7"},
            "mip_keycloak": {
                "url": server.url,
                "realm": made.realm,
                "redirect_uris": ["https://portal.example/login"],
                "timeout_seconds": PATIENCE,
            },
        }
        (folder / "inventory" / "group_vars" / "all" / "main.yml").write_text(json.dumps(main))
        (folder / "vault-password").write_text(VAULT_PASSWORD)
        (folder / "admin-password").write_text(server.password)
        return made

    def hold(self, datasets: dict[str, list[str]]) -> None:
        """Record which node holds which datasets, as a consolidation does."""
        nodes = {
            node: {"since": "2026-01-01T00:00:00Z", "pathologies": {"dementia": {"files": {"a.csv": dict.fromkeys(codes, 20)}}}}
            for node, codes in datasets.items()
        }
        record = {"schema": 1, "nodes": nodes, "handed_out": {}, "portal": {}}
        (self.folder / "inventory" / "state" / "data.json").write_text(json.dumps(record))

    def run(self, *words: str, code: int = 0) -> dict[str, Any]:
        """Run mipfed, which has to end with this code, and return its document."""
        state = self.folder / "state"
        environment = {**os.environ, "XDG_STATE_HOME": str(state), "MIPFED_VAULT_PASSWORD_FILE": str(self.folder / "vault-password")}
        command = [sys.executable, "-m", "mipfed", "-i", str(self.folder / "inventory"), "keycloak", *words, "-o", "json"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def secret(self, name: str) -> str:
        """A secret of the vault's file."""
        vault = VaultLib([("default", VaultSecret(VAULT_PASSWORD.encode()))])
        text = vault.decrypt((self.folder / "inventory/group_vars/all/keycloak_vault.yml").read_text()).decode()
        return next(line.split('"')[1] for line in text.splitlines() if line.startswith(name))

    def files_with(self, *needles: str) -> list[str]:
        """Which of the files that a run leaves hold one of these texts."""
        found = []
        for path in (self.folder / "state").rglob("*"):
            if path.is_file() and any(needle in path.read_text(errors="replace") for needle in needles):
                found.append(str(path))
        return found


@pytest.fixture
def federation(tmp_path: Path, server: Keycloak) -> Federation:
    """An inventory of the test's own."""
    return Federation.make(tmp_path, server)


def codes(document: dict[str, Any]) -> list[str]:
    """The codes of a document's errors."""
    return [error["code"] for error in document["errors"]]


def test_from_nothing_to_roles_and_back(federation: Federation) -> None:
    assert codes(federation.run("plan", code=3)) == ["keycloak-secret"]
    password = ("--admin-password-file", str(federation.folder / "admin-password"))
    assert codes(federation.run("prepare", "-y", *password, code=4)) == ["keycloak-realm"]
    prepared = federation.run("prepare", "-y", "--create-realm", *password)
    assert [step["kind"] for step in prepared["result"]["plan"]["steps"]] == ["realm", "client", "grant"]
    vault_file = federation.folder / "inventory/group_vars/all/keycloak_vault.yml"
    assert vault_file.stat().st_mode & 0o777 == 0o600
    assert federation.run("prepare", "-y", *password)["result"]["changed"] is False

    assert codes(federation.run("plan", code=3)) == ["keycloak-structure"]
    federation.hold({"west": ["edsd"], "east": ["ppmi"]})
    plan = federation.run("plan")
    assert plan["result"]["changed"] is True
    assert "+role RESEARCH_DATASET_edsd (dementia - Worker west)" in plan["result"]["diff"]
    assert codes(federation.run("sync", code=8)) == ["declined"]
    done = federation.run("sync", "-y")
    assert done["result"]["plan"] == plan["result"]["plan"]
    again = federation.run("sync", "-y")
    assert (again["result"]["changed"], again["result"]["plan"]["steps"]) == (False, [])
    admin = federation.server.administrator(federation.realm)
    assert admin.get_client_secrets(admin.get_client_id("fed"))["value"] == federation.secret("mip_keycloak_client_secret")

    federation.hold({"west": ["edsd"]})
    orphans = federation.run("orphans")["result"]["orphans"]
    assert [entry["name"] for entry in orphans] == ["FED_DC_HOSPITAL_east", "DC_HOSPITAL_east", "RESEARCH_DATASET_ppmi"]
    assert federation.run("sync", "-y")["result"]["changed"] is False
    assert len(federation.run("sync", "-y", "--prune")["result"]["plan"]["steps"]) == 3
    assert federation.run("orphans")["result"]["orphans"] == []

    hidden = [federation.secret(f"mip_keycloak_{name}_secret") for name in ("service", "client")]
    assert federation.files_with("keycloak") != []
    assert federation.files_with(*hidden, federation.server.password, VAULT_PASSWORD) == []
