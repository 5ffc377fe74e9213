#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: overlay_probe
short_description: Tells whether the containers of a federation reach each other
version_added: 0.1.0
author: The hbp.mip authors (@HBPMedical)
description:
  - Measures the overlay as the engine sees it, from inside the network of the engine's containers. That nodes are Ready,
    tasks run and names resolve proves nothing about it.
  - In two rounds over all hosts. First every host starts a listener in the network namespace of its container, then every host
    sends to all the others; a small message five times, and a large one whose SHA-256 the receiver verifies.
  - The container's own programs are not touched, and nothing has to be in its image. The listener is a process of the host
    that listens on the overlay's address only, answers nobody without the word of this run, and ends by itself.
  - What cannot be reached is a result and no failure of the module.
attributes:
  check_mode:
    description: Can run in check mode.
    details: It measures nothing then, and says so; C(check_mode=false) on the task lets it measure all the same.
    support: partial
  diff_mode:
    description: There is nothing to compare.
    support: none
  idempotent:
    description: Each run measures anew and leaves nothing behind.
    support: full
options:
  mode:
    description: Whether to start the listener or to send.
    type: str
    choices: [listen, send]
    required: true
  node:
    description:
      - This node's name; the container is found by its label C(eu.humanbrainproject.mip.node).
      - With O(mode=send) the target of the same name is left out, so that all hosts can be given the same list.
    type: str
    required: true
  labels:
    description: Further labels that the container must have, as C(key) or C(key=value).
    type: list
    elements: str
    default: []
  network:
    description: The overlay's name.
    type: str
    default: mip-federation
  pid:
    description:
      - Use the network namespace of this process and do not look for a container.
      - For hosts that run the engine without Docker, and for tests.
    type: int
  address:
    description: With O(pid), the address to listen on.
    type: str
  port:
    description: Port to listen on; 0 takes any that is free.
    type: int
    default: 0
  lifetime:
    description: Seconds after which the listener ends.
    type: int
    default: 120
  targets:
    description: The listeners to send to, as O(mode=listen) returned them on the other hosts.
    type: list
    elements: dict
    default: []
    suboptions:
      node:
        description: The node's name.
        type: str
        required: true
      address:
        description: Its address on the overlay.
        type: str
        default: ''
      port:
        description: The listener's port.
        type: int
        default: 0
      nonce:
        description: The listener's word of this run.
        type: str
        default: ''
      error:
        description: Why there is no listener; it becomes the result for this target.
        type: str
        default: ''
  large_bytes:
    description: Size of the large message; 0 sends none.
    type: int
    default: 10485760
  timeout:
    description: Seconds to wait for a connection and for each small answer.
    type: float
    default: 5
  large_timeout:
    description: Seconds that one large transfer may take.
    type: float
    default: 60
  docker_socket:
    description: The engine's socket.
    type: path
    default: /var/run/docker.sock
"""

EXAMPLES = r"""
- name: Listen
  hbp.mip.overlay_probe:
    mode: listen
    node: "{{ inventory_hostname }}"
  register: listener

- name: Send to all the others
  hbp.mip.overlay_probe:
    mode: send
    node: "{{ inventory_hostname }}"
    targets: "{{ ansible_play_hosts | map('extract', hostvars, 'listener') | map(attribute='target') }}"
  register: sent
"""

RETURN = r"""
ready:
  description: Whether the listener runs.
  returned: with O(mode=listen)
  type: bool
target:
  description: The listener as O(targets) takes it, with C(node), C(address), C(port), C(nonce) and C(error).
  returned: with O(mode=listen)
  type: dict
listener_pid:
  description: The listener's process id on this host, 0 without one.
  returned: with O(mode=listen)
  type: int
container:
  description: Name of the container whose network was used.
  returned: always
  type: str
ok:
  description: Whether everything worked.
  returned: always
  type: bool
error:
  description: Why nothing could be done at all.
  returned: always
  type: str
pairs:
  description: One result for each target.
  returned: with O(mode=send)
  type: list
  elements: dict
  contains:
    from:
      description: This node.
      type: str
    to:
      description: The target.
      type: str
    ok:
      description: Whether both messages passed.
      type: bool
    small_ms:
      description: Median round trip of the small message in milliseconds.
      type: float
    bytes:
      description: Size of the large message that was verified.
      type: int
    mb_per_s:
      description: Its speed in 10^6 bytes per second.
      type: float
    error:
      description: What did not pass, and what that often means.
      type: str
"""

import ipaddress
import secrets
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _docker_http, _netlink, _probe

NODE_LABEL = "eu.humanbrainproject.mip.node"


def _find(given: dict[str, Any]) -> dict[str, Any]:
    """The container to use: {"pid", "address", "name"} or {"error"}."""
    if given["pid"]:
        return {"pid": given["pid"], "address": given["address"] or "", "name": ""}
    labels = ["%s=%s" % (NODE_LABEL, given["node"]), *given["labels"]]
    path, network = given["docker_socket"], given["network"]
    if path == _docker_http.SOCKET and not _docker_http.daemon_pid():
        return {"error": "the Docker engine does not run on this host. Next: sudo systemctl start docker"}
    try:
        found = _docker_http.containers(labels, path)
        if not found:
            return {
                "error": "no running container has the label %s. Next: docker service ps --no-trunc of its service, on the master"
                % " and ".join(labels)
            }
        reasons = []
        for item in sorted(found, key=lambda entry: str(entry.get("Names"))):
            details = _docker_http.inspect(str(item["Id"]), path)
            name = str(details.get("Name", "")).lstrip("/")
            networks = (details.get("NetworkSettings") or {}).get("Networks") or {}
            address = str((networks.get(network) or {}).get("IPAddress") or "")
            pid = int((details.get("State") or {}).get("Pid") or 0)
            if address and pid:
                return {"pid": pid, "address": address, "name": name}
            reasons.append("%s is on %s" % (name, ", ".join(sorted(networks)) or "no network"))
        return {"error": "no container with an address on the network %s: %s" % (network, "; ".join(reasons))}
    except _docker_http.DockerError as error:
        return {"error": "the Docker engine cannot be asked: %s" % error}


def _listen(given: dict[str, Any]) -> dict[str, Any]:
    place = _find(given)
    error = place.get("error", "")
    nonce = secrets.token_hex(16)
    started: dict[str, Any] = {}
    if not error:
        started = _probe.listen_detached(place["pid"], place["address"], given["port"], nonce, given["lifetime"])
        if "error" in started:
            error = "no listener on %s in the network of %s: %s" % (
                place["address"],
                place["name"] or "process %d" % place["pid"],
                started["error"],
            )
    target = {
        "node": given["node"],
        "address": "" if error else place["address"],
        "port": 0 if error else started["port"],
        "nonce": "" if error else nonce,
        "error": error,
    }
    return {
        "ready": not error,
        "ok": not error,
        "error": error,
        "target": target,
        "listener_pid": 0 if error else started["pid"],
        "container": place.get("name", ""),
    }


def _send(given: dict[str, Any]) -> dict[str, Any]:
    targets = [target for target in given["targets"] if target["node"] != given["node"]]
    place = _find(given)
    error = place.get("error", "")
    usable = [] if error else [target for target in targets if not target["error"] and target["address"]]
    measured: dict[str, dict[str, Any]] = {}
    if usable:

        def run() -> dict[str, Any]:
            _netlink.enter_network_of(place["pid"])
            results = _probe.measure(usable, given["large_bytes"], given["timeout"], given["large_timeout"])
            return {"results": results}

        # the small messages of all targets go at the same time, the large ones one after the other
        longest = given["timeout"] * (_probe.ROUNDS + 2) + len(usable) * (given["large_timeout"] + 20)
        answer = _netlink.in_child(run, longest)
        error = str(answer.get("error") or "")
        measured = {item["node"]: item for item in answer.get("results", [])}
    pairs = []
    for target in targets:
        result = measured.get(target["node"])
        if result is None:
            reason = target["error"] and "no listener there: %s" % target["error"]
            result = {"ok": False, "small_ms": None, "bytes": 0, "mb_per_s": None, "error": error or reason or "no listener there"}
        pairs.append(dict(result, **{"from": given["node"], "to": target["node"]}))
        pairs[-1].pop("node", None)
    return {
        "ok": not error and all(pair["ok"] for pair in pairs),
        "error": error,
        "pairs": pairs,
        "container": place.get("name", ""),
    }


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "mode": {"type": "str", "choices": ["listen", "send"], "required": True},
            "node": {"type": "str", "required": True},
            "labels": {"type": "list", "elements": "str", "default": []},
            "network": {"type": "str", "default": "mip-federation"},
            "pid": {"type": "int"},
            "address": {"type": "str"},
            "port": {"type": "int", "default": 0},
            "lifetime": {"type": "int", "default": 120},
            "targets": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "node": {"type": "str", "required": True},
                    "address": {"type": "str", "default": ""},
                    "port": {"type": "int", "default": 0},
                    "nonce": {"type": "str", "default": "", "no_log": False},
                    "error": {"type": "str", "default": ""},
                },
            },
            "large_bytes": {"type": "int", "default": 10485760},
            "timeout": {"type": "float", "default": 5},
            "large_timeout": {"type": "float", "default": 60},
            "docker_socket": {"type": "path", "default": "/var/run/docker.sock"},
        },
        supports_check_mode=True,
    )
    given = module.params
    if not 0 <= given["large_bytes"] <= _probe.LARGEST_STORE:
        module.fail_json(msg="large_bytes: must be from 0 to %d" % _probe.LARGEST_STORE)
    if not 1 <= given["lifetime"] <= 3600:
        module.fail_json(msg="lifetime: must be from 1 to 3600 seconds")
    if given["pid"] and given["mode"] == "listen":
        try:
            ipaddress.IPv4Address(given["address"] or "")
        except ValueError:
            module.fail_json(msg="address: with pid, give the IPv4 address to listen on, not %r" % given["address"])
    if module.check_mode:
        module.exit_json(changed=False, skipped=True, ok=True, error="", container="", msg="check mode: nothing was measured")
    done = _listen(given) if given["mode"] == "listen" else _send(given)
    module.exit_json(changed=False, **done)


if __name__ == "__main__":
    main()
