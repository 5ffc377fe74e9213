# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.hbp.mip.plugins.plugin_utils import _images
from ansible_collections.hbp.mip.plugins.plugin_utils._federation import CONNECTION, KINDS, SECRETS, FederationError, resolve
from ansible_collections.hbp.mip.plugins.plugin_utils._swarm_record import read


class ActionModule(ActionBase):  # type: ignore[misc]
    """Resolves the inventory on the controller; touches no host."""

    _requires_connection = False
    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        _unused, _args = self.validate_argument_spec(argument_spec={})
        groups = {group: list(variables["groups"].get(group, ())) for group in KINDS}
        hostvars: dict[str, dict[str, Any]] = {}
        for name in {host for hosts in groups.values() for host in hosts}:
            host = variables["hostvars"][name]
            # A secret is not even decrypted here: that it is given is all the roles need to know.
            hostvars[name] = {key: (True if key in SECRETS else host[key]) for key in host if key.startswith("mip_") or key in CONNECTION}
        inventory = Path(variables.get("inventory_dir") or variables["playbook_dir"])
        result["changed"] = False
        try:
            result.update(_images.with_lock(resolve(inventory.name, groups, hostvars), inventory))
            result["remembered"] = read(inventory / "state/swarm.json")["cluster_id"]
        except (FederationError, _images.LockError) as error:
            errors = error.errors if isinstance(error, FederationError) else [str(error)]
            result["failed"] = True
            result["mip_error"] = "configuration"
            result["errors"] = errors
            reasons = "\n".join(f"  - {reason}" for reason in errors)
            result["msg"] = (
                f"The inventory {inventory} cannot be used:\n{reasons}\nCorrect it, then run `mipfed -f {inventory.name} config show`."
            )
        return result
