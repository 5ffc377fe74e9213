# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`mipfed tmux`: a federation's desk in one terminal. libtmux drives a tmux server of our own; the user's is not touched."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mipfed import paths
from mipfed.errors import MipfedError, configuration
from mipfed.exitcodes import ExitCode
from mipfed.formats import Output
from mipfed.outcome import Outcome
from mipfed.session import Session

if TYPE_CHECKING:
    from libtmux import Server

#: Name of the tmux server: `tmux -L mipfed ls` lists the cockpits of all federations.
SOCKET = "mipfed"
FILES = Path(__file__).resolve().parent / "tmux"
#: What a pane needs for log lines to be read, in columns and rows, and how many are still told apart at a glance.
PANE_WIDTH, PANE_HEIGHT, MOST_PANES = 40, 6, 12
#: A cockpit that is being made has this between its name and the process that makes it.
BUILDING = "--making-"
#: How many panes of a kind start every three seconds: reading an inventory takes a second of a processor, ssh next to none.
AT_ONCE = {"logs": 4, "console": 12}
SECONDS_BETWEEN = 3


@dataclass(frozen=True)
class Pane:
    """One pane: the node that it is about, and the command that it keeps running."""

    node: str
    command: tuple[str, ...]


@dataclass
class Window:
    """One window, by its place and name."""

    index: int
    name: str
    panes: list[Pane] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the window for JSON."""
        return {"index": self.index, "name": self.name, "panes": [pane.node for pane in self.panes]}


def pages(count: int, columns: int, rows: int) -> list[int]:
    """Divide panes over windows of one size, as evenly as goes.

    :returns: how many panes each window has; at least one window.
    """
    fit = max(1, columns // PANE_WIDTH) * max(1, (rows - 1) // PANE_HEIGHT)
    windows = max(1, -(-count // min(fit, MOST_PANES)))
    return [count // windows + (number < count % windows) for number in range(windows)]


def layout(
    consoles: Mapping[str, Sequence[str]],
    logs: Mapping[str, Sequence[str]],
    shell: str,
    text: str,
    size: tuple[int, int],
) -> list[Window]:
    """Return the windows of a cockpit: bash, logs, deploy, a console for each node, and where the logs need more windows, those.

    :arg consoles: by node, master first, the command that opens a shell on it.
    :arg logs: likewise, the command that shows its logs.
    :arg shell: the user's shell.
    :arg text: what the window `deploy` says.
    """
    divided = iter(pages(len(logs), *size))
    order = iter(enumerate(logs))

    def page(count: int) -> list[Pane]:
        return [_kept("logs", name, number, logs[name]) for number, name in (next(order) for _unused in range(count))]

    first = page(next(divided))
    help_ = ("sh", "-c", 'printf "%s\\n" "$1"; exec "$2"', "help", text, shell)
    windows = [Window(0, "bash", [Pane("", (shell,))]), Window(1, "logs", first), Window(2, "deploy", [Pane("", help_)])]
    if not first:
        windows[1].panes = [Pane("", ("sh", "-c", 'printf "%s\\n" "$1"; exec "$2"', "logs", "There is no node.", shell))]
    windows += [Window(3 + number, name, [_kept("console", name, number, consoles[name])]) for number, name in enumerate(consoles)]
    following = 3 + len(consoles)
    return windows + [Window(following + number, f"logs-{number + 2}", page(count)) for number, count in enumerate(divided)]


def _kept(kind: str, node: str, place: int, argv: Sequence[str]) -> Pane:
    delay = place // AT_ONCE[kind] * SECONDS_BETWEEN
    return Pane(node, ("bash", str(FILES / "pane"), kind, node, str(delay), *argv))


def help_text(name: str, call: str, left_out: Sequence[str]) -> str:
    """Return what the window `deploy` shows."""
    rows = [
        ("check", "is every host fit, and every link?"),
        ("plan", "what would change"),
        ("deploy", "make it so"),
        ("verify", "prove that it works"),
        ("status", "what runs where"),
        ("restart --node NODE", "start a node's engine again"),
        ("data ls", "who holds which datasets"),
        ("data consolidate", "metadata that lists exactly these"),
        ("data compile", "what the engines read"),
        ("node ls", "the nodes; node add, remove, disable and more"),
        ("doctor", "what is wrong, and what to do"),
    ]
    width = max(len(verb) for verb, _text in rows)
    lines = [f"Federation {name}", "", *(f"  {call} {verb:<{width}}  {text}" for verb, text in rows)]
    lines += ["", "Keys, each after CTRL+j (or CTRL+b):"]
    lines += ["  d leave, all goes on       n p next, previous window   0-9 window   w list of windows"]
    lines += ["  o next pane                z zoom in and out           q pane numbers"]
    lines += ["  r start a pane again       R all panes of the window   [ scroll back, q ends it"]
    lines += ["  m mouse on and off         ALT+arrows, without CTRL+j: the pane that way"]
    if left_out:
        lines += ["", "No console: " + "; ".join(left_out)]
    return "\n".join(lines)


def build(
    server: Server, name: str, windows: Sequence[Window], *, folder: Path, environment: Mapping[str, str], size: tuple[int, int]
) -> str:
    """Make a session of these windows under a name of its own, so that none is ever half there under the right one.

    :returns: the session's id.
    """
    first, *others = windows
    # Not libtmux's own new_session and sessions: what they ask tmux for cannot be said in a locale without UTF-8.
    variables = [word for name_, value in environment.items() for word in ("-e", f"{name_}={value}")]
    began = ["-d", "-P", "-F", "#{session_id}", "-s", f"{name}{BUILDING}{os.getpid()}", "-n", first.name, "-c", str(folder)]
    (desk,) = _tmux(server, "new-session", *began, "-x", str(size[0]), "-y", str(size[1]), *variables, _line(first.panes[0]))
    words: list[list[str]] = []
    for window in others:
        place = f"{desk}:{window.index}"
        started = ["-d", "-c", str(folder)]
        for number, pane in enumerate(window.panes):
            if number == 0:
                words.append(["new-window", *started, "-t", place, "-n", window.name, _line(pane)])
            else:
                # Each split takes half of the last pane; without the layout the tenth would find no room.
                words.append(["split-window", *started, "-t", f"{place}.{number - 1}", _line(pane)])
                words.append(["select-layout", "-t", place, "tiled"])
            if pane.node:
                words.append(["set-option", "-p", "-t", f"{place}.{number}", "@mipfed_node", pane.node])
    for batch in _batches(words):
        _tmux(server, *batch)
    return desk


def _batches(commands: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """Join commands for one call of tmux each; a call takes no more than 16 KiB."""
    batch: list[str] = []
    for words in commands:
        if batch and len(" ".join([*batch, *words]).encode()) > 10_000:
            yield batch
            batch = []
        batch += [*([";"] if batch else []), *words]
    if batch:
        yield batch


def _line(pane: Pane) -> str:
    return f"exec {shlex.join(pane.command)}"


def sweep(server: Server) -> None:
    """Remove what a killed process left half made."""
    for found in server.cmd("list-sessions", "-F", "#{session_name}").stdout:
        _name, mark, pid = found.partition(BUILDING)
        if mark and not Path(f"/proc/{pid}").exists():
            server.cmd("kill-session", "-t", f"={found}")


def install(server: Server, desk: str, name: str) -> None:
    """Put a finished session in the place of the one with the name, and take along who looks at that one."""
    old = f"{name}{BUILDING}old"
    if server.has_session(name):
        _tmux(server, "rename-session", "-t", f"={name}", old)
        _tmux(server, "rename-session", "-t", desk, name)
        for client in server.cmd("list-clients", "-t", f"={old}", "-F", "#{client_name}").stdout:
            server.cmd("switch-client", "-c", client, "-t", f"={name}")
        # Last: this process may itself run in a pane of the old session.
        server.cmd("kill-session", "-t", f"={old}")
    else:
        _tmux(server, "rename-session", "-t", desk, name)


def _tmux(server: Server, *words: str) -> list[str]:
    done = server.cmd(*words)
    if done.stderr:
        raise MipfedError(ExitCode.FAILED, f"tmux {shlex.join(words)}: {' '.join(done.stderr)}")
    return list(done.stdout)


def windows_of(server: Server, name: str) -> list[dict[str, Any]]:
    """Return the windows of a session as tmux has them."""
    lines = _tmux(server, "list-panes", "-s", "-t", f"={name}", "-F", "#{window_index} #{window_name} #{@mipfed_node}")
    found: dict[int, dict[str, Any]] = {}
    for line in lines:
        index, window, *node = line.split(" ")
        found.setdefault(int(index), Window(int(index), window).as_dict())["panes"].append(node[0] if node else "")
    return [found[index] for index in sorted(found)]


def _option(server: Server, name: str, option: str) -> str:
    return "\n".join(server.cmd("show-options", "-v", "-t", f"={name}:", option).stdout)


def _attach(server: Server, name: str, notice: str) -> None:
    """Become tmux, attached to the session. Returns only when there is no tmux to become."""
    inside = os.environ.get("TMUX", "").split(",")[0]
    ours = _tmux(server, "display-message", "-p", "-t", f"={name}:", "#{socket_path}")
    switch = bool(inside) and ours == [inside]
    words = ["tmux", "-L", SOCKET, "switch-client" if switch else "attach-session", "-t", f"={name}"]
    if notice:
        words += [";", "display-message", "-d", "8000", notice]
    sys.stdout.flush()
    # In somebody's own tmux ours is attached inside it, for which the second prefix is there.
    environment = {key: value for key, value in os.environ.items() if switch or key not in ("TMUX", "TMUX_PANE")}
    os.execvpe("tmux", words, environment)  # noqa: S606


def _without_windows(resolved: Mapping[str, Any]) -> Iterator[str]:
    for node in resolved["disabled"]:
        yield f"{node['name']} (disabled)"
    for node in resolved["kits"]:
        yield f"{node['name']} (site kit, no access over SSH)"


def show(session: Session, *, force: bool, detach: bool) -> Outcome:
    """Carry out `mipfed tmux`; on a terminal this process becomes tmux."""
    if shutil.which("tmux") is None:
        raise configuration("tmux is not installed.", next="apt-get install tmux")
    import libtmux

    from mipfed import inventory as inventories

    inventory = inventories.load(session.source)
    resolved = inventories.resolve(inventory)
    name = str(resolved["name"])
    names = [str(node["name"]) for node in (*resolved["nodes"], *resolved["kits"])]
    server = libtmux.Server(socket_name=SOCKET, config_file=str(FILES / "tmux.conf"))
    sweep(server)
    there = server.is_alive() and server.has_session(name)
    whose = str(session.source.folder.resolve())
    if there and not force and (other := _option(server, name, "@mipfed_inventory")) != whose:
        raise configuration(
            f"The cockpit {name} is that of another inventory, {other}.", next=f"{session.call('tmux --force')}   (ends that one)"
        )
    notice = ""
    if there and not force:
        then = _option(server, name, "@mipfed_nodes").split()
        if then != names:
            notice = f"The nodes changed since this cockpit was made; {session.call('tmux --force')} makes it anew."
        server.cmd("source-file", str(FILES / "tmux.conf"))
    else:
        _make(session, server, inventory, resolved, names)
    result = {"session": name, "created": force or not there, "windows": windows_of(server, name), "notice": notice}
    if session.options.output is Output.TEXT and not detach and sys.stdin.isatty() and sys.stdout.isatty():
        _attach(server, name, notice)
    text = [f"The cockpit {name} {'is ready' if result['created'] else 'was there already'}.", *filter(None, [notice])]
    return Outcome(
        result=result,
        text=lambda out: out.print("\n".join(text), markup=False),
        next=session.call("tmux") if session.options.output is Output.TEXT else "",
    )


def _make(session: Session, server: Server, inventory: Any, resolved: Mapping[str, Any], names: Sequence[str]) -> None:
    from libtmux.exc import LibTmuxException

    from mipfed.console import arguments

    name = str(resolved["name"])
    folder = f"{shlex.quote(str(resolved['data_dir']))}"
    # The login shell starts where the data are, as far as the account may look at them.
    opening = ["sh", "-c", f'cd {folder} 2>/dev/null; exec "${{SHELL:-sh}}" -l']
    consoles = {node["name"]: arguments(inventory, node, opening if node["ssh_host"] else ()) for node in resolved["nodes"]}
    chosen = ["-i", str(session.options.inventory.expanduser().absolute())] if session.options.inventory else ["-f", session.source.name]
    program = [sys.executable, "-m", "mipfed", *chosen]
    members = [node["name"] for node in resolved["kits"] if node["site_kit"] == "member"]
    logs = {node: [*program, "logs", "--follow", node] for node in [*consoles, *members]}
    shell = os.environ.get("SHELL") or shutil.which("bash") or "/bin/sh"
    terminal = shutil.get_terminal_size((200, 50))
    size = (max(20, terminal.columns), max(6, terminal.lines))
    call = "mipfed" if not session.options.inventory else session.call("")
    text = help_text(name, call, list(_without_windows(resolved)))
    # What ignores the loss of its terminal, as below nohup, would hand that on to the server and to every pane.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    environment = {"PATH": paths.search_path(), "MIPFED_HOME": str(session.root)}
    if not session.options.inventory:
        environment["MIPFED_FEDERATION"] = session.source.name
    try:
        desk = build(
            server,
            name,
            layout(consoles, logs, shell=shell, text=text, size=size),
            folder=session.root,
            environment=environment,
            size=size,
        )
        server.cmd("source-file", str(FILES / "tmux.conf"))
        target = f"{desk}:"
        for option, value in (("@mipfed_inventory", str(session.source.folder.resolve())), ("@mipfed_nodes", " ".join(names))):
            _tmux(server, "set-option", "-t", target, option, value)
        _tmux(server, "select-window", "-t", f"{desk}:1")
        install(server, desk, name)
    except LibTmuxException as error:
        raise MipfedError(ExitCode.FAILED, f"tmux: {error}", next=session.call("tmux --force")) from None
