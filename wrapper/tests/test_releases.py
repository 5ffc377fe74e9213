# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images are pinned and saved by the real playbooks from a real registry; releases are read; nothing else is contacted."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.hbp.mip.tests.helpers.small_registry import SmallRegistry

from .conftest import COLLECTION, MAIN_YML, Ended, Project, make_key

needs_registry = pytest.mark.skipif(
    shutil.which("docker-registry") is None, reason="docker-registry is not installed (apt-get install docker-registry)"
)
DIGESTS = ["sha256:" + digit * 64 for digit in "123"]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[SmallRegistry]:
    made = SmallRegistry(tmp_path / "registry")
    yield made
    made.stop()


def with_images(project: Project, registry: SmallRegistry) -> Path:
    """Make a federation whose images the registry has, and the playbooks that work on images."""
    for name in ("_inventory", "_images", "image_lock", "image_save"):
        shutil.copy(COLLECTION / "playbooks" / f"{name}.yml", project.collections / "ansible_collections/hbp/mip/playbooks")
    images = f'mip_engine: {{image: "{registry.name}/engine:1.0", keystore_image: "{registry.name}/keystore:1.8"}}\n'
    main = 'ansible_python_interpreter: "{{ ansible_playbook_python }}"\n' + images
    folder = project.federation(main=main + f'mip_docker: {{insecure_registries: ["{registry.name}"]}}\n')
    (folder / "ssh").mkdir()
    make_key(folder / "ssh/id_ed25519")
    return folder


def run(project: Project, *arguments: str) -> Ended:
    """Run mipfed with playbooks of several plays, which take their time on a busy machine."""
    argv, environment = project.command(*arguments)
    done = subprocess.run(argv, cwd=project.root, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


def record(folder: Path, number: int, digest: str, **more: Any) -> None:
    """Write a release down as the collection does."""
    images = {"engine": {"reference": "registry.example/engine:1.0", "digest": digest}}
    document = {"schema": 1, "federation": "fed", "made_by": "deploy", "at": "2026-11-22T10:00:00Z", "who": "anna@pusher"}
    path = folder / "state/releases" / f"{number}.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**document, "images": images, "services": {}, "release": number, **more}))


@needs_registry
@pytest.mark.timeout(1800)
def test_lock_then_save(project: Project, registry: SmallRegistry) -> None:
    engine, keystore = registry.push("engine", "1.0", b"engine"), registry.push("keystore", "1.8", b"keystore")
    folder = with_images(project, registry)
    planned = run(project, "image", "lock", "--check", "-o", "json")
    assert planned.code == 0 and planned.document["result"]["changed"] and not (folder / "images.lock").exists(), planned.err
    done = run(project, "image", "lock", "-o", "json")
    assert done.code == 0, done.err
    assert [image["digest"] for image in done.document["result"]["images"]] == [engine["digest"], keystore["digest"]]
    again = run(project, "image", "lock", "-o", "json")
    assert again.code == 0 and again.document["result"]["changed"] is False
    registry.push("engine", "1.0", b"another engine")
    moved = run(project, "image", "lock")
    assert moved.code == 0 and "→" in moved.out and "written" in moved.out
    shown = run(project, "config", "show", "-o", "json").document["result"]["images"]
    assert shown["locked"] and len(shown["entries"]) == 2

    bundle = project.root / "bundle.tar"
    saved = run(project, "image", "save", "--to", str(bundle), "-o", "json")
    assert saved.code == 0, saved.err
    assert saved.document["result"]["path"] == str(bundle)
    subprocess.run(["tar", "xf", "bundle.tar"], cwd=project.root, check=True)
    checked = subprocess.run(
        "ssh-keygen -Y verify -f allowed_signers -I fed -n mip-bundle -s SHA256SUMS.sig < SHA256SUMS && sha256sum -c SHA256SUMS",
        shell=True, cwd=project.root / "bundle", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "files/images.lock: OK" in checked.stdout
    assert run(project, "image", "save", "--to", str(bundle), "-o", "json").document["result"]["changed"] is False


@needs_registry
@pytest.mark.timeout(1800)
def test_nothing_is_locked_when_an_image_cannot_be_had(project: Project, registry: SmallRegistry) -> None:
    registry.push("engine", "1.0", b"engine")
    folder = with_images(project, registry)
    done = run(project, "image", "lock")
    assert done.code == 4 and "keystore:1.8 cannot be had" in done.err and "does not have it" in done.err, done.err
    assert not (folder / "images.lock").exists()
    unlocked = run(project, "image", "save", "--to", str(project.root / "x.tar"))
    assert unlocked.code == 5 and "image lock" in unlocked.err
    assert not (project.root / "x.tar").exists()


def test_releases_are_listed_and_shown(project: Project) -> None:
    folder = project.federation()
    assert "no release yet" in project.run("release", "ls").out
    assert project.run("release", "show").code == 3
    record(folder, 1, DIGESTS[0])
    record(folder, 2, DIGESTS[1], made_by="upgrade")
    listed = project.run("release", "ls", "-o", "json")
    assert [entry["release"] for entry in listed.document["result"]["releases"]] == [2, 1]
    assert DIGESTS[1][7:19] in project.run("release", "ls").out
    assert project.run("release", "show", "-o", "json").document["result"]["release"] == 2
    assert yaml.safe_load(project.run("release", "show", "1").out)["images"]["engine"]["digest"] == DIGESTS[0]
    missing = project.run("release", "show", "9")
    assert missing.code == 3 and "there are: 1, 2" in missing.err
    (folder / "state/releases/3.yml").write_text("images: [")
    broken = project.run("release", "ls", "-o", "json")
    assert broken.code == 3 and len(broken.document["result"]["releases"]) == 2


def test_rollback_needs_a_release_with_other_images(project: Project) -> None:
    folder = project.federation()
    assert project.run("rollback", "-y").code == 3
    record(folder, 1, DIGESTS[0])
    record(folder, 2, DIGESTS[0], services={"a": {"spec_sha256": "x"}})
    done = project.run("rollback", "-y")
    assert done.code == 3 and "no earlier release with other images" in done.err
    assert project.run("rollback", "7", "-y").code == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["upgrade"], "Give either --set"),
        (["upgrade", "--set", "engine=x:1", "--to", "1"], "Give either --set"),
        (["upgrade", "--set", "engine"], "expected IMAGE=REPOSITORY:TAG"),
        (["upgrade", "--set", "motor=x:1"], "there is no image motor"),
        (["upgrade", "--set", "engine=x:1", "--set", "engine=x:2"], "given twice"),
        (["image", "load", "no-such-file.tar"], "does not exist"),
        (["image", "save", "--to", "x.tar", "--with", "no-such-file"], "no-such-file does not exist"),
        (["release", "lock", "--wheel", "no-such-file"], "does not exist"),
    ],
)
def test_usage(project: Project, arguments: list[str], said: str) -> None:
    project.federation()
    done = project.run(*arguments, "-y") if arguments[0] != "release" else project.run(*arguments)
    assert done.code == 2 and said in done.err, done.err


def test_upgrade_asks_first(project: Project) -> None:
    project.federation()
    done = project.run("upgrade", "--set", "engine=registry.example/engine:1.1")
    assert done.code == 8 and "no terminal" in done.err


def test_a_lock_that_cannot_be_read_stops_everything(project: Project) -> None:
    folder = project.federation()
    (folder / "images.lock").write_text("images: [")
    done = project.run("config", "show")
    assert done.code == 3 and "images.lock:1: not YAML" in done.err


def test_the_federation_s_lock(project: Project) -> None:
    folder = project.federation()
    assert project.run("release", "lock").code == 3
    images = [{"name": "engine", "reference": "registry.example/engine:1.0", "digest": DIGESTS[0]}]
    (folder / "images.lock").write_text(yaml.safe_dump({"schema": 1, "images": images}))
    assert project.run("release", "lock", "--check").code == 3
    wheel = project.root / "mipfed-1.whl"
    wheel.write_bytes(b"wheel")
    done = project.run("release", "lock", "--wheel", str(wheel), "-o", "json")
    assert done.code == 0, done.err
    lock = yaml.safe_load((folder / "federation.lock").read_text())
    assert lock["images"]["engine"]["digest"] == DIGESTS[0]
    assert {"ansible-core", "pyyaml", "typer"} <= set(lock["packages"])
    assert {"hbp.mip", "community.crypto"} <= set(lock["collections"])
    assert lock["mipfed"]["wheel"] == "mipfed-1.whl" and len(lock["mipfed"]["files_sha256"]) == 64
    assert project.run("release", "lock", "--wheel", str(wheel), "-o", "json").document["result"]["changed"] is False
    assert project.run("release", "lock", "--check").code == 0

    images[0]["digest"] = DIGESTS[1]
    (folder / "images.lock").write_text(yaml.safe_dump({"schema": 1, "images": images}))
    plugins = project.collections / "ansible_collections/hbp/mip/plugins"
    (plugins / "filter/registered.py").write_text("# another\n")
    differs = project.run("release", "lock", "--check", "-o", "json")
    assert differs.code == 4
    told = differs.document["result"]["differences"]
    assert [text.split(":")[0] for text in told] == ["images.engine", "mipfed.files_sha256"], told
    wheel.write_bytes(b"another")
    assert "wheel_sha256" in project.run("release", "lock", "--check", "--wheel", str(wheel)).err


def test_the_locks_are_no_inventory(project: Project) -> None:
    folder = project.federation(main=MAIN_YML)
    (folder / "images.lock").write_text(yaml.safe_dump({"schema": 1, "images": []}))
    (folder / "federation.lock").write_text("schema: 1\nall: {hosts: {intruder: {}}}\n")
    named = project.run("node", "ls", "-i", str(folder), "-o", "json")
    assert named.code == 0 and "intruder" not in named.out, named.err
