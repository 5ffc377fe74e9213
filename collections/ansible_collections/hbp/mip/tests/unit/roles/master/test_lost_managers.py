# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A manager that cannot be reached stops nobody: the lock is taken on most of them, and another one does the work.

The plays are fatal for all hosts when one fails, as those of the commands are.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

COLLECTIONS = Path(__file__).parents[7]
#: Nothing listens on port 1.
INVENTORY = {
    "all": {
        "hosts": {
            "ms": {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_connection": "ssh"},
            "a": {"ansible_connection": "local"},
            "b": {"ansible_connection": "local"},
        },
        "vars": {"ansible_python_interpreter": sys.executable},
    }
}
FEDERATION = {"name": "hosp", "nodes": [{"name": name, "manager": True} for name in ("ms", "a", "b")]}
PLAYBOOK = """\
- hosts: a:b
  gather_facts: false
  any_errors_fatal: true
  module_defaults:
    hbp.mip.federation_lock:
      directory: "{{ playbook_dir }}/locks"
  vars:
    master_federation: "{{ federation }}"
  tasks:
    - when: inventory_hostname == 'a'
      block:
        - ansible.builtin.include_role: {name: hbp.mip.master, tasks_from: lock, rolespec_validate: false}
        - ansible.builtin.debug: {msg: "locked on {{ master_locked | join(' and ') }}"}
        - ansible.builtin.include_role: {name: hbp.mip.managers, rolespec_validate: false}
          vars:
            managers_federation: "{{ federation }}"
            managers_hosts: [ms, b]
            managers_role: probe
            managers_tasks: main
            managers_result: probe_done
      always:
        - ansible.builtin.include_role: {name: hbp.mip.master, tasks_from: unlock, rolespec_validate: false}
        - hbp.mip.federation_lock: {state: shown, federation: hosp}
          register: left
        - ansible.builtin.debug: {msg: "held afterwards {{ left.held }}"}
    - ansible.builtin.debug: {msg: "{{ inventory_hostname }} goes on"}
"""
PROBE = """\
- ansible.builtin.ping: {data: "{{ managers_host }} did it"}
  register: probe_done
- ansible.builtin.debug: {msg: "{{ probe_done.ping | default('nobody yet') }}"}
"""


def test_a_manager_that_is_away_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(INVENTORY))
    (tmp_path / "play.yml").write_text(PLAYBOOK)
    probe = tmp_path / "roles/probe/tasks/main.yml"
    probe.parent.mkdir(parents=True)
    probe.write_text(PROBE)
    command = ["ansible-playbook", "-i", "hosts.yml", "play.yml", "-e", yaml.safe_dump({"federation": FEDERATION}, default_flow_style=True)]
    environment = {
        **os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300)
    said = done.stdout
    assert done.returncode == 0, said + done.stderr
    for words in ("locked on a and b", "nobody yet", "b did it", "held afterwards False", "a goes on", "b goes on"):
        assert f'"msg": "{words}"' in said, said
