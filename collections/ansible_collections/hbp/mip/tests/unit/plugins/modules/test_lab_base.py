# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What lab_base decides, without a download."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _lab_base
from ansible_collections.hbp.mip.plugins.module_utils._lab import LabError, write_json

STATUS = """\
Package: systemd
Status: install ok installed
Version: 252.39-1~deb12u2

Package: docker.io
Status: deinstall ok config-files
Version: 20.10.24

Package: bash
Status: install ok installed
Version: 5.2
"""


class TestRecipe:
    def test_same_content_same_key(self) -> None:
        assert _lab_base.recipe("bookworm", True, ("b", "a")).key == _lab_base.recipe("bookworm", True, ("a", "b", "a")).key

    def test_everything_counts(self) -> None:
        keys = {
            _lab_base.recipe(*arguments).key
            for arguments in (
                ("bookworm", True),
                ("bookworm", False),
                ("trixie", True),
                ("bookworm", True, ("tmux",)),
                ("bookworm", True, (), "http://mirror.example/debian"),
            )
        }
        assert len(keys) == 5

    def test_bare_machines_are_offered_docker(self) -> None:
        bare, full = _lab_base.recipe("trixie", False), _lab_base.recipe("trixie", True)
        assert set(bare.offered) >= {"docker.io", "docker-cli", "python3-docker"}
        assert not {"docker.io", "docker-cli", "python3-docker"} & set(bare.installed)
        assert set(full.installed) >= {"docker.io", "docker-cli", "python3-docker"}
        assert set(bare.installed) | set(bare.offered) == set(full.installed) | set(full.offered)

    @pytest.mark.parametrize("suite", ["bullseye", "bookworm"])
    def test_client_is_a_package_of_its_own_only_since_trixie(self, suite: str) -> None:
        assert "docker-cli" not in _lab_base.recipe(suite, True).installed

    def test_unknown_suite(self) -> None:
        with pytest.raises(LabError, match="no base 'woody': it is one of bullseye, bookworm, trixie"):
            _lab_base.recipe("woody", True)

    def test_command(self) -> None:
        recipe = _lab_base.recipe("bookworm", False, mirror="http://mirror.example/debian")
        command = _lab_base.mmdebstrap_command(recipe, "/t", ['Acquire::http::Proxy "http://p:3128"'])
        assert command[-3:] == ["bookworm", "/t", "http://mirror.example/debian"]
        assert '--aptopt=Acquire::http::Proxy "http://p:3128"' in command
        assert command[:2] == ["setpriv", "--pdeathsig=KILL"]


def test_only_java_needs_the_folder_of_manual_pages() -> None:
    hook = '--essential-hook=mkdir -p "$1/usr/share/man/man1"'
    assert hook in _lab_base.mmdebstrap_command(_lab_base.recipe("bookworm", False, ("openjdk-17-jre-headless",)), "/t", [])
    assert hook not in _lab_base.mmdebstrap_command(_lab_base.recipe("bookworm", False), "/t", [])


def test_versions_of_installed_packages_only() -> None:
    assert _lab_base.parse_status(STATUS, ("systemd", "docker.io")) == {"systemd": "252.39-1~deb12u2"}


def test_a_base_counts_only_when_it_is_finished(tmp_path: Path) -> None:
    recipe = _lab_base.recipe("bookworm", True)
    folder = tmp_path / "bases" / recipe.key
    (folder / "rootfs").mkdir(parents=True)
    assert _lab_base.find(str(tmp_path), recipe) is None
    assert _lab_base.bases(str(tmp_path)) == []
    write_json(str(folder / "base.json"), {"key": recipe.key, "suite": "bookworm"})
    found = _lab_base.find(str(tmp_path), recipe)
    assert found is not None
    assert found["path"] == str(folder)
    assert _lab_base.bases(str(tmp_path)) == [str(folder)]
    assert not _lab_base.in_use(str(folder))


def test_repository(tmp_path: Path) -> None:
    """A real package goes into the index with its real digest; a file that is none is left alone."""
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: lab-test\nVersion: 2:1.0\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: test\n two lines\n"
    )
    archives = tmp_path / "archives"
    archives.mkdir()
    name = archives / "lab-test_2%3a1.0_all.deb"
    subprocess.run(["dpkg-deb", "--build", str(tree), str(name)], check=True, capture_output=True)
    (archives / "lock").write_text("")
    digest = hashlib.sha256(name.read_bytes()).hexdigest()
    assert _lab_base.make_repository(str(archives), str(tmp_path / "debs")) == 1
    index = (tmp_path / "debs/Packages").read_text()
    assert "Filename: ./lab-test_2_1.0_all.deb\n" in index
    assert f"SHA256: {digest}\n" in index
    assert " two lines\n" in index
    release = (tmp_path / "debs/Release").read_text()
    assert hashlib.sha256(index.encode()).hexdigest() in release
    assert (archives / "lock").exists()
