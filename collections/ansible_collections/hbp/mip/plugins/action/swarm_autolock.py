# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.hbp.mip.plugins.plugin_utils import _unlock_keys

#: How Docker's unlock keys begin.
_KEY = "SWMKEY-1-"


class ActionModule(ActionBase):  # type: ignore[misc]
    """Keeps the unlock key in a file that is encrypted with the vault password; what it hands on holds no key."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        arguments = dict(self._task.args)
        state = str(arguments.get("state") or "enabled")
        path = Path(str(arguments.pop("path", None) or Path(str(variables.get("inventory_dir") or ".")) / _unlock_keys.FILE)).expanduser()
        secrets = list(self._loader._vault.secrets or [])
        try:
            keys = _unlock_keys.read(path, secrets)
            if state in ("enabled", "rotated", "known"):
                # A key that could not be kept would lock its swarm for good.
                _unlock_keys.check(path, secrets)
        except _unlock_keys.VaultError as error:
            if state != "unlocked" or not arguments.get("unlock_key"):
                return {**result, "failed": True, "mip_error": "configuration", "path": str(path), "msg": str(error)}
            keys = _unlock_keys.Keys()
        if state == "disabled" and not keys.keys:
            return {**result, "changed": False, "path": str(path), "stored": False, "msg": "no key in the vault, so it is left alone"}
        if state == "unlocked":
            # Otherwise a known key would be hidden in the module's answer, in which it is asked for.
            arguments["known"] = keys.values()
        answer = self._execute_module(module_name="hbp.mip.swarm_autolock", module_args=arguments, task_vars=variables)
        key = str((answer.pop("secret", None) or {}).get("key") or "")
        answer.pop("invocation", None)
        answer["path"] = str(path)
        result.update(answer)
        if key and not key.startswith(_KEY):
            return {**result, "failed": True, "msg": "what the engine gives as unlock key is none; nothing was kept"}
        if key and not self._task.check_mode:
            self._keep(path, keys, key, secrets, result, variables)
        return result

    def _keep(
        self, path: Path, keys: _unlock_keys.Keys, key: str, secrets: list[Any], result: dict[str, Any], variables: Mapping[str, Any]
    ) -> None:
        if not keys.add(str(result.get("cluster_id") or ""), key):
            return
        try:
            _unlock_keys.write(path, keys, secrets)
            result.update(stored=True, changed=True)
        except _unlock_keys.VaultError as error:
            undone = ""
            if result.get("changed") and self._task.args.get("state", "enabled") == "enabled":
                engine = {key: self._task.args[key] for key in ("docker_host", "engine_timeout", "cluster_id") if key in self._task.args}
                back = self._execute_module(
                    module_name="hbp.mip.swarm_autolock", module_args={**engine, "state": "disabled"}, task_vars=dict(variables)
                )
                undone = ". Autolock was switched off again" if not back.get("failed") else ""
            fix = "" if undone else ". Run the same again before a manager restarts: the key of a swarm that works is taken in then"
            result.update(failed=True, mip_error="configuration", msg=f"the unlock key could not be kept: {error}{undone}{fix}")
