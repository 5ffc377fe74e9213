# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bundles: a federation's images as files, with checksums and a signature that a hospital checks with sha256sum and ssh-keygen."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from typing import IO, Any, Dict, List, Mapping, Sequence

from ansible_collections.hbp.mip.plugins.module_utils import _registry

SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"
SIGNERS = "allowed_signers"
LIST = "bundle.json"
README = "README.txt"
#: What the signature is for; one that was made for something else does not count.
NAMESPACE = "mip-bundle"
SCHEMA = 1
_CHUNK = 1 << 20
#: All files of an archive get this time, so that equal images give equal archives: 2026-01-01.
_FILE_TIME = 1767225600


class BundleError(Exception):
    """A bundle cannot be made, or must not be used: says what, where, why and what to do."""


def sha256_of(path: str) -> str:
    """SHA-256 of a file."""
    hashed = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(_CHUNK), b""):
            hashed.update(piece)
    return hashed.hexdigest()


def _member(archive: tarfile.TarFile, name: str, size: int, source: IO[bytes]) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, _FILE_TIME
    archive.addfile(info, source)


def _add_bytes(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    _member(archive, name, len(data), io.BytesIO(data))


def _blob_name(digest: str) -> str:
    return "blobs/sha256/" + digest[7:]


def write_image(registry: _registry.Registry, image: _registry.Image, tag: str, path: str, scratch: str) -> None:
    """Fetch an image and write it as an archive that `docker load` takes, whichever store the engine has.

    `tag` is the name it gets when it is loaded, `scratch` a folder for parts of it. Raises `RegistryError` and `BundleError`.
    """
    repository = _registry.parse(image.reference).repository
    blobs = {str(part["digest"]): int(part["size"]) for part in [image.config, *image.layers]}
    descriptor = {"mediaType": image.manifest_type, "digest": image.manifest, "size": len(image.manifest_bytes)}
    annotations = {"io.containerd.image.name": tag, "org.opencontainers.image.ref.name": tag.rpartition(":")[2]}
    index = {"schemaVersion": 2, "manifests": [{**descriptor, "annotations": annotations}]}
    listed = [
        {
            "Config": _blob_name(str(image.config["digest"])),
            "RepoTags": [tag],
            "Layers": [_blob_name(str(layer["digest"])) for layer in image.layers],
        }
    ]
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        _add_bytes(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _add_bytes(archive, "index.json", json.dumps(index).encode("utf-8"))
        _add_bytes(archive, "manifest.json", json.dumps(listed).encode("utf-8"))
        _add_bytes(archive, _blob_name(image.manifest), image.manifest_bytes)
        for digest, size in sorted(blobs.items()):
            part = os.path.join(scratch, digest[7:])
            try:
                with open(part, "wb") as file:
                    registry.blob(repository, digest, size, file)
                with open(part, "rb") as file:
                    _member(archive, _blob_name(digest), size, file)
            finally:
                if os.path.exists(part):
                    os.unlink(part)


def run(command: Sequence[str], what: str, stdin: Any = subprocess.DEVNULL) -> str:
    """Run a program and return its output. Raises `BundleError` naming `what` and the program's words."""
    try:
        done = subprocess.run(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False)
    except FileNotFoundError:
        raise BundleError("%s: %s is not installed. Next: apt-get install openssh-client" % (what, command[0])) from None
    except subprocess.TimeoutExpired:
        raise BundleError("%s: %s did not end within 60 s" % (what, command[0])) from None
    text = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode:
        raise BundleError("%s: %s: %s" % (what, command[0], text or "exit code %d" % done.returncode))
    return text


def sign(folder: str, key: str) -> None:
    """Sign the checksums with an SSH key whose private file is `key`."""
    sums, signature = os.path.join(folder, SUMS), os.path.join(folder, SIGNATURE)
    if os.path.exists(signature):
        os.unlink(signature)
    run(["ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", NAMESPACE, sums], "signing %s with %s" % (sums, key))


def signer_line(federation: str, public_key: str) -> str:
    """The line of an allowed-signers file for a federation's public key."""
    kind, key = public_key.split()[:2]
    return '%s namespaces="%s" %s %s\n' % (federation, NAMESPACE, kind, key)


def read_list(folder: str) -> Dict[str, Any]:
    """What a bundle says of itself. Raises `BundleError`."""
    path = os.path.join(folder, LIST)
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except (OSError, ValueError) as error:
        raise BundleError("%s: %s. Is this what `mipfed image save` wrote?" % (path, error)) from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or not isinstance(document.get("images"), list):
        raise BundleError("%s: not a list of artefacts that this version knows" % path)
    return document


def read_sums(folder: str) -> Dict[str, str]:
    """The checksums of a bundle by file. Raises `BundleError` for names that lead out of it."""
    sums = {}
    path = os.path.join(folder, SUMS)
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError("%s: %s. Is this what `mipfed image save` wrote?" % (path, error)) from None
    for number, line in enumerate(lines, 1):
        value, _space, name = line.partition("  ")
        if len(value) != 64 or not safe_name(name):
            raise BundleError("%s:%d: not a line of checksums" % (path, number))
        sums[name] = value
    return sums


def safe_name(name: str) -> bool:
    """Whether a name stays within a folder."""
    parts = name.split("/")
    return bool(name) and not name.startswith("/") and all(part not in ("", ".", "..") for part in parts) and "\\" not in name


def verify(folder: str, signers: Mapping[str, str], only: Sequence[str] = ()) -> str:
    """Check signature and checksums of a bundle; returns whose key signed it.

    `signers` are public keys by name. With `only`, just these files are hashed. Raises `BundleError`.
    """
    sums = os.path.join(folder, SUMS)
    checksums = read_sums(folder)
    if not os.path.exists(os.path.join(folder, SIGNATURE)):
        raise BundleError("%s: it is not signed: %s is missing" % (folder, SIGNATURE))
    by, words = "", []
    for name, key in signers.items():
        with tempfile.NamedTemporaryFile("w", prefix="mip-signer-", encoding="utf-8") as allowed:
            allowed.write(signer_line(name, key))
            allowed.flush()
            command = ["ssh-keygen", "-Y", "verify", "-f", allowed.name, "-I", name, "-n", NAMESPACE, "-s", os.path.join(folder, SIGNATURE)]
            try:
                with open(sums, "rb") as stdin:
                    run(command, "key of %s" % name, stdin)
                by = name
                break
            except BundleError as error:
                words.append(str(error))
    if not by:
        raise BundleError(
            "%s: the signature of its checksums is not by a key that is trusted here (%s). Next: compare the key with whom it comes from, "
            "and give it with --signer" % (folder, "; ".join(words) or "none was given")
        )
    wrong = []
    for name, expected in sorted(checksums.items()):
        if only and name not in only:
            continue
        path = os.path.join(folder, name)
        if not os.path.isfile(path) or os.path.islink(path):
            wrong.append("%s is missing" % name)
        elif sha256_of(path) != expected:
            wrong.append("%s is not what was signed" % name)
    wrong += ["%s is not among the signed files" % name for name in only if name not in checksums]
    if wrong:
        raise BundleError("%s: %s. Next: get the bundle again" % (folder, "; ".join(wrong)))
    return by


def write_sums(folder: str) -> Dict[str, str]:
    """Write the checksums of all files of a bundle; returns them."""
    found = {}
    for base, _folders, files in os.walk(folder):
        for name in files:
            path = os.path.join(base, name)
            relative = os.path.relpath(path, folder)
            if relative not in (SUMS, SIGNATURE):
                found[relative] = sha256_of(path)
    with open(os.path.join(folder, SUMS), "w", encoding="utf-8") as file:
        file.write("".join("%s  %s\n" % (found[name], name) for name in sorted(found)))
    return found


def pack(folder: str, name: str, path: str) -> None:
    """Pack a bundle into one file; `name` is the folder that it unpacks to."""
    draft = path + ".part"
    with tarfile.open(draft, "w", format=tarfile.GNU_FORMAT) as archive:
        # The signed list comes first, so that it can be read before the large files.
        first = [SUMS, SIGNATURE, SIGNERS, README, LIST]
        rest: List[str] = []
        for base, _folders, files in os.walk(folder):
            rest += [os.path.relpath(os.path.join(base, file), folder) for file in files]
        for relative in [*first, *sorted(set(rest) - set(first))]:
            source = os.path.join(folder, relative)
            with open(source, "rb") as stream:
                _member(archive, "%s/%s" % (name, relative), os.path.getsize(source), stream)
    with open(draft, "rb") as file:
        os.fsync(file.fileno())
    os.replace(draft, path)


def unpack(path: str, folder: str) -> str:
    """Unpack a bundle and return its folder. Only plain files within it are written. Raises `BundleError`."""
    tops = set()
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isdir():
                    continue
                top, slash, rest = member.name.partition("/")
                if not member.isfile() or not slash or not safe_name(member.name):
                    raise BundleError("%s: %r has no place in a bundle" % (path, member.name))
                tops.add(top)
                target = os.path.join(folder, top, rest)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                source = archive.extractfile(member)
                if source is None:  # only of what is no file
                    continue
                with open(target, "xb") as file:
                    shutil.copyfileobj(source, file, _CHUNK)
    except (OSError, tarfile.TarError) as error:
        raise BundleError("%s: %s. Is this what `mipfed image save` wrote?" % (path, error)) from None
    if len(tops) != 1:
        raise BundleError("%s: it does not hold one folder. Is this what `mipfed image save` wrote?" % path)
    return os.path.join(folder, tops.pop())


README_TEXT = """\
Images of the federation {federation}, made {when}.

Check that they come from the federation and are unchanged, with the standard tools of any Debian or Ubuntu:

  ssh-keygen -Y verify -f allowed_signers -I {federation} -n {namespace} -s {signature} < {sums} && sha256sum -c {sums}

allowed_signers is a part of what is being checked. Compare the fingerprint of its key with what the federation tells you over
another way, such as the telephone:

  {fingerprint}

Load them into the engine of a host by hand (`mipfed image load` does this for all nodes, over SSH):

{loads}
"""


def readme(federation: str, when: str, fingerprint: str, files: Sequence[str]) -> str:
    """The text for the people of a hospital."""
    return README_TEXT.format(
        federation=federation,
        when=when,
        namespace=NAMESPACE,
        signature=SIGNATURE,
        sums=SUMS,
        fingerprint=fingerprint,
        loads="\n".join("  docker load -i %s" % name for name in files),
    )
