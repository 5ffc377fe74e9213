# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""`mipfed logs` over SSH, from real engines whose links are cut and whose daemons are restarted."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.tests.helpers.engines import Engine, Engines, wait_for

from .conftest import Swarm

pytestmark = pytest.mark.engine
LABEL = "eu.humanbrainproject.mip."
#: Two streams, lines of the same moment, one that is long, and one without a line feed for a while.
COUNT = (
    "n=$(cat /n 2>/dev/null || echo 0); while :; do n=$((n+1)); echo $n > /n; echo count $n; echo err $n >&2; "
    "[ $((n % 20)) = 0 ] && { echo a $n; echo b $n; }; sleep 0.2; done"
)


class Federation:
    """Two engines as nodes of a federation that `mipfed` reaches over SSH."""

    def __init__(self, cluster: Engines, folder: Path, image: str) -> None:
        self.cluster, self.folder, self.image = cluster, folder, image
        self.nodes = {"fed-ms": cluster[0], "fed-wk-1": cluster[1]}
        self.inventory = folder / "inventories" / "fed"
        (self.inventory / "group_vars" / "all").mkdir(parents=True)
        for name in ("host_key", "key"):
            self._run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
        (folder / "authorized_keys").write_text((folder / "key.pub").read_text())
        public = " ".join((folder / "host_key.pub").read_text().split()[:2])
        known = "".join(f"{engine.address} {public}\n" for engine in self.nodes.values())
        (self.inventory / "known_hosts").write_text(known)
        self.write(kit=False)
        for engine in self.nodes.values():
            engine.space.run("sh", "-c", f"mkdir -p /run/sshd; ln -sf {engine.socket} /run/docker.sock; test -S /var/run/docker.sock")
            options = ["UsePAM=no", "StrictModes=no", "PidFile=none", f"AuthorizedKeysFile={folder}/authorized_keys"]
            settings = [part for option in options for part in ("-o", option)]
            engine.space.run("/usr/sbin/sshd", "-f", "/dev/null", "-h", str(folder / "host_key"), *settings)

    @staticmethod
    def _run(*command: str) -> None:
        subprocess.run(command, check=True)

    def write(self, *, kit: bool) -> None:
        """Write the inventory; with `kit` the worker gives no access over SSH."""
        hosts: dict[str, Any] = {name: {"ansible_host": engine.address} for name, engine in self.nodes.items()}
        if kit:
            hosts["fed-wk-1"]["mip_site_kit"] = "member"
        groups = {"master": ["fed-ms"], "workers": ["fed-wk-1"]}
        children: dict[str, Any] = {group: {"hosts": {name: hosts[name] for name in names}} for group, names in groups.items()}
        children["pusher"] = {"hosts": {"fed-pusher": {"ansible_connection": "local"}}}
        (self.inventory / "hosts.yml").write_text(json.dumps({"all": {"children": children}}))
        (self.inventory / "group_vars" / "all" / "main.yml").write_text(
            f"ansible_user: root\nansible_ssh_private_key_file: {self.folder}/key\n"
            "mip_engine: {image: 'registry.example/engine:1.0', keystore_image: 'registry.example/keystore:1.8.7'}\n"
        )

    def container(self, node: str, service: str, name: str, command: str = COUNT) -> str:
        """Start a container of the federation on a node, which is started again when its engine is."""
        labels = {LABEL + "federation": "fed", LABEL + "service": service, LABEL + "node": node}
        with contextlib.closing(self.nodes[node].client()) as client:
            config = client.create_host_config(restart_policy={"Name": "always"}, network_mode="none")
            with contextlib.suppress(Exception):
                client.inspect_image(self.image)
            made = client.create_container(self.image, ["sh", "-c", command], labels=labels, name=name, host_config=config)
            client.start(made["Id"])
        return str(made["Id"])

    def truth(self, node: str, container: str) -> dict[str, list[tuple[str, str]]]:
        """What an engine has in a container's log, by stream: time and text of each line."""
        found = {}
        with contextlib.closing(self.nodes[node].client()) as client:
            for stream in ("stdout", "stderr"):
                text = client.logs(container, stdout=stream == "stdout", stderr=stream == "stderr", timestamps=True).decode()
                found[stream] = [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in text.splitlines()]
        return found

    def command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        """Return argv and environment of a run of mipfed in the network of the engines."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("MIPFED_", "ANSIBLE_"))}
        environment["XDG_STATE_HOME"] = str(self.folder / "state")
        argv = [*self.cluster.hub.enter_network(), sys.executable, "-m", "mipfed", "-i", str(self.inventory), *arguments]
        return argv, environment

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run mipfed to its end."""
        argv, environment = self.command(*arguments)
        return subprocess.run(argv, env=environment, cwd=self.folder, capture_output=True, text=True, check=False, timeout=240)


class Followed:
    """A `mipfed logs -f --json` that runs."""

    def __init__(self, federation: Federation, *arguments: str) -> None:
        argv, environment = federation.command("logs", "-f", "--json", *arguments)
        self.events: list[dict[str, Any]] = []
        self.errors = (federation.folder / "errors").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(argv, env=environment, cwd=federation.folder, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def lines(self, **wanted: str) -> list[dict[str, Any]]:
        """The lines of logs so far, of a node for example."""
        events = [event for event in list(self.events) if event["event"] == "log"]
        return [event for event in events if all(event[key] == value for key, value in wanted.items())]

    def notices(self, node: str, code: str) -> int:
        """How often something was said about a node."""
        return sum(event["event"] == "notice" and (event["node"], event["code"]) == (node, code) for event in list(self.events))

    def stop(self) -> int:
        """End it as Ctrl-C does, and return its exit code."""
        self.process.send_signal(2)
        code = self.process.wait(timeout=60)
        self._thread.join(timeout=60)
        return code


@pytest.fixture(scope="module")
def federation(cluster: Engines, image: str, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Two engines behind sshd."""
    if not Path("/usr/sbin/sshd").exists():
        pytest.skip("sshd is not installed (apt-get install openssh-server)")
    for engine in cluster.engines[:2]:
        with contextlib.closing(engine.client()) as client:
            client.pull(image)
    return Federation(cluster, tmp_path_factory.mktemp("logs"), image)


@pytest.fixture
def containers(federation: Federation) -> Iterator[Callable[..., str]]:
    """Starts containers, and removes them after the test."""
    made: list[tuple[Engine, str]] = []

    def start(node: str, service: str, name: str, **more: str) -> str:
        made.append((federation.nodes[node], federation.container(node, service, name, **more)))
        return made[-1][1]

    yield start
    for engine, container in made:
        with contextlib.closing(engine.client()) as client:
            client.remove_container(container, force=True, v=True)


def stop(federation: Federation, node: str, container: str) -> None:
    """Stop a container at once."""
    with contextlib.closing(federation.nodes[node].client()) as client:
        client.kill(container)
        client.wait(container, timeout=60)


def test_followed_through_cuts_and_restarts_without_gap_or_repetition(federation: Federation, containers: Callable[..., str]) -> None:
    """What was shown is what the engines hold, line by line, although a link, a container and a daemon went down meanwhile."""
    first, second = containers("fed-ms", "exareme-master", "one"), containers("fed-wk-1", "exareme", "two")
    followed = Followed(federation, "--limit", "0")
    try:
        for node in ("fed-ms", "fed-wk-1"):
            wait_for(lambda node=node: len(followed.lines(node=node)) > 20, 120, f"lines of {node}")
        federation.nodes["fed-wk-1"].freeze()
        wait_for(lambda: followed.notices("fed-wk-1", "cut"), 120, "the cut link is noticed")
        seen = len(followed.lines(node="fed-ms"))
        wait_for(lambda: len(followed.lines(node="fed-ms")) > seen + 20, 60, "the other node goes on")
        federation.nodes["fed-wk-1"].thaw()
        wait_for(lambda: followed.notices("fed-wk-1", "connected"), 120, "the link is back")
        with contextlib.closing(federation.nodes["fed-wk-1"].client()) as client:
            client.restart(second, timeout=0)
        federation.nodes["fed-ms"].restart()
        later = containers("fed-ms", "exareme-keystore", "three")
        wait_for(lambda: len(followed.lines(source=later[:12])) > 10, 120, "a container that was started later")
        seen = len(followed.lines(source=first[:12]))
        wait_for(lambda: len(followed.lines(source=first[:12])) > seen + 10, 120, "lines after the daemon's restart")
        everything = {first: "fed-ms", second: "fed-wk-1", later: "fed-ms"}
        for container, node in everything.items():
            stop(federation, node, container)
        truth = {container: federation.truth(node, container) for container, node in everything.items()}
        for container in everything:
            total = sum(len(lines) for lines in truth[container].values())
            wait_for(lambda c=container, t=total: len(followed.lines(source=c[:12])) >= t, 120, f"the end of {container[:12]}")
    finally:
        code = followed.stop()
    assert code == 130
    for container, node in everything.items():
        for stream, expected in truth[container].items():
            shown = followed.lines(source=container[:12], stream=stream)
            assert [(line["at"], line["text"]) for line in shown] == expected, f"{node} {stream}"
    assert {line["component"] for line in followed.lines()} == {"engine", "keystore"}
    # Nothing of it is left on the nodes.
    running = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done"
    for engine in federation.nodes.values():
        wait_for(lambda e=engine: "mipfed" not in e.space.run("sh", "-c", running, check=False).stdout, 60, "the programs on the nodes end")


def test_the_past_in_order_and_only_what_is_asked_for(federation: Federation, containers: Callable[..., str]) -> None:
    """Lines of several nodes are one stream; limits, patterns, components, nodes and times leave out the rest."""
    made = {containers("fed-ms", "exareme-master", "one"): "fed-ms", containers("fed-wk-1", "exareme", "two"): "fed-wk-1"}
    for container, node in made.items():
        wait_for(lambda c=container, n=node: len(federation.truth(n, c)["stdout"]) > 30, 120, f"lines of {node}")
        stop(federation, node, container)
    truth = {c: federation.truth(node, c) for c, node in made.items()}
    everything = sorted((at, text) for streams in truth.values() for lines in streams.values() for at, text in lines)
    ended = federation.run("logs", "-o", "json", "--limit", "0")
    assert ended.returncode == 0, ended.stderr
    shown = json.loads(ended.stdout)["result"]["lines"]
    assert sorted((line["at"], line["text"]) for line in shown) == everything
    seconds = [line["at"][:21] for line in shown]
    assert seconds == sorted(seconds)
    last = json.loads(federation.run("logs", "-o", "json", "--limit", "7").stdout)["result"]["lines"]
    assert last == shown[-7:]
    found = json.loads(federation.run("logs", "fed-wk-1", "-o", "json", "--grep", r"^count .*0$", "--limit", "2").stdout)["result"]["lines"]
    expected = [
        at
        for at, text in truth[next(c for c, node in made.items() if node == "fed-wk-1")]["stdout"]
        if text.startswith("count") and text.endswith("0")
    ]
    assert [line["at"] for line in found] == expected[-2:]
    half = shown[len(shown) // 2]["at"]
    since = json.loads(federation.run("logs", "-o", "json", "--since", f"{half[:26]}+00:00").stdout)["result"]["lines"]
    assert since == [line for line in shown if line["at"] >= f"{half[:26]}000Z"]
    nothing = federation.run("logs", "-o", "json", "--component", "gateway")
    assert json.loads(nothing.stdout)["result"]["lines"] == []
    plain = federation.run("logs", "fed-ms", "--limit", "1").stdout
    line = next(line for line in reversed(shown) if line["node"] == "fed-ms")
    assert plain == f"{line['at'][:23]}Z fed-ms engine   {line['text']}\n"


def test_a_node_that_is_away(federation: Federation, containers: Callable[..., str]) -> None:
    """The others are shown; it is named, with what to do."""
    container = containers("fed-ms", "exareme-master", "one")
    wait_for(lambda: federation.truth("fed-ms", container)["stdout"], 60, "lines")
    stop(federation, "fed-ms", container)
    federation.nodes["fed-wk-1"].freeze()
    try:
        ended = federation.run("logs", "-o", "json", "--limit", "5")
    finally:
        federation.nodes["fed-wk-1"].thaw()
    assert ended.returncode == 6
    document = json.loads(ended.stdout)
    assert {line["node"] for line in document["result"]["lines"]} == {"fed-ms"}
    assert [(error["code"], error["host"]) for error in document["errors"]] == [("unreachable", "fed-wk-1")]
    assert document["errors"][0]["next"]


def test_a_hospital_with_a_site_kit_is_read_through_the_swarm(federation: Federation, swarm: Swarm, clean: Callable[[], None]) -> None:
    """Its containers' logs come from a manager; nothing of the manager's own does when it is not asked for."""
    federation.write(kit=True)
    try:
        with contextlib.closing(swarm.manager.client()) as client:
            labels = {LABEL + "federation": "fed"}
            inside = {**labels, LABEL + "service": "exareme"}
            node = swarm.node_ids["wk-1"]
            spec = client.inspect_node(node)
            client.update_node(node, spec["Version"]["Index"], {**spec["Spec"], "Labels": {"name": "fed-wk-1"}})
            template = {
                "ContainerSpec": {"Image": swarm.image, "Args": ["sh", "-c", "echo there; exec sleep 10000"], "Labels": inside},
                "Placement": {"Constraints": [f"node.id=={node}"]},
            }
            client.create_service(template, name="fed-wk-1_exareme", labels=labels)
        followed = Followed(federation, "fed-wk-1")
        try:
            wait_for(lambda: followed.lines(node="fed-wk-1", text="there", component="engine"), 120, "a line through the swarm")
        finally:
            followed.stop()
        assert len(followed.lines()) == 1
    finally:
        federation.write(kit=False)
