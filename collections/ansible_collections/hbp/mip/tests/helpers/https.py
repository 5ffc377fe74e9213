# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A web server on this machine that answers as a test wants, also wrongly, and certificates for it."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class Authority:
    """A certificate authority; `file` is its certificate."""

    def __init__(self, folder: Path, name: str = "Test CA", days: tuple[int, int] = (-1, 30)) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = self._sign(self._name, self._key, days, None)
        self.file = folder / "ca.pem"
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: tuple[int, int], names: list[str] | None
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        public = key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + days[0] * DAY)
            .not_valid_after(now + days[1] * DAY)
            .add_extension(x509.BasicConstraints(ca=names is None, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names is None:
            usage = x509.KeyUsage(
                digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
                key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
            )  # fmt: skip
            builder = builder.add_extension(usage, critical=True)
        else:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def issue(self, *names: str, days: tuple[int, int] = (-1, 20)) -> Path:
        """A file with a key and a certificate for `names` (host names and addresses), valid from and to so many days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]), key, days, list(names))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )  # fmt: skip
        path = self.folder / f"{names[0]}{days[0]}-{days[1]}.pem".replace(":", "_")
        path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        return path


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass
class Request:
    """What a client asked for, and ways to answer."""

    path: str
    headers: dict[str, str]
    number: int
    handler: BaseHTTPRequestHandler

    def answer(self, body: bytes = b"", status: int = 200, **headers: str) -> None:
        """A whole answer. Underscores in the names of headers stand for hyphens."""
        handler = self.handler
        handler.send_response(status)
        for name, value in {"Content_Type": "application/json", "Content_Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    def write(self, data: bytes) -> None:
        """Bytes as they are."""
        self.handler.wfile.write(data)
        self.handler.wfile.flush()


@dataclass
class Site:
    """A running server. `requests` are those that came; `behave` answers them."""

    behave: Callable[[Request], None]
    requests: list[Request] = field(default_factory=list)
    port: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)

    def at(self, name: str = "127.0.0.1") -> str:
        """`name` with the port."""
        return f"{name}:{self.port}"


@contextlib.contextmanager
def site(behave: Callable[[Request], None], certificate: Path | None = None, address: str = "127.0.0.1") -> Iterator[Site]:
    """A server with TLS, if there is a `certificate`, until the end of the block. A connection is closed after one answer.

    A `behave` that waits should do so with `stopped` of the site, so that it ends with it.
    """
    here = Site(behave)
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

    class Handler(BaseHTTPRequestHandler):
        """One connection."""

        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            """The handshake, in the connection's own thread."""
            self.request.settimeout(20)
            if context is not None:
                self.request = context.wrap_socket(self.request, server_side=True)
            super().setup()

        def finish(self) -> None:
            """End the connection: the server knows only the socket below TLS."""
            with contextlib.suppress(OSError):
                super().finish()
            with contextlib.suppress(OSError):
                self.request.shutdown(socket.SHUT_RDWR)
            self.request.close()

        def do_GET(self) -> None:
            """Let the test answer."""
            self.close_connection = True
            asked = Request(self.path, {key.lower(): value for key, value in self.headers.items()}, len(here.requests) + 1, self)
            here.requests.append(asked)
            here.behave(asked)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on the terminal."""

    class Server(socketserver.ThreadingTCPServer):
        """A thread for each connection."""

        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        allow_reuse_address = True
        daemon_threads = True
        request_queue_size = 50

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that goes away is nothing special here."""

    with Server((address, 0), Handler) as server:
        here.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield here
        finally:
            here.stopped.set()
            server.shutdown()
            thread.join()
