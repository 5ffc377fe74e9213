# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets reach Ansible and nothing else: canaries are looked for in records, command lines, environments and output."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mipfed.exitcodes import ExitCode

from .conftest import MAIN_YML, Project
from .test_runs import ANSWER
from .test_trust import on_terminal

PASSWORD = "canary-vault-password: 'x\" $y"
SECRET = "canary-vaulted-value"
INLINE = "canary-inline-value"
ENVIRONMENT = "canary-in-environment"
CANARIES = ("canary-vault-password", SECRET, INLINE, ENVIRONMENT)

PLAYBOOK = """\
- name: Use secrets
  hosts: master
  gather_facts: false
  tasks:
    - name: Give them to a module that marks the option
      hbp.mip.answer: {secret: "{{ vault_token }}"}
    - name: Compare
      ansible.builtin.assert: {that: [vault_token == 'canary-vaulted-value', inline_token == 'canary-inline-value'], quiet: true}
      no_log: true
    - name: Wait so that the processes can be looked at
      ansible.builtin.command: sleep 2
      changed_when: false
"""


def encrypt(text: str, password: str, *, inline: bool = False) -> str:
    """Encrypt with Ansible's own library."""
    script = """\
import sys
from ansible.parsing.vault import VaultLib, VaultSecret
secret = VaultSecret(sys.argv[1].encode())
sys.stdout.write(VaultLib([("default", secret)]).encrypt(sys.stdin.read(), secret).decode())
"""
    done = subprocess.run([sys.executable, "-c", script, password], input=text, capture_output=True, text=True, check=True)
    return "!vault |\n" + "".join(f"  {line}\n" for line in done.stdout.splitlines()) if inline else done.stdout


@pytest.fixture
def vaulted(project: Project) -> Path:
    """A federation with an encrypted file, an encrypted value and an ansible_password."""
    main = MAIN_YML + f"inline_token: {encrypt(INLINE, PASSWORD, inline=True)}"
    folder = project.federation(main=main)
    text = f"vault_token: {SECRET}\nansible_password: {SECRET}\nmip_first_password: {SECRET}\n"
    (folder / "group_vars" / "all" / "vault.yml").write_text(encrypt(text, PASSWORD), encoding="utf-8")
    project.module("answer", ANSWER)
    project.playbook("deploy", PLAYBOOK)
    project.environment["SOME_TOKEN"] = ENVIRONMENT
    return folder


def watch(stop: threading.Event, needle: str, seen: dict[str, str]) -> None:
    """Look through command lines and environments of processes until told to stop; note where canaries are."""
    while not stop.wait(0.05):
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                arguments = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environment = (entry / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if needle not in environment and needle not in arguments:
                continue
            seen[entry.name] = arguments
            for canary in CANARIES:
                if canary in arguments or (canary in environment and canary != ENVIRONMENT):
                    seen["found"] = f"{canary} in {arguments[:200]}"


def test_canaries_are_nowhere(project: Project, vaulted: Path, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text(PASSWORD + "\n", encoding="utf-8")
    password.chmod(0o600)
    stop, seen = threading.Event(), {}
    watcher = threading.Thread(target=watch, args=(stop, str(project.state), seen))
    watcher.start()
    try:
        done = project.run("-vvv", "deploy", "-y", "--diff", "-f", "fed", "--vault-password-file", str(password), "-o", "json")
    finally:
        stop.set()
        watcher.join()
    assert done.code == ExitCode.OK, done.err + done.out
    assert any("ansible-playbook" in arguments for arguments in seen.values()), "the watcher saw nothing"
    assert "found" not in seen, seen["found"]
    files = [path for path in project.state.rglob("*") if path.is_file()]
    assert len(files) > 3
    for path in files:
        content = path.read_text(encoding="utf-8", errors="replace")
        for canary in CANARIES:
            assert canary not in content, f"{canary} in {path}"
    for canary in CANARIES:
        assert canary not in done.out + done.err


@pytest.mark.parametrize("way", ["variable", "program"])
def test_sources_of_the_password(project: Project, vaulted: Path, tmp_path: Path, way: str) -> None:
    source = tmp_path / "source"
    if way == "program":
        source.write_text(f"#!{sys.executable}\nprint({PASSWORD!r})\n", encoding="utf-8")
        source.chmod(0o700)
    else:
        source.write_text(PASSWORD, encoding="utf-8")
    project.environment["MIPFED_VAULT_PASSWORD_FILE"] = str(source)
    assert project.run("deploy", "-y", "-f", "fed").code == ExitCode.OK


def test_no_password_and_no_terminal(project: Project, vaulted: Path) -> None:
    done = project.run("deploy", "-y", "-f", "fed")
    assert done.code == ExitCode.CONFIGURATION
    assert "--vault-password-file" in done.err
    assert not project.runs()


def test_wrong_password(project: Project, vaulted: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("something else", encoding="utf-8")
    done = project.run("deploy", "-y", "-f", "fed", "--vault-password-file", str(source))
    assert done.code == ExitCode.CONFIGURATION
    assert "Check the vault password" in done.err
    assert not project.runs()


@pytest.mark.parametrize("content", [None, ""])
def test_unusable_password_file(project: Project, vaulted: Path, tmp_path: Path, content: str | None) -> None:
    source = tmp_path / "source"
    if content is not None:
        source.write_text(content, encoding="utf-8")
    done = project.run("deploy", "-y", "-f", "fed", "--vault-password-file", str(source))
    assert done.code == ExitCode.CONFIGURATION
    assert str(source) in done.err


def test_offline_commands_need_no_password_and_show_no_secret(project: Project, vaulted: Path) -> None:
    for arguments in (("node", "ls"), ("config", "show"), ("doctor",)):
        done = project.run(*arguments, "-o", "json")
        assert done.code == ExitCode.OK, done.err + done.out
        assert not any(canary in done.out + done.err for canary in CANARIES)


def test_password_from_the_terminal(project: Project, vaulted: Path) -> None:
    code, shown = on_terminal(project, PASSWORD + "\n", "deploy", "-y", "-f", "fed")
    assert code == ExitCode.OK, shown
    assert "Vault password of fed:" in shown
    assert PASSWORD not in shown.replace("\r", "").split("Vault password of fed:")[1]
