# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real Keycloak for labs and tests: its own distribution, pinned by hash, prepared once and used read-only by every server."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import zipfile
from typing import Dict, List

from ansible.module_utils.urls import open_url

from ansible_collections.hbp.mip.plugins.module_utils._lab import (
    LabError,
    locked,
    read_json,
    read_text,
    remove_tree,
    run,
    wait_until,
    write_file,
    write_json,
)
from ansible_collections.hbp.mip.plugins.module_utils._lab_inventory import KEYCLOAK_PORT

#: The newest one that runs on Java 17, which Debian 12 has.
VERSION = "26.7.3"
SHA256 = "27a6535553c3cdcd083872ba40629efafb3475e3b758e0c6f691395561dd0f1f"
URL = "https://repo1.maven.org/maven2/org/keycloak/keycloak-quarkus-dist/%s/keycloak-quarkus-dist-%s.zip" % (VERSION, VERSION)
JAVA = "openjdk-17-jre-headless"
#: raise it whenever `distribution` prepares it otherwise
RECIPE = 1
#: Where a server keeps its database; the distribution's own folder `data` leads there.
DATA = "/var/lib/keycloak"
BUILD = ["--db=dev-file", "--health-enabled=true", "--features-disabled=kerberos"]
PORT = KEYCLOAK_PORT


def _download(target: str, timeout: float) -> None:
    digest = hashlib.sha256()
    try:
        with open_url(URL, timeout=timeout) as answer, open(target, "wb") as stream:
            for block in iter(lambda: answer.read(1 << 20), b""):
                digest.update(block)
                stream.write(block)
    except OSError as error:
        raise LabError("Keycloak cannot be had from %s: %s" % (URL, error)) from None
    if digest.hexdigest() != SHA256:
        raise LabError("%s is not what it was: its SHA-256 is %s, and should be %s" % (URL, digest.hexdigest(), SHA256))


def _unpack(archive: str, folder: str) -> None:
    """Unpacks the distribution; the zip's own attributes say which files are programs."""
    with zipfile.ZipFile(archive) as source:
        for entry in source.infolist():
            source.extract(entry, folder)
            mode = stat.S_IMODE(entry.external_attr >> 16)
            if mode and not entry.is_dir():
                os.chmod(os.path.join(folder, entry.filename), mode)


def folder_of(cache_dir: str) -> str:
    """Where the prepared distribution is, or will be."""
    return os.path.join(cache_dir, "keycloak", "%s-%d" % (VERSION, RECIPE))


def prepared(cache_dir: str) -> bool:
    """Whether the distribution is there."""
    return read_json(os.path.join(folder_of(cache_dir), "keycloak.json")).get("version") == VERSION


def distribution(cache_dir: str, timeout: float = 900) -> str:
    """Returns the folder of the prepared distribution; downloads and builds it when it is not there. ``timeout`` in seconds."""
    folder = folder_of(cache_dir)
    with locked(os.path.dirname(folder), timeout, "the cache of Keycloak in %s" % folder):
        if prepared(cache_dir):
            return folder
        work = folder + ".building"
        for leftover in (work, folder):
            remove_tree(leftover)
        os.makedirs(work)
        archive = os.path.join(work, "keycloak.zip")
        _download(archive, 120)
        _unpack(archive, work)
        os.unlink(archive)
        home = os.path.join(work, "home")
        os.rename(os.path.join(work, "keycloak-%s" % VERSION), home)
        try:
            run([os.path.join(home, "bin/kc.sh"), "build", *BUILD], timeout=timeout)
        except LabError:
            if shutil.which("java") is None:
                raise LabError("Keycloak has to be prepared, and there is no java on this host; apt-get install %s" % JAVA) from None
            raise
        shutil.rmtree(os.path.join(home, "data"), ignore_errors=True)
        os.symlink(DATA, os.path.join(home, "data"))
        write_json(os.path.join(work, "keycloak.json"), {"version": VERSION, "sha256": SHA256, "recipe": RECIPE})
        os.sync()
        os.rename(work, folder)
        return folder


def start_options(address: str, port: int, public: str) -> List[str]:
    """The options with which a server is started. Its management interface listens on the loopback address only."""
    return [
        "start",
        "--optimized",
        "--http-enabled=true",
        "--http-host=%s" % address,
        "--http-port=%d" % port,
        "--http-management-host=127.0.0.1",
        "--hostname=%s" % public,
        "--cache=local",
    ]


def environment(password: str) -> Dict[str, str]:
    """What makes the first administrator; it is in no command line."""
    return {"KC_BOOTSTRAP_ADMIN_USERNAME": "admin", "KC_BOOTSTRAP_ADMIN_PASSWORD": password}


def unit(address: str) -> str:
    """The unit of a lab machine's server."""
    options = " ".join(start_options(address, PORT, "http://%s:%d" % (address, PORT)))
    return (
        """\
[Unit]
Description=Keycloak, the identity provider of a lab
After=network-online.target
Wants=network-online.target

[Service]
User=keycloak
EnvironmentFile=/etc/keycloak/admin.env
Environment="JAVA_OPTS_KC_HEAP=-Xms64m -Xmx512m"
ExecStart=/opt/keycloak/home/bin/kc.sh %s
StateDirectory=keycloak
StateDirectoryMode=0700
Restart=on-failure
RestartSec=5
TimeoutStartSec=600
SuccessExitStatus=143
NoNewPrivileges=yes

[Install]
WantedBy=multi-user.target
"""
        % options
    )


def _files(root: str, address: str, password: str) -> Dict[str, str]:
    """What a machine needs to run the server: texts by path. Secrets are below etc/keycloak."""
    admin = "".join("%s=%s\n" % pair for pair in sorted(environment(password).items()))
    return {
        os.path.join(root, "etc/systemd/system/keycloak.service"): unit(address),
        os.path.join(root, "etc/sysusers.d/keycloak.conf"): "u keycloak - Keycloak %s\n" % DATA,
        os.path.join(root, "etc/keycloak/admin.env"): admin,
    }


def as_wanted(root: str, address: str, password: str) -> bool:
    """Whether a machine has what it needs to run the server."""
    return all(read_text(path) == text for path, text in _files(root, address, password).items())


def install(root: str, address: str, password: str, leader: int) -> None:
    """Gives a running machine what it needs, and starts the server. `leader` is the machine's first process, as this host sees it."""
    os.makedirs(os.path.join(root, "etc/keycloak"), mode=0o700, exist_ok=True)
    for path, text in _files(root, address, password).items():
        write_file(path, text, 0o600 if path.endswith(".env") else 0o644)
    inside = ["nsenter", "--target", str(leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--"]
    run([*inside, "systemd-sysusers"])
    run([*inside, "systemctl", "daemon-reload"])
    run([*inside, "systemctl", "--no-block", "enable", "keycloak.service"])
    run([*inside, "systemctl", "--no-block", "restart", "keycloak.service"])


def answers(url: str) -> bool:
    """Whether a server is ready for requests."""
    try:
        with open_url(url + "/realms/master", timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait(url: str, timeout: float, leader: int) -> None:
    """Waits for a server that was started in a machine; LabError with the end of its log when it does not answer."""
    if wait_until(lambda: answers(url), timeout, 1.0):
        return
    inside = ["nsenter", "--target", str(leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--"]
    log = run([*inside, "journalctl", "--no-pager", "--lines=20", "--output=cat", "--unit=keycloak"], check=False)
    raise LabError("Keycloak does not answer at %s after %d s:\n%s" % (url, timeout, log.strip()))
