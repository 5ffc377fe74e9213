# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""keycloak_roles and keycloak_service_client against the real Keycloak."""

from __future__ import annotations

from typing import Any

import pytest
from keycloak import KeycloakAdmin, KeycloakOpenID

from ansible_collections.hbp.mip.tests.helpers.keycloak import PATIENCE, Keycloak, Realm, free_port
from ansible_collections.hbp.mip.tests.helpers.modules import Result

pytestmark = pytest.mark.timeout(1500)


def structure(held: dict[str, dict[str, list[str]]]) -> list[dict[str, Any]]:
    """The shape of `mipfed data structure`."""
    return [
        {"name": pathology, "nodes": [{"name": node, "datasets": [{"name": code} for code in codes]} for node, codes in nodes.items()]}
        for pathology, nodes in held.items()
    ]


WHOLE = structure({"dementia": {"west": ["edsd"], "east": ["ppmi"]}, "tbi": {"west": ["tbi-1"]}})
WITHOUT_PPMI = structure({"dementia": {"west": ["edsd"]}, "tbi": {"west": ["tbi-1"]}})


def steps(result: Result) -> list[tuple[str, str, str]]:
    """What was done, without details."""
    assert not result.failed, result.output
    return [(step["do"], step["kind"], step["name"]) for step in result["plan"]["steps"]]


def roles(admin: KeycloakAdmin, client: str = "fed") -> dict[str, str]:
    """Ids of the client's roles by name."""
    return {role["name"]: role["id"] for role in admin.get_client_roles(admin.get_client_id(client))}


def groups(admin: KeycloakAdmin) -> dict[str, str]:
    """Ids of the realm's groups by name."""
    return {group["name"]: group["id"] for group in admin.get_groups()}


def members(admin: KeycloakAdmin, group: str) -> set[str]:
    """Who is in a group."""
    return {user["username"] for user in admin.get_group_members(groups(admin)[group])}


def user(admin: KeycloakAdmin, name: str, *in_groups: str) -> str:
    """A new user in groups."""
    profile = {"username": name, "enabled": True, "email": f"{name}@example.org", "firstName": name, "lastName": name}
    made = str(admin.create_user({**profile, "credentials": [{"type": "password", "value": "pass-of-" + name, "temporary": False}]}))
    for group in in_groups:
        admin.group_user_add(made, groups(admin)[group])
    return made


def authorities(realm: Realm, name: str) -> set[str]:
    """What a token of the portal's client says that somebody may do, after a real login."""
    admin = realm.admin
    client = admin.get_client_id("fed")
    admin.update_client(client, {**admin.get_client(client), "directAccessGrantsEnabled": True})
    secret = admin.get_client_secrets(client)["value"]
    portal = KeycloakOpenID(server_url=realm.server.url, realm_name=realm.name, client_id="fed", client_secret_key=secret, timeout=PATIENCE)
    token = portal.token(name, "pass-of-" + name)
    return set(portal.decode_token(token["access_token"]).get("authorities", ()))


def test_first_run_second_run_and_check_mode(realm: Realm) -> None:
    checked = realm.sync(WHOLE, check=True)
    assert checked.changed
    assert realm.admin.get_client_id("fed") is None
    first = realm.sync(WHOLE)
    assert steps(first) == steps(checked)
    assert first["plan"]["id"] == checked["plan"]["id"]
    assert first["diff"] == checked["diff"]
    admin = realm.admin
    assert set(roles(admin)) == {
        "DC_ADMIN", "RESEARCH_DATASET_ALL", "RESEARCH_EXPERIMENT_ALL", "RESEARCH_PATHOLOGY_ALL", "WORKFLOW_ADMIN",
        "DC_CONTROL_dementia", "DC_CONTROL_tbi", "DC_HOSPITAL_west", "DC_HOSPITAL_east", "RESEARCH_DATASET_edsd", "RESEARCH_DATASET_ppmi",
        "RESEARCH_DATASET_tbi-1", "RESEARCH_PATHOLOGY_dementia", "RESEARCH_PATHOLOGY_tbi",
    }  # fmt: skip
    assert set(groups(admin)) == {
        "FED_DC_ADMIN", "FED_DC_HOSPITAL_west", "FED_DC_HOSPITAL_east", "FED_PROCESSOR", "FED_CONTROLLER_dementia", "FED_CONTROLLER_tbi",
        "FED_RESEARCHER_dementia", "FED_RESEARCHER_tbi", "FED_WORKFLOW_ADMIN",
    }  # fmt: skip
    client = admin.get_client(admin.get_client_id("fed"))
    assert client["redirectUris"] == ["https://portal.example/services/sso/login"]
    assert (client["publicClient"], client["directAccessGrantsEnabled"], client["implicitFlowEnabled"]) == (False, False, False)
    again = realm.sync(WHOLE)
    assert (again.changed, steps(again), again["orphans"]) == (False, [], [])
    assert again["diff"]["before"] == again["diff"]["after"] == first["diff"]["after"]


def test_roles_reach_the_tokens_of_the_groups_members(realm: Realm) -> None:
    realm.sync(WHOLE)
    user(realm.admin, "researcher", "FED_RESEARCHER_dementia")
    user(realm.admin, "nobody")
    assert authorities(realm, "researcher") == {"RESEARCH_PATHOLOGY_dementia", "RESEARCH_DATASET_edsd", "RESEARCH_DATASET_ppmi"}
    assert authorities(realm, "nobody") == set()


def test_members_and_ids_stay_when_the_data_change(realm: Realm) -> None:
    realm.sync(WHOLE)
    admin = realm.admin
    user(admin, "controller", "FED_CONTROLLER_dementia", "FED_DC_HOSPITAL_west")
    direct = user(admin, "direct")
    client = admin.get_client_id("fed")
    admin.assign_client_role(direct, client, [admin.get_client_role(client, "RESEARCH_DATASET_edsd")])
    before_roles, before_groups = roles(admin), groups(admin)
    more = structure({"dementia": {"west": ["edsd", "adni"], "east": ["ppmi"]}, "tbi": {"west": ["tbi-1"], "north": ["tbi-2"]}})
    changed = realm.sync(more)
    assert ("create", "role", "RESEARCH_DATASET_adni") in steps(changed)
    admin = realm.admin
    assert before_roles.items() <= roles(admin).items()
    assert before_groups.items() <= groups(admin).items()
    assert members(admin, "FED_CONTROLLER_dementia") == members(admin, "FED_DC_HOSPITAL_west") == {"controller"}
    assert [role["name"] for role in admin.get_client_roles_of_user(direct, client)] == ["RESEARCH_DATASET_edsd"]
    assert {"RESEARCH_DATASET_adni", "DC_CONTROL_dementia"} <= authorities(realm, "controller")
    assert "controller" not in changed.output


def test_a_removed_dataset_loses_its_role_only_when_asked(realm: Realm) -> None:
    realm.sync(WHOLE)
    user(realm.admin, "researcher", "FED_RESEARCHER_dementia", "FED_DC_HOSPITAL_east")
    kept = realm.sync(WITHOUT_PPMI)
    assert (kept.changed, steps(kept)) == (False, [])
    orphans = [("group", "FED_DC_HOSPITAL_east"), ("role", "DC_HOSPITAL_east"), ("role", "RESEARCH_DATASET_ppmi")]
    assert [(entry["kind"], entry["name"]) for entry in kept["orphans"]] == orphans
    assert not any(entry["removed"] for entry in kept["orphans"])
    assert "RESEARCH_DATASET_ppmi" in authorities(realm, "researcher")
    checked = realm.sync(WITHOUT_PPMI, check=True, prune=True)
    assert "RESEARCH_DATASET_ppmi" in roles(realm.admin)
    pruned = realm.sync(WITHOUT_PPMI, prune=True)
    assert steps(pruned) == steps(checked) == [("remove", kind, name) for kind, name in orphans]
    assert all(entry["removed"] for entry in pruned["orphans"])
    assert not {"DC_HOSPITAL_east", "RESEARCH_DATASET_ppmi"} & set(roles(realm.admin))
    assert members(realm.admin, "FED_RESEARCHER_dementia") == {"researcher"}
    assert authorities(realm, "researcher") == {"RESEARCH_PATHOLOGY_dementia", "RESEARCH_DATASET_edsd"}
    again = realm.sync(WITHOUT_PPMI, prune=True)
    assert (again.changed, again["orphans"]) == (False, [])


def test_what_moved_is_taken_out_of_its_old_place(realm: Realm) -> None:
    realm.sync(structure({"dementia": {"west": ["edsd", "shared"]}, "tbi": {"west": ["tbi-1"]}}))
    moved = structure({"dementia": {"west": ["edsd"]}, "tbi": {"west": ["tbi-1", "shared"]}})
    told = realm.sync(moved)
    assert [(e["kind"], e["name"], e["value"]) for e in told["orphans"]] == [
        ("composite", "RESEARCH_PATHOLOGY_dementia", ["RESEARCH_DATASET_shared"])
    ]
    realm.sync(moved, prune=True)
    admin = realm.admin
    inner = admin.get_role_composites_by_id(roles(admin)["RESEARCH_PATHOLOGY_dementia"])
    assert [role["name"] for role in inner] == ["RESEARCH_DATASET_edsd"]


def test_what_belongs_to_others_is_left_alone(realm: Realm) -> None:
    realm.sync(WHOLE)
    admin = realm.admin
    client = admin.get_client_id("fed")
    admin.create_client_role(client, {"name": "CUSTOM", "clientRole": True})
    for name in ("FED_STAFF", "FED_RESEARCHER_old", "FED_RESEARCHER_default", "FED_RESEARCHER_parent", "FED_RESEARCHER_other"):
        admin.create_group({"name": name})
    there = groups(admin)
    admin.create_group({"name": "child"}, parent=there["FED_RESEARCHER_parent"])
    admin.connection.raw_put(f"admin/realms/{realm.name}/default-groups/{there['FED_RESEARCHER_default']}", data="")
    management = admin.get_client_id("account")
    admin.assign_group_client_roles(there["FED_RESEARCHER_other"], management, [admin.get_client_role(management, "view-profile")])
    pruned = realm.sync(WHOLE, prune=True)
    assert steps(pruned) == [("remove", "group", "FED_RESEARCHER_old")]
    assert {entry["name"]: entry["kept"] for entry in pruned["orphans"] if entry["kept"]} == {
        "FED_RESEARCHER_default": "it is a default group of the realm",
        "FED_RESEARCHER_other": "it also gives roles of the client account",
        "FED_RESEARCHER_parent": "it has 1 subgroup",
    }
    left = set(groups(realm.admin))
    assert {"FED_STAFF", "FED_RESEARCHER_default", "FED_RESEARCHER_parent", "FED_RESEARCHER_other"} <= left
    assert "CUSTOM" in roles(realm.admin)


def test_a_client_that_accepts_every_address_is_put_right(realm: Realm) -> None:
    admin = realm.admin
    mapper = {"usermodel.clientRoleMapping.clientId": "fed", "multivalued": "true", "claim.name": "authorities"}
    legacy = admin.create_client(
        {
            "clientId": "fed",
            "redirectUris": ["*"],
            "webOrigins": ["https://keep.example"],
            "publicClient": True,
            "standardFlowEnabled": True,
            "protocolMappers": [
                {
                    "name": "clientRole",
                    "protocol": "openid-connect",
                    "protocolMapper": "oidc-usermodel-client-role-mapper",
                    "config": mapper,
                }
            ],
        }
    )
    wanted = ["https://portal.example/a", "https://portal.example/b"]
    done = realm.sync(WHOLE, redirect_uris=wanted, post_logout_redirect_uris=["https://portal.example/"])
    assert steps(done)[:2] == [("update", "client", "fed"), ("update", "mapper", "clientRole")]
    assert "-redirectUris" not in done.output
    assert "redirectUris: *" in done["diff"]["before"]
    assert "redirectUris: *" not in done["diff"]["after"]
    admin = realm.admin
    client = admin.get_client(admin.get_client_id("fed"))
    assert client["id"] == legacy
    assert sorted(client["redirectUris"]) == wanted
    assert client["publicClient"] is False
    assert client["webOrigins"] == ["https://keep.example"]
    assert client["attributes"]["post.logout.redirect.uris"] == "https://portal.example/"
    assert not realm.sync(WHOLE, redirect_uris=wanted, post_logout_redirect_uris=["https://portal.example/"]).changed
    refused = realm.sync(WHOLE, redirect_uris=["https://portal.example/*"])
    assert (refused.failed, refused["mip_error"], refused["problems"][0]["code"]) == (True, "configuration", "keycloak-redirect")


def test_members_are_copied_from_another_client(realm: Realm) -> None:
    assert not realm.sync(WHOLE, client_id="old").failed
    user(realm.admin, "one", "OLD_RESEARCHER_dementia")
    user(realm.admin, "two", "OLD_RESEARCHER_dementia", "OLD_PROCESSOR")
    realm.sync(WHOLE)
    user(realm.admin, "three", "FED_RESEARCHER_dementia")
    checked = realm.sync(WHOLE, copy_from="old", check=True)
    assert members(realm.admin, "FED_PROCESSOR") == set()
    copied = realm.sync(WHOLE, copy_from="old")
    assert steps(copied) == steps(checked) == [("add", "member", "FED_PROCESSOR"), ("add", "member", "FED_RESEARCHER_dementia")]
    assert [step["detail"] for step in copied["plan"]["steps"]] == ["1 user", "2 users"]
    assert members(realm.admin, "FED_RESEARCHER_dementia") == {"one", "two", "three"}
    assert members(realm.admin, "OLD_RESEARCHER_dementia") == {"one", "two"}
    assert not realm.sync(WHOLE, copy_from="old").changed
    unknown = realm.sync(WHOLE, copy_from="nonesuch")
    assert (unknown.failed, unknown["problems"][0]["code"]) == (True, "keycloak-source")
    # the groups of a client whose name begins alike are not orphans of this one
    assert not realm.sync(WHOLE, client_id="fed_controller").failed
    assert realm.sync(WHOLE, prune=True)["orphans"] == []


def test_the_portals_secret_is_the_inventorys(realm: Realm) -> None:
    secret = "canary-portal-secret-'\"$ü"
    first = realm.sync(WHOLE, client_secret=secret)
    admin = realm.admin
    client = admin.get_client_id("fed")
    assert admin.get_client_secrets(client)["value"] == secret
    assert not realm.sync(WHOLE, client_secret=secret).changed
    admin.generate_client_secrets(client)
    second = realm.sync(WHOLE, client_secret=secret)
    assert steps(second) == [("update", "secret", "fed")]
    assert realm.admin.get_client_secrets(client)["value"] == secret
    for told in (first, second):
        assert "canary-portal-secret" not in told.output
        assert realm.secret not in told.output


def test_only_the_plan_that_was_shown_is_carried_out(realm: Realm) -> None:
    shown = realm.sync(WHOLE, check=True)["plan"]["id"]
    other = realm.sync(WITHOUT_PPMI, expected_plan=shown)
    assert (other.failed, other["problems"][0]["code"]) == (True, "keycloak-plan-changed")
    assert realm.admin.get_client_id("fed") is None
    assert realm.sync(WHOLE, expected_plan=shown).changed


def test_what_is_wrong_is_said_once_and_clearly(realm: Realm) -> None:
    for options, code, error, said in (
        ({"service_secret": "wrong-secret-value"}, "keycloak-login", "check", "wrong name or secret (mip_keycloak_service_secret)"),
        ({"service_client": "nonesuch"}, "keycloak-login", "check", "does not let in the client nonesuch"),
        ({"realm": "nonesuch"}, "keycloak-realm", "check", "has no realm nonesuch"),
        ({"url": f"http://127.0.0.1:{free_port()}"}, "keycloak-unreachable", "unreachable", "Connection refused"),
    ):
        refused = realm.sync(WHOLE, **options)
        assert refused.failed
        assert [problem["code"] for problem in refused["problems"]] == [code]
        assert refused["mip_error"] == error
        assert said in refused.msg
        assert realm.secret not in refused.output
    assert realm.admin.get_client_id("fed") is None


def test_a_service_client_that_may_too_little_says_what_to_do(realm: Realm) -> None:
    admin = realm.admin
    account = admin.get_client_service_account_user(admin.get_client_id("mipfed-test"))["id"]
    management = admin.get_client_id("realm-management")
    taken = [admin.get_client_role(management, "manage-users")]
    admin.delete_client_roles_of_user(account, management, taken)
    refused = realm.sync(WHOLE)
    assert [problem["code"] for problem in refused["problems"]] == ["keycloak-forbidden"]
    assert "mipfed keycloak prepare" in refused["problems"][0]["fix"]
    repaired = realm.prepare()
    assert [(step["do"], step["kind"], step["detail"]) for step in repaired["plan"]["steps"]] == [("add", "grant", "manage-users")]
    assert realm.sync(WHOLE).changed


def test_the_service_client_is_prepared_once(server: Keycloak) -> None:
    realm = Realm.make(server)
    assert not realm.prepare().changed
    absent = realm.prepare(realm="nonesuch")
    assert [problem["code"] for problem in absent["problems"]] == ["keycloak-realm"]
    wrong = realm.prepare(admin_password="not-the-password")
    assert [problem["code"] for problem in wrong["problems"]] == ["keycloak-login"]
    assert "Invalid user credentials" in wrong.msg
    assert server.password not in wrong.output
    assert "not-the-password" not in wrong.output
    new = {"client_secret": "another-service-secret"}
    assert [step["kind"] for step in realm.prepare(check=True, **new)["plan"]["steps"]] == ["secret"]
    assert not realm.sync(WHOLE, check=True).failed
    realm.prepare(**new)
    assert [problem["code"] for problem in realm.sync(WHOLE, check=True)["problems"]] == ["keycloak-login"]
    # it may keep roles, and not make itself more than that
    admin = realm.admin
    account = admin.get_client_service_account_user(admin.get_client_id("mipfed-test"))["id"]
    given = admin.get_client_roles_of_user(account, admin.get_client_id("realm-management"))
    assert sorted(role["name"] for role in given) == ["manage-clients", "manage-users", "view-realm"]
