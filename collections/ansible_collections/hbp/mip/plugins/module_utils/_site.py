# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hospital's own command on a host: what is installed of it, how it is brought up to date, and whether the hospital has paused."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import stat
import subprocess
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ansible_collections.hbp.mip.plugins.module_utils import _files, _site_kits

COMMAND = "/usr/local/sbin/mip-site"
CONFIG = "/etc/mip/site.json"
#: Is there while it is paused, also when a reboot comes in between.
PAUSE = "/etc/mip/pause.nft"
STATE = "/var/lib/mip/pause.json"
#: What the host's journal says of a change.
WRITTEN = "the command mip-site and the list of the other nodes were written"

_RECORD_SECONDS = 60
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


class SiteError(Exception):
    """The command cannot be installed as it is wanted. `fix` is the next command, if there is one."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.fix = fix


class Part(NamedTuple):
    """Something of the command that has to be written."""

    path: str
    #: None is a folder.
    data: Optional[bytes]
    mode: int
    #: What is there; None when nothing is, or a link.
    former: Optional[bytes]
    #: Mode and owner of what is there.
    former_access: str

    @property
    def rewritten(self) -> bool:
        """Whether the content differs, not only mode or owner."""
        return self.data != self.former or not self.former_access


def _hash(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            return hashlib.sha256(stream.read()).hexdigest()
    except OSError:
        return ""


def facts() -> dict[str, Any]:
    """What node_check tells: hashes of command and configuration, the pause, and whether a kit is over its time on this manager."""
    paused = bool(_hash(PAUSE))
    said: dict[str, Any] = {}
    if paused:
        try:
            with open(STATE, encoding="utf-8") as stream:
                found = json.load(stream)
            said = found if isinstance(found, dict) else {}
        except (OSError, ValueError):
            said = {}
    return {
        "command_sha256": _hash(COMMAND),
        "config_sha256": _hash(CONFIG),
        "paused": paused,
        "paused_since": str(said.get("since") or ""),
        "paused_reason": str(said.get("reason") or ""),
        "kit_overdue": _site_kits.overdue(),
    }


# --- installing it


def _owner() -> Optional[Tuple[int, int]]:
    """Root and its group: a folder such as Debian's /usr/local would give its own group. Nobody else can give files away."""
    return (0, 0) if os.geteuid() == 0 else None


def _access(mode: int, user: int, group: int) -> str:
    return "mode %04o, owner %d:%d" % (mode, user, group)


def _wanted_access(mode: int) -> str:
    return _access(mode, *(_owner() or (os.geteuid(), os.getegid())))


def _look(path: str, data: Optional[bytes], mode: int) -> Optional[Part]:
    """What has to be done for a path, None when it is as wanted. Raises SiteError when something else is in the way."""
    try:
        # /etc/mip may be a link to a folder elsewhere; a file that is a link is replaced by a file.
        found = os.stat(path) if data is None else os.lstat(path)
    except FileNotFoundError:
        return Part(path, data, mode, None, "")
    except OSError as error:
        raise SiteError("%s cannot be looked at: %s. Nothing was changed" % (path, error.strerror), "ls -ld %s" % path) from error
    if stat.S_ISDIR(found.st_mode) != (data is None) or stat.S_IFMT(found.st_mode) not in (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK):
        raise SiteError(
            "%s is no %s, which mip-site needs there. Nothing was changed. Move it away" % (path, "folder" if data is None else "file"),
            "ls -ld %s" % path,
        )
    access = "" if stat.S_ISLNK(found.st_mode) else _access(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)
    former: Optional[bytes] = None
    if data is not None and access:
        try:
            with open(path, "rb") as stream:
                former = stream.read()
        except OSError as error:
            raise SiteError("%s cannot be read: %s. Nothing was changed" % (path, error.strerror), "ls -l %s" % path) from error
    part = Part(path, data, mode, former, access)
    return part if part.rewritten or access != _wanted_access(mode) else None


def compare(command: Optional[str], config: Optional[str]) -> List[Part]:
    """What has to be written, in this order; empty when all is as wanted. None stays as it is. Raises SiteError before any change."""
    if command is not None and not command.startswith("#!"):
        raise SiteError("command: the text does not begin with #!, so that it would be no program. Nothing was changed")
    if command is None and not os.path.exists(COMMAND):
        raise SiteError("%s is not installed, and no command was given. Nothing was changed" % COMMAND)
    wanted: List[Tuple[str, Optional[bytes], int]] = []
    if command is not None:
        wanted.append((COMMAND, command.encode("utf-8"), 0o755))
    if config is not None:
        try:
            if not isinstance(json.loads(config), dict):
                raise ValueError("it is no object")
        except ValueError as error:
            raise SiteError("config: the text is no JSON that mip-site can read: %s. Nothing was changed" % error) from error
        # The configuration comes last: as long as it is missing, a run that was cut off has not set the host up.
        wanted += [(os.path.dirname(CONFIG), None, 0o755), (CONFIG, config.encode("utf-8"), 0o644)]
    parts = [_look(*item) for item in wanted]
    return [part for part in parts if part is not None]


def occasion() -> str:
    """What the journal calls a change that is about to be made: the first one, or a later one."""
    return "deploy" if os.path.exists(CONFIG) else "setup"


def write(parts: List[Part]) -> None:
    """Write what `compare` returned. Raises SiteError; what was written until then is right, and a second run does the rest."""
    for part in parts:
        try:
            _write(part)
        except OSError as error:
            folder = os.path.dirname(part.path)
            raise SiteError("%s cannot be written: %s" % (part.path, error.strerror), "ls -ld %s; df %s" % (folder, folder)) from error


def _write(part: Part) -> None:
    owner = _owner()
    if part.data is not None and part.rewritten:
        os.makedirs(os.path.dirname(part.path), 0o755, exist_ok=True)
        _files.replace(part.path, part.data, part.mode, owner)
        return
    if part.data is None:
        os.makedirs(part.path, 0o755, exist_ok=True)
    if owner is not None:
        os.chown(part.path, *owner)
    # After the owner, and whatever the umask is.
    os.chmod(part.path, part.mode)


def record(what: str, who: str) -> None:
    """Let the command write into the host's journal that it was installed or changed. Raises SiteError."""
    command = [COMMAND, "record", "--what", what, "--who", who, "--text", WRITTEN]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_RECORD_SECONDS,
            check=False,
            env=_ENVIRONMENT,
        )
        lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
        reason = "" if done.returncode == 0 else lines[-1] if lines else "exit code %d" % done.returncode
    except subprocess.TimeoutExpired:
        reason = "it did not end within %d seconds" % _RECORD_SECONDS
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise SiteError(
            "%s is in place, but could not write into this host's journal: %s. Only the entry is missing" % (COMMAND, reason),
            "sudo " + " ".join(shlex.quote(word) for word in command),
        )


def differences(parts: List[Part]) -> List[Dict[str, str]]:
    """The changes as Ansible shows them. Of the program there is only its sum: it has many hundred lines."""
    found = []
    for part in parts:
        wanted = _wanted_access(part.mode)
        if part.data is None or not part.rewritten:
            before, after = part.former_access, wanted
        elif part.path == COMMAND:
            before, after = _sum(part.former), _sum(part.data)
        else:
            before, after = (part.former or b"").decode("utf-8", "replace"), part.data.decode("utf-8")
        if part.rewritten and part.former_access not in ("", wanted):
            before, after = "%s\n%s" % (part.former_access, before), "%s\n%s" % (wanted, after)
        header = {"before_header": part.path, "after_header": part.path}
        found.append({"before": _line(before), "after": _line(after), **header})
    return found


def _sum(data: Optional[bytes]) -> str:
    return "" if data is None else "the program with the SHA-256 %s" % hashlib.sha256(data).hexdigest()


def _line(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"
