# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The age format: what the program `age` made opens here, and nothing damaged is taken for whole."""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ansible_collections.hbp.mip.plugins.plugin_utils._age import CHUNK, AgeError, Identity, Recipient, Writer, decrypt, identities

#: Made with age-keygen and age 1.1.1 of Debian bookworm, for this test only.
KEY = "AGE-SECRET-KEY-1VRRX7ETX9MYKPY5RHJDW7REKMN66SH0XVNCH7U4LJDFV7LEWZ3GS067UHC"
RECIPIENT = "age1e4jadwswpt4d5jcdrmfya054fu6j33zkz6mp8ysegeacasl24cdqwunl25"
FILE = """
YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IFgyNTUxOSBvSCtJWk9uR08ySllwT3kyZ1BXRWJnamlNZlNPUkdtK0ZhMThNS0J5bFRB
CitucVpCeGJXL2RPb3piT3Zsbkl4dHN2WGtjRGIwcXBCZWp1Uzh5OWtLRWMKLS0tIFJlWlQzcG9HVVc2S0pPRDJPUFM4Y3pxMENX
bTl2dXNZWmZ3UU9uOUdWQm8KPvmX1vyIWzKRFk4xOoye5oHhVtED5zoomMWyNPs6/xeTZQbhewfZDk2oOh5upM1sAdc=
"""


def encrypted(content: bytes, *recipients: Recipient) -> bytes:
    """The content in the age format."""
    target = io.BytesIO()
    writer = Writer(target, recipients)
    for start in range(0, len(content), 50_000):
        writer.write(content[start : start + 50_000])
    writer.finish()
    return target.getvalue()


def opened(data: bytes, *keys: Identity) -> bytes:
    """The content of an age file."""
    return b"".join(decrypt(io.BytesIO(data), keys))


def test_what_age_made_opens() -> None:
    identity = Identity.parse(KEY)
    assert str(identity.recipient) == RECIPIENT
    assert identity.secret() == KEY
    assert KEY not in repr(identity)
    assert opened(base64.b64decode(FILE), identity) == b"made by age 1.1.1\n"


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 17])
def test_round_trip(size: int) -> None:
    ours, others, content = Identity.generate(), Identity.generate(), os.urandom(size)
    data = encrypted(content, others.recipient, ours.recipient)
    assert opened(data, ours) == opened(data, Identity.generate(), others) == content


@pytest.mark.skipif(not shutil.which("age"), reason="age is not installed")
@pytest.mark.parametrize("size", [0, CHUNK, CHUNK + 1])
def test_age_opens_what_is_made_here(size: int, tmp_path: Path) -> None:
    identity, content = Identity.generate(), os.urandom(size)
    key = tmp_path / "key"
    key.write_text(identity.secret() + "\n")
    done = subprocess.run(["age", "-d", "-i", str(key)], input=encrypted(content, identity.recipient), capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, content), done.stderr


def test_every_flipped_bit_of_the_header_and_some_of_the_rest_are_found() -> None:
    identity = Identity.generate()
    data = encrypted(os.urandom(CHUNK + 100), identity.recipient)
    for place in [*range(250), 300, CHUNK, CHUNK + 200, len(data) - 1]:
        damaged = bytearray(data)
        damaged[place] ^= 1
        with pytest.raises(AgeError):
            opened(bytes(damaged), identity)


def test_what_is_cut_off_or_goes_on_is_found() -> None:
    identity = Identity.generate()
    data = encrypted(os.urandom(2 * CHUNK), identity.recipient)
    # Also exactly between two chunks, where every chunk that is left is genuine.
    for size in (0, 10, 100, 220, len(data) - CHUNK - 16, len(data) - 16, len(data) - 1):
        with pytest.raises(AgeError):
            opened(data[:size], identity)
    with pytest.raises(AgeError):
        opened(data + b"x", identity)


def test_another_key_opens_nothing() -> None:
    data = encrypted(b"x", Identity.generate().recipient)
    with pytest.raises(AgeError, match="none of the given keys"):
        opened(data, Identity.generate())


def test_keys_that_are_none() -> None:
    recipient, secret = str(Identity.generate().recipient), Identity.generate().secret()
    with pytest.raises(AgeError, match="secret key") as error:
        Recipient.parse(secret)
    assert secret not in str(error.value)
    for text in (recipient[:-1], recipient[:-1] + ("q" if recipient[-1] != "q" else "p"), "age1", "ssh-ed25519 AAAA", recipient.title()):
        with pytest.raises(AgeError):
            Recipient.parse(text)
    with pytest.raises(AgeError, match="line 2"):
        identities(f"# a comment\n{secret[:-1]}\n")
    with pytest.raises(AgeError, match="no key"):
        identities("# nothing\n")
    assert [str(found.recipient) for found in identities(f"# c\n\n{KEY}\n")] == [RECIPIENT]


def test_nothing_is_encrypted_for_nobody() -> None:
    with pytest.raises(AgeError, match="no recipient"):
        Writer(io.BytesIO(), [])
    with pytest.raises(AgeError, match="no usable recipient"):
        Writer(io.BytesIO(), [Recipient(bytes(32))])
