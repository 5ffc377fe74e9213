# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A federation's inventory, read in this process with Ansible's own parser. Contacts no host.

Ansible is imported only when an inventory is really loaded.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mipfed import paths, vault
from mipfed.errors import MipfedError, Problem, configuration, usage
from mipfed.exitcodes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Files of an inventory directory that are no inventory sources, for Ansible when it is given the directory.
IGNORED = r"known_hosts.*,^ssh$,^labels\.yml$,^state$,^backups$,^\..*,.*\.md$,.*\.lock$"
HIDDEN = "(encrypted)"


@dataclass
class Source:
    """Where a federation's inventory is: its name, and the file or directory that Ansible reads."""

    name: str
    path: Path

    @property
    def folder(self) -> Path:
        """The inventory directory, with `known_hosts` and `ssh/` beside the main file."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def known_hosts(self) -> Path:
        """The pinned host keys of the federation."""
        return self.folder / "known_hosts"


@dataclass
class Inventory:
    """What was read: hosts in order, hosts by group, and each host's variables that mipfed needs, rendered."""

    source: Source
    hosts: list[str]
    groups: dict[str, list[str]]
    variables: dict[str, dict[str, Any]]
    matched: list[str] = field(default_factory=list)


def find(root: Path, federation: str | None, inventory: Path | None) -> Source:
    """Find the inventory that the options name.

    :raises MipfedError: USAGE when nothing names one and the project does not have exactly one; CONFIGURATION when it is not there.
    """
    if inventory is not None:
        path = inventory.expanduser().absolute()
        if not path.exists():
            raise configuration(f"The inventory {inventory} does not exist.")
        path = (paths.hosts_file(path) or path) if path.is_dir() else path
        return Source(federation or (path if path.is_dir() else path.parent).name, path)
    known = paths.federations(root)
    if federation is None:
        if len(known) == 1:
            federation = known[0]
        elif known:
            raise usage(
                f"Which federation? {paths.shown(root / 'inventories')} has {', '.join(known)}.",
                next="Give -f NAME or set MIPFED_FEDERATION",
            )
        else:
            raise usage(f"There is no federation in {root / 'inventories'}.", next="mipfed init NAME")
    if federation not in known:
        folder = root / "inventories" / federation
        if folder.is_dir():
            raise configuration(f"{paths.shown(folder)} has no hosts.yml.")
        near = difflib.get_close_matches(federation, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else f" There are: {', '.join(known)}." if known else ""
        raise configuration(f"There is no federation {federation} in {root / 'inventories'}.{hint}", next=f"mipfed init {federation}")
    found = paths.hosts_file(root / "inventories" / federation)
    assert found is not None
    return Source(federation, found)


def _make_loader(password: str | None) -> Any:
    """Return a data loader; without a password, files that are encrypted as a whole count as empty."""
    from ansible.parsing.dataloader import DataLoader
    from ansible.parsing.vault import VaultSecret, VaultSecretsContext

    class Loader(DataLoader):  # type: ignore[misc]
        def _decrypt_if_vault_data(self, b_data: bytes) -> tuple[bytes, bool]:
            if password is None and b_data.startswith(vault.MARK):
                return b"{}", False
            return cast("tuple[bytes, bool]", super()._decrypt_if_vault_data(b_data))

    loader = Loader()
    found = [("default", VaultSecret(password.encode()))] if password is not None else []
    loader.set_vault_secrets(found)
    context = VaultSecretsContext.current(optional=True)
    if context is None:
        VaultSecretsContext.initialize(VaultSecretsContext(found))
    else:
        context.secrets = found
    return loader


def federation_module() -> Any:
    """Import the collection's resolver."""
    return paths.collection_module("plugin_utils._federation")


def _render(templar: Any, value: Any) -> Any:
    """Render a variable; what is encrypted stays hidden when it cannot be decrypted."""
    from ansible.parsing.vault import AnsibleVaultError

    try:
        return templar.template(value)
    except AnsibleVaultError:
        return HIDDEN
    except Exception as error:
        if "vault" in str(error).lower():
            return HIDDEN
        raise


#: Besides mip_* and the resolver's own, what mipfed looks at before it lets Ansible connect.
_LOCAL_CHECKS = ("ansible_user", "ansible_ssh_private_key_file", "ansible_ssh_common_args", "ansible_ssh_extra_args", "ansible_become")


def load(source: Source, *, password: str | None = None, limit: str | None = None) -> Inventory:
    """Read an inventory.

    :arg password: the vault password; without it encrypted values read as `(encrypted)` and encrypted files as empty.
    :arg limit: an Ansible host pattern; `matched` holds the hosts that it leaves.
    :raises MipfedError: CONFIGURATION when the inventory does not parse or the password is wrong.
    """
    os.environ.setdefault("ANSIBLE_INVENTORY_IGNORE_REGEX", IGNORED)
    os.environ.setdefault("ANSIBLE_DUPLICATE_YAML_DICT_KEY", "error")
    from ansible.errors import AnsibleError
    from ansible.inventory.manager import InventoryManager
    from ansible.template import Templar
    from ansible.utils.display import Display
    from ansible.vars.manager import VariableManager

    federation = federation_module()
    secret_names, connection = federation.SECRETS, federation.CONNECTION
    display = Display()
    shown_by_ansible = display.display
    display.display = lambda *_args, **_kwargs: None  # its warnings come again, in the log, when Ansible runs
    try:
        loader = _make_loader(password)
        manager = InventoryManager(loader=loader, sources=[str(source.path)])
        if not manager.groups or (not manager.hosts and not _parses(loader, source.path)):
            raise configuration(
                f"{paths.shown(source.path)} is no inventory that Ansible can read.",
                next=f"ansible-inventory -i {paths.shown(source.path)} --list",
            )
        variable_manager = VariableManager(loader=loader, inventory=manager)
        hosts = [str(host) for host in manager.list_hosts("all")]
        variables: dict[str, dict[str, Any]] = {}
        for name in hosts:
            raw = variable_manager.get_vars(host=manager.get_host(name))
            templar = Templar(loader=loader, variables=raw)
            wanted = {key for key in raw if key.startswith("mip_") or key in connection or key in _LOCAL_CHECKS}
            variables[name] = {key: (True if key in secret_names else _render(templar, raw[key])) for key in raw if key in wanted}
        groups = {name: [str(host) for host in group.get_hosts()] for name, group in manager.groups.items()}
        if limit:
            manager.subset(limit)
        matched = [str(host) for host in manager.list_hosts("all")]
    except AnsibleError as error:
        text = _explained(error)
        if "No inventory was parsed" in text:
            _parses(loader, source.path)  # says why, where Ansible only warned
        if "ecrypt" in text or "vault" in text.lower():
            raise configuration(
                f"The vault-encrypted variables of {paths.shown(source.folder)} cannot be read: {text}",
                next="Check the vault password (--vault-password-file, MIPFED_VAULT_PASSWORD_FILE)",
            ) from None
        if limit and "limit" in text.lower():
            raise MipfedError(ExitCode.NO_HOSTS, f"--limit {limit}: {text}") from None
        raise configuration(f"{paths.shown(source.folder)}: {text}") from None
    finally:
        display.display = shown_by_ansible
    return Inventory(source, hosts, groups, variables, matched)


def _explained(error: BaseException) -> str:
    """Return an error of Ansible with the file and line that it, or the error behind it, knows."""
    text = str(error).strip()
    cause: BaseException | None = error
    while cause is not None:
        origin = re.search(r"Origin: (\S+:\d+(?::\d+)?)", str(getattr(cause, "_formatted_source_context", None) or ""))
        if origin:
            return text if origin.group(1) in text else f"{text} ({origin.group(1)})"
        cause = cause.__cause__ or cause.__context__
    return text


def _parses(loader: Any, path: Path) -> bool:
    """Tell a readable inventory without hosts from a file that Ansible could not parse and only warned about."""
    from ansible.errors import AnsibleError

    if path.is_dir():
        return True
    try:
        return isinstance(loader.load_from_file(str(path)), dict)
    except AnsibleError as error:
        raise configuration(f"{paths.shown(path)}: {_explained(error)}") from None


def resolve(inventory: Inventory, name: str | None = None) -> dict[str, Any]:
    """Resolve and validate the federation that an inventory describes.

    :raises MipfedError: CONFIGURATION with every error of the inventory, each naming its host, group or key.
    """
    federation = federation_module()
    images = paths.collection_module("plugin_utils._images")
    try:
        resolved: dict[str, Any] = federation.resolve(name or inventory.source.name, inventory.groups, inventory.variables)
        resolved = images.with_lock(resolved, inventory.source.folder)
    except images.LockError as error:
        raise configuration(str(error), next=f"mipfed -f {inventory.source.name} image lock") from None
    except federation.FederationError as error:
        reasons: Sequence[str] = error.errors
        raise MipfedError(
            ExitCode.CONFIGURATION,
            [_problem(reason, inventory) for reason in reasons],
            next=f"Correct {paths.shown(inventory.source.folder)}, then: mipfed -f {inventory.source.name} config show",
        ) from None
    return resolved


def _problem(reason: str, inventory: Inventory) -> Problem:
    """Make a problem of a resolver's error; an error that names a key also gets the files where the key stands."""
    host = re.match(r"host ([^\s:]+):", reason)
    files = where(reason, inventory.source)
    place = f" (in {', '.join(files)})" if files else ""
    return Problem("configuration", f"{reason}{place}", host=host.group(1) if host else "")


def where(reason: str, source: Source) -> list[str]:
    """Return file:line of the places in the inventory that set the host, group or key which an error begins with."""
    subject = re.match(r"(?:variable |host |group )?([\w-]+)", reason)
    if not subject:
        return []
    files = [source.path] if source.path.is_file() else []
    for folder in ("group_vars", "host_vars"):
        files += sorted((source.folder / folder).rglob("*.y*ml"))
    pattern = re.compile(rf"(?<![\w-]){re.escape(subject.group(1))}(?![\w-])")
    found = []
    for path in files:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        found += [f"{paths.shown(path)}:{number}" for number, line in enumerate(lines, 1) if pattern.search(line.split("#")[0])]
    return found[:3]


def known_hosts_files(inventory: Inventory, host: str) -> list[Path]:
    """Return the files in which ssh will look for a host's key: what the inventory's ssh arguments name, else ours."""
    arguments = " ".join(str(inventory.variables.get(host, {}).get(key) or "") for key in _LOCAL_CHECKS[2:4])
    try:
        words = shlex.split(arguments)
    except ValueError:
        words = arguments.split()
    for word in words:
        name, _equals, value = word.removeprefix("-o").partition("=")
        if name.strip().lower() == "userknownhostsfile" and value:
            return [Path(part.strip('"')).expanduser() for part in value.split()]
    return [inventory.source.known_hosts]


def shown_config(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the resolved configuration without anything secret, ready for YAML or JSON."""
    import json

    plain: dict[str, Any] = json.loads(json.dumps(resolved, default=str))
    return plain
