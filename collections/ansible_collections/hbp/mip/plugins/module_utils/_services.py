# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Swarm services as data: from options to the engine's specification, comparing, and explaining failed tasks.

Pure functions: nothing here talks to an engine.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ansible_collections.hbp.mip.plugins.module_utils import _registry

PROJECT_LABEL = "eu.humanbrainproject.mip.federation"

_NANO = 1000 * 1000 * 1000
_UNITS = {
    "ns": 1,
    "us": 1000,
    "ms": 1000 * 1000,
    "s": _NANO,
    "m": 60 * _NANO,
    "h": 3600 * _NANO,
}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)")
_NAME = re.compile(r"^[a-zA-Z0-9]+(?:[a-zA-Z0-9\-_]*[a-zA-Z0-9])?$")
_IMAGE_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")

#: States of a task that has ended, whatever the reason.
ENDED = ("complete", "failed", "shutdown", "rejected", "orphaned", "remove")
FAILED = ("failed", "rejected")


class SpecError(ValueError):
    """A wanted service that the engine would refuse, or not run as meant."""


class Wanted(NamedTuple):
    """A wanted service: its specification for the engine, and how this collection deals with it."""

    name: str
    node: str
    image: str
    wave: int
    wait: bool
    spec: Dict[str, Any]


# --- from options to a specification -----------------------------------------------------------------------------------


def nanoseconds(value: Any, where: str) -> int:
    """Nanoseconds in `value`: a number of seconds, or a duration such as `90s`, `1m30s` or `500ms`.

    Raises `SpecError` naming `where`.
    """
    text = str(value).strip()
    try:
        return int(float(text) * _NANO)
    except ValueError:
        pass
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise SpecError("%s: %r is not a duration such as 10, 30s or 1m30s" % (where, value))
    return int(sum(float(number) * _UNITS[unit] for number, unit in parts))


def _strings(values: Optional[Mapping[str, Any]], where: str) -> Dict[str, str]:
    """`values` with text values. A Boolean or null is refused: YAML turns an unquoted FALSE into one."""
    result = {}
    for key, value in (values or {}).items():
        if isinstance(value, bool) or value is None:
            raise SpecError("%s.%s: the value is %s, not a text. Put it in quotes" % (where, key, "null" if value is None else value))
        if isinstance(value, (dict, list)):
            raise SpecError("%s.%s: the value must be a text" % (where, key))
        result[str(key)] = str(value)
    return result


def _healthcheck(wanted: Optional[Mapping[str, Any]], where: str) -> Dict[str, Any]:
    if not wanted or not wanted.get("test"):
        return {}
    test = wanted["test"]
    if isinstance(test, str):
        test = ["NONE"] if test == "NONE" else ["CMD-SHELL", test]
    test = [str(word) for word in test]
    if test[0] not in ("CMD", "CMD-SHELL", "NONE"):
        test = ["CMD", *test]
    result: Dict[str, Any] = {"Test": test}
    for option, key in (
        ("interval", "Interval"),
        ("timeout", "Timeout"),
        ("start_period", "StartPeriod"),
    ):
        if wanted.get(option) is not None:
            result[key] = nanoseconds(wanted[option], "%s.%s" % (where, option))
    if wanted.get("retries"):
        result["Retries"] = int(wanted["retries"])
    return result


def _resources(wanted: Optional[Mapping[str, Any]], limits: bool) -> Dict[str, Any]:
    result: Dict[str, Any] = {}
    wanted = wanted or {}
    if wanted.get("memory_mb"):
        result["MemoryBytes"] = int(wanted["memory_mb"]) * 1024 * 1024
    if wanted.get("cpus"):
        result["NanoCPUs"] = round(float(wanted["cpus"]) * _NANO)
    if limits and wanted.get("pids"):
        result["Pids"] = int(wanted["pids"])
    return result


def _mounts(wanted: Optional[Sequence[Mapping[str, Any]]], where: str) -> List[Dict[str, Any]]:
    result = []
    for mount in wanted or []:
        kind = mount.get("type") or "bind"
        if not str(mount["target"]).startswith("/"):
            raise SpecError("%s: the target %s is not an absolute path" % (where, mount["target"]))
        item: Dict[str, Any] = {"Type": kind, "Target": mount["target"]}
        if kind != "tmpfs":
            if not mount.get("source"):
                raise SpecError("%s: a %s mount on %s needs a source" % (where, kind, mount["target"]))
            if kind == "bind" and not str(mount["source"]).startswith("/"):
                raise SpecError("%s: the source %s is not an absolute path" % (where, mount["source"]))
            item["Source"] = mount["source"]
        if mount.get("read_only"):
            item["ReadOnly"] = True
        result.append(item)
    targets = [item["Target"].rstrip("/") for item in result]
    double = sorted({target for target in targets if targets.count(target) > 1})
    if double:
        raise SpecError("%s: %s is a target more than once" % (where, ", ".join(double)))
    return sorted(result, key=lambda item: item["Target"])


def _ports(wanted: Optional[Sequence[Mapping[str, Any]]], endpoint_mode: str, where: str) -> List[Dict[str, Any]]:
    result = []
    for port in wanted or []:
        mode = port.get("mode") or "host"
        if mode == "ingress" and endpoint_mode == "dnsrr":
            raise SpecError(
                "%s: the port %s is published in ingress mode, which endpoint_mode dnsrr does not allow: use mode: host"
                % (where, port["target"])
            )
        item = {"Protocol": port.get("protocol") or "tcp", "TargetPort": int(port["target"]), "PublishMode": mode}
        if port.get("published"):
            item["PublishedPort"] = int(port["published"])
        for key in ("TargetPort", "PublishedPort"):
            if not 0 < int(str(item.get(key, 1))) < 65536:
                raise SpecError("%s: %s is not a port" % (where, item[key]))
        result.append(item)
    return sorted(result, key=_port_key)


def _port_key(port: Mapping[str, Any]) -> Tuple[int, int, str]:
    return (int(port.get("PublishedPort") or 0), int(port.get("TargetPort") or 0), str(port.get("Protocol")))


def _files(wanted: Optional[Sequence[Mapping[str, Any]]], ids: Mapping[str, str], kind: str, where: str) -> List[Dict[str, Any]]:
    """References to secrets (`kind` Secret) or configs (Config)."""
    result = []
    for item in wanted or []:
        if item["name"] not in ids:
            raise SpecError("%s: there is no %s called %s in the swarm" % (where, kind.lower(), item["name"]))
        result.append(
            {
                "%sID" % kind: ids[item["name"]],
                "%sName" % kind: item["name"],
                "File": {
                    "Name": item.get("target") or item["name"],
                    "UID": str(item.get("uid") or "0"),
                    "GID": str(item.get("gid") or "0"),
                    "Mode": int(str(item.get("mode") or "0444"), 8),
                },
            }
        )
    return sorted(result, key=lambda entry: str(entry["File"]["Name"]))


def _container_spec(item: Mapping[str, Any], where: str, secrets: Mapping[str, str], configs: Mapping[str, str]) -> Dict[str, Any]:
    container: Dict[str, Any] = {
        "Image": item["image"],
        "Labels": _strings(item.get("container_labels"), where + ".container_labels"),
        "Command": [str(word) for word in item.get("command") or []],
        "Args": [str(word) for word in item.get("args") or []],
        "Hostname": item.get("hostname") or "",
        "Env": sorted("%s=%s" % pair for pair in _strings(item.get("env"), where + ".env").items()),
        "Mounts": _mounts(item.get("mounts"), where + ".mounts"),
        "Healthcheck": _healthcheck(item.get("healthcheck"), where + ".healthcheck"),
        "Secrets": _files(item.get("secrets"), secrets, "Secret", where + ".secrets"),
        "Configs": _files(item.get("configs"), configs, "Config", where + ".configs"),
    }
    if item.get("init") is not None:
        container["Init"] = bool(item["init"])
    if item.get("stop_grace_period") is not None:
        container["StopGracePeriod"] = nanoseconds(item["stop_grace_period"], where + ".stop_grace_period")
    return {key: value for key, value in container.items() if value not in ("", [], {})}


def build_spec(
    item: Mapping[str, Any],
    project: str,
    networks: Mapping[str, str],
    secrets: Mapping[str, str],
    configs: Mapping[str, str],
) -> Dict[str, Any]:
    """The engine's ServiceSpec for the wanted service `item` (an element of the module's `services`).

    `networks`, `secrets` and `configs` map names to IDs. Raises `SpecError` with the service and option for what the engine
    would refuse.
    """
    name = str(item["name"])
    where = "service %s" % name
    if not _NAME.match(name) or len(name) > 63:
        raise SpecError("%s: the name may have letters, digits, - and _ only, and at most 63 characters" % where)
    endpoint_mode = item.get("endpoint_mode") or "dnsrr"
    ports = _ports(item.get("ports"), endpoint_mode, where + ".ports")
    update = item.get("update") or {}
    order = update.get("order") or "stop-first"
    host_ports = [port for port in ports if port["PublishMode"] == "host" and port.get("PublishedPort")]
    if host_ports and order != "stop-first":
        raise SpecError(
            "%s.update.order: the service publishes the port %d on its host, which the old and the new task cannot hold at "
            "once: use stop-first" % (where, host_ports[0]["PublishedPort"])
        )
    restart = item.get("restart") or {}
    restart_policy: Dict[str, Any] = {
        "Condition": restart.get("condition") or "any",
        "Delay": nanoseconds(5 if restart.get("delay") is None else restart["delay"], where + ".restart.delay"),
    }
    if restart.get("max_attempts"):
        restart_policy["MaxAttempts"] = int(restart["max_attempts"])
        restart_policy["Window"] = nanoseconds(restart.get("window") or 0, where + ".restart.window")
    template: Dict[str, Any] = {
        "ContainerSpec": _container_spec(item, where, secrets, configs),
        "Resources": {
            "Limits": _resources(item.get("limits"), True),
            "Reservations": _resources(item.get("reservations"), False),
        },
        "RestartPolicy": restart_policy,
        "Placement": {"Constraints": sorted(str(text) for text in item.get("constraints") or [])},
        "Networks": _attachments(item.get("networks"), networks, where),
        "ForceUpdate": 0,
        "Runtime": "container",
    }
    log = item.get("log") or {}
    if log.get("driver"):
        template["LogDriver"] = {"Name": log["driver"], "Options": _strings(log.get("options"), where + ".log.options")}
    monitor = nanoseconds(5 if update.get("monitor") is None else update["monitor"], where + ".update.monitor")
    labels = _strings(item.get("labels"), where + ".labels")
    labels[PROJECT_LABEL] = project
    replicas = item.get("replicas")
    return {
        "Name": name,
        "Labels": labels,
        "TaskTemplate": template,
        "Mode": {"Replicated": {"Replicas": 1 if replicas is None else int(replicas)}},
        "UpdateConfig": {
            "Parallelism": int(update.get("parallelism") or 1),
            "Delay": nanoseconds(update.get("delay") or 0, where + ".update.delay"),
            "FailureAction": update.get("failure_action") or "rollback",
            "Monitor": monitor,
            "MaxFailureRatio": 0,
            "Order": order,
        },
        "RollbackConfig": {
            "Parallelism": 1,
            "FailureAction": "pause",
            "Monitor": monitor,
            "MaxFailureRatio": 0,
            "Order": order,
        },
        "EndpointSpec": {"Mode": endpoint_mode, "Ports": ports},
    }


def _attachments(wanted: Optional[Sequence[Mapping[str, Any]]], networks: Mapping[str, str], where: str) -> List[Dict[str, Any]]:
    result = []
    for network in wanted or []:
        if network["name"] not in networks:
            raise SpecError(
                "%s.networks: there is no overlay network called %s in the swarm (there are: %s). Create it first with "
                "hbp.mip.swarm_network" % (where, network["name"], ", ".join(sorted(networks)) or "none")
            )
        attachment: Dict[str, Any] = {"Target": networks[network["name"]]}
        if network.get("aliases"):
            attachment["Aliases"] = sorted(str(alias) for alias in network["aliases"])
        result.append(attachment)
    return sorted(result, key=lambda entry: str(entry["Target"]))


def with_image(spec: Mapping[str, Any], image: str) -> Dict[str, Any]:
    """A copy of `spec` that runs `image`."""
    result = copy.deepcopy(dict(spec))
    result["TaskTemplate"]["ContainerSpec"]["Image"] = image
    return result


# --- images --------------------------------------------------------------------------------------------------------------


def image_of(spec: Mapping[str, Any]) -> str:
    """The image in a ServiceSpec."""
    return str(((spec.get("TaskTemplate") or {}).get("ContainerSpec") or {}).get("Image") or "")


def is_pinned(image: str) -> bool:
    """Whether `image` needs no registry to be told what it is: it names a digest, or an image that was loaded on its node."""
    return bool(_IMAGE_DIGEST.search(image)) or image.startswith(_registry.LOADED)


def without_digest(image: str) -> str:
    """`image` without its digest, and with the tag that is meant when there is none."""
    name = _IMAGE_DIGEST.sub("", image)
    return name if ":" in name.rsplit("/", 1)[-1] else name + ":latest"


def registry_of(image: str) -> str:
    """The registry that `image` comes from."""
    first = image.split("/", 1)[0]
    return first if "/" in image and ("." in first or ":" in first or first == "localhost") else "docker.io"


_MISSING_IMAGE = (
    "manifest unknown",
    "no such manifest",
    "name unknown",
    "not found",
    "repository does not exist",
    "requested access to the resource is denied",
    "invalid reference",
    "no such image",
    "tag does not exist",
)


def explain_registry(image: str, answer: str) -> Tuple[bool, str]:
    """Whether the registry was reached and does not have `image`, and the remedy, from the engine's words."""
    registry = registry_of(image)
    lower = answer.lower()
    if "http response to https client" in lower:
        return False, ("the registry speaks HTTP only: add %s to insecure-registries of the manager's engine (mip_docker)" % registry)
    if "certificate signed by unknown authority" in lower or "x509" in lower:
        return False, ("the engine does not trust the registry's certificate: put its CA into /etc/docker/certs.d/%s/ca.crt" % registry)
    if "unauthorized" in lower or "authentication required" in lower:
        return True, "the registry wants a login for it"
    if any(text in lower for text in _MISSING_IMAGE):
        return True, "correct the name or the tag, or push the image"
    if "no such host" in lower or "server misbehaving" in lower or "name resolution" in lower:
        return False, "the manager cannot resolve %s: correct the name, or the manager's DNS" % registry
    return False, "from the manager, try: curl -v http://%s/v2/" % registry


# --- comparing -----------------------------------------------------------------------------------------------------------

# Values that mean the same as leaving the key out. Engines differ in which of them they return.
_DEFAULTS: Dict[str, Any] = {
    "TaskTemplate.ContainerSpec.Isolation": "default",
    "TaskTemplate.ContainerSpec.StopGracePeriod": 10 * _NANO,
    "TaskTemplate.Runtime": "container",
    "TaskTemplate.RestartPolicy.Condition": "any",
    "TaskTemplate.RestartPolicy.Delay": 5 * _NANO,
    "UpdateConfig.Order": "stop-first",
    "RollbackConfig.Order": "stop-first",
    "RollbackConfig.FailureAction": "pause",
    "EndpointSpec.Mode": "vip",
}
# Written by the engine or by `docker service update --force`, not part of what is wanted.
_IGNORED = ("TaskTemplate.ForceUpdate", "TaskTemplate.Placement.Platforms")
# False and null differ here.
_KEEP_FALSE = ("TaskTemplate.ContainerSpec.Init",)


def _clean(value: Any, path: str) -> Any:
    """`value` without empty parts, defaults and ignored keys."""
    if isinstance(value, Mapping):
        result = {}
        for key, inner in value.items():
            inner_path = "%s.%s" % (path, key) if path else str(key)
            if inner_path in _IGNORED:
                continue
            inner = _clean(inner, inner_path)
            if inner is False and inner_path in _KEEP_FALSE:
                result[key] = inner
                continue
            if not inner or (inner_path in _DEFAULTS and inner == _DEFAULTS[inner_path]):
                continue
            result[str(key)] = inner
        return result
    if isinstance(value, (list, tuple)):
        # An empty text in a list is a word of a command; it must stay.
        return [_clean(inner, path + "[]") for inner in value]
    return value


def canonical(spec: Mapping[str, Any]) -> Dict[str, Any]:
    """`spec` (a ServiceSpec) in the one form in which two that mean the same are equal."""
    cleaned: Dict[str, Any] = _clean(spec, "")
    mode = spec.get("Mode") or {}
    if "Replicated" in mode or not mode:
        replicas = (mode.get("Replicated") or {}).get("Replicas")
        cleaned["Mode"] = {"Replicated": {"Replicas": 1 if replicas is None else int(replicas)}}
    else:
        cleaned["Mode"] = {key: _clean(value, "Mode." + key) for key, value in mode.items()}
    template = cleaned.get("TaskTemplate", {})
    if not template.get("Networks") and cleaned.get("Networks"):
        template["Networks"] = cleaned.pop("Networks")  # where engines before 17.03 kept them
    container = template.get("ContainerSpec", {})
    for holder, key, order in (
        (container, "Env", None),
        (container, "Mounts", lambda item: str(item.get("Target"))),
        (container, "Secrets", lambda item: str((item.get("File") or {}).get("Name"))),
        (container, "Configs", lambda item: str((item.get("File") or {}).get("Name"))),
        (template.get("Placement", {}), "Constraints", None),
        (template, "Networks", lambda item: str(item.get("Target"))),
        (cleaned.get("EndpointSpec", {}), "Ports", _port_key),
    ):
        if key in holder:
            holder[key] = sorted(holder[key], key=order)
    for attachment in template.get("Networks", []):
        if "Aliases" in attachment:
            attachment["Aliases"] = sorted(attachment["Aliases"])
    if "Constraints" in template.get("Placement", {}):
        template["Placement"]["Constraints"] = sorted(_constraint(text) for text in template["Placement"]["Constraints"])
    return cleaned


def _constraint(text: str) -> str:
    """A placement constraint without optional spaces."""
    return re.sub(r"\s*(==|!=)\s*", r"\1", text.strip())


def canonical_task(template: Mapping[str, Any]) -> Dict[str, Any]:
    """A TaskSpec in canonical form, `ForceUpdate` included: it tells new tasks from old ones."""
    result = dict(canonical({"TaskTemplate": template}).get("TaskTemplate", {}))
    result["ForceUpdate"] = int(template.get("ForceUpdate") or 0)
    return result


def tasks_are_replaced(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether an update from `old` to `new` makes the swarm replace running tasks."""
    if canonical_task(old.get("TaskTemplate") or {}) != canonical_task(new.get("TaskTemplate") or {}):
        return True
    return canonical(old).get("EndpointSpec") != canonical(new).get("EndpointSpec")


def readable(spec: Optional[Mapping[str, Any]], network_names: Mapping[str, str]) -> Dict[str, Any]:
    """`spec` for a diff: canonical, with names of networks (`network_names` maps IDs) and durations with units."""
    if not spec:
        return {}
    result: Dict[str, Any] = json.loads(json.dumps(canonical(spec)))
    for attachment in result.get("TaskTemplate", {}).get("Networks", []):
        attachment["Target"] = network_names.get(attachment["Target"], attachment["Target"])
    _with_units(result)
    return result


def spec_hash(spec: Mapping[str, Any], network_names: Mapping[str, str]) -> str:
    """A hash of what `spec` means; the same for the same service on any swarm."""
    text = json.dumps(readable(spec, network_names), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


_DURATION_KEYS = ("Delay", "Monitor", "Interval", "Timeout", "StartPeriod", "StopGracePeriod", "Window")


def _with_units(value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in _DURATION_KEYS and isinstance(inner, int):
                value[key] = "%gs" % (inner / _NANO)
            elif key == "MemoryBytes":
                value[key] = "%gMiB" % (inner / 1024 / 1024)
            else:
                _with_units(inner)
    elif isinstance(value, list):
        for inner in value:
            _with_units(inner)


def needs_repair(service: Mapping[str, Any]) -> bool:
    """Whether an earlier update of `service` stopped half-way, so that its tasks may not follow its specification."""
    return ((service.get("UpdateStatus") or {}).get("State") or "") in ("paused", "rollback_paused")


def is_dead(spec: Mapping[str, Any], tasks: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a service of this specification has fewer tasks than wanted that run or are going to be started.

    The swarm leaves it so: its restart policy allows no more attempts.
    """
    alive = [task for task in tasks if task.get("DesiredState") not in ENDED]
    return len(alive) < replicas_of(spec)


# --- tasks ---------------------------------------------------------------------------------------------------------------


class Failure(NamedTuple):
    """Why a task does not run: a stable `kind`, the engine's words, and what to do."""

    kind: str
    error: str
    fix: str


def task_error(task: Mapping[str, Any]) -> str:
    """The engine's words about what is wrong with `task`; empty when nothing is."""
    status = task.get("Status") or {}
    error = " ".join(str(status.get("Err") or "").split())
    if error or status.get("State") not in FAILED:
        return error
    code = (status.get("ContainerStatus") or {}).get("ExitCode")
    return "exit code %s" % code if code else str(status.get("Message") or "")


def exit_code(task: Mapping[str, Any]) -> int:
    """Exit code of the task's container; 0 when it has none."""
    return int(((task.get("Status") or {}).get("ContainerStatus") or {}).get("ExitCode") or 0)


_PATH = re.compile(r"bind source path does not exist: (\S+)")


def diagnose(error: str, image: str, code: int = 0) -> Failure:
    """What `error` (the engine's words about a task of `image`) means."""
    lower = error.lower()
    if "no suitable node" in lower:
        return _no_suitable_node(error, lower)
    if "bind source path does not exist" in lower or "invalid mount config" in lower:
        path = _PATH.search(error)
        return Failure(
            "mount",
            error,
            "on that node: mkdir -p %s" % path.group(1).rstrip('"') if path else "correct the mounts of the service",
        )
    if "volume name" in lower:
        return Failure("mount", error, "correct the name of the volume in the mounts of the service")
    if image.startswith(_registry.LOADED) and ("no such image" in lower or "connection refused" in lower):
        return Failure("image", error, "the image was not loaded on that node: mipfed image load BUNDLE")
    if "no such image" in lower or "pull access denied" in lower or "manifest unknown" in lower:
        return Failure(
            "image",
            error,
            "that node cannot get the image: on it, docker pull %s (insecure-registries and DNS must be right on every node)" % image,
        )
    if "address already in use" in lower or "port is already allocated" in lower:
        return Failure("port", error, "another program on that node holds the port: ss -ltnp, then stop it or publish another")
    if "oci runtime" in lower or "executable file not found" in lower or "exec format error" in lower:
        return Failure(
            "start",
            error,
            "the image does not run on that node: check its command and its architecture (docker image inspect, uname -m)",
        )
    if "unhealthy" in lower:
        return Failure("health", error, "the health check of the container fails: see the last lines of its log")
    if code == 137 or "oom" in lower:
        return Failure("memory", error, "the container was killed, probably for lack of memory: raise limits.memory_mb")
    if "non-zero exit" in lower or "exit code" in lower or code:
        return Failure("crash", error, "the program in the container ended by itself: see the last lines of its log")
    if "network" in lower or "subnet" in lower or "overlay" in lower:
        return Failure("network", error, "journalctl -u docker -n 50 on that node")
    return Failure("other", error, "docker service ps --no-trunc; journalctl -u docker -n 50 on that node")


def _no_suitable_node(error: str, lower: str) -> Failure:
    if "port already in use" in lower:
        return Failure("port", error, "another service of the swarm publishes the same port on that node: docker service ls, Ports")
    if "insufficient resources" in lower:
        return Failure("resources", error, "the node has not the reserved memory or CPUs: lower reservations")
    if "unsupported platform" in lower:
        return Failure("start", error, "the image has no variant for the architecture of the node")
    return Failure(
        "placement",
        error,
        "no node that is ready and active satisfies the constraints: docker node ls; docker node inspect -f "
        "'{{.Spec.Labels}} {{.Spec.Availability}} {{.Status.State}}'",
    )


def is_definite(failure: Failure) -> bool:
    """Whether trying again cannot help before somebody does something."""
    return failure.kind in ("mount", "start")


def newest_first(tasks: Iterable[Mapping[str, Any]]) -> List[Mapping[str, Any]]:
    """`tasks` by the time they were created, the newest first."""
    return sorted(tasks, key=lambda task: str(task.get("CreatedAt") or ""), reverse=True)


def running(tasks: Iterable[Mapping[str, Any]]) -> List[Mapping[str, Any]]:
    """The tasks that run and are meant to (which includes: healthy, when the container has a health check)."""
    return [task for task in tasks if task.get("DesiredState") == "running" and (task.get("Status") or {}).get("State") == "running"]


def ended(tasks: Iterable[Mapping[str, Any]]) -> List[Mapping[str, Any]]:
    """The tasks that are over: what went wrong with them tells nothing about the one that comes after them."""
    return [task for task in tasks if (task.get("Status") or {}).get("State") in ENDED]


def stumbles(tasks: Iterable[Mapping[str, Any]], since: str) -> bool:
    """Whether tasks have failed and none has kept running since a time (ISO 8601), so that one that runs now may be about to fail."""
    tasks = list(tasks)
    steady = [task for task in running(tasks) if str((task.get("Status") or {}).get("Timestamp") or "")[:19] < since[:19]]
    return not steady and any((task.get("Status") or {}).get("State") in FAILED for task in tasks)


def of_template(tasks: Iterable[Mapping[str, Any]], template: Mapping[str, Any]) -> List[Mapping[str, Any]]:
    """The tasks that were made from `template`."""
    wanted = canonical_task(template)
    return [task for task in tasks if canonical_task(task.get("Spec") or {}) == wanted]


def not_ours(service: Mapping[str, Any], project: str) -> str:
    """Why `service` must not be touched for the federation `project`; empty when it belongs to it."""
    spec = service["Spec"]
    owner = (spec.get("Labels") or {}).get(PROJECT_LABEL)
    if owner == project:
        return ""
    return (
        "service %s: there is a service of that name that %s. It is never touched. Next: docker service inspect %s, then remove or "
        "rename it, or choose another name"
        % (spec["Name"], "belongs to the federation %s" % owner if owner else "does not belong to this federation", spec["Name"])
    )


def pinned_to(spec: Mapping[str, Any]) -> str:
    """The node that the constraints of a service name; empty when they name none."""
    for text in ((spec.get("TaskTemplate") or {}).get("Placement") or {}).get("Constraints") or []:
        label, _unused, value = _constraint(text).partition("==")
        if label == "node.labels.name" and value:
            return str(value)
    return ""


def replicas_of(spec: Mapping[str, Any]) -> int:
    """How many tasks a replicated service shall have."""
    value = ((spec.get("Mode") or {}).get("Replicated") or {}).get("Replicas")
    return 1 if value is None else int(value)


def forced(spec: Mapping[str, Any]) -> Dict[str, Any]:
    """A copy of `spec` whose tasks the swarm takes for new ones, though nothing in them differs."""
    result = copy.deepcopy(dict(spec))
    result["TaskTemplate"]["ForceUpdate"] = int(result["TaskTemplate"].get("ForceUpdate") or 0) + 1
    return result
