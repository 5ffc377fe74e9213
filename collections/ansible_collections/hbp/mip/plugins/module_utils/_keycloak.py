# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: which client, roles and groups a federation needs in a Keycloak realm, and how to get there.

Pure: what the realm has is a `State`, what is to be done is a list of steps, and `done` tells what a step makes of a state. The names of
roles and groups are those that the portal and the older platform's `keycloak_roles_sync.py` use.

Nothing that is wanted is ever removed in order to be made again, and what is added comes before what is removed, so that nobody loses a
role in between.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ansible.module_utils.common.dict_transformations import dict_merge

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
#: Keycloak's own limit.
LONGEST_DESCRIPTION = 255
ALL = "ALL"
#: Roles that do not depend on the data, with their descriptions.
FIXED_ROLES = {
    "DC_ADMIN": "Data catalog administrator",
    "RESEARCH_DATASET_ALL": "All datasets, without distinction",
    "RESEARCH_EXPERIMENT_ALL": "All experiments, without distinction",
    "RESEARCH_PATHOLOGY_ALL": "All pathologies, without distinction",
    "WORKFLOW_ADMIN": "Galaxy administrator",
}
#: Beginnings of the roles that follow the data. A role of the client that is called otherwise is somebody else's.
ROLE_PREFIXES = ("DC_CONTROL_", "DC_HOSPITAL_", "RESEARCH_DATASET_", "RESEARCH_PATHOLOGY_")
FIXED_GROUPS = {
    "DC_ADMIN": ("DC_ADMIN",),
    "PROCESSOR": ("RESEARCH_DATASET_ALL", "RESEARCH_EXPERIMENT_ALL", "RESEARCH_PATHOLOGY_ALL"),
    "WORKFLOW_ADMIN": ("WORKFLOW_ADMIN",),
}
GROUP_PREFIXES = ("DC_HOSPITAL_", "CONTROLLER_", "RESEARCHER_")
#: Clients that Keycloak itself has in every realm.
BUILT_IN = frozenset({"account", "account-console", "admin-cli", "broker", "realm-management", "security-admin-console"})
MAPPER = "clientRole"
LOGOUT = "post.logout.redirect.uris"
#: What the service client may do: clients with their roles, groups with their members, and which groups the realm gives to new users.
SERVICE_ROLES = ("manage-clients", "manage-users", "view-realm")

Step = Dict[str, Any]


class StructureError(Exception):
    """The data structure, or a name in it, cannot be turned into roles. ``errors`` holds every reason."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = list(errors)


class Wanted(NamedTuple):
    """What a federation needs: descriptions by role, members by composite role, roles by group."""

    client_id: str
    roles: Dict[str, str]
    composites: Dict[str, Tuple[str, ...]]
    groups: Dict[str, Tuple[str, ...]]


class Group(NamedTuple):
    """A group of the realm: which of our client's roles it gives, which others (worded), who is in it, and what keeps it."""

    roles: Tuple[str, ...] = ()
    others: Tuple[str, ...] = ()
    members: Tuple[str, ...] = ()
    subgroups: int = 0
    default: bool = False


class Role(NamedTuple):
    """A role of our client, and which of the client's roles it contains."""

    description: str = ""
    contains: Tuple[str, ...] = ()


class State:
    """What a realm has. `client` holds the client's settings, or nothing when there is no such client."""

    def __init__(
        self,
        client: Optional[Dict[str, Any]] = None,
        mapper: Optional[Dict[str, Any]] = None,
        roles: Optional[Mapping[str, Role]] = None,
        groups: Optional[Mapping[str, Group]] = None,
        clients: Iterable[str] = (),
        secret_differs: bool = False,
    ) -> None:
        self.client = client
        self.mapper = mapper
        self.roles = dict(roles or {})
        self.groups = dict(groups or {})
        self.clients = tuple(clients)
        self.secret_differs = secret_differs


class Plan(NamedTuple):
    """The steps in the order in which they are to be done, and what is left of earlier data."""

    steps: List[Step]
    orphans: List[Dict[str, Any]]

    @property
    def id(self) -> str:
        """A hash by which a plan that was shown is known again."""
        return hashlib.sha256(json.dumps(self.steps, sort_keys=True).encode("utf-8")).hexdigest()


def group_prefix(client_id: str) -> str:
    """Return how the names of a client's groups begin."""
    return client_id.upper() + "_"


def _names(entries: Any, where: str, what: str, errors: List[str], *, reserved: bool = True) -> List[Tuple[str, Mapping[str, Any]]]:
    if not isinstance(entries, (list, tuple)):
        errors.append("%s: expected a list of %s" % (where, what))
        return []
    found = []
    for entry in entries:
        name = entry.get("name") if isinstance(entry, Mapping) else None
        if not isinstance(name, str) or not NAME.fullmatch(name):
            errors.append(
                "%s: %r is no name of a %s; it has letters, digits, hyphens, underscores and dots, at most 64, a letter or digit first"
                % (where, name, what)
            )
        elif reserved and name.upper() == ALL:
            # The portal compares without regard to case: whoever had this one would have every other as well.
            errors.append("%s: a %s called %s would give its role the name of the role for all of them; rename it" % (where, what, name))
        else:
            found.append((name, entry))
    return found


def wanted(client_id: str, structure: Any) -> Wanted:
    """Return what a federation needs.

    :arg structure: pathologies with their nodes and datasets, as `mipfed data structure` prints them.
    :raises StructureError: with everything that is wrong.
    """
    errors: List[str] = []
    if not NAME.fullmatch(client_id) or client_id in BUILT_IN or client_id.endswith("-realm"):
        errors.append("client %r: not a name for the portal's client" % client_id)
    held: Dict[str, Dict[str, List[str]]] = {}
    for pathology, entry in _names(structure, "data structure", "pathology", errors):
        nodes = held.setdefault(pathology, {})
        for node, inner in _names(entry.get("nodes"), pathology, "node", errors, reserved=False):
            codes = [name for name, _unused in _names(inner.get("datasets"), "%s at %s" % (pathology, node), "dataset", errors)]
            nodes.setdefault(node, []).extend(codes)
    held = {name: {node: codes for node, codes in nodes.items() if codes} for name, nodes in held.items()}
    held = {name: nodes for name, nodes in held.items() if nodes}
    if not errors and not held:
        errors.append("the data structure has no dataset, so that there would be nothing but the roles for all of them")
    if errors:
        raise StructureError(errors)
    roles, composites, groups = dict(FIXED_ROLES), {}, dict(FIXED_GROUPS)
    places: Dict[str, List[str]] = {}
    for pathology, nodes in sorted(held.items()):
        roles["DC_CONTROL_" + pathology] = "Data catalog - %s CDE" % pathology
        roles["RESEARCH_PATHOLOGY_" + pathology] = "%s pathology composite role" % pathology
        groups["CONTROLLER_" + pathology] = ("DC_CONTROL_" + pathology, "RESEARCH_PATHOLOGY_" + pathology)
        groups["RESEARCHER_" + pathology] = ("RESEARCH_PATHOLOGY_" + pathology,)
        for node, codes in sorted(nodes.items()):
            roles["DC_HOSPITAL_" + node] = "Data catalog - Worker %s hospital" % node
            groups["DC_HOSPITAL_" + node] = ("DC_HOSPITAL_" + node,)
            for code in codes:
                places.setdefault("RESEARCH_DATASET_" + code, []).append("%s - Worker %s" % (pathology, node))
        datasets = sorted({"RESEARCH_DATASET_" + code for codes in nodes.values() for code in codes})
        composites["RESEARCH_PATHOLOGY_" + pathology] = tuple(datasets)
    for role, where in places.items():
        roles[role] = _shortened("; ".join(dict.fromkeys(where)))
    prefix = group_prefix(client_id)
    return Wanted(client_id, roles, composites, {prefix + name: tuple(sorted(given)) for name, given in groups.items()})


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_DESCRIPTION else text[: LONGEST_DESCRIPTION - 3] + "..."


def settings(redirect_uris: Sequence[str], logout_uris: Sequence[str] = ()) -> Dict[str, Any]:
    """Return the settings that the portal's client must have; others are its administrator's."""
    found: Dict[str, Any] = {
        "protocol": "openid-connect",
        "publicClient": False,
        "bearerOnly": False,
        "standardFlowEnabled": True,
        "implicitFlowEnabled": False,
        "redirectUris": sorted(set(redirect_uris)),
    }
    if logout_uris:
        found["attributes"] = {LOGOUT: "##".join(sorted(set(logout_uris)))}
    return found


def new_client(client_id: str, managed: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the portal's client as it is made."""
    return {
        "clientId": client_id,
        "name": "Portal of the MIP federation %s" % client_id,
        "enabled": True,
        "clientAuthenticatorType": "client-secret",
        "directAccessGrantsEnabled": False,
        "serviceAccountsEnabled": False,
        "fullScopeAllowed": False,
        "consentRequired": False,
        "webOrigins": [],
        **managed,
    }


def mapper(client_id: str) -> Dict[str, Any]:
    """Return the mapper that puts the client's roles into the tokens, where the portal looks for them."""
    return {
        "name": MAPPER,
        "protocol": "openid-connect",
        "protocolMapper": "oidc-usermodel-client-role-mapper",
        "config": {
            "usermodel.clientRoleMapping.clientId": client_id,
            "claim.name": "authorities",
            "jsonType.label": "String",
            "multivalued": "true",
            "access.token.claim": "true",
            "id.token.claim": "true",
            "userinfo.token.claim": "true",
        },
    }


def differences(found: Mapping[str, Any], managed: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the settings that are not as they must be, with their new values; lists count as sets, and what is beside them stays."""
    changed: Dict[str, Any] = {}
    for key, value in managed.items():
        there = found.get(key)
        if isinstance(value, Mapping):
            inner = differences(there if isinstance(there, Mapping) else {}, value)
            if inner:
                changed[key] = inner
        elif isinstance(value, list):
            if sorted(there or ()) != sorted(value):
                changed[key] = value
        elif there != value:
            changed[key] = value
    return changed


def ours(client_id: str, group: str, clients: Iterable[str] = ()) -> bool:
    """Tell whether a group is one that this product makes for a client, and not for another client whose name begins alike."""
    prefix = group_prefix(client_id)
    if not group.startswith(prefix):
        return False
    for other in clients:
        if other != client_id and len(group_prefix(other)) > len(prefix) and group.startswith(group_prefix(other)):
            return False
    rest = group[len(prefix) :]
    return rest in FIXED_GROUPS or rest.startswith(GROUP_PREFIXES)


def _managed(role: str) -> bool:
    return role in FIXED_ROLES or role.startswith(ROLE_PREFIXES)


def copied_groups(goal: Wanted, source: str) -> Dict[str, str]:
    """Return the group of another client, for each group of ours, from which members are copied."""
    ours_, theirs = group_prefix(goal.client_id), group_prefix(source)
    return {theirs + name[len(ours_) :]: name for name in goal.groups}


def plan(
    state: State,
    goal: Wanted,
    managed: Mapping[str, Any],
    members: Optional[Mapping[str, Sequence[str]]] = None,
    prune: bool = False,
) -> Plan:
    """Return what is to be done.

    :arg managed: see `settings`.
    :arg members: users by group of ours that are to be in it, too.
    :arg prune: remove what is left of earlier data, too.
    """
    steps: List[Step] = []
    if state.client is None:
        steps.append({"do": "create", "kind": "client", "name": goal.client_id, "value": new_client(goal.client_id, managed)})
    else:
        changed = differences(state.client, managed)
        if changed:
            steps.append({"do": "update", "kind": "client", "name": goal.client_id, "value": changed})
    if state.secret_differs:
        steps.append({"do": "update", "kind": "secret", "name": goal.client_id})
    there = state.mapper
    needed = mapper(goal.client_id)
    if there is None:
        steps.append({"do": "create", "kind": "mapper", "name": MAPPER, "value": needed})
    elif differences(there, needed):
        steps.append({"do": "update", "kind": "mapper", "name": MAPPER, "value": differences(there, needed)})
    for name, description in sorted(goal.roles.items()):
        if name not in state.roles:
            steps.append({"do": "create", "kind": "role", "name": name, "value": description})
        elif state.roles[name].description != description:
            steps.append({"do": "update", "kind": "role", "name": name, "value": description})
    for name, contained in sorted(goal.composites.items()):
        has = state.roles[name].contains if name in state.roles else ()
        missing = [role for role in contained if role not in has]
        if missing:
            steps.append({"do": "add", "kind": "composite", "name": name, "value": missing})
    for name, given in sorted(goal.groups.items()):
        group = state.groups.get(name)
        if group is None:
            steps.append({"do": "create", "kind": "group", "name": name})
        missing = [role for role in given if group is None or role not in group.roles]
        if missing:
            steps.append({"do": "add", "kind": "grant", "name": name, "value": missing})
        wanted_members = (members or {}).get(name, ())
        newcomers = sorted({user for user in wanted_members if group is None or user not in group.members})
        if newcomers:
            steps.append({"do": "add", "kind": "member", "name": name, "value": newcomers})
    orphans = _orphans(state, goal)
    if prune:
        steps += [
            {"do": "remove", "kind": entry["kind"], "name": entry["name"], "value": entry["value"]}
            for entry in orphans
            if not entry["kept"]
        ]
    return Plan(steps, orphans)


def _orphans(state: State, goal: Wanted) -> List[Dict[str, Any]]:
    """Return what the data no longer ask for, in the order in which it can be removed; `kept` says why something cannot be."""

    def orphan(kind: str, name: str, value: Sequence[str] = (), why: str = "", kept: str = "") -> Dict[str, Any]:
        return {"kind": kind, "name": name, "value": sorted(value), "why": why, "kept": kept}

    found = []
    for name, given in sorted(goal.groups.items()):
        group = state.groups.get(name, Group())
        extra = [role for role in group.roles if _managed(role) and role in goal.roles and role not in given]
        if extra:
            found.append(orphan("grant", name, extra, "the group gives a role that is not its own"))
    for name, role in sorted(state.roles.items()):
        if name not in goal.roles or not _managed(name):
            continue
        contained = goal.composites.get(name, ())
        extra = [inner for inner in role.contains if _managed(inner) and inner in goal.roles and inner not in contained]
        if extra:
            found.append(orphan("composite", name, extra, "the role contains a role that is not its own"))
    for name, group in sorted(state.groups.items()):
        if name in goal.groups or not ours(goal.client_id, name, state.clients):
            continue
        kept = ""
        if group.default:
            kept = "it is a default group of the realm"
        elif group.subgroups:
            kept = "it has %d subgroup%s" % (group.subgroups, "" if group.subgroups == 1 else "s")
        elif group.others:
            kept = "it also gives %s" % ", ".join(group.others)
        count = len(group.members)
        found.append(orphan("group", name, (), "no such data; %d member%s" % (count, "" if count == 1 else "s"), kept))
    for name in sorted(state.roles):
        if name not in goal.roles and name.startswith(ROLE_PREFIXES):
            found.append(orphan("role", name, (), "no such data"))
    return found


def done(state: State, step: Step, goal: Wanted) -> State:
    """Return what a step makes of a state, as Keycloak does it."""
    after = State(
        copy.deepcopy(state.client), copy.deepcopy(state.mapper), state.roles, state.groups, state.clients, state.secret_differs
    )  # fmt: skip
    what, name, value = (step["do"], step["kind"]), step["name"], step.get("value")
    if what == ("create", "client"):
        after.client = copy.deepcopy(value)
    elif what == ("update", "client"):
        after.client = dict_merge(after.client or {}, value or {})
    elif what == ("update", "secret"):
        after.secret_differs = False
    elif what[1] == "mapper":
        after.mapper = dict_merge(after.mapper or {}, value or {})
    elif what == ("create", "role"):
        after.roles[name] = Role(str(value))
    elif what == ("update", "role"):
        after.roles[name] = after.roles[name]._replace(description=str(value))
    elif what[1] == "composite":
        role = after.roles[name]
        contains = set(role.contains) | set(value or ()) if what[0] == "add" else set(role.contains) - set(value or ())
        after.roles[name] = role._replace(contains=tuple(sorted(contains)))
    elif what == ("create", "group"):
        after.groups[name] = Group()
    elif what[1] == "grant":
        group = after.groups[name]
        roles = set(group.roles) | set(value or ()) if what[0] == "add" else set(group.roles) - set(value or ())
        after.groups[name] = group._replace(roles=tuple(sorted(roles)))
    elif what == ("add", "member"):
        group = after.groups[name]
        after.groups[name] = group._replace(members=tuple(sorted(set(group.members) | set(value or ()))))
    elif what == ("remove", "group"):
        del after.groups[name]
    elif what == ("remove", "role"):
        del after.roles[name]
        after.roles = {
            other: role._replace(contains=tuple(inner for inner in role.contains if inner != name)) for other, role in after.roles.items()
        }
        after.groups = {
            other: group._replace(roles=tuple(role for role in group.roles if role != name)) for other, group in after.groups.items()
        }
    else:
        raise ValueError("no such step: %s" % (what,))
    return after


def told(step: Step) -> Dict[str, Any]:
    """Return a step as people and reports may see it: users are numbers, settings their names and values without a secret."""
    value = step.get("value")
    if step["kind"] == "member":
        detail = "%d user%s" % (len(value or ()), "" if len(value or ()) == 1 else "s")
    elif step["kind"] in ("composite", "grant"):
        detail = ", ".join(value or ())
    elif step["kind"] in ("client", "mapper"):
        detail = "; ".join(
            _setting(key, inner)
            for key, inner in sorted((value or {}).items())
            if step["do"] == "update" or (key == "redirectUris" and inner)
        )
    elif step["kind"] == "role":
        detail = str(value or "")
    else:
        detail = ""
    return {"do": step["do"], "kind": step["kind"], "name": step["name"], "detail": detail}


def _setting(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(_setting(str(inner), told_value) for inner, told_value in sorted(value.items()))
    return "%s: %s" % (key, ", ".join(value) if isinstance(value, list) else json.dumps(value))


def text(state: State, goal: Wanted, managed: Mapping[str, Any]) -> str:
    """Return what concerns a federation as lines, for a diff. There is no secret in it, and no user."""
    lines = []
    if state.client is not None:
        lines.append("client %s" % goal.client_id)
        lines += ["  " + line for key in sorted(managed) for line in _setting_lines(key, state.client.get(key), managed[key])]
        if state.secret_differs:
            lines.append("  secret: another one than the inventory's")
    if state.mapper is not None:
        lines.append("mapper %s" % MAPPER)
        lines += ["  %s: %s" % (key, value) for key, value in sorted((state.mapper.get("config") or {}).items())]
    for name, role in sorted(state.roles.items()):
        if _managed(name):
            lines.append("role %s (%s)" % (name, role.description))
            lines += ["  contains %s" % inner for inner in sorted(role.contains)]
    for name, group in sorted(state.groups.items()):
        if name in goal.groups or ours(goal.client_id, name, state.clients):
            lines.append("group %s (%d members)" % (name, len(group.members)))
            lines += ["  gives %s" % role for role in sorted(group.roles)]
    return "".join(line + "\n" for line in lines)


def _setting_lines(key: str, found: Any, managed: Any) -> List[str]:
    if isinstance(managed, Mapping):
        inner = found if isinstance(found, Mapping) else {}
        return [line for name in sorted(managed) for line in _setting_lines(str(name), inner.get(name), managed[name])]
    if isinstance(managed, list):
        return ["%s: %s" % (key, entry) for entry in sorted(found or ())]
    return [] if found is None else ["%s: %s" % (key, json.dumps(found))]


def service_settings() -> Dict[str, Any]:
    """Return the settings of the client with which this product logs in: a service account, and nothing that a browser could use."""
    return {
        "protocol": "openid-connect",
        "publicClient": False,
        "bearerOnly": False,
        "serviceAccountsEnabled": True,
        "standardFlowEnabled": False,
        "implicitFlowEnabled": False,
        "directAccessGrantsEnabled": False,
        "redirectUris": [],
        "webOrigins": [],
    }


def new_service_client(client_id: str) -> Dict[str, Any]:
    """Return that client as it is made. Its own roles must be in its token, which `fullScopeAllowed` does."""
    return {
        "clientId": client_id,
        "name": "Roles of MIP federations",
        "description": "Made by mipfed keycloak prepare",
        "enabled": True,
        "clientAuthenticatorType": "client-secret",
        "fullScopeAllowed": True,
        **service_settings(),
    }


class Service(NamedTuple):
    """What there is of the service client: the realm, the client's settings, its roles in `realm-management`."""

    realm: bool
    client: Optional[Dict[str, Any]] = None
    roles: Tuple[str, ...] = ()
    secret_differs: bool = False


def prepare(found: Service, realm: str, client_id: str) -> List[Step]:
    """Return what makes the service client."""
    steps: List[Step] = []
    if not found.realm:
        steps.append({"do": "create", "kind": "realm", "name": realm})
    if found.client is None:
        steps.append({"do": "create", "kind": "client", "name": client_id, "value": new_service_client(client_id)})
    else:
        changed = differences(found.client, {**service_settings(), "enabled": True, "fullScopeAllowed": True})
        if changed:
            steps.append({"do": "update", "kind": "client", "name": client_id, "value": changed})
        if found.secret_differs:
            steps.append({"do": "update", "kind": "secret", "name": client_id})
    missing = [role for role in SERVICE_ROLES if role not in found.roles]
    if missing:
        steps.append({"do": "add", "kind": "grant", "name": client_id, "value": missing})
    return steps
