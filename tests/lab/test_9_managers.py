# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Three managers: locked after a reboot and unlocked, one of them lost, and the master moved to another host and back."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import INVENTORY, LAB, Lab

pytestmark = [pytest.mark.in_order, pytest.mark.timeout(2400)]

KEYS = INVENTORY / "state" / "unlock_key.vault"


def wait_for(done: Callable[[], Any], what: str, seconds: float = 300) -> Any:
    """Wait until something is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(2)
    return found


def hosts_file() -> dict[str, Any]:
    """The groups of hosts.yml."""
    groups: dict[str, Any] = yaml.safe_load((INVENTORY / "hosts.yml").read_text())["all"]["children"]
    return groups


def edit(change: Callable[[dict[str, Any]], None]) -> None:
    """Change hosts.yml."""
    document = yaml.safe_load((INVENTORY / "hosts.yml").read_text())
    change(document["all"]["children"])
    (INVENTORY / "hosts.yml").write_text(yaml.safe_dump(document, sort_keys=False))


def state(lab: Lab, host: str) -> str:
    """What a host's engine says that it is in the swarm; empty while it does not answer."""
    return lab.ssh(host, "docker info -f '{{.Swarm.LocalNodeState}}' 2>/dev/null", check=False)


def working(lab: Lab, asked: str) -> set[str]:
    """The managers that work, as one of them says, by address."""
    found = lab.ssh(
        asked, "docker node inspect -f '{{with .ManagerStatus}}{{.Reachability}} {{.Addr}}{{end}}' $(docker node ls -q)", check=False
    )
    return {line.split()[1].partition(":")[0] for line in found.splitlines() if line.startswith("reachable ")}


def leader(lab: Lab, asked: str) -> str:
    """The manager that leads, as one of them says; empty while there is none."""
    found = lab.ssh(asked, "docker node inspect -f '{{with .ManagerStatus}}{{.Leader}} {{.Addr}}{{end}}' $(docker node ls -q)", check=False)
    address = next((line.split()[1].partition(":")[0] for line in found.splitlines() if line.startswith("true ")), "")
    return next((name for name, known in lab.hosts.items() if known == address), "")


def containers(lab: Lab, host: str) -> set[str]:
    """The containers that run on a machine."""
    return set(lab.ssh(host, "docker ps -q --no-trunc").split())


@pytest.fixture(scope="module")
def managers(machines: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The lab with its two hospitals as further managers, autolock, and no data on the first. As it was afterwards."""
    first, second = machines.workers
    password = tmp_path_factory.mktemp("vault") / "password"
    password.write_text("a password of the lab\n")
    password.chmod(0o600)
    hosts, main = (INVENTORY / "hosts.yml").read_bytes(), (INVENTORY / "group_vars/all/main.yml").read_bytes()
    machines.ssh(
        first,
        f"mkdir -p /root/kept && cd /data/{LAB} && find . -name '*.csv' -exec cp -p --parents -t /root/kept {{}} \\; -delete",
    )
    edit(lambda groups: [groups["workers"]["hosts"][name].update(mip_swarm_manager=True) for name in (first, second)])
    machines.environment["MIPFED_VAULT_PASSWORD_FILE"] = str(password)
    machines.variables(mip_swarm_autolock=True)
    machines.run("deploy", "-y")
    machines.run("data", "consolidate", "-y")
    machines.run("data", "compile", "-y")
    yield machines
    # Whatever was left, the first master is the master again, and nothing is locked.
    (INVENTORY / "hosts.yml").write_bytes(hosts)
    machines.ssh(first, f"cp -a /root/kept/. /data/{LAB}/ && rm -r /root/kept", check=False)
    main = yaml.safe_load(main)
    (INVENTORY / "group_vars/all/main.yml").write_text(yaml.safe_dump({**main, "mip_swarm_autolock": False}))
    machines.read_hosts()
    machines.master = f"{LAB}-ms"
    machines.run("unlock", code=None)
    machines.run("deploy", "-y")
    KEYS.unlink(missing_ok=True)
    del machines.environment["MIPFED_VAULT_PASSWORD_FILE"]
    (INVENTORY / "group_vars/all/main.yml").write_text(yaml.safe_dump(main))


def test_the_key_is_kept_and_nowhere_else(managers: Lab) -> None:
    key = managers.ssh(managers.master, "docker swarm unlock-key -q")
    assert key.startswith("SWMKEY-1-")
    content = KEYS.read_bytes()
    assert content.startswith(b"$ANSIBLE_VAULT;") and KEYS.stat().st_mode & 0o777 == 0o600
    found = subprocess.run(["grep", "-rlF", key, str(managers.state_home), str(INVENTORY)], capture_output=True, text=True, check=False)
    assert found.stdout == ""
    assert managers.json("deploy", "-y")["result"]["changed"] == 0
    assert KEYS.read_bytes() == content


def test_a_manager_that_was_rebooted_is_locked_until_it_is_unlocked(managers: Lab, power: Callable[[str, str], None]) -> None:
    first = managers.workers[0]
    key = managers.ssh(managers.master, "docker swarm unlock-key -q")
    power(first, "kill")
    power(first, "on")
    wait_for(lambda: state(managers, first) == "locked", f"{first} is locked")
    status = managers.json("status", code=4)
    locked = [error for error in status["errors"] if error["host"] == first and error["code"] == "locked"]
    assert locked and "mipfed unlock" in locked[0]["next"]
    checked = managers.json("check", code=4)
    assert "swarm-locked" in {error["code"] for error in checked["errors"]}
    opened = managers.json("unlock")
    assert opened["result"]["unlocked"] == [first] and key not in str(opened)
    assert managers.json("unlock")["result"]["unlocked"] == []
    wait_for(lambda: managers.hosts[first] in working(managers, managers.master), f"{first} works again")


def test_the_key_is_replaced_and_the_old_one_kept(managers: Lab) -> None:
    before = managers.ssh(managers.master, "docker swarm unlock-key -q")
    rotated = managers.json("token", "rotate", "--unlock-key", "-y")["result"]
    assert rotated["unlock_key"] == {"rotated": True, "behind": []}
    after = managers.ssh(managers.master, "docker swarm unlock-key -q")
    assert after != before
    shown = subprocess.run(
        ["ansible-vault", "view", "--vault-password-file", managers.environment["MIPFED_VAULT_PASSWORD_FILE"], str(KEYS)],
        capture_output=True, text=True, check=True, env=managers.environment,
    )  # fmt: skip
    assert [entry["key"] for entry in yaml.safe_load(shown.stdout)["keys"]][:2] == [after, before]


def test_the_lock_is_told_by_the_others_when_the_master_is_away(managers: Lab, power: Callable[[str, str], None]) -> None:
    power(managers.master, "kill")
    second = managers.workers[1]
    others = {managers.hosts[name] for name in managers.workers}
    wait_for(lambda: working(managers, second) == others, "a majority without the master")
    seen = managers.json("lock", "status", code=None)["result"]
    assert seen["silent"] == [managers.master] and not seen["held"] and not seen["problems"]
    token = managers.ssh(second, "docker swarm join-token -q worker")
    # Through another manager, with its lock on most of them.
    managers.run("token", "rotate", "-y", code=6)
    assert managers.ssh(second, "docker swarm join-token -q worker") != token
    power(managers.master, "on")
    wait_for(lambda: state(managers, managers.master) == "locked", "the master is locked")
    assert managers.json("unlock")["result"]["unlocked"] == [managers.master]
    assert managers.all_active(300)


def test_a_move_to_a_node_with_data_is_refused(managers: Lab) -> None:
    before = (INVENTORY / "hosts.yml").read_bytes()
    refused = managers.run("master", "move", managers.workers[1], "-y", code=5)
    assert "holds datasets" in refused.stdout + refused.stderr and "nothing was changed" in refused.stdout + refused.stderr
    assert (INVENTORY / "hosts.yml").read_bytes() == before and managers.all_active(0)


def test_a_move_that_fails_is_put_back(managers: Lab) -> None:
    target = managers.workers[0]
    before = (INVENTORY / "hosts.yml").read_bytes()
    keys = managers.ssh(managers.master, "docker service ls --format '{{.Name}}' | sort")
    # Something else has the port of the API there.
    managers.ssh(target, "systemd-run --unit=taken python3 -m http.server 9090")
    try:
        failed = managers.run("master", "move", target, "-y", code=None)
        assert failed.returncode in (4, 5) and "runs on" in failed.stdout + failed.stderr
    finally:
        managers.ssh(target, "systemctl stop taken")
    assert (INVENTORY / "hosts.yml").read_bytes() == before
    assert managers.ssh(managers.master, "docker service ls --format '{{.Name}}' | sort") == keys
    assert managers.all_active(300)


def test_the_master_moves_and_comes_back(managers: Lab) -> None:
    old, target = managers.master, managers.workers[0]
    answer = managers.api("LIST_DATASET", pathology="dementia")
    for source, new in ((old, target), (target, old)):
        planned = managers.json("master", "move", new, "--check")
        assert planned["result"]["state"] == "planned"
        moved = managers.json("master", "move", new, "-y")
        assert moved["result"]["state"] == "moved" and moved["result"]["keys"] > 0
        groups = hosts_file()
        assert list(groups["master"]["hosts"]) == [new] and groups["workers"]["hosts"][source]["mip_swarm_manager"] is True
        managers.read_hosts()
        managers.master = new
        managers.workers = sorted(groups["workers"]["hosts"])
        assert managers.all_active(300)
        services = managers.ssh(new, "docker service ls --format '{{.Name}} {{.Replicas}}'").splitlines()
        assert {f"{new}_exareme-keystore 1/1", f"{new}_exareme-master 1/1", f"{source}_exareme 1/1"} <= set(services)
        assert not any(line.startswith((f"{source}_exareme-", f"{new}_exareme ")) for line in services)
        assert working(managers, new) == {address for name, address in managers.hosts.items() if not name.endswith("-ui")}
        assert managers.api("LIST_DATASET", pathology="dementia") == answer
        assert managers.json("deploy", "-y")["result"]["changed"] == 0
    assert not Path(INVENTORY / "state" / "move").exists()


def test_a_command_goes_on_when_the_leader_is_lost_in_the_middle(managers: Lab, power: Callable[[str, str], None]) -> None:
    # A leader that is not the master: the engine of a restarted one is no leader for a while.
    if leader(managers, managers.master) == managers.master:
        managers.ssh(managers.master, "systemctl restart docker")
        wait_for(lambda: state(managers, managers.master) == "locked", "the master is locked")
        managers.run("unlock")
        assert managers.all_active(300)
    lost = wait_for(lambda: leader(managers, managers.master), "a leader")
    assert lost in managers.workers
    other = next(name for name in managers.workers if name != lost)
    before = {name: containers(managers, name) for name in (managers.master, other)}
    process = managers.start("-o", "jsonl", "restart", "--node", managers.master, "--node", other, "-y")
    assert process.stdout
    begun = next(event for event in map(json.loads, process.stdout) if "Restart the services" in event.get("task", ""))
    power(lost, "kill")
    assert process.poll() is None, f"it had ended before {lost} was off; {begun}"
    out, err = process.communicate(timeout=1500)
    assert process.returncode == 0, out + err
    for name, ids in before.items():
        assert containers(managers, name) and not containers(managers, name) & ids, name
    assert leader(managers, managers.master) not in ("", lost)
    power(lost, "on")
    wait_for(lambda: state(managers, lost) == "locked", f"{lost} is locked")
    assert managers.json("unlock")["result"]["unlocked"] == [lost]
    assert managers.all_active(300)
    assert managers.json("deploy", "-y")["result"]["changed"] == 0
