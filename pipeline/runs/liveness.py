"""Which runs are active: each holds a lock that the system releases when its process dies."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

_FOLDER = "running"


@contextlib.contextmanager
def marked_as_running(output: Path, run: str) -> Iterator[None]:
    """Holds the lock of a run in an output folder while the block runs.

    Locks that killed runs left behind are removed.

    Args:
      run: TFX's id of the run.
    """
    folder = output / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.glob("*.lock"):
        if not _is_locked(other):
            other.unlink(missing_ok=True)
    path = _lock_file(output, run)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def is_running(output: Path, run: str) -> bool:
    """Whether a process on this machine is executing a run of an output folder."""
    path = _lock_file(output, run)
    return path.exists() and _is_locked(path)


def _lock_file(output: Path, run: str) -> Path:
    return output / _FOLDER / f"{run}.lock"


def _is_locked(path: Path) -> bool:
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False
