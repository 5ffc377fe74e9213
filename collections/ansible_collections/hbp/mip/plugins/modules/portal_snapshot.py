#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: portal_snapshot
short_description: Save the web portal's database, or put a saved one in its place
version_added: 0.4.0
description:
  - Saves the database with C(pg_dump), as one consistent view, while the portal goes on.
  - With O(state=restored) a dump is read into a database of its own, which then takes the place of the other in one transaction.
    That one is kept under another name. The backend is cut off at that moment, and has to be restarted, since it may have to change
    the tables of an older version.
  - A dump whose tables are of a newer version than those of the backend is refused.
extends_documentation_fragment:
  - hbp.mip.engine
author:
  - The hbp.mip authors (@HBPMedical)
options:
  project:
    description: Name of the federation.
    type: str
    required: true
  state:
    description: What to do.
    type: str
    choices: [saved, restored]
    default: saved
  path:
    description: The dump, on this host. With O(state=saved) its folder is made, and only root can enter it.
    type: path
    required: true
  sha256:
    description: What the dump must be, with O(state=restored).
    type: str
    default: ""
  force:
    description: Restore a dump, too, that the database came out of already, so that what was done since is set aside.
    type: bool
    default: false
attributes:
  check_mode:
    description: Tells whether a restore would change anything; writes nothing.
    support: full
  diff_mode:
    description: Shows which dump the database came out of, before and after.
    support: full
  idempotent:
    description: A dump that the database came out of is not restored again, unless O(force) is true.
    support: full
"""

EXAMPLES = r"""
- name: Save the portal's database
  hbp.mip.portal_snapshot:
    project: lab
    path: /var/lib/mip/lab/backup/portal.dump
  register: portal
"""

RETURN = r"""
archive:
  description: The dump, with C(path), C(size) and C(sha256).
  returned: O(state=saved), not in check mode
  type: dict
kept:
  description: Name of the database that was there before; it stays on the server.
  returned: when a dump was restored
  type: str
schema:
  description: Version of the tables in the dump; empty when the backend does not say.
  returned: when a dump was restored
  type: str
schema_before:
  description: Version of the tables before.
  returned: when a dump was restored
  type: str
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _portal_database
from ansible_collections.hbp.mip.plugins.module_utils._engine import EngineError, open_engine
from ansible_collections.hbp.mip.plugins.module_utils._snapshot import SnapshotError, digest


def save(client: Any, container: str, params: Dict[str, Any], check_mode: bool) -> Dict[str, Any]:
    """Write the dump."""
    if check_mode:
        _portal_database.restored_from(client, container)
        return {"changed": True}
    return {"changed": True, "archive": _portal_database.dump(client, container, params["path"])}


def restore(client: Any, container: str, params: Dict[str, Any], check_mode: bool) -> Dict[str, Any]:
    """Put the dump in place of the database."""
    before = _portal_database.restored_from(client, container)
    # In check mode the dump was not brought.
    found = params["sha256"] if check_mode else digest(params["path"])
    if params["sha256"] and found != params["sha256"]:
        raise SnapshotError("%s is damaged: SHA-256 %s instead of %s" % (params["path"], found, params["sha256"]))
    if found and found == before and not params["force"]:
        return {"changed": False, "diff": {"before": "%s\n" % before, "after": "%s\n" % before}}
    result: Dict[str, Any] = {"changed": True, "diff": {"before": "%s\n" % before, "after": "%s\n" % found}}
    if not check_mode:
        result.update(_portal_database.restore(client, container, params["path"]))
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["saved", "restored"], "default": "saved"},
            "path": {"type": "path", "required": True},
            "sha256": {"type": "str", "default": ""},
            "force": {"type": "bool", "default": False},
            "docker_host": {"type": "str", "default": "unix:///var/run/docker.sock"},
            "engine_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    params = module.params
    container = _portal_database.container(params["project"])
    work, words = (save, "Nothing was saved") if params["state"] == "saved" else (restore, "The database is as it was")
    result: Dict[str, Any] = {}
    try:
        client = open_engine(module, "would work on the portal's database", {"changed": True})
        result = work(client, container, params, module.check_mode)
    except EngineError as error:
        fix = " Next: mipfed -f %s ui status" % params["project"] if error.status in (404, 409) else ""
        module.fail_json(msg="%s.%s" % (error, fix))
    except (_portal_database.DatabaseError, SnapshotError, OSError) as error:
        module.fail_json(msg="%s. %s" % (error, words))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
