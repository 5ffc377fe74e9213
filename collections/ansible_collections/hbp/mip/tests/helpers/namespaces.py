# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network namespaces in which tests run commands."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ansible_collections.hbp.mip.tests.helpers.engines import wait_for


def hold() -> subprocess.Popen[bytes]:
    """Start a process with a network namespace of its own, which ends with it."""
    process = subprocess.Popen(["unshare", "-n", "sleep", "600"])
    own = Path("/proc/self/ns/net").readlink()
    wait_for(lambda: Path(f"/proc/{process.pid}/ns/net").readlink() != own, 20, "a network namespace")
    return process


def inside(pid: int, command: str) -> str:
    """Run a shell command in the network namespace of a process and return what it prints."""
    done = subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
