# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.hbp.mip.plugins.module_utils._host_keys import pinned


class ActionModule(ActionBase):  # type: ignore[misc]
    """Spares the module when, on a local connection, the file already pins every node: the usual case costs no process."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self._task.args
        hosts = [(node["host"], int(node.get("port") or 22)) for node in arguments.get("nodes") or ()]
        if self._connection.transport == "local" and arguments.get("path") and all(pinned(str(arguments["path"]), hosts).values()):
            result.update(changed=False, pinned=[])
            return result
        result.update(self._execute_module(module_name="hbp.mip.host_keys", task_vars=task_vars))
        return result
