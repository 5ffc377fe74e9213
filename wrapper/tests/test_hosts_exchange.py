# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two hosts of hosts.yml change places, as when the master moves: with their variables and comments, and back again byte for byte."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import yaml

from mipfed.errors import MipfedError
from mipfed.hosts_file import HostsFile

from .test_hosts_file import BLOCK, FLOW


def exchanged(path: Path, first: str, second: str) -> str:
    """Let them change places and return the file."""
    file = HostsFile(path)
    file.exchange(first, second)
    assert file.write() is True
    return path.read_text()


@pytest.mark.parametrize("text", [BLOCK, FLOW, BLOCK.removesuffix("# The end.\n"), BLOCK.replace("\n", "\r\n")])
@pytest.mark.parametrize("other", ["fed-wk-1", "fed-wk-2"])
def test_there_and_back(tmp_path: Path, text: str, other: str) -> None:
    path = tmp_path / "hosts.yml"
    path.write_bytes(text.encode())
    before = yaml.safe_load(text)["all"]["children"]
    after = yaml.safe_load(exchanged(path, "fed-ms", other))["all"]["children"]
    assert after["master"]["hosts"] == {other: before["workers"]["hosts"][other]}
    kept = [name for name in before["workers"]["hosts"] if name != other]
    assert set(after["workers"]["hosts"]) == {"fed-ms", *kept}
    assert after["workers"]["hosts"]["fed-ms"] == before["master"]["hosts"]["fed-ms"]
    assert {key: value for key, value in after.items() if key not in ("master", "workers")} == {
        key: value for key, value in before.items() if key not in ("master", "workers")
    }
    exchanged(path, other, "fed-ms")
    assert path.read_bytes() == text.encode()


def test_comments_go_with_their_host(tmp_path: Path) -> None:
    path = tmp_path / "hosts.yml"
    path.write_text(BLOCK)
    lines = exchanged(path, "fed-ms", "fed-wk-2").splitlines()
    master = lines.index("    master:")
    assert lines[master + 2 : master + 5] == [
        "        # The south has its own words.", "        fed-wk-2:", "          ansible_host: 192.0.2.22",
    ]  # fmt: skip
    assert "      # North and south." in lines and "    # Nothing follows." in lines


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BLOCK.replace("      hosts: {}", "      hosts: {fed-ms: {}}"), "several groups"),
        (BLOCK.replace("fed-wk-1:   #", "fed-wk-9:   #"), "fed-wk-1"),
        # One is written as a block, and one within braces.
        (BLOCK.replace("      hosts:\n        fed-ms:\n          ansible_host: 192.0.2.11\n", "      hosts: {fed-ms: {}}\n"), "by hand"),
    ],
)
def test_what_cannot_be_exchanged_is_left_alone(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "hosts.yml"
    path.write_text(text)
    file = HostsFile(path)
    with pytest.raises(MipfedError) as error:
        file.exchange("fed-ms", "fed-wk-1")
    assert says in "".join(problem.message for problem in error.value.problems)
    with contextlib.suppress(MipfedError):
        file.write()
    assert path.read_text() == text
