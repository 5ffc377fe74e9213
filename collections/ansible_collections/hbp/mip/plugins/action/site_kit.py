# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import getpass
import platform
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.hbp.mip.plugins.filter.image_registry import image_registry
from ansible_collections.hbp.mip.plugins.plugin_utils import _files, _site_kit


class ActionModule(ActionBase):  # type: ignore[misc]
    """Asks the manager for the token, and seals it into a kit before anybody else sees it."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        arguments = dict(self._task.args)
        making = arguments.get("state") == "created"
        if making:
            for option in ("path", "passphrase_file"):
                if not arguments.get(option):
                    return {**result, "failed": True, "mip_error": "configuration", "msg": f"{option} is needed with state: created"}
            key = Path(str(arguments.get("signing_key") or Path(variables.get("inventory_dir") or ".") / "ssh/id_ed25519")).expanduser()
            try:
                # Before the manager takes note of a kit that could not be signed.
                _site_kit.fingerprint(key)
            except (_site_kit.KitError, OSError) as error:
                return {**result, "failed": True, "mip_error": "configuration", "msg": f"{error}. Nothing was changed"}
        answer = self._execute_module(module_name="hbp.mip.site_kit", module_args=arguments, task_vars=variables)
        secret = answer.pop("secret", None)
        answer.pop("invocation", None)
        result.update(answer)
        if not making or not secret or answer.get("failed"):
            return result
        try:
            result.update(self._make(arguments, secret, key))
        except (_site_kit.KitError, OSError) as error:
            result.update(failed=True, mip_error="kit", msg=f"the kit cannot be written: {error}. Make it again when that is put right")
        return result

    @staticmethod
    def _make(arguments: dict[str, Any], secret: dict[str, Any], key: Path) -> dict[str, Any]:
        federation = arguments["federation"]
        node = next(node for node in federation["kits"] if node["name"] == arguments["node"])
        phrase_file, path = Path(arguments["passphrase_file"]).expanduser(), Path(arguments["path"]).expanduser()
        if phrase_file.exists():
            phrase = phrase_file.read_text(encoding="utf-8").strip()
            if len(phrase.replace("-", "")) < 16:
                raise _site_kit.KitError(f"the passphrase in {phrase_file} has fewer than 16 characters")
        else:
            phrase = _site_kit.passphrase()
            _files.write(phrase_file, phrase + "\n", mode=0o600)
        made_by = f"{getpass.getuser()}@{platform.node()}"
        sealed = _site_kit.content(federation, node, image_registry(federation), secret, made_by)
        _files.write(path, _site_kit.build(sealed, phrase, key), mode=0o600)
        return {"path": str(path), "signer": _site_kit.fingerprint(key)}
