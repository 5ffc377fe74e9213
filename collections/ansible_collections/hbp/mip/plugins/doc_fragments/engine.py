# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Documentation shared by the modules that talk to the Docker engine of their host."""

from __future__ import annotations


class ModuleDocFragment:
    """Options and requirements of every module that uses C(module_utils/_engine.py)."""

    DOCUMENTATION = r"""
options:
  docker_host:
    description:
      - Where the engine of this host listens, as C(unix:///path) or C(tcp://address:port).
    type: str
    default: unix:///var/run/docker.sock
  engine_timeout:
    description:
      - Seconds one request to the engine may take.
      - A manager whose swarm has lost its quorum needs up to 40 seconds to say so.
    type: int
    default: 60
requirements:
  - Docker Engine 20.10 or later
  - the Docker SDK for Python, 4.1 or later (Debian and Ubuntu package C(python3-docker))
notes:
  - Must run as a user who may use the engine's socket, in practice as root.
  - In check mode on a host without Docker or its SDK the module answers what it would do once Docker is installed, instead of failing.
"""
