# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renders every call of a module in awx/controller.yml and holds it against that module's own specification; prints JSON.

A program of its own: Ansible's finder of collections, once it is set up in a process, finds no others.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

AWX = Path(__file__).resolve().parents[2] / "awx"


def definitions() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((AWX / "definitions.yml").read_text(encoding="utf-8"))
    return loaded


def play() -> dict[str, Any]:
    (found,) = yaml.safe_load((AWX / "controller.yml").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def module_spec(name: str) -> dict[str, Any]:
    """Return the argument specification of a module of awx.awx, from its own documentation."""
    from ansible.plugins.loader import module_loader

    context = module_loader.find_plugin_with_context(f"awx.awx.{name}")
    assert context.resolved, f"awx.awx.{name} is not installed"
    text = re.search(
        r'DOCUMENTATION = r?"""(.*?)"""|DOCUMENTATION = r?\'\'\'(.*?)\'\'\'', Path(context.plugin_resolved_path).read_text(), re.S
    )
    assert text
    options = yaml.safe_load(text[1] or text[2])["options"]
    kept = ("type", "required", "choices", "elements", "aliases", "options")
    return {key: {part: value[part] for part in kept if part in value} for key, value in options.items()}


def calls(**given: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each call of a module with its arguments as Ansible renders them, once for every item of its loop."""
    from ansible.parsing.dataloader import DataLoader
    from ansible.template import Templar, trust_as_template

    def trusted(value: Any) -> Any:
        if isinstance(value, str):
            return trust_as_template(value)
        if isinstance(value, dict):
            return {key: trusted(inner) for key, inner in value.items()}
        return [trusted(inner) for inner in value] if isinstance(value, list) else value

    omit = "__omitted__"
    base = {**definitions(), **trusted(play()["vars"]), **given, "omit": omit}
    for task in play()["tasks"]:
        module = next((key for key in task if key.startswith("awx.awx.")), None)
        if module is None:
            continue
        plain = Templar(loader=DataLoader(), variables=base)
        if "when" in task and not plain.template(trust_as_template("{{ " + task["when"] + " }}")):
            continue
        items = plain.template(trusted(task["loop"])) if "loop" in task else [None]
        for item in items:
            templar = Templar(loader=DataLoader(), variables={**base, "item": item})
            rendered = {key: templar.template(trusted(value)) for key, value in task[module].items()}
            yield module.removeprefix("awx.awx."), {key: value for key, value in rendered.items() if value != omit}


def main() -> None:
    """Read the variables, and calls that the test makes up, from standard input; write every call with what is wrong with it."""
    from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
    from ansible.plugins.loader import init_plugin_loader

    init_plugin_loader()
    asked = json.load(sys.stdin)
    found = []
    for module, arguments in [*calls(**asked["variables"]), *asked.get("calls", [])]:
        errors = ArgumentSpecValidator(module_spec(module)).validate(arguments).error_messages
        found.append([module, arguments, errors])
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
