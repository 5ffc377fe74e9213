# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`mipfed doctor RUN`: every known symptom by the message that engine, registry, ssh or apt really write, and runs of a real Ansible."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mipfed.exitcodes import ExitCode
from mipfed.symptoms import SYMPTOMS, Run, diagnose, explain

from .conftest import REPOSITORY, Project

RPC = "rpc error: code = Unknown desc ="
#: What was said, word for word, and what it is.
MESSAGES = (
    (f'{RPC} Swarm is encrypted and needs to be unlocked before it can be used. Please use "docker swarm unlock".', "swarm-locked"),
    ("manager stopped: can't initialize raft node: irreparable WAL error: wal: max entry size limit exceeded", "raft-damaged"),
    ("can't initialize raft node: WAL error cannot be repaired: unexpected EOF", "raft-damaged"),
    ("tocommit(4242) is out of range [lastIndex(3)]. Was the raft log corrupted, truncated, or lost?", "raft-damaged"),
    ("Error: Swarm certificates have expired. To replace them, leave the swarm and join again.", "certificate-expired"),
    (f"{RPC} x509: certificate has expired or is not yet valid: current time 2026-01-01T00:00:00Z is before", "clock"),
    (f"{RPC} The swarm does not have a leader. It's possible that too few managers are online.", "no-quorum"),
    ("Timeout was reached before node joined. The attempt to join the swarm will continue in the background.", "join-timeout"),
    ("rpc error: code = InvalidArgument desc = A valid join token is necessary to join this cluster", "token-refused"),
    ("remote CA does not match fingerprint. Expected: 1f0a", "token-refused"),
    ('This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.', "other-swarm"),
    ('This node is not a swarm manager. Use "docker swarm init" or "docker swarm join"', "not-a-manager"),
    ("rpc error: code = InvalidArgument desc = node hosp-wk-a is ambiguous (2 matches found)", "twins"),
    ("You are attempting to leave the swarm on a node that is participating as a manager.", "leaving-manager"),
    (f"{RPC} update out of sequence", "changed-meanwhile"),
    ("could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network", "address-pool"),
    ("Pool overlaps with other one on this address space", "address-pool"),
    ("could not choose an IP address to advertise since this system has multiple addresses on interface eth0", "advertise-address"),
    ("--live-restore daemon configuration is incompatible with swarm mode", "live-restore"),
    ("failed to add state: function not implemented", "no-esp"),
    ('unsupported media type "application/vnd.docker.distribution.manifest.v1+prettyjws"', "image-schema"),
    ("toomanyrequests: You have reached your unauthenticated pull rate limit.", "rate-limit"),
    ("Get https://registry.example/v2/: no basic auth credentials", "registry-login"),
    ("pull access denied for hbpmip/none, repository does not exist or may require 'docker login'", "registry-login"),
    ("tls: failed to verify certificate: x509: certificate signed by unknown authority", "registry-certificate"),
    ('Get "https://10.0.0.1:5000/v2/": http: server gave HTTP response to HTTPS client', "registry-plain"),
    ("manifest unknown: manifest unknown", "image-missing"),
    ("No such image: 10.77.1.1:5000/exareme:1.0@sha256:00", "image-missing"),
    ("dial tcp: lookup registry-1.docker.io on 127.0.0.53:53: server misbehaving", "name-resolution"),
    ("dial tcp: lookup registry.example on 10.0.0.1:53: no such host", "name-resolution"),
    ("ssh: Could not resolve hostname hosp-wk-a: Name or service not known", "name-resolution"),
    ("no suitable node (scheduling constraints not satisfied on 3 nodes)", "no-suitable-node"),
    ("driver failed programming external connectivity: Bind for 0.0.0.0:9090 failed: port is already allocated", "port-taken"),
    ("no suitable node (host-mode port already in use on 1 node)", "no-suitable-node"),
    ("listen tcp4 0.0.0.0:2377: bind: address already in use", "port-taken"),
    ("write /var/lib/docker/tmp/GetImageBlob: no space left on device", "disk-full"),
    ("open /var/lib/docker/swarm/state.json: read-only file system", "read-only"),
    ("task: unhealthy container", "unhealthy"),
    ("task: non-zero exit (137)", "out-of-memory"),
    ("task: non-zero exit (1)", "crashed"),
    ("client version 1.23 is too old. Minimum supported API version is 1.44, please upgrade your client", "api-version"),
    ("client version 1.52 is too new. Maximum supported API version is 1.41", "api-version"),
    ("permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock", "engine-rights"),
    ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?", "engine-down"),
    ("E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 811 (unattended-upgr)", "apt-locked"),
    ("E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem.", "dpkg-interrupted"),
    ("@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nHost key verification failed.", "host-key-changed"),
    ("No ED25519 host key is known for 10.0.0.1 and you have requested strict checking.", "host-key-unknown"),
    ("mipadmin@10.0.0.1: Permission denied (publickey,password).", "ssh-refused"),
    ("Missing sudo password", "sudo"),
    ("/bin/sh: 1: /usr/bin/python3: not found", "no-python"),
    ("ssh: connect to host 10.0.0.1 port 22: Connection refused", "unreachable"),
    ('connection error: desc = "transport: Error while dialing dial tcp 10.0.0.1:2377: i/o timeout"', "unreachable"),
    (f"{RPC} context deadline exceeded", "engine-slow"),
)


@pytest.mark.parametrize(("message", "code"), MESSAGES)
def test_message(message: str, code: str) -> None:
    symptom = explain(message)
    assert symptom is not None
    assert symptom.code == code


def test_every_symptom_has_a_message_and_words() -> None:
    assert {code for _message, code in MESSAGES} == {symptom.code for symptom in SYMPTOMS}
    assert len({symptom.code for symptom in SYMPTOMS}) == len(SYMPTOMS)
    for symptom in SYMPTOMS:
        assert symptom.cause.endswith(".")
        filled = symptom.next.format(mipfed="mipfed -f fed", h="fed-wk-1", f="fed")
        assert "{" not in filled


def test_commands_named_are_commands(project: Project) -> None:
    """What a symptom says to do next is a command that mipfed has."""
    import typer.main

    from mipfed.app import app

    top = typer.main.get_command(app)
    for symptom in SYMPTOMS:
        for words in re.findall(r"\{mipfed\} ([a-z -]+)", symptom.next):
            group = top
            for word in words.split():
                commands = getattr(group, "commands", {})
                if not commands:
                    break
                assert word in commands, f"{symptom.code}: {words}"
                group = commands[word]


def test_what_is_not_known() -> None:
    assert explain("the moon is full") is None


def failing(project: Project, message: str) -> None:
    project.playbook(
        "verify",
        f"- name: Play\n  hosts: workers\n  gather_facts: false\n  tasks:\n"
        f"    - name: Join\n      ansible.builtin.fail:\n        msg: {json.dumps(message)}\n",
    )


def test_a_run_of_ansible(project: Project) -> None:
    project.federation(workers=1)
    failing(project, "Timeout was reached before node joined. The attempt to join the swarm will continue in the background.")
    assert project.run("verify").code == ExitCode.FAILED
    done = project.run("-f", "fed", "doctor", "last", "-o", "json")
    assert done.code == ExitCode.CHECK, done.out
    result = done.document["result"]
    assert (result["federation"], result["verb"], result["ended"]) == ("fed", "verify", "failed")
    assert result["run"] == project.runs()[-1].name
    (entry,) = result["diagnoses"]
    assert (entry["code"], entry["host"], entry["task"]) == ("join-timeout", "fed-wk-1", "Join")
    assert "TCP 2377" in entry["cause"]
    assert entry["next"] == "mipfed -f fed check"
    text = project.run("doctor", project.runs()[-1].name[:15])
    assert "cause: The engine did not reach the manager" in text.out
    assert "next:  mipfed -f fed check" in text.out


def test_a_run_that_could_not_begin(project: Project) -> None:
    project.federation(workers=1)
    project.playbook("verify", "- name: Play\n  hosts: workers\n  tasks:\n    - no_such.module.anywhere: {}\n")
    assert project.run("verify").code != ExitCode.OK
    done = project.run("doctor", "last", "-o", "json")
    assert done.code == ExitCode.CHECK
    assert "no_such.module.anywhere" in done.document["result"]["diagnoses"][0]["message"]


def test_a_run_without_failures(project: Project) -> None:
    project.federation(workers=1)
    project.playbook("verify", "- name: Play\n  hosts: workers\n  gather_facts: false\n  tasks: []\n")
    project.run("verify")
    done = project.run("doctor", "last")
    assert done.code == ExitCode.OK
    assert "Nothing went wrong in it." in done.out


def recorded(tmp_path: Path, *steps: dict[str, object], status: str = "failed") -> Run:
    folder = tmp_path / "fed" / "runs" / "20261122T100000-deploy"
    (folder / "artifacts" / "ansible").mkdir(parents=True)
    (folder / "artifacts" / "ansible" / "status").write_text(status, encoding="utf-8")
    lines = [json.dumps(step) for step in steps]
    (folder / "events.jsonl").write_text("\n".join([*lines, '{"event": "ho']), encoding="utf-8")
    return Run("fed", folder)


def test_problems_of_a_report_keep_their_own_advice(tmp_path: Path) -> None:
    problems = [
        {"code": "link-esp-path", "node": "fed-wk-1", "message": "ESP does not arrive", "fix": "allow protocol 50"},
        {"code": "service-down", "node": "fed-ms", "message": "0 of 1 tasks: no suitable node"},
    ]
    report = {"event": "report", "host": "fed-ms", "task": "Report", "report": {"verb": "check", "data": {"problems": problems}}}
    end = {"event": "host", "host": "fed-ms", "task": "Report", "status": "failed", "message": "not fit"}
    first, second = diagnose(recorded(tmp_path, report, end))
    assert (first.code, first.next, first.cause) == ("link-esp-path", "allow protocol 50", "")
    assert (second.code, second.next) == (
        "service-down",
        "mipfed -f fed status   (then mipfed -f fed node activate NODE, or mipfed -f fed deploy)",
    )


def test_a_run_that_was_killed(tmp_path: Path) -> None:
    step = {"event": "host", "host": "fed-ms", "task": "Join", "status": "ok"}
    (entry,) = diagnose(recorded(tmp_path, step, status="running"))
    assert entry.code == "interrupted"
    assert "mipfed -f fed lock status" in entry.next


def test_which_run(project: Project) -> None:
    state = project.state / "mipfed"
    for name in ("fed/runs/20261122T100000-deploy", "fed/runs/20261122T100001-check", "other/runs/20261122T110000-verify"):
        (state / name).mkdir(parents=True)
    assert project.run("doctor", "last", "-o", "json").document["result"]["run"] == "20261122T110000-verify"
    assert project.run("-f", "fed", "doctor", "last", "-o", "json").document["result"]["run"] == "20261122T100001-check"
    several = project.run("doctor", "20261122T1000")
    assert several.code == ExitCode.USAGE
    assert "20261122T100000-deploy" in several.err
    none = project.run("-f", "other", "doctor", "2025")
    assert none.code == ExitCode.USAGE
    assert "20261122T110000-verify" in none.err


def test_the_messages_are_the_engines_own() -> None:
    """Where an engine is on this machine, its program contains what the symptoms look for."""
    program = next((path for path in map(Path, ("/usr/bin/dockerd", "/usr/sbin/dockerd")) if path.is_file()), None)
    if program is None:
        pytest.skip("there is no Docker engine on this machine")
    words = program.read_bytes()
    for part in ENGINE_WORDS:
        assert part in words, part


ENGINE_WORDS = (
    b"Swarm is encrypted and needs to be unlocked",
    b"irreparable WAL error",
    b"WAL error cannot be repaired",
    b"is out of range [lastIndex",
    b"Swarm certificates have expired",
    b"has expired or is not yet valid",
    b"The swarm does not have a leader",
    b"Timeout was reached before node joined",
    b"A valid join token is necessary",
    b"remote CA does not match fingerprint",
    b"already part of a swarm",
    b"This node is not a swarm manager",
    b"participating as a manager",
    b"update out of sequence",
    b"could not find an available, non-overlapping",
    b"Pool overlaps with other one",
    b"could not choose an IP address to advertise",
    b"incompatible with swarm mode",
    b"no suitable node",
    b"port is already allocated",
    b"unhealthy container",
    b"non-zero exit",
)


def test_the_document_has_the_table() -> None:
    text = (REPOSITORY / "docs" / "doctor.md").read_text(encoding="utf-8")
    for symptom in SYMPTOMS:
        following = symptom.next.format(mipfed="mipfed", h="NODE", f="FEDERATION")
        assert f"| `{symptom.code}` | {symptom.cause} | {following} |" in text
