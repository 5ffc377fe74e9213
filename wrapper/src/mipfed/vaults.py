# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands `mipfed vault …`: a federation's encrypted files, edited and given another password, never decrypted in place."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer

from mipfed import paths, vault
from mipfed.errors import MipfedError, configuration, declined
from mipfed.exitcodes import ExitCode
from mipfed.options import OFFLINE, command, new_application
from mipfed.outcome import Outcome
from mipfed.session import Session

vault_app = new_application("The encrypted files of a federation.")

VAULT = (*OFFLINE, "vault_password_file")
#: A vault in a file: the mark and its lines of hexadecimal digits, at any indentation.
_BLOCK = re.compile(r"^([ \t]*)\$ANSIBLE_VAULT;[^\n]*(?:\n\1[0-9a-f]+)+", re.MULTILINE)


def _library(password: str) -> Any:
    from ansible.parsing.vault import VaultLib, VaultSecret

    return VaultLib([("default", VaultSecret(password.encode()))])


def decrypted(text: str, password: str, path: Path) -> str:
    """Return what a vault contains.

    :raises MipfedError: CONFIGURATION when the password is not its own, or it is damaged.
    """
    from ansible.errors import AnsibleError

    try:
        return str(_library(password).decrypt(text.encode()).decode())
    except (AnsibleError, UnicodeDecodeError) as error:
        raise configuration(
            f"{paths.shown(path)} cannot be decrypted: {error}", next="Check the vault password (--vault-password-file)"
        ) from None


def encrypted(text: str, password: str) -> str:
    """Return a vault with this content."""
    return str(_library(password).encrypt(text).decode())


def rekeyed(text: str, old: str, new: str, path: Path) -> tuple[str, int]:
    """Return a file with all its vaults under the new password, and how many were changed; those that have it already are left.

    :raises MipfedError: CONFIGURATION when one has neither password.
    """
    changed = 0

    def exchange(found: re.Match[str]) -> str:
        nonlocal changed
        block = textwrap.dedent(found[0]) + "\n"
        try:
            content = decrypted(block, old, path)
        except MipfedError:
            decrypted(block, new, path)
            return found[0]
        changed += 1
        return textwrap.indent(encrypted(content, new).rstrip("\n"), found[1])

    return _BLOCK.sub(exchange, text), changed


def _changed_content(path: Path, content: str) -> str:
    """Let the user edit a text in a private folder, in memory where there is one, that is gone afterwards."""
    editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    if shutil.which(editor[0]) is None:
        raise configuration(f"The editor {editor[0]} is not installed.", next="Set EDITOR")
    memory = Path("/dev/shm")  # noqa: S108 - the folder is made there by mkdtemp, and is the user's alone
    folder = Path(tempfile.mkdtemp(prefix="mipfed-", dir=memory if os.access(memory, os.W_OK) else None))
    try:
        draft = folder / path.name
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            stream.write(content)
        if code := subprocess.run([*editor, str(draft)], check=False).returncode:
            raise declined(f"The editor ended with code {code}; nothing was changed.")
        return draft.read_text(encoding="utf-8")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sound(text: str, path: Path) -> None:
    import yaml

    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise configuration(f"What was written for {paths.shown(path)} is no YAML; nothing was changed: {error}") from None
    if data is not None and not isinstance(data, dict):
        raise configuration(f"What was written for {paths.shown(path)} is no mapping of variables; nothing was changed.")


@command(vault_app, "edit", VAULT, group="vault")
def edit(
    session: Session,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Below the inventory; group_vars/all/vault.yml otherwise.")] = None,
) -> Outcome:
    """Edit a federation's encrypted variables in your editor; the file is made when it is not there.

    What is written has to be YAML. The file is replaced in one step and is never on a disk in clear.
    """
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
        rekeyed(other.read_text(encoding="utf-8"), password, password, other)  # one federation, one password
    before = decrypted(path.read_text(encoding="utf-8"), password, path) if there else "---\n"
    after = _changed_content(path, before)
    if after == before:
        return Outcome(result={"file": str(path), "changed": False}, text=lambda out: out.print("Nothing was changed."))
    _sound(after, path)
    if not there:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    paths.write_atomically(path, encrypted(after, password))
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
