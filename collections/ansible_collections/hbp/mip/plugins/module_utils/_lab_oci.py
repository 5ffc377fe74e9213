# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Container images without a container engine: layers from Debian packages and files, in an OCI layout, pushed with skopeo."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from typing import IO, Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

#: All files of a layer get this time, so that equal content gives equal layers: 2026-01-01.
FILE_TIME = 1767225600
#: Changes whenever the same input would be packed differently from now on, so that older layers in caches are left alone.
LAYER_FORMAT = 1

LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
REFERENCE = "org.opencontainers.image.ref.name"

#: What no image of a lab needs. Licence texts (usr/share/doc/*/copyright) stay.
UNWANTED = re.compile(
    r"(dev|boot|media|mnt|srv|proc|sys)/.*"
    r"|etc/(resolv\.conf|hostname|fstab|apt|dpkg|cron\..*|logrotate\.d|skel|update-motd\.d|alternatives)(/.*)?"
    r"|usr/share/(man|info|locale|lintian|bash-completion|zsh|fish|bug|menu|doc-base|apport|pixmaps|applications|gcc|gdb)(/.*)?"
    r"|usr/share/doc/[^/]+/(?!copyright$).*"
    r"|usr/lib/[^/]+/(gconv|perl-base)/.*"
    r"|usr/lib/python3\.[0-9]+/(pydoc_data|lib2to3|idlelib|turtledemo|test|ensurepip)(/.*)?"
    r"|var/(lib/(apt|dpkg)|cache|log|backups)/.*"
)
#: The files that Debian's packages make when they are configured, which extracting alone does not do.
BASE_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


class ImageError(Exception):
    """An image cannot be built or pushed: says what, where, why and what to do."""


class Member(NamedTuple):
    """One entry of a layer. Content comes from `data` or from the file `source`; `target` is where a link points to."""

    path: str
    kind: bytes = tarfile.REGTYPE
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    data: bytes = b""
    source: str = ""
    target: str = ""


class Layer(NamedTuple):
    """A packed layer: digest and size (bytes) of the blob, digest of the tar in it."""

    digest: str
    size: int
    diff_id: str


class _Digesting:
    """A writable file that calculates the digest of what goes through."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.size += len(data)
        self.file.write(data)
        return len(data)

    def flush(self) -> None:
        self.file.flush()

    @property
    def digest(self) -> str:
        return "sha256:" + self.hash.hexdigest()


def write_layer(file: IO[bytes], members: Iterable[Member]) -> Layer:
    """Write a layer. The bytes depend on nothing but the members and their order."""
    packed = _Digesting(file)
    with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=packed, mtime=0) as compressed:
        plain = _Digesting(compressed)
        with tarfile.open(fileobj=plain, mode="w|", format=tarfile.GNU_FORMAT) as archive:  # type: ignore[call-overload]
            for member in members:
                info = tarfile.TarInfo(member.path)
                info.type, info.mode, info.uid, info.gid, info.mtime = member.kind, member.mode, member.uid, member.gid, FILE_TIME
                info.linkname = member.target
                if member.kind != tarfile.REGTYPE:
                    archive.addfile(info)
                elif member.source:
                    with open(member.source, "rb") as source:
                        info.size = os.fstat(source.fileno()).st_size
                        archive.addfile(info, source)
                else:
                    info.size = len(member.data)
                    archive.addfile(info, io.BytesIO(member.data))
    return Layer(packed.digest, packed.size, plain.digest)


def tree_members(root: str, unwanted: Optional[re.Pattern[str]] = None) -> Iterator[Member]:
    """Yield what is below a directory, sorted, with owners and modes. Devices, sockets and pipes are left out."""
    seen: Dict[Tuple[int, int], str] = {}

    def walk(folder: str, prefix: str) -> Iterator[Member]:
        for name in sorted(os.listdir(folder)):
            full, path = os.path.join(folder, name), prefix + name
            if unwanted is not None and unwanted.fullmatch(path):
                continue
            info = os.lstat(full)
            mode = info.st_mode & 0o7777
            if os.path.islink(full):
                yield Member(path, tarfile.SYMTYPE, 0o777, info.st_uid, info.st_gid, target=os.readlink(full))
            elif os.path.isdir(full):
                yield Member(path, tarfile.DIRTYPE, mode, info.st_uid, info.st_gid)
                yield from walk(full, path + "/")
            elif os.path.isfile(full):
                key = (info.st_dev, info.st_ino)
                if key in seen:
                    yield Member(path, tarfile.LNKTYPE, mode, info.st_uid, info.st_gid, target=seen[key])
                    continue
                seen[key] = path
                yield Member(path, tarfile.REGTYPE, mode, info.st_uid, info.st_gid, source=full)

    yield from walk(root, "")


def with_parents(members: Sequence[Member]) -> List[Member]:
    """Return members sorted by path, with the directories above them added where they are not among them."""
    known = {member.path: member for member in members}
    for member in members:
        parent = os.path.dirname(member.path)
        while parent and parent not in known:
            known[parent] = Member(parent, tarfile.DIRTYPE, 0o755)
            parent = os.path.dirname(parent)
    return [known[path] for path in sorted(known)]


def content_key(description: Any, members: Sequence[Member] = ()) -> str:
    """Return a hash over a description (JSON) and the members' names, modes and content. Raises OSError."""
    found = hashlib.sha256(json.dumps([LAYER_FORMAT, description], sort_keys=True).encode())
    for member in members:
        data = member.data
        if member.source:
            with open(member.source, "rb") as source:
                data = source.read()
        parts = [member.path, member.kind.decode(), member.mode, member.uid, member.gid, member.target, hashlib.sha256(data).hexdigest()]
        found.update(json.dumps(parts).encode())
    return found.hexdigest()


class Store:
    """A cache of layers and images, which is an OCI layout at the same time."""

    def __init__(self, root: str) -> None:
        """Remember where the cache is; `open` makes it."""
        self.root = root
        self.blobs = os.path.join(root, "blobs", "sha256")

    @contextlib.contextmanager
    def locked(self, wait: float = 600) -> Iterator[None]:
        """Make the cache if need be and keep all others out, waiting for them up to some seconds. Raises ImageError."""
        for folder in (self.root, self.blobs, os.path.join(self.root, "layers"), os.path.join(self.root, "images")):
            os.makedirs(folder, mode=0o755, exist_ok=True)
        with open(os.path.join(self.root, "lock"), "w") as lock:
            deadline = time.monotonic() + wait
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise ImageError(
                            f"{self.root} has been in use by another process for {wait:g} s. See: fuser -v {self.root}/lock"
                        ) from None
                    time.sleep(0.2)
            # What a killed run left: never referenced, because names are given at the end.
            for name in os.listdir(self.root):
                if name.startswith("new-"):
                    _remove(os.path.join(self.root, name))
            yield

    def _blob(self, digest: str) -> str:
        return os.path.join(self.blobs, digest.partition(":")[2])

    def _write_json(self, path: str, data: Any) -> None:
        handle, new = tempfile.mkstemp(prefix="new-", dir=self.root)
        with os.fdopen(handle, "w") as file:
            json.dump(data, file, indent=1, sort_keys=True)
            os.fchmod(file.fileno(), 0o644)
        os.replace(new, path)

    def has(self, digest: str, size: int) -> bool:
        """Return whether a blob is there in full."""
        try:
            return os.stat(self._blob(digest)).st_size == size
        except FileNotFoundError:
            return False

    def put(self, data: bytes) -> Tuple[str, int]:
        """Store a small blob. Returns digest and size."""
        digest, size = _digest(data)
        if not self.has(digest, size):
            handle, new = tempfile.mkstemp(prefix="new-", dir=self.root)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                os.fchmod(file.fileno(), 0o644)
            os.replace(new, self._blob(digest))
        return digest, size

    def known_layer(self, key: str) -> Optional[Layer]:
        """Return the layer that was made from what the key stands for, if it is in the cache."""
        try:
            with open(os.path.join(self.root, "layers", key + ".json")) as file:
                layer = Layer(**json.load(file))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return layer if self.has(layer.digest, layer.size) else None

    def forget_layer(self, key: str) -> None:
        """Make the layer of a key unknown, so that it is made anew. Images that have it keep it."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.root, "layers", key + ".json"))

    def layer(self, key: str, members: Callable[[], Iterable[Member]]) -> Layer:
        """Return the layer of a key, made from members unless the cache has it."""
        layer = self.known_layer(key)
        if layer is not None:
            return layer
        handle, new = tempfile.mkstemp(prefix="new-", dir=self.root)
        with os.fdopen(handle, "wb") as file:
            layer = write_layer(file, members())
            os.fchmod(file.fileno(), 0o644)
        os.replace(new, self._blob(layer.digest))
        self._write_json(os.path.join(self.root, "layers", key + ".json"), layer._asdict())
        return layer

    def image(self, name: str, tag: str, architecture: str, config: Mapping[str, Any], layers: Sequence[Layer], dry: bool = False) -> str:
        """Store an image made of layers under name and tag, unless dry. Returns the digest of its manifest."""
        put = _digest if dry else self.put
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(FILE_TIME))
        digest, size = put(
            _canonical(
                {
                    "created": created,
                    "architecture": architecture,
                    "os": "linux",
                    "config": config,
                    "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
                    "history": [{"created": created, "created_by": "hbp.mip.lab_images"} for _layer in layers],
                }
            )
        )
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": digest, "size": size},
            "layers": [{"mediaType": LAYER_TYPE, "digest": layer.digest, "size": layer.size} for layer in layers],
        }
        manifest_digest, manifest_size = put(_canonical(manifest))
        if dry:
            return manifest_digest
        entry = {
            "mediaType": MANIFEST_TYPE,
            "digest": manifest_digest,
            "size": manifest_size,
            "annotations": {REFERENCE: reference(name, tag)},
        }
        path = os.path.join(self.root, "images", reference(name, tag) + ".json")
        if _read_json(path) != entry:
            self._write_json(path, entry)
        return manifest_digest

    def known_image(self, name: str, tag: str) -> Optional[str]:
        """Return the digest of the manifest that is stored under name and tag."""
        entry = _read_json(os.path.join(self.root, "images", reference(name, tag) + ".json"))
        return str(entry["digest"]) if isinstance(entry, dict) and "digest" in entry else None

    def publish(self) -> None:
        """Write the layout's index, and drop blobs that no image needs any more."""
        folder = os.path.join(self.root, "images")
        entries = [entry for entry in (_read_json(os.path.join(folder, name)) for name in sorted(os.listdir(folder))) if entry]
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}
        for path, data in (("oci-layout", {"imageLayoutVersion": "1.0.0"}), ("index.json", index)):
            if _read_json(os.path.join(self.root, path)) != data:
                self._write_json(os.path.join(self.root, path), data)
        used = set()
        for entry in entries:
            manifest = _read_json(self._blob(entry["digest"])) or {}
            used.update([entry["digest"], manifest.get("config", {}).get("digest")])
            used.update(layer["digest"] for layer in manifest.get("layers", []))
        for name in os.listdir(self.blobs):
            if "sha256:" + name not in used:
                os.unlink(os.path.join(self.blobs, name))


def reference(name: str, tag: str) -> str:
    """Return the name of an image in the layout, where neither slash nor colon are of use."""
    return f"{name.replace('/', '-')}-{tag}"


def _canonical(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


def _digest(data: bytes) -> Tuple[str, int]:
    return "sha256:" + hashlib.sha256(data).hexdigest(), len(data)


def _read_json(path: str) -> Any:
    try:
        with open(path) as file:
            return json.load(file)
    except (FileNotFoundError, ValueError):
        return None


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def run(command: Sequence[str], what: str, package: str, cwd: Optional[str] = None, timeout: float = 900) -> str:
    """Return the output of a command. `package` is what provides it. Raises ImageError with the end of what it printed."""
    try:
        done = subprocess.run(
            list(command), cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout, check=False
        )
    except FileNotFoundError:
        raise ImageError(f"{what}: {command[0]} is not installed. Install it: apt-get install {package}") from None
    except subprocess.TimeoutExpired:
        raise ImageError(f"{what}: '{' '.join(command)}' did not end within {timeout:g} s") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-6:]
        raise ImageError(f"{what}: '{' '.join(command)}' failed with code {done.returncode}: " + " | ".join(lines))
    return done.stdout.decode(errors="replace")


def native_architecture() -> str:
    """Return Debian's name of this host's architecture, which for amd64 and arm64 is that of images too. Raises ImageError."""
    return run(["dpkg", "--print-architecture"], "architecture of this host", "dpkg").strip()


def _any_mirror(mirrors: Sequence[str], what: str, attempt: Callable[[str], None]) -> None:
    failures = []
    for mirror in mirrors:
        try:
            attempt(mirror)
            return
        except ImageError as error:
            failures.append(str(error))
    raise ImageError(f"{what} could not be fetched from any mirror. " + " || ".join(failures))


def base_members(suite: str, packages: Sequence[str], mirrors: Sequence[str], architecture: str, folder: str) -> List[Member]:
    """Make a root file system from Debian packages in a folder. Returns what of it belongs in an image. Raises ImageError."""
    if os.geteuid() != 0:
        raise ImageError("the base image can only be made by root. Run the task with become: true")
    root = os.path.join(folder, "root")

    def extract(mirror: str) -> None:
        if os.path.isdir(root):
            shutil.rmtree(root)
        # Extracting alone takes seconds; no package's script runs.
        command = ["mmdebstrap", "--quiet", "--variant=extract", "--mode=root", "--format=directory", f"--architectures={architecture}"]
        run([*command, f"--include={','.join(packages)}", suite, root, mirror], f"base of {suite}", "mmdebstrap debian-archive-keyring")

    _any_mirror(mirrors, f"The base of {suite}", extract)
    # Compiled once here and not at the first start of every container. The hash of a set's order would show in the files.
    python = "python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /usr/lib/python3.*/"
    if os.path.exists(os.path.join(root, "usr/bin/python3")):
        run(["chroot", root, "/usr/bin/env", "PYTHONHASHSEED=0", "sh", "-c", python], "compiling Python's library", "coreutils")
    own = [Member(path, data=text.encode()) for path, text in BASE_FILES.items()] + [Member("root", tarfile.DIRTYPE, 0o700)]
    replaced = {member.path for member in own}
    return with_parents([member for member in tree_members(root, UNWANTED) if member.path not in replaced] + own)


def package_members(
    package: str, version: str, suite: str, paths: Sequence[str], mirrors: Sequence[str], architecture: str, folder: str
) -> List[Member]:
    """Fetch one Debian package and return some of its files. Its signature is checked by apt. Raises ImageError."""
    what = f"package {package} {version} of {suite}"
    for name in ("lists/partial", "archives/partial", "extracted"):
        os.makedirs(os.path.join(folder, name), exist_ok=True)
    sources, empty = os.path.join(folder, "sources.list"), os.path.join(folder, "empty")
    with open(empty, "w"):
        pass
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    if not os.path.exists(keyring):
        raise ImageError(f"{what}: {keyring} is missing. Install it: apt-get install debian-archive-keyring")
    options = {
        # The host's own apt settings, such as a proxy, stay; its sources, pins and state do not count here.
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State::lists": os.path.join(folder, "lists"),
        "Dir::State::status": empty,
        "Dir::Cache": folder,
        "APT::Architecture": architecture,
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        # A suite that has moved to the archive is not renewed any more; the package is pinned by its version.
        "Acquire::Check-Valid-Until": "false",
    }
    command = ["apt-get", "-qq"] + [part for name, value in options.items() for part in ("-o", f"{name}={value}")]

    def download(mirror: str) -> None:
        with open(sources, "w") as file:
            file.write(f"deb [signed-by={keyring}] {mirror} {suite} main\n")
        run([*command, "-o", "APT::Update::Error-Mode=any", "update"], what, "apt")
        run([*command, "download", package], what, "apt", cwd=folder)

    _any_mirror(mirrors, what[0].upper() + what[1:], download)
    files = [os.path.join(folder, name) for name in os.listdir(folder) if name.startswith(package + "_") and name.endswith(".deb")]
    if len(files) != 1:
        raise ImageError(f"{what}: apt-get download left {len(files)} files in {folder}, expected one")
    found = run(["dpkg-deb", "--field", files[0], "Version"], what, "dpkg").strip()
    if not (found + "-").startswith(version + "-") and not found.startswith(version + "+"):
        raise ImageError(f"{what}: {suite} has version {found} now. Change the image's list of packages.")
    root = os.path.join(folder, "extracted")
    run(["dpkg-deb", "--extract", files[0], root], what, "dpkg")
    members = [member for member in tree_members(root) if member.path in paths]
    missing = sorted(set(paths) - {member.path for member in members})
    if missing:
        raise ImageError(f"{what}: the package has no {', '.join(missing)}")
    return with_parents(members)


def file_members(
    files: Sequence[Mapping[str, Any]], directories: Sequence[Mapping[str, Any]], users: Sequence[Mapping[str, Any]]
) -> List[Member]:
    """Return the members of an image's own layer: files (or whole folders), empty directories, and users. Raises ImageError."""
    members = []
    for item in files:
        source, destination = item["source"], item["destination"].strip("/")
        if os.path.isdir(source):
            for member in tree_members(source):
                # A checkout may have been used: its compiled files and its modes say nothing about the program.
                if "__pycache__" in member.path.split("/"):
                    continue
                mode = 0o755 if member.kind == tarfile.DIRTYPE or member.mode & 0o100 else 0o644
                members.append(member._replace(path=f"{destination}/{member.path}", mode=mode, uid=0, gid=0))
        elif os.path.isfile(source):
            members.append(Member(destination, mode=int(item["mode"], 8), source=source))
        else:
            raise ImageError(f"{source} does not exist, but should become /{destination} of an image")
    for item in directories:
        members.append(Member(item["path"].strip("/"), tarfile.DIRTYPE, int(item["mode"], 8), item["uid"], item["gid"]))
    if users:
        passwd, group = BASE_FILES["etc/passwd"], BASE_FILES["etc/group"]
        for user in users:
            passwd += f"{user['name']}:x:{user['uid']}:{user['gid']}::{user['home']}:/usr/sbin/nologin\n"
            group += f"{user['name']}:x:{user['gid']}:\n"
        members += [Member("etc/passwd", data=passwd.encode()), Member("etc/group", data=group.encode())]
    return with_parents(members)


def remote_digest(registry: str, name: str, tag: str, timeout: float = 10) -> Optional[str]:
    """Return the digest of the manifest that a registry has under name and tag, None if it has none. Raises ImageError."""
    connection = http.client.HTTPConnection(registry, timeout=timeout)
    try:
        connection.request("HEAD", f"/v2/{name}/manifests/{tag}", headers={"Accept": MANIFEST_TYPE})
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise ImageError(
            f"the registry at {registry} does not answer: {error}. Is it running? See its log, or run the task lab_registry"
        ) from None
    finally:
        connection.close()
    if answer.status == 404:
        return None
    if answer.status != 200:
        raise ImageError(f"the registry at {registry} answered {answer.status} for {name}:{tag}")
    return answer.headers.get("Docker-Content-Digest")


def push(store: Store, registry: str, name: str, tag: str, digest: str) -> None:
    """Push an image of the store to a registry that speaks plain HTTP. Raises ImageError."""
    target = f"{registry}/{name}:{tag}"
    source = f"oci:{store.root}:{reference(name, tag)}"
    command = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", source, f"docker://{target}"]
    run(command, f"pushing {target}", "skopeo", timeout=300)
    found = remote_digest(registry, name, tag)
    if found != digest:
        raise ImageError(f"pushing {target}: the registry has {found} now, expected {digest}")
