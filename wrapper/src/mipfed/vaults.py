# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands `mipfed vault …`. What they do is in `mipfed.vault_files`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from mipfed import paths
from mipfed.errors import MipfedError, configuration, declined
from mipfed.exitcodes import ExitCode
from mipfed.options import OFFLINE, command, new_application
from mipfed.outcome import Outcome
from mipfed.session import Session

vault_app = new_application("The encrypted files of a federation.")

VAULT = (*OFFLINE, "vault_password_file")


@command(vault_app, "edit", VAULT, group="vault")
def edit(
    session: Session,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Below the inventory; group_vars/all/vault.yml otherwise.")] = None,
) -> Outcome:
    """Edit a federation's encrypted variables in your editor; the file is made when it is not there.

    What is written has to be YAML. The file is replaced in one step and is never on a disk in clear.
    """
    from mipfed import vault, vault_files

    source = session.source
    path = source.folder / (file or Path("group_vars/all/vault.yml"))
    if not session.interactive():
        raise declined("mipfed vault edit opens an editor, and there is no terminal for it.", next="ansible-vault encrypt FILE")
    option = session.options.vault_password_file
    there = path.exists()
    if there and not path.read_bytes().startswith(vault.MARK):
        raise configuration(f"{paths.shown(path)} is not encrypted.", next=f"ansible-vault encrypt {paths.shown(path)}")
    if there or vault.is_encrypted(source.path):
        password = vault.obtain(option, source.name)
    else:
        password = vault.given(option, source.name) or vault.typed_twice(f"New vault password of {source.name}: ")
    if not there and (other := next(vault.encrypted_files(source.path), None)):
        vault_files.rekeyed(other.read_text(encoding="utf-8"), password, password, other)  # one federation, one password
    before = vault_files.decrypted(path.read_text(encoding="utf-8"), password, path) if there else "---\n"
    after = vault_files.changed_content(path, before)
    if after == before:
        return Outcome(result={"file": str(path), "changed": False}, text=lambda out: out.print("Nothing was changed."))
    vault_files.sound(after, path)
    if not there:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    paths.write_atomically(path, vault_files.encrypted(after, password))
    return Outcome(result={"file": str(path), "changed": True}, text=lambda out: out.print(f"Wrote {paths.shown(path)}.", markup=False))


@command(vault_app, "rekey", VAULT, group="vault")
def rekey(
    session: Session,
    new_file: Annotated[
        Path | None, typer.Option("--new-vault-password-file", metavar="FILE", help="File or program that gives the new password.")
    ] = None,
) -> Outcome:
    """Give everything that is encrypted another password: whole files, single values, the unlock key of autolock.

    Nothing is written before all could be decrypted. A run that was killed is completed by the same command.
    """
    from mipfed import vault
    from mipfed.vault_files import rekeyed

    source = session.source
    files = list(vault.encrypted_files(source.path))
    if not files:
        raise MipfedError(ExitCode.CONFIGURATION, f"{paths.shown(source.folder)} has nothing encrypted.", next=session.call("vault edit"))
    if new_file is None and not session.interactive():
        raise declined("There is no terminal to ask for the new vault password on.", next="Give --new-vault-password-file FILE")
    old = vault.obtain(session.options.vault_password_file, source.name)
    new = vault.given(new_file, source.name) if new_file else vault.typed_twice(f"New vault password of {source.name}: ")
    assert new is not None
    made = {path: rekeyed(path.read_text(encoding="utf-8"), old, new, path) for path in files}
    for path, (text, changed) in made.items():
        if changed:
            paths.write_atomically(path, text)
    names = [paths.shown(path) for path, (_text, changed) in made.items() if changed]
    text = f"New password: {', '.join(names)}." if names else "Everything has the new password already."
    return Outcome(
        result={"files": [str(path) for path in files], "changed": names},
        text=lambda out: out.print(text, markup=False),
        next="Put the new password where the old one was: its file, helper or keyring" if names else "",
    )
