# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every node tells the master about its own data: names, codes and sums."""

from __future__ import annotations

import json
import logging
from typing import Any

from exareme_standin.data import Databases, DataError
from exareme_standin.settings import NODE_PORT, Settings
from exareme_standin.web import Answer, serve

log = logging.getLogger("standin")


class Node:
    """The part of the engine that runs on every node, the master included."""

    def __init__(self, settings: Settings) -> None:
        """Remember the settings; `start` opens the port."""
        self.settings = settings
        self.databases = Databases(settings.data)
        self.registered = False

    def start(self, banner: str) -> None:
        """Answer on the node's port from now on. Raises OSError when the port is taken."""
        serve(self.settings.bind, NODE_PORT, banner, self.route, "node")

    def route(self, method: str, target: str, body: bytes) -> Answer:
        """Answer one request of the master, or of the container's health check."""
        path = target.partition("?")[0]
        try:
            if method == "GET" and path == "/node/health":
                return Answer.of({"node_name": self.settings.node_name, "registered": self.registered})
            if method == "GET" and path == "/node/datasets":
                # As the engine: one folder without a database makes the whole answer fail.
                found = {pathology: self.databases.datasets(pathology) for pathology in self.databases.pathologies()}
                return Answer.of({self.settings.node_name: found})
            if method == "POST" and path == "/node/statistics":
                return self.statistics(body)
        except DataError as error:
            log.error("%s: %s", path, error)
            return Answer.of({"error": str(error)}, 500)
        return Answer.of({"error": f"{method} {path} is not known here"}, 404)

    def statistics(self, body: bytes) -> Answer:
        """Answer with sums over this node's rows. Raises DataError."""
        try:
            query: dict[str, Any] = json.loads(body)
            pathology, datasets, codes = str(query["pathology"]), list(query["datasets"]), list(query["variables"])
            rules = query.get("filter") or None
        except (ValueError, TypeError, KeyError) as error:
            return Answer.of({"error": f"not a query for statistics: {error!r}"}, 400)
        # The node's own minimum counts, whatever the master thinks.
        return Answer.of(self.databases.statistics(pathology, datasets, codes, rules, self.settings.minimum))
