"""Path arguments of command lines."""

import argparse
from pathlib import Path

from data.errors import DataError

# Beam, TensorFlow and TFX take a path with one of these for a pattern.
_WILDCARDS = frozenset("*?[")


def local_path(text: str) -> Path:
    """The argparse type of an argument that names a file or folder on this machine.

    Path would turn a URL into a folder named like its scheme, and output would go there.
    """
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text} is a URL. Give a path on this machine, and copy the data yourself; on "
            "Kubeflow, the pipeline reads object stores (ssd compile --data URL)"
        )
    return Path(text)


def check_no_wildcard(path: Path) -> None:
    """Raises DataError for a path under which Beam and TFX would not find their own output."""
    found = sorted(_WILDCARDS.intersection(str(path.resolve())))
    if found:
        raise DataError(
            f"{path.resolve()}: Beam and TFX read {' '.join(found)} in a path as a pattern. "
            "Rename the folder, or use another"
        )
