# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Known faults of engine versions that matter to an encrypted overlay, with the honest answer for distributions' packages.

A distribution keeps the version and backports the fix, so a version alone proves nothing about its package. What proves it is the
package's own list of changes, which names the CVE.
"""

from __future__ import annotations

import glob
import gzip
import re
from typing import NamedTuple


class Advisory(NamedTuple):
    """A published fault: the versions since which it is fixed, one for each maintained line, and where that is written."""

    name: str
    fixed: tuple[tuple[int, int, int], ...]
    effect: str
    source: str


ADVISORIES = (
    Advisory(
        "CVE-2023-28840",
        ((20, 10, 24), (23, 0, 3)),
        "a node may accept unencrypted packets from anybody into an encrypted overlay",
        "https://github.com/moby/moby/security/advisories/GHSA-232p-vwff-86mp",
    ),
    Advisory(
        "CVE-2023-28841",
        ((20, 10, 24), (23, 0, 3)),
        "on kernels without xt_u32 an encrypted overlay sends unencrypted, without an error",
        "https://github.com/moby/moby/security/advisories/GHSA-33pg-m6jh-5237",
    ),
    Advisory(
        "CVE-2023-28842",
        ((20, 10, 24), (23, 0, 3)),
        "an encrypted overlay with one container on a node accepts packets that nobody signed",
        "https://github.com/moby/moby/security/advisories/GHSA-6wrf-mxfj-pf5p",
    ),
    Advisory(
        "CVE-2026-92542",
        ((25, 0, 19), (29, 8, 2)),
        "any local user of a node can send forged packets into the encrypted overlays of its peers",
        "https://github.com/moby/moby/security/advisories/GHSA-6m9p-4h64-m6vh",
    ),
)
# Distributions' releases whose package is known to have stayed without the fix: id, release -> advisories (Debian's security tracker).
OPEN_IN_DISTRIBUTION = {("debian", "11"): ("CVE-2023-28840", "CVE-2023-28841", "CVE-2023-28842")}


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (20, 10, 24) of `20.10.24+dfsg1`; empty when it begins with none."""
    found = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        found.append(int(digits))
        if len(digits) != len(part):
            break
    return tuple(found)


def affects(advisory: Advisory, version: tuple[int, ...]) -> bool:
    """Whether a version, as its makers publish it, has the fault."""
    lines = [fixed for fixed in advisory.fixed if fixed[0] == version[0]]
    return version < lines[0] if lines else version < max(advisory.fixed)


def named_as_fixed(package: str, origin: str) -> list[str]:
    """The advisories that the changes of the installed docker.io package name. `package` is its version, empty without one."""
    if origin != "distro" or not package:
        return []
    text = ""
    for path in glob.glob("/usr/share/doc/docker.io/changelog.Debian*.gz"):
        try:
            with gzip.open(path, "rt", encoding="utf-8", errors="replace") as stream:
                text += stream.read(1 << 20)
        except (OSError, EOFError):
            continue
    named = set(re.findall(r"CVE-\d{4}-\d+", text))
    return [advisory.name for advisory in ADVISORIES if advisory.name in named]


def judge(version: str, origin: str, system: tuple[str, str], named: list[str]) -> tuple[list[Advisory], list[Advisory]]:
    """The advisories that apply to an engine, and those of which only its distribution knows.

    `origin` is `distro` for the distribution's package, `system` the distribution's id and release, `named` what `named_as_fixed` found.
    """
    parsed = numbers(version)
    if not parsed:
        return [], []
    older = [advisory for advisory in ADVISORIES if affects(advisory, parsed) and advisory.name not in named]
    if origin != "distro":
        return older, []
    known = OPEN_IN_DISTRIBUTION.get(system, ())
    return [item for item in older if item.name in known], [item for item in older if item.name not in known]
