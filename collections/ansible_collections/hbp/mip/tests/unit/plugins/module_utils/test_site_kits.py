# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of site kits on the manager."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _site_kits as kits

KEY = "5a" * 32
TOKEN = kits.token_id("SWMTKN-1-a-b")


def kit(**more: Any) -> dict[str, Any]:
    return {"address": "192.0.2.7", "expires": 1000.0, "state": "open", "token_id": TOKEN, "code_key": KEY, "node_id": "", **more}


def node(node_id: str, **more: Any) -> dict[str, Any]:
    return {"id": node_id, "hostname": "h", "name": "", "address": "192.0.2.7", "role": "worker", "status": "ready", **more}


def test_a_code_is_of_one_kit_and_one_node() -> None:
    codes = {
        kits.code(KEY, "hosp", "wk3", "cluster", "node1"),
        kits.code(KEY, "hosp", "wk3", "cluster", "node2"),
        kits.code(KEY, "hosp", "wk4", "cluster", "node1"),
        kits.code(KEY, "hosp", "wk3", "other", "node1"),
        kits.code(KEY, "else", "wk3", "cluster", "node1"),
        kits.code("5b" * 32, "hosp", "wk3", "cluster", "node1"),
    }
    assert len(codes) == 6
    for code in codes:
        assert len(code) == 11
        assert set(code) <= {*kits.ALPHABET, "-"}


def test_codes_are_compared_as_they_are_heard() -> None:
    assert kits.same_code("AB0C1-DEFGH", "abOcl defgh")
    assert not kits.same_code("AB0C1-DEFGH", "AB0C1-DEFGJ")
    assert not kits.same_code("AB0C1-DEFGH", "AB0C1-DEFG")
    assert not kits.same_code("AB0C1-DEFGH", "")
    assert not kits.same_code("AB0C1-DEFGH", "\u00e4B0C1-DEFGH")


def test_the_code_finds_the_node_and_no_other() -> None:
    nodes = [node("a", address="192.0.2.9"), node("b"), node("c", name="wk1")]
    assert kits.match(kit(), kits.code(KEY, "hosp", "wk3", "cl", "b"), "hosp", "wk3", "cl", nodes)["id"] == "b"
    for given in ("", "AAAAA-AAAAA", kits.code(KEY, "hosp", "wk4", "cl", "b"), kits.code("00" * 32, "hosp", "wk3", "cl", "b")):
        with pytest.raises(kits.KitError) as caught:
            kits.match(kit(), given, "hosp", "wk3", "cl", nodes)
        assert caught.value.code == "kit-code"
        assert "b (h, 192.0.2.7)" in str(caught.value)


@pytest.mark.parametrize(
    ("other", "code"), [({"address": "192.0.2.8"}, "kit-address"), ({"name": "wk1"}, "kit-taken"), ({"role": "manager"}, "kit-role")]
)
def test_a_right_code_is_not_enough(other: dict[str, Any], code: str) -> None:
    with pytest.raises(kits.KitError) as caught:
        kits.match(kit(), kits.code(KEY, "hosp", "wk3", "cl", "b"), "hosp", "wk3", "cl", [node("b", **other)])
    assert caught.value.code == code
    assert "Nothing was changed" in str(caught.value)


def test_an_accepted_node_may_be_accepted_again() -> None:
    assert kits.match(kit(), kits.code(KEY, "hosp", "wk3", "cl", "b"), "hosp", "wk3", "cl", [node("b", name="wk3")])["id"] == "b"


@pytest.mark.parametrize(
    ("more", "now", "current", "state", "due"),
    [
        ({}, 999, TOKEN, "open", False),
        ({}, 1000, TOKEN, "expired", True),
        ({}, 1000, "another", "expired", False),
        ({}, 999, "another", "replaced", False),
        ({"state": "accepted"}, 2000, TOKEN, "accepted", False),
        ({"state": "revoked"}, 999, TOKEN, "revoked", True),
    ],
)
def test_states(more: dict[str, Any], now: float, current: str, state: str, due: bool) -> None:
    assert kits.state(kit(**more), current, now) == state
    assert kits.due({"wk3": kit(**more)}, current, now) == (["wk3"] if due else [])


def test_the_file_is_the_owners_and_replaced_whole(tmp_path: Path) -> None:
    path = Path(kits.path_of("hosp", str(tmp_path)))
    assert kits.load(str(path)) == {}
    kits.save(str(path), {"wk3": kit()})
    assert kits.load(str(path)) == {"wk3": kit()}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["kits.json"]
    assert "SWMTKN" not in path.read_text()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kits": []}', '{"kits": {"a": {}}}', '{"kits": {"a": {"expires": "x"}}}'])
def test_a_damaged_file_is_told_with_what_to_do(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kits.json"
    path.write_text(text)
    with pytest.raises(kits.KitError, match=r"cannot be read .* rotate"):
        kits.load(str(path))


def test_kits_over_their_time_are_seen_without_an_engine(tmp_path: Path) -> None:
    assert not kits.overdue(str(tmp_path / "nothing"))
    (tmp_path / "lock").write_text("")
    kits.save(kits.path_of("hosp", str(tmp_path)), {"wk3": kit()})
    assert not kits.overdue(str(tmp_path), now=999)
    assert kits.overdue(str(tmp_path), now=1000)
    kits.save(kits.path_of("hosp", str(tmp_path)), {"wk3": kit(swept=True), "wk4": kit(state="accepted")})
    assert not kits.overdue(str(tmp_path), now=1000)


def test_strangers() -> None:
    nodes = [node("a", name="ms"), node("b"), node("c", name="gone")]
    assert [entry["id"] for entry in kits.strangers(nodes, ["ms", "wk3"])] == ["b", "c"]
