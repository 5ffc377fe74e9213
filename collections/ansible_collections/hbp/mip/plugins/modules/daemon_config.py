#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: daemon_config
short_description: Merges settings into the Docker engine's configuration file
version_added: 0.1.0
author: The hbp.mip authors (@HBPMedical)
description:
  - Merges O(content) into the engine's C(daemon.json). Keys that are there already stay, objects are merged and lists are
    united, so that what the host's operator set is kept.
  - The new file is validated by the engine itself where the engine can do that (23.0 and newer), and replaces the old one
    in one step; the old one is kept with the suffix C(.previous).
  - The engine is neither restarted nor reloaded; RV(restart_needed) and RV(reload_enough) say what it needs. That is also
    said when an earlier run wrote the file but was cut off before the restart or reload.
attributes:
  check_mode:
    description: Can run in check mode and say what would change, without writing.
    support: full
  diff_mode:
    description: Shows the file before and after.
    support: full
  idempotent:
    description: A second run changes nothing, once the engine was restarted where that was needed.
    support: full
options:
  content:
    description:
      - The wanted settings.
      - Values in C(log-opts) are turned into text, as the engine wants them.
      - When C(log-driver) changes, the options of the former driver are dropped.
    type: dict
    required: true
  path:
    description: The engine's configuration file.
    type: path
    default: /etc/docker/daemon.json
  executable:
    description: The engine's program, for the validation. Searched for when not given; without one nothing is validated.
    type: path
"""

EXAMPLES = r"""
- name: Rotate the containers' logs and trust the lab's registry
  hbp.mip.daemon_config:
    content:
      log-driver: json-file
      log-opts: {max-size: 10m, max-file: "3"}
      insecure-registries: ["10.77.1.1:5000"]
  register: daemon

- name: Restart the engine
  ansible.builtin.systemd_service:
    name: docker.service
    state: "{{ 'restarted' if daemon.restart_needed else 'reloaded' }}"
  when: daemon is changed
"""

RETURN = r"""
keys:
  description: The keys that differ from what the engine runs with.
  returned: success
  type: list
  elements: str
restart_needed:
  description: Whether one of RV(keys) takes effect only with a restart of the engine.
  returned: success
  type: bool
restart_keys:
  description: Those keys.
  returned: success
  type: list
  elements: str
reload_enough:
  description: Whether something changed and a reload of the engine is enough.
  returned: success
  type: bool
pending:
  description: Whether the file was as wanted already, but the running engine does not follow it.
  returned: success
  type: bool
validated:
  description: Whether the engine itself validated the new file.
  returned: success
  type: bool
path:
  description: The configuration file.
  returned: success
  type: str
previous:
  description: Where the former file is kept.
  returned: when the file was written
  type: str
mip_error:
  description: The word V(configuration).
  returned: when the file or the wanted settings are unusable
  type: str
"""

import os
import shutil
import subprocess
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _daemon, _docker_http, _files

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_VALIDATION_SECONDS = 30
_INFO_SECONDS = 5.0


def _refusal(executable: str, text: str, folder: str) -> str | None:
    """What the engine says against a configuration, empty when nothing; None when it cannot look at one."""
    handle, path = tempfile.mkstemp(prefix="daemon-", suffix=".json", dir=folder)
    # dockerd looks for docker-proxy on PATH, and a non-interactive login often has no sbin there
    search = os.pathsep.join([os.path.dirname(executable), _PATH])
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        done = subprocess.run(
            [executable, "--validate", "--config-file", path],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VALIDATION_SECONDS,
            check=False,
            env={"PATH": search, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    finally:
        os.unlink(path)
    output = (done.stderr or done.stdout).strip()
    if done.returncode == 0:
        return ""
    if "unknown flag: --validate" in output:
        return None
    return (output.splitlines() or ["no reason given"])[-1].replace(path, "the new file")


def _validate(executable: str, before: str, after: str, folder: str) -> bool:
    """Let the engine look at the new configuration. False when it cannot do that; raises ConfigError when it refuses."""
    refusal = _refusal(executable, after, folder)
    if not refusal:
        return refusal is not None
    # Flags of the service are unknown here; what it also says against the present file is not due to the new one.
    if _refusal(executable, before or "{}", folder) == refusal:
        return False
    raise _daemon.ConfigError("the engine refuses the new configuration: %s. Nothing was changed" % refusal)


def _write(path: str, text: str, before: str) -> str:
    """Replace the file in one step and keep the former one. Returns the former one's path."""
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, 0o755, exist_ok=True)
    previous = path + ".previous"
    for target, content in ((previous, before or "{}\n"), (path, text)):
        _files.replace(target, content.encode("utf-8"), 0o644)
    return previous


def _info() -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = _docker_http.get("/info", timeout=_INFO_SECONDS)
    except _docker_http.DockerError:
        return None
    return found


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "content": {"type": "dict", "required": True},
            "path": {"type": "path", "default": _daemon.PATH},
            "executable": {"type": "path"},
        },
        supports_check_mode=True,
    )
    path = module.params["path"]
    try:
        text, after, keys, pending, conflicts = _daemon.plan(path, module.params["content"], _info)
        if conflicts:
            raise _daemon.ConfigError(
                "the engine on this host is started with %s, and does not start when %s sets the same. Nothing was changed. "
                "Remove the flag from the service: sudo systemctl edit --full docker.service" % (", ".join(conflicts), path)
            )
        executable = module.params["executable"] or shutil.which("dockerd", path=_PATH)
        validated = bool(keys and executable and _validate(executable, text, after, module.tmpdir))
        restart = sorted(_daemon.needs_restart(sorted({*keys, *pending})))
        result: dict[str, Any] = {
            "changed": bool(keys or pending),
            "keys": sorted({*keys, *pending}),
            "restart_needed": bool(restart),
            "restart_keys": restart,
            "reload_enough": bool(keys or pending) and not restart,
            "pending": bool(pending and not keys),
            "validated": validated,
            "path": path,
        }
        if keys:
            result["diff"] = {"before": text, "after": after, "before_header": path, "after_header": path}
            if not module.check_mode:
                result["previous"] = _write(path, after, text)
    except _daemon.ConfigError as error:
        module.fail_json(msg=str(error), mip_error="configuration", path=path)
    except OSError as error:
        module.fail_json(msg="%s cannot be written: %s" % (error.filename or path, error.strerror), path=path)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
