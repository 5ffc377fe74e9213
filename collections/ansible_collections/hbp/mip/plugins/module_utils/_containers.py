# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Containers of one host as they are wanted: their specifications, secrets, and what tells that one has to be made anew.

Nothing here talks to the engine.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

from ansible_collections.hbp.mip.plugins.module_utils import _files, _services

PROJECT = "eu.humanbrainproject.mip.federation"
COMPONENT = "eu.humanbrainproject.mip.portal"
SPEC = "eu.humanbrainproject.mip.portal.spec"
PREVIOUS = "-previous"
SECRETS = "/run/secrets"

# Exports what the files hold, byte for byte, and becomes the image's own program. $(cat) would lose line feeds at the end, which is
# why values with one are refused.
_WRAPPER = (
    'set -eu; for name in $MIP_SECRET_NAMES; do value="$(cat "/run/secrets/$name")"; export "$name=$value"; done; '
    'unset name value MIP_SECRET_NAMES; exec "$@"'
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class ContainerError(ValueError):
    """A wanted container that the engine would refuse, or not run as meant; or a file on the host that is in the way."""


class Wanted(NamedTuple):
    """A wanted container."""

    name: str
    component: str
    image: str
    once: bool
    timeout: float
    options: Mapping[str, Any]


def check_secret(name: str, value: str) -> str:
    """Return the value of a secret if a file and an environment can carry it. Raises ContainerError."""
    if not value:
        raise ContainerError("the secret %s is empty" % name)
    if "\0" in value or value.endswith("\n"):
        raise ContainerError("the secret %s has a NUL, or ends with a line feed: neither can be handed to a container unchanged" % name)
    return value


def read_bytes(path: str) -> Optional[bytes]:
    """Return what a file holds, None when there is none."""
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except FileNotFoundError:
        return None


class SecretFiles:
    """The secrets of the containers in a folder of this host that only root can enter.

    ``generated/`` keeps passwords that were made here once, ``<component>/`` is what that component's container sees.
    """

    def __init__(self, folder: str, dry: bool) -> None:
        """Remember where, and whether nothing may be written."""
        self.folder = folder
        self.dry = dry
        self.written: List[str] = []
        self._invented: Dict[str, bytes] = {}

    def _folder(self, *parts: str) -> str:
        path = self.folder
        for part, mode in [("", 0o700)] + [(part, 0o755) for part in parts]:
            path = os.path.join(path, part) if part else path
            if not os.path.isdir(path):
                os.makedirs(path, mode)
            if os.stat(path).st_mode & 0o7777 != mode:
                os.chmod(path, mode)
        return path

    def _kept(self, key: str, make: Any) -> bytes:
        """Return the content of a generated file, made now if there is none."""
        path = os.path.join(self.folder, "generated", key)
        found = read_bytes(path)
        if found:
            return found
        if key not in self._invented:
            self._invented[key] = make()
            if not self.dry:
                _files.replace(os.path.join(self._folder("generated"), key), self._invented[key], 0o600)
        return self._invented[key]

    def password(self, key: str) -> str:
        """Return a password that is made on this host once and kept."""
        if not re.fullmatch(r"[a-z0-9-]+", key):
            raise ContainerError("%r is no name for a generated password" % key)
        kept = self._kept(key, lambda: secrets.token_urlsafe(32).encode("ascii"))
        try:
            # Somebody may have written another one in its place.
            return kept.decode("utf-8")
        except UnicodeDecodeError:
            path = os.path.join(self.folder, "generated", key)
            raise ContainerError("the password in %s is no UTF-8: write another one into that file" % path) from None

    def mark(self, data: bytes) -> str:
        """Return what tells whether a secret is the same as before, and nothing else about it."""
        salt = self._kept("salt", lambda: secrets.token_bytes(32))
        return hmac.new(salt, data, hashlib.sha256).hexdigest()[:32]

    def path(self, component: str) -> str:
        """Return the folder that a component's container sees."""
        return os.path.join(self.folder, component)

    def outdated(self, component: str, values: Mapping[str, str]) -> List[str]:
        """Return the files of a component that are missing, other, or too many."""
        folder = self.path(component)
        there = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        wrong = [name for name, value in values.items() if read_bytes(os.path.join(folder, name)) != value.encode("utf-8")]
        return sorted(set(wrong) | (there - set(values)))

    def write(self, component: str, values: Mapping[str, str]) -> None:
        """Write the files of a component. Those who may not enter the folder above cannot read them."""
        for name in self.outdated(component, values):
            self.written.append("%s/%s" % (component, name))
            if self.dry:
                continue
            path = os.path.join(self._folder(component), name)
            if name in values:
                _files.replace(path, values[name].encode("utf-8"), 0o444)
            else:
                os.unlink(path)


def secret_values(options: Mapping[str, Any], files: SecretFiles) -> Dict[str, str]:
    """Return the secrets of a container by the names of their files. Raises ContainerError."""
    found: Dict[str, str] = {}
    for item in options.get("secrets") or ():
        name = str(item["name"])
        if not _NAME.fullmatch(name) or name in found:
            raise ContainerError("%s: %r is no name for a secret, or there twice" % (options["component"], name))
        if bool(item.get("generate")) == bool(item.get("value")):
            raise ContainerError("%s: the secret %s needs either a value or the name of a generated one" % (options["component"], name))
        found[name] = check_secret(name, str(item["value"]) if item.get("value") else files.password(str(item["generate"])))
    return found


def write_files(wanted: Iterable[Mapping[str, Any]], dry: bool) -> Dict[str, bytes]:
    """Write the files that are missing or other, unless only that is asked; return those with their content."""
    written = {}
    for item in wanted:
        path, data, mode = str(item["path"]), str(item["secret"] or item["content"]).encode("utf-8"), int(str(item["mode"]), 8)
        there = read_bytes(path)
        same = there == data and os.stat(path).st_mode & 0o7777 == mode
        if same or (there is not None and item["keep"]):
            continue
        written[path] = data
        if not dry:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            _files.replace(path, data, mode)
    return written


def file_marks(paths: Iterable[str], written: Mapping[str, bytes]) -> Dict[str, str]:
    """Return the SHA-256 of each file, empty for one that is not there.

    :arg written: what was written just now, or would have been.
    """
    found = {}
    for path in paths:
        data = written.get(path, read_bytes(path))
        found[path] = hashlib.sha256(data).hexdigest() if data is not None else ""
    return found


def _environment(options: Mapping[str, Any], where: str) -> List[str]:
    result = []
    for key, value in sorted((options.get("env") or {}).items()):
        if isinstance(value, (bool, dict, list)) or value is None:
            raise ContainerError("%s.env.%s: the value must be a text, so put it in quotes" % (where, key))
        if "\0" in str(value) or not _NAME.fullmatch(str(key)):
            raise ContainerError("%s.env.%s: no environment can carry this" % (where, key))
        result.append("%s=%s" % (key, value))
    return result


def _ports(options: Mapping[str, Any], where: str) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    exposed: Dict[str, Any] = {}
    bindings: Dict[str, Any] = {}
    for port in options.get("ports") or ():
        for key in ("target", "published"):
            if not 0 < int(port[key]) < 65536:
                raise ContainerError("%s: %s is not a port" % (where, port[key]))
        inside = "%d/tcp" % int(port["target"])
        exposed[inside] = {}
        bindings.setdefault(inside, []).append({"HostIp": str(port.get("address") or ""), "HostPort": str(int(port["published"]))})
    return exposed, bindings


def _mounts(options: Mapping[str, Any], secrets_folder: str, where: str) -> List[Dict[str, Any]]:
    result = []
    for mount in options.get("mounts") or ():
        kind = mount.get("type") or "bind"
        if kind == "bind" and not str(mount["source"]).startswith("/"):
            raise ContainerError("%s: the source %s is not an absolute path" % (where, mount["source"]))
        item = {"Type": kind, "Source": mount["source"], "Target": mount["target"]}
        if mount.get("read_only"):
            item["ReadOnly"] = True
        result.append(item)
    if secrets_folder:
        result.append({"Type": "bind", "Source": secrets_folder, "Target": SECRETS, "ReadOnly": True})
    targets = [item["Target"] for item in result]
    if len(set(targets)) != len(targets):
        raise ContainerError("%s: two mounts have the same target" % where)
    return result


def _healthcheck(options: Mapping[str, Any], where: str) -> Dict[str, Any]:
    wanted = options.get("healthcheck") or {}
    if not wanted.get("test"):
        return {}
    result: Dict[str, Any] = {"Test": ["CMD"] + [str(word) for word in wanted["test"]]}
    for key, name in (("interval", "Interval"), ("timeout", "Timeout"), ("start_period", "StartPeriod")):
        if wanted.get(key):
            result[name] = _services.nanoseconds(wanted[key], "%s.healthcheck.%s" % (where, key))
    if wanted.get("retries"):
        result["Retries"] = int(wanted["retries"])
    return result


def build(options: Mapping[str, Any], project: str, network: str, secrets_folder: str) -> Dict[str, Any]:
    """Return what the engine is asked for to make a container, without labels and without the wrapper of its program.

    Raises ContainerError or SpecError naming what is wrong.
    """
    where = str(options["component"])
    exposed, bindings = _ports(options, where)
    log = options.get("log") or {}
    host: Dict[str, Any] = {
        "NetworkMode": network,
        "Mounts": _mounts(options, secrets_folder if options.get("secrets") else "", where),
        "PortBindings": bindings,
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 10} if options.get("once") else {"Name": "unless-stopped"},
        "LogConfig": {
            "Type": "json-file",
            "Config": {"max-size": str(log.get("max_size") or "10m"), "max-file": str(log.get("max_files") or 3)},
        },
        "SecurityOpt": ["no-new-privileges"],
    }
    limits = options.get("limits") or {}
    if limits.get("memory_mb"):
        host["Memory"] = int(limits["memory_mb"]) << 20
    if limits.get("cpus"):
        host["NanoCpus"] = round(float(limits["cpus"]) * 1000000000)
    if limits.get("pids"):
        host["PidsLimit"] = int(limits["pids"])
    body: Dict[str, Any] = {
        "Image": str(options["image"]),
        "Hostname": str(options.get("hostname") or options["component"]),
        "Env": _environment(options, where),
        "HostConfig": host,
        "NetworkingConfig": {"EndpointsConfig": {network: {"Aliases": sorted(options.get("aliases") or [])}}},
    }
    if exposed:
        body["ExposedPorts"] = exposed
    if options.get("args"):
        body["Cmd"] = [str(word) for word in options["args"]]
    healthcheck = _healthcheck(options, where)
    if healthcheck:
        body["Healthcheck"] = healthcheck
    if options.get("stop_seconds"):
        body["StopTimeout"] = int(options["stop_seconds"])
    return body


def secret_names(options: Mapping[str, Any]) -> List[str]:
    """Return the names of the secrets that the image can only take from its environment."""
    return [str(item["name"]) for item in options.get("secrets") or () if item.get("environment")]


def wrapped(body: Mapping[str, Any], names: List[str], image: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the request so that a program that knows no files gets secrets in its environment, which `inspect` does not show.

    :arg image: what the engine knows of the image: its own program is started after the secrets were read.
    """
    result = dict(body)
    if not names:
        return result
    config = image.get("Config") or {}
    program = list(config.get("Entrypoint") or []) + list(body.get("Cmd") or config.get("Cmd") or [])
    if not program:
        raise ContainerError("the image %s names no program, so that it cannot be given %s" % (body["Image"], ", ".join(names)))
    result["Entrypoint"] = ["/bin/sh", "-c", _WRAPPER, "sh"]
    result["Cmd"] = program
    result["Env"] = [*body["Env"], "MIP_SECRET_NAMES=%s" % " ".join(names)]
    return result


def readable(body: Mapping[str, Any], options: Mapping[str, Any], marks: Mapping[str, str], watched: Mapping[str, str]) -> Dict[str, Any]:
    """Return what a container is made of, for comparison and for people; of secrets only whether they are others."""
    result = {"request": dict(body), "secrets": dict(marks), "files": dict(watched), "in_environment": secret_names(options)}
    plain: Dict[str, Any] = json.loads(json.dumps(result, sort_keys=True))
    return plain


def with_labels(body: Mapping[str, Any], project: str, component: str, shown: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the request with the labels by which the container is found and compared again."""
    spec = json.dumps(shown, sort_keys=True, separators=(",", ":"))
    return {**body, "Labels": {PROJECT: project, COMPONENT: component, SPEC: spec}}


def spec_of(labels: Optional[Mapping[str, str]]) -> Dict[str, Any]:
    """Return what a container was made of; empty when it is not known."""
    try:
        found = json.loads((labels or {}).get(SPEC) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def condition(state: Mapping[str, Any], once: bool, has_check: bool) -> Tuple[str, str]:
    """Return how a container is (``up``, ``done``, ``starting`` or ``failed``), and why it failed."""
    status, code = str(state.get("Status") or ""), int(state.get("ExitCode") or 0)
    if state.get("Restarting") or status == "restarting":
        return "starting" if once else "failed", "it ended with code %d and is started again and again" % code
    if status == "running":
        health = str((state.get("Health") or {}).get("Status") or "")
        if has_check and health == "unhealthy":
            checks = (state.get("Health") or {}).get("Log") or [{}]
            return "failed", "its health check fails: %s" % (" ".join(str(checks[-1].get("Output") or "").split()) or "no output")
        return ("starting", "") if once or (has_check and health != "healthy") else ("up", "")
    if status == "created":
        return "starting", ""
    if once and code == 0 and status == "exited":
        return "done", ""
    reason = str(state.get("Error") or "")
    if state.get("OOMKilled"):
        reason = "it was killed for lack of memory"
    return "failed", reason or "it ended with code %d" % code


def version(image: str) -> List[int]:
    """Return the numbers that an image's tag begins with: 11 and 3 for postgres:11.3-alpine; empty when there are none."""
    name = image.partition("@")[0].rpartition("/")[2]
    found = re.match(r"v?(\d+(?:\.\d+)*)", name.partition(":")[2])
    return [int(part) for part in found.group(1).split(".")] if found else []


def older(image: str, other: str) -> bool:
    """Tell whether an image is of an older version than another; never when one of them does not say."""
    mine, theirs = version(image), version(other)
    length = max(len(mine), len(theirs))
    return bool(mine and theirs) and mine + [0] * (length - len(mine)) < theirs + [0] * (length - len(theirs))
