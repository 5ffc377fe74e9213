# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands `mipfed keycloak …`: who may see which data follows what the federation holds."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from mipfed import paths
from mipfed.errors import MipfedError, Problem, configuration, declined, usage
from mipfed.exitcodes import ExitCode
from mipfed.options import REMOTE, command, new_application
from mipfed.outcome import Outcome
from mipfed.session import Prepared, Session

keycloak_app = new_application("Client, roles and groups of the portal's users, in a Keycloak realm.")

#: Where `prepare` keeps the secrets that it makes.
VAULT_FILE = "keycloak_vault.yml"

Prune = Annotated[bool, typer.Option("--prune", help="Remove roles and groups for which there are no data any more.")]
CopyFrom = Annotated[
    str, typer.Option("--copy-from", metavar="CLIENT", help="Copy the members of another client's groups.", show_default=False)
]
Structure = Annotated[
    Path | None,
    typer.Option(
        "--structure", metavar="FILE", help="Take this data structure (JSON) in place of what was consolidated last.", show_default=False
    ),
]


def read_structure(file: Path) -> list[dict[str, Any]]:
    """Return the data structure of a file.

    :raises MipfedError: USAGE when it cannot be read as one. Nothing else than names gets into it: Ansible would take more for a template.
    """
    try:
        content = json.loads(file.expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise usage(f"--structure: {paths.shown(file)}: {error.strerror}") from None
    except ValueError as error:
        raise usage(f"--structure: {paths.shown(file)} is no JSON: {error}") from None
    if not isinstance(content, list) or not content or not all(isinstance(entry, dict) for entry in content):
        raise usage(f"--structure: {paths.shown(file)} is no data structure; `mipfed data structure --file FILE` writes one.")
    planner = paths.collection_module("module_utils._keycloak")
    try:
        planner.wanted("portal", content)
    except planner.StructureError as error:
        raise MipfedError(
            ExitCode.USAGE, [Problem("usage", f"--structure: {paths.shown(file)}: {text}") for text in error.errors]
        ) from None
    return [
        {
            "name": pathology["name"],
            "nodes": [
                {"name": node["name"], "datasets": [{"name": dataset["name"]} for dataset in node["datasets"]]}
                for node in pathology["nodes"]
            ],
        }
        for pathology in content
    ]


def _variables(session: Session, *, prune: bool, copy_from: str, structure: Path | None) -> dict[str, Any]:
    session.arguments = [
        *(["--prune"] if prune else []),
        *(["--copy-from", copy_from] if copy_from else []),
        *(["--structure", str(structure)] if structure else []),
    ]
    given = {
        "keycloak_prune": prune,
        "keycloak_copy_from": copy_from,
        "keycloak_structure": read_structure(structure) if structure else None,
    }
    return {key: value for key, value in given.items() if value}


def _play(session: Session, prepared: Prepared, variables: Mapping[str, Any], *, check: bool) -> Outcome:
    """Run the playbook; the result is its report, with the difference that Ansible showed."""
    played = session.play(
        "hbp.mip.keycloak", prepared, check=check, diff=True, with_controllers=True, variables=variables, following=session.again()
    )
    outcome = session.report(played, "keycloak", lambda _out, _data: None)
    collector = played.done.collector if played.done else None
    if isinstance(outcome.result, dict):
        outcome.result["applied"] = not check and bool(outcome.result.get("changed"))
        outcome.result["diff"] = next((change.diff for change in collector.changes if change.diff), "") if collector else ""
    return outcome


def _shown(session: Session, outcome: Outcome, *, check: bool) -> Outcome:
    from mipfed import keycloak_reports

    data, with_diff = outcome.result, session.options.diff or session.options.verbose > 0
    if isinstance(data, dict) and data.get("plan"):
        outcome.text = lambda out: keycloak_reports.plan(out, data, check=check, with_diff=with_diff)
    return outcome


@command(keycloak_app, "plan", (*REMOTE, "diff"), group="keycloak")
def keycloak_plan(session: Session, prune: Prune = False, copy_from: CopyFrom = "", structure: Structure = None) -> Outcome:
    """Show what sync would change; changes nothing. --diff shows client, roles and groups before and after."""
    variables = _variables(session, prune=prune, copy_from=copy_from, structure=structure)
    outcome = _shown(session, _play(session, session.prepare(), variables, check=True), check=True)
    if outcome.exit_code is ExitCode.OK and outcome.result.get("changed"):
        session.command = "keycloak sync"
        outcome.next = session.again()
    return outcome


@command(keycloak_app, "sync", (*REMOTE, "check", "diff"), group="keycloak")
def keycloak_sync(session: Session, prune: Prune = False, copy_from: CopyFrom = "", structure: Structure = None) -> Outcome:
    """Bring client, roles and groups in line with the data.

    Follows what was consolidated last. Shows the plan and asks; only what was shown is done. Nothing is removed without --prune, nothing
    is removed to be made again, and members stay in their groups. With -y it is done at once. --check stops after the plan.
    """
    from mipfed import keycloak_reports, render

    variables = _variables(session, prune=prune, copy_from=copy_from, structure=structure)
    prepared = session.prepare()
    if session.options.yes and not session.options.check:
        return _shown(session, _play(session, prepared, variables, check=False), check=False)
    outcome = _shown(session, _play(session, prepared, variables, check=True), check=True)
    if session.options.check or outcome.exit_code is not ExitCode.OK or not outcome.result.get("changed"):
        return outcome
    if session.interactive() and outcome.text:
        outcome.text(render.console(stderr=True))
    try:
        session.confirm(keycloak_reports.summary(outcome.result), "Apply this plan?")
    except MipfedError as error:
        return replace(outcome, exit_code=error.exit_code, errors=[*outcome.errors, *error.problems], next="")
    expected = {**variables, "keycloak_expected_plan": str(outcome.result["plan"]["id"])}
    return _shown(session, _play(session, prepared, expected, check=False), check=False)


@command(keycloak_app, "orphans", REMOTE, group="keycloak")
def keycloak_orphans(session: Session, structure: Structure = None) -> Outcome:
    """List roles and groups for which there are no data any more; changes nothing."""
    from mipfed import keycloak_reports

    variables = _variables(session, prune=False, copy_from="", structure=structure)
    outcome = _play(session, session.prepare(), variables, check=True)
    if not isinstance(outcome.result, dict):
        return outcome
    found = outcome.result["orphans"]
    outcome.result = {key: outcome.result[key] for key in ("url", "realm", "client", "orphans", "problems")}
    if outcome.exit_code is ExitCode.OK:
        outcome.text = lambda out: keycloak_reports.orphans(out, found)
        if any(not entry.get("kept") for entry in found):
            outcome.next = session.call("keycloak sync --prune")
    return outcome


@command(keycloak_app, "prepare", (*REMOTE, "check"), group="keycloak")
def keycloak_prepare(
    session: Session,
    admin_user: Annotated[str, typer.Option("--admin-user", metavar="NAME", help="An administrator of the server or the realm.")] = "admin",
    admin_realm: Annotated[str, typer.Option("--admin-realm", metavar="REALM", help="The realm that this user is in.")] = "master",
    admin_password_file: Annotated[
        Path | None, typer.Option("--admin-password-file", metavar="FILE", help="A file with the password; otherwise it is asked for.")
    ] = None,
    create_realm: Annotated[bool, typer.Option("--create-realm", help="Make the realm if it is not there.")] = False,
) -> Outcome:
    """Make the client that sync logs in with, once for each federation.

    Its secret and that of the portal's client are made here, if the inventory has none, and kept encrypted in
    group_vars/all/keycloak_vault.yml. The administrator's password is used once and kept nowhere.
    """
    import tempfile

    from mipfed import keycloak_reports

    session.arguments = [
        *(["--admin-user", admin_user] if admin_user != "admin" else []),
        *(["--admin-realm", admin_realm] if admin_realm != "master" else []),
        *(["--admin-password-file", str(admin_password_file)] if admin_password_file else []),
        *(["--create-realm"] if create_realm else []),
    ]
    prepared = session.prepare()
    keycloak = prepared.resolved["keycloak"]
    if not keycloak["url"]:
        raise configuration("The inventory names no Keycloak server.", next="Set mip_keycloak.url; see docs/keycloak.md")
    password = _admin_password(session, admin_user, admin_password_file)
    written = None
    if not session.options.check:
        new = "" if keycloak["service_secret"] else f"\n  a secret is made and written, encrypted, to group_vars/all/{VAULT_FILE};"
        session.confirm(
            f"In the realm {keycloak['realm']} of {keycloak['url']}, as {admin_user}:{new}\n"
            f"  the client {keycloak['service_client']} is made, which may manage the realm's clients, users and groups"
            + ("; the realm is made if it is not there." if create_realm else "."),
            "Make it?",
        )
        if not keycloak["service_secret"]:
            written = _new_secrets(session, client=not keycloak["client_secret"])
            prepared = session.prepare()
    elif not keycloak["service_secret"]:
        raise configuration(
            "There is no secret for the service client yet, so that there is nothing to compare.", next=session.call("keycloak prepare")
        )
    folder = paths.state_dir()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix="keycloak-", dir=folder) as private:
        secret = Path(private) / "password"
        secret.touch(mode=0o600)
        secret.write_text(password, encoding="utf-8")
        variables = {
            "keycloak_admin_user": admin_user,
            "keycloak_admin_realm": admin_realm,
            "keycloak_admin_password_file": str(secret),
            "keycloak_create_realm": create_realm,
        }
        played = session.play(
            "hbp.mip.keycloak_prepare",
            prepared,
            check=session.options.check,
            with_controllers=True,
            variables=variables,
            following=session.again(),
        )
    outcome = session.report(played, "keycloak", lambda _out, _data: None)
    data = outcome.result
    if isinstance(data, dict):
        data["vault_file"] = str(written) if written else None
        if data.get("plan"):
            outcome.text = lambda out: keycloak_reports.prepared(out, data, check=session.options.check)
        if outcome.exit_code is ExitCode.OK and not session.options.check:
            outcome.next = session.call("keycloak plan")
    return outcome


def _admin_password(session: Session, user: str, file: Path | None) -> str:
    if file is not None:
        try:
            password = file.expanduser().read_text(encoding="utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise usage(f"--admin-password-file: {paths.shown(file)} cannot be read: {error}") from None
    elif session.interactive():
        import getpass

        password = getpass.getpass(f"Password of {user}: ")
    else:
        raise declined("The administrator's password is needed, and there is no terminal.", next="Give --admin-password-file FILE")
    if not password:
        raise usage("The administrator's password is empty.")
    return password


def _new_secrets(session: Session, *, client: bool) -> Path:
    """Write new secrets into a vault-encrypted file of the inventory, and return its path.

    :arg client: make one for the portal's client, too.
    """
    import secrets

    from ansible.parsing.vault import VaultLib, VaultSecret

    from mipfed import vault

    folder = session.source.folder / "group_vars" / "all"
    path = folder / VAULT_FILE
    if not folder.is_dir():
        # Beside group_vars/all.yml the folder would make Ansible forget that file.
        raise configuration(
            f"{paths.shown(folder)} is no folder.", next=f"mkdir it, and move what is in {folder.name}.yml into it as main.yml"
        )
    if path.exists():
        raise configuration(f"{paths.shown(path)} is there, and has no mip_keycloak_service_secret.", next="Add it, or move the file away")
    if vault.password_file(session.options.vault_password_file) is None and not sys.stdin.isatty():
        raise configuration(
            "A secret is made and has to be encrypted, and nothing gives the federation's vault password.",
            next="Give --vault-password-file FILE or set MIPFED_VAULT_PASSWORD_FILE",
        )
    password = vault.obtain(session.options.vault_password_file, session.source.name)
    names = ["mip_keycloak_service_secret", *(["mip_keycloak_client_secret"] if client else [])]
    text = "# Made by mipfed keycloak prepare.\n" + "".join(f'{name}: "{secrets.token_urlsafe(36)}"\n' for name in names)
    encrypted = VaultLib([("default", VaultSecret(password.encode()))]).encrypt(text, VaultSecret(password.encode()))
    try:
        paths.collection_module("plugin_utils._files").write(path, encrypted.decode("ascii"), 0o600)
    except OSError as error:
        raise MipfedError(ExitCode.FAILED, f"{paths.shown(path)} cannot be written: {error.strerror}") from None
    return path
