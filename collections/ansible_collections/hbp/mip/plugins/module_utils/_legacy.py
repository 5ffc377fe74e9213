# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A swarm as the legacy playbooks leave it: what of it a federation can take over, and what cannot be kept.

Pure functions of what the engine's API says. The playbooks make one stack a node, called like its host: `<host>_exareme`, on the
master `<host>_exareme-keystore` and `<host>_exareme-master`, pinned by the node label `name=<host>`, on one overlay network.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, NamedTuple, Sequence

from ansible_collections.hbp.mip.plugins.module_utils import _encryption, _services, _swarm

STACK_LABEL = "com.docker.stack.namespace"
DATA_FOLDER = "/root/exareme/data"
PORTAINER = "mip-portainer"
_SUFFIXES = ("exareme-keystore", "exareme-master", "exareme")
_MTU_OPTION = "com.docker.network.driver.mtu"


class Swarm(NamedTuple):
    """What the engine of a manager answers: services, networks and nodes as they are in its API."""

    services: List[Dict[str, Any]]
    networks: List[Dict[str, Any]]
    nodes: List[Dict[str, Any]]


def problem(node: str, code: str, message: str, fix: str = "") -> Dict[str, str]:
    """Something to tell, in the form of the reports."""
    return {"node": node, "code": code, "message": message, "fix": fix}


def judge(swarm: Swarm, federation: Mapping[str, Any], wanted: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
    """What becomes of each service, what is to be known, and what stands in the way.

    `wanted` are the services of the federation, as the filter `engine_services` makes them.
    """
    project = str(federation["name"])
    by_name = {str(service["Spec"]["Name"]): service for service in swarm.services}
    notices: List[Dict[str, str]] = []
    problems: List[Dict[str, str]] = []
    services: List[Dict[str, str]] = []
    network = next((entry for entry in swarm.networks if entry.get("Name") == federation["overlay"]["name"]), None)
    for item in wanted:
        service = by_name.get(str(item["name"]))
        state = "missing"
        if service is not None:
            owner = (service["Spec"].get("Labels") or {}).get(_services.PROJECT_LABEL)
            state = "ours" if owner == project else "adopt"
        if service is not None and state == "adopt":
            why = unlike(service, item, network, project)
            if why:
                text = "there is a service %s, and it is none that the legacy playbooks make: %s" % (item["name"], "; ".join(why))
                fix = "docker service inspect %s; it is never touched as long as it is like this" % item["name"]
                problems.append(problem(str(item["node"]), "legacy-service", text, fix))
            problems += _data(service, item)
            notices += _kept(service, item)
        services.append({"name": str(item["name"]), "node": str(item["node"]), "state": state})
    others = [name for name in sorted(by_name) if name not in {str(item["name"]) for item in wanted}]
    services += [{"name": name, "node": "", "state": "foreign"} for name in others]
    adopted = [entry["name"] for entry in services if entry["state"] == "adopt"]
    problems += _names(swarm.nodes, federation)
    for name in others:
        notices += _other(by_name[name], problems)
    if adopted:
        problems += _network(network, federation["overlay"])
        notices.append(_stacks(adopted))
    return {"services": services, "adopt": adopted, "notices": notices, "problems": problems}


def unlike(service: Mapping[str, Any], item: Mapping[str, Any], network: Any, project: str) -> List[str]:
    """In what a service differs from one that the legacy playbooks make for this node; empty when it is one."""
    spec = service["Spec"]
    labels = spec.get("Labels") or {}
    owner = labels.get(_services.PROJECT_LABEL)
    node, suffix = str(item["node"]), str(item["name"])[len(str(item["node"])) + 1 :]
    wrong = []
    if owner and owner != project:
        wrong.append("it belongs to the federation %s" % owner)
    if suffix not in _SUFFIXES or labels.get(STACK_LABEL) != node:
        wrong.append("it is not of the stack %s" % node)
    if _services.pinned_to(spec) != node:
        wrong.append("it is not pinned to the node %s" % node)
    if "Replicated" not in (spec.get("Mode") or {"Replicated": {}}):
        wrong.append("it is not a replicated service")
    known = {str(network.get("Id")), str(network.get("Name"))} if network else set()
    targets = {str(entry.get("Target")) for entry in (spec.get("TaskTemplate") or {}).get("Networks") or spec.get("Networks") or []}
    if not targets & known:
        wrong.append("it is not on the federation's network")
    return wrong


def _mounted(spec: Mapping[str, Any], target: str) -> Dict[str, Any]:
    mounts = ((spec.get("TaskTemplate") or {}).get("ContainerSpec") or {}).get("Mounts") or []
    return next((mount for mount in mounts if str(mount.get("Target") or "").rstrip("/") == target.rstrip("/")), {})


def _data(service: Mapping[str, Any], item: Mapping[str, Any]) -> List[Dict[str, str]]:
    """Does an engine get its data from where the inventory says?"""
    wanted = next((mount for mount in item.get("mounts") or () if mount["target"] == DATA_FOLDER), None)
    if wanted is None:
        return []
    found = str(_mounted(service["Spec"], DATA_FOLDER).get("Source") or "").rstrip("/")
    if found == str(wanted["source"]).rstrip("/"):
        return []
    text = "the data of %s are in %s, and the inventory says %s" % (item["name"], found or "no folder of the host", wanted["source"])
    fix = "Set mip_data_root and mip_federation so that they name it, or let one path lead to the data on all nodes (mount --bind)"
    return [problem(str(item["node"]), "legacy-data", text, fix)]


def _kept(service: Mapping[str, Any], item: Mapping[str, Any]) -> List[Dict[str, str]]:
    """What changes with a service, beside its labels."""
    spec, node = service["Spec"], str(item["node"])
    told = []
    present = _services.without_digest(_services.image_of(spec))
    if present != _services.without_digest(str(item["image"])):
        text = "%s runs %s, and gets %s" % (item["name"], present, item["image"])
        told.append(problem(node, "legacy-image", text, "mip_engine names the images; the present ones are kept when it names them"))
    if str(item["name"]).endswith("_exareme-keystore"):
        volume = next((mount for mount in item.get("mounts") or () if mount.get("type") == "volume"), None)
        if volume and not _mounted(spec, str(volume["target"])):
            text = "the keystore has no volume; its keys are carried over, and are in the volume %s from then on" % volume["source"]
            told.append(problem(node, "legacy-keystore", text))
        if (spec.get("EndpointSpec") or {}).get("Ports") and not item.get("ports"):
            text = "the keystore's port is published, and is not any more"
            told.append(problem(node, "legacy-keystore-port", text, "mip_expose.keystore opens it for named addresses"))
    environment = ((spec.get("TaskTemplate") or {}).get("ContainerSpec") or {}).get("Env") or []
    lost = sorted({entry.partition("=")[0] for entry in environment} - set(item.get("env") or {}))
    if lost:
        text = "%s loses the environment %s" % (item["name"], ", ".join(lost))
        told.append(problem(node, "legacy-environment", text, "mip_engine.environment keeps what is written there"))
    return told


def _other(service: Mapping[str, Any], problems: Sequence[Mapping[str, str]]) -> List[Dict[str, str]]:
    """What to say about a service that is not wanted and stays as it is."""
    spec = service["Spec"]
    name, labels = str(spec["Name"]), spec.get("Labels") or {}
    stack = str(labels.get(STACK_LABEL) or "")
    if name == PORTAINER:
        text = "%s stays. It gives whoever reaches its port the master's Docker engine, which is root on all nodes" % name
        fix = "docker service rm %s on the master; mip_expose.portainer makes one that speaks TLS, for named addresses" % name
        return [problem("", "legacy-portainer", text, fix)]
    if stack and name in ["%s_%s" % (stack, suffix) for suffix in _SUFFIXES] and not any(entry["node"] == stack for entry in problems):
        text = "%s is of the legacy playbooks, and the inventory has no node %s that it belongs to. It stays as it is" % (name, stack)
        fix = "mipfed node add %s, then adopt again; or, if that hospital is gone, docker service rm %s on the master" % (stack, name)
        return [problem("", "legacy-unknown", text, fix)]
    return []


def _names(nodes: Sequence[Mapping[str, Any]], federation: Mapping[str, Any]) -> List[Dict[str, str]]:
    """Nodes of the swarm that the inventory calls otherwise: their services and labels would not be found."""
    told = []
    summaries = [_swarm.node_summary(node) for node in nodes]
    for node in federation["nodes"]:
        if node["kind"] == "ui":
            continue
        for found in summaries:
            addresses = {found["address"], found["manager_address"].rpartition(":")[0]}
            if node["address"] not in addresses or not found["name"] or found["name"] == node["name"]:
                continue
            text = "the swarm calls the node with the address %s %s, and the inventory calls it %s; its services are named after it" % (
                node["address"],
                found["name"],
                node["name"],
            )
            fix = "Give it that name in hosts.yml, or: mipfed import-legacy with --name %s=%s" % (node["address"], found["name"])
            told.append(problem(str(found["name"]), "legacy-name", text, fix))
    return told


def _network(network: Any, overlay: Mapping[str, Any]) -> List[Dict[str, str]]:
    """What of the network is not as the inventory says. It cannot be changed while services are on it."""
    if not network:
        text = "the services are there, and their network %s is not" % overlay["name"]
        return [problem("", "legacy-network", text, "Name it with mip_overlay.name; docker network ls on the master lists them")]
    options = network.get("Options") or {}
    pools = (network.get("IPAM") or {}).get("Config") or [{}]
    found: Dict[str, Any] = {
        "driver": str(network.get("Driver") or ""),
        "encrypted": _encryption.is_encrypted(options),
        "subnet": str(pools[0].get("Subnet") or ""),
        "mtu": int(options.get(_MTU_OPTION) or 0),
        "attachable": bool(network.get("Attachable")),
    }
    wanted: Dict[str, Any] = {
        "driver": "overlay",
        "encrypted": bool(overlay["encrypted"]),
        "subnet": str(overlay["subnet"]),
        "mtu": int(overlay["mtu"] or found["mtu"]),
        "attachable": False,
    }
    wrong = ["%s is %s, and %s is wanted" % (key, _said(found[key]), _said(wanted[key])) for key in found if found[key] != wanted[key]]
    if not wrong:
        return []
    text = "the network %s cannot be kept like this: %s" % (overlay["name"], "; ".join(wrong))
    fix = "Write the present values into mip_overlay, and take it over as it is"
    if not found["encrypted"] and overlay["encrypted"]:
        fix = (
            "A federation is encrypted. In an announced interruption: stop all with the old pusher, docker network rm %s, then deploy"
            % (overlay["name"])
        )
    return [problem("", "legacy-network", text, fix)]


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value or "not set")


def _stacks(names: Sequence[str]) -> Dict[str, str]:
    text = (
        "docker stack does not know %s any more once they are taken over, and the old pusher must not be used again: its service deploy "
        "removes every stack, and makes every worker leave the swarm" % ", ".join(names)
    )
    return problem("", "legacy-pusher", text, "Take the vault, the key and the mip script from the old pusher; mipfed token rotate")
