"""Training state on disk: one file per step, complete or absent, so a killed run can resume."""

import contextlib
import logging
import lzma
import os
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import keras
import numpy as np

from data.errors import DataError

_log = logging.getLogger("ssd.trainer")
# What reading a damaged archive can raise: a flipped bit can mark an array as compressed.
_DAMAGE = (
    zipfile.BadZipFile,
    lzma.LZMAError,
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
)
_NAME = re.compile(r"step-(\d{8})\.npz")


def save(folder: Path, step: int, variables: Sequence[keras.Variable], keep: int) -> Path:
    """Writes the values of `variables` after `step` steps and removes all but the last `keep`.

    Raises:
        DataError: it cannot be written; older ones stay.
    """
    path = folder / f"step-{step:08d}.npz"
    write(path, as_arrays(variables))
    for _, old in steps_on_disk(folder)[keep:]:
        old.unlink()
    return path


def restore_latest(folder: Path, variables: Sequence[keras.Variable]) -> int:
    """Loads the newest readable checkpoint into `variables`; returns its step, or 0.

    Skips damaged files with a warning.
    """
    for step, path in steps_on_disk(folder):
        values = read(path, [key(i, v) for i, v in enumerate(variables)])
        if values is None:
            continue
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return step
    return 0


def steps_on_disk(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of the checkpoints in a folder, newest first."""
    if not folder.is_dir():
        return []
    found = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted(((int(match[1]), path) for match, path in found), reverse=True)


def key(index: int, variable: keras.Variable) -> str:
    """The name a variable is stored under."""
    return f"{index}:{variable.path}"


def as_arrays(variables: Iterable[keras.Variable]) -> dict[str, np.ndarray]:
    """The values of variables by `key`."""
    return {key(i, v): np.asarray(v) for i, v in enumerate(variables)}


def write(path: Path, arrays: dict) -> None:
    """Writes named arrays; the file appears under its name only when it is complete and on disk.

    Raises:
        DataError: it cannot be written.
    """
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            # Like np.savez, which leaves its archive open after an error and fails again later.
            with zipfile.ZipFile(file, "w") as archive:
                for name, values in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                        np.lib.format.write_array(entry, np.asarray(values), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError as error:
        raise DataError(
            f"{path}: the checkpoint cannot be written ({error.strerror or error}). Free disk "
            "space and rerun: training resumes from the previous checkpoint"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def read(path: Path, names: list[str]) -> list[np.ndarray] | None:
    """The named arrays of a file that `write` wrote; None, with a warning, if it is damaged."""
    try:
        with np.load(path) as stored:
            return [stored[name] for name in names]
    except _DAMAGE as error:
        _log.warning("ignoring a damaged checkpoint: %s (%s)", path, error)
        return None
