#!/usr/bin/python

# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: report
short_description: Judge what was collected from the nodes
version_added: 0.1.0
description:
  - Turns the results of the nodes into one report, with every problem, its node and the next thing to do, and fails if there is one.
  - It runs on the controller only.
author:
  - The hbp.mip authors (@HBPMedical)
attributes:
  check_mode:
    support: full
    description: Never changes anything.
  diff_mode:
    support: none
    description: There is nothing to compare.
  idempotent:
    support: full
    description: The same data gives the same report.
options:
  verb:
    description: Which report.
    type: str
    required: true
    choices:
      - adopt
      - backup
      - check
      - compile
      - consolidate
      - contact
      - data
      - experiments
      - firewall
      - keycloak
      - kit
      - lock
      - move
      - node
      - portal_restore
      - recover
      - restore
      - services
      - status
      - token
      - ui
      - unlock
      - verify
  federation:
    description: The resolved federation, as M(hbp.mip.federation) returns it.
    type: dict
    required: true
  data:
    description: What was collected; its keys depend on O(verb).
    type: dict
    required: true
  stop:
    description: Fail if there are problems.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: "Report: check"
  hbp.mip.report:
    verb: check
    federation: "{{ mip }}"
    data:
      nodes: "{{ dict(ansible_play_hosts | zip(ansible_play_hosts | map('extract', hostvars, 'common_check'))) }}"
  run_once: true
"""

RETURN = r"""
mip_report:
  description: The report.
  returned: always
  type: dict
  contains:
    verb:
      description: Which report.
      type: str
    schema:
      description: Version of its shape.
      type: int
    data:
      description: The report itself; C(problems) is in all of them.
      type: dict
mip_error:
  description: What kind of failure it is.
  returned: failure
  type: str
"""
