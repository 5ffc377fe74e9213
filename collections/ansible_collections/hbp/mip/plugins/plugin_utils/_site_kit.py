# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: puts a site kit together on the controller: program, library, sealed part, signature.

The program is `roles/site/files/mip-site-kit`; sealing and opening are both its functions, so that they cannot drift apart.
"""

from __future__ import annotations

import ast
import base64
import functools
import hashlib
import io
import os
import secrets
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.hbp.mip.plugins.plugin_utils import _site_programs

COLLECTION = Path(__file__).parents[2]
FILES = _site_programs.FILES
UTILITIES = COLLECTION / "plugins/module_utils"
PACKAGE = "ansible_collections.hbp.mip.plugins.module_utils"
#: What the program imports of the library, which brings what these import.
WANTED = ("_host", "_gates", "_swarm", "_daemon", "_firewall", "_firewall_host", "_site_kits")
#: Digits and letters without those that are taken for each other.
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_COLUMNS = 120


class KitError(Exception):
    """The kit cannot be put together; the message says what is missing and what to do."""


@functools.lru_cache(maxsize=1)
def program() -> Any:
    """Return the kit's program as a module."""
    return _site_programs.load("mip-site-kit", "mip_site_kit_program")


def _imports(path: Path) -> Iterator[str]:
    """Yield the module utilities that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE + "."):
            yield str(node.module).rpartition(".")[2]


def library() -> bytes:
    """Return the checks and the firewall's rules as a zip file that Python imports from. The same sources give the same bytes."""
    names: set[str] = set()
    todo = set(WANTED)
    while todo:
        name = todo.pop()
        names.add(name)
        todo |= set(_imports(UTILITIES / f"{name}.py")) - names
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(path: str, content: bytes) -> None:
            entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)

        parts = PACKAGE.split(".")
        for depth in range(1, len(parts) + 1):
            add("/".join(parts[:depth]) + "/__init__.py", b"")
        for name in sorted(names):
            add("/".join(parts) + f"/{name}.py", (UTILITIES / f"{name}.py").read_bytes())
    return packed.getvalue()


def passphrase() -> str:
    """Return a new passphrase of 100 random bits, in groups that can be read out by telephone."""
    return "-".join("".join(secrets.choice(ALPHABET) for _unused in range(4)) for _unused in range(5))


def others(federation: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return name and address of all other members of the swarm, however they are operated."""
    nodes = [*federation["nodes"], *federation.get("disabled", ()), *federation.get("kits", ())]
    return [{"name": node["name"], "address": node["address"]} for node in nodes if node["kind"] != "ui" and node["name"] != name]


def _daemon(docker: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the engine's configuration file gets, as the role common writes it elsewhere."""
    found: dict[str, Any] = {
        "log-driver": "json-file",
        "log-opts": {"max-size": docker["log_max_size"], "max-file": str(docker["log_max_files"])},
    }
    for key, option in (("insecure-registries", "insecure_registries"), ("registry-mirrors", "registry_mirrors")):
        if docker[option]:
            found[key] = docker[option]
    return {**found, **docker["options"]}


def content(
    federation: Mapping[str, Any], node: Mapping[str, Any], registry: str, secret: Mapping[str, Any], made_by: str
) -> dict[str, Any]:
    """Return what is sealed: all that the hospital's machine has to know.

    :arg secret: what the module returned: ``token``, ``code_key``, ``cluster_id``, ``expires``, ``managers``.
    """
    overlay, swarm, firewall = federation["overlay"], federation["swarm"], federation["firewall"]
    return {
        **secret,
        "federation": federation["name"],
        "node": node["name"],
        "address": node["address"],
        "made_by": made_by,
        "peers": others(federation, node["name"]),
        "data_path_port": swarm["data_path_port"],
        "encrypted": overlay["encrypted"],
        "overlay_subnet": overlay["subnet"],
        "address_pools": swarm["address_pools"],
        "data_dir": federation["data_dir"],
        # The first is the default of node_check, which an inventory does not have.
        "limits": {"inodes_free": 50000, **federation["limits"]},
        "daemon": _daemon(federation["docker"]),
        "store": {key: node["ldsm"][key] for key in ("host", "port")} if node.get("ldsm") else {},
        "registry": registry,
        "registry_tls": registry not in federation["docker"]["insecure_registries"],
        "firewall": {
            "manage": firewall["manage"],
            "backend": firewall["backend"],
            "data_path_port": swarm["data_path_port"],
            "encrypted": overlay["encrypted"],
            "ipsec_others": firewall["ipsec_others"],
        },
        "command": "#!/usr/bin/python3\n" + (FILES / "mip-site").read_text(encoding="utf-8"),
    }


def fingerprint(key: Path) -> str:
    """Return the fingerprint of a private key (or of its public half beside it).

    :raises KitError: when it cannot be read.
    """
    done = subprocess.run(["ssh-keygen", "-l", "-f", str(key)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise KitError(f"{key} is no SSH key that can be read: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.split()[1]


def sign(text: bytes, key: Path) -> str:
    """Return the SSH signature over a text.

    :raises KitError: when the key does not sign; one with a passphrase has to be in the agent.
    """
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", program().NAMESPACE, "-f", str(key)]
    environment = {**os.environ, "SSH_ASKPASS": "/bin/false", "SSH_ASKPASS_REQUIRE": "force"}
    done = subprocess.run(command, input=text, capture_output=True, check=False, env=environment)
    if done.returncode:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
        raise KitError(f"{key} does not sign: {said}. If it has a passphrase: ssh-add {key}")
    return done.stdout.decode("ascii")


def _lines(mark: str, data: bytes) -> str:
    text = base64.b64encode(data).decode("ascii")
    return "".join(f"{mark} {text[at : at + _COLUMNS]}\n" for at in range(0, len(text), _COLUMNS))


def build(sealed_content: Mapping[str, Any], phrase: str, key: Path) -> str:
    """Return the kit's file.

    :raises KitError: when it cannot be signed.
    """
    module = program()
    text, packed = (FILES / "mip-site-kit").read_text(encoding="utf-8"), library()
    hashes = {"program": hashlib.sha256(text.encode("utf-8")).hexdigest(), "library": hashlib.sha256(packed).hexdigest()}
    header = {name: sealed_content[name] for name in ("federation", "node", "expires")}
    sealed = module.seal(phrase, header, {**sealed_content, "sha256": hashes, "signer": fingerprint(key)})
    signed: str = text + "\n" + module.END + _lines("#L", packed) + _lines("#S", sealed.encode("utf-8"))
    signature = sign(signed.encode("utf-8"), key)
    return signed + "".join(f"#G {line}\n" for line in signature.splitlines())
