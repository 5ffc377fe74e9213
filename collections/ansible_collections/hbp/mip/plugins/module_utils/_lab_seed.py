# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Synthetic patients for labs: variables and rows, all calculated from a seed. No real person is behind them."""

from __future__ import annotations

import csv
import io
import json
import math
import random
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

#: Changes whenever the same seed gives other data from now on.
GENERATOR = 2

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


def _points(value: float, low: int, high: int) -> int:
    return min(high, max(low, round(value)))


def _tbi_subject(source: Source, hospital: int) -> Subject:
    severity = max(0.0, {"mild": 0.12, "moderate": 0.55, "severe": 1.0}[source.choice({"mild": 0.55, "moderate": 0.17, "severe": 0.28})])
    severity = max(0.0, severity + source.normal(0, 0.13))
    cause = source.choice({"road": 0.38, "fall": 0.44, "violence": 0.07, "sport": 0.06, "other": 0.05})
    age = min(96.0, max(16.0, source.normal(64 if cause == "fall" else 39, 18)))
    eye = _points(4.2 - 2.9 * severity + source.normal(0, 0.4), 1, 4)
    motor = _points(6.6 - 4.3 * severity + source.normal(0, 0.6), 1, 6)
    verbal = _points(5.3 - 3.9 * severity + source.normal(0, 0.5), 1, 5)
    pupils = source.choice({"2": 1.2, "1": 0.2 * severity, "0": 0.35 * severity**2})
    hypoxia, hypotension = source.chance(0.03 + 0.14 * severity), source.chance(0.02 + 0.12 * severity)
    outcome = 8.1 - 3.7 * severity - 0.028 * max(0.0, age - 40) - {"2": 0.0, "1": 0.7, "0": 1.9}[pupils]
    gose = _points(outcome - 0.6 * hypoxia - 0.8 * hypotension + source.normal(0, 1.1), 1, 8)
    # A vegetative state is rare half a year later.
    if gose == 2 and source.chance(0.8):
        gose = 1 if source.chance(0.6) else 3
    return {
        "severity": severity,
        "cause": cause,
        "age": age,
        "sex": source.choice({"F": 0.33, "M": 0.67}),
        "eye": eye,
        "motor": motor,
        "verbal": verbal,
        "pupils": pupils,
        "hypoxia": hypoxia,
        "hypotension": hypotension,
        "gose": gose,
        "tomography": source.chance(0.72 + 0.27 * min(severity, 1.0)),
        "mass": source.chance(0.06 + 0.3 * severity),
        "shift": max(0.0, source.normal(9 * severity - 4, 3)),
        "intensive": source.chance(min(0.98, 0.12 + 0.95 * severity)),
        "site": ((hospital * 15485863) % 17 - 8) / 8,
    }


def _finding(share: float, weight: float) -> Generate:
    """Return what makes a finding of the tomography: present or absent, or nothing without a tomography."""

    def generate(subject: Subject, source: Source) -> Any:
        present = source.chance(min(0.95, share + weight * subject["severity"]))
        return ("present" if present else "absent") if subject["tomography"] else None

    return generate


def _marshall(subject: Subject, source: Source) -> Any:
    evacuated = source.chance(0.75)
    if not subject["tomography"]:
        return None
    if subject["mass"]:
        return "5" if evacuated else "6"
    if subject["shift"] > 5:
        return "4"
    return "3" if subject["severity"] > 0.85 else "2" if subject["severity"] > 0.22 else "1"


def _protein(median: float, factor: float, spread: float) -> Generate:
    """Return what makes the concentration of a protein from injured tissue."""

    def generate(subject: Subject, source: Source) -> float:
        return float(median * math.exp(factor * subject["severity"] + 0.1 * subject["site"] + source.normal(0, spread)))

    return generate


def _yes(share: float, weight: float) -> Generate:
    return lambda subject, source: "yes" if source.chance(min(0.97, share + weight * subject["severity"])) else "no"


YES_NO = (("yes", "Yes"), ("no", "No"))
PRESENT_ABSENT = (("present", "Present"), ("absent", "Absent"))
TBI_NOTES = ("transfer, second hospital", "relatives' report", 'arrival "unclear"', "Zürich, air rescue", "anticoagulation, 1,2 mg/dl")
GOSE = (
    ("1", "Dead"),
    ("2", "Vegetative state"),
    ("3", "Lower severe disability"),
    ("4", "Upper severe disability"),
    ("5", "Lower moderate disability"),
    ("6", "Upper moderate disability"),
    ("7", "Lower good recovery"),
    ("8", "Upper good recovery"),
)
MARSHALL = (
    ("1", "Diffuse injury I, no visible pathology"),
    ("2", "Diffuse injury II"),
    ("3", "Diffuse injury III, swelling"),
    ("4", "Diffuse injury IV, shift"),
    ("5", "Evacuated mass lesion"),
    ("6", "Mass lesion not evacuated"),
)

TBI = Pathology(
    "tbi",
    "Traumatic brain injury",
    Group(
        "tbi",
        "Traumatic brain injury",
        groups=(
            Group(
                "demographics",
                "Demographics",
                (
                    _int("subjectageyears", "Age", "years", 16, 120, lambda s, r: s["age"], 0.0),
                    _nominal("gender", "Gender", SEX, lambda s, r: s["sex"]),
                ),
            ),
            Group(
                "injury",
                "Injury",
                (
                    _nominal(
                        "injurycause",
                        "Cause of the injury",
                        [("road", "Road traffic"), ("fall", "Fall"), ("violence", "Violence"), ("sport", "Sport"), ("other", "Other")],
                        lambda s, r: s["cause"],
                        0.02,
                    ),
                    _real(
                        "hourstohospital", "Time to the hospital", "hours", 0, 72, lambda s, r: 1.1 * math.exp(r.normal(0, 0.7)), 2, 0.08
                    ),
                    _nominal("hypoxia", "Hypoxic episode", YES_NO, lambda s, r: "yes" if s["hypoxia"] else "no", 0.06),
                    _nominal("hypotension", "Hypotensive episode", YES_NO, lambda s, r: "yes" if s["hypotension"] else "no", 0.06),
                ),
            ),
            Group(
                "neurology",
                "Neurological assessment",
                (
                    _nominal(
                        "pupils",
                        "Pupils that react to light",
                        [("2", "Both"), ("1", "One"), ("0", "None")],
                        lambda s, r: s["pupils"],
                        0.05,
                    ),
                ),
                (
                    Group(
                        "glasgowcomascale",
                        "Glasgow Coma Scale",
                        (
                            _int("gcseye", "Eye response", "points", 1, 4, lambda s, r: s["eye"], 0.04),
                            _int("gcsmotor", "Motor response", "points", 1, 6, lambda s, r: s["motor"], 0.04),
                            # The verbal response of an intubated patient cannot be tested.
                            _int("gcsverbal", "Verbal response", "points", 1, 5, lambda s, r: s["verbal"], 0.14),
                            _int("gcstotal", "Total", "points", 3, 15, lambda s, r: s["eye"] + s["motor"] + s["verbal"]),
                        ),
                    ),
                ),
            ),
            Group(
                "tomography",
                "Computed tomography",
                (
                    _nominal("marshall", "Marshall classification", MARSHALL, _marshall, 0.03),
                    _nominal(
                        "cisterns",
                        "Basal cisterns",
                        [("open", "Open"), ("compressed", "Compressed"), ("absent", "Absent")],
                        lambda s, r: (
                            r.choice({"open": 1.0, "compressed": 0.6 * s["severity"], "absent": 0.3 * s["severity"] ** 2})
                            if s["tomography"]
                            else None
                        ),
                        0.05,
                    ),
                    _real("midlineshift", "Midline shift", "mm", 0, 40, lambda s, r: s["shift"] if s["tomography"] else None, 1, 0.06),
                ),
                (
                    Group(
                        "haemorrhage",
                        "Haemorrhage",
                        (
                            _nominal("epiduralhaematoma", "Epidural haematoma", PRESENT_ABSENT, _finding(0.05, 0.1), 0.03),
                            _nominal("subduralhaematoma", "Subdural haematoma", PRESENT_ABSENT, _finding(0.12, 0.32), 0.03),
                            _nominal("subarachnoidhaemorrhage", "Subarachnoid haemorrhage", PRESENT_ABSENT, _finding(0.18, 0.42), 0.03),
                        ),
                    ),
                ),
            ),
            Group(
                "laboratory",
                "Laboratory",
                (
                    _real(
                        "glucose",
                        "Glucose at admission",
                        "mmol/l",
                        1.54,
                        40,
                        lambda s, r: 6.4 * math.exp(r.normal(0.3 * s["severity"], 0.2)),
                        2,
                        0.12,
                    ),
                    _real(
                        "haemoglobin",
                        "Haemoglobin at admission",
                        "g/dl",
                        2.9,
                        22,
                        lambda s, r: r.normal((14.3 if s["sex"] == "M" else 12.9) - 1.7 * s["severity"], 1.4),
                        1,
                        0.1,
                    ),
                ),
                (
                    Group(
                        "biomarkers",
                        "Biomarkers",
                        (
                            _real("s100b", "S100B", "µg/l", 0.005, 60, _protein(0.09, 1.7, 0.5), 3, 0.3),
                            _real("gfap", "GFAP", "ng/ml", 0.01, 500, _protein(0.6, 3.4, 0.9), 3, 0.4),
                            _real("uchl1", "UCH-L1", "pg/ml", 5, 50000, _protein(90, 2.1, 0.6), 1, 0.4),
                            _real("nfl", "Neurofilament light", "pg/ml", 0.5, 5000, _protein(11, 1.6, 0.6), 2, 0.4),
                        ),
                    ),
                ),
            ),
            Group(
                "treatment",
                "Treatment",
                (
                    _nominal("intubation", "Intubation", YES_NO, _yes(0.02, 0.85), 0.03),
                    _nominal("craniotomy", "Craniotomy", YES_NO, _yes(0.02, 0.3), 0.03),
                    _int(
                        "intensivecaredays",
                        "Days in intensive care",
                        "days",
                        0,
                        180,
                        lambda s, r: (2 + 10 * s["severity"]) * math.exp(r.normal(-0.2, 0.6)) if s["intensive"] else 0,
                        0.05,
                    ),
                    _real(
                        "intracranialpressure",
                        "Mean intracranial pressure",
                        "mmHg",
                        -5,
                        100,
                        lambda s, r: r.normal(10 + 7 * s["severity"], 4) if s["intensive"] and s["severity"] > 0.6 else None,
                        1,
                        0.15,
                    ),
                    _text("treatmentnote", "Note", lambda s, r: r.choice(dict.fromkeys(TBI_NOTES, 1.0)), 0.92),
                ),
            ),
            Group(
                "outcome",
                "Outcome after six months",
                (
                    _nominal("gose", "Glasgow Outcome Scale Extended", GOSE, lambda s, r: str(s["gose"]), 0.1),
                    _real(
                        "qolibri",
                        "QOLIBRI",
                        "points",
                        0,
                        100,
                        lambda s, r: 22 + 7.4 * s["gose"] + r.normal(0, 11) if s["gose"] > 2 else None,
                        1,
                        0.3,
                    ),
                ),
            ),
        ),
    ),
    _tbi_subject,
)

PATHOLOGIES: Dict[str, Pathology] = {pathology.code: pathology for pathology in (DEMENTIA, MENTAL_HEALTH, TBI)}

#: What every second hospital does not measure.
SOMETIMES_WITHOUT = {"dementia": ("csfabeta42", "csftau", "csfptau"), "mentalhealth": ("bdi2",), "tbi": ("gfap", "uchl1", "nfl")}

SUBJECTCODE = Variable("subjectcode", "Subject code", "text", description="Number of a synthetic subject.")


def treats(hospital: int, place: int, pathologies: int) -> bool:
    """Tell whether a hospital (a number from 1) treats the pathology at a place (from 0) among so many.

    Up to two pathologies are treated everywhere. Of more, every hospital leaves out one, another one than its neighbours:
    of three, hospital 1 leaves out the last, hospital 2 the second and hospital 3 the first, so that among three hospitals
    in a row each pathology is treated by two.
    """
    return pathologies < 3 or (hospital + place) % pathologies != 0


def plan(hospitals: Sequence[int], pathologies: Sequence[str], seed: int) -> List[Dataset]:
    """Return the datasets that hospitals (numbers from 1) have, in a fixed order. `treats` says who has which pathology.

    Hospital 1 has a second dataset of the first pathology, and the last of the first two hospitals has one of fewer than
    ten rows, about which the engine must not say anything.
    """
    datasets = []
    for place, pathology in enumerate(pathologies):
        label = PATHOLOGIES[pathology].label
        holders = [hospital for hospital in hospitals if treats(hospital, place, len(pathologies))]
        for hospital in holders:
            source = Source(seed, "plan", pathology, hospital)
            # A hospital need not have every variable.
            without = SOMETIMES_WITHOUT[pathology] if hospital % 2 == 0 else ()
            code = f"{pathology}-h{hospital}"
            datasets.append(
                Dataset(code, f"{label}, hospital {hospital} (synthetic)", pathology, hospital, source.integer(300, 1000), without)
            )
            if place == 0 and hospital == 1:
                extra = f"{label}, hospital {hospital}, second cohort (synthetic)"
                datasets.append(Dataset(f"{code}-cohort2", extra, pathology, hospital, source.integer(300, 500), without))
            if place == 0 and hospital == max(number for number in holders if number <= 2 or number == min(holders)):
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
