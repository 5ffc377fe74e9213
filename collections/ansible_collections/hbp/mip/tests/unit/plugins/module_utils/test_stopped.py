# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is remembered of services that were stopped on purpose."""

from __future__ import annotations

from typing import Any

from ansible_collections.hbp.mip.plugins.module_utils import _services, _stopped

NOW, LATER = "2026-11-22T10:00:00Z", "2026-11-23T10:00:00Z"


def spec(replicas: int = 1, **labels: str) -> dict[str, Any]:
    return {
        "Name": "wk-1_exareme",
        "Labels": {_services.PROJECT_LABEL: "lab", **labels},
        "Mode": {"Replicated": {"Replicas": replicas}},
        "TaskTemplate": {"ContainerSpec": {"Image": "engine:1.0"}},
    }


def test_stop_and_start_lead_back_to_the_same() -> None:
    before = spec()
    stopped = _stopped.stopped(before, NOW, "power cut")
    assert _services.replicas_of(stopped) == 0
    assert (_stopped.since(stopped), _stopped.reason(stopped)) == (NOW, "power cut")
    assert _stopped.told(stopped) == f"stopped on purpose since {NOW}: power cut"
    assert _stopped.started(stopped) == before
    assert _stopped.since(before) == ""
    assert _stopped.told(before) == ""


def test_a_second_stop_keeps_the_time_and_the_number_of_tasks() -> None:
    first = _stopped.stopped(spec(2), NOW, "power cut")
    second = _stopped.stopped(first, LATER, "")
    assert second == first
    assert _stopped.reason(_stopped.stopped(first, LATER, "new cables")) == "new cables"
    assert _services.replicas_of(_stopped.started(second)) == 2


def test_what_somebody_else_scaled_to_nothing_is_started_with_one_task() -> None:
    assert _services.replicas_of(_stopped.started(spec(0))) == 1
    assert _services.replicas_of(_stopped.started(_stopped.stopped(spec(0), NOW, ""))) == 1


def test_a_deploy_changes_the_image_and_leaves_it_stopped() -> None:
    present = _stopped.stopped(spec(), NOW, "")
    wanted = _services.with_image(spec(), "engine:2.0")
    kept = _stopped.kept(wanted, present)
    assert _services.image_of(kept) == "engine:2.0"
    assert _services.replicas_of(kept) == 0
    assert _stopped.since(kept) == NOW
    assert _services.canonical(_stopped.kept(spec(), present)) == _services.canonical(present)
    assert _stopped.kept(wanted, spec()) == wanted
