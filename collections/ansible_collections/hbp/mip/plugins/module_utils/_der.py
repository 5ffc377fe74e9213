# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The names in a certificate. The standard library reads only those of a connection that it trusts, hence the small parser."""

from __future__ import annotations

_NAMES = {b"\x55\x04\x0a": "O", b"\x55\x04\x0b": "OU", b"\x55\x04\x03": "CN"}


def items(data: bytes) -> list[tuple[int, bytes]]:
    """The elements of a DER sequence as (tag, content). Raises ValueError or IndexError for damaged data."""
    found = []
    offset = 0
    while offset < len(data):
        tag, length = data[offset], data[offset + 1]
        offset += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[offset : offset + size], "big")
            offset += size
        if offset + length > len(data):
            raise ValueError("truncated")
        found.append((tag, data[offset : offset + length]))
        offset += length
    return found


def certificate_names(certificate: bytes) -> tuple[dict[str, str], dict[str, str]]:
    """O, OU and CN of a DER certificate's issuer and of its subject; empty dictionaries for damaged data."""
    try:
        fields = items(items(items(certificate)[0][1])[0][1])
        first = 3 if fields[0][0] == 0xA0 else 2
        return _names(fields[first][1]), _names(fields[first + 2][1])
    except (ValueError, IndexError):
        return {}, {}


def _names(data: bytes) -> dict[str, str]:
    names = {}
    for _set, content in items(data):
        for _sequence, pair in items(content):
            (_oid, oid), (_text, value) = items(pair)[:2]
            if oid in _NAMES:
                names[_NAMES[oid]] = value.decode("utf-8", "replace")
    return names
