# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HTTP on both sides: small servers, and calls to other nodes."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

log = logging.getLogger("standin")

#: Longest body that is read, in bytes. The engine's requests have some hundred.
LARGEST_BODY = 1 << 20
#: How long a silent client may keep a connection, in seconds.
CLIENT_TIMEOUT = 60


class NodeGone(Exception):
    """Nothing at a node's address answers: the container is gone."""


class NodeFault(Exception):
    """The container of a node is there, but the engine in it does not answer."""


class NodeError(Exception):
    """A node answered that it cannot do what it was asked for."""


@dataclass
class Answer:
    """A response to a client."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Any, status: int = 200, *, pretty: bool = False) -> Answer:
        """Return data as a JSON response."""
        return cls(status, json.dumps(data, ensure_ascii=False, indent=2 if pretty else None).encode())


Route = Callable[[str, str, bytes], Answer]


def serve(address: str, port: int, banner: str, route: Route, name: str) -> ThreadingHTTPServer:
    """Answer requests on a port in threads of the background. `route` gets method, target and body. Raises OSError."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = CLIENT_TIMEOUT

        def version_string(self) -> str:
            return banner

        def log_message(self, format: str, *args: Any) -> None:
            log.debug("%s: %s %s", name, self.address_string(), format % args)

        def address_string(self) -> str:
            return str(self.client_address[0])

        def _answer(self) -> None:
            try:
                length = int(self.headers.get("Content-Length") or 0)
            except ValueError:
                length = -1
            if length < 0 or length > LARGEST_BODY:
                self.close_connection = True
                answer = Answer.of({"error": f"the body must have a length of at most {LARGEST_BODY} bytes"}, 413)
            else:
                try:
                    answer = route(self.command, self.path, self.rfile.read(length))
                except Exception:
                    log.exception("%s: %s %s failed", name, self.command, self.path)
                    answer = Answer.of({"error": "internal error, see the log"}, 500)
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            for key, value in answer.headers.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def server_bind(self) -> None:
            # The inherited one asks the resolver for the host's full name, which may take many seconds without an answer.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(self.server_address)
            self.server_address = self.socket.getsockname()
            self.server_name, self.server_port = address, port

    server = Server((address, port), Handler)
    threading.Thread(target=server.serve_forever, name=name, daemon=True).start()
    log.info("Listening on %s:%d (%s)", address, port, name)
    return server


def ask(address: str, port: int, method: str, path: str, data: Any, connect_timeout: float, timeout: float) -> Any:
    """Return another node's JSON answer. Timeouts are in seconds. Raises NodeGone, NodeFault, NodeError."""
    connection = http.client.HTTPConnection(address, port, timeout=connect_timeout)
    try:
        try:
            connection.connect()
        except ConnectionRefusedError as error:
            raise NodeFault(f"{address}:{port} refuses connections") from error
        except OSError as error:
            raise NodeGone(f"{address} is unreachable: {error}") from error
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        try:
            body = None if data is None else json.dumps(data).encode()
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise NodeFault(f"{address}:{port} does not answer {path}: {error!r}") from error
    finally:
        connection.close()
    try:
        answer = json.loads(text)
    except ValueError as error:
        raise NodeError(f"{address}:{port}{path} sent something else than JSON, status {response.status}") from error
    if response.status != 200:
        raise NodeError(f"{address}:{port}{path} answered {response.status}: {answer}")
    return answer
