# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import socket
import struct
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _netlink, _xfrm

_SOURCE, _TARGET = "192.0.2.1", "192.0.2.2"


def dumped(source: str, target: str, spi: int, octets: int, packets: int, protocol: int = 50, family: int = socket.AF_INET) -> bytes:
    """A struct xfrm_usersa_info of the kernel's linux/xfrm.h, followed by an attribute with a key."""
    selector = struct.pack("=16s16sHHHHHBBB3xii", b"", b"", 0, 0, 0, 0, family, 0, 0, 0, 0, 0)
    identity = struct.pack("=16s4sB3x", socket.inet_aton(target), spi.to_bytes(4, "big"), protocol)
    address = struct.pack("=16s", socket.inet_aton(source))
    lifetime = struct.pack("=8Q", *([2**64 - 1] * 4 + [0] * 4))
    current = struct.pack("=4Q", octets, packets, 1, 2)
    statistics = struct.pack("=3I", 0, 0, 0)
    rest = struct.pack("=IIHBBB7x", 7, 13681891, family, 0, 32, 0)
    body = selector + identity + address + lifetime + current + statistics + rest
    assert len(body) == 224
    key = struct.pack("=64sII", b"rfc4106(gcm(aes))", 160, 64) + b"SECRETSECRETSECRET!!"
    return body + _netlink.attribute(18, key)


def test_an_association_is_read_without_its_key() -> None:
    found = _xfrm.association(dumped(_SOURCE, _TARGET, 0xDEADBEEF, 123456, 789))
    assert found == _xfrm.Association(_SOURCE, _TARGET, 0xDEADBEEF, 13681891, 123456, 789)
    assert "SECRET" not in repr(found)


@pytest.mark.parametrize(
    "body",
    [b"", b"\0" * 223, dumped(_SOURCE, _TARGET, 1, 0, 0, protocol=51), dumped(_SOURCE, _TARGET, 1, 0, 0, family=socket.AF_INET6)],
    ids=["empty", "cut", "authentication header", "IPv6"],
)
def test_what_is_no_esp_over_ipv4_is_passed_over(body: bytes) -> None:
    assert _xfrm.association(body) is None


def association(spi: int, octets: int, packets: int, way: tuple[str, str] = (_SOURCE, _TARGET)) -> _xfrm.Association:
    return _xfrm.Association(*way, spi, 13681891, octets, packets)


def test_growth_over_an_exchange_of_keys() -> None:
    back = (_TARGET, _SOURCE)
    before = [association(1, 1000, 10), association(2, 50, 5), association(9, 7, 1, back)]
    # the first went away, the second grew, the third is new, and the fourth's index was taken by a new one
    after = [association(2, 250, 7), association(3, 4000, 40), association(9, 5, 1, back)]
    assert _xfrm.grown(before, after) == {
        (_SOURCE, _TARGET): {"packets": 42, "bytes": 4200, "associations": 2},
        back: {"packets": 1, "bytes": 5, "associations": 1},
    }
    assert _xfrm.grown(after, after)[_SOURCE, _TARGET] == {"packets": 0, "bytes": 0, "associations": 2}
    assert _xfrm.grown([], []) == {}


ERRORS = "XfrmInError             \t0\nXfrmInNoStates          \t12\nXfrmOutStateSeqError    \t3\nnonsense\n"


def test_errors_that_rose_have_names_and_next_steps() -> None:
    before, after = _xfrm.parse_errors(ERRORS), _xfrm.parse_errors(ERRORS.replace("12", "17").replace("\t0", "\t1"))
    assert before == {"XfrmInError": 0, "XfrmInNoStates": 12, "XfrmOutStateSeqError": 3}
    rose = _xfrm.risen(before, after)
    assert rose == {"XfrmInError": 1, "XfrmInNoStates": 5}
    found = {entry["code"]: entry for entry in _xfrm.findings("wk1", rose)}
    assert set(found) == {"ipsec-errors", "ipsec-in-no-states"}
    assert "rose by 5" in found["ipsec-in-no-states"]["message"] and "on wk1:" in found["ipsec-in-no-states"]["fix"]
    assert _xfrm.risen(None, after) == {} == _xfrm.risen(before, None)


def test_every_finding_tells_what_to_do() -> None:
    for name in _xfrm.FINDINGS:
        (entry,) = _xfrm.findings("wk1", {name: 1})
        assert entry["code"].startswith("ipsec-") and entry["message"] and "{" not in entry["fix"] and "wk1" in entry["fix"]


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_the_kernels_own_dump() -> None:
    """An association that waits for its keys needs no ESP in the kernel, and is dumped like any other."""

    def run() -> dict[str, Any]:
        _netlink.unshare_network()
        info = dumped(_SOURCE, _TARGET, 0, 0, 0)[:224]
        with _netlink.Netlink(_netlink.NETLINK_XFRM) as netlink:
            netlink.request(0x16, info + struct.pack("=II", 0x1000, 0x1000))
        return {"found": [list(item) for item in _xfrm.associations()], "errors": _xfrm.errors()}

    answer = _netlink.in_child(run, 20)
    assert "error" not in answer, answer
    assert answer["found"] == [[_SOURCE, _TARGET, 0x1000, 13681891, 0, 0]]
    if os.path.exists(_xfrm.ERRORS):
        assert answer["errors"]["XfrmInNoStates"] == 0
