# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands `mipfed backup …`, `restore` and `recover`. What they do with the playbooks' answers is in `mipfed.recovery`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mipfed.options import OFFLINE, OUTPUT, REMOTE, command, new_application
from mipfed.outcome import Outcome
from mipfed.session import Session

backup_app = new_application("Backups of a federation: one encrypted file each.")

SetFile = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--identity",
        metavar="FILE",
        help="The secret key that opens it; otherwise mip_backup.identity. Environment: MIPFED_BACKUP_IDENTITY.",
        envvar="MIPFED_BACKUP_IDENTITY",
        show_default=False,
    ),
]
Confirm = Annotated[
    str,
    typer.Option("--confirm", metavar="NAME", help="The federation's name, in place of typing it when asked.", show_default=False),
]


@command(backup_app, "create", (*REMOTE, "check"), group="backup")
def backup_create(session: Session) -> Outcome:
    """Back the federation up into one encrypted file.

    State of the swarm, keystore, metadata, inventory. The engine of one manager is stopped for some seconds while its state is
    copied: with several managers one that does not lead, with one manager the master, whose services are away meanwhile.
    """
    from mipfed import recovery

    return recovery.create(session)


@command(backup_app, "ls", OFFLINE, group="backup")
def backup_ls(session: Session) -> Outcome:
    """List the backups of the federation, and when each was verified. Contacts no host."""
    from mipfed import recovery

    return recovery.listed(session)


@command(backup_app, "verify", (*OFFLINE, "vault_password_file"), group="backup")
def backup_verify(
    session: Session,
    file: SetFile,
    identity: KeyFile = None,
    restore_test: Annotated[
        bool, typer.Option("--restore-test", help="Also restore it into a lab on this machine, and verify that. Needs root.")
    ] = False,
) -> Outcome:
    """Open a backup and check everything in it, down to each file. Contacts no host.

    With --restore-test a scratch lab is started on this machine, the backup is restored there, and what comes of it is verified; then the
    lab is removed. The federation is not touched. The results are written into the catalogue that `backup ls` shows.
    """
    from mipfed import recovery

    return recovery.verified(session, file, identity, restore_test=restore_test)


@command(backup_app, "extract", (*OFFLINE, "vault_password_file"), group="backup")
def backup_extract(
    session: Session,
    file: SetFile,
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="A new folder.")],
    identity: KeyFile = None,
) -> Outcome:
    """Decrypt a backup into a new folder, for example to have the inventory of a lost pusher again. Contacts no host.

    What is in it are the secrets of the federation: the folder is readable for its owner only.
    """
    from mipfed import recovery

    return recovery.extracted(session, file, to, identity)


@command(backup_app, "key", OUTPUT, group="backup")
def backup_key(
    session: Session, file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the secret key is written. It must not exist.")]
) -> Outcome:
    """Make a key for backups.

    Writes the secret key into a file and prints the recipient for the inventory. Keep the file away from the pusher.
    """
    from mipfed import recovery

    return recovery.new_key(session, file)


@command(backup_app, "schedule", (*REMOTE, "check", "diff"), group="backup")
def backup_schedule(session: Session) -> Outcome:
    """Install the systemd timer that makes backups by itself, as mip_backup.schedule says; without a schedule remove it. Needs root.

    With vault-encrypted variables give --vault-password-file; the timer's command gets it, too.
    """
    from mipfed import recovery

    return recovery.schedule(session)


def restore(
    session: Session,
    file: SetFile,
    identity: KeyFile = None,
    confirm: Confirm = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="Also replace the state of a manager that works, or is in another swarm.")
    ] = False,
    data: Annotated[bool, typer.Option("--data", help="Also write CSV files that are missing on the hospitals' nodes.")] = False,
) -> Outcome:
    """Bring a lost manager back from a backup.

    Checks everything first: the backup as a whole, the address, the versions. Then asks for the federation's name. The state of
    the swarm is put in place, what was there is moved aside and never deleted; missing keys of the keystore and missing metadata
    are written; the join tokens are replaced; nodes that were removed since are removed again. A second run goes on.
    """
    from mipfed import recovery

    return recovery.restore(session, file, identity, confirm=confirm, replace=replace, data=data)


def recover(session: Session, confirm: Confirm = "") -> Outcome:
    """Find out what is wrong with the swarm's managers and members, and treat it.

    Tells first what it found and what would be done: sole manager lost, majority lost, damaged raft log, locked manager, expired
    certificate, another swarm than the federation's. Does it only when the federation's name is typed. --check ends before that.
    """
    from mipfed import recovery

    return recovery.recover(session, confirm=confirm)


def register(application: typer.Typer) -> None:
    """Add the commands to the application."""
    application.add_typer(backup_app, name="backup")
    command(application, "restore", (*REMOTE, "check"))(restore)
    command(application, "recover", (*REMOTE, "check"))(recover)
