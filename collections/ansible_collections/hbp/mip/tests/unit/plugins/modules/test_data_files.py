# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _data_files
from ansible_collections.hbp.mip.tests.unit.plugins.modules.module_process import COLLECTIONS, run_module, start_module

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def metadata(version: int, pathology: str = "dementia") -> bytes:
    return json.dumps(
        {"code": pathology, "version": str(version), "variables": [], "label": "Démence"}, indent=1, ensure_ascii=False
    ).encode()


def entry(path: str, data: bytes, **other: str) -> dict[str, str]:
    packed = base64.b64encode(zlib.compress(data)).decode()
    return {"path": path, "content": packed, "sha256": hashlib.sha256(data).hexdigest(), **other}


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("dementia", "tbi"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name).chmod(0o750)
        (tmp_path / "data" / name / "a.csv").write_text("dataset\n")
    (tmp_path / "data" / "dementia" / "CDEsMetadata.json").write_bytes(metadata(1))
    return tmp_path / "data"


def hand_out(root: Path, *files: dict[str, str], **more: Any) -> dict[str, Any]:
    how = {key: more.pop(key) for key in ("check", "diff", "prefix") if key in more}
    return run_module("data_files", {"root": str(root), "files": list(files), **more}, **how)


def snapshot(root: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path)] = (content, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
    return found


def test_new_and_replaced_files(root: Path) -> None:
    files = [entry("dementia/CDEsMetadata.json", metadata(2)), entry("tbi/CDEsMetadata.json", metadata(1, "tbi"))]
    before = snapshot(root)
    checked = hand_out(root, *files, check=True, diff=True)
    assert checked["changed"] and snapshot(root) == before
    done = hand_out(root, *files, diff=True)
    assert (
        done["files"]
        == checked["files"]
        == [
            {"path": "dementia/CDEsMetadata.json", "before": sha(metadata(1)), "after": sha(metadata(2)), "changed": True},
            {"path": "tbi/CDEsMetadata.json", "before": "", "after": sha(metadata(1, "tbi")), "changed": True},
        ]
    )
    assert done["diff"] == checked["diff"] and '-"version": "1"' in done["diff"][0]["prepared"].replace("- ", "-").replace("+ ", "+")
    assert "dementia/CDEsMetadata.json (after)" in done["diff"][0]["prepared"] and "Démence" in done["diff"][1]["prepared"]
    assert (root / "dementia/CDEsMetadata.json").read_bytes() == metadata(2)
    assert (root / "dementia/CDEsMetadata.json.previous").read_bytes() == metadata(1)
    assert stat.S_IMODE((root / "tbi/CDEsMetadata.json").stat().st_mode) == 0o640
    assert not (root / "tbi/CDEsMetadata.json.previous").exists()
    before = snapshot(root)
    again = hand_out(root, *files, diff=True)
    assert not again["changed"] and again["diff"] == [] and snapshot(root) == before
    assert [item["changed"] for item in again["files"]] == [False, False]
    third = hand_out(root, entry("dementia/CDEsMetadata.json", metadata(3)), keep_previous=False)
    assert third["changed"] and (root / "dementia/CDEsMetadata.json.previous").read_bytes() == metadata(1)
    assert sorted(path.name for path in (root / "dementia").iterdir()) == ["CDEsMetadata.json", "CDEsMetadata.json.previous", "a.csv"]


def test_the_content_is_in_no_log(root: Path) -> None:
    packed = entry("tbi/CDEsMetadata.json", os.urandom(200))
    process = start_module("data_files", {"root": str(root), "files": [packed], "_ansible_verbosity": 4}, diff=True)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and packed["content"] not in out + err


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("../x.json", "no path below"),
        ("/etc/x.json", "no path below"),
        ("", "no path below"),
        ("dementia/", "no path below"),
        ("dementia//x.json", "no path below"),
        ("dementia/./x.json", "no path below"),
        ("dementia/.hidden", "no path below"),
        ("dementia/a b.json", "no path below"),
        ("dementia/a\n.json", "no path below"),
        ("dementia/" + "a" * 129, "no path below"),
        ("dementia/a.csv", "dataset or a database"),
        ("dementia/A.CSV", "dataset or a database"),
        ("dementia/datasets.db", "dataset or a database"),
    ],
)
def test_paths_that_are_refused(root: Path, path: str, fault: str) -> None:
    before = snapshot(root)
    result = hand_out(root, entry("tbi/CDEsMetadata.json", metadata(1)), entry(path, metadata(2)), create=True)
    assert result["failed"] and fault in result["msg"] and result["mip_error"] == "check" and snapshot(root) == before


def test_all_faults_at_once(root: Path) -> None:
    good = metadata(2)
    packed = base64.b64encode(zlib.compress(good)).decode()
    files = [
        entry("dementia/CDEsMetadata.json", good),
        entry("tbi/1.json", good, sha256="0" * 64),
        entry("tbi/2.json", good, sha256="xyz"),
        entry("tbi/3.json", good, content="no base64!"),
        entry("tbi/4.json", good, content=base64.b64encode(b"no zlib").decode()),
        entry("tbi/5.json", good, content=base64.b64encode(zlib.compress(good)[:-3]).decode()),
        entry("tbi/6.json", good, content=base64.b64encode(zlib.compress(good) + b"x").decode()),
        entry("tbi/7.json", good, content=base64.b64encode(zlib.compress(bytes(_data_files.LARGEST_FILE + 1))).decode()),
        entry("tbi/8.json", good),
        entry("tbi/8.json", good),
        entry("tbi/9.json", good),
        entry("tbi/9.json/x", good),
        entry("tbi/9.json.previous", good),
    ]
    before = snapshot(root)
    result = hand_out(root, *files)
    assert result["failed"] and snapshot(root) == before and "Nothing was changed" in result["msg"]
    for number, words in {
        1: "its SHA-256 is",
        2: "64 hexadecimal",
        3: "not compressed",
        4: "not compressed",
        5: "cut off",
        6: "something follows",
        7: "larger than 64 MiB",
        8: "twice",
        9: "also the folder",
    }.items():
        assert any(f"tbi/{number}.json" in part and words in part for part in result["msg"].split("; ")), (number, result["msg"])
    assert packed not in json.dumps(result["msg"])


def test_folders(root: Path) -> None:
    result = hand_out(root, entry("epilepsy/CDEsMetadata.json", metadata(1)), entry("dementia/CDEsMetadata.json", metadata(2)))
    assert result["failed"] and f"{root}/epilepsy is missing" in result["msg"] and result["mip_error"] == "check"
    assert [item["changed"] for item in result["files"]] == [False, False]
    assert (root / "dementia/CDEsMetadata.json").read_bytes() == metadata(1)
    made = hand_out(root, entry("epilepsy/CDEsMetadata.json", metadata(1)), create=True, check=True)
    assert made["changed"] and not (root / "epilepsy").exists()
    root.chmod(0o751)
    made = hand_out(root, entry("epilepsy/CDEsMetadata.json", metadata(1)), entry("epilepsy/more/x.json", metadata(2)), create=True)
    assert made["changed"] and (root / "epilepsy/more/x.json").read_bytes() == metadata(2)
    assert stat.S_IMODE((root / "epilepsy").stat().st_mode) == 0o751
    new = root.parent / "portal" / "api"
    assert "mipfed deploy" in hand_out(new, entry("pathologies.json", b"[]"))["msg"]
    assert hand_out(new, entry("pathologies.json", b"[]"), create=True, mode="0644")["changed"]
    assert stat.S_IMODE((new / "pathologies.json").stat().st_mode) == 0o644
    assert not hand_out(new, entry("pathologies.json", b"[]"), create=True, mode="0644")["changed"]


def test_links_and_other_kinds(root: Path) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "CDEsMetadata.json").write_text("theirs")
    (root / "linked").symlink_to(outside)
    (root / "filelink").mkdir()
    (root / "filelink" / "CDEsMetadata.json").symlink_to(outside / "CDEsMetadata.json")
    (root / "dirname" / "CDEsMetadata.json").mkdir(parents=True)
    (root / "fifo").mkdir()
    os.mkfifo(root / "fifo" / "CDEsMetadata.json")
    (root / "previous").mkdir()
    (root / "previous" / "CDEsMetadata.json.previous").symlink_to(outside / "CDEsMetadata.json")
    (root / "plain").write_text("")
    before = snapshot(root.parent)
    names = ("linked", "filelink", "dirname", "fifo", "previous", "plain", "dementia")
    for create in (False, True):
        result = hand_out(root, *[entry(f"{name}/CDEsMetadata.json", metadata(2)) for name in names], create=create)
        assert result["failed"] and snapshot(root.parent) == before
        parts = result["msg"].split("; ")
        for name in names[:-1]:
            assert any(f"{root}/{name}" in part and ("link" in part or "plain" in part) for part in parts), (name, parts)
    # the root itself may be a link, as to a mounted disk
    (root.parent / "mount").symlink_to(root)
    assert hand_out(root.parent / "mount", entry("dementia/CDEsMetadata.json", metadata(2)))["changed"]


@ROOT_ONLY
def test_owner_and_mode(root: Path) -> None:
    os.chown(root / "tbi", 1234, 2345)
    os.chown(root / "dementia" / "CDEsMetadata.json", 3456, 4567)
    (root / "dementia" / "CDEsMetadata.json").chmod(0o604)
    hand_out(root, entry("dementia/CDEsMetadata.json", metadata(2)), entry("tbi/CDEsMetadata.json", metadata(2)))
    for name, expected in (("dementia", (3456, 4567, 0o604)), ("tbi", (1234, 2345, 0o640))):
        status = (root / name / "CDEsMetadata.json").stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == expected
    files = [entry("dementia/CDEsMetadata.json", metadata(2))]
    result = hand_out(root, *files, owner="nobody", group="1", mode="600", diff=True)
    assert result["changed"] and result["files"][0]["before"] == result["files"][0]["after"] and "owner" in result["diff"][0]["prepared"]
    status = (root / "dementia/CDEsMetadata.json").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (65534, 1, 0o600)
    assert not hand_out(root, *files, owner="nobody", group="1", mode="0600")["changed"]
    result = hand_out(root, *files, owner="no-such-user", group="no-such-group", mode="rw")
    assert result["failed"] and all(words in result["msg"] for words in ("no-such-user", "no-such-group", "octal"))


def test_what_is_no_metadata_is_not_shown(root: Path) -> None:
    for old in (b"subjectcode,dataset\nCNR1,edsd\n", b'{"patients": ["CNR1"]}', b'[{"name": "CNR1"}]', b"\xff CNR1", b"CNR1" * (5 << 20)):
        (root / "tbi" / "CDEsMetadata.json").write_bytes(old)
        result = hand_out(root, entry("tbi/CDEsMetadata.json", metadata(1)), diff=True)
        assert result["changed"] and "CNR" not in json.dumps(result) and "not shown" in result["diff"][0]["prepared"]
    (root / "pathologies.json").write_text(json.dumps([{"code": "dementia", "metadataHierarchy": {}}]))
    result = hand_out(root, entry("pathologies.json", b"[]"), diff=True)
    assert '-[{"code"' in result["diff"][0]["prepared"] and "No newline" in result["diff"][0]["prepared"]


# Faults ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(root: Path) -> Any:
    """A file system of 4 MiB at the root's folder `tbi`."""
    target = root / "tbi"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(target)], capture_output=True, check=False).returncode:
        pytest.skip("no mounts here")
    yield target
    subprocess.run(["umount", str(target)], check=True)


@ROOT_ONLY
def test_a_full_disk_changes_nothing(root: Path, small_disk: Path) -> None:
    (small_disk / "fill").write_bytes(bytes(2500 << 10))
    before = snapshot(root)
    big = entry("tbi/CDEsMetadata.json", json.dumps({"code": os.urandom(500 << 10).hex()}).encode())
    result = hand_out(root, entry("dementia/CDEsMetadata.json", metadata(2)), big)
    assert result["failed"] and "KiB free" in result["msg"] and str(small_disk) in result["msg"] and snapshot(root) == before


@ROOT_ONLY
def test_a_file_system_that_is_read_only(root: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    before = snapshot(root)
    result = hand_out(root, entry("dementia/CDEsMetadata.json", metadata(2)), entry("tbi/CDEsMetadata.json", metadata(2)))
    assert result["failed"] and "Read-only" in result["msg"] and "no file was replaced" in result["msg"] and snapshot(root) == before
    assert result["changed"] is False and result["replaced"] == []


# Runs the module's work in a process that kills itself, or whose call fails, at the n-th call that changes something.
FAULTY = """
import errno, os, signal, sys
from ansible_collections.hbp.mip.plugins.module_utils import _data_files
root, version, kind, at = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
import hashlib
calls = 0
def counted(name):
    real = getattr(os, name)
    def call(*args, **more):
        global calls
        if name == "open" and not args[1] & os.O_CREAT:
            return real(*args, **more)
        calls += 1
        if calls == at:
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        done = real(*args, **more)
        return done
    setattr(os, name, call)
for name in ("open", "fsync", "replace", "link", "fchmod"):
    counted(name)
wanted = []
for path in ("dementia/CDEsMetadata.json", "tbi/CDEsMetadata.json", "tbi/second.json"):
    content = (path + version).encode()
    wanted.append(_data_files.Wanted(path, content, hashlib.sha256(content).hexdigest()))
with _data_files.Replacement(root, wanted, _data_files.Attributes(None, None, None)) as replacement:
    replacement.look(lock=True)
    try:
        replacement.write()
    except _data_files.FilesError as error:
        print(error, "|", ",".join(error.replaced))
        sys.exit(3)
sys.exit(0)
"""
PATHS = ("dementia/CDEsMetadata.json", "tbi/CDEsMetadata.json", "tbi/second.json")


def faulty(root: Path, version: str, kind: str, at: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", FAULTY, str(root), version, kind, str(at)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(COLLECTIONS)})


def repair(root: Path, version: str) -> None:
    contents = {path: (path + version).encode() for path in PATHS}
    wanted = [_data_files.Wanted(path, content, sha(content)) for path, content in contents.items()]
    with _data_files.Replacement(str(root), wanted, _data_files.Attributes(None, None, None)) as replacement:
        replacement.look(lock=True)
        replacement.write()


@pytest.mark.parametrize("kind", ["kill", "fail"])
def test_cut_off_at_any_step(root: Path, kind: str) -> None:
    assert faulty(root, "0", "none", 0).returncode == 0
    seen = []
    for at in range(1, 40):
        before = {path: (root / path).read_bytes() for path in PATHS}
        version = str(at)
        answer = faulty(root, version, kind, at)
        replaced = [path for path in PATHS if (root / path).read_bytes() == (path + version).encode()]
        for path in PATHS:
            assert (root / path).read_bytes() in (before[path], (path + version).encode())
            if path in replaced:
                assert (root / (path + ".previous")).read_bytes() == before[path]
        seen.append(len(replaced))
        if answer.returncode == 0:
            assert len(replaced) == 3
            break
        left = [path.name for path in root.rglob(".mipfed-*")]
        if kind == "kill":
            assert answer.returncode == -signal.SIGKILL
        else:
            assert answer.returncode == 3 and "Input/output error" in answer.stdout and left == [], (at, answer)
            assert answer.stdout.strip().split("|")[1].strip().split(",") == (replaced or [""])
        # the next run gets everything right, and cleans up
        repair(root, version)
        assert all((root / path).read_bytes() == (path + version).encode() for path in PATHS)
        assert [path.name for path in root.rglob(".mipfed-*")] == []
    assert set(seen) == {0, 1, 2, 3} and seen[-1] == 3 and len(seen) > 15


def test_killed_at_random_moments(root: Path) -> None:
    path = root / "dementia" / "CDEsMetadata.json"
    versions = {path.read_bytes()}
    big = {number: metadata(number) + b" " * 3000000 for number in range(2, 10)}
    for number, content in big.items():
        versions.add(content)
        process = start_module("data_files", {"root": str(root), "files": [entry("dementia/CDEsMetadata.json", content)]})
        time.sleep(random.uniform(0.1, 0.9))
        process.kill()
        process.communicate()
        assert path.read_bytes() in versions, number
    result = hand_out(root, entry("dementia/CDEsMetadata.json", big[9]))
    assert not result.get("failed") and path.read_bytes() == big[9]
    assert [item.name for item in root.rglob(".mipfed-*")] == []


def test_left_overs_go_even_when_nothing_changes(root: Path) -> None:
    stale = root / "dementia" / f".mipfed-{'0' * 16}.tmp"
    other = root / "dementia" / ".mipfed-notes.tmp"
    for path in (stale, other):
        path.write_text("x")
    wanted = entry("dementia/CDEsMetadata.json", metadata(1))
    assert not hand_out(root, wanted, check=True)["changed"] and stale.exists()
    assert not hand_out(root, wanted)["changed"] and not stale.exists() and other.exists()


def test_another_run_is_waited_for(root: Path) -> None:
    handle = os.open(root, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    stale = root / "dementia" / f".mipfed-{'0' * 16}.tmp"
    stale.write_text("being written by the other run")
    released: list[float] = []

    def release() -> None:
        time.sleep(2)
        assert stale.exists()
        released.append(time.monotonic())
        os.close(handle)

    helper = threading.Thread(target=release)
    helper.start()
    result = hand_out(root, entry("dementia/CDEsMetadata.json", metadata(2)))
    assert result["changed"] and released and time.monotonic() >= released[0]
    helper.join()


def test_a_lock_that_is_never_released(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_data_files, "LOCK_SECONDS", 0.5)
    handle = os.open(root, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with _data_files.Replacement(str(root), [], _data_files.Attributes(None, None, None)) as replacement:
        with pytest.raises(_data_files.FilesError, match="another run"):
            replacement.look(lock=True)
        replacement.look(lock=False)
    os.close(handle)
