#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_recovery
short_description: Find out what is wrong with a node's membership of the swarm, and treat it
version_added: 0.3.0
description:
  - Tells a locked manager, a lost majority, a damaged raft log, a state that was begun anew, an expired certificate and a foreign swarm
    from each other, also when the engine does not run.
  - Treats only what it is told to with O(treatment), and only when that is what it finds. No treatment deletes a file.
extends_documentation_fragment:
  - hbp.mip.engine
author:
  - The hbp.mip authors (@HBPMedical)
options:
  treatment:
    description:
      - V(none) only looks.
      - V(unlock) unlocks a locked manager with O(unlock_key).
      - V(force_new_cluster) makes this manager the only one of its swarm. The other managers are removed from it. For a majority
        that is lost for good, and for a sole manager whose certificate expired. The swarm's directory is copied beforehand.
      - V(set_aside) moves the swarm's directory away while the engine is stopped, so that the node is in no swarm.
      - V(leave) makes a worker leave a swarm that is gone.
    type: str
    choices: [none, unlock, force_new_cluster, set_aside, leave]
    default: none
  cluster_id:
    description:
      - The swarm that this node belongs to as the federation remembers it. Empty when it remembers none.
    type: str
    default: ""
  recorded_at:
    description:
      - When the federation took note of that swarm, as C(2026-11-22T10:00:00Z). A swarm with the same ID that began later is another.
    type: str
    default: ""
  manager:
    description:
      - Is this node a manager in the inventory?
    type: bool
    default: false
  abandon:
    description:
      - Let V(leave) also be done by a worker with which nothing is wrong, since its swarm is gone for good.
    type: bool
    default: false
  unlock_key:
    description:
      - The key that unlocks the managers.
    type: str
  service:
    description:
      - Name of the engine's systemd units, C(.service) and C(.socket).
    type: str
    default: docker
  timeout:
    description:
      - Seconds within which a treatment must have succeeded.
    type: int
    default: 120
attributes:
  check_mode:
    description: Looks, and says what would be done.
    support: full
  diff_mode:
    description: Shows the state of the node before and after.
    support: full
  idempotent:
    description: A treatment that is not needed any more does nothing.
    support: full
seealso:
  - module: hbp.mip.swarm_snapshot
"""

EXAMPLES = r"""
- name: Find out what is wrong
  hbp.mip.swarm_recovery:
    cluster_id: "{{ recorded.cluster_id }}"
    manager: true
  register: found
"""

RETURN = r"""
finding:
  description: What is wrong, as a code; V(ok) when nothing is.
  returned: always
  type: str
  choices: [ok, engine-absent, engine-stopped, locked, no-quorum, raft-damaged, state-lost, state-new, certificate-expired, foreign-swarm,
            pending, error, manager-down]
message:
  description: The finding in words.
  returned: always
  type: str
treatments:
  description: The treatments that fit the finding.
  returned: always
  type: list
  elements: str
local_state:
  description: What the node is now, as M(hbp.mip.swarm_info) tells it; V(stopped) when the engine does not run.
  returned: always
  type: str
node:
  description: Swarm, node, address, role and end of the certificate of this node, and the managers that it knows.
  returned: always
  type: dict
nodes:
  description: The nodes of the swarm, from a manager that works.
  returned: always
  type: list
  elements: dict
aside:
  description: Where the swarm's directory was copied or moved to.
  returned: always
  type: str
"""

import calendar
import glob
import os
import re
import time
from typing import Any, Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _snapshot, _swarm
from ansible_collections.hbp.mip.plugins.module_utils._engine import (
    EngineError,
    EngineMissing,
    connect,
    engine_call,
    hide_secrets,
    post_json,
    wait_until,
)

#: What the engine says about a raft log that it cannot use.
DAMAGED = re.compile(
    r"wal: [a-z ]*(?:crc|mismatch|corrupt|unexpected)|irreparable WAL|WAL error cannot be repaired|max entry size limit exceeded"
    r"|tocommit\(\d+\) is out of range|failed to (?:load|open|read) WAL|snap: |unexpected EOF|can't initialize raft node"
    r"|no decryption|error unmarshal|proto: ",
    re.IGNORECASE,
)
_LEAVE_SECONDS = 60
#: Clocks of controller and node may differ.
_CLOCKS_SECONDS = 120


class Refused(Exception):
    """The treatment does not fit what was found."""


def raft_log(root_dir: str) -> str:
    """What is wrong with the files of a manager's raft log; empty when they look as they should."""
    folder = os.path.join(root_dir, "swarm", "raft", "wal-v3-encrypted")
    logs = glob.glob(os.path.join(folder, "*.wal"))
    if not logs:
        return "%s has no log" % folder
    empty = [path for path in logs if os.path.getsize(path) < 8]
    if empty:
        return "%s is empty" % empty[0]
    return ""


def judge(
    local: _swarm.LocalState, wal: str, journal: str, nodes: List[Dict[str, Any]], recorded: Dict[str, Any], now: float
) -> Tuple[str, str]:
    """The finding about a node whose engine answers, and its message."""
    wanted = str(recorded["cluster_id"])
    if local.state == _swarm.NONE:
        if recorded["manager"] and wanted:
            return "state-lost", "this manager is in no swarm, and the federation's is %s: its state was lost" % wanted
        return ("state-lost", "this node is in no swarm; a deploy joins it") if wanted else ("ok", "in no swarm, as the federation is")
    if wanted and local.cluster_id and local.cluster_id != wanted:
        return "foreign-swarm", "this node is in the swarm %s; the federation's is %s" % (local.cluster_id, wanted)
    if local.state == _swarm.LOCKED:
        return "locked", "this manager is locked: its swarm uses autolock and the engine was restarted"
    expired = local.certificate and local.certificate.not_after < now
    if expired or "certificate has expired" in local.error or "certificates have expired" in local.error:
        until = _swarm.iso_time(local.certificate.not_after) if local.certificate else local.error
        return "certificate-expired", "the certificate of this node expired (%s)" % until
    if local.role == _swarm.MANAGER and wal:
        return "raft-damaged", "the raft log of this manager is damaged: %s" % wal
    if (
        local.role == _swarm.MANAGER
        and local.state in (_swarm.NO_QUORUM, _swarm.ERROR, _swarm.PENDING)
        and DAMAGED.search("%s %s" % (local.error, journal))
    ):
        found = DAMAGED.search("%s %s" % (local.error, journal))
        return "raft-damaged", "the raft log of this manager is damaged: the engine says %r" % (found.group(0) if found else "")
    if local.state == _swarm.NO_QUORUM:
        return "no-quorum", "the swarm has lost the majority of its managers (known: %s)" % (", ".join(local.managers) or "none")
    if local.state == _swarm.PENDING:
        return "pending", "this node has begun to join a swarm and has not finished%s" % (": %s" % local.error if local.error else "")
    if local.state == _swarm.ERROR:
        return "error", "the swarm part of this engine failed: %s" % local.error
    created = str(local.cluster.get("CreatedAt") or "")
    if local.state == _swarm.MANAGER and wanted and began_later(created, str(recorded["recorded_at"])):
        return (
            "state-new",
            "this manager's swarm has the id of the federation's, but was begun anew at %s: nodes and services are lost" % created,
        )
    down = [node for node in nodes if node["role"] == _swarm.MANAGER and node["reachability"] != "reachable"]
    if down:
        return "manager-down", "of %d managers these do not work: %s" % (
            sum(node["role"] == _swarm.MANAGER for node in nodes),
            ", ".join(node["name"] or node["hostname"] for node in down),
        )
    return "ok", "%s of the swarm %s" % (local.state, local.cluster_id)


def began_later(created: str, recorded_at: str) -> bool:
    """Whether a swarm was created after somebody took note of it, which only a new one is. Clocks may differ by minutes."""
    try:
        seconds = [calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")) for text in (created, recorded_at)]
    except ValueError:
        return False
    return seconds[0] > seconds[1] + _CLOCKS_SECONDS


def treatments(finding: str, role: str, sole: bool) -> List[str]:
    """What can be done on the node itself about a finding."""
    manager = role == _swarm.MANAGER
    return {
        "locked": ["unlock"],
        "no-quorum": ["force_new_cluster", "set_aside"],
        "certificate-expired": (["force_new_cluster"] if sole else ["set_aside"]) if manager else ["leave"],
        "raft-damaged": ["set_aside"],
        "state-new": ["set_aside"],
        "error": ["set_aside"] if manager else ["leave"],
        "pending": ["leave"],
        "engine-stopped": [],
    }.get(finding, [])


class Recovery:
    """One run of the module."""

    def __init__(self, params: Dict[str, Any]) -> None:
        self.params = params
        self.service = _snapshot.Service(params["service"])
        self.root_dir = "/var/lib/docker"
        self.started_with: Dict[str, Any] = {}

    def client(self) -> Any:
        """The engine."""
        return connect(self.params["docker_host"], float(self.params["engine_timeout"]))

    def look(self) -> Dict[str, Any]:
        """Everything the module returns about the node now."""
        recorded = {key: self.params[key] for key in ("cluster_id", "recorded_at", "manager")}
        try:
            client = self.client()
            with engine_call("read the state of the engine"):
                info = client.info()
        except EngineMissing as error:
            return self._without_engine(str(error))
        except EngineError as error:
            return self._answer("engine-stopped", "the engine does not answer: %s" % error, "stopped", {}, [])
        self.root_dir = str(info.get("DockerRootDir") or self.root_dir)
        certificate, self.started_with = _swarm.read_certificate(self.root_dir), _swarm.read_start_config(self.root_dir)
        local = _swarm.classify(info, certificate, self.started_with)
        nodes: List[Dict[str, Any]] = []
        if local.state == _swarm.MANAGER:
            try:
                with engine_call("list the nodes of the swarm"):
                    nodes = [_swarm.node_summary(node) for node in client.nodes()]
            except EngineError as error:
                local = local._replace(state=_swarm.NO_QUORUM, error=str(error))
        wal = raft_log(self.root_dir) if local.role == _swarm.MANAGER and local.state != _swarm.NONE else ""
        journal = self.service.why() if local.state in (_swarm.ERROR, _swarm.NO_QUORUM, _swarm.PENDING) else ""
        finding, message = judge(local, wal, journal, nodes, recorded, time.time())
        public = local.public()
        public["sole"] = len(local.managers) <= 1
        return self._answer(finding, message, local.state, public, nodes)

    def _without_engine(self, why: str) -> Dict[str, Any]:
        """The finding about a node whose engine does not run: from its files and its journal."""
        certificate = _swarm.read_certificate(self.root_dir)
        public: Dict[str, Any] = {"role": certificate.role, "cluster_id": certificate.cluster_id} if certificate else {}
        if not os.path.isdir(self.root_dir):
            return self._answer("engine-absent", "there is no engine on this host", "stopped", public, [])
        manager = bool(certificate and certificate.role == _swarm.MANAGER)
        wal = raft_log(self.root_dir) if manager else ""
        found = DAMAGED.search(self.service.why()) if manager else None
        if wal or found:
            evidence = wal or ("it says %r" % found.group(0) if found else "")
            message = "the engine does not run, and the raft log of this manager is damaged: %s" % evidence
            return self._answer("raft-damaged", message, "stopped", public, [])
        return self._answer("engine-stopped", why, "stopped", public, [])

    @staticmethod
    def _answer(finding: str, message: str, state: str, node: Dict[str, Any], nodes: List[Dict[str, Any]]) -> Dict[str, Any]:
        role, sole = str(node.get("role") or ""), bool(node.get("sole", True))
        return {
            "finding": finding,
            "message": hide_secrets(message),
            "treatments": treatments(finding, role, sole),
            "local_state": state,
            "node": node,
            "nodes": nodes,
            "aside": "",
        }

    def treat(self, before: Dict[str, Any]) -> str:
        """Carry out the treatment; returns where the swarm's directory was copied or moved to."""
        treatment = self.params["treatment"]
        if treatment == "unlock":
            return self._unlock()
        if treatment == "leave":
            with engine_call("leave the swarm"):
                connect(self.params["docker_host"], max(_LEAVE_SECONDS, self.params["engine_timeout"])).leave_swarm(force=True)
            return ""
        swarm = os.path.join(self.root_dir, "swarm")
        aside = "%s.before-%s" % (swarm, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))
        if treatment == "set_aside":
            if not os.path.isdir(swarm):
                return ""
            with self.service.stopped("set the swarm's state aside"):
                os.rename(swarm, aside)
            return aside
        _snapshot.need_space(self.root_dir, _snapshot.tree_size(swarm))
        # Without a majority nothing is added to the log, so that a copy of a running manager is whole.
        _snapshot.copy_tree(swarm, aside)
        own = str(before["node"].get("node_addr") or "")
        body = {
            "ListenAddr": self.started_with.get("ListenAddr") or "0.0.0.0:2377",
            "AdvertiseAddr": self.started_with.get("AdvertiseAddr") or own,
            "DataPathAddr": self.started_with.get("DataPathAddr") or "",
            "ForceNewCluster": True,
        }
        with engine_call("make this manager the only one of its swarm"):
            post_json(connect(self.params["docker_host"], max(60, self.params["engine_timeout"])), "/swarm/init", body)
        _snapshot.forget_managers(self.client, self.params["timeout"])
        return aside

    def _unlock(self) -> str:
        key = str(self.params["unlock_key"] or "").strip()
        if not key:
            raise Refused("this manager is locked, and no key was given. Nothing was changed. Next: give the unlock key")
        with engine_call("unlock this manager"):
            self.client().unlock_swarm(key)
        return ""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "treatment": {"type": "str", "choices": ["none", "unlock", "force_new_cluster", "set_aside", "leave"], "default": "none"},
            "cluster_id": {"type": "str", "default": ""},
            "recorded_at": {"type": "str", "default": ""},
            "manager": {"type": "bool", "default": False},
            "abandon": {"type": "bool", "default": False},
            "unlock_key": {"type": "str", "no_log": True},
            "service": {"type": "str", "default": "docker"},
            "timeout": {"type": "int", "default": 120},
            "docker_host": {"type": "str", "default": "unix:///var/run/docker.sock"},
            "engine_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    recovery = Recovery(module.params)
    treatment = module.params["treatment"]
    found: Dict[str, Any] = {}
    try:
        found = recovery.look()
        abandoned = treatment == "leave" and module.params["abandon"] and found["local_state"] != _swarm.NONE
        if treatment == "none" or (found["finding"] == "ok" and not abandoned):
            module.exit_json(changed=False, **found)
        if found["finding"] == "state-lost" and treatment in ("set_aside", "leave"):
            module.exit_json(changed=False, **found)
        if treatment not in found["treatments"] and not (abandoned and found["node"].get("role") != _swarm.MANAGER):
            raise Refused(
                "%s is no treatment for what was found (%s: %s). Nothing was changed" % (treatment, found["finding"], found["message"])
            )
        shown: Dict[str, Any] = {"before": {key: found[key] for key in ("finding", "local_state")}, "after": {}}
        if module.check_mode:
            module.exit_json(changed=True, diff=shown, **found)
        aside = recovery.treat(found)
        after: Dict[str, Any] = {}

        def treated() -> bool:
            after.update(recovery.look())
            return after["finding"] in ("ok", "manager-down") or (
                treatment in ("set_aside", "leave") and after["local_state"] == _swarm.NONE
            )

        if not wait_until(treated, module.params["timeout"], longest=2.0):
            raise EngineError(
                "%s was done, and after %d s the node is still not well (%s)%s"
                % (treatment, module.params["timeout"], after["message"], ". What was there before is in %s" % aside if aside else "")
            )
        shown["after"] = {key: after[key] for key in ("finding", "local_state")}
        after["aside"] = aside
        module.exit_json(changed=True, diff=shown, **after)
    except Refused as error:
        module.fail_json(msg=str(error), **found)
    except (EngineError, _snapshot.SnapshotError) as error:
        module.fail_json(msg=hide_secrets(str(error)), **found)
    except OSError as error:
        module.fail_json(msg="%s: %s" % (error.filename or "the swarm's directory", error.strerror or error), **found)


if __name__ == "__main__":
    main()
