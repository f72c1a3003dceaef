"""Paths as command lines take them."""

import argparse
from pathlib import Path


def local_path(text: str) -> Path:
    """The type of an argument, for argparse, that names a file or folder of this machine.

    Path would take a URL for a folder named like its scheme, and it would be written to.
    """
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text} is a URL. Give a path of this machine, and copy to or from there; on Kubeflow "
            "the pipeline reads object stores (python kubeflow_runner.py compile --data URL)"
        )
    return Path(text)
