#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_member
short_description: Make this node a member of one certain swarm
version_added: 0.1.0
description:
  - Creates the swarm, joins it, leaves it, or says what the node is now.
  - A node that is in another swarm, locked, without quorum, in an unfinished join or in an error state is never touched. The module
    fails and says why and what to do.
  - A join is asked for once. The engine goes on with a slow join in the background, which the module waits for. A join that this call
    began and that does not succeed is given up again, so that the node is left in no swarm.
extends_documentation_fragment:
  - hbp.mip.engine
author:
  - The hbp.mip authors (@HBPMedical)
options:
  state:
    description:
      - V(present) makes the node a member, V(absent) makes it leave.
    type: str
    choices: [present, absent]
    default: present
  role:
    description:
      - The role the node is wanted in. The token decides which role a joining node gets.
      - The role of a member is changed on a manager, with M(hbp.mip.swarm_nodes). Here it is only compared, see RV(role_differs).
    type: str
    choices: [manager, worker]
    default: worker
  init:
    description:
      - Create the swarm when this node is in none. Meant for the first manager only.
    type: bool
    default: false
  probe:
    description:
      - Only report. The node is checked as with O(state=present), but not changed.
    type: bool
    default: false
  cluster_id:
    description:
      - The ID of the swarm that the node must be in. A member of any other swarm is refused.
    type: str
  advertise_addr:
    description:
      - The address other nodes reach this node at, as C(address), C(address:port) or an interface.
      - A manager cannot change it, so that a manager that has another address is refused. For a worker it is a warning.
    type: str
  data_path_addr:
    description:
      - The address or interface for the traffic of overlay networks. By default the one of O(advertise_addr).
    type: str
  listen_addr:
    description:
      - Where the engine listens for other managers, as C(address:port).
    type: str
    default: 0.0.0.0:2377
  data_path_port:
    description:
      - UDP port of overlay networks, for the whole swarm. Can be chosen only when the swarm is created.
    type: int
  address_pools:
    description:
      - Networks in CIDR notation from which overlay networks get their subnets. Can be chosen only when the swarm is created.
      - An empty list is the engine's own choice and is not compared.
    type: list
    elements: str
    default: []
  subnet_size:
    description:
      - Prefix length of the subnets taken from O(address_pools). Can be chosen only when the swarm is created.
    type: int
  remote_addrs:
    description:
      - Managers of the swarm to join, as C(address:port).
    type: list
    elements: str
    default: []
  join_token:
    description:
      - The token for the wanted role, from M(hbp.mip.swarm_token).
    type: str
  force:
    description:
      - With O(state=absent), leave even if the node is a manager, locked or in an error state.
      - The last manager takes the whole swarm with it.
    type: bool
    default: false
  timeout:
    description:
      - Seconds within which the node must be a working member, or out of the swarm.
    type: int
    default: 120
attributes:
  check_mode:
    description: Reports what would be done, without doing it.
    support: full
  diff_mode:
    description: Shows the membership before and after. Never contains a token.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
seealso:
  - module: hbp.mip.swarm_token
  - module: hbp.mip.swarm_nodes
"""

EXAMPLES = r"""
- name: Create the swarm on the first manager
  hbp.mip.swarm_member:
    role: manager
    init: true
    advertise_addr: 10.77.1.11
  register: first_manager

- name: Look which nodes still have to join
  hbp.mip.swarm_member:
    probe: true
    cluster_id: "{{ first_manager.cluster_id }}"
    advertise_addr: 10.77.1.21
  register: membership

- name: Join
  hbp.mip.swarm_member:
    cluster_id: "{{ first_manager.cluster_id }}"
    advertise_addr: 10.77.1.21
    remote_addrs: ["10.77.1.11:2377"]
    join_token: "{{ token }}"
  when: membership.needs_join
"""

RETURN = r"""
local_state:
  description: What the node is now, or would be in check mode.
  returned: always
  type: str
  sample: worker
cluster_id:
  description: ID of the swarm the node is in. Empty when it is in none.
  returned: always
  type: str
node_id:
  description: ID of the node in its swarm. It is a new one after each join.
  returned: always
  type: str
node_addr:
  description: The address the node advertises.
  returned: always
  type: str
role:
  description: V(manager), V(worker), or empty.
  returned: always
  type: str
role_differs:
  description: The node is a member in another role than O(role).
  returned: always
  type: bool
needs_join:
  description: The node is in no swarm and has to be given O(join_token) and O(remote_addrs), or O(init).
  returned: always
  type: bool
remote_addrs:
  description: The managers this node knows.
  returned: always
  type: list
  elements: str
certificate_expires:
  description: When the node's certificate of the swarm expires (UTC). The engine renews it after half of its life at the earliest.
  returned: always
  type: str
  sample: "2026-12-24T10:00:00Z"
token_given:
  description: Whether a join token was given to a node since the tokens were replaced last. Known to managers only.
  returned: always
  type: bool
would:
  description: What was done, or would be done in check mode.
  returned: always
  type: str
  choices: ["", init, join, leave]
  sample: join
"""

import time
from typing import Any, Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _swarm, _tokens
from ansible_collections.hbp.mip.plugins.module_utils._engine import (
    EngineError,
    engine_call,
    hide_secrets,
    open_engine,
    post_json,
    wait_until,
)

# The engine answers a join or an init after 20 seconds at the latest and goes on in the background.
_ENGINE_ANSWER_SECONDS = 45
_LEAVE_SECONDS = 30


class Refused(Exception):
    """The node must not be touched in its present state."""


def address_drift(local: _swarm.LocalState, advertise_addr: str) -> str:
    """How the address in the swarm differs from the wanted one; empty when it does not."""
    if not advertise_addr or not local.node_addr or _swarm.same_address(advertise_addr, local.node_addr):
        return ""
    return "it is known in the swarm as %s, the wanted address is %s" % (local.node_addr, advertise_addr)


def init_differences(local: _swarm.LocalState, params: Dict[str, Any]) -> List[str]:
    """Options that were fixed when the swarm was created and differ from what is wanted now."""
    cluster, found = local.cluster, []
    pools = [str(pool) for pool in cluster.get("DefaultAddrPool") or []]
    if params["address_pools"] and pools and sorted(params["address_pools"]) != sorted(pools):
        found.append("address_pools is %s, wanted %s" % (", ".join(pools), ", ".join(params["address_pools"])))
    for option, key in (("subnet_size", "SubnetSize"), ("data_path_port", "DataPathPort")):
        if params[option] and cluster.get(key) and params[option] != cluster[key]:
            found.append("%s is %s, wanted %s" % (option, cluster[key], params[option]))
    return found


def check_member(local: _swarm.LocalState, params: Dict[str, Any]) -> List[str]:
    """Warnings about a node that is in a swarm. Raises `Refused` when it is not in the wanted one, or not usable."""
    wanted = params["cluster_id"]
    if wanted and local.cluster_id and local.cluster_id != wanted:
        raise Refused(
            "this node is in another swarm: %s as %s, the wanted swarm is %s. Nothing was changed. If that swarm is no "
            "longer needed, make the node leave it first: docker swarm leave%s"
            % (local.cluster_id, local.role or "member", wanted, " --force" if local.role == _swarm.MANAGER else "")
        )
    problem, fix = _swarm.state_problem(local)
    if problem:
        raise Refused("%s. Nothing was changed. Next: %s" % (problem, fix))
    if wanted and not local.cluster_id:
        raise Refused(
            "this node is in a swarm whose ID cannot be read: neither the engine nor its certificate below the engine's "
            "data folder tells it. Nothing was changed. Run the module as root (become: true)"
        )
    warnings = []
    drift = address_drift(local, params["advertise_addr"])
    if drift and local.role == _swarm.MANAGER:
        raise Refused(
            "the address of this manager changed: %s. A manager cannot change its address, and its peers no longer find "
            "it. Nothing was changed. Give the host its address %s again, or, with other managers working, demote this "
            "node, let it leave and join again" % (drift, local.node_addr)
        )
    if drift:
        warnings.append(
            "the address of this worker changed: %s. Next: mipfed node readdress NODE --address IP, which lets it "
            "leave and join again" % drift
        )
    differences = init_differences(local, params)
    if differences:
        raise Refused(
            "the swarm was created with other options: %s. They can be chosen only when a swarm is created. Nothing was "
            "changed. Write the present values into the inventory, or take the federation down and create its swarm anew"
            % "; ".join(differences)
        )
    data_path = str(local.started_with.get("DataPathAddr") or "")
    if params["data_path_addr"] and data_path and data_path != params["data_path_addr"]:
        warnings.append(
            "overlay traffic of this node uses %s, wanted %s: takes effect only when the node leaves and joins again"
            % (data_path, params["data_path_addr"])
        )
    return warnings


def explain_join(text: str, addresses: List[str]) -> str:
    """The cause and the remedy behind the engine's words about a failed join."""
    managers = ", ".join(addresses)
    lower = text.lower()
    if "join token is necessary" in lower or "invalid join token" in lower or "invalidargument" in lower:
        return (
            "the manager does not accept the join token: it was rotated, mistyped, or belongs to another swarm. "
            "Next: read the token again on a manager (docker swarm join-token worker)"
        )
    if "fingerprint" in lower or "remote ca does not match" in lower:
        return (
            "the join token belongs to another swarm than the manager at %s, or the swarm's CA was rotated. "
            "Next: read the token again on that manager" % managers
        )
    if "expired or is not yet valid" in lower or "certificate has expired" in lower:
        return "the clocks of this host and of the manager differ. Next: timedatectl on both; start chrony or systemd-timesyncd"
    if "connection refused" in lower:
        return "%s refuses connections: its engine is stopped, or it is not a manager" % managers
    if "no route to host" in lower or "network is unreachable" in lower:
        return "there is no route to %s. Next: ip route get to that address" % managers
    if "advertise" in lower or "could not choose an ip" in lower or "must specify a listening address" in lower:
        return "the address to advertise is not usable on this host. Next: ip address; correct the node's address in the inventory"
    if "leader" in lower or "quorum" in lower:
        return "the swarm has no majority of its managers. Next: docker node ls on %s" % managers
    if "deadline" in lower or "timeout" in lower or "timed out" in lower or not text:
        return (
            "%s did not complete the join in time: a firewall drops TCP 2377, or the manager is overloaded. "
            "Next: nc -vz to that address from this host" % managers
        )
    return "journalctl -u docker -n 50 on this host and on the manager tell more"


def check_managers(params: Dict[str, Any], now: float) -> List[str]:
    """The managers among `remote_addrs` that answer. Raises `Refused` when joining through them cannot succeed."""
    usable, problems = [], []
    for address in params["remote_addrs"]:
        probe = _swarm.probe_manager(address)
        if probe.problem:
            problems.append("%s %s" % (probe.address, probe.problem))
            continue
        if probe.certificate:
            clock = _swarm.clock_problem(probe.certificate, now)
            if clock:
                raise Refused(
                    "the manager %s and this host do not agree about the time: %s. Nothing was changed. Next: timedatectl "
                    "on both; start chrony or systemd-timesyncd" % (probe.address, clock)
                )
            if params["cluster_id"] and probe.certificate.cluster_id not in ("", params["cluster_id"]):
                raise Refused(
                    "the manager %s belongs to the swarm %s, the wanted swarm is %s. Nothing was changed. Correct "
                    "remote_addrs" % (probe.address, probe.certificate.cluster_id, params["cluster_id"])
                )
        usable.append(probe.address)
    if not usable:
        raise Refused(
            "no manager of the swarm can be reached from this host: %s. Nothing was changed. Next: docker info on the "
            "manager, and the firewalls between the two hosts (TCP 2377, TCP and UDP 7946, UDP 4789)" % "; ".join(problems)
        )
    return usable


class Member:
    """One run of the module."""

    def __init__(self, module: AnsibleModule, client: Any, slow_client: Any) -> None:
        self.module = module
        self.params: Dict[str, Any] = module.params
        self.client = client
        self.slow_client = slow_client
        self.local = self.look()

    def look(self) -> _swarm.LocalState:
        """The node's state now."""
        with engine_call("read the state of the engine"):
            return _swarm.local_state(self.client)

    def run(self) -> Tuple[bool, str, List[str]]:
        """Do what the options ask. Returns changed, what was or would be done, and warnings."""
        if self.params["state"] == "absent":
            return self.absent()
        return self.present()

    def present(self) -> Tuple[bool, str, List[str]]:
        """Init or join when the node is in no swarm, else verify it."""
        if self.local.state != _swarm.NONE:
            return False, "", check_member(self.local, self.params)
        can_join = bool(self.params["join_token"] and self.params["remote_addrs"])
        would = "init" if self.params["init"] else "join"
        if self.params["probe"]:
            return False, would, []
        if self.params["init"]:
            if self.params["cluster_id"]:
                raise Refused(
                    "this node is in no swarm, although it was the first manager of the swarm %s. Nothing was changed: "
                    "creating a new swarm would lose the old one. Restore it from a backup, or remove cluster_id to "
                    "create a new swarm" % self.params["cluster_id"]
                )
            if not self.module.check_mode:
                self.init()
            return True, would, []
        if self.module.check_mode:
            if can_join:
                check_managers(self.params, time.time())
            return True, would, []
        if not can_join:
            raise Refused(
                "this node is in no swarm, and joining needs both join_token and remote_addrs (or init: true on the "
                "first manager). Nothing was changed"
            )
        self.join(check_managers(self.params, time.time()))
        return True, would, check_member(self.local, self.params)

    def init(self) -> None:
        """Create the swarm and wait until this manager can be worked with."""
        body: Dict[str, Any] = {
            "ListenAddr": self.params["listen_addr"],
            "AdvertiseAddr": self.params["advertise_addr"] or "",
            "DataPathAddr": self.params["data_path_addr"] or "",
            "ForceNewCluster": False,
            "Spec": {},
        }
        if self.params["address_pools"]:
            body["DefaultAddrPool"] = self.params["address_pools"]
        if self.params["subnet_size"]:
            body["SubnetSize"] = self.params["subnet_size"]
        if self.params["data_path_port"]:
            body["DataPathPort"] = self.params["data_path_port"]
        try:
            with engine_call("create the swarm"):
                post_json(self.slow_client, "/swarm/init", body)
        except EngineError as error:
            if not self._continues(str(error)):
                raise
        if not wait_until(self._is_member, self.params["timeout"]):
            problem = _swarm.state_problem(self.local)[0] or "the node's state is %s" % self.local.state
            raise EngineError(
                "the swarm was created but is not ready after %d s: %s. Next: docker info; journalctl -u docker -n 50"
                % (self.params["timeout"], problem)
            )

    def join(self, managers: List[str]) -> None:
        """Ask once to join, wait for the background, and give the join up when it does not succeed."""
        started = time.monotonic()
        text = ""
        try:
            with engine_call("join the swarm"):
                post_json(
                    self.slow_client,
                    "/swarm/join",
                    {
                        "ListenAddr": self.params["listen_addr"],
                        "AdvertiseAddr": self.params["advertise_addr"] or "",
                        "DataPathAddr": self.params["data_path_addr"] or "",
                        "RemoteAddrs": managers,
                        "JoinToken": self.params["join_token"],
                        "Availability": "active",
                    },
                )
        except EngineError as error:
            text = str(error)
        left = self.params["timeout"] - (time.monotonic() - started)
        if not text or self._continues(text):
            wait_until(lambda: self._is_member() or self.local.state in (_swarm.NONE, _swarm.ERROR), max(left, 1))
        else:
            self.local = self.look()
        if self.local.member:
            return
        words = text if text and not self._continues(text) else self.local.error
        self._give_up()
        raise EngineError(
            "this node could not join the swarm through %s: %s.%s The node is in no swarm again"
            % (", ".join(managers), explain_join(words, managers), " The engine says: %s." % words if words else "")
        )

    @staticmethod
    def _continues(text: str) -> bool:
        return "continue in the background" in text or "did not answer in time" in text

    def _is_member(self) -> bool:
        try:
            self.local = self.look()
        except EngineError:
            return False
        return self.local.member

    def _give_up(self) -> None:
        """Leave what this call began to join. Only ever called after this call's own join."""
        self.local = self.look()
        if self.local.state == _swarm.NONE:
            return
        with engine_call("give up the join"):
            self.slow_client.leave_swarm(force=self.local.state == _swarm.ERROR)
        if not wait_until(self._is_out, _LEAVE_SECONDS):
            raise EngineError(
                "the join failed and could not be given up: the node is still %s. Next: docker swarm leave" % self.local.state
            )

    def _is_out(self) -> bool:
        self.local = self.look()
        return self.local.state == _swarm.NONE

    def absent(self) -> Tuple[bool, str, List[str]]:
        """Leave the swarm."""
        local = self.local
        if local.state == _swarm.NONE:
            return False, "", []
        wanted = self.params["cluster_id"]
        if wanted and local.cluster_id and local.cluster_id != wanted:
            raise Refused("this node is in the swarm %s, not in %s. Nothing was changed" % (local.cluster_id, wanted))
        if not self.params["force"]:
            if local.role == _swarm.MANAGER:
                raise Refused(
                    "this node is a manager%s. Nothing was changed. Next: demote it on another manager first (docker node "
                    "demote %s); force: true makes it leave as it is, and the last manager takes the whole swarm with it"
                    % (" and its swarm is %s" % local.state if local.state != _swarm.MANAGER else "", local.node_id)
                )
            if local.state in (_swarm.LOCKED, _swarm.ERROR):
                problem, fix = _swarm.state_problem(local)
                raise Refused("%s. Nothing was changed. Next: %s, or force: true to leave as it is" % (problem, fix))
        if not self.params["probe"] and not self.module.check_mode:
            with engine_call("leave the swarm"):
                self.slow_client.leave_swarm(force=bool(self.params["force"]))
            if not wait_until(self._is_out, self.params["timeout"]):
                raise EngineError(
                    "the node is still %s %d s after it was told to leave. Next: docker info; journalctl -u docker -n 50"
                    % (self.local.state, self.params["timeout"])
                )
        return not self.params["probe"], "leave", []


def described(public: Dict[str, Any]) -> Dict[str, Any]:
    """The part of the state that a diff shows."""
    return {key: public[key] for key in ("local_state", "cluster_id", "node_addr", "role")}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "role": {"type": "str", "choices": ["manager", "worker"], "default": "worker"},
            "init": {"type": "bool", "default": False},
            "probe": {"type": "bool", "default": False},
            "cluster_id": {"type": "str"},
            "advertise_addr": {"type": "str"},
            "data_path_addr": {"type": "str"},
            "listen_addr": {"type": "str", "default": "0.0.0.0:2377"},
            "data_path_port": {"type": "int"},
            "address_pools": {"type": "list", "elements": "str", "default": []},
            "subnet_size": {"type": "int"},
            "remote_addrs": {"type": "list", "elements": "str", "default": []},
            "join_token": {"type": "str", "no_log": True},
            "force": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 120},
            "docker_host": {"type": "str", "default": "unix:///var/run/docker.sock"},
            "engine_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    params: Dict[str, Any] = module.params
    present = params["state"] == "present"
    would = "init" if params["init"] else "join"
    client = open_engine(
        module,
        {"init": "would create the swarm", "join": "would join the swarm"}[would] if present else "nothing to leave",
        {
            "changed": present,
            "local_state": _swarm.NONE,
            "cluster_id": "",
            "node_id": "",
            "node_addr": "",
            "role": "",
            "role_differs": False,
            "needs_join": present,
            "remote_addrs": [],
            "certificate_expires": "",
            "token_given": False,
            "would": would if present else "",
        },
    )
    slow_client = open_engine(module, would, timeout=max(params["engine_timeout"], _ENGINE_ANSWER_SECONDS))
    before: Dict[str, Any] = {}
    try:
        member = Member(module, client, slow_client)
        before = member.local.public()
        changed, done, warnings = member.run()
    except Refused as error:
        module.fail_json(msg=hide_secrets(str(error)), **before)
    except EngineError as error:
        module.fail_json(msg=str(error), **before)
    after = member.local.public()
    if changed and module.check_mode:
        if done == "leave":
            after.update(local_state=_swarm.NONE, cluster_id="", node_id="", node_addr="", role="")
        else:
            role = _swarm.MANAGER if done == "init" else params["role"]
            after.update(local_state=role, role=role, cluster_id=params["cluster_id"] or "", node_addr=params["advertise_addr"] or "")
    for warning in warnings:
        module.warn(warning)
    still_out = member.local.state == _swarm.NONE
    module.exit_json(
        changed=changed,
        would=done,
        token_given=_tokens.given(member.local.cluster),
        needs_join=present and still_out,
        role_differs=present and bool(after["role"]) and after["role"] != params["role"],
        diff={"before": described(before), "after": described(after)},
        **after,
    )


if __name__ == "__main__":
    main()
