# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The portal's database as a whole: dumped, and put in place of the one that is there, which is kept. PostgreSQL's own tools do the work,
in the database's own container."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import tarfile
import tempfile
import time
from typing import IO, Any, Dict, Iterator, List, Mapping, Optional

from ansible_collections.hbp.mip.plugins.module_utils._engine import engine_call, wait_until
from ansible_collections.hbp.mip.plugins.module_utils._snapshot import digest, private_folder

PORT = "5433"
_DUMP_MARK = b"PGDMP"
#: The database, and what it is called while it is filled.
NAME, DRAFT = "portal", "portal_restoring"
#: The comment on a database that came out of a dump.
_MARK = "hbp.mip restored sha256:"
_PIECE = 1 << 20
#: Where a dump lies in the container while it is read.
_INSIDE = "/tmp"  # noqa: S108
_SWITCH_SECONDS = 60


def container(project: str) -> str:
    """The name of the database's container."""
    return "%s_portal-database" % project


# Flyway, with which the backend changes its tables, has called its own table differently.
_SCHEMA = """
SELECT coalesce(to_regclass('public.flyway_schema_history'), to_regclass('public.schema_version')) IS NOT NULL AS known \\gset
\\if :known
SELECT format('SELECT version FROM %s WHERE success AND version IS NOT NULL ORDER BY string_to_array(version, ''.'')::int[] DESC LIMIT 1',
  coalesce(to_regclass('public.flyway_schema_history'), to_regclass('public.schema_version'))) \\gexec
\\endif
"""
_COMMENT = "SELECT coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database WHERE datname = 'portal';"
_MAKE = """
DROP DATABASE IF EXISTS portal_restoring;
SELECT format('CREATE DATABASE portal_restoring TEMPLATE template0 OWNER %I ENCODING %L LC_COLLATE %L LC_CTYPE %L',
  pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype) FROM pg_database WHERE datname = 'portal' \\gexec
SELECT format('GRANT ALL ON DATABASE portal_restoring TO %I', rolname) FROM pg_roles WHERE rolname = 'portal' \\gexec
"""
_CLOSE = """
ALTER DATABASE portal ALLOW_CONNECTIONS false;
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname IN ('portal', 'portal_restoring');
"""
_SWITCH = """
BEGIN;
ALTER DATABASE portal RENAME TO @KEPT@;
ALTER DATABASE portal_restoring RENAME TO portal;
COMMIT;
"""


class DatabaseError(Exception):
    """The portal's database refused, or cannot be asked."""


def execute(client: Any, container: str, command: List[str], environment: Mapping[str, str], out: Optional[IO[bytes]] = None) -> bytes:
    """Run a command in a container as the database's user; return what it writes, unless that goes to `out`.

    Raises EngineError, and DatabaseError with the command's own words when it fails.
    """
    collected, said = [], []
    with engine_call("run %s in %s" % (command[0], container)):
        made = client.exec_create(container, command, user="postgres", environment=dict(environment))
        for text, complaint in client.exec_start(made["Id"], stream=True, demux=True):
            if text and out:
                out.write(text)
            elif text:
                collected.append(text)
            if complaint:
                said.append(complaint)
        code = client.exec_inspect(made["Id"])["ExitCode"]
    if code:
        words = " ".join(b"".join(said).decode("utf-8", "replace").split()) or "it ended with code %s" % code
        raise DatabaseError("%s: %s" % (container, words))
    return b"".join(collected)


def sql(client: Any, container: str, script: str, database: str = "postgres", given: Optional[Mapping[str, Any]] = None) -> List[str]:
    """Run a script in a database and return the lines that it answers.

    :arg given: its one parameter, which it takes as JSON from the environment.
    """
    command = ["sh", "-c", 'printenv MIP_SCRIPT | psql -X -q -A -t -v ON_ERROR_STOP=1 -U postgres -p "$MIP_PORT" -d "$MIP_DATABASE"']
    environment = {"MIP_SCRIPT": script, "MIP_GIVEN": json.dumps(given), "MIP_PORT": PORT, "MIP_DATABASE": database}
    return execute(client, container, command, environment).decode("utf-8").splitlines()


def dump(client: Any, container: str, path: str) -> Dict[str, Any]:
    """Write a dump of the database into a file; only root can enter its folder. Return its path, size and SHA-256."""
    folder = private_folder(os.path.dirname(path))
    handle, draft = tempfile.mkstemp(prefix=".portal-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as stream:
            execute(client, container, ["pg_dump", "-U", "postgres", "-p", PORT, "-Fc", NAME], {}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        check_dump(draft)
        found = {"path": path, "size": os.path.getsize(draft), "sha256": digest(draft)}
        os.rename(draft, path)
    except BaseException:
        os.unlink(draft)
        raise
    return found


def check_dump(path: str) -> None:
    """Raise DatabaseError unless a file begins as a dump does."""
    with open(path, "rb") as written:
        if written.read(len(_DUMP_MARK)) != _DUMP_MARK:
            raise DatabaseError("%s is no dump of pg_dump" % path)


def restored_from(client: Any, container: str) -> str:
    """Return the SHA-256 of the dump that the database came out of; empty when it did not. Raises DatabaseError when there is none."""
    lines = sql(client, container, _COMMENT)
    if not lines:
        raise DatabaseError("%s has no database %s" % (container, NAME))
    return lines[0][len(_MARK) :] if lines[0].startswith(_MARK) else ""


def restore(client: Any, container: str, path: str) -> Dict[str, str]:
    """Put a dump in place of the database, which is kept under another name.

    The dump is read into a database of its own; the two change places in one transaction, when all of it is there.

    :returns: ``kept``, the name of the database of before; ``schema`` and ``schema_before``, the versions of the tables.
    :raises DatabaseError: when the dump cannot be read, or is newer than the backend; then all is as it was.
    """
    check_dump(path)
    mark = digest(path)
    # A run that was killed may have left it closed.
    sql(client, container, "ALTER DATABASE %s ALLOW_CONNECTIONS true;" % NAME)
    sql(client, container, _MAKE)
    try:
        with _inside(client, container, path) as place:
            command = ["pg_restore", "-U", "postgres", "-p", PORT, "--exit-on-error", "--single-transaction", "-d", DRAFT, place]
            execute(client, container, command, {})
        schema, before = "".join(sql(client, container, _SCHEMA, DRAFT)), "".join(sql(client, container, _SCHEMA, NAME))
        if before and _numbers(schema) > _numbers(before):
            raise DatabaseError(
                "%s: its tables have version %s, and those of the backend here %s; a backend cannot read newer ones. "
                "Deploy the version that the dump is of first" % (path, schema, before)
            )
        sql(client, container, "COMMENT ON DATABASE %s IS '%s%s';" % (DRAFT, _MARK, mark))
        kept = "%s_before_%s" % (NAME, time.strftime("%Y%m%dt%H%M%Sz", time.gmtime()))
        _switch(client, container, kept)
    except BaseException:
        with contextlib.suppress(DatabaseError):
            sql(client, container, "ALTER DATABASE %s ALLOW_CONNECTIONS true;" % NAME)
            sql(client, container, "DROP DATABASE IF EXISTS %s;" % DRAFT)
        raise
    return {"kept": kept, "schema": schema, "schema_before": before}


def _numbers(version: str) -> List[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def _switch(client: Any, container: str, kept: str) -> None:
    """Let the two databases change places; a backend that is connected is cut off, and connects again by itself."""
    why = [""]

    def done() -> bool:
        try:
            sql(client, container, _CLOSE)
            sql(client, container, _SWITCH.replace("@KEPT@", kept))
        except DatabaseError as error:
            why[0] = str(error)
            return False
        return True

    if not wait_until(done, _SWITCH_SECONDS):
        raise DatabaseError(why[0])


@contextlib.contextmanager
def _inside(client: Any, container: str, path: str) -> Iterator[str]:
    """Bring a file into a container, readable for the database's user only; remove it at the end."""
    user = int(execute(client, container, ["id", "-u"], {}))
    info = tarfile.TarInfo("mip-portal-%s.dump" % secrets.token_hex(8))
    info.size, info.mode, info.uid, info.gid = os.path.getsize(path), 0o600, user, user
    with engine_call("bring the dump into %s" % container):
        client.put_archive(container, _INSIDE, _archive(info, path))
    place = "%s/%s" % (_INSIDE, info.name)
    try:
        yield place
    finally:
        execute(client, container, ["rm", "-f", place], {})


def _archive(info: tarfile.TarInfo, path: str) -> Iterator[bytes]:
    """Return a tar of one file piece by piece: a dump may be larger than the memory."""
    yield info.tobuf()
    with open(path, "rb") as stream:
        while True:
            piece = stream.read(_PIECE)
            if not piece:
                break
            yield piece
    yield b"\0" * (-info.size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)
