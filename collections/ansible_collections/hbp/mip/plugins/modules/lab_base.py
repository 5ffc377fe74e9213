#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_base
short_description: Build and cache the root file system of lab machines
version_added: 0.1.0
description:
  - Builds a Debian root file system with C(mmdebstrap) and keeps it under a key made from the suite, the packages and the
    recipe. A base with the same key is built once and shared by every lab on this host.
  - The packages it was made from, and those of O(suite)'s Docker engine, stay beside it as an apt source that machines
    use without any network.
  - A build is made beside its final place and renamed, so a killed one never counts; what it left is removed by the next.
author: The hbp.mip authors (@HBPMedical)
options:
  suite:
    description: The Debian suite.
    type: str
    choices: [bullseye, bookworm, trixie]
    default: bookworm
  docker:
    description:
      - Whether Debian's Docker engine and the Python SDK for it are installed.
      - Without, they can still be installed in a machine with apt, without a network.
    type: bool
    default: true
  packages:
    description: Further Debian packages to install.
    type: list
    elements: str
    default: []
  mirror:
    description: A Debian mirror (URL). Empty is Debian's own, with updates and security.
    type: str
    default: ''
  cache_dir:
    description: Where bases are kept, on this host.
    type: path
    default: /var/cache/mip-lab
  disk_free_gb:
    description: Free space without which nothing is built, in GB.
    type: float
    default: 6
  timeout:
    description: Longest time for a build, in seconds.
    type: int
    default: 900
  state:
    description:
      - V(present) builds the base unless it is there.
      - V(absent) removes every base in O(cache_dir) on which no machine stands.
    type: str
    choices: [present, absent]
    default: present
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
"""

EXAMPLES = r"""
- name: Base of a lab's machines
  hbp.mip.lab_base:
    suite: bookworm
  register: base

- name: A machine as a hospital hands it over, without Docker
  hbp.mip.lab_base:
    suite: trixie
    docker: false
"""

RETURN = r"""
base:
  description: The base.
  returned: O(state=present)
  type: dict
  contains:
    path:
      description: Folder with C(rootfs), C(debs) and C(base.json).
      type: str
    key:
      description: Its content key.
      type: str
    versions:
      description: Versions of systemd, docker, python and openssh in it.
      type: dict
    seconds:
      description: How long its build took.
      type: float
removed:
  description: Folders of the bases that were removed.
  returned: O(state=absent)
  type: list
  elements: str
kept:
  description: Folders of the bases on which machines stand.
  returned: O(state=absent)
  type: list
  elements: str
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _lab, _lab_base


def present(module: AnsibleModule) -> None:
    """Builds the base unless it is cached."""
    params = module.params
    wanted = _lab_base.recipe(params["suite"], params["docker"], tuple(params["packages"]), params["mirror"])
    base = _lab_base.find(params["cache_dir"], wanted)
    if base:
        module.exit_json(changed=False, base=base)
    # everything a lab needs is asked for here, before minutes are spent: a base with its packages is 0.7 GB,
    # images are as much, and what machines write comes to it
    _lab.require(sorted(_lab.TOOLS), params["disk_free_gb"], 512, params["cache_dir"])
    if module.check_mode:
        module.exit_json(changed=True, base={"key": wanted.key}, msg="the base %s would be built" % wanted.key)
    module.exit_json(changed=True, base=_lab_base.build(params["cache_dir"], wanted, params["timeout"]))


def absent(module: AnsibleModule) -> None:
    """Removes the bases that nothing stands on."""
    cache = module.params["cache_dir"]
    removed, kept = [], []
    folder = os.path.join(cache, "bases")
    if not os.path.isdir(folder):
        module.exit_json(changed=False, removed=[], kept=[])
    with _lab.locked(folder, module.params["timeout"], "the cache of bases in %s" % folder):
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            if _lab_base.in_use(path):
                kept.append(path)
                continue
            removed.append(path)
            if not module.check_mode:
                _lab.remove_tree(path)
    module.exit_json(changed=bool(removed), removed=removed, kept=kept)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "suite": {"type": "str", "choices": ["bullseye", "bookworm", "trixie"], "default": "bookworm"},
            "docker": {"type": "bool", "default": True},
            "packages": {"type": "list", "elements": "str", "default": []},
            "mirror": {"type": "str", "default": ""},
            "cache_dir": {"type": "path", "default": _lab.CACHE_DIR},
            "disk_free_gb": {"type": "float", "default": 6},
            "timeout": {"type": "int", "default": 900},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    try:
        if module.params["state"] == "present":
            present(module)
        else:
            absent(module)
    except _lab.LabError as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg="the base could not be built or removed: %s" % exc)


if __name__ == "__main__":
    main()
