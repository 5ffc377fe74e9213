# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changes of a swarm's own specification, and the note in it that a join token was given to a node.

The note is a label of the swarm. It is written before a token is read, so that a run which is cut off between a join and the rotation
of the token leaves behind that there is something to rotate.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping

from ansible_collections.hbp.mip.plugins.module_utils._engine import EngineError, engine_call

LABEL = "eu.humanbrainproject.mip.join-token"
_GIVEN = "given"


def given(swarm: Mapping[str, Any]) -> bool:
    """Whether a token was given to a node since the last rotation; `swarm` is the engine's ClusterInfo."""
    labels = (swarm.get("Spec") or {}).get("Labels") or {}
    return bool(labels.get(LABEL) == _GIVEN)


def marked(spec: Mapping[str, Any], given: bool) -> Dict[str, Any]:
    """`spec` of a swarm with or without the note; other labels stay."""
    labels = {key: value for key, value in (spec.get("Labels") or {}).items() if key != LABEL}
    if given:
        labels[LABEL] = _GIVEN
    return dict(spec, Labels=labels)


def update(
    client: Any,
    change: Callable[[Dict[str, Any]], Dict[str, Any]],
    what: str,
    worker: bool = False,
    manager: bool = False,
    unlock_key: bool = False,
) -> None:
    """Give the swarm the specification that `change` makes of it; `worker`, `manager` and `unlock_key` replace these secrets.

    Raises `EngineError`.
    """
    for attempt in (1, 2, 3, 4, 5):
        with engine_call("read the swarm"):
            swarm = client.inspect_swarm()
        try:
            with engine_call(what):
                # Older SDKs have no argument for the unlock key.
                response = client._post_json(
                    client._url("/swarm/update"),
                    data=change(swarm),
                    params={
                        "version": swarm["Version"]["Index"],
                        "rotateWorkerToken": worker,
                        "rotateManagerToken": manager,
                        "rotateManagerUnlockKey": unlock_key,
                    },
                )
                client._raise_for_status(response)
            return
        except EngineError as error:
            # Nodes that join at the same time write the swarm, too.
            if "out of sequence" not in str(error) or attempt == 5:
                raise


def note_given(client: Any) -> None:
    """Note that a token is given to a node. Raises `EngineError`."""
    with engine_call("read the swarm"):
        known = given(client.inspect_swarm())
    if not known:
        update(client, lambda swarm: marked(swarm["Spec"], given=True), "note that a join token is given out")
