# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Root file systems for lab machines, built once per content key and shared by every machine through overlays."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ansible_collections.hbp.mip.plugins.module_utils._lab import (
    LabError,
    locked,
    mounts,
    read_json,
    read_text,
    remove_tree,
    run,
    write_file,
    write_json,
)

#: raise it whenever `finish` or the options of mmdebstrap change what a base holds
RECIPE = 1
SUITES = ("bullseye", "bookworm", "trixie")
APT_MOUNT = "/srv/lab-apt"

#: what every lab machine has; the product installs the rest itself, as on a hospital's machine
COMMON_PACKAGES = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "iptables",
    "iputils-ping",
    "kmod",
    "netbase",
    "nftables",
    "openssh-server",
    "procps",
    "python3",
    "python3-apt",
    "sudo",
    "systemd",
    "systemd-sysv",
)
#: to be had with apt inside a machine, without a network
OFFERED_PACKAGES = ("acl", "chrony", "curl", "rsync", "tmux")

CGROUP_UNIT = """\
# On a host with cgroup v1, nspawn mounts the controllers read-only; the Docker engine writes below them.
[Unit]
Description=Writable cgroup controllers
DefaultDependencies=no
Before=sysinit.target docker.service containerd.service
ConditionPathIsMountPoint=/sys/fs/cgroup/systemd

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'for d in /sys/fs/cgroup/*/; do mount -o remount,rw,bind "$d" || true; done'

[Install]
WantedBy=sysinit.target
"""

#: Only network keys belong to a machine (its own namespace); every other key would change the host.
SYSCTL_DROP_IN = """\
[Service]
ExecStart=
ExecStart=/lib/systemd/systemd-sysctl --prefix=/net
"""

SSHD_CONFIG = """\
PermitRootLogin prohibit-password
UseDNS no
"""

#: Things that would act on the host (devices, modules, its clock) or only cost time.
MASKED_UNITS = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dpkg-db-backup.timer",
    "fstrim.timer",
    "getty.target",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-modules-load.service",
    "systemd-timesyncd.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
)


def docker_packages(suite: str) -> Tuple[str, ...]:
    """Debian's Docker engine, its client (a package of its own since trixie) and the Python SDK."""
    return ("docker.io", "python3-docker") + (() if suite in ("bullseye", "bookworm") else ("docker-cli",))


class Recipe(NamedTuple):
    """Everything that decides what a base holds; equal recipes share one base."""

    suite: str
    docker: bool
    installed: Tuple[str, ...]
    offered: Tuple[str, ...]
    mirror: str

    @property
    def key(self) -> str:
        """Content key, also the name of the base's folder."""
        text = json.dumps([RECIPE, self.suite, self.docker, self.installed, self.offered, self.mirror])
        kind = "docker" if self.docker else "bare"
        return "%s-%s-%s" % (self.suite, kind, hashlib.sha256(text.encode()).hexdigest()[:12])


def recipe(suite: str, docker: bool, extra: Tuple[str, ...] = (), mirror: str = "") -> Recipe:
    """The recipe for a suite, with or without Docker installed, with ``extra`` packages installed as well."""
    if suite not in SUITES:
        raise LabError("no base '%s': it is one of %s" % (suite, ", ".join(SUITES)))
    engine = docker_packages(suite)
    installed = set(COMMON_PACKAGES) | set(extra) | (set(engine) if docker else set())
    offered = (set(OFFERED_PACKAGES) | set(engine)) - installed
    return Recipe(suite, docker, tuple(sorted(installed)), tuple(sorted(offered)), mirror)


def parse_status(text: str, wanted: Tuple[str, ...]) -> Dict[str, str]:
    """Versions of installed packages, from the text of /var/lib/dpkg/status."""
    versions = {}
    for paragraph in text.split("\n\n"):
        name = re.search(r"^Package: (.+)$", paragraph, re.MULTILINE)
        version = re.search(r"^Version: (.+)$", paragraph, re.MULTILINE)
        if name and version and name.group(1) in wanted and "\nStatus: install ok installed" in paragraph:
            versions[name.group(1)] = version.group(1)
    return versions


def apt_proxy_options() -> List[str]:
    """The host's own apt proxy, for mmdebstrap, which does not read the host's configuration."""
    options = []
    for line in run(["apt-config", "dump"], check=False).splitlines():
        match = re.match(r'(Acquire::https?::Proxy(?:::[^ "]*)?) "(.+)";$', line)
        if match:
            options.append('%s "%s"' % match.groups())
    return options


def mmdebstrap_command(wanted: Recipe, target: str, proxies: List[str]) -> List[str]:
    """The command that makes the root: killed with its parent, its mounts invisible to the host."""
    command = ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command += ["mmdebstrap", "--quiet", "--mode=root", "--variant=apt", "--format=directory"]
    command += ["--include=" + ",".join(wanted.installed)]
    # the packages stay, as the machines' own apt source
    command += ["--skip=cleanup/apt/cache,essential/unlink,check/empty"]
    options = ['Acquire::Retries "5"', 'Acquire::Languages "none"', 'APT::Install-Recommends "false"', *proxies]
    command += ["--aptopt=" + option for option in options]
    command += ["--dpkgopt=force-unsafe-io"]
    for path in ("doc/*", "man/*", "info/*", "locale/*", "lintian/*"):
        command += ["--dpkgopt=path-exclude=/usr/share/" + path]
    if any(name.startswith("openjdk-") for name in wanted.installed):
        # Java's packages link their manual pages, whose folder has to be there though the pages are left out.
        command += ['--essential-hook=mkdir -p "$1/usr/share/man/man1"']
    if wanted.offered:
        command += ['--customize-hook=chroot "$1" apt-get -qq --yes --download-only install %s' % " ".join(wanted.offered)]
    command += [wanted.suite, target]
    if wanted.mirror:
        command += [wanted.mirror]
    return command


def control_paragraph(path: str) -> str:
    """A package's paragraph of the index ``Packages``."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    fields = run(["dpkg-deb", "--field", path]).rstrip("\n")
    return "%s\nFilename: ./%s\nSize: %d\nSHA256: %s\n" % (
        fields,
        os.path.basename(path),
        os.path.getsize(path),
        digest.hexdigest(),
    )


def release_text(packages: bytes) -> str:
    """The ``Release`` of a flat repository that holds this index only."""
    return "Origin: mip-lab\nLabel: mip-lab\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n %s %d Packages\n" % (
        hashlib.sha256(packages).hexdigest(),
        len(packages),
    )


def make_repository(archives: str, target: str) -> int:
    """Moves the packages that apt fetched into a flat repository; returns how many."""
    os.makedirs(target)
    paragraphs = []
    for name in sorted(os.listdir(archives)):
        if not name.endswith(".deb"):
            continue
        # apt writes an epoch's colon as %3a, and would decode that when it reads the index
        plain = name.replace("%3a", "_")
        os.rename(os.path.join(archives, name), os.path.join(target, plain))
        paragraphs.append(control_paragraph(os.path.join(target, plain)))
    text = "\n".join(paragraphs)
    write_file(os.path.join(target, "Packages"), text)
    write_file(os.path.join(target, "Release"), release_text(text.encode()))
    return len(paragraphs)


def finish(work: str) -> None:
    """Makes a plain Debian root into one for lab machines: local apt source, no host keys, nothing that acts on the host."""
    root = os.path.join(work, "rootfs")
    archives = os.path.join(root, "var/cache/apt/archives")
    make_repository(archives, os.path.join(work, "debs"))
    for name in os.listdir(os.path.join(root, "etc/ssh")):
        if name.startswith("ssh_host_"):
            os.unlink(os.path.join(root, "etc/ssh", name))
    for name in ("99mmdebstrap",):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(root, "etc/apt/apt.conf.d", name))
    for folder in ("etc/apt/sources.list.d", "var/lib/apt/lists"):
        shutil.rmtree(os.path.join(root, folder), ignore_errors=True)
        os.makedirs(os.path.join(root, folder))
    write_file(
        os.path.join(root, "etc/apt/apt.conf.d/90lab"),
        'Acquire::Languages "none";\nAPT::Install-Recommends "false";\n',
    )
    write_file(os.path.join(root, "etc/apt/sources.list"), "deb [trusted=yes] file:%s ./\n" % APT_MOUNT)
    write_file(os.path.join(root, "etc/ssh/sshd_config.d/lab.conf"), SSHD_CONFIG)
    system = os.path.join(root, "etc/systemd/system")
    write_file(os.path.join(system, "lab-cgroup.service"), CGROUP_UNIT)
    write_file(os.path.join(system, "systemd-sysctl.service.d/lab.conf"), SYSCTL_DROP_IN)
    os.makedirs(os.path.join(system, "sysinit.target.wants"), exist_ok=True)
    os.symlink("../lab-cgroup.service", os.path.join(system, "sysinit.target.wants/lab-cgroup.service"))
    for unit in MASKED_UNITS:
        path = os.path.join(system, unit)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.symlink("/dev/null", path)
    for path in ("etc/hostname", "etc/resolv.conf", "var/lib/dbus/machine-id"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(root, path))
    write_file(os.path.join(root, "etc/machine-id"), "")
    for folder in (APT_MOUNT, "/data", "/var/lib/docker", "/var/lib/containerd"):
        os.makedirs(root + folder, exist_ok=True)
    # the index is read once here, so that `apt install` works in a machine without an `apt update` before
    script = 'mount --bind "$1/debs" "$1/rootfs%s" && chroot "$1/rootfs" apt-get -qq update' % APT_MOUNT
    run(["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "sh", "-c", script, "sh", work], timeout=120)


def bases(cache_dir: str) -> List[str]:
    """Folders of every finished base."""
    folder = os.path.join(cache_dir, "bases")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(os.path.join(folder, name) for name in names if os.path.isfile(os.path.join(folder, name, "base.json")))


def in_use(base: str) -> bool:
    """Whether a mounted machine stands on this base."""
    lower = os.path.join(base, "rootfs")
    return any(kind == "overlay" and "lowerdir=%s," % lower in options + "," for _point, kind, options in mounts())


def find(cache_dir: str, wanted: Recipe) -> Optional[Dict[str, Any]]:
    """The finished base of this recipe, or None."""
    path = os.path.join(cache_dir, "bases", wanted.key)
    described = read_json(os.path.join(path, "base.json"))
    return dict(described, path=path) if described.get("key") == wanted.key else None


def build(cache_dir: str, wanted: Recipe, timeout: float) -> Dict[str, Any]:
    """Builds the base of this recipe unless it is there; ``timeout`` in seconds. Two builds at once wait for each other."""
    folder = os.path.join(cache_dir, "bases")
    with locked(folder, timeout, "the cache of bases in %s" % folder):
        found = find(cache_dir, wanted)
        if found:
            return found
        # whatever an earlier, killed build left; no living one can own it, because this run has the lock
        for name in os.listdir(folder):
            if name.startswith(".building-"):
                remove_tree(os.path.join(folder, name))
        path = os.path.join(folder, wanted.key)
        remove_tree(path)
        work = os.path.join(folder, ".building-" + wanted.key)
        os.mkdir(work, 0o755)
        started = time.monotonic()
        try:
            bootstrap(wanted, work, timeout)
            finish(work)
        except (LabError, OSError):
            remove_tree(work)
            raise
        root = os.path.join(work, "rootfs")
        named = {"systemd": "systemd", "docker.io": "docker", "python3": "python", "openssh-server": "openssh"}
        versions = parse_status(read_text(os.path.join(root, "var/lib/dpkg/status")), tuple(named))
        described = {
            "key": wanted.key,
            "suite": wanted.suite,
            "docker": wanted.docker,
            "installed": list(wanted.installed),
            "offered": list(wanted.offered),
            "versions": {named[name]: version for name, version in versions.items()},
            "seconds": round(time.monotonic() - started, 1),
        }
        write_json(os.path.join(work, "base.json"), described)
        os.sync()
        os.rename(work, path)
        return dict(described, path=path)


def bootstrap(wanted: Recipe, work: str, timeout: float) -> None:
    """Runs mmdebstrap into ``work``/rootfs; on failure the error holds the last lines of its log."""
    command = mmdebstrap_command(wanted, os.path.join(work, "rootfs"), apt_proxy_options())
    log = os.path.join(work, "log")
    env = dict(os.environ, LC_ALL="C.UTF-8", DEBIAN_FRONTEND="noninteractive", TMPDIR="/tmp")  # noqa: S108
    with open(log, "wb") as stream:
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=env, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            raise LabError("building the base '%s' did not end in %d s" % (wanted.key, timeout)) from None
    if done.returncode != 0:
        tail = "\n".join(read_text(log).strip().splitlines()[-15:])
        raise LabError(
            "building the base '%s' failed (mmdebstrap ended with %d); is the Debian mirror reachable?\n%s"
            % (wanted.key, done.returncode, tail)
        )
