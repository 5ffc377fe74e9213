#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: overlay_probe
short_description: Tells whether the containers of a federation reach each other, and whether what passes is encrypted
version_added: 0.1.0
author: The hbp.mip authors (@HBPMedical)
description:
  - Measures the overlay as the engine sees it, from inside the network of the engine's containers. That nodes are Ready,
    tasks run and names resolve proves nothing about it.
  - In two rounds over all hosts. First every host starts a listener in the network namespace of its container, then every host
    sends to all the others; a small message five times, the largest packet that the overlay's MTU allows, and a large message whose
    SHA-256 the receiver verifies.
  - With O(underlay) each host meanwhile counts, at its network cards and in the kernel's IPsec, what passes between it and the others
    as ESP and what as VXLAN in clear. The sender asks the receiver's host for its count over the same listener, so that each pair has
    a verdict from both ends without a further round. Nothing of a packet is kept, and of IPsec's associations no key is read.
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
    description:
      - Whether to start the listener or to send.
      - V(collect) tells what this host counted until then, also of pairs that could not exchange anything.
    type: str
    choices: [listen, send, collect]
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
  underlay:
    description:
      - This host's own address between the nodes, which the overlay's data leave from.
      - With O(mode=listen) what passes between it and O(peers) is counted. Without it nothing is.
    type: str
  peers:
    description: The other nodes. This one is left out when it is among them.
    type: list
    elements: dict
    default: []
    suboptions:
      node:
        description: The node's name.
        type: str
        required: true
      address:
        description: Its address between the nodes.
        type: str
        required: true
  data_path_port:
    description: UDP port of the overlay's data path.
    type: int
    default: 4789
  vni:
    description:
      - With O(pid), the overlay's VXLAN network number. 0 counts those of all networks as this one's.
      - Otherwise the engine is asked for it.
    type: int
    default: 0
  store:
    description:
      - A service that the container must reach outside the overlay, such as the hospital's local data store.
      - With O(mode=listen) it is tried, from inside the container's network and from the host's.
    type: dict
    suboptions:
      host:
        description: Its name or IPv4 address.
        type: str
        required: true
      port:
        description: Its TCP port.
        type: int
        required: true
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
      udp_port:
        description: The port at which it acknowledges datagrams; 0 is nowhere.
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
    underlay: "{{ mip_address }}"
    peers:
      - {node: hospital-a, address: 192.0.2.21}
      - {node: hospital-b, address: 192.0.2.22}
  register: listener

- name: Send to all the others
  hbp.mip.overlay_probe:
    mode: send
    node: "{{ inventory_hostname }}"
    targets: "{{ ansible_play_hosts | map('extract', hostvars, 'listener') | map(attribute='target') }}"
  register: sent

- name: Tell what was counted, where something did not pass
  hbp.mip.overlay_probe:
    mode: collect
    node: "{{ inventory_hostname }}"
    targets: "{{ ansible_play_hosts | map('extract', hostvars, 'listener') | map(attribute='target') }}"
  register: counted
"""

RETURN = r"""
ready:
  description: Whether the listener runs.
  returned: with O(mode=listen)
  type: bool
target:
  description: The listener as O(targets) takes it, with C(node), C(address), C(port), C(udp_port), C(nonce) and C(error).
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
overlay:
  description: The overlay as this host has it.
  returned: with O(mode=listen)
  type: dict
  contains:
    interface:
      description: The container's interface on it.
      type: str
    mtu:
      description: That interface's MTU, 0 when it is not known.
      type: int
    vni:
      description: Its VXLAN network number, 0 when it is not known.
      type: int
    encrypted:
      description: Whether it was made with encryption; none when the engine does not tell.
      type: bool
    mtu_option:
      description: The MTU between the hosts that it was made for, 0 when it was left to the engine, none when that does not tell.
      type: int
    path_mtu:
      description: The MTU between the hosts that was measured before it was made, 0 when none is recorded.
      type: int
store:
  description: Whether the container reaches O(store). See C(verdict) of M(hbp.mip.node_check)'s fact of the same name.
  returned: with O(mode=listen) and O(store)
  type: dict
watch_error:
  description: Why nothing is counted; empty when it is, and without O(underlay).
  returned: with O(mode=listen)
  type: str
counted:
  description: What this host counted since it listens.
  returned: with O(mode=send) and O(mode=collect)
  type: dict
  contains:
    error:
      description: Why there is no count.
      type: str
    errors:
      description: The kernel's IPsec error counters that rose, by their names in C(/proc/net/xfrm_stat).
      type: dict
    errors_kept:
      description: Whether this kernel keeps such counters.
      type: bool
    lost:
      description: Packets that the capture lost, so that the counts are too small by these.
      type: int
    states_error:
      description: Why the kernel's IPsec associations could not be read.
      type: str
    esp_offload:
      description: Whether the kernel may open ESP before a capture sees it.
      type: bool
    peers:
      description: >-
        For each peer what C(left) for it and what C(arrived) from it; C(packets) and C(bytes) of C(esp), C(clear) (this overlay's VXLAN),
        C(other) (VXLAN of other networks) and C(states) (the kernel's own count of IPsec).
      type: dict
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
    mtu:
      description: The MTU of the container's interface on the overlay, 0 when it is not known.
      type: int
    packet:
      description: Size of the largest packet up to that MTU that reached the target whole; none when that was not measured.
      type: int
    encryption:
      description: Whether what passed from this node to the target was encrypted.
      type: dict
      contains:
        verdict:
          description: >-
            V(encrypted) when both hosts counted all of it as ESP, V(clear) when one of them saw VXLAN in clear, else V(no-proof).
          type: str
        reason:
          description: Why it is not V(encrypted).
          type: str
        sender:
          description: What left the sender's host for the target's, as in RV(counted).
          type: dict
        receiver:
          description: What arrived there.
          type: dict
"""

import ipaddress
import secrets
import socket
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _docker_http, _encryption, _netlink, _overlay_watch, _probe, _store

NODE_LABEL = "eu.humanbrainproject.mip.node"
PATH_MTU_LABEL = "eu.humanbrainproject.mip.path-mtu"
_MTU_OPTION = "com.docker.network.driver.mtu"
_VNI_OPTION = "com.docker.network.driver.overlay.vxlanid_list"
_NOT_COUNTED = "packets were not counted"
#: A busy host's engine needs its time; that is no fault of the overlay.
_ENGINE_SECONDS = 30.0


def _whole(value: Any) -> int:
    text = str(value or "").partition(",")[0]
    return int(text) if text.isdigit() else 0


def _network(identifier: str, path: str) -> dict[str, Any]:
    """What the engine of this host knows of the overlay."""
    found = _docker_http.get("/networks/" + identifier, path, _ENGINE_SECONDS)
    options, labels = found.get("Options") or {}, found.get("Labels") or {}
    return {
        "vni": _whole(options.get(_VNI_OPTION)),
        "encrypted": _encryption.is_encrypted(options),
        "mtu_option": _whole(options.get(_MTU_OPTION)),
        "path_mtu": _whole(labels.get(PATH_MTU_LABEL)),
    }


def _find(given: dict[str, Any], with_network: bool = False) -> dict[str, Any]:
    """The container to use: {"pid", "address", "name", "overlay"} or {"error"}."""
    unknown = {"vni": given["vni"], "encrypted": None, "mtu_option": None, "path_mtu": 0}
    if given["pid"]:
        return {"pid": given["pid"], "address": given["address"] or "", "name": "", "overlay": unknown}
    labels = ["%s=%s" % (NODE_LABEL, given["node"]), *given["labels"]]
    path, network = given["docker_socket"], given["network"]
    if path == _docker_http.SOCKET and not _docker_http.daemon_pid():
        return {"error": "the Docker engine does not run on this host. Next: sudo systemctl start docker"}
    try:
        found = _docker_http.containers(labels, path, _ENGINE_SECONDS)
        if not found:
            return {
                "error": "no running container has the label %s. Next: docker service ps --no-trunc of its service, on the master"
                % " and ".join(labels)
            }
        reasons = []
        for item in sorted(found, key=lambda entry: str(entry.get("Names"))):
            details = _docker_http.inspect(str(item["Id"]), path, _ENGINE_SECONDS)
            name = str(details.get("Name", "")).lstrip("/")
            networks = (details.get("NetworkSettings") or {}).get("Networks") or {}
            attached = networks.get(network) or {}
            address = str(attached.get("IPAddress") or "")
            pid = int((details.get("State") or {}).get("Pid") or 0)
            if address and pid:
                place = {"pid": pid, "address": address, "name": name, "overlay": unknown}
                if with_network and attached.get("NetworkID"):
                    place["overlay"] = _network(str(attached["NetworkID"]), path)
                return place
            reasons.append("%s is on %s" % (name, ", ".join(sorted(networks)) or "no network"))
        return {"error": "no container with an address on the network %s: %s" % (network, "; ".join(reasons))}
    except _docker_http.DockerError as error:
        return {"error": "the Docker engine cannot be asked: %s" % error}


def _listen(given: dict[str, Any]) -> dict[str, Any]:
    place = _find(given, with_network=True)
    error = place.get("error", "")
    nonce = secrets.token_hex(16)
    started: dict[str, Any] = {}
    overlay = dict(place.get("overlay") or {"vni": 0, "encrypted": None, "mtu_option": None, "path_mtu": 0}, interface="", mtu=0)
    if not error:
        wanted = {key: given[key] for key in ("underlay", "peers", "data_path_port", "lifetime")}
        wanted.update(vni=overlay["vni"], nonce=nonce)

        def watch() -> socket.socket:
            return _overlay_watch.start(wanted)

        started = _probe.listen_detached(
            place["pid"], place["address"], given["port"], nonce, given["lifetime"], watch if given["underlay"] else None
        )
        overlay.update(interface=started.get("interface", ""), mtu=started.get("mtu", 0))
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
        "udp_port": 0 if error else started["udp_port"],
        "nonce": "" if error else nonce,
        "error": error,
    }
    result = {
        "ready": not error,
        "ok": not error,
        "error": error,
        "target": target,
        "listener_pid": 0 if error else started["pid"],
        "container": place.get("name", ""),
        "overlay": overlay,
        "watch_error": started.get("watch_error", ""),
    }
    if given["store"]:
        result["store"] = _store.look(given["store"]["host"], given["store"]["port"], given["timeout"], place.get("pid", 0))
    return result


def _counted(given: dict[str, Any]) -> dict[str, Any]:
    """What the process beside this node's own listener counted."""
    nonce = next((target["nonce"] for target in given["targets"] if target["node"] == given["node"]), "")
    return _overlay_watch.report(nonce) if nonce else {"error": _NOT_COUNTED}


def _side(told: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """One end's count of one direction, with what has to be known of how it was counted."""
    about: dict[str, Any] = {key: told[key] for key in ("lost", "states_error", "esp_offload") if key in told}
    return dict(about, **part, error=str(told.get("error") or "") or ("" if part else _NOT_COUNTED))


def _encrypted(pair: dict[str, Any], seen: dict[str, Any], counted: dict[str, Any]) -> dict[str, Any]:
    """The verdict over one pair with what it is made from."""
    sender = _side(counted, ((counted.get("peers") or {}).get(pair["to"]) or {}).get("left") or {})
    receiver = _side(seen, seen.get("arrived") or {})
    return dict(_encryption.judge(pair["ok"], pair["bytes"], sender, receiver), sender=sender, receiver=receiver)


def _send(given: dict[str, Any]) -> dict[str, Any]:
    targets = [target for target in given["targets"] if target["node"] != given["node"]]
    place = _find(given)
    error = place.get("error", "")
    usable = [] if error else [target for target in targets if not target["error"] and target["address"]]
    measured: dict[str, dict[str, Any]] = {}
    mtu = 0
    if usable:

        def run() -> dict[str, Any]:
            _netlink.enter_network_of(place["pid"])
            own = _netlink.interface_of(place["address"])[1] if place["address"] else 0
            results = _probe.measure(usable, given["large_bytes"], given["timeout"], given["large_timeout"], given["node"], own)
            return {"results": results, "mtu": own}

        # the small messages of all targets go at the same time, the large ones one after the other
        longest = given["timeout"] * (_probe.ROUNDS + 2) + 30 + len(usable) * (given["large_timeout"] + 20)
        answer = _netlink.in_child(run, longest)
        error = str(answer.get("error") or "")
        mtu = int(answer.get("mtu") or 0)
        measured = {item["node"]: item for item in answer.get("results", [])}
    counted = _counted(given)
    pairs = []
    for target in targets:
        result = measured.get(target["node"])
        if result is None:
            reason = target["error"] and "no listener there: %s" % target["error"]
            result = {"ok": False, "small_ms": None, "bytes": 0, "mb_per_s": None, "packet": None}
            result["error"] = error or reason or "no listener there"
        pair = dict(result, **{"from": given["node"], "to": target["node"], "mtu": mtu})
        pair.pop("node", None)
        pair["encryption"] = _encrypted(pair, pair.pop("seen", None) or {}, counted)
        pairs.append(pair)
    return {
        "ok": not error and all(pair["ok"] for pair in pairs),
        "error": error,
        "pairs": pairs,
        "container": place.get("name", ""),
        "counted": counted,
    }


def _collect(given: dict[str, Any]) -> dict[str, Any]:
    counted = _counted(given)
    return {"ok": not counted["error"], "error": counted["error"], "container": "", "counted": counted}


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "mode": {"type": "str", "choices": ["listen", "send", "collect"], "required": True},
            "node": {"type": "str", "required": True},
            "labels": {"type": "list", "elements": "str", "default": []},
            "network": {"type": "str", "default": "mip-federation"},
            "pid": {"type": "int"},
            "address": {"type": "str"},
            "port": {"type": "int", "default": 0},
            "lifetime": {"type": "int", "default": 120},
            "underlay": {"type": "str"},
            "peers": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"node": {"type": "str", "required": True}, "address": {"type": "str", "required": True}},
            },
            "data_path_port": {"type": "int", "default": 4789},
            "vni": {"type": "int", "default": 0},
            "store": {
                "type": "dict",
                "options": {"host": {"type": "str", "required": True}, "port": {"type": "int", "required": True}},
            },
            "targets": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "node": {"type": "str", "required": True},
                    "address": {"type": "str", "default": ""},
                    "port": {"type": "int", "default": 0},
                    "udp_port": {"type": "int", "default": 0},
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
    if not 1 <= given["data_path_port"] <= 65535:
        module.fail_json(msg="data_path_port: must be from 1 to 65535")
    addresses = [("underlay", given["underlay"])] if given["underlay"] else []
    addresses += [("peers: address of %s" % peer["node"], peer["address"]) for peer in given["peers"]]
    if given["pid"] and given["mode"] == "listen":
        addresses.append(("address", given["address"]))
    for where, text in addresses:
        try:
            ipaddress.IPv4Address(text or "")
        except ValueError:
            hint = "with pid, give the IPv4 address to listen on" if where == "address" else "an IPv4 address"
            module.fail_json(msg="%s: %s, not %r" % (where, hint, text))
    if module.check_mode:
        module.exit_json(changed=False, skipped=True, ok=True, error="", container="", msg="check mode: nothing was measured")
    done = {"listen": _listen, "send": _send, "collect": _collect}[given["mode"]](given)
    module.exit_json(changed=False, **done)


if __name__ == "__main__":
    main()
