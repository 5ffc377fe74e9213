# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A manager that shall be none keeps its port open until it is demoted: closed earlier, the managers lose their majority."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

MIP = Path(__file__).parents[4]


def read(path: str) -> Any:
    return DataLoader().load_from_file(str(MIP / path), trusted_as_template=True)


def plays() -> dict[str, dict[str, Any]]:
    """Return the plays of a deploy by name."""
    return {play["name"]: play for play in read("playbooks/deploy.yml")}


def template(expression: Any, **known: Any) -> Any:
    return Templar(loader=DataLoader(), variables=known).template(expression)


@pytest.mark.parametrize(("state", "wanted", "due"), [
    ("manager", False, True), ("manager", True, False), ("worker", False, False), ("worker", True, False), ("none", False, False)
])  # fmt: skip
def test_the_port_is_closed_of_those_that_were_managers_and_shall_be_none(state: str, wanted: bool, due: bool) -> None:
    """Before that the module keeps it open by itself."""
    node = {"name": "a", "manager": wanted}
    known = {
        "mip": {"nodes": [node], "firewall": {"manage": True}},
        "inventory_hostname": "a",
        "common_check": {"facts": {"swarm": {"state": state}}},
    }
    closing = plays()["Close the managers' port on those that are none any more"]
    assert template(closing["vars"]["closing_due"], **known, closing_node=closing["vars"]["closing_node"]) is due


def test_it_is_closed_after_the_roles_have_changed_and_before_the_lock_is_given_back() -> None:
    names = list(plays())
    order = ["Open the firewalls", "Run the engine", "Close the managers' port on those that are none any more", "Release the lock"]
    assert [name for name in names if name in order] == order
