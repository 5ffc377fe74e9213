#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_network
short_description: Overlay network of a swarm
version_added: 0.1.0
description:
  - Creates the overlay network when there is none of that name.
  - An overlay network cannot be changed. When the existing one differs, the module fails and names each difference. It never removes and
    creates a network again, because that stops every service on it.
extends_documentation_fragment:
  - hbp.mip.engine
author:
  - The hbp.mip authors (@HBPMedical)
options:
  name:
    description:
      - Name of the network.
    type: str
    required: true
  state:
    description:
      - V(absent) removes the network. It fails while a service or a container uses it.
    type: str
    choices: [present, absent]
    default: present
  encrypted:
    description:
      - Encrypt the traffic between hosts (IPsec ESP). Every host's kernel must be able to, see M(hbp.mip.node_check).
    type: bool
    default: true
  subnet:
    description:
      - Subnet in CIDR notation. By default the engine takes one from the address pools of the swarm, and it is not compared.
    type: str
  gateway:
    description:
      - Address of the gateway in O(subnet). By default the engine's choice, and it is not compared.
    type: str
  mtu:
    description:
      - MTU of the network between the hosts. The engine subtracts what encapsulation and encryption need.
      - V(0) is the engine's own choice, and it is not compared.
    type: int
    default: 0
  path_mtu:
    description:
      - The MTU that was measured between the hosts. With O(mtu=0) a network that is made now gets it, if it is below the engine's 1500.
      - A network that is made now remembers it in its label C(eu.humanbrainproject.mip.path-mtu).
      - An existing network is not compared with it, because its MTU cannot be changed.
    type: int
    default: 0
  attachable:
    description:
      - Let containers that are no services use the network.
    type: bool
    default: false
  labels:
    description:
      - Labels of the network. They cannot be added later, so that missing ones are a warning only.
    type: dict
    default: {}
  host_routes_checked:
    description:
      - The subnet was already compared with the routes of all hosts, by M(hbp.mip.node_check).
      - Otherwise it is compared with the routes of this host before the network is created.
    type: bool
    default: false
attributes:
  check_mode:
    description: Reports what would be done, without doing it.
    support: full
  diff_mode:
    description: Shows the network before and after.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
seealso:
  - module: hbp.mip.swarm_services
"""

EXAMPLES = r"""
- name: Create the network of the federation
  hbp.mip.swarm_network:
    name: mip-federation
    subnet: 10.20.30.0/24
    encrypted: true
    mtu: 1400
"""

RETURN = r"""
id:
  description: ID of the network. Empty when there is none.
  returned: always
  type: str
network:
  description: The network as it is, or would be in check mode. Its label C(eu.humanbrainproject.mip.path-mtu) is what was measured
    before it was made.
  returned: always
  type: dict
"""

import ipaddress
import struct
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _encryption, _swarm
from ansible_collections.hbp.mip.plugins.module_utils._engine import EngineError, engine_call, open_engine, wait_until

_MTU_OPTION = "com.docker.network.driver.mtu"
_PATH_MTU_LABEL = "eu.humanbrainproject.mip.path-mtu"
#: What the engine takes for the MTU between the hosts when it is told none.
_USUAL_MTU = 1500
_REMOVE_SECONDS = 30


def describe(network: Dict[str, Any]) -> Dict[str, Any]:
    """The properties of an existing network (the engine's answer) that this module compares."""
    options = network.get("Options") or {}
    pools = (network.get("IPAM") or {}).get("Config") or []
    pool = pools[0] if pools else {}
    return {
        "name": network.get("Name", ""),
        "driver": network.get("Driver", ""),
        "scope": network.get("Scope", ""),
        "encrypted": _encryption.is_encrypted(options),
        "subnet": pool.get("Subnet", ""),
        "gateway": pool.get("Gateway", ""),
        "mtu": int(options.get(_MTU_OPTION) or 0),
        "attachable": bool(network.get("Attachable")),
        "internal": bool(network.get("Internal")),
        "labels": dict(network.get("Labels") or {}),
    }


def wanted_network(params: Dict[str, Any]) -> Dict[str, Any]:
    """The network that the options describe, in the form of `describe`."""
    return {
        "name": params["name"],
        "driver": "overlay",
        "scope": "swarm",
        "encrypted": params["encrypted"],
        "subnet": params["subnet"] or "",
        "gateway": params["gateway"] or "",
        "mtu": params["mtu"],
        "attachable": params["attachable"],
        "internal": False,
        "labels": {key: str(value) for key, value in params["labels"].items()},
    }


def differences(found: Dict[str, Any], wanted: Dict[str, Any]) -> List[str]:
    """What of an existing network is not as wanted. An empty subnet, gateway or MTU is not compared."""
    result = []
    for key in ("driver", "scope", "encrypted", "subnet", "gateway", "mtu", "attachable", "internal"):
        if key in ("subnet", "gateway", "mtu") and not wanted[key]:
            continue
        if found[key] != wanted[key]:
            result.append("%s is %s, wanted %s" % (key, _said(found[key]), _said(wanted[key])))
    return result


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if value != "" else "not set"


def check_options(params: Dict[str, Any]) -> None:
    """Raise `SwarmError` for a subnet, gateway or MTU that cannot be."""
    try:
        subnet = ipaddress.ip_network(params["subnet"]) if params["subnet"] else None
        gateway = ipaddress.ip_address(params["gateway"]) if params["gateway"] else None
    except ValueError as error:
        raise _swarm.SwarmError("network %s: %s" % (params["name"], error)) from error
    if gateway and (not subnet or gateway not in subnet):
        raise _swarm.SwarmError("network %s: the gateway %s is not in the subnet %s" % (params["name"], gateway, subnet or "(none given)"))
    for value in (params["mtu"], params["path_mtu"]):
        if value and not 576 <= value <= 65535:
            raise _swarm.SwarmError("network %s: an MTU of %d is not possible" % (params["name"], value))


def parse_routes(table: str) -> List[Tuple[str, str]]:
    """Destination (CIDR) and interface of each IPv4 route in `/proc/net/route`, without default routes."""
    routes = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8:
            continue
        destination, mask = (ipaddress.IPv4Address(struct.pack("<L", int(fields[i], 16))) for i in (1, 7))
        if int(mask):
            routes.append((str(ipaddress.ip_network("%s/%s" % (destination, mask), strict=False)), fields[0]))
    return routes


def collision(subnet: str, taken: List[Tuple[str, str]]) -> Optional[Tuple[str, str]]:
    """The first of `taken` (network in CIDR notation, owner) that overlaps `subnet`."""
    wanted = ipaddress.ip_network(subnet)
    for network, owner in taken:
        other = ipaddress.ip_network(network, strict=False)
        if other.version == wanted.version and other.overlaps(wanted):
            return network, owner
    return None


def find(networks: List[Dict[str, Any]], name: str) -> Optional[Dict[str, Any]]:
    """The network called `name`. Raises `SwarmError` when there are several."""
    same = [network for network in networks if network.get("Name") == name]
    if len(same) > 1:
        raise _swarm.SwarmError(
            "there are %d networks called %s: %s. Nothing was changed. Next: docker network rm the ones not in use, by ID"
            % (len(same), name, ", ".join("%s (%s)" % (n["Id"], n.get("Scope")) for n in same))
        )
    return same[0] if same else None


def present(module: AnsibleModule, client: Any, networks: List[Dict[str, Any]]) -> Dict[str, Any]:
    """Create the network or verify the existing one; returns the module's result."""
    params = module.params
    wanted, existing = wanted_network(params), find(networks, params["name"])
    if existing:
        with engine_call("inspect the network %s" % params["name"]):
            existing = client.inspect_network(existing["Id"])
        found = describe(existing)
        wrong = differences(found, wanted)
        if wrong:
            raise _swarm.SwarmError(
                "the network %s differs: %s. Overlay networks cannot be changed in place. Nothing was changed. Either write "
                "the present values into the inventory, or, in an announced interruption, remove the services on it and then "
                "the network: docker network rm %s, and deploy again" % (params["name"], "; ".join(wrong), params["name"])
            )
        missing = [key for key, value in wanted["labels"].items() if found["labels"].get(key) != value]
        if missing:
            module.warn(
                "the network %s lacks the label(s) %s. Labels of a network can be set only when it is created"
                % (params["name"], ", ".join(sorted(missing)))
            )
        if params["path_mtu"] and params["path_mtu"] < (found["mtu"] or _USUAL_MTU):
            module.warn(
                "the network %s was made for paths of %d bytes, and only %d were measured to pass: large packets will be lost. Raise the "
                "path's MTU, or make the network anew in an announced interruption"
                % (params["name"], found["mtu"] or _USUAL_MTU, params["path_mtu"])
            )
        return {"changed": False, "id": existing["Id"], "network": found, "diff": {"before": found, "after": found}}
    if not wanted["mtu"] and params["path_mtu"] and params["path_mtu"] < _USUAL_MTU:
        wanted["mtu"] = params["path_mtu"]
    if params["path_mtu"]:
        wanted["labels"][_PATH_MTU_LABEL] = str(params["path_mtu"])
    _check_collisions(params, networks)
    network_id = ""
    if not module.check_mode:
        network_id = _create(client, wanted)
        with engine_call("inspect the network %s" % params["name"]):
            wanted = describe(client.inspect_network(network_id))
    return {"changed": True, "id": network_id, "network": wanted, "diff": {"before": {}, "after": wanted}}


def _check_collisions(params: Dict[str, Any], networks: List[Dict[str, Any]]) -> None:
    if not params["subnet"]:
        return
    taken = [
        (pool["Subnet"], "the Docker network %s" % network.get("Name"))
        for network in networks
        for pool in (network.get("IPAM") or {}).get("Config") or []
        if pool.get("Subnet")
    ]
    if not params["host_routes_checked"]:
        try:
            table = Path("/proc/net/route").read_text(encoding="ascii")
        except OSError:
            table = ""
        taken += [(network, "a route of this host on %s" % interface) for network, interface in parse_routes(table)]
    hit = collision(params["subnet"], taken)
    if hit:
        raise _swarm.SwarmError(
            "the subnet %s of the network %s overlaps %s, %s. Nothing was changed. Choose another subnet (mip_overlay.subnet)"
            % (params["subnet"], params["name"], hit[0], hit[1])
        )


def _create(client: Any, wanted: Dict[str, Any]) -> str:
    options = {}
    if wanted["encrypted"]:
        options["encrypted"] = "true"
    if wanted["mtu"]:
        options[_MTU_OPTION] = str(wanted["mtu"])
    ipam = None
    if wanted["subnet"]:
        pool = {"Subnet": wanted["subnet"]}
        if wanted["gateway"]:
            pool["Gateway"] = wanted["gateway"]
        ipam = {"Driver": "default", "Config": [pool]}
    with engine_call("create the network %s" % wanted["name"]):
        answer = client.create_network(
            wanted["name"],
            driver="overlay",
            options=options,
            ipam=ipam,
            check_duplicate=True,
            labels=wanted["labels"],
            attachable=wanted["attachable"],
            scope="swarm",
        )
    return str(answer["Id"])


def absent(module: AnsibleModule, client: Any, networks: List[Dict[str, Any]]) -> Dict[str, Any]:
    """Remove the network; returns the module's result."""
    name = module.params["name"]
    existing = find(networks, name)
    if not existing:
        return {"changed": False, "id": "", "network": {}, "diff": {"before": {}, "after": {}}}
    found = describe(existing)
    if found["scope"] != "swarm":
        raise _swarm.SwarmError(
            "the network %s is no overlay network of the swarm (scope %s, driver %s). Nothing was changed"
            % (name, found["scope"], found["driver"])
        )
    with engine_call("list the services"):
        users = sorted(
            service["Spec"]["Name"]
            for service in client.services()
            if any(
                attached.get("Target") in (existing["Id"], name)
                for attached in service["Spec"].get("TaskTemplate", {}).get("Networks") or []
            )
        )
    if users:
        raise _swarm.SwarmError(
            "the network %s is used by the service(s) %s. Nothing was changed. Remove them first" % (name, ", ".join(users))
        )
    if not module.check_mode:
        _remove(client, existing["Id"], name)
    return {"changed": True, "id": "", "network": {}, "diff": {"before": found, "after": {}}}


def _remove(client: Any, network_id: str, name: str) -> None:
    # Tasks of services that were just removed hold the network for some seconds.
    last: List[EngineError] = []

    def removed() -> bool:
        try:
            with engine_call("remove the network %s" % name):
                client.remove_network(network_id)
        except EngineError as error:
            last[:] = [error]
            return error.status == 404
        return True

    if not wait_until(removed, _REMOVE_SECONDS, longest=2):
        raise last[0]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "encrypted": {"type": "bool", "default": True},
            "subnet": {"type": "str"},
            "gateway": {"type": "str"},
            "mtu": {"type": "int", "default": 0},
            "path_mtu": {"type": "int", "default": 0},
            "attachable": {"type": "bool", "default": False},
            "labels": {"type": "dict", "default": {}},
            "host_routes_checked": {"type": "bool", "default": False},
            "docker_host": {"type": "str", "default": "unix:///var/run/docker.sock"},
            "engine_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    is_present = module.params["state"] == "present"
    wanted = wanted_network(module.params)
    nothing = {
        "changed": is_present,
        "id": "",
        "network": wanted if is_present else {},
        "diff": {"before": {}, "after": wanted if is_present else {}},
    }
    would = "would create the network %s" % module.params["name"] if is_present else "no network to remove"
    try:
        check_options(module.params)
    except _swarm.SwarmError as error:
        module.fail_json(msg=str(error))
    client = open_engine(module, would, nothing)
    try:
        with engine_call("read the state of the engine"):
            local = _swarm.local_state(client)
        if module.check_mode and local.state == _swarm.NONE:
            module.exit_json(msg="%s once the swarm exists" % would, **nothing)
        _swarm.require_manager(local)
        with engine_call("list the networks"):
            networks = client.networks()
        result = present(module, client, networks) if is_present else absent(module, client, networks)
    except (_swarm.SwarmError, EngineError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
