# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Image registries, asked over their HTTP API (distribution, version 2) with the standard library only.

Everything that comes back is compared with its digest: a registry, a mirror or a proxy on the way cannot give something else.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import http.client
import io
import json
import os
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from typing import IO, Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

DOCKER_HUB = "docker.io"
#: Beginning of the names of images that were loaded from a file.
LOADED = "localhost/mip/"
INDEX_TYPES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFEST_TYPES = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
LARGEST_MANIFEST = 8 << 20
_CHUNK = 1 << 20

_DIGEST = re.compile(r"^sha256:[0-9a-f]{64}$")
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class RegistryError(Exception):
    """An image cannot be had. `code` is `missing`, `unreachable`, `login`, `unsupported`, `corrupt` or `reference`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Reference(NamedTuple):
    """A name of an image, taken apart. Without a digest the tag says which one is meant."""

    registry: str
    repository: str
    tag: str
    digest: str

    @property
    def wanted(self) -> str:
        """What a registry is asked for: the digest, or else the tag."""
        return self.digest or self.tag


def parse(reference: str) -> Reference:
    """The parts of `reference`, by Docker's rules. Raises `RegistryError`."""
    name, at, digest = reference.partition("@")
    if at and not _DIGEST.match(digest):
        raise RegistryError("reference", "%s: %r is no sha256 digest" % (reference, digest))
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        registry, path = first, rest
    else:
        registry, path = DOCKER_HUB, name
    repository, _colon, tag = path.partition(":")
    if registry == DOCKER_HUB and "/" not in repository:
        repository = "library/" + repository
    if not re.match(r"^[a-z0-9]+(?:[._/-]+[a-z0-9]+)*$", repository) or (tag and not re.match(r"^\w[\w.-]{0,127}$", tag)):
        raise RegistryError("reference", "%s is no name of an image" % reference)
    return Reference(registry, repository, tag or ("" if digest else "latest"), digest)


def loaded_name(reference: str, digest: str) -> str:
    """What an image is called on a node that got it from a file: no registry has it, and the digest is a part of the name."""
    parts = parse(reference)
    repository = parts.repository
    if parts.registry == DOCKER_HUB and "/" not in reference.partition("@")[0]:
        repository = repository.partition("/")[2]
    return "%s%s:%s-%s" % (LOADED, repository, (parts.tag or "latest")[:100], digest[7:19])


def digest_of(data: bytes) -> str:
    """The digest of some bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but gives no token to another host."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> Any:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and urllib.parse.urlsplit(newurl).netloc != urllib.parse.urlsplit(req.full_url).netloc:
            new.remove_header("Authorization")
        return new


class Registry:
    """One registry, with what it takes to reach it."""

    def __init__(self, name: str, insecure: Sequence[str] = (), mirrors: Sequence[str] = (), timeout: float = 20) -> None:
        """Remember it. `insecure` are registries reached without TLS, `mirrors` stand in for Docker Hub, `timeout` is in seconds."""
        self.name = name
        self.timeout = timeout
        self.insecure = name in insecure or name.split(":")[0] in ("localhost", "127.0.0.1")
        self.tokens: Dict[str, str] = {}
        context = ssl.create_default_context()
        for path in sorted(glob.glob(os.path.join("/etc/docker/certs.d", name, "*.crt"))):
            context.load_verify_locations(path)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self.opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _Redirects())
        if name == DOCKER_HUB:
            self.bases = [mirror.rstrip("/") for mirror in mirrors] + ["https://registry-1.docker.io"]
        elif self.insecure:
            # As the engine does: TLS without a look at the certificate, then none.
            self.bases = ["https://" + name, "http://" + name]
        else:
            self.bases = ["https://" + name]

    # --- requests

    def open(self, repository: str, path: str, accept: Sequence[str] = ()) -> Any:
        """The response to a GET of `path` below a repository. Raises `RegistryError`."""
        failure: Optional[RegistryError] = None
        for base in list(self.bases):
            try:
                response = self._get("%s/v2/%s/%s" % (base, repository, path), repository, accept)
            except RegistryError as error:
                # What a mirror does not have, the registry itself may.
                failure = failure if failure is not None and failure.code != "unreachable" else error
                if self.insecure and error.code != "unreachable":
                    break
                continue
            if self.bases[0] != base and self.insecure:
                self.bases = [base]
            return response
        raise failure or RegistryError("unreachable", "%s has no address" % self.name)

    def _get(self, url: str, repository: str, accept: Sequence[str]) -> Any:
        for again in (True, False):
            request = urllib.request.Request(url)  # noqa: S310 - http and https only, see bases
            if accept:
                request.add_header("Accept", ", ".join(accept))
            host = urllib.parse.urlsplit(url).netloc
            if self.tokens.get(host + repository):
                request.add_header("Authorization", "Bearer " + self.tokens[host + repository])
            try:
                return self.opener.open(request, timeout=self.timeout)
            except urllib.error.HTTPError as error:
                with error:
                    body = error.read(2000)
                if error.code == 401 and again:
                    self.tokens[host + repository] = self._token(error.headers.get("WWW-Authenticate") or "", repository)
                    continue
                raise self._refusal(url, error.code, body) from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error) or type(error).__name__
                raise RegistryError("unreachable", "%s: %s" % (url, reason)) from None
        raise RegistryError("login", "%s: it wants a login" % url)

    def _refusal(self, url: str, status: int, body: bytes) -> RegistryError:
        try:
            errors = json.loads(body.decode("utf-8"))["errors"]
            words = "; ".join(str(entry.get("message") or entry.get("code")) for entry in errors)
        except (ValueError, KeyError, TypeError, AttributeError):
            words = "HTTP %d" % status
        if status == 404:
            return RegistryError("missing", "the registry %s does not have it (%s)" % (self.name, words))
        if status in (401, 403):
            return RegistryError("login", "the registry %s wants a login for it (%s)" % (self.name, words))
        return RegistryError("unreachable", "%s: %s" % (url, words))

    def _token(self, challenge: str, repository: str) -> str:
        """A token for everybody, as public registries give it."""
        kind, _space, rest = challenge.partition(" ")
        given = dict(_CHALLENGE.findall(rest))
        realm = given.pop("realm", "")
        scheme = urllib.parse.urlsplit(realm).scheme
        if kind.lower() != "bearer" or (scheme != "https" and not (self.insecure and scheme == "http")):
            raise RegistryError("login", "the registry %s wants a login" % self.name)
        query = {"scope": "repository:%s:pull" % repository, **{key: value for key, value in given.items() if key == "service"}}
        try:
            with self.opener.open("%s?%s" % (realm, urllib.parse.urlencode(query)), timeout=self.timeout) as response:
                answer = json.loads(response.read(LARGEST_MANIFEST).decode("utf-8"))
            return str(answer.get("token") or answer["access_token"])
        except urllib.error.HTTPError as error:
            raise RegistryError(
                "login", "the registry %s wants a login (its token service says HTTP %d)" % (self.name, error.code)
            ) from None
        except (OSError, http.client.HTTPException, ValueError, KeyError, AttributeError) as error:
            raise RegistryError("unreachable", "%s: %s" % (realm, error)) from None

    # --- images

    def manifest(self, repository: str, wanted: str) -> Tuple[bytes, str]:
        """A manifest or index, as bytes, and its type. Raises `RegistryError`."""
        with self.open(repository, "manifests/" + wanted, (*INDEX_TYPES, *MANIFEST_TYPES)) as response:
            data = response.read(LARGEST_MANIFEST + 1)
            kind = str(response.headers.get("Content-Type") or "").partition(";")[0].strip()
            told = response.headers.get("Docker-Content-Digest")
        found = digest_of(data)
        expected = wanted if _DIGEST.match(wanted) else told or found
        if found != expected:
            raise RegistryError("corrupt", "%s/%s: what the registry gave is %s, not %s" % (self.name, repository, found, expected))
        if kind not in (*INDEX_TYPES, *MANIFEST_TYPES):
            with contextlib.suppress(ValueError, AttributeError):
                kind = str(json.loads(data.decode("utf-8")).get("mediaType") or kind)
        if kind not in (*INDEX_TYPES, *MANIFEST_TYPES):
            raise RegistryError(
                "unsupported", "%s/%s:%s is of the type %s, which engines do not run" % (self.name, repository, wanted, kind)
            )
        return data, kind

    def blob(self, repository: str, digest: str, size: int, into: IO[bytes]) -> None:
        """Write a blob to a file. Raises `RegistryError` when it is not what its digest says."""
        done, hashed = 0, hashlib.sha256()
        with self.open(repository, "blobs/" + digest) as response:
            try:
                while True:
                    piece = response.read(_CHUNK)
                    if not piece:
                        break
                    done += len(piece)
                    hashed.update(piece)
                    into.write(piece)
            except (OSError, http.client.HTTPException) as error:
                raise RegistryError("unreachable", "%s: %s broke off after %d bytes: %s" % (self.name, digest, done, error)) from None
        if "sha256:" + hashed.hexdigest() != digest or done != size:
            raise RegistryError("corrupt", "%s: %s is not what the registry gave (%d of %d bytes)" % (self.name, digest, done, size))

    def small_blob(self, repository: str, digest: str, size: int) -> bytes:
        """A blob that is an image's configuration."""
        if size > LARGEST_MANIFEST:
            raise RegistryError("unsupported", "%s: %s has %d bytes, too many for a configuration" % (self.name, digest, size))
        file = io.BytesIO()
        self.blob(repository, digest, size, file)
        return file.getvalue()


class Image(NamedTuple):
    """An image as a registry has it, for one platform."""

    reference: str
    digest: str
    manifest: str
    manifest_bytes: bytes
    manifest_type: str
    config: Dict[str, Any]
    layers: List[Dict[str, Any]]
    platform: str
    platforms: List[str]

    @property
    def size(self) -> int:
        """Bytes that a node without any of it fetches."""
        return int(self.config["size"]) + sum(int(layer["size"]) for layer in self.layers) + len(self.manifest_bytes)

    def entry(self) -> Dict[str, Any]:
        """What the lock file keeps of it."""
        return {
            "reference": self.reference,
            "digest": self.digest,
            "size": self.size,
            "platform": self.platform,
            "platforms": self.platforms,
            "manifest": self.manifest,
            "id": str(self.config["digest"]),
        }


def _platform(entry: Any) -> str:
    parts = [str(entry.get(key) or "") for key in ("os", "architecture", "variant")]
    return "/".join(part for part in parts if part)


def _decode(data: bytes, what: str) -> Dict[str, Any]:
    try:
        document = json.loads(data.decode("utf-8"))
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise RegistryError("corrupt", "%s is no JSON object" % what)
    return document


def describe(registry: Registry, reference: str, platform: str = "linux/amd64") -> Image:
    """Look an image up. Raises `RegistryError`, also when it does not exist for `platform`."""
    parts = parse(reference)
    data, kind = registry.manifest(parts.repository, parts.wanted)
    digest = digest_of(data)
    platforms: List[str] = []
    manifest, manifest_data = digest, data
    if kind in INDEX_TYPES:
        listed = [entry for entry in _decode(data, reference).get("manifests") or [] if isinstance(entry, dict)]
        known = {_platform(entry.get("platform") or {}): str(entry.get("digest")) for entry in listed}
        platforms = sorted(name for name in known if name and not name.startswith("unknown"))
        found = next((known[name] for name in sorted(known) if name == platform or name.startswith(platform + "/")), "")
        if not found:
            raise RegistryError(
                "unsupported", "%s has no variant for %s, only for %s" % (reference, platform, ", ".join(platforms) or "none")
            )
        manifest = found
        manifest_data, kind = registry.manifest(parts.repository, manifest)
        if kind in INDEX_TYPES:
            raise RegistryError("unsupported", "%s: an index in an index" % reference)
    document = _decode(manifest_data, reference)
    config, layers = document.get("config"), document.get("layers")
    if not isinstance(config, dict) or not isinstance(layers, list) or not _DIGEST.match(str(config.get("digest"))):
        raise RegistryError("unsupported", "%s: its manifest has no config or no layers" % reference)
    if not platforms:
        content = _decode(registry.small_blob(parts.repository, str(config["digest"]), int(config.get("size") or 0)), reference)
        own = _platform(content)
        platforms = [own] if own else []
        if own and own != platform and not own.startswith(platform + "/"):
            raise RegistryError("unsupported", "%s is for %s, not for %s" % (reference, own, platform))
    return Image(reference, digest, manifest, manifest_data, kind, config, layers, platform, platforms)
