# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.hbp.mip.plugins.module_utils import _bundle
from ansible_collections.hbp.mip.plugins.plugin_utils import _images

_PREFIX = ".mip-bundle-"


def merged(federation: Mapping[str, Any], entries: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the lock with a bundle's images, and the references that would mean something else than before."""
    known = {entry["reference"]: entry for entry in federation["images"]["entries"]}
    differ = [
        f"{entry['reference']} is {known[entry['reference']]['digest']} in {_images.FILE}, and {entry['digest']} in the bundle"
        for entry in entries
        if entry["reference"] in known and known[entry["reference"]]["digest"] != entry["digest"]
    ]
    new = [entry for entry in entries if entry["reference"] not in known]
    return [*federation["images"]["entries"], *new], differ


class ActionModule(ActionBase):  # type: ignore[misc]
    """Opens a bundle on the controller after its signature and checksums were checked, and closes it again."""

    _requires_connection = False
    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _unused, arguments = self.validate_argument_spec(
            argument_spec={
                "state": {"type": "str", "choices": ["opened", "closed"], "required": True},
                "path": {"type": "path", "required": True},
                "signer": {"type": "path", "default": ""},
                "federation": {"type": "dict", "required": True},
                "opened": {"type": "dict", "default": {}},
                "loaded": {"type": "dict", "default": {}},
            }
        )
        inventory = Path(str((task_vars or {}).get("inventory_dir")))
        result["changed"] = False
        try:
            if arguments["state"] == "opened":
                return {**result, **self._open(inventory, arguments)}
            return {**result, **self._close(inventory, arguments)}
        except (_bundle.BundleError, OSError) as error:
            return {**result, "failed": True, "mip_error": "check", "msg": f"{error}. Nothing was loaded"}

    @staticmethod
    def _open(inventory: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
        path, federation = Path(arguments["path"]), arguments["federation"]
        key = Path(arguments["signer"]) if arguments["signer"] else inventory / "ssh" / "id_ed25519.pub"
        public_key = key.read_text(encoding="utf-8")
        if path.is_dir():
            folder, scratch = path, ""
        else:
            scratch = tempfile.mkdtemp(prefix=_PREFIX, dir=path.parent)
            folder = Path(_bundle.unpack(str(path), scratch))
        try:
            listed = _bundle.read_list(str(folder))
            signer = str(listed.get("federation") or federation["name"])
            _bundle.verify(str(folder), {signer: public_key})
            images = [image for image in listed["images"] if image.get("name") in _images.references(federation)]
            entries = [{key: image[key] for key in _images.KEYS if key in image} for image in images]
            lock, differ = merged(federation, entries)
            if differ:
                fix = "load the bundle that belongs to it, or look at both: mipfed release ls"
                raise _bundle.BundleError(f"{path}: {'; '.join(differ)}. Next: {fix}")
        except BaseException:
            if scratch:
                shutil.rmtree(scratch, ignore_errors=True)
            raise
        return {
            "folder": str(folder),
            "scratch": scratch,
            "signed_by": signer,
            "images": images,
            "sums": _bundle.read_sums(str(folder)),
            "lock": lock,
        }

    def _close(self, inventory: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
        opened, loaded = arguments["opened"], arguments["loaded"]
        scratch = Path(str(opened.get("scratch") or ""))
        if opened.get("scratch") and scratch.name.startswith(_PREFIX):
            shutil.rmtree(scratch, ignore_errors=True)
        nodes = {}
        for name, answers in loaded.items():
            held = (answers.get("held") or {}).get("results") or []
            done = (answers.get("loaded") or {}).get("results") or []
            failed = [str(entry.get("msg")) for entry in [*held, *done] if entry.get("failed")]
            nodes[name] = {
                "there": [entry["item"]["tag"] for entry in held if entry.get("there")],
                "loaded": [entry["item"]["tag"] for entry in done if entry.get("changed") and not entry.get("failed")],
                "error": "; ".join(failed) or ("" if held else "it did not answer"),
            }
        text = _images.text_of(opened["lock"])
        path = inventory / _images.FILE
        changed = not path.is_file() or path.read_text(encoding="utf-8") != text
        if any(entry["error"] for entry in nodes.values()):
            changed = False
        elif changed and not self._task.check_mode:
            _images.write(path, text)
        report = {
            "signed_by": opened["signed_by"],
            "images": [{key: image[key] for key in (*_images.KEYS, "tag") if key in image} for image in opened["images"]],
            "nodes": nodes,
            "file": str(path),
            "locked": changed,
            "problems": [],
        }
        return {"changed": changed, "mip_report": {"verb": "image load", "schema": 1, "data": report}}
