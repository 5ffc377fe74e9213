# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs modules as processes of their own, as Ansible does on a host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLLECTION = Path(__file__).resolve().parents[4]
COLLECTIONS = COLLECTION.parents[2]


def start_module(
    name: str,
    arguments: dict[str, Any],
    *,
    check: bool = False,
    diff: bool = False,
    prefix: Sequence[str] = (),
    python: str = sys.executable,
) -> subprocess.Popen[str]:
    """Start a module with its arguments written to its input. `prefix` is a command that runs it, such as setpriv."""
    payload = {"ANSIBLE_MODULE_ARGS": dict(arguments, _ansible_check_mode=check, _ansible_diff=diff)}
    path = [str(COLLECTIONS)]
    if python != sys.executable:
        import ansible

        path.append(str(Path(ansible.__file__).parents[1]))
    process = subprocess.Popen(
        [*prefix, python, str(COLLECTION / "plugins" / "modules" / f"{name}.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(payload))
    process.stdin.close()
    process.stdin = None
    return process


def result_of(process: subprocess.Popen[str], timeout: float = 60) -> dict[str, Any]:
    """Wait for a module and return its result."""
    out, err = process.communicate(timeout=timeout)
    lines = [line for line in out.splitlines() if line.startswith("{")]
    assert lines, f"no result; stdout: {out!r}, stderr: {err!r}"
    result: dict[str, Any] = json.loads(lines[-1])
    assert process.returncode == (1 if result.get("failed") else 0)
    return result


def run_module(name: str, arguments: dict[str, Any], **how: Any) -> dict[str, Any]:
    """Run a module and return its result."""
    return result_of(start_module(name, arguments, **how))
