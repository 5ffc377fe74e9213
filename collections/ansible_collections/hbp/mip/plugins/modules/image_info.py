#!/usr/bin/python

# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_info
short_description: Which image a name stands for, by its registry
version_added: 0.3.0
description:
  - Asks the registries of images over their HTTP API for digest, size and platforms. Nothing is fetched, and no engine is needed.
  - An image that cannot be had is no failure of the module; RV(images[].error) tells why.
  - Registries that want a login are not supported.
author:
  - The hbp.mip authors (@HBPMedical)
attributes:
  check_mode:
    support: full
    description: Never changes anything.
  diff_mode:
    support: none
    description: There is nothing to compare.
  idempotent:
    support: full
    description: The same registry gives the same answer.
options:
  images:
    description: Names of images, with tag or digest.
    type: list
    elements: str
    required: true
  insecure_registries:
    description: Registries that are reached without TLS, as C(host:port).
    type: list
    elements: str
    default: []
  registry_mirrors:
    description: Addresses of mirrors of Docker Hub, asked before it.
    type: list
    elements: str
    default: []
  platform:
    description: Operating system and architecture that the image must exist for.
    type: str
    default: linux/amd64
  timeout:
    description: Seconds that one request may take.
    type: int
    default: 20
"""

EXAMPLES = r"""
- name: Look the engine's image up
  hbp.mip.image_info:
    images: ["hbpmip/exareme:24.5.1"]
"""

RETURN = r"""
images:
  description: What each name stands for, in the order of O(images).
  returned: always
  type: list
  elements: dict
  contains:
    reference:
      description: The name.
      type: str
    digest:
      description: Digest of what the name stands for, of all platforms together where there are several. Empty when it cannot be had.
      type: str
    manifest:
      description: Digest of the manifest for O(platform).
      type: str
    id:
      description: Digest of the image's configuration, by which engines name it.
      type: str
    size:
      description: Bytes that a node fetches.
      type: int
    platform:
      description: O(platform).
      type: str
    platforms:
      description: All platforms that it exists for.
      type: list
      elements: str
    error:
      description: Why it cannot be had; empty otherwise.
      type: str
    code:
      description: Kind of the error.
      type: str
      sample: missing
"""

from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _registry


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "images": {"type": "list", "elements": "str", "required": True},
            "insecure_registries": {"type": "list", "elements": "str", "default": []},
            "registry_mirrors": {"type": "list", "elements": "str", "default": []},
            "platform": {"type": "str", "default": "linux/amd64"},
            "timeout": {"type": "int", "default": 20},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    registries: Dict[str, _registry.Registry] = {}
    answers: List[Dict[str, Any]] = []
    for reference in wanted["images"]:
        try:
            name = _registry.parse(reference).registry
            if name not in registries:
                registries[name] = _registry.Registry(
                    name, wanted["insecure_registries"], wanted["registry_mirrors"], timeout=wanted["timeout"]
                )
            found = _registry.describe(registries[name], reference, wanted["platform"])
            answers.append({**found.entry(), "error": "", "code": "ok"})
        except _registry.RegistryError as error:
            answers.append({"reference": reference, "digest": "", "error": str(error), "code": error.code})
    module.exit_json(changed=False, images=answers)


if __name__ == "__main__":
    main()
