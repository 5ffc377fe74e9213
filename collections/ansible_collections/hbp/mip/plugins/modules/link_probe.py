#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: link_probe
short_description: Measures what passes between the hosts of a federation, and who drops what does not
version_added: 0.2.0
author: The hbp.mip authors (@HBPMedical)
description:
  - Measures TCP, UDP, ESP (IP protocol 50) and the path's MTU for every ordered pair of hosts in three rounds, whatever their number.
    Every host listens (O(mode=listen)), then every host sends to all the others (O(mode=send)), then every host tells what it saw
    (O(mode=collect)). The controller joins the answers to verdicts.
  - Works before Docker is installed, because it listens itself, and beside a running swarm, because it sees the packets whoever has
    the port.
  - What leaves and what arrives is captured at the network card, what was let in behind the INPUT rules; so the answers say whether
    the sender's own filter, the path or the receiver's own filter drops a protocol.
  - Every packet proves that it belongs to the run. The nonce is never sent.
  - Needs root and nothing on the host but Python. Nothing is installed or configured, and nothing listens after O(mode=collect) or
    after O(seconds).
  - In the tracking table of the host's firewall ESP's entries are taken away again as soon as the probe made them, because such an
    entry would let in for ten minutes what the rules do not. Entries that were there before stay.
  - To a running engine's gossip port it sends at least one and at most O(attempts) datagrams that the engine refuses with one line
    in its log each. On the data path port the kernel ignores them.
  - What does not pass is a result and no failure of the module.
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
      - The round. V(throughput) is an extra one between V(send) and V(collect), for one pair at a time.
    type: str
    choices: [listen, send, collect, throughput]
    required: true
  run:
    description: The run's nonce, the same on all hosts; 32 to 128 hexadecimal digits, new for every run.
    type: str
    required: true
  node:
    description: This host's name.
    type: str
    required: true
  address:
    description: This host's IPv4 address, as the others reach it. It is needed for all but V(collect).
    type: str
    default: ''
  peers:
    description: The other hosts of the run, for O(mode=listen).
    type: list
    elements: dict
    default: []
    suboptions:
      node:
        description: Its name.
        type: str
        required: true
      address:
        description: Its IPv4 address.
        type: str
        required: true
  ports:
    description:
      - What other hosts send to this one, for O(mode=listen).
      - On a TCP port that nobody listens on the probe listens itself.
    type: list
    elements: dict
    default: []
    suboptions:
      proto:
        description: The protocol.
        type: str
        choices: [tcp, udp]
        required: true
      port:
        description: The port.
        type: int
        required: true
      why:
        description: What it is for, in a few words.
        type: str
        default: ''
  watch:
    description: TCP ports of other hosts that this host will connect to, for O(mode=listen).
    type: list
    elements: int
    default: []
  esp:
    description: Whether ESP is measured, for O(mode=listen).
    type: bool
    default: true
  data_path_port:
    description: The overlay's UDP port.
    type: int
    default: 4789
  seconds:
    description: Seconds after which the listener ends, whatever happens.
    type: int
    default: 90
  targets:
    description: Whom to send to, for O(mode=send); for O(mode=throughput) exactly one.
    type: list
    elements: dict
    default: []
    suboptions:
      node:
        description: Its name.
        type: str
        required: true
      address:
        description: Its IPv4 address.
        type: str
        required: true
      tcp:
        description: TCP ports to connect to.
        type: list
        elements: int
        default: []
      own_tcp:
        description:
          - Those of its TCP ports on which the probe itself listens, as its RV(listening) says.
          - There the two sides prove to each other that they are of the same run. To a foreign program nothing is sent.
        type: list
        elements: int
        default: []
      udp:
        description: UDP ports to send a small datagram to.
        type: list
        elements: int
        default: []
      vxlan_sizes:
        description: Sizes of the whole IP packet, in bytes, of the datagrams to O(data_path_port), with the flag "do not fragment".
        type: list
        elements: int
        default: []
      esp_sizes:
        description: The same for packets of IP protocol 50.
        type: list
        elements: int
        default: []
      overlay:
        description:
          - For O(mode=throughput), where its listener is on the overlay, as its RV(overlay) says. It is used where O(targets[].own_tcp)
            is empty.
        type: dict
        suboptions:
          address:
            description: Its address there.
            type: str
          port:
            description: Its port there.
            type: int
  overlay:
    description:
      - With O(mode=listen) the listener is also on the overlay, in the network of the engine's container on this host; with
        O(mode=throughput) the sender is, when it has to.
      - Once a swarm runs, all TCP ports that firewalls leave open between the hosts belong to Docker.
    type: dict
    suboptions:
      network:
        description: The overlay's name. The container is found by its label C(eu.humanbrainproject.mip.node) with O(node).
        type: str
        default: mip-federation
      pid:
        description:
          - Use the network of this process and look for no container.
          - For hosts that run the engine without Docker, and for tests.
        type: int
        default: 0
      address:
        description: With O(overlay.pid), the address there.
        type: str
  attempts:
    description: How often at most a packet is sent; what was answered is not repeated. They are half a second apart.
    type: int
    default: 4
  timeout:
    description: Longest wait for a TCP connection, in seconds. The kernel repeats its first packet after one and three seconds.
    type: float
    default: 3.5
  duration:
    description: How long to send, in seconds, for O(mode=throughput).
    type: float
    default: 3
seealso:
  - module: hbp.mip.overlay_probe
  - module: hbp.mip.node_check
"""

EXAMPLES = r"""
# The arguments of all hosts come from the filter hbp.mip.link_plan; see there for the three rounds as a playbook.
- name: Listen
  hbp.mip.link_probe:
    mode: listen
    run: 5c0f6a1d7f0e4c8bb4ad5d1fb0a97c11
    node: hospital-a
    address: 192.0.2.21
    peers:
      - {node: master, address: 192.0.2.11}
    ports:
      - {proto: tcp, port: 7946, why: gossip}
      - {proto: udp, port: 7946, why: gossip}
    watch: [2377, 7946]

- name: Send
  hbp.mip.link_probe:
    mode: send
    run: 5c0f6a1d7f0e4c8bb4ad5d1fb0a97c11
    node: hospital-a
    address: 192.0.2.21
    targets:
      - {node: master, address: 192.0.2.11, tcp: [2377, 7946], own_tcp: [2377, 7946], udp: [7946], esp_sizes: [576, 1400, 1500]}

- name: Tell what was seen
  hbp.mip.link_probe:
    mode: collect
    run: 5c0f6a1d7f0e4c8bb4ad5d1fb0a97c11
    node: hospital-a
"""

RETURN = r"""
ok:
  description: Whether the round could be done; what does not pass is no reason why not.
  returned: always
  type: bool
error:
  description: Why it could not be done.
  returned: always
  type: str
node:
  description: O(node).
  returned: always
  type: str
took:
  description: Seconds that the round took.
  returned: always
  type: float
listening:
  description: What listens on each of O(ports).
  returned: O(mode=listen)
  type: list
  elements: dict
  contains:
    proto: {description: V(tcp) or V(udp)., type: str}
    port: {description: The port., type: int}
    why: {description: As given., type: str}
    own: {description: "Whether the probe itself answers there; with UDP it always sees what was let in.", type: bool}
    by: {description: "The program that has the port, as C(dockerd (pid 812)); empty for none.", type: str}
    error: {description: Why nobody listens there., type: str}
listener_pid:
  description: The listener's process, 0 without one.
  returned: O(mode=listen)
  type: int
address_local:
  description: Whether O(address) is on an interface of this host; when not, an address translation is in between.
  returned: O(mode=listen)
  type: bool
guards:
  description: Tables of the host's firewall that drop VXLAN that is not encrypted or that a program sends; the probe's, too.
  returned: O(mode=listen)
  type: list
  elements: str
sent:
  description: One result for each of O(targets).
  returned: O(mode=send)
  type: list
  elements: dict
  contains:
    node: {description: The target., type: str}
    address: {description: Its address., type: str}
    probes:
      description: >-
        UDP and ESP, with C(proto), C(port), C(size) of the IP packet, C(sent) times, C(answered), C(ms) until the first answer,
        C(error) (the kernel's refusal to send, as V(EPERM) or V(EMSGSIZE)) and C(icmp) (C(type), C(code), C(from)).
      type: list
      elements: dict
    tcp:
      description: >-
        TCP, with C(port), C(result) (V(connected), V(refused), V(timeout), V(error)), C(error), C(answer) (V(right), V(wrong),
        V(none), V(not-asked)), C(local_port), C(ms) until connected and C(icmp).
      type: list
      elements: dict
    next_hop:
      description: >-
        For a target that did not answer everything, the next host on the way, with C(state) (V(answers), V(silent) when it answers
        no ARP, V(no-route), V(unknown)), C(address), C(interface) and C(refused), the type of the route that refuses the target
        (V(unreachable), V(prohibit), V(blackhole)), empty for none.
      type: dict
seen:
  description: The probes that this host's listener saw.
  returned: O(mode=collect)
  type: list
  elements: dict
  contains:
    peer: {description: "The other host; its identity in this run, 16 hexadecimal digits, when it is not one of O(peers).", type: str}
    proto: {description: V(udp) or V(esp)., type: str}
    port: {description: "The port, 0 for ESP.", type: int}
    size: {description: Size of the IP packet in bytes., type: int}
    left: {description: How many attempts from here to the other host left this host., type: int}
    arrived: {description: How many from the other host arrived., type: int}
    delivered: {description: How many from the other host were let in by the INPUT rules., type: int}
    addresses: {description: The other host's addresses as seen here., type: list, elements: str}
flows:
  description: The starts of TCP connections that this host's listener saw.
  returned: O(mode=collect)
  type: list
  elements: dict
  contains:
    client: {description: Address of the one who connects., type: str}
    server: {description: Address of the other., type: str}
    client_port: {description: Port of the one who connects., type: int}
    port: {description: Port of the other., type: int}
    sequence: {description: "Number in the first packet, the same at both ends.", type: int}
    events:
      description: >-
        How often each was seen, as C(syn-left), C(syn-arrived), C(syn-delivered), C(synack-left), C(synack-arrived), C(synack-delivered),
        C(rst-left), C(rst-arrived).
      type: dict
lost:
  description: Packets that the capture itself lost; if there are any, what is missing proves nothing.
  returned: O(mode=collect)
  type: int
overfull:
  description: Whether there was more to note than fits.
  returned: O(mode=collect)
  type: bool
reverse_path_drops:
  description: Packets that the kernel dropped meanwhile because their way back would be another (rp_filter).
  returned: O(mode=collect)
  type: int
tracked:
  description: Addresses with which the host's firewall already had an entry for ESP, so that its rules were not asked.
  returned: O(mode=collect)
  type: list
  elements: str
overlay:
  description: Where the listener is on the overlay, C(address) and C(port), 0 for nowhere, and C(error), why not.
  returned: O(mode=listen)
  type: dict
throughput:
  description:
    - Keys C(mb_per_s) (10^6 bytes per second, as the receiver counted), C(bytes), C(seconds), C(via) (V(overlay), or the port, as
      C(tcp 7946)) and C(error).
  returned: O(mode=throughput)
  type: dict
"""

import ipaddress
import re
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _link_listen, _link_send, _link_wire

MOST_PORTS = 60


def _wrong(given: dict[str, Any]) -> str:
    """What is wrong with the options, an empty string when nothing is."""
    if not re.match(r"([0-9a-f]{2}){16,64}\Z", given["run"]):
        return "run: give 32 to 128 hexadecimal digits (lower case), new for every run"
    addresses = [("address", given["address"])] if given["mode"] != "collect" else []
    addresses += [("peers", peer["address"]) for peer in given["peers"]]
    addresses += [("targets", target["address"]) for target in given["targets"]]
    for option, address in addresses:
        try:
            ipaddress.IPv4Address(address)
        except ValueError:
            return "%s: %r is not an IPv4 address" % (option, address)
    ports = [("ports", item["port"]) for item in given["ports"]] + [("watch", port) for port in given["watch"]]
    ports.append(("data_path_port", given["data_path_port"]))
    for target in given["targets"]:
        ports += [("targets", port) for port in [*target["tcp"], *target["own_tcp"], *target["udp"]]]
        for size in [*target["vxlan_sizes"], *target["esp_sizes"]]:
            if not _link_wire.SMALLEST <= size <= _link_wire.LARGEST:
                return "targets: a packet of %d bytes is not between %d and %d" % (size, _link_wire.SMALLEST, _link_wire.LARGEST)
    for option, port in ports:
        if not 1 <= port <= 65535:
            return "%s: %d is no port" % (option, port)
    if len(given["ports"]) + len(given["watch"]) > MOST_PORTS:
        return "ports, watch: more than %d in all" % MOST_PORTS
    limits = (("seconds", 1, 3600), ("attempts", 1, 20), ("timeout", 0.1, 60), ("duration", 0.1, 60))
    for option, low, high in limits:
        if not low <= given[option] <= high:
            return "%s: must be from %g to %g" % (option, low, high)
    if given["mode"] == "throughput" and len(given["targets"]) != 1:
        return "targets: throughput is measured to exactly one"
    return ""


def _done(run: _link_wire.Run, given: dict[str, Any]) -> dict[str, Any]:
    if given["mode"] == "listen":
        started = _link_listen.listen(run, given)
        error = str(started.get("error") or "")
        return {
            "error": error,
            "listening": started.get("listening", []),
            "overlay": started.get("overlay") or {"address": "", "port": 0, "error": error},
            "listener_pid": 0 if error else started["pid"],
            "address_local": bool(started.get("address_local", True)),
            "guards": _link_listen.guards(given["data_path_port"]),
        }
    if given["mode"] == "collect":
        empty: dict[str, Any] = {"seen": [], "flows": [], "lost": 0, "overfull": False, "reverse_path_drops": 0, "tracked": [], "error": ""}
        return dict(empty, **_link_listen.collect(run, given["node"], 15))
    if given["mode"] == "send":
        given["targets"] = [target for target in given["targets"] if target["node"] != given["node"]]
        try:
            return {"sent": _link_send.Sender(run, given).run(), "error": ""}
        except OSError as error:
            text = error.strerror or str(error)
            return {"sent": [], "error": "nothing can be sent: %s; run as root, and in a container with CAP_NET_RAW" % text}
    result = _link_send.throughput(run, given["targets"][0], given)
    return {"throughput": result, "error": result["error"]}


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "mode": {"type": "str", "choices": ["listen", "send", "collect", "throughput"], "required": True},
            "run": {"type": "str", "required": True},
            "node": {"type": "str", "required": True},
            "address": {"type": "str", "default": ""},
            "peers": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"node": {"type": "str", "required": True}, "address": {"type": "str", "required": True}},
            },
            "ports": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "proto": {"type": "str", "choices": ["tcp", "udp"], "required": True},
                    "port": {"type": "int", "required": True},
                    "why": {"type": "str", "default": ""},
                },
            },
            "watch": {"type": "list", "elements": "int", "default": []},
            "esp": {"type": "bool", "default": True},
            "data_path_port": {"type": "int", "default": 4789},
            "seconds": {"type": "int", "default": 90},
            "targets": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "node": {"type": "str", "required": True},
                    "address": {"type": "str", "required": True},
                    "tcp": {"type": "list", "elements": "int", "default": []},
                    "own_tcp": {"type": "list", "elements": "int", "default": []},
                    "udp": {"type": "list", "elements": "int", "default": []},
                    "vxlan_sizes": {"type": "list", "elements": "int", "default": []},
                    "esp_sizes": {"type": "list", "elements": "int", "default": []},
                    "overlay": {"type": "dict", "options": {"address": {"type": "str"}, "port": {"type": "int"}}},
                },
            },
            "overlay": {
                "type": "dict",
                "options": {
                    "network": {"type": "str", "default": "mip-federation"},
                    "pid": {"type": "int", "default": 0},
                    "address": {"type": "str"},
                },
            },
            "attempts": {"type": "int", "default": 4},
            "timeout": {"type": "float", "default": 3.5},
            "duration": {"type": "float", "default": 3},
        },
        supports_check_mode=True,
    )
    given = module.params
    wrong = _wrong(given)
    if wrong:
        module.fail_json(msg=wrong, mip_error="configuration")
    if module.check_mode:
        module.exit_json(changed=False, skipped=True, ok=True, error="", node=given["node"], msg="check mode: nothing was measured")
    started = time.monotonic()
    done = _done(_link_wire.Run(given["run"]), given)
    module.exit_json(changed=False, node=given["node"], ok=not done["error"], took=round(time.monotonic() - started, 3), **done)


if __name__ == "__main__":
    main()
