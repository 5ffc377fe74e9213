# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands about the swarm's managers: `mipfed unlock` and `mipfed master move`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mipfed import completion, paths
from mipfed.errors import MipfedError, Problem, configuration
from mipfed.exitcodes import ExitCode
from mipfed.options import REMOTE, command, new_application
from mipfed.outcome import Outcome
from mipfed.session import Session

if TYPE_CHECKING:
    from rich.console import Console

#: Gives a key that the vault does not have; it comes before those in the vault.
KEY_VARIABLE = "MIPFED_UNLOCK_KEY"


def _show_unlocked(out: Console, data: Mapping[str, Any]) -> None:
    """Write what became of each member."""
    from mipfed.render import rows

    rows(out, ("node", "state", "detail"), ((node["name"], node["state"], node["detail"]) for node in data.get("nodes") or ()))
    if not data.get("unlocked") and not data.get("problems"):
        out.print("No manager is locked.", markup=False)


def unlock(session: Session) -> Outcome:
    """Unlock managers that were restarted, where the swarm uses autolock (mip_swarm_autolock).

    The key comes from the federation's vault, or from MIPFED_UNLOCK_KEY. Managers that are not locked are left alone.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    prepared = session.prepare()
    played = session.play(
        "hbp.mip.unlock", prepared, check=session.options.check, variables={"recovery_unlock_key": key} if key else {},
        following=session.call("status"),
    )  # fmt: skip
    outcome = session.report(played, "unlock", _show_unlocked)
    if isinstance(outcome.result, Mapping) and outcome.result.get("unlocked") and not outcome.errors:
        outcome.next = session.call("status")
    return outcome


master_app = new_application("The node that runs the engine's master and the keystore.")


def _show_moved(out: Console, data: Mapping[str, Any]) -> None:
    """Write where the master is."""
    state, old, new = data.get("state"), data.get("from"), data.get("to")
    if state == "moved":
        keys = data.get("keys")
        out.print(f"{new} is the master now, with {keys} keys of the keystore; {old} is a worker without data.", markup=False)
        out.print("Whoever asks the engine, as the web portal does, has to ask it at the new address.", markup=False)
    elif state == "planned":
        out.print(f"Nothing speaks against it: {new} would become the master, and {old} a worker.", markup=False)


def _same(draft: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return the nodes that the edited inventory describes in another way than the move leaves them."""
    keys = ("kind", "manager", "address")
    found = {node["name"]: [node[key] for key in keys] for node in draft["nodes"]}
    return [node["name"] for node in wanted["nodes"] if found.get(node["name"]) != [node[key] for key in keys]]


@command(master_app, "move", (*REMOTE, "check"), group="master")
def master_move(
    session: Session, name: Annotated[str, typer.Argument(metavar="NODE", help="A worker without data.", autocompletion=completion.nodes)]
) -> Outcome:
    """Let another node be the master, with the keystore's keys and the metadata; the present one becomes a worker.

    Checks first. The engine's API is away for some minutes. If the engine does not come to work at the new place, everything is put
    back. In the end hosts.yml lets the two change places, and a deploy does the rest. Both hosts have to be there.
    """
    from mipfed import inventory as inventories
    from mipfed.hosts_file import HostsFile

    session.arguments = [name]
    prepared = session.prepare()
    nodes = {node["name"]: node for node in prepared.resolved["nodes"]}
    old = next(str(node["name"]) for node in prepared.resolved["nodes"] if node["kind"] == "master")
    if name == old:
        raise MipfedError(ExitCode.USAGE, f"{name} is the master already.", next=session.call("deploy"))
    if name not in nodes or nodes[name]["kind"] != "worker":
        workers = ", ".join(other for other, node in nodes.items() if node["kind"] == "worker")
        raise MipfedError(
            ExitCode.NO_HOSTS,
            f"{name} is no worker of {session.source.name} that is reached over SSH; the master can move to {workers}.",
            next=session.call("node add NODE --address IP"),
        )
    wanted = paths.collection_module("filter.with_master").with_master(prepared.resolved, name)

    def exchanged() -> HostsFile:
        if session.source.path.is_dir():
            raise configuration(f"{paths.shown(session.source.path)} has no hosts.yml, so that there is nothing that could be edited.")
        file = HostsFile(session.source.path)
        file.exchange(old, name)
        file.set(old, "mip_swarm_manager", True if nodes[name]["manager"] else None)
        file.set(name, "mip_swarm_manager", None)
        return file

    def check(draft: Path) -> None:
        source = inventories.Source(session.source.name, draft)
        differing = _same(inventories.resolve(inventories.load(source, password=prepared.vault_password)), wanted)
        if differing:
            raise configuration(
                f"With {name} and {old} in each other's place, the inventory describes {', '.join(differing)} otherwise than the move "
                "leaves them. A variable of a group or of host_vars says so. Nothing was changed.",
                next=session.call("config show"),
            )

    # Whether the file can be edited is known before anything is done.
    exchanged().try_out(check)
    if not session.options.check:
        session.confirm(
            f"{name} ({nodes[name]['address']}) becomes the master of {session.source.name}, and {old} a worker.\n"
            "The engine's API is away for some minutes, and has another address afterwards.",
            f"Move the master to {name}?",
        )
    played = session.play("hbp.mip.master_move", prepared, check=session.options.check, variables={"move_to": name})
    outcome = session.report(played, "move", _show_moved)
    report = outcome.result if isinstance(outcome.result, Mapping) else {}
    if report.get("state") != "moved":
        return outcome
    try:
        exchanged().write(check)
    except MipfedError as error:
        again = Problem("inventory", f"{name} is the master, but the inventory could not be edited.", next=session.again())
        raise MipfedError(error.exit_code, [*error.problems, again]) from None
    rest = session.play("hbp.mip.deploy", session.prepare())
    outcome.errors += rest.errors
    outcome.exit_code = rest.exit_code
    outcome.done = rest.done
    outcome.next = session.call("verify") if rest.exit_code is ExitCode.OK else session.call("deploy")
    return outcome


def register(application: typer.Typer) -> None:
    """Add the commands to the application."""
    command(application, "unlock", (*REMOTE, "check"))(unlock)
    application.add_typer(master_app, name="master")
