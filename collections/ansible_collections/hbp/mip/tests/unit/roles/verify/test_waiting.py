# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""For how long verify waits for the engine's nodes: not at all where it is known already that data do not pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

TASKS = Path(__file__).parents[4] / "roles/verify/tasks/engine.yml"


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        ({"a": {"ok": True}, "b": {"ok": True}}, 90),
        ({"a": {"ok": True}, "b": {"ok": False}}, 0),
        ({"a": {"ok": True}, "b": None}, 90),
    ],
    ids=["all-passed", "one-did-not", "one-was-not-asked"],
)
def test_verify_waits_for_the_engine_only_where_all_data_passed(sent: dict[str, Any], seconds: int) -> None:
    loader = DataLoader()
    task = loader.load_from_file(str(TASKS), trusted_as_template=True)[0]
    known = {
        "ansible_play_hosts": list(sent),
        "hostvars": {name: {} if result is None else {"verify_sent": result} for name, result in sent.items()},
        "verify_wait": 90,
    }
    templar = Templar(loader=loader, variables={**known, "verify_passed": task["vars"]["verify_passed"]})
    assert templar.template(task["hbp.mip.exareme_query"]["wait"]) == seconds
