# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Does the engine's API still answer as it did before services were changed?"""

from __future__ import annotations

import time
from typing import Dict, List

from ansible_collections.hbp.mip.plugins.module_utils import _exareme

_CALL_SECONDS = 20.0
_PAUSE = 1.0


class Gate:
    """Asks the engine before and after a change."""

    def __init__(self, url: str, nodes: List[str], timeout: float) -> None:
        """Remember where to ask, the nodes that must be active, and how long (seconds) they may take."""
        self.url = url
        self.nodes = list(nodes)
        self.timeout = timeout
        self.before: Dict[str, Dict[str, List[str]]] = {}

    def look(self) -> None:
        """Remember what the engine offers now. One that does not answer offers nothing."""
        answer = _exareme.call(self.url, "LIST_DATASET", {}, _CALL_SECONDS, True)
        if answer.ok:
            try:
                self.before = {node: held for node, held in _exareme.datasets(answer.data).items() if node in self.nodes}
            except ValueError:
                self.before = {}

    def ask(self) -> str:
        """Wait until the engine answers as it should. Returns what is wrong when it does not within the time; empty when all is well."""
        deadline = time.monotonic() + self.timeout
        while True:
            wrong = self.wrong()
            if not wrong:
                return ""
            if time.monotonic() >= deadline:
                return "the engine's API does not answer as it should after %g s: %s" % (self.timeout, wrong)
            time.sleep(_PAUSE)

    def wrong(self) -> str:
        """What is wrong with the engine's answers now."""
        answer = _exareme.call(self.url, "HEALTH_CHECK", {}, _CALL_SECONDS, True)
        if not answer.ok:
            return answer.message
        try:
            missing = sorted(set(self.nodes) - set(_exareme.active_nodes(answer.data)))
            if missing:
                return "%s not among its active nodes" % ", ".join(missing)
            if not self.before:
                return ""
            answer = _exareme.call(self.url, "LIST_DATASET", {}, _CALL_SECONDS, True)
            if not answer.ok:
                return answer.message
            now = _exareme.datasets(answer.data)
        except ValueError as error:
            return str(error)
        lost = [
            "%s of %s" % (code, node)
            for node, pathologies in sorted(self.before.items())
            for pathology, codes in sorted(pathologies.items())
            for code in codes
            if code not in now.get(node, {}).get(pathology, [])
        ]
        return "it no longer offers %s" % ", ".join(lost) if lost else ""
