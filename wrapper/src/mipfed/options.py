# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that every verb shares, usable before and after it, and how a command becomes a process's end."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mipfed import completion, paths
from mipfed.errors import MipfedError, Problem, usage
from mipfed.exitcodes import ExitCode
from mipfed.formats import Output
from mipfed.outcome import Outcome
from mipfed.session import Options, Session

Federation = Annotated[
    str | None,
    typer.Option(
        "--federation",
        "-f",
        metavar="NAME",
        help="The federation: inventories/NAME. Environment: MIPFED_FEDERATION.",
        autocompletion=completion.federations,
    ),
]
Inventory = Annotated[Path | None, typer.Option("--inventory", "-i", metavar="PATH", help="An inventory directory or file elsewhere.")]
Limit = Annotated[
    str | None,
    typer.Option("--limit", "-l", metavar="PATTERN", help="Only these hosts (an Ansible pattern).", autocompletion=completion.limits),
]
Check = Annotated[bool, typer.Option("--check", help="Change nothing, show what would change.")]
Diff = Annotated[bool, typer.Option("--diff", help="Show the differences in files.")]
Format = Annotated[Output | None, typer.Option("--output", "-o", help="How to write the result.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask. Environment: MIPFED_YES=1.")]
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, metavar="", show_default=False, help="Say more; with -vv and -vvv Ansible does too.")
]
Vault = Annotated[
    Path | None,
    typer.Option(
        "--vault-password-file",
        metavar="FILE",
        help="File or program that gives the vault password. Environment: MIPFED_VAULT_PASSWORD_FILE.",
    ),
]

_ALL: dict[str, tuple[Any, Any]] = {
    "federation": (Federation, None),
    "inventory": (Inventory, None),
    "limit": (Limit, None),
    "check": (Check, False),
    "diff": (Diff, False),
    "output": (Format, None),
    "yes": (Yes, False),
    "verbose": (Verbose, 0),
    "vault_password_file": (Vault, None),
}
OUTPUT = ("output", "verbose")
OFFLINE = ("federation", "inventory", *OUTPUT)
REMOTE = (*OFFLINE, "yes", "vault_password_file")
#: Given before a verb that does not know them, these would change what the user believes to happen; the others do no harm.
_NEVER_IGNORED = ("limit", "check")


def _parameters(names: tuple[str, ...]) -> list[inspect.Parameter]:
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [inspect.Parameter(name, keyword, default=_ALL[name][1], annotation=_ALL[name][0]) for name in names]


def _with_signature(function: Callable[..., None], source: Callable[..., Any], parameters: list[inspect.Parameter]) -> Callable[..., None]:
    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    everything = [context, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters)]
    function.__signature__ = inspect.Signature(everything)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in everything}
    function.__name__ = source.__name__
    function.__doc__ = source.__doc__
    return function


def new_application(text: str, **more: Any) -> typer.Typer:
    """Return an application, or a group of commands, with the settings that all of them share."""
    # Without rich's markup typer does not import rich, which would double the time of --help.
    return typer.Typer(
        help=text,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        **more,
    )


def root_options(application: typer.Typer) -> None:
    """Give an application the shared options before the verb."""

    def before(ctx: typer.Context, **given: Any) -> None:
        ctx.obj = {"before": given}

    def documentation() -> None:
        """Deploys and operates a federation of the Medical Informatics Platform."""

    application.callback()(_with_signature(lambda **given: before(**given), documentation, _parameters(tuple(_ALL))))


def _yes_in_environment() -> bool:
    return os.environ.get("MIPFED_YES", "").lower() in ("1", "true", "yes", "y", "on")


def merge(before: dict[str, Any], after: dict[str, Any], verb: str) -> Options:
    """Merge the options before and after the verb.

    :raises MipfedError: USAGE for an option that the verb does not have and that may not be ignored.
    """
    for name in _NEVER_IGNORED:
        if before.get(name) and name not in after:
            raise usage(f"--{name} has no meaning for `mipfed {verb}`.")
    merged: dict[str, Any] = {name: after.get(name) or before.get(name) for name in _ALL}
    merged["verbose"] = int(after.get("verbose") or 0) + int(before.get("verbose") or 0)
    merged["federation"] = merged["federation"] or (None if merged["inventory"] else os.environ.get("MIPFED_FEDERATION") or None)
    merged["yes"] = bool(merged["yes"]) or _yes_in_environment()
    merged["check"], merged["diff"] = bool(merged["check"]), bool(merged["diff"])
    merged["output"] = merged["output"] or Output.TEXT
    return Options(**merged)


def command(
    application: typer.Typer, name: str, shared: tuple[str, ...], *, group: str = ""
) -> Callable[[Callable[..., Outcome]], Callable[..., None]]:
    """Register a command. Its function takes a `Session` and its own parameters, and returns an `Outcome`.

    :arg shared: names of the shared options that it takes after the verb.
    """

    def register(function: Callable[..., Outcome]) -> Callable[..., None]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        verb = f"{group} {name}".strip()

        def run(**given: Any) -> None:
            context = given.pop("ctx")
            after = {key: given.pop(key) for key in shared}
            before = (context.find_root().obj or {}).get("before", {})
            raise typer.Exit(int(finish(verb, before, after, lambda session: function(session, **given))))

        registered = _with_signature(run, function, [*own, *_parameters(shared)])
        application.command(name)(registered)
        return registered

    return register


def finish(verb: str, before: dict[str, Any], after: dict[str, Any], body: Callable[[Session], Outcome]) -> ExitCode:
    """Run a command's body and write its end, whatever that is, in the format that the user asked for."""
    output = after.get("output") or before.get("output") or Output.TEXT
    verbose = int(after.get("verbose") or 0) + int(before.get("verbose") or 0)
    session: Session | None = None
    from mipfed import render

    try:
        session = Session(verb, merge(before, after, verb))
        outcome = body(session)
    except MipfedError as error:
        outcome = Outcome(exit_code=error.exit_code, errors=error.problems, next=error.next)
    except KeyboardInterrupt:
        interrupted = Problem("interrupted", "Interrupted before anything was started.")
        outcome = Outcome(exit_code=ExitCode.INTERRUPTED, errors=[interrupted])
    except Exception as error:
        outcome = Outcome(exit_code=ExitCode.INTERNAL, errors=[_crash(error, verbose)])
    try:
        render.emit(output, verb, session.name if session else None, outcome, verbose=verbose)
    except BrokenPipeError:
        # The reader has left (`| head`); Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return outcome.exit_code


def _crash(error: Exception, verbose: int) -> Problem:
    """Keep the traceback of an error that should not happen where only the user can read it."""
    text = "".join(traceback.format_exception(error))
    if verbose:
        print(text, file=sys.stderr)
    folder = paths.state_dir()
    where = ""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / "crash.txt"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
            stream.write(text)
        where = f"; the details are in {path}"
    except OSError:
        pass
    return Problem("internal", f"{type(error).__name__}: {error}{where}", next="mipfed doctor")
