# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.hbp.mip.plugins.plugin_utils import _node_reports


@pytest.mark.parametrize(
    ("encrypted", "versions", "code", "who"),
    [
        (True, ["29.8.2", "29.8.2", "29.8.2"], "", ""),
        (True, ["20.10.24+dfsg1", "20.10.21", "20.10.5+dfsg1"], "", ""),
        (True, ["29.8.2", "29.1.0", "29.8.3"], "engines-incompatible", "n1"),
        (True, ["25.0.13", "29.1.0", "29.8.3"], "engines-incompatible", "n0, n1"),
        (True, ["29.1.0", "29.0.4", "29.2.0"], "engines-mixed", "n0, n1"),
        (True, ["29.1.0", "29.1.0", "29.1.3"], "", ""),
        (False, ["29.8.2", "29.1.0", "29.8.3"], "engines-mixed", "n1"),
        (False, ["26.1.5+dfsg1", "20.10.24+dfsg1", "26.1.5+dfsg1"], "engines-mixed", "n1"),
        (True, ["", "20.10.24", ""], "", ""),
    ],
)
def test_engines(encrypted: bool, versions: list[str], code: str, who: str) -> None:
    federation = {
        "overlay": {"encrypted": encrypted},
        "nodes": [{"name": f"n{number}", "kind": "worker"} for number in range(len(versions))]
        + [{"name": "away", "kind": "worker"}, {"name": "ui", "kind": "ui"}],
    }
    nodes = {f"n{number}": {"facts": {"docker": {"version": version}}} for number, version in enumerate(versions)}
    nodes["ui"] = {"facts": {"docker": {"version": "1.0"}}}
    problems, warnings = _node_reports.engines(federation, nodes)
    found = problems + warnings
    assert [entry["code"] for entry in found] == ([code] if code else [])
    assert not found or (found[0]["node"] == who and found[0]["fix"])
    assert bool(problems) is (code == "engines-incompatible")
