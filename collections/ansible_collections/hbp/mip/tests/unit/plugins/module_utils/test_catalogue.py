# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Asking a real server on this machine, which answers rightly, wrongly, slowly, or not at all."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.hbp.mip.plugins.module_utils import _catalogue
from ansible_collections.hbp.mip.plugins.module_utils._catalogue import Catalogue, CatalogueError, Found, OptionError
from ansible_collections.hbp.mip.tests.helpers.https import Authority, Request, site

SAMPLES = Path(__file__).resolve().parents[8] / "tests" / "samples"
DATASET = {"code": "dataset", "label": "Dataset", "sql_type": "text", "isCategorical": True, "type": "nominal", "enumerations": []}


def cdes(code: str = "tbi", **changes: Any) -> bytes:
    """A small CDE file with a non-ASCII label."""
    enumerations = [{"code": "ds1", "label": "Étude 1"}]
    tree = {"code": code, "label": "TBI", "version": "1", "variables": [{**DATASET, "enumerations": enumerations}], **changes}
    return json.dumps(tree, indent=2, ensure_ascii=False).encode() + b"\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that the clients here trust."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Path:
    """A certificate for every name of this machine that the tests use."""
    return authority.issue("localhost", "127.0.0.1", "::1")


def catalogue(host: str, ca: Authority | None = None, **changes: Any) -> Catalogue:
    """A catalogue with short times."""
    options = {
        "protocol": "https" if ca else "http", "host": host, "pathologies": [], "ca_file": str(ca.file) if ca else "", "verify": True,
        "timeout": 10.0, "retries": 0, "backoff": 0.0, "headers": {}, **changes,
    }  # fmt: skip
    return _catalogue.make_catalogue(options)


def refused(wanted: Catalogue, pathology: str = "tbi", **how: Any) -> CatalogueError:
    """The error of a question that must fail."""
    with pytest.raises(CatalogueError) as caught:
        _catalogue.ask(wanted, pathology, **how)
    error = caught.value
    assert wanted.base in error.message
    assert error.fix
    return error


def always(body: bytes = b"", status: int = 200, **headers: str) -> Callable[[Request], None]:
    """The same answer to everything."""
    return lambda request: request.answer(body, status, **headers)


# --- what works ----------------------------------------------------------------------------------------------------------


def test_plain_and_wrapped(authority: Authority, certificate: Path) -> None:
    """Both shapes give the same bytes, to the letter."""
    content = cdes()
    for body, shape in ((content, "plain"), (json.dumps({"jsonString": content.decode()}).encode(), "wrapped")):
        with site(always(body), certificate) as here:
            found = _catalogue.ask(catalogue(here.at("localhost"), authority), "tbi")
        url = f"https://localhost:{here.port}/pathology/allPathologies/tbi/latest_cde_version"
        assert found[:4] == (content, hashlib.sha256(content).hexdigest(), url, shape)
        assert found.attempts == 1
        assert here.requests[0].path == "/pathology/allPathologies/tbi/latest_cde_version"
        headers = here.requests[0].headers
        assert headers["host"] == here.at("localhost")
        assert (headers["content-type"], headers["x-requested-with"]) == ("application/json", "XMLHttpRequest")


@pytest.mark.parametrize("pathology", ["dementia", "mentalhealth", "tbi"])
def test_published_files(pathology: str) -> None:
    """The MIP's own files, plain and wrapped, with whatever content type."""
    content = (SAMPLES / pathology / "CDEsMetadata.json").read_bytes()
    wrapped = json.dumps({"jsonString": content.decode()}).encode()
    for body in (content, wrapped):
        with site(always(body, Content_Type="text/plain;charset=UTF-8")) as here:
            assert _catalogue.ask(catalogue(here.at()), pathology).content == content


def test_code_root_is_any_pathology() -> None:
    with site(always(cdes("root"))) as here:
        assert _catalogue.ask(catalogue(here.at()), "tbi").content == cdes("root")


def test_names_are_quoted() -> None:
    name = "a b/ü?#%..&"
    with site(always(cdes(name))) as here:
        assert _catalogue.ask(catalogue(here.at()), name).content == cdes(name)
        assert here.requests[0].path == "/pathology/allPathologies/a%20b%2F%C3%BC%3F%23%25..%26/latest_cde_version"


def test_ipv6(authority: Authority, certificate: Path) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists() or "lo" not in Path("/proc/net/if_inet6").read_text("ascii"):
        pytest.skip("no IPv6 here")
    with site(always(cdes()), certificate, address="::1") as here:
        found = _catalogue.ask(catalogue(here.at("[::1]"), authority), "tbi")
        assert found.url.startswith(f"https://[::1]:{here.port}/")
        assert here.requests[0].headers["host"] == f"[::1]:{here.port}"


def test_without_length() -> None:
    """The end of the connection is the end of the answer; so is the last chunk."""
    content = cdes()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (content[:10], content[10:])) + b"0\r\n\r\n"
    for head, body in ((b"HTTP/1.0 200 OK\r\n\r\n", content), (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunks)):
        with site(lambda request, raw=head + body: request.write(raw)) as here:  # type: ignore[misc]
            assert _catalogue.ask(catalogue(here.at()), "tbi").content == content


def test_own_headers_replace_ours() -> None:
    with site(always(cdes())) as here:
        headers = {"Authorization": "Bearer abc.def", "content-type": "application/x", "X-Number": 123456789}
        _catalogue.ask(catalogue(here.at(), headers=headers), "tbi")
        sent = here.requests[0].headers
        assert (sent["authorization"], sent["content-type"], sent["x-number"]) == ("Bearer abc.def", "application/x", "123456789")


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with site(always(cdes())) as here:
        assert _catalogue.ask(catalogue(here.at()), "tbi").attempts == 1


# --- all at once ---------------------------------------------------------------------------------------------------------


def test_all_at_once() -> None:
    """Parallel, but bounded; what fails does not keep the others back; order and doubles."""
    lock, now, most = threading.Lock(), 0, 0

    def behave(request: Request) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.2)
        with lock:
            now -= 1
        name = request.path.split("/")[3]
        request.answer(cdes(name), 404 if name == "p3" else 200)

    names = [f"p{number}" for number in range(20)]
    with site(behave) as here:
        began = time.monotonic()
        found, problems = _catalogue.ask_all(catalogue(here.at()), [*names, "p0"])
        assert time.monotonic() - began < 3.5
        assert len(here.requests) == 20
    assert most == _catalogue.MOST_CALLS
    assert list(found) == [name for name in names if name != "p3"]
    assert all(isinstance(item, Found) and item.content == cdes(name) for name, item in found.items())
    assert [(problem["code"], problem["pathology"]) for problem in problems] == [("catalogue-absent", "p3")]
    assert set(problems[0]) == {"code", "pathology", "message", "fix"}
    assert _catalogue.ask_all(catalogue("localhost:1"), []) == ({}, [])


# --- statuses and retries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "asked"),
    [
        (204, "catalogue-status", 1),
        (400, "catalogue-status", 1),
        (401, "catalogue-auth", 1),
        (403, "catalogue-auth", 1),
        (404, "catalogue-absent", 1),
        (407, "catalogue-auth", 1),
        (410, "catalogue-absent", 1),
        (408, "catalogue-server", 3),
        (429, "catalogue-busy", 3),
        (500, "catalogue-server", 3),
        (501, "catalogue-status", 1),
        (503, "catalogue-server", 3),
    ],
)
def test_statuses(status: int, code: str, asked: int) -> None:
    """Only what may pass is asked for again."""
    with site(always(b"", status)) as here:
        error = refused(catalogue(here.at(), retries=2))
    assert (error.code, len(here.requests)) == (code, asked)
    assert f"HTTP {status}" in error.message
    assert error.message.endswith(" (attempt 3)") == (asked > 1)


def test_error_then_answer() -> None:
    def behave(request: Request) -> None:
        request.answer(cdes(), 500 if request.number < 3 else 200)

    pauses: list[float] = []
    with site(behave) as here:
        found = _catalogue.ask(catalogue(here.at(), retries=5, backoff=1.0), "tbi", pause=pauses.append, chance=lambda: 0.5)
    assert found.attempts == 3
    assert pauses == [1.0, 2.0]


def test_pauses_grow_and_vary() -> None:
    for chance, wanted in ((0.0, [2, 4, 8, 15, 15]), (0.5, [4, 8, 16, 30, 30]), (1.0, [6, 12, 24, 45, 45])):
        pauses: list[float] = []
        with site(always(b"", 500)) as here:
            refused(catalogue(here.at(), retries=5, backoff=4.0), pause=pauses.append, chance=lambda: chance)  # noqa: B023
        assert pauses == wanted


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("7", 7, 7),
        (" 0 ", 0, 0),
        ("999999", 60, 60),
        ("-5", 0, 0),
        ("soon", 0, 0),
        # Their names must be the same in every process that runs a part of the tests.
        pytest.param(email.utils.formatdate(time.time() - 1000, usegmt=True), 0, 0, id="past"),
        pytest.param(email.utils.formatdate(time.time() + 100000, usegmt=True), 60, 60, id="future"),
        ("Wed, 99 Foo 2026 00:00:00 GMT", 0, 0),
        ("9" * 400, 0, 0),
    ],
)
def test_retry_after(text: str, least: float, most: float) -> None:
    for status in (429, 503):
        pauses: list[float] = []
        with site(lambda request, status=status: request.answer(b"", status, Retry_After=text)) as here:  # type: ignore[misc]
            refused(catalogue(here.at(), retries=1), pause=pauses.append)
        assert least <= pauses[0] <= most


# --- time ----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """The block takes no longer."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def drip(here: list[Any], head: bytes) -> Callable[[Request], None]:
    """Sends `head`, then a blank every 0.05 s."""

    def behave(request: Request) -> None:
        request.write(head)
        while not here[0].stopped.wait(0.05):
            request.write(b" ")

    return behave


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"HTTP/1.1 200 OK\r\nX-Slow: x", ": no answer after 0.6 s$"),
        (b"HTTP/1.1 200 OK\r\n\r\n", r": the answer was not complete, \d+ bytes had come after 0.6 s$"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", r": the answer was not complete, \d+ bytes of 99 had come after 0.6 s$"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n99\r\n", r"not complete, \d+ bytes had come after 0.6 s$"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9", r"not complete, 0 bytes had come after 0.6 s$"),
    ],
)
def test_dripping(authority: Authority, certificate: Path, head: bytes, words: str) -> None:
    """A byte now and then does not hold us: in the head, in the body, with and without TLS."""
    for ca, file in ((None, None), (authority, certificate)):
        holder: list[Any] = []
        with site(drip(holder, head), file) as here:
            holder.append(here)
            with within(6):
                error = refused(catalogue(here.at(), ca, timeout=0.6))
        assert error.code == "catalogue-timeout"
        assert re.search(words, error.message)


def test_silence_then_answer() -> None:
    def behave(request: Request) -> None:
        if request.number == 1:
            here.stopped.wait(10)
        else:
            request.answer(cdes())

    with site(behave) as here, within(6):
        assert _catalogue.ask(catalogue(here.at(), timeout=1.0, retries=1), "tbi").attempts == 2


def test_half_of_the_body_and_silence() -> None:
    def behave(request: Request) -> None:
        request.write(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b" " * 100000)
        here.stopped.wait(10)

    with site(behave) as here, within(6):
        error = refused(catalogue(here.at(), timeout=0.5))
    assert error.message.endswith("the answer was not complete, 100000 bytes of 200000 had come after 0.5 s")


def test_silent_handshake(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, within(6):
        error = refused(catalogue(f"127.0.0.1:{server.getsockname()[1]}", authority, timeout=0.5))
    assert error.code == "catalogue-timeout"
    assert "the TLS handshake was not finished after 0.5 s" in error.message


def test_no_connection_in_time() -> None:
    """A full queue of connections: the kernel drops what comes."""
    with socket.socket() as server, contextlib.ExitStack() as stack:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _unused in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        with within(6):
            error = refused(catalogue(f"127.0.0.1:{server.getsockname()[1]}", timeout=0.5))
    assert error.code == "catalogue-timeout"
    assert f"no connection to 127.0.0.1:{server.getsockname()[1] if server.fileno() != -1 else ''}" in error.message


def test_resolver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = threading.Event()

    def hang(*_args: Any, **_more: Any) -> list[Any]:
        gone.wait(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with within(6):
        error = refused(catalogue("catalogue.example.org", timeout=0.5))
    gone.set()
    assert error.code == "catalogue-timeout"
    assert "the name catalogue.example.org was not resolved after 0.5 s" in error.message


def test_second_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first address that does not answer leaves time for the next."""
    real = socket.getaddrinfo
    with site(always(cdes())) as here, socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.2", here.port))
        full.listen(0)
        for _unused in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())

        def both(_host: str, port: int, **more: Any) -> list[Any]:
            return [*real("127.0.0.2", port, **more), *real("127.0.0.1", port, **more)]

        monkeypatch.setattr(socket, "getaddrinfo", both)
        with within(6):
            assert _catalogue.ask(catalogue(here.at("localhost"), timeout=2.0), "tbi").attempts == 1


# --- no connection -------------------------------------------------------------------------------------------------------


def test_refused_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    pauses: list[float] = []
    error = refused(catalogue(f"127.0.0.1:{port}", retries=2), pause=pauses.append)
    assert error.code == "catalogue-refused"
    assert f"127.0.0.1 refuses connections to port {port}, so nothing listens there" in error.message
    assert f"curl -v http://127.0.0.1:{port}/pathology" in error.fix
    assert len(pauses) == 2


@pytest.mark.parametrize(("number", "asked"), [(socket.EAI_NONAME, 1), (socket.EAI_AGAIN, 3)])
def test_name_that_is_not_known(monkeypatch: pytest.MonkeyPatch, number: int, asked: int) -> None:
    calls: list[str] = []

    def fail(host: str, *_args: Any, **_more: Any) -> list[Any]:
        calls.append(host)
        raise socket.gaierror(number, "words of the resolver")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    error = refused(catalogue("no.such.host", retries=2))
    assert error.code == "catalogue-name"
    assert "the name no.such.host cannot be resolved: words of the resolver" in error.message
    assert "getent hosts no.such.host" in error.fix
    assert len(calls) == asked


def test_address_without_a_way() -> None:
    error = refused(catalogue("255.255.255.255:80"))
    assert error.code == "catalogue-unreachable"
    assert "255.255.255.255 cannot be reached: " in error.message


def test_connection_cut_before_the_answer() -> None:
    with site(lambda request: None) as here:
        error = refused(catalogue(here.at(), retries=1))
    assert error.code == "catalogue-unreachable"
    assert "the server closed the connection without an answer" in error.message
    assert len(here.requests) == 2


# --- TLS -----------------------------------------------------------------------------------------------------------------


def tls_error(file: Path, authority: Authority | None, name: str = "localhost", **changes: Any) -> CatalogueError:
    """The error of asking a server with the certificate in `file`; nothing may have been asked."""
    with site(always(cdes()), file) as here:
        error = refused(catalogue(here.at(name), authority, protocol="https", retries=3, **changes))
        assert here.requests == []
    assert error.code == "catalogue-tls"
    assert "(attempt" not in error.message
    assert f"openssl s_client -connect {name}:{here.port}" in error.fix
    return error


def test_expired(authority: Authority) -> None:
    error = tls_error(authority.issue("localhost", days=(-10, -2)), authority)
    assert "the server's certificate cannot be trusted: the certificate expired at 20" in error.message
    assert "certificate has expired" in error.message
    assert "clock of this host right" in error.fix


def test_not_yet_valid(authority: Authority) -> None:
    error = tls_error(authority.issue("localhost", days=(2, 10)), authority)
    assert "the certificate is valid only from 20" in error.message


def test_expired_authority(tmp_path: Path) -> None:
    old = Authority(tmp_path, days=(-30, -1))
    assert "that of its authority has expired" in tls_error(old.issue("localhost"), old).message


def test_other_host(authority: Authority) -> None:
    error = tls_error(authority.issue("other.example.org"), authority)
    assert "the server's certificate is not for localhost, but for other.example.org" in error.message
    assert "give host the name that is in the certificate" in error.fix
    error = tls_error(authority.issue("only.example.org", "localhost"), authority, name="127.0.0.1")
    assert "the server's certificate is not for 127.0.0.1" in error.message


def test_unknown_authority(authority: Authority, certificate: Path, tmp_path: Path) -> None:
    another = Authority(tmp_path, "Another CA")
    error = tls_error(another.issue("localhost"), authority)
    assert f"signed by an authority that is not in {authority.file}" in error.message
    assert "as ca_file" in error.fix
    error = tls_error(certificate, None)
    assert "signed by an authority that this host does not trust" in error.message


def test_verification_may_be_left_out(authority: Authority) -> None:
    with site(always(cdes()), authority.issue("localhost", days=(-10, -2))) as here:
        assert _catalogue.ask(catalogue(here.at(), authority, verify=False), "tbi").content == cdes()


def test_wrong_protocol(authority: Authority, certificate: Path) -> None:
    with site(always(cdes())) as here:
        error = refused(catalogue(here.at(), authority))
    assert error.code == "catalogue-tls"
    assert "what listens there does not speak TLS" in error.message
    assert "protocol http" in error.fix
    with socket.create_server(("127.0.0.1", 0)) as server:

        def shake() -> None:
            connection, _unused = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(bytes.fromhex("1503030002022f"))

        threading.Thread(target=shake, daemon=True).start()
        error = refused(catalogue(f"127.0.0.1:{server.getsockname()[1]}"))
    assert error.code == "catalogue-protocol"
    assert "it speaks TLS" in error.message
    assert error.fix == "give protocol https"


@contextlib.contextmanager
def handshake(context: ssl.SSLContext) -> Iterator[str]:
    """A server that does no more than a handshake; its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def shake() -> None:
            connection, _unused = server.accept()
            # A connection that is closed with something unread is reset, and the client would lose the alert that tells why.
            with connection.dup() as rest:
                with contextlib.suppress(OSError), connection, context.wrap_socket(connection, server_side=True) as secured:
                    secured.recv(1000)
                with contextlib.suppress(OSError):
                    rest.shutdown(socket.SHUT_WR)
                    while rest.recv(1000):
                        pass

        threading.Thread(target=shake, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls(authority: Authority, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with handshake(context) as address:
        error = refused(catalogue(address, authority))
    assert error.code == "catalogue-tls"
    assert "no TLS of at least version 1.2" in error.message


def test_certificate_of_the_client(authority: Authority, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.load_verify_locations(authority.file)
    context.verify_mode = ssl.CERT_REQUIRED
    with handshake(context) as address:
        error = refused(catalogue(address, authority))
    assert error.code == "catalogue-tls"
    assert "the server wants a certificate of the client" in error.message


# --- redirections --------------------------------------------------------------------------------------------------------


def test_redirect_on_the_same_server() -> None:
    def behave(request: Request) -> None:
        if request.path.startswith("/pathology"):
            request.answer(b"", 302, Location="/new place/ü?a=b c")
        elif request.path.startswith("/new"):
            request.answer(b"", 308, Location=f"http://{here.at()}/last")
        else:
            request.answer(cdes())

    with site(behave) as here:
        found = _catalogue.ask(catalogue(here.at(), headers={"Authorization": "Bearer abc.def"}), "tbi")
    assert found.content == cdes()
    assert [request.path for request in here.requests][2] == "/last"
    assert all(request.headers["authorization"] == "Bearer abc.def" for request in here.requests)


def test_redirect_to_https(authority: Authority, certificate: Path) -> None:
    with (
        site(always(cdes()), certificate) as safe,
        site(lambda request: request.answer(b"", 301, Location=f"https://{safe.at()}{request.path}")) as here,
    ):
        assert _catalogue.ask(catalogue(here.at(), authority, protocol="http"), "tbi").content == cdes()


def test_redirect_to_another_server(authority: Authority, certificate: Path) -> None:
    """Neither another name, nor another port, nor without TLS, nor anything that is no address."""
    with site(always(cdes())) as elsewhere:
        for location in (
            f"http://{elsewhere.at('localhost')}/x",
            f"http://{elsewhere.at()}/x",
            f"https://{elsewhere.at()}/x",
            "//localhost/x",
            "ftp://127.0.0.1/x",
            "http://127.0.0.1:99999/x",
            "http://[::1/x",
            "file:///etc/passwd",
            "",
        ):
            with site(lambda request, to=location: request.answer(b"", 302, Location=to), certificate) as here:  # type: ignore[misc]
                error = refused(catalogue(here.at(), authority, headers={"Authorization": "Bearer abc.def"}, retries=2))
            assert error.code == "catalogue-redirect"
            assert f"HTTP 302 leads to {location or 'nowhere'}, and only" in error.message
            assert "abc.def" not in error.message + error.fix
            assert len(here.requests) == 1
        assert elsewhere.requests == []


def test_redirect_for_ever() -> None:
    with site(always(b"", 302, Location="/again")) as here:
        error = refused(catalogue(here.at()))
    assert error.message.endswith("more than 5 redirections")
    assert len(here.requests) == 6


def test_redirects_share_the_time() -> None:
    def behave(request: Request) -> None:
        here.stopped.wait(0.3)
        request.answer(b"", 302, Location="/again")

    with site(behave) as here, within(6):
        assert refused(catalogue(here.at(), timeout=0.5)).code == "catalogue-timeout"


# --- answers that are none -----------------------------------------------------------------------------------------------


def body_error(body: bytes, pathology: str = "tbi", **headers: str) -> CatalogueError:
    """The error of an answer that is asked for only once."""
    with site(always(body, **headers)) as here:
        error = refused(catalogue(here.at(), retries=2), pathology)
        assert len(here.requests) == 1
    return error


def test_wrong_json() -> None:
    error = body_error(b'{\n  "code": "tbi",\n  "variables": [}\n')
    assert error.code == "catalogue-json"
    assert "in the answer, line 3, column 17: " in error.message
    inner = '{\n "code": "tbi" "label": ""}'
    error = body_error(json.dumps({"jsonString": inner}).encode())
    assert error.code == "catalogue-json"
    assert "in the text of jsonString, line 2, column 16: " in error.message
    for body in (b"[" * 100000, b"[]", b"null", b'"text"', b"\xff\xfe", cdes()[:-20]):
        assert body_error(body).code == "catalogue-json"


def test_web_page() -> None:
    error = body_error(b"<!DOCTYPE html><title>Log in</title>", Content_Type="text/html; charset=utf-8")
    assert error.code == "catalogue-json"
    assert "line 1, column 1" in error.message
    assert error.message.endswith(", and it says that it is text/html")


def test_empty() -> None:
    for body in (b"", b" \n ", b'{"jsonString": " "}', b'{"jsonString": ""}'):
        assert body_error(body).code == "catalogue-empty"


def test_wrapping_of_something_else() -> None:
    for value in (None, 1, ["x"], {"code": "tbi"}):
        error = body_error(json.dumps({"jsonString": value}).encode())
        assert (error.code, "the value of jsonString is not a text" in error.message) == ("catalogue-json", True)
    error = body_error(b'{"jsonString": "{\\ud800"}')
    assert "half of a surrogate pair at character 2" in error.message


def test_another_pathology() -> None:
    for body, shown in ((cdes("dementia"), "'dementia'"), (b'{"error": "no"}', "''"), (cdes("x\x1b[31m" + "y" * 999), "?[31m")):
        error = body_error(body)
        assert error.code == "catalogue-pathology"
        assert f"{shown}" in error.message
        assert len(error.message) < 600
        assert "\x1b" not in error.message


def test_cdes_that_break_the_rules() -> None:
    error = body_error(cdes(variables=[DATASET, DATASET, {"code": "age"}]))
    assert error.code == "catalogue-cdes"
    assert "in the answer the CDEs break the rules: line " in error.message
    many = body_error(cdes(variables=[DATASET, *({**DATASET, "code": f"v {number}"} for number in range(50))]))
    assert "; and 4" in many.message
    assert many.message.count("; ") == _catalogue.MOST_FINDINGS


def test_truncated() -> None:
    content = cdes()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content)
    with site(lambda request: request.write(head + content[:50])) as here:
        error = refused(catalogue(here.at(), retries=1))
    assert error.code == "catalogue-truncated"
    assert f"the answer ends after 50 bytes of {len(content)} (attempt 2)" in error.message
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for rest in (b"50\r\nshort", b"5\r\n12345\r\n"):
        with site(lambda request, rest=rest: request.write(chunked + rest)) as here:  # type: ignore[misc]
            assert refused(catalogue(here.at())).code == "catalogue-truncated"


def test_truncated_then_whole(authority: Authority, certificate: Path) -> None:
    def behave(request: Request) -> None:
        if request.number == 1:
            request.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
        else:
            request.answer(cdes())

    with site(behave, certificate) as here:
        assert _catalogue.ask(catalogue(here.at(), authority, retries=1), "tbi").attempts == 2


def test_too_large() -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"

    def flood(request: Request) -> None:
        request.write(head)
        for _unused in range(_catalogue.MOST_BYTES // 1000000 + 3):
            request.write(b" " * 1000000)

    with site(flood) as here:
        error = refused(catalogue(here.at(), retries=2, timeout=20.0))
    assert error.code == "catalogue-large"
    assert f"more than {_catalogue.MOST_BYTES} bytes" in error.message
    with site(lambda request: request.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")) as here:
        error = refused(catalogue(here.at()))
    assert "the answer has 99999999999 bytes" in error.message


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "catalogue-protocol"),
        (b"HTTP/1.1 abc OK\r\n\r\n", "catalogue-protocol"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100000 + b"\r\n\r\n", "catalogue-protocol"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", "catalogue-protocol"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "catalogue-truncated"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b", "catalogue-protocol"),
    ],
)
def test_no_web_server(raw: bytes, code: str) -> None:
    with site(lambda request: request.write(raw)) as here:
        assert refused(catalogue(here.at())).code == code


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.builds(lambda text: json.dumps({"jsonString": text}).encode(), st.text(max_size=100))))
def test_any_bytes_give_an_answer_or_an_error(body: bytes) -> None:
    with contextlib.suppress(CatalogueError):
        _catalogue.interpret(body, "tbi", "http://x")


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(cdes()) - 1), st.binary(max_size=4), st.booleans())
def test_damaged_files(at: int, new: bytes, wrap: bool) -> None:
    """Whatever is taken is bytes that came, and of the pathology."""
    content = cdes()[:at] + new + cdes()[at + len(new) :]
    body = json.dumps({"jsonString": content.decode("utf-8", "replace")}).encode() if wrap else content
    with contextlib.suppress(CatalogueError):
        taken, shape = _catalogue.interpret(body, "tbi", "http://x")
        assert shape == ("wrapped" if wrap else "plain")
        assert taken == (content.decode("utf-8", "replace").encode() if wrap else content)


# --- options -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "protocol", "wanted"),
    [
        ("catalogue.example.org", "https", ("catalogue.example.org", 443)),
        ("catalogue.example.org", "http", ("catalogue.example.org", 80)),
        ("Catalogue_1.example.org.:8443", "https", ("Catalogue_1.example.org.", 8443)),
        ("192.0.2.1:1", "https", ("192.0.2.1", 1)),
        ("[::1]", "https", ("::1", 443)),
        ("[2001:db8::1]:65535", "https", ("2001:db8::1", 65535)),
    ],
)
def test_hosts(text: str, protocol: str, wanted: tuple[str, int]) -> None:
    assert _catalogue.split_host(text, protocol) == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ""),
        ("https://c.example.org", "Leave out the protocol"),
        ("c.example.org/api", "Leave out the protocol"),
        ("user:secret@c", "Credentials belong into headers"),
        ("::1", "An IPv6 address stands in brackets"),
        ("2001:db8::1:8443", "An IPv6 address stands in brackets"),
        ("[::1", ""),
        ("[::1]8443", ""),
        ("[catalogue]:80", "is not an IPv6 address"),
        ("c:", "the port must be a number from 1 to 65535"),
        ("c:0", "the port must be a number from 1 to 65535"),
        ("c:65536", "the port must be a number from 1 to 65535"),
        ("c:٣", "the port must be a number from 1 to 65535"),
        ("c:http", "the port must be a number from 1 to 65535"),
        ("c d", ""),
        ("c\r\nX: y", ""),
        ("-c", ""),
        ("ünï", ""),
        ("a" * 64, ""),
        ("c..d", ""),
        ("c:80\n", "the port must be"),
    ],
)
def test_no_hosts(text: str, words: str) -> None:
    with pytest.raises(OptionError) as caught:
        _catalogue.split_host(text, "https")
    assert str(caught.value).startswith("host: ")
    assert "is not a name or an address with an optional port, such as" in str(caught.value)
    assert words in str(caught.value)


def test_other_options(tmp_path: Path) -> None:
    """Each is named, with what is wrong; no value of a header is shown."""
    empty = tmp_path / "empty.pem"
    empty.touch()
    for changes, words in (
        ({"timeout": 0.0}, "timeout: 0 is not from 0.1 to 600"),
        ({"timeout": float("nan")}, "timeout: nan is not from"),
        ({"retries": -1}, "retries: -1 is not from 0 to 20"),
        ({"backoff": 31.0}, "backoff: 31 is not from 0 to 30"),
        ({"ca_file": str(tmp_path / "none.pem")}, "ca_file: " + str(tmp_path / "none.pem") + ": No such file"),
        ({"ca_file": str(empty)}, f"ca_file: {empty} holds no certificates in PEM form"),
        ({"pathologies": ["a", ".."]}, "pathologies: '..' is not the name"),
        ({"headers": {"Host": "elsewhere.example.org"}}, "headers: 'Host' is not the name of a header that can be given"),
        ({"headers": {"X Y": "secret-secret"}}, "headers: 'X Y' is not the name"),
        ({"headers": {"X": "secret\r\nY: secret"}}, "headers.X: the value must be a text of printable"),
        ({"headers": {"X": None}}, "headers.X: the value must be a text"),
        ({"headers": {"X": "secret"}}, "headers.X: the value has fewer than 8 characters"),
    ):
        with pytest.raises(OptionError) as caught:
            catalogue("c", **changes)  # type: ignore[arg-type]
        assert words in str(caught.value)
        assert "secret" not in str(caught.value)
