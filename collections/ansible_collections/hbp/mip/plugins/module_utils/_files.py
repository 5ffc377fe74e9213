# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a host, written so that a crash leaves the old one or the new one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import Optional, Tuple


def replace(path: str, data: bytes, mode: int, owner: Optional[Tuple[int, int]] = None) -> None:
    """Replace a file in one step; its folder must exist. A link is replaced, not followed. Raises OSError; then nothing has changed.

    :arg owner: numbers of user and group; by default those that a new file gets here.
    """
    folder = os.path.dirname(path) or "."
    handle, draft = tempfile.mkstemp(prefix=".%s." % os.path.basename(path), dir=folder)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            if owner is not None:
                os.fchown(stream.fileno(), *owner)
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        os.rename(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    # The new name is on disk as well when this returns.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
