# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip and mipfed: SSH host keys, pinned in a file of the federation's own."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Tuple

#: (key type, base64 of the key), as in a line of known_hosts.
Key = Tuple[str, str]


class HostKeyError(Exception):
    """A host gives no key, or another one than was promised."""


def fingerprint(key: str) -> str:
    """Return the fingerprint of a base64 key as ``ssh-keygen -l`` prints it: ``SHA256:`` and 43 characters."""
    digest = hashlib.sha256(base64.b64decode(key)).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def address_of(host: str, port: int) -> str:
    """Return how known_hosts names a host: bare on port 22, else ``[host]:port`` (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""
    return host if port == 22 else f"[{host}]:{port}"


def pinned(known_hosts: str, hosts: Iterable[tuple[str, int]]) -> dict[tuple[str, int], list[Key]]:
    """Return the keys that the file pins for each (host, port), read from plain lines; hashed names are asked of ssh-keygen.

    A file that is not there pins nothing.
    """
    found: dict[tuple[str, int], list[Key]] = {host: [] for host in hosts}
    try:
        with open(known_hosts, encoding="utf-8") as file:
            lines = [line.split() for line in file if line.strip() and not line.startswith("#")]
    except FileNotFoundError:
        return found
    by_name: dict[str, list[Key]] = {}
    hashed = False
    for words in lines:
        if words[0].startswith("|"):
            hashed = True
        elif len(words) >= 3 and not words[0].startswith("@"):
            for name in words[0].split(","):
                by_name.setdefault(name, []).append((words[1], words[2]))
    for host in found:
        name = address_of(*host)
        found[host] = list(by_name.get(name, ()))
        if hashed and not found[host]:
            answer = subprocess.run(["ssh-keygen", "-F", name, "-f", known_hosts], capture_output=True, text=True, check=False)
            found[host] = [(words[1], words[2]) for words in (line.split() for line in answer.stdout.splitlines()) if len(words) == 3]
    return found


def scan(host: str, port: int, timeout: int = 5) -> list[Key]:
    """Ask a host for its keys, the ed25519 one first.

    :arg timeout: seconds to wait for it.
    :raises HostKeyError: when it does not answer.
    """
    command = ["ssh-keyscan", "-T", str(timeout), "-p", str(port), "-t", "ed25519,ecdsa,rsa", host]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    keys = [
        (words[1], words[2])
        for words in (line.split() for line in answer.stdout.splitlines() if not line.startswith("#"))
        if len(words) == 3
    ]
    if not keys:
        raise HostKeyError(f"{address_of(host, port)} shows no SSH host key within {timeout} s; is it up, and is sshd reachable from here?")
    return sorted(keys, key=lambda key: ("ed25519" not in key[0], key[0]))


def scan_all(hosts: Sequence[tuple[str, int]], timeout: int = 5) -> dict[tuple[str, int], list[Key] | HostKeyError]:
    """Scan many hosts at the same time; the error of a host stands in place of its keys."""

    def one(host: tuple[str, int]) -> list[Key] | HostKeyError:
        try:
            return scan(host[0], host[1], timeout)
        except HostKeyError as error:
            return error

    with ThreadPoolExecutor(max_workers=32) as pool:
        return dict(zip(hosts, pool.map(one, hosts)))


def pin(known_hosts: str, keys: Mapping[tuple[str, int], Sequence[Key]]) -> None:
    """Add keys to the file, which is replaced in one step (mode 0644); what it already says stays as it is."""
    directory = os.path.dirname(os.path.abspath(known_hosts))
    try:
        with open(known_hosts, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        text = ""
    if text and not text.endswith("\n"):
        text += "\n"
    for host, host_keys in keys.items():
        text += "".join(f"{address_of(*host)} {kind} {key}\n" for kind, key in host_keys)
    handle, temporary = tempfile.mkstemp(prefix=".known_hosts.", dir=directory)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, known_hosts)
    except BaseException:
        os.unlink(temporary)
        raise
