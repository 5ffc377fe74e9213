# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The master: the public API on 9090, and the control ports 9091 and 9092.

Answers, status codes and messages are the engine's, including those that look odd: an error while a query runs comes
with status 200.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

from exareme_standin.data import Databases, DataError, Variable, compile_filter
from exareme_standin.keystore import ACTIVE, DATA, Keystore, KeystoreError
from exareme_standin.settings import API_PORT, CHECK_PORT, NODE_PORT, REMOVE_PORT, Settings
from exareme_standin.web import Answer, NodeError, NodeFault, NodeGone, ask, serve

log = logging.getLogger("standin")

USER_ERROR = "text/plain+user_error"
ERROR = "text/plain+error"
WARNING = "text/plain+warning"

SERVER_ERROR = "Something went wrong. Please consult the system administrator or try again later."
RUN_ERROR = "Something went wrong. Please inform the system administrator."
NOT_RESPONDING = "One or more containers are not responding. Please inform the system administrator."
INSUFFICIENT = "The Experiment could not run with the input provided because there are insufficient data."
NOT_ENOUGH = "NOT ENOUGH DATA"

#: How long an address may take to accept a connection, in seconds, before its node counts as gone.
REACHABLE_TIMEOUT = 5


class UserError(Exception):
    """The request cannot be run: status 400."""


class RunError(Exception):
    """The query failed while it ran: status 200, with an error envelope of the given type."""

    def __init__(self, message: str, kind: str = ERROR) -> None:
        """Remember the message for the client and its type."""
        super().__init__(message)
        self.kind = kind


def envelope(message: str, kind: str, status: int) -> Answer:
    """Return an error as the engine sends it."""
    return Answer.of({"result": [{"data": message, "type": kind}]}, status)


def _parameter(name: str, kind: str, description: str, value: str, *, blank: bool, multiple: bool, **more: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name,
        "desc": description,
        "type": kind,
        **more,
        "value": value,
        "valueNotBlank": not blank,
        "valueMultiple": multiple,
        "valueType": "string",
    }


def algorithms(version: str) -> list[dict[str, Any]]:
    """Return the descriptions that /mining/algorithms.json lists."""
    pathology = _parameter("pathology", "pathology", "The pathology that the dataset belongs to.", "dementia", blank=False, multiple=False)
    statistics = [
        _parameter(
            "y",
            "column",
            "One or more variables, numerical or categorical.",
            "lefthippocampus,righthippocampus",
            blank=False,
            multiple=True,
            columnValuesSQLType="real, integer, text",
            columnValuesIsCategorical="",
            columnValuesNumOfEnumerations="",
        ),
        _parameter("dataset", "dataset", "One or more datasets.", "", blank=False, multiple=True),
        _parameter("filter", "filter", "Rules that select rows, as jQuery QueryBuilder writes them.", "", blank=True, multiple=True),
        pathology,
    ]
    note = f" (exareme-standin {version}, a lab stand-in, not Exareme)"
    table: list[tuple[str, str, str, str, list[dict[str, Any]]]] = [
        ("DESCRIPTIVE_STATS", "Descriptive Statistics", "python_local_global", "Counts, means and ranges of variables.", statistics),
        ("HEALTH_CHECK", "Health Check", "python_local_global", "Tests the health of the nodes.", []),
        ("LIST_DATASET", "List Datasets", "python_local_global", "Lists the datasets of the nodes.", []),
        ("LIST_VARIABLES", "List Variables", "python_local", "Lists the variables of a pathology.", [pathology]),
    ]
    return [
        {"name": name, "desc": description + note, "label": label, "type": kind, "parameters": parameters}
        for name, label, kind, description, parameters in table
    ]


def read_parameters(body: bytes) -> dict[str, str] | None:
    """Return a request's parameters, cleaned as the engine does; None when it has none.

    Raises ValueError or TypeError when the body is not a list of names and values.
    """
    content = json.loads(body) if body.strip() else []
    if not isinstance(content, list):
        raise TypeError("the body is not a list")
    if not content:
        return None
    parameters = {}
    for item in content:
        if not isinstance(item, dict):
            raise TypeError("an element of the body is not an object")
        name, value = item.get("name"), item.get("value")
        if not all(part is None or isinstance(part, str) for part in (name, value)):
            raise TypeError("a name or a value is not a string")
        if name and value:
            parameters[str(name)] = re.sub(r"[^A-Za-z0-9,._~*+><=&|(){}:\-\"\[\]]", "", str(value))
    return parameters


class Registry:
    """The nodes that take part in queries, by address."""

    def __init__(self) -> None:
        """Start without any node."""
        self._lock = threading.Lock()
        self._nodes: dict[str, str] = {}
        self._removed: dict[str, str] = {}

    def add(self, address: str, name: str, start: str) -> bool:
        """Take a node in. A node that was removed on purpose stays out until it is started again."""
        with self._lock:
            if self._removed.get(address) == start:
                return False
            self._removed.pop(address, None)
            # A node has one address: the one it had before its container was replaced leads nowhere.
            for other in [key for key, value in self._nodes.items() if value == name and key != address]:
                del self._nodes[other]
            if self._nodes.get(address) != name:
                log.info("Node %s joined with address %s", name, address)
            self._nodes[address] = name
            return True

    def drop(self, address: str, reason: str) -> bool:
        """Take a node out. Returns whether it was in."""
        with self._lock:
            name = self._nodes.pop(address, None)
        if name is not None:
            log.warning("Node %s with address %s left: %s", name, address, reason)
        return name is not None

    def remove(self, address: str, start: str) -> bool:
        """Take a node out for as long as it is not started again. Returns whether it was in."""
        if not self.drop(address, "removed on request"):
            return False
        with self._lock:
            self._removed[address] = start
        return True

    def nodes(self) -> dict[str, str]:
        """Return the names of the nodes by address."""
        with self._lock:
            return dict(self._nodes)


class Federation:
    """What the keystore says about nodes and datasets, read anew for every query."""

    def __init__(self, keystore: Keystore) -> None:
        """Read the keystore. Raises KeystoreError when it is silent or knows no node at all."""
        self.addresses: dict[str, str] = {}
        self.datasets: dict[str, dict[str, list[str]]] = {}
        keys = keystore.keys(f"{ACTIVE}/")
        if not keys:
            raise KeystoreError(f"Consul has no key under {ACTIVE}/")
        for key in keys:
            name, address = key.rpartition("/")[2], (keystore.get(key) or "").strip()
            self.addresses[name] = address
            self.datasets[name] = {}
            for path in keystore.keys(f"{DATA}/{name}/"):
                codes = json.loads(keystore.get(path) or "[]")
                self.datasets[name][path.rpartition("/")[2]] = [str(code) for code in codes]

    def pathologies(self) -> set[str]:
        """Return the pathologies of all nodes."""
        return {pathology for found in self.datasets.values() for pathology in found}

    def validate(self, pathology: str | None, datasets: Sequence[str] | None) -> None:
        """Raise UserError when the pathology or one of its datasets is not known."""
        if pathology is None:
            raise UserError("Please provide a pathology.")
        if pathology not in self.pathologies():
            raise UserError(f"Pathology {pathology} is not available.")
        known = {code for found in self.datasets.values() for code in found.get(pathology, [])}
        for code in datasets or []:
            if code not in known:
                raise UserError(f"Dataset(s) {code} does not exist in pathology {pathology}.")

    def holders(self, pathology: str, datasets: Sequence[str]) -> dict[str, list[str]]:
        """Return which of the datasets each node holds, by the node's address. Nodes without any are left out."""
        found = {}
        for name, pathologies in self.datasets.items():
            held = [code for code in datasets if code in pathologies.get(pathology, [])]
            if held:
                found[self.addresses[name]] = held
        return found


class Master:
    """Answers queries by asking the nodes."""

    def __init__(self, settings: Settings, keystore: Keystore) -> None:
        """Remember settings and keystore; `start` opens the ports."""
        self.settings = settings
        self.keystore = keystore
        self.registry = Registry()
        self.databases = Databases(settings.data)
        self.algorithms = {algorithm["name"]: algorithm for algorithm in algorithms(settings.version)}
        self._starts: dict[str, str] = {}
        self._variables: dict[str, dict[str, Variable]] | None = None
        self._lock = threading.Lock()

    def start(self, banner: str) -> None:
        """Answer on the master's ports from now on. Raises OSError when one is taken."""
        bind = self.settings.bind
        serve(bind, CHECK_PORT, banner, self.check, "check")
        serve(bind, REMOVE_PORT, banner, self.remove, "remove")
        serve(bind, API_PORT, banner, self.route, "api")

    # Public API

    def route(self, method: str, target: str, body: bytes) -> Answer:
        """Answer one request of a client."""
        path = target.partition("?")[0]
        if path == "/mining/algorithms.json" and method in ("GET", "HEAD"):
            return Answer.of(list(self.algorithms.values()), pretty=True)
        if path == "/exa-view/index.html" and method in ("GET", "HEAD"):
            title = f"exareme-standin {self.settings.version}: a lab stand-in, not Exareme"
            page = f"<!DOCTYPE html><title>exareme-standin</title><p>{title}</p>\n"
            return Answer(200, page.encode(), "text/html; charset=utf-8")
        if not path.startswith(("/mining/query/", "/v1/mining/")):
            return Answer.of({"error": f"{path} is not known here"}, 404)
        try:
            if method != "POST":
                raise ValueError(f"{method} not supported.")
            return self.query(path.rpartition("/")[2], body)
        except UserError as error:
            log.error("%s: %s", path, error)
            return envelope(str(error), USER_ERROR, 400)
        except RunError as error:
            return envelope(str(error), error.kind, 200)
        except (KeystoreError, ValueError, TypeError, DataError) as error:
            log.error("%s: %s", path, error)
            return envelope(SERVER_ERROR, ERROR, 500)

    def query(self, algorithm: str, body: bytes) -> Answer:
        """Run an algorithm. Raises UserError, RunError, KeystoreError, ValueError, TypeError, DataError."""
        if algorithm not in self.algorithms:
            raise UserError(f"The algorithm '{algorithm}' does not exist.")
        parameters = read_parameters(body)
        federation = Federation(self.keystore)
        log.info("Executing algorithm %s with %s", algorithm, parameters)
        if algorithm in ("HEALTH_CHECK", "LIST_DATASET"):
            if parameters is not None:
                federation.validate(parameters.get("pathology"), _split(parameters.get("dataset")))
            return Answer.of(self.health() if algorithm == "HEALTH_CHECK" else self.datasets())
        parameters = parameters or {}
        pathology, datasets = parameters.get("pathology"), _split(parameters.get("dataset"))
        federation.validate(pathology, datasets)
        holders = self.active_holders(federation, str(pathology), datasets) if datasets else {}
        self.merge(algorithm, parameters, str(pathology))
        if algorithm == "LIST_VARIABLES":
            return Answer.of(self.listed(str(pathology)))
        return Answer.of({"result": [{"type": "application/json", "data": self.statistics(holders, str(pathology), parameters)}]})

    def listed(self, pathology: str) -> dict[str, str]:
        """Return the types of a pathology's variables, read anew as the engine's LIST_VARIABLES does. Raises RunError."""
        try:
            return {code: variable.sql_type for code, variable in self.databases.variables(pathology, create=True).items()}
        except DataError as error:
            log.error("LIST_VARIABLES: %s", error)
            raise RunError(RUN_ERROR) from error

    def variables(self, pathology: str) -> dict[str, Variable]:
        """Return the variables that a query's parameters are checked against.

        As in the engine they are read once, all of them, for as long as the process lives: a new database counts for them
        after a restart only. Raises DataError, and then they are read again by the next query.
        """
        with self._lock:
            if self._variables is None:
                self._variables = {name: self.databases.variables(name) for name in self.databases.pathologies()}
            if pathology not in self._variables:
                raise DataError(f"the master has no folder for pathology {pathology} in {self.settings.data}")
            return self._variables[pathology]

    def merge(self, algorithm: str, parameters: Mapping[str, str], pathology: str) -> None:
        """Raise UserError when a parameter does not fit the algorithm."""
        for parameter in self.algorithms[algorithm]["parameters"]:
            name, value = parameter["name"], parameters.get(parameter["name"], "")
            if not value:
                if parameter["valueNotBlank"]:
                    raise UserError(f"The value of the parameter '{name}' should not be blank.")
                continue
            if not parameter["valueMultiple"] and "," in value:
                raise UserError(f"The value of the parameter '{name}' should contain only one value.")
            parts = value.rstrip(",").split(",")
            if "" in parts:
                raise UserError(f"The value of the parameter '{name}' contains an empty string.")
            if parameter["type"] != "column":
                continue
            for code in parts:
                variable = self.variables(pathology).get(code)
                if variable is None:
                    raise UserError(f"The CDE '{code}' does not exist.")
                if variable.sql_type not in parameter["columnValuesSQLType"]:
                    raise UserError(
                        f"The CDE '{code}' does not have one of the allowed SQL Types "
                        f"'{parameter['columnValuesSQLType']}' for the algorithm."
                    )
        if parameters.get("formula"):
            raise UserError("This stand-in does not evaluate a formula. Leave the parameter 'formula' out.")

    def active_holders(self, federation: Federation, pathology: str, datasets: Sequence[str]) -> dict[str, list[str]]:
        """Return the addresses of the nodes that hold the datasets. Raises UserError when one of them is not active."""
        holders = federation.holders(pathology, datasets)
        self.prune(holders)
        active = self.registry.nodes()
        missing = sorted({code for address, held in holders.items() if address not in active for code in held})
        if missing:
            raise UserError(f"The following datasets {', '.join(missing)} are currently unavailable. Please try again later.")
        return holders

    # Asking nodes

    def prune(self, addresses: Sequence[str] | Mapping[str, Any]) -> None:
        """Take out the nodes among the addresses whose container is gone, as the engine does before every query."""

        def reach(address: str) -> None:
            try:
                self._ask(address, "GET", "/node/health")
            except NodeGone as error:
                self.registry.drop(address, str(error))
            except (NodeFault, NodeError):
                return  # there, but broken: the query itself will say so

        chosen = [address for address in self.registry.nodes() if address in addresses]
        if chosen:
            with ThreadPoolExecutor(len(chosen)) as pool:
                list(pool.map(reach, chosen))

    def _ask(self, address: str, method: str, path: str, data: Any = None) -> Any:
        return ask(address, NODE_PORT, method, path, data, REACHABLE_TIMEOUT, self.settings.node_timeout)

    def ask_all(self, requests: Mapping[str, Any], method: str, path: str, *, prune: bool) -> list[Any]:
        """Return the answers of several nodes, asked at once. The requests are by address.

        With prune a node that is gone is taken out and left out of the answer. Raises RunError.
        """

        def one(address: str) -> Any:
            try:
                return self._ask(address, method, path, requests[address])
            except NodeGone as error:
                if prune:
                    self.registry.drop(address, str(error))
                return error
            except (NodeFault, NodeError) as error:
                return error

        if not requests:
            return []
        with ThreadPoolExecutor(len(requests)) as pool:
            answers = list(pool.map(one, requests))
        if prune:
            answers = [answer for answer in answers if not isinstance(answer, NodeGone)]
        for answer in answers:
            if isinstance(answer, NodeFault | NodeGone):
                log.error("%s: %s", path, answer)
                raise RunError(NOT_RESPONDING)
        for answer in answers:
            if isinstance(answer, NodeError):
                log.error("%s: %s", path, answer)
                raise RunError(RUN_ERROR)
        return answers

    def health(self) -> dict[str, str]:
        """Return the names of all nodes that answer. Raises RunError when one is there but silent."""
        answers = self.ask_all(dict.fromkeys(self.registry.nodes()), "GET", "/node/health", prune=True)
        return {"active_nodes": ", ".join(answer["node_name"] for answer in answers)}

    def datasets(self) -> dict[str, Any]:
        """Return the datasets of every node by pathology. Raises RunError when one cannot tell."""
        answers = self.ask_all(dict.fromkeys(self.registry.nodes()), "GET", "/node/datasets", prune=True)
        return {name: found for answer in answers for name, found in answer.items()}

    def statistics(self, holders: Mapping[str, Sequence[str]], pathology: str, parameters: Mapping[str, str]) -> dict[str, Any]:
        """Return the statistics of variables over the datasets of several nodes. Raises RunError."""
        variables = self.variables(pathology)
        chosen = {code: variables[code] for code in _split(parameters["y"]) or []}
        rules = None
        if parameters.get("filter"):
            try:
                rules = json.loads(parameters["filter"])
                if not isinstance(rules, dict):
                    raise DataError("the filter is not an object")
                compile_filter(rules, variables)
            except (ValueError, DataError) as error:
                log.error("DESCRIPTIVE_STATS: %s", error)
                raise RunError(RUN_ERROR) from error
        query = {"pathology": pathology, "variables": list(chosen), "filter": rules}
        requests = {address: {**query, "datasets": list(held)} for address, held in holders.items()}
        answers = self.ask_all(requests, "POST", "/node/statistics", prune=False)
        datasets = _split(parameters["dataset"]) or []
        single: dict[str, Any] = {variable.label: {} for variable in chosen.values()}
        model: dict[str, Any] = {code: {"data": {}} for code in datasets}
        known = False
        for code, variable in chosen.items():
            for dataset in datasets:
                alone = combine(variable, [answer["single"][code][dataset] for answer in answers if dataset in answer["single"][code]])
                together = combine(variable, [answer["model"][code][dataset] for answer in answers if dataset in answer["model"][code]])
                known = known or alone["num_total"] is not None
                single[variable.label][dataset] = alone
                model[dataset]["data"][variable.label] = together.pop("data")
                for key, value in together.items():
                    # The counts are the same for all variables; one may be withheld for one of them only.
                    model[dataset][key] = value if model[dataset].get(key) is None else model[dataset][key]
        if not known:
            raise RunError(INSUFFICIENT, WARNING)
        return {"single": single, "model": model}

    # Control ports, reached over the overlay only

    def check(self, method: str, target: str, body: bytes) -> Answer:
        """Answer /check/worker?NODE_IP=..&NODE_NAME=..: take the node in if it answers at that address."""
        path, _unused, text = target.partition("?")
        fields = [part.partition("=")[::2] for part in text.split("&")]
        if path != "/check/worker" or method not in ("GET", "HEAD", "POST"):
            return Answer.of({"error": f"{method} {path} is not known here"}, 404)
        if [name for name, _value in fields[:2]] != ["NODE_IP", "NODE_NAME"]:
            return Answer.of({"error": "the parameters must be NODE_IP and NODE_NAME, in this order"}, 400)
        address, name = (unquote(value) for _name, value in fields[:2])
        start = dict(fields[2:]).get("START", "")
        try:
            answer = self._ask(address, "GET", "/node/health")
        except (NodeGone, NodeFault, NodeError) as error:
            log.warning("Node %s asked to join with address %s, but: %s", name, address, error)
            return envelope(NOT_RESPONDING, ERROR, 200)
        if answer.get("node_name") != name:
            log.error("Node %s asked to join, but the node at %s is %s", name, address, answer.get("node_name"))
            return envelope(RUN_ERROR, ERROR, 200)
        if not self.registry.add(address, name, start):
            return envelope(NOT_RESPONDING, ERROR, 200)
        self._starts[address] = start
        return Answer.of({"active_nodes": name})

    def remove(self, method: str, target: str, body: bytes) -> Answer:
        """Answer /remove/worker?IP=..: take a node out until its container is started again."""
        path, _unused, text = target.partition("?")
        if path != "/remove/worker" or method not in ("GET", "HEAD", "POST"):
            return Answer.of({"error": f"{method} {path} is not known here"}, 404)
        address = unquote(dict(part.partition("=")[::2] for part in text.split("&")).get("IP", ""))
        if not address:
            return Answer.of({"error": "IP parameter in not set"}, 404)
        if self.registry.remove(address, self._starts.get(address, "")):
            return Answer.of({"success": "Worker removed successfully"})
        return Answer.of({"error": f"Worker with IP: {address} not found"}, 420)


def _split(value: str | None) -> list[str] | None:
    """Return the parts of a comma-separated value, in order and once each."""
    return None if value is None else list(dict.fromkeys(value.rstrip(",").split(",")))


def combine(variable: Variable, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one variable's statistics on one dataset from the sums of the nodes that hold it.

    What a node withheld is None here, and does not count.
    """
    told = [part for part in parts if part["enough"]]
    if not told:
        totals = [part["total"] for part in parts if "total" in part]
        return {"num_datapoints": None, "num_nulls": None, "num_total": sum(totals) if totals else None, "data": NOT_ENOUGH}
    count = sum(part["count"] for part in told)
    result: dict[str, Any] = {
        "num_datapoints": count,
        "num_nulls": sum(part["nulls"] for part in told),
        "num_total": sum(part["total"] for part in told),
    }
    if variable.is_categorical:
        hidden = {code for part in told for code in part["suppressed"]}
        counts: dict[str, int] = {}
        for part in told:
            for code, number in part["counts"].items():
                counts[code] = counts.get(code, 0) + number
        result["data"] = {code: {"count": number, "percentage": round(100 * number / count, 2)} for code, number in sorted(counts.items())}
        # Hidden on one node is hidden altogether: the sum would pass for the whole.
        result["data"].update({code: {"count": None, "percentage": None} for code in sorted(hidden)})
        return result
    mean = sum(part["sum"] for part in told) / count
    squares = sum(part["sum_of_squares"] for part in told)
    deviation = (max(squares - count * mean**2, 0) / (count - 1)) ** 0.5 if count > 1 else None
    result["data"] = {
        "mean": round(mean, 2),
        "std": None if deviation is None else round(deviation, 2),
        "min": round(min(part["min"] for part in told), 2),
        "max": round(max(part["max"] for part in told), 2),
    }
    return result
