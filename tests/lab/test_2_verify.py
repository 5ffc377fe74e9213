# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What verify says of a deployed federation's network: encryption, the overlay's MTU, the hospitals' data stores."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import yaml

from .conftest import INVENTORY, Lab

STORE = 5432
#: A service that stands in for a data store, as a unit of the machine.
SERVE = (
    "systemctl is-active -q lds || systemd-run -q --collect --unit=lds python3 -c "
    f"'import socket; s = socket.create_server((\"\", {STORE})); [s.accept()[0].close() for _ in iter(int, 1)]'; "
    f"for try in $(seq 100); do ss -Hltn 'sport = :{STORE}' | grep -q . && exit; sleep 0.2; done; exit 1"
)


def problems(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the node and the name of each problem."""
    return [(entry["node"], entry["code"]) for entry in report["result"]["problems"]]


@contextlib.contextmanager
def rule(lab: Lab, host: str, hook: str, text: str) -> Iterator[None]:
    """A machine with a further nftables rule."""
    chain = f"nft 'add table inet fault; add chain inet fault c {{ type filter hook {hook}; }}; add rule inet fault c {text}'"
    lab.ssh(host, chain)
    try:
        yield
    finally:
        lab.ssh(host, "nft delete table inet fault")


def test_a_lab_in_clear_is_told_loudly(federation: Lab) -> None:
    shown = federation.run("verify").stdout
    assert "NOT ENCRYPTED" in shown and "The federation works." in shown


def test_what_is_counted_and_measured(federation: Lab) -> None:
    report = federation.json("verify")["result"]
    encryption = report["encryption"]
    assert encryption["wanted"] is False and encryption["state"] == "clear"
    assert len(encryption["pairs"]) == 6
    for pair in encryption["pairs"]:
        assert pair["verdict"] == "clear"
        # Both ends counted what passed, of this overlay's own number.
        for side in ("sender", "receiver"):
            assert pair[side]["clear"]["bytes"] >= 10 * 2**20 and pair[side]["esp"]["packets"] == 0
    # What was measured before the overlay was made, as the overlay itself remembers it.
    label = "docker network inspect mip-federation -f '{{index .Labels \"eu.humanbrainproject.mip.path-mtu\"}}'"
    assert report["overlay"]["recorded"] == int(federation.ssh(federation.master, label) or 0)
    assert report["overlay"]["nodes"] == dict.fromkeys([federation.master, *federation.workers], 1450)
    assert all(pair["packet"] == 1450 for pair in report["pairs"])


def test_an_overlay_made_for_larger_paths(federation: Lab) -> None:
    narrow = federation.workers[0]
    # The machine's card takes 1300 bytes; what is larger is dropped on its way in, without a word.
    federation.ssh(narrow, "ip link set eth0 mtu 1300")
    try:
        report = federation.json("verify", code=4)
    finally:
        federation.ssh(narrow, "ip link set eth0 mtu 1500")
    assert {code for _node, code in problems(report)} == {"overlay-mtu-too-large"}
    failed = {(pair["from"], pair["to"]): pair["packet"] for pair in report["result"]["pairs"] if not pair["ok"]}
    assert {(sender, narrow) for sender in (federation.master, federation.workers[1])} <= set(failed)
    # What leaves it is split, and may pass or not; between the others all is well.
    assert all(narrow in pair for pair in failed)
    assert all(1240 <= packet <= 1254 for packet in failed.values())
    assert "docker network rm" in report["result"]["problems"][0]["fix"]


def test_local_data_stores(federation: Lab) -> None:
    here, elsewhere = federation.workers
    ui = next(name for name in federation.hosts if name.endswith("-ui"))
    path = INVENTORY / "hosts.yml"
    hosts = yaml.safe_load(path.read_text())
    workers = hosts["all"]["children"]["workers"]["hosts"]
    workers[here]["mip_ldsm"] = {"port": STORE}
    workers[elsewhere]["mip_ldsm"] = {"host": federation.hosts[ui], "port": STORE}
    before = path.read_text()
    path.write_text(yaml.safe_dump(hosts))
    try:
        for name in (here, ui):
            federation.ssh(name, SERVE)
        federation.run("deploy", "-y")
        container = "$(docker ps -qf label=eu.humanbrainproject.mip.service=exareme)"
        environment = json.loads(federation.ssh(here, f"docker inspect -f '{{{{json .Config.Env}}}}' {container}"))
        assert {f"LDSM_HOST={federation.hosts[here]}", f"LDSM_PORT={STORE}"} <= set(environment)
        stores = federation.json("verify")["result"]["stores"]
        assert {name: (store["verdict"], store["inside"], store["local"]) for name, store in stores.items()} == {
            here: ("ok", "ok", True),
            elsewhere: ("ok", "ok", False),
        }
        with (
            rule(federation, here, "input priority 0", f"iifname docker_gwbridge tcp dport {STORE} drop"),
            rule(federation, ui, "input priority 0", f"tcp dport {STORE} drop"),
        ):
            report = federation.json("verify", code=4)
        assert sorted(problems(report)) == [(here, "ldsm-unreachable"), (elsewhere, "ldsm-unreachable")]
        assert {name: store["verdict"] for name, store in report["result"]["stores"].items()} == {here: "own-filter", elsewhere: "path"}
        federation.ssh(here, "systemctl stop lds")
        report = federation.json("check", code=4)
        assert problems(report) == [(here, "ldsm-unreachable")] and "refuses" in report["result"]["problems"][0]["message"]
    finally:
        for name in (here, ui):
            federation.ssh(name, "systemctl stop lds", check=False)
        path.write_text(before)
        federation.run("deploy", "-y")
