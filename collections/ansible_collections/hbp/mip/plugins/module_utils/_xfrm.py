# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel counts of IPsec: its security associations and its errors, read with the standard library only.

A dump of the associations holds their session keys. Only the fixed header in front of them is looked at, and nothing else is kept.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple

from ansible_collections.hbp.mip.plugins.module_utils import _netlink

ERRORS = "/proc/net/xfrm_stat"

_XFRM_MSG_GETSA = 0x12
#: struct xfrm_usersa_info: selector, identity, source, lifetimes, current lifetime, statistics, and what describes the association.
_ASSOCIATION = struct.Struct("=56x 16s4sB3x 16s 64x QQ16x 12x 4xI H7x3x")


class Association(NamedTuple):
    """An ESP association of this host's kernel, without its key; `spi` is in host order."""

    source: str
    destination: str
    spi: int
    reqid: int
    octets: int
    packets: int


def association(body: bytes) -> Association | None:
    """The association in the body of a netlink message, None when it is no ESP over IPv4 or the message is damaged."""
    if len(body) < _ASSOCIATION.size:
        return None
    destination, spi, protocol, source, size, packets, reqid, family = _ASSOCIATION.unpack_from(body)
    if protocol != socket.IPPROTO_ESP or family != socket.AF_INET:
        return None
    return Association(socket.inet_ntoa(source[:4]), socket.inet_ntoa(destination[:4]), int.from_bytes(spi, "big"), reqid, size, packets)


def associations() -> list[Association]:
    """The ESP associations of the calling process's network namespace. Raises NetlinkError."""
    with _netlink.Netlink(_netlink.NETLINK_XFRM) as netlink:
        found = [association(head) for head in netlink.dump(_XFRM_MSG_GETSA, b"", _ASSOCIATION.size)]
    return [item for item in found if item is not None]


def grown(before: list[Association], after: list[Association]) -> dict[tuple[str, str], dict[str, int]]:
    """By source and destination what passed between two readings: `packets`, `bytes`, and `associations` there are now.

    Keys are exchanged while a federation runs: an association that came in between counts whole, one that went does not count.
    """
    old = {(item.source, item.destination, item.spi): item for item in before}
    result: dict[tuple[str, str], dict[str, int]] = {}
    for item in after:
        total = result.setdefault((item.source, item.destination), {"packets": 0, "bytes": 0, "associations": 0})
        was = old.get((item.source, item.destination, item.spi))
        # A smaller number is another association that happens to have the same index.
        if was is not None and (was.octets > item.octets or was.packets > item.packets):
            was = None
        total["packets"] += item.packets - (was.packets if was else 0)
        total["bytes"] += item.octets - (was.octets if was else 0)
        total["associations"] += 1
    return result


def parse_errors(text: str) -> dict[str, int]:
    """The counters in the text of /proc/net/xfrm_stat by their names."""
    found = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 2 and fields[0].startswith("Xfrm") and fields[1].isdigit():
            found[fields[0]] = int(fields[1])
    return found


def errors() -> dict[str, int] | None:
    """The kernel's counters of IPsec errors in the calling process's network namespace; None when this kernel keeps none."""
    try:
        with open(ERRORS, encoding="ascii") as stream:
            return parse_errors(stream.read())
    except OSError:
        return None


def risen(before: dict[str, int] | None, after: dict[str, int] | None) -> dict[str, int]:
    """The counters that are larger than before, by how much."""
    if before is None or after is None:
        return {}
    return {name: value - before.get(name, 0) for name, value in sorted(after.items()) if value > before.get(name, 0)}


class Finding(NamedTuple):
    """What a counter that rose means: a stable name, the cause, and the next thing to do; `{node}` stands for the host's name."""

    code: str
    cause: str
    fix: str


#: What the counters say that an operator can do something about, after the kernel's Documentation/networking/xfrm_proc.rst.
FINDINGS = {
    "XfrmInNoStates": Finding(
        "ipsec-in-no-states",
        "ESP arrived for which there is no key here: this node or the sender missed an exchange of keys, a device between changed the "
        "addresses (NAT), or somebody else sends ESP",
        "on {node}: sudo ip xfrm state list nokeys; if the senders' addresses are missing there: sudo systemctl restart docker",
    ),
    "XfrmInStateProtoError": Finding(
        "ipsec-in-proto-error",
        "ESP arrived that could not be decrypted: another key than the sender's, or changed on its way",
        "on {node} and the sender: docker version (25.0.13-14 and 29.0.0-29.2.0 understand only each other); then "
        "sudo systemctl restart docker",
    ),
    "XfrmInStateSeqError": Finding(
        "ipsec-in-replay",
        "ESP arrived twice or far out of order and was dropped: a device between repeats or reorders packets, or somebody replays them",
        "network team: look for several paths of different speed (bonding, SD-WAN) between the nodes; on {node}: "
        "sudo ip -s xfrm state list nokeys",
    ),
    "XfrmInStateExpired": Finding(
        "ipsec-in-expired",
        "ESP arrived under a key that is over: this node missed an exchange of keys",
        "on {node}: docker node ls on a manager must say Ready; then sudo systemctl restart docker",
    ),
    "XfrmInTmplMismatch": Finding(
        "ipsec-in-policy",
        "packets arrived that were not protected as the rules of this host want it, such as VXLAN without ESP, and were dropped",
        "on {node}: sudo ip xfrm policy; look which node sends in clear (mipfed verify names it)",
    ),
    "XfrmInNoPols": Finding(
        "ipsec-in-policy",
        "packets came out of ESP for which this host has no rule, and were dropped",
        "on {node}: sudo ip xfrm policy; another IPsec software of the host (strongSwan, libreswan) may have rules of its own",
    ),
    "XfrmOutStateSeqError": Finding(
        "ipsec-out-sequence",
        "the numbers of an association are used up (2^32 packets between two key exchanges), and packets are dropped until the next one",
        "on {node}: sudo systemctl restart docker gives new keys at once; send less than 100 MB/s for hours, or look what sends that much",
    ),
    "XfrmOutStateProtoError": Finding(
        "ipsec-out-proto-error",
        "packets could not be encrypted",
        "on {node}: sudo dmesg | grep -i -e esp -e crypto; is it the distribution's kernel?",
    ),
    "XfrmOutNoStates": Finding(
        "ipsec-out-no-states",
        "packets had to be encrypted and there was no key for their receiver; they were dropped",
        "on {node}: sudo ip xfrm state list nokeys; if the receiver's address is missing there: sudo systemctl restart docker",
    ),
    "XfrmOutStateExpired": Finding(
        "ipsec-out-expired",
        "packets had to be encrypted with a key that is over",
        "on {node}: sudo systemctl restart docker",
    ),
}
#: Any other counter of IPsec errors.
OTHER = Finding(
    "ipsec-errors",
    "the kernel dropped packets in IPsec",
    "on {node}: cat /proc/net/xfrm_stat; the names are explained in the kernel's Documentation/networking/xfrm_proc.rst",
)


def findings(node: str, counters: dict[str, int]) -> list[dict[str, Any]]:
    """What counters that rose mean, as {code, message, fix, counter, rose}."""
    result = []
    for name, rose in sorted(counters.items()):
        meaning = FINDINGS.get(name, OTHER)
        message = "%s rose by %d: %s" % (name, rose, meaning.cause)
        result.append({"code": meaning.code, "message": message, "fix": meaning.fix.format(node=node), "counter": name, "rose": rose})
    return result
