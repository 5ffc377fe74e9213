# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Passes what begins with /services/ on to the backend."""

from __future__ import annotations

import http.client
import os
from urllib.parse import urlsplit

from portal_standin.web import Handler, serve

_BACKEND = urlsplit(os.environ.get("ENGINE_BASE_URL", "http://portalbackend:8080/services/"))
_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "content-length", "server", "date"}


class Gateway(Handler):
    """One request, passed on with its headers."""

    def do_GET(self) -> None:
        """Pass on."""
        if not self.path.startswith("/services/"):
            self.answer(404, {"message": "the gateway knows /services/ only"})
            return
        data = self.body()
        connection = http.client.HTTPConnection(_BACKEND.netloc, timeout=150)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            connection.request(self.command, self.path, body=data or None, headers=headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):
            self.answer(502, {"message": "The portal's backend does not answer. Try again in a minute."})
            return
        finally:
            connection.close()
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET
    do_DELETE = do_GET


if __name__ == "__main__":
    serve(int(os.environ.get("GATEWAY_PORT", "8081")), Gateway)
