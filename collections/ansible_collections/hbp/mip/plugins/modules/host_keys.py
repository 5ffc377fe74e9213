#!/usr/bin/python

# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_keys
short_description: Pin the SSH host keys of a federation's nodes
version_added: 0.1.0
description:
  - Makes sure that every node has a pinned host key in the federation's own C(known_hosts) file, before anything connects to it.
  - A node without one is asked for its key. The key is pinned only if its fingerprint is the one that the inventory gives.
    Otherwise the module fails and names the fingerprint that was shown, so that a person can compare it.
  - A key that is pinned is never replaced.
author:
  - The hbp.mip authors (@HBPMedical)
attributes:
  check_mode:
    support: full
    description: Asks the nodes, writes nothing.
  diff_mode:
    support: full
    description: Shows the fingerprints that are added.
  idempotent:
    support: full
    description: Nothing is asked of nodes that are pinned.
options:
  path:
    description: The C(known_hosts) file.
    type: path
    required: true
  nodes:
    description: The nodes.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Inventory name, for messages.
        type: str
        required: true
      host:
        description: Name or address that SSH connects to.
        type: str
        required: true
      port:
        description: Port that SSH connects to.
        type: int
        default: 22
      fingerprint:
        description: Fingerprint that is expected, C(SHA256:…). Empty if none is known.
        type: str
        default: ""
  timeout:
    description: How long to wait for a node, in seconds.
    type: int
    default: 5
"""

EXAMPLES = r"""
- name: Pin the host keys
  hbp.mip.host_keys:
    path: "{{ inventory_dir }}/known_hosts"
    nodes:
      - name: hospital-a
        host: 192.0.2.10
        fingerprint: SHA256:AAAAC3NzaC1lZDI1NTE5AAAAIJxyzAAAAAAAAAAAAAA
  delegate_to: localhost
"""

RETURN = r"""
pinned:
  description: Names of the nodes whose key was added.
  returned: always
  type: list
  elements: str
unknown:
  description: Nodes whose key was not added, with the reason.
  returned: failure
  type: list
  elements: dict
  contains:
    name:
      description: Name of the node.
      type: str
    fingerprint:
      description: What it showed; empty if it did not answer.
      type: str
    reason:
      description: Why it is not pinned.
      type: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils._host_keys import HostKeyError, fingerprint, pin, pinned, scan_all


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "nodes": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "host": {"type": "str", "required": True},
                    "port": {"type": "int", "default": 22},
                    "fingerprint": {"type": "str", "default": ""},
                },
            },
            "timeout": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    path: str = module.params["path"]
    nodes: list[dict[str, Any]] = module.params["nodes"]
    hosts = [(node["host"], node["port"]) for node in nodes]
    known = pinned(path, hosts)
    missing = [node for node in nodes if not known[(node["host"], node["port"])]]
    shown = scan_all([(node["host"], node["port"]) for node in missing], module.params["timeout"])
    added, unknown = {}, []
    for node in missing:
        host = (node["host"], node["port"])
        keys = shown[host]
        if isinstance(keys, HostKeyError):
            unknown.append({"name": node["name"], "fingerprint": "", "reason": str(keys)})
            continue
        prints = {fingerprint(key): (kind, key) for kind, key in keys}
        if node["fingerprint"] in prints:
            added[host] = [prints[node["fingerprint"]]]
        else:
            first = next(iter(prints))
            reason = f"shows {first}, but the inventory promises {node['fingerprint']}" if node["fingerprint"] else f"shows {first}"
            unknown.append({"name": node["name"], "fingerprint": first, "reason": reason})
    names = [node["name"] for node in missing if (node["host"], node["port"]) in added]
    if added and not module.check_mode:
        pin(path, added)
    if unknown:
        reasons = "\n".join(f"  - {entry['name']}: {entry['reason']}" for entry in unknown)
        module.fail_json(
            msg=f"{path} has no host key of these nodes:\n{reasons}\n"
            "Compare the fingerprints with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on each node, "
            "then run `mipfed trust`, or set mip_host_key.",
            mip_error="configuration",
            pinned=names,
            unknown=unknown,
        )
    after = "".join(f"{node['name']} {node['fingerprint']}\n" for node in missing if node["name"] in names)
    module.exit_json(changed=bool(names), pinned=names, diff={"before": "", "after": after, "before_header": path, "after_header": path})


if __name__ == "__main__":
    main()
