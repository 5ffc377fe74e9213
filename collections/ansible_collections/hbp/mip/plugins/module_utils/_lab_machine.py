# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lab machines: systemd-nspawn containers with their own root, network, cgroups, sshd and Docker engine."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import inspect
import os
import re
import secrets
import shlex
import shutil
import signal
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ansible_collections.hbp.mip.plugins.module_utils import _lab_resolver
from ansible_collections.hbp.mip.plugins.module_utils._lab import (
    CGROUP_ROOT,
    NETNS_DIR,
    CgroupTree,
    LabError,
    Network,
    Paths,
    Process,
    ask_socket,
    ask_tcp,
    assign_last_bytes,
    cgroup_trees,
    choose_number,
    is_pid_one,
    kill,
    lab_paths,
    locked,
    make_cgroup,
    mounts,
    netns_name,
    network,
    parse_routes,
    processes,
    read_json,
    read_text,
    remove_cgroup,
    remove_tree,
    run,
    spawn_daemon,
    succeeds,
    unified_host,
    unmount_below,
    wait_until,
    write_file,
    write_json,
)
from ansible_collections.hbp.mip.plugins.module_utils._lab_base import APT_MOUNT

#: priority of the policy rule that keeps a lab from being routed to anywhere; below the main table, above the local one
RULE_PRIORITY = "10770"
NSPAWN_DIR = "/run/systemd/nspawn"
#: the account of a bare machine
ACCOUNT = "admin"
BRIDGE_FILTER = "/proc/sys/net/bridge"
KERNEL_MODULES = ("overlay", "bridge", "veth", "vxlan", "ip_vs")

SCRIPT = """\
#!/bin/sh
# Runs the lab machine {name}: a fresh network and fresh cgroups at each boot, and again when it asks for a reboot (133).
PATH=/usr/sbin:/usr/bin:/sbin:/bin
unplug() {{
    ip link delete {veth} 2>/dev/null
    ip netns delete {netns} 2>/dev/null
    for folder in {leftovers}; do
        [ -d "$folder" ] && umount -l "$folder" 2>/dev/null
        [ -d "$folder" ] && rmdir "$folder"
    done
}}
plug() {{
    ip netns add {netns} &&
    {plug}
}}
empty() {{
    for group in {cgroups}; do
        [ -d "$group/boot" ] && find "$group/boot" -depth -type d -exec rmdir {{}} \\; 2>/dev/null
    done
}}
enter() {{
    for group in {cgroups}; do
        mkdir -p "$group/boot" || return
        for file in cpuset.cpus cpuset.mems; do
            [ -e "$group/cgroup.controllers" ] || [ ! -e "$group/$file" ] || cat "$group/$file" >"$group/boot/$file"
        done
        echo 0 >"$group/boot/cgroup.procs" || return
    done
}}
while :; do
    unplug
    empty
    plug || exit 1
    ( enter && exec env {environment} {command} )
    code=$?
    [ "$code" = 133 ] || break
done
unplug
empty
exit "$code"
"""


class Machine(NamedTuple):
    """One machine as it is wanted."""

    name: str
    last_byte: int
    kind: str
    base: str
    memory_mb: int
    binds: Tuple[str, ...]


class Running(NamedTuple):
    """The processes of one machine: its supervisor, the nspawn processes, and its pid 1 as seen from the host."""

    supervisor: Optional[int]
    nspawn: Tuple[int, ...]
    leader: Optional[int]

    @property
    def on(self) -> bool:
        """Whether it runs as it should: supervised, with a pid 1."""
        return self.supervisor is not None and self.leader is not None

    @property
    def any(self) -> bool:
        """Whether anything of it runs."""
        return self.supervisor is not None or bool(self.nspawn) or self.leader is not None

    def pids(self) -> List[int]:
        """All of them; the supervisor first, so that it starts nothing again while the others are killed."""
        return [pid for pid in (self.supervisor, *self.nspawn, self.leader) if pid is not None]


def script_path(paths: Paths, name: str) -> str:
    """The machine's supervisor program."""
    return os.path.join(paths.machine(name), "run")


def running(paths: Paths, name: str, table: Optional[Sequence[Process]] = None) -> Running:
    """What runs of a machine, found by command lines, so that nothing recorded can be stale."""
    table = processes() if table is None else table
    script, directory = script_path(paths, name), "--directory=" + paths.root(name)
    supervisors = [p.pid for p in table if p.argv[:2] == ("/bin/sh", script)]
    # a subshell of the supervisor has its command line for a moment
    children = {p.pid for p in table if p.parent in supervisors}
    nspawn = tuple(p.pid for p in table if os.path.basename(p.argv[0]) == "systemd-nspawn" and directory in p.argv)
    leaders = [p.pid for p in table if p.parent in nspawn and p.pid not in nspawn and is_pid_one(p.pid)]
    top = [pid for pid in supervisors if pid not in children]
    return Running(top[0] if top else None, nspawn, leaders[0] if leaders else None)


def plug_commands(lab: str, machine: Machine, net: Network, mtu: int) -> List[List[str]]:
    """Commands that put a network card into the machine's namespace and its cable into the bridge."""
    inside, veth, size = netns_name(lab, machine.name), net.veth(machine.last_byte), str(mtu)
    card = ["type", "veth", "peer", "name", "eth0", "address", net.mac(machine.last_byte), "mtu", size, "netns", inside]
    return [
        ["ip", "link", "add", veth, "mtu", size, *card],
        ["ip", "link", "set", veth, "master", net.bridge, "up"],
        ["ip", "-n", inside, "link", "set", "lo", "up"],
        ["ip", "-n", inside, "address", "add", net.address(machine.last_byte) + "/24", "broadcast", "+", "dev", "eth0"],
        ["ip", "-n", inside, "link", "set", "eth0", "up"],
        ["ip", "-n", inside, "route", "add", "default", "via", net.gateway],
    ]


def plugged_in(net: Network, last_byte: int) -> bool:
    """Whether the machine's cable is in the bridge, and up."""
    device = "/sys/class/net/" + net.veth(last_byte)
    flags = read_text(device + "/flags").strip() or "0"
    return os.path.basename(os.path.realpath(device + "/master")) == net.bridge and bool(int(flags, 16) & 1)


def plug_in(lab: str, machine: Machine, net: Network, mtu: int) -> None:
    """Puts a running machine's cable back."""
    commands = plug_commands(lab, machine, net, mtu)
    if os.path.exists("/sys/class/net/" + net.veth(machine.last_byte)):
        commands = commands[1:2]
    for command in commands:
        run(command)


def leftovers(net: Network, last_byte: int) -> List[str]:
    """What nspawn leaves when it is killed; newer ones refuse to start while it is there."""
    return ["%s/%s/%s" % (NSPAWN_DIR, folder, net.veth(last_byte)) for folder in ("propagate", "unix-export")]


def nspawn_command(paths: Paths, machine: Machine, net: Network) -> List[str]:
    """The container runner's command line. Its name for the machine is that of its cable, which is unique on this host."""
    home, name = paths.machine(machine.name), machine.name
    command = [shutil.which("systemd-nspawn") or "/usr/bin/systemd-nspawn", "--quiet", "--boot", "--settings=no"]
    command += ["--directory=" + paths.root(name), "--machine=" + net.veth(machine.last_byte), "--hostname=" + name]
    command += ["--register=no", "--keep-unit", "--console=pipe", "--link-journal=no"]
    command += ["--resolv-conf=off", "--timezone=off", "--notify-ready=no"]
    # a machine must not set the clock of the host or load modules into its kernel
    command += ["--capability=all", "--drop-capability=CAP_SYS_TIME,CAP_SYS_MODULE"]
    command += ["--network-namespace-path=" + os.path.join(NETNS_DIR, netns_name(os.path.basename(paths.lab), name))]
    for folder in ("docker", "containerd"):
        # overlays do not stack on an overlay: the engine needs a real file system, or falls back to copying (vfs)
        command.append("--bind=%s/%s:/var/lib/%s" % (home, folder, folder))
    for device in ("/dev/fuse", "/dev/net/tun"):
        if os.path.exists(device):
            command.append("--bind=" + device)
    command.append("--bind-ro=%s/debs:%s" % (machine.base, APT_MOUNT))
    for bind in machine.binds:
        command.append("--bind-ro=" + bind[: -len(":ro")] if bind.endswith(":ro") else "--bind=" + bind)
    return command


def environment(base: Dict[str, Any], trees: Sequence[CgroupTree]) -> Dict[str, str]:
    """Variables that nspawn reads."""
    env = {"SYSTEMD_SECCOMP": "0", "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "yes", "LC_ALL": "C.UTF-8"}
    version = re.split(r"[.~-]", str(base.get("versions", {}).get("systemd", "0")), maxsplit=1)[0]
    if not unified_host(trees) and version.isdigit() and int(version) >= 256:
        # systemd 256 and later refuses to start on cgroup v1; it gets the (empty) v2 hierarchy instead
        env["SYSTEMD_NSPAWN_UNIFIED_HIERARCHY"] = "1"
    return env


def machine_script(
    lab: str, machine: Machine, net: Network, cgroups: Sequence[str], env: Dict[str, str], command: Sequence[str], mtu: int
) -> str:
    """The supervisor of one machine, a shell program (about 1 MB of memory while it waits)."""
    return SCRIPT.format(
        name=machine.name,
        veth=net.veth(machine.last_byte),
        leftovers=" ".join(leftovers(net, machine.last_byte)),
        netns=shlex.quote(netns_name(lab, machine.name)),
        plug=" &&\n    ".join(" ".join(shlex.quote(word) for word in argv) for argv in plug_commands(lab, machine, net, mtu)),
        cgroups=" ".join(shlex.quote(group) for group in cgroups) or '""',
        environment=" ".join(shlex.quote("%s=%s" % item) for item in sorted(env.items())),
        command=" ".join(shlex.quote(word) for word in command),
    )


def fingerprint(public_key: str) -> str:
    """SHA256 fingerprint of a public key line, as ssh-keygen -l writes it."""
    words = public_key.split()
    if len(words) < 2:
        return ""
    digest = hashlib.sha256(base64.b64decode(words[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def make_key(path: str, comment: str) -> None:
    """An ed25519 key pair without a passphrase, made beside and renamed."""
    if os.path.exists(path) and os.path.exists(path + ".pub"):
        return
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    beside = path + ".new"
    for name in (beside, beside + ".pub", path, path + ".pub"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", beside])
    os.rename(beside + ".pub", path + ".pub")
    os.rename(beside, path)


# --------------------------------------------------------------------------------------------------------------------
# the lab's network, on the host


def firewall_rules(net: Network, ports: Sequence[int]) -> List[List[str]]:
    """Rules (chain, then match) that let a lab work on a host that filters: Docker there sets FORWARD to drop."""
    rules = [["FORWARD", "-i", net.bridge, "-o", net.bridge, "-j", "ACCEPT"]]
    rules.append(["INPUT", "-i", net.bridge, "-p", "icmp", "-j", "ACCEPT"])
    rules.append(["INPUT", "-i", net.bridge, "-d", net.gateway, "-p", "udp", "--dport", "53", "-j", "ACCEPT"])
    for port in ports:
        rules.append(["INPUT", "-i", net.bridge, "-d", net.gateway, "-p", "tcp", "--dport", str(port), "-j", "ACCEPT"])
    return rules


def network_problems(paths: Paths, net: Network, ports: Sequence[int]) -> List[str]:
    """What of the lab's network is not as it should be; empty when all is."""
    problems = []
    addresses = run(["ip", "-o", "-4", "address", "show", "dev", net.bridge], check=False)
    if "inet %s/24 " % net.gateway not in addresses or not succeeds(["ip", "link", "show", net.bridge, "up"]):
        problems.append("bridge")
    if "iif %s unreachable" % net.bridge not in run(["ip", "rule"], check=False).replace(" [detached]", ""):
        problems.append("rule")
    if read_text("/proc/sys/net/ipv4/conf/%s/forwarding" % net.bridge).strip() != "1":
        problems.append("forwarding")
    if shutil.which("iptables"):
        rules = firewall_rules(net, ports)
        if not all(succeeds(["iptables", "-w", "5", "-C", *rule]) for rule in rules):
            problems.append("firewall")
    if not resolver_pids(paths, net):
        problems.append("resolver")
    return problems


def load_modules() -> None:
    """Loads what the engines need into the host's kernel, because machines cannot; LabError for what no swarm can miss."""
    if shutil.which("modprobe"):
        run(["modprobe", "--all", "--quiet", *KERNEL_MODULES], check=False)
    if os.path.isdir(BRIDGE_FILTER):
        return
    if not succeeds(["modprobe", "br_netfilter"]):
        raise LabError("the kernel has no br_netfilter, without which no Docker overlay network works; `modprobe br_netfilter` says why")
    # Loaded for the machines, which have settings of their own. Bridges of this host go on as they were.
    for name in ("iptables", "ip6tables", "arptables"):
        write_file_if("%s/bridge-nf-call-%s" % (BRIDGE_FILTER, name), "0")


def resolver_pids(paths: Paths, net: Network) -> List[int]:
    """Processes of the lab's name server."""
    wanted = (paths.resolver, net.gateway, paths.file)
    return [p.pid for p in processes() if p.argv[-3:] == wanted]


def repair_network(paths: Paths, net: Network, ports: Sequence[int], problems: Sequence[str]) -> None:
    """Makes the bridge, the rule and the name server, or those of them that are not there."""
    lab = os.path.basename(paths.lab)
    if "bridge" in problems:
        if not succeeds(["ip", "link", "show", net.bridge]):
            run(["ip", "link", "add", net.bridge, "type", "bridge", "stp_state", "0", "forward_delay", "0"])
        write_file_if("/proc/sys/net/ipv6/conf/%s/disable_ipv6" % net.bridge, "1")
        run(["ip", "link", "set", net.bridge, "alias", "mip-lab " + lab])
        if "inet %s/24 " % net.gateway not in run(["ip", "-o", "-4", "address", "show", "dev", net.bridge]):
            run(["ip", "address", "add", net.gateway + "/24", "broadcast", "+", "dev", net.bridge])
        run(["ip", "link", "set", net.bridge, "up"])
    # Everything behind the bridge that is not the lab itself is unreachable, and says so at once: with forwarding off the
    # kernel would drop in silence, and clients inside would wait for their timeouts.
    if "rule" in problems:
        remove_rule(net)
        run(["ip", "rule", "add", "iif", net.bridge, "priority", RULE_PRIORITY, "unreachable"])
    if "forwarding" in problems or "bridge" in problems:
        write_file_if("/proc/sys/net/ipv4/conf/%s/forwarding" % net.bridge, "1")
    if "firewall" in problems:
        remove_firewall(net, ports)
        for rule in firewall_rules(net, ports):
            run(["iptables", "-w", "5", "-I", *rule])
    if "resolver" in problems:
        write_file(paths.resolver, inspect.getsource(_lab_resolver))
        log = os.path.join(paths.lab, "resolver.log")
        spawn_daemon([sys.executable, "-I", paths.resolver, net.gateway, paths.file], log)
        if not wait_until(lambda: resolver_answers(net), 10.0):
            raise LabError("the lab's name server does not run on %s:53: %s" % (net.gateway, read_text(log).strip() or "no message"))
        leave_session(lab, "resolver.run", resolver_pids(paths, net))


def resolver_answers(net: Network) -> bool:
    """Whether somebody listens on the name server's port."""
    port = "%08X:0035" % int.from_bytes(bytes(int(part) for part in net.gateway.split(".")), "little")
    return any(line.split()[1:2] == [port] for line in read_text("/proc/net/udp").splitlines())


def write_file_if(path: str, value: str) -> None:
    """Writes a kernel setting that may not exist on this host."""
    with contextlib.suppress(OSError), open(path, "w", encoding="ascii") as stream:
        stream.write(value)


def remove_rule(net: Network) -> None:
    """Removes the policy rule, however often it is there."""
    for _attempt in range(10):
        if not succeeds(["ip", "rule", "delete", "iif", net.bridge, "priority", RULE_PRIORITY]):
            return


def remove_firewall(net: Network, ports: Sequence[int]) -> None:
    """Removes the lab's rules, however often they are there."""
    if not shutil.which("iptables"):
        return
    for rule in firewall_rules(net, ports):
        for _attempt in range(10):
            if not succeeds(["iptables", "-w", "5", "-D", *rule]):
                break


def remove_network(paths: Paths, net: Network, ports: Sequence[int]) -> None:
    """Takes the lab's network away."""
    kill(resolver_pids(paths, net))
    remove_firewall(net, ports)
    remove_rule(net)
    run(["ip", "link", "delete", net.bridge], check=False)
    forget_netns_mount()


def forget_netns_mount() -> None:
    """`ip netns` mounts /run/netns on itself and leaves that; with no namespace in it, nobody needs it."""
    with contextlib.suppress(OSError):
        if os.path.isdir(NETNS_DIR) and not os.listdir(NETNS_DIR):
            while any(point == NETNS_DIR for point, _kind, _options in mounts()):
                if not succeeds(["umount", "-n", NETNS_DIR]):
                    break


# --------------------------------------------------------------------------------------------------------------------
# one machine


def complete(paths: Paths, name: str) -> bool:
    """Whether the machine was made to the end (its description is written last)."""
    return bool(read_json(os.path.join(paths.machine(name), "machine.json")))


def mounted(paths: Paths, machine: Machine) -> bool:
    """Whether the machine's root is an overlay on its base."""
    root, lower = os.path.realpath(paths.root(machine.name)), "lowerdir=%s/rootfs," % machine.base
    return any(p == root and kind == "overlay" and lower in opts + "," for p, kind, opts in mounts())


def mount_root(paths: Paths, machine: Machine) -> None:
    """Mounts the machine's root; anything half-mounted there goes first."""
    home, root = paths.machine(machine.name), paths.root(machine.name)
    os.makedirs(root, exist_ok=True)
    unmount_below(root)
    options = "lowerdir=%s/rootfs,upperdir=%s/upper,workdir=%s/work" % (machine.base, home, home)
    run(["mount", "-n", "-t", "overlay", "-o", options, "mip-lab", root])


def account_password(paths: Paths) -> str:
    """The password of the account of a lab's bare machines, made once, in a file that only root can read."""
    path = os.path.join(paths.lab, "password")
    if not read_text(path).strip():
        write_file(path, secrets.token_urlsafe(12) + "\n", 0o600)
    return read_text(path).strip()


def create(paths: Paths, machine: Machine, net: Network, authorized_keys: Sequence[str], bare: bool = False) -> None:
    """Makes a machine's folder and its identity; not started. A half-made one of a killed run is made afresh.

    A bare one lets no key in, but an account with a password, which may become root.
    """
    home, root, name = paths.machine(machine.name), paths.root(machine.name), machine.name
    remove_tree(home)
    for folder in ("upper", "work", "root", "docker", "containerd"):
        os.makedirs(os.path.join(home, folder))
    mount_root(paths, machine)
    write_file(os.path.join(root, "etc/hostname"), name + "\n")
    write_file(os.path.join(root, "etc/machine-id"), uuid.uuid4().hex + "\n", 0o444)
    hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n%s\t%s\n" % (net.address(machine.last_byte), name)
    write_file(os.path.join(root, "etc/hosts"), hosts)
    write_file(os.path.join(root, "etc/resolv.conf"), "nameserver %s\n" % net.gateway)
    make_key(os.path.join(root, "etc/ssh/ssh_host_ed25519_key"), "root@" + name)
    if bare:
        run(["useradd", "--root", root, "--create-home", "--shell", "/bin/bash", "--groups", "sudo", ACCOUNT])
        run(["chroot", root, "chpasswd"], stdin="%s:%s\n" % (ACCOUNT, account_password(paths)))
    else:
        os.makedirs(os.path.join(root, "root/.ssh"), mode=0o700, exist_ok=True)
        write_file(os.path.join(root, "root/.ssh/authorized_keys"), "\n".join(authorized_keys) + "\n", 0o600)
    described = machine._asdict()
    described["address"] = net.address(machine.last_byte)
    write_json(os.path.join(home, "machine.json"), described)


def start(paths: Paths, machine: Machine, net: Network, mtu: int) -> None:
    """Starts the machine's supervisor; the machine itself comes up by itself."""
    lab = os.path.basename(paths.lab)
    if not mounted(paths, machine):
        mount_root(paths, machine)
    trees, groups = cgroup_trees(), []
    for tree in trees:
        # the cgroup it boots in is made here too, so that controllers are handed down to there (v2)
        group = os.path.dirname(make_cgroup(tree, "%s/%s/%s/boot" % (CGROUP_ROOT, lab, machine.name)))
        groups.append(group)
        set_memory_limit(tree, group, machine.memory_mb)
    base = read_json(os.path.join(machine.base, "base.json"))
    text = machine_script(lab, machine, net, groups, environment(base, trees), nspawn_command(paths, machine, net), mtu)
    write_file(script_path(paths, machine.name), text, 0o755)
    log = os.path.join(paths.machine(machine.name), "console.log")
    spawn_daemon(["/bin/sh", script_path(paths, machine.name)], log)
    if not wait_until(lambda: running(paths, machine.name).any, 5.0, 0.02):
        raise LabError("machine '%s' did not start: %s" % (machine.name, console_tail(paths, machine.name)))
    supervisor = running(paths, machine.name).supervisor
    leave_session(lab, machine.name + ".run", [supervisor] if supervisor is not None else [])


def leave_session(lab: str, name: str, pids: Sequence[int]) -> None:
    """Moves processes of ours out of the cgroup of the operator's login, which may be cleaned away when that ends."""
    for tree in cgroup_trees():
        group = make_cgroup(tree, "%s/%s/%s" % (CGROUP_ROOT, lab, name))
        for pid in pids:
            write_file_if(os.path.join(group, "cgroup.procs"), str(pid))


def set_memory_limit(tree: CgroupTree, group: str, memory_mb: int) -> None:
    """Limits the machine's memory; 0 lifts the limit."""
    path = os.path.join(group, "memory.max" if tree.unified else "memory.limit_in_bytes")
    if os.path.exists(path):
        write_file_if(path, str(memory_mb << 20) if memory_mb else ("max" if tree.unified else "-1"))


def console_tail(paths: Paths, name: str, lines: int = 8) -> str:
    """Last lines of the machine's console."""
    text = read_text(os.path.join(paths.machine(name), "console.log")).strip().splitlines()
    return " | ".join(line.strip() for line in text[-lines:] if line.strip()) or "its console says nothing"


def power_off_hard(paths: Paths, name: str, net: Network, last_byte: int, cut: bool = False) -> bool:
    """Kills a machine; True when anything ran.

    With ``cut`` as if its plug was pulled: its cable goes first, so that nobody is told that its connections ended.
    Otherwise the kernel closes them, and clients outside (ssh that is kept open) notice at once.
    """
    found = running(paths, name)
    seen = found.any
    if cut:
        run(["ip", "link", "delete", net.veth(last_byte)], check=False)
    deadline = time.monotonic() + 20
    while found.any:
        kill(found.pids())
        if time.monotonic() > deadline:
            raise LabError("machine '%s' does not end: processes %s" % (name, found.pids()))
        time.sleep(0.03)
        found = running(paths, name)
    lab = os.path.basename(paths.lab)
    run(["ip", "link", "delete", net.veth(last_byte)], check=False)
    if os.path.lexists(os.path.join(NETNS_DIR, netns_name(lab, name))):
        run(["ip", "netns", "delete", netns_name(lab, name)], check=False)
    for folder in leftovers(net, last_byte):
        with contextlib.suppress(OSError):
            unmount_below(folder)
            os.rmdir(folder)
    for tree in cgroup_trees():
        remove_cgroup("%s/%s/%s/%s/boot" % (tree.path, CGROUP_ROOT, lab, name))
    return seen


def power_off(paths: Paths, name: str, net: Network, last_byte: int, timeout: float) -> bool:
    """Shuts a machine down; pulls its plug when it does not end within ``timeout`` seconds. True when it was on."""
    found = running(paths, name)
    if not found.any:
        return False
    leader = found.leader
    if leader is not None:
        kill([leader], signal.SIGRTMIN + 4)  # systemd: halt.target → poweroff.target
        wait_until(lambda: not running(paths, name).any, timeout, 0.1)
    power_off_hard(paths, name, net, last_byte)
    return True


def remove_machine(paths: Paths, name: str, net: Network, last_byte: int) -> None:
    """Takes a machine away with everything in it."""
    power_off_hard(paths, name, net, last_byte)
    for tree in cgroup_trees():
        for suffix in ("", ".run"):
            remove_cgroup("%s/%s/%s/%s%s" % (tree.path, CGROUP_ROOT, os.path.basename(paths.lab), name, suffix))
    remove_tree(paths.machine(name))


def answers(paths: Paths, name: str, address: str, docker: bool) -> str:
    """What the machine still lacks: 'power', 'ssh' or 'docker'; empty when it is ready."""
    found = running(paths, name)
    if found.leader is None:
        return "power"
    if not ask_tcp(address, 22).startswith(b"SSH-"):
        return "ssh"
    if docker and not docker_answers(found.leader):
        return "docker"
    return ""


def docker_answers(leader: int) -> bool:
    """Whether the engine inside answers on its socket."""
    reply = ask_socket("/proc/%d/root/run/docker.sock" % leader, b"GET /_ping HTTP/1.0\r\nHost: lab\r\n\r\n")
    return b" 200 " in reply.split(b"\r\n", 1)[0]


def wait_ready(paths: Paths, wanted: Sequence[Tuple[str, str, bool]], timeout: float) -> None:
    """Waits until each (name, address, with Docker) is ready; LabError names those that are not, and their consoles."""
    begun = time.monotonic()
    deadline = begun + timeout
    lacking = {name: "power" for name, _address, _docker in wanted}

    def watch(name: str, address: str, docker: bool) -> None:
        started = time.monotonic()
        while True:
            lacking[name] = answers(paths, name, address, docker)
            if not lacking[name] or time.monotonic() >= deadline:
                return
            # a supervisor that ended says why on the console; nothing comes after that
            if lacking[name] == "power" and time.monotonic() - started > 2 and not running(paths, name).any:
                return
            time.sleep(0.1)

    with ThreadPoolExecutor(max_workers=max(1, len(wanted))) as pool:
        for future in [pool.submit(watch, *item) for item in wanted]:
            future.result()
    late = ["%s (no %s; %s)" % (name, what, console_tail(paths, name)) for name, what in sorted(lacking.items()) if what]
    if late:
        raise LabError("not ready after %d s: %s" % (time.monotonic() - begun, "; ".join(late)))


# --------------------------------------------------------------------------------------------------------------------
# the whole lab


def load(paths: Paths) -> Dict[str, Any]:
    """The lab's record; empty when there is none."""
    return read_json(paths.file)


def other_numbers(paths: Paths) -> List[int]:
    """Numbers of the other labs on this host."""
    numbers = []
    for name in os.listdir(paths.state) if os.path.isdir(paths.state) else []:
        number = read_json(os.path.join(paths.state, name, "lab.json")).get("number")
        if name != os.path.basename(paths.lab) and isinstance(number, int):
            numbers.append(number)
    return numbers


def claim_network(paths: Paths, wanted: Optional[int], write: bool) -> Network:
    """The lab's network: the one it has, else a free one, recorded before anything is made in it."""
    with locked(paths.state, 30, "the list of labs in " + paths.state) if write else contextlib.nullcontext():
        record = load(paths)
        number = record.get("number")
        if number is not None and wanted is not None and wanted != number:
            raise LabError("lab '%s' has network number %d, not %d: take it down first" % (os.path.basename(paths.lab), number, wanted))
        taken = other_numbers(paths)
        if number is None:
            # a lab of another state directory, or what one left
            taken += [n for n in range(1, 255) if os.path.exists("/sys/class/net/" + network(n).bridge)]
        routes = parse_routes(read_text("/proc/net/route"))
        net = network(choose_number(routes, taken, number if number is not None else wanted))
        if number is None and write:
            os.makedirs(paths.lab, mode=0o755, exist_ok=True)
            record = {"lab": os.path.basename(paths.lab), "number": net.number, "subnet": net.subnet, "machines": {}}
            write_json(paths.file, record)
        return net


def describe(paths: Paths, net: Network) -> Dict[str, Any]:
    """The lab as facts for playbooks."""
    return {
        "name": os.path.basename(paths.lab),
        "number": net.number,
        "subnet": net.subnet,
        "gateway": net.gateway,
        "bridge": net.bridge,
        "state_dir": paths.lab,
        "ssh_private_key_file": paths.key,
        "ssh_public_key": read_text(paths.key + ".pub").strip(),
    }


def describe_machine(paths: Paths, net: Network, name: str, record: Dict[str, Any]) -> Dict[str, Any]:
    """One machine as facts for playbooks (no question is asked of it)."""
    key = " ".join(read_text(os.path.join(paths.root(name), "etc/ssh/ssh_host_ed25519_key.pub")).split()[:2])
    return {
        "name": name,
        "kind": record.get("kind", ""),
        "address": net.address(record["last_byte"]),
        "base": record.get("base", ""),
        "docker": bool(record.get("docker")),
        "root": paths.root(name),
        "netns": netns_name(os.path.basename(paths.lab), name),
        "veth": net.veth(record["last_byte"]),
        "host_key": key,
        "fingerprint": fingerprint(key),
    }


def plan_machines(paths: Paths, wanted: Sequence[Dict[str, Any]], default_base: str) -> List[Machine]:
    """The wanted machines with addresses and bases; LabError for what cannot be."""
    record = load(paths).get("machines", {})
    known = {name: entry["last_byte"] for name, entry in record.items()}
    bytes_ = assign_last_bytes(wanted, known)
    machines = []
    for item in wanted:
        name, base = item["name"], os.path.realpath(item.get("base") or default_base)
        if not os.path.isfile(os.path.join(base, "base.json")):
            raise LabError("machine '%s': %s is no base; hbp.mip.lab_base makes one" % (name, base))
        had = record.get(name)
        if had and complete(paths, name):
            for key, value in (("base", base), ("last_byte", bytes_[name])):
                if had.get(key) != value:
                    raise LabError(
                        "machine '%s' was made with %s %s, wanted is %s; a machine is not rebuilt in place: "
                        "`mipfed lab down --name %s` first" % (name, key, had.get(key), value, os.path.basename(paths.lab))
                    )
        machines.append(
            Machine(
                name=name,
                last_byte=bytes_[name],
                kind=item.get("kind") or "",
                base=base,
                memory_mb=item.get("memory_mb") or 0,
                binds=tuple(item.get("binds") or ()),
            )
        )
    return machines


def record_machines(paths: Paths, machines: Sequence[Machine], net: Network, drop: Sequence[str] = ()) -> None:
    """Writes the machines into the lab's record, before they are made, so that whatever exists can be taken down."""
    record = load(paths)
    entries = {name: entry for name, entry in record.get("machines", {}).items() if name not in drop}
    for machine in machines:
        base = read_json(os.path.join(machine.base, "base.json"))
        entries[machine.name] = {
            "last_byte": machine.last_byte,
            "address": net.address(machine.last_byte),
            "kind": machine.kind,
            "base": machine.base,
            "docker": bool(base.get("docker")),
            "memory_mb": machine.memory_mb,
            "binds": list(machine.binds),
        }
    record["machines"] = entries
    write_json(paths.file, record)


def recorded_machine(name: str, entry: Dict[str, Any]) -> Machine:
    """A machine from the lab's record."""
    return Machine(name, entry["last_byte"], entry.get("kind", ""), entry["base"], entry.get("memory_mb", 0), tuple(entry.get("binds", ())))


def bring_up(
    lab: str,
    state_dir: str,
    wanted: Sequence[Dict[str, Any]],
    default_base: str,
    number: Optional[int] = None,
    ports: Sequence[int] = (),
    authorized_keys: Sequence[str] = (),
    mtu: int = 1500,
    prune: bool = True,
    timeout: float = 120.0,
    check: bool = False,
    bare: bool = False,
) -> Dict[str, Any]:
    """Makes and starts the wanted machines, all at once, and waits until they answer. ``timeout`` in seconds."""
    paths = lab_paths(state_dir, lab)
    with contextlib.nullcontext() if check else locked(paths.lab, timeout, "lab '%s'" % lab):
        net = claim_network(paths, number, not check)
        machines = plan_machines(paths, wanted, default_base)
        names = {machine.name for machine in machines}
        record = load(paths).get("machines", {})
        extra = sorted(set(record) - names) if prune else []
        table = processes()
        problems = network_problems(paths, net, ports)
        actions = ["network: " + ", ".join(problems)] if problems else []
        actions += ["%s: removed" % name for name in extra]
        to_create = [m for m in machines if not complete(paths, m.name)]
        to_start = [m for m in machines if m in to_create or not running(paths, m.name, table).on]
        actions += ["%s: %s" % (m.name, "created" if m in to_create else "started") for m in to_start]
        loose = [m for m in machines if m not in to_start and not plugged_in(net, m.last_byte)]
        actions += ["%s: plugged in" % m.name for m in loose]
        if not check:
            if problems:
                repair_network(paths, net, ports, problems)
            make_key(paths.key, "mip-lab " + lab)
            if to_start:
                load_modules()
            for name in extra:
                remove_machine(paths, name, net, record[name]["last_byte"])
            record_machines(paths, machines, net, extra)
            keys = [read_text(paths.key + ".pub").strip(), *authorized_keys]
            for machine in to_start:
                # what is left of a killed run, or of a machine whose supervisor is gone
                power_off_hard(paths, machine.name, net, machine.last_byte)
                if machine in to_create:
                    create(paths, machine, net, keys, bare)
                start(paths, machine, net, mtu)
            for machine in loose:
                plug_in(lab, machine, net, mtu)
            entries = load(paths)["machines"]
            wait_ready(paths, [(m.name, entries[m.name]["address"], entries[m.name]["docker"]) for m in machines], timeout)
        entries = load(paths).get("machines", {})
        return {
            "changed": bool(actions),
            "actions": actions,
            "lab": describe(paths, net),
            "machines": [describe_machine(paths, net, m.name, entries[m.name]) for m in machines if m.name in entries],
        }


def take_down(lab: str, state_dir: str, ports: Sequence[int] = (), timeout: float = 120.0, check: bool = False) -> Dict[str, Any]:
    """Removes a lab with everything it made on this host. ``timeout`` in seconds."""
    paths = lab_paths(state_dir, lab)
    if not os.path.lexists(paths.lab):
        return {"changed": False, "actions": []}
    with contextlib.nullcontext() if check else locked(paths.lab, timeout, "lab '%s'" % lab):
        record = load(paths)
        known = {name: entry["last_byte"] for name, entry in record.get("machines", {}).items()}
        folders = os.listdir(paths.machines) if os.path.isdir(paths.machines) else []
        actions = ["%s: removed" % name for name in sorted(set(known) | set(folders))] + ["%s: removed" % paths.lab]
        if check:
            return {"changed": True, "actions": actions}
        number = record.get("number")
        net = network(number) if isinstance(number, int) else None
        for name in sorted(set(known) | set(folders)):
            if net and name in known:
                remove_machine(paths, name, net, known[name])
            else:
                remove_tree(paths.machine(name))
        if net:
            remove_network(paths, net, ports)
        for tree in cgroup_trees():
            remove_cgroup("%s/%s/%s" % (tree.path, CGROUP_ROOT, lab))
            with contextlib.suppress(OSError):
                os.rmdir("%s/%s" % (tree.path, CGROUP_ROOT))
        remove_tree(paths.lab)
    with contextlib.suppress(OSError):
        os.rmdir(paths.state)
    return {"changed": True, "actions": actions}


def memory_used_mb(lab: str, name: str) -> int:
    """Memory charged to a machine, in MB; 0 when no controller counts it."""
    for tree in cgroup_trees():
        for file in ("memory.current", "memory.usage_in_bytes"):
            text = read_text("%s/%s/%s/%s/%s" % (tree.path, CGROUP_ROOT, lab, name, file)).strip()
            if text.isdigit():
                return int(text) >> 20
    return 0


def recorded(lab: str, state_dir: str) -> Dict[str, Any]:
    """The lab and its machines from its record, without asking them; LabError when there is none."""
    paths = lab_paths(state_dir, lab)
    record = load(paths)
    if not isinstance(record.get("number"), int):
        raise LabError("there is no lab '%s' on this host; `mipfed lab up --name %s` makes it" % (lab, lab))
    net = network(record["number"])
    entries = sorted(record.get("machines", {}).items(), key=lambda item: item[1]["last_byte"])
    machines = [describe_machine(paths, net, name, entry) for name, entry in entries]
    return {"lab": describe(paths, net), "machines": machines}


def look(lab: str, state_dir: str) -> Dict[str, Any]:
    """The lab and how each machine is. Asks all machines at once; changes nothing."""
    paths = lab_paths(state_dir, lab)
    if not isinstance(load(paths).get("number"), int):
        return {"exists": False, "machines": []}
    known = recorded(lab, state_dir)
    table = processes()

    def ask(machine: Dict[str, Any]) -> Dict[str, Any]:
        name = machine["name"]
        found = running(paths, name, table)
        on = found.leader is not None
        machine["power"] = "on" if on else "off"
        machine["pid"] = found.leader or 0
        machine["ssh"] = on and ask_tcp(machine["address"], 22).startswith(b"SSH-")
        machine["engine"] = found.leader is not None and docker_answers(found.leader)
        machine["memory_mb"] = memory_used_mb(lab, name) if on else 0
        return machine

    with ThreadPoolExecutor(max_workers=max(1, len(known["machines"]))) as pool:
        machines = list(pool.map(ask, known["machines"]))
    return {"exists": True, "lab": known["lab"], "machines": machines}


def esp_support() -> Dict[str, Any]:
    """Whether the kernel takes an ESP association with AES-GCM, tried in a network namespace that ends with the attempt."""
    key = "0x" + "00" * 20
    state = "ip xfrm state add src 127.0.0.1 dst 127.0.0.2 proto esp spi 0x100 mode transport aead rfc4106\\(gcm\\(aes\\)\\) %s 64"
    try:
        run(["unshare", "--net", "sh", "-c", state % key])
    except LabError as exc:
        return {"supported": False, "reason": str(exc).rsplit("): ", 1)[-1].replace("RTNETLINK answers: ", "")}
    return {"supported": True, "reason": ""}


def power(lab: str, state_dir: str, names: Sequence[str], wanted: str, mtu: int, timeout: float, check: bool) -> Dict[str, Any]:
    """Switches machines ``on`` or ``off``, restarts them (``reboot``) or pulls their plug (``kill``)."""
    paths = lab_paths(state_dir, lab)
    record = load(paths)
    entries = record.get("machines", {})
    unknown = [name for name in names if name not in entries]
    if unknown:
        have = ", ".join(sorted(entries)) or "none"
        raise LabError("lab '%s' has no machine '%s'; it has: %s" % (lab, "', '".join(unknown), have))
    net = network(record["number"])
    with contextlib.nullcontext() if check else locked(paths.lab, timeout, "lab '%s'" % lab):
        state = {name: running(paths, name) for name in names}
        if wanted == "on":
            concerned = [name for name in names if not state[name].on]
        elif wanted == "reboot":
            concerned = list(names)
        else:
            concerned = [name for name in names if state[name].any]
        if not check:
            switch(paths, net, wanted, {name: recorded_machine(name, entries[name]) for name in concerned}, state, mtu, timeout)
            if wanted in ("on", "reboot"):
                wait_ready(paths, [(name, entries[name]["address"], entries[name]["docker"]) for name in names], timeout)
    return {"changed": bool(concerned), "actions": ["%s: %s" % (name, wanted) for name in concerned]}


def switch(
    paths: Paths, net: Network, wanted: str, machines: Dict[str, Machine], state: Dict[str, Running], mtu: int, timeout: float
) -> None:
    """Does what `power` decided; several machines go down at the same time."""
    if wanted == "reboot":
        for name in machines:
            found = state[name].leader
            if found is not None:
                kill([found], signal.SIGRTMIN + 5)  # systemd: reboot.target
        for name in machines:
            old = state[name].leader
            if old is not None and not wait_until(lambda n=name, o=old: running(paths, n).leader not in (o, None), timeout, 0.1):  # type: ignore[misc]
                raise LabError("machine '%s' did not reboot in %d s: %s" % (name, timeout, console_tail(paths, name)))
        machines = {name: machine for name, machine in machines.items() if state[name].leader is None}
    if wanted == "off":
        for name in machines:
            found = state[name].leader
            if found is not None:
                kill([found], signal.SIGRTMIN + 4)
        for name, machine in machines.items():
            wait_until(lambda n=name: not running(paths, n).any, timeout, 0.1)  # type: ignore[misc]
            power_off_hard(paths, name, net, machine.last_byte)
    elif wanted == "kill":
        for name, machine in machines.items():
            power_off_hard(paths, name, net, machine.last_byte, cut=True)
    else:
        for name, machine in machines.items():
            power_off_hard(paths, name, net, machine.last_byte)
            start(paths, machine, net, mtu)
