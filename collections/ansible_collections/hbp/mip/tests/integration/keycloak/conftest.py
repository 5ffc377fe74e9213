# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One real Keycloak for all tests here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ansible_collections.hbp.mip.tests.helpers.keycloak import Keycloak, Realm


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keycloak]:
    """The server."""
    made = Keycloak(tmp_path_factory.mktemp("keycloak"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def realm(server: Keycloak) -> Realm:
    """A realm of the test's own."""
    return Realm.make(server)
