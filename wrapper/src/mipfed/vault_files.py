# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A federation's encrypted files: read, edited and given another password, never decrypted in place."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from mipfed import paths
from mipfed.errors import MipfedError, configuration, declined

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


def changed_content(path: Path, content: str) -> str:
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


def sound(text: str, path: Path) -> None:
    import yaml

    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise configuration(f"What was written for {paths.shown(path)} is no YAML; nothing was changed: {error}") from None
    if data is not None and not isinstance(data, dict):
        raise configuration(f"What was written for {paths.shown(path)} is no mapping of variables; nothing was changed.")
