# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the inventory of a federation that was deployed with the `mip` script from the files of its pusher. Contacts no host."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mipfed import initialise, legacy_files, paths, vault
from mipfed.errors import Problem, configuration, pair, usage
from mipfed.exitcodes import ExitCode
from mipfed.initialise import NAME
from mipfed.legacy_files import NOTE, PROBLEM, TAKEN, HostsIni, Remark, Remarks, Stanza, Value
from mipfed.outcome import Outcome

if TYPE_CHECKING:
    from rich.console import Console

    from mipfed.session import Session

#: What is looked for below a folder, by what it is.
FILES = {
    "hosts": ("hosts.ini",),
    "vault": ("vault.yaml", "vault.yml"),
    "ssh": (".ssh/config",),
    "env": (".mipenv",),
    "image": ("group_vars/exareme.yaml", "group_vars/exareme.yml"),
    "compose": ("Compose-Files/docker-compose-master.yml",),
}
_BY_NAME = {
    "hosts.ini": "hosts",
    "vault.yaml": "vault",
    "vault.yml": "vault",
    "config": "ssh",
    ".mipenv": "env",
    "exareme.yaml": "image",
    "exareme.yml": "image",
    "docker-compose-master.yml": "compose",
}
_SHIPPED_KEYSTORE = "bitnami/consul:1.8.3"
_ENGINE = {
    "ENVIRONMENT_TYPE": ("environment_type", str, "PROD"),
    "LOG_LEVEL": ("log_level", str, "INFO"),
    "TEMP_FILES_CLEANUP_TIME": ("temp_files_cleanup_minutes", int, 30),
    "NODE_COMMUNICATION_TIMEOUT": ("communication_timeout_ms", int, 30000),
}
_CONTRACT = {"CONSULURL", "NODE_NAME", "FEDERATION_ROLE", "CONVERT_CSVS"}


@dataclass
class Node:
    """A node as the files describe it together."""

    name: str
    kind: str
    address: str
    line: str
    port: int = 22
    user: str = ""
    password: str = ""
    sudo_password: str = ""
    data_path: str = ""
    enabled: bool = True


@dataclass
class Found:
    """What was read: the files, what was said about them, and what they mean."""

    files: dict[str, Path] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    engine_image: str = ""
    keystore_image: str = ""
    keystore_data: str = ""
    engine: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)

    @property
    def problems(self) -> list[Remark]:
        """What stands in the way."""
        return [remark for remark in self.remarks if remark.level == PROBLEM]

    def one(self, kind: str) -> Node | None:
        """Return the master, or the ui node."""
        return next((node for node in self.nodes if node.kind == kind), None)


# --- finding the files -------------------------------------------------------------------------------------------------


def locate(given: Sequence[Path]) -> dict[str, Path]:
    """Return the files to read, by what they are.

    :arg given: folders, which are searched, and files, which are known by their names.
    :raises MipfedError: USAGE when something is not there or not known; CONFIGURATION when a folder has a file twice, or none of them.
    """
    found: dict[str, Path] = {}
    for path in (entry.expanduser() for entry in given):
        if path.is_dir():
            for kind, names in FILES.items():
                if kind not in found and (hit := _below(path, kind, names)):
                    found[kind] = hit
        elif path.is_file():
            if path.name not in _BY_NAME:
                raise usage(f"{path} is none of the files of a pusher; known by their names are: {', '.join(sorted(_BY_NAME))}.")
            found[_BY_NAME[path.name]] = path
        else:
            raise usage(f"{path} does not exist.")
    if "hosts" not in found and "ssh" not in found:
        raise configuration(
            f"There is neither a hosts.ini nor an .ssh/config in {', '.join(str(path) for path in given)}.",
            next="Give the folder of the federation on its pusher, usually /opt/FEDERATION/exareme, with --from",
        )
    return found


def _below(folder: Path, kind: str, names: Iterable[str]) -> Path | None:
    hits = sorted(
        {hit for name in names for hit in folder.rglob(PurePosixPath(name).name) if hit.is_file() and str(hit).endswith("/" + name)}
    )
    if len(hits) > 1:
        raise configuration(
            f"{folder} has {len(hits)} files that could be the federation's: {', '.join(str(hit) for hit in hits)}.",
            next=f"Give the right one as well, before the folder: --from {hits[0]}",
        )
    return hits[0] if hits else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise configuration(f"{path} cannot be read: {error.strerror}", next=f"ls -l {path}") from None
    except UnicodeDecodeError as error:
        raise configuration(f"{path} is not UTF-8 (byte {error.start + 1}).", next=f"file {path}; iconv converts it") from None


# --- reading -----------------------------------------------------------------------------------------------------------


def read(files: Mapping[str, Path], names: Mapping[str, str], password: Callable[[Path], str] | None) -> Found:
    """Read the files and put together what they say.

    :arg names: names of nodes by their addresses, where the files do not tell or tell otherwise.
    :arg password: gives the vault password; without it secrets are not taken over.
    :raises MipfedError: CONFIGURATION when a file cannot be read, or the vault not be opened.
    """
    found = Found(files=dict(files))
    hosts, secrets, stanzas = HostsIni(), dict[str, Value](), list[Stanza]()
    if path := files.get("hosts"):
        hosts = legacy_files.hosts_ini(_read(path), remarks := Remarks(path))
        found.remarks += remarks.all
    if path := files.get("vault"):
        secrets = _vault(path, password, found)
    if path := files.get("ssh"):
        stanzas = legacy_files.ssh_config(_read(path), remarks := Remarks(path))
        found.remarks += remarks.all
    _nodes(found, hosts, secrets, stanzas, names)
    _images(found)
    _data(found)
    if path := files.get("env"):
        remarks = Remarks(path)
        _environment(found, legacy_files.mipenv(_read(path), remarks), remarks, password is not None)
        found.remarks += remarks.all
    return found


def _vault(path: Path, password: Callable[[Path], str] | None, found: Found) -> dict[str, Value]:
    text, remarks = _read(path), Remarks(path)
    if password is None:
        remarks.add(NOTE, 0, "not read, because no secrets are taken over")
        found.remarks += remarks.all
        return {}
    if text.startswith(vault.MARK.decode()):
        from mipfed import vault_files

        text = vault_files.decrypted(text, password(path), path)
    else:
        remarks.add(
            NOTE,
            0,
            "its passwords stand there in clear text, as an interrupted run of the script leaves them",
            f"ansible-vault encrypt {path}",
        )
    secrets = legacy_files.vault_yaml(text, remarks)
    remarks.add(TAKEN, 0, f"{len(secrets)} secrets")
    found.remarks += remarks.all
    return secrets


class _Reader:
    """Values of one host of `hosts.ini`, with references to the vault followed."""

    def __init__(self, values: Mapping[str, Value], secrets: Mapping[str, Value], remarks: Remarks, host: str, *, open_vault: bool) -> None:
        self.values, self.secrets, self.remarks, self.host, self.open_vault = values, secrets, remarks, host, open_vault

    def get(self, *keys: str) -> str:
        """Return the value of the first of these variables that is there."""
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if not value.reference:
                return value.text
            if value.reference in self.secrets:
                return self.secrets[value.reference].text
            if self.open_vault:
                text = f"{key} of {self.host} is {value.reference} of the vault, which does not have it"
                self.remarks.add(NOTE, value.line, text, "ansible-vault edit vault.yaml adds it")
        return ""


def _nodes(found: Found, hosts: HostsIni, secrets: Mapping[str, Value], stanzas: list[Stanza], names: Mapping[str, str]) -> None:
    path = found.files.get("hosts")
    remarks = Remarks(path or found.files["ssh"])
    open_vault = bool(secrets)
    by_address = {stanza.options["hostname"].text: stanza for stanza in stanzas if "hostname" in stanza.options}
    used: set[int] = set()

    def make(host: str, kind: str) -> None:
        values = hosts.variables.get(host, {})
        line = hosts.lines.get(host, 0)
        reader = _Reader(values, secrets, remarks, host, open_vault=open_vault)
        address = reader.get("ansible_host", "ansible_ssh_host")
        if not address:
            remarks.add(PROBLEM, line, f"the host {host} has no ansible_host", "add its address")
            return
        stanza = by_address.get(address)
        if stanza:
            used.add(id(stanza))
        name = names.get(address) or reader.get("hostname") or (stanza.names[0] if stanza else "")
        if not name:
            text = f"nothing tells the hostname of {host} ({address}), which is its name in the swarm"
            remarks.add(PROBLEM, line, text, f"give it: --name {address}=HOSTNAME; `hostname` on that machine prints it")
            return
        node = Node(name, kind, address, f"{remarks.path.name}:{line}")
        node.port = _port(reader.get("ansible_port", "ansible_ssh_port") or _option(stanza, "port"), line, remarks)
        node.user = reader.get("ansible_user", "ansible_ssh_user", "remote_user") or _option(stanza, "user")
        node.password = reader.get("ansible_ssh_pass", "ansible_password")
        node.sudo_password = reader.get("ansible_become_pass", "ansible_become_password")
        node.data_path = reader.get("data_path", "remote_data_path").rstrip("/")
        node.enabled = stanza.enabled if stanza else True
        become = reader.get("become_user")
        if become not in ("", "root", node.user):
            remarks.add(NOTE, line, f"{host} works as {become} there; mipfed becomes root")
        if node.password and node.sudo_password not in ("", node.password):
            text = f"{host} has another password for sudo than for SSH, and the first contact knows one, that for SSH"
            remarks.add(
                NOTE, line, text, f"Allow the new key there by hand, for an account that may become root: mipfed -f NAME check -l {name}"
            )
        _judge_name(node, line, remarks)
        remarks.add(TAKEN, line, f"{kind} {name}, {node.user + '@' if node.user else ''}{address}" + ("" if node.enabled else ", disabled"))
        found.nodes.append(node)

    masters = hosts.groups.get("master") or hosts.groups.get("manager") or []
    if path and len(masters) != 1:
        text = f"the group master has {len(masters)} hosts, and exactly one is expected"
        remarks.add(PROBLEM, 0, text, "a pusher of the mip script has exactly one; correct it")
    for host in masters[:1]:
        make(host, "master")
    for host in hosts.groups.get("workers", []):
        make(host, "worker")
    if path and not hosts.groups.get("workers"):
        remarks.add(PROBLEM, 0, "the group workers has no hosts", "add the hospitals' nodes")
    known = {"master", "manager", "workers", "ungrouped", "all", *hosts.groups.get("workers", []), *masters}
    for group in sorted(set(hosts.groups) - known):
        remarks.add(NOTE, 0, f"the group {group} means nothing to a federation and is not taken over")
    if path:
        found.remarks += remarks.all
    if ssh := found.files.get("ssh"):
        more = Remarks(ssh)
        _by_position(found, stanzas, used, names, more)
        found.remarks += more.all


def _by_position(found: Found, stanzas: list[Stanza], used: set[int], names: Mapping[str, str], remarks: Remarks) -> None:
    """Take the nodes that only the ssh configuration has: the ui node, and all of them when there is no `hosts.ini`."""
    alone = "hosts" not in found.files
    for position, stanza in enumerate(stanzas):
        kind = ("master", "ui", "worker")[min(position, 2)]
        if "hostname" not in stanza.options:
            remarks.add(PROBLEM, stanza.line, f"{stanza.names[0]} has no Hostname", "add its address")
            continue
        if id(stanza) in used:
            continue
        address = stanza.options["hostname"].text
        if kind != "ui" and not alone:
            text = f"{stanza.names[0]} ({address}) stands where a {kind} does, and hosts.ini does not have it; it is not taken over"
            remarks.add(NOTE, stanza.line, text, f"mipfed -f NAME node add {stanza.names[0]} --address {address}, if it is one")
            continue
        node = Node(names.get(address) or stanza.names[0], kind, address, f"{remarks.path.name}:{stanza.line}")
        node.user, node.enabled = _option(stanza, "user"), stanza.enabled
        node.port = _port(_option(stanza, "port"), stanza.line, remarks)
        _judge_name(node, stanza.line, remarks)
        remarks.add(TAKEN, stanza.line, f"{kind} {node.name}, {node.user + '@' if node.user else ''}{address}")
        found.nodes.append(node)
    if alone:
        kinds = [node.kind for node in found.nodes]
        for kind in ("master", "worker"):
            if kind not in kinds:
                remarks.add(PROBLEM, 0, f"there is no {kind}: the first host is the master, the second the ui node, the others are workers")
    order = ("master", "ui", "worker")
    found.nodes.sort(key=lambda node: order.index(node.kind))


def _option(stanza: Stanza | None, name: str) -> str:
    return stanza.options[name].text if stanza and name in stanza.options else ""


def _port(text: str, line: int, remarks: Remarks) -> int:
    if not text:
        return 22
    if text.isdigit() and 0 < int(text) < 65536:
        return int(text)
    remarks.add(PROBLEM, line, f"{text!r} is no port", "correct it")
    return 22


def _judge_name(node: Node, line: int, remarks: Remarks) -> None:
    if not NAME.fullmatch(node.name):
        fix = (
            "In an announced interruption: hostnamectl set-hostname NAME there, restart its Docker engine, and deploy once more with the "
            "old pusher; or take the machine out and add it anew with mipfed node add"
        )
        text = (
            f"{node.name} is no name that a node can keep (lower-case letters, digits and hyphens, a letter first). It is the hostname, "
            "and the swarm's label and services are named after it, so that another one cannot be had without an interruption"
        )
        remarks.add(PROBLEM, line, text, fix)
    try:
        ipaddress.IPv4Address(node.address)
    except ValueError:
        text = f"the address of {node.name} is {node.address}, and the nodes of a federation are known by their IPv4 addresses"
        remarks.add(NOTE, line, text, f"mip_address of {node.name} in hosts.yml names it")


def _images(found: Found) -> None:
    if path := found.files.get("image"):
        remarks = Remarks(path)
        values = legacy_files.variables_yaml(_read(path), remarks)
        image, tag = (values[key].text.strip() if key in values else "" for key in ("EXAREME_IMAGE", "EXAREME_TAG"))
        if image and tag:
            found.engine_image = f"{image}:{tag.lstrip(':')}"
            remarks.add(TAKEN, values["EXAREME_IMAGE"].line, f"the engine's image, {found.engine_image}")
        else:
            lacking = "EXAREME_TAG" if image else "EXAREME_IMAGE"
            remarks.add(PROBLEM, 0, f"it has no {lacking}", "add it, or give --engine-image REPOSITORY:TAG")
        found.remarks += remarks.all
    found.keystore_image = _SHIPPED_KEYSTORE
    if path := found.files.get("compose"):
        remarks = Remarks(path)
        stack = legacy_files.compose(_read(path), remarks)
        if stack.keystore_image:
            found.keystore_image = stack.keystore_image.text
            remarks.add(TAKEN, stack.keystore_image.line, f"the keystore's image, {found.keystore_image}")
        for key, value in stack.environment.items():
            _engine_setting(found, key, value, remarks)
        found.remarks += remarks.all
    where = Remarks(found.files.get("compose") or found.files.get("hosts") or found.files["ssh"])
    if found.keystore_image.startswith("bitnami/consul:"):
        moved = found.keystore_image.replace("bitnami/", "bitnamilegacy/", 1)
        where.add(NOTE, 0, f"{found.keystore_image} is not to be had any more under this name; {moved} is the same image")
        found.keystore_image = moved
    if "/consul:" in found.keystore_image and found.keystore_image.split("/")[-2].startswith("bitnami"):
        found.keystore_data = "/bitnami/consul"
    found.remarks += where.all


def _engine_setting(found: Found, key: str, value: Value, remarks: Remarks) -> None:
    if key in _ENGINE:
        name, kind, default = _ENGINE[key]
        try:
            wanted = kind(value.text)
        except ValueError:
            remarks.add(PROBLEM, value.line, f"{key} is {value.text!r}, and a number is expected", "correct it")
            return
        if wanted != default:
            found.engine[name] = wanted
            remarks.add(TAKEN, value.line, f"{key}, as mip_engine.{name}")
    elif key == "CONVERT_CSVS":
        if value.text.upper() != "FALSE":
            remarks.add(NOTE, value.line, "CONVERT_CSVS is on; here `mipfed data compile` makes the databases, with every check")
    elif key not in _CONTRACT:
        found.engine.setdefault("environment", {})[key] = value.text
        remarks.add(TAKEN, value.line, f"{key}, as mip_engine.environment.{key}")


def _data(found: Found) -> None:
    """Tell where the data are; all nodes have them at the same place."""
    by_path: dict[str, list[str]] = {}
    for node in found.nodes:
        if node.data_path:
            by_path.setdefault(node.data_path, []).append(node.name)
    remarks = Remarks(found.files.get("hosts") or found.files["ssh"])
    if len(by_path) > 1:
        shown = "; ".join(f"{path}: {', '.join(names)}" for path, names in sorted(by_path.items()))
        fix = "Make one path lead to the data everywhere (mount --bind, with a line in /etc/fstab), and correct data_path"
        remarks.add(PROBLEM, 0, f"the nodes have their data at different places ({shown}), and a federation has one for all", fix)
    for path in by_path if len(by_path) == 1 else ():
        folder = PurePosixPath(path)
        if not folder.is_absolute() or str(folder.parent) == "/" or not NAME.fullmatch(folder.name):
            text = f"the data are at {path}; its last part is the federation's own name: a folder below another, in lower-case letters"
            remarks.add(PROBLEM, 0, text, f"Make such a path lead to it, as /data/NAME (mount --bind {path} …), and correct data_path")
            continue
        found.variables["mip_federation"] = folder.name
        if str(folder.parent) != "/data":
            found.variables["mip_data_root"] = str(folder.parent)
        remarks.add(TAKEN, 0, f"the data at {path}")
    found.remarks += remarks.all


def _environment(found: Found, values: Mapping[str, Value], remarks: Remarks, with_secrets: bool) -> None:
    """Take over what `.mipenv` says of the portal."""
    taken: dict[str, Any] = {}
    keycloak: dict[str, Any] = {}
    catalogue: dict[str, Any] = {}

    def choice(key: str, target: dict[str, Any], name: str, choices: Mapping[str, Any]) -> None:
        value = values.get(key)
        if value is None or not value.text:
            return
        if value.text not in choices:
            remarks.add(PROBLEM, value.line, f"{key} is {value.text!r}; known: {', '.join(choices)}", "correct it")
        else:
            target[name] = choices[value.text]
            remarks.add(TAKEN, value.line, key)

    if "MIP_TYPE" in values and values["MIP_TYPE"].text not in ("fed", ""):
        text = f"MIP_TYPE is {values['MIP_TYPE'].text}: this is a MIP on one machine, and no federation"
        remarks.add(PROBLEM, values["MIP_TYPE"].line, text, "leave this file out, and give that of the pusher or the ui node")
    protocols = {"http": "http", "https": "https"}
    choice("MIP_LINK", taken, "link", {"direct": "direct", "proxied": "proxied"})
    choice("PUBLIC_MIP_PROTOCOL", taken, "public_protocol", protocols)
    choice("EXTERNAL_MIP_PROTOCOL", taken, "external_protocol", protocols)
    choice("KEYCLOAK_AUTHENTICATION", taken, "authentication", {"0": False, "1": True})
    choice("DATACATALOGUE_PROTOCOL", catalogue, "protocol", protocols)
    for key, target, name in (
        ("PUBLIC_MIP_HOST", taken, "public_host"),
        ("DATACATALOGUE_HOST", catalogue, "host"),
        ("KEYCLOAK_REALM", keycloak, "realm"),
        ("KEYCLOAK_CLIENT_ID", keycloak, "client_id"),
    ):
        if key in values and values[key].text:
            target[name] = values[key].text
            remarks.add(TAKEN, values[key].line, key)
    if "KEYCLOAK_URL" in values and values["KEYCLOAK_URL"].text:
        url, protocol = values["KEYCLOAK_URL"].text, values.get("KEYCLOAK_PROTOCOL", Value("https", 0)).text or "https"
        keycloak["url"] = url if "://" in url else f"{protocol}://{url}"
        remarks.add(TAKEN, values["KEYCLOAK_URL"].line, "KEYCLOAK_URL")
    if (secret := values.get("KEYCLOAK_CLIENT_SECRET")) and secret.text:
        fix = "Let Keycloak make another one: this file is readable for everybody, and so are its backups"
        if with_secrets:
            found.secrets["mip_keycloak_client_secret"] = secret.text
            remarks.add(TAKEN, secret.line, "KEYCLOAK_CLIENT_SECRET, into the vault")
        remarks.add(NOTE, secret.line, "the secret of the portal's client stands here in clear text", fix)
    master = found.one("master")
    if (address := values.get("EXAREME_IP")) and master and address.text not in ("", master.address):
        remarks.add(TAKEN, address.line, "EXAREME_IP, as mip_ui.engine_address: it is not the master's address in hosts.ini")
        taken["engine_address"] = address.text
    known = {"MIP_TYPE", "NODE_TYPE", "KEYCLOAK_PROTOCOL", "KEYCLOAK_SSL_REQUIRED", "EXAREME_IP", "KEYCLOAK_URL", "KEYCLOAK_CLIENT_SECRET"}
    known |= {"MIP_LINK", "PUBLIC_MIP_PROTOCOL", "EXTERNAL_MIP_PROTOCOL", "KEYCLOAK_AUTHENTICATION", "DATACATALOGUE_PROTOCOL"}
    known |= {"PUBLIC_MIP_HOST", "DATACATALOGUE_HOST", "KEYCLOAK_REALM", "KEYCLOAK_CLIENT_ID"}
    for key in sorted(set(values) - known):
        remarks.add(NOTE, values[key].line, f"{key} means nothing here and is not taken over")
    if catalogue:
        taken["data_catalogue"] = catalogue
    if taken:
        # What runs there was not started by this product, and its database is no volume of it: docs/migration.md.
        found.variables["mip_ui"] = {"enabled": False, **taken}
    if keycloak:
        found.variables["mip_keycloak"] = keycloak


# --- writing -----------------------------------------------------------------------------------------------------------


def account_of(found: Found) -> str:
    """Return the account that the federation is going to use: that of the script where it is one for all, and not root."""
    users = {node.user for node in found.nodes if node.user}
    return users.pop() if len(users) == 1 and "root" not in users else "mipadmin"


def write(root: Path, name: str, found: Found, vault_password: Callable[[], str]) -> Path:
    """Write `inventories/NAME`, all of it or nothing.

    :arg vault_password: gives the password for the secrets; called only when there are any.
    :raises MipfedError: CONFIGURATION when it exists, or the resolver refuses what the files say.
    """
    account, passwords = account_of(found), any(node.password for node in found.nodes)
    master, ui = found.one("master"), found.one("ui")
    answers = initialise.Answers(
        name,
        (master.name, master.address) if master else None,
        (ui.name, ui.address) if ui else None,
        [(node.name, node.address) for node in found.nodes if node.kind == "worker"],
        found.engine_image,
        found.keystore_image,
        # Without a password only the old account can be reached, once it has the new key.
        account if passwords else next((node.user for node in found.nodes if node.user), account),
    )

    def more(draft: Path) -> None:
        _more(draft, found, account, vault_password)

    return initialise.write(root, answers, more)


def _more(draft: Path, found: Found, account: str, vault_password: Callable[[], str]) -> None:
    import yaml

    from mipfed.hosts_file import HostsFile

    hosts = HostsFile(draft / "hosts.yml")
    for node in found.nodes:
        if node.port != 22:
            hosts.set(node.name, "ansible_port", node.port)
        if node.password:
            hosts.set(node.name, "mip_first_user", node.user or account)
        if not node.enabled and node.kind != "master":
            hosts.set(node.name, "mip_disabled", {"reason": "disabled by the mip script"})
    hosts.write()
    main = draft / "group_vars" / "all" / "main.yml"
    text = main.read_text(encoding="utf-8")
    engine = {**({"keystore_data": found.keystore_data} if found.keystore_data else {}), **found.engine}
    if engine:
        text += "".join(f"  {line}\n" for line in yaml.safe_dump(engine, sort_keys=False, allow_unicode=True).splitlines())
    variables: dict[str, Any] = dict(found.variables)
    if account != "mipadmin":
        variables["mip_account"] = {"name": account}
    if variables:
        text += yaml.safe_dump(variables, sort_keys=False, allow_unicode=True)
    main.write_text(text, encoding="utf-8")
    secrets: dict[Path, dict[str, str]] = {}
    if found.secrets:
        secrets[draft / "group_vars" / "all" / "vault.yml"] = found.secrets
    for node in found.nodes:
        if node.password:
            secrets[draft / "host_vars" / node.name / "vault.yml"] = {"mip_first_password": node.password}
    if secrets:
        from mipfed import vault_files

        password = vault_password()
        for path, values in secrets.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            # A password may hold what a template would begin with.
            content = "".join(f"{key}: !unsafe {json.dumps(value)}\n" for key, value in values.items())
            path.write_text(vault_files.encrypted(content, password), encoding="utf-8")
            path.chmod(0o600)


# --- the command -------------------------------------------------------------------------------------------------------


def named(texts: Sequence[str]) -> dict[str, str]:
    """Read the values of --name, ADDRESS=NAME.

    :raises MipfedError: USAGE when one is something else.
    """
    found = {}
    for text in texts:
        address, name = pair(text, "--name", "ADDRESS=NAME", "192.0.2.11=hospital-a")
        if not NAME.fullmatch(name):
            raise usage(f"--name {text!r}: {name} is no name of lower-case letters, digits and hyphens")
        found[address] = name
    return found


def command(
    session: Session, name: str, sources: Sequence[Path], names: Sequence[str], engine_image: str, *, secrets: bool, dry: bool
) -> Outcome:
    """Carry out `mipfed import-legacy`."""
    session.name = name
    files = locate(sources or (Path(f"/opt/{name}/exareme"),))
    given: dict[str, str] = {}

    def password(path: Path) -> str:
        if "password" not in given:
            given["password"] = vault.obtain(session.options.vault_password_file, f"{name} ({path})")
        return given["password"]

    def new_password() -> str:
        if "password" not in given:
            option = session.options.vault_password_file
            known = vault.given(option, name)
            if known is None and not session.interactive():
                raise configuration(
                    f"The passwords of {name} are kept encrypted with a vault password, and none was given.",
                    next="Give --vault-password-file FILE, or --without-secrets",
                )
            given["password"] = known if known is not None else vault.typed_twice(f"New vault password of {name}: ")
        return given["password"]

    found = read(files, named(names), password if secrets else None)
    if engine_image:
        found.engine_image = engine_image
        found.remarks = [remark for remark in found.remarks if not (remark.level == PROBLEM and "EXAREME_" in remark.message)]
    problems = [_problem(remark) for remark in found.problems]
    if not found.engine_image and not problems:
        text = "No file tells the engine's image."
        problems.append(Problem("configuration", text, next="Give group_vars/exareme.yaml with --from, or --engine-image REPOSITORY:TAG"))
    result: dict[str, Any] = {
        "inventory": "",
        "files": {kind: str(path) for kind, path in found.files.items()},
        "nodes": [{"name": n.name, "kind": n.kind, "address": n.address, "enabled": n.enabled} for n in found.nodes],
        "remarks": [remark.as_dict() for remark in found.remarks],
        "added": [],
        "public_key": "",
    }
    if problems:
        problems.append(Problem("configuration", f"inventories/{name} was not written.", next="Correct the files, and run it again"))
        return Outcome(result=result, exit_code=ExitCode.CONFIGURATION, errors=problems, text=lambda out: show(out, found))
    if dry:
        return Outcome(result=result, text=lambda out: show(out, found), next=session.again().replace(" --check", ""))
    return _written(session, name, found, result, new_password)


def _written(session: Session, name: str, found: Found, result: dict[str, Any], new_password: Callable[[], str]) -> Outcome:
    mipfed = f"mipfed -f {name}"
    if name in paths.federations(session.root):
        master, ui = found.one("master"), found.one("ui")
        answers = initialise.Answers(
            name,
            (master.name, master.address) if master else None,
            (ui.name, ui.address) if ui else None,
            [(node.name, node.address) for node in found.nodes if node.kind == "worker"],
        )
        outcome = initialise.again(session, answers, None)
        outcome.result = {**result, **outcome.result}
        return outcome
    folder = write(session.root, name, found, new_password)
    public = (folder / "ssh" / "id_ed25519.pub").read_text(encoding="utf-8").strip()
    result.update(inventory=str(folder), public_key=public)
    keyless = [node.name for node in found.nodes if not node.password]

    def text(out: Console) -> None:
        show(out, found)
        out.print(f"\nWrote {paths.shown(folder)}.", markup=False)
        if keyless:
            allow = f"No password is known for {', '.join(keyless)}. Allow this key there, for an account that may become root:"
            out.print(allow, public, sep="\n", markup=False, soft_wrap=True)
        out.print("Then:", markup=False)
        for following in ("trust", "check", "adopt --check", "adopt", "verify"):
            out.print(f"  {mipfed} {following}", markup=False)

    return Outcome(result=result, text=text)


def _problem(remark: Remark) -> Problem:
    return Problem("configuration", f"{remark.where}: {remark.message}", next=remark.next)


def show(out: Console, found: Found) -> None:
    """Write what was understood, and what was not."""
    from mipfed.render import rows

    levels = {TAKEN: "taken over", NOTE: "note", PROBLEM: "problem"}
    table = [(remark.where, levels[remark.level], remark.message) for remark in found.remarks]
    rows(out, ("where", "", "what"), table)
    for remark in found.remarks:
        if remark.level == NOTE and remark.next:
            out.print(f"{remark.where}: {remark.next}", markup=False, style="dim")
