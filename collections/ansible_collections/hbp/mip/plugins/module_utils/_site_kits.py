# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The site kits that were made for a federation: one small file on the manager, and what becomes of each kit.

The file holds no token, only its hash: it tells whether the token in a kit is still the swarm's. The key of a kit's code is in it,
which is why it is root's alone.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from typing import Any, Dict, List, Mapping, Optional, Sequence

from ansible_collections.hbp.mip.plugins.module_utils import _files

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
DIRECTORY = "/var/lib/mip"
#: Values of a kit's `state` in the file; `state()` tells more.
OPEN = "open"
ACCEPTED = "accepted"
REVOKED = "revoked"


class KitError(Exception):
    """The kits cannot be read, or what is wanted of one cannot be done. `code` is stable."""

    def __init__(self, message: str, code: str = "kit") -> None:
        super().__init__(message)
        self.code = code


def path_of(federation: str, directory: str = DIRECTORY) -> str:
    """The file of a federation's kits."""
    return os.path.join(directory, federation, "kits.json")


def load(path: str) -> Dict[str, Dict[str, Any]]:
    """The kits by node name; {} when there never was one. Raises KitError."""
    try:
        with open(path, encoding="utf-8") as stream:
            content = json.load(stream)
        kits = content["kits"]
        for kit in kits.values():
            bytes.fromhex(kit["code_key"])
            if float(kit["expires"]) < 0 or not kit["state"] or not isinstance(kit["token_id"], str):
                raise ValueError("a kit in it is none")
        return dict(kits)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise KitError(
            "%s cannot be read (%s: %s). Next: move it away, rotate the token (docker swarm join-token --rotate worker), and make the "
            "kits that were not used yet anew" % (path, type(error).__name__, error)
        ) from error


def save(path: str, kits: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace the file in one step."""
    folder = os.path.dirname(path)
    os.makedirs(os.path.dirname(folder) or "/", 0o755, exist_ok=True)
    os.makedirs(folder, 0o700, exist_ok=True)
    text = json.dumps({"schema": 1, "kits": kits}, indent=1, sort_keys=True)
    _files.replace(path, text.encode("utf-8"), 0o600)


def token_id(token: str) -> str:
    """What tells one token from another without telling it: a token is random, so that its hash cannot be turned back."""
    return hashlib.sha256(token.encode("ascii")).hexdigest()[:32]


def code(key: str, federation: str, node: str, cluster_id: str, node_id: str) -> str:
    """The short code that the kit's program shows for a node id; the same function as in the program."""
    said = "\n".join(("mip-site-kit", federation, node, cluster_id, node_id)).encode("utf-8")
    number = int.from_bytes(hmac.new(bytes.fromhex(key), said, "sha256").digest()[:8], "big")
    text = "".join(ALPHABET[number >> shift & 31] for shift in range(0, 50, 5))
    return text[:5] + "-" + text[5:]


def same_code(one: str, other: str) -> bool:
    """Whether two codes are the same; case, blanks, the hyphen, and letters that are heard as digits do not matter."""

    def plain(text: str) -> bytes:
        text = "".join(text.upper().split()).replace("-", "")
        return text.replace("O", "0").replace("I", "1").replace("L", "1").encode("utf-8")

    return hmac.compare_digest(plain(one), plain(other))


def state(kit: Mapping[str, Any], current: str, now: float) -> str:
    """What a kit is now: accepted, revoked, expired, replaced (its token is none any more), or open.

    :arg current: `token_id` of the swarm's present token.
    """
    if kit["state"] != OPEN:
        return str(kit["state"])
    if kit["expires"] <= now:
        return "expired"
    return OPEN if kit["token_id"] == current else "replaced"


def due(kits: Mapping[str, Mapping[str, Any]], current: str, now: float) -> List[str]:
    """Names of the kits that are over their time, while the token in them could still be used."""
    return sorted(name for name, kit in kits.items() if kit["token_id"] == current and state(kit, current, now) in ("expired", REVOKED))


def overdue(directory: str = DIRECTORY, now: Optional[float] = None) -> bool:
    """Whether some federation of this host has a kit that is over its time and was not swept. Asks no engine; never raises."""
    moment = time.time() if now is None else now
    try:
        names = os.listdir(directory)
    except OSError:
        return False
    for name in names:
        try:
            kits = load(path_of(name, directory))
        except KitError:
            continue
        if any(kit["state"] == OPEN and kit["expires"] <= moment and not kit.get("swept") for kit in kits.values()):
            return True
    return False


def strangers(nodes: Sequence[Mapping[str, Any]], names: Sequence[str]) -> List[Dict[str, Any]]:
    """Nodes of the swarm (see `_swarm.node_summary`) that are none of the named ones."""
    keys = ("id", "hostname", "name", "address", "role", "status")
    return [{key: node[key] for key in keys} for node in nodes if node["name"] not in names]


def match(
    kit: Mapping[str, Any], given: str, federation: str, name: str, cluster_id: str, nodes: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any]:
    """The node of the swarm that a code stands for. Raises KitError with what to do."""
    for node in nodes:
        if not same_code(code(kit["code_key"], federation, name, cluster_id, node["id"]), given):
            continue
        if node["name"] not in ("", name):
            raise KitError("the code stands for the node %s, which is %s. Nothing was changed" % (node["id"], node["name"]), "kit-taken")
        if node["address"] != kit["address"]:
            raise KitError(
                "the node %s (%s) joined from %s, the kit is for %s. Nothing was changed. Is it the right machine? If the address is "
                "right, make a new kit with it; else remove the node: mipfed -f %s kit revoke %s"
                % (node["id"], node["hostname"], node["address"], kit["address"], federation, node["id"]),
                "kit-address",
            )
        if node["role"] != "worker":
            raise KitError("the node %s is a manager, which no kit can make. Nothing was changed" % node["id"], "kit-role")
        return node
    waiting = ["%s (%s, %s)" % (node["id"], node["hostname"], node["address"]) for node in nodes if not node["name"]]
    raise KitError(
        "the code %s stands for no node of the swarm. Nothing was changed. %s. Have it read again; the kit prints it whenever it is run"
        % (given, "Nodes that nobody has accepted: " + ", ".join(waiting) if waiting else "No node waits to be accepted"),
        "kit-code",
    )
