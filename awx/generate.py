#!/usr/bin/env python3
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes awx/definitions.yml, the job templates with their surveys, from the roles' argument_specs. With --check it only compares.

What a survey asks, and what may be answered, is read from the specification that also validates the playbook's variables.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

AWX = Path(__file__).resolve().parent
PROJECT = AWX.parent
ROLES = PROJECT / "collections/ansible_collections/hbp/mip/roles"
HEAD = "---\n# Made by awx/generate.py from the roles' argument_specs. Edit those, or the table in that program.\n"


@dataclass(frozen=True)
class Question:
    """A variable that a survey asks for, and the option that specifies it. An answer is a text, a number or one of several choices."""

    variable: str
    role: str
    entry: str
    option: str


@dataclass(frozen=True)
class Template:
    """A job template."""

    name: str
    playbook: str
    description: str
    questions: tuple[Question, ...] = ()
    job_type: str = "run"
    diff: bool = False
    #: Variables that are no question: a survey has no booleans, and a text in place of one would be refused.
    variables: tuple[tuple[str, Any], ...] = ()


_REASON = Question("services_reason", "services", "started", "services_reason")

TEMPLATES = (
    Template("check", "check.yml", "Is every host fit, and every link between them? Changes nothing."),
    Template(
        "check with throughput",
        "check.yml",
        "The same, and MB/s between every two nodes. It fills the lines for as long as it takes.",
        (Question("check_seconds", "links", "main", "links_seconds"),),
        variables=(("check_throughput", True),),
    ),
    Template("plan", "site.yml", "What deploy would change, from the same playbook. Changes nothing.", job_type="check", diff=True),
    Template("deploy", "site.yml", "Make the nodes a working federation. Again: changes only what differs."),
    Template(
        "plan of adopt",
        "adopt.yml",
        "What taking over a swarm of the legacy playbooks would change. Changes nothing.",
        job_type="check",
        diff=True,
    ),
    Template(
        "adopt",
        "adopt.yml",
        "Take over a swarm of the legacy playbooks while it works, one service after the other.",
        (Question("adopt_gate_seconds", "adopt", "main", "adopt_gate_seconds"),),
    ),
    Template("verify", "verify.yml", "Prove that it works: every link over the overlay, every dataset, a federated statistic."),
    Template("status", "status.yml", "Swarm, services, nodes, and what is wrong with them."),
    Template("firewall", "firewall.yml", "What is open on every node, for whom, and what differs from the inventory. Changes nothing."),
    Template("start", "service_start.yml", "Start the services, in order, each waited for.", (_REASON,)),
    Template("stop", "service_stop.yml", "Stop the services on purpose. They stay stopped until they are started.", (_REASON,)),
    Template("restart", "service_restart.yml", "Restart the services, in order, each waited for.", (_REASON,)),
    Template(
        "drain or activate a node",
        "node_availability.yml",
        "Stop a hospital's engine for maintenance, or let it run again.",
        (Question("node_name", "node", "main", "node_name"), Question("node_availability", "node", "main", "node_availability")),
    ),
    Template("data", "data.yml", "What every node holds, and what is wrong with it. Changes nothing."),
    Template("compile", "compile.yml", "Make the engine's databases where they are not up to date."),
    Template("compile everything", "compile.yml", "Make all of the engine's databases anew.", variables=(("data_force", True),)),
)

#: Step, template (none: somebody approves), the steps that follow when it went well.
WORKFLOW = (
    ("check", "check", ("plan",)),
    ("plan", "plan", ("approve",)),
    ("approve", "", ("deploy",)),
    ("deploy", "deploy", ("verify",)),
    ("verify", "verify", ()),
)


def option(question: Question) -> dict[str, Any]:
    """Return what the role says of a variable."""
    specs = yaml.safe_load((ROLES / question.role / "meta/argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]
    found: dict[str, Any] = specs[question.entry]["options"][question.option]
    return found


def words(description: str | list[str]) -> str:
    """Return a description as plain text."""
    text = " ".join([description] if isinstance(description, str) else description)
    return re.sub(r"[CVOM]\(([^)#]*)(?:#\w+)?\)", r"\1", text)


def asked(question: Question) -> dict[str, Any]:
    """Return a question as AWX wants it."""
    spec = option(question)
    choices = [choice for choice in spec.get("choices", []) if choice != ""]
    kind = {"str": "text", "int": "integer", "float": "float"}.get(spec["type"])
    if kind is None:
        raise SystemExit(f"{question.role}: {question.option} is a {spec['type']}; a survey has no such answers")
    default = spec.get("default", "")
    made = {
        "question_name": question.variable.replace("_", " ").capitalize(),
        "question_description": words(spec["description"]),
        "variable": question.variable,
        "type": "multiplechoice" if choices else kind,
        "required": bool(spec.get("required")) or question.variable == "node_name",
        "default": default,
    }
    if choices:
        return {**made, "choices": choices}
    return {**made, "min": 0 if kind == "text" else 1, "max": 1024 if kind == "text" else 3600}


def definitions() -> dict[str, Any]:
    """Return everything that awx/controller.yml makes."""
    templates = []
    for template in TEMPLATES:
        spec = [asked(question) for question in template.questions]
        templates.append(
            {
                "name": template.name,
                "description": template.description,
                "playbook": f"playbooks/{template.playbook}",
                "job_type": template.job_type,
                "diff_mode": template.diff,
                "extra_vars": dict(template.variables),
                "survey_enabled": bool(spec),
                "survey_spec": {"name": template.name, "description": template.description, "spec": spec} if spec else {},
            }
        )
    steps = [{"identifier": step, "template": template, "success": list(after)} for step, template, after in WORKFLOW]
    return {"awx_templates": templates, "awx_steps": steps}


class Indented(yaml.SafeDumper):
    """Writes lists as yamllint wants them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists below their key."""
        super().increase_indent(flow, False)


def page() -> str:
    """Return the whole file."""
    return HEAD + yaml.dump(definitions(), Dumper=Indented, sort_keys=False, allow_unicode=True, width=130)


def main() -> None:
    """Write the file, or compare it."""
    path = AWX / "definitions.yml"
    if "--check" in sys.argv[1:]:
        if not path.exists() or path.read_text(encoding="utf-8") != page():
            sys.exit("awx/definitions.yml is out of date; run awx/generate.py")
    else:
        path.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
