#!/usr/bin/python

# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_seed
short_description: Put synthetic data on a lab's machines
version_added: 0.1.0
description:
  - Makes Common Data Elements, CSV files and databases for a master and some hospitals. All values are synthetic and come from a seed.
  - A hospital gets the CDEs, the CSV files and the database of each of its pathologies. The master gets the CDEs of all pathologies, and
    databases without rows.
  - Most datasets have 300 to 1000 rows. One has fewer than 10, about which an engine must not tell anything.
  - A file that this module did not write, or that was changed since, is left alone.
author:
  - The hbp.mip authors (@HBPMedical)
attributes:
  check_mode:
    support: full
    description: Nothing is written.
  diff_mode:
    support: full
    description: Shows which files are written and removed. Their content is long, so it is not shown.
  idempotent:
    support: full
    description: Files whose content is right are not written, and not even calculated.
options:
  nodes:
    description: The machines.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name, for messages and results.
        type: str
        required: true
      kind:
        description: What the machine is.
        type: str
        choices: [master, worker]
        required: true
      root:
        description: The machine's root directory, as a path on this host.
        type: path
        required: true
      hospital:
        description: Number of the hospital, which its data depend on. The default is the worker's place among O(nodes), from 1.
        type: int
  data_dir:
    description: The data folder, as a path in the machines.
    type: path
    required: true
  pathologies:
    description: Which pathologies there are.
    type: list
    elements: str
    choices: [dementia, mentalhealth]
    default: [dementia, mentalhealth]
  seed:
    description: Another seed gives other data.
    type: int
    default: 1
  databases:
    description: Whether to make databases as well. If not, those that this module made are left alone.
    type: bool
    default: true
  record:
    description: File in which the module keeps what it wrote.
    type: path
    required: true
  force:
    description: Replace files that this module did not write, or that were changed since.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Put data on the machines
  hbp.mip.lab_seed:
    data_dir: /data/lab
    record: /var/lib/mip-lab/lab/seed.json
    nodes:
      - {name: lab-ms, kind: master, root: /var/lib/mip-lab/lab/machines/lab-ms/root}
      - {name: lab-wk-1, kind: worker, root: /var/lib/mip-lab/lab/machines/lab-wk-1/root}
"""

RETURN = r"""
datasets:
  description: Codes and numbers of rows of all datasets, by machine and pathology. The master has every pathology, without datasets.
  returned: always
  type: dict
written:
  description: Files that were written, or would be, as C(machine:path).
  returned: always
  type: list
  elements: str
removed:
  description: Files of earlier runs that do not belong to the data any more and were removed, or would be.
  returned: always
  type: list
  elements: str
kept:
  description: Files that are different from what they should be, but were not written by this module, and so were left alone.
  returned: always
  type: list
  elements: str
"""

import contextlib
import hashlib
import json
import os
import sqlite3
import stat
import tempfile
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils._lab_seed import (
    GENERATOR,
    PATHOLOGIES,
    Dataset,
    metadata,
    plan,
    table,
    write_database,
)


class SeedError(Exception):
    """Data cannot be put on a machine: says which, where and why."""


class Wanted(NamedTuple):
    """One file: where it goes, what its content depends on, and how to write it to a new path."""

    node: str
    root: str
    path: str
    source: str
    write: Callable[[str], None]

    @property
    def full(self) -> str:
        """The path on this host."""
        return os.path.join(self.root, self.path)


def digest(path: str) -> Optional[str]:
    """Return the hash of a file, None if there is none."""
    found = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            for part in iter(lambda: file.read(1 << 20), b""):
                found.update(part)
    except FileNotFoundError:
        return None
    return found.hexdigest()


def save(path: str, content: bytes) -> None:
    """Write a new file."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), 0o640)


def check_path(node: str, root: str, path: str) -> None:
    """Raise SeedError when a link or a file lies on the way: a link in a machine may lead out of it on this host."""
    if not os.path.isdir(root):
        raise SeedError(f"{node}: its root {root} does not exist. Make the machine first")
    current = root
    for part in path.split("/"):
        current = os.path.join(current, part)
        try:
            mode = os.lstat(current).st_mode
        except FileNotFoundError:
            return
        last = current == os.path.join(root, path)
        if stat.S_ISLNK(mode) or (not last and not stat.S_ISDIR(mode)) or (last and not stat.S_ISREG(mode)):
            raise SeedError(f"{node}: {current} is not a plain {'file' if last else 'directory'}. Remove it")


def wanted_files(nodes: List[Dict[str, Any]], data_dir: str, datasets: List[Dataset], seed: int, databases: bool) -> List[Wanted]:
    """Return all files of all machines."""
    files = []
    for node in nodes:
        is_master = node["kind"] == "master"
        for pathology in PATHOLOGIES:
            all_of_it = [dataset for dataset in datasets if dataset.pathology == pathology]
            held = [] if is_master else [dataset for dataset in all_of_it if dataset.hospital == node["hospital"]]
            if not all_of_it or not (held or is_master):
                continue
            folder = f"{data_dir.strip('/')}/{pathology}"

            def add(name: str, depends: Any, write: Callable[[str], None], folder: str = folder, node: Dict[str, Any] = node) -> None:
                source = hashlib.sha256(json.dumps([GENERATOR, seed, name, depends]).encode()).hexdigest()
                files.append(Wanted(node["name"], node["root"], f"{folder}/{name}", source, write))

            def write_metadata(path: str, pathology: str = pathology) -> None:
                save(path, metadata(pathology, datasets))

            def write_tables(path: str, pathology: str = pathology, held: Tuple[Dataset, ...] = tuple(held)) -> None:
                write_database(path, pathology, datasets, list(held), seed)

            add("CDEsMetadata.json", all_of_it, write_metadata)
            for dataset in held:

                def write_table(path: str, dataset: Dataset = dataset) -> None:
                    save(path, table(dataset, seed))

                add(f"{dataset.code}.csv", dataset, write_table)
            if databases:
                add("datasets.db", [all_of_it, held], write_tables)
    return files


class Seeder:
    """Brings files to what they should be, and remembers which ones are its own."""

    def __init__(self, record: str, force: bool, check_mode: bool) -> None:
        """Read what earlier runs wrote. Raises SeedError."""
        self.record = record
        self.force = force
        self.check_mode = check_mode
        self.own: Dict[str, Dict[str, str]] = {}
        self.written: List[str] = []
        self.removed: List[str] = []
        self.kept: List[str] = []
        try:
            with open(record) as file:
                self.own = json.load(file)["files"]
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError) as error:
            raise SeedError(f"{record} is damaged: {error!r}. Remove it, and run again with force: true") from None

    def remember(self) -> None:
        """Write what is this module's own."""
        os.makedirs(os.path.dirname(self.record), exist_ok=True)
        handle, new = tempfile.mkstemp(prefix=".seed-", dir=os.path.dirname(self.record))
        with os.fdopen(handle, "w") as file:
            json.dump({"files": self.own}, file, indent=1, sort_keys=True)
        os.replace(new, self.record)

    def put(self, wanted: Wanted) -> None:
        """Write one file if it is missing or not up to date. Raises SeedError, OSError, sqlite3.Error."""
        # In check mode the machine itself may still have to be made.
        if os.path.isdir(wanted.root) or not self.check_mode:
            check_path(wanted.node, wanted.root, wanted.path)
        label, full = f"{wanted.node}:/{wanted.path}", wanted.full
        known, found = self.own.get(full), digest(full)
        own = known is not None and found == known["sha256"]
        if own and known is not None and known["source"] == wanted.source:
            return
        if self.check_mode and (found is None or own or self.force):
            self.written.append(label)
            return
        scratch = tempfile.mkdtemp(prefix="seed-") if self.check_mode else self._folder(os.path.dirname(full))
        # Beside the file, so that it can take its place at once; no engine reads a file of this name.
        new = os.path.join(scratch, f".{os.path.basename(full)}.new")
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)
            wanted.write(new)
            digest_new = str(digest(new))
            if found == digest_new:
                # Right already: an earlier run was cut off before it could take note.
                self.own[full] = {"sha256": digest_new, "source": wanted.source}
                return
            if found is not None and not own and not self.force:
                self.kept.append(label)
                return
            os.replace(new, full)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)
            if self.check_mode:
                os.rmdir(scratch)
        self.own[full] = {"sha256": digest_new, "source": wanted.source}
        self.written.append(label)

    @staticmethod
    def _folder(folder: str) -> str:
        """Make a folder and those above it, readable by all: the files are what is protected. Returns it."""
        missing, current = [], folder
        while not os.path.isdir(current):
            missing.append(current)
            current = os.path.dirname(current)
        for path in reversed(missing):
            os.mkdir(path)
            os.chmod(path, 0o755)  # noqa: S103 - whatever the umask
        return folder

    def clean(self, nodes: List[Dict[str, Any]], wanted: List[Wanted], databases: bool) -> None:
        """Remove own files that are not wanted any more, and forget those that are gone. Raises OSError."""
        keep = {item.full for item in wanted}
        roots = {node["root"]: node["name"] for node in nodes}
        for full in sorted(set(self.own) - keep):
            root = next((root for root in roots if full.startswith(root + "/")), None)
            found = digest(full)
            if found is None:
                del self.own[full]
            elif root is not None and (databases or not full.endswith("/datasets.db")) and found == self.own[full]["sha256"]:
                self.removed.append(f"{roots[root]}:{full[len(root) :]}")
                if not self.check_mode:
                    os.unlink(full)
                    del self.own[full]
                    # A pathology folder without a database stops an engine.
                    with contextlib.suppress(OSError):
                        os.rmdir(os.path.dirname(full))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "nodes": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "kind": {"type": "str", "choices": ["master", "worker"], "required": True},
                    "root": {"type": "path", "required": True},
                    "hospital": {"type": "int"},
                },
            },
            "data_dir": {"type": "path", "required": True},
            "pathologies": {
                "type": "list",
                "elements": "str",
                "choices": ["dementia", "mentalhealth"],
                "default": ["dementia", "mentalhealth"],
            },
            "seed": {"type": "int", "default": 1, "no_log": False},
            "databases": {"type": "bool", "default": True},
            "record": {"type": "path", "required": True},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    nodes: List[Dict[str, Any]] = [dict(node) for node in params["nodes"]]
    workers = [node for node in nodes if node["kind"] == "worker"]
    for place, node in enumerate(workers, 1):
        node["hospital"] = node["hospital"] or place
    for node in nodes:
        node["root"] = os.path.abspath(node["root"])
    hospitals = sorted({node["hospital"] for node in workers})
    if len(hospitals) != len(workers) or any(number < 1 for number in hospitals):
        module.fail_json(msg="nodes: the workers' hospitals must be different numbers from 1. Set 'hospital' on all of them, or on none")
    datasets = plan(hospitals, params["pathologies"], params["seed"])
    files = wanted_files(nodes, params["data_dir"], datasets, params["seed"], params["databases"])
    try:
        seeder = Seeder(params["record"], params["force"], module.check_mode)
        try:
            for wanted in files:
                seeder.put(wanted)
            seeder.clean(nodes, files, params["databases"])
        finally:
            if not module.check_mode:
                seeder.remember()
    except SeedError as error:
        module.fail_json(msg=str(error))
    except (OSError, sqlite3.Error) as error:
        module.fail_json(msg=f"synthetic data could not be written: {error}")
    held: Dict[str, Dict[str, Dict[str, int]]] = {}
    for node in nodes:
        own = [dataset for dataset in datasets if dataset.hospital == node["hospital"] and node["kind"] == "worker"]
        names = params["pathologies"] if node["kind"] == "master" else list(dict.fromkeys(dataset.pathology for dataset in own))
        held[node["name"]] = {name: {dataset.code: dataset.rows for dataset in own if dataset.pathology == name} for name in names}
    for label in seeder.kept:
        module.warn(f"{label} was not written by this module, or was changed since, and is left alone. force: true replaces it")
    result: Dict[str, Any] = {
        "changed": bool(seeder.written or seeder.removed),
        "datasets": held,
        "written": seeder.written,
        "removed": seeder.removed,
        "kept": seeder.kept,
    }
    if module._diff:
        lines = [f"{label}: to be written\n" for label in seeder.written]
        result["diff"] = {"before": "".join(f"{label}: present\n" for label in seeder.removed), "after": "".join(lines)}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
