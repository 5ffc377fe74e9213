# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Synthetic patients for labs: variables, rows and databases, all calculated from a seed. No real person is behind them."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import random
import sqlite3
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

#: Changes whenever the same seed gives other data from now on.
GENERATOR = 1

Value = Union[int, float, str, None]
Subject = Dict[str, Any]


class Source:
    """Random numbers that are the same on every host and with every Python: only random() is used of the library."""

    def __init__(self, *seed: object) -> None:
        """Start from a seed."""
        self._random = random.Random(":".join(str(part) for part in seed))  # noqa: S311 - reproducible, not secret

    def uniform(self, low: float, high: float) -> float:
        """Return a number between low and high."""
        return low + (high - low) * self._random.random()

    def integer(self, low: int, high: int) -> int:
        """Return an integer between low and high, both included."""
        return low + int(self._random.random() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """Return True with a probability."""
        return self._random.random() < probability

    def normal(self, mean: float = 0.0, deviation: float = 1.0) -> float:
        """Return a number from a normal distribution."""
        radius = math.sqrt(-2.0 * math.log(1.0 - self._random.random()))
        return mean + deviation * radius * math.cos(2.0 * math.pi * self._random.random())

    def choice(self, weights: Mapping[str, float]) -> str:
        """Return a key, with the probability that its weight gives."""
        point = self._random.random() * sum(weights.values())
        for key, weight in weights.items():
            point -= weight
            if point < 0:
                return key
        return next(reversed(list(weights)))


Generate = Callable[[Subject, Source], Any]


class Variable(NamedTuple):
    """One Common Data Element, and how to make its values. `missing` is the share of empty cells."""

    code: str
    label: str
    kind: str
    generate: Optional[Generate] = None
    units: str = ""
    minimum: Optional[float] = None
    maximum: Optional[float] = None
    decimals: int = 0
    missing: float = 0.0
    enumerations: Tuple[Tuple[str, str], ...] = ()
    description: str = ""

    @property
    def sql_type(self) -> str:
        """The type of the column in a database."""
        return {"real": "real", "integer": "int"}.get(self.kind, "text")


class Group(NamedTuple):
    """A branch of the tree of variables."""

    code: str
    label: str
    variables: Tuple[Variable, ...] = ()
    groups: Tuple["Group", ...] = ()


class Pathology(NamedTuple):
    """A tree of variables and the model of a patient behind it."""

    code: str
    label: str
    tree: Group
    subject: Callable[[Source, int], Subject]


class Dataset(NamedTuple):
    """One CSV file of one hospital."""

    code: str
    label: str
    pathology: str
    hospital: int
    rows: int
    without: Tuple[str, ...] = ()


def _real(
    code: str, label: str, units: str, low: float, high: float, generate: Generate, decimals: int = 2, missing: float = 0.05
) -> Variable:
    return Variable(code, label, "real", generate, units, low, high, decimals, missing)


def _int(code: str, label: str, units: str, low: int, high: int, generate: Generate, missing: float = 0.03) -> Variable:
    return Variable(code, label, "integer", generate, units, low, high, 0, missing)


def _nominal(code: str, label: str, codes: Sequence[Tuple[str, str]], generate: Generate, missing: float = 0.0) -> Variable:
    return Variable(code, label, "nominal", generate, enumerations=tuple(codes), missing=missing)


def _text(code: str, label: str, generate: Generate, missing: float = 0.0) -> Variable:
    return Variable(code, label, "text", generate, missing=missing)


def _volume(code: str, label: str, mean: float, loss: float, ventricle: bool = False) -> Variable:
    """Return the volume of a region in cm³. It shrinks with the disease by the share `loss`; a ventricle grows instead."""

    def generate(subject: Subject, source: Source) -> float:
        age = (subject["age"] - 70) / 10
        change = loss * subject["severity"] + 0.03 * age
        size = mean * (subject["tiv"] / 1450) * ((1 + 2.2 * change) if ventricle else (1 - change))
        return float(size * (1 + source.normal(0, 0.18 if ventricle else 0.07)) + subject["site"] * mean * 0.02)

    return _real(code, label, "cm³", 0, round(mean * (4 if ventricle else 2.2), 1), generate, 4, 0.0)


def _pair(code: str, label: str, mean: float, loss: float, ventricle: bool = False) -> Tuple[Variable, Variable]:
    """Return a region's volume on the left and on the right."""
    sides = (("left", "Left", mean), ("right", "Right", mean * 1.02))
    left, right = (_volume(side + code, f"{name} {label}", size, loss, ventricle) for side, name, size in sides)
    return left, right


def _score(top: int, healthy: float, loss: float, spread: float) -> Generate:
    def generate(subject: Subject, source: Source) -> float:
        return float(healthy - loss * subject["severity"] - 0.5 * max(0.0, (subject["age"] - 75) / 10) + source.normal(0, spread))

    return generate


def _age_group(subject: Subject, _source: Source) -> str:
    age = int(subject["age"])
    return "-50y" if age < 50 else "80+y" if age >= 80 else f"{age // 10 * 10}-{age // 10 * 10 + 9}y"


SEX = (("F", "Female"), ("M", "Male"))
DEMENTIA_CATEGORIES = (
    ("CN", "Cognitively normal"),
    ("MCI", "Mild cognitive impairment"),
    ("AD", "Alzheimer's disease"),
    ("Other", "Other dementia"),
)
NOTES = ("repeated scan", "patient moved, scan repeated", "Müller's coil", 'protocol "short"', "contrast 1,5 ml")


def _dementia_subject(source: Source, hospital: int) -> Subject:
    category = source.choice({"CN": 0.38, "MCI": 0.3, "AD": 0.26, "Other": 0.06})
    severity = max(0.0, {"CN": 0.05, "MCI": 0.4, "AD": 1.0, "Other": 0.8}[category] + source.normal(0, 0.16))
    age = min(94.0, max(46.0, source.normal({"CN": 68, "MCI": 71, "AD": 74, "Other": 69}[category], 8)))
    sex = source.choice({"F": 0.53, "M": 0.47})
    risk = 0.18 + 0.22 * min(severity, 1.2)
    return {
        "category": category,
        "severity": severity,
        "age": age,
        "sex": sex,
        "education": source.normal(12.5 - severity, 3.2),
        "tiv": source.normal(1560 if sex == "M" else 1380, 110),
        "apoe4": str(int(source.chance(risk)) + int(source.chance(risk))),
        "imaging": source.chance(0.94),
        "site": ((hospital * 7919) % 11 - 5) / 5,
    }


def _biomarker(mean: float, factor: float, spread: float) -> Generate:
    def generate(subject: Subject, source: Source) -> float:
        return float(mean * (1 + factor * min(subject["severity"], 1.3)) * math.exp(source.normal(0, spread)))

    return generate


DEMENTIA = Pathology(
    "dementia",
    "Dementia",
    Group(
        "dementia",
        "Dementia",
        groups=(
            Group(
                "demographics",
                "Demographics",
                (
                    _int("subjectageyears", "Age", "years", 18, 120, lambda s, r: s["age"], 0.0),
                    _nominal(
                        "agegroup",
                        "Age group",
                        [(c, c) for c in ("-50y", "50-59y", "60-69y", "70-79y", "80+y")],
                        _age_group,
                    ),
                    _nominal("gender", "Gender", SEX, lambda s, r: s["sex"]),
                    _int("educationyears", "Years of education", "years", 0, 25, lambda s, r: s["education"], 0.06),
                    _nominal(
                        "handedness",
                        "Handedness",
                        [("R", "Right"), ("L", "Left"), ("A", "Both")],
                        lambda s, r: r.choice({"R": 0.88, "L": 0.1, "A": 0.02}),
                        0.08,
                    ),
                ),
            ),
            Group(
                "diagnosis",
                "Diagnosis",
                (
                    _nominal("alzheimerbroadcategory", "Alzheimer broad category", DEMENTIA_CATEGORIES, lambda s, r: s["category"]),
                    _real(
                        "diseaseduration",
                        "Time since first symptoms",
                        "years",
                        0,
                        40,
                        lambda s, r: None if s["category"] == "CN" else abs(r.normal(1 + 3 * s["severity"], 2)),
                        1,
                        0.12,
                    ),
                ),
            ),
            Group(
                "brain",
                "Brain",
                (
                    _real("tiv", "Total intracranial volume", "cm³", 800, 2200, lambda s, r: s["tiv"], 2, 0.0),
                    _volume("csfglobal", "Cerebrospinal fluid", 310, 0.16, ventricle=True),
                ),
                (
                    Group(
                        "cerebrum",
                        "Cerebrum",
                        groups=(
                            Group(
                                "limbic",
                                "Limbic system",
                                _pair("hippocampus", "hippocampus", 3.35, 0.24)
                                + _pair("amygdala", "amygdala", 0.98, 0.2)
                                + _pair("entorhinalarea", "entorhinal area", 1.75, 0.22),
                            ),
                            Group("frontal", "Frontal lobe", _pair("frontalpole", "frontal pole", 3.6, 0.08)),
                            Group("temporal", "Temporal lobe", _pair("inferiortemporalgyrus", "inferior temporal gyrus", 10.9, 0.14)),
                            Group("parietal", "Parietal lobe", _pair("precuneus", "precuneus", 10.6, 0.12)),
                        ),
                    ),
                    Group(
                        "ventricles",
                        "Ventricles",
                        (
                            *_pair("lateralventricle", "lateral ventricle", 12.5, 0.3, ventricle=True),
                            _volume("_3rdventricle", "3rd ventricle", 1.3, 0.25, ventricle=True),
                        ),
                    ),
                ),
            ),
            Group(
                "cognition",
                "Cognition",
                (
                    _int("minimentalstate", "Mini Mental State Examination", "points", 0, 30, _score(30, 29.2, 8.5, 1.4)),
                    _int("montrealcognitiveassessment", "Montreal Cognitive Assessment", "points", 0, 30, _score(30, 26.8, 9, 2.2), 0.15),
                    _int("clockdrawing", "Clock drawing test", "points", 0, 10, _score(10, 9.1, 3, 1.2), 0.2),
                    _int("verbalfluency", "Verbal fluency", "words", 0, 60, _score(60, 21, 9, 4.5), 0.1),
                    _real("adascog13", "ADAS-Cog 13", "points", 0, 85, lambda s, r: 9 + 21 * s["severity"] + r.normal(0, 4), 2, 0.18),
                ),
            ),
            Group(
                "laboratory",
                "Laboratory",
                (
                    _real("csfabeta42", "Amyloid beta 42 in cerebrospinal fluid", "pg/ml", 50, 3000, _biomarker(1050, -0.42, 0.25), 1, 0.4),
                    _real("csftau", "Total tau in cerebrospinal fluid", "pg/ml", 10, 2500, _biomarker(230, 0.75, 0.35), 1, 0.4),
                    _real("csfptau", "Phosphorylated tau in cerebrospinal fluid", "pg/ml", 2, 400, _biomarker(21, 0.8, 0.35), 2, 0.4),
                    _nominal("apoe4", "ApoE4 alleles", [("0", "None"), ("1", "One"), ("2", "Two")], lambda s, r: s["apoe4"], 0.22),
                ),
            ),
            Group(
                "acquisition",
                "Acquisition",
                (
                    _nominal(
                        "fieldstrength",
                        "Field strength",
                        [("1.5T", "1.5 tesla"), ("3T", "3 tesla")],
                        lambda s, r: r.choice({"1.5T": 0.35, "3T": 0.65}),
                        0.05,
                    ),
                    _text("acquisitionnote", "Note", lambda s, r: r.choice(dict.fromkeys(NOTES, 1.0)), 0.9),
                ),
            ),
        ),
    ),
    _dementia_subject,
)


def _mental_subject(source: Source, hospital: int) -> Subject:
    category = source.choice({"HC": 0.34, "MDD": 0.36, "BD": 0.12, "ANX": 0.18})
    severity = max(0.0, {"HC": 0.08, "MDD": 1.0, "BD": 0.75, "ANX": 0.7}[category] + source.normal(0, 0.25))
    sex = source.choice({"F": 0.6, "M": 0.4})
    return {
        "category": category,
        "severity": severity,
        "anxiety": max(0.0, (1.1 if category == "ANX" else 0.6 * severity) + source.normal(0, 0.2)),
        "age": min(84.0, max(18.0, source.normal(41, 13))),
        "sex": sex,
        "tiv": source.normal(1570 if sex == "M" else 1390, 110),
        "imaging": source.chance(0.7),
        "site": ((hospital * 104729) % 13 - 6) / 6,
    }


MENTAL_HEALTH = Pathology(
    "mentalhealth",
    "Mental health",
    Group(
        "mentalhealth",
        "Mental health",
        groups=(
            Group(
                "demographics",
                "Demographics",
                (
                    _int("subjectageyears", "Age", "years", 18, 120, lambda s, r: s["age"], 0.0),
                    _nominal("gender", "Gender", SEX, lambda s, r: s["sex"]),
                    _real("bodymassindex", "Body mass index", "kg/m²", 10, 80, lambda s, r: r.normal(25.4, 4.2), 1, 0.07),
                    _nominal(
                        "employment",
                        "Employment",
                        [("full", "Full time"), ("part", "Part time"), ("none", "Not employed"), ("retired", "Retired")],
                        lambda s, r: "retired" if s["age"] > 66 else r.choice({"full": 0.55, "part": 0.2, "none": 0.25}),
                        0.05,
                    ),
                ),
            ),
            Group(
                "diagnosis",
                "Diagnosis",
                (
                    _nominal(
                        "diagnosticgroup",
                        "Diagnostic group",
                        [("HC", "Healthy control"), ("MDD", "Major depression"), ("BD", "Bipolar disorder"), ("ANX", "Anxiety disorder")],
                        lambda s, r: s["category"],
                    ),
                    _int(
                        "episodes", "Episodes so far", "", 0, 60, lambda s, r: 0 if s["category"] == "HC" else 1 + abs(r.normal(2, 2)), 0.1
                    ),
                    _int(
                        "ageatonset",
                        "Age at onset",
                        "years",
                        4,
                        100,
                        lambda s, r: None if s["category"] == "HC" else s["age"] * r.uniform(0.4, 0.95),
                        0.12,
                    ),
                ),
            ),
            Group(
                "questionnaires",
                "Questionnaires",
                groups=(
                    Group(
                        "depression",
                        "Depression",
                        (
                            _int("phq9", "PHQ-9", "points", 0, 27, lambda s, r: 2 + 13 * s["severity"] + r.normal(0, 3)),
                            _int("madrs", "MADRS", "points", 0, 60, lambda s, r: 3 + 22 * s["severity"] + r.normal(0, 5), 0.15),
                            _int("bdi2", "BDI-II", "points", 0, 63, lambda s, r: 4 + 20 * s["severity"] + r.normal(0, 6), 0.25),
                        ),
                    ),
                    Group(
                        "anxiety",
                        "Anxiety",
                        (
                            _int("gad7", "GAD-7", "points", 0, 21, lambda s, r: 2 + 10 * s["anxiety"] + r.normal(0, 2.5)),
                            _int("staitrait", "STAI trait", "points", 20, 80, lambda s, r: 33 + 20 * s["anxiety"] + r.normal(0, 6), 0.2),
                        ),
                    ),
                    Group(
                        "sleep",
                        "Sleep",
                        (
                            _int("psqi", "PSQI", "points", 0, 21, lambda s, r: 4 + 6 * s["severity"] + r.normal(0, 2), 0.1),
                            _real(
                                "sleephours", "Sleep a night", "hours", 0, 16, lambda s, r: r.normal(7.4 - 1.1 * s["severity"], 0.9), 1, 0.1
                            ),
                        ),
                    ),
                ),
            ),
            Group(
                "treatment",
                "Treatment",
                (
                    _nominal(
                        "medication",
                        "Medication",
                        [("none", "None"), ("ssri", "SSRI"), ("snri", "SNRI"), ("lithium", "Lithium"), ("other", "Other")],
                        lambda s, r: (
                            "none"
                            if s["category"] == "HC"
                            else r.choice(
                                {"none": 0.2, "ssri": 0.42, "snri": 0.2, "lithium": 0.3 if s["category"] == "BD" else 0.01, "other": 0.1}
                            )
                        ),
                        0.06,
                    ),
                    _nominal(
                        "psychotherapy",
                        "Psychotherapy",
                        [("yes", "Yes"), ("no", "No")],
                        lambda s, r: "yes" if r.chance(0.02 if s["category"] == "HC" else 0.55) else "no",
                        0.08,
                    ),
                    _text("treatmentnote", "Note", lambda s, r: r.choice(dict.fromkeys(NOTES[2:], 1.0)), 0.92),
                ),
            ),
            Group(
                "laboratory",
                "Laboratory",
                (
                    _real(
                        "cortisol",
                        "Cortisol in the morning",
                        "nmol/l",
                        20,
                        1500,
                        lambda s, r: 380 * math.exp(r.normal(0.15 * s["severity"], 0.3)),
                        1,
                        0.35,
                    ),
                    _real(
                        "crp", "C-reactive protein", "mg/l", 0, 200, lambda s, r: 1.3 * math.exp(r.normal(0.2 * s["severity"], 0.8)), 2, 0.3
                    ),
                ),
            ),
            Group(
                "brain",
                "Brain",
                (_real("tiv", "Total intracranial volume", "cm³", 800, 2200, lambda s, r: s["tiv"], 2, 0.0),),
                (
                    Group(
                        "limbic",
                        "Limbic system",
                        _pair("hippocampus", "hippocampus", 3.7, 0.05) + _pair("amygdala", "amygdala", 1.08, 0.06),
                    ),
                    Group("frontal", "Frontal lobe", _pair("anteriorcingulategyrus", "anterior cingulate gyrus", 4.6, 0.06)),
                ),
            ),
        ),
    ),
    _mental_subject,
)

PATHOLOGIES: Dict[str, Pathology] = {pathology.code: pathology for pathology in (DEMENTIA, MENTAL_HEALTH)}

#: What every second hospital does not measure.
SOMETIMES_WITHOUT = {"dementia": ("csfabeta42", "csftau", "csfptau"), "mentalhealth": ("bdi2",)}

SUBJECTCODE = Variable("subjectcode", "Subject code", "text", description="Number of a synthetic subject.")


def plan(hospitals: Sequence[int], pathologies: Sequence[str], seed: int) -> List[Dataset]:
    """Return the datasets that hospitals (numbers from 1) have, in a fixed order.

    Every third hospital treats only the first of the pathologies. Hospital 1 has a second dataset of it, and the last of
    the first two hospitals has one of fewer than ten rows, about which the engine must not say anything.
    """
    datasets = []
    for pathology in pathologies:
        first = pathology == pathologies[0]
        label = PATHOLOGIES[pathology].label
        for hospital in hospitals:
            if not first and hospital % 3 == 0:
                continue
            source = Source(seed, "plan", pathology, hospital)
            # A hospital need not have every variable.
            without = SOMETIMES_WITHOUT[pathology] if hospital % 2 == 0 else ()
            code = f"{pathology}-h{hospital}"
            datasets.append(
                Dataset(code, f"{label}, hospital {hospital} (synthetic)", pathology, hospital, source.integer(300, 1000), without)
            )
            if first and hospital == 1:
                extra = f"{label}, hospital {hospital}, second cohort (synthetic)"
                datasets.append(Dataset(f"{code}-cohort2", extra, pathology, hospital, source.integer(300, 500), without))
            if first and hospital == max(number for number in hospitals if number <= 2 or number == min(hospitals)):
                tiny = f"{label}, hospital {hospital}, pilot (synthetic)"
                datasets.append(Dataset(f"{code}-pilot", tiny, pathology, hospital, source.integer(5, 9), without))
    return datasets


def variables(group: Group) -> Iterator[Variable]:
    """Yield a tree's variables in the order of its databases: a group's own, then those of its groups."""
    yield from group.variables
    for inner in group.groups:
        yield from variables(inner)


def columns(pathology: str, datasets: Sequence[Dataset]) -> List[Variable]:
    """Return all variables of a pathology. `dataset` enumerates what the federation holds of it."""
    enumerations = tuple((dataset.code, dataset.label) for dataset in datasets if dataset.pathology == pathology)
    dataset = Variable("dataset", "Dataset", "nominal", enumerations=enumerations, description="The dataset that a row belongs to.")
    return [dataset, SUBJECTCODE, *variables(PATHOLOGIES[pathology].tree)]


def _described(variable: Variable) -> Dict[str, Any]:
    entry: Dict[str, Any] = {
        "code": variable.code,
        "label": variable.label,
        "description": variable.description or f"{variable.label} of a synthetic subject.",
        "methodology": "synthetic",
        "type": variable.kind,
        "sql_type": variable.sql_type,
        "isCategorical": variable.kind == "nominal",
    }
    if variable.kind == "nominal":
        entry["enumerations"] = [{"code": code, "label": label} for code, label in variable.enumerations]
    if variable.units:
        entry["units"] = variable.units
    if variable.minimum is not None and variable.maximum is not None:
        entry["minValue"], entry["maxValue"] = variable.minimum, variable.maximum
    return entry


def _branch(group: Group) -> Dict[str, Any]:
    entry: Dict[str, Any] = {"code": group.code, "label": group.label}
    if group.variables:
        entry["variables"] = [_described(variable) for variable in group.variables]
    if group.groups:
        entry["groups"] = [_branch(inner) for inner in group.groups]
    return entry


def metadata(pathology: str, datasets: Sequence[Dataset]) -> bytes:
    """Return a pathology's CDEsMetadata.json."""
    found = columns(pathology, datasets)
    tree = PATHOLOGIES[pathology].tree
    root = {
        "code": tree.code,
        "label": tree.label,
        "version": "1.0",
        "variables": [_described(variable) for variable in (*found[:2], *tree.variables)],
        "groups": [_branch(inner) for inner in tree.groups],
    }
    return (json.dumps(root, ensure_ascii=False, indent=2) + "\n").encode()


def _cell(variable: Variable, subject: Subject, source: Source) -> Value:
    """Return one value. The same random numbers are used whether or not a cell stays empty."""
    if variable.generate is None:
        raise ValueError(f"variable {variable.code} has no generator")
    empty = source.chance(variable.missing)
    value = variable.generate(subject, source)
    if empty or value is None or (variable.units == "cm³" and not subject["imaging"]):
        return None
    if variable.kind not in ("real", "integer"):
        return str(value)
    low, high = variable.minimum, variable.maximum
    number = min(max(float(value), float(low if low is not None else value)), float(high if high is not None else value))
    return round(number) if variable.kind == "integer" else round(number, variable.decimals)


def rows(dataset: Dataset, seed: int) -> Iterator[List[Value]]:
    """Yield a dataset's rows, in the order of `columns`. A cell that the CSV leaves out or empty is None."""
    pathology = PATHOLOGIES[dataset.pathology]
    source = Source(seed, "rows", dataset.code)
    wanted = list(variables(pathology.tree))
    for number in range(1, dataset.rows + 1):
        subject = pathology.subject(source, dataset.hospital)
        cells = [_cell(variable, subject, source) for variable in wanted]
        kept = [None if variable.code in dataset.without else cell for variable, cell in zip(wanted, cells)]
        yield [dataset.code, f"{dataset.code}-{number:04d}", *kept]


def table(dataset: Dataset, seed: int) -> bytes:
    """Return a dataset's CSV file."""
    codes = ["dataset", "subjectcode"] + [variable.code for variable in variables(PATHOLOGIES[dataset.pathology].tree)]
    kept = [index for index, code in enumerate(codes) if code not in dataset.without]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([codes[index] for index in kept])
    for row in rows(dataset, seed):
        writer.writerow(["" if row[index] is None else row[index] for index in kept])
    return text.getvalue().encode()


def write_database(path: str, pathology: str, all_datasets: Sequence[Dataset], held: Sequence[Dataset], seed: int) -> None:
    """Write a new datasets.db, with the tables that the engine reads. Raises OSError and sqlite3.Error.

    `all_datasets` are those of the federation, `held` those whose rows the database gets: none on the master.
    """
    found = columns(pathology, all_datasets)
    with open(path, "xb"):
        pass
    os.chmod(path, 0o640)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        text, number = "typeof({0}) = 'text'", "typeof({0}) = 'integer'"
        parts = [("code", "TEXT PRIMARY KEY", text), ("label", "TEXT", text), ("sql_type", "TEXT", text)]
        parts += [("isCategorical", "INTEGER", number), ("enumerations", "TEXT NULL", text + " OR typeof({0}) = 'null'")]
        parts += [(name, "INTEGER NULL", number + " OR typeof({0}) = 'null'") for name in ("min", "max")]
        definition = ", ".join(f"{name} {kind} CHECK ({check.format(name)})" for name, kind, check in parts)
        connection.execute(f"CREATE TABLE METADATA({definition})")
        connection.executemany(
            "INSERT INTO METADATA VALUES (?, ?, ?, ?, ?, NULL, NULL)",
            [
                (
                    variable.code,
                    variable.label,
                    variable.sql_type,
                    int(variable.kind == "nominal"),
                    ",".join(code for code, _label in variable.enumerations) if variable.kind == "nominal" else None,
                )
                for variable in found
            ],
        )
        checks = {"text": "'text'", "int": "'integer'", "real": "'real' OR typeof({0}) = 'integer'"}
        definition = ", ".join(
            f"{v.code} {v.sql_type} CHECK (typeof({v.code}) = {checks[v.sql_type].format(v.code)} OR typeof({v.code}) = 'null')"
            for v in found
        )
        connection.execute(f"CREATE TABLE DATA({definition})")
        marks = ", ".join("?" * len(found))
        for dataset in held:
            # An empty cell of a text column is an empty string in the engine's databases.
            empty = ["" if v.sql_type == "text" and v.code not in dataset.without else None for v in found]
            connection.executemany(
                f"INSERT INTO DATA VALUES ({marks})",  # noqa: S608 - marks only
                ([empty[i] if cell is None else cell for i, cell in enumerate(row)] for row in rows(dataset, seed)),
            )
        connection.execute("COMMIT")
    finally:
        connection.close()
