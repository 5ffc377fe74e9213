# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands `mipfed ui …`: the web portal, its settings, and the experiments that it keeps."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mipfed import paths
from mipfed.backup import KeyFile, SetFile
from mipfed.errors import configuration, usage
from mipfed.exitcodes import ExitCode
from mipfed.options import OFFLINE, REMOTE, command, new_application
from mipfed.outcome import Outcome
from mipfed.session import Session

ui_app = new_application("The web portal on the ui node.")
experiments_app = new_application("The experiments that the web portal keeps.")
ui_app.add_typer(experiments_app, name="experiments")

#: The settings that `ui configure` writes, in a file that holds nothing else.
FILE = Path("group_vars/all/ui.yml")
_HEAD = "---\n# The web portal. Written by `mipfed ui configure`, which keeps what else is in it; comments are not kept.\n"


class Component(StrEnum):
    """What the portal consists of."""

    FRONTEND = "frontend"
    GATEWAY = "gateway"
    BACKEND = "backend"
    DATABASE = "database"
    GALAXY = "galaxy"


class Link(StrEnum):
    """How browsers come to the frontend."""

    DIRECT = "direct"
    PROXIED = "proxied"


class Protocol(StrEnum):
    """What is spoken."""

    HTTP = "http"
    HTTPS = "https"


Components = Annotated[
    list[Component] | None,
    typer.Argument(metavar="[COMPONENT]...", help="frontend, gateway, backend, database, galaxy; by default all.", show_default=False),
]


def _work(session: Session, state: str, components: list[Component] | None, *, reason: str = "", verb: str = "") -> Outcome:
    from mipfed import ui_reports

    prepared = session.prepare()
    chosen = [component.value for component in components or ()]
    if verb and not session.options.check:
        what = " and ".join(chosen) or "the portal"
        session.confirm(
            f"{verb.capitalize()} {what} of {session.source.name}. Nobody can work with it meanwhile.", f"{verb.capitalize()} it?"
        )
    variables = {"ui_state": state, "ui_only": chosen, "ui_reason": reason}
    outcome = session.play("hbp.mip.ui", prepared, check=session.options.check, variables=variables)
    return session.report(outcome, "ui", ui_reports.portal)


@command(ui_app, "status", REMOTE, group="ui")
def ui_status(session: Session, components: Components = None) -> Outcome:
    """Show how the portal's components are. Ends with 4 when one of them is not well. Changes nothing."""
    return _work(session, "queried", components)


@command(ui_app, "start", (*REMOTE, "check"), group="ui")
def ui_start(session: Session, components: Components = None) -> Outcome:
    """Start what was stopped, and wait until it is healthy."""
    return _work(session, "started", components)


@command(ui_app, "stop", (*REMOTE, "check"), group="ui")
def ui_stop(
    session: Session,
    components: Components = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for those who look at the status later.")] = "",
) -> Outcome:
    """Stop the portal until it is started again. A deploy leaves it stopped. Asks first."""
    return _work(session, "stopped", components, reason=reason, verb="stop")


@command(ui_app, "restart", (*REMOTE, "check"), group="ui")
def ui_restart(session: Session, components: Components = None) -> Outcome:
    """Restart the portal's components one after the other; what was stopped on purpose stays so. Asks first."""
    return _work(session, "restarted", components, verb="restart")


@command(ui_app, "logs", REMOTE, group="ui")
def ui_logs(
    session: Session,
    components: Components = None,
    lines: Annotated[int, typer.Option("--lines", metavar="N", min=1, max=10000, help="How many.")] = 100,
) -> Outcome:
    """Show the last lines of what the components wrote; `mipfed logs` shows more, and follows."""
    from mipfed import logs

    chosen = [component.value for component in components or Component]
    return logs.show(session, logs.Wanted(kinds=("ui",), components=chosen, limit=lines))


def _current(path: Path) -> dict[str, Any]:
    """Return the settings in our file. Raises MipfedError when something else is in it."""
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise configuration(f"{paths.shown(path)} cannot be read: {error}") from None
    found = document.get("mip_ui") if isinstance(document, dict) and set(document) <= {"mip_ui"} else None
    if not isinstance(found, dict):
        raise configuration(f"{paths.shown(path)} holds something other than mip_ui.", next="Move that into group_vars/all/main.yml")
    return found


@command(ui_app, "configure", (*OFFLINE, "vault_password_file", "check"), group="ui")
def ui_configure(
    session: Session,
    enable: Annotated[bool | None, typer.Option("--enable/--disable", help="Does a deploy run the portal?", show_default=False)] = None,
    link: Annotated[Link | None, typer.Option(help="direct, or proxied behind a reverse proxy.")] = None,
    public_protocol: Annotated[Protocol | None, typer.Option(help="What the frontend itself speaks.")] = None,
    external_protocol: Annotated[Protocol | None, typer.Option(help="What browsers speak with the reverse proxy.")] = None,
    public_host: Annotated[str | None, typer.Option(metavar="NAME", help="How browsers, or the proxy, reach the frontend.")] = None,
    engine_address: Annotated[str | None, typer.Option(metavar="IPV4", help="The engine, seen from the ui node.")] = None,
    authentication: Annotated[
        bool | None, typer.Option("--with-authentication/--without-authentication", help="Must people log in?", show_default=False)
    ] = None,
    catalogue_protocol: Annotated[Protocol | None, typer.Option(help="Protocol of the data catalogue.")] = None,
    catalogue_host: Annotated[str | None, typer.Option(metavar="NAME", help="The data catalogue; empty for none.")] = None,
) -> Outcome:
    """Write settings of the portal into group_vars/all/ui.yml, after they were validated together with the whole inventory.

    What is not given stays. Giving a public host enables the portal. Contacts no host; deploy applies the settings.
    """
    import yaml
    from ansible.module_utils.common.dict_transformations import dict_merge

    from mipfed import inventory as inventories
    from mipfed import vault

    given: dict[str, Any] = {
        "enabled": enable if enable is not None or not public_host else True,
        "link": link,
        "public_protocol": public_protocol,
        "external_protocol": external_protocol,
        "public_host": public_host,
        "engine_address": engine_address,
        "authentication": authentication,
    }
    catalogue = {key: value for key, value in (("protocol", catalogue_protocol), ("host", catalogue_host)) if value is not None}
    wanted = {key: value.value if isinstance(value, StrEnum) else value for key, value in given.items() if value is not None}
    if catalogue:
        wanted["data_catalogue"] = {key: value.value if isinstance(value, StrEnum) else value for key, value in catalogue.items()}
    if not wanted:
        raise usage("ui configure: no setting is given.", next="mipfed ui configure --help")
    source = session.source
    path = source.folder / FILE
    before = _current(path)
    after: dict[str, Any] = dict_merge(before, wanted)
    password = vault.obtain(session.options.vault_password_file, source.name) if vault.is_encrypted(source.path) else None
    inventory = inventories.load(source, password=password)
    others = [place for place in inventories.where("mip_ui", source) if str(FILE) not in place]
    if others:
        raise configuration(f"mip_ui is set in {', '.join(others)}, too.", next=f"Move it into {paths.shown(path)}")
    inventory.variables = {name: {**values, "mip_ui": after} for name, values in inventory.variables.items()}
    resolved = inventories.resolve(inventory)
    changed = before != after
    if changed and not session.options.check:
        path.parent.mkdir(parents=True, exist_ok=True)
        paths.collection_module("plugin_utils._images").write(
            path, _HEAD + yaml.safe_dump({"mip_ui": after}, sort_keys=False, allow_unicode=True)
        )
    result = {"file": str(path), "changed": changed, "before": before, "after": after, "enabled": bool(resolved["ui"]["enabled"])}

    def text(out: Any) -> None:
        out.print(
            f"{'Would write' if session.options.check else 'Wrote'} {paths.shown(path)}." if changed else "Nothing to change.", markup=False
        )

    return Outcome(result=result, text=text, next=session.call("deploy") if changed and not session.options.check else "")


@command(ui_app, "audit", REMOTE, group="ui")
def ui_audit(
    session: Session,
    since: Annotated[str, typer.Option(metavar="TIME", help="Only what ended then or later, as 2026-11-22.")] = "",
) -> Outcome:
    """List who ran which algorithm on which datasets. Changes nothing."""
    from mipfed import ui_reports

    variables = {"ui_experiments_state": "listed", "ui_experiments_since": since}
    return session.report(
        session.play("hbp.mip.ui_experiments", session.prepare(), variables=variables), "experiments", ui_reports.experiments
    )


@command(ui_app, "restore", (*REMOTE, "check"), group="ui")
def ui_restore(
    session: Session,
    file: SetFile,
    identity: KeyFile = None,
    force: Annotated[
        bool, typer.Option("--force", help="Restore it again, although the database came out of this backup already.")
    ] = False,
) -> Outcome:
    """Put the database of a backup in place of the portal's: experiments and users are as they were then. Asks first.

    The database of now is kept under another name on its server. A backup of a newer portal is refused.
    """
    from mipfed import recovery

    return recovery.portal(session, file, identity, force=force)


@command(experiments_app, "purge", (*REMOTE, "check"), group="ui experiments")
def experiments_purge(
    session: Session,
    pathology: Annotated[list[str] | None, typer.Option(metavar="CODE", help="Experiments of this one; may be repeated.")] = None,
    keep: Annotated[list[str] | None, typer.Option(metavar="CODE", help="Experiments of all but this one; may be repeated.")] = None,
) -> Outcome:
    """Remove experiments of pathologies from the portal's database.

    Shows them first and asks. The database is written into a dump on the ui node before.
    """
    from mipfed import render, ui_reports

    if bool(pathology) == bool(keep):
        raise usage("ui experiments purge: give either --pathology or --keep.")
    variables = {"ui_experiments_state": "purged", "ui_experiments_pathologies": pathology or [], "ui_experiments_keep": keep or []}
    prepared = session.prepare()
    planned = session.play("hbp.mip.ui_experiments", prepared, check=True, variables=variables)
    planned = session.report(planned, "experiments", ui_reports.experiments)
    found = (planned.result or {}).get("experiments") or []
    if session.options.check or planned.exit_code is not ExitCode.OK or not found:
        return planned
    shown = [f"  {entry.get('created', '')[:19]}  {entry.get('who')}  {entry.get('pathology')}  {entry.get('name')}" for entry in found]
    if session.options.yes:
        for line in shown:
            render.line(line)
    session.confirm("\n".join(["These experiments are removed:", *shown]), f"Remove {len(found)} experiments?")
    outcome = session.play("hbp.mip.ui_experiments", prepared, variables=variables)
    return session.report(outcome, "experiments", ui_reports.experiments)
