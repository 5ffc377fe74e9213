# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `mipfed init`. The inventory is written by `mipfed.initialise`, the machines are contacted by `mipfed.contact`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mipfed import paths
from mipfed.errors import configuration, pair, usage
from mipfed.options import OUTPUT, command
from mipfed.outcome import Outcome
from mipfed.session import Session

if TYPE_CHECKING:
    from mipfed.contact import Asking
    from mipfed.initialise import Answers

#: Files of variables that `init` itself writes, or that are encrypted.
_OWN = ("main.yml", "vault.yml", "first_contact.yml")


def _pairs(texts: list[str] | None, option: str, example: str) -> dict[str, str]:
    return dict(pair(text, option, "NODE=VALUE", example) for text in texts or ())


def _password(file: Path | None) -> str:
    """Return the first line of a file, or of standard input."""
    if file is None:
        return ""
    try:
        text = sys.stdin.readline() if str(file) == "-" else file.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise usage(f"--password-file {paths.shown(file)} cannot be read: {error}") from None
    if not (lines := text.splitlines()) or not lines[0]:
        raise usage(f"--password-file {paths.shown(file)}: its first line is empty.")
    return lines[0]


def _variables(file: Path | None) -> tuple[str, str]:
    """Return name and content of a file of variables."""
    if file is None:
        return "", ""
    from mipfed import vault_files

    name = file.name if file.suffix in (".yml", ".yaml") else f"{file.name}.yml"
    if name in _OWN:
        raise usage(f"--variables {paths.shown(file)}: the inventory has a file {name} of its own; give it another name.")
    try:
        text = file.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise usage(f"--variables {paths.shown(file)} cannot be read: {error}") from None
    vault_files.sound(text, file)
    return name, text


def init(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the federation.")],
    master: Annotated[str | None, typer.Option(metavar="NAME=ADDRESS", help="The master. ADDRESS:PORT where SSH has another port.")] = None,
    ui: Annotated[str | None, typer.Option(metavar="NAME=ADDRESS", help="The host of the web portal.")] = None,
    worker: Annotated[list[str] | None, typer.Option(metavar="NAME=ADDRESS", help="A hospital; give it once for each.")] = None,
    engine_image: Annotated[str, typer.Option(metavar="IMAGE", help="Image of the engine.")] = "",
    keystore_image: Annotated[str, typer.Option(metavar="IMAGE", help="Image of the keystore, Consul.")] = "",
    user: Annotated[str, typer.Option(metavar="USER", help="The account that the machines have today.")] = "",
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its password is the first line of this file (-: of standard input).")
    ] = None,
    host_key: Annotated[
        list[str] | None, typer.Option(metavar="NODE=SHA256:…", help="Fingerprint of a node's SSH host key, known beforehand.")
    ] = None,
    hostname: Annotated[
        list[str] | None, typer.Option(metavar="NODE=HOSTNAME", help="The host name of a machine, where it is not the node's name.")
    ] = None,
    variables: Annotated[Path | None, typer.Option(metavar="FILE", help="Also put these variables (YAML) into a new inventory.")] = None,
    contact: Annotated[
        bool | None,
        typer.Option(
            "--contact/--no-contact", help="Contact the machines; the default on a terminal or with passwords.", show_default=False
        ),
    ] = None,
    from_: Annotated[Path | None, typer.Option("--from", metavar="FILE", help="Take the answers from a JSON file.")] = None,
) -> Outcome:
    """Set up a federation: write its inventory, meet its machines; or add what is missing.

    Makes inventories/NAME with an SSH key of its own. Asks for what is not given. Then shows the machines' SSH fingerprints, compares
    their host names with the nodes' names, and lets the federation's key in with the account and password that they have today. Given
    again, it adds nodes and goes on where it ended, and neither changes nor removes anything.
    """
    from mipfed import initialise
    from mipfed.contact import Asking, make, secret

    session.name = name
    answers = initialise.from_file(from_, name) if from_ else initialise.Answers(name)
    answers.master = initialise.node(master, "--master") if master else answers.master
    answers.ui = initialise.node(ui, "--ui") if ui else answers.ui
    answers.workers = [initialise.node(text, "--worker") for text in worker] if worker else answers.workers
    for key, value in (("engine_image", engine_image), ("keystore_image", keystore_image), ("user", user)):
        if value:
            setattr(answers, key, value)
    answers.host_keys |= _pairs(host_key, "--host-key", "hospital-a=SHA256:…")
    answers.hostnames |= _pairs(hostname, "--hostname", "hospital-a=srv1")
    answers.password = _password(password_file) or answers.password
    more = _variables(variables)

    talk = session.interactive() and not from_
    ask = initialise.prompt if talk else None
    wanted = contact if contact is not None else talk or answers.passwords
    asking = Asking(initialise.prompt, secret) if talk and wanted else None
    if name in paths.federations(session.root):
        if variables:
            raise configuration(f"{name} is there already, and init changes nothing of it; --variables would.")
        outcome = initialise.again(session, answers, ask, asking)
    else:
        outcome = _new(session, answers, asking, ask=talk, more=more, wanted=wanted)
    if not wanted:
        return outcome
    session.options = dataclasses.replace(session.options, federation=name, inventory=None)
    session.arguments = [name]
    return make(session, answers.access, answers.hostnames, asking, outcome, shared=answers.shared)


def _new(session: Session, answers: Answers, asking: Asking | None, *, ask: bool, more: tuple[str, str], wanted: bool) -> Outcome:
    """Write the inventory of a new federation."""
    from mipfed import initialise

    name = answers.name
    answers = initialise.complete(answers, initialise.prompt if ask else None, asking)
    if unknown := sorted({*answers.host_keys, *answers.hostnames} - {pair[0] for pair in answers.nodes}):
        raise usage(f"--host-key and --hostname: {name} gets no node {', '.join(unknown)}.")

    def add(draft: Path) -> None:
        if more[0]:
            (draft / "group_vars" / "all" / more[0]).write_text(more[1], encoding="utf-8")

    folder = initialise.write(session.root, answers, add)
    public = (folder / "ssh" / "id_ed25519.pub").read_text(encoding="utf-8").strip()
    files = sorted(str(path.relative_to(session.root)) for path in folder.rglob("*") if path.is_file())
    by_hand = [pair[0] for pair in answers.nodes if not (wanted and pair[0] in answers.access and answers.access[pair[0]].password)]

    def text(out: Any) -> None:
        out.print(f"Wrote {paths.shown(folder)}.", markup=False)
        if by_hand:
            where = "every node" if len(by_hand) == len(answers.nodes) else ", ".join(by_hand)
            out.print(f"Allow this key for {answers.user} on {where}:\n{public}", markup=False)
        if not wanted:
            out.print("Then:")
            for following in ("trust", "check", "deploy"):
                out.print(f"  mipfed -f {name} {following}", markup=False)

    return Outcome(result={"inventory": str(folder), "files": files, "public_key": public}, text=text)


def register(application: typer.Typer) -> None:
    """Give an application this command."""
    command(application, "init", (*OUTPUT, "yes", "vault_password_file"))(init)
