# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory of a lab, as files."""

from __future__ import annotations

import json
import os
import re
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence

from ansible_collections.hbp.mip.plugins.module_utils._lab import LabError, read_text

KEYCLOAK_PORT = 8080
GROUPS = (("master", "master"), ("ui", "ui"), ("workers", "worker"))


class File(NamedTuple):
    """One file of the inventory."""

    path: str
    text: str
    mode: int
    keep: bool


def hosts_text(lab: str, machines: Sequence[Mapping[str, Any]]) -> str:
    """The list of hosts; machines of another kind than a federation's are left out."""
    lines = ["---", "# Made by `mipfed lab up`; made anew by each of its runs.", "all:", "  children:", "    pusher:", "      hosts:"]
    lines += ["        %s-pusher:" % lab, "          ansible_connection: local"]
    lines += ['          ansible_python_interpreter: "{{ ansible_playbook_python }}"']
    for group, kind in GROUPS:
        members = [machine for machine in machines if machine["kind"] == kind]
        lines += ["    %s:" % group, "      hosts:" if members else "      hosts: {}"]
        for machine in members:
            lines += ["        %s:" % machine["name"], "          ansible_host: %s" % machine["address"]]
    return "\n".join(lines) + "\n"


def known_hosts_text(machines: Sequence[Mapping[str, Any]]) -> str:
    """The machines' host keys, as ssh reads them."""
    return "".join("%s %s\n" % (machine["address"], machine["host_key"]) for machine in machines)


def variables_text(lab: str, registry: str, engine: str, keystore: str, esp: Mapping[str, Any]) -> str:
    """The federation's variables. The overlay is unencrypted only on a kernel that cannot do better, which it says."""
    key, known = "{{ inventory_dir }}/ssh/id_ed25519", "{{ inventory_dir }}/known_hosts"
    lines = ["---", "# Made by `mipfed lab up`. Changes are kept until `mipfed lab down`.", "ansible_user: root", "ansible_become: false"]
    lines += ['ansible_ssh_private_key_file: "%s"' % key]
    lines += ['ansible_ssh_common_args: "-o UserKnownHostsFile=%s -o StrictHostKeyChecking=yes"' % known]
    lines += ["mip_lab: true", "mip_federation: %s" % lab, "mip_engine:"]
    lines += ["  image: %s" % json.dumps("%s/%s" % (registry, engine))]
    lines += ["  keystore_image: %s" % json.dumps("%s/%s" % (registry, keystore))]
    lines += ["  healthcheck_seconds: 2  # a lab is watched by somebody who waits"]
    return "\n".join(lines + network_lines(registry, esp)) + "\n"


def network_lines(registry: str, esp: Mapping[str, Any]) -> List[str]:
    """What the machines of a lab need in order to get images, and to pass data."""
    lines = ["mip_docker:", "  insecure_registries: [%s]" % json.dumps(registry), "mip_overlay:"]
    if esp["supported"]:
        lines += ["  encrypted: true"]
    else:
        reason = re.sub(r"\s+", " ", str(esp["reason"])).strip().rstrip(".")
        lines += ["  # This host's kernel cannot do IPsec ESP (%s): an encrypted overlay would carry nothing." % reason]
        lines += ["  encrypted: false"]
    return lines


def bare_text(lab: str, registry: str, images: Sequence[str], esp: Mapping[str, Any]) -> str:
    """What the inventory of a lab's bare machines needs besides what `mipfed init` asks for."""
    lines = ["---", "# Made by `mipfed lab up --bare`, for: mipfed init %s --variables THIS_FILE" % lab]
    lines += ["# Images: %s/%s and %s/%s" % (registry, images[0], registry, images[1]), "mip_lab: true"]
    return "\n".join(lines + network_lines(registry, esp)) + "\n"


def keycloak_text(machines: Sequence[Mapping[str, Any]]) -> str:
    """The variables of the lab's Keycloak; empty when it has none."""
    server = next((machine["address"] for machine in machines if machine["kind"] == "keycloak"), "")
    if not server:
        return ""
    portals = ["http://%s/" % machine["address"] for machine in machines if machine["kind"] == "ui"]
    back = [portal + path for portal in portals for path in ("services/sso/login", "services/login/oauth2/code/keycloak")]
    lines = ["---", "# Made by `mipfed lab up --with keycloak`; made anew by each of its runs.", "mip_keycloak:"]
    lines += ["  url: http://%s:%d" % (server, KEYCLOAK_PORT), "  realm: MIP"]
    lines += ["  redirect_uris: %s" % json.dumps(back), "  post_logout_redirect_uris: %s" % json.dumps(portals)]
    return "\n".join(lines) + "\n"


def files(
    lab: Mapping[str, Any], machines: Sequence[Mapping[str, Any]], registry: str, images: Sequence[str], esp: Mapping[str, Any]
) -> List[File]:
    """Every file of a lab's inventory. ``images`` are the engine's and the keystore's, without the registry."""
    late = [machine["name"] for machine in machines if not machine["host_key"]]
    if late:
        raise LabError("no SSH host key is known of %s; `mipfed lab up` makes it" % ", ".join(late))
    private = str(lab["ssh_private_key_file"])
    keycloak = keycloak_text(machines)
    more = [File("group_vars/all/keycloak.yml", keycloak, 0o644, False)] if keycloak else []
    return [
        File("hosts.yml", hosts_text(str(lab["name"]), machines), 0o644, False),
        File("known_hosts", known_hosts_text(machines), 0o644, False),
        File("ssh/id_ed25519", read_text(private), 0o600, False),
        File("ssh/id_ed25519.pub", read_text(private + ".pub"), 0o644, False),
        File("group_vars/all/main.yml", variables_text(str(lab["name"]), registry, images[0], images[1], esp), 0o644, True),
        *more,
    ]


def belongs(directory: str, registry: str) -> bool:
    """Whether the variables there are those of this lab's network, so that the operator's changes in them are kept."""
    return registry in read_text(os.path.join(directory, "group_vars/all/main.yml"))


def is_lab(directory: str) -> bool:
    """Whether the folder is the inventory of a lab, and may be removed."""
    text = read_text(os.path.join(directory, "group_vars/all/main.yml"))
    return bool(re.search(r"^mip_lab: *(true|yes)\s*(#.*)?$", text, re.MULTILINE | re.IGNORECASE))


def before_after(directory: str, wanted: Sequence[File]) -> Dict[str, str]:
    """Both states as text for a diff; private keys are not shown."""
    before, after = [], []
    for file in wanted:
        if file.path.endswith("id_ed25519"):
            continue
        before.append("# %s\n%s" % (file.path, read_text(os.path.join(directory, file.path))))
        after.append("# %s\n%s" % (file.path, file.text))
    return {"before": "\n".join(before), "after": "\n".join(after)}
