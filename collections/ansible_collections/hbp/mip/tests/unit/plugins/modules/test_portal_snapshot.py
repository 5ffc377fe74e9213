# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The portal's database, saved and put back, in a real PostgreSQL."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils._portal_database import PORT, DatabaseError
from ansible_collections.hbp.mip.plugins.module_utils._snapshot import SnapshotError
from ansible_collections.hbp.mip.plugins.modules import portal_snapshot
from ansible_collections.hbp.mip.tests.helpers.postgres import BINARIES, CONTAINER, Server, postgres

pytestmark = pytest.mark.skipif(bool(os.geteuid()) or not BINARIES, reason="needs root and the package postgresql")
TABLES = """
CREATE TABLE experiment (name text);
CREATE TABLE flyway_schema_history (installed_rank int, version text, success boolean);
INSERT INTO experiment VALUES ('first'), ('with '' and \\ and ä');
INSERT INTO flyway_schema_history VALUES (1, '1', true), (2, '2', true), (3, '10.1', true), (4, NULL, true), (5, '11', false);
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server with the backend's account."""
    with postgres() as found:
        found.sql("CREATE ROLE portal LOGIN", "postgres")
        yield found


@pytest.fixture
def portal(server: Server) -> Server:
    """A portal's database with two experiments."""
    for name in server.sql("SELECT datname FROM pg_database WHERE datname LIKE 'portal%'", "postgres").splitlines():
        server.sql(f'DROP DATABASE "{name}"', "postgres")
    server.sql("CREATE DATABASE portal OWNER portal", "postgres")
    server.sql(TABLES)
    return server


def databases(server: Server) -> list[str]:
    """Names of the portal's databases."""
    return server.sql("SELECT datname FROM pg_database WHERE datname LIKE 'portal%' ORDER BY 1", "postgres").splitlines()


def experiments(server: Server, database: str = "portal") -> str:
    """What is in one."""
    return server.sql("SELECT string_agg(name, ',' ORDER BY name) FROM experiment", database)


def params(path: Path, **more: Any) -> dict[str, Any]:
    """The module's parameters."""
    return {"path": str(path), "sha256": "", "force": False, **more}


def saved(server: Server, path: Path) -> str:
    """Save the database; return the dump's digest."""
    found = portal_snapshot.save(server, CONTAINER, params(path), False)["archive"]
    assert (found["path"], found["size"]) == (str(path), path.stat().st_size)
    assert (path.parent.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)
    return str(found["sha256"])


def test_what_was_saved_comes_back_and_what_was_there_is_kept(portal: Server, tmp_path: Path) -> None:
    """A connected backend does not hinder it; a second time changes nothing, unless that is asked for."""
    path = tmp_path / "backup" / "portal.dump"
    digest = saved(portal, path)
    portal.sql("INSERT INTO experiment VALUES ('later')")
    command = [
        "setpriv",
        "--reuid",
        "postgres",
        "--clear-groups",
        f"{BINARIES[-1]}/psql",
        "-Xq",
        "-p",
        PORT,
        "-h",
        str(portal.folder),
        "portal",
    ]
    backend = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert backend.stdin
    backend.stdin.write(b"SELECT 1 \\g /dev/null\n")
    backend.stdin.flush()
    try:
        planned = portal_snapshot.restore(portal, CONTAINER, params(path, sha256=digest), True)
        assert planned["changed"]
        assert "later" in experiments(portal)
        done = portal_snapshot.restore(portal, CONTAINER, params(path, sha256=digest), False)
    finally:
        backend.stdin.close()
        backend.wait()
    assert (done["changed"], done["schema"], done["schema_before"]) == (True, "10.1", "10.1")
    assert "later" not in experiments(portal)
    assert "with ' and \\ and ä" in experiments(portal)
    assert databases(portal) == ["portal", done["kept"]]
    portal.sql(f"ALTER DATABASE {done['kept']} ALLOW_CONNECTIONS true", "postgres")
    assert "later" in experiments(portal, done["kept"])
    assert portal.sql("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'portal'", "postgres") == "portal"
    portal.sql("INSERT INTO experiment VALUES ('after')")
    assert not portal_snapshot.restore(portal, CONTAINER, params(path, sha256=digest), False)["changed"]
    assert "after" in experiments(portal)
    portal.sql(f"DROP DATABASE {done['kept']}", "postgres")
    assert portal_snapshot.restore(portal, CONTAINER, params(path, force=True), False)["changed"]
    assert "after" not in experiments(portal)
    assert not list(Path("/tmp").glob("mip-portal-*.dump"))


def test_a_newer_dump_is_refused(portal: Server, tmp_path: Path) -> None:
    """By the numbers of the versions: 10.2 is newer than 10.1, and 9 is not."""
    path = tmp_path / "backup" / "portal.dump"
    portal.sql("UPDATE flyway_schema_history SET version = '10.2' WHERE version = '10.1'")
    saved(portal, path)
    portal.sql("UPDATE flyway_schema_history SET version = '10.1' WHERE version = '10.2'")
    with pytest.raises(DatabaseError, match=r"10\.2, and those of the backend here 10\.1"):
        portal_snapshot.restore(portal, CONTAINER, params(path), False)
    assert databases(portal) == ["portal"]
    assert experiments(portal)
    portal.sql("UPDATE flyway_schema_history SET version = '9' WHERE version = '10.1'")
    saved(portal, path)
    portal.sql("UPDATE flyway_schema_history SET version = '10.1' WHERE version = '9'")
    assert portal_snapshot.restore(portal, CONTAINER, params(path), False)["schema"] == "9"


def test_a_backend_that_keeps_no_versions(portal: Server, tmp_path: Path) -> None:
    """Nothing is known, and nothing refused."""
    path = tmp_path / "backup" / "portal.dump"
    portal.sql("DROP TABLE flyway_schema_history")
    saved(portal, path)
    assert portal_snapshot.restore(portal, CONTAINER, params(path), False)["schema"] == ""


@pytest.mark.parametrize("damage", ["cut", "other", "text"])
def test_what_is_no_whole_dump_changes_nothing(portal: Server, tmp_path: Path, damage: str) -> None:
    """Cut off, of another digest, or something else."""
    path = tmp_path / "backup" / "portal.dump"
    digest = saved(portal, path)
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "other": content + b"x", "text": b"CREATE TABLE x ();"}[damage])
    wanted = params(path, sha256=digest) if damage == "other" else params(path)
    with pytest.raises((DatabaseError, SnapshotError)):
        portal_snapshot.restore(portal, CONTAINER, wanted, False)
    assert databases(portal) == ["portal"]
    assert experiments(portal).startswith("first")
    assert not list(Path("/tmp").glob("mip-portal-*.dump"))


def test_after_a_kill_a_second_run_ends_the_work(portal: Server, tmp_path: Path) -> None:
    """Killed when the database is closed and the other one is there: nothing is lost, and the next run does it."""
    path = tmp_path / "backup" / "portal.dump"
    saved(portal, path)
    portal.sql("INSERT INTO experiment VALUES ('later')")
    portal.sql("CREATE DATABASE portal_restoring", "postgres")
    portal.sql("ALTER DATABASE portal ALLOW_CONNECTIONS false", "postgres")
    done = portal_snapshot.restore(portal, CONTAINER, params(path), False)
    assert databases(portal) == ["portal", done["kept"]]
    assert "later" not in experiments(portal)


def test_there_is_no_database(portal: Server, tmp_path: Path) -> None:
    """It is told, in check mode as well."""
    portal.sql("DROP DATABASE portal", "postgres")
    with pytest.raises(DatabaseError, match="no database portal"):
        portal_snapshot.save(portal, CONTAINER, params(tmp_path / "x" / "portal.dump"), True)
