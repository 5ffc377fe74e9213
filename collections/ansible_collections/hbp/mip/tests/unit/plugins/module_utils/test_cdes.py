# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""CDEsMetadata.json: read with positions, judged by the rules, and written with only the list of datasets changed."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.hbp.mip.plugins.module_utils import _cdes

SAMPLES = next(parent for parent in Path(__file__).parents if (parent / "uv.lock").exists()) / "tests" / "samples"
PATHOLOGIES = ("dementia", "mentalhealth", "tbi")
BROAD = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def sample(name: str) -> bytes:
    return (SAMPLES / name / "CDEsMetadata.json").read_bytes()


def variable(code: str = "age", **fields: Any) -> dict[str, Any]:
    return {"code": code, "label": code.upper(), "sql_type": "real", "isCategorical": False, "type": "real", **fields}


def dataset(*codes: str, **fields: Any) -> dict[str, Any]:
    items = [{"code": code, "label": code.upper()} for code in codes]
    base = {"sql_type": "text", "isCategorical": True, "type": "nominal", "enumerations": items}
    return variable("dataset", **{**base, **fields})


def tree(*variables: Any, **fields: Any) -> dict[str, Any]:
    return {"code": "demo", "label": "Demo", "version": "1", "variables": [dataset("a", "b"), *variables], "groups": [], **fields}


def read(value: Any, **style: Any) -> _cdes.Cdes:
    return _cdes.parse(json.dumps(value, **style).encode())


def codes(cdes: _cdes.Cdes) -> list[str]:
    return [finding.code for finding in cdes.findings]


# -- the published samples -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "count"), [("dementia", 185), ("mentalhealth", 191), ("tbi", 20)])
def test_samples(name: str, count: int) -> None:
    content = sample(name)
    cdes = _cdes.parse(content)
    assert cdes.errors == []
    assert cdes.tree == json.loads(content)
    assert (cdes.code, cdes.version, len(cdes.variables), cdes.longitudinal) == (name, "0.1", count, False)
    assert len(cdes.digests) == count and len(cdes.model) == 64
    for variable in cdes.variables:
        line = content.decode().splitlines()[variable.line - 1]
        assert line[variable.column - 1] == "{"


def test_a_sample_in_detail() -> None:
    cdes = _cdes.parse(sample("dementia"))
    assert cdes.label == "Dementia"
    assert [code for code, _label in cdes.datasets] == ["ppmi", "edsd", "desd-synthdata", "fake_longitudinal"]
    assert [(finding.code, finding.severity, finding.line) for finding in cdes.findings] == [("type", "warning", 32)]
    age = next(variable for variable in _cdes.parse(sample("tbi")).variables if variable.code == "age_value")
    assert (age.sql_type, age.type, age.minimum, age.maximum, age.is_categorical) == ("int", "integer", 0, 130, False)
    assert age.enumerations is None


def test_order_is_that_of_the_tree() -> None:
    inner = {"code": "g2", "label": "G2", "groups": [], "variables": [variable("c")]}
    value = tree(variable("a"), groups=[{"code": "g1", "label": "G1", "groups": [inner], "variables": [variable("b")]}])
    value["groups"].append({"code": "g3", "label": "G3", "variables": [variable("d")]})
    assert [item.code for item in read(value).variables] == ["dataset", "a", "b", "c", "d"]


# -- what cannot be read at all ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "line", "column", "what"),
    [
        (b"", 1, 1, "ends where a value"),
        (b"\xef\xbb\xbf", 1, 1, "ends where a value"),
        (b"[]", 1, 1, "no JSON object"),
        (b" \n 3", 2, 2, "no JSON object"),
        (b'{"a": 1,\n "b": tru}', 2, 7, "no JSON value"),
        (b'{"a": NaN}', 1, 7, "no JSON value"),
        (b'{"a": -Infinity}', 1, 7, "no JSON value"),
        (b'{"a": 1,}', 1, 9, "comma too many"),
        (b'{"a": [1,\r\n]}', 2, 1, "comma too many"),
        (b'{"a": [1 2]}', 1, 10, "']' is missing"),
        (b'{"a": 1 "b": 2}', 1, 9, "'}' is missing"),
        (b'{"a": [1}', 1, 9, "']' is missing"),
        (b'{"a" 1}', 1, 6, "colon"),
        (b"{'a': 1}", 1, 2, "double quotes"),
        (b"{a: 1}", 1, 2, "double quotes"),
        (b'{"a": "b\nc"}', 1, 9, "control character"),
        (b'{"a": "b\\xc"}', 1, 9, "backslash"),
        (b'{"a": "bc}', 1, 7, "closing quote"),
        (b'{"a": {"b": [', 1, 14, "ends where a value"),
        (b'{"a": {"b": 1', 1, 14, "middle of an object"),
        (b'{"a": 01}', 1, 8, "missing here"),
        (b'{"a": .5}', 1, 7, "no JSON value"),
        (b'{"a": \xd9\xa1}', 1, 7, "no JSON value"),
        (b"{} {}", 1, 4, "nothing may follow"),
        (b"{}\x00", 1, 3, "nothing may follow"),
        (b'{"a":\n "\xc3\xa9\xff"}', 2, 4, "not UTF-8"),
        (b"\xff\xfe{\x00}\x00", 1, 1, "not UTF-8"),
        (b'{"a": ' + b"1" * 5000 + b"}", 1, 7, "more than 1000 digits"),
        (b'{"a": ' + b"[" * 2000, 1, 106, "nested deeper than 100"),
        (b'{"a":' * 100000, 1, 501, "nested deeper than 100"),
    ],
)
def test_unreadable(content: bytes, line: int, column: int, what: str) -> None:
    with pytest.raises(_cdes.CdesError) as caught:
        _cdes.parse(content)
    assert (caught.value.line, caught.value.column) == (line, column), caught.value
    assert what in caught.value.message
    assert str(caught.value) == f"line {line}, column {column}: {caught.value.message}"


def test_too_large_and_without_place() -> None:
    with pytest.raises(_cdes.CdesError, match=r"^the file has \d+ bytes") as caught:
        _cdes.parse(b" " * (_cdes.MOST_BYTES + 1))
    assert (caught.value.line, caught.value.column) == (0, 0)


def test_depth_just_allowed() -> None:
    value: Any = {}
    for number in range(_cdes.MOST_DEPTH // 2 - 1):
        value = {"code": f"g{number}", "label": "", "groups": [value]}
    assert isinstance(_cdes.parse(json.dumps(value).encode()).model, str)
    with pytest.raises(_cdes.CdesError):
        _cdes.parse(json.dumps({"groups": [value]}).encode())


# -- rules ---------------------------------------------------------------------------------------------------------------------

ERRORS: list[tuple[Any, str]] = [
    (tree(code=""), "field-missing"),
    (tree(code=3), "field-type"),
    ({**tree(), "code": None}, "field-missing"),
    (tree(variables={}), "field-type"),
    (tree(groups=[3]), "field-type"),
    (tree("age"), "field-type"),
    (tree(groups=[{"label": "G"}]), "field-missing"),
    (tree(groups=[{"code": "g", "label": "G"}, {"code": "g", "label": "G2"}]), "group-duplicate"),
    (tree(variable("", label="X")), "field-missing"),
    (tree(variable("1a")), "variable-code"),
    (tree(variable("a-b")), "variable-code"),
    (tree(variable("a b")), "variable-code"),
    (tree(variable("group")), "variable-word"),
    (tree(variable("Select")), "variable-word"),
    (tree(variable("age"), variable("age")), "variable-duplicate"),
    (tree(variable("age"), groups=[{"code": "g", "label": "G", "variables": [variable("AGE")]}]), "variable-duplicate"),
    (tree(*(variable(f"v{number}") for number in range(2000))), "variables-many"),
    (tree(variable(label=None)), "field-missing"),
    (tree(variable(label=["x"])), "field-type"),
    (tree(variable(sql_type=None)), "field-missing"),
    (tree(variable(sql_type="REAL")), "sql-type"),
    (tree(variable(sql_type="integer")), "sql-type"),
    (tree(variable(isCategorical=None)), "field-missing"),
    (tree(variable(isCategorical="false")), "field-type"),
    (tree(variable(isCategorical=1)), "field-type"),
    (tree(variable(isCategorical=True)), "enumerations-missing"),
    (tree(variable(enumerations={})), "field-type"),
    (tree(variable(enumerations=["a"])), "field-type"),
    (tree(variable(enumerations=[{"code": "a"}])), "field-missing"),
    (tree(variable(enumerations=[{"label": "a"}])), "field-missing"),
    (tree(variable(sql_type="int", enumerations=[{"code": 1, "label": "a"}])), "field-type"),
    (tree(variable(sql_type="text", enumerations=[{"code": "a", "label": "A"}, {"code": "a", "label": "B"}])), "enumeration-duplicate"),
    (tree(variable(sql_type="text", enumerations=[{"code": "a,b", "label": "A"}])), "enumeration-code"),
    (tree(variable(sql_type="text", enumerations=[{"code": "", "label": "A"}])), "enumeration-code"),
    (tree(variable(minValue=1, maxValue=1)), "range-order"),
    (tree(variable(min=1.5, maxValue=0)), "range-order"),
    (tree(variable(minValue="low")), "range-type"),
    (tree(variable(minValue=True)), "range-type"),
    (tree(variable(minValue=0, min=1)), "range-type"),
    (tree(variables=[variable("age")]), "dataset-missing"),
    (tree(variables=[dataset(sql_type="int")]), "dataset-type"),
    (tree(variables=[dataset(isCategorical=False)]), "dataset-type"),
]
WARNINGS: list[tuple[Any, str]] = [
    (tree(label=""), "label-missing"),
    (tree(version=None), "version-missing"),
    (tree(longitudinal="true"), "longitudinal"),
    (tree(groups=[{"code": "g"}]), "label-missing"),
    (tree(variable("größe")), "variable-ascii"),
    (tree(variable(type=None)), "type"),
    (tree(variable(type="number")), "type"),
    (tree(variable(isCategorical=True, enumerations=[])), "enumerations-empty"),
    (tree(variable(sql_type="text", enumerations=[{"code": " a", "label": "A"}])), "enumeration-blank"),
    (tree(variable(sql_type="int", enumerations=[{"code": "a", "label": "A"}])), "enumeration-type"),
    (tree(variable(sql_type="real", enumerations=[{"code": "1.5", "label": "A"}, {"code": "x", "label": "B"}])), "enumeration-type"),
    (tree(variable(sql_type="text", minValue=0)), "range-text"),
    (tree(variables=[dataset(enumerations=None)]), "dataset-enumerations"),
]


@pytest.mark.parametrize(("value", "code"), ERRORS, ids=[f"{number}-{code}" for number, (_value, code) in enumerate(ERRORS)])
def test_errors(value: Any, code: str) -> None:
    cdes = read(value)
    found = {finding.code for finding in cdes.errors}
    assert code in found and found - {code} <= {"dataset-missing"}
    assert cdes.errors[0].line == 1 and cdes.errors[0].column > 0


@pytest.mark.parametrize(("value", "code"), WARNINGS, ids=[f"{number}-{code}" for number, (_value, code) in enumerate(WARNINGS)])
def test_warnings(value: Any, code: str) -> None:
    cdes = read(value)
    assert cdes.errors == []
    assert codes(cdes) == [code]


def test_every_code_of_a_finding_is_documented() -> None:
    named = str(_cdes.Finding.__doc__).replace("\n", " ").replace(".", ",")
    for _value, code in [*ERRORS, *WARNINGS]:
        assert f" {code}," in named, code


def test_fine_variants() -> None:
    assert codes(read(tree(variable("_3rd"), variable(code="age2", min=0, max="130"), longitudinal=False))) == []
    assert codes(read(tree(variable(type="polynominal"), variable("n", minValue=None, enumerations=None, min="")))) == []
    assert codes(read(tree(variables=[], groups=[{"code": "g", "label": "G", "variables": [dataset("x")]}]))) == []
    visits = [variable("subjectid"), variable("visitid")]
    assert codes(read(tree(*visits, longitudinal=True))) == []
    assert codes(read(tree(longitudinal=True))) == ["longitudinal", "longitudinal"]


def test_positions() -> None:
    content = (
        b'{\r\n  "code": "x", "label": "X", "version": "1",\r\n  "variables": [\r\n    {"code": "\xc3\xa9 ", "label": "D"}\r\n  ]\r\n}\r\n'
    )
    found = [(finding.code, finding.line, finding.column) for finding in _cdes.parse(content).findings]
    assert found == [
        ("dataset-missing", 1, 1),
        ("field-missing", 4, 5),
        ("field-missing", 4, 5),
        ("type", 4, 5),
        ("variable-code", 4, 14),
    ]


def test_duplicate_keys_at_any_depth() -> None:
    content = b'{"code": "x", "label": "X", "code": "y",\n "variables": [{"enumerations": [{"label": "A", "code": "a",\n  "code": "b"}]}]}'
    cdes = _cdes.parse(content)
    found = [(finding.line, finding.column) for finding in cdes.findings if finding.code == "duplicate-key"]
    assert found == [(1, 29), (3, 3)]
    assert cdes.code == "y"
    escaped = _cdes.parse(b'{"code": "x", "c\\u006fde": "y"}')
    assert "duplicate-key" in codes(escaped)


def test_byte_order_mark_and_surrogates() -> None:
    content = b"\xef\xbb\xbf" + json.dumps(tree()).encode()
    cdes = _cdes.parse(content)
    assert [(finding.code, finding.severity) for finding in cdes.findings] == [("byte-order-mark", "warning")]
    assert cdes.model == read(tree()).model
    changed = cdes.with_datasets([("z", "Z")])
    assert changed.startswith(b"\xef\xbb\xbf{") and _cdes.parse(changed).datasets == [("z", "Z")]
    half = _cdes.parse(b'{"code": "\\ud800", "label": "\\ud83d\\ude00"}')
    assert [finding.code for finding in half.errors] == ["dataset-missing", "surrogate"]
    assert (half.code, half.label) == ("\ufffd", "\U0001f600")


def test_numbers_beyond_all_bounds() -> None:
    cdes = _cdes.parse(b'{"code": "x",\n "x": [1e999, -1e999, 1e-999, 1e308]}')
    assert [(finding.line, finding.column) for finding in cdes.errors if finding.code == "number-range"] == [(2, 8), (2, 15)]


def test_findings_are_limited() -> None:
    cdes = read(tree(*({} for _number in range(5000))))
    assert len(cdes.findings) == _cdes.MOST_FINDINGS + 1
    assert cdes.findings[-1].code == "findings-many"
    twice = _cdes.parse(b'{"a":0' + b',"a":0' * 100000 + b"}")
    assert len(twice.findings) == _cdes.MOST_FINDINGS + 1


# -- model and digests ---------------------------------------------------------------------------------------------------------


def test_model_is_that_of_the_meaning() -> None:
    value = tree(variable("age", description="é"), variable("sex"))
    base = read(value)
    assert read(value, indent=4, ensure_ascii=False, sort_keys=True).model == base.model
    assert read({**value, "variables": [dataset("other"), *value["variables"][1:]]}).model == base.model
    changed = copy.deepcopy(value)
    changed["variables"][1]["label"] = "Years"
    other = read(changed)
    assert other.model != base.model
    assert {code for code in base.digests if base.digests[code] != other.digests[code]} == {"age"}
    assert base.tree == value, "asking for digests leaves the tree as it was"
    assert list(base.tree["variables"][0]) == list(value["variables"][0]), "and its order"


def test_model_does_not_count_the_list_of_datasets_at_all() -> None:
    models = set()
    for fields in ({}, {"enumerations": []}):
        models.add(read(tree(variables=[dataset("a", **fields)])).model)
    bare = dataset("a")
    del bare["enumerations"]
    models.add(read(tree(variables=[bare])).model)
    assert len(models) == 1


# -- writing -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PATHOLOGIES)
def test_writing_samples(name: str) -> None:
    content = sample(name)
    cdes = _cdes.parse(content)
    assert cdes.with_datasets(cdes.datasets) is content
    entries = [*cdes.datasets[1:], ("new_one", 'Étude "1"\\2\n')]
    new = _cdes.parse(cdes.with_datasets(entries))
    assert new.datasets == entries and new.model == cdes.model
    # what a formatter in the file's style would write; of the numbers (36.00) it would not keep the spelling
    expected = json.loads(content)
    expected["variables"][0]["enumerations"] = [{"code": code, "label": label} for code, label in entries]
    text = json.dumps(expected, indent=2 if name == "tbi" else 4, ensure_ascii=False)
    written = re.sub(r"(\.[0-9]+?)0+,\n", r"\1,\n", new.content.decode())
    assert written.strip("\n") == text
    assert _cdes.parse(new.content).with_datasets(cdes.datasets) == content, "there and back again gives the same bytes"


STYLES: list[tuple[str, dict[str, Any], str]] = [
    ("indent-2", {"indent": 2}, "\n"),
    ("indent-4", {"indent": 4}, "\n"),
    ("tabs", {"indent": "\t"}, "\n"),
    ("windows", {"indent": 3}, "\r\n"),
    ("old-mac", {"indent": 3}, "\r"),
    ("one-line", {}, "\n"),
    ("tight", {"separators": (",", ":")}, "\n"),
    ("no-step", {"indent": 0}, "\n"),
    ("spaced", {"indent": 2, "separators": (",", " : ")}, "\n"),
]


@pytest.mark.parametrize(("name", "style", "newline"), STYLES, ids=[item[0] for item in STYLES])
@pytest.mark.parametrize("place", ["root", "group"])
@pytest.mark.parametrize("before", ["absent", "empty", "null", "one", "two"])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_writing_in_the_style_of_the_file(name: str, style: dict[str, Any], newline: str, place: str, before: str, after: int) -> None:
    listed: dict[str, Any] = {"empty": [], "null": None, "one": ["x"], "two": ["x", "y"]}
    wanted = [("n0", "Zéro"), ("x", "X"), ("n2", "Two")][:after]

    def value(items: Any) -> Any:
        made = dataset()
        del made["enumerations"]
        if items is not None or before == "null":
            made["enumerations"] = items
        if place == "root":
            return tree(variable("age"), variables=[variable("age"), made])
        return tree(variables=[variable("age")], groups=[{"code": "g", "label": "G", "variables": [made, variable("sex")]}])

    def text(items: Any) -> bytes:
        return json.dumps(value(items), ensure_ascii=False, **style).replace("\n", newline).encode()

    items = listed.get(before)
    content = text([{"code": code, "label": code.upper()} for code in items] if items is not None else None)
    new = _cdes.parse(content).with_datasets(wanted)
    expected = [{"code": code, "label": label} for code, label in wanted]
    if name == "no-step" and before in ("absent", "empty", "null"):
        assert json.loads(new) == value(expected)
    else:
        assert new == text(expected)


def test_writing_keeps_what_is_written_by_hand() -> None:
    content = (
        b'{ "code":"x","label":"X", "version":"1",\n\t"variables" : [ { "code" : "dataset","label":"D", "isCategorical":true,\n'
        b'    "enumerations": [ {"label":"A","code":"a"},\n  {"code":"b", "label":"B", "note": "kept"},\n'
        b'  {"code":"c","label":"\\u0043"}  ],"sql_type":"text","type":"nominal" }],"n":1.50e+0,"u":"\\u00e9" }'
    )
    cdes = _cdes.parse(content)
    assert cdes.errors == []
    new = cdes.with_datasets([("b", "B"), ("c", "C"), ("d", "É")])
    expected = content.replace(b'{"label":"A","code":"a"},\n  ', b"").replace(
        b'"\\u0043"}', b'"\\u0043"},\n  {"label":"\\u00c9","code":"d"}'
    )
    assert new == expected


def test_writing_without_a_plain_item_to_copy() -> None:
    for items in (
        '[{"code":"a","label":"A","x":1}]',
        '["a"]',
        '[{"code":"a"}]',
        '[{"code":1,"label":"A"}]',
        '[{"code":"a","label":"A","label":"B"}]',
    ):
        content = json.dumps(tree(variables=[dataset()])).replace('"enumerations": []', '"enumerations": ' + items).encode()
        new = _cdes.parse(content).with_datasets([("n", "N")])
        assert new == json.dumps(tree(variables=[dataset("n")])).encode()


def test_writing_needs_the_variable() -> None:
    with pytest.raises(_cdes.CdesError, match="no variable dataset"):
        read(tree(variables=[])).with_datasets([])


# -- any bytes, any value ------------------------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
WORDS = st.sampled_from(
    ["code", "label", "version", "variables", "groups", "enumerations", "dataset", "sql_type", "isCategorical", "type", "minValue", "max"]
)
VALUES = st.recursive(
    SCALARS | WORDS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(WORDS | st.text(), inner, max_size=6), max_leaves=25
)
OBJECTS = st.dictionaries(WORDS | st.text(), VALUES, max_size=8)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,20}", fullmatch=True)
ENTRIES = st.lists(st.tuples(NAMES, st.text()), max_size=8, unique_by=lambda entry: entry[0])
JSON_STYLES = st.fixed_dictionaries(
    {
        "indent": st.sampled_from([None, 0, 1, 2, 4, "\t"]),
        "ensure_ascii": st.booleans(),
        "separators": st.sampled_from([(",", ":"), (", ", ": "), (" , ", " :  ")]),
        "sort_keys": st.booleans(),
    }
)


def survives(content: bytes) -> None:
    """Whatever the bytes: an answer that holds together, or a CdesError."""
    try:
        cdes = _cdes.parse(content)
    except _cdes.CdesError as error:
        assert error.line >= 0 and error.column >= 0
        return
    assert isinstance(cdes.tree, dict) and isinstance(cdes.model, str)
    assert all(len(digest) == 12 for digest in cdes.digests.values())
    for finding in cdes.findings:
        assert (finding.line >= 1 and finding.column >= 1) or finding.code == "findings-many"
        assert finding.severity in ("error", "warning")
    try:
        new = cdes.with_datasets([("a", "A")])
    except _cdes.CdesError:
        assert "dataset" not in cdes.digests
    else:
        assert _cdes.parse(new).datasets == [("a", "A")]
    assert cdes.with_datasets(cdes.datasets) if "dataset" in cdes.digests else True


@BROAD
@given(st.binary(max_size=400))
def test_any_bytes(content: bytes) -> None:
    survives(content)
    survives(b"{" + content + b"}")


@BROAD
@given(st.data())
def test_any_damage_to_a_file(data: st.DataObject) -> None:
    content = bytearray(json.dumps(tree(variable("age", minValue=0, maxValue=1.5))).encode())
    for _number in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, 6))
        content[at : at + length] = data.draw(
            st.binary(max_size=6) | st.sampled_from([b'"', b"{", b"}", b"[", b"]", b",", b"\\u", b"null"])
        )
    survives(bytes(content))


@BROAD
@given(VALUES, JSON_STYLES)
def test_agrees_with_the_json_module(value: Any, style: dict[str, Any]) -> None:
    if not isinstance(value, dict):
        value = {"value": value}
    content = json.dumps(value, **style).encode()
    cdes = _cdes.parse(content)
    assert json.dumps(cdes.tree) == json.dumps(json.loads(content)), "the same values in the same order"
    assert "duplicate-key" not in codes(cdes)


@BROAD
@given(st.text(max_size=60))
def test_refuses_what_the_json_module_refuses(text: str) -> None:
    content = ('{"a":' + text + "}").encode()
    try:
        json.loads(content, parse_constant=lambda word: int("no constant"))
        valid = True
    except ValueError:
        valid = False
    try:
        _cdes.parse(content)
        assert valid
    except _cdes.CdesError:
        assert not valid


@BROAD
@given(OBJECTS, ENTRIES, ENTRIES, JSON_STYLES, st.sampled_from(["list", "none", "null", "odd"]), st.booleans(), st.booleans())
def test_only_the_list_changes(
    other: dict[str, Any], old: list[Any], new: list[Any], style: dict[str, Any], was: str, nested: bool, windows: bool
) -> None:
    made: dict[str, Any] = {"label": "Dataset", **{key: value for key, value in other.items() if key not in ("enumerations", "code")}}
    made["code"] = "dataset"
    if was != "none":
        made["enumerations"] = "@here@"
    rest = {key: value for key, value in other.items() if key not in ("variables", "groups")}
    value = {**rest, "groups": [{"code": "g", "variables": [made]}]} if nested else {**rest, "variables": [made], "more": other}
    text = json.dumps(value, **style)
    items = json.dumps([{"code": code, "label": label} for code, label in old], **style)
    before, _here, after = text.partition('"@here@"')
    text = text.replace('"@here@"', {"list": items, "null": "null", "odd": '"text"'}.get(was, ""))
    if windows:
        text, before, after = (part.replace("\n", "\r\n") for part in (text, before, after))
    cdes = _cdes.parse(text.encode())
    if was == "list":
        assert cdes.with_datasets(old) is cdes.content
    changed = cdes.with_datasets(new)
    again = _cdes.parse(changed)
    assert again.datasets == new and again.model == cdes.model
    assert again.with_datasets(new) is changed
    expected = json.loads(text)
    place = (expected["groups"][0] if nested else expected)["variables"][0]
    place["enumerations"] = [{"code": code, "label": label} for code, label in new]
    assert json.loads(changed) == expected
    if was == "none":
        at = next((at for at, (one, two) in enumerate(zip(cdes.content, changed, strict=False)) if one != two), len(cdes.content))
        assert changed.endswith(cdes.content[at:]), "something was put in, nothing was taken out"
    else:
        assert changed.startswith(before.encode()) and changed.endswith(after.encode())
        assert len(changed) >= len(before.encode()) + len(after.encode()) + 2


def test_time_is_bounded() -> None:
    hard = [
        b"{" + b'"a":[],' * 100000 + b'"b":1}',
        b'{"a":"' + b"\\u0041" * 300000 + b'"}',
        b'{"a":"' + b"\\" * 1000001 + b'"}',
        b'{"variables":[' + b'{"code":"a"},' * 50000 + b"{}]}",
        b"\n" * 1000000 + b"x",
        b"{" + b" " * 1000000,
        b'{"a":' + b"9" * 1000 + b"}",
    ]
    for content in hard:
        began = time.process_time()
        survives(content)
        assert time.process_time() - began < 5


def test_a_real_file_is_read_quickly() -> None:
    content = sample("dementia")
    best = 9.0
    for _number in range(5):
        began = time.process_time()
        cdes = _cdes.parse(content)
        assert cdes.model and cdes.digests
        best = min(best, time.process_time() - began)
    assert best < 0.06


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10", "3.12", "3.13"])
def test_same_on_the_pythons_of_the_hosts(version: str) -> None:
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python3"))
    if not found:
        pytest.skip(f"no Python {version} on this machine")
    code = (
        "import importlib.util, json, sys\n"
        "spec = importlib.util.spec_from_file_location('_cdes', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec); sys.modules['_cdes'] = module; spec.loader.exec_module(module)\n"
        "cdes = module.parse(open(sys.argv[2], 'rb').read())\n"
        "new = cdes.with_datasets([('n', 'N')])\n"
        "print(json.dumps([cdes.model, cdes.digests, cdes.findings, new.decode()]))\n"
    )
    arguments = [_cdes.__file__, str(SAMPLES / "dementia" / "CDEsMetadata.json")]
    answers = [
        subprocess.run([python, "-c", code, *arguments], capture_output=True, text=True, check=True).stdout
        for python in (str(found[-1]), sys.executable)
    ]
    assert answers[0] == answers[1]
