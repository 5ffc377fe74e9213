# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands `mipfed upgrade`, `rollback` and `release …`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mipfed import completion, paths
from mipfed.errors import MipfedError, Problem, configuration, pair, usage
from mipfed.exitcodes import ExitCode
from mipfed.options import OFFLINE, REMOTE, command, new_application
from mipfed.outcome import Outcome
from mipfed.session import Session

if TYPE_CHECKING:
    from mipfed.session import Prepared

release_app = new_application("What a federation ran, release by release.")

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="IMAGE=REPOSITORY:TAG", help="engine, keystore or portainer; may be repeated.", show_default=False),
]
Canary = Annotated[
    str,
    typer.Option(
        metavar="NODE",
        help="The worker that comes first; by default the inventory's first.",
        show_default=False,
        autocompletion=completion.workers,
    ),
]
NoBackup = Annotated[bool, typer.Option("--no-backup", help="Do not make a backup first.")]
IgnoreCheck = Annotated[
    list[str] | None,
    typer.Option("--ignore-check", metavar="CODE", help="Go on in spite of this problem, named by the code in brackets; may be repeated."),
]


def _module() -> Any:
    return paths.collection_module("plugin_utils._releases")


def _record(session: Session, number: int) -> dict[str, Any]:
    module = _module()
    try:
        record: dict[str, Any] = module.load(session.source.folder, number)
    except module.ReleaseError as error:
        raise configuration(f"{session.source.name}: {error}.", next=session.call("release ls")) from None
    return record


def _workers(prepared: Prepared) -> list[str]:
    return [str(node["name"]) for node in prepared.resolved["nodes"] if node["kind"] == "worker"]


def _run(
    session: Session,
    prepared: Prepared,
    verb: str,
    *,
    images: Mapping[str, str],
    release: int,
    canary: str,
    backup: bool,
    ignore_check: Sequence[str],
) -> Outcome:
    from mipfed import release_reports, reports

    workers = _workers(prepared)
    if canary and canary not in workers:
        raise MipfedError(
            ExitCode.NO_HOSTS, f"--canary: {session.source.name} has no worker {canary}.", next=f"Workers: {', '.join(workers)}"
        )
    check = session.options.check
    if backup and not check and (prepared.resolved.get("backup") or {}).get("recipients"):
        from mipfed import recovery

        made = recovery.create(session)
        if made.exit_code is not ExitCode.OK:
            made.errors.append(Problem("backup", "There is no backup, so nothing was changed.", next=session.again() + " --no-backup"))
            return made
    variables = {
        "upgrade_set": dict(images),
        "upgrade_release": release,
        "upgrade_first": canary,
        "upgrade_verb": verb,
        # One goes back because something does not work; only what comes out of it can be asked whether it does.
        "upgrade_gate_each": verb == "upgrade",
        "check_ignore": list(ignore_check),
    }
    outcome = session.play(
        "hbp.mip.upgrade", prepared, check=check, diff=check or session.options.diff, variables=variables, following=session.again()
    )
    assert outcome.done
    collector = outcome.done.collector
    if check:
        changes = [change.as_dict(with_diff=session.options.diff) for change in collector.changes]
        outcome.result = {"changes": changes}
        if changes or outcome.exit_code is ExitCode.OK:
            outcome.text = lambda out: reports.changes(out, collector, with_diff=session.options.diff)
        return outcome
    return release_reports.reported(session, outcome, "release", release_reports.upgraded, following="verify")


def _wanted(texts: Sequence[str]) -> dict[str, str]:
    """Return the images of `--set`, by what they are for."""
    found: dict[str, str] = {}
    for text in texts:
        name, reference = pair(text, "--set", "IMAGE=REPOSITORY:TAG", "engine=hbpmip/exareme:24.5.1")
        known = sorted(paths.collection_module("plugin_utils._images").VARIABLES)
        if name not in known:
            raise usage(f"--set {text}: there is no image {name}; there are {', '.join(known)}.")
        if name in found:
            raise usage(f"--set: {name} is given twice.")
        found[name] = reference
    return found


def register(app: typer.Typer) -> None:
    """Add the commands that stand beside `deploy`."""

    @command(app, "upgrade", (*REMOTE, "check", "diff"))
    def upgrade(
        session: Session,
        set_: Set = None,
        to: Annotated[int, typer.Option(metavar="RELEASE", help="The images of this release.", show_default=False)] = 0,
        canary: Canary = "",
        no_backup: NoBackup = False,
        ignore_check: IgnoreCheck = None,
    ) -> Outcome:
        """Give the federation other images, one service after the other.

        Makes a backup if backups are set up, looks whether the images can be had and the nodes are fit, and fetches the images
        everywhere. One worker is the canary; after each step the engine's API has to answer as before. A step that fails is taken
        back, and the upgrade stops. Inventory and images.lock name the new images only after all went well. --check shows it all.
        """
        images = _wanted(set_ or ())
        if bool(images) == bool(to):
            raise usage("Give either --set IMAGE=REPOSITORY:TAG or --to RELEASE.", next=session.call("release ls"))
        if to:
            _record(session, to)
        session.arguments = [*(part for text in set_ or () for part in ("--set", text)), *(["--to", str(to)] if to else [])]
        prepared = session.prepare()
        if not session.options.check:
            lines = [f"Federation {session.source.name}:"]
            lines += [f"  {name:<10} → {reference}" for name, reference in images.items()]
            lines += [f"  the images of release {to}"] if to else []
            lines += ["Each worker is without its engine for some seconds, one after the other; then the API, while the master changes."]
            session.confirm("\n".join(lines), f"Upgrade {len(_workers(prepared))} workers and the master?")
        return _run(
            session,
            prepared,
            "upgrade",
            images=images,
            release=to,
            canary=canary,
            backup=not no_backup,
            ignore_check=ignore_check or (),
        )

    @command(app, "rollback", (*REMOTE, "check", "diff"))
    def rollback(
        session: Session,
        release: Annotated[
            int, typer.Argument(metavar="[RELEASE]", help="By default the last one with other images.", show_default=False)
        ] = 0,
        canary: Canary = "",
        no_backup: NoBackup = False,
        ignore_check: IgnoreCheck = None,
    ) -> Outcome:
        """Go back to the images of an earlier release.

        They are the same to the byte: digests count, not tags. Refused before anything is touched when an image is neither in its
        registry any more nor on every node that needs it. Data that a newer keystore has written is not taken back.
        """
        module = _module()
        try:
            chosen = release or module.before(session.source.folder)
        except module.ReleaseError as error:
            raise configuration(str(error), next=session.call("release ls")) from None
        if not chosen:
            raise configuration(f"{session.source.name} has no earlier release with other images.", next=session.call("release ls"))
        record = _record(session, chosen)
        session.arguments = [str(chosen)]
        prepared = session.prepare()
        if not session.options.check:
            lines = [f"Federation {session.source.name}, back to release {chosen} of {record.get('at')}:"]
            lines += [f"  {name:<10} → {entry.get('reference')}@{entry.get('digest')}" for name, entry in record["images"].items()]
            session.confirm("\n".join(lines), f"Go back to release {chosen}?")
        return _run(
            session,
            prepared,
            "rollback",
            images={},
            release=chosen,
            canary=canary,
            backup=not no_backup,
            ignore_check=ignore_check or (),
        )


@command(release_app, "ls", OFFLINE, group="release")
def release_ls(session: Session) -> Outcome:
    """List what the federation ran, the newest first. Contacts no host."""
    from mipfed import release_reports

    module = _module()
    found, wrong = [], []
    for number in reversed(module.numbers(session.source.folder)):
        try:
            found.append(module.load(session.source.folder, number))
        except module.ReleaseError as error:
            wrong.append(Problem("release", str(error)))
    shown = [{key: value for key, value in record.items() if key != "services"} for record in found]
    return Outcome(
        result={"releases": shown},
        exit_code=ExitCode.CONFIGURATION if wrong else ExitCode.OK,
        errors=wrong,
        text=lambda out: release_reports.releases(out, found) if found else out.print("There is no release yet.", markup=False),
    )


@command(release_app, "show", OFFLINE, group="release")
def release_show(
    session: Session,
    release: Annotated[int, typer.Argument(metavar="[RELEASE]", help="By default the last one.", show_default=False)] = 0,
) -> Outcome:
    """Show one release: images with digests, services with the hashes of their specifications. Contacts no host."""
    known = _module().numbers(session.source.folder)
    if not known:
        raise configuration(f"{session.source.name} has no release yet.", next=session.call("deploy"))
    record = _record(session, release or known[-1])

    def text(out: Any) -> None:
        import yaml

        out.print(yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=140).rstrip(), markup=False)

    return Outcome(result=record, text=text)


@command(release_app, "lock", (*OFFLINE, "check"), group="release")
def release_lock(
    session: Session,
    wheel: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also pin this wheel of mipfed by its hash.", show_default=False)
    ] = None,
) -> Outcome:
    """Pin all that a deploy is made from, in federation.lock.

    Images by digest, Python and its packages, collections, and mipfed with hbp.mip by a hash over their files. --check compares what is
    installed here with the file, and ends with 4 where it differs. Contacts no host.
    """
    from mipfed import federation_lock, inventory

    resolved = inventory.resolve(inventory.load(session.source))
    path = session.source.folder / federation_lock.FILE
    if wheel is not None and not wheel.expanduser().is_file():
        raise usage(f"--wheel: {wheel} does not exist.")
    if session.options.check:
        differences = federation_lock.differences(federation_lock.read(path), federation_lock.current(resolved, wheel))
        problems = [Problem("lock", text, next=session.call("release lock")) for text in differences]
        return Outcome(
            result={"file": str(path), "differences": differences},
            exit_code=ExitCode.CHECK if differences else ExitCode.OK,
            errors=problems,
            text=lambda out: out.print(f"{paths.shown(path)}: all of it is what is here." if not differences else "", markup=False),
        )
    if not resolved["images"]["locked"]:
        raise configuration(f"There is no {paths.shown(Path(resolved['images']['file']))}.", next=session.call("image lock"))
    document = federation_lock.current(resolved, wheel)
    changed = federation_lock.write(path, document)

    def text(out: Any) -> None:
        out.print(f"{paths.shown(path)}: {'written' if changed else 'unchanged'}.", markup=False)
        out.print(f"{len(document['images'])} images, {len(document['packages'])} packages, {len(document['collections'])} collections.")

    return Outcome(result={"file": str(path), "changed": changed, "lock": document}, text=text)
