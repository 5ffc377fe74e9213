# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a playbook through ansible-runner: private records, no secrets in them, an orderly stop on Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from mipfed import paths, vault
from mipfed.errors import MipfedError
from mipfed.events import Collector, Step
from mipfed.exitcodes import ExitCode
from mipfed.inventory import IGNORED

KEEP_RUNS = 20
#: Of runs that only look, and that somebody may repeat every few seconds, this many: they shall not push out the record of a deploy.
KEEP_LOOKS = 3
_LOOK = re.compile(r"\d{8}T\d{6}-(status|report)(-\d+)?")
#: Ansible leaves with this when SIGINT stopped it.
_USER_INTERRUPTED = 99
#: Environment that would lead Ansible round our settings, or that ansible-runner takes for its own.
_REMOVED = (
    "AD_HOC_COMMAND_ID",
    "ANSIBLE_FORCE_COLOR",
    "ANSIBLE_STDOUT_CALLBACK",
    "ANSIBLE_VAULT_IDENTITY_LIST",
    "ANSIBLE_VAULT_PASSWORD_FILE",
)
_VARIABLES = "variables.json"
_IDENT = "ansible"


@dataclass
class Job:
    """What to run, and with which of the user's options."""

    verb: str
    federation: str
    playbook: str
    inventory: Path
    root: Path
    hosts: list[str]
    known_hosts: Path | None = None
    limit: str | None = None
    check: bool = False
    diff: bool = False
    verbosity: int = 0
    variables: Mapping[str, Any] = field(default_factory=dict)
    vault_password: str | None = None
    #: The command line as others see it in the federation's lock.
    command: str = ""


@dataclass
class Done:
    """The end of a run."""

    collector: Collector
    exit_code: ExitCode
    folder: Path
    log: Path
    seconds: float
    rc: int | None

    def as_dict(self) -> dict[str, Any]:
        """Return the run for JSON: its id, the path of Ansible's full log, and its duration in seconds."""
        return {"id": self.folder.name, "log": str(self.log), "seconds": round(self.seconds, 3)}


def settings(job: Job) -> dict[str, str]:
    """Return the environment that gives Ansible the project's settings, wherever mipfed is installed.

    A setting that the user's own environment makes is kept, except where safety or mipfed itself depends on it.
    """
    folder = paths.collections_dir()
    if folder is None:
        raise MipfedError(ExitCode.INTERNAL, "The collection hbp.mip is not beside mipfed.", next="mipfed doctor")
    elsewhere = os.environ.get("ANSIBLE_COLLECTIONS_PATH") or "~/.ansible/collections:/usr/share/ansible/collections"
    # BatchMode is no good here: it would also refuse the password of a first contact.
    ssh = "-o ControlMaster=auto -o ControlPersist=30m -o ServerAliveInterval=10 -o ServerAliveCountMax=3"
    if job.known_hosts:
        # First on the command line, so that nothing after it weakens it; and ssh never asks in a terminal nobody sees.
        pinned = shlex.quote(f'UserKnownHostsFile="{job.known_hosts}"')
        ssh = f"-o StrictHostKeyChecking=yes -o {pinned} {ssh}"
    wanted = {
        "ANSIBLE_FORKS": str(max(50, len(job.hosts))),
        "ANSIBLE_PIPELINING": "True",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": "~/.ansible/cp",
        "ANSIBLE_SSH_CONTROL_PATH": "%(directory)s/%%C",
        "ANSIBLE_GATHERING": "explicit",
        "ANSIBLE_INJECT_FACT_VARS": "False",
        "ANSIBLE_PYTHON_INTERPRETER": "auto_silent",
        "ANSIBLE_TIMEOUT": "15",
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml",
        "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "False",
        "ANSIBLE_INVENTORY_UNPARSED_FAILED": "True",
        "ANSIBLE_INVENTORY_IGNORE_REGEX": IGNORED,
        "ANSIBLE_DUPLICATE_YAML_DICT_KEY": "error",
        "ANSIBLE_LOCALHOST_WARNING": "False",
    }
    forced = {
        "ANSIBLE_COLLECTIONS_PATH": f"{folder}:{elsewhere}",
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_SSH_ARGS": ssh,
        "ANSIBLE_CACHE_PLUGIN": "memory",
        "ANSIBLE_DISPLAY_ARGS_TO_STDOUT": "False",
        "ANSIBLE_NOCOLOR": "True",
        "MAX_EVENT_RES": str(64 * 1024 * 1024),
        "MIPFED_COMMAND": job.command or f"mipfed {job.verb}",
        "MIPFED_PID": str(os.getpid()),
        "PATH": paths.search_path(),
    }
    return {key: os.environ.get(key, value) for key, value in wanted.items()} | forced


@contextlib.contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """Take variables out of this process's environment, which ansible-runner copies."""
    saved = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)


def new_folder(federation: str, verb: str) -> Path:
    """Make the private folder of a new run and remove the oldest ones; `KEEP_RUNS` stay, and those still running."""
    runs = paths.state_dir() / federation / "runs"
    runs.mkdir(parents=True, exist_ok=True, mode=0o700)
    name = f"{time.strftime('%Y%m%dT%H%M%S')}-{verb.replace(' ', '-')}"
    number = 1
    while True:
        folder = runs / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(mode=0o700)
            break
        except FileExistsError:
            number += 1
    (folder / "pid").write_text(str(os.getpid()))
    known = sorted(path for path in runs.iterdir() if path.is_dir())
    looks = [path for path in known if _LOOK.fullmatch(path.name)]
    old = {*looks[:-KEEP_LOOKS], *[path for path in known if path not in looks][:-KEEP_RUNS]}
    ended = [path for path in known if not _alive(path)]
    for path in ended:
        # What a run is given may be secret, and one that was killed has left it.
        (path / _VARIABLES).unlink(missing_ok=True)
        if path in old:
            shutil.rmtree(path, ignore_errors=True)
    return folder


def _alive(folder: Path) -> bool:
    try:
        return Path(f"/proc/{int((folder / 'pid').read_text())}").exists()
    except (OSError, ValueError):
        return False


class Interrupts:
    """Ctrl-C (SIGINT), SIGTERM and SIGHUP while Ansible runs: the first asks Ansible to stop, the second kills it."""

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, notify: Callable[[int], None]) -> None:
        self.count = 0
        self.child = 0
        self._notify = notify
        self._forwarded = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in self.signals:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_unused: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        self._notify(self.count)
        self.forward()

    def forward(self) -> None:
        """Pass the first interrupt to Ansible's process group, as soon as the process is known."""
        if not self.count or self._forwarded:
            return
        self.child = self.child or _child()
        if self.child:
            self._forwarded = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(os.getpgid(self.child), signal.SIGINT)

    def cancelled(self) -> bool:
        """Tell ansible-runner whether to kill; it asks twice a second."""
        self.forward()
        return self.count > 1


def _child() -> int:
    """Return the process id of the ansible-playbook that this process started, or 0."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == os.getpid() and b"ansible-playbook" in (entry / "cmdline").read_bytes():
                return int(entry.name)
        except (OSError, ValueError, IndexError):
            continue
    return 0


def _write_private(path: Path, text: str) -> Path:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)
    return path


def _forget_environment(command: Path) -> None:
    """Leave of the environment that ansible-runner records only what explains the run; the rest may hold secrets."""
    try:
        record = json.loads(command.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        command.unlink(missing_ok=True)
        return
    kept = {key: value for key, value in record.get("env", {}).items() if key.startswith(("ANSIBLE_", "RUNNER_")) or key == "PATH"}
    _write_private(command, json.dumps({**record, "env": kept}))


def run(job: Job, on_step: Callable[[Step, Collector], None], on_interrupt: Callable[[int], None]) -> Done:
    """Run a playbook to its end.

    :arg on_step: called for each step, in order, from this thread.
    :arg on_interrupt: called with 1 for the first and 2 or more for each further interrupt.
    :returns: the collected events and the exit code derived from them.
    :raises MipfedError: INTERNAL when Ansible could not be started at all.
    """
    import ansible_runner.interface as interface

    environment = settings(job)
    mask = os.umask(0o077)
    folder = new_folder(job.federation, job.verb)
    artifacts = folder / "artifacts" / _IDENT
    log = artifacts / "stdout"
    collector = Collector(job.hosts)
    broken: list[BaseException] = []
    started = time.monotonic()
    arguments = [*(["--check"] if job.check else []), *(["--diff"] if job.diff else [])]
    variables: Path | None = None

    def on_event(event: dict[str, Any]) -> bool:
        try:
            interrupts.child = interrupts.child or int(event.get("pid") or 0)
            interrupts.forward()
            for step in collector.feed(event):
                events.write(json.dumps(step.as_dict(), default=str) + "\n")
                on_step(step, collector)
        except Exception as error:  # an error in here must not leave Ansible running without a reader
            broken.append(error)
        return False

    def on_status(status: dict[str, Any], runner_config: Any) -> None:
        if status["status"] == "running":
            _forget_environment(artifacts / "command")
            # Only this process's files are private: what Ansible makes on this host follows the user's own mask.
            os.umask(mask)

    try:
        (folder / "env").mkdir(mode=0o700)
        _write_private(folder / "env" / "settings", json.dumps({"pexpect_timeout": 0.5}))
        with contextlib.ExitStack() as stack:
            events = stack.enter_context((folder / "events.jsonl").open("w", encoding="utf-8"))
            if job.variables:
                variables = _write_private(folder / _VARIABLES, json.dumps(dict(job.variables)))
                arguments += ["-e", f"@{variables}"]
            if job.vault_password is not None:
                server = stack.enter_context(vault.PasswordServer(job.vault_password))
                arguments += ["--vault-password-file", str(server.client(folder))]
            stack.enter_context(_without(_REMOVED))
            interrupts = stack.enter_context(Interrupts(on_interrupt))
            result = interface.run(
                private_data_dir=str(folder),
                project_dir=str(job.root),
                playbook=job.playbook,
                inventory=str(job.inventory),
                ident=_IDENT,
                limit=job.limit,
                cmdline=shlex.join(arguments) if arguments else "--flush-cache",
                verbosity=job.verbosity or None,
                envvars=environment,
                quiet=True,
                suppress_env_files=True,
                fact_cache_type="memory",
                event_handler=on_event,
                status_handler=on_status,
                cancel_callback=lambda: bool(broken) or interrupts.cancelled(),
            )
            interrupted = interrupts.count > 0
    finally:
        os.umask(mask)
        for leftover in (variables, folder / "pid"):
            if leftover:
                leftover.unlink(missing_ok=True)
    if broken:
        raise broken[0]
    code = ExitCode.INTERRUPTED if interrupted or result.rc == _USER_INTERRUPTED else collector.exit_code()
    if code == ExitCode.OK and result.rc not in (0, None):
        code = ExitCode.INTERNAL
    return Done(collector, code, folder, log, time.monotonic() - started, result.rc)


def log_tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of Ansible's log, for errors that came before any event."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


def local_inventory() -> Path:
    """Write an inventory of this host alone, for playbooks about this machine, and return its private path."""
    folder = Path(tempfile.mkdtemp(prefix="mipfed-"))
    host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    path = folder / "hosts.json"
    _write_private(path, json.dumps({"all": {"hosts": {"localhost": host}}}))
    return path
