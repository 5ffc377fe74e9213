# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives of snapshots, and which keys of the keystore are put back."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _keystore, _snapshot
from ansible_collections.hbp.mip.plugins.module_utils._snapshot import SnapshotError
from ansible_collections.hbp.mip.plugins.modules import file_snapshot, keystore_snapshot, swarm_snapshot


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder like a manager's."""
    root = tmp_path / "swarm"
    (root / "raft").mkdir(parents=True)
    (root / "certificates").mkdir(mode=0o700)
    (root / "raft" / "0.wal").write_bytes(b"log" + bytes(3 << 20) + b"end")
    (root / "certificates" / "key").write_text("secret")
    (root / "certificates" / "key").chmod(0o600)
    (root / "state.json").write_text("{}")
    return root


def test_a_copy_is_the_same_and_zeros_take_no_space(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    _snapshot.copy_tree(str(tree), str(copy))
    for name in _snapshot.walk(str(tree)):
        ours, theirs = tree / name, copy / name
        assert stat.S_IMODE(ours.stat().st_mode) == stat.S_IMODE(theirs.stat().st_mode)
        if ours.is_file():
            assert ours.read_bytes() == theirs.read_bytes()
    assert (copy / "raft" / "0.wal").stat().st_blocks * 512 < 3 << 20


def test_pack_check_and_unpack(tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.gz"
    made = _snapshot.pack(str(tree), _snapshot.walk(str(tree)), str(archive))
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert made["size"] == archive.stat().st_size and made["sha256"] == _snapshot.digest(str(archive))
    found = _snapshot.check_archive(str(archive), made["sha256"])
    assert found == {file["path"]: file["sha256"] for file in made["files"]}
    assert _snapshot.read_member(str(archive), "state.json") == b"{}"
    target = tmp_path / "target"
    _snapshot.unpack(str(archive), str(target))
    assert (target / "raft" / "0.wal").read_bytes() == (tree / "raft" / "0.wal").read_bytes()
    assert stat.S_IMODE((target / "certificates").stat().st_mode) == 0o700
    assert stat.S_IMODE((target / "certificates" / "key").stat().st_mode) == 0o600


def test_a_damaged_archive_is_found(tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.gz"
    made = _snapshot.pack(str(tree), _snapshot.walk(str(tree)), str(archive))
    whole = archive.read_bytes()
    for damaged in (whole[:-20], whole[: len(whole) // 2], b"", bytes([*whole[:100], whole[100] ^ 1, *whole[101:]])):
        archive.write_bytes(damaged)
        with pytest.raises(SnapshotError, match="damaged"):
            _snapshot.check_archive(str(archive), made["sha256"])
    for damaged in (whole[: len(whole) // 2], b"", b"x" * 100):
        archive.write_bytes(damaged)
        with pytest.raises(SnapshotError, match="damaged"):
            _snapshot.check_archive(str(archive), "")
    with pytest.raises(SnapshotError, match="does not exist"):
        _snapshot.check_archive(str(tmp_path / "absent"), "")


@pytest.mark.parametrize(("name", "kind"), [("../x", b"0"), ("/etc/x", b"0"), ("a/../../x", b"0"), ("x", b"2"), ("x", b"1"), ("x", b"6")])
def test_what_could_write_elsewhere_is_refused(tmp_path: Path, name: str, kind: bytes) -> None:
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as output:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.size = kind, "/etc/shadow", 1 if kind == b"0" else 0
        output.addfile(entry, io.BytesIO(b"x"))
    with pytest.raises(SnapshotError, match="no snapshot has"):
        _snapshot.check_archive(str(archive), "")
    with pytest.raises(SnapshotError):
        _snapshot.unpack(str(archive), str(tmp_path / "target"))
    assert not (tmp_path / "x").exists()


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as output:
        for content in (b"a", b"b"):
            entry = tarfile.TarInfo("x")
            entry.size = 1
            output.addfile(entry, io.BytesIO(content))
    with pytest.raises(SnapshotError, match="twice"):
        _snapshot.check_archive(str(archive), "")


def test_space_is_needed(tmp_path: Path) -> None:
    _snapshot.need_space(str(tmp_path), 1)
    with pytest.raises(SnapshotError, match="MiB are needed"):
        _snapshot.need_space(str(tmp_path), 1 << 60)


def test_files_that_match(tmp_path: Path) -> None:
    for name in ("dementia/CDEsMetadata.json", "dementia/a.csv", "dementia/datasets.db", "x.csv", "a/b/c.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "dementia" / "link.csv").symlink_to("/etc/passwd")
    assert file_snapshot.matching(str(tmp_path), ["*/*.csv", "*/CDEsMetadata.json"]) == ["dementia/CDEsMetadata.json", "dementia/a.csv"]


def test_a_restore_of_files_writes_what_is_missing_only(tmp_path: Path) -> None:
    data, archive = tmp_path / "data", tmp_path / "private" / "a.tar.gz"
    for name in ("a/one.csv", "a/two.csv"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text("old")
    options = {"root": str(data), "patterns": ["*/*.csv"], "archive": str(archive), "sha256": ""}
    made = file_snapshot.create(options, False)
    assert stat.S_IMODE(archive.parent.stat().st_mode) == 0o700
    (data / "a/one.csv").unlink()
    (data / "a/two.csv").write_text("newer")
    planned = file_snapshot.restore(options, True)
    assert planned["written"] == ["a/one.csv"] and not (data / "a/one.csv").exists()
    assert file_snapshot.restore({**options, "sha256": made["archive"]["sha256"]}, False)["written"] == ["a/one.csv"]
    assert ((data / "a/one.csv").read_text(), (data / "a/two.csv").read_text()) == ("old", "newer")
    assert not file_snapshot.restore(options, False)["changed"]
    assert sorted(os.listdir(data / "a")) == ["one.csv", "two.csv"]


def test_keys_that_are_put_back() -> None:
    def entry(value: str) -> dict[str, object]:
        return {"value": value, "flags": 0}

    saved = {"active_workers/a": entry("1"), "active_workers/gone": entry("2"), "data/a/dementia": entry("3"), "master/ms": entry("4")}
    there = {"active_workers/a": entry("9"), "data/gone/tbi": entry("5"), "other": entry("6")}
    assert keystore_snapshot.plan(there, saved, ["ms", "a"]) == {
        "written": ["data/a/dementia", "master/ms"],
        "removed": ["data/gone/tbi"],
        # The engine wrote it when it started; the one of the backup is an address that is not its own any more.
        "kept": ["active_workers/a"],
    }
    assert keystore_snapshot.plan(saved, saved, []) == {"written": [], "removed": [], "kept": []}
    assert _keystore.node_of("data/lab-wk-1/dementia") == "lab-wk-1" and not _keystore.node_of("master/x")


def test_stopping_one_more_manager_may_not_cost_the_majority() -> None:
    def nodes(*reachable: bool) -> list[dict[str, object]]:
        return [
            {
                "id": str(number),
                "role": "manager",
                "reachability": "reachable" if up else "unreachable",
                "name": f"m{number}",
                "hostname": "",
            }
            for number, up in enumerate(reachable)
        ]

    swarm_snapshot.check_margin(nodes(True), "0")
    swarm_snapshot.check_margin(nodes(True, True, True), "1")
    with pytest.raises(swarm_snapshot.Refused, match="m2"):
        swarm_snapshot.check_margin(nodes(True, True, False), "1")


def test_addresses_and_versions() -> None:
    assert swarm_snapshot.has_address("127.0.0.1") and not swarm_snapshot.has_address("192.0.2.1")
    assert swarm_snapshot.numbers("20.10.24+dfsg1") == (20, 10, 24) and swarm_snapshot.numbers("") == ()


def test_keystore_that_moves_holds_the_copy_and_nothing_else() -> None:
    saved = {"master/a": 1, "active_workers/a": 2, "active_workers/b": 3, "data/b/x": 4, "data/gone/x": 5}
    there = {"master/old": 9, "active_workers/b": 8, "data/b/x": 4, "other": 7}
    found = keystore_snapshot.plan(there, saved, ["a", "b"], True, ["master/"])
    assert found == {"written": ["active_workers/a", "active_workers/b"], "removed": ["master/old", "other"], "kept": []}
    # Otherwise what is there is newer.
    found = keystore_snapshot.plan(there, saved, ["a", "b"])
    assert found["written"] == ["active_workers/a", "master/a"] and found["kept"] == ["active_workers/b"]
