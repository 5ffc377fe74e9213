# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`mipfed backup verify --restore-test`: a backup is restored into a scratch lab, and what comes of it is verified there.

The lab's machines get the addresses of the nodes that they stand for, because a manager comes back only with its own. Nothing that a lab's
machine sends leaves the lab, so that the living federation neither hears nor is heard.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mipfed import paths
from mipfed.errors import MipfedError, Problem, configuration
from mipfed.exitcodes import ExitCode
from mipfed.outcome import Outcome
from mipfed.session import Session

LAB = "restore-test"
DISK_GB, MEMORY_MB = 4.0, 1500
#: What a lab needs besides what its machines are made with.
_PROGRAMS = {"docker-registry": "docker-registry", "skopeo": "skopeo", "iptables": "iptables"}
#: The hospitals' machines are new ones: they come back by joining anew, and only then does the keystore run with an image of the lab.
_LATER = frozenset({"node-away", "revived-node", "restore-keystore"})
#: Patients' data and the databases made of them are in no backup; without them the engine cannot list datasets. That it is up and knows
#: its nodes is looked at besides.
_WITHOUT_DATA = frozenset({"no-statistic", "dataset-unexpected", "database-missing", "engine-error"})


class _Failed(Exception):
    """The restore is not what it should be; ``problems`` tell why."""

    def __init__(self, step: str, problems: Sequence[Problem]) -> None:
        super().__init__(f"{step}: {'; '.join(problem.message for problem in problems) or 'it did not end as it should'}")
        self.problems = list(problems)


def _lab_module() -> Any:
    return paths.collection_module("module_utils._lab")


def refuse_without_lab() -> None:
    """Make sure that a lab can run on this machine.

    :raises MipfedError: CHECK with everything because of which it cannot.
    """
    lab = _lab_module()
    folder = next(parent for parent in Path(lab.STATE_DIR).parents if parent.is_dir())
    problems: list[str] = lab.missing_requirements(list(lab.TOOLS), DISK_GB, MEMORY_MB, str(folder))
    if missing := sorted(package for program, package in _PROGRAMS.items() if not shutil.which(program)):
        problems.append(f"programs are missing: apt-get install --yes {' '.join(missing)}")
    if problems:
        raise MipfedError(
            ExitCode.CHECK,
            [Problem("no-lab", f"the restore cannot be tried on this machine: {text}") for text in problems],
            next="Put that right, or try the restore on another machine that has the file and the key",
        )


def stand_ins(manifest: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the manager and the hospital of the backup that the lab's two machines stand for.

    :raises MipfedError: CHECK when the backup is of another manager than the master: one machine cannot be both.
    """
    nodes: Sequence[dict[str, Any]] = manifest["nodes"]
    master = next((node for node in nodes if node["kind"] == "master"), None)
    worker = next((node for node in nodes if node["kind"] == "worker"), None)
    if master is None or worker is None or master["name"] != manifest["swarm"]["node"]:
        raise MipfedError(
            ExitCode.CHECK,
            f"The backup is of the manager {manifest['swarm']['node']}, which is not the master; only a master's can be tried in a lab.",
            next="Try it on machines of your own: mipfed restore",
        )
    return master, worker


def lab_number(addresses: Sequence[str], routes: str) -> int:
    """Return the number of a network that neither this machine nor a node of the backup uses.

    :arg routes: the content of /proc/net/route.
    """
    lab = _lab_module()
    known = lab.parse_routes(routes)
    # The network of another lab is a route of this machine through a bridge of that lab.
    parts = [text.split(".") for text in (*addresses, *(str(destination.network_address) for destination, _device in known))]
    taken = [int(third) for first, second, third, _last in parts if (first, second) == ("10", "77")]
    number: int = lab.choose_number(known, taken)
    return number


def inventory_of(manifest: Mapping[str, Any], opened: Any, keys: Sequence[Any], folder: Path) -> dict[str, Any]:
    """Take the inventory out of a backup into a private folder and return the federation that it describes."""
    from mipfed import inventory

    for entry in manifest["members"]:
        if entry["kind"] == "inventory":
            content = io.BytesIO(b"".join(opened.member(entry, keys)))
            with tarfile.open(fileobj=content) as archive:
                archive.extractall(folder, filter="data")
    found = paths.hosts_file(folder)
    if found is None:
        raise configuration("The inventory in the backup has no hosts.yml.")
    return inventory.resolve(inventory.load(inventory.Source(str(opened.header["federation"]), found)))


def scratch_variables(lab: Mapping[str, Any], then: Mapping[str, Any], start_seconds: int) -> dict[str, Any]:
    """Return the scratch federation's variables: how the lab is reached and what it runs, and of the backup what its swarm is made of.

    :arg lab: the variables that the lab wrote.
    :arg then: the federation of the backup.
    """
    return {
        **lab,
        "mip_federation": then["name"],
        "mip_engine": {**lab["mip_engine"], "port": then["engine"]["port"], "start_seconds": start_seconds},
        "mip_overlay": dict(then["overlay"]),
        "mip_swarm": dict(then["swarm"]),
        "mip_firewall": {"manage": False},
    }


def scratch_hosts(lab: Mapping[str, Any], standing: Sequence[tuple[Mapping[str, Any], str]]) -> dict[str, Any]:
    """Return the scratch federation's hosts: nodes of the backup, reached at the addresses of the lab's machines.

    :arg standing: nodes and the names of the machines that stand for them.
    """
    children = lab["all"]["children"]
    machines = {name: values for group in children.values() for name, values in (group.get("hosts") or {}).items()}
    groups: dict[str, Any] = {"pusher": children["pusher"], "ui": {"hosts": {}}}
    for node, machine in standing:
        group = "master" if node["kind"] == "master" else "workers"
        groups[group] = {"hosts": {node["name"]: {**machines[machine], "mip_address": node["address"]}}}
    return {"all": {"children": groups}}


class Trial:
    """One trial, from the lab's start to its end."""

    def __init__(self, session: Session, file: Path, identity: Path, folder: Path) -> None:
        self.session, self.file, self.identity = session, file, identity
        self.inventory = folder / "inventory"
        self.steps: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Take the time of a step; tell that it begins."""
        from mipfed import render

        render.line(f"-- {name}")
        began = time.monotonic()
        entry: dict[str, Any] = {"step": name, "ok": False, "seconds": 0.0}
        self.steps.append(entry)
        try:
            yield
            entry["ok"] = True
        finally:
            entry["seconds"] = round(time.monotonic() - began, 1)

    def lab(self, playbook: str, **more: Any) -> None:
        """Run a playbook of the lab's."""
        from mipfed import lab, runner

        local = runner.local_inventory()
        variables = {**lab.variables(self.session.root, LAB), "lab_inventory_dir": str(self.inventory), "lab_provide_data": False}
        variables["lab_machines"] = [
            {"name": f"{LAB}-ms", "kind": "master", "last_byte": 11},
            {"name": f"{LAB}-wk-1", "kind": "worker", "last_byte": 21},
        ]
        job = runner.Job(
            verb=self.session.command, federation=LAB, playbook=f"hbp.mip.{playbook}", inventory=local, root=self.session.root,
            hosts=["localhost"], variables={**variables, **more},
        )  # fmt: skip
        try:
            self.check(playbook, self.session.execute(job, {}, f"mipfed lab status --name {LAB}"))
        finally:
            shutil.rmtree(local.parent, ignore_errors=True)

    @staticmethod
    def check(step: str, outcome: Outcome, accepted: frozenset[str] = frozenset()) -> None:
        """Raise `_Failed` unless all went well, or only what is known to come later, or never, in a lab is missing."""
        if outcome.exit_code is ExitCode.INTERRUPTED:
            raise MipfedError(ExitCode.INTERRUPTED, outcome.errors)
        wrong = [problem for problem in outcome.errors if problem.code not in accepted]
        if wrong or outcome.exit_code not in ((ExitCode.OK, ExitCode.CHECK) if accepted else (ExitCode.OK,)):
            raise _Failed(step, wrong)

    def write(self, hosts: Mapping[str, Any] | None, variables: Mapping[str, Any]) -> None:
        """Write the scratch federation's inventory over the lab's."""
        import yaml

        from mipfed.inventory import shown_config

        # What Ansible has read are texts of its own types.
        if hosts is not None:
            paths.write_atomically(self.inventory / "hosts.yml", yaml.safe_dump(shown_config(hosts)))
        paths.write_atomically(self.inventory / "group_vars/all/main.yml", yaml.safe_dump(shown_config(variables)))

    def scratch(self, command: str) -> Session:
        """Return a session with the scratch federation, which has the name of the one in the backup."""
        options = replace(self.session.options, inventory=self.inventory, federation=self.session.source.name, limit=None, yes=True)
        return Session(command, replace(options, check=False, diff=False))

    def play(self, verb: str, **variables: Any) -> Outcome:
        """Run a playbook on the scratch federation."""
        scratch = self.scratch(verb)
        return scratch.play(f"hbp.mip.{verb}", scratch.prepare(), with_controllers=True, variables=variables)

    def restore(self) -> Outcome:
        """Restore the backup."""
        from mipfed import recovery

        return recovery.restore(
            self.scratch("restore"), self.file, self.identity, confirm=self.session.source.name, replace=False, data=False
        )

    def run(self, manifest: Mapping[str, Any], then: Mapping[str, Any]) -> None:
        """Go through all steps; the caller removes the lab."""
        import yaml

        master, worker = stand_ins(manifest)
        standing = [(master, f"{LAB}-ms"), (worker, f"{LAB}-wk-1")]
        addresses = [str(node["address"]) for node in manifest["nodes"]]
        # A release of Debian whose engine is not older than the one of the backup.
        major = int(str(manifest["swarm"]["engine_version"]).partition(".")[0] or 0)
        number = lab_number(addresses, Path("/proc/net/route").read_text(encoding="ascii"))
        with self.step("start a lab of a master and a hospital"):
            self.lab("lab_up", lab_number=number, lab_base="trixie" if major > 20 else "bookworm")
            made = yaml.safe_load((self.inventory / "group_vars/all/main.yml").read_text(encoding="utf-8"))
            if then["overlay"]["encrypted"] and not made["mip_overlay"]["encrypted"]:
                raise MipfedError(
                    ExitCode.CHECK,
                    "The overlay in the backup is encrypted, which the kernel of this machine cannot do (no ESP): the restore cannot be "
                    "verified here.",
                    next="Try it on a machine whose kernel has ESP",
                )
            hosts = yaml.safe_load((self.inventory / "hosts.yml").read_text(encoding="utf-8"))
            self.write(scratch_hosts(hosts, standing), scratch_variables(made, then, 20))
            self.check("addresses", self.play("restore_test"))
        with self.step(f"restore {master['name']}"):
            outcome = self.restore()
            self.check("restore", outcome, _LATER)
            if not (isinstance(outcome.result, Mapping) and outcome.result.get("restored")):
                raise _Failed("restore", [Problem("not-restored", "the state of the backup was not put in place")])
        self.write(None, scratch_variables(made, then, 300))
        with self.step(f"let {worker['name']} join anew, and deploy"):
            self.check("deploy", self.play("node_replace", node_name=worker["name"]))
        with self.step("bring the keystore's keys back"):
            self.check("restore", self.restore())
        with self.step("verify"):
            scratch = self.scratch("verify")
            verified = scratch.report(scratch.play("hbp.mip.verify", scratch.prepare()), "verify", lambda _out, _data: None)
            self.check("verify", verified, _WITHOUT_DATA)
            report: Mapping[str, Any] = verified.result if isinstance(verified.result, Mapping) else {}
            pairs, health = report.get("pairs") or (), (report.get("engine") or {}).get("health") or {}
            if not pairs or not all(pair["ok"] for pair in pairs) or not health.get("ok"):
                raise _Failed("verify", [Problem("not-verified", "not all links work, or the engine's API does not know all nodes")])


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keep two trials from using the same lab.

    :raises MipfedError: LOCKED while another one runs.
    """
    folder = paths.state_dir()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / f"{LAB}.lock").open("w") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MipfedError(ExitCode.LOCKED, "Another restore is being tried on this machine.") from None
        yield


def run(
    session: Session, file: Path, identity: Path, opened: Any, manifest: Mapping[str, Any], keys: Sequence[Any], note: Callable[..., None]
) -> tuple[dict[str, Any], list[Problem]]:
    """Restore a verified backup into a scratch lab and verify it there; the lab is removed in any case.

    :arg note: writes the result into the catalogue; not called when it could not be tried.
    :returns: ``ok``, ``steps`` and ``detail``; and what is wrong.
    :raises MipfedError: when it cannot be tried on this machine.
    """
    refuse_without_lab()
    stand_ins(manifest)
    problems: list[Problem] = []
    with _alone(), tempfile.TemporaryDirectory(prefix=f"{LAB}-", dir=paths.state_dir()) as private:
        folder = Path(private)
        then = inventory_of(manifest, opened, keys, folder / "then")
        trial = Trial(session, file, identity, folder)
        try:
            # What a killed trial left is in the way.
            trial.lab("lab_down")
            trial.run(manifest, then)
        except _Failed as error:
            # What they would have one do next is about a lab that is gone by then.
            problems = [replace(problem, next="") for problem in error.problems] or [Problem("restore-test", str(error))]
        finally:
            left = ""
            try:
                with trial.step("remove the lab"):
                    trial.lab("lab_down")
            except _Failed as error:
                left = f"the scratch lab could not be removed: {error}"
        if left:
            problems.append(Problem("lab-left", left, next=f"mipfed lab down --name {LAB}"))
    detail = "; ".join(problem.message for problem in problems)
    note(ok=not problems, detail=detail)
    return {"ok": not problems, "steps": trial.steps, "detail": detail}, problems
