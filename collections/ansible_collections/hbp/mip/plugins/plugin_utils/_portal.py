# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip and mipfed: what the settings of the web portal, ``mip_ui``, mean for its containers."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

#: The portal's components in the order in which they start.
COMPONENTS = ("database", "create-databases", "galaxy", "backend", "gateway", "frontend")
#: What an inventory calls the image of each.
IMAGES = {component: component.replace("-", "_") for component in COMPONENTS}
#: Ports that are kept on the ui node's own network unless the inventory publishes them.
PORTS = {"gateway": (8081, 8081), "backend": (8080, 8080), "backend-management": (8089, 8089), "galaxy": (80, 8090)}
DATABASE_PORT = 5433
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*")


def wrong(ui: Mapping[str, Any], keycloak: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the settings of the portal; nothing where it is off."""
    errors: list[str] = []
    if not ui["enabled"]:
        return errors
    host = str(ui["public_host"])
    if not host:
        errors.append("mip_ui.public_host: it is needed; the name or address under which browsers (or the reverse proxy) reach the portal")
    elif host == "localhost" or host.startswith("127."):
        errors.append(f"mip_ui.public_host: {host} is every machine itself; write the name or address that others reach the portal under")
    elif not _HOST.fullmatch(host):
        errors.append(f"mip_ui.public_host: {host!r} is no host name or IPv4 address; write neither protocol nor port nor path")
    for key in ("images",):
        for name, image in ui[key].items():
            last = str(image).rpartition("/")[2]
            if ":" not in last and "@" not in last:
                errors.append(f"mip_ui.images.{name}: {image!r} names no version; write repository:tag or repository@sha256:…")
    if ui["engine_address"]:
        errors += _address(str(ui["engine_address"]), "mip_ui.engine_address")
    if ui["listen"]:
        errors += _address(str(ui["listen"]), "mip_ui.listen")
    if ui["authentication"] and not keycloak["url"]:
        errors.append("mip_ui.authentication: it needs mip_keycloak.url; without a Keycloak set it to false")
    if "galaxy" in ui["publish"] and not ui["galaxy"]:
        errors.append("mip_ui.publish: galaxy is not deployed; set mip_ui.galaxy to true, or take it out of the list")
    if bool(ui["certificate"]) != bool(ui["certificate_key"]):
        errors.append("mip_ui: certificate and certificate_key belong together; give both or none")
    if ui["certificate"] and ui["public_protocol"] == "http":
        errors.append("mip_ui.certificate: it is never used, because public_protocol is http")
    if any("/" in str(name) or not str(name) for name in ui["disabled_algorithms"]):
        errors.append("mip_ui.disabled_algorithms: names of algorithms, such as THREE_C")
    return errors


def _address(text: str, where: str) -> list[str]:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return [f"{where}: {text!r} is not an IPv4 address"]
    return []


def references(federation: Mapping[str, Any]) -> dict[str, str]:
    """Return the images of the portal, as the inventory names them, by what they are for; none where there is no portal."""
    ui = federation.get("ui") or {}
    if not ui.get("enabled"):
        return {}
    chosen = [component for component in COMPONENTS if component != "galaxy" or ui["galaxy"]]
    return {f"portal-{component}": str(ui["images"][IMAGES[component]]) for component in chosen}


def links(ui: Mapping[str, Any], keycloak: Mapping[str, Any]) -> dict[str, str]:
    """Return what the legacy platform called its link settings.

    Direct: browsers come to the frontend itself. What they see outside is then always https, whatever ``external_protocol`` says.
    Proxied: a reverse proxy stands before it, and ``external_protocol`` is what browsers speak with that. ``KEYCLOAK_SSL_REQUIRED``
    is ``none`` only where nothing that takes part in a login is https.
    """
    direct = ui["link"] == "direct"
    external = "https" if direct else str(ui["external_protocol"])
    found = {
        "MIP_LINK": str(ui["link"]),
        "PUBLIC_MIP_PROTOCOL": str(ui["public_protocol"]),
        "EXTERNAL_MIP_PROTOCOL": external,
        "PUBLIC_MIP_HOST": str(ui["public_host"]),
    }
    if ui["authentication"]:
        spoken = {str(ui["public_protocol"])} | (set() if direct else {external})
        plain = str(keycloak["url"]).startswith("http://") and spoken == {"http"}
        found["KEYCLOAK_SSL_REQUIRED"] = "none" if plain else "external"
    return found


def address(ui: Mapping[str, Any]) -> str:
    """Return where people open the portal."""
    protocol = ui["public_protocol"] if ui["link"] == "direct" else ui["external_protocol"]
    return f"{protocol}://{ui['public_host']}/"


def _catalogue(ui: Mapping[str, Any]) -> str:
    catalogue = ui["data_catalogue"]
    return f"{catalogue['protocol']}://{catalogue['host']}" if catalogue["host"] else ""


def _version(image: str) -> str:
    last = image.partition("@")[0].rpartition("/")[2]
    return last.rpartition(":")[2] if ":" in last else "unknown"


def containers(federation: Mapping[str, Any], images: Mapping[str, str], secret_given: str = "") -> list[dict[str, Any]]:
    """Return the portal's containers as M(hbp.mip.ui_containers) takes them.

    :arg images: what each component runs, by component, pinned where it can be.
    :arg secret_given: the Keycloak client's secret, from the vault.
    """
    ui, keycloak, name = federation["ui"], federation["keycloak"], federation["name"]
    master = next(node["address"] for node in federation["nodes"] if node["kind"] == "master")
    engine = f"{ui['engine_address'] or master}:{federation['engine']['port']}"
    linked = links(ui, keycloak)
    authentication = bool(ui["authentication"])
    database = f"portalbackend_db:{DATABASE_PORT}"
    config = federation["portal_dir"]
    versions = {component: _version(images[component]) for component in ("frontend", "gateway", "backend", "galaxy")}
    exareme = _version(str(federation["engine"]["image"]))

    backend_env = {
        "LOG_LEVEL": ui["log_level"],
        "LOG_LEVEL_FRAMEWORK": ui["log_level"],
        "AUTHENTICATION": "1" if authentication else "0",
        "PORTAL_DB_URL": f"jdbc:postgresql://{database}/portal",
        "PORTAL_DB_SERVER": database,
        "PORTAL_DB_USER": "portal",
        "EXAREME_URL": f"http://{engine}",
        "MIPENGINE_URL": ui["mip_engine_url"],
    }
    backend_secrets: list[dict[str, Any]] = [{"name": "PORTAL_DB_PASSWORD", "generate": "database-portal", "environment": True}]
    if authentication:
        backend_env |= {
            "KEYCLOAK_AUTH_URL": f"{str(keycloak['url']).rstrip('/')}/",
            "KEYCLOAK_REALM": keycloak["realm"],
            "KEYCLOAK_CLIENT_ID": keycloak["client_id"] or name,
            "KEYCLOAK_SSL_REQUIRED": linked["KEYCLOAK_SSL_REQUIRED"],
        }
        if secret_given:
            backend_secrets.append({"name": "KEYCLOAK_CLIENT_SECRET", "value": secret_given, "environment": True})
    if ui["galaxy"]:
        backend_env |= {"GALAXY_URL": "http://galaxy", "GALAXY_USERNAME": "admin"}
        backend_secrets += [
            {"name": "GALAXY_PASSWORD", "generate": "galaxy-password", "environment": True},
            {"name": "GALAXY_API_KEY", "generate": "galaxy-api-key", "environment": True},
        ]
    frontend_env = {
        **{key: value for key, value in linked.items() if key != "KEYCLOAK_SSL_REQUIRED"},
        "FRONTEND_VERSION": versions["frontend"],
        "BACKEND_VERSION": versions["backend"],
        "GATEWAY_VERSION": versions["gateway"],
        "EXAREME_VERSION": exareme,
        "INSTANCE_NAME": ui["instance_name"] or f"MIP {name}",
        "VERSION": f"Frontend: {versions['frontend']}, Backend: {versions['backend']}, Exareme: {exareme}",
        "PORTAL_BACKEND_SERVER": "portalbackend:8080",
        "PORTAL_BACKEND_CONTEXT": "services",
        "GATEWAY_SERVER": "gateway:8081",
        "ERROR_LOG_LEVEL": "warn",
        "DATACATALOGUE_SERVER": _catalogue(ui),
    }
    if ui["galaxy"]:
        frontend_env |= {"GALAXY_URL": "http://galaxy/nativeGalaxy", "GALAXY_HOST": "galaxy", "GALAXY_PATH": "/nativeGalaxy"}
    frontend_mounts: list[dict[str, Any]] = [{"type": "volume", "source": f"{name}_portal-frontend", "target": "/data"}]
    frontend_watch: list[str] = []
    if ui["certificate"]:
        frontend_mounts += [
            {"source": f"{config}-tls", "target": "/etc/mip-tls", "read_only": True},
            {"source": f"{config}-tls/Caddyfile", "target": ui["caddyfile"], "read_only": True},
        ]
        frontend_watch = [f"{config}-tls/{file}" for file in ("Caddyfile", "certificate.pem", "key.pem")]

    wanted: dict[str, dict[str, Any]] = {
        "database": {
            "versioned_data": True,
            "args": ["-p", str(DATABASE_PORT)],
            "env": {"POSTGRES_PASSWORD_FILE": "/run/secrets/POSTGRES_PASSWORD"},
            "secrets": [{"name": "POSTGRES_PASSWORD", "generate": "database-admin"}],
            "mounts": [{"type": "volume", "source": f"{name}_portal-database", "target": ui["database_data"]}],
            "aliases": ["portalbackend_db"],
            "hostname": "portalbackend_db",
            "healthcheck": _check(["pg_isready", "-q", "-h", "127.0.0.1", "-p", str(DATABASE_PORT)], ui),
            "stop_seconds": 60,
        },
        "create-databases": {
            "once": True,
            "env": {
                "DB_HOST": "portalbackend_db",
                "DB_PORT": str(DATABASE_PORT),
                "DB_ADMIN_USER": "postgres",
                "DB4": "portal",
                "USER4": "portal",
            },
            "secrets": [
                {"name": "DB_ADMIN_PASSWORD", "generate": "database-admin", "environment": True},
                {"name": "PASSWORD4", "generate": "database-portal", "environment": True},
            ],
        },
        "galaxy": {
            "args": [
                "bash",
                "-c",
                "htpasswd -ic /etc/apache2/htpasswd admin < /run/secrets/GALAXY_PASSWORD && ./createExaremeVariables.sh && "
                "/etc/init.d/apache2 restart && ./run.sh",
            ],
            "env": {"EXAREME_IP": ui["engine_address"] or master, "EXAREME_PORT": str(federation["engine"]["port"])},
            "secrets": [{"name": "GALAXY_PASSWORD", "generate": "galaxy-password"}],
            "ports": _published(ui, "galaxy"),
        },
        "backend": {
            "versioned_data": True,
            "env": backend_env,
            "secrets": backend_secrets,
            "mounts": [
                {"source": config, "target": "/opt/portal/api", "read_only": True},
                {"type": "volume", "source": f"{name}_portal-logs", "target": "/opt/portal/logs"},
            ],
            "watch": [f"{config}/pathologies.json", f"{config}/disabledAlgorithms.json"],
            "aliases": ["portalbackend"],
            "hostname": "portalbackend",
            "healthcheck": _check([*ui["healthcheck"], "8080"], ui),
            "ports": _published(ui, "backend") + _published(ui, "backend-management"),
        },
        "gateway": {
            "env": {"ENGINE_TYPE": "exareme", "ENGINE_BASE_URL": "http://portalbackend:8080/services/", "GATEWAY_PORT": "8081"},
            "healthcheck": _check([*ui["healthcheck"], "8081"], ui),
            "ports": _published(ui, "gateway"),
        },
        "frontend": {
            "env": frontend_env,
            "mounts": frontend_mounts,
            "watch": frontend_watch,
            "healthcheck": _check([*ui["healthcheck"], "80" if ui["public_protocol"] == "http" else "443"], ui),
            "ports": [
                {"target": port, "published": port, "address": ui["listen"]}
                for port in ((80,) if ui["public_protocol"] == "http" else (80, 443))
            ],
        },
    }
    log = {"max_size": federation["docker"]["log_max_size"], "max_files": federation["docker"]["log_max_files"]}
    return [
        {
            "component": component,
            "image": images[component],
            "limits": {"memory_mb": ui["memory_mb"][IMAGES[component]], "pids": 2000},
            "log": log,
            **{key: value for key, value in wanted[component].items() if value != []},
        }
        for component in COMPONENTS
        if component != "galaxy" or ui["galaxy"]
    ]


def _check(test: list[str], ui: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "test": test,
        "interval": f"{ui['healthcheck_seconds']}s",
        "timeout": "10s",
        "retries": 6,
        "start_period": f"{ui['start_seconds']}s",
    }


def _published(ui: Mapping[str, Any], what: str) -> list[dict[str, Any]]:
    if what not in ui["publish"]:
        return []
    target, published = PORTS[what]
    return [{"target": target, "published": published, "address": ui["listen"]}]
