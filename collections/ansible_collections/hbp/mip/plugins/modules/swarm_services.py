#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_services
short_description: All services of a federation on its swarm
version_added: 0.1.0
description:
  - Takes the whole wanted set of services, compares it with what the swarm runs, creates and updates what differs, waits until it
    runs, and explains what does not.
  - Services are compared by their specification, so that a second run changes nothing. A service that the swarm has given up, because an
    update stopped half-way or its restart policy allows no more attempts, is started again.
  - A service that was stopped on purpose, see M(hbp.mip.swarm_power), is updated, but stays stopped.
  - Tags of images are resolved to digests on the manager before anything is changed. An image that does not exist stops the run there.
  - Only services with the label C(eu.humanbrainproject.mip.federation) of this O(project) are ever touched.
  - One run is one step. When an updated service fails, every service that this run updated goes back to its previous specification.
    A created service that fails is removed.
extends_documentation_fragment:
  - hbp.mip.engine
author:
  - The hbp.mip authors (@HBPMedical)
options:
  project:
    description:
      - Name of the federation. It marks its services.
    type: str
    required: true
  services:
    description:
      - The wanted services.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the service.
        type: str
        required: true
      node:
        description: Name of the node it is meant for, used in messages only.
        type: str
        default: ""
      wave:
        description:
          - Services with a lower number are updated, and waited for, before those with a higher one.
          - When nothing is updated, all that are missing are created at once, those with a lower number first.
        type: int
        default: 0
      wait:
        description: Wait until it runs. With V(false), for a node that cannot be reached now, it is applied only.
        type: bool
        default: true
      may_rest:
        description: Is it all right that its node is drained? Then it is applied only, and named in RV(resting).
        type: bool
        default: false
      image:
        description: Image with tag or digest.
        type: str
        required: true
      command:
        description: Replaces the entry point of the image.
        type: list
        elements: str
        default: []
      args:
        description: Replaces the command of the image.
        type: list
        elements: str
        default: []
      env:
        description: Environment. Values must be texts or numbers, so that C(FALSE) has to be quoted.
        type: dict
        default: {}
      mounts:
        description: Folders, volumes and temporary file systems of the container.
        type: list
        elements: dict
        default: []
        suboptions:
          type:
            description: Kind of mount.
            type: str
            choices: [bind, volume, tmpfs]
            default: bind
          source:
            description: Folder of the host, or name of the volume.
            type: str
          target:
            description: Folder in the container.
            type: str
            required: true
          read_only:
            description: Forbid writing.
            type: bool
            default: false
      networks:
        description: Overlay networks.
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description: Name of the network.
            type: str
            required: true
          aliases:
            description: Further names of the service on that network.
            type: list
            elements: str
            default: []
      constraints:
        description: Placement constraints, for example C(node.labels.name==lab-wk-1).
        type: list
        elements: str
        default: []
      ports:
        description: Published ports.
        type: list
        elements: dict
        default: []
        suboptions:
          target:
            description: Port in the container.
            type: int
            required: true
          published:
            description: Port outside.
            type: int
          protocol:
            description: Protocol.
            type: str
            choices: [tcp, udp, sctp]
            default: tcp
          mode:
            description:
              - V(host) publishes on the node that runs the task, V(ingress) on every node.
              - V(ingress) is not possible with O(services[].endpoint_mode=dnsrr).
            type: str
            choices: [host, ingress]
            default: host
      labels:
        description: Labels of the service.
        type: dict
        default: {}
      container_labels:
        description: Labels of its containers.
        type: dict
        default: {}
      hostname:
        description: Host name in the container.
        type: str
        default: ""
      healthcheck:
        description: Health check. A task counts as running when it succeeded.
        type: dict
        suboptions:
          test:
            description: A command as a list, a shell command as a text, or V(NONE) to switch off the one of the image.
            type: raw
          interval:
            description: Time between checks, in seconds or as C(1m30s).
            type: str
          timeout:
            description: Time a check may take.
            type: str
          retries:
            description: Failed checks in a row that make the container unhealthy.
            type: int
          start_period:
            description: Time in which failed checks do not count.
            type: str
      limits:
        description: What the container may use at most.
        type: dict
        suboptions:
          memory_mb:
            description: Memory in MiB.
            type: int
          cpus:
            description: CPUs.
            type: float
          pids:
            description: Processes and threads.
            type: int
      reservations:
        description: What the node must have free.
        type: dict
        suboptions:
          memory_mb:
            description: Memory in MiB.
            type: int
          cpus:
            description: CPUs.
            type: float
      log:
        description: Where the output of the container goes.
        type: dict
        suboptions:
          driver:
            description: Logging driver.
            type: str
          options:
            description: Its options.
            type: dict
            default: {}
      endpoint_mode:
        description: How the name of the service resolves.
        type: str
        choices: [dnsrr, vip]
        default: dnsrr
      restart:
        description: When a task that ended is started again.
        type: dict
        suboptions:
          condition:
            description: Which ends count.
            type: str
            choices: [any, on-failure, none]
            default: any
          delay:
            description: Pause before the start.
            type: str
            default: "5"
          max_attempts:
            description: Starts after which it stays down. V(0) is no limit.
            type: int
            default: 0
          window:
            description: Time in which O(services[].restart.max_attempts) are counted.
            type: str
      update:
        description: How the swarm replaces tasks.
        type: dict
        suboptions:
          order:
            description: Whether the old task stops before the new one starts. A port in mode C(host) needs V(stop-first).
            type: str
            choices: [stop-first, start-first]
            default: stop-first
          parallelism:
            description: Tasks replaced at once.
            type: int
            default: 1
          delay:
            description: Pause between replacements.
            type: str
          monitor:
            description: Time in which a new task must not fail.
            type: str
            default: "5"
          failure_action:
            description: What the swarm itself does when a new task fails.
            type: str
            choices: [rollback, pause, continue]
            default: rollback
      stop_grace_period:
        description: Time between the request to stop and killing.
        type: str
      init:
        description: Run an init process in the container. By default as the engine is configured.
        type: bool
      replicas:
        description: Number of tasks.
        type: int
        default: 1
      secrets:
        description: Secrets of the swarm, shown as files below C(/run/secrets).
        type: list
        elements: dict
        default: []
        suboptions: &file
          name:
            description: Its name in the swarm.
            type: str
            required: true
          target:
            description: Name of the file. By default the name in the swarm.
            type: str
          uid:
            description: Owner.
            type: str
          gid:
            description: Group.
            type: str
          mode:
            description: Permissions in octal notation.
            type: str
      configs:
        description: Configs of the swarm, shown as files.
        type: list
        elements: dict
        default: []
        suboptions: *file
  absent:
    description:
      - Names of services of this O(project) to remove, if they exist and are not wanted.
    type: list
    elements: str
    default: []
  adopt:
    description:
      - Names of services without the label that are this O(project)'s nevertheless, and get it. M(hbp.mip.swarm_legacy) finds those that
        the legacy playbooks left.
    type: list
    elements: str
    default: []
    version_added: 0.4.0
  carry_keys:
    description:
      - Name of the keystore's service, when it is updated from one without a volume to one with. Its keys are read before, and written
        into what replaces it. Its container is on this host.
    type: str
    default: ""
    version_added: 0.4.0
  prune:
    description:
      - Remove all services of this O(project) that are not wanted. Otherwise they are only reported in RV(orphans).
    type: bool
    default: false
  resolve_image:
    description:
      - V(always) asks the registry for the digest of each tag, once for each image. When it cannot be reached, a service that already runs
        that tag keeps its digest.
      - V(never) asks nobody. A service that already runs that tag keeps its digest.
    type: str
    choices: [always, never]
    default: always
  on_failure:
    description:
      - What happens to the services changed by this run when one fails. V(keep) leaves them as they are, for a look at the failure.
    type: str
    choices: [rollback, keep]
    default: rollback
  timeout:
    description:
      - Seconds within which the services of one wave must run. A rollback may take as long again.
    type: int
    default: 300
  gate:
    description:
      - What the engine's API has to answer once the services run. If it does not, that counts as a failure of what this run changed.
      - Datasets of O(gate.nodes) that the engine offered before the change have to be offered after it.
    type: dict
    suboptions:
      url:
        description: The engine's API.
        type: str
        required: true
      nodes:
        description: Names of the nodes that have to be active.
        type: list
        elements: str
        default: []
      timeout:
        description: Seconds within which all that has to be true.
        type: int
        default: 180
  settle:
    description:
      - Seconds that the tasks of a created service without a health check must keep running before it counts as started.
    type: int
    default: 2
attributes:
  check_mode:
    description: Reports what would be done, with digests looked up, without doing it.
    support: full
  diff_mode:
    description: Shows the specification of each changed service before and after.
    support: full
  idempotent:
    description: A second run with the same options changes nothing as long as the tags in the registry stay where they are.
    support: full
seealso:
  - module: hbp.mip.swarm_network
  - module: hbp.mip.swarm_nodes
"""

EXAMPLES = r"""
- name: Run the services of the federation
  hbp.mip.swarm_services:
    project: lab
    services:
      - name: lab-ms_exareme-keystore
        node: lab-ms
        wave: 0
        image: 10.77.1.1:5000/keystore:1.8.7
        constraints: ["node.labels.name==lab-ms"]
        networks: [{name: mip-federation, aliases: [exareme-keystore]}]
        mounts: [{type: volume, source: lab_keystore, target: /consul/data}]
      - name: lab-wk-1_exareme
        node: lab-wk-1
        wave: 1
        image: 10.77.1.1:5000/exareme:1.0
        env: {NODE_NAME: lab-wk-1, CONVERT_CSVS: "FALSE"}
        constraints: ["node.labels.name==lab-wk-1"]
        networks: [{name: mip-federation}]
        mounts: [{source: /data/lab, target: /root/exareme/data}]
"""

RETURN = r"""
services:
  description: Each wanted service, and with O(prune=true) each removed one.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the service.
      type: str
    node:
      description: The node it is meant for.
      type: str
    id:
      description: ID of the service.
      type: str
    action:
      description: What was done, or would be done in check mode.
      type: str
      choices: [created, updated, unchanged, removed, rolled_back, failed]
    image:
      description: Its image, with the digest.
      type: str
    waited:
      description: Whether the module waited for it.
      type: bool
    stopped_since:
      description: Since when it is stopped on purpose, see M(hbp.mip.swarm_power). Empty when it is not.
      type: str
    tasks:
      description: Its newest tasks (id, node, state, desired, error, since).
      type: list
      elements: dict
    error:
      description: Why it does not run. Empty when it does.
      type: str
    kind:
      description: Kind of the error.
      type: str
      sample: crash
    fix:
      description: What to do about it.
      type: str
    log:
      description: Last lines of the log of the failed task.
      type: list
      elements: str
    spec_sha256:
      description: Hash of the wanted specification, the same on every swarm.
      type: str
orphans:
  description: Services of this project that are not wanted.
  returned: always
  type: list
  elements: str
resting:
  description: Nodes that are drained, so that their services were not waited for.
  returned: success
  type: list
  elements: str
manager_lost:
  description: This host is no working manager of the swarm; another one can be asked.
  returned: when that is why it failed
  type: bool
"""

import time
from typing import Any, Collection, Dict, List, NamedTuple, Optional, Tuple

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _managers, _services, _stopped, _swarm
from ansible_collections.hbp.mip.plugins.module_utils._api_gate import Gate
from ansible_collections.hbp.mip.plugins.module_utils._carried import Carried
from ansible_collections.hbp.mip.plugins.module_utils._engine import EngineError, engine_call, hide_secrets, open_engine
from ansible_collections.hbp.mip.plugins.module_utils._rollout import (
    CREATED,
    FAILED,
    UNCHANGED,
    UPDATED,
    Item,
    Rejected,
    Rollout,
    read_tasks,
    service_arguments,
    wait_for_turn,
)

REMOVED = "removed"
ROLLED_BACK = "rolled_back"
# What has run for so long is over its failures; clocks of nodes differ by less.
_STEADY_SECONDS = 30


class View(NamedTuple):
    """What the swarm looks like at the start."""

    services: List[Dict[str, Any]]
    networks: Dict[str, str]
    secrets: Dict[str, str]
    configs: Dict[str, str]
    nodes: List[Dict[str, Any]]


def read_view(client: Any, options: List[Dict[str, Any]]) -> View:
    """Everything that planning needs, in a handful of requests."""
    with engine_call("list the services of the swarm"):
        services = client.services()
    with engine_call("list the networks of the swarm"):
        networks = {
            network["Name"]: network["Id"]
            for network in client.networks()
            if network.get("Scope") == "swarm" and not network.get("Ingress")
        }
    secrets: Dict[str, str] = {}
    configs: Dict[str, str] = {}
    if any(item["secrets"] for item in options):
        with engine_call("list the secrets of the swarm"):
            secrets = {secret["Spec"]["Name"]: secret["ID"] for secret in client.secrets()}
    if any(item["configs"] for item in options):
        with engine_call("list the configs of the swarm"):
            configs = {config["Spec"]["Name"]: config["ID"] for config in client.configs()}
    with engine_call("list the nodes of the swarm"):
        nodes = [_swarm.node_summary(node) for node in client.nodes()]
    return View(services, networks, secrets, configs, nodes)


def build_items(
    options: List[Dict[str, Any]], project: str, view: View, networks_may_be_missing: bool = False, adopt: Collection[str] = ()
) -> List[Item]:
    """The wanted services with their specifications. Raises `Rejected` with everything that is wrong with them.

    A service of nobody is touched only when `adopt` names it.
    """
    reasons = []
    names = [item["name"] for item in options]
    for name in sorted({name for name in names if names.count(name) > 1}):
        reasons.append("service %s: given more than once" % name)
    networks = dict(view.networks)
    if networks_may_be_missing:
        for item in options:
            for network in item["networks"]:
                networks.setdefault(network["name"], network["name"])
    by_name = {service["Spec"]["Name"]: service for service in view.services}
    items = []
    for item in options:
        existing = by_name.get(item["name"])
        if existing:
            unowned = not (existing["Spec"].get("Labels") or {}).get(_services.PROJECT_LABEL)
            problem = _services.not_ours(existing, project)
            if problem and not (unowned and item["name"] in adopt):
                reasons.append(problem)
                continue
        try:
            spec = _services.build_spec(item, project, networks, view.secrets, view.configs)
        except _services.SpecError as error:
            reasons.append(str(error))
            continue
        if existing:
            spec = _stopped.kept(spec, existing["Spec"])
        items.append(Item(item, spec, existing))
    if reasons:
        raise Rejected(reasons)
    return sorted(items, key=lambda item: item.wave)


class Images:
    """Resolves tags to digests, each image once."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.answers: Dict[str, Tuple[str, str]] = {}
        self.unreachable: Dict[str, str] = {}

    def digest(self, image: str) -> Tuple[str, str]:
        """The digest of `image` and, when there is none, the engine's words."""
        if image not in self.answers:
            self.answers[image] = self._ask(image)
        return self.answers[image]

    def _ask(self, image: str) -> Tuple[str, str]:
        registry = _services.registry_of(image)
        if registry in self.unreachable:
            return "", self.unreachable[registry]
        try:
            with engine_call(""):
                answer = self.client.inspect_distribution(image)
            return str(answer["Descriptor"]["digest"]), ""
        except EngineError as error:
            text = str(error)[2:] if str(error).startswith(": ") else str(error)
            if not _services.explain_registry(image, text)[0]:
                self.unreachable[registry] = text
            return "", text


def pin_images(items: List[Item], images: Optional[Images]) -> List[str]:
    """Put digests into the specifications of `items`; returns warnings.

    Without `images` no registry is asked. Raises `Rejected` naming each image that cannot be had.
    """
    reasons: List[str] = []
    warnings: List[str] = []
    for item in items:
        image = _services.image_of(item.spec)
        if _services.is_pinned(image):
            continue
        present = _services.image_of(item.before["Spec"]) if item.before else ""
        kept = present if present and _services.without_digest(present) == _services.without_digest(image) else ""
        if images is None:
            item.spec = _services.with_image(item.spec, kept or image)
            continue
        digest, answer = images.digest(image)
        if digest:
            item.spec = _services.with_image(item.spec, "%s@%s" % (_services.without_digest(image), digest))
            continue
        reached, fix = _services.explain_registry(image, answer)
        if kept and not reached:
            item.spec = _services.with_image(item.spec, kept)
            text = "the digest of the image %s could not be looked up (%s). Services that run this tag keep theirs" % (image, answer)
            if text not in warnings:
                warnings.append(text)
            continue
        registry = _services.registry_of(image)
        text = "image %s: %s: %s. Next: %s" % (
            image,
            "the registry %s does not give it" % registry if reached else "the registry %s cannot be asked" % registry,
            answer,
            fix,
        )
        if text not in reasons:
            reasons.append(text)
    if reasons:
        raise Rejected(reasons)
    return warnings


def plan(items: List[Item], tasks: Dict[str, List[Dict[str, Any]]]) -> None:
    """Decide what has to be done with each of `items`. `tasks` are those of existing services, by service ID."""
    for item in items:
        if item.before is None:
            item.action = CREATED
            continue
        old = item.before["Spec"]
        template = item.spec["TaskTemplate"]
        # A forced update of an operator raised the counter. Setting it back would restart the tasks for nothing.
        template["ForceUpdate"] = int((old.get("TaskTemplate") or {}).get("ForceUpdate") or 0)
        differs = _services.canonical(old) != _services.canonical(item.spec)
        item.interrupted = _services.needs_repair(item.before)
        item.dead = not differs and _services.is_dead(item.spec, tasks.get(item.service_id, []))
        if item.dead:
            # Nobody starts it again, unless its tasks are wanted anew.
            template["ForceUpdate"] += 1
        item.replaces_tasks = _services.tasks_are_replaced(old, item.spec)
        if differs or item.interrupted or item.dead:
            item.action = UPDATED


class Deployment(Rollout):
    """Carries out a plan."""

    def __init__(self, module: AnsibleModule, client: Any, items: List[Item], nodes: List[Dict[str, Any]]) -> None:
        super().__init__(module, client, nodes)
        self.items = items
        self.network_names: Dict[str, str] = {}

    def read_services(self) -> Dict[str, Dict[str, Any]]:
        """The services of this project by ID; those, too, that were going to be and went back to being nobody's."""
        found = super().read_services()
        adopted = [item.service_id for item in self.items if item.name in self.module.params["adopt"] and item.service_id]
        if set(adopted) - set(found):
            with engine_call("list the services of the swarm"):
                found.update({str(service["ID"]): service for service in self.client.services() if service["ID"] in adopted})
        return found

    # --- writing

    def create(self, item: Item) -> None:
        """Create the service of `item`."""
        with engine_call("create the service %s" % item.name):
            answer = self.client.create_service(item.spec["TaskTemplate"], **service_arguments(item.spec))
        item.service_id = str(answer["ID"])
        item.applied = True

    # --- waves

    def let_rest(self, names: Collection[str]) -> List[str]:
        """Wait for none of these services whose node is drained, which somebody wanted; returns the names of the nodes."""
        drained = self.drained()
        found = [item for item in self.items if item.name in names and item.wait and item.node in drained]
        for item in found:
            item.wait = False
        return sorted({item.node for item in found})

    def run(self) -> bool:
        """Apply all waves. Returns whether everything that is waited for runs."""
        if not any(item.action == UPDATED for item in self.items):
            # Nothing that runs could be disturbed by an order, and the nodes fetch their images at the same time.
            return self.run_wave(self.items)
        for wave in sorted({item.wave for item in self.items}):
            members = [item for item in self.items if item.wave == wave]
            if not self.run_wave(members):
                return False
        return True

    def run_wave(self, members: List[Item]) -> bool:
        """Apply one wave and wait for it."""
        tasks = self.read_tasks(members)
        for item in members:
            present = tasks.get(item.service_id, [])
            # Where nothing changes, the swarm tries again by itself: what failed before may be mended since.
            item.start_waiting(item.spec, _services.ended(present) if item.action == UNCHANGED else present)
            if item.action == UNCHANGED:
                item.stumbles = _services.stumbles(present, _swarm.iso_time(time.time() - _STEADY_SECONDS))
                continue
            try:
                if item.action == CREATED:
                    self.create(item)
                else:
                    item.applied = True
                    self.update(item, item.spec)
            except EngineError as error:
                item.failure = _services.Failure("refused", str(error), "correct the service; docker service inspect " + item.name)
        self.wait_for([item for item in members if item.wait and item.failure is None])
        failed = [item for item in members if item.failure]
        for item in failed:
            item.log = self.last_log_lines(item)
        return not failed

    def refuse(self, reason: str) -> str:
        """Let all that this run changed count as failed because of `reason`; returns it as text."""
        failure = _services.Failure("gate", reason, "mipfed status; mipfed verify")
        changed = [item for item in self.items if item.applied]
        for item in changed:
            item.failure = failure
        return "" if changed else "%s. It was not changed by this run" % reason

    # --- going back

    def roll_back(self) -> List[str]:
        """Take back what this run changed. Returns what could not be taken back."""
        problems: List[str] = []
        back: List[Item] = []
        for item in reversed(self.items):
            try:
                if item.action == CREATED and item.failure and item.service_id:
                    with engine_call("remove the service %s" % item.name):
                        self.client.remove_service(item.service_id)
                elif item.action == UPDATED and item.applied and item.before:
                    self._restore(item, item.before["Spec"])
                    back.append(item)
            except EngineError as error:
                problems.append(str(error))
        kept = {item.name: (item.failure, item.log, item.failed_task, item.tasks) for item in back}
        tasks = self.read_tasks(back)
        for item in back:
            item.start_waiting(item.before["Spec"] if item.before else item.spec, tasks.get(item.service_id, []))
            item.action = ROLLED_BACK
        self.wait_for([item for item in back if item.wait])
        for item in back:
            if item.failure:
                problems.append("after going back: " + self.explain(item))
            item.failure, item.log, item.failed_task, _unused = kept[item.name]
        return problems

    def _restore(self, item: Item, spec: Dict[str, Any]) -> None:
        with engine_call("inspect the service %s" % item.name):
            service = self.client.inspect_service(item.service_id)
        same = _services.canonical(service["Spec"]) == _services.canonical(spec)
        # Same specification: the swarm went, or is going, back by itself.
        if not same or _services.needs_repair(service):
            self.update(item, spec)

    def prune(self, orphans: List[Dict[str, Any]]) -> None:
        """Remove services that are not wanted any more."""
        for service in orphans:
            with engine_call("remove the service %s" % service["Spec"]["Name"]):
                self.client.remove_service(service["ID"])

    def result(self, item: Item, check_mode: bool) -> Dict[str, Any]:
        """What the module returns about `item`."""
        action = FAILED if item.failure and item.action != ROLLED_BACK else item.action
        return {
            **self.describe(item),
            "action": action,
            "waited": item.wait and not check_mode,
            "stopped_since": _stopped.since(item.spec),
            "spec_sha256": _services.spec_hash(item.spec, self.network_names),
        }


def diff_of(items: List[Item], removed: List[Dict[str, Any]], networks: Dict[str, str]) -> Dict[str, Any]:
    """Specifications before and after, of the services that change."""
    names = {network_id: name for name, network_id in networks.items()}
    before: Dict[str, Any] = {}
    after: Dict[str, Any] = {}
    for item in items:
        if item.action == UNCHANGED:
            continue
        after[item.name] = _services.readable(item.spec, names)
        if item.before:
            before[item.name] = _services.readable(item.before["Spec"], names)
            if item.interrupted:
                before[item.name]["interrupted_update"] = item.before["UpdateStatus"]["State"]
            if item.dead:
                before[item.name]["given_up_by_the_swarm"] = True
    for service in removed:
        before[service["Spec"]["Name"]] = _services.readable(service["Spec"], names)
    return {"before": before, "after": after}


_FILE_OPTIONS: Dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "target": {"type": "str"},
    "uid": {"type": "str"},
    "gid": {"type": "str"},
    "mode": {"type": "str"},
}

_SERVICE_OPTIONS: Dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "node": {"type": "str", "default": ""},
    "wave": {"type": "int", "default": 0},
    "wait": {"type": "bool", "default": True},
    "may_rest": {"type": "bool", "default": False},
    "image": {"type": "str", "required": True},
    "command": {"type": "list", "elements": "str", "default": []},
    "args": {"type": "list", "elements": "str", "default": []},
    "env": {"type": "dict", "default": {}},
    "mounts": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "type": {"type": "str", "choices": ["bind", "volume", "tmpfs"], "default": "bind"},
            "source": {"type": "str"},
            "target": {"type": "str", "required": True},
            "read_only": {"type": "bool", "default": False},
        },
    },
    "networks": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "aliases": {"type": "list", "elements": "str", "default": []},
        },
    },
    "constraints": {"type": "list", "elements": "str", "default": []},
    "ports": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "target": {"type": "int", "required": True},
            "published": {"type": "int"},
            "protocol": {"type": "str", "choices": ["tcp", "udp", "sctp"], "default": "tcp"},
            "mode": {"type": "str", "choices": ["host", "ingress"], "default": "host"},
        },
    },
    "labels": {"type": "dict", "default": {}},
    "container_labels": {"type": "dict", "default": {}},
    "hostname": {"type": "str", "default": ""},
    "healthcheck": {
        "type": "dict",
        "options": {
            "test": {"type": "raw"},
            "interval": {"type": "str"},
            "timeout": {"type": "str"},
            "retries": {"type": "int"},
            "start_period": {"type": "str"},
        },
    },
    "limits": {
        "type": "dict",
        "options": {"memory_mb": {"type": "int"}, "cpus": {"type": "float"}, "pids": {"type": "int"}},
    },
    "reservations": {
        "type": "dict",
        "options": {"memory_mb": {"type": "int"}, "cpus": {"type": "float"}},
    },
    "log": {
        "type": "dict",
        "options": {"driver": {"type": "str"}, "options": {"type": "dict", "default": {}}},
    },
    "endpoint_mode": {"type": "str", "choices": ["dnsrr", "vip"], "default": "dnsrr"},
    "restart": {
        "type": "dict",
        "options": {
            "condition": {"type": "str", "choices": ["any", "on-failure", "none"], "default": "any"},
            "delay": {"type": "str", "default": "5"},
            "max_attempts": {"type": "int", "default": 0},
            "window": {"type": "str"},
        },
    },
    "update": {
        "type": "dict",
        "options": {
            "order": {"type": "str", "choices": ["stop-first", "start-first"], "default": "stop-first"},
            "parallelism": {"type": "int", "default": 1},
            "delay": {"type": "str"},
            "monitor": {"type": "str", "default": "5"},
            "failure_action": {"type": "str", "choices": ["rollback", "pause", "continue"], "default": "rollback"},
        },
    },
    "stop_grace_period": {"type": "str"},
    "init": {"type": "bool"},
    "replicas": {"type": "int", "default": 1},
    "secrets": {"type": "list", "elements": "dict", "default": [], "options": _FILE_OPTIONS, "no_log": False},
    "configs": {"type": "list", "elements": "dict", "default": [], "options": _FILE_OPTIONS},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str", "required": True},
            "services": {"type": "list", "elements": "dict", "required": True, "options": _SERVICE_OPTIONS},
            "absent": {"type": "list", "elements": "str", "default": []},
            "adopt": {"type": "list", "elements": "str", "default": []},
            "carry_keys": {"type": "str", "default": "", "no_log": False},
            "prune": {"type": "bool", "default": False},
            "resolve_image": {"type": "str", "choices": ["always", "never"], "default": "always"},
            "on_failure": {"type": "str", "choices": ["rollback", "keep"], "default": "rollback"},
            "gate": {
                "type": "dict",
                "options": {
                    "url": {"type": "str", "required": True},
                    "nodes": {"type": "list", "elements": "str", "default": []},
                    "timeout": {"type": "int", "default": 180},
                },
            },
            "timeout": {"type": "int", "default": 300},
            "settle": {"type": "int", "default": 2},
            "docker_host": {"type": "str", "default": "unix:///var/run/docker.sock"},
            "engine_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    options: List[Dict[str, Any]] = module.params["services"]
    project = module.params["project"]
    would = "would create %d services" % len(options)
    virgin = {
        "changed": bool(options),
        "services": [{"name": item["name"], "node": item["node"], "action": CREATED, "image": item["image"]} for item in options],
        "orphans": [],
        "diff": {"before": {}, "after": {item["name"]: {"image": item["image"]} for item in options}},
    }
    client = open_engine(module, would, virgin)
    try:
        with engine_call("read the state of the engine"):
            local = _swarm.local_state(client)
        if module.check_mode and local.state == _swarm.NONE:
            module.exit_json(msg="%s once the swarm exists" % would, **virgin)
        _managers.require(client)
        turn = None if module.check_mode else wait_for_turn(project, 2 * module.params["timeout"])
        view = read_view(client, options)
        items = build_items(options, project, view, networks_may_be_missing=module.check_mode, adopt=module.params["adopt"])
        for text in pin_images(items, Images(client) if module.params["resolve_image"] == "always" else None):
            module.warn(text)
        plan(items, read_tasks(client, [item.service_id for item in items if item.service_id]))
    except Rejected as error:
        module.fail_json(msg="%s. Nothing was changed" % error, errors=error.reasons)
    except (_swarm.SwarmError, EngineError) as error:
        module.fail_json(msg=str(error), manager_lost=_managers.lost(error))
    for item in items:
        if _stopped.since(item.spec):
            module.warn("%s stays stopped: it is %s. Next: mipfed start" % (item.name, _stopped.told(item.spec)))
    names = {item.name for item in items}
    orphans = [
        service
        for service in view.services
        if (service["Spec"].get("Labels") or {}).get(_services.PROJECT_LABEL) == project and service["Spec"]["Name"] not in names
    ]
    absent = module.params["absent"]
    removed = [service for service in orphans if module.params["prune"] or service["Spec"]["Name"] in absent]
    diff = diff_of(items, removed, view.networks)
    changed = bool(removed) or any(item.action != UNCHANGED for item in items)
    deployment = Deployment(module, client, items, view.nodes)
    resting = deployment.let_rest({str(option["name"]) for option in options if option["may_rest"]})
    deployment.network_names = {network_id: name for name, network_id in view.networks.items()}
    if not module.check_mode:
        apply(module, deployment, removed, diff)
    if turn:
        turn.close()
    module.exit_json(
        changed=changed,
        services=[deployment.result(item, module.check_mode) for item in items]
        + [{"name": service["Spec"]["Name"], "node": "", "id": service["ID"], "action": REMOVED, "error": ""} for service in removed],
        orphans=sorted(service["Spec"]["Name"] for service in orphans),
        resting=resting,
        diff=diff,
    )


def apply(module: AnsibleModule, deployment: Deployment, removed: List[Dict[str, Any]], diff: Dict[str, Any]) -> None:
    """Carry out the plan; ends the module when a service fails."""
    problems: List[str] = []
    items = deployment.items
    wanted = module.params["gate"]
    # No engine runs on a drained node, whatever it runs elsewhere.
    gate = Gate(**{**wanted, "nodes": sorted(set(wanted["nodes"]) - deployment.drained())}) if wanted else None
    if gate:
        gate.look()
    carried = Carried(module.params["carry_keys"], module.params["timeout"]) if module.params["carry_keys"] else None
    if carried and not any(item.name == carried.service and item.action == UPDATED and item.replaces_tasks for item in items):
        carried = None
    try:
        if carried:
            carried.take()
        done = deployment.run()
        if carried and done:
            carried.give()
        refused = gate.ask() if done and gate else ""
        if refused:
            problems.append(deployment.refuse(refused))
        elif done:
            deployment.prune(removed)
            return
    except EngineError as error:
        problems.append(str(error))
    failures = [item for item in items if item.failure]
    manager_lost = bool(problems) and not failures and _managers.lost(EngineError(problems[0]))
    text = ["%d of %d services do not run:" % (len(failures), len(items))] if failures else []
    text += [deployment.explain(item) for item in failures] + [problem for problem in problems if problem]
    applied = [item for item in items if item.applied]
    if module.params["on_failure"] == "keep":
        text.append("What this run changed was left as it is (on_failure: keep).")
    elif applied:
        problems = deployment_roll_back(deployment, carried)
        back = [item.name for item in items if item.action == ROLLED_BACK]
        gone = [item.name for item in items if item.action == CREATED and item.failure and item.applied]
        kept = [item.name for item in items if item.action == CREATED and not item.failure and item.applied]
        if back:
            text.append("Went back to the previous specification: %s." % ", ".join(back))
        if gone:
            text.append("Removed again: %s." % ", ".join(gone))
        if kept:
            text.append("Created and kept: %s." % ", ".join(kept))
        text += problems
    module.fail_json(
        msg=hide_secrets("\n".join(text)),
        changed=bool(applied),
        services=[deployment.result(item, False) for item in items],
        failed_services=[item.name for item in failures],
        manager_lost=manager_lost,
        diff=diff,
    )


def deployment_roll_back(deployment: Deployment, carried: Optional[Carried] = None) -> List[str]:
    """Roll back; what goes wrong meanwhile is returned as text."""
    try:
        problems = deployment.roll_back()
        if carried:
            carried.give()
        return problems
    except EngineError as error:
        return ["Going back failed: %s" % error]


if __name__ == "__main__":
    main()
