#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_info
short_description: State of the swarm and of this node in it
version_added: 0.1.0
description:
  - Says what this node is in a swarm and, on a manager, describes the cluster, its nodes and, if asked for, the services of a
    federation.
  - A node in no swarm, a locked manager and a manager without quorum are told apart. None of them makes the module fail.
extends_documentation_fragment:
  - hbp.mip.engine
author:
  - The hbp.mip authors (@HBPMedical)
options:
  project:
    description:
      - Also describe the services of this federation.
    type: str
  certificate_days:
    description:
      - Days before the end of a certificate from which on it is a problem.
    type: int
    default: 14
attributes:
  check_mode:
    description: Changes nothing anyway.
    support: full
  diff_mode:
    description: Changes nothing, so that there is no difference to show.
    support: none
  idempotent:
    description: Changes nothing.
    support: full
seealso:
  - module: hbp.mip.swarm_member
"""

EXAMPLES = r"""
- name: Look at the swarm
  hbp.mip.swarm_info:
    project: lab
  register: swarm
"""

RETURN = r"""
local_state:
  description: What the node is now.
  returned: always
  type: str
  choices: [none, pending, worker, manager, locked, no-quorum, error]
cluster_id:
  description: ID of the swarm the node is in. Empty when it is in none.
  returned: always
  type: str
node_id:
  description: ID of the node.
  returned: always
  type: str
node_addr:
  description: The address the node advertises.
  returned: always
  type: str
role:
  description: V(manager), V(worker), or empty.
  returned: always
  type: str
remote_addrs:
  description: The managers this node knows.
  returned: always
  type: list
  elements: str
certificate_expires:
  description: When the node's own certificate expires (UTC).
  returned: always
  type: str
engine_version:
  description: Version of the engine. Empty when there is no engine.
  returned: always
  type: str
site:
  description: What is known of the hospital's own command on the node, C(paused) with C(paused_since) and C(paused_reason) among it.
  returned: always
  type: dict
  sample: {"paused": false, "paused_since": "", "paused_reason": "", "command_sha256": "1a2b", "config_sha256": "3c4d",
   "kit_overdue": false}
cluster:
  description: The cluster. Empty except on a working manager.
  returned: always
  type: dict
  contains:
    id: {description: ID of the swarm., type: str}
    created: {description: When it was created., type: str}
    address_pools: {description: Networks from which subnets are taken., type: list, elements: str}
    subnet_size: {description: Prefix length of such a subnet., type: int}
    data_path_port: {description: UDP port of overlay networks., type: int}
    ca_expires: {description: When the swarm's CA expires., type: str}
    ca_rotation: {description: A rotation of the CA is under way., type: bool}
    autolock: {description: A manager has to be unlocked after a restart., type: bool}
    node_certificate_days: {description: Life of the nodes' certificates., type: float}
    heartbeat_seconds: {description: Time between the signs of life of a node., type: float}
    task_history: {description: Ended tasks kept for each service., type: int}
nodes:
  description: The nodes of the swarm. Empty except on a working manager.
  returned: always
  type: list
  elements: dict
  sample:
    - {"id": "x7", "hostname": "lab-wk-1", "name": "lab-wk-1", "role": "worker", "availability": "active", "status": "ready",
       "reachability": "", "leader": false, "address": "10.77.1.21", "engine_version": "20.10.24", "labels": {"name": "lab-wk-1"}}
twins:
  description: Nodes with the same name, host name or address.
  returned: always
  type: list
  elements: dict
  sample: [{"by": "name", "value": "lab-wk-1", "nodes": ["x7", "k2"], "down": ["k2"]}]
managers:
  description: How many managers there are.
  returned: always
  type: dict
  contains:
    total: {description: All managers., type: int}
    reachable: {description: Those that work., type: int}
    needed: {description: Majority that must work., type: int}
    may_fail: {description: How many more may fail., type: int}
    quorum: {description: A majority works., type: bool}
services:
  description: The services of O(project).
  returned: always
  type: list
  elements: dict
  sample:
    - {"name": "lab-wk-1_exareme", "node": "lab-wk-1", "image": "10.77.1.1:5000/exareme:1.0@sha256:...", "state": "running", "desired": 1,
       "running": 1, "error": "", "since": "2026-11-22T10:00:00Z", "update_state": "completed", "stopped_since": "", "stopped_reason": ""}
problems:
  description: What is wrong, and what to do about it.
  returned: always
  type: list
  elements: dict
  sample: [{"code": "node-down", "message": "the node lab-wk-1 (x7) is down", "fix": "..."}]
"""

import time
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _services, _site, _stopped, _swarm
from ansible_collections.hbp.mip.plugins.module_utils._engine import EngineError, EngineMissing, connect, engine_call

_NANO = 1e9
_DAY = 86400.0


def problem(code: str, message: str, fix: str) -> Dict[str, str]:
    """One entry of `problems`."""
    return {"code": code, "message": message, "fix": fix}


def describe_cluster(cluster: Dict[str, Any]) -> Dict[str, Any]:
    """The properties of the cluster, from the engine's ClusterInfo."""
    spec = cluster.get("Spec") or {}
    expires = ca_expiry(cluster)
    return {
        "id": cluster.get("ID", ""),
        "created": cluster.get("CreatedAt", ""),
        "updated": cluster.get("UpdatedAt", ""),
        "version": (cluster.get("Version") or {}).get("Index", 0),
        "address_pools": list(cluster.get("DefaultAddrPool") or []),
        "subnet_size": cluster.get("SubnetSize") or 0,
        "data_path_port": cluster.get("DataPathPort") or 0,
        "ca_expires": _swarm.iso_time(expires) if expires else "",
        "ca_rotation": bool(cluster.get("RootRotationInProgress")),
        "autolock": bool((spec.get("EncryptionConfig") or {}).get("AutoLockManagers")),
        "node_certificate_days": ((spec.get("CAConfig") or {}).get("NodeCertExpiry") or 0) / _NANO / _DAY,
        "heartbeat_seconds": ((spec.get("Dispatcher") or {}).get("HeartbeatPeriod") or 0) / _NANO,
        "task_history": (spec.get("Orchestration") or {}).get("TaskHistoryRetentionLimit") or 0,
    }


def ca_expiry(cluster: Dict[str, Any]) -> int:
    """When the swarm's CA expires, in Unix seconds; 0 when that is not known."""
    root = (cluster.get("TLSInfo") or {}).get("TrustRoot") or ""
    try:
        return _swarm.parse_certificate(root.encode()).not_after
    except ValueError:
        return 0


def count_managers(nodes: List[Dict[str, Any]]) -> Dict[str, Any]:
    """Managers, those that work, and the majority."""
    managers = [node for node in nodes if node["role"] == _swarm.MANAGER]
    reachable = sum(node["reachability"] == "reachable" for node in managers)
    needed = len(managers) // 2 + 1 if managers else 0
    return {
        "total": len(managers),
        "reachable": reachable,
        "needed": needed,
        "may_fail": max(0, reachable - needed),
        "quorum": bool(managers) and reachable >= needed,
    }


def node_problems(nodes: List[Dict[str, Any]]) -> List[Dict[str, str]]:
    """What is wrong with the nodes of the swarm."""
    found = []
    for node in nodes:
        said = "%s (%s)" % (node["name"] or node["hostname"], node["id"])
        if node["status"] != "ready":
            why = ": %s" % node["status_message"] if node["status_message"] else ""
            found.append(
                problem(
                    "node-down",
                    "the node %s is %s%s" % (said, node["status"], why),
                    "on %s: systemctl status docker; it must reach TCP 2377 of a manager" % node["address"],
                )
            )
        elif node["role"] == _swarm.MANAGER and node["reachability"] != "reachable":
            found.append(
                problem(
                    "manager-unreachable",
                    "the manager %s is %s" % (said, node["reachability"] or "not reachable"),
                    "on %s: systemctl status docker; TCP 2377 must be open between managers" % node["address"],
                )
            )
        if node["availability"] != "active":
            found.append(
                problem(
                    "node-" + node["availability"],
                    "the node %s takes no tasks: its availability is %s" % (said, node["availability"]),
                    "mipfed node activate %s" % node["name"]
                    if node["name"]
                    else "docker node update --availability active %s" % node["id"],
                )
            )
    for twin in _swarm.twins(nodes):
        remove = "; ".join("docker node rm %s" % node_id for node_id in twin["down"])
        found.append(
            problem(
                "twins",
                "%d nodes have the %s %s: %s" % (len(twin["nodes"]), twin["by"], twin["value"], ", ".join(twin["nodes"])),
                "remove the old one, which is down: %s" % remove
                if remove
                else "find out which host is the right one, and let the other leave",
            )
        )
    return found


def manager_problems(managers: Dict[str, Any]) -> List[Dict[str, str]]:
    """What is wrong with the number of managers."""
    if managers["total"] and managers["total"] % 2 == 0:
        return [
            problem(
                "even-managers",
                "%d managers tolerate no more failures than %d do" % (managers["total"], managers["total"] - 1),
                "have an odd number of managers: mip_swarm_manager in the inventory",
            )
        ]
    return []


def certificate_problems(what: str, expires: int, now: float, days: int) -> List[Dict[str, str]]:
    """Whether the certificate of `what` ends soon."""
    if not expires or expires - now > days * _DAY:
        return []
    return [
        problem(
            "certificate",
            "the certificate of %s %s at %s" % (what, "expired" if expires <= now else "expires", _swarm.iso_time(expires)),
            "check the clock (timedatectl) and that the node reaches a manager; mipfed token rotate --ca renews all",
        )
    ]


def describe_service(service: Dict[str, Any], tasks: List[Dict[str, Any]], nodes: Dict[str, Dict[str, Any]]) -> Dict[str, Any]:
    """One service for a status table."""
    spec = service["Spec"]
    running = _services.running(tasks)
    newest = _services.newest_first(tasks)
    # The newest error tells why a service does not run; a running one has none, whatever happened before.
    wanted = _services.replicas_of(spec)
    task = running[0] if running else (newest[0] if newest else {})
    error = ""
    if len(running) < wanted:
        error = next((text for text in map(_services.task_error, newest) if text), "")
    status = task.get("Status") or {}
    node = nodes.get(str(task.get("NodeID") or "")) or {}
    return {
        "name": spec.get("Name", ""),
        "node": node.get("name") or node.get("hostname") or _services.pinned_to(spec),
        "image": _services.image_of(spec),
        "state": status.get("State", ""),
        "desired": wanted,
        "running": len(running),
        "error": error,
        "since": status.get("Timestamp", ""),
        "update_state": (service.get("UpdateStatus") or {}).get("State", ""),
        "stopped_since": _stopped.since(spec),
        "stopped_reason": _stopped.reason(spec),
    }


def service_problems(services: List[Dict[str, Any]]) -> List[Dict[str, str]]:
    """Services that do not run as wanted."""
    found = []
    for service in services:
        if service["running"] >= service["desired"]:
            continue
        why = service["error"] or ("its task is %s" % service["state"] if service["state"] else "it has no task")
        failure = _services.diagnose(service["error"], service["image"])
        found.append(
            problem(
                "service-down",
                "the service %s%s runs %d of %d tasks: %s"
                % (
                    service["name"],
                    " on %s" % service["node"] if service["node"] else "",
                    service["running"],
                    service["desired"],
                    why,
                ),
                failure.fix if service["error"] else "docker service ps --no-trunc %s" % service["name"],
            )
        )
    return found


def read_services(client: Any, project: str, nodes: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """The services of `project` with their tasks, in two requests."""
    with engine_call("list the services of the swarm"):
        services = client.services(filters={"label": "%s=%s" % (_services.PROJECT_LABEL, project)})
    tasks: Dict[str, List[Dict[str, Any]]] = {str(service["ID"]): [] for service in services}
    if services:
        with engine_call("list the tasks of the swarm"):
            for task in client.tasks(filters={"service": list(tasks)}):
                tasks.setdefault(str(task["ServiceID"]), []).append(task)
    by_id = {node["id"]: node for node in nodes}
    return sorted(
        (describe_service(service, tasks[str(service["ID"])], by_id) for service in services),
        key=lambda service: str(service["name"]),
    )


def collect(client: Any, project: str, days: int, now: float) -> Dict[str, Any]:
    """Everything this module returns about a host with an engine."""
    with engine_call("read the state of the engine"):
        info = client.info()
    root_dir = str(info.get("DockerRootDir") or "/var/lib/docker")
    local = _swarm.classify(info, _swarm.read_certificate(root_dir), _swarm.read_start_config(root_dir))
    result = dict(empty(), **local.public())
    result["site"] = _site.facts()
    result["engine_version"] = str(info.get("ServerVersion") or "")
    problems: List[Dict[str, str]] = result["problems"]
    message, fix = _swarm.state_problem(local)
    if message:
        problems.append(problem(local.state, message, fix))
    if local.certificate:
        problems += certificate_problems("this node", local.certificate.not_after, now, days)
    if local.state != _swarm.MANAGER:
        return result
    result["cluster"] = describe_cluster(local.cluster)
    problems += certificate_problems("the swarm's CA", ca_expiry(local.cluster), now, days)
    try:
        with engine_call("list the nodes of the swarm"):
            nodes = [_swarm.node_summary(node) for node in client.nodes()]
        result["nodes"] = sorted(nodes, key=lambda node: (str(node["name"]), str(node["hostname"]), str(node["id"])))
        result["twins"] = _swarm.twins(nodes)
        result["managers"] = count_managers(nodes)
        problems += node_problems(result["nodes"]) + manager_problems(result["managers"])
        if project:
            result["services"] = read_services(client, project, nodes)
            problems += service_problems(result["services"])
    except EngineError as error:
        # The majority can be lost between two requests.
        problems.append(problem("incomplete", str(error), "run this again; docker info on the manager tells its state"))
    return result


def empty() -> Dict[str, Any]:
    """The result for a host that has nothing to tell."""
    return {
        "local_state": _swarm.NONE,
        "cluster_id": "",
        "node_id": "",
        "node_addr": "",
        "role": "",
        "remote_addrs": [],
        "certificate_expires": "",
        "engine_version": "",
        "site": {},
        "cluster": {},
        "nodes": [],
        "twins": [],
        "managers": count_managers([]),
        "services": [],
        "problems": [],
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str"},
            "certificate_days": {"type": "int", "default": 14},
            "docker_host": {"type": "str", "default": "unix:///var/run/docker.sock"},
            "engine_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    params: Dict[str, Any] = module.params
    try:
        client = connect(params["docker_host"], params["engine_timeout"])
        result = collect(client, params["project"] or "", params["certificate_days"], time.time())
    except EngineMissing as error:
        result = empty()
        result["problems"] = [problem("engine", str(error), "install Docker: mipfed deploy")]
        result["engine_missing"] = True
    except EngineError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
