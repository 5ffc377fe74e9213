# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`mipfed kit` before it contacts a host."""

from __future__ import annotations

import pytest

from mipfed.errors import MipfedError
from mipfed.exitcodes import ExitCode
from mipfed.kits import seconds

from .conftest import Project

NODES = ["--master", "h-ms=192.0.2.1", "--ui", "h-ui=192.0.2.2", "--worker", "h-a=192.0.2.3"]


@pytest.fixture
def hospitals(project: Project) -> Project:
    """A federation with one worker."""
    done = project.run("init", "hospitals", *NODES, "--engine-image", "registry.example:5000/engine:1.0")
    assert done.code == ExitCode.OK, done.err
    return project


@pytest.mark.parametrize(("text", "value"), [("15m", 900), ("48h", 172800), ("14d", 1209600), (" 3d ", 259200)])
def test_times(text: str, value: int) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "48", "h", "2w", "-1h", "14m", "15d", "1.5h", "999999999h"])
def test_times_that_are_none_or_unwise(text: str) -> None:
    with pytest.raises(MipfedError) as caught:
        seconds(text)
    assert caught.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["create", "h-b", "--expires", "1y", "-y"], ExitCode.USAGE, "no time"),
        (["create", "h-b", "-y"], ExitCode.USAGE, "give its address"),
        (["create", "h-a", "--address", "192.0.2.3", "-y"], ExitCode.CONFIGURATION, "reached over SSH"),
        (["create", "h-b", "--address", "192.0.2.3", "-y"], ExitCode.CONFIGURATION, "also that of host"),
        (["create", "h-b", "--address", "nowhere", "-y"], ExitCode.CONFIGURATION, "no IPv4 address|not an IPv4 address"),
        (["create", "H.b", "--address", "192.0.2.4", "-y"], ExitCode.CONFIGURATION, "not a node name"),
        (["create", "h-b", "--address", "192.0.2.4", "--to", "/nowhere/kit", "-y"], ExitCode.USAGE, "does not exist"),
        (["create", "h-b", "--address", "192.0.2.4"], ExitCode.DECLINED, "no terminal"),
        (["accept", "h-b", "AAAAA-AAAAA"], ExitCode.NO_HOSTS, "has no node h-b"),
        (["revoke", "h-b"], ExitCode.DECLINED, "no terminal"),
    ],
)
def test_what_is_refused_leaves_the_inventory_as_it_is(hospitals: Project, arguments: list[str], code: ExitCode, word: str) -> None:
    path = hospitals.root / "inventories/hospitals/hosts.yml"
    before = path.read_bytes()
    done = hospitals.run("-f", "hospitals", "kit", *arguments)
    assert done.code == code, done.out + done.err
    assert any(part in done.out + done.err for part in word.split("|"))
    assert path.read_bytes() == before
