# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup that is cut off, one that is not, and a master that lost everything and comes back from it.

Each test goes on from what the one before it has left; after a failure the others are skipped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import INVENTORY, LAB, Lab

pytestmark = pytest.mark.in_order

BACKUPS = INVENTORY / "backups"
#: Kills the process that has stopped the engine, as soon as it has. The unit that guards the engine's start knows it.
KILL = """
for i in $(seq 1 900); do systemctl is-active -q docker || break; sleep 0.2; done
unit=$(systemctl list-units --plain --no-legend 'mip-engine-back-*' | cut -d' ' -f1)
pid=$(systemctl show -p ExecStart "$unit" | grep -o '/proc/[0-9]*' | head -1 | cut -d/ -f3)
kill -9 "$pid"
"""


@pytest.fixture
def kept(federation: Lab, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The federation, with a key for its backups."""
    key = tmp_path_factory.getbasetemp() / "backup.key"
    if not key.exists():
        federation.json("backup", "key", str(key))
    recipient = next(line.split(": ")[1] for line in key.read_text().splitlines() if "public key" in line)
    federation.variables(mip_backup={"recipients": [recipient], "identity": str(key), "keep": 2})
    return federation


def until(done: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(1)


def token(lab: Lab) -> str:
    """The token that workers join with."""
    return lab.ssh(lab.master, "docker swarm join-token -q worker")


def cluster(lab: Lab) -> str:
    """The swarm's id, and the ids of its nodes."""
    return lab.ssh(lab.master, "docker info --format '{{.Swarm.Cluster.ID}}'; docker node ls --format '{{.Hostname}} {{.ID}}' | sort")


def test_a_backup_that_is_killed_leaves_a_running_engine_and_no_backup(kept: Lab) -> None:
    before = set(BACKUPS.glob("*.mipbackup"))
    process = kept.start("backup", "create", "-y")
    kept.ssh(kept.master, f"nohup sh -c '{KILL.replace(chr(39), chr(34))}' > /dev/null 2>&1 < /dev/null &")
    out, err = process.communicate(timeout=1500)
    assert process.returncode in (4, 5), out + err
    until(lambda: kept.ssh(kept.master, "systemctl is-active docker", check=False) == "active", 300, "the engine runs again")
    assert set(BACKUPS.glob("*.mipbackup")) == before
    assert not kept.ssh(kept.master, f"ls /var/lib/mip/{LAB}/backup", check=False)
    assert kept.all_active()


def test_a_backup_holds_what_is_needed_and_nothing_in_clear(kept: Lab) -> None:
    before = cluster(kept)
    made = kept.json("backup", "create", "-y")["result"]
    path = Path(made["set"])
    assert [entry for entry in BACKUPS.iterdir() if entry.name.endswith(".partial")] == []
    assert set(made["backup"]["members"]) >= {"swarm.tar.gz", "inventory.tar.gz", "keystore.json", "cdes.tar.gz"}
    # What stopped for the copy is back, and nobody joined anew.
    assert kept.all_active() and cluster(kept) == before
    content = path.read_bytes()
    for secret in (token(kept).encode(), b"OPENSSH PRIVATE KEY", b"active_workers"):
        assert secret not in content
    verified = kept.json("backup", "verify", str(path))["result"]
    assert verified["ok"] and verified["cluster_id"] == before.splitlines()[0]
    assert kept.json("backup", "ls")["result"]["sets"][0]["verified"]["ok"]
    logs = "".join(log.read_text(errors="replace") for log in kept.state_home.rglob("*") if log.is_file())
    assert "SWMTKN" not in logs and "AGE-SECRET-KEY" not in logs


def test_a_master_that_lost_everything_comes_back(kept: Lab) -> None:
    path = sorted(BACKUPS.glob("*.mipbackup"))[-1]
    before, old = cluster(kept), token(kept)
    kept.ssh(kept.master, "systemctl stop docker.socket docker; rm -rf /var/lib/docker/*; systemctl start docker")

    # Neither a deploy nor a diagnosis makes another swarm.
    refused = kept.json("deploy", "-y", code=4)
    assert "recover" in json.dumps(refused["errors"])
    found = kept.json("recover", code=4)["result"]
    assert found["case"] == "sole-manager-lost" and str(path) in found["next"] and not found["steps"]
    assert kept.ssh(kept.master, "docker info --format '{{.Swarm.LocalNodeState}}'") == "inactive"

    restored = kept.json("restore", str(path), "--confirm", LAB)["result"]
    assert restored["restored"] and restored["rotated"] and not restored["away"]
    # The same swarm with the same members: no worker joined anew.
    assert cluster(kept) == before
    assert token(kept) != old
    assert kept.all_active()
    assert kept.ssh(kept.master, f"ls /var/lib/mip/{LAB}/restore", check=False) == ""
    assert kept.json("recover")["result"]["case"] == "well"
    # A second run finds nothing to restore.
    assert not kept.json("restore", str(path), "--confirm", LAB)["result"]["restored"]
    kept.run("deploy", "-y")
    assert kept.json("deploy", "-y")["result"]["changed"] == 0
    kept.run("verify")
