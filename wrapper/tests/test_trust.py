# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Host keys of a real sshd: shown, asked, compared, pinned, and refused once they changed."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import time
from pathlib import Path

from mipfed.exitcodes import ExitCode

from .conftest import Project, Sshd, make_key
from .test_runs import OK


def with_fingerprint(folder: Path, fingerprint: str) -> None:
    """Let the inventory promise a fingerprint."""
    (folder / "host_vars").mkdir(exist_ok=True)
    (folder / "host_vars" / "fed-wk-1.yml").write_text(f"mip_host_key: {fingerprint}\n", encoding="utf-8")


def on_terminal(project: Project, answer: str, *arguments: str) -> tuple[int, str]:
    """Run mipfed on a terminal and type an answer; return the exit code and all that was shown.

    The answer is typed when the first question is there: what is typed before a password is asked for, the terminal forgets.
    """
    argv, environment = project.command(*arguments)
    environment["TERM"] = "xterm"
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        argv, cwd=project.root, env=environment, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    )
    os.close(terminal)
    shown, typed = b"", False
    while True:
        try:
            part = os.read(controller, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
        if not typed and re.search(rb"[:\]] $", shown):
            typed = True
            time.sleep(0.2)
            os.write(controller, answer.encode())
    os.close(controller)
    return process.wait(60), shown.decode(errors="replace")


def test_unknown_key_stops_before_any_contact(project: Project, hosts: Path) -> None:
    project.playbook("deploy", OK)
    done = project.run("deploy", "-y", "-f", "fed")
    assert done.code == ExitCode.CONFIGURATION
    assert "fed-wk-1" in done.err
    assert "next: mipfed -f fed trust" in done.err
    assert not project.runs()


def test_asked_and_pinned_and_used(project: Project, hosts: Path, sshd: Sshd) -> None:
    code, shown = on_terminal(project, "n\n", "trust", "-f", "fed")
    assert code == ExitCode.DECLINED
    assert sshd.fingerprint in shown
    assert not (hosts / "known_hosts").exists()
    code, shown = on_terminal(project, "y\n", "trust", "-f", "fed")
    assert code == ExitCode.OK, shown
    assert (hosts / "known_hosts").read_text(encoding="utf-8") == f"[127.0.0.1]:{sshd.port} {sshd.public}\n"
    project.playbook("deploy", OK)
    done = project.run("deploy", "-y", "-f", "fed")
    assert done.code == ExitCode.OK, done.err
    again = project.run("trust", "-f", "fed", "-o", "json")
    assert (again.code, again.document["result"]["nodes"][0]["state"]) == (ExitCode.OK, "pinned")


def test_no_terminal_is_declined(project: Project, hosts: Path) -> None:
    done = project.run("trust", "-f", "fed")
    assert done.code == ExitCode.DECLINED
    assert not (hosts / "known_hosts").exists()


def test_yes_shows_what_it_accepts(project: Project, hosts: Path, sshd: Sshd) -> None:
    done = project.run("trust", "-f", "fed", "-y")
    assert done.code == ExitCode.OK
    assert sshd.fingerprint in done.err
    assert (hosts / "known_hosts").is_file()


def test_a_promised_fingerprint_is_compared(project: Project, hosts: Path, sshd: Sshd) -> None:
    with_fingerprint(hosts, "SHA256:" + "A" * 43)
    for verb in ("trust", "deploy"):
        done = project.run(verb, "-f", "fed", "-y")
        assert done.code == ExitCode.CHECK
        assert "host-key-mismatch: fed-wk-1" in done.err
        assert not (hosts / "known_hosts").exists()
    with_fingerprint(hosts, sshd.fingerprint)
    project.playbook("deploy", OK)
    done = project.run("deploy", "-f", "fed", "-y")
    assert done.code == ExitCode.OK, done.err
    assert sshd.public in (hosts / "known_hosts").read_text(encoding="utf-8")


def test_a_changed_key_stops(project: Project, hosts: Path, sshd: Sshd) -> None:
    (hosts / "known_hosts").write_text("# by hand\n203.0.113.9 ssh-ed25519 AAAA\n", encoding="utf-8")
    assert project.run("trust", "-f", "fed", "-y").code == ExitCode.OK
    before = (hosts / "known_hosts").read_text(encoding="utf-8")
    old = sshd.public
    sshd.new_key()
    done = project.run("trust", "-f", "fed", "-y")
    assert done.code == ExitCode.CHECK
    assert "host-key-changed: fed-wk-1" in done.err
    assert "trust --replace fed-wk-1" in done.err
    assert (hosts / "known_hosts").read_text(encoding="utf-8") == before
    project.playbook("deploy", OK)
    deploy = project.run("deploy", "-y", "-f", "fed", "-o", "json")
    assert deploy.code == ExitCode.UNREACHABLE
    assert "trust fed-wk-1" in deploy.document["errors"][0]["next"]
    assert project.run("trust", "-f", "fed", "-y", "--replace", "fed-wk-1").code == ExitCode.OK
    after = (hosts / "known_hosts").read_text(encoding="utf-8")
    assert old not in after
    assert sshd.public in after
    assert "203.0.113.9 ssh-ed25519 AAAA" in after
    assert [path.name for path in hosts.iterdir() if "known_hosts" in path.name] == ["known_hosts"]


def test_wrong_ssh_key_says_so(project: Project, hosts: Path, sshd: Sshd) -> None:
    (sshd.folder / "authorized_keys").write_text("", encoding="utf-8")
    project.run("trust", "-f", "fed", "-y")
    project.playbook("deploy", OK)
    (error,) = project.run("deploy", "-y", "-f", "fed", "-o", "json").document["errors"]
    assert (error["code"], error["host"]) == ("unreachable", "fed-wk-1")
    assert "Permission denied" in error["message"]
    assert error["next"].startswith(f"ssh-copy-id -p {sshd.port} ")


def test_a_host_that_does_not_answer(project: Project, hosts: Path, sshd: Sshd) -> None:
    sshd.stop()
    done = project.run("trust", "-f", "fed", "-y")
    assert done.code == ExitCode.UNREACHABLE
    assert "fed-wk-1" in done.err


def test_unknown_node(project: Project, hosts: Path) -> None:
    done = project.run("trust", "-f", "fed", "fed-wk-9")
    assert done.code == ExitCode.NO_HOSTS
    assert "fed-wk-9" in done.err


def test_key_with_a_passphrase_is_refused(project: Project, hosts: Path) -> None:
    key = project.root / "id"
    key.unlink()
    make_key(key, "secret")
    project.run("trust", "-f", "fed", "-y")
    project.environment["SSH_AUTH_SOCK"] = "/nowhere"
    done = project.run("deploy", "-y", "-f", "fed")
    assert done.code == ExitCode.CONFIGURATION
    assert "next: ssh-add" in done.err


def test_deploy_asks_on_a_terminal(project: Project, hosts: Path) -> None:
    project.run("trust", "-f", "fed", "-y")
    project.playbook("deploy", OK)
    code, shown = on_terminal(project, "\n", "deploy", "-f", "fed")
    assert code == ExitCode.DECLINED
    assert "fed-wk-1" in shown
    assert "[y/N]" in shown
    assert not project.runs()
    code, shown = on_terminal(project, "y\n", "deploy", "-f", "fed")
    assert code == ExitCode.OK, shown
    assert "Nothing to do." in shown
