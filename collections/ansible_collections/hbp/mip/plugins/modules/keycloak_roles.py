#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: keycloak_roles
short_description: Bring the client, roles and groups of a federation in a Keycloak realm in line with its data
version_added: 0.4.0
description:
  - Makes the portal's client, its roles and the groups that give them, from the pathologies, nodes and datasets of a federation.
  - What is there already is changed where it differs, and never removed in order to be made again. Members of groups stay in them, and
    what is added comes before what is removed, so that nobody is without a role in between.
  - What the data no longer ask for is listed in RV(orphans), and removed with O(prune) only. Roles and groups with other names than this
    module gives belong to somebody else and are left alone, and so are groups that also give roles of other clients.
  - A run that was cut off is completed by the next one.
extends_documentation_fragment: hbp.mip.keycloak
author:
  - The hbp.mip authors (@HBPMedical)
options:
  service_client:
    description: The client of the realm that logs in, which M(hbp.mip.keycloak_service_client) makes.
    type: str
    required: true
  service_secret:
    description: Its secret.
    type: str
    required: true
  client_id:
    description:
      - The portal's client. The names of the groups begin with it, in upper case.
    type: str
    required: true
  client_secret:
    description: The secret that the portal's client has to have. Not given, Keycloak makes one for a new client, and nothing is changed.
    type: str
  redirect_uris:
    description: The addresses to which Keycloak may send somebody back after the login. They are exact, C(*) is not accepted.
    type: list
    elements: str
    required: true
  post_logout_redirect_uris:
    description: The same after the logout. Not given, it is left as it is.
    type: list
    elements: str
    default: []
  structure:
    description:
      - Which node holds which datasets of which pathologies, in the shape that C(mipfed data structure) prints.
    type: list
    elements: dict
    required: true
  copy_from:
    description:
      - Another client of the realm, from whose groups the members are copied into the groups of the same purpose. Nobody is taken out of
        a group.
    type: str
  prune:
    description: Remove what the data no longer ask for.
    type: bool
    default: false
  expected_plan:
    description: The RV(plan.id) of a plan that somebody agreed to. With another one nothing is changed.
    type: str
attributes:
  check_mode:
    description: Tells every step that it would take.
    support: full
  diff_mode:
    description: Shows client, roles and groups before and after. There is no secret in it, and no user.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
seealso:
  - module: hbp.mip.keycloak_service_client
  - module: hbp.mip.cde_consolidate
"""

EXAMPLES = r"""
- name: Roles for what the federation holds
  hbp.mip.keycloak_roles:
    url: https://iam.example.org
    realm: MIP
    service_client: mipfed-hospitals
    service_secret: "{{ vault_service_secret }}"
    client_id: hospitals
    redirect_uris: [https://portal.example.org/services/sso/login]
    structure: "{{ lookup('ansible.builtin.file', 'structure.json') | from_json }}"
  delegate_to: localhost
"""

RETURN = r"""
plan:
  description: What was done, or would be.
  returned: always, unless the realm could not be looked at
  type: dict
  contains:
    id:
      description: A hash by which this plan is known again.
      type: str
    steps:
      description: The steps in order (do, kind, name, detail). Users are told as a number.
      type: list
      elements: dict
      sample:
        - {do: create, kind: role, name: RESEARCH_DATASET_edsd, detail: dementia - Worker west}
orphans:
  description:
    - What the data no longer ask for (kind, name, value, why), whether it was RV(ignore:removed), and in C(kept) why it cannot be.
  returned: always, unless the realm could not be looked at
  type: list
  elements: dict
roles:
  description: How many roles the federation needs.
  returned: always, unless the data structure cannot be used
  type: int
groups:
  description: How many groups the federation needs.
  returned: always, unless the data structure cannot be used
  type: int
problems:
  description: Why it failed (code, message, fix).
  returned: failure
  type: list
  elements: dict
mip_error:
  description: What kind of failure it is.
  returned: failure
  type: str
"""

from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ansible_collections.hbp.mip.plugins.module_utils import _keycloak, _keycloak_server


def fail(module: AnsibleModule, error: str, problems: List[Dict[str, str]], **more: Any) -> None:
    """End with everything that is wrong."""
    lines = [problem["message"] for problem in problems]
    module.fail_json(msg="\n".join(lines), mip_error=error, problems=problems, **more)


def copied(found: _keycloak.State, goal: _keycloak.Wanted, source: str) -> Dict[str, List[str]]:
    """Return who is to be in which group, because of being in the group of another client."""
    return {
        ours: list(found.groups[theirs].members) for theirs, ours in _keycloak.copied_groups(goal, source).items() if theirs in found.groups
    }


def refused(found: _keycloak.State, goal: _keycloak.Wanted, source: str) -> List[Dict[str, str]]:
    """Return why nothing may be done in a realm that has been looked at."""
    twins = [name for name in found.clients if name.upper() == goal.client_id.upper()]
    if twins:
        message = "the client %s would have the same groups as %s, whose name differs in case only" % (goal.client_id, ", ".join(twins))
        return [{"code": "keycloak-twin", "message": message, "fix": "Set mip_keycloak.client_id to another name"}]
    if found.client is not None and found.client.get("protocol") not in (None, "openid-connect"):
        message = "the client %s speaks %s and not openid-connect" % (goal.client_id, found.client.get("protocol"))
        return [{"code": "keycloak-protocol", "message": message, "fix": "Set mip_keycloak.client_id to the portal's client"}]
    if source and not copied(found, goal, source):
        message = "the realm has no group of a client %s, from which members could be copied" % source
        return [{"code": "keycloak-source", "message": message, "fix": "The names of its groups begin with %s" % (source.upper() + "_")}]
    return []


def run(module: AnsibleModule) -> None:
    """Look, plan and do."""
    params = module.params
    problems: List[Dict[str, str]] = []
    goal = None
    try:
        goal = _keycloak.wanted(params["client_id"], params["structure"])
    except _keycloak.StructureError as error:
        problems = [{"code": "keycloak-structure", "message": text, "fix": ""} for text in error.errors]
    inexact = [uri for uri in params["redirect_uris"] + params["post_logout_redirect_uris"] if "*" in uri]
    for uri in inexact:
        problems.append({"code": "keycloak-redirect", "message": "%s: addresses to come back to are exact, without *" % uri, "fix": ""})
    if goal is None or problems:
        fail(module, "configuration", problems)
        return
    managed = _keycloak.settings(params["redirect_uris"], params["post_logout_redirect_uris"])
    counts = {"roles": len(goal.roles), "groups": len(goal.groups)}
    secret, source = params["client_secret"] or "", params["copy_from"] or ""
    login = _keycloak_server.Login(params["service_client"], params["service_secret"])
    server = _keycloak_server.Server(params["url"], params["realm"], login, params["ca_file"], params["timeout"])
    server.enter()
    more = list(_keycloak.copied_groups(goal, source)) if source else []
    found = server.read(goal.client_id, secret, [*goal.groups, *more])
    problems = refused(found, goal, source)
    if problems:
        fail(module, "check", problems, **counts)
    members = copied(found, goal, source) if source else {}
    plan = _keycloak.plan(found, goal, managed, members, params["prune"])
    expected = params["expected_plan"]
    if expected and expected != plan.id:
        message = "the realm, or the data, changed since the plan was shown; nothing was changed"
        fail(module, "check", [{"code": "keycloak-plan-changed", "message": message, "fix": "Look at the plan again"}], **counts)
    after = found
    for step in plan.steps:
        after = _keycloak.done(after, step, goal)
    orphans = [
        dict(entry, removed=params["prune"] and not entry["kept"] and not module.check_mode, count=len(entry["value"]))
        for entry in plan.orphans
    ]
    result = {
        "changed": bool(plan.steps),
        "plan": {"id": plan.id, "steps": [_keycloak.told(step) for step in plan.steps]},
        "orphans": orphans,
        "diff": {
            "before_header": "%s, realm %s" % (params["url"], params["realm"]),
            "after_header": "%s, realm %s" % (params["url"], params["realm"]),
            "before": _keycloak.text(found, goal, managed),
            "after": _keycloak.text(after, goal, managed),
        },
        **counts,
    }
    if not module.check_mode:
        for number, step in enumerate(plan.steps):
            try:
                server.do(step, secret)
            except _keycloak_server.ServerError as error:
                message = "%s. %d of %d steps were done before; the next run does the rest" % (error.message, number, len(plan.steps))
                problem = {"code": error.code, "message": message, "fix": error.fix}
                fail(module, error.error, [problem], **{**result, "changed": number > 0})
    module.exit_json(**result)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "realm": {"type": "str", "required": True},
            "ca_file": {"type": "path"},
            "timeout": {"type": "int", "default": 30},
            "service_client": {"type": "str", "required": True},
            "service_secret": {"type": "str", "required": True, "no_log": True},
            "client_id": {"type": "str", "required": True},
            "client_secret": {"type": "str", "no_log": True},
            "redirect_uris": {"type": "list", "elements": "str", "required": True},
            "post_logout_redirect_uris": {"type": "list", "elements": "str", "default": []},
            "structure": {"type": "list", "elements": "dict", "required": True},
            "copy_from": {"type": "str"},
            "prune": {"type": "bool", "default": False},
            "expected_plan": {"type": "str"},
        },
        supports_check_mode=True,
    )
    if _keycloak_server.IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("python-keycloak"), exception=_keycloak_server.IMPORT_ERROR)
    try:
        run(module)
    except _keycloak_server.ServerError as error:
        fail(module, error.error, [{"code": error.code, "message": error.message, "fix": error.fix}])


if __name__ == "__main__":
    main()
