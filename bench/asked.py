#!/usr/bin/env python3
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks an engine's API twice a second which nodes are active, prints when the answer changes, and in the end how often it was asked.

    bench/asked.py ADDRESS [PORT]

It ends with SIGINT or SIGTERM. The firewall of a master lets only those in that the inventory names; on a lab, run it as its web portal:
`nsenter --net=/run/netns/LAB.LAB-ui bench/asked.py ADDRESS`.
"""

from __future__ import annotations

import json
import signal
import sys
import time
import types
import urllib.request


class Over(Exception):
    """Asked to end."""


def stop(_signal: int, _frame: types.FrameType | None) -> None:
    """End the loop."""
    raise Over


def active(url: str) -> str:
    """Return the names of the active nodes, or why there is no answer in brackets."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=b"", method="POST"), timeout=10) as answer:  # noqa: S310
            return ", ".join(sorted(str(json.load(answer)["active_nodes"]).split(", ")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"[no answer: {getattr(error, 'reason', error)}]"


def main() -> None:
    """Ask until told to end."""
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    url = f"http://{sys.argv[1]}:{sys.argv[2] if len(sys.argv) == 3 else 9090}/mining/query/HEALTH_CHECK"
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    began, before, asked, silent = time.monotonic(), "", 0, 0
    try:
        while True:
            answer = active(url)
            asked += 1
            silent += answer.startswith("[")
            if answer != before:
                print(f"   {time.monotonic() - began:6.1f} s  {answer}", flush=True)
                before = answer
            time.sleep(0.5)
    except Over:
        print(f"   asked {asked} times in {time.monotonic() - began:.0f} s, without an answer: {silent}", flush=True)


if __name__ == "__main__":
    main()
