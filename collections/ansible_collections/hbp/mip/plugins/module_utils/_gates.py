# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stops a host from being a node of a federation: pure rules over the facts of `_host.gather`.

Every rule looks at everything, so that one check lists all that an operator has to put right.
"""

from __future__ import annotations

import ipaddress
from typing import Any, NamedTuple

from ansible_collections.hbp.mip.plugins.module_utils import _advisories, _gates_network

SUPPORTED = {"ubuntu": ("20.04", "22.04", "24.04"), "debian": ("11", "12", "13")}
ARCHITECTURES = ("x86_64", "aarch64", "arm64")
OLDEST_DOCKER = (20, 10)
NODE_KINDS = ("master", "ui", "worker")


class Wanted(NamedTuple):
    """What the federation asks of one host; see the options of the module node_check."""

    kinds: list[str]
    limits: dict[str, float]
    address: str
    encrypted: bool
    docker_source: str
    data_dir: str
    data_required: bool
    overlay_subnet: str
    address_pools: list[str]
    expected_hostname: str
    cluster_id: str
    peers: list[str]
    data_path_port: int


#: Who has to act, by code: the `operator` who writes the inventory, the hospital's `network` team; the `host`'s administrator otherwise.
WHO = {
    "address-not-local": "operator",
    "address-unusable": "operator",
    "subnet-collision": "operator",
    "swarm-address": "operator",
    "docker-source": "operator",
    "hostname-mismatch": "operator",
    "vxlan-port-shared": "operator",
    "vmware-vxlan": "network",
    "dns-silent": "network",
    "dns-slow": "network",
    "dns-refuses": "network",
    "registry-unreachable": "network",
    "registry-tls-intercepted": "network",
}


class Findings:
    """Problems, warnings and notes, each {code, message, fix, who}, in the order in which they were found."""

    def __init__(self) -> None:
        self.problems: list[dict[str, str]] = []
        self.warnings: list[dict[str, str]] = []
        self.notes: list[dict[str, str]] = []

    def problem(self, code: str, message: str, fix: str) -> None:
        """Something that must stop a deployment."""
        self.problems.append(_entry(code, message, fix))

    def warning(self, code: str, message: str, fix: str) -> None:
        """Something that an operator should know."""
        self.warnings.append(_entry(code, message, fix))

    def note(self, code: str, message: str, fix: str) -> None:
        """Something that cannot be decided from the host alone and is no reason for an alarm."""
        self.notes.append(_entry(code, message, fix))


def _entry(code: str, message: str, fix: str) -> dict[str, str]:
    return {"code": code, "message": message, "fix": fix, "who": WHO.get(code, "host")}


def judge(facts: dict[str, Any], wanted: Wanted) -> Findings:
    """All problems and warnings of a host."""
    found = Findings()
    node = any(kind in NODE_KINDS for kind in wanted.kinds)
    if not facts["root"]:
        found.problem(
            "not-root",
            "the check runs without root's rights, so parts of this host could not be looked at",
            "set ansible_become: true in the inventory and allow sudo for ansible_user",
        )
    _clock(facts, wanted, found)
    if not node:
        return found
    _system(facts, found)
    _name(facts, wanted, found)
    _resources(facts, wanted, found)
    _data(facts, wanted, found)
    _network(facts, wanted, found)
    _gates_network.judge(facts, wanted, found)
    _docker(facts, wanted, found)
    _swarm(facts, wanted, found)
    _kernel(facts, wanted, found)
    return found


def _system(facts: dict[str, Any], found: Findings) -> None:
    system = facts["os"]
    name, version = system["id"], system["version"]
    if version not in SUPPORTED.get(name, ()):
        known = "Ubuntu %s and Debian %s" % (", ".join(SUPPORTED["ubuntu"]), ", ".join(SUPPORTED["debian"]))
        found.problem(
            "os-unsupported",
            "the operating system is %s; supported are %s" % (system["pretty"] or name or "unknown", known),
            "install one of the supported systems on this host",
        )
    if facts["arch"] not in ARCHITECTURES:
        found.problem(
            "arch-unsupported",
            "the processor is %s; there are images for x86_64 and arm64 only" % facts["arch"],
            "use a host with an x86_64 or arm64 processor",
        )
    if facts["init"] != "systemd":
        found.problem(
            "init-unsupported",
            "systemd is not the init system here, so the Docker service cannot be managed",
            "use a host, or a container such as systemd-nspawn, that was started with systemd",
        )


def _name(facts: dict[str, Any], wanted: Wanted, found: Findings) -> None:
    hostname = facts["hostname"]
    if "." in hostname:
        found.problem(
            "hostname-dotted",
            "the hostname is %s; a node's hostname must not contain dots" % hostname,
            "sudo hostnamectl set-hostname %s" % hostname.partition(".")[0],
        )
    if wanted.expected_hostname and hostname != wanted.expected_hostname:
        found.warning(
            "hostname-mismatch",
            "the hostname is %s, the inventory calls this host %s; docker node ls will show the former"
            % (hostname, wanted.expected_hostname),
            "sudo hostnamectl set-hostname %s, if that is the right host" % wanted.expected_hostname,
        )
    if not facts["machine_id"]:
        found.warning(
            "machine-id-missing",
            "/etc/machine-id is empty, so a clone of this machine in the same federation cannot be recognised",
            "sudo systemd-machine-id-setup",
        )


def _resources(facts: dict[str, Any], wanted: Wanted, found: Findings) -> None:
    need = wanted.limits["memory_mb"]
    # the kernel keeps some of the memory for itself before it counts, so a "1 GB" machine shows about 950 MB
    if facts["memory_mb"] < need * 0.9:
        found.problem(
            "memory-low",
            "this host has %d MB of memory, mip_limits.memory_mb asks for %d" % (facts["memory_mb"], need),
            "give the machine more memory, or lower mip_limits.memory_mb in the inventory",
        )
    checked = ["/", facts["docker"]["root_dir"]]
    if wanted.data_dir:
        checked.append(wanted.data_dir)
    seen = set()
    for path in checked:
        storage = facts["storage"].get(path)
        if storage is None or storage["device"] in seen:
            continue
        seen.add(storage["device"])
        where = path if storage["measured_at"] == path else "%s (for %s)" % (storage["measured_at"], path)
        if storage["free_gb"] < wanted.limits["disk_free_gb"]:
            found.problem(
                "disk-low",
                "%.1f GB are free at %s, mip_limits.disk_free_gb asks for %g" % (storage["free_gb"], where, wanted.limits["disk_free_gb"]),
                "free space there (sudo du -xh --max-depth=2 %s | sort -h | tail), or lower mip_limits.disk_free_gb"
                % storage["measured_at"],
            )
        if 0 <= storage["free_inodes"] < wanted.limits["inodes_free"]:
            found.problem(
                "inodes-low",
                "%d inodes (files that can still be made) are free at %s, %d are needed for images"
                % (storage["free_inodes"], where, wanted.limits["inodes_free"]),
                "delete small files there (sudo du --inodes -x --max-depth=2 %s | sort -n | tail)" % storage["measured_at"],
            )
    for path, storage in facts["storage"].items():
        if storage["read_only"]:
            found.problem(
                "filesystem-readonly",
                "the file system at %s is mounted read-only, %s cannot be written" % (storage["measured_at"], path),
                "look for disk errors (sudo dmesg | grep -i 'remount'), then sudo mount -o remount,rw %s" % storage["measured_at"],
            )


def _clock(facts: dict[str, Any], wanted: Wanted, found: Findings) -> None:
    offset, limit = facts["time_offset_s"], wanted.limits["clock_skew_seconds"]
    fix = "sudo timedatectl set-ntp true (package systemd-timesyncd or chrony), then timedatectl status"
    if facts["container"] not in ("", "docker"):
        fix = "the clock is that of the machine around this container; there: %s" % fix
    if offset is not None and abs(offset) > limit:
        found.problem(
            "clock-skew",
            "the clock is %.1f seconds %s the pusher's, %g are allowed (certificates and logs depend on it)"
            % (abs(offset), "ahead of" if offset > 0 else "behind", limit),
            fix,
        )
    if not facts["clock_synchronised"]:
        found.warning("clock-unsynchronised", "no time service keeps this host's clock, so it will drift", fix)


def _data(facts: dict[str, Any], wanted: Wanted, found: Findings) -> None:
    data = facts["data"]
    if not data or data["state"] == "folder":
        return
    path = data["path"]
    if data["state"] == "missing":
        report = found.problem if wanted.data_required else found.warning
        report(
            "data-folder-missing",
            "the data folder %s does not exist yet" % path,
            "mipfed deploy makes it; put each pathology into a folder of its own below it",
        )
    elif data["state"] == "link":
        found.warning(
            "data-folder-link",
            "the data folder %s is a symbolic link; the engine is given what it points to" % path,
            "mount the disk there instead, or set mip_data_root to the real folder",
        )
    else:
        found.problem(
            "data-folder-unusable",
            "%s exists but is not a folder%s" % (path, ": " + data["reason"] if data.get("reason") else ""),
            "move it away: sudo mv %s %s.old" % (path, path),
        )


def _network(facts: dict[str, Any], wanted: Wanted, found: Findings) -> None:
    if facts["network_error"]:
        found.problem(
            "network-unreadable",
            "the kernel did not tell its addresses: %s" % facts["network_error"],
            "run ip address on this host and see why it fails",
        )
        return
    if wanted.address and wanted.address not in facts["addresses"]:
        own = [a for a in facts["addresses"] if not ipaddress.ip_address(a).is_loopback]
        found.problem(
            "address-not-local",
            "%s is on none of this host's interfaces (they have %s); the encrypted overlay cannot pass address "
            "translation" % (wanted.address, ", ".join(own) or "no address"),
            "set mip_address to an address of this host that all the other nodes reach, for example a VPN's",
        )
    planned = [("mip_overlay.subnet", wanted.overlay_subnet)] if wanted.overlay_subnet else []
    planned += [("mip_swarm.address_pools", pool) for pool in wanted.address_pools]
    for option, text in planned:
        _collisions(facts, option, text, found)
    for interface in facts["vmxnet3"]:
        found.warning(
            "vmxnet3-checksum",
            "%s is a VMware vmxnet3 interface; some of them spoil the checksums of overlay packets (ping works, TCP does not)" % interface,
            "if mipfed verify fails: sudo ethtool -K %s tx-checksum-ip-generic off" % interface,
        )


def _collisions(facts: dict[str, Any], option: str, text: str, found: Findings) -> None:
    subnet = ipaddress.ip_network(text, strict=False)
    clashes = []
    for route in facts["routes"]:
        destination = ipaddress.ip_network(route["destination"], strict=False)
        if destination.prefixlen and destination.version == subnet.version and destination.overlaps(subnet):
            via = " via %s" % route["gateway"] if route["gateway"] else ""
            clashes.append("the route to %s on %s%s" % (destination, route["interface"], via))
    for item in facts["interfaces"]:
        address = ipaddress.ip_address(item["address"])
        # an interface's own network is a route already; this finds addresses with a full-length prefix
        if address.version == subnet.version and address in subnet and not clashes:
            clashes.append("the address %s on %s" % (address, item["interface"]))
    for server in facts["name_servers"]:
        try:
            inside = ipaddress.ip_address(server.partition("%")[0]) in subnet
        except ValueError:
            continue
        if inside:
            clashes.append("the name server %s" % server)
    if clashes:
        found.problem(
            "subnet-collision",
            "%s %s overlaps with %s; containers could no longer reach it" % (option, subnet, ", ".join(clashes)),
            "choose another network for %s, for example from 100.64.0.0/10 or 198.18.0.0/15" % option,
        )


def _docker(facts: dict[str, Any], wanted: Wanted, found: Findings) -> None:
    docker = facts["docker"]
    if docker["from"] == "snap":
        found.problem(
            "docker-snap",
            "Docker was installed as a snap package, which cannot mount the data folder",
            "sudo snap remove docker (its containers go with it), then mipfed deploy",
        )
        return
    if docker["twice"]:
        found.warning(
            "docker-twice",
            "beside the engine that is used there is Docker from snap as well; both write packet filter rules and want the same socket",
            "sudo snap remove docker (its containers go with it), then sudo systemctl restart docker",
        )
    if docker["rootless"]:
        found.problem(
            "docker-rootless",
            "the Docker engine runs without root's rights, and such an engine can be in no swarm",
            "systemctl --user disable --now docker as its user; then let mipfed deploy start the system's engine",
        )
    if docker["config_error"]:
        found.problem(
            "docker-config-broken",
            "/etc/docker/daemon.json cannot be read (%s), so the engine will not start again" % docker["config_error"],
            "correct the file (python3 -m json.tool /etc/docker/daemon.json shows where), or remove it",
        )
    if docker["firewall_backend"] == "nftables":
        found.problem(
            "docker-nftables",
            "the engine is set to write nftables rules itself, which Docker refuses to combine with swarm mode",
            'remove "firewall-backend" from /etc/docker/daemon.json and --firewall-backend from the service, then restart the engine',
        )
    for key, option in (("iptables", "iptables"), ("ip_masq", "ip-masq")):
        if not docker[key]:
            found.problem(
                "docker-filter-off",
                "%s is turned off in /etc/docker/daemon.json or in the engine's arguments, so the engine does not make its rules for "
                "published ports and containers' way out" % option,
                'remove "%s" there, then sudo systemctl restart docker' % option,
            )
    if not docker["installed"]:
        if wanted.docker_source == "none":
            found.problem(
                "docker-absent",
                "there is no Docker engine, and mip_docker.source is none, so none will be installed",
                "install Docker on this host, or set mip_docker.source to distro or docker",
            )
        return
    version = _advisories.numbers(docker["version"])
    if version and version[:2] < OLDEST_DOCKER:
        found.problem(
            "docker-too-old",
            "the Docker engine is %s, the oldest supported is 20.10" % docker["version"],
            "upgrade the package that it came from (%s)" % docker["from"],
        )
    if not docker["running"]:
        service = docker.get("service") or ""
        details = " (docker.service: %s)" % service if service else ""
        fix = "sudo systemctl start docker; if that fails: sudo journalctl -u docker -n 50"
        if docker["error"] == "the engine is stopped":
            found.warning("docker-stopped", "the Docker engine is installed but does not run%s; a deploy starts it" % details, fix)
        else:
            found.problem("docker-silent", "the Docker engine does not answer: %s%s" % (docker["error"], details), fix)
    if docker["running"] and wanted.docker_source not in ("none", docker["from"]):
        found.warning(
            "docker-source",
            "the running engine comes from %s, mip_docker.source asks for %s; a working engine is never replaced"
            % (docker["from"], wanted.docker_source),
            "set mip_docker.source to none, or replace the engine yourself",
        )
    if docker.get("live_restore") and facts["swarm"]["state"] in ("none", "unknown"):
        found.problem(
            "docker-live-restore",
            "the engine runs with live-restore, which Docker refuses to combine with swarm mode",
            'remove "live-restore" from /etc/docker/daemon.json, then sudo systemctl reload docker',
        )
    if wanted.encrypted:
        _vulnerable(facts, found)
    if wanted.encrypted and version and mixes_badly(version):
        found.warning(
            "docker-encrypted-mix",
            "Docker %s exchanges encrypted overlay traffic only with engines of the same fault (25.0.13-14, "
            "29.0.0-29.2.0); with any other version the data silently does not pass" % docker["version"],
            "run the same engine version on all nodes, best 29.8.2 or newer, and then mipfed verify",
        )


def _vulnerable(facts: dict[str, Any], found: Findings) -> None:
    docker, system = facts["docker"], facts["os"]
    applies, unknown = _advisories.judge(docker["version"], docker["from"], (system["id"], system["version"]), docker["advisories"])
    if applies:
        newest = max(max(item.fixed) for item in applies)
        found.warning(
            "docker-vulnerable",
            "Docker %s has known faults of encrypted overlays: %s"
            % (docker["version"], "; ".join("%s: %s (%s)" % (item.name, item.effect, item.source) for item in applies)),
            "upgrade all nodes to %s or newer (of the distribution's packages: to a newer release); until then keep mip_firewall on, whose "
            "table lets the overlay's packets pass only through IPsec" % ".".join(str(number) for number in newest),
        )
    if unknown:
        package = docker["package"] or docker["version"]
        found.note(
            "docker-advisories",
            "the version of %s's package %s does not tell whether it has the fixes of %s; distributions add them without a new number"
            % (system["id"] or "the distribution", package, ", ".join(item.name for item in unknown)),
            "apt changelog docker.io, and https://security-tracker.debian.org/tracker/source-package/docker.io",
        )


def mixes_badly(version: tuple[int, ...]) -> bool:
    """Whether an engine exchanges encrypted overlay data with its own kind only (moby#51798)."""
    return (25, 0, 13) <= version <= (25, 0, 14) or (29, 0, 0) <= version <= (29, 2, 0)


def _swarm(facts: dict[str, Any], wanted: Wanted, found: Findings) -> None:
    swarm = facts["swarm"]
    state = swarm["state"]
    reason = ": %s" % swarm["error"] if swarm["error"] else ""
    if state == "locked":
        found.problem("swarm-locked", "this manager is locked since its engine was restarted (autolock)%s" % reason, "mipfed unlock")
    elif state == "pending":
        found.problem(
            "swarm-pending",
            "this node is still trying to join a swarm%s" % reason,
            "see whether its manager answers on port 2377; to give up: sudo docker swarm leave",
        )
    elif state == "error":
        found.problem(
            "swarm-error",
            "this node's part in the swarm failed%s" % (reason or ": the engine gives no reason"),
            "sudo journalctl -u docker -n 50; a restart of the engine often shows the cause",
        )
    elif state == "no-quorum":
        found.problem(
            "swarm-no-quorum",
            "this manager's swarm has no leader%s" % reason,
            "start the other managers again; when they are lost for good: mipfed recover",
        )
    if wanted.cluster_id and swarm["cluster_id"] and swarm["cluster_id"] != wanted.cluster_id:
        found.problem(
            "swarm-foreign",
            "this node belongs to another swarm (cluster %s, node %s), not to this federation's (%s)"
            % (swarm["cluster_id"], swarm["node_id"] or "unknown", wanted.cluster_id),
            "if that swarm is not needed any more: sudo docker swarm leave on this host; it stops its services here",
        )
    drifted = wanted.address and swarm["node_addr"] and swarm["node_addr"] != wanted.address
    if drifted and swarm["role"] == "manager":
        found.problem(
            "swarm-address",
            "this manager was set up with the address %s, the inventory says %s; a manager's address cannot change"
            % (swarm["node_addr"], wanted.address),
            "give the host its old address back, or set mip_address to %s" % swarm["node_addr"],
        )
    elif drifted:
        found.warning(
            "swarm-address",
            "this node joined with the address %s, the inventory says %s" % (swarm["node_addr"], wanted.address),
            "set mip_address to the address in use, or let the node leave and join again",
        )
    if state == "none":
        _gates_network.ports(facts, wanted, found)
    _gates_network.overlay_port_taken(facts, wanted, found)


def _kernel(facts: dict[str, Any], wanted: Wanted, found: Findings) -> None:
    _modules(facts, found)
    overlay = facts["kernel_overlay"]
    vxlan, esp = overlay.get("vxlan"), overlay.get("esp")
    if vxlan and not vxlan["ok"]:
        found.problem(
            "kernel-no-vxlan",
            "the kernel %s cannot do overlay networks: %s" % (facts["kernel"], vxlan["reason"]),
            _other_kernel(facts, vxlan["tested"]),
        )
    if esp and not esp["ok"] and wanted.encrypted:
        fix = _other_kernel(facts, esp["tested"])
        if esp["tested"]:
            fix += "; or accept an unencrypted overlay with mip_overlay.encrypted: false"
        found.problem(
            "kernel-no-esp",
            "the kernel %s cannot encrypt the overlay (ESP with AES-GCM): %s" % (facts["kernel"], esp["reason"]),
            fix,
        )


def _modules(facts: dict[str, Any], found: Findings) -> None:
    modules = facts["kernel_modules"]
    if not modules:
        return
    if modules["gone"]:
        report = found.warning if facts["docker"]["running"] else found.problem
        report(
            "kernel-modules-gone",
            "the modules of the running kernel %s are no longer on the disk, so nothing more of it can be loaded" % facts["kernel"],
            "sudo reboot (the kernel was upgraded); if that does not help, reinstall the kernel's package (linux-image or linux-modules)",
        )
    elif modules["missing"]:
        found.problem(
            "kernel-module-missing",
            "the kernel %s has no %s, which the engine's networks need" % (facts["kernel"], ", ".join(modules["missing"])),
            "sudo modprobe %s says why; else %s" % (modules["missing"][0], _other_kernel(facts, True)),
        )


def _other_kernel(facts: dict[str, Any], tested: bool) -> str:
    if not tested:
        return "let the check run as root; a container needs CAP_SYS_ADMIN and CAP_NET_ADMIN, as Docker's overlay does"
    if facts["container"] not in ("", "docker"):
        return "the kernel is that of the machine around this container: boot a distribution kernel there"
    flavour = "amd64" if facts["arch"] == "x86_64" else "arm64"
    return "boot a distribution kernel (package linux-image-%s)" % ("generic" if facts["os"]["id"] == "ubuntu" else flavour)
