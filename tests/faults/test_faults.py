# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every fault of the catalogue is injected, one at a time, on three lab machines: a check must name it, and its host, and nothing else.

`pytest -s tests/faults` prints what was found for each.
"""

from __future__ import annotations

import copy
import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from string import Template
from typing import Any

import ansible
import pytest
import yaml

from ansible_collections.hbp.mip.plugins.module_utils import _gates
from ansible_collections.hbp.mip.plugins.plugin_utils import _links, _node_reports, _reports
from ansible_collections.hbp.mip.tests.integration.lab.conftest import Lab, succeed

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CATALOGUE: list[dict[str, Any]] = yaml.safe_load((HERE / "catalogue.yml").read_text())
NAMES = ("a", "b", "c")
HEALTHY_RUNS = 20
#: True on any machine of a lab: no time service runs on the machine around it, and the kernel is that one's.
ALWAYS = {"clock-unsynchronised"}
LIMITS = {"disk_free_gb": 1.0, "inodes_free": 10000, "memory_mb": 512, "clock_skew_seconds": 60.0}


class Agent:
    """A lab machine with a session in which modules and commands run."""

    def __init__(self, lab: Lab, name: str) -> None:
        machine = lab.made[name]
        self.name, self.address, self.hostname, self.port = name, machine["address"], machine["name"], machine["veth"]
        known = Path(lab.key).parent / f"known_{name}"
        known.write_text(f"{machine['address']} {machine['host_key']}\n")
        command = ["ssh", "-F", "/dev/null", "-i", lab.key, "-o", f"UserKnownHostsFile={known}", "-o", "BatchMode=yes"]
        command += [f"root@{machine['address']}", "python3 -B /opt/mip/faults/agent.py"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the session with {self.name} ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run one request and return its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def shell(self, command: str) -> str:
        """Run a command that must succeed and return what it prints."""
        answer = self.ask({"shell": command})
        assert answer["code"] == 0, f"{self.name}: {command}: {answer['output']}"
        return str(answer["output"]).strip()

    def close(self) -> None:
        """End the session."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)


class Site:
    """Three machines as a federation: a is the master, b and c are hospitals."""

    def __init__(self, lab: Lab) -> None:
        self.pool = ThreadPoolExecutor(len(NAMES))
        self.agents = dict(zip(NAMES, self.pool.map(lambda name: Agent(lab, name), NAMES), strict=True))
        self.table = f"mip_faults_{os.getpid()}"
        addresses = {name: agent.address for name, agent in self.agents.items()}
        net = addresses["a"].rpartition(".")[0]
        self.words = {"NET": net, "GW": f"{net}.1", "ID_A": self.agents["a"].shell("cat /etc/machine-id")}
        for name, agent in self.agents.items():
            self.words |= {name.upper(): agent.address, f"NAME_{name.upper()}": agent.hostname}
        self.registry = f"{self.agents['a'].hostname}:5000"
        self._registries(net)

    def _registries(self, net: str) -> None:
        """Two TLS servers on a: the registry, whose authority the machines' engines know, and a device that opens connections."""
        make = """
            mkdir -p /run/registry && cd /run/registry
            for who in good:Hospital mitm:'Zscaler Inc.'; do
                openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/O=${who#*:}/CN=$(hostname)" \
                    -addext "subjectAltName=DNS:$(hostname)" -keyout ${who%%:*}.key -out ${who%%:*}.crt 2>&1
            done
            cat >serve.py <<'END'
import contextlib, socket, ssl, sys, threading
def serve(port, name):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(name + ".crt", name + ".key")
    listener = socket.create_server(("", port), backlog=50)
    while True:
        connection = listener.accept()[0]
        with contextlib.suppress(OSError), connection, context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(1)
threading.Thread(target=serve, args=(5001, "mitm"), daemon=True).start()
serve(5000, "good")
END
            setsid python3 serve.py >/dev/null 2>&1 &
        """
        certificate = self.agents["a"].ask({"shell": f"{make}\ncat /run/registry/good.crt"})["output"]
        assert "BEGIN CERTIFICATE" in certificate, certificate
        certificate = certificate[certificate.rindex("-----BEGIN") :]
        folder = f"/etc/docker/certs.d/{self.registry}"
        prepare = f"mkdir -p '{folder}' /data/lab && cat >'{folder}/ca.crt' <<'END'\n{certificate}\nEND\n"
        list(self.pool.map(lambda agent: agent.shell(prepare), self.agents.values()))

    def filled(self, value: Any) -> Any:
        """A part of the catalogue with this lab's addresses in it."""
        if isinstance(value, dict):
            return {key: self.filled(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.filled(each) for each in value]
        return Template(value).safe_substitute(self.words) if isinstance(value, str) else value

    def federation(self, encrypted: bool) -> dict[str, Any]:
        """What the reports read of a resolved federation."""
        nodes = [
            {"name": name, "kind": "master" if name == "a" else "worker", "address": agent.address, "manager": name == "a"}
            for name, agent in self.agents.items()
        ]
        return {"name": "faults", "overlay": {"encrypted": encrypted, "mtu": 0}, "swarm": {"data_path_port": 4789}, "nodes": nodes}

    def arguments(self, name: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
        """Arguments of node_check. The lab's kernel cannot encrypt, so that is asked for where the facts are made up only."""
        changes = dict(changes or {})
        agent = self.agents[name]
        return {
            "kinds": ["master" if name == "a" else "worker"],
            "limits": LIMITS,
            "address": agent.address,
            "peers": [each.address for each in self.agents.values()],
            "encrypted": False,
            "docker_source": "distro",
            "data_dir": "/data/lab",
            "data_required": True,
            "overlay_subnet": "10.20.30.0/24",
            "address_pools": ["10.30.0.0/16"],
            "expected_hostname": agent.hostname,
            "registry": self.registry,
            "reference_time": time.time() + changes.pop("reference_time", 0),
            **changes,
        }

    def look(self, changed: str = "", changes: dict[str, Any] | None = None) -> dict[str, dict[str, Any]]:
        """node_check on all machines at once."""

        def one(name: str) -> dict[str, Any]:
            arguments = self.arguments(name, changes if name == changed else None)
            return self.agents[name].ask({"module": "node_check", "arguments": arguments})

        return dict(zip(NAMES, self.pool.map(one, NAMES), strict=True))

    def findings(self, results: dict[str, dict[str, Any]], encrypted: bool = False) -> set[tuple[str, str, str]]:
        """Everything that a check reports about nodes: (host, code, who)."""
        found = set()
        for name, result in results.items():
            assert not result.get("failed"), f"{name}: {result.get('msg')}"
            found |= {(name, entry["code"], entry["who"]) for entry in result["problems"] + result["warnings_found"]}
        federation = self.federation(encrypted)
        problems, warnings = _node_reports.engines(federation, results)
        between = _reports.check(federation, {"nodes": results})["problems"] + problems + warnings
        single = {(host, code) for host, code, _who in found}
        found |= {(entry["node"], entry["code"], "host") for entry in between if (entry["node"], entry["code"]) not in single}
        return {entry for entry in found if entry[1] not in ALWAYS}

    def links(self, encrypted: bool = True) -> dict[str, Any]:
        """The three rounds of link_probe between all machines, and the verdicts."""
        plan = _links.plan(self.federation(encrypted))
        run = secrets.token_hex(16)

        def everywhere(arguments: dict[str, dict[str, Any]]) -> dict[str, Any]:
            def one(name: str) -> dict[str, Any]:
                return self.agents[name].ask({"module": "link_probe", "arguments": {**arguments[name], "run": run}})

            return dict(zip(NAMES, self.pool.map(one, NAMES), strict=True))

        listened = everywhere({name: {**plan["listen"][name], "mode": "listen"} for name in NAMES})
        sent = everywhere({name: {**plan["send"][name], "mode": "send", "targets": _links.targets(plan, name, listened)} for name in NAMES})
        collected = everywhere({name: {"mode": "collect", "node": name} for name in NAMES})
        return _links.judge(plan, listened, sent, collected, (), 1500)

    def bridge(self, rules: str) -> None:
        """Filter what is forwarded between the machines; no rules take the filter away."""
        subprocess.run(["nft", "delete", "table", "bridge", self.table], check=False, capture_output=True)
        if not rules:
            return
        lines = [f"add table bridge {self.table}"]
        lines.append(f"add chain bridge {self.table} f {{ type filter hook forward priority 0; }}")
        lines += [f"add rule bridge {self.table} f ether type ip {rule}" for rule in rules.split(";")]
        subprocess.run(["nft", "-f", "-"], input="\n".join(lines).encode(), check=True)

    def close(self) -> None:
        """End all sessions and take away what is on this host."""
        self.bridge("")
        for agent in self.agents.values():
            agent.close()
        self.pool.shutdown()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Three machines, for all tests."""
    if os.geteuid():
        pytest.skip("lab machines need root")
    lab = Lab(f"flt{os.getpid()}", str(succeed("lab_base", suite="bookworm", docker=True)["base"]["path"]))
    binds = {Path(ansible.__file__).parent: "ansible", ROOT / "collections/ansible_collections": "ansible_collections", HERE: "faults"}
    try:
        lab.up(*NAMES, binds=[f"{source}:/opt/mip/{target}:ro" for source, target in binds.items()])
        site = Site(lab)
        try:
            yield site
        finally:
            site.close()
    finally:
        lab.down()


# --- what must be found


def node_fault(site: Site, fault: dict[str, Any]) -> str:
    """Inject a fault of a machine; what is wrong with what the check says, empty when it is right."""
    target = fault.get("at", fault["host"])
    encrypted = bool(fault.get("encrypted"))
    arguments = {"encrypted": encrypted, **(fault.get("arguments") or {})}
    if "facts" in fault:
        results = judged_facts(site, target, fault["facts"], arguments)
    else:
        try:
            if "inject" in fault:
                site.agents[target].shell(fault["inject"])
            results = site.look(target, arguments)
        finally:
            if "undo" in fault:
                site.agents[target].shell(fault["undo"])
    found = site.findings(results, encrypted)
    wanted = (fault["host"], fault["code"], fault["who"])
    if wanted not in found:
        return f"not found: {wanted}; {sorted(found)}"
    allowed = {(host, code) for host in (target, fault["host"]) for code in (fault["code"], *fault.get("also", ()))}
    others = [entry for entry in found if entry[:2] not in allowed]
    return f"besides: {sorted(others)}" if others else ""


def judged_facts(site: Site, target: str, changes: dict[str, Any], arguments: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Sound results of all machines, in one of which some facts are changed and judged anew by node_check's own rules."""
    results = site.look()
    facts = copy.deepcopy(results[target]["facts"])
    for key, value in changes.items():
        facts[key] = {**facts[key], **value} if isinstance(value, dict) and key == "docker" else value
    given = {**site.arguments(target), **arguments}
    wanted = _gates.Wanted(**{key: given.get(key, "") for key in _gates.Wanted._fields if key != "data_path_port"}, data_path_port=4789)
    found = _gates.judge(facts, wanted)
    results[target] = {"facts": facts, "problems": found.problems, "warnings_found": found.warnings}
    return results


def said(pair: dict[str, Any], cell: dict[str, Any]) -> str:
    """A verdict in a line."""
    return f"{pair['from']}→{pair['to']} {cell['proto']}/{cell['port']} {cell['verdict']} {cell['evidence']}"


def link_fault(site: Site, fault: dict[str, Any]) -> str:
    """Inject a fault of a link; what is wrong with what the check says, empty when it is right."""
    try:
        if "inject" in fault:
            site.agents[fault["at"]].shell(fault["inject"])
        if "mtu" in fault:
            subprocess.run(["ip", "link", "set", site.agents["b"].port, "mtu", str(fault["mtu"])], check=True)
        site.bridge(fault.get("bridge", ""))
        report = site.links(not fault.get("plain"))
    finally:
        site.bridge("")
        if "mtu" in fault:
            subprocess.run(["ip", "link", "set", site.agents["b"].port, "mtu", "1500"], check=True)
        if "undo" in fault:
            site.agents[fault["at"]].shell(fault["undo"])
    missing, others = [], []
    for pair in report["pairs"]:
        ends = {pair["from"], pair["to"]}
        there = bool(re.fullmatch(fault["from"], pair["from"]) and re.fullmatch(fault["to"], pair["to"])) and fault.get("with", "") in {
            *ends,
            "",
        }
        back = bool(re.fullmatch(fault["from"], pair["to"]) and re.fullmatch(fault["to"], pair["from"]))
        faults = [cell for cell in pair["checks"] if cell["level"] not in ("ok", "note")]
        right = [
            cell
            for cell in faults
            if cell["name"] == fault["code"] and cell["who"] == fault["who"] and fault.get("verdict", cell["verdict"]) == cell["verdict"]
        ]
        if there and not right:
            missing.append(f"{pair['from']}→{pair['to']}")
        if not there and back and fault.get("reverse") == "any":
            continue
        others += [said(pair, cell) for cell in faults if not there or cell not in right]
    return "; ".join([f"not found between {each}" for each in missing] + [f"besides: {each}" for each in others])


@pytest.mark.timeout(900)
def test_faults(site: Site) -> None:
    """At least 95 of 100 faults are found and attributed to the right host and cause."""
    wrong, began = {}, time.monotonic()
    for fault in CATALOGUE:
        started = time.monotonic()
        try:
            reason = (link_fault if fault["code"].startswith("link-") else node_fault)(site, site.filled(fault))
        except AssertionError as error:
            reason = f"could not be tried: {error}"
        if reason:
            wrong[fault["name"]] = reason
        print(f"{time.monotonic() - started:5.1f} s  {fault['code']:<26} {fault['name']}{': ' + reason if reason else ''}", file=sys.stderr)
    share = 1 - len(wrong) / len(CATALOGUE)
    print(f"{len(CATALOGUE)} faults in {time.monotonic() - began:.0f} s, {100 * share:.1f} % right", file=sys.stderr)
    assert not site.findings(site.look()), "something was not taken back"
    assert share >= 0.95, wrong


@pytest.mark.timeout(900)
def test_no_false_alarm(site: Site) -> None:
    """Healthy machines and links, again and again."""
    slowest, alarms = 0.0, []
    for number in range(HEALTHY_RUNS):
        results = site.look()
        slowest = max(slowest, *(result["seconds"] for result in results.values()))
        alarms += [f"run {number}: {found}" for found in sorted(site.findings(results))]
        report = site.links(encrypted=bool(number % 2))
        alarms += [f"run {number}: {entry}" for entry in report["problems"]]
        alarms += [
            f"run {number}: {said(pair, cell)}"
            for pair in report["pairs"]
            for cell in pair["checks"]
            if cell["level"] not in ("ok", "note")
        ]
    print(f"{HEALTHY_RUNS} healthy runs; the slowest node_check took {slowest:.2f} s", *alarms, sep="\n  ", file=sys.stderr)
    assert not alarms
    assert report["ok"]


# --- the catalogue itself


def test_catalogue() -> None:
    """Names are unique, codes are documented, and everything that is injected is taken back."""
    assert len(CATALOGUE) >= 30 and len({fault["name"] for fault in CATALOGUE}) == len(CATALOGUE)
    findings = (ROOT / "docs/findings.md").read_text()
    plugins = ROOT / "collections/ansible_collections/hbp/mip/plugins"
    rules = "".join(path.read_text() for path in [*plugins.glob("module_utils/_gates*.py"), plugins / "plugin_utils/_node_reports.py"])
    codes = set(re.findall(r'"([a-z0-9]+(?:-[a-z0-9]+)+)",\n', rules)) | {fault["code"] for fault in CATALOGUE}
    assert not [code for code in sorted(codes) if f"`{code}`" not in findings]
    for fault in CATALOGUE:
        assert ("inject" in fault) == ("undo" in fault), fault["name"]
        assert fault["code"] in _links.FINDINGS or "host" in fault, fault["name"]
