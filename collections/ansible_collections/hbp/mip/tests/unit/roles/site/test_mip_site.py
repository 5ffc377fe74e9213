# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hospital's own command: the journal's chain, and the rules of a pause in a network namespace of their own."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[4] / "roles/site/files/mip-site"
SITE = {
    "federation": "hosp",
    "node": "wk3",
    "data_path_port": 4790,
    "peers": [{"name": "ms", "address": "192.0.2.1"}, {"name": "wk1", "address": "192.0.2.2"}],
}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ModuleType]:
    """The program as a module that works below a folder."""
    loader = importlib.machinery.SourceFileLoader("mip_site", str(PROGRAM))
    spec = importlib.util.spec_from_loader("mip_site", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = writes
    module.ROOT = str(tmp_path)  # type: ignore[attr-defined]
    journal = tmp_path / module.JOURNAL.lstrip("/")
    yield module
    # the program makes its journal append-only where it can
    if journal.exists():
        subprocess.run(["chattr", "-a", str(journal)], capture_output=True, check=False)


def fill(site: ModuleType, count: int = 4) -> Path:
    for number in range(count):
        site.record("deploy", f"run {number}", "mipfed on pusher", {"number": number})
    journal = Path(site.at(site.JOURNAL))
    subprocess.run(["chattr", "-a", str(journal)], capture_output=True, check=False)
    return journal


def test_a_journal_is_complete_and_says_so(site: ModuleType) -> None:
    assert site.examine() == ([], [])
    journal = fill(site)
    entries, problems = site.examine()
    assert problems == []
    assert [(entry["n"], entry["text"]) for entry in entries] == [(n + 1, f"run {n}") for n in range(4)]
    assert entries[0]["prev"] == "0" * 64
    assert len(journal.read_text().splitlines()) == 4
    assert site.examine(entries[1]["hash"])[1] == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [lines[0], lines[1].replace("run 1", "run 9"), *lines[2:]], "entry 2 of .* was changed"),
        (lambda lines: [lines[0], *lines[2:]], "missing: entry 2$"),
        (lambda lines: [lines[0], lines[3]], "missing: entry 2 to 3"),
        (lambda lines: lines[:2], "missing at the end: entry 3 to 4"),
        (lambda lines: [], "missing at the end: entry 1 to 4"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "missing: entry 1$"),
        (lambda lines: [*lines, lines[2]], "entry 3 stands behind entry 4"),
        (lambda lines: [*lines[:2], "nonsense", *lines[3:]], "line 3 is no entry"),
    ],
)
def test_what_was_done_to_a_journal_is_seen(site: ModuleType, change: Any, said: str) -> None:
    journal = fill(site)
    lines = journal.read_text().splitlines()
    journal.write_text("".join(line + "\n" for line in change(lines)))
    _entries, problems = site.examine()
    assert any(re.search(said, problem) for problem in problems), problems


def test_an_entry_that_was_changed_with_its_hash_breaks_the_chain(site: ModuleType) -> None:
    journal = fill(site)
    lines = journal.read_text().splitlines()
    entry = json.loads(lines[1])
    entry["text"] = "another"
    entry["hash"] = site.digest(entry)
    journal.write_text("\n".join([lines[0], json.dumps(entry), *lines[2:], ""]))
    assert site.examine()[1] == ["entry 3 does not follow from entry 2: one of them was replaced"]


def test_a_journal_that_was_written_anew_is_seen_with_a_noted_hash(site: ModuleType) -> None:
    journal = fill(site)
    noted = site.examine()[0][2]["hash"]
    journal.unlink()
    Path(site.at(site.HEAD)).unlink()
    site.now = lambda: "2026-11-22T10:00:00Z"  # type: ignore[attr-defined]
    fill(site, 3)
    assert site.examine()[1] == []
    assert "written anew" in site.examine(noted)[1][0]


def test_a_number_is_never_used_twice(site: ModuleType) -> None:
    journal = fill(site)
    lines = journal.read_text().splitlines()
    journal.write_text("".join(line + "\n" for line in lines[:2]))
    assert site.record("deploy", "after", "x")["n"] == 5
    assert site.examine()[1] == ["missing: entry 3 to 4"]


def test_a_torn_line_stays_alone(site: ModuleType) -> None:
    journal = fill(site, 2)
    journal.write_text(journal.read_text() + '{"n": 3, "ti')
    site.record("deploy", "after", "x")
    entries, problems = site.examine()
    assert [entry["n"] for entry in entries] == [1, 2, 3]
    assert problems == ["line 3 is no entry: it was damaged, or changed"]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"federation": "a"}', '{"federation": "a", "node": "b", "peers": [{"name": "x", "address": "; drop"}]}']
)
def test_an_unusable_configuration_is_refused(site: ModuleType, text: str) -> None:
    site.write(site.CONFIG, text)
    with pytest.raises(site.Stop, match="cannot be read"):
        site.config()


def test_without_configuration_it_says_that_there_is_no_federation(site: ModuleType) -> None:
    with pytest.raises(site.Stop, match="in no federation"):
        site.config()


#: In a namespace with a pair of links: sends what the federation sends, established and new, and tells what arrived on the other side.
TRAFFIC = r"""
set -e
ip netns add {ns} && ip link add mipa type veth peer name mipb netns {ns}
ip addr add 192.0.2.9/24 dev mipa && ip link set mipa up && ip link set lo up
ip -n {ns} addr add 192.0.2.1/24 dev mipb && ip -n {ns} link set mipb up && ip -n {ns} link set lo up
"""
SENDER = r'''
import json, socket, subprocess, sys, time
SEEN = """table inet seen { chain c { type filter hook prerouting priority -300;
meta l4proto esp counter
tcp dport 2377 counter
udp dport 4790 counter
udp dport 7946 counter
}
}"""
inside = lambda *command: ["ip", "netns", "exec", sys.argv[1], *command]
listener = """import socket
s = socket.create_server(('192.0.2.1', 2377))
print('up', flush=True)
c, _address = s.accept()
while c.recv(9):
    pass
"""
there = subprocess.Popen(inside(sys.executable, "-c", listener), stdout=subprocess.PIPE)
there.stdout.readline()
open_connection = socket.create_connection(("192.0.2.1", 2377), 5)
esp = socket.socket(socket.AF_INET, socket.SOCK_RAW, 50)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

def send():
    open_connection.send(b"x")
    for through, port in ((esp, 0), (udp, 4790), (udp, 7946)):
        try:
            through.sendto(b"x" * 20, ("192.0.2.1", port))
        except PermissionError:
            pass

def received():
    done = subprocess.run(inside("nft", "-j", "list", "table", "inet", "seen"), capture_output=True, text=True, check=True)
    parts = [part for item in json.loads(done.stdout)["nftables"] for part in (item.get("rule") or {}).get("expr", ())]
    return [part["counter"]["packets"] for part in parts if "counter" in part]

subprocess.run(inside("nft", "-f", "-"), input=SEEN, text=True, check=True)
deadline = time.monotonic() + 20
while not all(received()) and time.monotonic() < deadline:
    send()
    time.sleep(0.1)
assert all(received()), "each kind is seen while nothing is paused"
subprocess.run(["nft", "-f", "-"], input=sys.stdin.read(), text=True, check=True)
quiet = received()
for _round in range(5):
    send()
time.sleep(1)
print(sum(received()) - sum(quiet))
there.kill()
'''


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nft") or not shutil.which("ip"), reason="needs root, nft and ip")
def test_a_pause_stops_what_is_open_and_what_is_new_and_counts_it(site: ModuleType, tmp_path: Path) -> None:
    name = f"mip-{os.getpid()}"
    script = tmp_path / "send.py"
    script.write_text(SENDER)
    rules = tmp_path / "rules.nft"
    rules.write_text(site.pause_rules(SITE))
    shell = TRAFFIC.format(ns=name) + f"{sys.executable} {script} {name} < {rules}\nnft -j list table inet mip_pause\n"
    try:
        done = subprocess.run(["unshare", "-n", "sh", "-c", shell], capture_output=True, text=True, check=False, timeout=60)
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    arrived, table = done.stdout.split("\n", 1)
    counted: dict[str, int] = {}
    for item in json.loads(table)["nftables"]:
        for part in (item.get("rule") or {}).get("expr", ()):
            if "counter" in part:
                counted[item["rule"]["chain"]] = counted.get(item["rule"]["chain"], 0) + part["counter"]["packets"]
    assert int(arrived) == 0
    assert counted["out"] >= 15
    assert counted["left"] == 0
