# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cockpit in a real tmux, its consoles on a real sshd."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from mipfed import cockpit
from mipfed.exitcodes import ExitCode

from .conftest import Project, Sshd, real_worker

if shutil.which("tmux") is None:
    pytest.skip("tmux is not installed (apt-get install tmux)", allow_module_level=True)

PATIENCE = 120


def until(condition: Callable[[], Any], what: str, instead: Callable[[], str] = str) -> Any:
    """Wait for a condition, at length: the machine may be busy."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        if time.monotonic() > end:
            pytest.fail(f"waited {PATIENCE} s for {what}\n{instead()}")
        time.sleep(0.2)
    return found


class Tmux:
    """The tmux servers of a test, in a folder of its own; the path of a socket must be short."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.folder = Path(tempfile.mkdtemp(prefix="mt"))
        self.home = project.root / "home"
        self.home.mkdir()
        project.environment |= {"TMUX_TMPDIR": str(self.folder), "HOME": str(self.home), "SHELL": "/bin/bash", "LC_ALL": "C.UTF-8"}
        _argv, self.environment = project.command()
        self.environment.pop("TMUX", None)

    def __call__(self, *words: str, socket: str = cockpit.SOCKET) -> str:
        """Run a command of tmux and return what it says; an empty text when there is no server."""
        done = subprocess.run(
            ["tmux", "-L", socket, *words], env=self.environment, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        return done.stdout.strip()

    def make(self, *arguments: str) -> dict[str, Any]:
        """Run `mipfed tmux` without attaching and return its result."""
        done = self.project.run("-f", "fed", "tmux", "-o", "json", *arguments)
        assert done.code == ExitCode.OK, done.out + done.err
        result: dict[str, Any] = done.document["result"]
        return result

    def screen(self, pane: str) -> str:
        """Return what a pane shows, its history included."""
        return self("capture-pane", "-p", "-S", "-500", "-t", pane)

    def shows(self, pane: str, pattern: str) -> str:
        """Wait until a pane shows something."""

        def seen() -> str:
            text = self.screen(pane)
            return text if re.search(pattern, text) else ""

        return str(until(seen, pattern, lambda: self.screen(pane)))

    def pid(self, pane: str) -> int:
        """Return the process of a pane."""
        return int(self("display-message", "-p", "-t", pane, "#{pane_pid}"))

    def close(self) -> None:
        """End the servers, and see that nothing of them stays."""
        pids = [int(pid) for pid in self("list-panes", "-a", "-F", "#{pane_pid}").split()]
        for socket in (cockpit.SOCKET, "default"):
            self("kill-server", socket=socket)
        try:
            until(lambda: not [pid for pid in pids if alive(pid)], "the processes of the panes to end")
        finally:
            for pid in pids:
                if alive(pid):
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(self.folder)


def alive(pid: int) -> bool:
    """Tell whether a process runs: one that nobody has buried yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except (OSError, IndexError):
        return False


@pytest.fixture
def tmux(project: Project) -> Iterator[Tmux]:
    """A tmux of the test's own."""
    made = Tmux(project)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def hosts(project: Project, sshd: Sshd) -> Path:
    """A federation whose first worker is a real sshd, with its key pinned."""
    folder = real_worker(project, sshd, workers=1)
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{sshd.port} {sshd.public}\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("size", [(200, 50), (80, 24), (40, 20), (20, 6)])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 14, 52])
def test_no_pane_is_too_small(count: int, size: tuple[int, int]) -> None:
    divided = cockpit.pages(count, *size)
    assert sum(divided) == count
    assert max(divided) - min(divided) <= 1
    fit = max(1, size[0] // cockpit.PANE_WIDTH) * max(1, (size[1] - 1) // cockpit.PANE_HEIGHT)
    assert max(divided) <= min(fit, cockpit.MOST_PANES)
    assert len(divided) == 1 or count > (len(divided) - 1) * min(fit, cockpit.MOST_PANES)


@pytest.mark.parametrize("workers", [0, 1, 2, 3, 5, 12, 50])
def test_windows(project: Project, tmux: Tmux, workers: int) -> None:
    # An inventory without any worker is refused; without one that takes part it is not.
    variables = {} if workers else {"fed-wk-1": {"mip_disabled": {"since": "2026-11-01", "reason": "moves"}}}
    project.federation(workers=workers or 1, variables=variables)
    nodes = ["fed-ms", "fed-ui", *(f"fed-wk-{number}" for number in range(1, workers + 1))]
    made = tmux.make()
    assert (made["session"], made["created"]) == ("fed", True)
    windows = made["windows"]
    assert [window["index"] for window in windows] == list(range(len(windows)))
    assert [window["name"] for window in windows[:3]] == ["bash", "logs", "deploy"]
    consoles = windows[3 : 3 + len(nodes)]
    assert [(window["name"], window["panes"]) for window in consoles] == [(node, [node]) for node in nodes]
    logs = [windows[1], *windows[3 + len(nodes) :]]
    assert [window["name"] for window in logs] == ["logs", *(f"logs-{number}" for number in range(2, len(logs) + 1))]
    assert [pane for window in logs for pane in window["panes"]] == nodes
    assert all(len(window["panes"]) <= cockpit.MOST_PANES for window in logs)
    # As tmux has it: each pane runs the command that is meant for its node, and is large enough to be read.
    lines = tmux(
        "list-panes", "-s", "-t", "=fed", "-F", "#{window_name}\t#{@mipfed_node}\t#{pane_width}\t#{pane_height}\t#{pane_start_command}"
    )
    for line in lines.splitlines():
        window, node, width, height, command = line.split("\t")
        if window.startswith("logs"):
            assert command.strip('"').endswith(f"logs --follow {node}")
            assert int(width) >= cockpit.PANE_WIDTH - 1
            assert int(height) >= cockpit.PANE_HEIGHT - 2
    if not workers:
        assert "fed-wk-1 (disabled)" in tmux.shows("fed:2", "No console")


def test_there_already_and_force(project: Project, tmux: Tmux) -> None:
    folder = project.federation(workers=1)
    tmux.make()
    before = tmux.pid("fed:0")
    again = tmux.make()
    assert (again["created"], again["notice"], tmux.pid("fed:0")) == (False, "", before)

    hosts = json.loads((folder / "hosts.yml").read_text(encoding="utf-8"))
    hosts["all"]["children"]["workers"]["hosts"]["fed-wk-2"] = {"ansible_connection": "local", "ansible_host": "127.0.9.77"}
    (folder / "hosts.yml").write_text(json.dumps(hosts), encoding="utf-8")
    changed = tmux.make()
    assert "mipfed -f fed tmux --force" in changed["notice"]
    assert tmux.pid("fed:0") == before

    anew = tmux.make("--force")
    assert anew["created"]
    assert anew["windows"][-1]["name"] == "fed-wk-2"
    assert tmux.pid("fed:0") != before
    assert tmux("list-sessions", "-F", "#{session_name}") == "fed"
    until(lambda: not alive(before), "the old cockpit to end")


def test_what_a_killed_mipfed_left_is_removed(project: Project, tmux: Tmux) -> None:
    project.federation(workers=1)
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    ).stdout.strip()
    tmux("new-session", "-d", "-s", f"fed{cockpit.BUILDING}{gone}", "sleep 600")
    tmux("new-session", "-d", "-s", f"other{cockpit.BUILDING}{os.getpid()}", "sleep 600")
    tmux.make()
    assert tmux("list-sessions", "-F", "#{session_name}").split() == ["fed", f"other{cockpit.BUILDING}{os.getpid()}"]


def test_the_cockpit_of_another_inventory_is_not_taken(project: Project, tmux: Tmux) -> None:
    project.federation(workers=1)
    tmux.make()
    other = project.root / "elsewhere" / "fed"
    shutil.copytree(project.root / "inventories" / "fed", other)
    done = project.run("-i", str(other), "tmux", "-d")
    assert done.code == ExitCode.CONFIGURATION
    assert str(project.root / "inventories" / "fed") in done.err
    assert "tmux --force" in done.err


def test_a_locale_without_utf8(project: Project, tmux: Tmux) -> None:
    project.federation(workers=1)
    project.environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert tmux.make()["created"]
    assert not tmux.make()["created"]
    tmux.shows("fed:2", "mipfed deploy")


def test_own_server_own_configuration(project: Project, tmux: Tmux) -> None:
    project.federation(workers=1)
    theirs = "set -g prefix C-a\nset -g status-left mine\nset -g synchronize-panes on\n"
    (tmux.home / ".tmux.conf").write_text(theirs, encoding="utf-8")
    tmux("new-session", "-d", "-s", "fed", "-n", "mine", "sleep 600", socket="default")
    tmux.make()
    assert tmux("show-options", "-gv", "prefix2") == "C-j"
    assert tmux("show-options", "-gv", "prefix") == "C-b"
    assert tmux("show-options", "-wgv", "synchronize-panes") == "off"
    assert tmux("show-options", "-gv", "prefix", socket="default") == "C-a"
    assert tmux("list-windows", "-F", "#{window_name}", socket="default") == "mine"
    assert (tmux.home / ".tmux.conf").read_text(encoding="utf-8") == theirs
    assert [path.name for path in tmux.home.iterdir() if "tmux" in path.name] == [".tmux.conf"]
    # A shell of the cockpit knows its federation.
    tmux("send-keys", "-t", "fed:0", "echo it-is-$MIPFED_FEDERATION", "Enter")
    tmux.shows("fed:0", "it-is-fed")


def test_keys(project: Project, tmux: Tmux) -> None:
    project.federation(workers=3)
    argv, environment = project.command("-f", "fed", "tmux")
    environment["TERM"] = "xterm"
    child = pexpect.spawn(
        argv[0], argv[1:], cwd=str(project.root), env=environment, dimensions=(40, 120), timeout=PATIENCE, encoding="utf-8"
    )
    try:
        until(lambda: tmux("list-clients", "-F", "#{window_name}") == "logs", "the cockpit to be shown")
        child.send("\n2")
        until(lambda: tmux("list-clients", "-F", "#{window_name}") == "deploy", "the window deploy")
        child.expect("mipfed deploy")
        child.send("\n1")
        until(lambda: tmux("list-clients", "-F", "#{window_name}") == "logs", "the window logs")
        child.send("\nz")
        until(lambda: tmux("display-message", "-p", "-t", "fed:1", "#{window_zoomed_flag}") == "1", "a pane to be zoomed")
        child.send("\nz")
        until(lambda: tmux("display-message", "-p", "-t", "fed:1", "#{window_zoomed_flag}") == "0", "the zoom to end")
        child.send("\n0")
        until(lambda: tmux("list-clients", "-F", "#{window_name}") == "bash", "the window bash")
        before = tmux.pid("fed:0")
        child.send("\nr")
        until(lambda: tmux.pid("fed:0") != before, "the pane to start again")
        child.send("\n1")
        until(lambda: tmux("list-clients", "-F", "#{window_name}") == "logs", "the window logs")
        panes = tmux("list-panes", "-t", "fed:1", "-F", "#{pane_pid}").split()
        child.send("\nR")
        until(lambda: not set(panes) & set(tmux("list-panes", "-t", "fed:1", "-F", "#{pane_pid}").split()), "all panes to start again")
        assert len(tmux("list-panes", "-t", "fed:1", "-F", "#{@mipfed_node}").split()) == len(panes) == 5
        child.send("\nd")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0
        assert tmux("list-sessions", "-F", "#{session_name}") == "fed"
    finally:
        child.close(force=True)


def test_console_comes_back_after_a_cut(project: Project, hosts: Path, sshd: Sshd, tmux: Tmux) -> None:
    tmux.make()
    pane = "fed:fed-wk-1"
    tmux("send-keys", "-t", pane, "echo first-$((40 + 2))", "Enter")
    tmux.shows(pane, "first-42")
    # sshd ends without its sessions; those are cut off at the server's side, as a host that goes down does it.
    listener = subprocess.run(["pgrep", "-f", f"sshd .*-p {sshd.port} "], capture_output=True, text=True, check=True).stdout.split()
    sessions = subprocess.run(["pgrep", "-P", ",".join(listener)], capture_output=True, text=True, check=True).stdout.split()
    sshd.stop()
    for session in sessions:
        os.kill(int(session), signal.SIGKILL)
    # The pause grows, and the pane says so.
    tmux.shows(pane, r"(?s)lost \(code 255\); again in 1 s.*Connection refused.*again in 2 s.*again in 4 s")
    sshd.start()

    def back() -> bool:
        tmux("send-keys", "-t", pane, "echo second-$((40 + 2))", "Enter")
        return "second-42" in tmux.screen(pane)

    until(back, "the console to come back")


def test_console_that_its_user_left(project: Project, hosts: Path, tmux: Tmux) -> None:
    tmux.make()
    pane = "fed:fed-wk-1"
    tmux("send-keys", "-t", pane, "echo first-$((40 + 2))", "Enter")
    tmux.shows(pane, "first-42")
    tmux("send-keys", "-t", pane, "exit", "Enter")
    tmux.shows(pane, "the session ended. Enter connects again")
    tmux("send-keys", "-t", pane, "Enter")
    tmux("send-keys", "-t", pane, "echo second-$((40 + 2))", "Enter")
    tmux.shows(pane, "second-42")


def test_console_of_a_host_with_another_key(project: Project, hosts: Path, sshd: Sshd, tmux: Tmux) -> None:
    sshd.new_key()
    tmux.make()
    shown = tmux.shows("fed:fed-wk-1", "refused, see above. Enter tries again")
    assert "IDENTIFICATION HAS CHANGED" in shown
    assert "again in" not in shown


@pytest.mark.parametrize("kind", ["logs", "console"])
def test_a_pane_without_its_terminal_ends(kind: str) -> None:
    """Also where the loss of the terminal is ignored, as below nohup: it must not ask a terminal that is gone for ever and ever."""
    controller, terminal = pty.openpty()
    script = ["bash", str(cockpit.FILES / "pane"), kind, "node", "0", "sh", "-c", "echo started; exit 255"]
    process = subprocess.Popen(
        ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *script], stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    )
    os.close(terminal)
    shown = b""
    while b"again in 4 s" not in shown:
        shown += os.read(controller, 4096)
    os.close(controller)
    assert process.wait(PATIENCE) == 0


def test_tmux_that_is_not_installed(project: Project) -> None:
    project.federation()
    project.environment["PATH"] = str(project.root)
    done = project.run("-f", "fed", "tmux")
    assert done.code == ExitCode.CONFIGURATION
    assert "next: apt-get install tmux" in done.err


def test_ssh(project: Project, hosts: Path, sshd: Sshd) -> None:
    done = project.run("-f", "fed", "ssh", "fed-wk-1", "--", "printf", "%s-%s", "a b", "$HOME")
    assert (done.code, done.out) == (0, "a b-$HOME"), done.err
    assert project.run("-f", "fed", "ssh", "fed-wk-1", "exit", "7").code == 7
    unknown = project.run("-f", "fed", "ssh", "fed-wk-9", "true")
    assert unknown.code == ExitCode.NO_HOSTS
    assert "fed-wk-1" in unknown.err
    sshd.new_key()
    changed = project.run("-f", "fed", "ssh", "fed-wk-1", "true")
    assert changed.code == 255
    assert "IDENTIFICATION HAS CHANGED" in changed.err
