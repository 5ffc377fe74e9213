# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `mipfed backup …`, `restore` and `recover` do: options become variables of the playbooks, their reports become results."""

from __future__ import annotations

import getpass
import os
import shutil
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mipfed import overview, paths, recovery_reports, vault
from mipfed.errors import MipfedError, Problem, configuration, declined, usage
from mipfed.exitcodes import ExitCode
from mipfed.outcome import Outcome
from mipfed.session import Session


def _sets() -> Any:
    return paths.collection_module("plugin_utils._backup_set")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _resolved(session: Session) -> dict[str, Any]:
    """Return the federation without asking for a vault password: nothing of the backups' settings is secret."""
    from mipfed import inventory

    return inventory.resolve(inventory.load(session.source))


def _size(number: int) -> str:
    return f"{number / 2**20:.1f} MB"


def create(session: Session) -> Outcome:
    """Carry out `backup create`."""
    prepared = session.prepare()
    wanted = prepared.resolved["backup"]
    if not wanted["recipients"]:
        raise configuration(
            "mip_backup.recipients is empty: a backup is encrypted, and nobody is named who can open it.",
            next=f"{session.call('backup key FILE')}, then write the recipient into the inventory, mip_backup: {{recipients: [age1…]}}",
        )
    managers = sum(node["manager"] for node in prepared.resolved["nodes"])
    if not session.options.check:
        effect = (
            "The engine of the master is stopped for some seconds; keystore and engine there are away until they have started again."
            if managers == 1
            else "The engine of a manager that does not lead is stopped for some seconds; the swarm goes on."
        )
        target = paths.shown(overview.backups(session.source.folder, prepared.resolved))
        session.confirm(f"Federation {session.source.name} is backed up to {target}.\n{effect}", "Go on?")
    played = session.play("hbp.mip.backup", prepared, check=session.options.check, with_controllers=True, following=session.again())
    outcome = session.report(played, "backup", recovery_reports.backup)
    report = _mapping(outcome.result)
    if report.get("set") and outcome.exit_code is ExitCode.OK:
        known = prepared.resolved["backup"]["identity"] or os.environ.get("MIPFED_BACKUP_IDENTITY")
        outcome.next = session.call(f"backup verify {paths.shown(Path(str(report['set'])))}{'' if known else ' --identity FILE'}")
    return outcome


def listed(session: Session) -> Outcome:
    """Carry out `backup ls`."""
    folder = overview.backups(session.source.folder, _resolved(session))
    sets, problems = _sets().listed(folder, session.source.name) if folder.is_dir() else ([], [])
    errors = [Problem("backup-unreadable", text) for text in problems]
    return Outcome(
        result={"folder": str(folder), "sets": sets},
        exit_code=ExitCode.CHECK if errors else ExitCode.OK,
        errors=errors,
        text=lambda out: recovery_reports.sets(out, sets),
    )


def _identity(session: Session, given: Path | None) -> Path:
    if given is None and (configured := _resolved(session)["backup"]["identity"]):
        given = Path(configured)
    if given is None:
        raise usage(
            "Which key opens the backup? Neither --identity nor mip_backup.identity names one.",
            next="Give --identity FILE, or set MIPFED_BACKUP_IDENTITY",
        )
    path = given.expanduser().absolute()
    if not path.is_file():
        raise configuration(f"{given}, the key that opens the backup, does not exist.")
    return path


def _keys(session: Session, given: Path | None) -> list[Any]:
    """Read the secret keys; a file that ansible-vault encrypted is decrypted in memory."""

    def text_of(name: str) -> str:
        content = Path(name).read_bytes()
        if not content.startswith(vault.MARK):
            return content.decode("utf-8", "replace")
        from ansible.parsing.vault import AnsibleVaultError, VaultLib, VaultSecret

        password = vault.obtain(session.options.vault_password_file, session.source.name)
        try:
            return str(VaultLib([("default", VaultSecret(password.encode()))]).decrypt(content).decode("utf-8"))
        except AnsibleVaultError as error:
            raise configuration(f"{name} cannot be decrypted: {error}", next="Check the vault password") from None

    keys = paths.collection_module("plugin_utils._backup_keys")
    try:
        return list(keys.read(_identity(session, given), text_of))
    except _sets().BackupError as error:
        raise configuration(str(error)) from None


def _manifest(session: Session, opened: Any, keys: Sequence[Any], file: Path) -> dict[str, Any]:
    """Return the manifest of a set whose every part was checked.

    :raises BackupError: when it is damaged, or of another federation.
    """
    if opened.header.get("federation") != session.source.name:
        raise _sets().BackupError(f"{file} is a backup of {opened.header.get('federation')}, not of {session.source.name}")
    manifest: dict[str, Any] = opened.verify(keys)
    return manifest


def verified(session: Session, file: Path, identity: Path | None, *, restore_test: bool = False) -> Outcome:
    """Carry out `backup verify`.

    :arg restore_test: also restore it into a scratch lab, and verify what comes of it.
    """
    if restore_test:
        from mipfed import restore_test as trial

        trial.refuse_without_lab()
    module, path = _sets(), file.expanduser().absolute()
    keys = _keys(session, identity)
    opened = None
    try:
        opened = module.BackupSet(path)
        manifest = _manifest(session, opened, keys, file)
    except module.BackupError as error:
        if opened is not None:
            _note(path, ok=False, detail=str(error))
        problem = Problem("backup-damaged", str(error), next=session.call("backup ls"))
        return Outcome(result={"file": str(path), "ok": False}, exit_code=ExitCode.CHECK, errors=[problem])
    _note(path, ok=True, detail="")
    swarm = manifest["swarm"]
    result = {
        "file": str(path),
        "ok": True,
        "id": manifest["id"],
        "created": manifest["created"],
        "cluster_id": manifest["cluster_id"],
        "swarm": swarm,
        "members": [{key: member[key] for key in ("name", "kind", "node", "size", "sha256")} for member in manifest["members"]],
        "missing": manifest["missing"],
    }
    outcome = Outcome(result=result, text=lambda out: recovery_reports.verified(out, result))
    if restore_test:
        tried, problems = trial.run(
            session, path, _identity(session, identity), opened, manifest, keys, lambda **found: _note(path, "restored", **found)
        )
        result["restore_test"] = tried
        outcome.errors = problems
        outcome.exit_code = ExitCode.CHECK if problems else ExitCode.OK
    return outcome


def _note(path: Path, what: str = "verified", *, ok: bool, detail: str) -> None:
    """Write the result of a verification into the catalogue; a folder that cannot be written is no reason to fail."""
    module = _sets()
    try:
        module.note(path, **{what: {"at": module.moment(), "ok": ok, "detail": detail}})
    except OSError:
        return


def extracted(session: Session, file: Path, to: Path, identity: Path | None) -> Outcome:
    """Carry out `backup extract`."""
    module, path, target = _sets(), file.expanduser().absolute(), to.expanduser().absolute()
    if target.exists():
        raise usage(f"--to: {paths.shown(target)} exists; give a folder that does not.")
    keys = _keys(session, identity)
    draft = target.with_name(f".{target.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        opened = module.BackupSet(path)
        manifest = opened.verify(keys)
        draft.mkdir(mode=0o700, parents=True)
        for entry in manifest["members"]:
            place = draft / str(entry["name"])
            with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
                for content in opened.member(entry, keys):
                    stream.write(content)
            if entry["kind"] == "inventory":
                with tarfile.open(place) as archive:
                    archive.extractall(draft / "inventory", filter="data")
                place.unlink()
        draft.replace(target)
    except module.BackupError as error:
        return Outcome(exit_code=ExitCode.CHECK, errors=[Problem("backup-damaged", str(error), next=session.call("backup ls"))])
    except OSError as error:
        raise MipfedError(ExitCode.FAILED, f"{error.filename or target}: {error.strerror}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    names = sorted(entry.name for entry in target.iterdir())
    return Outcome(
        result={"folder": str(target), "content": names},
        text=lambda out: out.print(f"{paths.shown(target)}: {', '.join(names)}", markup=False),
    )


def new_key(session: Session, file: Path) -> Outcome:
    """Carry out `backup key`."""
    path = file.expanduser().absolute()
    try:
        recipient = str(paths.collection_module("plugin_utils._backup_keys").make(path))
    except _sets().BackupError as error:
        raise MipfedError(ExitCode.USAGE, str(error)) from None

    def text(out: Any) -> None:
        out.print(f"Wrote the secret key to {paths.shown(path)}. Keep it where a loss of this machine does not reach it.", markup=False)
        out.print(f"Into the inventory:\n  mip_backup:\n    recipients: [{recipient}]", markup=False)

    return Outcome(result={"file": str(path), "recipient": recipient}, text=text)


def schedule(session: Session) -> Outcome:
    """Carry out `backup schedule`."""
    prepared = session.prepare()
    when = str(prepared.resolved["backup"]["schedule"])
    command = [str(Path(sys.argv[0]).resolve()), *_chosen(session), "backup", "create", "--yes"]
    if prepared.vault_password is not None:
        given = vault.password_file(session.options.vault_password_file)
        if given is None:
            raise configuration(
                "The timer's command needs the vault password, and nobody is there to type it.", next="Give --vault-password-file FILE"
            )
        command += ["--vault-password-file", str(given[0].expanduser().absolute())]
    if not session.options.check:
        what = f"A systemd timer on this machine makes backups of {session.source.name}: {when}." if when else "The timer is removed."
        session.confirm(what, "Go on?")
    variables = {"backup_command": command, "backup_user": getpass.getuser()}
    outcome = session.play("hbp.mip.backup_schedule", prepared, check=session.options.check, diff=session.options.diff, variables=variables)
    assert outcome.done
    outcome.result = {
        "schedule": when,
        "command": command,
        "changes": [change.as_dict(with_diff=False) for change in outcome.done.collector.changes],
    }
    if outcome.exit_code is ExitCode.OK:
        unit = f"mipfed-backup-{session.source.name}.timer"
        outcome.text = lambda out: out.print(f"{unit}: {when}" if when else f"{unit} is not there.", markup=False)
        outcome.next = f"systemctl list-timers {unit}" if when else ""
    return outcome


def _chosen(session: Session) -> list[str]:
    if session.options.inventory:
        return ["-i", str(session.options.inventory.expanduser().absolute())]
    return ["-f", session.source.name]


def _confirm_by_name(session: Session, confirm: str, text: str) -> None:
    """Let the user type the federation's name; -y is not enough for what cannot be taken back.

    :raises MipfedError: DECLINED when it is another, or cannot be asked.
    """
    name = session.source.name
    if not confirm:
        if not session.interactive():
            raise declined(
                f"mipfed {session.command} asks for the federation's name, and there is no terminal to ask on.",
                next=f"{session.again()} --confirm {name}",
            )
        print(text, file=sys.stderr)
        confirm = session.ask(f"Type the federation's name to go on ({name}): ").strip()
    if confirm != name:
        raise declined(f"{confirm!r} is not {name}. Nothing was changed.")


def _given(file: Path, identity: Path | None) -> list[str]:
    """Return the arguments that a repetition needs in any case."""
    return [str(file), *(["--identity", str(identity)] if identity else [])]


def _opened(session: Session, file: Path, identity: Path | None) -> tuple[Path, Path, dict[str, Any]]:
    """Check all of a backup before anything is touched; return where it is, where its key is, and its manifest.

    :raises MipfedError: CHECK when it is damaged, or of another federation.
    """
    module, path = _sets(), file.expanduser().absolute()
    key = _identity(session, identity)
    keys = _keys(session, identity)
    try:
        return path, key, _manifest(session, module.BackupSet(path), keys, file)
    except module.BackupError as error:
        raise MipfedError(ExitCode.CHECK, f"{error}. Nothing was touched.", next=session.call("backup ls")) from None


def portal(session: Session, file: Path, identity: Path | None, *, force: bool) -> Outcome:
    """Carry out `ui restore`."""
    from mipfed import ui_reports

    session.arguments = [*_given(file, identity), *(["--force"] if force else [])]
    prepared = session.prepare()
    path, key, manifest = _opened(session, file, identity)
    nodes = [str(member["node"]) for member in manifest["members"] if member["kind"] == "portal"]
    if not nodes:
        raise MipfedError(
            ExitCode.CHECK, f"{file} has no database of a portal. Nothing was touched.", next=session.call(f"backup verify {file}")
        )
    if not session.options.check:
        session.confirm(
            f"{file}: the portal of {session.source.name} on {', '.join(nodes)} as it was at {manifest['created']}.\n"
            "The database of now is set aside under another name, and the portal's backend restarts.",
            "Restore it?",
        )
    variables = {"restore_file": str(path), "restore_identity": str(key), "restore_force": force}
    played = session.play(
        "hbp.mip.ui_restore", prepared, check=session.options.check, with_controllers=True, variables=variables, following=session.again()
    )
    return session.report(played, "portal_restore", ui_reports.restored)


def restore(session: Session, file: Path, identity: Path | None, *, confirm: str, replace: bool, data: bool) -> Outcome:
    """Carry out `restore`."""
    session.arguments = [*_given(file, identity), *(["--replace"] if replace else []), *(["--data"] if data else [])]
    prepared = session.prepare()
    path, key, manifest = _opened(session, file, identity)
    node = str(manifest["swarm"]["node"])
    known = {entry["name"]: entry for entry in prepared.resolved["nodes"]}
    before: dict[str, Any] = next((entry for entry in manifest["nodes"] if entry["name"] == node), {})
    if node not in known:
        raise MipfedError(
            ExitCode.CHECK,
            f"The backup is of the manager {node}, which is not in the inventory. Nothing was touched.",
            next=session.call("node ls"),
        )
    if known[node]["address"] != before.get("address"):
        raise MipfedError(
            ExitCode.CHECK,
            f"The backup is of {node} with the address {before.get('address')}; the inventory gives it {known[node]['address']}. A manager "
            "cannot change its address: its peers know it by the old one. Nothing was touched.",
            next=f"Give the host its address again, or build the federation anew: {session.call('recover')}",
        )
    lines = [
        f"{file}: {session.source.name} as it was at {manifest['created']}, swarm {manifest['cluster_id']}.",
        f"On {node} ({known[node]['address']}) the engine is stopped, its state of the swarm moved aside, "
        "and that of the backup put in place.",
        "Join tokens are replaced, and nodes that were removed since the backup are removed again.",
    ]
    if not session.options.check:
        _confirm_by_name(session, confirm, "\n".join(lines))
    variables = {"restore_file": str(path), "restore_identity": str(key), "restore_replace": replace, "restore_data": data}
    played = session.play(
        "hbp.mip.restore", prepared, check=session.options.check, with_controllers=True, variables=variables, following=session.again()
    )
    outcome = session.report(played, "restore", recovery_reports.restored)
    if outcome.exit_code is ExitCode.OK:
        outcome.next = session.call("deploy")
        if any(member["kind"] == "portal" for member in manifest["members"]):
            outcome.next += f"   (and for the portal's database: {session.call(f'ui restore {file}')})"
    return outcome


def _look(session: Session, prepared: Any, **variables: Any) -> Outcome:
    folder = str(overview.backups(session.source.folder, prepared.resolved))
    played = session.play(
        "hbp.mip.recover",
        prepared,
        check=session.options.check,
        with_controllers=True,
        variables={"recovery_backups": folder, **variables},
        following=session.again(),
    )
    return session.report(played, "recover", recovery_reports.recover)


def _by_report(outcome: Outcome) -> Outcome:
    """Let the report speak: that hosts are away is a part of what it explains."""
    report = _mapping(outcome.result)
    if report and outcome.exit_code in (ExitCode.CHECK, ExitCode.UNREACHABLE, ExitCode.FAILED, ExitCode.OK):
        outcome.errors = [problem for problem in outcome.errors if problem.code.startswith("recover-") or not problem.code]
        outcome.exit_code = ExitCode.CHECK if report.get("problems") else ExitCode.OK
    return outcome


def recover(session: Session, *, confirm: str) -> Outcome:
    """Carry out `recover`."""
    from mipfed import render

    prepared = session.prepare()
    outcome = _by_report(_look(session, prepared))
    report = _mapping(outcome.result)
    steps = report.get("steps") or []
    if not steps or session.options.check:
        outcome.next = str(report.get("next") or "") or outcome.next
        return outcome
    if not confirm and not session.interactive():
        outcome.next = f"{session.again()} --confirm {session.source.name}"
        outcome.result = {**report, "next": outcome.next}
        return outcome
    recovery_reports.recover(render.console(stderr=True), dict(report))
    _confirm_by_name(session, confirm, "This is done when you confirm it; it cannot be taken back by a command.")
    variables: dict[str, Any] = {"recovery_plan": report["plan"], "recovery_confirm": confirm or session.source.name}
    if any(step["treatment"] == "unlock" for step in steps):
        key = os.environ.get("MIPFED_UNLOCK_KEY", "")
        if not key and session.interactive():
            key = getpass.getpass("Unlock key (empty: from the vault): ")
        if key:
            variables["recovery_unlock_key"] = key.strip()
    outcome = _by_report(_look(session, prepared, **variables))
    if outcome.exit_code is ExitCode.OK:
        outcome.next = str(report.get("next") or "")
    return outcome
