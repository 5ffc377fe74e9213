# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The vault password: from a file, a program or the terminal to Ansible, never through argv, environment or disk."""

from __future__ import annotations

import os
import secrets
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from mipfed.errors import configuration

MARK = b"$ANSIBLE_VAULT;"
#: Names the service below which the user's keyring has the password; the account there is the federation.
KEYRING = "MIPFED_VAULT_KEYRING"
#: Where the collection keeps the key of autolock (plugin_utils/_unlock_keys.py); no inventory source.
UNLOCK_KEY = "state/unlock_key.vault"

# Ansible runs this and reads the password from its standard output. It holds nothing but the name of the socket.
CLIENT = """\
#!{python}
import socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
    s.connect("\\0" + {name!r})
    with s.makefile("rb") as f:
        sys.stdout.buffer.write(f.read())
"""


def encrypted_files(source: Path) -> Iterator[Path]:
    """Yield the files of an inventory (its main file, or a directory) that have vault-encrypted content."""
    base = source if source.is_dir() else source.parent
    files = [source] if source.is_file() else []
    files.append(base / UNLOCK_KEY)
    for folder in ("group_vars", "host_vars"):
        files += sorted(path for path in (base / folder).rglob("*") if path.is_file())
    for path in files:
        try:
            if MARK in path.read_bytes():
                yield path
        except OSError:
            continue


def is_encrypted(source: Path) -> bool:
    """Tell whether an inventory (its main file, or a directory) has vault-encrypted content."""
    return next(encrypted_files(source), None) is not None


def _from_file(path: Path, origin: str) -> str:
    """Read the password from a file, or from the standard output of an executable one."""
    path = path.expanduser()
    if not path.exists():
        raise configuration(f"The vault password file {path} ({origin}) does not exist.")
    if path.is_file() and os.access(path, os.X_OK):
        done = subprocess.run([str(path.resolve())], capture_output=True, text=True, check=False)
        if done.returncode:
            reason = done.stderr.strip() or f"exit code {done.returncode}"
            raise configuration(f"The vault password program {path} ({origin}) failed: {reason}")
        password = done.stdout.strip("\r\n")
    else:
        try:
            password = path.read_text(encoding="utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise configuration(f"The vault password file {path} ({origin}) cannot be read: {error}") from None
    if not password:
        raise configuration(f"The vault password file {path} ({origin}) is empty.")
    return password


def password_file(option: Path | None) -> tuple[Path, str] | None:
    """Return the file that gives the vault password and where that was said, or nothing.

    The option wins over MIPFED_VAULT_PASSWORD_FILE, which wins over ANSIBLE_VAULT_PASSWORD_FILE.
    """
    if option:
        return option, "--vault-password-file"
    for variable in ("MIPFED_VAULT_PASSWORD_FILE", "ANSIBLE_VAULT_PASSWORD_FILE"):
        if value := os.environ.get(variable):
            return Path(value), variable
    return None


def keyring_service(option: Path | None) -> str:
    """Return the name below which the user's keyring has the password, or nothing.

    :raises MipfedError: CONFIGURATION when a file is named in the environment as well: which of the two is right would be a guess.
    """
    service = os.environ.get(KEYRING, "")
    if service and option is None and (source := password_file(None)):
        raise configuration(
            f"{KEYRING} and {source[1]} both name a source of the vault password; there is one only.",
            next=f"unset {KEYRING}, or {source[1]}",
        )
    return "" if option else service


def _from_keyring(service: str, federation: str) -> str:
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        raise configuration(
            f"{KEYRING} is set, and the package keyring is not installed.", next=f"{sys.executable} -m pip install 'mipfed[keyring]'"
        ) from None
    try:
        password = keyring.get_password(service, federation)
    except KeyringError as error:
        raise configuration(f"The keyring ({KEYRING}) cannot be read: {error}") from None
    if not password:
        raise configuration(f"The keyring has no password of {federation} for {service}.", next=f"keyring set {service} {federation}")
    return password


def given(option: Path | None, federation: str) -> str | None:
    """Return the vault password from the one source that is named: a file, a helper, the keyring; nothing when none is.

    :raises MipfedError: CONFIGURATION when the source does not give it.
    """
    if service := keyring_service(option):
        return _from_keyring(service, federation)
    source = password_file(option)
    return _from_file(*source) if source else None


def obtain(option: Path | None, federation: str) -> str:
    """Return the vault password.

    :raises MipfedError: CONFIGURATION when no source gives it and there is no terminal to ask on.
    """
    if (password := given(option, federation)) is not None:
        return password
    if not sys.stdin.isatty():
        raise configuration(
            f"Federation {federation} has vault-encrypted variables, and there is no terminal to ask for the password on.",
            next="Give --vault-password-file FILE or set MIPFED_VAULT_PASSWORD_FILE",
        )
    import getpass

    return getpass.getpass(f"Vault password of {federation}: ")


def choose(option: Path | None, federation: str) -> str:
    """Return the vault password of a federation that has nothing encrypted yet, and is going to have the unlock key of autolock.

    :raises MipfedError: CONFIGURATION when no source gives it and there is no terminal to ask on, or when it is typed in two ways.
    """
    if (password := given(option, federation)) is not None:
        return password
    if not sys.stdin.isatty():
        raise configuration(
            f"mip_swarm_autolock: the unlock key of {federation} is kept encrypted with a vault password, and none was given.",
            next="Give --vault-password-file FILE or set MIPFED_VAULT_PASSWORD_FILE",
        )
    return typed_twice(f"New vault password of {federation}, for the unlock key of its managers: ")


def typed_twice(question: str) -> str:
    """Ask for a new password on the terminal.

    :raises MipfedError: CONFIGURATION when it is typed in two ways, or empty.
    """
    import getpass

    password = getpass.getpass(question)
    if not password or getpass.getpass("The same again: ") != password:
        raise configuration("The two passwords differ, or are empty. Nothing was changed.")
    return password


class PasswordServer:
    """Hands the vault password to processes of the same user over an abstract unix socket.

    `client` writes the small program that Ansible runs to fetch it. The socket has no file and ends with the block.
    """

    def __init__(self, password: str) -> None:
        self._password = password.encode()
        self._name = f"mipfed-vault-{secrets.token_hex(16)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._client: Path | None = None

    def __enter__(self) -> PasswordServer:
        self._socket.bind(f"\0{self._name}")
        self._socket.listen(8)
        threading.Thread(target=self._serve, name="vault", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()
        if self._client:
            self._client.unlink(missing_ok=True)

    def client(self, folder: Path) -> Path:
        """Write the client program into a private folder and return its path."""
        self._client = folder / "vault-password"
        with os.fdopen(os.open(self._client, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700), "w") as stream:
            stream.write(CLIENT.format(python=sys.executable, name=self._name))
        return self._client

    def _serve(self) -> None:
        while True:
            try:
                connection, _address = self._socket.accept()
            except OSError:
                return
            with connection:
                credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
                _pid, uid, _gid = struct.unpack("3i", credentials)
                if uid == os.getuid():
                    connection.sendall(self._password)
