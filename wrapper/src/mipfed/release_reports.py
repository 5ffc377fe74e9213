# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `image …`, `upgrade`, `rollback` and `release …` show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mipfed import paths
from mipfed.data_reports import entries, mapping
from mipfed.exitcodes import ExitCode
from mipfed.render import rows
from mipfed.reports import coloured_as

if TYPE_CHECKING:
    from rich.console import Console

    from mipfed.outcome import Outcome
    from mipfed.session import Session


def reported(
    session: Session, outcome: Outcome, verb: str, show: Callable[[Console, Mapping[str, Any]], None], *, following: str = ""
) -> Outcome:
    """Make the report that a playbook handed over the result of a command. A run that failed before it has none."""
    data = outcome.done.collector.reports.get(verb) if outcome.done else None
    outcome.result = data
    if isinstance(data, Mapping):
        found = data
        outcome.text = lambda out: show(out, found)
        if outcome.exit_code is ExitCode.OK and following:
            outcome.next = session.call(following)
    return outcome


def size(count: Any) -> str:
    """Return a number of bytes as people read it."""
    value = float(count or 0)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def short(digest: Any) -> str:
    """Return the beginning of a digest."""
    return str(digest or "").removeprefix("sha256:")[:12]


def image_lock(out: Console, data: Mapping[str, Any]) -> None:
    """Write what images.lock pins."""
    content = []
    for image in entries(data.get("images")):
        before, now = image.get("before"), image.get("digest")
        state = "unchanged" if before == now else "moved" if before else "new"
        content.append(
            (
                image.get("name"),
                image.get("reference"),
                coloured_as("ok" if state == "unchanged" else "changed", f"{short(before)} → {short(now)}" if state == "moved" else state),
                str(now),
                size(image.get("size")),
                ", ".join(image.get("platforms") or ()),
                image.get("locked_from"),
            )
        )
    rows(out, ("image", "reference", "state", "digest", "size", "platforms", "asked from"), content)
    path = paths.shown(Path(str(data.get("file"))))
    out.print(f"{path}: {'written' if data.get('changed') else 'unchanged'}.", markup=False)


def saved(out: Console, data: Mapping[str, Any]) -> None:
    """Write what is in a bundle."""
    files = entries(data.get("artefacts"))
    rows(
        out,
        ("file", "size", "sha256", "image"),
        ((file.get("file"), size(file.get("size")), short(file.get("sha256")), file.get("reference", "")) for file in files),
    )
    total = size(sum(int(file.get("size") or 0) for file in files))
    done = "Saved" if data.get("changed") else "Already there, and complete"
    out.print(f"{done}: {paths.shown(Path(str(data.get('path'))))}, {total}, signed with {data.get('fingerprint')}.", markup=False)


def image_load(out: Console, data: Mapping[str, Any]) -> None:
    """Write which node got which image."""
    content = []
    for name, entry in mapping(data.get("nodes")).items():
        state = "failed" if entry.get("error") else "changed" if entry.get("loaded") else "ok"
        loaded = ", ".join(entry.get("loaded") or ()) or "nothing, it has all"
        content.append((name, coloured_as(state, state), entry.get("error") or loaded))
    rows(out, ("node", "state", "loaded"), content)
    more = f"; {paths.shown(Path(str(data.get('file'))))} has its images now" if data.get("locked") else ""
    out.print(f"Signed by {data.get('signed_by')}{more}.", markup=False)


def releases(out: Console, found: Sequence[Mapping[str, Any]]) -> None:
    """Write the releases, the newest first."""
    content = []
    for record in found:
        images = mapping(record.get("images"))
        named = ((name, str(entry.get("reference")).rpartition("/")[2], short(entry.get("digest"))) for name, entry in images.items())
        shown = ", ".join(f"{name} {reference}@{digest}" for name, reference, digest in named)
        made = f"{record.get('made_by')}{' of ' + str(record['of_release']) if record.get('of_release') else ''}"
        content.append((record.get("release"), record.get("at"), made, record.get("who"), record.get("collection"), shown))
    rows(out, ("release", "at", "made by", "who", "hbp.mip", "images"), content)


def upgraded(out: Console, data: Mapping[str, Any]) -> None:
    """Write what runs after an upgrade or a rollback."""
    rows(
        out,
        ("image", "reference", "digest"),
        ((name, entry.get("reference"), str(entry.get("digest"))) for name, entry in mapping(data.get("images")).items()),
    )
    out.print(f"Release {data.get('release')}{'' if data.get('new') else ', as before: nothing to do'}.", markup=False)
