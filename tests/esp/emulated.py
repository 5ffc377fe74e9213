# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines with a kernel of their own: Debian's cloud kernel under QEMU, emulated (TCG), on a bridge in a network namespace.

The disk is a base of the lab with Debian's `linux-image-cloud-amd64` in it, made once for each content. What makes a disk one
machine (name, address, keys) comes as a tar archive on a second disk. Each machine writes into a copy that ends with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.hbp.mip.plugins.module_utils import _lab, _lab_base

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = Path(os.environ.get("MIPFED_LAB_CACHE", "/var/cache/mip-lab"))
#: raise it whenever `_finish` changes what a disk holds
RECIPE = 1
KERNEL_PACKAGE = "linux-image-cloud-amd64"
DISK_MB = 4096
MEMORY_MB = 1280
GATEWAY = "10.89.0.1"
TOOLS = ("qemu-system-x86_64", "mke2fs", "ip", "nft", "ssh", "ssh-keygen", "nsenter", "unshare", "mmdebstrap", "skopeo", "docker-registry")

#: What a machine does before anything else: its network card's driver (no udev runs), then what makes it this machine.
SETUP = """\
#!/bin/sh
set -e
modprobe -a virtio_pci virtio_net virtio_rng
tar -xf /dev/nvme1n1 -C / --no-same-owner
hostname -F /etc/hostname
ip link set lo up
ip link set eth0 up
ip address add "$(cat /etc/machine-address)" dev eth0
# The engine's modules, in one process: the engine itself would start one for each.
modprobe -a overlay br_netfilter veth vxlan ip_vs nf_conntrack_netlink xt_policy xt_bpf xt_mark xt_addrtype xt_conntrack || true
modprobe -a xfrm_user esp4 gcm seqiv nf_tables nft_fib_inet nft_xfrm nft_ct nft_compat || true
"""
SETUP_UNIT = """\
[Unit]
Description=What makes this disk one machine
DefaultDependencies=no
Before=sysinit.target network-pre.target
Wants=network-pre.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/machine-setup
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console

[Install]
WantedBy=sysinit.target
"""
#: An emulated machine is slow: the engine gets time, and starts when its containerd does answer.
ENGINE_DROP_IN = """\
[Unit]
After=containerd.service
Requires=containerd.service

[Service]
TimeoutStartSec=15min
ExecStartPre=/bin/sh -c 'until [ -S /run/containerd/containerd.sock ]; do sleep 1; done'
"""
MASKED = ("logrotate.timer", "e2scrub_all.timer", "systemd-update-utmp.service", "systemd-random-seed.service", "kmod-static-nodes.service")


class Failure(AssertionError):
    """Something did not come about; says what, and what the state was."""


def wait_for(what: str, ask: Callable[[], Any], seconds: float, state: Callable[[], str] = lambda: "") -> Any:
    """Ask until the answer is true; at the end the state is told. The deadline is for machines that are slow and shared."""
    deadline = time.monotonic() + seconds
    last: Any = None
    while time.monotonic() < deadline:
        try:
            last = ask()
            if last:
                return last
        except (OSError, subprocess.SubprocessError, Failure, ValueError) as error:
            last = error
        time.sleep(3)
    raise Failure(f"{what}: not within {seconds:g} s; last answer: {last!r}\n{state()}")


# --- the disk


def _finish(root: Path) -> None:
    """Make a base of the lab into the root of a machine with a kernel."""
    setup = root / "usr/local/sbin/machine-setup"
    setup.write_text(SETUP)
    setup.chmod(0o755)
    system = root / "etc/systemd/system"
    (system / "machine-setup.service").write_text(SETUP_UNIT)
    (system / "sysinit.target.wants/machine-setup.service").symlink_to("../machine-setup.service")
    (system / "docker.service.d").mkdir()
    (system / "docker.service.d/slow.conf").write_text(ENGINE_DROP_IN)
    for unit in MASKED:
        with contextlib.suppress(FileNotFoundError):
            (system / unit).unlink()
        (system / unit).symlink_to("/dev/null")
    for path in (root / "boot").glob("initrd.img*"):
        path.unlink()
    # No name is to be asked for anywhere; here nobody listens, which is said at once.
    (root / "etc/resolv.conf").write_text(f"nameserver {GATEWAY}\n")
    (root / "etc/fstab").write_text("")


def disk(say: Callable[[str], None]) -> tuple[Path, Path]:
    """Return the disk of all machines and their kernel; both come from the cache or are made."""
    recipe = _lab_base.recipe("bookworm", True, (KERNEL_PACKAGE,))
    text = json.dumps([RECIPE, recipe.key, DISK_MB, SETUP, SETUP_UNIT, ENGINE_DROP_IN, MASKED, GATEWAY])
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    folder = CACHE / "esp"
    target = folder / key
    with _lab.locked(str(folder), 1500, "the disks of emulated machines"):
        if not (target / "disk.ext4").exists():
            for old in folder.iterdir():
                _lab.remove_tree(str(old))
            began = time.monotonic()
            base = Path(_lab_base.build(str(CACHE), recipe, 1200)["path"])
            say(f"base {base.name}: {time.monotonic() - began:.0f} s")
            work = folder / f".{key}"
            work.mkdir()
            try:
                _make_disk(base, work)
            except BaseException:
                _lab.remove_tree(str(work))
                raise
            work.rename(target)
            say(f"disk {key}: {time.monotonic() - began:.0f} s")
    return target / "disk.ext4", target / "vmlinuz"


def _make_disk(base: Path, work: Path) -> None:
    # In a mount namespace of its own, so that a killed run leaves no mount.
    for name in ("scratch", "merged"):
        (work / name).mkdir()
    script = (
        f"mount -t tmpfs none {work}/scratch && mkdir {work}/scratch/u {work}/scratch/w && "
        f"mount -t overlay -o lowerdir={base}/rootfs,upperdir={work}/scratch/u,workdir={work}/scratch/w overlay {work}/merged && "
        f"cp -a {base}/debs/. {work}/merged{_lab_base.APT_MOUNT}/ && "
        f"{shlex.quote(sys.executable)} {HERE / 'emulated.py'} finish {work}/merged && "
        f"mke2fs -q -t ext4 -m 0 -O ^has_journal -E lazy_itable_init=1,nodiscard -d {work}/merged {work}/disk.ext4 {DISK_MB}M"
    )
    done = subprocess.run(
        ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "sh", "-c", script],
        capture_output=True, text=True, check=False, timeout=600, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    if done.returncode:
        raise Failure(f"the disk could not be made: {done.stdout}{done.stderr}")
    kernel = sorted((base / "rootfs/boot").glob("vmlinuz-*"))[-1]
    shutil.copyfile(kernel, work / "vmlinuz")
    for name in ("scratch", "merged"):
        (work / name).rmdir()


# --- the network


def remove_namespace(name: str) -> None:
    """Remove a namespace and what still runs in it, such as the Ansible of a mipfed that was killed."""
    found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout
    for pid in found.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "del", name], check=False)


def sweep() -> None:
    """Remove what runs left that were killed: their namespaces, and what still runs in these. Their machines ended with them."""
    for path in Path("/run/netns").glob("mipesp-*"):
        if not Path("/proc", path.name.split("-")[1]).exists():
            remove_namespace(path.name)


class Network:
    """A bridge in a namespace of its own; nothing of it is seen from the machine around it."""

    def __init__(self) -> None:
        sweep()
        self.name = f"mipesp-{os.getpid()}-{secrets.token_hex(2)}"
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.prefix = ["nsenter", f"--net=/run/netns/{self.name}", "--"]
        self.run(
            f"ip link set lo up && ip link add br0 type bridge && ip address add {GATEWAY}/24 dev br0 && ip link set br0 up && "
            "echo 0 > /proc/sys/net/ipv6/conf/all/disable_ipv6"
        )

    def run(self, command: str, content: str | None = None, timeout: float = 60) -> str:
        """Run a shell command on the bridge."""
        done = subprocess.run(
            [*self.prefix, "sh", "-c", command], input=content, capture_output=True, text=True, check=False, timeout=timeout
        )
        if done.returncode:
            raise Failure(f"bridge: {command}: {done.stderr}")
        return done.stdout

    def filter(self, *rules: str) -> None:
        """Let the bridge drop what the rules say, and nothing else; without rules everything passes."""
        text = ["table bridge test", "delete table bridge test"]
        if rules:
            text += ["table bridge test {", "chain forward {", "type filter hook forward priority 0;", *rules, "}", "}"]
        self.run("nft -f -", "\n".join([*text, ""]))

    def dropped(self) -> int:
        """Return how many packets the rules of `filter` dropped."""
        listed = json.loads(self.run("nft -j list table bridge test"))["nftables"]
        return sum(
            expression["counter"]["packets"]
            for entry in listed
            for expression in entry.get("rule", {}).get("expr", [])
            if "counter" in expression
        )

    def tap(self, name: str) -> None:
        """Add a port for a machine."""
        self.run(f"ip tuntap add {name} mode tap && ip link set {name} master br0 up")

    def close(self) -> None:
        """Remove it all."""
        remove_namespace(self.name)


# --- a machine


class Machine:
    """One emulated machine."""

    def __init__(self, network: Network, folder: Path, name: str, number: int, identity: Path) -> None:
        self.network, self.folder, self.name, self.identity = network, folder, name, identity
        self.address = f"10.89.0.{10 + number}"
        self.mac = f"52:54:00:89:00:{10 + number:02x}"
        self.tap = f"tap{number}"
        self.console = folder / f"{name}.console"
        self.known = folder / "known_hosts"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, image: Path, kernel: Path) -> None:
        """Switch it on."""
        self.network.tap(self.tap)
        key = self.folder / f"{self.name}.hostkey"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", str(key)], check=True)
        public = key.with_suffix(".hostkey.pub").read_text()
        with self.known.open("a") as file:
            file.write(f"{self.address} {' '.join(public.split()[:2])}\n")
        described = self.folder / f"{self.name}.tar"
        self._describe(described, key.read_text(), public)
        key.unlink()
        # No offloading: what is on the bridge are the packets of a wire, none larger than the MTU.
        plain = ",".join(f"{name}=off" for name in ("csum", "gso", "host_tso4", "host_tso6", "guest_csum", "guest_tso4", "guest_tso6"))
        command = ["setpriv", "--pdeathsig=KILL", "nice", "-n", "1", *self.network.prefix, "qemu-system-x86_64"]
        command += ["-name", self.name, "-accel", "tcg,thread=multi", "-smp", "1", "-cpu", "max", "-m", str(MEMORY_MB)]
        command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", f"file:{self.console}"]
        command += ["-kernel", str(kernel), "-append"]
        command += [
            "root=/dev/nvme0n1 rw console=ttyS0 quiet panic=-1 net.ifnames=0 systemd.show_status=false random.trust_cpu=on "
            "mitigations=off apparmor=0 selinux=0 audit=0"
        ]
        command += ["-drive", f"file={image},format=raw,if=none,id=root,snapshot=on,cache=unsafe", "-device", "nvme,drive=root,serial=root"]
        command += ["-drive", f"file={described},format=raw,if=none,id=own,readonly=on", "-device", "nvme,drive=own,serial=own"]
        command += ["-netdev", f"tap,id=net,ifname={self.tap},script=no,downscript=no"]
        command += ["-device", f"virtio-net-pci,netdev=net,mac={self.mac},{plain}", "-device", "virtio-rng-pci"]
        with (self.folder / f"{self.name}.qemu").open("wb") as log:
            # In a session of its own: an interruption is for the test, which pulls the plug when it needs the machine no more.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(self.folder)}, start_new_session=True,
            )  # fmt: skip

    def _describe(self, path: Path, private: str, public: str) -> None:
        files = {
            "etc/hostname": (self.name + "\n", 0o644),
            "etc/hosts": (f"127.0.0.1 localhost\n{self.address} {self.name}\n", 0o644),
            "etc/machine-id": (secrets.token_hex(16) + "\n", 0o444),
            "etc/machine-address": (f"{self.address}/24\n", 0o644),
            "etc/ssh/ssh_host_ed25519_key": (private, 0o600),
            "etc/ssh/ssh_host_ed25519_key.pub": (public, 0o644),
            "root/.ssh/authorized_keys": (self.identity.with_suffix(".pub").read_text(), 0o600),
        }
        with path.open("wb") as stream, tarfile.open(fileobj=stream, mode="w") as archive:
            for folder in ("root/.ssh",):
                entry = tarfile.TarInfo(folder)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o700
                archive.addfile(entry)
            for name, (text, mode) in files.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode, entry.mtime = len(text.encode()), mode, int(time.time())
                archive.addfile(entry, io.BytesIO(text.encode()))
        path.chmod(0o600)

    def alive(self) -> None:
        """Raise when QEMU has ended."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise Failure(f"{self.name}: QEMU ended with {self.process.returncode}: {(self.folder / f'{self.name}.qemu').read_text()}")

    def ssh_command(self) -> list[str]:
        """Return the start of every SSH command to it; the connection is kept open."""
        return [
            *self.network.prefix, "ssh", "-F", "/dev/null", "-i", str(self.identity), "-o", f"UserKnownHostsFile={self.known}",
            "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=60", "-o", "ControlMaster=auto",
            "-o", f"ControlPath={self.folder}/c-%C", "-o", "ControlPersist=600", f"root@{self.address}",
        ]  # fmt: skip

    def run(self, command: str, content: str | None = None, check: bool = True, timeout: float = 300) -> str:
        """Run a shell command on it and return what it prints."""
        self.alive()
        done = subprocess.run(
            [*self.ssh_command(), command], input=content or "", capture_output=True, text=True, check=False, timeout=timeout
        )
        if check and done.returncode:
            raise Failure(f"{self.name}: {command}: {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def python(self, script: str, *arguments: str, prefix: str = "") -> subprocess.Popen[str]:
        """Start a Python script on it, with its text on the standard input; `prefix` is a command that runs it, such as nsenter."""
        self.alive()
        command = f"{prefix} python3 -B - {' '.join(shlex.quote(argument) for argument in arguments)}"
        process = subprocess.Popen(
            [*self.ssh_command(), command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdin is not None
        process.stdin.write(script)
        process.stdin.close()
        process.stdin = None
        return process

    def tail(self, lines: int = 40) -> str:
        """Return the end of its console."""
        text = self.console.read_text(errors="replace") if self.console.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def stop(self) -> None:
        """Pull its plug."""
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def answers_ssh(network: Network, address: str) -> bool:
    """Return whether an SSH server greets at the address."""
    script = f"import socket; print(socket.create_connection(({address!r}, 22), 5).recv(4))"
    return "SSH-" in network.run(f"{shlex.quote(sys.executable)} -c {shlex.quote(script)}")


class Start:
    """Machines that were switched on."""

    def __init__(self, network: Network, made: dict[str, Machine], say: Callable[[str], None]) -> None:
        self.network, self.machines, self.say = network, made, say
        self.began = time.monotonic()

    def wait(self) -> None:
        """Wait until they answer and their engines run."""
        for machine in self.machines.values():

            def greets(machine: Machine = machine) -> bool:
                machine.alive()
                return answers_ssh(self.network, machine.address)

            wait_for(f"{machine.name} answers SSH", greets, 900, machine.tail)
        self.say(f"machines up, {time.monotonic() - self.began:.0f} s after the start")
        for machine in self.machines.values():

            def engine(machine: Machine = machine) -> str:
                return machine.run("docker info --format '{{.ServerVersion}} on kernel {{.KernelVersion}}'", timeout=120)

            def journal(machine: Machine = machine) -> str:
                return machine.run("systemctl --failed --no-pager; journalctl -n 60 --no-pager", check=False)

            found = wait_for(f"the engine of {machine.name}", engine, 900, journal)
            self.say(f"{machine.name}: Docker {found}, {time.monotonic() - self.began:.0f} s after the start")


@contextlib.contextmanager
def machines(folder: Path, names: Sequence[str], say: Callable[[str], None]) -> Iterator[Start]:
    """Switch machines on; they are gone afterwards."""
    image, kernel = disk(say)
    identity = folder / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "esp", "-f", str(identity)], check=True)
    network = Network()
    made: dict[str, Machine] = {}
    try:
        for number, name in enumerate(names, 1):
            made[name] = Machine(network, folder, name, number, identity)
            made[name].start(image, kernel)
        yield Start(network, made, say)
    finally:
        for machine in made.values():
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                subprocess.run([*machine.ssh_command(), "-O", "exit"], capture_output=True, check=False, timeout=20)
            machine.stop()
        network.close()


def free_port(address: str) -> int:
    """Return a TCP port that nothing uses."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__" and sys.argv[1:2] == ["finish"]:
    _finish(Path(sys.argv[2]))
