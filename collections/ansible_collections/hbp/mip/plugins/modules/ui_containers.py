#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ui_containers
short_description: The containers of the web portal on its node
version_added: 0.4.0
description:
  - Takes the whole wanted set of containers with their own network, makes what is missing, replaces what differs, waits until each is
    healthy before the next one is touched, and explains what does not run.
  - Images that are not there are fetched before the first container is stopped.
  - A container that is replaced is kept until the new one is healthy. When that fails, it comes back.
  - Secrets are files below C(/run/secrets) of the container that needs them. An image that takes one from its environment only gets it
    there when its program starts, so that the engine does not show it.
  - Only containers with the label C(eu.humanbrainproject.mip.federation) of this O(project) are ever touched.
  - What was stopped on purpose stays so until O(state=started).
extends_documentation_fragment:
  - hbp.mip.engine
author:
  - The hbp.mip authors (@HBPMedical)
options:
  project:
    description: Name of the federation. It marks its containers.
    type: str
    required: true
  state:
    description:
      - V(present) makes the set as it is wanted. V(started), V(stopped) and V(restarted) act on the containers that are there.
      - V(queried) looks, and changes nothing. V(absent) removes containers and network; volumes and secrets stay.
    type: str
    choices: [present, started, stopped, restarted, queried, absent]
    default: present
  network:
    description: Name of their network, a bridge of this host.
    type: str
    default: ""
  directory:
    description:
      - Folder of this host for secrets, which only root can enter.
      - Passwords that are generated are made there once. Without them the volumes of the portal cannot be opened.
    type: path
    required: true
  only:
    description: Components to start, stop, restart, or look at. All when empty.
    type: list
    elements: str
    default: []
  reason:
    description: Why they are stopped, for those who look later.
    type: str
    default: ""
  lines:
    description: How many lines of the log of each component are returned.
    type: int
    default: 0
  timeout:
    description: Seconds within which one container must be healthy.
    type: int
    default: 300
  settle:
    description: Seconds that a container without a health check must keep running.
    type: float
    default: 2
  allow_downgrade:
    description: Replace a container that has O(containers[].versioned_data) by one with an older image.
    type: bool
    default: false
  files:
    description: Files of this host for the containers, written before these are looked at.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where. Its folder is made.
        type: path
        required: true
      content:
        description: What is in it.
        type: str
        default: ""
      secret:
        description: The same, for what must not be shown.
        type: str
        default: ""
      mode:
        description: Permissions in octal notation.
        type: str
        default: "0644"
      keep:
        description: Leave a file alone that is there.
        type: bool
        default: false
  containers:
    description: The wanted containers, in the order in which they are started.
    type: list
    elements: dict
    default: []
    suboptions:
      component:
        description: What it is for. The container is called C(<project>_portal-<component>).
        type: str
        required: true
      image:
        description: Its image, best with a digest.
        type: str
        required: true
      once:
        description: It does its work once and ends. It does so again only when something of it is changed.
        type: bool
        default: false
      versioned_data:
        description:
          - Each version may change the data, and an older one may not read them any more. An image whose tag is of an older version than
            that of the container is refused, before anything is changed.
        type: bool
        default: false
      args:
        description: Replaces the command of the image.
        type: list
        elements: str
        default: []
      env:
        description: Environment. Values must be texts or numbers.
        type: dict
        default: {}
      secrets:
        description: Files below C(/run/secrets).
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description: Name of the file, and of the variable.
            type: str
            required: true
          generate:
            description: Name of a password that is made on this host. Containers that name the same one get the same.
            type: str
            default: ""
          value:
            description: What it is, when it is not made here.
            type: str
            default: ""
          environment:
            description: The image knows no file; its program gets it as a variable of its environment. The image must have a shell.
            type: bool
            default: false
      mounts:
        description: Folders and volumes.
        type: list
        elements: dict
        default: []
        suboptions:
          type:
            description: Kind of mount.
            type: str
            choices: [bind, volume]
            default: bind
          source:
            description: Folder of the host, or name of the volume.
            type: str
            required: true
          target:
            description: Folder in the container.
            type: str
            required: true
          read_only:
            description: Forbid writing.
            type: bool
            default: false
      watch:
        description: Files of this host that the container reads at its start only. It is made anew when one of them is changed.
        type: list
        elements: path
        default: []
      ports:
        description: Published TCP ports.
        type: list
        elements: dict
        default: []
        suboptions:
          target:
            description: Port in the container.
            type: int
            required: true
          published:
            description: Port of the host.
            type: int
            required: true
          address:
            description: Address of the host; by default all of them.
            type: str
            default: ""
      aliases:
        description: Further names on the network.
        type: list
        elements: str
        default: []
      hostname:
        description: Host name in the container; by default the component.
        type: str
        default: ""
      healthcheck:
        description: When it counts as healthy.
        type: dict
        suboptions:
          test:
            description: A command.
            type: list
            elements: str
            default: []
          interval:
            description: Time between checks, in seconds or as C(1m30s).
            type: str
          timeout:
            description: Time a check may take.
            type: str
          retries:
            description: Failed checks in a row that make it unhealthy.
            type: int
          start_period:
            description: Time in which failed checks do not count.
            type: str
      limits:
        description: What it may use at most.
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
      log:
        description: Rotation of its log.
        type: dict
        suboptions:
          max_size:
            description: Size of one file.
            type: str
            default: 10m
          max_files:
            description: Number of files.
            type: int
            default: 3
      stop_seconds:
        description: Time between the request to stop and killing.
        type: int
        default: 10
attributes:
  check_mode:
    description: Reports what would be done without doing it.
    support: full
  diff_mode:
    description: Shows what each changed container is made of before and after. Of secrets it shows only that they are others.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Run a database and what fills it
  hbp.mip.ui_containers:
    project: lab
    network: lab_portal
    directory: /var/lib/mip/lab/portal-secrets
    containers:
      - component: database
        image: postgres:11.3-alpine
        secrets: [{name: POSTGRES_PASSWORD, generate: database-admin}]
        env: {POSTGRES_PASSWORD_FILE: /run/secrets/POSTGRES_PASSWORD}
        mounts: [{type: volume, source: lab_portal-database, target: /var/lib/postgresql/data}]
        healthcheck: {test: [pg_isready], interval: 5s}
"""

RETURN = r"""
containers:
  description: Each container, in the order of O(containers) and then those that are not wanted.
  returned: always
  type: list
  elements: dict
  contains:
    component:
      description: What it is for.
      type: str
    name:
      description: Its name.
      type: str
    action:
      description: What was done, or would be done in check mode.
      type: str
      choices: [created, replaced, started, stopped, restarted, removed, unchanged, restored, failed, waiting]
    state:
      description: V(up), V(done), V(starting), V(failed), V(stopped) or V(missing).
      type: str
    image:
      description: Its image.
      type: str
    since:
      description: Since when it runs.
      type: str
    restarts:
      description: How often the engine had to start it again.
      type: int
    ports:
      description: What it publishes, as C(address:port->port).
      type: list
      elements: str
    stopped:
      description: C(since) and C(reason), when it was stopped on purpose.
      type: dict
    error:
      description: Why it does not run.
      type: str
    fix:
      description: What to do about it.
      type: str
    log:
      description: Last lines of its log, when it failed or when they were asked for.
      type: list
      elements: str
"""

import contextlib
import json
import os
import time
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _containers, _files, _image_store
from ansible_collections.hbp.mip.plugins.module_utils._containers import PREVIOUS, ContainerError
from ansible_collections.hbp.mip.plugins.module_utils._engine import EngineError, engine_call, open_engine, post_json
from ansible_collections.hbp.mip.plugins.module_utils._registry import RegistryError
from ansible_collections.hbp.mip.plugins.module_utils._rollout import wait_for_turn
from ansible_collections.hbp.mip.plugins.module_utils._services import SpecError

_STOPPED = "stopped.json"
_PAUSE = 0.3
_LOG_LINES = 15


class _Gone(EngineError):
    """The container is not there."""


class Item:
    """One container: how it is wanted, how it is, and what was done."""

    def __init__(self, component: str, name: str) -> None:
        """Know nothing but its name."""
        self.component = component
        self.name = name
        self.options: Optional[Dict[str, Any]] = None
        self.body: Dict[str, Any] = {}
        self.secrets: Dict[str, str] = {}
        self.wanted: Dict[str, Any] = {}
        self.action = "unchanged"
        self.error = ""
        self.fix = ""
        self.log: List[str] = []

    @property
    def once(self) -> bool:
        """Whether it does its work once."""
        return bool(self.options and self.options["once"])


class Portal:
    """The containers of a project on one engine."""

    def __init__(self, module: AnsibleModule, client: Any) -> None:
        """Read what is there. Raises EngineError, ContainerError and SpecError."""
        self.module, self.client = module, client
        self.params: Dict[str, Any] = module.params
        self.project: str = self.params["project"]
        self.dry: bool = module.check_mode
        self.files = _containers.SecretFiles(self.params["directory"], self.dry)
        self.changed = False
        self.given = _containers.write_files(self.params["files"], self.dry) if self.params["state"] == "present" else {}
        self.there = self.read()
        self.before = {name: _containers.spec_of(found["Config"].get("Labels")) for name, found in self.there.items()}
        self.stops = self.read_stops()
        self.items = self.list_items()

    # --- looking -----------------------------------------------------------------------------------------------------

    def read(self) -> Dict[str, Dict[str, Any]]:
        """Return the containers of the project by name."""
        with engine_call("list the containers"):
            label = ["%s=%s" % (_containers.PROJECT, self.project), _containers.COMPONENT]
            ids = [found["Id"] for found in self.client.containers(all=True, filters={"label": label})]
        found = {}
        for identifier in ids:
            with contextlib.suppress(_Gone):
                answer = self.inspect(identifier)
                found[str(answer["Name"]).lstrip("/")] = answer
        return found

    def inspect(self, name: str) -> Dict[str, Any]:
        """Return one container. Raises _Gone."""
        try:
            with engine_call("look at the container %s" % name):
                answer: Dict[str, Any] = self.client.inspect_container(name)
                return answer
        except EngineError as error:
            if error.status == 404:
                raise _Gone(str(error)) from error
            raise

    def read_stops(self) -> Dict[str, Dict[str, str]]:
        """Return what was stopped on purpose, by component."""
        data = _containers.read_bytes(os.path.join(self.params["directory"], _STOPPED))
        try:
            found = json.loads(data or b"{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def write_stops(self) -> None:
        """Keep what was stopped on purpose."""
        if self.dry:
            return
        os.makedirs(self.params["directory"], mode=0o700, exist_ok=True)
        _files.replace(os.path.join(self.params["directory"], _STOPPED), json.dumps(self.stops).encode("utf-8"), 0o600)

    def list_items(self) -> List[Item]:
        """Return all containers, the wanted ones first."""
        items: Dict[str, Item] = {}
        for options in self.params["containers"]:
            component = str(options["component"])
            if component in items:
                raise ContainerError("%s is wanted twice" % component)
            item = items[component] = Item(component, "%s_portal-%s" % (self.project, component))
            item.options = options
            item.secrets = _containers.secret_values(options, self.files)
            item.body = _containers.build(options, self.project, self.params["network"], self.files.path(component))
            marks = {name: self.files.mark(value.encode("utf-8")) for name, value in item.secrets.items()}
            item.wanted = _containers.readable(item.body, options, marks, _containers.file_marks(options["watch"], self.given))
        for name, found in sorted(self.there.items()):
            component = str(found["Config"]["Labels"][_containers.COMPONENT])
            if component not in items and not name.endswith(PREVIOUS):
                items[component] = Item(component, name)
        return list(items.values())

    def chosen(self) -> List[Item]:
        """Return the items that are meant. Raises ContainerError for one that is not there."""
        only = self.params["only"]
        unknown = sorted(set(only) - {item.component for item in self.items})
        if unknown:
            known = ", ".join(item.component for item in self.items) or "no component"
            raise ContainerError("this host has no %s; it has %s" % (", ".join(unknown), known))
        return [item for item in self.items if not only or item.component in only]

    def rests(self, item: Item) -> bool:
        """Whether a container was stopped on purpose, and does not run."""
        return item.component in self.stops and not self.there[item.name]["State"].get("Running")

    def condition(self, item: Item) -> Tuple[str, str]:
        """Return how a container is, and why it failed."""
        found = self.there.get(item.name)
        if found is None:
            return "missing", ""
        once = str((found["HostConfig"].get("RestartPolicy") or {}).get("Name")) == "on-failure"
        if self.rests(item):
            return "stopped", ""
        return _containers.condition(found["State"], once, bool((found["Config"].get("Healthcheck") or {}).get("Test")))

    # --- present -----------------------------------------------------------------------------------------------------

    def present(self) -> None:
        """Make the set as it is wanted."""
        unwanted = [item for item in self.items if item.options is None]
        wanted = [item for item in self.items if item.options is not None]
        self.refuse_downgrades(wanted)
        images = self.fetch_images(wanted)
        self.make_network()
        if not self.dry:
            self.settle_leftovers()
        for item in unwanted:
            self.remove(item)
        for item in wanted:
            if any(earlier.error for earlier in wanted):
                item.action = "waiting"
            else:
                self.ensure(item, images[str(item.body["Image"])])

    def refuse_downgrades(self, items: List[Item]) -> None:
        """Raise ContainerError when an image is older than the one that has written the data."""
        if self.params["allow_downgrade"]:
            return
        for item in items:
            found = self.there.get(item.name) or self.there.get(item.name + PREVIOUS)
            if not item.options or not item.options["versioned_data"] or found is None:
                continue
            before, after = str(found["Config"]["Image"]), str(item.body["Image"])
            if _containers.older(after, before):
                raise ContainerError(
                    "%s: %s is older than %s, which may have changed the data so that an older one cannot read them. Nothing was changed"
                    % (item.name, after.partition("@")[0], before.partition("@")[0])
                )

    def fetch_images(self, items: List[Item]) -> Dict[str, Dict[str, Any]]:
        """Fetch what is missing before anything is stopped, and return what the engine knows of each image."""
        found: Dict[str, Dict[str, Any]] = {}
        for image in dict.fromkeys(str(item.body["Image"]) for item in items):
            known = _image_store.inspect(self.client, image)
            if known is None:
                self.changed = True
                if not self.dry:
                    _image_store.fetch(self.client, image)
                    known = _image_store.inspect(self.client, image)
            found[image] = known or {}
        return found

    def make_network(self) -> None:
        """Make the network if it is not there."""
        name = self.params["network"]
        with engine_call("look at the network %s" % name):
            there = [net for net in self.client.networks(names=[name]) if net["Name"] == name]
        if there:
            labels = there[0].get("Labels") or {}
            if labels.get(_containers.PROJECT) != self.project:
                raise ContainerError(
                    "the network %s is not of federation %s. Next: docker network inspect %s; remove it if nobody needs it"
                    % (name, self.project, name)
                )
            return
        self.changed = True
        if not self.dry:
            with engine_call("make the network %s" % name):
                self.client.create_network(name, driver="bridge", check_duplicate=True, labels={_containers.PROJECT: self.project})

    def settle_leftovers(self) -> None:
        """End what a run that was cut off has left: the previous container goes, or comes back if there is no other."""
        for name in [name for name in self.there if name.endswith(PREVIOUS)]:
            current = name[: -len(PREVIOUS)]
            component = str(self.there[name]["Config"]["Labels"][_containers.COMPONENT])
            state = self.condition(Item(component, current))[0]
            if state in ("up", "done", "stopped"):
                self.discard(name)
            else:
                if current in self.there:
                    self.discard(current)
                self.rename(name, current)
            self.changed = True

    def ensure(self, item: Item, image: Mapping[str, Any]) -> None:
        """Make one container as it is wanted, and wait for it."""
        found = self.there.get(item.name)
        self.files.write(item.component, item.secrets)
        if found is not None and self.before.get(item.name) == item.wanted and self.same_image(found, image):
            self.keep(item)
            return
        item.action = "replaced" if found is not None else "created"
        self.changed = True
        if self.dry:
            return
        rests = item.component in self.stops
        if found is not None:
            self.stop(item)
            self.rename(item.name, item.name + PREVIOUS)
        try:
            self.create(item, image)
            if not rests:
                self.start(item)
                self.wait(item)
        except (EngineError, ContainerError) as error:
            item.error = item.error or str(error)
        if item.error:
            self.restore(item, found is not None, rests)
        elif found is not None:
            self.discard(item.name + PREVIOUS)

    @staticmethod
    def same_image(found: Mapping[str, Any], image: Mapping[str, Any]) -> bool:
        """Whether a container runs what its image is now: a tag may have been fetched again by somebody."""
        return not image or found.get("Image") == image.get("Id")

    def keep(self, item: Item) -> None:
        """See that a container that needs no change runs."""
        state = self.condition(item)[0]
        if state in ("up", "done", "stopped"):
            return
        if state == "starting" and self.there[item.name]["State"].get("Running"):
            if not self.dry:
                self.wait(item)
            return
        item.action = "started"
        self.changed = True
        if self.dry or item.component in self.stops:
            return
        if state == "failed" and self.there[item.name]["State"].get("Running"):
            with engine_call("restart the container %s" % item.name):
                self.client.restart(item.name, timeout=item.options["stop_seconds"] if item.options else 10)
        else:
            self.start(item)
        self.wait(item)

    def create(self, item: Item, image: Mapping[str, Any]) -> None:
        """Make a container. It is not started."""
        names = _containers.secret_names(item.options or {})
        body = _containers.wrapped(item.body, names, image)
        body = _containers.with_labels(body, self.project, item.component, item.wanted)
        with engine_call("make the container %s" % item.name):
            post_json(self.client, "/containers/create?name=%s" % item.name, body)
        self.there[item.name] = self.inspect(item.name)

    def restore(self, item: Item, existed: bool, rests: bool) -> None:
        """Bring the previous container back after the new one failed."""
        item.action = "failed"
        item.log = item.log or self.last_lines(item.name, _LOG_LINES)
        with contextlib.suppress(EngineError):
            self.discard(item.name)
        if not existed:
            return
        with contextlib.suppress(EngineError):
            self.rename(item.name + PREVIOUS, item.name)
            if not rests:
                self.start(item)
            item.action = "restored"

    # --- single steps ------------------------------------------------------------------------------------------------

    def start(self, item: Item) -> None:
        """Start a container."""
        with engine_call("start the container %s" % item.name):
            post_json(self.client, "/containers/%s/start" % item.name, {})

    def stop(self, item: Item) -> None:
        """Stop a container."""
        seconds = int((self.there[item.name]["Config"].get("StopTimeout")) or 10)
        with engine_call("stop the container %s" % item.name):
            self.client.stop(item.name, timeout=seconds)

    def rename(self, old: str, new: str) -> None:
        """Give a container another name."""
        with engine_call("rename the container %s" % old):
            self.client.rename(old, new)
        self.there[new] = self.there.pop(old)

    def discard(self, name: str) -> None:
        """Remove a container; its named volumes stay."""
        try:
            with engine_call("remove the container %s" % name):
                self.client.remove_container(name, force=True, v=True)
        except EngineError as error:
            if error.status != 404:
                raise
        self.there.pop(name, None)

    def remove(self, item: Item) -> None:
        """Remove a container that is not wanted."""
        item.action = "removed"
        self.changed = True
        if not self.dry:
            if self.there[item.name]["State"].get("Running"):
                self.stop(item)
            self.discard(item.name)

    def wait(self, item: Item) -> None:
        """Wait until a container is healthy, or has done its work."""
        begin = time.monotonic()
        deadline = begin + self.params["timeout"]
        for _unused in _until(deadline):
            try:
                self.there[item.name] = self.inspect(item.name)
            except _Gone:
                item.error = "somebody removed it"
                return
            state, reason = self.condition(item)
            checked = bool((self.there[item.name]["Config"].get("Healthcheck") or {}).get("Test"))
            if state == "done" or (state == "up" and (checked or time.monotonic() - begin >= self.params["settle"])):
                return
            if state == "failed":
                item.error = reason
                break
        else:
            item.error = "it was not healthy within %d s" % self.params["timeout"]
        item.log = self.last_lines(item.name, _LOG_LINES)
        item.fix = "docker logs %s; then run the same again" % item.name

    def last_lines(self, name: str, lines: int) -> List[str]:
        """Return the last lines of a container's log."""
        try:
            with engine_call("read the log of %s" % name):
                data = self.client.logs(name, stdout=True, stderr=True, tail=lines, timestamps=False)
        except EngineError:
            return []
        return data.decode("utf-8", "replace").splitlines() if isinstance(data, bytes) else []

    # --- other states ------------------------------------------------------------------------------------------------

    def started(self) -> None:
        """Start what is not running, and wait for it."""
        for item in self.chosen():
            if item.component in self.stops:
                del self.stops[item.component]
                self.changed = True
                self.write_stops()
            if item.name not in self.there:
                item.error, item.fix = "it was not made yet", "mipfed -f %s deploy" % self.project
                continue
            self.keep(item)
            if item.error:
                return

    def stopped(self) -> None:
        """Stop, the last one first, and remember that it was on purpose."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        for item in reversed(self.chosen()):
            found = self.there.get(item.name)
            if found is None or self.condition(item)[0] == "done" or self.rests(item):
                continue
            item.action = "stopped"
            self.changed = True
            if self.dry:
                continue
            self.stops[item.component] = {"since": now, "reason": self.params["reason"]}
            self.write_stops()
            self.stop(item)
            self.there[item.name] = self.inspect(item.name)

    def restarted(self) -> None:
        """Restart one after the other; what was stopped on purpose stays so."""
        for item in self.chosen():
            found = self.there.get(item.name)
            if found is None or item.component in self.stops or self.condition(item)[0] == "done":
                continue
            item.action = "restarted"
            self.changed = True
            if self.dry:
                continue
            with engine_call("restart the container %s" % item.name):
                self.client.restart(item.name, timeout=int(found["Config"].get("StopTimeout") or 10))
            self.wait(item)
            if item.error:
                return

    def queried(self) -> None:
        """Look at the chosen ones only."""
        self.items = self.chosen()

    def absent(self) -> None:
        """Remove containers and network."""
        for item in self.items:
            if item.name in self.there:
                self.remove(item)
        for name in [name for name in self.there if name.endswith(PREVIOUS)] if not self.dry else []:
            self.discard(name)
        with engine_call("look at the network"):
            label = "%s=%s" % (_containers.PROJECT, self.project)
            networks = self.client.networks(filters={"label": label, "driver": "bridge"})
        for network in networks:
            self.changed = True
            if not self.dry:
                with engine_call("remove the network %s" % network["Name"]):
                    self.client.remove_network(network["Id"])

    # --- results -----------------------------------------------------------------------------------------------------

    def describe(self, item: Item) -> Dict[str, Any]:
        """Return what is told about a container."""
        found = self.there.get(item.name) or {}
        state, reason = self.condition(item)
        bindings = (found.get("HostConfig") or {}).get("PortBindings") or {}
        ports = [
            "%s:%s->%s" % (one.get("HostIp") or "*", one.get("HostPort"), inside.split("/")[0])
            for inside, ones in sorted(bindings.items())
            for one in ones or ()
        ]
        lines = self.params["lines"]
        return {
            "component": item.component,
            "name": item.name,
            "action": item.action,
            "state": state,
            "image": str((found.get("Config") or {}).get("Image") or item.body.get("Image") or ""),
            "since": str((found.get("State") or {}).get("StartedAt") or ""),
            "restarts": int(found.get("RestartCount") or 0),
            "ports": ports,
            "stopped": self.stops.get(item.component) or {},
            "error": item.error or reason,
            "fix": item.fix,
            "log": self.last_lines(item.name, lines) if lines and found else item.log,
        }

    def result(self) -> Dict[str, Any]:
        """Return the module's answer."""
        after = dict(self.before)
        for item in self.items:
            if item.action in ("created", "replaced"):
                after[item.name] = item.wanted
            elif item.action == "removed":
                after.pop(item.name, None)
        written = ["secret %s" % name for name in self.files.written] + ["file %s" % path for path in sorted(self.given)]
        return {
            "changed": self.changed or bool(written),
            "containers": [self.describe(item) for item in self.items],
            "diff": {"before": _text(self.before), "after": _text(after) + "".join("%s: written\n" % name for name in written)},
        }


def _until(deadline: float) -> Iterator[None]:
    while time.monotonic() < deadline:
        yield None
        time.sleep(_PAUSE)


def _text(specs: Mapping[str, Any]) -> str:
    return "".join("%s: %s\n" % (name, json.dumps(spec, indent=1, sort_keys=True)) for name, spec in sorted(specs.items()))


def _options() -> Dict[str, Any]:
    text: Dict[str, Any] = {"type": "str", "default": ""}
    return {
        "component": {"type": "str", "required": True},
        "image": {"type": "str", "required": True},
        "once": {"type": "bool", "default": False},
        "versioned_data": {"type": "bool", "default": False},
        "args": {"type": "list", "elements": "str", "default": []},
        "env": {"type": "dict", "default": {}},
        "secrets": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "no_log": False,
            "options": {
                "name": {"type": "str", "required": True},
                "generate": dict(text),
                "value": {"type": "str", "default": "", "no_log": True},
                "environment": {"type": "bool", "default": False},
            },
        },
        "mounts": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "type": {"type": "str", "choices": ["bind", "volume"], "default": "bind"},
                "source": {"type": "str", "required": True},
                "target": {"type": "str", "required": True},
                "read_only": {"type": "bool", "default": False},
            },
        },
        "watch": {"type": "list", "elements": "path", "default": []},
        "ports": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "target": {"type": "int", "required": True},
                "published": {"type": "int", "required": True},
                "address": dict(text),
            },
        },
        "aliases": {"type": "list", "elements": "str", "default": []},
        "hostname": dict(text),
        "healthcheck": {
            "type": "dict",
            "options": {
                "test": {"type": "list", "elements": "str", "default": []},
                "interval": {"type": "str"},
                "timeout": {"type": "str"},
                "retries": {"type": "int"},
                "start_period": {"type": "str"},
            },
        },
        "limits": {"type": "dict", "options": {"memory_mb": {"type": "int"}, "cpus": {"type": "float"}, "pids": {"type": "int"}}},
        "log": {
            "type": "dict",
            "options": {"max_size": {"type": "str", "default": "10m"}, "max_files": {"type": "int", "default": 3}},
        },
        "stop_seconds": {"type": "int", "default": 10},
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str", "required": True},
            "state": {
                "type": "str",
                "choices": ["present", "started", "stopped", "restarted", "queried", "absent"],
                "default": "present",
            },
            "network": {"type": "str", "default": ""},
            "directory": {"type": "path", "required": True},
            "only": {"type": "list", "elements": "str", "default": []},
            "reason": {"type": "str", "default": ""},
            "lines": {"type": "int", "default": 0},
            "timeout": {"type": "int", "default": 300},
            "settle": {"type": "float", "default": 2},
            "allow_downgrade": {"type": "bool", "default": False},
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str", "default": ""},
                    "secret": {"type": "str", "default": "", "no_log": True},
                    "mode": {"type": "str", "default": "0644"},
                    "keep": {"type": "bool", "default": False},
                },
            },
            "containers": {"type": "list", "elements": "dict", "default": [], "options": _options()},
            "docker_host": {"type": "str", "default": "unix:///var/run/docker.sock"},
            "engine_timeout": {"type": "int", "default": 60},
        },
        required_if=[("state", "present", ["network"])],
        supports_check_mode=True,
    )
    client = open_engine(module, "would make the containers of the portal", {"changed": True, "containers": []})
    portal: Optional[Portal] = None
    error = ""
    turn = None
    try:
        if not module.check_mode and module.params["state"] != "queried":
            turn = wait_for_turn("%s-portal" % module.params["project"], module.params["timeout"])
        portal = Portal(module, client)
        getattr(portal, module.params["state"])()
    except (EngineError, ContainerError, SpecError, RegistryError, OSError) as problem:
        error = str(problem)
    finally:
        if turn:
            turn.close()
    if portal is None:
        module.fail_json(msg=error, containers=[])
        return
    result = portal.result()
    failed = ["%s: %s" % (item.name, item.error) + ("; the one of before runs again" if item.action == "restored" else "")
              + ("\n  " + "\n  ".join(item.log) if item.log else "") for item in portal.items if item.error]  # fmt: skip
    if error or failed:
        module.fail_json(msg="\n".join(([error] if error else []) + failed), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
