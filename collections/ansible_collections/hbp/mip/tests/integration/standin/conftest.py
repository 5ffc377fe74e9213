# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A federation of the stand-in engine for all tests here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.hbp.mip.plugins.module_utils._lab_seed import Dataset, plan
from ansible_collections.hbp.mip.tests.helpers.standin import PATHOLOGIES, SEED, ConsulError, Federation, consul_program


@pytest.fixture(scope="session")
def consul() -> Path:
    """The real Consul."""
    try:
        return consul_program()
    except ConsulError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def seeded() -> list[Dataset]:
    """The datasets of two hospitals. The second one has a pilot of fewer than ten rows."""
    return plan([1, 2], PATHOLOGIES, SEED)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, consul: Path, seeded: list[Dataset]) -> Iterator[Federation]:
    """A complete federation. A test that breaks something must leave it complete."""
    made = Federation(tmp_path_factory.mktemp("federation"), consul, seeded)
    try:
        made.start()
        yield made
    finally:
        made.stop()
