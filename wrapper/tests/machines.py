# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines as a hospital hands them over: an account with a password, and no key of ours.

Each is this host's file system below an overlay, with host name, accounts and machine id of its own, and a real sshd.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

ACCOUNT = "anna"
#: Any character, also what YAML and templates would understand.
PASSWORD = "first: #'\"{{ x }} canary-31"
_START = """
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/up" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" overlay "$1/root"
root=$1/root
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mkdir "$root/run/sshd"
hostname "$2"
printf '127.0.0.1 localhost %s\n' "$2" > "$root/etc/hosts"
echo "$3" > "$root/etc/machine-id"
rm -rf "$root/root/.ssh" "$root/home" "$root/var/lib/dbus/machine-id"
mkdir -m 755 "$root/home"
chroot "$root" useradd -m -s /bin/bash -G sudo anna
chroot "$root" chpasswd
install -m 600 "$6" "$root/etc/host_key"
exec chroot "$root" /usr/sbin/sshd -D -e -f /dev/null -h /etc/host_key -p "$5" -o ListenAddress="$4" -o PidFile=none -o UsePAM=no \
  -o StrictModes=no -o PasswordAuthentication=yes
"""


@dataclass
class Machine:
    """One machine: its host name, and where it listens."""

    hostname: str
    address: str
    port: int
    folder: Path
    machine_id: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def where(self) -> str:
        """ADDRESS:PORT."""
        return f"{self.address}:{self.port}"

    def start(self) -> None:
        """Start it, anew as it was at first."""
        self.folder.mkdir(exist_ok=True)
        key = self.folder.with_suffix(".key")
        if not key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        words = [str(self.folder), self.hostname, self.machine_id, self.address, str(self.port), str(key)]
        own = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        log = self.folder.with_suffix(".log")
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [*own, "sh", "-c", _START, "machine", *words], stdin=subprocess.PIPE, stdout=stream, stderr=stream
            )
        assert self.process.stdin
        self.process.stdin.write(f"{ACCOUNT}:{PASSWORD}\n".encode())
        self.process.stdin.close()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex((self.address, self.port)) == 0:
                    return
            time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"{self.hostname} did not start: {log.read_text(errors='replace')}")

    def stop(self) -> None:
        """End it; nothing of it is left, because its mounts end with it."""
        if self.process:
            # unshare ignores a polite signal; the machine dies with it.
            self.process.kill()
            self.process.wait(30)
            self.process = None

    def run(self, *words: str) -> str:
        """Run a command in it and return what it says, whatever its end."""
        assert self.process
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="utf-8").split()
        enter = ["nsenter", f"--target={children[0]}", "--mount", "--uts", f"--root=/proc/{children[0]}/root", "--", *words]
        return subprocess.run(enter, capture_output=True, text=True, check=False).stdout.strip()


@dataclass
class Machines:
    """Makes machines."""

    folder: Path
    made: list[Machine] = field(default_factory=list)

    def make(self, hostname: str, *, machine_id: str = "", started: bool = True) -> Machine:
        """Make a machine with an address of its own on the loopback."""
        number = len(self.made) + 1
        address = f"127.0.7.{number}"
        with socket.socket() as free:
            free.bind((address, 0))
            port = free.getsockname()[1]
        machine = Machine(hostname, address, port, self.folder / f"m{number}", machine_id or f"{number:032x}")
        self.made.append(machine)
        if started:
            machine.start()
        return machine

    def close(self) -> None:
        """End all of them."""
        for machine in self.made:
            machine.stop()


def lacking() -> str:
    """Return why no machine can be made here; empty when it can."""
    if os.geteuid():
        return "machines with accounts of their own need root"
    missing = [name for name in ("unshare", "nsenter", "sudo", "/usr/sbin/sshd") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)} (apt-get install openssh-server sudo)" if missing else ""
