# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way of somebody new: with what README and --help say, from bare machines to a federation that was broken and brought back.

All in a project of its own, on a terminal. Each test goes on from what the one before it has left.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pexpect
import pytest

from .conftest import ENVIRONMENT, LAB, MIPFED, ROOT

pytestmark = pytest.mark.in_order

MASTER, UI = f"{LAB}-ms", f"{LAB}-ui"
WORKERS = [f"{LAB}-wk-{number}" for number in (1, 2, 3)]
ADMIN = "admin"
#: The longest step is a deploy on a machine that has a lot else to do.
PATIENCE = 1500
YES = (r"\[y/N\] $", "y")
Answers = Sequence[tuple[str, str]]


@dataclass
class Newcomer:
    """A person at a terminal."""

    project: Path
    environment: dict[str, str]
    addresses: dict[str, str] = field(default_factory=dict)
    password: str = ""
    gateway: str = ""

    @property
    def inventory(self) -> Path:
        """What `init` makes."""
        return self.project / "inventories" / LAB

    def types(self, *words: str, answers: Answers = (), code: int = 0) -> str:
        """Type a command of mipfed and answer its questions, in order; return what was shown."""
        child = pexpect.spawn(
            str(MIPFED), list(words), cwd=str(self.project), env=self.environment, dimensions=(50, 200), timeout=PATIENCE, encoding="utf-8"
        )
        shown = ""
        try:
            for question, answer in answers:
                child.expect(question)
                shown += f"{child.before}{child.after}"
                if "Password" in question:
                    assert child.waitnoecho(60)
                child.sendline(answer)
            child.expect(pexpect.EOF)
            shown += str(child.before)
        except pexpect.ExceptionPexpect as error:
            raise AssertionError(f"mipfed {' '.join(words)}: {error}\n{shown}\n{child.before}") from None
        finally:
            child.close()
        assert child.exitstatus == code, f"mipfed {' '.join(words)}: {child.exitstatus}\n{shown}"
        return shown

    def asks(self, *words: str, code: int = 0) -> Any:
        """Return the result of a command as a program would have it."""
        done = subprocess.run(
            [str(MIPFED), "-o", "json", *words], cwd=self.project, env=self.environment, capture_output=True, text=True,
            check=False, timeout=PATIENCE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == code, f"mipfed {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def on(self, node: str, command: str) -> str:
        """Run a shell command as root on a node."""
        return self.types("ssh", node, "--", "sudo", "sh", "-c", command)


@pytest.fixture(scope="module")
def me(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    """A folder for federations, and nothing else. The machines are removed at the end."""
    if os.geteuid():
        pytest.skip("lab machines need root")
    project = tmp_path_factory.mktemp("new")
    (project / "inventories").mkdir()
    environment = {**ENVIRONMENT, "XDG_STATE_HOME": str(project / "state"), "LC_ALL": "C.UTF-8", "TERM": "dumb"}
    made = Newcomer(project, {key: value for key, value in environment.items() if not key.startswith("MIPFED_")})
    made.types("lab", "down", "--name", LAB)
    yield made
    if not os.environ.get("MIPFED_KEEP_LAB"):
        made.types("lab", "down", "--name", LAB)


def test_machines_that_do_not_know_us(me: Newcomer) -> None:
    assert "init" in me.types("--help")
    shown = me.types("lab", "up", "--name", LAB, "--bare", "--workers", "3", "--data", str(ROOT / "tests" / "samples"))
    assert f"init {LAB} --variables" in shown
    status = me.asks("lab", "status", "--name", LAB)["result"]
    me.addresses = {machine["name"]: machine["address"] for machine in status["machines"]}
    me.gateway = status["gateway"]
    me.password = Path(f"/var/lib/mip-lab/{LAB}/password").read_text(encoding="utf-8").strip()
    assert set(me.addresses) == {MASTER, UI, *WORKERS}
    assert not me.inventory.exists()
    own = f"/var/lib/mip-lab/{LAB}/id_ed25519"
    for address in me.addresses.values():
        ssh = ["ssh", "-i", own, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        assert subprocess.run([*ssh, f"root@{address}", "true"], capture_output=True, check=False).returncode == 255


def test_the_wizard_tells_a_wrong_address(me: Newcomer) -> None:
    """The two hospitals' addresses are exchanged, as it happens; nothing is done to the wrong machines."""
    wrong = {WORKERS[0]: me.addresses[WORKERS[1]], WORKERS[1]: me.addresses[WORKERS[0]]}
    shown = me.types(
        "init", LAB, "--variables", f"/var/lib/mip-lab/{LAB}/lab.yml",
        answers=[
            ("Master, as", f"{MASTER}={me.addresses[MASTER]}"),
            ("Host of the web portal, as", f"{UI}={me.addresses[UI]}"),
            ("Hospital 1, as", f"{WORKERS[0]}={wrong[WORKERS[0]]}"),
            ("Hospital 2, as", f"{WORKERS[1]}={wrong[WORKERS[1]]}"),
            ("Hospital 3, as", ""),
            (f"Account on {MASTER}", ADMIN),
            (f"Password of {ADMIN} on {MASTER}", me.password),
            ("The same account and password on the other 3", "yes"),
            ("Image of the engine", f"{me.gateway}:5000/exareme-standin:1.0"),
            ("Image of the keystore", f"{me.gateway}:5000/keystore:1.8.7"),
            (r"Are these the keys of your machines\? \[y/N\] $", "y"),
            (f"{WORKERS[0]}: .*calls itself {WORKERS[1]}.*Is that the machine you mean", "no"),
            (f"{WORKERS[1]}: .*calls itself {WORKERS[0]}.*Is that the machine you mean", "no"),
            ("Keep the password of", "no"),
        ],
        code=4,
    )  # fmt: skip
    assert shown.count("SHA256:") == 4
    assert "wrong-machine" in shown
    assert me.password not in shown
    # Corrected, as it says; the same command goes on from there.
    hosts = me.inventory / "hosts.yml"
    text = hosts.read_text(encoding="utf-8")
    for name in wrong:
        text = re.sub(rf"({name}: {{ansible_host: )[\d.]+", rf"\g<1>{me.addresses[name]}", text)
    hosts.write_text(text, encoding="utf-8")
    me.types(
        "init", LAB,
        answers=[
            ("Another hospital", ""),
            (f"{WORKERS[0]}: .*Account there", ADMIN), (f"Password of {ADMIN} on {WORKERS[0]}", me.password),
            (f"{WORKERS[1]}: .*Account there", ADMIN), (f"Password of {ADMIN} on {WORKERS[1]}", me.password),
        ],
    )  # fmt: skip
    again = me.asks("init", LAB, "--contact")["result"]
    assert {node["state"] for node in again["contact"].values()} == {"open"}
    for folder in (me.inventory, me.project / "state"):
        assert not [path for path in folder.rglob("*") if path.is_file() and me.password.encode() in path.read_bytes()]


def test_checked_and_deployed(me: Newcomer) -> None:
    me.types("check")
    assert f"{MASTER}" in me.types("plan")
    me.types("deploy", answers=[YES])
    assert me.asks("deploy", "-y")["result"]["changed"] == 0


def test_data_is_loaded_and_the_federation_works(me: Newcomer) -> None:
    me.types("data", "consolidate", answers=[YES])
    me.types("data", "compile", answers=[YES])
    assert me.asks("verify")["result"]["ok"]
    held = me.asks("data", "ls")["result"]["pathologies"]
    assert {node for entry in held.values() for node, found in entry["nodes"].items() if found["datasets"]} == set(WORKERS[:2])


def test_a_hospital_comes_and_goes(me: Newcomer) -> None:
    new = WORKERS[2]
    me.types(
        "node", "add", new, "--address", me.addresses[new], "--first-user", ADMIN,
        "--first-password-file", f"/var/lib/mip-lab/{LAB}/password", answers=[YES],
    )  # fmt: skip
    assert new in me.types("node", "ls")
    assert me.asks("verify")["result"]["ok"]
    me.types("node", "remove", new, answers=[YES])
    assert new not in me.types("node", "ls")
    me.types("data", "consolidate", "-y")
    me.types("data", "compile", "-y")
    assert me.asks("verify")["result"]["ok"]


def test_check_names_a_fault(me: Newcomer) -> None:
    ill = WORKERS[1]
    rules = "add table inet fault; add chain inet fault in { type filter hook input priority -300; }"
    rules += "; add rule inet fault in tcp dport 7946 drop"
    me.on(ill, f"nft '{rules}'")
    try:
        errors = me.asks("check", code=4)["errors"]
        assert any(ill in f"{error['host']} {error['message']}" and "7946" in error["message"] for error in errors), errors
    finally:
        me.on(ill, "nft delete table inet fault")
    me.types("check")


def test_a_backup_brings_a_broken_master_back(me: Newcomer) -> None:
    key = me.project / "backup.key"
    shown = me.types("backup", "key", str(key))
    recipient = re.search(r"age1[0-9a-z]+", shown)
    assert recipient
    (me.inventory / "group_vars" / "all" / "backup.yml").write_text(f"mip_backup: {{recipients: [{recipient[0]}]}}\n", encoding="utf-8")
    me.types("backup", "create", answers=[YES])
    (found,) = (me.inventory / "backups").glob("*.mipbackup")
    me.types("backup", "verify", str(found), "--identity", str(key))
    before = me.on(MASTER, "docker info --format '{{.Swarm.Cluster.ID}}'").strip()
    me.on(MASTER, "systemctl stop docker.socket docker; rm -rf /var/lib/docker/*; systemctl start docker")
    assert "restore" in me.types("recover", code=4)
    me.types("restore", str(found), "--identity", str(key), answers=[("Type the federation's name to go on", LAB)])
    assert me.on(MASTER, "docker info --format '{{.Swarm.Cluster.ID}}'").strip() == before
    me.types("deploy", answers=[YES])
    assert me.asks("verify")["result"]["ok"]


def test_the_report_opens_in_a_browser(me: Newcomer) -> None:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program, "apt-get install chromium"
    page = me.project / "report.html"
    me.types("report", "--html", str(page))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={me.project}/profile"]
    done = subprocess.run(
        [program, *options, "--enable-logging=stderr", "--v=0", "--dump-dom", page.as_uri()], capture_output=True, text=True,
        check=True, timeout=300,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    for name in (MASTER, UI, *WORKERS[:2]):
        assert name in done.stdout
    # All that was done stands in the journals, whole.
    me.types("audit", "--verify")
