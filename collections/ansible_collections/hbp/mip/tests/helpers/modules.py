# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running modules of this collection as Ansible does: one process, arguments on standard input, JSON on standard output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLLECTION = Path(__file__).resolve().parents[2]
COLLECTIONS = COLLECTION.parents[2]


class ModuleCrash(AssertionError):
    """The module did not answer as a module does."""


@dataclass
class Result:
    """The answer of a module, and everything it wrote."""

    data: dict[str, Any]
    output: str

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def __contains__(self, key: str) -> bool:
        return key in self.data

    def get(self, key: str, default: Any = None) -> Any:
        """A part of the answer, or `default`."""
        return self.data.get(key, default)

    @property
    def failed(self) -> bool:
        """Whether the module failed."""
        return bool(self.data.get("failed"))

    @property
    def changed(self) -> bool:
        """Whether the module changed something."""
        return bool(self.data.get("changed"))

    @property
    def msg(self) -> str:
        """The message of the module."""
        return str(self.data.get("msg", ""))

    @property
    def warnings(self) -> list[str]:
        """The warnings of the module, as texts (Ansible 2.19 and later writes objects)."""
        found = []
        for item in self.data.get("warnings") or []:
            found.append(str(item.get("event", item).get("msg", item)) if isinstance(item, dict) else str(item))
        return found


def run_module(
    name: str,
    arguments: dict[str, Any],
    *,
    check: bool = False,
    prefix: Sequence[str] = (),
    python: str = sys.executable,
    environment: dict[str, str] | None = None,
    timeout: float = 600,
) -> Result:
    """Run the module `name` with `arguments`, in check mode when `check`, behind the command `prefix` (such as nsenter)."""
    special = {
        "_ansible_check_mode": check,
        "_ansible_diff": True,
        "_ansible_verbosity": 0,
        "_ansible_no_log": False,
        "_ansible_module_name": f"hbp.mip.{name}",
        "_ansible_syslog_facility": "LOG_USER",
        "_ansible_remote_tmp": tempfile.gettempdir(),
    }
    # Ansible sets the profile with which a module reads its arguments; a plain run has to name it.
    start = (
        "import sys, runpy; import ansible.module_utils.basic as basic; "
        "setattr(basic, '_ANSIBLE_PROFILE', 'legacy') if hasattr(basic, '_ANSIBLE_PROFILE') else None; "
        f"runpy.run_module('ansible_collections.hbp.mip.plugins.modules.{name}', run_name='__main__', alter_sys=True)"
    )
    answer = subprocess.run(
        [*prefix, python, "-c", start],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": {**arguments, **special}}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "PYTHONPATH": str(COLLECTIONS), "LC_ALL": "C.UTF-8", **(environment or {})},
    )
    output = answer.stdout + answer.stderr
    lines = [line for line in answer.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise ModuleCrash(f"{name} answered no JSON (exit code {answer.returncode}):\n{output}")
    return Result(json.loads(lines[-1]), output)
