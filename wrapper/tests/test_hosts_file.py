# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Editing hosts.yml: what is not concerned stays byte for byte, whatever the layout, and at no moment is the file half written."""

from __future__ import annotations

import difflib
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import yaml

from mipfed.errors import MipfedError
from mipfed.exitcodes import ExitCode
from mipfed.hosts_file import HostsFile

BLOCK = """\
---
# The hospitals of Europe.
all:
  vars: {answer: 42}
  children:
    pusher:
      hosts:
        fed-pusher: {ansible_connection: local}
    master:
      hosts:
        fed-ms:
          ansible_host: 192.0.2.11
    workers:
      # North and south.
      hosts:
        fed-wk-1:   # the north
          ansible_host: 192.0.2.21   # static
          note: "kept: 'as' it is"
          # mip_address: 10.0.0.1

        # The south has its own words.
        fed-wk-2:
          ansible_host: 192.0.2.22

    # Nothing follows.
    others:
      hosts: {}
# The end.
"""
FLOW = """\
all: {children: {master: {hosts: {fed-ms: {ansible_host: 192.0.2.11}}},
  workers: {hosts: {fed-wk-1: {ansible_host: 192.0.2.21},  # the north
                    fed-wk-2: {ansible_host: 192.0.2.22},
  }}}}
"""
MIXED = """\
all:
    children:
        master: {hosts: {fed-ms: {ansible_host: 192.0.2.11}}}
        workers:
            vars: {a: [1, 2]}
            hosts:
                fed-wk-1: {ansible_host: 192.0.2.21}
                # two
                fed-wk-2: {ansible_host: 192.0.2.22}
"""
TOP = """\
master:
  hosts:
    fed-ms: {ansible_host: 192.0.2.11}
workers:
  children:
    north:
      hosts:
        fed-wk-1:
          ansible_host: 192.0.2.21
  hosts:
    fed-wk-2: {ansible_host: 192.0.2.22}
north:
  hosts:
    fed-wk-1:
"""
ANCHORS = """\
all:
  vars:
    x: &shared {ansible_port: 2222}
  children:
    master: {hosts: {fed-ms: {ansible_host: 192.0.2.11}}}
    workers:
      hosts:
        fed-wk-1: &first
          <<: *shared
          ansible_host: 192.0.2.21
        fed-wk-2: {<<: *shared, ansible_host: 192.0.2.22}
        fed-wk-3: *shared
        fed-wk-4:
          secret: !vault |
            $ANSIBLE_VAULT;1.1;AES256
            3132
          # after the secret
"""
LAYOUTS = {"block": BLOCK, "flow": FLOW, "mixed": MIXED, "top": TOP, "crlf": BLOCK.replace("\n", "\r\n"), "bare end": MIXED.rstrip("\n")}
NEW = {"ansible_host": "192.0.2.29", "mip_host_key": "SHA256:" + "a+/" * 14 + "b"}


class Loader(yaml.SafeLoader):
    """PyYAML, as Ansible uses it, with vault values as texts."""


Loader.add_constructor("!vault", lambda loader, node: loader.construct_scalar(node))


def says(text: str) -> dict:
    return yaml.load(text, Loader)


def hosts(text: str, group: str = "workers") -> dict:
    """Return the hosts of a group and their variables, wherever it is described."""
    found: dict = {}

    def below(groups: dict) -> None:
        for name, entry in (groups or {}).items():
            if name == group:
                for host, variables in ((entry or {}).get("hosts") or {}).items():
                    found.setdefault(host, {}).update(variables or {})
            below((entry or {}).get("children") or {})

    below(says(text))
    return found


@pytest.fixture
def write(tmp_path: Path):
    def writer(text: str, name: str = "hosts.yml") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode())
        return path

    return writer


def removed_lines(before: str, after: str) -> list[str]:
    return [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line.startswith("- ")]


def added_lines(before: str, after: str) -> list[str]:
    return [line[2:] for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line.startswith("+ ")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_host_is_added_and_taken_out_again(write, layout: str) -> None:
    text = LAYOUTS[layout]
    path = write(text)
    file = HostsFile(path)
    file.add("fed-wk-9", "workers", NEW)
    assert file.write()
    after = path.read_bytes().decode()
    assert hosts(after) == {**hosts(text), "fed-wk-9": NEW}
    if layout != "flow":
        assert removed_lines(text, after) == []
    file = HostsFile(path)
    file.remove("fed-wk-9")
    assert file.write()
    again = path.read_bytes().decode()
    assert hosts(again) == hosts(text)
    if layout == "bare end":
        assert again == text + "\n"
    elif layout != "flow":
        assert again == text


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_hosts_variable_comes_changes_and_goes(write, layout: str) -> None:
    text = LAYOUTS[layout]
    path = write(text)
    disabled = {"reason": "Moving: a \"new\" building, 'soon' # really", "since": "2026-11-22T10:00:00Z"}
    file = HostsFile(path)
    file.set("fed-wk-2", "mip_disabled", disabled)
    file.write()
    after = path.read_bytes().decode()
    assert hosts(after)["fed-wk-2"]["mip_disabled"] == disabled
    assert len(added_lines(text, after)) == 1
    file = HostsFile(path)
    file.set("fed-wk-2", "mip_disabled", {"reason": "other"})
    assert hosts(file.text)["fed-wk-2"]["mip_disabled"] == {"reason": "other"}
    file.set("fed-wk-2", "mip_disabled", None)
    file.write()
    again = path.read_bytes().decode()
    assert hosts(again) == hosts(text)
    assert again.rstrip() == text.rstrip()


def test_comments_stay_with_what_they_are_about(write) -> None:
    file = HostsFile(write(BLOCK))
    file.remove("fed-wk-1")
    assert "# The south has its own words.\n        fed-wk-2:" in file.text
    assert "# North and south." in file.text
    file = HostsFile(write(BLOCK))
    file.remove("fed-wk-2")
    assert "    # Nothing follows.\n    others:" in file.text
    file = HostsFile(write(BLOCK))
    file.add("fed-wk-3", "workers", {"ansible_host": "192.0.2.23"})
    wanted = "        fed-wk-2:\n          ansible_host: 192.0.2.22\n        fed-wk-3:\n          ansible_host: 192.0.2.23\n\n    # Nothing"
    assert wanted in file.text


def test_an_address_changes_in_its_place(write) -> None:
    file = HostsFile(write(BLOCK))
    file.set("fed-wk-1", "ansible_host", "192.0.2.99")
    assert file.text == BLOCK.replace("192.0.2.21", "192.0.2.99")


def test_anchors_aliases_and_secrets(write) -> None:
    path = write(ANCHORS)
    file = HostsFile(path)
    file.set("fed-wk-3", "mip_disabled", {"reason": "x"})
    assert hosts(file.text)["fed-wk-3"] == {"ansible_port": 2222, "mip_disabled": {"reason": "x"}}
    file.set("fed-wk-1", "mip_disabled", {"reason": "x"})
    file.set("fed-wk-4", "mip_disabled", {"reason": "x"})
    found = hosts(file.text)
    assert found["fed-wk-1"] == {"ansible_port": 2222, "ansible_host": "192.0.2.21", "mip_disabled": {"reason": "x"}}
    assert found["fed-wk-4"]["secret"] == "$ANSIBLE_VAULT;1.1;AES256\n3132\n"
    file.remove("fed-wk-4")
    assert list(hosts(file.text)) == ["fed-wk-1", "fed-wk-2", "fed-wk-3"]
    file.remove("fed-wk-3")
    file.remove("fed-wk-1")
    assert list(hosts(file.text)) == ["fed-wk-2"]


def test_what_an_anchor_gives_to_others_is_not_taken_away(write) -> None:
    text = ANCHORS.replace("fed-wk-3: *shared", "fed-wk-3: *first")
    path = write(text)
    file = HostsFile(path)
    for edit in (lambda: file.remove("fed-wk-1"), lambda: file.set("fed-wk-1", "mip_disabled", {"reason": "x"})):
        with pytest.raises(MipfedError, match=r"hosts.yml:\d+: .*used elsewhere"):
            edit()
    assert not file.changed
    assert path.read_text() == text


def test_a_host_in_several_groups_leaves_all_of_them(write) -> None:
    file = HostsFile(write(TOP))
    file.remove("fed-wk-1")
    assert "fed-wk-1" not in file.text
    assert hosts(file.text) == {"fed-wk-2": {"ansible_host": "192.0.2.22"}}


@pytest.mark.parametrize(
    ("before", "group"),
    [
        ("all:\n  children:\n    master:\n      hosts:\n        m:\n    workers:\n      hosts:\n        w:\n", "ui"),
        ("all:\n  children:\n    master: {hosts: {m: {}}}\n    workers: {hosts: {w: {}}}\n    ui:\n", "ui"),
        (
            "all:\n  children:\n    master: {hosts: {m: {}}}\n    workers: {hosts: {w: {}}}\n    ui:  # none yet\n      hosts:  # here\n",
            "ui",
        ),
        ("all:\n  children:\n    master: {hosts: {m: {}}}\n    workers: {hosts: {w: {}}}\n    ui:\n      hosts: {}\n", "ui"),
        ("all:\n  children:\n    master: {hosts: {m: {}}}\n    workers: {hosts: {w: {}}}\n    ui: {}\n", "ui"),
        ("all: {children: {master: {hosts: {m: {}}}, workers: {hosts: {w: {}}}}}\n", "ui"),
        ("all:\n  children:\n    master: {hosts: {m: {}}}\n    workers:\n      vars:\n        a: 1\n", "workers"),
    ],
)
def test_a_group_that_has_no_hosts_yet(write, before: str, group: str) -> None:
    file = HostsFile(write(before))
    file.add("fed-new", group, NEW)
    assert hosts(file.text, group) == {"fed-new": NEW}
    file.remove("fed-new")
    assert hosts(file.text, group) == {}


def test_names_and_values_that_yaml_would_take_for_something_else(write) -> None:
    file = HostsFile(write(MIXED))
    file.add("no", "workers", {"ansible_user": "on", "ansible_port": 22, "mip_swarm_manager": True, "x": "1e3", "y": "a: b"})
    assert hosts(file.text)["no"] == {"ansible_user": "on", "ansible_port": 22, "mip_swarm_manager": True, "x": "1e3", "y": "a: b"}


def test_errors_say_where(write) -> None:
    with pytest.raises(MipfedError, match=r"hosts.yml:2: "):
        HostsFile(write("all:\n\t- x\n"))
    with pytest.raises(MipfedError, match="no YAML"):
        HostsFile(write("[workers]\n", "hosts.ini"))
    with pytest.raises(MipfedError, match=r"hosts.yml:16 describes fed-wk-1 already"):
        HostsFile(write(BLOCK)).add("fed-wk-1", "workers", NEW)
    with pytest.raises(MipfedError, match=r"does not describe the host x; it may come from the range wk-\[1:3\] \(line 3\)"):
        HostsFile(write("workers:\n  hosts:\n    wk-[1:3]:\n")).remove("x")
    with pytest.raises(MipfedError, match="describes no federation"):
        HostsFile(write("all:\n  hosts:\n    a:\n")).add("x", "ui", NEW)


def test_nothing_is_written_when_the_draft_is_refused_or_the_file_changed(write) -> None:
    path = write(BLOCK)
    path.chmod(0o640)
    file = HostsFile(path)
    file.add("fed-wk-9", "workers", NEW)

    def refuse(draft: Path) -> None:
        assert hosts(draft.read_text())["fed-wk-9"] == NEW
        raise MipfedError(ExitCode.CONFIGURATION, "no")

    with pytest.raises(MipfedError, match="no"):
        file.write(refuse)
    assert path.read_text() == BLOCK
    path.write_text(BLOCK + "# somebody\n")
    with pytest.raises(MipfedError, match="somebody else"):
        file.write()
    assert path.read_text() == BLOCK + "# somebody\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["hosts.yml"]
    file = HostsFile(path)
    file.add("fed-wk-9", "workers", NEW)
    assert file.write()
    assert path.stat().st_mode & 0o777 == 0o640
    assert not file.write()


def test_a_link_is_followed(write, tmp_path: Path) -> None:
    real = write(BLOCK, "real.yml")
    (tmp_path / "fed").mkdir()
    link = tmp_path / "fed" / "hosts.yml"
    link.symlink_to(real)
    file = HostsFile(link)
    file.remove("fed-wk-1")
    assert file.write()
    assert link.is_symlink()
    assert "fed-wk-1" not in real.read_text()


def test_killed_at_any_moment_the_file_is_the_old_or_the_new_one(write) -> None:
    path = write(BLOCK)
    program = textwrap.dedent("""\
        import sys
        from pathlib import Path
        from mipfed.hosts_file import HostsFile
        path = Path(sys.argv[1])
        print("ready", flush=True)
        while True:
            for edit in (lambda f: f.add("fed-wk-9", "workers", {"ansible_host": "192.0.2.29"}), lambda f: f.remove("fed-wk-9")):
                file = HostsFile(path)
                edit(file)
                file.write()
        """)
    seen = set()
    for pause in (0.0, 0.003, 0.011, 0.017, 0.023, 0.031, 0.044, 0.059):
        process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
        assert process.stdout and process.stdout.readline() == b"ready\n"
        time.sleep(0.05 + pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        text = path.read_text()
        seen.add(text)
        assert set(hosts(text)) - {"fed-wk-9"} == {"fed-wk-1", "fed-wk-2"}
        assert HostsFile(path).has("fed-wk-1")
    assert seen <= {BLOCK, HostsFileAdded.text}


class HostsFileAdded:
    """What the file is with the host."""

    text = BLOCK.replace(
        "          ansible_host: 192.0.2.22\n",
        "          ansible_host: 192.0.2.22\n        fed-wk-9:\n          ansible_host: 192.0.2.29\n",
    )
