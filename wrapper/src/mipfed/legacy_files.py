# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the files that a pusher of the `mip` script has. Each reader takes what it can and tells what it cannot, by line.

Nothing is decided here: what the files mean together is up to `mipfed.legacy`. No value that may be a secret is ever in a remark.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mipfed import paths

#: Levels of a remark: taken over, worth knowing, and standing in the way.
TAKEN, NOTE, PROBLEM = "taken", "note", "problem"
_REFERENCE = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}")


@dataclass(frozen=True)
class Remark:
    """What was understood, or why not."""

    level: str
    path: Path
    line: int
    message: str
    next: str = ""

    @property
    def where(self) -> str:
        """File and line."""
        return f"{paths.shown(self.path)}:{self.line}" if self.line else paths.shown(self.path)

    def as_dict(self) -> dict[str, Any]:
        """Return the remark for JSON."""
        return {"level": self.level, "file": str(self.path), "line": self.line, "message": self.message, "next": self.next}


@dataclass
class Remarks:
    """Everything that there is to say about one file."""

    path: Path
    all: list[Remark] = field(default_factory=list)

    def add(self, level: str, line: int, message: str, next: str = "") -> None:
        """Note something about a line; 0 stands for the whole file."""
        self.all.append(Remark(level, self.path, line, message, next))


@dataclass(frozen=True)
class Value:
    """A value and the line that it stands on."""

    text: str
    line: int

    @property
    def reference(self) -> str:
        """The variable that the value is a reference to; empty when it is none."""
        found = _REFERENCE.fullmatch(self.text.strip())
        return found.group(1) if found else ""


# --- hosts.ini ---------------------------------------------------------------------------------------------------------


@dataclass
class HostsIni:
    """An inventory in Ansible's INI format: hosts by group, and each host's own variables."""

    groups: dict[str, list[str]] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    variables: dict[str, dict[str, Value]] = field(default_factory=dict)


_GROUP = re.compile(r"\[([^\]\s:]+)(?::(vars|children))?\]\s*(?:[#;].*)?")


def hosts_ini(text: str, remarks: Remarks) -> HostsIni:
    """Read `hosts.ini`. A host may stand on many lines, each with some of its variables, as the legacy script writes them."""
    found = HostsIni()
    group, section = "ungrouped", ""
    group_values: dict[str, dict[str, Value]] = {}
    children: dict[str, list[str]] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        if line.startswith("["):
            header = _GROUP.fullmatch(line)
            if header is None:
                remarks.add(PROBLEM, number, "this is no group: a name without blanks in brackets is expected", "correct the line")
                section = "unknown"
                continue
            group, section = header.group(1), header.group(2) or ""
            found.groups.setdefault(group, [])
            continue
        if section == "vars":
            key, equals, value = line.partition("=")
            if equals:
                group_values.setdefault(group, {})[key.strip()] = Value(_unquoted(value.strip()), number)
            else:
                remarks.add(PROBLEM, number, f"in [{group}:vars] every line is NAME=VALUE", "correct the line")
        elif section == "children":
            children.setdefault(group, []).append(line.split()[0])
        elif section != "unknown":
            _host_line(line, number, group, found, remarks)
    for name, inner in children.items():
        for child in inner:
            found.groups.setdefault(name, []).extend(host for host in found.groups.get(child, []) if host not in found.groups[name])
    for name, values in group_values.items():
        members = list(found.lines) if name == "all" else found.groups.get(name, [])
        for host in members:
            found.variables[host] = {**values, **found.variables[host]}
    return found


def _host_line(line: str, number: int, group: str, found: HostsIni, remarks: Remarks) -> None:
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        remarks.add(PROBLEM, number, f"the quotes do not match ({error})", "correct the line")
        return
    host, *pairs = words
    if "[" in host or "{" in host:
        remarks.add(PROBLEM, number, f"{host} is a pattern, and stands for hosts that are not written out", "write each host on a line")
        return
    if re.fullmatch(r"[^:]+:\d+", host):
        host, _colon, port = host.partition(":")
        found.variables.setdefault(host, {})["ansible_port"] = Value(port, number)
    found.lines.setdefault(host, number)
    values = found.variables.setdefault(host, {})
    if host not in found.groups.setdefault(group, []):
        found.groups[group].append(host)
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            remarks.add(PROBLEM, number, f"after the host {host} every word is NAME=VALUE, and one is not", "correct the line, or quote it")
            continue
        if key in values and values[key].text != value:
            remarks.add(NOTE, number, f"{key} of {host} was given before, on line {values[key].line}; the last one counts")
        values[key] = Value(value, number)


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


# --- vault.yaml --------------------------------------------------------------------------------------------------------

_PLAIN_ENTRY = re.compile(r"([A-Za-z_]\w*)\s*:(?:\s+(.*))?")


def vault_yaml(text: str, remarks: Remarks) -> dict[str, Value]:
    """Read the decrypted `vault.yaml`: names and texts. The script wrote the values without quotes, so that YAML may mistake them.

    What YAML makes of a value is what the playbooks logged in with, and therefore counts; where it fails, the line itself does.
    """
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return _vault_lines(text, remarks)
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        remarks.add(PROBLEM, 1, "it is no list of NAME: VALUE", "ansible-vault view shows it; correct it with ansible-vault edit")
        return {}
    found: dict[str, Value] = {}
    lines = text.splitlines()
    for key, value in node.value:
        number = key.start_mark.line + 1
        if not isinstance(value, yaml.ScalarNode):
            return _vault_lines(text, remarks)
        if key.value in found:
            remarks.add(NOTE, number, f"{key.value} was given before, on line {found[key.value].line}; the last one counts")
        if value.style is None and re.search(r"\s#", lines[number - 1][key.end_mark.column :]):
            remarks.add(NOTE, number, f"what stands behind ' #' in {key.value} is a comment to YAML, and was none of the value")
        raw = lines[number - 1][key.end_mark.column :].lstrip(" :").strip()
        # A password that begins with & or ! is an anchor or a tag to YAML, and the value nothing.
        found[key.value] = Value(str(value.value) or (raw if value.style is None and raw[:1] in ("&", "!") else ""), number)
    return found


def _vault_lines(text: str, remarks: Remarks) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#") or line in ("---", "..."):
            continue
        entry = _PLAIN_ENTRY.fullmatch(line)
        if entry is None:
            # The line may be a part of a password: it is not shown.
            remarks.add(PROBLEM, number, "it is no NAME: VALUE", "correct it with ansible-vault edit, and quote values")
            continue
        found[entry.group(1)] = Value(_unquoted((entry.group(2) or "").strip()), number)
    remarks.add(NOTE, 0, "it is no YAML that the playbooks could have read; its values were taken as they stand")
    return found


# --- ssh config --------------------------------------------------------------------------------------------------------


@dataclass
class Stanza:
    """One `Host` of an ssh configuration. `enabled` is false when its line is a comment, which is how the script disables a node."""

    names: list[str]
    line: int
    enabled: bool
    options: dict[str, Value] = field(default_factory=dict)


_HOST = re.compile(r"(#+\s*)?Host(?:\s+|\s*=\s*)(\S.*)", re.IGNORECASE)
_OPTION = re.compile(r"(#+\s*)?(Host[Nn]ame|User|Port|IdentityFile)(?:\s+|\s*=\s*)(\S.*)", re.IGNORECASE)


def ssh_config(text: str, remarks: Remarks) -> list[Stanza]:
    """Read the ssh configuration of a federation: its order tells what each node is, master, ui, then workers."""
    found: list[Stanza] = []
    current: Stanza | None = None
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line:
            continue
        if (option := _OPTION.fullmatch(line)) and current and bool(option.group(1)) <= (not current.enabled):
            current.options.setdefault(option.group(2).lower(), Value(_unquoted(option.group(3).strip()), number))
        elif host := _HOST.fullmatch(line):
            names = host.group(2).split()
            if host.group(1) and not _names(names):
                continue  # an ordinary comment that begins with the word
            if any(sign in name for name in names for sign in "*?!"):
                remarks.add(NOTE, number, "settings for a pattern of hosts are not taken over")
                current = None
                continue
            current = Stanza(names, number, not host.group(1))
            found.append(current)
        elif re.match(r"(Match|Include)\b", line, re.IGNORECASE):
            remarks.add(NOTE, number, f"{line.split()[0]} is not followed")
            current = None if line.lower().startswith("match") else current
        elif not line.startswith("#"):
            word = line.split()[0]
            if current is None:
                remarks.add(NOTE, number, f"{word} stands before the first Host and is not taken over")
            elif word.lower() not in ("stricthostkeychecking", "userknownhostsfile"):
                remarks.add(NOTE, number, f"{word} of {current.names[0]} is not taken over")
    # A comment that only looks like a disabled node has no address.
    return [stanza for stanza in found if stanza.enabled or "hostname" in stanza.options]


def _names(names: list[str]) -> bool:
    return 0 < len(names) < 4 and all(re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) for name in names)


# --- .mipenv, exareme.yaml, docker-compose-master.yml --------------------------------------------------------------------


def mipenv(text: str, remarks: Remarks) -> dict[str, Value]:
    """Read `.mipenv`: NAME=value, with or without quotes."""
    found: dict[str, Value] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip().removeprefix("export ").strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*", key):
            remarks.add(PROBLEM, number, "it is no NAME=VALUE", "correct or remove the line")
            continue
        if key in found and found[key].text != _unquoted(value.strip()):
            remarks.add(NOTE, number, f"{key} was given before, on line {found[key].line}; the last one counts")
        found[key] = Value(_unquoted(value.strip()), number)
    return found


def _composed(text: str, remarks: Remarks) -> Any:
    """Return the document with its lines; nothing when it is empty, or no YAML, which is told."""
    import yaml

    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        remarks.add(PROBLEM, mark.line + 1 if mark else 0, f"it is no YAML: {getattr(error, 'problem', None) or error}", "correct it")
        return None


def variables_yaml(text: str, remarks: Remarks) -> dict[str, Value]:
    """Read a file of plain variables such as `group_vars/exareme.yaml`; every value is a text."""
    import yaml

    node = _composed(text, remarks)
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        remarks.add(PROBLEM, 1, "it is no list of NAME: VALUE", "correct it")
        return {}
    return {str(key.value): Value(str(value.value), key.start_mark.line + 1) for key, value in node.value if isinstance(value.value, str)}


@dataclass
class Compose:
    """What the stack file of the master fixes: the keystore's image, and the engine's environment."""

    keystore_image: Value | None = None
    environment: dict[str, Value] = field(default_factory=dict)


def compose(text: str, remarks: Remarks) -> Compose:
    """Read `docker-compose-master.yml`."""
    found = Compose()
    services = _mapping(_mapping(_composed(text, remarks)).get("services"))
    if image := _mapping(services.get("exareme-keystore")).get("image"):
        found.keystore_image = Value(str(image.value), image.start_mark.line + 1)
    environment = _mapping(services.get("exareme-master")).get("environment")
    for name, value in _pairs(environment):
        if not value.text.startswith("$"):
            found.environment[name] = value
    return found


def _mapping(node: Any) -> Mapping[str, Any]:
    return {str(key.value): value for key, value in node.value} if getattr(node, "id", "") == "mapping" else {}


def _pairs(node: Any) -> list[tuple[str, Value]]:
    if getattr(node, "id", "") == "mapping":
        return [(str(key.value), Value(str(value.value), key.start_mark.line + 1)) for key, value in node.value]
    found = []
    for item in node.value if getattr(node, "id", "") == "sequence" else ():
        name, _equals, value = str(item.value).partition("=")
        found.append((name, Value(value, item.start_mark.line + 1)))
    return found
