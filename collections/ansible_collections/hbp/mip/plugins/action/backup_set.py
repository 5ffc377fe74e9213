# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.hbp.mip.plugins.plugin_utils import _backup_keys, _backup_set


class ActionModule(ActionBase):  # type: ignore[misc]
    """Begins, seals, lists and opens sets on the controller; touches no host."""

    _requires_connection = False
    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        states = ("begun", "sealed", "discarded", "listed", "opened", "verified")
        _unused, given = self.validate_argument_spec(
            argument_spec={
                "state": {"type": "str", "choices": list(states), "required": True},
                "federation": {"type": "str", "required": True},
                "directory": {"type": "path"},
                "inventory": {"type": "path"},
                "set": {"type": "path"},
                "recipients": {"type": "list", "elements": "str", "default": []},
                "identity": {"type": "path"},
                "facts": {"type": "dict", "default": {}},
                "keep": {"type": "int", "default": 14},
            },
            required_if=[
                ("state", "begun", ("directory", "inventory", "recipients")),
                ("state", "sealed", ("set", "recipients")),
                ("state", "discarded", ("set",)),
                ("state", "listed", ("directory",)),
                ("state", "opened", ("set", "identity")),
                ("state", "verified", ("set", "identity")),
            ],
        )
        try:
            return {**result, "changed": False, **getattr(self, f"_{given['state']}")(given)}
        except _backup_set.BackupError as error:
            return {**result, "failed": True, "msg": str(error)}
        except OSError as error:
            return {**result, "failed": True, "msg": f"{error.filename or given['directory']}: {error.strerror or error}"}

    def _begun(self, given: Mapping[str, Any]) -> dict[str, Any]:
        targets = _backup_set.recipients(given["recipients"])
        if self._task.check_mode:
            return {"changed": True, "set": ""}
        folder, inventory = Path(given["directory"]), Path(given["inventory"])
        staging = _backup_set.begin(folder, given["federation"])
        with _backup_set.Part(staging, "inventory.tar.gz", targets, {"kind": "inventory", "node": ""}) as part:
            files = _backup_set.pack(_backup_set.inventory_files(inventory, [folder]), part.write)
        part.about["files"] = files
        part.describe()
        return {"changed": True, "set": str(staging)}

    def _sealed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        targets = _backup_set.recipients(given["recipients"])
        if self._task.check_mode or not given["set"]:
            return {"changed": True, "set": "", "manifest": {}, "removed": []}
        staging, facts = Path(given["set"]), dict(given["facts"])
        header = {
            "federation": given["federation"],
            "created": _backup_set.moment(),
            "cluster_id": str((facts.get("swarm") or {}).get("cluster_id") or ""),
            "missing": list(facts.get("missing") or ()),
        }
        path = _backup_set.seal(staging, header, facts, targets)
        removed = _backup_set.retain(path.parent, given["federation"], given["keep"])
        sets, _problems = _backup_set.listed(path.parent, given["federation"])
        entry = next(found for found in sets if found["file"] == str(path))
        return {"changed": True, "set": str(path), "manifest": entry, "removed": removed}

    def _discarded(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {"changed": bool(given["set"]) and not self._task.check_mode and _backup_set.discard(Path(given["set"]))}

    def _listed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        sets, problems = _backup_set.listed(Path(given["directory"]), given["federation"])
        return {"sets": sets, "problems": problems}

    def _opened(self, given: Mapping[str, Any]) -> dict[str, Any]:
        keys = _backup_keys.read(Path(given["identity"]), self._loader.get_text_file_contents)
        opened = _backup_set.BackupSet(Path(given["set"]).expanduser())
        manifest = opened.manifest(keys)
        if manifest["federation"] != given["federation"]:
            raise _backup_set.BackupError(f"{given['set']} is of the federation {manifest['federation']}, not of {given['federation']}")
        return {"manifest": manifest}

    def _verified(self, given: Mapping[str, Any]) -> dict[str, Any]:
        keys = _backup_keys.read(Path(given["identity"]), self._loader.get_text_file_contents)
        opened = _backup_set.BackupSet(Path(given["set"]).expanduser())
        if opened.header.get("federation") != given["federation"]:
            raise _backup_set.BackupError(
                f"{given['set']} is of the federation {opened.header.get('federation')}, not of {given['federation']}"
            )
        return {"manifest": opened.verify(keys)}
