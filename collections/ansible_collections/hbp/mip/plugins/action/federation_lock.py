# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import getpass
import os
import platform
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase


def _started(pid: int) -> str:
    """Return when a process of this controller started, as boot and clock ticks (proc(5), field 22); empty if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text(encoding='utf-8').strip()}:{fields[19]}"
    except OSError:
        return ""


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
        answer = self._execute_module(module_name="hbp.mip.federation_lock", module_args=arguments, task_vars=task_vars)
        holder = answer.get("holder") or {}
        if answer.get("mip_error") == "locked" and holder.get("host") == platform.node():
            started = _started(int(holder.get("pid") or 0))
            if started != str(holder.get("pid_start")):
                arguments["dead_holder"] = answer.get("nonce")
                answer = self._execute_module(module_name="hbp.mip.federation_lock", module_args=arguments, task_vars=task_vars)
        result.update(answer)
        return result
