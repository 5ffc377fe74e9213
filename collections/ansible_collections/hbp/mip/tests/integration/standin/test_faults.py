# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The stand-in starts, fails and comes back as a deployment needs it to."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils._lab_seed import Dataset
from ansible_collections.hbp.mip.tests.helpers.standin import STANDIN, Federation, request, until, write_pathology

RUN_ERROR = "Something went wrong. Please inform the system administrator."
NOT_RESPONDING = "One or more containers are not responding. Please inform the system administrator."


def envelope(message: str, kind: str) -> dict[str, Any]:
    return {"result": [{"data": message, "type": kind}]}


@pytest.fixture(autouse=True)
def complete(federation: Federation) -> Iterator[None]:
    """Every test finds the federation complete, and brings back what it stopped."""
    federation.wait_complete()
    yield
    for process in (federation.keystore, *federation.nodes.values()):
        if process.process is not None and process.process.poll() is not None:
            process.start()
    federation.wait_complete()


def run(federation: Federation, node: str = "wk-1", **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a node that is expected to end by itself."""
    environment = {**federation.nodes[node].environment, "STANDIN_ADDRESS": "127.0.0.77", "STANDIN_BIND": "127.0.0.77", **changes}
    environment = {key: value for key, value in environment.items() if value}
    return subprocess.run(
        [sys.executable, "-m", "exareme_standin"], cwd=STANDIN, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("name", ["CONSULURL", "NODE_NAME", "FEDERATION_ROLE", "ENVIRONMENT_TYPE", "CONVERT_CSVS"])
def test_required_variable_is_missing(federation: Federation, name: str) -> None:
    done = run(federation, **{name: ""})
    assert done.returncode == 0
    assert done.stdout == f"{name} is unset. Check docker-compose file.\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"FEDERATION_ROLE": "boss"}, "FEDERATION_ROLE is 'boss', but must be master or worker."),
        ({"CONVERT_CSVS": "TRUE"}, "does not convert CSV files"),
        ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL is 'LOUD', but must be one of DEBUG, INFO, WARN, ERROR."),
        ({"NODE_COMMUNICATION_TIMEOUT": "soon"}, "NODE_COMMUNICATION_TIMEOUT is 'soon', which is not a number."),
    ],
)
def test_variable_has_a_wrong_value(federation: Federation, changes: dict[str, str], message: str) -> None:
    done = run(federation, **changes)
    assert done.returncode == 2
    assert message in done.stderr


def test_crash_variant(federation: Federation) -> None:
    done = run(federation, STANDIN_CRASH="this image always fails")
    assert done.returncode == 3
    assert "ERROR exareme-standin cannot start: this image always fails" in done.stdout


def test_no_keystore(federation: Federation) -> None:
    done = run(federation, CONSULURL="127.0.0.78:8500", STANDIN_KEYSTORE_ATTEMPTS="3", STANDIN_KEYSTORE_INTERVAL="0.05")
    assert done.returncode == 1
    assert done.stdout.count("Trying to connect with the keystore") == 3
    assert "Consul at 127.0.0.78:8500 does not answer" in done.stdout.splitlines()[-1]


def test_data_folder_is_missing(federation: Federation) -> None:
    done = run(federation, STANDIN_DATA="/nonexistent/data")
    assert done.returncode == 1
    assert "The data folder /nonexistent/data cannot be read: No such file or directory" in done.stdout


@pytest.mark.parametrize(("content", "message"), [(b"no database at all" * 100, "file is not a database"), (b"", "no such table: DATA")])
def test_starts_with_a_damaged_database(federation: Federation, content: bytes, message: str) -> None:
    """As the engine: such a node must run, so that its data can be compiled and it can be started again."""
    folder = federation.folder / "data" / "wk-1" / "damaged"
    folder.mkdir()
    database = folder / "datasets.db"
    database.write_bytes(content)
    node = federation.nodes["wk-1"]
    try:
        node.stop()
        node.start()
        until(lambda: federation.value("data/wk-1/damaged") == "[]", "the folder is registered")
        federation.wait_complete()
        assert f"{database}: {message}" in node.output
        assert federation.query("LIST_DATASET").data == envelope(RUN_ERROR, "text/plain+error")
        statistic = federation.query("DESCRIPTIVE_STATS", y="tiv", dataset="dementia-h1", pathology="dementia")
        assert statistic.data["result"][0]["type"] == "application/json"
        shutil.copy(federation.database("wk-1", "mentalhealth"), folder / "compiled")
        (folder / "compiled").replace(database)
        assert federation.query("LIST_DATASET").data["wk-1"]["damaged"] == federation.held("wk-1", "mentalhealth")
        node.stop()
        node.start()
        until(lambda: federation.value("data/wk-1/damaged") != "[]", "the compiled datasets are registered")
        federation.wait_complete()
    finally:
        shutil.rmtree(folder)
        request(federation.keystore_address, 8500, "DELETE", "/v1/kv/data/wk-1/damaged")
        node.stop()


def test_checked_variables_are_read_once(federation: Federation) -> None:
    """What the master lists is in the database now, what it accepts was there when it first needed to know."""
    path = federation.database("ms", "dementia")
    original = path.with_name("original")
    shutil.copy(path, original)
    asked = {"y": "tiv", "dataset": "dementia-h1", "pathology": "dementia"}
    try:
        assert federation.query("DESCRIPTIVE_STATS", **asked).data["result"][0]["type"] == "application/json"
        new = path.with_name("new")
        shutil.copy(path, new)
        connection = sqlite3.connect(new)
        connection.execute("DELETE FROM METADATA WHERE code = 'tiv'")
        connection.commit()
        connection.close()
        new.replace(path)
        assert "tiv" not in federation.query("LIST_VARIABLES", pathology="dementia").data
        assert federation.query("DESCRIPTIVE_STATS", **asked).data["result"][0]["type"] == "application/json"
        federation.nodes["ms"].stop()
        federation.nodes["ms"].start()
        federation.wait_complete()
        reply = federation.query("DESCRIPTIVE_STATS", **asked)
        assert reply.data == envelope("The CDE 'tiv' does not exist.", "text/plain+user_error")
    finally:
        original.replace(path)
        federation.nodes["ms"].stop()


def test_port_is_taken(federation: Federation) -> None:
    address = federation.addresses["wk-1"]
    done = run(federation, NODE_NAME="twin", STANDIN_ADDRESS=address, STANDIN_BIND=address)
    assert done.returncode == 1
    assert f"a port cannot be opened on {address}" in done.stdout


def test_start_is_told(federation: Federation) -> None:
    output = federation.nodes["wk-1"].output
    assert "Starting exareme-standin 1.0, a stand-in for the Exareme engine: node wk-1, role worker, environment PROD" in output
    assert "HEALTH CHECK successful" in output
    assert "Registered in the keystore (started)" in output


@pytest.mark.parametrize("node", ["ms", "wk-1"])
def test_ends_at_once_when_told(federation: Federation, node: str) -> None:
    code, seconds = federation.nodes[node].stop()
    assert code == 0
    assert seconds < 1
    assert "Stopped by SIGTERM" in federation.nodes[node].output


def test_dead_worker_is_told_and_comes_back(federation: Federation) -> None:
    federation.nodes["wk-10"].stop(kill=True)
    reply = federation.query("HEALTH_CHECK")
    assert (reply.status, reply.data) == (200, envelope(NOT_RESPONDING, "text/plain+error"))
    reply = federation.query("DESCRIPTIVE_STATS", y="tiv", dataset="dementia-h2", pathology="dementia")
    assert (reply.status, reply.data) == (200, envelope(NOT_RESPONDING, "text/plain+error"))
    # What others hold can still be asked for.
    reply = federation.query("DESCRIPTIVE_STATS", y="tiv", dataset="dementia-h1", pathology="dementia")
    assert reply.data["result"][0]["type"] == "application/json"
    federation.nodes["wk-10"].start()
    federation.wait_complete()


def test_node_whose_address_is_gone_is_left_out(federation: Federation) -> None:
    """A container that is gone answers nothing at all, unlike a dead program in a container: it is pruned, as the engine does."""
    code = """
import json
from exareme_standin import __main__ as m
master = m.Master(m.read_settings(), None)
master.registry.add(m.os.environ["LIVING"], "wk-1", "1")
master.registry.add("255.255.255.255", "gone", "1")
print(json.dumps([master.health(), sorted(master.registry.nodes().values())]))
"""
    environment = {**federation.nodes["ms"].environment, "LIVING": federation.addresses["wk-1"]}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=STANDIN, env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout.splitlines()[-1:] == ['[{"active_nodes": "wk-1"}, ["wk-1"]]'], done.stderr


def test_removed_worker_stays_out_until_it_is_started_again(federation: Federation) -> None:
    master, worker = federation.addresses["ms"], federation.addresses["wk-10"]
    assert request(master, 9091, "GET", "/remove/worker").status == 404
    unknown = request(master, 9091, "GET", "/remove/worker?IP=127.0.0.99")
    assert (unknown.status, unknown.data) == (420, {"error": "Worker with IP: 127.0.0.99 not found"})
    removed = request(master, 9091, "GET", f"/remove/worker?IP={worker}")
    assert (removed.status, removed.data) == (200, {"success": "Worker removed successfully"})
    assert federation.active() == {"ms", "wk-1"}
    reply = federation.query("DESCRIPTIVE_STATS", y="tiv", dataset="dementia-h2,dementia-h1", pathology="dementia")
    message = "The following datasets dementia-h2 are currently unavailable. Please try again later."
    assert (reply.status, reply.data) == (400, envelope(message, "text/plain+user_error"))
    until(lambda: "HEALTH CHECK failed" in federation.nodes["wk-10"].output, "the worker notices")
    assert federation.active() == {"ms", "wk-1"}
    federation.nodes["wk-10"].stop()
    federation.nodes["wk-10"].start()
    federation.wait_complete()


def test_lost_keystore_is_filled_again(federation: Federation) -> None:
    federation.keystore.stop(kill=True)
    assert federation.query("HEALTH_CHECK").status == 500
    shutil.rmtree(federation.consul_data)
    federation.consul_data.mkdir()
    federation.keystore.start()
    federation.wait_complete()
    assert {key: federation.value(key) for key in federation.wanted_keys()} == federation.wanted_keys()
    assert "Registered in the keystore (keys were missing or different)" in federation.nodes["wk-1"].output
    assert all(node.process is not None and node.process.poll() is None for node in federation.nodes.values())


def test_restarted_keystore_keeps_its_keys(federation: Federation) -> None:
    request(federation.keystore_address, 8500, "PUT", "/v1/kv/mark", "kept")
    _code, seconds = federation.keystore.stop()
    assert seconds < 5
    federation.keystore.start()
    assert until(lambda: federation.value("mark") == "kept", "the keystore has its keys")
    request(federation.keystore_address, 8500, "DELETE", "/v1/kv/mark")


def test_wrong_address_in_the_keystore_is_corrected(federation: Federation) -> None:
    request(federation.keystore_address, 8500, "PUT", "/v1/kv/active_workers/wk-1", "127.0.0.99")
    until(lambda: federation.value("active_workers/wk-1") == federation.addresses["wk-1"], "the worker corrects its key")


def test_restarted_master_finds_its_workers(federation: Federation) -> None:
    federation.nodes["ms"].stop(kill=True)
    federation.nodes["ms"].start()
    federation.wait_complete()


def test_new_address_replaces_the_old_one(federation: Federation) -> None:
    """A container that the swarm replaces comes back with another address."""
    node, old = federation.nodes["wk-10"], federation.addresses["wk-10"]
    new = old.rpartition(".")[0] + ".33"
    node.stop(kill=True)
    for address in (new, old):
        federation.addresses["wk-10"] = address
        node.environment.update(STANDIN_ADDRESS=address, STANDIN_BIND=address)
        node.start()
        federation.wait_complete()
        assert federation.value("active_workers/wk-10") == address
        if address == new:
            node.stop(kill=True)


def test_running_node_follows_its_address(federation: Federation) -> None:
    """The address may change while the node runs: it notices, and registers the new one."""
    code = """
import sys, threading, time
from exareme_standin import __main__ as m
runner = m.Runner(m.read_settings())
addresses = ["127.0.0.97"] * 2
class Moving(type(runner.settings)):
    def address(self):
        return addresses.pop() if addresses else self.fixed_address
settings = Moving(**vars(runner.settings))
runner.settings = settings
runner.node.settings = settings
runner.address = settings.address()
assert runner.address == "127.0.0.97"
runner.node.start(runner.banner)
addresses.clear()
print(repr(runner.look_after()), runner.address, flush=True)
"""
    environment = {
        **federation.nodes["wk-1"].environment,
        "NODE_NAME": "mover",
        "STANDIN_ADDRESS": "127.0.0.98",
        "STANDIN_BIND": "127.0.0.98",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=STANDIN, env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout.splitlines()[-1:] == ["'' 127.0.0.98"], done.stderr
    assert federation.value("active_workers/mover") == "127.0.0.98"
    request(federation.keystore_address, 8500, "DELETE", "/v1/kv/active_workers/mover")
    request(federation.addresses["ms"], 9091, "GET", "/remove/worker?IP=127.0.0.98")


def test_new_data_are_registered_at_the_next_start_only(federation: Federation, seeded: list[Dataset]) -> None:
    path = federation.database("wk-1", "dementia")
    original = path.with_name("original")
    shutil.copy(path, original)
    extra = Dataset("dementia-h1-new", "New", "dementia", 1, 20)
    write_pathology(federation.folder / "new" / "dementia", [*seeded, extra], [extra])
    (federation.folder / "new" / "dementia" / "datasets.db").replace(path)
    try:
        # As in the engine: the list is read anew, the keystore is written at the start.
        assert federation.query("LIST_DATASET").data["wk-1"]["dementia"] == ["dementia-h1-new"]
        assert json.loads(federation.value("data/wk-1/dementia")) == federation.held("wk-1", "dementia")
        reply = federation.query("DESCRIPTIVE_STATS", y="tiv", dataset="dementia-h1-new", pathology="dementia")
        assert reply.status == 400
        federation.nodes["wk-1"].stop()
        federation.nodes["wk-1"].start()
        until(lambda: federation.value("data/wk-1/dementia") == '["dementia-h1-new"]', "the new dataset is registered")
        federation.wait_complete()
        reply = federation.query("DESCRIPTIVE_STATS", y="tiv", dataset="dementia-h1-new", pathology="dementia")
        assert reply.data["result"][0]["data"]["model"]["dementia-h1-new"]["num_total"] == 20
    finally:
        original.replace(path)
        federation.nodes["wk-1"].stop()


def test_folder_without_a_database(federation: Federation) -> None:
    folder = federation.folder / "data" / "wk-1" / "empty"
    folder.mkdir()
    try:
        for _attempt in range(2):
            reply = federation.query("LIST_DATASET")
            assert (reply.status, reply.data) == (200, envelope(RUN_ERROR, "text/plain+error"))
            # As SQLite leaves it when the engine looks.
            assert (folder / "datasets.db").stat().st_size == 0
        assert f"{folder}/datasets.db: no such table: DATA" in federation.nodes["wk-1"].output
        assert federation.query("HEALTH_CHECK").status == 200
    finally:
        shutil.rmtree(folder)


def test_pathology_without_a_folder_on_the_master(federation: Federation) -> None:
    request(federation.keystore_address, 8500, "PUT", "/v1/kv/data/wk-1/nowhere", "[]")
    try:
        reply = federation.query("LIST_VARIABLES", pathology="nowhere")
        assert (reply.status, reply.data) == (200, envelope(RUN_ERROR, "text/plain+error"))
        assert not (federation.folder / "data" / "ms" / "nowhere").exists()
    finally:
        request(federation.keystore_address, 8500, "DELETE", "/v1/kv/data/wk-1/nowhere")


def test_reading_leaves_the_databases_alone(federation: Federation) -> None:
    path = federation.database("wk-1", "dementia")
    before = (path.stat().st_mtime_ns, sorted(path.parent.iterdir()))
    federation.query("LIST_DATASET")
    federation.query("DESCRIPTIVE_STATS", y="tiv", dataset="dementia-h1", pathology="dementia")
    assert (path.stat().st_mtime_ns, sorted(path.parent.iterdir())) == before


def test_without_minimum_in_a_test_environment(federation: Federation) -> None:
    code = (
        "import json, sys; from pathlib import Path; from exareme_standin.data import Databases; "
        "print(json.dumps(Databases(Path(sys.argv[1])).statistics('dementia', ['dementia-h2-pilot'], ['tiv'], None, int(sys.argv[2]))))"
    )
    data = str(federation.folder / "data" / "wk-10")
    for minimum, enough in (("0", True), ("10", False)):
        done = subprocess.run([sys.executable, "-c", code, data, minimum], cwd=STANDIN, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["single"]["tiv"]["dementia-h2-pilot"]["enough"] is enough
    with sqlite3.connect(federation.database("wk-10", "dementia")) as connection:
        (count,) = connection.execute("SELECT COUNT(*) FROM DATA WHERE dataset = 'dementia-h2-pilot'").fetchone()
    assert count < 10
