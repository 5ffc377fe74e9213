# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The images that the engine of this host has, and fetching one."""

from __future__ import annotations

from typing import Any, Dict, Optional

from ansible_collections.hbp.mip.plugins.module_utils import _registry
from ansible_collections.hbp.mip.plugins.module_utils._engine import EngineError, engine_call


def inspect(client: Any, image: str) -> Optional[Dict[str, Any]]:
    """What the engine knows of an image, or None when it does not have it."""
    try:
        with engine_call("inspect the image %s" % image):
            found: Dict[str, Any] = client.inspect_image(image)
            return found
    except EngineError as error:
        if error.status == 404:
            return None
        raise


def fetch(client: Any, image: str) -> None:
    """Let the engine fetch an image from its registry."""
    name, _at, digest = image.partition("@")
    parts = _registry.parse(image)
    repository = name if not parts.tag or not name.endswith(":" + parts.tag) else name[: -len(parts.tag) - 1]
    with engine_call("fetch the image %s" % image):
        for step in client.pull(repository, tag=digest or parts.tag, stream=True, decode=True):
            if step.get("error"):
                raise EngineError("fetch the image %s: %s" % (image, step["error"]))
