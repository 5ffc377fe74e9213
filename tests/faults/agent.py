# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on a lab machine: reads one request a line, answers one line each.

A request is {"shell": COMMAND} or {"module": NAME, "arguments": {...}}. A module runs in a forked child exactly as Ansible runs it,
arguments on its standard input, JSON on its standard output; only the imports, which take longer than a check, are shared.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, "/opt/mip")
MODULES = {name: importlib.import_module("ansible_collections.hbp.mip.plugins.modules." + name) for name in ("node_check", "link_probe")}


def run_module(name: str, arguments: dict) -> dict:
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as errors:
        given.write(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode())
        given.seek(0)
        child = os.fork()
        if child == 0:
            for source, target in ((given, 0), (answer, 1), (errors, 2)):
                os.dup2(source.fileno(), target)
            sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in ((0, "r"), (1, "w"), (2, "w")))
            sys.argv = [name]
            code = 1
            try:
                MODULES[name].main()
            except SystemExit as leaving:
                code = int(leaving.code or 0)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        os.waitpid(child, 0)
        answer.seek(0)
        lines = [line for line in answer.read().decode("utf-8", "replace").splitlines() if line.startswith("{")]
        errors.seek(0)
        if not lines:
            return {"failed": True, "msg": "no answer: " + errors.read().decode("utf-8", "replace")[-2000:]}
        return json.loads(lines[-1])


def main() -> None:
    print(json.dumps({"ready": os.uname().nodename}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "shell" in request:
            # a file and no pipe: a program that stays in the background would keep a pipe open
            with tempfile.TemporaryFile() as out:
                done = subprocess.run(
                    ["bash", "-c", request["shell"]],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    timeout=90,
                    check=False,
                )
                out.seek(0)
                text = out.read().decode("utf-8", "replace")
            answer = {"code": done.returncode, "output": text}
        else:
            answer = run_module(request["module"], request["arguments"])
        print(json.dumps(answer), flush=True)


main()
