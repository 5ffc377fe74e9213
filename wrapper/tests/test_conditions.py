# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Conditions of plays and tasks: Ansible refuses those whose value is no boolean, and only when the task comes to run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jinja2
import yaml
from jinja2 import nodes

from mipfed import paths

CONDITIONS = ("when", "failed_when", "changed_when", "until", "that")


def conditions(content: Any) -> Iterator[str]:
    """Yield every condition of a play, a task, or what is in them."""
    if isinstance(content, list):
        for item in content:
            yield from conditions(item)
    elif isinstance(content, dict):
        for key, value in content.items():
            if key in CONDITIONS:
                yield from (str(entry) for entry in (value if isinstance(value, list) else [value]) if not isinstance(entry, bool))
            else:
                yield from conditions(value)


def operands(expression: nodes.Expr) -> Iterator[nodes.Expr]:
    """Yield what an expression of and, or and if is made of: one of them is its value. That of `not` is always a boolean."""
    if isinstance(expression, nodes.And | nodes.Or):
        yield from operands(expression.left)
        yield from operands(expression.right)
    elif isinstance(expression, nodes.CondExpr):
        yield from operands(expression.expr1)
        if expression.expr2:
            yield from operands(expression.expr2)
    elif not isinstance(expression, nodes.Not):
        yield expression


def no_booleans(condition: str) -> list[str]:
    """Return the operands that are a text, a list or a dictionary where they have no value of their own."""
    output = jinja2.Environment().parse("{{ " + condition + " }}").body[0]
    assert isinstance(output, nodes.Output)
    found = []
    for operand in operands(output.nodes[0]):
        if isinstance(operand, nodes.Filter) and operand.name in ("default", "d"):
            instead = operand.args[0] if operand.args else nodes.Const("")
            if isinstance(instead, nodes.Dict | nodes.List) or (isinstance(instead, nodes.Const) and not isinstance(instead.value, bool)):
                found.append(condition)
    return found


def test_one_that_is_no_boolean_is_found() -> None:
    assert no_booleans("a.b | default({}) and c")
    assert no_booleans("a | default")
    assert not no_booleans("a | default(false) and b | default([]) | length > 0 and not (c | default(''))")


def test_every_condition_is_a_boolean() -> None:
    folder = paths.collections_dir()
    assert folder
    files = [path for place in ("playbooks", "roles/*/tasks") for path in (folder / "ansible_collections/hbp/mip").glob(f"{place}/*.yml")]
    assert len(files) > 100
    found = [(path, text) for path in files for text in conditions(yaml.safe_load(path.read_text(encoding="utf-8")))]
    assert [f"{path}: {text}" for path, text in found if no_booleans(text)] == []
