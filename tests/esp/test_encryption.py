# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the encrypted data path does, in the order in which a federation meets it; each test goes on from the one before."""

from __future__ import annotations

import functools
import itertools
import json
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from emulated import wait_for
from federation import LARGE, NARROW, OVERLAY, PATH_MTU, Federation

#: An emulated machine needs minutes where a real one needs seconds; nothing is asserted on time.
pytestmark = pytest.mark.timeout(7200)

PLAIN, WIDE = "esp-plain", "esp-wide"


def links(document: dict[str, Any]) -> dict[tuple[str, str], str]:
    """Return the verdict of ESP for every ordered pair in a report of `mipfed check`."""
    return {
        (pair["from"], pair["to"]): cell["verdict"]
        for pair in document["result"]["links"]["pairs"]
        for cell in pair["checks"]
        if cell["proto"] == "esp"
    }


def overlay(document: dict[str, Any]) -> dict[tuple[str, str], bool]:
    """Return what passed over the overlay, for every ordered pair in a report of `mipfed verify`."""
    return {(pair["from"], pair["to"]): bool(pair["ok"]) for pair in document["result"]["pairs"]}


def total(seen: dict[str, Any], kind: str) -> int:
    """Return how many packets of a kind were captured."""
    return sum(number for _source, _destination, found, number in seen["packets"] if found == kind)


def pairs(federation: Federation) -> list[tuple[str, str]]:
    """Return all ordered pairs of machines."""
    return list(itertools.permutations(federation.names, 2))


def at_once(names: tuple[str, ...] | list[str], do: Callable[[str], Any]) -> dict[str, Any]:
    """Do something for several machines at the same time; each has a processor of its own."""
    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(do, names), strict=True))


def transfer(federation: Federation, places: dict[str, dict[str, Any]], large: int) -> dict[tuple[str, str], dict[str, Any]]:
    """Send from container to container with the module that `mipfed verify` uses, between all that have a place."""

    def listen(name: str) -> Any:
        place = places[name]
        arguments = {"mode": "listen", "node": name, "pid": place["pid"], "address": place["address"], "lifetime": 1800}
        return federation.module(name, "overlay_probe", arguments)[name]["target"]

    targets = list(at_once(list(places), listen).values())

    def send(name: str) -> Any:
        arguments = {
            "mode": "send", "node": name, "pid": places[name]["pid"], "targets": targets, "large_bytes": large, "timeout": 60,
            "large_timeout": 90,
        }  # fmt: skip
        return federation.module(name, "overlay_probe", arguments)[name]["pairs"]

    return {(pair["from"], pair["to"]): pair for sent in at_once(list(places), send).values() for pair in sent}


def _remove(federation: Federation, container: str, host: str) -> None:
    federation.machines[host].run(f"docker rm -f {container}", check=False)


@pytest.fixture
def extra(federation: Federation) -> Iterator[Any]:
    """Make an overlay of its own with a container on each of two machines; removed afterwards."""
    image = federation.machines[federation.workers[0]].run(
        f"docker inspect -f '{{{{.Image}}}}' $(docker ps -q --filter label=eu.humanbrainproject.mip.node={federation.workers[0]})"
    )
    made: list[str] = []

    def make(name: str, hosts: tuple[str, ...], **given: Any) -> dict[str, dict[str, Any]]:
        made.append(name)
        created = federation.module(federation.master, "swarm_network", {"name": name, "attachable": True, **given})[federation.master]
        assert created["changed"]
        # the engine gives the swarm 20 s to attach a container, which an emulated machine may need more than once
        command = f"docker rm -f {name} >&2; docker run -d --rm --name {name} --network {name} --entrypoint sleep {image} 7200"

        def run(host: str) -> dict[str, Any]:
            wait_for(f"the container of {name} on {host}", lambda: federation.machines[host].run(command), 900, federation.state)
            return federation.container(host, name)

        return at_once(hosts, run)

    yield make
    for name in made:
        at_once(federation.names, functools.partial(_remove, federation, name))
        wait_for(
            f"the removal of {name}",
            lambda name=name: federation.machines[federation.master].run(f"docker network rm {name} >&2 && echo gone"),
            180,
            federation.state,
        )


def test_the_deploy_makes_an_encrypted_overlay_that_fits_the_path(federation: Federation) -> None:
    """`mipfed deploy` on machines whose kernel can encrypt: encrypted, with the measured MTU, guarded; a second one changes nothing."""
    federation.mipfed("deploy", "-y")
    options = json.loads(federation.machines[federation.master].run(f"docker network inspect {OVERLAY}"))[0]["Options"]
    federation.say(f"overlay {OVERLAY}: {options}")
    assert "encrypted" in options
    assert options["com.docker.network.driver.mtu"] == str(PATH_MTU)
    for name, machine in federation.machines.items():
        rules = machine.run(f"nft list table inet mip_{federation.name}")
        # the kernel took the expressions that need it to know IPsec and the owner of a socket
        assert "udp dport 4789 meta ipsec missing" in rules, rules
        assert "meta skuid" in rules, rules
        federation.say(f"{name}: guard loaded, {rules.count('counter')} rules")
    again = federation.mipfed("deploy", "-y")
    assert again["result"]["changed"] == 0, again["result"]["changes"]


def test_only_esp_is_on_the_wire(federation: Federation) -> None:
    """Containers exchange 4 MiB in each direction with a checksum; on the wire there is ESP, and neither VXLAN nor what was sent."""
    needle = secrets.token_hex(16)
    before = {name: federation.associations(name) for name in federation.names}
    places = {name: federation.container(name) for name in federation.names}
    with federation.captured(needle) as seen:
        report = federation.mipfed("verify")
        for sender, receiver in ((federation.master, federation.workers[0]), (federation.workers[0], federation.master)):
            process = federation.receiver(receiver, places[receiver], 40001, needle)
            heard = federation.end_reception(process, sender, places[sender], places[receiver], 40001, needle)
            federation.say(f"{sender} -> {receiver}: {heard}")
            assert heard["control"] == 1
    after = {name: federation.associations(name) for name in federation.names}

    passed = {(pair["from"], pair["to"]): pair for pair in report["result"]["pairs"]}
    for pair in pairs(federation):
        federation.say(f"{pair[0]} -> {pair[1]}: {passed[pair]['bytes']} bytes verified, {passed[pair]['mb_per_s']} MB/s")
        assert passed[pair]["ok"] and passed[pair]["bytes"] == LARGE
    encryption = report["result"]["encryption"]
    for entry in encryption["pairs"]:
        federation.say(f"verify: {entry['from']} -> {entry['to']}: {entry['verdict']} {entry['reason']}")
    assert encryption["state"] == "encrypted"
    assert {(entry["from"], entry["to"]) for entry in encryption["pairs"]} == set(pairs(federation))
    federation.say(f"on the wire: {seen}")
    assert seen["lost"] == 0
    assert total(seen, "esp") > 0
    assert total(seen, "vxlan") == 0
    # The needle went as it is from container to container, and no packet on the bridge has it.
    assert seen["clear"] == []
    assert seen["largest"]["esp"] <= PATH_MTU
    addresses = {machine.address: name for name, machine in federation.machines.items()}
    on_wire = {(addresses[source], addresses[destination]) for source, destination, kind, _number in seen["packets"] if kind == "esp"}
    assert on_wire == set(pairs(federation))
    for sender, receiver in pairs(federation):
        key = federation.machines[sender].address, federation.machines[receiver].address
        rose = {name: after[name].get(key, 0) - before[name].get(key, 0) for name in (sender, receiver)}
        federation.say(f"IPsec association {sender} -> {receiver}, bytes counted by each end: {rose}")
        assert min(rose.values()) > passed[sender, receiver]["bytes"]


def test_a_one_way_loss_of_esp_is_named(federation: Federation) -> None:
    """ESP dropped on the bridge in one direction: `check` names exactly that ordered pair, `verify` fails; without the drop it does not."""
    sender, receiver = federation.workers[0], federation.master
    addresses = federation.machines[sender].address, federation.machines[receiver].address
    federation.network.filter(NARROW, "ip saddr {} ip daddr {} ip protocol esp counter drop".format(*addresses))
    checked = federation.mipfed("check", code=4)
    found = links(checked)
    federation.say(f"ESP by pair: {found}; problems: {[entry['code'] for entry in checked['result']['problems']]}")
    assert found[sender, receiver] == "path"
    assert {pair for pair, verdict in found.items() if verdict not in ("ok", f"mtu-{PATH_MTU}")} == {(sender, receiver)}
    assert [entry["code"] for entry in checked["result"]["problems"]] == ["link-esp-path"]

    failed = federation.mipfed("verify", code=4)
    federation.say(f"over the overlay: {overlay(failed)}")
    # An answer needs the way back: neither direction of the pair has one now. All other pairs do.
    assert {pair for pair, ok in overlay(failed).items() if not ok} == {(sender, receiver), (receiver, sender)}
    assert failed["result"]["encryption"]["state"] == "no-proof"
    assert federation.network.dropped() > 0

    federation.network.filter(NARROW)
    healed = federation.mipfed("verify")
    assert all(overlay(healed).values())
    assert healed["result"]["encryption"]["state"] == "encrypted"


def test_clear_vxlan_from_outside_is_refused(federation: Federation, extra: Any) -> None:
    """VXLAN in clear with the right number, from a peer's address and from a stranger's, reaches no container; what is encrypted does.

    The same frame reaches a container of an overlay that is not encrypted on a host without the guard, and no longer with it.
    """
    target, peer = federation.workers[0], federation.master
    machine = federation.machines[target]
    table = f"mip_{federation.name}"

    def attempt(network: str, source: str, guarded: bool, places: dict[str, dict[str, Any]]) -> dict[str, Any]:
        needle, before = secrets.token_hex(16), federation.refused(target) if guarded else 0
        process = federation.receiver(target, places[target], 40002, needle)
        sent = federation.inject(
            source=source, destination=machine.address, mac=machine.mac, vni=federation.vni(network), port=40002, needle=needle,
            inner_mac=places[target]["mac"], inner_source_mac=places[peer]["mac"], inner_source=places[peer]["address"],
            inner_destination=places[target]["address"],
        )  # fmt: skip
        sender = peer if network == OVERLAY or not guarded else ""
        if sender:
            heard = federation.end_reception(process, sender, places[sender], places[target], 40002, needle)
        else:
            heard = federation.end_reception(process, target, places[target], places[target], 40002, needle)
        heard["refused"] = federation.refused(target) - before if guarded else None
        federation.say(f"{sent['sent']} frames in clear on {network} from {source}, guard {'loaded' if guarded else 'removed'}: {heard}")
        return {**heard, **sent}

    encrypted = {name: federation.container(name) for name in (target, peer)}
    for source in (federation.machines[peer].address, "10.89.0.99"):
        heard = attempt(OVERLAY, source, True, encrypted)
        assert heard["datagrams"] == 0
        assert heard["frames"] == 0
        assert heard["control"] == 1
        assert heard["refused"] >= heard["sent"]

    plain = extra(PLAIN, (target, peer), encrypted=False, subnet="10.99.1.0/24")
    machine.run(f"nft delete table inet {table}")
    try:
        heard = attempt(PLAIN, federation.machines[peer].address, False, plain)
        assert heard["datagrams"] == heard["sent"]
        # Docker's own rule, which the guard stands in front of
        heard = attempt(OVERLAY, federation.machines[peer].address, False, encrypted)
    finally:
        machine.run(f"systemctl restart mip-firewall-{federation.name}.service")
    heard = attempt(PLAIN, federation.machines[peer].address, True, plain)
    assert heard["datagrams"] == 0
    assert heard["refused"] >= heard["sent"]


def test_an_overlay_that_is_wider_than_the_path_loses_what_is_large(federation: Federation, extra: Any) -> None:
    """With the engine's own MTU of 1500 small messages pass a path of 1400 bytes and large ones do not: why the MTU is measured."""
    hosts = (federation.master, federation.workers[0])
    places = extra(WIDE, hosts, encrypted=True, mtu=1500, subnet="10.99.2.0/24")
    wide = transfer(federation, places, LARGE)
    federation.say(f"MTU 1500, {LARGE} bytes: {wide}")
    for pair in wide.values():
        assert pair["small_ms"] is not None
        assert not pair["ok"]
        assert pair["bytes"] == 0
    fitting = transfer(federation, {name: federation.container(name) for name in hosts}, LARGE)
    federation.say(f"MTU {PATH_MTU}, {LARGE} bytes: {fitting}")
    assert all(pair["ok"] and pair["bytes"] == LARGE for pair in fitting.values())
