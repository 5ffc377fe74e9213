# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real PostgreSQL for the portal's modules; only the way into its container is another."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.hbp.mip.plugins.module_utils._portal_database import PORT

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
CONTAINER = "lab_portal-database"


class Server:
    """PostgreSQL in a folder of its own, and `docker exec` into nothing but a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.chown(folder, "postgres", "postgres")
        self.run([str(BINARIES[-1] / "initdb"), "-D", str(folder / "data"), "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"])
        self.control("start", "-o", f"-p {PORT} -k {folder} -c listen_addresses='' -F")

    def control(self, what: str, *more: str) -> None:
        """Start or stop the server."""
        self.run(
            [str(BINARIES[-1] / "pg_ctl"), "-D", str(self.folder / "data"), "-w", "-t", "300", "-l", str(self.folder / "log"), what, *more]
        )

    def run(self, command: list[str], environment: dict[str, str] | None = None) -> tuple[bytes, bytes, int]:
        """Run something as the database's user."""
        env = {"PATH": f"{BINARIES[-1]}:/usr/bin:/bin", "PGHOST": str(self.folder), **(environment or {})}
        done = subprocess.run(
            command, capture_output=True, user="postgres", group="postgres", extra_groups=[], env=env, check=False, cwd="/"
        )
        return done.stdout, done.stderr, done.returncode

    def sql(self, script: str, database: str = "portal") -> str:
        """Run SQL and return what it answers."""
        out, err, code = self.run(["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-p", PORT, "-d", database, "-c", script])
        assert code == 0, err
        return out.decode().strip()

    # What is used of the SDK's client.
    def exec_create(self, container: str, command: list[str], user: str, environment: dict[str, str]) -> dict[str, Any]:
        """Remember a command."""
        assert (container, user) == (CONTAINER, "postgres")
        return {"Id": (tuple(command), tuple(environment.items()))}

    def exec_start(self, identifier: Any, stream: bool, demux: bool) -> Iterator[tuple[bytes | None, bytes | None]]:
        """Run it."""
        assert stream
        assert demux
        out, err, self.code = self.run(list(identifier[0]), dict(identifier[1]))
        yield out, None
        yield None, err

    def exec_inspect(self, identifier: Any) -> dict[str, int]:
        """Return its code."""
        assert identifier
        return {"ExitCode": self.code}

    def put_archive(self, container: str, path: str, data: Iterable[bytes]) -> bool:
        """Unpack a tar as the engine does."""
        assert container == CONTAINER
        with tarfile.open(fileobj=io.BytesIO(b"".join(data))) as archive:
            archive.extractall(path, filter="fully_trusted", numeric_owner=True)
        return True


@contextmanager
def postgres() -> Iterator[Server]:
    """The server, and nothing of it afterwards."""
    # A socket's path has to be short.
    folder = Path(tempfile.mkdtemp(prefix="mip-pg-"))
    try:
        found = Server(folder)
        yield found
        found.control("stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
