# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries in the journals for runs that are not mipfed's, which writes its own."""

from __future__ import annotations

DOCUMENTATION = r"""
name: journal
type: notification
version_added: 0.4.0
author:
  - The hbp.mip authors (@HBPMedical)
short_description: Writes who ran what into the journals of the federation
description:
  - A playbook of this collection that C(ansible-playbook) or AWX runs is written down as C(mipfed) does it, on each node that the run
    changed, and, other than in AWX, which keeps the records of its jobs itself, on the machine that runs it, in
    C(~/.local/state/mipfed/FEDERATION/audit).
  - A run in check mode, or one that changed nothing on a node, leaves the nodes' journals alone.
  - C(mipfed) writes the same entries itself, also when a run is killed; below it this plugin does nothing.
  - When an entry cannot be written there is a warning, and the run ends as it would have ended.
requirements:
  - To be named in C(callbacks_enabled), as this project's C(ansible.cfg) does.
seealso:
  - name: The journals
    description: What is in them, and what they show.
    link: https://github.com/HBPMedical/mip-federation/blob/master/docs/audit.md
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible import context
from ansible.executor.task_queue_manager import TaskQueueManager
from ansible.playbook.play import Play
from ansible.plugins.callback import CallbackBase
from ansible.template import trust_as_template

from ansible_collections.hbp.mip.plugins.plugin_utils import _journal

#: What AWX and its predecessor give every job: its number, and who started it.
_JOBS = (("awx_job_id", "awx_user_name"), ("tower_job_id", "tower_user_name"))


class _Answers(CallbackBase):  # type: ignore[misc]
    """Keeps what the nodes answered, and shows nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, dict[str, Any]] = {}

    def v2_runner_on_ok(self, result: Any) -> None:
        """Take the number and the hash of the entry."""
        try:
            told = json.loads(str(result.result.get("stdout", "")).strip().splitlines()[-1])
            self.found[result.host.get_name()] = {"n": int(told["n"]), "hash": str(told["hash"])}
        except (IndexError, KeyError, TypeError, ValueError):
            self.found[result.host.get_name()] = {"error": "its answer is not understood"}

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Take what the program said."""
        said = str(result.result.get("stderr") or result.result.get("msg") or "it failed").strip().splitlines()
        self.found[result.host.get_name()] = {"error": said[-1]}

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Take why there is no connection."""
        self.found[result.host.get_name()] = {"error": str(result.result.get("msg") or "it cannot be reached").strip()}


class _Writer(TaskQueueManager):  # type: ignore[misc]
    """Runs a play of which nobody hears but `answers`."""

    def __init__(self, answers: _Answers, **options: Any) -> None:
        super().__init__(**options)
        answers._init_callback_methods()
        self._callback_plugins = [answers]


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Collects what a run changes; writes it down at the end."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "hbp.mip.journal"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.disabled = "MIPFED_COMMAND" in os.environ
        self._start = time.monotonic()
        self._run = time.strftime("ansible-%Y%m%dT%H%M%SZ", time.gmtime()) + f"-{os.getpid()}"
        self._playbook = ""
        self._play: Any = None
        self._passwords: dict[str, Any] = {}
        self._federation: Mapping[str, Any] = {}
        self._began: dict[str, Any] | None = None
        self._changes: dict[str, list[str]] = {}
        #: Tasks with a loop, whose changes were told item by item.
        self._items: set[tuple[str, str]] = set()

    def set_play_context(self, play_context: Any) -> None:
        """Take the passwords that were asked for, which the nodes will want again."""
        self._passwords = {"conn_pass": play_context.password, "become_pass": play_context.become_pass}

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Take the playbook's name."""
        self._playbook = Path(playbook._file_name).name

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Take what is needed to run another play."""
        self._play = play

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """Take an item that was changed."""
        if result.result.get("changed"):
            label = result.result.get("_ansible_item_label", result.result.get("item", ""))
            self._items.add((result.host.get_name(), result.task._uuid))
            self._change(result, label if isinstance(label, str) else json.dumps(label, default=str))

    def v2_runner_on_ok(self, result: Any) -> None:
        """Take a task that changed something, and from the first one which federation this is."""
        if result.task.action == "hbp.mip.federation" and not self._federation and "nodes" in result.result:
            self._federation = result.result
            self._begin()
        if result.result.get("changed") and (result.host.get_name(), result.task._uuid) not in self._items:
            self._change(result, "")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Write the entries."""
        if not self._federation or not self._play:
            return
        summary = {name: stats.summarize(name) for name in stats.processed}
        bad = [name for name, counts in summary.items() if counts["failures"] or counts["unreachable"]]
        result = "failed" if bad else "ok"
        check = bool(context.CLIARGS.get("check"))
        told = {} if check else self._tell_nodes(result)
        for name, answer in told.items():
            if "error" in answer:
                self._display.warning(f"{name}: its journal has no entry of this run: {answer['error']}")
        changes = [f"{name}: {change}" for name, entries in self._changes.items() for change in entries]
        data = {
            "phase": "ended",
            "run": self._run,
            "check": check,
            "exit_code": 2 if bad else 0,
            "result": result,
            "seconds": round(time.monotonic() - self._start, 1),
            "hosts": {name: _state(counts) for name, counts in summary.items()},
            **_journal.listed(changes),
            "nodes": told,
        }
        if self._began:
            data["began"] = {"n": self._began["n"], "hash": self._began["hash"]}
        to_make = " to make" if check else ""
        self._append(f"{result}, {_journal.counted(changes)}{to_make}: {self._command()}", data)

    def _begin(self) -> None:
        if not context.CLIARGS.get("check"):
            self._began = self._append(f"began: {self._command()}", {"phase": "began", "playbook": self._verb()})

    def _change(self, result: Any, item: str) -> None:
        role = result.task._role.get_name() if result.task._role else ""
        self._changes.setdefault(result.host.get_name(), []).append(_journal.described(role, result.task.name or result.task.action, item))

    def _verb(self) -> str:
        """Return what mipfed calls the playbook, as far as that is another name than its own."""
        name = Path(self._playbook).stem
        return "deploy" if name == "site" else name

    def _command(self) -> str:
        """Return the command line as far as it explains the run; what is given with -e may be a secret."""

        def words() -> Iterator[str]:
            yield "ansible-playbook"
            yield self._playbook
            for given in context.CLIARGS.get("inventory") or ():
                # Ansible has made paths absolute.
                path = Path(str(given))
                yield f"-i {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else given}"
            if limit := context.CLIARGS.get("subset"):
                yield f"-l {limit}"
            for name in ("tags", "skip_tags"):
                chosen = [tag for tag in context.CLIARGS.get(name) or () if tag != "all"]
                if chosen:
                    yield f"--{name.replace('_', '-')} {','.join(chosen)}"
            if context.CLIARGS.get("check"):
                yield "--check"

        return " ".join(words())

    def _job(self) -> tuple[str, str]:
        """Return number and starter of AWX's job; nothing elsewhere."""
        given = self._play.get_variable_manager().extra_vars if self._play else {}
        for number, user in _JOBS:
            if given.get(number):
                return str(given[number]), str(given.get(user) or "")
        return "", ""

    def _append(self, text: str, data: Mapping[str, Any]) -> dict[str, Any] | None:
        """Write into the journal on this machine; in AWX this is a container that ends with the job."""
        if self._job()[0]:
            return None
        name = str(self._federation["name"])
        try:
            return _journal.append(name, self._verb(), text, data)
        except OSError as error:
            self._display.warning(f"the journal in {_journal.folder(name)} cannot be written: {error.strerror or error}")
            return None

    def _tell_nodes(self, result: str) -> dict[str, dict[str, Any]]:
        """Write an entry on each node that was changed; return by node its number and hash, or why it has none."""
        nodes = [str(node["name"]) for node in self._federation["nodes"] if node["ssh_host"] and self._changes.get(node["name"])]
        if not nodes:
            return {}
        number, user = self._job()
        starter = f"{user or 'somebody'} in AWX" if number else _journal.person()
        who = f"{starter}, federation {self._federation['name']}"
        centre = {"awx_job": number} if number else {key: self._began[key] for key in ("n", "hash")} if self._began else {}
        more = {"run": f"awx-{number}" if number else self._run, "centre": centre}
        manager, loader = self._play.get_variable_manager(), self._play.get_loader()
        programs = {
            name: _journal.program(_journal.node_entry(self._verb(), who, result, self._command(), self._changes[name], more))
            for name in nodes
        }
        answers = _Answers()
        writer = None
        try:
            for name, text in programs.items():
                # Of each host only its own, and, not being trusted, never a template.
                manager.set_nonpersistent_facts(name, {"hbp_mip_journal_program": text})
            read = trust_as_template("{{ hbp_mip_journal_program }}")
            play = Play().load(
                {
                    "name": "Write the journal",
                    "hosts": nodes,
                    "gather_facts": False,
                    "become": True,
                    "tasks": [
                        {
                            "name": "Write the entry",
                            "ansible.builtin.command": {"argv": ["python3", "-c", _journal.START], "stdin": read},
                            "check_mode": False,
                        }
                    ],
                },
                variable_manager=manager,
                loader=loader,
            )
            inventory = manager._inventory
            # The last play was for some hosts only, perhaps.
            inventory.remove_restriction()
            forks = int(context.CLIARGS.get("forks") or 5)
            writer = _Writer(answers, inventory=inventory, variable_manager=manager, loader=loader, passwords=self._passwords, forks=forks)
            writer.run(play)
        except Exception as error:  # whatever Ansible raises: the run itself has ended, and keeps its result
            answers.found = {name: {"error": str(error)} for name in nodes} | answers.found
        finally:
            if writer is not None:
                writer.cleanup()
        return {name: answers.found.get(name, {"error": "no answer"}) for name in nodes}


def _state(counts: Mapping[str, int]) -> str:
    """Return what became of a host, in the words of mipfed."""
    for name, word in (("unreachable", "unreachable"), ("failures", "failed"), ("changed", "changed")):
        if counts[name]:
            return word
    return "ok"
