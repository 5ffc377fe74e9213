# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A federation whose master is another node is what the resolver makes of an inventory that says so."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.hbp.mip.plugins.filter.engine_services import engine_services
from ansible_collections.hbp.mip.plugins.filter.with_master import with_master
from ansible_collections.hbp.mip.plugins.plugin_utils import _images
from ansible_collections.hbp.mip.plugins.plugin_utils._federation import resolve

IMAGES = {"mip_engine": {"image": "engine:1", "keystore_image": "keystore:1"}}


def federation(master: str, workers: list[str], managers: list[str], tmp_path: Any) -> dict[str, Any]:
    """Resolve an inventory of these hosts, each with its own address whatever it is."""
    names = sorted([master, *workers])
    hosts: dict[str, dict[str, Any]] = {name: {"ansible_host": f"192.0.2.{names.index(name) + 1}", **IMAGES} for name in names}
    for name in managers:
        hosts[name]["mip_swarm_manager"] = True
    return _images.with_lock(resolve("fed", {"master": [master], "ui": [], "workers": workers}, hosts), tmp_path)


@pytest.mark.parametrize(("managers", "after"), [([], []), (["b", "c"], ["a", "c"]), (["c"], ["c"])])
def test_it_is_what_the_edited_inventory_says(managers: list[str], after: list[str], tmp_path: Any) -> None:
    before = federation("a", ["b", "c"], managers, tmp_path)
    moved = with_master(before, "b")
    edited = federation("b", ["a", "c"], after, tmp_path)
    assert sorted(moved["nodes"], key=lambda node: node["name"]) == sorted(edited["nodes"], key=lambda node: node["name"])
    assert [node["kind"] for node in moved["nodes"]] == ["master", "worker", "worker"]
    assert sum(node["manager"] for node in moved["nodes"]) == sum(node["manager"] for node in before["nodes"])
    names = [service["name"] for service in engine_services(moved, [])]
    assert sorted(names) == sorted(service["name"] for service in engine_services(edited, []))
    assert names[:2] == ["b_exareme-keystore", "b_exareme-master"] and "a_exareme" in names and "b_exareme" not in names
    # The federation that it was made of is as it was.
    assert before == federation("a", ["b", "c"], managers, tmp_path)


@pytest.mark.parametrize("name", ["a", "nobody"])
def test_only_a_worker_becomes_the_master(name: str, tmp_path: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="workers: b, c"):
        with_master(federation("a", ["b", "c"], [], tmp_path), name)
