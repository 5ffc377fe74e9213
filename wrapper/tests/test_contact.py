# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first contact of `mipfed init` with real machines that have a password for us, and no key."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from mipfed.exitcodes import ExitCode

from .conftest import COLLECTION, Project
from .machines import ACCOUNT, PASSWORD, Machines, lacking

pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking())
IMAGES = ["--engine-image", "engine:1.0"]
VAULT = "a new vault password"


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    """Machines that end with the test."""
    (tmp_path / "machines").mkdir()
    made = Machines(tmp_path / "machines")
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def real(project: Project) -> Project:
    """The project, with the collection's own playbooks."""
    folder = project.collections / "ansible_collections" / "hbp" / "mip" / "playbooks"
    shutil.rmtree(folder)
    folder.symlink_to(COLLECTION / "playbooks")
    return project


def given(machines: dict[str, str]) -> list[str]:
    """Options that name the nodes: the first is the master."""
    (master, where), *workers = machines.items()
    return ["--master", f"{master}={where}", *(word for name, at in workers for word in ("--worker", f"{name}={at}")), *IMAGES]


def password_file(project: Project, text: str = PASSWORD) -> list[str]:
    """Options that give the password."""
    path = project.root / "password"
    path.write_text(text + "\n", encoding="utf-8")
    return ["--user", ACCOUNT, "--password-file", str(path)]


class Dialogue:
    """A run of mipfed on a terminal."""

    def __init__(self, project: Project, *arguments: str) -> None:
        argv, environment = project.command(*arguments)
        environment |= {"TERM": "dumb", "LC_ALL": "C.UTF-8"}
        self.child = pexpect.spawn(
            argv[0], argv[1:], cwd=str(project.root), env=environment, dimensions=(50, 200), timeout=60, encoding="utf-8"
        )
        self.shown = ""

    def answer(self, question: str, text: str, *, hidden: bool = False) -> None:
        """Wait for a question and answer it."""
        self.child.expect_exact(question)
        self.shown += str(self.child.before) + question
        self.child.expect(r"[:\]] $")
        if hidden:
            assert self.child.waitnoecho(60)
        self.child.sendline(text)

    def end(self) -> int | None:
        """Wait for the end and return the exit code."""
        self.child.expect(pexpect.EOF)
        self.shown += str(self.child.before)
        self.child.close()
        status: int | None = self.child.exitstatus
        return status

    def kill(self, question: str, how: signal.Signals) -> int | None:
        """Send a signal at a question."""
        self.child.expect_exact(question)
        self.child.expect(r"[:\]] $")
        self.child.kill(how)
        return self.end()


def canaries(project: Project, dialogue_or_text: str = "") -> list[str]:
    """Return where the password is in clear."""
    places = [
        str(path) for path in project.root.rglob("*") if path.is_file() and path.name != "password" and b"canary-31" in path.read_bytes()
    ]
    places += [str(path) for path in project.state.rglob("*") if path.is_file() and b"canary-31" in path.read_bytes()]
    return places + (["output"] if "canary-31" in dialogue_or_text else [])


def test_the_wizard_asks_meets_and_lets_the_key_in(real: Project, machines: Machines) -> None:
    master, worker = machines.make("h-ms"), machines.make("h-a")
    run = Dialogue(real, "init", "h")
    run.answer("Master, as", f"h-ms={master.where}")
    run.answer("Host of the web portal", "")
    run.answer("Hospital 1", f"h-a={worker.where}")
    run.answer("Hospital 2", "")
    run.answer("Account on h-ms", ACCOUNT)
    run.answer(f"Password of {ACCOUNT} on h-ms", PASSWORD, hidden=True)
    run.answer("The same account and password on the other 1", "")
    run.answer("Image of the engine", "engine:1.0")
    run.answer("Image of the keystore", "")
    run.answer("Are these the keys of your machines?", "y")
    assert run.end() == ExitCode.OK, run.shown
    # That they know no key of ours is what the wizard is for.
    assert "UNREACHABLE" not in run.shown
    assert run.shown.count("SHA256:") == 2
    for machine in (master, worker):
        assert machine.run("stat", "-c", "%U", "/home/mipadmin/.ssh/authorized_keys") == "mipadmin"
        assert "NOPASSWD" in machine.run("cat", "/etc/sudoers.d/mipadmin")
    assert canaries(real, run.shown) == []
    folder = real.root / "inventories" / "h"
    assert not (folder / "group_vars" / "all" / "first_contact.yml").exists()
    assert "ansible_user: mipadmin" in (folder / "group_vars" / "all" / "main.yml").read_text(encoding="utf-8")
    # The key is enough from now on.
    again = real.run("init", "h", "--contact", "-o", "json")
    assert again.code == ExitCode.OK, again.err
    assert {node["state"] for node in again.document["result"]["contact"].values()} == {"open"}
    assert real.run("ssh", "-f", "h", "h-a", "--", "id", "-un").out.strip() == "mipadmin"


def test_a_wrong_machine_is_told_and_not_touched(real: Project, machines: Machines) -> None:
    master, stranger = machines.make("h-ms"), machines.make("srv7")
    options = [*given({"h-ms": master.where, "h-a": stranger.where}), *password_file(real), "-y", "-o", "json"]
    done = real.run("init", "h", *options)
    assert done.code == ExitCode.CHECK, done.err
    (error,) = done.document["errors"]
    assert (error["code"], error["host"]) == ("wrong-machine", "h-a")
    assert stranger.address in error["message"]
    assert "srv7" in error["message"]
    assert "--hostname h-a=srv7" in error["next"]
    assert stranger.run("getent", "passwd", "mipadmin") == ""
    assert master.run("getent", "passwd", "mipadmin") != ""
    # Where that is its name, it is let in; nothing of the inventory changes.
    accepted = real.run("init", "h", "--hostname", "h-a=srv7", *password_file(real), "-o", "json")
    assert accepted.code == ExitCode.OK, accepted.err
    assert {name: node["state"] for name, node in accepted.document["result"]["contact"].items()} == {"h-ms": "open", "h-a": "made"}
    assert canaries(real, done.out + done.err + accepted.out + accepted.err) == []


def test_one_machine_for_two_nodes_is_refused(real: Project, machines: Machines) -> None:
    first, twin, other = machines.make("h-ms"), machines.make("h-a", machine_id="f" * 32), machines.make("h-b", machine_id="f" * 32)
    options = given({"h-ms": first.where, "h-a": twin.where, "h-b": other.where})
    done = real.run("init", "h", *options, *password_file(real), "-y", "-o", "json")
    assert done.code == ExitCode.CHECK, done.err
    assert {(error["code"], error["host"]) for error in done.document["errors"]} == {("twin-machine", "h-a"), ("twin-machine", "h-b")}
    assert twin.run("getent", "passwd", "mipadmin") == other.run("getent", "passwd", "mipadmin") == ""


def test_what_was_away_is_kept_encrypted_and_finished_later(real: Project, machines: Machines) -> None:
    master, late = machines.make("h-ms"), machines.make("h-a", started=False)
    run = Dialogue(real, "init", "h", *given({"h-ms": master.where, "h-a": late.where}))
    run.answer("Host of the web portal", "")
    run.answer("Account on h-ms", ACCOUNT)
    run.answer(f"Password of {ACCOUNT} on h-ms", "wrong", hidden=True)
    run.answer("The same account and password on the other 1", "no")
    run.answer("Account on h-a", ACCOUNT)
    run.answer(f"Password of {ACCOUNT} on h-a", PASSWORD, hidden=True)
    run.answer("Image of the keystore", "")
    run.answer("Are these the keys of your machines?", "y")
    # A password that is refused is asked for again.
    run.answer("it refuses this account and password. Account there", "")
    run.answer(f"Password of {ACCOUNT} on h-ms", PASSWORD, hidden=True)
    run.answer("Keep the password of h-a, encrypted", "yes")
    run.answer("New vault password of h", VAULT, hidden=True)
    run.answer("The same again", VAULT, hidden=True)
    assert run.end() == ExitCode.UNREACHABLE, run.shown
    assert "one source" in run.shown
    kept = real.root / "inventories" / "h" / "group_vars" / "all" / "first_contact.yml"
    assert kept.read_bytes().startswith(b"$ANSIBLE_VAULT;")
    assert canaries(real, run.shown) == []
    late.start()
    vault = real.root / "vault"
    vault.write_text(VAULT, encoding="utf-8")
    done = real.run("init", "h", "--contact", "-y", "--vault-password-file", str(vault), "-o", "json")
    assert done.code == ExitCode.OK, done.out + done.err
    assert {name: node["state"] for name, node in done.document["result"]["contact"].items()} == {"h-ms": "open", "h-a": "made"}
    assert not kept.exists()


@pytest.mark.parametrize(
    ("question", "how"),
    [
        ("Account on", signal.SIGKILL),
        ("Password of", signal.SIGINT),
        ("Password of", signal.SIGKILL),
        ("The same account", signal.SIGHUP),
        ("Are these the keys", signal.SIGKILL),
        ("Are these the keys", signal.SIGINT),
    ],
)
def test_killed_at_a_question_of_the_first_contact(real: Project, machines: Machines, question: str, how: signal.Signals) -> None:
    master, worker = machines.make("h-ms"), machines.make("h-a")
    run = Dialogue(real, "init", "h", *given({"h-ms": master.where, "h-a": worker.where}))
    run.answer("Host of the web portal", "")
    if question != "Account on":
        run.answer("Account on h-ms", ACCOUNT)
    if question not in ("Account on", "Password of"):
        run.answer(f"Password of {ACCOUNT} on h-ms", PASSWORD, hidden=True)
    if question == "Are these the keys":
        run.answer("The same account", "yes")
        run.answer("Image of the keystore", "")
    assert run.kill(question, how) != ExitCode.OK
    folder = real.root / "inventories"
    if question == "Are these the keys":
        assert [node["name"] for node in real.run("-f", "h", "node", "ls", "-o", "json").document["result"]["nodes"]] == ["h-ms", "h-a"]
        assert (folder / "h" / "known_hosts").read_text(encoding="utf-8") == ""
    else:
        assert list(folder.iterdir()) == []
    assert canaries(real, run.shown) == []
    # The same again goes on from there.
    done = real.run("init", "h", *given({"h-ms": master.where, "h-a": worker.where})[:-2 if folder.joinpath("h").exists() else None],
                    *password_file(real), "-y", "-o", "json")  # fmt: skip
    assert done.code == ExitCode.OK, done.out + done.err
    assert {node["state"] for node in done.document["result"]["contact"].values()} == {"made"}


def test_answers_in_a_file(real: Project, machines: Machines) -> None:
    master, worker = machines.make("h-ms"), machines.make("srv7")
    key = worker.folder.with_suffix(".key.pub")
    print_of_it = subprocess.run(["ssh-keygen", "-lf", str(key)], capture_output=True, text=True, check=True).stdout.split()[1]
    nodes = {"user": ACCOUNT, "password": PASSWORD, "engine_image": "engine:1.0", "master": {"name": "h-ms", "address": master.where}}
    nodes["workers"] = [{"name": "h-a", "address": worker.where, "host_key": print_of_it, "hostname": "srv7"}]  # type: ignore[assignment]
    answers = real.root / "password"
    answers.write_text(json.dumps(nodes), encoding="utf-8")
    done = real.run("init", "h", "--from", str(answers), "-o", "json")
    # Nothing vouches for the master's key; the worker's was given.
    assert done.code == ExitCode.DECLINED, done.err
    assert "no machine was contacted" in done.document["errors"][0]["message"]
    done = real.run("init", "h", "--from", str(answers), "-y", "-o", "json")
    assert done.code == ExitCode.OK, done.out + done.err
    assert {name: node["state"] for name, node in done.document["result"]["contact"].items()} == {"h-ms": "made", "h-a": "made"}
    assert print_of_it in (real.root / "inventories" / "h" / "hosts.yml").read_text(encoding="utf-8")
    assert canaries(real, done.out + done.err) == []


def test_variables_of_the_operator(real: Project) -> None:
    more = real.root / "mine.yml"
    more.write_text("mip_lab: true\nmip_overlay: {encrypted: false}\n", encoding="utf-8")
    nodes = given({"h-ms": "192.0.2.1", "h-a": "192.0.2.2"})
    assert real.run("init", "h", *nodes, "--variables", str(more)).code == ExitCode.OK
    shown = real.run("-f", "h", "config", "show", "-o", "json").document["result"]
    assert (shown["lab"], shown["overlay"]["encrypted"]) == (True, False)
    more.write_text("mip_lba: true\n", encoding="utf-8")
    done = real.run("init", "k", *nodes, "--variables", str(more))
    assert done.code == ExitCode.CONFIGURATION
    assert "mip_lab" in done.err
    assert not (real.root / "inventories" / "k").exists()


def test_no_secret_in_argv(real: Project, machines: Machines) -> None:
    """Of mipfed, of Ansible, or of ssh."""
    master, worker = machines.make("h-ms"), machines.make("h-a")
    watcher = subprocess.Popen(
        [sys.executable, "-c", "import glob,time,sys\nseen=set()\nwhile True:\n for p in glob.glob('/proc/[0-9]*/cmdline'):\n  try:\n"
         "   b=open(p,'rb').read()\n  except OSError:\n   continue\n  if b'canary-'+b'31' in b and b not in seen:\n"
         "   seen.add(b); print(b, flush=True)\n time.sleep(0.02)"],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        done = real.run("init", "h", *given({"h-ms": master.where, "h-a": worker.where}), *password_file(real), "-y")
    finally:
        watcher.kill()
        found = watcher.communicate()[0]
    assert done.code == ExitCode.OK, done.err
    assert found == b""
