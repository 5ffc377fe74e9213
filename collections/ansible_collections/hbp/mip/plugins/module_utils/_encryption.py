# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether data passed from one node to another encrypted: a verdict over what both hosts counted. Nothing here looks at a host."""

from __future__ import annotations

from typing import Any, Mapping

ENCRYPTED, CLEAR, NO_PROOF = "encrypted", "clear", "no-proof"

#: Bytes that a VXLAN header with the headers around it takes from the path, and ESP with AES-GCM as the engine counts it.
_VXLAN_BYTES, _ESP_BYTES = 50, 26
USUAL_MTU = 1500


def is_encrypted(options: Mapping[str, Any]) -> bool:
    """Whether the options of an overlay network ask for encryption, as the engine reads them."""
    value = options.get("encrypted")
    return value is not None and str(value).lower() not in ("false", "0", "f")


def overlay_mtu(path: int, encrypted: bool) -> int:
    """The MTU that the engine gives containers on an overlay made for paths of `path` bytes; 0 is its own choice."""
    mtu = (path or USUAL_MTU) - _VXLAN_BYTES
    return (mtu - _ESP_BYTES) & ~3 if encrypted else mtu


def path_mtu(packet: int, encrypted: bool) -> int:
    """The smallest path that packets of `packet` bytes on the overlay need; the opposite of `overlay_mtu`."""
    return packet + _VXLAN_BYTES + (_ESP_BYTES if encrypted else 0)


def _number(side: dict[str, Any], kind: str, unit: str) -> int:
    return int((side.get(kind) or {}).get(unit) or 0)


def _enciphered(side: dict[str, Any], size: int, lost: int) -> bool:
    """Whether as many bytes as were sent are counted as ESP, on the wire or by the kernel's associations."""
    on_wire = _number(side, "esp", "bytes")
    # Packets that the capture lost are not in its count.
    return _number(side, "states", "bytes") >= size or on_wire >= size or (lost > 0 and on_wire > 0)


def judge(ok: bool, size: int, sender: dict[str, Any], receiver: dict[str, Any]) -> dict[str, str]:
    """The verdict over one direction, and its reason.

    :arg ok: whether `size` bytes passed.
    :arg sender: what left the sender for the receiver, as the watching process tells it: `esp`, `clear`, `other` and `states`, each
        with `packets` and `bytes`; `lost`, `error`, `esp_offload`.
    :arg receiver: the same of what arrived there from the sender.
    :returns: `verdict`, C(encrypted) only when both ends counted all bytes as ESP and none in clear; and `reason`.
    """
    left, arrived = _number(sender, "clear", "packets"), _number(receiver, "clear", "packets")
    if left:
        return {"verdict": CLEAR, "reason": "%d VXLAN packets left the sender in clear" % left}
    # Where the card's driver or esp4_offload opens ESP before a capture can see it, what it opened is seen as if it had come in clear.
    opened = bool(receiver.get("esp_offload")) and _number(receiver, "states", "packets") >= arrived
    if arrived and not opened:
        return {"verdict": CLEAR, "reason": "%d VXLAN packets arrived in clear at the receiver" % arrived}
    for where, side in (("sender", sender), ("receiver", receiver)):
        if side.get("error"):
            return {"verdict": NO_PROOF, "reason": str(side["error"])}
        if ok and not _enciphered(side, max(size, 1), int(side.get("lost") or 0)):
            seen = _number(side, "esp", "bytes")
            text = "the %s's host counted %d bytes of ESP for %d that were sent" % (where, seen, size)
            return {"verdict": NO_PROOF, "reason": text + (", %s" % side["states_error"] if side.get("states_error") else "")}
    if not ok:
        return {"verdict": NO_PROOF, "reason": "the data did not pass"}
    return {"verdict": ENCRYPTED, "reason": ""}
