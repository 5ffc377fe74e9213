#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: federation_lock
short_description: Lets one run at a time change a federation
version_added: 0.1.0
author: The hbp.mip authors (@HBPMedical)
description:
  - Takes, gives back or shows the lock of a federation. It is a file on the manager, so that everybody who can change the
    federation sees the same one.
  - A lock ends by itself when its lease is over, so that a run that was cut off does not stop the federation for good.
  - A lock is not configuration; taking and giving it back is never reported as a change.
attributes:
  check_mode:
    description: Can run in check mode. Taking the lock then only tells whether it could be taken; nothing is written.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
  idempotent:
    description: Taking a lock that the holder has already renews its lease.
    support: full
options:
  state:
    description: What to do; V(shown) never fails.
    type: str
    choices: [acquired, released, shown]
    default: acquired
  federation:
    description: Name of the federation.
    type: str
    required: true
  holder:
    description:
      - Who asks. The O(holder.id) tells holders from one another; without it O(holder.user), O(holder.host), O(holder.pid) and
        O(holder.pid_start) do together.
      - Required, with an id or a host and a pid, unless O(state=shown) or O(force=true).
    type: dict
    default: {}
    suboptions:
      id:
        description: Any text that only this run knows.
        type: str
      user:
        description: Name of the operator.
        type: str
      host:
        description: The controller.
        type: str
      pid:
        description: Process id on the controller.
        type: int
      pid_start:
        description: When that process started, in any form that stays the same, because process ids come again.
        type: str
      command:
        description: What is run.
        type: str
  lease:
    description: Seconds after which the lock ends by itself.
    type: int
    default: 7200
  dead_holder:
    description:
      - RV(nonce) of a lock whose holder is known to be dead, because the controller looked for its process.
      - The lock is taken over if it is still the same one.
    type: str
  takeover:
    description: Take the lock over whoever holds it.
    type: bool
    default: false
  force:
    description: Give the lock back whoever holds it.
    type: bool
    default: false
  directory:
    description: Folder below which each federation has one.
    type: path
    default: /var/lib/mip
"""

EXAMPLES = r"""
- name: Take the lock
  hbp.mip.federation_lock:
    federation: lab
    holder: {user: anna, host: lab-pusher, pid: 4711, command: mipfed deploy}

- name: Give it back
  hbp.mip.federation_lock:
    state: released
    federation: lab
    holder: {user: anna, host: lab-pusher, pid: 4711, command: mipfed deploy}

- name: See who holds it
  hbp.mip.federation_lock:
    state: shown
    federation: lab
"""

RETURN = r"""
away:
  description: The manager cannot be reached, which the task ignores.
  returned: when that is why it failed
  type: bool
held:
  description: Whether somebody holds the lock now; with O(state=acquired) in check mode, whether the holder could get it.
  returned: always
  type: bool
mine:
  description: Whether that is the holder of this call.
  returned: always
  type: bool
holder:
  description: Who holds or held the lock, as given when it was taken.
  returned: always
  type: dict
nonce:
  description: A word that is new each time that the lock is taken; see O(dead_holder).
  returned: always
  type: str
since:
  description: When the lock was taken, in UTC.
  returned: always
  type: str
expires:
  description: When its lease ends, in UTC.
  returned: always
  type: str
expired:
  description: Whether the lease is over.
  returned: always
  type: bool
rebooted:
  description: Whether the manager was booted since the lock was taken.
  returned: always
  type: bool
renewed:
  description: Whether the lock was the holder's already.
  returned: when O(state=acquired)
  type: bool
notice:
  description: What an operator should know, for example whose lock was taken over.
  returned: always
  type: str
kit_overdue:
  description: Whether a site kit is over its time, so that M(hbp.mip.site_kit) has to end it.
  returned: when O(state=acquired)
  type: bool
previous:
  description: Whose lock was taken over, with C(holder), C(nonce), C(since) and C(expires).
  returned: when a lock was taken over
  type: dict
mip_error:
  description: The word V(locked).
  returned: when somebody else holds the lock
  type: str
"""

import re
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _lock, _site_kits


def _shown(lock: dict[str, Any] | None, own: str) -> dict[str, Any]:
    if lock is None:
        return {
            "held": False,
            "mine": False,
            "holder": {},
            "nonce": "",
            "since": "",
            "expires": "",
            "expired": False,
            "rebooted": False,
        }
    expired = lock["expires_at"] <= time.time()
    return {
        "held": not expired,
        "mine": bool(own) and lock["id"] == own,
        "holder": lock["holder"],
        "nonce": lock["nonce"],
        "since": _lock.iso(lock["acquired_at"]),
        "expires": _lock.iso(lock["expires_at"]),
        "expired": expired,
        "rebooted": bool(lock.get("boot_id")) and lock.get("boot_id") != _lock.boot_id(),
    }


def _info(lock: _lock.FederationLock, holder: dict[str, Any]) -> dict[str, Any]:
    try:
        own = _lock.holder_id(holder)
    except _lock.LockError:
        own = ""
    try:
        found, notice = lock.read()
    except _lock.LockError as error:
        found, notice = None, str(error)
    return dict(_shown(found, own), notice=notice)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["acquired", "released", "shown"], "default": "acquired"},
            "federation": {"type": "str", "required": True},
            "holder": {
                "type": "dict",
                "default": {},
                "options": {
                    "id": {"type": "str"},
                    "user": {"type": "str"},
                    "host": {"type": "str"},
                    "pid": {"type": "int"},
                    "pid_start": {"type": "str"},
                    "command": {"type": "str"},
                },
            },
            "lease": {"type": "int", "default": 7200},
            "dead_holder": {"type": "str"},
            "takeover": {"type": "bool", "default": False},
            "force": {"type": "bool", "default": False},
            "directory": {"type": "path", "default": "/var/lib/mip"},
        },
        supports_check_mode=True,
    )
    given = module.params
    federation, holder = given["federation"], given["holder"] or {}
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", federation):
        module.fail_json(msg="federation: %r is not a name (letters, digits, '-', '_' and '.')" % federation, mip_error="configuration")
    if given["lease"] < 1:
        module.fail_json(msg="lease: must be at least one second", mip_error="configuration")
    lock = _lock.FederationLock("%s/%s" % (given["directory"], federation))
    if given["state"] == "shown":
        module.exit_json(changed=False, **_info(lock, holder))
    result: dict[str, Any] = {"changed": False}
    try:
        if given["state"] == "acquired":
            done = lock.acquire(holder, given["lease"], given["dead_holder"] or "", given["takeover"], module.check_mode)
            result.update(_shown(done["lock"], done["lock"]["id"]), renewed=done["renewed"], notice=done["notice"])
            result["kit_overdue"] = _site_kits.overdue(given["directory"])
            if done["previous"]:
                shown = _shown(done["previous"], "")
                result["previous"] = {key: shown[key] for key in ("holder", "nonce", "since", "expires")}
        else:
            done = lock.release(holder, given["force"], module.check_mode)
            result.update(_shown(done["lock"], ""), held=False, notice=done["notice"])
    except _lock.Locked as error:
        shown = _shown(error.lock, "")
        module.fail_json(
            msg="the federation %s is being changed by %s, since %s, until %s at the latest. Nothing was changed here. Wait for it; "
            "if it is certain that it is not running any more: mipfed -f %s lock release"
            % (federation, _lock.describe(error.lock), shown["since"], shown["expires"], federation),
            mip_error="locked",
            notice="",
            **shown,
        )
    except _lock.LockError as error:
        module.fail_json(msg="the lock of the federation %s: %s" % (federation, error))
    if result["notice"] and result["notice"] != "nobody held the lock":
        module.warn(result["notice"])
    module.exit_json(**result)


if __name__ == "__main__":
    main()
