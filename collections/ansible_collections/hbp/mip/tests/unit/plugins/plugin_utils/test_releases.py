# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What images.lock pins, what releases remember, and how the inventory comes to name other images."""

from __future__ import annotations

import copy
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.hbp.mip.plugins.action import image_lock, release
from ansible_collections.hbp.mip.plugins.filter.engine_services import engine_services
from ansible_collections.hbp.mip.plugins.filter.images_kept import images_kept
from ansible_collections.hbp.mip.plugins.filter.node_images import node_images
from ansible_collections.hbp.mip.plugins.filter.upgrade_steps import upgrade_steps
from ansible_collections.hbp.mip.plugins.module_utils import _services
from ansible_collections.hbp.mip.plugins.plugin_utils import _federation, _images, _releases, _reports

ENGINE, KEYSTORE = "registry.example:5000/exareme:1.0", "registry.example:5000/keystore:1.8.7"
OLD, NEW, THIRD = ("sha256:" + digit * 64 for digit in "123")

HOSTVARS: dict[str, dict[str, Any]] = {
    name: {
        "ansible_host": f"192.0.2.{number}",
        "mip_engine": {"image": ENGINE, "keystore_image": KEYSTORE},
    }
    for number, name in enumerate(("h-ms", "h-ui", "h-wk-a", "h-wk-b"), 11)
}
GROUPS = {"master": ["h-ms"], "ui": ["h-ui"], "workers": ["h-wk-a", "h-wk-b"]}


def entry(name: str, reference: str, digest: str) -> dict[str, Any]:
    return {"name": name, "reference": reference, "digest": digest, "size": 10, "id": digest, "manifest": digest}


def federation(folder: Path, *entries: dict[str, Any], hosts: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return the federation of an inventory whose lock has these entries; without any there is no lock."""
    hostvars = copy.deepcopy(HOSTVARS)
    for name, values in (hosts or {}).items():
        hostvars[name].update(values)
    if entries:
        (folder / _images.FILE).write_text(_images.text_of(entries))
    return _images.with_lock(_federation.resolve("h", GROUPS, hostvars), folder)


BOTH = (entry("engine", ENGINE, OLD), entry("keystore", KEYSTORE, OLD))


# --- the lock


def test_without_a_lock_tags_are_used_as_before(tmp_path: Path) -> None:
    found = federation(tmp_path)
    assert {service["image"] for service in engine_services(found, [])} == {ENGINE, KEYSTORE}
    problems, warnings = _images.judge(found)
    assert problems == [] and [entry["code"] for entry in warnings] == ["images-unlocked"]
    report = _reports.check(found, {"nodes": {}})
    assert [entry["code"] for entry in report["warnings"]] == ["images-unlocked"]


def test_with_a_lock_every_service_names_the_digest(tmp_path: Path) -> None:
    found = federation(tmp_path, *BOTH)
    images = {service["name"]: service["image"] for service in engine_services(found, [])}
    assert images == {
        "h-ms_exareme-keystore": f"{KEYSTORE}@{OLD}",
        "h-ms_exareme-master": f"{ENGINE}@{OLD}",
        "h-wk-a_exareme": f"{ENGINE}@{OLD}",
        "h-wk-b_exareme": f"{ENGINE}@{OLD}",
    }
    assert _images.judge(found) == ([], [])


def test_a_lock_that_names_another_image_stops_a_deploy(tmp_path: Path) -> None:
    found = federation(tmp_path, entry("engine", "registry.example:5000/exareme:0.9", OLD), BOTH[1])
    problems, _warnings = _images.judge(found)
    assert [entry["code"] for entry in problems] == ["images-lock-stale"]
    assert "exareme:0.9 as engine" in problems[0]["message"] and ENGINE in problems[0]["message"]
    assert f"mipfed -f h upgrade --set engine={ENGINE}" in problems[0]["fix"]
    report = _reports.check(found, {"nodes": {}})
    assert [entry["code"] for entry in report["problems"]] == ["images-lock-stale"]


def test_a_node_without_a_registry_runs_what_was_loaded(tmp_path: Path) -> None:
    found = federation(tmp_path, *BOTH, hosts={"h-wk-b": {"mip_image_source": "loaded"}})
    images = {service["name"]: service["image"] for service in engine_services(found, [])}
    assert images["h-wk-b_exareme"] == "localhost/mip/exareme:1.0-111111111111"
    assert images["h-wk-a_exareme"] == f"{ENGINE}@{OLD}"
    assert all(_services.is_pinned(image) for image in images.values())
    assert [image["image"] for image in node_images(found, "h-wk-b")] == ["localhost/mip/exareme:1.0-111111111111"]
    assert [image["name"] for image in node_images(found, "h-ms")] == ["engine", "keystore"]
    (tmp_path / _images.FILE).unlink()
    unlocked = federation(tmp_path, hosts={"h-wk-b": {"mip_image_source": "loaded"}})
    assert [(entry["node"], entry["code"]) for entry in _images.judge(unlocked)[0]] == [("h-wk-b", "images-unlocked")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("images: [", "images.lock:1: not YAML"),
        ("schema: 1\n", "no list `images`"),
        ("schema: 2\nimages: []\n", "schema 2 is not 1"),
        ("schema: 1\nimages: [{name: engine, reference: x:1}]\n", "name, reference and digest are needed"),
        ("schema: 1\nimages: [{name: engine, reference: x:1, digest: sha256:12}]\n", "no sha256 digest"),
    ],
)
def test_a_lock_that_cannot_be_used_says_where(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / _images.FILE).write_text(text)
    with pytest.raises(_images.LockError) as caught:
        _images.read(tmp_path)
    assert said in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_lock_is_written_as_it_is_read_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / _images.FILE
    assert _images.write(path, _images.text_of(BOTH))
    assert _images.read(tmp_path) == [dict(entry) for entry in BOTH]
    path.chmod(0o640)
    assert not _images.write(path, _images.text_of(BOTH))
    assert _images.write(path, _images.text_of(BOTH[:1]))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == [_images.FILE]


def test_two_deploys_from_one_lock_have_the_same_specifications(tmp_path: Path) -> None:
    def hashes(found: dict[str, Any], network: str) -> dict[str, str]:
        made = {}
        for service in engine_services(found, ["h-ms"]):
            options = {**service, "networks": service["networks"]}
            spec = _services.build_spec(options, "h", {"mip-federation": network}, {}, {})
            made[service["name"]] = _services.spec_hash(spec, {network: "mip-federation"})
        return made

    first = hashes(federation(tmp_path, *BOTH), "id-of-one-swarm")
    assert first == hashes(federation(tmp_path), "id-of-another-swarm")
    other = hashes(federation(tmp_path, entry("engine", ENGINE, NEW), BOTH[1]), "id-of-one-swarm")
    assert {name for name in first if first[name] != other[name]} == {"h-ms_exareme-master", "h-wk-a_exareme", "h-wk-b_exareme"}


# --- choosing images


def told(reference: str, digest: str = "", code: str = "missing") -> dict[str, Any]:
    return {**entry("", reference, digest), "error": "" if digest else "no", "code": "ok" if digest else code}


def test_the_first_that_was_told_counts(tmp_path: Path) -> None:
    answers = {
        "pusher": {"asked": {"images": [told(ENGINE, code="unreachable"), told(KEYSTORE, OLD)]}},
        "h-ms": {"asked": {"images": [told(ENGINE, NEW)]}},
    }
    wanted = {"engine": {"reference": ENGINE}, "keystore": {"reference": KEYSTORE}}
    entries, problems = image_lock.chosen(federation(tmp_path), wanted, answers, {})
    assert problems == []
    assert [(found["digest"], found["locked_from"]) for found in entries.values()] == [(NEW, "h-ms"), (OLD, "pusher")]


def test_all_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    answers = {"pusher": {"asked": {"images": [told(ENGINE), told(f"{KEYSTORE}@{NEW}", code="unreachable")]}}, "h-ms": {}}
    wanted = {"engine": {"reference": ENGINE}, "keystore": {"reference": KEYSTORE, "digest": NEW}}
    entries, problems = image_lock.chosen(federation(tmp_path), wanted, answers, {"keystore": False})
    assert entries == {} and [entry["code"] for entry in problems] == ["image-not-had"] * 2
    assert "not every node that needs it has it" in problems[1]["message"]
    kept, problems = image_lock.chosen(federation(tmp_path), wanted, answers, {"keystore": True})
    assert list(kept) == ["keystore"] and len(problems) == 1


def test_an_image_that_came_in_a_file_needs_no_registry(tmp_path: Path) -> None:
    entries, problems = image_lock.chosen(federation(tmp_path, *BOTH), {"engine": {"reference": ENGINE}}, {}, {})
    assert problems == [] and entries["engine"]["digest"] == OLD


def test_kept_means_on_all_nodes() -> None:
    def held(**there: bool) -> dict[str, Any]:
        return {"images_held": {"results": [{"item": {"name": name}, "there": value} for name, value in there.items()]}}

    assert images_kept({"a": held(engine=True, keystore=True), "b": held(engine=False), "c": {}}) == {"engine": False, "keystore": True}


def test_targets_name_everything_that_is_wrong_before_anything_is_begun(tmp_path: Path) -> None:
    write_inventory(tmp_path, f"mip_engine:\n  image: {ENGINE}\n  keystore_image: {KEYSTORE}\n")
    found = federation(tmp_path, *BOTH)
    _wanted, errors = release.targets(found, tmp_path, {"engine": "exareme", "portainer": "x:1", "keystore": "A:1"}, 0)
    assert len(errors) == 3 and "names no version" in "".join(errors) and "no such image" in "".join(errors)
    wanted, errors = release.targets(found, tmp_path, {"engine": "registry.example:5000/exareme:1.1"}, 0)
    assert errors == [] and wanted["engine"] == {"reference": "registry.example:5000/exareme:1.1"}
    assert wanted["keystore"]["digest"] == OLD


# --- the steps


def test_a_canary_then_one_by_one_then_keystore_and_master(tmp_path: Path) -> None:
    found = federation(tmp_path, *BOTH)
    steps = upgrade_steps(found, ["h-ms", "h-wk-a", "h-wk-b"])
    assert [step["services"][0]["name"] for step in steps] == [
        "h-wk-a_exareme", "h-wk-b_exareme", "h-ms_exareme-keystore", "h-ms_exareme-master",
    ]  # fmt: skip
    assert [step["canary"] for step in steps] == [True, False, False, False]
    other = upgrade_steps(found, ["h-ms", "h-wk-a", "h-wk-b"], "h-wk-b")
    assert [step["services"][0]["name"] for step in other][:2] == ["h-wk-b_exareme", "h-wk-a_exareme"]
    assert all(len(step["services"]) == 1 for step in steps)
    assert sorted(step["services"][0]["name"] for step in steps) == sorted(service["name"] for service in engine_services(found, []))


# --- records


def services(found: dict[str, Any], salt: str = "") -> list[dict[str, Any]]:
    return [
        {
            "name": service["name"],
            "node": service["node"],
            "image": service["image"],
            "action": "updated",
            "spec_sha256": service["image"] + salt,
        }
        for service in engine_services(found, [])
    ]


def test_a_release_is_written_when_something_differs(tmp_path: Path) -> None:
    found = federation(tmp_path, *BOTH)
    assert _releases.write(tmp_path, _releases.new(found, tmp_path, services(found), "deploy")) == (1, True)
    assert _releases.write(tmp_path, _releases.new(found, tmp_path, services(found), "deploy")) == (1, False)
    assert _releases.write(tmp_path, _releases.new(found, tmp_path, services(found, "x"), "deploy")) == (2, True)
    other = federation(tmp_path, entry("engine", ENGINE, NEW), BOTH[1])
    assert _releases.write(tmp_path, _releases.new(other, tmp_path, services(other), "upgrade")) == (3, True)
    assert _releases.numbers(tmp_path) == [1, 2, 3]
    record = _releases.load(tmp_path, 3)
    assert record["images"]["engine"] == {"reference": ENGINE, "digest": NEW, "size": 10, "manifest": NEW, "id": NEW}
    assert set(record["services"]) == {"h-ms_exareme-keystore", "h-ms_exareme-master", "h-wk-a_exareme", "h-wk-b_exareme"}
    assert {"at", "who", "collection", "commit", "made_by"} <= set(record)
    # Release 2 ran the same images as 1, so that going back from 3 leads to the newest of both.
    assert _releases.before(tmp_path) == 2


def test_a_node_that_is_gone_makes_no_release_and_one_that_comes_does(tmp_path: Path) -> None:
    found = federation(tmp_path, *BOTH)
    every = services(found)
    rest = [service for service in every if service["name"] != "h-wk-b_exareme"]
    assert _releases.write(tmp_path, _releases.new(found, tmp_path, rest, "deploy")) == (1, True)
    assert _releases.write(tmp_path, _releases.new(found, tmp_path, every, "deploy")) == (2, True)
    assert _releases.write(tmp_path, _releases.new(found, tmp_path, rest, "deploy")) == (2, False)
    # Nor does one that is set aside, or stopped on purpose, although its specification is another one.
    scaled = [{**service, "spec_sha256": "0"} if service["node"] == "h-wk-b" else service for service in every]
    aside = {**found, "disabled": [{"name": "h-wk-b"}]}
    assert _releases.write(tmp_path, _releases.new(aside, tmp_path, scaled, "deploy")) == (2, False)
    stopped = [{**service, "stopped_since": "2026-11-22T12:00:00Z"} if service["node"] == "h-wk-b" else service for service in scaled]
    assert _releases.write(tmp_path, _releases.new(found, tmp_path, stopped, "deploy")) == (2, False)
    assert _releases.write(tmp_path, _releases.new(found, tmp_path, scaled, "deploy")) == (3, True)


def test_without_a_lock_a_release_has_the_digests_that_the_swarm_found(tmp_path: Path) -> None:
    found = federation(tmp_path)
    running = [{**service, "image": f"{service['image']}@{OLD}"} for service in services(found)]
    images = _releases.new(found, tmp_path, running, "deploy")["images"]
    assert images == {"engine": {"reference": ENGINE, "digest": OLD}, "keystore": {"reference": KEYSTORE, "digest": OLD}}


def test_a_release_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(_releases.ReleaseError, match="there are: none"):
        _releases.load(tmp_path, 1)
    folder = tmp_path / _releases.FOLDER
    folder.mkdir(parents=True)
    (folder / "1.yml").write_text("images: [")
    with pytest.raises(_releases.ReleaseError, match=r"1\.yml"):
        _releases.load(tmp_path, 1)
    found = federation(tmp_path, *BOTH)
    assert _releases.write(tmp_path, _releases.new(found, tmp_path, services(found), "deploy")) == (2, True)
    assert _releases.before(tmp_path) == 0


# --- the inventory's variables


def write_inventory(folder: Path, text: str) -> Path:
    path = folder / "group_vars/all/main.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "# ours\nmip_engine:\n  image: {old}   # since May\n  keystore_image: k:1\nother: [1,\n  2]\n",
        "mip_engine: {{image: {old}, keystore_image: k:1}}  # short\n",
        'mip_engine:\n  keystore_image: k:1\n  image: "{old}"\n',
        "mip_engine:\n  image: '{old}'\n# end",
        "ä: ö\nmip_engine:\n  image:\n    {old}\n",
    ],
)
def test_only_the_image_changes_in_its_file(tmp_path: Path, text: str) -> None:
    path = write_inventory(tmp_path, text.format(old=ENGINE))
    found = _releases.place(tmp_path, "engine", ENGINE)
    assert found.value == ENGINE
    assert _releases.edit(tmp_path, {"engine": "registry.example:5000/exareme:1.1"})
    assert path.read_text() == text.format(old="registry.example:5000/exareme:1.1")
    assert yaml.safe_load(path.read_text())["mip_engine"]["image"] == "registry.example:5000/exareme:1.1"
    assert not _releases.edit(tmp_path, {"engine": "registry.example:5000/exareme:1.1"})


def test_also_in_the_variables_of_hosts_yml(tmp_path: Path) -> None:
    path = tmp_path / "hosts.yml"
    path.write_text(f"all:\n  vars:\n    mip_engine: {{image: {ENGINE}, keystore_image: k:1}}\n  children: {{}}\n")
    assert _releases.edit(tmp_path, {"engine": "x/y:2"})
    assert yaml.safe_load(path.read_text())["all"]["vars"]["mip_engine"] == {"image": "x/y:2", "keystore_image": "k:1"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mip_engine: {keystore_image: k:1}\n", "no file of"),
        ("mip_engine:\n  image: '{{ some.thing }}'\n", "sets it by a template"),
        ("mip_engine:\n  image: another:1\n", "remove what overrides it"),
    ],
)
def test_a_place_that_cannot_be_edited_is_told_beforehand(tmp_path: Path, text: str, said: str) -> None:
    write_inventory(tmp_path, text)
    with pytest.raises(_releases.ReleaseError, match=said):
        _releases.place(tmp_path, "engine", ENGINE)


def test_two_places_are_told_with_their_lines(tmp_path: Path) -> None:
    write_inventory(tmp_path, f"mip_engine:\n  image: {ENGINE}\n")
    (tmp_path / "group_vars/workers.yml").write_text(f"mip_engine:\n  image: {ENGINE}\n")
    with pytest.raises(_releases.ReleaseError, match=r"main\.yml:2, .*workers\.yml:2"):
        _releases.place(tmp_path, "engine", ENGINE)


def test_a_vault_is_not_looked_into(tmp_path: Path) -> None:
    write_inventory(tmp_path, f"mip_engine:\n  image: {ENGINE}\n")
    (tmp_path / "group_vars/all/vault.yml").write_text("$ANSIBLE_VAULT;1.1;AES256\n6162\n")
    assert _releases.place(tmp_path, "engine", ENGINE).line == 2


def test_while_it_is_settled_the_lock_always_knows_what_the_inventory_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_inventory(tmp_path, f"mip_engine:\n  image: {ENGINE}\n  keystore_image: {KEYSTORE}\n")
    found = federation(tmp_path, *BOTH)
    target = {"engine": entry("engine", "registry.example:5000/exareme:1.1", NEW), "keystore": BOTH[1]}
    seen = []
    write = _images.write

    def watched(file: Path, text: str) -> bool:
        changed = write(file, text)
        named = set(yaml.safe_load(path.read_text())["mip_engine"].values())
        seen.append(named <= {known["reference"] for known in _images.read(tmp_path) or ()})
        return changed

    monkeypatch.setattr(_images, "write", watched)
    assert release.ActionModule._settle(found, tmp_path, target)
    assert len(seen) == 3 and all(seen)
    assert yaml.safe_load(path.read_text())["mip_engine"]["image"] == "registry.example:5000/exareme:1.1"
    assert [(known["reference"], known["digest"]) for known in _images.read(tmp_path) or ()] == [
        ("registry.example:5000/exareme:1.1", NEW),
        (KEYSTORE, OLD),
    ]
