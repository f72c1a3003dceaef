"""Reads weights in the HDF5 formats of Keras."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from data.errors import DataError

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
# The name of a `.keras` archive's first entry, after a 30-byte zip header.
_ARCHIVE_ENTRY = b"metadata.json"
# Advice for files in which Keras saved something else.
FORMS = (
    "Give a keras.applications model saved with save('x.h5'), or this detector's "
    "save_weights('x.weights.h5')"
)
# What reading a damaged file can raise.
DAMAGE = (OSError, KeyError, RuntimeError, TypeError, ValueError)


def is_archive(path: Path) -> bool:
    """Whether a file is a `.keras` archive from Keras 3's `Model.save`, damaged or not."""
    with path.open("rb") as file:
        start = file.read(30 + len(_ARCHIVE_ENTRY))
    return start.startswith(b"PK") and start.endswith(_ARCHIVE_ENTRY)


def is_whole_network(path: Path) -> bool:
    """Whether a file is from Keras 3's `Model.save_weights`, rather than a list of layers."""
    with _opened(path) as file:
        return "layers" in file and "layer_names" not in file.attrs


def names_in_whole_network(path: Path) -> set[str]:
    """The layers with weights in an `is_whole_network` file; older files hold no names."""
    with _opened(path) as file:
        weights = [layer["vars"] for layer in file["layers"].values() if "vars" in layer]
        return {_text(each.attrs["name"]) for each in weights if len(each) and "name" in each.attrs}


def read_layers(path: Path) -> list[tuple[str, list[np.ndarray]]]:
    """(name, weights) of the layers with weights, in file order.

    Reads the weight files of keras.applications and whole models saved as `.h5`.

    Raises:
        DataError: the file is something else, or damaged.
    """
    with _opened(path) as file:
        group = file.get("model_weights", file)
        if "layer_names" not in group.attrs:
            raise DataError(f"{path}: an HDF5 file, but without Keras layers. {FORMS}")
        names = [_text(name) for name in group.attrs["layer_names"]]
        layers = ((name, group[name]) for name in names)
        read = [
            (name, [np.asarray(layer[_text(w)]) for w in layer.attrs["weight_names"]])
            for name, layer in layers
        ]
    return [(name, weights) for name, weights in read if weights]


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Opens a file; damage found while it is open is a DataError too."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except DataError:
        raise
    except DAMAGE as error:
        raise DataError(f"{path}: not a complete HDF5 file ({error}). Download it again") from error


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
