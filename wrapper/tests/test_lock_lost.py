# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The federation's lock on several managers, of which one cannot be reached: by real runs of Ansible."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mipfed import paths

# Nothing listens on port 1.
INVENTORY = """\
all:
  hosts:
    here: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
    lost: {ansible_host: 127.0.0.1, ansible_port: 1}
"""
PLAYBOOK = """\
- name: Take and release the lock
  hosts: here
  gather_facts: false
  any_errors_fatal: true
  tasks:
    - name: Do it on each of the managers
      hbp.mip.federation_lock:
        federation: hospitals
        directory: "{{ inventory_dir }}/locks"
        state: "{{ 'released' if manager == 'here' else 'acquired' }}"
      delegate_to: "{{ manager }}"
      loop: [lost, here]
      loop_control: {loop_var: manager}
      ignore_unreachable: IGNORED
      failed_when: false
- name: Report
  hosts: here
  gather_facts: false
  tasks:
    - name: Report
      ansible.builtin.debug: {msg: all was done}
"""


@pytest.mark.parametrize("ignored", [True, False])
def test_a_lost_manager_ends_a_run_only_where_it_is_not_ignored(tmp_path: Path, ignored: bool) -> None:
    (tmp_path / "hosts.yml").write_text(INVENTORY)
    (tmp_path / "play.yml").write_text(PLAYBOOK.replace("IGNORED", str(ignored).lower()))
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(paths.collections_dir()), "ANSIBLE_LOCALHOST_WARNING": "False"}
    program = Path(sys.executable).with_name("ansible-playbook")
    done = subprocess.run(
        [program, "-i", tmp_path / "hosts.yml", tmp_path / "play.yml"],
        capture_output=True, text=True, check=False, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert ("all was done" in done.stdout) is ignored, done.stdout + done.stderr
    assert (done.returncode == 0) is ignored, done.stdout + done.stderr
    assert ("UNREACHABLE" in done.stdout) is not ignored
