#!/usr/bin/env python3
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Breaks a federation of lab machines in several ways, and measures when that is noticed and when all is well again.

    bench/failures.py [--workers 5] [--cut 60] [--fault NAME]... [--output docs/failures.md]

First one more hospital is added with `mipfed node add`, with the API asked ten times a second.

Nothing is done by hand after a fault. Well is a federation whose API knows all nodes and whose swarm runs all services, three looks in a
row. After each fault the swarm must be the same one, and every key that was written into the keystore before must be there. The lab
`lab-fail` is made and removed. Faults are injected by root on this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shlex
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
LAB = "lab-fail"
INVENTORY = ROOT / "inventories" / LAB
#: From this line on the document is written by hand, and stays.
KEPT = "## The fault matrix"
ENVIRONMENT = {**os.environ, "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}", "NO_COLOR": "1"}
LOOKS = 3


class Broken(Exception):
    """The federation did not do what it has to."""


def run(*command: str, seconds: float = 900) -> str:
    """Run a command to its end and return what it prints; a failure ends the bench."""
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=seconds)
    if done.returncode:
        raise Broken(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


class Federation:
    """The lab's machines, and how they are."""

    def __init__(self) -> None:
        groups = yaml.safe_load((INVENTORY / "hosts.yml").read_text())["all"]["children"]
        self.address = {name: values["ansible_host"] for group in ("master", "workers") for name, values in groups[group]["hosts"].items()}
        self.master = next(iter(groups["master"]["hosts"]))
        self.workers = list(groups["workers"]["hosts"])
        shown = run("env", "ANSIBLE_CALLBACK_RESULT_FORMAT=json", "ansible", "localhost", "-m", "hbp.mip.lab_info", "-a", f"lab={LAB}")
        machines = json.loads(shown.partition("=>")[2])["machines"]
        self.veth = {machine["name"]: machine["veth"] for machine in machines}
        self.cluster = self.ssh(self.master, "docker info -f '{{.Swarm.Cluster.ID}}'")
        self.written = 0

    def ssh(self, name: str, command: str, seconds: float = 20) -> str:
        """Run a shell command on a machine; raises `Broken` when it fails or does not answer."""
        options = ["-o", f"UserKnownHostsFile={INVENTORY / 'known_hosts'}", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"]
        line = ["ssh", "-i", str(INVENTORY / "ssh/id_ed25519"), *options, f"root@{self.address[name]}", command]
        try:
            done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise Broken(f"{name} did not answer") from None
        if done.returncode:
            raise Broken(f"{name}: {command}: {done.stderr.strip()}")
        return done.stdout.strip()

    def power(self, state: str, *names: str) -> None:
        """Switch machines."""
        run("ansible", "localhost", "-m", "hbp.mip.lab_machine_power", "-a", f"lab={LAB} machines={','.join(names)} state={state}")

    def link(self, name: str, state: str) -> None:
        """Cut a machine's cable, or plug it in."""
        run("ip", "link", "set", self.veth[name], state)

    def trouble(self) -> str:
        """What is wrong now; empty when all is well."""
        try:
            request = urllib.request.Request(f"http://{self.address[self.master]}:9090/mining/query/HEALTH_CHECK", data=b"", method="POST")
            with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
                active = set(str(json.load(answer).get("active_nodes", "")).split(", "))
        except (OSError, ValueError, AttributeError) as error:
            return f"the API: {getattr(error, 'reason', error)}"
        if missing := sorted({self.master, *self.workers} - active):
            return f"the API does not know {', '.join(missing)}"
        try:
            nodes = self.ssh(self.master, "docker node ls --format '{{.Hostname}} {{.Status}}'").splitlines()
            services = self.ssh(self.master, "docker service ls --format '{{.Name}} {{.Replicas}}'").splitlines()
        except Broken as error:
            return str(error)
        if away := sorted(line.split()[0] for line in nodes if not line.endswith("Ready")):
            return f"the swarm: {', '.join(away)} down"
        if down := sorted(line.split()[0] for line in services if not line.endswith(" 1/1")):
            return f"the swarm: {', '.join(down)} not running"
        return ""

    def keystore(self, command: str) -> str:
        """Run a command in the keystore's container."""
        inside = f"docker exec $(docker ps -q -f label=eu.humanbrainproject.mip.service=exareme-keystore) {command}"
        return self.ssh(self.master, inside)

    def lose_keystore(self) -> None:
        """Delete all that the keystore has on its disk, and kill it. What the bench wrote is lost with it, and not looked for any more."""
        container = "$(docker ps -q -f label=eu.humanbrainproject.mip.service=exareme-keystore)"
        self.ssh(self.master, f"c={container}; docker exec $c sh -c 'rm -rf /consul/data/*' && docker kill $c")
        self.written = 0

    def write(self) -> None:
        """Write one more key into the keystore."""
        self.keystore(f"consul kv put bench/{self.written} {self.written}")
        self.written += 1

    def nothing_lost(self) -> None:
        """Raise `Broken` unless swarm and keystore are what they were."""
        if self.ssh(self.master, "docker info -f '{{.Swarm.Cluster.ID}}'") != self.cluster:
            raise Broken("the swarm is another one")
        keys = set(self.keystore("consul kv get -keys bench/").split())
        if lost := [number for number in range(self.written) if f"bench/{number}" not in keys]:
            raise Broken(f"the keystore lost {lost}")


@dataclass
class Row:
    """What was measured of one fault; seconds after it began, and after it ended."""

    name: str
    seconds_of_fault: float
    noticed: float | None
    first_words: str
    recovered: float


@dataclass
class Added:
    """How `mipfed node add` went: seconds, how often the API was asked meanwhile, and what it did not answer."""

    name: str
    before: int
    seconds: float
    asked: int
    failures: list[str]
    changed: int


def add(name: str, address: str, master: str, before: int) -> Added:
    """Add a hospital, with the API asked ten times a second."""
    over = threading.Event()
    failures: list[str] = []
    asked = 0

    def ask() -> None:
        nonlocal asked
        while not over.wait(0.1):
            asked += 1
            try:
                with urllib.request.urlopen(f"http://{master}:9090/mining/algorithms.json", timeout=5) as answer:
                    json.load(answer)
            except (OSError, ValueError) as error:
                failures.append(str(error))

    print(f"node add {name} …", file=sys.stderr, flush=True)
    thread = threading.Thread(target=ask)
    thread.start()
    began = time.monotonic()
    try:
        document = json.loads(run("mipfed", "-f", LAB, "-o", "json", "node", "add", name, "--address", address, "-y"))
    finally:
        seconds = time.monotonic() - began
        over.set()
        thread.join()
    print(f"  {seconds:.1f} s; the API was asked {asked} times, {len(failures)} failures", file=sys.stderr)
    return Added(name, before, seconds, asked, failures, document["result"]["changed"])


def wait_until_well(federation: Federation, limit: float) -> float:
    """Wait until all is well three looks in a row; returns when the first of them was, on the monotonic clock."""
    deadline = time.monotonic() + limit
    looks, since = 0, 0.0
    while True:
        began = time.monotonic()
        trouble = federation.trouble()
        looks = looks + 1 if not trouble else 0
        if looks == 1:
            since = began
        if looks == LOOKS:
            return since
        if time.monotonic() > deadline:
            raise Broken(f"not well after {limit:.0f} s: {trouble}")
        time.sleep(0.5)


def measure(
    federation: Federation, name: str, begin: Callable[[], None], end: Callable[[], None] | None, lasts: float, limit: float
) -> Row:
    """Inject a fault and follow it.

    :arg end: ends a fault that does not end by itself, after `lasts` seconds.
    """
    wait_until_well(federation, limit)
    federation.write()
    print(f"{name} …", file=sys.stderr, flush=True)
    began = time.monotonic()
    begin()
    noticed: float | None = None
    words = ""
    try:
        # A fault that is over before anybody looks may go unnoticed, which is as good as it gets.
        patience = began + (lasts if end else 20.0)
        while noticed is None and time.monotonic() < patience:
            words = federation.trouble()
            noticed = time.monotonic() - began if words else None
            time.sleep(0.3)
        while end and time.monotonic() < began + lasts:
            time.sleep(0.2)
    finally:
        if end:
            end()
    ended = time.monotonic() if end else began
    recovered = wait_until_well(federation, limit)
    federation.nothing_lost()
    row = Row(name, ended - began, noticed, words, max(0.0, recovered - ended))
    print(f"  noticed after {'-' if noticed is None else round(noticed, 1)} s: {words}; well {row.recovered:.1f} s later", file=sys.stderr)
    return row


def faults(federation: Federation, cut: float) -> dict[str, tuple[Callable[[], None], Callable[[], None] | None, float]]:
    """The faults by name: how each begins, how it ends if it does not do so by itself, and how long it lasts."""
    worker, master = federation.workers[0], federation.master
    everybody = [master, *federation.workers]
    container = "docker kill $(docker ps -q -f label=eu.humanbrainproject.mip.service={})"

    flaps: list[threading.Thread] = []

    def flap() -> None:
        for _unused in range(10):
            federation.link(worker, "down")
            time.sleep(2)
            federation.link(worker, "up")
            time.sleep(2)

    def begin_to_flap() -> None:
        # Beside the looks at the federation.
        flaps.append(threading.Thread(target=flap))
        flaps[-1].start()

    return {
        "keystore killed": (lambda: ignore(federation.ssh, master, container.format("exareme-keystore")), None, 0),
        "keystore killed, and its data lost": (federation.lose_keystore, None, 0),
        "master's engine killed": (lambda: ignore(federation.ssh, master, container.format("exareme-master")), None, 0),
        "a hospital's engine killed": (lambda: ignore(federation.ssh, worker, container.format("exareme")), None, 0),
        "a hospital's Docker engine killed": (lambda: ignore(federation.ssh, worker, "systemctl kill -s KILL docker.service"), None, 0),
        "a hospital's node rebooted": (lambda: federation.power("reboot", worker), None, 0),
        "the master rebooted": (lambda: federation.power("reboot", master), None, 0),
        "all nodes lose power at once": (lambda: federation.power("kill", *everybody), lambda: federation.power("on", *everybody), 10),
        "a hospital's network cut for 5 s": (lambda: federation.link(worker, "down"), lambda: federation.link(worker, "up"), 5),
        f"a hospital's network cut for {cut:.0f} s": (lambda: federation.link(worker, "down"), lambda: federation.link(worker, "up"), cut),
        "a hospital's network flaps 10 times": (begin_to_flap, lambda: flaps.pop().join(), 40),
    }


def ignore(function: Callable[..., Any], *arguments: str) -> None:
    """Call a function whose failure is no news: the connection may end with what it breaks."""
    with contextlib.suppress(Broken):
        function(*arguments)


def table(rows: list[Row], added: Added, load: tuple[float, float, float], changed: int) -> str:
    """The measurements as Markdown."""
    workers = added.before + 1
    lines = [
        "# Behaviour in case of failure",
        "",
        "Written by `bench/failures.py`. Each fault was injected into a running federation of lab machines, and nobody did anything",
        "about it. *Noticed* is the time from the fault's beginning until the engine's API or the swarm showed it; *well again* the",
        "time from the fault's end until the API knew all nodes and all services ran, three looks in a row. For faults without a length",
        "of their own both count from the beginning. After each fault the swarm was the same one, and every key that had been written",
        "into the keystore before was there.",
        "",
        f"Measured {time.strftime('%Y-%m-%d', time.gmtime())} with {workers} hospitals on one machine with {os.cpu_count()} processors "
        f"(Linux {platform.release().partition('-')[0]}); load average {load[0]:.1f} before the run, "
        f"{os.getloadavg()[1]:.1f} over its last five minutes.",
        f"A deploy after all of it made {changed} changes.",
        "",
        "| fault | lasts s | noticed after s | as | well again after s |",
        "| --- | ---: | ---: | --- | ---: |",
    ]
    for row in rows:
        noticed = "not noticed" if row.noticed is None else f"{row.noticed:.1f}"
        lasts = f"{row.seconds_of_fault:.0f}" if row.seconds_of_fault else "·"
        words = row.first_words.replace("|", "/").replace(LAB, "lab")
        lines.append(f"| {row.name} | {lasts} | {noticed} | {words} | {row.recovered:.1f} |")
    lines += [
        "",
        f"Before that, `mipfed node add` took a hospital into a running federation of {added.before} hospitals: one command, "
        f"{added.seconds:.0f} s, {added.changed} changes,",
        f"its datasets brought in. The engine's API was asked ten times a second meanwhile: {added.asked} requests, "
        f"{len(added.failures)} failures.",
        "",
        "A node that is silent for 15 s counts as down. Its engine keeps running, but when the node is back the swarm ends that container",
        "and starts a new one, which registers under its new address. A shorter cut changes nothing.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=5, help="hospitals in the lab before one more is added")
    parser.add_argument("--cut", type=float, default=60, help="length of the long cut in seconds; 600 is what production is promised")
    parser.add_argument("--limit", type=float, default=600, help="seconds after which a federation counts as not recovered")
    parser.add_argument("--fault", action="append", default=[], help="only faults with this in their name; may be repeated")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "failures.md")
    options = parser.parse_args()
    load = os.getloadavg()
    run("mipfed", "lab", "down", "--name", LAB)
    try:
        run("mipfed", "lab", "up", "--name", LAB, "--workers", str(options.workers + 1))
        path = INVENTORY / "group_vars/all/main.yml"
        values = yaml.safe_load(path.read_text())
        document = yaml.safe_load((INVENTORY / "hosts.yml").read_text())
        groups = document["all"]["children"]
        name, new = groups["workers"]["hosts"].popitem()
        (INVENTORY / "hosts.yml").write_text(yaml.safe_dump(document, sort_keys=False))
        # The bench asks from the gateway of the machines' network.
        master = str(next(iter(groups["master"]["hosts"].values()))["ansible_host"])
        gateway = master.rpartition(".")[0] + ".1"
        values["mip_firewall"] = {"engine_allow": [gateway]}
        path.write_text(yaml.safe_dump(values))
        run("mipfed", "-f", LAB, "deploy", "-y")
        added = add(name, str(new["ansible_host"]), master, options.workers)
        federation = Federation()
        rows = []
        for name, (begin, end, lasts) in faults(federation, options.cut).items():
            if not options.fault or any(part in name for part in options.fault):
                rows.append(measure(federation, name, begin, end, lasts, options.limit))
        deployed = json.loads(run("mipfed", "-f", LAB, "-o", "json", "deploy", "-y"))
        changed = sum(host["changed"] for host in deployed["hosts"].values())
        kept = options.output.read_text().partition(KEPT) if options.output.exists() else ("", "", "")
        options.output.write_text(table(rows, added, load, changed) + "".join(("\n", *kept[1:]) if kept[1] else ()))
        print(options.output.read_text())
    except Broken as error:
        sys.exit(str(error))
    finally:
        run("mipfed", "lab", "down", "--name", LAB)


if __name__ == "__main__":
    main()
