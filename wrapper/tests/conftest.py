# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A project with small playbooks in place of the collection's own; Ansible, ansible-runner and the resolver are the real ones."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
COLLECTION = REPOSITORY / "collections" / "ansible_collections" / "hbp" / "mip"
PROGRAM = [sys.executable, "-m", "mipfed"]

MAIN_YML = """\
ansible_python_interpreter: "{{ ansible_playbook_python }}"
mip_engine: {image: "registry.example/engine:1.0", keystore_image: "registry.example/keystore:1.8.7"}
"""


@dataclass
class Ended:
    """How a run of mipfed ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The document of `-o json`; fails when standard output holds anything else."""
        parsed: dict[str, Any] = json.loads(self.out)
        return parsed

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of `-o jsonl`."""
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass
class Project:
    """A folder with `inventories/`, a collection tree whose playbooks the test writes, and a state folder."""

    root: Path
    collections: Path
    state: Path
    environment: dict[str, str] = field(default_factory=dict)

    def playbook(self, name: str, text: str) -> None:
        """Write the playbook hbp.mip.NAME."""
        folder = self.collections / "ansible_collections" / "hbp" / "mip" / "playbooks"
        (folder / f"{name}.yml").write_text(text, encoding="utf-8")

    def module(self, name: str, text: str) -> None:
        """Write the module hbp.mip.NAME."""
        folder = self.collections / "ansible_collections" / "hbp" / "mip" / "plugins" / "modules"
        (folder / f"{name}.py").write_text(text, encoding="utf-8")

    def federation(
        self,
        name: str = "fed",
        *,
        workers: int = 2,
        variables: Mapping[str, Mapping[str, Any]] | None = None,
        main: str = MAIN_YML,
    ) -> Path:
        """Write an inventory of hosts with local connections; `variables` by host wins over that."""
        folder = self.root / "inventories" / name
        (folder / "group_vars" / "all").mkdir(parents=True)
        groups = {
            "pusher": [f"{name}-pusher"],
            "master": [f"{name}-ms"],
            "ui": [f"{name}-ui"],
            "workers": [f"{name}-wk-{number}" for number in range(1, workers + 1)],
        }
        address = iter(range(1, 200))
        children = {
            group: {
                "hosts": {
                    host: {"ansible_connection": "local", "ansible_host": f"127.0.9.{next(address)}", **(variables or {}).get(host, {})}
                    for host in hosts
                }
            }
            for group, hosts in groups.items()
        }
        (folder / "hosts.yml").write_text(json.dumps({"all": {"children": children}}, indent=1), encoding="utf-8")
        (folder / "group_vars" / "all" / "main.yml").write_text(main, encoding="utf-8")
        return folder

    def command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        """Return argv and environment of a run of mipfed."""
        # COLUMNS would make the tables as narrow as the terminal that the tests happen to be started from.
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("MIPFED_", "ANSIBLE_", "COLUMNS"))}
        environment |= {"MIPFED_COLLECTIONS": str(self.collections), "XDG_STATE_HOME": str(self.state), **self.environment}
        return [*PROGRAM, *arguments], environment

    def run(self, *arguments: str, text: str | None = None) -> Ended:
        """Run mipfed as a process without a terminal."""
        argv, environment = self.command(*arguments)
        done = subprocess.run(
            argv,
            cwd=self.root,
            env=environment,
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def runs(self, federation: str = "fed") -> list[Path]:
        """Return the folders of the recorded runs, oldest first."""
        folder = self.state / "mipfed" / federation / "runs"
        return sorted(folder.iterdir()) if folder.is_dir() else []


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project without federations and without playbooks."""
    root, collections = tmp_path / "project", tmp_path / "collections"
    (root / "inventories").mkdir(parents=True)
    tree = collections / "ansible_collections" / "hbp" / "mip"
    tree.mkdir(parents=True)
    for name in ("galaxy.yml", "meta", "roles"):
        (tree / name).symlink_to(COLLECTION / name)
    shutil.copytree(COLLECTION / "plugins", tree / "plugins", ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "playbooks").mkdir()
    return Project(root, collections, tmp_path / "state")


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on the loopback that refuses connections for as long as the test runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@dataclass
class Sshd:
    """A real sshd on the loopback."""

    port: int
    key: Path
    folder: Path
    start: Callable[[], None]
    stop: Callable[[], None]

    @property
    def public(self) -> str:
        """Type and base64 of the host key."""
        return " ".join(self.key.with_suffix(".pub").read_text(encoding="utf-8").split()[:2])

    @property
    def fingerprint(self) -> str:
        """The fingerprint, as OpenSSH computes it."""
        done = subprocess.run(["ssh-keygen", "-lf", str(self.key)], capture_output=True, text=True, check=True)
        return done.stdout.split()[1]

    def new_key(self) -> None:
        """Give the host another key and start it again."""
        self.stop()
        self.key.unlink()
        make_key(self.key)
        self.start()


def make_key(path: Path, passphrase: str = "") -> None:
    """Make an ed25519 key pair."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path)], check=True, input="y\n", text=True)


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    """A real sshd with a host key of its own, at a free port of 127.0.0.1."""
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(program).exists():
        pytest.skip("sshd is not installed (apt-get install openssh-server)")
    folder = tmp_path / "sshd"
    folder.mkdir(mode=0o700)
    key = folder / "host_key"
    make_key(key)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["-o", "ListenAddress=127.0.0.1", "-o", "PidFile=none", "-o", "UsePAM=no", "-o", "StrictModes=no"]
    options += ["-o", f"AuthorizedKeysFile={folder}/authorized_keys"]
    processes: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        Path("/run/sshd").mkdir(exist_ok=True)
        command = [program, "-D", "-e", "-f", "/dev/null", "-p", str(port), "-h", str(key), *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=(folder / "log").open("ab"))
        processes.append(process)
        for _attempt in range(100):
            with socket.socket() as probe:
                probe.settimeout(0.2)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            if process.poll() is not None:
                break
            time.sleep(0.1)
        stop()
        raise RuntimeError((folder / "log").read_text())

    def stop() -> None:
        while processes:
            process = processes.pop()
            process.terminate()
            process.wait(10)

    start()
    try:
        yield Sshd(port, key, folder, start, stop)
    finally:
        stop()


def real_worker(project: Project, sshd: Sshd, *, workers: int = 2) -> Path:
    """Make a federation whose first worker is a real sshd that lets a key in."""
    key = project.root / "id"
    make_key(key)
    (sshd.folder / "authorized_keys").write_text(key.with_suffix(".pub").read_text(encoding="utf-8"), encoding="utf-8")
    ssh = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": sshd.port, "mip_address": "127.0.8.1"}
    return project.federation(workers=workers, variables={"fed-wk-1": {**ssh, "ansible_ssh_private_key_file": str(key)}})


@pytest.fixture
def hosts(project: Project, sshd: Sshd) -> Path:
    """A federation whose first worker is a real sshd."""
    return real_worker(project, sshd)
