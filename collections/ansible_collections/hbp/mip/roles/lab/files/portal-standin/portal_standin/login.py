# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The login at Keycloak: OpenID Connect's authorization code with PKCE, and sessions in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import threading
import time
from typing import Any
from urllib.parse import urlencode

from portal_standin.web import ask

LOGIN_SECONDS = 600


def _settings() -> tuple[str, str, str]:
    base = f"{os.environ['KEYCLOAK_AUTH_URL']}realms/{os.environ['KEYCLOAK_REALM']}/protocol/openid-connect"
    return base, os.environ["KEYCLOAK_CLIENT_ID"], os.environ["KEYCLOAK_CLIENT_SECRET"]


class Sessions:
    """Who is logged in, and who is on the way."""

    def __init__(self) -> None:
        """Nobody is."""
        self._lock = threading.Lock()
        self._begun: dict[str, tuple[float, str]] = {}
        self._users: dict[str, dict[str, Any]] = {}

    def begin(self, redirect: str) -> tuple[str, str]:
        """Return a state for the browser's cookie, and where at Keycloak the browser has to go."""
        base, client, _secret = _settings()
        state, verifier = secrets.token_urlsafe(24), secrets.token_urlsafe(48)
        with self._lock:
            now = time.monotonic()
            self._begun = {key: value for key, value in self._begun.items() if value[0] > now}
            self._begun[state] = (now + LOGIN_SECONDS, verifier)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code", "client_id": client, "redirect_uri": redirect, "scope": "openid", "state": state,
            "code_challenge": challenge, "code_challenge_method": "S256",
        }  # fmt: skip
        return state, f"{base}/auth?{urlencode(query)}"

    def finish(self, state: str, cookie: str, code: str, redirect: str) -> str:
        """Return a new session for the code that Keycloak gave; empty when it is not one of ours."""
        with self._lock:
            until, verifier = self._begun.pop(state, (0.0, ""))
        if not verifier or until < time.monotonic() or not secrets.compare_digest(state, cookie):
            return ""
        base, client, secret = _settings()
        form = {
            "grant_type": "authorization_code", "code": code, "redirect_uri": redirect, "client_id": client, "client_secret": secret,
            "code_verifier": verifier,
        }  # fmt: skip
        status, answer = ask(f"{base}/token", "POST", urlencode(form).encode(), {"Content-Type": "application/x-www-form-urlencoded"}, 20)
        if status != 200:
            return ""
        token = json.loads(answer)
        status, who = ask(f"{base}/userinfo", headers={"Authorization": f"Bearer {token['access_token']}"}, timeout=20)
        if status != 200:
            return ""
        session = secrets.token_urlsafe(32)
        user = {"username": json.loads(who)["preferred_username"], "until": time.monotonic() + int(token["expires_in"])}
        with self._lock:
            self._users[session] = {**user, "id_token": token.get("id_token", "")}
        return session

    def user(self, session: str) -> str:
        """Return who a session belongs to; empty when it is over."""
        with self._lock:
            found = self._users.get(session)
            if found and found["until"] < time.monotonic():
                del self._users[session]
                found = None
        return str(found["username"]) if found else ""

    def end(self, session: str, redirect: str) -> str:
        """Forget a session; return where at Keycloak the browser has to go."""
        base, client, _secret = _settings()
        with self._lock:
            found = self._users.pop(session, {})
        query = {"client_id": client, "post_logout_redirect_uri": redirect, "id_token_hint": found.get("id_token", "")}
        return f"{base}/logout?{urlencode({key: value for key, value in query.items() if value})}"
