# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The portal's experiments in a real PostgreSQL; only the way into its container is another."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _experiments
from ansible_collections.hbp.mip.plugins.module_utils._portal_database import DatabaseError
from ansible_collections.hbp.mip.plugins.modules.portal_experiments import selection
from ansible_collections.hbp.mip.tests.helpers.postgres import BINARIES, CONTAINER, Server, postgres

pytestmark = pytest.mark.skipif(bool(os.geteuid()) or not BINARIES, reason="needs root and the package postgresql")
HARD = "o'; DROP TABLE experiment; --\\\"$(id)`x`"

TABLES = """
CREATE TABLE "user" (username text PRIMARY KEY, subjectid text);
CREATE TABLE experiment (uuid uuid PRIMARY KEY, name text, created_by_username text REFERENCES "user"(username), status text,
  result text, finished timestamp, {algorithm} text, created timestamp, shared boolean, viewed boolean);
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of its own."""
    with postgres() as found:
        yield found


@pytest.fixture(params=["algorithm", "algorithm_details"])
def portal(server: Server, request: pytest.FixtureRequest) -> Server:
    """A portal's database as two versions of the backend have it, with five experiments of three users."""
    server.sql("DROP DATABASE IF EXISTS portal", "postgres")
    server.sql("CREATE DATABASE portal", "postgres")
    server.sql(TABLES.format(algorithm=request.param))
    server.sql("INSERT INTO \"user\" VALUES ('ann'), ('bob'), ('new')")
    rows = [("ann", "dementia", 1), ("ann", "tbi", 2), ("bob", "tbi", 3), ("bob", HARD, 4), ("ann", None, 5)]
    for who, pathology, day in rows:
        parameters = [{"name": "dataset", "value": "edsd"}] + ([{"name": "pathology", "value": pathology}] if pathology else [])
        details = json.dumps({"name": "PCA", "parameters": parameters}).replace("'", "''")
        server.sql(
            f"INSERT INTO experiment (uuid, name, created_by_username, status, {request.param}, created, finished) VALUES "
            f"('00000000-0000-0000-0000-00000000000{day}', 'e{day}', '{who}', 'success', '{details}', "
            f"'2026-11-0{day}', '2026-11-0{day}T10:00')"
        )
    return server


def names(server: Server, **params: Any) -> list[str]:
    """The experiments that are meant."""
    given = {"state": "purged", "pathologies": [], "keep_pathologies": [], "since": "", **params}
    return [entry["name"] for entry in _experiments.listed(server, CONTAINER, selection(given))]


def purge(server: Server, **params: Any) -> int:
    """Remove them."""
    given = {"state": "purged", "pathologies": [], "keep_pathologies": [], "since": "", **params}
    return _experiments.purged(server, CONTAINER, selection(given))


def test_who_ran_what_on_what(portal: Server) -> None:
    """The audit list."""
    found = _experiments.listed(portal, CONTAINER, {"mode": "all", "since": ""})
    assert [(entry["name"], entry["who"], entry["pathology"]) for entry in found] == [
        ("e1", "ann", "dementia"), ("e2", "ann", "tbi"), ("e3", "bob", "tbi"), ("e4", "bob", HARD), ("e5", "ann", None),
    ]  # fmt: skip
    assert {(entry["algorithm"], entry["datasets"], entry["status"]) for entry in found} == {("PCA", "edsd", "success")}
    assert names(portal, state="listed", since="2026-11-04") == ["e4", "e5"]
    assert names(portal, state="listed", since="2026-11-04T10:00:01") == ["e5"]


def test_only_what_is_meant_is_removed(portal: Server) -> None:
    """Experiments of no pathology stay in any case; a user goes with the last experiment."""
    assert names(portal, pathologies=["tbi"]) == ["e2", "e3"]
    assert names(portal, keep_pathologies=["tbi"]) == ["e1", "e4"]
    assert purge(portal, pathologies=["tbi"]) == 2
    assert portal.sql("SELECT string_agg(name, ',' ORDER BY name) FROM experiment") == "e1,e4,e5"
    assert portal.sql("SELECT string_agg(username, ',' ORDER BY username) FROM \"user\"") == "ann,bob,new"
    assert purge(portal, pathologies=["tbi"]) == 0
    assert purge(portal, keep_pathologies=["dementia"]) == 1
    assert portal.sql("SELECT string_agg(username, ',' ORDER BY username) FROM \"user\"") == "ann,new"


def test_what_an_operator_gives_is_no_sql(portal: Server) -> None:
    """Whatever is in it."""
    assert names(portal, pathologies=[HARD]) == ["e4"]
    assert purge(portal, pathologies=[HARD]) == 1
    assert portal.sql("SELECT count(*) FROM experiment") == "4"


def test_an_error_removes_nothing(portal: Server) -> None:
    """And it is told in the database's words."""
    portal.sql("UPDATE experiment SET name = 'bad', result = 'x' WHERE name = 'e5'")
    portal.sql("CREATE TABLE held (uuid uuid REFERENCES experiment(uuid))")
    portal.sql("INSERT INTO held SELECT uuid FROM experiment WHERE name = 'e3'")
    with pytest.raises(DatabaseError, match="held"):
        purge(portal, pathologies=["tbi"])
    assert portal.sql("SELECT count(*) FROM experiment") == "5"


def test_the_dump_can_be_restored(portal: Server, tmp_path: Path) -> None:
    """Only root can enter its folder."""
    path = Path(_experiments.backup(portal, CONTAINER, str(tmp_path / "backups")))
    assert (path.parent.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)
    listing = subprocess.run([BINARIES[-1] / "pg_restore", "-l", path], capture_output=True, text=True, check=True).stdout
    assert "TABLE DATA public experiment" in listing
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("params", [{}, {"pathologies": ["a"], "keep_pathologies": ["b"]}, {"state": "listed", "since": "yesterday"}])
def test_unclear_requests_are_refused(params: dict[str, Any]) -> None:
    """Before the database is asked."""
    with pytest.raises(ValueError, match=r"since|either"):
        selection({"state": "purged", "pathologies": [], "keep_pathologies": [], "since": "", **params})
