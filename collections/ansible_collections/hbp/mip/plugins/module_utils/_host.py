# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The facts of a host that decide whether it can be a node of a federation. Nothing here changes anything."""

from __future__ import annotations

import base64
import ctypes
import glob
import grp
import gzip
import hashlib
import ipaddress
import json
import os
import platform
import pwd
import re
import shutil
import socket
import subprocess
import time
from typing import Any, Callable

from ansible_collections.hbp.mip.plugins.module_utils import (
    _advisories,
    _daemon,
    _der,
    _docker_http,
    _gates_network,
    _host_names,
    _host_network,
    _netlink,
    _site,
)

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

# The first try makes the kernel load modules, which a busy or emulated host takes long for: that is no missing feature.
_PROBE_TIMEOUT = 30.0
# A busy host's engine answers late; only one that hangs takes as long as this.
_ENGINE_TIMEOUT = 10.0


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
        devices = _host_network.devices()
    except OSError as error:
        return {"addresses": [], "interfaces": [], "routes": [], "devices": {}, "error": str(error)}
    return {
        "devices": devices,
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
    """Interfaces driven by vmxnet3 that compute checksums, which is known to spoil those of encapsulated packets."""
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
        if driver == "vmxnet3" and _host_network.computes_checksums(name):
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


def kernel_configuration() -> str:
    """The running kernel's own configuration; empty when it is not published."""
    try:
        with gzip.open("/proc/config.gz", "rt", encoding="utf-8") as stream:
            return stream.read()
    except (OSError, EOFError):
        return read_text("/boot/config-%s" % os.uname().release)


# module: option of the kernel's configuration; what the engine's bridges and its rules for published ports need
_MODULES = {
    "bridge": "CONFIG_BRIDGE",
    "br_netfilter": "CONFIG_BRIDGE_NETFILTER",
    "overlay": "CONFIG_OVERLAY_FS",
    "veth": "CONFIG_VETH",
    "xt_addrtype": "CONFIG_NETFILTER_XT_MATCH_ADDRTYPE",
    "xt_conntrack": "CONFIG_NETFILTER_XT_MATCH_CONNTRACK",
}
# what marks the encrypted overlay's packets and refuses unencrypted ones
_MODULES_ENCRYPTED = {"xt_mark": "CONFIG_NETFILTER_XT_MARK", "xt_policy": "CONFIG_NETFILTER_XT_MATCH_POLICY"}
_XT_BPF = {"xt_bpf": "CONFIG_NETFILTER_XT_MATCH_BPF"}
_XT_U32 = {"xt_u32": "CONFIG_NETFILTER_XT_MATCH_U32"}
_TRIALS = {
    "xt_addrtype": ["-m", "addrtype", "--dst-type", "LOCAL"],
    "xt_conntrack": ["-m", "conntrack", "--ctstate", "NEW"],
    "xt_mark": ["-m", "mark", "--mark", "1"],
    "xt_policy": ["-m", "policy", "--dir", "in", "--pol", "none"],
    "xt_bpf": ["-m", "bpf", "--bytecode", "1,6 0 0 0"],
    "xt_u32": ["-m", "u32", "--u32", "0=0"],
}


def kernel_modules(encrypted: bool, engine_version: str) -> dict[str, Any]:
    """Parts of the kernel that the engine's networks need: {missing, gone}.

    `missing` are those that are neither built in nor loaded nor there to be loaded, as far as that can be known; for a packet filter's
    part iptables itself has the last word, in a network namespace of its own. `gone`: the running kernel's modules were removed from
    the disk, as after an upgrade without a restart.
    """
    needed = dict(_MODULES)
    if encrypted:
        needed.update(_MODULES_ENCRYPTED)
        # engines before 20.10.24 and 23.0.3 used u32 (moby, GHSA-33pg-m6jh-5237)
        version = _advisories.numbers(engine_version)
        older = version and (version < (20, 10, 24) or (23,) <= version < (23, 0, 3))
        needed.update(_XT_U32 if older else _XT_BPF)
    folder = "/lib/modules/%s/" % os.uname().release
    loadable = os.path.exists("/proc/modules")
    unsure = [name for name in needed if not os.path.isdir("/sys/module/" + name)]
    lists = read_text(folder + "modules.builtin") + read_text(folder + "modules.dep")
    unsure = [name for name in unsure if "/%s.ko" % name not in lists]
    missing = []
    if unsure:
        options = dict(re.findall(r"^(CONFIG_\w+)=([ym])$", kernel_configuration(), re.MULTILINE))
        for name in unsure:
            setting = options.get(needed[name])
            if setting == "y" or (setting == "m" and not lists):
                continue
            if setting is None and not options and not lists:
                continue  # nothing tells what this kernel has
            missing.append(name)
        missing = [name for name in missing if not _works(name)]
    gone = loadable and not container_type() and not os.path.isdir(folder)
    return {"missing": missing, "gone": gone}


def _works(module: str) -> bool:
    """Whether iptables can use a part of the packet filter, tried in a network namespace of its own."""
    tool = shutil.which("iptables", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if module not in _TRIALS or not tool:
        return False

    def attempt() -> dict[str, Any]:
        _netlink.unshare_network()
        command = [str(tool), "-A", "INPUT", *_TRIALS[module], "-j", "DROP"]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=_ENGINE_TIMEOUT, check=False)
        return {"ok": done.returncode == 0}

    return bool(_netlink.in_child(attempt, _PROBE_TIMEOUT).get("ok"))


def kernel_options_off() -> list[str]:
    """Those kernel options for the (encrypted) overlay that the running kernel's own configuration turns off.

    An empty list also when the configuration is not published.
    """
    text = kernel_configuration()
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


def engine(socket_path: str, installed: dict[str, str], daemon: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The engine and its part in a swarm: (docker, swarm). `installed` are the packages with their versions.

    With the settings that `daemon` asks for, `docker` tells whether the engine is `configured` so. An engine that runs but does not
    answer is not: what it runs with is not known.
    A stopped engine is not woken: systemd starts it when somebody connects to its socket, and a check changes nothing.
    """
    executable = docker_executable()
    origin = docker_origin(executable, installed)
    pid = _docker_http.daemon_pid()
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
        "package": package,
        "advisories": _advisories.named_as_fixed(package, origin),
        "rootless": False,
        "twice": bool(origin and origin != "snap" and (os.path.isdir("/var/snap/docker/current") or os.path.isdir("/snap/docker"))),
        "firewall_backend": "",
        **engine_configuration(pid),
        "cgroup": "2" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "1",
    }
    if daemon is not None:
        docker["configured"] = False
    swarm: dict[str, Any] = {
        "state": "none" if not origin else "unknown",
        "node_id": "",
        "node_addr": "",
        "cluster_id": "",
        "role": "",
        "error": "",
    }
    docker["rootless"] = _owner_is_not_root(pid)
    if not pid and socket_path == _docker_http.SOCKET:
        if origin:
            docker["error"] = "the engine is stopped"
            docker["service"] = service_state("docker.service")
            _swarm_from_disk(docker["root_dir"], swarm)
            if daemon is not None:
                docker["configured"] = _daemon.in_order(daemon, None)
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
        rootless=docker["rootless"] or "name=rootless" in [str(option).partition(",")[0] for option in info.get("SecurityOptions") or ()],
        firewall_backend=str((info.get("FirewallBackend") or {}).get("Driver") or "") or docker["firewall_backend"],
        proxy={
            "http": without_password(str(info.get("HttpProxy") or "")),
            "https": without_password(str(info.get("HttpsProxy") or "")),
            "no_proxy": str(info.get("NoProxy") or ""),
        },
    )
    if daemon is not None:
        docker["configured"] = _daemon.in_order(daemon, info)
    docker["from"] = "snap" if docker["root_dir"].startswith("/var/snap/") else (origin or "other")
    _swarm_from_engine(info, docker["root_dir"], socket_path, swarm)
    return docker, swarm


def _owner_is_not_root(pid: int) -> bool:
    try:
        return bool(pid) and os.stat("/proc/%d" % pid).st_uid != 0
    except OSError:
        return False


def without_password(url: str) -> str:
    """A proxy's address without the account that it may contain."""
    return re.sub(r"^([A-Za-z0-9+.-]+://)?.*@", lambda found: found.group(1) or "", url)


def engine_configuration(pid: int = 0) -> dict[str, Any]:
    """What /etc/docker/daemon.json, the drop-ins of docker.service and the arguments of the engine `pid` say about the network.

    `config_error` (why daemon.json cannot be read), `iptables`, `ip_masq` and `ip_forward` (False only when turned off),
    `firewall_backend`, `own_networks` (whether the addresses of the engine's own bridges were chosen by somebody) and `proxy`.
    """
    found: dict[str, Any] = {"config_error": "", "proxy": {"http": "", "https": "", "no_proxy": ""}}
    text = read_text("/etc/docker/daemon.json")
    values: Any = {}
    if text.strip():
        try:
            values = json.loads(text)
        except ValueError as error:
            found["config_error"] = str(error)
        if not isinstance(values, dict):
            found["config_error"] = "it is no JSON object"
            values = {}
    arguments = dict(word.lstrip("-").partition("=")[::2] for word in read_text("/proc/%d/cmdline" % pid).split("\0")[1:]) if pid else {}
    for option, key in (("iptables", "iptables"), ("ip-masq", "ip_masq"), ("ip-forward", "ip_forward")):
        found[key] = values.get(option) is not False and arguments.get(option) != "false"
    found["firewall_backend"] = str(values.get("firewall-backend") or arguments.get("firewall-backend") or "")
    chosen = ("bip", "default-address-pools", "default-address-pool")
    found["own_networks"] = any(values.get(option) or option in arguments for option in chosen)
    environment = {}
    for path in sorted(glob.glob("/etc/systemd/system/docker.service.d/*.conf")):
        for name, value in re.findall(r"\b(HTTPS?_PROXY|NO_PROXY)=([^\"'\s]*)", read_text(path), re.IGNORECASE):
            environment[name.lower()] = value
    proxies = values.get("proxies")
    proxies = proxies if isinstance(proxies, dict) else {}
    for key, option, variable in (
        ("http", "http-proxy", "http_proxy"),
        ("https", "https-proxy", "https_proxy"),
        ("no_proxy", "no-proxy", "no_proxy"),
    ):
        found["proxy"][key] = without_password(str(proxies.get(option) or environment.get(variable) or ""))
    return found


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


def certificate_identity(path: str) -> dict[str, str]:
    """O, OU and CN of the first certificate in a PEM file; empty when there is none.

    Swarm writes the cluster id as O, the role as OU and the node id as CN, and a worker's engine tells the cluster id nowhere else.
    """
    found = re.search(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", read_text(path), re.DOTALL)
    if not found:
        return {}
    try:
        return _der.certificate_names(base64.b64decode(found.group(1)))[1]
    except ValueError:
        return {}


def registry_uses_tls(registry: str, insecure: list[str]) -> bool:
    """Whether the engine would ask a registry over TLS, given its list of registries and networks that it may ask without."""
    host, port = _host_names.split_registry(registry)
    names = {registry.partition("/")[0], host, "%s:%d" % (host, port)}
    for entry in [*insecure, "127.0.0.0/8"]:
        if entry in names:
            return False
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False):
                return False
        except ValueError:
            continue
    return True


def gather(
    data_dir: str,
    account_name: str,
    encrypted: bool,
    kernel: bool,
    socket_path: str,
    reference_time: float | None,
    registry: str = "",
    registry_tls: bool = True,
    data_path_port: int = 4789,
    daemon: dict[str, Any] | None = None,
    federation: str = "",
) -> dict[str, Any]:
    """All facts in one dictionary; `kernel` also tries what the overlay needs of the kernel and asks the name servers and `registry`."""
    offset = None if reference_time is None else round(time.time() - reference_time, 3)
    installed = packages()
    docker, swarm = engine(socket_path, installed, daemon)
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
        "hardware": read_text("/sys/class/dmi/id/sys_vendor").strip(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mb": total,
        "memory_available_mb": available,
        "disk_free_gb": {path: item["free_gb"] for path, item in storage.items()},
        "storage": storage,
        "addresses": net["addresses"],
        "interfaces": net["interfaces"],
        "routes": net["routes"],
        "network_error": net["error"],
        "devices": net["devices"],
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
        "firewalls": own_firewalls(),
        "site": _site.facts(),
    }
    peers = firewall_peers(federation) if federation else None
    if peers is not None:
        facts["firewall"] = {"peers": peers}
    facts["kernel_overlay"] = kernel_overlay(encrypted) if kernel else {}
    facts.update(kernel_modules={}, sockets=[], packet_filter={}, forwarding={}, dns=[], registry={})
    if kernel:
        ports = [("tcp", 2377), ("tcp", 7946), ("udp", 7946), ("tcp", 9090), ("udp", data_path_port)]
        facts["kernel_modules"] = kernel_modules(encrypted, docker["version"])
        facts["sockets"] = _host_network.sockets(ports, _docker_http.daemon_pid())
        facts["packet_filter"] = _host_network.packet_filter()
        facts["forwarding"] = _host_network.forwarding()
        name = _host_names.split_registry(registry)[0]
        facts["dns"] = _host_names.ask_name_servers(facts["name_servers"], "" if _host_names.is_address(name) else name)
        if registry and not _proxied(docker["proxy"], name):
            tls = registry_tls and registry_uses_tls(registry, docker["insecure_registries"])
            answered = not facts["dns"] or any(item["ms"] is not None for item in facts["dns"])
            facts["registry"] = _host_names.registry(registry, tls, answered)
    return facts


def own_firewalls(root: str = "/") -> list[str]:
    """The firewalls of this host that the module firewall opens: ufw, firewalld, and the guard of a federation."""
    found = []
    lines = [line.strip().lower().replace('"', "") for line in read_text(os.path.join(root, "etc/ufw/ufw.conf")).splitlines()]
    if "enabled=yes" in lines:
        found.append("ufw")
    if os.path.islink(os.path.join(root, "etc/systemd/system/multi-user.target.wants/firewalld.service")):
        found.append("firewalld")
    if glob.glob(os.path.join(root, "etc/mip/firewall-*.nft")):
        found.append("guard")
    return found


def firewall_peers(federation: str, root: str = "/") -> list[str] | None:
    """The addresses of the peers for which this host's firewall was set, as the module firewall wrote it down; None when it did not."""
    try:
        record = json.loads(read_text(os.path.join(root, "var/lib/mip/firewall", federation, "settings.json")))
        return [str(peer["address"]) for peer in record["settings"]["peers"]]
    except (ValueError, KeyError, TypeError):
        return None


def _proxied(proxy: dict[str, str], host: str) -> bool:
    return bool(proxy["http"] or proxy["https"]) and not _gates_network.without_proxy(proxy["no_proxy"], host)
