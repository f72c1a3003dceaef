"""Reads weights in the HDF5 formats of Keras."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from data.errors import DataError

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
# What reading a damaged file can raise.
DAMAGE = (OSError, KeyError, RuntimeError, TypeError, ValueError)


def is_whole_network(path: Path) -> bool:
    """Whether a file is what `Model.save_weights` of Keras 3 writes, rather than layer by layer."""
    with _opened(path) as file:
        return "layers" in file and "layer_names" not in file.attrs


def read_layers(path: Path) -> list[tuple[str, list[np.ndarray]]]:
    """(name, weights) of the layers that have weights, in the order of the file.

    Reads the format of the weights of keras.applications, and whole models saved as `.h5`.

    Raises:
        DataError: the file is something else, or damaged.
    """
    with _opened(path) as file:
        group = file.get("model_weights", file)
        if "layer_names" not in group.attrs:
            raise DataError(
                f"{path}: an HDF5 file, but without Keras layers. Give weights of "
                "keras.applications (.h5) or of this detector (.weights.h5)"
            )
        names = [_text(name) for name in group.attrs["layer_names"]]
        layers = ((name, group[name]) for name in names)
        read = [
            (name, [np.asarray(layer[_text(w)]) for w in layer.attrs["weight_names"]])
            for name, layer in layers
        ]
    return [(name, weights) for name, weights in read if weights]


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """The file to read from; what is found damaged while it is open is a DataError too."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except DataError:
        raise
    except DAMAGE as error:
        raise DataError(f"{path}: not a whole HDF5 file ({error}). Get it again") from error


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
