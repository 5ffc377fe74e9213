# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`mipfed check --request-sheet`: everything that a check needs is asked for, nothing else, and no host is contacted."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mipfed import paths
from mipfed.exitcodes import ExitCode

from .conftest import MAIN_YML, Project

MASTER, UI, FIRST, SECOND = "127.0.9.2", "127.0.9.3", "127.0.9.4", "127.0.9.5"
HUB = MAIN_YML.replace("registry.example/", "")


def sheet(project: Project, node: str, *more: str) -> dict[str, Any]:
    """Return the sheet of a node."""
    done = project.run("-f", "fed", "check", "--request-sheet", node, "-o", "json", *more)
    assert done.code == ExitCode.OK, done.err + done.out
    result: dict[str, Any] = done.document["result"]
    return result


def rows(found: dict[str, Any], key: str) -> dict[tuple[str, int], set[str]]:
    """Return the addresses by protocol and port."""
    return {(row["proto"], row["port"]): {peer["address"] for peer in row["peers"]} for row in found[key]}


def ssh(project: Project, main: str = MAIN_YML, **more: Any) -> None:
    """Make a federation that is reached over SSH; nobody listens there."""
    names = ("fed-ms", "fed-ui", "fed-wk-1", "fed-wk-2")
    project.federation(main=main, variables={name: {"ansible_connection": "ssh", **more.get(name.replace("-", "_"), {})} for name in names})


def test_a_worker(project: Project) -> None:
    ssh(project)
    found = sheet(project, "fed-wk-1")
    assert list(found) == [
        "schema", "federation", "node", "kind", "address", "encrypted", "incoming", "outgoing", "not_needed", "notes", "rules", "managed",
        "prove", "text", "file",
    ]  # fmt: skip
    peers = {MASTER, SECOND}
    assert rows(found, "incoming") == {("tcp", 22): {""}, ("esp", 0): peers, ("tcp", 7946): peers, ("udp", 7946): peers}
    outgoing = rows(found, "outgoing")
    assert outgoing.pop(("tcp", 2377)) == {MASTER}
    assert all(outgoing.pop((proto, port)) == peers for proto, port in (("esp", 0), ("tcp", 7946), ("udp", 7946)))
    assert outgoing[("tcp", 443)] and set(outgoing) == {("tcp", 443), ("tcp", 80), ("udp", 53), ("udp", 123)}
    assert [row["peers"][0]["address"] for row in found["outgoing"] if row["why"].startswith("the images")] == ["registry.example"]
    for row in [*found["incoming"], *found["outgoing"]]:
        assert list(row) == ["what", "proto", "port", "peers", "why", "when", "prove"]
        assert row["why"] and row["prove"] and row["when"] in ("always", "deploy", "host")
    text = found["text"]
    for words in (
        f"# Network request for fed-wk-1, {FIRST}", "IP protocol 50 (ESP)", "neither TCP nor UDP", "No address translation", "MTU",
        "Nothing comes in from the internet", "publishes no port", "opens connections to the addresses on this page only", "500 and 4500",
        "fed-pusher (its operator tells the address)", "mipfed -f fed check", "tcpdump -ni any 'ip proto 50'", "TCP 2377 from anyone",
    ):  # fmt: skip
        assert words in text, words
    assert "2377" not in "".join(found["rules"]["ufw"] + found["rules"]["firewalld"] + found["rules"]["nftables"])
    assert f"permit esp  group MIP-PEERS  host {FIRST}" in found["rules"]["generic"]
    # what came out of ESP passes the host's own filter as VXLAN, and is closed between the sites
    assert "4789" in found["rules"]["ufw"][0] and "4789" not in "".join(found["rules"]["generic"])
    assert any("meta ipsec exists udp dport 4789" in line for line in found["rules"]["nftables"])
    assert len(text.splitlines()) < 90


def test_a_master(project: Project) -> None:
    main = MAIN_YML.replace("mip_engine: {", "mip_engine: {port: 9443, ")
    main += "mip_firewall: {engine_allow: [198.51.100.0/24], controllers: [198.51.100.7]}\nmip_expose: {keystore: [198.51.100.9]}\n"
    ssh(project, main)
    found = sheet(project, "fed-ms")
    incoming = [(row["proto"], row["port"], sorted(peer["address"] for peer in row["peers"])) for row in found["incoming"]]
    assert ("tcp", 22, ["198.51.100.7"]) in incoming and ("tcp", 2377, [FIRST, SECOND]) in incoming
    assert [entry for entry in incoming if entry[1] == 9443] == [("tcp", 9443, [UI]), ("tcp", 9443, ["198.51.100.0/24"])]
    assert ("tcp", 8500, ["198.51.100.9"]) in incoming and not [entry for entry in incoming if entry[1] in (9090, 9000)]
    assert ("tcp", 2377) not in rows(found, "outgoing")
    assert "publishes TCP 9443 only" in found["text"]
    assert f"permit tcp  network 198.51.100.0/24  host {MASTER} eq 9443" in found["rules"]["generic"]
    assert any("9443" in line and UI in line for line in found["rules"]["ufw"])


def test_a_ui(project: Project) -> None:
    ssh(project, fed_ui={"ansible_port": 2222, "ansible_host": "192.0.2.77", "mip_address": UI})
    found = sheet(project, "fed-ui")
    assert rows(found, "incoming") == {("tcp", 2222): {""}}
    assert "asked for at 192.0.2.77" in found["incoming"][0]["why"]
    assert rows(found, "outgoing")[("tcp", 9090)] == {MASTER}
    assert not {("tcp", 2377), ("tcp", 7946), ("udp", 7946), ("esp", 0), ("udp", 4789)} & set(rows(found, "outgoing"))
    assert "no ESP: it is no member" in found["text"] and not found["rules"]["ufw"] and not found["notes"]
    assert not [row for row in found["outgoing"] if "registry" in row["why"]]


def test_further_managers_and_a_pusher_with_an_address(project: Project) -> None:
    ssh(project, fed_wk_1={"mip_swarm_manager": True})
    hosts = project.root / "inventories" / "fed" / "hosts.yml"
    document = json.loads(hosts.read_text(encoding="utf-8"))
    document["all"]["children"]["pusher"]["hosts"]["fed-pusher"]["mip_address"] = "198.51.100.3"
    hosts.write_text(json.dumps(document), encoding="utf-8")
    found = sheet(project, "fed-wk-1")
    assert rows(found, "incoming")[("tcp", 2377)] == {MASTER, SECOND} and rows(found, "outgoing")[("tcp", 2377)] == {MASTER}
    assert rows(found, "incoming")[("tcp", 22)] == {"198.51.100.3"}
    assert f"permit tcp  host 198.51.100.3  host {FIRST} eq 22" in found["rules"]["generic"]


@pytest.mark.parametrize(
    ("main", "hosts"),
    [
        (HUB, {"registry-1.docker.io", "auth.docker.io", "production.cloudflare.docker.com"}),
        (HUB + "mip_docker: {registry_mirrors: ['https://mirror.example:8443']}\n", {"mirror.example"}),
        (MAIN_YML.replace("registry.example/", "registry.example:5000/"), {"registry.example"}),
    ],
)
def test_where_the_images_come_from(project: Project, main: str, hosts: set[str]) -> None:
    ssh(project, main)
    found = [row for row in sheet(project, "fed-wk-1")["outgoing"] if row["why"].startswith("the images")]
    assert {peer["address"] for row in found for peer in row["peers"]} == hosts
    assert {row["port"] for row in found} == {5000 if "5000" in main else 8443 if "8443" in main else 443}


def test_a_hospital_with_a_site_kit_and_a_disabled_node(project: Project) -> None:
    """The one gives no SSH and needs the page most; for the other the peers keep open."""
    project.federation(
        workers=3,
        variables={
            "fed-wk-1": {"mip_site_kit": "invited", "mip_ldsm": {"host": "ldsm.hospital.example", "port": 5432}},
            "fed-wk-2": {"mip_disabled": {"reason": "moves"}, "mip_address": "192.0.2.25", "mip_ldsm": {"port": 5432}},
        },
    )
    found = sheet(project, "fed-wk-1")
    assert ("tcp", 22) not in rows(found, "incoming") and "SSH from outside" in found["text"]
    assert rows(found, "incoming")[("esp", 0)] == {MASTER, "192.0.2.25", "127.0.9.6"}
    assert rows(found, "outgoing")[("tcp", 5432)] == {"ldsm.hospital.example"}
    assert [proof["command"] for proof in found["prove"]][-1] == "mipfed -f fed verify"
    assert not [row for row in found["incoming"] if "check" in row["prove"]]
    assert FIRST in rows(sheet(project, "fed-ms"), "incoming")[("tcp", 2377)]
    # a store on the node itself is no matter of the network
    assert ("tcp", 5432) not in rows(sheet(project, "fed-wk-2"), "outgoing")


def test_a_lab_says_that_it_is_not_encrypted(project: Project) -> None:
    ssh(project, MAIN_YML + "mip_lab: true\nmip_overlay: {encrypted: false}\n")
    found = sheet(project, "fed-wk-1")
    assert ("udp", 4789) in rows(found, "incoming") and ("esp", 0) not in rows(found, "incoming")
    assert "NOT ENCRYPTED" in found["text"] and "ip proto 50" not in found["text"]


def test_it_is_what_a_check_measures(project: Project) -> None:
    """Both come from one plan: each thing that a check tries to a node is on that node's sheet, from its sender."""
    ssh(project)
    links = paths.collection_module("plugin_utils._links")
    resolved = project.run("-f", "fed", "config", "show", "-o", "json").document["result"]
    for check in links.plan(resolved)["checks"]:
        if check["proto"] == "vxlan":
            continue
        sender = next(node["address"] for node in resolved["nodes"] if node["name"] == check["sender"])
        receiver = next(node["address"] for node in resolved["nodes"] if node["name"] == check["receiver"])
        assert sender in rows(sheet_of(project, check["receiver"]), "incoming")[check["proto"], check["port"]]
        assert receiver in rows(sheet_of(project, check["sender"]), "outgoing")[check["proto"], check["port"]]


_SHEETS: dict[tuple[Path, str], dict[str, Any]] = {}


def sheet_of(project: Project, node: str) -> dict[str, Any]:
    """Return a sheet that was made before, or make it."""
    key = project.root, node
    if key not in _SHEETS:
        _SHEETS[key] = sheet(project, node)
    return _SHEETS[key]


def test_no_host_is_contacted_and_no_playbook_run(project: Project) -> None:
    ssh(project)
    assert project.run("-f", "fed", "check", "--request-sheet", "fed-wk-1").code == ExitCode.OK
    assert not project.runs()


def test_into_a_file(project: Project) -> None:
    ssh(project)
    page = project.run("-f", "fed", "check", "--request-sheet", "fed-wk-1").out
    done = project.run("-f", "fed", "check", "--request-sheet", "fed-wk-1", "--to", "page.md")
    assert done.code == ExitCode.OK and "Wrote page.md." in done.out
    assert (project.root / "page.md").read_text(encoding="utf-8") == page
    (project.root / "folder").mkdir()
    for target, words in (("folder", "is a folder"), ("nowhere/page.md", "does not exist")):
        wrong = project.run("-f", "fed", "check", "--request-sheet", "fed-wk-1", "--to", target)
        assert wrong.code == ExitCode.USAGE and words in wrong.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--request-sheet", "nobody"], ExitCode.NO_HOSTS),
        (["--to", "x"], ExitCode.USAGE),
        (["--request-sheet", "fed-ms", "--throughput"], ExitCode.USAGE),
        (["--request-sheet", "fed-ms", "--limit", "fed-ms"], ExitCode.USAGE),
        (["--seconds", "0", "--throughput"], ExitCode.USAGE),
    ],
)
def test_usage(project: Project, arguments: list[str], code: ExitCode) -> None:
    ssh(project)
    assert project.run("-f", "fed", "check", *arguments).code == code
    assert not project.runs()


def test_the_commands_are_what_a_shell_runs(project: Project, tmp_path: Path) -> None:
    """Each host's block is run by a real shell with tools that write down what they were called with."""
    ssh(project)
    rules = sheet(project, "fed-ms")["rules"]
    log = tmp_path / "log"
    (tmp_path / "sudo").write_text(f'#!/bin/sh\nprintf "%s|" "$@" >>{log}\necho >>{log}\n', encoding="utf-8")
    (tmp_path / "sudo").chmod(0o755)
    shell = shutil.which("sh")
    assert shell
    script = "\n".join([*rules["ufw"], *rules["firewalld"]])
    subprocess.run([shell, "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    called = [line.rstrip("|").split("|") for line in log.read_text(encoding="utf-8").splitlines()]
    assert ["ufw", "allow", "proto", "esp", "from", FIRST] in called
    assert ["ufw", "allow", "proto", "tcp", "from", SECOND, "to", "any", "port", "2377,7946"] in called
    rich = f'rule family="ipv4" source address="{FIRST}" port port="2377" protocol="tcp" accept'
    assert ["firewall-cmd", "--permanent", "--add-rich-rule", rich] in called
    assert called[-1] == ["firewall-cmd", "--reload"]
    assert all(
        re.fullmatch(r"sudo nft insert rule inet filter input ip saddr \{ [0-9., ]+ \} .* accept", line) for line in rules["nftables"]
    )
