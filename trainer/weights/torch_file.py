"""Reads a PyTorch state dict without PyTorch.

A state dict is a pickle of names and tensor descriptions, plus the tensors' raw bytes. Unpickling
runs whatever a file names, so only the parts of a plain state dict are allowed.
"""

import pickle
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from data.errors import DataError

ZIP_MAGIC = b"PK\x03\x04"
# First bytes of files from torch.save before version 1.6: a protocol 2 pickle of a magic number.
LEGACY_MAGIC = b"\x80\x02\x8a\x0a"
_LEGACY_NUMBER = 0x1950A86A20F9469CFC6C

_DTYPES = {
    "HalfStorage": "<f2",
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "ByteStorage": "|u1",
    "CharStorage": "|i1",
    "ShortStorage": "<i2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
    "BoolStorage": "|b1",
}
# What unpickling a damaged file can raise.
_DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class _Storage:
    dtype: np.dtype
    key: str
    size: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file written by `torch.save(model.state_dict(), path)`, old or new format.

    Raises:
        DataError: the file is damaged, or holds more than named tensors.
    """
    try:
        if zipfile.is_zipfile(path):
            described, contents = _read_zip(path)
        else:
            described, contents = _read_legacy(path)
        if not isinstance(described, dict):
            raise DataError(f"holds a {type(described).__name__}, not a dict of tensors. {_ADVICE}")
        for name, value in described.items():
            if not isinstance(value, _Tensor):
                raise DataError(
                    f"entry {name!r} is a {type(value).__name__}, not a tensor. {_ADVICE}"
                )
        return {name: _materialise(value, contents) for name, value in described.items()}
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except _DAMAGE as error:
        raise DataError(
            f"{path}: not a complete PyTorch file ({type(error).__name__}: {error}). Download it "
            "again"
        ) from error


_ADVICE = "Save the weights alone: torch.save(model.state_dict(), path)"


def _read_zip(path: Path) -> tuple[object, dict[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise DataError("a zip archive, but not from torch.save")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") == b"big":
            raise DataError("written on a big-endian machine. Save it on a little-endian one")
        with archive.open(pickles[0]) as file:
            unpickler = _Unpickler(file)
            described = unpickler.load()
        contents = {key: archive.read(f"{root}data/{key}") for key in unpickler.storages}
    return described, contents


def _read_legacy(path: Path) -> tuple[object, dict[str, bytes]]:
    with path.open("rb") as file:
        if _Unpickler(file).load() != _LEGACY_NUMBER:
            raise DataError("a pickle, but not from torch.save")
        _Unpickler(file).load()  # the format version, the same in all files
        if not _Unpickler(file).load()["little_endian"]:
            raise DataError("written on a big-endian machine. Save it on a little-endian one")
        unpickler = _Unpickler(file)
        described = unpickler.load()
        contents = {}
        for key in _Unpickler(file).load():
            storage = unpickler.storages[key]
            (size,) = struct.unpack("<q", file.read(8))
            if size != storage.size:
                raise DataError(f"storage {key} has {size} values instead of {storage.size}")
            contents[key] = file.read(size * storage.dtype.itemsize)
    return described, contents


class _Unpickler(pickle.Unpickler):
    """Builds only tensor descriptions and what else a state dict needs."""

    def __init__(self, file: IO[bytes]) -> None:
        # Files from Python 2 hold byte strings.
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> object:
        if module == "torch" and name in _DTYPES:
            return np.dtype(_DTYPES[name])
        found = _ALLOWED.get((module, name))
        if found is None:
            raise DataError(f"holds a {module}.{name}, which plain weights do not need. {_ADVICE}")
        return found

    def persistent_load(self, pid: tuple) -> _Storage:
        kind, dtype, key, _, size, *view = pid
        if kind != "storage" or any(part is not None for part in view):
            raise DataError(f"holds an unsupported {kind}. {_ADVICE}")
        return self.storages.setdefault(key, _Storage(dtype, key, size))


def _tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor: _Tensor, *_: object) -> _Tensor:
    return tensor


_ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}


def _materialise(tensor: _Tensor, contents: dict[str, bytes]) -> np.ndarray:
    storage = tensor.storage
    values = np.frombuffer(contents[storage.key], storage.dtype)
    last = tensor.offset + sum(
        (n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True)
    )
    numbers = (*tensor.shape, *tensor.strides, tensor.offset)
    if len(values) != storage.size or min(numbers) < 0 or last >= max(storage.size, 1):
        raise DataError(f"storage {storage.key} is too short for its tensor {tensor.shape}")
    strides = [step * storage.dtype.itemsize for step in tensor.strides]
    view = np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, strides)
    return view.copy()
