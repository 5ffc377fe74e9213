# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip: the programs that a hospital has, as modules of the controller."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import Any

FILES = Path(__file__).resolve().parents[2] / "roles/site/files"


def load(program: str, name: str) -> Any:
    """Return a program of the role site as a new module; nothing is written beside it.

    :raises ImportError: when it cannot be read.
    """
    loader = importlib.machinery.SourceFileLoader(name, str(FILES / program))
    spec = importlib.util.spec_from_loader(name, loader)
    if spec is None:
        raise ImportError(f"{FILES / program} cannot be read")
    module = importlib.util.module_from_spec(spec)
    # Its classes look for their module by name.
    sys.modules[name] = module
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes
    return module
