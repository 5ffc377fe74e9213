#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: site_command
short_description: Installs the hospital's own command, mip-site
version_added: 0.4.0
author: The hbp.mip authors (@HBPMedical)
description:
  - Writes C(/usr/local/sbin/mip-site) and C(/etc/mip/site.json), which tells it who the others are, where they differ from what is wanted;
    both belong to root. Then it has the command write into the host's journal that this was done.
  - The files are written beside and renamed, the configuration last. A run that was cut off leaves each as it was or as it is wanted, and
    the next one does the rest.
  - The paths are no options, because the command itself looks there.
attributes:
  check_mode:
    description: Compares, and writes nothing.
    support: full
  diff_mode:
    description: Shows the configuration before and after; of the program its SHA-256.
    support: full
  idempotent:
    description: A second run changes nothing, and writes nothing into the journal.
    support: full
options:
  command:
    description: The text of the program, with C(#!) in its first line. Without it the program that is installed stays.
    type: str
  config:
    description: The text of the configuration, a JSON object. Without it the one that is there stays.
    type: str
  who:
    description: Who changes it, for the host's journal.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Install the hospital's own command
  hbp.mip.site_command:
    command: "{{ '#!/usr/bin/python3\n' ~ lookup('ansible.builtin.file', 'mip-site', rstrip=false) }}"
    config: "{{ site | to_nice_json }}"
    who: mipfed deploy by alice on pusher

- name: Tell it who the others are
  hbp.mip.site_command:
    config: "{{ site | to_nice_json }}"
    who: mipfed node add by alice on pusher
"""

RETURN = r"""
written:
  description: What differed and was written, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [/usr/local/sbin/mip-site, /etc/mip, /etc/mip/site.json]
recorded:
  description:
    - What the journal's entry says was done, or would say in check mode. V(setup) when the host had no configuration, else V(deploy).
    - Empty when nothing differed.
  returned: success
  type: str
mip_error:
  description: The word V(site-command).
  returned: when the command cannot be installed, or cannot write into the journal
  type: str
next:
  description: What to run on the host then; may be empty.
  returned: when the command cannot be installed, or cannot write into the journal
  type: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _site


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "command": {"type": "str"},
            "config": {"type": "str"},
            "who": {"type": "str", "required": True},
        },
        required_one_of=[("command", "config")],
        supports_check_mode=True,
    )
    changed = False
    try:
        parts = _site.compare(module.params["command"], module.params["config"])
        occasion = _site.occasion() if parts else ""
        result: dict[str, Any] = {"written": [part.path for part in parts], "recorded": occasion}
        if parts:
            result["diff"] = _site.differences(parts)
        if parts and not module.check_mode:
            _site.write(parts)
            changed = True
            _site.record(occasion, module.params["who"])
    except _site.SiteError as error:
        module.fail_json(msg=str(error), mip_error="site-command", next=error.fix, changed=changed)
    module.exit_json(changed=bool(parts), **result)


if __name__ == "__main__":
    main()
