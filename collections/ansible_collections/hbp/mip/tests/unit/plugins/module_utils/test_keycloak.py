# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a realm should have, and every way there, tried on states that Hypothesis makes up."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hbp.mip.plugins.module_utils import _keycloak
from ansible_collections.hbp.mip.plugins.module_utils._keycloak import Group, Plan, Role, State, StructureError, Wanted

REDIRECTS = ["https://portal.example/login"]
MANAGED = _keycloak.settings(REDIRECTS)


def structure(held: dict[str, dict[str, list[str]]]) -> list[dict[str, Any]]:
    """The shape of `mipfed data structure`."""
    return [
        {"name": pathology, "nodes": [{"name": node, "datasets": [{"name": code} for code in codes]} for node, codes in nodes.items()]}
        for pathology, nodes in held.items()
    ]


TWO = structure({"dementia": {"west": ["edsd"], "east": ["ppmi", "adni"]}, "tbi": {"west": ["tbi1"]}})


def carried_out(state: State, plan: Plan, goal: Wanted) -> State:
    """The state after every step."""
    for step in plan.steps:
        state = _keycloak.done(state, step, goal)
    return state


def rights(state: State, group: str) -> set[str]:
    """Every role that somebody has through a group, also those inside composite roles."""
    todo, found = list(state.groups.get(group, Group()).roles), set()
    while todo:
        role = todo.pop()
        if role not in found and role in state.roles:
            found.add(role)
            todo += state.roles[role].contains
    return found


def test_roles_and_groups_are_those_of_the_older_platform() -> None:
    goal = _keycloak.wanted("fed", TWO)
    assert set(goal.roles) == {
        "DC_ADMIN", "RESEARCH_DATASET_ALL", "RESEARCH_EXPERIMENT_ALL", "RESEARCH_PATHOLOGY_ALL", "WORKFLOW_ADMIN",
        "DC_CONTROL_dementia", "DC_CONTROL_tbi", "DC_HOSPITAL_west", "DC_HOSPITAL_east", "RESEARCH_DATASET_edsd", "RESEARCH_DATASET_ppmi",
        "RESEARCH_DATASET_adni", "RESEARCH_DATASET_tbi1", "RESEARCH_PATHOLOGY_dementia", "RESEARCH_PATHOLOGY_tbi",
    }  # fmt: skip
    assert goal.composites == {
        "RESEARCH_PATHOLOGY_dementia": ("RESEARCH_DATASET_adni", "RESEARCH_DATASET_edsd", "RESEARCH_DATASET_ppmi"),
        "RESEARCH_PATHOLOGY_tbi": ("RESEARCH_DATASET_tbi1",),
    }
    assert goal.groups == {
        "FED_DC_ADMIN": ("DC_ADMIN",),
        "FED_DC_HOSPITAL_west": ("DC_HOSPITAL_west",),
        "FED_DC_HOSPITAL_east": ("DC_HOSPITAL_east",),
        "FED_PROCESSOR": ("RESEARCH_DATASET_ALL", "RESEARCH_EXPERIMENT_ALL", "RESEARCH_PATHOLOGY_ALL"),
        "FED_CONTROLLER_dementia": ("DC_CONTROL_dementia", "RESEARCH_PATHOLOGY_dementia"),
        "FED_CONTROLLER_tbi": ("DC_CONTROL_tbi", "RESEARCH_PATHOLOGY_tbi"),
        "FED_RESEARCHER_dementia": ("RESEARCH_PATHOLOGY_dementia",),
        "FED_RESEARCHER_tbi": ("RESEARCH_PATHOLOGY_tbi",),
        "FED_WORKFLOW_ADMIN": ("WORKFLOW_ADMIN",),
    }
    assert goal.roles["RESEARCH_DATASET_edsd"] == "dementia - Worker west"


def test_long_descriptions_are_what_keycloak_takes() -> None:
    many = structure({"dementia": {f"hospital-number-{n}": ["edsd"] for n in range(50)}})
    description = _keycloak.wanted("fed", many).roles["RESEARCH_DATASET_edsd"]
    assert len(description) == 255
    assert description.endswith("...")


@pytest.mark.parametrize(
    ("given_structure", "said"),
    [
        ([], "has no dataset"),
        (structure({"dementia": {"west": []}}), "has no dataset"),
        (structure({"dementia": {"west": ["all"]}}), "a dataset called all would give"),
        (structure({"All": {"west": ["edsd"]}}), "a pathology called All would give"),
        (structure({"de mentia": {"west": ["edsd"]}}), "'de mentia' is no name of a pathology"),
        (structure({"dementia": {"west/../x": ["edsd"]}}), "'west/../x' is no name of a node"),
        (structure({"dementia": {"west": ["a%2f"]}}), "'a%2f' is no name of a dataset"),
        ([{"name": "dementia"}], "expected a list of node"),
        ("dementia", "expected a list of pathology"),
    ],
)
def test_structures_that_cannot_be_roles(given_structure: Any, said: str) -> None:
    with pytest.raises(StructureError) as refusal:
        _keycloak.wanted("fed", given_structure)
    assert said in str(refusal.value)


@pytest.mark.parametrize("client", ["account", "realm-management", "MIP-realm", "a b", ""])
def test_clients_that_are_not_the_portals(client: str) -> None:
    with pytest.raises(StructureError):
        _keycloak.wanted(client, TWO)


def test_only_groups_of_this_client_are_ours() -> None:
    assert _keycloak.ours("fed", "FED_CONTROLLER_old")
    assert not _keycloak.ours("fed", "FED_STAFF")
    assert not _keycloak.ours("fed", "FEDERATION_CONTROLLER_old")
    # the group PROCESSOR of a client fed_controller is no group CONTROLLER_PROCESSOR of the client fed
    assert _keycloak.ours("fed", "FED_CONTROLLER_PROCESSOR")
    assert not _keycloak.ours("fed", "FED_CONTROLLER_PROCESSOR", ["fed", "fed_controller"])


def test_what_cannot_be_removed_says_why() -> None:
    goal = _keycloak.wanted("fed", TWO)
    state = carried_out(State(), _keycloak.plan(State(), goal, MANAGED), goal)
    state.groups["FED_RESEARCHER_default"] = Group(default=True)
    state.groups["FED_RESEARCHER_parent"] = Group(subgroups=2)
    state.groups["FED_RESEARCHER_other"] = Group(others=("roles of the client lab",))
    state.groups["FED_RESEARCHER_gone"] = Group(members=("a", "b"))
    state.groups["FED_STAFF"] = Group(members=("a",))
    plan = _keycloak.plan(state, goal, MANAGED, prune=True)
    assert {entry["name"]: entry["kept"] for entry in plan.orphans} == {
        "FED_RESEARCHER_default": "it is a default group of the realm",
        "FED_RESEARCHER_parent": "it has 2 subgroups",
        "FED_RESEARCHER_other": "it also gives roles of the client lab",
        "FED_RESEARCHER_gone": "",
    }
    assert [(step["do"], step["kind"], step["name"]) for step in plan.steps] == [("remove", "group", "FED_RESEARCHER_gone")]


def test_nothing_secret_and_nobody_is_told() -> None:
    goal = _keycloak.wanted("fed", TWO)
    plan = _keycloak.plan(State(secret_differs=True), goal, MANAGED, {"FED_PROCESSOR": ["user-1", "user-2"]})
    shown = json.dumps([_keycloak.told(step) for step in plan.steps])
    after = carried_out(State(secret_differs=True), plan, goal)
    shown += _keycloak.text(after, goal, MANAGED) + _keycloak.text(State(secret_differs=True), goal, MANAGED)
    assert "user-1" not in shown
    assert '"detail": "2 users"' in shown
    assert "group FED_PROCESSOR (2 members)" in shown
    assert "redirectUris: https://portal.example/login" in shown


def test_only_settings_of_ours_are_changed() -> None:
    goal = _keycloak.wanted("fed", TWO)
    theirs = {"clientId": "fed", "redirectUris": ["*"], "publicClient": True, "webOrigins": ["https://x"], "attributes": {"a": "b"}}
    managed = _keycloak.settings(REDIRECTS, ["https://portal.example/", "https://portal.example/bye"])
    plan = _keycloak.plan(State(client=theirs), goal, managed)
    first = plan.steps[0]
    assert (first["do"], first["kind"]) == ("update", "client")
    assert first["value"]["redirectUris"] == REDIRECTS
    after = _keycloak.done(State(client=theirs), first, goal).client
    assert after is not None
    assert after["webOrigins"] == ["https://x"]
    assert after["attributes"] == {"a": "b", "post.logout.redirect.uris": "https://portal.example/##https://portal.example/bye"}
    assert theirs["redirectUris"] == ["*"]


NAMES = st.sampled_from(["a", "b", "dementia", "tbi", "x-1", "PROCESSOR", "ADMIN"])
STRUCTURES = st.dictionaries(
    NAMES, st.dictionaries(NAMES, st.lists(NAMES, min_size=1, max_size=3), min_size=1, max_size=3), min_size=1, max_size=3
).map(structure)
USERS = st.lists(st.sampled_from(["u1", "u2", "u3"]), max_size=3, unique=True)


@st.composite
def states(draw: st.DrawFn) -> State:
    """A realm after some earlier data, parts of which somebody removed, and with things of others in it."""
    goal = _keycloak.wanted("fed", draw(STRUCTURES))
    plan = _keycloak.plan(State(), goal, MANAGED, {name: draw(USERS) for name in goal.groups})
    state = carried_out(State(), Plan(plan.steps[: draw(st.integers(0, len(plan.steps)))], []), goal)
    foreign = Role("not ours", tuple(draw(st.lists(st.sampled_from(sorted(state.roles)), max_size=2, unique=True))) if state.roles else ())
    state.roles["uma_protection"] = foreign
    for name in draw(st.lists(st.sampled_from(sorted(state.groups)), max_size=2, unique=True)) if state.groups else ():
        more = draw(st.lists(st.sampled_from(sorted(state.roles)), max_size=3, unique=True))
        state.groups[name] = state.groups[name]._replace(roles=tuple(sorted({*state.groups[name].roles, *more})))
    state.groups["FED_STAFF"] = Group(members=tuple(draw(USERS)))
    state.groups["OTHER_PROCESSOR"] = Group(members=tuple(draw(USERS)))
    return state


@given(states(), STRUCTURES, st.booleans(), USERS)
def test_a_plan_leads_where_it_should_and_once(state: State, now: Any, prune: bool, newcomers: list[str]) -> None:
    goal = _keycloak.wanted("fed", now)
    members = {"FED_PROCESSOR": newcomers}
    after = carried_out(state, _keycloak.plan(state, goal, MANAGED, members, prune), goal)
    again = _keycloak.plan(after, goal, MANAGED, members, prune)
    assert again.steps == []
    for role, description in goal.roles.items():
        assert after.roles[role].description == description
    for group, roles in goal.groups.items():
        assert set(roles) <= set(after.groups[group].roles)
    for role, contained in goal.composites.items():
        assert set(contained) <= set(after.roles[role].contains)
    assert set(newcomers) <= set(after.groups["FED_PROCESSOR"].members)
    if prune:
        assert again.orphans == []
        assert {name for name in after.roles if name != "uma_protection"} == set(goal.roles)
        assert set(after.groups) == {*goal.groups, "FED_STAFF", "OTHER_PROCESSOR"}
        for role, contained in goal.composites.items():
            assert {inner for inner in after.roles[role].contains if inner != "uma_protection"} == set(contained)


@given(states(), STRUCTURES, st.booleans())
def test_nobody_is_without_a_wanted_role_at_any_moment(state: State, now: Any, prune: bool) -> None:
    goal = _keycloak.wanted("fed", now)
    plan = _keycloak.plan(state, goal, MANAGED, prune=prune)
    due = {group: set(roles) | {inner for role in roles for inner in goal.composites.get(role, ())} for group, roles in goal.groups.items()}
    had = {group: rights(state, group) & roles for group, roles in due.items()}
    members = {group: set(entry.members) for group, entry in state.groups.items() if group in goal.groups}
    foreign = (state.roles["uma_protection"].description, state.groups["FED_STAFF"], state.groups["OTHER_PROCESSOR"])
    for step in plan.steps:
        state = _keycloak.done(state, step, goal)
        for group, roles in had.items():
            assert roles <= rights(state, group)
        for group, users in members.items():
            assert users <= set(state.groups[group].members)
        assert foreign == (state.roles["uma_protection"].description, state.groups["FED_STAFF"], state.groups["OTHER_PROCESSOR"])
    if not prune:
        assert not any(step["do"] == "remove" for step in plan.steps)


@given(states(), STRUCTURES, st.data())
def test_a_run_that_was_cut_off_is_completed_by_the_next(state: State, now: Any, data: st.DataObject) -> None:
    goal = _keycloak.wanted("fed", now)
    whole = _keycloak.plan(state, goal, MANAGED, prune=True)
    cut = data.draw(st.integers(0, len(whole.steps)))
    halfway = carried_out(state, Plan(whole.steps[:cut], []), goal)
    rest = _keycloak.plan(halfway, goal, MANAGED, prune=True)
    one, other = carried_out(halfway, rest, goal), carried_out(state, whole, goal)
    assert (one.roles, one.groups, one.client, one.mapper) == (other.roles, other.groups, other.client, other.mapper)


def test_a_plan_is_known_by_its_hash() -> None:
    goal = _keycloak.wanted("fed", TWO)
    one = _keycloak.plan(State(), goal, MANAGED)
    assert one.id == _keycloak.plan(State(), goal, MANAGED).id
    assert one.id != _keycloak.plan(State(), goal, MANAGED, {"FED_PROCESSOR": ["u1"]}).id


def test_the_service_client_is_made_once_and_put_right() -> None:
    first = _keycloak.prepare(_keycloak.Service(False), "MIP", "mipfed")
    assert [(step["do"], step["kind"]) for step in first] == [("create", "realm"), ("create", "client"), ("add", "grant")]
    good = _keycloak.new_service_client("mipfed")
    assert _keycloak.prepare(_keycloak.Service(True, good, _keycloak.SERVICE_ROLES), "MIP", "mipfed") == []
    wrong = {**good, "directAccessGrantsEnabled": True, "redirectUris": ["*"]}
    steps = _keycloak.prepare(_keycloak.Service(True, wrong, ("manage-users",), True), "MIP", "mipfed")
    assert [(step["do"], step["kind"]) for step in steps] == [("update", "client"), ("update", "secret"), ("add", "grant")]
    assert steps[0]["value"] == {"directAccessGrantsEnabled": False, "redirectUris": []}
    assert steps[2]["value"] == ["manage-clients", "view-realm"]
