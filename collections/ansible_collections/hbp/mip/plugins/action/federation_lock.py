# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import signal
import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase


def _status(pid: int) -> list[str]:
    """Return the fields of proc(5) stat after the name: state, parent, …; empty if the process is gone or only a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()
    except OSError:
        return []
    return [] if fields[0] in "ZX" else fields


def _started(pid: int) -> str:
    """Return when a process of this controller started, as boot and clock ticks; empty if it is gone."""
    fields = _status(pid)
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text(encoding='utf-8').strip()}:{fields[19]}" if fields else ""


def _end_orphan(pid: int) -> None:
    """End a run whose mipfed was killed and which goes on without it; a run with a living owner is left alone."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return
    owner = next((entry.partition(b"=")[2] for entry in environment if entry.startswith(b"MIPFED_PID=")), b"")
    if not owner or _status(pid)[1:2] == [owner.decode()]:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + 5
        while _status(pid) and time.monotonic() < deadline:
            time.sleep(0.1)


class ActionModule(ActionBase):  # type: ignore[misc]
    """Tells the module who asks, and looks on this controller whether the holder of a lock is still alive.

    So a run that was killed does not keep the next one out, while another controller waits for the lease or for a person.
    """

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if not arguments.get("holder"):
            # This code runs in a fork that lives for one task; its parent is the run.
            pid = os.getppid()
            arguments["holder"] = {
                "user": getpass.getuser(),
                "host": platform.node(),
                "pid": pid,
                "pid_start": _started(pid),
                "command": os.environ.get("MIPFED_COMMAND", "ansible-playbook"),
            }
        try:
            result.update(self._ask(arguments, task_vars))
        except AnsibleConnectionFailure as error:
            # As a result of its own it would end a play with any_errors_fatal, although the task ignores it.
            if not self._task.ignore_unreachable:
                raise
            result.update(failed=True, away=True, msg=str(error))
        return result

    def _ask(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Run the module, and again when the lock's holder turns out to be dead."""
        answer: dict[str, Any] = self._execute_module(module_name="hbp.mip.federation_lock", module_args=arguments, task_vars=task_vars)
        holder = answer.get("holder") or {}
        if answer.get("mip_error") == "locked" and holder.get("host") == platform.node():
            pid = int(holder.get("pid") or 0)
            if _started(pid) == str(holder.get("pid_start")):
                _end_orphan(pid)
            if _started(pid) != str(holder.get("pid_start")):
                arguments["dead_holder"] = answer.get("nonce")
                answer = self._execute_module(module_name="hbp.mip.federation_lock", module_args=arguments, task_vars=task_vars)
        return answer
