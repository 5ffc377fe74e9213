# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What gateway and backend share: answering and asking over HTTP."""

from __future__ import annotations

import http.client
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

LIMIT = 1 << 20


class Handler(BaseHTTPRequestHandler):
    """Answers with JSON; never shows a traceback to the other side."""

    protocol_version = "HTTP/1.1"

    def body(self) -> bytes:
        """Return what was sent, at most LIMIT bytes."""
        size = int(self.headers.get("Content-Length") or 0)
        if size > LIMIT:
            self.close_connection = True
            raise ValueError("the request is too large")
        return self.rfile.read(size)

    def answer(self, status: int, data: Any, headers: dict[str, str] | None = None) -> None:
        """Send JSON."""
        self.raw(status, json.dumps(data).encode(), {"Content-Type": "application/json", **(headers or {})})

    def raw(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        """Send bytes."""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data)), "Cache-Control": "no-store"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Write one line, without the query, which can hold a login's code."""
        words = [str(word).partition("?")[0] for word in args]
        print(self.address_string(), *words, file=sys.stderr, flush=True)


def ask(
    url: str, method: str = "GET", data: bytes | None = None, headers: dict[str, str] | None = None, timeout: float = 120
) -> tuple[int, bytes]:
    """Ask another server. Raises OSError and http.client.HTTPException."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=timeout)
    try:
        path = parts.path + ("?" + parts.query if parts.query else "")
        connection.request(method, path, body=data, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def serve(port: int, handler: type[Handler]) -> None:
    """Answer for ever."""
    ThreadingHTTPServer(("", port), handler).serve_forever()
