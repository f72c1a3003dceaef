"""Sums up a failure on an engine in one line: the first cause, where it happened, what to do."""

import re
from collections.abc import Sequence

from data.errors import DataError

_START_HERE = "`make flink` or `make spark` starts one on this machine"

# In a worker's traceback, quoted in Java's. The message may have several lines; Beam appends the
# step.
_DATA_ERROR = re.compile(
    r"^data\.errors\.DataError: (.*?)(?: \[while running '[^\n]*)?(?=\n\n|\n\tat |\n  File |\Z)",
    re.MULTILINE | re.DOTALL,
)
# The first traceback's last frame and exception.
_PYTHON_ERROR = re.compile(
    r'^  File "(?P<file>[^"]+)", line (?P<line>\d+), in [^\n]+\n(?:    [^\n]*\n)*'
    r"(?P<error>[\w.]+(?:: .*?)?)(?=\n\n|\n\tat |\Z)",
    re.MULTILINE | re.DOTALL,
)
_JAVA_ERROR = re.compile(r"(?:[\w$]+\.)+[\w$]+(?:Exception|Error): ")
_OLD_WORKER = re.compile(r"(?:No module named|Can't get attribute) .*(?:worker_code|'opened')")
# A lost worker, and later attempts to use it.
_LOST_WORKER = re.compile(
    r"CANCELLED: (?:client cancelled|call already cancelled)|call already closed"
)


def no_job_server(endpoint: str, reason: str) -> DataError:
    """Nothing listens at --job_endpoint."""
    return DataError(
        f"--job_endpoint={endpoint}: no Beam job server there ({reason}). {_START_HERE}; for a "
        "cluster give the address of its job server (docs/beam.md)"
    )


def not_a_job_server(endpoint: str, status: str) -> DataError:
    """Something listens at --job_endpoint that does not speak Beam's protocol."""
    return DataError(
        f"--job_endpoint={endpoint}: not a Beam job server ({status}). Give the address of one "
        f"(its default port is 8099); {_START_HERE}"
    )


def is_hopeless(text: str) -> bool:
    """Whether a failure, from Java's text, will recur at every retry."""
    return bool(_DATA_ERROR.search(text) or _OLD_WORKER.search(text) or _no_pool(text))


def job_error(texts: Sequence[str], job: str, endpoint: str, pool: str) -> DataError:
    """Why a job failed, in one line.

    Args:
        texts: the job server's messages: Java's traceback, then its root cause.
        job: the engine's name for the job.
        endpoint: of the job server.
        pool: address where each node looks for its Python workers.
    """
    everything = "\n".join(texts)
    # A DataError says it all, wherever it was raised.
    if found := _DATA_ERROR.search(everything):
        return DataError(found[1])
    return DataError(
        f"{_cause(texts, everything, pool)} (job {job} on {endpoint}; for details see the logs of "
        "the job server and the workers)"
    )


def _cause(texts: Sequence[str], everything: str, pool: str) -> str:
    if "Insufficient number of network buffers" in everything:
        numbers = re.search(r"required (\d+), but only (\d+) available", everything)
        return (
            "Flink's task managers have too few network buffers"
            + (f" ({numbers[1]} required, {numbers[2]} available)" if numbers else "")
            + ". Set taskmanager.network.sort-shuffle.min-buffers: 64 and "
            "taskmanager.memory.network.min and .max: 256mb (512mb embedded) in Flink's "
            "configuration and restart it"
        )
    if _no_pool(everything):
        refused = re.search(r"Connection refused: (\S+?)/", everything)
        return (
            f"the engine's nodes find no pool of Python workers at {pool}"
            + (" (connection refused)" if refused else "")
            + ". Start one on each: python -m data.worker_pool"
        )
    if _OLD_WORKER.search(everything):
        return (
            "the Beam workers have an older version of this project. Bring their image or "
            "checkout to the same version and restart their pool"
        )
    if found := _PYTHON_ERROR.search(everything):
        error = " ".join(found["error"].split())
        hint = ". Workers must see the same paths as this machine" * ("FileNotFound" in error)
        return f"a Beam worker failed: {error} ({found['file']}:{found['line']}){hint}"
    if _LOST_WORKER.search(everything):
        return (
            "a Beam worker was lost: killed, or out of memory (2 to 3 GB each). Flink replaces it "
            "with the restart strategy of engines/kubernetes/flink.yaml; on Spark, rerun this"
        )
    # The root cause comes last; its class name often appears twice.
    lines = texts[-1].strip().partition("\n\tat ")[0].splitlines()
    root = _JAVA_ERROR.sub("", " ".join(line.strip() for line in lines)).strip()
    return f"the engine failed: {root or texts[-1].strip().splitlines()[0]}"


def _no_pool(text: str) -> bool:
    return "WorkerPool" in text and "UNAVAILABLE" in text
