"""Paths as command lines take them."""

import argparse
from pathlib import Path

from data.errors import DataError

# What Beam, TensorFlow and TFX take for a pattern of many paths.
_WILDCARDS = frozenset("*?[")


def local_path(text: str) -> Path:
    """The type of an argument, for argparse, that names a file or folder of this machine.

    Path would take a URL for a folder named like its scheme, and it would be written to.
    """
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text} is a URL. Give a path of this machine, and copy to or from there; on Kubeflow "
            "the pipeline reads object stores (ssd compile --data URL)"
        )
    return Path(text)


def check_no_wildcard(path: Path) -> None:
    """DataError for a path under which Beam and TFX would not find what they have written."""
    found = sorted(_WILDCARDS.intersection(str(path.resolve())))
    if found:
        raise DataError(
            f"{path.resolve()}: Beam and TFX take {' '.join(found)} in it for a pattern. Rename "
            "the folder, or work in another"
        )
