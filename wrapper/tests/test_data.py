# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands `mipfed data …`: runs of real playbooks that hand over reports, questions on a real terminal, the label file."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ruamel.yaml import YAML

from mipfed import labels
from mipfed.errors import MipfedError
from mipfed.exitcodes import ExitCode
from mipfed.labels import Key

from .conftest import Project
from .test_runs import ANSWER, unreachable
from .test_trust import on_terminal

PLAN_ID = "5d41402abc4b2a76b9719d911017c592ae1b1d8e1c2e5bd2b2d4b5a0a3e9f6d1"

PLAN: dict[str, Any] = {
    "id": PLAN_ID,
    "changes": 3,
    "pathologies": {
        "dementia": {
            "label": "Dementia [red]",
            "version": "v1",
            "source": "master",
            "before": "a" * 64,
            "after": "b" * 64,
            "changed": True,
            "datasets": [
                {"code": "edsd", "label": "EDSD", "nodes": ["fed-wk-1"], "rows": 1437, "state": "kept"},
                {"code": "ppmi", "label": "PPMI", "nodes": ["fed-wk-1", "fed-wk-2"], "rows": "<10", "state": "new"},
                {"code": "adni", "label": "ADNI", "nodes": ["fed-wk-2"], "rows": 51, "state": "absent"},
                {"code": "gone", "label": "Gone", "nodes": [], "rows": 0, "state": "removed"},
            ],
        },
        "tbi": {
            "label": "TBI",
            "version": "0.1",
            "source": "master",
            "before": "c" * 64,
            "after": "c" * 64,
            "changed": False,
            "datasets": [{"code": "dummy_tbi", "label": "DUMMY_TBI", "nodes": ["fed-wk-2"], "rows": 1000, "state": "kept"}],
        },
    },
}
STRUCTURE = [
    {
        "name": "dementia",
        "nodes": [{"name": "fed-wk-1", "datasets": [{"name": "edsd"}]}, {"name": "fed-wk-2", "datasets": [{"name": "ppmi"}]}],
    },
    {"name": "tbi", "nodes": [{"name": "fed-wk-2", "datasets": [{"name": "dummy_tbi"}]}]},
]


def handed_out(*, changed: bool) -> dict[str, Any]:
    """Return what the report says of files on the nodes."""
    file = {"path": "dementia/CDEsMetadata.json", "before": "a" * 64, "after": "b" * 64, "changed": changed}
    portal = {"path": "pathologies.json", "before": "", "after": "d" * 64, "changed": changed}
    members = {name: {"files": [file], "ok": True, "error": ""} for name in ("fed-ms", "fed-wk-1")}
    return {"fed-ui": {"files": [portal], "ok": True, "error": ""}, **members}


def consolidation(*, changed: bool = True, **more: Any) -> dict[str, Any]:
    """Return a report of consolidate."""
    return {
        "plan": PLAN,
        "distributed": handed_out(changed=changed),
        "portal": {"sha256": "d" * 64, "changed": changed},
        "labels_file": "labels.yml",
        "labels_changed": changed,
        "catalogue": {},
        "structure": STRUCTURE,
        "warnings": [{"node": "fed-wk-1", "code": "w", "message": "something [bold]odd[/bold]", "fix": "look"}],
        "away": [],
        "problems": [],
        **more,
    }


#: Reports what DATA says, and keeps in `seen.jsonl` what each run was given.
CONSOLIDATE = """\
- name: Work it out
  hosts: fed-pusher
  gather_facts: false
  tasks:
    - name: Keep what was given
      ansible.builtin.shell:
        cmd: cat >> {{ inventory_dir }}/seen.jsonl
        stdin: "{{ seen | to_json }}"
      vars:
        seen:
          check: "{{ ansible_check_mode }}"
          diff: "{{ ansible_diff_mode }}"
          online: "{{ data_online_cdes | default('unset') }}"
          protocol: "{{ data_catalogue_protocol | default('unset') }}"
          host: "{{ data_catalogue_host | default('unset') }}"
          drop: "{{ data_drop_absent | default('unset') }}"
          expected: "{{ data_expected_plan | default('unset') }}"
          command: "{{ lookup('ansible.builtin.env', 'MIPFED_COMMAND') }}"
      check_mode: false
      changed_when: false
    - name: Work out what every node should have
      hbp.mip.cde_consolidate:
        answer: {changed: false, diff: DIFF}
    - name: "Report: consolidate"
      hbp.mip.answer:
        answer: {mip_report: {verb: consolidate, schema: 1, data: DATA}}
"""
DIFF = [
    {
        "before_header": "dementia/CDEsMetadata.json",
        "after_header": "dementia/CDEsMetadata.json",
        "before": '{"code": "edsd"}\n',
        "after": '{"code": "edsd"}\n{"code": "ppmi"}\n',
    },
    {"before_header": "tbi/CDEsMetadata.json", "after_header": "tbi/CDEsMetadata.json", "before": "of tbi\n", "after": "of tbi too\n"},
]


@pytest.fixture(autouse=True)
def _answer(project: Project) -> None:
    project.module("answer", ANSWER)
    project.module("cde_consolidate", ANSWER)
    project.environment["COLUMNS"] = "160"


def consolidating(project: Project, report: dict[str, Any]) -> Path:
    """Write a federation and its playbook consolidate; return the inventory directory."""
    folder = project.federation()
    project.playbook("consolidate", CONSOLIDATE.replace("DIFF", json.dumps(DIFF)).replace("DATA", json.dumps(report)))
    return folder


def seen(folder: Path) -> list[dict[str, Any]]:
    """Return what each run was given."""
    decoder, text, found = json.JSONDecoder(), (folder / "seen.jsonl").read_text(encoding="utf-8"), []
    while text.strip():
        entry, end = decoder.raw_decode(text.lstrip())
        found.append(entry)
        text = text.lstrip()[end:]
    return found


def test_check_shows_the_plan_and_stops(project: Project) -> None:
    folder = consolidating(project, consolidation())
    done = project.run("-f", "fed", "data", "consolidate", "--check")
    assert done.code == ExitCode.OK, done.err
    for text in ("Dementia [red]", "1 437", "<10", "absent, kept", "removed", "aaaaaaaaaaaa → bbbbbbbbbbbb", "something [bold]odd[/bold]"):
        assert text in done.out
    assert "fed-wk-1, fed-wk-2" in done.out
    assert "fed-ui" in done.out
    assert "pathologies.json" in done.out
    assert '+{"code": "ppmi"}' not in done.out
    assert "next: mipfed -f fed data consolidate\n" in done.err
    (run,) = seen(folder)
    assert (run["check"], run["diff"], run["expected"], run["online"]) == (True, True, "unset", "unset")
    with_diff = project.run("-f", "fed", "data", "consolidate", "--check", "--diff")
    assert '+{"code": "ppmi"}' in with_diff.out
    assert "+of tbi too" in with_diff.out


def test_yes_is_one_run_and_shows_the_plan(project: Project) -> None:
    folder = consolidating(project, consolidation())
    done = project.run("-f", "fed", "data", "consolidate", "-y", "--drop-absent")
    assert done.code == ExitCode.OK, done.err
    assert "absent, kept" in done.out
    assert "Replaced 3 files on 3 nodes: fed-ui, fed-ms, fed-wk-1." in done.out
    assert "next: mipfed -f fed data compile" in done.err
    (run,) = seen(folder)
    assert (run["check"], run["drop"], run["expected"]) == (False, True, "unset")
    assert run["command"] == "mipfed -f fed data consolidate --drop-absent"


def test_nothing_to_do_is_not_asked_about(project: Project) -> None:
    folder = consolidating(project, consolidation(changed=False))
    done = project.run("-f", "fed", "data", "consolidate")
    assert done.code == ExitCode.OK, done.err
    assert "Nothing to do." in done.out
    assert "next:" not in done.err
    assert [run["check"] for run in seen(folder)] == [True]
    yes = project.run("-f", "fed", "data", "consolidate", "-y", "-o", "json")
    assert (yes.code, yes.document["result"]["applied"]) == (ExitCode.OK, False)


def test_without_a_terminal_the_plan_is_shown_and_nothing_applied(project: Project) -> None:
    folder = consolidating(project, consolidation())
    done = project.run("-f", "fed", "data", "consolidate")
    assert done.code == ExitCode.DECLINED
    assert "DUMMY_TBI" in done.out
    assert "next: Give -y" in done.err
    assert [run["check"] for run in seen(folder)] == [True]
    document = project.run("-f", "fed", "data", "consolidate", "-o", "json").document
    assert (document["exit_code"], document["result"]["plan"]["id"], document["result"]["applied"]) == (8, PLAN_ID, False)


def test_only_what_was_shown_is_applied(project: Project) -> None:
    folder = consolidating(project, consolidation())
    code, shown = on_terminal(project, "y\n", "-f", "fed", "data", "consolidate")
    assert code == ExitCode.OK, shown
    assert shown.index("DUMMY_TBI") < shown.index("Apply this plan? [y/N]") < shown.index("Replaced 3 files on 3 nodes")
    assert shown.count("DUMMY_TBI") == 1
    first, second = seen(folder)
    assert (first["check"], first["expected"]) == (True, "unset")
    assert (second["check"], second["expected"]) == (False, PLAN_ID)


def test_a_plan_that_is_declined(project: Project) -> None:
    folder = consolidating(project, consolidation())
    code, shown = on_terminal(project, "n\n", "-f", "fed", "data", "consolidate")
    assert code == ExitCode.DECLINED
    assert "Nothing was changed." in shown
    assert [run["check"] for run in seen(folder)] == [True]


def test_a_refused_consolidation(project: Project) -> None:
    refused = [
        {"node": "fed-wk-1", "code": "dataset-twice", "message": "dementia: edsd is also on fed-wk-2", "fix": "rename one"},
        {"node": "fed-ms", "code": "cdes-missing", "message": "tbi has no CDEsMetadata.json", "fix": ""},
    ]
    report = consolidation(plan=None, distributed={}, labels_changed=False, warnings=[], problems=refused)
    folder = consolidating(project, report)
    stops = {"answer": {"mip_error": "check", "msg": "no", "mip_report": {"verb": "consolidate", "data": report}}, "fail": True}
    text = CONSOLIDATE.replace("DIFF", "[]")
    text = text[: text.index('    - name: "Report')] + f"    - name: Report\n      hbp.mip.answer: {json.dumps(stops)}\n"
    project.playbook("consolidate", text)
    done = project.run("-f", "fed", "data", "consolidate", "-o", "json")
    assert done.code == ExitCode.CHECK
    assert [error["code"] for error in done.document["errors"]] == ["dataset-twice", "cdes-missing"]
    text_ = project.run("-f", "fed", "data", "consolidate")
    assert "next: rename one" in text_.err
    assert "Nothing to do" not in text_.out
    assert [run["check"] for run in seen(folder)] == [True, True]


def test_problems_of_a_failed_module_are_told_one_by_one(project: Project) -> None:
    consolidating(project, consolidation())
    problems = [{"node": "fed-wk-2", "code": code, "message": f"about {code}", "fix": ""} for code in ("one", "two")]
    failure = json.dumps({"answer": {"mip_error": "check", "msg": "two things", "problems": problems}, "fail": True})
    project.playbook("consolidate", f"- hosts: fed-pusher\n  gather_facts: false\n  tasks: [{{name: Plan, hbp.mip.answer: {failure}}}]\n")
    done = project.run("-f", "fed", "data", "consolidate", "--check", "-o", "json")
    assert done.code == ExitCode.CHECK
    assert [(error["code"], error["host"]) for error in done.document["errors"]] == [("one", "fed-wk-2"), ("two", "fed-wk-2")]


def test_a_catalogue_that_failed_for_one_pathology(project: Project) -> None:
    plan = json.loads(json.dumps(PLAN))
    plan["pathologies"]["dementia"]["source"] = "catalogue"
    url = "https://catalogue.example:8443/pathology/allPathologies/dementia/latest_cde_version"
    problem = {"node": "pusher", "code": "catalogue-status", "message": "tbi: HTTP 404", "fix": "ask its operator"}
    report = consolidation(plan=plan, catalogue={"dementia": {"url": url, "sha256": "e" * 64}}, problems=[problem])
    folder = consolidating(project, report)
    options = ("--online-cdes", "--datacatalogue-protocol", "http", "--datacatalogue-host", "catalogue.example:8086")
    code, shown = on_terminal(project, "y\n", "-f", "fed", "data", "consolidate", *options)
    assert code == ExitCode.CHECK, shown
    assert '+{"code": "ppmi"}' in shown, "the difference is shown before a CDE of the catalogue is used"
    assert "+of tbi too" not in shown
    assert url in shown
    assert shown.index("tbi: HTTP 404") < shown.index("Apply this plan?") < shown.rindex("tbi: HTTP 404")
    first, second = seen(folder)
    assert (first["online"], first["protocol"], first["host"]) == (True, "http", "catalogue.example:8086")
    assert (second["check"], second["expected"], second["host"]) == (False, PLAN_ID, "catalogue.example:8086")
    assert second["command"] == "mipfed -f fed data consolidate " + " ".join(options)
    document = project.run("-f", "fed", "data", "consolidate", "--check", *options, "-o", "json").document
    assert [diff["file"] for diff in document["result"]["diffs"]] == ["dementia/CDEsMetadata.json"]


def test_a_partial_distribution(project: Project) -> None:
    distributed = handed_out(changed=True)
    distributed["fed-wk-1"] = {"files": [], "ok": False, "error": "No space left on device"}
    problem = {"node": "fed-wk-1", "code": "distribution", "message": "did not get: No space left on device", "fix": "make room"}
    consolidating(project, consolidation(distributed=distributed, problems=[problem]))
    text = (project.collections / "ansible_collections/hbp/mip/playbooks/consolidate.yml").read_text(encoding="utf-8")
    failing = """\
- name: Hand out
  hosts: fed-ms:fed-wk-1
  gather_facts: false
  tasks:
    - name: Hand out the CDEs
      hbp.mip.answer: {answer: {msg: No space left on device}, fail: "{{ inventory_hostname == 'fed-wk-1' }}"}
"""
    project.playbook("consolidate", failing + text)
    done = project.run("-f", "fed", "data", "consolidate", "-y")
    assert done.code == ExitCode.FAILED
    assert "Not up to date: fed-wk-1." in done.out
    assert "Replaced 2 files on 2 nodes" in done.out
    assert done.err.count("No space left on device") == 2, "once as it happens, once at the end"
    assert "next: mipfed -f fed data consolidate\n" in done.err


def test_a_worker_that_is_away(project: Project, closed_port: int) -> None:
    consolidating(project, consolidation(away=["fed-wk-2"]))
    hosts = project.root / "inventories" / "fed" / "hosts.yml"
    inventory = json.loads(hosts.read_text(encoding="utf-8"))
    inventory["all"]["children"]["workers"]["hosts"]["fed-wk-2"] = {**unreachable(closed_port, project), "mip_address": "127.0.8.1"}
    hosts.write_text(json.dumps(inventory), encoding="utf-8")
    playbook = project.collections / "ansible_collections/hbp/mip/playbooks/consolidate.yml"
    ping = "- hosts: workers\n  gather_facts: false\n  tasks: [{ansible.builtin.ping: {}}]\n"
    playbook.write_text(ping + playbook.read_text(encoding="utf-8"), encoding="utf-8")
    done = project.run("-f", "fed", "data", "consolidate", "-y")
    assert done.code == ExitCode.UNREACHABLE, done.err
    assert "Away: fed-wk-2." in done.out
    assert "Replaced 3 files" in done.out
    assert "next: mipfed -f fed data consolidate\n" in done.err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--check", "--review-dataset-labels"], "--check changes nothing"),
        (["--datacatalogue-host", "x"], "--online-cdes"),
        (["--datacatalogue-protocol", "http"], "--online-cdes"),
        (["--online-cdes"], "mip_data.catalogue.host"),
        (["--online-cdes", "--datacatalogue-host", "https://x"], "HOST:PORT"),
        (["--online-cdes", "--datacatalogue-host", "x:99999"], "HOST:PORT"),
        (["--online-cdes", "--datacatalogue-host", "x:1/y"], "HOST:PORT"),
        (["-l", "fed-wk-1"], "No such option"),
    ],
)
def test_wrong_options_of_consolidate(project: Project, arguments: list[str], word: str) -> None:
    project.federation()
    done = project.run("-f", "fed", "data", "consolidate", *arguments)
    assert (done.code, word in done.err) == (ExitCode.USAGE, True), done.err
    assert not project.runs()


def test_a_limit_is_not_ignored(project: Project) -> None:
    project.federation()
    assert project.run("-f", "fed", "-l", "fed-wk-1", "data", "consolidate").code == ExitCode.USAGE


# ---- labels


def test_review_writes_plans_anew_and_applies(project: Project) -> None:
    folder = consolidating(project, consolidation())
    (folder / "labels.yml").write_text("# ours\npathologies:\n  tbi: TBI  # kept\n", encoding="utf-8")
    answers = "".join(f"{line}\n" for line in ("Démence: types", "", "PPMI 2", "", "", "", "y"))
    code, shown = on_terminal(project, answers, "-f", "fed", "data", "consolidate", "--review-dataset-labels")
    assert code == ExitCode.OK, shown
    assert "Label of pathology dementia [Dementia [red]]: " in shown
    assert "Label of dataset ppmi (fed-wk-1, fed-wk-2) [PPMI]: " in shown
    assert "Label of dataset gone" not in shown
    assert [(run["check"], run["expected"]) for run in seen(folder)] == [(True, "unset"), (True, "unset"), (False, PLAN_ID)]
    text = (folder / "labels.yml").read_text(encoding="utf-8")
    assert "# ours\n" in text
    assert "tbi: TBI  # kept\n" in text
    assert yaml.safe_load(text) == {
        "pathologies": {"tbi": "TBI", "dementia": "Démence: types"},
        "datasets": {"dementia": {"ppmi": "PPMI 2"}},
    }


def test_review_in_which_all_is_kept(project: Project) -> None:
    folder = consolidating(project, consolidation())
    code, shown = on_terminal(project, "\n" * 6 + "y\n", "-f", "fed", "data", "consolidate", "--review-dataset-labels")
    assert code == ExitCode.OK, shown
    assert not (folder / "labels.yml").exists()
    assert [run["check"] for run in seen(folder)] == [True, False]
    assert shown.count("DUMMY_TBI]") == 1


def test_review_without_a_terminal(project: Project) -> None:
    folder = consolidating(project, consolidation())
    done = project.run("-f", "fed", "data", "consolidate", "--review-dataset-labels", "-y")
    assert done.code == ExitCode.DECLINED
    assert "inventories/fed/labels.yml" in done.err
    block = done.err[done.err.index("pathologies:") : done.err.index("    next:")]
    shown = yaml.safe_load("\n".join(line.removeprefix("    ") for line in block.splitlines()))
    assert shown["pathologies"] == {"dementia": "Dementia [red]", "tbi": "TBI"}
    assert shown["datasets"]["dementia"] == {"edsd": "EDSD", "ppmi": "PPMI", "adni": "ADNI"}
    assert [run["check"] for run in seen(folder)] == [True]
    assert not (folder / "labels.yml").exists()


@pytest.mark.parametrize(
    ("text", "place", "why"),
    [
        ("pathologies: [a\n", "2:1", "expected"),
        ("a: 1\npathologies: {x: y}\n", "1:1", "unknown key 'a'"),
        ("pathologies:\n  tbi: 3\n", "2:3", "put it into quotes"),
        ("pathologies:\n  tbi: ''\n", "2:3", "is empty"),
        ("datasets:\n  tbi: label\n", "2:3", "expected names"),
        ("datasets:\n  tbi:\n    2019: x\n", "3:5", "put it into quotes"),
        ("datasets:\n  tbi: {a: b, a: c}\n", "2:15", "duplicate key"),
        ("- a\n", "1:1", "expected names"),
        ("pathologies: {a: !!python/object:os.system x}\n", "1:15", "not text"),
        ('pathologies:\n  tbi: "a\\nb"\n', "2:3", "one line"),
    ],
)
def test_a_label_file_that_is_wrong(project: Project, text: str, place: str, why: str) -> None:
    folder = consolidating(project, consolidation())
    (folder / "labels.yml").write_text(text, encoding="utf-8")
    with pytest.raises(MipfedError) as caught:
        labels.known(folder / "labels.yml")
    assert caught.value.exit_code == ExitCode.CONFIGURATION
    (problem,) = caught.value.problems
    assert f"labels.yml:{place}: " in problem.message
    assert why in problem.message


def test_a_wrong_label_file_stops_before_any_contact(project: Project) -> None:
    folder = consolidating(project, consolidation())
    (folder / "labels.yml").write_text("pathologies:\n  a: 1\n  b: 2\nnonsense: {}\n", encoding="utf-8")
    done = project.run("-f", "fed", "data", "consolidate", "-y", "-o", "json")
    assert done.code == ExitCode.CONFIGURATION
    assert [error["message"].split(": ")[0].rsplit("/", 1)[1] for error in done.document["errors"]] == [
        "labels.yml:2:3",
        "labels.yml:3:3",
        "labels.yml:4:1",
    ]
    assert not project.runs()


def test_labels_are_written_round_trip(tmp_path: Path) -> None:
    file = tmp_path / "labels.yml"
    original = """\
# Ours, with care.
datasets:
  dementia:
    # two hospitals
    edsd: 'EDSD: one'   # quoted
    ppmi: "PPMI"
pathologies: {dementia: Dementia}
"""
    file.write_text(original, encoding="utf-8")
    file.chmod(0o640)
    assert not labels.write(file, {})
    assert labels.write(file, {Key("dementia", "ppmi", ""): "Täglich [x]", Key("tbi", "d1", ""): "no", Key("tbi", "", ""): "TBI: all"})
    text = file.read_text(encoding="utf-8")
    for line in ("# Ours, with care.", "    # two hospitals", "    edsd: 'EDSD: one'   # quoted"):
        assert line in text.splitlines()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    data = YAML(typ="safe").load(text)
    assert data["pathologies"] == {"dementia": "Dementia", "tbi": "TBI: all"}
    assert data["datasets"] == {"dementia": {"edsd": "EDSD: one", "ppmi": "Täglich [x]"}, "tbi": {"d1": "no"}}
    assert not list(tmp_path.glob(".labels*"))


def test_labels_in_a_new_file_and_in_one_of_comments(tmp_path: Path) -> None:
    for name, before in (("new.yml", None), ("comments.yml", "# only\n# comments\n"), ("empty.yml", "pathologies:\ndatasets:\n")):
        file = tmp_path / name
        if before is not None:
            file.write_text(before, encoding="utf-8")
        labels.write(file, {Key("a", "", ""): "A", Key("a", "1e3", ""): "1e3"})
        text = file.read_text(encoding="utf-8")
        assert yaml.safe_load(text) == {"pathologies": {"a": "A"}, "datasets": {"a": {"1e3": "1e3"}}}, text
        assert labels.known(file) == (["a"], {"a": ["1e3"]})
        if name == "comments.yml":
            assert text.startswith("# only\n# comments\n")


def test_labels_through_a_link_keep_the_link(tmp_path: Path) -> None:
    (tmp_path / "real.yml").write_text("pathologies: {}\n", encoding="utf-8")
    (tmp_path / "labels.yml").symlink_to("real.yml")
    labels.write(tmp_path / "labels.yml", {Key("a", "", ""): "A"})
    assert (tmp_path / "labels.yml").is_symlink()
    assert "A" in (tmp_path / "real.yml").read_text(encoding="utf-8")


def test_labels_asked_again_when_they_are_none() -> None:
    asked = []
    answers = iter(["x" * 201, "a\tb", " fine ", ""])

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return next(answers)

    keys = labels.keys({"pathologies": {"p": {"label": "P\x1b[31m", "datasets": []}, "q": {"label": "Q"}}})
    assert labels.ask(keys, answer) == {keys[0]: "fine"}
    assert asked[0] == "Label of pathology p [P\\x1b[31m]: "
    assert "more than 200" in asked[1]
    assert "one line" in asked[2]


# ---- compile

COMPILE = """\
- name: Compile
  hosts: fed-ms:fed-wk-1
  gather_facts: false
  tasks:
    - name: Keep what was given
      ansible.builtin.copy:
        content: "{{ seen | to_json }}"
        dest: "{{ inventory_dir }}/seen.jsonl"
        mode: "0600"
      vars:
        seen:
          check: "{{ ansible_check_mode }}"
          pathologies: "{{ data_pathologies | default('unset') }}"
          nodes: "{{ data_nodes | default('unset') }}"
          force: "{{ data_force | default('unset') }}"
      check_mode: false
      run_once: true
    - name: "Report: compile"
      hbp.mip.answer:
        answer: {mip_report: {verb: compile, schema: 1, data: DATA}}
      run_once: true
"""


def compilation(**states: str) -> dict[str, Any]:
    """Return a report of compile: the state of dementia by node (with _ in place of -)."""
    nodes = {}
    for name, state in states.items():
        entry: dict[str, Any] = {"state": state, "reasons": ["edsd.csv was changed"], "seconds": 1.25, "rows": 1437}
        entry |= {"errors": [], "errors_total": 0}
        if state == "failed":
            entry["errors"] = [
                {"file": "edsd.csv", "line": number, "column": "gender", "rule": "enumeration", "message": "is none of the enumerations"}
                for number in range(2, 102)
            ]
            entry["errors_total"] = 4321
        nodes[name.replace("_", "-")] = {"pathologies": {"dementia": entry}}
    problems = [
        {"node": node, "code": "compile-failed", "message": "dementia was not compiled", "fix": "correct it"}
        for node, held in nodes.items()
        if held["pathologies"]["dementia"]["state"] == "failed"
    ]
    return {"nodes": nodes, "restarted": ["fed-wk-1"], "away": [], "problems": problems}


def compiling(project: Project, report: dict[str, Any]) -> Path:
    """Write a federation and its playbook compile; return the inventory directory."""
    folder = project.federation()
    project.playbook("compile", COMPILE.replace("DATA", json.dumps(report)))
    return folder


def test_compile(project: Project) -> None:
    folder = compiling(project, compilation(fed_ms="unchanged", fed_wk_1="compiled"))
    assert project.run("-f", "fed", "data", "compile").code == ExitCode.DECLINED
    assert not project.runs()
    arguments = ("--pathology", "dementia,tbi", "--pathology", "x", "--node", "fed-wk-1", "--node", "fed-ms", "--force")
    done = project.run("-f", "fed", "data", "compile", "-y", *arguments)
    assert done.code == ExitCode.OK, done.err
    assert "Restarted: the engine of fed-wk-1." in done.out
    assert "edsd.csv was changed" in done.out
    assert "next: mipfed -f fed verify" in done.err
    (run,) = seen(folder)
    assert run == {"check": False, "pathologies": ["dementia", "tbi", "x"], "nodes": ["fed-wk-1", "fed-ms"], "force": True}
    project.run("-f", "fed", "data", "compile", "-y")
    assert seen(folder) == [{"check": False, "pathologies": "unset", "nodes": "unset", "force": "unset"}]


def test_compile_asks_with_the_nodes(project: Project) -> None:
    compiling(project, compilation(fed_ms="unchanged", fed_wk_1="compiled"))
    code, shown = on_terminal(project, "y\n", "-f", "fed", "data", "compile", "--node", "fed-wk-1")
    assert code == ExitCode.OK
    assert "Compile on 1 node? [y/N]" in shown
    assert "`mipfed -f fed data compile --node fed-wk-1 --check`" in shown
    assert "fed-ms  " not in shown[: shown.index("Compile on")]


def test_compile_with_errors_in_a_file(project: Project) -> None:
    compiling(project, compilation(fed_ms="unchanged", fed_wk_1="failed"))
    done = project.run("-f", "fed", "data", "compile", "-y")
    assert done.code == ExitCode.CHECK
    assert "dementia/edsd.csv:2:gender enumeration: is none of the enumerations" in done.out
    assert done.out.count("dementia/edsd.csv:") == 20
    assert "… and 4301 more." in done.out
    assert "on fed-wk-1: /data/fed/dementia/datasets.db.errors.txt" in done.out
    assert "compile-failed: fed-wk-1: dementia was not compiled" in done.err
    assert project.run("-f", "fed", "data", "compile", "-yv").out.count("dementia/edsd.csv:") == 100
    document = project.run("-f", "fed", "data", "compile", "-y", "-o", "json").document
    entry = document["result"]["nodes"]["fed-wk-1"]["pathologies"]["dementia"]
    assert (entry["errors_total"], len(entry["errors"])) == (4321, 100)


def test_compile_check(project: Project) -> None:
    report = compilation(fed_wk_1="would_compile")
    folder = compiling(project, {**report, "restarted": []})
    done = project.run("-f", "fed", "data", "compile", "--check", "--pathology", "dementia")
    assert done.code == ExitCode.OK, done.err
    assert "would compile" in done.out
    assert "next: mipfed -f fed data compile --pathology dementia\n" in done.err
    assert seen(folder)[0]["check"] is True
    compiled = compilation(fed_wk_1="unchanged")
    project.playbook("compile", COMPILE.replace("DATA", json.dumps({**compiled, "restarted": []})))
    assert "Nothing to do." in project.run("-f", "fed", "data", "compile", "--check").out


def test_names_that_are_unknown(project: Project) -> None:
    folder = compiling(project, {**compilation(), "nodes": {"fed-ms": {"pathologies": {}}}})
    node = project.run("-f", "fed", "data", "compile", "-y", "--node", "fed-ui", "--node", "fed-ms")
    assert node.code == ExitCode.NO_HOSTS
    assert "no master and no worker fed-ui" in node.err
    assert "next: Nodes: fed-ms, fed-wk-1, fed-wk-2" in node.err
    for wrong in ("../etc", "a,,b", "a b", ""):
        done = project.run("-f", "fed", "data", "compile", "-y", "--pathology", wrong)
        assert done.code == ExitCode.USAGE, wrong
    assert not project.runs()
    (folder / "labels.yml").write_text("pathologies: {dementia: Dementia}\ndatasets: {tbi: {a: A}}\n", encoding="utf-8")
    unknown = project.run("-f", "fed", "data", "compile", "-y", "--pathology", "dementai")
    assert unknown.code == ExitCode.NO_HOSTS, unknown.err
    assert "fed has no pathology dementai." in unknown.err
    assert "next: Pathologies: dementia, tbi" in unknown.err


# ---- ls and structure


def overview(**more: Any) -> dict[str, Any]:
    """Return a report of data."""
    file = {"rows": 1437, "sha256": "f" * 64}
    warning = {"code": "newline", "message": "mixes line ends", "line": 7, "severity": "warning"}
    error = {"code": "ragged", "message": "has 3 fields, the header 4", "line": 9, "severity": "error"}

    def node(state: str, database: str, datasets: dict[str, Any], findings: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "cdes": {"sha256": "b" * 64, "version": "v1", "state": state},
            "compiled": {"state": database, "reasons": ["edsd.csv was changed"] if database == "stale" else []},
            "datasets": datasets,
            "files": {"edsd.csv": {**file, "findings": findings}} if datasets else {},
            "problems": [],
        }

    dementia = {
        "fed-ms": node("same", "compiled", {}, []),
        "fed-wk-1": node("old", "stale", {"edsd": 1437, "ppmi": "<10"}, [warning, error]),
    }
    return {
        "pathologies": {
            "dementia": {"label": "Dementia", "version": "v1", "sha256": "b" * 64, "nodes": dementia},
            "tbi": {"label": "TBI", "version": "0.1", "sha256": "c" * 64, "nodes": {"fed-wk-2": node("same", "compiled", {"t": 12}, [])}},
        },
        "portal": {"node": "fed-ui", "state": "same", "sha256": "d" * 64},
        "structure": STRUCTURE,
        "away": [],
        "problems": [],
        **more,
    }


PROBLEMS = [
    {
        "node": "fed-wk-1",
        "code": "cdes-old",
        "message": "dementia: its CDEsMetadata.json is older",
        "fix": "mipfed -f fed data consolidate",
    },
    {"node": "fed-wk-1", "code": "database-stale", "message": "dementia: edsd.csv was changed", "fix": "mipfed -f fed data compile"},
]
BAD_FILE = {"node": "fed-wk-1", "code": "csv-ragged", "message": "dementia/edsd.csv:9: has 3 fields", "fix": "correct it"}


def looking(project: Project, report: dict[str, Any], before: str = "", **variables: Any) -> None:
    """Write a federation and its playbook data."""
    project.federation(**variables)
    answer = {"mip_report": {"verb": "data", "schema": 1, "data": report}}
    if report["problems"]:
        answer |= {"mip_error": "check", "msg": "not in order"}
    task = json.dumps({"name": "Report: data", "hbp.mip.answer": {"answer": answer, "fail": bool(report["problems"])}})
    project.playbook("data", f"{before}- hosts: fed-pusher\n  gather_facts: false\n  tasks: [{task}]\n")


def test_ls(project: Project) -> None:
    looking(project, overview())
    done = project.run("-f", "fed", "data", "ls")
    assert done.code == ExitCode.OK, done.err
    rows = [line.split() for line in done.out.splitlines()]
    assert ["dementia", "fed-ms", "v1", "same", "compiled"] in rows
    assert ["dementia", "fed-wk-1", "ppmi", "<10", "v1", "old", "stale:", "edsd.csv", "was", "changed", "1"] in rows
    assert ["tbi", "fed-wk-2", "t", "12", "v1", "same", "compiled"] in rows
    assert "warning: fed-wk-1: dementia/edsd.csv:7: mixes line ends" in done.out
    assert "pathologies.json on fed-ui: same" in done.out
    document = project.run("-f", "fed", "data", "ls", "-o", "json").document
    assert document["result"] == overview()


def test_ls_of_some_pathologies(project: Project) -> None:
    looking(project, overview(problems=[*PROBLEMS, BAD_FILE]))
    everything = project.run("-f", "fed", "data", "ls")
    assert everything.code == ExitCode.CHECK
    assert "next: mipfed -f fed data compile" in everything.err
    one = project.run("-f", "fed", "data", "ls", "--pathology", "tbi", "-o", "json")
    assert one.code == ExitCode.OK, one.err
    assert list(one.document["result"]["pathologies"]) == ["tbi"]
    assert [entry["name"] for entry in one.document["result"]["structure"]] == ["tbi"]
    assert one.document["errors"] == []
    unknown = project.run("-f", "fed", "data", "ls", "--pathology", "tbi,nope")
    assert unknown.code == ExitCode.NO_HOSTS
    assert "fed has no pathology nope." in unknown.err
    assert "next: Pathologies: dementia, tbi" in unknown.err


PING = "- hosts: workers\n  gather_facts: false\n  tasks: [{ansible.builtin.ping: {}}]\n"


@pytest.mark.parametrize(("problems", "code"), [([], ExitCode.UNREACHABLE), (PROBLEMS, ExitCode.CHECK)])
def test_ls_with_a_node_away(project: Project, closed_port: int, problems: list[dict[str, str]], code: ExitCode) -> None:
    away = {"fed-wk-2": {**unreachable(closed_port, project), "mip_address": "127.0.8.1"}}
    looking(project, overview(away=["fed-wk-2"], problems=problems), PING, variables=away)
    done = project.run("-f", "fed", "data", "ls")
    assert done.code == code, done.err
    assert "Away: fed-wk-2." in done.out
    structure = project.root / "structure.json"
    structure.write_text("[]", encoding="utf-8")
    missing = project.run("-f", "fed", "data", "structure", "--file", str(structure))
    assert missing.code == ExitCode.UNREACHABLE, missing.err
    assert "structure.json was not written: fed-wk-2 did not answer" in missing.err
    assert (missing.out, structure.read_text(encoding="utf-8")) == ("", "[]")


def test_structure(project: Project) -> None:
    looking(project, overview(problems=PROBLEMS))
    done = project.run("-f", "fed", "data", "structure")
    assert done.code == ExitCode.OK, "what is stale is no matter of the structure"
    assert done.out == json.dumps(STRUCTURE, indent=2) + "\n"
    file = project.root / "structure.json"
    written = project.run("-f", "fed", "data", "structure", "--file", "structure.json")
    assert (written.code, written.out) == (ExitCode.OK, "")
    assert file.read_text(encoding="utf-8") == done.out
    assert not list(project.root.glob(".structure*"))
    document = project.run("-f", "fed", "data", "structure", "-o", "json").document
    assert document["result"] == {"structure": STRUCTURE, "complete": True, "file": None}
    nowhere = project.run("-f", "fed", "data", "structure", "--file", "no/such/folder.json")
    assert nowhere.code == ExitCode.USAGE


def test_structure_with_a_file_that_cannot_be_read(project: Project) -> None:
    looking(project, overview(problems=[*PROBLEMS, BAD_FILE]))
    done = project.run("-f", "fed", "data", "structure")
    assert done.code == ExitCode.CHECK
    assert json.loads(done.out) == STRUCTURE
    assert "csv-ragged" in done.err
    assert "database-stale" not in done.err


def test_labels_do_not_steer_the_terminal(project: Project) -> None:
    report = overview()
    report["pathologies"]["\x1b[2Jevil"] = report["pathologies"].pop("tbi")
    report["problems"] = [{"node": "fed-wk-1", "code": "x", "message": "\x1b]0;title\x07 and \x9b31m", "fix": ""}]
    looking(project, report)
    done = project.run("-f", "fed", "data", "ls")
    assert not {"\x1b", "\x07", "\x9b"} & set(done.out + done.err)
    assert "\\x1b[2Jevil" in done.out


# ---- lab up --data

LAB = """\
- hosts: localhost
  gather_facts: false
  tasks:
    - name: "Report: lab"
      hbp.mip.answer:
        answer: {mip_report: {verb: lab, schema: 1, data: {source: "{{ lab_data_source | default('unset') }}"}}}
"""


def test_lab_up_with_data(project: Project) -> None:
    project.playbook("lab_up", LAB)
    folder = project.root / "data" / "tbi"
    folder.mkdir(parents=True)
    (folder / "CDEsMetadata.json").write_text("{}", encoding="utf-8")
    (project.root / "data" / "notes").mkdir()
    assert project.run("lab", "up", "-o", "json").document["result"] == {"source": "unset"}
    done = project.run("lab", "up", "--data", "data", "-o", "json")
    assert done.document["result"] == {"source": str(project.root / "data")}, done.err


@pytest.mark.parametrize(
    ("files", "reasons"),
    [
        ({}, ["No such file"]),
        ({"notes/readme.txt": ""}, ["no folder with a CDEsMetadata.json"]),
        ({"a b/CDEsMetadata.json": "", "c/x.csv": ""}, ["'a b' is no name", "c has CSV files, but no CDEsMetadata.json"]),
        ({"a/CDEsMetadata.json/": None}, ["is no file that can be read"]),
    ],
)
def test_lab_up_with_wrong_data(project: Project, files: dict[str, str | None], reasons: list[str]) -> None:
    for name, text in files.items():
        path = project.root / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.mkdir()
        else:
            path.write_text(text, encoding="utf-8")
    done = project.run("lab", "up", "--data", "data", "-o", "json")
    assert done.code == ExitCode.USAGE
    errors = done.document["errors"]
    assert len(errors) == len(reasons)
    for error, reason in zip(errors, reasons, strict=True):
        assert reason in error["message"]


def test_help_is_quick() -> None:
    took = []
    for _attempt in range(5):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "mipfed", "--help"], stdout=subprocess.DEVNULL, check=True)
        took.append(time.perf_counter() - begin)
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    assert min(took) < 0.2 or load > 1, took
