# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip and mipfed: the files with the secret keys that open backups."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ansible_collections.hbp.mip.plugins.plugin_utils import _age
from ansible_collections.hbp.mip.plugins.plugin_utils._backup_set import BackupError, moment


def read(path: Path, text_of: Callable[[str], str]) -> list[_age.Identity]:
    """Read an identity file.

    :arg text_of: returns the text of a file, decrypted when ansible-vault encrypted it.
    :raises BackupError: when it cannot be read or is none.
    """
    path = path.expanduser()
    try:
        return _age.identities(text_of(str(path)))
    except _age.AgeError as error:
        raise BackupError(f"{path} is no file with a key of age: {error}") from None
    except OSError as error:
        raise BackupError(f"{path}, the key that opens the backup, cannot be read: {error.strerror}") from None


def make(path: Path) -> _age.Recipient:
    """Write a new key into a new file that only its owner reads; returns the recipient that belongs to it.

    :raises BackupError: when the file exists or cannot be written.
    """
    identity = _age.Identity.generate()
    text = f"# created: {moment()}\n# public key: {identity.recipient}\n{identity.secret()}\n"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise BackupError(f"{path} exists; a key is never replaced, since the backups made for it would be lost") from None
    except OSError as error:
        raise BackupError(f"{path} cannot be written: {error.strerror}") from None
    with os.fdopen(handle, "w", encoding="ascii") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    return identity.recipient
