# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock of a federation: one small file on the manager that says who is changing it, and until when.

Decisions are made under flock of a second file, which the kernel releases whatever happens to the process; the lock file
itself is only ever replaced as a whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import tempfile
import time
from datetime import datetime, timezone
from typing import Any, Iterator

_SCHEMA = 1
_GUARD_SECONDS = 10.0


class LockError(Exception):
    """The lock cannot be looked at or written."""


class Locked(Exception):
    """Somebody else holds the lock; `lock` is what its file says."""

    def __init__(self, lock: dict[str, Any]) -> None:
        super().__init__("locked")
        self.lock = lock


def iso(moment: float) -> str:
    """A time in seconds since 1970 as UTC text."""
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def holder_id(holder: dict[str, Any]) -> str:
    """What tells one holder from another: its `id`, or user, host, process id and start. Raises LockError."""
    if holder.get("id"):
        return str(holder["id"])
    if not holder.get("host") or not holder.get("pid"):
        raise LockError("holder: give id, or at least host and pid, so that it can be told who holds the lock")
    return "%s@%s:%s:%s" % (holder.get("user") or "", holder["host"], holder["pid"], holder.get("pid_start") or "")


def describe(lock: dict[str, Any]) -> str:
    """Who holds the lock, for messages: `mipfed deploy by anna on pusher, process 4711`."""
    holder = lock.get("holder") or {}
    text = str(holder.get("command") or "a run")
    if holder.get("user"):
        text += " by %s" % holder["user"]
    if holder.get("host"):
        text += " on %s" % holder["host"]
    if holder.get("pid"):
        text += ", process %s" % holder["pid"]
    return text


class FederationLock:
    """The lock of one federation in the folder `directory`."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.path = os.path.join(directory, "lock")

    def read(self) -> tuple[dict[str, Any] | None, str]:
        """What the file says and, when it says nothing usable, why. Raises LockError when it cannot be read."""
        try:
            with open(self.path, encoding="utf-8") as stream:
                text = stream.read()
        except FileNotFoundError:
            return None, ""
        except UnicodeDecodeError:
            return None, "%s is not text" % self.path
        except OSError as error:
            raise LockError("%s cannot be read: %s" % (self.path, error.strerror)) from error
        if not text.strip():
            return None, "%s is empty" % self.path
        try:
            lock = json.loads(text)
            lock["expires_at"] = float(lock["expires_at"])
            lock["acquired_at"] = float(lock["acquired_at"])
            if not lock["nonce"] or not lock["id"] or not isinstance(lock["holder"], dict):
                raise ValueError("a part of it is missing")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return None, "%s is damaged (%s: %s)" % (self.path, type(error).__name__, error)
        return lock, ""

    def acquire(self, holder: dict[str, Any], lease: float, dead_holder: str, takeover: bool, dry_run: bool) -> dict[str, Any]:
        """Take the lock for `lease` seconds, or renew it when it is the holder's already.

        Returns {"lock", "notice", "previous"}. Raises Locked when somebody else holds it, LockError when the folder
        cannot be used. With `dry_run` nothing is written.
        """
        own = holder_id(holder)
        with self._guard(dry_run):
            lock, damage = self.read()
            now = time.time()
            notice = ""
            previous = None
            if damage:
                notice = "%s, so nobody can be shown to hold the lock; it was taken" % damage
            elif lock is not None and lock["id"] != own:
                previous = lock
                if lock["expires_at"] <= now:
                    notice = "the lease of %s ended at %s; the lock was taken over" % (
                        describe(lock),
                        iso(lock["expires_at"]),
                    )
                elif dead_holder and dead_holder == lock["nonce"]:
                    notice = "%s was cut off without giving the lock back; it was taken over" % describe(lock)
                elif takeover:
                    notice = "the lock of %s was taken over on request" % describe(lock)
                else:
                    raise Locked(lock)
            renewed = lock is not None and lock["id"] == own
            fresh = {
                "schema": _SCHEMA,
                "id": own,
                "nonce": lock["nonce"] if lock is not None and renewed else secrets.token_hex(16),
                "holder": {key: value for key, value in holder.items() if value is not None},
                "acquired_at": lock["acquired_at"] if lock is not None and renewed else now,
                "expires_at": now + lease,
                "boot_id": boot_id(),
            }
            if not dry_run:
                if damage:
                    os.replace(self.path, self.path + ".damaged")
                self._write(fresh)
        return {"lock": fresh, "notice": notice, "previous": previous, "renewed": renewed}

    def release(self, holder: dict[str, Any], force: bool, dry_run: bool) -> dict[str, Any]:
        """Give the lock back. Returns {"lock", "notice"}; raises Locked when it is somebody else's and not `force`."""
        own = "" if force else holder_id(holder)
        with self._guard(dry_run or not os.path.isdir(self.directory)):
            lock, damage = self.read()
            notice = ""
            if lock is None and not damage:
                return {"lock": None, "notice": "nobody held the lock"}
            if damage:
                notice = "%s; it was removed" % damage
            elif lock is not None and lock["id"] != own:
                if not force:
                    raise Locked(lock)
                notice = "the lock of %s was removed by force" % describe(lock)
            if not dry_run:
                os.unlink(self.path)
        return {"lock": lock, "notice": notice}

    @contextlib.contextmanager
    def _guard(self, dry_run: bool) -> Iterator[None]:
        if dry_run:
            yield
            return
        try:
            os.makedirs(os.path.dirname(self.directory) or "/", 0o755, exist_ok=True)
            os.makedirs(self.directory, 0o700, exist_ok=True)
            os.chmod(self.directory, 0o700)
            handle = os.open(os.path.join(self.directory, "lock.guard"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LockError("%s cannot be used: %s" % (error.filename or self.directory, error.strerror)) from error
        try:
            deadline = time.monotonic() + _GUARD_SECONDS
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise LockError(
                            "another process keeps %s/lock.guard for more than %g seconds. Look for it with: sudo fuser -v %s/lock.guard"
                            % (self.directory, _GUARD_SECONDS, self.directory)
                        ) from None
                    time.sleep(0.02)
            yield
        except OSError as error:
            raise LockError("%s: %s" % (error.filename or self.directory, error.strerror)) from error
        finally:
            os.close(handle)

    def _write(self, lock: dict[str, Any]) -> None:
        handle, temporary = tempfile.mkstemp(prefix=".lock-", dir=self.directory)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(lock, stream, indent=1, sort_keys=True)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def boot_id() -> str:
    """The kernel's id of this boot."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return ""
