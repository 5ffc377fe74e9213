# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: pure functions that judge backups, restores, and what a broken swarm needs; see `_reports`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.hbp.mip.plugins.plugin_utils._problems import Problem, Report, problem

TITLES = {
    "backup": "The backup of federation {name} was not made, or is not whole:",
    "restore": "Federation {name} was not restored, or not wholly:",
    "recover": "Federation {name} needs to be recovered:",
}
#: Findings with which a manager is of no use for its swarm any more.
LOST = ("state-lost", "raft-damaged", "state-new", "engine-absent")


def backup(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Judge a backup that was made.

    :arg data: ``pusher``, ``begun`` and ``sealed`` (backup_set), ``summary`` (backup_summary).
    :returns: ``set``, its file or nothing; ``backup``, what it is; ``manager``; ``stopped_seconds``; ``missing``; ``removed``;
        ``problems``.
    """
    begun, sealed, summary = data["begun"], data["sealed"], data["summary"]
    again = f"mipfed -f {federation['name']} backup create"
    problems: list[Problem] = []
    if "set" not in begun:
        problems.append(problem(data["pusher"], "backup-not-begun", str(begun.get("msg", "no result")), again))
    elif "set" not in sealed:
        problems.append(
            problem(data["pusher"], "backup-not-made", f"{sealed.get('msg', 'no result')}. Earlier ones are as they were", again)
        )
    problems += [
        problem(entry["node"] or data["pusher"], f"backup-without-{entry['what']}", f"{entry['what']} is not in it: {entry['why']}", again)
        for entry in summary["missing"]
        if "set" in begun
    ]
    return {
        "set": sealed.get("set") or None,
        "backup": sealed.get("manifest"),
        "manager": summary["manager"],
        "stopped_seconds": summary["facts"]["stopped_seconds"],
        "missing": summary["missing"],
        "removed": sealed.get("removed", []),
        "problems": problems,
    }


def restore(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Judge a restore.

    :arg data: ``node``, the manager that was restored, ``manifest``, and what the tasks returned on it: ``state`` (swarm_snapshot),
        ``keystore`` (keystore_snapshot), ``cdes`` (file_snapshot), ``nodes`` (revived_nodes), ``failed``, the task that failed,
        ``rotated``, whether the tokens were replaced.
    :returns: ``node``, ``set``, ``cluster_id``, ``created``, ``aside``, ``restored``, ``keys``, ``files``, ``removed``, ``unknown``,
        ``away``, ``rotated``, ``problems``.
    """
    name, node = federation["name"], data["node"]
    problems: list[Problem] = []
    again = f"mipfed -f {name} restore FILE (a second run goes on)"
    if data["failed"]:
        problems.append(problem(node, "restore-failed", f"{data['failed']['task']}: {data['failed']['msg']}", again))
    if data["keystore"].get("msg"):
        problems.append(problem(node, "restore-keystore", f"the keystore's keys: {data['keystore']['msg']}", again))
    nodes = data.get("nodes") or {}
    for text in nodes.get("unknown", ()):
        problems.append(
            problem(
                node,
                "revived-node",
                f"{text} is a working member of the restored swarm and not in the inventory",
                "If it was removed: `docker swarm leave` on it, then on the manager `docker node rm` with its id; otherwise add it",
            )
        )
    for away in nodes.get("away", ()):
        problems.append(problem(away, "node-away", "has not returned to the restored swarm", f"mipfed -f {name} check -l {away}"))
    return {
        "node": node,
        "set": data.get("set"),
        "cluster_id": (data.get("manifest") or {}).get("cluster_id", ""),
        "created": (data.get("manifest") or {}).get("created", ""),
        "aside": (data.get("state") or {}).get("aside", ""),
        "restored": bool((data.get("state") or {}).get("changed")),
        "stopped_seconds": (data.get("state") or {}).get("stopped_seconds", 0),
        "keys": (data.get("keystore") or {}).get("written", []),
        "files": (data.get("cdes") or {}).get("written", []),
        "rotated": bool(data.get("rotated")),
        "removed": nodes.get("removed", []),
        "unknown": nodes.get("unknown", []),
        "away": nodes.get("away", []),
        "problems": problems,
    }


def _step(node: str, treatment: str, why: str) -> dict[str, str]:
    return {"node": node, "treatment": treatment, "why": why}


def plan_id(steps: Sequence[Mapping[str, str]]) -> str:
    """Return what tells one plan from another, so that only what was shown is done."""
    return hashlib.sha256(json.dumps([dict(step) for step in steps], sort_keys=True).encode()).hexdigest()[:12]


def recover(federation: Mapping[str, Any], data: Mapping[str, Any]) -> Report:
    """Judge what the members of the swarm told, and say what would be done about it.

    :arg data: ``nodes``, by node name, with ``found``, what swarm_recovery returned, and ``unlocked``, ``first``, ``second``,
        ``demotion`` and ``removal`` of what was done; ``recorded``, what is remembered of the swarm; ``sets``, the backups, oldest
        first. After a treatment also ``before``, the report that led to it, ``asked``, the plan that was wanted, and ``confirmed``.
    :returns: ``case``, one of C(well), C(locked), C(majority-lost), C(sole-manager-lost), C(managers-damaged), C(certificate-expired),
        C(foreign-swarm), C(engines-stopped), C(workers), C(unreachable); ``explanation``; ``nodes`` with their findings; ``steps``, what
        would be done, each ``{node, treatment, why}``; ``plan``, their id; ``next``; ``problems``.
    """
    answers: Mapping[str, Mapping[str, Any]] = data["nodes"]
    found: dict[str, Mapping[str, Any]] = {node: a["found"] for node, a in answers.items() if "finding" in a.get("found", {})}
    name, recorded = federation["name"], {"cluster_id": "", **data["recorded"]}
    members = [node for node in federation["nodes"] if node["kind"] != "ui"]
    managers = [node["name"] for node in members if node["manager"]]
    workers = [node["name"] for node in members if not node["manager"]]
    answered = [manager for manager in managers if manager in found]
    of = {member["name"]: str((found.get(member["name"]) or {}).get("finding") or "unreachable") for member in members}
    sets = [entry for entry in data["sets"] if not recorded["cluster_id"] or entry["cluster_id"] == recorded["cluster_id"]]
    case, explanation, steps, following = "well", "Nothing is wrong with the swarm.", [], ""

    def having(*findings: str, among: Sequence[str] = ()) -> list[str]:
        return [member for member in (among or of) if of[member] in findings]

    working = having("ok", "manager-down", among=managers) if any(of[m] in ("ok", "manager-down") for m in managers) else []
    working = [manager for manager in working if found[manager]["local_state"] == "manager"]
    needed = len(managers) // 2 + 1
    if having("foreign-swarm"):
        case = "foreign-swarm"
        others = sorted({str(found[member]["node"].get("cluster_id")) for member in having("foreign-swarm")})
        explanation = (
            f"The federation's swarm is {recorded['cluster_id']}, and {', '.join(having('foreign-swarm'))} "
            f"{'is' if len(having('foreign-swarm')) == 1 else 'are'} in {', '.join(others)}. Which is right is not for a program to decide."
        )
        if len(others) == 1 and all(of[manager] == "foreign-swarm" for manager in managers):
            steps = [_step("", "accept", f"all managers are in {others[0]}; it becomes the federation's, and nothing else is changed")]
        else:
            following = "Let the hosts leave the foreign swarm (docker swarm leave), or correct the inventory"
    elif having("locked", among=managers):
        case, explanation = "locked", "The swarm uses autolock, and these managers were restarted. They need the unlock key."
        steps = [_step(manager, "unlock", found[manager]["message"]) for manager in having("locked", among=managers)]
    elif not working and len(having("engine-stopped", "no-quorum", among=managers)) >= needed and having("engine-stopped", among=managers):
        case = "engines-stopped"
        explanation = "Managers are only stopped. Started, they make a majority again; nothing has to be forced."
        following = "; ".join(f"on {manager}: systemctl start docker" for manager in having("engine-stopped", among=managers))
    elif (
        not working
        and having("no-quorum", "certificate-expired", among=managers)
        and (len(managers) > 1 or having("certificate-expired", among=managers))
    ):
        case = "majority-lost" if having("no-quorum", among=managers) else "certificate-expired"
        candidates = having("no-quorum", among=managers) or having("certificate-expired", among=managers)
        chosen = candidates[0]
        others = [manager for manager in managers if manager != chosen]
        explanation = f"{found[chosen]['message']}. {chosen} can go on as the only manager. Containers keep running. " + (
            f"The other managers ({', '.join(others)}) are no members any more, and must not come back with what they have: one that "
            "runs somewhere with a majority would make a second swarm. Their state is set aside where they answer."
            if others
            else "Its certificate is renewed."
        )
        steps = [_step(chosen, "force_new_cluster", found[chosen]["message"])]
        steps += [_step(other, "discard", "no member any more; a deploy joins it again") for other in others]
    elif not working and (set(answered) == set(managers)) and all(of[manager] in (*LOST, "error") for manager in managers):
        case = "sole-manager-lost"
        explanation = f"No manager has the state of the swarm any more ({found[managers[0]]['message']})."
        if sets:
            key = "" if federation["backup"].get("identity") else " --identity FILE"
            following = f"mipfed -f {name} restore {sets[-1]['file']}{key}"
            explanation += f" There is a backup of {sets[-1]['created']}; restoring it is what keeps the swarm."
        else:
            explanation += " There is no backup of it here. The swarm can only be built anew; data on the nodes stay where they are."
            steps = [_step(manager, "set_aside", found[manager]["message"]) for manager in managers if of[manager] != "state-lost"]
            steps += [
                _step(worker, "leave", "its swarm is gone for good")
                for worker in workers
                if worker in found and found[worker]["local_state"] not in ("none", "stopped")
            ]
            steps.append(_step("", "forget", "a deploy may make a new swarm"))
    elif having(*LOST, "error", "certificate-expired", among=managers) and working:
        damaged = having(*LOST, "error", "certificate-expired", among=managers)
        case = "managers-damaged"
        explanation = f"{', '.join(damaged)} lost what a manager needs; {', '.join(working)} still works. It joins again as a new one."
        steps = [_step(manager, "set_aside", found[manager]["message"]) for manager in damaged if of[manager] != "state-lost"]
        steps += [_step(manager, "remove", f"the old member; on {working[0]}") for manager in damaged]
    elif having("certificate-expired", "error", "pending", among=workers) and working:
        damaged = having("certificate-expired", "error", "pending", among=workers)
        case, explanation = "workers", f"{', '.join(damaged)} cannot go on as members; they leave, and a deploy joins them again."
        for worker in damaged:
            steps += [_step(worker, "leave", found[worker]["message"]), _step(worker, "remove", f"the old member; on {working[0]}")]
    elif not working and not answered:
        case, explanation = "unreachable", f"No manager answers over SSH: {', '.join(managers)}."
        following = (
            f"Start them or their network. If they are lost for good, put new hosts in their place (same address) and: {name} recover"
        )
    elif not working:
        away = [manager for manager in managers if manager not in found]
        case = "unreachable"
        explanation = f"No manager works. {', '.join(away) or 'All'} did not answer, so that it cannot be told whether a majority is left."
        following = f"mipfed -f {name} check -l {','.join(away or managers)}"
    if steps and not following:
        following = f"mipfed -f {name} deploy" if case not in ("locked", "foreign-swarm") else f"mipfed -f {name} status"
    forced = [step["node"] for step in steps if step["treatment"] in ("force_new_cluster", "unlock")]
    actor = next((manager for manager in (*forced, *working, *answered) if manager in found), managers[0])
    nodes = [
        {
            "name": member["name"],
            "manager": member["manager"],
            "finding": of[member["name"]],
            "message": str((found.get(member["name"]) or {}).get("message") or "does not answer over SSH"),
            "state": str((found.get(member["name"]) or {}).get("local_state") or ""),
            "treatment": ", ".join(step["treatment"] for step in steps if step["node"] == member["name"]),
        }
        for member in members
    ]
    problems: list[Problem] = []
    if case != "well":
        where = next((entry["name"] for entry in nodes if entry["finding"] not in ("ok",)), managers[0])
        problems.append(problem(where, f"recover-{case}", explanation, following))
    for node, result in answers.items():
        problems += [
            problem(node, f"recover-{key}", str(result[key]["msg"]), f"mipfed -f {name} recover")
            for key in ("unlocked", "first", "second", "demotion", "removal")
            if result.get(key, {}).get("msg")
        ]
    before = data.get("before") or {}
    done = bool(data.get("confirmed") and data.get("asked") and data["asked"] == before.get("plan") and before.get("steps"))
    if data.get("asked") and not done:
        why = "the federation's name was not given" if not data.get("confirmed") else "what is wrong is not what was shown any more"
        problems.insert(0, problem(managers[0], "recover-refused", f"Nothing was done: {why}.", f"mipfed -f {name} recover"))
    if done and case == "sole-manager-lost" and not recorded["cluster_id"]:
        # Forgotten on request: a deploy goes on from here.
        problems = [entry for entry in problems if entry["code"] != "recover-sole-manager-lost"]
    return {
        "case": case,
        "explanation": explanation,
        "nodes": nodes,
        "steps": steps,
        "plan": plan_id(steps),
        "next": following,
        "cluster_id": recorded["cluster_id"],
        "actor": actor,
        "done": done,
        "treated": before.get("steps", []) if done else [],
        "problems": problems,
    }


REPORTS = {"backup": backup, "restore": restore, "recover": recover}
