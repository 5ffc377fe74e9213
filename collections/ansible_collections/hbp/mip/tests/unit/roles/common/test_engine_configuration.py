# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's configuration is merged only where node_check saw something to merge, and the engine is started all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

ROLE = Path(__file__).parents[4] / "roles/common"


def read(path: str) -> Any:
    return DataLoader().load_from_file(str(ROLE / path), trusted_as_template=True)


def tasks(path: str) -> dict[str, dict[str, Any]]:
    return {task["name"]: task for task in read(path)}


def holds(condition: Any, **known: Any) -> bool:
    return bool(Templar(loader=DataLoader(), variables=known).evaluate_conditional(condition))


@pytest.mark.parametrize(("docker", "runs"), [({"configured": True}, False), ({"configured": False}, True), ({}, True)])
def test_merged_where_it_differs(docker: dict[str, bool], runs: bool) -> None:
    """A check that does not tell leaves it to the module."""
    assert holds(tasks("tasks/main.yml")["Merge the engine's configuration"]["when"], common_check={"facts": {"docker": docker}}) is runs


def test_compared_and_merged_is_the_same() -> None:
    compared = tasks("tasks/preflight.yml")["Look at the node"]["hbp.mip.node_check"]["daemon"]
    assert compared == tasks("tasks/main.yml")["Merge the engine's configuration"]["hbp.mip.daemon_config"]["content"]
    docker = {"log_max_size": "10m", "log_max_files": 3, "insecure_registries": ["a:5000"], "registry_mirrors": ["https://m"]}
    known = {"common_docker": {**docker, "options": {"log-opts": {"tag": "x"}}}, **read("vars/main.yml")}
    assert Templar(loader=DataLoader(), variables=known).template(compared) == {
        "log-driver": "json-file",
        "log-opts": {"max-size": "10m", "max-file": "3", "tag": "x"},
        "insecure-registries": ["a:5000"],
        "registry-mirrors": ["https://m"],
    }


@pytest.mark.parametrize(
    ("merged", "running", "state"),
    [
        ({"changed": False, "skipped": True}, True, ""),
        ({"changed": False, "skipped": True}, False, "started"),
        ({"changed": False, "restart_needed": False}, False, "started"),
        ({"changed": True, "restart_needed": False}, True, "reloaded"),
        ({"changed": True, "restart_needed": True}, True, "restarted"),
    ],
)
def test_the_engine_gets_what_it_needs(merged: dict[str, bool], running: bool, state: str) -> None:
    known = {
        "common_daemon_config": merged,
        "common_check": {"facts": {"docker": {"running": running, "enabled": True, "installed": True}}},
    }
    assert holds(tasks("tasks/main.yml")["Start the engine"]["when"], **known) is bool(state)
    if state:
        asked = tasks("tasks/start.yml")["Start the engine"]["ansible.builtin.systemd_service"]["state"]
        assert Templar(loader=DataLoader(), variables=known).template(asked) == state
