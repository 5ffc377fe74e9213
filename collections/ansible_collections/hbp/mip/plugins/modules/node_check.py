#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: node_check
short_description: Checks whether a host can be a node of a federation
version_added: 0.1.0
author: The hbp.mip authors (@HBPMedical)
description:
  - Looks at everything that decides whether this host can be a node of a federation, in one call, and returns the facts
    together with all problems at once.
  - Needs nothing on the host but Python; neither Docker nor any package has to be installed.
  - Changes nothing. What the kernel can do for overlay networks is tried for real, in a network namespace of a child
    process that is gone afterwards; the kernel may load its own modules for that.
  - A stopped Docker engine is reported as stopped and not woken.
  - The only packets that it sends are one question to each name server and one connection to O(registry).
  - What each code means and who has to act is in the project's C(docs/findings.md).
attributes:
  check_mode:
    description: Can run in check mode and give the same answer.
    support: full
  diff_mode:
    description: Shows what has changed when run in diff mode.
    support: none
  idempotent:
    description: A second run gives the same answer as long as the host stays as it is.
    support: full
options:
  kinds:
    description:
      - What the host is in the federation.
      - A host that is only V(pusher) is asked for nothing but its clock.
    type: list
    elements: str
    choices: [master, ui, worker, pusher]
    default: [worker]
  limits:
    description: The least that the host must have.
    type: dict
    suboptions:
      disk_free_gb:
        description: Free space in GiB on C(/), at Docker's folder and at the data folder.
        type: float
        default: 5
      inodes_free:
        description: Free inodes on the same file systems.
        type: int
        default: 50000
      memory_mb:
        description: Memory of the machine in MiB; a tenth less is accepted, because the kernel keeps some for itself.
        type: int
        default: 1024
      clock_skew_seconds:
        description: Largest difference to O(reference_time) in seconds.
        type: float
        default: 5
  address:
    description: The address that the other nodes reach this host at; it must be on one of its interfaces.
    type: str
  encrypted:
    description: Whether the overlay is encrypted, so that the kernel must do ESP with AES-GCM.
    type: bool
    default: true
  docker_source:
    description: Where the deployment takes Docker from; V(none) means that it must be there already.
    type: str
    choices: [distro, docker, none]
    default: distro
  data_dir:
    description: The federation's data folder.
    type: path
  data_required:
    description: Whether a missing O(data_dir) is a problem instead of a warning.
    type: bool
    default: false
  overlay_subnet:
    description: The overlay's subnet in CIDR form; it must not overlap with this host's routes.
    type: str
  address_pools:
    description: The swarm's address pools in CIDR form; they must not overlap with this host's routes.
    type: list
    elements: str
    default: []
  account:
    description: Name of the service account to report on.
    type: str
  reference_time:
    description:
      - The controller's clock in seconds since 1970, taken right before the call.
      - The time that the call takes to arrive counts as difference, typically less than a second.
    type: float
  expected_hostname:
    description: The name that the inventory gives this host; another hostname is a warning.
    type: str
  cluster_id:
    description: The federation's cluster id, when it is known; a node of another swarm is a problem then.
    type: str
  peers:
    description:
      - The addresses of the federation's other nodes. They must not lie in the networks of containers, and a proxy of the engine must
        leave them out.
    type: list
    elements: str
    default: []
  data_path_port:
    description: The overlay's UDP port.
    type: int
    default: 4789
  registry:
    description:
      - The registry that this host gets its images from, as image names begin with it, C(NAME[:PORT]); V(docker.io) for Docker Hub.
      - It is connected to, unless the engine uses a proxy. Over TLS its certificate is looked at, and nothing is asked.
      - Without it no registry is looked for, as for hosts that get their images in other ways.
    type: str
  registry_tls:
    description: Whether O(registry) speaks TLS. An engine's own list of registries without TLS counts as well.
    type: bool
    default: true
  store:
    description:
      - A service that the engine's container must reach from this host, such as the hospital's local data store.
      - It is tried from the host; whether the container reaches it as well, M(hbp.mip.overlay_probe) tells.
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
  daemon:
    description:
      - The settings that the engine is to have, as M(hbp.mip.daemon_config) takes them.
      - With them the facts tell whether that module would have anything to do.
    type: dict
    version_added: 0.4.0
  federation:
    description: Name of the federation. With it the facts tell for which peers its firewall was set on this host.
    type: str
    version_added: 0.4.0
  docker_socket:
    description: The engine's socket.
    type: path
    default: /var/run/docker.sock
  fail_on_problems:
    description: Whether to fail, with the key C(mip_error) set to V(check), when there is a problem.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Check this host
  hbp.mip.node_check:
    kinds: [worker]
    address: 192.0.2.21
    data_dir: /data/lab
    overlay_subnet: 10.20.30.0/24
    peers: [192.0.2.11, 192.0.2.22]
    registry: registry.example.org
    reference_time: "{{ now().timestamp() }}"
    expected_hostname: "{{ inventory_hostname }}"
  register: check

- name: Stop when something is wrong
  hbp.mip.node_check:
    kinds: [master]
    fail_on_problems: true
"""

RETURN = r"""
facts:
  description: What was found on this host.
  returned: always
  type: dict
  contains:
    os:
      description: Keys C(id), C(version), C(codename) and C(pretty).
      type: dict
    arch:
      description: Processor architecture.
      type: str
    kernel:
      description: Release of the running kernel.
      type: str
    kernel_overlay:
      description: >-
        For V(vxlan) and V(esp) whether the kernel can do it, the reason when not, and whether it could be tested.
      type: dict
    python:
      description: Version of the interpreter that ran the check.
      type: str
    init:
      description: V(systemd) or V(other).
      type: str
    container:
      description: What kind of container this host is; empty for a machine.
      type: str
    root:
      description: Whether the check ran with root's rights.
      type: bool
    hostname:
      description: The kernel's hostname.
      type: str
    machine_id:
      description: Content of C(/etc/machine-id); two hosts with the same one are clones.
      type: str
    boot_id:
      description: The kernel's id of this boot.
      type: str
    cpus:
      description: Processors that may be used.
      type: int
    memory_mb:
      description: Memory in MiB.
      type: int
    memory_available_mb:
      description: Memory in MiB that programs could still get.
      type: int
    disk_free_gb:
      description: Free GiB by path.
      type: dict
    storage:
      description: >-
        By path the keys C(measured_at), C(free_gb), C(free_inodes) (-1 when unlimited), C(read_only) and C(device).
      type: dict
    addresses:
      description: All addresses of this host.
      type: list
      elements: str
    interfaces:
      description: The addresses with C(prefix) and C(interface).
      type: list
      elements: dict
    routes:
      description: Keys C(destination), C(interface) and C(gateway).
      type: list
      elements: dict
    network_error:
      description: Why addresses and routes could not be read.
      type: str
    name_servers:
      description: Name servers of C(/etc/resolv.conf).
      type: list
      elements: str
    listening:
      description: TCP ports on which something listens.
      type: list
      elements: int
    vmxnet3:
      description: Interfaces with the driver vmxnet3 that compute the checksums of what they send.
      type: list
      elements: str
    docker:
      description: >-
        Keys C(installed), C(from) (distro, docker, snap, other), C(executable), C(version), C(running), C(enabled) (at boot), C(error),
        C(sdk) (version of the Docker SDK for this interpreter), C(root_dir), C(storage_driver),
        C(insecure_registries), C(cgroup), C(package) (its full version), C(advisories) (those that its list of changes names as fixed),
        C(rootless), C(twice) (from snap as well), C(firewall_backend), C(iptables), C(ip_masq), C(ip_forward), C(own_networks),
        C(config_error) and C(proxy) (C(http), C(https), C(no_proxy), without passwords); while it runs also
        C(live_restore) and C(logging_driver), otherwise C(service). With O(daemon) also C(configured) (whether M(hbp.mip.daemon_config)
        would find nothing to change and nothing to complain about; false where there is no engine).
      type: dict
    swarm:
      description: >-
        Keys C(state) (none, pending, worker, manager, locked, no-quorum, error, or unknown while the engine is
        stopped), C(role), C(node_id), C(node_addr), C(cluster_id) and C(error).
      type: dict
    time_offset_s:
      description: This host's clock minus O(reference_time) in seconds.
      type: float
    clock_synchronised:
      description: Whether a time service keeps the clock.
      type: bool
    account:
      description: >-
        Keys C(name), C(exists) and, when it does, C(uid), C(gid), C(home), C(shell), C(groups),
        C(public_keys) (those that may log in, base64) and C(sudoers_sha256) (hash of its file below C(/etc/sudoers.d)).
      type: dict
    data:
      description: Keys C(path), C(state) (folder, missing, link, other), C(owner), C(group) and C(mode).
      type: dict
    packages:
      description: Versions of the installed packages that matter.
      type: dict
    firewall:
      description: >-
        With O(federation), where M(hbp.mip.firewall) was set for it, C(peers), the addresses of the peers that it lets in.
      type: dict
    hardware:
      description: Who made the machine, or its hypervisor.
      type: str
    devices:
      description: Network cards by name, with C(up), C(mtu), C(kind) and for VXLAN C(vni) and C(port).
      type: dict
    sockets:
      description: >-
        Who has the swarm's ports: C(proto), C(port), C(address), C(kernel) (a socket of the kernel itself), C(program) and C(pid).
      type: list
      elements: dict
    packet_filter:
      description: >-
        Keys C(nft) and C(legacy) (whether iptables' rules are in nf_tables and in the older tables), C(docker_chains), C(masquerade),
        C(forward_policy), C(forward_drop) and C(error).
      type: dict
    forwarding:
      description: Keys C(now) and C(off_at_boot) (a file that turns it off).
      type: dict
    kernel_modules:
      description: Keys C(missing) and C(gone) (the running kernel's modules are not on the disk).
      type: dict
    dns:
      description: For each name server C(server), C(ms) (none without an answer), C(code) and C(addresses).
      type: list
      elements: dict
    registry:
      description: >-
        Keys C(host), C(port), C(tls), C(resolved), C(connected), C(error) and over TLS C(trusted), C(issuer), C(subject) and C(reason).
        Empty when it was not asked.
      type: dict
    store:
      description: >-
        Keys C(host), C(port), C(address), C(local) (it is on this host), C(outside) (what became of a connection from the host), C(verdict)
        (V(ok), V(name), V(no-route), V(refused), V(own-filter) or V(path)), C(message) and C(fix). Empty without O(store).
      type: dict
problems:
  description: What must be put right before a deployment.
  returned: always
  type: list
  elements: dict
  contains:
    code:
      description: A stable word for programs.
      type: str
    message:
      description: What is wrong and why it matters.
      type: str
    fix:
      description: The next command, or what to change in the inventory.
      type: str
    who:
      description: Who has to act, V(host) (its administrator), V(network) (the hospital's network team) or V(operator) (the inventory).
      type: str
warnings_found:
  description: What an operator should know, in the same form as RV(problems).
  returned: always
  type: list
  elements: dict
notes:
  description: What cannot be decided from the host alone and is no reason for an alarm, in the same form as RV(problems).
  returned: always
  type: list
  elements: dict
seconds:
  description: How long the check took on the host.
  returned: always
  type: float
mip_error:
  description: The word V(check).
  returned: when O(fail_on_problems=true) and there are problems
  type: str
"""

import ipaddress
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _gates, _host, _store


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "kinds": {
                "type": "list",
                "elements": "str",
                "choices": ["master", "ui", "worker", "pusher"],
                "default": ["worker"],
            },
            "limits": {
                "type": "dict",
                "apply_defaults": True,
                "options": {
                    "disk_free_gb": {"type": "float", "default": 5},
                    "inodes_free": {"type": "int", "default": 50000},
                    "memory_mb": {"type": "int", "default": 1024},
                    "clock_skew_seconds": {"type": "float", "default": 5},
                },
            },
            "address": {"type": "str"},
            "encrypted": {"type": "bool", "default": True},
            "docker_source": {"type": "str", "choices": ["distro", "docker", "none"], "default": "distro"},
            "data_dir": {"type": "path"},
            "data_required": {"type": "bool", "default": False},
            "overlay_subnet": {"type": "str"},
            "address_pools": {"type": "list", "elements": "str", "default": []},
            "account": {"type": "str"},
            "reference_time": {"type": "float"},
            "expected_hostname": {"type": "str"},
            "cluster_id": {"type": "str"},
            "peers": {"type": "list", "elements": "str", "default": []},
            "data_path_port": {"type": "int", "default": 4789},
            "registry": {"type": "str"},
            "registry_tls": {"type": "bool", "default": True},
            "store": {
                "type": "dict",
                "options": {"host": {"type": "str", "required": True}, "port": {"type": "int", "required": True}},
            },
            "daemon": {"type": "dict"},
            "federation": {"type": "str"},
            "docker_socket": {"type": "path", "default": "/var/run/docker.sock"},
            "fail_on_problems": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    started = time.monotonic()
    given = module.params
    for option in ("address", "peers", "overlay_subnet", "address_pools"):
        value = given[option] or []
        for text in [value] if isinstance(value, str) else value:
            try:
                if option in ("address", "peers"):
                    ipaddress.ip_address(text)
                else:
                    ipaddress.ip_network(text)
            except ValueError as error:
                module.fail_json(msg="%s: %s" % (option, error), mip_error="configuration")
    wanted = _gates.Wanted(
        kinds=given["kinds"],
        limits=given["limits"],
        address=given["address"] or "",
        encrypted=given["encrypted"],
        docker_source=given["docker_source"],
        data_dir=given["data_dir"] or "",
        data_required=given["data_required"],
        overlay_subnet=given["overlay_subnet"] or "",
        address_pools=given["address_pools"],
        expected_hostname=given["expected_hostname"] or "",
        cluster_id=given["cluster_id"] or "",
        peers=given["peers"],
        data_path_port=given["data_path_port"],
    )
    node = any(kind in _gates.NODE_KINDS for kind in wanted.kinds)
    facts = _host.gather(
        wanted.data_dir,
        given["account"] or "",
        wanted.encrypted,
        node,
        given["docker_socket"],
        given["reference_time"],
        given["registry"] or "",
        given["registry_tls"],
        given["data_path_port"],
        given["daemon"],
        given["federation"] or "",
    )
    found = _gates.judge(facts, wanted)
    facts["store"] = _store.look(given["store"]["host"], given["store"]["port"]) if given["store"] else {}
    if facts["store"].get("verdict", "ok") != "ok":
        found.problem(_store.CODE, facts["store"]["message"], facts["store"]["fix"])
    result = {
        "changed": False,
        "facts": facts,
        "problems": found.problems,
        "warnings_found": found.warnings,
        "notes": found.notes,
        "seconds": round(time.monotonic() - started, 3),
    }
    if found.problems and given["fail_on_problems"]:
        lines = ["- %(code)s: %(message)s. Next: %(fix)s" % problem for problem in found.problems]
        count = "1 problem" if len(lines) == 1 else "%d problems" % len(lines)
        module.fail_json(msg="%s on %s:\n%s" % (count, facts["hostname"], "\n".join(lines)), mip_error="check", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
