# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """Options of the modules that speak to a Keycloak server."""

    DOCUMENTATION = r"""
options:
  url:
    description:
      - Address of the Keycloak server, with its path if it has one, for example C(https://iam.example.org) or, for an old one,
        C(https://iam.example.org/auth).
    type: str
    required: true
  realm:
    description: The realm.
    type: str
    required: true
  ca_file:
    description:
      - Certificates in PEM form of the authorities that may have signed the server's certificate, on this host.
    type: path
  timeout:
    description: Seconds that one request may take.
    type: int
    default: 30
requirements:
  - python-keycloak >= 7.1
"""
