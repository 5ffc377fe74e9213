# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services that were stopped on purpose: what is remembered of it, and where.

It is kept in labels of the service itself, so that it lasts as long as the service does, every manager knows it, and it needs no second
store that could say something else. Pure functions: nothing here talks to an engine.
"""

from __future__ import annotations

import copy
from typing import Any, Dict, Mapping

from ansible_collections.hbp.mip.plugins.module_utils import _services

SINCE_LABEL = "eu.humanbrainproject.mip.stopped.since"
REASON_LABEL = "eu.humanbrainproject.mip.stopped.reason"
REPLICAS_LABEL = "eu.humanbrainproject.mip.stopped.replicas"
_LABELS = (SINCE_LABEL, REASON_LABEL, REPLICAS_LABEL)


def since(spec: Mapping[str, Any]) -> str:
    """When the service with this specification was stopped on purpose (UTC); empty when it was not."""
    return str((spec.get("Labels") or {}).get(SINCE_LABEL) or "")


def reason(spec: Mapping[str, Any]) -> str:
    """Why it was stopped, in the operator's words; may be empty."""
    return str((spec.get("Labels") or {}).get(REASON_LABEL) or "")


def told(spec: Mapping[str, Any]) -> str:
    """`stopped on purpose since …`, with the reason when one was given; empty for a service that was not stopped."""
    if not since(spec):
        return ""
    why = reason(spec)
    return "stopped on purpose since %s%s" % (since(spec), ": %s" % why if why else "")


def _scaled(spec: Mapping[str, Any], replicas: int, labels: Mapping[str, str]) -> Dict[str, Any]:
    result = copy.deepcopy(dict(spec))
    result["Mode"] = {"Replicated": {"Replicas": replicas}}
    kept = {key: value for key, value in (result.get("Labels") or {}).items() if key not in _LABELS}
    result["Labels"] = {**kept, **labels}
    return result


def stopped(spec: Mapping[str, Any], now: str, why: str) -> Dict[str, Any]:
    """A copy of `spec` that runs nothing and remembers since when. One that is stopped already keeps its time."""
    labels = {SINCE_LABEL: since(spec) or now}
    text = why or reason(spec)
    if text:
        labels[REASON_LABEL] = text
    before = str((spec.get("Labels") or {}).get(REPLICAS_LABEL) or "")
    replicas = _services.replicas_of(spec)
    labels[REPLICAS_LABEL] = before or str(replicas or 1)
    return _scaled(spec, 0, labels)


def started(spec: Mapping[str, Any]) -> Dict[str, Any]:
    """A copy of `spec` that runs what it ran before it was stopped, at least one task."""
    before = str((spec.get("Labels") or {}).get(REPLICAS_LABEL) or "")
    replicas = int(before) if before.isdigit() else 0
    return _scaled(spec, replicas or _services.replicas_of(spec) or 1, {})


def kept(wanted: Mapping[str, Any], present: Mapping[str, Any]) -> Dict[str, Any]:
    """`wanted`, which does not start a service that is stopped on purpose: `present` says whether it is."""
    if not since(present):
        return dict(wanted)
    labels = {key: value for key, value in (present.get("Labels") or {}).items() if key in _LABELS}
    return _scaled(wanted, 0, labels)
