# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Docker engine's configuration file: what is to become of it, and what a change asks of the running engine."""

from __future__ import annotations

import ipaddress
import json
import os
import time
from typing import Any, Callable, NamedTuple

from ansible_collections.hbp.mip.plugins.module_utils import _docker_http

PATH = "/etc/docker/daemon.json"

# What the engine takes over at SIGHUP (daemon/reload.go of moby 20.10 to 29); everything else needs a restart.
RELOADABLE = frozenset(
    {
        "allow-nondistributable-artifacts",
        "authorization-plugins",
        "debug",
        "default-runtime",
        "features",
        "insecure-registries",
        "labels",
        "live-restore",
        "max-concurrent-downloads",
        "max-concurrent-uploads",
        "max-download-attempts",
        "network-diagnostic-port",
        "registry-mirrors",
        "runtimes",
        "shutdown-timeout",
    }
)

# Lists whose elements are `name=value`: a second value for the same name would contradict the first.
_NAMED_LISTS = frozenset({"exec-opts", "labels", "storage-opts"})

# Flags of dockerd whose names do not follow from the key.
_FLAGS = {"hosts": ("-H", "--host"), "data-root": ("-g", "--data-root"), "debug": ("-D", "--debug"), "log-level": ("-l",)}


class ConfigError(Exception):
    """The configuration file cannot be used as it is, or what is wanted cannot be written into it."""


class Plan(NamedTuple):
    """What becomes of the file: its text before and after, and the keys that differ.

    `pending` are keys of the file that the running engine does not follow, `conflicts` flags with which it would not start again.
    """

    before: str
    after: str
    keys: list[str]
    pending: list[str]
    conflicts: list[str]


def plan(path: str, wanted: dict[str, Any], info: Callable[[], dict[str, Any] | None]) -> Plan:
    """Compare the file with what is wanted, and with what the engine runs with. Raises ConfigError.

    `info` asks the running engine about itself, None when it does not answer; it is called only where that matters.
    """
    text = _read(path)
    present = parse(text, path)
    merged = merge(present, wanted)
    keys = changed_keys(present, merged)
    pid = _docker_http.daemon_pid()
    conflicts = flags_in_conflict(keys, command_line(pid)) if pid else []
    return Plan(text, render(merged), keys, _pending(path, present, pid, info) if pid else [], conflicts)


def in_order(wanted: dict[str, Any], info: dict[str, Any] | None) -> bool:
    """Whether the engine's configuration is as wanted and in force, so that there is nothing to do and nothing to tell about it."""
    try:
        found = plan(PATH, wanted, lambda: info)
    except Exception:  # whatever it is, the module daemon_config meets it as well and tells it
        return False
    return not (found.keys or found.pending or found.conflicts)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("%s cannot be read: %s" % (path, error)) from error


def _pending(path: str, present: dict[str, Any], pid: int, info: Callable[[], dict[str, Any] | None]) -> list[str]:
    """Keys of the file that the running engine does not follow, because an earlier run was cut off before the restart."""
    arguments = command_line(pid)
    if path != PATH and path not in " ".join(arguments):
        return []
    found = set()
    previous = path + ".previous"
    try:
        if os.path.exists(previous) and os.stat(path).st_mtime > started_at(pid) + 0.05:
            former = parse(_read(previous), previous)
            found.update(needs_restart(changed_keys(former, present)))
    except (OSError, ValueError, IndexError, ConfigError):
        pass
    told = info()
    if told is not None:
        found.update(not_in_force(present, told))
    return sorted(found)


def parse(text: str, path: str) -> dict[str, Any]:
    """The configuration in `text`; an empty file is an empty configuration. Raises ConfigError with line and column."""
    if not text.strip():
        return {}
    try:
        found = json.loads(text, object_pairs_hook=_no_duplicates)
    except json.JSONDecodeError as error:
        lines = text.splitlines()
        line = lines[error.lineno - 1].strip() if error.lineno <= len(lines) else ""
        raise ConfigError(
            "%s, line %d, column %d: %s, at: %s. Nothing was changed. Correct the file, or move it away"
            % (path, error.lineno, error.colno, error.msg, line or "the end of the file")
        ) from error
    except ValueError as error:
        raise ConfigError("%s: %s. Nothing was changed. Correct the file" % (path, error)) from error
    if not isinstance(found, dict):
        raise ConfigError("%s holds %s instead of an object. Correct the file" % (path, type(found).__name__))
    return found


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError("the key %r stands there twice, and only one of them counts" % key)
        found[key] = value
    return found


def render(configuration: dict[str, Any]) -> str:
    """The file's text."""
    return json.dumps(configuration, indent=2, ensure_ascii=False) + "\n" if configuration else "{}\n"


def merge(present: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """`present` with `wanted` in it: keys of `present` stay, objects are merged and lists united.

    Options of a log driver belong to that driver, so they do not outlive a change of it. Raises ConfigError.
    """
    merged = dict(present)
    if "log-driver" in wanted and wanted["log-driver"] != present.get("log-driver", "json-file"):
        merged.pop("log-opts", None)
    for key, value in wanted.items():
        if key == "log-opts" and isinstance(value, dict):
            value = {name: _option_text(option) for name, option in value.items()}
        merged[key] = _merge_value(key, merged.get(key), value)
    return merged


def _option_text(value: Any) -> str:
    # the engine refuses numbers and booleans here, and templates easily turn "3" into 3
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _merge_value(key: str, present: Any, wanted: Any) -> Any:
    if present is None:
        return wanted
    if isinstance(present, dict) and isinstance(wanted, dict):
        merged = dict(present)
        for name, value in wanted.items():
            merged[name] = _merge_value(name, present.get(name), value)
        return merged
    if isinstance(present, list) and isinstance(wanted, list):
        return _unite(key, present, wanted)
    if isinstance(present, (dict, list)) != isinstance(wanted, (dict, list)):
        raise ConfigError("the key %r holds %s in the file, but %s is wanted" % (key, type(present).__name__, type(wanted).__name__))
    return wanted


def _unite(key: str, present: list[Any], wanted: list[Any]) -> list[Any]:
    names = {_element_name(key, item) for item in wanted}
    kept = [item for item in present if _element_name(key, item) not in names or item in wanted]
    return kept + [item for item in wanted if item not in kept]


def _element_name(key: str, item: Any) -> str:
    if key in _NAMED_LISTS and isinstance(item, str):
        return item.partition("=")[0]
    if key == "default-address-pools" and isinstance(item, dict):
        return str(item.get("base"))
    return json.dumps(item, sort_keys=True)


def changed_keys(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The keys whose values differ."""
    return sorted(key for key in set(before) | set(after) if before.get(key) != after.get(key))


def needs_restart(keys: list[str]) -> list[str]:
    """Those of `keys` that the engine reads only at its start."""
    return [key for key in keys if key not in RELOADABLE]


def not_in_force(configuration: dict[str, Any], info: dict[str, Any]) -> list[str]:
    """The keys of the file that the running engine, by its own `info`, does not follow; only what it tells about."""
    found = []
    registry = info.get("RegistryConfig") or {}
    insecure = set(registry.get("InsecureRegistryCIDRs") or [])
    indexes = registry.get("IndexConfigs") or {}
    insecure.update(name for name, index in indexes.items() if not index.get("Secure", True))
    # the engine writes mirrors with a slash at the end and networks without host bits
    mirrors = {str(item).rstrip("/") for item in registry.get("Mirrors") or []}
    if any(_registry_name(str(item)) not in insecure for item in configuration.get("insecure-registries") or []):
        found.append("insecure-registries")
    if any(str(item).rstrip("/") not in mirrors for item in configuration.get("registry-mirrors") or []):
        found.append("registry-mirrors")
    if "live-restore" in configuration and configuration["live-restore"] != info.get("LiveRestoreEnabled"):
        found.append("live-restore")
    if configuration.get("log-driver", info.get("LoggingDriver")) != info.get("LoggingDriver"):
        found.append("log-driver")
    return found


def _registry_name(text: str) -> str:
    text = text.partition("://")[2] or text
    try:
        return str(ipaddress.ip_network(text, strict=False)) if "/" in text else text
    except ValueError:
        return text


def flags_in_conflict(keys: list[str], command_line: list[str]) -> list[str]:
    """Flags of the running engine that would keep it from starting, because the file sets the same."""
    conflicts = []
    for key in keys:
        names = {"--" + key}
        if key.endswith("ies"):
            names.add("--%sy" % key[:-3])
        elif key.endswith("s"):
            names.add("--" + key[:-1])
        names.update(_FLAGS.get(key, ()))
        for argument in command_line[1:]:
            flag = argument.partition("=")[0]
            if flag in names and flag not in conflicts:
                conflicts.append(flag)
    return conflicts


def started_at(pid: int) -> float:
    """When the process started, in seconds since 1970. Raises OSError, or ValueError for an unreadable answer."""
    with open("/proc/%d/stat" % pid, encoding="utf-8", errors="replace") as stream:
        ticks = int(stream.read().rpartition(")")[2].split()[19])
    with open("/proc/uptime", encoding="ascii") as stream:
        uptime = float(stream.read().split()[0])
    return time.time() - (uptime - ticks / float(os.sysconf("SC_CLK_TCK")))


def command_line(pid: int) -> list[str]:
    """The arguments of a process; empty when it is gone."""
    try:
        with open("/proc/%d/cmdline" % pid, encoding="utf-8", errors="replace") as stream:
            return [item for item in stream.read().split("\0") if item]
    except OSError:
        return []
