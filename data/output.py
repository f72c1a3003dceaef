"""Output folders that appear only when they are complete."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import DataError


@contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
    """A folder to write to; it becomes `output` if the block succeeds and else disappears.

    Raises:
        DataError: `output` exists and is not an empty folder, or cannot be created.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"{output}: exists already. Remove it, or give another --output")
    whole = output.resolve()
    if whole == Path.cwd() or whole.is_mount():
        raise DataError(
            f"{output}: is the folder of the shell or a mounted one, which cannot appear at once. "
            f"Give a folder in it: --output {output / 'records'}"
        )
    # Beside `output`, so that the renaming stays within one file system.
    folder = whole.parent / f".{whole.name}.{os.getpid()}.partial"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise DataError(f"{output}: cannot write there ({error.strerror})") from error
    try:
        yield folder
        folder.rename(whole)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
