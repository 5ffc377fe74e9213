# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of the lab's Keycloak can be tried without running it: its distribution, its unit, its refusals."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _lab_keycloak
from ansible_collections.hbp.mip.plugins.module_utils._lab import LabError
from ansible_collections.hbp.mip.tests.helpers.modules import run_module


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution whose program writes down how it was called."""
    program = zipfile.ZipInfo(f"keycloak-{_lab_keycloak.VERSION}/bin/kc.sh")
    program.external_attr = 0o100755 << 16
    path = tmp_path / "keycloak.zip"
    with zipfile.ZipFile(path, "w") as target:
        target.writestr(program, '#!/bin/sh\necho "$@" >"$(dirname "$0")/called"\n')
    monkeypatch.setattr(_lab_keycloak, "URL", path.as_uri())
    monkeypatch.setattr(_lab_keycloak, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_the_distribution_is_prepared_once(archive: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "keycloak" / f"{_lab_keycloak.VERSION}-{_lab_keycloak.RECIPE}").mkdir(parents=True)  # as a killed run leaves it
    folder = Path(_lab_keycloak.distribution(str(cache)))
    assert (folder / "home/bin/called").read_text().split() == ["build", *_lab_keycloak.BUILD]
    assert os.readlink(folder / "home/data") == "/var/lib/keycloak"
    archive.unlink()
    assert _lab_keycloak.distribution(str(cache)) == str(folder)
    assert _lab_keycloak.prepared(str(cache))


def test_another_content_is_refused(archive: Path, tmp_path: Path) -> None:
    with archive.open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(LabError, match="is not what it was: its SHA-256 is"):
        _lab_keycloak.distribution(str(tmp_path / "cache"))
    assert not _lab_keycloak.prepared(str(tmp_path / "cache"))


def test_what_cannot_be_had_says_where_from(archive: Path, tmp_path: Path) -> None:
    archive.unlink()
    with pytest.raises(LabError, match="Keycloak cannot be had from file:"):
        _lab_keycloak.distribution(str(tmp_path / "cache"))


def test_the_password_is_in_no_command_line() -> None:
    text = _lab_keycloak.unit("10.77.1.13")
    assert "--hostname=http://10.77.1.13:8080" in text
    assert "EnvironmentFile=/etc/keycloak/admin.env" in text
    assert "--http-management-host=127.0.0.1" in text
    assert _lab_keycloak.environment("canary")["KC_BOOTSTRAP_ADMIN_PASSWORD"] == "canary"
    assert "canary" not in " ".join(_lab_keycloak.start_options("10.77.1.13", 8080, "http://10.77.1.13:8080"))


def test_check_mode_gets_nothing(tmp_path: Path) -> None:
    result = run_module("lab_keycloak", {"state": "fetched", "cache_dir": str(tmp_path)}, check=True)
    assert (result.changed, result["version"]) == (True, _lab_keycloak.VERSION)
    assert list(tmp_path.iterdir()) == []


def test_a_lab_that_is_not_there(tmp_path: Path) -> None:
    refused = run_module("lab_keycloak", {"state": "started", "lab": "none", "machine": "none-kc", "state_dir": str(tmp_path)})
    assert "there is no lab 'none' on this host" in refused.msg
