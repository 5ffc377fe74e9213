#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: firewall
short_description: Opens on a host what the federation needs, to whom it needs it, and closes the rest
version_added: 0.2.0
author: The hbp.mip authors (@HBPMedical)
description:
  - Opens in the host's own firewall, ufw or firewalld, the swarm's ports to the other members of the swarm, and published ports
    to the addresses named for them. Rules of others are never touched.
  - Loads a guard, an nftables table of the federation's own. It looks at packets before Docker translates their addresses, because
    Docker's published ports pass by ufw and firewalld. It drops the swarm's traffic from strangers, published ports from everyone
    not named, overlay data that did not come through IPsec, and all of these over IPv6. It can only restrict.
  - The guard is loaded before there is a network, and again whenever C(nftables.service) flushed all tables. Reloads of ufw and
    firewalld and restarts of Docker do not touch it.
  - A change is validated before anything is written, and takes itself back after O(rollback_seconds) unless it is confirmed by
    O(state=confirmed) over another connection; also after a reboot in between. A rule set that would cut this connection is
    refused where that can be seen.
  - Needs root, systemd and nft.
attributes:
  check_mode:
    description: Can run in check mode and say what would change.
    support: full
  diff_mode:
    description: Shows the list of rules before and after.
    support: full
  idempotent:
    description: A second run changes nothing, also after reloads of any firewall and reboots.
    support: full
options:
  name:
    description: Name of the federation.
    type: str
    required: true
  state:
    description:
      - V(present) makes the host as the options say.
      - V(absent) removes everything of the federation from the host's firewall.
      - V(confirmed) keeps the change that waits. It fails over the connection that made the change, and when the change was taken
        back already.
      - V(shown) changes nothing and returns what is open to whom. When neither O(address) nor O(peers) is given, that is what
        was last set on the host.
    type: str
    choices: [present, absent, confirmed, shown]
    default: present
  backend:
    description:
      - The host's own firewall. V(auto) takes the one that is enabled.
      - With V(nftables) the host filters with rules of its own making, which are not touched; RV(problems) says what they lack.
      - With V(none) nothing filters, so that nothing needs opening. The guard is loaded with each of them.
    type: str
    choices: [auto, ufw, firewalld, nftables, none]
    default: auto
  kind:
    description: Kind of the node. The V(ui) node is no member of the swarm.
    type: str
    choices: [master, ui, worker]
    default: worker
  manager:
    description:
      - Whether the node is a manager of the swarm. The master always is.
      - A worker that is a manager now keeps the manager's port open until it was demoted; without it the swarm could lose its majority.
    type: bool
    default: false
  address:
    description: The node's own IPv4 address in the federation.
    type: str
  peers:
    description: The members of the swarm. The node itself is left out when it is among them.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the node.
        type: str
        required: true
      address:
        description: Its IPv4 address.
        type: str
        required: true
  data_path_port:
    description: UDP port of the overlay's data path.
    type: int
    default: 4789
  encrypted:
    description: Whether the overlay is encrypted. Then overlay data counts only when it came out of IPsec.
    type: bool
    default: true
  published:
    description: Ports of this host that only named addresses reach. Other ports are left alone.
    type: list
    elements: dict
    default: []
    suboptions:
      port:
        description: The port, as it is asked for from outside.
        type: int
        required: true
      proto:
        description: Its protocol.
        type: str
        choices: [tcp, udp]
        default: tcp
      allow:
        description: IPv4 addresses and networks that may reach it. Empty is nobody.
        type: list
        elements: str
        default: []
      why:
        description: What the port is, for people.
        type: str
        default: published port
  from_containers:
    description:
      - TCP services that containers on this host must reach over their way out, C(docker_gwbridge), such as a local data store.
      - Opened in the host's own firewall, to that bridge only, if the service is on this host. What is elsewhere needs nothing.
      - With firewalld nothing has to be opened, because Docker puts its bridges into the zone C(docker), which accepts all.
    type: list
    elements: dict
    default: []
    suboptions:
      host:
        description: Name or IPv4 address of the service.
        type: str
        required: true
      port:
        description: Its port.
        type: int
        required: true
  ipsec_others:
    description: Addresses of others than the peers with which this host speaks IPsec, such as the gateway of a VPN.
    type: list
    elements: str
    default: []
  ssh_port:
    description: Port of the SSH server as the controller asks for it, where that is not the one this connection arrives at.
    type: int
  controllers:
    description: Further addresses that must reach the SSH server, beside the one that this connection comes from.
    type: list
    elements: str
    default: []
  rollback_seconds:
    description: Time for the confirmation, in seconds. With 0 a change is final at once.
    type: int
    default: 60
  change:
    description: For O(state=confirmed) the RV(change) to confirm. Without, whichever waits.
    type: str
"""

EXAMPLES = r"""
- name: Open and guard the ports of a worker
  hbp.mip.firewall:
    name: brain
    kind: worker
    address: 10.1.0.11
    peers:
      - {name: ms, address: 10.1.0.10}
      - {name: wk-2, address: 10.2.0.12}
  register: firewall

- name: Come back over a new connection
  ansible.builtin.meta: reset_connection

- name: Keep the rules
  hbp.mip.firewall:
    name: brain
    state: confirmed
    change: "{{ firewall.change }}"

- name: What is open here, and for whom?
  hbp.mip.firewall:
    name: brain
    state: shown
"""

RETURN = r"""
backend:
  description: The host's own firewall.
  returned: always, except when the options are unusable
  type: str
backend_reason:
  description: How that is known.
  returned: as RV(backend)
  type: str
change:
  description: Identifies the change that waits for its confirmation; empty when none does.
  returned: always, except on failure
  type: str
confirm_seconds:
  description: Time left for the confirmation when the module ended, in seconds; 0 when nothing waits.
  returned: O(state=present) and O(state=absent)
  type: int
rules:
  description: What is open and what is closed, in the order in which it is said.
  returned: O(state=present) and O(state=shown)
  type: list
  elements: dict
  contains:
    action: {description: V(allow) or V(drop)., type: str}
    proto: {description: 'V(tcp), V(udp) or V(esp).', type: str}
    port: {description: The port; 0 for ESP., type: int}
    from: {description: 'Names and addresses, or a description of them.', type: list, elements: str}
    why: {description: What it is for., type: str}
    enforced_by: {description: 'V(guard), and the backend where a rule is needed there.', type: list, elements: str}
drift:
  description: How the host differed from what is wanted when the module began; readable lines.
  returned: always, except on failure
  type: list
  elements: str
dropped:
  description: What the guard dropped since it was loaded, as dictionaries with C(what), C(packets) and C(bytes).
  returned: O(state=shown)
  type: list
  elements: dict
set:
  description: Whether anything of this federation was ever set on this host and not removed.
  returned: O(state=shown)
  type: bool
reloaded:
  description: Whether firewalld had to reload (or would have to, in check mode). It does once, for the first rules of a federation.
  returned: O(state=present) and O(state=absent)
  type: bool
kernel:
  description:
    - What the kernel can do of what the guard uses, C(fib), C(ipsec), C(owner) and C(conntrack), each with C(ok) and C(reason).
    - The guard is loaded without what is missing, and RV(problems) says what that means.
  returned: O(state=present) and O(state=shown)
  type: dict
problems:
  description: What an administrator should know, each with C(code), C(message) and C(fix).
  returned: always, except when the options are unusable
  type: list
  elements: dict
mip_error:
  description:
    - V(configuration) for unusable options and for rules that would cut SSH, V(tool-missing) when nft is not installed,
      V(firewall-rolled-back) when a change to confirm was taken back, and other words that begin with C(firewall-).
  returned: failure
  type: str
fix:
  description: What to do about it.
  returned: failure
  type: str
"""

import os
import time
import uuid
from typing import Any, Dict, List, Optional

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _firewall, _firewall_host, _store


def _refuse_lockout(wanted: _firewall.Settings, params: Dict[str, Any], now: Optional[_firewall_host.Connection]) -> None:
    """Raise ConfigError when the guard would cut a connection of the controller that can be seen."""
    addresses = list(params["controllers"]) + ([now.address] if now else [])
    ports = ({params["ssh_port"]} if params["ssh_port"] else set()) | ({now.port} if now else set())
    for address in addresses:
        for port in sorted(ports or {22}):
            try:
                why = _firewall.blocked(wanted, port, address)
            except ValueError:
                raise _firewall.ConfigError("controllers: %r is not an IP address" % address) from None
            if why:
                raise _firewall.ConfigError(
                    "these rules would cut SSH from %s to port %d: %s. Nothing was changed. Allow %s there" % (address, port, why, address)
                )


def _refuse_other_ipsec(wanted: _firewall.Settings) -> None:
    if wanted.member and wanted.encrypted:
        others = _firewall_host.foreign_ipsec(wanted)
        if others:
            raise _firewall.ConfigError(
                "this host speaks IPsec with %s, who are no peers and would be cut off. Nothing was changed. "
                "Name those that are to stay in ipsec_others" % ", ".join(others)
            )


class _Run:
    """One call of the module."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params: Dict[str, Any] = module.params
        self.name: str = module.params["name"]
        self.state: str = module.params["state"]
        self.connection = _firewall_host.connection()
        self.recorded = _firewall_host.recorded(self.name)
        self.problems: List[_firewall_host.Problem] = []
        self.result: Dict[str, Any] = {"changed": False, "change": "", "drift": []}

    def finish(self) -> None:
        self.result["problems"] = [dict(problem._asdict()) for problem in self.problems]
        self.module.exit_json(**self.result)

    def wanted(self) -> Optional[_firewall.Settings]:
        """What the options ask for; for `shown` without options what was last set."""
        if self.state == "absent":
            return None
        if self.state == "shown" and not self.params["address"] and not self.params["peers"]:
            return self.recorded[0] if self.recorded else None
        local = [entry["port"] for entry in self.params["from_containers"] if _store.is_here(entry["host"])]
        # Closed before it was demoted, a manager is lost to the others, and they may be too few to demote it.
        manager = self.params["manager"] or (self.params["kind"] == "worker" and _firewall_host.manages())
        return _firewall.settings(dict(self.params, from_containers=local, manager=manager))

    def plan(self) -> _firewall_host.Plan:
        """Compare, and put what is found into the result."""
        wanted = self.wanted()
        own = _firewall.table(self.name)
        if wanted is None:
            backend = _firewall_host.Backend("none", False, "nothing is wanted")
        else:
            backend = _firewall_host.backend(self.params["backend"], own)
        self.result.update(backend=backend.name, backend_reason=backend.reason)
        features: Dict[str, Dict[str, Any]] = {}
        if wanted is not None:
            features = _firewall_host.kernel_features(_firewall.guard(wanted) if wanted.guarded else "", self.name)
            self.result.update(kernel=features, rules=_firewall.report(wanted, backend.name))
        able = [feature for feature, state in features.items() if state["ok"]]
        plan = _firewall_host.plan(self.name, wanted, backend, able)
        self.problems = _firewall_host.problems(wanted, backend, features)
        self.result["drift"] = plan.differences
        return plan

    def show(self) -> None:
        plan = self.plan()
        self.result.setdefault("rules", [])
        self.result.setdefault("kernel", {})
        self.result["set"] = self.recorded is not None
        self.result["dropped"] = _firewall_host.dropped(self.name)
        self.result["change"] = str(_firewall_host.pending(self.name).get("id", ""))
        if plan.wanted is None:
            self.result["backend"] = _firewall_host.backend(self.params["backend"], _firewall.table(self.name)).name

    def confirm(self) -> None:
        change = self.params["change"] or ""
        if self.module.check_mode:
            self.result["changed"] = bool(_firewall_host.pending(self.name))
            return
        if not os.path.isdir(_firewall_host.folder(self.name)):
            return
        with _firewall_host.locked(self.name):
            self.result["changed"] = _firewall_host.confirm(self.name, change, self.connection)

    def _diff(self, plan: _firewall_host.Plan) -> None:
        before: List[str] = []
        if self.recorded:
            before = _firewall.lines(*self.recorded)
        after = _firewall.lines(plan.wanted, plan.backend.name) if plan.wanted else []
        if before == after:
            before = before + ["(%s)" % line for line in plan.differences]
        where = "firewall of %s" % self.name
        self.result["diff"] = {
            "before": "".join(line + "\n" for line in before),
            "after": "".join(line + "\n" for line in after),
            "before_header": where,
            "after_header": where,
        }

    def make(self) -> None:
        plan = self.plan()
        self.result.update(confirm_seconds=0, reloaded=False)
        if plan.wanted:
            _refuse_lockout(plan.wanted, self.params, self.connection)
        if plan.differences:
            self.result["changed"] = True
            self._diff(plan)
            if plan.wanted:
                _refuse_other_ipsec(plan.wanted)
            _firewall_host.validate(plan)
            self.result["reloaded"] = _firewall_host.needs_reload(plan)
            if self.result["reloaded"]:
                unsaved = _firewall_host.unsaved_firewalld()
                if unsaved:
                    raise _firewall_host.HostError(
                        "firewalld has to reload once, and would lose what is set in zone %s but not saved" % ", ".join(unsaved),
                        "firewall-unsaved",
                        "sudo firewall-cmd --runtime-to-permanent keeps it, sudo firewall-cmd --reload drops it",
                    )
        if self.module.check_mode:
            return
        waiting = _firewall_host.pending(self.name)
        if not plan.differences:
            if waiting:
                # An earlier call was cut off before its confirmation: it gets its time again.
                seconds = self.params["rollback_seconds"]
                with _firewall_host.locked(self.name):
                    if seconds:
                        _firewall_host.arm(self.name, seconds)
                    else:
                        _firewall_host.finish(self.name, waiting["id"])
                self.result.update(change=waiting["id"] if seconds else "", confirm_seconds=seconds)
            return
        if waiting:
            # Back means back to before the change that nobody confirmed.
            _firewall_host.take_back(self.name)
            drift = self.result["drift"]
            plan = self.plan()
            self.result["drift"] = drift
        self._apply(plan)

    def _apply(self, plan: _firewall_host.Plan) -> None:
        change = uuid.uuid4().hex[:12]
        seconds = self.params["rollback_seconds"]
        origin = self.connection.identity if self.connection else ""
        with _firewall_host.locked(self.name):
            started = time.monotonic()
            try:
                self.problems += _firewall_host.apply(plan, change, origin, seconds)
                failure: Optional[_firewall_host.HostError] = None
            except (_firewall_host.HostError, OSError) as error:
                failure = error if isinstance(error, _firewall_host.HostError) else _firewall_host.HostError(str(error))
            if failure is None and not seconds:
                _firewall_host.finish(self.name, change)
        if failure is not None:
            if _firewall_host.pending(self.name).get("id") == change:
                _firewall_host.take_back(self.name)
                _firewall_host.disarm(self.name)
            raise _firewall_host.HostError("%s. The host is as before" % failure, failure.code, failure.fix)
        if seconds:
            left = max(0, int(seconds - (time.monotonic() - started)))
            self.result.update(change=change, confirm_seconds=left)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent", "confirmed", "shown"], "default": "present"},
            "backend": {"type": "str", "choices": ["auto", "ufw", "firewalld", "nftables", "none"], "default": "auto"},
            "kind": {"type": "str", "choices": ["master", "ui", "worker"], "default": "worker"},
            "manager": {"type": "bool", "default": False},
            "address": {"type": "str"},
            "peers": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"name": {"type": "str", "required": True}, "address": {"type": "str", "required": True}},
            },
            "data_path_port": {"type": "int", "default": 4789},
            "encrypted": {"type": "bool", "default": True},
            "published": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "port": {"type": "int", "required": True},
                    "proto": {"type": "str", "choices": ["tcp", "udp"], "default": "tcp"},
                    "allow": {"type": "list", "elements": "str", "default": []},
                    "why": {"type": "str", "default": "published port"},
                },
            },
            "from_containers": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"host": {"type": "str", "required": True}, "port": {"type": "int", "required": True}},
            },
            "ipsec_others": {"type": "list", "elements": "str", "default": []},
            "ssh_port": {"type": "int"},
            "controllers": {"type": "list", "elements": "str", "default": []},
            "rollback_seconds": {"type": "int", "default": 60},
            "change": {"type": "str"},
        },
        supports_check_mode=True,
    )
    if not _firewall.NAME.fullmatch(module.params["name"]):
        module.fail_json(msg="name: %r is not a federation's name" % module.params["name"], mip_error="configuration", fix="")
    if os.geteuid() != 0:
        module.fail_json(msg="the firewall can be read and changed by root only", mip_error="firewall-root", fix="become: true")
    if not os.path.isdir("/run/systemd/system"):
        module.fail_json(msg="this host does not run systemd", mip_error="firewall-no-systemd", fix="use a host with systemd")
    call = _Run(module)
    try:
        {"present": call.make, "absent": call.make, "confirmed": call.confirm, "shown": call.show}[call.state]()
    except _firewall.ConfigError as error:
        module.fail_json(msg=str(error), mip_error="configuration", fix="correct the inventory", problems=_plain(call.problems))
    except _firewall_host.HostError as error:
        module.fail_json(msg=str(error), mip_error=error.code, fix=error.fix, problems=_plain(call.problems), **_backend(call))
    except OSError as error:
        module.fail_json(msg="%s: %s" % (error.filename or "the host", error.strerror), mip_error="firewall-failed", fix="")
    call.finish()


def _plain(problems: List[_firewall_host.Problem]) -> List[Dict[str, Any]]:
    return [dict(problem._asdict()) for problem in problems]


def _backend(call: _Run) -> Dict[str, Any]:
    return {key: call.result[key] for key in ("backend", "backend_reason") if key in call.result}


if __name__ == "__main__":
    main()
