# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an inventory may say of its Keycloak realm, how a run is judged, and the data structure of what was recorded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.hbp.mip.plugins.filter.recorded_structure import recorded_structure
from ansible_collections.hbp.mip.plugins.plugin_utils import _federation, _reports

ENGINE = {"image": "r.example/engine:1.0", "keystore_image": "r.example/keystore:1.8.7"}
URL = "https://iam.example.org"
GROUPS = {"master": ["ms"], "ui": [], "workers": ["wk"]}


def resolve(keycloak: dict[str, Any], **variables: Any) -> dict[str, Any]:
    """A federation of two with these values."""
    shared = {"mip_engine": ENGINE, "mip_keycloak": keycloak, **variables}
    hosts = {"ms": {**shared, "ansible_host": "10.1.0.1"}, "wk": {**shared, "ansible_host": "10.1.0.2"}}
    return _federation.resolve("hospitals", GROUPS, hosts)


def test_defaults_follow_the_federations_name() -> None:
    found = resolve({"url": URL, "redirect_uris": ["https://portal.example/login"]})["keycloak"]
    assert (found["client_id"], found["service_client"], found["realm"]) == ("hospitals", "mipfed-hospitals", "MIP")
    assert (found["service_secret"], found["client_secret"]) == (False, False)
    assert resolve({})["keycloak"]["url"] == ""


def test_secrets_are_not_in_what_is_resolved() -> None:
    # as the plugin hands them over: that there is one, and not which
    found = resolve({"url": URL}, mip_keycloak_service_secret=True)
    assert found["keycloak"]["service_secret"] is True
    assert found["keycloak"]["client_secret"] is False
    assert not {"keycloak_service_secret", "keycloak_client_secret"} & set(found)
    canary = resolve({"url": URL}, mip_keycloak_client_secret="canary-secret", mip_keycloak_service_secret="canary-secret")
    assert "canary" not in json.dumps(canary)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"url": "iam.example.org"}, "mip_keycloak.url: 'iam.example.org' is no address"),
        ({"url": "http://iam.example.org"}, "would travel unencrypted"),
        ({"url": "https://admin:secret@iam.example.org"}, "secrets belong into the vault"),
        ({"url": "https://iam.example.org/?x=1"}, "has a query"),
        ({"url": "https://iam.example.org:99999"}, "is no address"),
        ({"realm": "master"}, "mip_keycloak.realm: 'master'"),
        ({"realm": "a/b"}, "mip_keycloak.realm: 'a/b'"),
        ({"client_id": "account"}, "mip_keycloak.client_id: 'account'"),
        ({"client_id": "MIP-realm"}, "mip_keycloak.client_id"),
        ({"client_id": "one", "service_client": "one"}, "it is also the portal's client"),
        ({"redirect_uris": ["*"]}, "has a *"),
        ({"redirect_uris": ["https://portal.example/*"]}, "has a *"),
        ({"redirect_uris": ["http://portal.example/login"]}, "would travel unencrypted"),
        ({"redirect_uris": ["https://portal.example/#x"]}, "has a fragment"),
        ({"post_logout_redirect_uris": ["https://portal.example/ x"]}, "is no address"),
        ({"timeout_seconds": 0}, "too short"),
        ({"relam": "MIP"}, "did you mean realm?"),
    ],
)
def test_values_that_cannot_be_used(values: dict[str, Any], said: str) -> None:
    with pytest.raises(_federation.FederationError) as refusal:
        resolve(values)
    assert said in str(refusal.value)


def test_plain_http_is_for_labs_and_this_host() -> None:
    assert resolve({"url": "http://127.0.0.1:8080", "redirect_uris": ["http://localhost/login"]})
    assert resolve({"url": "http://10.77.1.13:8080", "redirect_uris": ["http://10.77.1.12/login"]}, mip_lab=True)


def report(answer: dict[str, Any], action: str = "sync", **keycloak: Any) -> dict[str, Any]:
    """The report on what a module answered."""
    given = {"url": URL, "redirect_uris": ["https://portal.example/login"], **keycloak}
    federation = resolve(given, mip_keycloak_service_secret=True)
    return _reports.REPORTS["keycloak"](federation, {"action": action, "pusher": "here", "answer": answer})


def test_what_the_inventory_lacks_is_said_before_anything_else() -> None:
    lacking = _reports.REPORTS["keycloak"](resolve({}), {"action": "sync", "pusher": "here", "answer": {"skipped": True}})
    assert [entry["code"] for entry in lacking["problems"]] == ["keycloak-url", "keycloak-secret", "keycloak-redirects"]
    assert lacking["error"] == "configuration"
    assert lacking["problems"][1]["fix"] == "mipfed -f hospitals keycloak prepare"
    assert report({}, "prepare", redirect_uris=[])["problems"] == []


def test_problems_name_the_next_command_of_this_federation() -> None:
    entry = {"code": "keycloak-forbidden", "message": "may not", "fix": "mipfed keycloak prepare gives the service client what it needs"}
    judged = report({"failed": True, "mip_error": "check", "problems": [entry], "msg": "may not"})
    assert judged["problems"] == [
        {
            "node": "here",
            "code": "keycloak-forbidden",
            "message": "may not",
            "fix": "mipfed -f hospitals keycloak prepare gives the service client what it needs",
        }
    ]
    assert judged["error"] == "check"
    crashed = report({"failed": True, "msg": "boom"})
    assert [(entry["code"], entry["message"]) for entry in crashed["problems"]] == [("keycloak-failed", "boom")]
    empty = report({"failed": True, "mip_error": "configuration", "problems": [{"code": "keycloak-structure", "message": "no", "fix": ""}]})
    assert empty["problems"][0]["fix"] == "mipfed -f hospitals data consolidate"


def test_structure_of_a_record() -> None:
    record = {
        "nodes": {
            "west": {"pathologies": {"dementia": {"files": {"a.csv": {"edsd": 20, "adni": "<10"}, "b.csv": {"edsd": 1}}}}},
            "east": {"pathologies": {"dementia": {"files": {"c.csv": {"ppmi": 30}}}, "tbi": {"files": {}}}},
        }
    }
    assert recorded_structure(json.dumps(record)) == [
        {
            "name": "dementia",
            "nodes": [
                {"name": "east", "datasets": [{"name": "ppmi"}]},
                {"name": "west", "datasets": [{"name": "adni"}, {"name": "edsd"}]},
            ],
        }
    ]
    assert recorded_structure("") == []
    for broken in ("{", "[]", '{"nodes": {"west": {}}}', "null"):
        with pytest.raises(AnsibleFilterError, match="not what a consolidation wrote"):
            recorded_structure(broken)
