# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ansible_collections.hbp.mip.plugins.plugin_utils._images import image_for

DOCUMENTATION = r"""
name: engine_services
short_description: The services of a federation
version_added: 0.1.0
description:
  - Returns every service that a federation runs on its swarm, for M(hbp.mip.swarm_services).
  - "The environment, mounts, aliases and port are the contract that the engine's image relies on."
author:
  - The hbp.mip authors (@HBPMedical)
positional: reachable
options:
  _input:
    description: The resolved federation, as M(hbp.mip.federation) returns it.
    type: dict
    required: true
  reachable:
    description: Names of the nodes whose services are waited for. The others get theirs when they come back.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Run the engine
  hbp.mip.swarm_services:
    project: "{{ mip.name }}"
    services: "{{ mip | hbp.mip.engine_services(ansible_play_hosts_all) }}"
"""

RETURN = r"""
_value:
  description:
    - Services as M(hbp.mip.swarm_services#module) takes them.
    - The keystore is in the first wave, then the master, then the workers.
  type: list
  elements: dict
"""

#: The port of the engine's API inside its container, fixed by the image.
API_PORT = 9090
#: The folder in the engine's container that holds the data, fixed by the image.
DATA_FOLDER = "/root/exareme/data"
KEYSTORE = "exareme-keystore"
KEYSTORE_PORT = 8500


def _service(federation: Mapping[str, Any], node: Mapping[str, Any], suffix: str, wave: int, reachable: Collection[str]) -> dict[str, Any]:
    """Return what all services of the federation have in common."""
    docker = federation["docker"]
    return {
        "name": f"{node['name']}_{suffix}",
        "node": node["name"],
        "wave": wave,
        "wait": node["name"] in reachable,
        "constraints": [f"node.labels.name=={node['name']}"],
        "container_labels": {
            "eu.humanbrainproject.mip.federation": federation["name"],
            "eu.humanbrainproject.mip.node": node["name"],
            "eu.humanbrainproject.mip.service": suffix,
        },
        "hostname": node["name"],
        "log": {"driver": "json-file", "options": {"max-size": docker["log_max_size"], "max-file": str(docker["log_max_files"])}},
    }


def _engine(
    federation: Mapping[str, Any], node: Mapping[str, Any], suffix: str, wave: int, reachable: Collection[str], alias: str
) -> dict[str, Any]:
    engine = federation["engine"]
    role = node["kind"]
    return {
        **_service(federation, node, suffix, wave, reachable),
        # Only a hospital's node can be drained and the federation still be one.
        "may_rest": role == "worker",
        "image": image_for(federation, node, engine["image"]),
        "env": {
            **{key: str(value) for key, value in engine["environment"].items()},
            "CONSULURL": f"{KEYSTORE}:{KEYSTORE_PORT}",
            "NODE_NAME": node["name"],
            "FEDERATION_ROLE": role,
            "ENVIRONMENT_TYPE": engine["environment_type"],
            # The product compiles the CSV files itself, with every check.
            "CONVERT_CSVS": "FALSE",
            "LOG_LEVEL": engine["log_level"],
            "TEMP_FILES_CLEANUP_TIME": str(engine["temp_files_cleanup_minutes"]),
            "NODE_COMMUNICATION_TIMEOUT": str(engine["communication_timeout_ms"]),
            **{f"LDSM_{key.upper()}": str(value) for key, value in (node.get("ldsm") or {}).items()},
        },
        "mounts": [{"type": "bind", "source": federation["data_dir"], "target": DATA_FOLDER}],
        "networks": [{"name": federation["overlay"]["name"], "aliases": [alias]}],
        "healthcheck": {
            "test": engine[f"{role}_healthcheck"],
            "interval": engine["healthcheck_seconds"],
            "timeout": 10,
            "retries": 6,
            "start_period": 240,
        },
        "limits": {"memory_mb": engine["memory_mb"]} if engine["memory_mb"] else {},
    }


def engine_services(federation: Mapping[str, Any], reachable: Collection[str]) -> list[dict[str, Any]]:
    """Return the services of a federation: keystore, master, then one a worker."""
    engine, network = federation["engine"], federation["overlay"]["name"]
    master = next(node for node in federation["nodes"] if node["kind"] == "master")
    keystore = {
        **_service(federation, master, KEYSTORE, 0, reachable),
        "image": image_for(federation, master, engine["keystore_image"]),
        "env": {"CONSUL_BIND_INTERFACE": "lo"},
        "mounts": [{"type": "volume", "source": f"{federation['name']}_keystore", "target": engine["keystore_data"]}],
        "networks": [{"name": network, "aliases": [KEYSTORE]}],
        "limits": {"memory_mb": engine["keystore_memory_mb"]} if engine["keystore_memory_mb"] else {},
    }
    if federation["expose"]["keystore"]:
        keystore["ports"] = [{"target": KEYSTORE_PORT, "published": KEYSTORE_PORT, "protocol": "tcp", "mode": "host"}]
    scheduler = {
        **_engine(federation, master, "exareme-master", 1, reachable, "exareme-master"),
        "ports": [{"target": API_PORT, "published": engine["port"], "protocol": "tcp", "mode": "host"}],
    }
    workers = [_engine(federation, node, "exareme", 2, reachable, node["name"]) for node in federation["nodes"] if node["kind"] == "worker"]
    # A disabled node's engine is kept stopped, or left as it is.
    stopped = [
        {**_engine(federation, node, "exareme", 2, (), node["name"]), "replicas": 0}
        for node in federation.get("disabled", ())
        if node["kind"] == "worker" and not node["disabled"]["keep_running"]
    ]
    # Hospitals that joined with a site kit, once they were accepted.
    workers += [
        _engine(federation, node, "exareme", 2, reachable, node["name"])
        for node in federation.get("kits", ())
        if node["site_kit"] == "member"
    ]
    return [keystore, scheduler, *workers, *stopped, *_portainer(federation, master, reachable)]


def _portainer(federation: Mapping[str, Any], master: Mapping[str, Any], reachable: Collection[str]) -> list[dict[str, Any]]:
    """Return Portainer if the inventory allows anybody to reach it. It holds the engine's socket, which is root on the master."""
    wanted = federation["expose"]["portainer"]
    if not wanted["allow"]:
        return []
    return [
        {
            **_service(federation, master, "portainer", 3, reachable),
            "image": image_for(federation, master, wanted["image"]),
            "args": ["--http-disabled", "--bind-https", ":9443", "--tlscert", "/certs/tls.crt", "--tlskey", "/certs/tls.key"],
            "mounts": [
                {"type": "bind", "source": "/var/run/docker.sock", "target": "/var/run/docker.sock"},
                {"type": "volume", "source": f"{federation['name']}_portainer", "target": "/data"},
                {"type": "bind", "source": wanted["certificate"], "target": "/certs/tls.crt", "read_only": True},
                {"type": "bind", "source": wanted["key"], "target": "/certs/tls.key", "read_only": True},
            ],
            "ports": [{"target": 9443, "published": wanted["port"], "protocol": "tcp", "mode": "host"}],
        }
    ]


class FilterModule:
    """Filters of hbp.mip."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"engine_services": engine_services}
