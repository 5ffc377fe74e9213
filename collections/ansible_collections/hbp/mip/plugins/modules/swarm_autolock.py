#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_autolock
short_description: Lock the managers of a swarm when they restart, and unlock them
version_added: 0.4.0
description:
  - With autolock the keys of a manager's disk are encrypted themselves. A manager that was restarted takes part in the swarm again, and
    starts its containers, only when it was given the unlock key. Workers are not concerned.
  - The action plugin of the same name keeps the unlock key in a file of the controller that is encrypted with the vault password. It never
    leaves the controller except to a manager, as a secret. Nothing is changed while it could not be kept.
extends_documentation_fragment:
  - hbp.mip.engine
author:
  - The hbp.mip authors (@HBPMedical)
options:
  state:
    description:
      - V(enabled) and V(disabled) switch autolock. V(disabled) leaves a swarm alone whose key is not in O(path), which somebody else locks.
      - V(rotated) replaces the key, where autolock is used.
      - V(unlocked) unlocks this manager, if it is locked.
      - V(known) only takes the present key into the vault, where autolock is used.
    type: str
    choices: [enabled, disabled, rotated, unlocked, known]
    default: enabled
  path:
    description:
      - The encrypted file on the controller. By default C(state/unlock_key.vault) beside the inventory.
      - Keys that were replaced are kept in it behind the present one, for a manager that was off meanwhile.
    type: path
  unlock_key:
    description:
      - A key to be tried before those in O(path).
    type: str
  known:
    description:
      - Set by the action plugin with O(state=unlocked), the keys in O(path), the present one first.
    type: list
    elements: str
    default: []
  cluster_id:
    description:
      - The ID of the swarm that this manager must be in. Any other is refused.
    type: str
    default: ""
  timeout:
    description:
      - Seconds within which an unlocked manager must have left the locked state.
    type: int
    default: 60
attributes:
  check_mode:
    description: Tells what would be done, without doing it.
    support: full
  diff_mode:
    description: Shows whether autolock is used and the node's state, never a key.
    support: full
  idempotent:
    description: Each V(rotated) makes a new key; the other states change nothing the second time.
    support: partial
seealso:
  - module: hbp.mip.swarm_recovery
"""

EXAMPLES = r"""
- name: Lock the managers when they restart
  hbp.mip.swarm_autolock:
    state: enabled

- name: Unlock this manager with the key of the vault
  hbp.mip.swarm_autolock:
    state: unlocked
"""

RETURN = r"""
autolock:
  description: Whether the swarm uses autolock now. Unknown, and so false, on a manager that is locked.
  returned: always
  type: bool
local_state:
  description: What the node is now, as M(hbp.mip.swarm_info) tells it.
  returned: always
  type: str
cluster_id:
  description: ID of the swarm.
  returned: always
  type: str
behind:
  description: Managers that did not work when the key was replaced. They may need the one before.
  returned: always
  type: list
  elements: str
stored:
  description: Whether the file on the controller was written.
  returned: always
  type: bool
path:
  description: The file on the controller.
  returned: always
  type: str
"""

from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _swarm, _tokens
from ansible_collections.hbp.mip.plugins.module_utils._engine import EngineError, engine_call, hide_secrets, open_engine, wait_until


class Autolock:
    """One run of the module on an engine that answers."""

    def __init__(self, client: Any, params: Dict[str, Any], check_mode: bool) -> None:
        self.client = client
        self.params = params
        self.check_mode = check_mode
        self.key = ""
        self.behind: List[str] = []

    def local(self) -> _swarm.LocalState:
        """What this node is now."""
        with engine_call("read the state of the engine"):
            return _swarm.local_state(self.client)

    def used(self) -> bool:
        """Whether the swarm uses autolock."""
        with engine_call("read the swarm"):
            spec = self.client.inspect_swarm().get("Spec") or {}
        return bool((spec.get("EncryptionConfig") or {}).get("AutoLockManagers"))

    def read_key(self) -> str:
        """The present key."""
        with engine_call("read the unlock key"):
            return str(self.client.get_unlock_key().get("UnlockKey") or "")

    def switch(self, wanted: bool) -> bool:
        """Use autolock, or do not; returns whether that was a change."""
        if self.used() == wanted:
            self.key = self.read_key() if wanted else ""
            return False
        if self.check_mode:
            return True
        _tokens.update(
            self.client,
            lambda swarm: dict(swarm["Spec"], EncryptionConfig={"AutoLockManagers": wanted}),
            "switch autolock %s" % ("on" if wanted else "off"),
        )
        if wanted and not wait_until(self._has_key, 30):
            raise EngineError("autolock is switched on, but the engine gives no unlock key. Next: docker swarm unlock-key on this manager")
        return True

    def _has_key(self) -> bool:
        self.key = self.read_key()
        return bool(self.key)

    def rotate(self) -> bool:
        """Replace the key where there is one."""
        if not self.used():
            return False
        if self.check_mode:
            return True
        before = self.read_key()
        with engine_call("list the nodes of the swarm"):
            nodes = [_swarm.node_summary(node) for node in self.client.nodes()]
        managers = [node for node in nodes if node["role"] == _swarm.MANAGER]
        self.behind = sorted(node["name"] or node["hostname"] for node in managers if node["reachability"] != "reachable")
        _tokens.update(self.client, lambda swarm: dict(swarm["Spec"]), "replace the unlock key", unlock_key=True)
        if not wait_until(lambda: self._has_key() and self.key != before, 30):
            raise EngineError("the engine still gives the unlock key of before. Next: docker swarm unlock-key --rotate on this manager")
        return True

    def unlock(self) -> bool:
        """Unlock this manager; returns whether it was locked. Raises `SwarmError` when no key fits."""
        if self.local().state != _swarm.LOCKED:
            return False
        keys = list(dict.fromkeys(key.strip() for key in [self.params["unlock_key"] or "", *self.params["known"]] if key.strip()))
        if not keys:
            raise _swarm.SwarmError(
                "this manager is locked, and neither the vault has its unlock key nor was one given. Nothing was changed. Next: give it "
                "in MIPFED_UNLOCK_KEY, or restore a backup, which holds the key of its time"
            )
        if self.check_mode:
            return True
        refused = ""
        for key in keys:
            try:
                with engine_call("unlock this manager"):
                    self.client.unlock_swarm(key)
            except EngineError as error:
                refused = str(error)
                # Another run may have been faster; and a key that fits may be answered late, while the managers have no majority.
                if self.local().state != _swarm.LOCKED:
                    return True
                continue
            if wait_until(lambda: self.local().state != _swarm.LOCKED, self.params["timeout"]):
                return True
            refused = "after %d s it is still locked" % self.params["timeout"]
        raise _swarm.SwarmError(
            "none of %d key%s unlocks this manager (%s). It is locked as before. Next: give the right key in MIPFED_UNLOCK_KEY"
            % (len(keys), "s" if len(keys) > 1 else "", hide_secrets(refused))
        )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["enabled", "disabled", "rotated", "unlocked", "known"], "default": "enabled"},
            "path": {"type": "path"},
            "unlock_key": {"type": "str", "no_log": True},
            "known": {"type": "list", "elements": "str", "default": [], "no_log": True},
            "cluster_id": {"type": "str", "default": ""},
            "timeout": {"type": "int", "default": 60},
            "docker_host": {"type": "str", "default": "unix:///var/run/docker.sock"},
            "engine_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    params: Dict[str, Any] = module.params
    state = params["state"]
    result: Dict[str, Any] = {"autolock": False, "local_state": _swarm.NONE, "cluster_id": "", "behind": [], "stored": False, "path": ""}
    client = open_engine(module, "would switch autolock", dict(result, changed=state == "enabled"))
    changed = False
    try:
        run = Autolock(client, params, module.check_mode)
        local = run.local()
        result.update(local_state=local.state, cluster_id=local.cluster_id)
        before: Dict[str, Any] = {"local_state": local.state}
        if module.check_mode and local.state == _swarm.NONE and state != "unlocked":
            module.exit_json(changed=state == "enabled", msg="would be done once the swarm exists", **result)
        if state == "unlocked":
            changed = run.unlock()
        else:
            _swarm.require_manager(local, params["cluster_id"] or None)
            before["autolock"] = run.used()
            if state in ("enabled", "disabled"):
                changed = run.switch(state == "enabled")
            elif state == "rotated":
                changed = run.rotate()
            elif before["autolock"]:
                run.key = run.read_key()
        local = run.local()
        result.update(local_state=local.state, cluster_id=local.cluster_id or result["cluster_id"], behind=run.behind)
        if local.state == _swarm.MANAGER:
            result["autolock"] = run.used()
    except (_swarm.SwarmError, EngineError) as error:
        module.fail_json(msg=hide_secrets(str(error)), changed=changed, **result)
    after: Dict[str, Any] = {"local_state": result["local_state"], "autolock": result["autolock"]}
    if module.check_mode and changed:
        after = {"local_state": "manager"} if state == "unlocked" else {"autolock": state != "disabled"}
    # Only the action plugin, which takes it out again, sees the key.
    secret = {"secret": {"key": run.key}} if run.key else {}
    module.exit_json(changed=changed, diff={"before": before, "after": after}, **result, **secret)


if __name__ == "__main__":
    main()
