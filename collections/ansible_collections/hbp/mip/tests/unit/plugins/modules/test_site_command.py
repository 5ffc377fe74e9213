# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hospital's own command is written where it differs, and says so in the host's journal."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _files, _site
from ansible_collections.hbp.mip.tests.unit.plugins.modules.module_process import COLLECTION, COLLECTIONS
from ansible_collections.hbp.mip.tests.unit.plugins.modules.test_host_modules_pythons import VERSIONS, interpreter

PROGRAM = COLLECTION / "roles/site/files/mip-site"
CONFIG = json.dumps({"federation": "hosp", "node": "wk3", "peers": []}, indent=1) + "\n"
OTHER = CONFIG.replace("wk3", "wk4")
ANSIBLE = shutil.which("ansible-playbook", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])) or ""
WHO = "mipfed deploy by alice on pusher"
#: Runs the module as Ansible does, with a folder of the test before the paths, which are no options.
START = (
    "import os; import ansible.module_utils.basic as basic; basic._ANSIBLE_PROFILE = 'legacy'; "
    "from ansible_collections.hbp.mip.plugins.module_utils import _site; "
    "_site.COMMAND, _site.CONFIG = (os.environ['MIP_TEST_ROOT'] + path for path in (_site.COMMAND, _site.CONFIG)); "
    "from ansible_collections.hbp.mip.plugins.modules import site_command; site_command.main()"
)


class Host:
    """The host, as a folder; its command only notes what it is asked to write into the journal."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.command = root / "usr/local/sbin/mip-site"
        self.config = root / "etc/mip/site.json"
        self.notes = root / "notes"
        self.program = f'#!/bin/sh\nprintf "%s|" "$@" >> {self.notes}\necho >> {self.notes}\n'

    def run(self, check: bool = False, python: str = sys.executable, **arguments: Any) -> dict[str, Any]:
        import ansible

        payload = {"ANSIBLE_MODULE_ARGS": {"who": WHO, **arguments, "_ansible_check_mode": check, "_ansible_diff": True}}
        path = [str(COLLECTIONS)] if python == sys.executable else [str(COLLECTIONS), str(Path(ansible.__file__).parents[1])]
        done = subprocess.run(
            [python, "-c", START],
            input=json.dumps(payload),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1", "MIP_TEST_ROOT": str(self.root)},
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        assert lines, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(lines[-1])
        return found

    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def files(self) -> dict[str, tuple[int, bytes]]:
        """What lies below the folder, with modes."""
        return {
            str(path.relative_to(self.root)): (path.stat().st_mode & 0o7777, path.read_bytes() if path.is_file() else b"")
            for path in self.root.rglob("*")
            if path != self.notes
        }


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def entry(what: str) -> str:
    return f"record|--what|{what}|--who|{WHO}|--text|the command mip-site and the list of the other nodes were written|"


def test_a_host_is_set_up(host: Host) -> None:
    planned = host.run(check=True, command=host.program, config=CONFIG)
    assert planned["changed"] and planned["recorded"] == "setup" and not host.files() and not host.noted()
    done = host.run(command=host.program, config=CONFIG)
    assert {key: done[key] for key in ("changed", "written", "recorded", "diff")} == {
        key: planned[key] for key in ("changed", "written", "recorded", "diff")
    }
    assert done["written"] == [str(host.command), str(host.config.parent), str(host.config)]
    assert host.command.read_text() == host.program and host.command.stat().st_mode & 0o7777 == 0o755
    assert host.config.read_text() == CONFIG and host.config.stat().st_mode & 0o7777 == 0o644
    assert host.config.parent.stat().st_mode & 0o7777 == 0o755
    assert sorted(os.listdir(host.command.parent)) == ["mip-site"] and os.listdir(host.config.parent) == ["site.json"]
    assert host.noted() == [entry("setup")]
    before = host.files()
    again = host.run(command=host.program, config=CONFIG)
    assert not again["changed"] and again["written"] == [] and again["recorded"] == "" and "diff" not in again
    assert host.files() == before and host.noted() == [entry("setup")]


def test_only_the_configuration_changes(host: Host) -> None:
    host.run(command=host.program, config=CONFIG)
    program = host.command.stat()
    planned = host.run(check=True, config=OTHER)
    assert planned["changed"] and planned["recorded"] == "deploy" and host.config.read_text() == CONFIG
    done = host.run(config=OTHER)
    assert done["written"] == [str(host.config)] and host.config.read_text() == OTHER
    assert [(part["before"], part["after"], part["before_header"]) for part in done["diff"]] == [(CONFIG, OTHER, str(host.config))]
    assert (host.command.stat().st_ino, host.command.stat().st_mtime_ns) == (program.st_ino, program.st_mtime_ns)
    assert host.noted() == [entry("setup"), entry("deploy")]


def test_only_the_program_changes(host: Host) -> None:
    host.run(command=host.program, config=CONFIG)
    newer = host.program + "# newer\n"
    done = host.run(command=newer, config=CONFIG)
    assert done["written"] == [str(host.command)] and host.command.read_text() == newer
    # Of the program there are sums: a thousand lines would hide the rest.
    assert "SHA-256" in done["diff"][0]["before"] and done["diff"][0]["before"] != done["diff"][0]["after"]
    assert "printf" not in json.dumps(done["diff"]) and host.noted() == [entry("setup"), entry("deploy")]


def test_mode_and_owner_are_repaired(host: Host) -> None:
    host.run(command=host.program, config=CONFIG)
    host.command.chmod(0o644)
    host.config.chmod(0o666)
    host.config.parent.chmod(0o777)
    mine = os.geteuid() == 0
    if mine:
        os.chown(host.config, 1234, 1234)
    before = host.files()
    planned = host.run(check=True, command=host.program, config=CONFIG)
    assert planned["changed"] and host.files() == before
    done = host.run(command=host.program, config=CONFIG)
    assert done["diff"] == planned["diff"] and len(done["written"]) == 3
    assert done["diff"][2]["before"].startswith(f"mode 0666, owner {'1234:1234' if mine else ''}")
    assert done["diff"][2]["after"].startswith(f"mode 0644, owner {'0:0' if mine else ''}")
    assert [path.stat().st_mode & 0o7777 for path in (host.command, host.config, host.config.parent)] == [0o755, 0o644, 0o755]
    assert host.config.stat().st_uid == os.geteuid() and not host.run(command=host.program, config=CONFIG)["changed"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to a group that is not its own")
def test_the_group_of_the_folder_is_not_taken_over(host: Host) -> None:
    # Debian's /usr/local belongs to the group staff, and gives it to what is made there.
    host.command.parent.mkdir(parents=True)
    os.chown(host.command.parent, 0, 50)
    host.command.parent.chmod(0o2775)
    host.run(command=host.program, config=CONFIG)
    assert host.command.stat().st_gid == 0 and not host.run(command=host.program, config=CONFIG)["changed"]


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_run_that_was_cut_off_is_repaired(host: Host, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_site, "COMMAND", str(host.command))
    monkeypatch.setattr(_site, "CONFIG", str(host.config))
    _site.write(_site.compare(host.program, CONFIG)[:after])
    assert not host.config.exists()
    done = host.run(command=host.program, config=CONFIG)
    # Also the journal says what was meant: as long as there is no configuration, the host is not set up.
    assert done["changed"] and done["recorded"] == "setup" and host.noted() == [entry("setup")]
    assert not host.run(command=host.program, config=CONFIG)["changed"]


def test_a_link_is_replaced_and_not_followed(host: Host) -> None:
    elsewhere = host.root / "elsewhere"
    elsewhere.write_text(host.program)
    elsewhere.chmod(0o600)
    host.command.parent.mkdir(parents=True)
    host.command.symlink_to(elsewhere)
    assert host.run(command=host.program, config=CONFIG)["changed"]
    assert not host.command.is_symlink() and elsewhere.stat().st_mode & 0o7777 == 0o600
    assert not host.run(command=host.program, config=CONFIG)["changed"]


def test_a_linked_folder_stays(host: Host) -> None:
    (host.root / "big").mkdir(mode=0o755)
    (host.root / "etc").mkdir()
    host.config.parent.symlink_to(host.root / "big")
    assert host.run(command=host.program, config=CONFIG)["changed"]
    assert host.config.parent.is_symlink() and (host.root / "big/site.json").read_text() == CONFIG


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"command": "print(1)\n", "config": CONFIG}, "does not begin with #!"),
        ({"command": "#!/bin/sh\n", "config": "{'federation': 'hosp'}"}, "config: the text is no JSON that mip-site can read"),
        ({"command": "#!/bin/sh\n", "config": "[]"}, "it is no object"),
        ({"config": CONFIG}, "is not installed, and no command was given"),
    ],
)
def test_what_cannot_work_changes_nothing(host: Host, arguments: dict[str, str], words: str) -> None:
    for check in (True, False):
        done = host.run(check=check, **arguments)
        assert done["failed"] and done["mip_error"] == "site-command" and not done["changed"]
        assert words in done["msg"] and "Nothing was changed" in done["msg"] and not host.files()


@pytest.mark.parametrize("name", ["command", "config"])
def test_a_folder_in_the_way_changes_nothing(host: Host, name: str) -> None:
    path: Path = getattr(host, name)
    path.mkdir(parents=True)
    before = host.files()
    done = host.run(command=host.program, config=CONFIG)
    assert done["failed"] and f"{path} is no file" in done["msg"] and done["next"] == f"ls -ld {path}"
    assert host.files() == before


def test_a_file_in_the_way_of_the_folder(host: Host) -> None:
    host.config.parent.parent.mkdir(parents=True)
    host.config.parent.write_text("")
    done = host.run(command=host.program, config=CONFIG)
    assert done["failed"] and str(host.config.parent) in done["msg"] and not host.command.exists()


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("#!/bin/sh\necho first\necho 'the journal: No space left on device'\nexit 1\n", "No space left on device"),
        ("#!/bin/sh\nexit 3\n", "exit code 3"),
        ("#!/no/such/interpreter\n", "No such file"),
    ],
)
def test_an_entry_that_cannot_be_written(host: Host, program: str, reason: str) -> None:
    done = host.run(command=program, config=CONFIG)
    assert done["failed"] and done["changed"] and reason in done["msg"] and "Only the entry is missing" in done["msg"]
    assert done["next"].startswith(f"sudo {host.command} record --what setup --who 'mipfed deploy by alice on pusher' --text")
    assert host.config.read_text() == CONFIG


@pytest.fixture
def real(host: Host) -> Iterator[str]:
    """The program itself, working below the host's folder."""
    text = PROGRAM.read_text()
    assert text.count('\nROOT = ""') == 1
    yield f"#!{sys.executable}\n" + text.replace('\nROOT = ""', f'\nROOT = "{host.root}"')
    # the program makes its journal append-only where it can
    subprocess.run(["chattr", "-a", str(host.root / "var/log/mip/journal.jsonl")], capture_output=True, check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="mip-site needs root")
def test_the_program_itself_keeps_the_journal(host: Host, real: str) -> None:
    assert host.run(command=real, config=CONFIG)["changed"] and host.run(config=OTHER)["changed"]
    assert not host.run(command=real, config=OTHER)["changed"]
    entries = [json.loads(line) for line in (host.root / "var/log/mip/journal.jsonl").read_text().splitlines()]
    assert [(found["n"], found["what"], found["who"], found["text"]) for found in entries] == [
        (1, "setup", WHO, _site.WRITTEN),
        (2, "deploy", WHO, _site.WRITTEN),
    ]
    verified = subprocess.run([str(host.command), "verify"], capture_output=True, text=True, check=True)
    assert "2 entries, complete and unchanged" in verified.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_with_the_pythons_of_the_hosts(host: Host, version: str) -> None:
    python = interpreter(version)
    if not python:
        pytest.skip(f"no Python {version} on this machine")
    assert host.run(python=python, command=host.program, config=CONFIG)["recorded"] == "setup"
    assert not host.run(python=python, command=host.program, config=CONFIG)["changed"]


def test_a_file_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    _files.replace(str(path), b"old", 0o640)
    assert path.stat().st_mode & 0o7777 == 0o640

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        _files.replace(str(path), b"new", 0o644)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


FEDERATION = {
    "name": "hosp",
    "nodes": [{"name": "ms", "kind": "master", "address": "192.0.2.1"}, {"name": "wk3", "kind": "worker", "address": "192.0.2.4"}],
    "swarm": {"data_path_port": 4789},
    "data_dir": "/data/mip",
    "account": {"name": "mip"},
}


@pytest.mark.skipif(os.geteuid() != 0 or not ANSIBLE, reason="mip-site needs root")
def test_the_role_needs_one_task(host: Host) -> None:
    """A copy of the collection works below a folder, so that the role runs as it is; what it writes has the sums that it looks for."""
    collection = host.root / "collections/ansible_collections/hbp/mip"
    for part in ("meta", "plugins", "roles/site"):
        shutil.copytree(COLLECTION / part, collection / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(COLLECTION / "galaxy.yml", collection)
    below = {
        "plugins/module_utils/_site.py": [('COMMAND = "', f'COMMAND = "{host.root}'), ('CONFIG = "', f'CONFIG = "{host.root}')],
        "roles/site/files/mip-site": [('ROOT = ""', f'ROOT = "{host.root}"'), ("PROTECT = True", "PROTECT = False")],
    }
    for name, changes in below.items():
        text = (collection / name).read_text()
        for old, new in changes:
            assert text.count(f"\n{old}") == 1
            text = text.replace(f"\n{old}", f"\n{new}")
        (collection / name).write_text(text)
    role = {
        "ansible.builtin.import_role": {"name": "hbp.mip.site", "rolespec_validate": False},
        "vars": {"site_federation": FEDERATION, "site_found": {"command_sha256": "{{ command }}", "config_sha256": "{{ config }}"}},
        "when": "site_differs",
    }
    (host.root / "play.yml").write_text(json.dumps([{"hosts": "wk3", "gather_facts": False, "tasks": [role]}]))

    def play() -> str:
        found = [f"{name}={hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ''}" for name, path in files.items()]
        variables = [*found, f"ansible_python_interpreter={sys.executable}", "ansible_connection=local"]
        done = subprocess.run(
            [ANSIBLE, "-i", "wk3,", "play.yml", *(word for item in variables for word in ("-e", item))],
            cwd=host.root,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(host.root / "collections"), "MIPFED_COMMAND": "mipfed deploy"},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip().splitlines()[-1]

    files = {"command": host.command, "config": host.config}
    assert "ok=1    changed=1" in play()
    assert host.command.read_text() == "#!/usr/bin/python3\n" + (collection / "roles/site/files/mip-site").read_text()
    assert json.loads(host.config.read_text())["peers"] == [{"address": "192.0.2.1", "name": "ms"}]
    # The sums are those that the role compares with: nothing is sent, and nobody is asked.
    assert "changed=0" in (told := play()) and "skipped=1" in told
    host.config.write_text("{}\n")
    assert "ok=1    changed=1" in play()
    entries = [json.loads(line) for line in (host.root / "var/log/mip/journal.jsonl").read_text().splitlines()]
    assert [found["what"] for found in entries] == ["setup", "deploy"] and entries[0]["who"].startswith("mipfed deploy by ")
