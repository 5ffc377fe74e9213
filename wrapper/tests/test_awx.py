# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""awx/: the definitions are current, and every call fits the argument specification of the module of awx.awx. Nothing is contacted."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import COLLECTION, REPOSITORY

AWX = REPOSITORY / "awx"
GIVEN = {
    "awx_federation": "hosp",
    "awx_scm_url": "https://git.example/hosp.git",
    "awx_ssh_key_file": str(REPOSITORY / "README.md"),
    "awx_vault_password_file": str(REPOSITORY / "ansible.cfg"),
    "awx_execution_image": "registry.example/ee:1",
}


def definitions() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((AWX / "definitions.yml").read_text(encoding="utf-8"))
    return loaded


def calls(variables: dict[str, str], *more: tuple[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any], list[str]]]:
    """Return each call of a module with its arguments, and what its own specification has against it."""
    given = json.dumps({"variables": variables, "calls": more})
    program = [sys.executable, str(Path(__file__).with_name("awx_calls.py"))]
    done = subprocess.run(program, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[tuple[str, dict[str, Any], list[str]]] = json.loads(done.stdout)
    return found


def test_the_definitions_are_current() -> None:
    done = subprocess.run([sys.executable, str(AWX / "generate.py"), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("given", [GIVEN, {key: GIVEN[key] for key in ("awx_federation", "awx_scm_url")}], ids=["everything", "the least"])
def test_every_call_fits_its_module(given: dict[str, str]) -> None:
    made = calls(given)
    assert [entry for entry in made if entry[2]] == []
    seen = {module for module, _arguments, _errors in made}
    wanted = {"project", "inventory", "inventory_source", "job_template", "workflow_job_template", "workflow_job_template_node"}
    assert seen == wanted | ({"credential", "execution_environment"} if given is GIVEN else set())


def test_a_wrong_call_would_be_found() -> None:
    made = calls(GIVEN, ("job_template", {"name": "x", "job_typo": "run"}), ("job_template", {"name": "x", "job_type": "plan"}))
    assert [bool(errors) for _module, _arguments, errors in made[-3:]] == [False, True, True]


def test_templates_name_playbooks_and_variables_that_are_there() -> None:
    text = "\n".join(
        path.read_text(encoding="utf-8") for path in [*COLLECTION.glob("playbooks/*.yml"), *COLLECTION.glob("roles/*/tasks/*.yml")]
    )
    for template in definitions()["awx_templates"]:
        assert (REPOSITORY / template["playbook"]).is_file(), template["playbook"]
        asked = [question["variable"] for question in template["survey_spec"].get("spec", [])]
        for variable in [*asked, *template["extra_vars"]]:
            assert re.search(rf"\b{variable}\b", text), variable


def test_surveys_are_what_awx_accepts() -> None:
    """The rules of AWX for a survey: its keys, types and defaults."""
    surveys = [template["survey_spec"] for template in definitions()["awx_templates"] if template["survey_enabled"]]
    assert surveys
    for survey in surveys:
        assert set(survey) == {"name", "description", "spec"}
        for question in survey["spec"]:
            assert {"question_name", "type", "variable", "required"} <= set(question)
            assert question["type"] in ("text", "integer", "float", "multiplechoice")
            if question["type"] == "multiplechoice":
                assert question["default"] in question["choices"]
            elif question["type"] == "integer":
                assert question["min"] <= question["default"] <= question["max"]
            elif question["default"]:
                assert question["min"] <= len(question["default"]) <= question["max"]


def test_the_workflow_leads_from_the_check_over_an_approval_to_the_verification() -> None:
    steps = {step["identifier"]: step for step in definitions()["awx_steps"]}
    names = {template["name"] for template in definitions()["awx_templates"]}
    order = ["check"]
    while following := steps[order[-1]]["success"]:
        order += following
    assert order == ["check", "plan", "approve", "deploy", "verify"] == list(steps)
    assert {step["template"] for step in steps.values()} - {""} <= names
    nodes = [arguments for module, arguments, _errors in calls(GIVEN) if module == "workflow_job_template_node"]
    approvals = [arguments["identifier"] for arguments in nodes if "approval_node" in arguments]
    assert set(approvals) == {"approve"}
    assert all(("approval_node" in arguments) != ("unified_job_template" in arguments) for arguments in nodes)
    plan = next(template for template in definitions()["awx_templates"] if template["name"] == "plan")
    deploy = next(template for template in definitions()["awx_templates"] if template["name"] == "deploy")
    assert (plan["playbook"], plan["job_type"], plan["diff_mode"]) == (deploy["playbook"], "check", True)


def test_the_execution_environment() -> None:
    definition = yaml.safe_load((AWX / "execution-environment.yml").read_text(encoding="utf-8"))
    assert definition["version"] == 3
    assert set(definition) <= {"version", "images", "dependencies", "options", "build_arg_defaults", "additional_build_steps"}
    assert definition["images"]["base_image"]["name"].count(":") == 1
    for key in ("galaxy", "python", "system"):
        assert (AWX / definition["dependencies"][key]).is_file(), key
    for line in (AWX / definition["dependencies"]["system"]).read_text(encoding="utf-8").splitlines():
        assert re.fullmatch(r"#.*|[a-z0-9-]+ \[platform:dpkg\]", line), line
    required = yaml.safe_load((COLLECTION / "galaxy.yml").read_text(encoding="utf-8"))["dependencies"]
    assert {entry["name"] for entry in yaml.safe_load((AWX / "../collections/requirements.yml").read_text())["collections"]} >= set(
        required
    )
