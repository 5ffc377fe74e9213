# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the commands `mipfed node …` and `mipfed token …` do: they guard, edit hosts.yml and run the playbooks hbp.mip.node_*.

hosts.yml tells what the federation shall be. So a node that comes is written first, and one that goes is taken out last: whenever a
command is cut off, the same command again, or a deploy, knows what is left to do.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mipfed import inventory as inventories
from mipfed import life_reports, paths, trust
from mipfed.errors import MipfedError, Problem, configuration, declined, usage
from mipfed.exitcodes import ExitCode
from mipfed.hosts_file import HostsFile
from mipfed.outcome import Outcome
from mipfed.session import Session

GROUPS = {"worker": "workers", "ui": "ui"}
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


def _nodes(session: Session, path: Path | None = None) -> dict[str, dict[str, Any]]:
    """Return the nodes of the inventory, by name, with disabled ones and those with a site kit; of a draft if a path is given."""
    source = inventories.Source(session.source.name, path or session.source.path)
    resolved = inventories.resolve(inventories.load(source))
    return {node["name"]: node for node in [*resolved["nodes"], *resolved["kits"], *resolved["disabled"]]}


def _file(session: Session) -> HostsFile:
    path = session.source.path
    if path.is_dir():
        raise configuration(f"{paths.shown(path)} has no hosts.yml, so that there is nothing that could be edited.")
    return HostsFile(path)


def _known(session: Session, nodes: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """Return a node.

    :raises MipfedError: NO_HOSTS when the federation has none of this name.
    """
    if name not in nodes:
        raise MipfedError(ExitCode.NO_HOSTS, f"{session.source.name} has no node {name}.", next=f"Nodes: {', '.join(nodes)}")
    return nodes[name]


def _needs_ssh(session: Session, node: Mapping[str, Any], instead: str) -> None:
    """Refuse what cannot be done to a hospital that joined with a site kit.

    :arg instead: the command to use in place of this one.
    """
    if node.get("site_kit"):
        verb = session.command
        raise usage(
            f"{node['name']} joined with a site kit and gives no access over SSH, which `{verb}` needs.", next=session.call(instead)
        )


def _joined(session: Session, node: Mapping[str, Any], verb: str) -> None:
    """Refuse what makes no sense for a hospital that has not come yet."""
    if node.get("site_kit") == "invited":
        raise usage(f"{node['name']} was invited with a site kit and is no member yet; it cannot be {verb}.", next=session.call("kit ls"))


def _no_master(node: Mapping[str, Any], what: str, *, following: str = "") -> None:
    if node["kind"] == "master":
        raise usage(f"{node['name']} is the master, and without it there is no federation; it cannot be {what}.", next=following)


def _check_fingerprint(text: str) -> None:
    if text and not _FINGERPRINT.fullmatch(text):
        raise usage(
            f"--host-key {text!r} is no SHA256 fingerprint.", next="ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub on the host prints it"
        )


def variables(address: str, ssh_address: str, port: int, user: str, ssh_key: Path | None, first_user: str, host_key: str) -> dict[str, Any]:
    """Return the variables of a new host.

    :raises MipfedError: USAGE when one of the options is none.
    """
    try:
        ipaddress.IPv4Address(address)
    except ValueError:
        raise usage(f"--address {address!r} is no IPv4 address.") from None
    _check_fingerprint(host_key)
    given: dict[str, Any] = {"ansible_host": ssh_address or address}
    if ssh_address and ssh_address != address:
        given["mip_address"] = address
    if port != 22:
        given["ansible_port"] = port
    more = {"ansible_user": user, "ansible_ssh_private_key_file": str(ssh_key.expanduser().absolute()) if ssh_key else ""}
    more |= {"mip_first_user": first_user, "mip_host_key": host_key}
    return {**given, **{key: value for key, value in more.items() if value}}


def _first_password(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        text = file.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise usage(f"--first-password-file {paths.shown(file)} cannot be read: {error}") from None
    if not text or not text[0]:
        raise usage(f"--first-password-file {paths.shown(file)}: its first line is empty.")
    return text[0]


def _trust(session: Session, node: Mapping[str, Any], intent: str, question: str, *, changed: bool = False, expected: str = "") -> None:
    """Show the node's host key and what is going to happen, ask, and pin the key.

    :arg changed: may the key be another one than the pinned one?
    :arg expected: the fingerprint that it must then have; without it somebody has to confirm it on a terminal.
    :raises MipfedError: DECLINED, CHECK for a key that must not be accepted, UNREACHABLE.
    """
    known_hosts = session.source.known_hosts
    entries = trust.examine([{**node, "host_key": expected or node["host_key"]}], known_hosts)
    asked = False

    def accept(unknown: Sequence[trust.Trust]) -> bool:
        nonlocal asked
        asked = True
        lines = [f"{entry.node} shows this {entry.kind} key: {entry.fingerprint}" for entry in unknown]
        lines += [f"  ({entry.message})" for entry in unknown if entry.message]
        lines += ["Compare with the output of `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on it.", intent]
        if any(entry.state == "changed" and entry.fingerprint != expected for entry in unknown):
            if expected:
                told = f"{node['name']} shows the key {unknown[0].fingerprint}, not {expected} (--host-key); nothing was changed."
                raise MipfedError(ExitCode.CHECK, Problem("host-key-mismatch", told, host=str(node["name"])))
            if session.options.yes or not session.interactive():
                raise declined(
                    f"The SSH host key of {node['name']} changed: {unknown[0].message}. That is accepted only when somebody confirms it.",
                    next=session.call(f"{session.command} {node['name']} --host-key {unknown[0].fingerprint}")
                    + "   (after comparing it on the host)",
                )
        session.confirm("\n".join(lines), question)
        return True

    replaced = [str(node["name"])] if changed else []
    added, replacing, problems = trust.decide(entries, session.call(""), replace=replaced, accept=accept)
    if problems:
        unreachable = all(problem.code == "unreachable" for problem in problems)
        raise MipfedError(ExitCode.UNREACHABLE if unreachable else ExitCode.CHECK, problems)
    if not asked:
        session.confirm(intent, question)
    trust.pin(known_hosts, added)
    trust.pin(known_hosts, replacing, replace=True)


def _ended(outcome: Outcome, name: str, done: str) -> Outcome:
    """Make the totals of a deploy the result of a command."""
    assert outcome.done
    collector = outcome.done.collector
    changed = sum(host.counts["changed"] for host in collector.hosts.values())
    outcome.recap = True
    outcome.result = {
        "node": name,
        "changed": changed,
        "changes": [change.as_dict(with_diff=False) for change in collector.changes],
        "report": collector.reports.get("node"),
    }
    if outcome.exit_code is ExitCode.OK:
        text = f"{done}: {changed} change{'s' * (changed != 1)}." if changed else "Nothing to do."
        outcome.text = lambda out: out.print(text, markup=False)
    return outcome


def add(
    session: Session, name: str, role: str, given: Mapping[str, Any], *, password_file: Path | None, data: bool, ignore_check: list[str]
) -> Outcome:
    """Carry out `node add`."""
    password = _first_password(password_file)
    nodes = _nodes(session)
    address = str(given.get("mip_address") or given["ansible_host"])
    intent = f"Federation {session.source.name} takes in {name} ({role}, {address}), with all that a deploy does."
    question = f"Add {name} to {session.source.name}?"
    added = name not in nodes
    if added:
        file = _file(session)
        file.add(name, GROUPS[role], given)

        def check(draft: Path) -> None:
            _trust(session, _nodes(session, draft)[name], intent, question)

        file.write(check)
    else:
        node = nodes[name]
        _needs_ssh(session, node, f"kit create {name}")
        if node["kind"] != role:
            raise usage(f"{name} is in the inventory already, as {node['kind']}; a host is one kind of node.")
        if node["address"] != address:
            following = session.call(f"node readdress {name} --address {address}")
            raise usage(f"{name} is in the inventory already, with the address {node['address']}.", next=following)
        if node.get("disabled"):
            raise usage(f"{name} is in the inventory, and disabled: {node['disabled']['reason']}", next=session.call(f"node enable {name}"))
        _trust(session, node, intent, question)
    # What is needed for a repetition.
    session.arguments = [name, "--address", address]
    more: dict[str, Any] = {"node_name": name, "check_ignore": ignore_check}
    if password:
        # Not a template, whatever is in it.
        more["node_first_password"] = {"__ansible_unsafe": password}
    bring = data and role == "worker"
    outcome = session.play("hbp.mip.node_add" if bring else "hbp.mip.deploy", session.prepare(), variables=more)
    _ended(outcome, name, f"{name} is a part of {session.source.name}")
    outcome.result["added"] = added
    if outcome.exit_code is ExitCode.OK:
        outcome.next = session.call("data compile" if bring and outcome.result["changed"] else "verify")
    elif added:
        where = f"{paths.shown(session.source.path)}"
        outcome.errors.append(
            Problem("not-finished", f"{name} stays in {where}; the same command goes on where this one ended.", host=name,
                    next=session.again())
        )  # fmt: skip
    return outcome


def remove(session: Session, name: str) -> Outcome:
    """Carry out `node remove`."""
    nodes = _nodes(session)
    node = _known(session, nodes, name)
    _no_master(node, "removed")
    file = _file(session)
    file.remove(name)
    if [other["kind"] for other in nodes.values()].count("worker") == 1 and node["kind"] == "worker":
        raise configuration(
            f"{name} is the only worker; a federation needs one. Nothing was changed.", next=session.call("node add NODE --address IP")
        )
    lines = [
        f"{name} ({node['kind']}, {node['address']}) leaves {session.source.name} for good: its engine stops, it leaves the swarm,",
        "the engine and the keystore forget it, the firewalls of the others close, and it is taken out of hosts.yml.",
        "The data on its disk stay there. "
        + (
            "It joined with a site kit: its kit ends, and on its machine nothing is done; there, `sudo mip-site leave` is for the hospital."
            if node.get("site_kit")
            else "If it does not answer, all is done that can be done without it."
        ),
    ]
    session.confirm("\n".join(lines), f"Remove {name}?")
    session.arguments = [name]
    prepared = session.prepare()
    playbook = "hbp.mip.node_remove_kit" if node.get("site_kit") else "hbp.mip.node_remove"
    outcome = session.play(playbook, prepared, variables={"node_name": name})
    outcome = session.report(outcome, "node", life_reports.node)
    finished = isinstance(outcome.result, dict) and outcome.result["ok"] and outcome.exit_code in (ExitCode.OK, ExitCode.UNREACHABLE)
    if finished:
        # The file may have been edited meanwhile; what it says now is what counts.
        file = _file(session)
        file.remove(name)
        file.write(lambda draft: (_nodes(session, draft), None)[1])
        _unpin(session, node, nodes)
        outcome.result["steps"].append({"step": "inventory", "state": "done", "detail": f"taken out of {paths.shown(session.source.path)}"})
        if outcome.exit_code is ExitCode.OK:
            outcome.next = session.call("data consolidate")
    elif outcome.errors:
        stays = f"{name} stays in {paths.shown(session.source.path)} until all of that is done."
        outcome.errors.append(Problem("not-finished", stays, host=name, next=session.again()))
    return outcome


def _unpin(session: Session, node: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> None:
    """Forget the host key of a node that is gone, so that its address can be given to another host."""
    where = trust.addresses([node]).get(str(node["name"]))
    others = trust.addresses([other for other in nodes.values() if other["name"] != node["name"]]).values()
    if where and where not in others and session.source.known_hosts.exists():
        trust.unpin(session.source.known_hosts, [where])


def disable(session: Session, name: str, reason: str, *, keep_running: bool) -> Outcome:
    """Carry out `node disable`."""
    reason = " ".join(reason.split())
    if not reason:
        raise usage("--reason: say why, in a few words.")
    nodes = _nodes(session)
    node = _known(session, nodes, name)
    _no_master(node, "disabled")
    _joined(session, node, "disabled")
    before = node.get("disabled") or {}
    file = _file(session)
    kept = file.original
    same = before.get("reason") == reason and bool(before.get("keep_running")) == keep_running
    wanted: dict[str, Any] = {"reason": reason, "since": before.get("since") or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    if keep_running:
        wanted["keep_running"] = True
    if not same:
        file.set(name, "mip_disabled", wanted)
    what = "keeps running as it is" if keep_running or node["kind"] != "worker" else "stops, and its datasets are not offered any more"
    session.confirm(
        f"Every command will skip {name} ({reason}). Its engine {what}. It stays a member, and its peers stay open for it.",
        f"Disable {name}?",
    )
    session.arguments = [name, "--reason", reason, *(["--keep-running"] if keep_running else [])]
    written = file.write(lambda draft: (_nodes(session, draft), None)[1])
    outcome = session.report(
        session.play("hbp.mip.node_disable", session.prepare(), variables={"node_name": name}), "node", life_reports.node
    )
    if outcome.exit_code is ExitCode.LOCKED and written and session.source.path.read_bytes() == file.original:
        # Somebody else is at work, and nothing was done; the inventory must not claim otherwise.
        paths.write_atomically(session.source.path, kept.decode("utf-8"))
    elif isinstance(outcome.result, dict):
        outcome.result["disabled"] = wanted if not same else before
        outcome.result["steps"].insert(
            0, {"step": "inventory", "state": "done" if written else "nothing", "detail": f"{paths.shown(session.source.path)} disables it"}
        )
    return outcome


def enable(session: Session, name: str, ignore_check: list[str]) -> Outcome:
    """Carry out `node enable`."""
    node = _known(session, _nodes(session), name)
    file = _file(session)
    if node.get("disabled"):
        file.set(name, "mip_disabled", None)
        if not file.changed:
            raise configuration(
                f"{name} is disabled by another file than {paths.shown(session.source.path)}; take mip_disabled out of it: "
                f"{', '.join(inventories.where('mip_disabled', session.source)) or 'host_vars'}"
            )
    session.confirm(f"{name} becomes a part of {session.source.name} again, with all that a deploy does.", f"Enable {name}?")
    session.arguments = [name]
    written = file.write(lambda draft: (_nodes(session, draft), None)[1])
    variables = {"node_name": name, "check_ignore": ignore_check}
    outcome = _ended(session.play("hbp.mip.deploy", session.prepare(), variables=variables), name, f"{name} is enabled")
    outcome.result["enabled"] = written
    if outcome.exit_code is ExitCode.OK and written:
        outcome.text = lambda out: out.print(f"{name} is enabled.", markup=False)
        outcome.next = session.call("verify")
    return outcome


def availability(session: Session, name: str, wanted: str) -> Outcome:
    """Carry out `node drain` and `node activate`."""
    node = _known(session, _nodes(session), name)
    _no_master(node, "drained; its services can run nowhere else")
    if node["kind"] == "ui":
        raise usage(f"{name} is the ui node, which is no member of the swarm.")
    _joined(session, node, wanted)
    if wanted == "drained":
        session.confirm(f"The engine of {name} stops, and its datasets cannot be asked until `node activate {name}`.", f"Drain {name}?")
    session.arguments = [name]
    outcome = session.play("hbp.mip.node_availability", session.prepare(), variables={"node_name": name, "node_availability": wanted})
    return session.report(outcome, "node", life_reports.node)


def replace(session: Session, name: str, host_key: str, ignore_check: list[str]) -> Outcome:
    """Carry out `node replace`."""
    _check_fingerprint(host_key)
    node = _known(session, _nodes(session), name)
    _no_master(node, "replaced this way", following=session.call("recover"))
    _needs_ssh(session, node, f"node remove {name}")
    if node.get("disabled"):
        raise usage(f"{name} is disabled.", next=session.call(f"node enable {name}"))
    intent = f"If {name} is no member of the swarm any more, what it was is removed from it; then it is deployed to, and joins again."
    promised = str(node["host_key"])
    session.arguments = [name, *(["--host-key", host_key] if host_key else [])]
    _trust(session, {**node, "host_key": host_key or promised}, intent, f"Replace {name}?", changed=True, expected=host_key)
    if promised and host_key and promised != host_key:
        file = _file(session)
        file.set(name, "mip_host_key", host_key)
        file.write(lambda draft: (_nodes(session, draft), None)[1])
    variables = {"node_name": name, "check_ignore": ignore_check}
    return _ended(session.play("hbp.mip.node_replace", session.prepare(), variables=variables), name, f"{name} is replaced")


def readdress(session: Session, name: str, address: str, ssh_address: str, ignore_check: list[str]) -> Outcome:
    """Carry out `node readdress`."""
    if not address and not ssh_address:
        raise usage("Give --address, --ssh-address, or both.")
    nodes = _nodes(session)
    node = _known(session, nodes, name)
    _needs_ssh(session, node, f"node remove {name}")
    if address:
        try:
            ipaddress.IPv4Address(address)
        except ValueError:
            raise usage(f"--address {address!r} is no IPv4 address.") from None
    moves = bool(address) and address != node["address"]
    if moves and node["manager"]:
        raise MipfedError(
            ExitCode.CHECK,
            Problem(
                "manager-address",
                f"{name} is a manager of the swarm. Managers know each other by address, and the engine has no way to change it: with "
                "another address it finds no majority. Nothing was changed. Give the host its address back; or, if it is not the master, "
                "remove it and add it again.",
                host=name,
                next=session.call("status"),
            ),
        )
    file = _file(session)
    # An address for SSH that was the federation's as well goes with it.
    follows = node["ssh_host"] == node["address"]
    if file.variable(name, "mip_address") or (ssh_address and ssh_address != (address or node["address"])):
        file.set(name, "mip_address", address or node["address"])
    if ssh_address or (moves and follows):
        file.set(name, "ansible_host", ssh_address or address)
    if moves and node["kind"] != "ui":
        intent = f"A member's address cannot change: {name} leaves the swarm and joins again with {address}. Its engine stops meanwhile."
    else:
        intent = f"{name} is reached at {ssh_address or address} from now on; nothing in the swarm changes."
    session.arguments = [name, *(["--address", address] if address else []), *(["--ssh-address", ssh_address] if ssh_address else [])]

    def check(draft: Path) -> None:
        found = _nodes(session, draft)[name]
        old, new = trust.addresses([node]).get(name), trust.addresses([found]).get(name)
        if old and new and old != new:
            trust.carry_over(session.source.known_hosts, old, new)
        _trust(session, found, intent, f"Change the address of {name}?")

    if not file.write(check):
        session.confirm(intent, f"Go on with {name}?")
    # Whether it has to join again shows on the host: an earlier run may have been cut off before that.
    member = node["kind"] == "worker" and not node["manager"]
    variables = {"node_name": name, "node_leave": member, "check_ignore": ignore_check}
    playbook = "hbp.mip.node_replace" if member else "hbp.mip.deploy"
    return _ended(session.play(playbook, session.prepare(), variables=variables), name, f"{name} has its new address")


def rotate(session: Session, roles: list[str], *, ca: bool, unlock_key: bool = False) -> Outcome:
    """Carry out `token rotate`."""
    whose = " and ".join(f"{role}s" for role in roles)
    lines = [f"The join token{'s' if len(roles) > 1 else ''} for {whose} cannot be used any more: new ones take their place."]
    if ca:
        lines.append("The swarm's certificate authority is replaced, and every node gets a new certificate; all nodes must be there.")
    prepared = session.prepare()
    if unlock_key:
        lines.append("The key that unlocks the managers after a restart is replaced, in the vault, too.")
        if not prepared.resolved["swarm_autolock"]:
            raise configuration(
                "The managers of this federation are not locked, so that they have no unlock key (mip_swarm_autolock).",
                next=session.call("token rotate"),
            )
    session.confirm("\n".join(lines), "Rotate?")
    options = [*(["--ca"] if ca else []), *(["--unlock-key"] if unlock_key else [])]
    session.arguments = [roles[0] if len(roles) == 1 else "both", *options]
    variables = {"token_roles": roles, "token_ca": ca, "token_unlock_key": unlock_key}
    outcome = session.play("hbp.mip.token_rotate", prepared, variables=variables)
    return session.report(outcome, "token", life_reports.token)
