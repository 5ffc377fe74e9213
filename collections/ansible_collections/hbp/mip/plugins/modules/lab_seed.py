#!/usr/bin/python

# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_seed
short_description: Put data on a lab's machines
version_added: 0.1.0
description:
  - Makes Common Data Elements, CSV files and databases for a master and some hospitals. All values are synthetic and come from a seed.
  - A hospital gets the CDEs, the CSV files and the database of each of its pathologies. The master gets the CDEs of all pathologies, and
    databases without rows.
  - Up to two pathologies are treated in every hospital. Of three, every hospital leaves out one, so that among three hospitals each
    pathology is at two of them, and no hospital has all.
  - Most datasets have 300 to 1000 rows. One has fewer than 10, about which an engine must not tell anything.
  - Instead of that, the files of a folder can be put on the machines, see O(source).
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
    description: Which synthetic pathologies there are.
    type: list
    elements: str
    choices: [dementia, mentalhealth, tbi]
    default: [dementia, mentalhealth, tbi]
  seed:
    description: Another seed gives other data.
    type: int
    default: 1
  source:
    description:
      - A folder on this host whose files are put on the machines in place of synthetic data. It has a folder for each pathology, with its
        C(CDEsMetadata.json) and CSV files; folders without any of these are not looked at.
      - The CSV files of all pathologies, in the order of their paths, are dealt to the hospitals in turn. A hospital gets the CDEs of a
        pathology of which it gets a CSV file, the master gets the CDEs of all.
      - It is checked before anything is written.
    type: path
  databases:
    description:
      - Whether to compile databases as well, as M(hbp.mip.dataset_compile) does with the policy V(strict).
      - The default is to make them of synthetic data, and to leave it to M(hbp.mip.dataset_compile) with a O(source).
      - A folder in which there are files of others is left to M(hbp.mip.dataset_compile), too.
      - If not, those that this module made are left alone where their pathology stays.
    type: bool
  record:
    description: File in which the module keeps what it wrote.
    type: path
    required: true
  force:
    description: Replace files that this module did not write, or that were changed since.
    type: bool
    default: false
seealso:
  - module: hbp.mip.dataset_compile
"""

EXAMPLES = r"""
- name: Put synthetic data on the machines
  hbp.mip.lab_seed:
    data_dir: /data/lab
    record: /var/lib/mip-lab/lab/seed.json
    nodes:
      - {name: lab-ms, kind: master, root: /var/lib/mip-lab/lab/machines/lab-ms/root}
      - {name: lab-wk-1, kind: worker, root: /var/lib/mip-lab/lab/machines/lab-wk-1/root}

- name: Put own files on the machines, to be consolidated and compiled there
  hbp.mip.lab_seed:
    source: /srv/samples
    data_dir: /data/lab
    record: /var/lib/mip-lab/lab/seed.json
    nodes:
      - {name: lab-ms, kind: master, root: /var/lib/mip-lab/lab/machines/lab-ms/root}
      - {name: lab-wk-1, kind: worker, root: /var/lib/mip-lab/lab/machines/lab-wk-1/root}
"""

RETURN = r"""
datasets:
  description:
    - Codes and numbers of rows of all synthetic datasets, by machine and pathology. The master has every pathology, without datasets.
    - It is empty with O(source).
  returned: always
  type: dict
files:
  description: Names of the CSV files, by machine and pathology. The master has every pathology, without files.
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
import re
import shutil
import signal
import stat
import tempfile
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils._children import Ended
from ansible_collections.hbp.mip.plugins.module_utils._compile import Compiler, Options
from ansible_collections.hbp.mip.plugins.module_utils._compiled import CDES, DATABASE, MANIFEST, state
from ansible_collections.hbp.mip.plugins.module_utils._lab_seed import GENERATOR, PATHOLOGIES, Dataset, metadata, plan, table

POLICY = "strict"
PATHOLOGY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


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


def synthetic_files(nodes: List[Dict[str, Any]], data_dir: str, datasets: List[Dataset], seed: int) -> List[Wanted]:
    """Return the CDEs and CSV files of all machines."""
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

            add(CDES, all_of_it, write_metadata)
            for dataset in held:

                def write_table(path: str, dataset: Dataset = dataset) -> None:
                    save(path, table(dataset, seed))

                add(f"{dataset.code}.csv", dataset, write_table)
    return files


def read_source(source: str) -> Dict[str, List[str]]:
    """Return the pathologies of a folder with the names of their CSV files. Raises SeedError, which lists all that is wrong."""
    found: Dict[str, List[str]] = {}
    wrong = []
    try:
        names = sorted(os.listdir(source))
    except FileNotFoundError:
        raise SeedError(f"source: there is no folder {source}") from None
    except OSError as error:
        raise SeedError(f"source: {source} cannot be read: {error.strerror}") from error
    for name in names:
        folder = os.path.join(source, name)
        if not os.path.isdir(folder):
            continue
        try:
            entries = sorted(os.listdir(folder))
        except OSError as error:
            wrong.append(f"{folder} cannot be read: {error.strerror}")
            continue
        tables = [entry for entry in entries if entry.endswith(".csv")]
        if not tables and CDES not in entries:
            continue
        if not PATHOLOGY.fullmatch(name):
            wrong.append(f"{folder}: {name!r} cannot be a pathology (letters, digits, '_', '.' and '-', not more than 64)")
        if CDES not in entries:
            wrong.append(f"{folder} has CSV files, but no {CDES}")
        for entry in [CDES] * (CDES in entries) + tables:
            path = os.path.join(folder, entry)
            if not os.path.isfile(path):
                wrong.append(f"{path} is not a file")
            elif not os.access(path, os.R_OK):
                wrong.append(f"{path} cannot be read")
        found[name] = tables
    if not found and not wrong:
        wrong.append(f"{source} has no folder with a {CDES}")
    if wrong:
        raise SeedError("source: " + "; ".join(wrong))
    return found


def source_files(nodes: List[Dict[str, Any]], data_dir: str, source: str, pathologies: Dict[str, List[str]]) -> List[Wanted]:
    """Return the CDEs and CSV files of all machines, from a folder. Raises SeedError and OSError."""
    workers = sorted((node for node in nodes if node["kind"] == "worker"), key=lambda node: int(node["hospital"]))
    dealt = [(pathology, name) for pathology in sorted(pathologies) for name in pathologies[pathology]]
    if dealt and not workers:
        raise SeedError("nodes: there is no hospital that could get the CSV files of the source")
    holders: Dict[Tuple[str, str], str] = {}
    for place, item in enumerate(dealt):
        holders[item] = str(workers[place % len(workers)]["name"])
    files = []
    for node in nodes:
        for pathology, names in sorted(pathologies.items()):
            held = [name for name in names if holders[(pathology, name)] == node["name"]]
            for name in [CDES, *held] if held or node["kind"] == "master" else []:
                original = os.path.join(source, pathology, name)
                content = digest(original)

                def write(path: str, original: str = original, content: Optional[str] = content) -> None:
                    save(path, b"")
                    shutil.copyfile(original, path)
                    if digest(path) != content:
                        raise SeedError(f"source: {original} was changed while it was read. Run again")

                files.append(Wanted(node["name"], node["root"], f"{data_dir.strip('/')}/{pathology}/{name}", f"content:{content}", write))
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
        #: Which folders were not compiled, and why.
        self.uncompiled: List[str] = []
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
        """Write one file if it is missing or not up to date. Raises SeedError and OSError."""
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

    def databases(self, wanted: List[Wanted], masters: List[str]) -> None:
        """Compile the databases that are missing or not up to date. Raises SeedError and OSError."""
        folders: Dict[Tuple[str, str, str], List[str]] = {}
        for item in wanted:
            folder, name = os.path.split(item.path)
            folders.setdefault((item.node, item.root, folder), []).append(name)
        stale: Dict[Tuple[str, str, str], List[str]] = {}
        for (node, root, path), names in folders.items():
            if self._is_stale(node, root, path, names, node in masters):
                data_dir, pathology = os.path.split(path)
                stale.setdefault((node, root, data_dir), []).append(pathology)
        for (node, root, data_dir), pathologies in stale.items():
            self._compile(f"{node}:/{data_dir}", os.path.join(root, data_dir), pathologies, node in masters)

    def _is_stale(self, node: str, root: str, path: str, names: List[str], metadata_only: bool) -> bool:
        """Tell whether a folder's database is to be compiled. Raises SeedError and OSError."""
        label, folder = f"{node}:/{path}", os.path.join(root, path)
        if os.path.isdir(root) or not self.check_mode:
            for name in (DATABASE, MANIFEST):
                check_path(node, root, f"{path}/{name}")
        there = os.listdir(folder) if os.path.isdir(folder) else []
        foreign = [name for name in there if name.endswith(".csv") and name not in names]
        if foreign or any(item.startswith(label + "/") for item in self.kept):
            self.uncompiled.append(f"{label} has files of others and was not compiled. mipfed data compile does it")
            return False
        if not (self.check_mode and any(item.startswith(label + "/") for item in self.written)):
            hashes = {name: self.own[os.path.join(folder, name)]["sha256"] for name in names}
            if state(folder, hashes.pop(CDES), hashes, POLICY, metadata_only)[0] == "compiled":
                # Perhaps made by a run that was cut off before it could take note.
                self._note(folder)
                return False
        known, found = self.own.get(os.path.join(folder, DATABASE)), digest(os.path.join(folder, DATABASE))
        if found is not None and (known is None or known["sha256"] != found) and not self.force:
            self.kept.append(f"{label}/{DATABASE}")
            return False
        return True

    def _compile(self, label: str, data_dir: str, pathologies: List[str], metadata_only: bool) -> None:
        """Compile a machine's pathologies."""
        failed = set()
        if not self.check_mode:
            compiler = Compiler(data_dir, Options(policy=POLICY, metadata_only=metadata_only, errors_shown=1))
            compiler.run(pathologies)
            for pathology, found in compiler.pathologies.items():
                if found["state"] == "failed":
                    failed.add(pathology)
                    reasons = [f"{error['file']}:{error['line']}:{error['column']} {error['message']}" for error in found["errors"]]
                    reasons += [problem["message"] for problem in compiler.problems if problem["pathology"] == pathology]
                    count = f"{found['errors_total']} error{'s' * (found['errors_total'] != 1)}"
                    self.uncompiled.append(f"{label}/{pathology} was not compiled: {count}: {'; '.join(reasons)}")
                else:
                    self._note(os.path.join(data_dir, pathology))
        self.written += [f"{label}/{name}/{file}" for name in pathologies if name not in failed for file in (DATABASE, MANIFEST)]

    def _note(self, folder: str) -> None:
        """Remember a database as an own one."""
        for name in (DATABASE, MANIFEST):
            self.own[os.path.join(folder, name)] = {"sha256": str(digest(os.path.join(folder, name))), "source": "compiled"}

    def clean(self, nodes: List[Dict[str, Any]], wanted: List[Wanted]) -> None:
        """Remove own files that are not wanted any more, and forget those that are gone. Raises OSError."""
        keep = {item.full for item in wanted}
        keep |= {os.path.join(os.path.dirname(path), name) for path in keep for name in (DATABASE, MANIFEST)}
        roots = {node["root"]: node["name"] for node in nodes}
        for full in sorted(set(self.own) - keep):
            root = next((root for root in roots if full.startswith(root + "/")), None)
            found = digest(full)
            if found is None:
                del self.own[full]
            elif root is not None and found == self.own[full]["sha256"]:
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
                "choices": ["dementia", "mentalhealth", "tbi"],
                "default": ["dementia", "mentalhealth", "tbi"],
            },
            "seed": {"type": "int", "default": 1, "no_log": False},
            "source": {"type": "path"},
            "databases": {"type": "bool"},
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
    databases: bool = params["databases"] if params["databases"] is not None else not params["source"]
    datasets: List[Dataset] = []
    try:
        if params["source"]:
            source = os.path.abspath(params["source"])
            pathologies = read_source(source)
            files = source_files(nodes, params["data_dir"], source, pathologies)
        else:
            datasets = plan(hospitals, params["pathologies"], params["seed"])
            files = synthetic_files(nodes, params["data_dir"], datasets, params["seed"])
        seeder = Seeder(params["record"], params["force"], module.check_mode)
        try:
            for wanted in files:
                seeder.put(wanted)
            seeder.clean(nodes, files)
            if databases:
                seeder.databases(files, [node["name"] for node in nodes if node["kind"] == "master"])
        finally:
            if not module.check_mode:
                seeder.remember()
    except Ended as ended:
        # The compiler has cleaned up; now end as the signal says.
        signal.signal(ended.number, signal.SIG_DFL)
        os.kill(os.getpid(), ended.number)
    except SeedError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"data could not be written: {error}")
    names: Dict[str, Dict[str, List[str]]] = {node["name"]: {} for node in nodes}
    for wanted in files:
        pathology, name = wanted.path.split("/")[-2:]
        names[wanted.node].setdefault(pathology, []).extend([] if name == CDES else [name])
    rows = {dataset.code: dataset.rows for dataset in datasets}
    held: Dict[str, Dict[str, Dict[str, int]]] = {}
    if datasets:
        held = {
            node: {pathology: {name[: -len(".csv")]: rows[name[: -len(".csv")]] for name in tables} for pathology, tables in found.items()}
            for node, found in names.items()
        }
    for label in seeder.kept:
        module.warn(f"{label} was not written by this module, or was changed since, and is left alone. force: true replaces it")
    for message in seeder.uncompiled:
        module.warn(message)
    result: Dict[str, Any] = {
        "changed": bool(seeder.written or seeder.removed),
        "datasets": held,
        "files": names,
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
