# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Completion of names, and output on terminals that are narrow, without colours, or know no UTF-8."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pexpect
import pytest

from mipfed import completion
from mipfed.exitcodes import ExitCode

from .conftest import Project
from .test_offline import HEAVY

#: Reading YAML is all that a name of a node costs.
SLOW = set(HEAVY) - {"yaml"}


def offered(project: Project, line: str) -> list[str]:
    """Return what bash is offered at the end of a command line, and see that nothing slow was started for it."""
    import sys

    words = line.split(" ")
    _argv, environment = project.command()
    environment |= {"_MIPFED_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    trace = [sys.executable, "-X", "importtime", "-m", "mipfed"]
    done = subprocess.run(trace, cwd=project.root, env=environment, capture_output=True, text=True, check=False)
    imported = {entry.rsplit("|", 1)[1].strip().split(".")[0] for entry in done.stderr.splitlines() if "|" in entry}
    assert not imported & SLOW
    return done.stdout.split()


def test_names_of_nodes(project: Project) -> None:
    project.federation("north", workers=2)
    project.federation("south", workers=1)
    assert offered(project, "mipfed -f nor") == ["north"]
    assert offered(project, "mipfed -f north ssh ") == ["north-ms", "north-ui", "north-wk-1", "north-wk-2"]
    assert offered(project, "mipfed -f south node remove south-w") == ["south-wk-1"]
    assert offered(project, "mipfed trust -f north north-wk-1 north-wk-") == ["north-wk-2"]
    assert offered(project, "mipfed check -f south -l north") == []
    assert offered(project, "mipfed check -f south -l south-ms,work") == ["south-ms,workers"]
    assert offered(project, "mipfed ssh ") == []
    project.environment["MIPFED_FEDERATION"] = "south"
    assert offered(project, "mipfed logs south-u") == ["south-ui"]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("mipfed status --node ", ["fed-ms", "fed-wk-1", "fed-wk-2"]),
        ("mipfed restart engine --node fed-wk-1 --node fed-w", ["fed-wk-2"]),
        ("mipfed stop --node fed-u", []),
        ("mipfed data compile --node fed-m", ["fed-ms"]),
        ("mipfed upgrade --set engine=e:1 --canary ", ["fed-wk-1", "fed-wk-2"]),
        ("mipfed rollback --canary fed-wk-2", ["fed-wk-2"]),
        ("mipfed kit revoke fed-", ["fed-wk-1", "fed-wk-2"]),
    ],
)
def test_nodes_that_can_be_meant(project: Project, line: str, names: list[str]) -> None:
    project.federation(workers=2)
    assert offered(project, line) == names


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "hosts.yml",
            "all:\n  vars: {secret: !vault x}\n  children:\n    mip:\n      children:\n        master: {hosts: {h-ms: {}}}\n"
            "        workers:\n          hosts:\n            h-a:\n            h-b: {ansible_host: 192.0.2.1}\n",
        ),
        (
            "hosts.ini",
            "[pusher]\np ansible_connection=local\n[master]\nh-ms ansible_host=192.0.2.1\n\n[workers]\nh-a\nh-b x=y\n[workers:vars]\nz=1\n",
        ),
        ("hosts", "[master]\nh-ms\n[workers]\nh-a\nh-b\n"),
    ],
)
def test_forms_of_inventories(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert completion.node_names(tmp_path / name) == ["h-ms", "h-a", "h-b"]
    assert completion.node_names(tmp_path / name, ("workers",)) == ["h-a", "h-b"]


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "all: [", "all: {children: 7}", "\x00"])
def test_what_cannot_be_read_offers_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "hosts.yml").write_text(text, encoding="utf-8")
    assert completion.node_names(tmp_path / "hosts.yml") == []
    assert completion.node_names(None) == completion.node_names(tmp_path / "none.yml") == []


def shown(project: Project, *arguments: str, width: int = 100, **environment: str) -> tuple[int | None, str]:
    """Run mipfed on a terminal of this width; return the exit code and what it wrote."""
    argv, given = project.command(*arguments)
    given |= {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **environment}
    child = pexpect.spawn(argv[0], argv[1:], cwd=str(project.root), env=given, dimensions=(24, width), timeout=120, encoding="utf-8")
    try:
        child.expect(pexpect.EOF)
    finally:
        child.close()
    return child.exitstatus, str(child.before).replace("\r\n", "\n")


COMMANDS = (["node", "ls"], ["doctor"], ["version"])


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_forty_columns(project: Project, arguments: list[str]) -> None:
    """No line is wider than the terminal, so that tables stay tables; only what cannot be broken, such as a path, may be."""
    project.federation(workers=1)
    code, text = shown(project, *arguments, width=40)
    assert code in (ExitCode.OK, ExitCode.CHECK)
    assert text.strip()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    for line in plain.splitlines():
        assert len(line.rstrip()) <= 40 or len(line.split()) < 4, line
    if arguments == ["node", "ls"]:
        assert "node: fed-ms\n" in plain
        assert "node: fed-wk-1\n" in plain


def test_no_color(project: Project) -> None:
    project.federation(workers=1)
    _code, with_colours = shown(project, "doctor")
    assert "\x1b[3" in with_colours
    _code, without = shown(project, "doctor", NO_COLOR="1")
    assert not re.search(r"\x1b\[(?:[0-9;]*;)?(?:3|4|9|10)[0-7]", without)
    assert "verdict" in without


@pytest.mark.parametrize("locale", ["C", "POSIX", "en_US.ISO-8859-1"])
@pytest.mark.parametrize("arguments", [*COMMANDS, ["--help"], ["config", "show"], ["-o", "json", "node", "ls"]], ids=" ".join)
def test_locales_without_utf8(project: Project, arguments: list[str], locale: str) -> None:
    """Whatever the locale, a command ends as it does with UTF-8, with no traceback and no internal error."""
    project.federation(workers=1)
    project.environment |= {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    argv, environment = project.command(*arguments)
    done = subprocess.run(argv, cwd=project.root, env=environment, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode in (ExitCode.OK, ExitCode.CHECK), done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout.strip()
