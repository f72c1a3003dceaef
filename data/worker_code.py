"""Makes sure that a Beam worker runs the same code as the machine that submits the job.

A worker pool runs whatever its own image or checkout holds. So each pickled DoFn carries the
versions it was made with, and a worker opens it only if its own are the same.
"""

import hashlib
import platform
import socket
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from data.errors import DataError

# The packages of the project; the same list as in setup.py.
ROOMS = ("components", "data", "metrics", "pipeline", "serving", "trainer")
_ROOT = Path(__file__).resolve().parents[1]


@lru_cache
def versions() -> str:
    """The versions of this process: a hash of the project's modules, Python, TensorFlow, Beam."""
    digest = hashlib.sha256()
    for room in ROOMS:
        for file in sorted((_ROOT / room).rglob("*.py")):
            digest.update(str(file.relative_to(_ROOT)).encode() + b"\0" + file.read_bytes())
    python = ".".join(platform.python_version_tuple()[:2])
    return (
        f"code {digest.hexdigest()[:12]}, Python {python}, "
        f"TensorFlow {_version('tensorflow')}, Beam {_version('apache-beam')}"
    )


def sealed(payload: bytes) -> bytes:
    """A pickled DoFn that opens only in a worker with the versions of this process."""
    from apache_beam.internal import pickler

    return pickler.dumps(_Sealed(payload, versions()))


class _Sealed:
    """A pickle and the versions that may open it; unpickles to the pickle's content."""

    def __init__(self, payload: bytes, made_with: str) -> None:
        self._payload = payload
        self._made_with = made_with

    def __reduce__(self) -> tuple[Callable, tuple[bytes, str]]:
        return opened, (self._payload, self._made_with)


def opened(payload: bytes, made_with: str) -> object:
    """The content of the payload.

    Raises:
        DataError: this process has other versions than the one that made the payload.
    """
    from apache_beam.internal import pickler

    if versions() != made_with:
        raise DataError(
            f"the Beam worker on {socket.gethostname()} has {versions()}; the job was submitted "
            f"with {made_with}. Bring the worker's image or checkout to the same version and "
            "restart its pool"
        )
    return pickler.loads(payload)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
