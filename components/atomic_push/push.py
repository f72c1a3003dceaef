"""Adds a model to the versions that a server polls, without ever showing an unfinished one.

A server treats any folder named by a number as a version. On a local file system the copy is
therefore made under another name, checked, and renamed. Object stores cannot rename a folder
atomically: there `saved_model.pb`, which makes a version loadable, is copied last.
"""

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from data.errors import DataError
from data.saved_model import IDENTITY, SAVED_MODEL_FILE

# Locally an unfinished version's folder; on object stores an empty object that marks one.
_UNFINISHED = re.compile(r"\.(\d+)\.partial")
_LOCK = ".push.lock"


def push(model: str, base: str) -> int:
    """Copies a SavedModel to a new version under `base` and returns the version's number.

    The number is the Unix time, or one more than the highest version if that is greater. If
    interrupted, `base` holds the old versions, with or without the new one; the next push removes
    leftovers. Local pushes wait for each other; on an object store the caller must push one at a
    time.

    Args:
      model: folder of the SavedModel, exported by `trainer.export`.
      base: folder of the versions, local or with any scheme that TensorFlow supports (`gs://...`).

    Raises:
      DataError: the model is not one of ours, or it cannot be copied.
    """
    try:
        tf.io.gfile.makedirs(base)
        if "://" in base:
            return _push_remote(model, base.rstrip("/"))
        with _locked(Path(base)):
            return _push_local(model, Path(base))
    except (OSError, tf.errors.OpError) as error:
        raise DataError(
            f"{base}: the push failed ({error}). Check that the folder is writable and has space, "
            "then run again"
        ) from error


def _push_local(model: str, base: Path) -> int:
    for entry in base.iterdir():
        if _UNFINISHED.fullmatch(entry.name):
            shutil.rmtree(entry)
    version = _next_version(entry.name for entry in base.iterdir())
    partial = base / f".{version}.partial"
    files = _files(model)
    try:
        _copy(model, str(partial), files)
        _check_files(model, str(partial), files)
        _check_model(str(partial))
        _write_through(partial)
        partial.rename(base / str(version))
        _sync(base)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return version


def _push_remote(model: str, base: str) -> int:
    names = [name.rstrip("/") for name in tf.io.gfile.listdir(base)]
    for unfinished in filter(None, map(_UNFINISHED.fullmatch, names)):
        _finish_remote(base, int(unfinished[1]))
    version = _next_version(names)
    _check_model(model)
    files = _files(model)
    size = files.pop(SAVED_MODEL_FILE)
    with tf.io.gfile.GFile(f"{base}/.{version}.partial", "w") as marker:
        marker.write("")
    try:
        _copy(model, f"{base}/{version}", files)
        _check_files(model, f"{base}/{version}", files)
        _copy(model, f"{base}/{version}", {SAVED_MODEL_FILE: size})
    finally:
        _finish_remote(base, version)
    return version


def _finish_remote(base: str, version: int) -> None:
    """Removes a version without `saved_model.pb`, and the marker that it is unfinished."""
    folder = f"{base}/{version}"
    if tf.io.gfile.exists(folder) and not tf.io.gfile.exists(f"{folder}/{SAVED_MODEL_FILE}"):
        tf.io.gfile.rmtree(folder)
    tf.io.gfile.remove(f"{base}/.{version}.partial")


@contextlib.contextmanager
def _locked(base: Path) -> Iterator[None]:
    """Holds a local folder's lock, which the system releases if the process dies."""
    with (base / _LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _next_version(names: Iterable[str]) -> int:
    taken = (int(name) for name in names if name.isascii() and name.isdigit())
    return max(int(time.time()), max(taken, default=0) + 1)


def _files(folder: str) -> dict[str, int]:
    """The files below a folder: relative path to size in bytes."""
    found = {}
    for place, _, names in tf.io.gfile.walk(folder):
        for name in names:
            path = f"{place.rstrip('/')}/{name}"
            found[path[len(folder.rstrip("/")) + 1 :]] = tf.io.gfile.stat(path).length
    return found


def copy_model(source: str, target: str) -> None:
    """Copies the files below a folder, as hard links if both are on one local file system."""
    _copy(source, target, _files(source))


def _copy(source: str, target: str, files: Iterable[str]) -> None:
    for file in files:
        path = f"{target}/{file}"
        tf.io.gfile.makedirs(path.rpartition("/")[0])
        if not _linked(f"{source}/{file}", path):
            tf.io.gfile.copy(f"{source}/{file}", path)


def _linked(source: str, target: str) -> bool:
    """Whether a hard link could be made; exported and pushed files never change."""
    try:
        os.link(source, target)
    except OSError:  # an object store, another file system, or one without links
        return False
    return True


def _check_files(source: str, copy: str, expected: dict[str, int]) -> None:
    found = _files(copy)
    if found == expected:
        return
    wrong = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    raise DataError(
        f"{copy}: differs from its source {source}: {', '.join(wrong)}. Nothing was "
        "pushed. Check that nobody else writes there, then run again"
    )


def _check_model(folder: str) -> None:
    """Raises DataError unless the folder holds a model exported by the Trainer."""
    try:
        with tf.io.gfile.GFile(f"{folder}/{SAVED_MODEL_FILE}", "rb") as file:
            sound = bool(saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs)
    except (DecodeError, tf.errors.NotFoundError):
        sound = False
    if not sound:
        raise DataError(
            f"{folder}: {SAVED_MODEL_FILE} is missing or broken. Train and export again"
        )
    if not tf.io.gfile.exists(f"{folder}/{IDENTITY}"):
        raise DataError(
            f"{folder}: no {IDENTITY}, which says what the model is. Push a model exported by "
            "this project's Trainer"
        )


def _write_through(folder: Path) -> None:
    """Returns once a folder is on disk, so that a later rename cannot get there first."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(place, name))
        _sync(Path(place))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
