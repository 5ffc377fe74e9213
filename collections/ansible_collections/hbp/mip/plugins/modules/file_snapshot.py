#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: file_snapshot
short_description: Copy files of this host into an archive, or put back those that are missing
version_added: 0.3.0
description:
  - Packs the files below O(root) whose paths match O(patterns) into a compressed tar that only root reads, with a digest of each.
  - With O(state=restored) files that are missing below O(root) are written from such an archive. What is there is never replaced.
author:
  - The hbp.mip authors (@HBPMedical)
options:
  state:
    description:
      - What to do.
    type: str
    choices: [created, restored]
    default: created
  root:
    description:
      - Folder that the paths are relative to.
    type: path
    required: true
  archive:
    description:
      - The archive. Its folder is made with mode 0700.
    type: path
    required: true
  patterns:
    description:
      - Paths relative to O(root), with C(*) for any part of one name. Links are not followed.
    type: list
    elements: str
    default: ["*"]
  sha256:
    description:
      - Digest that the archive must have, with O(state=restored).
    type: str
attributes:
  check_mode:
    description: Looks, and writes nothing.
    support: full
  diff_mode:
    description: Shows the paths that a restore writes.
    support: partial
  idempotent:
    description: A second restore changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Copy the metadata of all pathologies
  hbp.mip.file_snapshot:
    root: /data/lab
    patterns: ["*/CDEsMetadata.json"]
    archive: /var/lib/mip/lab/backup/cdes.tar.gz
"""

RETURN = r"""
archive:
  description: The archive, with C(path), C(size), C(sha256) and C(files). Empty when there was no such file, and in check mode.
  returned: O(state=created)
  type: dict
written:
  description: Paths that were missing and are there again.
  returned: O(state=restored)
  type: list
  elements: str
"""

import fnmatch
import os
import shutil
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _snapshot


def matching(root: str, patterns: List[str]) -> List[str]:
    """Files below `root` that match; `*` does not cross folders."""
    found = []
    for here, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = os.path.relpath(os.path.join(here, name), root)
            parts = path.split(os.sep)
            for pattern in patterns:
                wanted = pattern.split("/")
                if len(wanted) == len(parts) and all(fnmatch.fnmatchcase(*pair) for pair in zip(parts, wanted)):
                    if os.path.isfile(os.path.join(here, name)) and not os.path.islink(os.path.join(here, name)):
                        found.append(path)
                    break
    return sorted(found)


def create(params: Dict[str, Any], check_mode: bool) -> Dict[str, Any]:
    """Pack the files."""
    names = matching(params["root"], params["patterns"])
    if check_mode or not names:
        return {"changed": bool(names), "archive": {}}
    folder = _snapshot.private_folder(os.path.dirname(params["archive"]))
    _snapshot.need_space(folder, sum(os.path.getsize(os.path.join(params["root"], name)) for name in names))
    return {"changed": True, "archive": _snapshot.pack(params["root"], names, params["archive"])}


def restore(params: Dict[str, Any], check_mode: bool) -> Dict[str, Any]:
    """Write what is missing."""
    found = _snapshot.check_archive(params["archive"], params["sha256"] or "")
    root = params["root"]
    missing = sorted(name for name, digest in found.items() if digest and not os.path.lexists(os.path.join(root, name)))
    result = {"changed": bool(missing), "written": missing, "diff": {"before": [], "after": missing}}
    if check_mode or not missing:
        return result
    unpacked = params["archive"] + ".unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        _snapshot.unpack(params["archive"], unpacked)
        for name in missing:
            target = os.path.join(root, name)
            os.makedirs(os.path.dirname(target), 0o750, exist_ok=True)
            draft = target + ".restore"
            # Between file systems, so that the last step can be a rename.
            shutil.copy2(os.path.join(unpacked, name), draft)
            status = os.stat(os.path.join(unpacked, name))
            os.chown(draft, status.st_uid, status.st_gid)
            os.rename(draft, target)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["created", "restored"], "default": "created"},
            "root": {"type": "path", "required": True},
            "archive": {"type": "path", "required": True},
            "patterns": {"type": "list", "elements": "str", "default": ["*"]},
            "sha256": {"type": "str"},
        },
        supports_check_mode=True,
    )
    result: Dict[str, Any] = {}
    try:
        work = create if module.params["state"] == "created" else restore
        result = work(module.params, module.check_mode)
    except _snapshot.SnapshotError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg="%s: %s" % (error.filename or module.params["root"], error.strerror or error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
