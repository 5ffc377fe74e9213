#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_present
short_description: Have an image on this node before a service needs it
version_added: 0.3.0
description:
  - Fetches an image from its registry, or loads it from a file whose checksum was compared first, so that no service has to wait for it.
  - An image that the node already has is left alone. Nothing is ever removed.
extends_documentation_fragment:
  - hbp.mip.engine
author:
  - The hbp.mip authors (@HBPMedical)
options:
  image:
    description: The image as a service names it, with its digest, or by the name that an image out of a bundle has.
    type: str
    required: true
  state:
    description: V(present) fetches or loads it. V(queried) only tells in RV(there) whether the node has it.
    type: str
    choices: [present, queried]
    default: present
  ids:
    description: Digests of the image's configuration and manifest. What a file brings under the name has to be one of them.
    type: list
    elements: str
    default: []
  size:
    description: Bytes that it takes in its registry, to see beforehand whether the disk has room. V(0) is unknown.
    type: int
    default: 0
  file:
    description: Archive on this node to load the image from.
    type: path
    default: ""
  sha256:
    description: Checksum of O(file).
    type: str
    default: ""
  timeout:
    description: Seconds that the registry may be silent.
    type: int
    default: 120
attributes:
  check_mode:
    description: Tells whether it would be fetched or loaded.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
  idempotent:
    description: An image that is there is left alone.
    support: full
"""

EXAMPLES = r"""
- name: Fetch the engine's next image while the present one still runs
  hbp.mip.image_present:
    image: hbpmip/exareme:24.5.1@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
"""

RETURN = r"""
there:
  description: Whether the node has it now.
  returned: success
  type: bool
id:
  description: What the engine calls it.
  returned: success
  type: str
"""

import os
import shutil
from typing import Any, Dict, Optional, Tuple

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _registry, _services
from ansible_collections.hbp.mip.plugins.module_utils._bundle import sha256_of
from ansible_collections.hbp.mip.plugins.module_utils._engine import EngineError, engine_call, open_engine
from ansible_collections.hbp.mip.plugins.module_utils._image_store import fetch, inspect

#: A fetched image is unpacked beside its archive.
_TIMES_THE_SIZE = 3


def room(client: Any, size: int) -> str:
    """Why there is no room for an image of `size` bytes; empty when there is, or when it is not known."""
    with engine_call("read the state of the engine"):
        root = str(client.info().get("DockerRootDir") or "")
    if not size or not os.path.isdir(root):
        return ""
    free = shutil.disk_usage(root).free
    if free >= size * _TIMES_THE_SIZE:
        return ""
    return "%s has %d MB free, and the image needs about %d. Next: docker image prune" % (root, free >> 20, (size * _TIMES_THE_SIZE) >> 20)


def load(client: Any, file: str, image: str) -> None:
    """Let the engine load an archive."""
    with engine_call("load the image %s from %s" % (image, file)), open(file, "rb") as stream:
        for step in client.load_image(stream, quiet=True) or ():
            if step.get("error"):
                raise EngineError("load the image %s from %s: %s" % (image, file, step["error"]))


def wrong_file(file: str, sha256: str) -> str:
    """Why a file must not be loaded; empty when it may."""
    if not sha256:
        return "sha256: a file is loaded only after it was compared with its checksum"
    if not os.path.isfile(file):
        return "file: %s is not there" % file
    found = sha256_of(file)
    return "" if found == sha256 else "file: %s is not what was signed: its SHA-256 is %s, not %s" % (file, found, sha256)


def verdict(found: Optional[Dict[str, Any]], image: str, ids: Any) -> Tuple[bool, str]:
    """Whether an engine has an image, and what is wrong with what it has under that name."""
    if found is None:
        return False, ""
    known = str(found.get("Id") or "")
    if image.startswith(_registry.LOADED) and ids and known not in ids:
        return False, "%s is %s on this node, which is none of %s" % (image, known, ", ".join(ids))
    return True, ""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "image": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "queried"], "default": "present"},
            "ids": {"type": "list", "elements": "str", "default": []},
            "size": {"type": "int", "default": 0},
            "file": {"type": "path", "default": ""},
            "sha256": {"type": "str", "default": "", "no_log": False},
            "timeout": {"type": "int", "default": 120},
            "docker_host": {"type": "str", "default": "unix:///var/run/docker.sock"},
            "engine_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    options = module.params
    image = options["image"]
    client = open_engine(module, "would fetch %s" % image, {"changed": True, "there": False, "id": ""}, timeout=options["timeout"])
    try:
        found = inspect(client, image)
        there, wrong = verdict(found, image, options["ids"])
        if options["state"] == "queried" or there:
            module.exit_json(changed=False, there=there, id=str((found or {}).get("Id") or ""))
        obstacle = room(client, options["size"])
        if obstacle:
            module.fail_json(msg=obstacle)
        if not options["file"] and image.startswith(_registry.LOADED):
            text = wrong or "%s was not loaded on this node" % image
            module.fail_json(msg="%s. Next: mipfed image load BUNDLE" % text)
        obstacle = wrong_file(options["file"], options["sha256"]) if options["file"] and not module.check_mode else ""
        if obstacle:
            module.fail_json(msg="%s. Nothing was loaded" % obstacle)
        if module.check_mode:
            module.exit_json(changed=True, there=False, id="")
        if options["file"]:
            load(client, options["file"], image)
        else:
            fetch(client, image)
        found = inspect(client, image)
        there, wrong = verdict(found, image, options["ids"])
    except EngineError as error:
        answer = str(error)
        # The words are for the manager, which asks for all nodes; here it is this node that asks.
        fix = (
            _services.explain_registry(image, answer)[1].replace("the manager's", "this node's").replace("from the manager", "on this node")
        )
        module.fail_json(msg="%s. Next: %s" % (answer, fix))
    if not there:
        module.fail_json(msg=wrong or "the engine does not know %s, although it took it" % image)
    module.exit_json(changed=True, there=True, id=str((found or {}).get("Id") or ""))


if __name__ == "__main__":
    main()
