# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A site kit as the hospital gets it: sealed, signed, and what happens to one that was changed."""

from __future__ import annotations

import ast
import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.plugin_utils import _site_kit

PROGRAM = _site_kit.program()
PHRASE = "k3vd-0q9m-xw7t-bn5h-r2cz"
CONTENT = {"federation": "hosp", "node": "wk3", "expires": 2e9, "made_by": "anna@pusher", "token": "SWMTKN-1-canary-token"}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "federation", "-f", str(path)], check=True)
    return path


@pytest.fixture(scope="module")
def kit(key: Path) -> str:
    return _site_kit.build(CONTENT, PHRASE, key)


def data_lines(kit: str, mark: str) -> list[str]:
    return [line[3:] for line in kit.partition("\n" + PROGRAM.END)[2].splitlines() if line.startswith(mark)]


def changed_sealed(kit: str, change: Any) -> str:
    """The kit with another sealed part, in a form that is read."""
    sealed = json.loads(base64.b64decode("".join(data_lines(kit, "#S"))))
    change(sealed)
    text = base64.b64encode(json.dumps(sealed).encode()).decode()
    head, _found, rest = kit.partition("\n#S ")
    tail = rest[rest.index("\n#G ") + 1 :]
    return f"{head}\n#S {text}\n{tail}"


def test_what_was_sealed_comes_back_and_the_phrase_may_be_written_loosely(kit: str, key: Path) -> None:
    part = PROGRAM.parts(kit)
    for phrase in (PHRASE, PHRASE.upper().replace("-", " "), PHRASE.replace("0", "o") + "\n"):
        opened = PROGRAM.opened(part, phrase)
        assert {name: opened[name] for name in CONTENT} == CONTENT
    assert opened["signer"] == _site_kit.fingerprint(key) == PROGRAM.signer(part)


def test_nothing_that_is_secret_can_be_read_in_the_file(kit: str) -> None:
    everything = kit.encode() + b"".join(base64.b64decode("".join(data_lines(kit, mark))) for mark in ("#S", "#L"))
    assert b"canary-token" not in everything
    assert PHRASE.encode() not in everything
    # the same content is sealed differently each time
    seals = {json.loads(PROGRAM.seal(PHRASE, {"node": "a"}, {"x": 1}))["hidden"] for _unused in range(3)}
    assert len(seals) == 3


@pytest.mark.parametrize("phrase", ["", "k3vd-0q9m-xw7t-bn5h-r2cy", "something else altogether"])
def test_another_phrase_opens_nothing(kit: str, phrase: str) -> None:
    with pytest.raises(PROGRAM.Stop, match="passphrase is wrong"):
        PROGRAM.opened(PROGRAM.parts(kit), phrase)


@pytest.mark.parametrize("place", [0, 7, -1])
def test_a_flipped_bit_of_the_sealed_part_is_noticed(kit: str, place: int) -> None:
    def flip(sealed: dict[str, Any]) -> None:
        hidden = bytearray(base64.b64decode(sealed["hidden"]))
        hidden[place] ^= 1
        sealed["hidden"] = base64.b64encode(bytes(hidden)).decode()

    with pytest.raises(PROGRAM.Stop, match="or the file was changed"):
        PROGRAM.opened(PROGRAM.parts(changed_sealed(kit, flip)), PHRASE)


@pytest.mark.parametrize(("name", "value"), [("expires", 3e9), ("node", "other"), ("salt", "00" * 32), ("n", 2**14)])
def test_the_readable_header_cannot_be_changed_either(kit: str, name: str, value: Any) -> None:
    with pytest.raises(PROGRAM.Stop, match="or the file was changed"):
        PROGRAM.opened(PROGRAM.parts(changed_sealed(kit, lambda sealed: sealed["header"].update({name: value}))), PHRASE)


@pytest.mark.parametrize(("name", "value"), [("n", 2), ("n", 2**30), ("r", 1), ("p", 64)])
def test_no_file_can_ask_for_a_weak_key_or_all_the_memory(kit: str, name: str, value: int) -> None:
    with pytest.raises(PROGRAM.Stop, match="does not know"):
        PROGRAM.opened(PROGRAM.parts(changed_sealed(kit, lambda sealed: sealed["header"].update({name: value}))), PHRASE)


def test_an_unreadable_sealed_part_is_damage(kit: str) -> None:
    with pytest.raises(PROGRAM.Stop, match="damaged"):
        PROGRAM.opened(PROGRAM.parts(changed_sealed(kit, lambda sealed: sealed.pop("tag"))), PHRASE)
    with pytest.raises(PROGRAM.Stop, match="damaged"):
        PROGRAM.parts(kit.replace("\n#L ", "\n#L !", 1))


def test_a_changed_program_or_library_is_refused_by_signature_and_by_seal(kit: str) -> None:
    program = kit.replace("Joins this machine to a MIP federation.", "Joins this machine to another federation.", 1)
    line = data_lines(kit, "#L")[3]
    library = kit.replace(line, line[:-1] + ("A" if line[-1] != "A" else "B"), 1)
    for changed, what in ((program, "program"), (library, "library")):
        assert changed != kit
        part = PROGRAM.parts(changed)
        with pytest.raises(PROGRAM.Stop, match="signature is not good"):
            PROGRAM.signer(part)
        with pytest.raises(PROGRAM.Stop, match=f"The {what} in this file is not the one"):
            PROGRAM.opened(part, PHRASE)


def test_a_kit_that_somebody_else_signed_is_noticed(kit: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    signed = kit.partition("\n#G ")[0] + "\n"
    forged = signed + "".join(f"#G {line}\n" for line in _site_kit.sign(signed.encode(), other).splitlines())
    part = PROGRAM.parts(forged)
    assert PROGRAM.signer(part) == _site_kit.fingerprint(other)
    assert PROGRAM.opened(part, PHRASE)["signer"] != PROGRAM.signer(part)


@pytest.mark.parametrize("extra", ["import os\n", "#X aGk=\n", "#L aGk=\n"])
def test_nothing_may_stand_behind_the_signature(kit: str, extra: str) -> None:
    with pytest.raises(PROGRAM.Stop, match="damaged or changed"):
        PROGRAM.parts(kit + extra)


def test_the_commands_in_the_head_of_the_program_check_the_signature(kit: str, key: Path, tmp_path: Path) -> None:
    path = tmp_path / "kit.py"
    path.write_text(kit)
    commands = [line.strip() for line in PROGRAM.__doc__.splitlines() if line.strip().startswith(("grep", "ssh-keygen"))]
    assert len(commands) == 2
    shell = "\n".join(["set -e", f"cd {tmp_path}", *commands]).replace("THIS-FILE", "kit.py")
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert _site_kit.fingerprint(key) in done.stdout
    path.write_text(kit.replace("telephone", "telefone", 1))
    assert subprocess.run(["sh", "-c", shell], capture_output=True, check=False).returncode != 0


#: Imports the whole library, and opens a kit with the program in it.
OPENER = """
import importlib.util, sys
sys.path.insert(0, {library!r})
for name in {wanted!r}:
    __import__("{package}." + name)
assert "ansible" not in sys.modules and "docker" not in sys.modules
spec = importlib.util.spec_from_file_location("kit", {kit!r})
kit = importlib.util.module_from_spec(spec)
sys.modules["kit"] = kit
spec.loader.exec_module(kit)
print(kit.opened(kit.parts(kit.read({kit!r})), {phrase!r})["token"])
"""


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.11", "3.13"])
def test_a_kit_needs_nothing_but_the_python_of_a_supported_host(kit: str, tmp_path: Path, version: str) -> None:
    packed = base64.b64decode("".join(data_lines(kit, "#L")))
    assert packed == _site_kit.library()
    python = next(
        (str(path) for path in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python3"))), shutil.which(f"python{version}")
    )
    if not python:
        pytest.skip(f"no Python {version} on this machine")
    path, library = tmp_path / "kit.py", tmp_path / "library.zip"
    path.write_text(kit)
    library.write_bytes(packed)
    code = OPENER.format(library=str(library), wanted=_site_kit.WANTED, package=_site_kit.PACKAGE, kit=str(path), phrase=PHRASE)
    # -I leaves out this environment's paths, -S its site-packages, where ansible is.
    done = subprocess.run([python, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == CONTENT["token"]
    done = subprocess.run([python, str(_site_kit.FILES / "mip-site"), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([python, str(path), "--extract", str(tmp_path / "library")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    extracted = tmp_path / "library" / _site_kit.PACKAGE.replace(".", "/") / "_swarm.py"
    assert extracted.read_bytes() == (_site_kit.UTILITIES / "_swarm.py").read_bytes()


@pytest.mark.parametrize("name", ["mip-site", "mip-site-kit"])
def test_programs_for_hospitals_are_of_python_3_8_and_its_standard_library(name: str) -> None:
    text = (_site_kit.FILES / name).read_text()
    tree = ast.parse(text, feature_version=(3, 8))
    imported = {alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module).partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= set(sys.stdlib_module_names)
    # what the parser lets pass and 3.8 does not have
    assert not re.search(r"\.removeprefix\(|\.removesuffix\(|strict=|itertools\.pairwise|zoneinfo|tomllib", text)
    assert len(text.splitlines()) < 700, "somebody has to read it"


def test_phrases_can_be_told_by_telephone() -> None:
    phrases = {_site_kit.passphrase() for _unused in range(50)}
    assert len(phrases) == 50
    for phrase in phrases:
        assert re.fullmatch(r"([0-9a-z]{4}-){4}[0-9a-z]{4}", phrase)
        assert not set(phrase) & set("oilu")
        assert PROGRAM.normal(phrase) == phrase.replace("-", "").encode()


def test_a_key_that_does_not_sign_is_told(tmp_path: Path) -> None:
    path = tmp_path / "no-key"
    path.write_text("nothing")
    with pytest.raises(_site_kit.KitError, match="no SSH key"):
        _site_kit.build(CONTENT, PHRASE, path)
    locked = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(locked)], check=True)
    with pytest.raises(_site_kit.KitError, match="ssh-add"):
        _site_kit.build(CONTENT, PHRASE, locked)
