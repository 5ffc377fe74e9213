# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.hbp.mip.plugins.plugin_utils import _files
from ansible_collections.hbp.mip.plugins.plugin_utils._backup_set import moment
from ansible_collections.hbp.mip.plugins.plugin_utils._swarm_record import read


def write(path: Path, content: dict[str, str]) -> None:
    """Replace the file as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _files.write(path, json.dumps(content, indent=1) + "\n", mode=0o644)


def differs(known: str, cluster_id: str, name: str) -> str:
    """Return why the swarm that was found is not the remembered one; empty when it is."""
    if not known or known == cluster_id:
        return ""
    found = f"the master is in the swarm {cluster_id}" if cluster_id else "the master is in no swarm: it lost its state"
    return (
        f"The swarm of {name or 'the federation'} is {known}, and {found}. Nothing was changed, since a new swarm would leave "
        f"every node and all that the old one knew behind. Next: mipfed -f {name or 'NAME'} recover"
    )


class ActionModule(ActionBase):  # type: ignore[misc]
    """Remembers the swarm on the controller; touches no host."""

    _requires_connection = False
    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _unused, given = self.validate_argument_spec(
            argument_spec={
                "state": {"type": "str", "choices": ["read", "checked", "recorded", "replaced", "forgotten"], "required": True},
                "path": {"type": "path", "required": True},
                "cluster_id": {"type": "str", "default": ""},
                "federation": {"type": "str", "default": ""},
            }
        )
        path, state, cluster_id = Path(given["path"]), given["state"], given["cluster_id"]
        known = read(path)
        wanted = dict(known)
        if state in ("checked", "recorded"):
            why = differs(known["cluster_id"], cluster_id, given["federation"])
            if why and (cluster_id or state == "checked"):
                return {**result, **known, "changed": False, "failed": True, "msg": why, "mip_error": "check"}
        if (state == "recorded" and cluster_id and not known["cluster_id"]) or (state == "replaced" and known["cluster_id"] != cluster_id):
            wanted = {"cluster_id": cluster_id, "recorded_at": moment()}
        if state == "forgotten":
            wanted = {"cluster_id": "", "recorded_at": ""}
        changed = wanted != known
        if changed and not self._task.check_mode:
            try:
                if wanted["cluster_id"]:
                    write(path, wanted)
                else:
                    path.unlink(missing_ok=True)
            except OSError as error:
                text = f"{path} cannot be written: {error.strerror}"
                if state != "recorded":
                    return {**result, **known, "failed": True, "msg": text}
                # No reason to stop a deploy: only the comparison of the next ones is lost.
                return {**result, **known, "changed": False, "warnings": [f"{text}; which swarm is the federation's is not remembered"]}
        # To remember is no change of the federation: a deploy that changes nothing else changes nothing.
        shown = changed and state in ("replaced", "forgotten")
        return {**result, **wanted, "changed": shown, "diff": {"before": known, "after": wanted}}
