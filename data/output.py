"""Output folders that appear only when they are complete."""

import fcntl
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import DataError
from data.interrupts import when_interrupted

# Locked in an unfinished folder while it is being written.
_LOCK = ".lock"
# Temporary suffix of the output being replaced.
_EARLIER = ".earlier"
# Files that every finished conversion has.
_MARKS = ("report.json", "schema.pbtxt")


@contextmanager
def whole_folder(output: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write to; becomes `output` if the block succeeds, else it is removed.

    Args:
        output: does not exist or is an empty folder.
        overwrite: also allows an earlier conversion's output, which stays until the new one
            replaces it.

    Raises:
        DataError: `output` exists and may not be replaced, or cannot be created.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        if not overwrite:
            raise DataError(
                f"{output}: exists already. Give another --output, or --overwrite to replace it"
            )
        if not all((output / name).is_file() for name in _MARKS):
            raise DataError(
                f"{output}: not a conversion's output (no {' and '.join(_MARKS)} in it), so "
                "--overwrite does not replace it. Give another --output"
            )
    whole = output.resolve()
    if whole == Path.cwd() or whole.is_mount():
        raise DataError(
            f"{output}: the current folder or a mount point, which cannot be replaced in one step. "
            f"Give a folder in it: --output {output / 'records'}"
        )
    _remove_abandoned(whole)
    # Next to `output`, so that renaming stays within one file system.
    folder = whole.parent / f".{whole.name}.{os.getpid()}.partial"
    lock = folder / _LOCK
    try:
        folder.mkdir(parents=True)
        file = lock.open("w")
    except OSError as error:
        raise DataError(f"{output}: cannot write there ({error.strerror})") from error
    try:
        with file, when_interrupted(lambda: f"{output} was not written; rerun the same command"):
            fcntl.flock(file, fcntl.LOCK_EX)
            yield folder
            lock.unlink()
            _replace(whole, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(whole: Path) -> None:
    """Removes what killed processes left while they wrote the same output.

    An output that was about to be replaced gets its name back.
    """
    for earlier in whole.parent.glob(f".{glob.escape(whole.name)}.*{_EARLIER}"):
        if whole.exists():
            shutil.rmtree(earlier, ignore_errors=True)
        else:
            earlier.rename(whole)
    for folder in whole.parent.glob(f".{glob.escape(whole.name)}.*.partial"):
        pid = folder.name.removesuffix(".partial").rpartition(".")[2]
        # Our own pid in the name means an earlier container.
        dead = pid.isdigit() and (int(pid) == os.getpid() or not _is_alive(int(pid)))
        if dead and not _is_locked(folder / _LOCK):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    """Whether a process in this container has that pid."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_locked(lock: Path) -> bool:
    """Whether a process holds the lock, here, in another container or on another machine."""
    try:
        with lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _replace(whole: Path, folder: Path) -> None:
    """Replaces `whole` with `folder`; on an error `whole` stays."""
    earlier = folder.with_suffix(_EARLIER)
    if whole.exists():
        whole.rename(earlier)
    try:
        folder.rename(whole)
    except OSError:
        if earlier.exists():
            earlier.rename(whole)
        raise
    shutil.rmtree(earlier, ignore_errors=True)
