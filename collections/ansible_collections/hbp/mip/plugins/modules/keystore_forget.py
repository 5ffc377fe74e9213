#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: keystore_forget
short_description: Make the engine and its keystore forget a worker
version_added: 0.3.0
description:
  - Tells the engine's master that a worker has gone, and deletes what the worker wrote into the keystore. Neither does that by itself,
    and queries for the datasets of a worker that is gone for good would fail for ever.
  - Runs on the host of the keystore, and talks to both from inside the keystore's container network. They need to be reachable from
    nowhere else.
  - A worker whose engine still runs comes back at its next start. Stop it first.
author:
  - The hbp.mip authors (@HBPMedical)
options:
  node:
    description:
      - Name of the worker.
    type: str
    required: true
  federation:
    description:
      - Name of the federation, to find the containers by.
    type: str
    required: true
  network:
    description:
      - Name of the overlay network.
    type: str
    default: mip-federation
  timeout:
    description:
      - Seconds to wait for each answer.
    type: float
    default: 10
  docker_socket:
    description:
      - The engine's socket.
    type: path
    default: /var/run/docker.sock
attributes:
  check_mode:
    description: Reports the keys that would be deleted, without deleting any.
    support: full
  diff_mode:
    description: Shows the keys before and after.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
seealso:
  - module: hbp.mip.swarm_retire
"""

EXAMPLES = r"""
- name: Forget a hospital that has left
  hbp.mip.keystore_forget:
    node: hospital-north
    federation: hospitals
"""

RETURN = r"""
keys:
  description: The keys that were deleted, or would be in check mode.
  returned: always
  type: list
  elements: str
  sample: [active_workers/hospital-north, data/hospital-north/dementia]
master_told:
  description: Whether the engine's master took the worker off its list.
  returned: always
  type: bool
problems:
  description: What could not be done, each with C(code), C(message) and C(fix).
  returned: always
  type: list
  elements: dict
"""

import http.client
import json
from typing import Any, Callable, Dict, List, Tuple
from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _docker_http, _netlink

_FEDERATION = "eu.humanbrainproject.mip.federation"
_SERVICE = "eu.humanbrainproject.mip.service"
_KEYSTORE_PORT = 8500
_REMOVE_PORT = 9091

#: Host, port, method and path of a request, answered by status and body; raises `OSError`.
Request = Callable[[str, int, str, str], Tuple[int, bytes]]


class NotThere(Exception):
    """Nobody can be asked; the message says why, `fix` what to do."""

    def __init__(self, code: str, message: str, fix: str) -> None:
        super().__init__(message)
        self.code = code
        self.fix = fix


def belongs(key: str, node: str) -> bool:
    """Whether the worker `node` wrote the key; a name that another one begins with is not mistaken for it."""
    return key == "active_workers/%s" % node or key.startswith("data/%s/" % node)


def problem(code: str, message: str, fix: str) -> Dict[str, str]:
    """One entry of `problems`."""
    return {"code": code, "message": message, "fix": fix}


def _keys(request: Request, keystore: str, prefix: str) -> List[str]:
    status, body = request(keystore, _KEYSTORE_PORT, "GET", "/v1/kv/%s?keys" % quote(prefix))
    if status == 404:
        return []
    if status != 200:
        raise OSError("it answered %d to the question for its keys" % status)
    return [str(key) for key in json.loads(body.decode("utf-8"))]


def _address(request: Request, keystore: str, key: str) -> str:
    status, body = request(keystore, _KEYSTORE_PORT, "GET", "/v1/kv/%s?raw" % quote(key))
    return body.decode("utf-8", "replace").strip() if status == 200 else ""


def forget(request: Request, keystore: str, master: str, node: str, check_mode: bool) -> Dict[str, Any]:
    """Tell the master at the address `master` (may be empty) and delete the keys. Raises `OSError` when the keystore does not answer."""
    active = _keys(request, keystore, "active_workers/")
    keys = [key for key in active + _keys(request, keystore, "data/%s/" % node) if belongs(key, node)]
    problems: List[Dict[str, str]] = []
    told = False
    own = "active_workers/%s" % node
    if own in active and not check_mode:
        address = _address(request, keystore, own)
        # The address of a container that is gone may have been given to another one since.
        taken = [key for key in active if key != own and _address(request, keystore, key) == address]
        if address and not taken:
            told = _tell(request, master, address, problems)
    for key in keys:
        if not check_mode:
            status, body = request(keystore, _KEYSTORE_PORT, "DELETE", "/v1/kv/%s" % quote(key))
            if status != 200 or body.strip() != b"true":
                raise OSError("it answered %d when it was told to delete %s" % (status, key))
    return {"keys": keys, "master_told": told, "problems": problems}


def _tell(request: Request, master: str, address: str, problems: List[Dict[str, str]]) -> bool:
    restart = "the master forgets it by itself at its next start"
    if not master:
        problems.append(problem("master-silent", "the engine's master does not run, and was not told", restart))
        return False
    try:
        status, body = request(master, _REMOVE_PORT, "GET", "/remove/worker?IP=%s" % quote(address))
    except OSError as error:
        problems.append(problem("master-silent", "the engine's master was not told: %s" % error, restart))
        return False
    if status not in (200, 420):
        text = "the engine's master answered %d: %s" % (status, body[:200].decode("utf-8", "replace"))
        problems.append(problem("master-refused", text, restart))
    # 420 is its word for a worker that it does not know (any more).
    return status == 200


def _http(timeout: float) -> Request:
    def request(host: str, port: int, method: str, path: str) -> Tuple[int, bytes]:
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read(1 << 20)
        except http.client.HTTPException as error:
            raise OSError("no HTTP: %s" % type(error).__name__) from error
        finally:
            connection.close()

    return request


def find(given: Dict[str, Any]) -> Dict[str, Tuple[int, str]]:
    """Process and overlay address of the keystore and the master, by service. Raises `NotThere` without a keystore."""
    places: Dict[str, Tuple[int, str]] = {}
    try:
        if given["docker_socket"] == _docker_http.SOCKET and not _docker_http.daemon_pid():
            raise NotThere("no-engine", "the Docker engine does not run on this host", "sudo systemctl start docker")
        for item in _docker_http.containers(["%s=%s" % (_FEDERATION, given["federation"])], given["docker_socket"]):
            details = _docker_http.inspect(str(item["Id"]), given["docker_socket"])
            service = str(((details.get("Config") or {}).get("Labels") or {}).get(_SERVICE) or "")
            networks = (details.get("NetworkSettings") or {}).get("Networks") or {}
            address = str((networks.get(given["network"]) or {}).get("IPAddress") or "")
            pid = int((details.get("State") or {}).get("Pid") or 0)
            if address and pid:
                places[service] = (pid, address)
    except _docker_http.DockerError as error:
        raise NotThere("no-engine", "the Docker engine cannot be asked: %s" % error, "systemctl status docker") from error
    if "exareme-keystore" not in places:
        raise NotThere(
            "no-keystore",
            "the keystore does not run on this host, so that nothing was deleted in it",
            "deploy starts it; then run this again",
        )
    return places


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "node": {"type": "str", "required": True},
            "federation": {"type": "str", "required": True},
            "network": {"type": "str", "default": "mip-federation"},
            "timeout": {"type": "float", "default": 10},
            "docker_socket": {"type": "path", "default": "/var/run/docker.sock"},
        },
        supports_check_mode=True,
    )
    given: Dict[str, Any] = module.params
    done: Dict[str, Any] = {"keys": [], "master_told": False, "problems": []}
    try:
        places = find(given)
        pid, keystore = places["exareme-keystore"]
        master = places.get("exareme-master", (0, ""))[1]

        def inside() -> Dict[str, Any]:
            _netlink.enter_network_of(pid)
            try:
                return forget(_http(given["timeout"]), keystore, master, given["node"], module.check_mode)
            except (OSError, ValueError) as error:
                return {"silent": "the keystore at %s cannot be used: %s" % (keystore, error)}

        answer = _netlink.in_child(inside, 120 + 10 * given["timeout"])
        wrong = answer.get("silent") or answer.get("error")
        if wrong:
            done["problems"].append(
                problem("keystore-silent", str(wrong), "docker service ps --no-trunc of the keystore, then run this again")
            )
        else:
            done.update({key: answer[key] for key in done})
    except NotThere as error:
        done["problems"].append(problem(error.code, str(error), error.fix))
    module.exit_json(changed=bool(done["keys"]), diff={"before": {"keys": done["keys"]}, "after": {"keys": []}}, **done)


if __name__ == "__main__":
    main()
