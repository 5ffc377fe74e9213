# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every node of a federation should have, worked out from what they have.

A function of plain data: what dataset_info told of the master and the workers, the data catalogue's answers, the labels and the
record of earlier runs. Each pathology's CDEs come out with exactly the datasets that there are, the portal's list of pathologies
with them. Nothing here reads or writes a file.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple, Union

from ansible_collections.hbp.mip.plugins.module_utils import _cdes

CDES = "CDEsMetadata.json"
RECORD_SCHEMA = 1
# The codes that the engine and the portal can handle; dataset_info tells no others.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
LONGEST_LABEL = 200

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ESCAPED = re.compile(r"(?:\\u[0-9a-fA-F]{4})+")
_TOLD = re.compile(r"(<|>=)([0-9]{1,18})")
_MANY = 1 << 62
_SHOWN = 10
# What dataset_info tells of a node and what does not keep a consolidation from being right: compiled databases come after it,
# and CDEs are looked at here.
_NO_MATTER = frozenset(["cdes-missing", "cdes-invalid", "dataset-name", "datasets-implausible"])
_MATTERS_LITTLE = frozenset(["sub-folder"])
# On the master nothing but the CDEs counts.
_WORKER_ONLY = frozenset(["sub-folder", "file-name", "files-many", "files-changing"])

Rows = Union[int, str]
Entry = Tuple[str, str]


class Options(NamedTuple):
    """How to decide where there is a choice; see the module cde_consolidate."""

    drop_absent: bool = False
    shared_datasets: str = "error"
    new_datasets: str = "accept"
    cde_conflict: str = "error"


class Holding(NamedTuple):
    """The rows of one dataset in one file of one node."""

    file: str
    # Place of the node in the inventory, and of the dataset in what was told of the file.
    order: int
    position: int
    node: str
    code: str
    rows: Rows
    # Whether the node answered.
    present: bool


class Outcome:
    """What came out. With `problems` nothing may be handed out, and only `warnings` and `problems` mean anything.

    `contents` are the CDEs by pathology, `portal` is pathologies.json; `labels` and `record` are what the files should hold.
    """

    def __init__(self) -> None:
        self.problems: List[Dict[str, str]] = []
        self.warnings: List[Dict[str, str]] = []
        self.plan: Dict[str, Any] = {}
        self.contents: Dict[str, bytes] = {}
        self.portal = b""
        self.targets: Dict[str, List[str]] = {}
        self.structure: List[Dict[str, Any]] = []
        self.labels: Dict[str, Any] = {}
        self.record: Dict[str, Any] = {}
        self.before: Dict[str, bytes] = {}
        self.portal_before: Dict[str, Any] = {}


def consolidate(
    master: Mapping[str, Any],
    nodes: Mapping[str, Mapping[str, Any]],
    catalogue: Mapping[str, Mapping[str, Any]],
    labels: Mapping[str, Any],
    record: Mapping[str, Any],
    options: Options,
    now: str,
) -> Outcome:
    """Work out what every node should have; `now` is the time that new entries of the record get (ISO 8601)."""
    return _Consolidation(master, nodes, catalogue, labels, record, options, now).run()


def empty_record() -> Dict[str, Any]:
    """The record of a federation that was never consolidated."""
    return {"schema": RECORD_SCHEMA, "nodes": {}, "handed_out": {}, "portal": {}}


def packed(content: bytes) -> Dict[str, str]:
    """A file's content for a module's arguments or result: base64 of zlib, and SHA-256 of the plain bytes."""
    return {"content": base64.b64encode(zlib.compress(content)).decode("ascii"), "sha256": hashlib.sha256(content).hexdigest()}


def unpacked(content: str) -> bytes:
    """The plain bytes of a packed content; raises CdesError when it is damaged or not a metadata file's size."""
    try:
        reader = zlib.decompressobj()
        plain = reader.decompress(base64.b64decode(content, validate=True), _cdes.MOST_BYTES + 1)
        if not reader.eof and len(plain) <= _cdes.MOST_BYTES:
            raise ValueError
        return plain
    except (ValueError, zlib.error):
        raise _cdes.CdesError("the content that was handed over is damaged") from None


def sum_of_rows(parts: Iterable[Rows]) -> Rows:
    """The sum of numbers of rows, of which some are told as "<10" or ">=N" only; it says no more than they do."""
    least, most, exact = 0, 0, True
    for part in parts:
        if isinstance(part, int):
            least, most = least + part, most + part
            continue
        exact = False
        found = _TOLD.fullmatch(part)
        if found and found.group(1) == "<":
            least, most = least + 1, most + int(found.group(2)) - 1
        else:
            least, most = least + (int(found.group(2)) if found else 0), _MANY
    if exact:
        return least
    return "<10" if most < 10 else ">=%d" % least


def wrong_label(label: str) -> str:
    """Why a text is no label, empty when it is one: the rule of the file of labels."""
    if not label.strip():
        return "it is empty"
    if _CONTROL.search(label):
        return "it is not one line without control characters"
    return "it has more than %d characters" % LONGEST_LABEL if len(label) > LONGEST_LABEL else ""


class _Base(NamedTuple):
    """The CDEs of a pathology that the new ones are made from."""

    cdes: _cdes.Cdes
    source: str
    # The node that they come from, and the name that its file is shown with.
    node: str
    shown: str


class _Consolidation:
    def __init__(
        self,
        master: Mapping[str, Any],
        nodes: Mapping[str, Mapping[str, Any]],
        catalogue: Mapping[str, Mapping[str, Any]],
        labels: Mapping[str, Any],
        record: Mapping[str, Any],
        options: Options,
        now: str,
    ) -> None:
        self.master = master
        self.master_name = str(master["name"])
        self.nodes = nodes
        self.catalogue = catalogue
        self.options = options
        self.now = now
        self.outcome = Outcome()
        self.record = {**empty_record(), **record}
        self.labels: Dict[str, Any] = {
            "pathologies": dict(labels.get("pathologies") or {}),
            "datasets": {name: dict(codes or {}) for name, codes in (labels.get("datasets") or {}).items()},
        }
        self.holdings: Dict[str, List[Holding]] = {}
        # Nodes that did not answer and were never seen: nobody knows what they hold.
        self.unknown: List[str] = []
        self.portal: List[Dict[str, Any]] = []
        self.handed_out: Dict[str, List[Dict[str, str]]] = {name: list(known) for name, known in self.record["handed_out"].items()}
        self.unreadable: Dict[str, Dict[str, Any]] = {}
        self.changes = 0

    def problem(self, node: str, code: str, message: str, fix: str) -> None:
        """Note something because of which nothing may be handed out."""
        self.outcome.problems.append({"node": node, "code": code, "message": message, "fix": fix})

    def warn(self, node: str, code: str, message: str, fix: str) -> None:
        """Note something that the operator should know."""
        self.outcome.warnings.append({"node": node, "code": code, "message": message, "fix": fix})

    def run(self) -> Outcome:
        """Do all of it."""
        outcome = self.outcome
        if self.master.get("state", "present") != "present":
            self.problem(self.master_name, "master-away", "the master did not answer, and its CDEs are the federation's", "mipfed check")
            return outcome
        self._look_at_nodes()
        for name in sorted({*self._folders(), *self.holdings}):
            self._pathology(name)
        if not outcome.problems:
            self._finish()
            return outcome
        refused = Outcome()
        refused.problems, refused.warnings = outcome.problems, outcome.warnings
        return refused

    def _folders(self) -> Iterable[str]:
        yield from self.master.get("pathologies") or {}
        for node in self.nodes.values():
            if node.get("state") == "present":
                yield from node.get("pathologies") or {}

    # -- what the nodes hold ---------------------------------------------------------------------------------------------------

    def _look_at_nodes(self) -> None:
        self._told(self.master_name, self.master.get("problems") or (), _WORKER_ONLY)
        kept: Dict[str, Any] = {}
        for order, (node, told) in enumerate(self.nodes.items()):
            known = self.record["nodes"].get(node)
            if told.get("state") == "present":
                held = self._answered(node, order, told)
            elif self.options.drop_absent:
                held = {}
            elif known is None:
                self.unknown.append(node)
                continue
            else:
                held = known["pathologies"]
                self._remember(node, order, held)
            same = known is not None and known["pathologies"] == held
            kept[node] = known if same else {"since": self.now, "pathologies": held}
        self.outcome.record = {"schema": RECORD_SCHEMA, "nodes": kept}
        for node in self.unknown:
            self.warn(
                node,
                "away-unknown",
                "%s did not answer and was never seen, so every dataset that the CDEs name and that no other node holds is kept" % node,
                "consolidate again when it answers, or drop what is not there with --drop-absent",
            )

    def _told(self, node: str, problems: Iterable[Mapping[str, str]], besides: frozenset[str] = frozenset()) -> None:
        """What dataset_info found wrong with a node's folders and files."""
        for problem in problems:
            code = problem["code"]
            if code in _NO_MATTER or code in besides or code.startswith("database-"):
                continue
            note = self.warn if code in _MATTERS_LITTLE else self.problem
            note(node, code, problem["message"], problem.get("fix", ""))

    def _answered(self, node: str, order: int, told: Mapping[str, Any]) -> Dict[str, Any]:
        """Take in what a node holds; the return value is what the record keeps of it."""
        self._told(node, told.get("problems") or ())
        kept: Dict[str, Any] = {}
        for name, pathology in sorted((told.get("pathologies") or {}).items()):
            files: Dict[str, Dict[str, Rows]] = {}
            first: Dict[str, str] = {}
            for file, summary in sorted((pathology.get("files") or {}).items()):
                self._file_findings(node, name, file, summary)
                codes = {}
                for position, (code, rows) in enumerate((summary.get("datasets") or {}).items()):
                    if not NAME.fullmatch(code):
                        self._no_code(node, name, file)
                        continue
                    codes[code] = rows
                    self.holdings.setdefault(name, []).append(Holding(file, order, position, node, code, rows, True))
                    if first.setdefault(code, file) != file:
                        message = "%s: dataset %s is in %s and in %s; newer engines accept a dataset in one file only"
                        self.warn(node, "dataset-files", message % (name, code, first[code], file), "merge the two files")
                if codes:
                    files[file] = codes
            kept[name] = {"files": files}
        return kept

    def _no_code(self, node: str, name: str, file: str) -> None:
        self.problem(
            node,
            "dataset-code",
            "%s/%s: a value in the column dataset is no dataset code (letters, digits, '_', '.' and '-', not more than 64)" % (name, file),
            "correct the column dataset of the file on %s" % node,
        )

    def _remember(self, node: str, order: int, held: Mapping[str, Any]) -> None:
        for name, pathology in held.items():
            for file, codes in pathology["files"].items():
                for position, (code, rows) in enumerate(codes.items()):
                    self.holdings.setdefault(name, []).append(Holding(file, order, position, node, code, rows, False))

    def _file_findings(self, node: str, name: str, file: str, summary: Mapping[str, Any]) -> None:
        for finding in summary.get("findings") or ():
            line = finding.get("line") or 0
            where = "%s/%s%s" % (name, file, ":%d" % line if line else "")
            note = self.warn if finding.get("severity") == "warning" else self.problem
            note(node, "csv-%s" % finding["code"], "%s: %s" % (where, finding["message"]), "correct the file on %s" % node)

    # -- one pathology ---------------------------------------------------------------------------------------------------------

    def _pathology(self, name: str) -> None:
        if not NAME.fullmatch(name):
            message = "%r is no name of a pathology (letters, digits, '_', '.' and '-', not more than 64)"
            self.problem(self._who_has(name), "folder-name", message % name[:80], "rename the folder")
            return
        before = self._of_master(name)
        base = self._base(name, before)
        if base is None:
            return
        self._copies(name, base, before)
        self._columns(name, base)
        holdings = sorted(self.holdings.get(name, ()), key=lambda holding: (holding.file, holding.order, holding.position))
        held: Dict[str, List[Holding]] = {}
        for holding in holdings:
            held.setdefault(holding.code, []).append(holding)
        self._shared(name, held)
        enumerated = dict(before.datasets) if before else {}
        self._new(name, held, {**dict(base.cdes.datasets), **enumerated})
        kept = [code for code in enumerated if code not in held and NAME.fullmatch(code)] if self.unknown else []
        there = {**held, **{code: [] for code in kept}}
        order = [code for code in (*dict(base.cdes.datasets), *enumerated, *held) if code in there]
        codes = list(dict.fromkeys(order))
        self._similar(name, codes, enumerated)
        entries = [(code, self._dataset_label(name, code, base, before)) for code in codes]
        for code in enumerated:
            if code not in there:
                # A dataset that comes back finds its label in the file of labels.
                self._dataset_label(name, code, base, before)
        if not self.outcome.problems:
            self._result(name, base, before, entries, held)

    def _who_has(self, name: str) -> str:
        having = [node for node, told in self.nodes.items() if name in (told.get("pathologies") or {})]
        return having[0] if having else self.master_name

    def _of_master(self, name: str) -> Optional[_cdes.Cdes]:
        """The master's CDEs as far as they can be read; what cannot is told by `_base`."""
        told = self._master_cdes(name)
        if not told.get("content"):
            return None
        try:
            return _cdes.parse(unpacked(told["content"]))
        except _cdes.CdesError as error:
            self.unreadable[name] = {"message": error.message, "line": error.line, "column": error.column}
            return None

    def _master_cdes(self, name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = ((self.master.get("pathologies") or {}).get(name) or {}).get("cdes") or {}
        return found

    def _base(self, name: str, before: Optional[_cdes.Cdes]) -> Optional[_Base]:
        """The CDEs to start from: the catalogue's if they are sound, else the master's. None with a problem."""
        online = self._of_catalogue(name, before is not None)
        if online is not None:
            return online
        shown = "%s/%s" % (name, CDES)
        node = self.master_name
        if before is None:
            self._no_cdes(name, shown)
            return None
        fix = "correct the file on %s" % node
        for finding in before.findings:
            where = "%s:%d:%d" % (shown, finding.line, finding.column) if finding.line else shown
            note = self.problem if finding.severity == "error" else self.warn
            note(node, "cdes-%s" % finding.code, "%s: %s" % (where, finding.message), fix)
        if before.code and before.code not in (name, "root"):
            message = "%s: its code is %r, and the engine looks for the pathology in a folder of that name, not in %s"
            self.problem(node, "cdes-code", message % (shown, before.code[:80], name), "make the code or the folder's name the other")
        return _Base(before, "master", node, shown)

    def _no_cdes(self, name: str, shown: str) -> None:
        node = self.master_name
        told = self._master_cdes(name)
        findings = [finding for finding in told.get("findings") or () if finding.get("severity", "error") == "error"]
        if name in self.unreadable:
            findings = [self.unreadable[name]]
        for finding in findings:
            where = "%s:%d:%d" % (shown, finding["line"], finding["column"]) if finding["line"] else shown
            self.problem(node, "cdes-invalid", "%s: %s" % (where, finding["message"]), "correct the file on %s" % node)
        if findings:
            return
        told_of = [item for item in self.master.get("problems") or () if item.get("pathology") == name]
        for item in told_of:
            if item["code"] == "cdes-invalid":
                self.problem(node, "cdes-invalid", item["message"], item.get("fix", ""))
        if any(item["code"] in ("cdes-invalid", "file-unusable", "symlink") for item in told_of):
            return
        having = [worker for worker, item in self.nodes.items() if name in (item.get("pathologies") or {})]
        who = "%s: at %s" % (name, ", ".join(having[:_SHOWN])) if having else name
        self.problem(
            node,
            "cdes-missing",
            "%s has no %s on the master (%s)" % (name, CDES, who),
            "put the pathology's %s into its folder on %s, or take the data catalogue's with --online-cdes" % (CDES, node),
        )

    def _of_catalogue(self, name: str, has_local: bool) -> Optional[_Base]:
        answer = self.catalogue.get(name)
        if not answer:
            return None
        url = str(answer.get("url", "the data catalogue"))
        found = []
        cdes = None
        try:
            cdes = _cdes.parse(unpacked(answer["content"]))
        except _cdes.CdesError as error:
            found.append(str(error))
        if cdes is not None:
            found += ["line %d, column %d: %s" % (item.line, item.column, item.message) for item in cdes.errors]
            if cdes.code and cdes.code not in (name, "root"):
                found.append("its code is %r" % cdes.code[:80])
        if found or cdes is None:
            more = " (and %d more)" % (len(found) - 1) if len(found) > 1 else ""
            kept = "; the master's CDEs are used instead" if has_local else ""
            message = "%s: the CDEs at %s cannot be used: %s%s%s" % (name, url, found[0], more, kept)
            self.warn("", "catalogue-invalid", message, "tell the people who run the data catalogue")
            return None
        return _Base(cdes, "catalogue", "", url)

    def _copies(self, name: str, base: _Base, before: Optional[_cdes.Cdes]) -> None:
        """Compare the workers' copies with what they may have: the new model, the master's, or one of earlier."""
        known = {item["model"] for item in self.handed_out.get(name, ())}
        known.add(base.cdes.model)
        reference = before or base.cdes
        known.add(reference.model)
        for node, told in self.nodes.items():
            if told.get("state") != "present":
                continue
            copy = ((told.get("pathologies") or {}).get(name) or {}).get("cdes") or {}
            if not copy.get("present"):
                continue
            if copy.get("model"):
                if copy["model"] in known:
                    continue
                how = _differences(reference, copy)
                message = "%s/%s on %s is neither the master's nor one that was handed out: %s" % (name, CDES, node, how)
                code = "cdes-differ"
            else:
                finding = (copy.get("findings") or [{"message": "it cannot be read", "line": 0, "column": 0}])[0]
                where = ":%d:%d" % (finding["line"], finding["column"]) if finding["line"] else ""
                message = "%s/%s%s on %s: %s" % (name, CDES, where, node, finding["message"])
                code = "cdes-invalid"
            if self.options.cde_conflict == "master":
                self.warn(node, code, message + "; it is replaced", "")
            else:
                fix = "bring the change to the master's file, remove the copy, or have it replaced with mip_data: {cde_conflict: master}"
                self.problem(node, code, message, fix)

    def _columns(self, name: str, base: _Base) -> None:
        variables = {variable.code for variable in base.cdes.variables}
        for node, told in self.nodes.items():
            if told.get("state") != "present":
                continue
            files = ((told.get("pathologies") or {}).get(name) or {}).get("files") or {}
            for file, summary in sorted(files.items()):
                header = summary.get("header") or ()
                if variables.issuperset(header):
                    continue
                unknown = [column for column in header if column not in variables]
                similar = {variable.lower(): variable for variable in variables}
                shown = [
                    column + (" (there is %s)" % similar[column.strip().lower()] if column.strip().lower() in similar else "")
                    for column in unknown[:_SHOWN]
                ]
                more = " and %d more" % (len(unknown) - _SHOWN) if len(unknown) > _SHOWN else ""
                self.problem(
                    node,
                    "column-unknown",
                    "%s/%s on %s has %s that the CDEs do not have: %s%s"
                    % (name, file, node, "a column" if len(unknown) == 1 else "%d columns" % len(unknown), ", ".join(shown), more),
                    "correct the header, or add the variable to %s"
                    % ("the CDEs at %s" % base.shown if not base.node else "the master's CDEs"),
                )

    def _shared(self, name: str, held: Mapping[str, List[Holding]]) -> None:
        if self.options.shared_datasets == "merge":
            return
        for code, holdings in held.items():
            nodes = list(dict.fromkeys(holding.node for holding in sorted(holdings, key=lambda holding: holding.order)))
            if len(nodes) < 2:
                continue
            places = ", ".join("%s (%s)" % (node, next(item.file for item in holdings if item.node == node)) for node in nodes)
            away = sorted({holding.node for holding in holdings if not holding.present})
            moved = "; %s is away: if the dataset has moved, use --drop-absent" % ", ".join(away) if away else ""
            self.problem(
                nodes[-1],
                "dataset-shared",
                "%s: dataset %s is on several nodes: %s%s" % (name, code, places, moved),
                "give each hospital's dataset a code of its own, or allow it with mip_data: {shared_datasets: merge}",
            )

    def _new(self, name: str, held: Mapping[str, List[Holding]], enumerated: Mapping[str, str]) -> None:
        if self.options.new_datasets == "accept":
            return
        labelled = self.labels["datasets"].get(name, {})
        for code, holdings in held.items():
            if code not in enumerated and code not in labelled:
                message = "%s: dataset %s (%s on %s) is new, and mip_data.new_datasets is refuse"
                fix = "admit it with a label in labels.yml (datasets: {%s: {%s: ...}}), or remove it" % (name, code)
                self.problem(holdings[0].node, "dataset-new", message % (name, code, holdings[0].file, holdings[0].node), fix)

    def _similar(self, name: str, codes: List[str], enumerated: Mapping[str, str]) -> None:
        """The portal's roles are in lower case, so codes that differ in that only share one."""
        first: Dict[str, str] = {}
        for code in dict.fromkeys([*codes, *enumerated]):
            other = first.setdefault(code.lower(), code)
            if other != code:
                message = "%s: the datasets %s and %s differ in upper and lower case only; the portal gives both the same role"
                self.warn("", "dataset-case", message % (name, other, code), "make one code of them")

    # -- labels ----------------------------------------------------------------------------------------------------------------

    def _dataset_label(self, name: str, code: str, base: _Base, before: Optional[_cdes.Cdes]) -> str:
        """A dataset's label: the file of labels, the CDEs, the master's CDEs until now, the code in upper case."""
        labelled = self.labels["datasets"].setdefault(name, {})
        if code in labelled:
            return str(labelled[code])
        label = dict(base.cdes.datasets).get(code) or (dict(before.datasets).get(code) if before else "") or code.upper()
        label = str(_unescaped(label))
        self._keep_label(labelled, name, code, label)
        return label

    def _pathology_label(self, name: str, base: _Base) -> str:
        labelled = self.labels["pathologies"]
        if name in labelled:
            return str(labelled[name])
        label = str(_unescaped(base.cdes.label)) if base.cdes.label not in ("", "/") else name.capitalize()
        self._keep_label(labelled, name, "", label)
        return label

    def _keep_label(self, labelled: Dict[str, str], name: str, code: str, label: str) -> None:
        why = wrong_label(label)
        if why:
            what = "dataset %s of %s" % (code, name) if code else "pathology %s" % name
            self.warn(
                self.master_name, "label", "the label of %s in the CDEs is used but not kept: %s" % (what, why), "label it in labels.yml"
            )
        else:
            labelled[code or name] = label

    # -- results ---------------------------------------------------------------------------------------------------------------

    def _result(
        self, name: str, base: _Base, before: Optional[_cdes.Cdes], entries: List[Entry], held: Mapping[str, List[Holding]]
    ) -> None:
        content = base.cdes.with_datasets(entries)
        sha256 = hashlib.sha256(content).hexdigest()
        outcome = self.outcome
        outcome.contents[name] = content
        if before is not None:
            outcome.before[name] = before.content
        earlier = str(self._master_cdes(name).get("sha256") or "")
        enumerated = dict(before.datasets) if before else {}
        label = self._pathology_label(name, base)
        datasets = [self._dataset(code, text, held.get(code, []), enumerated) for code, text in entries]
        for code, text in enumerated.items():
            if code not in dict(entries):
                datasets.append({"code": code, "label": text, "nodes": [], "rows": 0, "state": "removed"})
        outcome.plan.setdefault("pathologies", {})[name] = {
            "label": label,
            "version": base.cdes.version,
            "source": base.source,
            "before": earlier,
            "after": sha256,
            "changed": earlier != sha256,
            "datasets": datasets,
        }
        # The master's until now counts as handed out: a worker that this run does not reach may have it still.
        self._handed(name, earlier, before)
        self._handed(name, sha256, base.cdes)
        outcome.targets.setdefault(self.master_name, []).append(name)
        self.changes += earlier != sha256
        for node, told in self.nodes.items():
            folder = (told.get("pathologies") or {}).get(name)
            if told.get("state") == "present" and folder is not None:
                outcome.targets.setdefault(node, []).append(name)
                self.changes += (folder.get("cdes") or {}).get("sha256") != sha256
        codes_of: Dict[str, List[str]] = {}
        for code in sorted(held):
            for node in {holding.node for holding in held[code]}:
                codes_of.setdefault(node, []).append(code)
        nodes = [{"name": node, "datasets": [{"name": code} for code in codes]} for node, codes in sorted(codes_of.items())]
        if nodes:
            outcome.structure.append({"name": name, "nodes": nodes})
        if not entries:
            self.warn(
                "",
                "pathology-empty",
                "%s has no dataset on any node, so it is not in the portal's list" % name,
                "put its CSV files on a worker, or remove the folder if it is not needed",
            )
            return
        by_code = dict(entries)
        in_files = [code for code in held if code in by_code]
        rest = [code for code, _label in entries if code not in held]
        self.portal.append(
            {
                "code": name,
                "label": label,
                "metadataHierarchy": _hierarchy(content),
                "datasets": [{"code": code, "label": by_code[code]} for code in (*in_files, *rest)],
            }
        )

    def _handed(self, name: str, sha256: str, cdes: Optional[_cdes.Cdes]) -> None:
        known = self.handed_out.setdefault(name, [])
        if cdes is not None and all(item["sha256"] != sha256 for item in known):
            known.append({"sha256": sha256, "model": cdes.model, "time": self.now})

    def _dataset(self, code: str, label: str, holdings: List[Holding], enumerated: Mapping[str, str]) -> Dict[str, Any]:
        nodes = list(dict.fromkeys(holding.node for holding in sorted(holdings, key=lambda holding: holding.order)))
        state = "absent"
        if any(holding.present for holding in holdings):
            state = "kept" if code in enumerated else "new"
        rows: Rows = sum_of_rows([holding.rows for holding in holdings]) if holdings else "unknown"
        return {"code": code, "label": label, "nodes": nodes, "rows": rows, "state": state}

    def _finish(self) -> None:
        outcome = self.outcome
        outcome.portal = json.dumps(self.portal, indent=2, ensure_ascii=False).encode("utf-8") + b"\n"
        sha256 = hashlib.sha256(outcome.portal).hexdigest()
        earlier = self.record["portal"]
        outcome.portal_before = earlier.get("entries") or {}
        entries = {
            item["code"]: {"label": item["label"], "datasets": {dataset["code"]: dataset["label"] for dataset in item["datasets"]}}
            for item in self.portal
        }
        portal = earlier if earlier.get("sha256") == sha256 else {"sha256": sha256, "time": self.now, "entries": entries}
        outcome.record.update(handed_out=self.handed_out, portal=portal)
        outcome.labels = {
            "pathologies": self.labels["pathologies"],
            "datasets": {name: codes for name, codes in self.labels["datasets"].items() if codes},
        }
        pathologies = outcome.plan.setdefault("pathologies", {})
        outcome.targets = {node: outcome.targets.get(node, []) for node in (self.master_name, *self.nodes)}
        handed = {
            "contents": {name: item["after"] for name, item in pathologies.items()},
            "portal": sha256,
            "targets": outcome.targets,
        }
        outcome.plan["id"] = hashlib.sha256(json.dumps(handed, sort_keys=True).encode("ascii")).hexdigest()
        outcome.plan["changes"] = self.changes + (portal is not earlier)


def _differences(reference: _cdes.Cdes, copy: Mapping[str, Any]) -> str:
    """In which variables a worker's copy is another than the master's CDEs."""
    ours, theirs = reference.digests, copy.get("variables") or {}
    parts = []
    for what, codes in (
        ("other variables", [code for code in ours if code in theirs and ours[code] != theirs[code]]),
        ("without", [code for code in ours if code not in theirs]),
        ("with in addition", [code for code in theirs if code not in ours]),
    ):
        if codes:
            more = " and %d more" % (len(codes) - _SHOWN) if len(codes) > _SHOWN else ""
            parts.append("%s %s%s" % (what, ", ".join(codes[:_SHOWN]), more))
    if not parts:
        parts.append("the variables are the same, but not the groups, the order, the label or the version")
    version = copy.get("version") or ""
    if version != reference.version:
        parts.append("version %s, not %s" % (version[:20] or "none", reference.version[:20] or "none"))
    return "; ".join(parts)


def _hierarchy(content: bytes) -> Any:
    """The tree as the portal gets it. What was escaped twice (\\\\u2019) is shown as the character that was meant."""
    tree = json.loads(content.decode("utf-8-sig"))
    return _unescaped(tree) if b"\\\\u" in content else tree


def _unescaped(value: Any) -> Any:
    if isinstance(value, str):
        return _ESCAPED.sub(_character, value) if "\\u" in value else value
    if isinstance(value, dict):
        return {key: _unescaped(item) for key, item in value.items()}
    return [_unescaped(item) for item in value] if isinstance(value, list) else value


def _character(found: re.Match[str]) -> str:
    text = str(json.loads('"%s"' % found.group()))
    return found.group() if _CONTROL.search(text) else text
