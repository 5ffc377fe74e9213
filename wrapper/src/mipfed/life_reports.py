# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the reports about nodes that come and go, and about tokens, are shown to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mipfed.render import rows

if TYPE_CHECKING:
    from rich.console import Console


def node(out: Console, data: Mapping[str, Any]) -> None:
    """Write what was done to a node, and what could not be done."""
    steps = [step for step in data.get("steps") or () if isinstance(step, Mapping)]
    rows(out, ("what", "state", "detail"), ((step.get("step"), step.get("state"), step.get("detail")) for step in steps))
    for step in steps:
        if step.get("next"):
            out.print(str(step["next"]), markup=False)


def token(out: Console, data: Mapping[str, Any]) -> None:
    """Write which tokens were replaced."""
    rotated = [str(role) for role in data.get("rotated") or ()]
    if rotated:
        out.print(f"Replaced the join token{'s' * (len(rotated) > 1)} for {' and '.join(f'{role}s' for role in rotated)}.", markup=False)
    ca = data.get("ca")
    if isinstance(ca, Mapping) and ca.get("rotated"):
        out.print(f"Replaced the certificate authority: {ca.get('nodes')} nodes have new certificates.", markup=False)
    key = data.get("unlock_key")
    if isinstance(key, Mapping) and key.get("rotated"):
        out.print("Replaced the unlock key of the managers; it is in the vault.", markup=False)
        if key.get("behind"):
            out.print(
                f"Not working then, and unlocked with the key of before, which is kept, too: {', '.join(key['behind'])}.", markup=False
            )
