# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab modules share: names, addresses, the state on disk, processes, mounts and locks of this host.

Nothing here keeps a daemon or a cache: what runs is always read from the kernel (``/proc``), so a lab whose builder was
killed in the middle is seen as it is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import json
import os
import re
import shutil
import signal
import subprocess
import time
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

STATE_DIR = "/var/lib/mip-lab"
CACHE_DIR = "/var/cache/mip-lab"
NETNS_DIR = "/run/netns"
CGROUP_ROOT = "mip-lab"
SUPERNET = "10.77.0.0/16"
LAB_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
MACHINE_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")

#: program -> Debian package it comes from
TOOLS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "mount": "mount",
    "umount": "mount",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "ssh-keygen": "openssh-client",
    "dpkg-deb": "dpkg",
}
#: a file that a program needs -> Debian package it comes from (on Ubuntu nothing pulls it in)
NEEDED_FILES = {"mmdebstrap": ("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring")}


class LabError(Exception):
    """A refusal or a failure, worded for the operator."""


class Paths(NamedTuple):
    """Where one lab keeps its things. Everything of a lab is below ``lab``."""

    state: str
    lab: str
    file: str
    machines: str
    key: str
    resolver: str

    def machine(self, name: str) -> str:
        """The folder of one machine."""
        return os.path.join(self.machines, name)

    def root(self, name: str) -> str:
        """The root of one machine, mounted also while it is off."""
        return os.path.join(self.machines, name, "root")


def lab_paths(state_dir: str, lab: str) -> Paths:
    """Paths of the lab named ``lab``; raises LabError for a name that cannot be one."""
    if not LAB_NAME.fullmatch(lab):
        raise LabError("lab name '%s' is not usable: it takes a letter, then at most 30 of lower case letters, digits and hyphens" % lab)
    home = os.path.join(state_dir, lab)
    return Paths(
        state=state_dir,
        lab=home,
        file=os.path.join(home, "lab.json"),
        machines=os.path.join(home, "machines"),
        key=os.path.join(home, "ssh", "id_ed25519"),
        resolver=os.path.join(home, "resolver.py"),
    )


# --------------------------------------------------------------------------------------------------------------------
# names and addresses


class Network(NamedTuple):
    """The network of lab number ``number``: a bridge on the host and a /24."""

    number: int
    subnet: str
    gateway: str
    bridge: str

    def address(self, last_byte: int) -> str:
        """The address that ends in ``last_byte``."""
        return str(ipaddress.IPv4Network(self.subnet)[last_byte])

    def veth(self, last_byte: int) -> str:
        """Host side of a machine's cable; at most 13 characters (the kernel takes 15)."""
        return "%s-%d" % (self.bridge, last_byte)

    def mac(self, last_byte: int) -> str:
        """A locally administered hardware address, the same at each boot."""
        return "02:4d:49:50:%02x:%02x" % (self.number, last_byte)


def network(number: int) -> Network:
    """Network number 1…254 of the labs."""
    if not 1 <= number <= 254:
        raise LabError("a lab's number is 1 to 254, not %d" % number)
    subnet = "10.77.%d.0/24" % number
    return Network(number=number, subnet=subnet, gateway="10.77.%d.1" % number, bridge="miplab%d" % number)


def netns_name(lab: str, machine: str) -> str:
    """Name of a machine's network namespace for ``ip netns``; a lab's name has no dots, so this cannot clash."""
    return "%s.%s" % (lab, machine)


def parse_routes(text: str) -> List[Tuple[ipaddress.IPv4Network, str]]:
    """(destination, device) of each route in /proc/net/route; the default route is left out (it collides with nothing)."""
    routes = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8:
            continue
        destination, mask = (int.from_bytes(bytes.fromhex(fields[i]), "little") for i in (1, 7))
        if mask == 0:
            continue
        routes.append((ipaddress.IPv4Network((destination, bin(mask).count("1"))), fields[0]))
    return routes


def choose_number(routes: Iterable[Tuple[ipaddress.IPv4Network, str]], taken: Iterable[int], wanted: Optional[int] = None) -> int:
    """The lowest lab number that no other lab has and no route of this host overlaps; or ``wanted``, if it is free."""
    used = set(taken)
    routes = list(routes)

    def conflict(number: int) -> str:
        net = network(number)
        if number in used:
            return "another lab has it"
        for destination, device in routes:
            if device != net.bridge and destination.overlaps(ipaddress.IPv4Network(net.subnet)):
                return "this host routes %s through %s" % (destination, device)
        return ""

    if wanted is not None:
        reason = conflict(wanted)
        if reason:
            raise LabError("network %s cannot be used for this lab: %s" % (network(wanted).subnet, reason))
        return wanted
    for number in range(1, 255):
        if not conflict(number):
            return number
    raise LabError("no network 10.77.N.0/24 is free on this host; `ip route` and `mipfed lab status` show who has them")


def assign_last_bytes(machines: Sequence[Dict[str, Any]], known: Dict[str, int]) -> Dict[str, int]:
    """Last byte of each machine's address: the one asked for, else the one it had, else the lowest free one from 101."""
    result: Dict[str, int] = {}
    owner: Dict[int, str] = {}
    for machine in machines:
        name, wanted = machine["name"], machine.get("last_byte")
        if not MACHINE_NAME.fullmatch(name):
            raise LabError("machine name '%s' is not usable: lower case letters, digits and hyphens, a letter first" % name)
        if name in result or any(m["name"] == name for m in machines if m is not machine):
            raise LabError("machine '%s' is listed twice" % name)
        if wanted is None:
            continue
        if not 2 <= wanted <= 254:
            raise LabError("machine '%s': the last byte of an address is 2 to 254, not %d" % (name, wanted))
        if wanted in owner:
            raise LabError("machines '%s' and '%s' both want the address ending in %d" % (owner[wanted], name, wanted))
        result[name], owner[wanted] = wanted, name
    for machine in machines:
        name = machine["name"]
        if name in result:
            continue
        byte = known.get(name)
        if byte is None or byte in owner:
            free = (b for b in range(101, 255) if b not in owner and b not in known.values())
            byte = next(free, None)
            if byte is None:
                raise LabError("machine '%s': no address is free in this lab" % name)
        result[name], owner[byte] = byte, name
    return result


# --------------------------------------------------------------------------------------------------------------------
# commands, files, locks


def run(argv: Sequence[str], check: bool = True, timeout: float = 60.0, stdin: Optional[str] = None) -> str:
    """Output of a command; LabError with its own words when it fails. ``timeout`` in seconds."""
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL if stdin is None else None,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        raise LabError("%s: no such program on this host" % argv[0]) from None
    except subprocess.TimeoutExpired:
        raise LabError("`%s` did not end in %d s" % (" ".join(argv), timeout)) from None
    if check and done.returncode != 0:
        words = (done.stderr or done.stdout).strip() or "no message"
        raise LabError("`%s` failed (%d): %s" % (" ".join(argv), done.returncode, words))
    return done.stdout


def succeeds(argv: Sequence[str]) -> bool:
    """Whether the command ends with 0."""
    done = subprocess.run(list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return done.returncode == 0


def read_text(path: str) -> str:
    """The file's text; empty when it is not there."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        return ""


def write_file(path: str, text: str, mode: int = 0o644) -> bool:
    """Puts ``text`` in place by rename (a link at ``path`` is replaced, not followed); True when that changed anything."""
    try:
        status = os.lstat(path)
        if not os.path.islink(path) and read_text(path) == text and status.st_mode & 0o7777 == mode:
            return False
    except FileNotFoundError:
        pass
    os.makedirs(os.path.dirname(path), exist_ok=True)
    beside = "%s.new-%d" % (path, os.getpid())
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.chmod(beside, mode)
    os.rename(beside, path)
    return True


def read_json(path: str) -> Dict[str, Any]:
    """The object in a JSON file of ours; empty when it is absent or was cut off by a crash."""
    try:
        value = json.loads(read_text(path) or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: str, value: Dict[str, Any]) -> bool:
    """Writes a JSON file of ours; True when it changed."""
    return write_file(path, json.dumps(value, indent=1, sort_keys=True) + "\n", 0o644)


@contextlib.contextmanager
def locked(directory: str, wait: float, what: str) -> Iterator[None]:
    """Holds an exclusive lock on a directory; it ends with this process, however that ends. ``wait`` in seconds."""
    deadline = time.monotonic() + wait
    while True:
        os.makedirs(directory, exist_ok=True)
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # `down` of another run may have removed the folder while this one waited: then the lock is on nothing.
            if os.path.isdir(directory) and os.fstat(descriptor).st_ino == os.stat(directory).st_ino:
                break
        except OSError as exc:
            if exc.errno not in (errno.EAGAIN, errno.EACCES, errno.ENOENT):
                os.close(descriptor)
                raise
        os.close(descriptor)
        if time.monotonic() >= deadline:
            raise LabError("%s is being changed by another run; it was waited for %d s" % (what, wait))
        time.sleep(0.1)
    try:
        yield
    finally:
        os.close(descriptor)


# --------------------------------------------------------------------------------------------------------------------
# processes


class Process(NamedTuple):
    """One line of the process table."""

    pid: int
    parent: int
    argv: Tuple[str, ...]


def processes() -> List[Process]:
    """Every process that has a command line, seen from this PID namespace."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open("/proc/%s/cmdline" % entry, "rb") as stream:
                raw = stream.read()
            stat = read_text("/proc/%s/stat" % entry)
        except (FileNotFoundError, ProcessLookupError):
            continue
        if not raw or not stat:
            continue
        argv = tuple(part.decode("utf-8", "replace") for part in raw.rstrip(b"\0").split(b"\0"))
        # state and parent stand after the command's name, which is in parentheses and may hold anything
        found.append(Process(int(entry), int(stat.rpartition(")")[2].split()[1]), argv))
    return found


def is_pid_one(pid: int) -> bool:
    """Whether the process is pid 1 of a PID namespace below this one."""
    match = re.search(r"^NSpid:\s+(.*)$", read_text("/proc/%d/status" % pid), re.MULTILINE)
    return bool(match) and match.group(1).split()[1:] == ["1"] if match else False


def kill(pids: Iterable[int], number: int = signal.SIGKILL) -> None:
    """Sends a signal to processes that may have ended meanwhile."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def wait_until(condition: Callable[[], bool], timeout: float, pause: float = 0.05) -> bool:
    """Asks until the condition holds; False when it did not within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
    return True


def spawn_daemon(argv: Sequence[str], log: str, env: Optional[Dict[str, str]] = None) -> None:
    """Starts a program in a session of its own that outlives this run; output goes to ``log`` (started afresh)."""
    first = os.fork()
    if first:
        os.waitpid(first, 0)
        return
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.chdir("/")
        os.umask(0o022)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        os.dup2(null, 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.closerange(3, 4096)
        os.execve(argv[0], list(argv), env if env is not None else {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})  # noqa: S606
    finally:
        os._exit(127)


# --------------------------------------------------------------------------------------------------------------------
# mounts, trees, cgroups


def unescape_mount(field: str) -> str:
    """A path as /proc/self/mountinfo writes it (blanks as \\040), as it is."""
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m.group(1), 8)), field)


def parse_mounts(text: str) -> List[Tuple[str, str, str]]:
    """(mount point, type, super options) in the order they were mounted, from the text of mountinfo."""
    result = []
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        if separator:
            kind, _source, options = [*right.split(" ", 2), "", ""][:3]
            result.append((unescape_mount(left.split(" ")[4]), kind, options))
    return result


def mounts() -> List[Tuple[str, str, str]]:
    """Mounts of this process' mount namespace."""
    return parse_mounts(read_text("/proc/self/mountinfo"))


def mounts_below(path: str) -> List[str]:
    """Mount points at or below ``path``, the innermost and latest first."""
    real = os.path.realpath(path)
    return [point for point, _kind, _options in reversed(mounts()) if point == real or point.startswith(real + "/")]


def unmount_below(path: str) -> bool:
    """Takes away every mount at or below ``path``; True when there was one."""
    points = mounts_below(path)
    for point in points:
        if not succeeds(["umount", "-n", point]):
            run(["umount", "-n", "-l", point], check=False)
    left = mounts_below(path)
    if left:
        raise LabError("%s is still mounted; `umount -l %s` by hand, then again" % (left[0], left[0]))
    return bool(points)


def remove_tree(path: str) -> bool:
    """Deletes a folder of ours, after unmounting what is below (so that nothing outside is ever deleted)."""
    if not os.path.lexists(path):
        return False
    unmount_below(path)
    if os.path.islink(path) or not os.path.isdir(path):
        os.unlink(path)
        return True
    for attempt in range(5):
        try:
            shutil.rmtree(path)
            return True
        except FileNotFoundError:
            return True
        except OSError as exc:
            # a process that is just being killed may still add a file
            if exc.errno not in (errno.ENOTEMPTY, errno.EBUSY) or attempt == 4:
                raise LabError("cannot remove %s: %s" % (exc.filename or path, exc.strerror)) from exc
            time.sleep(0.2)
    return True


class CgroupTree(NamedTuple):
    """A mounted cgroup hierarchy: where, whether it is the unified one (v2), whether it has controllers for us."""

    path: str
    unified: bool
    controllers: Tuple[str, ...]


def cgroup_trees() -> List[CgroupTree]:
    """Hierarchies of this host: one on a v2 host, one per controller (and perhaps an empty v2 one) on a v1 host."""
    trees: List[CgroupTree] = []
    for point, kind, options in mounts():
        if not point.startswith("/sys/fs/cgroup") or any(tree.path == point for tree in trees):
            continue
        if kind == "cgroup2":
            trees.append(CgroupTree(point, True, tuple(read_text(point + "/cgroup.controllers").split())))
        elif kind == "cgroup":
            trees.append(CgroupTree(point, False, tuple(o for o in options.split(",") if o != "rw")))
    return trees


def unified_host(trees: Sequence[CgroupTree]) -> bool:
    """Whether the host is a pure cgroup v2 one."""
    return bool(trees) and all(tree.unified for tree in trees)


def make_cgroup(tree: CgroupTree, relative: str) -> str:
    """Makes a cgroup and those above it, with every controller handed down; returns its path."""
    path = tree.path
    for part in relative.split("/"):
        if tree.unified:
            for controller in tree.controllers:
                # refused for a controller the kernel keeps (e.g. realtime tasks hold `cpu`): the machine goes without it
                with contextlib.suppress(OSError), open(path + "/cgroup.subtree_control", "w", encoding="ascii") as stream:
                    stream.write("+" + controller)
        parent, path = path, os.path.join(path, part)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
        for name in ("cpuset.cpus", "cpuset.mems"):
            # cpuset (v1) takes no process before these two are set
            file = os.path.join(path, name)
            if not tree.unified and os.path.exists(file) and not read_text(file).strip():
                with open(file, "w", encoding="ascii") as stream:
                    stream.write(read_text(os.path.join(parent, name)).strip())
    return path


def cgroup_processes(path: str) -> List[int]:
    """Processes in a cgroup and below."""
    pids = []
    for folder, _folders, _files in os.walk(path):
        with contextlib.suppress(OSError):
            pids += [int(pid) for pid in read_text(os.path.join(folder, "cgroup.procs")).split()]
    return pids


def remove_cgroup(path: str) -> None:
    """Removes a cgroup and all below; processes in it are killed."""

    def gone() -> bool:
        kill(pid for pid in cgroup_processes(path) if pid > 0)
        for folder, _folders, _files in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        return not os.path.isdir(path)

    if os.path.isdir(path) and not wait_until(gone, 10.0, 0.1):
        raise LabError("cgroup %s cannot be removed: processes %s do not end" % (path, cgroup_processes(path)))


# --------------------------------------------------------------------------------------------------------------------
# what this host must have


def disk_free_gb(path: str) -> float:
    """Free space for root where ``path`` is (or will be), in GB (10^9 bytes)."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize / 1e9


def memory_available_mb() -> int:
    """What the kernel can still give to programs, in MB (2^20 bytes)."""
    match = re.search(r"^MemAvailable:\s+(\d+)", read_text("/proc/meminfo"), re.MULTILINE)
    return int(match.group(1)) // 1024 if match else 0


def missing_requirements(tools: Sequence[str], disk_gb: float, memory_mb: int, path: str) -> List[str]:
    """What stops a lab on this host, one sentence each; empty when nothing does."""
    problems = []
    if os.geteuid() != 0:
        problems.append("a lab needs root (machines, networks, mounts): run it with sudo")
    missing = {TOOLS[tool] for tool in tools if not shutil.which(tool)}
    missing |= {package for tool, (path, package) in NEEDED_FILES.items() if tool in tools and not os.path.exists(path)}
    packages = sorted(missing)
    if packages:
        problems.append("programs are missing: apt-get install --yes %s" % " ".join(packages))
    if "overlay" not in read_text("/proc/filesystems") and not succeeds(["modprobe", "overlay"]):
        problems.append("the kernel has no overlay file system (modprobe overlay)")
    free = disk_free_gb(path)
    if free < disk_gb:
        problems.append("%s has %.1f GB free, a lab needs %.1f GB" % (path, free, disk_gb))
    memory = memory_available_mb()
    if memory < memory_mb:
        problems.append("%d MB of memory are available, this lab needs %d MB" % (memory, memory_mb))
    return problems


def require(tools: Sequence[str], disk_gb: float, memory_mb: int, path: str) -> None:
    """Raises one LabError naming everything that is missing."""
    problems = missing_requirements(tools, disk_gb, memory_mb, path)
    if problems:
        raise LabError("this host cannot run a lab: " + "; ".join(problems))


def watches_wanted(state_dir: str, lab: str, machines: int) -> int:
    """How many inotify instances this host's root needs for all labs when `lab` has so many machines.

    A machine's systemd, dbus, sshd and engine take about eight; 128, the kernel's usual limit, is left for the host itself.
    """
    others = 0
    for other in os.listdir(state_dir) if os.path.isdir(state_dir) else []:
        folder = os.path.join(state_dir, other, "machines")
        if other != lab and os.path.isdir(folder):
            others += len(os.listdir(folder))
    return 128 + 8 * (others + machines)


def allow_watches(wanted: int, check: bool, path: str = "/proc/sys/fs/inotify/max_user_instances") -> Optional[str]:
    """Raise the limit of inotify instances to `wanted`, until the next boot; returns what was (or would be) done, None for nothing.

    At the limit systemd does not start, and says nothing about it. Raises LabError.
    """
    found = int(read_text(path) or wanted)
    if found >= wanted:
        return None
    if not check:
        try:
            with open(path, "w") as stream:
                stream.write(str(wanted))
        except OSError as exc:
            raise LabError(
                "these machines need %d inotify instances, this host allows %d (%s). Next: sysctl fs.inotify.max_user_instances=%d"
                % (wanted, found, exc.strerror, wanted)
            ) from exc
    return "raise fs.inotify.max_user_instances of this host from %d to %d, until its next boot" % (found, wanted)


def ask_socket(path: str, request: bytes, timeout: float = 1.0) -> bytes:
    """First bytes of the answer on a Unix socket; empty when nobody answers in time."""
    import socket

    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(timeout)
            link.connect(path)
            link.sendall(request)
            return link.recv(256)
    except OSError:
        return b""


def ask_tcp(address: str, port: int, timeout: float = 0.3) -> bytes:
    """First bytes a server says by itself (an SSH banner); empty when nobody does in time."""
    import socket

    try:
        with socket.create_connection((address, port), timeout) as link:
            link.settimeout(1.0)
            return link.recv(64)
    except OSError:
        return b""
