# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to hbp.mip and mipfed: an inventory's variables resolved into one validated federation.

The schema is the argument specification of the role ``federation``: there is no second list of names, types or defaults.
"""

from __future__ import annotations

import difflib
import functools
import ipaddress
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.hbp.mip.plugins.plugin_utils import _backup_values, _keycloak_values, _ldsm, _portal

#: Inventory groups that hold nodes of the federation, with the kind of node each stands for.
KINDS = {"master": "master", "ui": "ui", "workers": "worker"}
NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
#: Variables whose values never leave the inventory; the result only tells whether they are there.
SECRETS = frozenset({"mip_first_password", *_keycloak_values.SECRETS})
#: Variables of a host that are read besides ``mip_*``.
CONNECTION = frozenset({"ansible_connection", "ansible_host", "ansible_port"})


class FederationError(Exception):
    """The inventory cannot be used. ``errors`` holds every reason, in the order of the inventory."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = list(errors)


@functools.lru_cache(maxsize=1)
def schema() -> dict[str, dict[str, Any]]:
    """Return the options of a federation (key ``main``) and of a node (key ``node``), as argument specifications."""
    path = Path(__file__).parents[2] / "roles" / "federation" / "meta" / "argument_specs.yml"
    specs = yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]
    return {entry: _with_defaults(specs[entry]["options"]) for entry in ("main", "node")}


def _with_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options so that a dictionary that is not given still gets the defaults of what is in it."""
    result = {}
    for name, option in options.items():
        if option.get("options"):
            option = {**option, "options": _with_defaults(option["options"]), "apply_defaults": not option.get("required", False)}
        result[name] = option
    return result


def _suggest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(sorted(known))}"


def _unknown_keys(value: Any, options: Mapping[str, Any], path: str) -> list[str]:
    """List the keys of nested dictionaries that the specification does not have."""
    errors = []
    if isinstance(value, Mapping):
        for key, inner in value.items():
            spec = options.get(str(key))
            if spec is None:
                errors.append(f"{path}: unknown key {key!r}{_suggest(str(key), list(options))}")
            elif spec.get("options"):
                errors += _unknown_keys(inner, spec["options"], f"{path}.{key}")
    return errors


def _validate(values: Mapping[str, Any], spec: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Apply types and defaults; return the validated values and what is wrong."""
    result = ArgumentSpecValidator(dict(spec)).validate(dict(values))
    return result.validated_parameters, list(result.error_messages)


def _network(text: str, where: str, errors: list[str]) -> ipaddress.IPv4Network | None:
    try:
        return ipaddress.IPv4Network(text)
    except ValueError as error:
        errors.append(f"{where}: {text!r} is not an IPv4 network ({error})")
        return None


def _structure(groups: Mapping[str, Sequence[str]]) -> tuple[dict[str, str], list[str]]:
    """Return the kind of each node, and what is wrong with the groups."""
    errors: list[str] = []
    kinds: dict[str, str] = {}
    masters = list(groups.get("master", ()))
    if not masters:
        errors.append("group master: it has no host; a federation has exactly one master. Add it to hosts.yml under `master`")
    elif len(masters) > 1:
        errors.append(
            f"group master: it has {len(masters)} hosts ({', '.join(masters)}); a federation has exactly one master. "
            "For further swarm managers set mip_swarm_manager: true on any host"
        )
    if not groups.get("workers"):
        errors.append("group workers: it has no host; a federation needs at least one worker")
    for group, kind in KINDS.items():
        for name in groups.get(group, ()):
            if name in kinds:
                errors.append(f"host {name}: it is {kinds[name]} and also {kind}; a host is one kind of node. Remove it from one group")
            else:
                kinds[name] = kind
    for name in kinds:
        if not NAME.fullmatch(name):
            errors.append(
                f"host {name}: not a node name; use lower-case letters, digits and hyphens, a letter first, at most 63 characters, no dots"
            )
    return kinds, errors


def _shared_values(hosts: Sequence[str], hostvars: Mapping[str, Mapping[str, Any]], errors: list[str]) -> dict[str, Any]:
    """Collect the federation-wide variables; a host that says otherwise than the others is an error."""
    spec = schema()
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    reported: set[str] = set()
    for host in hosts:
        for key, value in hostvars.get(host, {}).items():
            if not key.startswith("mip_") or key in spec["node"]:
                continue
            if key not in spec["main"]:
                if key not in reported:
                    reported.add(key)
                    errors.append(f"variable {key} (host {host}): unknown{_suggest(key, [*spec['main'], *spec['node']])}")
            elif key not in values:
                values[key], origin[key] = value, host
            elif values[key] != value:
                errors.append(f"variable {key}: host {host} says otherwise than host {origin[key]}; it belongs to the whole federation")
    return values


def _node(name: str, kind: str, variables: Mapping[str, Any], errors: list[str]) -> dict[str, Any]:
    spec = schema()["node"]
    given = {k: (bool(v) and "given" if k in SECRETS else v) for k, v in variables.items() if k in spec}
    values, wrong = _validate({k: v for k, v in given.items() if v is not None}, spec)
    errors += [f"host {name}: {message}" for message in wrong]
    address = str(values.get("mip_address") or variables.get("ansible_host") or "")
    try:
        address = str(ipaddress.IPv4Address(address))
    except ValueError:
        found = f"{address!r} is not an IPv4 address" if address else "it has no address"
        errors.append(f"host {name}: {found}; set mip_address (or ansible_host) to its static IPv4 address in the federation")
    fingerprint = values.get("mip_host_key")
    if fingerprint and not FINGERPRINT.fullmatch(str(fingerprint)):
        errors.append(
            f"host {name}: mip_host_key is no SHA256 fingerprint; `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the host prints it"
        )
    manager = kind == "master" or bool(values.get("mip_swarm_manager"))
    if manager and kind == "ui":
        errors.append(f"host {name}: mip_swarm_manager is set, but the ui node is no member of the swarm")
    disabled = variables.get("mip_disabled") or {}
    if disabled and kind == "master":
        errors.append(f"host {name}: mip_disabled is set, but nothing works without the master")
    if disabled and not (isinstance(disabled, Mapping) and disabled.get("reason")):
        errors.append(f"host {name}: mip_disabled needs a reason; `mipfed node disable {name} --reason TEXT` writes it")
    site_kit = str(values.get("mip_site_kit") or "")
    if site_kit and (kind != "worker" or manager):
        errors.append(f"host {name}: mip_site_kit is set, but a site kit makes workers that are no swarm managers")
    if site_kit == "invited" and disabled:
        errors.append(f"host {name}: mip_disabled is set, but it has not joined yet; `mipfed node remove {name}` ends its kit")
    return {
        "name": name,
        "kind": kind,
        "site_kit": site_kit,
        "disabled": dict(values["mip_disabled"]) if disabled and values.get("mip_disabled") else {},
        "address": address,
        "ldsm": _ldsm.data_store(name, kind, values.get("mip_ldsm"), address, errors),
        "manager": manager,
        "backup_data": bool(values.get("mip_backup_data")),
        "ssh_host": "" if site_kit or variables.get("ansible_connection") == "local" else str(variables.get("ansible_host") or address),
        "ssh_port": int(variables.get("ansible_port") or 22),
        "host_key": fingerprint or "",
        "image_source": str(values.get("mip_image_source") or "registry"),
        "first_password": bool(values.get("mip_first_password")),
    }


def _check_addresses(nodes: Sequence[Mapping[str, Any]], errors: list[str]) -> None:
    seen: dict[str, str] = {}
    for node in nodes:
        other = seen.setdefault(node["address"], node["name"])
        if node["address"] and other != node["name"]:
            errors.append(f"host {node['name']}: address {node['address']} is also that of host {other}; every node has its own")


def _check_values(config: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]], errors: list[str]) -> None:
    """Rules that a type cannot express."""
    lab = config["mip_lab"]
    overlay, engine, swarm, expose = (config[f"mip_{part}"] for part in ("overlay", "engine", "swarm", "expose"))
    subnet = _network(overlay["subnet"], "mip_overlay.subnet", errors)
    if subnet and subnet.num_addresses < 2 * len(nodes) + 4:
        errors.append(f"mip_overlay.subnet: {subnet} is too small for {len(nodes)} nodes")
    for node in nodes:
        try:
            inside = subnet and ipaddress.IPv4Address(node["address"]) in subnet
        except ValueError:
            continue
        if inside:
            errors.append(f"mip_overlay.subnet: {subnet} contains {node['address']}, the address of host {node['name']}")
    if overlay["mtu"] and not 576 <= overlay["mtu"] <= 65535:
        errors.append(f"mip_overlay.mtu: {overlay['mtu']} is not between 576 and 65535 (0 leaves the engine's default)")
    if not overlay["encrypted"] and not lab:
        errors.append("mip_overlay.encrypted: false is for labs; a federation with patients' data is always encrypted. Remove the line")
    if engine["environment_type"] == "TEST" and not lab:
        errors.append("mip_engine.environment_type: TEST switches the privacy minimum off and is for labs. Use PROD")
    for key in ("image", "keystore_image"):
        image = str(engine[key])
        last = image.rsplit("/", 1)[-1]
        if not re.fullmatch(r"[a-z0-9][\w.:/@-]*", image) or (":" not in last and "@" not in last):
            errors.append(
                f"mip_engine.{key}: {image!r} names no version; write repository:tag or repository@sha256:…, never latest by default"
            )
    for pool in swarm["address_pools"]:
        _network(pool, "mip_swarm.address_pools", errors)
    if not 1024 <= swarm["data_path_port"] <= 49151:
        errors.append(f"mip_swarm.data_path_port: {swarm['data_path_port']} is not between 1024 and 49151")
    firewall = config["mip_firewall"]
    for key in ("engine_allow", "controllers", "ipsec_others"):
        for entry in firewall[key]:
            network = _network(entry, f"mip_firewall.{key}", errors)
            if network and network.prefixlen == 0:
                errors.append(f"mip_firewall.{key}: {entry} is everyone; name the addresses")
    if firewall["rollback_seconds"] < 20:
        errors.append(f"mip_firewall.rollback_seconds: {firewall['rollback_seconds']} is too short to come back in; use 20 or more")
    for where, allowed in (("keystore", expose["keystore"]), ("portainer.allow", expose["portainer"]["allow"])):
        for entry in allowed:
            network = _network(entry, f"mip_expose.{where}", errors)
            if network and network.prefixlen == 0:
                errors.append(f"mip_expose.{where}: {entry} is everyone; name the administrators' addresses")
    portainer = expose["portainer"]
    if (expose["keystore"] or portainer["allow"]) and not firewall["manage"]:
        errors.append(
            "mip_expose: what it opens is guarded by the firewall, and mip_firewall.manage is false. Set it to true, or expose nothing"
        )
    if portainer["allow"] and not (portainer["certificate"] and portainer["key"]):
        errors.append("mip_expose.portainer: it is served with TLS only; set certificate and key to PEM files on the master")
    catalogue = config["mip_data"]["catalogue"]
    if catalogue["timeout_seconds"] <= 0 or catalogue["retries"] < 0:
        errors.append("mip_data.catalogue: timeout_seconds must be more than 0, and retries 0 or more")
    errors.extend(_backup_values.wrong(config["mip_backup"]))
    errors.extend(_keycloak_values.wrong(config["mip_keycloak"], lab))
    errors.extend(_portal.wrong(config["mip_ui"], config["mip_keycloak"]))
    if not str(config["mip_data_root"]).startswith("/"):
        errors.append(f"mip_data_root: {config['mip_data_root']!r} is not an absolute path")


def resolve(inventory_name: str, groups: Mapping[str, Sequence[str]], hostvars: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Resolve an inventory into the federation it describes.

    :arg inventory_name: name of the inventory directory, the default of ``mip_federation``.
    :arg groups: host names by inventory group; ``master``, ``ui`` and ``workers`` are read.
    :arg hostvars: variables by host name, templates already rendered.
    :returns: ``name``, ``data_dir``, ``portal_dir`` (where the ui node keeps what the portal reads), ``lab``, one key per ``mip_*``
        dictionary without its prefix, and ``nodes``, a list of ``{name, kind, address, manager, ssh_host, ssh_port, host_key,
        image_source, first_password}`` in the order master, ui, workers; ``ssh_host`` is empty for a node that is reached without SSH.
    :raises FederationError: with everything that is wrong, not only the first thing.
    """
    kinds, errors = _structure(groups)
    shared = _shared_values(list(kinds), hostvars, errors)
    for key, value in shared.items():
        options = schema()["main"][key].get("options")
        if options:
            errors += _unknown_keys(value, options, key)
    nodes = [_node(name, kind, hostvars.get(name, {}), errors) for name, kind in kinds.items()]
    _check_addresses(nodes, errors)
    if errors:
        raise FederationError(errors)
    config, wrong = _validate(shared, schema()["main"])
    if wrong:
        raise FederationError(wrong)
    name = str(config.get("mip_federation") or inventory_name)
    if not NAME.fullmatch(name):
        errors.append(f"mip_federation: {name!r} is not a name; use lower-case letters, digits and hyphens, a letter first")
    _check_values(config, nodes, errors)
    if errors:
        raise FederationError(errors)
    managers = sum(node["manager"] for node in nodes)
    resolved = {key.removeprefix("mip_"): value for key, value in config.items() if key != "mip_federation" and key not in SECRETS}
    resolved["keycloak"] = _keycloak_values.resolved(config["mip_keycloak"], name, shared)
    # Whoever works on `nodes` reaches them over SSH; a hospital that joined with a site kit gives no access.
    disabled = [node for node in nodes if node["disabled"]]
    kits = [{key: value for key, value in node.items() if key != "disabled"} for node in nodes if node["site_kit"] and not node["disabled"]]
    nodes = [{key: value for key, value in node.items() if key != "site_kit"} for node in nodes if not node["site_kit"]]
    nodes = [{key: value for key, value in node.items() if key != "disabled"} for node in nodes if not node["disabled"]]
    return {
        **resolved,
        "name": name,
        "data_dir": f"{str(config['mip_data_root']).rstrip('/')}/{name}",
        "portal_dir": f"/var/lib/mip/{name}/portal",
        "nodes": nodes,
        "disabled": disabled,
        "kits": kits,
        "warnings": []
        if managers % 2
        else [f"{managers} swarm managers: an even number tolerates no more failures than {managers - 1}; use an odd number"],
    }
