# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The facts of a host that decide whether it can be a node of a federation. Nothing here changes anything."""

from __future__ import annotations

import base64
import ctypes
import grp
import gzip
import hashlib
import os
import platform
import pwd
import re
import shutil
import socket
import subprocess
import time
from typing import Any, Callable

from ansible_collections.hbp.mip.plugins.module_utils import _docker_http, _netlink

PACKAGES = (
    "docker.io",
    "docker-ce",
    "docker-ce-cli",
    "containerd",
    "containerd.io",
    "runc",
    "python3-docker",
    "python3-distutils",
    "python3-requests",
    "openssh-server",
    "iproute2",
    "iptables",
    "nftables",
    "chrony",
    "ntp",
    "ntpsec",
    "systemd-timesyncd",
    "ufw",
    "firewalld",
)

_PROBE_TIMEOUT = 5.0
_ENGINE_TIMEOUT = 3.0


def read_text(path: str) -> str:
    """The text of a small file, or an empty string when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def operating_system() -> dict[str, str]:
    """`id`, `version` and `pretty` name from /etc/os-release."""
    values = {}
    for line in (read_text("/etc/os-release") or read_text("/usr/lib/os-release")).splitlines():
        key, separator, value = line.partition("=")
        if separator:
            values[key.strip()] = value.strip().strip("\"'")
    return {
        "id": values.get("ID", ""),
        "version": values.get("VERSION_ID", ""),
        "codename": values.get("VERSION_CODENAME", ""),
        "pretty": values.get("PRETTY_NAME", ""),
    }


def container_type() -> str:
    """What contains this host: an empty string for a machine, else for instance `systemd-nspawn` or `docker`."""
    found = read_text("/run/systemd/container").strip()
    if found:
        return found
    for entry in read_text("/proc/1/environ").split("\0"):
        if entry.startswith("container="):
            return entry.partition("=")[2]
    return "docker" if os.path.exists("/.dockerenv") else ""


def missing_capabilities() -> list[str]:
    """Those of CAP_NET_ADMIN and CAP_SYS_ADMIN that this process lacks."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", read_text("/proc/self/status"), re.MULTILINE)
    mask = int(found.group(1), 16) if found else 0
    return [name for name, bit in (("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21)) if not mask & (1 << bit)]


def memory() -> tuple[int, int]:
    """Total and available memory in MiB."""
    values = dict(re.findall(r"^(MemTotal|MemAvailable):\s*(\d+) kB", read_text("/proc/meminfo"), re.MULTILINE))
    return int(values.get("MemTotal", 0)) // 1024, int(values.get("MemAvailable", 0)) // 1024


def existing_ancestor(path: str) -> str:
    """The nearest folder above `path`, or `path` itself, that exists."""
    path = os.path.abspath(path)
    while not os.path.isdir(path) and path != "/":
        path = os.path.dirname(path)
    return path


def file_systems(paths: list[str]) -> dict[str, dict[str, Any]]:
    """Per path: free GiB and inodes for root's use, and whether its file system is read-only.

    A path that does not exist yet is measured at its nearest existing parent, given as `measured_at`.
    """
    found = {}
    for path in paths:
        measured_at = existing_ancestor(path)
        try:
            status = os.statvfs(measured_at)
        except OSError:
            continue
        found[path] = {
            "measured_at": measured_at,
            "free_gb": round(status.f_bavail * status.f_frsize / float(1 << 30), 2),
            # btrfs, overlay on it and some network file systems have no fixed number of inodes and say 0 of 0
            "free_inodes": status.f_favail if status.f_files else -1,
            "read_only": bool(status.f_flag & os.ST_RDONLY),
            "device": os.stat(measured_at).st_dev,
        }
    return found


def data_folder(path: str) -> dict[str, Any]:
    """State of the data folder: `folder`, `missing`, `link` or `other`, with owner, group and mode."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return {"path": path, "state": "missing"}
    except OSError as error:
        return {"path": path, "state": "other", "reason": error.strerror}
    state = "folder" if os.path.isdir(path) else "other"
    if os.path.islink(path):
        state = "link"
    return {
        "path": path,
        "state": state,
        "owner": _name(lambda: pwd.getpwuid(status.st_uid).pw_name, status.st_uid),
        "group": _name(lambda: grp.getgrgid(status.st_gid).gr_name, status.st_gid),
        "mode": "%04o" % (status.st_mode & 0o7777),
    }


def _name(lookup: Callable[[], str], number: int) -> str:
    try:
        return lookup()
    except KeyError:
        return str(number)


def account(name: str) -> dict[str, Any]:
    """The local account `name`: whether it exists, its ids, home, shell and groups, its public keys and the hash of its sudo rule."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return {"name": name, "exists": False}
    groups = sorted({group.gr_name for group in grp.getgrall() if name in group.gr_mem})
    return {
        "name": name,
        "exists": True,
        "uid": entry.pw_uid,
        "gid": entry.pw_gid,
        "home": entry.pw_dir,
        "shell": entry.pw_shell,
        "groups": groups,
        "public_keys": authorized_keys(entry.pw_dir),
        "sudoers_sha256": file_sha256("/etc/sudoers.d/" + name),
    }


def authorized_keys(home: str) -> list[str]:
    """The public keys (base64) that may log in to the account with this home."""
    try:
        with open(os.path.join(home, ".ssh", "authorized_keys"), encoding="utf-8", errors="replace") as file:
            return sorted({word for line in file if not line.startswith("#") for word in line.split() if word.startswith("AAAA")})
    except OSError:
        return []


def file_sha256(path: str) -> str:
    """Hash of a small file's content; empty when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return ""


class _Timex(ctypes.Structure):
    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def clock_synchronised() -> bool:
    """Whether some time service keeps the kernel's clock (adjtimex without STA_UNSYNC)."""
    state = _Timex()
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.adjtimex(ctypes.byref(state))
    return bool(result >= 0 and not state.status & 0x40)


def packages() -> dict[str, str]:
    """Versions of the installed packages of PACKAGES, from dpkg's own list."""
    found = {}
    for block in read_text("/var/lib/dpkg/status").split("\n\n"):
        name = block[9:].partition("\n")[0] if block.startswith("Package: ") else ""
        if name in PACKAGES and "\nStatus: install ok installed" in block:
            version = re.search(r"^Version: (.*)$", block, re.MULTILINE)
            found[name] = version.group(1) if version else ""
    return found


def sdk_version() -> str:
    """Version of the Docker SDK in this interpreter, an empty string without one."""
    try:
        from importlib import metadata

        return str(metadata.version("docker"))
    except Exception:
        return ""


def network() -> dict[str, Any]:
    """Addresses and routes; `error` when the kernel could not be asked."""
    try:
        addresses, routes = _netlink.addresses_and_routes()
    except OSError as error:
        return {"addresses": [], "interfaces": [], "routes": [], "error": str(error)}
    return {
        "addresses": [item.address for item in addresses],
        "interfaces": [item._asdict() for item in addresses],
        "routes": [item._asdict() for item in routes],
        "error": "",
    }


def name_servers() -> list[str]:
    """The name servers of /etc/resolv.conf."""
    return re.findall(r"^\s*nameserver\s+(\S+)", read_text("/etc/resolv.conf"), re.MULTILINE)


def listening_ports() -> list[int]:
    """TCP ports on which something listens, in the order of their numbers."""
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in read_text(table).splitlines()[1:]:
            fields = line.split()
            if len(fields) > 3 and fields[3] == "0A":
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return sorted(ports)


def vmxnet3_interfaces() -> list[str]:
    """Interfaces driven by vmxnet3, which is known to spoil the checksums of encapsulated packets."""
    found = []
    try:
        names = sorted(os.listdir("/sys/class/net"))
    except OSError:
        return []
    for name in names:
        try:
            driver = os.path.basename(os.readlink("/sys/class/net/%s/device/driver" % name))
        except OSError:
            continue
        if driver == "vmxnet3":
            found.append(name)
    return found


_WANTED_OPTIONS = (
    "CONFIG_XFRM_USER",
    "CONFIG_INET_ESP",
    "CONFIG_CRYPTO_AEAD",
    "CONFIG_CRYPTO_AES",
    "CONFIG_CRYPTO_GCM",
    "CONFIG_CRYPTO_GHASH",
    "CONFIG_CRYPTO_SEQIV",
    "CONFIG_VXLAN",
)


def kernel_options_off() -> list[str]:
    """Those kernel options for the (encrypted) overlay that the running kernel's own configuration turns off.

    An empty list also when the configuration is not published.
    """
    text = read_text("/boot/config-%s" % os.uname().release)
    try:
        with gzip.open("/proc/config.gz", "rt", encoding="utf-8") as stream:
            text = stream.read()
    except (OSError, EOFError):
        pass
    if not text:
        return []
    enabled = set(re.findall(r"^(CONFIG_\w+)=[ym]$", text, re.MULTILINE))
    # CRYPTO_LIB_GHASH and the like replaced the single option on newer kernels: only what is named and off counts
    off = set(re.findall(r"^# (CONFIG_\w+) is not set$", text, re.MULTILINE))
    return [option for option in _WANTED_OPTIONS if option in off and option not in enabled]


def kernel_overlay(encrypted: bool) -> dict[str, Any]:
    """What the kernel can do for an overlay: `vxlan` and `esp`, each {"ok": bool, "reason": str}.

    Tried for real in a network namespace of a child process; the kernel may load its own modules for that.
    """

    def attempt() -> dict[str, Any]:
        _netlink.unshare_network()
        found: dict[str, Any] = {"vxlan": _try(_netlink.add_dummy_vxlan)}
        if encrypted:
            found["esp"] = _try(lambda: _netlink.add_dummy_association("aead"))
            if found["esp"].get("errno") == "ENOSYS":
                found["esp_plain"] = _try(lambda: _netlink.add_dummy_association("cbc"))
        return found

    found = _netlink.in_child(attempt, _PROBE_TIMEOUT)
    if "error" in found:
        reason = _no_namespace(str(found["error"]))
        result: dict[str, dict[str, Any]] = {"vxlan": {"ok": False, "reason": reason, "tested": False}}
        if encrypted:
            result["esp"] = {"ok": False, "reason": reason, "tested": False}
        return result
    result = {"vxlan": _verdict(found["vxlan"], {"EOPNOTSUPP": "VXLAN interfaces are missing (CONFIG_VXLAN)"})}
    if encrypted:
        result["esp"] = _verdict(found["esp"], _ESP_MEANINGS)
        if found.get("esp_plain", {}).get("errno") == "EPROTONOSUPPORT":
            result["esp"]["reason"] += "; ESP itself is missing too (CONFIG_INET_ESP, module esp4)"
    if not all(item["ok"] for item in result.values()):
        off = kernel_options_off()
        for item in result.values():
            if not item["ok"] and off:
                item["reason"] += "; this kernel was built without " + ", ".join(off)
    return result


_ESP_MEANINGS = {
    "socket:EPROTONOSUPPORT": "IPsec cannot be configured at all (CONFIG_XFRM_USER, module xfrm_user)",
    "socket:EAFNOSUPPORT": "netlink is missing",
    "ENOSYS": "the cipher AES-GCM is missing (CONFIG_CRYPTO_GCM and CONFIG_CRYPTO_GHASH, modules gcm and ghash)",
    "ENOENT": "a part of the cipher AES-GCM is missing (CONFIG_CRYPTO_SEQIV, CONFIG_CRYPTO_AES)",
    "EPROTONOSUPPORT": "ESP or its transport mode is missing (CONFIG_INET_ESP, module esp4)",
    "EAFNOSUPPORT": "IPsec for IPv4 is missing (CONFIG_XFRM, CONFIG_INET)",
    "EPERM": "this process may not configure IPsec (CAP_NET_ADMIN is masked, as in a container)",
}


def _try(action: Callable[[], None]) -> dict[str, Any]:
    import errno

    try:
        action()
    except _netlink.NetlinkError as error:
        name = errno.errorcode.get(error.errno or 0, str(error.errno))
        return {"ok": False, "errno": name, "where": error.where, "words": error.words()}
    return {"ok": True}


def _verdict(found: dict[str, Any], meanings: dict[str, str]) -> dict[str, Any]:
    if found["ok"]:
        return {"ok": True, "reason": "", "tested": True}
    name = found["errno"]
    meaning = meanings.get("%s:%s" % (found["where"], name)) or meanings.get(name) or "the kernel refused"
    return {"ok": False, "reason": "%s; the kernel answered %s" % (meaning, found["words"]), "tested": True}


def _no_namespace(error: str) -> str:
    contained = container_type()
    lacking = missing_capabilities()
    text = "could not be tried: no network namespace of its own (%s)" % error
    if os.geteuid() != 0:
        return text + "; the check runs without root"
    if lacking:
        text += "; %s masked" % " and ".join(lacking)
    if contained:
        text += "; this host is a container (%s)" % contained
    return text


def docker_executable() -> str:
    """Path of the engine's program, an empty string when there is none."""
    path = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
    return shutil.which("dockerd", path=path) or ("/snap/bin/docker" if os.path.lexists("/snap/bin/docker") else "")


def docker_origin(executable: str, installed: dict[str, str]) -> str:
    """Where the engine comes from: `distro`, `docker` (Docker's own packages), `snap`, `other`, or empty."""
    if os.path.realpath(executable).startswith(("/snap/", "/var/lib/snapd/")) or executable.startswith("/snap/"):
        return "snap"
    if "docker-ce" in installed:
        return "docker"
    if "docker.io" in installed:
        return "distro"
    if not executable and os.path.isdir("/var/snap/docker/current"):
        return "snap"
    return "other" if executable else ""


def service_state(unit: str) -> str:
    """systemd's words about a unit that does not run, for messages; empty without systemd."""
    if not os.path.isdir("/run/systemd/system"):
        return ""
    command = ["systemctl", "show", unit, "-p", "LoadState,ActiveState,SubState,Result,UnitFileState"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ENGINE_TIMEOUT, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    values = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    if not values:
        return ""
    result = values.get("Result", "")
    tail = "" if result in ("", "success") else ", result %s" % result
    return "%s/%s, %s%s" % (
        values.get("ActiveState", "?"),
        values.get("SubState", "?"),
        values.get("UnitFileState") or values.get("LoadState", "?"),
        tail,
    )


def engine(socket_path: str, installed: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The engine and its part in a swarm: (docker, swarm). `installed` are the packages with their versions.

    A stopped engine is not woken: systemd starts it when somebody connects to its socket, and a check changes nothing.
    """
    executable = docker_executable()
    origin = docker_origin(executable, installed)
    package = installed.get({"docker": "docker-ce", "distro": "docker.io"}.get(origin, ""), "")
    docker: dict[str, Any] = {
        "installed": bool(origin),
        "from": origin,
        "executable": executable,
        "enabled": os.path.islink("/etc/systemd/system/multi-user.target.wants/docker.service"),
        "version": re.sub(r"^\d+:|[-+~].*$", "", package),
        "running": False,
        "error": "",
        "sdk": sdk_version(),
        "root_dir": "/var/lib/docker",
        "storage_driver": "",
        "insecure_registries": [],
        "cgroup": "2" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "1",
    }
    swarm: dict[str, Any] = {
        "state": "none" if not origin else "unknown",
        "node_id": "",
        "node_addr": "",
        "cluster_id": "",
        "role": "",
        "error": "",
    }
    if not _docker_http.daemon_pid() and socket_path == _docker_http.SOCKET:
        if origin:
            docker["error"] = "the engine is stopped"
            docker["service"] = service_state("docker.service")
            _swarm_from_disk(docker["root_dir"], swarm)
        return docker, swarm
    try:
        info = _docker_http.get("/info", socket_path, _ENGINE_TIMEOUT)
    except _docker_http.DockerError as error:
        docker["error"] = str(error)
        docker["service"] = service_state("docker.service")
        _swarm_from_disk(docker["root_dir"], swarm)
        return docker, swarm
    registry = info.get("RegistryConfig") or {}
    insecure = list(registry.get("InsecureRegistryCIDRs") or [])
    indexes = registry.get("IndexConfigs") or {}
    insecure += [name for name, index in indexes.items() if not index.get("Secure", True)]
    docker.update(
        running=True,
        installed=True,
        version=str(info.get("ServerVersion", "")),
        root_dir=str(info.get("DockerRootDir") or "/var/lib/docker"),
        storage_driver=str(info.get("Driver", "")),
        insecure_registries=sorted(insecure),
        cgroup=str(info.get("CgroupVersion") or docker["cgroup"]),
        live_restore=bool(info.get("LiveRestoreEnabled")),
        logging_driver=str(info.get("LoggingDriver", "")),
    )
    docker["from"] = "snap" if docker["root_dir"].startswith("/var/snap/") else (origin or "other")
    _swarm_from_engine(info, docker["root_dir"], socket_path, swarm)
    return docker, swarm


def _swarm_from_engine(info: dict[str, Any], root_dir: str, socket_path: str, swarm: dict[str, Any]) -> None:
    told = info.get("Swarm") or {}
    local = str(told.get("LocalNodeState") or "inactive")
    control = bool(told.get("ControlAvailable"))
    swarm.update(
        node_id=str(told.get("NodeID") or ""),
        node_addr=str(told.get("NodeAddr") or ""),
        error=str(told.get("Error") or ""),
        cluster_id=str((told.get("Cluster") or {}).get("ID") or ""),
    )
    if local == "inactive":
        swarm["state"] = "none"
        return
    identity = certificate_identity(os.path.join(root_dir, "swarm/certificates/swarm-node.crt"))
    swarm["cluster_id"] = swarm["cluster_id"] or identity.get("O", "")
    swarm["node_id"] = swarm["node_id"] or identity.get("CN", "")
    manager = control or identity.get("OU") == "swarm-manager"
    swarm["role"] = "manager" if manager else "worker"
    swarm["state"] = swarm["role"] if local == "active" else local
    if local == "active" and manager:
        try:
            _docker_http.get("/swarm", socket_path, _ENGINE_TIMEOUT)
        except _docker_http.DockerError as error:
            swarm["state"] = "no-quorum"
            swarm["error"] = swarm["error"] or str(error)


def _swarm_from_disk(root_dir: str, swarm: dict[str, Any]) -> None:
    identity = certificate_identity(os.path.join(root_dir, "swarm/certificates/swarm-node.crt"))
    if identity:
        swarm.update(
            cluster_id=identity.get("O", ""),
            node_id=identity.get("CN", ""),
            role="manager" if identity.get("OU") == "swarm-manager" else "worker",
        )
    elif not os.path.isdir(os.path.join(root_dir, "swarm")):
        swarm["state"] = "none"


_SUBJECT_NAMES = {b"\x55\x04\x0a": "O", b"\x55\x04\x0b": "OU", b"\x55\x04\x03": "CN"}


def certificate_identity(path: str) -> dict[str, str]:
    """O, OU and CN of the first certificate in a PEM file; empty when there is none.

    Swarm writes the cluster id as O, the role as OU and the node id as CN, and a worker's engine tells the cluster id
    nowhere else. The standard library cannot read a certificate that is not a connection's, hence the small parser.
    """
    found = re.search(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", read_text(path), re.DOTALL)
    if not found:
        return {}
    try:
        certificate = _der(base64.b64decode(found.group(1)))[0][1]
        fields = _der(_der(certificate)[0][1])
        subject = fields[5 if fields[0][0] == 0xA0 else 4][1]
        identity = {}
        for _set, names in _der(subject):
            for _sequence, pair in _der(names):
                (_oid, oid), (_text, value) = _der(pair)[:2]
                if oid in _SUBJECT_NAMES:
                    identity[_SUBJECT_NAMES[oid]] = value.decode("utf-8", "replace")
        return identity
    except (ValueError, IndexError):
        return {}


def _der(data: bytes) -> list[tuple[int, bytes]]:
    items = []
    offset = 0
    while offset < len(data):
        tag, length = data[offset], data[offset + 1]
        offset += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[offset : offset + size], "big")
            offset += size
        if offset + length > len(data):
            raise ValueError("truncated")
        items.append((tag, data[offset : offset + length]))
        offset += length
    return items


def gather(
    data_dir: str, account_name: str, encrypted: bool, kernel: bool, socket_path: str, reference_time: float | None
) -> dict[str, Any]:
    """All facts in one dictionary; `kernel` also tries what the overlay needs of the kernel."""
    offset = None if reference_time is None else round(time.time() - reference_time, 3)
    installed = packages()
    docker, swarm = engine(socket_path, installed)
    total, available = memory()
    wanted = ["/", docker["root_dir"], "/etc/docker", "/var/lib/mip"]
    if data_dir:
        wanted.append(data_dir)
    storage = file_systems(wanted)
    net = network()
    facts: dict[str, Any] = {
        "os": operating_system(),
        "arch": os.uname().machine,
        "kernel": os.uname().release,
        "python": platform.python_version(),
        "init": "systemd" if os.path.isdir("/run/systemd/system") else "other",
        "container": container_type(),
        "root": os.geteuid() == 0,
        "hostname": socket.gethostname(),
        "machine_id": read_text("/etc/machine-id").strip(),
        "boot_id": read_text("/proc/sys/kernel/random/boot_id").strip(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mb": total,
        "memory_available_mb": available,
        "disk_free_gb": {path: item["free_gb"] for path, item in storage.items()},
        "storage": storage,
        "addresses": net["addresses"],
        "interfaces": net["interfaces"],
        "routes": net["routes"],
        "network_error": net["error"],
        "name_servers": name_servers(),
        "listening": listening_ports(),
        "vmxnet3": vmxnet3_interfaces(),
        "docker": docker,
        "swarm": swarm,
        "time_offset_s": offset,
        "clock_synchronised": clock_synchronised(),
        "account": account(account_name) if account_name else None,
        "data": data_folder(data_dir) if data_dir else None,
        "packages": installed,
    }
    facts["kernel_overlay"] = kernel_overlay(encrypted) if kernel else {}
    return facts
