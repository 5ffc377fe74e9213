# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A service of a host that its containers reach over their way out, and nobody else by us."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _firewall, _store


def settings(**more: Any) -> _firewall.Settings:
    return _firewall.settings({"name": "brain", "kind": "worker", "address": "192.0.2.3", "peers": [], **more})


def test_it_is_opened_to_the_bridge_only() -> None:
    wanted = settings(from_containers=[5432])
    (rule,) = [rule for rule in _firewall.rules(wanted) if rule.port == 5432]
    assert (rule.proto, rule.sources, rule.peers, rule.interface) == ("tcp", (), False, "docker_gwbridge")
    (described, rule_text), = [item for item in _firewall.ufw_rules(wanted) if "5432" in item[0]]  # fmt: skip
    # as ufw itself writes `ufw allow in on docker_gwbridge to any port 5432 proto tcp comment ...`
    assert rule_text == "-A ufw-user-input -i docker_gwbridge -p tcp --dport 5432 -j ACCEPT"
    prefix, _space, comment = described.rpartition(" comment=")
    assert prefix == "### tuple ### allow tcp 5432 0.0.0.0/0 any 0.0.0.0/0 in_docker_gwbridge"
    assert bytes.fromhex(comment).decode() == "mip brain: the local data store, for the engine"
    assert 'iifname "docker_gwbridge" tcp dport 5432 accept' in _firewall.requests(wanted)
    # The guard and firewalld's rules do not know it: others keep what the hospital gave them.
    assert "5432" not in _firewall.guard(wanted)
    assert not any("5432" in line for line in _firewall.firewalld_rich_rules(wanted))
    assert _firewall.blocked(wanted, 5432, "203.0.113.9") == ""


def test_reports_and_records_have_it() -> None:
    wanted = settings(from_containers=[5432, 5432, 80])
    assert wanted.from_containers == (80, 5432)
    assert _firewall.settings(_firewall.to_json(wanted)) == wanted
    (entry,) = [entry for entry in _firewall.report(wanted, "ufw") if entry["port"] == 5432]
    assert entry["action"] == "allow" and entry["from"] == ["containers on this host (docker_gwbridge)"]
    assert any(line.startswith("allow 5432/tcp from docker_gwbridge") for line in _firewall.lines(wanted, "ufw"))
    # What an earlier version recorded has no such key.
    record = _firewall.to_json(settings())
    del record["from_containers"]
    assert _firewall.settings(record).from_containers == ()


def test_a_port_that_cannot_be() -> None:
    with pytest.raises(_firewall.ConfigError, match="from_containers: 0 is not a port"):
        settings(from_containers=[0])


def test_where_a_service_is() -> None:
    assert _store.is_here("127.0.0.1") and _store.is_here("localhost")
    assert not _store.is_here("192.0.2.77") and not _store.is_here("no-such-host.invalid")
