# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands `mipfed node …` and `mipfed token …`. What they do is in `mipfed.membership`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mipfed import completion
from mipfed.options import OFFLINE, REMOTE, command, new_application
from mipfed.outcome import Outcome
from mipfed.session import Session

node_app = new_application("The nodes of a federation: which there are, how they come and go.")
token_app = new_application("The tokens with which nodes join the swarm.")

Name = Annotated[str, typer.Argument(metavar="NODE", help="Name of the node.", autocompletion=completion.nodes)]
HostKey = Annotated[
    str, typer.Option("--host-key", metavar="SHA256:…", help="Fingerprint of its SSH host key, known beforehand.", show_default=False)
]
IgnoreCheck = Annotated[
    list[str] | None,
    typer.Option("--ignore-check", metavar="CODE", help="Go on in spite of this problem, named by the code in brackets; may be repeated."),
]


class Role(StrEnum):
    """What a node that is added can be."""

    WORKER = "worker"
    UI = "ui"


class Tokens(StrEnum):
    """Which tokens are replaced."""

    WORKER = "worker"
    MANAGER = "manager"
    BOTH = "both"


def _operated(node: dict[str, Any]) -> str:
    """Return how a node is operated: over ssh, local, or through the swarm only, as hospitals are that joined with a site kit."""
    return "swarm" if node.get("site_kit") else "ssh" if node["ssh_host"] else "local"


@command(node_app, "ls", OFFLINE, group="node")
def node_ls(session: Session) -> Outcome:
    """List the nodes of the federation, from its inventory, and how each is operated. Contacts no host."""
    from mipfed import inventory, render

    config = inventory.shown_config(inventory.resolve(inventory.load(session.source)))
    nodes = [{**n, "operated": _operated(n)} for n in (*config["nodes"], *config["kits"], *config["disabled"])]

    def state(node: dict[str, Any]) -> str:
        found = node.get("disabled") or {}
        if found:
            return f"disabled since {found['since'] or '?'}: {found['reason']}"
        return "invited with a site kit" if node.get("site_kit") == "invited" else ""

    def reached(node: dict[str, Any]) -> str:
        over = {"ssh": f"{node['ssh_host']}:{node['ssh_port']}", "swarm": "no, through the swarm only (site kit)"}
        return over.get(node["operated"], "local")

    def text(out: Any) -> None:
        render.rows(
            out,
            ("node", "kind", "address", "manager", "ssh", "state"),
            (
                (
                    n["name"],
                    n["kind"],
                    n["address"],
                    n["manager"],
                    reached(n),
                    state(n),
                )
                for n in nodes
            ),
        )

    return Outcome(result={"nodes": nodes}, text=text)


@command(node_app, "add", REMOTE, group="node")
def node_add(
    session: Session,
    name: Name,
    address: Annotated[str, typer.Option(metavar="IP", help="Its static IPv4 address in the federation.")],
    role: Annotated[Role, typer.Option(help="What it is.")] = Role.WORKER,
    ssh_address: Annotated[str, typer.Option(metavar="HOST", help="Where SSH reaches it, if elsewhere.", show_default=False)] = "",
    port: Annotated[int, typer.Option(metavar="N", help="Port of its SSH server.", min=1, max=65535)] = 22,
    user: Annotated[str, typer.Option(metavar="USER", help="Account for SSH, if another than on the others.", show_default=False)] = "",
    ssh_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Private key for it, if another.", show_default=False)] = None,
    first_user: Annotated[str, typer.Option(metavar="USER", help="Account of the first contact with a password.", show_default=False)] = "",
    first_password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with that password; it is used once and kept nowhere.", show_default=False)
    ] = None,
    host_key: HostKey = "",
    data: Annotated[bool, typer.Option("--data/--no-data", help="Bring its datasets in.")] = True,
    ignore_check: IgnoreCheck = None,
) -> Outcome:
    """Take a new node in, with the federation running on.

    Writes it into hosts.yml, pins its SSH key, checks it, opens the others' firewalls for it, lets it join, starts its engine and brings
    its datasets in. Running it again repairs what is missing.
    """
    from mipfed import membership

    variables = membership.variables(address, ssh_address, port, user, ssh_key, first_user, host_key)
    return membership.add(
        session, name, role.value, variables, password_file=first_password_file, data=data, ignore_check=ignore_check or []
    )


@command(node_app, "remove", REMOTE, group="node")
def node_remove(session: Session, name: Name) -> Outcome:
    """Take a node out for good; also one that is dead.

    Stops its engine, takes it out of the swarm, the engine, the keystore, the firewalls and in the end out of hosts.yml. The data on its
    disk stay. Its datasets leave the metadata at the next `data consolidate`. Never the master. Asks before it starts.
    Of a hospital with a site kit all is done that can be done through the swarm, and its kit ends.
    """
    from mipfed import membership

    return membership.remove(session, name)


@command(node_app, "disable", REMOTE, group="node")
def node_disable(
    session: Session,
    name: Name,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; everybody sees it.")],
    keep_running: Annotated[bool, typer.Option("--keep-running", help="Leave its engine as it is.")] = False,
) -> Outcome:
    """Set a node aside: every command skips it.

    It stays a member of the swarm, and its peers' firewalls stay open for it. Its engine is stopped, unless it shall keep running.
    """
    from mipfed import membership

    return membership.disable(session, name, reason, keep_running=keep_running)


@command(node_app, "enable", REMOTE, group="node")
def node_enable(session: Session, name: Name, ignore_check: IgnoreCheck = None) -> Outcome:
    """Use a node again that was disabled, and deploy."""
    from mipfed import membership

    return membership.enable(session, name, ignore_check or [])


@command(node_app, "drain", REMOTE, group="node")
def node_drain(session: Session, name: Name) -> Outcome:
    """Stop the node's engine for maintenance, and wait until it has stopped. `node activate` starts it again."""
    from mipfed import membership

    return membership.availability(session, name, "drained")


@command(node_app, "activate", REMOTE, group="node")
def node_activate(session: Session, name: Name) -> Outcome:
    """Let a drained node take tasks again."""
    from mipfed import membership

    return membership.availability(session, name, "active")


@command(node_app, "replace", REMOTE, group="node")
def node_replace(session: Session, name: Name, host_key: HostKey = "", ignore_check: IgnoreCheck = None) -> Outcome:
    """Take a host in that was installed anew, under its old name.

    Its new SSH key is pinned only when you confirm it, or when it is the one of --host-key. What it was in the swarm is removed first.
    """
    from mipfed import membership

    return membership.replace(session, name, host_key, ignore_check or [])


@command(node_app, "readdress", REMOTE, group="node")
def node_readdress(
    session: Session,
    name: Name,
    address: Annotated[str, typer.Option(metavar="IP", help="Its new address in the federation.", show_default=False)] = "",
    ssh_address: Annotated[str, typer.Option(metavar="HOST", help="Where SSH reaches it from now on.", show_default=False)] = "",
    ignore_check: IgnoreCheck = None,
) -> Outcome:
    """Tell that a node has another address.

    Another address for SSH alone needs nothing more. A worker with another address in the federation leaves the swarm and joins again.
    A manager's address cannot change.
    """
    from mipfed import membership

    return membership.readdress(session, name, address, ssh_address, ignore_check or [])


@command(token_app, "rotate", REMOTE, group="token")
def token_rotate(
    session: Session,
    which: Annotated[Tokens, typer.Argument(help="Whose tokens.")] = Tokens.BOTH,
    ca: Annotated[bool, typer.Option("--ca", help="Replace the certificate authority as well, and wait for all nodes.")] = False,
    unlock_key: Annotated[
        bool, typer.Option("--unlock-key", help="Replace the key that unlocks the managers as well, also in the vault.")
    ] = False,
) -> Outcome:
    """Make the swarm's join tokens worthless that somebody may have seen. Members are not disturbed."""
    from mipfed import membership

    return membership.rotate(session, ["worker", "manager"] if which is Tokens.BOTH else [which.value], ca=ca, unlock_key=unlock_key)
