# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import binascii
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.hbp.mip.plugins.plugin_utils import _backup_keys, _backup_set

#: What is read or written with one command on the host.
PIECE_MB = 8


class ActionModule(ActionBase):  # type: ignore[misc]
    """Moves one file between a host and a set, in pieces, encrypted or decrypted on the way."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _unused, given = self.validate_argument_spec(
            argument_spec={
                "state": {"type": "str", "choices": ["taken", "given"], "default": "taken"},
                "set": {"type": "path", "required": True},
                "name": {"type": "str", "required": True},
                "kind": {"type": "str"},
                "path": {"type": "path", "required": True},
                "size": {"type": "int"},
                "sha256": {"type": "str"},
                "files": {"type": "list", "elements": "dict"},
                "about": {"type": "dict", "default": {}},
                "recipients": {"type": "list", "elements": "str", "default": []},
                "identity": {"type": "path"},
            },
            required_if=[("state", "taken", ("kind", "size", "sha256")), ("state", "given", ("identity",))],
        )
        if self._task.check_mode:
            return {**result, "changed": True, "member": {}}
        try:
            work = self._take if given["state"] == "taken" else self._give
            return {**result, "changed": True, "member": work(given, (task_vars or {}).get("inventory_hostname", ""))}
        except (_backup_set.BackupError, OSError) as error:
            return {**result, "failed": True, "msg": str(error)}

    def _command(self, command: str, data: bytes | None = None) -> str:
        """Run a command on the host and return what it prints."""
        done = self._low_level_execute_command(f"LC_ALL=C {command}", in_data=data, sudoable=True)
        if done["rc"]:
            raise _backup_set.BackupError(f"{command.split('|')[0].strip()}: {done.get('stderr', '').strip() or done['rc']}")
        return str(done["stdout"])

    def _pieces(self, path: str, size: int) -> Iterator[bytes]:
        for number in range(-(-size // (PIECE_MB << 20))):
            text = self._command(
                f"dd if={shlex.quote(path)} bs={PIECE_MB}M skip={number} count=1 iflag=fullblock status=none | base64 -w 0"
            )
            try:
                yield base64.b64decode(text.strip(), validate=True)
            except binascii.Error:
                raise _backup_set.BackupError(f"{path}: what the host sent is damaged") from None

    def _take(self, given: Mapping[str, Any], host: str) -> dict[str, Any]:
        targets = _backup_set.recipients(given["recipients"])
        about = {"kind": given["kind"], "node": host, "files": given["files"], **({"about": given["about"]} if given["about"] else {})}
        with _backup_set.Part(Path(given["set"]), given["name"], targets, about) as part:
            for data in self._pieces(given["path"], given["size"]):
                part.write(data)
        part.check(given["size"], given["sha256"])
        return part.describe()

    def _give(self, given: Mapping[str, Any], host: str) -> dict[str, Any]:
        keys = _backup_keys.read(Path(given["identity"]), self._loader.get_text_file_contents)
        opened = _backup_set.BackupSet(Path(given["set"]))
        entry = next((member for member in opened.manifest(keys)["members"] if member["name"] == given["name"]), None)
        if entry is None:
            raise _backup_set.BackupError(f"{given['set']} has no {given['name']}")
        target = str(given["path"])
        folder, draft = shlex.quote(str(Path(target).parent)), shlex.quote(f"{target}.part")
        self._command(f"mkdir -p -m 700 {folder} && chmod 700 {folder} && : > {draft} && chmod 600 {draft}")
        buffer = bytearray()
        for data in opened.member(entry, keys):
            buffer += data
            if len(buffer) >= PIECE_MB << 20:
                self._append(draft, bytes(buffer))
                buffer.clear()
        self._append(draft, bytes(buffer))
        # Only what was read and checked to its end gets its name.
        self._command(f"mv -f {draft} {shlex.quote(target)}")
        return dict(entry)

    def _append(self, draft: str, data: bytes) -> None:
        if data:
            self._command(f"dd of={draft} oflag=append conv=notrunc status=none", data)
