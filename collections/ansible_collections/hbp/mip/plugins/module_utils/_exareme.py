# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls to the Exareme master's HTTP API, whose status says little: errors come as bodies, also with status 200."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

LARGEST_BODY = 64 << 20


class Answer(NamedTuple):
    """What the engine meant. `code` is `ok` or a stable word for what went wrong, with `message` and `fix`."""

    code: str
    message: str
    fix: str
    status: int
    data: Any

    @property
    def ok(self) -> bool:
        """Whether the engine did what was asked."""
        return self.code == "ok"


class UrlError(Exception):
    """The URL is unusable."""


_LOOK_AT_MASTER = "on the master: docker service ps --no-trunc of the engine's services, and docker service logs"

# Beginnings or parts of the engine's messages, with what they mean to an operator. The engine itself says no more.
_MEANINGS = (
    (
        "One or more containers are not responding",
        "nodes-silent",
        "a worker's engine does not answer the master",
        "mipfed verify shows which nodes cannot reach each other; mipfed status shows which tasks do not run",
    ),
    (
        "currently unavailable",
        "datasets-unavailable",
        "the worker that holds these datasets is not active",
        "start the engine on that worker, or wait: a restarted worker registers again after about a minute",
    ),
    (
        "Something went wrong. Please consult",
        "engine-error",
        "the master failed before it asked any worker, mostly because the keystore is not reachable or has just lost its keys",
        _LOOK_AT_MASTER,
    ),
    (
        "Something went wrong. Please inform",
        "engine-error",
        "the algorithm failed on the master or on a worker",
        "see the engine's log on the master and on each worker: docker service logs",
    ),
    ("The algorithm ", "algorithm-unknown", "this engine does not have the algorithm", "GET /mining/algorithms.json lists them"),
    (
        "Please provide a pathology",
        "parameter-missing",
        "the parameter pathology is missing",
        "give the parameter pathology",
    ),
    (
        "The value of the parameter",
        "parameter-missing",
        "a parameter that must have a value has none",
        "give the parameter that the engine names",
    ),
    (
        "Pathology ",
        "pathology-unknown",
        "no node offers the pathology",
        "put its folder with CDEsMetadata.json and datasets.db on the master and on a worker, then restart the engine there",
    ),
    (
        "Dataset(s) ",
        "dataset-unknown",
        "no active worker offers the dataset",
        "compare with LIST_DATASET; the engine reads the databases when it starts",
    ),
    ("The CDE ", "cde-unknown", "the variable is not in the pathology's CDEsMetadata.json", "LIST_VARIABLES shows what there is"),
)


def call(url: str, algorithm: str, parameters: dict[str, str], timeout: float, validate_certs: bool) -> Answer:
    """Run an algorithm, or list the algorithms when `algorithm` is empty. Raises UrlError for an unusable URL.

    `timeout` is in seconds and holds for the whole call.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UrlError("url: %r is not the address of an API, like http://192.0.2.11:9090" % url)
    try:
        port = parts.port
    except ValueError as error:
        raise UrlError("url: %r: %s" % (url, error)) from error
    if parts.scheme == "https":
        context = ssl.create_default_context() if validate_certs else ssl._create_unverified_context()  # noqa: S323 - asked for
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(parts.hostname, port, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname, port, timeout=timeout)
    base = parts.path.rstrip("/")
    deadline = time.monotonic() + timeout
    try:
        if algorithm:
            body = json.dumps([{"name": name, "value": value} for name, value in parameters.items()]) if parameters else ""
            connection.request(
                "POST",
                "%s/mining/query/%s" % (base, quote(algorithm, safe="")),
                body.encode("utf-8"),
                {"Content-Type": "application/json", "Accept": "application/json"},
            )
        else:
            connection.request("GET", base + "/mining/algorithms.json", headers={"Accept": "application/json"})
        response = connection.getresponse()
        content = _read(response, deadline)
        return interpret(response.status, content)
    except socket.timeout:
        return Answer(
            "timeout",
            "%s did not answer within %g seconds" % (url, timeout),
            "a worker that hangs makes the master wait; mipfed verify shows which nodes cannot reach each other",
            0,
            None,
        )
    except ConnectionRefusedError:
        return Answer(
            "refused",
            "%s: connection refused, so nothing listens there" % url,
            "see whether the engine runs on the master: mipfed status",
            0,
            None,
        )
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Answer("unreachable", "%s: %s" % (url, reason), "see whether the master is up and reachable from here", 0, None)
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        if time.monotonic() > deadline:
            raise socket.timeout("too slow")
        piece = response.read(1 << 16)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
        size += len(piece)
        if size > LARGEST_BODY:
            raise ValueError("the answer is larger than %d bytes" % LARGEST_BODY)


def interpret(status: int, content: bytes) -> Answer:
    """What a response means, by its body; the status only counts where the body says nothing."""
    try:
        body = json.loads(content.decode("utf-8"))
    except ValueError:
        return _unreadable(status, content)
    kind, data = _envelope(body)
    if kind.startswith("text/plain+"):
        return _refusal(kind, str(data), status)
    if status >= 400:
        return Answer("unexpected", "HTTP %d without an explanation" % status, _LOOK_AT_MASTER, status, None)
    if kind == "application/json" or not kind:
        return Answer("ok", "", "", status, data)
    # an algorithm may answer with tables or charts of other types, which are results
    return Answer("ok", "", "", status, body)


def _envelope(body: Any) -> tuple[str, Any]:
    """Type and data of `{"result": [{"type", "data"}]}`; an empty type for a body of another form."""
    if isinstance(body, dict) and isinstance(body.get("result"), list) and body["result"]:
        # one failure among several results spoils the whole
        items = [item for item in body["result"] if isinstance(item, dict)]
        for item in items:
            if str(item.get("type", "")).startswith("text/plain+"):
                return str(item["type"]), item.get("data")
        if len(items) == 1:
            return str(items[0].get("type", "")) or "application/json", items[0].get("data")
    return "", body


def _refusal(kind: str, text: str, status: int) -> Answer:
    if kind == "text/plain+warning":
        return Answer(
            "insufficient-data",
            "the engine found too few rows to answer without giving away single patients: %s" % text,
            "use a larger dataset, or less narrow filters",
            status,
            None,
        )
    for part, code, meaning, fix in _MEANINGS:
        if part in text:
            return Answer(code, "%s; the engine says: %s" % (meaning, text), fix, status, None)
    code = "refused-request" if kind == "text/plain+user_error" else "engine-error"
    return Answer(code, "the engine says: %s" % text, _LOOK_AT_MASTER, status, None)


def _unreadable(status: int, content: bytes) -> Answer:
    if not content.strip():
        message = "HTTP %d with an empty body" % status
    else:
        text = " ".join(content[:400].decode("utf-8", "replace").split())[:200]
        message = "HTTP %d with something that is not JSON: %s" % (status, text)
    return Answer("unexpected", message, "is this the API of an Exareme master? %s" % _LOOK_AT_MASTER, status, None)


def active_nodes(data: Any) -> list[str]:
    """The names of a HEALTH_CHECK's answer. Raises ValueError."""
    if not isinstance(data, dict) or not isinstance(data.get("active_nodes"), str):
        raise ValueError("the answer has no active_nodes")
    return [name.strip() for name in data["active_nodes"].split(",") if name.strip()]


def compare_nodes(found: list[str], expected: list[str]) -> list[dict[str, str]]:
    """The problems of a list of active nodes; names are compared whole, as wk1 is a part of wk10."""
    problems = []
    for name in sorted(set(expected) - set(found)):
        problems.append(
            _problem(
                "node-missing",
                "%s is not among the engine's active nodes (%s)" % (name, ", ".join(sorted(found)) or "none"),
                "mipfed status shows whether its engine runs; a worker registers up to a minute after its start",
            )
        )
    for name in sorted(set(found) - set(expected)):
        problems.append(
            _problem(
                "node-unexpected",
                "%s is among the engine's active nodes, but not in the inventory" % name,
                "remove its service, and its keys active_workers/%s and data/%s from the keystore" % (name, name),
            )
        )
    for name in sorted({name for name in found if found.count(name) > 1}):
        problems.append(
            _problem(
                "node-twice",
                "%s is among the engine's active nodes %d times" % (name, found.count(name)),
                "let only one engine run under that name: docker ps on the hosts",
            )
        )
    return problems


def datasets(data: Any) -> dict[str, dict[str, list[str]]]:
    """Node, pathology and dataset codes of a LIST_DATASET's answer, without empty ones. Raises ValueError."""
    if not isinstance(data, dict):
        raise ValueError("the answer is not an object")
    found: dict[str, dict[str, list[str]]] = {}
    for node, pathologies in data.items():
        if not isinstance(pathologies, dict):
            raise ValueError("the answer for %s is not an object" % node)
        for pathology, codes in pathologies.items():
            if not isinstance(codes, list):
                raise ValueError("the answer for %s, %s is not a list" % (node, pathology))
            if codes:
                found.setdefault(node, {})[pathology] = sorted(str(code) for code in codes)
    return found


def compare_datasets(found: dict[str, dict[str, list[str]]], expected: dict[str, Any]) -> list[dict[str, str]]:
    """The problems of what the engine offers against what the nodes hold. Raises ValueError for a bad `expected`."""
    wanted = datasets(expected)
    problems = []
    for node in sorted(set(found) | set(wanted)):
        for pathology in sorted(set(found.get(node, {})) | set(wanted.get(node, {}))):
            here = set(found.get(node, {}).get(pathology, []))
            there = set(wanted.get(node, {}).get(pathology, []))
            where = "%s, pathology %s" % (node, pathology)
            for code in sorted(there - here):
                problems.append(
                    _problem(
                        "dataset-missing",
                        "%s: the node holds the dataset %s, but the engine does not offer it" % (where, code),
                        "the engine reads its databases when it starts: docker service update --force of the service of %s, on the master"
                        % node,
                    )
                )
            for code in sorted(here - there):
                problems.append(
                    _problem(
                        "dataset-unexpected",
                        "%s: the engine offers the dataset %s, which the node does not hold" % (where, code),
                        "the engine read an older database: docker service update --force of the service of %s, on the master" % node,
                    )
                )
    return problems


def _problem(code: str, message: str, fix: str) -> dict[str, str]:
    return {"code": code, "message": message, "fix": fix}
