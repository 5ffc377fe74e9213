# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""data_catalogue as a process of its own, against a real HTTPS server. The ways to fail are in test_catalogue."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.tests.helpers.https import Authority, Request, site
from ansible_collections.hbp.mip.tests.helpers.modules import Result, run_module
from ansible_collections.hbp.mip.tests.unit.plugins.modules.test_host_modules_pythons import VERSIONS, interpreter

SAMPLES = Path(__file__).resolve().parents[8] / "tests" / "samples"
TOKEN = "Bearer top-secret-token"


def ask(host: str, **options: Any) -> Result:
    """Run the module."""
    return run_module("data_catalogue", {"host": host, "retries": 0, **options})


def published(request: Request) -> None:
    """The MIP's own files; dementia wrapped."""
    name = request.path.split("/")[3]
    path = SAMPLES / name / "CDEsMetadata.json"
    if not path.is_file():
        request.answer(b"", 404)
    elif name == "dementia":
        request.answer(json.dumps({"jsonString": path.read_text("utf-8")}).encode())
    else:
        request.answer(path.read_bytes())


def test_answers_and_problems(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with site(published, authority.issue("127.0.0.1")) as here:
        result = ask(
            here.at(), ca_file=str(authority.file), pathologies=["dementia", "nonesuch", "tbi"], headers={"Authorization": TOKEN},
        )  # fmt: skip
        checked = run_module("data_catalogue", {"host": here.at(), "ca_file": str(authority.file), "pathologies": ["tbi"]}, check=True)
    assert {request.headers.get("authorization") for request in here.requests[:3]} == {TOKEN}
    assert "top-secret" not in result.output
    assert (result.failed, result.changed) == (False, False)
    assert sorted(result["catalogue"]) == ["dementia", "tbi"]
    for name, shape in (("dementia", "wrapped"), ("tbi", "plain")):
        item = result["catalogue"][name]
        content = (SAMPLES / name / "CDEsMetadata.json").read_bytes()
        assert zlib.decompress(base64.b64decode(item["content"])) == content
        assert item["sha256"] == hashlib.sha256(content).hexdigest()
        assert item["url"] == f"https://{here.at()}/pathology/allPathologies/{name}/latest_cde_version"
        assert (item["shape"], item["attempts"]) == (shape, 1)
        assert 0 < item["seconds"] < 20
    assert [(problem["code"], problem["pathology"]) for problem in result["problems"]] == [("catalogue-absent", "nonesuch")]
    assert list(checked["catalogue"]) == ["tbi"]


def test_unreachable_is_no_failure() -> None:
    result = ask("127.0.0.1:1", pathologies=["tbi", "dementia"])
    assert (result.failed, result["catalogue"]) == (False, {})
    assert [(problem["code"], problem["pathology"]) for problem in result["problems"]] == [
        ("catalogue-refused", "tbi"),
        ("catalogue-refused", "dementia"),
    ]


def test_unverified_is_a_warning(tmp_path: Path) -> None:
    with site(published, Authority(tmp_path).issue("elsewhere")) as here:
        result = ask(here.at(), verify=False, pathologies=["tbi"])
    assert list(result["catalogue"]) == ["tbi"]
    assert result.warnings == [f"the certificate of https://{here.at()} is not verified: anybody on the way can answer in its place"]


def test_wrong_options() -> None:
    for options, words in (
        ({"host": "https://c"}, "host: 'https://c' is not a name"),
        ({"host": "c", "ca_file": "/nonexistent"}, "ca_file: /nonexistent: No such file"),
        ({"host": "c", "headers": {"Authorization": "a\nb-secret"}}, "headers.Authorization: the value must be"),
    ):
        result = ask(pathologies=["tbi"], **options)  # type: ignore[arg-type]
        assert (result.failed, result["mip_error"]) == (True, "configuration")
        assert words in result.msg
        assert "b-secret" not in result.output
        assert "Traceback" not in result.output


@pytest.mark.parametrize("version", VERSIONS)
def test_pythons(version: str, tmp_path: Path) -> None:
    """TLS and HTTP of each supported Python, with an answer that is whole and one that is not."""
    from ansible_collections.hbp.mip.tests.unit.plugins.modules.module_process import run_module as run

    python = interpreter(version)
    if not python:
        pytest.skip(f"no Python {version} on this machine")

    def behave(request: Request) -> None:
        if "tbi" in request.path:
            published(request)
        else:
            request.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b" " * 500)

    authority = Authority(tmp_path)
    with site(behave, authority.issue("127.0.0.1")) as here:
        options = {"host": here.at(), "ca_file": str(authority.file), "retries": 0, "pathologies": ["tbi", "half"]}
        result = run("data_catalogue", options, python=python)
        assert list(result["catalogue"]) == ["tbi"]
        assert [problem["code"] for problem in result["problems"]] == ["catalogue-truncated"]
        trusting = run("data_catalogue", {**options, "ca_file": None}, python=python)
        assert [problem["code"] for problem in trusting["problems"]] == ["catalogue-tls", "catalogue-tls"]
        assert "signed by an authority that this host does not trust" in trusting["problems"][0]["message"]
