# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The label file of a federation, `labels.yml` beside its inventory: read, checked, asked for, written.

    pathologies: {CODE: label}
    datasets: {PATHOLOGY: {CODE: label}}

A consolidation records every label in use there, so that a hospital that is away for a day keeps those of its datasets.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mipfed import paths
from mipfed.errors import MipfedError, Problem
from mipfed.exitcodes import ExitCode
from mipfed.render import visible

if TYPE_CHECKING:
    from mipfed.inventory import Source

FILE = "labels.yml"


@dataclass(frozen=True)
class Key:
    """Something that has a label: a pathology, or with `dataset` one of its datasets."""

    pathology: str
    dataset: str
    label: str
    nodes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Where its label stands in the file."""
        return f"datasets.{self.pathology}.{self.dataset}" if self.dataset else f"pathologies.{self.pathology}"


def path(source: Source) -> Path:
    """Return the place of a federation's label file; it need not be there."""
    return source.folder / FILE


@contextlib.contextmanager
def _told(code: ExitCode, error: type[Exception]) -> Iterator[None]:
    """Turn what the collection says of the file into the command's errors."""
    try:
        yield
    except error as found:
        reasons: list[tuple[str, str]] = getattr(found, "problems", [(str(found), "")])
        name = code.name.lower()
        raise MipfedError(code, [Problem(name, message, next=fix[:1].upper() + fix[1:]) for message, fix in reasons]) from None


def _read(file: Path) -> Any:
    """Return the label file, read by the collection's own reader.

    :raises MipfedError: CONFIGURATION with everything that is wrong: file, line, column, why.
    """
    module = paths.collection_module("module_utils._labels")
    found = module.Labels(paths.shown(file))
    with _told(ExitCode.CONFIGURATION, module.FileError):
        found.read()
    return found


def known(file: Path) -> tuple[list[str], dict[str, list[str]]]:
    """Return the pathologies that a label file names, and their datasets.

    :raises MipfedError: CONFIGURATION with everything that is wrong: file, line, column, why.
    """
    found = _read(file).labels
    datasets = {name: list(codes) for name, codes in found["datasets"].items()}
    return sorted({*found["pathologies"], *datasets}), datasets


def keys(plan: Mapping[str, Any]) -> list[Key]:
    """Return what a plan has that wants a label: each pathology, followed by its datasets that stay or come."""
    found = []
    for name, entry in plan["pathologies"].items():
        found.append(Key(name, "", str(entry.get("label") or "")))
        for dataset in entry.get("datasets") or ():
            if dataset.get("state") != "removed":
                found.append(Key(name, str(dataset["code"]), str(dataset.get("label") or ""), tuple(dataset.get("nodes") or ())))
    return found


def ask(wanted: Sequence[Key], answer: Callable[[str], str]) -> dict[Key, str]:
    """Ask for every label; Enter keeps the one that is shown.

    :arg answer: shows a prompt and returns what was typed.
    :returns: the labels that are to change.
    """
    wrong_label = paths.collection_module("module_utils._consolidation").wrong_label
    given: dict[Key, str] = {}
    for key in wanted:
        nodes = f" ({', '.join(key.nodes)})" if key.nodes else ""
        what = f"  Label of dataset {key.dataset}{nodes}" if key.dataset else f"Label of pathology {key.pathology}"
        while True:
            text = answer(f"{visible(what)} [{visible(key.label)}]: ").strip()
            why = wrong_label(text) if text else ""
            if not why:
                break
            what = f"  {why[0].upper()}{why[1:]}. Again"
        if text and text != key.label:
            given[key] = text
    return given


def unanswered(file: Path, wanted: Sequence[Key], again: str) -> MipfedError:
    """Return the error for labels that cannot be asked for: it names the file to edit and shows the keys."""
    lines = ["pathologies:", *(f"  {_scalar(key.pathology)}: {_scalar(key.label)}" for key in wanted if not key.dataset), "datasets:"]
    for key in wanted:
        lines.append(f"    {_scalar(key.dataset)}: {_scalar(key.label)}" if key.dataset else f"  {_scalar(key.pathology)}:")
    message = f"There is no terminal to ask for labels on. Edit {paths.shown(file)} instead; the labels now are:\n" + "\n".join(lines)
    return MipfedError(ExitCode.DECLINED, message, next=f"Edit {paths.shown(file)}, then: {again}")


def _scalar(text: str) -> str:
    """Return a text as YAML on one line."""
    import yaml

    return yaml.safe_dump(text, allow_unicode=True, width=4096, default_style=None).removesuffix("\n...\n").strip()


def write(file: Path, labels: Mapping[Key, str]) -> bool:
    """Put labels into the file; everything else in it, comments too, stays. Written beside and renamed.

    :returns: whether the file was written.
    :raises MipfedError: CONFIGURATION when it cannot be read, FAILED when it cannot be written.
    """
    if not labels:
        return False
    found = _read(file)
    wanted: dict[str, dict[str, Any]] = {"pathologies": {}, "datasets": {}}
    for key, text in labels.items():
        if key.dataset:
            wanted["datasets"].setdefault(key.pathology, {})[key.dataset] = text
        else:
            wanted["pathologies"][key.pathology] = text
    module = paths.collection_module("module_utils._labels")
    with _told(ExitCode.FAILED, module.FileError):
        module.write(str(file), found.with_labels(wanted))
    return True
