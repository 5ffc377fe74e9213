# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `mipfed keycloak …` refuses before anybody is asked. Against a real Keycloak it is tried in the collection's tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mipfed.exitcodes import ExitCode

from .conftest import MAIN_YML, Project

KEYCLOAK = 'mip_keycloak: {url: "https://iam.example.org", redirect_uris: ["https://portal.example/login"]}\n'
GOOD = [{"name": "dementia", "nodes": [{"name": "west", "datasets": [{"name": "edsd", "label": "{{ 7 * 7 }}"}]}], "more": "{{ 1 }}"}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "is no data structure"),
        ('{"dementia": {}}', "is no data structure"),
        (json.dumps([{"name": "{{ lookup('pipe', 'id') }}", "nodes": []}]), "is no name of a pathology"),
        (json.dumps([{"name": "dementia", "nodes": [{"name": "west", "datasets": [{"name": "ALL"}]}]}]), "a dataset called ALL would give"),
        (None, "No such file"),
    ],
)
def test_structures_that_cannot_be_used(project: Project, tmp_path: Path, content: str | None, said: str) -> None:
    project.federation(main=MAIN_YML + KEYCLOAK)
    file = tmp_path / "structure.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    ended = project.run("keycloak", "plan", "--structure", str(file), "-o", "json")
    assert ended.code == ExitCode.USAGE
    assert said in ended.document["errors"][0]["message"]


def test_only_names_of_a_structure_reach_ansible(tmp_path: Path) -> None:
    from mipfed.keycloak import read_structure

    file = tmp_path / "structure.json"
    file.write_text(json.dumps(GOOD), encoding="utf-8")
    expected: list[dict[str, Any]] = [{"name": "dementia", "nodes": [{"name": "west", "datasets": [{"name": "edsd"}]}]}]
    assert read_structure(file) == expected


def test_prepare_says_what_it_lacks(project: Project, tmp_path: Path) -> None:
    project.federation(main=MAIN_YML)
    nowhere = project.run("keycloak", "prepare", "-y", "-o", "json")
    assert (nowhere.code, nowhere.document["errors"][0]["message"]) == (
        ExitCode.CONFIGURATION,
        "The inventory names no Keycloak server.",
    )


def test_prepare_keeps_no_secret_unencrypted(project: Project, tmp_path: Path) -> None:
    folder = project.federation(main=MAIN_YML + KEYCLOAK)
    password = tmp_path / "password"
    no_terminal = project.run("keycloak", "prepare", "-y", "-o", "json")
    assert no_terminal.code == ExitCode.DECLINED
    assert "--admin-password-file" in no_terminal.document["errors"][0]["next"]
    assert project.run("keycloak", "prepare", "-y", "--admin-password-file", str(password), "-o", "json").code == ExitCode.USAGE
    password.write_text("admin's\n", encoding="utf-8")
    asked = project.run("keycloak", "prepare", "--admin-password-file", str(password), "-o", "json")
    assert asked.code == ExitCode.DECLINED
    no_vault = project.run("keycloak", "prepare", "-y", "--admin-password-file", str(password), "-o", "json")
    assert no_vault.code == ExitCode.CONFIGURATION
    assert "vault password" in no_vault.document["errors"][0]["message"]
    assert not (folder / "group_vars" / "all" / "keycloak_vault.yml").exists()
