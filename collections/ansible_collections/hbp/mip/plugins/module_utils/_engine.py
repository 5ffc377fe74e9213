# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Docker engine of this host: connecting, requests the SDK lacks, and errors an operator can act on."""

from __future__ import annotations

import re
import time
import traceback
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, Optional, Tuple

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

SDK_ERROR: Optional[str]
try:
    import docker
    import docker.errors
    import requests.exceptions

    SDK_ERROR = None
except ImportError:
    SDK_ERROR = traceback.format_exc()

SDK_FIX = "apt-get install --no-install-recommends python3-docker"

# One API version for every engine that can speak it keeps its answers comparable. 29 refuses less than 1.44, and 20.10
# stops at 1.41.
PREFERRED_API = (1, 44)
MINIMUM_API = (1, 40)

_TOKEN = re.compile(r"SWMTKN-1-[0-9a-z]+-[0-9a-z]+")
_UNLOCK = re.compile(r"SWMKEY-1-[A-Za-z0-9+/=]+")


class EngineError(Exception):
    """The engine refused or failed a request. `status` is its HTTP status (0: no answer)."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(hide_secrets(message))
        self.status = status


class EngineMissing(EngineError):
    """There is no usable engine on this host: Docker or its SDK is not installed, or Docker is stopped."""


def hide_secrets(text: str) -> str:
    """`text` without swarm tokens and unlock keys."""
    return _UNLOCK.sub("SWMKEY-1-***", _TOKEN.sub("SWMTKN-1-***", text))


def api_error_text(error: Any) -> str:
    """The engine's own words in an SDK error, on one line."""
    explanation = getattr(error, "explanation", None)
    if isinstance(explanation, bytes):
        explanation = explanation.decode("utf-8", "replace")
    text = str(explanation or error)
    return hide_secrets(" ".join(text.split()))


def _version(text: Any) -> Tuple[int, int]:
    major, _unused, minor = str(text or "0.0").partition(".")
    return int(major), int(minor or 0)


def choose_api_version(version: Dict[str, Any]) -> str:
    """The API version to speak with an engine that answers `version` to `GET /version`.

    Raises `EngineError` when the engine is older than 19.03.
    """
    highest = _version(version.get("ApiVersion"))
    lowest = _version(version.get("MinAPIVersion"))
    if highest < MINIMUM_API:
        raise EngineError(
            "Docker Engine %s is too old: it speaks API %d.%d, at least %d.%d (Engine 19.03) is needed. "
            "Install a newer engine." % (version.get("Version"), *highest, *MINIMUM_API)
        )
    chosen = min(highest, max(lowest, PREFERRED_API))
    return "%d.%d" % chosen


def connect(docker_host: str, timeout: float) -> Any:
    """A `docker.APIClient` for `docker_host` whose requests take at most `timeout` seconds.

    Raises `EngineMissing` when there is nothing to talk to, `EngineError` when it does not answer as an engine does.
    """
    if SDK_ERROR is not None:
        raise EngineMissing(
            "the Docker SDK for Python is not installed for this interpreter. Next: %s (or `pip install docker` for an "
            "interpreter of a virtual environment)" % SDK_FIX
        )
    try:
        client = docker.APIClient(base_url=docker_host, version=str("%d.%d" % MINIMUM_API), timeout=int(timeout))
        answer = client.version(api_version=False)
        chosen = choose_api_version(answer)
        if client.api_version != chosen:
            client.close()
            client = docker.APIClient(base_url=docker_host, version=chosen, timeout=int(timeout))
    except docker.errors.APIError as error:
        raise EngineError("%s: %s" % (docker_host, api_error_text(error)), error.status_code or 0) from error
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError, ValueError) as error:
        raise _not_reached(docker_host, timeout, error) from error
    return client


def _not_reached(docker_host: str, timeout: float, error: Exception) -> EngineError:
    text = " ".join(str(error).split())
    if "URL scheme" in text and "http+docker" in text:
        return EngineError(
            "the Docker SDK for Python %s does not work with the installed `requests`: %s. Next: %s, and remove copies "
            "installed with pip" % (getattr(docker, "__version__", "?"), text, SDK_FIX)
        )
    if "No such file or directory" in text or "FileNotFoundError" in text:
        return EngineMissing("%s does not exist: Docker is not installed, or not running. "
                             "Next: systemctl status docker" % docker_host)  # fmt: skip
    if "Permission denied" in text or "PermissionError" in text:
        return EngineError("%s: permission denied. Run the module as root (become: true)" % docker_host)
    if "refused" in text:
        return EngineMissing("%s refuses connections: Docker is stopped. Next: systemctl status docker" % docker_host)
    if isinstance(error, requests.exceptions.Timeout) or "timed out" in text:
        return EngineError(
            "%s did not answer within %g s: the engine hangs. Next: systemctl status docker; "
            "journalctl -u docker -n 50" % (docker_host, timeout)
        )
    return EngineError("%s: %s" % (docker_host, text))


def open_engine(module: AnsibleModule, would: str, answer: Optional[Dict[str, Any]] = None, timeout: float = 0) -> Any:
    """The engine named by the module's options.

    Ends the module when there is none: in check mode with `would` (what this module does once there is an engine) and
    `answer` (its other results, `changed: true` unless it says otherwise), otherwise with the reason and the next command.
    """
    try:
        return connect(module.params["docker_host"], timeout or float(module.params["engine_timeout"]))
    except EngineMissing as error:
        if module.check_mode:
            result = {"changed": True, **(answer or {})}
            module.exit_json(msg="%s once Docker is installed (%s)" % (would, error), engine_missing=True, **result)
        module.fail_json(msg=str(error), engine_missing=True, manager_lost=True)
    except EngineError as error:
        module.fail_json(msg=str(error), manager_lost=True)


class _Translate:
    """Context manager that turns what the SDK raises into `EngineError`, prefixed by what was attempted."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None or SDK_ERROR is not None or isinstance(error, EngineError):
            return
        if isinstance(error, docker.errors.APIError):
            raise EngineError("%s: %s" % (self.what, api_error_text(error)), error.status_code or 0) from error
        if isinstance(error, requests.exceptions.Timeout) or (
            isinstance(error, requests.exceptions.ConnectionError) and "timed out" in str(error).lower()
        ):
            raise EngineError(
                "%s: the engine did not answer in time. Next: systemctl status docker; journalctl -u docker -n 50" % self.what
            ) from error
        if isinstance(error, (docker.errors.DockerException, requests.exceptions.RequestException)):
            raise EngineError("%s: %s" % (self.what, " ".join(str(error).split()))) from error


def engine_call(what: str) -> Any:
    """`with engine_call("create network x"):` raises `EngineError` with that prefix for whatever goes wrong inside."""
    return _Translate(what)


def post_json(client: Any, path: str, body: Dict[str, Any]) -> Any:
    """POST `body` to the engine for requests whose options older SDKs do not know (swarm init and join)."""
    response = client._post_json(client._url(path), data=body)
    client._raise_for_status(response)
    if not response.content:
        return None
    return response.json()


def wait_until(done: Callable[[], bool], timeout: float, first: float = 0.1, longest: float = 1.0) -> bool:
    """Call `done` with growing pauses until it is true or `timeout` seconds have passed; returns its last answer."""
    deadline = time.monotonic() + timeout
    for pause in _pauses(first, longest):
        if done():
            return True
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
    return False


def _pauses(first: float, longest: float) -> Iterator[float]:
    pause = first
    while True:
        yield pause
        pause = min(longest, pause * 1.5)
