# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One invocation of mipfed: its options, its federation, and the guards before a host is contacted."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mipfed import paths
from mipfed.errors import MipfedError, Problem, configuration, declined
from mipfed.exitcodes import ExitCode
from mipfed.formats import Output
from mipfed.outcome import Outcome

if TYPE_CHECKING:
    from rich.console import Console

    from mipfed.inventory import Inventory, Source


#: Playbooks whose work on a hospital is done on its host, not through the swarm.
_OVER_SSH = frozenset(f"hbp.mip.{verb}" for verb in ("check", "compile", "consolidate", "data", "firewall", "verify"))


#: Commands that may come to keep the unlock key of autolock, for which a federation needs a vault password.
_KEEPING_KEY = ("deploy", "adopt", "node add", "node enable", "node replace", "master move", "restore")


@dataclass(frozen=True)
class Options:
    """The options that stand before or after the verb, after merging; the one after the verb wins."""

    output: Output
    federation: str | None = None
    inventory: Path | None = None
    limit: str | None = None
    check: bool = False
    diff: bool = False
    yes: bool = False
    verbose: int = 0
    vault_password_file: Path | None = None


@dataclass
class Prepared:
    """A federation that is ready to be contacted."""

    inventory: Inventory
    resolved: dict[str, Any]
    vault_password: str | None

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that the limit leaves."""
        return [node for node in self.resolved["nodes"] if node["name"] in self.inventory.matched]


class Session:
    """What the commands share; everything costly is done when first needed."""

    def __init__(self, command: str, options: Options) -> None:
        self.command = command
        self.options = options
        self.name: str | None = options.federation
        #: What else stood on the command line, as far as a repetition needs it.
        self.arguments: Sequence[str] = ()

    @cached_property
    def root(self) -> Path:
        """The project's folder."""
        return paths.project_root()

    @cached_property
    def source(self) -> Source:
        """The federation's inventory."""
        from mipfed import inventory

        source = inventory.find(self.root, self.options.federation, self.options.inventory)
        self.name = source.name
        return source

    def call(self, arguments: str) -> str:
        """Return a command line of mipfed for this federation, for the user to copy."""
        chosen = f"-i {paths.shown(self.options.inventory)}" if self.options.inventory else f"-f {self.name or self.source.name}"
        return f"mipfed {chosen} {arguments}".rstrip()

    @staticmethod
    def interactive() -> bool:
        """Tell whether there is a terminal to ask on."""
        return sys.stdin.isatty()

    def confirm(self, text: str, question: str) -> None:
        """Ask before something is changed.

        :raises MipfedError: DECLINED when the answer is not yes, or when it cannot be asked and there is no -y.
        """
        if self.options.yes:
            return
        if not self.interactive():
            raise declined(f"mipfed {self.command} asks before it changes anything, and there is no terminal to ask on.", next="Give -y")
        print(text, file=sys.stderr)
        if self.ask(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
            raise declined("Nothing was changed.")

    @staticmethod
    def ask(prompt: str) -> str:
        """Ask on standard error, which leaves standard output to results; the end of input counts as no answer."""
        print(prompt, end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
        if not answer:
            print(file=sys.stderr)
            raise declined("No answer; nothing was changed.")
        return answer.rstrip("\n")

    def prepare(self, *, secrets: bool = True) -> Prepared:
        """Read and validate the federation and make sure that its nodes may be contacted. Contacts none, except to compare
        the host keys of nodes whose fingerprints the inventory gives but whose keys are not pinned yet.

        :arg secrets: whether what is to be done needs the inventory's secrets, so that the vault password is asked for.
        :raises MipfedError: CONFIGURATION with everything that is wrong; NO_HOSTS when the limit leaves no host.
        """
        from mipfed import inventory as inventories
        from mipfed import vault

        source = self.source
        password = None
        if vault.is_encrypted(source.path) and (secrets or vault.password_file(self.options.vault_password_file)):
            password = vault.obtain(self.options.vault_password_file, source.name)
        inventory = inventories.load(source, password=password, limit=self.options.limit)
        if not inventory.hosts:
            raise MipfedError(ExitCode.NO_HOSTS, f"{paths.shown(source.path)} has no hosts.", next=f"mipfed init {source.name}")
        resolved = inventories.resolve(inventory)
        if password is None and resolved["swarm_autolock"] and self.command in _KEEPING_KEY:
            password = vault.choose(self.options.vault_password_file, source.name)
        if not inventory.matched:
            hosts = ", ".join(inventory.hosts)
            raise MipfedError(ExitCode.NO_HOSTS, f"--limit {self.options.limit} matches no host of {source.name}.", next=f"Hosts: {hosts}")
        silent = [node["name"] for node in resolved["kits"] if node["name"] in inventory.matched]
        if self.options.limit and len(silent) == len(inventory.matched):
            raise configuration(
                f"{', '.join(silent)} joined with a site kit and gives no access over SSH, which `mipfed {self.command}` needs.",
                next=self.call("kit ls"),
            )
        prepared = Prepared(inventory, resolved, password)
        self._check_keys(prepared)
        self._check_host_keys(prepared)
        return prepared

    def _check_keys(self, prepared: Prepared) -> None:
        """Refuse a private key whose passphrase ssh would ask for in a terminal that nobody sees."""
        from mipfed.doctor import encrypted_key, in_agent

        variables = prepared.inventory.variables
        names = {str(variables[node["name"]].get("ansible_ssh_private_key_file") or "") for node in prepared.nodes if node["ssh_host"]}
        for name in sorted(names - {""}):
            path = Path(name).expanduser()
            if path.is_file() and encrypted_key(path) and not in_agent(path):
                raise configuration(f"The SSH key {paths.shown(path)} needs a passphrase and is not in the agent.", next=f"ssh-add {path}")

    def _check_host_keys(self, prepared: Prepared) -> None:
        from mipfed import inventory as inventories
        from mipfed import trust

        files = {node["name"]: inventories.known_hosts_files(prepared.inventory, node["name"]) for node in prepared.nodes}
        lacking = trust.missing(prepared.nodes, files)
        promised = [node for node in lacking if node["host_key"]]
        if promised:
            # The inventory's fingerprint is the operator's word; asking again would add nothing.
            trust.pin_promised(promised, self.source.known_hosts, self.call(""))
        unknown = [str(node["name"]) for node in lacking if not node["host_key"]]
        if unknown:
            raise MipfedError(
                ExitCode.CONFIGURATION,
                [
                    Problem("host-key-unknown", f"no SSH host key is pinned in {paths.shown(self.source.known_hosts)}", host=name)
                    for name in unknown
                ],
                next=self.call("trust"),
            )

    def tips(self, prepared: Prepared) -> dict[str, Mapping[str, str]]:
        """Return by host what the hints of `mipfed.events` need."""
        tips: dict[str, Mapping[str, str]] = {}
        for name, variables in prepared.inventory.variables.items():
            user, address = variables.get("ansible_user"), str(variables.get("ansible_host") or name)
            tips[name] = {
                "mipfed": self.call(""),
                "h": name,
                "target": f"{user}@{address}" if user else address,
                "port": f" -p {variables['ansible_port']}" if int(variables.get("ansible_port") or 22) != 22 else "",
                "key": str(variables.get("ansible_ssh_private_key_file") or "~/.ssh/id_ed25519"),
            }
        return tips

    def play(
        self,
        playbook: str,
        prepared: Prepared,
        *,
        check: bool = False,
        diff: bool = False,
        with_controllers: bool = False,
        variables: Mapping[str, Any] | None = None,
        following: str = "",
    ) -> Outcome:
        """Run a playbook of the collection on a prepared federation.

        :arg with_controllers: let the pusher and the master take part whatever the limit: they hold keys, lock and swarm.
        :arg following: the next command after a failure that says nothing better; by default a check of the node.
        """
        from mipfed import audit
        from mipfed.runner import Job

        self._tell_silent(playbook, prepared)
        limit = self.options.limit
        if limit and with_controllers:
            limit = f"{limit},pusher,master"
        aside = {node["name"] for node in [*prepared.resolved["disabled"], *prepared.resolved["kits"]]}
        job = Job(
            verb=self.command,
            federation=self.source.name,
            playbook=playbook,
            inventory=self.source.path,
            root=self.root,
            hosts=[h for h in prepared.inventory.hosts if h not in aside and (not self.options.limit or h in prepared.inventory.matched)],
            known_hosts=self.source.known_hosts,
            limit=limit,
            check=check,
            diff=diff,
            verbosity=max(0, self.options.verbose - 1),
            variables=variables or {},
            vault_password=prepared.vault_password,
            command=self.again(),
        )
        tips = self.tips(prepared)
        return audit.recorded(self, prepared, job, lambda: self.execute(job, tips, following or self.call("check -l {host}")))

    def _tell_silent(self, playbook: str, prepared: Prepared) -> None:
        """Say which hospitals a playbook does not come to, because it works over SSH on those that it is for."""
        from mipfed import render

        silent = [node["name"] for node in prepared.resolved["kits"] if node["site_kit"] == "member"]
        if silent and playbook in _OVER_SSH and self.options.output is Output.TEXT:
            render.line(f"Not on {', '.join(silent)}: joined with a site kit, which gives no access over SSH.")

    @staticmethod
    def report(outcome: Outcome, verb: str, show: Callable[[Console, Any], None]) -> Outcome:
        """Make the report that a playbook handed over the result of a command, and its problems the command's.

        :arg show: writes the report for people.
        """
        from mipfed import events

        data = outcome.done.collector.reports.get(verb) if outcome.done else None
        outcome.result = data
        if data is not None:
            outcome.text = lambda out: show(out, data)
            if outcome.exit_code in (ExitCode.OK, ExitCode.FAILED, ExitCode.UNREACHABLE):
                known = {(problem.code, problem.host, problem.message) for problem in outcome.errors}
                outcome.errors += [p for p in events.report_problems(data) if (p.code, p.host, p.message) not in known]
                if outcome.exit_code is ExitCode.OK and (outcome.errors or data.get("ok") is False):
                    outcome.exit_code = ExitCode.CHECK
        elif outcome.exit_code is ExitCode.OK:
            outcome.exit_code = ExitCode.INTERNAL
            outcome.errors.append(Problem("internal", f"The playbook hbp.mip.{verb} ended without a report.", next="mipfed doctor"))
        return outcome

    def execute(self, job: Any, tips: Mapping[str, Mapping[str, str]], following: str) -> Outcome:
        """Run a job with live progress and turn its end into an outcome.

        :arg following: the next command after a failure that says nothing better; `{host}` is replaced.
        """
        from mipfed import events, render, runner

        shown = render.progress(self.options.output, job.hosts, self.options.verbose)
        if isinstance(shown, render.JsonLines):
            print(render.event_line("start", command=self.command, federation=self.name, check=job.check), flush=True)
        with shown:
            done = runner.run(job, shown.step, shown.interrupted)
        errors = events.problems(done.collector, tips, following)
        outcome = Outcome(exit_code=done.exit_code, errors=errors, done=done)
        if done.exit_code is ExitCode.INTERRUPTED:
            outcome.errors.append(
                Problem(
                    "interrupted",
                    "The run was stopped. What was running then may still have finished on the nodes.",
                    next=self.again(),
                )
            )
        elif done.exit_code is ExitCode.INTERNAL:
            tail = "\n".join(done.collector.errors) or runner.log_tail(done.log)
            outcome.errors.append(Problem("internal", f"Ansible ended with code {done.rc}:\n{tail}", next="mipfed doctor"))
        elif done.exit_code is ExitCode.NO_HOSTS:
            outcome.errors.append(Problem("no-hosts", "No host of the inventory took part.", next=self.call("node ls")))
        return outcome

    def again(self) -> str:
        """Return the command line of this invocation, for the user to repeat."""
        line = shlex.join([*self.command.split(), *self.arguments])
        return self.call(line) if self.name else f"mipfed {line}"
