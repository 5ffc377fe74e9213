# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup is restored into a scratch lab while its federation runs on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mipfed import restore_test

from .conftest import Lab
from .test_2_deployed import watched


@pytest.mark.timeout(3600)
def test_a_backup_is_restored_and_verified_in_a_lab_and_the_federation_hears_nothing(federation: Lab, tmp_path: Path) -> None:
    key = tmp_path / "backup.key"
    federation.json("backup", "key", str(key))
    federation.variables(mip_backup={"recipients": re.findall(r"public key: (\S+)", key.read_text()), "identity": str(key)})
    made = federation.json("backup", "create", "-y")["result"]["set"]
    assert federation.all_active(180)
    before = federation.ssh(federation.master, "docker node ls --format '{{.ID}} {{.Status}}' | sort")
    with watched(federation) as failures:
        process = federation.start("-o", "json", "backup", "verify", made, "--restore-test")
        out, err = process.communicate(timeout=3000)
    assert process.returncode == 0, out + err
    assert failures == []
    assert federation.ssh(federation.master, "docker node ls --format '{{.ID}} {{.Status}}' | sort") == before
    listed = next(entry for entry in federation.json("backup", "ls")["result"]["sets"] if entry["file"] == made)
    assert listed["restored"]["ok"] is True
    assert not (Path("/var/lib/mip-lab") / restore_test.LAB).exists()
