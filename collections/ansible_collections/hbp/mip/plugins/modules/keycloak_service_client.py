#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: keycloak_service_client
short_description: Make the client with which roles are kept in line in a Keycloak realm
version_added: 0.4.0
description:
  - Makes a confidential client that has a service account and nothing that a browser or a user's password could use. Its account may
    manage clients, users and groups, and look at the realm; it may not administer the realm.
  - An administrator is needed once, for this. M(hbp.mip.keycloak_roles) then logs in as the client.
extends_documentation_fragment: hbp.mip.keycloak
author:
  - The hbp.mip authors (@HBPMedical)
options:
  admin_user:
    description: An administrator of the server, or of the realm.
    type: str
    required: true
  admin_password:
    description: The administrator's password.
    type: str
    required: true
  admin_realm:
    description: The realm that the administrator is in, for example O(realm) itself.
    type: str
    default: master
  client_id:
    description: Name of the client.
    type: str
    required: true
  client_secret:
    description: The secret that it has to have.
    type: str
    required: true
  create_realm:
    description: Make the realm if the server does not have it.
    type: bool
    default: false
attributes:
  check_mode:
    description: Tells every step that it would take.
    support: full
  diff_mode:
    description: The steps tell it; secrets are not shown.
    support: none
  idempotent:
    description: A second run changes nothing.
    support: full
seealso:
  - module: hbp.mip.keycloak_roles
"""

EXAMPLES = r"""
- name: The client that roles are kept with
  hbp.mip.keycloak_service_client:
    url: https://iam.example.org
    realm: MIP
    admin_user: admin
    admin_password: "{{ lookup('ansible.builtin.file', '/root/keycloak-password') }}"
    client_id: mipfed-hospitals
    client_secret: "{{ vault_service_secret }}"
  delegate_to: localhost
"""

RETURN = r"""
plan:
  description: What was done, or would be.
  returned: always, unless the server could not be looked at
  type: dict
  contains:
    steps:
      description: The steps in order (do, kind, name, detail).
      type: list
      elements: dict
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

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ansible_collections.hbp.mip.plugins.module_utils import _keycloak, _keycloak_server


def run(module: AnsibleModule) -> None:
    """Look, plan and do."""
    params = module.params
    login = _keycloak_server.Login("admin-cli", "", params["admin_user"], params["admin_password"], params["admin_realm"])
    server = _keycloak_server.Administrator(params["url"], params["realm"], login, params["ca_file"], params["timeout"])
    server.enter()
    found = server.service(params["client_id"], params["client_secret"])
    if not found.realm and not params["create_realm"]:
        raise _keycloak_server.ServerError(
            "keycloak-realm",
            "%s has no realm %s" % (params["url"], params["realm"]),
            "Correct mip_keycloak.realm, or give --create-realm",
        )
    steps = _keycloak.prepare(found, params["realm"], params["client_id"])
    if not module.check_mode:
        for step in steps:
            server.do(step, params["client_secret"])
    module.exit_json(changed=bool(steps), plan={"steps": [_keycloak.told(step) for step in steps]})


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "realm": {"type": "str", "required": True},
            "ca_file": {"type": "path"},
            "timeout": {"type": "int", "default": 30},
            "admin_user": {"type": "str", "required": True},
            "admin_password": {"type": "str", "required": True, "no_log": True},
            "admin_realm": {"type": "str", "default": "master"},
            "client_id": {"type": "str", "required": True},
            "client_secret": {"type": "str", "required": True, "no_log": True},
            "create_realm": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    if _keycloak_server.IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("python-keycloak"), exception=_keycloak_server.IMPORT_ERROR)
    try:
        run(module)
    except _keycloak_server.ServerError as error:
        problem = {"code": error.code, "message": error.message, "fix": error.fix}
        module.fail_json(msg=error.message, mip_error=error.error, problems=[problem])


if __name__ == "__main__":
    main()
