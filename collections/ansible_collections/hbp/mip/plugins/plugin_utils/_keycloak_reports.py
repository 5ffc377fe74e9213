# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: what became of a federation's client, roles and groups in its Keycloak realm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.hbp.mip.plugins.plugin_utils._problems import Problem, Report, problem

_DOCS = "docs/keycloak.md"


def _missing(federation: Mapping[str, Any], action: str) -> list[tuple[str, str, str]]:
    """Return what the inventory lacks, as code, message and what to do."""
    keycloak, call = federation["keycloak"], f"mipfed -f {federation['name']}"
    found = []
    if not keycloak["url"]:
        found.append(("keycloak-url", "the inventory names no Keycloak server", f"Set mip_keycloak.url; see {_DOCS}"))
    if not keycloak["service_secret"]:
        fix = f"{call} keycloak prepare"
        found.append(("keycloak-secret", "the vault has no mip_keycloak_service_secret, with which the roles are kept", fix))
    if action == "sync" and not keycloak["redirect_uris"]:
        fix = f"Set mip_keycloak.redirect_uris; see {_DOCS}"
        found.append(("keycloak-redirects", "the inventory does not say which addresses of the portal a login may lead back to", fix))
    return found


def keycloak(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Judge a synchronisation, or the preparation of a realm.

    :arg data: ``action`` (sync or prepare), ``pusher``, its name, and ``answer``, what the module returned.
    :returns: ``action``, ``url``, ``realm``, ``client``, ``service_client``, ``changed``, ``plan``, ``orphans``, ``roles``, ``groups``,
        ``problems``.
    """
    known, answer, pusher = federation["keycloak"], data["answer"], data["pusher"]
    report: Report = {
        "action": data["action"],
        "url": known["url"],
        "realm": known["realm"],
        "client": known["client_id"],
        "service_client": known["service_client"],
        "changed": bool(answer.get("changed")),
        "plan": answer.get("plan") or {},
        "orphans": answer.get("orphans") or [],
        "roles": answer.get("roles"),
        "groups": answer.get("groups"),
    }
    missing = _missing(federation, data["action"])
    if missing:
        return {**report, "problems": [problem(pusher, *entry) for entry in missing], "error": "configuration"}
    call = f"mipfed -f {federation['name']} "
    problems: list[Problem] = [
        problem(pusher, entry["code"], entry["message"], _following(entry, call)) for entry in answer.get("problems") or ()
    ]
    if not problems and answer.get("failed"):
        problems = [problem(pusher, "keycloak-failed", str(answer.get("msg") or "failed"), "mipfed doctor")]
    result = {**report, "problems": problems}
    if problems and answer.get("mip_error"):
        result["error"] = answer["mip_error"]
    return result


def _following(entry: Mapping[str, str], call: str) -> str:
    """Return what to do, with the federation's name in commands."""
    if entry["code"] == "keycloak-structure" and not entry.get("fix"):
        return f"{call}data consolidate"
    return entry.get("fix", "").replace("mipfed keycloak ", f"{call}keycloak ")
