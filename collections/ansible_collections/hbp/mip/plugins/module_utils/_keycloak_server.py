# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: a Keycloak server, asked and changed with python-keycloak; what is to be done is worked out in `_keycloak`."""

from __future__ import annotations

import contextlib
import json
import traceback
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence

from ansible.module_utils.common.dict_transformations import dict_merge

from ansible_collections.hbp.mip.plugins.module_utils._keycloak import MAPPER, Group, Role, Service, State, Step, ours

IMPORT_ERROR: Optional[str] = None
try:
    from keycloak import KeycloakAdmin, KeycloakOpenIDConnection
    from keycloak.exceptions import KeycloakConnectionError, KeycloakError
    from requests.exceptions import RequestException
except ImportError:
    IMPORT_ERROR = traceback.format_exc()

SECONDS = 30
#: What a rejected login can be called: the token endpoint answers 400 or 401, as the client and the version want it.
_REJECTED = (400, 401)


class ServerError(Exception):
    """Keycloak could not be asked, or refused. `code` is stable; `error` tells Ansible's callers what kind of failure it is."""

    def __init__(self, code: str, message: str, fix: str, error: str = "check") -> None:
        super().__init__(message)
        self.code, self.message, self.fix, self.error = code, message, fix, error


class Login(NamedTuple):
    """Who logs in: the service client of the realm, or an administrator with a password."""

    client_id: str
    secret: str = ""
    user: str = ""
    password: str = ""
    realm: str = ""


class Server:
    """One realm of a Keycloak server."""

    def __init__(self, url: str, realm: str, login: Login, ca_file: Optional[str] = None, timeout: int = SECONDS) -> None:
        self.url = url.rstrip("/") + "/"
        self.realm = realm
        self.login = login
        with self._words("log in"):
            self._connection = KeycloakOpenIDConnection(
                server_url=self.url,
                realm_name=realm,
                user_realm_name=login.realm or realm,
                client_id=login.client_id,
                client_secret_key=login.secret or None,
                username=login.user or None,
                password=login.password or None,
                grant_type="password" if login.user else "client_credentials",
                verify=ca_file or True,
                timeout=timeout,
                # python-keycloak would repeat a POST that the server is still busy with.
                max_retries=0,
            )
        self._admin = KeycloakAdmin(connection=self._connection)
        self._client = ""
        self._roles: Dict[str, Dict[str, Any]] = {}
        self._groups: Dict[str, str] = {}

    @contextlib.contextmanager
    def _words(self, what: str, where: str = "") -> Iterator[None]:
        """Turn what python-keycloak raises into one clear error."""
        try:
            yield
        except (KeycloakConnectionError, RequestException) as error:
            reason = " ".join(str(error.__cause__ or error).split())
            fix = "curl -v %srealms/%s shows whether it is the address, the network or the certificate (mip_keycloak.ca_file)"
            raise ServerError(
                "keycloak-unreachable", "%s does not answer: %s" % (self.url, reason), fix % (self.url, self.realm), "unreachable"
            ) from None
        except KeycloakError as error:
            code, reason = error.response_code, _reason(error)
            if code == 403:
                raise ServerError(
                    "keycloak-forbidden",
                    "%s: %s may not %s in the realm %s" % (self.url, self._who(), what, self.realm),
                    "mipfed keycloak prepare gives the service client what it needs",
                ) from None
            raise ServerError("keycloak-refused", "%s refused to %s%s: %s" % (self.url, what, where, reason), "") from None

    def _who(self) -> str:
        if self.login.user:
            return "the user %s of the realm %s" % (self.login.user, self.login.realm or self.realm)
        return "the client %s" % self.login.client_id

    def enter(self) -> None:
        """Log in.

        :raises ServerError: with one reason, whether it is the address, the realm, the name or the password.
        """
        realm = self.login.realm or self.realm
        try:
            with self._told_apart():
                self._connection.get_token()
        except ServerError:
            raise
        except KeycloakError as error:
            if error.response_code == 404:
                raise ServerError(
                    "keycloak-realm",
                    "%s has no realm %s" % (self.url, realm),
                    "Correct mip_keycloak.url or mip_keycloak.realm, or let mipfed keycloak prepare --create-realm make it",
                ) from None
            if error.response_code in _REJECTED:
                what = "password" if self.login.user else "secret (mip_keycloak_service_secret)"
                fix = "Give the right password" if self.login.user else "mipfed keycloak prepare makes the client and sets its secret"
                raise ServerError(
                    "keycloak-login",
                    "%s does not let in %s: wrong name or %s (%s)" % (self.url, self._who(), what, _reason(error)),
                    fix,
                ) from None
            raise ServerError("keycloak-refused", "%s refused the login: %s" % (self.url, _reason(error)), "") from None

    @contextlib.contextmanager
    def _told_apart(self) -> Iterator[None]:
        try:
            yield
        except (KeycloakConnectionError, RequestException):
            with self._words("log in"):
                raise

    def _get(self, path: str, what: str) -> Any:
        with self._words(what):
            answer = self._connection.raw_get("admin/realms/%s/%s" % (self.realm, path))
            if answer.status_code != 200:
                raise KeycloakError(error_message=answer.text, response_code=answer.status_code, response_body=answer.content)
            return answer.json()

    # what there is

    def read(self, client_id: str, secret: str = "", more: Sequence[str] = ()) -> State:
        """Return what the realm has of a federation.

        :arg secret: what the client's secret has to be; without it nobody looks.
        :arg more: names of further groups that are looked at, members and all.
        """
        state = State(secret_differs=bool(secret))
        with self._words("look at the clients"):
            clients = self._admin.get_clients()
        state.clients = tuple(client["clientId"] for client in clients if client["clientId"] != client_id)
        found = next((client for client in clients if client["clientId"] == client_id), None)
        if found is not None:
            self._client = found["id"]
            self._read_client(state, found, secret)
        defaults = {group["id"] for group in self._get("default-groups", "look at the default groups")}
        with self._words("look at the groups"):
            groups = [group for group in self._admin.get_groups() if group.get("path") == "/" + group["name"]]
        for group in groups:
            if group["name"] in more or ours(client_id, group["name"], state.clients):
                self._groups[group["name"]] = group["id"]
                state.groups[group["name"]] = self._read_group(client_id, group, group["id"] in defaults)
        return state

    def _read_client(self, state: State, found: Mapping[str, Any], secret: str) -> None:
        with self._words("look at the client"):
            state.client = dict(self._admin.get_client(self._client))
            if secret:
                state.secret_differs = self._admin.get_client_secrets(self._client).get("value") != secret
            roles = self._admin.get_client_roles(self._client)
        mappers = state.client.get("protocolMappers") or ()
        state.mapper = next((dict(entry) for entry in mappers if entry["name"] == MAPPER), None)
        for role in roles:
            self._roles[role["name"]] = role
            contains: List[str] = []
            if role.get("composite"):
                with self._words("look at the role", " " + role["name"]):
                    inner = self._admin.get_role_composites_by_id(role["id"])
                contains = sorted(entry["name"] for entry in inner if entry.get("containerId") == self._client)
            state.roles[role["name"]] = Role(str(role.get("description") or ""), tuple(contains))

    def _read_group(self, client_id: str, group: Mapping[str, Any], default: bool) -> Group:
        given = self._get("groups/%s/role-mappings" % group["id"], "look at the groups' roles")
        clients = given.get("clientMappings") or {}
        own = [role["name"] for role in (clients.get(client_id) or {}).get("mappings", ())]
        others = ["the realm's role %s" % role["name"] for role in given.get("realmMappings") or ()]
        others += ["roles of the client %s" % name for name in clients if name != client_id]
        with self._words("look at the groups' members"):
            members = [user["id"] for user in self._admin.get_group_members(group["id"], {"briefRepresentation": True})]
        return Group(
            tuple(sorted(own)),
            tuple(sorted(others)),
            tuple(sorted(members)),
            int(group.get("subGroupCount") or len(group.get("subGroups") or ())),
            default,
        )

    # what is to be done

    def do(self, step: Step, secret: str = "") -> None:
        """Carry out one step.

        :arg secret: the secret that a client gets.
        :raises ServerError: when Keycloak refuses; the steps before it stay done, and the next run does the rest.
        """
        kind, name, value = step["kind"], step["name"], step.get("value")
        with self._words("%s the %s" % (step["do"], kind), " " + name):
            getattr(self, "_%s_%s" % (step["do"], kind))(name, value, secret)

    def _create_client(self, name: str, value: Mapping[str, Any], secret: str) -> None:
        payload = {**value, "secret": secret} if secret else dict(value)
        self._client = self._admin.create_client(payload)

    def _update_client(self, name: str, value: Mapping[str, Any], secret: str) -> None:
        self._admin.update_client(self._client, dict_merge(self._admin.get_client(self._client), value))

    def _update_secret(self, name: str, value: Any, secret: str) -> None:
        self._admin.update_client(self._client, {**self._admin.get_client(self._client), "secret": secret})

    def _create_mapper(self, name: str, value: Mapping[str, Any], secret: str) -> None:
        self._admin.add_mapper_to_client(self._client, dict(value))

    def _update_mapper(self, name: str, value: Mapping[str, Any], secret: str) -> None:
        there = next(entry for entry in self._admin.get_client(self._client)["protocolMappers"] if entry["name"] == name)
        self._admin.update_client_mapper(self._client, there["id"], dict_merge(there, value))

    def _role(self, name: str) -> Dict[str, Any]:
        if name not in self._roles:
            self._roles[name] = self._admin.get_client_role(self._client, name)
        return {"id": self._roles[name]["id"], "name": name}

    def _create_role(self, name: str, value: str, secret: str) -> None:
        self._admin.create_client_role(self._client, {"name": name, "description": value, "clientRole": True})

    def _update_role(self, name: str, value: str, secret: str) -> None:
        self._admin.update_role_by_id(self._role(name)["id"], {**self._roles[name], "description": value})

    def _remove_role(self, name: str, value: Any, secret: str) -> None:
        self._admin.delete_role_by_id(self._role(name)["id"])

    def _add_composite(self, name: str, value: Sequence[str], secret: str) -> None:
        self._admin.add_composite_client_roles_to_role(self._client, name, [self._role(role) for role in value])

    def _remove_composite(self, name: str, value: Sequence[str], secret: str) -> None:
        self._admin.remove_composite_client_roles_from_role(self._client, name, [self._role(role) for role in value])

    def _create_group(self, name: str, value: Any, secret: str) -> None:
        self._groups[name] = str(self._admin.create_group({"name": name}))

    def _remove_group(self, name: str, value: Any, secret: str) -> None:
        self._admin.delete_group(self._groups[name])

    def _add_grant(self, name: str, value: Sequence[str], secret: str) -> None:
        self._admin.assign_group_client_roles(self._groups[name], self._client, [self._role(role) for role in value])

    def _remove_grant(self, name: str, value: Sequence[str], secret: str) -> None:
        self._admin.delete_group_client_roles(self._groups[name], self._client, [self._role(role) for role in value])

    def _add_member(self, name: str, value: Sequence[str], secret: str) -> None:
        for user in value:
            self._admin.group_user_add(user, self._groups[name])


class Administrator(Server):
    """An administrator, who makes the realm and its service client."""

    def service(self, client_id: str, secret: str) -> Service:
        """Return what there is of the service client."""
        with self._words("look at the realms"):
            realms = {realm["realm"] for realm in self._admin.get_realms()}
        if self.realm not in realms:
            return Service(False)
        with self._words("look at the clients"):
            clients = {client["clientId"]: client for client in self._admin.get_clients()}
            if client_id not in clients:
                return Service(True)
            self._client = clients[client_id]["id"]
            client = dict(self._admin.get_client(self._client))
            differs = self._admin.get_client_secrets(self._client).get("value") != secret
            roles = [role["name"] for role in self._service_roles()] if client.get("serviceAccountsEnabled") else []
        return Service(True, client, tuple(sorted(roles)), differs)

    def _service_roles(self) -> List[Dict[str, Any]]:
        user = self._admin.get_client_service_account_user(self._client)
        management = str(self._admin.get_client_id("realm-management"))
        return list(self._admin.get_client_roles_of_user(user["id"], management))

    def _create_realm(self, name: str, value: Any, secret: str) -> None:
        self._admin.create_realm(
            {"realm": name, "enabled": True, "sslRequired": "external", "registrationAllowed": False, "bruteForceProtected": True}
        )
        # The token was made before there was the realm, and says nothing of it.
        self._connection.get_token()

    def _add_grant(self, name: str, value: Sequence[str], secret: str) -> None:
        user = self._admin.get_client_service_account_user(self._client)
        management = str(self._admin.get_client_id("realm-management"))
        roles = [self._admin.get_client_role(management, role) for role in value]
        self._admin.assign_client_role(user["id"], management, roles)


def _reason(error: Any) -> str:
    """Return what Keycloak said, on one line and without what it was sent."""
    message = error.error_message
    text = message.decode("utf-8", "replace") if isinstance(message, bytes) else str(message)
    with contextlib.suppress(ValueError, AttributeError):
        said = json.loads(text)
        text = str(said.get("error_description") or said.get("errorMessage") or said.get("error") or text)
    return "%s %s" % (error.response_code, " ".join(text.split())[:300])
