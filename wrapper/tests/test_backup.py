# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands about backups: sets are real, playbooks only tell that they would have run."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.plugin_utils import _backup_set
from ansible_collections.hbp.mip.plugins.plugin_utils._age import Identity
from mipfed.exitcodes import ExitCode

from .conftest import MAIN_YML, Project

SECRET = b"the raft log in clear"
#: Tells which variables it got; a test that expects nothing to be touched looks for its mark.
PLAYBOOK = """\
- hosts: pusher
  gather_facts: false
  tasks:
    - ansible.builtin.copy:
        content: "{{ {'file': restore_file, 'identity': restore_identity, 'replace': restore_replace} | to_json }}"
        dest: "{{ inventory_dir }}/touched"
        mode: "0600"
    - hbp.mip.report:
        verb: restore
        federation: {name: fed}
        data:
          {node: fed-ms, manifest: {cluster_id: c1, created: now}, failed: {}, keystore: {}, rotated: true,
           state: {changed: true, aside: /aside}}
"""


class Backups:
    """A federation with a key and backups."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.key = project.root / "backup.key"
        made = project.run("-o", "json", "backup", "key", str(self.key))
        assert made.code == 0, made.err
        self.recipient = made.document["result"]["recipient"]
        self.inventory = project.federation(main=f"{MAIN_YML}mip_backup: {{recipients: [{self.recipient}]}}\n")
        self.folder = self.inventory / "backups"

    def make(self, federation: str = "fed", address: str = "127.0.9.2", node: str = "fed-ms", *, portal: bool = False) -> Path:
        """A set of the federation's master."""
        targets = _backup_set.recipients([self.recipient])
        begun = _backup_set.begin(self.folder, federation)
        source = self.project.root / "state.json"
        source.write_bytes(SECRET)
        for kind, name in (("swarm", "certificates/key"), ("inventory", "group_vars/all/vault.yml")):
            with _backup_set.Part(begun, f"{kind}.tar.gz", targets, {"kind": kind, "node": node}) as part:
                part.about["files"] = _backup_set.pack([(name, source)], part.write)
            part.describe()
        if portal:
            with _backup_set.Part(begun, "portal.dump", targets, {"kind": "portal", "node": "fed-ui"}) as part:
                part.write(SECRET)
            part.describe()
        header = {"federation": federation, "created": "2026-11-22T10:00:00Z", "cluster_id": "c1", "missing": []}
        facts: dict[str, Any] = {
            "swarm": {"node": node, "node_addr": address, "engine_version": "20.10.24", "managers": 1},
            "nodes": [{"name": node, "address": address}],
        }
        return _backup_set.seal(begun, header, facts, targets)


@pytest.fixture
def backups(project: Project) -> Backups:
    """A federation with a key."""
    project.playbook("restore", PLAYBOOK)
    return Backups(project)


def test_a_key_is_private_told_once_and_never_replaced(project: Project) -> None:
    path = project.root / "k"
    made = project.run("backup", "key", str(path))
    assert made.code == 0 and "age1" in made.out
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "AGE-SECRET-KEY" in path.read_text() and "AGE-SECRET-KEY" not in made.out + made.err
    again = project.run("backup", "key", str(path))
    assert again.code == ExitCode.USAGE and "never replaced" in again.err


def test_create_needs_somebody_who_can_open_it(project: Project) -> None:
    project.federation()
    done = project.run("-f", "fed", "-o", "json", "backup", "create", "-y")
    assert done.code == ExitCode.CONFIGURATION
    error = done.document["errors"][0]
    assert "recipients is empty" in error["message"]
    assert "backup key" in json.dumps(done.document)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("{recipients: [age1nonsense]}", "recipients: entry 1"),
        ("{keep: 0}", "keep: 0"),
        ("{dir: backups}", "not an absolute path"),
        ("{recipient: []}", "did you mean recipients"),
    ],
)
def test_settings_that_cannot_be(project: Project, value: str, why: str) -> None:
    project.federation(main=f"{MAIN_YML}mip_backup: {value}\n")
    done = project.run("-f", "fed", "config", "show")
    assert done.code == ExitCode.CONFIGURATION and why in done.err


def test_a_secret_key_in_place_of_the_recipient_is_not_repeated(project: Project) -> None:
    secret = Identity.generate().secret()
    project.federation(main=f"{MAIN_YML}mip_backup: {{recipients: [{secret}]}}\n")
    done = project.run("-f", "fed", "config", "show")
    assert done.code == ExitCode.CONFIGURATION and "secret key" in done.err
    assert secret not in done.out + done.err


def test_ls_and_verify(backups: Backups) -> None:
    run = backups.project.run
    assert run("-f", "fed", "-o", "json", "backup", "ls").document["result"]["sets"] == []
    path = backups.make()
    backups.make("other")
    listed = run("-f", "fed", "-o", "json", "backup", "ls").document["result"]["sets"]
    assert [(entry["file"], entry["cluster_id"], entry["verified"]) for entry in listed] == [(str(path), "c1", None)]
    assert "never" in run("-f", "fed", "backup", "ls").out
    done = run("-f", "fed", "-o", "json", "backup", "verify", str(path), "--identity", str(backups.key))
    assert done.code == 0 and done.document["result"]["ok"] is True
    assert SECRET.decode() not in done.out + done.err
    assert run("-f", "fed", "-o", "json", "backup", "ls").document["result"]["sets"][0]["verified"]["ok"] is True

    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    damaged = run("-f", "fed", "-o", "json", "backup", "verify", str(path), "--identity", str(backups.key))
    assert damaged.code == ExitCode.CHECK and damaged.document["errors"][0]["code"] == "backup-damaged"
    assert "damaged" in run("-f", "fed", "backup", "ls").out


def test_verify_with_keys_that_do_not_fit(backups: Backups) -> None:
    run, path = backups.project.run, backups.make()
    none = run("-f", "fed", "backup", "verify", str(path))
    assert none.code == ExitCode.USAGE and "--identity" in none.err
    other = backups.project.root / "other.key"
    run("backup", "key", str(other))
    wrong = run("-f", "fed", "backup", "verify", str(path), "--identity", str(other))
    assert wrong.code == ExitCode.CHECK and "none of the given keys" in wrong.err
    absent = run("-f", "fed", "backup", "verify", str(path), "--identity", "/absent")
    assert absent.code == ExitCode.CONFIGURATION
    foreign = run("-f", "fed", "backup", "verify", str(backups.make("other")), "--identity", str(backups.key))
    assert foreign.code == ExitCode.CHECK and "backup of other" in foreign.err


def test_a_key_that_the_vault_encrypts(backups: Backups) -> None:
    password = backups.project.root / "password"
    password.write_text("pw")
    vault = Path(sys.executable).parent / "ansible-vault"
    subprocess.run([str(vault), "encrypt", "--vault-password-file", str(password), str(backups.key)], check=True, capture_output=True)
    assert b"AGE-SECRET" not in backups.key.read_bytes()
    backups.project.environment["MIPFED_VAULT_PASSWORD_FILE"] = str(password)
    backups.project.environment["MIPFED_BACKUP_IDENTITY"] = str(backups.key)
    done = backups.project.run("-f", "fed", "backup", "verify", str(backups.make()))
    assert done.code == 0, done.err
    assert b"AGE-SECRET" not in backups.key.read_bytes()


def test_extract(backups: Backups, tmp_path: Path) -> None:
    target = tmp_path / "out"
    arguments = ("-f", "fed", "backup", "extract", str(backups.make()), "--identity", str(backups.key), "--to", str(target))
    done = backups.project.run(*arguments)
    assert done.code == 0, done.err
    assert (target / "inventory/group_vars/all/vault.yml").read_bytes() == SECRET
    assert stat.S_IMODE(target.stat().st_mode) == 0o700 and stat.S_IMODE((target / "swarm.tar.gz").stat().st_mode) == 0o600
    assert backups.project.run(*arguments).code == ExitCode.USAGE
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")] == []


def restore(backups: Backups, path: Path, *more: str) -> Any:
    """Run restore."""
    return backups.project.run("-f", "fed", "restore", str(path), "--identity", str(backups.key), *more)


def test_restore_asks_for_the_name_and_passes_on_what_it_was_given(backups: Backups) -> None:
    path = backups.make()
    for more in ((), ("-y",), ("--confirm", "lab")):
        done = restore(backups, path, *more)
        assert done.code == ExitCode.DECLINED, done.err
        assert not (backups.inventory / "touched").exists()
    done = restore(backups, path, "--confirm", "fed", "--replace")
    assert done.code == 0, done.err
    assert "fed-ms is a manager of c1 again" in done.out and "/aside" in done.out
    given = json.loads((backups.inventory / "touched").read_text())
    assert given == {"file": str(path), "identity": str(backups.key), "replace": True}


def test_restore_touches_nothing_when_the_backup_does_not_fit(backups: Backups) -> None:
    cut = backups.make()
    cut.write_bytes(cut.read_bytes()[:-12_000])
    foreign = backups.make("other")
    moved = backups.make(address="127.0.9.77")
    gone = backups.make(node="fed-gone")
    for path, why in ((cut, "cut off"), (foreign, "of other"), (moved, "cannot change its address"), (gone, "not in the inventory")):
        done = restore(backups, path, "--confirm", "fed")
        assert done.code == ExitCode.CHECK and why in done.err, done.err
        assert "Nothing was touched" in done.err
    assert not (backups.inventory / "touched").exists()
    assert not backups.project.runs()


def test_the_portals_database_is_restored_when_that_is_confirmed(backups: Backups) -> None:
    """From a backup that has it; what came of it is told."""
    project = backups.project
    variables = "{'file': restore_file, 'identity': restore_identity, 'force': restore_force}"
    project.playbook(
        "ui_restore",
        f"""\
- hosts: pusher
  gather_facts: false
  tasks:
    - ansible.builtin.copy:
        content: "{{{{ {variables} | to_json }}}}"
        dest: "{{{{ inventory_dir }}}}/touched"
        mode: "0600"
    - hbp.mip.report:
        verb: portal_restore
        federation: {{name: fed}}
        data:
          set: "{{{{ restore_file }}}}"
          created: then
          members: [fed-ui]
          nodes: {{fed-ui: {{database: {{changed: true, kept: portal_before_x}}, portal: {{changed: true}}}}}}
""",
    )

    def run(path: Path, *more: str) -> Any:
        return project.run("-f", "fed", "ui", "restore", str(path), "--identity", str(backups.key), *more)

    without = run(backups.make(), "-y")
    assert without.code == ExitCode.CHECK and "no database of a portal" in without.err, without.err
    path = backups.make(portal=True)
    assert run(path).code == ExitCode.DECLINED
    assert not (backups.inventory / "touched").exists()
    done = run(path, "-y", "--force")
    assert done.code == 0, done.err
    assert "the one of before is called portal_before_x" in done.out
    assert json.loads((backups.inventory / "touched").read_text()) == {"file": str(path), "identity": str(backups.key), "force": True}


def test_recover_acts_only_on_the_name(project: Project) -> None:
    folder = project.federation()
    project.playbook(
        "recover",
        """\
- hosts: pusher
  gather_facts: false
  tasks:
    - ansible.builtin.copy:
        content: "{{ recovery_plan | default('-') }} {{ recovery_confirm | default('-') }}\\n"
        dest: "{{ inventory_dir }}/asked"
        mode: "0600"
    - hbp.mip.report:
        verb: recover
        stop: false
        federation: {name: fed, nodes: [{name: fed-ms, kind: master, manager: true}]}
        data:
          nodes: {fed-ms: {found: {finding: no-quorum, message: lost, local_state: no-quorum, node: {}}}}
          recorded: {cluster_id: c1}
          sets: []
""",
    )
    # A sole manager without quorum and a valid certificate is nothing that forcing helps.
    alone = project.run("-f", "fed", "-o", "json", "recover", "--confirm", "fed")
    assert alone.code == ExitCode.CHECK and alone.document["result"]["steps"] == []
    text = (project.collections / "ansible_collections/hbp/mip/playbooks/recover.yml").read_text()
    project.playbook("recover", text.replace("finding: no-quorum", "finding: certificate-expired"))
    for more in ((), ("-y",)):
        done = project.run("-f", "fed", "-o", "json", "recover", *more)
        assert done.code == ExitCode.CHECK
        assert done.document["result"]["steps"][0]["treatment"] == "force_new_cluster"
        assert "--confirm fed" in json.dumps(done.document)
        assert (folder / "asked").read_text().strip() == "- -"
    wrong = project.run("-f", "fed", "recover", "--confirm", "lab")
    assert wrong.code == ExitCode.DECLINED and (folder / "asked").read_text().strip() == "- -"
    project.run("-f", "fed", "recover", "--confirm", "fed")
    assert (folder / "asked").read_text().split() == [done.document["result"]["plan"], "fed"]
