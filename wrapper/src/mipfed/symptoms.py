# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a failed run was about: known messages of engine, kernel, ssh and apt, each with its cause and the next command.

Reads only what mipfed recorded of the run. Contacts no host.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mipfed import paths, runner
from mipfed.errors import MipfedError, usage
from mipfed.exitcodes import ExitCode
from mipfed.outcome import Outcome


@dataclass(frozen=True)
class Symptom:
    """A message that says what happened, and what it means."""

    code: str
    #: A regular expression for the part of the message that does not change.
    pattern: str
    cause: str
    #: The next command; `{mipfed}` is the program with its federation, `{h}` the node.
    next: str


#: The first that matches decides: what is more particular stands before what is more general.
SYMPTOMS: tuple[Symptom, ...] = (
    Symptom(
        "swarm-locked",
        r"Swarm is encrypted and needs to be unlocked|this manager is locked",
        "The engine of this manager was restarted, and the swarm uses autolock: it needs the unlock key before it takes part again.",
        "{mipfed} unlock",
    ),
    Symptom(
        "raft-damaged",
        r"irreparable WAL error|WAL error cannot be repaired|wal: (?:crc mismatch|max entry size limit exceeded)|out of range \[lastIndex",
        "The swarm's log on this manager is damaged or was taken back: a crash, a full disk, or a folder restored below a running engine.",
        "{mipfed} recover --check",
    ),
    Symptom(
        "certificate-expired",
        r"[Ss]warm certificates have expired",
        "The node was off for longer than its certificate lasted. It has to leave and join anew; its data stay.",
        "{mipfed} node replace {h}",
    ),
    Symptom(
        "clock",
        r"x509: certificate has expired or is not yet valid|clocks of this host and of the manager differ",
        "A certificate is not valid at the time that this host believes it is. Its clock is wrong, or the certificate really expired.",
        "{mipfed} check -l {h}   (it compares the clocks; on the host: timedatectl)",
    ),
    Symptom(
        "no-quorum",
        r"swarm does not have a leader|too few managers are online|no majority of its managers",
        "More than half of the managers do not answer. What runs goes on; nothing can be changed until they are back.",
        "{mipfed} recover --check",
    ),
    Symptom(
        "join-timeout",
        r"Timeout was reached before node joined",
        "The engine did not reach the manager in 20 s and goes on trying by itself: TCP 2377 to the manager is dropped somewhere.",
        "{mipfed} check",
    ),
    Symptom(
        "token-refused",
        r"A valid join token is necessary|remote CA does not match fingerprint",
        "The join token is one of before its rotation, or of another swarm.",
        "{mipfed} deploy",
    ),
    Symptom(
        "other-swarm",
        r"already part of a swarm|belongs to another swarm|is in another swarm",
        "The node is in a swarm already, and not in this one. Nothing takes it out unasked.",
        "{mipfed} check -l {h}   (whose swarm it is; then on the node, when it is right: docker swarm leave)",
    ),
    Symptom(
        "not-a-manager",
        r"This node is not a swarm manager|this node is a worker, and only managers can do this",
        "The command went to a node that is no manager of the swarm: the master was moved, or its engine lost its state.",
        "{mipfed} status",
    ),
    Symptom(
        "twins",
        r"node \S+ is ambiguous|is ambiguous \(\d+ matches found\)",
        "Two nodes of the swarm have one name: a host was installed anew and joined while its old entry was still there.",
        "{mipfed} recover --check",
    ),
    Symptom(
        "leaving-manager",
        r"participating as a manager",
        "A manager does not leave without taking its vote along. It has to become a worker first, or another one the master.",
        "{mipfed} master move NODE",
    ),
    Symptom(
        "changed-meanwhile",
        r"update out of sequence",
        "Somebody else changed the same thing at the same moment.",
        "{mipfed} lock status   (then the same command again)",
    ),
    Symptom(
        "address-pool",
        r"could not find an available, non-overlapping|Pool overlaps with other one",
        "The subnet that is wanted for a network is in use on this host: by its own network, a VPN or another Docker network.",
        "{mipfed} check -l {h}   (then mip_overlay.subnet or mip_swarm.address_pools)",
    ),
    Symptom(
        "advertise-address",
        r"could not choose an IP address to advertise",
        "The host has several addresses, and the inventory does not say which one is the federation's.",
        "{mipfed} config show   (then mip_address of {h})",
    ),
    Symptom(
        "live-restore",
        r"live-restore .*incompatible with swarm mode",
        "live-restore in /etc/docker/daemon.json and a swarm exclude each other.",
        "On {h}: remove live-restore from /etc/docker/daemon.json, systemctl restart docker; then {mipfed} deploy",
    ),
    Symptom(
        "no-esp",
        r"function not implemented|AEAD algorithm not found",
        "The kernel cannot encrypt the overlay (no ESP, or no AES-GCM). Without it no data pass between the nodes.",
        "{mipfed} check -l {h}   (then a distribution's kernel on {h})",
    ),
    Symptom(
        "image-schema",
        r"manifest\.v1\+prettyjws|schema 1 support",
        "The image is in a format that engines since 28.2 do not take any more.",
        "{mipfed} upgrade --set IMAGE=REFERENCE   (an image that was pushed again)",
    ),
    Symptom(
        "rate-limit",
        r"toomanyrequests|pull rate limit",
        "The registry counts this site's downloads and has had enough of them.",
        "{mipfed} image save --to images.tar, then {mipfed} image load images.tar",
    ),
    Symptom(
        "registry-login",
        r"no basic auth credentials|authentication required|pull access denied",
        "The registry does not give the image without a login, or there is none of that name.",
        "{mipfed} image lock --check   (then another name for the image, or a registry that asks for no login)",
    ),
    Symptom(
        "registry-certificate",
        r"certificate signed by unknown authority",
        "The registry's certificate is signed by an authority that this host does not know, or something in between opens the connection.",
        "On {h}: put the authority into /etc/docker/certs.d/REGISTRY/ca.crt; then {mipfed} check -l {h}",
    ),
    Symptom(
        "registry-plain",
        r"server gave HTTP response to HTTPS client",
        "The registry speaks without TLS.",
        "Give the registry a certificate; then {mipfed} check -l {h}",
    ),
    Symptom(
        "image-missing",
        r"manifest unknown|[Nn]o such image|not found: manifest",
        "The registry has no such image or tag, or the host lost its copy.",
        "{mipfed} image lock --check",
    ),
    Symptom(
        "name-resolution",
        r"server misbehaving|no such host|Temporary failure in name resolution|Could not resolve ",
        "The host's name server does not know the name, or does not answer.",
        "{mipfed} check -l {h}   (on the host: resolvectl query NAME)",
    ),
    Symptom(
        "no-suitable-node",
        r"no suitable node",
        "No node may run the service: the hospital's node is down, drained, or lost its label.",
        "{mipfed} status   (then {mipfed} node activate NODE, or {mipfed} deploy)",
    ),
    Symptom(
        "port-taken",
        r"port is already allocated|host-mode port already in use|address already in use",
        "Another program on the host has the port.",
        "On {h}: ss -ltnp; then {mipfed} check -l {h}",
    ),
    Symptom(
        "disk-full",
        r"[Nn]o space left on device|not enough free space",
        "A file system of the host is full.",
        "On {h}: df -h /var/lib/docker /data; docker system df; then the same command again",
    ),
    Symptom(
        "read-only",
        r"[Rr]ead-only file system",
        "A file system of the host was made read-only, most often by the kernel after an error of the disk.",
        "On {h}: dmesg --level err | tail; findmnt -O ro",
    ),
    Symptom(
        "unhealthy",
        r"unhealthy container",
        "The container runs, and its own check says that it does not work.",
        "{mipfed} logs {h} --since 1h",
    ),
    Symptom(
        "out-of-memory",
        r"non-zero exit \(137\)|OOMKilled|Cannot allocate memory",
        "The kernel ended the container: out of memory, of the host or of the container's limit.",
        "{mipfed} logs {h} --component docker --since 1h   (on the host: free -m)",
    ),
    Symptom(
        "crashed",
        r"non-zero exit \(\d+\)",
        "The container's program ended by itself.",
        "{mipfed} logs {h} --since 1h",
    ),
    Symptom(
        "api-version",
        r"client version \S+ is too (?:old|new)\.",
        "The Docker SDK on the host and its engine do not speak the same version of the API.",
        "On {h}: apt-get install --only-upgrade python3-docker docker.io",
    ),
    Symptom(
        "engine-rights",
        r"permission denied while trying to connect to the Docker|[Pp]ermission denied.*docker\.sock",
        "The account may not talk to the engine.",
        "{mipfed} check -l {h}   (ansible_become: true in the inventory)",
    ),
    Symptom(
        "engine-down",
        r"Cannot connect to the Docker daemon|[Ii]s the docker daemon running|docker\.sock.*(?:No such file|[Cc]onnection refused)",
        "The Docker engine of the host does not run.",
        "On {h}: systemctl status docker; journalctl -u docker -n 50; then {mipfed} deploy",
    ),
    Symptom(
        "apt-locked",
        r"Could not get lock /var/lib/(?:dpkg|apt)|dpkg frontend lock",
        "Another program installs packages on the host at this moment, most often unattended-upgrades.",
        "Wait some minutes; then the same command again",
    ),
    Symptom(
        "dpkg-interrupted",
        r"dpkg was interrupted",
        "An earlier installation of packages on the host was interrupted.",
        "On {h}: dpkg --configure -a; then the same command again",
    ),
    Symptom(
        "host-key-changed",
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "The host shows another SSH key than the pinned one: it was installed anew, or somebody stands in between.",
        "{mipfed} trust --replace {h}   (first ask the people there why)",
    ),
    Symptom(
        "host-key-unknown",
        r"Host key verification failed|No \S+ host key is known",
        "No SSH key of the host is pinned.",
        "{mipfed} trust {h}",
    ),
    Symptom(
        "ssh-refused",
        r"Permission denied \((?:publickey|password|keyboard|gssapi)|Too many authentication failures",
        "The host does not take the federation's key for this account.",
        "{mipfed} init {f}   (or append inventories/{f}/ssh/id_ed25519.pub to authorized_keys there)",
    ),
    Symptom(
        "sudo",
        r"[Mm]issing sudo password|sudo: a password is required|[Ii]ncorrect sudo password|is not in the sudoers file",
        "The account may not become root without a password.",
        "{mipfed} check -l {h}   (a rule in /etc/sudoers.d, or ansible_become_password in the vault)",
    ),
    Symptom(
        "no-python",
        r"python3?: (?:command )?not found|No python interpreters found",
        "The host has no Python, which Ansible works with.",
        "On {h}: apt-get install python3",
    ),
    Symptom(
        "unreachable",
        r"Connection refused|(?:[Cc]onnection|Operation) timed out|No route to host|Connection closed|Error while dialing|i/o timeout",
        "The host, or the port, does not answer: it is off, or something in between drops the packets.",
        "{mipfed} check -l {h}",
    ),
    Symptom(
        "engine-slow",
        r"context deadline exceeded|Read timed out|did not answer within",
        "The engine took too long to answer: the host is overloaded, its disk is slow, or managers are missing.",
        "{mipfed} status",
    ),
)


def explain(message: str) -> Symptom | None:
    """Return the symptom that a message shows, or nothing when it is none that is known."""
    return next((symptom for symptom in SYMPTOMS if re.search(symptom.pattern, message)), None)


@dataclass(frozen=True)
class Diagnosis:
    """One thing that went wrong in a run, with what is known about it."""

    code: str
    message: str
    cause: str = ""
    next: str = ""
    host: str = ""
    task: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the diagnosis for JSON; every key is always there."""
        return dict(vars(self))


@dataclass
class Run:
    """A recorded run."""

    federation: str
    folder: Path

    @property
    def verb(self) -> str:
        """The command, as the folder is called after it."""
        return self.folder.name.partition("-")[2]

    @property
    def log(self) -> Path:
        """Ansible's own output."""
        return self.folder / "artifacts" / "ansible" / "stdout"

    def steps(self) -> list[dict[str, Any]]:
        """Return what happened, in order; a line that was cut off when the run was killed is left out."""
        found = []
        try:
            lines = (self.folder / "events.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        for line in lines:
            try:
                step = json.loads(line)
            except ValueError:
                continue
            if isinstance(step, dict):
                found.append(step)
        return found

    def ended(self) -> str:
        """Return Ansible's own word for the end: successful, failed, canceled, …; empty when the run was killed."""
        try:
            return (self.folder / "artifacts" / "ansible" / "status").read_text(encoding="utf-8").strip()
        except OSError:
            return ""


def find(run: str, federation: str | None) -> Run:
    """Find a recorded run: `last`, its name, the beginning of its name, or the path of its folder.

    :raises MipfedError: USAGE when there is none, or when the beginning fits several.
    """
    folder = Path(run).expanduser()
    if "/" in run and (folder / "events.jsonl").is_file():
        return Run(folder.resolve().parents[1].name, folder.resolve())
    pattern = f"{federation or '*'}/runs/*"
    known = sorted((path for path in paths.state_dir().glob(pattern) if path.is_dir()), key=lambda path: (path.name, path.parts))
    fitting = known[-1:] if run == "last" else [path for path in known if path.name == run] or [p for p in known if p.name.startswith(run)]
    if len(fitting) == 1:
        return Run(fitting[0].parents[1].name, fitting[0])
    of = f" of {federation}" if federation else ""
    if fitting:
        raise usage(f"{run!r} fits {len(fitting)} runs{of}: {', '.join(path.name for path in fitting[-5:])}.")
    recent = ", ".join(path.name for path in known[-5:])
    raise MipfedError(
        ExitCode.USAGE,
        f"There is no record of a run {run!r}{of}.",
        next=f"Runs: {recent}" if recent else "Only runs of this user are known.",
    )


def diagnose(run: Run) -> list[Diagnosis]:
    """Return what went wrong in a run, each thing once, with cause and next command where they are known."""
    found: dict[tuple[str, str, str], Diagnosis] = {}
    for entry in _entries(run):
        found.setdefault((entry.code, entry.host, entry.message), entry)
    return list(found.values())


def _entries(run: Run) -> Iterator[Diagnosis]:
    steps = run.steps()
    reported: set[tuple[str, str]] = set()
    for step in steps:
        if step.get("event") == "report":
            for entry in _reported(step, run):
                reported.add((str(step.get("host", "")), str(step.get("task", ""))))
                yield entry
    failed = [step for step in steps if step.get("event") == "host" and step.get("status") in ("failed", "unreachable")]
    for step in failed:
        place = str(step.get("host", "")), str(step.get("task", ""))
        if place not in reported:
            role = str(step.get("role") or "").rsplit(".", 1)[-1]
            yield _judged(run, str(step["status"]), str(step.get("message", "")), place[0], f"{role} : {place[1]}" if role else place[1])
    if not failed and run.ended() == "failed":
        # Ansible gave up before any host took part; only its log says why.
        yield _judged(run, "internal", runner.log_tail(run.log) or "Ansible failed, and left no word why.", "", "")
    if not failed and run.ended() in ("", "starting", "running", "canceled"):
        yield Diagnosis(
            "interrupted",
            "The run was stopped, or killed, before its end. What was running then may still have finished on the nodes.",
            "A command can be given again at any time: it goes on where the last one stopped.",
            _fill("{mipfed} lock status   (then the same command again)", run, ""),
        )


def _reported(step: Mapping[str, Any], run: Run) -> Iterator[Diagnosis]:
    report = step.get("report")
    data = report.get("data") if isinstance(report, Mapping) else None
    problems = data.get("problems") if isinstance(data, Mapping) else None
    for problem in problems if isinstance(problems, list) else ():
        if isinstance(problem, Mapping):
            message, host = str(problem.get("message", "")), str(problem.get("node", ""))
            known = explain(message)
            following = str(problem.get("fix") or "") or (_fill(known.next, run, host) if known else "")
            yield Diagnosis(str(problem.get("code", "")), message, known.cause if known else "", following, host, str(step.get("task", "")))


def _judged(run: Run, code: str, message: str, host: str, task: str) -> Diagnosis:
    known = explain(message)
    if known:
        return Diagnosis(known.code, message, known.cause, _fill(known.next, run, host), host, task)
    following = "{mipfed} check -l {h}" if host else "mipfed doctor"
    return Diagnosis(code, message, "", _fill(following, run, host), host, task)


def _fill(text: str, run: Run, host: str) -> str:
    return text.format(mipfed=f"mipfed -f {run.federation}", f=run.federation, h=host or "NODE")


def when(run: Run) -> str:
    """Return when the run began, in the time of this machine."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.strptime(run.folder.name[:15], "%Y%m%dT%H%M%S"))
    except ValueError:
        return ""


def outcome(run: str, federation: str | None) -> Outcome:
    """Return the end of `mipfed doctor RUN`."""
    chosen = find(run, federation)
    found = diagnose(chosen)
    said = chosen.ended() or "killed"
    result = {
        "federation": chosen.federation,
        "run": chosen.folder.name,
        "verb": chosen.verb,
        "began": when(chosen),
        "ended": said,
        "log": str(chosen.log),
        "diagnoses": [entry.as_dict() for entry in found],
    }

    def text(out: Any) -> None:
        from mipfed.render import indented, visible

        lines = [f"mipfed -f {chosen.federation} {chosen.verb.replace('-', ' ')}, {when(chosen)}: {said}."]
        for entry in found:
            place = ", ".join(part for part in (entry.host, entry.task) if part)
            lines += ["", f"{entry.code}{f' on {place}' if place else ''}", f"  said:  {indented(entry.message, 9)}"]
            lines += [f"  cause: {entry.cause}"] if entry.cause else ["  cause: not one that is known here"]
            lines += [f"  next:  {indented(entry.next, 9)}"] if entry.next else []
        lines += ["", f"log: {chosen.log}"] if found else ["Nothing went wrong in it."]
        out.print(visible("\n".join(lines)), markup=False)

    return Outcome(result=result, exit_code=ExitCode.CHECK if found else ExitCode.OK, text=text)
