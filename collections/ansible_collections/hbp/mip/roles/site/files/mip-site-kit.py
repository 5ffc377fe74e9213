#!/usr/bin/env python3
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Site kit: joins this machine to a MIP federation. For the administrator of a hospital's server.

    sudo python3 THIS-FILE --dry-run     says what it would do; changes nothing
    sudo python3 THIS-FILE               says it, asks, does it, and prints a short code to read to the centre by telephone

Before you run it, with nothing but standard tools: is it what the centre signed? The fingerprint printed here must be the one that
the centre told you, together with the passphrase, on another way than this file:

    grep -v '^#G ' THIS-FILE > signed;  grep '^#G ' THIS-FILE | cut -c4- > signature
    ssh-keygen -Y check-novalidate -n mip-site-kit -s signature < signed

How this file is built: the program that you read now; `#L` lines, a zip file with the checks and the firewall's rules, which is
program, too, and no secret (--extract FOLDER unpacks it for reading); `#S` lines, sealed with the passphrase: addresses and a
token to join with, which dies when it was used or at its time; `#G` lines, the signature over all before.

What it does is the list in `steps` at the end of the program. Needs root, Python 3.8 or later, Debian or Ubuntu, and nothing else.
"""

from __future__ import annotations

import argparse
import base64
import getpass
import hashlib
import hmac
import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

END = "# ==== end of the program; what follows is data, see above ====\n"
NAMESPACE = "mip-site-kit"
PACKAGE = "ansible_collections.hbp.mip.plugins.module_utils"
COMMAND = "/usr/local/sbin/mip-site"
CONFIG = "/etc/mip/site.json"
DAEMON = "/etc/docker/daemon.json"
SOCKET = "/var/run/docker.sock"


class Stop(Exception):
    """Ends the program; the text says what, why and what next."""


# --- the seal: scrypt for the key, HMAC-SHA256 in counter mode for secrecy, HMAC-SHA256 over all of it against changes


def normal(passphrase: str) -> bytes:
    """A passphrase as it was meant: case, blanks, hyphens, and letters that look like digits do not matter."""
    text = "".join(passphrase.lower().split()).replace("-", "")
    return text.replace("o", "0").replace("i", "1").replace("l", "1").encode("utf-8")


def keys(passphrase: str, header: Dict[str, Any]) -> Tuple[bytes, bytes]:
    """The key that encrypts and the key that authenticates."""
    n, r, p = int(header["n"]), int(header["r"]), int(header["p"])
    if not (2**14 <= n <= 2**18 and r == 8 and p == 1):
        raise Stop("The sealed part asks for a key in a way that this program does not know. Nothing was changed. Ask for a new kit.")
    made = hashlib.scrypt(normal(passphrase), salt=bytes.fromhex(header["salt"]), n=n, r=r, p=p, maxmem=2**28, dklen=64)
    return made[:32], made[32:]


def mask(key: bytes, data: bytes) -> bytes:
    """`data` combined with a stream that only the key can make; doing it twice gives `data` again. A key is used once."""
    stream = b"".join(hmac.new(key, number.to_bytes(8, "big"), "sha256").digest() for number in range((len(data) + 31) // 32))
    return bytes(one ^ other for one, other in zip(data, stream))


def plain(header: Dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode("ascii")


def seal(passphrase: str, header: Dict[str, Any], content: Dict[str, Any]) -> str:
    """The sealed part as text. `header` stays readable, but cannot be changed either."""
    header = dict(header, v=1, n=2**15, r=8, p=1, salt=os.urandom(32).hex())
    encrypting, authenticating = keys(passphrase, header)
    hidden = mask(encrypting, json.dumps(content).encode("utf-8"))
    tag = hmac.new(authenticating, plain(header) + b"\0" + hidden, "sha256").hexdigest()
    return json.dumps({"header": header, "hidden": base64.b64encode(hidden).decode("ascii"), "tag": tag})


def unseal(passphrase: str, text: str) -> Dict[str, Any]:
    """What was sealed. Nothing of it is looked at before the tag is right."""
    try:
        sealed = json.loads(text)
        header, hidden = dict(sealed["header"]), base64.b64decode(sealed["hidden"], validate=True)
        tag, version = str(sealed["tag"]), header["v"]
        encrypting, authenticating = keys(passphrase, header)
    except (ValueError, KeyError, TypeError) as error:
        raise Stop("The sealed part cannot be read (%s). The file was damaged on its way: ask for it again." % error) from error
    if version != 1:
        raise Stop("The sealed part is of version %r, this program knows 1. Ask for a new kit." % version)
    if not hmac.compare_digest(hmac.new(authenticating, plain(header) + b"\0" + hidden, "sha256").hexdigest(), tag):
        raise Stop("The passphrase is wrong, or the file was changed. Nothing was changed here.\nCompare it with what you were told.")
    return dict(json.loads(mask(encrypting, hidden).decode("utf-8")))


# --- the parts of this file


class Parts(NamedTuple):
    """This file, taken apart."""

    program: str
    library: bytes
    sealed: str
    signed: bytes
    signature: str


def parts(text: str) -> Parts:
    program, end, data = text.partition("\n" + END)
    if not end:
        raise Stop("This is only the program of a site kit. The centre makes a kit of it: mipfed kit create NODE")
    lines: Dict[str, List[str]] = {"#L ": [], "#S ": [], "#G ": []}
    for line in data.splitlines():
        if line[:3] not in lines or (lines["#G "] and line[:3] != "#G "):
            raise Stop("The file was damaged or changed: a line of its data is not of a kit. Ask for it again.")
        lines[line[:3]].append(line[3:])
    signed = "".join(line for line in text.splitlines(True) if not line.startswith("#G ")).encode("utf-8")
    try:
        library, sealed = (base64.b64decode("".join(lines[mark]), validate=True) for mark in ("#L ", "#S "))
    except ValueError as error:
        raise Stop("The file was damaged on its way (%s). Ask for it again." % error) from error
    return Parts(program, library, sealed.decode("utf-8"), signed, "\n".join(lines["#G "]) + "\n")


def signer(part: Parts) -> str:
    """Fingerprint of the key that signed this file; empty when it cannot be checked here. Raises Stop for a bad signature."""
    if not shutil.which("ssh-keygen"):
        return ""
    with tempfile.NamedTemporaryFile("w", prefix="mip-signature-") as stream:
        stream.write(part.signature)
        stream.flush()
        done = subprocess.run(
            ["ssh-keygen", "-Y", "check-novalidate", "-n", NAMESPACE, "-s", stream.name],
            input=part.signed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    said = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode:
        raise Stop("The signature is not good: %s\nThe file was changed after the centre signed it. Do not use it." % said)
    return said.split()[-1]


def opened(part: Parts, passphrase: str) -> Dict[str, Any]:
    """The sealed content, after everything in this file was compared with what it says."""
    content = unseal(passphrase, part.sealed)
    for name, found in (("program", part.program.encode("utf-8")), ("library", part.library)):
        if hashlib.sha256(found).hexdigest() != content["sha256"][name]:
            raise Stop("The %s in this file is not the one that the centre sealed. Do not use it; ask for a new kit." % name)
    return content


# --- this machine


def run(*command: str, seconds: float = 900) -> str:
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    environment.update({key: value for key, value in os.environ.items() if key.lower().endswith("_proxy")})
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            timeout=seconds,
            env=environment,
        )
    except FileNotFoundError:
        raise Stop("%s is not installed on this machine." % command[0]) from None
    except subprocess.TimeoutExpired:
        raise Stop("%s did not end within %d seconds." % (" ".join(command), seconds)) from None
    if done.returncode:
        raise Stop("%s failed:\n%s" % (" ".join(command), done.stdout.strip()[-800:]))
    return done.stdout


def write(path: str, text: str, mode: int) -> None:
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".mip-", dir=os.path.dirname(path))
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
        os.fchmod(stream.fileno(), mode)
    os.replace(temporary, path)


def read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""


def docker(method: str, path: str, body: Optional[Dict[str, Any]] = None, seconds: float = 60) -> Any:
    """What Docker's engine answers over its socket."""
    connection = http.client.HTTPConnection("localhost", timeout=seconds)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.sock.settimeout(seconds)
        connection.sock.connect(SOCKET)
        connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode("utf-8")
    except (OSError, http.client.HTTPException) as error:
        raise Stop("Docker's engine does not answer (%s). Look: systemctl status docker" % error) from error
    finally:
        connection.close()
    if answer.status >= 400:
        raise Stop(str(json.loads(text).get("message") if text.startswith("{") else text))
    return json.loads(text) if text.strip() else {}


def here(host: str) -> bool:
    """Is a host, by name or address, this machine?"""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def moment(seconds: float) -> str:
    return time.strftime("%d %B %Y, %H:%M UTC", time.gmtime(seconds))


class Step(NamedTuple):
    """Something to do: in plain words, whether this machine needs it, and the doing."""

    text: str
    needed: Callable[[], bool]
    do: Callable[[], None]


class Site:
    """This machine and what the kit wants of it."""

    def __init__(self, kit: Dict[str, Any], library: Any) -> None:
        self.kit = kit
        self.host, self.gates, self.swarm, self.daemon = (library(name) for name in ("_host", "_gates", "_swarm", "_daemon"))
        self.firewall, self.firewall_host, self.kits = (library(name) for name in ("_firewall", "_firewall_host", "_site_kits"))

    # looking

    def facts(self) -> Dict[str, Any]:
        kit = self.kit
        return dict(
            self.host.gather(
                kit["data_dir"], "", kit["encrypted"], True, SOCKET, None, kit["registry"], kit["registry_tls"], kit["data_path_port"]
            )
        )

    def problems(self) -> Tuple[List[Dict[str, str]], List[str]]:
        """What stands in the way, by the same checks that the centre's own command makes; and what only might."""
        kit = self.kit
        wanted = self.gates.Wanted(
            kinds=["worker"],
            limits=kit["limits"],
            address=kit["address"],
            encrypted=kit["encrypted"],
            docker_source="distro",
            data_dir=kit["data_dir"],
            data_required=False,
            overlay_subnet=kit["overlay_subnet"],
            address_pools=kit["address_pools"],
            expected_hostname="",
            cluster_id=kit["cluster_id"],
            peers=[peer["address"] for peer in kit["peers"]],
            data_path_port=kit["data_path_port"],
        )
        found = self.gates.judge(self.facts(), wanted)
        problems, warnings = list(found.problems), ["%(message)s. %(fix)s" % warning for warning in found.warnings]
        for address in kit["managers"]:
            probe = self.swarm.probe_manager(address)
            text = probe.problem
            if not text and probe.certificate and probe.certificate.cluster_id != kit["cluster_id"]:
                text = "belongs to another swarm (%s) than this kit (%s)" % (probe.certificate.cluster_id, kit["cluster_id"])
            if text:
                fix = "Allow TCP 2377 from %s to it in every firewall on the way, also the hospital's" % kit["address"]
                problems.append({"code": "link", "message": "the manager %s %s" % (address, text), "fix": fix})
        for peer in kit["peers"]:
            try:
                socket.create_connection((peer["address"], 7946), timeout=3).close()
            except OSError as error:
                warnings.append("%s (%s) cannot be reached at TCP 7946: %s" % (peer["name"], peer["address"], error))
        return problems, warnings

    def member(self) -> bool:
        """Is this machine in the federation's swarm? Raises Stop when it is in another one."""
        if not self.started():
            return False
        state = docker("GET", "/info").get("Swarm") or {}
        if state.get("LocalNodeState", "inactive") == "inactive":
            return False
        certificate = self.swarm.read_certificate(docker("GET", "/info").get("DockerRootDir") or "/var/lib/docker")
        cluster = certificate.cluster_id if certificate else ""
        if cluster != self.kit["cluster_id"]:
            raise Stop(
                "This machine is in another swarm (%s). It was not touched.\nIf that is no longer needed: docker swarm leave"
                % (cluster or "unknown")
            )
        if state["LocalNodeState"] != "active":
            raise Stop(
                "The swarm part of Docker's engine is %s: %s\nLook: journalctl -u docker -n 50"
                % (state["LocalNodeState"], state.get("Error", ""))
            )
        return True

    # doing; each is needed only where it says so, so that a second run repairs and no more

    def packages(self) -> List[str]:
        wanted = [] if shutil.which("dockerd", path="/usr/sbin:/usr/bin:/usr/local/bin") else ["docker.io", "iptables"]
        if wanted and 'VERSION_ID="13"' in read("/etc/os-release"):
            wanted.append("docker-cli")
        return wanted + ([] if os.path.exists("/usr/sbin/nft") else ["nftables"])

    def install(self) -> None:
        run("apt-get", "update", "-q")
        run("apt-get", "install", "-q", "-y", "--no-install-recommends", *self.packages())

    def merged(self) -> Tuple[Dict[str, Any], Dict[str, Any]]:
        before = self.daemon.parse(read(DAEMON), DAEMON)
        return before, self.daemon.merge(before, self.kit["daemon"])

    def configure(self) -> None:
        before, after = self.merged()
        write(DAEMON + ".previous", self.daemon.render(before), 0o644)
        write(DAEMON, self.daemon.render(after), 0o644)
        restart = self.daemon.needs_restart(self.daemon.changed_keys(before, after))
        run("systemctl", "restart" if restart else "reload-or-restart", "docker.service")

    def started(self) -> bool:
        return os.path.exists(SOCKET) and not subprocess.call(["systemctl", "is-active", "-q", "docker.service"])

    def start(self) -> None:
        run("systemctl", "enable", "--now", "-q", "docker.service")

    def make_data(self) -> None:
        os.makedirs(os.path.dirname(self.kit["data_dir"]), 0o755, exist_ok=True)
        os.makedirs(self.kit["data_dir"], 0o750, exist_ok=True)

    def plan(self) -> Any:
        kit, host = self.kit, self.firewall_host
        store = kit["store"]
        local = [store["port"]] if store and here(store["host"]) else []
        own = {"name": kit["federation"], "kind": "worker", "address": kit["address"], "peers": kit["peers"], "from_containers": local}
        wanted = self.firewall.settings(dict(kit["firewall"], **own))
        backend = host.backend(kit["firewall"]["backend"], self.firewall.table(kit["federation"]))
        features = host.kernel_features(self.firewall.guard(wanted), kit["federation"])
        return host.plan(kit["federation"], wanted, backend, [name for name, state in features.items() if state["ok"]])

    def open_firewall(self) -> None:
        """The rules of the centre's own module, which go back by themselves when this program dies before it has looked again."""
        kit, host = self.kit, self.firewall_host
        if host.pending(kit["federation"]):
            # A run was cut off between its change and this look.
            host.take_back(kit["federation"])
        plan = self.plan()
        host.validate(plan)
        change = os.urandom(6).hex()
        with host.locked(kit["federation"]):
            host.apply(plan, change, "", 90)
        if any(self.swarm.probe_manager(address).problem for address in kit["managers"]):
            host.take_back(kit["federation"])
            raise Stop(
                "With the new rules the manager could not be reached; they were taken back. Look at the other firewalls of this machine."
            )
        with host.locked(kit["federation"]):
            host.finish(kit["federation"], change)

    def site(self) -> str:
        names = ("federation", "node", "address", "peers", "data_path_port", "data_dir")
        return json.dumps({"schema": 1, **{name: self.kit[name] for name in names}}, indent=1, sort_keys=True) + "\n"

    def install_command(self) -> None:
        write(COMMAND, self.kit["command"], 0o755)
        write(CONFIG, self.site(), 0o644)

    def usable(self) -> None:
        """Raises Stop when the kit lets nobody in, by what it says itself. That it does not is made sure at the centre."""
        if not self.kit["token"]:
            raise Stop("This kit holds no token: it is for a machine that is in the federation already. Ask for a kit to join with.")
        if time.time() > self.kit["expires"]:
            raise Stop("This kit ended on %s. Nothing was changed. Ask for a new one." % moment(self.kit["expires"]))

    def join(self) -> None:
        kit = self.kit
        self.usable()
        order = {
            "ListenAddr": "0.0.0.0:2377",
            "AdvertiseAddr": kit["address"],
            "DataPathAddr": kit["address"],
            "RemoteAddrs": kit["managers"],
            "JoinToken": kit["token"],
            "Availability": "active",
        }
        reason = ""
        try:
            docker("POST", "/swarm/join", order)
        except Stop as stop:
            reason = str(stop).replace(kit["token"], "(token)")
        deadline = time.monotonic() + 90
        # The engine goes on with a slow join by itself; one that it refused is over at once.
        while not self.active() and time.monotonic() < deadline and (not reason or "timeout" in reason.lower()):
            time.sleep(0.5)
        if not self.active():
            self.leave()
            raise Stop(
                "The manager did not take this machine: %s\nThe kit may have been used, revoked or be over its time: ask the centre."
                % reason
            )
        try:
            self.member()
        except Stop:
            self.leave()
            raise

    @staticmethod
    def leave() -> None:
        """Give a join up; an engine that is in no swarm any more says so, and that is what is wanted."""
        try:
            docker("POST", "/swarm/leave?force=true")
        except Stop:
            pass

    @staticmethod
    def active() -> bool:
        return (docker("GET", "/info").get("Swarm") or {}).get("LocalNodeState") == "active"

    def steps(self) -> List[Step]:
        kit = self.kit
        peers = ", ".join("%(name)s (%(address)s)" % peer for peer in kit["peers"])
        return [
            Step(
                "install %s from this machine's own package sources" % (", ".join(self.packages()) or "nothing"),
                lambda: bool(self.packages()),
                self.install,
            ),
            Step("start Docker, also after a reboot", lambda: not self.started(), self.start),
            Step(
                "add to %s: %s" % (DAEMON, ", ".join(sorted(kit["daemon"]))),
                lambda: self.merged()[0] != self.merged()[1],
                self.configure,
            ),
            Step(
                "make the folder %s for the data, which the centre cannot reach into but by the engine" % kit["data_dir"],
                lambda: not os.path.isdir(kit["data_dir"]),
                self.make_data,
            ),
            Step(
                "install the hospital's own command %s (pause, leave, journal)" % COMMAND,
                lambda: (read(COMMAND), read(CONFIG)) != (kit["command"], self.site()),
                self.install_command,
            ),
            Step(
                "open this machine's firewall for %s only: TCP and UDP 7946, %s; and close these ports for all others"
                % (peers, "IP protocol 50 (encrypted)" if kit["encrypted"] else "UDP %d, NOT ENCRYPTED" % kit["data_path_port"]),
                lambda: kit["firewall"]["manage"] and (not os.path.exists("/usr/sbin/nft") or bool(self.plan().differences)),
                self.open_firewall,
            ),
            Step(
                "join the swarm of the federation as a worker, through %s. From then on its managers can start containers here, as root"
                % ", ".join(kit["managers"]),
                lambda: not self.member(),
                self.join,
            ),
        ]


# --- the program


def library(data: bytes, folder: str) -> Callable[[str], Any]:
    """Import what is packed into this file."""
    path = os.path.join(folder, "library.zip")
    with open(path, "wb") as stream:
        stream.write(data)
    sys.path.insert(0, path)
    import importlib

    return lambda name: importlib.import_module(PACKAGE + "." + name)


def ask_passphrase(path: str) -> str:
    if path:
        text = read(path)
        if not text.strip():
            raise Stop("%s is missing or empty; it should hold the passphrase." % path)
        return text
    if not sys.stdin.isatty():
        raise Stop("There is no terminal to ask for the passphrase on. Give --passphrase-file FILE.")
    return getpass.getpass("Passphrase that the centre told you: ")


def work(options: argparse.Namespace, folder: str) -> int:
    part = parts(read(os.path.abspath(__file__)))
    if options.extract:
        with zipfile.ZipFile(io.BytesIO(part.library)) as archive:
            archive.extractall(options.extract)
        print("Unpacked into %s." % options.extract)
        return 0
    if os.geteuid() != 0:
        raise Stop("It needs root: sudo python3 %s" % sys.argv[0])
    signed_by = signer(part)
    print("Signed by the key %s" % signed_by if signed_by else "ssh-keygen is not on this machine, so that the signature was not checked.")
    kit = opened(part, ask_passphrase(options.passphrase_file))
    if signed_by and signed_by != kit["signer"]:
        raise Stop("This file was signed by another key than the centre sealed into it, %s. Do not use it." % kit["signer"])
    until = moment(kit["expires"])
    print(
        "Kit of the federation %(federation)s for the node %(node)s at %(address)s," % kit,
        "made by %s," % kit["made_by"],
        "usable until %s." % until,
    )
    site = Site(kit, library(part.library, folder))
    member = site.member()
    if not member:
        site.usable()
    problems, warnings = site.problems()
    for warning in warnings:
        print("Note: %s" % warning)
    problems = [problem for problem in problems if problem["code"] not in options.ignore]
    if problems:
        lines = ["- %(message)s [%(code)s]. %(fix)s" % problem for problem in problems]
        raise Stop(
            "This machine is not fit, or not yet. Nothing was changed.\n%s\nTo go on in spite of one: --ignore CODE" % "\n".join(lines)
        )
    todo = [step for step in site.steps() if step.needed()]
    if todo:
        print("On this machine it will:")
        for step in todo:
            print("  - %s" % step.text)
        print("It changes nothing else, and makes no account. `mip-site pause` and `mip-site leave` take this machine out at any time.")
    else:
        print("There is nothing to do: this machine is in the federation already.")
    if options.dry_run:
        print("Nothing was changed (--dry-run).")
        return 0
    if todo and not options.yes:
        if not sys.stdin.isatty() or input("Go on? [y/N] ").strip().lower() not in ("y", "yes"):
            raise Stop(
                "Nothing was changed." if sys.stdin.isatty() else "There is no terminal to ask on, and no --yes. Nothing was changed."
            )
    for step in site.steps():
        # Looked at again, because an earlier step may have done it (the distribution starts Docker when it is installed).
        if step.needed():
            print("... %s" % step.text)
            step.do()
    node_id = docker("GET", "/info")["Swarm"]["NodeID"]
    if todo:
        run(
            COMMAND,
            "record",
            "--what",
            "join" if not member else "repair",
            "--who",
            "site kit of %(federation)s, made by %(made_by)s" % kit,
            "--text",
            "; ".join(step.text for step in todo),
            "--data",
            json.dumps({"node_id": node_id}),
        )
    print("\nThis machine is in the federation %s as %s." % (kit["federation"], kit["node"]))
    said = site.kits.code(kit["code_key"], kit["federation"], kit["node"], kit["cluster_id"], node_id)
    print("Read this code to the centre by telephone:   %s" % said)
    print("The engine starts when the centre has accepted it. This file and its passphrase can be deleted then.")
    return 0


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description="Joins this machine to a MIP federation.")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done; change nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--passphrase-file", default="", metavar="FILE", help="read the passphrase from there")
    parser.add_argument("--ignore", action="append", default=[], metavar="CODE", help="go on in spite of this problem")
    parser.add_argument("--extract", default="", metavar="FOLDER", help="unpack the library for reading; needs neither root nor passphrase")
    options = parser.parse_args(arguments)
    folder = tempfile.mkdtemp(prefix="mip-kit-")
    try:
        return work(options, folder)
    except Stop as stop:
        print("\n%s" % stop, file=sys.stderr)
        return 1
    except Exception as error:
        # The library's own errors are written for people; anything else is a mistake in this program.
        if not type(error).__module__.startswith(PACKAGE):
            raise
        print("\n%s\n%s" % (error, getattr(error, "fix", "")), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Run it again to go on; what is done already is not done twice.", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
