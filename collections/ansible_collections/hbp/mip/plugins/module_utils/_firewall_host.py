# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's side of the firewall: what runs there, what differs from what is wanted, and changes that take themselves back.

A change is made in this order, so that a kill or a power cut at any point leaves the old or the new: the old state is saved with a
script that restores it, a timer and a boot unit that run the script are put in place, the files are replaced one by one, all of it
is loaded. Only a confirmation over another connection removes the script.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ansible_collections.hbp.mip.plugins.module_utils import _docker_http, _firewall, _netlink, _swarm

STATE_DIR = "/var/lib/mip/firewall"
UNITS = "/etc/systemd/system"
UFW_RULES = "/etc/ufw/user.rules"
UFW_CONF = "/etc/ufw/ufw.conf"
UFW_DEFAULTS = "/etc/default/ufw"
UFW_LOCK = "/run/ufw.lock"
FIREWALLD = "/etc/firewalld"

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SECONDS = 30.0
_DOCKER_SECONDS = 15.0
# of Docker's own associations, which it keeps for a while after a peer left (libnetwork, drivers/overlay/encryption.go)
_DOCKER_REQID = "13681891"
_BUS = ["busctl", "--json=short", "--timeout=20", "call"]
_FIREWALLD_BUS = "org.fedoraproject.FirewallD1"
_FIREWALLD_OBJECT = "/org/fedoraproject/FirewallD1"


class HostError(Exception):
    """The host cannot be looked at or changed. `code` is stable, `fix` the next command."""

    def __init__(self, message: str, code: str = "firewall-failed", fix: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.fix = fix


class Problem(NamedTuple):
    """Something an administrator should know; nothing failed because of it."""

    code: str
    message: str
    fix: str


class Done(NamedTuple):
    """The outcome of a command."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """What the command says went wrong, in one line."""
        text = [line.strip() for line in (self.err or self.out).splitlines() if line.strip(" ^~\t")]
        return text[0] if text else "exit code %d" % self.code


def run(command: Sequence[str], stdin: str = "", timeout: float = _SECONDS) -> Done:
    """Run a command; one that is missing or does not end has the code 127 or 124."""
    try:
        done = subprocess.run(
            list(command),
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            env={"PATH": _PATH, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        return Done(127, "", "%s is not installed" % command[0])
    except subprocess.TimeoutExpired:
        return Done(124, "", "%s did not end within %g seconds" % (command[0], timeout))
    except OSError as error:
        return Done(126, "", "%s: %s" % (command[0], error))
    return Done(done.returncode, done.stdout, done.stderr)


def must(command: Sequence[str], what: str, stdin: str = "", timeout: float = _SECONDS) -> str:
    """The output of a command that must succeed. Raises HostError."""
    done = run(command, stdin, timeout)
    if done.code:
        raise HostError("%s: %s" % (what, done.said), fix="try it on the host: sudo " + " ".join(shlex.quote(part) for part in command))
    return done.out


def read(path: str) -> Optional[str]:
    """The text of a file, None when there is none."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def in_namespace(commands: Sequence[Tuple[Sequence[str], str]]) -> List[Done]:
    """Run commands (with their input) one after the other in one network namespace of their own, until one fails."""

    def attempt() -> Dict[str, Any]:
        _netlink.unshare_network()
        found = []
        for command, stdin in commands:
            found.append(list(run(command, stdin)))
            if found[-1][0]:
                break
        return {"done": found}

    answer = _netlink.in_child(attempt, _SECONDS * 2)
    if "done" not in answer:
        raise HostError("no network namespace for a trial: %s" % answer.get("error", "no answer"), "firewall-no-trial")
    return [Done(*item) for item in answer["done"]]


# --- paths of a federation


def folder(name: str) -> str:
    """Where the host keeps the federation's state."""
    return os.path.join(STATE_DIR, name)


def pending_folder(name: str) -> str:
    """Where an unconfirmed change keeps what it replaced."""
    return os.path.join(folder(name), "pending")


def guard_path(name: str) -> str:
    """The guard's file."""
    return "/etc/mip/firewall-%s.nft" % name


def guard_unit_name(name: str) -> str:
    """The unit that loads the guard."""
    return "mip-firewall-%s.service" % name


def rollback_unit_paths(name: str) -> Tuple[str, str]:
    """The unit that takes an unconfirmed change back at the next boot, and the link that enables it."""
    unit = os.path.join(UNITS, "mip-firewall-%s-rollback.service" % name)
    return unit, os.path.join(UNITS, "multi-user.target.wants", os.path.basename(unit))


def undo_name(name: str) -> str:
    """The transient timer, and its service, that take an unconfirmed change back."""
    return "mip-firewall-%s-undo" % name


# --- the connection


class Connection(NamedTuple):
    """The SSH connection that this process belongs to: the client's address and port, and the server's port."""

    address: str
    client_port: int
    port: int

    @property
    def identity(self) -> str:
        """Different for every connection."""
        return "%s:%d:%d" % self


def connection() -> Optional[Connection]:
    """The SSH connection of this process, None when it belongs to none (or that cannot be seen).

    sudo drops SSH_CONNECTION, so that the environment of the processes above this one is read as well.
    """
    text = os.environ.get("SSH_CONNECTION", "")
    pid = os.getpid()
    while not text and pid > 1:
        try:
            with open("/proc/%d/status" % pid, encoding="utf-8") as stream:
                pid = next(int(line.split()[1]) for line in stream if line.startswith("PPid:"))
            with open("/proc/%d/environ" % pid, "rb") as raw:
                variables = raw.read().split(b"\0")
        except (OSError, StopIteration, ValueError):
            return None
        text = next((item[15:].decode("ascii", "replace") for item in variables if item.startswith(b"SSH_CONNECTION=")), "")
    fields = text.split()
    try:
        return Connection(fields[0].partition("%")[0], int(fields[1]), int(fields[3]))
    except (IndexError, ValueError):
        return None


# --- which firewall


class Backend(NamedTuple):
    """The host's own firewall: `name` as in _firewall.BACKENDS, whether it filters now, and how that is known."""

    name: str
    running: bool
    reason: str


def _bus(interface: str, method: str, *arguments: str, path: str = _FIREWALLD_OBJECT) -> Any:
    """What a method of firewalld returns. Raises HostError."""
    name = ".".join([_FIREWALLD_BUS, interface]).rstrip(".")
    out = must([*_BUS, _FIREWALLD_BUS, path, name, method, *arguments], "firewalld refuses %s" % method)
    data = json.loads(out)["data"] if out.strip() else [None]
    return data[0]


def firewalld_runs() -> bool:
    """Whether firewalld runs now. Asking does not start it."""
    asked = ["org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "NameHasOwner", "s", _FIREWALLD_BUS]
    return '"data":[true]' in run([*_BUS, *asked]).out


def ufw_enabled() -> bool:
    """Whether ufw is enabled, as its own configuration says."""
    lines = (read(UFW_CONF) or "").splitlines()
    return any(line.strip().lower() in ("enabled=yes", 'enabled="yes"') for line in lines)


def _ufw_loaded() -> bool:
    return run(["iptables", "-n", "-L", "ufw-user-input"]).code == 0


def foreign_filters(own: str) -> List[str]:
    """Filters of incoming packets that drop what nobody accepted, other than ufw's and firewalld's: readable names."""
    found = []
    done = run(["nft", "-j", "list", "ruleset"])
    try:
        items = json.loads(done.out)["nftables"] if done.code == 0 else []
    except (ValueError, KeyError):
        items = []
    chains: Dict[Tuple[str, str, str], str] = {}
    for item in items:
        chain = item.get("chain")
        if chain and chain.get("hook") == "input" and chain.get("type") == "filter":
            key = (chain["family"], chain["table"], chain["name"])
            if chain["table"] not in ("firewalld", own) and chain["family"] in ("ip", "inet"):
                chains[key] = chain.get("policy", "accept")
    closed = {key for key, policy in chains.items() if policy == "drop"}
    for item in items:
        rule = item.get("rule")
        if rule and (rule["family"], rule["table"], rule["chain"]) in chains:
            kinds = [next(iter(part)) for part in rule.get("expr", []) if isinstance(part, dict)]
            if kinds and all(kind in ("counter", "drop", "reject", "log", "limit") for kind in kinds) and kinds[-1] in ("drop", "reject"):
                closed.add((rule["family"], rule["table"], rule["chain"]))
    found = ["nftables %s %s %s" % key for key in sorted(closed)]
    # iptables-legacy makes its tables by looking at them, so that it is run only where they are already
    used = "filter" in (read("/proc/net/ip_tables_names") or "").split()
    legacy = run(["iptables-legacy", "-S", "INPUT"]).out.splitlines() if used else []
    if any(line in ("-P INPUT DROP", "-A INPUT -j DROP") or line.startswith("-A INPUT -j REJECT") for line in legacy):
        found.append("iptables-legacy INPUT")
    return found


def backend(asked: str, own: str) -> Backend:
    """The backend to use. `own` is the name of our table. Raises HostError when two firewalls run at once."""
    has_ufw, has_firewalld = ufw_enabled(), firewalld_runs()
    if asked == "ufw":
        if read(UFW_RULES) is None:
            raise HostError("ufw is not installed on this host: there is no %s" % UFW_RULES, "tool-missing", "apt-get install ufw")
        return Backend("ufw", has_ufw and _ufw_loaded(), "as asked")
    if asked == "firewalld":
        if not os.path.isdir(FIREWALLD):
            raise HostError("firewalld is not installed on this host", "tool-missing", "apt-get install firewalld")
        return Backend("firewalld", has_firewalld, "as asked")
    if asked in ("nftables", "none"):
        return Backend(asked, False, "as asked")
    if has_ufw and has_firewalld:
        raise HostError(
            "both ufw and firewalld filter on this host, and each undoes the other",
            "firewall-two-backends",
            "keep one: sudo ufw disable, or sudo systemctl disable --now firewalld",
        )
    if has_ufw:
        return Backend("ufw", _ufw_loaded(), "ufw is enabled")
    if has_firewalld:
        return Backend("firewalld", True, "firewalld runs")
    if os.path.islink(os.path.join(UNITS, "multi-user.target.wants/firewalld.service")):
        return Backend("firewalld", False, "firewalld is enabled, but does not run now")
    filters = foreign_filters(own)
    if filters:
        return Backend("nftables", True, "incoming packets are filtered by " + ", ".join(filters))
    return Backend("none", False, "nothing filters incoming packets")


# --- what is wanted, as files


FileSet = Dict[str, _firewall.Content]


def file_set(name: str, wanted: Optional[_firewall.Settings], chosen: str, features: Sequence[str]) -> FileSet:
    """Every file of the federation's firewall with its wanted content, in the order in which they are written.

    `wanted` is None when all is to go. Raises ConfigError for a file of ufw that is none.
    """
    guard = guard_path(name)
    unit = os.path.join(UNITS, guard_unit_name(name))
    back, back_link = rollback_unit_paths(name)
    wants = os.path.join(UNITS, "multi-user.target.wants")
    short = _firewall.firewalld_name(name)
    guarded = wanted is not None and wanted.guarded
    found: FileSet = {
        back: _firewall.rollback_unit(name, folder(name)).encode() if guarded else None,
        back_link: back if guarded else None,
        os.path.join(folder(name), "settings.json"): None,
        guard: _firewall.guard(wanted, features).encode() if wanted and guarded else None,
        unit: _firewall.guard_unit(name, guard).encode() if guarded else None,
        os.path.join(wants, os.path.basename(unit)): unit if guarded else None,
        os.path.join(UNITS, "nftables.service.d", "mip-firewall-%s.conf" % name): (
            _firewall.nftables_dropin(name, guard).encode() if guarded else None
        ),
    }
    if wanted and guarded:
        record = {"schema": 1, "backend": chosen, "settings": _firewall.to_json(wanted)}
        found[os.path.join(folder(name), "settings.json")] = (json.dumps(record, indent=1, sort_keys=True) + "\n").encode()
    opened = bool(wanted and _firewall.rules(wanted))
    text = read(UFW_RULES)
    if text is not None:
        ours = _firewall.ufw_rules(wanted) if wanted and chosen == "ufw" else []
        # a host where ufw was never looked at has none of ours
        if ours or chosen == "ufw" or "comment=" in text:
            found[UFW_RULES] = _firewall.ufw_file(text, name, ours).encode("utf-8", "surrogateescape")
    for part, render in (("ipsets", _firewall.firewalld_ipset), ("policies", _firewall.firewalld_policy)):
        path = os.path.join(FIREWALLD, part, short + ".xml")
        found[path] = render(wanted).encode() if wanted and opened and chosen == "firewalld" else None
    return found


def recorded(name: str) -> Optional[Tuple[_firewall.Settings, str]]:
    """The settings and the backend of the last change on this host; None when there was none."""
    text = read(os.path.join(folder(name), "settings.json"))
    if text is None:
        return None
    try:
        record = json.loads(text)
        return _firewall.settings(record["settings"]), str(record["backend"])
    except (ValueError, KeyError, TypeError, _firewall.ConfigError):
        return None


def _present(path: str) -> _firewall.Content:
    try:
        if os.path.islink(path):
            return os.readlink(path)
        with open(path, "rb") as stream:
            return stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


# --- what is loaded


def canonical_guard(text: str, name: str) -> str:
    """The guard as nft lists it once loaded, found out in a network namespace of its own. Raises HostError when it is refused."""
    done = in_namespace([(["nft", "-f", "-"], text), (["nft", "-s", "list", "table", "inet", _firewall.table(name)], "")])
    if done[-1].code:
        raise HostError("nft refuses the guard: %s" % done[-1].said, "firewall-refused")
    return done[-1].out


def kernel_features(text: str, name: str) -> Dict[str, Dict[str, Any]]:
    """What the kernel (and nft) can do of what the guard wants: {feature: {"ok": bool, "reason": str}}.

    `text` is the guard with all features: when it loads, nothing else is tried. Raises HostError without nftables at all.
    """
    commands = [(["nft", "-f", "-"], text)]
    whole = in_namespace(commands)[-1] if text else Done(0, "", "")
    if whole.code == 127:
        raise HostError("nft is not installed on this host, and the guard needs it", "tool-missing", "sudo apt-get install nftables")
    if whole.code == 0:
        return {feature: {"ok": True, "reason": ""} for feature in _firewall.FEATURES}
    base = in_namespace([(["nft", "-f", "-"], "table inet mip_probe {\n chain c {\n type filter hook prerouting priority 0;\n}\n}\n")])[-1]
    if base.code:
        raise HostError(
            "this kernel has no nftables for the family inet (CONFIG_NF_TABLES_INET): %s" % base.said,
            "firewall-kernel",
            "run the distribution's own kernel: sudo apt-get install linux-image-$(dpkg --print-architecture)",
        )
    found = {}
    for feature in _firewall.FEATURES:
        done = in_namespace([(["nft", "-f", "-"], _firewall.feature_probe(feature))])[-1]
        found[feature] = {"ok": done.code == 0, "reason": "" if done.code == 0 else done.said}
    return found


def _guard_difference(name: str, text: Optional[str]) -> List[str]:
    what = "nftables table inet %s" % _firewall.table(name)
    loaded = run(["nft", "-s", "list", "table", "inet", _firewall.table(name)])
    if text is None:
        return ["%s is loaded, but not wanted" % what] if loaded.code == 0 else []
    if loaded.code:
        return ["%s is not loaded" % what]
    return [] if loaded.out == canonical_guard(text, name) else ["%s differs from what is wanted" % what]


def _ufw_difference(wanted: Sequence[Tuple[str, str]]) -> List[str]:
    """What of our rules ufw's running chain lacks."""
    if not wanted:
        return []
    rules = "".join(rule + "\n" for _described, rule in wanted)
    done = in_namespace(
        [
            (["iptables-restore", "-n"], "*filter\n:ufw-user-input - [0:0]\n%sCOMMIT\n" % rules),
            (["iptables", "-S", "ufw-user-input"], ""),
        ]
    )
    if done[-1].code:
        raise HostError("iptables refuses the rules for ufw: %s" % done[-1].said, "firewall-refused")
    loaded = run(["iptables", "-S", "ufw-user-input"]).out.splitlines()
    missing = [line for line in done[-1].out.splitlines() if line.startswith("-A") and line not in loaded]
    return ["ufw: %d of %d rules are not loaded" % (len(missing), len(wanted))] if missing else []


class Running(NamedTuple):
    """Our part of firewalld's running configuration; `rules` is None without our policy, `entries` without our ipset."""

    rules: Optional[List[str]]
    entries: Optional[List[str]]


def firewalld_running(name: str) -> Running:
    """What firewalld runs with now. Raises HostError, also for a firewalld without policies."""
    short = _firewall.firewalld_name(name)
    try:
        policies = _bus("policy", "getPolicies")
    except HostError as error:
        version = run(["firewall-cmd", "--version"]).out.strip()
        raise HostError(
            "firewalld %s has no policies (0.9 has): %s" % (version, error),
            "firewall-old-firewalld",
            "update firewalld, or open the ports by hand and set the backend to none",
        ) from error
    settings = _bus("policy", "getPolicySettings", "s", short) if short in policies else None
    entries = _bus("ipset", "getEntries", "s", short) if short in _bus("ipset", "getIPSets") else None
    return Running(None if settings is None else list(settings.get("rich_rules", {}).get("data", [])), entries)


def _firewalld_wanted(wanted: Optional[_firewall.Settings], chosen: str) -> Running:
    if wanted is None or chosen != "firewalld" or not _firewall.rules(wanted):
        return Running(None, None)
    return Running(_firewall.firewalld_rich_rules(wanted), [peer.address for peer in wanted.peers])


def _firewalld_difference(name: str, wanted: Running) -> List[str]:
    running = firewalld_running(name)
    short = _firewall.firewalld_name(name)
    if wanted.rules is None:
        # an empty policy opens nothing; it goes with firewalld's next reload
        return ["firewalld policy %s is loaded, but not wanted" % short] if running.rules else []
    found = []
    if running.rules is None or running.entries is None:
        return ["firewalld policy %s is not loaded" % short]
    if sorted(running.rules) != sorted(wanted.rules):
        found.append("firewalld policy %s differs from what is wanted" % short)
    if sorted(running.entries) != sorted(wanted.entries or []):
        found.append("firewalld ipset %s differs from what is wanted" % short)
    return found


class Plan(NamedTuple):
    """What is wanted of the host, and how it differs from what is there."""

    name: str
    wanted: Optional[_firewall.Settings]
    backend: Backend
    files: FileSet
    changed_files: List[str]
    differences: List[str]


def plan(name: str, wanted: Optional[_firewall.Settings], chosen: Backend, features: Sequence[str]) -> Plan:
    """Compare what is wanted with the files and with what is loaded. Changes nothing."""
    files = file_set(name, wanted, chosen.name, features)
    changed = [path for path, content in files.items() if _present(path) != content]
    found = []
    for path in changed:
        there = _present(path)
        word = "is missing" if there is None else ("is not wanted" if files[path] is None else "differs")
        found.append("%s %s" % (path, word))
    content = files[guard_path(name)]
    guard = content.decode() if isinstance(content, bytes) else None
    found += _guard_difference(name, guard)
    if guard is not None and guard_path(name) not in changed and run(["systemctl", "is-active", "-q", guard_unit_name(name)]).code:
        found.append("%s is not active" % guard_unit_name(name))
    if chosen.name == "ufw" and chosen.running and wanted and UFW_RULES not in changed:
        found += _ufw_difference(_firewall.ufw_rules(wanted))
    if firewalld_runs():
        found += _firewalld_difference(name, _firewalld_wanted(wanted, chosen.name))
    return Plan(name, wanted, chosen, files, changed, found)


# --- problems


def problems(wanted: Optional[_firewall.Settings], chosen: Backend, features: Dict[str, Dict[str, Any]]) -> List[Problem]:
    """What the host's administrator should know."""
    found: List[Problem] = []
    if wanted is None:
        return found
    meanings = {
        "fib": "rules also meet packets that this host only forwards",
        "ipsec": "clear VXLAN is refused by Docker's own rule only, and not before it",
        "owner": "a local user of this host can send into the overlay with an engine before 25.0.19 or 29.8.2 (CVE-2026-92542)",
        "conntrack": "answers to connections that left from a published port are dropped",
    }
    for feature, state in features.items():
        if not state["ok"]:
            text = "the kernel cannot match %s (%s): %s" % (feature, state["reason"], meanings[feature])
            found.append(Problem("firewall-kernel-" + feature, text, "run the distribution's own kernel"))
    lines = _firewall.requests(wanted)
    if chosen.name == "nftables" and lines:
        what = chosen.reason if chosen.running else "the host has its own nftables rules"
        fix = "let its administrator add, before its drop: " + "; ".join(lines)
        found.append(Problem("firewall-foreign-filter", "%s, which this collection does not touch" % what, fix))
    if chosen.name == "ufw":
        values = dict(line.partition("=")[::2] for line in (read(UFW_DEFAULTS) or "").splitlines() if "=" in line and line[:1] != "#")
        if values.get("DEFAULT_OUTPUT_POLICY", "ACCEPT").strip('"').upper() != "ACCEPT" and wanted.member:
            text = "ufw refuses what this host sends unless a rule allows it (DEFAULT_OUTPUT_POLICY)"
            found.append(Problem("firewall-output-filter", text, "sudo ufw default allow outgoing, or ufw allow out to each peer"))
        if not chosen.running:
            text = "ufw is not enabled; the rules are in %s and count from when it is" % UFW_RULES
            found.append(Problem("firewall-not-running", text, "sudo ufw enable"))
    if chosen.name == "firewalld":
        if chosen.running:
            found += _masquerade()
        else:
            text = "firewalld does not run; the rules are in %s and count from when it does" % FIREWALLD
            found.append(Problem("firewall-not-running", text, "sudo systemctl start firewalld"))
    if wanted.member:
        found += _other_vxlan(wanted.data_path_port)
    return found


def _masquerade() -> List[Problem]:
    zones = [zone for zone in _bus("zone", "getActiveZones") if zone != "docker"]
    default = _bus("", "getDefaultZone")
    on = [zone for zone in sorted({*zones, default}) if _bus("zone", "queryMasquerade", "s", zone)]
    if not on:
        return []
    text = "firewalld zone %s masquerades: what this host forwards carries its own address. Docker needs no such rule" % ", ".join(on)
    fix = "; ".join("sudo firewall-cmd --permanent --zone=%s --remove-masquerade" % zone for zone in on)
    return [Problem("firewall-masquerade", text, fix + "; sudo firewall-cmd --reload, unless something else needs it")]


def _other_vxlan(port: int) -> List[Problem]:
    done = run(["ip", "-j", "-d", "link", "show", "type", "vxlan"])
    try:
        links = json.loads(done.out) if done.code == 0 and done.out.strip() else []
    except ValueError:
        links = []
    # Docker's own are called vx-… for the moment before they move into their namespace
    names = [
        str(link.get("ifname"))
        for link in links
        if link.get("linkinfo", {}).get("info_data", {}).get("port") == port and not str(link.get("ifname")).startswith("vx-")
    ]
    if not names:
        return []
    text = "%s on this host also speaks VXLAN on port %d, and the guard closes that port to others" % (", ".join(names), port)
    return [Problem("firewall-other-vxlan", text, "give the federation a port of its own: mip_swarm.data_path_port")]


def foreign_ipsec(wanted: _firewall.Settings) -> List[str]:
    """Addresses of others than the peers with which this host speaks IPsec now, and which the guard would cut off."""
    known = {peer.address for peer in wanted.peers} | set(wanted.ipsec_others) | {wanted.address}
    found = set()
    source = ""
    for line in run(["ip", "xfrm", "state", "list", "nokeys"]).out.splitlines():
        words = line.split()
        if words[:1] == ["src"] and len(words) >= 4:
            source = words[1]
        elif words[:2] == ["proto", "esp"] and source not in known and _DOCKER_REQID not in words:
            found.add(source)
    return sorted(found - set(_own_addresses()))


def _own_addresses() -> List[str]:
    try:
        return [item.address for item in _netlink.addresses_and_routes()[0]]
    except OSError:
        return []


# --- validation of files before they are written


def validate(wanted: Plan) -> None:
    """Let the tools look at every file that changes. Raises HostError when one is refused; nothing was changed then."""
    content = wanted.files[guard_path(wanted.name)]
    if isinstance(content, bytes):
        done = run(["nft", "-c", "-f", "-"], content.decode())
        if done.code:
            raise HostError("nft refuses the guard: %s" % done.said, "firewall-refused")
    content = wanted.files.get(UFW_RULES)
    if UFW_RULES in wanted.changed_files and isinstance(content, bytes):
        done = in_namespace([(["iptables-restore", "-n"], content.decode("utf-8", "surrogateescape"))])[-1]
        if done.code:
            raise HostError("iptables refuses ufw's new rules: %s" % done.said, "firewall-refused", "sudo ufw status verbose")
    ours = [path for path in wanted.changed_files if path.startswith(FIREWALLD) and wanted.files[path] is not None]
    if ours and shutil.which("firewall-offline-cmd", path=_PATH):
        with tempfile.TemporaryDirectory(prefix="mip-firewalld-") as trial:
            copy = os.path.join(trial, "firewalld")
            shutil.copytree(FIREWALLD, copy)
            for path in ours:
                os.makedirs(os.path.dirname(copy + path[len(FIREWALLD) :]), exist_ok=True)
                with open(copy + path[len(FIREWALLD) :], "wb") as stream:
                    stream.write(wanted.files[path])  # type: ignore[arg-type]
            done = run(["firewall-offline-cmd", "--system-config=" + copy, "--check-config"])
            if done.code:
                raise HostError(
                    "firewalld refuses its new configuration: %s" % done.said, "firewall-refused", "sudo firewall-cmd --check-config"
                )


def unsaved_firewalld() -> List[str]:
    """Zones in which firewalld runs with other settings than its files say, and which a reload would therefore change.

    Interfaces are left out: firewalld keeps them over a reload.
    """
    found = []
    zones = sorted({*_bus("zone", "getActiveZones"), _bus("", "getDefaultZone")})
    for zone in zones:
        running = _bus("zone", "getZoneSettings2", "s", zone)
        try:
            path = _bus("config", "getZoneByName", "s", zone, path=_FIREWALLD_OBJECT + "/config")
            saved = _bus("config.zone", "getSettings2", path=path)
        except HostError:
            continue
        keys = ({*running, *saved}) - {"interfaces", "version", "short", "description"}
        if any(_plain(running.get(key)) != _plain(saved.get(key)) for key in keys):
            found.append(zone)
    return found


def _plain(value: Any) -> Any:
    data = value.get("data") if isinstance(value, dict) else value
    # what is not said is the empty list, no, or nothing
    return sorted(data, key=str) if isinstance(data, list) else (data or [])


# --- the change


@contextmanager
def locked(name: str) -> Iterator[None]:
    """One change at a time on this host. The script that takes a change back waits for the same lock."""
    os.makedirs(folder(name), 0o700, exist_ok=True)
    with open(os.path.join(folder(name), "lock"), "a", encoding="ascii") as stream:
        deadline = time.monotonic() + _SECONDS
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise HostError(
                        "another run has been changing this firewall for %d seconds" % _SECONDS, "firewall-locked", "try again"
                    ) from None
                time.sleep(0.2)
        yield


@contextmanager
def _ufw_locked() -> Iterator[None]:
    # the lock that ufw itself takes, so that no `ufw allow` at the same time is lost
    with open(UFW_LOCK, "w", encoding="ascii") as stream:
        fcntl.lockf(stream, fcntl.LOCK_EX)
        yield


def pending(name: str) -> Dict[str, Any]:
    """The change that waits for its confirmation: its `id` and the `connection` that made it. Empty without one."""
    text = read(os.path.join(pending_folder(name), "change.json"))
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def outcome(name: str) -> List[str]:
    """What became of the last change: its word (confirmed, rolled-back), its id and its time. Empty when nothing is known."""
    return (read(os.path.join(folder(name), "outcome")) or "").split()


def _fsync_folder(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put(path: str, content: _firewall.Content) -> None:
    """Replace a file or link in one step; None removes it. Owner and mode of a replaced file stay."""
    parent = os.path.dirname(path)
    if content is None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        _fsync_folder(parent)
        return
    os.makedirs(parent, 0o755, exist_ok=True)
    temporary = os.path.join(parent, ".%s.mip-new" % os.path.basename(path))
    with suppress(FileNotFoundError):
        os.unlink(temporary)
    if isinstance(content, str):
        os.symlink(content, temporary)
    else:
        try:
            former: Optional[os.stat_result] = os.lstat(path)
        except FileNotFoundError:
            former = None
        with open(temporary, "wb") as stream:
            if former and stat.S_ISREG(former.st_mode):
                os.fchown(stream.fileno(), former.st_uid, former.st_gid)
                os.fchmod(stream.fileno(), stat.S_IMODE(former.st_mode))
            else:
                os.fchmod(stream.fileno(), 0o600 if path.startswith(STATE_DIR) else 0o644)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    os.replace(temporary, path)
    _fsync_folder(parent)


def _former_firewalld(name: str) -> List[str]:
    """Shell commands that give the running firewalld our former rules back; none when there were none and there are none."""
    if not firewalld_runs():
        return []
    short = _firewall.firewalld_name(name)
    running = firewalld_running(name)
    rules, entries = running.rules or [], running.entries or []
    return [_shell(_policy_command(short, rules)), _shell(_ipset_command(short, entries))]


def _policy_command(short: str, rules: Sequence[str]) -> List[str]:
    call = [*_BUS, _FIREWALLD_BUS, _FIREWALLD_OBJECT, _FIREWALLD_BUS + ".policy", "setPolicySettings", "sa{sv}", short]
    return [*call, "1", "rich_rules", "as", str(len(rules)), *rules]


def _ipset_command(short: str, entries: Sequence[str]) -> List[str]:
    call = [*_BUS, _FIREWALLD_BUS, _FIREWALLD_OBJECT, _FIREWALLD_BUS + ".ipset", "setEntries", "sas", short]
    return [*call, str(len(entries)), *entries]


def _shell(command: Sequence[str]) -> str:
    return " ".join(shlex.quote(part) for part in command)


def rollback_script(wanted: Plan, change: str, old_table: str, restore: Sequence[Tuple[str, str]], firewalld: Sequence[str]) -> str:
    """The shell script that restores what a change replaces.

    `restore` are the paths in the order of their writing with the saved file's name, empty for a path that was not there;
    `old_table` is the file for nft that loads the former guard, or removes it.
    """
    name = wanted.name
    text = [
        "#!/bin/sh",
        "# Written by hbp.mip. Takes back the change %s of the firewall of the federation %s, which nobody confirmed." % (change, name),
        "PATH=%s LC_ALL=C" % _PATH,
        "export PATH LC_ALL",
        "state=%s" % shlex.quote(folder(name)),
        'exec 9>>"$state/lock" && flock 9 || exit 1',
        '[ -e "$state/pending/%s" ] || exit 0' % change,
        'put() { cp -P -p "$state/pending/$1" "$2.mip-old" && mv -f -T "$2.mip-old" "$2"; }',
    ]
    for path, saved in reversed(list(restore)):
        quoted = shlex.quote(path)
        if path == UFW_RULES:
            # an administrator's own `ufw allow` since then is not lost: our rules only open, they can stay
            text.append('cmp -s %s "$state/pending/ufw-new" && put %s %s' % (quoted, saved, quoted))
        elif saved:
            text.append("put %s %s" % (saved, quoted))
        else:
            text.append("rm -f %s" % quoted)
    text += ["sync", 'if [ "$1" != boot ]; then', "  systemctl daemon-reload"]
    text.append("  nft -f %s" % shlex.quote(os.path.join(pending_folder(name), old_table)))
    if UFW_RULES in dict(restore):
        text.append("  iptables -n -L ufw-user-input >/dev/null 2>&1 && iptables-restore -n < %s" % UFW_RULES)
    text += ["  %s >/dev/null" % line for line in firewalld]
    unit = guard_unit_name(name)
    text.append("  if [ -e %s ]; then systemctl start %s; else systemctl reset-failed %s 2>/dev/null; fi" % (guard_path(name), unit, unit))
    text += [
        "elif [ -d /run/systemd/system ]; then",
        # The units of this boot were chosen from the files of the change. The guard waits for nftables.service, and Docker for it.
        "  systemctl daemon-reload",
        "  if [ -e %s ]; then systemctl --no-block start %s; fi" % (guard_path(name), unit),
        "fi",
        'printf "rolled-back %s %%s\\n" "$(date -u +%%Y-%%m-%%dT%%H:%%M:%%SZ)" >"$state/outcome"' % change,
        'mv "$state/pending" "$state/.taken-back" && rm -rf "$state/.taken-back"',
        'logger -t mip-firewall "the change %s was not confirmed and is taken back" 2>/dev/null || true' % change,
        "",
    ]
    return "\n".join(text)


def _save(wanted: Plan, change: str, origin: str) -> None:
    """Keep everything that the change replaces, and the script that restores it; complete or not there at all."""
    name = wanted.name
    new = os.path.join(folder(name), ".pending-new")
    shutil.rmtree(new, ignore_errors=True)
    os.makedirs(new, 0o700)
    restore = []
    for index, path in enumerate(wanted.files):
        if path not in wanted.changed_files:
            continue
        saved = ""
        if os.path.lexists(path):
            saved = "%d" % index
            target = os.path.join(new, saved)
            if os.path.islink(path):
                os.symlink(os.readlink(path), target)
            else:
                shutil.copy2(path, target)
                owner = os.stat(path)
                os.chown(target, owner.st_uid, owner.st_gid)
        restore.append((path, saved))
    former = run(["nft", "list", "table", "inet", _firewall.table(name)])
    texts = {
        "table.nft": _firewall.no_guard(name) + (former.out if former.code == 0 else ""),
        "change.json": json.dumps({"id": change, "connection": origin, "time": time.time()}),
        change: "",
        "rollback.sh": rollback_script(wanted, change, "table.nft", restore, _former_firewalld(name)),
    }
    content = wanted.files.get(UFW_RULES)
    if isinstance(content, bytes):
        texts["ufw-new"] = content.decode("utf-8", "surrogateescape")
    for file_name, text in texts.items():
        with open(os.path.join(new, file_name), "w", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write(text)
    os.sync()
    os.rename(new, pending_folder(name))
    _fsync_folder(folder(name))


def arm(name: str, seconds: int) -> None:
    """Start, or start again, the timer that takes the unconfirmed change back. Raises HostError."""
    disarm(name)
    command = ["systemd-run", "--quiet", "--collect", "--unit=" + undo_name(name), "--on-active=%d" % seconds]
    command += ["--timer-property=AccuracySec=500ms", "--description=Take back an unconfirmed change of the firewall"]
    command += ["/bin/sh", os.path.join(pending_folder(name), "rollback.sh")]
    must(command, "the timer for the rollback cannot be started, so that nothing was changed")


def disarm(name: str) -> None:
    """Stop the timer; one that is not there is fine."""
    units = [undo_name(name) + ".timer"]
    run(["systemctl", "stop", "-q", *units])
    run(["systemctl", "reset-failed", "-q", undo_name(name) + ".timer", undo_name(name) + ".service"])


def take_back(name: str) -> Done:
    """Run the script of the unconfirmed change now. The caller does not hold the lock."""
    return run(["/bin/sh", os.path.join(pending_folder(name), "rollback.sh")], timeout=120)


def apply(wanted: Plan, change: str, origin: str, seconds: int) -> List[Problem]:
    """Carry a plan out; the caller holds the lock. What cannot be loaded raises HostError, and is to be taken back.

    With `seconds` 0 nothing waits for a confirmation.
    """
    name = wanted.name
    waiting = pending(name)
    if waiting and not os.path.exists(os.path.join(pending_folder(name), waiting["id"])):
        shutil.rmtree(pending_folder(name))
        waiting = {}
    if waiting:
        raise HostError(
            "the change %s still waits for its confirmation or its rollback" % waiting["id"],
            "firewall-pending",
            "wait a minute, or take it back now: sudo sh %s/rollback.sh" % pending_folder(name),
        )
    _save(wanted, change, origin)
    # The boot unit stands first in the file set: from here on also a power cut leads back.
    first = rollback_unit_paths(name)
    for path in wanted.changed_files:
        if path in first and wanted.files[path] is not None:
            _put(path, wanted.files[path])
    if seconds:
        arm(name, seconds)
    return _write_and_load(wanted, first)


def _write_and_load(wanted: Plan, first: Sequence[str]) -> List[Problem]:
    name = wanted.name
    files = wanted.files
    unit = guard_unit_name(name)
    guard = files[guard_path(name)]
    for path in wanted.changed_files:
        if path not in first and path != UFW_RULES:
            _put(path, files[path])
    if guard is None:
        run(["systemctl", "stop", "-q", unit])
        if run(["nft", "list", "table", "inet", _firewall.table(name)]).code == 0:
            must(["nft", "-f", "-"], "the guard cannot be removed", _firewall.no_guard(name))
    else:
        must(["nft", "-f", guard_path(name)], "the guard cannot be loaded")
    if any(path.startswith(UNITS) for path in wanted.changed_files):
        must(["systemctl", "daemon-reload"], "systemd cannot read the new units")
    if guard is not None:
        must(["systemctl", "start", unit], "the guard's unit does not start")
    if UFW_RULES in files and (UFW_RULES in wanted.changed_files or wanted.backend.name == "ufw"):
        with _ufw_locked():
            text = read(UFW_RULES) or ""
            ours = _firewall.ufw_rules(wanted.wanted) if wanted.wanted and wanted.backend.name == "ufw" else []
            new = _firewall.ufw_file(text, name, ours)
            if new != text:
                _put(UFW_RULES, new.encode("utf-8", "surrogateescape"))
            if ufw_enabled() and _ufw_loaded():
                must(["iptables-restore", "-n"], "ufw's rules cannot be loaded", new)
    found: List[Problem] = []
    if firewalld_runs():
        found = _load_firewalld(name, _firewalld_wanted(wanted.wanted, wanted.backend.name))
    return found


def _load_firewalld(name: str, wanted: Running) -> List[Problem]:
    """Bring the running firewalld to what is wanted. Only a policy that it does not know yet takes a reload."""
    short = _firewall.firewalld_name(name)
    running = firewalld_running(name)
    found: List[Problem] = []
    if wanted.rules is not None and (running.rules is None or running.entries is None):
        before = docker_rules()
        must(["firewall-cmd", "--reload"], "firewalld does not reload")
        found += _docker_returned(before)
        running = firewalld_running(name)
    if running.entries is not None and sorted(running.entries) != sorted(wanted.entries or []):
        must(_ipset_command(short, wanted.entries or []), "firewalld does not take the peers")
    if running.rules is not None and sorted(running.rules) != sorted(wanted.rules or []):
        must(_policy_command(short, wanted.rules or []), "firewalld does not take the rules")
    return found


def needs_reload(wanted: Plan) -> bool:
    """Whether firewalld has to reload all its rules for this plan."""
    if not firewalld_runs() or _firewalld_wanted(wanted.wanted, wanted.backend.name).rules is None:
        return False
    running = firewalld_running(wanted.name)
    return running.rules is None or running.entries is None


def manages(socket_path: str = _docker_http.SOCKET, root_dir: str = "/var/lib/docker") -> bool:
    """Whether this host's engine is a manager of a swarm now; of one that does not answer its certificate tells."""
    try:
        told = _docker_http.get("/info", socket_path, 20)
    except _docker_http.DockerError:
        certificate = _swarm.read_certificate(root_dir)
        return certificate is not None and certificate.subject.get("OU") == "swarm-manager"
    return bool((told.get("Swarm") or {}).get("ControlAvailable"))


def docker_rules() -> List[str]:
    """Docker's rules in iptables, without counters; empty when the engine does not run."""
    if not _docker_http.daemon_pid():
        return []
    out = run(["iptables-save"]).out
    return sorted(line for line in out.splitlines() if line.startswith("-A") and ("DOCKER" in line or "docker" in line or " bpf " in line))


def _docker_returned(before: Sequence[str]) -> List[Problem]:
    """Wait until Docker has put its rules back after firewalld's reload."""
    deadline = time.monotonic() + _DOCKER_SECONDS
    while True:
        after = docker_rules()
        missing = [line for line in before if line not in after]
        if not missing:
            return []
        if time.monotonic() > deadline:
            break
        time.sleep(0.3)
    text = "after firewalld's reload %d of Docker's %d rules did not come back, as %r" % (len(missing), len(before), missing[0])
    return [Problem("firewall-docker-rules-lost", text, "sudo systemctl restart docker (drain the node first)")]


def confirm(name: str, change: str, now: Optional[Connection]) -> bool:
    """Keep the change that waits. False when it had been confirmed already. Raises HostError when it was taken back.

    An empty `change` stands for whichever waits. The caller holds the lock.
    """
    waiting = pending(name)
    if not waiting or (change and waiting.get("id") != change):
        last = outcome(name)
        if last[:1] == ["rolled-back"] and change in ("", last[1]):
            raise HostError(
                "the change was not confirmed in time and was taken back at %s; the host is as before" % last[2],
                "firewall-rolled-back",
                "see why this host could not be reached with the new rules: mipfed firewall show",
            )
        if not change or not last or last[:2] == ["confirmed", change]:
            return False
        raise HostError("there is no change %s to confirm" % change, "firewall-no-change")
    if now is not None and waiting.get("connection") == now.identity:
        raise HostError(
            "this is the connection that made the change, which proves nothing; confirm it over a new one",
            "firewall-same-connection",
            "in a playbook: ansible.builtin.meta: reset_connection",
        )
    finish(name, str(waiting["id"]))
    return True


def finish(name: str, change: str) -> None:
    """Make the change final."""
    done = os.path.join(folder(name), ".confirmed")
    shutil.rmtree(done, ignore_errors=True)
    os.rename(pending_folder(name), done)
    _fsync_folder(folder(name))
    disarm(name)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with open(os.path.join(folder(name), "outcome"), "w", encoding="ascii") as stream:
        stream.write("confirmed %s %s\n" % (change, stamp))
    shutil.rmtree(done, ignore_errors=True)
    if not os.path.exists(os.path.join(folder(name), "settings.json")):
        # all was removed, and so is the last trace of it; until here a boot would have led back
        for path in reversed(rollback_unit_paths(name)):
            _put(path, None)
        run(["systemctl", "daemon-reload"])
        shutil.rmtree(folder(name), ignore_errors=True)
        with suppress(OSError):
            os.rmdir(STATE_DIR)


def dropped(name: str) -> List[Dict[str, Any]]:
    """How many packets the guard dropped since it was loaded: {what, packets, bytes} for each rule that did."""
    done = run(["nft", "-j", "list", "table", "inet", _firewall.table(name)])
    try:
        items = json.loads(done.out)["nftables"] if done.code == 0 else []
    except (ValueError, KeyError):
        return []
    found = []
    for item in items:
        rule = item.get("rule") or {}
        for part in rule.get("expr", []):
            counter = part.get("counter") if isinstance(part, dict) else None
            if isinstance(counter, dict) and counter.get("packets"):
                found.append({"what": rule.get("comment", ""), "packets": counter["packets"], "bytes": counter["bytes"]})
    return found
