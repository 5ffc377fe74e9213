# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file that keeps unlock keys: encrypted by Ansible's own library, whole or not at all, no key in any message."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.parsing.vault import VaultLib, VaultSecret

from ansible_collections.hbp.mip.plugins.plugin_utils import _unlock_keys
from ansible_collections.hbp.mip.plugins.plugin_utils._unlock_keys import Keys, VaultError

SECRETS = [("default", VaultSecret(b"a password"))]
KEY = "SWMKEY-1-canary"


def kept(path: Path, *keys: str) -> None:
    """Write keys, the last one being the present one."""
    found = Keys()
    for key in keys:
        assert found.add("c1", key)
    _unlock_keys.write(path, found, SECRETS)


def test_what_is_written_is_read_and_encrypted(tmp_path: Path) -> None:
    path = tmp_path / "state" / "unlock_key.vault"
    assert _unlock_keys.read(path, SECRETS) == Keys()
    kept(path, "SWMKEY-1-old", KEY)
    found = _unlock_keys.read(path, SECRETS)
    assert (found.cluster_id, found.values()) == ("c1", [KEY, "SWMKEY-1-old"])
    content = path.read_bytes()
    assert content.startswith(b"$ANSIBLE_VAULT;1.1") and b"canary" not in content
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_keys_of_before_are_kept_behind(tmp_path: Path) -> None:
    keys = Keys()
    for number in range(8):
        assert keys.add("c1", f"k{number}") and not keys.add("c1", f"k{number}")
    assert keys.values() == ["k7", "k6", "k5", "k4"]
    assert keys.add("c1", "k5") and keys.values() == ["k5", "k7", "k6", "k4"]
    # A key opens its own swarm only.
    assert keys.add("c2", "n1") and keys.values() == ["n1"]


def test_what_cannot_be_read_says_why_and_shows_nothing(tmp_path: Path) -> None:
    path = tmp_path / "unlock_key.vault"
    kept(path, KEY)
    with pytest.raises(VaultError, match="vault password"):
        _unlock_keys.read(path, [("default", VaultSecret(b"another"))])
    with pytest.raises(VaultError, match="needs a vault password"):
        _unlock_keys.check(path, [])
    for text in (f"{KEY}: [", "[]", f"schema: 1\nkeys: {KEY}\ncluster_id: c1", "schema: 1"):
        path.write_bytes(VaultLib(SECRETS).encrypt(text, secret=SECRETS[0][1]))
        with pytest.raises(VaultError) as error:
            _unlock_keys.read(path, SECRETS)
        assert "does not hold unlock keys" in str(error.value) and "canary" not in str(error.value)


def test_nothing_is_kept_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file, not a folder")
    with pytest.raises(VaultError, match="cannot be written"):
        _unlock_keys.check(tmp_path / "state" / "unlock_key.vault", SECRETS)
