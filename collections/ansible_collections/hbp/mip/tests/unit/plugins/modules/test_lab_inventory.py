# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory that a lab writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.hbp.mip.plugins.module_utils import _lab_inventory
from ansible_collections.hbp.mip.plugins.module_utils._lab import LabError
from ansible_collections.hbp.mip.plugins.plugin_utils import _federation

MACHINES: list[dict[str, Any]] = [
    {"name": "lab-ms", "kind": "master", "address": "10.77.1.11", "host_key": "ssh-ed25519 AAAA"},
    {"name": "lab-wk-1", "kind": "worker", "address": "10.77.1.21", "host_key": "ssh-ed25519 BBBB"},
    {"name": "lab-tools", "kind": "", "address": "10.77.1.101", "host_key": "ssh-ed25519 CCCC"},
]
CAN = {"supported": True, "reason": ""}
CANNOT = {"supported": False, "reason": "Error: Requested AEAD algorithm not found.\n"}


def variables(esp: dict[str, Any]) -> str:
    return _lab_inventory.variables_text("lab", "10.77.1.1:5000", "exareme-standin:1.0", "keystore:1.8.7", esp)


def test_hosts() -> None:
    groups = yaml.safe_load(_lab_inventory.hosts_text("lab", MACHINES))["all"]["children"]
    assert list(groups) == ["pusher", "master", "ui", "workers"]
    assert groups["pusher"]["hosts"]["lab-pusher"]["ansible_connection"] == "local"
    assert groups["master"]["hosts"] == {"lab-ms": {"ansible_host": "10.77.1.11"}}
    assert groups["ui"]["hosts"] == {}
    assert list(groups["workers"]["hosts"]) == ["lab-wk-1"]


def test_host_keys_of_all_machines() -> None:
    assert _lab_inventory.known_hosts_text(MACHINES).splitlines()[2] == "10.77.1.101 ssh-ed25519 CCCC"


def test_variables() -> None:
    values = yaml.safe_load(variables(CAN))
    assert values["mip_lab"] is True
    assert values["mip_federation"] == "lab"
    assert values["mip_engine"] == {
        "image": "10.77.1.1:5000/exareme-standin:1.0",
        "keystore_image": "10.77.1.1:5000/keystore:1.8.7",
        "healthcheck_seconds": 2,
    }
    assert values["mip_docker"] == {"insecure_registries": ["10.77.1.1:5000"]}
    assert "StrictHostKeyChecking=yes" in values["ansible_ssh_common_args"]


def test_encrypted_unless_the_kernel_cannot_which_is_said() -> None:
    assert yaml.safe_load(variables(CAN))["mip_overlay"] == {"encrypted": True}
    assert yaml.safe_load(variables(CANNOT))["mip_overlay"] == {"encrypted": False}
    assert "# This host's kernel cannot do IPsec ESP (Error: Requested AEAD algorithm not found):" in variables(CANNOT)


def test_a_machine_without_a_host_key_is_refused(tmp_path: Path) -> None:
    machines = [dict(MACHINES[0], host_key="")]
    lab = {"name": "lab", "ssh_private_key_file": str(tmp_path / "k")}
    with pytest.raises(LabError, match="no SSH host key is known of lab-ms"):
        _lab_inventory.files(lab, machines, "r", ("e", "k"), CAN)


def test_private_key_is_private_and_not_in_the_diff(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("PRIVATE KEY\n")
    (tmp_path / "k.pub").write_text("ssh-ed25519 AAAA\n")
    lab = {"name": "lab", "ssh_private_key_file": str(tmp_path / "k")}
    files = _lab_inventory.files(lab, MACHINES, "10.77.1.1:5000", ("e:1", "k:1"), CAN)
    assert {file.path: file.mode for file in files}["ssh/id_ed25519"] == 0o600
    diff = _lab_inventory.before_after(str(tmp_path / "none"), files)
    assert "PRIVATE" not in diff["before"] + diff["after"]
    assert "lab-wk-1" in diff["after"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("mip_lab: true\n", True), ("a: 1\nmip_lab: yes # x\n", True), ("mip_lab: false\n", False), ("# mip_lab: true\n", False), ("", False)],
)
def test_only_a_lab_is_removed(tmp_path: Path, text: str, expected: bool) -> None:
    (tmp_path / "group_vars/all").mkdir(parents=True)
    (tmp_path / "group_vars/all/main.yml").write_text(text)
    assert _lab_inventory.is_lab(str(tmp_path)) is expected


def test_variables_of_another_network_are_not_kept(tmp_path: Path) -> None:
    (tmp_path / "group_vars/all").mkdir(parents=True)
    (tmp_path / "group_vars/all/main.yml").write_text(variables(CAN))
    assert _lab_inventory.belongs(str(tmp_path), "10.77.1.1:5000")
    assert not _lab_inventory.belongs(str(tmp_path), "10.77.2.1:5000")


def test_a_lab_with_keycloak_has_its_variables(tmp_path: Path) -> None:
    assert _lab_inventory.keycloak_text(MACHINES) == ""
    machines = [
        *MACHINES,
        {"name": "lab-ui", "kind": "ui", "address": "10.77.1.12", "host_key": "ssh-ed25519 DDDD"},
        {"name": "lab-kc", "kind": "keycloak", "address": "10.77.1.13", "host_key": "ssh-ed25519 EEEE"},
    ]
    assert "lab-kc" not in _lab_inventory.hosts_text("lab", machines)
    (tmp_path / "k").write_text("PRIVATE KEY\n")
    (tmp_path / "k.pub").write_text("ssh-ed25519 AAAA\n")
    lab = {"name": "lab", "ssh_private_key_file": str(tmp_path / "k")}
    files = {file.path: file for file in _lab_inventory.files(lab, machines, "10.77.1.1:5000", ("e:1", "k:1"), CAN)}
    values = yaml.safe_load(files["group_vars/all/keycloak.yml"].text)["mip_keycloak"]
    assert values["url"] == "http://10.77.1.13:8080"
    assert all(uri.startswith("http://10.77.1.12/") and "*" not in uri for uri in values["redirect_uris"])
    everything = {"mip_keycloak": values, **yaml.safe_load(files["group_vars/all/main.yml"].text)}
    hosts = {
        entry["name"]: {**everything, "ansible_host": entry["address"]} for entry in machines if entry["kind"] in ("master", "ui", "worker")
    }
    groups = {"master": ["lab-ms"], "ui": ["lab-ui"], "workers": ["lab-wk-1"]}
    assert _federation.resolve("lab", groups, hosts)["keycloak"]["client_id"] == "lab"
