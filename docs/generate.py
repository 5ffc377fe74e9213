#!/usr/bin/env python3
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the reference: commands, variables, roles and modules, from what the program itself reads. With --check it only compares."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

DOCS = Path(__file__).resolve().parent
COLLECTION = DOCS.parent / "collections/ansible_collections/hbp/mip"
SPECS = COLLECTION / "roles/federation/meta/argument_specs.yml"

VARIABLES = """# Variables of an inventory

Made by `docs/generate.py` from the role `hbp.mip.federation`; unknown names are rejected with a suggestion.
`mipfed -f NAME config show` prints what applies to a federation.
"""
COMMANDS = """# Commands

Made by `docs/generate.py` from the program; `mipfed COMMAND --help` says the same. What they are for, by task: [operator.md](operator.md).
"""
ROLES = """# Roles

Made by `docs/generate.py` from the roles' `meta/argument_specs.yml`. The playbooks of hbp.mip give a role its variables from the one
validated inventory, [variables.md](variables.md); who uses a role in a playbook of their own gives them directly.
"""
MODULES = """# Modules

Made by `docs/generate.py` from the modules' own documentation; `ansible-doc hbp.mip.NAME` has examples and what they return, too.
*Check* and *diff* say what a module does in check mode and whether it shows differences.
"""


def text(description: str | list[str]) -> str:
    """Return a description as one line of Markdown."""
    words = " ".join(" ".join([description] if isinstance(description, str) else description).split())
    # `O(hbp.mip.x#module:key=value)` is the option of another plugin, `M(name)` and `P(name#kind)` are plugins.
    words = re.sub(r"\b[CVOREPM]\((?:[\w.]+#\w+:)?(.*?)(?:#\w+)?\)", r"`\1`", words)
    return re.sub(r"\bI\((.*?)\)", r"*\1*", words).replace("|", "\\|")


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown."""
    columns = list(head)
    rows = [columns, ["---"] * len(columns), *(list(line) for line in lines)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def options(found: Mapping[str, Any], prefix: str = "") -> Iterator[list[str]]:
    """Yield a table row for each option of a specification, nested ones with their path."""
    for name, option in found.items():
        kind = option.get("type", "str") + (f" of {option['elements']}" if "elements" in option else "")
        if "choices" in option:
            kind = " or ".join(f"`{choice}`" for choice in option["choices"])
        default = "required" if option.get("required") else f"`{json.dumps(option['default'])}`" if "default" in option else ""
        yield [f"`{prefix}{name}`", kind, default, text(option["description"])]
        yield from options(option.get("options", option.get("suboptions", {})), f"{prefix}{name}.")


# --- variables


def variables() -> str:
    """Return the page about the variables of an inventory."""
    specs = yaml.safe_load(SPECS.read_text(encoding="utf-8"))["argument_specs"]
    parts = [VARIABLES]
    for entry, title in (("main", "Of the federation (`group_vars/all/main.yml`)"), ("node", "Of one host (`hosts.yml` or `host_vars`)")):
        parts.append(f"\n## {title}\n\n" + table(("variable", "type", "default", "meaning"), options(specs[entry]["options"])))
    return "".join(parts)


# --- roles


def roles() -> str:
    """Return the page about the roles."""
    parts = [ROLES]
    for path in sorted(COLLECTION.glob("roles/*/meta/argument_specs.yml")):
        name = path.parents[1].name
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]
        parts.append(f"\n## {name}\n")
        # Entry points that take the same are told together, and what is said of several once.
        alike: list[tuple[dict[str, list[str]], Mapping[str, Any]]] = []
        for entry, spec in entries.items():
            taken = spec.get("options", {})
            told = f"{text(spec['short_description'])}. {text(spec.get('description', ''))}".rstrip()
            same = next((sentences for sentences, known in alike if known == taken), None)
            if same is None:
                alike.append(({told: [entry]}, taken))
            else:
                same.setdefault(told, []).append(entry)
        for sentences, taken in alike:
            parts += ["\n", *(f"- {', '.join(f'`{entry}`' for entry in names)}: {told}\n" for told, names in sentences.items())]
            if taken and name == "federation":
                parts.append("\nIts variables: [variables.md](variables.md).\n")
            elif taken:
                parts.append("\n" + table(("variable", "type", "default", "meaning"), options(taken)))
    return "".join(parts)


# --- modules


def documentation(path: Path) -> dict[str, Any]:
    """Return the DOCUMENTATION of a plugin, with the fragments that it extends."""
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == "DOCUMENTATION":
            found: dict[str, Any] = yaml.safe_load(ast.literal_eval(statement.value))
            break
    else:
        raise SystemExit(f"{path} has no DOCUMENTATION")
    extended = found.get("extends_documentation_fragment", [])
    for fragment in [extended] if isinstance(extended, str) else extended:
        if fragment.startswith("hbp.mip."):
            source = COLLECTION / "plugins/doc_fragments" / f"{fragment.split('.')[2]}.py"
            body = next(s for s in ast.walk(ast.parse(source.read_text(encoding="utf-8"))) if isinstance(s, ast.ClassDef)).body
            shared = next(s.value for s in body if isinstance(s, ast.Assign) and getattr(s.targets[0], "id", "") == "DOCUMENTATION")
            found["options"] = {**found.get("options", {}), **yaml.safe_load(ast.literal_eval(shared)).get("options", {})}
    return found


def modules() -> str:
    """Return the page about the modules."""
    parts = [MODULES]
    for path in sorted(COLLECTION.glob("plugins/modules/*.py")):
        found = documentation(path)
        support = {name: found.get("attributes", {}).get(f"{name}_mode", {}).get("support", "none") for name in ("check", "diff")}
        where = " Runs on the controller." if (COLLECTION / "plugins/action" / path.name).exists() else ""
        parts.append(f"\n## {found['module']}\n\n{text(found['short_description'])}.{where}\n")
        parts.append(f"*Check* {support['check']}, *diff* {support['diff']}.\n")
        if found.get("options"):
            parts.append("\n" + table(("option", "type", "default", "meaning"), options(found["options"])))
    return "".join(parts)


# --- commands


def leaves(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command of a program with its words, in the order of its help."""
    for name, command in group.commands.items():
        words = f"{path} {name}".strip()
        if hasattr(command, "commands"):
            yield from leaves(command, words)
        else:
            yield words, command


def parameter(command: Any, found: Any) -> list[str]:
    """Return the row of an argument or option: how it is written, its default, and what it is for."""
    written = found.get_help_record(command.context_class(command))[0]
    if found.param_type_name == "argument" and "|" not in written:
        written = found.metavar or found.name.upper()
    default = found.default
    if found.required:
        shown = "required"
    elif default in (None, "", [], (), False, 0) or callable(default) or getattr(found, "count", False):
        shown = ""
    else:
        secondary = getattr(found, "secondary_opts", [])
        shown = f"`{found.opts[0] if secondary and default is True else getattr(default, 'value', default)}`"
    return [f"`{' '.join(written.split())}`".replace("|", "\\|"), shown, text(found.help or "")]


def commands() -> str:
    """Return the page about the commands."""
    from typer.main import get_command

    from mipfed import exitcodes
    from mipfed.app import app

    program = get_command(app)
    shared = {found.name: found for found in program.params if not found.is_eager}
    both = "They stand before or after the command; the one after it wins. Each command names those that it has."
    parts = [COMMANDS, f"\n## Shared options\n\n{both}\n\n"]
    parts.append(table(("option", "default", "meaning"), (parameter(program, found) for found in shared.values())))
    parts.append(f"\n## Exit codes\n\n{exitcodes.markdown()}\n")
    for words, command in leaves(program):
        own = [found for found in command.params if found.name not in shared and found.name != "help"]
        arguments = [found for found in own if found.param_type_name == "argument"]
        line = " ".join(["mipfed", words, *(found.metavar or found.name.upper() for found in arguments if found.name)])
        parts.append(f"\n## mipfed {words}\n\n`{line}`\n\n")
        for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
            parts.append(" ".join(paragraph.split()) + "\n\n")
        if own:
            parts.append(table(("argument or option", "default", "meaning"), (parameter(command, found) for found in own)) + "\n")
        names = [f"`{max(found.opts, key=len)}`" for found in command.params if found.name in shared]
        parts.append(f"Shared: {', '.join(names)}.\n")
    return "".join(parts)


PAGES: dict[str, Callable[[], str]] = {"commands.md": commands, "modules.md": modules, "roles.md": roles, "variables.md": variables}


def main() -> None:
    """Write the pages, or compare them."""
    outdated = []
    for name, make in PAGES.items():
        path, page = DOCS / name, make()
        if not path.exists() or path.read_text(encoding="utf-8") != page:
            outdated.append(f"docs/{name}")
            if "--check" not in sys.argv[1:]:
                path.write_text(page, encoding="utf-8")
    if outdated and "--check" in sys.argv[1:]:
        sys.exit(f"{', '.join(outdated)}: out of date; run docs/generate.py")


if __name__ == "__main__":
    main()
