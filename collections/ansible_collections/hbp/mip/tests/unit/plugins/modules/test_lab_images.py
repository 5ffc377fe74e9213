# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images are built the same way every time, and what was built is not built again."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _lab_oci as oci
from ansible_collections.hbp.mip.tests.helpers.modules import run_module


def layer_bytes(members: list[oci.Member]) -> tuple[bytes, oci.Layer]:
    file = io.BytesIO()
    layer = oci.write_layer(file, members)
    return file.getvalue(), layer


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with everything that a layer can hold, and some that it cannot."""
    root = tmp_path / "tree"
    (root / "bin").mkdir(parents=True)
    (root / "usr/share/man/man1").mkdir(parents=True)
    (root / "usr/share/doc/tool").mkdir(parents=True)
    (root / "bin/tool").write_text("#!/bin/sh\n")
    (root / "bin/tool").chmod(0o4755)
    os.link(root / "bin/tool", root / "bin/zwilling")
    (root / "bin/link").symlink_to("tool")
    (root / "usr/share/man/man1/tool.1").write_text("x")
    (root / "usr/share/doc/tool/copyright").write_text("free")
    (root / "usr/share/doc/tool/changelog").write_text("long")
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    os.mkfifo(root / "pipe")
    return root


def test_layer_depends_on_content_only(tree: Path) -> None:
    first, layer = layer_bytes(list(oci.tree_members(str(tree))))
    time.sleep(0.01)
    for path in tree.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (1, 1))
    second, again = layer_bytes(list(oci.tree_members(str(tree))))
    assert first == second
    assert layer == again
    (tree / "bin/tool").write_text("#!/bin/sh\n#\n")
    assert layer_bytes(list(oci.tree_members(str(tree))))[1].digest != layer.digest


def test_layer_is_a_tar_with_modes_links_and_one_time(tree: Path) -> None:
    data, layer = layer_bytes(list(oci.tree_members(str(tree), oci.UNWANTED)))
    assert len(data) == layer.size
    plain = gzip.decompress(data)
    assert oci._digest(plain)[0] == layer.diff_id
    assert oci._digest(data)[0] == layer.digest
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        found = {member.name: member for member in archive}
    folders = ["bin", "tmp", "usr", "usr/share", "usr/share/doc", "usr/share/doc/tool"]
    assert sorted(found) == sorted([*folders, "bin/link", "bin/tool", "bin/zwilling", "usr/share/doc/tool/copyright"])
    assert found["bin/tool"].mode == 0o4755
    assert found["tmp"].mode == 0o1777
    assert found["bin/link"].issym()
    assert found["bin/zwilling"].islnk()
    assert found["bin/zwilling"].linkname == "bin/tool"
    assert {member.mtime for member in found.values()} == {oci.FILE_TIME}
    assert {(member.uname, member.gname) for member in found.values()} == {("", "")}


def test_parents_are_added_once() -> None:
    found = oci.with_parents([oci.Member("opt/a/b", data=b"1"), oci.Member("opt/a", tarfile.DIRTYPE, 0o700)])
    assert [(member.path, member.mode) for member in found] == [("opt", 0o755), ("opt/a", 0o700), ("opt/a/b", 0o644)]


def test_folder_becomes_part_of_an_image_without_traces_of_its_use(tree: Path) -> None:
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__/x.pyc").write_bytes(b"1")
    (tree / "note").write_text("x")
    (tree / "note").chmod(0o600)
    found = {
        member.path: member.mode
        for member in oci.file_members(
            [{"source": str(tree), "destination": "/opt/tool"}],
            [{"path": "/data", "mode": "0700", "uid": 5, "gid": 6}],
            [{"name": "joe", "uid": 5, "gid": 6, "home": "/data"}],
        )
    }
    assert found["opt/tool/note"] == 0o644
    assert found["opt/tool/bin/tool"] == 0o755
    assert found["data"] == 0o700
    assert "etc/passwd" in found
    assert not [path for path in found if "__pycache__" in path]


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(oci.ImageError, match="/nosuch does not exist, but should become /opt/x of an image"):
        oci.file_members([{"source": "/nosuch", "destination": "/opt/x", "mode": "0644"}], [], [])


def test_store_is_an_oci_layout(tmp_path: Path) -> None:
    store = oci.Store(str(tmp_path / "cache"))
    with store.locked():
        layer = store.layer("key", lambda: [oci.Member("etc/x", data=b"1")])
        digest = store.image("team/tool", "1.0", "amd64", {"Entrypoint": ["x"]}, [layer])
        store.publish()
    root = tmp_path / "cache"
    assert json.loads((root / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads((root / "index.json").read_text())["manifests"]
    assert entry["digest"] == digest
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "team-tool-1.0"}

    def blob(name: str) -> Any:
        return json.loads((root / "blobs/sha256" / name.partition(":")[2]).read_bytes())

    manifest = blob(digest)
    assert manifest["layers"] == [{"mediaType": oci.LAYER_TYPE, "digest": layer.digest, "size": layer.size}]
    config = blob(manifest["config"]["digest"])
    assert config["rootfs"] == {"type": "layers", "diff_ids": [layer.diff_id]}
    assert config["architecture"] == "amd64"
    assert store.known_image("team/tool", "1.0") == digest
    assert store.known_image("team/tool", "1.1") is None


def test_store_makes_a_layer_once_and_drops_what_is_not_used(tmp_path: Path) -> None:
    store = oci.Store(str(tmp_path))
    made = []

    def members() -> list[oci.Member]:
        made.append(1)
        return [oci.Member("etc/x", data=b"1")]

    with store.locked():
        layer = store.layer("key", members)
        assert store.layer("key", members) == layer
        assert len(made) == 1
        store.image("tool", "1.0", "amd64", {}, [layer])
        unused = store.layer("other", lambda: [oci.Member("etc/y", data=b"2")])
        store.publish()
        assert store.known_layer("key") == layer
        assert store.known_layer("other") is None
        assert not store.has(unused.digest, unused.size)
        # A blob that was cut off does not count.
        Path(store._blob(layer.digest)).write_bytes(b"short")
        assert store.known_layer("key") is None
        assert store.layer("key", members) == layer
        assert len(made) == 2


def test_store_cleans_up_after_a_killed_run(tmp_path: Path) -> None:
    store = oci.Store(str(tmp_path))
    (tmp_path / "new-file").write_text("x")
    (tmp_path / "new-dir/deep").mkdir(parents=True)
    with store.locked():
        assert not list(tmp_path.glob("new-*"))


def test_store_is_used_by_one_at_a_time(tmp_path: Path) -> None:
    first, second = oci.Store(str(tmp_path)), oci.Store(str(tmp_path))
    with first.locked(), pytest.raises(oci.ImageError, match="in use by another process"), second.locked(wait=0.1):
        pass
    done = threading.Event()

    def wait() -> None:
        with second.locked(wait=10):
            done.set()

    with first.locked():
        thread = threading.Thread(target=wait)
        thread.start()
        assert not done.wait(0.3)
    thread.join(timeout=10)
    assert done.is_set()


def test_command_that_fails_is_shown_with_its_last_words() -> None:
    with pytest.raises(oci.ImageError, match=r"trying: 'sh -c .*' failed with code 4: first \| last"):
        oci.run(["sh", "-c", "echo first >&2; echo last >&2; exit 4"], "trying", "dash")
    with pytest.raises(oci.ImageError, match=r"trying: nosuch-program is not installed\. Install it: apt-get install some"):
        oci.run(["nosuch-program"], "trying", "some")


def test_registry_that_is_not_there_is_named() -> None:
    with pytest.raises(oci.ImageError, match=r"the registry at 127\.0\.0\.1:9 does not answer"):
        oci.remote_digest("127.0.0.1:9", "tool", "1.0", timeout=2)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"name": "Tool", "tag": "1"}, "'Tool:1' is not a valid name"),
        ({"name": "tool", "tag": "a b"}, "'tool:a b' is not a valid name"),
        ({"name": "tool", "tag": "1", "files": [{"source": "/etc/hostname", "destination": "/x", "mode": "rw"}]}, "mode 'rw' is not octal"),
    ],
)
def test_module_refuses_bad_input(tmp_path: Path, image: dict[str, Any], message: str) -> None:
    result = run_module("lab_images", {"cache": str(tmp_path), "images": [image]}, check=True)
    assert result.failed
    assert message in result.msg


def test_module_refuses_the_same_image_twice(tmp_path: Path) -> None:
    result = run_module("lab_images", {"cache": str(tmp_path), "images": [{"name": "tool", "tag": "1"}] * 2}, check=True)
    assert "image tool:1 is listed twice" in result.msg


def test_module_in_check_mode_makes_nothing(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    result = run_module("lab_images", {"cache": str(cache), "images": [{"name": "tool", "tag": "1"}]}, check=True)
    assert result.changed
    assert result["images"][0]["built"] is True
    assert result["images"][0]["digest"] == ""
    assert not cache.exists()
