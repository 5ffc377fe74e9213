# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The portal of a lab in a real browser: a federated result, the login at a real Keycloak, TLS, a reverse proxy.

MIP_SCREENSHOTS is a folder in which pictures of the pages are kept, such as docs/images.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from keycloak import KeycloakAdmin

from ansible_collections.hbp.mip.tests.helpers.engines import unpacked, wait_for

from .conftest import INVENTORY, LAB, ROOT, Lab

sync_api = pytest.importorskip("playwright.sync_api", reason="uv sync --group browser")

pytestmark = pytest.mark.in_order
UI = f"{LAB}-ui"
USER, PASSWORD = "researcher", "a long pass phrase, 'quoted' & \"more\" <äß>"
#: An analysis on a machine with better things to do.
PATIENCE = 180_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium."""
    with sync_api.sync_playwright() as playwright:
        # Chromium refuses to run as root inside its own sandbox.
        started = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page of a browser that knows nothing yet. An error in its console fails the test, unless the test expects one."""
    context = browser.new_context(ignore_https_errors=True, viewport={"width": 1000, "height": 800}, locale="en-GB")
    context.set_default_timeout(60_000)
    opened = context.new_page()
    opened.said = []
    opened.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.on("console", lambda message: opened.said.append(message.text) if message.type == "error" else None)
    yield opened
    context.close()
    assert opened.said == []


def keep(page: Any, name: str) -> None:
    """Keep a picture of the page where somebody wants one."""
    if folder := os.environ.get("MIP_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def address(lab: Lab) -> str:
    """Where the portal is, without a proxy."""
    return f"http://{lab.hosts[UI]}/"


def analyse(page: Any) -> dict[str, list[str]]:
    """Run the statistic on every dataset of the pathology that is chosen. Returns the table's rows by dataset."""
    page.wait_for_selector("#question", state="visible")
    datasets = page.eval_on_selector_all("input[name=dataset]", "boxes => boxes.map(box => box.value)")
    assert page.eval_on_selector_all("input[name=dataset]:checked", "boxes => boxes.length") == len(datasets)
    page.click("#run")
    page.wait_for_selector("#result:not([hidden]), #message:not([hidden])", timeout=PATIENCE)
    assert not page.inner_text("#message")
    rows = page.eval_on_selector_all("#table tr", "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))")
    found = {row[0]: row[1:] for row in rows[1:]}
    assert set(found) == set(datasets)
    assert page.locator("#chart svg rect").count() == len(datasets)
    return found


def expect_only(page: Any, pattern: str) -> None:
    """The console has errors, and only such as the test provokes."""
    assert page.said
    assert all(re.search(pattern, said) for said in page.said), page.said
    page.said.clear()


def test_a_dataset_of_each_hospital_and_one_federated_result(portal: Lab, page: Any) -> None:
    """Chosen and computed in the browser; the numbers are those of the engine."""
    portal.run("deploy", "-y")
    portal.run("data", "consolidate", "-y")
    portal.run("data", "compile", "-y")
    assert portal.all_active()
    page.goto(address(portal))
    rows = analyse(page)
    pathology, variable = page.input_value("#pathology"), page.input_value("#variable")
    # Every hospital has one of them.
    held = portal.api("LIST_DATASET")
    assert all(set(held[worker][pathology]) & set(rows) for worker in portal.workers), held
    answer = portal.api("DESCRIPTIVE_STATS", y=variable, dataset=",".join(rows), pathology=pathology, filter="")
    engine = next(iter(answer["result"][0]["data"]["single"].values()))
    for dataset, numbers in engine.items():
        # A dataset of few rows tells nothing, and the page says so.
        assert ("NOT ENOUGH DATA" if numbers["num_datapoints"] is None else str(numbers["num_datapoints"])) in rows[dataset]
    keep(page, "portal")


def test_what_is_missing_is_said(portal: Lab, page: Any) -> None:
    """No dataset chosen; then another pathology, on a small screen."""
    page.goto(address(portal))
    page.wait_for_selector("#question", state="visible")
    for box in page.locator("input[name=dataset]").all():
        box.uncheck()
    page.click("#run")
    assert page.inner_text("#message") == "Choose at least one dataset."
    page.set_viewport_size({"width": 360, "height": 640})
    codes = page.eval_on_selector_all("#pathology option", "options => options.map(option => option.value)")
    assert len(codes) > 1
    page.select_option("#pathology", codes[1])
    analyse(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_backend_that_is_away(portal: Lab, page: Any) -> None:
    """The page says so, before and in the middle, and works again afterwards without being loaded anew."""
    page.goto(address(portal))
    page.wait_for_selector("#question", state="visible")
    portal.run("ui", "stop", "backend", "--reason", "test", "-y")
    try:
        page.click("#run")
        page.wait_for_selector("#message", state="visible")
        assert "backend does not answer" in page.inner_text("#message")
        other = page.context.new_page()
        other.goto(address(portal))
        other.wait_for_selector("#message", state="visible")
        assert "backend does not answer" in other.inner_text("#message")
        assert other.is_hidden("#question")
        keep(other, "portal-away")
        other.close()
    finally:
        portal.run("ui", "start")
    expect_only(page, "status of 502")
    analyse(page)
    assert page.is_hidden("#message")


@pytest.fixture(scope="module")
def realm(machines: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeycloakAdmin]:
    """The federation's realm with its roles and one researcher; the portal asks for a login. Taken back afterwards."""
    vault = tmp_path_factory.mktemp("vault") / "password"
    vault.write_text(secrets.token_urlsafe())
    vault.chmod(0o600)
    machines.environment["MIPFED_VAULT_PASSWORD_FILE"] = str(vault)
    password_file = Path(f"/var/lib/mip-lab/{LAB}/keycloak/admin-password")
    machines.run("keycloak", "prepare", "--create-realm", "--admin-password-file", str(password_file), "-y")
    machines.run("keycloak", "sync", "-y")
    assert machines.json("keycloak", "sync", "-y")["result"]["changed"] == 0
    settings = yaml.safe_load((INVENTORY / "group_vars/all/keycloak.yml").read_text())["mip_keycloak"]
    admin = KeycloakAdmin(
        server_url=settings["url"], username="admin", password=password_file.read_text().strip(),
        realm_name=settings["realm"], user_realm_name="master", timeout=120,
    )  # fmt: skip
    credentials = [{"type": "password", "value": PASSWORD, "temporary": False}]
    who = {"username": USER, "enabled": True, "email": "r@example.org", "emailVerified": True, "firstName": "R", "lastName": "S"}
    user = admin.create_user({**who, "credentials": credentials}, exist_ok=True)
    group = next(entry for entry in admin.get_groups() if entry["name"] == f"{LAB.upper()}_PROCESSOR")
    admin.group_user_add(user, group["id"])
    machines.run("ui", "configure", "--with-authentication")
    machines.run("deploy", "-y")
    yield admin
    machines.run("ui", "configure", "--without-authentication")
    machines.run("deploy", "-y")
    (INVENTORY / "group_vars/all/keycloak_vault.yml").unlink()
    del machines.environment["MIPFED_VAULT_PASSWORD_FILE"]


def log_in(page: Any, where: str, password: str = PASSWORD) -> None:
    """From the portal to Keycloak's form."""
    page.goto(where)
    page.click("#login")
    page.fill("#username", USER)
    page.fill("#password", password)
    page.click("#kc-login")


def test_login_analysis_and_logout(portal: Lab, realm: KeycloakAdmin, page: Any) -> None:
    """The real Keycloak's form; a wrong password stays there; after the logout nothing is shown any more."""
    log_in(page, address(portal), secrets.token_hex(8))
    page.get_by_text("Invalid username or password").first.wait_for()
    assert page.url.startswith(realm.connection.server_url)
    keep(page, "portal-login")
    page.fill("#password", PASSWORD)
    page.click("#kc-login")
    page.wait_for_selector("#logout")
    assert page.url == address(portal)
    assert page.inner_text("#user").startswith(f"User: {USER}")
    cookies = {cookie["name"]: cookie for cookie in page.context.cookies(address(portal))}
    assert cookies["mip_session"]["httpOnly"]
    assert cookies["mip_session"]["sameSite"] == "Lax"
    analyse(page)
    audited = portal.json("ui", "audit")["result"]["experiments"]
    assert USER in [entry["who"] for entry in audited]
    page.click("#logout")
    page.wait_for_selector("#login")
    assert page.is_hidden("#question")
    # At Keycloak, too: it asks for the password again.
    page.click("#login")
    page.wait_for_selector("#password")
    expect_only(page, "status of 401|status of 400")


def test_a_login_that_is_over(portal: Lab, realm: KeycloakAdmin, page: Any) -> None:
    """Is said where the next question is asked, and the way back is one click."""
    before = realm.get_realm(realm.connection.realm_name)["accessTokenLifespan"]
    realm.update_realm(realm.connection.realm_name, {"accessTokenLifespan": 20})
    try:
        log_in(page, address(portal))
        page.wait_for_selector("#logout")
        deadline = time.monotonic() + 120
        while page.is_hidden("#login"):
            assert time.monotonic() < deadline
            page.evaluate("ask('activeUser').catch(error => show(error.message))")
        assert page.inner_text("#message") == "You are not logged in, or your login is over."
        assert page.is_hidden("#question")
    finally:
        realm.update_realm(realm.connection.realm_name, {"accessTokenLifespan": before})
    page.click("#login")
    page.wait_for_selector("#logout")
    expect_only(page, "status of 401")


def certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """A certificate for an address, and its key."""
    made, key = folder / "certificate.pem", folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        f"/CN={host}",
    ]
    subprocess.run([*command, "-addext", f"subjectAltName=IP:{host}", "-out", made, "-keyout", key], check=True, capture_output=True)
    return made, key


@pytest.fixture
def nginx(portal: Lab, tmp_path: Path) -> Iterator[str]:
    """A reverse proxy with the very configuration that docs/ui.md shows. Yields its address."""
    outside = portal.hosts[UI].rpartition(".")[0] + ".1"
    made, key = certificate(tmp_path, outside)
    shown = re.search(r"```\n(server \{.*?\n\})\n```", (ROOT / "docs/ui.md").read_text(), re.DOTALL)
    assert shown
    server = shown[1].replace("mip.hosp.example;           #", f"{portal.hosts[UI]}; #").replace("mip.hosp.example", outside)
    for old, new in {
        "listen 443": f"listen {outside}:443",
        "/etc/ssl/mip/certificate.pem": made,
        "/etc/ssl/mip/key.pem": key,
        "192.0.2.12": portal.hosts[UI],
    }.items():
        assert old in server
        server = server.replace(old, str(new))
    temporary = "".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(
        f"daemon off; pid {tmp_path}/nginx.pid; error_log stderr; user root; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{server}\n}}\n"
    )
    program = unpacked("nginx", ["nginx"]) / "usr/sbin/nginx"
    process = subprocess.Popen([program, "-c", configuration], stderr=(tmp_path / "nginx.log").open("w"))
    try:
        wait_for(lambda: answers(outside), 60, "nginx")
        yield outside
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(60)


def answers(host: str) -> str:
    """The certificate that a host shows, when it does."""
    with contextlib.suppress(OSError):
        return ssl.get_server_certificate((host, 443), timeout=5)
    return ""


def test_behind_a_reverse_proxy(portal: Lab, realm: KeycloakAdmin, nginx: str, page: Any) -> None:
    """Proxied: browsers speak https with nginx, the login comes back there, and the session's cookie is for https only."""
    outside = f"https://{nginx}/"
    settings = yaml.safe_load((INVENTORY / "group_vars/all/keycloak.yml").read_text())["mip_keycloak"]
    portal.variables(mip_keycloak={**settings, "redirect_uris": [f"{outside}services/sso/login"], "post_logout_redirect_uris": [outside]})
    portal.run("ui", "configure", "--link", "proxied", "--external-protocol", "https")
    portal.run("keycloak", "sync", "-y")
    portal.run("deploy", "-y")
    log_in(page, outside)
    page.wait_for_selector("#logout")
    assert page.url == outside
    assert next(cookie for cookie in page.context.cookies(outside) if cookie["name"] == "mip_session")["secure"]
    analyse(page)
    page.click("#logout")
    page.wait_for_selector("#login")
    assert page.url == outside
    expect_only(page, "status of 401")


def test_a_given_certificate(portal: Lab, page: Any, tmp_path: Path) -> None:
    """The frontend shows it, and sends those who come with http there; it is renewed by a deploy."""
    host = portal.hosts[UI]
    ui = INVENTORY / "group_vars/all/ui.yml"
    for run in ("first", "renewed"):
        made, key = certificate(tmp_path, host)
        values = yaml.safe_load(ui.read_text())
        values["mip_ui"] |= {
            "link": "direct", "public_protocol": "https", "certificate": str(made), "certificate_key": str(key), "authentication": False
        }  # fmt: skip
        ui.write_text(yaml.safe_dump(values))
        portal.run("deploy", "-y")
        assert portal.json("deploy", "-y")["result"]["changed"] == 0
        assert answers(host).strip() == made.read_text().strip(), run
    page.goto(address(portal))
    assert page.url == f"https://{host}/"
    analyse(page)
    mode = portal.ssh(UI, f"stat -c '%a %u' $(docker inspect -f '{{{{range .Mounts}}}}{{{{.Source}}}} {{{{end}}}}' {LAB}_portal-frontend"
                          " | tr ' ' '\\n' | grep -- -tls$)/key.pem")  # fmt: skip
    assert mode.split()[0] in ("400", "600", "640", "440")
