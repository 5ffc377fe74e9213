# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking a MIP data catalogue for the CDEs of pathologies, and saying why it did not work.

The standard library's HTTP client has a timeout for each read only, so that a server that sends a byte now and then holds it
for ever. Here one deadline holds for a whole attempt: name resolution, connection, TLS, redirects and the answer.
Proxies that the environment names are not used.
"""

from __future__ import annotations

import email.utils
import errno
import hashlib
import http.client
import io
import ipaddress
import json
import queue
import random
import re
import shlex
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union
from urllib.parse import quote, urljoin, urlsplit

from ansible_collections.hbp.mip.plugins.module_utils import _cdes, _swarm

PLAIN = "plain"
WRAPPED = "wrapped"
PORTS = {"http": 80, "https": 443}

# A wrapped CDE has a backslash before each of its quotation marks and line ends.
MOST_BYTES = 2 * _cdes.MOST_BYTES
MOST_REDIRECTS = 5
MOST_CALLS = 8
MOST_FINDINGS = 10
# Seconds: between two attempts, and as a server may ask for with Retry-After.
LONGEST_PAUSE = 30.0
LONGEST_RETRY_AFTER = 60.0
# Values in a result that are secret are blanked wherever they occur, so that short ones would destroy the content.
SHORTEST_SECRET = 8

# What the catalogue's own clients send.
_HEADERS = {"Accept": "application/json", "Content-Type": "application/json", "X-Requested-With": "XMLHttpRequest"}
_OWN_HEADERS = ("host", "content-length", "transfer-encoding", "connection", "accept-encoding")

_NAME = re.compile(r"^(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?\Z")
_HEADER = re.compile(r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_CHUNK = 1 << 16


class OptionError(ValueError):
    """An option that cannot be used; the text names it, what is wrong and what would be right."""


class CatalogueError(Exception):
    """No CDE from the catalogue. `again` tells whether the next attempt may go better, `after` (seconds) when."""

    def __init__(self, code: str, message: str, fix: str, again: bool = False, after: float = 0.0) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fix = fix
        self.again = again
        self.after = after


class Catalogue(NamedTuple):
    """Where the catalogue is and how it is asked. `timeout` (seconds) holds for one attempt, `backoff` is the first pause."""

    protocol: str
    host: str
    port: int
    context: ssl.SSLContext
    ca_file: str
    timeout: float
    retries: int
    backoff: float
    headers: Mapping[str, str]

    @property
    def base(self) -> str:
        """The beginning of every URL."""
        return _origin(self.protocol, self.host, self.port)

    def url(self, pathology: str) -> str:
        """Where the newest CDEs of `pathology` are (the API of the MIP's data catalogue)."""
        return "%s/pathology/allPathologies/%s/latest_cde_version" % (self.base, quote(pathology, safe=""))

    def try_it(self, url: str) -> str:
        """A command that shows what happens."""
        return "curl -v %s%s" % ("--cacert %s " % shlex.quote(self.ca_file) if self.ca_file else "", shlex.quote(url))


class Found(NamedTuple):
    """The CDEs of a pathology: the file's bytes, `shape` plain or wrapped, and how long it took in how many attempts."""

    content: bytes
    sha256: str
    url: str
    shape: str
    seconds: float
    attempts: int


# --- options -----------------------------------------------------------------------------------------------------------


def split_host(text: str, protocol: str) -> Tuple[str, int]:
    """Name or address, and port, of `text`: `name`, `name:port`, `192.0.2.1:port`, `[2001:db8::1]` or `[2001:db8::1]:port`.

    Raises `OptionError`.
    """
    wrong = "host: %r is not a name or an address with an optional port, such as catalogue.example.org:8443 or [2001:db8::1]:8443" % text
    if "://" in text or "/" in text:
        raise OptionError(wrong + ". Leave out the protocol (it has an option of its own) and the path")
    if "@" in text:
        raise OptionError(wrong + ". Credentials belong into headers")
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise OptionError("%s: %r in brackets is not an IPv6 address" % (wrong, host)) from None
        if not bracket or (rest and not rest.startswith(":")):
            raise OptionError(wrong)
    elif text.count(":") > 1:
        raise OptionError(wrong + ". An IPv6 address stands in brackets")
    else:
        host, colon, number = text.partition(":")
        rest = colon + number
        if not _NAME.match(host):
            raise OptionError(wrong)
    if not rest:
        return host, PORTS[protocol]
    if not re.match(r"^:[0-9]{1,5}\Z", rest) or not 0 < int(rest[1:]) < 65536:
        raise OptionError("%s: the port must be a number from 1 to 65535" % wrong)
    return host, int(rest[1:])


def make_context(ca_file: str, verify: bool) -> ssl.SSLContext:
    """How TLS is spoken: trusting the certificates in `ca_file` alone, or those that this machine trusts.

    Raises `OptionError` for a file that cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except ssl.SSLError as error:
        raise OptionError("ca_file: %s holds no certificates in PEM form (%s)" % (ca_file, error.reason or error)) from error
    except OSError as error:
        raise OptionError("ca_file: %s: %s" % (ca_file, error.strerror or error)) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def make_headers(wanted: Mapping[str, Any]) -> Dict[str, str]:
    """What is sent with every request. Raises `OptionError`, which never shows a value."""
    result = dict(_HEADERS)
    for name, value in wanted.items():
        if not _HEADER.match(str(name)) or str(name).lower() in _OWN_HEADERS:
            raise OptionError("headers: %r is not the name of a header that can be given" % name)
        text = str(value)
        if isinstance(value, (bool, dict, list)) or value is None or _UNPRINTABLE.search(text):
            raise OptionError("headers.%s: the value must be a text of printable ASCII characters" % name)
        if len(text) < SHORTEST_SECRET:
            raise OptionError(
                "headers.%s: the value has fewer than %d characters, so it could not be kept out of logs without damage to what "
                "the catalogue answers" % (name, SHORTEST_SECRET)
            )
        for own in [own for own in result if own.lower() == str(name).lower()]:
            del result[own]
        result[str(name)] = text
    return result


def make_catalogue(options: Mapping[str, Any]) -> Catalogue:
    """The catalogue that the module's `options` describe. Raises `OptionError` for the first that cannot be used."""
    protocol = str(options["protocol"])
    host, port = split_host(str(options["host"]).strip(), protocol)
    for name, least, most in (("timeout", 0.1, 600.0), ("retries", 0, 20), ("backoff", 0.0, LONGEST_PAUSE)):
        if not least <= options[name] <= most:
            raise OptionError("%s: %g is not from %g to %g" % (name, options[name], least, most))
    ca_file = str(options.get("ca_file") or "")
    for pathology in options["pathologies"]:
        if pathology in ("", ".", ".."):
            raise OptionError("pathologies: %r is not the name of a pathology" % pathology)
    return Catalogue(
        protocol=protocol,
        host=host,
        port=port,
        context=make_context(ca_file, bool(options["verify"])),
        ca_file=ca_file,
        timeout=float(options["timeout"]),
        retries=int(options["retries"]),
        backoff=float(options["backoff"]),
        headers=make_headers(options.get("headers") or {}),
    )


def _origin(protocol: str, host: str, port: int) -> str:
    shown = "[%s]" % host if ":" in host else host
    return "%s://%s%s" % (protocol, shown, "" if port == PORTS[protocol] else ":%d" % port)


# --- one connection ----------------------------------------------------------------------------------------------------


class _Attempt:
    """The deadline of one attempt, and what it is doing."""

    def __init__(self, catalogue: Catalogue, url: str) -> None:
        self.catalogue = catalogue
        self.url = url
        self.deadline = time.monotonic() + catalogue.timeout
        self.doing = ""

    def left(self) -> float:
        """Seconds that are left. Raises `socket.timeout` when there are none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise socket.timeout
        return left

    def too_slow(self) -> CatalogueError:
        """The time is over."""
        fix = "is the catalogue overloaded, or a firewall between? Try: %s; or raise timeout" % self.catalogue.try_it(self.url)
        return CatalogueError("catalogue-timeout", "%s: %s after %g s" % (self.url, self.doing, self.catalogue.timeout), fix, again=True)


class _Wire(io.RawIOBase):
    """What http.client needs of a socket, whose every use ends at the deadline of an attempt."""

    def __init__(self, plain: socket.socket, attempt: _Attempt) -> None:
        super().__init__()
        self.socket = plain
        self.attempt = attempt

    def sendall(self, data: bytes) -> None:
        """Send all of `data`."""
        self.socket.settimeout(self.attempt.left())
        self.socket.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """A file of what comes in."""
        return io.BufferedReader(self, _CHUNK)

    def readable(self) -> bool:
        """That it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there."""
        self.socket.settimeout(self.attempt.left())
        return self.socket.recv_into(buffer)

    def close(self) -> None:
        """Nothing: http.client closes before the body is read. Whoever opened the socket closes it."""


def _resolve(host: str, port: int, attempt: _Attempt) -> List[Any]:
    """Addresses of `host` as getaddrinfo gives them, within the attempt's time, which getaddrinfo itself does not know."""
    answers: queue.Queue[Any] = queue.Queue()

    def look_up() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    attempt.doing = "the name %s was not resolved" % host
    threading.Thread(target=look_up, daemon=True).start()
    try:
        found = answers.get(timeout=attempt.left())
    except queue.Empty:
        raise socket.timeout from None
    if isinstance(found, Exception):
        temporary = isinstance(found, socket.gaierror) and found.errno == socket.EAI_AGAIN
        raise CatalogueError(
            "catalogue-name",
            "%s: the name %s cannot be resolved: %s" % (attempt.url, host, getattr(found, "strerror", None) or found),
            "is the name right? Try: getent hosts %s; see /etc/resolv.conf for the name server" % host,
            again=temporary,
        ) from found
    return list(found)


def _connect(host: str, port: int, attempt: _Attempt) -> socket.socket:
    """A connection to one of the addresses of `host`; one that drops everything leaves time for the others."""
    addresses = _resolve(host, port, attempt)
    errors: List[OSError] = []
    for number, (family, kind, protocol, _unused, address) in enumerate(addresses):
        attempt.doing = "no connection to %s" % _swarm.join_address(str(address[0]), port)
        plain = socket.socket(family, kind, protocol)
        try:
            plain.settimeout(attempt.left() / (len(addresses) - number))
            plain.connect(address)
            return plain
        except OSError as error:
            plain.close()
            errors.append(error)
    where = ", ".join(sorted({str(found[4][0]) for found in addresses}))
    if any(isinstance(error, socket.timeout) for error in errors):
        raise errors[-1] if isinstance(errors[-1], socket.timeout) else socket.timeout
    if all(isinstance(error, ConnectionRefusedError) for error in errors):
        raise CatalogueError(
            "catalogue-refused",
            "%s: %s refuses connections to port %d, so nothing listens there" % (attempt.url, where, port),
            "is the port right, and the catalogue running? Try: %s" % attempt.catalogue.try_it(attempt.url),
            again=True,
        )
    raise CatalogueError(
        "catalogue-unreachable",
        "%s: %s cannot be reached: %s" % (attempt.url, where, errors[-1].strerror or errors[-1]),
        "is there a way from here? Try: ip route get %s; %s" % (addresses[-1][4][0], attempt.catalogue.try_it(attempt.url)),
        again=True,
    )


def _secure(plain: socket.socket, host: str, port: int, attempt: _Attempt) -> ssl.SSLSocket:
    """`plain` with TLS."""
    attempt.doing = "the TLS handshake was not finished"
    plain.settimeout(attempt.left())
    name = host.rstrip(".")
    try:
        return attempt.catalogue.context.wrap_socket(plain, server_hostname=name)
    except ssl.SSLCertVerificationError as error:
        raise _untrusted(error, host, port, attempt) from error
    except ssl.SSLError as error:
        raise _no_tls(error, attempt) from error


def _shown_certificate(host: str, port: int, attempt: _Attempt) -> Optional[_swarm.Certificate]:
    """The certificate that was refused. Nothing is sent to whoever shows it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with _connect(host, port, attempt) as plain:
            plain.settimeout(attempt.left())
            with context.wrap_socket(plain, server_hostname=host.rstrip(".")) as secured:
                return _swarm.parse_certificate(secured.getpeercert(binary_form=True) or b"")
    except (OSError, ValueError, CatalogueError):
        return None


# OpenSSL's X509_V_ERR_*.
_NOT_YET_VALID, _EXPIRED, _REVOKED = 9, 10, 23
_OTHER_HOST = (62, 63, 64)
_SELF_SIGNED = (18, 19)
_UNKNOWN_CA = (2, 20, 21, 27)


def _untrusted(error: ssl.SSLCertVerificationError, host: str, port: int, attempt: _Attempt) -> CatalogueError:
    """The certificate that the server shows cannot be trusted."""
    number, words = error.verify_code, error.verify_message
    shown = _shown_certificate(host, port, attempt)
    subject = _short(shown.subject.get("CN", "")) if shown else ""
    look = (
        "openssl s_client -connect %s -servername %s </dev/null 2>/dev/null | "
        "openssl x509 -noout -subject -issuer -dates -ext subjectAltName" % (_swarm.join_address(host, port), host.rstrip("."))
    )
    ca_file = attempt.catalogue.ca_file
    if number in (_EXPIRED, _NOT_YET_VALID):
        dates = _swarm.clock_problem(shown, time.time()) if shown else ""
        whose = "that of its authority" if shown else "it, or that of its authority,"
        state = "%s %s" % (whose, "has expired" if number == _EXPIRED else "is not valid yet")
        why = "the server's certificate cannot be trusted: %s" % (dates or state)
        fix = "is the clock of this host right (timedatectl)? Otherwise whoever runs the catalogue has to renew it"
    elif number in _OTHER_HOST:
        why = "the server's certificate is not for %s%s" % (host, ", but for %s" % subject if subject and subject != host else "")
        fix = "give host the name that is in the certificate"
    elif number in _SELF_SIGNED + _UNKNOWN_CA:
        known = "is not in %s" % ca_file if ca_file else "this host does not trust"
        why = "the server's certificate is signed by an authority that %s" % known
        fix = "give the certificate of that authority (a file in PEM form, from whoever runs the catalogue) as ca_file"
        if number not in _SELF_SIGNED:
            fix += ", or let them send their intermediate certificates along"
    elif number == _REVOKED:
        why, fix = "the server's certificate has been revoked", "whoever runs the catalogue has to replace it"
    else:
        why, fix = "the server's certificate cannot be trusted", "tell whoever runs the catalogue"
    fix += ". See: " + look
    return CatalogueError("catalogue-tls", "%s: %s (%s)" % (attempt.url, why, words), fix)


def _no_tls(error: ssl.SSLError, attempt: _Attempt) -> CatalogueError:
    """The handshake failed for another reason than the certificate."""
    reason = str(error.reason or error)
    if isinstance(error, ssl.SSLEOFError) or "EOF" in reason.upper():
        return CatalogueError(
            "catalogue-unreachable",
            "%s: the server ended the connection during the TLS handshake" % attempt.url,
            "does that port speak HTTPS? Try: %s" % attempt.catalogue.try_it(attempt.url),
            again=True,
        )
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL"):
        why, fix = "what listens there does not speak TLS", "give protocol http, if the network is trusted, or the port that speaks HTTPS"
    elif "PROTOCOL_VERSION" in reason or "UNSUPPORTED_PROTOCOL" in reason:
        why, fix = "the server speaks no TLS of at least version 1.2", "whoever runs the catalogue has to update it"
    elif "CERTIFICATE_REQUIRED" in reason:
        why, fix = "the server wants a certificate of the client", "ask whoever runs the catalogue for an address without that"
    else:
        why, fix = "TLS failed", "try: %s" % attempt.catalogue.try_it(attempt.url)
    return CatalogueError("catalogue-tls", "%s: %s (%s)" % (attempt.url, why, reason.lower().replace("_", " ")), fix)


class _Answer(NamedTuple):
    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


def _exchange(attempt: _Attempt) -> _Answer:
    """Ask for the URL of `attempt` and read the answer. Bodies of answers that are not used are not read."""
    parts = urlsplit(attempt.url)
    host = str(parts.hostname)
    port = parts.port or PORTS[parts.scheme]
    plain = _connect(host, port, attempt)
    secured: Union[socket.socket, ssl.SSLSocket] = plain
    try:
        if parts.scheme == "https":
            secured = _secure(plain, host, port, attempt)
        attempt.doing = "no answer"
        return _talk(secured, parts.scheme, host, port, parts.path + ("?" + parts.query if parts.query else ""), attempt)
    finally:
        secured.close()
        plain.close()


def _talk(connected: socket.socket, scheme: str, host: str, port: int, target: str, attempt: _Attempt) -> _Answer:
    connection: http.client.HTTPConnection
    if scheme == "https":
        connection = http.client.HTTPSConnection(host, port, context=attempt.catalogue.context)
    else:
        connection = http.client.HTTPConnection(host, port)
    connection.sock = _Wire(connected, attempt)
    connection.request("GET", target, headers={**attempt.catalogue.headers, "Connection": "close"})
    response = connection.getresponse()
    body = _body(response, attempt) if response.status == 200 else b""
    return _Answer(response.status, response.reason, {key.lower(): value for key, value in response.getheaders()}, body)


def _body(response: http.client.HTTPResponse, attempt: _Attempt) -> bytes:
    """The body of `response`, complete and not too large."""
    announced = response.length
    if announced is not None and announced > MOST_BYTES:
        raise _too_large(attempt, "%d bytes" % announced)
    pieces: List[bytes] = []
    size = 0
    try:
        while announced is None or size < announced:
            attempt.doing = "the answer was not complete, %d bytes%s had come" % (size, "" if announced is None else " of %d" % announced)
            piece = response.read1(_CHUNK if announced is None else min(_CHUNK, announced - size))
            if not piece:
                break
            pieces.append(piece)
            size += len(piece)
            if size > MOST_BYTES:
                raise _too_large(attempt, "more than %d bytes" % MOST_BYTES)
    except http.client.IncompleteRead as error:
        raise _truncated(attempt, size + len(error.partial), announced) from error
    if announced is not None and size < announced:
        raise _truncated(attempt, size, announced)
    return b"".join(pieces)


def _too_large(attempt: _Attempt, size: str) -> CatalogueError:
    return CatalogueError(
        "catalogue-large",
        "%s: the answer has %s, at most %d are taken" % (attempt.url, size, MOST_BYTES),
        "this is hardly a catalogue of CDEs: are host and port right? Try: %s" % attempt.catalogue.try_it(attempt.url),
    )


def _truncated(attempt: _Attempt, size: int, announced: Optional[int]) -> CatalogueError:
    return CatalogueError(
        "catalogue-truncated",
        "%s: the answer ends after %d bytes%s" % (attempt.url, size, "" if announced is None else " of %d" % announced),
        "does something between here and the catalogue cut connections? Try: %s" % attempt.catalogue.try_it(attempt.url),
        again=True,
    )


# --- one attempt -------------------------------------------------------------------------------------------------------


def _fetch(catalogue: Catalogue, url: str) -> Tuple[bytes, str]:
    """The body at `url` and its content type, in one attempt. Raises `CatalogueError`."""
    attempt = _Attempt(catalogue, url)
    for _unused in range(MOST_REDIRECTS + 1):
        try:
            answer = _exchange(attempt)
        except socket.timeout as error:
            raise attempt.too_slow() from error
        except http.client.BadStatusLine as error:
            raise _no_http(error, attempt) from error
        except ssl.SSLError as error:
            raise _no_tls(error, attempt) from error
        except (http.client.HTTPException, ValueError) as error:
            raise CatalogueError(
                "catalogue-protocol",
                "%s: the answer breaks the rules of HTTP: %s" % (attempt.url, _short(str(error) or type(error).__name__)),
                "try: %s" % catalogue.try_it(attempt.url),
            ) from error
        except OSError as error:
            words = error.strerror or str(error)
            if error.errno in (errno.ECONNRESET, errno.EPIPE):
                words = "the connection was cut (%s)" % words
            raise CatalogueError(
                "catalogue-unreachable", "%s: %s" % (attempt.url, words), "try: %s" % catalogue.try_it(attempt.url), again=True
            ) from error
        if answer.status in (301, 302, 303, 307, 308):
            attempt.url = _redirected(attempt, answer)
            continue
        if answer.status != 200:
            raise _refused(attempt, answer)
        if answer.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            raise CatalogueError(
                "catalogue-protocol",
                "%s: the answer is compressed (%s), which was not asked for" % (attempt.url, _short(answer.headers["content-encoding"])),
                "try: %s" % catalogue.try_it(attempt.url),
            )
        return answer.body, answer.headers.get("content-type", "")
    raise CatalogueError(
        "catalogue-redirect",
        "%s: more than %d redirections" % (url, MOST_REDIRECTS),
        "try: %s" % catalogue.try_it(url).replace("curl -v", "curl -vL", 1),
    )


def _no_http(error: http.client.BadStatusLine, attempt: _Attempt) -> CatalogueError:
    if isinstance(error, http.client.RemoteDisconnected):
        return CatalogueError(
            "catalogue-unreachable",
            "%s: the server closed the connection without an answer" % attempt.url,
            "try: %s" % attempt.catalogue.try_it(attempt.url),
            again=True,
        )
    tls = attempt.url.startswith("http:") and str(error)[:1] == "\x15"
    return CatalogueError(
        "catalogue-protocol",
        "%s: what listens there does not answer as a web server does%s" % (attempt.url, ", it speaks TLS" if tls else ""),
        "give protocol https" if tls else "are host and port right? Try: %s" % attempt.catalogue.try_it(attempt.url),
    )


def _redirected(attempt: _Attempt, answer: _Answer) -> str:
    """Where `answer` leads, if that is the same server: headers may hold a secret, and names are what TLS verifies."""
    location = answer.headers.get("location", "")
    old = urlsplit(attempt.url)
    try:
        new = urlsplit(urljoin(attempt.url, location))
        port = new.port or PORTS.get(new.scheme, 0)
    except ValueError:
        new, port = urlsplit(""), 0
    same = new.scheme == old.scheme and port == (old.port or PORTS[old.scheme])
    upgraded = (old.scheme, new.scheme) == ("http", "https")
    if not location or new.hostname != old.hostname or not (same or upgraded) or new.username:
        host = new.netloc.rpartition("@")[2]
        raise CatalogueError(
            "catalogue-redirect",
            "%s: HTTP %d leads to %s, and only redirections on the same server are followed"
            % (attempt.url, answer.status, _short(location) or "nowhere"),
            "if that is where the catalogue is now, give protocol %s and host %s" % (new.scheme, _short(host))
            if new.scheme in PORTS and new.hostname
            else "try: %s" % attempt.catalogue.try_it(attempt.url),
        )
    path = quote(new.path or "/", safe="/%:=&~+!$,;'@()*[]")
    query = quote(new.query, safe="/%:=&?~+!$,;'@()*[]")
    return _origin(new.scheme, str(new.hostname), port) + path + ("?" + query if query else "")


def _refused(attempt: _Attempt, answer: _Answer) -> CatalogueError:
    """The server answered with a status that gives no CDE."""
    status = answer.status
    what = "%s: HTTP %d%s" % (attempt.url, status, " (%s)" % _short(answer.reason) if answer.reason else "")
    look = attempt.catalogue.try_it(attempt.url)
    if status in (401, 403):
        return CatalogueError("catalogue-auth", what + ": the catalogue wants other credentials", "give them in headers. Try: " + look)
    if status == 407:
        return CatalogueError("catalogue-auth", what + ": a proxy on the way wants credentials", "ask for a way without it. Try: " + look)
    if status in (404, 410):
        return CatalogueError(
            "catalogue-absent",
            what + ": the catalogue has no CDEs of that pathology",
            "is the folder named as the pathology is there? Otherwise keep its CDEsMetadata.json on the master. Try: " + look,
        )
    if status == 429:
        after = _retry_after(answer.headers.get("retry-after", ""))
        return CatalogueError("catalogue-busy", what + ": too many requests", "wait, then run again", again=True, after=after)
    if status in (408, 500, 502, 503, 504):
        after = _retry_after(answer.headers.get("retry-after", ""))
        return CatalogueError(
            "catalogue-server", what + ": the catalogue itself has a problem", "wait, or tell whoever runs it. Try: " + look, True, after
        )
    return CatalogueError("catalogue-status", what + ": that is no answer of a catalogue", "are host and port right? Try: " + look)


def _retry_after(text: str) -> float:
    """Seconds in a Retry-After header (RFC 9110: a number, or a date), at most `LONGEST_RETRY_AFTER`."""
    text = text.strip()
    seconds = 0.0
    if re.match(r"^[0-9]{1,9}\Z", text):
        seconds = float(text)
    elif text:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            seconds = 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


def _short(text: str) -> str:
    """`text` from the other side, fit for a message."""
    return _UNPRINTABLE.sub("?", text)[:200]


# --- what the answer holds ---------------------------------------------------------------------------------------------


def interpret(body: bytes, pathology: str, url: str, content_type: str = "") -> Tuple[bytes, str]:
    """The CDEs of `pathology` in an answer, as the bytes of a file, and its shape.

    The answer is the CDEs themselves, or `{"jsonString": "<the CDEs as a text>"}`. Raises `CatalogueError`.
    """
    kind = content_type.partition(";")[0].strip().lower()
    hint = ", and it says that it is %s" % _short(kind) if kind and "json" not in kind else ""
    fix = "are host and port those of the catalogue's API? Otherwise tell whoever runs it. Try: curl %s" % shlex.quote(url)
    if not body.strip():
        raise CatalogueError("catalogue-empty", "%s: the answer is empty" % url, fix)
    content, shape = body, PLAIN
    try:
        outer = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        outer = None  # whatever is wrong, the reader of CDEs says where
    if isinstance(outer, dict) and "jsonString" in outer:
        shape = WRAPPED
        if not isinstance(outer["jsonString"], str):
            raise CatalogueError("catalogue-json", "%s: the value of jsonString is not a text" % url, fix)
        try:
            content = outer["jsonString"].encode("utf-8")
        except UnicodeEncodeError as error:
            text = "%s: the text in jsonString has half of a surrogate pair at character %d" % (url, error.start + 1)
            raise CatalogueError("catalogue-json", text, fix) from error
        if not content.strip():
            raise CatalogueError("catalogue-empty", "%s: the text in jsonString is empty" % url, fix)
    where = "%s: in the answer" % url if shape == PLAIN else "%s: in the text of jsonString" % url
    try:
        cdes = _cdes.parse(content)
    except _cdes.CdesError as error:
        raise CatalogueError("catalogue-json", "%s, %s%s" % (where, error, hint), fix) from error
    if cdes.code not in (pathology, "root"):
        code = _short(cdes.code)
        raise CatalogueError(
            "catalogue-pathology",
            "%s: the answer has the code %r, not %r: it is of another pathology, or no CDEs at all%s" % (url, code, pathology, hint),
            "does the folder have the pathology's code as its name? Otherwise tell whoever runs the catalogue",
        )
    if cdes.errors:
        lines = ["line %d, column %d: %s" % (found.line, found.column, found.message) for found in cdes.errors[:MOST_FINDINGS]]
        more = len(cdes.errors) - len(lines)
        raise CatalogueError(
            "catalogue-cdes",
            "%s the CDEs break the rules: %s%s" % (where, "; ".join(lines), "; and %d more" % more if more else ""),
            "tell whoever runs the catalogue",
        )
    return content, shape


# --- asking ------------------------------------------------------------------------------------------------------------


def ask(
    catalogue: Catalogue,
    pathology: str,
    pause: Callable[[float], None] = time.sleep,
    chance: Callable[[], float] = random.random,
) -> Found:
    """The CDEs of `pathology`, in as many attempts as needed and allowed. Raises `CatalogueError`.

    Between attempts it waits twice as long as before, from half to one and a half of that by `chance`, and at least as long
    as the server asks for.
    """
    url = catalogue.url(pathology)
    began = time.monotonic()
    for attempt in range(1, catalogue.retries + 2):
        try:
            body, content_type = _fetch(catalogue, url)
            content, shape = interpret(body, pathology, url, content_type)
            seconds = round(time.monotonic() - began, 3)
            return Found(content, hashlib.sha256(content).hexdigest(), url, shape, seconds, attempt)
        except CatalogueError as error:
            if not error.again or attempt > catalogue.retries:
                if attempt > 1:
                    error.message += " (attempt %d)" % attempt
                raise
            wait = min(catalogue.backoff * 2 ** (attempt - 1), LONGEST_PAUSE) * (0.5 + chance())
            pause(max(wait, error.after))
    raise AssertionError("unreachable")


def ask_all(catalogue: Catalogue, pathologies: Sequence[str]) -> Tuple[Dict[str, Found], List[Dict[str, str]]]:
    """The CDEs of each of `pathologies` that the catalogue gives, and a problem for each other one, in their order."""
    names = list(dict.fromkeys(pathologies))
    found: Dict[str, Found] = {}
    problems: List[Dict[str, str]] = []

    def one(name: str) -> Union[Found, CatalogueError]:
        try:
            return ask(catalogue, name)
        except CatalogueError as error:
            return error

    with ThreadPoolExecutor(max_workers=MOST_CALLS) as pool:
        for name, answer in zip(names, pool.map(one, names)):
            if isinstance(answer, Found):
                found[name] = answer
            else:
                problems.append({"code": answer.code, "pathology": name, "message": answer.message, "fix": answer.fix})
    return found, problems
