#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_snapshot
short_description: Copy a manager's state of the swarm, or put it back
version_added: 0.3.0
description:
  - With O(state=created) the engine of this manager is stopped while its swarm directory is copied, which takes a second or two, and
    started again. That happens also when the module is killed in between. Containers of the services on this host stop meanwhile.
  - With O(state=restored) everything is checked first. Then the engine is stopped, what it has is moved aside, the copy takes its place,
    and the engine is started. Nothing is deleted. When the engine does not become a manager with it, what was there before is put back.
  - The archive holds every secret of the swarm. It is readable for root only, and belongs into an encrypted backup.
extends_documentation_fragment:
  - hbp.mip.engine
author:
  - The hbp.mip authors (@HBPMedical)
options:
  state:
    description:
      - What to do.
    type: str
    choices: [created, restored]
    default: created
  directory:
    description:
      - Folder for the archive C(swarm.tar.gz), made with mode 0700. When the swarm uses autolock, the unlock key is in
        C(swarm-unlock-key) beside it.
    type: path
    required: true
  cluster_id:
    description:
      - ID of the swarm that this manager must be in, or that the copy must be of.
    type: str
  sha256:
    description:
      - Digest that the archive must have, with O(state=restored).
    type: str
  engine_version:
    description:
      - Version of the engine that the copy is of, with O(state=restored). An older engine is refused.
    type: str
  force_new_cluster:
    description:
      - Make this manager the only one of its swarm, with O(state=restored), and remove the others from it.
      - Needed when the copy is of a swarm of several managers, whose others are lost as well.
    type: bool
    default: false
  replace:
    description:
      - Replace the state of a manager that works, with O(state=restored). Otherwise only what is broken, empty or missing is replaced.
    type: bool
    default: false
  service:
    description:
      - Name of the engine's systemd units, C(.service) and C(.socket).
    type: str
    default: docker
  timeout:
    description:
      - Seconds within which the node must be a working manager again.
    type: int
    default: 180
attributes:
  check_mode:
    description: Makes every check and reports what would be done.
    support: full
  diff_mode:
    description: The state of a swarm is secret and is not shown; a restore shows the membership before and after.
    support: partial
  idempotent:
    description: A copy is made each time. A restore does nothing when this manager works in the swarm of the copy, unless O(replace).
    support: partial
seealso:
  - module: hbp.mip.swarm_recovery
  - module: hbp.mip.backup_part
"""

EXAMPLES = r"""
- name: Copy the state of the swarm
  hbp.mip.swarm_snapshot:
    directory: /var/lib/mip/lab/backup
  register: snapshot

- name: Put it back
  hbp.mip.swarm_snapshot:
    state: restored
    directory: /var/lib/mip/lab/restore
    cluster_id: "{{ manifest.cluster_id }}"
    sha256: "{{ member.sha256 }}"
"""

RETURN = r"""
archive:
  description: The archive, with C(path), C(size), C(sha256) and C(files).
  returned: O(state=created), not in check mode
  type: dict
unlock_key:
  description: The file with the unlock key, in the form of RV(archive) without C(files). Empty when the swarm does not use autolock.
  returned: O(state=created), not in check mode
  type: dict
stopped_seconds:
  description: How long the engine was stopped.
  returned: not in check mode
  type: float
swarm:
  description: ID of the swarm, node, address and engine version, number of managers, end of the node's certificate.
  returned: success
  type: dict
aside:
  description: Where what was there before the restore is now. Empty when there was nothing.
  returned: O(state=restored)
  type: str
"""

import json
import os
import shutil
import socket
import time
from typing import Any, Dict, List, Optional, Tuple

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _snapshot, _swarm
from ansible_collections.hbp.mip.plugins.module_utils._engine import EngineError, connect, engine_call, hide_secrets, post_json, wait_until

ARCHIVE = "swarm.tar.gz"
UNLOCK_KEY = "swarm-unlock-key"
#: Without these nothing can be brought back.
NEEDED = ("docker-state.json", "certificates/swarm-node.crt", "certificates/swarm-node.key", "certificates/swarm-root-ca.crt")


class Refused(Exception):
    """A check failed before anything was touched."""


def numbers(version: str) -> Tuple[int, ...]:
    """The numbers at the beginning of a version."""
    found: List[int] = []
    for part in version.replace("-", ".").replace("+", ".").split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)


def has_address(address: str) -> bool:
    """Whether `address` is one of this host."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def check_margin(nodes: List[Dict[str, Any]], own: str) -> None:
    """Raise `Refused` when stopping this manager would cost the swarm its majority."""
    managers = [node for node in nodes if node["role"] == _swarm.MANAGER]
    working = [node for node in managers if node["reachability"] == "reachable" and node["id"] != own]
    if len(managers) > 2 and len(working) < len(managers) // 2 + 1:
        away = ", ".join(node["name"] or node["hostname"] for node in managers if node["reachability"] != "reachable")
        raise Refused(
            "a manager is away already (%s), and stopping this one as well would cost the swarm its majority. Nothing was changed. "
            "Bring it back, or remove it, first" % away
        )


class Snapshot:
    """One run of the module."""

    def __init__(self, params: Dict[str, Any], check_mode: bool) -> None:
        self.params = params
        self.check_mode = check_mode
        self.service = _snapshot.Service(params["service"])
        self.archive = os.path.join(params["directory"], ARCHIVE)
        self.root_dir = "/var/lib/docker"

    def client(self) -> Any:
        """The engine."""
        return connect(self.params["docker_host"], float(self.params["engine_timeout"]))

    def state(self) -> _swarm.LocalState:
        """What this node is now."""
        client = self.client()
        with engine_call("read the state of the engine"):
            info = client.info()
        self.root_dir = str(info.get("DockerRootDir") or self.root_dir)
        self.version = str(info.get("ServerVersion") or "")
        return _swarm.classify(info, _swarm.read_certificate(self.root_dir), _swarm.read_start_config(self.root_dir))

    def wait_for_manager(self, key: str) -> _swarm.LocalState:
        """Wait until this node is a working manager, unlocking it with `key` where that is needed."""
        last: List[_swarm.LocalState] = []

        def works() -> bool:
            try:
                last[:] = [self.state()]
                if last[0].state == _swarm.LOCKED and key:
                    with engine_call("unlock this manager"):
                        self.client().unlock_swarm(key)
                    return False
                if last[0].state != _swarm.MANAGER:
                    return False
                with engine_call("list the nodes of the swarm"):
                    self.client().nodes()
            except EngineError:
                return False
            return True

        if not wait_until(works, self.params["timeout"], longest=2.0):
            told = ("%s %s" % (last[0].state, last[0].error)).strip() if last else "the engine does not answer"
            raise EngineError(
                "this node is no working manager %d s after the engine was started (%s). Next: mipfed recover, which tells why"
                % (self.params["timeout"], told)
            )
        return last[0]

    def describe(self, local: _swarm.LocalState, managers: int) -> Dict[str, Any]:
        """What the manifest says about the swarm."""
        return {
            "cluster_id": local.cluster_id,
            "created": str(local.cluster.get("CreatedAt") or ""),
            "node_id": local.node_id,
            "node_addr": local.node_addr,
            "engine_version": self.version,
            "managers": managers,
            "certificate_expires": _swarm.iso_time(local.certificate.not_after) if local.certificate else "",
        }

    def create(self) -> Dict[str, Any]:
        """Copy the state."""
        local = self.state()
        _swarm.require_manager(local, self.params["cluster_id"])
        client = self.client()
        with engine_call("list the nodes of the swarm"):
            nodes = [_swarm.node_summary(node) for node in client.nodes()]
        check_margin(nodes, local.node_id)
        described = self.describe(local, sum(node["role"] == _swarm.MANAGER for node in nodes))
        described["autolock"] = bool(((local.cluster.get("Spec") or {}).get("EncryptionConfig") or {}).get("AutoLockManagers"))
        key = ""
        if described["autolock"]:
            # The manager is locked as soon as its engine is stopped.
            with engine_call("read the unlock key"):
                key = str(client.get_unlock_key().get("UnlockKey") or "")
        swarm = os.path.join(self.root_dir, "swarm")
        _snapshot.need_space(self.root_dir, 2 * _snapshot.tree_size(swarm))
        if self.check_mode:
            return {"changed": True, "swarm": described, "msg": "would stop the engine and copy %s" % swarm}
        folder = _snapshot.private_folder(self.params["directory"])
        copy = os.path.join(self.root_dir, "mip-swarm-copy")
        shutil.rmtree(copy, ignore_errors=True)
        try:
            with self.service.stopped("copy of the swarm's state") as stop:
                _snapshot.copy_tree(swarm, copy)
                stop.check()
            stopped = time.monotonic() - stop.began
            self.wait_for_manager(key)
            archive = _snapshot.pack(copy, _snapshot.walk(copy), self.archive)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        result = {"changed": True, "swarm": described, "archive": archive, "unlock_key": {}, "stopped_seconds": round(stopped, 2)}
        if key:
            path = os.path.join(folder, UNLOCK_KEY)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(handle, "w", encoding="ascii") as stream:
                stream.write(key)
            result["unlock_key"] = {"path": path, "size": len(key), "sha256": _snapshot.digest(path)}
        return result

    def check_restore(self) -> Tuple[Dict[str, str], str]:
        """Everything that can be known about a restore beforehand. Returns what the engine was started with, and its address."""
        inside = _snapshot.check_archive(self.archive, self.params["sha256"] or "")
        missing = [name for name in NEEDED if name not in inside]
        if missing or not any(name.startswith("raft/wal-v3-encrypted/") and name.endswith(".wal") for name in inside):
            raise Refused("%s has no %s. Nothing was changed. Take another backup" % (self.archive, ", ".join(missing) or "raft log"))
        try:
            started_with = json.loads(_snapshot.read_member(self.archive, "docker-state.json").decode("utf-8"))
            certificate = _swarm.parse_certificate(_snapshot.read_member(self.archive, "certificates/swarm-node.crt"))
        except ValueError as error:
            raise Refused("%s cannot be read: %s. Nothing was changed" % (self.archive, error)) from error
        wanted = self.params["cluster_id"]
        if wanted and certificate.cluster_id != wanted:
            raise Refused("the copy is of the swarm %s, not of %s. Nothing was changed" % (certificate.cluster_id, wanted))
        advertised = str(started_with.get("AdvertiseAddr") or started_with.get("LocalAddr") or "")
        address = _swarm.split_address(advertised)[0]
        if address and not has_address(address):
            raise Refused(
                "the copy is of a manager with the address %s, which is none of this host. A manager cannot change its address: its peers "
                "and the raft log know it by the old one. Nothing was changed. Give this host the address as well (ip address add "
                "%s/32 dev ..., made permanent), or build the federation anew: mipfed recover" % (address, address)
            )
        if certificate.not_after < time.time() and not self.params["force_new_cluster"]:
            raise Refused(
                "the node's certificate in the copy expired at %s. Nothing was changed. Restore with force_new_cluster, which renews it"
                % _swarm.iso_time(certificate.not_after)
            )
        return started_with, address

    def check_engine(self) -> None:
        """Raise `Refused` for an engine that is older than that of the copy."""
        wanted, found = numbers(self.params["engine_version"] or ""), numbers(self.version)
        if wanted and found and found[:2] < wanted[:2]:
            raise Refused(
                "the copy is of Docker %s, this host has %s, and an older engine may not read it. Nothing was changed. "
                "Install %s or newer" % (self.params["engine_version"], self.version, self.params["engine_version"])
            )

    def restore(self) -> Dict[str, Any]:
        """Put a copy in place."""
        started_with, address = self.check_restore()
        local: Optional[_swarm.LocalState] = None
        try:
            local = self.state()
            self.check_engine()
        except EngineError:
            # An engine that cannot start with what it has is a reason to restore.
            if not os.path.isdir(self.root_dir):
                raise
        before = local.public() if local else {"local_state": "engine does not run"}
        working = bool(local and local.state == _swarm.MANAGER and local.cluster_id == self.params["cluster_id"])
        foreign = bool(local and local.cluster_id and self.params["cluster_id"] and local.cluster_id != self.params["cluster_id"])
        if local and foreign and not self.params["replace"]:
            raise Refused(
                "this node is in another swarm: %s; the copy is of %s. Nothing was changed. If that swarm is not needed, leave it first "
                "(docker swarm leave --force), or ask for the replacement explicitly" % (local.cluster_id, self.params["cluster_id"])
            )
        result: Dict[str, Any] = {"aside": "", "diff": {"before": before, "after": before}}
        if working and not self.params["replace"] and local:
            return {"changed": False, "swarm": self.describe(local, 0), **result}
        shown = {"cluster_id": self.params["cluster_id"] or "", "node_addr": address, "local_state": _swarm.MANAGER}
        result["diff"] = {"before": before, "after": shown}
        swarm = os.path.join(self.root_dir, "swarm")
        _snapshot.need_space(self.root_dir, 4 * os.path.getsize(self.archive) + (128 << 20))
        if self.check_mode:
            return {"changed": True, "swarm": shown, **result}
        mark = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        fresh, aside = swarm + ".restore", "%s.before-%s" % (swarm, mark)
        shutil.rmtree(fresh, ignore_errors=True)
        _snapshot.unpack(self.archive, fresh)
        had = False
        with self.service.stopped("restore of the swarm's state") as stop:
            if os.path.isdir(swarm):
                os.rename(swarm, aside)
                had = True
            os.rename(fresh, swarm)
        result["stopped_seconds"] = round(time.monotonic() - stop.began, 2)
        result["aside"] = aside if had else ""
        try:
            if self.params["force_new_cluster"]:
                self.force(started_with, address)
            after = self.wait_for_manager(self.key())
            if self.params["force_new_cluster"]:
                _snapshot.forget_managers(self.client, self.params["timeout"])
        except EngineError as error:
            failed = "%s.failed-%s" % (swarm, mark)
            with self.service.stopped("return to what was there before the restore"):
                os.rename(swarm, failed)
                if had:
                    os.rename(aside, swarm)
            raise EngineError("%s. What was there before is in place again; what did not work is in %s" % (error, failed)) from error
        with engine_call("list the nodes of the swarm"):
            managers = sum(node["Spec"]["Role"] == _swarm.MANAGER for node in self.client().nodes())
        result["diff"]["after"] = after.public()
        return {"changed": True, "swarm": self.describe(after, managers), **result}

    def key(self) -> str:
        """The unlock key that came with the copy."""
        try:
            with open(os.path.join(self.params["directory"], UNLOCK_KEY), encoding="ascii") as stream:
                return stream.read().strip()
        except OSError:
            return ""

    def force(self, started_with: Dict[str, Any], address: str) -> None:
        """Make this manager the only one. The state may not be usable before: the others that the raft log knows are gone."""
        client = self.client()
        key = self.key()
        if key and self.state().state == _swarm.LOCKED:
            with engine_call("unlock this manager"):
                client.unlock_swarm(key)
        body = {
            "ListenAddr": started_with.get("ListenAddr") or "0.0.0.0:2377",
            "AdvertiseAddr": started_with.get("AdvertiseAddr") or address,
            "DataPathAddr": started_with.get("DataPathAddr") or "",
            "ForceNewCluster": True,
        }
        with engine_call("make this manager the only one of its swarm"):
            post_json(client, "/swarm/init", body)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["created", "restored"], "default": "created"},
            "directory": {"type": "path", "required": True},
            "cluster_id": {"type": "str"},
            "sha256": {"type": "str"},
            "engine_version": {"type": "str"},
            "force_new_cluster": {"type": "bool", "default": False},
            "replace": {"type": "bool", "default": False},
            "service": {"type": "str", "default": "docker"},
            "timeout": {"type": "int", "default": 180},
            "docker_host": {"type": "str", "default": "unix:///var/run/docker.sock"},
            "engine_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    snapshot = Snapshot(module.params, module.check_mode)
    result: Dict[str, Any] = {}
    try:
        result = snapshot.create() if module.params["state"] == "created" else snapshot.restore()
    except (Refused, _swarm.SwarmError) as error:
        module.fail_json(msg=str(error))
    except (EngineError, _snapshot.SnapshotError) as error:
        module.fail_json(msg=hide_secrets(str(error)))
    except OSError as error:
        module.fail_json(msg="%s: %s" % (error.filename or module.params["directory"], error.strerror or error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
