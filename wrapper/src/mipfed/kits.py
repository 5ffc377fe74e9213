# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands `mipfed kit …`: hospitals that give no credentials join by themselves, and are operated through the swarm only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mipfed import completion
from mipfed.errors import MipfedError, configuration, usage
from mipfed.exitcodes import ExitCode
from mipfed.options import REMOTE, command, new_application
from mipfed.outcome import Outcome
from mipfed.session import Session

if TYPE_CHECKING:
    from mipfed.hosts_file import HostsFile

kit_app = new_application("Site kits, with which hospitals that give no credentials join by themselves.")

VARIABLE = "mip_site_kit"
_UNITS = {"m": 60, "h": 3600, "d": 86400}
_SHORTEST, _LONGEST = 15 * 60, 14 * 86400


def seconds(text: str) -> int:
    """Return a time such as 90m, 48h or 3d in seconds.

    :raises MipfedError: USAGE for anything else, or a time that is too short or too long for a token to live.
    """
    found = re.fullmatch(r"(\d{1,6})([mhd])", text.strip())
    if not found:
        raise usage(f"--expires: {text!r} is no time; write 90m, 48h or 3d.")
    value = int(found[1]) * _UNITS[found[2]]
    if not _SHORTEST <= value <= _LONGEST:
        raise usage(f"--expires: {text} is not between 15m and 14d. Who has the kit and its passphrase until then can join.")
    return value


def _hosts(session: Session) -> HostsFile:
    from mipfed.hosts_file import HostsFile

    return HostsFile(session.source.path)


def _write(session: Session, hosts: HostsFile) -> None:
    """Write the inventory, if it is still a federation's."""
    from dataclasses import replace

    from mipfed import inventory, vault

    password = vault.obtain(session.options.vault_password_file, session.source.name) if vault.is_encrypted(session.source.path) else None

    def check(draft: Path) -> None:
        inventory.resolve(inventory.load(replace(session.source, path=draft), password=password), session.source.name)

    hosts.write(check)


def _known(session: Session, node: str) -> dict[str, Any] | None:
    """Return what the inventory says of a node with a kit; None when it does not know the name.

    :raises MipfedError: CONFIGURATION for a node that is operated over SSH.
    """
    from mipfed import inventory

    resolved = inventory.resolve(inventory.load(session.source))
    for found in [*resolved["nodes"], *resolved.get("disabled", ())]:
        if found["name"] == node and found.get("site_kit"):
            raise configuration(f"{node} is disabled: {found['disabled']['reason']}", next=session.call(f"node enable {node}"))
        if found["name"] == node:
            raise configuration(
                f"{node} is a {found['kind']} that is reached over SSH; a site kit is for hospitals that give no credentials.",
                next=session.call(f"deploy -l {node}"),
            )
    return next((found for found in resolved["kits"] if found["name"] == node), None)


@command(kit_app, "create", REMOTE, group="kit")
def kit_create(
    session: Session,
    node: Annotated[str, typer.Argument(metavar="NODE", help="Name of the hospital's node.", autocompletion=completion.nodes)],
    address: Annotated[str, typer.Option(metavar="ADDRESS", help="Its IPv4 address in the federation.")] = "",
    expires: Annotated[str, typer.Option(metavar="TIME", help="How long the kit can be used: 90m, 48h, 3d.")] = "48h",
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write the kit; otherwise mip-site-NODE.py here.")] = None,
) -> Outcome:
    """Make a site kit: one file with which a hospital joins by itself.

    Adds the node to the inventory, lets its address into the members' firewalls, and writes the kit, signed and encrypted. For a node
    that was accepted already it makes a kit without a token, which brings its firewall and settings up to date.
    """
    import tempfile

    from mipfed import kit_reports, paths

    session.arguments = [node, *(["--address", address] if address else []), "--expires", expires]
    lifetime = seconds(expires)
    path = (to or Path(f"mip-site-{node}.py")).expanduser().absolute()
    if not path.parent.is_dir():
        raise usage(f"--to: the folder {path.parent} does not exist.")
    known = _known(session, node)
    if known is None and not address:
        raise usage(f"{session.source.name} has no node {node} yet; give its address.", next=session.call(f"kit create {node} --address …"))
    if known and known["site_kit"] == "member" and address and address != known["address"]:
        raise configuration(
            f"{node} is a member with the address {known['address']}; with another address it has to leave and join again.",
            next=session.call(f"kit revoke {node}"),
        )
    shown = address or str((known or {}).get("address"))
    member = bool(known and known["site_kit"] == "member")
    session.confirm(
        f"A kit for {node} at {shown} in the federation {session.source.name}, usable for {expires}:\n"
        + ("" if member else "  it is added to the inventory, and the members' firewalls let its address in;\n")
        + f"  {paths.shown(path)} is written. It is encrypted; who has it and the passphrase can join until then.",
        "Make the kit?",
    )
    hosts = _hosts(session)
    if known is None:
        hosts.add(node, "workers", {"mip_address": address, VARIABLE: "invited"})
    elif address and address != known["address"]:
        hosts.set(node, "mip_address", address)
    _write(session, hosts)
    prepared = session.prepare()
    folder = paths.state_dir()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix="kit-", dir=folder) as private:
        secret = Path(private) / "passphrase"
        variables = {"kit_node": node, "kit_path": str(path), "kit_passphrase_file": str(secret), "kit_expires_seconds": lifetime}
        outcome = session.play("hbp.mip.kit_create", prepared, variables=variables)
        passphrase = secret.read_text(encoding="utf-8").strip() if secret.exists() else ""
    outcome = session.report(outcome, "kit", kit_reports.kit)
    if outcome.result and outcome.result.get("path"):
        outcome.result = {**outcome.result, "passphrase": passphrase, "expires": expires, "joins": not member}
        data = outcome.result
        outcome.text = lambda out: kit_reports.created(out, data, session.call(f"kit accept {node} CODE"))
    return outcome


@command(kit_app, "accept", REMOTE, group="kit")
def kit_accept(
    session: Session,
    node: Annotated[str, typer.Argument(metavar="NODE", help="Name of the hospital's node.", autocompletion=completion.nodes)],
    code: Annotated[str, typer.Argument(metavar="CODE", help="What the hospital reads out.")],
) -> Outcome:
    """Accept a hospital's node by the code that its kit printed.

    Finds the node in the swarm by the code, compares its address, labels it and starts its engine. The token in the kit is worthless
    from then on.
    """
    from mipfed import kit_reports

    session.arguments = [node, code]
    if _known(session, node) is None:
        raise MipfedError(
            ExitCode.NO_HOSTS, f"{session.source.name} has no node {node}.", next=session.call(f"kit create {node} --address …")
        )
    outcome = session.play(
        "hbp.mip.kit_accept", session.prepare(), variables={"kit_node": node, "kit_code": code}, following=session.call("kit ls")
    )
    outcome = session.report(outcome, "kit", kit_reports.kit)
    if outcome.exit_code is ExitCode.OK:
        hosts = _hosts(session)
        hosts.set(node, VARIABLE, "member")
        _write(session, hosts)
        outcome.next = session.call("status")
    return outcome


@command(kit_app, "ls", REMOTE, group="kit")
def kit_ls(session: Session) -> Outcome:
    """List the kits and what became of them, and nodes of the swarm that nobody knows. Changes nothing."""
    from mipfed import kit_reports

    return session.report(session.play("hbp.mip.kit_ls", session.prepare()), "kit", kit_reports.kit)


@command(kit_app, "revoke", REMOTE, group="kit")
def kit_revoke(
    session: Session,
    node: Annotated[
        str,
        typer.Argument(
            metavar="NODE", help="The node that the kit was made for, or the id of an unknown node.", autocompletion=completion.workers
        ),
    ],
) -> Outcome:
    """End a kit and remove who came with it, or remove an unknown node from the swarm.

    Also for a hospital that was accepted: its engine is stopped and forgotten. Rotates the swarm's join token, so that other kits that
    were not used yet end, too.
    """
    from mipfed import kit_reports

    session.arguments = [node]
    hosts = _hosts(session)
    known = _known(session, node) if hosts.has(node) else None
    member = bool(known and known["site_kit"] == "member")
    session.confirm(
        f"This ends the kit of {node} and removes what joined the swarm of {session.source.name} with it. The join token is rotated."
        + (f"\n{node} is a member: its engine is stopped, and its datasets are gone from the federation." if member else ""),
        "Revoke?",
    )
    if known:
        # The members' firewalls follow the inventory.
        hosts.remove(node)
        _write(session, hosts)
    variables = {"kit_node": node, "kit_retire": member or known is None}
    outcome = session.play("hbp.mip.kit_revoke", session.prepare(), variables=variables, following=session.call("kit ls"))
    return session.report(outcome, "kit", kit_reports.kit)
