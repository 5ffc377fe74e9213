# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.hbp.mip.plugins.plugin_utils import _reports
from ansible_collections.hbp.mip.plugins.plugin_utils._problems import sentence


class ActionModule(ActionBase):  # type: ignore[misc]
    """Turns what was collected from the nodes into one report with a verdict; touches no host."""

    _requires_connection = False
    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _unused, arguments = self.validate_argument_spec(
            argument_spec={
                "verb": {"type": "str", "required": True, "choices": sorted(_reports.REPORTS)},
                "federation": {"type": "dict", "required": True},
                "data": {"type": "dict", "required": True},
                "stop": {"type": "bool", "default": True},
            }
        )
        verb = arguments["verb"]
        report = _reports.REPORTS[verb](arguments["federation"], arguments["data"])
        result["changed"] = False
        result["mip_report"] = {"verb": verb, "schema": 1, "data": report}
        if report["problems"] and arguments["stop"]:
            name = arguments["federation"]["name"]
            result["failed"] = True
            result["mip_error"] = report.get("error", "check")
            lines = "\n".join(sentence(problem) for problem in report["problems"])
            result["msg"] = f"{_reports.TITLES[verb].format(name=name)}\n{lines}"
        return result
