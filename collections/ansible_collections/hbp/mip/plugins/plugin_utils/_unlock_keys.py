# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip and mipfed: the keys that unlock a swarm's managers, in a file that is encrypted with the vault password.

It is no file of group_vars, so that no play has a key among its variables.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible.parsing.vault import VaultLib

from ansible_collections.hbp.mip.plugins.plugin_utils import _files

#: Beside the inventory.
FILE = "state/unlock_key.vault"
#: A manager that was off while the key was replaced is unlocked with one of before.
KEPT = 4
_SCHEMA = 1


class VaultError(Exception):
    """The file cannot be read or written; the message says why and what to do."""


@dataclass
class Keys:
    """What the file holds: the swarm, and its keys, the present one first."""

    cluster_id: str = ""
    keys: list[dict[str, str]] = field(default_factory=list)

    def values(self) -> list[str]:
        """Return the keys alone."""
        return [entry["key"] for entry in self.keys]

    def add(self, cluster_id: str, key: str) -> bool:
        """Make a key the present one; returns whether it was not. Keys of another swarm open nothing and are dropped."""
        if self.cluster_id == cluster_id and self.values()[:1] == [key]:
            return False
        before = self.keys if self.cluster_id in ("", cluster_id) else []
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.keys = [{"key": key, "since": since}, *(entry for entry in before if entry["key"] != key)][:KEPT]
        self.cluster_id = cluster_id
        return True


def read(path: Path, secrets: Iterable[tuple[str, Any]]) -> Keys:
    """Read the file; one that is not there holds nothing.

    :raises VaultError: when it cannot be read or decrypted.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Keys()
    except OSError as error:
        raise VaultError(f"{path} cannot be read: {error.strerror}") from None
    try:
        document = yaml.safe_load(VaultLib(list(secrets)).decrypt(content))
        if document["schema"] != _SCHEMA:
            raise VaultError(f"{path} was written by another version of this product, which this one cannot read")
        return Keys(str(document["cluster_id"]), [{"key": str(e["key"]), "since": str(e["since"])} for e in document["keys"]])
    except AnsibleError as error:
        raise VaultError(f"{path} cannot be decrypted: {error}. Check the vault password (--vault-password-file)") from None
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        # What the parser says would show a part of the content.
        raise VaultError(f"{path} does not hold unlock keys. Move it away; the keys of a swarm that works are taken in again") from None


def check(path: Path, secrets: Iterable[tuple[str, Any]]) -> None:
    """Make sure that the file could be written, before there is a key to keep.

    :raises VaultError: when there is no vault password, or the folder cannot be written.
    """
    if not list(secrets):
        raise VaultError(
            "autolock needs a vault password, with which the unlock key is kept, and none was given. Nothing was changed. "
            "Give --vault-password-file FILE or set MIPFED_VAULT_PASSWORD_FILE"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(f".{path.name}.probe")
        _files.write(probe, "", mode=0o600)
        probe.unlink()
    except OSError as error:
        raise VaultError(f"{path}, where the unlock key is kept, cannot be written: {error.strerror}. Nothing was changed") from None


def write(path: Path, keys: Keys, secrets: Iterable[tuple[str, Any]]) -> None:
    """Write the file, encrypted with the first vault password.

    :raises VaultError: when it cannot be written.
    """
    known = list(secrets)
    check(path, known)
    identity, secret = known[0]
    text = yaml.safe_dump({"schema": _SCHEMA, "cluster_id": keys.cluster_id, "keys": keys.keys}, sort_keys=False)
    sealed = VaultLib(known).encrypt(text, secret=secret, vault_id=None if identity == "default" else identity)
    try:
        _files.write(path, sealed.decode("ascii"), mode=0o600)
    except OSError as error:
        raise VaultError(f"{path} cannot be written: {error.strerror}") from None
