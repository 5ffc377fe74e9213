#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: keystore_snapshot
short_description: Save the keys of a federation's keystore, or put back those that are missing
version_added: 0.3.0
description:
  - Reads all keys of the keystore, Consul, as one consistent view, from inside its container's network; it listens nowhere else.
    Consul's own snapshot is saved as well where the image makes one.
  - With O(state=restored) keys that are missing are written. A key that is there is newer, since the engines write theirs when they
    start, and is left as it is. Keys of nodes that are not among O(nodes) are not written, and removed when they are there.
author:
  - The hbp.mip authors (@HBPMedical)
options:
  state:
    description:
      - What to do.
    type: str
    choices: [saved, restored]
    default: saved
  federation:
    description:
      - Name of the federation.
    type: str
    required: true
  directory:
    description:
      - Folder for C(keystore.json), and C(keystore.snap) where there is one. Made with mode 0700.
    type: path
    required: true
  nodes:
    description:
      - The nodes of the federation, with O(state=restored). Empty means that keys of all nodes are wanted.
    type: list
    elements: str
    default: []
  exact:
    description:
      - With O(state=restored), make the keystore hold what the copy does and nothing else. For a keystore that moves, before the engines
        start; what it holds at its new place is older.
    type: bool
    default: false
  without:
    description:
      - Keys that begin with one of these are not restored.
    type: list
    elements: str
    default: []
  timeout:
    description:
      - Seconds within which the keystore must take keys, with O(state=restored).
    type: int
    default: 120
  docker_socket:
    description:
      - Socket of the engine.
    type: path
    default: /var/run/docker.sock
attributes:
  check_mode:
    description: Reads, and writes nothing.
    support: full
  diff_mode:
    description: Shows the names of the keys before and after a restore, without their values.
    support: partial
  idempotent:
    description: A second restore changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Save the keystore
  hbp.mip.keystore_snapshot:
    federation: lab
    directory: /var/lib/mip/lab/backup
  register: keystore
"""

RETURN = r"""
files:
  description: What was saved, each with C(path), C(size) and C(sha256).
  returned: O(state=saved)
  type: list
  elements: dict
keys:
  description: How many keys there are.
  returned: success
  type: int
written:
  description: Keys that were missing and are there again.
  returned: O(state=restored)
  type: list
  elements: str
removed:
  description: Keys of nodes that are not in the federation any more.
  returned: O(state=restored)
  type: list
  elements: str
kept:
  description: Keys that are there with another value than the copy has, and were left so.
  returned: O(state=restored)
  type: list
  elements: str
"""

import base64
import json
import os
from typing import Any, Dict, List, Sequence

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _keystore, _snapshot
from ansible_collections.hbp.mip.plugins.module_utils._engine import wait_until

KEYS = "keystore.json"
SNAPSHOT = "keystore.snap"


def _write(path: str, content: bytes) -> Dict[str, Any]:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
    return {"path": path, "size": len(content), "sha256": _snapshot.digest(path)}


def save(params: Dict[str, Any], check_mode: bool) -> Dict[str, Any]:
    """Save the keys."""
    pid = _keystore.find(params["federation"], params["docker_socket"])
    found = _keystore.inside(pid, _keystore.read)
    result: Dict[str, Any] = {"changed": not check_mode, "keys": len(found["keys"]), "files": []}
    if check_mode:
        return result
    folder = _snapshot.private_folder(params["directory"])
    content = json.dumps({"format": 1, **found}, indent=1, sort_keys=True).encode("utf-8")
    result["files"] = [_write(os.path.join(folder, KEYS), content)]
    own = _keystore.inside(pid, _keystore.snapshot)
    if own["snapshot"]:
        result["files"].append(_write(os.path.join(folder, SNAPSHOT), base64.b64decode(own["snapshot"])))
    return result


def plan(
    there: Dict[str, Any], saved: Dict[str, Any], nodes: List[str], exact: bool = False, without: Sequence[str] = ()
) -> Dict[str, List[str]]:
    """Which keys are written, removed and kept."""
    saved = {key: value for key, value in saved.items() if not key.startswith(tuple(without))}

    def gone(key: str) -> bool:
        return bool(nodes and _keystore.node_of(key) and _keystore.node_of(key) not in nodes)

    if exact:
        return {
            "written": sorted(key for key in saved if there.get(key) != saved[key] and not gone(key)),
            "removed": sorted(key for key in there if key not in saved or gone(key)),
            "kept": [],
        }
    return {
        "written": sorted(key for key in saved if key not in there and not gone(key)),
        "removed": sorted(key for key in there if gone(key)),
        "kept": sorted(key for key in saved if key in there and there[key] != saved[key] and not gone(key)),
    }


def restore(params: Dict[str, Any], check_mode: bool) -> Dict[str, Any]:
    """Put missing keys back."""
    path = os.path.join(params["directory"], KEYS)
    try:
        with open(path, encoding="utf-8") as stream:
            saved = json.load(stream)["keys"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _keystore.KeystoreError("%s cannot be read: %s" % (path, error)) from error
    why = [""]

    def ready() -> bool:
        try:
            answer = _keystore.inside(_keystore.find(params["federation"], params["docker_socket"]), _keystore.ready)
        except _keystore.KeystoreError as error:
            why[0] = str(error)
            return False
        why[0] = str(answer["why"])
        return bool(answer["ready"])

    if not wait_until(ready, params["timeout"], longest=2.0):
        raise _keystore.KeystoreError("the keystore takes no keys within %d s: %s" % (params["timeout"], why[0]))
    pid = _keystore.find(params["federation"], params["docker_socket"])
    there = _keystore.inside(pid, _keystore.read)["keys"]
    wanted = plan(there, saved, params["nodes"], params["exact"], params["without"])
    changed = bool(wanted["written"] or wanted["removed"])
    if changed and not check_mode:
        _keystore.inside(pid, lambda: _keystore.write({key: saved[key] for key in wanted["written"]}, wanted["removed"]))
        after = _keystore.inside(pid, _keystore.read)["keys"]
        lost = [key for key in wanted["written"] if key not in after]
        if lost:
            raise _keystore.KeystoreError("it took the keys and does not have them: %s" % ", ".join(lost))
    names = sorted((set(there) | set(wanted["written"])) - set(wanted["removed"]))
    return {"changed": changed, "keys": len(names), "diff": {"before": sorted(there), "after": names}, **wanted}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["saved", "restored"], "default": "saved"},
            "federation": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "nodes": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "exact": {"type": "bool", "default": False},
            "without": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "timeout": {"type": "int", "default": 120},
            "docker_socket": {"type": "path", "default": "/var/run/docker.sock"},
        },
        supports_check_mode=True,
    )
    result: Dict[str, Any] = {}
    try:
        work = save if module.params["state"] == "saved" else restore
        result = work(module.params, module.check_mode)
    except (_keystore.KeystoreError, _snapshot.SnapshotError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg="%s: %s" % (error.filename or module.params["directory"], error.strerror or error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
