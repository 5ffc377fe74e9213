# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real Docker engines for tests, each with its own network, mounts, processes and host name, on one private bridge.

Nothing of it is visible in the machine's own network, and ending the first process of an engine ends all of it: daemon,
containers and interfaces. Needs root on Debian bookworm, iproute2, iptables, util-linux, and a package mirror on the first run: the
packages of the engines are unpacked into a cache and not installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker

PACKAGES = ("docker.io", "containerd", "runc", "tini", "busybox-static")
REGISTRY_PACKAGE = "docker-registry"
SUBNET = "10.254.7"
REGISTRY = f"{SUBNET}.1:5000"

_HOLDER = "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"


class EnginesError(Exception):
    """The engines cannot be started on this machine."""


def cache_directory() -> Path:
    """Where unpacked packages are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "hbp-mip-tests"


def unpacked_packages() -> Path:
    """A directory with the programs of `PACKAGES` and the registry, taken from Debian once. It is not installed."""
    return unpacked("engine", [*PACKAGES, REGISTRY_PACKAGE])


def newer_packages() -> Path:
    """The same for the engine of Debian trixie (26.1), which runs on bookworm with bookworm's runc and tini."""
    with tempfile.TemporaryDirectory(prefix="mip-apt-") as folder:
        root = Path(folder)
        for part in ("state/lists/partial", "cache/archives/partial"):
            (root / part).mkdir(parents=True)
        (root / "state/status").touch()
        (root / "sources.list").write_text(
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main\n", encoding="ascii"
        )
        (root / "apt.conf").write_text(
            f'Dir::State "{root}/state";\nDir::State::status "{root}/state/status";\nDir::Cache "{root}/cache";\n'
            f'Dir::Etc::sourcelist "{root}/sources.list";\nDir::Etc::sourceparts "/dev/null";\n',
            encoding="ascii",
        )
        return _unpack("engine-trixie", ["docker.io", "containerd"], {"APT_CONFIG": str(root / "apt.conf")}, update=True)


def unpacked(name: str, packages: list[str]) -> Path:
    """A directory with what is in the newest of these packages of the machine's own release. They are not installed."""
    return _unpack(name, packages, {})


def _unpack(name: str, packages: list[str], environment: dict[str, str], update: bool = False) -> Path:
    target = cache_directory() / name
    cache_directory().mkdir(parents=True, exist_ok=True)
    # Tests run in several processes: the first one fetches, the others wait for it.
    with (cache_directory() / f"{name}.lock").open("a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (target / ".complete").exists():
            _fetch(target, packages, environment, update)
    return target


def _fetch(target: Path, packages: list[str], environment: dict[str, str], update: bool) -> None:
    work = Path(tempfile.mkdtemp(prefix="mip-packages-"))
    try:
        for command in (["apt-get", "update"],) * update + (["apt-get", "download", *packages],):
            answer = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False, env={**os.environ, **environment})
            if answer.returncode:
                raise EnginesError(f"{' '.join(command)}: {answer.stderr.strip()}. Next: apt-get update")
        target.mkdir(parents=True, exist_ok=True)
        for package in sorted(work.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", str(package), str(target)], check=True)
        (target / ".complete").touch()
    finally:
        shutil.rmtree(work)


def search_path(*programs: Path) -> str:
    """PATH on which dockerd finds its helpers."""
    own = ":".join(str(directory / part) for directory in programs for part in ("usr/sbin", "usr/bin", "sbin", "bin"))
    return f"{own}:/usr/sbin:/usr/bin:/sbin:/bin"


def wait_for(done: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true answer of `done`. Raises `EnginesError` naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        answer = done()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise EnginesError(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)


class Space:
    """Namespaces of their own, kept open by one process. Ending that process ends everything in them."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._outer = subprocess.Popen(
            [
                "unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc",
                "--propagation", "private", "sh", "-c",
                f"hostname {name} && mount -t tmpfs tmpfs /run && ip link set lo up && touch {directory}/space.up; {_HOLDER}",
            ],
            stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for((directory / "space.up").exists, 20, f"namespaces of {name}")
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text(encoding="ascii").split()
        self.pid = int(children[0])

    def enter(self) -> list[str]:
        """The command that runs another command in here."""
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--uts", "--ipc", "--pid"]

    def enter_network(self) -> list[str]:
        """The command that runs another command with this network only."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net"]

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in here."""
        answer = subprocess.run([*self.enter(), *command], capture_output=True, text=True, check=False, timeout=60)
        if check and answer.returncode:
            raise EnginesError(f"{self.name}: {' '.join(command)}: {answer.stderr.strip()}")
        return answer

    def close(self) -> None:
        """End every process in here."""
        if self._outer.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            try:
                self._outer.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self._outer.kill()
                self._outer.wait()


class Engine:
    """One Docker engine."""

    def __init__(self, name: str, number: int, directory: Path, programs: tuple[Path, ...], hub: Space) -> None:
        self.name = name
        self.address = f"{SUBNET}.{10 + number}"
        self.directory = directory
        self.programs = programs
        self.space = Space(name, directory)
        self.root = directory / "root"
        self.socket = directory / "docker.sock"
        self._daemon: subprocess.Popen[bytes] | None = None
        # From in here, where both processes are visible under the numbers that we know.
        _host(
            "ip", "link", "add", f"mt{number}", "netns", str(hub.pid), "type", "veth", "peer", "name", "eth0", "netns", str(self.space.pid)
        )
        hub.run("ip", "link", "set", f"mt{number}", "master", "br0", "up")
        self.space.run("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self.space.run("ip", "link", "set", "eth0", "up")
        self.space.run("ip", "route", "add", "default", "via", f"{SUBNET}.1")

    @property
    def docker_host(self) -> str:
        """What a module gets as `docker_host`."""
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        # Without a file of its own the daemon would read the machine's.
        (self.directory / "daemon.json").write_text("{}", encoding="ascii")
        with (self.directory / "dockerd.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [
                    *self.space.enter(),
                    "env", f"PATH={search_path(*self.programs)}",
                    "dockerd", f"--data-root={self.root}", f"--exec-root={self.directory}/exec",
                    f"--pidfile={self.directory}/docker.pid", f"--host={self.docker_host}",
                    f"--insecure-registry={SUBNET}.0/24", f"--cgroup-parent=/mip-test-{os.getpid()}-{self.name}",
                    f"--config-file={self.directory}/daemon.json", "--log-level=warn",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        wait_for(self._answers, 60, f"dockerd of {self.name} (see {self.directory}/dockerd.log)")

    def _answers(self) -> bool:
        if self._daemon is not None and self._daemon.poll() is not None:
            tail = (self.directory / "dockerd.log").read_text(encoding="utf-8", errors="replace")[-2000:]
            raise EnginesError(f"dockerd of {self.name} ended: {tail}")
        if not self.socket.exists():
            return False
        try:
            with contextlib.closing(self.client(timeout=5)) as client:
                return bool(client.ping())
        except Exception:
            return False

    def stop(self) -> None:
        """Stop the daemon as systemd would, and kill it when it does not end."""
        if self._daemon is None:
            return
        inside = (self.directory / "docker.pid").read_text(encoding="ascii").strip()
        self.space.run("kill", "-TERM", inside, check=False)
        try:
            self._daemon.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.space.run("kill", "-KILL", inside, check=False)
            self._daemon.wait(timeout=10)
        self._daemon = None

    def restart(self) -> None:
        """Stop and start the daemon."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Cut the engine off from the network."""
        self.space.run("ip", "link", "set", "eth0", "down")

    def thaw(self) -> None:
        """Connect the engine again."""
        self.space.run("ip", "link", "set", "eth0", "up")
        self.space.run("ip", "route", "replace", "default", "via", f"{SUBNET}.1")

    def client(self, timeout: float = 60) -> Any:
        """The SDK's client for this engine."""
        return docker.APIClient(base_url=self.docker_host, version="auto", timeout=int(timeout))

    def leave_swarm(self) -> None:
        """Leave whatever swarm the engine is in, and remove what is left of its containers."""
        with contextlib.closing(self.client()) as client:
            with contextlib.suppress(docker.errors.APIError):
                client.leave_swarm(force=True)
            wait_for(lambda: client.info()["Swarm"]["LocalNodeState"] == "inactive", 30, f"{self.name} leaves its swarm")

    def close(self) -> None:
        """End the engine with all its containers, and remove its files."""
        self.space.close()
        _remove_tree(self.directory)
        _remove_cgroups(f"mip-test-{os.getpid()}-{self.name}")


class Engines:
    """Some engines, a registry, and the network between them."""

    def __init__(self, count: int, newer: tuple[int, ...] = ()) -> None:
        """`newer` are the numbers (from 0) of those that shall be 26.1 instead of 20.10."""
        if os.geteuid():
            raise EnginesError("engines need root")
        self.programs = unpacked_packages()
        self.directory = Path(tempfile.mkdtemp(prefix="mip-engines-"))
        self.engines: list[Engine] = []
        self.hub = Space("hub", self.directory / "hub")
        self._registry: subprocess.Popen[bytes] | None = None
        try:
            self.hub.run("ip", "link", "add", "br0", "type", "bridge")
            self.hub.run("ip", "address", "add", f"{SUBNET}.1/24", "dev", "br0")
            self.hub.run("ip", "link", "set", "br0", "up")
            self.start_registry()
            for number in range(1, count + 1):
                name = f"engine{number}"
                programs = (newer_packages(), self.programs) if number - 1 in newer else (self.programs,)
                self.engines.append(Engine(name, number, self.directory / name, programs, self.hub))
            for engine in self.engines:
                engine.start()
        except BaseException:
            self.close()
            raise

    def __getitem__(self, index: int) -> Engine:
        return self.engines[index]

    def start_registry(self) -> None:
        """Start the registry, on `REGISTRY`."""
        config = self.directory / "registry.yml"
        config.write_text(
            "version: 0.1\nlog: {level: error}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.directory}/registry}}, delete: {{enabled: true}}}}\n"
            "http: {addr: '0.0.0.0:5000'}\n",
            encoding="utf-8",
        )
        with (self.directory / "registry.log").open("ab") as log:
            self._registry = subprocess.Popen(
                [*self.hub.enter_network(), str(self.programs / "usr/bin/docker-registry"), "serve", str(config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def stop_registry(self) -> None:
        """Stop the registry."""
        if self._registry is not None:
            self._registry.kill()
            self._registry.wait()
            self._registry = None

    def build_image(self, name: str, changes: list[str] | None = None, files: dict[str, str] | None = None) -> str:
        """Make an image of busybox on the first engine and push it to the registry. Returns its full name with the tag."""
        image = f"{REGISTRY}/{name}"
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            for folder in ("bin", "etc", "tmp", "var", "proc", "sys", "dev"):
                entry = tarfile.TarInfo(folder)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            busybox = (self.programs / "bin/busybox").read_bytes()
            entry = tarfile.TarInfo("bin/busybox")
            entry.size, entry.mode = len(busybox), 0o755
            archive.addfile(entry, io.BytesIO(busybox))
            for applet in ("sh", "sleep", "cat", "echo", "true", "false", "nc", "httpd", "wget", "test", "touch", "ls", "date"):
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(entry)
            for path, text in (files or {}).items():
                data = text.encode()
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(data), 0o755
                archive.addfile(entry, io.BytesIO(data))
        repository, _unused, tag = image.rpartition(":")
        with contextlib.closing(self.engines[0].client()) as client:
            client.import_image_from_data(content.getvalue(), repository=repository, tag=tag, changes=changes or ["CMD sleep 100000"])
            for line in client.push(repository, tag=tag, stream=True, decode=True):
                if "error" in line:
                    raise EnginesError(f"push {image}: {line['error']}")
        return image

    def close(self) -> None:
        """End everything and remove all files."""
        self.stop_registry()
        for engine in self.engines:
            engine.close()
        self.hub.close()
        _remove_tree(self.directory)


def _host(*command: str) -> None:
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise EnginesError(f"{' '.join(command)}: {answer.stderr.strip()}")


def _remove_tree(directory: Path) -> None:
    # The kernel takes down the mounts of a namespace some time after its last process has ended.
    for _unused in range(50):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(0.1)
    shutil.rmtree(directory)


def _remove_cgroups(name: str) -> None:
    for top in (*Path("/sys/fs/cgroup").glob(f"*/{name}"), *Path("/sys/fs/cgroup").glob(name)):
        for folder, _unused, _unused in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


@contextlib.contextmanager
def engines(count: int, newer: tuple[int, ...] = ()) -> Iterator[Engines]:
    """`count` engines with a registry; all gone afterwards."""
    cluster = Engines(count, newer)
    try:
        yield cluster
    finally:
        cluster.close()
