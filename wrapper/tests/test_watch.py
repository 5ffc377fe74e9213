# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`mipfed status --watch`: look after look, until somebody ends it; then it ends as the last look did."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import threading
import time

import pytest

from mipfed.exitcodes import ExitCode

from . import facts as known
from .conftest import Project
from .test_report import playbook
from .test_runs import ANSWER


@pytest.fixture(autouse=True)
def _federation(project: Project) -> None:
    project.module("answer", ANSWER)
    project.federation()
    playbook(project, "status", known.report(known.federation()))


def test_lines_for_programs(project: Project) -> None:
    """One line a look; a federation that falls ill is seen, and is what the exit code tells."""
    assert project.run("-f", "fed", "status", "--watch", "-o", "json").code == ExitCode.USAGE
    argv, environment = project.command("-f", "fed", "status", "--watch", "--interval", "1", "-o", "jsonl")
    process = subprocess.Popen(argv, cwd=project.root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    first = json.loads(process.stdout.readline())
    assert (first["event"], first["exit_code"], first["result"]["ok"]) == ("status", 0, True)
    ill = {**known.report(known.federation()), "ok": False, "problems": [{"node": "fed-ms", "code": "x", "message": "ill", "fix": ""}]}
    playbook(project, "status", ill, fail=True)
    seen = json.loads(process.stdout.readline())
    while seen["exit_code"] == 0:
        seen = json.loads(process.stdout.readline())
    assert seen["exit_code"] == ExitCode.CHECK
    # Not between two looks only: Ctrl-C while Ansible runs ends it as well.
    process.send_signal(signal.SIGINT)
    out, _err = process.communicate(timeout=120)
    assert process.returncode == ExitCode.CHECK
    assert json.loads(out.splitlines()[-1])["event"] == "end"
    assert len(project.runs()) <= 4


def test_in_place_on_a_terminal(project: Project) -> None:
    """The latest look takes the place of the one before, and stays at the end."""
    argv, environment = project.command("-f", "fed", "status", "--watch", "--interval", "1")
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        argv,
        cwd=project.root,
        env={**environment, "TERM": "xterm"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    shown: list[bytes] = []

    def read() -> None:
        while True:
            try:
                shown.append(os.read(controller, 65536))
            except OSError:
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    deadline = time.monotonic() + 240
    while len(re.findall(rb"every 1 s", b"".join(shown))) < 3 and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == ExitCode.OK
    reader.join(30)
    text = b"".join(shown).decode()
    assert "hosp-wk-1_exareme" in text
    # The cursor goes up again for each look.
    assert re.search(r"\x1b\[\d*A", text)
