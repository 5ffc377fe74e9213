#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: portal_experiments
short_description: The experiments that the web portal keeps
version_added: 0.4.0
description:
  - Lists who ran which algorithm on which datasets, or removes experiments of pathologies.
  - Before anything is removed the whole database is written into a dump. Everything is removed in one transaction.
  - A user whose last experiment is removed is removed too. The portal makes users again when they log in.
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
    description: V(listed) changes nothing, V(purged) removes.
    type: str
    choices: [listed, purged]
    default: listed
  pathologies:
    description: With O(state=purged), experiments of these pathologies are removed.
    type: list
    elements: str
    default: []
  keep_pathologies:
    description: With O(state=purged), experiments of all other pathologies are removed. Those of no pathology stay.
    type: list
    elements: str
    default: []
  since:
    description: With O(state=listed), only experiments that ended at this time or later, as C(2026-11-22) or C(2026-11-22T10:00:00).
    type: str
    default: ""
  backup_directory:
    description: Folder of this host for dumps. Required with O(state=purged).
    type: path
attributes:
  check_mode:
    description: Returns the experiments that would be removed.
    support: full
  diff_mode:
    description: Shows the experiments that are removed.
    support: full
  idempotent:
    description: When there is nothing to remove, nothing is changed and no dump is written.
    support: full
"""

EXAMPLES = r"""
- name: Remove the experiments of a pathology that left the federation
  hbp.mip.portal_experiments:
    project: lab
    state: purged
    pathologies: [tbi]
    backup_directory: /var/lib/mip/lab/portal-backups
"""

RETURN = r"""
experiments:
  description: The experiments that are meant, the oldest first.
  returned: success
  type: list
  elements: dict
  contains:
    uuid:
      description: Its identifier.
      type: str
    name:
      description: Its name.
      type: str
    who:
      description: The user.
      type: str
    created:
      description: When it was begun.
      type: str
    finished:
      description: When it ended.
      type: str
    status:
      description: What became of it.
      type: str
    algorithm:
      description: The algorithm.
      type: str
    pathology:
      description: The pathology.
      type: str
    datasets:
      description: The datasets.
      type: str
backup:
  description: The dump that was written before.
  returned: when something was removed
  type: str
removed:
  description: How many were removed.
  returned: when something was removed
  type: int
"""

import json
import re
from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _experiments, _portal_database
from ansible_collections.hbp.mip.plugins.module_utils._engine import EngineError, open_engine
from ansible_collections.hbp.mip.plugins.module_utils._snapshot import SnapshotError

_TIME = re.compile(r"\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2})?)?")


def selection(params: Dict[str, Any]) -> Dict[str, Any]:
    """Return the parameter of the statements: which experiments are meant. Raises ValueError."""
    if params["state"] == "listed":
        if params["since"] and not _TIME.fullmatch(params["since"]):
            raise ValueError("since: %r is no time such as 2026-11-22 or 2026-11-22T10:00:00" % params["since"])
        return {"mode": "all", "since": params["since"]}
    if bool(params["pathologies"]) == bool(params["keep_pathologies"]):
        raise ValueError("give either pathologies or keep_pathologies; with none of them, or both, it is not clear what is to go")
    if params["pathologies"]:
        return {"mode": "of", "pathologies": params["pathologies"]}
    return {"mode": "outside", "pathologies": params["keep_pathologies"]}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["listed", "purged"], "default": "listed"},
            "pathologies": {"type": "list", "elements": "str", "default": []},
            "keep_pathologies": {"type": "list", "elements": "str", "default": []},
            "since": {"type": "str", "default": ""},
            "backup_directory": {"type": "path"},
            "docker_host": {"type": "str", "default": "unix:///var/run/docker.sock"},
            "engine_timeout": {"type": "int", "default": 60},
        },
        required_if=[("state", "purged", ["backup_directory"])],
        supports_check_mode=True,
    )
    params = module.params
    container = _portal_database.container(params["project"])
    result: Dict[str, Any] = {"changed": False, "experiments": []}
    try:
        given = selection(params)
        client = open_engine(module, "would look at the experiments", result)
        found = result["experiments"] = _experiments.listed(client, container, given)
        if params["state"] == "purged":
            result["changed"] = bool(found)
            lines = "".join("%s\n" % json.dumps(entry, sort_keys=True) for entry in found)
            result["diff"] = {"before": lines, "after": ""}
            if found and not module.check_mode:
                result["changed"] = False
                result["backup"] = _experiments.backup(client, container, params["backup_directory"])
                result["removed"] = _experiments.purged(client, container, given)
                result["changed"] = True
    except EngineError as error:
        fix = " Next: mipfed -f %s ui status" % params["project"] if error.status in (404, 409) else ""
        module.fail_json(msg="%s.%s" % (error, fix), **result)
    except (_portal_database.DatabaseError, SnapshotError, ValueError, OSError) as error:
        module.fail_json(msg="%s. Nothing was removed" % error, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
