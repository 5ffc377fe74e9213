# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ESP in this host's connection tracking.

A packet of a protocol without ports makes an entry that holds in both directions for ten minutes, and nearly every firewall lets in
what belongs to an entry. A host that has just sent ESP to another would therefore seem to let ESP in although its rules do not. The
probe takes its own entries away at once, so that the rules themselves decide. An entry that was there before belongs to somebody
else and stays.
"""

from __future__ import annotations

import errno
import socket
import struct

from ansible_collections.hbp.mip.plugins.module_utils import _netlink

_NETFILTER = 12
_GET, _DELETE = (1 << 8) | 1, (1 << 8) | 2
_TUPLE, _TUPLE_IP, _TUPLE_PROTO = 1, 1, 2
_NESTED = 0x8000
_ESP = 50


class EspEntries:
    """The entries of ESP between this host's address and its peers'."""

    def __init__(self, own: str, peers: list[str]) -> None:
        self._own = own
        self._netlink: _netlink.Netlink | None = None
        self._foreign: set[str] = set()
        try:
            self._netlink = _netlink.Netlink(_NETFILTER, 2.0)
            self._foreign = {peer for peer in peers if self._request(_GET, peer)}
        except OSError:
            # A kernel without connection tracking keeps no entries; one that cannot be asked is no worse than before.
            self.close()

    @property
    def known(self) -> bool:
        """Whether the kernel lets itself be asked."""
        return self._netlink is not None

    @property
    def foreign(self) -> list[str]:
        """The peers with whom there was an entry before the probe."""
        return sorted(self._foreign)

    def _request(self, kind: int, peer: str) -> bool:
        if self._netlink is None:
            return False
        addresses = _netlink.attribute(1, socket.inet_aton(self._own)) + _netlink.attribute(2, socket.inet_aton(peer))
        protocol = _netlink.attribute(1, struct.pack("B", _ESP))
        inner = _netlink.attribute(_TUPLE_IP | _NESTED, addresses) + _netlink.attribute(_TUPLE_PROTO | _NESTED, protocol)
        head = struct.pack("!BBH", socket.AF_INET, 0, 0)
        try:
            self._netlink.request(kind, head + _netlink.attribute(_TUPLE | _NESTED, inner))
        except _netlink.NetlinkError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

    def forget(self, peer: str) -> None:
        """Take the probe's own entry with this peer away."""
        if self._netlink is None or peer in self._foreign:
            return
        try:
            self._request(_DELETE, peer)
        except OSError:
            self.close()

    def close(self) -> None:
        """Ask the kernel no more."""
        if self._netlink is not None:
            self._netlink.__exit__()
            self._netlink = None
