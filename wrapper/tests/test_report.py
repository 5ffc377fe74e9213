# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`mipfed report`: the page is whole, loads nothing and can be read by all; the metrics are what Prometheus reads; `status` tells more."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from mipfed import metrics, overview, page, report
from mipfed.exitcodes import ExitCode

from . import facts as known
from .conftest import Project
from .test_runs import ANSWER

VOID = {"meta", "link", "br", "line", "rect"}


class Page(HTMLParser):
    """A page, taken apart; fails when its tags are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"{tag} at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of each element of a kind."""
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_is_whole_and_loads_nothing() -> None:
    """No script, no address of anything else, and what nodes and people say is text."""
    text = page.render(known.facts())
    found = Page(text)
    assert found.all("script") == []
    assert known.EVIL in "".join(found.text)
    assert not re.findall(r"(?:src|href|action|xlink:href)=\"(?!data:,\")", text)
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert "url(" not in text
    identities = [attributes["id"] for _tag, attributes in found.tags if "id" in attributes]
    assert len(identities) == len(set(identities))
    named = [name for _tag, attributes in found.tags for name in (attributes.get("aria-labelledby") or "").split()]
    assert set(named) <= set(identities)


def test_the_page_can_be_read_by_all() -> None:
    """One main heading, levels without gaps, captions and scopes, a drawing that is told in words, areas to scroll by key."""
    found = Page(page.render(known.facts()))
    levels = [int(tag[1]) for tag, _attributes in found.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and set(levels[1:]) == {2}
    assert len(found.all("table")) == len(found.all("caption")) == 6
    assert all(attributes.get("scope") in ("col", "row") for attributes in found.all("th"))
    assert found.all("html")[0]["lang"] == "en"
    assert "width=device-width" in str(found.all("meta"))
    (drawing,) = found.all("svg")
    assert drawing["role"] == "img"
    words = "".join(found.text)
    assert "Link hosp-ms to hosp-wk-1: fault" in words or "Link hosp-wk-1 to hosp-ms: fault" in words
    assert "hosp-wk-3, worker, disabled" in words
    scrolled = [attributes for attributes in found.all("div") if attributes.get("class") == "scroll"]
    assert all(attributes.get("tabindex") == "0" and attributes.get("aria-label") for attributes in scrolled)


@pytest.mark.parametrize("workers", [1, 2, 3, 6, 7, 12, 50])
def test_the_drawing_has_room_for_all(workers: int) -> None:
    """No two nodes lie on one another, and none outside."""
    resolved = known.federation(workers)
    nodes = [{"name": n["name"], "kind": n["kind"], "disabled": g == "disabled"} for g in ("nodes", "disabled") for n in resolved[g]]
    drawing = page.topology(known.facts(nodes=nodes, links=[], status=known.report(resolved)))
    places = [(node["x"], node["y"]) for node in drawing["nodes"]]
    assert len(places) == workers + 2
    assert all(80 <= x <= drawing["width"] - 80 and 24 <= y <= drawing["height"] - 24 for x, y in places)
    for number, (x, y) in enumerate(places):
        assert all(abs(x - other) > 160 or abs(y - below) > 48 for other, below in places[:number]), drawing["nodes"][number]


def test_the_page_without_anything() -> None:
    """A federation that nobody has looked at, checked or backed up is shown as well, and so is one that does not answer."""
    resolved = known.federation()
    silent = known.report(resolved, {"nodes": {}, "engine": {}})
    last = dict.fromkeys(overview.TOLD) | {"backups": {}}
    text = page.render(known.facts(status=silent, links=[], datasets=[], runs=[], slowest=[], last=last))
    words = "".join(Page(text).text)
    assert "Not healthy" in words
    assert "last backup that is kept: none" in words


#: The text format of Prometheus, line by line.
SAMPLE = re.compile(r'mip_[a-z_]+\{[a-z]+="(?:[^"\\\n]|\\[\\"n])*"(?:,[a-z]+="(?:[^"\\\n]|\\[\\"n])*")*\} -?[0-9.e+-]+')


def test_metrics() -> None:
    """Each has help and type once and before its samples; labels are escaped; the values are the report's."""
    found = known.facts()
    found["status"]["nodes"][1]["engine_version"] = 'odd"\\\n'
    lines = metrics.render(found, now=1000.5).splitlines()
    seen: list[str] = []
    for number, line in enumerate(lines):
        if line.startswith("# HELP "):
            seen.append(line.split(" ")[2])
            assert lines[number + 1] == f"# TYPE {seen[-1]} gauge"
        elif not line.startswith("# TYPE "):
            assert SAMPLE.fullmatch(line), line
            assert line.startswith(seen[-1] + "{")
    assert len(seen) == len(set(seen)) == len(metrics.METRICS)
    expected = [
        'mip_report_timestamp_seconds{federation="hosp"} 1000.5',
        'mip_healthy{federation="hosp"} 1',
        'mip_node_up{federation="hosp",node="hosp-wk-2",kind="worker"} 1',
        'mip_node_disabled{federation="hosp",node="hosp-wk-3",kind="worker"} 1',
        'mip_node_engine_info{federation="hosp",node="hosp-wk-1",kind="worker",version="odd\\"\\\\\\n"} 1',
        'mip_node_certificate_expiry_timestamp_seconds{federation="hosp",node="hosp-ms",kind="master"} 1801440000',
        'mip_link_ok{federation="hosp",from="hosp-wk-1",to="hosp-ms"} 0',
        'mip_link_ok{federation="hosp",from="hosp-ms",to="hosp-wk-1"} 1',
        'mip_engine_datasets{federation="hosp",node="hosp-wk-1"} 2',
        'mip_engine_api_seconds{federation="hosp"} 0.25',
        'mip_last_run_timestamp_seconds{federation="hosp",command="deploy"} 1795341600',
        'mip_last_run_success{federation="hosp",command="deploy"} 1',
        'mip_last_backup_verified{federation="hosp"} 1',
    ]
    assert [line for line in expected if line not in lines] == []


REPORT = """\
- name: Report
  hosts: pusher
  gather_facts: false
  tasks:
    - name: "Report: %s"
      hbp.mip.answer:
        answer: %s
        fail: %s
"""


def playbook(project: Project, verb: str, data: dict[str, Any], *, fail: bool = False) -> None:
    """Let a playbook report something."""
    answer = {"mip_report": {"verb": verb, "schema": 1, "data": data}, "msg": "not healthy", "mip_error": "check"}
    project.playbook(verb, REPORT % (verb, json.dumps(answer), str(fail).lower()))


def test_the_command_writes_both_and_tells_whether_all_is_well(project: Project) -> None:
    """Status is asked once; what check found before is in it; without contact the last status is shown."""
    project.module("answer", ANSWER)
    project.federation()
    assert project.run("-f", "fed", "report").code == ExitCode.USAGE
    assert project.run("-f", "fed", "report", "--html", "nowhere/page.html").code == ExitCode.USAGE
    assert project.run("-f", "fed", "report", "--html", "page.html", "--offline").code == ExitCode.CHECK
    status = known.report(known.federation())
    playbook(project, "status", status)
    playbook(project, "check", {"nodes": {}, "problems": [], "links": {"pairs": known.pairs(["fed-ms", "fed-wk-1"])}})
    assert project.run("-f", "fed", "check").code == ExitCode.OK
    ended = project.run("-f", "fed", "-o", "json", "report", "--html", "page.html", "--prometheus", "mip.prom")
    assert ended.code == ExitCode.OK, ended.err
    assert ended.document["result"]["files"] == ["page.html", "mip.prom"]
    words = "".join(Page((project.root / "page.html").read_text()).text)
    assert "Nothing is wrong." in words and "hosp-wk-1_exareme" in words and "fed-wk-1" in words
    text = (project.root / "mip.prom").read_text()
    assert 'mip_healthy{federation="fed"} 1' in text and 'mip_last_run_success{federation="fed",command="check"} 1' in text
    assert (project.root / "mip.prom").stat().st_mode & 0o777 == 0o644
    problem = {"node": "fed-wk-1", "code": "node-down", "message": "is down", "fix": "look at it"}
    playbook(project, "status", {**status, "ok": False, "problems": [problem]}, fail=True)
    ended = project.run("-f", "fed", "report", "--prometheus", "mip.prom")
    assert ended.code == ExitCode.CHECK
    assert "is down" in ended.err
    assert 'mip_healthy{federation="fed"} 0' in (project.root / "mip.prom").read_text()
    (project.root / "page.html").unlink()
    ended = project.run("-f", "fed", "report", "--html", "page.html", "--offline")
    assert ended.code == ExitCode.OK, ended.err
    assert "no node was asked now" in (project.root / "page.html").read_text()


def test_the_links_are_those_that_were_tried_last() -> None:
    """Check's or verify's, whichever was later; verify tells only whether data pass, and why not."""
    check = {"at": "2026-11-22T09:00:00Z", "report": {"links": {"pairs": known.pairs(["hosp-ms", "hosp-wk-1"])}}}
    verify = {
        "at": "2026-11-22T10:00:00Z",
        "report": {
            "pairs": [
                {"from": "hosp-ms", "to": "hosp-wk-1", "ok": True, "error": ""},
                {"from": "hosp-wk-1", "to": "hosp-ms", "ok": False, "error": "timed out"},
            ]
        },
    }
    assert report._links({"check": {}, "verify": {}}) == ([], "")
    assert report._links({"check": {**check, "at": "2026-11-22T11:00:00Z"}, "verify": verify})[1].startswith("as of the check of ")
    assert report._links({"check": check, "verify": {}})[0] == check["report"]["links"]["pairs"]
    links, told = report._links({"check": check, "verify": verify})
    assert told == "as of the verification of 2026-11-22T10:00:00Z"
    cells = page.matrix(links)["cells"]
    assert cells["hosp-ms"]["hosp-wk-1"] == {"level": "ok", "word": "ok", "detail": ""}
    assert cells["hosp-wk-1"]["hosp-ms"] == {"level": "fault", "word": "fault", "detail": "timed out"}


def test_status_tells_what_ran_last(project: Project) -> None:
    """The last check, deploy and backup, also for programs."""
    project.module("answer", ANSWER)
    project.federation()
    playbook(project, "status", known.report(known.federation()))
    playbook(project, "check", {"nodes": {}, "problems": [], "links": {}})
    project.run("-f", "fed", "check")
    shown = project.run("-f", "fed", "status")
    assert shown.code == ExitCode.OK, shown.err
    assert re.search(r"last check: \S+Z \(.+\), ok", shown.out)
    assert "last backup that is kept: none" in shown.out
    last = project.run("-f", "fed", "-o", "json", "status").document["result"]["last"]
    assert last["check"]["result"] == "ok"
    assert last["deploy"] is None
    assert len([run for run in project.runs() if run.name.endswith("-status")]) == 2


def test_how_long_ago() -> None:
    """In words."""
    now = 1795341600.0
    for text, expected in (
        ("2026-11-22T09:59:30Z", "just now"),
        ("2026-11-22T09:58:30Z", "1 minute ago"),
        ("2026-11-22T07:00:00Z", "3 hours ago"),
        ("2026-11-20T09:00:00Z", "2 days ago"),
        ("never", ""),
    ):
        assert overview.ago(text, now) == expected
