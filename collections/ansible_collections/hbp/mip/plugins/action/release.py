# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.hbp.mip.plugins.module_utils import _registry
from ansible_collections.hbp.mip.plugins.plugin_utils import _images, _releases


def targets(federation: Mapping[str, Any], inventory: Path, given: Mapping[str, str], release: int) -> tuple[dict[str, Any], list[str]]:
    """Return the images that an upgrade leads to, by what they are for, and everything because of which it cannot be begun."""
    errors: list[str] = []
    known = _images.references(federation)
    found: dict[str, Any] = {}
    if release:
        record = _releases.load(inventory, release)
        for name, entry in record["images"].items():
            if name not in known:
                continue
            if not entry.get("digest"):
                errors.append(f"release {release} does not know the digest of its {name}, {entry.get('reference')}")
            found[name] = {key: entry[key] for key in _images.KEYS if key in entry}
    for name, reference in given.items():
        if name not in known:
            errors.append(f"{name}: this federation has no such image; it has {', '.join(known)}")
            continue
        last = str(reference).rpartition("/")[2]
        try:
            _registry.parse(str(reference))
        except _registry.RegistryError as error:
            errors.append(f"{name}: {error}")
            continue
        if ":" not in last and "@" not in last:
            errors.append(f"{name}: {reference} names no version; write repository:tag or repository@sha256:…")
        found[name] = {"reference": str(reference)}
    for name, entry in found.items():
        if entry["reference"] == known.get(name):
            continue
        try:
            _releases.place(inventory, name, known[name])
        except _releases.ReleaseError as error:
            errors.append(str(error))
    for name, reference in known.items():
        # What is not upgraded stays what it is, and is in the lock as well afterwards.
        found.setdefault(name, {"reference": reference, **dict(_images.entry_of(federation, reference) or {})})
    return found, errors


class ActionModule(ActionBase):  # type: ignore[misc]
    """Chooses and writes down what a federation runs, on the controller."""

    _requires_connection = False
    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _unused, arguments = self.validate_argument_spec(
            argument_spec={
                "state": {"type": "str", "choices": ["chosen", "recorded"], "default": "recorded"},
                "federation": {"type": "dict", "required": True},
                "set": {"type": "dict", "default": {}},
                "release": {"type": "int", "default": 0},
                "services": {"type": "list", "elements": "dict", "default": []},
                "target": {"type": "dict", "default": {}},
                "verb": {"type": "str", "default": "deploy"},
                "optional": {"type": "bool", "default": False},
            }
        )
        inventory = Path(str((task_vars or {}).get("inventory_dir")))
        result["changed"] = False
        try:
            if arguments["state"] == "chosen":
                return self._choose(result, inventory, arguments)
            return self._record(result, inventory, arguments)
        except (_releases.ReleaseError, OSError) as error:
            if arguments["optional"]:
                result["warnings"] = [f"The release was not written down: {error}"]
                return result
            return {**result, "failed": True, "msg": str(error)}

    @staticmethod
    def _choose(result: dict[str, Any], inventory: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
        try:
            wanted, errors = targets(arguments["federation"], inventory, arguments["set"], arguments["release"])
        except _releases.ReleaseError as error:
            wanted, errors = {}, [str(error)]
        if errors:
            lines = "\n".join(f"  - {error}" for error in errors)
            call = f"mipfed -f {arguments['federation']['name']} release ls"
            text = f"Nothing was changed:\n{lines}"
            return {**result, "failed": True, "mip_error": "configuration", "errors": errors, "next": call, "msg": text}
        asked = [
            f"{_images.split(entry['reference'])[0]}@{entry['digest']}" if entry.get("digest") else entry["reference"]
            for entry in wanted.values()
        ]
        return {**result, "wanted": wanted, "asked": asked}

    def _record(self, result: dict[str, Any], inventory: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
        federation, target = arguments["federation"], arguments["target"]
        if target:
            federation = _images.with_images(federation, target)
        verb = str(arguments["verb"])
        record = _releases.new(federation, inventory, arguments["services"], verb, arguments["release"])
        if self._task.check_mode:
            known = _releases.numbers(inventory)
            same = bool(known) and _releases.told(_releases.load(inventory, known[-1]), record)
            return {**result, "changed": not same, "release": known[-1] if same else (known[-1] if known else 0) + 1}
        written = False
        if target:
            written = self._settle(arguments["federation"], inventory, target)
        number, new = _releases.write(inventory, record)
        result.update(changed=new or written, release=number)
        images = {name: {**entry} for name, entry in record["images"].items()}
        result["mip_report"] = {
            "verb": "release",
            "schema": 1,
            "data": {"release": number, "new": new, "images": images, "problems": []},
        }
        return result

    @staticmethod
    def _settle(federation: Mapping[str, Any], inventory: Path, target: Mapping[str, Mapping[str, Any]]) -> bool:
        """Let the inventory and its lock say what now runs. At no moment does one name an image that the other does not know."""
        path = inventory / _images.FILE
        given = {entry["reference"] for entry in target.values()}
        old = [entry for entry in federation["images"]["entries"] if entry["reference"] not in given]
        _images.write(path, _images.text_of([*old, *target.values()]))
        known = _images.references(federation)
        changes = {name: str(entry["reference"]) for name, entry in target.items() if known.get(name) != entry["reference"]}
        edited = _releases.edit(inventory, changes)
        text = _images.text_of(target.values())
        before = _images.text_of(federation["images"]["entries"])
        _images.write(path, text)
        return edited or text != before
