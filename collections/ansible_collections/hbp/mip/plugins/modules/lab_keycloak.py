#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_keycloak
short_description: Run the real Keycloak on a machine of a lab
version_added: 0.4.0
description:
  - Gets Keycloak's own distribution from Maven Central, compares its SHA-256, and prepares it once for all labs of this host.
  - Runs it as a systemd service of a lab machine that has Java and sees the distribution, with a database of its own in the machine. It
    speaks http, on the lab's network, which no other network reaches.
  - The password of its administrator is made here and kept in a file that only root reads.
author: The hbp.mip authors (@HBPMedical)
options:
  state:
    description:
      - V(fetched) gets and prepares the distribution, whose path is returned for a machine's mounts.
      - V(started) runs the server on O(machine) and waits until it answers.
    type: str
    choices: [fetched, started]
    required: true
  lab:
    description: Name of the lab. Required with O(state=started).
    type: str
  machine:
    description: Name of the machine. Required with O(state=started).
    type: str
  state_dir:
    description: Where labs keep their machines, on this host.
    type: path
    default: /var/lib/mip-lab
  cache_dir:
    description: Where the distribution is kept between labs.
    type: path
    default: /var/cache/mip-lab
  timeout:
    description: Longest wait for the preparation, or for the server's first answer, in seconds.
    type: int
    default: 1200
attributes:
  check_mode:
    description: Can run without changing anything.
    support: full
  diff_mode:
    description: Shows what differs.
    support: none
  idempotent:
    description: A second run changes nothing.
    support: full
seealso:
  - module: hbp.mip.lab_machines
"""

EXAMPLES = r"""
- name: Get Keycloak
  hbp.mip.lab_keycloak:
    state: fetched
  register: keycloak

- name: Run it
  hbp.mip.lab_keycloak:
    state: started
    lab: try
    machine: try-kc
"""

RETURN = r"""
path:
  description: Folder of the prepared distribution.
  returned: O(state=fetched)
  type: str
version:
  description: Version of Keycloak.
  returned: always
  type: str
url:
  description: Where it answers.
  returned: O(state=started)
  type: str
password_file:
  description: File with the password of its administrator, C(admin).
  returned: O(state=started)
  type: str
"""

import os
import secrets

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _lab, _lab_keycloak, _lab_machine


def fetched(module: AnsibleModule) -> None:
    """Gets the distribution unless it is there."""
    cache = module.params["cache_dir"]
    answer = {"path": _lab_keycloak.folder_of(cache), "version": _lab_keycloak.VERSION}
    if _lab_keycloak.prepared(cache):
        module.exit_json(changed=False, **answer)
    if not module.check_mode:
        _lab_keycloak.distribution(cache, module.params["timeout"])
    module.exit_json(changed=True, **answer)


def started(module: AnsibleModule) -> None:
    """Runs the server unless it runs as it should."""
    params = module.params
    known = _lab_machine.recorded(params["lab"], params["state_dir"])
    machine = next((entry for entry in known["machines"] if entry["name"] == params["machine"]), None)
    if machine is None:
        raise _lab.LabError("the lab %s has no machine %s" % (params["lab"], params["machine"]))
    paths = _lab.lab_paths(params["state_dir"], params["lab"])
    leader = _lab_machine.running(paths, machine["name"]).leader
    url = "http://%s:%d" % (machine["address"], _lab_keycloak.PORT)
    file = os.path.join(paths.lab, "keycloak", "admin-password")
    answer = {"url": url, "password_file": file, "version": _lab_keycloak.VERSION}
    password = _lab.read_text(file).strip()
    if password and leader is not None and _lab_keycloak.as_wanted(machine["root"], machine["address"], password):
        if _lab_keycloak.answers(url):
            module.exit_json(changed=False, **answer)
    if module.check_mode:
        module.exit_json(changed=True, **answer)
    if leader is None:
        raise _lab.LabError("the machine %s is off; `mipfed lab up --name %s --with keycloak` starts it" % (machine["name"], params["lab"]))
    if not password:
        password = secrets.token_urlsafe(24)
        os.makedirs(os.path.dirname(file), mode=0o700, exist_ok=True)
        _lab.write_file(file, password + "\n", 0o600)
    _lab_keycloak.install(machine["root"], machine["address"], password, leader)
    _lab_keycloak.wait(url, params["timeout"], leader)
    module.exit_json(changed=True, **answer)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["fetched", "started"], "required": True},
            "lab": {"type": "str"},
            "machine": {"type": "str"},
            "state_dir": {"type": "path", "default": _lab.STATE_DIR},
            "cache_dir": {"type": "path", "default": _lab.CACHE_DIR},
            "timeout": {"type": "int", "default": 1200},
        },
        required_if=[("state", "started", ("lab", "machine"))],
        supports_check_mode=True,
    )
    try:
        if module.params["state"] == "fetched":
            fetched(module)
        else:
            started(module)
    except _lab.LabError as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg="Keycloak: %s" % exc)


if __name__ == "__main__":
    main()
