# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of `mipfed report` in a real browser: nothing in the console, accessible by axe's rules, and fit for a phone and for paper."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "wrapper")]

from tests import facts as known  # noqa: E402

from mipfed import page  # noqa: E402

AXE = "axe-core@4.10.3"
#: Makes the page so wide, and resolves to how much further its parts reach.
TOO_WIDE = (
    "document.documentElement.style.width = '{}px';"
    "Promise.resolve(Math.max(...['header', 'main', 'footer'].map(e => document.querySelector(e)).map(e => e.scrollWidth - e.clientWidth)))"
)
CSP = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


@pytest.fixture(scope="module")
def axe() -> str:
    """The text of axe, which npm fetches the first time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hbp-mip-tests" / "axe"
    program = cache / "node_modules" / "axe-core" / "axe.min.js"
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "install", "--no-save", "--no-audit", "--no-fund", "--prefix", str(cache), AXE], check=True, timeout=240)
    return program.read_text(encoding="utf-8")


def chromium(folder: Path, *arguments: str, text: str) -> subprocess.CompletedProcess[str]:
    """Open a page, with a profile of its own."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program, "apt-get install chromium"
    path = folder / "page.html"
    path.write_text(text, encoding="utf-8")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={folder}/profile",
        "--disable-dev-shm-usage",
    ]
    return subprocess.run([program, *options, *arguments, path.as_uri()], capture_output=True, text=True, check=True, timeout=240)


def told(folder: Path, text: str, script: str) -> Any:
    """What a script finds on a page; it is put into a copy of it that allows scripts, and hands over what it resolves to."""
    ending = "then(found => document.documentElement.setAttribute('data-found', JSON.stringify(found)))"
    copy = CSP.sub("", text).replace("</body>", f"<script>{script}.{ending}</script></body>")
    dumped = chromium(folder, "--virtual-time-budget=60000", "--dump-dom", text=copy).stdout
    found = re.search(r'<html[^>]* data-found="([^"]*)"', dumped)
    assert found, dumped[:500]
    return json.loads(html.unescape(found.group(1)))


def pages() -> dict[str, str]:
    """A page of a federation that is well, one of a federation with problems, and one with fifty hospitals."""
    ill = known.facts()
    problem = {"node": "hosp-wk-1", "code": "node-down", "message": "the node is down " + "x" * 200, "fix": "look"}
    ill["status"] |= {"ok": False, "problems": [problem]}
    ill["status"]["nodes"][1]["status"] = "down"
    ill["status"]["services"][1] |= {"drift": True, "wanted_image": "r:5000/exareme:2.0", "running": 0, "state": ""}
    resolved = known.federation(50)
    nodes = [{"name": n["name"], "kind": n["kind"], "disabled": g == "disabled"} for g in ("nodes", "disabled") for n in resolved[g]]
    names = [node["name"] for node in nodes if node["kind"] != "ui"][:20]
    many = known.facts(nodes=nodes, status=known.report(resolved), links=known.pairs(names, (names[2], names[3])))
    return {"well": page.render(known.facts()), "ill": page.render(ill), "many": page.render(many)}


def test_the_instruments_find_what_is_wrong(tmp_path: Path, axe: str) -> None:
    """A page that loads something, has an image without words and is too wide is not let pass."""
    bad = pages()["well"].replace("</main>", '<img src="data:,"><div style="width: 2000px; height: 2px"></div></main>')
    bad = bad.replace("</head>", '<script src="https://example.org/x.js"></script></head>')
    assert "CONSOLE" in chromium(tmp_path, "--enable-logging=stderr", "--v=0", "--dump-dom", text=bad).stderr
    bad = re.sub(r"<script src=[^>]*></script>", "", bad)
    assert "image-alt" in told(tmp_path, bad, f"{axe};axe.run(document).then(r => r.violations.map(v => v.id))")
    assert told(tmp_path, bad, TOO_WIDE.format(360)) > 1000


@pytest.mark.parametrize("name", ["well", "ill", "many"])
def test_nothing_in_the_console(tmp_path: Path, name: str) -> None:
    """Also no refusal of its own content security policy."""
    done = chromium(tmp_path, "--enable-logging=stderr", "--v=0", "--dump-dom", text=pages()[name])
    assert "CONSOLE" not in done.stderr
    assert "Federation hosp" in done.stdout


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["well", "ill", "many"])
def test_accessible(tmp_path: Path, axe: str, name: str, scheme: str) -> None:
    """By all rules of axe: contrast in both colour schemes, names, tables, headings, landmarks."""
    text = pages()[name]
    if scheme == "dark":
        text = text.replace("(prefers-color-scheme: dark)", "screen")
    script = f"{axe};axe.run(document,{{resultTypes:['violations']}})"
    ending = ".then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.target.join(' ') + ': ' + n.failureSummary)]))"
    assert told(tmp_path, text, script + ending) == []


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("name", ["well", "ill", "many"])
def test_nothing_is_wider_than_the_screen(tmp_path: Path, name: str, width: int) -> None:
    """Wide tables scroll by themselves; what else there is wraps."""
    assert told(tmp_path, pages()[name], TOO_WIDE.format(width)) == 0


def test_on_paper(tmp_path: Path) -> None:
    """It prints."""
    chromium(tmp_path, f"--print-to-pdf={tmp_path / 'page.pdf'}", "--no-pdf-header-footer", text=pages()["ill"])
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
