# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of the web portal: the legacy platform's truth table, and what reaches which container."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.hbp.mip.plugins.filter.portal_containers import portal_containers
from ansible_collections.hbp.mip.plugins.plugin_utils import _federation, _portal, _portal_reports

HARD = "p'\"$(id)`x` \\n;|&<>#%=*?!~ äß"
KEYCLOAK = {"url": "https://iam.example.org/auth", "realm": "MIP", "client_id": "mipfed"}
DIGEST = f"sha256:{'0' * 64}"


def settings(**more: Any) -> dict[str, Any]:
    """`mip_ui` with the defaults of the schema."""
    spec = {"mip_ui": _federation.schema()["main"]["mip_ui"]}
    found = ArgumentSpecValidator(spec).validate({"mip_ui": {"enabled": True, "public_host": "mip.example.org", **more}})
    assert not found.error_messages, found.error_messages
    values: dict[str, Any] = found.validated_parameters["mip_ui"]
    return values


def federation(keycloak: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A resolved federation, as far as the portal needs it."""
    return {
        "name": "hosp",
        "portal_dir": "/var/lib/mip/hosp/portal",
        "engine": {"image": "hbpmip/exareme:24.5.1", "port": 9090},
        "docker": {"log_max_size": "5m", "log_max_files": 2},
        "keycloak": keycloak or KEYCLOAK,
        "ui": settings(**more),
        "images": {"file": "images.lock", "locked": True, "entries": [{"reference": "hbpmip/gateway:1.0.2", "digest": DIGEST}]},
        "nodes": [
            {"name": "hosp-ms", "kind": "master", "address": "192.0.2.11"},
            {"name": "hosp-ui", "kind": "ui", "address": "192.0.2.12"},
        ],
    }


def made(keycloak: dict[str, Any] | None = None, secret: str = "", **more: Any) -> dict[str, dict[str, Any]]:
    """The containers, by component."""
    return {item["component"]: item for item in portal_containers(federation(keycloak, **more), "hosp-ui", secret)}


# The legacy platform: direct forces https outside, proxied keeps what was given.
@pytest.mark.parametrize(
    ("link", "public", "external", "expected", "opened"),
    [
        ("direct", "https", "https", "https", "https"),
        ("direct", "https", "http", "https", "https"),
        ("direct", "http", "https", "https", "http"),
        ("direct", "http", "http", "https", "http"),
        ("proxied", "https", "https", "https", "https"),
        ("proxied", "https", "http", "http", "http"),
        ("proxied", "http", "https", "https", "https"),
        ("proxied", "http", "http", "http", "http"),
    ],
)
def test_link_and_protocols_reach_the_frontend(link: str, public: str, external: str, expected: str, opened: str) -> None:
    """All of them, also *proxied*, which the legacy platform did not hand on."""
    more = {"link": link, "public_protocol": public, "external_protocol": external}
    found = made(**more)["frontend"]["env"]
    assert {key: found[key] for key in ("MIP_LINK", "PUBLIC_MIP_PROTOCOL", "EXTERNAL_MIP_PROTOCOL", "PUBLIC_MIP_HOST")} == {
        "MIP_LINK": link,
        "PUBLIC_MIP_PROTOCOL": public,
        "EXTERNAL_MIP_PROTOCOL": expected,
        "PUBLIC_MIP_HOST": "mip.example.org",
    }
    assert _portal.address(settings(**more)) == f"{opened}://mip.example.org/"


# none only where Keycloak and everything relevant of the portal is http.
@pytest.mark.parametrize(
    ("keycloak", "link", "public", "external", "expected"),
    [
        ("http", "direct", "http", "https", "none"),
        ("http", "direct", "https", "http", "external"),
        ("http", "proxied", "http", "http", "none"),
        ("http", "proxied", "http", "https", "external"),
        ("http", "proxied", "https", "http", "external"),
        ("https", "direct", "http", "http", "external"),
        ("https", "proxied", "http", "http", "external"),
        ("https", "proxied", "https", "https", "external"),
    ],
)
def test_ssl_required(keycloak: str, link: str, public: str, external: str, expected: str) -> None:
    """What the backend demands of Keycloak."""
    server = {**KEYCLOAK, "url": f"{keycloak}://iam.example.org/auth"}
    found = made(server, link=link, public_protocol=public, external_protocol=external)["backend"]["env"]
    assert found["KEYCLOAK_SSL_REQUIRED"] == expected
    assert found["KEYCLOAK_AUTH_URL"] == f"{keycloak}://iam.example.org/auth/"


def test_without_authentication_nothing_of_keycloak_is_handed_on() -> None:
    """Not its secret either."""
    backend = made(secret=HARD, authentication=False)["backend"]
    assert backend["env"]["AUTHENTICATION"] == "0"
    assert not [key for key in backend["env"] if key.startswith("KEYCLOAK")]
    assert HARD not in str(backend)


def test_secrets_are_no_environment_and_no_defaults() -> None:
    """They are generated on the ui node, but the Keycloak client's, which comes from the vault unchanged."""
    found = made(secret=HARD, galaxy=True)
    given = [secret for item in found.values() for secret in item.get("secrets", ()) if secret.get("value")]
    assert given == [{"name": "KEYCLOAK_CLIENT_SECRET", "value": HARD, "environment": True}]
    for item in found.values():
        assert HARD not in str(item.get("env"))
        assert not [key for key in item.get("env", {}) if "PASSWORD" in key and not key.endswith("_FILE")]
    ways = {secret["name"]: secret.get("generate") for item in found.values() for secret in item.get("secrets", ())}
    assert ways["POSTGRES_PASSWORD"] == ways["DB_ADMIN_PASSWORD"] == "database-admin"
    assert ways["PASSWORD4"] == ways["PORTAL_DB_PASSWORD"] == "database-portal"


def test_only_the_frontend_is_published() -> None:
    """Unless the inventory asks for more."""
    assert {name: item.get("ports") for name, item in made().items() if item.get("ports")} == {
        "frontend": [{"target": 80, "published": 80, "address": ""}, {"target": 443, "published": 443, "address": ""}]
    }
    found = made(publish=["backend", "gateway"], listen="192.0.2.12", public_protocol="http")
    assert found["backend"]["ports"] == [{"target": 8080, "published": 8080, "address": "192.0.2.12"}]
    assert found["gateway"]["ports"] == [{"target": 8081, "published": 8081, "address": "192.0.2.12"}]
    assert found["frontend"]["ports"] == [{"target": 80, "published": 80, "address": "192.0.2.12"}]


def test_components_and_images() -> None:
    """In the order in which they start; what images.lock has is pinned."""
    assert list(made()) == ["database", "create-databases", "backend", "gateway", "frontend"]
    assert list(made(galaxy=True))[2] == "galaxy"
    assert made()["gateway"]["image"] == f"hbpmip/gateway:1.0.2@{DIGEST}"
    assert made()["frontend"]["env"]["GATEWAY_VERSION"] == "1.0.2"


def test_the_backend_reads_what_consolidate_hands_out() -> None:
    """And is made anew when it changed."""
    backend = made()["backend"]
    assert {"source": "/var/lib/mip/hosp/portal", "target": "/opt/portal/api", "read_only": True} in backend["mounts"]
    assert backend["watch"] == ["/var/lib/mip/hosp/portal/pathologies.json", "/var/lib/mip/hosp/portal/disabledAlgorithms.json"]
    assert backend["env"]["EXAREME_URL"] == "http://192.0.2.11:9090"
    assert made(engine_address="198.51.100.1")["backend"]["env"]["EXAREME_URL"] == "http://198.51.100.1:9090"


def test_values_stay_as_they_are() -> None:
    """Whatever is in them."""
    assert made(instance_name=HARD)["frontend"]["env"]["INSTANCE_NAME"] == HARD
    assert made(data_catalogue={"host": ""})["frontend"]["env"]["DATACATALOGUE_SERVER"] == ""
    assert made()["frontend"]["env"]["DATACATALOGUE_SERVER"] == "https://datacatalogue.mip.ebrains.eu"


def test_a_given_certificate_replaces_acme() -> None:
    """The frontend gets it with a configuration that names it."""
    found = made(certificate="/c.pem", certificate_key="/k.pem")["frontend"]
    assert "/etc/mip-tls" in [mount["target"] for mount in found["mounts"]]
    assert "/var/lib/mip/hosp/portal-tls/key.pem" in found["watch"]


@pytest.mark.parametrize(
    ("more", "keycloak", "expected"),
    [
        ({"public_host": ""}, KEYCLOAK, "public_host: it is needed"),
        ({"public_host": "127.0.0.1"}, KEYCLOAK, "every machine itself"),
        ({"public_host": "localhost"}, KEYCLOAK, "every machine itself"),
        ({"public_host": "https://mip.example.org"}, KEYCLOAK, "neither protocol"),
        ({"engine_address": "10.0.0.256"}, KEYCLOAK, "engine_address"),
        ({"listen": "eth0"}, KEYCLOAK, "listen"),
        ({}, {**KEYCLOAK, "url": ""}, "needs mip_keycloak.url"),
        ({"publish": ["galaxy"]}, KEYCLOAK, "galaxy is not deployed"),
        ({"certificate": "/c.pem"}, KEYCLOAK, "belong together"),
        ({"certificate": "/c.pem", "certificate_key": "/k", "public_protocol": "http"}, KEYCLOAK, "never used"),
        ({"images": {"backend": "hbpmip/portal-backend"}}, KEYCLOAK, "images.backend"),
        ({"disabled_algorithms": [""]}, KEYCLOAK, "disabled_algorithms"),
    ],
)
def test_mistakes(more: dict[str, Any], keycloak: dict[str, Any], expected: str) -> None:
    """Each says which setting, and what to write."""
    found = _portal.wrong(settings(**more), keycloak)
    assert len(found) == 1
    assert expected in found[0]


def test_no_mistakes() -> None:
    """An address that ends in .0 is one, and a portal that is off is not judged."""
    assert _portal.wrong(settings(engine_address="10.1.2.0", public_host="10.1.2.0"), KEYCLOAK) == []
    assert _portal.wrong(settings(enabled=False, public_host=""), {"url": ""}) == []
    assert _portal.wrong(settings(authentication=False), {"url": ""}) == []


def test_what_became_of_a_restore() -> None:
    """A node without a database in the backup, one that is silent, a refusal, and a backend that does not come back are told apart."""
    known = {"name": "lab", "ui": {"enabled": True}}
    done = {"changed": True, "kept": "portal_before_x"}
    for node, members, expected in (
        ({"database": done, "portal": {"changed": True}}, ["ui"], []),
        ({"database": {"changed": False}}, ["ui"], []),
        ({"database": {"changed": False}}, [], ["backup-incomplete"]),
        ({}, ["ui"], ["silent"]),
        ({"database": {"changed": False, "msg": "is newer"}}, ["ui"], ["portal-restore"]),
        ({"database": done, "portal": {"msg": "it was not healthy"}}, ["ui"], ["portal-failed"]),
    ):
        found = _portal_reports.restored(known, {"set": "/b", "created": "then", "members": members, "nodes": {"ui": node}})
        assert [problem["code"] for problem in found["problems"]] == expected
        assert found["ok"] is (not expected)
        assert found["changed"] is (node.get("database") is done)
