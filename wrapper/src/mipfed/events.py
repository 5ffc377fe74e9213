# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run of Ansible did, gathered from ansible-runner's events. Pure: reads no file, prints nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mipfed.errors import Problem
from mipfed.exitcodes import BY_MIP_ERROR, ExitCode, decide

#: Events that end a task on a host, with the status that they stand for.
_ENDS = {
    "runner_on_ok": "ok",
    "runner_on_failed": "failed",
    "runner_on_unreachable": "unreachable",
    "runner_on_skipped": "skipped",
}
_ITEM_ENDS = {"runner_item_on_ok": "ok", "runner_item_on_failed": "failed"}
COUNTS = ("ok", "changed", "failed", "unreachable", "skipped", "ignored", "rescued")
_STATS = {"ok": "ok", "changed": "changed", "failures": "failed", "dark": "unreachable", "skipped": "skipped"}
_STATS |= {"ignored": "ignored", "rescued": "rescued"}

_LOCK = ("held", "mine", "holder", "nonce", "since", "expires", "expired", "rebooted", "notice")


@dataclass
class Host:
    """Progress and counts of one host."""

    name: str
    play: str = ""
    task: str = ""
    state: str = "waiting"
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))

    def as_dict(self) -> dict[str, Any]:
        """Return the host for JSON: `state` is ok, changed, failed, unreachable or waiting; then the counts of tasks."""
        return {"state": self.state, **self.counts}


@dataclass(frozen=True)
class Change:
    """Something that a task changed, or would change in check mode."""

    host: str
    task: str
    role: str
    action: str
    item: str = ""
    diff: str = ""
    message: str = ""

    def as_dict(self, *, with_diff: bool) -> dict[str, str]:
        """Return the change for JSON; diffs may hold file contents and are given only when asked for."""
        shown = {key: getattr(self, key) for key in ("host", "task", "role", "action", "item", "message")}
        return {**shown, "diff": self.diff} if with_diff else shown


@dataclass(frozen=True)
class Failure:
    """A task that failed on a host, or a host that could not be reached."""

    host: str
    task: str
    role: str
    message: str
    mip_error: str = ""
    unreachable: bool = False
    ignored: bool = False
    details: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One thing that happened, as shown in live progress and as a line of `-o jsonl`."""

    event: str
    play: str = ""
    task: str = ""
    role: str = ""
    host: str = ""
    status: str = ""
    item: str = ""
    message: str = ""
    seconds: float | None = None
    report: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the step for JSON, without the keys that do not apply."""
        return {key: value for key, value in vars(self).items() if value not in ("", None)}


def _first_lines(text: str, limit: int = 12) -> str:
    lines = [line.rstrip() for line in str(text).strip().splitlines() if line.strip()]
    return "\n".join(lines if len(lines) <= limit else [*lines[: limit // 2], "…", *lines[-limit // 2 :]])


def reason(res: Mapping[str, Any]) -> str:
    """Return why a task failed, from its result."""
    if res.get("censored"):
        return "the reason is hidden, because the task handles secrets (no_log)"
    message = re.sub(r"^(Task failed: |Module failed: )+", "", str(res.get("msg") or "").strip())
    if not message or message in ("MODULE FAILURE", "non-zero return code") or message.startswith("MODULE FAILURE"):
        streams = [str(res.get(key) or "").strip() for key in ("module_stderr", "stderr", "module_stdout", "stdout")]
        extra = next((stream for stream in streams if stream), str(res.get("exception") or "").strip())
        message = "\n".join(part for part in (message, _first_lines(extra)) if part)
    return _first_lines(message) or "the task gave no reason"


def _item(res: Mapping[str, Any]) -> str:
    label = res.get("_ansible_item_label", res.get("item", ""))
    if isinstance(label, Mapping):
        label = label.get("name") or label.get("path") or label.get("dest") or label
    return str(label) if label not in (None, "") else ""


def _as_text(value: Any) -> list[str]:
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return value.splitlines()
    import json

    return json.dumps(value, indent=2, sort_keys=True, default=str).splitlines()


def unified(diff: Any) -> str:
    """Return the diff of a result (a dictionary or a list of them) as unified text."""
    import difflib

    parts: list[str] = []
    for entry in diff if isinstance(diff, list) else [diff]:
        if not isinstance(entry, Mapping):
            continue
        if entry.get("prepared"):
            parts.append(str(entry["prepared"]).rstrip())
        if "before" in entry or "after" in entry:
            before, after = _as_text(entry.get("before")), _as_text(entry.get("after"))
            heads = [str(entry.get(f"{side}_header") or side) for side in ("before", "after")]
            lines = difflib.unified_diff(before, after, heads[0], heads[1], lineterm="")
            parts.append("\n".join(lines))
    return "\n".join(part for part in parts if part)


class Collector:
    """Takes the events of one run in order and keeps what the commands need."""

    def __init__(self, hosts: list[str] | None = None) -> None:
        self.hosts: dict[str, Host] = {name: Host(name) for name in hosts or []}
        self.failures: list[Failure] = []
        self.changes: list[Change] = []
        self.reports: dict[str, Any] = {}
        #: The last answer of hbp.mip.federation_lock, without Ansible's own keys.
        self.lock: dict[str, Any] | None = None
        #: Drained nodes, whose services hbp.mip.swarm_services did not wait for.
        self.resting: list[str] = []
        #: What hbp.mip.cde_consolidate would change in the metadata: the name of each file, and the difference as unified text.
        self.metadata: list[tuple[str, str]] = []
        self.durations: dict[str, float] = {}
        self.warnings: list[str] = []
        self.errors: list[str] = []
        self.play = ""
        self.finished = False
        self.processed: set[str] = set()
        self.no_hosts_matched = False
        self.pid = 0
        self._censored: dict[str, list[Step]] = {}
        self._item_failures: dict[tuple[str, str], list[str]] = {}
        self._item_changes: set[tuple[str, str]] = set()
        self._counted: dict[str, int] = {}
        #: Hosts that a task could not reach, with its step and whether another task began since. Ansible does not say whether that ends
        #: the host's part of the play (`ignore_unreachable`): it does unless the host starts another task.
        self._away: dict[str, tuple[Step, bool]] = {}

    def feed(self, event: Mapping[str, Any]) -> Iterator[Step]:
        """Take one event; yield the steps that it stands for."""
        kind = str(event.get("event", ""))
        data: Mapping[str, Any] = event.get("event_data") or {}
        self.pid = self.pid or int(event.get("pid") or 0)
        if kind == "playbook_on_play_start":
            yield from self._gone(at_once=True)
            self.play = str(data.get("name") or "")
            yield Step("play", play=self.play)
        elif kind == "playbook_on_task_start":
            yield from self._gone(at_once=False)
            yield Step("task", play=self.play, task=str(data.get("task") or data.get("name") or ""), role=str(data.get("role") or ""))
        elif kind == "runner_on_start":
            host = self._host(data)
            host.play, host.task = self.play, str(data.get("task") or "")
            yield from self._goes_on(host)
            if host.state in ("waiting", "ok", "changed"):
                host.state = "running"
        elif kind in _ENDS:
            yield from self._end(_ENDS[kind], data)
        elif kind in _ITEM_ENDS:
            yield from self._item_end(_ITEM_ENDS[kind], data)
        elif kind == "playbook_on_stats":
            self._stats(data)
            yield from self._gone(at_once=True)
        elif kind == "playbook_on_no_hosts_matched":
            self.no_hosts_matched = True
        elif kind in ("warning", "system_warning"):
            self._note(self.warnings, event)
        elif kind == "error":
            self._note(self.errors, event)

    @staticmethod
    def _note(kept: list[str], event: Mapping[str, Any]) -> None:
        text = re.sub(r"\x1b\[[0-9;]*m", "", str(event.get("stdout") or "")).strip()
        if text and text not in kept:
            kept.append(text)

    def _host(self, data: Mapping[str, Any]) -> Host:
        name = str(data.get("host") or "")
        return self.hosts.setdefault(name, Host(name))

    def _step(self, status: str, data: Mapping[str, Any], **more: Any) -> Step:
        seconds = data.get("duration")
        return Step(
            "host",
            play=str(data.get("play") or self.play),
            task=str(data.get("task") or ""),
            role=str(data.get("role") or ""),
            host=str(data.get("host") or ""),
            status=status,
            seconds=round(float(seconds), 3) if seconds is not None else None,
            **more,
        )

    def _item_end(self, status: str, data: Mapping[str, Any]) -> Iterator[Step]:
        res: Mapping[str, Any] = data.get("res") or {}
        key = (str(data.get("host")), str(data.get("task_uuid")))
        if status == "failed":
            label = _item(res)
            self._item_failures.setdefault(key, []).append(f"{label}: {reason(res)}" if label else reason(res))
        elif res.get("changed"):
            self._item_changes.add(key)
            self._change(data, res, _item(res))
            yield self._step("changed", {**data, "duration": None}, item=_item(res))

    def _change(self, data: Mapping[str, Any], res: Mapping[str, Any], item: str = "") -> None:
        self.changes.append(
            Change(
                host=str(data.get("host") or ""),
                task=str(data.get("task") or ""),
                role=str(data.get("role") or ""),
                action=str(data.get("resolved_action") or data.get("task_action") or ""),
                item=item,
                diff=unified(res.get("diff") or []),
                message=_first_lines(str(res.get("msg") or ""), 4),
            )
        )

    def _end(self, status: str, data: Mapping[str, Any]) -> Iterator[Step]:
        res: Mapping[str, Any] = data.get("res") or {}
        host = self._host(data)
        host.play, host.task = str(data.get("play") or self.play), str(data.get("task") or "")
        key = (host.name, str(data.get("task_uuid")))
        seconds = float(data.get("duration") or 0)
        role = str(data.get("role") or "")
        title = f"{role} : {host.task}" if role else host.task
        self.durations[title] = max(self.durations.get(title, 0.0), seconds)
        message = ""
        report = res.get("mip_report")
        if isinstance(report, Mapping):
            self.reports[str(report.get("verb") or "")] = report.get("data")
            yield Step("report", host=host.name, task=host.task, report=report)
        if str(data.get("resolved_action") or data.get("task_action")) == "hbp.mip.federation_lock" and "held" in res:
            self.lock = {name: res[name] for name in _LOCK if name in res}
        if str(data.get("resolved_action") or data.get("task_action")) == "hbp.mip.swarm_services":
            self.resting = [str(name) for name in res.get("resting") or self.resting]
        if str(data.get("resolved_action") or data.get("task_action")) == "hbp.mip.cde_consolidate" and res.get("diff"):
            # Whether something changed on the pusher says nothing about what the nodes are going to get.
            entries = res["diff"] if isinstance(res["diff"], list) else [res["diff"]]
            self.metadata = [(str(e.get("after_header") or e.get("before_header") or ""), text) for e in entries if (text := unified(e))]
        if status == "ok":
            if res.get("changed"):
                status = "changed"
                host.counts["changed"] += 1
                self._counted[host.name] = self._counted.get(host.name, 0) + 1
                if key not in self._item_changes:
                    self._change(data, res)
            elif "censored" in res:
                self._censored.setdefault(host.name, []).append(self._step("ok", data))
        elif status in ("failed", "unreachable"):
            ignored = bool(data.get("ignore_errors"))
            items = self._item_failures.get(key, [])
            message = "\n".join(items) if items else reason(res)
            self.failures.append(
                Failure(
                    host=host.name,
                    task=host.task,
                    role=role,
                    message=message,
                    mip_error=str(res.get("mip_error") or ""),
                    unreachable=status == "unreachable",
                    ignored=ignored,
                    details=tuple(str(entry) for entry in res.get("errors") or () if isinstance(res.get("errors"), list)),
                    data={name: res[name] for name in ("holder", "next", "mip_report", "problems") if name in res},
                )
            )
            if isinstance(report, Mapping):
                # What a report names is shown at the end, in full and with what to do.
                message = message.split("\n")[0]
            if ignored:
                status = "ignored"
        host.counts["ok" if status in ("changed", "ignored") else status] += 1
        if status == "ignored":
            host.counts["ignored"] += 1
        if status in ("failed", "unreachable"):
            host.state = status
        elif host.state not in ("failed", "unreachable"):
            host.state = "changed" if host.counts["changed"] else "ok"
        step = self._step(status, data, message=message)
        if status == "unreachable":
            yield from self._gone(at_once=True, name=host.name)
            self._away[host.name] = (step, False)
        else:
            yield step

    def _gone(self, *, at_once: bool, name: str = "") -> Iterator[Step]:
        """Yield the hosts that did not answer and have no part in what comes; at_once: without waiting for the task that begins."""
        for host, (step, waited) in list(self._away.items()):
            if name in ("", host):
                if at_once or waited:
                    del self._away[host]
                    # In the end Ansible's totals tell.
                    ignored = self.finished and not self.hosts[host].counts["unreachable"]
                    yield replace(step, status="ignored") if ignored else step
                else:
                    self._away[host] = (step, True)

    def _goes_on(self, host: Host) -> Iterator[Step]:
        """Take note that a host has a part in another task, whether or not the one before it could reach it."""
        step, _waited = self._away.pop(host.name, (None, False))
        if step is None:
            return
        last = max(index for index, failure in enumerate(self.failures) if failure.host == host.name)
        self.failures[last] = replace(self.failures[last], ignored=True)
        host.counts["unreachable"] -= 1
        host.counts["ok"] += 1
        host.counts["ignored"] += 1
        host.state = "changed" if host.counts["changed"] else "ok"
        yield replace(step, status="ignored")

    def _stats(self, data: Mapping[str, Any]) -> None:
        """Take Ansible's own totals: they know what was rescued, ignored and hidden."""
        self.finished = True
        self.processed = {str(name) for name in data.get("processed") or {}}
        for name in self.processed | set(self.hosts):
            host = self.hosts.setdefault(name, Host(name))
            for theirs, ours in _STATS.items():
                counts = data.get(theirs)
                host.counts[ours] = int(counts.get(name, 0)) if isinstance(counts, Mapping) else 0
            if name not in self.processed:
                host.state = "waiting"
            elif host.counts["failed"]:
                host.state = "failed"
            elif host.counts["unreachable"]:
                host.state = "unreachable"
            else:
                host.state = "changed" if host.counts["changed"] else "ok"
            hidden = host.counts["changed"] - self._counted.get(name, 0)
            steps = self._censored.get(name, [])
            if hidden > 0 and steps:
                # A no_log result says nothing, not even `changed`: the totals tell how many, and all could be it.
                tasks = " or ".join(dict.fromkeys(step.task for step in steps))
                self.changes.append(Change(name, tasks, steps[0].role, "", message="details are hidden (no_log)"))

    def final_failures(self) -> list[Failure]:
        """Return the failures that count: not those that were ignored, nor those that the playbook rescued."""
        kept = []
        for failure in self.failures:
            counts = self.hosts[failure.host].counts
            survived = self.finished and not (counts["unreachable"] if failure.unreachable else counts["failed"])
            if not failure.ignored and not survived:
                kept.append(failure)
        return kept

    def exit_code(self) -> ExitCode:
        """Derive the exit code from what happened to the hosts; INTERNAL when Ansible ended before it had run."""
        reasons: set[ExitCode] = set()
        for failure in self.final_failures():
            if failure.unreachable:
                reasons.add(ExitCode.UNREACHABLE)
            else:
                reasons.add(BY_MIP_ERROR.get(failure.mip_error, ExitCode.FAILED))
        for host in self.hosts.values():
            if host.counts["failed"] and not any(f.host == host.name and not f.unreachable for f in self.failures):
                reasons.add(ExitCode.FAILED)
            if host.counts["unreachable"]:
                reasons.add(ExitCode.UNREACHABLE)
        if self.finished and not self.processed:
            reasons.add(ExitCode.NO_HOSTS)
        if not self.finished and not reasons:
            return ExitCode.INTERNAL
        return decide(reasons)

    def slowest(self, count: int = 5) -> list[tuple[str, float]]:
        """Return the tasks that took longest on any one host, with seconds."""
        return sorted(self.durations.items(), key=lambda entry: -entry[1])[:count]


#: What ssh or sudo say, and what to do about it: `{mipfed}` is the program with its federation, `{h}` the host,
#: `{target}` user@address, `{port}` the option for a port other than 22, `{key}` the identity.
_HINTS = (
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED", "{mipfed} trust {h}   (first ask why the key changed)"),
    (r"Host key verification failed|No \S+ host key is known", "{mipfed} trust {h}"),
    (r"Permission denied", "ssh-copy-id{port} -f -i {key}.pub {target}   (or set mip_first_password in the vault)"),
    (r"Could not resolve hostname", "Correct ansible_host of {h} in the inventory"),
    (r"Connection refused|timed out|No route to host|unreachable", "ssh{port} -i {key} {target}   (is {h} switched on, and sshd running?)"),
    (
        r"[Mm]issing sudo password|password is required|[Ii]ncorrect sudo password",
        "Let {target} use sudo without a password, or put ansible_become_password into the vault",
    ),
)


#: The next command by what the failed task says about itself.
_NEXT = {"locked": "{mipfed} lock status", "configuration": "{mipfed} config show"}


def hint(message: str, facts: Mapping[str, str]) -> str:
    """Return the next command for a message of ssh or sudo; empty when it is none that we know."""
    return next((advice.format_map(facts) for pattern, advice in _HINTS if re.search(pattern, message)), "")


def report_problems(data: Any) -> list[Problem]:
    """Return the problems that a report names; a report's `fix` is the next thing to do."""
    entries = data.get("problems") if isinstance(data, Mapping) else None
    return [
        Problem(
            code=str(entry.get("code", "")),
            message=str(entry.get("message", "")),
            host=str(entry.get("node", "")),
            next=str(entry.get("fix") or ""),
        )
        for entry in entries or ()
        if isinstance(entry, Mapping)
    ]


def problems(collector: Collector, tips: Mapping[str, Mapping[str, str]], default: str) -> list[Problem]:
    """Turn the failures of a run into problems.

    :arg tips: by host, what the hints need (see `hint`).
    :arg default: the next command where nothing better is known; `{host}` and `{mipfed}` are replaced.
    """
    found = []
    for failure in collector.final_failures():
        code = "unreachable" if failure.unreachable else failure.mip_error or "failed"
        facts = tips.get(failure.host, {"mipfed": "mipfed -f NAME", "h": failure.host, "target": failure.host, "key": "", "port": ""})
        known = hint(failure.message, facts)
        usual = _NEXT.get(failure.mip_error, default)
        following = str(failure.data.get("next") or known or usual.replace("{host}", failure.host).replace("{mipfed}", facts["mipfed"]))
        task = f"{failure.role} : {failure.task}" if failure.role else failure.task
        report = failure.data.get("mip_report")
        judged = report.get("data") if isinstance(report, Mapping) else failure.data if failure.mip_error == "check" else None
        if named := report_problems(judged):
            found += named
            continue
        entries = failure.details if failure.mip_error == "configuration" and failure.details else (failure.message,)
        found += [Problem(code, entry, host=failure.host, task=task, next=following) for entry in entries]
    return found
