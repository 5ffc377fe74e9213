# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):  # type: ignore[misc]
    """Runs the module between two looks at the controller's clock.

    The node reads its clock somewhere between the two, so a difference that the connection's delay explains is no skew. Without
    this a slow line or a busy controller would be reported as a wrong clock.
    """

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        limit = float((arguments.get("limits") or {}).get("clock_skew_seconds") or 5)
        before = time.time()
        arguments["reference_time"] = before
        result.update(self._execute_module(module_name="hbp.mip.node_check", module_args=arguments, task_vars=task_vars))
        took = time.time() - before
        offset = result.get("facts", {}).get("time_offset_s")
        if offset is not None:
            # The node's clock is ahead by at most `offset` and at least `offset - took`.
            skew = 0.0 if offset - took <= 0 <= offset else min((offset - took, offset), key=abs)
            result["facts"]["time_offset_s"] = round(skew, 3)
            if abs(skew) <= limit:
                result["problems"] = [entry for entry in result["problems"] if entry["code"] != "clock-skew"]
        return result
