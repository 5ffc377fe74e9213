# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the shell offers for names: read from the inventory files as they stand, without Ansible, which takes a second to start."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import typer

from mipfed import paths

_KINDS = ("master", "ui", "workers")


def federations(incomplete: str) -> list[str]:
    """Return the federations of the project that begin with what was typed."""
    return [name for name in paths.federations(paths.project_root()) if name.startswith(incomplete)]


def nodes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the nodes of the chosen federation that begin with what was typed, without those that stand there already."""
    return _offered(ctx, incomplete, _KINDS)


def members(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the same of the nodes that are in the swarm."""
    return _offered(ctx, incomplete, ("master", "workers"))


def workers(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the same of the hospitals' nodes."""
    return _offered(ctx, incomplete, ("workers",))


def _offered(ctx: typer.Context, incomplete: str, kinds: Collection[str]) -> list[str]:
    given = {name for value in ctx.params.values() if isinstance(value, (list, tuple)) for name in value}
    return [name for name in node_names(_inventory(ctx), kinds) if name.startswith(incomplete) and name not in given]


def limits(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return what the last part of a pattern for `--limit` may become: nodes and groups."""
    done, comma, last = incomplete.rpartition(",")
    names = [*node_names(_inventory(ctx)), *_KINDS]
    return [f"{done}{comma}{name}" for name in names if name.startswith(last)]


def _inventory(ctx: typer.Context) -> Path | None:
    """Return the main file of the inventory that the command line names so far."""
    root = ctx.find_root()

    def option(name: str) -> Any:
        return ctx.params.get(name) or root.params.get(name)

    if path := option("inventory"):
        path = Path(path).expanduser()
        return paths.hosts_file(path) if path.is_dir() else path
    project = paths.project_root()
    known = paths.federations(project)
    name = option("federation") or os.environ.get("MIPFED_FEDERATION") or (known[0] if len(known) == 1 else "")
    return paths.hosts_file(project / "inventories" / name) if name in known else None


def node_names(path: Path | None, kinds: Collection[str] = _KINDS) -> list[str]:
    """Return the nodes of an inventory file in its order; none when it cannot be read: a completion never complains.

    :arg kinds: the groups whose nodes are returned.
    """
    if path is None:
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    read = _from_ini if path.suffix == ".ini" or re.search(r"^\s*\[", text, re.MULTILINE) else _from_yaml
    found = read(text, kinds)
    return list(dict.fromkeys(found))


def _from_ini(text: str, kinds: Collection[str]) -> Iterator[str]:
    group = ""
    for line in text.splitlines():
        if section := re.match(r"\s*\[([^\]]+)\]", line):
            group = section.group(1)
        elif group in kinds and (host := re.match(r"\s*([a-z][\w-]*)", line)):
            yield host.group(1)


def _from_yaml(text: str, kinds: Collection[str]) -> Iterator[str]:
    import yaml

    class Loader(yaml.SafeLoader):
        """Takes values with tags, such as !vault, as nothing."""

    Loader.add_constructor(None, lambda _loader, _node: None)
    try:
        data = yaml.load(text, Loader=Loader)  # noqa: S506 - a safe loader that knows fewer tags, not more
    except yaml.YAMLError:
        return
    yield from _of_groups(data, kinds)


def _of_groups(groups: Any, kinds: Collection[str]) -> Iterator[str]:
    if not isinstance(groups, dict):
        return
    for name, group in groups.items():
        if not isinstance(group, dict):
            continue
        if name in kinds and isinstance(group.get("hosts"), dict):
            yield from (str(host) for host in group["hosts"])
        yield from _of_groups(group.get("children"), kinds)
