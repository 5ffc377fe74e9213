#!/usr/bin/env python3
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes docs/variables.md from the schema of the inventory. With --check it only says whether the file is up to date."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

DOCS = Path(__file__).resolve().parent
SPECS = DOCS.parent / "collections/ansible_collections/hbp/mip/roles/federation/meta/argument_specs.yml"
HEAD = """# Variables of an inventory

Made by `docs/generate.py` from the role `hbp.mip.federation`; unknown names are rejected with a suggestion.
`mipfed -f NAME config show` prints what applies to a federation.
"""


def text(description: str | list[str]) -> str:
    """Return a description as one line of Markdown."""
    words = " ".join([description] if isinstance(description, str) else description)
    words = re.sub(r"[CVO]\((.*?)\)", r"`\1`", words)
    return re.sub(r"M\((.*?)(#module)?\)", r"`\1`", words).replace("|", "\\|")


def rows(options: dict[str, Any], prefix: str = "") -> list[str]:
    """Return a table row for each option, nested ones with their path."""
    lines = []
    for name, option in options.items():
        kind = option["type"] + (f" of {option['elements']}" if "elements" in option else "")
        if "choices" in option:
            kind = " or ".join(f"`{choice}`" for choice in option["choices"])
        default = "required" if option.get("required") else f"`{json.dumps(option['default'])}`" if "default" in option else ""
        lines.append(f"| `{prefix}{name}` | {kind} | {default} | {text(option['description'])} |")
        lines += rows(option.get("options", {}), f"{prefix}{name}.")
    return lines


def page() -> str:
    """Return the whole page."""
    specs = yaml.safe_load(SPECS.read_text(encoding="utf-8"))["argument_specs"]
    parts = [HEAD]
    for entry, title in (("main", "Of the federation (`group_vars/all/main.yml`)"), ("node", "Of one host (`hosts.yml` or `host_vars`)")):
        parts.append(f"\n## {title}\n\n| variable | type | default | meaning |\n| --- | --- | --- | --- |\n")
        parts.append("\n".join(rows(specs[entry]["options"])) + "\n")
    return "".join(parts)


def main() -> None:
    """Write the page, or compare it."""
    path = DOCS / "variables.md"
    if "--check" in sys.argv[1:]:
        if not path.exists() or path.read_text(encoding="utf-8") != page():
            sys.exit("docs/variables.md is out of date; run docs/generate.py")
    else:
        path.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
