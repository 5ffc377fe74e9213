# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`mipfed init` given again, and killed at every question."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pexpect
import pytest

from mipfed.exitcodes import ExitCode

from .conftest import Project

#: Each question, as far as it is told apart by it, and the answer.
QUESTIONS = (
    ("Master, as", "h-ms=192.0.2.1"),
    ("Host of the web portal", "h-ui=192.0.2.2"),
    ("Hospital 1", "h-a=192.0.2.11"),
    ("Hospital 2", "h-b=192.0.2.12"),
    ("Hospital 3", ""),
    ("Account for SSH", "admin"),
    ("Image of the engine", "engine:1.0"),
    ("Image of the keystore", ""),
)
MORE = (("Another hospital", "h-c=192.0.2.13"), ("Another hospital", "h-d=192.0.2.14"), ("Another hospital", ""))
GIVEN = ["--master", "h-ms=192.0.2.1", "--worker", "h-a=192.0.2.11", "--engine-image", "engine:1.0"]


def asked(project: Project, questions: tuple[tuple[str, str], ...], *, kill: signal.Signals | None = None) -> int | None:
    """Answer the questions; with `kill` send that signal at the one after them."""
    argv, environment = project.command("init", "h", "--no-contact")
    environment |= {"TERM": "xterm", "LC_ALL": "C.UTF-8"}
    child = pexpect.spawn(argv[0], argv[1:], cwd=str(project.root), env=environment, dimensions=(24, 200), timeout=120, encoding="utf-8")
    try:
        for question, answer in questions:
            child.expect_exact(question)
            child.expect_exact(": ")
            child.sendline(answer)
        if kill is not None:
            child.expect(r"(?:as NAME=ADDRESS|Account for SSH|Image of)[^\n]*: ")
            child.kill(kill)
        child.expect(pexpect.EOF)
    finally:
        child.close()
    status: int | None = child.exitstatus
    return status


def everything(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(project: Project) -> list[str]:
    """Return the nodes of the federation; fails when its inventory is not valid."""
    return [node["name"] for node in project.run("-f", "h", "node", "ls", "-o", "json").document["result"]["nodes"]]


@pytest.mark.parametrize("number", range(len(QUESTIONS)))
def test_killed_at_a_question_of_a_new_federation(project: Project, number: int) -> None:
    kill = (signal.SIGKILL, signal.SIGHUP, signal.SIGINT)[number % 3]
    assert asked(project, QUESTIONS[:number], kill=kill) != ExitCode.OK
    assert not list((project.root / "inventories").iterdir())


def test_asked(project: Project) -> None:
    assert asked(project, QUESTIONS) == ExitCode.OK
    assert names(project) == ["h-ms", "h-ui", "h-a", "h-b"]


@pytest.mark.parametrize("number", range(len(MORE)))
def test_killed_at_a_question_of_one_that_is_there(project: Project, number: int) -> None:
    assert project.run("init", "h", *GIVEN, "--ui", "h-ui=192.0.2.2").code == ExitCode.OK
    before = everything(project.root)
    assert asked(project, MORE[:number], kill=signal.SIGKILL) != ExitCode.OK
    assert everything(project.root) == before
    assert names(project) == ["h-ms", "h-ui", "h-a"]


def test_again_asks_for_more_and_keeps_everything(project: Project) -> None:
    assert project.run("init", "h", *GIVEN).code == ExitCode.OK
    hosts = project.root / "inventories" / "h" / "hosts.yml"
    text = hosts.read_text(encoding="utf-8").replace("workers:\n", "workers: # the hospitals\n")
    hosts.write_text(text, encoding="utf-8")
    before = everything(project.root)
    assert asked(project, (("Host of the web portal", "h-ui=192.0.2.2"), *MORE)) == ExitCode.OK
    assert names(project) == ["h-ms", "h-ui", "h-a", "h-c", "h-d"]
    kept = [line for line in text.splitlines() if line not in hosts.read_text(encoding="utf-8").splitlines()]
    assert kept == []
    after = everything(project.root)
    assert {name for name in after if after[name] != before.get(name)} == {"inventories/h/hosts.yml"}
    assert set(before) == set(after)


def test_again_with_options(project: Project) -> None:
    assert project.run("init", "h", *GIVEN).code == ExitCode.OK
    more = project.run("init", "h", *GIVEN, "--worker", "h-b=192.0.2.12", "-o", "json")
    assert more.document["result"]["added"] == ["h-b"]
    answers = project.root / "answers.json"
    answers.write_text(json.dumps({"ui": {"name": "h-ui", "address": "192.0.2.2"}}), encoding="utf-8")
    assert project.run("init", "h", "--from", str(answers), "-o", "json").document["result"]["added"] == ["h-ui"]
    assert names(project) == ["h-ms", "h-ui", "h-a", "h-b"]
    nothing = project.run("init", "h")
    assert (nothing.code, nothing.out.strip()) == (ExitCode.OK, "Nothing is missing.")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--master", "h-other=192.0.2.9"], ["the master is h-ms already", "mipfed -f h master move h-other"]),
        (["--worker", "h-a=192.0.2.99"], ["its address is 192.0.2.11 already", "node readdress h-a --address 192.0.2.99"]),
        (["--worker", "h-ms=192.0.2.1"], ["it is a master already"]),
        (["--worker", "h-b=192.0.2.11"], ["192.0.2.11 is also that of host"]),
        (["--engine-image", "engine:2.0"], ["init changes nothing of it", "--engine-image"]),
    ],
)
def test_again_never_changes_what_is_there(project: Project, options: list[str], words: list[str]) -> None:
    assert project.run("init", "h", *GIVEN).code == ExitCode.OK
    before = everything(project.root)
    done = project.run("init", "h", *options)
    assert done.code == ExitCode.CONFIGURATION
    for word in words:
        assert word in done.err
    assert everything(project.root) == before
