# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The stand-in engine as processes on loopback: a real keystore, a master and two hospitals."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.hbp.mip.plugins.module_utils._compile import Compiler, Options
from ansible_collections.hbp.mip.plugins.module_utils._lab_oci import ImageError, native_architecture, package_members
from ansible_collections.hbp.mip.plugins.module_utils._lab_seed import Dataset, metadata, table

ROLE = Path(__file__).resolve().parents[2] / "roles" / "lab"
STANDIN = ROLE / "files" / "exareme-standin"
PATHOLOGIES = ["dementia", "mentalhealth"]
SEED = 1
#: Different runs at the same time must not meet: all of 127/8 is loopback, and every node needs the engine's fixed ports.
NETWORK = f"127.{20 + os.getpid() % 200}.{os.getpid() // 200 % 250}"


def _from_lab_images(target: Path) -> bool:
    """Take consul out of the keystore image, if a lab of this machine has built it."""
    layout = Path("/var/cache/mip-lab/images")
    try:
        entry = json.loads((layout / "images" / "keystore-1.8.7.json").read_text())
        blobs = layout / "blobs" / "sha256"
        manifest = json.loads((blobs / entry["digest"].partition(":")[2]).read_text())
        for layer in manifest["layers"]:
            with tarfile.open(blobs / layer["digest"].partition(":")[2]) as archive:
                member = next((found for found in archive if found.name == "usr/bin/consul"), None)
                content = archive.extractfile(member) if member is not None else None
                if content is not None:
                    target.write_bytes(content.read())
                    return True
    except (OSError, ValueError, KeyError):
        return False
    return False


class ConsulError(Exception):
    """Consul can neither be found nor fetched."""


def consul_program() -> Path:
    """Return the real Consul, as it is in the keystore image. Raises ConsulError."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hbp-mip-tests"
    program = folder / "consul-1.8.7"
    if program.exists():
        return program
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder)
    os.close(handle)
    new = Path(name)
    if not _from_lab_images(new):
        with tempfile.TemporaryDirectory() as work:
            mirrors = ["http://deb.debian.org/debian", "http://archive.debian.org/debian"]
            try:
                found = package_members("consul", "1.8.7", "bullseye", ["usr/bin/consul"], mirrors, native_architecture(), work)
            except ImageError as error:
                new.unlink()
                raise ConsulError(f"consul 1.8.7 can neither be taken from a lab's images nor downloaded: {error}") from error
            shutil.copyfile(next(member.source for member in found if member.source), new)
    new.chmod(0o755)
    new.replace(program)
    return program


@dataclass
class Reply:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def data(self) -> Any:
        """The body, which must be JSON."""
        return json.loads(self.text)


def request(address: str, port: int, method: str, target: str, body: Any = None) -> Reply:
    """Send a request; a body that is not text is sent as JSON."""
    connection = http.client.HTTPConnection(address, port, timeout=30)
    try:
        content = body if body is None or isinstance(body, str) else json.dumps(body)
        connection.request(method, target, content)
        answer = connection.getresponse()
        return Reply(answer.status, dict(answer.getheaders()), answer.read().decode())
    finally:
        connection.close()


def until(check: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    """Wait for the first true answer."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            answer = check()
        except OSError:
            answer = None
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.05)


@dataclass
class Process:
    """A process with its output in a file."""

    command: Sequence[str]
    log: Path
    environment: dict[str, str]
    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.environment, cwd=self.folder
            )

    def stop(self, *, kill: bool = False) -> tuple[int, float]:
        """End it. Returns its exit code, and how many seconds it took."""
        assert self.process is not None
        begin = time.monotonic()
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        code = self.process.wait(timeout=20)
        return code, time.monotonic() - begin

    @property
    def output(self) -> str:
        """What it wrote."""
        return self.log.read_text()


def write_pathology(folder: Path, datasets: Sequence[Dataset], held: Sequence[Dataset]) -> None:
    """Make the folder of a pathology, with a database, as the node has it that holds some of the federation's datasets."""
    folder.mkdir(parents=True)
    (folder / "CDEsMetadata.json").write_bytes(metadata(folder.name, datasets))
    for dataset in held:
        (folder / f"{dataset.code}.csv").write_bytes(table(dataset, SEED))
    compiler = Compiler(str(folder.parent), Options(metadata_only=not held, processes=1))
    compiler.run([folder.name])
    assert compiler.pathologies[folder.name]["state"] == "compiled", (compiler.pathologies, compiler.problems)


class Federation:
    """The processes, and how to ask them."""

    keystore_address = f"{NETWORK}.1"

    def __init__(self, folder: Path, consul: Path, datasets: list[Dataset], environment_type: str = "PROD") -> None:
        """Write the data; nothing runs yet."""
        self.folder = folder
        self.datasets = datasets
        self.addresses = {"ms": f"{NETWORK}.11", "wk-1": f"{NETWORK}.21", "wk-10": f"{NETWORK}.22"}
        self.hospitals = {"wk-1": 1, "wk-10": 2}
        self.consul_data = folder / "consul"
        self.consul_data.mkdir()
        self.keystore = Process(
            [
                str(consul), "agent", f"-config-file={ROLE}/files/keystore/keystore.json", f"-data-dir={self.consul_data}",
                f"-bind={self.keystore_address}", f"-client={self.keystore_address}",
            ],
            folder / "consul.log", dict(os.environ), folder,
        )  # fmt: skip
        self.nodes: dict[str, Process] = {}
        for name, address in self.addresses.items():
            data = folder / "data" / name
            for pathology in PATHOLOGIES:
                held = [item for item in datasets if item.pathology == pathology and item.hospital == self.hospitals.get(name)]
                write_pathology(data / pathology, datasets, held)
            self.nodes[name] = Process(
                [sys.executable, "-m", "exareme_standin"],
                folder / f"{name}.log", self.environment(name, address, data, environment_type), STANDIN,
            )  # fmt: skip

    def environment(self, name: str, address: str, data: Path, environment_type: str) -> dict[str, str]:
        """The environment that the engine's contract names, and shorter intervals."""
        return {
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            "CONSULURL": f"{self.keystore_address}:8500",
            "NODE_NAME": name,
            "FEDERATION_ROLE": "master" if name == "ms" else "worker",
            "ENVIRONMENT_TYPE": environment_type,
            "CONVERT_CSVS": "FALSE",
            "LOG_LEVEL": "INFO",
            "TEMP_FILES_CLEANUP_TIME": "30",
            "NODE_COMMUNICATION_TIMEOUT": "30000",
            "STANDIN_VERSION": "1.0",
            "STANDIN_DATA": str(data),
            "STANDIN_ADDRESS": address,
            "STANDIN_BIND": address,
            "STANDIN_KEYSTORE_INTERVAL": "0.2",
            "STANDIN_KEYSTORE_ATTEMPTS": "150",
            "STANDIN_CHECK_INTERVAL": "0.2",
            "STANDIN_WATCH_INTERVAL": "0.3",
        }

    def start(self) -> None:
        """Start everything and wait until it is complete."""
        self.keystore.start()
        for node in self.nodes.values():
            node.start()
        self.wait_complete()

    def stop(self) -> None:
        """End everything."""
        for process in (*self.nodes.values(), self.keystore):
            if process.process is not None and process.process.poll() is None:
                process.stop(kill=True)

    def active(self) -> set[str]:
        """The names that HEALTH_CHECK tells."""
        reply = self.query("HEALTH_CHECK")
        return set(reply.data["active_nodes"].split(", ")) if reply.status == 200 and "active_nodes" in reply.data else set()

    def wait_complete(self) -> None:
        """Wait until all nodes take part and all keys are there."""
        until(lambda: self.active() == set(self.nodes), "all nodes are active")
        until(lambda: set(self.wanted_keys()) <= set(self.keys()), "all keys are in the keystore")
        current = {f"active_workers/{name}": address for name, address in self.addresses.items()}
        until(lambda: all(self.value(key) == address for key, address in current.items()), "all addresses in the keystore are current")

    def wanted_keys(self) -> dict[str, str]:
        """What the keystore must hold."""
        keys = {f"active_workers/{name}": address for name, address in self.addresses.items()}
        keys["master/ms"] = self.addresses["ms"]
        for name in self.nodes:
            for pathology in PATHOLOGIES:
                keys[f"data/{name}/{pathology}"] = json.dumps(self.held(name, pathology))
        return keys

    def held(self, name: str, pathology: str) -> list[str]:
        """The codes of the datasets that a node has, sorted."""
        hospital = self.hospitals.get(name)
        return sorted(item.code for item in self.datasets if item.pathology == pathology and item.hospital == hospital)

    def keys(self) -> list[str]:
        """The keys in the keystore."""
        reply = request(self.keystore_address, 8500, "GET", "/v1/kv/?keys")
        return list(reply.data) if reply.status == 200 else []

    def value(self, key: str) -> str:
        """A key's value."""
        return request(self.keystore_address, 8500, "GET", f"/v1/kv/{key}?raw").text

    def api(self, method: str, target: str, body: Any = None) -> Reply:
        """Ask the master's API."""
        return request(self.addresses["ms"], 9090, method, target, body)

    def query(self, algorithm: str, **parameters: str) -> Reply:
        """Run an algorithm, with parameters as the engine wants them."""
        body = [{"name": name, "value": value} for name, value in parameters.items()] or None
        return self.api("POST", f"/mining/query/{algorithm}", body)

    def database(self, name: str, pathology: str) -> Path:
        """A node's database."""
        return self.folder / "data" / name / pathology / "datasets.db"
