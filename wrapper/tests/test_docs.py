# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the documents show: commands are those of the program, files, links, variables and findings are there, examples can be used."""

from __future__ import annotations

import ast
import functools
import importlib.util
import itertools
import json
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from typer.main import get_command

from ansible_collections.hbp.mip.plugins.plugin_utils._age import Identity
from ansible_collections.hbp.mip.plugins.plugin_utils._federation import FederationError, resolve
from mipfed.app import app
from mipfed.exitcodes import ExitCode
from mipfed.metrics import METRICS

from .conftest import COLLECTION, PROGRAM, REPOSITORY, Project

GENERATED = ("commands.md", "modules.md", "roles.md", "variables.md")
PAGES = sorted([REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "wrapper/README.md", *REPOSITORY.glob("docs/*.md")])
WRITTEN = [page for page in PAGES if page.name not in GENERATED]
SPECS = yaml.safe_load((COLLECTION / "roles/federation/meta/argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]

#: Words of the documents in the place of numbers.
NUMBERS = {"N": "1", "RELEASE": "1", "SECONDS": "1"}
SEPARATORS = re.compile(r"[();<>|&]+")
TOP = get_command(app)


class Command(NamedTuple):
    """A command line of mipfed in a document."""

    page: str
    line: int
    words: tuple[str, ...]
    #: Whole lines of a block have to be complete; what is named in the text need not.
    whole: bool

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: mipfed {shlex.join(self.words)}"


# --- what is in a page


def parts(page: Path) -> Iterator[tuple[int, str, bool]]:
    """Yield the lines of a page with their number, and whether they are in a block of code; lines that go on are one."""
    inside, waiting, begin = False, "", 0
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            inside = not inside
            continue
        text, begin = waiting + line, begin if waiting else number
        if inside and text.endswith("\\"):
            waiting = text[:-1]
            continue
        waiting = ""
        yield begin, text, inside


def blocks(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """Yield the blocks of code of a language with the number of their first line."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, found.start()) + 2, found[1]


def inline(text: str) -> list[str]:
    """Return what stands in backquotes in a line."""
    return [found.replace("\\|", "|") for found in re.findall(r"`([^`]+)`", text)]


def alternatives(text: str) -> list[str]:
    """Return the command lines that a synopsis stands for: `a [b|c] [--d X]...` is `a b --d X` and `a c --d X`."""
    text = re.sub(r"<[a-z][^>]*>", "FILE", text.replace("…", "").replace("...", ""))
    pieces = re.split(r"[\[\]]|(?<=\s)([a-z]+(?:\|[a-z]+)+)(?=\s|$)", text)
    choices = [piece.split("|") if re.fullmatch(r"[a-z]+(\|[a-z]+)+", piece) else [piece] for piece in pieces if piece]
    return ["".join(choice) for choice in itertools.product(*choices)]


def pipeline(line: str) -> Iterator[list[str]]:
    """Yield the commands of a line of shell, as words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:
        return
    for is_separator, group in itertools.groupby(words, lambda word: bool(SEPARATORS.fullmatch(word))):
        if not is_separator:
            yield list(group)


def program(words: list[str]) -> list[str]:
    """Return a command from its program on: without sudo, assignments and what cron wants before it."""
    while words and (words[0] in ("sudo", "root", "export", "next:") or "=" in words[0] or re.fullmatch(r"[*/0-9]+", words[0])):
        words = words[1:]
    return words


def commands_of(line: str) -> list[list[str]]:
    """Return the commands of a line, each from its program on."""
    return [words for words in map(program, pipeline(line)) if words]


def in_pages() -> Iterator[Command]:
    """Yield every command line of mipfed in the documents."""
    for page in WRITTEN:
        name = str(page.relative_to(REPOSITORY))
        for number, line, inside in parts(page):
            found: list[tuple[str, bool]] = []
            if inside and re.match(r"(\S*/)?mipfed |(sudo|export|next:|[*/0-9 ]+ root|source)\b.*\bmipfed ", line):
                found = [(line, True)]
            elif not inside:
                named = inline(line)
                # The page of the program itself leaves its name out.
                about = name == "wrapper/README.md" or any(text.startswith("mipfed ") for text in named)
                for text in named:
                    if text.startswith("mipfed "):
                        found.append((text, False))
                    elif about and (" " in text or "[" in text) and text.split()[0] in TOP.commands:  # type: ignore[attr-defined]
                        found.append((f"mipfed {text}", False))
            for text, whole in found:
                for one in alternatives(text):
                    for words in commands_of(one):
                        if words[0].rsplit("/", 1)[-1] == "mipfed":
                            yield Command(name, number, tuple(NUMBERS.get(word, word) for word in words[1:]), whole)


COMMANDS = list(in_pages())


# --- commands


def parsed(words: tuple[str, ...]) -> tuple[str, list[str], str]:
    """Let the program itself read a command line up to its callback.

    :returns: the command's words, what is not given of it, and what is wrong with the line.
    """
    command, path, arguments = TOP, [], list(words)
    try:
        while True:
            context = command.context_class(command, info_name=command.name)
            if not hasattr(command, "commands"):
                command.parse_args(context, arguments)
                return " ".join(path), [], ""
            # A group without anything shows its help.
            if arguments:
                command.parse_args(context, arguments)
            rest = [*context._protected_args, *context.args]
            if not rest:
                return " ".join(path), ["a command"], ""
            name, command, arguments = command.resolve_command(context, rest)
            path.append(str(name))
    except Exception as error:  # the parser's own errors, which typer brings along under names that changed
        if type(error).__name__ == "MissingParameter" or "requires an argument" in str(error):
            return " ".join(path), [str(error)], ""
        return " ".join(path), [], f"{type(error).__name__}: {error}"


def ends_early(words: tuple[str, ...]) -> bool:
    """Tell whether a line asks for help, which ends the program while it reads."""
    return bool({"--help", "-h", "--install-completion", "--show-completion"} & set(words))


def test_there_are_commands_to_try() -> None:
    assert len(COMMANDS) > 250
    assert {command.page for command in COMMANDS} >= {"README.md", "docs/operator.md", "docs/hospital-it.md", "wrapper/README.md"}
    assert sum(command.whole for command in COMMANDS) > 80


@pytest.mark.parametrize("page", sorted({command.page for command in COMMANDS}))
def test_every_command_is_one_of_the_program(page: str) -> None:
    wrong = []
    for command in COMMANDS:
        if command.page != page or ends_early(command.words):
            continue
        _path, missing, error = parsed(command.words)
        if error or (missing and command.whole):
            wrong.append(f"{command}: {error or 'not given: ' + ', '.join(missing)}")
    assert not wrong, "\n".join(wrong)


def test_what_is_wrong_would_be_found() -> None:
    for line in (
        "deploy --nonsense",
        "nonsense",
        "node nonsense",
        "kit create a b c",
        "-o xml status",
        "lab up --workers x",
        "logs --node a",
    ):
        assert parsed(tuple(line.split()))[2], line
    assert parsed(("kit", "accept", "NODE"))[1:] == (["Missing parameter: code"], "")
    assert parsed(("node",))[1:] == (["a command"], "")
    assert parsed(("-f", "x", "node", "add", "NODE", "--address", "IP", "-y")) == ("node add", [], "")
    assert alternatives("mipfed token rotate [worker|manager] [--ca]...") == [
        "mipfed token rotate worker --ca",
        "mipfed token rotate manager --ca",
    ]


def leaves(command: Any, path: str = "") -> Iterator[str]:
    """Yield the words of every command of the program."""
    if not hasattr(command, "commands"):
        yield path
    else:
        for name, sub in command.commands.items():
            yield from leaves(sub, f"{path} {name}".strip())


def test_every_command_is_in_the_documents() -> None:
    listed = (REPOSITORY / "wrapper/README.md").read_text(encoding="utf-8")
    assert not sorted(name for name in leaves(TOP) if not re.search(rf"`{name}[` ]", listed))


# --- commands that are run


#: Those that contact nobody and change nothing but what they are told to write.
HARMLESS = re.compile(
    r"(config show|node ls|version|completion|release ls|backup ls|check .*--request-sheet|(\S+ )*(--help|-h)|init .*--master)\b.*"
)


def runnable() -> list[tuple[str, ...]]:
    """Return the commands of the documents that can be run without a federation."""
    found = {("--help",), ("node", "add", "--help"), ("config", "show"), ("node", "ls"), ("version",)}
    for command in COMMANDS:
        words = tuple("hospitals-wk-north" if word == "NODE" else word for word in command.words)
        own = words[2:] if words[:1] == ("-f",) else words
        if HARMLESS.fullmatch(" ".join(own)) and not {"NAME", "COMMAND"} & set(own) and (ends_early(words) or not parsed(words)[1]):
            found.add(words)
    return sorted(found)


@functools.cache
def example() -> str:
    """Return the name of the federation in inventories/example."""
    main = yaml.safe_load((REPOSITORY / "inventories/example/group_vars/all/main.yml").read_text(encoding="utf-8"))
    return str(main["mip_federation"])


@pytest.fixture
def operator(project: Project) -> Project:
    """A project with the example inventory, under the name that the documents use."""
    (project.root / "inventories" / example()).symlink_to(REPOSITORY / "inventories/example")
    project.environment["MIPFED_COLLECTIONS"] = str(REPOSITORY / "collections")
    return project


@pytest.mark.parametrize("words", runnable(), ids=" ".join)
def test_commands_that_need_no_host_are_run(operator: Project, words: tuple[str, ...]) -> None:
    if words[0] == "init":
        (operator.root / "inventories" / example()).unlink()
    elif words[0] == "-f":
        words = ("-f", example(), *words[2:])
    done = operator.run(*words)
    assert done.code == ExitCode.OK, done.err
    assert done.out.strip()


def test_the_answers_in_a_file_make_a_federation(project: Project) -> None:
    answers = next(text for _line, text in blocks(REPOSITORY / "docs/init.md", "json"))
    (project.root / "answers.json").write_text(answers, encoding="utf-8")
    done = project.run("init", "hospitals", "--from", "answers.json", "--no-contact")
    assert done.code == ExitCode.OK, done.err
    nodes = project.run("-f", "hospitals", "node", "ls", "-o", "json").document["result"]["nodes"]
    assert [node["kind"] for node in nodes] == ["master", "ui", "worker"]


def test_what_the_two_exit_codes_of_a_wrong_line_are() -> None:
    done = subprocess.run([*PROGRAM, "deploy", "--nonsense"], capture_output=True, text=True, check=False)
    assert (done.returncode, "nonsense" in done.stderr) == (ExitCode.USAGE, True)


# --- other programs


def shell_lines() -> Iterator[tuple[str, int, list[str]]]:
    """Yield every other command in the documents: page, line, words."""
    for page in WRITTEN:
        for number, line, inside in parts(page):
            for text in [line] if inside else inline(line):
                for words in commands_of(text):
                    yield str(page.relative_to(REPOSITORY)), number, words


def playbooks() -> list[str]:
    """Return the playbooks that the documents start with ansible-playbook."""
    named = [words[1] for _page, _line, words in shell_lines() if words[0] == "ansible-playbook" and len(words) > 1]
    return sorted({name for name in named if name.endswith((".yml", ".yaml"))})


@pytest.mark.parametrize("name", playbooks())
def test_playbooks_are_there_and_can_be_read(name: str) -> None:
    assert (REPOSITORY / name).is_file()
    tool = str(Path(sys.executable).parent / "ansible-playbook")
    command = [tool, name, "--syntax-check", "-i", "inventories/example", "-e", "awx_federation=x awx_scm_url=x"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


def test_playbooks_are_named() -> None:
    assert "site.yml" in playbooks()


def test_stages_of_the_tests_are_there() -> None:
    stages = set(re.findall(r"^stage_(\w+)\(\)", (REPOSITORY / "bin/test").read_text(encoding="utf-8"), re.MULTILINE))
    named = {(page, word) for page, _line, words in shell_lines() if words[0] == "bin/test" for word in words[1:]}
    assert {"unit", "esp", "life"} <= {word for _page, word in named}
    assert not [(page, word) for page, word in sorted(named) if word not in stages and word != "STAGE"]
    listed = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert not [stage for stage in sorted(stages) if f"`bin/test {stage}`" not in listed and f"`{stage}`" not in listed]


@functools.cache
def help_of_mip_site(verb: str) -> str:
    """Return what the hospitals' own command says of a verb; empty when it has none of that name."""
    command = [sys.executable, str(COLLECTION / "roles/site/files/mip-site"), verb, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def test_the_hospitals_own_command_is_as_shown() -> None:
    shown = [(page, line, words) for page, line, words in shell_lines() if words[0] == "mip-site" and len(words) > 1]
    assert len(shown) > 15
    wrong = []
    for page, line, words in shown:
        told = help_of_mip_site(words[1].strip("[]"))
        options = [word.strip("[]") for word in words[2:] if word.strip("[]").startswith("--")]
        if not told or any(option not in told for option in options):
            wrong.append(f"{page}:{line}: {' '.join(words)}")
    assert not wrong


# --- links and pictures


def slug(title: str) -> str:
    """Return the anchor of a title, as GitHub makes it."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


@functools.cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors of a page."""
    counted: dict[str, int] = {}
    found = set()
    for _number, line, inside in parts(page):
        if not inside and (title := re.match(r"#{1,6} (.*)", line)):
            name = slug(title[1])
            counted[name] = counted.get(name, -1) + 1
            found.add(f"{name}-{counted[name]}" if counted[name] else name)
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for number, line, inside in parts(page):
        for target in [] if inside else re.findall(r"\]\(([^)\s]+)\)", line):
            path, _hash, anchor = target.partition("#")
            if re.match(r"[a-z]+:", path):
                continue
            there = (page.parent / path).resolve() if path else page
            if not there.exists() or (anchor and (there.suffix != ".md" or anchor not in anchors(there))):
                broken.append(f"{number}: {target}")
    assert not broken


def test_every_page_is_in_the_index() -> None:
    index = (REPOSITORY / "docs/README.md").read_text(encoding="utf-8")
    named = {name.partition("#")[0] for name in re.findall(r"\]\(([^)]+)\)", index)}
    assert not {page.name for page in REPOSITORY.glob("docs/*.md")} - named - {"README.md"}
    assert "docs/README.md" in (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("picture", sorted(REPOSITORY.glob("docs/images/*.svg")), ids=lambda path: path.name)
def test_drawings_can_be_read_and_are_described(picture: Path) -> None:
    root = ElementTree.fromstring(picture.read_text(encoding="utf-8"))
    space = "{http://www.w3.org/2000/svg}"
    assert root.find(f"{space}title") is not None and root.find(f"{space}desc") is not None
    words = " ".join("".join(node.itertext()) for node in root.iter(f"{space}text"))
    for word in ("pusher", "master", "ui node", "worker", "9090", "ESP", "2377", "7946", "SSH", "playbook", "role", "module"):
        assert word in words
    style = "".join(root.find(f"{space}style").itertext())  # type: ignore[union-attr]
    assert "prefers-color-scheme: dark" in style
    assert not list(root.iter(f"{space}image")) and "url(http" not in style


# --- names


#: Names that begin like variables and are none: keys of JSON, tables of nftables.
OTHERS = {"mip_error", "mip_report", "mip_pause", "mip_site_kit", "mip_active"}


@functools.cache
def known_variables() -> frozenset[str]:
    """Return every variable of an inventory, and every key below one, with dots."""

    def below(options: dict[str, Any], prefix: str = "") -> Iterator[str]:
        for name, option in options.items():
            yield prefix + name
            yield from below(option.get("options", {}), f"{prefix}{name}.")

    return frozenset(itertools.chain.from_iterable(below(SPECS[entry]["options"]) for entry in ("main", "node")))


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_variables_are_those_of_the_schema(page: Path) -> None:
    wrong = []
    for number, line, _inside in parts(page):
        for name in re.findall(r"(?<![\w/.-])mip_[a-z_]+[a-z](?:\.(?!prom|yml|py)[a-z_]+[a-z])*(?![\w<]|\.prom)", line):
            if name.partition(".")[0].removeprefix("mip_") not in METRICS and name not in known_variables() | OTHERS:
                wrong.append(f"{number}: {name}")
    assert not wrong


def test_examples_of_an_inventory_are_valid() -> None:
    """Variables of all nodes, and those of hosts below `workers`, are what the resolver accepts."""
    images = {"mip_engine": {"image": "r.example/e:1", "keystore_image": "r.example/k:1"}}
    tried = []
    for page in WRITTEN:
        for number, text in blocks(page, "yaml"):
            found = yaml.safe_load(text.replace("age1…", str(Identity.generate().recipient)))
            assert isinstance(found, dict), f"{page}:{number}"
            hosts = found.pop("workers", {}).get("hosts", {})
            if not hosts and not all(name in SPECS["main"]["options"] for name in found):
                continue
            hosts = {"h-ms": {"ansible_host": "192.0.2.250"}, **(hosts or {"h-wk": {"ansible_host": "192.0.2.251"}})}
            variables = {name: {**images, **found, **own} for name, own in hosts.items()}
            try:
                resolve("h", {"master": ["h-ms"], "workers": list(hosts)[1:]}, variables)
            except FederationError as error:
                pytest.fail(f"{page.name}:{number}: {error}")
            tried.append(page.name)
    assert {"keycloak.md", "managers.md", "recovery.md", "verify.md"} <= set(tried)


def test_every_metric_is_in_the_document() -> None:
    text = (REPOSITORY / "docs/report.md").read_text(encoding="utf-8")
    assert not [name for name in METRICS if f"`mip_{name}`" not in text]


def test_examples_in_json_can_be_read() -> None:
    found = [(page, number, text) for page in WRITTEN for number, text in blocks(page, "json")]
    assert found
    for _page, _number, text in found:
        json.loads(text)


def test_what_is_called_hbp_mip_is_there() -> None:
    there = {path.stem for path in [*COLLECTION.glob("playbooks/*.yml"), *COLLECTION.glob("plugins/*/*.py")]}
    there |= {path.name for path in COLLECTION.glob("roles/*")}
    wrong = []
    for page in WRITTEN:
        for number, line, _inside in parts(page):
            wrong += [f"{page.name}:{number}: {name}" for name in re.findall(r"hbp\.mip\.([a-z_]+)", line) if name not in there]
    assert not [entry for entry in wrong if not entry.endswith("node_")]


def reported() -> Iterator[tuple[str, str]]:
    """Yield the names of all problems that the checks and reports of the collection can tell, with the file."""
    files = [*COLLECTION.glob("plugins/module_utils/_gates*.py"), *COLLECTION.glob("plugins/plugin_utils/*reports.py")]
    files.append(COLLECTION / "plugins/modules/swarm_info.py")
    for path in files:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            place = 0 if isinstance(call.func, ast.Attribute) or path.name == "swarm_info.py" else 1
            if name in ("problem", "warning", "note", "notice") and len(call.args) > place:
                code = call.args[place]
                if isinstance(code, ast.Constant) and isinstance(code.value, str):
                    yield code.value, path.name


def test_every_problem_is_explained() -> None:
    found = set(reported())
    assert len(found) > 80
    text = "".join(page.read_text(encoding="utf-8") for page in WRITTEN)
    assert not [f"{code} ({name})" for code, name in sorted(found) if f"`{code}`" not in text]


# --- what messages tell to do next


def sentences(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the strings of a program with their line, X in the place of what is only known when it runs; no documentation."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    named = {"DOCUMENTATION", "EXAMPLES", "RETURN"}
    docstrings |= {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in named
    }
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node) if part is not node}
    for node in ast.walk(tree):
        if id(node) in docstrings or id(node) in inner:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        elif isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)


def told(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the commands that the messages of a program name: what follows `mipfed`, and what `session.call` gets."""
    source = path.read_text(encoding="utf-8")
    if "mipfed" not in source and ".call(" not in source:
        return
    tree = ast.parse(source)
    for line, text in sentences(tree):
        for found in re.finditer(r"(?:^|[`:;,(] ?|[Tt]hen )(?:\{mipfed\}|mipfed) (?:-f (?:X|%s) )?([a-z][^`;(,\n]*)", text):
            yield line, found[1]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "call" and node.args]
    for call in calls:
        given = call.args[0]
        for text in (given.body, given.orelse) if isinstance(given, ast.IfExp) else (given,):
            if isinstance(text, (ast.Constant, ast.JoinedStr)):
                yield from ((line, said) for line, said in sentences(text) if said[:1].islower())


def unknown(text: str) -> str:
    """Return what is wrong with a command in a sentence: its words are not those of a command, or it has no such option."""
    words, command = text.split(), TOP
    while hasattr(command, "commands"):
        name = words.pop(0).rstrip(".):") if words else ""
        # A sentence about mipfed itself: `mipfed opens it`.
        if name in ("", "…", "X") or (name.endswith("s") and name not in command.commands):
            return ""
        if name not in command.commands:
            return f"no command {name}"
        command = command.commands[name]
    options = {option for found in command.params for option in (*found.opts, *getattr(found, "secondary_opts", ()))}
    strange = [word for word in re.findall(r"(?<![\w-])--[a-z][a-z-]+", " ".join(words)) if word not in options | {"--help"}]
    return f"no option {', '.join(strange)}" if strange else ""


def test_messages_name_commands_that_there_are() -> None:
    programs = [*REPOSITORY.glob("wrapper/src/mipfed/*.py"), *COLLECTION.glob("plugins/*/*.py")]
    found = [(path.name, line, text) for path in programs for line, text in told(path)]
    assert len(found) > 200
    wrong = [f"{name}:{line}: {text}: {reason}" for name, line, text in found if (reason := unknown(text))]
    assert not wrong, "\n".join(wrong)
    assert unknown("node nonsense X") and unknown("deploy --nonsense") and not unknown("deploy makes it")


# --- the reference


def test_the_reference_is_what_the_program_says() -> None:
    spec = importlib.util.spec_from_file_location("docs_generate", REPOSITORY / "docs/generate.py")
    assert spec and spec.loader
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert set(generate.PAGES) == set(GENERATED)
    outdated = [name for name, page in generate.PAGES.items() if (REPOSITORY / "docs" / name).read_text(encoding="utf-8") != page()]
    assert not outdated, "run docs/generate.py"
