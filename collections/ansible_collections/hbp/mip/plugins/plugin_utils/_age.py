# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip and mipfed: files in the age format (age-encryption.org/v1), for X25519 recipients.

What is written here opens with the program `age`, and the other way round. Nothing is held in memory but one chunk of 64 KiB, and
nothing is given out that was not authenticated before.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError:
    # ansible-core, which this runs in, requires it; only the import test of ansible-test has none.
    pass

VERSION = b"age-encryption.org/v1"
CHUNK = 64 * 1024
TAG = 16
#: A header of ours has one line of 100 bytes for each recipient; a longer one than this is not read.
LONGEST_HEADER = 64 * 1024

_RECIPIENT = "age"
_IDENTITY = "age-secret-key-"
_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


class AgeError(Exception):
    """A key cannot be used, or a file is no age file, damaged, or not for this key."""


def _polymod(values: Sequence[int]) -> int:
    generator = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for place in range(5):
            check ^= generator[place] if top >> place & 1 else 0
    return check


def _expanded(prefix: str) -> list[int]:
    return [ord(letter) >> 5 for letter in prefix] + [0] + [ord(letter) & 31 for letter in prefix]


def _regroup(values: Sequence[int], source: int, target: int, pad: bool) -> list[int]:
    gathered, bits, result = 0, 0, []
    for value in values:
        gathered = gathered << source | value
        bits += source
        while bits >= target:
            bits -= target
            result.append(gathered >> bits & (1 << target) - 1)
    if pad and bits:
        result.append(gathered << target - bits & (1 << target) - 1)
    elif not pad and (bits >= source or gathered & (1 << bits) - 1):
        raise ValueError("padding")
    return result


def _bech32(prefix: str, data: bytes) -> str:
    """Encode 32 bytes as Bech32 (BIP 173), in lower case."""
    values = _regroup(data, 8, 5, True)
    check = _polymod([*_expanded(prefix), *values, 0, 0, 0, 0, 0, 0]) ^ 1
    values += [check >> 5 * (5 - place) & 31 for place in range(6)]
    return f"{prefix}1{''.join(_ALPHABET[value] for value in values)}"


def _unbech32(prefix: str, text: str, what: str) -> bytes:
    """Decode what `_bech32` makes. The text is not repeated in errors: it may be a secret."""
    lower = text.lower()
    try:
        if text not in (lower, text.upper()) or not lower.startswith(f"{prefix}1"):
            raise ValueError("prefix")
        values = [_ALPHABET.index(letter) for letter in lower[len(prefix) + 1 :]]
        if _polymod([*_expanded(prefix), *values]) != 1:
            raise ValueError("checksum")
        data = bytes(_regroup(values[:-6], 5, 8, False))
    except ValueError as error:
        raise AgeError(f"this is no {what} (wrong {error}): it was cut off or mistyped") from None
    if len(data) != 32:
        raise AgeError(f"this is no {what}: it has {len(data)} bytes in place of 32")
    return data


@dataclass(frozen=True)
class Recipient:
    """Whom a file is encrypted for: the public half of a key."""

    key: bytes

    @classmethod
    def parse(cls, text: str) -> Recipient:
        """Read `age1…`.

        :raises AgeError: when it is no recipient; a secret key given by mistake is told without repeating it.
        """
        text = text.strip()
        if text.upper().startswith("AGE-SECRET-KEY-"):
            raise AgeError("this is a secret key; give the recipient that belongs to it, age1…")
        return cls(_unbech32(_RECIPIENT, text, "recipient of age"))

    def __str__(self) -> str:
        return _bech32(_RECIPIENT, self.key)


@dataclass(frozen=True)
class Identity:
    """What opens a file: the secret half of a key."""

    key: bytes

    @classmethod
    def generate(cls) -> Identity:
        """Return a new key."""
        return cls(X25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> Identity:
        """Read `AGE-SECRET-KEY-1…`.

        :raises AgeError: when it is none.
        """
        return cls(_unbech32(_IDENTITY, text.strip(), "secret key of age"))

    @property
    def recipient(self) -> Recipient:
        """The public half."""
        return Recipient(X25519PrivateKey.from_private_bytes(self.key).public_key().public_bytes_raw())

    def secret(self) -> str:
        """Return the key as age writes it into an identity file."""
        return _bech32(_IDENTITY, self.key).upper()

    def __repr__(self) -> str:
        return f"Identity({self.recipient})"


def identities(text: str) -> list[Identity]:
    """Return the keys of an identity file, as `age-keygen` writes it.

    :raises AgeError: naming the line that is none.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            found.append(Identity.parse(line))
        except AgeError as error:
            raise AgeError(f"line {number}: {error}") from None
    if not found:
        raise AgeError("there is no key in it")
    return found


def _encode(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def _decode(text: bytes) -> bytes:
    if b"=" in text:
        raise AgeError("the header is damaged")
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise AgeError("the header is damaged") from None
    if _encode(data) != text:
        raise AgeError("the header is damaged")
    return data


def _derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(secret)


def _wrap_key(shared: bytes, share: bytes, recipient: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(_derive(shared, share + recipient, VERSION + b"/X25519"))


def _seal(file_key: bytes, head: bytes) -> bytes:
    return _encode(hmac.digest(_derive(file_key, b"", b"header"), head, "sha256"))


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\x01" if last else b"\x00")


class Writer:
    """Encrypts what is written to it into another file, which stays open. Only `finish` makes the result complete."""

    def __init__(self, target: BinaryIO, recipients: Sequence[Recipient]) -> None:
        """Write the header.

        :raises AgeError: without recipients, or for one that is no point of the curve.
        """
        if not recipients:
            raise AgeError("there is no recipient to encrypt for")
        file_key = os.urandom(16)
        head = VERSION + b"\n"
        for recipient in recipients:
            once = X25519PrivateKey.generate()
            share = once.public_key().public_bytes_raw()
            try:
                shared = once.exchange(X25519PublicKey.from_public_bytes(recipient.key))
            except ValueError:
                raise AgeError(f"{recipient} is no usable recipient") from None
            body = _wrap_key(shared, share, recipient.key).encrypt(bytes(12), file_key, None)
            head += b"-> X25519 " + _encode(share) + b"\n" + _encode(body) + b"\n"
        head += b"---"
        nonce = os.urandom(16)
        self._target = target
        self._target.write(head + b" " + _seal(file_key, head) + b"\n" + nonce)
        self._cipher = ChaCha20Poly1305(_derive(file_key, nonce, b"payload"))
        self._number = 0
        self._buffer = bytearray()

    def write(self, data: bytes) -> int:
        """Take more of the content."""
        self._buffer += data
        # The last chunk is marked as such, so that one is always kept back.
        while len(self._buffer) > CHUNK:
            self._chunk(bytes(self._buffer[:CHUNK]), False)
            del self._buffer[:CHUNK]
        return len(data)

    def finish(self) -> None:
        """Write the last chunk."""
        self._chunk(bytes(self._buffer), True)
        self._buffer.clear()

    def _chunk(self, data: bytes, last: bool) -> None:
        self._target.write(self._cipher.encrypt(_nonce(self._number, last), data, None))
        self._number += 1


def _line(source: BinaryIO, left: int) -> bytes:
    line = source.readline(left + 1)
    if not line.endswith(b"\n") or len(line) > left:
        raise AgeError("the file is cut off, or is no file of age")
    return line


_STANZA = re.compile(rb"-> ([!-~]+(?: [!-~]+)*)\n")


def _header(source: BinaryIO) -> tuple[list[tuple[list[bytes], bytes]], bytes, bytes]:
    """Return stanzas (arguments, body), the part that the seal covers, and the seal."""
    left = LONGEST_HEADER
    head = _line(source, left)
    if head != VERSION + b"\n":
        raise AgeError("this is no file of age")
    stanzas: list[tuple[list[bytes], bytes]] = []
    while True:
        line = _line(source, left - len(head))
        if line.startswith(b"--- "):
            return stanzas, head + b"---", line[4:-1]
        arguments = _STANZA.fullmatch(line)
        if not arguments:
            raise AgeError("the header is damaged")
        head += line
        body = b""
        while True:
            line = _line(source, left - len(head))
            head += line
            body += line[:-1]
            if len(line) > 65:
                raise AgeError("the header is damaged")
            if len(line) < 65:
                break
        stanzas.append((arguments.group(1).split(b" "), _decode(body)))


def _file_key(stanzas: Sequence[tuple[list[bytes], bytes]], keys: Sequence[Identity]) -> bytes:
    for arguments, body in stanzas:
        if arguments[0] != b"X25519":
            continue
        if len(arguments) != 2 or len(body) != 16 + TAG:
            raise AgeError("the header is damaged")
        share = _decode(arguments[1])
        if len(share) != 32:
            raise AgeError("the header is damaged")
        for identity in keys:
            try:
                shared = X25519PrivateKey.from_private_bytes(identity.key).exchange(X25519PublicKey.from_public_bytes(share))
                return _wrap_key(shared, share, identity.recipient.key).decrypt(bytes(12), body, None)
            except (InvalidTag, ValueError):
                continue
    raise AgeError("none of the given keys opens it: it was encrypted for somebody else, or its header is damaged")


def decrypt(source: BinaryIO, keys: Sequence[Identity]) -> Iterator[bytes]:
    """Yield the content of an age file, chunk by chunk, each authenticated.

    :raises AgeError: at once for a wrong key or header; later, when the content is damaged, cut off, or goes on after its end.
        What was yielded before is genuine, but only the normal end says that it is everything.
    """
    stanzas, head, seal = _header(source)
    file_key = _file_key(stanzas, keys)
    if not hmac.compare_digest(_seal(file_key, head), seal):
        raise AgeError("the header is damaged")
    nonce = source.read(16)
    if len(nonce) != 16:
        raise AgeError("the file is cut off")
    return _payload(source, ChaCha20Poly1305(_derive(file_key, nonce, b"payload")))


def _payload(source: BinaryIO, cipher: ChaCha20Poly1305) -> Iterator[bytes]:
    number = 0
    sealed = _exactly(source, CHUNK + TAG)
    while True:
        following = _exactly(source, CHUNK + TAG) if len(sealed) == CHUNK + TAG else b""
        last = not following
        try:
            data = cipher.decrypt(_nonce(number, last), sealed, None)
        except InvalidTag:
            why = "it is damaged or cut off" if last else "it is damaged"
            raise AgeError(f"{why} (at {number * CHUNK} bytes of its content)") from None
        if not data and number:
            raise AgeError("it is damaged: an empty chunk at its end")
        yield data
        if last:
            return
        number, sealed = number + 1, following


def _exactly(source: BinaryIO, size: int) -> bytes:
    """Read so many bytes, or what there is before the end."""
    parts = []
    while size:
        part = source.read(size)
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
