# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands that contact nobody: the command line itself, configuration, init, doctor, completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mipfed import exitcodes, paths
from mipfed.app import app
from mipfed.errors import MipfedError
from mipfed.exitcodes import ExitCode
from mipfed.formats import Output
from mipfed.options import merge

from .conftest import MAIN_YML, Project
from .test_trust import on_terminal

HEAVY = ("ansible", "ansible_runner", "docker", "jinja2", "requests", "rich", "ruamel", "yaml")


def modules_after(*arguments: str) -> set[str]:
    """Return the top-level modules that a process has imported after a command."""
    script = f"""\
import sys
from typer.testing import CliRunner
from mipfed.app import app
import contextlib, io
with contextlib.redirect_stdout(io.StringIO()):
    try:
        app({list(arguments)!r}, prog_name="mipfed")
    except SystemExit:
        pass
print(" ".join(sorted({{name.split(".")[0] for name in sys.modules}})))
"""
    script = script.replace("from typer.testing import CliRunner\n", "")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("arguments", [["--help"], ["deploy", "--help"], ["lab", "up", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    imported = modules_after(*arguments)
    assert "typer" in imported
    assert not imported & set(HEAVY)
    if arguments == ["--help"]:  # typer itself needs pydantic as soon as there is a value to read
        assert "pydantic" not in imported


def test_completion_of_federations_imports_nothing_heavy(project: Project) -> None:
    project.federation("north")
    project.federation("south")
    argv, environment = project.command()
    environment |= {"_MIPFED_COMPLETE": "complete_bash", "COMP_WORDS": "mipfed deploy -f no", "COMP_CWORD": "3"}
    trace = [argv[0], "-X", "importtime", *argv[1:]]
    done = subprocess.run(trace, cwd=project.root, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["north"]
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert not imported & set(HEAVY)


def test_help_has_the_table_of_exit_codes() -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout
    for code in ExitCode:
        assert f"{code.value:>3}  {exitcodes.MEANING[code]}" in shown
        assert f"| {code.value} | {exitcodes.MEANING[code]} |" in exitcodes.markdown()


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["deploy", "--nonsense"], ["-o", "xml", "version"], ["init"], ["lab", "up", "--workers", "0"]]
)
def test_usage(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == ExitCode.USAGE


def test_options_before_and_after_the_verb() -> None:
    before = {"federation": "a", "verbose": 1, "output": Output.JSON, "yes": True}
    after = {"federation": "b", "verbose": 2, "output": None, "yes": False}
    merged = merge(before, after, "deploy")
    assert (merged.federation, merged.verbose, merged.output, merged.yes) == ("b", 3, Output.JSON, True)
    assert merge({}, {}, "deploy").output is Output.TEXT


@pytest.mark.parametrize("option", ["check", "limit"])
def test_options_that_may_not_be_ignored(option: str) -> None:
    with pytest.raises(MipfedError) as caught:
        merge({option: "x"}, {"federation": None}, "init")
    assert caught.value.exit_code == ExitCode.USAGE


def test_environment_and_inventory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIPFED_FEDERATION", "from-environment")
    assert merge({}, {}, "status").federation == "from-environment"
    assert merge({"federation": "before"}, {}, "status").federation == "before"
    assert merge({}, {"inventory": Path("x")}, "status").federation is None


def test_precedence_of_reasons() -> None:
    assert exitcodes.decide({ExitCode.UNREACHABLE, ExitCode.FAILED}) == ExitCode.FAILED
    assert exitcodes.decide({ExitCode.CHECK, ExitCode.UNREACHABLE}) == ExitCode.CHECK
    assert exitcodes.decide({ExitCode.LOCKED, ExitCode.FAILED}) == ExitCode.LOCKED
    assert exitcodes.decide(set()) == ExitCode.OK


def test_project_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "inventories").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "a" / "deep" / "er")
    assert paths.project_root() == tmp_path / "a"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIPFED_HOME", str(tmp_path / "home"))
    assert paths.project_root() == tmp_path / "home"
    monkeypatch.delenv("MIPFED_HOME")
    assert paths.project_root() == tmp_path


def test_which_federation(project: Project) -> None:
    none = project.run("node", "ls")
    assert (none.code, "mipfed init" in none.err) == (ExitCode.USAGE, True)
    project.federation("north")
    assert project.run("node", "ls", "-o", "json").document["federation"] == "north"
    project.federation("south")
    several = project.run("node", "ls")
    assert several.code == ExitCode.USAGE
    assert "north, south" in several.err
    typo = project.run("-f", "nroth", "node", "ls")
    assert typo.code == ExitCode.CONFIGURATION
    assert "Did you mean north?" in typo.err


def test_node_ls_and_config_show(project: Project) -> None:
    project.federation(workers=3)
    nodes = project.run("node", "ls", "-o", "json").document["result"]["nodes"]
    assert [(node["name"], node["kind"]) for node in nodes][:2] == [("fed-ms", "master"), ("fed-ui", "ui")]
    assert len(nodes) == 5
    shown = project.run("config", "show")
    assert "data_dir: /data/fed" in shown.out
    assert project.run("config", "show", "-o", "json").document["result"]["name"] == "fed"


def test_inventory_elsewhere(project: Project, tmp_path: Path) -> None:
    folder = project.federation("moved")
    target = tmp_path / "elsewhere"
    folder.rename(target)
    for given in (target, target / "hosts.yml"):
        document = project.run("-i", str(given), "node", "ls", "-o", "json").document
        assert (document["federation"], len(document["result"]["nodes"])) == ("elsewhere", 4)
    assert project.run("-i", str(tmp_path / "nowhere"), "node", "ls").code == ExitCode.CONFIGURATION


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (MAIN_YML + "mip_overlai: {}\n", ["mip_overlai", "did you mean mip_overlay", "main.yml:3"]),
        (MAIN_YML + "mip_overlay: {subnet: nonsense}\n", ["mip_overlay.subnet", "main.yml:3"]),
        ("mip_engine: {image: 'x:1'}\n", ["keystore_image"]),
        ("mip_engine: [\n", ["main.yml"]),
    ],
)
def test_every_error_of_the_configuration_names_its_place(project: Project, main: str, words: list[str]) -> None:
    project.federation(main=main)
    for verb in ("config show", "deploy -y"):
        done = project.run("-f", "fed", *verb.split())
        assert done.code == ExitCode.CONFIGURATION
        for word in words:
            assert word in done.err
    assert not project.runs()


def test_all_errors_at_once(project: Project) -> None:
    same = {"ansible_host": "127.0.9.9"}
    project.federation(variables={"fed-wk-1": same, "fed-wk-2": same}, main=MAIN_YML + "mip_nonsense: 1\n")
    document = project.run("-f", "fed", "-o", "json", "deploy", "-y").document
    assert document["exit_code"] == ExitCode.CONFIGURATION
    assert len(document["errors"]) >= 2
    assert any(error["host"] == "fed-wk-2" and "hosts.yml:" in error["message"] for error in document["errors"])


NODES = ["--master", "h-ms=192.0.2.1", "--ui", "h-ui=192.0.2.2"]
NODES += ["--worker", "h-a=192.0.2.11", "--worker", "h-b=192.0.2.12", "--worker", "h-c=192.0.2.13"]
IMAGE = ["--engine-image", "registry.example:5000/engine:1.0"]


def test_init(project: Project) -> None:
    done = project.run("init", "hospitals", *NODES, *IMAGE, "--user", "admin")
    assert done.code == ExitCode.OK, done.err
    folder = project.root / "inventories" / "hospitals"
    assert "mipfed -f hospitals trust" in done.out
    assert (folder / "ssh" / "id_ed25519.pub").read_text(encoding="utf-8").strip() in done.out
    assert (folder / "ssh" / "id_ed25519").stat().st_mode & 0o777 == 0o600
    lines = [(folder / name).read_text(encoding="utf-8").count("\n") for name in ("hosts.yml", "group_vars/all/main.yml")]
    assert sum(lines) < 40
    assert (folder / "known_hosts").read_text(encoding="utf-8") == ""
    nodes = project.run("-f", "hospitals", "node", "ls", "-o", "json").document["result"]["nodes"]
    assert [node["name"] for node in nodes] == ["h-ms", "h-ui", "h-a", "h-b", "h-c"]
    assert nodes[0]["ssh_host"] == "192.0.2.1"
    plain = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-inventory"), "-i", str(folder / "hosts.yml"), "--host", "h-a"],
        capture_output=True,
        text=True,
        check=True,
    )
    variables = json.loads(plain.stdout)
    assert variables["ansible_user"] == "admin"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = project.run("init", "hospitals", *NODES, *IMAGE)
    assert (again.code, again.out.strip()) == (ExitCode.OK, "Nothing is missing.")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["hospitals"]


def test_init_without_a_terminal_names_what_is_missing(project: Project) -> None:
    done = project.run("init", "hospitals", "--ui", "a=192.0.2.1")
    assert done.code == ExitCode.USAGE
    for option in ("--master", "--worker", "--engine-image"):
        assert option in done.err
    assert not list((project.root / "inventories").iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["Hospitals", *NODES, *IMAGE], ExitCode.USAGE, "is no name"),
        (["h", "--master", "h-ms", *IMAGE], ExitCode.USAGE, "NAME=ADDRESS"),
        (["h", *NODES, "--worker", "h-a=192.0.2.50", *IMAGE], ExitCode.CONFIGURATION, "h-a"),
        (["h", *NODES, "--worker", "h-d=192.0.2.11", *IMAGE], ExitCode.CONFIGURATION, "192.0.2.11"),
        (["h", *NODES, "--worker", "dotted.name=192.0.2.51", *IMAGE], ExitCode.CONFIGURATION, "dotted.name"),
        (["h", *NODES, "--engine-image", "engine"], ExitCode.CONFIGURATION, "mip_engine.image"),
    ],
)
def test_init_writes_nothing_that_is_wrong(project: Project, arguments: list[str], code: ExitCode, word: str) -> None:
    done = project.run("init", *arguments)
    assert done.code == code
    assert word in done.err
    assert not list((project.root / "inventories").iterdir())


def test_init_from_a_file(project: Project) -> None:
    answers = {
        "master": {"name": "h-ms", "address": "192.0.2.1"},
        "workers": [{"name": "h-a", "address": "192.0.2.11"}],
        "engine_image": "engine:1.0",
    }
    file = project.root / "answers.json"
    file.write_text(json.dumps(answers), encoding="utf-8")
    done = project.run("init", "h", "--from", str(file), "-o", "json")
    assert done.code == ExitCode.OK, done.out
    assert "inventories/h/hosts.yml" in done.document["result"]["files"]
    file.write_text(json.dumps({**answers, "workers": ["x"], "colour": 1}), encoding="utf-8")
    wrong = project.run("init", "h2", "--from", str(file), "-o", "json")
    assert wrong.code == ExitCode.CONFIGURATION
    assert len(wrong.document["errors"]) == 2


def test_init_asks_on_a_terminal(project: Project) -> None:
    answers = ["h-ms=192.0.2.1", "", "h-a=192.0.2.11", "Not A Node", "h-b=192.0.2.12", "", "admin", "engine:1.0", ""]
    code, shown = on_terminal(project, "\n".join(answers) + "\n", "init", "h", "--no-contact")
    assert code == ExitCode.OK, shown
    hosts = (project.root / "inventories" / "h" / "hosts.yml").read_text(encoding="utf-8")
    assert "h-b: {ansible_host: 192.0.2.12}" in hosts
    assert "ui:" not in hosts


def test_doctor(project: Project) -> None:
    project.federation()
    key = project.root / "inventories" / "fed" / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    (project.root / "inventories" / "fed" / "group_vars" / "all" / "key.yml").write_text(
        'ansible_ssh_private_key_file: "{{ inventory_dir }}/key"\n', encoding="utf-8"
    )
    good = project.run("doctor", "-o", "json")
    assert good.code == ExitCode.OK, good.out
    states = {finding["name"]: finding["state"] for finding in good.document["result"]["findings"]}
    assert states["ansible-core"] == states["collection hbp.mip"] == states["federation fed"] == "ok"
    key.chmod(0o644)
    bad = project.run("doctor")
    assert bad.code == ExitCode.CHECK
    assert f"next: chmod go-rwx {key}" in bad.err


def test_doctor_without_ssh(project: Project, tmp_path: Path) -> None:
    project.environment["PATH"] = str(tmp_path)
    done = project.run("doctor")
    assert done.code == ExitCode.CHECK
    assert "ssh-keyscan: is not on PATH" in done.err
    assert "apt-get install openssh-client" in done.err


def test_a_broken_installation_is_told(project: Project) -> None:
    project.federation()
    project.environment["MIPFED_COLLECTIONS"] = "/nonexistent"
    assert project.run("doctor").code == ExitCode.CHECK
    done = project.run("node", "ls")
    assert done.code == ExitCode.INTERNAL
    assert "next: mipfed doctor" in done.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    shown = CliRunner().invoke(app, ["completion", shell])
    assert shown.exit_code == 0
    assert "_MIPFED_COMPLETE" in shown.stdout


def test_version() -> None:
    document = json.loads(CliRunner().invoke(app, ["version", "-o", "json"]).stdout)
    assert document["result"]["ansible-core"].startswith("2.")


def test_offline_commands_start_no_ansible(project: Project) -> None:
    project.federation()
    folder = project.root / "bin"
    folder.mkdir()
    trap = folder / "ansible-playbook"
    trap.write_text(f"#!/bin/sh\ntouch {folder}/started\n", encoding="utf-8")
    trap.chmod(0o755)
    project.environment["PATH"] = f"{folder}:{os.environ['PATH']}"
    for arguments in (["node", "ls"], ["config", "show"], ["version"], ["completion", "bash"]):
        assert project.run(*arguments).code == ExitCode.OK
    assert not (folder / "started").exists()
    assert not project.runs()


def test_documents_have_the_table_of_exit_codes() -> None:
    text = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    assert f"<!-- exit codes -->\n{exitcodes.markdown()}\n<!-- /exit codes -->" in text
