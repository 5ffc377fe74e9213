# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first contact with the machines of a federation: host keys pinned, machines told apart, the federation's key let in.

Passwords are in memory while this runs. Only where a machine could not be reached, and the operator wants it, its password is kept until
the next time: encrypted, in a file of its own, which goes when it is not needed any more.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mipfed import exitcodes, paths, trust
from mipfed import inventory as inventories
from mipfed.errors import MipfedError, Problem, declined
from mipfed.exitcodes import ExitCode
from mipfed.outcome import Outcome

if TYPE_CHECKING:
    from mipfed.session import Prepared, Session

KEPT = Path("group_vars/all/first_contact.yml")
_HEAD = """\
# Written by `mipfed init`, for machines that could not be reached yet. The next first contact uses it; `mipfed init` then removes it.
mip_first_user: "{{ (first_contact[inventory_hostname] | default({})).user | default('root') }}"
mip_first_password: "{{ (first_contact[inventory_hostname] | default({})).password | default('') }}"
first_contact:
"""
_STATES = {
    "open": "lets the federation's key in",
    "made": "lets the federation's key in, from now on",
    "other": "another machine?",
    "twin": "the machine of another node",
    "denied": "does not let us in",
}
_TRIES = 3


@dataclass(frozen=True)
class Access:
    """The account that a machine has today; without a password it is the federation's key that has to be let in."""

    user: str
    password: str = dataclasses.field(default="", repr=False)


@dataclass
class Asking:
    """How questions are asked on a terminal."""

    ask: Callable[[str, str], str]
    secret: Callable[[str], str]

    def yes(self, question: str, default: str) -> bool:
        """Ask a question whose answer is yes or no."""
        return self.ask(question, default).strip().lower() in ("y", "yes")


def secret(question: str) -> str:
    """Ask for a password on the terminal, without showing it."""
    import getpass
    import sys

    try:
        return getpass.getpass(f"{question}: ", stream=sys.stderr)
    except EOFError:
        raise declined("No answer.") from None


def ask_access(nodes: Sequence[tuple[str, str]], known: Mapping[str, Access], user: str, asking: Asking) -> dict[str, Access]:
    """Ask for the account of each machine; what holds for the first may hold for the others.

    :arg nodes: names and addresses.
    :arg user: the account, where it is known already.
    """
    found = dict(known)
    lacking = [pair for pair in nodes if pair[0] not in found]
    shared: Access | None = None
    for number, (name, address) in enumerate(lacking):
        if shared:
            found[name] = shared
            continue
        account = user or asking.ask(f"Account on {name} ({address}) that lets you in today", "root").strip()
        found[name] = Access(account, asking.secret(f"Password of {account} on {name} (empty: it lets the federation's key in)"))
        if number == 0 and len(lacking) > 1 and asking.yes(f"The same account and password on the other {len(lacking) - 1}", "yes"):
            shared = found[name]
    return found


@dataclass
class _Found:
    """What is known of the machines while this runs."""

    states: dict[str, dict[str, str]]
    problems: list[Problem]
    reasons: set[ExitCode]


def make(
    session: Session,
    access: Mapping[str, Access],
    hostnames: Mapping[str, str],
    asking: Asking | None,
    before: Outcome,
    *,
    shared: Access | None = None,
) -> Outcome:
    """Pin the host keys, see which machines these are, and let the federation's key in on those that have a password for us.

    :arg access: accounts by node, as far as they are known.
    :arg hostnames: by node the host name to expect, where it is not the node's.
    :arg asking: for what is not known; without it there is no terminal.
    :arg before: what `init` has to say already.
    :arg shared: the account of every machine of which nothing else is known.
    """
    again = f"mipfed init {session.name}"
    resolved = inventories.resolve(inventories.load(session.source))
    nodes = {str(node["name"]): node for node in resolved["nodes"] if node["ssh_host"]}
    found = _Found({}, [], set())
    reachable = _pin(session, nodes, found, again)
    access, hostnames = {**(dict.fromkeys(nodes, shared) if shared else {}), **access}, dict(hostnames)
    prepared: Prepared | None = None
    done = None
    if reachable:
        prepared = _prepare(session, reachable)
        outcome = _pass(session, prepared, reachable, access, hostnames, found)
        tries: dict[str, int] = {}
        while asking and outcome.exit_code is not ExitCode.INTERRUPTED and _asked(asking, reachable, found, access, hostnames, tries):
            outcome = _pass(session, prepared, reachable, access, hostnames, found)
        done = outcome.done
        if outcome.exit_code is ExitCode.INTERRUPTED or not any(name in found.states for name in reachable):
            return outcome
        for name in reachable:
            _judge(name, found, again)
    finished = {name for name, state in found.states.items() if state["state"] in ("open", "made")}
    _keep(session, prepared, {name: access[name] for name in nodes if name in access and name not in finished}, finished, asking)
    code = exitcodes.decide(found.reasons)
    result = {**before.result, "contact": {name: found.states[name] for name in nodes if name in found.states}}

    def text(out: Any) -> None:
        from mipfed.render import rows

        if before.text:
            before.text(out)
        table = ((n, s["address"], s["hostname"], _STATES.get(s["state"], s["state"])) for n, s in result["contact"].items())
        rows(out, ("node", "address", "host name", "access"), table)

    following = session.call("check") if code is ExitCode.OK else again
    return Outcome(result=result, exit_code=code, errors=found.problems, done=done, text=text, next=following)


def _pin(session: Session, nodes: Mapping[str, Mapping[str, Any]], found: _Found, again: str) -> list[str]:
    """Show host keys that are not known yet, ask, and pin them; return the nodes whose keys are."""
    from mipfed import render

    known_hosts = session.source.known_hosts
    entries = trust.examine(list(nodes.values()), known_hosts)

    def accept(unknown: Sequence[trust.Trust]) -> bool:
        if session.options.yes:
            render.line(trust.shown(unknown))
        try:
            session.confirm(trust.shown(unknown), "Are these the keys of your machines?")
        except MipfedError as error:
            problems = [
                Problem(p.code, "The host keys were not confirmed, and no machine was contacted.", next=again) for p in error.problems
            ]
            raise MipfedError(error.exit_code, problems) from None
        return True

    added, _changed, problems = trust.decide(entries, session.call(""), replace=[], accept=accept)
    trust.pin(known_hosts, added)
    for problem in problems:
        away = problem.code == "unreachable"
        state = {"state": problem.code, "address": str(nodes[problem.host]["ssh_host"]), "hostname": "", "machine_id": ""}
        found.states[problem.host] = {**state, "message": problem.message}
        found.reasons.add(ExitCode.UNREACHABLE if away else ExitCode.CHECK)
        found.problems.append(dataclasses.replace(problem, next=again) if away else problem)
    refused = {problem.host for problem in problems}
    return [name for name in nodes if name not in refused]


def _prepare(session: Session, names: Sequence[str]) -> Prepared:
    session.options = dataclasses.replace(session.options, limit=",".join(names))
    return session.prepare()


def _pass(
    session: Session,
    prepared: Prepared,
    names: Sequence[str],
    access: Mapping[str, Access],
    hostnames: Mapping[str, str],
    found: _Found,
) -> Outcome:
    """Run the playbook once and take note of what it found."""
    # Ansible takes what is marked like this as it is, whatever braces there are in a password.
    given = {
        name: {"user": a.user, "password": {"__ansible_unsafe": a.password}} for name, a in access.items() if name in names and a.password
    }
    outcome = session.play("hbp.mip.first_contact", prepared, variables={"contact_access": given, "contact_hostnames": dict(hostnames)})
    report = outcome.done.collector.reports.get("contact") if outcome.done else None
    for name, state in ((report or {}).get("nodes") or {}).items():
        found.states[name] = dict(state)
        if state["state"] == "ready":
            failed = [problem for problem in outcome.errors if problem.host == name]
            if failed or outcome.exit_code is ExitCode.INTERRUPTED:
                found.states[name] |= {"state": "failed", "message": failed[0].message if failed else "interrupted"}
            else:
                found.states[name]["state"] = "made"
    return outcome


def _asked(
    asking: Asking,
    names: Sequence[str],
    found: _Found,
    access: dict[str, Access],
    hostnames: dict[str, str],
    tries: dict[str, int],
) -> bool:
    """Ask about machines that are not let in yet; return whether there is something new to try."""
    new = False
    for name in names:
        state = found.states.get(name, {})
        tries[name] = tries.get(name, 0) + 1
        if tries[name] > _TRIES:
            continue
        if state.get("state") == "other":
            tries[name] = _TRIES
            if asking.yes(f"{name}: {state['message']}. Is that the machine you mean (yes, no)", "no"):
                hostnames[name] = state["hostname"]
                new = True
        elif state.get("state") == "denied":
            user = access[name].user if name in access else "root"
            user = asking.ask(f"{name}: {state['message']}. Account there", user).strip()
            password = asking.secret(f"Password of {user} on {name} (empty: not now)")
            if password:
                access[name] = Access(user, password)
                new = True
            else:
                tries[name] = _TRIES
    return new


def _judge(name: str, found: _Found, again: str) -> None:
    """Make a problem of what is wrong with a machine."""
    state = found.states.get(name, {"state": "failed", "message": "the run ended before it", "hostname": "", "address": ""})
    kind, message = state["state"], state["message"]
    if kind == "other":
        following = f"{again} --hostname {name}={state['hostname']}   (when it is right; otherwise correct its address in hosts.yml)"
        found.problems.append(Problem("wrong-machine", message, host=name, next=following))
        found.reasons.add(ExitCode.CHECK)
    elif kind == "twin":
        found.problems.append(Problem("twin-machine", message, host=name, next="Correct the address of one of them in hosts.yml"))
        found.reasons.add(ExitCode.CHECK)
    elif kind in ("denied", "unreachable", "failed"):
        found.problems.append(Problem(kind, message, host=name, next=again))
        found.reasons.add(ExitCode.FAILED if kind == "failed" else ExitCode.UNREACHABLE)


def _keep(session: Session, prepared: Prepared | None, open_: Mapping[str, Access], finished: set[str], asking: Asking | None) -> None:
    """Keep the passwords that are still needed, if the operator wants that, and forget those that are not."""
    from mipfed import vault_files

    path = session.source.folder / KEPT
    password = prepared.vault_password if prepared else None
    if path.exists() and password is None:
        return  # no machine was reached, so that all of it is still needed
    kept: dict[str, Any] = {}
    if path.exists() and password is not None:
        kept = _read(vault_files.decrypted(path.read_text(encoding="utf-8"), password, path))
    left = {name: entry for name, entry in kept.items() if name not in finished}
    wanted = {name: {"user": a.user, "password": a.password} for name, a in open_.items() if a.password}
    new = sorted(name for name in wanted if wanted[name] != kept.get(name))
    if new and asking and asking.yes(f"Keep the password of {', '.join(new)}, encrypted, for the next time (yes, no)", "no"):
        left |= wanted
    if left == kept:
        return
    if not left:
        path.unlink()
        return
    if password is None:
        password = _vault_password(session)
    paths.write_atomically(path, vault_files.encrypted(_written(left), password))
    path.chmod(0o600)


def _vault_password(session: Session) -> str:
    """Return the federation's vault password; a new one where it has none yet."""
    from mipfed import render, vault, vault_files

    option, source = session.options.vault_password_file, session.source
    if other := next(vault.encrypted_files(source.path), None):
        password = vault.obtain(option, source.name)
        vault_files.rekeyed(other.read_text(encoding="utf-8"), password, password, other)  # one federation, one password
        return password
    if (given := vault.given(option, source.name)) is not None:
        return given
    password = vault.typed_twice(f"New vault password of {source.name}: ")
    render.line("mipfed asks for it from now on, or takes it from one source: --vault-password-file, MIPFED_VAULT_PASSWORD_FILE")
    render.line("(a file, or a program that prints it), or MIPFED_VAULT_KEYRING (your keyring).")
    return password


def _written(entries: Mapping[str, Mapping[str, str]]) -> str:
    # A password may hold what templates would understand.
    def line(name: str, entry: Mapping[str, str]) -> str:
        return f"  {name}: {{{', '.join(f'{key}: !unsafe {json.dumps(value)}' for key, value in entry.items())}}}"

    lines = [line(name, entry) for name, entry in entries.items()]
    return _HEAD + "\n".join(lines) + "\n"


def _read(text: str) -> dict[str, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML with values that Ansible takes as they are."""

    Loader.add_constructor("!unsafe", lambda _loader, node: node.value)
    data = yaml.load(text, Loader)  # noqa: S506 - a safe one
    found = data.get("first_contact") if isinstance(data, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}
