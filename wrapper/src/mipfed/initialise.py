# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the inventory of a new federation, all of it or nothing; to an existing one it adds what is missing, and takes nothing away."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mipfed import inventory as inventories
from mipfed import paths
from mipfed.contact import Access, Asking, ask_access
from mipfed.errors import MipfedError, Problem, configuration, declined, pair, usage
from mipfed.exitcodes import ExitCode
from mipfed.outcome import Outcome

if TYPE_CHECKING:
    from mipfed.session import Session

NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
#: Consul's own image; its data folder is the default of mip_engine.keystore_data. The engine's version is the operator's choice.
KEYSTORE_IMAGE = "consul:1.8.7"


@dataclass
class Answers:
    """What is needed to write an inventory. Nodes are (name, address)."""

    name: str
    master: tuple[str, str] | None = None
    ui: tuple[str, str] | None = None
    workers: list[tuple[str, str]] = field(default_factory=list)
    engine_image: str = ""
    keystore_image: str = ""
    user: str = ""
    #: Of that account, on every machine that has none of its own in `access`.
    password: str = field(default="", repr=False)
    #: By node what lets us in today, the fingerprint of its host key, and its host name where that is not the node's.
    access: dict[str, Access] = field(default_factory=dict)
    host_keys: dict[str, str] = field(default_factory=dict)
    hostnames: dict[str, str] = field(default_factory=dict)

    @property
    def nodes(self) -> list[tuple[str, str]]:
        """All that are named."""
        return [pair for pair in (self.master, self.ui, *self.workers) if pair]

    @property
    def passwords(self) -> bool:
        """Is there a password for any machine?"""
        return bool(self.password) or any(access.password for access in self.access.values())

    @property
    def shared(self) -> Access | None:
        """What lets us in on machines of which nothing else is known."""
        return Access(self.user or "root", self.password) if self.password else None

    def share(self) -> None:
        """Give the nodes that have no access of their own the shared one."""
        if self.shared:
            self.access |= {name: self.shared for name, _address in self.nodes if name not in self.access}

    def ask_access(self, nodes: Sequence[tuple[str, str]], asking: Asking | None) -> None:
        """Find out what lets us in on these nodes."""
        self.share()
        if asking:
            self.access = ask_access(nodes, self.access, self.user, asking)


@dataclass(frozen=True)
class Missing:
    """A node that an existing federation is to get."""

    name: str
    address: str
    group: str
    variables: Mapping[str, Any] = field(default_factory=dict)


def node(text: str, option: str) -> tuple[str, str]:
    """Read NAME=ADDRESS.

    :raises MipfedError: USAGE when it is something else.
    """
    return pair(text, option, "NAME=ADDRESS", "hospital-a=192.0.2.11")


def from_file(path: Path, name: str) -> Answers:
    """Read the answers from JSON: keys master, ui, workers, engine_image, keystore_image, user, password.

    master, ui and each of workers are {name, address} and perhaps user, password, host_key, hostname.

    :raises MipfedError: CONFIGURATION naming the file and every wrong key.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise configuration(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise configuration(f"{path} is no JSON: {error}") from None
    if not isinstance(data, dict):
        raise configuration(f"{path}: expected an object with the keys master, workers and engine_image")
    known = {"master", "ui", "workers", "engine_image", "keystore_image", "user", "password"}
    further = ("user", "password", "host_key", "hostname")
    told: dict[str, dict[str, str]] = {}
    errors = [f"{path}: unknown key {key!r}; known: {', '.join(sorted(known))}" for key in data if key not in known]

    def one(value: Any, where: str) -> tuple[str, str] | None:
        if value is None:
            return None
        texts = isinstance(value, Mapping) and all(isinstance(inner, str) for inner in value.values())
        if texts and {"name", "address"} <= set(value) <= {"name", "address", *further}:
            told[value["name"]] = {key: value[key] for key in further if value.get(key)}
            return value["name"], value["address"]
        errors.append(f'{path}: {where}: expected {{"name": …, "address": …}}, perhaps also {", ".join(further)}; all are strings')
        return None

    workers = data.get("workers") or []
    if not isinstance(workers, list):
        errors.append(f"{path}: workers: expected a list")
        workers = []
    pairs = [one(value, f"workers[{number}]") for number, value in enumerate(workers)]
    answers = Answers(name, one(data.get("master"), "master"), one(data.get("ui"), "ui"), [pair for pair in pairs if pair])
    for key in ("engine_image", "keystore_image", "user", "password"):
        value = data.get(key, "")
        if not isinstance(value, str):
            errors.append(f"{path}: {key}: expected a string")
        else:
            setattr(answers, key, value)
    if errors:
        raise MipfedError(ExitCode.CONFIGURATION, [Problem("configuration", error) for error in errors])
    for name, entry in told.items():
        if "user" in entry or "password" in entry:
            answers.access[name] = Access(entry.get("user") or answers.user or "root", entry.get("password") or answers.password)
        answers.host_keys |= {name: entry["host_key"]} if "host_key" in entry else {}
        answers.hostnames |= {name: entry["hostname"]} if "hostname" in entry else {}
    return answers


def complete(answers: Answers, ask: Callable[[str, str], str] | None, asking: Asking | None = None) -> Answers:
    """Ask for what is missing.

    :arg ask: takes the question and a default; without it (no terminal) a missing answer is an error.
    :arg asking: also asks for the passwords of the machines, which are going to be contacted.
    :raises MipfedError: USAGE naming every option that is missing.
    """
    if ask is None:
        wanted = {
            "--master NAME=ADDRESS": answers.master,
            "--worker NAME=ADDRESS": answers.workers,
            "--engine-image REPOSITORY:TAG": answers.engine_image,
        }
        lacking = [option for option, value in wanted.items() if not value]
        if lacking:
            raise usage(
                f"mipfed init {answers.name} needs {', '.join(lacking)}, and there is no terminal to ask on.",
                next="Give the options, or --from FILE.json",
            )
    else:
        while not answers.master:
            answers.master = _asked_node(ask, "Master, as NAME=ADDRESS")
        if not answers.ui:
            answers.ui = _asked_node(ask, "Host of the web portal, as NAME=ADDRESS (empty: none)")
        if not answers.workers:
            while True:
                number = len(answers.workers) + 1
                given = _asked_node(ask, f"Hospital {number}, as NAME=ADDRESS{' (empty: no more)' if number > 1 else ''}")
                if given:
                    answers.workers.append(given)
                elif answers.workers:
                    break
        if not asking and not answers.passwords:
            answers.user = answers.user or ask("Account for SSH on the nodes", "root")
        answers.ask_access(answers.nodes, asking)
        while not answers.engine_image:
            answers.engine_image = ask("Image of the engine, as REPOSITORY:TAG (for example hbpmip/exareme:22.0.1)", "").strip()
        answers.keystore_image = answers.keystore_image or ask("Image of the keystore", KEYSTORE_IMAGE)
    answers.share()
    answers.user = answers.user or next((access.user for access in answers.access.values()), "root")
    answers.keystore_image = answers.keystore_image or KEYSTORE_IMAGE
    return answers


def _asked_node(ask: Callable[[str, str], str], question: str) -> tuple[str, str] | None:
    while True:
        text = ask(question, "").strip()
        if not text:
            return None
        name, _equals, address = (part.strip() for part in text.partition("="))
        if NAME.fullmatch(name) and address:
            return name, address
        question = f"{text!r} is not NAME=ADDRESS with a name of lower-case letters, digits and hyphens. Again"


def missing(answers: Answers, there: Mapping[str, Mapping[str, Any]], ask: Callable[[str, str], str] | None, mipfed: str) -> list[Missing]:
    """Return the nodes of the answers that an existing federation does not have yet. Asks for more when nothing was given.

    :arg there: its nodes by name, as the resolver has them.
    :arg mipfed: the program with its federation, for the commands that change what is there.
    :raises MipfedError: CONFIGURATION with everything that contradicts what is there.
    """
    kinds = {node["kind"]: name for name, node in there.items()}
    if ask and not (answers.master or answers.ui or answers.workers):
        if "ui" not in kinds:
            answers.ui = _asked_node(ask, "Host of the web portal, as NAME=ADDRESS (empty: none)")
        while given := _asked_node(ask, "Another hospital, as NAME=ADDRESS (empty: no more)"):
            answers.workers.append(given)
    wanted = [
        ("master", "master", answers.master),
        ("ui", "ui", answers.ui),
        *(("worker", "workers", worker) for worker in answers.workers),
    ]
    found: list[Missing] = []
    errors: list[Problem] = []
    for kind, group, asked in wanted:
        if asked is None:
            continue
        name, address = asked
        known = there.get(name)
        if known is None and kind in kinds and kind != "worker":
            text = f"the {kind} is {kinds[kind]} already, not {name}"
            errors.append(Problem("configuration", text, next=f"{mipfed} master move {name}" if kind == "master" else f"{mipfed} node ls"))
        elif known is None:
            found.append(Missing(name, address, group))
        elif known["kind"] != kind:
            errors.append(Problem("configuration", f"it is a {known['kind']} already, and cannot also be a {kind}", host=name))
        elif split_port(address)[0] not in (known["address"], known["ssh_host"]):
            text = f"its address is {known['address']} already, not {address}"
            errors.append(Problem("configuration", text, host=name, next=f"{mipfed} node readdress {name} --address {address}"))
    if errors:
        raise MipfedError(ExitCode.CONFIGURATION, errors)
    return found


def extend(source: inventories.Source, nodes: Sequence[Missing]) -> None:
    """Add nodes to an inventory, in one step; comments and everything else stay.

    :raises MipfedError: CONFIGURATION when the file cannot be edited or the resolver refuses the result; then nothing is written.
    """
    from mipfed.hosts_file import HostsFile

    file = HostsFile(source.path)
    for node in nodes:
        file.add(node.name, node.group, node.variables or {"ansible_host": node.address})

    def check(draft: Path) -> None:
        inventories.resolve(inventories.load(inventories.Source(source.name, draft)))

    file.write(check)


def _quoted(text: str) -> str:
    """Return a string as YAML; JSON strings are."""
    return text if re.fullmatch(r"[A-Za-z0-9][\w./@:-]*[\w/]", text) and not re.search(r":\s|\s#", text) else json.dumps(text)


def _plain(value: Any) -> bool:
    """Tell whether YAML reads a value as it is."""
    try:
        return isinstance(value, int) or bool(ipaddress.ip_address(value))
    except ValueError:
        return False


def split_port(address: str) -> tuple[str, int]:
    """Return the parts of ADDRESS or ADDRESS:PORT."""
    host, _colon, port = address.rpartition(":")
    return (host, int(port)) if host and port.isdigit() and ":" not in host else (address, 22)


def main_user(answers: Answers) -> str:
    """Return the account that mipfed uses on the nodes: the one that a first contact makes, or the one that is there."""
    if answers.passwords:
        account = inventories.federation_module().schema()["main"]["mip_account"]
        return str(account["options"]["name"]["default"])
    return answers.user or "root"


def node_variables(answers: Answers, pair: tuple[str, str], user: str) -> dict[str, Any]:
    """Return what hosts.yml says of a node.

    :arg user: the federation's account; a machine that has no password for us keeps its own.
    """
    name, address = pair
    host, port = split_port(address)
    access = answers.access.get(name)
    variables: dict[str, Any] = {"ansible_host": host} | ({"ansible_port": port} if port != 22 else {})
    if access and not access.password and access.user != user:
        variables["ansible_user"] = access.user
    if name in answers.host_keys:
        variables["mip_host_key"] = answers.host_keys[name]
    return variables


def hosts_yml(answers: Answers) -> str:
    """Return the main file of the inventory."""

    def line(pair: tuple[str, str], indent: int) -> str:
        said = node_variables(answers, pair, main_user(answers))
        written = {key: value if _plain(value) else json.dumps(value) for key, value in said.items()}
        return f"{' ' * indent}{pair[0]}: {{{', '.join(f'{key}: {value}' for key, value in written.items())}}}"

    assert answers.master
    lines = [
        f"# Federation {answers.name}: its nodes. The name of a node is its identity and never changes.",
        "all:",
        "  children:",
        "    pusher:",
        "      hosts:",
        f'        {answers.name}-pusher: {{ansible_connection: local, ansible_python_interpreter: "{{{{ ansible_playbook_python }}}}"}}',
        "    master:",
        "      hosts:",
        line(answers.master, 8),
    ]
    if answers.ui:
        lines += ["    ui:", "      hosts:", line(answers.ui, 8)]
    lines += ["    workers:", "      hosts:", *(line(worker, 8) for worker in answers.workers)]
    return "\n".join(lines) + "\n"


def main_yml(answers: Answers) -> str:
    """Return the federation-wide variables; all others have defaults, shown by `mipfed config show`."""
    return f"""\
# Federation {answers.name}: what differs from the defaults. `mipfed -f {answers.name} config show` shows everything.
# Secrets do not belong here but into vault.yml: ansible-vault create vault.yml
ansible_user: {_quoted(main_user(answers))}
ansible_become: true
ansible_ssh_private_key_file: "{{{{ inventory_dir }}}}/ssh/id_ed25519"
ansible_ssh_common_args: '-o UserKnownHostsFile="{{{{ inventory_dir }}}}/known_hosts" -o StrictHostKeyChecking=yes'
mip_engine:
  image: {_quoted(answers.engine_image)}
  keystore_image: {_quoted(answers.keystore_image)}
"""


def write(root: Path, answers: Answers, more: Callable[[Path], None] | None = None) -> Path:
    """Write `inventories/NAME`: made and validated beside its place, then moved there in one step.

    :arg more: changes the files before they are validated.
    :returns: the inventory directory.
    :raises MipfedError: USAGE when the name is no name; CONFIGURATION when it exists or the resolver refuses it.
    """
    if not NAME.fullmatch(answers.name):
        raise usage(f"{answers.name!r} is no name for a federation; use lower-case letters, digits and hyphens, a letter first.")
    target = root / "inventories" / answers.name
    if target.exists() or target.is_symlink():
        raise configuration(f"{paths.shown(target)} exists already; it was not touched.", next=f"mipfed -f {answers.name} config show")
    if shutil.which("ssh-keygen", path=paths.search_path()) is None:
        raise configuration("ssh-keygen is not installed.", next="apt-get install openssh-client")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{answers.name}.", dir=target.parent))
    try:
        _fill(draft, answers)
        if more:
            more(draft)
        source = inventories.Source(answers.name, draft / "hosts.yml")
        try:
            inventories.resolve(inventories.load(source))
        except MipfedError as error:
            plain = [Problem(p.code, re.sub(r" \(in [^)]*\)$", "", p.message), host=p.host) for p in error.problems]
            raise MipfedError(error.exit_code, plain, next="Correct the values and run mipfed init again") from None
        draft.chmod(0o755)
        try:
            draft.rename(target)
        except OSError:
            raise configuration(f"{paths.shown(target)} was made by someone else meanwhile; it was not touched.") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _fill(draft: Path, answers: Answers) -> None:
    names = [pair[0] for pair in answers.nodes]
    twice: Sequence[str] = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise configuration(f"Each node has a name of its own; used twice: {', '.join(twice)}.")
    (draft / "group_vars" / "all").mkdir(parents=True)
    (draft / "hosts.yml").write_text(hosts_yml(answers), encoding="utf-8")
    (draft / "group_vars" / "all" / "main.yml").write_text(main_yml(answers), encoding="utf-8")
    (draft / "known_hosts").write_text("", encoding="utf-8")
    keys = draft / "ssh"
    keys.mkdir(mode=0o700)
    # The private key stays on this machine, also when the inventory is kept under version control.
    (keys / ".gitignore").write_text("id_ed25519\n", encoding="utf-8")
    key = keys / "id_ed25519"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"mipfed {answers.name}", "-f", str(key)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": paths.search_path()})
    if done.returncode:
        raise configuration(f"ssh-keygen failed: {done.stderr.strip()}")
    key.chmod(0o600)


def prompt(question: str, default: str) -> str:
    """Ask on the terminal, on standard error; an empty answer is the default.

    :raises MipfedError: DECLINED at the end of input.
    """
    from rich.text import Text

    from mipfed.render import console

    out = console(stderr=True)
    out.print(Text.assemble((question, "bold"), (f" [{default}]" if default else "", "dim"), ": "), end="", soft_wrap=True)
    answer = sys.stdin.readline()
    if not answer:
        out.print()
        raise declined("No answer; nothing was changed.")
    return answer.rstrip("\n") or default


def again(session: Session, answers: Answers, ask: Callable[[str, str], str] | None, asking: Asking | None = None) -> Outcome:
    """Carry out `init` for a federation that is there."""
    source = inventories.find(session.root, answers.name, None)
    mipfed = f"mipfed -f {answers.name}"
    kept = {"--engine-image": answers.engine_image, "--keystore-image": answers.keystore_image}
    kept |= {} if asking or answers.passwords else {"--user": answers.user}
    if given := [option for option, value in kept.items() if value and value not in _main(source)]:
        raise configuration(
            f"{answers.name} is there already, and init changes nothing of it; {', '.join(given)} would.",
            next=f"Edit {paths.shown(source.folder / 'group_vars' / 'all' / 'main.yml')}, or {mipfed} upgrade --set IMAGE=REFERENCE",
        )
    inventory = inventories.load(source)
    resolved = inventories.resolve(inventory)
    there = {node["name"]: node for node in [*resolved["nodes"], *resolved["kits"], *resolved["disabled"]]}
    nodes = missing(answers, there, ask, mipfed)
    if nodes:
        answers.ask_access([(node.name, node.address) for node in nodes], asking)
        user = str(inventory.variables[resolved["nodes"][0]["name"]].get("ansible_user") or "root")
        account = str(resolved["account"]["name"])
        extend(source, [replace(node, variables=_added(answers, node, account, user)) for node in nodes])
    text = f"Added {', '.join(node.name for node in nodes)} to {paths.shown(source.path)}." if nodes else "Nothing is missing."
    return Outcome(
        result={"inventory": str(source.folder), "added": [node.name for node in nodes]},
        text=lambda out: out.print(text, markup=False),
        next=f"{mipfed} trust" if nodes else "",
    )


def _added(answers: Answers, node: Missing, account: str, user: str) -> dict[str, Any]:
    """Return what hosts.yml says of a node that is added.

    :arg account: the account that a first contact makes.
    :arg user: the one that the federation's other nodes are reached with.
    """
    access = answers.access.get(node.name)
    made = {"ansible_user": account, "ansible_become": True} if access and access.password and account != user else {}
    return {**node_variables(answers, (node.name, node.address), user), **made}


def _main(source: inventories.Source) -> str:
    try:
        return (source.folder / "group_vars" / "all" / "main.yml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
