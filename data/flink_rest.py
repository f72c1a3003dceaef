"""Flink's REST API, for what its job server does not do.

Told to cancel a job, the job server only forgets it, while Flink keeps running it. And it reports a
failure only after Flink has used up all restarts that its strategy allows.
"""

import json
import time
import urllib.request
from collections.abc import Iterable

# Flink's default, and the following ports, which further embedded clusters on a machine take.
PORTS = range(8081, 8090)
_ANSWER_SECONDS = 3
_ENDED = {"CANCELED", "FAILED", "FINISHED"}


def addresses(flink_master: str | None, job_endpoint: str) -> list[str]:
    """Where Flink may answer, as HOST:PORT.

    Args:
        flink_master: Beam's option; None or `[auto]` if it was not given.
        job_endpoint: of the job server, which often runs on Flink's machine.
    """
    if flink_master and not flink_master.startswith("["):
        return [flink_master.removeprefix("http://").rstrip("/")]
    host = job_endpoint.rpartition(":")[0]
    ports = PORTS if host in ("localhost", "127.0.0.1") else PORTS[:1]
    return [f"{host}:{port}" for port in ports]


def cancel(where: Iterable[str], name: str, seconds: float) -> str | None:
    """Cancels the job with that name and waits until it has ended.

    Args:
        where: addresses to try, from `addresses`.
        name: of the job in Flink.
        seconds: maximum wait.

    Returns:
        The last state seen, such as CANCELED or CANCELLING; None if no address has the job.
    """
    deadline = time.monotonic() + seconds
    for address in where:
        try:
            job = _find(address, name)
            if job is None:
                continue
            url = f"http://{address}/jobs/{job['jid']}?mode=cancel"
            request = urllib.request.Request(url, method="PATCH")
            urllib.request.urlopen(request, timeout=_ANSWER_SECONDS).close()
        except OSError:
            continue
        state = job["state"]
        try:
            while state not in _ENDED and time.monotonic() < deadline:
                time.sleep(0.2)
                state = (_find(address, name) or {"state": "CANCELED"})["state"]
        except OSError:
            # An embedded cluster ends with its job.
            state = "CANCELED"
        return state
    return None


def failure(where: Iterable[str], name: str) -> str | None:
    """Java's traceback of the job's latest failure, restarted or not.

    None without a failure, or if no address has the job.
    """
    for address in where:
        try:
            if job := _find(address, name):
                history = _get(f"http://{address}/jobs/{job['jid']}/exceptions")
                entries = history.get("exceptionHistory", {}).get("entries", [])
                return entries[0]["stacktrace"] if entries else None
        except OSError:
            continue
    return None


def _find(address: str, name: str) -> dict | None:
    jobs = _get(f"http://{address}/jobs/overview")["jobs"]
    return next((job for job in jobs if job["name"] == name), None)


def _get(url: str) -> dict:
    with urllib.request.urlopen(url, timeout=_ANSWER_SECONDS) as answer:
        return json.load(answer)
