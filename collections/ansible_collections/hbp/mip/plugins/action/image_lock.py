# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.hbp.mip.plugins.plugin_utils import _images
from ansible_collections.hbp.mip.plugins.plugin_utils._problems import problem, sentence


def chosen(
    federation: Mapping[str, Any], wanted: Mapping[str, Mapping[str, Any]], answers: Mapping[str, Any], kept: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], list[dict[str, str]]]:
    """Return an entry of the lock for each wanted image, and what is wrong with those that cannot be had.

    :arg wanted: `reference`, and a `digest` where it is known, by what the image is for.
    :arg answers: by the host that asked, in the order in which they count, `asked`, the result of M(hbp.mip.image_info).
    :arg kept: by what the image is for, whether all nodes that need it have it.
    """
    entries: dict[str, dict[str, Any]] = {}
    problems = []
    for name, image in wanted.items():
        reference, digest = str(image["reference"]), str(image.get("digest") or "")
        asked = f"{_images.split(reference)[0]}@{digest}" if digest else reference
        told = [
            (host, entry)
            for host, answer in answers.items()
            for entry in (answer.get("asked") or {}).get("images") or ()
            if entry["reference"] == asked
        ]
        host, found = next(((host, entry) for host, entry in told if entry["digest"]), ("", None))
        known = _images.entry_of(federation, reference)
        if found is not None:
            when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            same = known is not None and known["digest"] == found["digest"]
            stamp = {key: known[key] for key in ("locked_at", "locked_from") if key in known} if same and known else {}
            entries[name] = {**found, "name": name, "reference": reference, "locked_at": when, "locked_from": host, **stamp}
        elif digest and kept.get(name):
            entries[name] = {**image, "name": name, "reference": reference, "digest": digest}
        elif not digest and known is not None:
            entries[name] = {**known, "name": name}
        else:
            words = "; ".join(f"{host}: {entry['error']}" for host, entry in told) or "no registry was asked"
            if digest:
                words += "; and not every node that needs it has it"
            fix = (
                "correct the name or push the image"
                if any(entry.get("code") in ("missing", "reference", "unsupported") for _host, entry in told)
                else "mipfed -f {name} check --request-sheet pusher, or bring the images in a file: mipfed image load".format(**federation)
            )
            problems.append(problem(next(iter(answers), "pusher"), "image-not-had", f"{name}: {asked} cannot be had ({words})", fix))
    return entries, problems


class ActionModule(ActionBase):  # type: ignore[misc]
    """Writes `images.lock` beside the inventory, on the controller."""

    _requires_connection = False
    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _unused, arguments = self.validate_argument_spec(
            argument_spec={
                "state": {"type": "str", "choices": ["locked", "looked"], "default": "locked"},
                "federation": {"type": "dict", "required": True},
                "wanted": {"type": "dict", "required": True},
                "answers": {"type": "dict", "default": {}},
                "kept": {"type": "dict", "default": {}},
            }
        )
        federation = arguments["federation"]
        entries, problems = chosen(federation, arguments["wanted"], arguments["answers"], arguments["kept"])
        path = Path(str((task_vars or {}).get("inventory_dir"))) / _images.FILE
        result.update(changed=False, path=str(path), entries=entries)
        if problems:
            lines = "\n".join(sentence(entry) for entry in problems)
            return {**result, "failed": True, "mip_error": "check", "problems": problems, "msg": f"Nothing was changed:\n{lines}"}
        if arguments["state"] == "looked":
            return result
        before = {entry["reference"]: entry for entry in federation["images"]["entries"]}
        text = _images.text_of(entries.values())
        old = path.read_text(encoding="utf-8") if path.is_file() else ""
        result["changed"] = old != text
        result["diff"] = {"before": old, "after": text, "before_header": str(path), "after_header": str(path)}
        if result["changed"] and not self._task.check_mode:
            try:
                _images.write(path, text)
            except OSError as error:
                return {**result, "changed": False, "failed": True, "msg": f"{path} cannot be written: {error.strerror}"}
        images = [{**entry, "before": str((before.get(entry["reference"]) or {}).get("digest") or "")} for entry in entries.values()]
        result["mip_report"] = {
            "verb": "image lock",
            "schema": 1,
            "data": {"file": str(path), "changed": result["changed"], "images": images, "problems": []},
        }
        return result
