# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The label file of a federation, `labels.yml` beside its inventory: read, checked, asked for, written.

    pathologies: {CODE: label}
    datasets: {PATHOLOGY: {CODE: label}}

A consolidation records every label in use there, so that a hospital that is away for a day keeps those of its datasets.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
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
LONGEST = 200
_KEYS = ("pathologies", "datasets")
_NEW = """\
# Labels of pathologies and datasets, as the portal shows them. What is written here goes before what the metadata say.
# pathologies: {CODE: label}
# datasets: {PATHOLOGY: {CODE: label}}
"""


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


def _yaml() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 4096
    return yaml


def wrong_label(text: Any) -> str:
    """Return why something is no label; empty when it is one."""
    if not isinstance(text, str):
        return f"a label is text; put {text!r} into quotes" if isinstance(text, (bool, int, float)) else "a label is text"
    if not text.strip():
        return "a label is not empty"
    if re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", text):
        return "a label is one line without control characters"
    return f"a label has at most {LONGEST} characters" if len(text) > LONGEST else ""


def load(file: Path) -> Any:
    """Read a label file with its comments; an absent or empty one is an empty mapping.

    :raises MipfedError: CONFIGURATION with everything that is wrong: file, line, column, why.
    """
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    def refused(message: str, line: int = 0, column: int = 0) -> Problem:
        place = f"{paths.shown(file)}{f':{line}:{column}' if line else ''}"
        return Problem("configuration", f"{place}: {message}", next=f"Correct {paths.shown(file)}")

    def give_up(*found: Problem) -> MipfedError:
        return MipfedError(ExitCode.CONFIGURATION, list(found))

    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return CommentedMap()
    except OSError as error:
        raise give_up(refused(f"cannot be read: {error.strerror}")) from None
    except UnicodeDecodeError as error:
        raise give_up(refused(f"is not UTF-8 (byte {error.start})")) from None
    try:
        data = _yaml().load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        why = " ".join(str(part) for part in (error.context, error.problem) if part) or "is no YAML"
        raise give_up(refused(why.split("\n")[0], mark.line + 1 if mark else 0, mark.column + 1 if mark else 0)) from None
    except YAMLError as error:
        raise give_up(refused(str(error).strip().split("\n")[0] or "is no YAML")) from None
    if data is None:
        # Comments alone; ruamel gives nothing to keep them with.
        data = CommentedMap()
        data.yaml_set_start_comment("\n".join(line.removeprefix("#").removeprefix(" ") for line in text.strip().splitlines()))
        return data
    problems: list[Problem] = []

    def each(value: Any, where: str, line: int, column: int) -> list[tuple[str, Any, int, int]]:
        """Return key, value, line and column of a mapping's entries."""
        if value is None:
            return []
        if not isinstance(value, CommentedMap):
            problems.append(refused(f"{where}expected names with labels, not {_kind(value)}", line, column))
            return []
        found = []
        for key in value:
            at = (value.lc.key(key)[0] + 1, value.lc.key(key)[1] + 1) if key in (value.lc.data or {}) else (line, column)
            if not isinstance(key, str):
                problems.append(refused(f"{where}the name {key!r} is not text; put it into quotes", *at))
            else:
                found.append((key, value[key], *at))
        return found

    def label(value: Any, where: str, line: int, column: int) -> None:
        if why := wrong_label(value):
            problems.append(refused(f"{where}: {why}", line, column))

    for section, content, line, column in each(data, "", 1, 1):
        if section not in _KEYS:
            problems.append(refused(f"unknown key {section!r}; known: {', '.join(_KEYS)}", line, column))
            continue
        for name, inner, *at in each(content, f"{section}: ", line, column):
            if section == "pathologies":
                label(inner, f"{section}.{name}", *at)
            else:
                for code, text_, *place in each(inner, f"{section}.{name}: ", *at):
                    label(text_, f"{section}.{name}.{code}", *place)
    if problems:
        raise give_up(*problems)
    return data


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else "a text" if isinstance(value, str) else f"{value!r}"


def known(file: Path) -> tuple[list[str], dict[str, list[str]]]:
    """Return the pathologies that a label file names, and their datasets.

    :raises MipfedError: CONFIGURATION, as `load`.
    """
    data = load(file)
    datasets = {str(name): [str(code) for code in codes or ()] for name, codes in (data.get("datasets") or {}).items()}
    return sorted({*(str(name) for name in data.get("pathologies") or ()), *datasets}), datasets


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
    stream = io.StringIO()
    _yaml().dump([text], stream)
    return stream.getvalue().strip().removeprefix("- ")


def write(file: Path, labels: Mapping[Key, str]) -> bool:
    """Put labels into the file; everything else in it, comments too, stays. Written beside and renamed.

    :returns: whether the file was written.
    :raises MipfedError: CONFIGURATION, as `load`; FAILED when it cannot be written.
    """
    if not labels:
        return False
    data = load(file)
    if not data and not file.exists():
        data.yaml_set_start_comment("\n".join(line.removeprefix("# ") for line in _NEW.strip().splitlines()))
    for key, text in labels.items():
        section = "datasets" if key.dataset else "pathologies"
        target = data[section] if data.get(section) is not None else data.setdefault(section, {})
        if target is None:
            target = data[section] = {}
        if key.dataset:
            if target.get(key.pathology) is None:
                target[key.pathology] = {}
            target[key.pathology][key.dataset] = text
        else:
            target[key.pathology] = text
    stream = io.StringIO()
    _yaml().dump(data, stream)
    paths.write_atomically(file, stream.getvalue())
    return True
