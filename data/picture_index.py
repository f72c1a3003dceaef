"""A file with all pictures of a conversion, so that workers can exchange numbers instead."""

import pickle
from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data.image_sets import Picture

_PICTURES, _OFFSETS = "pictures.pickles", "offsets.npy"


def write_index(pictures: Iterable[Picture], folder: Path) -> None:
    """Writes the files of a `PictureIndex`; a picture's number is its position in `pictures`."""
    offsets = array("q")
    with (folder / _PICTURES).open("wb") as file:
        for picture in pictures:
            offsets.append(file.tell())
            pickle.dump(picture, file)
    np.save(folder / _OFFSETS, offsets)


class PictureIndex:
    """Looks pictures up by number, in constant memory."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / _PICTURES).open("rb")
        self._offsets = np.load(folder / _OFFSETS, mmap_mode="r")

    def __getitem__(self, number: int) -> Picture:
        self._file.seek(self._offsets[number])
        return pickle.load(self._file)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
