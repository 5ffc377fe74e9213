# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the vault password comes from, and `mipfed vault edit` and `rekey`, with Ansible's own vaults."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from mipfed.exitcodes import ExitCode

from .conftest import MAIN_YML, Project
from .test_secrets import encrypt

OLD, NEW = "old 'password\" $x", "new-password"
SECRET, INLINE = "the-secret", "the-inline-secret"

BACKEND = """\
import keyring.backend

class Keyring(keyring.backend.KeyringBackend):
    priority = 1
    def get_password(self, service, username):
        return {("mip", "fed"): "old 'password\\" $x"}.get((service, username))
    def set_password(self, service, username, password):
        raise NotImplementedError
    def delete_password(self, service, username):
        raise NotImplementedError
"""


@pytest.fixture
def vaulted(project: Project) -> Path:
    """A federation with an encrypted file and an encrypted value."""
    folder = project.federation(main=MAIN_YML + f"token_inline: {encrypt(INLINE, OLD, inline=True)}")
    (folder / "group_vars" / "all" / "vault.yml").write_text(encrypt(f"token_file: {SECRET}\n", OLD), encoding="utf-8")
    return folder


def password(project: Project, name: str, text: str) -> str:
    """Write a password file and return its path."""
    path = project.root / name
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return str(path)


def seen(project: Project, file: str) -> str:
    """Return the federation's two secrets as Ansible itself reads them."""
    program = str(Path(sys.executable).parent / "ansible")
    inventory = str(project.root / "inventories" / "fed" / "hosts.yml")
    words = [
        program,
        "-i",
        inventory,
        "fed-ms",
        "--vault-password-file",
        file,
        "-m",
        "debug",
        "-a",
        "msg={{ token_file }}+{{ token_inline }}",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=project.root)
    return done.stdout + done.stderr


def test_rekey(project: Project, vaulted: Path) -> None:
    old, new = password(project, "old", OLD), password(project, "new", NEW)
    done = project.run("vault", "rekey", "--vault-password-file", old, "--new-vault-password-file", new, "-o", "json")
    assert done.code == ExitCode.OK, done.out
    assert len(done.document["result"]["changed"]) == 2
    assert f"{SECRET}+{INLINE}" in seen(project, new)
    assert SECRET not in seen(project, old)
    assert "image: " in (vaulted / "group_vars" / "all" / "main.yml").read_text(encoding="utf-8")
    again = project.run("vault", "rekey", "--vault-password-file", old, "--new-vault-password-file", new)
    assert (again.code, again.out.strip()) == (ExitCode.OK, "Everything has the new password already.")


def test_rekey_completes_one_that_was_killed(project: Project, vaulted: Path) -> None:
    (vaulted / "group_vars" / "all" / "vault.yml").write_text(encrypt(f"token_file: {SECRET}\n", NEW), encoding="utf-8")
    old, new = password(project, "old", OLD), password(project, "new", NEW)
    done = project.run("vault", "rekey", "--vault-password-file", old, "--new-vault-password-file", new, "-o", "json")
    assert [Path(name).name for name in done.document["result"]["changed"]] == ["main.yml"]
    assert f"{SECRET}+{INLINE}" in seen(project, new)


def test_rekey_with_a_wrong_password_writes_nothing(project: Project, vaulted: Path) -> None:
    before = {path: path.read_bytes() for path in vaulted.rglob("*") if path.is_file()}
    wrong, new = password(project, "wrong", "no"), password(project, "new", NEW)
    done = project.run("vault", "rekey", "--vault-password-file", wrong, "--new-vault-password-file", new)
    assert done.code == ExitCode.CONFIGURATION
    assert "cannot be decrypted" in done.err
    assert {path: path.read_bytes() for path in vaulted.rglob("*") if path.is_file()} == before


def edited(project: Project, script: str, *options: str, answers: tuple[str, ...] = ()) -> tuple[int | None, str]:
    """Run `vault edit` with a shell script as the editor; return the exit code and what was shown."""
    editor = project.root / "editor"
    editor.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    editor.chmod(0o700)
    argv, environment = project.command("-f", "fed", "vault", "edit", *options)
    environment |= {"EDITOR": str(editor), "LC_ALL": "C.UTF-8"}
    environment.pop("VISUAL", None)
    child = pexpect.spawn(argv[0], argv[1:], cwd=str(project.root), env=environment, dimensions=(24, 200), timeout=120, encoding="utf-8")
    try:
        for answer in answers:
            child.expect_exact(": ")
            child.waitnoecho(timeout=60)
            child.sendline(answer)
        child.expect(pexpect.EOF)
    finally:
        child.close()
    return child.exitstatus, str(child.before)


def test_edit(project: Project, vaulted: Path) -> None:
    old = password(project, "old", OLD)
    vault = vaulted / "group_vars" / "all" / "vault.yml"
    look = f'cp "$1" {project.root}/seen; stat -c %a:%n "$1" > {project.root}/where'
    code, shown = edited(project, f'{look}; sed -i s/the-secret/another-one/ "$1"', "--vault-password-file", old)
    assert code == ExitCode.OK, shown
    assert (project.root / "seen").read_text(encoding="utf-8") == f"token_file: {SECRET}\n"
    mode, _colon, path = (project.root / "where").read_text(encoding="utf-8").strip().partition(":")
    assert mode == "600"
    assert not Path(path).parent.exists()
    assert vault.read_bytes().startswith(b"$ANSIBLE_VAULT;")
    assert f"another-one+{INLINE}" in seen(project, old)
    before = vault.read_bytes()
    code, shown = edited(project, "true", "--vault-password-file", old)
    assert (code, vault.read_bytes()) == (ExitCode.OK, before)
    code, shown = edited(project, 'echo "a: [" > "$1"', "--vault-password-file", old)
    assert (code, vault.read_bytes()) == (ExitCode.CONFIGURATION, before)
    assert "is no YAML" in shown
    code, shown = edited(project, "exit 3", "--vault-password-file", old)
    assert (code, vault.read_bytes()) == (ExitCode.DECLINED, before)


def test_edit_makes_the_first_vault(project: Project) -> None:
    folder = project.federation(main=MAIN_YML + "token_inline: x\n")
    code, shown = edited(project, f'echo "token_file: {SECRET}" >> "$1"', answers=(NEW, NEW))
    assert code == ExitCode.OK, shown
    vault = folder / "group_vars" / "all" / "vault.yml"
    assert vault.stat().st_mode & 0o777 == 0o600
    assert f"{SECRET}+x" in seen(project, password(project, "new", NEW))


def test_a_new_file_gets_the_password_of_the_others(project: Project, vaulted: Path) -> None:
    wrong = password(project, "wrong", "no")
    code, shown = edited(project, 'echo "a: b" >> "$1"', "host_vars/fed-ms/vault.yml", "--vault-password-file", wrong)
    assert code == ExitCode.CONFIGURATION, shown
    assert not (vaulted / "host_vars").exists()


def test_password_from_the_keyring(project: Project, vaulted: Path) -> None:
    pytest.importorskip("keyring")
    (project.root / "mine.py").write_text(BACKEND, encoding="utf-8")
    project.environment |= {"PYTHONPATH": str(project.root), "PYTHON_KEYRING_BACKEND": "mine.Keyring", "MIPFED_VAULT_KEYRING": "mip"}
    new = password(project, "new", NEW)
    done = project.run("vault", "rekey", "--new-vault-password-file", new, "-o", "json")
    assert done.code == ExitCode.OK, done.out
    assert f"{SECRET}+{INLINE}" in seen(project, new)
    project.environment["MIPFED_VAULT_KEYRING"] = "other"
    done = project.run("vault", "rekey", "--new-vault-password-file", new)
    assert done.code == ExitCode.CONFIGURATION
    assert "keyring set other fed" in done.err


def test_one_source_only(project: Project, vaulted: Path) -> None:
    project.environment |= {"MIPFED_VAULT_KEYRING": "mip", "MIPFED_VAULT_PASSWORD_FILE": password(project, "old", OLD)}
    done = project.run("vault", "rekey", "--new-vault-password-file", password(project, "new", NEW))
    assert done.code == ExitCode.CONFIGURATION
    assert "there is one only" in done.err
