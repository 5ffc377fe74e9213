# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets: whole or not there, and nothing damaged, cut off, swapped or made by somebody else is taken for a backup."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.plugin_utils import _backup_keys, _backup_set
from ansible_collections.hbp.mip.plugins.plugin_utils._age import Identity
from ansible_collections.hbp.mip.plugins.plugin_utils._backup_set import BackupError, BackupSet

KEY = Identity.generate()
SECRET = b"the-raft-key-in-clear"


def staging(folder: Path, kinds: tuple[str, ...] = ("swarm", "inventory", "keystore")) -> Path:
    """A set of the federation `lab` that is not sealed yet."""
    begun = _backup_set.begin(folder, "lab")
    source = folder.parent / "source"
    source.mkdir(exist_ok=True)
    (source / "state.json").write_bytes(SECRET * 1000)
    for kind in kinds:
        with _backup_set.Part(begun, f"{kind}.tar.gz", [KEY.recipient], {"kind": kind, "node": "lab-ms"}) as part:
            files = _backup_set.pack([(f"{kind}/state.json", source / "state.json")], part.write)
        part.about["files"] = files
        part.describe()
    return begun


def sealed(folder: Path) -> Path:
    """A set of the federation `lab`."""
    header = {"federation": "lab", "created": "2026-11-22T10:00:00Z", "cluster_id": "c1", "missing": []}
    return _backup_set.seal(staging(folder), header, {"swarm": {"node": "lab-ms"}}, [KEY.recipient])


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for sets."""
    yield tmp_path / "backups"


def test_a_set_is_whole_private_and_encrypted(folder: Path) -> None:
    path = sealed(folder)
    assert path.suffix == ".mipbackup"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [entry.name for entry in folder.iterdir()] == [path.name]
    content = path.read_bytes()
    assert SECRET not in content and b"state.json" not in content
    manifest = BackupSet(path).verify([KEY])
    assert [member["name"] for member in manifest["members"]] == ["inventory.tar.gz", "keystore.tar.gz", "swarm.tar.gz"]
    assert manifest["members"][0]["files"][0]["path"] == "inventory/state.json"
    # Anybody sees what it is, and nothing else.
    with tarfile.open(path) as archive:
        assert archive.getnames()[:2] == ["mipbackup.json", "manifest.json.age"]


def test_a_set_without_what_matters_is_none(folder: Path) -> None:
    begun = staging(folder, ("inventory", "keystore"))
    with pytest.raises(BackupError, match="no swarm"):
        _backup_set.seal(begun, {}, {}, [KEY.recipient])
    assert not list(folder.glob("*.mipbackup"))
    assert _backup_set.discard(begun)
    assert not list(folder.iterdir())


def test_what_a_killed_run_left_is_no_backup_and_is_removed(folder: Path) -> None:
    kept = sealed(folder)
    cut = staging(folder)
    (folder / ".other.20260101T000000Z-00000000.partial").mkdir()
    assert [Path(entry["file"]) for entry in _backup_set.listed(folder, "lab")[0]] == [kept]
    begun = _backup_set.begin(folder, "lab")
    assert not cut.exists() and begun.exists()
    assert (folder / ".other.20260101T000000Z-00000000.partial").exists()
    assert BackupSet(kept).verify([KEY])


def test_a_part_that_arrived_incomplete_is_refused(folder: Path) -> None:
    begun = _backup_set.begin(folder, "lab")
    with _backup_set.Part(begun, "swarm.tar.gz", [KEY.recipient], {"kind": "swarm"}) as part:
        part.write(b"half")
    with pytest.raises(BackupError, match="4 of 8 bytes"):
        part.check(8, "0" * 64)
    with pytest.raises(RuntimeError), _backup_set.Part(begun, "swarm.tar.gz", [KEY.recipient], {"kind": "swarm"}) as part:
        part.write(b"half")
        raise RuntimeError
    assert not list(begun.iterdir())


def test_wrong_key(folder: Path) -> None:
    with pytest.raises(BackupError, match="none of the given keys"):
        BackupSet(sealed(folder)).verify([Identity.generate()])


def test_every_flipped_byte_is_found(folder: Path) -> None:
    path = sealed(folder)
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        content = [(entry.offset_data, entry.size) for entry in archive.getmembers()]
    places = {offset + step for offset, size in content for step in range(0, size, max(1, size // 12))}
    for place in sorted(places):
        damaged = bytearray(whole)
        damaged[place] ^= 0x20
        path.write_bytes(damaged)
        with pytest.raises(BackupError):
            BackupSet(path).verify([KEY])
    path.write_bytes(whole)
    assert BackupSet(path).verify([KEY])


def test_every_truncation_is_found(folder: Path) -> None:
    path = sealed(folder)
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
    end = last.offset_data + last.size
    for size in [*range(0, end, end // 40), end - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(BackupError):
            BackupSet(path).verify([KEY])


def rewritten(path: Path, change: Any) -> None:
    """Make the outer tar anew, with its members changed."""
    with tarfile.open(path) as archive:
        members = []
        for entry in archive.getmembers():
            stream = archive.extractfile(entry)
            assert stream
            members.append((entry.name, stream.read()))
    with tarfile.open(path, "w") as archive:
        for name, content in change(members):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize(
    "change",
    [
        lambda members: members[:-1],
        lambda members: [*members, ("more.json.age", b"x")],
        lambda members: [*members, members[-1]],
        lambda members: [*members, ("../../etc/cron.d/x", b"x")],
        lambda members: [*members, ("/etc/cron.d/x", b"x")],
        lambda members: [*members[:2], (members[2][0], members[3][1]), (members[3][0], members[2][1]), *members[4:]],
        lambda members: [(members[0][0], members[0][1].replace(b'"lab"', b'"her"')), *members[1:]],
        lambda members: [(members[0][0], members[0][1].replace(b'"format": 1', b'"format": 2')), *members[1:]],
        lambda members: [(members[0][0], b"[]"), *members[1:]],
    ],
    ids=["missing", "more", "twice", "traversal", "absolute", "swapped", "header", "format", "no-header"],
)
def test_tampering_is_found(folder: Path, change: Any) -> None:
    path = sealed(folder)
    rewritten(path, change)
    with pytest.raises(BackupError):
        BackupSet(path).verify([KEY])


def test_links_and_paths_in_an_archive_are_refused(folder: Path) -> None:
    for name, kind in (("../x", tarfile.REGTYPE), ("/x", tarfile.REGTYPE), ("x", tarfile.SYMTYPE), ("x", tarfile.CHRTYPE)):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w:gz") as archive:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/shadow"
            archive.addfile(entry)
        stream = _backup_set._Stream(iter([content.getvalue()]))
        with pytest.raises(BackupError, match="may not be in it"):
            _backup_set.archive_digests(stream, "swarm")


def test_an_archive_with_other_files_than_the_manifest_says_is_refused(folder: Path) -> None:
    begun = staging(folder)
    about = begun / "swarm.tar.gz.about"
    found = json.loads(about.read_text())
    found["files"][0]["sha256"] = "0" * 64
    about.write_text(json.dumps(found))
    path = _backup_set.seal(begun, {"federation": "lab"}, {}, [KEY.recipient])
    with pytest.raises(BackupError, match=r"swarm/state\.json is not what the manifest says"):
        BackupSet(path).verify([KEY])


def test_something_else_is_no_backup(tmp_path: Path) -> None:
    path = tmp_path / "x.mipbackup"
    for content in (b"", b"x" * 5000, os.urandom(4096)):
        path.write_bytes(content)
        with pytest.raises(BackupError):
            BackupSet(path)
    with pytest.raises(BackupError, match="No such file"):
        BackupSet(tmp_path / "absent")


def test_retention_keeps_the_newest_and_those_of_others(folder: Path) -> None:
    paths = []
    for number in range(5):
        path = sealed(folder)
        target = path.with_name(f"2026010{number}T000000Z-{path.name[-18:]}")
        path.rename(target)
        paths.append(target)
    rewritten(paths[0], lambda members: [(members[0][0], members[0][1].replace(b'"lab"', b'"her"')), *members[1:]])
    _backup_set.note(paths[1], verified={"ok": True})
    assert _backup_set.retain(folder, "lab", 2) == [paths[1].name, paths[2].name]
    left = {entry.name for entry in folder.iterdir() if entry.suffix == ".mipbackup"}
    assert left == {paths[0].name, paths[3].name, paths[4].name}
    assert _backup_set.retain(folder, "lab", 0) == [paths[3].name]
    assert paths[4].exists()


def test_the_catalogue_shows_a_verification(folder: Path) -> None:
    path = sealed(folder)
    assert _backup_set.listed(folder, "lab")[0][0]["verified"] is None
    _backup_set.note(path, verified={"at": "2026-11-22T10:00:00Z", "ok": True})
    assert _backup_set.listed(folder, "lab")[0][0]["verified"]["ok"] is True
    # A damaged one costs nothing but what it told.
    (folder / "catalogue.json").write_text("{")
    assert _backup_set.listed(folder, "lab")[0][0]["verified"] is None
    _backup_set.note(path, verified={"ok": False})
    assert _backup_set.listed(folder, "lab")[0][0]["verified"] == {"ok": False}


def test_an_unreadable_file_does_not_hide_the_others(folder: Path) -> None:
    path = sealed(folder)
    (folder / "broken.mipbackup").write_bytes(b"x")
    sets, problems = _backup_set.listed(folder, "lab")
    assert [entry["file"] for entry in sets] == [str(path)]
    assert len(problems) == 1 and "broken.mipbackup" in problems[0]


def test_the_inventory_is_taken_without_backups_and_links(tmp_path: Path) -> None:
    inventory = tmp_path / "lab"
    for name in ("hosts.yml", "group_vars/all/vault.yml", "ssh/id_ed25519", "state/data.json", "backups/x", "kept/y", "a.mipbackup"):
        (inventory / name).parent.mkdir(parents=True, exist_ok=True)
        (inventory / name).write_text("x")
    (inventory / "link").symlink_to("/etc/passwd")
    names = [name for name, _path in _backup_set.inventory_files(inventory, [inventory / "kept"])]
    assert names == ["hosts.yml", "group_vars/all/vault.yml", "ssh/id_ed25519", "state/data.json"]


def test_keys_are_made_once_and_privately(tmp_path: Path) -> None:
    path = tmp_path / "key"
    recipient = _backup_keys.make(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [key.recipient for key in _backup_keys.read(path, lambda name: Path(name).read_text())] == [recipient]
    before = path.read_bytes()
    with pytest.raises(BackupError, match="exists"):
        _backup_keys.make(path)
    assert path.read_bytes() == before
    with pytest.raises(BackupError, match="cannot be read"):
        _backup_keys.read(tmp_path / "absent", lambda name: Path(name).read_text())


def test_recipients_of_the_inventory() -> None:
    with pytest.raises(BackupError, match="backup key"):
        _backup_set.recipients([])
    with pytest.raises(BackupError, match="entry 2"):
        _backup_set.recipients([str(KEY.recipient), "age1nonsense"])
