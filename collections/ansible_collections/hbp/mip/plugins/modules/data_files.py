#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: data_files
short_description: Hands metadata files out to a data folder
version_added: 0.2.0
author: The hbp.mip authors (@HBPMedical)
description:
  - Replaces files such as C(CDEsMetadata.json) in the pathologies' folders, or the portal's C(pathologies.json). All of them
    arrive in one call, are checked against their hashes and the free space, and written to the disk beside the present ones before
    the first one is replaced.
  - Each file is replaced in one step, and the former one is kept. A run that is cut off at any moment leaves every file as it was or
    as it should be; the next run removes what was left beside them.
  - Symbolic links below O(root) are never followed or replaced. Datasets and databases (C(.csv), C(.db)) are refused.
  - A failure names the file, and RV(files) says which ones are replaced already; the next run replaces the others.
attributes:
  check_mode:
    description: Can run in check mode and say what would change, without writing.
    support: full
  diff_mode:
    description: Shows the difference of each file, as unified text. A present file that holds no metadata is not shown.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
options:
  root:
    description: The folder below which the files are, which may itself be a link.
    type: path
    required: true
  files:
    description: The files as they should be.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Path below O(root). Its parts hold letters, digits, C(_), C(.) and C(-), and do not begin with a dot.
        type: str
        required: true
      content:
        description: The file, compressed with zlib and in base64; at most 64 MiB when it is unpacked.
        type: str
        required: true
      sha256:
        description: SHA-256 of the plain file, in hexadecimal.
        type: str
        required: true
  create:
    description: Make folders that are missing. Without it a missing folder is an error.
    type: bool
    default: false
  keep_previous:
    description: Keep a replaced file as C(<name>.previous).
    type: bool
    default: true
  owner:
    description: >-
      Owner of the files and of folders that are made, a name or a number. By default that of the replaced file, or else of the
      folder.
    type: str
    default: ""
  group:
    description: Their group, as O(owner).
    type: str
    default: ""
  mode:
    description: Mode of the files, octal and in quotes. By default that of the replaced file, or else V(0640).
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Hand out the metadata of a pathology
  hbp.mip.data_files:
    root: /data/lab
    files:
      - path: dementia/CDEsMetadata.json
        content: "{{ plan.contents.dementia.content }}"
        sha256: "{{ plan.contents.dementia.sha256 }}"
"""

RETURN = r"""
files:
  description: >-
    For each file C(path), C(before) and C(after) (its SHA-256, empty for no file) and C(changed). After a failure, as far as the
    run came.
  returned: when the arguments can be used
  type: list
  elements: dict
replaced:
  description: The files that were replaced before the failure.
  returned: when writing failed
  type: list
  elements: str
mip_error:
  description: The word V(check).
  returned: when nothing was written, as something is not as it should be
  type: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _data_files


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "str", "required": True},
                    # Not secret, but it has no place in the host's log of module calls.
                    "content": {"type": "str", "required": True, "no_log": True},
                    "sha256": {"type": "str", "required": True},
                },
            },
            "create": {"type": "bool", "default": False},
            "keep_previous": {"type": "bool", "default": True},
            "owner": {"type": "str", "default": ""},
            "group": {"type": "str", "default": ""},
            "mode": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    result: dict[str, Any] = {"changed": False}
    failure = ""
    try:
        wanted = _data_files.decode(params["files"])
        given = _data_files.attributes(params["owner"], params["group"], params["mode"])
        with _data_files.Replacement(params["root"], wanted, given, params["create"], params["keep_previous"]) as replacement:
            try:
                replacement.look(lock=not module.check_mode)
            except _data_files.FilesError:
                result["files"] = replacement.result(written=True)
                raise
            result.update(changed=replacement.changed, files=replacement.result(written=False))
            if module._diff:
                result["diff"] = replacement.diff()
            if not module.check_mode:
                try:
                    replacement.write()
                except _data_files.FilesError as error:
                    result.update(changed=bool(error.replaced), replaced=error.replaced, files=replacement.result(written=True))
                    raise
    except _data_files.FilesError as error:
        failure = str(error)
        if "replaced" not in result:
            result["mip_error"] = "check"
            failure += ". Nothing was changed"
    if failure:
        module.fail_json(msg=failure, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
