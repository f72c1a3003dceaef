"""Asks a model server, ours or TensorFlow Serving, which versions it has in service."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from urllib.parse import quote

from data.errors import DataError

_AVAILABLE = "AVAILABLE"
_ASK_EVERY_S = 1.0
_TIMEOUT_S = 10.0
# A version about to be unloaded may still look available, so one such answer is not enough.
_SETTLED = 3


def available_versions(url: str, model: str) -> set[int]:
    """The versions of a model that a server has in service; DataError if it cannot be reached."""
    return {version for version, (state, _) in _states(url, model).items() if state == _AVAILABLE}


def wait_until_available(
    urls: Sequence[str], model: str, version: int, changed: bool, timeout_s: float
) -> None:
    """Waits until every server has the version in service.

    Args:
      changed: the servers' configuration has just changed: one answer is then not enough.

    Raises DataError if a server fails to load the version, cannot be reached or takes too long.
    """
    deadline = time.monotonic() + timeout_s
    for url in urls:
        seen = 0
        while True:
            state, problem = _states(url, model).get(version, ("unknown to the server", ""))
            seen = seen + 1 if state == _AVAILABLE else 0
            if seen >= (_SETTLED if changed else 1):
                break
            if state == "END" and problem:
                raise DataError(f"{url}: version {version} of {model} does not load: {problem}")
            if time.monotonic() > deadline:
                why = f": {problem}" if problem else ""
                raise DataError(
                    f"{url}: version {version} of {model} is not in service after {timeout_s:g} s "
                    f"(state: {state}{why}). Does the server read this models.config, with "
                    "--model_config_file_poll_wait_seconds? Raise --timeout if it is slow."
                )
            time.sleep(_ASK_EVERY_S)


def _states(url: str, model: str) -> dict[int, tuple[str, str]]:
    """State and error of each version that the server has seen."""
    address = f"{url.rstrip('/')}/v1/models/{quote(model, safe='')}"
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as response:
            entries = json.loads(response.read())["model_version_status"]
        return {
            int(entry["version"]): (entry["state"], entry["status"]["error_message"])
            for entry in entries
        }
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return {}
        raise DataError(f"{url}: {error.code} {error.reason}. Is it a model server?") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        reason = getattr(reason, "strerror", None) or reason
        raise DataError(f"{url}: no connection ({reason}). Check --url, and the server.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{url}: not a model server. Give the URL of its REST API.") from error
