# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The portal's backend: pathologies, algorithms, experiments. Its database is real, and what is computed is computed by the engine."""

from __future__ import annotations

import http.client
import json
import os
import uuid
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg2

from portal_standin.login import Sessions
from portal_standin.web import Handler, ask, serve

API = Path("/opt/portal/api")
TABLES = """
CREATE TABLE IF NOT EXISTS "user" (username text PRIMARY KEY, subjectid text);
CREATE TABLE IF NOT EXISTS experiment (uuid uuid PRIMARY KEY, name text, created_by_username text REFERENCES "user"(username), status text,
  result text, finished timestamp, algorithm text, algorithm_id text, created timestamp DEFAULT now(), shared boolean DEFAULT false,
  viewed boolean DEFAULT false);
"""
SESSIONS = Sessions()
LOGIN = os.environ.get("AUTHENTICATION") == "1"


def database() -> Any:
    """Return a connection to the database."""
    host, _colon, port = os.environ["PORTAL_DB_SERVER"].partition(":")
    user, password = os.environ["PORTAL_DB_USER"], os.environ["PORTAL_DB_PASSWORD"]
    return psycopg2.connect(host=host, port=int(port), dbname="portal", user=user, password=password, connect_timeout=10)


def engine(path: str, data: Any = None) -> Any:
    """Ask the engine and return its JSON. Raises OSError, http.client.HTTPException and ValueError."""
    method, body = ("GET", None) if data is None else ("POST", json.dumps(data).encode())
    _status, answer = ask(os.environ["EXAREME_URL"] + path, method, body, {"Content-Type": "application/json"})
    return json.loads(answer)


class Backend(Handler):
    """One request."""

    def cookie(self, name: str) -> str:
        """Return a cookie of the browser."""
        found = SimpleCookie(self.headers.get("Cookie", "")).get(name)
        return found.value if found else ""

    def outside(self, path: str) -> str:
        """Return the address under which browsers reach a path."""
        return f"{self.headers.get('X-Forwarded-Proto', 'http')}://{self.headers.get('X-Forwarded-Host') or self.headers['Host']}{path}"

    def go(self, where: str, *cookies: str) -> None:
        """Send the browser elsewhere."""
        self.send_response(302)
        self.send_header("Location", where)
        for cookie in cookies:
            secure = "; Secure" if self.headers.get("X-Forwarded-Proto") == "https" else ""
            self.send_header("Set-Cookie", f"{cookie}; Path=/; HttpOnly; SameSite=Lax{secure}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def sso(self, path: str, query: dict[str, list[str]]) -> None:
        """Login and logout."""
        # As with the real backend, the login begins and comes back here.
        back = self.outside("/services/sso/login")
        if path == "/sso/login" and not {"code", "error"} & query.keys():
            state, where = SESSIONS.begin(back)
            self.go(where, f"mip_login={state}")
        elif path == "/sso/login":
            session = SESSIONS.finish(query.get("state", [""])[0], self.cookie("mip_login"), query.get("code", [""])[0], back)
            if session:
                self.go("/", f"mip_session={session}", "mip_login=; Max-Age=0")
            else:
                self.answer(401, {"message": "The login did not succeed. Begin again."})
        else:
            self.go(SESSIONS.end(self.cookie("mip_session"), self.outside("/")), "mip_session=; Max-Age=0")

    def do_GET(self) -> None:
        """Answer."""
        self.guarded()

    def do_POST(self) -> None:
        """Answer."""
        self.guarded()

    def guarded(self) -> None:
        """Answer, with words for everything that can go wrong."""
        parts = urlsplit(self.path)
        path = parts.path.removeprefix("/services")
        data = self.body()
        try:
            if LOGIN and path in ("/sso/login", "/logout"):
                self.sso(path, parse_qs(parts.query))
                return
            user = SESSIONS.user(self.cookie("mip_session")) if LOGIN else "anonymous"
            if not user:
                self.answer(401, {"message": "Log in first.", "login": "/services/sso/login"})
                return
            self.route(f"{self.command} {path}", user, data)
        except psycopg2.Error:
            self.answer(503, {"message": "The portal's database does not answer. Try again in a minute."})
        except (OSError, http.client.HTTPException, ValueError):
            self.answer(502, {"message": "The analysis engine on the master does not answer. Try again in a minute."})

    def route(self, what: str, user: str, data: bytes) -> None:
        """Answer somebody who may ask."""
        if what == "GET /pathologies":
            self.raw(200, (API / "pathologies.json").read_bytes(), {"Content-Type": "application/json"})
        elif what == "GET /algorithms":
            disabled = json.loads((API / "disabledAlgorithms.json").read_text(encoding="utf-8"))
            self.answer(200, [entry for entry in engine("/mining/algorithms.json") if entry["name"] not in disabled])
        elif what == "GET /activeUser":
            self.answer(200, {"username": user, "login": LOGIN})
        elif what == "GET /experiments":
            with database() as connection, connection.cursor() as cursor:
                cursor.execute(
                    "SELECT uuid, name, status, created FROM experiment WHERE created_by_username = %s ORDER BY created", (user,)
                )
                rows = [dict(zip(("uuid", "name", "status", "created"), map(str, row), strict=True)) for row in cursor]
            self.answer(200, rows)
        elif what == "POST /experiments":
            self.experiment(user, json.loads(data))
        else:
            self.answer(404, {"message": "no such route"})

    def experiment(self, user: str, wanted: dict[str, Any]) -> None:
        """Run an algorithm and keep what came of it."""
        algorithm = wanted["algorithm"]
        name = str(algorithm["name"])
        if not name.replace("_", "").isalnum():
            self.answer(400, {"message": "no such algorithm"})
            return
        answer = engine(f"/mining/query/{name}", algorithm["parameters"])
        results = answer.get("result") or []
        failed = not results or str(results[0].get("type", "")).startswith("text/plain")
        identifier = str(uuid.uuid4())
        with database() as connection, connection.cursor() as cursor:
            cursor.execute('INSERT INTO "user" (username) VALUES (%s) ON CONFLICT DO NOTHING', (user,))
            cursor.execute(
                "INSERT INTO experiment (uuid, name, created_by_username, status, result, finished, algorithm, algorithm_id)"
                " VALUES (%s, %s, %s, %s, %s, now(), %s, %s)",
                (
                    identifier,
                    str(wanted.get("name", "")),
                    user,
                    "error" if failed else "success",
                    json.dumps(results),
                    json.dumps(algorithm),
                    name,
                ),
            )
        self.answer(200, {"uuid": identifier, "status": "error" if failed else "success", "result": results})


def main() -> None:
    """Make the tables and answer."""
    with database() as connection, connection.cursor() as cursor:
        cursor.execute(TABLES)
    serve(8080, Backend)


if __name__ == "__main__":
    main()
