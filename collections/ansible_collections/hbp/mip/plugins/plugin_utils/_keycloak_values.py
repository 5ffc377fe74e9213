# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip and mipfed: rules and defaults of `mip_keycloak` that a type cannot express."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.hbp.mip.plugins.module_utils._keycloak import BUILT_IN, NAME

SECRETS = ("mip_keycloak_service_secret", "mip_keycloak_client_secret")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(text: str, where: str, *, plain: bool, errors: list[str]) -> None:
    """Judge an address of http or https; `plain` allows http."""
    try:
        parts = urlsplit(text)
        host, _port = parts.hostname or "", parts.port
    except ValueError as error:
        errors.append(f"{where}: {text!r} is no address ({error})")
        return
    if parts.scheme not in ("http", "https") or not host or re.search(r"[\s\x00-\x1f\x7f]", text):
        errors.append(f"{where}: {text!r} is no address; write https://NAME[:PORT][/PATH]")
    elif parts.username or parts.password:
        errors.append(f"{where}: there is a name or password in it; secrets belong into the vault")
    elif parts.fragment:
        errors.append(f"{where}: {text!r} has a fragment (#…), which no address to come back to may have")
    elif parts.scheme == "http" and not plain and not _loopback(host):
        errors.append(f"{where}: {text!r}: passwords and tokens would travel unencrypted; use https")


def wrong(keycloak: Mapping[str, Any], lab: bool) -> list[str]:
    """Return what is wrong with the values of `mip_keycloak`."""
    errors: list[str] = []
    if keycloak["url"]:
        _address(keycloak["url"], "mip_keycloak.url", plain=lab, errors=errors)
        if "?" in keycloak["url"]:
            errors.append(f"mip_keycloak.url: {keycloak['url']!r} has a query; give the server's address only")
    if not NAME.fullmatch(keycloak["realm"]) or keycloak["realm"] == "master":
        errors.append(f"mip_keycloak.realm: {keycloak['realm']!r} cannot be a federation's realm; master is for administrators only")
    for key in ("client_id", "service_client"):
        name = keycloak[key]
        if name and (not NAME.fullmatch(name) or name in BUILT_IN or name.endswith("-realm")):
            errors.append(f"mip_keycloak.{key}: {name!r} is no name for it; letters, digits, - _ . and no client of Keycloak's own")
    if keycloak["client_id"] and keycloak["client_id"] == keycloak["service_client"]:
        errors.append("mip_keycloak.service_client: it is also the portal's client; they are two, so that the portal can change no roles")
    for key in ("redirect_uris", "post_logout_redirect_uris"):
        for uri in keycloak[key]:
            if "*" in uri:
                errors.append(f"mip_keycloak.{key}: {uri!r} has a *, and lets whoever finds a hole take logins away; write every address")
            else:
                _address(uri, f"mip_keycloak.{key}", plain=lab, errors=errors)
    if keycloak["timeout_seconds"] < 1:
        errors.append(f"mip_keycloak.timeout_seconds: {keycloak['timeout_seconds']} is too short; use 1 or more")
    return errors


def resolved(keycloak: Mapping[str, Any], federation: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with the defaults that depend on others, and which secrets the inventory has, not what they are."""
    client = keycloak["client_id"] or federation
    secrets = {key.removeprefix("mip_keycloak_"): bool(given.get(key)) for key in SECRETS}
    return {**keycloak, "client_id": client, "service_client": keycloak["service_client"] or f"mipfed-{client}", **secrets}
